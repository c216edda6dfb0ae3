"""The house and its floors: what may import what, how long a file may be, what no file holds."""

import ast
import dataclasses
import graphlib
import importlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The packages, lowest first, and the modules of `estimator`, lowest first. An import looks down.
PACKAGES = ["estimator", "feature_columns", "canned"]
FLOORS = [
    "messages",
    "mode_keys",
    "recipes",
    "context",
    "lengths",
    "variable_recipes",
    "variables",
    "rowwise",
    "sparse_tensor",
    "host_features",
    "export_outputs",
    "low_part",
    "summary",
    "metric_base",
    "mean_metrics",
    "class_metrics",
    "threshold_metrics",
    "metrics",
    "layer_scope",
    "dense_layers",
    "convolution_layers",
    "normalization_layers",
    "layers",
    "session",
    "model_fn",
    "batches",
    "binding",
    "train_state",
    "placement",
    "steps",
    "preview",
    "model",
    "inputs",
    "sources",
    "prefetch",
    "feed",
    "scaffold",
    "manifest",
    "retention",
    "checkpoint",
    "summary_protos",
    "events",
    "timers",
    "stop_hooks",
    "report_hooks",
    "history",
    "profiler",
    "step_waiter",
    "saver",
    "progress",
    "signals",
    "allocator",
    "run_config",
    "warm_start",
    "live",
    "arguments",
    "evaluate_loop",
    "evaluate_call",
    "predict_loop",
    "predict_call",
    "train_loop",
    "train_call",
    "receivers",
    "tf_example",
    "export_files",
    "export_batch",
    "made_up",
    "export_call",
    "export_directories",
    "request_sizes",
    "loaded_mode",
    "loaded_model",
    "tensorflow_forms",
    "tensorflow_requests",
    "tensorflow_export",
    "export_methods",
    "merged_requests",
    "served_model",
    "rest_messages",
    "rest_application",
    "rest_server",
    "export",
    "command_line",
    "__main__",
    "estimator",
    "add_metrics",
    "in_memory_evaluator",
    "early_stopping",
    "exporter",
    "training",
    "history_plot",
]
LONGEST = 450
JIT_ROOMS = {"estimator/steps.py", "estimator/variables.py", "canned/clustering.py"}
ORBAX_ROOM = "estimator/checkpoint.py"
NOT_AT_IMPORT = ["orbax", "matplotlib", "tensorboardX", "pandas", "tqdm", "sklearn"]

FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# What is no part of the packages, but must be short too.
AROUND = sorted(
    path for folder in ("tests", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)


def each_of(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "path", paths, ids=lambda path: path.relative_to(ROOT).as_posix()
    )


each_file = each_of(FILES)


@dataclasses.dataclass(frozen=True)
class Import:
    """`import target`, or `from target import name, ...`; lazy when importing the file skips it."""

    target: str
    names: tuple[str, ...]
    line: int
    lazy: bool

    @property
    def package(self) -> str:
        return self.target.split(".")[0]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_in_house(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports_of(path: Path) -> list[Import]:
    """Returns all imports of a file, at module level and inside functions."""
    package = path.relative_to(ROOT).parts[0]
    return list(find_imports(parse(path), package, lazy=False))


def find_imports(node: ast.AST, package: str, lazy: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, (), node.lineno, lazy)
    elif isinstance(node, ast.ImportFrom):
        target = node.module or ""
        if node.level:
            target = f"{package}.{target}".rstrip(".")
        yield Import(target, tuple(alias.name for alias in node.names), node.lineno, lazy)
    lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        lazy = True
    for child in ast.iter_child_nodes(node):
        yield from find_imports(child, package, lazy)


def modules_of(package: str) -> list[str]:
    return [path.stem for path in FILES if path.parent.name == package and path.stem != "__init__"]


def siblings(path: Path) -> dict[str, int]:
    """Returns the modules of its own package that a file imports, with the line.

    A name that is no module comes from the package's own `__init__`.
    """
    package = path.parent.name
    modules = modules_of(package)
    found: dict[str, int] = {}
    for item in imports_of(path):
        if item.package != package:
            continue
        if item.target != package:
            found.setdefault(item.target.split(".")[1], item.line)
            continue
        for name in item.names or ("__init__",):
            found.setdefault(name if name in modules else "__init__", item.line)
    return found


def public_names(package: str) -> set[str]:
    return set(importlib.import_module(package).__all__)


# Who may import whom.


def test_floors_list_every_module_once():
    modules = set(modules_of("estimator"))
    assert len(FLOORS) == len(set(FLOORS)), "FLOORS lists a module twice"
    unplaced = sorted(modules - set(FLOORS))
    assert not unplaced, (
        f"estimator/ has modules without a floor: {unplaced}. Place them in FLOORS of "
        f"{name_in_house(Path(__file__))}: above all they import, below all that import them."
    )
    missing = [name for name in FLOORS if name not in modules]
    assert not missing, f"FLOORS lists modules that estimator/ does not have: {missing}"


def test_packages_are_flat():
    nested = [name_in_house(path) for path in FILES if path.parent.parent != ROOT]
    assert not nested, f"the laws below see files directly in a package only; move {nested}"


@pytest.mark.parametrize("module", [name for name in FLOORS if name in modules_of("estimator")])
def test_estimator_imports_look_down(module):
    below = FLOORS[: FLOORS.index(module)]
    imported = siblings(ROOT / "estimator" / f"{module}.py")
    upward = {name: line for name, line in imported.items() if name not in below}
    assert not upward, (
        f"estimator/{module}.py imports modules that are not on a floor below it "
        f"(name: line): {upward}. Move what both need to a lower floor."
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_cycles(package):
    graph = {
        path.stem: set(siblings(path))
        for path in FILES
        if path.parent.name == package and path.stem != "__init__"
    }
    through_init = sorted(module for module, targets in graph.items() if "__init__" in targets)
    assert not through_init, f"{through_init} import from their own {package}/__init__.py"
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"{package}/ has an import cycle: {' -> '.join(error.args[1])}")


@each_file
def test_packages_import_lower_packages_only(path):
    package = path.parent.name
    above = PACKAGES[PACKAGES.index(package) + 1 :]
    wrong = [(item.line, item.target) for item in imports_of(path) if item.package in above]
    assert not wrong, f"{package}/ must not know {above} (line, import): {wrong}"


@each_file
def test_packages_use_public_names_of_others_only(path):
    package = path.parent.name
    wrong = []
    for item in imports_of(path):
        if item.package not in PACKAGES or item.package == package:
            continue
        if item.target != item.package:
            wrong.append((item.line, item.target))
        else:
            unknown = set(item.names) - public_names(item.package)
            wrong += [(item.line, f"{item.package}.{name}") for name in sorted(unknown)]
    wrong += private_attributes(path)
    assert not wrong, (
        f"{name_in_house(path)} uses what the other package does not export in __all__ "
        f"(line, name): {wrong}. What it needs, a user needs too: make it public."
    )


def private_attributes(path: Path) -> list[tuple[int, str]]:
    """Returns the uses `package.name` and `module.name` that reach behind a package's exports."""
    others = set(PACKAGES) - {path.parent.name}
    packages: dict[str, str] = {}  # what a package is called in this file -> the package
    members: set[str] = set()  # what was imported from a package
    tree = parse(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            packages |= {a.asname or a.name: a.name for a in node.names if a.name in others}
        elif isinstance(node, ast.ImportFrom) and node.module in others and not node.level:
            members |= {a.asname or a.name for a in node.names}
    wrong = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
            continue
        owner = node.value.id
        if owner in packages:
            private = node.attr not in public_names(packages[owner])
        else:
            private = owner in members and node.attr.startswith("_")
        if private:
            wrong.append((node.lineno, f"{owner}.{node.attr}"))
    return wrong


def test_no_two_modules_share_a_name():
    counts = Counter(path.stem for path in FILES if path.stem != "__init__")
    twice = sorted(name for name, count in counts.items() if count > 1)
    assert not twice, f"several packages have a module of this name: {twice}. Rename one."


# What a file is and holds.


@each_of(FILES + AROUND)
def test_files_are_short(path):
    count = len(path.read_text(encoding="utf-8").splitlines())
    assert count <= LONGEST, (
        f"{name_in_house(path)} has {count} lines, and {LONGEST} are the most: split it by idea"
    )


@each_file
def test_docstring_says_what_the_file_is(path):
    docstring = ast.get_docstring(parse(path))
    assert docstring, f"{name_in_house(path)} has no docstring: say in one sentence what it is"
    first = docstring.splitlines()[0]
    assert first.endswith("."), f"{name_in_house(path)}: {first!r} does not end with a period"


@each_file
def test_jit_lives_in_its_rooms(path):
    lines = [
        node.lineno
        for node in ast.walk(parse(path))
        if (isinstance(node, ast.Attribute) and ast.unparse(node) == "jax.jit")
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "jax"
            and any(alias.name == "jit" for alias in node.names)
        )
    ]
    if name_in_house(path) not in JIT_ROOMS:
        assert not lines, f"jax.jit belongs into {sorted(JIT_ROOMS)}, not here: lines {lines}"


@each_file
def test_orbax_is_imported_lazily_in_one_room(path):
    found = [item for item in imports_of(path) if item.package == "orbax"]
    if name_in_house(path) == ORBAX_ROOM:
        eager = [item.line for item in found if not item.lazy]
        assert not eager, f"import orbax inside the functions that need it, not at lines {eager}"
    else:
        assert not found, f"only {ORBAX_ROOM} imports orbax: {found}"


@each_file
def test_no_file_holds_what_the_house_forbids(path):
    found = [(node.lineno, what) for node in ast.walk(parse(path)) if (what := forbidden(node))]
    assert not found, f"{name_in_house(path)} (line, what): {found}. See CONTRIBUTING.md."


def forbidden(node: ast.AST) -> str:
    """Returns what is wrong with a node, or nothing. Docstrings may show and say what they like."""
    match node:
        case ast.Call(func=ast.Name(id="hasattr" | "print" as name)):
            return f"{name}()"
        case ast.ExceptHandler(type=None):
            return "a bare except"
        case ast.Import(names=aliases) if any("pickle" in alias.name for alias in aliases):
            return "pickle"
        case ast.ImportFrom(module=str(module)) if "pickle" in module:
            return "pickle"
        case ast.Attribute(attr=name) if "pickle" in name:
            return "pickle"
        case ast.keyword(arg="allow_pickle", value=value) if ast.unparse(value) != "False":
            return "allow_pickle"
    return ""


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("hasattr(x, 'y')", "hasattr()"),
        ("print(1)", "print()"),
        ("try:\n    f()\nexcept:\n    pass", "a bare except"),
        ("import cloudpickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("frame.to_pickle(path)", "pickle"),
        ("np.load(path, allow_pickle=True)", "allow_pickle"),
        ("np.load(path, allow_pickle=False)", ""),
        ("'''>>> print(hasattr(1, 'real'))'''", ""),
    ],
)
def test_forbidden_finds(code, what):
    assert {forbidden(node) for node in ast.walk(ast.parse(code))} - {""} == ({what} - {""})


@pytest.mark.parametrize("package", PACKAGES)
def test_import_brings_no_heavy_guests(package):
    code = f"import sys, {package}; print([m for m in {NOT_AT_IMPORT} if m in sys.modules], end='')"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout == "[]", f"import {package} must not import {found.stdout}: do so when used"
