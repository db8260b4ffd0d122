"""Development tool: D_l's three rows (`talkingface train table reading`) in minutes.

    python tools/measure_reading.py SHARDS runs/none runs/word runs/sentence --clips 30

Without looking for faces in what was drawn: the judge's box is where the real mouth is, and lips
are those that the model means to draw. `talkingface evaluate --preset reading` measures everything
on finished frames. Intervals: 95 %, over clips, and of each row minus the first one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from talkingface import video, weights
from talkingface.data.dataset import Cache, ClipInfo
from talkingface.data.shards import open_cache
from talkingface.evaluation.bench import Bench
from talkingface.evaluation.intervals import difference, interval, ratio
from talkingface.evaluation.run import speaking_clips, spread
from talkingface.metrics.image import psnr, sharpness
from talkingface.metrics.lips import correlation, mouth_box
from talkingface.training.generator import lip_gap
from talkingface.training.loop import keep_memory
from talkingface.training.reading import word_logits, words_of


def known(cache: Cache, model: Any, judge: Any, clip: ClipInfo) -> dict[str, float]:
    """One clip's numbers; words are left out where their times are unknown."""
    rows = slice(clip.start, clip.start + clip.frames)
    real, place = np.array(cache.frames[rows]), cache.landmarks[rows]
    bench = Bench(cache)
    found: dict[str, float] = {}
    made = bench.generate(model, clip, clip) if model is not None else None
    frames = real if made is None else made.frames
    words = words_of(clip, cache.word_index)
    if words and clip.split == "val":
        points = torch.from_numpy(place.copy())
        logits = word_logits(judge, video.to_tensor(frames), points, words)
        right = logits.argmax(1) == torch.tensor([word.index for word in words])
        found["words read, %"] = 100 * float(right.float().mean())
    if made is None or made.landmarks is None:
        return found
    own = made.landmarks / len(real[0])
    found["aperture correlation"] = correlation(
        lip_gap(torch.from_numpy(own)), lip_gap(torch.from_numpy(place.copy()))
    )
    box = mouth_box(place.astype(float) * 128, 128)
    pairs = [(box.cut(a), box.cut(b)) for a, b in zip(frames[1::3], real[1::3], strict=True)]
    found["mouth PSNR"] = float(np.mean([psnr(a, b) for a, b in pairs]))
    found["sharpness"] = float(np.mean([sharpness(a) / sharpness(b) for a, b in pairs]))
    window = (..., slice(*model.config.window[:2]), slice(*model.config.window[2:]), slice(None))
    error = np.abs(frames[window].astype(float) - real[window].astype(float)).mean()
    found["window L1"] = float(error) / 127.5
    return found


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--clips", type=int, default=30)
    parser.add_argument("--strangers", type=int, default=10)
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    cache, judge = open_cache(options.shards), weights.load("judge")
    rows = {run.name: weights.load(run / "weights.safetensors") for run in options.runs}
    for split, most in (("val", options.clips), ("stranger", options.strangers)):
        clips = spread(speaking_clips(cache, split), most)
        found = {n: [known(cache, m, judge, c) for c in clips] for n, m in rows.items()}
        print(f"\n{split}, {len(clips)} clips\n\n| measure | {' | '.join(found)} |")
        print("|---" * (len(found) + 1) + "|")
        for measure in next(iter(found.values()))[0]:
            values = [ratio(np.array([c[measure] for c in of_row])) for of_row in found.values()]
            cells = []
            for row in values:
                low, high = interval(row)
                cell = f"{float(row.formula(row.values.sum(0))):.4g} [{low:.4g}, {high:.4g}]"
                if row is not values[0]:
                    cell += " ({:+.3g} to {:+.3g})".format(*difference(row, values[0]))
                cells.append(cell)
            print(f"| {measure} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
