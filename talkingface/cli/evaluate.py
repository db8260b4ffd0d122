"""Command that measures models and videos: a table of evaluations, chosen by the options given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import typer

from talkingface.cli.app import app
from talkingface.cli.controls import (
    REQUIRED,
    WORKERS,
    option,
    parse_workers,
    takes_report,
    with_options,
)
from talkingface.cli.options import (
    Device,
    Reporter,
    Results,
    print_json,
)
from talkingface.controls import Controls
from talkingface.errors import BadRequest

HELP = """Measure models, or anybody's videos.

Models are measured on held-out clips, beside real video and the still picture; or a paper's whole
table with its figures (--preset); or anybody's videos beside real ones (--pairs); or the lips that
models predict from sound alone (--free-speech, --phones, --noise, together or apart; every model
that predicts them unless --models names some); or finished frames of still portraits (--portraits).

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
Options = Mapping[str, Any]  # of the command, by name; None or False where one is not given


@dataclass(frozen=True)
class Outcome:
    """Files and results of one evaluation. line: the last that is printed, below the tables."""

    files: Sequence[Path]
    results: Sequence[Any]
    line: str

    @property
    def failed(self) -> int:
        """Number of results that are errors."""
        return sum(getattr(result, "error", None) is not None for result in self.results)


@dataclass(frozen=True)
class Evaluation:
    """A kind of evaluation. asked: options that ask for it; takes: those that it takes besides."""

    asked: tuple[str, ...]
    takes: tuple[str, ...]
    run: Callable[[Options, Reporter], Iterator[Outcome]]


# Options by name: their types, as typer has them, and their defaults.
# Options by name, for `with_options`.
OPTIONS: dict[str, tuple[Any, Any]] = {
    "out": (Results, REQUIRED),
    "models": option(
        str | None,
        None,
        help="names or .safetensors files, with commas between; ROW=FILE calls the row ROW; "
        "NAME@landmarks draws the clip's real landmarks in place of predicted ones; "
        "NAME@lips draws nothing, only where it moves the lips is measured",
    ),
    "cache": option(
        Path | None, None, "--cache", "--data", help="what `talkingface prepare` wrote"
    ),
    "preset": option(str | None, None, help="a table: song-table1, atvgnet-table"),
    "runs": option(Path, Path("runs"), help="with --preset: what `talkingface train table` wrote"),
    "pairs": option(
        Path | None,
        None,
        help="instead of models: a folder of your own videos, NAME/real.mp4 beside "
        "NAME/generated.mp4, or NAME.real.mp4 beside NAME.generated.mp4",
    ),
    "free_speech": option(
        Path | None,
        None,
        "--free-speech",
        metavar="FOLDER",
        help="predicted lips against real ones: a folder of NAME.flac (any recording) beside "
        "NAME.npz, whose `mesh` (T, 478, 2) is the speaker's face at 25 fps, aligned, in "
        "interocular units; writes free-speech.jsonl and .md",
    ),
    "phones": option(
        Path | None,
        None,
        "--phones",
        metavar="FOLDER",
        help="whether predicted lips close at p, b, m, are rounded at u, o, w and open at a: a "
        "folder of recordings and phones.json, which says when each phone is spoken (as "
        "tests/fixtures/voices); writes phones.jsonl and .md",
    ),
    "noise": option(
        Path | None,
        None,
        "--noise",
        metavar="FOLDER",
        help="predicted lips on silence, hiss, an empty room and music, and on a folder's "
        "recordings with noise, through a telephone, from far away; writes noise.jsonl and .md",
    ),
    "video": option(
        Path | None,
        None,
        "--video",
        metavar="PORTRAIT",
        help="with --free-speech: this picture (as examples/portrait.jpg) speaks every recording, "
        "and the lips are found again in the finished videos, which stay in OUT/videos",
    ),
    "portraits": option(
        Path | None,
        None,
        "--portraits",
        metavar="FOLDER",
        help="finished frames of still portraits of anybody, a folder of pictures: whether lips "
        "close in silence and at p, b, m (the sentences of --phones [tests/fixtures/voices]), the "
        "colour and sharpness of mouths, what should be still; writes portraits.jsonl and .md",
    ),
    "sample": option(
        int | None,
        None,
        help="with --portraits: only so many, chosen by the hash of their names [all]",
    ),
    "likeness": option(
        bool,
        False,
        "--likeness",
        help="with --portraits: also dlib's distance of picture and frames (talkingface[likeness])",
    ),
    "sheet": option(
        bool,
        False,
        "--sheet",
        help="with --portraits: also portraits-MODEL-N.png, a row of mouths at real size for each "
        "portrait, open and at p, b, m",
    ),
    "alive": option(
        bool,
        False,
        "--alive",
        help="with --portraits, or --free-speech and --video: head, brows and eyes move as in "
        "`generate` [only the mouth moves]",
    ),
    "judge": option(
        str | None, None, help="a lip reader, by name or .safetensors file [no lip reading]"
    ),
    "experts": option(
        str,
        "sync,identity",
        help="networks of `talkingface train sync` and `identity` that measure too, by name or "
        '.safetensors file, with commas between; "" for none',
    ),
    "splits": option(
        str | None,
        None,
        help="parts of the corpus, with commas between [test and unseen, those that are there]",
    ),
    "clips": option(int | None, None, help="at most so many of each split [all]"),
    "reference": option(
        str | None, None, help="the row that others are compared with [the first model]"
    ),
    "author_compat": option(
        bool, False, "--author-compat", help="also PSNR, SSIM and LMD as ATVGnet's script has them"
    ),
    **WORKERS,
    "device": (Device, "cpu"),
    "overwrite": option(
        bool, False, "--overwrite", help="write the tables anew; what is measured is used again"
    ),
}


