"""Pictures decoded on a GPU: the same numbers as the CPU's, in memory of their own, and no end where it fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.stream import VideoStream
from fakes.video import as_nvdec
from numpy.typing import NDArray

from streamfer.build import _gpu_that_decodes
from streamfer.config import Config, LiveConfig
from streamfer.errors import SourceError, SourceUnreachableError
from streamfer.video import container, files, live, surfaces
from streamfer.video.connection import Arrival, Lost, Opened
from streamfer.video.container import NothingDecodesError
from streamfer.video.files import FileSource
from streamfer.video.frames import Frame
from streamfer.video.locate import find_sources
from streamfer.video.pixels import UPRIGHT, Orientation, RgbConverter

BT709, FULL = 1, 2
GPU = pytest.mark.gpu
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="what happens where there is none")


def scene(width: int, height: int, shift: int = 0) -> NDArray[np.uint8]:
    """Soft colours that move, with a hard edge."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    planes = [127 + 120 * np.sin((x + shift) / 23 + phase) * np.cos(y / (17 + phase)) for phase in (0, 2, 4)]
    image = np.stack(planes, axis=-1).astype(np.uint8)
    image[height // 3 : height // 2, width // 4 : width // 2] = (250, 20, 40)
    return image


def decoded(width: int, height: int, form: str, colours: int = 2, span: int = 1) -> av.VideoFrame:
    """A picture as a decoder of a CPU gives it."""
    frame = av.VideoFrame.from_ndarray(scene(width, height), format="rgb24")
    matrix, full = ("ITU709" if colours == BT709 else "ITU601"), "JPEG" if span == FULL else "MPEG"
    frame = frame.reformat(format=form, dst_colorspace=matrix, dst_color_range=full)
    frame.colorspace, frame.color_range = colours, span
    return frame


def differences(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.int16]:
    return np.subtract(one, other, dtype=np.int16)


@pytest.mark.parametrize(
    ("size", "colours", "span"),
    [((640, 360), 2, 1), ((1920, 1080), BT709, 1), ((638, 362), 5, FULL), ((320, 240), 9, 0)],
)
def test_pictures_of_eight_bits_equal_those_of_the_cpu(size: tuple[int, int], colours: int, span: int) -> None:
    frame = decoded(*size, "yuv420p", colours, span)
    rgb = surfaces.on_device(as_nvdec(frame))
    assert rgb is not None
    np.testing.assert_array_equal(rgb.numpy(), RgbConverter().convert(frame, UPRIGHT))


def test_those_of_ten_bits_are_near_them() -> None:
    frame = decoded(640, 360, "yuv420p10le", BT709)
    rgb = surfaces.on_device(as_nvdec(frame))
    assert rgb is not None
    # FFmpeg smooths their colours over neighbours: at the hard red edge, the two differ.
    apart = differences(rgb.numpy(), RgbConverter().convert(frame, UPRIGHT))
    assert np.abs(apart).mean() < 2.5
    assert np.abs(apart.mean(axis=(0, 1))).max() < 1.2


@pytest.mark.parametrize(("size", "form"), [((641, 359), "nv12"), ((640, 360), "yuv444p")])
def test_pictures_of_odd_sizes_and_other_forms_are_left_to_ffmpeg(size: tuple[int, int], form: str) -> None:
    assert surfaces.on_device(decoded(*size, form)) is None


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_pictures_are_turned_where_they_lie_as_on_the_host(
    rotation: int, mirrored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surfaces, "_to_host", lambda rgb: rgb.numpy())
    frame, turn = as_nvdec(decoded(64, 48, "yuv420p")), Orientation(rotation, mirrored)
    found = surfaces.fetched(frame, turn.apply_where_it_lies)
    assert found is not None
    image, there = found
    as_stored = surfaces.on_device(frame)
    assert as_stored is not None
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, turn.apply(as_stored.numpy()))
    np.testing.assert_array_equal(there.numpy(), image)


def test_a_gpu_is_the_threads_own_only_while_a_stream_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    current, during = [0], []

    def opened(*_: object, **others: object) -> object:
        during.append((current[0], others["hwaccel"] is not None))
        raise av.error.InvalidDataError(0, "no video")

    monkeypatch.setattr(surfaces, "usable", lambda _gpu: True)
    monkeypatch.setattr(surfaces, "_refusal", lambda _gpu: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "set_device", lambda gpu: current.__setitem__(0, gpu))
    monkeypatch.setattr(torch, "empty", lambda *_args, **_others: None)
    monkeypatch.setattr(av, "open", opened)
    path = tmp_path / "a.mp4"
    path.write_bytes(b"no video")
    with pytest.raises(SourceError):
        read(path, 1)
    assert during == [(1, True)]
    assert current == [0]


