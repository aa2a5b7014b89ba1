"""Clips a second that DFER-CLIP trains on: streamfer's loop beside the authors', same batch, same machine.

    python benchmarks/training_speed.py                                          # CPU, a small tower, with the loaders
    python benchmarks/training_speed.py --device cuda --backbone ViT-B-32 --batch 48 --steps 20     # one GPU

The authors' side is a plain re-implementation of what their loop does: every sampled frame opened and converted by PIL,
transforms over lists of PIL images, one stack a clip turned into float32, a DataLoader of whole float batches, fp32
throughout, attention written out, class features and accuracies in each step. That both sides' logits agree on the same
pixels is checked before anything is timed. Sides alternate in one process and medians are reported.

``loader`` is reading and augmenting alone (frame folders, JPEG of 224 pixels, written first); ``step`` is one optimiser
step on a batch that lies in (pinned) host memory, the copy to the device included; ``together`` is both.

Where PIL, OpenCV and the like are not installed (a bare machine with a GPU: torch, numpy and pydantic are enough) the
loaders are left out, and CLIP's ViT as open_clip has it stands in for open_clip.
"""

from __future__ import annotations

import argparse
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import json
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

REPOSITORY = Path(__file__).resolve().parents[1]
for folder in ("", "train", "kernels"):
    if importlib.util.find_spec("streamfer_train") is None:
        sys.path.insert(0, str(REPOSITORY / folder))
from bare_machine import PlainVisionTransformer, QuickGELU, stand_in  # noqa: E402

BARE = any(importlib.util.find_spec(name) is None for name in ("open_clip", "av", "cv2", "PIL", "rich", "yaml"))
if BARE:
    stand_in()

from streamfer.models.temporal import SelfAttention  # noqa: E402
from streamfer.video.sampling import segment_random  # noqa: E402
from streamfer_train.dfer_clip.backbones import Backbone, _sizes  # noqa: E402
from streamfer_train.dfer_clip.config import RunConfig, parse_config  # noqa: E402
from streamfer_train.dfer_clip.model import build_learner  # noqa: E402
from streamfer_train.dfer_clip.training import (  # noqa: E402
    DferTask,
    build_trainer,
    choose_trained,
    job_of,
)
from streamfer_train.recipes.processes import ProcessGroup, joined  # noqa: E402
from streamfer_train.recipes.trainer import Trainer  # noqa: E402

SIZE, SEGMENTS = 224, 16
TOWERS = {
    "small": {"embed_dim": 128, "layers": 4, "width": 192, "patch": 32, "text_layers": 2, "text_width": 128},
    "ViT-B-32": {"embed_dim": 512, "layers": 12, "width": 768, "patch": 32, "text_layers": 12, "text_width": 512,
                 "text_heads": 8},
    "ViT-B-16": {"embed_dim": 512, "layers": 12, "width": 768, "patch": 16, "text_layers": 12, "text_width": 512,
                 "text_heads": 8},
    "ViT-L-14": {"embed_dim": 768, "layers": 24, "width": 1024, "patch": 14, "text_layers": 12, "text_width": 768,
                 "text_heads": 12},
}  # fmt: skip


def write_clips(folder: Path, clips: int, frames: int, random_numbers: np.random.Generator) -> Path:
    """Write frame folders that compress like face crops, and the authors' kind of list; returns the list."""
    import cv2

    lines = []
    for clip in range(clips):
        place = folder / f"{clip:05d}"
        place.mkdir(parents=True)
        scene = cv2.resize(random_numbers.uniform(40, 215, (9, 9, 3)).astype(np.float32), (SIZE + 32, SIZE + 32))
        for frame in range(frames):
            shift = int(16 + 15 * np.sin(frame / 9))
            picture = scene[shift : shift + SIZE, 16 : 16 + SIZE] + random_numbers.normal(0, 6, (SIZE, SIZE, 3))
            whole = np.clip(picture, 0, 255).astype(np.uint8)
            cv2.imwrite(str(place / f"{frame:05d}.jpg"), whole, (cv2.IMWRITE_JPEG_QUALITY, 92))
        lines.append(f"{place} {frames} {clip % 7}")
    table = folder / "train.txt"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


