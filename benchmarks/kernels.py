"""The kernels, the graphs and the policy that chooses between them, on the GPU at hand, in two minutes.

    python benchmarks/kernels.py [--sections right,short,whole,policy,long] [--seconds 300]

Kernels against float64 and against every back end of PyTorch, graphed and launch by launch, in the shapes and batches
that run; the whole encoder in every form against the published computation; the policy run for real, with its failures.
Needs torch, triton, numpy, pydantic and platformdirs, and this repository's folders; writes JSON into $OUT where that
is set. --dry runs every section once on a CPU in Triton's interpreter, with tiny sizes and no meaning.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kernel_baseline import Published
from kernel_timing import DEVICE, DRY, ROOT, eager_us, graph_us, wait  # before torch and Triton  # isort: split
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import streamfer_kernels as ours
from streamfer.geometry import squashed_crop
from streamfer.models import graphs, tuning
from streamfer.models.attention import choose_attention, use_attention
from streamfer.models.card import ModelCard, PixelProfile
from streamfer.models.dfer_clip import DferClip
from streamfer.models.inference import DferClipModel
from streamfer.models.sizes import DferClipConfig, VisionConfig
from streamfer_kernels import attention_launch

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
START = time.perf_counter()
FOUND: dict[str, list[Any]] = {}
BACKENDS = {
    "default": None, "math": SDPBackend.MATH, "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
}  # fmt: skip
PROFILE = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def parts(qkv: torch.Tensor, heads: int) -> list[torch.Tensor]:
    """Views (B, H, N, E) of a packed projection."""
    return [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1)]


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative error."""
    return float((found.double() - exact).norm() / exact.norm())


def pytorch(name: str) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """Packed attention by one back end of PyTorch."""

    def call(qkv: torch.Tensor, heads: int) -> torch.Tensor:
        chosen = BACKENDS[name]
        with sdpa_kernel(chosen) if chosen is not None else nullcontext():
            return F.scaled_dot_product_attention(*parts(qkv, heads)).transpose(1, 2).flatten(2)

    return call


def triton(**tiles: int) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """Packed attention by ours, some of its tiles changed."""

    def call(qkv: torch.Tensor, heads: int) -> torch.Tensor:
        kept = {name: getattr(attention_launch, name) for name in ("window_tiles", "long_tiles")}
        for name, original in kept.items():
            setattr(attention_launch, name, lambda *a, f=original: changed(f(*a), a[0], tiles))
        try:
            return ours.attention_packed(qkv, heads, backend="triton")
        finally:
            for name, original in kept.items():
                setattr(attention_launch, name, original)

    return call


def changed(found: Any, tokens: int, tiles: dict[str, int]) -> Any:
    """Other tiles; the tail of long ones follows."""
    new = replace(found, **tiles)
    if "columns" in tiles:
        from streamfer_kernels.attention_shapes import power_of_two

        new = replace(new, tail=min(new.columns, max(16, power_of_two(tokens % new.columns))))
    return new


def note(section: str, **row: Any) -> None:
    """Keep a row."""
    FOUND.setdefault(section, []).append(row)


def right() -> None:
    """Every kernel against float64, with PyTorch's own error beside it."""
    cases = [(17, 8, 64), (16, 8, 64), (50, 12, 64), (5, 2, 32), (33, 2, 128), (64, 2, 96), (50, 2, 88), (1, 2, 64),
             (197, 12, 64), (257, 16, 64), (257, 16, 88), (77, 2, 80), (1024, 2, 128)]  # fmt: skip
    print("largest relative error to float64 over batches 1, 3, 7, 64; in brackets PyTorch's")
    for tokens, heads, head in cases[:3] if DRY else cases:
        told = []
        for dtype in (BF16, FP16, FP32):
            worst = [0.0, 0.0]
            for batch in (1, 3) if DRY else (1, 3, 7, 64):
                qkv = torch.randn(batch, tokens, 3 * heads * head, device=DEVICE).to(dtype)
                exact = F.scaled_dot_product_attention(*parts(qkv.double(), heads)).transpose(1, 2).flatten(2)
                found = ours.attention_packed(qkv, heads, backend="triton")
                if not torch.equal(found, ours.attention_packed(qkv, heads, backend="triton")):
                    told.append(f"B={batch}: TWO RUNS DIFFER")
                theirs = error(pytorch("default")(qkv, heads), exact)
                worst = [max(worst[0], error(found, exact)), max(worst[1], theirs)]
            bad = "" if worst[0] <= max(2 * worst[1], 2e-6) else " WRONG"
            told.append(f"{str(dtype)[6:]} {worst[0]:.1e} ({worst[1]:.1e}){bad}")
            note("right", case=(tokens, heads, head), dtype=str(dtype), errors=worst)
        print(f"  {tokens:4} tokens {heads:2} x {head:3}: {'; '.join(told)}", flush=True)
    q = torch.randn(2, 2, 17, 64, device=DEVICE)
    k = torch.full_like(q, float("-inf"))
    finite = [bool(ours.attention(q.abs(), key, torch.ones_like(key), backend="triton").isfinite().all())
              for key in (k, torch.cat([k] * 9, 2))]  # fmt: skip
    print(f"  all logits -inf give finite numbers: short {finite[0]}, long {finite[1]}")
    print(f"  preflight: {ours.preflight(DEVICE)}; self-test: {ours.self_test(DEVICE, [ours.Shape(50, 12, 64, BF16)])}")


