"""The configuration: where values come from, what is refused, and how the refusal reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import streamfer
from streamfer.config import Config, configure, load_config
from streamfer.errors import ConfigError

EXAMPLE = Path(__file__).resolve().parent.parent / "configs" / "run.yaml"


def refused(overrides: dict[str, Any] | None = None, path: Path | None = None, **environment: str) -> str:
    """The message with which a configuration is refused: one line."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides, environment)
    message = str(caught.value)
    assert "\n" not in message
    return message


def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("section", "when"),
    [({}, "off"), ({"when": False}, "off"), ({"model": "mine"}, "changes"), ({"model": "mine", "when": False}, "off")],
)
def test_captions_are_on_where_a_captioner_is_named(section: dict[str, Any], when: str) -> None:
    assert load_config(None, {"captions": section}, {}).captions.when == when


def test_the_defaults_are_those_of_the_plan() -> None:
    config = load_config(environment={})
    assert config == Config()
    assert (config.sampling.fps, config.clip.seconds, config.clip.stride) == (8, 2, 1)
    assert (config.model.name, config.faces.detector, config.publish.redis) == ("mini", "auto", None)
    assert (config.publish.frames, config.health.address, config.health.token) == (0, None, None)


def test_the_example_file_is_valid_and_complete() -> None:
    config = load_config(EXAMPLE, environment={})
    assert [source.id for source in config.sources] == ["lobby"]
    assert set(yaml.safe_load(EXAMPLE.read_text())) <= set(Config.model_fields)


def test_flags_beat_the_environment_and_that_the_file(tmp_path: Path) -> None:
    path = file(tmp_path, "clip: {seconds: 3, stride: 3, max_gap: 0.25}\nsampling: {fps: 4}\n")
    config = load_config(
        path,
        {"clip.seconds": 5, "clip.stride": None},
        {"STREAMFER_CLIP__SECONDS": "4", "STREAMFER_CLIP__STRIDE": "2", "HOME": "/", "STREAMFER_HOME": "/x"},
    )
    assert (config.clip.seconds, config.clip.stride, config.clip.max_gap, config.sampling.fps) == (5, 2, 0.25, 4)


def test_the_environment_speaks_yaml() -> None:
    environment = {
        "STREAMFER_PUBLISH__REDIS": "redis://h:6379/0",
        "STREAMFER_LIVE__WAIT": "true",
        "STREAMFER_FACES__THRESHOLD": "null",
    }
    config = load_config(environment=environment)
    assert (config.publish.redis, config.live.wait, config.faces.threshold) == ("redis://h:6379/0", True, None)


def test_the_environment_is_checked_too() -> None:
    assert refused(STREAMFER_CLIP__STRIDE="[1, 2").startswith("STREAMFER_CLIP__STRIDE=[1, 2: the value is not valid")
    assert "clip.stide" in refused(STREAMFER_CLIP__STIDE="1")


def test_an_empty_file_and_empty_sections_are_defaults(tmp_path: Path) -> None:
    assert load_config(file(tmp_path, ""), environment={}) == Config()
    assert load_config(file(tmp_path, "clip:\n  # stride: 1\nsources:\n"), environment={}) == Config()
    assert load_config(file(tmp_path, "clip:\n"), {"clip.stride": 0.5}, {}).clip.stride == 0.5


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("clip.stide", 1, ("clip.stide: unknown setting", "did you mean 'stride'?")),
        ("clips.stride", 1, ("clips: unknown setting", "did you mean 'clip'?")),
        ("publish.zzz", 1, ("publish.zzz: unknown setting; known here: redis, site",)),
        ("clip.stride.x", 1, ("clip.stride",)),
        ("clip", 5, ("clip:", "got 5")),
        ("sampling.fps", 0, ("sampling.fps", "greater than 0", "got 0")),
        ("sampling.fps", "fast", ("sampling.fps", "got 'fast'")),
        ("sampling.fps", float("nan"), ("sampling.fps", "got nan")),
        ("sampling.fps", float("inf"), ("sampling.fps", "got inf")),
        ("clip.seconds", 61, ("clip.seconds", "60")),
        ("clip.mode", "slide", ("clip.mode", "'window' or 'whole'")),
        ("clip.stride", 5, ("clip.stride (5.0 s) is longer than clip.seconds (2.0 s)", "lower the stride")),
        ("clip.stride", 0.01, ("shorter than one analysed frame", "raise the stride or sampling.fps")),
        ("model.precision", "int3", ("model.precision", "'auto', 'fp32'", "got 'int3'")),
        ("threads", 0, ("threads", "got 0")),
        ("publish.prefix", "a b", ("publish.prefix",)),
        ("publish.partitions", 0, ("publish.partitions",)),
        ("sources", [{"url": "a.mp4", "id": "a b"}], ("sources.0.id",)),
        ("sources", [{"id": "a"}], ("sources.0.url: is missing",)),
        ("sources", [{"url": "a.mp4", "name": "a"}], ("sources.0.name: unknown setting; known here: url, id",)),
        ("", 1, ("unknown setting",)),
    ],
)
def test_a_wrong_setting_is_named_with_the_way_out(name: str, value: Any, words: tuple[str, ...]) -> None:
    message = refused({name: value})
    for word in words:
        assert word in message


