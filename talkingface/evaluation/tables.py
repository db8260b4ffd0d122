"""Write tables of results; every number is computed from the lines of results.jsonl alone.

A mean is written with its bootstrap interval over clips, 0.913* [0.905, 0.921]. The star means that
it differs from the reference row on the same clips. The same tables are written as Markdown and as
LaTeX.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from talkingface.errors import BadRequest
from talkingface.evaluation import intervals
from talkingface.evaluation.detection import Array
from talkingface.evaluation.intervals import LEVEL, RESAMPLES, Sums
from talkingface.evaluation.results import REAL, STILL, Result
from talkingface.metrics.lips import amplitude_ratio, correlation


@dataclass(frozen=True)
class Estimate:
    """A number, its interval (NaN if it is unknown), and whether it has a star.

    against: the number is a share, and its complement is written too, as 0.74/0.26.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    differs: bool = False
    against: bool = False

    def times(self, factor: float) -> Estimate:
        """Return the estimate in another unit."""
        low, high = self.low * factor, self.high * factor
        return replace(self, value=self.value * factor, low=low, high=high)


Row = Mapping[str, float | Estimate]
Column = tuple[str, str, int]  # heading, key of `summary`, decimals
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
FEW = 20  # clips: with fewer, bootstrap percentiles cover the true value too rarely
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
    names = sorted({name for result in measured for name in result.metrics})
    row = {name: mean([r.metrics.get(name) for r in measured]) for name in names}
    row["missed"] = float(sum(r.metrics.get("missed") or 0 for r in measured))
    made = _curve(value for r in measured for value in r.aperture)
    real = _curve(value for r in measured for value in r.real_aperture)
    row["pooled_correlation"] = correlation(made, real)
    row["pooled_amplitude"] = amplitude_ratio(made, real)
    ranks = [rank for r in measured for rank in r.ranks]
    row["words"] = float(len(ranks))
    for n in (1, 5):
        row[f"top{n}"] = mean([float(rank <= n) for rank in ranks])
    row["clips"] = float(len(measured))
    row["failed"] = float(len(results) - len(measured))
    return row


def mean(values: Iterable[float | None]) -> float:
    """Return the mean of the values that are not None; NaN if there is none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan


def _curve(values: Iterable[float | None]) -> Array:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def sums(results: Sequence[Result]) -> dict[str, Sums]:
    """Return the summands of the means of `summary`, a row per clip; counts have none."""
    names = sorted({name for r in results for name in r.metrics} - {"missed"})
    found = {name: intervals.ratio(_curve(r.metrics.get(name) for r in results)) for name in names}
    made, real = ([_curve(c) for c in curves] for curves in _apertures(results))
    for what in ("correlation", "amplitude"):
        found[f"pooled_{what}"] = intervals.pooled(made, real, what)
    words = np.array([len(r.ranks) for r in results], dtype=np.float64)
    for n in (1, 5):
        right = np.array([sum(rank <= n for rank in r.ranks) for r in results], dtype=np.float64)
        found[f"top{n}"] = intervals.ratio(right, words)
    return found


def _apertures(results: Sequence[Result]) -> tuple[list[list[float | None]], ...]:
    return [r.aperture for r in results], [r.real_aperture for r in results]


def estimates(results: Sequence[Result], reference: Sequence[Result] = ()) -> dict[str, Estimate]:
    """Return `summary` with intervals, and a star for a number that differs from `reference`.

    results, reference: of one model each, in one split and with one identity. The difference is
    taken over the clips that both have, so that the difficulty of a clip cancels.
    """
    measured = [r for r in results if r.error is None]
    own = sums(measured)
    theirs = {r.clip: r for r in reference if r.error is None}
    common = [r for r in measured if r.clip in theirs]
    ours, others = sums(common), sums([theirs[r.clip] for r in common])
    row = {}
    for name, value in summary(results).items():
        low, high = intervals.interval(own[name]) if name in own else (math.nan, math.nan)
        both = name in ours and name in others
        star = both and intervals.differs(ours[name], others[name])
        row[name] = Estimate(value, low, high, star)
    return row


# --- all tables -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Rows by name. first: the heading above the names. caption: an explanation above the table."""

    first: str
    rows: Mapping[str, Row]
    columns: Sequence[Column]
    caption: str = ""


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
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.split, result.identity), []).append(result)
    found = []
    for (split, identity), own in groups.items():
        title = split if identity == "unknown" else f"{split}, identity: {identity}"
        failed = [(r.model, r.clip, f"failed: {r.error}") for r in own if r.error is not None]
        remarks = failed + [(r.model, r.clip, r.note) for r in own if r.note]
        found.append(Section(title, _tables(own, reference), remarks))
    return found


