"""The captioners that can be loaded by name: measured words, and those that the user imported.

Reads cards only; transformers is not imported.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from streamfer.captions.card import CARD_FILE
from streamfer.captions.folder import is_captioner, read_card, weights_size
from streamfer.captions.writers import MEASURED
from streamfer.errors import CheckpointError, UnknownModelError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CaptionerEntry:
    """One imported captioner on this machine.

    Attributes:
        name: what ``load_captioner`` takes.
        path: its folder.
        answers: takes questions, or describes only.
        licence: licence of the weights in plain words.
        size_bytes: size of the weights.
        digest: sha256 over the digests of the weights files, hex.
    """

    name: str
    path: Path
    answers: bool
    licence: str
    size_bytes: int
    digest: str


def _folders() -> Iterator[Path]:
    from streamfer.models.registry import user_folder

    for card in sorted(user_folder().glob(f"*/{CARD_FILE}")):
        if not card.parent.name.startswith("."):
            yield card.parent


def list_captioners() -> tuple[CaptionerEntry, ...]:
    """Return the imported captioners; one that cannot be read is logged and left out."""
    entries = []
    for folder in _folders():
        try:
            card = read_card(folder)
        except CheckpointError as error:
            facts = {"captioner": folder.name, "path": str(folder), "error": str(error)}
            log.warning("captioner.unreadable", extra=facts)
            continue
        entries.append(CaptionerEntry(folder.name, folder, card.answers, card.licence, weights_size(card), card.digest))
    return tuple(entries)


def find_captioner(name_or_path: str) -> Path:
    """Return the folder of a name, or the path itself where it is a captioner's.

    Raises:
        UnknownModelError: neither; the message lists what exists.
    """
    known = {folder.name: folder for folder in _folders()}
    if name_or_path in known:
        return known[name_or_path]
    path = Path(name_or_path)
    if is_captioner(path):
        return path
    names = ", ".join([MEASURED, *sorted(known)])
    if os.sep in name_or_path:
        raise UnknownModelError(f"captioner {name_or_path!r}: no captioner's folder; captioners by name: {names}")
    close = difflib.get_close_matches(name_or_path, [MEASURED, *known], n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UnknownModelError(
        f"captioner {name_or_path!r} is unknown; {hint}captioners here: {names}, openai:MODEL (an endpoint), a folder "
        "of transformers; add one with 'streamfer models import --kind exp-blip'"
    )
