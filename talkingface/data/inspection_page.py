"""An inspection as one HTML page: inline SVG, pictures as data, no requests to a network."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.audio import FPS
from talkingface.data.filters import KEPT, LIMITS, UNREADABLE
from talkingface.data.inspection import Example, Inspection, KeptClip
from talkingface.data.report import UNKNOWN_SPEAKER
from talkingface.types import Picture

BINS = 40
BARS = 40  # words and speakers that are shown; further ones are summed
LISTED = 50  # unreadable files that are listed
_WIDTH, _HEIGHT = 520, 150  # of a histogram, pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 512, 14, 128  # where its bars are

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1c2024; --dim: #656d76; --line: #d8dce1;
  --kept: #2f6fbf; --dropped: #d2762b; --limit: #b3261e; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --ink: #e6e9ec; --dim: #98a1ab;
  --line: #343a41; --kept: #6ea8ee; --dropped: #e89a55; --limit: #ff8a80; --card: #1c2125; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 24px 20px 60px; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 10px; }
p.note { color: var(--dim); margin: 4px 0 12px; max-width: 75ch; }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 16px 0; }
.tile { background: var(--card); border-radius: 8px; padding: 10px 16px; min-width: 120px; }
.tile b { display: block; font-size: 22px; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile span { color: var(--dim); font-size: 13px; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 520px), 1fr));
  gap: 18px 28px; }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; font-size: 14px; margin-bottom: 4px; }
figcaption small { font-weight: 400; color: var(--dim); }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--dim); font: 11px system-ui, sans-serif; }
svg text.name { fill: var(--ink); font-size: 12px; }
.kept { fill: var(--kept); } .dropped { fill: var(--dropped); }
.axis { stroke: var(--line); stroke-width: 1; }
.limit { stroke: var(--limit); stroke-width: 1.5; stroke-dasharray: 4 3; }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin: 0 5px 0 12px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 14px 4px 0; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
td.path { overflow-wrap: anywhere; text-align: left; font-size: 13px; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, 128px); gap: 14px 12px; }
.sheet figure { font-size: 11px; line-height: 1.3; color: var(--dim); overflow-wrap: anywhere; }
.sheet img, .sheet .gone { width: 128px; height: 128px; object-fit: contain; border-radius: 4px;
  background: var(--card); display: flex; align-items: center; justify-content: center; }
"""


def page(inspection: Inspection) -> str:
    """Return the whole page as HTML."""
    title = escape(f"{inspection.plan.get('corpus', 'shards')}: {inspection.folder.name}")
    parts = [
        f"<h1>{title}</h1>",
        _settings(inspection),
        _tiles(inspection),
        _section("Kept and dropped", _grid([_reasons(inspection), _split_table(inspection.kept)])),
        _section("How long, who, which words", _grid(_counts(inspection))),
        _section("Measures", _legend() + _grid(_measures(inspection))),
        *(_sheet(reason, own) for reason, own in inspection.examples.items() if own),
        _unreadable(inspection),
    ]
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}'
        f"</title><style>{STYLE}</style>"
    )
    body = "\n".join(part for part in parts if part)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{content}</section>" if content else ""


def _grid(figures: Iterable[str]) -> str:
    inner = "\n".join(figures)
    return f'<div class="grid">{inner}</div>' if inner else ""


def _settings(inspection: Inspection) -> str:
    plan: dict[str, Any] = inspection.plan
    limits = plan.get("filters") or {}
    settings = [f"{name} {value}" for name, value in limits.items()]
    settings.insert(0, "natural pose" if plan.get("natural_pose") else "still head")
    text = ", ".join(settings) if plan else "no plan.json: settings unknown"
    return f'<p class="note">{escape(str(inspection.folder))}<br>{escape(text)}</p>'


def _tiles(inspection: Inspection) -> str:
    speaking = inspection.speaking
    frames = sum(clip.frames for clip in speaking)
    stills = len(inspection.kept) - len(speaking)
    people = {clip.speaker for clip in speaking} - {""}
    many = inspection.shards != 1
    tiles = [
        (f"{len(speaking):,}", "clips kept"),
        (f"{len(inspection.dropped):,}", "clips dropped"),
        (_length(frames), "of speech"),
        (f"{len(people):,}" if people else UNKNOWN_SPEAKER, "people"),
        (_bytes(inspection.size), f"in {inspection.shards:,} shards" if many else "in one shard"),
    ]
    if stills:
        tiles.insert(1, (f"{stills:,}", "still pictures"))
    if inspection.moved:
        tiles.append((f"{inspection.moved:,}", "with their sound moved"))
    inner = "".join(f'<div class="tile"><b>{n}</b><span>{escape(t)}</span></div>' for n, t in tiles)
    return f'<div class="tiles">{inner}</div>'


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


