"""Step `train`: language modelling on answers, over features that are already there.

Shape suffixes: B rows, T tokens of an answer, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from streamfer.errors import CheckpointError, ConfigError
from streamfer.models.captioning.mini import padded
from streamfer.models.captioning.mini_network import MiniNetwork, MiniSizes, Prompts, answer_loss
from streamfer.models.captioning.mini_vocabulary import MiniVocabulary
from streamfer_train.mini import checkpoint
from streamfer_train.mini.data import CLASSES, Corpus, sampling_weights
from streamfer_train.mini.fitting import fit
from streamfer_train.mini.images import without_clumps
from streamfer_train.mini_captions import features, texts
from streamfer_train.mini_captions.faces import UNITS, Faces, Films, Shown, Stills
from streamfer_train.mini_captions.features import FeatureFile, Seen
from streamfer_train.mini_captions.recipe import CaptionRecipe, TrainPart
from streamfer_train.mini_captions.texts import Example
from streamfer_train.recipes.world import ALONE, World
from streamfer_train.render.clips import RenderedClips

CHECKPOINT = "captions.pt"
#: Longest question in training, as the exported card says.
QUESTION_TOKENS = 48
#: Rows are sorted by length within this many batches, so that a batch pads little.
_SORTED = 12
#: Validation showings that the log watches.
_WATCHED = 384


@dataclass(frozen=True, slots=True)
class Source:
    """Faces with their features, and how often each is drawn (float64, any scale)."""

    faces: Faces
    file: FeatureFile
    weights: Tensor

    def rows(self, shown: Shown) -> np.ndarray[Any, np.dtype[np.float16]]:
        """Return the features of a showing (K, R)."""
        return np.asarray(self.file.rows[list(shown.rows)])


@dataclass(frozen=True, slots=True)
class CaptionBatch:
    """Prompts with answers int64 (B, T), their lengths (B,), targets and weights (B, T), unknown tokens (B, V)."""

    prompts: Prompts
    answers: Tensor
    lengths: Tensor
    targets: Tensor
    weights: Tensor
    unknown: Tensor

    def share(self, rank: int, size: int) -> CaptionBatch:
        """Return every `size`-th row from `rank` on."""
        rows = slice(rank, None, size)
        of_row = torch.split(self.prompts.features_FN, list(self.prompts.counts))
        prompts = Prompts(
            torch.cat(of_row[rows]),
            self.prompts.counts[rows],
            *(part[rows] for part in (self.prompts.course_B3, self.prompts.question_BL, self.prompts.asked_BL)),
        )
        rest = (self.answers, self.lengths, self.targets, self.weights, self.unknown)
        return CaptionBatch(prompts, *(part[rows] for part in rest))


class CaptionTask:
    """Batches, loss and validation of the step."""

    name = "captions"

    def __init__(
        self, sources: Sequence[tuple[float, Source]], val: Source, words: MiniVocabulary, part: TrainPart
    ) -> None:
        """Take sources with their shares of the faces, and what the log watches."""
        self.sources = sources
        self.words = words
        self.part = part
        self.steps = part.steps
        draw = random.Random("watched")
        faces = draw.sample(range(len(val.faces)), min(_WATCHED, len(val.faces)))
        self._watched = self._batches([(val, val.faces.draw(face, draw)) for face in faces], "watched", draw)

    def batches(self, epoch: int) -> Iterator[CaptionBatch]:
        """Yield the epoch's batches: fresh faces, views and texts."""
        made = 0
        for turn in range(self.steps):
            seed = f"{self.part.seed}/{epoch}/{turn}"
            draw = random.Random(seed)
            for batch in self._batches(self._showings(_SORTED * self.part.batch // 3 + 1, draw), seed, draw):
                yield batch
                made += 1
                if made == self.steps:
                    return

    def loss(self, model: MiniNetwork, batch: CaptionBatch) -> Tensor:
        """Weighted cross-entropy of the answers' tokens."""
        logits_BTV = model(batch.prompts, batch.answers, batch.lengths)
        return answer_loss(logits_BTV, batch.targets, batch.weights, batch.unknown)

    @torch.no_grad()
    def watch(self, average: MiniNetwork, *, last: bool) -> dict[str, float]:  # noqa: ARG002 - little as it is
        """Return the validation loss, the share of right yes and no, and that of right next plan tokens."""
        losses, answers, plans = [], [], []
        for batch in self._watched:
            logits_BTV = average(batch.prompts, batch.answers, batch.lengths)
            losses.append(float(answer_loss(logits_BTV, batch.targets, batch.weights, batch.unknown)))
            right_BT = logits_BTV.masked_fill(batch.unknown[:, None], float("-inf")).argmax(2) == batch.targets
            there_BT = batch.weights > 0
            spoken_BT = there_BT & ((batch.targets == self.words.yes) | (batch.targets == self.words.no))
            answers.append(right_BT[spoken_BT])
            planned_BT = there_BT & planned(batch.targets, self.words) & (batch.targets > self.words.no)
            plans.append(right_BT[planned_BT])
        return {
            "val_loss": round(sum(losses) / len(losses), 4),
            "val_yes_no": round(float(torch.cat(answers).float().mean()), 4),
            "val_plan": round(float(torch.cat(plans).float().mean()), 4),
        }

    def _showings(self, count: int, draw: random.Random) -> list[tuple[Source, Shown]]:
        rng = torch.Generator().manual_seed(draw.randrange(1 << 62))
        found = []
        for share, source in self.sources:
            drawn = without_clumps(source.weights, round(share * count), rng)
            found += [(source, source.faces.draw(face, draw)) for face in drawn.tolist()]
        draw.shuffle(found)
        return found

    def _batches(self, showings: Sequence[tuple[Source, Shown]], seed: str, draw: random.Random) -> list[CaptionBatch]:
        asked = list(texts.examples([shown for _, shown in showings], self.words, self.part, seed, QUESTION_TOKENS))
        draw.shuffle(asked)
        asked.sort(key=lambda one: len(one.answer))
        size = self.part.batch
        groups = [asked[start : start + size] for start in range(0, len(asked), size)]
        # The rest of a division makes a batch too small to trust; few as they are, its rows come in other epochs.
        groups = [group for group in groups if len(group) == size] or groups
        draw.shuffle(groups)
        return [collate(group, showings, self.words, self.part.plan_weight) for group in groups]


def collate(
    group: Sequence[Example], showings: Sequence[tuple[Source, Shown]], words: MiniVocabulary, plan_weight: float
) -> CaptionBatch:
    """Put examples into tensors."""
    rows = [showings[one.number][0].rows(showings[one.number][1]) for one in group]
    question_BL, asked_BL = padded([one.question for one in group], words.pad)
    prompts = Prompts(
        torch.from_numpy(np.concatenate(rows)).float(),
        tuple(len(part) for part in rows),
        torch.tensor([one.course for one in group]),
        question_BL,
        asked_BL,
    )
    answers_BT, there_BT = padded([one.answer[:-1] for one in group], words.pad)
    targets_BT, _ = padded([one.answer[1:] for one in group], words.pad)
    # The cues among the words follow from the plan, and count as words do.
    weights_BT = there_BT.float() * torch.where(planned(targets_BT, words), plan_weight, 1.0)
    unknown_BV = torch.zeros(len(group), len(words), dtype=torch.bool)
    for row, one in enumerate(group):
        unknown_BV[row, [words.unit(unit) for unit in one.unknown]] = True
    return CaptionBatch(prompts, answers_BT, there_BT.sum(1), targets_BT, weights_BT, unknown_BV)


def planned(targets_BT: Tensor, words: MiniVocabulary) -> Tensor:
    """Tell which targets, int64 (B, T), belong to a plan, its closing token included: bool (B, T).

    Padding may count as planned; who asks knows where it lies.
    """
    says_BT = targets_BT == words.say
    behind_BT = says_BT.cumsum(dim=1) > says_BT
    return (targets_BT < words.first_word) & (targets_BT != words.end) & ~behind_BT


def sources_of(
    recipe: CaptionRecipe, corpus: Corpus, clips: RenderedClips, files: Mapping[str, FeatureFile]
) -> list[tuple[float, Source]]:
    """Return the training sources with their shares: photographs by their numbers, and the rendered clips."""
    part, most = recipe.train, recipe.network.keyframes
    total = sum(map(len, corpus.train))
    found = []
    for pictures in corpus.train:
        faces = Stills(pictures, recipe.features.views, most)
        weights = sampling_weights(pictures.labels, power=part.power)[torch.tensor(faces.known)]
        share = (1 - part.render_share) * len(pictures) / total
        found.append((share, Source(faces, files[pictures.source], weights)))
    films = Films(clips, features.moments(recipe.features.frames), most)
    weights = torch.ones(len(films), dtype=torch.float64)
    return [*found, (part.render_share, Source(films, files["rendered_train"], weights))]


def train(
    recipe: CaptionRecipe,
    seen: Seen,
    corpus: Corpus,
    clips: RenderedClips,
    val: RenderedClips,
    world: World = ALONE,
) -> MiniNetwork:
    """Train, or resume from `work`/captions.pt, and return the averaged network.

    Raises:
        ConfigError: step `features` has not run to its end.
        CheckpointError: the checkpoint belongs to another recipe or encoder.
    """
    files = features.whole_features(recipe, seen, features.counts_of(corpus, clips, val))
    path = recipe.work / CHECKPOINT
    words = _read(recipe, seen)[0] if path.is_file() else texts.train_vocabulary(recipe.network.vocabulary)
    watched = Stills(corpus.val, 1, 1)
    source = Source(watched, files["fer2013_val"], torch.ones(len(watched), dtype=torch.float64))
    task = CaptionTask(sources_of(recipe, corpus, clips, files), source, words, recipe.train)
    torch.manual_seed(recipe.train.seed)
    network = MiniNetwork(recipe.network.sizes(len(words)), seen.encoder.layout)
    extra = {"encoder": seen.digest, "vocabulary": words.tokenizer.to_str(), "sizes": asdict(network.sizes)}
    return fit(network, task, recipe.train, path, extra, world)


def read_network(recipe: CaptionRecipe, seen: Seen) -> tuple[MiniNetwork, MiniVocabulary, dict[str, Any]]:
    """Read the averaged network, its vocabulary, and the settings and epochs that made it.

    Raises:
        ConfigError: step `train` has not run.
        CheckpointError: the checkpoint belongs to another encoder.
    """
    if not (recipe.work / CHECKPOINT).is_file():
        raise ConfigError(f"{recipe.work / CHECKPOINT}: not there; run `streamfer train mini-captions train` first")
    words, state = _read(recipe, seen)
    network = MiniNetwork(MiniSizes(**state["sizes"]), seen.encoder.layout)
    network.load_state_dict(state["average"])
    return network.eval(), words, {**state["recipe"], "epochs_done": state["epoch"]}


def _read(recipe: CaptionRecipe, seen: Seen) -> tuple[MiniVocabulary, dict[str, Any]]:
    path: Path = recipe.work / CHECKPOINT
    state = checkpoint.load(path, "captions")
    if state.get("encoder") != seen.digest:
        raise CheckpointError(f"{path}: was made on another encoder; delete it and run train again")
    words = MiniVocabulary.from_json(state["vocabulary"], UNITS, CLASSES)
    checkpoint.check_recipe(state["sizes"], asdict(recipe.network.sizes(len(words))), path)
    return words, state
