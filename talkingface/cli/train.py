"""Commands that train on a prepared corpus, made from the table of trainers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from talkingface.cli.app import app, train_app
from talkingface.cli.controls import REQUIRED, option, takes_report, with_options
from talkingface.cli.options import (
    Accumulate,
    CacheFolder,
    Device,
    Everyone,
    Minutes,
    Overwrite,
    Reporter,
    RunFolder,
    SaveEvery,
    Seed,
    Shards,
    Workers,
)
from talkingface.errors import OutputError
from talkingface.training.trainers import TRAINERS, Trainer

if TYPE_CHECKING:
    import torch

    from talkingface.training.loop import LoopOptions, Recipe

WeightsFile = Annotated[Path, typer.Option("--output", "-o", help="the .safetensors to write")]


# Options by name: of all trainers, of those with checkpoints, of those without, and of some.
_ALL: dict[str, tuple[Any, Any]] = {
    "shards": (Shards, REQUIRED),
    "change": option(
        list[str] | None,
        None,
        "--set",
        metavar="NAME=VALUE",
        help="another value for any setting of the preset, as batch=8, model.hidden=256, "
        "stages.0.steps=100 or stages.1.weights.image=0.3; repeat for more",
    ),
    "seed": option(int | None, None, help="of everything random [the preset's]"),
    "cache": (CacheFolder, None),
}
_LOOP: dict[str, tuple[Any, Any]] = {
    "output": (RunFolder, REQUIRED),
    "minutes": (Minutes, None),
    "accumulate": (Accumulate, 1),
    "save_every": (SaveEvery, 500),
    "workers": (Workers, None),
    "device": (Device, "auto"),
}
_FIT: dict[str, tuple[Any, Any]] = {
    "output": (WeightsFile, REQUIRED),
    "overwrite": (Overwrite, False),
}
_OWN: dict[str, tuple[Any, Any]] = {
    "steps": option(
        str | None, None, help="of each stage, as 1200,4000,600; 0 leaves one out [the preset's]"
    ),
    "without": option(
        list[str] | None, None, help="leave this loss out; repeat for more (an ablation)"
    ),
    "reader": option(
        str | None, None, help="the trained lip reader, D_l: a name or a .safetensors file"
    ),
    "basis": option(
        Path | None,
        None,
        help="of atvg-paper: what `talkingface landmark-space` wrote [computed from the shards]",
    ),
    "lips": option(
        str,
        "lips",
        help="the fitted lips that it draws (`talkingface train lips`): a name or a file",
    ),
    "init": option(
        str | None,
        None,
        help="begin with this model, a name or a .safetensors file: fine-tuning, stages",
    ),
    "voices": option(
        Path,
        REQUIRED,
        help="synthetic voices with phone times, as tools/make_voices.py writes them",
    ),
    "space": option(
        Path | None,
        None,
        help="what `talkingface expression-space` wrote [computed from the shards]",
    ),
    "everyone": (Everyone, False),
    "compiled": option(
        bool,
        False,
        "--compile/--no-compile",
        help="fuse by torch.compile: for long runs on a GPU",
    ),
}


def _command(trainer: Trainer) -> Callable[..., None]:
    """Return the command of a trainer, with the options of all trainers and its own."""
    options = {**_ALL, **(_FIT if trainer.fits else _LOOP), **{n: _OWN[n] for n in trainer.options}}
    if trainer.presets:
        options["preset"] = option(str, trainer.preset, help=trainer.presets)
    order = ("shards", "output", "preset", *trainer.options, *options)
    ordered = {name: options[name] for name in order if name in options}

    def command(given: dict[str, Any], report: Reporter) -> None:
        (_fit if trainer.fits else _train)(trainer, report, **given)

    return takes_report(with_options(command, "given", ordered, dict))


for _trainer in TRAINERS:
    train_app.command(
        _trainer.name,
        help=f"{_trainer.about}\n\nExample: talkingface train {_trainer.example}",
    )(_command(_trainer))


@train_app.command("table")
@takes_report
def train_table(
    name: Annotated[str, typer.Argument(help="which table: song-table1 or atvgnet-table")],
    shards: Shards,
    output: Annotated[Path, typer.Option("--output", "-o", help="folder, one run for each row")],
    report: Reporter,
    reader: Annotated[
        str, typer.Option(help="the trained lip reader, D_l: a name or a .safetensors file")
    ] = "lipreader",
    only: Annotated[
        list[str] | None, typer.Option(help="a row by the name of its folder; repeat [all]")
    ] = None,
    seed: Seed = 0,
    accumulate: Accumulate = 1,
    save_every: SaveEvery = 500,
    workers: Workers = None,
    device: Device = "auto",
    cache: CacheFolder = None,
) -> None:
    """Train every model of a paper's table, one after the other; goes on where it stopped.

    Example: talkingface train table song-table1 shards -o runs
    """
    from talkingface.data.shards import open_cache
    from talkingface.reproduce import trainings

    rows = trainings.rows_of(name, only or [])
    options = _options(None, seed, accumulate, save_every, workers, device)
    with _processes(device) as own:
        clips = open_cache(shards, cache)
        for row in rows:
            recipe = trainings.recipe_of(row, clips, output, reader, own, seed)
            _run(recipe, output / row.name, options, report)


@app.command("landmark-space")
@takes_report
def landmark_space(
    shards: Shards,
    output: WeightsFile,
    report: Reporter,
    preset: Annotated[str, typer.Option(help="the training it is for")] = "atvg-paper",
    components: Annotated[int | None, typer.Option(min=1, help="how many [the preset's]")] = None,
    everyone: Everyone = False,
    overwrite: Overwrite = False,
    cache: CacheFolder = None,
) -> None:
    """Compute principal components of landmarks, for ATVGnet.

    The file holds the mean and the components of a corpus's landmarks.

    Example: talkingface landmark-space shards -o basis.safetensors
    """
    from talkingface import media
    from talkingface.contract import LANDMARKS
    from talkingface.data import landmark_space as spaces
    from talkingface.data.shards import open_cache
    from talkingface.models.atvg_published import AtConfig, PublishedAtvgConfig
    from talkingface.training import presets

    media.check_output(output, overwrite)
    model = presets.choose(presets.ATVG, preset).model
    config = model.at if isinstance(model, PublishedAtvgConfig) else AtConfig()
    count = config.components if components is None else components
    opened = open_cache(shards, cache)
    clips = opened.split(*_learned_from(everyone))
    basis, share = spaces.fit(opened, clips, count)
    speaking = sum(not clip.silent for clip in clips)
    spaces.save(basis, output, f"{speaking} clips of {shards.name}", overwrite)
    text = f"{count} components of {LANDMARKS} points, {share:.1%} of the variance"
    report.result(output, text, components=count, variance=share)


@app.command("expression-space")
@takes_report
def expression_space(
    shards: Shards,
    output: WeightsFile,
    report: Reporter,
    components: Annotated[int, typer.Option(min=1, help="how many an expression has")] = 16,
    everyone: Everyone = False,
    overwrite: Overwrite = False,
    cache: CacheFolder = None,
) -> None:
    """Compute how the faces of a corpus move.

    The file says how faces move from their neutral, and how neutral faces differ.

    Example: talkingface expression-space shards -o space.safetensors
    """
    from talkingface import media
    from talkingface.data import expression_space as spaces
    from talkingface.data.shards import open_cache

    media.check_output(output, overwrite)
    opened = open_cache(shards, cache)
    fitted = spaces.fit(opened, opened.split(*_learned_from(everyone)), components)
    seen = f"{fitted.clips} clips of {fitted.speakers} speakers, {fitted.portraits} portraits"
    spaces.save(fitted, output, f"{seen}, {shards.name}", overwrite)
    counts = sorted({min(6, components), components})
    shares = ", ".join(f"{fitted.share(count):.1%} in {count}" for count in counts)
    text = f"{seen}; {components} components, of the variance {shares}"
    report.result(output, text, components=components, variance=fitted.share(components))


def _learned_from(everyone: bool) -> tuple[str, ...]:
    """Return the splits that are trained on."""
    from talkingface.data.clip import UNSEEN

    return ("train", UNSEEN) if everyone else ("train",)


@contextmanager
def _processes(device: str) -> Iterator[torch.device]:
    """Join the other processes of a `torchrun` launch; yield this process's device.

    Raises OutputError where no temporary file can be written: torch's optimisers need some.
    """
    from talkingface import pipeline
    from talkingface.training import parallel

    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise OutputError(
            "no folder for temporary files can be written (TMPDIR, /tmp, /var/tmp, this folder): "
            "set TMPDIR to one that can"
        ) from error
    yield parallel.start_processes(pipeline.find_device(device))
    parallel.end_processes()


def _options(
    minutes: float | None,
    seed: int,
    accumulate: int,
    save_every: int,
    workers: int | None,
    device: str,
) -> LoopOptions:
    from talkingface import pipeline
    from talkingface.training import loop, parallel

    if workers is None:
        workers = parallel.spare_cores() if pipeline.find_device(device).type == "cuda" else 0
    return loop.LoopOptions(
        minutes=minutes, seed=seed, accumulate=accumulate, save_every=save_every, workers=workers
    )


def _settings(
    trainer: Trainer,
    preset: str,
    change: Sequence[str] | None,
    seed: int | None,
    steps: str | None = None,
    without: Sequence[str] | None = None,
) -> Any:
    """Return a preset with the changes of the command line."""
    from talkingface.training import presets

    changes = [*(change or ()), *([] if seed is None else [f"seed={seed}"])]
    return presets.choose(presets.PRESETS[trainer.name], preset, steps, without or (), changes)


def _train(
    trainer: Trainer,
    report: Reporter,
    shards: Path,
    output: Path,
    preset: str,
    change: list[str] | None,
    seed: int | None,
    cache: Path | None,
    minutes: float | None,
    accumulate: int,
    save_every: int,
    workers: int | None,
    device: str,
    steps: str | None = None,
    without: list[str] | None = None,
    everyone: bool | None = None,
    compiled: bool = False,
    **own: Any,
) -> None:
    """Train one preset on prepared shards. own: options that only this trainer's recipe takes."""
    from talkingface.data.shards import open_cache
    from talkingface.training import presets

    training = _settings(trainer, preset, change, seed, steps, without)
    options = _options(minutes, training.seed, accumulate, save_every, workers, device)
    if everyone is not None:
        own["splits"] = _learned_from(everyone)
    with _processes(device) as chosen:
        clips = open_cache(shards, cache)
        recipe: Any = presets.RECIPES[type(training)](training, clips, device=chosen, **own)
        if compiled:
            recipe.compile()
        _run(recipe, output, options, report)


