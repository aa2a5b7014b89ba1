"""A batch on a local cluster of several nodes: the same bytes, words and codes, whoever of the cluster dies."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_line import Finished, streamfer

import streamfer as streamfer_package
from streamfer.api import cluster as ours
from streamfer.api.settings import settings_of
from streamfer.config import load_config
from streamfer.errors import ConfigError, MissingExtraError, OutputError
from streamfer.export.batch import BatchPlan, BatchReport
from streamfer.pipeline.events import SourceDone
from streamfer.video import find_sources

STORE = 80 * 2**20
NAMES = ("a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4")
Run = Callable[..., BatchReport]


def on_a_cluster(test: Callable[..., None]) -> Callable[..., None]:
    """Minutes, most of them Ray's own; that its workers make the same bytes is seen without Ray in test_buckets.py."""
    marked: Callable[..., None] = pytest.mark.slow(pytest.mark.timeout(1200)(test))
    return marked


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that only manages, and two nodes of one core."""
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    from ray.cluster_utils import Cluster

    # Ray's workers give way to everything else (nice 15), for minutes where other tests run.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray reads it so
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    made = Cluster(initialize_head=True, head_node_args=head)
    join(made, 2)
    yield made
    made.shutdown()  # type: ignore[no-untyped-call]


def join(cluster: Any, count: int) -> list[Any]:
    """Add nodes of one core, side by side; Ray itself gives each 30 seconds, which a busy machine may exceed."""
    nodes = [cluster.add_node(wait=False, num_cpus=1, object_store_memory=STORE) for _ in range(count)]
    cluster.wait_for_nodes(180)
    return nodes


@pytest.fixture(scope="module")
def films(face_film: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for name in NAMES:
        shutil.copy(face_film, folder / name)
    (folder / "broken.mp4").write_text("no video " * 100)
    return folder


@pytest.fixture(scope="module")
def alone(films: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """What one worker makes of them here."""
    out = tmp_path_factory.mktemp("alone")
    return out, annotate([films], out, tiny_model, "--workers", "1")


def annotate(films: list[Path], out: Path, model: Path, *more: str) -> Finished:
    words = ("--model", model, "--detector", "lbp", "--track-salt", "s", "-f", "csv,parquet", "--clip-seconds", "1")
    return streamfer("annotate", *films, "-o", out, *words, *more)


@pytest.fixture
def run(cluster: Any, films: Path, tiny_model: Path, tmp_path: Path) -> Run:
    """Annotate the good films on the cluster."""
    settings = {"model.name": str(tiny_model), "faces.detector": "lbp", "clip.seconds": 1}
    config = load_config(None, settings, {})

    def call(session: streamfer_package.Session | None = None, **more: Any) -> BatchReport:
        session = session or streamfer_package.Session(config, salt="s")
        paths = [films / name for name in NAMES]
        more = {"formats": "csv,parquet", "ray": cluster.address, **more}
        return session.annotate_folder(paths, tmp_path / "out", **more)

    call.config = config  # type: ignore[attr-defined]
    return call


def tables(folder: Path) -> dict[str, bytes]:
    suffixes = (".csv", ".parquet")
    found = {path.name: path.read_bytes() for path in folder.rglob("*.*") if path.suffix in suffixes}
    return {name: content for name, content in found.items() if not name.startswith("study.files")}


def workers() -> list[psutil.Process]:
    """The cluster's processes that annotate now."""
    found = [process for process in psutil.process_iter() if "ray::MapWorker" in process.name() or ray_title(process)]
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def ray_title(process: psutil.Process) -> bool:
    try:
        return " ".join(process.cmdline()).startswith("ray::MapWorker")
    except psutil.Error:
        return False


