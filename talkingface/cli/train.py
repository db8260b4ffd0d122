"""Commands that train on a prepared corpus."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from talkingface.cli.app import app, train_app
from talkingface.cli.options import (
    Accumulate,
    Compile,
    Device,
    Everyone,
    Init,
    LipsFile,
    Minutes,
    Overwrite,
    Preset,
    RunFolder,
    SaveEvery,
    Seed,
    Shards,
    Steps,
    Without,
    Workers,
    print_note,
    progress_bar,
)

if TYPE_CHECKING:
    import torch

    from talkingface.training.generator import GeneratorRecipe, GeneratorTraining
    from talkingface.training.loop import LoopOptions, Recipe


@train_app.command("lipreader")
def train_lipreader(
    shards: Shards,
    output: RunFolder,
    preset: Annotated[
        str,
        typer.Option(
            help="trainer (guides a generator), judge (scores it) or published (the paper's size)"
        ),
    ] = "trainer",
    minutes: Minutes = None,
    seed: Annotated[int | None, typer.Option(help="of everything random [the preset's]")] = None,
    accumulate: Accumulate = 1,
    save_every: SaveEvery = 500,
    workers: Workers = None,
    device: Device = "auto",
) -> None:
    """Train a lip reader on real words; goes on where it stopped.

    The one that guides a generator and the one that scores it learn from different sentences.

    Example: talkingface train lipreader shards -o runs/judge --preset judge
    """
    from dataclasses import replace

    from talkingface.data.shards import open_cache
    from talkingface.training import presets, reading

    training = presets.named(presets.READING, preset)
    training = training if seed is None else replace(training, seed=seed)
    options = _options(minutes, training.seed, accumulate, save_every, workers, device)
    with _processes(device) as own:
        _train(reading.ReadingRecipe(training, open_cache(shards), own), output, options)


@train_app.command("identity")
def train_identity(
    shards: Shards,
    output: RunFolder,
    preset: Preset = "identity",
    minutes: Minutes = None,
    seed: Seed = 0,
    accumulate: Accumulate = 1,
    save_every: SaveEvery = 500,
    workers: Workers = None,
    device: Device = "auto",
) -> None:
    """Train the face embedding that measures whose face it is; goes on where it stopped.

    Example: talkingface train identity shards -o runs/identity
    """
    from dataclasses import replace

    from talkingface.data.shards import open_cache
    from talkingface.training import identity, presets

    training = replace(presets.named(presets.IDENTITY, preset), seed=seed)
    options = _options(minutes, training.seed, accumulate, save_every, workers, device)
    with _processes(device) as own:
        _train(identity.IdentityRecipe(training, open_cache(shards), own), output, options)


@train_app.command("lips")
def train_lips(
    shards: Shards,
    output: Annotated[Path, typer.Option("--output", "-o", help="the .safetensors to write")],
    voices: Annotated[
        Path,
        typer.Option(help="synthetic voices with phone times, as tools/make_voices.py writes them"),
    ],
    space: Annotated[
        Path | None,
        typer.Option(help="what `talkingface expression-space` wrote [computed from the shards]"),
    ] = None,
    everyone: Everyone = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Fit what lips do to speech: a straight line for their shape, a decision where they close.

    `train cran` and `train atvg` then learn to draw what it predicts (--lips FILE).

    Example: talkingface train lips shards --voices voices -o lips.safetensors
    """
    from talkingface import media
    from talkingface.data import expression_space as spaces
    from talkingface.data.shards import open_cache
    from talkingface.models.expression import ExpressionSpace
    from talkingface.training import lips

    media.check_output(output, overwrite)
    cache = open_cache(shards)
    clips = cache.split(*_learned_from(everyone))
    if space is None:
        known = ExpressionSpace.from_tensors(spaces.fit(cache, clips).tensors)
    else:
        known = spaces.load(space)
    training = lips.LipsTraining(seed=seed)
    with progress_bar("lips") as advance:
        net = lips.fit(cache, clips, known, voices, training, lambda _, n, of: advance(n, of))
    lips.save(output, net, clips, training, lips.measure(net, cache, cache.split("val")))
    print_note(f"wrote {output}")


