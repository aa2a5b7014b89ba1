"""Metrics on cases with known counts, frame readers, and user errors of the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from streamfer.errors import SourceNotFoundError, SourceUnreadableError
from streamfer_builtin.faces.__main__ import main
from streamfer_builtin.faces.config import load_config
from streamfer_builtin.faces.detectors import Found
from streamfer_builtin.faces.evaluate import chosen_threshold, sweep_table, totals
from streamfer_builtin.faces.frames import frames, known_videos
from streamfer_builtin.faces.labels import Labels
from streamfer_builtin.faces.large_frames import find_in_tiles, walls
from streamfer_builtin.faces.metrics import Reference, Tally, tally
from streamfer_builtin.faces.shards import Shard, coded_jpeg
from streamfer_builtin.faces.teacher import TeacherFaces
from streamfer_builtin.faces.teacher_noise import MARGIN, self_disagreement

POINTS = np.array([[10, 10], [30, 10], [20, 20], [12, 30], [28, 30]], np.float32)


def found(boxes: list[list[float]], shift: float = 0.0) -> Found:
    count = len(boxes)
    points = np.repeat(POINTS[None], count, axis=0) + np.float32(shift)
    return Found(np.array(boxes, np.float32).reshape(-1, 4), points, np.linspace(0.9, 0.5, count, dtype=np.float32))


def reference(boxes: list[list[float]], counted: list[bool]) -> Reference:
    points = np.repeat(POINTS[None], len(boxes), axis=0)
    return Reference(np.array(boxes, np.float32).reshape(-1, 4), points, np.array(counted, bool))


def test_a_second_detection_of_one_face_is_false() -> None:
    result = tally(found([[0, 0, 40, 40], [2, 2, 42, 42]]), reference([[0, 0, 40, 40]], [True]))
    assert (result.faces, result.hits, result.false) == (1, 1, 1)


def test_uncounted_faces_are_neither_hit_nor_false() -> None:
    result = tally(found([[0, 0, 40, 40]]), reference([[0, 0, 40, 40]], [False]))
    assert (result.faces, result.hits, result.false) == (0, 0, 0)
    assert np.isnan(result.recall)


def test_half_overlap_is_the_limit() -> None:
    near = tally(found([[0, 0, 40, 30]]), reference([[0, 0, 40, 40]], [True]))
    far = tally(found([[0, 0, 40, 15]]), reference([[0, 0, 40, 40]], [True]))
    assert (near.hits, near.false) == (1, 0)
    assert (far.hits, far.false) == (0, 1)


def test_landmark_error_is_in_eye_distances() -> None:
    result = tally(found([[0, 0, 40, 40]], shift=1.0), reference([[0, 0, 40, 40]], [True]))
    assert result.landmark_error == pytest.approx(np.sqrt(2) / 20)


def test_tallies_add_up() -> None:
    one = tally(found([[0, 0, 40, 40]]), reference([], []))
    both = one + tally(found([]), reference([[0, 0, 40, 40]], [True]))
    assert (both.pictures, both.false, both.pictures_with_false, both.recall) == (2, 1, 1, 0.0)
    assert both.false_per_picture == 0.5


def test_the_threshold_is_the_lowest_allowed_one() -> None:
    def sums(false: int) -> dict[str, Tally]:
        return {"composites": Tally(100, 10, 9, false, false), "pictures": Tally(100, 10, 9, 0, 0)}

    assert chosen_threshold({0.3: sums(9), 0.4: sums(2), 0.5: sums(0)}) == 0.4
    gathered = totals(sums(1) | {"a.mp4": Tally(10, 4, 4, 0, 0), "b.mp4": Tally(10, 4, 2, 1, 1)})
    assert gathered["videos"].recall == 0.75
    lines = sweep_table({0.3: sums(9), 0.5: sums(0)}).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| 0.30 | 0.900, 0.090 |")


def test_the_shipped_configuration_is_valid() -> None:
    config = load_config(Path(__file__).parents[1] / "configs" / "faces.yaml", ["train.steps=7"])
    assert config.train.steps == 7
    assert config.data.teacher_path().name == "yunet_n_dynamic.onnx"


def test_raw_and_described_videos_are_read(tmp_path: Path) -> None:
    frame = np.full(320 * 192 * 3 // 2, 128, np.uint8)
    np.concatenate([frame, frame]).tofile(tmp_path / "two.yuv")
    pictures = list(frames(tmp_path / "two.yuv"))
    assert [picture.shape for picture in pictures] == [(192, 320, 3)] * 2
    described = {
        "two.yuv": {"faces_per_second": [1]},
        "none.mp4": {"faces_per_second": [0, 0]},
        "part.mp4": {
            "faces_per_second": [1, 0],
            "face_intervals": [
                {"first_frame": 0, "last_frame": 4, "faces": 1},
                {"first_frame": 5, "last_frame": 9, "faces": 0},
            ],
        },
    }
    (tmp_path / "ground_truth.json").write_text(json.dumps({"videos": described}))
    always, never, partly = known_videos(tmp_path)
    assert always.shows_face(1)
    assert not never.shows_face(0)
    assert [partly.shows_face(index) for index in (4, 5)] == [True, False]


def test_walls_move_references_with_their_pictures() -> None:
    sample = (np.full((320, 320, 3), 9, np.uint8), reference([[10, 20, 60, 80]], [True]))
    (frame, seen), *rest = walls([sample] * 19)
    assert not rest
    assert frame.shape == (1080, 1920, 3)
    assert len(seen.boxes) == 18
    assert seen.boxes[7].tolist() == [330, 340, 380, 400]
    assert seen.landmarks[7, 0].tolist() == [330, 330]


def test_tiles_cover_the_frame_and_count_a_face_once() -> None:
    class WhiteSquares:
        """Finds the bright square of a picture wherever it is."""

        def find(self, picture: np.ndarray) -> Found:
            rows, columns = np.nonzero(picture[..., 0] > 200)
            if not len(rows):
                return found([])
            return found([[columns.min(), rows.min(), columns.max() + 1.0, rows.max() + 1.0]])

    for left, top in ((0, 0), (940, 520), (1000, 540), (1880, 1040)):
        frame = np.zeros((1080, 1920, 3), np.uint8)
        frame[top : top + 40, left : left + 40] = 255
        seen = find_in_tiles(WhiteSquares(), frame, (2, 2))
        # Where a tile cuts the square, the cut one may win by an equal score: nearly whole is enough.
        assert len(seen.boxes) == 1
        assert np.abs(seen.boxes[0] - [left, top, left + 40, top + 40]).max() <= 4


def test_a_teacher_that_moves_its_points_disagrees_by_that_much() -> None:
    class Shaky:
        """Sees the stored face, moved by two pixels of the picture it is shown."""

        def __init__(self, scale: float) -> None:
            self.scale = scale

        def faces(self, _picture: np.ndarray) -> TeacherFaces:
            points = POINTS[None] * np.float32(self.scale) + np.float32(MARGIN + 2)
            return TeacherFaces(np.zeros((1, 4), np.float32), points, np.ones(1, np.float32))

    picture = np.full((130, 130, 3), 50, np.uint8)
    shard = Shard.of([coded_jpeg(picture)] * 3, [Labels.single(np.array([0, 0, 40, 40], np.float32), POINTS)] * 3)
    count, error = self_disagreement(Shaky(0.5), shard, 0.5)
    assert count == 3
    assert error == pytest.approx(2 * np.sqrt(2) / 0.5 / 20)


def test_unreadable_videos_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    with pytest.raises(SourceUnreadableError, match=r"bad\.mp4"):
        list(frames(tmp_path / "bad.mp4"))
    with pytest.raises(SourceNotFoundError, match=r"ground_truth\.json"):
        known_videos(tmp_path)


@pytest.mark.parametrize(
    ("text", "extra", "said"),
    [
        (None, [], "no such configuration file"),
        ("- a list", [], "holds a list; expected sections of settings"),
        ("a: [", [], "not valid YAML at line 1"),
        (
            "work: w\ndata: {root: r}\ncolour: red",
            [],
            "colour: unknown setting; known here: data, work, pool, train; see train/builtin/configs/faces.yaml",
        ),
        ("work: w\ndata: {root: r}\ntrain: {sides: [100]}", [], "multiple of 32"),
        ("work: w\ndata: {root: r}", ["--set", "train.steps"], "write train.steps=VALUE"),
        ("work: w\ndata: {root: r}", ["--set", "work.x=1"], "holds a value"),
        ("work: w\ndata: {root: absent}", [], "no such file"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, extra: list[str], said: str
) -> None:
    path = tmp_path / "faces.yaml"
    if text is not None:
        path.write_text(text)
    work = [] if text is None or "work.x=1" in extra else ["--set", f"work={json.dumps(str(tmp_path))}"]
    assert main(["train", "-c", str(path), *work, *extra]) == 2
    message = capsys.readouterr().err.strip()
    assert said in message
    assert "\n" not in message
