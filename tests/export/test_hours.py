"""Files of hours: what is remembered of each frame and clip until the end is next to nothing."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from film_events import OPENED, SETTINGS, clip, frame

from streamfer.export import progress
from streamfer.export.folder import SourceFolder
from streamfer.files import Spill
from streamfer.video.locate import SourceSpec

#: What a minute of three people may leave in memory: kilobytes, where rows held as objects are megabytes.
A_MINUTE = 100_000
ALL = ("csv", "jsonl", "srt", "eaf", "boris", "bids", "html", "overlay")


@pytest.mark.parametrize(("formats", "profile"), [(("csv", "jsonl"), "streamfer"), (ALL, "pyfeat")])
def test_a_minute_more_costs_little_memory(tmp_path: Path, formats: tuple[str, ...], profile: str) -> None:
    settings = replace(SETTINGS, formats=formats, profile=profile)
    folder = SourceFolder(tmp_path, SourceSpec("film.mp4", "film.mp4", "file"), settings)
    folder.open()
    folder.add(OPENED)
    taken = []
    tracemalloc.start()
    for second in range(181):
        people = (1, 2, 3 + second // 10)
        for number in range(8):
            folder.add(frame(8 * second + number, people))
        for track in people:
            folder.add(clip(float(second), "neutral", track=track, smile=0.6))
        if second % 60 == 0:
            gc.collect()
            taken.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    folder.discard()
    # The first minute fills buffers; each tier of a file keeps numbers of its own.
    assert taken[3] - taken[1] < 2 * A_MINUTE * (1 if profile == "streamfer" else 4)


def test_a_list_on_the_disk_is_a_list() -> None:
    values: Spill[tuple[int, str]] = Spill(tuple)
    for number in range(3):
        values.append((number, "x" * number))
        assert values[0] == (0, "")
    assert (len(values), list(values), values[2]) == (3, [(0, ""), (1, "x"), (2, "xx")], (2, "xx"))
    with pytest.raises(IndexError):
        values[3]


def test_parts_of_earlier_runs_are_read_when_they_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np = pytest.importorskip("numpy")
    monkeypatch.setattr(progress, "EVERY", 0.0)
    before = progress.Progress(tmp_path, "same")
    keys = [bytes([number]) * 16 for number in range(5)]
    for number, key in enumerate(keys):
        before.put(bytes([100 + number]) * 16, np.full(3, -1, np.float32))
        before.put(key, np.full(number + 1, number, np.float32))
        before.checkpoint(["film.mp4"])
    parts = sorted(tmp_path.rglob("*.safetensors"))
    assert len(parts) == 5
    parts[3].write_bytes(parts[3].read_bytes()[:-40])
    later = progress.Progress(tmp_path, "same")
    later.over(models())
    for number in (4, 0, 1, 2, 0, 4):
        found = later.get(keys[number])
        assert found is not None
        assert found.tolist() == [number] * (number + 1)
    assert later.get(keys[3]) is None, "what is damaged is computed again"
    assert later.get(b"?" * 16) is None
    later.finished("film.mp4")
    assert list(tmp_path.rglob("*.safetensors")) == [parts[3]]


def models() -> object:
    """Models of which nothing is asked."""
    from fakes.faces import FakeDetector
    from fakes.models import FakeExpressionModel

    from streamfer.build import LoadedModels
    from streamfer.threads import plan_threads

    return LoadedModels(FakeExpressionModel(), (FakeDetector(),), plan_threads(1))
