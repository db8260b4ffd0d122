"""Draw the figures of Song et al. 2019: frames of several methods, and schemes with their motion.

Each figure is a pure function of finished videos, {label: (T, S, S, 3) uint8 RGB at 25 fps}, all of
one sentence. The caller writes it with `picture.write_png`. The same videos give the same pixels.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from talkingface.audio import FPS, SAMPLES_PER_FRAME, SpeechSpec, windows
from talkingface.contract import Portrait
from talkingface.data.clip import Word
from talkingface.data.dataset import Cache
from talkingface.errors import BadRequest, OutputError
from talkingface.evaluation.evaluator import portrait_of
from talkingface.metrics.lips import PixelBox
from talkingface.metrics.motion import drift, motion_intensity, optical_flow
from talkingface.types import Floats, Frames, Picture
from talkingface.video import contact_sheet

GAP = 2  # pixels between pictures
TITLE = 18  # pixels of a row's label, as `contact_sheet` has them
HEADER = 36  # pixels above the rows: words, and under them the times
PLOT, DPI = (8.0, 3.5), 120  # inches, and pixels per inch
COLUMNS = 12  # frames side by side, at most, unless `every` is given
BRIGHTEST = 99.5  # percentile of motion that is white, so that no single pixel sets the scale
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito 2008


def methods(
    rows: Mapping[str, Frames],
    words: Sequence[Word] = (),
    *,
    every: int | None = None,
    first: int | None = None,
    last: int | None = None,
    enlarged: float = 1.5,
    part: PixelBox | None = None,
) -> Picture:
    """Draw Fig. 3 or Fig. 4: frames of one sentence, a row for each method, in the order given.

    words: (word, start, end) in seconds, written above their frames; a column is as wide as `every`
    frames last. every: one frame in so many is shown [as few as fit in COLUMNS]. first, last: the
    first frame shown, and the one after the last [the frames of the words]. part: the part of the
    crop that is shown [the face]. Raises ValueError for videos of different shapes, or if no frame
    is left to show.
    """
    many, size = _common(rows)
    begin = first if first is not None else int(words[0][1] * FPS) if words else 0
    end = last if last is not None else int(np.ceil(words[-1][2] * FPS)) if words else many
    begin, end = max(0, begin), min(many, end)
    shown = range(begin, end, every or max(1, -(-(end - begin) // COLUMNS)))
    if not shown:
        raise ValueError(f"no frame from {begin} to {end} in a clip of {many}")
    box = part or _face(size)
    side = round(enlarged * max(box.right - box.left, box.bottom - box.top))
    cut = [[_cut(frames[t], box) for t in shown] for frames in rows.values()]
    sheet = contact_sheet(cut, list(rows), side=side, gap=GAP)
    return np.concatenate([_header(sheet.shape[1], shown, words, side), sheet])


def schemes(
    rows: Mapping[str, Frames],
    *,
    every: int = 3,
    first: int = 0,
    columns: int = 8,
    enlarged: float = 1.0,
    part: PixelBox | None = None,
) -> Picture:
    """Draw Fig. 5: frames of each scheme, their optical flow and the sequence's motion intensity.

    The flow of a frame is that to the next frame of the video. The motion intensity (footnote 2) is
    at the right. Flow: the hue is the direction, as on the wheel in the header; white is no motion.
    Intensity: the brightness is its square root, a speed, so that rows with little motion stay
    visible. Full colour and white are the same motion in every row; the header names it. Raises
    ValueError for videos of different shapes, or if there are too few frames.
    """
    many, size = _common(rows)
    shown = range(first, min(many - 1, first + columns * every), every)
    if not shown:
        raise ValueError(f"no frame from {first} with a successor in a clip of {many}")
    box = part or _face(size)
    side = round(enlarged * max(box.right - box.left, box.bottom - box.top))
    flows = {name: [_flow(frames, t) for t in shown] for name, frames in rows.items()}
    maps = {name: motion_intensity(frames) for name, frames in rows.items()}
    fastest = _scale([np.linalg.norm(own, axis=-1) for own in flows.values()])
    white = _scale(list(maps.values()))
    blocks = []
    for name, frames in rows.items():
        pictures = [[_cut(frames[t], box) for t in shown]]
        pictures.append([_cut(_flow_picture(flow, fastest), box) for flow in flows[name]])
        left = contact_sheet(pictures, [name, "optical flow"], side=side, gap=GAP)
        level = np.rint(np.sqrt(np.clip(maps[name] / white, 0, 1)) * 255).astype(np.uint8)
        tall = 2 * side + TITLE + GAP  # as tall as both rows and the label between
        map_picture = _cut(np.repeat(level[..., None], 3, -1), box)
        right = contact_sheet([[map_picture]], ["motion intensity"], side=tall, gap=GAP)
        blocks.append(np.concatenate([left, right], axis=1))
    sheet = np.concatenate(blocks)
    return np.concatenate([_legend(sheet.shape[1], fastest, white), sheet])


def drift_plot(rows: Mapping[str, Frames], picture: Picture, every: int = FPS) -> Picture:
    """Plot the drift of each scheme from the identity picture (S, S, 3): `motion.drift` over time.

    For long videos (`long_clip`); a value per `every` frames, at their middle. Raises OutputError
    if matplotlib (the extra `figures`) is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OutputError(
            "the plot of identity drift needs matplotlib, which is not installed: "
            "pip install 'talkingface[figures]'"
        ) from error
    many, _ = _common(rows)
    figure = Figure(figsize=PLOT, layout="constrained")
    axes = figure.subplots()
    starts = np.arange(0, many, every)
    times = (starts + np.minimum(starts + every, many)) / 2 / FPS
    for n, (name, frames) in enumerate(rows.items()):
        curve, colour = drift(frames, picture, every), COLOURS[n % len(COLOURS)]
        axes.plot(times, curve, color=colour, marker="o", markersize=3, label=name)
    axes.set(xlabel="seconds", ylabel="drift from the identity, of 255")
    axes.set_xlim(0, many / FPS)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8)
    pixels = io.BytesIO()
    figure.savefig(pixels, format="rgba", dpi=DPI)
    width, height = (round(inches * DPI) for inches in PLOT)
    drawn = np.frombuffer(pixels.getvalue(), np.uint8).reshape(height, width, 4)
    return np.ascontiguousarray(drawn[..., :3])