def film(path: Path, codec: str = "libx264", form: str = "yuv420p", size: tuple[int, int] = (320, 240)) -> Path:
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, form
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(scene(*size, 3 * number), format="rgb24").reformat(format=form)
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def read(path: Path, gpu: int | None) -> list[Frame]:
    source = FileSource(find_sources([str(path)])[0], gpu=gpu)
    return [item for item in source.stream() if isinstance(item, Frame)]


@pytest.mark.parametrize(
    ("name", "codec", "form", "size", "suited"),
    [
        ("a.mp4", "libx264", "yuv420p", (320, 240), True),
        ("a.mp4", "libx265", "yuv420p10le", (320, 240), True),
        ("a.mp4", "libx264", "yuv444p", (321, 239), False),
        ("a.webm", "libvpx-vp9", "yuv420p", (320, 240), False),
    ],
)
def test_only_streams_whose_surfaces_have_the_size_of_the_picture_suit(
    tmp_path: Path, name: str, codec: str, form: str, size: tuple[int, int], suited: bool
) -> None:
    with av.open(str(film(tmp_path / name, codec, form, size))) as opened:
        assert surfaces.suits(opened.streams.best("video")) is suited
    assert not surfaces.suits(None)


@pytest.mark.parametrize(
    ("decode", "device", "of_file", "of_camera"),
    [
        ("auto", "cuda:1", None, 1),
        ("gpu", "cuda", 0, 0),
        ("gpu", "cpu", None, None),
        ("cpu", "cuda:1", None, None),
    ],
)
def test_where_a_source_is_decoded_follows_the_setting(
    tmp_path: Path, decode: str, device: str, of_file: int | None, of_camera: int | None
) -> None:
    config = Config.model_validate({"model": {"decode": decode}})
    file = find_sources([str(film(tmp_path / "a.mp4"))])[0]
    camera = find_sources(["rtsp://camera/1"])[0]
    assert _gpu_that_decodes(file, config, device) == of_file
    assert _gpu_that_decodes(camera, config, device) == of_camera


PICTURE = Arrival(decoded(64, 48, "yuv420p"), 0, 1.0, 1.0, None)
OPENED = Opened("h264", 25.0, None, Fraction(1, 25))
AWAY = SourceUnreachableError("away")
Happening = Opened | Arrival | SourceUnreachableError | None


class Camera:
    """A live source whose connections go by a script, and what decoded each of them."""

    def __init__(self, script: list[list[Happening]], monkeypatch: pytest.MonkeyPatch, *, wait: bool) -> None:
        camera, self.used = self, list[int | None]()

        class Scripted:
            alive = False

            def __init__(self, *_: object, gpu: int | None, **__: object) -> None:
                camera.used.append(gpu)
                self._events = iter(script[len(camera.used) - 1])

            def next_event(self, _seconds: float) -> object:
                event = next(self._events)
                if len(camera.used) == len(script) and isinstance(event, Arrival):
                    camera.source.close()
                return event if isinstance(event, Opened | Arrival) else Lost(event)

            def abandon(self) -> None: ...

        monkeypatch.setattr(live, "Connection", Scripted)
        spec = find_sources(["rtsp://camera/1"])[0]
        self.source = live.LiveSource(spec, LiveConfig(wait=wait), gpu=0, sleep=lambda _seconds: None)

    def watch(self) -> int:
        """Return the number of its frames."""
        return len([item for item in self.source.stream() if isinstance(item, Frame)])


def test_a_camera_of_which_one_decoder_gives_nothing_is_given_to_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a connection nothing is learnt; the GPU gives no picture, then the CPU one, and is kept.
    script: list[list[Happening]] = [[AWAY], [OPENED, None], [OPENED, PICTURE, AWAY], [AWAY], [OPENED, PICTURE]]
    camera = Camera(script, monkeypatch, wait=True)
    assert camera.watch() == 2
    assert camera.used == [0, 0, None, None, None]


def test_the_other_decoder_is_tried_though_nobody_waits_for_the_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera([[OPENED, None], [OPENED, PICTURE]], monkeypatch, wait=False)
    assert camera.watch() == 1
    assert camera.used == [0, None]


