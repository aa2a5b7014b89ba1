"""What is not installed unless asked for: a missing package is told in one line with the command that brings it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from streamfer.errors import MissingExtraError

#: Packages of the project that are never an extra's: their absence is a defect.
_OURS = ("streamfer", "streamfer_kernels", "streamfer_train")


@contextmanager
def needs(extra: str, purpose: str) -> Iterator[None]:
    """Import packages of an optional extra inside this block.

    Args:
        extra: its name in ``streamfer[...]``.
        purpose: what needs it, as the beginning of the message: "detector 'buffalo_l'".

    Raises:
        MissingExtraError: a package is not installed; the message ends with the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if not package or package in _OURS:
            raise
        raise MissingExtraError(
            f"{purpose} needs the package {package}, which is not installed: pip install 'streamfer[{extra}]'"
        ) from error
