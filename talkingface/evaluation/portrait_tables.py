"""Results of the checks of portraits, and their tables: by group, by size, by portrait."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from talkingface.evaluation import intervals
from talkingface.evaluation import portrait_measures as measures
from talkingface.evaluation.files import curve
from talkingface.evaluation.phone_checks import MARGIN, OPEN, SHORTEST
from talkingface.evaluation.portrait_measures import NOISE, SENTENCES, SIZES, STEP
from talkingface.evaluation.predicted_lips import CLOSED
from talkingface.evaluation.tables import (
    Column,
    Row,
    compared,
    estimate,
    legend,
    markdown_table,
    mean,
    metric_means,
    metric_sums,
    percent,
    table,
)

PERCENT = {
    *("silence_shut", "silence_share", "noise_shut", "noise_share", "speech_shut", "missed"),
    *("closure_best", "closure_middle", "green_share", *(f"enlarged_{side}" for side in SIZES)),
}
GROUPS = ("all", "mouth open in the picture", "mouth closed in the picture")
RULES = f"""The gap is that of the inner lips (mesh points 13 and 14) in distances of the eye
centres, found by the package's own tracker in each finished frame: it looks where the face was in
the frame before and smooths nothing. Closed: a gap below {CLOSED}. A frame lasts 40 ms.

- silence, noise: a second of digital silence, of white noise at {NOISE} dBFS. "in time": a frame
  that ends within {measures.SETTLED} s is closed; "stays": the share of later frames that are.
- p, b, m: closures of {SENTENCES} sentences for each portrait, chosen by its name; phones shorter
  than {SHORTEST * 1000:.0f} ms are left out. "middle": the frame in which the phone's middle lies
  is closed; "best": one of the frames whose middle lies in the phone or at most
  {MARGIN * 1000:.0f} ms beside it is.
  "shut elsewhere": the share of closed frames of the sentences that belong to no closure; "widest":
  the 95th percentile of the gap. A mouth that is always shut closes at every p.
- green: inside the inner lips, of frames with a gap above {OPEN}: mean of green minus mean of red
  and blue, in levels of 255, mean over frames; "greenest": the largest of a frame; "green pixels":
  the share of pixels above 0 (a green middle, which the rim outweighs in the mean; yellowish teeth
  count too); "skin": the mean of the picture's own skin from cheeks to chin. Mouths and skin of
  people are below 0. grey: the same picture without colour speaks: the largest |R - G| or |G - B|
  of any pixel.
- still: mean absolute change against the picture, in levels: outside the face's hull grown by
  {measures.HULL_MARGIN:.0%} (a chin that moves comes into it); in it, {measures.ABOVE_EYES} eye
  distances and more above the eyes. "worst spot": of squares of {measures.SPOT} eye distances in
  these two parts, the one that changes most in any frame, without what a face covers whose chin
  moves down by {measures.CHIN_REACH}.
- likeness: distance of dlib's face descriptors of picture and frame; below 0.6: the same person.
- sharpness: variance of the Laplacian of the luma, of the mouth region (hull of the outer lips,
  grown by {measures.LIPS_MARGIN:.0%}) and of the skin (cheeks to chin: inside mesh points 132, 58,
  ... 152, ... 361, 425, 2, 205, drawn in by {measures.SKIN_INSET:.0%}, without the hull of the
  outer lips grown by {measures.LIPS_AWAY:.0%}). Medians over one frame in {STEP} of a second of
  speech. "mouth / skin": of the frame; the same of the picture beside; "mouth / picture's": its
  mouth over that of the picture itself, which rests. A picture smaller than the size was enlarged
  (cubic) before it spoke, and both are shrunk back before they are measured: such a row says what
  is kept of the picture's own detail, nothing of detail that only an original of that size has."""

CLOSING: tuple[Column, ...] = (
    ("portraits", "portraits", 0),
    ("gap in picture", "picture_gap", 3),
    ("silence: in time %", "silence_shut", 1),
    ("stays %", "silence_share", 1),
    ("noise: in time %", "noise_shut", 1),
    ("stays %", "noise_share", 1),
    ("p, b, m", "closures", 0),
    ("middle %", "closure_middle", 1),
    ("best %", "closure_best", 1),
    ("shut elsewhere %", "speech_shut", 1),
    ("widest", "widest", 3),
    ("without face %", "missed", 1),
)
LOOKS: tuple[Column, ...] = (
    ("green", "green", 1),
    ("greenest", "greenest", 1),
    ("green pixels %", "green_share", 1),
    ("skin", "green_skin", 1),
    ("grey: most colour", "grey", 1),
    ("background", "background", 3),
    ("above the eyes", "forehead", 3),
    ("worst spot", "worst_spot", 1),
    ("likeness", "likeness", 3),
    ("worst", "likeness_worst", 3),
)
EACH: tuple[Column, ...] = (
    ("size", "size", 0),
    ("gap in picture", "picture_gap", 3),
    ("silence: in time", "in_time", 0),
    ("stays %", "silence_share", 0),
    ("p, b, m", "closures", 0),
    ("best %", "closure_best", 0),
    ("shut elsewhere %", "speech_shut", 0),
    ("widest", "widest", 3),
    ("green pixels %", "green_share", 0),
    ("grey", "grey", 0),
    ("worst spot", "worst_spot", 1),
)
SHARPNESS: tuple[Column, ...] = (
    ("enlarged %", "enlarged", 0),
    ("mouth / skin", "mouth_skin", 3),
    ("in the picture", "picture_mouth_skin", 3),
    ("mouth / picture's", "mouth", 3),
    ("skin / picture's", "skin", 3),
)


