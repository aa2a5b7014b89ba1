"""What people look at: the report in a browser, the figure, and the notebook that makes them."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas
import pytest
from PIL import Image
from pympi.Elan import Eaf

import streamfer
from streamfer.captions.vocabulary import ACTION_UNITS
from streamfer.config import load_config
from streamfer.export.plot import draw
from streamfer.pipeline.events import FrameFaces

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "study.ipynb"


@pytest.fixture(scope="module")
def annotation(tiny_model: Path, face_film: Path) -> streamfer.Annotation:
    settings = {"model.name": str(tiny_model), "faces.detector": "lbp", "sampling.fps": 4, "clip.seconds": 1}
    with streamfer.Session(load_config(None, settings, {}), salt="s", captions="all") as session:
        return session.annotate(face_film)


def page(annotation: streamfer.Annotation, folder: Path, **options: Any) -> tuple[Path, dict[str, Any]]:
    (path,) = [path for path in annotation.save(folder, "html", **options) if path.suffix == ".html"]
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=.(?!data:)", text.partition('id="data"')[0]), "it needs nothing else"
    return path, json.loads(text.partition('id="data">')[2].partition("</script>")[0])


def test_the_report_holds_what_was_found(annotation: streamfer.Annotation, tmp_path: Path) -> None:
    _, data = page(annotation, tmp_path)
    tracks = annotation.tracks[annotation.tracks.clips > 0]
    assert [person["clips"] for person in data["people"]] == tracks.clips.tolist()
    segments = annotation.segments
    own = segments[(segments.tier == "emotion") & (segments.track == tracks.track.iloc[0])]
    shown = [(begin, end, label) for begin, end, label, _ in data["people"][0]["emotion"]]
    assert shown == list(zip(own.media_begin_s, own.media_end_s, own.value, strict=True))
    assert all(face["image"].startswith("data:image/jpeg;base64,") for face in data["people"][0]["faces"])
    assert data["people"][0]["faces"]
    assert data["people"][0]["captions"]
    assert data["manifest"]["source_sha256"] == annotation.info.epoch_key


def test_action_units_have_their_names(annotation: streamfer.Annotation, tmp_path: Path) -> None:
    path, _ = page(annotation, tmp_path)
    named = dict(re.findall(r'(AU\d\d): "([^"]+)"', path.read_text(encoding="utf-8").partition("const named = {")[2]))
    assert named == {f"AU{number:02}": unit.name for number, unit in ACTION_UNITS.items()}


def test_keyframes_are_blurred_or_left_out(annotation: streamfer.Annotation, tmp_path: Path) -> None:
    clear, blurred, hidden = (
        [face["image"] for person in page(annotation, tmp_path / str(blur), blur_faces=blur)[1]["people"]
         for face in person["faces"]]
        for blur in (False, True, "strict")
    )  # fmt: skip
    assert len(clear) == len(blurred) > 0
    assert all(len(one) < 0.8 * len(other) for one, other in zip(blurred, clear, strict=True)), (
        "less detail, fewer bytes"
    )
    assert hidden == []


def test_a_face_that_nobody_read_is_blurred_too(annotation: streamfer.Annotation, tmp_path: Path) -> None:
    def aside(event: Any) -> Any:
        """Move the box of each face beside it, as if somebody else had been read there."""
        if not isinstance(event, FrameFaces):
            return event
        moved = [replace(face, box=(face.box[0] + face.box[2], *face.box[1:])) for face in event.faces]
        return replace(event, faces=tuple(moved))

    elsewhere = replace(annotation, events=tuple(map(aside, annotation.events)))
    clear, blurred = (
        [np.asarray(Image.open(io.BytesIO(base64.b64decode(face["image"].partition(",")[2]))).convert("L"), float)
         for face in page(elsewhere, tmp_path / str(blur), blur_faces=blur)[1]["people"][0]["faces"]]
        for blur in (False, True)
    )  # fmt: skip
    # The left third of a keyframe shows the half of the face that is really there.
    for one, other in zip(blurred, clear, strict=True):
        strip = (slice(40, 136), slice(0, 50))
        assert np.abs(np.diff(one[strip], axis=0)).mean() < 0.5 * np.abs(np.diff(other[strip], axis=0)).mean()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
def test_a_browser_shows_it_whatever_the_file_is_called(annotation: streamfer.Annotation, tmp_path: Path) -> None:
    name = "<script>alert(1)</script><img src=x onerror=alert(2)>.mp4"
    hostile = replace(annotation, spec=replace(annotation.spec, source_id=name.replace("/", "|")))
    path, _ = page(hostile, tmp_path / "out")
    plain = Path(shutil.copy(path, tmp_path / "page.html"))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    shown = subprocess.run([*command, plain.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
    body = shown.partition("<main")[2].partition("</main>")[0]
    assert "Person 1" in body
    assert "&lt;script&gt;" in body
    assert "<script" not in body
    assert "onerror=" not in re.sub(r"&lt;.*?&gt;", "", body)


def test_the_figure_has_a_row_a_person(annotation: streamfer.Annotation) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    axes = annotation.plot(units=2)
    rows = [label.get_text() for label in axes.get_yticklabels()]
    people = annotation.segments[annotation.segments.tier == "emotion"].track.unique()
    assert [row for row in rows if row.startswith("Person")] == [f"Person {track}" for track in people]
    assert axes.get_xlabel() == "seconds"
    damaged = annotation.segments.iloc[:1].assign(tier="damaged", track_id=None, track=np.nan)
    again = draw(pandas.concat([damaged, annotation.segments]), (), units=2)
    assert [label.get_text() for label in again.get_yticklabels()] == rows, "what is the file's is no person's"


def test_what_measurements_are_held_against_is_in_the_files(annotation: streamfer.Annotation, tmp_path: Path) -> None:
    name = annotation.source
    for baseline, said in (("3s", "3s"), (annotation, annotation.info.epoch_key)):
        annotation.save(tmp_path / said, "csv", baseline=baseline)
        assert json.loads((tmp_path / said / f"{name}.streamfer.json").read_text())["baseline"] == said
        assert pandas.read_csv(tmp_path / said / f"{name}.clips.csv").filter(like="_z").notna().any(axis=None)


def test_the_notebook_runs(face_film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(tmp_path)
    shutil.copy(face_film, "interview.mp4")
    for name in ("one", "two"):
        Path("interviews").mkdir(exist_ok=True)
        shutil.copy(face_film, f"interviews/{name}.mp4")
    names: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), names)
    assert Path("timeline.pdf").stat().st_size > 1000
    assert names["report"].complete
    assert "Person 1 emotion" in Eaf("tables/interview.mp4.eaf").get_tier_names()
    header = [cell.value for cell in openpyxl.load_workbook("tables/interview.mp4.xlsx")["frames"][1]]
    assert "AU12_r_z" in header
    assert len(names["people"].source.unique()) == 2
