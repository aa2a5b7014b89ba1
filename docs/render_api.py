"""Writes pages of what the code says: docs/api.md, docs/configuration.md and docs/tables.md, and the JSON Schemas."""

from __future__ import annotations

import inspect
import json
import re
from functools import partial
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

import streamfer
from streamfer.export import columns
from streamfer.files import table_beside
from streamfer.records import DOCUMENTS
from streamfer.records.documents import Document
from streamfer.records.envelope import SCHEMA_URN

FOLDER = Path(__file__).parent
HEAD = """# Python

Everything that `import streamfer` gives, from its docstrings (written by `python docs/render_api.py`; a test compares).
Settings are those of [configs/run.yaml](../configs/run.yaml): `clip__stride=0.5` or `**{"clip.stride": 0.5}`; the most
used ones have short names (`model`, `detector`, `captions`, `fps`). Mistakes are `streamfer.UserError`, one line that
says the way out. What `streamfer doctor`, `models` and `demo` show is in `streamfer.api.doctor`, `.catalogue` and
`.demo`.
"""

SETTINGS_HEAD = """# Every setting

Written by `python docs/render_api.py`. A setting is given, from the strongest to the weakest, by a flag (`--fps 4`), as
`--set sampling.fps=4`, by the environment (`STREAMFER_SAMPLING__FPS=4`), in a file (`-c run.yaml`), and in Python as
`sampling__fps=4`. What is wrong is said with the nearest name. [configs/run.yaml](../configs/run.yaml) shows those that
people change.
"""


def signature(name: str, thing: Any) -> str:
    """Return the call as it is written, one line."""
    text = str(inspect.signature(thing)).replace("self, ", "").replace("(self)", "()")
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)  # annotations are strings, defaults are not
    return f"{name}{re.sub(r'[a-z_]+[.](?=[A-Za-z])', '', text)}"


def prose(thing: Any) -> str:
    """Return a docstring as Markdown: sections as lists, examples and roles as code."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", inspect.getdoc(thing) or "")
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    lines: list[str] = []
    in_section = False
    for line in text.splitlines():
        if re.fullmatch(r"(Args|Returns|Raises|Attributes|Yields):", line):
            in_section = True
            lines += [f"*{line[:-1]}*", ""]
        elif in_section and re.match(r"    \S", line):
            found = re.match(r"    ([\w, *]+): (.*)", line)
            lines.append(f"- `{found[1]}`: {found[2]}" if found else f"- {line.strip()}")
        elif line.startswith((">>>", "...")):
            in_section = False
            lines.append("    " + re.sub(r"\s*# doctest:.*", "", line))
        else:
            in_section = in_section and (not line or line.startswith("    "))
            lines.append(f"  {line.strip()}" if in_section and line.strip() else line)
    return "\n".join(lines).rstrip()


def entry(name: str) -> str:
    """Return the section of one exported name."""
    thing = getattr(streamfer, name)
    if name == "Config":
        return f"## {name}\n\n{prose(thing)}"
    if not inspect.isclass(thing):
        return f"## {name}\n\n`{signature(name, thing)}`\n\n{prose(thing)}"
    parts = [f"## {name}", *([f"`{signature(name, thing)}`"] if name.islower() else ()), prose(thing)]
    for member, value in () if issubclass(thing, Exception) else vars(thing).items():
        if member.startswith("_") or not inspect.getdoc(value):
            continue
        if isinstance(value, property):
            parts.append(f"### .{member}\n\n{prose(value)}")
        elif inspect.isfunction(value):
            parts.append(f"### .{member}\n\n`{signature(member, value)}`\n\n{prose(value)}")
    return "\n\n".join(parts)


def page() -> str:
    """Return the whole page."""
    names = sorted((name for name in streamfer.__all__), key=lambda name: (name[0].islower(), name))
    return "\n\n".join([HEAD.rstrip(), *map(entry, names)]) + "\n"


def settings_page() -> str:
    """Return the page of every setting: its name, what it takes, what it is if unset, and what it does."""
    sections = {"": streamfer.Config}
    for name, field in streamfer.Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            sections[f"{name}."] = field.annotation
    sections["sources[]."] = get_args(streamfer.Config.model_fields["sources"].annotation)[0]
    parts = [SETTINGS_HEAD.rstrip()]
    for prefix, section in sections.items():
        if prefix:
            parts.append(f"## {prefix.rstrip('.')}\n\n{prose(section)}")
        rows = [row for name, field in section.model_fields.items() if (row := setting(prefix + name, field))]
        parts.append("\n".join(["| setting | takes | if unset | |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def setting(name: str, field: FieldInfo) -> str | None:
    """Return the row of a setting; None for a section, which has a table of its own."""
    if name == "sources" or (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
        return None
    kind = getattr(field.annotation, "__name__", "") if not get_args(field.annotation) else str(field.annotation)
    kind = re.sub(r"typing\.|pathlib\.|collections\.abc\.|<class '([^']+)'>", r"\1", kind)
    kind = re.sub(r"(Literal)?\[([^\[\]]*'[^\[\]]*)\]", lambda found: found[2].replace("'", ""), kind)
    limits = {"Gt": "> {gt}", "Ge": "≥ {ge}", "Lt": "< {lt}", "Le": "≤ {le}"}
    words = [
        limits[type(one).__name__].format(**vars_of(one)) for one in field.metadata if type(one).__name__ in limits
    ]
    takes = ", ".join([kind.replace("|", "or").replace(" or None", ""), *words])
    default = "" if field.is_required() else field.get_default(call_default_factory=True)
    unset = "" if default in ("", None) or default == {} else f"`{default}`"
    return f"| `{name}` | {takes} | {unset} | {field.description or ''} |"


def vars_of(limit: Any) -> dict[str, Any]:
    """Return the numbers of a limit."""
    return {name: getattr(limit, name) for name in ("gt", "ge", "lt", "le") if hasattr(limit, name)}


def tables_page() -> str:
    """Return the data dictionary: the columns of every table."""
    lines = ["# Columns", "", "Written by `python docs/render_api.py`; a test compares."]
    for name, table in table_beside(columns.__file__)["tables"].items():
        lines += ["", f"## {name}", "", f"A row: {table['row']}.", "", "| column | type | meaning |", "|---|---|---|"]
        told = (row[1:] for row in columns.dictionary() if row[0] == name)
        lines += [f"| `{column}` | {kind} | {meaning} |" for column, kind, meaning in told]
    return "\n".join(lines) + "\n"


def schema(document: type[Document]) -> str:
    """Return the JSON Schema (2020-12) of a document; unknown members are allowed, as for readers of ``v1``."""
    found = document.model_json_schema(mode="validation")
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_URN + document.kind}
    return json.dumps({**about, **found}, indent=2, sort_keys=True) + "\n"


#: What this program writes.
PAGES = {"api.md": page, "configuration.md": settings_page, "tables.md": tables_page}
PAGES |= {f"../streamfer/schemas/{document.kind}.json": partial(schema, document) for document in DOCUMENTS}


if __name__ == "__main__":
    for name, text in PAGES.items():
        (FOLDER / name).write_text(text(), encoding="utf-8")
