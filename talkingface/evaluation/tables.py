"""Write tables of numbers with intervals, as Markdown and as LaTeX.

A mean is written with its bootstrap interval, 0.913* [0.905, 0.921]. The star means that it differs
from the reference row on the same clips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np

from talkingface.evaluation import intervals
from talkingface.evaluation.files import curve
from talkingface.evaluation.intervals import LEVEL, RESAMPLES, Sums

K = TypeVar("K")
R = TypeVar("R")
FEW = 20  # clips: with fewer, bootstrap percentiles cover the true value too rarely


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


Row = Mapping[str, float | Estimate | str | None]  # None: undefined; a text is written as it is
Column = tuple[str, str, int]  # heading, key of the rows, decimals


@dataclass(frozen=True)
class Table:
    """Rows by name. first: the heading above the names. caption: an explanation of the table."""

    first: str
    rows: Mapping[str, Row]
    columns: Sequence[Column]
    caption: str = ""


# --- numbers --------------------------------------------------------------------------------------


def grouped(items: Iterable[R], key: Callable[[R], K]) -> dict[K, list[R]]:
    """Return items by key, both in the order in which they come."""
    found: dict[K, list[R]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def mean(values: Iterable[float | None]) -> float:
    """Return the mean of the values that are not None; NaN if there is none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan


class HasMetrics(Protocol):
    """A result of one model on one clip."""

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """Numbers by name; None is undefined."""


def metric_means(results: Sequence[HasMetrics]) -> dict[str, float]:
    """Return the mean of each metric over the clips in which it is defined."""
    names = sorted({name for result in results for name in result.metrics})
    return {name: mean(result.metrics.get(name) for result in results) for name in names}


def metric_sums(results: Sequence[HasMetrics]) -> dict[str, Sums]:
    """Return the summands of `metric_means`, a row per clip."""
    names = sorted({name for result in results for name in result.metrics})
    return {name: mean_sums(result.metrics.get(name) for result in results) for name in names}


def mean_sums(values: Iterable[float | None]) -> Sums:
    """Return the summands of a mean over clips; None is a clip without a value."""
    return intervals.ratio(curve(values))


def mean_estimate(values: Iterable[float | None]) -> Estimate:
    """Return the mean over clips with its interval; None is a clip without a value."""
    known = list(values)
    return estimate(mean_sums(known), mean(known))


def estimate(sums: Sums, value: float | None = None) -> Estimate:
    """Return a number with its interval. value: the number [of the sums over all clips]."""
    if value is None:
        value = float(sums.formula(sums.values.sum(0))) if len(sums.values) else math.nan
    return Estimate(value, *intervals.interval(sums))


def compared(
    results: Sequence[R],
    reference: Sequence[R],
    values: Callable[[Sequence[R]], Mapping[str, float]],
    sums: Callable[[Sequence[R]], Mapping[str, Sums]],
    clip: Callable[[R], str],
) -> dict[str, Estimate]:
    """Return the numbers of a row with intervals, and stars where they differ from `reference`.

    results, reference: of one model each. values: the numbers of results; sums: the summands of
    those that have an interval; clip: the name of a result's clip. The difference is taken over the
    clips that both have, so that the difficulty of a clip cancels.
    """
    own, theirs = sums(results), {clip(r): r for r in reference}
    common = [r for r in results if clip(r) in theirs]
    ours, others = sums(common), sums([theirs[clip(r)] for r in common])
    row = {}
    for name, value in values(results).items():
        low, high = intervals.interval(own[name]) if name in own else (math.nan, math.nan)
        both = name in ours and name in others
        row[name] = Estimate(value, low, high, both and intervals.differs(ours[name], others[name]))
    return row


def percent(row: Row, names: Iterable[str]) -> Row:
    """Return a row in which the shares of these names are in per cent."""
    found = dict(row)
    for name in names:
        value = found.get(name)
        if isinstance(value, Estimate):
            found[name] = value.times(100)
        elif isinstance(value, float | int):
            found[name] = value * 100
    return found


def legend(reference: str | None, over: str = "clips") -> str:
    """Explain intervals and stars, for above a table. reference: the row stars compare with."""
    text = (
        f"[low, high]: {LEVEL:.0%} interval over {over}, bootstrap of {RESAMPLES:,} draws (with "
        f"fewer than {FEW} {over} it is too narrow)."
    )
    if reference is None:
        return text
    shared = "the clips that both have" if over == "clips" else f"the same {over}"
    return (
        f"{text} *: differs from {reference} (the interval of the difference, on {shared}, "
        "excludes 0)."
    )


# --- text -----------------------------------------------------------------------------------------


def as_estimate(value: float | Estimate | str | None) -> Estimate:
    """Return a number of a row as an estimate; NaN where it is undefined or a text."""
    if isinstance(value, Estimate):
        return value
    return Estimate(math.nan if value is None or isinstance(value, str) else value)


def _cell(row: Row, column: Column) -> tuple[str, str, str]:
    """Return a number, its star or "", its interval or ""; "-" for an undefined number."""
    _, key, decimals = column
    given = row.get(key)
    if isinstance(given, str):
        return given, "", ""
    found = as_estimate(given)
    value, low, high = (f"{v:.{decimals}f}" for v in (found.value, found.low, found.high))
    if not math.isfinite(found.value):
        return "-", "", ""
    interval = f"[{low}, {high}]" if math.isfinite(found.low) else ""
    if found.against:
        value += f"/{1 - float(value):.{decimals}f}"
    return value, "*" * found.differs, interval


def table(
    first: str, rows: Mapping[str, Row], columns: Sequence[Column], align: str = "---:"
) -> str:
    """Write rows as Markdown, "-" for an undefined number. first: the heading above the names."""
    lines = []
    for name, row in rows.items():
        cells = (_cell(row, column) for column in columns)
        lines.append([name, *(f"{v}{star} {span}".rstrip() for v, star, span in cells)])
    return markdown_table([first, *(heading for heading, _, _ in columns)], lines, align)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "---") -> str:
    """Write a table of texts as Markdown. align: of all columns but the first."""
    body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---", *(align for _ in head[1:])], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


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


def tabular(table: Table, caption: str) -> str:
    r"""Write one table for \input in LaTeX, with this caption; needs \usepackage{booktabs}."""
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
