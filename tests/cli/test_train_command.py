"""`streamfer train` hands over to recipes, and says what is missing."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from types import SimpleNamespace

import pytest
from command_line import streamfer

RECIPES = sorted(one.name for one in entry_points(group="streamfer.recipes"))


def test_the_recipes_are_those_of_the_three_systems() -> None:
    assert RECIPES == ["dfer-clip", "exp-blip", "exp-vqa"]


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
