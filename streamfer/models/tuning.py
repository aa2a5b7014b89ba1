"""Which form of the image encoder runs on a GPU at each batch size: measured once a machine, then remembered.

Three forms race as whole encoders: PyTorch launch by launch, PyTorch as a CUDA graph, and the Triton kernels as a CUDA
graph. Triton takes part where its first launch and its self-test succeed, and wins unless it is more than 5 % slower.
"""

from __future__ import annotations

import logging
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import platformdirs
import torch
from pydantic import AfterValidator, BaseModel, Field, ValidationError
from torch import nn

from streamfer.errors import OutputError
from streamfer.files import write_text
from streamfer.models.attention import AttentionChoice, use_attention
from streamfer.models.graphs import BUCKETS, Function, Graphs, Run

if TYPE_CHECKING:
    from streamfer_kernels import Shape

log = logging.getLogger(__name__)

Form = Literal["triton graph", "torch graph", "torch eager"]
#: In order of preference where they are equally fast.
FORMS: tuple[Form, ...] = get_args(Form)
#: A preferred form may take this much of the fastest one's time.
LEEWAY = 1.05
#: Seconds that all measurements of a model may take.
BUDGET_S = 2.0
_ROUNDS = 7
_CALLS = 5

Times = dict[Form, Annotated[float, Field(gt=0, allow_inf_nan=False)]]
Bucket = Annotated[int, AfterValidator(BUCKETS.index), AfterValidator(BUCKETS.__getitem__)]
Measure = Callable[[Mapping[Form, Callable[[], object]], float], Times]


@dataclass(frozen=True, slots=True)
class Tuned:
    """What runs at each batch size."""

    chosen: dict[int, Form] = field(default_factory=dict)
    times: dict[int, Times] = field(default_factory=dict)  #: microseconds a batch of every form measured
    without: str = ""  #: why Triton took no part; empty if it did

    @property
    def lines(self) -> list[str]:
        """One line a batch size, for people; the first says why Triton took no part."""
        found = [f"no Triton kernels: {self.without}"] if self.without else []
        for size, form in self.chosen.items():
            rest = sorted(self.times.get(size, {}).items(), key=lambda item: item[1])
            told = ", ".join(f"{name} {us:,.0f} us" for name, us in rest)
            found.append(f"batch {size}: {form}" + (f" ({told})" if told else ""))
        return found


def decide(times: Mapping[Form, float]) -> Form:
    """Return the first form, in order of preference, that is hardly slower than the fastest."""
    best = min(times.values())
    return next(form for form in FORMS if form in times and times[form] <= LEEWAY * best)


def cache_file() -> Path:
    return platformdirs.user_cache_path("streamfer") / "kernels.json"


def forget(path: Path | None = None) -> None:
    """Forget all measurements: the next model is measured again; an OutputError where the file cannot be removed."""
    path = path or cache_file()
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be removed ({error.strerror}), and is used on; remove it by hand") from error


class _Cache(BaseModel):
    """The cache file: microseconds of each form, by machine and model and by batch size."""

    format: Literal[1]
    measured: dict[str, dict[Bucket, Annotated[Times, Field(min_length=1)]]]


def remembered(path: Path) -> dict[str, dict[int, Times]]:
    """Return what a cache file holds; nothing where it is absent, damaged or of another version."""
    try:
        return dict(_Cache.model_validate_json(path.read_bytes()).measured)
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError) as error:
        log.warning("kernels.cache_damaged", extra={"path": str(path), "error": str(error)})
        return {}


def remember(path: Path, key: str, times: dict[int, Times]) -> None:
    """Add a measurement to the cache file; where that cannot be written, the next start measures again."""
    try:
        write_text(path, _Cache(format=1, measured={**remembered(path), key: times}).model_dump_json(indent=1))
    except OutputError as error:
        log.info("kernels.cache_unwritable", extra={"path": str(path), "error": str(error)})


def machine(device: torch.device) -> str:
    """Return what a measurement depends on besides the model: GPU, driver, torch, triton, the kernels' source."""
    from streamfer_kernels import backend_report, source_digest

    triton = backend_report(device)["triton"]
    parts = (torch.cuda.get_device_name(device), _driver(), torch.__version__, triton, source_digest()[:16])
    return " | ".join(map(str, parts))


def _driver() -> str:
    try:
        told = Path("/proc/driver/nvidia/version").read_text(encoding="ascii", errors="replace")
    except OSError:
        return f"{platform.system()} {torch.version.cuda}"
    found = re.search(r"\d+\.\d+(\.\d+)?", told)
    return found.group() if found else "unknown"