def race(title: str, tokens: int, heads: int, head: int, batch: int, calls: dict[str, Any]) -> None:
    """One shape, everybody: eager and graphed."""
    dtype = FP32 if DRY else BF16
    bytes_moved = batch * tokens * 4 * heads * head * dtype.itemsize
    count = 1 if bytes_moved < 24e6 else max(2, min(8, round(150e6 / bytes_moved)))
    sets = [torch.randn(batch, tokens, 3 * heads * head, device=DEVICE).to(dtype) for _ in range(count)]
    times: dict[str, tuple[float, float]] = {}
    for name, call in calls.items():
        try:
            eager = eager_us(lambda c=call: c(sets[0], heads)) if batch <= 32 or "default" in name else 0.0
            times[name] = (graph_us([lambda c=call, s=s: c(s, heads) for s in sets]), eager)
        except Exception as fault:
            print(f"    {title} B={batch} {name}: left out ({type(fault).__name__}: {str(fault).splitlines()[0][:90]})")
            wait()
    best = min((graphed, name) for name, (graphed, _) in times.items() if name in BACKENDS)
    mine = min((graphed, name) for name, (graphed, _) in times.items() if name not in BACKENDS)
    floor = bytes_moved / 3.0e12 * 1e6
    print(f"  {title} {tokens}x{heads}x{head} B={batch}: best of PyTorch {best[1]} {best[0]:.1f} us, ours {mine[1]} "
          f"{mine[0]:.1f} us, ratio {best[0] / mine[0]:.2f}, floor {floor:.1f} us")  # fmt: skip
    print(
        "     graph us: " + ", ".join(f"{name} {g:.1f}" for name, (g, _) in sorted(times.items(), key=lambda i: i[1]))
    )
    if any(eager for _, eager in times.values()):
        print("     eager us: " + ", ".join(f"{name} {e:.0f}" for name, (_, e) in times.items() if e), flush=True)
    note("attention", case=title, batch=batch, tokens=tokens, heads=heads, head=head, us=times, floor=floor)


def short() -> None:
    """The temporal shape and ViT-B/32: the windows tile against every back end."""
    variants = {name: pytorch(name) for name in BACKENDS}
    for warps in (4, 8):
        variants[f"windows w{warps}"] = triton(warps=warps)
    for name, tokens, heads, batches in (("temporal", 17, 8, (32, 256, 2048)), ("ViT-B/32", 50, 12, (8, 32, 512))):
        for batch in (1,) if DRY else batches:
            race(name, tokens, heads, 64, batch, variants)


def long() -> None:
    """Longer sequences: the long kernel's tiles."""
    variants: dict[str, Any] = {name: pytorch(name) for name in BACKENDS if name != "math"}
    for rows, columns, warps, stages in ((64, 64, 4, 2), (64, 64, 4, 3), (128, 64, 8, 2)):
        variants[f"long {rows}x{columns} w{warps} s{stages}"] = triton(
            rows=rows, columns=columns, warps=warps, stages=stages
        )
    for name, tokens, heads, batches in (("ViT-B/16", 197, 12, (32, 128)), ("ViT-L/14", 257, 16, (8, 96))):
        for batch in (1,) if DRY else batches:
            race(name, tokens, heads, 64, batch, variants)
        if DRY:
            break


