"""Sliding windows of a ViT-B/32: the ring of features against the published computation, in one process.

    python benchmarks/windows.py [--precision bf16] [--threads 2] [--batch 32]

Published (DFER-CLIP, as its authors run it): every window of 16 frames goes through the encoder, all tokens of every
block, fp32, then through the temporal transformer, all tokens. Ours: each frame is encoded once, in the precision asked
for, and windows at a stride of one frame are read from features. The same random weights; probabilities are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from asked import asked, whole
from open_clip.transformer import LayerNorm, QuickGELU, VisionTransformer

from streamfer.geometry import squashed_crop
from streamfer.models.card import ModelCard, PixelProfile
from streamfer.models.dfer_clip import DferClip
from streamfer.models.inference import DferClipModel, prepare_pixels
from streamfer.models.precision import choose_precision
from streamfer.models.sizes import DferClipConfig

#: OpenAI's preprocessing.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FRAMES = 16


def published(model: DferClip) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the authors' computation with the weights of ``model``: pixels (B, T, 3, S, S) to probabilities (B, C)."""
    vision = model.config.vision
    tower = VisionTransformer(
        vision.image_size, vision.patch_size, vision.width, 12, vision.width // vision.head_width, vision.mlp_ratio,
        output_dim=model.config.embed_dim, act_layer=QuickGELU, norm_layer=LayerNorm,
    ).eval()  # fmt: skip
    tower.load_state_dict(model.image_encoder.state_dict())
    net = model.temporal_net

    def read(pixels: torch.Tensor) -> torch.Tensor:
        features = tower(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])
        assert net.cls_token is not None
        tokens = torch.cat([net.cls_token.expand(len(features), -1, -1), features], dim=1) + net.pos_embedding
        clips = net.temporal_transformer(tokens)[:, 0]
        return model.clip_logits(clips, model.class_features()).softmax(dim=-1)

    return read


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median seconds after one warm-up."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--threads", type=whole, default=torch.get_num_threads())
    parser.add_argument("--batch", type=whole, default=32, help="frames, and windows, read at once: model.batch_size")
    parser.add_argument("--repeats", type=whole, default=5)
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    torch.manual_seed(0)
    config = DferClipConfig(tuple("abcdefg"))
    network = DferClip(config).eval()
    slow = published(network)
    precision = choose_precision(wanted.precision).precision
    card = ModelCard("random", config, PixelProfile(224, MEAN, STD), squashed_crop(224), "none")
    batch = wanted.batch
    crops = np.random.default_rng(0).integers(0, 256, (batch + FRAMES - 1, 224, 224, 3), dtype=np.uint8)
    pixels = prepare_pixels(torch.from_numpy(crops), card.pixels)
    windows = torch.stack([pixels[at : at + FRAMES] for at in range(batch)])
    expected = slow(windows[:1])
    model = DferClipModel(network, card, digest="0", precision=precision)
    ring = model.encode(crops[: FRAMES - 1])

    def ours() -> np.ndarray:
        features = torch.cat([ring, model.encode(crops[FRAMES - 1 :])])
        return model.classify(torch.stack([features[at : at + FRAMES] for at in range(batch)]))

    apart = float(np.abs(ours()[:1] - expected.numpy()).max())
    one = seconds(lambda: slow(windows[:1]), max(1, wanted.repeats // 2))
    quick = seconds(ours, wanted.repeats) / batch
    print(f"ViT-B/32, {precision}, {wanted.threads} threads, {batch} frames at once, windows at a stride of one frame")
    print(f"published {1 / one:.2f} windows/s, ours {1 / quick:.1f} windows/s: {one / quick:.0f} x")
    print(f"probabilities differ by {apart:.1e} at most")


if __name__ == "__main__":
    asked(main)
