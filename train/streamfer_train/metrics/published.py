"""What others have published, for the tables of reports: read from ``published.yaml``, each number with its source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from streamfer_train.metrics.arrays import plain


@cache
def published(*names: str) -> Any:
    """Return a part of the tables, as ``published("dynamic", "dfew")``; an empty dictionary where there is none."""
    part = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    for name in names:
        part = part.get(name, {})
    return plain(part)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    head, *others = ("|" + "".join(f" {cell} |" if cell else " |" for cell in row) for row in (columns, *rows))
    return [head, "|" + "---|" * len(columns), *others]


def written(value: float | None, digits: int) -> str:
    """Return a number as a cell of a table has it; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def dynamic_rows(dataset: str) -> list[list[str]]:
    """Return the cells of method, UAR, WAR, ECE, AURC, "–" and source, video first, then who sees more."""
    calibration, rows = published("calibration", dataset), []
    for kind, group in published("dynamic", dataset).items():
        for row in group if kind != "folds" else ():
            known = calibration.get(row["method"].partition(" (")[0], (None, None))
            scores = [written(row["uar"], 2), written(row["war"], 2), *(written(value, 3) for value in known)]
            named = f"{row['method']}, {row['year']}" + ("" if kind == "video" else f" (*{kind}*)")
            rows.append([named, *scores, "–", row["source"]])
    return rows


def beside(part: str, dataset: str | None, own: dict[str, float | None]) -> str:
    """Return a Markdown table of one's own numbers above the published ones; empty where none were published."""
    rows = published(part, dataset) if dataset else {}
    if not rows:
        return ""
    columns = [name for name in rows[0] if name != "method"]
    cells = (
        [row["method"], *("–" if row.get(name) is None else f"{row[name]:g}" for name in columns)]
        for row in [{"method": "**this model**", **own}, *rows]
    )
    return "\n".join(markdown_table(["", *columns], cells)) + "\n"
