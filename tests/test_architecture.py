"""The house plan, held by machine: imports run one way, modules stay small and say what they are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = {
    "streamfer": REPOSITORY / "streamfer",
    "streamfer_kernels": REPOSITORY / "kernels" / "streamfer_kernels",
    "streamfer_train": REPOSITORY / "train" / "streamfer_train",
    "streamfer_builtin": REPOSITORY / "train" / "builtin" / "streamfer_builtin",
}
#: Rooms from the ground floor up: a room imports itself and the floors below, never its neighbours.
FLOORS = (
    {"errors", "redaction", "threads"},
    {"files"},
    {"extras", "records", "geometry", "schemas", "settings", "weights"},
    {"config"},
    {"video"},
    {"models", "faces", "publish"},
    {"pipeline"},
    {"captions", "export"},
    {"build"},
    {"api"},
    {"cli", "serve"},
    {"__main__"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
#: The same of training, by sub-room: a recipe may stand on another's.
TRAINING_FLOORS = ({"recipes"}, {"captions"}, {"metrics", "datasets"}, {"dfer_clip"}, {"exp_blip"}, {"exp_vqa"})
TRAINING_FLOOR_OF = {room: floor for floor, rooms in enumerate(TRAINING_FLOORS) for room in rooms}
LONGEST_MODULE = 400
SHAPELESS_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}


@dataclass(frozen=True)
class Import:
    """One imported module, where it stands, and whether only type checkers follow it."""

    source: str
    target: str
    line: int
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


def modules() -> dict[str, Path]:
    """Dotted names of all modules, packages under their own name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((package, *parts))] = path
    return found


MODULES = modules()


def typing_lines(tree: ast.Module) -> set[int]:
    """Lines inside ``if TYPE_CHECKING:`` blocks."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            lines |= {line for child in node.body for line in range(child.lineno, (child.end_lineno or 0) + 1)}
    return lines


def imports(name: str, path: Path) -> Iterator[Import]:
    """Every import of a module of ours, inside functions too; ``from package import module`` names the module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = typing_lines(tree)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            targets = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names]
        for target in dict.fromkeys(targets):
            if target.split(".")[0] in PACKAGES:
                yield Import(name, target, node.lineno, node.lineno in typing_only)


ALL_IMPORTS = [found for name, path in MODULES.items() for found in imports(name, path)]


def room(module: str) -> str:
    """First part below the package; empty for the package itself."""
    return [*module.split("."), ""][1]


def test_every_module_is_found() -> None:
    assert {"streamfer", "streamfer.cli", "streamfer.files", "streamfer_kernels"} <= MODULES.keys()
    assert any(found.target == "streamfer.build" and found.source == "streamfer.api.session" for found in ALL_IMPORTS)


def test_every_room_has_a_floor() -> None:
    rooms = {room(name) for name in MODULES if name.startswith("streamfer.")}
    assert rooms <= FLOOR_OF.keys()


def wrong_ways(package: str, floor_of: dict[str, int]) -> list[str]:
    """Return the imports of a package that go to a neighbouring room or up."""
    wrong = []
    for found in ALL_IMPORTS:
        here, there = room(found.source), room(found.target)
        within = found.source.startswith(f"{package}.") and found.target.startswith(f"{package}.")
        if within and here != there and floor_of[there] >= floor_of[here]:
            wrong.append(str(found))
    return wrong


def test_imports_of_the_product_run_downwards() -> None:
    assert wrong_ways("streamfer", FLOOR_OF) == []


def test_the_package_itself_imports_nothing_when_it_loads() -> None:
    assert [str(found) for found in ALL_IMPORTS if found.source == "streamfer" and not found.typing_only] == []


def test_the_product_never_imports_training() -> None:
    # The command line may load recipes, lazily; nothing of it does yet.
    assert [str(f) for f in ALL_IMPORTS if f.source.startswith("streamfer.") and "streamfer_train" in f.target] == []


def test_imports_of_training_run_downwards() -> None:
    assert {room(name) for name in MODULES if name.startswith("streamfer_train.")} <= TRAINING_FLOOR_OF.keys()
    assert wrong_ways("streamfer_train", TRAINING_FLOOR_OF) == []


def test_nothing_but_itself_imports_how_the_built_in_models_were_made() -> None:
    users = {found.source.split(".")[0] for found in ALL_IMPORTS if found.target.startswith("streamfer_builtin")}
    assert users <= {"streamfer_builtin"}


def test_recipes_name_no_module_by_a_string() -> None:
    # A string would hide from these tests who imports whom.
    hidden = [
        n for n, path in MODULES.items() if n.partition(".")[0] != "streamfer" and "import_module" in path.read_text()
    ]
    assert hidden == []


def circles(package: str) -> list[list[str]]:
    """Return groups of modules of a package that import each other round, lazily too; not those of typing alone."""
    graph: dict[str, set[str]] = {name: set() for name in MODULES if name.split(".")[0] == package}
    for found in ALL_IMPORTS:
        if found.source in graph and found.target in graph and not found.typing_only:
            graph[found.source].add(found.target)
    reached = {name: _reached(name, graph) for name in graph}
    rings = {tuple(sorted(b for b in reached[a] if a in reached[b])) for a in graph if a in reached[a]}
    return sorted([list(ring) for ring in rings])


def _reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += graph[name]
    return seen


@pytest.mark.parametrize("package", ["streamfer_train", "streamfer_builtin"])
def test_no_modules_of_training_import_each_other_round(package: str) -> None:
    assert circles(package) == []


def test_kernels_import_nothing_of_ours() -> None:
    wrong = [f for f in ALL_IMPORTS if f.source.startswith("streamfer_kernels") and f.target != "streamfer_kernels"]
    assert [str(f) for f in wrong if not f.target.startswith("streamfer_kernels.")] == []


def test_kernels_are_imported_by_models_alone() -> None:
    product = [f for f in ALL_IMPORTS if f.source.startswith("streamfer.")]
    assert {room(f.source) for f in product if f.target.startswith("streamfer_kernels")} <= {"models", "captions"}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_has_one_size_and_one_purpose(name: str) -> None:
    text = MODULES[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_MODULE
    assert not SHAPELESS_NAMES & set(name.split("."))
    assert ast.get_docstring(ast.parse(text)), "a module says in a docstring what it is"


@pytest.mark.parametrize("name", MODULES)
def test_nothing_unpickles_what_others_wrote(name: str) -> None:
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in ("pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "joblib.load")
        unsafe = [k for k in node.keywords if k.arg == "weights_only" and ast.unparse(k.value) != "True"]
        assert not unsafe, f"line {node.lineno}: weights_only must be True"
        if called == "torch.load":
            assert any(k.arg == "weights_only" for k in node.keywords), f"line {node.lineno}: say weights_only=True"