class PilClips(Dataset[tuple[Tensor, int]]):
    """The authors' way to a clip (DFEW): PIL opens, jitters, crops, resizes and flips each frame, then one stack."""

    def __init__(self, table: Path) -> None:
        self.rows = [line.split() for line in table.read_text(encoding="utf-8").splitlines()]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image, ImageEnhance

        folder, frames, label = self.rows[index]
        names = sorted(Path(folder).glob("*"))
        draw = random.Random()
        images = [Image.open(names[i]).convert("RGB") for i in segment_random(int(frames), draw, SEGMENTS)]
        factor = draw.uniform(0.5, 1.5)
        images = [ImageEnhance.Brightness(image).enhance(factor) for image in images]
        left, top, width, height = self._crop(draw)
        images = [image.crop((left, top, left + width, top + height)) for image in images]
        images = [image.resize((SIZE, SIZE), Image.Resampling.BILINEAR) for image in images]
        if draw.random() < 0.5:
            images = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
        stacked = np.concatenate([np.array(image) for image in images], axis=2)
        pixels = torch.from_numpy(stacked).permute(2, 0, 1).contiguous().float().div(255)
        return pixels.reshape(SEGMENTS, 3, SIZE, SIZE), int(label)

    def _crop(self, draw: random.Random) -> tuple[int, int, int, int]:
        for _ in range(10):
            area, aspect = draw.uniform(0.08, 1) * SIZE * SIZE, draw.uniform(3 / 4, 4 / 3)
            width, height = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if width <= SIZE and height <= SIZE:
                return draw.randint(0, SIZE - width), draw.randint(0, SIZE - height), width, height
        return 0, 0, SIZE, SIZE


def start(config: RunConfig) -> Backbone:
    """Return random towers of the sizes asked for, with OpenAI's activation."""
    return Backbone(_sizes(config, True), {}, (), "random")


