"""Tables of the results of models on clips, computed from the lines of results.jsonl alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from talkingface.data.clip import split_name
from talkingface.errors import BadRequest
from talkingface.evaluation import intervals
from talkingface.evaluation.files import curve
from talkingface.evaluation.intervals import Sums
from talkingface.evaluation.results import REAL, STILL, Result
from talkingface.evaluation.tables import (
    Column,
    Estimate,
    Row,
    Table,
    as_estimate,
    compared,
    grouped,
    legend,
    markdown_table,
    mean,
    metric_means,
    metric_sums,
    percent,
    table,
    tabular,
)
from talkingface.metrics.lips import amplitude_ratio, correlation

CLIPS: tuple[Column, ...] = (("clips", "clips", 0), ("failed", "failed", 0))
LIP_COLUMNS: tuple[Column, ...] = (
    *CLIPS,
    ("frames without face", "missed", 0),
    ("corr.", "correlation", 3),
    ("corr. pooled", "pooled_correlation", 3),
    ("amplitude", "amplitude", 2),
    ("ampl. pooled", "pooled_amplitude", 2),
    ("lag frames", "lag", 2),
    ("LMD px", "lmd_pixels", 2),
    ("LMD / eyes", "lmd_interocular", 4),
    ("jitter px/frame²", "jitter", 3),
)
FURTHER_COLUMNS: tuple[Column, ...] = (
    ("silence / speech", "silence", 2),
    ("corr. of its landmarks", "head_correlation", 3),
    ("amplitude of its landmarks", "head_amplitude", 2),
    ("sync offset", "sync_offset", 2),
    ("sync confidence", "sync_confidence", 3),
    ("sync distance", "sync_distance", 3),
    ("identity", "identity", 3),
)
PIXEL_COLUMNS: tuple[Column, ...] = (
    ("PSNR dB", "psnr", 2),
    ("SSIM", "ssim", 4),
    ("mouth PSNR dB", "mouth_psnr", 2),
    ("mouth SSIM", "mouth_ssim", 4),
    ("sharpness / real", "sharpness", 2),
    ("warp error", "warp_error", 3),
    ("motion of mouth px²", "motion_mouth", 4),
    ("motion of rest px²", "motion_rest", 4),
    ("upper diff of 255", "upper_change", 2),
)
READING_COLUMNS: tuple[Column, ...] = (
    ("words", "words", 0),
    ("top-1 %", "top1", 1),
    ("top-5 %", "top5", 1),
)
AUTHOR_COLUMNS: tuple[Column, ...] = (
    ("PSNR dB, authors'", "author_psnr", 2),
    ("SSIM, authors'", "author_ssim", 4),
    ("LMD px, authors'", "author_lmd", 2),
)
READ = ("top1", "top5")  # shares of words
AUTHOR_CAPTION = (
    "As ATVGnet's released script computes them (columns marked authors'): PSNR of grey pictures "
    "of 256 px whose uint8 differences wrap, SSIM in a flat window of 7 x 7, LMD summed over 20 "
    "points. Not comparable with any other column; only for numbers that were published with that "
    "script."
)


# --- one row --------------------------------------------------------------------------------------


def summary(results: Sequence[Result]) -> dict[str, float]:
    """Return one row of a table from the results of one model.

    A metric is its mean over the clips in which it is defined; `missed` is a sum. Correlation and
    amplitude are also pooled: over all frames of all clips in one curve. top1, top5: of the judge.
    `clips`: number of evaluated clips; `failed`: number of failed ones.
    """
    measured = [r for r in results if r.error is None]
    row = metric_means(measured)
    row["missed"] = float(sum(r.metrics.get("missed") or 0 for r in measured))
    made = curve(value for r in measured for value in r.aperture)
    real = curve(value for r in measured for value in r.real_aperture)
    row["pooled_correlation"] = correlation(made, real)
    row["pooled_amplitude"] = amplitude_ratio(made, real)
    ranks = [rank for r in measured for rank in r.ranks]
    row["words"] = float(len(ranks))
    for n in (1, 5):
        row[f"top{n}"] = mean([float(rank <= n) for rank in ranks])
    row["clips"] = float(len(measured))
    row["failed"] = float(len(results) - len(measured))
    return row


def sums(results: Sequence[Result]) -> dict[str, Sums]:
    """Return the summands of the means of `summary`, a row per clip; counts have none."""
    found = metric_sums(results)
    found.pop("missed", None)
    made, real = [curve(r.aperture) for r in results], [curve(r.real_aperture) for r in results]
    for what in ("correlation", "amplitude"):
        found[f"pooled_{what}"] = intervals.pooled(made, real, what)
    words = np.array([len(r.ranks) for r in results], dtype=np.float64)
    for n in (1, 5):
        right = np.array([sum(rank <= n for rank in r.ranks) for r in results], dtype=np.float64)
        found[f"top{n}"] = intervals.ratio(right, words)
    return found


def estimates(results: Sequence[Result], reference: Sequence[Result] = ()) -> dict[str, Estimate]:
    """Return `summary` with intervals, and a star for a number that differs from `reference`.

    results, reference: of one model each, in one split and with one identity.
    """
    measured = [r for r in results if r.error is None]
    theirs = [r for r in reference if r.error is None]
    row = compared(measured, theirs, summary, sums, lambda r: r.clip)
    return {**row, "failed": Estimate(float(len(results) - len(measured)))}


# --- all tables -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """Tables of a split and an identity. remarks: (model, clip, note or error)."""

    title: str
    tables: list[Table]
    remarks: list[tuple[str, str, str]]


def reference_of(results: Sequence[Result], name: str | None = None) -> str | None:
    """Return the row that others are compared with [the first model]. Raises BadRequest."""
    models = list(dict.fromkeys(r.model for r in results))
    if name is not None and name not in models:
        raise BadRequest(
            f"no row is called {name!r} to compare with; there are {', '.join(models)}"
        )
    return name or next((model for model in models if model not in (REAL, STILL)), None)


def sections(results: Sequence[Result], reference: str | None = None) -> list[Section]:
    """Return the tables of each split and identity: lips, further measures, pixels, reading."""
    reference = reference_of(results, reference)
    found = []
    for (split, identity), own in grouped(results, lambda r: (r.split, r.identity)).items():
        title = split_name(split)
        title += "" if identity == "unknown" else f", identity: {identity}"
        failed = [(r.model, r.clip, f"failed: {r.error}") for r in own if r.error is not None]
        remarks = failed + [(r.model, r.clip, r.note) for r in own if r.note]
        found.append(Section(title, _tables(own, reference), remarks))
    return found


def _tables(results: list[Result], reference: str | None) -> list[Table]:
    rows = _rows(results, reference)
    found = [Table("model", rows, LIP_COLUMNS)]
    speakers = sorted({r.speaker for r in results})
    if len(speakers) > 1:
        found.append(_each_speaker(results, speakers, reference))
    found += [Table("further", rows, FURTHER_COLUMNS), Table("pixels", rows, PIXEL_COLUMNS)]
    if any(r.ranks for r in results):
        chance = {f"top{n}": Estimate(n / vocabulary_of(results)) for n in (1, 5)}
        read = {name: percent(row, READ) for name, row in {**rows, "chance": chance}.items()}
        found.append(Table("read by the judge", read, READING_COLUMNS))
    found.append(Table("as the authors'", rows, AUTHOR_COLUMNS, AUTHOR_CAPTION))
    return [table for table in map(_without_empty, found) if table.columns]


def vocabulary_of(results: Iterable[Result]) -> int:
    """Return the number of words of the judge of these results."""
    return max(result.vocabulary for result in results)


def _rows(results: Sequence[Result], reference: str | None) -> dict[str, Row]:
    models = grouped(results, lambda r: r.model)
    theirs = models.get(reference or "", [])
    return {name: estimates(own, theirs) for name, own in models.items()}


def _each_speaker(results: list[Result], speakers: list[str], reference: str | None) -> Table:
    rows: dict[str, Row] = {}
    for speaker in speakers:
        own = _rows([r for r in results if r.speaker == speaker], reference)
        rows |= {f"{name}, {speaker}": row for name, row in own.items()}
    return Table("model, speaker", dict(sorted(rows.items())), LIP_COLUMNS)


def _without_empty(table: Table) -> Table:
    """Return the table without the columns in which no row has a number."""

    def known(key: str) -> bool:
        return any(math.isfinite(as_estimate(row.get(key)).value) for row in table.rows.values())

    return replace(table, columns=[column for column in table.columns if known(column[1])])


# --- Markdown -------------------------------------------------------------------------------------


def markdown(results: Sequence[Result], reference: str | None = None) -> str:
    """Write all tables as Markdown. reference: the row that stars compare with [the first model].

    Raises BadRequest for a reference that is no row.
    """
    parts = ["# Results\n", legend(reference_of(results, reference)) + "\n"]
    for section in sections(results, reference):
        parts.append(f"## {section.title}\n")
        for one in section.tables:
            parts += [f"{one.caption}\n"] if one.caption else []
            parts.append(table(one.first, one.rows, one.columns))
        if section.remarks:
            parts.append(markdown_table(("model", "clip", "remark"), section.remarks))
    return "\n".join(parts)


def latex(results: Sequence[Result], reference: str | None = None) -> str:
    r"""Write the tables of `markdown` for \input in LaTeX; needs \usepackage{booktabs}.

    Raises BadRequest for a reference that is no row.
    """
    meaning = legend(reference_of(results, reference))
    parts = ["% \\usepackage{booktabs}\n"]
    for section in sections(results, reference):
        for one in section.tables:
            caption = " ".join(filter(None, (f"{section.title}.", one.caption, meaning)))
            parts.append(tabular(one, caption))
        parts += [
            "% " + " ".join(f"{model}, {clip}: {what}".split()) + "\n"
            for model, clip, what in section.remarks
        ]
    return "\n".join(parts)
