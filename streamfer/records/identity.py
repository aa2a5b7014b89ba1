"""Deterministic record ids: the same clip, processed again by the same model, gets the same id.

An id is a version 5 UUID (RFC 9562, 5.5) of a JSON array that begins with the kind and the schema's major
version. JSON quotes its strings, so no two different lists of fields write the same text.
"""

from __future__ import annotations

import json
import uuid

SCHEMA_MAJOR = 1
_NAMESPACE = uuid.UUID("6f0c3f0e-5a0b-5b0e-9d53-0d5f3b1c7a44")


def identify(kind: str, *fields: str | int | None) -> str:
    """Return the id of what ``fields`` tell apart from all others of its kind."""
    # ensure_ascii also carries the lone surrogates that undecodable file names are made of.
    name = json.dumps([kind, SCHEMA_MAJOR, *fields], separators=(",", ":"), ensure_ascii=True)
    return str(uuid.uuid5(_NAMESPACE, name))


def microseconds(seconds: float) -> int:
    """Return seconds as a whole number of microseconds."""
    return round(seconds * 1_000_000)
