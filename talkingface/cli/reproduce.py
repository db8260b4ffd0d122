"""Commands that reproduce the papers' figures: valid, but not listed by `talkingface --help`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from talkingface.cli.app import app
from talkingface.cli.options import Device, Overwrite, Seed, progress_bar


@app.command(hidden=True)
def robustness(
    models: Annotated[str, typer.Option(help="names or .safetensors files, with commas between")],
    cache: Annotated[Path, typer.Option(help="what `talkingface prepare` wrote")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="folder for robustness.jsonl, .md, .png")
    ],
    splits: Annotated[str, typer.Option(help="parts of the corpus, with commas between")] = "test",
    clips: Annotated[int, typer.Option(help="at most so many of each split")] = 6,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Plot quality against disturbed landmarks and against the head's pose.

    A model that draws landmarks it is given is measured from sound and from real landmarks.

    Example: talkingface robustness --models cran,atvg --cache shards --out results
    """
    from talkingface import pipeline
    from talkingface.reproduce import robustness as disturbed

    with progress_bar("videos") as progress:
        trials = disturbed.evaluate_robustness(
            models.split(","),
            cache,
            out,
            splits=splits.split(","),
            clips=clips,
            device=str(pipeline.find_device(device)),
            overwrite=overwrite,
            progress=progress,
        )
    print(disturbed.tables(trials))
    print(
        f"{out}: {len(trials)} trials in {disturbed.RESULTS}, their means in {disturbed.TABLES} "
        f"and {disturbed.FIGURE}"
    )


@app.command("head-motion", hidden=True)
def head_motion(
    models: Annotated[str, typer.Option(help="names or .safetensors files, with commas between")],
    cache: Annotated[Path, typer.Option(help="what `talkingface prepare --natural-pose` wrote")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for heads.md, heads.json")],
    split: Annotated[str, typer.Option(help="part of the corpus")] = "test",
    clips: Annotated[int | None, typer.Option(help="at most so many [all]")] = None,
    portraits: Annotated[
        Path | None, typer.Option(help="folder of pictures that speak --sound as well")
    ] = None,
    sound: Annotated[Path | None, typer.Option(help="what the portraits speak")] = None,
    seconds: Annotated[float, typer.Option(min=5, help="for so long, again and again")] = 60,
    seed: Seed = 0,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Measure how generated heads, brows and lids move beside real ones.

    Example: talkingface head-motion --models cran,cran-natural --cache natural --out results
    """
    from talkingface import pipeline
    from talkingface.reproduce import head_motion as motion

    with progress_bar("videos") as progress:
        text = motion.evaluate_head_motion(
            models.split(","),
            cache,
            out,
            split=split,
            clips=clips,
            portraits=portraits,
            sound=sound,
            seconds=seconds,
            seed=seed,
            device=str(pipeline.find_device(device)),
            overwrite=overwrite,
            progress=progress,
        )
    print(text)
    print(f"{out}: {motion.TABLES}, {motion.RESULTS}")