@pytest.mark.parametrize(("script", "used"), [([[AWAY]], [0]), ([[OPENED, None], [OPENED, None]], [0, None])])
def test_a_camera_that_gives_nothing_to_either_is_given_up(
    script: list[list[Happening]], used: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = Camera(script, monkeypatch, wait=False)
    with pytest.raises(SourceError):
        camera.watch()
    assert camera.used == used


class Gpu:
    """Stands in for a GPU that accepts what is opened as long as it has ``room``; what FFmpeg opens on it fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, room: bool) -> None:
        self.room, really = room, av.open
        surfaces.usable.cache_clear()

        @contextlib.contextmanager
        def accelerator(_gpu: int) -> Iterator[object]:
            if not self.room:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried much.\nAnd more.")
            yield self

        def opens(*args: object, hwaccel: object = None, **others: object) -> object:
            if hwaccel is self:
                raise av.error.ExternalError(0, "not opened")
            return really(*args, **others)  # type: ignore[call-overload]

        monkeypatch.setattr(surfaces, "_accelerator", accelerator)
        monkeypatch.setattr(av.CodecContext, "create", lambda *_, **__: None, raising=False)
        monkeypatch.setattr(av, "open", opens)


def test_a_gpu_that_is_full_leaves_what_is_opened_to_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    surfaces._say_once.cache_clear()
    gpu, path = Gpu(monkeypatch, room=True), film(tmp_path / "a.mp4")
    assert surfaces.usable(0)
    gpu.room = False
    assert len(read(path, 0)) == len(read(path, 0)) == 30
    assert [record.message for record in caplog.records] == ["nvdec.memory"]
    assert "\n" not in vars(caplog.records[0])["reason"]
    gpu.room = True
    with pytest.raises(SourceError):
        read(path, 0)


@no_gpu
def test_a_gpu_that_is_not_there_costs_a_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    surfaces.usable.cache_clear()
    path = film(tmp_path / "a.mp4")
    assert len(read(path, 0)) == len(read(path, 0)) == 30
    assert [record.message for record in caplog.records if record.message.startswith("nvdec")] == ["nvdec.absent"]


def test_a_file_of_which_the_gpu_gives_nothing_is_read_by_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(spec: object, *, gpu: int | None, **others: object) -> object:
        if gpu is not None:
            raise NothingDecodesError("a.mp4: nothing")
        return really(spec, gpu=gpu, **others)  # type: ignore[arg-type]

    really = container.open_container
    monkeypatch.setattr(files, "open_container", opened)
    assert len(read(film(tmp_path / "a.mp4"), 0)) == 30


def test_a_gpu_without_room_leaves_a_picture_to_ffmpeg(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: object) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    surfaces._say_once.cache_clear()
    monkeypatch.setattr(surfaces, "on_device", full)
    frame = decoded(64, 48, "nv12")
    assert [surfaces.fetched(frame, UPRIGHT.apply_where_it_lies) for _ in range(2)] == [None, None]
    assert [record.message for record in caplog.records] == ["nvdec.memory"]


@GPU
@pytest.mark.parametrize(("codec", "form", "mean"), [("libx264", "yuv420p", 0.0), ("libx265", "yuv420p10le", 2.5)])
def test_nvdec_gives_what_the_cpu_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, form: str, mean: float
) -> None:
    path = film(tmp_path / "a.mp4", codec, form)
    fetched: list[av.VideoFrame] = []
    really = surfaces.on_device

    def counted(frame: av.VideoFrame) -> torch.Tensor | None:
        fetched.append(frame)
        return really(frame)

    monkeypatch.setattr(surfaces, "on_device", counted)
    there, here = read(path, 0), read(path, None)
    assert len(fetched) == len(there) == 30
    assert [frame.pts for frame in there] == [frame.pts for frame in here]
    # All of them are still held: none lies in memory of the decoder.
    for one, other in zip(there, here, strict=True):
        assert np.abs(differences(one.image, other.image)).mean() <= mean
        assert one.surface is not None
        assert one.surface.is_cuda
        np.testing.assert_array_equal(one.surface.cpu().numpy(), one.image)
        assert other.surface is None


@GPU
@pytest.mark.parametrize(
    ("name", "codec", "size"), [("a.mkv", "ffv1", (320, 240)), ("a.webm", "libvpx-vp9", (321, 239))]
)
def test_the_cpu_decodes_what_nvdec_does_not_know_or_gives_in_other_sizes(
    tmp_path: Path, name: str, codec: str, size: tuple[int, int]
) -> None:
    path = film(tmp_path / name, codec, size=size)
    there, here = read(path, 0), read(path, None)
    assert len(there) == len(here) == 30
    for one, other in zip(there, here, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
