"""Measure one generated video against the real one: named numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from talkingface.metrics.image import author_psnr, author_ssim, psnr, sharpness, ssim
from talkingface.metrics.lips import (
    PixelBox,
    amplitude_ratio,
    aperture,
    correlation,
    lag,
    landmark_distance,
)
from talkingface.metrics.motion import clip_motion, jitter
from talkingface.types import Array, Floats, Frames

OUTSIDE = 0.5  # of the mask: below it, the pixels of the identity picture should stay


@dataclass(frozen=True)
class VideoWithLandmarks:
    """A clip with its face: frames (T, S, S, 3), landmarks (T, 68, 2) in pixels, NaN if lost."""

    frames: Frames
    landmarks: Array


class LearnedMetric(Protocol):
    """A trained network that measures a video: identity, or synchrony of lips and sound.

    sha256: of its weights. A call takes the video, the identity picture (S, S, 3) and the sound
    (640 T,) in [-1, 1] at 16 kHz, None if there is none. It returns numbers under the keys of
    columns of `tables.py`: sync_offset (frames), sync_confidence, identity (cosine).
    """

    @property
    def sha256(self) -> str:
        """Digest of its weights file."""

    def __call__(
        self, video: VideoWithLandmarks, picture: Frames, sound: Floats | None
    ) -> dict[str, float]:
        """Measure a video of one picture and one sound; see `LearnedMetric`."""


def learned_measures(
    metrics: Sequence[LearnedMetric],
    video: VideoWithLandmarks,
    picture: Frames,
    sound: Floats | None,
) -> dict[str, float]:
    """Return the numbers of all learned metrics for one video."""
    return {
        name: value for metric in metrics for name, value in metric(video, picture, sound).items()
    }


def lip_measures(made: Array, real: Array, size: int) -> dict[str, float]:
    """Compare landmarks (T, 68, 2) in pixels of a `size` px crop.

    correlation, amplitude, lag (frames, positive is late): of the inner lips' aperture; lmd_*: of
    the mouth's landmarks (pixels at 128, interocular distances); jitter: of the generated mouth,
    pixels at 128 per frame²; missed: frames without a face, which are left out.
    """
    distance = landmark_distance(made, real, size)
    gaps, real_gaps = aperture(made), aperture(real)
    return {
        "correlation": correlation(gaps, real_gaps),
        "amplitude": amplitude_ratio(gaps, real_gaps),
        "lag": float(lag(gaps, real_gaps)),
        "lmd_pixels": distance.pixels,
        "lmd_interocular": distance.interocular,
        "jitter": jitter(made, size),
        "missed": float(distance.missed),
    }


def head_measures(predicted: Array, real: Array) -> dict[str, float]:
    """Compare the landmarks a model predicts, before it draws, with the real video's."""
    return {
        "head_correlation": correlation(aperture(predicted), aperture(real)),
        "head_amplitude": amplitude_ratio(aperture(predicted), aperture(real)),
    }


def picture_measures(made: Frames, real: Frames, mouth: PixelBox) -> dict[str, float]:
    """Compare two clips (T, S, S, 3): means over frames.

    psnr (dB), ssim: of the whole pictures. mouth_psnr, mouth_ssim: of the mouth's box alone.
    """
    pairs = list(zip(made, real, strict=True))
    mouths = list(zip(mouth.cut(made), mouth.cut(real), strict=True))
    return {
        "psnr": _mean_level([psnr(a, b) for a, b in pairs]),
        "ssim": float(np.mean([ssim(a, b) for a, b in pairs])),
        "mouth_psnr": _mean_level([psnr(a, b) for a, b in mouths]),
        "mouth_ssim": float(np.mean([ssim(a, b) for a, b in mouths])),
    }


def pixel_measures(made: Frames, real: Frames, mouth: PixelBox) -> dict[str, float]:
    """Measure sharpness and motion of a clip (T, S, S, 3).

    sharpness: of the mouth, relative to the real one. warp_error, motion_mouth and motion_rest (px²
    per frame²): of the generated video.
    """
    crisp, crisp_real = (np.mean([sharpness(f) for f in mouth.cut(clip)]) for clip in (made, real))
    motion = clip_motion(made, mouth)
    return {
        "sharpness": float(crisp / crisp_real) if crisp_real > 0 else math.nan,
        "warp_error": motion.warp_error,
        "motion_mouth": motion.mouth,
        "motion_rest": motion.rest,
    }


def author_measures(made: VideoWithLandmarks, real: VideoWithLandmarks) -> dict[str, float]:
    """Compute author_psnr, author_ssim and author_lmd as ATVGnet's released script does.

    They are comparable only with the numbers published with that script.
    """
    pairs = list(zip(made.frames, real.frames, strict=True))
    distance = landmark_distance(made.landmarks, real.landmarks, made.frames.shape[1])
    return {
        "author_psnr": _mean_level([author_psnr(a, b) for a, b in pairs]),
        "author_ssim": float(np.mean([author_ssim(a, b) for a, b in pairs])),
        "author_lmd": distance.author_sum,
    }


def upper_change(frames: Frames, picture: Frames, mask: Floats | None = None) -> float:
    """Measure the change of the upper half, where speech moves nothing, against the identity.

    frames: (T, S, S, 3). picture: (S, S, 3), the identity. mask: (T, S, S), the share of new colour
    in each pixel; only pixels with less than OUTSIDE are compared. Returns the mean absolute
    difference, of 255; NaN if no pixel is left.
    """
    half = len(picture) // 2
    change = np.abs(frames[:, :half].astype(np.int16) - picture[:half]).mean(-1)
    if mask is not None:
        change = change[mask[:, :half] < OUTSIDE]
    return float(change.mean()) if change.size else math.nan


def _mean_level(levels: list[float]) -> float:
    """Return the mean dB of the frames that differ; infinite if none does."""
    finite = [level for level in levels if math.isfinite(level)]
    return float(np.mean(finite)) if finite else math.inf
