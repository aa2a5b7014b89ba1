"""Writes docs/api.md from the docstrings of what ``streamfer`` exports: python docs/render_api.py"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import streamfer

PAGE = Path(__file__).with_name("api.md")
HEAD = """# Python

Everything that `import streamfer` gives, from its docstrings (written by `python docs/render_api.py`; a test compares).
Settings are those of [configs/run.yaml](../configs/run.yaml): `clip__stride=0.5` or `**{"clip.stride": 0.5}`; the most
used ones have short names (`model`, `detector`, `captions`, `fps`). Mistakes are `streamfer.UserError`, one line that
says the way out. What `streamfer doctor`, `models` and `demo` show is in `streamfer.api.doctor`, `.catalogue` and
`.demo`.
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


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
