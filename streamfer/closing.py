"""What is closed at the end of a ``with`` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NoReturn, Self

from streamfer.errors import ConfigError


class Closing(ABC):
    """A context manager that closes itself."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is held; may be called twice."""

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise ConfigError(
            f"a {type(self).__name__} can be neither copied nor sent elsewhere: make one where it is used"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
