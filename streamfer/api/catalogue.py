"""The models on this machine: listed, shown, imported and pulled; what ``streamfer models`` prints."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from streamfer.arguments import checked
from streamfer.errors import CheckpointError, ConfigError, UnknownModelError
from streamfer.files import sha256_of

if TYPE_CHECKING:
    from streamfer.captions.card import CaptionCard
    from streamfer.faces.detections import Detector
    from streamfer.models.registry import ModelEntry

Kind = Literal["expression models", "captioners", "face detectors"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Listed:
    """One model that can be named."""

    kind: Kind
    name: str
    about: str  #: where it comes from, in a few words
    licence: str  #: licence of the weights in plain words
    #: size and digest: bytes and sha256 of its weights; None where they are not on this machine, or where it has none
    size: int | None = None
    digest: str | None = None


def catalogue() -> list[Listed]:
    """Return expression models, captioners and face detectors, those included that would be pulled when named."""
    from streamfer.captions.folder import list_captioners
    from streamfer.captions.writers import MEASURED
    from streamfer.models.registry import list_models

    models = [
        Listed("expression models", one.name, one.origin, one.licence, one.size_bytes, one.digest)
        for one in list_models()
    ]
    words = "built in; describes and answers from what was measured; no model file"
    captioners = [Listed("captioners", MEASURED, words, "Apache-2.0")]
    for name, card in list_captioners().items():
        about = f"imported; {'answers questions' if card.answers else 'describes'}"
        captioners.append(Listed("captioners", name, about, card.licence, card.size_bytes, card.digest))
    return [*models, *captioners, *_detectors()]


def _detectors() -> list[Listed]:
    from streamfer.faces import load_detector
    from streamfer.faces.pulling import present
    from streamfer.faces.registry import ENTRIES

    found = []
    for entry in ENTRIES:
        licence, lacks = entry.licence, "not on this machine"
        try:
            path = present(entry)
            if path is not None and entry.name == "builtin":
                licence = load_detector("builtin").licence
        except CheckpointError as error:
            path, lacks = None, str(error)
        if path is None:
            found.append(Listed("face detectors", entry.name, f"{entry.about}; {lacks}", licence))
            continue
        found.append(Listed("face detectors", entry.name, entry.about, licence, path.stat().st_size, sha256_of(path)))
    return found


def facts(name: str) -> dict[str, Any]:
    """Return everything that a model says of itself, by its name, its weights file or its folder.

    Raises:
        UnknownModelError: neither a name nor a model's file or folder.
        CheckpointError: the file is damaged or foreign.
    """
    from streamfer.captions import folder
    from streamfer.models.card import read_card
    from streamfer.models.registry import find_model

    try:
        path = find_model(name)
    except UnknownModelError:
        if name in folder.list_captioners() or folder.is_captioner(Path(name)):
            found = folder.find_captioner(name)
            return {**folder.read_card(found).model_dump(mode="json"), "folder": str(found)}
        # What has no card says what the list says of it.
        for one in catalogue():
            if one.name == name:
                return asdict(one)
        raise
    return {**json.loads(read_card(path).to_json()), "file": str(path), "sha256": sha256_of(path)}


def captioner_folder(name: str) -> Path | None:
    """Return the folder of an imported captioner; None where none has this name."""
    from streamfer.captions import folder

    return folder.find_captioner(name) if name in folder.list_captioners() else None


@checked
def import_model(
    checkpoint: str | os.PathLike[str],
    name: str,
    *,
    kind: Literal["auto", "dfer-clip", "exp-blip", "exp-vqa"] = "auto",
    classes: Sequence[str] | None = None,
    position: Literal["end", "middle", "front"] = "end",
    language_model: str | os.PathLike[str] | None = None,
    question_tokenizer: str | os.PathLike[str] | None = None,
    licence: str | None = None,
) -> ModelEntry | CaptionCard:
    """Convert the authors' checkpoint of DFER-CLIP, Exp-BLIP or Exp-VQA to weights that are loaded by name.

    Args:
        checkpoint: the file; none of its code is run.
        name: what to load it by.
        kind: ``dfer-clip``, ``exp-blip``, ``exp-vqa``, or ``auto``: as the tensors' names say.
        classes: names in order; recovered from the prompts if None.
        position: where the description stands in the prompt: ``end``, ``middle`` or ``front``.
        language_model: captioners: folder of the OPT or Vicuna that it was trained with.
        question_tokenizer: Exp-VQA: folder of bert-base-uncased's tokenizer.
        licence: of the weights, in plain words.

    Raises:
        ConfigError: the name, kind or position cannot be, or a folder is missing.
        CheckpointError: the file is damaged, holds code, or is not of this architecture.
    """
    from streamfer.captions.lavis import looks_like_lavis
    from streamfer.models.checkpoints import read_state_dict
    from streamfer.models.import_official import LICENCE, import_checkpoint

    path = Path(checkpoint)
    if kind == "dfer-clip" or (kind == "auto" and not looks_like_lavis(read_state_dict(path))):
        return import_checkpoint(
            path,
            name=name,
            classes=tuple(classes) if classes else None,
            position=position,
            licence=licence or LICENCE,
        )
    if language_model is None:
        raise ConfigError(
            f"{path}: a captioner writes with a frozen language model; give its folder with --language-model "
            "(Exp-BLIP: facebook/opt-6.7b or opt-2.7b; Exp-VQA: Vicuna 7B v1.1)"
        )
    from streamfer.captions import import_lavis

    return import_lavis(
        path,
        name,
        language_model=os.fspath(language_model),
        question_tokenizer=None if question_tokenizer is None else os.fspath(question_tokenizer),
        kind=kind,
        licence=licence,
    )


def pull(name: str) -> Detector:
    """Download the weights of a detector, checked by their digest, and return it loaded.

    Raises:
        UnknownModelError: no registered detector has this name.
        ModelError: they cannot be downloaded.
    """
    from streamfer.faces import load_detector, registry

    if registry.find(name) is None:
        known = ", ".join(entry.name for entry in registry.ENTRIES)
        raise UnknownModelError(f"detector {name!r}: not in the registry; known are {known}")
    return load_detector(name)
