"""An inspection as one HTML page: inline SVG, pictures as data, no requests to a network.

The page is `templates/inspection.html`, filled in by Jinja2 (the extra `inspect`), which escapes
every text.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.audio import FPS
from talkingface.data.filters import KEPT, LIMITS, UNREADABLE
from talkingface.data.inspection import Example, Inspection, KeptClip
from talkingface.data.report import UNKNOWN_SPEAKER
from talkingface.errors import BadRequest
from talkingface.types import Picture

TEMPLATES = Path(__file__).parent / "templates"
BINS = 40
BARS = 40  # words and speakers that are shown; further ones are summed
LISTED = 50  # unreadable files that are listed
_WIDTH = 520  # of a chart, pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 512, 14, 128  # where the bars of a histogram are
Chart = dict[str, Any]  # what the template's macro `histogram` or `bars` draws


def page(inspection: Inspection) -> str:
    """Return the whole page as HTML. Raises BadRequest where Jinja2 is not installed."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise BadRequest(
            "the page needs Jinja2, which is not installed: pip install 'talkingface[inspect]'"
        ) from error
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    bad = [outcome for outcome in inspection.dropped if outcome.result == UNREADABLE]
    return str(
        environment.get_template("inspection.html").render(
            title=f"{inspection.plan.get('corpus', 'shards')}: {inspection.folder.name}",
            folder=inspection.folder,
            settings=_settings(inspection.plan),
            tiles=_tiles(inspection),
            reasons=_reasons(inspection),
            splits=_splits(inspection.kept),
            counts=list(_counts(inspection)),
            measures=list(_measures(inspection)),
            sheets=[_sheet(reason, own) for reason, own in inspection.examples.items() if own],
            unreadable=bad[:LISTED],
            more_unreadable=max(0, len(bad) - LISTED),
            width=_WIDTH,
        )
    )


def _settings(plan: dict[str, Any]) -> str:
    if not plan:
        return "no plan.json: settings unknown"
    limits = plan.get("filters") or {}
    pose = "natural pose" if plan.get("natural_pose") else "still head"
    return ", ".join([pose, *(f"{name} {value}" for name, value in limits.items())])


def _tiles(inspection: Inspection) -> list[tuple[str, str]]:
    speaking = inspection.speaking
    stills = len(inspection.kept) - len(speaking)
    people = {clip.speaker for clip in speaking} - {""}
    many = inspection.shards != 1
    tiles = [
        (f"{len(speaking):,}", "clips kept"),
        (f"{len(inspection.dropped):,}", "clips dropped"),
        (_length(sum(clip.frames for clip in speaking)), "of speech"),
        (f"{len(people):,}" if people else UNKNOWN_SPEAKER, "people"),
        (_bytes(inspection.size), f"in {inspection.shards:,} shards" if many else "in one shard"),
    ]
    if stills:
        tiles.insert(1, (f"{stills:,}", "still pictures"))
    if inspection.moved:
        tiles.append((f"{inspection.moved:,}", "with their sound moved"))
    return tiles


def _length(frames: int) -> str:
    seconds = frames / FPS
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 36_000 else f"{seconds / 3600:,.0f} h"


def _bytes(size: int) -> str:
    value, unit = float(size), 0
    while value >= 1000 and unit < 4:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[unit]}"


def _reasons(inspection: Inspection) -> Chart:
    rows = [(KEPT, len(inspection.kept), "kept")]
    rows += [(reason, count, "dropped") for reason, count in inspection.reasons.items()]
    return _bars("Clips", rows)


def _splits(kept: Sequence[KeptClip]) -> list[tuple[str, str, str, str]]:
    """Return a row for each split: its name, clips, length and people."""
    rows = []
    for name in dict.fromkeys(clip.split for clip in kept):
        own = [clip for clip in kept if clip.split == name]
        people = len({clip.speaker for clip in own} - {""})
        length = _length(sum(clip.frames for clip in own))
        rows.append((name, f"{len(own):,}", length, f"{people:,}" if people else UNKNOWN_SPEAKER))
    return rows


def _counts(inspection: Inspection) -> Iterator[Chart]:
    """Yield the charts of lengths, people and words."""
    speaking = inspection.speaking
    if speaking:
        seconds = [clip.frames / FPS for clip in speaking]
        yield _histogram("Length of a clip", "seconds", {"kept": seconds})
    spoken: Counter[str] = Counter()
    for clip in speaking:
        spoken[clip.speaker or UNKNOWN_SPEAKER] += clip.frames
    minutes = [(who, frames / FPS / 60) for who, frames in spoken.most_common()]
    if len(minutes) > BARS:
        values = {"kept": [value for _, value in minutes]}
        yield _histogram(f"Speech of {len(minutes):,} people", "minutes each", values)
    elif minutes:
        yield _bars("Speech of each person", [(*row, "kept") for row in minutes], unit="min")
    words = Counter(word for clip in speaking for word in clip.words)
    if words:
        more = f", the {BARS} most frequent" if len(words) > BARS else ""
        about = f"{sum(words.values()):,} words with their times, {len(words):,} different{more}"
        yield _bars("Words", [(*row, "kept") for row in words.most_common(BARS)], about)


