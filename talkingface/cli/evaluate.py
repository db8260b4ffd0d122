"""Commands that measure models and videos."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from talkingface.cli.app import app
from talkingface.cli.options import (
    Again,
    Alive,
    AuthorCompat,
    Device,
    EvaluatedModels,
    Experts,
    FreeSpeech,
    Judge,
    Likeness,
    MouthSheet,
    Noise,
    Pairs,
    Phones,
    Portraits,
    Reference,
    Results,
    Sample,
    Splits,
    Video,
    progress_bar,
)
from talkingface.controls import Controls
from talkingface.errors import BadRequest


@app.command()
def evaluate(
    out: Results,
    models: EvaluatedModels = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", "--data", help="what `talkingface prepare` wrote")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="a table: song-table1, atvgnet-table"),
    ] = None,
    runs: Annotated[
        Path, typer.Option(help="with --preset: what `talkingface train table` wrote")
    ] = Path("runs"),
    pairs: Pairs = None,
    free_speech: FreeSpeech = None,
    phones: Phones = None,
    noise: Noise = None,
    video: Video = None,
    portraits: Portraits = None,
    sample: Sample = None,
    likeness: Likeness = False,
    sheet: MouthSheet = False,
    alive: Alive = False,
    judge: Judge = None,
    experts: Experts = "sync,identity",
    splits: Splits = None,
    clips: Annotated[int | None, typer.Option(help="at most so many of each split [all]")] = None,
    reference: Reference = None,
    author_compat: AuthorCompat = False,
    jobs: Annotated[int | None, typer.Option(help="processes [one per core]")] = None,
    device: Device = "cpu",
    overwrite: Again = False,
) -> None:
    """Measure models on held-out clips, beside real video and the still picture; or a paper's whole
    table with its figures (--preset); or anybody's videos beside real ones (--pairs); or the lips
    that models predict from sound alone (--free-speech, --phones, --noise, together or apart; every
    model that predicts them unless --models names some); or finished frames of still portraits
    (--portraits).

    Every mean has its 95 % interval over clips; a star marks what differs from the reference. A run
    that was stopped goes on when called again, and the same call gives the same numbers. Each
    model's speed alone is in speed.json. `talkingface robustness` and `talkingface head-motion`
    make further figures of the papers.

    Example: talkingface evaluate --models cran,atvg,atvg@landmarks --cache shards --out results

    Example: talkingface evaluate --preset song-table1 --runs runs --cache shards --out results

    Example: talkingface evaluate --pairs videos --out results

    Example: talkingface evaluate --free-speech speeches --phones tests/fixtures/voices --out lips

    Example: talkingface evaluate --portraits faces --models cran,atvg --sheet --out results
    """
    lips = {"--free-speech": free_speech, "--phones": phones, "--noise": noise}
    others: dict[str, object] = {"--preset": preset, "--cache": cache, "--pairs": pairs}
    others |= {"--judge": judge, "--splits": splits, "--clips": clips, "--jobs": jobs}
    others |= {"--reference": reference, "--author-compat": author_compat or None}
    if portraits is not None:
        others |= {"--free-speech": free_speech, "--noise": noise, "--video": video}
        _check_others("--portraits", others)
        own: dict[str, Any] = {"sample": sample, "likeness": likeness, "sheet": sheet}
        own["controls"] = Controls(still=not alive)
        _evaluate_portraits(portraits, phones, models, out, device, overwrite, **own)
        return
    if sample is not None or likeness or sheet:
        raise BadRequest("--sample, --likeness and --sheet say how to measure --portraits: add it")
    if any(folder is not None for folder in lips.values()):
        controls = Controls(still=not alive)
        _evaluate_lips(lips, others, models, out, video, controls, device, overwrite)
        return
    if video is not None:
        raise BadRequest(
            "--video says which portrait speaks the recordings of --free-speech: add it"
        )
    _check_measured(models, preset, pairs, cache, (judge, reference, clips))
    options: dict[str, Any] = {"learned_metrics": experts.split(",") if experts else []}
    options |= {"author_compat": author_compat, "jobs": jobs}
    chosen: dict[str, Any] = {"judge": judge, "clips": clips, "reference": reference}
    chosen |= {"splits": splits.split(",") if splits else None}
    _evaluate_clips(models, preset, runs, pairs, cache, out, device, overwrite, options, chosen)


def _evaluate_clips(
    models: str | None,
    preset: str | None,
    runs: Path,
    pairs: Path | None,
    cache: Path | None,
    out: Path,
    device: str,
    overwrite: bool,
    options: dict[str, Any],
    of_cache: Mapping[str, Any],
) -> None:
    """Measure videos. options: of every measurement; of_cache: those of clips beside."""
    from talkingface import evaluation, media, pipeline
    from talkingface.reproduce import papers

    outputs = evaluation.outputs(out, with_speed=pairs is None)
    outputs += [] if preset is None else papers.outputs(preset, out)
    if out.is_dir():
        for path in outputs:
            media.check_output(path, overwrite)
    chosen = str(pipeline.find_device(device))
    jobs = options["jobs"] if options["jobs"] is not None else _cores(chosen)
    own: dict[str, Any] = {**options, "device": chosen, "jobs": jobs}
    with progress_bar("clips") as progress:
        own["progress"] = progress
        if cache is None:
            results = evaluation.evaluate_pairs(pairs or Path(), out, **own)
        elif preset is not None:
            results = papers.reproduce(preset, runs, cache, out, **own, **of_cache)
        else:
            results = evaluation.evaluate((models or "").split(","), cache, out, **own, **of_cache)
    _print_tables(out, outputs, results)


def _evaluate_portraits(
    folder: Path,
    phones: Path | None,
    models: str | None,
    out: Path,
    device: str,
    overwrite: bool,
    **options: Any,
) -> None:
    """Measure finished frames of portraits. options: of `portrait_checks.evaluate_portraits`."""
    if models is None:
        raise BadRequest("--portraits needs --models: whose frames are to be measured?")
    from talkingface import pipeline
    from talkingface.evaluation import portrait_checks

    if phones is None and not portrait_checks.VOICES.is_dir():
        raise BadRequest(
            f"{portrait_checks.VOICES}: does not exist here; give --phones FOLDER, recordings and "
            "phones.json (as tests/fixtures/voices of the repository)"
        )
    with progress_bar("portraits") as progress:
        results = portrait_checks.evaluate_portraits(
            models.split(","),
            folder,
            out,
            voices=phones or portrait_checks.VOICES,
            device=str(pipeline.find_device(device)),
            overwrite=overwrite,
            progress=progress,
            **options,
        )
    outputs = [out / portrait_checks.RESULTS, out / portrait_checks.TABLES]
    _print_tables(out, outputs, results)


def _check_others(what: str, others: Mapping[str, object]) -> None:
    """Raise BadRequest for options that say nothing about what is measured. others: by name."""
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise BadRequest(f"{', '.join(given)} says nothing about {what}; leave it away")


def _check_measured(
    models: str | None,
    preset: str | None,
    pairs: Path | None,
    cache: Path | None,
    only_models: tuple[object, ...],
) -> None:
    """Raise BadRequest where options do not say one thing to measure.

    only_models: values of options that say nothing about pairs.
    """
    if sum(what is not None for what in (models, preset, pairs)) != 1:
        raise BadRequest(
            "give one of --models, --preset and --pairs, or --free-speech, --phones, --noise: what "
            "is to be measured?"
        )
    if (pairs is None) != (cache is not None):
        raise BadRequest("--models and --preset need --cache, --pairs has its own videos")
    if pairs is not None and any(value is not None for value in only_models):
        raise BadRequest("--judge, --reference and --clips say nothing about --pairs; leave them")


def _print_tables(out: Path, outputs: Sequence[Path], results: Sequence[Any]) -> None:
    """Print the written tables and a last line. Exits with 2 where every result failed."""
    for path in outputs:
        if path.suffix == ".md":
            print(path.read_text(encoding="utf-8"))
    failed = sum(result.error is not None for result in results)
    written = ", ".join(path.name for path in outputs)
    print(f"{out}: {len(results)} results, {failed} of them failed; {written}")
    if failed == len(results):
        raise typer.Exit(2)


def _evaluate_lips(
    folders: Mapping[str, Path | None],
    others: Mapping[str, object],
    models: str | None,
    out: Path,
    portrait: Path | None,
    controls: Controls,
    device: str,
    overwrite: bool,
) -> None:
    """Measure predicted lips. folders: by option. others: options that say nothing about them."""
    asked_for = ", ".join(name for name, folder in folders.items() if folder is not None)
    _check_others(asked_for, others)
    if portrait is not None and folders["--free-speech"] is None:
        raise BadRequest(
            "--video says which portrait speaks the recordings of --free-speech: add it"
        )
    from talkingface import media, pipeline
    from talkingface.evaluation import files, free_speech, noise_checks, phone_checks

    chosen = models.split(",") if models else None
    own: dict[str, Any] = {"device": str(pipeline.find_device(device)), "overwrite": overwrite}
    known: dict[str, tuple[Any, Callable[[Path], object], Callable[..., Sequence[object]]]] = {
        "--free-speech": (
            free_speech,
            free_speech.find_recordings,
            partial(free_speech.evaluate_free_speech, portrait=portrait, controls=controls),
        ),
        "--phones": (phone_checks, phone_checks.read_sentences, phone_checks.evaluate_phones),
        "--noise": (noise_checks, files.find_sounds, noise_checks.evaluate_noise),
    }
    asked = [(folder, *known[name]) for name, folder in folders.items() if folder is not None]
    for folder, module, find, _ in asked:  # what is wrong is said before any work
        find(folder)
        for name in (module.RESULTS, module.TABLES) if out.is_dir() else ():
            media.check_output(out / name, overwrite)
    for folder, module, _, measure in asked:
        with progress_bar("recordings") as progress:
            results = measure(chosen, folder, out, progress=progress, **own)
        print((out / module.TABLES).read_text(encoding="utf-8"))
        print(f"{out}: {len(results)} results in {module.RESULTS}, their tables in {module.TABLES}")


def _cores(device: str) -> int:
    """Return the number of cores, or one where processes would share a GPU."""
    return os.cpu_count() or 1 if device == "cpu" else 1