# --- a long clip --------------------------------------------------------------------------------


@dataclass(frozen=True)
class LongClip:
    """Several clips of one speaker joined to one, with an identity picture.

    keys: the clips. picture: (S, S, 3), the first frame of the first clip. portrait: the same with
    its landmarks and mesh. sound: (640 T,) at 16 kHz. words: the complete ones, in seconds.
    """

    keys: tuple[str, ...]
    picture: Picture
    portrait: Portrait
    sound: Tensor
    words: tuple[Word, ...]

    def speech(self, spec: SpeechSpec) -> Tensor:
        """Return windows (T, hops, coefficients) of the joined sound; they reach across joints."""
        return windows(self.sound, spec, len(self.sound) // SAMPLES_PER_FRAME)


def long_clip(
    cache: Cache, split: str = "test", speaker: str | None = None, seconds: float = 30.0
) -> LongClip:
    """Join `seconds` of speech of one speaker, clips in the order of names.

    speaker: [the one with the most speech in this split]. Raises BadRequest if the split has less.
    """
    clips = sorted((c for c in cache.split(split) if not c.silent), key=lambda c: c.key)
    lengths = {c.speaker: 0 for c in clips}
    for clip in clips:
        lengths[clip.speaker] += clip.frames
    who = speaker if speaker is not None else max(lengths, key=lambda s: lengths[s], default="")
    wanted = round(seconds * FPS)
    if not 0 < wanted <= lengths.get(who, 0):
        raise BadRequest(
            f"{seconds:g} s of one speaker are wanted, split {split!r} has "
            f"{lengths.get(who, 0) / FPS:g} s of {who or 'anybody'}: ask for less, or another split"
        )
    chosen, many = [], 0
    words: list[Word] = []
    for clip in (c for c in clips if c.speaker == who):
        if many >= wanted:
            break
        words += [(word, a + many / FPS, b + many / FPS) for word, a, b in clip.words]
        chosen.append(clip)
        many += clip.frames
    sound = [cache.samples(c, 0, c.frames * SAMPLES_PER_FRAME) for c in chosen]
    return LongClip(
        tuple(c.key for c in chosen),
        np.array(cache.frames[chosen[0].start]),
        portrait_of(cache, chosen[0].start),
        torch.cat(sound)[: wanted * SAMPLES_PER_FRAME],
        tuple(word for word in words if word[2] * FPS <= wanted),
    )


# --- parts of figures ---------------------------------------------------------------------------


def _common(rows: Mapping[str, Frames]) -> tuple[int, int]:
    """Return (T, S) of all videos. Raises ValueError if they differ."""
    shapes = {frames.shape for frames in rows.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 4:
        raise ValueError(f"expected videos (T, S, S, 3) of one shape, got {sorted(shapes)}")
    many, size = next(iter(shapes))[:2]
    return many, size


def _face(size: int) -> PixelBox:
    """Return the box of the face in an aligned crop: from the brows to the chin."""
    return PixelBox(3 * size // 32, 3 * size // 16, 29 * size // 32, size)


def _cut(picture: Picture, box: PixelBox) -> Picture:
    return np.ascontiguousarray(box.cut(picture))


def _header(width: int, shown: range, words: Sequence[Word], side: int) -> Picture:
    """Draw every word over its frames, underlined for its duration, and the time of each column."""
    header = np.full((HEADER, width, 3), 255, np.uint8)

    def place(seconds: float) -> int:
        return round(GAP + (seconds * FPS - shown.start) / shown.step * (side + GAP))

    free = 0
    for word, start, end in words:
        left, right = max(place(start), GAP), min(place(end), width - GAP)
        if left >= right:
            continue
        cv2.line(header, (left + 2, 19), (right - 2, 19), (90, 90, 90), 1)
        wide = cv2.getTextSize(word, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0]
        at = max(free, (left + right - wide) // 2)  # never over the word before
        if at + wide // 2 <= right:  # a word that does not fit over its frames is left out
            _write(header, word, (at, 14), 0.5)
            free = at + wide + 6
    for column, frame in enumerate(shown):
        _write(header, f"{frame / FPS:.2f} s", (GAP + column * (side + GAP) + 2, 32), 0.36, 110)
    return header


def _write(on: Picture, text: str, at: tuple[int, int], scale: float, grey: int = 0) -> None:
    font, ink = cv2.FONT_HERSHEY_SIMPLEX, (grey, grey, grey)
    cv2.putText(on, text, at, font, scale, ink, 1, cv2.LINE_AA)


def _flow(frames: Frames, at: int) -> Floats:
    """Return the flow (S, S, 2) from a frame to the next, in pixels."""
    here, following = (cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames[at : at + 2])
    return optical_flow(np.asarray(here, np.uint8), np.asarray(following, np.uint8))


def _scale(values: Sequence[Floats]) -> float:
    """Return the motion that is drawn at full strength in every row; it is above 0.

    It is the largest over the rows of a high percentile.
    """
    return max(1e-6, *(float(np.percentile(own, BRIGHTEST)) for own in values))


def _flow_picture(flow: Floats, fastest: float) -> Picture:
    """Draw a flow (H, W, 2): hue is the direction, saturation the speed, up to `fastest` pixels."""
    angle = np.degrees(np.arctan2(flow[..., 1], flow[..., 0])) % 360
    strength = np.clip(np.linalg.norm(flow, axis=-1) / fastest, 0, 1)
    hsv = np.stack([angle, strength, np.ones_like(strength)], -1).astype(np.float32)
    return np.asarray(np.rint(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255), dtype=np.uint8)


def _legend(width: int, fastest: float, white: float) -> Picture:
    """Draw the wheel of directions, and the motion of full colour and of white."""
    legend = np.full((HEADER, width, 3), 255, np.uint8)
    rows, columns = np.mgrid[-1:1:33j, -1:1:33j]
    wheel = _flow_picture(np.stack([columns, rows], -1).astype(np.float32), 1.0)
    wheel[rows**2 + columns**2 > 1] = 255
    legend[1:34, GAP : GAP + 33] = wheel
    _write(legend, f"flow to the next frame: full colour is {fastest:.2f} px", (44, 14), 0.42)
    _write(
        legend,
        f"motion intensity u^2 + v^2: white is {white:.3f} px^2, linear in its root",
        (44, 31),
        0.42,
    )
    return legend
