"""Command lines of recipes: what they have in common, and errors that end in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamfer.captions.chat import KEY_VARIABLE
from streamfer.errors import ConfigError, InternalError
from streamfer_train.dfer_clip.protocols import SELECTIONS
from streamfer_train.exp_blip.stages import FOLDERS
from streamfer_train.recipes.command import COMMANDS, Parser, add_recipe_options, overrides_of, parser_of, reported


def test_an_error_is_one_line_and_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: Exception) -> int:
        raise error

    assert reported(lambda: None) == 0
    assert reported(lambda: 3) == 3
    assert reported(lambda: fail(ConfigError("x: is wrong; correct it"))) == 2
    assert reported(lambda: fail(InternalError("a defect"))) == 1
    assert capsys.readouterr().err == "streamfer: x: is wrong; correct it\nstreamfer: a defect\n"
    with pytest.raises(ZeroDivisionError):
        reported(lambda: 1 // 0)


def test_a_run_is_configured_and_placed_on_the_command_line() -> None:
    parser = parser_of("streamfer train exp-vqa")
    words = ["-c", "a.yaml", "--set", "x.y=1", "--out", "runs/my run: 1", "--set", "z=[1, 2]"]
    assert overrides_of(parser.parse_args(words), "b.yaml") == ["x.y=1", "z=[1, 2]", 'run.out="runs/my run: 1"']
    with pytest.raises(ConfigError, match=r"no configuration; give one with -c, for example b\.yaml"):
        overrides_of(parser.parse_args(["--set", "x.y=1"]), "b.yaml")


def test_choices_are_those_that_there_are() -> None:
    options = parser_of("streamfer evaluate dfer-clip").parse_args(["--protocol", "held_out"])
    assert options.protocol in SELECTIONS
    assert COMMANDS["what is measured"]["options"]["--protocol"]["choices"] == list(SELECTIONS)
    assert COMMANDS["streamfer train exp-blip"]["options"]["--variant"]["choices"] == list(FOLDERS)
    assert KEY_VARIABLE in COMMANDS["a language model"]["options"]["--url"]["help"]


@pytest.mark.parametrize("wrong", ["0", "-3", "many", "1.5", "", "1025"])
def test_threads_are_a_whole_number(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser()
    add_recipe_options(parser, Path("a.yaml"), "train.steps=3")
    assert parser.parse_args(["--threads", "2"]).threads == 2
    with pytest.raises(SystemExit):
        parser.parse_args([f"--threads={wrong}"])
    assert "is no whole number from 1 to 1024" in capsys.readouterr().err
