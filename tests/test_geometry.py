from __future__ import annotations

import cv2
import numpy as np
import pytest

from talkingface import geometry
from talkingface.geometry import CropSpec
from talkingface.landmarks import (
    IBUG,
    INNER_LIPS,
    INNER_PAIRS,
    LEFT_EYE,
    MEAN_FACE,
    MIDLINE,
    MIRROR,
    MIRROR_MESH,
    OUTER_LIPS,
    RIGHT_EYE,
    STABLE_MESH,
    reference_mesh,
)


def similarity(scale: float, degrees: float, x: float, y: float) -> np.ndarray:
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[c, -s, x], [s, c, y]])


def smooth_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(40, 210, (6, 6, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def test_fit_finds_a_known_similarity_and_is_the_least_squares_one() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(30, 2)) * 50
    truth = similarity(1.7, 33, -12, 5)
    moved = geometry.transform(points, truth)
    np.testing.assert_allclose(geometry.fit_similarity(points, moved), truth, atol=1e-10)
    noisy = moved + rng.normal(size=moved.shape)
    # the same least squares as a plain linear system in (a, b, tx, ty)
    x, y = points.T
    one, zero = np.ones(30), np.zeros(30)
    rows = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, tx, ty = np.linalg.lstsq(rows, np.concatenate([noisy[:, 0], noisy[:, 1]]), rcond=None)[0]
    expected = [[a, -b, tx], [b, a, ty]]
    np.testing.assert_allclose(geometry.fit_similarity(points, noisy), expected, atol=1e-9)


def test_a_mirrored_face_is_not_fitted_by_a_mirror() -> None:
    face = MEAN_FACE
    matrix = geometry.fit_similarity(face, face * [-1, 1])
    assert np.linalg.det(matrix[:, :2]) > 0


def test_fit_refuses_a_single_place() -> None:
    with pytest.raises(ValueError, match="two different points"):
        geometry.fit_similarity(np.ones((4, 2)), np.zeros((4, 2)))


def test_invert_undoes() -> None:
    points = np.random.default_rng(1).normal(size=(5, 7, 2))
    matrix = similarity(0.3, -140, 80, -3)
    back = geometry.transform(geometry.transform(points, matrix), geometry.invert(matrix))
    np.testing.assert_allclose(back, points, atol=1e-12)


def test_the_mesh_is_mirrored_onto_itself() -> None:
    every, reference = np.arange(478), reference_mesh()
    assert np.array_equal(MIRROR_MESH[MIRROR_MESH], every)
    assert np.array_equal(np.flatnonzero(MIRROR_MESH == every), MIDLINE)
    off = np.linalg.norm(reference[MIRROR_MESH] * [-1, 1] - reference, axis=1)
    assert off.max() < 0.02
    apart = np.linalg.norm(reference[:, None] * [-1, 1] - reference, axis=2)
    assert (apart.argmin(1) == MIRROR_MESH).mean() > 0.99  # two points may nearly coincide


def test_lips_eyes_and_landmarks_are_mirrored_as_their_names_say() -> None:
    assert np.array_equal(IBUG[MIRROR], MIRROR_MESH[IBUG])
    for ring in (OUTER_LIPS, INNER_LIPS):  # left corner, over the upper lip, right corner, below
        assert np.array_equal(MIRROR_MESH[ring], np.roll(ring, -11)[::-1])
    assert np.array_equal(MIRROR_MESH[INNER_PAIRS], INNER_PAIRS[::-1])
    assert MIRROR_MESH[list(LEFT_EYE)].tolist() == list(RIGHT_EYE)[::-1]
    assert set(MIRROR_MESH[STABLE_MESH]) == set(STABLE_MESH)
    assert MIRROR_MESH[468] == 473 and set(MIRROR_MESH[469:473]) == set(range(474, 478))


def test_the_mean_face_is_symmetric_and_sits_where_the_crop_says() -> None:
    mirrored = MEAN_FACE[MIRROR] * [-1, 1]
    np.testing.assert_allclose(mirrored, MEAN_FACE, atol=2e-3)
    spec = CropSpec(size=256, eye_distance=0.3, eye_y=0.35)
    face = spec.template()
    right, left = face[36:42].mean(0), face[42:48].mean(0)
    np.testing.assert_allclose(left - right, [0.3 * 256, 0], atol=1.0)
    np.testing.assert_allclose((left + right) / 2, [128, 0.35 * 256], atol=1.0)


def test_crop_matrix_ignores_the_mouth() -> None:
    spec = CropSpec()
    truth = similarity(0.4, 10, -30, 12)
    face = geometry.transform(spec.template(), geometry.invert(truth))
    face[48:] += 40  # lips anywhere
    face[:17] -= 25  # and the jaw with them
    np.testing.assert_allclose(geometry.crop_matrix(face, spec), truth, atol=1e-9)


@pytest.mark.parametrize("frames", [1, 3, 4, 5, 40])
def test_smoothing_keeps_a_still_face_still(frames: int) -> None:
    still = np.stack([similarity(0.5, 170, 20, 30)] * frames)
    np.testing.assert_allclose(geometry.smooth_matrices(still), still, atol=1e-10)


def test_smoothing_keeps_steady_motion_and_passes_half_a_turn() -> None:
    steps = np.arange(40)

    # the crop's centre at (200 + t, 150 - 2 t), scale 0.5 * 1.01^t, turning through 180 degrees
    def at(t: float) -> np.ndarray:
        matrix = similarity(0.5 * 1.01**t, 170 + t, 0, 0)
        matrix[:, 2] = [64, 64] - matrix[:, :2] @ [200 + t, 150 - 2 * t]
        return matrix

    moving = np.stack([at(float(t)) for t in steps])
    smooth = geometry.smooth_matrices(moving)
    np.testing.assert_allclose(smooth[4:-4], moving[4:-4], atol=1e-8)


def test_smoothing_takes_jitter_away() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(200, 3))
    jitter = np.stack([similarity(1, angle, x, y) for angle, x, y in noise])
    smooth = geometry.smooth_matrices(jitter, window=9)
    weights = np.hanning(11)[1:-1]
    left = np.sqrt((weights**2).sum()) / weights.sum()  # of independent noise
    before, after = (np.arctan2(m[:, 1, 0], m[:, 0, 0])[4:-4].std() for m in (jitter, smooth))
    assert after / before == pytest.approx(left, rel=0.25)


