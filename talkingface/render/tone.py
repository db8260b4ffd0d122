"""Brightness and colour of the inside of a mouth, estimated from the face around it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.render.teeth import LUMA, FaceLight
from talkingface.types import Bounds, Floats, Picture

# Teeth beside the cheeks, fitted on 52 portraits (brightness of 255, in logarithms; what is left is
# 0.2). In speech the lips shade them more than in the smiles of these portraits.
_TEETH, _TEETH_SLOPE, _SPEECH = 37.6, 0.3, 0.75
_BRIGHTEST = 0.88  # of the bright parts of the picture (97th percentile)
_BESIDE_SKIN = 1.65  # of the cheeks, at most

# Colour of cheeks in neutral light, in logarithms: red over blue, and green over both; how far they
# spread; how much of what lies beyond the mouth takes on.
_WARM, _WARM_SPREAD = 0.42, 0.35
_GREEN, _GREEN_SPREAD = -0.07, 0.08
_CAST = 0.85

_FINE, _COARSE, _SOFTEST = 0.8, 1.6, 4.0  # pixels
_SAMPLES = 20_000
_ONE_TONE, _COLOURED = 1.5, 3.5  # levels of 255: how far colours lie from one tone for each light


@dataclass(frozen=True)
class Tone:
    """Brightness and colour of a face's light.

    level: brightness of its teeth, of 255. cast: (3,) factors on a neutral colour. monochrome:
    (256, 3), the picture's colour for each brightness, in [0, 255]. weight: how far the picture has
    only these, in [0, 1]; exactly 1 where it is grey.
    """

    level: float
    cast: Floats
    monochrome: Floats
    weight: float
    grey: bool

    def apply(self, colour: Floats) -> Floats:
        """Give neutral colours (..., 3) in [0, 255] the light's colour; brightness stays."""
        light = colour @ LUMA
        toned: Floats = self.monochrome[np.rint(light).clip(0, 255).astype(np.intp)]
        if self.weight >= 1:
            return toned
        lit = colour * self.cast
        lit *= (light / np.maximum(lit @ LUMA, 1e-3))[..., None]
        return np.asarray(lit * (1 - self.weight) + toned * self.weight, np.float32)


def tone_of(picture: Picture, face: FaceLight, box: Bounds) -> Tone:
    """Read the tone off a picture (H, W, 3); box: y0, y1, x0, x1 of the face in it."""
    y0, y1, x0, x1 = box
    part = _samples(picture)
    bright = float(np.percentile(_samples(picture[y0:y1, x0:x1]) @ LUMA, 97))
    light = part @ LUMA
    grey = bool((part == part[:, :1]).all())
    monochrome = _monochrome(part, light)
    index = np.rint(light).clip(0, 255).astype(np.intp)
    off = float(np.sqrt(np.square(part - monochrome[index]).mean()))
    weight = 1.0 if grey else float(np.clip((_COLOURED - off) / (_COLOURED - _ONE_TONE), 0, 1))
    skin = max(1.0, float(face.skin @ LUMA))
    level = min(
        _TEETH * skin**_TEETH_SLOPE * _SPEECH,
        _BRIGHTEST * bright,
        _BESIDE_SKIN * skin,
    )
    return Tone(max(level, 4.0), _cast(face.skin), monochrome, weight, grey)


def blur_of(picture: Picture, box: Bounds) -> float:
    """Estimate how soft a part of a picture is: sigma in pixels of the Gaussian that blurred it.

    The Laplacian of Gaussian of a blurred edge falls with 1 / (sigma^2 + its own scale^2); the
    ratio of its strongest answers at two scales gives sigma. box: y0, y1, x0, x1.
    """
    y0, y1, x0, x1 = box
    light = (picture[y0:y1, x0:x1].astype(np.float32) @ LUMA).astype(np.float32)
    fine, coarse = (
        float(np.percentile(np.abs(cv2.Laplacian(cv2.GaussianBlur(light, (0, 0), s), -1)), 98))
        for s in (_FINE, _COARSE)
    )
    if coarse < 0.5:  # nothing is seen, sharp or not
        return 0.0
    ratio = max(fine / coarse, 1.01)
    squared = (_COARSE**2 - ratio * _FINE**2) / (ratio - 1)
    return float(np.sqrt(np.clip(squared, 0, _SOFTEST**2)))


def _samples(picture: Picture) -> Floats:
    """Evenly spaced pixels of a picture, (N, 3)."""
    pixels = picture.reshape(-1, 3)
    return np.asarray(pixels[:: max(1, len(pixels) // _SAMPLES)], np.float32)


def _cast(skin: Floats) -> Floats:
    """Return the factors of a light that gives cheeks this colour, 1 for usual ones: (3,)."""
    red, green, blue = np.log(np.maximum(skin, 4))
    warm = _beyond(float(red - blue) - _WARM, _WARM_SPREAD) / 2
    green_cast = _beyond(float(green - (red + blue) / 2) - _GREEN, _GREEN_SPREAD)
    return np.exp(np.array([warm, green_cast, -warm], np.float32))


def _beyond(value: float, spread: float) -> float:
    return float(np.sign(value)) * max(abs(value) - spread, 0.0) * _CAST


def _monochrome(part: NDArray[np.float32], light: Floats) -> Floats:
    """Return the mean colour for each brightness, (256, 3): a quadratic of it, black at black.

    Beyond the brightness that the pixels have, the ratios of the channels stay.
    """
    every = np.arange(256, dtype=np.float32)
    if (part == part[:, :1]).all():
        return np.repeat(every[:, None], 3, 1)
    x = light / 255
    solved = np.linalg.lstsq(np.stack([x, x * x], 1), part / 255, rcond=None)[0]
    known = np.clip(every, *np.percentile(light, [2, 98])).clip(1) / 255
    ratio = (np.stack([known, known * known], 1) @ solved).clip(0) / known[:, None]
    ratio /= np.maximum(ratio @ LUMA, 1e-3)[:, None]
    return np.asarray((every[:, None] * ratio).clip(0, 255), np.float32)