@dataclass(frozen=True)
class Closure:
    """A phone p, b or m. middle, smallest: gap at its middle, and its smallest; see `RULES`."""

    sentence: str
    symbol: str
    start: float
    end: float
    middle: float | None
    smallest: float | None


@dataclass(frozen=True)
class PortraitResult:
    """Result of one model on one portrait: a line of `RESULTS`.

    size: width and height of the upright picture, in pixels. picture_gap: gap of its own lips.
    metrics: see `CLOSING`, `LOOKS` and `SHARPNESS`; None is undefined, and a key may be missing (no
    likeness). silence, noise, speech: gaps per frame, None if no face was found; speech: by
    sentence. error: the reason if there are no numbers.
    """

    model: str
    sha256: str
    portrait: str
    size: list[int]
    picture_gap: float | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    silence: list[float | None] = field(default_factory=list)
    noise: list[float | None] = field(default_factory=list)
    speech: dict[str, list[float | None]] = field(default_factory=dict)
    closures: list[Closure] = field(default_factory=list)
    error: str | None = None


def read_result(**row: Any) -> PortraitResult:
    """Return the result of a line of `RESULTS`, for `files.read_lines`."""
    return PortraitResult(**{**row, "closures": [Closure(**one) for one in row["closures"]]})


# --- tables ---------------------------------------------------------------------------------------


def markdown(results: Sequence[PortraitResult]) -> str:
    """Write the tables of results as Markdown; stars compare with the first model."""
    models = list(dict.fromkeys(result.model for result in results))
    failed = [result for result in results if result.error is not None]
    good = [result for result in results if result.error is None]
    rows, sharp = _rows(good, models)
    likeness = any("likeness" in result.metrics for result in good)
    each = {f"{r.model}, {r.portrait}": _portrait_row(r) for r in good}
    side = SIZES[0]
    columns = [*EACH, (f"mouth / picture's at {side}", f"mouth_{side}", 2)]
    parts = [
        "# Portraits: finished frames\n",
        f"{legend(models[0] if len(models) > 1 else None, 'portraits')}\n",
        f"{RULES}\n",
        "## Closing\n",
        table("model, portraits", rows, CLOSING),
        "## Colour, what should be still, likeness\n",
        table("model, portraits", rows, LOOKS if likeness else LOOKS[:-2]),
        "## Sharpness\n",
        table("model, size", sharp, SHARPNESS),
        "## Each portrait\n",
        table("model, portrait", each, columns, "---"),
    ]
    if failed:
        lines = [[r.model, r.portrait, r.error or ""] for r in failed]
        parts += ["## Failed\n", markdown_table(["model", "portrait", "error"], lines)]
    return "\n".join(parts)


def _rows(
    results: Sequence[PortraitResult], models: Sequence[str]
) -> tuple[dict[str, Row], dict[str, Row]]:
    """Return the rows of the tables by group of portraits, and those of sharpness by size."""
    rows: dict[str, Row] = {}
    sharp: dict[str, Row] = {}
    for model in models:
        for group in GROUPS:
            of = [r for r in results if r.model == model and in_group(r, group)]
            first = [r for r in results if r.model == models[0] and in_group(r, group)]
            if not of:
                continue
            row = _row(of, first)
            rows[f"{model}, {group}"] = row
            if group != GROUPS[0]:
                continue
            for side in SIZES:
                values = {key: row.get(f"{key}_{side}", math.nan) for _, key, _ in SHARPNESS}
                sharp[f"{model}, {side}"] = values
    return rows, sharp


def in_group(result: PortraitResult, group: str) -> bool:
    """Return whether a portrait is in one of `GROUPS`; a mouth with a gap above `OPEN` is open."""
    is_open = result.picture_gap is not None and result.picture_gap > OPEN
    return group == GROUPS[0] or is_open == (group == GROUPS[1])


def _row(results: Sequence[PortraitResult], reference: Sequence[PortraitResult]) -> Row:
    """Return the means of one model's results. reference: the results that stars compare with."""
    return {
        **percent(compared(results, reference, _values, _sums, lambda r: r.portrait), PERCENT),
        "picture_gap": mean(r.picture_gap for r in results),
        "portraits": len(results),
        "closures": sum(len(r.closures) for r in results),
    }


def _values(results: Sequence[PortraitResult]) -> dict[str, float]:
    """Return the numbers of a row: means over portraits, and shares of closures."""
    shares = {name: estimate(one).value for name, one in _closure_sums(results).items()}
    return metric_means(results) | shares


def _sums(results: Sequence[PortraitResult]) -> dict[str, intervals.Sums]:
    """Return the summands of `_values`."""
    return metric_sums(results) | _closure_sums(results)


def _closure_sums(results: Sequence[PortraitResult]) -> dict[str, intervals.Sums]:
    counts = curve(len(r.closures) for r in results)
    best = curve(sum(_closed(c.smallest) for c in r.closures) for r in results)
    middle = curve(sum(_closed(c.middle) for c in r.closures) for r in results)
    ratio = intervals.ratio
    return {"closure_best": ratio(best, counts), "closure_middle": ratio(middle, counts)}


def _closed(gap: float | None) -> bool:
    return gap is not None and gap < CLOSED


def _portrait_row(result: PortraitResult) -> Row:
    row = {
        **result.metrics,
        "picture_gap": result.picture_gap,
        "closure_best": mean(_closed(closure.smallest) for closure in result.closures),
    }
    return {
        **percent(row, PERCENT),
        "size": "x".join(map(str, result.size)),
        "in_time": "yes" if result.metrics.get("silence_shut") else "no",
        "closures": len(result.closures),
    }
