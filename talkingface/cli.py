"""The command line: options in, one line per result out. The only place that prints."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from talkingface import __version__
from talkingface.errors import BadRequest, TalkingFaceError

if TYPE_CHECKING:
    from talkingface.pipeline import Box, JobResult, Progress
    from talkingface.training.generator import GeneratorTraining
    from talkingface.training.loop import LoopOptions, Recipe

# Everything heavy is imported inside the commands: `talkingface --help` answers at once.
app = typer.Typer(
    help="One portrait and one speech recording in, a video of that face speaking out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
train_app = typer.Typer(
    help="Train generators, baselines, lip readers, and the networks that measure.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(train_app, name="train")

FACE_HELP = (
    "which face: N, the N-th largest (from 1), or its box x,y,width,height in pixels; where the "
    "finder knows no face in the box (a drawing), the mean face is laid into it"
)
LANDMARKS_HELP = (
    "where the face is, instead of looking for it: JSON, a list of its 68 iBUG points [x, y], or "
    'an object {"landmarks": that list, ...}, in pixels of the picture as it is seen'
)
Model = Annotated[str, typer.Option(help="a name of `talkingface models`, or a .safetensors file")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")]
Crop = Annotated[bool, typer.Option("--crop", help="only the aligned face, 128x128")]
MaxSize = Annotated[int, typer.Option(help="pixels of the long side, at most")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace an output that exists")]
RunFolder = Annotated[
    Path, typer.Option("--output", "-o", help="folder for checkpoint, log, sheets and weights")
]
Minutes = Annotated[float | None, typer.Option(help="stop early; a later call goes on")]
Seed = Annotated[int, typer.Option(help="of everything random")]
Shards = Annotated[Path, typer.Argument(help="what `talkingface prepare` wrote")]
Preset = Annotated[str, typer.Option(help="a row of talkingface/training/presets.py")]
Steps = Annotated[str | None, typer.Option(help="of each stage, as 1200,4000,600 [the preset's]")]
Init = Annotated[
    Path | None, typer.Option(help="begin with these weights: fine-tuning, or a further stage")
]
Everyone = Annotated[bool, typer.Option("--everyone", help="learn from the held-out speakers too")]
Without = Annotated[
    list[str] | None, typer.Option(help="leave this loss out; repeat for more (an ablation)")
]
FaceChoice = Annotated[str | None, typer.Option("--face", help=FACE_HELP, metavar="N|X,Y,W,H")]
Landmarks = Annotated[
    Path | None, typer.Option("--landmarks", help=LANDMARKS_HELP, metavar="POINTS.JSON")
]
Results = Annotated[
    Path, typer.Option("--out", "-o", help="folder for results.jsonl, tables.md, tables.tex")
]
EvaluatedModels = Annotated[
    str | None,
    typer.Option(
        help="names or .safetensors files, with commas between; ROW=FILE calls the row ROW; "
        "NAME@landmarks draws the clip's real landmarks in place of what it hears"
    ),
]
Pairs = Annotated[
    Path | None,
    typer.Option(
        help="instead of models: a folder of your own videos, NAME/real.mp4 beside "
        "NAME/generated.mp4, or NAME.real.mp4 beside NAME.generated.mp4"
    ),
]
Judge = Annotated[
    str | None, typer.Option(help="a lip reader, by name or .safetensors file [no lip reading]")
]
Experts = Annotated[
    str,
    typer.Option(
        help="networks of `talkingface train sync` and `identity` that measure too, by name or "
        '.safetensors file, with commas between; "" for none'
    ),
]
Splits = Annotated[str, typer.Option(help="parts of the corpus, with commas between")]
Reference = Annotated[
    str | None, typer.Option(help="the row that others are compared with [the first model]")
]
AuthorCompat = Annotated[
    bool,
    typer.Option("--author-compat", help="also PSNR, SSIM and LMD as ATVGnet's script has them"),
]
Again = Annotated[
    bool,
    typer.Option("--overwrite", help="write the tables anew; what is measured is used again"),
]


@app.command()
def generate(
    portrait: Annotated[Path, typer.Argument(help="a picture with a face")],
    speech: Annotated[Path, typer.Argument(help="a recording, or a video with sound")],
    output: Annotated[Path, typer.Option("--output", "-o", help="the .mp4 to write")],
    model: Model = "cran",
    face: FaceChoice = None,
    landmarks: Landmarks = None,
    crop: Crop = False,
    max_size: MaxSize = 1280,
    sheet: Annotated[
        Path | None, typer.Option(help="also write frames side by side as this .png")
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(help="also write attention, colour and bare face side by side as this .mp4"),
    ] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Make a talking video of one portrait and one recording.

    Where no face is found (drawings, statues), --face or --landmarks say where it is; the command
    `landmarks` writes a file to begin with.

    Example: talkingface generate portrait.jpg speech.wav -o talking.mp4
    """
    number, box = parse_face(face)
    from talkingface import pipeline

    job = pipeline.Job(
        image=portrait,
        audio=speech,
        output=output,
        sheet=sheet,
        crop=crop,
        face=number,
        box=box,
        landmarks=landmarks,
        max_size=max_size,
        maps=maps,
        overwrite=overwrite,
    )
    job.check()
    speaker = pipeline.load(model, device)
    with _bar("frames") as progress:
        result = speaker.run(job, progress)
    _report(result)
    if sheet is not None:
        print(f"{sheet}: contact sheet")
    if maps is not None:
        print(f"{maps}: attention, colour and face")


