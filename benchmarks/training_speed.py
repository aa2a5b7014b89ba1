"""Training speed of DFER-CLIP: streamfer's loader and step against the authors' loop, on the same frames.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/training_speed.py                     # a CPU core, small towers
    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/training_speed.py --backbone ViT-B-32 --batch 2 --steps 1
    python benchmarks/training_speed.py --device cuda --backbone ViT-B-32 --batch 48 --workers 8 --steps 30   # GPU

The script writes frame folders (JPEG, 224 pixels) and an annotation list. The authors' side is our own re-creation of
what their loop does: every sampled frame opened and converted by PIL, transforms over lists of PIL images, one stack a
clip turned into float32, a DataLoader of whole float batches, fp32 throughout, class features computed in each step,
accuracies fetched each step. Both sides have the same weights and see clips of the same length; that their logits agree
on the same pixels is checked before anything is timed.

Sides alternate in one process and medians are reported. With ``--clock cpu`` (one core, no workers) other programs on
the machine do not count; with a GPU or with workers the wall clock is the only honest one.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from streamfer.models.temporal import SelfAttention
from streamfer.video.sampling import segment_random
from streamfer_train.dfer_clip.backbones import read_backbone
from streamfer_train.dfer_clip.checks import check_clips
from streamfer_train.dfer_clip.config import RunConfig, parse_config
from streamfer_train.dfer_clip.training import build_trainer
from streamfer_train.recipes.processes import joined
from streamfer_train.recipes.trainer import Trainer

SIZE, SEGMENTS = 224, 16
SMALL = {"embed_dim": 128, "layers": 4, "width": 192, "patch": 32, "text_layers": 2, "text_width": 128}


def write_clips(folder: Path, clips: int, frames: int, random_numbers: np.random.Generator) -> Path:
    """Write frame folders that compress like face crops, and the authors' kind of list; returns the list."""
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


class Authors:
    """Their loop: DataLoader, DataParallel where there are GPUs, SGD in three groups, accuracies every step."""

    def __init__(self, trainer: Trainer, table: Path, batch: int, workers: int) -> None:
        self.device = trainer.world.device
        self.loader = DataLoader(
            PilClips(table),
            batch_size=batch,
            shuffle=True,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            drop_last=True,
        )
        network = copy.deepcopy(trainer.learner.clip)
        for module in network.modules():
            if isinstance(module, SelfAttention):
                module.attention = plain_attention
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

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches for ever."""
        while True:
            yield from self.loader

    def step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Take one step."""
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


def plain_attention(q_BHNE: Tensor, k_BHNE: Tensor, v_BHNE: Tensor) -> Tensor:
    """Attention with its matrix written out, as the authors' temporal model has it."""
    scores = torch.einsum("bhid,bhjd->bhij", q_BHNE, k_BHNE) * q_BHNE.shape[-1] ** -0.5
    return torch.einsum("bhij,bhjd->bhid", scores.softmax(dim=-1), v_BHNE)


