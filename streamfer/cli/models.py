"""``streamfer models``: what is there, under which licence, and how to add one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from streamfer.cli.options import option, path, takes
from streamfer.cli.terminal import console, note

app = typer.Typer(help="List, show and import models and their licences.", no_args_is_help=True, rich_markup_mode=None)

_OTHERS = "others: openai:MODEL (an endpoint), a folder of transformers, or streamfer models import"


@app.command("list")
def list_models() -> None:
    """List expression models, captioners and face detectors."""
    from rich.padding import Padding
    from rich.text import Text

    from streamfer.api.catalogue import KINDS, catalogue

    listed = catalogue()
    for kind in KINDS:
        console().print(Text(kind, style="bold cyan"))
        for one in listed:
            if one.kind != kind:
                continue
            weighed = f"; {one.size / 1e6:.1f} MB, sha256 {str(one.digest)[:12]}" if one.size else ""
            line = Text.assemble("  ", (f"{one.name:<14}  ", "bold"), f"{one.about}{weighed}")
            console().print(line, soft_wrap=True)
            console().print(Padding(Text(f"licence: {one.licence}", style="dim"), (0, 0, 0, 18)))
        if kind == "captioners":
            console().print(f"  {_OTHERS}", soft_wrap=True)


@app.command("show")
def show(name: Annotated[str, typer.Argument(metavar="NAME", hidden=True)]) -> None:
    """Show what a model says of itself: by its name, file or folder."""
    from streamfer.api.catalogue import captioner_folder, facts

    found = facts(name)
    console().print_json(data=found)
    if "file" in found:
        if (folder := captioner_folder(name)) is not None:
            note(f"a captioner has this name, too: streamfer models show {folder}")
        if (card := Path(found["file"]).with_suffix(".md")).is_file():
            note(f"model card: {card}")


def _listed(words: str | None) -> list[str] | None:
    return [word.strip() for word in words.split(",")] if words else None


_KINDS, _POSITIONS = Literal["auto", "dfer-clip", "exp-blip", "exp-vqa"], Literal["end", "middle", "front"]
#: Arguments of :func:`streamfer.api.catalogue.import_model`.
_PASSED = {
    "kind": option(_KINDS, "--kind", None, "As the tensors' names say (auto)."),
    "classes": option(str, "--classes", "LIST", "Names in order, with commas (from the prompts).", callback=_listed),
    "position": option(_POSITIONS, "--position", None, "Of the description in a prompt (end)."),
    "language_model": option(Path, "--language-model", "FOLDER", "Captioners: their OPT or Vicuna."),
    "question_tokenizer": option(Path, "--question-tokenizer", "FOLDER", "Exp-VQA: that of bert-base-uncased."),
    "licence": option(str, "--licence", "WORDS", "Of the weights, in plain words."),
}


@app.command("import")
@takes(passed=_PASSED)
def import_model(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", parser=path, hidden=True)],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name to load it by.")],
    **passed: Any,
) -> None:
    """Convert a checkpoint of the authors to what is loaded by name.

    CHECKPOINT is one of DFER-CLIP, Exp-BLIP or Exp-VQA. Every size is read from its tensors; no code in it is run.
    """
    from streamfer.api.catalogue import import_model as convert
    from streamfer.models.registry import ModelEntry, user_folder

    entry = convert(checkpoint, name, **passed)
    if isinstance(entry, ModelEntry):
        place, does, option = entry.path, ", ".join(entry.classes), "--model"
    else:
        place, option = user_folder() / name, "--captioner"
        does = "answers questions" if entry.answers else "describes faces"
    console().print(f"imported {entry.name}: {does}")
    note(f"{place}; licence: {entry.licence}; use it with: streamfer annotate {option} {entry.name} PATH")


@app.command("pull")
def pull(name: Annotated[str, typer.Argument(metavar="NAME", hidden=True)]) -> None:
    """Download the weights of a face detector, checked by their digest."""
    from streamfer.api.catalogue import pull as fetch

    detector = fetch(name)
    console().print(f"{detector.name} is here; licence: {detector.licence}")
