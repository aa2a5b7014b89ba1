"""Triton kernels against every back end of PyTorch: time, ratio to the best, and how near the hardware's ceilings.

    python benchmarks/kernels.py --out kernels/RESULTS.md --append

Needs torch, triton and a CUDA device; of this repository only the folder kernels/ beside it. Calls are captured as
CUDA graphs over rotating inputs (more than twice the L2 cache in all) and timed by events, the label head's rivals
call by call, as they are used; a number is the median. Ours is compared with float64, gradients included; a result
that no rounding explains ends in status 1 and never among the measurements that decide the defaults, which
``--table`` keeps (kernels/streamfer_kernels/measured.json): lines of a run replace those of the same case.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kernels"))

import streamfer_kernels as ours
from streamfer_kernels.temporal import torch_block

Tensors = tuple[torch.Tensor, ...]
Call = Callable[..., torch.Tensor]
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
#: Name, batch, heads, queries, keys, head size, and the goal for forward (separate, packed) and backward.
SHAPES: tuple[tuple[str, int, int, int, int, int, float, float, float], ...] = (
    ("temporal", 2048, 8, 17, 17, 64, 2.0, 2.5, 1.5),
    ("ViT-B/32", 512, 12, 50, 50, 64, 2.0, 2.5, 1.5),
    ("ViT-B/16", 128, 12, 197, 197, 64, 1.2, 1.2, 1.0),
    ("ViT-L/14", 96, 16, 257, 257, 64, 1.2, 1.2, 1.0),
    ("EVA-G", 96, 16, 257, 257, 88, 1.2, 1.2, 1.0),
    ("Q-Former", 256, 12, 32, 257, 64, 0.0, 0.0, 0.0),
    ("prompts, causal", 256, 8, 77, 77, 64, 0.0, 0.0, 0.0),
    ("long", 8, 16, 1024, 1024, 64, 0.0, 0.0, 0.0),
)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
REPLAYS = 30
#: Relative error that no rounding explains, at any dtype.
WRONG = 0.1
DEVICE = "cuda"
#: Windows of the label head; rows of the pointwise cases; frame height and width, side of a face and of a crop.
WINDOWS = (1, 256)
ROWS = 25600
#: Feature size of the label head (its MLP is twice as wide) and its heads.
DEPTH, HEADS = 512, 8
FRAME, FACE_SIDE, CROP_SIDE = (1080, 1920), 300, 224


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
    measurement: dict[str, Any] = field(default_factory=dict)

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


def plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    """What torch.compile gets to fuse."""
    logits = q @ k.mT * q.shape[-1] ** -0.5
    if causal:
        logits = logits.masked_fill(~torch.ones_like(logits, dtype=torch.bool).tril(), float("-inf"))
    return logits.softmax(-1) @ v


def split(qkv: torch.Tensor, heads: int) -> list[torch.Tensor]:
    """Views (B, H, N, E) of a packed projection."""
    batch, rows, columns = qkv.shape
    return [part.view(batch, rows, heads, columns // (3 * heads)).transpose(1, 2) for part in qkv.chunk(3, -1)]


def attention_calls(heads: int, causal: bool, packed: bool) -> tuple[Call, dict[str, tuple[Any, Call]]]:
    """Ours, and each rival with the context it runs in; a packed call ends in (B, N, H E), contiguous."""

    def wrap(call: Call) -> Call:
        if not packed:
            return call
        return lambda qkv: call(*split(qkv, heads)).transpose(1, 2).flatten(2)

    def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    def mine(*inputs: torch.Tensor) -> torch.Tensor:
        if packed:
            return ours.attention_packed(inputs[0], heads, causal=causal, backend="triton")
        return ours.attention(*inputs, causal=causal, backend="triton")

    rivals: dict[str, tuple[Any, Call]] = {name: (one, wrap(fused)) for name, one in BACKENDS.items()}
    rivals["compile"] = (None, torch.compile(wrap(lambda q, k, v: plain_attention(q, k, v, causal)), dynamic=False))
    return mine, rivals


def errors(mine: Call, inputs: Tensors, heads: int, causal: bool, packed: bool) -> tuple[float, float]:
    """Relative errors of the output and of all gradients, for the first two batch elements."""
    small = [value[:2].detach().requires_grad_() for value in inputs]
    wide = [value.detach().double().requires_grad_() for value in small]
    out, exact = mine(*small), plain_attention(*(split(wide[0], heads) if packed else wide), causal)
    if packed:
        exact = exact.transpose(1, 2).flatten(2)
    d_out = torch.randn_like(out)
    found = torch.autograd.grad(out, small, d_out)
    expected = torch.autograd.grad(exact, wide, d_out.double())
    joined = [torch.cat([gradient.flatten() for gradient in one]) for one in (found, expected)]
    return off(out.detach(), exact.detach()), off(*joined)


def graph_ms(call: Call, sets: list[Tensors], context: Any, d_out: torch.Tensor | None) -> float:
    """Milliseconds of forward, or of forward and backward where ``d_out`` is given."""

    def step(inputs: Tensors) -> None:
        out = call(*inputs)
        if d_out is not None:
            torch.autograd.grad(out, inputs, d_out)

    with sdpa_kernel(context) if context is not None else nullcontext():
        return replay_ms([lambda inputs=inputs: step(inputs) for inputs in sets])  # type: ignore[misc]


def attention_rows(shape: tuple[Any, ...], kind: str, packed: bool) -> list[Row]:
    """Forward and backward of one shape."""
    name, batch, heads, queries, keys, head, apart_goal, packed_goal, backward_goal = shape
    causal, dtype = "causal" in name, DTYPES[kind]
    torch._dynamo.reset()

    def make(gradients: bool) -> Tensors:
        if packed:
            shapes = [(batch, queries, 3 * heads * head)]
        else:
            shapes = [(batch, heads, rows, head) for rows in (queries, keys, keys)]
        return tuple(torch.randn(s, device=DEVICE, dtype=dtype, requires_grad=gradients) for s in shapes)

    mine, rivals = attention_calls(heads, causal, packed)
    wrong, wrong_gradients = errors(mine, make(False), heads, causal, packed)
    d_out = torch.randn_like(mine(*make(False)))
    times: dict[bool, dict[str, float]] = {}
    for training in (False, True):
        sets = rotating(lambda training=training: make(training))  # type: ignore[misc]
        times[training] = {"ours": graph_ms(mine, sets, None, d_out if training else None)}
        for rival, (context, call) in rivals.items():
            measure = lambda c=call, x=context, s=sets, t=training: graph_ms(c, s, x, d_out if t else None)  # noqa: E731
            try_ms(rival, measure, times[training])
    # Forward that keeps what backward needs costs next to nothing more; the difference is backward.
    backward = {one: both - times[False][one] for one, both in times[True].items() if one in times[False]}
    flops = 4.0 * batch * heads * queries * keys * head * (0.5 if causal else 1)
    sizes = batch * heads * head * dtype.itemsize
    title = f"{name} {queries} on {keys} x {head}, {batch * heads} pairs" + (", packed" if packed else "")
    measured = {"queries": [queries] * 2, "keys": [keys] * 2, "head": [head] * 2, "causal": [int(causal)] * 2}
    ranges: dict[str, list[int | None]] = {**measured, "pairs": [batch * heads, None]}
    rows = []
    for direction, found, training, factor, tensors, off_by, goal in (
        ("forward", times[False], False, 1.0, 2 * (queries + keys), wrong, packed_goal if packed else apart_goal),
        ("backward", backward, None, 2.5, 4 * (queries + keys), wrong_gradients, backward_goal),
        ("both", times[True], True, 3.5, 6 * (queries + keys), wrong_gradients, 0.0),
    ):
        row = Row(
            f"{title}, {direction}", kind, found.pop("ours"), found, factor * flops, sizes * tensors, off_by, goal
        )
        if training is not None and not packed:
            row.measurement = {**entry("attention", kind, ranges, row.ratio), "training": training}
        rows.append(row)
    return rows


def entry(operation: str, kind: str, sizes: dict[str, list[int | None]], ratio: float) -> dict[str, Any]:
    """One line of measured.json for inference."""
    return {
        "operation": operation, "device": torch.cuda.get_device_name(), "training": False,
        "dtype": str(DTYPES[kind]).removeprefix("torch."), "sizes": sizes, "ratio": round(ratio, 3),
    }  # fmt: skip


def block_row(weights: ours.BlockWeights, windows: int, kind: str) -> Row:
    """The whole temporal block, every token through it."""
    dtype = DTYPES[kind]
    sets = rotating(lambda: (torch.randn(windows, 17, DEPTH, device=DEVICE).to(dtype),))
    with ours.use("triton"):
        mine = graph_ms(lambda x: ours.temporal_block(x, weights, HEADS), sets, None, None)
        found = ours.temporal_block(sets[0][0], weights, HEADS)
    exact = torch_block(sets[0][0].double(), weights.to(DEVICE, torch.float64), HEADS, 1e-5, False)
    rivals: dict[str, float] = {}
    plain = lambda x: torch_block(x, weights, HEADS, 1e-5, False)  # noqa: E731
    for name, call in (("eager", plain), ("compile", torch.compile(plain, dynamic=False))):
        try_ms(name, lambda c=call: graph_ms(c, sets, None, None), rivals)  # type: ignore[misc]
    flops = 2.0 * windows * 17 * (DEPTH * 3 * DEPTH + 5 * DEPTH * DEPTH)
    moved = sum(value.numel() for value in weights.tensors()) + windows * 17 * DEPTH * 2
    row = Row(
        f"temporal block, {windows} windows", kind, mine, rivals, flops, moved * dtype.itemsize, off(found, exact)
    )
    sizes = {"windows": [windows] * 2, "tokens": [17, 17], "depth": [DEPTH, DEPTH]}
    row.measurement = entry("temporal_block", kind, sizes, row.ratio)
    return row


class EagerHead(torch.nn.Module):
    """DFER-CLIP's label head as anybody would write it in PyTorch: every token through the whole block."""

    def __init__(self, weights: ours.BlockWeights, token: Any, positions: Any, classes: Any, heads: int) -> None:
        super().__init__()
        self.weights, self.token, self.positions, self.heads = weights, token, positions, heads
        self.classes = F.normalize(classes, dim=-1)

    def forward(self, ring: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Probabilities of windows of the ring."""
        w = self.weights
        x = torch.cat([self.token.expand(len(indices), 1, -1), ring[indices]], 1) + self.positions
        y = F.layer_norm(x, x.shape[-1:], w.norm1_weight, w.norm1_bias)
        mixed = F.scaled_dot_product_attention(*split(F.linear(y, w.qkv_weight), self.heads))
        x = x + F.linear(mixed.transpose(1, 2).flatten(2), w.out_weight, w.out_bias)
        y = F.layer_norm(x, x.shape[-1:], w.norm2_weight, w.norm2_bias)
        x = x + F.linear(F.gelu(F.linear(y, w.fc1_weight, w.fc1_bias), approximate="tanh"), w.fc2_weight, w.fc2_bias)
        return (F.normalize(x[:, 0], dim=-1) @ self.classes.T / 0.01).float().softmax(-1)


@torch.inference_mode()
def head_rows(kind: str) -> list[Row]:
    """The label head from ring to probabilities, by its captured graph."""
    dtype, rows = DTYPES[kind], []

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, device=DEVICE) / shape[-1] ** 0.5).to(dtype)

    weights = ours.BlockWeights(
        1 + random(DEPTH), random(DEPTH), random(3 * DEPTH, DEPTH), random(DEPTH, DEPTH), random(DEPTH),
        1 + random(DEPTH), random(DEPTH),
        random(2 * DEPTH, DEPTH), random(2 * DEPTH), random(DEPTH, 2 * DEPTH), random(DEPTH),
    )  # fmt: skip
    parts, ring = (
        (random(DEPTH), random(17, DEPTH), random(7, DEPTH)),
        torch.randn(65536, DEPTH, device=DEVICE).to(dtype),
    )
    eager = EagerHead(weights, *parts, heads=HEADS)
    head = ours.LabelHead([weights], *parts, heads=HEADS, temperature=0.01)
    fused = torch.compile(eager, mode="reduce-overhead", dynamic=False)
    for windows in WINDOWS:
        indices = torch.randint(0, len(ring), (windows, 16), device=DEVICE)
        with ours.use("triton"):
            captured = head.capture(ring, windows)
        exact = EagerHead(weights.to(DEVICE, torch.float64), *(part.double() for part in parts), heads=HEADS)
        wrong = off(captured(indices), exact(ring.double(), indices).double())
        turns = itertools.cycle([torch.randint_like(indices, len(ring)) for _ in range(32)])
        mine = event_ms(lambda c=captured, t=turns: c(next(t)))  # type: ignore[misc]
        rivals: dict[str, float] = {}
        try_ms("eager", lambda t=turns: event_ms(lambda: eager(ring, next(t))), rivals)  # type: ignore[misc]
        try_ms("compile", lambda t=turns: event_ms(lambda: fused(ring, next(t))), rivals)  # type: ignore[misc]
        flops = 2.0 * windows * (17 * DEPTH * 3 * DEPTH + 5 * DEPTH * DEPTH)
        moved = sum(value.numel() for value in weights.tensors()) + windows * 16 * DEPTH
        rows.append(
            Row(f"label head, {windows} windows", kind, mine, rivals, flops, moved * dtype.itemsize, wrong, 1.3)
        )
        sizes = {"windows": [windows] * 2, "depth": [DEPTH, DEPTH], "tokens": [17, 17], "blocks": [1, 1]}
        rows[-1].measurement = entry("label_head", kind, sizes, rows[-1].ratio)
        rows.append(block_row(weights, windows, kind))
    return rows


def convert_and_sample(frames: torch.Tensor, matrices: torch.Tensor, size: int, planar: bool) -> torch.Tensor:
    """The usual way: whole frames to RGB (BT.709, limited), then one grid_sample, without antialiasing.

    Faces are in their frames' order, as many in each. Nothing here synchronises, so that a graph can hold it.
    """
    if planar:
        height, width = frames.shape[1] // 3 * 2, frames.shape[2]
        luma = (frames[:, None, :height].half() - 16) * (255 / 219)
        chroma = frames[:, height:].view(len(frames), height // 2, width // 2, 2).permute(0, 3, 1, 2).half() - 128
        u, v = (F.interpolate(chroma, scale_factor=2, mode="bilinear") * (255 / 224)).split(1, 1)
        rgb = torch.cat([luma + 1.5748 * v, luma - 0.18733 * u - 0.46813 * v, luma + 1.8556 * u], 1).clamp(0, 255) / 255
    else:
        height, width = frames.shape[1:3]
        rgb = frames.permute(0, 3, 1, 2).half() / 255
    (a, b, right), (c, d, down) = matrices.permute(1, 2, 0)
    inverse = torch.stack([d, -b, b * down - d * right, -c, a, c * right - a * down], -1) / (a * d - b * c)[:, None]
    place = torch.arange(size, device=frames.device, dtype=torch.float32)
    v_at, u_at = torch.meshgrid(place, place, indexing="ij")
    x, y = (torch.stack([u_at, v_at, torch.ones_like(u_at)], -1) @ inverse.view(-1, 2, 3).mT[:, None]).unbind(-1)
    grid = torch.stack([(x * 2 + 1) / width - 1, (y * 2 + 1) / height - 1], -1).half()
    # Faces of a frame one above the other: sampled face by face, each would need a copy of its frame.
    tall = grid.view(len(frames), -1, size, 2)
    cut = F.grid_sample(rgb, tall, padding_mode="border", align_corners=False)
    return cut.view(len(frames), 3, -1, size, size).transpose(1, 2).flatten(0, 1)


@torch.inference_mode()
def crop_rows(pixel_format: Any) -> list[Row]:
    """64 faces of 300 pixels out of eight 1080p frames, to 224 pixels."""
    side, size, faces, planar = FACE_SIDE, CROP_SIDE, 64, pixel_format == "nv12"
    height, width = FRAME
    index = torch.arange(faces, device=DEVICE) // 8
    scale = size / side
    corner = torch.rand(faces, 2, device=DEVICE) * torch.tensor([width - side, height - side], device=DEVICE)
    matrices = torch.zeros(faces, 2, 3, device=DEVICE)
    matrices[:, 0, 0] = matrices[:, 1, 1] = scale
    matrices[:, :, 2] = -corner * scale
    shape = (8, height // 2 * 3, width) if planar else (8, height, width, 3)
    sets = rotating(lambda: (torch.randint(0, 256, shape, dtype=torch.uint8, device=DEVICE),))

    def mine(frames: torch.Tensor) -> torch.Tensor:
        return ours.crop_faces(
            frames, matrices, size, frame_index=index, pixel_format=pixel_format, dtype=torch.bfloat16
        )

    def usual(frames: torch.Tensor) -> torch.Tensor:
        return convert_and_sample(frames, matrices, size, planar)

    with ours.use("torch"):
        exact = mine(sets[0][0]).double()
    with ours.use("triton"):
        wrong = off(mine(sets[0][0]), exact)
        time = graph_ms(mine, sets, None, None)
    rivals: dict[str, float] = {}
    for name, call in (("grid_sample", usual), ("compile", torch.compile(usual, dynamic=False))):
        try_ms(name, lambda c=call: graph_ms(c, sets, None, None), rivals)  # type: ignore[misc]
    moved = faces * (side * side * (1.5 if planar else 3) + 3 * size * size * 2)
    title, goal = f"crop_faces, {faces} faces, 1080p {pixel_format.upper()}", 5.0 if planar else 0.0
    row = Row(title, "bf16", time, rivals, 0.0, moved, wrong, goal)
    sizes = {"faces": [faces, None], "side": [size, size], "planar": [int(planar)] * 2}
    row.measurement = entry("crop_faces", "bf16", sizes, row.ratio)
    return [row]


@torch.inference_mode()
def pointwise_rows(kind: str) -> list[Row]:
    """What lies between the matrix products of ViT-B/32 on 512 faces."""
    dtype, rows = DTYPES[kind], []
    weight, bias = torch.randn(768, device=DEVICE, dtype=dtype), torch.randn(768, device=DEVICE, dtype=dtype)

    def norm(x: torch.Tensor, r: torch.Tensor) -> Tensors:
        total = x + r
        return total, F.layer_norm(total, (768,), weight, bias)

    def quick(x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)

    def tanh(x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x, approximate="tanh")

    cases: list[tuple[str, Any, Any, int, int, int]] = [
        ("residual_layer_norm", lambda *t: ours.residual_layer_norm(*t, weight, bias), norm, 768, 2, 4),
        ("quick_gelu", ours.quick_gelu, quick, 3072, 1, 2),
        ("gelu_tanh", ours.gelu_tanh, tanh, 3072, 1, 2),
    ]
    for name, mine, plain, depth, count, passes in cases:
        sets = rotating(
            lambda d=depth, c=count: tuple(torch.randn(ROWS, d, device=DEVICE, dtype=dtype) for _ in range(c))
        )  # type: ignore[misc]
        with ours.use("triton"):
            time = graph_ms(mine, sets, None, None)
            last = mine(*(value[:64] for value in sets[0]))
        exact = plain(*(value[:64].double() for value in sets[0])) if name != "residual_layer_norm" else None
        rivals: dict[str, float] = {}
        try_ms("eager", lambda p=plain, s=sets: graph_ms(p, s, None, None), rivals)  # type: ignore[misc]
        fused = torch.compile(plain, dynamic=False)
        try_ms("compile", lambda p=fused, s=sets: graph_ms(p, s, None, None), rivals)  # type: ignore[misc]
        if exact is None:
            x, r = (value[:64].double() for value in sets[0])
            wrong = off(last[1], F.layer_norm(x + r, (768,), weight.double(), bias.double()))
        else:
            wrong = off(last, exact)
        rows.append(
            Row(f"{name}, {ROWS} x {depth}", kind, time, rivals, 0.0, ROWS * depth * passes * dtype.itemsize, wrong)
        )
        counted = {"rows": [ROWS, None], "depth": [768, 768]} if count == 2 else {"elements": [ROWS * depth, None]}
        rows[-1].measurement = entry(name, kind, counted, rows[-1].ratio)
    return rows


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
    jobs: list[tuple[str, Callable[[], list[Row]]]] = []
    for kind in wanted.dtypes.split(","):
        for shape in SHAPES:
            for packed in (False, True) if shape[3] == shape[4] else (False,):
                jobs.append((f"attention {shape[0]} {kind}", lambda s=shape, k=kind, p=packed: attention_rows(s, k, p)))  # type: ignore[misc]
        jobs.append((f"label head {kind}", lambda k=kind: head_rows(k)))  # type: ignore[misc]
        jobs.append((f"pointwise {kind}", lambda k=kind: pointwise_rows(k)))  # type: ignore[misc]
    jobs += [(f"crops {layout}", lambda p=layout: crop_rows(p)) for layout in ("nv12", "rgb")]  # type: ignore[misc]
    rows: list[Row] = []
    for name, job in jobs:
        if wanted.only in name:
            print(name, file=sys.stderr, flush=True)
            rows += job()
            torch.cuda.empty_cache()
    return rows


def merged(table: Path, rows: list[Row]) -> list[dict[str, Any]]:
    """The table's lines of other cases, and those of the rows that are right."""

    def case(line: dict[str, Any]) -> str:
        return json.dumps({**line, "ratio": None}, sort_keys=True)

    found = [row for row in rows if row.measurement]
    replaced = {case(row.measurement) for row in found}
    earlier = json.loads(table.read_text(encoding="utf-8")) if table.exists() else []
    return [line for line in earlier if case(line) not in replaced] + [row.measurement for row in found if row.right]


def main() -> int:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown file")
    parser.add_argument("--append", action="store_true", help="add to the file instead of replacing it")
    parser.add_argument(
        "--table", type=Path, help="JSON file of measurements that decide the defaults, kept up to date"
    )
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
    if wanted.table:
        wanted.table.write_text(json.dumps(merged(wanted.table, rows), indent=1) + "\n", encoding="utf-8")
    wrong = [f"{row.case} {row.dtype}" for row in rows if not row.right]
    if wrong:
        print(f"wrong results, not rounding: {'; '.join(wrong)}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
