"""Real above generated for several people, one sheet to look at.

python tools/people_sheet.py CACHE MODELS OUT.png [--maps MODEL] [--keys s1_bbwg3a,s4_bgbu2a]
    [--mouth] [--every 4]

MODELS are names of `talkingface models` or weights files, with commas between: a row for each below
the real one, as in
    python tools/people_sheet.py CACHE cran,atvg docs/results/atvg_people.png --maps atvg
Each column is one frame, one in so many (--every) while somebody speaks; the identity picture is
the clip's first frame. --maps adds the attention (white: new colour) and the colour map of one of
the models. NAME@landmarks is driven by the clip's real landmarks. --mouth enlarges the mouth.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from talkingface import evaluation, picture, video
from talkingface.data.dataset import Cache, ClipInfo
from talkingface.data.shards import open_cache

PEOPLE = ("s1", "s4", "s26", "s2", "s25", "s34")
FIRST, LAST = 12, 60  # frames between which a sentence is spoken


def choose(cache: Cache, keys: str | None) -> list[ClipInfo]:
    """The named clips, or the last one of each of six people (of s1: of its unseen sentences)."""
    if keys is not None:
        return [clip for key in keys.split(",") for clip in cache.clips if clip.key == key]
    fit = [c for c in cache.clips if c.speaker != "s1" or c.split == "test"]
    return [[c for c in fit if c.speaker == person][-1] for person in PEOPLE]


def strips(
    bench: evaluation.Bench, clip: ClipInfo, models: list[evaluation.Candidate], maps: str | None
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Every row of a clip under its name, (T, S, S, 3): real, each model, and one model's maps."""
    yield "real", np.array(bench.cache.frames[clip.start : clip.start + clip.frames])
    shown = None
    for model in models:
        assert model.generator is not None
        played = bench.generate(model.generator, clip, clip, driven=model.driven)
        yield model.name, played.frames
        if model.name == maps:
            shown = played
    if shown is not None and shown.mask is not None:
        grey = np.rint(shown.mask * 255).astype(np.uint8)
        yield f"{maps}: attention", np.repeat(grey[..., None], 3, axis=-1)
    if shown is not None and shown.colour is not None:
        yield f"{maps}: colour", shown.colour


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cache", type=Path)
    parser.add_argument("models")
    parser.add_argument("out", type=Path)
    parser.add_argument("--maps", help="which of the models' maps to show, as its row is called")
    parser.add_argument("--keys")
    parser.add_argument("--mouth", action="store_true")
    parser.add_argument("--every", type=int, default=4, help="one frame in so many")
    options = parser.parse_args()
    models = [evaluation.open_candidate(name) for name in options.models.split(",")]
    names = [model.name for model in models]
    if evaluation.REAL in names:
        parser.error("the real row is always there: name models only")
    if options.maps is not None and options.maps not in names:
        parser.error(f"--maps {options.maps}: is none of {', '.join(names)}")
    bench = evaluation.Bench(open_cache(options.cache))
    part = (slice(60, 124), slice(32, 96)) if options.mouth else (slice(None), slice(None))
    rows, labels = [], []
    for clip in choose(bench.cache, options.keys):
        said = " ".join(word for word, _, _ in clip.words) or clip.key
        for what, frames in strips(bench, clip, models, options.maps):
            shown = range(FIRST, min(LAST, len(frames)), options.every)
            rows.append([np.ascontiguousarray(frames[t][part]) for t in shown])
            labels.append(f"{clip.speaker} {said}: {what}")
    picture.write_png(options.out, video.contact_sheet(rows, labels), overwrite=True)


if __name__ == "__main__":
    main()
