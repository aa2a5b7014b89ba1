"""JSON Schemas of the documents, generated from the models and checked in under ``streamfer/schemas``.

Run ``python -m streamfer.records.schema`` after a change of the models; a test holds that the files are current.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from streamfer.records.documents import DOCUMENTS, AnyDocument
from streamfer.records.envelope import SCHEMA_URN

SCHEMA_FOLDER = Path(__file__).resolve().parent.parent / "schemas"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def generate_schema(document: type[AnyDocument]) -> dict[str, Any]:
    """JSON Schema (2020-12) of one document type; unknown members are allowed, as for readers of ``v1``."""
    schema = document.model_json_schema(mode="validation")
    return {"$schema": _DIALECT, "$id": SCHEMA_URN + document.kind, **schema}


def load_schema(kind: str) -> dict[str, Any]:
    """Read the checked-in schema of ``kind``, such as ``clip.labelled.v1``."""
    schema: dict[str, Any] = json.loads((SCHEMA_FOLDER / f"{kind}.json").read_text(encoding="utf-8"))
    return schema


if __name__ == "__main__":
    for document in DOCUMENTS:
        text = json.dumps(generate_schema(document), indent=2, sort_keys=True)
        (SCHEMA_FOLDER / f"{document.kind}.json").write_text(f"{text}\n", encoding="utf-8")
