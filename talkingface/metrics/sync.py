"""Measure synchrony of lips and sound by a self-trained embedding (`models/measures/sync.py`).

The distance of two windows is 1 - cosine: 0 is equal, 1 unrelated, 2 opposite. The units are our
own: they compare videos measured with the same weights, and are not LSE-D or LSE-C.
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
from talkingface.geometry import interpolate
from talkingface.models.measures.sync import SyncNet, mouth_windows, smooth
from talkingface.types import Array

REACH = 15  # frames (0.6 s) that picture and sound are shifted against each other, each way
APART = 2  # frames: nearer neighbours do not compete in `retrieval`


@dataclass(frozen=True)
class Sync:
    """Synchrony of a clip, from the mean distance over shifts; all NaN if it is undefined.

    curve: the mean distance at offsets -reach ... reach. offset: frames by which the picture is
    late (negative: early), at the curve's minimum. confidence: the curve's median minus its
    minimum; near 0 if no shift fits better than another, as for a still picture. distance: the
    curve at offset 0, the clip as it is.
    """

    offset: float
    confidence: float
    distance: float
    curve: tuple[float, ...]


def evaluate_sync(
    net: SyncNet, frames: NDArray[np.uint8], landmarks: NDArray[Any], samples: Tensor
) -> Sync:
    """Measure offset and confidence of a video and its sound.

    frames: (T, S, S, 3) uint8 crops at 25 fps; landmarks: (T, 68, 2) pixels, detected on these
    frames, NaN if the face was lost; samples: (N,) at 16 kHz, sample 0 at the start of frame 0.
    """
    pictures = embed_video(net, frames, landmarks)
    sounds = embed_sound(net, samples, len(frames))
    return summarise(offset_curve(pictures, sounds, net.config.around))


@torch.inference_mode()
def embed_video(net: SyncNet, frames: NDArray[np.uint8], landmarks: NDArray[Any]) -> Array:
    """Embed the windows of a video: (T - frames + 1, size), window i around frame i + around.

    The mouth's box follows the running mean of the landmarks, interpolated where a face was lost.
    Returns (0, size) if no face was found at all. Arguments as `evaluate_sync`.
    """
    if len(landmarks) != len(frames) or landmarks.shape[1:] != (68, 2):
        raise ValueError(f"{len(frames)} frames, landmarks {landmarks.shape}: expected (T, 68, 2)")
    found = np.isfinite(landmarks).all((1, 2))
    if not found.any() or len(frames) < net.config.frames:
        return np.zeros((0, net.config.size))
    filled = interpolate(landmarks[found], found)
    place = torch.from_numpy(filled / frames.shape[1]).float()
    device = next(net.parameters()).device
    pictures = video.to_tensor(frames).to(device)
    mouths = mouth_windows(pictures, smooth(place[None])[0].to(device), net.config)
    return np.asarray(net.encode_video(mouths).cpu().double().numpy())


@torch.inference_mode()
def embed_sound(net: SyncNet, samples: Tensor, frames: int) -> Array:
    """Embed the windows of a sound (N,): (frames, size), window t around video frame t."""
    device = next(net.parameters()).device
    speech = windows(samples.float(), net.config.speech, frames)
    return np.asarray(net.encode_audio(speech.to(device)).cpu().double().numpy())


def offset_curve(
    pictures: NDArray[Any], sounds: NDArray[Any], around: int, reach: int = REACH
) -> Array:
    """Return the mean 1 - cosine of picture and sound at offsets of -reach ... reach frames.

    pictures: (W, D) of length 1, window i around frame i + around; sounds: (T, D), window t around
    frame t. At offset k the picture at t is compared with the sound at t - k, over all t that have
    both. reach is at most half the number of windows, so that every mean is over half of them or
    more.
    """
    reach = min(reach, len(pictures) // 2)
    products = np.asarray(pictures, np.float64) @ np.asarray(sounds, np.float64).T
    if products.size == 0:
        return np.zeros(0)
    # on the k-th diagonal of (W, T), the sound is k frames after the start of the window
    offsets = range(-reach, reach + 1)
    return np.array([1 - np.diagonal(products, around - k).mean() for k in offsets])


def summarise(curve: NDArray[Any]) -> Sync:
    """Return offset, confidence and distance of a curve of `offset_curve`; NaN if it is empty."""
    if len(curve) == 0:
        return Sync(math.nan, math.nan, math.nan, ())
    middle, best = len(curve) // 2, int(np.argmin(curve))
    return Sync(
        offset=float(best - middle),
        confidence=float(np.median(curve) - curve[best]),
        distance=float(curve[middle]),
        curve=tuple(float(value) for value in curve),
    )


def retrieval(
    pictures: NDArray[Any], sounds: NDArray[Any], around: int, apart: int = APART
) -> float:
    """Return the share of a clip's windows whose own sound is nearer than every other.

    Sounds less than `apart` frames away do not compete. A tie is wrong. Arguments as
    `offset_curve`; NaN for no windows.
    """
    if len(pictures) == 0:
        return math.nan
    products = np.asarray(pictures, np.float64) @ np.asarray(sounds, np.float64).T
    rows = np.arange(len(pictures))
    own = products[rows, rows + around]
    near = np.abs(rows[:, None] + around - np.arange(len(sounds))) < apart
    rivals = np.where(near, -np.inf, products).max(1)
    return float((own > rivals).mean())
