"""What the wheel imports is declared, what is declared is imported, and what is missing is told in one line."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest

import streamfer
from streamfer.errors import MissingExtraError, UserError
from streamfer.extras import needs

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WHEEL = ("streamfer", "kernels/streamfer_kernels", "train/streamfer_train")
OURS = {"streamfer", "streamfer_kernels", "streamfer_train", "streamfer_builtin"}
#: Declared and used without an import statement.
USED_OTHERWISE = {"tensorboard": "torch.utils.tensorboard writes through it"}


@dataclass(frozen=True)
class Use:
    """A package of others that a module of the wheel imports, or looks up with ``find_spec``."""

    package: str
    module: str
    lazy: bool
    asked_for: str | None
    """The extra of the ``with needs(...)`` around it."""
    typed: bool
    """Looked up or imported for its types alone."""


def distribution_name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return found[0].lower().replace("_", "-")


def uses() -> Iterator[Use]:
    for root in WHEEL:
        for path in sorted((REPOSITORY / root).rglob("*.py")):
            yield from uses_in(path)


def uses_in(path: Path) -> Iterator[Use]:
    name = str(path.relative_to(REPOSITORY))

    def walk(node: ast.AST, lazy: bool, asked_for: str | None, typed: bool) -> Iterator[Use]:
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found = [node.module]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("find_spec"):
            found = [str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)]
        for module in found:
            package = module.split(".")[0]
            if package not in OURS and package not in sys.stdlib_module_names:
                yield Use(package, name, lazy, asked_for, typed or isinstance(node, ast.Call))
        if isinstance(node, ast.With) and ast.unparse(call := node.items[0].context_expr).startswith("needs("):
            assert isinstance(call, ast.Call)
            asked_for = str(ast.literal_eval(call.args[0]))
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        deferred = typing or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, lazy or deferred, asked_for, typed or typing)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False, None, False)


USES = list(uses())
DISTRIBUTIONS = {
    package: {distribution_name(name) for name in names} for package, names in packages_distributions().items()
}
REQUIRED = {distribution_name(requirement) for requirement in PROJECT["dependencies"]}
EXTRAS = {
    extra: {distribution_name(requirement) for requirement in requirements}
    for extra, requirements in PROJECT["optional-dependencies"].items()
    if extra != "all"
}


def providers(package: str) -> set[str]:
    assert package in DISTRIBUTIONS, f"{package} is imported and not installed: scripts/bootstrap installs all extras"
    return DISTRIBUTIONS[package]


def test_what_the_wheel_imports_is_declared() -> None:
    declared = REQUIRED.union(*EXTRAS.values())
    assert sorted({f"{use.module}: {use.package}" for use in USES if not providers(use.package) & declared}) == []


def test_what_is_declared_is_imported() -> None:
    imported = set().union(*(providers(use.package) for use in USES))
    declared = REQUIRED.union(*EXTRAS.values())
    assert declared - imported - USED_OTHERWISE.keys() == set()


def test_the_product_imports_extras_lazily_and_says_which_is_missing() -> None:
    # What serves, and bridges, are rooms behind doors of their own: whoever opens one says what is missing.
    behind = ("streamfer/serve/", "streamfer/bridges/")
    product = [use for use in USES if use.module.startswith("streamfer/") and not use.module.startswith(behind)]
    optional = [use for use in product if not providers(use.package) & REQUIRED]
    assert [f"{use.module}: {use.package}" for use in optional if not use.lazy] == []
    wrong = [
        f"{use.module}: {use.package}"
        for use in optional
        if use.asked_for and not providers(use.package) & EXTRAS[use.asked_for]
    ]
    assert wrong == []
    # Behind the doors of captions (below) everything knows transformers.
    unsaid = [use for use in optional if not use.asked_for and not use.typed and "/captions/" not in use.module]
    assert [f"{use.module}: {use.package}" for use in unsaid] == []


@pytest.mark.parametrize("door", ["folder", "model.gguf", "org/name", "checkpoint"])
def test_captioners_say_that_they_need_transformers(door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamfer.captions.loading import load_any, read_tokenizer

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "transformers", None)
    opened: dict[str, Callable[[], object]] = {
        "checkpoint": lambda: read_tokenizer(tmp_path, "language model"),
        "folder": lambda: load_any(str(tmp_path)),
        "model.gguf": lambda: load_any(str(tmp_path / "model.gguf")),
        "org/name": lambda: load_any("org/name"),
    }
    words = r"needs the package transformers, which is not installed: pip install 'streamfer\[captions\]'"
    with pytest.raises(MissingExtraError, match=words):
        opened[door]()


def test_all_is_every_extra() -> None:
    [requirement] = PROJECT["optional-dependencies"]["all"]
    assert set(requirement.removeprefix("streamfer[").removesuffix("]").split(",")) == EXTRAS.keys()


def test_the_version_is_the_installed_one() -> None:
    assert streamfer.__version__ == version("streamfer")


def test_a_missing_package_of_an_extra_is_one_line_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(MissingExtraError) as caught, needs("decord", "reader 'decord'"):
        import decord  # noqa: F401
    assert str(caught.value) == (
        "reader 'decord' needs the package decord, which is not installed: pip install 'streamfer[decord]'"
    )
    assert isinstance(caught.value, UserError)
    assert isinstance(caught.value, ImportError)


def test_a_missing_module_of_ours_is_a_defect_and_said_as_one() -> None:
    with pytest.raises(ModuleNotFoundError) as caught, needs("train", "a recipe"):
        import streamfer.no_such_module  # type: ignore[import-not-found]  # noqa: F401
    assert not isinstance(caught.value, UserError)
