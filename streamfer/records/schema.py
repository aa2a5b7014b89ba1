"""JSON Schemas of the documents, generated from the models and checked in under ``streamfer/schemas``.

Run ``python -m streamfer.records.schema`` after a change of the models; a test holds that the files are current.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from streamfer.errors import RecordError
from streamfer.records.documents import DOCUMENTS, AnyDocument
from streamfer.records.envelope import SCHEMA_URN

SCHEMA_FOLDER = Path(__file__).resolve().parent.parent / "schemas"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def generate_schema(document: type[AnyDocument]) -> dict[str, Any]:
    """JSON Schema (2020-12) of one document type; unknown members are allowed, as for readers of ``v1``."""
    schema = document.model_json_schema(mode="validation")
    return {"$schema": _DIALECT, "$id": SCHEMA_URN + document.kind, **schema}


@cache
def load_schema(kind: str) -> dict[str, Any]:
    """Read the checked-in schema of ``kind``, such as ``clip.labelled.v1``.

    Raises:
        RecordError: there is no such kind.
    """
    kinds = [document.kind for document in DOCUMENTS]
    if kind not in kinds:
        raise RecordError(f"no schema for record type {kind!r}: there are {', '.join(kinds)}")
    schema: dict[str, Any] = json.loads((SCHEMA_FOLDER / f"{kind}.json").read_text(encoding="utf-8"))
    return schema


def write_schemas(folder: Path = SCHEMA_FOLDER) -> list[Path]:
    """Write every document's schema into ``folder`` and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for document in DOCUMENTS:
        path = folder / f"{document.kind}.json"
        path.write_text(json.dumps(generate_schema(document), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        paths.append(path)
    return paths


if __name__ == "__main__":
    write_schemas()
