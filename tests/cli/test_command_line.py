"""What every command has in common: help, usage errors, configuration errors, exit codes, streams."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import streamfer

from streamfer import __version__
from streamfer.api import running
from streamfer.cli import app
from streamfer.errors import InternalError

COMMANDS = [
    *((command.name,) for command in app.registered_commands),
    *(
        (group.name, command.name or getattr(command.callback, "__name__", ""))
        for group in app.registered_groups
        for command in (group.typer_instance.registered_commands if group.typer_instance else ())
    ),
]
#: Lines and columns of a terminal on a laptop's whole screen.
SCREEN = (48, 80)
#: Those that hand everything after their first word on to a recipe.
PASSING_ON = {("train",), ("evaluate",)}


def test_every_command_of_the_plan_is_there() -> None:
    wanted = {("demo",), ("annotate",), ("run",), ("tail",), ("doctor",), ("models", "list"), ("models", "import")}
    assert wanted <= set(COMMANDS)


@pytest.mark.parametrize("command", [(), ("models",), *COMMANDS], ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    done = streamfer(*command, "--help")
    assert (done.code, done.err) == (0, "")
    assert "Usage: streamfer" in done.out
    # One sentence on what it does follows the usage.
    assert done.out.split("\n\n")[1].strip()
    lines = done.out.splitlines()
    assert len(lines) <= SCREEN[0], "help fits a screen"
    assert max(map(len, lines)) <= SCREEN[1]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in PASSING_ON], ids=" ".join)
def test_every_option_is_explained(command: tuple[str, ...]) -> None:
    lines = streamfer(*command, "--help").out.splitlines()
    options = [number for number, line in enumerate(lines) if line.strip().startswith("-")]
    assert options
    for number in options:
        explained = len(lines[number].split("  ")) > 2 or lines[number + 1].startswith("      ")
        assert explained, lines[number]


def test_the_version() -> None:
    assert streamfer("--version").out == f"streamfer {__version__}\n"


def test_no_command_is_help_and_exit_2() -> None:
    done = streamfer()
    assert done.code == 2
    assert "Commands:" in done.out + done.err


@pytest.mark.parametrize(
    "words",
    [
        ("annotat",),
        ("annotate",),
        ("annotate", "--nonsense", "a.mp4"),
        ("annotate", "a.mp4", "--raw-fps", "0"),
        ("annotate", "a.mp4", "--raw-fps", "-5"),
        ("annotate", "a.mp4", "--fps", "many"),
        ("tail", "--count", "0"),
        ("tail", "--idle", "0"),
        ("tail", "--partitions", "0"),
        ("models", "show"),
        ("models", "import", "a.pth"),
        ("annotate", "a.mp4", "-c", ""),
        ("models", "import", "", "--name", "mine"),
        ("models", "import", "a.pth", "--name", "mine", "--language-model", ""),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2_on_standard_error(words: tuple[str, ...]) -> None:
    done = streamfer(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("streamfer: ")
    assert re.search(r"; see: streamfer[a-z ]* --help\n$", done.err)
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "clip.stride"), "--set clip.stride: has no '='; write clip.stride=VALUE"),
        (("--set", "=5"), "--set =5: has no name before '='; write SECTION.NAME=VALUE"),
        (("--set", "clip.stride=[1"), "--set clip.stride=[1: the value is not valid YAML; quote it"),
        (("--set", "clip.stide=1"), "clip.stide: unknown setting; did you mean 'stride'?"),
        (("--fps", "0"), "sampling.fps: Input should be greater than 0 (got 0.0)"),
        (("--fps", "nan"), "sampling.fps: Input should be a finite number (got nan)"),
        (("--threads", "0"), "threads: Input should be greater than or equal to 1 (got 0)"),
        (("--precision", "int3"), "model.precision: Input should be 'auto', 'fp32', 'bf16' or 'fp16' (got 'int3')"),
        (("-c", "absent.yaml"), "absent.yaml: no such configuration file; configs/run.yaml is an example"),
    ],
)
@pytest.mark.parametrize("command", ["annotate", "run"])
def test_configuration_errors_are_one_line(command: str, words: tuple[str, ...], message: str) -> None:
    done = streamfer(command, "film.mp4", *words)
    assert (done.code, done.out, done.err) == (2, "", f"streamfer: {message}\n")


def test_flags_beat_set_and_set_beats_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("clip: {stride: 9}\n")
    # Each is refused with its own number: the one that counts is named.
    assert "clip.stride (9.0 s)" in streamfer("run", "a.mp4", "-c", file).err
    assert "clip.stride (8.0 s)" in streamfer("run", "a.mp4", "-c", file, "--set", "clip.stride=8").err
    assert "clip.stride (7.0 s)" in streamfer("run", "a.mp4", "-c", file, "--set", "clip.stride=8", "--stride", "7").err


def test_the_way_out_of_denied_access_survives_redaction(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamfer.errors import PublishError
    from streamfer.publish import following

    def refuse(url: str, **_: object) -> None:
        raise PublishError(f"Redis at {url} denies access; put it into the URL (redis://USER:PASSWORD@HOST)")

    monkeypatch.setattr(following, "make_client", refuse)
    done = streamfer("tail", "redis://me:hunter2@h:1/0")
    assert done.err == (
        "streamfer: Redis at redis://***@h:1/0 denies access; put it into the URL (redis://USER:PASSWORD@HOST)\n"
    )


def test_a_defect_of_ours_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_arguments: object) -> None:
        raise InternalError("two and two\nare five")

    monkeypatch.setattr(running, "find_sources", broken)
    done = streamfer("run", "a.mp4")
    assert (done.code, done.complaints) == (1, ["two and two are five"])


def test_a_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamfer.errors import ConfigError

    monkeypatch.setenv("STREAMFER_TRACEBACK", "1")
    with pytest.raises(ConfigError, match="unknown setting"):
        streamfer("run", "a.mp4", "--set", "clips=1")


def test_help_and_errors_come_before_torch_is_loaded() -> None:
    script = (
        "import sys; sys.argv = ['streamfer', 'run', 'a.mp4', '--set', 'clip.stride=99']\n"
        "from streamfer.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, [m for m in ('torch', 'av', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n"
