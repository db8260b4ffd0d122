"""Draw contact sheets of mouths at their real size, a row for each portrait."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from talkingface import landmarks, picture
from talkingface.audio import FPS
from talkingface.evaluation.portrait_tables import Closure
from talkingface.landmarks import OUTER_LIPS
from talkingface.types import Array, Picture

BESIDE, ABOVE, BELOW = 0.25, 0.25, 0.5  # eye distances around the lips; more below, for open mouths
LARGEST = 320  # pixels of a mouth's longer side: larger ones are shrunk
NARROWEST = 104  # pixels of a cell, so that its label fits
OPENEST, CLOSURES = 2, 2  # frames of each sentence
APART = 5  # frames between two chosen open mouths
ROWS = 20  # of a sheet
LINE, GAP = 16, 4  # pixels


@dataclass(frozen=True)
class Mouth:
    """A mouth to show: (h, w, 3) of a frame, at its size. gap: in interocular units."""

    label: str
    gap: float
    pixels: Picture


def mouth_box(frame: Picture, mesh: Array) -> Picture:
    """Copy the mouth of a frame (H, W, 3) at its position in the picture's mesh (478, 2)."""
    lips, unit = mesh[OUTER_LIPS], float(landmarks.eye_distance(mesh))
    left, top = np.floor(lips.min(0) - np.array([BESIDE, ABOVE]) * unit).astype(int)
    right, bottom = np.ceil(lips.max(0) + np.array([BESIDE, BELOW]) * unit).astype(int)
    cut = frame[max(0, top) : max(1, bottom), max(0, left) : max(1, right)]
    return np.array(cut if cut.size else frame[:1, :1])


def choose_frames(gaps: Sequence[float], closures: Sequence[Closure]) -> list[tuple[int, str]]:
    """Choose frames of a sentence to show; return each with its label, in order of time.

    The `OPENEST` frames with the largest gaps, at least `APART` frames from each other, and the
    middles of `CLOSURES` closures, evenly spread.
    """
    known = [at for at, gap in enumerate(gaps) if math.isfinite(gap)]
    chosen: dict[int, str] = {}
    for at in sorted(known, key=lambda at: (-gaps[at], at)):
        if len(chosen) == OPENEST:
            break
        if all(abs(at - other) >= APART for other in chosen):
            chosen[at] = "open"
    count = min(CLOSURES, len(closures))
    for which in np.linspace(0, len(closures) - 1, count).round().astype(int) if count else ():
        phone = closures[which]
        chosen[min(len(gaps) - 1, int((phone.start + phone.end) / 2 * FPS))] = phone.symbol
    return sorted(chosen.items())


def mouth_row(mouths: Sequence[Mouth], title: str) -> Picture:
    """Draw mouths side by side under a title, each with its label and gap: (h, w, 3)."""
    cells = [_shrunk(mouth.pixels) for mouth in mouths]
    widths = [max(NARROWEST, cell.shape[1]) + GAP for cell in cells]
    height = 2 * LINE + max(cell.shape[0] for cell in cells) + GAP
    row = np.full((height, sum(widths), 3), 255, np.uint8)
    _write(row, title, 2, LINE - 4)
    x = 0
    for mouth, cell, width in zip(mouths, cells, widths, strict=True):
        gap = f"{mouth.gap:.2f}" if math.isfinite(mouth.gap) else "no face"
        label = "".join(c if c.isascii() else "" for c in mouth.label)  # OpenCV has no others
        _write(row, f"{label} {gap}", x + 2, 2 * LINE - 4)
        row[2 * LINE : 2 * LINE + cell.shape[0], x : x + cell.shape[1]] = cell
        x += width
    return row


def _shrunk(pixels: Picture) -> Picture:
    scale = LARGEST / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _write(row: Picture, text: str, x: int, y: int) -> None:
    cv2.putText(row, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)


def write_sheets(out: Path, name: str, rows: Sequence[Path]) -> list[Path]:
    """Join rows, PNG files, to sheets NAME-1.png, ... of `ROWS` each. Raises OutputError."""
    written = []
    for start in range(0, len(rows), ROWS):
        pictures = [picture.read(path) for path in rows[start : start + ROWS]]
        width = max(row.shape[1] for row in pictures)
        wide = [
            np.pad(p, ((0, GAP), (0, width - p.shape[1]), (0, 0)), constant_values=255)
            for p in pictures
        ]
        path = out / f"{name}-{start // ROWS + 1}.png"
        picture.write_png(path, np.concatenate(wide), overwrite=True)
        written.append(path)
    return written
