"""The inside of a dubbed mouth: from the person's own best picture, else from the bank of teeth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from talkingface.dubbing.mouth_views import MouthView
from talkingface.dubbing.neutral import NeutralFace
from talkingface.raster import warp
from talkingface.render.mouth import MouthInterior
from talkingface.render.teeth import face_light
from talkingface.types import Array, Bounds, Floats

ENOUGH = 0.002  # score of a view whose teeth are used
_UNCLEAR = 0.4  # share of the score of a view whose teeth have no clear edge
_DARKEST, _BRIGHTEST = 0.4, 2.5  # factors by which a mouth's light may differ from its picture's


@dataclass(frozen=True)
class MouthSource:
    """The inside of a mouth in the picture that it is drawn from.

    interior: in that picture. camera: (2, 4) of the picture, see `neutral`. skin: (3,) of its
    cheeks.
    """

    interior: MouthInterior
    camera: Array
    skin: Floats

    @classmethod
    def of(cls, views: list[MouthView], neutral: NeutralFace) -> MouthSource:
        """Choose the picture that shows most teeth, else one with closed lips."""
        closed = min(views, key=lambda view: view.score)
        best, score = cls._of_view(closed, neutral), ENOUGH
        for view in views:
            if view.score > score:
                source = cls._of_view(view, neutral)
                clear = source.interior.own_teeth > 0
                if view.score * (1 if clear else _UNCLEAR) > score:
                    best, score = source, view.score * (1 if clear else _UNCLEAR)
        return best

    @classmethod
    def _of_view(cls, view: MouthView, neutral: NeutralFace) -> MouthSource:
        camera = neutral.camera(view.mesh)
        interior = MouthInterior(view.picture, view.mesh, neutral.seen(camera))
        return cls(interior, camera, face_light(view.picture, view.mesh).skin)

    def placed(self, camera: Array, depth: float, skin: Floats) -> PlacedMouth:
        """Return the inside of the mouth as a frame shows it.

        camera: (2, 4) of the frame. depth: of the mouth, in the reference frame's unit. skin: (3,)
        of the frame's cheeks.
        """
        there = self.camera[:, :2] @ np.linalg.inv(camera[:, :2])
        own, other = (c[:, 2] * depth + c[:, 3] for c in (camera, self.camera))
        matrix = np.column_stack([there, other - there @ own])
        light = (np.asarray(skin) + 1) / (self.skin + 1)
        return PlacedMouth(self.interior, matrix, light.clip(_DARKEST, _BRIGHTEST))


@dataclass(frozen=True)
class PlacedMouth:
    """The inside of a mouth in a frame; see `render.face.Interior`.

    interior: in its own picture. matrix: (2, 3), from the frame's pixels to that picture's. light:
    (3,) factors on the colours.
    """

    interior: MouthInterior
    matrix: Array
    light: Floats

    def draw(self, mesh: Array, box: Bounds) -> Floats:
        """Draw the inside of the mouth of a mesh (478, 2) in a box of the frame."""
        y0, y1, x0, x1 = box
        turned = self.matrix[:, :2]
        corners = np.array([(x, y) for x in (x0 - 1, x1) for y in (y0 - 1, y1)])
        there = corners @ turned.T + self.matrix[:, 2]
        (left, top), (right, bottom) = np.floor(there.min(0)), np.ceil(there.max(0)) + 1
        part = int(top), int(bottom), int(left), int(right)
        drawn = self.interior.draw(mesh @ turned.T + self.matrix[:, 2], part)
        scale = float(np.sqrt(abs(np.linalg.det(turned))))  # pixels of the picture to one here
        if scale > 1:
            drawn = np.asarray(cv2.GaussianBlur(drawn, (0, 0), 0.45 * scale), np.float32)
        shift = turned @ [x0, y0] + self.matrix[:, 2] - [left, top]
        placed = np.column_stack([turned, shift])
        out = warp(np.ascontiguousarray(drawn), placed, (x1 - x0, y1 - y0))
        return np.asarray((out * self.light).clip(0, 255), np.float32)
