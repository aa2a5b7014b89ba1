"""The captioner's recipe from end to end at tiny size: features, training, export, and what stands in the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mini_corpus
import numpy as np
import pytest
import torch
from tiny_models import tiny_weights

from streamfer.errors import CheckpointError, ConfigError
from streamfer.geometry import loose_crop, squashed_crop, tight_crop
from streamfer.models.captioning import load_captioner
from streamfer.models.captioning.context import ClipContext
from streamfer.models.captioning.mini import MiniCaptioner
from streamfer.models.captioning.mini_plan import Draft
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.mini import checkpoint, data, renders
from streamfer_train.mini.data import Corpus
from streamfer_train.mini_captions import __main__ as command
from streamfer_train.mini_captions import export, features, measure, texts, training
from streamfer_train.mini_captions.faces import UNITS
from streamfer_train.mini_captions.recipe import CaptionRecipe, load_recipe
from streamfer_train.render.clips import RenderedClips

CORPUS, TRAIN, VAL = mini_corpus.corpus(), mini_corpus.clips(15), mini_corpus.clips(9, seed=1)
PARTS: dict[str, Any] = {
    "features": {"views": 2, "frames": 3, "clips": 15},
    "network": {"vocabulary": 700, "queries": 2, "query_width": 16, "query_layers": 1, "query_heads": 2}
    | {"width": 16, "layers": 1, "heads": 2, "mlp_ratio": 2},
    "train": {"epochs": 2, "steps": 3, "batch": 8},
}


def recipe(folder: Path, encoder: Path, **train: Any) -> CaptionRecipe:
    parts = {**PARTS, "train": PARTS["train"] | train}
    places = {"data": folder, "renders": folder, "work": folder / "run", "encoder": str(encoder)}
    return CaptionRecipe.model_validate({**places, **parts})


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("encoder") / "tiny.safetensors", actions=("AU01", "AU12"))


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> CaptionRecipe:
    """A recipe whose first step has run."""
    made = recipe(tmp_path_factory.mktemp("captions"), encoder)
    features.encode_all(made, features.read_encoder(made), CORPUS, TRAIN, VAL)
    return made


def elsewhere(made: CaptionRecipe, work: Path, **train: Any) -> CaptionRecipe:
    """The same recipe with another work folder that has the same features."""
    work.mkdir()
    (work / "features").symlink_to(made.work / "features")
    part = made.train.model_copy(update=train)
    return made.model_copy(update={"work": work, "train": part})


def run(made: CaptionRecipe) -> torch.nn.Module:
    return training.train(made, features.read_encoder(made), CORPUS, TRAIN, VAL)


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary of the most frequent words is found in a moment."""
    monkeypatch.setattr(texts, "_SAMPLES", 100)


# -- features -------------------------------------------------------------------------------------------------


def test_features_are_what_the_encoder_says_of_the_plain_crop(encoded: CaptionRecipe) -> None:
    seen = features.read_encoder(encoded)
    files = features.whole_features(encoded, seen, features.counts_of(CORPUS, TRAIN, VAL))
    assert {name: file.rows.shape[0] for name, file in files.items()} == {
        "fer2013_train": 84, "faces": 42, "fer2013_val": 56, "faces_held_out": 14,
        "rendered_train": 45, "rendered_val": 27,
    }  # fmt: skip
    place = features.framing(seen.card.crop)
    crops = features._plain(CORPUS.val, place)(torch.tensor([5, 9]), torch.Generator())
    expected = features.encode(seen, crops)
    assert torch.allclose(torch.from_numpy(files["fer2013_val"].rows[[5, 9]]).float(), expected, atol=2e-2)
    views = files["fer2013_train"].rows
    assert not np.array_equal(views[0], views[1])


def test_encoding_goes_on_where_it_stopped(
    encoded: CaptionRecipe, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_CHUNK", 16)
    whole = recipe(tmp_path / "whole", encoder)
    features.encode_all(whole, features.read_encoder(whole), CORPUS, TRAIN, VAL)
    broken = recipe(tmp_path / "broken", encoder)
    encode, calls = features.encode, []

    def breaks(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(features, "encode", breaks)
    with pytest.raises(KeyboardInterrupt):
        features.encode_all(broken, features.read_encoder(broken), CORPUS, TRAIN, VAL)
    with pytest.raises(ConfigError, match="faces: 16 of 21 are encoded; run `streamfer train mini-captions features`"):
        run(broken)
    features.encode_all(broken, features.read_encoder(broken), CORPUS, TRAIN, VAL)
    for name in ("fer2013_train", "faces", "rendered_train"):
        rows = [(one.work / "features" / f"{name}.f16").read_bytes() for one in (whole, broken)]
        assert rows[0] == rows[1]


def test_features_of_another_encoder_are_refused(encoded: CaptionRecipe, tmp_path: Path) -> None:
    other = tiny_weights(tmp_path / "other.safetensors", actions=("AU01", "AU12"), seed=3)
    with pytest.raises(CheckpointError, match="was made with encoder"):
        run(encoded.model_copy(update={"encoder": str(other)}))


def test_the_picture_is_framed_as_the_encoder_wants_it() -> None:
    assert torch.allclose(features.framing(tight_crop(96)), torch.eye(2, 3), atol=1e-4)
    assert torch.allclose(features.framing(squashed_crop(64)), torch.eye(2, 3))
    loose = features.framing(loose_crop(64))
    # A crop that shows more of the head: its edge lies beyond the training crop's.
    assert float(loose[0, 0]) == pytest.approx(59.08 / 48, abs=1e-3)


# -- training -------------------------------------------------------------------------------------------------


def test_a_resumed_training_equals_an_unbroken_one(
    encoded: CaptionRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = run(elsewhere(encoded, tmp_path / "a"))
    part = elsewhere(encoded, tmp_path / "b")
    batches = training.CaptionTask.batches

    def breaks(self: training.CaptionTask, epoch: int) -> Any:
        for step, batch in enumerate(batches(self, epoch)):
            if (epoch, step) == (1, 1):
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(training.CaptionTask, "batches", breaks)
    with pytest.raises(KeyboardInterrupt):
        run(part)
    monkeypatch.setattr(training.CaptionTask, "batches", batches)
    resumed = run(part)
    pairs = zip(unbroken.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_training_learns(encoded: CaptionRecipe, tmp_path: Path) -> None:
    made = elsewhere(encoded, tmp_path / "c", epochs=1, steps=30, lr=0.01, ema=0.5)
    seen = features.read_encoder(made)
    files = features.whole_features(made, seen, features.counts_of(CORPUS, TRAIN, VAL))
    run(made)
    network, words, state = training.read_network(made, seen)
    sources = training.sources_of(made, CORPUS, TRAIN, files)
    assert sum(share for share, _ in sources) == pytest.approx(1)
    task = training.CaptionTask(sources, sources[0][1], words, made.train)
    assert task.watch(network, last=True)["val_loss"] < 0.75 * np.log(len(words))
    assert state["epochs_done"] == 1
    batch = next(iter(task.batches(0)))
    assert batch.answers.shape[0] == made.train.batch
    assert bool((batch.weights.sum(1) > 0).all())


def test_processes_share_the_rows_of_a_batch_with_their_keyframes(encoded: CaptionRecipe, tmp_path: Path) -> None:
    made = elsewhere(encoded, tmp_path / "s", batch=16)
    files = features.whole_features(made, features.read_encoder(made), features.counts_of(CORPUS, TRAIN, VAL))
    words = texts.train_vocabulary(made.network.vocabulary)
    sources = training.sources_of(made, CORPUS, TRAIN, files)
    whole = next(iter(training.CaptionTask(sources, sources[0][1], words, made.train).batches(0)))
    halves = [whole.share(rank, 2) for rank in (0, 1)]
    starts = [sum(whole.prompts.counts[:row]) for row in range(len(whole.lengths))]
    for row in range(len(whole.lengths)):
        half, place = halves[row % 2], row // 2
        assert torch.equal(half.answers[place], whole.answers[row])
        assert torch.equal(half.prompts.question_BL[place], whole.prompts.question_BL[row])
        count, start = whole.prompts.counts[row], sum(half.prompts.counts[:place])
        mine = half.prompts.features_FN[start : start + count]
        assert torch.equal(mine, whole.prompts.features_FN[starts[row] : starts[row] + count])
        assert half.prompts.counts[place] == count
    assert len(set(whole.prompts.counts)) > 1


def test_a_checkpoint_of_another_encoder_is_refused(encoded: CaptionRecipe, tmp_path: Path) -> None:
    made = elsewhere(encoded, tmp_path / "d", epochs=1, steps=1)
    run(made)
    state = checkpoint.load(made.work / training.CHECKPOINT, "captions")
    checkpoint.save(made.work / training.CHECKPOINT, {**state, "encoder": "0" * 64})
    with pytest.raises(CheckpointError, match="was made on another encoder"):
        run(made)


def test_export_needs_a_training(encoded: CaptionRecipe, tmp_path: Path) -> None:
    made = elsewhere(encoded, tmp_path / "e")
    with pytest.raises(ConfigError, match="run `streamfer train mini-captions train` first"):
        training.read_network(made, features.read_encoder(made))


# -- export ---------------------------------------------------------------------------------------------------


@pytest.fixture
def corpora(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command reads tiny data."""

    def load(_folder: Path) -> Corpus:
        return CORPUS

    def clips(_folder: Path, split: str, limit: int | None = None) -> RenderedClips:
        assert limit in (None, 15)
        return TRAIN if split == "train" else VAL

    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(renders, "load", clips)
    monkeypatch.setattr(export, "digests", lambda _folder: {"fer2013/val.parquet": "0" * 64})


@pytest.mark.usefixtures("corpora")
def test_three_commands_make_a_captioner(encoded: CaptionRecipe, tmp_path: Path) -> None:
    made = elsewhere(encoded, tmp_path / "f", epochs=1, steps=8)
    config = tmp_path / "recipe.yaml"
    config.write_text(json.dumps(made.model_dump(mode="json")), encoding="utf-8")
    to = tmp_path / "mini-caption.safetensors"
    for step in ("features", "train", "export"):
        assert command.main([step, "-c", str(config), "--to", str(to)]) == 0
    loaded = load_captioner(str(to), device="cpu", precision="fp32", max_new_tokens=6)
    assert isinstance(loaded, MiniCaptioner)
    metrics = loaded.card.train["metrics"]
    assert set(loaded.card.thresholds) <= set(measure.THRESHOLDS)
    assert loaded.card.train["thresholds"]["fitted_on"] + metrics["fer2013_val"]["count"] == 37
    assert metrics["fer2013_val"]["floor_micro_f1"] > 0
    assert 0 <= metrics["rendered_val"]["contradictions"] <= 1
    clip = np.zeros((2, 32, 32, 3), np.uint8)
    assert len(loaded.describe([clip] * 2, [ClipContext(), ClipContext(0.5, 0.2, 0.9, "fear")])) == 2
    assert 0 < loaded.answer_yes_no([clip], ["Is the person smiling?"])[0] < 1
    card = to.with_suffix(".md").read_text(encoding="utf-8")
    assert f"{metrics['fer2013_val']['micro_f1']:.3f}" in card
    assert "$" not in card


def test_a_captioner_is_measured_by_what_its_captions_say(encoded: CaptionRecipe) -> None:
    files = features.whole_features(encoded, features.read_encoder(encoded), features.counts_of(CORPUS, TRAIN, VAL))
    chosen, known = export.exams(CORPUS, VAL, files)
    assert len(chosen) + len(known["fer2013_val"]) == 37
    assert all(len(set(rows)) == len(rows) <= 2 for rows in known["rendered_val"].rows)
    # The clip in reverse and clips in which another expression fades are left out.
    assert len(known["rendered_val"]) == 8


def test_each_unit_gets_the_threshold_that_suits_it(encoded: CaptionRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    # AU12 is there from a chance of 0.2 on, AU4 only from 0.6 on; of AU6 the labels know nothing.
    draw = np.random.default_rng(0)
    drafts, labels = [], []
    for smile, frown in draw.uniform(0, 1, (200, 2)):
        present = {unit for unit, there in ((12, smile >= 0.2), (4, frown >= 0.6)) if there}
        drafts.append(Draft(9, chances={12: smile, 4: frown, 6: 0.9}))
        labels.append(FaceLabels(frozenset(present), (), coded=frozenset({4, 12})))
    monkeypatch.setattr(measure, "plans", lambda *_: drafts)
    file = features.whole_features(encoded, features.read_encoder(encoded), features.counts_of(CORPUS, TRAIN, VAL))[
        "fer2013_val"
    ]
    exam = measure.Exam(file, ((0,),) * 200, tuple(labels))
    chosen, one_for_all, one_each = measure.fit_thresholds(None, exam)  # type: ignore[arg-type]
    of = dict(zip(UNITS, chosen, strict=True))
    assert of[12] == pytest.approx(0.2, abs=0.03)
    assert of[4] == pytest.approx(0.6, abs=0.03)
    assert of[6] == of[1]
    assert one_for_all < 0.9 < one_each


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "-c", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["train", "--set", "train.epochs"], "has no '='"),
        (["train", "--set", "train.epochs=0"], "train.epochs: input should be greater"),
        (["train", "--set", "train.rate=1"], "train.rate: no such setting; see configs/train/mini_captions.yaml"),
        (["train", "--set", "network.vocabulary=9"], "network.vocabulary"),
    ],
)
def test_a_wrong_setting_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    assert command.main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said.lower() or message in said
    assert said.count("\n") == 1


def test_the_shipped_recipe_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    made = load_recipe(Path("configs/train/mini_captions.yaml"))
    plain = CaptionRecipe(data=made.data, renders=made.renders, work=made.work)
    assert made == plain