@app.command("landmarks")
def find_landmarks(
    portrait: Annotated[Path, typer.Argument(help="a picture with a face")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="the .json to write")
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="the picture with the numbered points, as this .png")
    ] = None,
    face: FaceChoice = None,
    landmarks: Landmarks = None,
    overwrite: Overwrite = False,
) -> None:
    """Write where the 68 points of a face are, to be corrected by hand for `generate --landmarks`.

    With --landmarks and --overlay it shows a file that was corrected.

    Example: talkingface landmarks portrait.jpg -o points.json --overlay points.png
    """
    number, box = parse_face(face)
    from talkingface import pipeline

    notes = pipeline.find_landmarks(
        portrait,
        output,
        overlay=overlay,
        face=number,
        box=box,
        landmarks=landmarks,
        overwrite=overwrite,
    )
    for note in notes:
        _note(note)
    for path, what in ((output, "68 points"), (overlay, "the picture with its points")):
        if path is not None:
            print(f"{path}: {what}")


@app.command()
def batch(
    portraits: Annotated[list[Path], typer.Argument(help="pictures with a face each")],
    speech: Annotated[list[Path], typer.Option("--speech", help="a recording; repeat for more")],
    out_dir: Annotated[Path, typer.Option(help="folder for <portrait>-<recording>.mp4")],
    model: Model = "cran",
    crop: Crop = False,
    max_size: MaxSize = 1280,
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Make a video of every portrait with every recording; a failed one does not stop the others.

    Example: talkingface batch anna.jpg ben.jpg --speech hello.wav --speech bye.wav --out-dir videos
    """
    from talkingface import pipeline

    jobs = pipeline.plan(
        portraits, speech, out_dir, crop=crop, max_size=max_size, overwrite=overwrite
    )
    speaker = pipeline.load(model, device)
    pipeline.make_folder(out_dir)
    results = speaker.generate_many(jobs, _report)
    failed = sum(result.error is not None for result in results)
    print(f"{len(results) - failed} of {len(results)} videos written to {out_dir}")
    if failed:
        raise typer.Exit(2)


@app.command("models")
def list_models() -> None:
    """List the models, their size, data, licence and measures.

    Example: talkingface models
    """
    from talkingface import weights

    for info in weights.listing():
        size = f"{info.parameters / 1e6:.2f} M parameters"
        print(f"{info.name}: family {info.family}, {size}, licence {info.licence}")
        print(f"    {'data' if info.path else 'what'}: {info.training_data}")
        if info.metrics:
            print("    " + ", ".join(f"{key} {value:g}" for key, value in info.metrics.items()))
        if info.sha256:
            print(f"    sha256: {info.sha256}")


@app.command()
def sheet(
    source: Annotated[Path, typer.Argument(metavar="VIDEO", help="a video file")],
    output: Annotated[Path, typer.Option("--output", "-o", help="the .png to write")],
    every: Annotated[int, typer.Option(help="one frame in so many (at 25 fps)")] = 3,
    seconds: Annotated[float, typer.Option(help="how much of the video's beginning")] = 3.0,
    columns: Annotated[int, typer.Option(help="pictures in a row")] = 13,
    side: Annotated[int, typer.Option(help="pixels of each picture's side")] = 128,
    overwrite: Overwrite = False,
) -> None:
    """Lay frames of a video side by side in one picture.

    Example: talkingface sheet talking.mp4 -o sheet.png --every 2
    """
    from talkingface import media, picture, pipeline, video

    media.check_output(output, overwrite)
    frames = video.read_frames(source)
    shown = pipeline.contact_sheet(frames, seconds=seconds, every=every, columns=columns, side=side)
    picture.write_png(output, shown, overwrite)
    print(f"{output}: {shown.shape[1]}x{shown.shape[0]} pixels")


@app.command()
def prepare(
    corpus: Annotated[str, typer.Argument(help="what is read: grid")],
    source: Annotated[Path, typer.Argument(help="its folder; grid: <speaker>/<clip>.mpg")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the shards")],
    portraits: Annotated[
        Path | None, typer.Option(help="also a folder of faces, for training in silence")
    ] = None,
    natural_pose: Annotated[
        bool, typer.Option("--natural-pose", help="one crop per clip: the head moves in it")
    ] = False,
    hold_out: Annotated[
        list[str] | None, typer.Option(help="a speaker kept from training; repeat [grid: s4, s26]")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="processes [one per core]")] = None,
) -> None:
    """Turn a corpus into training shards; run again, it goes on where it was stopped.

    Example: talkingface prepare grid GRID -o shards
    """
    from rich.console import Console
    from rich.table import Table

    from talkingface.data import prepare as preparation
    from talkingface.data.sources import STRANGERS

    with _bar("clips") as progress:
        summary = preparation.prepare(
            source,
            output,
            corpus=corpus,
            natural_pose=natural_pose,
            jobs=jobs,
            held_out=hold_out or STRANGERS,
            portraits=portraits,
            progress=progress,
        )
    head, *rows = summary.table()
    table = Table(*head, box=None)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    splits = ", ".join(f"{count} {name}" for name, count in summary.splits().items())
    print(f"{output}: {summary.frames / 25:.0f} s of faces; clips: {splits}")


@train_app.command("lipreader")
def train_lipreader(
    shards: Shards,
    output: RunFolder,
    preset: Annotated[
        str, typer.Option(help="trainer (guides a generator) or judge (scores it), or published")
    ] = "trainer",
    minutes: Minutes = None,
    seed: Annotated[int | None, typer.Option(help="of everything random [the preset's]")] = None,
    device: Device = "auto",
) -> None:
    """Train a lip reader on real words; goes on where it stopped.

    The one that guides a generator and the one that scores it learn from different sentences.

    Example: talkingface train lipreader shards -o runs/judge --preset judge
    """
    from dataclasses import replace

    from talkingface import pipeline
    from talkingface.data.shards import open_cache
    from talkingface.training import loop, presets, reading

    if preset not in presets.READING:
        raise BadRequest(f"no preset is called {preset!r}; known: {', '.join(presets.READING)}")
    training = presets.READING[preset]
    training = training if seed is None else replace(training, seed=seed)
    own = loop.start_processes(pipeline.find_device(device))
    recipe = reading.ReadingRecipe(training, open_cache(shards), own)
    _train(recipe, output, loop.LoopOptions(minutes=minutes, seed=training.seed))


@train_app.command("identity")
def train_identity(
    shards: Shards,
    output: RunFolder,
    preset: Preset = "identity",
    minutes: Minutes = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train the face embedding that measures whose face it is; goes on where it stopped.

    Example: talkingface train identity shards -o runs/identity
    """
    from dataclasses import replace

    from talkingface import pipeline
    from talkingface.data.shards import open_cache
    from talkingface.training import identity, loop, presets

    if preset not in presets.IDENTITY:
        raise BadRequest(f"no preset is called {preset!r}; known: {', '.join(presets.IDENTITY)}")
    training = replace(presets.IDENTITY[preset], seed=seed)
    own = loop.start_processes(pipeline.find_device(device))
    recipe = identity.IdentityRecipe(training, open_cache(shards), own)
    _train(recipe, output, loop.LoopOptions(minutes=minutes, seed=seed))


@train_app.command("sync")
def train_sync(
    shards: Shards,
    output: RunFolder,
    preset: Preset = "sync",
    minutes: Minutes = None,
    seed: Annotated[int | None, typer.Option(help="of everything random [the preset's]")] = None,
    device: Device = "auto",
) -> None:
    """Train the embedding that measures whether lips and sound agree; goes on where it stopped.

    Example: talkingface train sync shards -o runs/sync
    """
    from dataclasses import replace

    from talkingface import pipeline
    from talkingface.data.shards import open_cache
    from talkingface.training import loop, presets, sync

    if preset not in presets.SYNC:
        raise BadRequest(f"no preset is called {preset!r}; known: {', '.join(presets.SYNC)}")
    training = presets.SYNC[preset]
    training = training if seed is None else replace(training, seed=seed)
    own = loop.start_processes(pipeline.find_device(device))
    recipe = sync.SyncRecipe(training, open_cache(shards), own)
    _train(recipe, output, loop.LoopOptions(minutes=minutes, seed=training.seed))


@train_app.command("cran")
def train_cran(
    shards: Shards,
    output: RunFolder,
    preset: Preset = "cran",
    steps: Steps = None,
    reader: Annotated[
        Path | None, typer.Option(help="the trained lip reader, D_l: a .safetensors file")
    ] = None,
    init: Init = None,
    everyone: Everyone = False,
    without: Without = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="another value for a switch, as scheme=frame or output=direct"),
    ] = None,
    minutes: Minutes = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a generator, first without and then with its critics; goes on where it stopped.

    Example: talkingface train cran shards -o runs/cran --reader runs/lipreader/weights.safetensors
    """
    from talkingface.training import cran, presets

    training = presets.choose(presets.CRAN, preset, steps, without or [], change or [])
    own = {"reader": reader, "init": init}
    _train_generator(
        cran.CranRecipe, training, shards, output, everyone, minutes, seed, device, own
    )


@train_app.command("atvg")
def train_atvg(
    shards: Shards,
    output: RunFolder,
    preset: Preset = "atvg",
    steps: Steps = None,
    basis: Annotated[
        Path | None,
        typer.Option(help="what `talkingface landmark-space` wrote [computed from the shards]"),
    ] = None,
    init: Init = None,
    everyone: Everyone = False,
    without: Without = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="another value for a switch, as recurrence=frame"),
    ] = None,
    minutes: Minutes = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train ATVGnet: AT-net, VG-net on real landmarks, then both; goes on where it stopped.

    Example: talkingface train atvg shards -o runs/atvg
    """
    from talkingface.training import atvg, presets

    training = presets.choose(presets.ATVG, preset, steps, without or [], change or [])
    own = {"basis": basis, "init": init}
    _train_generator(
        atvg.AtvgRecipe, training, shards, output, everyone, minutes, seed, device, own
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
    device: Device = "auto",
) -> None:
    """Train a published baseline; goes on where it stopped.

    Example: talkingface train baseline shards -o runs/chung --preset chung
    """
    from talkingface.training import presets

    training = presets.choose(presets.BASELINES, preset, steps, without or [], change or [])
    recipe, own = presets.BASELINE_RECIPES[type(training)], {"init": init}
    _train_generator(recipe, training, shards, output, everyone, minutes, seed, device, own)


