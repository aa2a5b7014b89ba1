"""Milliseconds an image of the encoders in fp32 and bf16, and how far a feature moves with its batch.

    OMP_NUM_THREADS=1 python benchmarks/image_encoder.py

The choice of ``streamfer.models.precision`` follows these numbers.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from streamfer.models.dfer_clip import build_image_encoder
from streamfer.models.precision import DTYPES, Precision
from streamfer.models.sizes import VisionConfig

ENCODERS = {
    "ResNet 2222, width 16, 128 px": VisionConfig((2, 2, 2, 2), 16, image_size=128),
    "ViT-S/16, 6 blocks, 112 px": VisionConfig(6, 384, patch_size=16, image_size=112),
    "ViT width 192, 6 blocks, 128 px": VisionConfig(6, 192, patch_size=16, image_size=128),
    "ViT-B/32, 224 px": VisionConfig(),
}
BATCHES = (1, 2, 4, 8, 16, 32)


def best(call: Callable[[], object], repeats: int) -> float:
    """Return the shortest of some runs, seconds."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def prepared(encoder: nn.Module, config: VisionConfig, precision: Precision) -> tuple[nn.Module, torch.Tensor]:
    """Return encoder and 32 pictures as ``streamfer.models.inference`` would run them."""
    layout = torch.channels_last if config.is_resnet else torch.contiguous_format
    pixels = torch.rand(max(BATCHES), 3, config.image_size, config.image_size, dtype=DTYPES[precision])
    ready = copy.deepcopy(encoder).to(dtype=DTYPES[precision]).to(memory_format=layout)
    return ready, pixels.contiguous(memory_format=layout)


@torch.inference_mode()
def main() -> None:
    """Print one row for each encoder and precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), ms per image at batch {BATCHES}")
    for name, config in ENCODERS.items():
        torch.manual_seed(0)
        encoder = build_image_encoder(config, 512, quick_gelu=True).eval()
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
        for precision in ("fp32", "bf16"):
            ready, pixels = prepared(encoder, config, precision)
            cost = [1e3 * best(partial(ready, pixels[:n]), repeats) / n for n in BATCHES]
            whole = ready(pixels).float()
            moved = [
                float((torch.cat([ready(part) for part in pixels.split(n)]).float() - whole).abs().max())
                for n in BATCHES
            ]
            shown = " ".join(f"{value:7.2f}" for value in cost)
            print(
                f"{name:34} {precision} {shown}   moved by batch {max(moved) / float(whole.abs().max()):.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
