"""The recipe of the mini model: the shipped file, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamfer.errors import ConfigError
from streamfer_builtin.mini.__main__ import main
from streamfer_builtin.mini.recipe import Sizes, load_recipe

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def test_the_shipped_recipe() -> None:
    mini = load_recipe(CONFIGS / "mini.yaml")
    assert (mini.name, mini.joint.batch, mini.joint.bf16) == ("mini", 128, True)
    # What a machine without an own idea of the recipe would train is what the file says.
    assert mini.sizes == Sizes()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("joint.epochs=0", r"joint\.epochs: Input should be .* equal to 1 .*; see train/builtin/configs/mini\.yaml"),
        ("joint.speed=3", r"joint\.speed: unknown setting; .*see train/builtin/configs/mini\.yaml"),
        ("joint.mix_reach=0.7", r"joint\.mix_reach: .*0\.5"),
        ("sizes.width=33", r"sizes\.width: .*multiple of 2"),
        ("name=../evil", r"name: may not hold '/'"),
    ],
)
def test_a_senseless_setting_is_named(setting: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_recipe(CONFIGS / "mini.yaml", [setting])


def test_a_missing_or_broken_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such configuration file"):
        load_recipe(tmp_path / "nowhere.yaml")
    (tmp_path / "broken.yaml").write_text("joint: [")
    with pytest.raises(ConfigError, match=r"broken\.yaml: not valid YAML at line 1"):
        load_recipe(tmp_path / "broken.yaml")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["joint", "--set", "data=nowhere"], "no such file; give the folder"),
        (["all", "--set", "data=nowhere", "--set", "renders=nowhere"], "ict_face.npz"),
        (["joint", "--set", "nonsense"], "--set nonsense: has no '='; write nonsense=VALUE"),
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
        main(["joint", "--threads", wrong])
    assert stopped.value.code == 2
    assert "--threads" in capsys.readouterr().err
