"""Deterministic record ids: the same clip, processed again by the same model, gets the same id.

An id is a version 5 UUID (RFC 9562, 5.5) of a JSON array that begins with the kind and the schema's major
version. JSON quotes its strings, so no two different lists of fields write the same text.
"""

from __future__ import annotations

import json
import uuid
from fractions import Fraction

SCHEMA_MAJOR = 1
_NAMESPACE = uuid.UUID("6f0c3f0e-5a0b-5b0e-9d53-0d5f3b1c7a44")


def _identify(kind: str, *fields: str | int | None) -> str:
    # ensure_ascii also carries the lone surrogates that undecodable file names are made of.
    name = json.dumps([kind, SCHEMA_MAJOR, *fields], separators=(",", ":"), ensure_ascii=True)
    return str(uuid.uuid5(_NAMESPACE, name))


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)


def clip_id(
    source_id: str,
    *,
    epoch_key: str,
    epoch: int,
    start_pts: int,
    end_pts: int,
    time_base: Fraction,
    track: int,
    model_digest: str,
) -> str:
    """Id of the labels of one clip and track.

    ``epoch_key`` must survive a restart of streamfer (file sha256, or the first frame's wall time), otherwise
    a replay collides with, or repeats, what is already published. ``pts`` are in ``time_base`` units.
    """
    base = Fraction(time_base)
    return _identify(
        "clip.labelled",
        source_id,
        epoch_key,
        epoch,
        start_pts,
        end_pts,
        base.numerator,
        base.denominator,
        track,
        model_digest,
    )


def caption_id(labelled_id: str, model_digest: str, question: str | None = None) -> str:
    """Id of a description of the clip ``labelled_id``: one for each model and question."""
    return _identify("clip.captioned", labelled_id, model_digest, question)


def state_id(source_id: str, *, epoch: int, state: str, attempt: int, wall_time: float) -> str:
    """Id of a source's change of state at ``wall_time`` (Unix seconds)."""
    return _identify("source.state", source_id, epoch, state, attempt, _microseconds(wall_time))


def gap_id(source_id: str, *, epoch_key: str, epoch: int, cause: str, start_time: float, end_time: float) -> str:
    """Id of a stretch of a source that was not analysed for one cause; times in seconds."""
    return _identify("gap", source_id, epoch_key, epoch, cause, _microseconds(start_time), _microseconds(end_time))