def build(vision: VisionConfig, attention: str = "auto") -> DferClipModel:
    """A model with random weights behind the pipeline's seam."""
    torch.manual_seed(0)
    config = DferClipConfig(tuple("abcdefg"), vision=vision)
    pixels = PixelProfile(vision.image_size, *PROFILE)
    card = ModelCard("random", config, pixels, squashed_crop(vision.image_size), "none")
    device = str(DEVICE) if DRY else "cuda:0"
    precision = "fp32" if DRY else "bf16"
    return DferClipModel(DferClip(config), card, digest="0", device=device, precision=precision,
                         attention=choose_attention(attention, device))  # fmt: skip


B32 = VisionConfig(layers=2, width=64, patch_size=8, image_size=32) if DRY else VisionConfig()
L14 = VisionConfig(layers=24, width=1024, patch_size=14)


def whole() -> None:
    """The encoder in every form at every batch size, and labels a second with 64 tracks."""
    for name, vision in (("ViT-B/32", B32),) if DRY else (("ViT-B/32", B32), ("ViT-L/14", L14)):
        model = build(vision, "torch")
        network, side = model._model, vision.image_size
        old = Published(vision, network).to(DEVICE, FP32 if DRY else BF16).eval()
        for size in (1,) if DRY else (*graphs.BUCKETS, 64) if vision is B32 else (8, 32):
            crops = torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8, device=DEVICE)
            row: dict[str, float] = {"published eager": eager_us(lambda c=crops, o=old: o.encode(c), 10)}
            row["published graph"] = graph_us([lambda c=crops, o=old: o.encode(c)])
            row["ours eager"] = eager_us(lambda c=crops, m=model: m._encode(c), 10)
            row["torch graph"] = graph_us([lambda c=crops, m=model: m._encode(c)])
            use_attention(network.image_encoder, "triton")
            row["triton graph"] = graph_us([lambda c=crops, m=model: m._encode(c)])
            use_attention(network.image_encoder, "torch")
            print(
                f"  {name} batch {size:2}: " + ", ".join(f"{form} {us:.0f} us" for form, us in row.items()), flush=True
            )
            note("whole", model=name, batch=size, us=row)
        if vision is B32:
            tracks(old, model)


def tracks(old: Published, model: DferClipModel) -> None:
    """64 tracks, one new crop each from the host, one label each back on the host."""
    count, side = (2, B32.image_size) if DRY else (64, B32.image_size)
    crops = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    ring = torch.randn(count, 16, 512, device=DEVICE)

    def before() -> np.ndarray:
        features = [old.encode(torch.from_numpy(crops[at : at + 32]).to(DEVICE)) for at in range(0, count, 32)]
        ring[:, -1] = torch.cat(features)
        return old.classify(ring)

    def now(which: DferClipModel) -> np.ndarray:
        ring[:, -1] = torch.cat([which.encode(crops[at : at + 32]) for at in range(0, count, 32)])
        return which.classify(ring)

    rows = {"published eager": eager_us(before, 10), "ours, PyTorch graphs": eager_us(lambda: now(model), 10)}
    for name, attention in (("ours, measured choice", "auto"), ("ours, Triton graphs", "triton")):
        chosen = build(B32, attention)
        rows[name] = eager_us(lambda c=chosen: now(c), 10)
    first = count / rows["published eager"] * 1e6
    for name, us in rows.items():
        rate = count / us * 1e6
        print(f"  64 tracks, {name}: {us:,.0f} us a round, {rate:,.0f} labels/s, {rate / first:.2f} x")
    note("tracks", us=rows)


