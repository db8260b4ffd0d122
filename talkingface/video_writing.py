"""Write videos with their sound: complete files, or pieces for a viewer who does not wait.

Frames are (H, W, 3) uint8 RGB, or planes as a decoder gives them. PyAV is imported inside the
functions (see `media`).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talkingface import media
from talkingface.audio import FPS, SAMPLE_RATE
from talkingface.errors import OutputError, UnreadableMedia
from talkingface.media import Sound
from talkingface.types import Picture

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

SoundSource = Path | str | Tensor | NDArray[np.float32] | Callable[[], Sound]
Rate = int | Fraction  # frames per second

_BEHIND = 8  # frames: so many may wait for the encoder
_FRAGMENT = 80_000  # microseconds of a live stream that are written together


@dataclass(frozen=True)
class Colours:
    """Colours of a video, as codes of ITU-T H.273. full: luma is 0 to 255, not 16 to 235."""

    primaries: int = 1
    transfer: int = 1
    matrix: int = 1
    full: bool = False


BT709 = Colours()


@dataclass(frozen=True)
class Coding:
    """Coding of a video's pictures.

    encoder, pixels: FFmpeg's names of the encoder and of its pixel format. options: of the encoder.
    colours: written into the file; RGB frames are converted to them.
    """

    encoder: str = "libx264"
    options: Mapping[str, str] = field(default_factory=dict)
    pixels: str = "yuv420p"
    colours: Colours = BT709


@dataclass(frozen=True)
class Container:
    """Container of a file. format: FFmpeg's name of its muxer. options: of the muxer."""

    format: str = "mp4"
    options: Mapping[str, str] = field(default_factory=dict)


MP4 = Container("mp4", {"movflags": "+faststart"})
H264 = Coding(options={"crf": "18", "preset": "veryfast"})
# delay_moov: the index comes with the first fragment, when AAC's priming is known, and tells
# players to leave it out; so lips and sound stay together without either being moved.
_LIVE_MP4 = Container(
    "mp4", {"movflags": "+delay_moov+default_base_moof", "frag_duration": str(_FRAGMENT)}
)
_LIVE_H264 = Coding(
    options={"crf": "20", "preset": "veryfast", "tune": "zerolatency", "g": "25", "threads": "1"}
)


def check_output(path: Path | str, overwrite: bool = False) -> None:
    """Call before the work starts: raises OutputError when `write` could not write `path`."""
    if Path(path).suffix.lower() != ".mp4":
        raise OutputError(f"{path}: videos are written as mp4; give a name that ends in .mp4")
    media.check_output(path, overwrite)


def is_whole(path: Path | str) -> bool:
    """Return whether a video is there, is not cut short, and tells its length."""
    try:
        with media.opened(Path(path)) as container:
            return media.video_stream(container) is not None and bool(container.duration)
    except UnreadableMedia:
        return False


def write(
    path: Path | str,
    frames: Iterable[Picture],
    sound: SoundSource | None,
    *,
    fps: Rate = FPS,
    tag: str | None = None,
    overwrite: bool = False,
) -> int:
    """Write an mp4 (H.264 yuv420p, AAC, faststart) while the frames come; returns how many came.

    frames: (H, W, 3) uint8 RGB of one size; an odd size is padded by one row or column.
    sound: a recording or video, muxed at its own rate and layout, a function that opens a `Sound`,
    or (N,) samples at 16 kHz; it is cut where the frames end. tag: the file's comment, to say that
    the video is synthetic.
    The file appears under its name when it is complete; on any failure nothing is left and an
    earlier file stays. Raises OutputError, UnreadableMedia (the sound) and what `frames` raises.
    """
    together = ([frame] for frame in frames)
    return write_together([path], together, sound, fps=fps, tag=tag, overwrite=overwrite)


def write_together(
    paths: Sequence[Path | str],
    frames: Iterable[Sequence[Picture]],
    sound: SoundSource | None,
    *,
    fps: Rate = FPS,
    tag: str | None = None,
    overwrite: bool = False,
) -> int:
    """Several mp4s in one pass: the k-th picture of every item is a frame of the k-th file.

    All else as in `write`; the files appear when all of them are complete.
    """
    files = [Path(path) for path in paths]
    for path in files:
        check_output(path, overwrite)
    tracks = [open_sound(sound) for _ in files]
    source = iter(frames)
    first = next(source, None)
    if first is None:
        raise OutputError(f"{files[0]}: nothing to write, there are no frames")
    with ExitStack() as renaming, ExitStack() as closing:
        parts = [renaming.enter_context(media.replacing(path, overwrite)) for path in files]
        writers = [
            closing.enter_context(
                VideoWriter(path, part, picture.shape[:2], fps=fps, sound=track, tag=tag)
            )
            for path, part, picture, track in zip(files, parts, first, tracks, strict=True)
        ]
        with encoding() as encoder:
            for pictures in itertools.chain([first], source):
                encoder.submit(_add, writers, pictures)
        for writer in writers:
            writer.finish()
    return writers[0].frames


