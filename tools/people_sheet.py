"""Draw a contact sheet: real frames above generated ones, for several people.

python tools/people_sheet.py CACHE MODELS OUT.png [--maps MODEL] [--keys s1_bbwg3a,s4_bgbu2a]
    [--mouth] [--every 4]

MODELS are names of `talkingface models` or weights files, with commas between: a row for each below
the real one, as in
    python tools/people_sheet.py CACHE cran,atvg atvg_people.png --maps atvg
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
    """Return the named clips, or the last one of each of PEOPLE (of s1: of the split test)."""
    if keys is not None:
        return [clip for key in keys.split(",") for clip in cache.clips if clip.key == key]
    fit = [c for c in cache.clips if c.speaker != "s1" or c.split == "test"]
    return [[c for c in fit if c.speaker == person][-1] for person in PEOPLE]


def strips(
    evaluator: evaluation.Evaluator,
    clip: ClipInfo,
    models: list[evaluation.EvaluatedModel],
    maps: str | None,
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield the rows of a clip, (T, S, S, 3), by name: real, each model, and one model's maps."""
    yield "real", np.array(evaluator.cache.frames[clip.start : clip.start + clip.frames])
    shown = None
    for model in models:
        assert model.generator is not None
        generated = evaluator.generate(model.generator, clip, clip, driven=model.driven)
        yield model.name, generated.frames
        if model.name == maps:
            shown = generated
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
    models = [evaluation.open_model(name) for name in options.models.split(",")]
    names = [model.name for model in models]
    if evaluation.REAL in names:
        parser.error("the real row is always there: name models only")
    if options.maps is not None and options.maps not in names:
        parser.error(f"--maps {options.maps}: is none of {', '.join(names)}")
    evaluator = evaluation.Evaluator(open_cache(options.cache))
    part = (slice(60, 124), slice(32, 96)) if options.mouth else (slice(None), slice(None))
    rows, labels = [], []
    for clip in choose(evaluator.cache, options.keys):
        said = " ".join(word for word, _, _ in clip.words) or clip.key
        for what, frames in strips(evaluator, clip, models, options.maps):
            shown = range(FIRST, min(LAST, len(frames)), options.every)
            rows.append([np.ascontiguousarray(frames[t][part]) for t in shown])
            labels.append(f"{clip.speaker} {said}: {what}")
    picture.write_png(options.out, video.contact_sheet(rows, labels), overwrite=True)


if __name__ == "__main__":
    main()
