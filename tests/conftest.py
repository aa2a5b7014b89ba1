"""Fixtures every room shares: where the development data lies, and a quiet, small thread budget."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from development_data import shared_data
from free_ports import free_port

__all__ = ["shared_data"]

# Tests run beside each other on small machines: one thread per library keeps timings and memory predictable.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# Without a GPU, Triton's kernels are tested in its interpreter, which has to be chosen before anything imports
# triton (open_clip does). Nothing but tests/kernels ever forces these kernels.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# How long an example takes says how busy the machine is, not whether the code is right. The examples are the same in
# every run: what fails was changed. Others are drawn with --hypothesis-profile=default.
_slow = hypothesis.HealthCheck.too_slow
hypothesis.settings.register_profile("any-machine", deadline=None, derandomize=True, suppress_health_check=[_slow])
hypothesis.settings.load_profile("any-machine")

REPOSITORY = Path(__file__).resolve().parent.parent
#: Files whose tests take longest, a cluster's first: a process that began one last would work on alone.
LONGEST = (
    "test_ray.py",
    "test_chain.py",
    "test_topologies.py",
    "test_dashboard.py",
    "test_webhook.py",
    "test_mqtt.py",
    "test_preview.py",
    "test_network_faults.py",
    "test_run_faults.py",
    "test_ask_end_to_end.py",
    "test_delivery.py",
    "test_batch.py",
    "test_faces_training.py",
    "test_demo.py",
    "test_operation.py",
)

# Tiny models and checkpoints, which the tests of models make, serve other rooms too; so do servers of Redis.
sys.path += [str(REPOSITORY / "tests" / room) for room in ("models", "captions", "publish")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def _gradients_are_left_on() -> Iterator[None]:
    """Fail the test that leaves autograd off for those after it, as a signal within a mode of torch's might."""
    yield
    torch: Any = sys.modules.get("torch")
    if hasattr(torch, "is_grad_enabled") and not torch.is_grad_enabled():
        torch.set_grad_enabled(True)
        pytest.fail("gradients were left switched off")


class RtspServer:
    """A gst-rtsp-server process on a free local port; it keeps its port over :meth:`kill` and :meth:`start`."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self.port = str(free_port())
        self.start()

    def start(self) -> None:
        """Start it (again) and wait until it listens."""
        command = [SYSTEM_PYTHON, str(RTSP_SCRIPT), "--port", self.port, *self._arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        word, _, port = self._process.stdout.readline().strip().partition(" ")
        assert word == "ready", f"the RTSP server did not start: {word} {port}"
        self.port = port

    def url(self, mount: str = "live", credentials: str = "") -> str:
        """Address of a mount; ``credentials`` as ``user:password``, percent-encoded."""
        return f"rtsp://{credentials}{'@' if credentials else ''}127.0.0.1:{self.port}/{mount}"

    def freeze(self) -> None:
        """Stop it without closing its connections."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; nothing is said to its clients."""
        self._process.kill()
        self._process.communicate()


SYSTEM_PYTHON = "/usr/bin/python3"
RTSP_SCRIPT = REPOSITORY / "tests" / "rtsp_server.py"


@pytest.fixture(scope="session")
def rtsp_available() -> None:
    """Skip where Debian's GStreamer bindings (python3-gi, gir1.2-gst-rtsp-server-1.0) are absent."""
    try:
        checked = subprocess.run(
            [SYSTEM_PYTHON, str(RTSP_SCRIPT), "--check"], capture_output=True, text=True, timeout=60, check=False
        )
    except OSError as error:
        pytest.skip(f"no RTSP server: {error}")
    if checked.returncode:
        pytest.skip(f"no RTSP server: {checked.stderr.strip().splitlines()[-1]}")


@pytest.fixture
def rtsp_server(rtsp_available: None) -> Iterator[Callable[..., RtspServer]]:
    """Start RTSP servers: ``rtsp_server("--user", "u", "--password", "p")``; see tests/rtsp_server.py."""
    servers: list[RtspServer] = []

    def start(*arguments: str) -> RtspServer:
        servers.append(RtspServer(*arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="session", autouse=True)
def _streamfer_on_the_path() -> Iterator[None]:
    """Let the shell find the program, as an activated environment does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session", autouse=True)
def _private_redis_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests, and the programs they start, away from the user's own embedded Redis."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMFER_REDIS_FOLDER", str(tmp_path_factory.mktemp("redis_default")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Redis server on a Unix socket, one for the whole session; tests share its contents."""
    from streamfer.publish import EmbeddedRedis

    with EmbeddedRedis.start(tmp_path_factory.mktemp("redis_session")) as server:
        yield server.url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """URL of the session's Redis server, emptied for this test."""
    from streamfer.publish import connect

    client = connect(redis_server)
    client.flushall()
    client.close()
    return redis_server


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a random expression model that costs next to nothing: joy, gloom, calm.

    Its tower is of the built-in model's kind: CLIP's would have every program of a test import open_clip, nine seconds.
    """
    from tiny_models import INVERTED, tiny_weights

    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors", vision=INVERTED)


@pytest.fixture(scope="session")
def yunet(shared_data: Path) -> Path:
    """The reference face detector of the development data."""
    return shared_data / "weights" / "yunet_n_dynamic.onnx"


@pytest.fixture(scope="session")
def face_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of one real face, scikit-image's astronaut, that moves slowly; 240x240, ten frames a second."""
    return _astronaut(tmp_path_factory.mktemp("films") / "astronaut.mp4", seconds=3)


@pytest.fixture(scope="session")
def short_face_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty seconds of the same: long enough for something to happen meanwhile."""
    return _astronaut(tmp_path_factory.mktemp("films") / "short.mp4", seconds=20)


@pytest.fixture(scope="session")
def long_face_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two minutes of the same in H.264: to be streamed, or interrupted."""
    return _astronaut(tmp_path_factory.mktemp("films") / "long.mp4", seconds=120, codec="libx264")


def _astronaut(path: Path, *, seconds: int, codec: str = "mpeg4") -> Path:
    from skimage import data

    from streamfer.video.encode import write_video

    picture = data.astronaut()
    corners = [(100 + abs(number % 80 - 40), 10 + abs(number % 40 - 20)) for number in range(10 * seconds)]
    write_video(path, (picture[y : y + 240, x : x + 240] for x, y in corners), 10, codec=codec)
    return path
