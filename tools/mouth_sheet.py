"""Draw mouths of finished videos at their real size, at the same times of each picture's videos.

    python tools/mouth_sheet.py OUT.png --of PICTURE LABEL=VIDEO [LABEL=VIDEO ...] [--of ...]
        [--frames 8] [--width 1560]

The picture comes first, then a row for each of its videos, which speak the same sound. What is
shown lies between nose and chin and is cut out of the decoded frames, pixel by pixel: where so many
frames do not fit into the width, there are fewer. The moments are those at which the lips of the
last video differ most: the widest gap, then again and again the moment that is least like all
before it. docs/results/sheet.jpg compares the renderer of commit 782363e with that of now:

    make demo
    here=$PWD
    git worktree add --detach ../old 782363e
    for who in portrait:speech man:man; do
        (cd ../old && "$here"/.venv/bin/python -m talkingface generate \\
            "$here"/examples/${who%:*}.jpg "$here"/examples/${who#*:}.wav \\
            -o "$here"/demo/before-${who%:*}.mp4 --overwrite)
    done
    .venv/bin/python tools/mouth_sheet.py sheet.png \\
        --of examples/portrait.jpg before=demo/before-portrait.mp4 now=demo/talking.mp4 \\
        --of examples/man.jpg before=demo/before-man.mp4 now=demo/man.mp4
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface import landmarks, picture, video
from talkingface.faces import Tracker, find_faces
from talkingface.landmarks import NOSE_BASE, OUTER_LIPS
from talkingface.types import Picture

CHIN = 152
BESIDE, BELOW = 0.06, 0.06  # eye distances around the lips, below the chin: a jaw may fall
APART = 2  # frames between two moments
LINE, GAP, EDGE = 20, 4, 6  # pixels: a label, between mouths, around the sheet


def mouth_of(mesh: NDArray[np.float64], shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the slices of the mouth of a mesh (478, 3) in a picture of shape (H, W, 3)."""
    unit = float(landmarks.eye_distance(mesh[:, :2]))
    lips = mesh[OUTER_LIPS, 0]
    left, right = lips.min() - BESIDE * unit, lips.max() + BESIDE * unit
    top, bottom = mesh[NOSE_BASE, 1], mesh[CHIN, 1] + BELOW * unit
    return (
        slice(max(0, round(top)), min(shape[0], round(bottom))),
        slice(max(0, round(left)), min(shape[1], round(right))),
    )


def moments(frames: list[Picture], count: int) -> list[int]:
    """Return the numbers of the frames whose lips differ most, in order of time."""
    tracker, shapes = Tracker(), []
    for frame in frames:
        face = tracker.update(frame)
        mesh = None if face is None else face.mesh[:, :2]
        unit = np.nan if mesh is None else landmarks.eye_distance(mesh)
        of = [np.nan] * 2 if mesh is None else [landmarks.aperture(mesh), landmarks.width(mesh)]
        shapes.append(np.array(of, np.float64) / unit)
    lips = np.array(shapes)
    away = np.nan_to_num(lips[:, 0], nan=-1.0)  # the first: the widest gap
    chosen: list[int] = []
    far = np.full(len(frames), np.inf)
    while len(chosen) < count and away.max() >= 0:
        chosen.append(int(away.argmax()))
        far = np.minimum(far, np.linalg.norm(lips - lips[chosen[-1]], axis=1))
        away = np.nan_to_num(far, nan=-1.0)
        for taken in chosen:
            away[max(0, taken - APART) : taken + APART + 1] = -1.0
    return sorted(chosen)


def person(shown: Path, videos: list[tuple[str, Path]], count: int, width: int) -> Picture:
    """Return the rows of one picture, no wider than `width`."""
    pixels = picture.read(shown)
    (face, *_) = find_faces(pixels)
    rows, columns = mouth_of(face.mesh, pixels.shape)
    high, wide = rows.stop - rows.start, columns.stop - columns.start
    count = max(1, min(count, (width - 2 * EDGE + GAP) // (wide + GAP) - 1))
    clips = [list(video.read_frames(path)) for _, path in videos]
    if any(clip[0].shape != pixels.shape for clip in clips):
        raise SystemExit(f"{shown}: a video is not as large as the picture")
    at = [t for t in moments(clips[-1], count) if t < min(map(len, clips))]
    sheet = np.full((len(clips) * (LINE + high + GAP), width, 3), 255, np.uint8)

    def put(label: str, row: int, column: int, mouths: list[Picture]) -> None:
        x, y = EDGE + column * (wide + GAP), row * (LINE + high + GAP)
        style = (cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        cv2.putText(sheet, label, (x, y + LINE - 6), *style)
        for mouth in mouths:
            sheet[y + LINE : y + LINE + high, x : x + wide] = mouth[rows, columns]
            x += wide + GAP

    put("picture", 0, 0, [pixels])
    for row, ((label, _), clip) in enumerate(zip(videos, clips, strict=True)):
        put(label, row, 1, [clip[t] for t in at])
    return sheet


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--of", nargs="+", action="append", required=True, metavar="PICTURE|VIDEO")
    parser.add_argument("--frames", type=int, default=8, help="of each video, at most")
    parser.add_argument("--width", type=int, default=1560, help="pixels of the sheet, at most")
    options = parser.parse_args()
    sheets = []
    for shown, *named in options.of:
        if not named or not all("=" in name for name in named):
            parser.error(f"--of {shown}: give LABEL=VIDEO after the picture")
        pairs = [(label, Path(path)) for label, _, path in (name.partition("=") for name in named)]
        sheets.append(person(Path(shown), pairs, options.frames, options.width))
    sheet = np.concatenate(sheets)
    used = np.flatnonzero((sheet < 255).any(axis=(0, 2)))[-1] + 1 + EDGE
    picture.write_png(options.out, np.ascontiguousarray(sheet[:, :used]), overwrite=True)


if __name__ == "__main__":
    main()