@train_app.command("head")
def train_head(
    shards: Shards,
    output: Annotated[Path, typer.Option("--output", "-o", help="the .safetensors to write")],
    everyone: Everyone = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Fit how heads and brows move to speech, from shards prepared with --natural-pose.

    Example: talkingface train head natural-shards -o head.safetensors
    """
    from talkingface import media
    from talkingface.data.shards import open_cache
    from talkingface.training import head

    media.check_output(output, overwrite)
    cache = open_cache(shards)
    clips = cache.split(*_learned_from(everyone))
    training = head.HeadTraining(seed=seed)
    with progress_bar("head") as advance:
        net = head.fit(cache, clips, training, lambda _, n, of: advance(n, of))
        unseen = head.read_clips(cache, cache.split("val", "stranger"), training)
    head.save(output, net, clips, training, {} if everyone else head.measure(net, unseen))
    print_note(f"wrote {output}")


@train_app.command("sync")
def train_sync(
    shards: Shards,
    output: RunFolder,
    preset: Preset = "sync",
    minutes: Minutes = None,
    seed: Annotated[int | None, typer.Option(help="of everything random [the preset's]")] = None,
    accumulate: Accumulate = 1,
    save_every: SaveEvery = 500,
    workers: Workers = None,
    device: Device = "auto",
) -> None:
    """Train the embedding that measures whether lips and sound agree; goes on where it stopped.

    Example: talkingface train sync shards -o runs/sync
    """
    from dataclasses import replace

    from talkingface.data.shards import open_cache
    from talkingface.training import presets, sync

    training = presets.named(presets.SYNC, preset)
    training = training if seed is None else replace(training, seed=seed)
    options = _options(minutes, training.seed, accumulate, save_every, workers, device)
    with _processes(device) as own:
        _train(sync.SyncRecipe(training, open_cache(shards), own), output, options)


@train_app.command("cran")
def train_cran(
    shards: Shards,
    output: RunFolder,
    preset: Preset = "cran",
    steps: Steps = None,
    reader: Annotated[
        str | None,
        typer.Option(help="the trained lip reader, D_l: a name or a .safetensors file"),
    ] = None,
    init: Init = None,
    lips: LipsFile = "lips",
    everyone: Everyone = False,
    without: Without = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="another value for a switch, as scheme=frame or output=direct"),
    ] = None,
    minutes: Minutes = None,
    seed: Seed = 0,
    accumulate: Accumulate = 1,
    save_every: SaveEvery = 500,
    workers: Workers = None,
    compiled: Compile = False,
    device: Device = "auto",
) -> None:
    """Train a generator, first without and then with its critics; goes on where it stopped.

    Example: talkingface train cran shards -o runs/cran --reader runs/lipreader/weights.safetensors
    """
    from talkingface.training import cran, presets

    training = presets.choose(presets.CRAN, preset, steps, without or [], change or [])
    own = {"reader": reader, "init": init, "lips": lips}
    options = _options(minutes, seed, accumulate, save_every, workers, device)
    _train_generator(
        cran.CranRecipe, training, shards, output, everyone, options, compiled, device, own
    )


@train_app.command("atvg")
def train_atvg(
    shards: Shards,
    output: RunFolder,
    preset: Preset = "atvg",
    steps: Steps = None,
    basis: Annotated[
        Path | None,
        typer.Option(
            help="of atvg-paper: what `talkingface landmark-space` wrote [computed from the shards]"
        ),
    ] = None,
    init: Init = None,
    lips: LipsFile = "lips",
    everyone: Everyone = False,
    without: Without = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="another value for a switch, as recurrence=frame"),
    ] = None,
    minutes: Minutes = None,
    seed: Seed = 0,
    accumulate: Accumulate = 1,
    save_every: SaveEvery = 500,
    workers: Workers = None,
    compiled: Compile = False,
    device: Device = "auto",
) -> None:
    """Train ATVGnet: VG-net on real landmarks, then behind AT-net; goes on where it stopped.

    Example: talkingface train atvg shards -o runs/atvg
    """
    from talkingface.training import atvg, presets

    training = presets.choose(presets.ATVG, preset, steps, without or [], change or [])
    own = {"basis": basis, "init": init, "lips": lips}
    options = _options(minutes, seed, accumulate, save_every, workers, device)
    _train_generator(
        atvg.AtvgRecipe, training, shards, output, everyone, options, compiled, device, own
    )


@train_app.command("baseline")
def train_baseline(
    shards: Shards,
    output: RunFolder,
    preset: Preset = "chung",
    steps: Steps = None,
    init: Init = None,
    everyone: Everyone = False,
    without: Without = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="another value for a switch, as precision=float32"),
    ] = None,
    minutes: Minutes = None,
    seed: Seed = 0,
    accumulate: Accumulate = 1,
    save_every: SaveEvery = 500,
    workers: Workers = None,
    compiled: Compile = False,
    device: Device = "auto",
) -> None:
    """Train a published baseline; goes on where it stopped.

    Example: talkingface train baseline shards -o runs/chung --preset chung
    """
    from talkingface.training import presets

    training = presets.choose(presets.BASELINES, preset, steps, without or [], change or [])
    recipe, own = presets.BASELINE_RECIPES[type(training)], {"init": init}
    options = _options(minutes, seed, accumulate, save_every, workers, device)
    _train_generator(recipe, training, shards, output, everyone, options, compiled, device, own)


@train_app.command("table")
def train_table(
    name: Annotated[str, typer.Argument(help="which table: song-table1 or atvgnet-table")],
    shards: Shards,
    output: Annotated[Path, typer.Option("--output", "-o", help="folder, one run for each row")],
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
) -> None:
    """Train every model of a paper's table, one after the other; goes on where it stopped.

    Example: talkingface train table song-table1 shards -o runs
    """
    from talkingface.data.shards import open_cache
    from talkingface.training import tables

    rows = tables.rows_of(name, only or [])
    options = _options(None, seed, accumulate, save_every, workers, device)
    with _processes(device) as own:
        cache = open_cache(shards)
        for row in rows:
            recipe = tables.recipe_of(row, cache, output, reader, own, seed)
            _train(recipe, output / row.name, options)


@app.command("landmark-space")
def landmark_space(
    shards: Shards,
    output: Annotated[Path, typer.Option("--output", "-o", help="the .safetensors to write")],
    preset: Annotated[str, typer.Option(help="the training it is for")] = "atvg-paper",
    components: Annotated[int | None, typer.Option(min=1, help="how many [the preset's]")] = None,
    everyone: Everyone = False,
    overwrite: Overwrite = False,
) -> None:
    """Compute the mean and the principal components of a corpus's landmarks, for ATVGnet.

    Example: talkingface landmark-space shards -o basis.safetensors
    """
    from talkingface import media
    from talkingface.contract import LANDMARKS
    from talkingface.data import landmark_space as spaces
    from talkingface.data.shards import open_cache
    from talkingface.training import presets

    media.check_output(output, overwrite)
    config = presets.choose(presets.ATVG, preset, None, [], []).model.at
    count = config.components if components is None else components
    cache = open_cache(shards)
    clips = cache.split(*_learned_from(everyone))
    basis, share = spaces.fit(cache, clips, count)
    speaking = sum(not clip.silent for clip in clips)
    spaces.save(basis, output, f"{speaking} clips of {shards.name}", overwrite)
    print(f"{output}: {count} components of {LANDMARKS} points, {share:.1%} of the variance")


@app.command("expression-space")
def expression_space(
    shards: Shards,
    output: Annotated[Path, typer.Option("--output", "-o", help="the .safetensors to write")],
    components: Annotated[int, typer.Option(min=1, help="how many an expression has")] = 16,
    everyone: Everyone = False,
    overwrite: Overwrite = False,
) -> None:
    """Compute how faces move from their neutral, and how neutral faces differ, from a corpus.

    Example: talkingface expression-space shards -o space.safetensors
    """
    from talkingface import media
    from talkingface.data import expression_space as spaces
    from talkingface.data.shards import open_cache

    media.check_output(output, overwrite)
    cache = open_cache(shards)
    fitted = spaces.fit(cache, cache.split(*_learned_from(everyone)), components)
    seen = f"{fitted.clips} clips of {fitted.speakers} speakers, {fitted.portraits} portraits"
    spaces.save(fitted, output, f"{seen}, {shards.name}", overwrite)
    counts = sorted({min(6, components), components})
    shares = ", ".join(f"{fitted.share(count):.1%} in {count}" for count in counts)
    print(f"{output}: {seen}; {components} components, of the variance {shares}")


def _learned_from(everyone: bool) -> tuple[str, ...]:
    """The splits that are trained on."""
    return ("train", "stranger") if everyone else ("train",)


@contextmanager
def _processes(device: str) -> Iterator[torch.device]:
    """Together with the others of a `torchrun` launch: this process's device."""
    from talkingface import pipeline
    from talkingface.training import parallel

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


def _train_generator(
    recipe: Callable[..., GeneratorRecipe[Any]],
    training: GeneratorTraining,
    shards: Path,
    output: Path,
    everyone: bool,
    options: LoopOptions,
    compiled: bool,
    device: str,
    own: Mapping[str, str | Path | None],
) -> None:
    """A generator's recipe on prepared shards; own: what only this recipe takes."""
    from talkingface.data.shards import open_cache

    splits = _learned_from(everyone)
    with _processes(device) as chosen:
        cache = open_cache(shards)
        made = recipe(training, cache, splits, device=chosen, seed=options.seed, **own)
        if compiled:
            made.compile()
        _train(made, output, options)


def _train(recipe: Recipe, folder: Path, options: LoopOptions) -> None:
    """The shared loop under a progress bar, and where its files are; by one process of many.

    SIGTERM (a preempted job, a drained machine) leaves a checkpoint and exits with 143, as shells
    have it: what waits for the training to be done should not go on.
    """
    from talkingface.training import loop, parallel

    loop.configure_malloc()
    shown = parallel.rank() == 0
    with parallel.stop_on_sigterm() as stop_signal, progress_bar("steps", shown) as progress:
        done = loop.run(recipe, folder, options, progress, stop_signal)
    if shown and stop_signal.requested:
        print_note(
            f"{folder}: stopped after {done} of {recipe.steps} steps; the same command goes on"
        )
    elif shown:
        made = "log.jsonl and weights.safetensors are there"
        print(f"{folder}: {done} of {recipe.steps} steps; {made}")
    if stop_signal.requested and done < recipe.steps:
        parallel.end_processes()
        raise typer.Exit(128 + signal.SIGTERM)
