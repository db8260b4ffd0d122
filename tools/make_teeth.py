"""Cut the bank of teeth out of synthetic portraits: `talkingface/render/teeth.npz`.

    python tools/make_teeth.py PORTRAITS talkingface/render/teeth.npz [--sheet sheet.png]

PORTRAITS is a folder of .jpg files, looked through with its subfolders. Every fifth portrait (by
the hash of its name) is held out. Of the others, those that show teeth well enough by the numbers
below are cut, but for those listed as bad. The same portraits give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.faces import find_faces
from talkingface.landmarks import INNER_LIPS
from talkingface.picture import read as read_picture
from talkingface.render.teeth import (
    LEVEL,
    LOWER_EDGE,
    LOWER_ROWS,
    LUMA,
    SCALE,
    UPPER_EDGE,
    UPPER_ROWS,
    WIDTH,
    FaceLight,
    TeethBank,
    eye_span,
    face_light,
    write_bank,
)
from talkingface.types import Floats

ROWS = 112  # of the view of a mouth, from ABOVE rows over the middle of the upper inner lip
ABOVE = 24
LEAST_GAP, LARGEST_TURN, LEAST_WIDTH = 0.05, 0.2, 50.0  # eye distances; see FaceLight.turn; pixels
LEAST_TEETH = (0.42, 0.3)  # of the view's columns that show a tooth: upper, lower
FADE = 5  # columns in which the outermost teeth fade
REACH = 14  # rows from the lip within which a tooth begins
LEAST_HEIGHT, FULL_HEIGHT, LARGEST_STRETCH = (13.0, 8.0), 20.0, 1.4  # rows: upper, lower; upper
GUM = np.array([1.0, 0.62, 0.6], np.float32)  # of the brightness of the tooth below
TINT = np.array([1.1, 1.0, 0.94], np.float32)  # of teeth in neutral light: no green in it

# Looked at and left out: no teeth, tongue or lips before them, blurred, drawn, or of odd shape.
BAD: tuple[str, ...] = (
    "009.jpg",
    "035.jpg",
    "065.jpg",
    "080.jpg",
    "108.jpg",
    "127.jpg",
    "130.jpg",
    "131.jpg",
    "146.jpg",
    "184.jpg",
    "190.jpg",
    "252.jpg",
    "297.jpg",
    "2_Age_top_10_matches_19.jpg",
    "2_Background_Color_top_9_matches_20.jpg",
    "2_Background_Color_top_9_matches_40.jpg",
    "2_Background_top_10_matches_30.jpg",
    "2_Ethnicity_top_10_matches_22.jpg",
    "2_Ethnicity_x_Age_2_top_10_matches_40.jpg",
    "2_Expression_top_10_matches_01.jpg",
    "2_Expression_top_10_matches_05.jpg",
    "2_Expression_top_10_matches_06.jpg",
    "2_Expression_top_10_matches_09.jpg",
    "2_Expression_top_10_matches_29.jpg",
    "2_Expression_top_10_matches_55.jpg",
    "2_Expression_x_Sex_top_10_matches_03.jpg",
    "2_Expression_x_Sex_top_10_matches_07.jpg",
    "2_Expression_x_Sex_top_10_matches_16.jpg",
    "2_Expression_x_Sex_top_10_matches_20.jpg",
    "2_Expression_x_Sex_top_10_matches_22.jpg",
    "2_Expression_x_Sex_top_10_matches_23.jpg",
    "2_Expression_x_Sex_top_10_matches_27.jpg",
    "2_Expression_x_Sex_top_10_matches_50.jpg",
    "2_Expression_x_Sex_top_10_matches_53.jpg",
    "2_Facial_Features_top_9_matches_37.jpg",
    "2_Facial_Hair_top_10_matches_53.jpg",
    "2_Hair_Style_top_9_matches_29.jpg",
    "2_Hair_Style_x_Sex_top_10_matches_55.jpg",
    "2_Hats_top_10_matches_22.jpg",
    "2_Jewelry_top_9_matches_37.jpg",
    "2_Lighting_top_10_matches_24.jpg",
    "nobody.jpg",
)
# Portraits whose lower teeth stand apart from the upper ones and from the lip.
LOWER: tuple[str, ...] = (
    "2_Age_x_Ethnicity_x_Sex_2_top_10_matches_33.jpg",
    "2_Background_Color_top_9_matches_44.jpg",
)


@dataclass(frozen=True)
class View:
    """A mouth seen upright, SCALE pixels to the eye distance, the middle of the lips in the middle.

    colour: (ROWS, WIDTH, 3) in [0, 255]; inside: (ROWS, WIDTH), 1 between the inner lips.
    """

    colour: Floats
    inside: Floats


def held_out(name: str) -> bool:
    """Return whether a portrait is held out."""
    return int(hashlib.md5(name.encode()).hexdigest()[:8], 16) % 5 == 0


def look(picture: NDArray[np.uint8], mesh: NDArray[np.floating]) -> View:
    """Return the view of a face's mouth."""
    unit = eye_span(mesh)
    across = mesh[308] - mesh[78]
    x, y = across / np.linalg.norm(across) * SCALE / unit
    turn = np.array([[x, y], [-y, x]])
    matrix = np.concatenate([turn, np.zeros((2, 1))], 1)
    matrix[:, 2] = np.array([WIDTH / 2, ABOVE]) - turn @ mesh[13]
    if SCALE < unit:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.4 * unit / SCALE), np.uint8)
    colour = cv2.warpAffine(picture, matrix, (WIDTH, ROWS), flags=cv2.INTER_CUBIC)
    ring = (mesh[INNER_LIPS] @ turn.T + matrix[:, 2]) * 16
    inside = np.zeros((ROWS, WIDTH), np.uint8)
    cv2.fillPoly(inside, [np.rint(ring).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return View(np.asarray(colour, np.float32), np.asarray(inside / 255, np.float32))


def toothness(view: View) -> NDArray[np.bool_]:
    """Return where a view shows tooth: (ROWS, WIDTH). Bright, and no redder than the brightest."""
    inside = view.inside > 0.5
    light = view.colour @ LUMA
    bright = np.percentile(light[inside], 92)
    lab = cv2.cvtColor(view.colour / 255, cv2.COLOR_RGB2LAB)
    best = inside & (light > 0.85 * bright)
    redness = lab[..., 1] - np.median(lab[..., 1][best])
    return np.asarray(inside & (light > 0.5 * bright) & (redness < 11))


def run_end(tooth: NDArray[np.bool_], light: Floats, reach: int) -> tuple[int, int] | None:
    """First and last row of the tooth nearest to the top of a column; None where there is none.

    The run ends where the tooth does, or at a dark line in it. reach: rows from the lip in which a
    tooth has to begin.
    """
    rows = np.flatnonzero(tooth)
    if not len(rows) or rows[0] > reach:
        return None
    first = last = int(rows[0])
    for row in rows[1:]:
        deep = row - first >= 8
        if row - last > 2 or (deep and light[row] < 0.78 * np.median(light[first:row])):
            break
        last = int(row)
    return (first, last) if last - first >= 6 else None


def smooth_edge(columns: NDArray[np.int_], edge: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the parabola through most of an edge, for every column of a view: (WIDTH,)."""
    x = (columns - WIDTH / 2) / SCALE
    weight = np.ones(len(x))
    solved: NDArray[np.floating] = np.zeros(3)
    for _ in range(8):
        a = np.stack([np.ones_like(x), x, x * x], 1) * weight[:, None]
        solved = np.linalg.lstsq(a, edge * weight, rcond=None)[0]
        off = np.abs(edge - (solved[0] + solved[1] * x + solved[2] * x * x))
        weight = 1 / (1 + (off / 2.5) ** 2)
    every = (np.arange(WIDTH) - WIDTH / 2) / SCALE
    return np.asarray(solved[0] + solved[1] * every + solved[2] * every * every)


def cut(view: View, down: bool, rows: int, edge_row: int) -> Floats | None:
    """Return a straightened set (rows, WIDTH, 4), its edge in `edge_row`; None without good teeth.

    down: the upper teeth, whose edge is below; else the lower ones, whose edge is above, upside
    down. Short teeth are drawn out; above the lip that hid them, they fade to gum.
    """
    flip = slice(None, None, 1 if down else -1)
    colour, inside, tooth = view.colour[flip], view.inside[flip] > 0.5, toothness(view)[flip]
    light, top = colour @ LUMA, np.where(inside.any(0), inside.argmax(0), -1)
    ends = np.full(WIDTH, -1.0)
    for k in np.flatnonzero(top >= 0):
        run = run_end(tooth[top[k] :, k], light[top[k] :, k], REACH)
        if run is not None:
            ends[k] = top[k] + run[1] + 0.5
    columns = np.flatnonzero(ends >= 0)
    if len(columns) < LEAST_TEETH[0 if down else 1] * WIDTH:
        return None
    edge = smooth_edge(columns, ends[columns])
    middle = columns[np.abs(columns - WIDTH / 2) < 0.2 * SCALE]
    seen = np.median((edge - top)[middle]) if len(middle) else 0.0
    if seen < LEAST_HEIGHT[0 if down else 1]:
        return None
    stretch = float(np.clip(FULL_HEIGHT / seen, 1, LARGEST_STRETCH))
    last = _without_slits(np.where(ends >= 0, np.minimum(ends, edge + rows - edge_row - 2), -99))
    y = (np.arange(rows)[:, None] - edge_row) / stretch + edge
    lip = np.maximum(top, 0) + 2.5
    x = np.repeat(np.arange(WIDTH, dtype=np.float32)[None], rows, 0)
    out = cv2.remap(colour, x, np.maximum(y, lip).astype(np.float32), cv2.INTER_CUBIC)
    hidden = np.clip((lip - y) * stretch / 6, 0, 1)[..., None]
    out = out * (1 - hidden) + GUM * (out @ LUMA)[..., None] * hidden
    sides = np.minimum(np.arange(WIDTH) - columns[0], columns[-1] - np.arange(WIDTH))
    alpha = np.clip((last - y) * stretch + 1, 0, 1) * np.clip((sides + 1) / FADE, 0, 1)
    teeth = np.concatenate([out, alpha[..., None]], -1).astype(np.float32)
    aside = round((columns[0] + columns[-1] - WIDTH) / 2)
    return teeth[:, np.clip(np.arange(WIDTH) + aside, 0, WIDTH - 1)]


def _without_slits(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median of five columns of the last rows of teeth, narrow gaps among them closed."""
    kernel = np.ones((1, 9), np.uint8)
    closed = cv2.morphologyEx(values[None].astype(np.float32), cv2.MORPH_CLOSE, kernel)[0]
    padded = np.pad(closed, 2, mode="edge")
    return np.asarray(np.median(np.stack([padded[k : k + len(values)] for k in range(5)]), 0))


def neutral(teeth: Floats) -> Floats:
    """Return a set with the level and the tint of teeth in neutral light."""
    light = teeth[..., :3] @ LUMA
    shown = teeth[..., 3] > 0.5
    bright = shown & (light > np.percentile(light[shown], 40))
    mean = teeth[bright][:, :3].mean(0)
    gain = (mean @ LUMA) / np.maximum(mean, 1)
    colour = teeth[..., :3] * gain
    if np.abs(np.log(gain)).max() > 0.35:  # a tinted light: too little is left in one channel
        colour = np.repeat(light[..., None], 3, -1)
    colour = colour * (TINT / (TINT @ LUMA))
    green = np.maximum(colour[..., 1] - (colour[..., 0] + colour[..., 2]) / 2, 0)[..., None]
    colour += green * np.array([1 / 3, -2 / 3, 1 / 3], np.float32)
    colour *= LEVEL / np.percentile((colour @ LUMA)[shown], 75)
    return np.concatenate([colour.clip(0, 255), teeth[..., 3:]], -1)


def candidates(folder: Path) -> Iterator[tuple[str, View, FaceLight]]:
    """Yield name, view and description of the portraits that may be cut."""
    for path in sorted(folder.rglob("*.jpg")):
        if held_out(path.name) or path.name in BAD:
            continue
        picture = read_picture(path)
        faces = find_faces(picture)
        if not faces:
            continue
        mesh = faces[0].mesh[:, :2]
        light = face_light(picture, mesh)
        gap = np.linalg.norm(mesh[14] - mesh[13]) / eye_span(mesh)
        width = np.linalg.norm(mesh[308] - mesh[78])
        if gap > LEAST_GAP and abs(light.turn) < LARGEST_TURN and width > LEAST_WIDTH:
            yield path.name, look(picture, mesh), light


def make(folder: Path) -> tuple[TeethBank, list[str], list[str]]:
    """Return the bank of a folder's portraits, and the names of the upper and lower sets."""
    upper, lower = _Sets(), _Sets()
    for name, view, light in candidates(folder):
        top = cut(view, True, UPPER_ROWS, UPPER_EDGE)
        if top is not None:
            upper.add(name, neutral(top), light)
        bottom = cut(view, False, LOWER_ROWS, LOWER_ROWS - LOWER_EDGE) if name in LOWER else None
        if bottom is not None:
            lower.add(name, neutral(bottom[::-1]), light)
    bank = TeethBank(
        _pack(upper.teeth, UPPER_ROWS),
        _pack(lower.teeth, LOWER_ROWS),
        np.array(upper.numbers, np.float32),
        np.array(lower.numbers, np.float32),
    )
    return bank, upper.names, lower.names


@dataclass
class _Sets:
    """Sets as they are found, each followed by its mirror image."""

    names: list[str] = field(default_factory=list)
    teeth: list[Floats] = field(default_factory=list)
    numbers: list[Floats] = field(default_factory=list)

    def add(self, name: str, teeth: Floats, light: FaceLight) -> None:
        mirrored = replace(light, left=light.right, right=light.left, turn=-light.turn)
        self.names += [name, f"{name} mirrored"]
        self.teeth += [teeth, teeth[:, ::-1]]
        self.numbers += [light.numbers(), mirrored.numbers()]


def _pack(teeth: list[Floats], rows: int) -> NDArray[np.uint8]:
    if not teeth:
        return np.zeros((0, rows, WIDTH, 4), np.uint8)
    scale = np.array([1, 1, 1, 255], np.float32)
    return np.rint(np.stack(teeth) * scale).clip(0, 255).astype(np.uint8)


def sheet(bank: TeethBank, names: tuple[list[str], list[str]]) -> NDArray[np.uint8]:
    """Return a picture of all sets on a dark red ground, BGR."""
    tiles = []
    for teeth, called in zip((bank.upper, bank.lower), names, strict=True):
        for index, one in enumerate(teeth):
            alpha = one[..., 3:].astype(np.float32) / 255
            tile = one[..., :3] * alpha + np.array([50, 15, 15]) * (1 - alpha)
            tile = np.pad(tile, ((0, 60 - len(tile)), (0, 4), (0, 0))).astype(np.uint8)
            tile = np.ascontiguousarray(tile[..., ::-1])
            text = f"{index} {called[index][:24]}"
            cv2.putText(tile, text, (2, 56), cv2.FONT_HERSHEY_PLAIN, 0.7, (255, 255, 255))
            tiles.append(tile)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 8)
    rows = [np.hstack(tiles[k : k + 8]) for k in range(0, len(tiles), 8)]
    return np.asarray(np.vstack(rows), np.uint8)


def main() -> None:
    """Write the bank, and a sheet of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("portraits", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    bank, upper, lower = make(arguments.portraits)
    write_bank(arguments.out, bank)
    size = arguments.out.stat().st_size
    print(f"{len(upper)} upper and {len(lower)} lower sets, {size / 1000:.0f} kB: {arguments.out}")
    if arguments.sheet is not None:
        cv2.imwrite(str(arguments.sheet), sheet(bank, (upper, lower)))


if __name__ == "__main__":
    main()
