"""Development tool: what `talkingface train detail` adds to finished videos, against real ones.

    python tools/measure_detail.py runs/detail/weights.safetensors clips/*.mkv -o results

Each clip's first frame speaks the clip's sound, with and without the network; finished pictures and
real frames are aligned at 256 x 256, the mouth's box is compared (its sharpness as a share of the
real one's). Prints a table with 95 % intervals over clips and writes detail.png: real, without,
with.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

import talkingface
from talkingface import faces, geometry, picture, video, weights
from talkingface.evaluation.intervals import interval, ratio
from talkingface.geometry import CropSpec
from talkingface.metrics.image import psnr, sharpness, ssim
from talkingface.metrics.lips import mouth_box
from talkingface.models.detail import finer_of
from talkingface.pipeline import TalkingFace, _Speech

LARGE = CropSpec(256)


def finished(
    face: TalkingFace, clip: Path, first: picture.Picture, finer: geometry.Finer | None
) -> tuple[list[picture.Picture], float]:
    """Aligned finished pictures of a clip, and milliseconds per frame that pasting took."""
    sitter = replace(face._seat(first, None, None, None, 4000), finer=finer)
    stream = face._stream(sitter, "picture", False)
    moments = [m for part in _Speech(clip).parts() for m in stream.moments(part)]
    moments += list(stream.last_moments())
    began = time.perf_counter()
    pictures = [sitter.pasted(moment) for moment in moments]
    spent = 1000 * (time.perf_counter() - began) / len(moments)
    return [geometry.warp_crop(p, 2 * sitter.matrix, 256) for p in pictures], spent


def _cell(values: np.ndarray) -> str:
    low, high = interval(ratio(values))
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", type=Path)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--model", default="cran")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = weights.load(options.network)
    face = talkingface.load(options.model)
    ways = {"without": None, "with": finer_of(network)}  # type: ignore[arg-type]
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    shown: dict[str, list[picture.Picture]] = {"real": [], **{name: [] for name in ways}}
    for number, clip in enumerate(options.clips):
        frames = list(video.read_frames(clip))
        track = faces.track(frames, LARGE)
        box = mouth_box(track.landmarks.astype(float) * 256, 256)
        for name, finer in ways.items():
            made, spent = finished(face, clip, frames[0], finer)
            pairs = [*zip(made, track.crops, strict=False)][1:]
            cut = [(box.cut(a), box.cut(b)) for a, b in pairs]
            rows[name].append(
                {
                    "mouth_psnr": float(np.mean([psnr(a, b) for a, b in cut])),
                    "mouth_ssim": float(np.mean([ssim(a, b) for a, b in cut])),
                    "sharpness": float(np.mean([sharpness(a) / sharpness(b) for a, b in cut])),
                    "ms_per_frame": spent,
                }
            )
            if number < 3:
                shown[name] += [a for a, _ in islice(cut, 12, 60, 8)]
        if number < 3:
            shown["real"] += [b for _, b in islice(cut, 12, 60, 8)]
    print(f"{len(options.clips)} clips, {options.model}; mean [95 % interval over clips]\n")
    print(f"| measure | {' | '.join(rows)} | with - without |\n|---|---|---|---|")
    for measure in next(iter(rows.values()))[0]:
        found = [np.array([row[measure] for row in of_way]) for of_way in rows.values()]
        cells = [_cell(values) for values in (*found, found[1] - found[0])]
        print(f"| {measure} | {' | '.join(cells)} |")
    options.output.mkdir(parents=True, exist_ok=True)
    sheet = video.contact_sheet([shown[n] for n in ("real", *ways)], ["real", *ways], side=128)
    picture.write_png(options.output / "detail.png", sheet, overwrite=True)


if __name__ == "__main__":
    main()
