"""What a straight line can read of the mouth's opening from what a model hears.

Ridge regression from the features of a window to the aperture, on augmented training clips; then on
unseen sentences and on people never seen. Closed form: seconds, no luck of a seed, nothing that is
not yet trained to the end. It ranks what is heard, not generators.

    python tools/linear_hearing.py CACHE cran,cran-mfcc,cran-raw,cran-phones

Names are presets (front ends as they begin) or weights files (front ends as they were learned).
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from talkingface import models, weights
from talkingface.audio import HOPS_PER_FRAME
from talkingface.data.augment import NO_AUGMENTATION, AugmentConfig, augment_speech
from talkingface.data.dataset import Cache, ClipInfo
from talkingface.evaluation import intervals
from talkingface.metrics.lips import amplitude_ratio, correlation
from talkingface.training.loop import keep_memory

Floats = NDArray[np.float32]
MOST = 120  # training clips of a speaker: the others of s1 tell little more
RIDGES = (1e2, 1e3, 1e4, 1e5)
GROUPS = (("val", None), ("stranger", None), ("stranger", "s4"), ("stranger", "s26"))


def features(model: Any, cache: Cache, clip: ClipInfo, augment: AugmentConfig) -> Floats:
    """(frames, numbers): every second hop of what the audio encoder would take."""
    spec, rng = model.config.speech, np.random.default_rng([len(clip.key), clip.start])
    count = (clip.frames - 1) * 640 + spec.samples
    hops = augment_speech(cache.samples(clip, spec.first_sample, count), spec, rng, augment)
    windows = hops.unfold(-2, spec.hops, HOPS_PER_FRAME).transpose(-1, -2)
    with torch.no_grad():
        heard: Floats = model.hearing(windows[None])[0, :, ::2].flatten(1).numpy()
    return heard


def opening(cache: Cache, clip: ClipInfo) -> Floats:
    """(frames,) the aperture in pixels at 128, from the clip's own median."""
    gap = 128 * cache.aperture(clip)
    return np.asarray(gap - np.median(gap), dtype=np.float32)


def read(model: Any, cache: Cache) -> list[str]:
    """Correlation and amplitude for each of GROUPS, each with its best ridge: all alike a little
    too good."""
    said: Counter[str] = Counter()
    chosen = []
    for clip in cache.split("train")[::5] + cache.split("train"):
        if not clip.silent and said[clip.speaker] < MOST and clip not in chosen:
            said[clip.speaker] += 1
            chosen.append(clip)
    x = np.concatenate([features(model, cache, clip, AugmentConfig()) for clip in chosen])
    y = np.concatenate([opening(cache, clip) for clip in chosen])
    w = np.concatenate([np.full(c.frames, said[c.speaker] ** -0.5, np.float32) for c in chosen])
    mean, deviation, rest = x.mean(0), x.std(0) + 1e-6, np.average(y, weights=w)
    x = (x - mean) / deviation
    square = (x * w[:, None]).T @ x
    known = {
        clip.key: (features(model, cache, clip, NO_AUGMENTATION) - mean) / deviation
        for split, speaker in GROUPS[:2]
        for clip in cache.split(split)
    }
    found = []
    for ridge in RIDGES:
        line = np.linalg.solve(square + ridge * np.eye(len(square)), x.T @ (w * (y - rest)))
        found.append([_measured(cache, known, line, *group) for group in GROUPS])
    return [
        max(column, key=lambda cell: float(cell.split()[0])) for column in zip(*found, strict=True)
    ]


def _measured(
    cache: Cache, known: dict[str, Floats], line: Floats, split: str, speaker: str | None
) -> str:
    clips = [c for c in cache.split(split) if speaker in (None, c.speaker)]
    pairs = [(known[c.key] @ line, opening(cache, c)) for c in clips]
    follows = np.array([correlation(own, true) for own, true in pairs])
    low, high = intervals.interval(intervals.ratio(follows))
    wide = np.mean([amplitude_ratio(own, true) for own, true in pairs])
    return f"{follows.mean():.3f} [{low:.3f}, {high:.3f}] / {wide:.2f}"


def main() -> None:
    """Print a row of Markdown per name."""
    keep_memory()
    torch.set_num_threads(1)
    cache = Cache(Path(sys.argv[1]))
    print("| heard | s1, unseen sentences | strangers | s4 | s26 |\n|---|---|---|---|---|")
    for name in sys.argv[2].split(","):
        known = name in models.PRESETS
        model = models.build(models.PRESETS[name]).eval() if known else weights.load(Path(name))
        print(f"| {Path(name).name} | {' | '.join(read(model, cache))} |", flush=True)


if __name__ == "__main__":
    main()
