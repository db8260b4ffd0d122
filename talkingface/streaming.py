"""Sound in as it comes, frames out once complete: the one way in which every video here is made.

`Stream` carries the end of the sound and the model's state from call to call. Both may be saved and
taken up again; frames do not depend on how the sound was cut.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from talkingface import media, picture, video
from talkingface.audio import FPS, SAMPLES_PER_FRAME, WindowStream
from talkingface.contract import Generated, State
from talkingface.errors import BadRequest, BadWeights
from talkingface.geometry import compose, invert, resized, transform, warp_crop
from talkingface.landmarks import eye_distance
from talkingface.models.lips import Mouth
from talkingface.motion import Motion
from talkingface.render.blend import Blender
from talkingface.render.eyes import EyeRenderer
from talkingface.render.face import FaceRenderer
from talkingface.render.glasses import wears_glasses
from talkingface.render.head import HeadRenderer
from talkingface.render.mouth import MouthInterior
from talkingface.version import __version__

Picture = NDArray[np.uint8]
Samples = NDArray[np.floating[Any]] | Tensor
Item = TypeVar("Item")
Show = Literal["picture", "face", "maps"]

# Pixels between the eyes: up to the first a picture gets all of a correction, from the second on
# none. It was learned at 40 and would veil teeth that are sharper (docs/log.md).
CORRECTED = (48.0, 96.0)
CHUNK = 10  # frames per call of the model, at most: buffers of more come anew from the system
MARGIN = 4  # the part of a bare face's side that is drawn around it, so that the head can move
LONGEST_IDLE = 60.0  # seconds that `Stream.idle` gives at once
HEADER = "talkingface-stream"


@dataclass(frozen=True)
class Maps:
    """Maps that a model made for one frame; None where it makes none.

    crop: (S, S, 3) uint8, the generated face alone.
    mask: (S, S) float32 in [0, 1], how much of each pixel is new colour.
    colour: (S, S, 3) uint8, the new colour.
    landmarks: (68, 2) float32 in [0, 1] of the crop.
    """

    crop: Picture
    mask: NDArray[np.float32] | None
    colour: Picture | None
    landmarks: NDArray[np.float32] | None

    def panels(self) -> Picture | None:
        """(2 S, 6 S, 3) uint8: attention (white is new), colour and face, each pixel four times.

        None without attention or colour.
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


def _array(values: Tensor) -> NDArray[np.float32]:
    return np.asarray(values.float().cpu().numpy(), dtype=np.float32)


@dataclass(frozen=True)
class PreparedFace:
    """A face ready to speak.

    identity: its encoding. picture: (H, W, 3); matrix: (2, 3), the picture's pixels to the crop's;
    crop: (S, S, 3), the face itself. depth: (478,) of its mesh in crop sides, less is nearer.
    has_eyes: whether its eyes were found, or only guessed. mouth: what motion needs of the face,
    where the model bends the picture along a mesh; moving: the points (P,) that it moves. note:
    what the user should know of how the face was found.
    """

    identity: Any
    picture: Picture
    matrix: NDArray[np.float64]
    crop: Picture
    depth: NDArray[np.float32]
    has_eyes: bool = True
    mouth: Mouth | None = None
    moving: NDArray[np.int64] | None = None
    note: str | None = None

    @cached_property
    def renderer(self) -> FrameRenderer:
        """Draws frames into the whole picture."""
        return FrameRenderer(self.picture, self.matrix, self)

    def face_renderer(self, side: int) -> Callable[[OutputFrame], Picture]:
        """Draws the bare face, `side` pixels wide.

        More of the picture is drawn around it and cut away, into which the head can move.
        """
        margin = side // MARGIN if self.mouth is not None else 0
        placed = compose(self.matrix, resized(side / self.crop.shape[0]))
        placed[:, 2] += margin
        shown = warp_crop(self.picture, placed, side + 2 * margin)
        renderer = FrameRenderer(shown, compose(invert(placed), self.matrix), self)

        def draw(frame: OutputFrame) -> Picture:
            drawn = renderer(frame)[margin : margin + side, margin : margin + side]
            return np.ascontiguousarray(drawn)

        return draw

    def needs_motion_alone(self, show: Show) -> bool:
        """Return whether what is shown takes no more of a model than its meshes."""
        return self.mouth is not None and show == "picture" and self.renderer.bends_alone

    def drawing(
        self, show: Show, mark: bool, model: str, side: int
    ) -> Callable[[OutputFrame], Picture]:
        """Return what draws a frame: in its whole "picture", as the bare "face", or as "maps".

        mark: with a visible label that it is synthetic. model: its name, for what is said about a
        model without maps. side: pixels of the bare face. Raises BadRequest: `show` is none of
        these; the drawing may, for maps.
        """
        if show not in get_args(Show):
            raise BadRequest(f"show is {show!r}: give {', '.join(get_args(Show))}")
        draw: Callable[[OutputFrame], Picture]
        if show == "maps":
            draw = partial(panels, model=model)
        else:
            draw = self.renderer if show == "picture" else self.face_renderer(side)
        return (lambda frame: picture.label(draw(frame))) if mark else draw


