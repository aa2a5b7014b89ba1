"""Stage `clips`: temporal transformer and prompts of the mini model, on windows of finished features.

A window that never changes has to mean what its picture means, so the picture head of stage `joint` teaches it;
rendered clips bring what no photograph has: how an expression comes, stays and goes.

Shape suffixes: B windows, T frames, D feature size, C classes, K directions.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any, cast

import structlog
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamfer.errors import CheckpointError
from streamfer.files import sha256_of
from streamfer.models.dfer_clip import DferClip
from streamfer.models.prompts import PromptConfig, PromptLearner, tokenize_prompts
from streamfer_builtin.mini import checkpoint, joint, renders, sampling
from streamfer_builtin.mini.data import CLASSES, Corpus
from streamfer_builtin.mini.fitting import fit
from streamfer_builtin.mini.networks import FRAMES, JointModel, shipped_config, text_config
from streamfer_builtin.mini.recipe import ClipsPart, Recipe, Sizes
from streamfer_builtin.mini.windows import (
    ClipFeatures,
    PictureFeatures,
    encode_clips,
    encode_pictures,
    gapped,
    synthesise,
)
from streamfer_builtin.render.clips import RenderedClips
from streamfer_builtin.render.course import DIRECTIONS
from streamfer_train.metrics.classification import report

log = structlog.get_logger(__name__)

CHECKPOINT = "clips.pt"
FEATURES = "features.pt"
#: Rendered clips (val) that the log watches.
_WATCHED = 1_000

DESCRIPTIONS: dict[str, str] = {
    "happiness": "a smile that lifts the cheeks and creases the skin beside the eyes.",
    "sadness": "mouth corners that sink, heavy upper lids and the inner brows drawn up.",
    "neutral": "a face at rest, lips lightly closed, brow and eyes without tension.",
    "anger": "brows pulled down and together, a hard stare and lips pressed tight.",
    "surprise": "brows raised high, eyes wide open and the jaw dropped.",
    "disgust": "a wrinkled nose, a lifted upper lip and lowered brows.",
    "fear": "raised and drawn brows, wide tense eyes and lips stretched apart.",
}


class ClipModel(nn.Module):
    """DFER-CLIP's temporal transformer, prompts and text tower, fed with features.

    `direction` tells onset from offset on the clip feature; it exists only in training and keeps order in there.
    """

    def __init__(self, sizes: Sizes, temperature: float) -> None:
        super().__init__()
        text = text_config(sizes)
        texts = [DESCRIPTIONS[name] for name in CLASSES]
        ids = tokenize_prompts(texts, contexts=sizes.contexts, context_length=text.context_length)
        # No pretrained words exist at this width: random, frozen word vectors tell the descriptions apart.
        words = torch.randn(int(ids.max()) + 1, text.width) * 0.02
        prompts = PromptLearner(PromptConfig(contexts=sizes.contexts), ids, words)
        self.dfer = DferClip(shipped_config(sizes), prompts=prompts, text=text)
        # Tower and action head are finished; only features come in here.
        self.dfer.image_encoder = nn.Identity()
        self.dfer.action_head = None
        self.log_scale = nn.Parameter(torch.tensor(1 / temperature).log())
        self.direction = nn.Linear(sizes.embed_dim, len(DIRECTIONS))
        # Positions of unit size would drown features that have learned to speak for themselves.
        nn.init.normal_(self.dfer.temporal_net.pos_embedding, std=0.02)
        nn.init.normal_(cast(Tensor, self.dfer.temporal_net.cls_token), std=0.02)

    @property
    def temperature(self) -> float:
        """The learned temperature: cosines are divided by it."""
        return float(torch.exp(-self.log_scale.detach()))

    def feature(self, windows_BTD: Tensor) -> Tensor:
        """Return clip features (B, D), not normalised."""
        clip_BD: Tensor = self.dfer.temporal_net(windows_BTD)
        return clip_BD

    def forward(self, windows_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of emotions (B, C) and of directions (B, K)."""
        clip_BD = self.feature(windows_BTD)
        cosines_BC = F.normalize(clip_BD, dim=-1) @ self.dfer.class_features().T
        return cosines_BC * self.log_scale.exp(), self.direction(clip_BD)


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """Windows float32 (B, T, D), target probabilities (B, C), directions int64 (B,), -100 where none is known."""

    windows: Tensor
    targets: Tensor
    directions: Tensor


