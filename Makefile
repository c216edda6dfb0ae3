# Everything needs Python 3.11 or newer, make and pip; nothing needs a compiler.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test test-tensorflow check clean

demo: $(INSTALLED)  ## Trains, evaluates and asks a small model.
	$(BIN)/python examples/iris_custom_model.py

test: $(INSTALLED)  ## Runs tests and doctests; ARGS="-k feature" chooses among them.
	$(BIN)/python -m pytest $(ARGS)

test-tensorflow: .venv-tensorflow/.installed  ## Runs the tests that need TensorFlow, 2 GB in a .venv of its own.
	.venv-tensorflow/bin/python -m pytest tests/test_tensorflow.py $(ARGS)

check: $(INSTALLED)  ## Looks for mistakes, format and types, and changes nothing.
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

clean:  ## Removes what the other rules made.
	rm -rf .venv .venv-tensorflow .pytest_cache .ruff_cache .mypy_cache build dist runs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

.venv-tensorflow/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-tensorflow
	.venv-tensorflow/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,tensorflow]'
	touch $@