def _reasons(inspection: Inspection) -> str:
    rows = [(KEPT, len(inspection.kept), "kept")]
    rows += [(reason, count, "dropped") for reason, count in inspection.reasons.items()]
    return f"<figure><figcaption>Clips</figcaption>{_bars(rows, '')}</figure>"


def _split_table(kept: Sequence[KeptClip]) -> str:
    names = list(dict.fromkeys(clip.split for clip in kept))
    rows = []
    for name in names:
        own = [clip for clip in kept if clip.split == name]
        people = len({clip.speaker for clip in own} - {""})
        length = _length(sum(clip.frames for clip in own))
        cells = (name, f"{len(own):,}", length, f"{people:,}" if people else UNKNOWN_SPEAKER)
        rows.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
    head = "".join(f"<th>{name}</th>" for name in ("split", "clips", "length", "people"))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _counts(inspection: Inspection) -> Iterable[str]:
    speaking = inspection.speaking
    seconds = [clip.frames / FPS for clip in speaking]
    if seconds:
        yield _histogram("Length of a clip", "seconds", {"kept": seconds}, None)
    spoken: Counter[str] = Counter()
    for clip in speaking:
        spoken[clip.speaker or UNKNOWN_SPEAKER] += clip.frames
    minutes = [(who, frames / FPS / 60) for who, frames in spoken.most_common()]
    if len(minutes) > BARS:
        values = {"kept": [value for _, value in minutes]}
        yield _histogram(f"Speech of {len(minutes):,} people", "minutes each", values, None)
    elif minutes:
        rows = [(who, value, "kept") for who, value in minutes]
        yield f"<figure><figcaption>Speech of each person</figcaption>{_bars(rows, 'min')}</figure>"
    words = Counter(word for clip in speaking for word in clip.words)
    if words:
        rows = [(word, count, "kept") for word, count in words.most_common(BARS)]
        more = f", the {BARS} most frequent" if len(words) > BARS else ""
        about = f"{sum(words.values()):,} words with their times, {len(words):,} different{more}"
        yield (
            f"<figure><figcaption>Words <small>{about}</small></figcaption>{_bars(rows, '')}"
            "</figure>"
        )


def _legend() -> str:
    return (
        '<p class="note">Every clip that was measured.<span class="key" style="background:'
        'var(--kept)"></span>kept<span class="key" style="background:var(--dropped)"></span>dropped'
        " (for whatever reason); the broken line is the limit.</p>"
    )


def _measures(inspection: Inspection) -> Iterable[str]:
    bounds: dict[str, Any] = inspection.plan.get("filters") or {}
    for limit in LIMITS:
        values = inspection.values.get(limit.name)
        if values:
            bound = bounds.get(limit.name)
            about = f"{limit.about}, {limit.text(bound)}" if bounds else limit.about
            yield _histogram(limit.name, limit.unit, values, bound, limit.most, about)


def _histogram(
    title: str,
    unit: str,
    values: dict[str, list[float]],
    limit: float | None,
    both_sides: bool = False,
    about: str = "",
) -> str:
    """Return a histogram as SVG: stacked bars of one colour per group, and the limit.

    A signed measure has its limit on both sides of zero.
    """
    every = np.array([value for own in values.values() for value in own], dtype=float)
    every = every[np.isfinite(every)]
    if not len(every):
        return ""
    low, high = float(every.min()), float(every.max())
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    bounds = () if limit is None else (limit, -limit) if both_sides else (limit,)
    marks = [*_stacks(values, np.linspace(low, high, BINS + 1), unit), *_axis(low, high, bounds)]
    median = f"median {np.median(every):.3g} {unit}".rstrip()
    small = ", ".join(part for part in (about, median) if part)
    return (
        f"<figure><figcaption>{escape(title)} <small>{escape(small)}</small></figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(marks)}</svg></figure>"
    )


