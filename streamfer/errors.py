"""The one exception tree of streamfer.

    StreamferError                          anything streamfer raises on purpose
    ├── UserError                           the user can mend it: one clear line, exit code 2
    │   ├── ConfigError                     (ValueError) a setting is wrong
    │   ├── MissingExtraError               (ImportError) an optional part is not installed
    │   ├── SourceError                     a source cannot be used
    │   │   ├── SourceNotFoundError         (FileNotFoundError) no such file, or nothing to read in a folder
    │   │   ├── SourceUnreadableError       (ValueError) the bytes are not a video that can be decoded
    │   │   ├── SourceUnreachableError      (ConnectionError) the camera or server does not answer
    │   │   └── SourceDeniedError           (PermissionError) credentials or scheme refused
    │   ├── ModelError                      a model or its weights cannot be used
    │   │   ├── UnknownModelError           (LookupError) no model of that name
    │   │   ├── CheckpointError             (ValueError) the file is not the checkpoint it should be
    │   │   └── UnsafeCheckpointError       (ValueError) the file tries to run code
    │   ├── DeviceError                     (RuntimeError) a requested device or provider is absent
    │   ├── ClosedError                     (RuntimeError) a session is used after its end
    │   ├── PublishError                    (ConnectionError) Redis cannot be reached or refuses
    │   ├── RecordError                     (ValueError) a record is malformed or of an unknown type
    │   └── OutputError                     (OSError) a result cannot be written
    └── InternalError                       (RuntimeError) a defect of streamfer itself

A message names the thing, what was wrong, and the way out, on one line. URLs in messages have their
credentials removed (:func:`streamfer.redaction.redact_url`) before they get here.
"""

from __future__ import annotations


class StreamferError(Exception):
    """Base of every exception that streamfer raises on purpose."""

    exit_code: int = 1


class UserError(StreamferError):
    """Something the user can mend; the command line prints it on one line and exits with code 2."""

    exit_code = 2


class ConfigError(UserError, ValueError):
    """A setting is missing, unknown or out of range."""


class MissingExtraError(UserError, ImportError):
    """An optional part of streamfer is not installed; see :func:`streamfer.extras.needs`."""


class SourceError(UserError):
    """A video source cannot be used."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """No such file, or a folder or pattern without a video."""


class SourceUnreadableError(SourceError, ValueError):
    """The bytes are there, but they are not a video that can be decoded."""


class SourceUnreachableError(SourceError, ConnectionError):
    """A camera, server or device does not answer."""


class SourceDeniedError(SourceError, PermissionError):
    """The other side refused the credentials, or the URL's scheme is not allowed."""


class ModelError(UserError):
    """A model or its weights cannot be used."""


class UnknownModelError(ModelError, LookupError):
    """No model is registered under that name, and no file is there either."""


class CheckpointError(ModelError, ValueError):
    """A weights file is damaged, foreign, or does not fit the architecture."""


class UnsafeCheckpointError(CheckpointError):
    """A pickled checkpoint refers to code that streamfer refuses to run."""


class DeviceError(UserError, RuntimeError):
    """A device or execution provider was asked for by name and is absent."""


class ClosedError(UserError, RuntimeError):
    """A session is used after it was closed."""


class PublishError(UserError, ConnectionError):
    """Redis cannot be reached, or refuses what it is asked."""


class RecordError(UserError, ValueError):
    """A record is malformed, or of a type or major version that this streamfer does not read."""


class OutputError(UserError, OSError):
    """A result cannot be written where it was asked to go."""


class InternalError(StreamferError, RuntimeError):
    """A defect of streamfer itself: please report it."""
