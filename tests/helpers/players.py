"""Generators and a detector whose output is known, for the corpus of `corpus.write_cache`."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers.corpus import LEVELS, landmarks
from talkingface import video
from talkingface.audio import SpeechSpec
from talkingface.contract import Generated, Portrait
from talkingface.data.dataset import Cache, ClipInfo
from talkingface.geometry import CropSpec
from talkingface.landmarks import INNER_BOTTOM, INNER_TOP


class Player:
    """A generator that returns given frames, (T, 128, 128, 3) uint8, for any input."""

    is_autoregressive, samples_head, moving = False, False, None

    def __init__(self, frames: np.ndarray) -> None:
        self.config = SimpleNamespace(speech=SpeechSpec(), crop=CropSpec())
        self.frames = video.to_tensor(frames)

    def encode(self, portrait: Portrait) -> Portrait:
        return portrait

    def __call__(self, identity: Any, speech: Tensor, state: Any = None) -> tuple[Generated, Any]:
        begin, many = state or 0, speech.shape[1]
        return Generated(self.frames[None, begin : begin + many]), begin + many


class Loudness(Player):
    """A generator that opens its mouth (the first pixel) with the level of the speech."""

    def __call__(self, identity: Any, speech: Tensor, state: Any = None) -> tuple[Generated, Any]:
        generated, state = super().__call__(identity, speech, state)
        frames = generated.frames.clone()
        frames[..., 0, 0] = (speech.std((2, 3))[..., None] / 20).clamp(0, 1)
        return Generated(frames), state


class Drawer(Player):
    """Draws landmarks it is given (the gap of the lips in the first pixel), and keeps them.

    From sound it plays its frames, and predicts the landmarks of half their gap.
    """

    def __init__(self, frames: np.ndarray) -> None:
        super().__init__(frames)
        self.given: list[np.ndarray] = []

    def __call__(self, identity: Any, speech: Tensor, state: Any = None) -> tuple[Generated, Any]:
        generated, state = super().__call__(identity, speech, state)
        gaps = video.to_uint8(generated.frames[0])[:, 0, 0, 0] / LEVELS
        predicted = np.stack([landmarks(gap / 2) for gap in gaps]) / 128
        return Generated(generated.frames, landmarks=torch.from_numpy(predicted)[None]), state

    def draw(
        self, identity: Portrait, landmarks: Tensor, state: Any = None
    ) -> tuple[Generated, Any]:
        self.given.append(landmarks[0].numpy())
        frames = identity.image[:, None].repeat(1, landmarks.shape[1], 1, 1, 1)
        gaps = 128 * (landmarks[:, :, INNER_BOTTOM] - landmarks[:, :, INNER_TOP]).norm(dim=-1)
        frames[..., 0, 0] = (gaps[..., None] * LEVELS / 127.5 - 1).clamp(-1, 1)
        return Generated(frames, landmarks=landmarks), state


def read_pixel(frames: np.ndarray) -> np.ndarray:
    """A detector that is exact: the gap is in the first pixel; blue 255 there is a lost face."""
    found = np.stack([landmarks(float(frame[0, 0, 0]) / LEVELS) for frame in frames])
    found[frames[:, 0, 0, 2] == 255] = math.nan
    return found


def clip_of(cache: Cache, key: str) -> ClipInfo:
    return next(c for c in cache.clips if c.key == key)


def frames_of(cache: Cache, clip: ClipInfo) -> np.ndarray:
    return np.array(cache.frames[clip.start : clip.start + clip.frames])
