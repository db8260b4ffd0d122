"""Push sound in chunks, get frames. Every video is generated in this way.

`Stream` keeps the end of the sound and the model's state from call to call. Both can be saved and
restored. Frames do not depend on the chunks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from talkingface import audio, media, sound_input
from talkingface.audio import FPS, SAMPLES_PER_FRAME, WindowStream
from talkingface.contract import State
from talkingface.errors import BadRequest, BadWeights
from talkingface.frame_generator import FrameGenerator
from talkingface.frames import FramePainter, OutputFrame, output_frames
from talkingface.media import Sound
from talkingface.sound_input import AudioInput, Samples
from talkingface.types import PathLike, Picture
from talkingface.version import __version__

CHUNK = 10  # frames per call of the model, at most: buffers of more come anew from the system
LONGEST_IDLE = 60.0  # seconds that `Stream.idle` gives at once
HEADER = "talkingface-stream"
_LARGEST_FILE = 256_000_000  # bytes of a saved stream
_LONGEST = 365 * 24 * 3600 * audio.SAMPLE_RATE  # samples
_DEEPEST = 8  # tuples within tuples of a state
# What reading a damaged file raises.
_UNREADABLE = (
    *(OSError, safetensors.SafetensorError, LookupError, TypeError, ValueError, AttributeError),
    *(RecursionError, OverflowError, MemoryError),
)


class Speech:
    """A sound that can be read several times. A file is never in memory whole.

    The model hears the mean of all channels; of channels that cancel each other, half their
    difference; of a live and a dead one, the live one.
    """

    def __init__(
        self,
        sound: AudioInput,
        track: int | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """sound: see `sound_input.open_input`; track: of a file, see `media.open_sound`.
        check: called often while the sound is read; what it raises ends the work.
        `seconds` is its exact length.

        Raises UnreadableMedia (the file, read to its end), BadRequest (no sound).
        """
        self._source = sound_input.open_input(sound, track)
        analysis = sound_input.analyse(self._source, check)
        self._mix, self.note = analysis.mix, analysis.note
        if analysis.samples < SAMPLES_PER_FRAME:
            if self.path is not None:
                next(self.parts())  # raises for so short a file
            raise BadRequest(
                f"a sound needs at least {SAMPLES_PER_FRAME} samples (one video frame, 40 ms at "
                f"16 kHz), this array has {analysis.samples}"
            )
        self._frames = audio.frame_count(analysis.samples)
        self.seconds = Fraction(analysis.samples, audio.SAMPLE_RATE)

    @property
    def path(self) -> Path | None:
        """The file, or None for samples."""
        return self._source.path

    @property
    def track(self) -> int | None:
        """Number of the file's audio track, see `media.open_sound`."""
        return self._source.track

    def own(self, channels: int | None = None) -> Sound:
        """Open the sound for playback, as it was given: rate, level and layout are its own.

        channels: 1 or 2, for no more than so many.
        """
        return self._source.own(channels)

    def __len__(self) -> int:
        """Return the number of video frames, counting the last, partial one."""
        return self._frames

    def parts(self, block: int = audio.SAMPLE_RATE) -> Iterator[Tensor]:
        """Yield (n,) float32 samples at 16 kHz, at most `block` at a time."""
        return self._source.parts(self._mix, block)


