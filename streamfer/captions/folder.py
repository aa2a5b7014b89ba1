"""A captioner on disk: a folder with the weights as transformers writes them, tokenizers, and ``streamfer.json``.

    NAME/streamfer.json          card: preprocessing, limits, licence, digests of the weights
    NAME/config.json             sizes, in transformers' words
    NAME/model*.safetensors      weights
    NAME/tokenizer/              of the language model
    NAME/question_tokenizer/     of the Q-Former (InstructBLIP)

Those in the user's folder of models can be loaded by name. Importing this module imports no transformers.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from pydantic import ValidationError

from streamfer.captions.card import CARD_FILE, CaptionCard, WeightsFile
from streamfer.captions.protocol import first_line
from streamfer.captions.writers import MEASURED
from streamfer.errors import CheckpointError, OutputError, StreamferError, UnknownModelError
from streamfer.extras import needs
from streamfer.files import sha256_of
from streamfer.models.card import explain
from streamfer.models.registry import unknown, user_folder

TOKENIZER = "tokenizer"
QUESTION_TOKENIZER = "question_tokenizer"
_WEIGHTS = "*.safetensors"

log = logging.getLogger(__name__)


def is_captioner(folder: Path) -> bool:
    # Path's own methods raise where a name is too long to be a file's.
    return os.path.isfile(folder / CARD_FILE)


def read_card(folder: Path) -> CaptionCard:
    """Read the card of a captioner's folder (CheckpointError: absent or damaged); the weights are not touched."""
    path = folder / CARD_FILE
    try:
        return CaptionCard.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    except ValidationError as error:
        raise CheckpointError(f"{path}: {explain(error)}") from None


def check_files(folder: Path, card: CaptionCard) -> None:
    """Compare names and sizes of the weights files with the card (CheckpointError): a truncated copy betrays itself."""
    found = {path.name: path.stat().st_size for path in folder.glob(_WEIGHTS)}
    for name, entry in card.files.items():
        if name not in found:
            raise CheckpointError(f"{folder}: weights file {name!r} is missing; copy the folder again")
        if found[name] != entry.size:
            raise CheckpointError(f"{folder}: {name!r} has {found[name]} bytes; expected {entry.size}: copy it again")
    if extra := sorted(found.keys() - card.files.keys()):
        raise CheckpointError(f"{folder}: weights file {extra[0]!r} is not on the card; import the model again")


def _folders() -> dict[str, Path]:
    found = (path.parent for path in sorted(user_folder().glob(f"*/{CARD_FILE}")))
    return {folder.name: folder for folder in found if not folder.name.startswith(".")}


def list_captioners() -> dict[str, CaptionCard]:
    """Return the imported captioners' cards by name; one that cannot be read is logged and left out."""
    cards = {}
    for name, folder in _folders().items():
        try:
            cards[name] = read_card(folder)
        except CheckpointError as error:
            log.warning("captioner.unreadable", extra={"captioner": name, "path": str(folder), "error": str(error)})
    return cards


def find_captioner(name_or_path: str) -> Path:
    """Return the folder of a name, or the path itself where it is a captioner's; else what exists.

    Raises:
        UnknownModelError: neither; the message lists what exists.
    """
    known = _folders()
    if name_or_path in known:
        return known[name_or_path]
    path = Path(name_or_path)
    if is_captioner(path):
        return path
    names = ", ".join([MEASURED, *sorted(known)])
    if os.sep in name_or_path:
        raise UnknownModelError(f"captioner {name_or_path!r}: no captioner's folder; captioners by name: {names}")
    advice = (
        f"captioners here: {names}, openai:MODEL (an endpoint), a folder of transformers; "
        "add one with 'streamfer models import --kind exp-blip'"
    )
    raise unknown("captioner", name_or_path, [MEASURED, *known], advice)


def write_folder(
    target: Path, model: Any, card: CaptionCard, tokenizer: Any, question_tokenizer: Any | None = None
) -> CaptionCard:
    """Write a captioner's folder whole or not at all, and return its card with files and digest filled in.

    An existing captioner is replaced; the model's tensors are stored in the types they have.

    Raises:
        OutputError: it cannot be written there, or ``target`` is something else than a captioner.
    """
    if target.exists() and not is_captioner(target):
        raise OutputError(f"{target}: exists and is no captioner; choose another folder")
    with _replacing(target) as folder:
        with quiet_transformers():
            model.save_pretrained(folder, max_shard_size="4GB")
            tokenizer.save_pretrained(folder / TOKENIZER)
            if question_tokenizer is not None:
                question_tokenizer.save_pretrained(folder / QUESTION_TOKENIZER)
        files = {path.name: WeightsFile(size=path.stat().st_size, sha256=sha256_of(path))
                 for path in sorted(folder.glob(_WEIGHTS))}  # fmt: skip
        total = hashlib.sha256("".join(f"{name} {entry.sha256}\n" for name, entry in files.items()).encode())
        written = card.model_copy(update={"files": files, "digest": total.hexdigest()})
        (folder / CARD_FILE).write_text(written.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return written


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Yield a folder beside ``target`` that takes its place when whole, or vanishes."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as room:
            whole = Path(room) / "new"
            whole.mkdir()
            yield whole
            for path in whole.rglob("*"):
                if path.is_file():
                    with path.open("rb") as stream:
                        os.fsync(stream.fileno())
            if target.exists():
                target.replace(Path(room) / "old")
            whole.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot write there ({error.strerror or error}); is the disk full?") from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars and warnings: what matters is checked and said by who calls it."""
    from transformers.utils import logging as reporting

    said: Any = reporting
    level, bars = said.get_verbosity(), said.is_progress_bar_enabled()
    said.set_verbosity_error()
    said.disable_progress_bar()
    try:
        yield
    finally:
        said.set_verbosity(level)
        if bars:
            said.enable_progress_bar()


@contextlib.contextmanager
def reading(purpose: str, trouble: str) -> Iterator[Any]:
    """Yield transformers, which ``purpose`` needs, silent, to read a model or tokenizer with.

    Raises:
        MissingExtraError: it is not installed, which ``purpose`` needs.
        CheckpointError: what is read is damaged or something else: ``trouble``, with the first line of why.
    """
    with needs("captions", purpose):
        import transformers
    from safetensors import SafetensorError

    try:
        with quiet_transformers():
            yield transformers
    except StreamferError:
        raise
    except (OSError, ValueError, LookupError, RuntimeError, ImportError, SafetensorError, UnpicklingError) as error:
        raise CheckpointError(f"{trouble} ({first_line(error)})") from error