def _measures(inspection: Inspection) -> Iterator[Chart]:
    bounds: dict[str, Any] = inspection.plan.get("filters") or {}
    for limit in LIMITS:
        values = inspection.values.get(limit.name)
        if values and any(np.isfinite(value) for own in values.values() for value in own):
            bound = bounds.get(limit.name)
            about = f"{limit.about}, {limit.text(bound)}" if bounds else limit.about
            both_sides = () if bound is None else (bound, -bound) if limit.most else (bound,)
            yield _histogram(limit.name, limit.unit, values, both_sides, about)


def _histogram(
    title: str,
    unit: str,
    values: dict[str, list[float]],
    limits: Sequence[float] = (),
    about: str = "",
) -> Chart:
    """Return a histogram: stacked bars of one colour per group, an axis, and the limits on it."""
    every = np.array([value for own in values.values() for value in own], dtype=float)
    every = every[np.isfinite(every)]
    low, high = float(every.min()), float(every.max())
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5

    def across(value: float) -> str:
        return f"{_LEFT + (value - low) / (high - low) * (_RIGHT - _LEFT):.1f}"

    edges = np.linspace(low, high, BINS + 1)
    counts = {who: np.histogram(own, edges)[0] for who, own in values.items()}
    most = max(1, int(np.sum(list(counts.values()), 0).max()))
    anchors = ("start", "middle", "middle", "middle", "end")
    ticks = zip(np.linspace(low, high, 5), anchors, strict=True)
    median = f"median {np.median(every):.3g} {unit}".rstrip()
    return {
        "title": title,
        "about": ", ".join(part for part in (about, median) if part),
        "rows": [],
        "bars": list(_stacks(counts, edges, unit, most)),
        "most": f"{most:,}",
        "limits": [across(limit) for limit in limits if low <= limit <= high],
        "ticks": [{"x": across(x), "anchor": a, "text": f"{x:.3g}"} for x, a in ticks],
    }


def _stacks(
    counts: dict[str, NDArray[Any]], edges: NDArray[np.float64], unit: str, most: int
) -> Iterator[dict[str, str]]:
    """Yield the bars of a histogram, each group's upon those before."""
    width, tall = (_RIGHT - _LEFT) / (len(edges) - 1), _BOTTOM - _TOP
    base = np.zeros(len(edges) - 1)
    for who, own in counts.items():
        for place in np.flatnonzero(own):
            yield {
                "kind": who,
                "x": f"{_LEFT + place * width:.1f}",
                "y": f"{_BOTTOM - (base[place] + own[place]) / most * tall:.1f}",
                "width": f"{max(1, width - 1):.1f}",
                "height": f"{own[place] / most * tall:.1f}",
                "text": f"{edges[place]:.3g} to {edges[place + 1]:.3g} {unit}: {own[place]} {who}",
            }
        base += own


def _bars(
    title: str, rows: Sequence[tuple[str, float, str]], about: str = "", unit: str = ""
) -> Chart:
    """Return horizontal bars. rows: name, value, class."""
    most = max((value for _, value, _ in rows), default=1) or 1
    drawn = []
    for name, value, kind in rows:
        width = max(1, value / most * (_WIDTH - 200))
        whole = value >= 100 or float(value).is_integer()
        text = f"{value:,.0f} {unit}" if whole else f"{value:.1f} {unit}"
        bar = {"width": f"{width:.1f}", "end": f"{126 + width:.1f}", "text": text}
        drawn.append({"name": name[:18], "kind": kind, **bar})
    return {"title": title, "about": about, "rows": drawn}


def _sheet(reason: str, examples: Sequence[Example]) -> dict[str, Any]:
    title = "Examples that are kept" if reason == KEPT else f"Dropped: {reason}"
    shown = [
        {"caption": one.caption, "picture": None if one.picture is None else _data(one.picture)}
        for one in examples
    ]
    return {"title": title, "examples": shown}


def _data(image: Picture) -> str:
    """Return a picture as a data: address."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, 82]
    good, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    if not good:
        raise ValueError(f"a picture of {image.shape} does not fit into a JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"