class FrameRenderer:
    """Draws what a model makes of one face into one picture of it."""

    def __init__(self, shown: Picture, matrix: NDArray[np.float64], face: PreparedFace) -> None:
        """shown: (H, W, 3), the picture or a crop of it; matrix: from its pixels to the crop's."""
        self._picture, self._crop, self._size = shown, face.crop, face.crop.shape[0]
        self._blender = Blender(shown.shape, matrix, self._size)
        self._face, self._back, self._share = None, invert(matrix), 0.0
        self._grey = bool((shown == shown[..., :1]).all())
        self._depth, self._has_eyes = face.depth, face.has_eyes
        if face.mouth is not None:
            assert face.moving is not None
            mesh, rest = (
                self._placed(_array(part[0])) for part in (face.mouth.mesh, face.mouth.neutral)
            )
            self._mesh = mesh
            self._face = FaceRenderer(shown, mesh, face.moving, MouthInterior(shown, mesh, rest))
            blurred, sharp = CORRECTED
            self._share = float(np.clip((sharp - eye_distance(mesh)) / (sharp - blurred), 0, 1))

    @cached_property
    def _head(self) -> HeadRenderer:
        unit = self._size * float(np.hypot(*self._back[:, 0]))
        return HeadRenderer(self._picture.shape, self._mesh, self._depth.astype(np.float64) * unit)

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
        """The picture (H, W, 3) as it is in that frame."""
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
        if self._glasses:
            brows = np.zeros_like(brows)  # a rim would bend with them
        return self._head.draw(out, head, brows) if head.any() or brows.any() else out

    def _placed(self, mesh: NDArray[np.float32]) -> NDArray[np.float64]:
        """A mesh (478, 2) in [0, 1] of the crop, in pixels of the picture."""
        return transform(mesh.astype(np.float64) * self._size, self._back)


def panels(frame: OutputFrame, model: str) -> Picture:
    """`Maps.panels` of a frame. Raises BadRequest for a model that makes none."""
    made = frame.maps().panels()
    if made is None:
        raise BadRequest(
            f"model {model} makes no maps of attention and colour: give one that lays new colour "
            "over the picture, as cran and atvg do"
        )
    return made