def _add(writers: Sequence[VideoWriter], pictures: Sequence[Picture]) -> None:
    for writer, picture in zip(writers, pictures, strict=True):
        writer.add(picture)


class Encoding:
    """A thread that encodes, few frames behind its caller. Made by `encoding`."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self._thread = thread
        self._waiting: deque[Future[None]] = deque()

    def submit(self, add: Any, *frame: Any) -> None:
        """Have `add(*frame)` called after those before; raises what one of these raised."""
        before = self._waiting[-1] if self._waiting else None
        self._waiting.append(self._thread.submit(self._call, before, add, frame))
        if len(self._waiting) > _BEHIND:
            self._waiting.popleft().result()

    @staticmethod
    def _call(before: Future[None] | None, add: Any, frame: Sequence[Any]) -> None:
        if before is not None:
            before.result()  # raises where that failed: nothing may follow in a broken file
        add(*frame)

    def wait(self) -> None:
        """Wait for all that was submitted; raises what one of these raised."""
        for left in self._waiting:
            left.result()


@contextmanager
def encoding() -> Iterator[Encoding]:
    """Encode in a thread of its own; at the end all frames are encoded."""
    with ThreadPoolExecutor(1, "encoder") as thread:
        encoder = Encoding(thread)
        yield encoder
        encoder.wait()


def open_sound(sound: SoundSource | None) -> Sound | None:
    """Open a recording or a video, or wrap (N,) samples at 16 kHz. Raises UnreadableMedia."""
    if sound is None:
        return None
    if isinstance(sound, (str, Path)):
        return media.open_sound(Path(sound))
    if callable(sound):
        return sound()
    samples = torch.as_tensor(sound).detach().cpu().float().numpy().reshape(1, -1)
    return Sound(SAMPLE_RATE, 1, iter([samples]))


class VideoWriter:
    """A video under construction.

    Sound is encoded up to the end of the last frame, so the muxer holds almost nothing.
    """

    def __init__(
        self,
        path: Path,
        target: Any,
        size: Sequence[int],
        *,
        container: Container = MP4,
        coding: Coding = H264,
        fps: Rate = FPS,
        time_base: Fraction | None = None,
        sound: Sound | None = None,
        tag: str | None = None,
    ) -> None:
        """path: what errors name; target: the name, or the file-like object, that is written.

        size: (height, width) of the frames; an odd size is padded by one row or column. fps: the
        rate of frames without a time, and of a video without `time_base`. time_base: unit in which
        the file keeps the times of frames, for any times. sound: as much of it is taken as belongs
        beside the frames. tag: the file's comment. Raises OutputError.
        """
        import av
        from av.video.reformatter import VideoReformatter

        self._path, self._sound, self._fps = path, sound, Fraction(fps)
        self._size, self._coding = (int(size[0]), int(size[1])), coding
        self._base = time_base or 1 / self._fps
        self._errors = (av.FFmpegError, OSError)
        self._queue = np.zeros((sound.channels if sound else 1, 0), np.float32)
        self._converter = VideoReformatter()  # one for all frames: it is slow to set up
        self._samples = 0
        self.frames = 0
        with media.writing(path, *self._errors):
            options = dict(container.options)
            name = target if hasattr(target, "write") else str(target)
            self._container = av.open(name, "w", format=container.format, container_options=options)
            if tag is not None:
                self._container.metadata["comment"] = tag
            self._video = self._add_video(time_base)
            self._audio = self._add_audio(sound) if sound else None
            self._container.start_encoding()

    def _add_video(self, time_base: Fraction | None) -> VideoStream:
        coding, colours = self._coding, self._coding.colours
        options = dict(coding.options)
        found = self._container.add_stream(coding.encoder, rate=self._fps, options=options)
        stream = cast("VideoStream", found)
        stream.height, stream.width = (side + side % 2 for side in self._size)
        stream.pix_fmt = coding.pixels
        context = stream.codec_context
        if time_base is not None:
            context.time_base = time_base
        context.color_primaries, context.color_trc = colours.primaries, colours.transfer
        context.colorspace, context.color_range = colours.matrix, 2 if colours.full else 1
        return stream

    def _add_audio(self, sound: Sound) -> AudioStream:
        stream = self._container.add_stream("aac", rate=sound.rate, layout=sound.layout)
        stream.bit_rate = min(96_000, 4 * sound.rate) * sound.channels
        return stream

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; needed after `finish` too."""
        with media.writing(self._path, *self._errors):
            self._container.close()

    def add(self, picture: Picture, time: Fraction | None = None) -> None:
        """Add a frame, (H, W, 3) uint8 RGB, and the sound that belongs beside it.

        time: seconds from the start, more than before; by default that of the frame's number.
        Raises OutputError, ValueError (a frame of another size).
        """
        import av

        if picture.shape[:2] != self._size:
            raise ValueError(f"frame {self.frames} is {picture.shape}, the first was {self._size}")
        height, width = self._size
        padding = ((0, height % 2), (0, width % 2), (0, 0))
        even = np.pad(picture, padding, mode="edge") if height % 2 or width % 2 else picture
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        colours = self._coding.colours
        frame = self._converter.reformat(
            frame,
            format=self._coding.pixels,
            dst_colorspace=colours.matrix,
            dst_color_range=2 if colours.full else 1,
        )
        self._add(frame, time)

    def add_planes(self, planes: Sequence[NDArray[Any]], time: Fraction | None = None) -> None:
        """Add a frame as the planes of `Coding.pixels`, without conversion.

        planes: (h, w) uint8 each, uint16 for more than 8 bits; luma first. time, errors: see `add`.
        """
        import av

        height, width = (side + side % 2 for side in self._size)
        frame = av.VideoFrame(width, height, self._coding.pixels)
        if len(planes) != len(frame.planes):
            raise ValueError(f"{len(planes)} planes for {self._coding.pixels}")
        for plane, given in zip(frame.planes, planes, strict=True):
            _fill(plane, np.ascontiguousarray(given))
        self._add(frame, time)

    def _add(self, frame: VideoFrame, time: Fraction | None) -> None:
        start = self.frames / self._fps if time is None else time
        frame.pts, frame.time_base = round(start / self._base), self._base
        self.frames += 1
        self._mux(self._video, frame)
        end = start + 1 / self._fps
        if self._audio is not None and self._sound is not None:
            self._feed(self._audio, self._sound, int(end * self._sound.rate))

    def _feed(self, stream: AudioStream, sound: Sound, until: int) -> None:
        """Encode the sound up to sample `until`, or to its end."""
        import av

        while self._samples < until:
            if self._queue.shape[1] == 0:
                chunk = next(sound.chunks, None)
                if chunk is None:
                    return
                self._queue = chunk
            take = min(until - self._samples, self._queue.shape[1])
            part, self._queue = self._queue[:, :take], self._queue[:, take:]
            samples = np.ascontiguousarray(part)
            frame = av.AudioFrame.from_ndarray(samples, "fltp", stream.layout.name)
            frame.sample_rate = sound.rate
            frame.pts, frame.time_base = self._samples, Fraction(1, sound.rate)
            self._samples += take
            self._mux(stream, frame)

    @property
    def codecs(self) -> str:
        """Names of the codecs by RFC 6381: "avc1.640014, mp4a.40.2"."""
        header = bytes(self._video.codec_context.extradata or b"")
        profile = header[header.index(b"\0\0\1") + 4 :][:3]  # after the start code and SPS's type
        return f"avc1.{profile.hex().upper()}" + (", mp4a.40.2" if self._audio else "")

    def _mux(self, stream: VideoStream | AudioStream, frame: Any) -> None:
        with media.writing(self._path, *self._errors):
            self._container.mux(stream.encode(frame))

    def finish(self) -> None:
        """Write what the encoders still hold."""
        for stream in (self._video, self._audio):
            if stream is not None:
                self._mux(stream, None)


