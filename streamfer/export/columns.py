"""The data dictionary: every column of every table, its format and its meaning; ``docs/tables.md`` is made of it.

The order of a table's columns is frozen: new ones come last, behind those that depend on the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

#: Formats of cells: text, a whole number, seconds, a share or an intensity, a score.
TEXT, WHOLE, TIME, SHARE, SCORE = "", "d", ".3f", ".6f", ".4f"


@dataclass(frozen=True, slots=True)
class Column:
    """What a column holds: how its cells are printed (:data:`TEXT` to :data:`SCORE`), and what they mean."""

    format: str
    meaning: str


_PLACE = "of the face's box as a fraction of the frame's"
#: Every column by its name; ``<class>``, ``<unit>`` and ``<column>`` stand for the model's names and other columns.
DICTIONARY: Mapping[str, Column] = {
    "source": Column(TEXT, "name of the file; the files of its results begin with it"),
    "clip_id": Column(TEXT, "id of the clip's record, the same in every run"),
    "track_id": Column(TEXT, "name of the person within source and epoch, a salted hash"),
    "track": Column(WHOLE, "the same as a number"),
    "epoch": Column(WHOLE, "stretch of the file with one clock and one size of picture, from 0"),
    "start_s": Column(TIME, "first moment, seconds from the file's first frame"),
    "end_s": Column(TIME, "last moment, seconds from the file's first frame"),
    "seconds": Column(TIME, "time of the frame, seconds from the first frame of the epoch"),
    "label": Column(TEXT, "most probable class (of a person or file: of most clips), or unsure"),
    "probability": Column(SHARE, "calibrated probability of the class; of a segment, the mean over its time"),
    "reason": Column(TEXT, "why the label is unsure: small, turned, blurred, uncertain; else empty"),
    "frames_sampled": Column(WHOLE, "analysed frames in the clip"),
    "frames_real": Column(WHOLE, "of these, frames that truly showed the face"),
    "x": Column(SHARE, f"left edge {_PLACE} width"),
    "y": Column(SHARE, f"upper edge {_PLACE} height"),
    "width": Column(SHARE, f"width {_PLACE} width"),
    "height": Column(SHARE, f"height {_PLACE} height"),
    "det_score": Column(SCORE, "confidence of the face detector, 0 to 1"),
    "quality": Column(SCORE, "how usable the face's picture is, 0 to 1"),
    "model": Column(TEXT, "name of the model that labelled or described"),
    "frame": Column(WHOLE, "number of the frame among the decoded ones of its epoch, from 0"),
    "faces": Column(WHOLE, "people's faces in the frame; 0 has one row, its cells empty"),
    "frames": Column(WHOLE, "analysed frames that show the person"),
    "clips": Column(WHOLE, "labelled clips"),
    "share": Column(SHARE, "share of the clips that have the label"),
    "caption": Column(TEXT, "description of the clip, machine-made"),
    "keyframes_s": Column(TEXT, "moments that were described, seconds from the file's first frame, with blanks"),
    "tier": Column(TEXT, "emotion, caption, or an action unit"),
    "value": Column(TEXT, "what holds in the segment: the label, the text, or the unit's name"),
    "begin_s": Column(TIME, "begin of the segment, seconds from the file's first frame"),
    "media_begin_s": Column(TIME, "begin of the segment by the file's own clock, seconds"),
    "media_start_s": Column(TIME, "first moment by the file's own clock, as players and transcripts count, seconds"),
    "media_end_s": Column(TIME, "last moment by the file's own clock, seconds"),
    "media_seconds": Column(
        TIME, "time of the frame by the file's own clock, as players and transcripts count, seconds"
    ),
    "status": Column(TEXT, "done, partial (cut off) or failed"),
    "note": Column(TEXT, "what was wrong with the file; else empty"),
    "sha256": Column(TEXT, "digest of the file's bytes"),
    "duration_s": Column(TIME, "video time covered, seconds"),
    "tracks": Column(WHOLE, "people with at least one labelled clip"),
    "frames_decoded": Column(WHOLE, "frames decoded"),
    "frames_analysed": Column(WHOLE, "of these, frames analysed"),
    "frames_with_faces": Column(WHOLE, "of these, frames with a face"),
    "p_<class>": Column(SHARE, "calibrated probability of the class; of a person or file, the mean over the clips"),
    "<unit>_mean": Column(SHARE, "mean intensity of the action unit, 0 to 1; of a person or file, over the clips"),
    "<unit>_peak": Column(SHARE, "highest intensity of the action unit, 0 to 1"),
    "<unit>_r": Column(SHARE, "intensity of the action unit in the frame, 0 to 1; empty where it was not read"),
    "<unit>_present": Column(SHARE, "share of the clips whose mean reaches the model's threshold for the unit"),
    "share_<class>": Column(SHARE, "share of the clips that have this label"),
    "<column>_z": Column(SCORE, "the column against the person's baseline: (value - mean) / standard deviation"),
}


def _columns(names: str) -> Mapping[str, str]:
    return {name: DICTIONARY[name].format for name in names.split()}


_BOX = "x y width height"
#: Columns of each table before those that depend on the model.
CLIP_COLUMNS = _columns(
    f"source clip_id track_id track start_s end_s label probability reason frames_sampled frames_real {_BOX} det_score "
    "quality model epoch"
)
FRAME_COLUMNS = _columns(f"source epoch frame seconds faces track_id track {_BOX} det_score quality")
TRACK_COLUMNS = _columns("source track_id track epoch start_s end_s frames clips label share")
CAPTION_COLUMNS = _columns("source clip_id track_id track start_s end_s caption keyframes_s model epoch")
SEGMENT_COLUMNS = _columns("source tier track_id track epoch begin_s end_s media_begin_s media_end_s value probability")
FILE_COLUMNS = _columns(
    "source status note sha256 duration_s frames_decoded frames_analysed frames_with_faces tracks clips label share"
)
#: And behind them.
MEDIA_SPAN = _columns("media_start_s media_end_s")
MEDIA_MOMENT = _columns("media_seconds")

#: What a row of each table is, its columns, and those that depend on the model, in order.
TABLES: Mapping[str, tuple[str, Mapping[str, str], tuple[str, ...]]] = {
    "clips": ("a labelled clip and person", CLIP_COLUMNS, ("p_<class>", "<unit>_mean", "<unit>_peak", *MEDIA_SPAN)),
    "frames": ("a face of an analysed frame", FRAME_COLUMNS, ("<unit>_r", *MEDIA_MOMENT)),
    "tracks": (
        "a person",
        TRACK_COLUMNS,
        ("p_<class>", "<unit>_mean", "share_<class>", "<unit>_peak", "<unit>_present", *MEDIA_SPAN),
    ),
    "segments": ("a stretch of one person's time in which one thing holds", SEGMENT_COLUMNS, ()),
    "captions": ("a described clip, with --captions", CAPTION_COLUMNS, tuple(MEDIA_SPAN)),
    "files": (
        "a file of a study",
        FILE_COLUMNS,
        ("p_<class>", "<unit>_mean", "share_<class>", "<unit>_peak", "<unit>_present", *MEDIA_SPAN),
    ),
}
_KINDS = {
    TEXT: "text",
    WHOLE: "integer",
    TIME: "number, 3 digits",
    SHARE: "number, 6 digits",
    SCORE: "number, 4 digits",
}


def dictionary() -> Iterator[tuple[str, str, str, str]]:
    """Yield table, column, type and meaning of every column in its place."""
    for name, (_, columns, more) in TABLES.items():
        for column in (*columns, *more):
            yield name, column, _KINDS[DICTIONARY[column].format], DICTIONARY[column].meaning


def to_markdown() -> str:
    """Return the dictionary as the page that ``docs/tables.md`` holds (``python -m streamfer.export.columns``)."""
    lines = ["# Columns", "", "Written by `python -m streamfer.export.columns > docs/tables.md`; a test compares."]
    for name, (row, _, _) in TABLES.items():
        lines += ["", f"## {name}", "", f"A row: {row}.", "", "| column | type | meaning |", "|---|---|---|"]
        lines += [f"| `{column}` | {kind} | {text} |" for table, column, kind, text in dictionary() if table == name]
    return "\n".join(lines)


if __name__ == "__main__":
    print(to_markdown())
