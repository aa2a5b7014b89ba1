"""The timeline of a file as a matplotlib figure, for notebooks and papers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeInt

from streamfer.arguments import checked
from streamfer.errors import ConfigError
from streamfer.export.segments import CAPTION, EMOTION
from streamfer.extras import needs
from streamfer.records import UNSURE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

#: Okabe and Ito's colours, as in reports and overlays; grey for what is unsure.
_PALETTE = ("#E69F00", "#56B4E9", "#B8B8B0", "#D55E00", "#F0E442", "#009E73", "#CC79A7", "#8F9BD8")
_UNSURE, _UNIT = "#9a9a94", "#0072B2"


@checked
def draw(segments: DataFrame, classes: tuple[str, ...], axes: Axes | None = None, units: NonNegativeInt = 4) -> Axes:
    """Draw a row a person for expressions, and one for each of their longest action units, by the file's own clock.

    See :meth:`streamfer.Annotation.plot`; the order of ``classes``, the model's, gives labels their colours.
    """
    with needs("plot", "plot"):
        from matplotlib import pyplot
        from matplotlib.axes import Axes
        from matplotlib.patches import Patch
    if not isinstance(axes, Axes | None):
        raise ConfigError(f"axes: a {type(axes).__name__}; expected axes of matplotlib, as pyplot.subplots() gives")
    rows: list[tuple[str, Any, str]] = []
    for (_, track), own in segments.groupby(["epoch", "track"], sort=True):
        lengths = (own.media_end_s - own.media_begin_s).groupby(own.tier).sum().sort_values(ascending=False)
        rows.append((f"Person {track:.0f}", own[own.tier == EMOTION], ""))
        rows += [
            (tier, own[own.tier == tier], _UNIT) for tier in lengths.index.drop([EMOTION, CAPTION], "ignore")[:units]
        ]
    if axes is None:
        _, axes = pyplot.subplots(figsize=(9, 1 + 0.35 * max(1, len(rows))), layout="constrained")
    colours = {label: _PALETTE[place % len(_PALETTE)] for place, label in enumerate(classes)} | {UNSURE: _UNSURE}
    for place, (_, own, colour) in enumerate(rows):
        spans = list(zip(own.media_begin_s, own.media_end_s - own.media_begin_s, strict=True))
        faces = [colour or colours.get(value, _UNSURE) for value in own.value]
        axes.broken_barh(spans, (place - 0.4, 0.8), facecolors=faces, edgecolor="white", linewidth=0.5)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    shown = [label for label in colours if label in set(segments.value[segments.tier == EMOTION])]
    if shown:
        handles = [Patch(color=colours[label], label=label) for label in shown]
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return axes
