"""Triton kernels against every back end of PyTorch: time, ratio to the best, and how near the hardware's ceilings.

    python benchmarks/kernels.py --out kernels/RESULTS.md --append

Needs torch, triton and a CUDA device; of this repository only the folder kernels/ beside it. Calls are captured as
CUDA graphs over rotating inputs (more than twice the L2 cache in all) and timed by events; a number is the median.
Ours is compared with float64; a result that no rounding explains ends in status 1.
"""

from __future__ import annotations

import argparse
import datetime
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kernels"))

import streamfer_kernels as ours

Tensors = tuple[torch.Tensor, ...]
Call = Callable[..., torch.Tensor]
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
#: Name, batch, heads, queries, keys, head size, and the goal for separate and packed inputs.
SHAPES: tuple[tuple[str, int, int, int, int, int, float, float], ...] = (
    ("temporal", 2048, 8, 17, 17, 64, 2.0, 2.5),
    ("ViT-B/32", 512, 12, 50, 50, 64, 2.0, 2.5),
    ("ViT-B/16", 128, 12, 197, 197, 64, 1.2, 1.2),
    ("ViT-L/14", 96, 16, 257, 257, 64, 1.2, 1.2),
    ("EVA-G", 96, 16, 257, 257, 88, 1.2, 1.2),
    ("Q-Former", 256, 12, 32, 257, 64, 0.0, 0.0),
    ("long", 8, 16, 1024, 1024, 64, 0.0, 0.0),
)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
REPLAYS = 30
#: Relative error that no rounding explains, at any dtype.
WRONG = 0.1
DEVICE = "cuda"


@dataclass(slots=True)
class Row:
    """One case: milliseconds of ours and of each rival, and what was done in that time."""

    case: str
    dtype: str
    ours_ms: float
    rivals_ms: dict[str, float]
    flops: float = 0.0
    bytes: float = 0.0
    error: float = 0.0
    goal: float = 0.0

    @property
    def best(self) -> tuple[str, float]:
        """The fastest rival."""
        return min(self.rivals_ms.items(), key=lambda item: item[1])

    @property
    def ratio(self) -> float:
        """Its time over ours."""
        return self.best[1] / self.ours_ms

    @property
    def right(self) -> bool:
        """Whether ours computed what it should; NaN is wrong."""
        return self.error < WRONG


def replay_ms(calls: Sequence[Callable[[], object]]) -> float:
    """Capture the calls as one graph; median milliseconds of one call."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            for call in calls:
                call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return event_ms(graph.replay) / len(calls)


def event_ms(call: Callable[[], object]) -> float:
    """Median milliseconds of a call, by events."""
    for _ in range(3):
        call()
    times = []
    for _ in range(REPLAYS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return statistics.median(times)


def rotating(make: Callable[[], Tensors]) -> list[Tensors]:
    """Input sets whose sum is more than twice the L2 cache; at least two, at most 32."""
    first = make()
    size = sum(value.numel() * value.element_size() for value in first)
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    count = min(32, max(2, math.ceil(2 * cache / size)))
    return [first, *(make() for _ in range(count - 1))]


def try_ms(name: str, measure: Callable[[], float], into: dict[str, float]) -> None:
    """Measure a rival; one that does not take the case is named and left out."""
    try:
        into[name] = measure()
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
        print(f"    {name}: left out ({str(error).splitlines()[0][:110]})", file=sys.stderr)
        torch.cuda.synchronize()


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative error to float64, |found - expected| / |expected|."""
    return float((found.double() - expected).norm() / expected.norm())


def ceilings() -> tuple[float, float]:
    """Bytes/s of a device copy (read plus written) and FLOP/s of a bf16 matrix product, both measured here."""
    source, target = (torch.empty(2**30, dtype=torch.uint8, device=DEVICE).random_() for _ in range(2))
    copy = 2 * 2**30 / event_ms(lambda: target.copy_(source)) * 1e3
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    product = 2 * 8192**3 / event_ms(lambda: a @ b) * 1e3
    return copy, product


def plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """What torch.compile gets to fuse."""
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


