"""Similarity of a generated picture and a real one: PSNR, SSIM, sharpness.

Pictures are (H, W, 3) RGB in 0-255, uint8 or float. A clip's number is the mean over its frames.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.types import Array

RANGE = 255.0
SSIM_SIGMA, SSIM_WINDOW = 1.5, 11  # Wang et al. 2004
AUTHOR_SIZE, AUTHOR_WINDOW = 256, 7


def _pair(generated: NDArray[Any], real: NDArray[Any]) -> tuple[Array, Array]:
    if generated.shape != real.shape or real.ndim != 3 or real.shape[2] != 3:
        raise ValueError(f"expected two pictures (H, W, 3), got {generated.shape} and {real.shape}")
    return generated.astype(np.float64), real.astype(np.float64)


def psnr(generated: NDArray[Any], real: NDArray[Any]) -> float:
    """Return the peak signal-to-noise ratio in dB over R, G and B; inf for equal pictures."""
    first, second = _pair(generated, real)
    error = float(np.mean((first - second) ** 2))
    return math.inf if error == 0 else 10 * math.log10(RANGE**2 / error)


def _structure(first: Array, second: Array, means: tuple[Array, ...], bessel: float) -> Array:
    """Return the SSIM map (Wang et al. 2004, Eq. 13) from local means of x, y, xx, yy, xy."""
    mean_x, mean_y, xx, yy, xy = means
    c1, c2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    var_x, var_y = bessel * (xx - mean_x**2), bessel * (yy - mean_y**2)
    covariance = bessel * (xy - mean_x * mean_y)
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return np.asarray(above / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)))


def _ssim(first: Array, second: Array, window: int, sigma: float | None) -> float:
    """Return the mean SSIM over all places where the whole window fits, and over channels."""
    if min(first.shape[:2]) < window:
        raise ValueError(f"SSIM needs pictures of {window} x {window} px or more")

    def local(values: Array) -> Array:
        if sigma is None:
            return np.asarray(cv2.blur(values, (window, window)))
        return np.asarray(cv2.GaussianBlur(values, (window, window), sigma))

    products = (first, second, first * first, second * second, first * second)
    count = window * window
    bessel = count / (count - 1) if sigma is None else 1.0
    full = _structure(first, second, tuple(local(p) for p in products), bessel)
    edge = window // 2
    return float(full[edge:-edge, edge:-edge].mean())


def ssim(generated: NDArray[Any], real: NDArray[Any]) -> float:
    """Return structural similarity, at most 1: Gaussian window of 11 px, sigma 1.5, mean of RGB."""
    first, second = _pair(generated, real)
    return _ssim(first, second, SSIM_WINDOW, SSIM_SIGMA)


def _grey(picture: NDArray[Any]) -> Array:
    return np.asarray(picture.astype(np.float64) @ [0.299, 0.587, 0.114])


def sharpness(picture: NDArray[Any]) -> float:
    """Return the variance of the Laplacian (4 neighbours) of the luma: high for sharp edges.

    It grows with contrast and noise too, so compare a generated picture with the real one of the
    same face, never two faces.
    """
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"expected a picture (H, W, 3), got {picture.shape}")
    return float(np.var(cv2.Laplacian(_grey(picture), cv2.CV_64F)))


def _author_size(picture: NDArray[Any]) -> NDArray[np.uint8]:
    if picture.dtype != np.uint8:
        raise ValueError(f"the authors' scripts read uint8 pictures, not {picture.dtype}")
    resized = cv2.resize(picture, (AUTHOR_SIZE, AUTHOR_SIZE), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.uint8)


def author_psnr(generated: NDArray[np.uint8], real: NDArray[np.uint8]) -> float:
    """Return PSNR in dB as ATVGnet's released script computes it.

    It is not correct, and comparable only with the numbers published with that script. Pictures are
    enlarged to 256 x 256 and grey. The difference and its square stay uint8 and wrap at 256: an
    error of 16 grey levels counts as none. It is hardly ever under 24 dB; a true 26.0 dB gives
    about 30.5. inf if the error is 0. Raises ValueError for other than two pictures (H, W, 3)
    uint8.
    """
    _pair(generated, real)
    first, second = (cv2.cvtColor(_author_size(p), cv2.COLOR_RGB2GRAY) for p in (generated, real))
    error = float(np.mean(np.asarray((first - second) ** 2, dtype=np.uint8)))
    return math.inf if error == 0 else 10 * math.log10(RANGE**2 / error)


def author_ssim(generated: NDArray[np.uint8], real: NDArray[np.uint8]) -> float:
    """Return SSIM as ATVGnet's released script computes it.

    It differs from `ssim`, and is comparable only with the numbers published with that script.
    Pictures are enlarged to 256 x 256; flat 7 x 7 window, sample covariance, mean over R, G, B.
    Raises ValueError for other than two pictures (H, W, 3) uint8.
    """
    _pair(generated, real)
    first, second = (_author_size(p).astype(np.float64) for p in (generated, real))
    return _ssim(first, second, AUTHOR_WINDOW, None)
