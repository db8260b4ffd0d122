"""Frames of a video: a model's output for each frame, drawn into the picture of a face."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from talkingface import picture, video
from talkingface.contract import Generated
from talkingface.errors import BadRequest
from talkingface.face_options import FaceOptions
from talkingface.geometry import compose, invert, resized, transform, warp_crop
from talkingface.landmarks import eye_distance
from talkingface.models.lips import Mouth
from talkingface.motion import Motion
from talkingface.render.alpha import AlphaRenderer, unmixed
from talkingface.render.blend import Blender
from talkingface.render.eyes import EyeRenderer
from talkingface.render.face import FaceRenderer
from talkingface.render.glasses import wears_glasses
from talkingface.render.head import HeadRenderer
from talkingface.render.mouth import MouthInterior
from talkingface.render.warp import MeshWarp
from talkingface.types import Bounds, Floats, Picture

# Pixels between the eyes: up to the first a picture gets all of a correction, from the second on
# none. It was learned at 40 and would veil teeth that are sharper (docs/log.md).
CORRECTED = (48.0, 96.0)
MARGIN = 4  # the part of a bare face's side that is drawn around it, so that the head can move


@dataclass(frozen=True)
class Maps:
    """A model's maps of one frame. All but the crop are None if the model has none.

    crop: (S, S, 3) uint8 RGB, the generated face alone.
    mask: (S, S) float32 in [0, 1], the share of new colour in each pixel.
    colour: (S, S, 3) uint8 RGB, the new colour.
    landmarks: (68, 2) float32 in [0, 1] of the crop.
    """

    crop: Picture
    mask: NDArray[np.float32] | None
    colour: Picture | None
    landmarks: NDArray[np.float32] | None

    def panels(self) -> Picture | None:
        """Draw attention (white is new), colour and face side by side, twice as large.

        Returns (2 S, 6 S, 3) uint8 RGB; None if there is no attention or no colour.
        """
        if self.mask is None or self.colour is None:
            return None
        attention = np.rint(self.mask * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
        row = np.concatenate([attention, self.colour, self.crop], axis=1)
        return row.repeat(2, axis=0).repeat(2, axis=1)


@dataclass(frozen=True)
class OutputFrame:
    """Frame `t` of what a model generated.

    crop: (S, S, 3), its picture as uint8; of no size where the model was asked for its motion
    alone. motion: of the same frames as `made`; None for models that move no mesh.
    """

    crop: Picture
    made: Generated
    t: int
    motion: Motion | None = None

    def maps(self) -> Maps:
        """Return all that the model made for this frame."""
        made, t = self.made, self.t
        return Maps(
            self.crop,
            None if made.mask is None else _array(made.mask[0, t, 0]),
            None if made.colour is None else video.to_uint8(made.colour[0, t]),
            None if made.landmarks is None else _array(made.landmarks[0, t]),
        )


def output_frames(made: Generated, motion: Motion | None) -> Iterator[OutputFrame]:
    """Each frame of what a model generated for a batch of one."""
    for t, crop in enumerate(video.to_uint8(made.frames[0])):
        yield OutputFrame(crop, made, t, motion)


def _array(values: Tensor) -> NDArray[np.float32]:
    return np.asarray(values.float().cpu().numpy(), dtype=np.float32)


@dataclass(frozen=True)
class PreparedFace:
    """A face that is ready for `TalkingFace.animate`. Made by `TalkingFace.prepare`.

    identity: its encoding by the model.
    picture: (H, W, 3) uint8 RGB.
    matrix: (2, 3), from pixels of the picture to pixels of the crop.
    crop: (S, S, 3) uint8 RGB, the face itself.
    depth: (478,), of the mesh, in sides of the crop; less is nearer.
    options: how the face is shown.
    has_eyes: False if the eyes were not found but guessed.
    mouth: mesh and neutral mouth, if the model bends the picture along a mesh.
    moving: (P,), the points of the mesh that the model moves.
    note: note on the picture and on the face that was found, or None.
    alpha: (H, W) uint8 of the picture, whose transparent parts lie on `options.background`; 255 is
    opaque. None where all is opaque.
    bounds: rows and columns of the picture (y0, y1, x0, x1), outside which the face moves nothing;
    None is the whole picture. Beyond them are other faces.
    """

    identity: Any
    picture: Picture
    matrix: NDArray[np.float64]
    crop: Picture
    depth: NDArray[np.float32]
    options: FaceOptions
    has_eyes: bool = True
    mouth: Mouth | None = None
    moving: NDArray[np.int64] | None = None
    note: str | None = None
    alpha: NDArray[np.uint8] | None = None
    bounds: Bounds | None = None

    @cached_property
    def renderer(self) -> FrameRenderer:
        """Draws frames into the whole picture."""
        return FrameRenderer(self.picture, self.matrix, self, self.alpha)

    def face_renderer(self, side: int) -> FrameRenderer:
        """Draws the bare face, `side` pixels wide.

        More of the picture is drawn around it and cut away, into which the head can move.
        """
        margin = side // MARGIN if self.mouth is not None else 0
        placed = compose(self.matrix, resized(side / self.crop.shape[0]))
        placed[:, 2] += margin
        shown = warp_crop(self.picture, placed, side + 2 * margin)
        alpha = None if self.alpha is None else warp_crop(self.alpha, placed, side + 2 * margin)
        return FrameRenderer(shown, compose(invert(placed), self.matrix), self, alpha, margin)


class FrameRenderer:
    """Draws what a model makes of one face into one picture of it."""

    def __init__(
        self,
        shown: Picture,
        matrix: NDArray[np.float64],
        face: PreparedFace,
        alpha: NDArray[np.uint8] | None,
        margin: int = 0,
    ) -> None:
        """shown: (H, W, 3), the picture or a crop of it; matrix: from its pixels to the crop's.
        alpha: (H, W) of it, or None. margin: pixels to cut away on each side of what is drawn."""
        self._alpha, self._alpha_renderer = alpha, None
        self._picture, self._crop, self._size = shown, face.crop, face.crop.shape[0]
        self._margin = margin
        self._blender = Blender(shown.shape, matrix, self._size)
        self._face, self._back, self._share = None, invert(matrix), 0.0
        self._grey = bool((shown == shown[..., :1]).all())
        self._depth, self._has_eyes = face.depth, face.has_eyes
        self._bounds = face.bounds if shown is face.picture else None
        if face.mouth is not None:
            assert face.moving is not None
            mesh, rest = (
                self._placed(_array(part[0])) for part in (face.mouth.mesh, face.mouth.neutral)
            )
            self._mesh = mesh
            warp = MeshWarp(mesh, face.moving)
            self._face = FaceRenderer(shown, warp, MouthInterior(shown, mesh, rest))
            if alpha is not None:
                self._alpha_renderer = AlphaRenderer(alpha, warp)
            blurred, sharp = CORRECTED
            self._share = float(np.clip((sharp - eye_distance(mesh)) / (sharp - blurred), 0, 1))

    @cached_property
    def _head(self) -> HeadRenderer:
        unit = self._size * float(np.hypot(*self._back[:, 0]))
        depth = self._depth.astype(np.float64) * unit
        return HeadRenderer(self._picture.shape, self._mesh, depth, self._bounds)

    @cached_property
    def _eyes(self) -> EyeRenderer:
        return EyeRenderer(self._picture, self._mesh)

    @cached_property
    def _glasses(self) -> bool:
        return wears_glasses(self._picture, self._mesh)

    @property
    def bends_alone(self) -> bool:
        """True if frames are the picture bent, with nothing of a model's own pictures."""
        return self._face is not None and self._share == 0

    def __call__(self, frame: OutputFrame) -> Picture:
        """The picture (H, W, 3), without its margin, as it is in that frame."""
        return self._cut(self._draw(frame))

    def opacity(self, frame: OutputFrame) -> NDArray[np.uint8] | None:
        """Return the opacity (H, W) in that frame, which moves with the head; None without any."""
        if self._alpha is None:
            return None
        made, motion, t = frame.made, frame.motion, frame.t
        if self._alpha_renderer is None or made.mesh is None:
            return self._cut(self._alpha)
        levels = self._alpha_renderer.draw(self._placed(_array(made.mesh[0, t])))
        if motion is not None:
            levels = self._with_head(levels, motion.head[t], motion.brows[t])
        return self._cut(levels[..., 0])

    def _cut(self, drawn: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cut the margin away."""
        margin = self._margin
        if margin == 0:
            return drawn
        return np.ascontiguousarray(drawn[margin:-margin, margin:-margin])

    def _draw(self, frame: OutputFrame) -> Picture:
        made, t = frame.made, frame.t
        if self._face is None or made.mesh is None:
            out = self._picture.copy()
            self._blender.replace(out, frame.crop, self._crop)
            return out
        out = self._face.draw(self._placed(_array(made.mesh[0, t])))
        if made.change is not None and self._share > 0:
            change = _array(made.change[0, t]).transpose(1, 2, 0)
            if self._grey:
                change = change.mean(-1, keepdims=True).repeat(3, -1)
            self._blender.add(out, np.ascontiguousarray(change) * np.float32(127.5 * self._share))
        return out if frame.motion is None else self._with_motion(out, frame.motion, t)

    def _with_motion(self, out: Picture, motion: Motion, t: int) -> Picture:
        """Move lids and irises in a frame, then the head with all that is in it."""
        lids, gaze, head, brows = (
            part[t] for part in (motion.lids, motion.gaze, motion.head, motion.brows)
        )
        if self._has_eyes and (lids.any() or gaze.any()):
            self._eyes.draw(out, lids, gaze)
        return self._with_head(out, head, brows)

    def _with_head(self, out: Picture, head: Floats, brows: Floats) -> Picture:
        """Move the head in a frame, with all that is in it."""
        if self._glasses:
            brows = np.zeros_like(brows)  # a rim would bend with them
        return self._head.draw(out, head, brows) if head.any() or brows.any() else out

    def _placed(self, mesh: NDArray[np.float32]) -> NDArray[np.float64]:
        """A mesh (478, 2) in [0, 1] of the crop, in pixels of the picture."""
        return transform(mesh.astype(np.float64) * self._size, self._back)


class FramePainter:
    """Draws the frames of a face as its options say: whole picture, bare face or maps."""

    def __init__(
        self,
        face: PreparedFace,
        model: str,
        options: FaceOptions | None = None,
        alpha: bool = False,
    ) -> None:
        """model: its name, for the error of one without maps. options: instead of the face's.
        alpha: draw the opacity too, if the face has one: RGBA."""
        options = options or face.options
        self._background = picture.colour(options.background)
        self._alpha = alpha and face.alpha is not None and options.show != "maps"
        self._show, self._mark, self._model = options.show, options.mark, model
        if options.show == "picture":
            self._renderer = face.renderer
        elif options.show == "face":
            self._renderer = face.face_renderer(options.crop_size - options.crop_size % 2)

    @property
    def needs_motion_alone(self) -> bool:
        """True if what is shown takes no more of a model than its meshes."""
        return self._show == "picture" and self._renderer.bends_alone

    def __call__(self, frame: OutputFrame) -> Picture:
        """Draw a frame, (H, W, 3) uint8 RGB, or (H, W, 4) RGBA, see `__init__`.

        Raises BadRequest (the model makes no maps).
        """
        shown = self._panels(frame) if self._show == "maps" else self._renderer(frame)
        opacity = self._renderer.opacity(frame) if self._alpha else None
        if opacity is not None:
            shown = unmixed(shown, opacity, self._background)
        return picture.label(shown) if self._mark else shown

    def _panels(self, frame: OutputFrame) -> Picture:
        made = frame.maps().panels()
        if made is None:
            raise BadRequest(
                f"model {self._model} makes no maps of attention and colour: give one that lays "
                "new colour over the picture, as cran and atvg do"
            )
        return made
