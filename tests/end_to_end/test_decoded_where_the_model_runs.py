"""From a video that the model's device decodes to labels: pictures, crops and features never leave it.

Where there is no GPU, the CPU stands in for it: FFmpeg's pictures are given in the form that NVDEC gives, as tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from fakes.video import as_nvdec
from numpy.typing import NDArray
from skimage import data

import streamfer
from streamfer import build
from streamfer.faces import alignment
from streamfer.pipeline import analysis
from streamfer.records import ClipLabelled
from streamfer.video import container, surfaces
from streamfer.video.encode import write_video
from streamfer.video.pixels import Orientation, RgbConverter

Count = dict[str, int]

pytestmark = [pytest.mark.gpu] if torch.cuda.is_available() else []


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Count:
    """Count the pictures that lie where the model runs, and the crops that are cut there and on the host."""
    count = {"pictures": 0, "crops there": 0, "crops on the host": 0}
    if not torch.cuda.is_available():
        _stand_in(monkeypatch)
    else:
        surfaces.usable.cache_clear()

    def counted(name: str, function: Callable[..., Any], many: Callable[[Any], int]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            result = function(*arguments)
            count[name] += many(result)
            return result

        return call

    monkeypatch.setattr(
        surfaces, "on_device", counted("pictures", surfaces.on_device, lambda picture: picture is not None)
    )
    monkeypatch.setattr(analysis, "crop_surface", counted("crops there", alignment.crop_surface, len))
    monkeypatch.setattr(analysis, "crop_faces", counted("crops on the host", alignment.crop_faces, len))
    return count


def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [False]
    convert = RgbConverter.convert_both

    def opened(gpu: int | None, opening: Callable[[None], object]) -> tuple[object, bool]:
        asked[0] = gpu is not None
        return opening(None), asked[0]

    def as_nvdec_gives_it(
        converter: RgbConverter, frame: av.VideoFrame, turn: Orientation
    ) -> tuple[NDArray[np.uint8], torch.Tensor | None]:
        if not asked[0]:
            return convert(converter, frame, turn)
        found = surfaces.fetched(as_nvdec(frame), turn.apply_where_it_lies)
        assert found is not None
        return found

    monkeypatch.setattr(build, "gpu_of", lambda _device: 0)
    monkeypatch.setattr(container, "opened", opened)
    monkeypatch.setattr(surfaces, "_to_host", lambda rgb: rgb.numpy())
    monkeypatch.setattr(RgbConverter, "convert_both", as_nvdec_gives_it)


def labels(records: Iterable[streamfer.Record], most: int) -> list[ClipLabelled]:
    found = []
    for record in records:
        if isinstance(record.data, ClipLabelled):
            found.append(record.data)
        if len(found) == most:
            break
    return found


def settings(decode: str) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {"faces__detector": "builtin", "model__decode": decode, "model__device": device}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seconds of a face that moves, in H.264."""
    picture, path = data.astronaut(), tmp_path_factory.mktemp("films") / "short.mp4"
    corners = [(abs(number % 40 - 20), 100 + abs(number % 80 - 40)) for number in range(120)]
    write_video(path, (picture[y : y + 240, x : x + 240] for y, x in corners), 10, codec="libx264")
    return path


def alike(there: list[ClipLabelled], here: list[ClipLabelled]) -> None:
    assert [one.clip for one in there] == [other.clip for other in here]
    for one, other in zip(there, here, strict=True):
        for face, twin in zip(one.faces, other.faces, strict=True):
            assert face.emotions.keys() == twin.emotions.keys()
            np.testing.assert_allclose(list(face.emotions.values()), list(twin.emotions.values()), atol=0.03)


def test_a_file_has_the_labels_that_the_host_gives_it(film: Path, gpu: Count) -> None:
    here = streamfer.annotate(film, **settings("cpu")).records
    crops = gpu["crops on the host"]
    assert crops > 50
    assert gpu["crops there"] == gpu["pictures"] == 0
    there = streamfer.annotate(film, **settings("gpu")).records
    assert gpu["crops there"] == crops
    assert gpu["pictures"] >= crops
    assert gpu["crops on the host"] == crops
    alike(labels(there, 99), labels(here, 99))


def test_a_camera_is_followed_where_the_model_runs(
    rtsp_server: Callable[..., Any], long_face_film: Path, gpu: Count
) -> None:
    camera = streamfer.stream(rtsp_server("--file", str(long_face_film)).url(), **settings("auto"))
    found = labels(camera, 2)
    camera.close()
    assert len(found) == 2
    assert all(clip.faces[0].emotions for clip in found)
    assert gpu["crops there"] > 10
    assert gpu["pictures"] >= gpu["crops there"]
    assert gpu["crops on the host"] == 0
