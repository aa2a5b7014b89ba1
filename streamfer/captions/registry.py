"""The captioners that can be loaded by name: built into the package, or imported by the user.

Reads cards only; transformers is not imported.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streamfer.captions.card import CARD_FILE
from streamfer.captions.folder import is_captioner, read_card, weights_size
from streamfer.errors import CheckpointError, UnknownModelError

log = logging.getLogger(__name__)

Origin = Literal["built-in", "imported"]


@dataclass(frozen=True, slots=True)
class CaptionerEntry:
    """One captioner on this machine.

    Attributes:
        name: what ``load_captioner`` takes.
        path: its folder, or the file of the built-in one.
        origin: ``built-in`` or ``imported``.
        answers: takes questions, or describes only.
        licence: licence of the weights in plain words.
        size_bytes: size of the weights.
        digest: sha256 over the digests of the weights files, hex.
    """

    name: str
    path: Path
    origin: Origin
    answers: bool
    licence: str
    size_bytes: int
    digest: str


def _folders() -> Iterator[tuple[str, Path, Origin]]:
    """Yield name, path and origin; a built-in hides an imported folder of its name."""
    from streamfer.models.registry import built_in_folder, user_folder

    names: set[str] = set()
    places: tuple[tuple[Origin, Path], ...] = (("built-in", built_in_folder()), ("imported", user_folder()))
    for origin, place in places:
        for card in sorted(place.glob(f"*/{CARD_FILE}")):
            name = card.parent.name
            if name not in names and not name.startswith("."):
                names.add(name)
                yield name, card.parent, origin


def _files() -> Iterator[tuple[str, Path, Origin]]:
    """Yield name, path and origin of captioners that are one file, as the built-in one is."""
    from streamfer.captions.mini_weights import is_mini
    from streamfer.models.card import SUFFIX
    from streamfer.models.registry import built_in_folder, user_folder

    places: tuple[tuple[Origin, Path], ...] = (("built-in", built_in_folder()), ("imported", user_folder()))
    for origin, place in places:
        for path in sorted(place.glob(f"*{SUFFIX}")):
            if is_mini(path):
                yield path.stem, path, origin


def list_captioners() -> tuple[CaptionerEntry, ...]:
    """Return the captioners on this machine; one that cannot be read is logged and left out."""
    entries = [*_mini_entries()]
    for name, path, origin in _folders():
        try:
            card = read_card(path)
        except CheckpointError as error:
            log.warning("captioner.unreadable", extra={"captioner": name, "path": str(path), "error": str(error)})
            continue
        entries.append(CaptionerEntry(name, path, origin, card.answers, card.licence, weights_size(card), card.digest))
    return tuple(entries)


def built_in_captioner(entries: Iterable[CaptionerEntry]) -> str | None:
    """Return the name of the built-in one among captioners, if it is there."""
    return next((entry.name for entry in entries if entry.origin == "built-in"), None)


def _mini_entries() -> Iterator[CaptionerEntry]:
    from streamfer.captions.mini_weights import read_mini_card
    from streamfer.models.card import digest_of

    for name, path, origin in _files():
        try:
            card = read_mini_card(path)
        except CheckpointError as error:
            log.warning("captioner.unreadable", extra={"captioner": name, "path": str(path), "error": str(error)})
            continue
        size = path.stat().st_size
        yield CaptionerEntry(
            name, path, origin, answers=True, licence=card.licence, size_bytes=size, digest=digest_of(path)
        )


def find_captioner(name_or_path: str) -> Path:
    """Return the folder or file of a name, or the path itself where it is a captioner's.

    Raises:
        UnknownModelError: neither; the message lists what exists.
    """
    from streamfer.captions.mini_weights import is_mini

    known = {name: path for found in (_folders(), _files()) for name, path, _ in found}
    if name_or_path in known:
        return known[name_or_path]
    path = Path(name_or_path)
    if is_captioner(path) or is_mini(path):
        return path
    names = ", ".join(sorted(known)) or "none"
    if os.sep in name_or_path:
        raise UnknownModelError(f"captioner {name_or_path!r}: no captioner's folder; captioners by name: {names}")
    close = difflib.get_close_matches(name_or_path, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UnknownModelError(
        f"captioner {name_or_path!r} is unknown; {hint}captioners here: {names}; "
        "add one with 'streamfer models import --kind exp-blip'"
    )
