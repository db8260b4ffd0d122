"""ARKit's 52 blendshapes: conversion of a `Motion` to scores over time, and back.

    to_arkit    expression e -> scores s of 22 mouth shapes: the least squares of
                |lips(s B) - lips(e)|^2 + STAY |s - e A|^2 with 0 <= s <= 1
    from_arkit  e = s B

A and B are ridge regressions on the scores of a teacher, MediaPipe's blendshape model, over GRID
and synthetic portraits (`tools/make_blendshapes.py`). Brows, lids and gaze are proportional to
their scores. Left and right of ARKit are the person's own: eyeBlinkLeft is the picture's right eye.
Scores are relative to a neutral face, as expressions are; a `Motion`'s brows, lids and gaze are
relative to the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from talkingface.controls import EXPRESSIONS
from talkingface.errors import BadMotion
from talkingface.motion import HEAD, Motion
from talkingface.types import Floats

FILE = Path(__file__).with_name("blendshapes.safetensors")

_EYE = ("Blink", "LookDown", "LookIn", "LookOut", "LookUp", "Squint", "Wide")

# Apple's names in the order of ARFaceAnchor.BlendShapeLocation.
NAMES = (
    *(f"eye{name}Left" for name in _EYE),
    *(f"eye{name}Right" for name in _EYE),
    "jawForward", "jawLeft", "jawRight", "jawOpen",
    "mouthClose", "mouthFunnel", "mouthPucker", "mouthLeft", "mouthRight",
    "mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight",
    "mouthDimpleLeft", "mouthDimpleRight", "mouthStretchLeft", "mouthStretchRight",
    "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
    "mouthPressLeft", "mouthPressRight", "mouthLowerDownLeft", "mouthLowerDownRight",
    "mouthUpperUpLeft", "mouthUpperUpRight",
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight",
    "cheekPuff", "cheekSquintLeft", "cheekSquintRight", "noseSneerLeft", "noseSneerRight",
    "tongueOut",
)  # fmt: skip

# Always zero in an export, and without effect in an import: the teacher never shows them (tongue,
# cheeks, nose, jaw and mouth to the side) or a `Motion` does not tell them from a blink (squint).
UNKNOWN = (
    "eyeSquintLeft", "eyeSquintRight", "jawForward", "jawLeft", "jawRight", "mouthLeft",
    "mouthRight", "cheekPuff", "cheekSquintLeft", "cheekSquintRight", "noseSneerLeft",
    "noseSneerRight", "tongueOut",
)  # fmt: skip

# The shapes that an expression is made of, in the order of the file's rows.
MOUTH = tuple(name for name in NAMES if name.startswith(("jaw", "mouth")) and name not in UNKNOWN)

BROWS = ("browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight")

# Gaze to the picture's right is to the person's left.
LOOK_RIGHT, LOOK_LEFT = ("eyeLookOutLeft", "eyeLookInRight"), ("eyeLookInLeft", "eyeLookOutRight")

# Head rotation beside the shapes, as trackers write it: radians.
HEAD_NAMES = ("headYaw", "headPitch", "headRoll")

# Interocular distances that the inner and outer ends of the brows rise at score 1 of browInnerUp
# and browOuterUp, and sink at score 1 of browDown. Measured on meshes of portraits and GRID.
RAISE = (0.11, 0.12)
LOWER = (0.12, 0.10)

# What score 1 of eyeWide adds to the opening of the lids, as a share of it; widest of portraits.
WIDE = 0.6

# Eye widths that the irises move at score 1 of eyeLookIn, Out, Up and Down.
LOOK = 0.17

STAY = 2e-3  # weight of staying with the scores that the teacher would give
_REST_SHARE, _REST_FRAMES = 0.15, 5
_STEPS = 60  # of the projected gradient


@dataclass(frozen=True)
class _Maps:
    """The file. to_mouth: (K, 22), A; from_mouth: (22, K), B; lips: (K, L), how expressions move
    the lips' points and gaps; expression (N, K), brows (N, 2), lids (N, 2), of EXPRESSIONS."""

    to_mouth: Floats
    from_mouth: Floats
    lips: Floats
    expression: Floats
    brows: Floats
    lids: Floats


@cache
def _maps() -> _Maps:
    tensors = load_file(FILE)
    names = ("to_mouth", "from_mouth", "lips", "expression", "brows", "lids")
    return _Maps(*(tensors[name].astype(np.float32) for name in names))


def to_arkit(motion: Motion) -> Floats:
    """The scores of a motion: (T, 52) in [0, 1], columns as NAMES.

    Raises BadMotion for expressions of another space than the pretrained one.
    """
    out = np.zeros((len(motion), len(NAMES)), np.float32)
    _put(out, MOUTH, _mouth_scores(motion.expression))
    _put(out, BROWS, _brow_scores(motion.brows))
    lids = motion.lids[:, ::-1]  # the person's left eye is the picture's right one
    _put(out, _both("eyeBlink"), lids)
    _put(out, _both("eyeWide"), -lids / WIDE)
    right, down = motion.gaze[:, :1] / LOOK, motion.gaze[:, 1:] / LOOK
    _put(out, LOOK_RIGHT, right)
    _put(out, LOOK_LEFT, -right)
    _put(out, _both("eyeLookDown"), down)
    _put(out, _both("eyeLookUp"), -down)
    return out


