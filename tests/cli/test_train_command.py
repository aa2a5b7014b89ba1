"""`streamfer train` hands over to recipes, and says what is missing."""

from __future__ import annotations

import sys

import pytest
from command_line import streamfer

from streamfer.cli.train import RECIPES


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
    class Recipe:
        @staticmethod
        def main(words: list[str]) -> int:
            raise ModuleNotFoundError("No module named 'peft'", name="peft")

    monkeypatch.setitem(sys.modules, RECIPES["dfer-clip"], Recipe)
    done = streamfer("train", "dfer-clip", "--check")
    assert done.code == 2
    [complaint] = done.complaints
    assert "peft" in complaint
    assert "streamfer[train]" in complaint