class Authors:
    """Their loop: DataLoader, DataParallel where there are GPUs, SGD in three groups, accuracies every step."""

    def __init__(self, config: RunConfig, world: ProcessGroup, options: argparse.Namespace, table: Path | None) -> None:
        self.device = world.device
        self.loader = None if table is None else DataLoader(
            PilClips(table), batch_size=options.batch, shuffle=True, num_workers=options.workers,
            pin_memory=self.device.type == "cuda", drop_last=True,
        )  # fmt: skip
        network = build_learner(config, start(config), 1).clip
        towers = TOWERS[options.backbone]
        plain = PlainVisionTransformer(
            SIZE, towers["patch"], towers["width"], towers["layers"], towers["width"] // 64, 4.0, towers["embed_dim"],
            QuickGELU, None,
        )  # fmt: skip
        plain.load_state_dict(network.image_encoder.state_dict())
        network.image_encoder = plain
        network = network.to(self.device)
        for module in network.modules():
            if isinstance(module, SelfAttention):
                module.forward = functools.partial(plain_attention, module)  # type: ignore[method-assign]
                module.first = functools.partial(_every_token, module)  # type: ignore[method-assign]
        for name, weight in network.named_parameters():
            weight.requires_grad_(any(part in name for part in ("image_encoder", "temporal_net", "prompt_learner")))
        self.network = network
        self.model = nn.DataParallel(network) if self.device.type == "cuda" else network
        rates = {"temporal_net": 1e-2, "image_encoder": 1e-5, "prompt_learner": 1e-3}
        groups = [
            {"params": [w for n, w in network.named_parameters() if part in n], "lr": rate}
            for part, rate in rates.items()
        ]
        self.optimiser = torch.optim.SGD(groups, lr=1e-2, momentum=0.9, weight_decay=1e-4)

    def batch_of(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return what their loader would have made of uint8 pixels: floats, pinned for a GPU."""
        floats = pixels.float().div(255)
        return (floats.pin_memory() if self.device.type == "cuda" else floats), labels

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches for ever."""
        while self.loader is not None:
            yield from self.loader

    def step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Take one step."""
        torch.backends.cuda.matmul.allow_tf32 = False
        pixels, labels = (tensor.to(self.device) for tensor in batch)
        logits = self.model(pixels).logits_BC
        loss = F.cross_entropy(logits, labels)
        best = logits.topk(5, dim=1).indices == labels[:, None]
        _ = [float(best[:, :k].any(dim=1).float().mean().item()) for k in (1, 5)], loss.item()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()


def _every_token(layer: SelfAttention, x_BND: Tensor) -> Tensor:
    """The class token's output, by way of everybody's."""
    return cast(Tensor, layer(x_BND))[:, :1]


def plain_attention(layer: SelfAttention, x_BND: Tensor) -> Tensor:
    """Attention with its matrix written out, as the authors' temporal model has it."""
    q, k, v = (part.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for part in layer.to_qkv(x_BND).chunk(3, dim=-1))
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    mixed = torch.einsum("bhij,bhjd->bhid", scores.softmax(dim=-1), v)
    return cast(Tensor, layer.to_out(mixed.transpose(1, 2).flatten(2)))


class _InMemory(DferTask):
    """The recipe's task without a data set: its batches are given."""

    def __init__(self, config: RunConfig, world: ProcessGroup) -> None:
        self.config, self.steps, self.world = config, 10**6, world
        self.learner = build_learner(config, start(config), 1)
        choose_trained(self.learner, config.optimiser)
        self.prepare()


class Ours:
    """The loop of ``streamfer train dfer-clip``, its own loader and its own step."""

    def __init__(self, config: RunConfig, world: ProcessGroup, folder: Path, table: Path | None) -> None:
        self.config, self.device, self.epoch = config, world.device, 0
        if table is None:
            job = job_of(config, "benchmark", folder, {})
            self.trainer = Trainer(job, _InMemory(config, world), world)
        else:
            from streamfer_train.dfer_clip.checks import check_clips

            fold = check_clips(config.data).folds[0]
            self.trainer = build_trainer(config, fold, 1, folder, world, start(config))
        self.trainer.learner.train()
        self.trainer.journal.open(0, 0)

    def batch_of(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return what our loader makes: bytes, pinned for a GPU."""
        return {"pixels": pixels.pin_memory() if self.device.type == "cuda" else pixels, "label": labels}

    def batches(self) -> Iterator[Any]:
        """Yield batches for ever."""
        while True:
            yield from self.trainer.task.batches(self.epoch, 0)
            self.epoch += 1

    def step(self, batch: Any) -> None:
        """Take one step."""
        torch.backends.cuda.matmul.allow_tf32 = self.config.runtime.tf32
        self.trainer.step([batch])


Side = Authors | Ours


def measure(side: Side, given: tuple[Tensor, Tensor], options: argparse.Namespace, *, loads: bool) -> dict[str, float]:
    """Return clips a second: of the loader alone, of the step alone on one batch, and of both together."""
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    sync = torch.cuda.synchronize if side.device.type == "cuda" else lambda: None
    batch = side.batch_of(*given)

    def rate(work: Callable[[], None]) -> float:
        sync()
        began = clock()
        for _ in range(options.steps):
            work()
        sync()
        return options.batch * options.steps / (clock() - began)

    for _ in range(options.warmup):
        side.step(batch)  # type: ignore[arg-type]
    found = {"step": rate(lambda: side.step(batch))}  # type: ignore[arg-type]
    if loads:
        batches = side.batches()
        side.step(next(batches))
        found["loader"] = rate(lambda: next(batches) and None)
        found["together"] = rate(lambda: side.step(next(batches)))
    return found


def difference(authors: Authors, ours: Ours) -> float:
    """Return the largest difference of logits between the two sides on the same pixels, in fp32."""
    pixels = torch.randint(0, 256, (2, SEGMENTS, 3, SIZE, SIZE), dtype=torch.uint8, device=authors.device)
    learner = ours.trainer.learner
    precision, learner.precision = learner.precision, "fp32"
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.no_grad():
        apart = (authors.network(pixels.float() / 255).logits_BC - learner(pixels)["logits"]).abs().max()
    learner.precision = precision
    return float(apart)


def recipe(options: argparse.Namespace, folder: Path, precision: str, *, compiled: bool) -> RunConfig:
    """Return the recipe of DFEW on the written clips."""
    settings = {
        "data": {
            "dataset": "dfew", "train": str(folder / "ours.txt"), "test": str(folder / "test.txt"),
            "root": str(folder), "workers": options.workers,
        },
        "backbone": {"name": "custom", "weights": "random", "custom": TOWERS[options.backbone]},
        "optimiser": {"batch": options.batch},
        "runtime": {"precision": precision, "tf32": precision != "fp32", "compile": compiled},
        "run": {"device": options.device},
        "log": {"tensorboard": False, "progress": False},
    }  # fmt: skip
    return parse_config(settings, "benchmark")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all sides in turn; returns medians, ratios and the machine."""
    with tempfile.TemporaryDirectory(prefix="training-speed-") as name, joined(options.device, "auto") as world:
        folder = Path(name)
        table = None
        if not BARE:
            *train, test = write_clips(
                folder, options.clips + 1, options.frames, np.random.default_rng(0)
            ).read_text(encoding="utf-8").splitlines()  # fmt: skip
            table = folder / "ours.txt"
            table.write_text("\n".join(train) + "\n", encoding="utf-8")
            (folder / "test.txt").write_text(test + "\n", encoding="utf-8")
        pixels = torch.randint(0, 256, (options.batch, SEGMENTS, 3, SIZE, SIZE), dtype=torch.uint8)
        given = pixels, torch.arange(options.batch) % 7
        plain = recipe(options, folder, "fp32", compiled=False)
        sides: dict[str, Side] = {"authors": Authors(plain, world, options, table)}
        for precision in options.precision.split(","):
            kind, _, how = precision.partition("+")
            config = recipe(options, folder, kind, compiled=how == "compile")
            sides[f"ours {precision}"] = Ours(config, world, folder / precision, table)
        first = next(side for side in sides.values() if isinstance(side, Ours))
        agreement = difference(cast(Authors, sides["authors"]), first)
        if agreement > 2e-2:
            raise SystemExit(f"the two sides disagree by {agreement:g} in their logits; nothing was timed")
        rounds: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for _ in range(options.rounds):
            for side_name, side in sides.items():
                rounds[side_name].append(measure(side, given, options, loads=table is not None))
        device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu"
    medians = {
        side: {part: statistics.median(row[part] for row in rows) for part in rows[0]} for side, rows in rounds.items()
    }
    return {
        "options": {name: value for name, value in vars(options).items() if name != "json"},
        "machine": {"cpu": cpu_name(), "device": device, "torch": torch.__version__,
                    "threads": torch.get_num_threads(), "bare": BARE},
        "logits_differ_by": agreement,
        "clips_per_second": medians,
        "ratio": {side: {part: rate / medians["authors"][part] for part, rate in found.items()}
                  for side, found in medians.items()},
        "rounds": rounds,
    }  # fmt: skip


def cpu_name() -> str:
    """Return the processor's name as Linux has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=TOWERS, default="small", help="random weights")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (a GPU is needed for the latter)")
    parser.add_argument("--precision", help="ours, several by commas: fp32, bf16, fp16, each with +compile; "
                        "the authors' is fp32 (default: fp32, on a GPU bf16 and bf16+compile too)")  # fmt: skip
    parser.add_argument("--batch", type=int, default=4, help="clips a step")
    parser.add_argument("--steps", type=int, default=3, help="steps a measurement")
    parser.add_argument("--warmup", type=int, default=1, help="steps before each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="times the sides take turns")
    parser.add_argument("--clips", type=int, default=24, help="clips that are written")
    parser.add_argument("--frames", type=int, default=77, help="frames of a clip (DFEW's mean is 77)")
    parser.add_argument("--workers", type=int, default=0, help="loading processes of each side")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--json", type=Path, help="write everything measured there")
    options = parser.parse_args(arguments)
    if options.clock == "cpu" and (options.workers or options.device != "cpu"):
        parser.error("--clock cpu sees this process alone: leave out --workers and --device")
    options.precision = options.precision or ("fp32" if options.device == "cpu" else "fp32,bf16,bf16+compile")
    found = run(options)
    machine = found["machine"]
    print(f"{machine['cpu']}, {machine['device']}, torch {machine['torch']}, {machine['threads']} thread(s)")
    print(f"{options.backbone}, batch {options.batch}, {options.workers} workers, medians of {options.rounds} rounds; "
          f"logits differ by {found['logits_differ_by']:.1g}")  # fmt: skip
    for part in found["ratio"]["authors"]:
        print(f"{part}: " + ", ".join(
            f"{side} {rates[part]:.2f} clips/s ({found['ratio'][side][part]:.2f}x)"
            for side, rates in found["clips_per_second"].items()))  # fmt: skip
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