def measure(
    runs: Mapping[Form, Callable[[], object]], budget_s: float, wait: Callable[[], None] = torch.cuda.synchronize
) -> Times:
    """Return the median microseconds of each call, in turns, host and GPU together."""
    taken: dict[Form, list[float]] = {form: [] for form in runs}
    end = time.perf_counter() + budget_s
    for turn in range(_ROUNDS):
        for form, run in runs.items():
            wait()
            start = time.perf_counter()
            for _ in range(_CALLS):
                run()
            wait()
            taken[form].append((time.perf_counter() - start) / _CALLS * 1e6)
        if turn and time.perf_counter() > end:
            break
    return {form: statistics.median(times) for form, times in taken.items()}


@dataclass(slots=True)
class Tuner:
    """Fills :class:`Graphs` with the fastest form of a function at each batch size."""

    graphs: Graphs
    function: Function  #: computes a batch
    network: nn.Module  #: the layers in it whose attention is switched
    measure: Measure = measure  #: times forms; tests give another

    def tune(self, attention: AttentionChoice, key: str, path: Path | None) -> Tuned:
        """Record every batch size that fits; Triton is measured against PyTorch where the choice is open.

        The measurement is remembered under ``key`` in the cache file at ``path``, if any.
        """
        without = self._hindrance(attention)
        if without or not attention.open:
            only: Form = "triton graph" if not without and attention.implementation == "triton" else "torch graph"
            return self._fill({}, lambda _: (only,), without)
        known = remembered(path).get(key, {}) if path else {}
        if known:
            return self._fill(known, lambda size: (decide(known[size]),) if size in known else ("torch graph",), "")
        tuned = self._fill({}, lambda _: FORMS, "")
        if path and tuned.times:
            remember(path, key, tuned.times)
        return tuned

    def _hindrance(self, attention: AttentionChoice) -> str:
        """Return why Triton takes no part, or nothing."""
        if not attention.open and attention.implementation == "torch":
            return attention.reason
        from streamfer_kernels import preflight, self_test

        shapes = attention_shapes(self.network)
        if not shapes:
            return "this encoder has no layers for them"
        told = preflight(self.graphs.device) or self_test(self.graphs.device, shapes)
        if told:
            log.warning("kernels.refused", extra={"reason": told})
        return told or ""

    def _fill(self, times: dict[int, Times], candidates: Callable[[int], tuple[Form, ...]], without: str) -> Tuned:
        tuned = Tuned({}, dict(times), without)
        for size in BUCKETS:
            try:
                recorded = self._record(size, candidates(size))
                if len(recorded) > 1:
                    tuned.times[size] = self.measure(recorded, BUDGET_S / len(BUCKETS))
            except torch.OutOfMemoryError:
                if size == BUCKETS[0]:
                    raise
                log.warning("model.batch_too_large", extra={"batch": size})
                self.graphs.drop(size)
                break
            form = decide(tuned.times[size]) if len(recorded) > 1 else next(iter(recorded))
            self.graphs.keep(size, recorded[form])
            tuned.chosen[size] = form
        use_attention(self.network, "torch")
        return tuned

    def _record(self, size: int, forms: tuple[Form, ...]) -> dict[Form, Run]:
        """Record forms at a batch size; where none of them can be, what needs less."""
        recorded: dict[Form, Run] = {}
        for form in forms:
            use_attention(self.network, "triton" if form == "triton graph" else "torch")
            try:
                if form != "torch eager":
                    recorded[form] = self.graphs.record(size, self.function)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever a compiler or a driver raises; others serve
                log.warning("kernels.not_recorded", extra={"form": form, "batch": size, "error": repr(error)[:300]})
        use_attention(self.network, "torch")
        if not recorded and forms == ("triton graph",):
            return self._record(size, ("torch graph",))
        if "torch eager" in forms or not recorded:
            recorded["torch eager"] = self.graphs.plain(size, self.function)
        return recorded


def attention_shapes(network: nn.Module) -> list[Shape]:
    """Return the self-attention that Triton would run in a network, without repetition."""
    from streamfer_kernels import Shape, supports_head

    found = []
    tokens = getattr(network, "positional_embedding", torch.empty(0)).shape[0]
    for module in network.modules():
        if isinstance(module, nn.MultiheadAttention) and hasattr(module, "implementation"):
            shape = Shape(tokens, module.num_heads, module.head_dim, module.in_proj_weight.dtype)
            if supports_head(module.head_dim) and shape not in found:
                found.append(shape)
    return found
