"""How well lips and sound agree in time, by a self-trained embedding (`models/sync.py`).

The distance of two windows is 1 - cosine: 0 together, 1 unrelated, 2 opposite. These are our own
units: they compare videos that the same weights measured, and are no LSE-D or LSE-C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talkingface import video
from talkingface.audio import windows
from talkingface.models.sync import SyncNet, mouth_windows, steady

Array = NDArray[np.float64]
REACH = 15  # frames (0.6 s) that picture and sound are shifted against each other, each way
APART = 2  # frames: neighbours nearer than this are no wrong answer


@dataclass(frozen=True)
class Sync:
    """What the mean distance over shifts says of a clip; all NaN where nothing could be measured.

    offset: frames by which the picture is late (negative: early), where the curve is lowest.
    confidence: its median minus its minimum; near 0 where no shift fits better than another, as
    for a still picture. distance: its value at offset 0, the clip as it is played. curve: the mean
    distance at offsets -reach ... reach.
    """

    offset: float
    confidence: float
    distance: float
    curve: tuple[float, ...]


def measure(
    net: SyncNet, frames: NDArray[np.uint8], landmarks: NDArray[Any], samples: Tensor
) -> Sync:
    """Offset and confidence of a video and its sound.

    frames: (T, S, S, 3) uint8 crops at 25 fps; landmarks: (T, 68, 2) pixels, found on these very
    frames, NaN where the face was lost; samples: (N,) at 16 kHz, sample 0 at the start of frame 0.
    """
    sights = see(net, frames, landmarks)
    return read(offset_curve(sights, hear(net, samples, len(frames)), net.config.around))


@torch.inference_mode()
def see(net: SyncNet, frames: NDArray[np.uint8], landmarks: NDArray[Any]) -> Array:
    """The windows of a video as (T - frames + 1, size), window i around frame i + around.

    The box follows the landmarks' running mean, and stands in between where a face was lost. None,
    (0, size), where no face was found at all. Arguments as `measure`.
    """
    if len(landmarks) != len(frames) or landmarks.shape[1:] != (68, 2):
        raise ValueError(f"{len(frames)} frames, landmarks {landmarks.shape}: expected (T, 68, 2)")
    found = np.isfinite(landmarks).all((1, 2))
    if not found.any() or len(frames) < net.config.frames:
        return np.zeros((0, net.config.size))
    times = np.arange(len(frames))
    flat = landmarks.reshape(len(frames), -1)
    filled = np.stack([np.interp(times, times[found], track[found]) for track in flat.T], -1)
    place = torch.from_numpy(filled.reshape(landmarks.shape) / frames.shape[1]).float()
    device = next(net.parameters()).device
    pictures = video.to_tensor(frames).to(device)
    mouths = mouth_windows(pictures, steady(place[None])[0].to(device), net.config)
    return np.asarray(net.see(mouths).cpu().double().numpy())


@torch.inference_mode()
def hear(net: SyncNet, samples: Tensor, frames: int) -> Array:
    """The windows of a sound (N,) as (frames, size), window t around video frame t."""
    device = next(net.parameters()).device
    speech = windows(samples.float(), net.config.speech, frames)
    return np.asarray(net.hear(speech.to(device)).cpu().double().numpy())


def offset_curve(
    sights: NDArray[Any], sounds: NDArray[Any], around: int, reach: int = REACH
) -> Array:
    """Mean 1 - cosine of picture and sound for the picture late by -reach ... reach frames.

    sights: (W, D) of length 1, window i around frame i + around; sounds: (T, D), window t around
    frame t. At offset k the picture at t is compared with the sound at t - k, over all t that have
    both. reach is cut to half the windows, so that every mean is over half of them or more.
    """
    reach = min(reach, len(sights) // 2)
    products = np.asarray(sights, np.float64) @ np.asarray(sounds, np.float64).T
    if products.size == 0:
        return np.zeros(0)
    # on the k-th diagonal of (W, T), the sound is k frames after the start of the window
    offsets = range(-reach, reach + 1)
    return np.array([1 - np.diagonal(products, around - k).mean() for k in offsets])


def read(curve: NDArray[Any]) -> Sync:
    """A curve of `offset_curve` (2 reach + 1,) in three numbers; all NaN for an empty one."""
    if len(curve) == 0:
        return Sync(math.nan, math.nan, math.nan, ())
    middle, best = len(curve) // 2, int(np.argmin(curve))
    return Sync(
        offset=float(best - middle),
        confidence=float(np.median(curve) - curve[best]),
        distance=float(curve[middle]),
        curve=tuple(float(value) for value in curve),
    )


def retrieval(sights: NDArray[Any], sounds: NDArray[Any], around: int, apart: int = APART) -> float:
    """Share of a clip's windows whose own sound is nearer than every other of the clip.

    Sounds less than `apart` frames away do not compete. A tie is wrong. Arguments as
    `offset_curve`; NaN for no windows.
    """
    if len(sights) == 0:
        return math.nan
    products = np.asarray(sights, np.float64) @ np.asarray(sounds, np.float64).T
    rows = np.arange(len(sights))
    own = products[rows, rows + around]
    near = np.abs(rows[:, None] + around - np.arange(len(sounds))) < apart
    rivals = np.where(near, -np.inf, products).max(1)
    return float((own > rivals).mean())
