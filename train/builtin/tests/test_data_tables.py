"""Whatever is wrong with the data sets is one line that names the file: for both recipes, file by file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faces_data import write_sets

from streamfer.errors import SourceNotFoundError, SourceUnreadableError, UserError
from streamfer_builtin.faces import sets
from streamfer_builtin.faces.evaluate import video_references
from streamfer_builtin.faces.frames import frames, known_videos
from streamfer_builtin.faces.views import Views
from streamfer_builtin.mini import data
from streamfer_builtin.mini.units import BLENDSHAPE_COLUMNS

FACES = (sets.CROWDS, sets.BACKGROUNDS, sets.SCENES)
Rows = list[dict[str, Any]]


def write_expressions(root: Path) -> None:
    """Four pictures of every set that the expression model learns from."""
    jpeg = _jpeg()
    pictures: Rows = [{"image": jpeg, "label": "fear", "source_id": f"{name}.jpg"} for name in "abcd"]
    faces: Rows = [{"image": jpeg, "emotion": "fear", "source_id": f"{name}.jpg", "identity": name} for name in "abcd"]
    votes: Rows = [{"source_id": f"{name}.jpg"} | dict.fromkeys((*data.CLASSES, "contempt", "unknown", "NF"), 3)
                   for name in "abcd"]  # fmt: skip
    scores: Rows = [{"source": "faces", "source_id": f"{name}.jpg", "yaw": 1.0, "pitch": 2.0}
                    | dict.fromkeys(BLENDSHAPE_COLUMNS, 0.5) for name in "abcd"]  # fmt: skip
    for split in ("train", "val"):
        write(root / f"fer2013/{split}.parquet", pictures)
        write(root / f"fer2013/ferplus_{split}.parquet", votes)
    write(root / "faces/faces.parquet", faces)
    write(root / "blendshapes/blendshapes.parquet", scores)


def _jpeg() -> bytes:
    return bytes(cv2.imencode(".jpg", np.zeros((48, 48), np.uint8))[1])


def write(path: Path, rows: Rows) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_sets(tmp_path)
    write_expressions(tmp_path)
    return tmp_path


READERS: dict[str, Callable[[Path], object]] = {
    **dict.fromkeys(FACES, Views),
    **dict.fromkeys(("fer2013/train.parquet", "fer2013/ferplus_val.parquet", "faces/faces.parquet"), data.load),
    "blendshapes/blendshapes.parquet": data.load,
}


def refused(root: Path, name: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        READERS[name](root)
    assert Path(name).stem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", READERS)
def test_every_file_is_read_as_it_is(name: str, root: Path) -> None:
    READERS[name](root)


@pytest.mark.parametrize("name", READERS)
def test_an_absent_or_damaged_file_is_named(name: str, root: Path) -> None:
    path = root / name
    whole = path.read_bytes()
    for content in (b"", b"a,b\n1,2\n", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        refused(root, name, "no whole parquet file; fetch the data again")
    path.unlink()
    refused(root, name, "no such file; give the folder")


@pytest.mark.parametrize("name", READERS)
def test_a_column_that_is_absent_or_has_an_empty_cell_is_named(name: str, root: Path) -> None:
    path = root / name
    good = pq.read_table(path)
    for column in good.column_names:
        pq.write_table(good.drop_columns([column]), path)
        refused(root, name, f"has no column '{column}'; fetch")
        rows = good.to_pylist()
        rows[1][column] = None
        pq.write_table(pa.Table.from_pylist(rows, good.schema), path)
        refused(root, name, f"column '{column}' has an empty cell")
    pq.write_table(good.slice(0, 0), path)
    refused(root, name, "has no rows; fetch the data again")


@pytest.mark.parametrize("name", [*FACES, "fer2013/train.parquet", "faces/faces.parquet"])
@pytest.mark.parametrize("content", [b"", b"no picture", _jpeg()[:30]])
def test_a_picture_that_is_none_is_named(content: bytes, name: str, root: Path) -> None:
    rows = pq.read_table(root / name).to_pylist()
    for row in rows:
        row["image"] = content
    write(root / name, rows)
    with pytest.raises(SourceUnreadableError, match="the stored bytes are no picture; fetch the data again"):
        READERS[name](root)


def change(root: Path, name: str, **values: Any) -> None:
    rows = pq.read_table(root / name).to_pylist()
    write(root / name, [row | values for row in rows])


def test_labels_of_another_set_are_named(root: Path) -> None:
    change(root, "fer2013/train.parquet", label="contempt")
    refused(root, "fer2013/train.parquet", "label 'contempt'; expected one of happiness, sadness")


def test_faces_without_an_expression_that_is_known_are_named(root: Path) -> None:
    change(root, "faces/faces.parquet", emotion="contempt")
    refused(root, "faces/faces.parquet", "no picture shows one of happiness")


@pytest.mark.parametrize(
    "values",
    [{"boxes": [[1.0, 2.0, 3.0]]}, {"boxes": [[1.0, 2.0, 3.0, 4.0]] * 3}, {"landmarks": [[[1.0, 2.0]]]},
     {"sure": [True]}, {"source": 7}],
)  # fmt: skip
def test_labels_that_do_not_belong_together_are_named(values: dict[str, Any], root: Path) -> None:
    change(root, sets.CROWDS, **values)
    refused(root, sets.CROWDS, "a value of another kind")


def test_videos_that_are_absent_or_not_described_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"ground_truth\.json: no such file"):
        known_videos(tmp_path)
    for content in ("", "[]", '{"videos": {"a.mp4": {}}}', json.dumps({"videos": {"a.mp4": None}})):
        (tmp_path / "ground_truth.json").write_text(content, encoding="utf-8")
        with pytest.raises(SourceUnreadableError, match=r"ground_truth\.json: does not say who is in which video"):
            known_videos(tmp_path)
    for name in ("absent.yuv", "absent.mp4"):
        with pytest.raises(SourceNotFoundError, match=rf"{name}: no such file"):
            next(frames(tmp_path / name))


def test_an_absent_teacher_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        SourceNotFoundError, match=r"yunet_n_dynamic\.onnx: no such file; give the folder .* data=FOLDER"
    ):
        next(video_references(tmp_path, "tune"))
