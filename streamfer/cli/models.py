"""``streamfer models``: what is there, under which licence, and how to add one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.padding import Padding
from rich.text import Text

from streamfer.cli.terminal import note, out
from streamfer.errors import ConfigError, UnknownModelError

app = typer.Typer(help="List, show and import models and their licences.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_models() -> None:
    """List expression models and face detectors, with licence and size."""
    from skimage.data import lbp_frontal_face_cascade_filename

    from streamfer.faces import load_detector, registry
    from streamfer.faces.fetch import cached
    from streamfer.faces.packs import pack_file, pack_folder
    from streamfer.models import list_models as expression_models

    out.print(Text("expression models", style="bold cyan"))
    for entry in expression_models():
        _say(entry.name, entry.path, entry.origin, entry.licence)
    out.print(Text("face detectors", style="bold cyan"))
    for detector in registry.entries():
        path, licence = cached(detector), detector.licence
        if detector.name == "builtin" and registry.builtin_weights().is_file():
            path, licence = registry.builtin_weights(), load_detector("builtin").licence
        elif detector.kind == "cascade":
            path = Path(lbp_frontal_face_cascade_filename())
        elif detector.pack and pack_folder(detector.name).is_dir():
            path = pack_file(pack_folder(detector.name), "detection")
        _say(detector.name, path, detector.about, licence)


def _say(name: str, path: Path | None, about: str, licence: str) -> None:
    """Print one model: a line of facts, and its licence below, wrapped to the terminal."""
    from streamfer.faces.fetch import sha256_of

    facts = "not on this machine"
    if path is not None and path.is_file():
        facts = f"{path.stat().st_size / 1e6:.1f} MB, sha256 {sha256_of(path)[:12]}"
    out.print(Text.assemble("  ", (f"{name:<12}", "bold"), f"{about}; {facts}"), soft_wrap=True)
    out.print(Padding(Text(f"licence: {licence}", style="dim"), (0, 0, 0, 14)))


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="Name of an expression model, or a weights file.")]) -> None:
    """Show everything a weights file says of itself."""
    from streamfer.models.registry import find_model
    from streamfer.models.weights import digest_of, read_card

    path = find_model(name)
    card = read_card(path)
    out.print_json(data={**json.loads(card.to_json()), "file": str(path), "sha256": digest_of(path)})
    beside = path.with_suffix(".md")
    if beside.is_file():
        note(f"model card: {beside}")


@app.command("import")
def import_model(
    checkpoint: Annotated[Path, typer.Argument(help="The authors' DFER-CLIP checkpoint, or a bare state dict.")],
    name: Annotated[str, typer.Option("--name", help="Name to load it by.")],
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="Class names in order, with commas; recovered from the prompts if not given."),
    ] = None,
    position: Annotated[
        str, typer.Option("--position", help="Where the description stands in the prompt: end, middle or front.")
    ] = "end",
    licence: Annotated[str | None, typer.Option("--licence", help="Licence of the weights, in plain words.")] = None,
) -> None:
    """Convert a published checkpoint to a weights file that streamfer loads by name.

    Every size is read from the tensors. The file is read without running any code in it.
    """
    from streamfer.models.import_official import LICENCE, import_checkpoint
    from streamfer.models.prompts import Position

    names = tuple(word.strip() for word in classes.split(",")) if classes else None
    if position not in get_args(Position):
        raise ConfigError(f"--position {position}: choose from {', '.join(get_args(Position))}")
    entry = import_checkpoint(
        checkpoint, name=name, classes=names, position=cast("Position", position), licence=licence or LICENCE
    )
    out.print(f"imported {entry.name}: {', '.join(entry.classes)}")
    note(f"{entry.path}; use it with: streamfer annotate --model {entry.name} PATH")


@app.command("pull")
def pull(
    name: Annotated[str, typer.Argument(help="Name of a face detector from 'streamfer models list'.")],
) -> None:
    """Download a detector's weights, checked by their digest, and show their licence."""
    from streamfer.faces import load_detector, registry

    if registry.find(name) is None:
        known = ", ".join(entry.name for entry in registry.entries())
        raise UnknownModelError(f"detector {name!r}: not in the registry; known are {known}")
    detector = load_detector(name)
    out.print(f"{detector.name} is here; licence: {detector.licence}")
