"""The overlay video: every frame kept, boxes where faces were, blurred faces beyond recognition."""

from __future__ import annotations

import json
import resource
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fakes.faces import FakeDetector
from film_events import OPENED
from made_videos import changing
from PIL import Image
from record_examples import LATENCY, MODEL, PRODUCER, labelled, span

from streamfer.errors import OutputError
from streamfer.export.batch import Batch, BatchPlan
from streamfer.export.folder import SourceFolder
from streamfer.export.job import Blur, Settings
from streamfer.export.lettering import Layout
from streamfer.export.overlay import OverlayNotes, _draw, write_overlay
from streamfer.faces.coverage import Cover
from streamfer.pipeline.events import FaceRow, FrameFaces, SourceDone, SourceOpened
from streamfer.records import ClipCaptioned, Record
from streamfer.video import Frame, StateChange, find_sources, open_source
from streamfer.video.encode import write_video
from streamfer.video.frames import VideoInfo

BOX = (0.25, 0.25, 0.25, 0.5)


def picture(number: int) -> np.ndarray:
    """A striped frame, 160 x 120, that moves slowly; no detector finds a face in it at any threshold."""
    rows, columns = np.mgrid[:120, :160]
    stripes = np.where((rows + 2 * columns) // 3 % 2, 200, 60).astype(np.uint8)
    return np.roll(np.repeat(stripes[:, :, None], 3, axis=2), number, axis=1)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.mp4"
    write_video(path, (picture(number) for number in range(30)), 25)
    return path


def notes(*times: float, box: tuple[float, float, float, float] = BOX) -> OverlayNotes:
    found = OverlayNotes()
    for index, seconds in enumerate(times):
        found.add(FrameFaces("film.mp4", 0, index, seconds, (FaceRow(1, "abcd1234", box, 0.9, 0.8),)))
    return found


def frames(path: Path) -> list[np.ndarray]:
    (spec,) = find_sources([str(path)])
    return [item.image for item in open_source(spec).stream() if isinstance(item, Frame)]


def overlay(path: Path, found: OverlayNotes, *, blur: Blur = "off") -> Path:
    (spec,) = find_sources([str(path)])
    made = path.with_name("over.mp4")
    write_overlay(open_source(spec), found, made, blur=blur)
    return made


def test_every_frame_is_kept_with_its_time(film: Path) -> None:
    made = overlay(film, notes(0.0, 0.5, 1.0))
    (spec,) = find_sources([str(made)])
    times = [item.seconds for item in open_source(spec).stream() if not isinstance(item, StateChange)]
    assert times == pytest.approx([number / 25 for number in range(30)], abs=0.002)


def test_the_box_is_drawn_only_while_the_face_is_there(film: Path) -> None:
    before = frames(film)
    after = frames(overlay(film, notes(0.0, 0.2, 0.4)))
    changed = [np.abs(old.astype(int) - new).mean() for old, new in zip(before, after, strict=True)]
    plain = np.median(changed[20:])
    assert min(changed[:16]) > plain + 1
    assert max(changed[18:]) < plain + 0.5


def test_a_box_moves_between_two_sightings() -> None:
    found = OverlayNotes()
    for seconds, x in ((0.0, 0.0), (1.0, 0.5)):
        found.add(FrameFaces("film", 0, 0, seconds, (FaceRow(1, "abcd1234", (x, 0.1, 0.2, 0.2), 0.9, 0.8),)))
    ((_, _, box),) = found.faces_at(0, 0.5, 0.25)
    assert box == pytest.approx((0.25, 0.1, 0.2, 0.2))
    assert not list(found.faces_at(1, 0.5, 0.25))


@pytest.mark.parametrize(
    ("face", "label"),
    [
        ({}, ("happiness", "70%")),
        ({"top": None, "reason": "turned"}, ("unsure", "turned")),
        ({"top": None, "reason": "withheld", "emotions": {}}, None),
    ],
)
def test_the_newest_clip_that_covers_a_time_gives_the_label(
    face: dict[str, Any], label: tuple[str, str] | None
) -> None:
    document = labelled(**face)
    found = OverlayNotes()
    found.add(Record.of(document, source_id="film"))
    ((_, path),) = found._paths.items()
    base = document.clip.time_base[0] / document.clip.time_base[1]
    assert path.label_at(document.clip.end_pts * base) == label
    assert path.label_at(document.clip.end_pts * base + 1) is None


def units_shown(thresholds: tuple[float, ...], *intensities: dict[str, float], at: float = 0.0) -> str:
    found = OverlayNotes()
    info = VideoInfo("film", "film.mp4", 160, 120, "mpeg4", 25.0, 2.0, 0, False, "key")
    found.add(SourceOpened("film", 0, info, ("joy", "calm"), ("AU01", "AU06", "AU12", "AU25"), thresholds))
    for index, units in enumerate(intensities):
        row = FaceRow(1, "abcd1234", BOX, 0.9, 0.8, units)
        found.add(FrameFaces("film", 0, index, index / 8, (row,)))
    ((_, path, _),) = found.faces_at(0, at, 0.25)
    return path.units_at(at)


def test_the_strongest_units_that_count_as_present_stand_under_the_label() -> None:
    units = {"AU01": 0.62, "AU06": 0.55, "AU12": 0.9, "AU25": 0.71}
    assert units_shown((), units) == "AU12  0.9,  AU25  0.7,  AU01  0.6"
    assert units_shown((0.8, 0.5, 0.5, 0.5), units) == "AU12  0.9,  AU25  0.7,  AU06  0.6"
    assert units_shown((0.95,) * 4, units) == ""


def test_the_shown_intensity_follows_in_time_and_does_not_jump() -> None:
    course = [{"AU12": 1.0}, {"AU12": 0.5}, {"AU12": 0.5}, {"AU12": 0.5}]
    shown = [units_shown((0.1,), *course, at=index / 8 + 0.01) for index in range(4)]
    assert shown == ["AU12  1.0", "AU12  0.8", "AU12  0.7", "AU12  0.6"]
    assert units_shown((0.1,), *course, at=-0.1) == "AU12  1.0"


def test_units_make_the_chip_taller(film: Path) -> None:
    (frame, *_) = (item for item in open_source(find_sources([str(film)])[0]).stream() if isinstance(item, Frame))

    def chip_rows(units: dict[str, float] | None) -> int:
        found = OverlayNotes()
        found.add(FrameFaces("film", 0, 0, 0.0, (FaceRow(1, "a", (0.2, 0.6, 0.25, 0.3), 0.9, 0.8, units),)))
        drawn = _draw(frame, frame.image, found, Layout())
        return int((drawn == (0, 114, 178)).all(axis=2)[:70, 33].sum())

    assert chip_rows({"AU12": 0.9}) >= chip_rows(None) + 10
    assert chip_rows({"AU12": 0.1}) == chip_rows({}) == chip_rows(None) > 5


def test_blurred_faces_keep_almost_no_detail(film: Path) -> None:
    before = frames(film)[5]
    after = frames(overlay(film, notes(0.0, 0.4, 0.8), blur="normal"))[5]
    inside = (slice(50, 80), slice(50, 70))
    assert after[inside].astype(float).std() < 0.3 * before[inside].astype(float).std()
    outside = (slice(60, 120), slice(110, 160))
    assert np.abs(before[outside].astype(int) - after[outside]).mean() < 25


def test_blur_covers_moments_without_a_sighting(film: Path) -> None:
    before, after = frames(film), frames(overlay(film, notes(0.0, 0.1), blur="normal"))
    inside = (slice(50, 80), slice(50, 70))
    # 0.6 s after the last sighting the face is still hidden.
    assert after[17][inside].astype(float).std() < 0.3 * before[17][inside].astype(float).std()


def test_frames_in_doubt_are_counted_and_hidden_whole_where_asked(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The film has a frame more than when it was looked at.
    covers = [Cover([], doubtful=number == 3) for number in range(29)]
    monkeypatch.setattr("streamfer.export.overlay._covers", lambda *_, **__: covers)
    (spec,) = find_sources([str(film)])
    modes: tuple[Blur, ...] = ("normal", "strict")
    for blur in modes:
        path = tmp_path / f"{blur}.mp4"
        assert write_overlay(open_source(spec), OverlayNotes(), path, blur=blur) == 2
        detail = [np.abs(np.diff(image.astype(int), axis=1)).mean() for image in frames(path)]
        hidden = [number for number, one in enumerate(detail) if one < 0.3 * max(detail)]
        assert hidden == ([3, 29] if blur == "strict" else [])
    # A batch says it of each file, and its manifest does.
    settings = Settings("c0ffee", "ab" * 32, "lbp", ("overlay",), blurred="normal")
    batch = Batch([spec], BatchPlan(tmp_path / "out", settings))
    info = VideoInfo("film.mp4", "film.mp4", 160, 120, "mpeg4", 25.0, 1.2, 0, False, "key")
    for event in (SourceOpened("film.mp4", 0, info, ("joy",)), SourceDone("film.mp4")):
        batch.take(event)
    whole = Batch([spec], BatchPlan(tmp_path / "whole", settings))
    whole.adopt("film.mp4", batch.report)
    assert whole.report.doubtful == batch.report.doubtful == {"film.mp4": 2}
    assert json.loads((tmp_path / "out" / "film.mp4.streamfer.json").read_text())["frames_doubtful"] == 2


def test_a_still_becomes_a_picture(tmp_path: Path, film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "still.png"
    Image.fromarray(picture(0)).save(path)
    (spec,) = find_sources([str(path)])
    made = tmp_path / "over.png"
    write_overlay(open_source(spec), notes(0.0), made)
    assert np.asarray(Image.open(made)).shape == (120, 160, 3)
    # Faces to blur are looked for in it as closely as those that are read.
    detector = FakeDetector()
    monkeypatch.setattr("streamfer.export.overlay.blur_detector", lambda: detector)
    for file, still in ((path, True), (film, False)):
        (spec,) = find_sources([str(file)])
        write_overlay(open_source(spec), notes(0.0), tmp_path / f"over{'.png' if still else '.mp4'}", blur="normal")
        assert detector.still is still
    # FFmpeg takes a film of one picture for a still; its name does not.
    Image.fromarray(picture(0)).save(tmp_path / "film.mjpeg", "JPEG")
    assert [image.shape for image in frames(overlay(tmp_path / "film.mjpeg", notes(0.0)))] == [(120, 160, 3)]


def caption(text: str, start: int, end: int, track: int = 1) -> Record:
    """A caption of a clip between two times, milliseconds."""
    clip = span(start_pts=start, end_pts=end, time_base=(1, 1000), epoch=0)
    document = ClipCaptioned(
        clip_id="0" * 32, clip=clip, track_id="abcd1234", track=track, text=text, model=MODEL, producer=PRODUCER,
        latency_ms=LATENCY,
    )  # fmt: skip
    return Record.of(document, source_id="film.mp4")


def test_a_caption_stands_while_its_clip_lasts_and_until_it_can_be_read() -> None:
    found = OverlayNotes()
    found.add(caption("Short.", 1000, 3000))
    found.add(caption("Twelve words " * 6, 5000, 6000))
    found.add(caption("A new one.", 7000, 7500))
    shown = {at: found.captions_at(0, at) for at in (0.9, 1.0, 3.0, 3.1, 6.9, 7.0, 7.6, 7.8)}
    assert shown[0.9] == shown[3.1] == shown[7.8] == []
    assert shown[1.0] == shown[3.0] == [(1, "Short.")]
    assert shown[6.9][0][1].startswith("Twelve")
    assert shown[7.0] == shown[7.6] == [(1, "A new one.")]
    assert found.captions_at(1, 2.0) == []


def test_of_many_faces_those_described_last_are_subtitled() -> None:
    found = OverlayNotes()
    for track, start in ((1, 0), (2, 400), (3, 200)):
        found.add(caption(f"Face {track} smiles all the time.", start, 5000, track))
    assert found.captions_at(0, 1.0) == [(2, "Face 2 smiles all the time."), (3, "Face 3 smiles all the time.")]


def test_boxes_and_blurring_follow_a_change_of_size(tmp_path: Path) -> None:
    small = [picture(0)] * 10
    large = [np.kron(image, np.ones((2, 3, 1), np.uint8)) for image in small]
    path = tmp_path / "film.ts"
    changing(path, small, large)
    found = OverlayNotes()
    for epoch, (width, height) in enumerate([(160, 120), (480, 240)]):
        info = VideoInfo("film", "film.ts", width, height, "mpeg2video", 25.0, None, 0, False, "key")
        found.add(SourceOpened("film", epoch, info, ("joy",)))
        found.add(FrameFaces("film", epoch, 0, 0.0, (FaceRow(1, "abcd1234", BOX, 0.9, 0.8),)))
    blurred, plain = frames(overlay(path, found, blur="normal")), frames(overlay(path, OverlayNotes()))
    assert {image.shape for image in blurred} == {(240, 480, 3)}
    # The small pictures, twice as high, stand between bars of 80 columns; the box covers its quarter of the picture.
    assert all(image[:, :70].mean() < 5 for image in blurred[:10])
    for image, left, width in ((blurred[5], 80, 320), (blurred[15], 0, 480)):
        covered = image[70:170, left + round(0.28 * width) : left + round(0.47 * width)]
        clear = image[70:170, left + round(0.7 * width) : left + round(0.9 * width)]
        assert (
            np.abs(np.diff(covered.astype(int), axis=1)).mean()
            < 0.3 * np.abs(np.diff(clear.astype(int), axis=1)).mean()
        )
    assert len(plain) == len(blurred) == 20


def sounding(path: Path, encoder: str, *, late: float) -> None:
    """Write 2 s of pictures that begin ``late``, and from 0 s a click every half second."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        audio: Any = container.add_stream(encoder, rate=48_000, layout="mono")
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(picture(number))
            frame.pts, frame.time_base = number + round(25 * late), Fraction(1, 25)
            container.mux(video.encode(frame))
        for number in range(round(25 * (2 + late))):
            level = 20_000 if number % 12 == 0 else 0
            heard = av.AudioFrame.from_ndarray(np.full((1, 1920), level, np.int16), format="s16", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = 48_000, number * 1920, Fraction(1, 48_000)
            container.mux(audio.encode(heard))
        container.mux([*video.encode(None), *audio.encode(None)])


def heard(path: Path) -> tuple[str, np.ndarray]:
    """Codec of a file's sound, and the times at which clicks begin, seconds."""
    with av.open(str(path)) as container:
        track = container.streams.audio[0]
        loud = [
            frame.time + np.flatnonzero(np.abs(frame.to_ndarray().astype(float)).max(axis=0) > 0.2) / frame.sample_rate
            for frame in container.decode(track)
            if frame.time is not None
        ]
        times = np.concatenate(loud)
        return track.codec_context.name, times[np.flatnonzero(np.diff(times, prepend=-1.0) > 0.2)]


@pytest.mark.parametrize(("name", "encoder"), [("a.mp4", "aac"), ("a.mkv", "libmp3lame"), ("a.ts", "mp2")])
def test_the_sound_is_carried_over_at_its_times(tmp_path: Path, name: str, encoder: str) -> None:
    path = tmp_path / name
    sounding(path, encoder, late=0.4)
    (spec,) = find_sources([str(path)])
    originals = [item.media_seconds for item in open_source(spec).stream() if isinstance(item, Frame)]
    made = overlay(path, notes(0.0))
    with av.open(str(made)) as container:
        video = container.streams.video[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        shown = [frame.time for frame in container.decode(video)]
    assert shown == pytest.approx(originals, abs=0.002)
    # Browsers begin to play before the whole file has come: the index stands before the pictures.
    data = made.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    codec, clicks = heard(made)
    _, clicked = heard(path)
    with av.open(str(path)) as container:
        zero = 0.0 if name != "a.ts" else container.start_time / av.time_base
    assert codec == "aac"
    assert clicks == pytest.approx(clicked - zero, abs=0.03)


def test_sides_that_are_odd_become_even(tmp_path: Path) -> None:
    path = tmp_path / "odd.gif"
    strips = [Image.fromarray(picture(number)[:119, :157]) for number in range(3)]
    strips[0].save(path, save_all=True, append_images=strips[1:], duration=40)
    assert {image.shape for image in frames(overlay(path, notes(0.0)))} == {(120, 158, 3)}


def test_an_overlay_that_finds_no_room_is_named(film: Path, tmp_path: Path) -> None:
    (spec,) = find_sources([str(film)])
    source = SourceFolder(tmp_path, spec, Settings("c", "m", "d", ("overlay",)))
    source.open()
    source.add(OPENED)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(OutputError) as caught:
            source.commit("d", SourceDone("film"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value).startswith(
        f"{tmp_path}/{spec.source_id}.overlay.mp4: cannot be written (File too large); check the disk"
    )
    assert ".part" not in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