class Stream:
    """Push sound as it comes, get the frames that are complete now.

    generate: (windows (T, hops, coefficients), state) -> what the model makes of them, how the face
    moves with them (None for models that move no mesh), and the state. It may leave out the
    pictures where `draw` takes none (`PreparedFace.needs_motion_alone`).
    windows: of the model's speech. draw: how a frame is shown. made_by: the model's name and the
    sha256 of its weights, which a saved stream remembers. note: what the user should know of how
    the face was found, None when there is nothing.
    """

    def __init__(
        self,
        generate: Callable[[Tensor, State], tuple[Generated, Motion | None, State]],
        windows: WindowStream,
        draw: Callable[[OutputFrame], Picture],
        made_by: tuple[str, str],
        note: str | None = None,
    ) -> None:
        self.note = note
        self._generate, self._windows, self._draw = generate, windows, draw
        self._made_by = made_by
        self._state: State = None
        self._finished = False

    @property
    def latency(self) -> float:
        """Seconds of sound that a frame needs after its own end (`SpeechSpec.latency`).

        A sound is seen at most `latency` + 1 / 25 s after it was heard, plus the computing.
        """
        return self._windows.spec.latency

    @property
    def frames(self) -> int:
        """Number of frames that have come out so far."""
        return self._windows.given

    def push(self, samples: Samples) -> list[Picture]:
        """The frames, (H, W, 3) uint8 at 25 per second, that these (N,) samples complete.

        samples: floats in [-1, 1], mono at 16 kHz, any N. Raises BadRequest.
        """
        return [self._draw(frame) for frame in self.output(samples)]

    def idle(self, seconds: float) -> list[Picture]:
        """The frames of a face that nobody lets speak: the same as of silence that is pushed.

        Raises BadRequest.
        """
        if not 0 < seconds <= LONGEST_IDLE:
            raise BadRequest(f"idle for {seconds:g} s: give 0 to {LONGEST_IDLE:g} seconds")
        return self.push(torch.zeros(round(seconds * FPS) * SAMPLES_PER_FRAME))

    def finish(self) -> list[Picture]:
        """The sound is over: the frames still owed, their missing sound taken as silence."""
        return [self._draw(frame) for frame in self.flush()]

    def output(self, samples: Samples) -> Iterator[OutputFrame]:
        """`push` with what the model makes, one frame after the other, made when asked for."""
        if self._finished:
            raise BadRequest("this stream is finished: open another one for another sound")
        for part in check_samples(samples).split(CHUNK * SAMPLES_PER_FRAME):
            yield from self._output(self._windows.push(part))

    def flush(self) -> Iterator[OutputFrame]:
        """`finish` with what the model makes."""
        self._finished = True
        yield from self._output(self._windows.finish())

    def _output(self, speech: Tensor) -> Iterator[OutputFrame]:
        if len(speech):
            made, motion, self._state = self._generate(speech, self._state)
            yield from output_frames(made, motion)

    def save(self, path: Path | str, overwrite: bool = False) -> None:
        """Keep what is carried on (not the face), to go on later with `TalkingFace.open(resume=)`.

        A safetensors file, whole or not at all. Raises OutputError.
        """
        tensors: dict[str, Tensor] = {"sound": self._windows.buffer}
        name, sha256 = self._made_by
        header = {
            "version": __version__,
            "model": name,
            "sha256": sha256,
            "pushed": self._windows.pushed,
            "given": self._windows.given,
            "finished": self._finished,
            "state": _flatten(self._state, "state", tensors),
        }
        whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        data = safetensors.torch.save(whole, {HEADER: json.dumps(header, sort_keys=True)})
        with media.replacing(Path(path), overwrite) as part, media.writing(Path(path), OSError):
            part.write_bytes(data)

    def restore(self, path: Path | str, device: torch.device) -> None:
        """Take up what `save` kept. Raises BadWeights: no such file, or another model's."""
        try:
            with safetensors.safe_open(str(path), "pt") as file:
                header = json.loads((file.metadata() or {})[HEADER])
                tensors = {key: file.get_tensor(key) for key in file.keys()}
        except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
            raise BadWeights(
                f"{path}: no saved stream ({' '.join(str(error).split())[:80]}); "
                "expected a file of `Stream.save`"
            ) from error
        name, sha256 = self._made_by
        if header["sha256"] != sha256 or (not sha256 and header["model"] != name):
            raise BadWeights(
                f"{path}: saved with model {header['model']} ({header['sha256'][:12]}), this is "
                f"{name} ({sha256[:12]}): open it with the one that it was saved with"
            )
        self._windows.restore(tensors["sound"], header["pushed"], header["given"])
        self._finished = header["finished"]
        self._state = _unflatten(header["state"], tensors, device)


def output_frames(made: Generated, motion: Motion | None) -> Iterator[OutputFrame]:
    """Each frame of what a model generated for a batch of one."""
    for t, crop in enumerate(video.to_uint8(made.frames[0])):
        yield OutputFrame(crop, made, t, motion)


def ahead(items: Iterator[Item], threads: int) -> Iterator[Item]:
    """Yield the items, each computed in a thread of its own while the one before is in use.

    threads: that torch may use in there (a fresh thread would take them all).
    """
    with ThreadPoolExecutor(1, "ahead", torch.set_num_threads, (threads,)) as maker:
        coming = maker.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = maker.submit(next, items, None)
            yield item


def check_samples(samples: Samples) -> Tensor:
    """(N,) float32 on the CPU. Raises BadRequest for what is no sound."""
    given = torch.as_tensor(samples)
    if given.ndim != 1 or not given.is_floating_point():
        raise BadRequest(
            f"a sound must be (N,) floats in [-1, 1] at 16 kHz, this array is "
            f"{tuple(given.shape)} {given.dtype}"
        )
    if not bool(torch.isfinite(given).all()):
        raise BadRequest("a sound must be finite numbers, this array has NaN or infinite ones")
    return given.float().cpu()


def _flatten(state: State, name: str, into: dict[str, Tensor]) -> Any:
    """The shape of a state as JSON, its tensors gathered by name."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        into[name] = state
        return name
    return [_flatten(part, f"{name}.{k}", into) for k, part in enumerate(state)]


def _unflatten(shape: Any, tensors: dict[str, Tensor], device: torch.device) -> State:
    if isinstance(shape, list):
        return tuple(_unflatten(part, tensors, device) for part in shape)
    return None if shape is None else tensors[shape].to(device)
