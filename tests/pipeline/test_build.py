"""From a configuration to a pipeline: what is loaded, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes.faces import FakeDetector
from fakes.models import FakeExpressionModel

from streamfer.build import LoadedModels, build_pipeline, load_all
from streamfer.config import Config, load_config
from streamfer.errors import ConfigError, ModelError, UnknownModelError
from streamfer.pipeline.events import SourceDone
from streamfer.threads import plan_threads
from streamfer.video import find_sources, open_source
from streamfer.video.encode import write_video


def fakes() -> LoadedModels:
    return LoadedModels(FakeExpressionModel(), (FakeDetector(),), plan_threads(2))


def film(path: Path, frames: int, fps: float = 25) -> Path:
    def picture(number: int) -> np.ndarray:
        image = np.full((120, 160, 3), 30, np.uint8)
        image[40:90, 30 + number % 20 : 80 + number % 20] = 230
        return image

    write_video(path, (picture(number) for number in range(frames)), fps)
    return path


def annotated(path: Path, config: Config) -> SourceDone:
    (spec,) = find_sources([str(path)])
    *_, end = build_pipeline(config, fakes(), live=False).events([open_source(spec)])
    assert isinstance(end, SourceDone)
    return end


def test_whole_clips_need_files() -> None:
    with pytest.raises(ConfigError, match="window"):
        build_pipeline(load_config(None, {"clip.mode": "whole"}), fakes(), live=True)


@pytest.mark.parametrize("frames", [5, 16, 40, 100])
def test_a_whole_clip_gives_one_label_whatever_its_length(tmp_path: Path, frames: int) -> None:
    end = annotated(film(tmp_path / "clip.mp4", frames), load_config(None, {"clip.mode": "whole"}))
    assert (end.error, end.stats.clips) == (None, 1)


@pytest.mark.parametrize("frames", [1, 2, 6, 12])
def test_a_video_too_short_to_confirm_anybody_is_still_labelled(tmp_path: Path, frames: int) -> None:
    end = annotated(film(tmp_path / "blink.mp4", frames), load_config())
    assert (end.error, end.stats.clips) == (None, 1)


def test_quality_and_size_filter_faces(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", 60)
    assert annotated(path, load_config()).stats.clips > 0
    assert annotated(path, load_config(None, {"faces.min_size": 100})).stats.clips == 0
    assert annotated(path, load_config(None, {"faces.min_quality": 0.999})).stats.clips == 0


def test_skipped_detection_predicts_between(tmp_path: Path) -> None:
    end = annotated(film(tmp_path / "film.mp4", 100), load_config(None, {"faces.detect_every": 2}))
    assert end.stats.tracks == 1
    assert end.stats.clips >= 3


def test_unknown_names_are_refused_before_any_video_is_opened() -> None:
    with pytest.raises(UnknownModelError, match="nobody"):
        load_all(load_config(None, {"model.name": "nobody"}))
    with pytest.raises(UnknownModelError, match="nothing"):
        load_all(load_config(None, {"faces.detector": "nothing"}))
    with pytest.raises(ModelError, match="pack"):
        load_all(load_config(None, {"faces.appearance": "yunet"}))


def test_many_sources_share_several_detectors() -> None:
    config = load_config(None, {"threads": 8, "faces.detector": "lbp"})
    many, one = load_all(config, sources=40), load_all(config, sources=1)
    assert len(many.detectors) == many.budget.detect > 1
    assert len(one.detectors) == 1
    few = load_config(None, {"threads": 2, "faces.detector": "lbp"})
    assert [len(load_all(few, sources=count).detectors) for count in (1, 40)] == [1, 2]
