"""The built-in captioner: plans, cached decoding, batches, its file, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_captioner
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import RESNET, VIT, tiny_weights

from streamfer.captions import find_captioner, list_captioners, load_captioner
from streamfer.captions.context import ClipContext, ContextCaptioner
from streamfer.captions.mini import MiniCaptioner, padded
from streamfer.captions.mini_network import Prompts, answer_loss
from streamfer.captions.mini_plan import Draft, Planner
from streamfer.captions.patches import FrozenEncoder
from streamfer.captions.protocol import Captioner
from streamfer.errors import CheckpointError, ConfigError, UnknownModelError, UserError
from streamfer.models import list_models, load_model
from streamfer.models.sizes import VisionConfig

WORDS = tiny_captioner.vocabulary()


def clip(seed: int, keyframes: int = 2, side: int = 32) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(seed).integers(0, 256, (keyframes, side, side, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def mini() -> MiniCaptioner:
    return tiny_captioner.captioner()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of imported models with a captioner and an expression model in it."""
    monkeypatch.setenv("STREAMFER_HOME", str(tmp_path))
    folder = tmp_path / "models"
    folder.mkdir()
    tiny_captioner.write(folder / "tiny-caption.safetensors", half=False)
    tiny_weights(folder / "tiny.safetensors")
    return folder


def test_every_sentence_has_a_capital() -> None:
    ids = [*WORDS.words("The lips are parted."), WORDS.unit(12), *WORDS.words(" the lip corners are raised.")]
    assert WORDS.text(ids) == "The lips are parted. The lip corners are raised."


# -- plans ----------------------------------------------------------------------------------------------------


def logits(**chances: float) -> np.ndarray:  # type: ignore[type-arg]
    """Logits of chances by the names of plan tokens; the rest is next to impossible."""
    row = np.full(len(WORDS), -30.0)
    for name, chance in chances.items():
        token = f"</{name[3:]}>" if name.startswith("end") else f"<{name}>"
        row[WORDS.tokenizer.token_to_id(token)] = np.log(chance)
    return row


def planned(draft: Draft, row: np.ndarray, threshold: float = 0.3) -> str:  # type: ignore[type-arg]
    (token,) = Planner(WORDS, (threshold,) * len(WORDS.units), frozenset({frozenset({24, 25})})).step(
        [draft], row[None]
    )
    return str(WORDS.tokenizer.id_to_token(token))


def test_a_unit_is_weighed_against_what_is_left_behind_those_passed_over() -> None:
    # au01 has 0.2 of all; without it au12 has 0.3 / 0.8 = 0.375 and au25 would have 0.4 / 0.5.
    row = logits(au01=0.2, au12=0.3, au25=0.4, joy=0.1)
    assert planned(Draft(9), row, threshold=0.19) == "<au01>"
    assert planned(Draft(9), row, threshold=0.37) == "<au12>"
    assert planned(Draft(9), row, threshold=0.38) == "<au25>"
    assert planned(Draft(9), row, threshold=0.81) == "<joy>"


def test_a_plan_ends_in_the_likeliest_emotion_or_none_and_a_given_one_replaces_it() -> None:
    assert planned(Draft(9), logits(gloom=0.5, joy=0.3, say=0.2)) == "<gloom>"
    assert planned(Draft(9), logits(gloom=0.4, say=0.6)) == "<say>"
    assert planned(Draft(9, emotion=WORDS.emotion("calm")), logits(gloom=0.5, say=0.2)) == "<calm>"
    assert planned(Draft(9, emotion=WORDS.emotion("calm")), logits(gloom=0.4, say=0.6)) == "<say>"
    assert planned(Draft(9, ids=[WORDS.emotion("joy")]), logits(gloom=0.5, say=0.2)) == "<say>"


def test_units_that_exclude_each_other_are_not_both_planned() -> None:
    assert planned(Draft(9, ids=[WORDS.unit(24)]), logits(au25=0.9, joy=0.1)) == "<joy>"


def test_yes_and_no_come_behind_what_was_asked_about_or_not_at_all() -> None:
    asked = [WORDS.unit(12)]
    assert planned(Draft(9, ids=[*asked]), logits(yes=0.4, no=0.3, au25=0.3)) == "<yes>"
    assert planned(Draft(9, ids=[*asked]), logits(yes=0.2, no=0.4, au25=0.4)) == "<no>"
    assert planned(Draft(9, ids=[*asked]), logits(yes=0.2, no=0.2, au25=0.6)) == "<au25>"
    assert planned(Draft(9, ids=[WORDS.emotion("joy")]), logits(yes=0.6, say=0.4)) == "<yes>"
    assert planned(Draft(9), logits(yes=0.6, joy=0.4)) == "<joy>"
    assert planned(Draft(9, closed=False, ids=[*asked]), logits(yes=0.9, au25=0.05, joy=0.01)) == "<au25>"
    assert planned(Draft(9, ids=[*asked, WORDS.unit(25)]), logits(yes=0.6, joy=0.4)) == "<joy>"


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), threshold=st.floats(0.05, 0.9), limit=st.integers(1, 12))
def test_every_answer_is_a_plan_in_reading_order_and_then_words_that_keep_to_it(
    seed: int, threshold: float, limit: int
) -> None:
    rng = np.random.default_rng(seed)
    planner = Planner(WORDS, (threshold,) * len(WORDS.units), frozenset({frozenset({24, 25})}))
    draft = Draft(limit)
    for _ in range(3 * len(WORDS.units) + 4 + limit):
        planner.step([draft], rng.normal(0, 2, (1, len(WORDS))))
    assert draft.done
    if draft.ids[-1] in (WORDS.yes, WORDS.no):
        assert len(draft.ids) == 2
        assert draft.complete
        return
    first, feelings = WORDS.unit(WORDS.units[0]), WORDS.emotion(WORDS.emotions[0])
    opened = draft.ids.index(WORDS.say)
    plan, said = draft.ids[:opened], draft.ids[opened + 1 :]
    units = [token for token in plan if first <= token < feelings]
    assert plan == [*units, *(token for token in plan if token >= feelings)]
    assert units == sorted(set(units))
    assert not {WORDS.unit(24), WORDS.unit(25)} <= set(units)
    assert len([token for token in said if token >= WORDS.first_word]) == draft.words <= limit
    cues = [token for token in said if token < WORDS.first_word]
    felt = next((place for place, token in enumerate(cues) if token >= feelings), len(cues))
    before, behind = cues[:felt], cues[felt + 1 :]
    assert len(set(before)) == len(before)
    assert len(set(behind)) == len(behind)
    assert {*before, *behind} <= set(units)
    assert cues[felt : felt + 1] == (plan[len(units) :] if felt < len(cues) else [])
    if felt < len(cues) or draft.complete:
        assert set(before) == set(units)
    if draft.complete:
        assert (felt < len(cues)) == (len(plan) > len(units))


def spoken(draft: Draft, row: np.ndarray) -> str:  # type: ignore[type-arg]
    (token,) = Planner(WORDS, (0.3,) * len(WORDS.units)).step([draft], row[None])
    return str(WORDS.tokenizer.id_to_token(token))


def drafted(*names: str) -> Draft:
    """A draft whose plan stands."""
    plan = [WORDS.tokenizer.token_to_id(f"<{name}>") for name in names]
    return Draft(20, ids=[*plan, WORDS.say], planning=False, plan=frozenset(plan))


def test_neither_emotion_nor_end_comes_while_a_planned_unit_is_unsaid() -> None:
    draft = drafted("au12", "au25", "joy")
    assert spoken(draft, logits(au12=0.5, end=0.4)) == "<au12>"
    assert spoken(draft, logits(joy=0.9, au12=0.05, au25=0.01)) == "<au25>"
    assert spoken(draft, logits(end=0.9, au12=0.05)) == "<joy>"
    assert spoken(draft, logits(au12=0.9)) == "<au12>"
    assert spoken(draft, logits(au12=0.9, end=0.05)) == "</s>"
    assert draft.complete


def test_the_words_speak_of_the_planned_emotion_and_of_no_other_unit() -> None:
    draft = drafted("au12", "joy")
    assert spoken(draft, logits(au25=0.9, au12=0.01)) == "<au12>"
    assert spoken(draft, logits(gloom=0.9, joy=0.01)) == "<joy>"
    assert spoken(draft, logits(au25=0.9, end=0.05)) == "</s>"
    assert spoken(drafted("au12"), logits(end=0.9, au12=0.01)) == "<au12>"


# -- network --------------------------------------------------------------------------------------------------


def prompts(mini: MiniCaptioner, counts: tuple[int, ...], seed: int = 0) -> Prompts:
    """Random frames, courses and questions."""
    rng = torch.Generator().manual_seed(seed)
    asked = [WORDS.words(text)[: 3 + row] for row, text in enumerate(tiny_captioner.SENTENCES[: len(counts)])]
    course_B3 = torch.randint(0, 6, (len(counts), 3), generator=rng)
    frames = torch.randn(sum(counts), mini._encoder.layout.size, generator=rng)
    return Prompts(frames, counts, course_B3, *padded(asked, 0))


def test_words_follow_one_by_one_as_they_would_all_at_once(mini: MiniCaptioner) -> None:
    given_, counts = prompts(mini, (2, 1, 3)), (2, 1, 3)
    asked = [
        row[: int(length)].tolist() for row, length in zip(given_.question_BL, given_.asked_BL.sum(1), strict=True)
    ]
    contexts = [ClipContext(0.5, 0.1, None), ClipContext(), ClipContext(0.9)]
    drafts = mini.write(given_.features_FN, counts, asked, contexts)
    course_B3 = torch.tensor([context.course for context in contexts])
    longest = max(len(draft.ids) for draft in drafts) + 1
    answers = torch.tensor([[WORDS.answer, *draft.ids, *[0] * (longest - len(draft.ids))] for draft in drafts])
    lengths = torch.tensor([len(draft.ids) + 1 for draft in drafts])
    whole = Prompts(given_.features_FN, counts, course_B3, given_.question_BL, given_.asked_BL)
    at_once = mini._network(whole, answers, lengths)
    again = [Draft(8) for _ in drafts]
    for place in range(longest):
        mini._planner.step(again, at_once[:, place].numpy())
    assert [draft.ids for draft in again] == [draft.ids for draft in drafts]
    assert any(draft.words > 2 for draft in drafts)


def test_an_open_question_is_not_answered_with_yes_or_no(mini: MiniCaptioner, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    step = Planner.step

    def watched(planner: Planner, drafts: list[Draft], logits_BV: np.ndarray) -> list[int]:  # type: ignore[type-arg]
        seen[:] = [draft.closed for draft in drafts]
        return step(planner, drafts, logits_BV)

    monkeypatch.setattr(Planner, "step", watched)
    mini.caption([clip(1), clip(2)], ["What do the lips do?", "Do the lips part?"])
    assert seen == [False, True]
    mini.caption([clip(1)])
    assert seen == [False]


def test_a_text_does_not_depend_on_its_batch(mini: MiniCaptioner) -> None:
    clips = [clip(1, 1), clip(2, 4), clip(3, 2), clip(4, 1)]
    questions = ["Is the person smiling?", "Describe the face.", "Is it gloom or calm?", "The lips?"]
    together = [one.text for one in mini.caption(clips, questions)]
    alone = [mini.caption([one], [question])[0].text for one, question in zip(clips, questions, strict=True)]
    assert together == alone
    assert len(set(together)) > 1
    sides = mini.answer_yes_no(clips, questions)
    single = [mini.answer_yes_no([one], [question])[0] for one, question in zip(clips, questions, strict=True)]
    assert sides == pytest.approx(single, abs=1e-5)
    assert len({round(side, 4) for side in sides}) == 4


def test_question_order_of_keyframes_and_course_all_reach_the_decoder(mini: MiniCaptioner) -> None:
    base = prompts(mini, (2,))
    turned = Prompts(base.features_FN.flip(0), base.counts, base.course_B3, base.question_BL, base.asked_BL)
    other = Prompts(base.features_FN, base.counts, 5 - base.course_B3, base.question_BL, base.asked_BL)
    asked = Prompts(base.features_FN, base.counts, base.course_B3, base.question_BL + 1, base.asked_BL)
    seen = [mini._opened(one, None)[0] for one in (base, turned, other, asked)]
    assert all(float((seen[0] - one).abs().max()) > 1e-2 for one in seen[1:])


def test_what_a_row_cannot_know_teaches_nothing() -> None:
    scores = torch.randn(2, 3, 7, requires_grad=True)
    targets, weights = torch.tensor([[1, 2, 0], [3, 0, 0]]), torch.tensor([[2.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    unknown = torch.zeros(2, 7, dtype=torch.bool)
    unknown[0, 5] = True
    answer_loss(scores, targets, weights, unknown).backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    assert float(scores.grad[0, :, 5].abs().max()) == 0
    assert float(scores.grad[1, 0, 5]) > 0
    assert float(scores.grad[:, 2].abs().max()) == 0


@pytest.mark.parametrize(("vision", "maps"), [(VIT, ((16, 32),)), (RESNET, ((16, 128), (4, 256)))])
def test_every_encoder_has_maps(vision: VisionConfig, maps: tuple[tuple[int, int], ...]) -> None:
    _, encoder, _, seen = tiny_captioner.parts(vision=vision)
    assert encoder.layout.maps == maps
    assert encoder.layout.summary == seen.config.embed_dim + 2
    pixels = torch.rand(2, 3, vision.image_size, vision.image_size)
    rows = encoder(pixels)
    split, summary = encoder.layout.split(rows)
    assert torch.equal(summary[:, :-2], encoder.image_encoder(pixels))
    assert [tuple(part.shape) for part in split] == [(2, *shape) for shape in maps]


def test_a_tap_that_does_not_exist_is_named() -> None:
    with pytest.raises(CheckpointError, match="no layer 'layer9'"):
        FrozenEncoder(tiny_captioner.parts()[3].config, ("layer9",))


# -- at work --------------------------------------------------------------------------------------------------


def test_it_is_a_captioner_that_can_be_told_more(mini: MiniCaptioner) -> None:
    assert isinstance(mini, Captioner)
    assert isinstance(mini, ContextCaptioner)
    found = mini.caption([clip(0)])
    assert found[0].seconds > 0
    plain = mini.describe([clip(0)], [ClipContext()])
    assert plain[0].text == found[0].text


def test_a_description_names_the_emotion_that_the_clip_was_given(mini: MiniCaptioner) -> None:
    features = 3 * torch.randn(24, mini._encoder.layout.size, generator=torch.Generator().manual_seed(1))
    asked = [WORDS.words(text) for text in tiny_captioner.SENTENCES] * 5

    def feelings(emotion: str | None) -> list[list[int]]:
        context = [ClipContext(emotion=emotion)] * 24
        drafts = mini.write(features, [1] * 24, asked[:24], context, plans_only=True)
        plan = range(WORDS.emotion("joy"), WORDS.first_word)
        return [[token for token in draft.ids if token in plan] for draft in drafts]

    plain, told = feelings(None), feelings("calm")
    assert len({tuple(one) for one in plain}) > 1
    assert told == [[WORDS.emotion("calm")] if one else [] for one in plain]
    assert feelings("unheard of") == plain


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda mini: mini.caption([clip(0)], [""]), "the question is empty"),
        (lambda mini: mini.caption([clip(0)], ["smile " * 40]), "tokens and the model reads 24 at most"),
        (lambda mini: mini.caption([clip(0)], ["is <au12> there?"]), "control token '<au12>'"),
        (lambda mini: mini.caption([clip(0, 5)]), "5 keyframes; captioner 'tiny-caption' takes 4"),
        (lambda mini: mini.describe([clip(0)], []), "1 clips take 1 contexts"),
        (lambda mini: mini.caption([clip(0).astype(np.float32)]), "expected uint8 RGB"),
        (lambda _: ClipContext(onset=0.5), "no apex"),
        (lambda _: ClipContext(0.2, onset=0.5), "expected onset <= apex <= offset"),
        (
            lambda _: tiny_captioner.captioner(max_new_tokens=60),
            "max_new_tokens is 60; captioner 'tiny-caption' writes",
        ),
    ],
)
def test_what_it_cannot_do_is_said(mini: MiniCaptioner, act: Callable[[MiniCaptioner], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        act(mini)


# -- on disk --------------------------------------------------------------------------------------------------


def test_a_file_is_a_captioner_by_name_and_by_path(home: Path, mini: MiniCaptioner) -> None:
    expected = [one.text for one in mini.caption([clip(1), clip(2)])]
    for name in ("tiny-caption", str(home / "tiny-caption.safetensors")):
        loaded = load_captioner(name, device="cpu", precision="fp32", num_beams=1)
        assert isinstance(loaded, MiniCaptioner)
        assert [one.text for one in loaded.caption([clip(1), clip(2)])] == expected
    assert find_captioner("tiny-caption") == home / "tiny-caption.safetensors"
    (entry,) = [one for one in list_captioners() if one.name == "tiny-caption"]
    assert entry.answers
    assert entry.digest == loaded.info.digest
    assert entry.size_bytes == (home / "tiny-caption.safetensors").stat().st_size


def test_captioners_and_expression_models_are_not_taken_for_each_other(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = {one.name for one in list_models()}
    assert "tiny" in names
    assert "tiny-caption" not in names
    assert caplog.records == []
    with pytest.raises(UnknownModelError):
        load_model("tiny-caption")
    with pytest.raises(CheckpointError, match="holds a captioner"):
        load_model(str(home / "tiny-caption.safetensors"))
    with pytest.raises(UnknownModelError, match=r"captioners here: .*tiny-caption"):
        load_captioner("tiny")


def test_half_precision_on_disk_moves_numbers_by_a_thousandth(tmp_path: Path, mini: MiniCaptioner) -> None:
    path = tiny_captioner.write(tmp_path / "half.safetensors")
    loaded = load_captioner(str(path), device="cpu", precision="fp32")
    assert isinstance(loaded, MiniCaptioner)
    base = prompts(mini, (2, 1))
    here, there = (one._opened(base, None)[0] for one in (mini, loaded))
    assert float((here - there).abs().max()) < 2e-2 * float(here.abs().max())


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("arguments", "spoil", "message"),
    [
        ({"num_beams": 5}, None, "searches with 1 beam"),
        ({"max_new_tokens": 0}, None, "max_new_tokens is 0; expected at least 1"),
        ({}, _cut, "no such|unknown|safetensors|captioner"),
    ],
)
def test_a_load_that_fails_says_why(
    tmp_path: Path, arguments: dict[str, int], spoil: Callable[[Path], None] | None, message: str
) -> None:
    path = tiny_captioner.write(tmp_path / "one.safetensors")
    if spoil:
        spoil(path)
    with pytest.raises(UserError, match=message):
        load_captioner(str(path), device="cpu", **arguments)  # type: ignore[arg-type]
