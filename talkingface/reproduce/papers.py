"""Reproduce a paper's table and figures from the models that `talkingface train table` made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from talkingface import media, picture
from talkingface.audio import FPS
from talkingface.data.clip import split_name
from talkingface.data.dataset import Cache, ClipInfo
from talkingface.data.shards import open_cache
from talkingface.errors import BadRequest
from talkingface.evaluation import clip_tables, tables
from talkingface.evaluation.evaluator import EvaluatedModel, Evaluator, open_model
from talkingface.evaluation.results import REAL, Identity, Result
from talkingface.evaluation.run import evaluate, held_out_splits, speaking_clips
from talkingface.evaluation.tables import Column, Table
from talkingface.reproduce import figures
from talkingface.reproduce.trainings import trained
from talkingface.types import Frames, Picture

JUDGE = "judge"  # the lip reader of the package with which no generator was trained
FIRST: Identity = "first frame"  # the identity that pixels are compared with
DRIFT = "drift.png"
SECONDS = 30.0  # of speech in the plot of identity drift


@dataclass(frozen=True)
class Sheet:
    """A figure: its file, and the rows of the table that it shows below the real video."""

    file: str
    draw: Callable[..., Picture]
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Paper:
    """Layout of a paper's table.

    columns: those of the paper, then ours. reference: the row that the others are compared with.
    long: rows whose identity drift is plotted. further: models of the package that are evaluated
    too. author_compat: also measure as ATVGnet's script does.
    """

    columns: tuple[Column, ...]
    reference: str
    sheets: tuple[Sheet, ...]
    long: tuple[str, ...] = ()
    further: tuple[str, ...] = ()
    author_compat: bool = False


SONG_COLUMNS: tuple[Column, ...] = (
    ("PSNR", "psnr", 2),
    ("SSIM", "ssim", 3),
    ("LMD", "lmd_pixels", 2),
    ("LRA top-1 %", "top1", 1),
    ("LRA top-5 %", "top5", 1),
    ("mouth PSNR", "mouth_psnr", 2),
    ("aperture corr.", "correlation", 3),
    ("amplitude", "amplitude", 2),
    ("jitter", "jitter", 3),
    ("sharpness", "sharpness", 2),
    ("sync conf.", "sync_confidence", 3),
    ("sync dist.", "sync_distance", 3),
    ("identity", "identity", 3),
)
ATVGNET_COLUMNS: tuple[Column, ...] = (
    ("LMD", "lmd_pixels", 2),
    ("SSIM", "ssim", 3),
    ("PSNR", "psnr", 2),
    *clip_tables.AUTHOR_COLUMNS,
)
DRIVEN = "atvg@landmarks"  # the setting of the poster's numbers: the clip's real landmarks
FULL = "L_r,I,V,l"
LOSSES = ("L_r", "L_r,V", "L_r,I,V", FULL)
SCHEMES = ("sequential", "frame to frame", "L_r")  # L_r is the recurrent one

PAPERS: Mapping[str, Paper] = {
    "song-table1": Paper(
        SONG_COLUMNS,
        FULL,
        (
            Sheet(
                "fig3.png", figures.methods, ("Chung 2017", "Zhou 2019", "Chen 2018", FULL, "atvg")
            ),
            Sheet("fig4.png", figures.methods, LOSSES),
            Sheet("fig5.png", figures.schemes, SCHEMES),
        ),
        SCHEMES,
        ("cran", "atvg"),
    ),
    "atvgnet-table": Paper(
        ATVGNET_COLUMNS,
        "atvg",
        (Sheet("methods.png", figures.methods, ("Chen 2018", "Chung 2017", "atvg", DRIVEN)),),
        further=("atvg", DRIVEN),
        author_compat=True,
    ),
    "tiny": Paper(SONG_COLUMNS, "L_r", (Sheet("fig4.png", figures.methods, ("L_r",)),), ("L_r",)),
}


def outputs(table: str, out: Path) -> list[Path]:
    """Return the files that `reproduce` writes beside those of `evaluate`. Raises BadRequest."""
    paper = _paper(table)
    drawn = [sheet.file for sheet in paper.sheets] + ([DRIFT] if paper.long else [])
    return [out / name for name in (f"{table}.md", f"{table}.tex", *drawn)]


def reproduce(
    table: str,
    runs: Path,
    cache: Path,
    out: Path,
    *,
    judge: str | Path | None = None,
    splits: Sequence[str] | None = None,
    reference: str | None = None,
    device: str = "cpu",
    **options: Any,
) -> list[Result]:
    """Evaluate a table's models; write the paper's table and figures, and the files of `evaluate`.

    TABLE.md and TABLE.tex have the paper's columns, for each split. The figures are of the first
    clip of the first split. table: a key of `PAPERS`. runs: the folder of `talkingface train
    table`. judge: [that of the package]. reference: the row that others are compared with [the
    paper's method]. The other arguments, and the errors, are those of `evaluate`; also BadRequest,
    which names the models that are not trained.
    """
    paper = _paper(table)
    reference = reference or paper.reference
    models = [f"{label}={path}" for label, path in trained(table, runs).items()]
    models += paper.further
    options |= {"judge": judge or JUDGE, "identities": (FIRST,), "splits": splits}
    options["author_compat"] = paper.author_compat or options.get("author_compat", False)
    results = evaluate(models, cache, out, reference=reference, device=device, **options)
    _write(as_printed(results, paper.columns, reference), out / f"{table}.md", reference)
    if not paper.sheets and not paper.long:
        return results
    opened = open_cache(cache)
    first = (splits or held_out_splits(opened))[0]
    _draw(paper, models, opened, out, first, device)
    return results


def _paper(table: str) -> Paper:
    if table not in PAPERS:
        raise BadRequest(f"no table is called {table!r}; known: {', '.join(PAPERS)}")
    return PAPERS[table]


def as_printed(
    results: Sequence[Result], columns: Sequence[Column], reference: str
) -> dict[str, Table]:
    """Return the paper's table for each split, with real video, the still picture and chance."""
    printed = {}
    for split in dict.fromkeys(r.split for r in results):
        own = [r for r in results if (r.split, r.identity) == (split, FIRST)]
        compared = [r for r in own if r.model == reference]
        rows: dict[str, tables.Row] = {}
        for name in dict.fromkeys(r.model for r in own):
            beside = [] if name == reference else compared
            row = clip_tables.estimates([r for r in own if r.model == name], beside)
            rows[name] = tables.percent(row, clip_tables.READ)
        if any(key == "top1" for _, key, _ in columns) and any(r.ranks for r in own):
            rows["chance"] = {f"top{n}": 100 * n / clip_tables.vocabulary_of(own) for n in (1, 5)}
        caption = (
            clip_tables.AUTHOR_CAPTION if set(clip_tables.AUTHOR_COLUMNS) <= set(columns) else ""
        )
        printed[split] = Table("method", rows, columns, caption)
    return printed


def _write(printed: Mapping[str, Table], path: Path, reference: str) -> None:
    """Write the tables as Markdown and as LaTeX."""
    legend = tables.legend(reference)
    parts = [f"{legend}\n"]
    for split, one in printed.items():
        parts += [f"## {split_name(split)}\n", *([f"{one.caption}\n"] if one.caption else [])]
        parts.append(tables.table(one.first, one.rows, one.columns))
    media.write_text(path.with_suffix(".md"), "\n".join(parts))
    floats = [
        tables.tabular(one, " ".join(filter(None, (f"{split_name(split)}.", one.caption, legend))))
        for split, one in printed.items()
    ]
    media.write_text(path.with_suffix(".tex"), "\n".join(floats))


def _draw(
    paper: Paper, models: Iterable[str], cache: Cache, out: Path, split: str, device: str
) -> None:
    """Draw the paper's figures of one clip, and the plot of drift of a long one."""
    evaluator = Evaluator(cache, device=device)
    opened = {c.name: c for c in (open_model(name, device) for name in models)}
    clip = speaking_clips(cache, split)[0]
    real = evaluator.real(clip).frames
    for sheet in paper.sheets:
        shown = {name: _generated(evaluator, opened[name], clip) for name in sheet.rows}
        options = (
            {"words": clip.words} if sheet.draw is figures.methods else {"first": _first(clip)}
        )
        sheet_picture = sheet.draw({REAL: real, **shown}, **options)
        picture.write_png(out / sheet.file, sheet_picture, overwrite=True)
    if paper.long:
        drawn = _drift(evaluator, {name: opened[name] for name in paper.long}, split)
        picture.write_png(out / DRIFT, drawn, overwrite=True)


def _first(clip: ClipInfo) -> int:
    """Return the frame in which the first word begins."""
    return int(clip.words[0][1] * FPS) if clip.words else 0


def _generated(evaluator: Evaluator, model: EvaluatedModel, clip: ClipInfo) -> Frames:
    if model.generator is None:
        raise ValueError(f"{model.name} makes no video")
    return evaluator.generate(model.generator, clip, clip, driven=model.driven).frames


def _drift(evaluator: Evaluator, models: Mapping[str, EvaluatedModel], split: str) -> Picture:
    """Plot the drift of each scheme from the identity over a long clip."""
    available = sum(c.frames for c in speaking_clips(evaluator.cache, split)) / FPS
    long = figures.long_clip(evaluator.cache, split, seconds=min(SECONDS, np.floor(available)))
    rows = {}
    for name, model in models.items():
        if model.generator is not None:
            speech = long.speech(model.generator.config.speech)
            rows[name] = evaluator.generate_from(model.generator, long.portrait, speech).frames
    return figures.drift_plot(rows, long.picture)
