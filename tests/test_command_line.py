"""python -m estimator: what a directory holds, and what an export answers."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from exporting import build_custom, build_linear, custom_features

import estimator as est
from estimator.command_line import main


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A model directory with an export in it."""
    root = tmp_path_factory.mktemp("model")
    estimator, _ = build_custom(str(root))
    estimator.export_saved_model(root / "export")
    return root


def test_show_lists_what_an_export_holds(built, capsys):
    assert main(["show", str(built / "export")]) == 0
    shown = capsys.readouterr().out
    for line in (
        "global_step 1",
        "  x (features): float32 (any, 2)",
        "  count (features): int32 (any)",
        "  ignored (features): not used",
        "  classify (classify): scores",
        "  serving_default (predict): name, net, sum",
        "example row",
        "variables (12 numbers, 48 bytes)",
        "  dense/kernel: float32 [3, 3]",
    ):
        assert line in shown.splitlines()


def test_the_example_row_can_be_asked(built, tmp_path, capsys):
    assert main(["show", str(built / "export")]) == 0
    lines = capsys.readouterr().out.splitlines()
    (tmp_path / "row.json").write_text(f"[{lines[lines.index('example row') + 1]}]")
    assert main(["predict", str(built / "export"), "--input", str(tmp_path / "row.json")]) == 0
    assert [*json.loads(capsys.readouterr().out)] == ["name", "net", "sum"]


def test_show_lists_what_a_model_directory_holds(built, capsys):
    assert main(["show", str(built)]) == 0
    first, *shown = capsys.readouterr().out.splitlines()
    assert first == f"checkpoint {built}/checkpoints/1"
    assert "  dense/bias: float32 [3]" in shown
    assert shown[-2:] == ["exports", f"  {est.export.load(built / 'export').path}"]


def test_predict_answers_rows_and_columns(tmp_path, capsys, monkeypatch):
    estimator, _ = build_linear(str(tmp_path / "model"))
    path = estimator.export_saved_model(tmp_path / "export").decode()
    rows = [{"city": "Rome", "job": ["nurse"], "age": 30}, {"city": "Oslo", "job": [], "age": 41}]
    columns = {"city": ["Rome", "Oslo"], "job": [["nurse"], []], "age": [30, 41]}
    answers = []
    for given in (rows, columns):
        (tmp_path / "asked.json").write_text(json.dumps(given))
        assert main(["predict", path, "--input", str(tmp_path / "asked.json")]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]
    assert [row["classes"] for row in answers[0]] == [["0", "1"]] * 2
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(rows)))
    assert main(["predict", path, "--signature", "regression"]) == 0
    assert [[*row] for row in json.loads(capsys.readouterr().out)] == [["outputs"]] * 2


def test_answers_that_are_no_rows_are_given_by_name(built, tmp_path, capsys):
    features = {"x": custom_features(2)["x"].tolist(), "count": [0, 1]}
    (tmp_path / "asked.json").write_text(json.dumps(features))
    path = str(built / "export")
    assert main(["predict", path, "--input", str(tmp_path / "asked.json")]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert [*answers] == ["name", "net", "sum"]
    assert isinstance(answers["sum"], float)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "/no/such/directory"], "holds no export and no checkpoint"),
        (["predict", "/no/such/directory"], "There is no export in"),
        (["predict", "{built}/export", "--input", "/no/such/file"], "No such file"),
        (["predict", "{built}/export", "--input", "{empty}"], "is no JSON"),
        (["predict", "{built}/export", "--input", "{none}"], "at least one row"),
        (["predict", "{built}/export", "--input", "{one}"], "goes into a list"),
        (["predict", "{built}/export", "--input", "{rows}"], "takes no feature 'y'"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(built, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").write_text("")
    (tmp_path / "rows").write_text('[{"y": 1}]')
    (tmp_path / "none").write_text("[]")
    (tmp_path / "one").write_text('{"x": 1.0, "count": 1}')
    names = {name: tmp_path / name for name in ("empty", "rows", "none", "one")}
    names["built"] = built
    assert main([word.format(**names) for word in arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_it_runs_as_a_module(built):
    done = subprocess.run(
        [sys.executable, "-m", "estimator", "show", str(built)],
        env={**os.environ, "PYTHONPATH": str(Path(est.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("checkpoint ")


@pytest.mark.parametrize(
    "option", [["--threads", "0"], ["--max-rows", "-1"], ["--batch-rows", "-3"], ["--port", "x"]]
)
def test_options_that_cannot_be_are_refused(built, option, capsys):
    with pytest.raises(SystemExit):
        main(["serve", str(built / "export"), *option])
    assert option[0] in capsys.readouterr().err


def test_a_saved_model_of_tensorflow_is_recognised(tmp_path, capsys):
    (tmp_path / "saved_model.pb").write_bytes(b"")
    assert main(["predict", str(tmp_path)]) == 1
    assert "tf.saved_model.load reads" in capsys.readouterr().err
