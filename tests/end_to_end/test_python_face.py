"""What Python programs use: ``streamfer.annotate``, ``stream``, ``subscribe``, and how little an import costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamfer
from streamfer.build import LoadedModels, load_models
from streamfer.config import Config, load_config
from streamfer.errors import ConfigError, SourceNotFoundError, SourceUnreadableError, UnknownModelError
from streamfer.publish import Publisher
from streamfer.records import ClipLabelled


@pytest.fixture(scope="module")
def config(tiny_model: Path) -> Config:
    return load_config(
        None, {"model.name": str(tiny_model), "faces.detector": "lbp", "sampling.fps": 4, "clip.seconds": 1}, {}
    )


@pytest.fixture(scope="module")
def models(config: Config) -> LoadedModels:
    return load_models(config)


def test_the_export_list() -> None:
    assert streamfer.__all__ == [
        "Annotation",
        "Config",
        "Record",
        "StreamferError",
        "UserError",
        "annotate",
        "list_models",
        "load_config",
        "load_model",
        "load_models",
        "stream",
        "subscribe",
    ]
    for name in streamfer.__all__:
        assert getattr(streamfer, name).__name__ == name
        assert getattr(streamfer, name).__doc__
    assert set(streamfer.__all__) <= set(dir(streamfer))
    assert not hasattr(streamfer, "no_such_thing")


def test_an_import_loads_nothing_heavy() -> None:
    script = (
        "import sys, streamfer; print(sorted({'torch', 'av', 'cv2', 'numpy', 'redis', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_annotate(face_film: Path, config: Config, models: LoadedModels) -> None:
    found = streamfer.annotate(face_film, config=config, models=models, salt="s")
    assert isinstance(found, streamfer.Annotation)
    assert (found.source_id, found.info.width, found.info.height) == ("astronaut.mp4", 240, 240)
    assert found.stats.clips == len(found.clips) == len(found.records) >= 2
    assert found.stats.frames_analysed == len(found.frames) == 12
    rows = found.to_rows()
    assert len(rows) == found.stats.clips
    assert set(rows[0]) >= {"source", "track_id", "start_s", "end_s", "label", "probability", "p_joy", "p_calm"}
    assert not any(name.startswith("AU") for name in rows[0])
    assert all(row["probability"] == max(row["p_joy"], row["p_gloom"], row["p_calm"]) for row in rows)
    again = streamfer.annotate(str(face_film), config=config, models=models, salt="s")
    assert again.to_rows() == rows


def test_action_units_are_columns_of_the_rows(face_film: Path, config: Config, tmp_path: Path) -> None:
    from tiny_models import tiny_weights

    path = tiny_weights(tmp_path / "reader.safetensors", actions=("AU06", "AU12"))
    chosen = config.model_copy(update={"model": config.model.model_copy(update={"name": str(path)})})
    found = streamfer.annotate(face_film, config=chosen)
    rows = found.to_rows()
    assert list(rows[0])[-4:] == ["AU06_mean", "AU12_mean", "AU06_peak", "AU12_peak"]
    assert all(0 < row[f"{unit}_mean"] <= row[f"{unit}_peak"] < 1 for row in rows for unit in ("AU06", "AU12"))
    intensities = [face.action_units for frame in found.frames for face in frame.faces]
    assert all(set(units or {}) == {"AU06", "AU12"} for units in intensities)
    assert max((units or {})["AU06"] for units in intensities) == pytest.approx(
        max(row["AU06_peak"] for row in rows), abs=1e-6
    )


def test_annotate_refuses_with_our_exceptions(
    tmp_path: Path, config: Config, models: LoadedModels, face_film: Path
) -> None:
    with pytest.raises(SourceNotFoundError, match=r"absent\.mp4"):
        streamfer.annotate(tmp_path / "absent.mp4", config=config, models=models)
    (tmp_path / "text.mp4").write_text("I am a text file. " * 100)
    with pytest.raises(SourceUnreadableError, match=r"text\.mp4"):
        streamfer.annotate(tmp_path / "text.mp4", config=config, models=models)
    (tmp_path / "more.mp4").write_text("x")
    with pytest.raises(ConfigError, match="holds 2 sources"):
        streamfer.annotate(tmp_path, config=config, models=models)
    with pytest.raises(UnknownModelError, match="nothing"):
        streamfer.annotate(face_film, config=load_config(None, {"model.name": "nothing"}, {}))


def test_stream_yields_clips_and_may_be_left(face_film: Path, config: Config, models: LoadedModels) -> None:
    clips = list(streamfer.stream(str(face_film), config=config, models=models))
    assert all(isinstance(clip, ClipLabelled) for clip in clips)
    assert len(clips) >= 2
    left = streamfer.stream([str(face_film)], config=config, models=models)
    assert next(iter(left)).clip == clips[0].clip
    left.close()  # type: ignore[attr-defined]
    with pytest.raises(SourceNotFoundError, match="absent"):
        next(iter(streamfer.stream("absent.mp4", config=config, models=models)))


def test_stream_follows_a_camera(
    rtsp_server: Callable[..., Any], long_face_film: Path, config: Config, models: LoadedModels
) -> None:
    camera = streamfer.stream(rtsp_server("--file", str(long_face_film)).url(), config=config, models=models)
    clip = next(iter(camera))
    camera.close()  # type: ignore[attr-defined]
    assert clip.clip.time_origin in ("wallclock", "rtcp")
    assert clip.faces[0].top in ("joy", "gloom", "calm")


def test_subscribe_follows_what_annotate_found(
    face_film: Path, config: Config, models: LoadedModels, redis_url: str
) -> None:
    found = streamfer.annotate(face_film, config=config, models=models)
    with Publisher.open(redis_url) as publisher:
        publisher.publish_many(found.records)
    with streamfer.subscribe(redis_url, from_="start", idle_s=0.2) as subscription:
        received = list(subscription)
    assert all(isinstance(record, streamfer.Record) for record in received)
    assert [record.id for record in received] == [record.id for record in found.records]
    assert [record.data for record in received] == [record.data for record in found.records]


def test_configurations_are_loaded_alike() -> None:
    assert streamfer.load_config(None, {"clip.stride": 0.5}, {}).clip.stride == 0.5
    assert streamfer.Config() == streamfer.load_config(environment={})
