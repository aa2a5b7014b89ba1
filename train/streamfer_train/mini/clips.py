"""Stage 2: temporal transformer and prompts of the mini model, on clips made from features of single pictures.

Shape suffixes: N pictures, V views of a picture, B clips, T frames, D feature size.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import structlog
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamfer.models.dfer_clip import DferClip, DferClipConfig
from streamfer.models.prompts import PromptConfig, PromptLearner, tokenize_prompts
from streamfer.models.temporal import TemporalConfig
from streamfer.models.towers import TextConfig, VisionConfig
from streamfer_train.mini import augment
from streamfer_train.mini.data import CLASSES, Corpus, Pictures
from streamfer_train.mini.images import EMBED_DIM, VISION, ImageModel, ImageRecipe, draw, extent, rate, save

log = structlog.get_logger(__name__)

FRAMES = 16
TEMPORAL = TemporalConfig(layers=1, heads=4, dim_head=64, mlp_dim=512, frames=FRAMES)
TEXT = TextConfig(layers=2, width=128, heads=2)
DESCRIPTIONS: dict[str, str] = {
    "happiness": "a smile that lifts the cheeks and creases the skin beside the eyes.",
    "sadness": "mouth corners that sink, heavy upper lids and the inner brows drawn up.",
    "neutral": "a face at rest, lips lightly closed, brow and eyes without tension.",
    "anger": "brows pulled down and together, a hard stare and lips pressed tight.",
    "surprise": "brows raised high, eyes wide open and the jaw dropped.",
    "disgust": "a wrinkled nose, a lifted upper lip and lowered brows.",
    "fear": "raised and drawn brows, wide tense eyes and lips stretched apart.",
}


@dataclass(frozen=True, slots=True)
class ClipRecipe:
    """Hyper-parameters of stage 2."""

    pictures: int = 12_000
    views: int = 3
    steps: int = 1_200
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    warm_up: float = 0.05
    smoothing: float = 0.05
    temperature: float = 0.07
    static: float = 0.6
    padded: float = 0.25
    held: float = 0.2
    seed: int = 2


@dataclass(frozen=True, slots=True)
class Features:
    """Features of several views of each picture: float16 (N, V, D) and int64 labels (N,)."""

    views_NVD: Tensor
    labels_N: Tensor


class ClipModel(nn.Module):
    """DFER-CLIP with prompts and a learned temperature, fed with features."""

    def __init__(self, recipe: ClipRecipe) -> None:
        super().__init__()
        torch.manual_seed(recipe.seed)
        config = DferClipConfig(
            classes=CLASSES,
            embed_dim=EMBED_DIM,
            vision=VisionConfig(**VISION),
            temporal=TEMPORAL,
            quick_gelu=False,
            temperature=1.0,
        )
        ids = tokenize_prompts([DESCRIPTIONS[c] for c in CLASSES], contexts=8, context_length=TEXT.context_length)
        # No pretrained words exist at this width: random, frozen word vectors tell the descriptions apart.
        words = torch.randn(int(ids.max()) + 1, TEXT.width) * 0.02
        self.dfer = DferClip(config, prompts=PromptLearner(PromptConfig(), ids, words), text=TEXT)
        self.log_scale = nn.Parameter(torch.tensor(1 / recipe.temperature).log())
        # Positions of unit size would drown features that have learned to speak for themselves.
        nn.init.normal_(self.dfer.temporal_net.pos_embedding, std=0.02)
        nn.init.normal_(self.dfer.temporal_net.cls_token, std=0.02)

    @property
    def temperature(self) -> float:
        """The learned temperature: cosines are divided by it."""
        return float(torch.exp(-self.log_scale.detach()))

    def forward(self, clips_BTD: Tensor) -> Tensor:
        """Return logits (B, C) of feature windows."""
        cosines_BC: Tensor = self.dfer.window_logits(clips_BTD)
        return cosines_BC * self.log_scale.exp()

    def trained(self) -> list[nn.Parameter]:
        """Return everything but the image encoder, which stage 1 has finished."""
        return [p for n, p in self.named_parameters() if not n.startswith("dfer.image_encoder.")]


def clip_views(pictures: Pictures, index: Tensor, views: int, rng: torch.Generator) -> Tensor:
    """Crop `views` frames of one drifting, shaking clip out of each picture.

    Light is shared by a clip; place, size and angle drift and tremble, as an aligned face does in a video.
    Returns float32 (B, V, 1, 64, 64) in [0, 1].
    """
    count = len(index)
    along = torch.linspace(-0.5, 0.5, views)

    def path(reach: float, drift: float, shake: float) -> Tensor:
        base = (torch.rand(count, 1, generator=rng) * 2 - 1) * reach
        slope = (torch.rand(count, 1, generator=rng) * 2 - 1) * drift
        return (base + slope * along + torch.randn(count, views, generator=rng) * shake).flatten()

    scale = torch.exp(path(0.1, 0.06, 0.015))
    angle = path(0.14, 0.12, 0.02)
    shift = torch.stack([path(2.0, 2.0, 0.3), path(2.0, 2.0, 0.3)], 1) * (2 / augment.CROP)
    mirrored = (torch.rand(count, generator=rng) < 0.5).repeat_interleave(views)
    theta = augment.similarity(scale, angle, shift, mirrored, torch.ones(count * views))
    pixels = pictures.pixels[index].repeat_interleave(views, 0)
    images = augment.crop(pixels, extent(pictures), theta, augment.random_padding(rng))
    mild = augment.Strength(gamma=0.3, contrast=0.3, brightness=0.1, jpeg=0.02, noise=0.15, cutout=0.05)
    return augment.photometric(images, mild, rng, group=views).view(count, views, 1, augment.CROP, augment.CROP)


@torch.no_grad()
def encode(model: ImageModel, pictures: Pictures, index: Tensor, views: int, rng: torch.Generator) -> Features:
    """Encode clip views of the pictures at `index`."""
    model.eval()
    parts = []
    for rows in torch.split(index, max(1, 256 // views)):
        images = clip_views(pictures, rows, views, rng)
        parts.append(model.encode(images.flatten(0, 1)).view(len(rows), views, -1).half())
    return Features(torch.cat(parts), pictures.labels[index])


def training_features(model: ImageModel, corpus: Corpus, recipe: ClipRecipe) -> Features:
    """Encode a class-balanced draw of the training pictures."""
    rng = torch.Generator().manual_seed(recipe.seed)
    drawn = draw(corpus, ImageRecipe(pictures=recipe.pictures, seed=recipe.seed), epoch=0)
    parts = [encode(model, pictures, index, recipe.views, rng) for pictures, index in drawn]
    return Features(torch.cat([p.views_NVD for p in parts]), torch.cat([p.labels_N for p in parts]))


def synthesise(features: Features, rows: Tensor, recipe: ClipRecipe, rng: torch.Generator) -> Tensor:
    """Make a clip of 16 features of each picture in `rows`, its label the expression that is shown.

    Half of the clips hold the expression throughout; the others start from, or return to, a neutral picture.
    Some end in repeats of the last feature (short clips) or repeat one in the middle (a lost face).
    """
    count = len(rows)
    shown_BTD = _walk(features.views_NVD[rows], rng)
    neutral = (features.labels_N == CLASSES.index("neutral")).nonzero()[:, 0]
    partner = neutral[torch.randint(len(neutral), (count,), generator=rng)]
    rest_BTD = _walk(features.views_NVD[partner], rng)
    weight_BT1 = _envelope(count, recipe.static, rng)[..., None]
    clips_BTD = weight_BT1 * shown_BTD + (1 - weight_BT1) * rest_BTD
    order_BT = _order(count, recipe, rng)
    return clips_BTD.gather(1, order_BT[..., None].expand_as(clips_BTD))


def train(model: ClipModel, features: Features, recipe: ClipRecipe, out: Path) -> ClipModel:
    """Train on synthesised clips and write `out`/clips.pt; minutes, so it starts over rather than resumes."""
    rng = torch.Generator().manual_seed(recipe.seed + 1)
    optimizer = torch.optim.AdamW(model.trained(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    model.train()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * rate(step / recipe.steps, recipe.warm_up)
        rows = torch.randint(len(features.labels_N), (recipe.batch,), generator=rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(synthesise(features, rows, recipe, rng))
        loss = F.cross_entropy(logits.float(), features.labels_N[rows], label_smoothing=recipe.smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.trained(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 200 == 0:
            log.info("mini.clips.step", step=step, loss=round(loss.item(), 4), temperature=round(model.temperature, 4))
    save(out / "clips.pt", {"model": model.state_dict(), "recipe": asdict(recipe)})
    return model.eval()


def _walk(views_BVD: Tensor, rng: torch.Generator) -> Tensor:
    # A straight path through the views, interpolated; a third of the clips hardly move.
    count, views, _ = views_BVD.shape
    start, end = torch.rand(2, count, 1, generator=rng) * (views - 1)
    end = torch.where(torch.rand(count, 1, generator=rng) < 0.33, start, end)
    place_BT = start + (end - start) * torch.linspace(0, 1, FRAMES)
    low_BT = place_BT.floor().long().clamp(max=views - 2)
    part_BT1 = (place_BT - low_BT)[..., None]
    rows = torch.arange(count)[:, None]
    floats: Tensor = views_BVD.float()
    return torch.lerp(floats[rows, low_BT], floats[rows, low_BT + 1], part_BT1)


def _envelope(count: int, static: float, rng: torch.Generator) -> Tensor:
    # Strength of the expression over time: ramp, plateau, ramp; at least four frames lie on the plateau.
    centre, plateau, ramp, floor = torch.rand(4, count, 1, generator=rng)
    centre, plateau, ramp = centre * (FRAMES - 1), 3 + plateau * 6, 1 + ramp * 4
    distance_BT = (torch.arange(FRAMES) - centre).abs()
    rising_BT = ((plateau + ramp - distance_BT) / ramp).clamp(0, 1)
    weight_BT = floor * 0.4 + (1 - floor * 0.4) * rising_BT
    still = torch.rand(count, 1, generator=rng) < static
    return torch.where(still, torch.ones_like(weight_BT), weight_BT)


def _order(count: int, recipe: ClipRecipe, rng: torch.Generator) -> Tensor:
    # Which frame stands at each place: repeats of the last one (padding) or of one in the middle (a gap).
    frames = torch.arange(FRAMES).expand(count, -1)
    real = torch.randint(4, FRAMES, (count, 1), generator=rng)
    padded = torch.rand(count, 1, generator=rng) < recipe.padded
    frames = torch.where(padded, torch.minimum(frames, real - 1), frames)
    first, length = torch.randint(1, 12, (count, 1), generator=rng), torch.randint(1, 5, (count, 1), generator=rng)
    lost = (frames >= first) & (frames < first + length) & (torch.rand(count, 1, generator=rng) < recipe.held)
    return torch.where(lost, first - 1, frames)
