"""A small made-up corpus: faces of noise whose mouth opens as a known curve says, sound, words."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from talkingface.audio import SAMPLES_PER_FRAME, SpeechSpec
from talkingface.data.clip import UNSEEN
from talkingface.data.dataset import (
    Batch,
    Cache,
    ClipInfo,
    SampleConfig,
    clip_pool,
    sample_batch,
)
from talkingface.faces import mesh_from_landmarks
from talkingface.geometry import CropSpec
from talkingface.landmarks import INNER_BOTTOM, INNER_TOP
from talkingface.types import Array

Bytes = NDArray[np.uint8]
FRAMES = 30
LEVELS = 30
WORDS = (
    *(("bin", 0.1, 0.3), ("blue", 0.3, 0.5), ("at", 0.5, 0.7)),
    *(("f", 0.7, 0.9), ("two", 0.9, 1.1)),
)
# (key, speaker, split)
CLIPS = (
    *((f"s1_train{n}", "s1", "train") for n in range(6)),
    ("s1_val0", "s1", "val"),
    *((f"s1_test{n}", "s1", "test") for n in range(3)),
    ("s4_a", "s4", UNSEEN),
    ("s4_b", "s4", UNSEEN),
    ("s26_a", "s26", UNSEEN),
)


def curve(index: int) -> Array:
    """(FRAMES,): how far clip `index` opens its mouth, in pixels at 128."""
    time = np.arange(FRAMES) / 25
    return np.asarray(4 + 3 * np.sin(2 * np.pi * (1.1 + 0.37 * index) * time + index))


def write_cache(folder: Path, portrait: Bytes | None = None) -> Cache:
    """The corpus as a training cache: a dark spot as tall as the mouth is open, on a rough face.

    The first pixel of a frame says the gap: red, in LEVELS per pixel. portrait: (128, 128, 3), one
    picture for all frames instead.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    frames: list[Bytes] = []
    points: list[Array] = []
    sound: list[NDArray[np.int16]] = []
    for index, (key, speaker, split) in enumerate((*CLIPS, ("portrait", "p", "train"))):
        still = key == "portrait"
        gaps = np.zeros(1) if still else curve(index)
        start = sum(len(f) for f in frames)
        words = [] if still or speaker != "s1" else WORDS
        row = {"key": key, "speaker": speaker, "split": split, "start": start}
        rows.append({**row, "frames": len(gaps), "words": words, "silent": still})
        frames.append(np.stack([_face(index, g) if portrait is None else portrait for g in gaps]))
        points.append(np.stack([landmarks(gap) for gap in gaps]) / 128)
        noise = np.random.default_rng(index).normal(0, 1, len(gaps) * SAMPLES_PER_FRAME)
        sound.append((noise * np.repeat(gaps, SAMPLES_PER_FRAME) * 500).astype(np.int16))
    (folder / "clips.json").write_text(json.dumps(rows))
    np.save(folder / "frames.npy", np.concatenate(frames))
    marks = np.concatenate(points).astype(np.float32)
    np.save(folder / "landmarks.npy", marks)
    np.save(folder / "mesh.npy", mesh_from_landmarks(torch.from_numpy(marks)).numpy())
    np.save(folder / "sound.npy", np.concatenate(sound))
    return Cache(folder)


def _face(index: int, gap: float) -> Bytes:
    rough = np.random.default_rng(index).uniform(60, 220, (16, 16, 3)).astype(np.float32)
    face = cv2.resize(rough, (128, 128), interpolation=cv2.INTER_CUBIC)
    cv2.ellipse(face, ((64, 84), (18, 2 + 2 * float(gap)), 0), (30, 10, 10), -1, cv2.LINE_AA)
    face[0, 0] = LEVELS * gap
    return np.clip(np.rint(face), 0, 255).astype(np.uint8)


def landmarks(gap: float) -> Array:
    """(68, 2) pixels at 128: the mean face with its inner lips this far apart."""
    points = CropSpec().template()
    points[INNER_TOP] = 64, 84 - gap / 2
    points[INNER_BOTTOM] = 64, 84 + gap / 2
    return points


def draw_batch(
    cache: Cache,
    clips: list[ClipInfo],
    spec: SpeechSpec,
    config: SampleConfig,
    seed: tuple[int, ...],
) -> Batch:
    """The batch of this seed, of all of these clips, on the CPU."""
    return sample_batch(cache, clip_pool(cache, clips, config), spec, config, seed).to("cpu")
