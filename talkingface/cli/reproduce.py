"""Commands that reproduce the papers' figures: valid, but not listed by `talkingface --help`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from talkingface.cli.app import app
from talkingface.cli.controls import takes_report
from talkingface.cli.options import Device, Overwrite, Reporter, Seed


@app.command(hidden=True)
@takes_report
def robustness(
    models: Annotated[str, typer.Option(help="names or .safetensors files, with commas between")],
    cache: Annotated[Path, typer.Option(help="what `talkingface prepare` wrote")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="folder for robustness.jsonl, .md, .png")
    ],
    report: Reporter,
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

    with report.progress("videos") as progress:
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
    report.summary(disturbed.tables(trials))
    text = (
        f"trials in {disturbed.RESULTS}, their means in {disturbed.TABLES} and {disturbed.FIGURE}"
    )
    report.result(out, f"{len(trials)} {text}", trials=len(trials))


@app.command("head-motion", hidden=True)
@takes_report
def head_motion(
    models: Annotated[str, typer.Option(help="names or .safetensors files, with commas between")],
    cache: Annotated[Path, typer.Option(help="what `talkingface prepare --natural-pose` wrote")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for heads.md, heads.json")],
    report: Reporter,
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

    with report.progress("videos") as progress:
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
    report.summary(text)
    report.result(out, f"{motion.TABLES}, {motion.RESULTS}")