def split(qkv: torch.Tensor, heads: int) -> list[torch.Tensor]:
    """Views (B, H, N, E) of a packed projection."""
    batch, rows, columns = qkv.shape
    return [part.view(batch, rows, heads, columns // (3 * heads)).transpose(1, 2) for part in qkv.chunk(3, -1)]


def attention_calls(heads: int, packed: bool) -> tuple[Call, dict[str, tuple[Any, Call]]]:
    """Ours, and each rival with the context it runs in; a packed call ends in (B, N, H E), contiguous."""

    def wrap(call: Call) -> Call:
        if not packed:
            return call
        return lambda qkv: call(*split(qkv, heads)).transpose(1, 2).flatten(2)

    def mine(*inputs: torch.Tensor) -> torch.Tensor:
        if packed:
            return ours.attention_packed(inputs[0], heads, backend="triton")
        return ours.attention(*inputs, backend="triton")

    fused = wrap(F.scaled_dot_product_attention)
    rivals: dict[str, tuple[Any, Call]] = {name: (one, fused) for name, one in BACKENDS.items()}
    rivals["compile"] = (None, torch.compile(wrap(plain_attention), dynamic=False))
    return mine, rivals


def wrongness(mine: Call, inputs: Tensors, heads: int, packed: bool) -> float:
    """Relative error to float64, for the first two batch elements."""
    small = [value[:2] for value in inputs]
    wide = [value.double() for value in small]
    exact = plain_attention(*(split(wide[0], heads) if packed else wide))
    return off(mine(*small), exact.transpose(1, 2).flatten(2) if packed else exact)


def graph_ms(call: Call, sets: list[Tensors], context: Any) -> float:
    """Milliseconds of a call."""
    with sdpa_kernel(context) if context is not None else nullcontext():
        return replay_ms([lambda inputs=inputs: call(*inputs) for inputs in sets])  # type: ignore[misc]


@torch.inference_mode()
def attention_row(shape: tuple[Any, ...], kind: str, packed: bool) -> Row:
    """One shape in one dtype."""
    name, batch, heads, queries, keys, head, apart_goal, packed_goal = shape
    dtype = DTYPES[kind]
    torch._dynamo.reset()
    lengths = (queries, keys, keys)
    shapes = [(batch, queries, 3 * heads * head)] if packed else [(batch, heads, rows, head) for rows in lengths]
    sets = rotating(lambda: tuple(torch.randn(s, device=DEVICE, dtype=dtype) for s in shapes))
    mine, rivals = attention_calls(heads, packed)
    wrong = wrongness(mine, sets[0], heads, packed)
    time, others = graph_ms(mine, sets, None), dict[str, float]()
    for rival, (context, call) in rivals.items():
        try_ms(rival, lambda c=call, x=context: graph_ms(c, sets, x), others)  # type: ignore[misc]
    flops = 4.0 * batch * heads * queries * keys * head
    moved = 2.0 * batch * heads * head * dtype.itemsize * (queries + keys)
    title = f"{name} {queries} on {keys} x {head}, {batch * heads} pairs" + (", packed" if packed else "")
    return Row(title, kind, time, others, flops, moved, wrong, packed_goal if packed else apart_goal)


def table(rows: list[Row], copy: float, product: float) -> str:
    """The rows as Markdown."""
    lines = ["| case | dtype | ours, ms | best of PyTorch, ms | ratio | goal | all, ms | TFLOP/s | GB/s | error |"]
    lines.append("|" + "---|" * 10)
    for row in rows:
        name, best = row.best
        everyone = ", ".join(f"{one} {ms:.4f}" for one, ms in sorted(row.rivals_ms.items(), key=lambda item: item[1]))
        rate, speed = row.flops / row.ours_ms * 1e3, row.bytes / row.ours_ms * 1e3
        lines.append(
            f"| {row.case} | {row.dtype} | {row.ours_ms:.4f} | {best:.4f} ({name}) | {row.ratio:.2f} | "
            f"{row.goal or '–'} | {everyone} | {rate / 1e12:.0f} ({rate / product:.0%}) | "
            f"{speed / 1e9:.0f} ({speed / copy:.0%}) | {row.error:.1e} |"
        )
    return "\n".join(lines)


def report(rows: list[Row], copy: float, product: float) -> str:
    """A section for RESULTS.md."""
    import triton

    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    return (
        f"\n## {torch.cuda.get_device_name()}, {datetime.datetime.now(tz=datetime.UTC):%d %B %Y}\n\n"
        f"Compute capability {capability}, torch {torch.__version__}, triton {triton.__version__}, "
        f"CUDA {torch.version.cuda}. Ceilings measured in the same run: copy {copy / 1e12:.2f} TB/s (bytes read plus "
        f"written), bf16 matrix product {product / 1e12:.0f} TFLOP/s; percentages are of these.\n"
        f"Command: `python benchmarks/kernels.py {' '.join(sys.argv[1:])}`\n\n{table(rows, copy, product)}\n"
    )


def measure(wanted: argparse.Namespace) -> list[Row]:
    """Every case whose name holds the text asked for."""
    rows: list[Row] = []
    for kind in wanted.dtypes.split(","):
        for shape in SHAPES:
            name = f"attention {shape[0]} {kind}"
            if wanted.only not in name:
                continue
            print(name, file=sys.stderr, flush=True)
            for packed in (False, True) if shape[3] == shape[4] else (False,):
                rows.append(attention_row(shape, kind, packed))
                torch.cuda.empty_cache()
    return rows


def main() -> int:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown file")
    parser.add_argument("--append", action="store_true", help="add to the file instead of replacing it")
    parser.add_argument("--dtypes", default=",".join(DTYPES), help="comma-separated; default: %(default)s")
    parser.add_argument("--only", default="", help="cases whose name holds this text, for example 'EVA-G'")
    wanted = parser.parse_args()
    if unknown := set(wanted.dtypes.split(",")) - DTYPES.keys():
        parser.error(f"--dtypes: {', '.join(sorted(unknown))} unknown; expected {', '.join(DTYPES)}")
    if not torch.cuda.is_available() or ours.backend_report()["obstacle"] is not None:
        print(
            "benchmarks/kernels.py needs a CUDA device of compute capability 8.0 or later, and Triton: none here",
            file=sys.stderr,
        )
        return 2
    torch.manual_seed(0)
    copy, product = ceilings()
    rows = measure(wanted)
    section = report(rows, copy, product)
    print(section)
    if wanted.out:
        with wanted.out.open("a" if wanted.append else "w", encoding="utf-8") as stream:
            stream.write(section)
    wrong = [f"{row.case} {row.dtype}" for row in rows if not row.right]
    if wrong:
        print(f"wrong results, not rounding: {'; '.join(wrong)}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