def _stacks(values: dict[str, list[float]], edges: NDArray[np.float64], unit: str) -> Iterable[str]:
    """Return the bars of a histogram, and the count of the tallest."""
    counts = {who: np.histogram(own, edges)[0] for who, own in values.items()}
    most = max(1, int(np.sum(list(counts.values()), 0).max()))
    width, tall = (_RIGHT - _LEFT) / (len(edges) - 1), _BOTTOM - _TOP
    base = np.zeros(len(edges) - 1)
    for who, own in counts.items():
        for place in np.flatnonzero(own):
            top = _BOTTOM - (base[place] + own[place]) / most * tall
            yield (
                f'<rect class="{who}" x="{_LEFT + place * width:.1f}" y="{top:.1f}" '
                f'width="{max(1, width - 1):.1f}" height="{own[place] / most * tall:.1f}"><title>'
                f"{edges[place]:.3g} to {edges[place + 1]:.3g} {unit}: {own[place]} {who}</title>"
                "</rect>"
            )
        base += own
    yield f'<text x="{_LEFT - 6}" y="{_TOP + 4}" text-anchor="end">{most:,}</text>'


def _axis(low: float, high: float, bounds: Sequence[float]) -> Iterable[str]:
    """Return the axis with five numbers, and the limits that lie within."""

    def across(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_RIGHT - _LEFT)

    for bound in bounds:
        if low <= bound <= high:
            at = f"{across(bound):.1f}"
            yield f'<line class="limit" x1="{at}" x2="{at}" y1="6" y2="{_BOTTOM}"/>'
    yield f'<line class="axis" x1="{_LEFT}" x2="{_RIGHT}" y1="{_BOTTOM}" y2="{_BOTTOM}"/>'
    for place, value in enumerate(np.linspace(low, high, 5)):
        anchor = ("start", "middle", "middle", "middle", "end")[place]
        where = f'x="{across(float(value)):.1f}" y="{_HEIGHT - 6}" text-anchor="{anchor}"'
        yield f"<text {where}>{value:.3g}</text>"


def _bars(rows: Sequence[tuple[str, float, str]], unit: str) -> str:
    """Return horizontal bars as SVG. rows: name, value, class."""
    height, left = 19, 120
    most = max((value for _, value, _ in rows), default=1) or 1
    marks = []
    for place, (name, value, kind) in enumerate(rows):
        y, long = place * height, value / most * (_WIDTH - left - 80)
        told = f"{value:,.0f}" if value >= 100 or float(value).is_integer() else f"{value:.1f}"
        marks.append(
            f'<text class="name" x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(name[:18])}'
            f'</text><rect class="{kind}" x="{left}" y="{y + 3}" width="{max(1, long):.1f}" '
            f'height="{height - 6}"/><text x="{left + max(1, long) + 6:.1f}" y="{y + 13}">'
            f"{told} {escape(unit)}</text>"
        )
    return f'<svg viewBox="0 0 {_WIDTH} {len(rows) * height}" role="img">{"".join(marks)}</svg>'


def _sheet(reason: str, examples: Sequence[Example]) -> str:
    figures = []
    for example in examples:
        if example.picture is None:
            shown = '<div class="gone">no picture</div>'
        else:
            shown = f'<img alt="" src="{_data(example.picture)}">'
        figures.append(f"<figure>{shown}{escape(example.caption)}</figure>")
    title = "Examples that are kept" if reason == KEPT else f"Dropped: {reason}"
    return _section(title, f'<div class="sheet">{"".join(figures)}</div>')


def _data(image: Picture) -> str:
    """Return a picture as a data: address."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, 82]
    good, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    if not good:
        raise ValueError(f"a picture of {image.shape} does not fit into a JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"


def _unreadable(inspection: Inspection) -> str:
    bad = [outcome for outcome in inspection.dropped if outcome.result == UNREADABLE]
    rows = "".join(
        f'<tr><td class="path">{escape(o.source)}</td><td class="path">{escape(o.detail)}</td></tr>'
        for o in bad[:LISTED]
    )
    more = f'<p class="note">and {len(bad) - LISTED:,} more</p>' if len(bad) > LISTED else ""
    return _section("Files that cannot be read", f"<table>{rows}</table>{more}") if bad else ""