def _tables(results: list[Result], reference: str | None) -> list[Table]:
    compared = [r for r in results if r.model == reference]
    rows: dict[str, Row] = {
        name: estimates(own, [] if name == reference else compared)
        for name, own in _by_model(results).items()
    }
    found = [Table("model", rows, LIP_COLUMNS)]
    speakers = sorted({r.speaker for r in results})
    if len(speakers) > 1:
        found.append(_each_speaker(results, speakers, reference))
    found += [Table("further", rows, FURTHER_COLUMNS), Table("pixels", rows, PIXEL_COLUMNS)]
    if any(r.ranks for r in results):
        chance = {f"top{n}": Estimate(n / vocabulary_of(results)) for n in (1, 5)}
        read = {name: percent(row) for name, row in {**rows, "chance": chance}.items()}
        found.append(Table("read by the judge", read, READING_COLUMNS))
    found.append(Table("as the authors'", rows, AUTHOR_COLUMNS, AUTHOR_CAPTION))
    return [table for table in map(_without_empty, found) if table.columns]


def vocabulary_of(results: Iterable[Result]) -> int:
    """Return the number of words of the judge of these results."""
    return max(result.vocabulary for result in results)


def _by_model(results: Sequence[Result]) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.model, []).append(result)
    return found


def _each_speaker(results: list[Result], speakers: list[str], reference: str | None) -> Table:
    rows: dict[str, Row] = {}
    for speaker in speakers:
        own = _by_model([r for r in results if r.speaker == speaker])
        for name, group in own.items():
            compared = own.get(reference or "", []) if name != reference else []
            rows[f"{name}, {speaker}"] = estimates(group, compared)
    return Table("model, speaker", dict(sorted(rows.items())), LIP_COLUMNS)


def percent(row: Row) -> Row:
    """Return a row with top1 and top5 in percent."""
    return {
        name: value.times(100) if isinstance(value, Estimate) and name.startswith("top") else value
        for name, value in row.items()
    }


def _without_empty(table: Table) -> Table:
    """Return the table without the columns in which no row has a number."""
    return replace(
        table,
        columns=[
            column
            for column in table.columns
            if any(math.isfinite(_estimate(row, column[1]).value) for row in table.rows.values())
        ],
    )


def _estimate(row: Row, key: str) -> Estimate:
    value = row.get(key, math.nan)
    return value if isinstance(value, Estimate) else Estimate(value)


def _cell(row: Row, column: Column) -> tuple[str, str, str]:
    """Return a number, its star or "", its interval or ""; "-" for an undefined number."""
    _, key, decimals = column
    found = _estimate(row, key)
    value, low, high = (f"{v:.{decimals}f}" for v in (found.value, found.low, found.high))
    if not math.isfinite(found.value):
        return "-", "", ""
    interval = f"[{low}, {high}]" if math.isfinite(found.low) else ""
    if found.against:
        value += f"/{1 - float(value):.{decimals}f}"
    return value, "*" * found.differs, interval


def legend(reference: str | None) -> str:
    """Explain intervals and stars, for above a table. reference: the row stars compare with."""
    text = (
        f"[low, high]: {LEVEL:.0%} interval over clips, bootstrap of {RESAMPLES:,} draws (with "
        f"fewer than {FEW} clips it is too narrow)."
    )
    if reference is not None:
        text += (
            f" *: differs from {reference} (the interval of the difference, on the clips that both "
            "have, excludes 0)."
        )
    return text


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


def table(first: str, rows: Mapping[str, Row], columns: Sequence[Column]) -> str:
    """Write rows as Markdown, "-" for an undefined number. first: the heading above the names."""
    lines = []
    for name, row in rows.items():
        cells = (_cell(row, column) for column in columns)
        lines.append([name, *(f"{v}{star} {span}".rstrip() for v, star, span in cells)])
    return markdown_table([first, *(heading for heading, _, _ in columns)], lines, "---:")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "---") -> str:
    """Write a table of texts as Markdown. align: of all columns but the first."""
    body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---", *(align for _ in head[1:])], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# --- LaTeX ----------------------------------------------------------------------------------------

LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "²": r"\textsuperscript{2}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
    }
)


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


def tabular(table: Table, caption: str) -> str:
    r"""Write one table for \input in LaTeX, with this caption; needs booktabs."""
    head = [table.first, *(heading for heading, _, _ in table.columns)]
    lines = [" & ".join(cell.translate(LATEX) for cell in head), "\\midrule"]
    for name, row in table.rows.items():
        cells = [name.translate(LATEX)]
        for value, star, span in (_cell(row, column) for column in table.columns):
            mark = "$^{*}$" if star else ""
            text = ("$-$" + value[1:]) if value.startswith("-") and len(value) > 1 else value
            cells.append(f"{text}{mark}" + (f" {{\\scriptsize {span}}}" if span else ""))
        lines.append(" & ".join(cells))
    body = "\n".join(line if line.startswith("\\midrule") else f"{line} \\\\" for line in lines)
    columns = "l" + "r" * len(table.columns)
    return (
        "\\begin{table}\n\\centering\\small\n"
        f"\\caption{{{caption.translate(LATEX)}}}\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n\\bottomrule\n"
        "\\end{tabular}\n\\end{table}\n"
    )