def from_arkit(scores: Floats, head: Floats | None = None, neutral: Floats | None = None) -> Motion:
    """The motion of scores (T, 52), columns as NAMES; numbers beyond [0, 1] are clamped.

    head: (T, 3), HEAD_NAMES in radians; without it the head stands still. neutral: (52,), scores of
    the same face at rest, which are subtracted. MediaPipe's tracker needs them, see `at_rest`: it
    gives some neutral faces 0.5 of a shape.
    """
    scores = np.clip(np.nan_to_num(np.asarray(scores, np.float32)), 0, 1)
    if neutral is not None:
        scores = scores - np.asarray(neutral, np.float32)
    motion = Motion.still(_take(scores, MOUTH) @ _maps().from_mouth)
    lids = _take(scores, _both("eyeBlink")) - WIDE * _take(scores, _both("eyeWide"))
    right = _take(scores, LOOK_RIGHT).mean(1) - _take(scores, LOOK_LEFT).mean(1)
    down = _take(scores, _both("eyeLookDown")).mean(1) - _take(scores, _both("eyeLookUp")).mean(1)
    return Motion(
        motion.expression,
        motion.head if head is None else _head(head),
        _brows(_take(scores, BROWS)),
        np.ascontiguousarray(lids[:, ::-1]),
        np.asarray(LOOK * np.stack([right, down], 1), np.float32),
    )


def at_rest(scores: Floats) -> Floats:
    """Scores of a face at rest (52,), found in speech (T, 52).

    The median of the 15 % of its frames, 5 at least, in which the mouth is most closed.
    """
    gap = (_take(scores, ("jawOpen",)) - _take(scores, ("mouthClose",)))[:, 0]
    calm = np.argsort(gap, kind="stable")[: max(_REST_FRAMES, int(_REST_SHARE * len(gap)))]
    return np.asarray(np.median(scores[calm], axis=0), np.float32)


def to_head(motion: Motion) -> Floats:
    """The rotation of the head: (T, 3), HEAD_NAMES in radians.

    As in ARKit's coordinates of a face (x to the picture's right, y up, z to the camera): yaw
    positive to the picture's right, pitch positive down, roll positive anticlockwise.
    """
    pitch, yaw, roll = motion.head[:, :3].T
    return np.stack([yaw, pitch, -roll], 1).astype(np.float32)


def _head(rotation: Floats) -> Floats:
    """HEAD_NAMES (T, 3) -> `motion.HEAD` (T, 6)."""
    yaw, pitch, roll = np.asarray(rotation, np.float32).T
    out = np.zeros((len(yaw), len(HEAD)), np.float32)
    out[:, :3] = np.stack([pitch, yaw, -roll], 1)
    return out


def _mouth_scores(expression: Floats) -> Floats:
    """Expressions (T, K) -> scores of MOUTH (T, 22), by accelerated projected gradient.

    Beck and Teboulle 2009, "A fast iterative shrinkage-thresholding algorithm", Sec. 4.
    """
    maps = _maps()
    if expression.shape[1] != len(maps.to_mouth):
        raise BadMotion(
            f"an expression of {expression.shape[1]} coefficients has no ARKit scores: expected "
            f"the {len(maps.to_mouth)} of the pretrained models"
        )
    shapes = (maps.from_mouth @ maps.lips).astype(np.float64)
    hessian = shapes @ shapes.T + STAY * np.eye(len(shapes))
    start = np.clip(expression @ maps.to_mouth, 0, 1).astype(np.float64)
    target = (expression @ maps.lips) @ shapes.T + STAY * start
    step = 1 / np.linalg.eigvalsh(hessian)[-1]
    found = ahead = start
    momentum = 1.0
    for _ in range(_STEPS):
        last, found = found, np.clip(ahead - step * (ahead @ hessian - target), 0, 1)
        before, momentum = momentum, (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = found + (before - 1) / momentum * (found - last)
    return np.asarray(found, np.float32)


def _brow_scores(brows: Floats) -> Floats:
    """Heights of the inner and outer ends (T, 2) -> scores of BROWS (T, 5)."""
    down = np.clip((-brows / np.array(LOWER)).max(1), 0, 1)
    inner, outer = ((brows + down[:, None] * np.array(LOWER)) / np.array(RAISE)).T
    return np.asarray(np.stack([down, down, inner, outer, outer], 1), np.float32)


def _brows(scores: Floats) -> Floats:
    """Scores of BROWS (T, 5) -> heights of the inner and outer ends (T, 2)."""
    down = scores[:, :2].mean(1, keepdims=True)
    up = np.stack([scores[:, 2], scores[:, 3:].mean(1)], 1)
    return np.asarray(up * np.array(RAISE) - down * np.array(LOWER), np.float32)


def _both(name: str) -> tuple[str, str]:
    return f"{name}Left", f"{name}Right"


def _columns(names: Sequence[str]) -> list[int]:
    return [NAMES.index(name) for name in names]


def _put(out: Floats, names: Sequence[str], values: Floats) -> None:
    out[:, _columns(names)] = np.clip(values, 0, 1)


def _take(scores: Floats, names: Sequence[str]) -> Floats:
    return scores[:, _columns(names)]


def named(name: str) -> tuple[Floats, Floats, Floats]:
    """Return an expression of `controls.EXPRESSIONS` at strength 1: (K,), brows (2,), lids (2,).

    Raises KeyError for another name.
    """
    if name not in EXPRESSIONS:
        raise KeyError(name)
    maps, row = _maps(), EXPRESSIONS.index(name)
    return maps.expression[row], maps.brows[row], maps.lids[row]