@dataclass(frozen=True, slots=True)
class Features:
    """What the stage trains on and what it watches."""

    pictures: PictureFeatures
    clips: ClipFeatures
    val_pictures: PictureFeatures
    val_clips: ClipFeatures


class ClipsTask:
    """Batches, loss and validation of the stage; `head` is the finished picture head, which teaches."""

    name = "clips"

    def __init__(self, features: Features, head: nn.Linear, part: ClipsPart) -> None:
        self.features = features
        self.head = head.requires_grad_(False)
        self.part = part
        self.steps = part.steps

    def batch(self, epoch: int, step: int) -> ClipBatch:
        """Return windows of photographs and of rendered clips in the recipe's shares."""
        rng = torch.Generator().manual_seed((self.part.seed * 10_007 + epoch) * 100_003 + step)
        rendered = round(self.part.batch * self.part.render_share)
        parts = self._rendered(rendered, rng), self._photographs(self.part.batch - rendered, rng)
        return ClipBatch(*(torch.cat(each) for each in zip(*parts, strict=True)))

    def loss(self, model: ClipModel, batch: ClipBatch) -> Tensor:
        """Cross-entropy with soft targets, plus that of the directions that are known."""
        logits, directions = model(batch.windows)
        emotion = F.cross_entropy(logits, batch.targets, label_smoothing=self.part.smoothing)
        if not bool((batch.directions >= 0).any()):
            return emotion
        return emotion + self.part.direction_weight * F.cross_entropy(directions, batch.directions)

    @torch.no_grad()
    def watch(self, average: ClipModel, epoch: int) -> dict[str, float]:  # noqa: ARG002 - the same after every epoch
        """Return accuracy and UAR of clear stills, and UAR and direction accuracy of rendered val clips."""
        still = self.features.val_pictures
        truth = still.targets.argmax(1)
        own = report(average(still.views[:, :1].float().expand(-1, FRAMES, -1))[0], truth, CLASSES)
        head = report(self.head(still.views[:, 0].float()), truth, CLASSES)
        clips = self.features.val_clips
        rendered, directions = average(clips.frames.float())
        return {
            "clear": round(own.war, 4),
            "clear_uar": round(own.uar, 4),
            "head": round(head.war, 4),
            "head_uar": round(head.uar, 4),
            "rendered_uar": round(report(rendered, clips.labels, CLASSES).uar, 4),
            "direction_acc": round(float((directions.argmax(1) == clips.directions).float().mean()), 4),
            "temperature": round(average.temperature, 4),
        }

    def _photographs(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        features = self.features.pictures
        rows = torch.randint(len(features.targets), (count,), generator=rng)
        made = synthesise(features, rows, self.part, rng)
        # The teacher reads the window's own frames where it is static, and the photograph where it is not.
        still = self.head(features.views[rows].float()).mean(1)
        seen = torch.where(made.static[:, None], self.head(made.frames).mean(1), still)
        shown = torch.lerp(features.targets[rows], seen.softmax(1), self.part.distil)
        targets = torch.lerp(self.head(made.rest).softmax(1), shown, made.own[:, None])
        return made.frames, targets, torch.full((count,), -100)

    def _rendered(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        clips = self.features.clips
        rows = torch.randint(len(clips.labels), (count,), generator=rng)
        order = gapped(count, self.part, rng, padding=False)
        frames = clips.frames[rows].float()
        windows = frames.gather(1, order[..., None].expand_as(frames))
        return windows, F.one_hot(clips.labels[rows], len(CLASSES)).float(), clips.directions[rows]


def train(recipe: Recipe, corpus: Corpus, rendered: RenderedClips, rendered_val: RenderedClips) -> ClipModel:
    """Encode what the stage needs, train or resume from `work`/clips.pt, and return the averaged model."""
    part = recipe.clips
    path = recipe.work / CHECKPOINT
    first, _ = joint.read_joint(recipe)
    if path.is_file():
        _checked(recipe)
    features = _features(recipe, first, corpus, rendered, rendered_val)
    torch.manual_seed(part.seed)
    model = ClipModel(recipe.sizes, part.temperature)
    task = ClipsTask(features, balanced(first.expression, features.pictures, part.balance), part)
    return fit(model, task, part, path, {"joint": _digest(recipe), **_rendered(recipe)})


@torch.no_grad()
def balanced(head: nn.Linear, pictures: PictureFeatures, strength: float) -> nn.Linear:
    """Return the head with `strength` times the log frequency of each class taken off its bias.

    Rare expressions are read more readily (Menon et al., ICLR 2021, logit adjustment after training). The frequencies
    are the mean of the head's own probabilities on the training pictures.
    """
    mean_C = head(pictures.views[:, 0].float()).softmax(1).mean(0)
    moved = copy.deepcopy(head)
    moved.bias.sub_(strength * mean_C.log())
    return moved


def read_clips(recipe: Recipe) -> tuple[ClipModel, dict[str, Any]]:
    """Read the averaged model of the stage, and the settings and epochs that made it.

    Raises:
        ConfigError: the stage has not run.
        CheckpointError: `joint` has gone on since, other rendered clips are asked for, or the file is damaged.
    """
    state = _checked(recipe)
    model = ClipModel(recipe.sizes, recipe.clips.temperature)
    with checkpoint.restoring(recipe.work / CHECKPOINT):
        model.load_state_dict(state["average"])
    return model.eval(), {**state["recipe"], "epochs_done": state["epoch"]}


def _checked(recipe: Recipe) -> dict[str, Any]:
    path = recipe.work / CHECKPOINT
    state = checkpoint.load(path, "clips", (*checkpoint.STATE, "joint"))
    if state["joint"] != _digest(recipe):
        raise CheckpointError(f"{path}: was made from another {joint.CHECKPOINT}; delete it and run stage clips again")
    checkpoint.check_recipe(state, _rendered(recipe), path)
    return state


def _rendered(recipe: Recipe) -> dict[str, int]:
    return {"rendered": recipe.rendered, "rendered_val": recipe.rendered_val}


def _digest(recipe: Recipe) -> str:
    return sha256_of(recipe.work / joint.CHECKPOINT)[:16]


def _features(
    recipe: Recipe, model: JointModel, corpus: Corpus, rendered: RenderedClips, rendered_val: RenderedClips
) -> Features:
    """Encode, or take from `work`/features.pt what the same tower encoded."""
    path, part = recipe.work / FEATURES, recipe.clips
    key = [_digest(recipe), part.pictures, part.views, part.power, len(rendered), len(rendered_val)]
    if path.is_file() and (kept := checkpoint.load(path, "clips", ("key", *Features.__slots__)))["key"] == key:
        with checkpoint.restoring(path):
            return _unpacked(kept)
    rng = torch.Generator().manual_seed(part.seed)
    parts = []
    for source, share in zip(corpus.train, (0.85, 0.15), strict=True):
        targets = source.targets(recipe.joint.vote_share)
        weights = sampling.sampling_weights(targets, power=part.power, cap=None if share > 0.5 else 1_500)
        index = sampling.without_clumps(weights * source.readable, round(part.pictures * share), rng)
        parts.append(encode_pictures(model, source, index, targets, part.views, rng))
    pictures = PictureFeatures(torch.cat([p.views for p in parts]), torch.cat([p.targets for p in parts]))
    log.info("mini.clips.encoded", pictures=len(pictures.targets), views=part.views)
    clips = encode_clips(model, rendered, rng)
    clear = corpus.val.clear.nonzero()[:, 0]
    val = encode_pictures(model, corpus.val, clear, corpus.val.targets(1.0), 1, rng)
    val_clips = encode_clips(model, renders.chosen(rendered_val, slice(_WATCHED)))
    log.info("mini.clips.encoded", clips=len(clips.labels))
    features = Features(pictures, clips, val, val_clips)
    checkpoint.save(path, {"key": key, **_packed(features)})
    return features


def _packed(features: Features) -> dict[str, Any]:
    return {name: asdict(getattr(features, name)) for name in Features.__slots__}


def _unpacked(state: dict[str, Any]) -> Features:
    return Features(
        pictures=PictureFeatures(**state["pictures"]),
        clips=ClipFeatures(**state["clips"]),
        val_pictures=PictureFeatures(**state["val_pictures"]),
        val_clips=ClipFeatures(**state["val_clips"]),
    )