def _fill(plane: Any, given: NDArray[Any]) -> None:
    """Copy an array into a plane of a frame; its lines may be longer. Raises ValueError."""
    height, width = given.shape
    room = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)
    lines = given.view(np.uint8).reshape(height, -1)
    if height != plane.height or width != plane.width:
        raise ValueError(f"a plane of {width} x {height}, expected {plane.width} x {plane.height}")
    room[:, : lines.shape[1]] = lines


class Fragments:
    """An mp4 in pieces, for who watches while it is made: bytes out as the frames come.

    H.264 and AAC as in `write`, encoded without looking ahead. The pieces, one after the other,
    are a fragmented mp4 (ISO 14496-12, 8.8), what a browser's MediaSource plays; the first has the
    index. About two frames are held back.
    """

    def __init__(
        self, first: Picture, sound: Sound | None, *, fps: int = FPS, tag: str | None = None
    ) -> None:
        """first: a frame as all are, (H, W, 3) uint8 RGB; it still has to be added.

        sound: as much of its chunks is taken as belongs under the frames so far; where they end,
        the sound ends. tag: as in `write`.
        """
        self._bytes = _Collected()
        self._mp4 = VideoWriter(
            Path("stream"),
            self._bytes,
            first.shape[:2],
            container=_LIVE_MP4,
            coding=_LIVE_H264,
            fps=fps,
            sound=sound,
            tag=tag,
        )
        self.mime = f'video/mp4; codecs="{self._mp4.codecs}"'

    def add(self, picture: Picture) -> bytes:
        """One more frame; what is ready to be sent, often nothing."""
        self._mp4.add(picture)
        return self._bytes.take()

    def finish(self) -> bytes:
        """The rest; nothing can be added any more."""
        self._mp4.finish()
        self.close()
        return self._bytes.take()

    def close(self) -> None:
        """Give the encoders back; needless after `finish`."""
        self._mp4.close()


class _Collected:
    """A file that cannot be sought in, as the muxer sees it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken
