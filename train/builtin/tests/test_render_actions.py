"""Rendered clips: action units, expressions and time courses obey FACS and their own labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfer_builtin.render.actions import (
    _PAIRED,
    _SINGLE,
    ACTION_UNITS,
    UNIT,
    shape_matrix,
    shape_weights,
    without_conflicts,
)
from streamfer_builtin.render.course import (
    DIRECTIONS,
    FRAMES,
    PHASES,
    blinks,
    combined,
    drawn_course,
    drawn_preceding,
    head_motion,
    intensities,
    speech,
)
from streamfer_builtin.render.expressions import EMOTIONS, PROTOTYPES, drawn_expression, habitual_face
from streamfer_builtin.render.studio import PAIR_PERIOD, drawn_performance

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = tuple(
    sorted({f"{shape}_{side}" for shapes in _PAIRED.values() for shape in shapes for side in "LR"})
    + sorted({shape for shapes in _SINGLE.values() for shape in shapes})
)
TELLING = {
    "happiness": "AU12",
    "sadness": "AU15",
    "anger": "AU04",
    "surprise": "AU02",
    "disgust": "AU10",
    "fear": "AU20",
}
PAIRS = [("AU24", "AU25"), ("AU23", "AU26"), ("AU28", "AU25"), ("AU43", "AU05"), ("AU18", "AU20"), ("AU12", "AU15")]


def random_units(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    units = rng.random((FRAMES, len(ACTION_UNITS))) * (rng.random((FRAMES, len(ACTION_UNITS))) < 0.5)
    return units.astype(np.float32)


def test_every_unit_moves_both_halves_of_the_face() -> None:
    matrix = shape_matrix(SHAPES)
    assert matrix.shape == (2, len(ACTION_UNITS), len(SHAPES))
    assert (matrix.sum(axis=2) > 0).all()
    smile = shape_weights(
        np.eye(len(ACTION_UNITS), dtype=np.float32)[[UNIT["AU12"]]], np.ones((2, 22), np.float32), matrix
    )[0]
    assert {SHAPES[k] for k in np.flatnonzero(smile)} == {"mouthSmile_L", "mouthSmile_R"}
    np.testing.assert_allclose(smile[smile > 0], 1.0)


def test_a_lopsided_face_smiles_more_on_one_side() -> None:
    sides = np.ones((2, len(ACTION_UNITS)), np.float32)
    sides[0, UNIT["AU12"]] = 0.5
    units = np.zeros((1, len(ACTION_UNITS)), np.float32)
    units[0, UNIT["AU12"]] = 0.8
    weights = dict(zip(SHAPES, shape_weights(units, sides, shape_matrix(SHAPES))[0], strict=True))
    assert weights["mouthSmile_L"] == pytest.approx(0.4)
    assert weights["mouthSmile_R"] == pytest.approx(0.8)


@given(SEEDS)
def test_units_that_do_not_go_together_never_do(seed: int) -> None:
    before = random_units(seed)
    after = without_conflicts(before)
    for one, other in PAIRS:
        assert not ((after[:, UNIT[one]] > 0) & (after[:, UNIT[other]] > 0)).any(), (one, other)
    assert (after[:, UNIT["AU25"]] >= after[:, UNIT["AU26"]]).all()
    free = [UNIT[name] for name in ("AU01", "AU04", "AU06", "AU09", "AU10", "AU17")]
    np.testing.assert_array_equal(after[:, free], before[:, free])
    assert ((after == before) | (after == 0))[:, [k for k in range(22) if k != UNIT["AU25"]]].all()


def test_the_stronger_of_two_rivals_stays() -> None:
    units = np.zeros((2, len(ACTION_UNITS)), np.float32)
    units[:, UNIT["AU24"]] = 0.6
    units[:, UNIT["AU26"]] = 0.3, 0.8
    after = without_conflicts(units)
    np.testing.assert_allclose(after[:, UNIT["AU24"]], [0.6, 0])
    np.testing.assert_allclose(after[:, UNIT["AU26"]], [0, 0.8])


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_an_emotion_shows_the_unit_that_tells_it(emotion: str) -> None:
    rng = np.random.default_rng(3)
    drawn = np.stack([drawn_expression(emotion, 1.0, rng) for _ in range(200)])
    assert ((drawn >= 0) & (drawn <= 1)).all()
    if emotion == "neutral":
        assert not drawn.any()
        return
    assert (drawn[:, UNIT[TELLING[emotion]]] > 0.3).mean() > 0.95
    for other in TELLING:
        if other != emotion:
            elsewhere = np.stack([drawn_expression(other, 1.0, rng) for _ in range(100)])
            assert drawn[:, UNIT[TELLING[emotion]]].mean() > 0.1 + elsewhere[:, UNIT[TELLING[emotion]]].mean()
    assert sum(each.share for each in PROTOTYPES[emotion]) == pytest.approx(1)


def test_strength_scales_the_whole_expression() -> None:
    weak, strong = (drawn_expression("anger", size, np.random.default_rng(5)) for size in (0.4, 0.8))
    np.testing.assert_allclose(strong, 2 * weak, rtol=1e-5)


@given(SEEDS)
def test_a_resting_face_shows_traces_only(seed: int) -> None:
    assert habitual_face(np.random.default_rng(seed)).max() <= 0.15


@given(SEEDS)
def test_an_onset_only_rises_and_an_offset_only_falls(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for kind, sign, first, last in (("onset", 1, (0, 1), (2,)), ("offset", -1, (2,), (0, 3))):
        course = drawn_course(kind, rng)
        strength = course.at(np.arange(FRAMES))
        assert (np.diff(strength) * sign >= -1e-6).all()
        assert strength[-1 if kind == "onset" else 0] > 0.99
        phases = course.phases()
        assert phases[0] in first or kind == "onset"
        assert phases[-1 if kind == "onset" else 0] == PHASES.index("apex")
        assert phases[-1] in last or kind == "offset"
        assert PHASES.index("offset" if kind == "onset" else "onset") not in phases


@given(SEEDS)
def test_a_full_course_comes_and_goes(seed: int) -> None:
    course = drawn_course("full", np.random.default_rng(seed))
    strength, phases = course.at(np.arange(FRAMES)), course.phases()
    peak = int(strength.argmax())
    assert 0 < peak < FRAMES - 1
    assert strength[-1] < strength[peak]
    order = [PHASES[k] for k in phases]
    assert "offset" in order
    assert all("onset" not in order[k:] for k, name in enumerate(order) if name == "offset")


def test_a_held_course_does_not_move() -> None:
    course = drawn_course("held", np.random.default_rng(0))
    np.testing.assert_array_equal(course.at(np.arange(FRAMES)), np.ones(FRAMES))
    assert set(course.phases().tolist()) == {PHASES.index("apex")}


@given(SEEDS)
def test_what_precedes_is_over_when_the_clip_ends(seed: int) -> None:
    before, after = drawn_preceding(np.random.default_rng(seed))
    moments = np.arange(FRAMES)
    assert before.at(moments)[0] > 0.99
    assert before.at(moments)[-1] < 0.01
    assert after.at(moments)[0] < 0.01
    assert after.at(moments)[-1] > 0.99


@given(SEEDS)
@settings(max_examples=40)
def test_units_follow_their_course(seed: int) -> None:
    rng = np.random.default_rng(seed)
    course = drawn_course("onset", rng)
    peaks = drawn_expression("happiness", 1.0, rng)
    units = intensities(peaks, course, rng)
    assert units.shape == (FRAMES, len(ACTION_UNITS))
    assert units.min() >= 0
    assert units.max() <= 1
    assert not units[:, peaks == 0].any()
    assert np.corrcoef(units[:, UNIT["AU12"]], course.at(np.arange(FRAMES)))[0, 1] > 0.85


@given(SEEDS)
@settings(max_examples=40)
def test_overlays_stay_in_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    closed = blinks(rng, 1.0)
    assert (closed > 0.3).sum() <= 5
    talk = combined([speech(rng, 0.8)])
    assert talk.min() >= 0
    assert talk.max() <= 1
    assert talk[:, [UNIT["AU01"], UNIT["AU04"], UNIT["AU09"], UNIT["AU12"]]].max() == 0
    assert np.abs(head_motion(rng)).max() <= 60


def test_blinks_happen_as_often_as_asked() -> None:
    rng = np.random.default_rng(0)
    assert not blinks(rng, 0.0).any()
    assert np.mean([blinks(rng, 1.0).max() > 0.5 for _ in range(100)]) > 0.85


def test_performances_cover_classes_directions_and_predecessors() -> None:
    drawn = [drawn_performance(k, np.random.default_rng([9, k])) for k in range(800)]
    assert set(np.bincount([each.emotion for each in drawn], minlength=7) > 60) == {True}
    assert {DIRECTIONS[each.direction] for each in drawn} == set(DIRECTIONS)
    preceded = [each for each in drawn if each.preceding >= 0]
    assert 0.12 < len(preceded) / len(drawn) < 0.3
    assert all(each.preceding != each.emotion for each in preceded)
    for number, each in enumerate(drawn):
        assert each.action_units_TA.shape == (FRAMES, len(ACTION_UNITS))
        neutral = EMOTIONS[each.emotion] == "neutral"
        assert neutral == (DIRECTIONS[each.direction] == "none") == (not each.envelope_T.any())
        if number % PAIR_PERIOD == PAIR_PERIOD - 2:
            assert DIRECTIONS[each.direction] in ("onset", "offset")


def test_an_averaged_clip_can_show_more_of_what_precedes() -> None:
    """Clips exist in which only the order says which of two expressions the clip is about."""
    drawn = [drawn_performance(k, np.random.default_rng([9, k])) for k in range(800)]
    share = [(each.envelope_T > 0.5 * each.envelope_T.max()).mean() for each in drawn if each.preceding >= 0]
    assert np.mean(np.array(share) < 0.5) > 0.2