@train_app.command("table")
def train_table(
    name: Annotated[str, typer.Argument(help="which table: song-table1")],
    shards: Shards,
    output: Annotated[Path, typer.Option("--output", "-o", help="folder, one run for each row")],
    reader: Annotated[
        str, typer.Option(help="the trained lip reader, D_l: a name or a .safetensors file")
    ] = "lipreader",
    only: Annotated[
        list[str] | None, typer.Option(help="a row by the name of its folder; repeat [all]")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train every model of a paper's table, one after the other; goes on where it stopped.

    Example: talkingface train table song-table1 shards -o runs
    """
    from talkingface import pipeline
    from talkingface.data.shards import open_cache
    from talkingface.training import loop, tables

    cache, chosen = open_cache(shards), loop.start_processes(pipeline.find_device(device))
    for row in tables.rows_of(name, only or []):
        recipe = tables.recipe_of(row, cache, output, reader, chosen, seed)
        _train(recipe, output / row.name, loop.LoopOptions(seed=seed))


@app.command("landmark-space")
def landmark_space(
    shards: Shards,
    output: Annotated[Path, typer.Option("--output", "-o", help="the .safetensors to write")],
    preset: Annotated[str, typer.Option(help="the training it is for")] = "atvg",
    components: Annotated[int | None, typer.Option(min=1, help="how many [the preset's]")] = None,
    everyone: Everyone = False,
    overwrite: Overwrite = False,
) -> None:
    """Compute the mean and the principal components of a corpus's landmarks, for ATVGnet.

    Example: talkingface landmark-space shards -o basis.safetensors
    """
    from talkingface import media
    from talkingface.data import landmark_space as spaces
    from talkingface.data.shards import open_cache
    from talkingface.models.atvg import LandmarkSpace
    from talkingface.training import presets

    media.check_output(output, overwrite)
    config = presets.choose(presets.ATVG, preset, None, [], []).model.at
    count = config.components if components is None else components
    points = LandmarkSpace(config.components, config.points).points
    cache = open_cache(shards)
    clips = cache.split(*_learned_from(everyone))
    basis, share = spaces.fit(cache, clips, count, points)
    speaking = sum(not clip.silent for clip in clips)
    spaces.save(basis, output, f"{speaking} clips of {shards.name}", overwrite)
    print(f"{output}: {count} components of {len(points)} points, {share:.1%} of the variance")


@app.command()
def evaluate(
    out: Results,
    models: EvaluatedModels = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", "--data", help="what `talkingface prepare` wrote")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="a paper's table and its figures: song-table1, atvgnet-table")
    ] = None,
    runs: Annotated[
        Path, typer.Option(help="with --preset: what `talkingface train table` wrote")
    ] = Path("runs"),
    pairs: Pairs = None,
    judge: Judge = None,
    experts: Experts = "sync,identity",
    splits: Splits = "test,stranger",
    clips: Annotated[int | None, typer.Option(help="at most so many of each split [all]")] = None,
    reference: Reference = None,
    author_compat: AuthorCompat = False,
    jobs: Annotated[int | None, typer.Option(help="processes [one per core]")] = None,
    device: Device = "cpu",
    overwrite: Again = False,
) -> None:
    """Measure models on held-out clips, beside real video and the still picture; or a paper's whole
    table with its figures (--preset); or anybody's videos beside real ones (--pairs).

    Every mean has its 95 % interval over clips; a star marks what differs from the reference. A run
    that was stopped goes on when called again, and the same call gives the same numbers. Each
    model's speed alone is in speed.json.

    Example: talkingface evaluate --models cran,atvg,atvg@landmarks --cache shards --out results

    Example: talkingface evaluate --preset song-table1 --runs runs --cache shards --out results

    Example: talkingface evaluate --pairs videos --out results
    """
    from talkingface import evaluation, media, pipeline
    from talkingface.evaluation import reproduce

    if sum(what is not None for what in (models, preset, pairs)) != 1:
        raise BadRequest("give --models, --preset or --pairs: what is to be measured?")
    if (pairs is None) != (cache is not None):
        raise BadRequest("--models and --preset need --cache, --pairs has its own videos")
    if pairs is not None and (judge, reference, clips) != (None, None, None):
        raise BadRequest("--judge, --reference and --clips say nothing about --pairs; leave them")
    outputs = evaluation.outputs(out, with_speed=pairs is None)
    outputs += [] if preset is None else reproduce.outputs(preset, out)
    if out.is_dir():
        for path in outputs:
            media.check_output(path, overwrite)
    chosen = str(pipeline.find_device(device))
    own: dict[str, Any] = {"experts": experts.split(",") if experts else [], "device": chosen}
    own |= {"author_compat": author_compat, "jobs": jobs if jobs is not None else _cores(chosen)}
    with _bar("clips") as progress:
        if cache is None:
            results = evaluation.evaluate_pairs(pairs or Path(), out, progress=progress, **own)
        else:
            own |= {"judge": judge, "clips": clips, "reference": reference}
            own |= {"splits": splits.split(","), "progress": progress}
            if preset is not None:
                results = reproduce.reproduce(preset, runs, cache, out, **own)
            else:
                results = evaluation.evaluate((models or "").split(","), cache, out, **own)
    for path in outputs:
        if path.suffix == ".md":
            print(path.read_text(encoding="utf-8"))
    failed = sum(result.error is not None for result in results)
    written = ", ".join(path.name for path in outputs)
    print(f"{out}: {len(results)} results, {failed} of them failed; {written}")
    if failed == len(results):
        raise typer.Exit(2)


@app.command()
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
    from talkingface.evaluation import robustness as disturbed

    with _bar("videos") as progress:
        trials = disturbed.measure(
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


@app.command()
def version() -> None:
    """Print the version."""
    print(f"talkingface {__version__}")


def parse_face(text: str | None) -> tuple[int | None, Box | None]:
    """`--face`: "2" -> (2, None); "10,20,64,64" -> (None, the box). Raises BadRequest."""
    if text is None:
        return None, None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 4 and all(math.isfinite(number) for number in numbers):
        x, y, width, height = numbers
        return None, (x, y, width, height)
    if len(numbers) == 1 and numbers[0].is_integer():
        return int(numbers[0]), None
    raise BadRequest(f"--face {text!r}: give a number from 1, or x,y,width,height in pixels")


def _report(result: JobResult) -> None:
    """One line of a finished job; a failed one's goes to standard error."""
    if result.error is not None:
        _complain(result.error)
        return
    if result.note is not None:
        _note(f"{result.job.image}: {result.note}")
    length = result.frames / 25
    print(f"{result.job.output}: {length:.2f} s, {result.frames} frames, in {result.seconds:.1f} s")


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _complain(error: TalkingFaceError) -> None:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)


def _cores(device: str) -> int:
    """As many as cores; one where they would share a GPU."""
    return os.cpu_count() or 1 if device == "cpu" else 1


def _learned_from(everyone: bool) -> tuple[str, ...]:
    """The splits that are trained on."""
    return ("train", "stranger") if everyone else ("train",)


def _train_generator(
    recipe: Callable[..., Recipe],
    training: GeneratorTraining,
    shards: Path,
    output: Path,
    everyone: bool,
    minutes: float | None,
    seed: int,
    device: str,
    own: dict[str, Path | None],
) -> None:
    """A generator's recipe on prepared shards; own: what only this recipe takes."""
    from talkingface import pipeline
    from talkingface.data.shards import open_cache
    from talkingface.training import loop

    splits = _learned_from(everyone)
    chosen = loop.start_processes(pipeline.find_device(device))
    made = recipe(training, open_cache(shards), splits, device=chosen, seed=seed, **own)
    _train(made, output, loop.LoopOptions(minutes=minutes, seed=seed))


def _train(recipe: Recipe, folder: Path, options: LoopOptions) -> None:
    """The shared loop under a progress bar, and where its files are."""
    from talkingface.training import loop

    loop.keep_memory()
    with _bar("steps") as progress:
        done = loop.run(recipe, folder, options, lambda step, losses: progress(step, recipe.steps))
    print(f"{folder}: {done} of {recipe.steps} steps; log.jsonl and weights.safetensors are there")


@contextmanager
def _bar(what: str) -> Iterator[Progress]:
    """A progress bar on standard error while somebody is looking."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    columns = (what, progress.BarColumn(), progress.MofNCompleteColumn())
    hidden = not console.is_terminal
    with progress.Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def main(argv: list[str] | None = None) -> None:
    """The `talkingface` command. A user's error is one line on standard error and exit code 2."""
    # Threads that wait by spinning bring a busy machine to a crawl; torch reads this on import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(argv, prog_name="talkingface")
    except TalkingFaceError as error:
        _complain(error)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