def policy() -> None:
    """The policy itself: measured, remembered, damaged, refused, out of memory, without a C compiler."""
    path = tuning.cache_file()
    tuning.forget()
    crops = np.random.default_rng(1).integers(0, 256, (45, B32.image_size, B32.image_size, 3), dtype=np.uint8)

    def load(title: str, attention: str = "auto") -> DferClipModel:
        start = time.perf_counter()
        model = build(B32, attention)
        seconds = time.perf_counter() - start
        print(f"  {title}: {seconds:.2f} s; remembered {path.is_file()}")
        note("policy", title=title, seconds=seconds, lines=model.forms)
        return model

    model = load("first load")
    print("\n".join(f"     {line}" for line in model.forms), flush=True)
    found, plain = model.encode(crops), model._encode(torch.from_numpy(crops).to(DEVICE))
    print(f"     graphs against the plain function, 45 crops: {error(found, plain.double()):.1e}")
    print(f"     second load's forms are the first's: {load('from the cache').forms == model.forms}")
    load("PyTorch asked for", "torch")
    for text in ("{not json", '{"format": 0}', '{"format": 1, "measured": {"x": {"3": {"torch graph": -1}}}}'):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        load(f"damaged cache {text[:14]!r}")
    with ours.use("torch"):
        print(f"     {load('STREAMFER_KERNELS=off').forms[:1]}")
    if DRY:
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.encode(crops)
        print("     no call of encode waits for the GPU")
    except RuntimeError as fault:
        print(f"     encode waits: {str(fault)[:120]}")
    torch.cuda.set_sync_debug_mode("default")
    starved(crops)
    without_compiler()


def starved(crops: np.ndarray) -> None:
    """Too little memory for the larger batches of a large model."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    keep = torch.cuda.memory_reserved()
    for spare in (1000e6, 760e6):
        torch.cuda.set_per_process_memory_fraction(min(1.0, (keep + spare) / total))
        try:
            model = build(L14, "torch")
            print(f"     {spare / 1e6:.0f} MB spare: batches {model._encoder.sizes if model._encoder else ()}; "
                  f"45 crops encode to {tuple(model.encode(crops).shape)}")  # fmt: skip
            del model
        except torch.OutOfMemoryError as fault:
            print(f"     {spare / 1e6:.0f} MB spare: not even batch 1 ({str(fault)[:60]})")
        torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.0)


def without_compiler() -> None:
    """A fresh process whose C compiler fails, with nothing compiled before."""
    fresh = {"CC": "/bin/false", "TRITON_CACHE_DIR": tempfile.mkdtemp(), "XDG_CACHE_HOME": tempfile.mkdtemp()}
    code = "import sys; sys.argv = ['x']; sys.path.insert(0, 'benchmarks'); import kernels as g\n"
    code += "print(g.build(g.B32).forms)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **fresh}, capture_output=True, text=True, check=False
    )
    print(f"     CC=/bin/false: status {done.returncode}: {(done.stdout or done.stderr).strip()[-300:]}")


def machine() -> None:
    """What this is, and its ceilings."""
    if DRY:
        return
    import triton as package

    a, b = (torch.empty(2**30, dtype=torch.uint8, device=DEVICE).random_() for _ in range(2))
    x, y = (torch.randn(8192, 8192, device=DEVICE, dtype=BF16) for _ in range(2))
    copy, product = 2 * 2**30 / graph_us([lambda: b.copy_(a)]), 2 * 8192**3 / graph_us([lambda: x @ y])
    print(f"{tuning.machine(torch.device('cuda:0'))} | triton {package.__version__}, copy {copy / 1e6:.2f} TB/s, "
          f"bf16 product {product / 1e6:.0f} TFLOP/s")  # fmt: skip
    note("machine", name=tuning.machine(torch.device("cuda:0")), copy=copy, product=product)


def main() -> None:
    """Run the sections asked for; one that fails does not stop the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default="right,short,whole,policy,long", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=300, help="start no section after; default: %(default)s")
    parser.add_argument("--dry", action="store_true", help="once, on a CPU, tiny")
    wanted = parser.parse_args()
    if not DRY and (not torch.cuda.is_available() or ours.backend_report()["obstacle"] is not None):
        parser.exit(2, "benchmarks/kernels.py needs a CUDA device of compute capability 8.0 or later, and Triton\n")
    for name in ["machine", *wanted.sections.split(",")]:
        if time.perf_counter() - START > wanted.seconds:
            print(f"-- {name}: no time left")
            continue
        print(f"-- {name}", flush=True)
        try:
            with torch.inference_mode():
                globals()[name]()
        except Exception:
            print("FAILED\n" + traceback.format_exc(limit=-4), flush=True)
        print(f"-- {name} done at {time.perf_counter() - START:.0f} s", flush=True)
        if out := os.environ.get("OUT"):
            Path(out, "kernels.json").write_text(json.dumps(FOUND, default=str))


if __name__ == "__main__":
    main()
