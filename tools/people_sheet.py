"""Real above generated for several people, one sheet to look at.

python tools/people_sheet.py CACHE MODEL OUT.png [--keys s1_bbwg3a,s4_bgbu2a] [--mouth]

Each row is one clip: every third frame while somebody speaks, the identity picture is the clip's
first frame. MODEL is a name of `talkingface models` or a weights file. --mouth enlarges the mouth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from talkingface import picture, video, weights
from talkingface.contract import Portrait
from talkingface.data.dataset import Cache, ClipInfo, clip_speech
from talkingface.data.shards import open_cache

PEOPLE = ("s1", "s4", "s26", "s2", "s25", "s34")
SHOWN = range(12, 60, 4)


def choose(cache: Cache, keys: str | None) -> list[ClipInfo]:
    """The named clips, or the last one of each of six people (of s1: of its unseen sentences)."""
    if keys is not None:
        return [clip for key in keys.split(",") for clip in cache.clips if clip.key == key]
    fit = [c for c in cache.clips if c.speaker != "s1" or c.split == "test"]
    return [[c for c in fit if c.speaker == person][-1] for person in PEOPLE]


def generate(cache: Cache, clip: ClipInfo, model: torch.nn.Module) -> np.ndarray:
    """(T, S, S, 3) uint8 from the clip's sound and its first frame."""
    image = video.to_tensor(np.array(cache.frames[clip.start : clip.start + 1]))
    landmarks = torch.from_numpy(cache.landmarks[clip.start : clip.start + 1].copy())
    speech = clip_speech(cache, clip, model.config.speech)[None]
    with torch.inference_mode():
        made, _ = model(model.encode(Portrait(image, landmarks)), speech)
    return video.to_uint8(made.frames[0])


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--keys")
    parser.add_argument("--mouth", action="store_true")
    options = parser.parse_args()
    cache, model = open_cache(options.cache), weights.load(options.model)
    part = (slice(60, 124), slice(32, 96)) if options.mouth else (slice(None), slice(None))
    rows, labels = [], []
    for clip in choose(cache, options.keys):
        real = cache.frames[clip.start : clip.start + clip.frames]
        said = " ".join(word for word, _, _ in clip.words) or clip.key
        for frames, what in ((real, "real"), (generate(cache, clip, model), "generated")):
            rows.append([np.ascontiguousarray(frames[t][part]) for t in SHOWN])
            labels.append(f"{clip.speaker} {said}: {what}")
    picture.write_png(options.out, video.contact_sheet(rows, labels), overwrite=True)


if __name__ == "__main__":
    main()
