"""Detection of glasses: their bridge is an edge across the nose, at the eyes' height."""

from __future__ import annotations

import cv2
import numpy as np

from talkingface.geometry import fit_similarity
from talkingface.landmarks import STABLE_MESH, reference_mesh
from talkingface.types import Array, Picture

SCALE = 64  # pixels of the eyes' distance at which it is looked at
# The part of the face that a bridge crosses, interocular: half its width, top and bottom.
HALF, TOP, BOTTOM = 0.08, -0.25, 0.30
DARKEST = 10.0  # levels added before the logarithm: noise in the dark is no edge
# Change of the logarithm of brightness in 0.1 interocular. Of 22 pictures of glasses 20 are above,
# of 109 others 17, of whom half wear glasses.
EDGE = 0.95


def wears_glasses(picture: Picture, mesh: Array) -> bool:
    """Look for the bridge of glasses in (H, W, 3) uint8 RGB with this mesh (478, 2), its pixels."""
    to_face = fit_similarity(mesh[STABLE_MESH], reference_mesh()[STABLE_MESH])
    width, height = round(2 * HALF * SCALE), round((BOTTOM - TOP) * SCALE)
    finer = max(1, round(1 / (SCALE * np.hypot(*to_face[:, 0]))))  # of a large picture: its pixels
    matrix = finer * SCALE * to_face
    matrix[:, 2] += finer * SCALE * np.array([HALF, -TOP])
    strip = cv2.warpAffine(picture, matrix, (finer * width, finer * height))
    strip = cv2.resize(strip, (width, height), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(strip, cv2.COLOR_RGB2GRAY).astype(np.float64)
    light = cv2.GaussianBlur(np.log(grey + DARKEST), (0, 0), 1.0)
    change = np.abs(light[2:] - light[:-2]) / 2 * SCALE / 10
    return bool(np.median(change.max(0)) > EDGE)
