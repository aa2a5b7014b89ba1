"""A batch on Ray: a file is a row, a worker holds one session, and what became of each file comes back."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamfer.errors import ConfigError, InternalError, OutputError, SourceError, StreamferError
from streamfer.extras import needs

if TYPE_CHECKING:
    from streamfer.config import Config
    from streamfer.export.batch import Batch, BatchPlan, BatchReport
    from streamfer.video.locate import SourceSpec

#: Workers that may die over one file before it counts as failed.
_LIVES = 5
#: Seconds that a cluster has to answer; Ray itself tries for minutes.
_PATIENCE = 30.0
#: Bytes for Ray's objects where the cluster is ours: names of files go in, counts come out.
_STORE = 128 * 2**20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a file: its report and what could not be published, or the error that ends the run."""

    source_id: str
    report: BatchReport | None = None
    left: str = ""
    error: StreamferError | None = None


class Worker:
    """Annotates one file after the other; Ray keeps each in a process of its own.

    Args:
        open_session: opens what annotates; picklable.
        token: name of a file that lies in the output folder while the run lasts.
        here: the user's folder, our own variables of his environment, and his version of streamfer.
    """

    def __init__(
        self,
        open_session: Callable[[], Any],
        plan: BatchPlan,
        redis: str | None,
        token: str,
        here: tuple[Path, dict[str, str], str],
    ) -> None:
        self._open, self._plan, self._redis, self._token = open_session, plan, redis, token
        folder, environment, self._version = here
        os.environ.update(environment)
        with contextlib.suppress(OSError):
            os.chdir(folder)
        self._session: Any = None

    def __call__(self, row: dict[str, SourceSpec]) -> dict[str, Outcome]:
        try:
            return {"outcome": self._annotate(row["file"])}
        except StreamferError as error:
            return {"outcome": Outcome(row["file"].source_id, error=error)}

    def _annotate(self, spec: SourceSpec) -> Outcome:
        from streamfer.export.batch import Batch, BatchReport, Failed

        if self._version != (here := version("streamfer")):
            raise ConfigError(f"ray: a node of the cluster has streamfer {here}, you have {self._version}; install one")
        self._session = self._session or self._open()
        plan = replace(self._plan, licences=self._session.licences)
        if not (plan.bucket or (plan.output / self._token).is_file()):
            raise OutputError(f"{plan.output}: a node of the cluster does not see this folder; name a shared one")
        if not (plan.bucket or spec.version):
            batch = Batch([spec], plan, alone=True)
            left = self._session.do(batch, self._redis)
            return Outcome(spec.source_id, batch.report, left or "")
        with tempfile.TemporaryDirectory(prefix="streamfer-") as folder:
            try:
                return self._far(spec, plan, Path(folder))
            except SourceError as error:
                failed = [Failed(spec.source_id, error)]
                return Outcome(spec.source_id, BatchReport(plan.output, 1, failed=failed))

    def _far(self, spec: SourceSpec, plan: BatchPlan, folder: Path) -> Outcome:
        """Annotate a file that comes from a bucket, or whose results go to one."""
        from streamfer.export.batch import Batch
        from streamfer.export.bucket import Bucket

        named, bucket = spec.source_id, Bucket(plan.bucket) if plan.bucket else None
        known = replace(plan, output=folder / "known") if bucket else plan
        # Twice: its own name may be another's, and what is known under the name that it gets counts.
        for _ in range(2):
            if bucket is not None:
                bucket.recall(known.folder_of(spec), known.output)
            batch = Batch([spec], known, alone=True)
            (spec,) = batch.specs
        if not list(batch.pending()):
            return Outcome(named, batch.report)
        spec = Bucket(spec.url).fetch(spec, folder) if spec.version else spec
        fresh = replace(plan, output=folder / "fresh") if bucket else plan
        batch = Batch([spec], fresh, alone=True)
        left = self._session.do(batch, self._redis)
        if bucket is not None:
            results = fresh.folder_of(spec)
            made = [path for path in fresh.output.rglob("[!.]*") if path.is_file()]
            bucket.send(made, fresh.output, results.replaced if results.manifest in made else [])
        return Outcome(named, batch.report, left or "")


