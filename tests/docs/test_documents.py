"""Every command and snippet of the documents: those that can run offline run, the others are parsed, none is forgotten.

A block that cannot run here says so and why in the line above it: ``<!-- not run: needs cameras -->``.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import record_examples
import typer
from command_line import streamfer

from streamfer.cli import app
from streamfer.config import load_config
from streamfer.publish import Publisher

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [
        REPOSITORY / "README.md",
        REPOSITORY / "CONTRIBUTING.md",
        *(REPOSITORY / "docs").glob("*.md"),
        *(REPOSITORY / "docs" / "how-to").glob("*.md"),
    ],
    key=lambda path: path.name,
)
LONGEST_README = 120
FENCE = re.compile(r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)")
#: Recipes parse their own words; their tests are in tests/train.
HANDED_OVER = ("train", "evaluate")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: str
    line: int
    language: str
    reason: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """Words of each command; comments go, and so does an explanation set off by three blanks."""
        lines = self.text.replace("\\\n", " ").splitlines()
        words = (shlex.split(re.split(r"\s{3,}", line.strip(), maxsplit=1)[0], comments=True) for line in lines)
        return [command for command in words if command]


def blocks() -> Iterator[Block]:
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for found in FENCE.finditer(text):
            line = text[: found.start()].count("\n") + 1
            name = path.relative_to(REPOSITORY).as_posix()
            yield Block(name, line, found["language"], found["reason"], found["text"])


BLOCKS = list(blocks())
RUN = [block for block in BLOCKS if block.reason is None]
COMMANDS = [
    (block, command)
    for block in BLOCKS
    if block.language in ("", "sh")
    for command in block.commands
    if command[0] in ("streamfer", ".venv/bin/streamfer") and not set(command) & {"|", "&&", "...", "…"}
]


@pytest.fixture
def desk(tmp_path: Path, face_film: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the documents name, and a Redis of its own."""
    for name in ("interview.mp4", "interviews/first.mp4", "clips/one.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(face_film, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMFER_REDIS_FOLDER", str(tmp_path / "redis"))
    return tmp_path


def test_programs_and_files_that_are_named_exist() -> None:
    pages = [*DOCUMENTS, *(REPOSITORY / "docs" / "results").glob("*.md")]
    named = re.compile(
        r"(?<![\w/])(?:train|benchmarks|scripts|examples|deploy|configs)/[\w./-]*\w\.(?:py|sh|yaml|ipynb|service|json)\b"
    )
    found = {name for page in pages for name in named.findall(page.read_text(encoding="utf-8"))}
    assert len(found) > 30
    assert sorted(name for name in found if not (REPOSITORY / name).is_file()) == []


def test_blocks_are_found() -> None:
    assert {"sh", "python"} <= {block.language for block in BLOCKS if block.document == "README.md"}
    assert any(block.reason for block in BLOCKS)


@pytest.mark.parametrize("block", [block for block in RUN if block.language == "sh"], ids=str)
def test_commands_run(block: Block, desk: Path) -> None:
    for command in block.commands:
        assert command[0] == "streamfer", f"{command}: mark the block with <!-- not run: why -->"
        done = streamfer(*command[1:])
        assert done.code == 0, (command, done.err)


@pytest.mark.parametrize("block", [block for block in RUN if block.language == "python"], ids=str)
def test_snippets_run(block: Block, desk: Path) -> None:
    exec(compile(block.text, str(block), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.reason and b.language == "python"], ids=str)
def test_snippets_that_cannot_run_here_are_python(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize(("block", "command"), COMMANDS, ids=str)
def test_commands_have_the_options_that_the_documents_show(block: Block, command: list[str]) -> None:
    # typer carries its own click, so groups are told by what they have.
    group: Any = typer.main.get_command(app)
    words = command[1:]
    while words and hasattr(found := group.commands.get(words[0]), "commands"):
        group, words = found, words[1:]
    assert words, command
    found = group.commands.get(words[0])
    assert found is not None, f"{block}: no command {words[0]}"
    if words[0] not in HANDED_OVER:
        found.make_context(words[0], [word.replace("[", "").replace("]", "") for word in words[1:]])


def examples() -> list[Path]:
    return sorted((REPOSITORY / "examples").glob("*.py"))


def arguments(example: Path, desk: Path, redis_url: str) -> list[str]:
    """What each example is called with."""
    return {
        "annotate_file": ["interview.mp4"],
        "annotate_folder": ["interviews", "out"],
        "analyse_frames": [],
        "follow_cameras": ["interview.mp4", "missing.mp4"],
        "subscribe": [redis_url],
    }[example.stem]


@pytest.mark.parametrize("example", examples(), ids=lambda path: path.stem)
def test_examples_run(
    example: Path, desk: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if example.stem == "subscribe":
        done = streamfer("annotate", "interview.mp4", "--redis", redis_url)
        assert done.code == 0, done.err
        with Publisher.open(load_config(None, {"publish.redis": redis_url}, {}).publish) as publisher:
            # Gaps lie among the clips: who reads must not stumble over them.
            publisher.publish_many(list(record_examples.examples().values()))
    monkeypatch.setattr(sys, "argv", [str(example), *arguments(example, desk, redis_url)])
    runpy.run_path(str(example), run_name="__main__")
    printed = capsys.readouterr().out
    assert {
        "annotate_file": "1 person",
        "annotate_folder": "1 done now, 0 before, 0 failed",
        "analyse_frames": "frames ",
        "follow_cameras": "missing.mp4 ended: ",
        "subscribe": "interview.mp4 ",
    }[example.stem] in printed


def test_examples_are_short_and_five() -> None:
    assert len(examples()) == 5
    for example in examples():
        assert len(example.read_text(encoding="utf-8").splitlines()) < 30


def test_pages_of_names_and_settings_are_what_the_code_says() -> None:
    render = runpy.run_path(str(REPOSITORY / "docs" / "render_api.py"))
    for name, text in render["PAGES"].items():
        page = (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
        assert page == text(), f"python docs/render_api.py writes {name} again"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert [target for target in LINK.findall(text) if not (document.parent / target).exists()] == []


def test_what_the_demo_installs_shows_the_page() -> None:
    """./scripts/demo --serve would make its film and end with a missing package."""
    (line,) = re.findall(r"^demo\) .*$", (REPOSITORY / "scripts" / "bootstrap").read_text(encoding="utf-8"), re.M)
    assert {"insightface", "centerface", "serve"} <= set(re.findall(r"--extra (\w+)", line))


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= LONGEST_README


@pytest.mark.parametrize("script", sorted((REPOSITORY / "scripts").iterdir()), ids=lambda path: path.name)
def test_scripts_parse(script: Path) -> None:
    if script.suffix == ".py":
        compile(script.read_text(encoding="utf-8"), str(script), "exec")
    else:
        assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0
        assert os.access(script, os.X_OK)