@on_a_cluster
def test_a_cluster_makes_the_same_bytes_and_says_the_same(
    cluster: Any, films: Path, tiny_model: Path, alone: tuple[Path, Finished], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = annotate([films], out, tiny_model, "--ray", cluster.address)
    assert (done.code, done.complaints) == (alone[1].code, alone[1].complaints)
    assert done.code == 3
    assert "5 done, 1 failed" in done.err
    assert len(tables(out)) == 5 * 8 + 6
    assert tables(out) == tables(alone[0])
    manifests = [path.relative_to(out) for path in out.rglob("*.streamfer.json")]
    assert len(manifests) == 5
    assert all((out / name).read_bytes() == (alone[0] / name).read_bytes() for name in manifests)
    # What one has done the other need not do again, in whichever order.
    good = [films / name for name in NAMES]
    assert "5 already done" in annotate(good, alone[0], tiny_model, f"--ray={cluster.address}").err
    assert "5 already done" in annotate(good, out, tiny_model).err
    assert not [path for path in out.iterdir() if path.name.startswith(".streamfer")]


@on_a_cluster
def test_a_killed_worker_loses_and_doubles_nothing(run: Run, alone: tuple[Path, Finished], tmp_path: Path) -> None:
    killed: list[int] = []

    def watch(event: Any) -> None:
        if isinstance(event, SourceDone) and not killed:
            for process in workers():
                process.kill()
                killed.append(process.pid)

    report = run(watch=watch)
    assert len(killed) == 2
    names = [end.source_id for end in report.done] + report.skipped
    assert sorted(names) == list(NAMES)
    assert (report.failed, report.unreached) == ([], 0)
    expected = {name: content for name, content in tables(alone[0]).items() if not name.startswith("study.")}
    assert expected.items() <= tables(tmp_path / "out").items()


@on_a_cluster
def test_a_lost_node_loses_no_file(cluster: Any, run: Run, alone: tuple[Path, Finished], tmp_path: Path) -> None:
    (lost,) = join(cluster, 1)
    gone: list[bool] = []

    def watch(event: Any) -> None:
        if isinstance(event, SourceDone) and not gone:
            gone.append(True)
            cluster.remove_node(lost, allow_graceful=False)

    report = run(watch=watch, workers=3)
    assert gone
    assert sorted([end.source_id for end in report.done] + report.skipped) == list(NAMES)
    expected = {name: content for name, content in tables(alone[0]).items() if not name.startswith("study.")}
    assert expected.items() <= tables(tmp_path / "out").items()


@on_a_cluster
def test_a_file_over_which_all_workers_die_is_one_failure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "_LIVES", 1)
    killed: list[int] = []

    def watch(event: Any) -> None:
        if isinstance(event, SourceDone) and not killed and (found := workers()):
            killed.append(found[0].pid)
            found[0].kill()

    report = run(watch=watch, workers=1)
    assert killed
    assert len(report.failed) <= 1
    assert len(report.done) + len(report.skipped) + len(report.failed) == len(NAMES)
    for failure in report.failed:
        assert (
            str(failure.error)
            == f"{failure.source_id}: no worker came to its end (1 may die over it); Ray's logs say why"
        )


@on_a_cluster
def test_a_run_that_is_stopped_goes_on_with_the_next_command(run: Run) -> None:
    with streamfer_package.Session(run.config, salt="s") as session:  # type: ignore[attr-defined]
        report = run(session, watch=lambda event: isinstance(event, SourceDone) and session.stop())
    assert len(report.done) == 1
    assert report.unreached == 4
    again = run()
    assert len(again.skipped) >= 1
    assert again.complete


def test_ray_that_is_absent_is_said_with_the_line_that_brings_it(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = streamfer("annotate", "--ray", films, "-o", tmp_path / "out")
    assert done.code == 2
    assert done.complaints == ["--ray needs the package ray, which is not installed: pip install 'streamfer[ray]'"]
    with pytest.raises(MissingExtraError):
        streamfer_package.annotate_folder(films, tmp_path / "out", ray=True)


def test_an_address_where_nothing_answers_is_one_line_in_time(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    monkeypatch.setattr(ours, "_PATIENCE", 5.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        done = streamfer("annotate", films, "--ray", address, "-o", tmp_path / "out")
    assert time.monotonic() - began < 60
    assert done.code == 2
    [line] = done.complaints
    assert f"answers at {address}; give host:6379" in line


def test_a_word_behind_ray_that_leads_nowhere_is_an_address_and_starts_nothing(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("a Ray was started"))
    done = streamfer("annotate", films, "--ray", "nonsense", "-o", tmp_path / "out")
    assert done.code == 2
    [line] = done.complaints
    assert "answers at nonsense; give host:6379" in line
    assert not (tmp_path / "out").exists()


def test_a_node_that_does_not_fit_says_so(films: Path, tiny_model: Path, tmp_path: Path) -> None:
    config = load_config(None, {"model.name": str(tiny_model), "faces.detector": "lbp"}, {})
    plan = BatchPlan(tmp_path, settings_of(config, None))
    (spec,) = find_sources([str(films / NAMES[0])])

    def outcome(version: str = streamfer_package.__version__) -> Any:
        here = (Path.cwd(), dict[str, str](), version)
        worker = ours.Worker(lambda: streamfer_package.Session(config), plan, None, "token", here)
        return worker({"file": spec})["outcome"]

    assert isinstance(unseen := outcome().error, OutputError)
    assert str(unseen) == f"{tmp_path}: a node of the cluster does not see this folder; name a shared one"
    (tmp_path / "token").touch()
    assert isinstance(other := outcome("0.1").error, ConfigError)
    assert "you have 0.1" in str(other)
    done = outcome()
    assert ([end.source_id for end in done.report.done], done.left, done.error) == ([NAMES[0]], "", None)