def bilinear(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The naive sampler: one point after the other, the border repeated."""
    height, width = picture.shape[:2]
    out = []
    for x, y in points.reshape(-1, 2):
        x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
        x0, y0 = min(int(x), width - 2), min(int(y), height - 2)
        fx, fy = x - x0, y - y0
        top = (1 - fx) * picture[y0, x0] + fx * picture[y0, x0 + 1]
        bottom = (1 - fx) * picture[y0 + 1, x0] + fx * picture[y0 + 1, x0 + 1]
        out.append((1 - fy) * top + fy * bottom)
    return np.array(out).reshape(*points.shape[:-1], picture.shape[2])


@pytest.mark.parametrize(("scale", "degrees"), [(1.0, 0), (0.9, 25), (2.3, -70)])
def test_warp_crop_samples_where_the_matrix_says(scale: float, degrees: float) -> None:
    picture = smooth_picture(150, 180)
    centre = similarity(scale, degrees, 0, 0)
    centre[:, 2] = [32, 32] - centre[:, :2] @ [95, 70]
    crop = geometry.warp_crop(picture, centre, 64)
    grid = np.stack(np.meshgrid(np.arange(64.0), np.arange(64.0)), axis=-1)
    expected = bilinear(picture, geometry.transform(grid, geometry.invert(centre)))
    assert np.abs(crop - expected).max() <= 2.0
    assert np.abs(crop - expected).mean() <= 0.4


@pytest.mark.parametrize("scale", [0.7, 0.31, 0.12])
def test_a_shrinking_crop_averages_and_does_not_shift(scale: float) -> None:
    y, x = np.mgrid[:600, :700]
    ramp = np.stack([x * 0.3 + 10, y * 0.4 + 5, (x + y) * 0.15 + 20], axis=-1)
    noise = np.random.default_rng(0).normal(size=ramp.shape) * 12
    matrix = similarity(scale, 12, 0, 0)
    matrix[:, 2] = [16, 16] - matrix[:, :2] @ [350, 300]
    grid = np.stack(np.meshgrid(np.arange(32.0), np.arange(32.0)), axis=-1)
    at = geometry.transform(grid, geometry.invert(matrix))
    expected = np.stack([at[..., 0] * 0.3 + 10, at[..., 1] * 0.4 + 5, at.sum(-1) * 0.15 + 20], -1)
    crop = geometry.warp_crop(ramp.round().astype(np.uint8), matrix, 32)
    assert np.abs(crop - expected).max() <= 1.6
    noisy = geometry.warp_crop(np.clip(ramp + noise, 0, 255).astype(np.uint8), matrix, 32)
    assert (noisy - expected).std() < 12 * max(scale, 0.15)  # averaged over 1 / scale^2 pixels
