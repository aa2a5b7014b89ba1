"""``streamfer models``: what is there, under which licence, and how to add one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, cast, get_args

import typer
from rich.padding import Padding
from rich.text import Text

from streamfer.cli.terminal import console, note
from streamfer.errors import ConfigError, UnknownModelError

app = typer.Typer(help="List, show and import models and their licences.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_models() -> None:
    """List expression models, captioners and face detectors, with licence and size."""
    from skimage.data import lbp_frontal_face_cascade_filename

    from streamfer.captions.folder import list_captioners
    from streamfer.captions.writers import MEASURED
    from streamfer.faces import load_detector, registry
    from streamfer.faces.fetch import cached
    from streamfer.faces.packs import pack_file, pack_folder
    from streamfer.models import list_models as expression_models

    console().print(Text("expression models", style="bold cyan"))
    for entry in expression_models():
        _say(entry.name, entry.path, entry.origin, entry.licence)
    console().print(Text("captioners", style="bold cyan"))
    _line(MEASURED, "built in; describes and answers from what was measured; no model file", "Apache-2.0")
    for name, card in list_captioners().items():
        does = "answers questions" if card.answers else "describes"
        _line(name, f"imported; {does}; {_weighed(card.size_bytes, card.digest)}", card.licence)
    others = "others: openai:MODEL (an endpoint), a folder of transformers, or streamfer models import"
    console().print(f"  {others}", soft_wrap=True)
    console().print(Text("face detectors", style="bold cyan"))
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
        facts = _weighed(path.stat().st_size, sha256_of(path))
    _line(name, f"{about}; {facts}", licence)


def _weighed(size: int, digest: str) -> str:
    return f"{size / 1e6:.1f} MB, sha256 {digest[:12]}"


def _line(name: str, facts: str, licence: str) -> None:
    console().print(Text.assemble("  ", (f"{name:<14}  ", "bold"), facts), soft_wrap=True)
    console().print(Padding(Text(f"licence: {licence}", style="dim"), (0, 0, 0, 18)))


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", hidden=True)],
) -> None:
    """Show everything that a model says of itself: by its name, its weights file or its folder."""
    from streamfer.captions import folder
    from streamfer.models.card import digest_of, read_card
    from streamfer.models.registry import find_model

    captioners = folder.list_captioners()
    try:
        path = find_model(name)
    except UnknownModelError:
        if name not in captioners and not folder.is_captioner(Path(name)):
            raise
        found = folder.find_captioner(name)
        console().print_json(data={**folder.read_card(found).model_dump(mode="json"), "folder": str(found)})
        return
    card = read_card(path)
    console().print_json(data={**json.loads(card.to_json()), "file": str(path), "sha256": digest_of(path)})
    if name in captioners:
        note(f"a captioner has this name, too: streamfer models show {folder.find_captioner(name)}")
    _note_card(path)


def _note_card(path: Path) -> None:
    beside = path.with_suffix(".md")
    if beside.is_file():
        note(f"model card: {beside}")


@app.command("import")
def import_model(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", hidden=True)],
    name: Annotated[str, typer.Option("--name", help="Name to load it by.")],
    kind: Annotated[
        str, typer.Option("--kind", help="dfer-clip, exp-blip, exp-vqa, or auto: as the tensors' names say.")
    ] = "auto",
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="Class names in order, with commas; recovered from the prompts if not given."),
    ] = None,
    position: Annotated[
        str, typer.Option("--position", help="Where the description stands in the prompt: end, middle or front.")
    ] = "end",
    language_model: Annotated[
        Path | None,
        typer.Option("--language-model", help="Captioners: folder of the OPT or Vicuna that it was trained with."),
    ] = None,
    question_tokenizer: Annotated[
        Path | None, typer.Option("--question-tokenizer", help="Exp-VQA: folder of bert-base-uncased's tokenizer.")
    ] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Licence of the weights, in plain words.")] = None,
) -> None:
    """Convert the authors' checkpoint of DFER-CLIP, Exp-BLIP or Exp-VQA to weights that streamfer loads by name.

    Every size is read from the tensors. The file is read without running any code in it.
    """
    from streamfer.captions.lavis import looks_like_lavis
    from streamfer.models.checkpoints import read_state_dict

    if kind not in ("auto", "dfer-clip", "exp-blip", "exp-vqa"):
        raise ConfigError(f"--kind {kind}: choose from auto, dfer-clip, exp-blip, exp-vqa")
    if kind in ("exp-blip", "exp-vqa") or (kind == "auto" and looks_like_lavis(read_state_dict(checkpoint))):
        _import_captioner(checkpoint, name, kind, language_model, question_tokenizer, licence)
        return
    from streamfer.models.import_official import LICENCE, import_checkpoint
    from streamfer.models.prompts import Position

    names = tuple(word.strip() for word in classes.split(",")) if classes else None
    if position not in get_args(Position):
        raise ConfigError(f"--position {position}: choose from {', '.join(get_args(Position))}")
    entry = import_checkpoint(
        checkpoint, name=name, classes=names, position=cast("Position", position), licence=licence or LICENCE
    )
    console().print(f"imported {entry.name}: {', '.join(entry.classes)}")
    note(f"{entry.path}; use it with: streamfer annotate --model {entry.name} PATH")


def _import_captioner(
    checkpoint: Path,
    name: str,
    kind: str,
    language_model: Path | None,
    question_tokenizer: Path | None,
    licence: str | None,
) -> None:
    """Import a LAVIS checkpoint."""
    from streamfer.captions import import_lavis
    from streamfer.captions.lavis import Kind

    if language_model is None:
        raise ConfigError(
            f"{checkpoint}: a captioner writes with a frozen language model; give its folder with --language-model "
            "(Exp-BLIP: facebook/opt-6.7b or opt-2.7b; Exp-VQA: Vicuna 7B v1.1)"
        )
    entry = import_lavis(
        checkpoint,
        name,
        language_model=language_model,
        question_tokenizer=question_tokenizer,
        kind=cast("Kind | Literal['auto']", kind),
        licence=licence,
    )
    console().print(f"imported {entry.name}: {'answers questions' if entry.answers else 'describes faces'}")
    note(f"{entry.path}; licence: {entry.licence}")


@app.command("pull")
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", hidden=True)],
) -> None:
    """Download the weights of a detector from 'models list', checked by their digest, and show their licence."""
    from streamfer.faces import load_detector, registry

    if registry.find(name) is None:
        known = ", ".join(entry.name for entry in registry.entries())
        raise UnknownModelError(f"detector {name!r}: not in the registry; known are {known}")
    detector = load_detector(name)
    console().print(f"{detector.name} is here; licence: {detector.licence}")