@app.command(help=HELP)
@takes_report
@partial(with_options, argument="options", options=OPTIONS, build=dict)
def evaluate(options: dict[str, Any], report: Reporter) -> None:
    """Run the evaluation that the options ask for; HELP is what the user reads."""
    chosen = next((kind for kind in EVALUATIONS if _given(options, kind.asked)), EVALUATIONS[-1])
    _check_options(chosen, options)
    outcomes = []
    for outcome in chosen.run(options, report):
        outcomes.append(outcome)
        for path in outcome.files:
            if path.suffix == ".md":
                report.summary(path.read_text(encoding="utf-8"))
        report.summary(outcome.line)
    if report.json:
        print_json([_facts(outcome) for outcome in outcomes])
    if all(outcome.failed == len(outcome.results) for outcome in outcomes):
        raise typer.Exit(2)


def _given(options: Options, names: Sequence[str]) -> list[str]:
    """Return those of these options that are given, as the user writes them."""
    return [f"--{name.replace('_', '-')}" for name in names if options[name] not in (None, False)]


def _facts(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome without the curves of its results: numbers per frame are in the files."""
    results = [
        {key: value for key, value in asdict(result).items() if not _is_curve(value)}
        for result in outcome.results
    ]
    return {"files": outcome.files, "failed": outcome.failed, "results": results}


def _is_curve(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_is_curve, value.values()))
    return isinstance(value, list) and not all(isinstance(one, dict) for one in value)


def _check_options(chosen: Evaluation, options: Options) -> None:
    """Raise BadRequest for options that say nothing about what is measured."""
    asked = _given(options, chosen.asked)
    if chosen is not EVALUATIONS[0] and _given(options, ("sample", "likeness", "sheet")):
        raise BadRequest("--sample, --likeness and --sheet say how to measure --portraits: add it")
    if "--portraits" not in asked and options["video"] and not options["free_speech"]:
        raise BadRequest(
            "--video says which portrait speaks the recordings of --free-speech: add it"
        )
    known = {"out", "models", "runs", "experts", "device", "overwrite", "alive"}
    others = [name for name in options if name not in known | {*chosen.asked, *chosen.takes}]
    if wrong := _given(options, others):
        raise BadRequest(f"{', '.join(wrong)} says nothing about {', '.join(asked)}; leave it away")


def _device(options: Options) -> str:
    from talkingface import pipeline

    return str(pipeline.find_device(options["device"]))


def _names(text: str | None) -> list[str] | None:
    return text.split(",") if text else None


# --- portraits ------------------------------------------------------------------------------------


def _portraits(options: Options, report: Reporter) -> Iterator[Outcome]:
    """Measure finished frames of portraits."""
    if options["models"] is None:
        raise BadRequest("--portraits needs --models: whose frames are to be measured?")
    from talkingface.evaluation import portrait_checks

    voices = options["phones"] or portrait_checks.VOICES
    if not options["phones"] and not voices.is_dir():
        raise BadRequest(
            f"{voices}: does not exist here; give --phones FOLDER, recordings and "
            "phones.json (as tests/fixtures/voices of the repository)"
        )
    out: Path = options["out"]
    with report.progress("portraits") as progress:
        results = portrait_checks.evaluate_portraits(
            options["models"].split(","),
            options["portraits"],
            out,
            voices=voices,
            controls=Controls(still=not options["alive"]),
            device=_device(options),
            progress=progress,
            **{name: options[name] for name in ("sample", "likeness", "sheet", "overwrite")},
        )
    yield _outcome(out, [out / portrait_checks.RESULTS, out / portrait_checks.TABLES], results)


def _outcome(out: Path, files: Sequence[Path], results: Sequence[Any]) -> Outcome:
    failed = sum(result.error is not None for result in results)
    written = ", ".join(path.name for path in files)
    line = f"{out}: {len(results)} results, {failed} of them failed; {written}"
    return Outcome(files, results, line)


# --- predicted lips -------------------------------------------------------------------------------


def _lips(options: Options, report: Reporter) -> Iterator[Outcome]:
    """Measure predicted lips, on the recordings of one folder or of several."""
    from talkingface import media
    from talkingface.evaluation import files, free_speech, noise_checks, phone_checks

    models, out = _names(options["models"]), options["out"]
    own: dict[str, Any] = {"device": _device(options), "overwrite": options["overwrite"]}
    film = {"portrait": options["video"], "controls": Controls(still=not options["alive"])}
    speak = partial(free_speech.evaluate_free_speech, **film)
    checks: dict[str, tuple[Any, Callable[[Path], object], Callable[..., Sequence[Any]]]] = {
        "free_speech": (free_speech, free_speech.find_recordings, speak),
        "phones": (phone_checks, phone_checks.read_sentences, phone_checks.evaluate_phones),
        "noise": (noise_checks, files.find_sounds, noise_checks.evaluate_noise),
    }
    asked = [(options[name], *check) for name, check in checks.items() if options[name] is not None]
    for folder, module, find, _ in asked:  # what is wrong is said before any work
        find(folder)
        for name in (module.RESULTS, module.TABLES) if out.is_dir() else ():
            media.check_output(out / name, options["overwrite"])
    for folder, module, _, measure in asked:
        with report.progress("recordings") as progress:
            results = measure(models, folder, out, progress=progress, **own)
        line = f"{out}: {len(results)} results in {module.RESULTS}, their tables in {module.TABLES}"
        yield Outcome([out / module.RESULTS, out / module.TABLES], results, line)


# --- videos ---------------------------------------------------------------------------------------


def _videos(options: Options, report: Reporter) -> Iterator[Outcome]:
    """Measure models on clips beside real video, a paper's table, or pairs of videos."""
    preset, pairs, cache, out = (options[name] for name in ("preset", "pairs", "cache", "out"))
    _check_videos(options)
    from talkingface import evaluation, media
    from talkingface.reproduce import papers

    files = evaluation.outputs(out, with_speed=pairs is None)
    files += [] if preset is None else papers.outputs(preset, out)
    if out.is_dir():
        for path in files:
            media.check_output(path, options["overwrite"])
    device = _device(options)
    own: dict[str, Any] = {
        "learned_metrics": _names(options["experts"]) or [],
        "author_compat": options["author_compat"],
        "device": device,
        "workers": parse_workers(**{name: options[name] for name in WORKERS}).for_device(device),
    }
    of_cache = {name: options[name] for name in ("judge", "clips", "reference")}
    of_cache["splits"] = _names(options["splits"])
    with report.progress("clips") as progress:
        own["progress"] = progress
        if pairs is not None:
            results = evaluation.evaluate_pairs(pairs, out, **own)
        elif preset is not None:
            results = papers.reproduce(preset, options["runs"], cache, out, **own, **of_cache)
        else:
            results = evaluation.evaluate(
                options["models"].split(","), cache, out, **own, **of_cache
            )
    yield _outcome(out, files, results)


def _check_videos(options: Options) -> None:
    """Raise BadRequest where options do not say one thing to measure."""
    if len(_given(options, ("models", "preset", "pairs"))) != 1:
        raise BadRequest(
            "give one of --models, --preset and --pairs, or --free-speech, --phones, --noise: what "
            "is to be measured?"
        )
    if (options["pairs"] is None) != (options["cache"] is not None):
        raise BadRequest("--models and --preset need --cache, --pairs has its own videos")
    if options["pairs"] and any(options[n] is not None for n in ("judge", "reference", "clips")):
        raise BadRequest("--judge, --reference and --clips say nothing about --pairs; leave them")


EVALUATIONS = (
    Evaluation(("portraits",), ("phones", "sample", "likeness", "sheet"), _portraits),
    Evaluation(("free_speech", "phones", "noise"), ("video",), _lips),
    Evaluation(
        ("models", "preset", "pairs"),
        ("cache", "judge", "splits", "clips", "reference", "author_compat", *WORKERS),
        _videos,
    ),
)