def _fit(
    trainer: Trainer,
    report: Reporter,
    shards: Path,
    output: Path,
    change: list[str] | None,
    seed: int | None,
    cache: Path | None,
    overwrite: bool,
    everyone: bool,
    **own: Any,
) -> None:
    """Fit one preset to prepared shards, and write its file."""
    from talkingface import media
    from talkingface.data.shards import open_cache
    from talkingface.training import presets

    media.check_output(output, overwrite)
    training = _settings(trainer, trainer.preset, change, seed)
    clips, splits = open_cache(shards, cache), _learned_from(everyone)
    with report.progress(trainer.name) as advance:
        fit = presets.FITS[type(training)]
        fit(training, clips, output, splits, lambda _, n, of: advance(n, of), **own)
    report.result(output, "fitted weights")


def _run(recipe: Recipe, folder: Path, options: LoopOptions, report: Reporter) -> None:
    """Run the shared loop under a progress bar, then report where its files are.

    SIGTERM (a preempted job, a drained machine) leaves a checkpoint and exits with 143, SIGHUP with
    129, as shells have it: what waits for the training to be done should not go on.
    """
    from talkingface.training import loop, parallel

    loop.configure_malloc()
    first = report if parallel.rank() == 0 else Reporter(quiet=True)
    notes: list[str] = []

    def note(text: str) -> None:
        report.note(text)
        notes.append(text)

    with parallel.stop_on_sigterm() as stop_signal, first.progress("steps") as progress:
        done = loop.run(recipe, folder, options, progress, stop_signal, note)
    stopped = stop_signal.requested
    if stopped:
        first.note(
            f"{folder}: stopped after {done} of {recipe.steps} steps; the same command goes on"
        )
    if first.json or not stopped:
        text = f"{done} of {recipe.steps} steps; log.jsonl and weights.safetensors are there"
        facts = {"steps": done, "steps_in_all": recipe.steps, "note": "; ".join(notes) or None}
        first.result(folder, text, **facts)
    if stopped and done < recipe.steps:
        parallel.end_processes()
        raise typer.Exit(128 + stop_signal.number)