class Stream:
    """A live video of one face: push sound, get frames. Made by `TalkingFace.open`."""

    def __init__(
        self,
        generator: FrameGenerator,
        painter: FramePainter,
        note: str | None = None,
        whole: bool = False,
    ) -> None:
        """painter: draws the frames. note: on the face that was found, or None. whole: generate
        the model's own pictures, even if the painter needs none of them."""
        self.note = note
        self._generator, self._painter = generator, painter
        self._windows = WindowStream(generator.spec)
        self._motion_alone = painter.needs_motion_alone and not whole
        self._state: State = None
        self._finished = False

    @property
    def latency(self) -> float:
        """Seconds of sound that a frame needs after its own end.

        A sound is seen at most `latency` + 1 / 25 s after it was pushed, plus the time to compute.
        """
        return self._windows.spec.latency

    @property
    def frames(self) -> int:
        """Number of frames returned so far."""
        return self._windows.given

    def paint(self, frame: OutputFrame) -> Picture:
        """Draw a frame of `output` or `flush`, as `push` does."""
        return self._painter(frame)

    def push(self, samples: Samples) -> list[Picture]:
        """Push sound; return the frames, (H, W, 3) uint8 RGB, that are complete now.

        They are (H, W, 4) RGBA if the stream was opened with alpha and the picture has it.

        samples: (N,) floats in [-1, 1], mono at 16 kHz, any N.

        Raises BadRequest (no such sound, or a finished stream).
        """
        return list(map(self._painter, self.output(samples)))

    def idle(self, seconds: float) -> list[Picture]:
        """Push silence; return the frames that are complete now.

        seconds: length of the silence, above 0 and at most 60.

        Raises BadRequest.
        """
        if not 0 < seconds <= LONGEST_IDLE:
            raise BadRequest(f"idle for {seconds:g} s: give 0 to {LONGEST_IDLE:g} seconds")
        return self.push(torch.zeros(round(seconds * FPS) * SAMPLES_PER_FRAME))

    def finish(self) -> list[Picture]:
        """End the sound; return the remaining frames. Silence stands in for missing sound."""
        return list(map(self._painter, self.flush()))

    def output(self, samples: Samples) -> Iterator[OutputFrame]:
        """Push sound; yield each frame before it is drawn, generated when it is read.

        samples: as in `push`.

        Raises BadRequest.
        """
        if self._finished:
            raise BadRequest("this stream is finished: open another one for another sound")
        for part in check_samples(samples).split(CHUNK * SAMPLES_PER_FRAME):
            yield from self._output(self._windows.push(part))

    def flush(self) -> Iterator[OutputFrame]:
        """End the sound; yield each remaining frame before it is drawn."""
        self._finished = True
        yield from self._output(self._windows.finish())

    def settle(self) -> Iterator[OutputFrame]:
        """Yield the remaining frames as `flush` does, and stay open: the sound only pauses.

        Sound that is pushed later follows the last of these frames.
        """
        yield from self._output(self._windows.settle())

    def forget(self) -> None:
        """Drop the sound whose frames were not returned, and what was heard before them."""
        given = self._windows.given
        silence = torch.zeros(-self._windows.spec.first_sample)
        self._windows.restore(silence, given * SAMPLES_PER_FRAME, given)

    def _output(self, speech: Tensor) -> Iterator[OutputFrame]:
        if len(speech):
            made, motion, self._state = self._generator.generate(
                speech, self._state, self._motion_alone
            )
            yield from output_frames(made, motion)

    def save(self, path: PathLike, overwrite: bool = False) -> None:
        """Save the state, to continue later with `TalkingFace.open(resume=path)`.

        The face is not saved: give the same picture again. After an error no new file is left.

        path: the safetensors file to write.
        overwrite: True replaces an existing file.

        Raises OutputError.
        """
        tensors: dict[str, Tensor] = {"sound": self._windows.buffer}
        info = self._generator.info
        header = {
            "version": __version__,
            "model": info.name,
            "sha256": info.sha256,
            "pushed": self._windows.pushed,
            "given": self._windows.given,
            "finished": self._finished,
            "state": _flatten(self._state, "state", tensors),
        }
        whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        data = safetensors.torch.save(whole, {HEADER: json.dumps(header, sort_keys=True)})
        with media.replacing(Path(path), overwrite) as part, media.writing(Path(path), OSError):
            part.write_bytes(data)

    def restore(self, path: PathLike) -> None:
        """Restore the state that `save` wrote.

        path: the file.

        Raises BadWeights (no such file, a damaged one, or one of another model).
        """
        try:
            if Path(path).stat().st_size > _LARGEST_FILE:
                raise ValueError(f"more than {_LARGEST_FILE} bytes")
            with safetensors.safe_open(str(path), "pt") as file:
                header = json.loads((file.metadata() or {})[HEADER])
                tensors = {key: file.get_tensor(key) for key in file.keys()}
            saved, sha256 = str(header["model"]), str(header["sha256"])
            self._check_model(path, saved, sha256)
            state = _unflatten(header["state"], tensors, self._generator.device)
            sound, pushed, given = tensors["sound"], header["pushed"], header["given"]
            self._check_place(sound, pushed, given, header["finished"])
            self._check_state(state, given)
        except _UNREADABLE as error:
            reason = " ".join(str(error).split())[:80] or type(error).__name__
            raise BadWeights(
                f"{path}: no saved stream ({reason}); expected a file of `Stream.save`"
            ) from error
        self._windows.restore(sound, pushed, given)
        self._finished, self._state = header["finished"], state

    def _check_model(self, path: PathLike, saved: str, sha256: str) -> None:
        info = self._generator.info
        if sha256 != info.sha256 or (not info.sha256 and saved != info.name):
            raise BadWeights(
                f"{path}: saved with model {saved} ({sha256[:12]}), this is "
                f"{info.name} ({info.sha256[:12]}): open it with the one that it was saved with"
            )

    def _check_place(self, sound: Tensor, pushed: Any, given: Any, finished: Any) -> None:
        """Raise ValueError unless a stream may have been there."""
        spec = self._windows.spec
        if sound.dtype != torch.float32 or sound.ndim != 1 or not torch.isfinite(sound).all():
            raise ValueError(f"its sound is {sound.dtype} {tuple(sound.shape)}, or not finite")
        if type(finished) is not bool or type(pushed) is not int or type(given) is not int:
            raise ValueError("its place is no number")
        if not (0 <= pushed <= _LONGEST and 0 <= given <= audio.frame_count(pushed)):
            raise ValueError(f"{given} frames of {pushed} samples")
        kept = pushed - spec.first_sample - given * SAMPLES_PER_FRAME
        if len(sound) > spec.samples + SAMPLES_PER_FRAME or not (finished or len(sound) == kept):
            raise ValueError(f"{len(sound)} samples are kept, expected {kept}")

    def _check_state(self, state: State, given: int) -> None:
        """Raise ValueError unless the state is like that after one frame of silence."""
        if given == 0 and state is None:
            return
        spec = self._generator.spec
        silence = torch.zeros(1, spec.hops, spec.coefficients)
        expected = self._generator.generate(silence, None)[2]
        if self._generator.animator is None:
            _check_like(state, expected)
            return
        if not isinstance(state, tuple) or len(state) != 2:
            raise ValueError("its state is of another model")
        _check_like(state[0], expected[0])
        if state[1] is not None:  # the model's pictures were not asked for
            _check_like(state[1], expected[1])
        if int(state[0][0]) != given:
            raise ValueError(f"its state is of frame {int(state[0][0])}, not {given}")


