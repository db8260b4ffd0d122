"""Trainers of the command line, as rows: `talkingface train NAME`. Nothing heavy is imported here.

`presets.PRESETS[NAME]` has a trainer's presets, `presets.RECIPES` and `presets.FITS` the
algorithm of each.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trainer:
    """One command of `talkingface train`.

    about: its help. example: what follows `talkingface train`. preset: the default one. presets:
    a help text about them. options: names of its own options, beside those of all trainers. fits:
    it writes one file in minutes, without checkpoints.
    """

    name: str
    about: str
    example: str
    preset: str
    presets: str = ""
    options: tuple[str, ...] = ()
    fits: bool = False


_GENERATOR = ("steps", "without", "init", "everyone", "compiled")

TRAINERS = (
    Trainer(
        "lipreader",
        "Train a lip reader on real words; goes on where it stopped.\n\n"
        "The one that guides a generator and the one that scores it learn from different "
        "sentences.",
        "lipreader shards -o runs/judge --preset judge",
        "trainer",
        "trainer (guides a generator), judge (scores it) or published (the paper's size)",
    ),
    Trainer(
        "identity",
        "Train the face embedding that measures whose face it is; goes on where it stopped.",
        "identity shards -o runs/identity",
        "identity",
        "identity, or tiny for tests",
    ),
    Trainer(
        "lips",
        "Fit how lips follow speech: a straight line for their shape, a decision where they "
        "close.\n\n`train cran` and `train atvg` then learn to draw what it predicts (--lips "
        "FILE).",
        "lips shards --voices voices -o lips.safetensors",
        "lips",
        options=("voices", "space", "everyone"),
        fits=True,
    ),
    Trainer(
        "head",
        "Fit how heads and brows move to speech, from shards prepared with --natural-pose.",
        "head natural-shards -o head.safetensors",
        "head",
        options=("everyone",),
        fits=True,
    ),
    Trainer(
        "sync",
        "Train the embedding that measures whether lips and sound agree; goes on where it stopped.",
        "sync shards -o runs/sync",
        "sync",
        "sync, or sync-tiny for tests",
    ),
    Trainer(
        "cran",
        "Train CRAN, first without and then with its discriminators; goes on where it stopped.",
        "cran shards -o runs/cran --reader runs/lipreader/weights.safetensors",
        "cran",
        "cran, cran-direct (no mesh), cran-natural (one person, the head moves), cran-paper or "
        "cran-tiny",
        ("reader", "lips", *_GENERATOR),
    ),
    Trainer(
        "atvg",
        "Train ATVGnet: VG-net on real landmarks, then behind AT-net; goes on where it stopped.",
        "atvg shards -o runs/atvg",
        "atvg",
        "atvg, atvg-paper or atvg-tiny",
        ("basis", "lips", *_GENERATOR),
    ),
    Trainer(
        "baseline",
        "Train a published baseline; goes on where it stopped.",
        "baseline shards -o runs/chung --preset chung",
        "chung",
        "chung, chen, zhou, chung-paper, zhou-paper, or NAME-tiny",
        _GENERATOR,
    ),
)