class RayRun:
    """Runs a batch on a cluster.

    Args:
        session: whose settings the workers have; its threads are those of a worker, one if it names none.
        address: of the cluster's head (``host:6379``); True: the one that this machine is part of, else this machine.
        workers: how many files are annotated at a time; as many as the cluster has room for if None.
    """

    def __init__(self, session: Any, salt: str | None, address: str | bool, workers: int | None) -> None:
        self._session = session
        self._config: Config = session.config.model_copy(update={"threads": session.config.threads or 1})
        opens: Callable[..., Any] = type(session)
        self._open = functools.partial(opens, self._config, salt=salt)
        self._address = None if address in (True, "auto") else str(address)
        self._workers = workers
        self._thread = threading.current_thread()
        self._stopped = False

    def stop(self) -> None:
        """End the run: at once where the thread that runs it is interrupted, else with the next file."""
        self._stopped = True
        if threading.current_thread() is self._thread:
            raise KeyboardInterrupt

    def annotate(self, batch: Batch, redis: str | None) -> str | None:
        """Do what is still to do of a batch; return what could not be published, or None where there is no file.

        Raises:
            MissingExtraError: Ray is not installed.
            ConfigError: the cluster does not answer or has no room, or its nodes have another streamfer.
            OutputError: results cannot be written, or the output folder is not one that all nodes see.
        """
        from streamfer.export.bucket import Bucket

        if redis == "embedded":
            raise ConfigError("redis: a server inside this process is none of the cluster's; give an address")
        if not batch.specs:
            return None
        # What is wrong with an address is said before anything starts.
        bucket = Bucket(batch.plan.bucket) if batch.plan.bucket else None
        batch.progress.find()
        output = batch.plan.output
        with self._session.at_work(self), _connected(self._address) as ray, _shared(output, bucket is None) as token:
            ours = {name: value for name, value in os.environ.items() if name.startswith("STREAMFER_")}
            here = (Path.cwd(), ours, version("streamfer"))
            work = (self._open, replace(batch.plan, licences=dict), redis, token, here)
            left = self._collect(ray, batch, work)
            if bucket is not None:
                bucket.recall_tables(output)
            batch.write_study()
            if bucket is not None:
                bucket.send(list(output.glob("study.*")), output, [])
        return "; ".join(sorted(left - {""}))

    def _collect(self, ray: Any, batch: Batch, work: tuple[Any, ...]) -> set[str]:
        left: set[str] = set()
        missing = {spec.source_id for spec in batch.specs}
        try:
            specs, workers = list(batch.specs), self._workers
            while specs:
                room = self._room(ray)
                for row in self._outcomes(ray, specs, workers or room, work):
                    outcome = row["outcome"]
                    if outcome.error is not None:
                        raise outcome.error
                    missing.discard(outcome.source_id)
                    if outcome.report is not None:
                        batch.adopt(outcome.source_id, outcome.report)
                    left.add(outcome.left)
                    if self._stopped:
                        break
                # A worker without a node cannot come back: what it had is done where there is room.
                specs = [spec for spec in specs if spec.source_id in missing and not self._stopped]
                workers = self._room_left(ray, room) if specs else room
                specs = specs if 0 < workers < room else []
        except KeyboardInterrupt:
            if not self._stopped:
                raise
        except ray.exceptions.RayError as error:
            raise InternalError(f"ray: {' '.join(str(error).split())[:300]}") from error
        for name in sorted(missing if not self._stopped else ()):
            batch.lose(name, f"{name}: no worker came to its end ({_LIVES} may die over it); Ray's logs say why")
        return left

    def _room(self, ray: Any) -> int:
        """Return how many workers fit into the nodes that are there now."""
        threads = self._config.threads or 1
        return sum(int(node["Resources"].get("CPU", 0) // threads) for node in ray.nodes() if node["Alive"])

    def _room_left(self, ray: Any, room: int) -> int:
        """Return how many workers fit now, once it is known that a node is gone: Ray takes a while to be sure."""
        until = time.monotonic() + _PATIENCE
        while (left := self._room(ray)) >= room and time.monotonic() < until and not self._stopped:
            time.sleep(1.0)
        return left

    def _outcomes(
        self, ray: Any, specs: list[SourceSpec], workers: int, work: tuple[Any, ...]
    ) -> Iterator[dict[str, Outcome]]:
        threads = self._config.threads or 1
        if not workers:
            raise ConfigError(f"ray: no node of the cluster has {threads} CPUs; lower threads, or name the workers")
        workers = min(workers, len(specs))
        gpus = 0.0 if self._config.model.device == "cpu" else ray.cluster_resources().get("GPU", 0.0)
        context = ray.data.DataContext.get_current()
        # A file whose workers die is one failure, told at the end.
        context.max_errored_blocks, context.enable_progress_bars = -1, False
        files = [{"file": spec} for spec in specs]
        # A task is one file, and none waits behind a long one.
        pool = ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1)
        rows = ray.data.from_items(files, override_num_blocks=len(files))
        gpu = min(1.0, gpus / workers) or None
        with warnings.catch_warnings():
            # "max_task_retries" goes in 2.64, before which the extra stops.
            warnings.simplefilter("ignore")
            done = rows.map(
                Worker,
                fn_constructor_args=work,
                compute=pool,
                num_cpus=threads,
                num_gpus=gpu,
                max_task_retries=_LIVES - 1,
            )
        yield from done.iter_rows()


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Yield Ray, connected; a connection that is there already is used and stays."""
    with needs("ray", "--ray"):
        import ray
        import ray.data
    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address != "local" and _answers(address or "auto"):
        ray.init(address or "auto", **quiet)
    elif address not in (None, "local") or (address is None and "RAY_ADDRESS" in os.environ):
        raise ConfigError(
            f"ray: no cluster of Ray {ray.__version__} answers at {address or os.environ['RAY_ADDRESS']}; give "
            "host:6379 of its head, from a machine that is one of its nodes"
        )
    else:
        ray.init("local", include_dashboard=False, object_store_memory=_STORE, **quiet)
    try:
        yield ray
    finally:
        ray.shutdown()


def _answers(address: str) -> bool:
    """Whether a cluster answers; asked in a process of its own, which Ray would end after minutes."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        return not subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=False).returncode
    except subprocess.TimeoutExpired:
        return False


@contextlib.contextmanager
def _shared(output: Path, stays: bool) -> Iterator[str]:
    """Put a file into the output folder by which nodes recognise it; the folder itself ``stays`` or goes."""
    token = output / f".streamfer-ray-{uuid.uuid4().hex}"
    try:
        output.mkdir(parents=True, exist_ok=True)
        token.touch()
    except OSError as error:
        raise OutputError(f"{output}: cannot be written ({error.strerror})") from error
    try:
        yield token.name
    finally:
        token.unlink(missing_ok=True)
        if not stays:
            shutil.rmtree(output, ignore_errors=True)