class Ours:
    """The loop of ``streamfer train dfer-clip``, its own loader and its own step."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.epoch = 0

    def batches(self) -> Iterator[Any]:
        """Yield batches for ever."""
        while True:
            yield from self.trainer.task.batches(self.epoch, 0)
            self.epoch += 1

    def step(self, batch: Any) -> None:
        """Take one step."""
        self.trainer.step([batch])


def measure(side: Authors | Ours, steps: int, clock: Callable[[], float], sync: Callable[[], None]) -> dict[str, float]:
    """Return clips a second: of the loader alone, of the step alone on one batch, and of both together."""
    batches = side.batches()
    first = next(batches)
    clips = len(first[0] if isinstance(first, tuple | list) else first["pixels"])

    def rate(work: Callable[[], None]) -> float:
        sync()
        began = clock()
        for _ in range(steps):
            work()
        sync()
        return clips * steps / (clock() - began)

    def load() -> None:
        next(batches)

    side.step(first)
    return {
        "loader": rate(load),
        "step": rate(lambda: side.step(first)),
        "together": rate(lambda: side.step(next(batches))),
    }


def difference(authors: Authors, ours: Ours) -> float:
    """Return the largest difference of logits between the two sides on the same pixels, in fp32."""
    pixels = torch.randint(0, 256, (2, SEGMENTS, 3, SIZE, SIZE), dtype=torch.uint8, device=authors.device)
    learner = ours.trainer.learner
    precision, learner.precision = learner.precision, "fp32"
    with torch.no_grad():
        apart = (authors.network(pixels.float() / 255) - learner(pixels)["logits"]).abs().max()
    learner.precision = precision
    return float(apart)


def recipe(options: argparse.Namespace, table: Path, folder: Path) -> RunConfig:
    """Return the recipe of DFEW on the written clips; the last clip stands for the test list."""
    *train, test = table.read_text(encoding="utf-8").splitlines()
    (folder / "ours.txt").write_text("\n".join(train) + "\n", encoding="utf-8")
    (folder / "test.txt").write_text(test + "\n", encoding="utf-8")
    small = options.backbone == "small"
    settings = {
        "data": {
            "dataset": "dfew",
            "train": str(folder / "ours.txt"),
            "test": str(folder / "test.txt"),
            "root": str(folder),
            "workers": options.workers,
        },
        "backbone": {"name": "custom" if small else options.backbone, "weights": "random", "custom": SMALL},
        "optimiser": {"batch": options.batch},
        "runtime": {"precision": options.precision, "tf32": options.precision != "fp32", "compile": options.compile},
        "run": {"device": options.device},
        "log": {"tensorboard": False, "progress": False},
    }
    return parse_config(settings, "benchmark")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure both sides in turn; returns medians, ratios and the machine."""
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    with tempfile.TemporaryDirectory(prefix="training-speed-") as name, joined(options.device, "auto") as world:
        folder = Path(name)
        table = write_clips(folder, options.clips + 1, options.frames, np.random.default_rng(0))
        config = recipe(options, table, folder)
        fold = check_clips(config.data).folds[0]
        trainer = build_trainer(config, fold, 1, folder / "run", world, read_backbone(config))
        trainer.learner.train()
        authors = Authors(trainer, folder / "ours.txt", options.batch, options.workers)
        ours = Ours(trainer)
        agreement = difference(authors, ours)
        if agreement > 1e-2 and options.precision == "fp32":
            raise SystemExit(f"the two sides disagree by {agreement:g} in their logits; nothing was timed")
        sync = torch.cuda.synchronize if world.device.type == "cuda" else lambda: None
        found: dict[str, list[dict[str, float]]] = {"authors": [], "ours": []}
        with trainer.journal.open(0, 0):
            for _ in range(options.rounds):
                found["authors"].append(measure(authors, options.steps, clock, sync))
                found["ours"].append(measure(ours, options.steps, clock, sync))
        device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu"
    medians = {
        side: {part: statistics.median(row[part] for row in rows) for part in rows[0]} for side, rows in found.items()
    }
    return {
        "options": {name: value for name, value in vars(options).items() if name != "json"},
        "machine": {
            "cpu": cpu_name(),
            "device": device,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        },
        "logits_differ_by": agreement,
        "clips_per_second": medians,
        "ratio": {part: medians["ours"][part] / medians["authors"][part] for part in medians["ours"]},
        "rounds": found,
    }


def cpu_name() -> str:
    """Return the processor's name as Linux has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="small", help="small, or a CLIP ViT of open_clip (random weights)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (a GPU is needed for the latter)")
    parser.add_argument("--precision", default="fp32", help="ours: fp32, bf16, fp16 (theirs is fp32)")
    parser.add_argument("--compile", action="store_true", help="ours: torch.compile")
    parser.add_argument("--batch", type=int, default=4, help="clips a step")
    parser.add_argument("--steps", type=int, default=3, help="steps a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="times both sides take turns")
    parser.add_argument("--clips", type=int, default=24, help="clips that are written")
    parser.add_argument("--frames", type=int, default=77, help="frames of a clip (DFEW's mean is 77)")
    parser.add_argument("--workers", type=int, default=0, help="loading processes of each side")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--json", type=Path, help="write everything measured there")
    options = parser.parse_args()
    if options.clock == "cpu" and (options.workers or options.device != "cpu"):
        parser.error("--clock cpu sees this process alone: leave out --workers and --device")
    found = run(options)
    machine = found["machine"]
    print(f"{machine['cpu']}, {machine['device']}, torch {machine['torch']}, {machine['threads']} thread(s)")
    print(f"{options.backbone}, batch {options.batch}, {options.workers} workers, medians of {options.rounds} rounds")
    print(f"{'clips a second':16}{'authors':>10}{'ours':>10}{'ratio':>8}")
    for part, ratio in found["ratio"].items():
        rates = found["clips_per_second"]
        print(f"{part:16}{rates['authors'][part]:10.2f}{rates['ours'][part]:10.2f}{ratio:8.2f}")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
