"""A captioner on disk: a folder with the weights as transformers writes them, tokenizers, and ``streamfer.json``.

    NAME/streamfer.json          card: preprocessing, limits, licence, digests of the weights
    NAME/config.json             sizes, in transformers' words
    NAME/model*.safetensors      weights
    NAME/tokenizer/              of the language model
    NAME/question_tokenizer/     of the Q-Former (InstructBLIP)

A training may write one with :func:`write_folder`; transformers reads the weights on their own as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamfer.captions.card import CARD_FILE, CaptionCard, WeightsFile
from streamfer.errors import CheckpointError, OutputError, UnknownModelError

TOKENIZER = "tokenizer"
QUESTION_TOKENIZER = "question_tokenizer"
_WEIGHTS = "*.safetensors"


def is_captioner(folder: Path) -> bool:
    """Tell whether a folder holds a captioner of streamfer."""
    return (folder / CARD_FILE).is_file()


def read_card(folder: Path) -> CaptionCard:
    """Read the card of a captioner's folder; the weights are not touched.

    Raises:
        UnknownModelError: no such folder, or no card in it.
        CheckpointError: the card cannot be read.
    """
    path = folder / CARD_FILE
    if not path.is_file():
        raise UnknownModelError(
            f"{folder}: no {CARD_FILE} in it; is it a captioner that 'streamfer models import' made?"
        )
    try:
        return CaptionCard.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    except CheckpointError as error:
        raise CheckpointError(f"{folder}/{error}") from error


def check_files(folder: Path, card: CaptionCard) -> None:
    """Compare the weights files with the card: names and sizes, which a truncated copy betrays.

    Raises:
        CheckpointError: a file is missing, has another size, or is not on the card.
    """
    found = {path.name: path.stat().st_size for path in folder.glob(_WEIGHTS)}
    for name, entry in card.files.items():
        if name not in found:
            raise CheckpointError(f"{folder}: weights file {name!r} is missing; copy the folder again")
        if found[name] != entry.size:
            raise CheckpointError(f"{folder}: {name!r} has {found[name]} bytes; expected {entry.size}: copy it again")
    if extra := sorted(found.keys() - card.files.keys()):
        raise CheckpointError(f"{folder}: weights file {extra[0]!r} is not on the card; import the model again")


def weights_size(card: CaptionCard) -> int:
    """Return the bytes of all weights files."""
    return sum(entry.size for entry in card.files.values())


def _manifest(folder: Path) -> tuple[dict[str, WeightsFile], str]:
    """Return the weights files of a folder and the digest over all of them."""
    files = {}
    for path in sorted(folder.glob(_WEIGHTS)):
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        files[path.name] = WeightsFile(size=path.stat().st_size, sha256=digest)
    total = hashlib.sha256("".join(f"{name} {entry.sha256}\n" for name, entry in files.items()).encode())
    return files, total.hexdigest()


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Yield a folder beside ``target`` that takes its place when whole, or vanishes."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise OutputError(f"{target}: cannot write there ({error.strerror}); choose another folder") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
        if target.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            target.replace(retired / target.name)
            temporary.replace(target)
            shutil.rmtree(retired)
        else:
            temporary.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot write ({error.strerror or error}); is the disk full?") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_folder(
    target: Path, model: Any, card: CaptionCard, tokenizer: Any, question_tokenizer: Any | None = None
) -> CaptionCard:
    """Write a captioner's folder whole or not at all; an existing one is replaced.

    Args:
        target: the folder.
        model: transformers' model; tensors are stored in the types they have.
        card: what the folder says about itself; files and digest are filled in.
        tokenizer: of the language model.
        question_tokenizer: of the Q-Former, for InstructBLIP.

    Returns:
        The card as written.

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
        files, digest = _manifest(folder)
        written = card.model_copy(update={"files": files, "digest": digest})
        (folder / CARD_FILE).write_text(written.to_json(), encoding="utf-8")
    return written


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars and warnings: what matters is checked and said by the caller."""
    from transformers.utils import logging

    reporting: Any = logging
    level, bars = reporting.get_verbosity(), reporting.is_progress_bar_enabled()
    reporting.set_verbosity_error()
    reporting.disable_progress_bar()
    try:
        yield
    finally:
        reporting.set_verbosity(level)
        if bars:
            reporting.enable_progress_bar()
