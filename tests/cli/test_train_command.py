"""`streamfer train` hands over to recipes, and says what is missing."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import entry_points
from types import SimpleNamespace

import pytest
from command_line import streamfer

from streamfer.cli import terminal

RECIPES = sorted(one.name for one in entry_points(group="streamfer.recipes"))


def test_the_recipes_are_those_of_the_three_systems() -> None:
    assert RECIPES == ["dfer-clip", "exp-blip", "exp-vqa"]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("as_module", [True, False])
def test_only_a_module_sets_up_the_log_for_itself(
    recipe: str, as_module: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setups = []
    monkeypatch.setattr(terminal, "configure_logging", lambda *, verbose: setups.append(verbose))
    main = import_module(f"streamfer_train.{recipe.replace('-', '_')}.__main__").main
    monkeypatch.setattr(sys, "argv", ["module", "train", "--settings"])
    assert main(None if as_module else sys.argv[1:]) == 0
    assert "run:" in capsys.readouterr().out
    assert setups == [False] * as_module


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_explains_itself(recipe: str) -> None:
    done = streamfer("train", recipe, "--help")
    assert (done.code, done.err) == (0, "")
    assert "usage:" in done.out


def test_a_recipe_nobody_knows_is_named_with_those_that_exist() -> None:
    done = streamfer("train", "dfer")
    assert done.code == 2
    [complaint] = done.complaints
    assert "'dfer'" in complaint
    assert all(recipe in complaint for recipe in RECIPES)


def test_a_missing_package_of_training_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def main(words: list[str]) -> int:
        raise ModuleNotFoundError("No module named 'peft'", name="peft")

    monkeypatch.setitem(sys.modules, "streamfer_train.dfer_clip.__main__", SimpleNamespace(main=main))
    done = streamfer("train", "dfer-clip", "--check")
    assert done.code == 2
    [complaint] = done.complaints
    assert "peft" in complaint
    assert "streamfer[train]" in complaint
