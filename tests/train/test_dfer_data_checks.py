"""What is looked for in a recipe's data before it trains, and how it is told."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_lists import checked, config, frame_folder, written

from streamfer.errors import ConfigError
from streamfer.video import write_video
from streamfer_train.dfer_clip import checks
from streamfer_train.dfer_clip.checks import CheckReport, check_clips


def kinds(report: CheckReport) -> dict[str, int]:
    return dict(Counter(f"{problem.severity}: {problem.kind}" for problem in report.problems))


def test_sound_data_has_nothing_to_say(tmp_path: Path) -> None:
    for number in range(1, 15):
        frame_folder(tmp_path / "clips" / f"{number:05d}", 2)
    lines = [f"/x/{number:05d} 2 {number % 7}" for number in range(1, 15)]
    report = checked(tmp_path, "\n".join(lines[:7]), "\n".join(lines[7:]))
    assert report.problems == ()
    assert report.text() == "0 errors, 0 warnings in 14 clips"
    report.raise_for_errors()
    (fold,) = report.folds
    assert (len(fold.train), len(fold.held_out), len(fold.test)) == (7, 0, 7)
    assert {clip.kind for clip in fold.train} == {"frames"}
    assert sum(fold.counts()["train"].values()) == 7


def test_every_fault_of_the_data_is_listed_at_once(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    for number, frames in {1: 3, 2: 2, 3: 5, 4: 0, 6: 3, 7: 3}.items():
        frame_folder(clips / f"{number:05d}", frames)
    (clips / "00001" / "Thumbs.db").write_bytes(b"x")
    (clips / "00001" / ".DS_Store").write_bytes(b"x")
    train = "".join(f"/x/{number:05d} 3 {number - 1}\n" for number in range(1, 6))
    train += "/x/00006 3 0\n/x/00006 3 1\n/x/7\nx 3 12\n"
    report = checked(tmp_path, train, "/x/00001 3 0\n/x/00007 3 6\n")
    assert kinds(report) == {
        "warning: stray files": 1,
        "error: missing frames": 1,
        "warning: other frame count": 1,
        "error: empty clip": 1,
        "error: missing clip": 1,
        "error: two labels": 1,
        "error: too few fields": 1,
        "error: unknown label": 1,
        "error: in train and test": 1,
        "warning: class without clips": 2,
    }
    text = report.text()
    assert text.startswith("7 errors, 4 warnings in 7 clips")
    assert ".DS_Store, Thumbs.db" in text
    with pytest.raises(ConfigError, match=r"the data cannot be used: 1 x .*first: .*train_1.txt:") as caught:
        report.raise_for_errors(Path("run/data.txt"))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("all of them: run/data.txt")


def test_counts_of_the_disk_may_be_believed(tmp_path: Path) -> None:
    frame_folder(tmp_path / "clips" / "00001", 2)
    frame_folder(tmp_path / "clips" / "00002", 9)
    report = checked(tmp_path, "/x/00001 5 0", "/x/00002 5 0", count="disk")
    assert report.errors == ()
    (fold,) = report.folds
    assert (fold.train[0].frames, fold.test[0].frames) == (2, 9)
    # The authors sample within the listed count even where there are more.
    assert checked(tmp_path, "/x/00002 5 0", "/x/00002 5 0").folds[0].train[0].frames == 5


def test_a_wrong_root_is_guessed(tmp_path: Path) -> None:
    report = checked(tmp_path, "/x/1 5 0\n/x/2 5 1", "/x/3 5 2")
    with pytest.raises(ConfigError, match=r"not one clip is there: set data\.root"):
        report.raise_for_errors()


def test_the_report_shows_examples_and_all_on_request(tmp_path: Path) -> None:
    report = checked(tmp_path, "\n".join(f"/x/{n} 5 0" for n in range(20)), "/x/90 5 2")
    assert "... and 16 more" in report.text()
    assert report.text(examples=None).count("no such folder") == 21


def test_ferv39k_folders_contradict_wrong_labels(tmp_path: Path) -> None:
    frame_folder(tmp_path / "clips" / "Action" / "Happy" / "0001", 3)
    frame_folder(tmp_path / "clips" / "Action" / "Sad" / "0001", 3)
    report = checked(tmp_path, "/x/Action/Happy/0001 3 3", "/x/Action/Sad/0001 3 1", dataset="ferv39k")
    assert [(p.kind, p.what) for p in report.errors] == [
        ("label against folder", f"labelled anger, but lies in {tmp_path}/clips/Action/Happy")
    ]


def film(path: Path, frames: int = 6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, (np.full((32, 48, 3), 20 * number, np.uint8) for number in range(frames)), 10)
    return path


def test_videos_are_found_with_and_without_suffix_and_opened(tmp_path: Path) -> None:
    film(tmp_path / "clips" / "00001.mp4")
    film(tmp_path / "clips" / "2.mp4")
    (tmp_path / "clips" / "00003.mp4").write_bytes(b"")
    (tmp_path / "clips" / "00004.mp4").write_bytes(b"not a film")
    report = checked(tmp_path, "/x/00001 6 0\n/x/00002 6 1\n/x/00003 6 1\n/x/00004 6 1", "/x/00005 6 0", input="video")
    assert [clip.path for clip in report.folds[0].train] == [f"{tmp_path}/clips/00001.mp4", f"{tmp_path}/clips/2.mp4"]
    assert {clip.kind for clip in report.folds[0].train} == {"video"}
    assert [problem.kind for problem in report.errors] == ["unreadable clip", "unreadable clip", "missing clip"]


def test_listed_films_are_frames_where_these_are_there_and_their_order_is_told(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg", "10.jpg"):
        (tmp_path / "clips" / "00001").mkdir(parents=True, exist_ok=True)
        (tmp_path / "clips" / "00001" / name).write_bytes(b"")
    frame_folder(tmp_path / "clips" / "00002", 12)
    report = checked(tmp_path, "00001.mp4 happiness", "00002.mp4\tfear", dataset="mafw", labels="names")
    (fold,) = report.folds
    assert (fold.train[0].path, fold.train[0].frames) == (f"{tmp_path}/clips/00001", 3)
    assert fold.test[0].kind == "frames"
    (told,) = [problem.what for problem in report.warnings if problem.kind == "order of frames"]
    assert told.startswith("10.jpg comes before 2.jpg, because frames are read by character")


def test_parts_of_one_video_warn_and_parts_of_folders_stop(tmp_path: Path) -> None:
    film(tmp_path / "clips" / "a.mp4")
    frame_folder(tmp_path / "clips" / "b", 3)
    train = written(tmp_path, "train.csv", "video,label,start,end,group\na.mp4,happy,0,0.3,x\nb,sad,0,1,y\n")
    test = written(tmp_path, "test.csv", "video,label,start,end,group\na.mp4,happy,0.3,0.6,x\n")
    report = check_clips(config(dataset="csv", train=str(train), test=str(test), root=tmp_path / "clips"))
    assert kinds(report) == {
        "error: part of a folder": 1,
        "warning: one video in train and test": 1,
        "warning: class without clips": 2,
    }


def test_a_folder_is_looked_at_once_however_often_it_is_listed(tmp_path: Path, monkeypatch: Any) -> None:
    frame_folder(tmp_path / "clips" / "00001", 2)
    frame_folder(tmp_path / "clips" / "00002", 2)
    looked: list[str] = []
    real = checks._look

    def look(path: Any, config: Any) -> Any:
        looked.append(path)
        return real(path, config)

    monkeypatch.setattr(checks, "_look", look)
    for fold in (2, 3):
        written(tmp_path, f"train_{fold}.txt", "/x/00002 2 1\n" * 3)
        written(tmp_path, f"test_{fold}.txt", "/x/00001 2 0")
    report = checked(tmp_path, "/x/00001 2 0", "/x/00002 2 1", folds=(1, 2, 3))
    assert sorted(Path(path).name for path in looked) == ["00001", "00002"]
    assert kinds(report)["warning: listed twice"] == 4
    assert [len(fold.train) for fold in report.folds] == [1, 1, 1]
