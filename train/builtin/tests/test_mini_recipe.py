"""The recipe of the mini model: the shipped files, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamfer.errors import ConfigError
from streamfer_builtin.mini.__main__ import main
from streamfer_builtin.mini.recipe import load_recipe

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def test_the_shipped_recipes() -> None:
    mini = load_recipe(CONFIGS / "mini.yaml")
    assert (mini.name, mini.photographs, mini.images.epochs, mini.images.batch) == ("mini", True, 44, 128)
    rendered = load_recipe(CONFIGS / "mini_rendered.yaml")
    assert (rendered.name, rendered.photographs, rendered.joint.render_share) == ("mini-rendered", False, 1.0)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (
            "images.epochs=0",
            r"images\.epochs: Input should be .* equal to 1 .got 0.; see train/builtin/configs/mini\.yaml",
        ),
        (
            "images.speed=3",
            r"images\.speed: unknown setting; did you mean 'seed'.; see train/builtin/configs/mini\.yaml",
        ),
        ("photographs=false", r"set joint\.render_share to 1"),
        ("sizes.width=33", r"sizes\.width: .*multiple of 2"),
        ("name=../evil", r"name: .*pattern"),
    ],
)
def test_a_senseless_setting_is_named(setting: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_recipe(CONFIGS / "mini.yaml", [setting])


def test_a_missing_or_broken_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such configuration file"):
        load_recipe(tmp_path / "nowhere.yaml")
    (tmp_path / "broken.yaml").write_text("images: [")
    with pytest.raises(ConfigError, match=r"broken\.yaml: not valid YAML at line 1"):
        load_recipe(tmp_path / "broken.yaml")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["images", "--set", "data=nowhere"], "training data not found"),
        (["joint", "--set", "nonsense"], "--set nonsense: has no '='; write nonsense=VALUE"),
        (["images", "--config", str(CONFIGS / "mini_rendered.yaml")], "no stage images; begin with joint"),
    ],
)
def test_the_command_says_what_is_wrong(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(CONFIGS / "mini.yaml"), *words]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("wrong", ["0", "-3", "many"])
def test_the_command_refuses_senseless_threads(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["images", "--threads", wrong])
    assert stopped.value.code == 2
    assert "--threads" in capsys.readouterr().err
