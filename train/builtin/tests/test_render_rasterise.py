"""Rendered clips: the surfel rasteriser on two squares whose picture is known."""

from __future__ import annotations

import numpy as np
import pytest

from streamfer_builtin.render.model import FaceModel, identity_weights, load_face_model
from streamfer_builtin.render.rasterise import OVERSAMPLING, Rasteriser, perspective, resolved

SIDE = 32
PARTS = ("face", "head_neck", "eyelashes_left", "eyelashes_right")
FAR = 1e6
STRAIGHT = np.array([[2, 0, 15.5], [0, 2, 15.5]], np.float32)
"""Two pixels to a centimetre, the origin in the middle of the picture."""


def square(middle: tuple[float, float, float], half: float, pieces: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and triangles of a square that faces the viewer."""
    ticks = np.linspace(-half, half, pieces + 1)
    x, y = np.meshgrid(ticks, ticks)
    vertices = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1) + middle
    corner = (np.arange(pieces)[:, None] * (pieces + 1) + np.arange(pieces)).ravel()
    right, up = corner + 1, corner + pieces + 1
    triangles = np.concatenate([np.stack([corner, right, up + 1], 1), np.stack([corner, up + 1, up], 1)])
    return vertices.astype(np.float32), triangles.astype(np.int32)


def model_of(*squares: tuple[np.ndarray, np.ndarray]) -> FaceModel:
    """A face model whose parts, in turn, are the squares."""
    vertices, triangles, parts, offset = [], [], [], 0
    for part, (points, faces) in enumerate(squares):
        vertices.append(points)
        triangles.append(faces + offset)
        parts.append(np.full(len(points), part, np.int8))
        offset += len(points)
    neutral, faces = np.concatenate(vertices), np.concatenate(triangles)
    nothing = np.zeros((1, len(neutral), 3), np.float32)
    return FaceModel(
        neutral_V3=neutral,
        triangles_F3=faces,
        material_F=np.zeros(len(faces), np.uint8),
        materials=("M_Face", "M_IrisLeft", "M_IrisRight"),
        part_V=np.concatenate(parts),
        parts=PARTS,
        landmarks=np.zeros(68, np.int32),
        identity_IV3=nothing,
        expression_EV3=nothing,
        shapes=("jawOpen",),
    )


def seen(model: FaceModel, vertices: np.ndarray, raised: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Section number that each pixel shows, and how much of the pixel is covered."""
    rasteriser = Rasteriser(model)
    splat = rasteriser.splat(vertices, STRAIGHT, FAR, SIDE, raised)
    return resolved(splat, rasteriser.surfels.part_S[splat.surfel_P].astype(np.float32))


def test_a_square_covers_its_pixels_and_no_others() -> None:
    model = model_of(square((0, 0, 0), 5))
    _, share = seen(model, model.neutral_V3)
    # Ten centimetres are twenty pixels: rows and columns 6 to 25, whose outer edges are the square's.
    assert share[6:26, 6:26].min() == 1
    outside = np.ones((SIDE, SIDE), bool)
    outside[5:27, 5:27] = False
    assert share[outside].max() == 0


def test_the_nearer_square_hides_the_farther() -> None:
    model = model_of(square((0, 0, 0), 5), square((2.5, 0, 3), 2))
    part, share = seen(model, model.neutral_V3)
    # The second square spans x from 0.5 to 4.5: columns 17 to 24, and rows 12 to 19.
    np.testing.assert_allclose(part[13:19, 18:24], 1, atol=1e-5)
    np.testing.assert_allclose(part[12:20, 6:16], 0, atol=1e-5)
    behind = model.neutral_V3 * [1, 1, -1]
    part, _ = seen(model, behind.astype(np.float32))
    assert part[share > 0].max() == 0


def test_gaps_do_not_show_what_lies_behind() -> None:
    """A square of seldom hit cells in front of a densely hit one: the background never speckles through."""
    model = model_of(square((0, 0, 0), 6), square((0, 0, 2), 6))
    part, _ = seen(model, model.neutral_V3)
    np.testing.assert_allclose(part[5:27, 5:27], 1, atol=1e-5)


def test_what_faces_away_is_not_seen() -> None:
    model = model_of(square((0, 0, 0), 5))
    _, share = seen(model, (model.neutral_V3 * [-1, 1, 1]).astype(np.float32))
    assert share.max() == 0


def test_normals_follow_a_turned_square() -> None:
    model = model_of(square((0, 0, 0), 5))
    angle = np.deg2rad(30)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]], np.float32)
    splat = Rasteriser(model).splat(model.neutral_V3 @ turn.T, STRAIGHT, FAR, SIDE, None)
    np.testing.assert_allclose(splat.normal_3P.T, np.tile(turn[:, 2], (len(splat.cell_P), 1)), atol=1e-5)
    assert splat.side == SIDE * OVERSAMPLING


def test_raised_surfels_move_and_keep_their_depth_order() -> None:
    model = model_of(square((0, 0, 0), 5))
    raised = np.tile(np.array([2, -1, 0], np.float32), (len(Rasteriser(model).surfels), 1))
    _, before = seen(model, model.neutral_V3)
    _, after = seen(model, model.neutral_V3, raised)
    # Two centimetres to the right and one down are four and two pixels.
    np.testing.assert_allclose(after[2:, 4:], before[:-2, :-4], atol=1e-6)


def test_perspective_enlarges_what_is_near_and_turns_up_to_down() -> None:
    places = perspective(np.array([[1, 2, 0], [1, 2, 25], [1, 2, -50]], np.float32), 50.0)
    np.testing.assert_allclose(places, np.array([[1, -2], [2, -4], [0.5, -1]]))


@pytest.mark.parametrize("number", [0, 1, 77])
def test_identities_of_the_splits_share_no_component(number: int) -> None:
    train, val = identity_weights(number, "train", 100), identity_weights(number, "val", 100)
    assert not train[1::2].any()
    assert not val[0::2].any()
    assert (train[0::2] != 0).all()
    assert (val[1::2] != 0).all()
    np.testing.assert_array_equal(train, identity_weights(number, "train", 100))
    assert (train != identity_weights(number + 1, "train", 100)).any()


def test_the_face_model_adds_up(shared_data: object) -> None:
    model = load_face_model(shared_data / "ict_face" / "ict_face.npz")  # type: ignore[operator]
    weights = np.zeros((2, len(model.shapes)), np.float32)
    weights[1, model.shapes.index("jawOpen")] = 0.5
    person = model.person(np.zeros(len(model.identity_IV3), np.float32))
    np.testing.assert_array_equal(person, model.neutral_V3)
    rest, opened = model.performed(person, weights)
    np.testing.assert_array_equal(rest, model.neutral_V3)
    chin = model.landmarks[8]
    assert opened[chin, 1] < rest[chin, 1] - 0.5
    brow = model.landmarks[19]
    np.testing.assert_allclose(opened[brow], rest[brow], atol=0.02)
