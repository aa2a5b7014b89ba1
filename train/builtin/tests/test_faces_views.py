"""The split keeps folders apart, and views move pixels and labels alike."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from faces_data import write_sets
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfer.errors import SourceNotFoundError, SourceUnreadableError
from streamfer_builtin.faces import sets
from streamfer_builtin.faces import views as module
from streamfer_builtin.faces.degrade import Degrader
from streamfer_builtin.faces.labels import Labels, similarity
from streamfer_builtin.faces.lettering import letter
from streamfer_builtin.faces.occlude import occlude
from streamfer_builtin.faces.views import Views, covers, flat, seen

POINTS = np.array([[40, 50], [80, 48], [60, 70], [45, 90], [76, 91]], np.float32)
BOX = np.array([30, 20, 92, 104], np.float32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_sets(folder)
    return folder


def test_a_folder_is_on_one_side_and_val_is_set_aside() -> None:
    parts = {sets.part_of(f"a/b:folder {index}/{name}.jpg", "train") for index in (1, 5) for name in "xyz"}
    assert parts <= {"train", "tune"}
    for index in range(40):
        sides = {sets.part_of(f"a/b:folder {index}/{name}.jpg", "train") for name in "xyz"}
        assert len(sides) == 1
    assert sets.part_of("a/b:folder/x.jpg", "val") == "test"


def test_unrelated_pictures_of_one_folder_are_drawn_one_by_one() -> None:
    sources = [f"{sets.BY_PICTURE[0]}:images/{index}.png" for index in range(200)]
    assert {sets.part_of(source, "train") for source in sources} == {"train", "tune"}
    assert sets.part_of(f"{sets.COPIES[0]}:x/y.jpg", "train") == "train"


def test_the_parts_do_not_share_a_picture(root: Path) -> None:
    parts = [{each.source for each in sets.crowds(root, part)} for part in ("train", "tune", "test")]
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == 12
    assert parts[2] == {"some/where:0/a.jpg"}


def test_what_one_teacher_alone_saw_is_ignored(root: Path) -> None:
    for sample in sets.crowds(root, "train"):
        assert sample.labels.ignored.tolist() == [False, True]


def test_absent_and_damaged_sets_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"crowds\.parquet: no such file"):
        sets.crowds(tmp_path, "train")
    (tmp_path / "faces").mkdir()
    row = {"image": b"nothing", "source": "a/b:c/d.jpg", "split": "val"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "faces" / "backgrounds.parquet")
    with pytest.raises(SourceUnreadableError, match=r"a/b:c/d\.jpg"):
        sets.backgrounds(tmp_path, "test")
    (tmp_path / "faces" / "crowds.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(SourceUnreadableError, match=r"crowds\.parquet: no whole parquet file"):
        sets.crowds(tmp_path, "test")


def test_batches_depend_on_the_numbers_drawn_alone(root: Path) -> None:
    views = Views(root)
    first, again, other = (each.batch([1, step, 0], 4, 96) for each, step in ((views, 5), (Views(root), 5), (views, 6)))
    assert torch.equal(first.pictures, again.pictures)
    assert torch.equal(first.targets.boxes, again.targets.boxes)
    assert not torch.equal(first.pictures, other.pictures)


def test_faces_of_many_sizes_and_pictures_without_any_are_shown(root: Path) -> None:
    views, rng = Views(root), np.random.default_rng(1)
    sizes, empty = [], 0
    for _ in range(60):
        picture, labels = views.view(160, rng)
        assert picture.shape == (160, 160, 3)
        assert picture.dtype == np.uint8
        sizes += labels.sizes()[~labels.ignored].tolist()
        empty += int(len(labels) == 0)
    assert min(sizes) < 16
    assert max(sizes) > 60
    assert empty >= 3


@pytest.mark.parametrize(("share", "alike"), [(1.0, True), (0.0, False)])
def test_some_views_show_faces_at_the_size_at_which_the_product_reads_them(
    root: Path, monkeypatch: pytest.MonkeyPatch, share: float, alike: bool
) -> None:
    """A picture of 96 px would be enlarged to 640: as far as views go, which is 2.5 times, faces of 32 px to 80."""
    monkeypatch.setattr(module, "_AS_READ", share)
    views, rng, sizes = Views(root), np.random.default_rng(4), []
    for _ in range(40):
        _, labels = views.view(320, rng, strength=0.0)
        sizes += labels.sizes()[~labels.ignored].tolist()
    assert bool((np.abs(np.array(sizes) - 80) < 1).all()) is alike


@settings(max_examples=40, deadline=None)
@given(
    degrees=st.floats(-60, 60),
    size=st.floats(0.2, 1.6),
    x=st.floats(90, 220),
    y=st.floats(90, 220),
    mirror=st.booleans(),
)
def test_pixels_lie_where_the_labels_say(degrees: float, size: float, x: float, y: float, mirror: bool) -> None:
    """A bright dot at a landmark of a dark picture is found again at the moved landmark, to within a pixel."""
    dark = np.zeros((128, 128, 3), np.uint8)
    cv2.circle(dark, tuple(POINTS[2].astype(int).tolist()), max(2, round(3 / size)), (255, 255, 255), -1)
    labels = Labels.single(BOX, POINTS)
    sample = sets.Sample(dark, labels, np.zeros(1, bool), "here")
    matrix = similarity((61, 62), (x, y), size, degrees, mirror=mirror)
    canvas = seen(sample, matrix, np.zeros((320, 320, 3), np.uint8))
    weights = canvas[..., 0].astype(np.float64)
    rows, columns = np.mgrid[0:320, 0:320]
    centre = np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()
    assert np.abs(centre - labels.transformed(matrix).landmarks[0, 2]).max() < 1.0


@settings(max_examples=200, deadline=None)
@given(degrees=st.floats(-45, 45), size=st.floats(0.03, 2.0), x=st.floats(0.2, 0.8), y=st.floats(0.2, 0.8))
def test_a_view_that_a_picture_covers_has_no_pixel_left_open(degrees: float, size: float, x: float, y: float) -> None:
    """What was in memory before would make each run another."""
    picture = np.full((1800, 2400, 3), 128, np.uint8)
    sample = sets.Sample(picture, Labels.none(), np.zeros(0, bool), "here")
    matrix = similarity((2400 * x, 1800 * y), (32, 32), size, degrees)
    if covers(matrix, 64, 2400, 1800):
        assert (seen(sample, matrix, np.full((64, 64, 3), 255, np.uint8)) == 128).all()


def test_damage_keeps_shape_and_place() -> None:
    picture = np.full((96, 96, 3), 30, np.uint8)
    picture[40:56, 40:56] = 220
    degrader, kept = Degrader(), 0
    for seed in range(40):
        damaged = degrader.degraded(picture.copy(), np.random.default_rng(seed))
        assert damaged.shape == picture.shape
        assert damaged.dtype == np.uint8
        kept += int(damaged[44:52, 44:52].mean() > damaged[:30].mean())
    assert kept >= 38


def test_occluders_hide_a_part_of_a_face_and_leave_ignored_ones_alone() -> None:
    rng = np.random.default_rng(2)
    labels = Labels.single(BOX, POINTS)
    changed = []
    for _ in range(40):
        picture = np.full((128, 128, 3), 100, np.uint8)
        occlude(picture, labels, rng)
        changed.append(float((picture[20:104, 30:92] != 100).any(axis=2).mean()))
    assert max(changed) > 0.1
    assert max(changed) < 0.75
    untouched = flat(128, rng)
    before = untouched.copy()
    for _ in range(20):
        occlude(untouched, Labels.single(BOX, POINTS, ignored=True), rng)
    assert np.array_equal(untouched, before)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), side=st.integers(64, 200))
def test_what_is_written_over_a_picture_leaves_its_faces_alone(seed: int, side: int) -> None:
    rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
    small = np.float32(side / 128)
    labels = Labels.single(BOX * small, POINTS * small, ignored=seed % 2 == 0)
    picture, same = np.full((side, side, 3), 100, np.uint8), np.full((side, side, 3), 100, np.uint8)
    letter(picture, labels, rng)
    letter(same, labels, again)
    assert np.array_equal(picture, same)
    left, top, right, bottom = (BOX * small).astype(int)
    assert (picture[top : bottom + 1, left : right + 1] == 100).all()


def test_most_of_what_is_written_is_seen() -> None:
    rng, shown = np.random.default_rng(3), []
    for _ in range(60):
        picture = np.full((128, 128, 3), 100, np.uint8)
        letter(picture, Labels.none(), rng)
        shown.append(bool((picture != 100).any()))
    assert sum(shown) > 55
