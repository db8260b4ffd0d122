"""The measures against scikit-image, closed forms and clips whose motion is known."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import metrics as oracle

from talkingface.geometry import CropSpec
from talkingface.landmarks import INNER_BOTTOM
from talkingface.metrics import image, lips, motion

Bytes = NDArray[np.uint8]
RNG = np.random.default_rng


def picture(height: int = 60, width: int = 72, seed: int = 0) -> Bytes:
    """Something like a photograph: smooth patches and fine grain."""
    rough = RNG(seed).uniform(0, 255, (height // 6, width // 6, 3)).astype(np.float32)
    smooth = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = RNG(seed + 1).normal(0, 6, smooth.shape)
    return np.asarray(np.clip(smooth + grain, 0, 255), dtype=np.uint8)


def noisy(source: Bytes, sigma: float, seed: int = 5) -> Bytes:
    grain = RNG(seed).normal(0, sigma, source.shape)
    return np.clip(np.rint(source + grain), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("sigma", [1.0, 8.0, 40.0])
@pytest.mark.parametrize("size", [(60, 72), (36, 48)])
def test_psnr_and_ssim_equal_scikit_image(sigma: float, size: tuple[int, int]) -> None:
    real = picture(*size)
    fake = noisy(real, sigma)
    peak = oracle.peak_signal_noise_ratio(real, fake, data_range=255)  # type: ignore[no-untyped-call]
    assert image.psnr(fake, real) == pytest.approx(peak, abs=1e-9)
    expected = oracle.structural_similarity(  # type: ignore[no-untyped-call]
        real.astype(np.float64),
        fake.astype(np.float64),
        channel_axis=2,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert image.ssim(fake, real) == pytest.approx(expected, abs=1e-9)


def test_psnr_closed_form_and_equal_pictures() -> None:
    real = np.full((12, 12, 3), 100.0)
    assert image.psnr(real + 5.1, real) == pytest.approx(20 * math.log10(50))
    assert image.psnr(real, real) == math.inf
    assert image.ssim(real, real) == pytest.approx(1.0)
    # bytes must not wrap: 3 - 5 is -2
    low, high = np.full((2, 2, 3), 3, np.uint8), np.full((2, 2, 3), 5, np.uint8)
    assert image.psnr(low, high) == pytest.approx(10 * math.log10(255**2 / 4))


def test_author_ssim_equals_scikit_image() -> None:
    real = picture()
    fake = noisy(real, 12)
    large = [cv2.resize(p, (256, 256), interpolation=cv2.INTER_LINEAR) for p in (real, fake)]
    expected = oracle.structural_similarity(*large, win_size=7, channel_axis=2)  # type: ignore[no-untyped-call]
    assert image.author_ssim(fake, real) == pytest.approx(expected, abs=1e-6)


def test_author_psnr_equals_a_naive_loop_over_bytes() -> None:
    real, fake = picture(16, 18), noisy(picture(16, 18), 60)
    grey = [
        cv2.cvtColor(cv2.resize(p, (256, 256), interpolation=cv2.INTER_LINEAR), cv2.COLOR_RGB2GRAY)
        for p in (fake, real)
    ]
    total = 0
    for made, true in zip(*(g.ravel().tolist() for g in grey), strict=True):
        step = (made - true) % 256
        total += step * step % 256
    expected = 10 * math.log10(255**2 / (total / 256**2))
    assert image.author_psnr(fake, real) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("step", "square"), [(3, 9), (-3, 9), (15, 225), (17, 33), (100, 16)])
def test_author_psnr_closed_form_of_one_step(step: int, square: int) -> None:
    real = np.full((8, 8, 3), 120, np.uint8)
    fake = np.full_like(real, 120 + step)
    assert image.author_psnr(fake, real) == pytest.approx(10 * math.log10(255**2 / square))
    assert image.author_psnr(real + np.uint8(16), real) == math.inf  # 16^2 wraps to nothing


@pytest.mark.parametrize(("true", "reads"), [(26.0, 30.5), (29.5, 32.0), (35.5, 35.9)])
def test_author_psnr_wraps_and_flatters(true: float, reads: float) -> None:
    # Laplace errors on grey pictures that need no enlarging, as the fault was first measured
    spread = 255 / 10 ** (true / 20) / math.sqrt(2)
    error = RNG(0).laplace(0, spread, (256, 256, 1))
    real = np.full((256, 256, 3), 128, np.uint8)
    fake = np.clip(np.rint(real + error), 0, 255).astype(np.uint8)
    assert image.psnr(fake, real) == pytest.approx(true, abs=0.15)
    assert image.author_psnr(fake, real) == pytest.approx(reads, abs=0.3)


def test_sharpness_falls_with_blur_and_has_a_closed_form() -> None:
    real = picture()
    levels = [image.sharpness(cv2.GaussianBlur(real, (0, 0), s)) for s in (0.6, 1.2, 2.4)]
    assert image.sharpness(real) > levels[0] > levels[1] > levels[2] > 0
    ramp = np.broadcast_to(np.arange(20.0)[None, :, None] * 3, (20, 20, 3))
    assert image.sharpness(np.ascontiguousarray(ramp[:, :])) < 10  # only the mirrored edges
    board = (np.indices((20, 20)).sum(0) % 2 * 10.0)[..., None].repeat(3, 2)
    assert image.sharpness(board) == pytest.approx(40.0**2)  # Laplacian is +-40 everywhere


def test_image_measures_refuse_other_shapes() -> None:
    with pytest.raises(ValueError, match="two pictures"):
        image.psnr(np.zeros((4, 4, 3)), np.zeros((4, 5, 3)))
    with pytest.raises(ValueError, match="11 x 11"):
        image.ssim(np.zeros((10, 20, 3)), np.zeros((10, 20, 3)))
    with pytest.raises(ValueError, match="uint8"):
        image.author_psnr(np.zeros((4, 4, 3)), np.zeros((4, 4, 3)))  # type: ignore[arg-type]


def talking(frames: int = 30, swing: float = 3.0) -> NDArray[np.float64]:
    """The mean face in a 128 px crop, its lower inner lip swinging by `swing` px."""
    track = np.repeat(CropSpec().template()[None], frames, 0)
    track[:, INNER_BOTTOM, 1] += swing * (1 + np.sin(np.arange(frames) / 3))
    return track


def test_aperture_is_the_gap_over_the_eyes_distance() -> None:
    face = talking()
    shut = CropSpec().template()
    gap = shut[66, 1] - shut[62, 1] + 3.0 * (1 + np.sin(np.arange(30) / 3))
    np.testing.assert_allclose(lips.interocular(face), 40.0, rtol=1e-2)
    np.testing.assert_allclose(lips.aperture(face), gap / lips.interocular(face), rtol=1e-9)
    turned = face @ np.array([[0.6, 0.8], [-0.8, 0.6]]) * 2.5 + [30, -7]
    np.testing.assert_allclose(lips.aperture(turned), lips.aperture(face), rtol=1e-9)


def test_correlation_and_amplitude() -> None:
    real = lips.aperture(talking())
    assert lips.correlation(0.3 * real + 1, real) == pytest.approx(1)
    assert lips.correlation(-real, real) == pytest.approx(-1)
    assert lips.amplitude_ratio(0.3 * real + 1, real) == pytest.approx(0.3)
    other = RNG(0).normal(size=30)
    assert lips.correlation(other, real) == pytest.approx(np.corrcoef(other, real)[0, 1])
    still = np.full_like(real, 0.1)
    assert math.isnan(lips.correlation(still, real))
    assert lips.amplitude_ratio(still, real) == pytest.approx(0, abs=1e-12)
    assert math.isnan(lips.amplitude_ratio(real, still))


@pytest.mark.parametrize("late", [-5, -2, 0, 1, 4])
def test_lag_finds_how_late_a_curve_is(late: int) -> None:
    long = RNG(1).normal(size=60).cumsum()
    real, fake = long[10:50], long[10 - late : 50 - late]
    assert lips.lag(0.4 * fake + 2, real) == late
    fake = fake + RNG(2).normal(0, 0.1, 40)
    fake[[3, 17]] = np.nan
    assert lips.lag(fake, real) == late


def test_lag_equals_a_naive_search() -> None:
    real, fake = RNG(3).normal(size=(2, 30))
    tried = {}
    for shift in range(-5, 6):
        pairs = [(fake[t + shift], real[t]) for t in range(30) if 0 <= t + shift < 30]
        tried[shift] = np.corrcoef(*np.transpose(pairs))[0, 1]
    assert max(tried.values()) > 0
    assert lips.lag(fake, real) == max(tried, key=lambda shift: tried[shift])


def test_lag_of_equals_is_the_smallest_and_of_nothing_is_nan() -> None:
    wave = np.sin(2 * np.pi * np.arange(44) / 4)  # the same after 4 frames
    assert lips.lag(wave, wave) == 0
    assert lips.lag(np.roll(wave, 1), wave) == 1  # and not -3 or 5
    assert lips.lag(-wave, wave) == -2  # or 2: the early one
    for fake in (np.full(44, 0.1), np.full(44, np.nan)):
        assert math.isnan(lips.lag(fake, wave)) and math.isnan(lips.lag(wave, fake))
    few = np.where(np.arange(44) < 9, wave, np.nan)
    assert math.isnan(lips.lag(few, wave))  # nine frames in common may fit anywhere
    assert math.isnan(lips.lag(-np.arange(30.0), np.arange(30.0)))


def test_frames_without_a_face_are_left_out_of_both() -> None:
    real, fake = talking(), talking(swing=1.5)
    whole = lips.landmark_distance(fake[5:], real[5:])
    fake[:3] = np.nan
    real[3:5] = np.nan
    part = lips.landmark_distance(fake, real)
    assert part.missed == 5 and whole.missed == 0
    assert part.pixels == pytest.approx(whole.pixels)
    gaps = lips.aperture(fake), lips.aperture(real)
    assert np.isnan(gaps[0]).sum() == 3
    assert lips.correlation(*gaps) == pytest.approx(1)
    assert lips.amplitude_ratio(*gaps) == pytest.approx(0.5)
    lost = lips.landmark_distance(np.full_like(real, np.nan), real)
    assert math.isnan(lost.pixels) and lost.missed == 30


def test_landmark_distance_closed_form_and_naive_loop() -> None:
    real = talking()
    fake = real + RNG(0).normal(0, 1, real.shape)
    total = per_eye = 0.0
    for t in range(30):
        f, r = (track[t] - track[t].mean(0) for track in (fake, real))
        eyes = float(np.linalg.norm(real[t, 36:42].mean(0) - real[t, 42:48].mean(0)))
        for point in range(48, 68):
            distance = math.dist(f[point], r[point])
            total += distance
            per_eye += distance / eyes
    out = lips.landmark_distance(fake, real)
    assert out.pixels == pytest.approx(total / 600)
    assert out.author_sum == pytest.approx(20 * out.pixels)
    assert out.interocular == pytest.approx(per_eye / 600)
    moved = lips.landmark_distance(real + np.array([4, -9]), real)  # the face's shift is no error
    assert moved.pixels == pytest.approx(0, abs=1e-9)
    double = lips.landmark_distance(2 * fake, 2 * real, size=256)
    assert double.pixels == pytest.approx(out.pixels)
    assert double.interocular == pytest.approx(out.interocular)


def test_mouth_box_holds_the_mouth_and_stays_inside() -> None:
    face = talking()
    box = lips.mouth_box(face, 128)
    assert (box.right - box.left, box.bottom - box.top) == (48, 36)
    mouth = face[:, 48:68]
    assert (mouth.min((0, 1)) >= [box.left, box.top]).all()
    assert (mouth.max((0, 1)) < [box.right, box.bottom]).all()
    frames = np.arange(128 * 128 * 3).reshape(1, 128, 128, 3)
    assert box.cut(frames).shape == (1, 36, 48, 3)
    assert box.cut(frames)[0, 0, 0, 0] == frames[0, box.top, box.left, 0]
    aside = lips.mouth_box(face + 60.0, 128)
    assert aside == (80, 92, 128, 128)
    gone = face.copy()
    gone[1:] = np.nan
    assert lips.mouth_box(gone, 128) == box
    with pytest.raises(ValueError, match="no mouth"):
        lips.mouth_box(np.full_like(face, np.nan), 128)


def test_reading_accuracy() -> None:
    logits = np.array([[3.0, 2, 1], [1, 2, 3], [9, 0, 0], [0, 0, 0]])
    labels = np.array([0, 1, -1, 2])
    assert lips.reading_accuracy(logits, labels) == pytest.approx(1 / 3)
    assert lips.reading_accuracy(logits, labels, top=2) == pytest.approx(2 / 3)
    assert lips.reading_accuracy(logits, labels, top=3) == 1  # a tie for the third place is in
    assert math.isnan(lips.reading_accuracy(logits, np.full(4, -1)))


def test_lip_measures_refuse_other_shapes() -> None:
    with pytest.raises(ValueError, match="landmarks"):
        lips.aperture(np.zeros((3, 20, 2)))
    with pytest.raises(ValueError, match="as many for each"):
        lips.landmark_distance(talking(3), talking(4))
    with pytest.raises(ValueError, match="two curves"):
        lips.correlation(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="reach of 1"):
        lips.lag(np.zeros(30), np.zeros(30), reach=0)


def sliding(step: float, frames: int = 6) -> Bytes:
    """A textured picture that slides to the right by `step` px per frame."""
    wide = cv2.GaussianBlur(picture(96, 192), (0, 0), 1.5)
    out: list[Any] = []
    for t in range(frames):
        shift = np.array([[1, 0, t * step - 40], [0, 1, 0]], np.float64)
        out.append(cv2.warpAffine(wide, shift, (96, 96), flags=cv2.INTER_CUBIC))
    return np.stack(out)


def test_motion_intensity_is_the_squared_speed() -> None:
    for step in (1.0, 2.0):
        field = motion.motion_intensity(sliding(step))
        assert field.shape == (96, 96)
        assert float(np.median(field[20:-20, 20:-20])) == pytest.approx(step**2, rel=0.1)
    still = np.repeat(picture(96, 96)[None], 3, 0)
    assert float(motion.motion_intensity(still).max()) < 0.05  # Farneback's own noise


def test_motion_intensity_shows_where() -> None:
    clip = np.repeat(picture(96, 96)[None], 6, 0).copy()
    clip[:, 50:90, 20:76] = sliding(1.5)[:, 50:90, 20:76]
    field = motion.motion_intensity(clip)
    assert field[55:85, 30:66].mean() > 20 * field[:25].mean()


def test_optical_flow_has_the_right_sign_and_order() -> None:
    clip = sliding(2.0, 2)
    grey = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in clip]
    u, v = np.moveaxis(motion.optical_flow(*grey)[20:-20, 20:-20], -1, 0)
    assert float(np.median(u)) == pytest.approx(2.0, abs=0.15)
    assert abs(float(np.median(v))) < 0.15


def warp_error(frames: Bytes) -> float:
    return motion.clip_motion(frames, lips.PixelBox(0, 0, 48, 48)).warp_error


def test_warp_error_forgives_motion_and_not_flicker() -> None:
    smooth = sliding(2.0)
    still = np.abs(np.diff(smooth.astype(float), axis=0)).mean()
    assert warp_error(smooth) < 0.35 * still
    flicker = smooth.astype(int) + np.where(np.arange(6) % 2, 12, -12)[:, None, None, None]
    flickering = np.clip(flicker, 0, 255).astype(np.uint8)
    assert warp_error(flickering) > warp_error(smooth) + 10
    assert warp_error(np.repeat(picture(96, 96)[None], 3, 0)) < 0.05


def test_a_clip_moves_in_its_mouth_and_around_it() -> None:
    clip = np.repeat(picture(96, 96)[None], 6, 0).copy()
    clip[:, 50:90, 20:76] = sliding(1.5)[:, 50:90, 20:76]
    mouth = lips.PixelBox(20, 50, 76, 90)
    found = motion.clip_motion(clip, mouth)
    assert np.array_equal(found.intensity, motion.motion_intensity(clip))
    assert found.mouth > 5 * found.rest
    inside = found.intensity[50:90, 20:76].astype(np.float64)
    assert found.mouth == pytest.approx(inside.mean(), rel=1e-5)
    whole = found.intensity.astype(np.float64).sum()
    assert found.rest == pytest.approx((whole - inside.sum()) / (96 * 96 - 40 * 56), rel=1e-4)
    with pytest.raises(ValueError, match="leaves nothing"):
        motion.clip_motion(clip, lips.PixelBox(0, 0, 96, 96))


def test_jitter_closed_form_and_naive_loop() -> None:
    gliding = np.repeat(CropSpec().template()[None], 20, 0)
    gliding += np.arange(20.0)[:, None, None] * [0.7, -0.3]
    assert motion.jitter(gliding) == pytest.approx(0, abs=1e-9)
    trembling = gliding.copy()
    trembling[:, 48:68, 0] += np.where(np.arange(20) % 2, 0.5, -0.5)[:, None]
    trembling[:, :48] += RNG(0).normal(0, 5, (20, 48, 2))  # other points count for nothing
    assert motion.jitter(trembling) == pytest.approx(2.0)  # 1, -1: the difference changes by 2
    assert motion.jitter(2 * trembling, size=256) == pytest.approx(2.0)
    track = talking() + RNG(1).normal(0, 1, (30, 68, 2))
    track[4] = track[20, 50, 1] = np.nan
    lengths = [
        math.hypot(*(track[t - 1, k] - 2 * track[t, k] + track[t + 1, k]))
        for t in range(1, 29)
        for k in range(48, 68)
        if not {4, 20} & {t - 1, t, t + 1}
    ]
    assert motion.jitter(track) == pytest.approx(np.mean(lengths))
    assert math.isnan(motion.jitter(track[:6:2])) and math.isnan(motion.jitter(track[:2]))


def test_drift_grows_where_a_face_walks_away_and_not_where_it_flickers() -> None:
    own = np.full((32, 32, 3), 100, np.uint8)
    walking = np.stack([own + np.uint8(t // 10) for t in range(65)])
    # means of 25, 25 and 15 frames: 0.8, 3.3, then 5.33
    expected = [np.mean([t // 10 for t in part]) for part in np.split(np.arange(65), [25, 50])]
    np.testing.assert_allclose(motion.drift(walking, own), expected)
    flicker = np.stack([own + np.uint8(8 * (t % 2)) for t in range(64)])
    np.testing.assert_allclose(motion.drift(flicker, own, every=32), [4, 4])
    speaking = np.repeat(own[None], 50, 0)
    speaking[:, 18:] = RNG(0).integers(0, 255, (50, 14, 32, 3))  # lips may move: from 9/16 of 32
    np.testing.assert_allclose(motion.drift(speaking, own), 0)
    speaking[25:, 17, 6] = 116  # but not this one of 8 x 20 pixels
    np.testing.assert_allclose(motion.drift(speaking, own), [0, 16 / 160])
    with pytest.raises(ValueError, match="its picture"):
        motion.drift(walking, own[:20])


def test_motion_measures_refuse_one_frame() -> None:
    with pytest.raises(ValueError, match="two frames or more"):
        motion.motion_intensity(sliding(1, 1))
