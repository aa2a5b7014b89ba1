"""``streamfer models``: what is there, under which licence, and how to add one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from streamfer.cli.terminal import note, out
from streamfer.errors import UnknownModelError

app = typer.Typer(help="List, show and import models and their licences.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_models() -> None:
    """List expression models and face detectors, with licence and size."""
    from streamfer.faces import registry
    from streamfer.faces.fetch import cached, sha256_of
    from streamfer.models import list_models as expression_models

    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in ("name", "kind", "origin", "size", "sha256", "licence"):
        table.add_column(column, overflow="fold", no_wrap=column in ("name", "size", "sha256"))
    for entry in expression_models():
        size = f"{entry.size_bytes / 1e6:.1f} MB"
        table.add_row(entry.name, "expression", entry.origin, size, entry.digest[:12], entry.licence)
    for detector in registry.entries():
        path = registry.builtin_weights() if detector.name == "builtin" else cached(detector)
        size = f"{path.stat().st_size / 1e6:.1f} MB" if path and path.is_file() else "-"
        digest = sha256_of(path)[:12] if path and path.is_file() else "-"
        table.add_row(detector.name, "faces", detector.about, size, digest, detector.licence)
    out.print(table)


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
    licence: Annotated[str | None, typer.Option("--licence", help="Licence of the weights, in plain words.")] = None,
) -> None:
    """Convert a published checkpoint to a weights file that streamfer loads by name.

    Every size is read from the tensors. The file is read without running any code in it.
    """
    from streamfer.models.import_official import LICENCE, import_checkpoint

    names = tuple(word.strip() for word in classes.split(",")) if classes else None
    entry = import_checkpoint(checkpoint, name=name, classes=names, licence=licence or LICENCE)
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
