"""Judgements on cases with known counts, frame readers, tables, and user errors of the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from streamfer.errors import SourceNotFoundError, SourceUnreadableError
from streamfer.faces import Detections
from streamfer_builtin.faces import sets
from streamfer_builtin.faces.__main__ import main
from streamfer_builtin.faces.config import load_config
from streamfer_builtin.faces.evaluate import Thresholds, group_table, summary_table, video_table
from streamfer_builtin.faces.frames import frames, known_videos
from streamfer_builtin.faces.labels import Labels
from streamfer_builtin.faces.metrics import Face, Outcome, judge, landmark_error, recall

POINTS = np.array([[10, 10], [30, 10], [20, 20], [12, 30], [28, 30]], np.float32)
PICTURE = np.full((64, 64, 3), 80, np.uint8)


def judged(boxes: list[list[float]], reference: list[list[float]], ignored: list[bool], shift: float = 0.0) -> Outcome:
    count = len(boxes)
    found = Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.5, count, dtype=np.float32),
        np.repeat(POINTS[None], count, axis=0) + np.float32(shift),
    )
    labels = Labels(
        np.array(reference, np.float32).reshape(-1, 4),
        np.repeat(POINTS[None], len(reference), axis=0),
        np.array(ignored, bool),
        np.ones(len(reference), bool),
    )
    outcome = Outcome()
    judge(outcome, found, labels, np.zeros(len(reference), bool), picture=PICTURE, grey=False)
    return outcome


def test_a_second_detection_of_one_face_is_false() -> None:
    outcome = judged([[0, 0, 40, 40], [2, 2, 42, 42]], [[0, 0, 40, 40]], [False])
    assert recall(outcome.faces, 0.6) == 1
    assert outcome.false == [0.5]


def test_doubtful_faces_are_neither_right_nor_wrong() -> None:
    assert judged([[0, 0, 40, 40]], [[0, 0, 40, 40]], [True]) == Outcome(1, [], [])
    inside = judged([[5, 5, 15, 15]], [[0, 0, 40, 40]], [True])
    assert inside.false == []
    beside = judged([[38, 38, 60, 60]], [[0, 0, 40, 40]], [True])
    assert len(beside.false) == 1


def test_faces_below_ten_pixels_are_doubtful() -> None:
    outcome = judged([[0, 0, 9, 9]], [[0, 0, 9, 9]], [False])
    assert (outcome.faces, outcome.false) == ([], [])


def test_half_overlap_is_the_limit() -> None:
    assert recall(judged([[0, 0, 40, 30]], [[0, 0, 40, 40]], [False]).faces, 0.5) == 1
    far = judged([[0, 0, 40, 15]], [[0, 0, 40, 40]], [False])
    assert recall(far.faces, 0.5) == 0
    assert len(far.false) == 1


def test_a_face_is_found_at_its_score_and_above() -> None:
    faces = judged([[0, 0, 40, 40]], [[0, 0, 40, 40]], [False]).faces
    assert [recall(faces, threshold) for threshold in (0.3, 0.89, 0.95)] == [1, 1, 0]
    assert np.isnan(recall([], 0.5))


def test_landmark_error_is_in_eye_distances() -> None:
    faces = judged([[0, 0, 40, 40]], [[0, 0, 40, 40]], [False], shift=1.0).faces
    assert landmark_error(faces, 0.5) == pytest.approx(np.sqrt(2) / 20)


def sums(false: list[float]) -> dict[str, Outcome]:
    face = Face(20, profile=False, grey=False, light=80, score=0.7, error=0.1)
    quiet = Outcome(100, [face], [])
    loud = Outcome(100, [face], false)
    return {"crowds": loud, "crowds without colour": quiet, "backgrounds": quiet, "a.mp4": quiet}


def test_the_threshold_is_the_lowest_allowed_one() -> None:
    assert Thresholds.chosen(sums([])) == Thresholds(0.05, 0.05)
    # Five of a hundred pictures may show a false face: the sixth highest score decides.
    many = [0.9, 0.8, 0.7, 0.6, 0.5, 0.405]
    assert Thresholds.chosen(sums(many)) == Thresholds(0.41, 0.41)
    # A title that passes for a face is no reason to miss faces of photographs.
    assert Thresholds.chosen(sums([]) | {"a.mp4": Outcome(100, [], many)}) == Thresholds(0.05, 0.41)


def test_tables_have_a_row_a_detector_group_and_video() -> None:
    results = [
        ("ours", Thresholds(0.6, 0.65), sums([0.7]), 8.0),
        ("theirs", Thresholds(0.8, 0.8), sums([]), 70.0),
    ]
    summary = summary_table(results)
    assert summary[2].startswith("| ours | 0.60 | nan | 1.000 | nan | 0.010 | 0.000 |")
    assert "| 0.65 | 1.000 | 0.000 | 8.0 |" in summary[2]
    assert summary[3].startswith("| theirs | 0.80 | nan | 0.000 |")
    assert "| 16-32 px | 1 | 1.000 | 0.000 |" in group_table(results)
    assert "| a.mp4 | 100 | 1 | 1.000, 0.000 | 0.000, 0.000 |" in video_table(results)


def test_the_shipped_configuration_is_valid() -> None:
    config = load_config(Path(__file__).parents[1] / "configs" / "faces.yaml", ["train.steps=7"])
    assert config.train.steps == 7
    assert config.data.name == "data"


def test_raw_and_described_videos_are_read(tmp_path: Path) -> None:
    frame = np.full(320 * 192 * 3 // 2, 128, np.uint8)
    np.concatenate([frame, frame]).tofile(tmp_path / "two.yuv")
    pictures = list(frames(tmp_path / "two.yuv"))
    assert [picture.shape for picture in pictures] == [(192, 320, 3)] * 2
    described = {
        "two.yuv": {"faces_per_second": [1], "distinct_people": 2},
        "none.mp4": {"faces_per_second": [0, 0], "distinct_people": 0},
        "part.mp4": {
            "faces_per_second": [1, 0],
            "distinct_people": 1,
            "face_intervals": [
                {"first_frame": 0, "last_frame": 4, "faces": 1},
                {"first_frame": 5, "last_frame": 9, "faces": 0},
            ],
        },
    }
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "ground_truth.json").write_text(json.dumps({"videos": described}))
    always, never, partly = known_videos(tmp_path / "videos")
    assert always.shows_face(1)
    assert not never.shows_face(0)
    assert [partly.shows_face(index) for index in (4, 5)] == [True, False]
    assert sets.test_videos(tmp_path) == ("two.yuv",)


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
            "work: w\ndata: r\ncolour: red",
            [],
            "colour: unknown setting; known here: data, work, device, workers, train; "
            "see train/builtin/configs/faces.yaml",
        ),
        ("work: w\ndata: r\ntrain: {sides: [100]}", [], "multiple of 32"),
        ("work: w\ndata: r", ["--set", "train.steps"], "write train.steps=VALUE"),
        ("work: w\ndata: r", ["--set", "work.x=1"], "holds a value"),
        ("work: w\ndata: absent", [], "no such file"),
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