def check_samples(samples: Samples | Sequence[float]) -> Tensor:
    """Return a sound at 16 kHz as (N,) float32 on the CPU; of several channels their mean.

    Raises BadRequest for what is no such sound.
    """
    return torch.from_numpy(sound_input.mixed(sound_input.to_channels(samples), None))


def _flatten(state: State, name: str, into: dict[str, Tensor]) -> Any:
    """Return the structure of a state as JSON; put its tensors into `into`, by name."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        into[name] = state
        return name
    return [_flatten(part, f"{name}.{k}", into) for k, part in enumerate(state)]


def _unflatten(
    shape: Any, tensors: dict[str, Tensor], device: torch.device, depth: int = 0
) -> State:
    if isinstance(shape, list) and depth < _DEEPEST:
        return tuple(_unflatten(part, tensors, device, depth + 1) for part in shape)
    return None if shape is None else tensors[shape].to(device)


def _check_like(found: State, expected: State) -> None:
    """Raise ValueError unless a state has the shapes of another, and finite numbers."""
    if expected is None:  # of what these controls leave out
        return
    if isinstance(expected, Tensor):
        like = isinstance(found, Tensor) and found.dtype == expected.dtype
        if not like or found.shape != expected.shape or not torch.isfinite(found).all():
            raise ValueError("a part of its state is of another shape, or not finite")
        return
    if not isinstance(found, tuple) or len(found) != len(expected):
        raise ValueError("its state is of another model")
    for own, other in zip(found, expected, strict=True):
        _check_like(own, other)
