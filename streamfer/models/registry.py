"""The models that can be loaded by name: built into the package, or imported by the user; imports no torch."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import platformdirs

from streamfer.errors import CheckpointError, ConfigError, UnknownModelError
from streamfer.files import sha256_of
from streamfer.models.card import SUFFIX, ModelCard, read_card

log = logging.getLogger(__name__)

#: Overrides where imported models are kept.
HOME_VARIABLE = "STREAMFER_HOME"
DEFAULT_MODEL = "mini"
Origin = Literal["built-in", "imported"]
#: Suffixes under which the authors' checkpoints travel: good to import, not to load.
_FOREIGN = (".pt", ".pth", ".tar", ".bin", ".ckpt")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model on this machine."""

    name: str  #: what :func:`streamfer.models.load_model` takes
    path: Path  #: its weights file
    origin: Origin
    classes: tuple[str, ...]  #: emotion names in the order of the probabilities
    licence: str  #: of the weights, in plain words
    size_bytes: int
    digest: str  #: sha256 of the file, hex

    @classmethod
    def of(cls, name: str, path: Path, card: ModelCard) -> ModelEntry:
        origin: Origin = "built-in" if path.parent == built_in_folder() else "imported"
        return cls(name, path, origin, card.config.classes, card.licence, path.stat().st_size, sha256_of(path))


def built_in_folder() -> Path:
    return Path(str(resources.files("streamfer"))) / "weights"


def user_folder() -> Path:
    """Return the folder of imported models: ``$STREAMFER_HOME/models`` or the platform's data folder."""
    home = os.environ.get(HOME_VARIABLE)
    return (Path(home) if home else platformdirs.user_data_path("streamfer")) / "models"


def _files() -> dict[str, Path]:
    """Return weights files by name, built-in ones first; one of those hides an imported file of its name."""
    built_in, own = (
        {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))} for folder in (built_in_folder(), user_folder())
    )
    return {**built_in, **own, **built_in}


def list_models() -> tuple[ModelEntry, ...]:
    """Return the models on this machine; a file that cannot be read is logged and left out."""
    entries = []
    for name, path in _files().items():
        try:
            entries.append(ModelEntry.of(name, path, read_card(path)))
        except CheckpointError as error:
            log.warning("model.unreadable", extra={"model": name, "path": str(path), "error": str(error)})
    return tuple(entries)


def check_name(name: str) -> None:
    """Refuse names that cannot be a file's or that a built-in model bears (ConfigError)."""
    if not name or name.startswith(".") or not all(part.isalnum() or part in "-_." for part in name):
        raise ConfigError(f"model name {name!r}: use letters, digits, '-', '_' and '.'")
    if (built_in_folder() / f"{name}{SUFFIX}").exists():
        raise ConfigError(f"model name {name!r} belongs to a built-in model; choose another with --name")


def find_model(name_or_path: str) -> Path:
    """Return the weights file of a name, or the path itself.

    Raises:
        UnknownModelError: neither a name nor a file; the message lists what exists.
        CheckpointError: a checkpoint of another program, which has to be imported first.
    """
    known = _files()
    if name_or_path in known:
        return known[name_or_path]
    path = Path(name_or_path)
    if os.path.isfile(path):  # a name that is too long to be a file's is none
        if path.suffix.lower() in _FOREIGN:
            raise CheckpointError(
                f"{path}: not a weights file of streamfer; import it with 'streamfer models import {path} --name NAME'"
            )
        return path
    names = ", ".join(sorted(known)) or "none"
    if path.suffix or os.sep in name_or_path:
        raise UnknownModelError(f"model {name_or_path!r}: no such file; models by name: {names}")
    raise unknown("model", name_or_path, known, f"models here: {names}; add one with 'streamfer models import'")


def unknown(what: str, name: str, known: Iterable[str], advice: str) -> UnknownModelError:
    """Return the error for a name that nothing here bears, with the nearest that something does."""
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return UnknownModelError(f"{what} {name!r} is unknown; {hint}{advice}")