def test_the_file_is_named(tmp_path: Path) -> None:
    path = file(tmp_path, "clip: {strid: 1}\n")
    assert refused(path=path) == f"{path}: clip.strid: unknown setting; did you mean 'stride'?"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clip: {stride: 1\nx", "not valid YAML at line"),
        ("- a\n- b\n", "holds a list; expected sections of settings, as in configs/run.yaml"),
        ("just words", "holds a str"),
        ("1: 2\n", "1: unknown setting; known here: sources"),
        ("a: !!python/object/apply:os.system ['true']\n", "not valid YAML at line 1"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, words: str) -> None:
    path = file(tmp_path, text)
    message = refused(path=path)
    assert message.startswith(f"{path}: ")
    assert words in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert refused(path=tmp_path / "no.yaml").endswith("no such configuration file; configs/run.yaml is an example")
    assert "cannot be read" in refused(path=tmp_path)
    (tmp_path / "latin.yaml").write_bytes("clip: é".encode("latin-1"))
    assert "cannot be read" in refused(path=tmp_path / "latin.yaml")


def test_no_password_is_repeated(tmp_path: Path) -> None:
    secret = "rtsp://admin:hunter2@10.0.0.1/live"
    assert "hunter2" not in refused({"sources": secret})
    assert "hunter2" not in refused({"publish.redis": [secret]})
    assert "hunter2" not in refused({"clip.stride": secret})
    assert "hunter2" not in refused(STREAMFER_PUBLISH__REDIS=f"[{secret}")


def test_sections_are_frozen() -> None:
    with pytest.raises(ValidationError):
        load_config(environment={}).clip.stride = 3  # type: ignore[misc]


@given(fps=st.floats(0.1, 120), seconds=st.floats(0.1, 60), stride=st.floats(0.05, 60))
def test_accepted_windows_advance_and_hold_frames(fps: float, seconds: float, stride: float) -> None:
    overrides = {"sampling.fps": fps, "clip.seconds": seconds, "clip.stride": stride}
    try:
        clip = load_config(None, overrides, {}).clip
    except ConfigError as error:
        assert "clip." in str(error)  # noqa: PT017 (both ends are right: which one depends on the numbers)
    else:
        assert clip.stride <= clip.seconds
        assert round(clip.seconds * fps) >= 1
        assert round(clip.stride * fps) >= 1


def test_a_backoff_that_makes_no_sense() -> None:
    with pytest.raises(ConfigError, match="lower the first or raise the cap"):
        configure(live__backoff_first=2, live__backoff_cap=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modle": "mini"}, "modle: unknown setting; did you mean 'model'"),
        ({"clip_stride": 0.5}, "clip_stride: unknown setting; did you mean 'clip__stride'"),
        ({"clip__strid": 0.5}, "clip__strid: unknown setting; did you mean 'clip__stride'"),
        ({"fps": 0}, "sampling.fps: Input should be greater than 0"),
        ({"captions": "sometimes"}, "captions.when: Input should be 'off', 'changes' or 'all'"),
    ],
)
def test_a_setting_that_does_not_exist_names_the_nearest(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        streamfer.Session(**settings)
    with pytest.raises(ConfigError, match=message):
        streamfer.annotate("film.mp4", **settings)


def test_settings_are_given_by_name(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("clip: {stride: 0.25}\n")
    assert streamfer.Session(Config(), model="dfew", clip__stride=0.5).config.model.name == "dfew"
    assert streamfer.Session(tmp_path / "run.yaml", clip_seconds=3).config.clip.stride == 0.25
    assert streamfer.Session(Config(), captioner="mini-caption").config.captions.when == "changes"
    assert streamfer.Session(Config(), captions="all").config.captions.model == "auto"
    assert streamfer.Session(Config()).config.captions.when == "off"
    assert streamfer.Session(Config(), fps=np.float32(4), clip__stride=np.int64(1)).config.sampling.fps == 4


def test_an_empty_path_is_no_file_and_not_the_defaults() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config("")
