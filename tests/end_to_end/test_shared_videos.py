"""Every video of the development data, annotated by one command: people, faces in each second, tables, records."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import jsonschema
import pytest
from command_line import Finished, streamfer
from record_examples import load_schema

from streamfer.records.envelope import TYPE_PREFIX

VIDEOS = (
    "WolfgangLanger_Pexels.mp4",
    "single_face.mp4",
    "face_noface.mov",
    "noface_face.mov",
    "no_face.mp4",
    "multi_face.jpg",
    "single_face.jpg",
    "head-pose-face-detection-female-and-male.gif",
    "face-demographics-walking-and-pause.gif",
    "head-pose-face-detection-female.gif",
    "asl_sorry.mkv",
    "CiscoVT2people_320x192_12fps.yuv",
    "CI1_FT_B.264",
)


@pytest.fixture(scope="module")
def truth(shared_data: Path) -> dict[str, dict[str, Any]]:
    videos: dict[str, dict[str, Any]] = json.loads((shared_data / "videos" / "ground_truth.json").read_text())["videos"]
    return videos


@pytest.fixture(scope="module", params=[pytest.param("yunet", marks=pytest.mark.slow), "builtin"])
def annotated(
    request: pytest.FixtureRequest,
    shared_data: Path,
    yunet: Path,
    tiny_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Finished, Path]:
    """The whole folder in one run for each detector, and where its results are."""
    detector = yunet if request.param == "yunet" else "builtin"
    out = tmp_path_factory.mktemp("annotated")
    words = ("annotate", shared_data / "videos", "-o", out, "--detector", detector, "--model", tiny_model)
    return streamfer(*words, "--track-salt", "s"), out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def faces_each_second(frames: list[dict[str, str]]) -> dict[int, float]:
    """Median number of faces over the analysed frames of each second."""
    counts: dict[int, dict[str, int]] = defaultdict(dict)
    for row in frames:
        counts[int(float(row["seconds"]))][row["frame"]] = int(row["faces"])
    return {second: median(frames.values()) for second, frames in counts.items()}


def test_the_list_above_is_the_folder(truth: dict[str, Any]) -> None:
    assert set(VIDEOS) == set(truth)


def test_every_file_comes_to_its_end(annotated: tuple[Finished, Path]) -> None:
    done, out = annotated
    assert done.code == 0
    assert done.complaints == []
    assert f"{len(VIDEOS)} done; results in {out}/" in done.err
    assert "no face long enough for a clip in: no_face.mp4" in done.err
    assert all(name[:16] in done.out for name in VIDEOS)
    tables = ("clips", "tracks", "segments")
    suffixes = (*(f".{table}.csv" for table in tables), ".frames.csv", ".records.jsonl", ".streamfer.json")
    study = {f"study.{table}.csv" for table in (*tables, "files")}
    assert {path.name for path in out.iterdir()} == study | {f"{n}{suffix}" for n in VIDEOS for suffix in suffixes}


@pytest.mark.parametrize("name", VIDEOS)
def test_people(annotated: tuple[Finished, Path], truth: dict[str, dict[str, Any]], name: str) -> None:
    people = {row["track_id"] for row in rows(annotated[1] / f"{name}.clips.csv")}
    assert len(people) == truth[name]["distinct_people"]


@pytest.mark.parametrize("name", VIDEOS)
def test_faces_in_each_second(annotated: tuple[Finished, Path], truth: dict[str, dict[str, Any]], name: str) -> None:
    facts = truth[name]
    found = faces_each_second(rows(annotated[1] / f"{name}.frames.csv"))
    unclear = facts.get("seconds_with_change_inside", [])
    expected = {second: count for second, count in enumerate(facts["faces_per_second"]) if second not in unclear}
    assert {second: count for second, count in found.items() if second not in unclear} == expected


@pytest.mark.parametrize("name", VIDEOS)
def test_records_are_valid_and_equal_the_table(annotated: tuple[Finished, Path], name: str) -> None:
    entries = [json.loads(line) for line in (annotated[1] / f"{name}.records.jsonl").read_text().splitlines()]
    for entry in entries:
        assert entry["subject"] == name
        jsonschema.validate(entry["data"], load_schema(entry["type"].removeprefix(TYPE_PREFIX)))
    clips = [entry for entry in entries if entry["type"].endswith("clip.labelled.v1")]
    table = rows(annotated[1] / f"{name}.clips.csv")
    assert [entry["id"] for entry in clips] == [row["clip_id"] for row in table]
    for entry, row in zip(clips, table, strict=True):
        emotions = entry["data"]["faces"][0]["emotions"]
        assert sum(emotions.values()) == pytest.approx(1, abs=1e-3)
        assert [f"p_{label}" for label in emotions] == [column for column in row if column.startswith("p_")]
        assert row["label"] == max(emotions, key=emotions.__getitem__)
        assert 0 < int(row["frames_real"]) <= int(row["frames_sampled"])


def test_ids_are_unique(annotated: tuple[Finished, Path]) -> None:
    ids = [row["clip_id"] for name in VIDEOS for row in rows(annotated[1] / f"{name}.clips.csv")]
    assert len(ids) == len(set(ids)) > 40
