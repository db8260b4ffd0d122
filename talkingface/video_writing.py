"""Write videos with their sound: complete files, or pieces for a viewer who does not wait.

Frames are (H, W, 3) uint8 RGB, or planes as a decoder gives them. PyAV is imported inside the
functions (see `media`).
"""

from __future__ import annotations

import errno
import io
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from talkingface import (
    decoding,
    file_comments,
    media,
    picture_sequences,
    provenance,
    sound_writing,
    video_formats,
    video_reading,
)
from talkingface.audio import FPS
from talkingface.errors import OutputError, UnreadableMedia
from talkingface.media import Sound
from talkingface.output_options import DEFAULT_OUTPUT, OutputOptions
from talkingface.palette import Palette
from talkingface.sound_writing import EncodedSound, SoundSource, SoundTrack
from talkingface.subtitles import SubtitlePainter, SubtitleTrack, read_srt
from talkingface.types import PathLike, Picture
from talkingface.video_formats import H264, MP4, PIPE, Coding, Container

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Rate = int | Fraction  # frames per second

_BEHIND = 8  # frames: so many may wait for the encoder
_FRAGMENT = 40_000  # microseconds of a live stream that are written together: a frame
# delay_moov: the index comes with the first fragment, when AAC's priming is known, and tells
# players to leave it out; so lips and sound stay together without either being moved.
_LIVE_MP4 = Container(
    "mp4", {"movflags": "+delay_moov+default_base_moof", "frag_duration": str(_FRAGMENT)}
)
_LIVE_H264 = Coding(
    options={"crf": "20", "preset": "veryfast", "tune": "zerolatency", "g": "25", "threads": "1"}
)


def check_output(
    path: PathLike, overwrite: bool = False, options: OutputOptions = DEFAULT_OUTPUT
) -> None:
    """Call before the work starts: raises OutputError, BadRequest when `write` would."""
    video_formats.check(path, options)
    provenance.signer_of(options)
    if str(path) == PIPE:
        picture_sequences.check_standard_output()
    elif video_formats.is_sequence(path):
        picture_sequences.check_sequence(path, overwrite)
    else:
        media.check_output(path, overwrite)


def is_whole(path: PathLike) -> bool:
    """Return whether a video is there, is not cut short, and tells its length."""
    try:
        if not decoding.is_contained():
            return video_reading.is_whole(Path(path))
        return bool(decoding.answer("is_whole", Path(path)).value)
    except UnreadableMedia:
        return False


def write(
    path: PathLike,
    frames: Iterable[Picture],
    sound: SoundSource | None,
    *,
    options: OutputOptions = DEFAULT_OUTPUT,
    tag: str | None = None,
    overwrite: bool = False,
) -> int:
    """Write a video while its frames come; returns how many came.

    The name decides the format (`video_formats`): mp4 is H.264 yuv420p and AAC, faststart.

    frames: (H, W, 3) uint8 RGB, or (H, W, 4) RGBA, of one size, `options.fps` a second; an odd size
    is padded by one row or column where the codec needs it.
    sound: a recording or video, (N,) samples at 16 kHz, or a `PlayedSound`; it is cut
    where the frames end. A file whose codec the format can hold is copied bit by bit.
    tag: the file's comment, to say that the video is synthetic.
    The file appears under its name when it is complete; on any failure nothing is left and an
    earlier file stays. Raises OutputError, BadRequest (the options), UnreadableMedia (sound,
    subtitles) and what `frames` raises.
    """
    together = ([frame] for frame in frames)
    return write_together([path], together, sound, options=[options], tag=tag, overwrite=overwrite)


def write_together(
    paths: Sequence[PathLike],
    frames: Iterable[Sequence[Picture]],
    sound: SoundSource | None,
    *,
    options: Sequence[OutputOptions],
    tag: str | None = None,
    overwrite: bool = False,
) -> int:
    """Several videos in one pass: the k-th picture of every item is a frame of the k-th file.

    All else as in `write`, with options for each; files appear when all of them are complete.
    """
    for path, own in zip(paths, options, strict=True):
        check_output(path, overwrite, own)
    source = iter(frames)
    first = next(source, None)
    if first is None:
        raise OutputError(f"{paths[0]}: nothing to write, there are no frames")
    with ExitStack() as renaming, ExitStack() as closing:
        sinks = [
            _open_sink(renaming, closing, path, picture, sound, own, tag, overwrite)
            for path, picture, own in zip(paths, first, options, strict=True)
        ]
        with encoding() as encoder:
            for pictures in itertools.chain([first], source):
                encoder.submit(_add, sinks, pictures)
        for sink in sinks:
            sink.finish()
    return sinks[0].frames


class _Sink(Protocol):
    """A file or files under construction."""

    @property
    def frames(self) -> int:
        """Number of frames so far."""

    def add(self, picture: Picture, /) -> None:
        """Add a frame."""

    def finish(self) -> None:
        """Write what is held back."""


def _open_sink(
    renaming: ExitStack,
    closing: ExitStack,
    path: PathLike,
    first: Picture,
    sound: SoundSource | None,
    options: OutputOptions,
    tag: str | None,
    overwrite: bool,
) -> _Sink:
    """Open an output; `closing` closes it, then `renaming` gives it its name."""
    texts = [] if options.subtitles is None else read_srt(options.subtitles)
    burnt = SubtitlePainter(texts) if options.burn_subtitles else None
    as_track = None
    signer = provenance.signer_of(options)
    if video_formats.is_sequence(path):
        pngs = renaming.enter_context(picture_sequences.png_sequence(path, overwrite, tag, signer))
        return pngs if burnt is None else _Burning(pngs, burnt, options.rate)
    kind = video_formats.format_of(path, options)
    if texts and kind.subtitles and not burnt:
        as_track = SubtitleTrack(kind.subtitles, texts)
    if str(path) == PIPE:
        target: Any = renaming.enter_context(picture_sequences.standard_output())
    else:
        target = renaming.enter_context(media.replacing(Path(path), overwrite))
        name, size = kind.container.format, first.shape[:2]
        renaming.enter_context(provenance.signing(Path(path), target, name, signer, tag))
        if tag is not None:
            renaming.enter_context(file_comments.adding(Path(path), target, name, size, tag))
    writer = VideoWriter(
        Path(path),
        target,
        first.shape[:2],
        container=kind.container,
        coding=video_formats.coding_of(path, options, alpha=first.shape[2] == 4),
        fps=options.rate,
        sound=sound_writing.sound_track(sound, kind, options.audio_bitrate),
        subtitles=as_track,
        tag=tag,
    )
    closing.enter_context(writer)
    return writer if burnt is None else _Burning(writer, burnt, options.rate)


class _Burning:
    """Draws subtitles into the frames of another sink."""

    def __init__(self, sink: _Sink, painter: SubtitlePainter, rate: Fraction) -> None:
        self._sink, self._painter, self._rate = sink, painter, rate
        self.finish = sink.finish

    @property
    def frames(self) -> int:
        return self._sink.frames

    def add(self, picture: Picture) -> None:
        self._sink.add(self._painter(picture, self._sink.frames / self._rate))


def _add(sinks: Sequence[_Sink], pictures: Sequence[Picture]) -> None:
    for sink, picture in zip(sinks, pictures, strict=True):
        sink.add(picture)


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


class _File(io.FileIO):
    """File that PyAV writes: it leaves one that it opens itself open when its first bytes fail."""

    def write(self, data: Any, /) -> int:
        """Write all of it, at once: FFmpeg reads the file again by its name.

        Returns FFmpeg's code of an error. PyAV would keep an exception, and with it the encoders.
        """
        left = memoryview(data)
        try:
            while left:
                left = left[super().write(left) :]
        except OSError as error:
            return -(error.errno or errno.EIO)
        return len(data)


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
        aspect: Fraction | None = None,
        sound: SoundTrack | None = None,
        subtitles: SubtitleTrack | None = None,
        tag: str | None = None,
    ) -> None:
        """path: what errors name; target: the name, or the file-like object, that is written.

        size: (height, width) of the frames; an odd size is padded by one row or column where the
        pixel format needs it. fps: the rate of frames without a time, and of a video without
        `time_base`. time_base: unit in which the file keeps the times of frames, for any times.
        aspect: width / height of a pixel.
        sound: as much of it is taken as belongs beside the frames. tag: the file's comment. Raises
        OutputError.
        """
        import av
        from av.video.reformatter import VideoReformatter

        os.environ.setdefault("SVT_LOG", "1")  # its encoder of AV1 writes only errors then
        self._path, self._sound, self._fps = path, sound, Fraction(fps)
        self._size, self._coding = (int(size[0]), int(size[1])), coding
        self._padded = coding.size(*self._size)
        self._base = time_base or 1 / self._fps
        self._errors = (av.FFmpegError, OSError)
        self._subtitles, self._end = subtitles, Fraction(0)
        self._converter = VideoReformatter()  # one for all frames: it is slow to set up
        self._threads = {}
        if "threads" in coding.options and int(av.__version__.partition(".")[0]) >= 17:
            self._threads["threads"] = int(coding.options["threads"])
        self._palette = Palette() if coding.pixels == "pal8" else None
        self.frames = 0
        self._file: AbstractContextManager[Any] = nullcontext(target)
        with media.writing(path, *self._errors), ExitStack() as failed:
            if not hasattr(target, "write"):
                self._file = _File(target, "w")
            opened = failed.enter_context(self._file)
            options = dict(container.options)
            self._container = av.open(
                opened, "w", format=container.format, container_options=options
            )
            failed.callback(self._container.close)  # frees the encoders at once
            if tag is not None:
                self._container.metadata["comment"] = tag
            self._video = self._add_video(time_base, aspect)
            for track in (sound, subtitles):
                if track is not None:
                    track.add_to(self._container)
            self._container.start_encoding()
            failed.pop_all()

    def _add_video(self, time_base: Fraction | None, aspect: Fraction | None) -> VideoStream:
        coding, colours = self._coding, self._coding.colours
        options = dict(coding.options)
        found = self._container.add_stream(coding.encoder, rate=self._fps, options=options)
        stream = cast("VideoStream", found)
        stream.height, stream.width = self._padded
        stream.pix_fmt = coding.pixels
        context = stream.codec_context
        if time_base is not None:
            context.time_base = time_base
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if coding.tag is not None:
            context.codec_tag = coding.tag
        context.color_primaries, context.color_trc = colours.primaries, colours.transfer
        context.colorspace, context.color_range = colours.matrix, 2 if colours.full else 1
        return stream

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; needed after `finish` too."""
        with media.writing(self._path, *self._errors), self._file:
            self._container.close()

    def add(self, picture: Picture, time: Fraction | None = None) -> None:
        """Add a frame, and the sound that belongs beside it.

        picture: (H, W, 3) uint8 RGB, or (H, W, 4) RGBA. time: seconds from the start, more than
        before; by default that of the frame's number. Raises OutputError, ValueError (a frame of
        another size).
        """
        import av

        if picture.shape[:2] != self._size:
            raise ValueError(f"frame {self.frames} is {picture.shape}, the first was {self._size}")
        padding = [(0, to - own) for to, own in zip(self._padded, self._size, strict=True)]
        if self._padded != self._size:
            picture = np.pad(picture, (*padding, (0, 0)), mode="edge")
        name = "rgba" if picture.shape[2] == 4 else "rgb24"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=name)
        if self._palette is not None:
            self._number(frame, time)
            for own in self._palette.push(frame):
                self._mux(self._video.encode, own)
            return
        self._add(self._converted(frame), time)

    def _converted(self, frame: VideoFrame) -> VideoFrame:
        """Return an RGB frame in the pixel format and the colours of the file."""
        colours = self._coding.colours
        if self._coding.pixels == frame.format.name:
            return frame
        return self._converter.reformat(
            frame,
            format=self._coding.pixels,
            dst_colorspace=colours.matrix,
            dst_color_range=2 if colours.full else 1,
            **self._threads,
        )

    def add_planes(self, planes: Sequence[NDArray[Any]], time: Fraction | None = None) -> None:
        """Add a frame as the planes of `Coding.pixels`, without conversion.

        planes: (h, w) uint8 each, uint16 for more than 8 bits; luma first. time, errors: see `add`.
        """
        import av

        height, width = self._padded
        frame = av.VideoFrame(width, height, self._coding.pixels)
        if len(planes) != len(frame.planes):
            raise ValueError(f"{len(planes)} planes for {self._coding.pixels}")
        for plane, given in zip(frame.planes, planes, strict=True):
            _fill(plane, given, (height - self._size[0], width - self._size[1]))
        self._add(frame, time)

    def _add(self, frame: VideoFrame, time: Fraction | None) -> None:
        self._number(frame, time)
        self._mux(self._video.encode, frame)
        for track in (self._sound, self._subtitles):
            if track is not None:
                self._mux(track.packets, self._end)

    def _number(self, frame: VideoFrame, time: Fraction | None) -> None:
        """Give a frame its time."""
        start = self.frames / self._fps if time is None else time
        frame.pts, frame.time_base = round(start / self._base), self._base
        self.frames += 1
        self._end = start + 1 / self._fps

    @property
    def codecs(self) -> str:
        """Names of the codecs by RFC 6381: "avc1.640014, mp4a.40.2"."""
        header = bytes(self._video.codec_context.extradata or b"")
        profile = header[header.index(b"\0\0\1") + 4 :][:3]  # after the start code and SPS's type
        return f"avc1.{profile.hex().upper()}" + (", mp4a.40.2" if self._sound else "")

    def _mux(self, packets: Callable[[Any], Iterable[Packet[Any]]], given: Any) -> None:
        with media.writing(self._path, *self._errors):
            for packet in packets(given):
                self._container.mux(packet)

    def finish(self) -> None:
        """Write what the encoders still hold."""
        if self._palette is not None:
            for own in self._palette.finish():
                self._mux(self._video.encode, own)
        self._mux(self._video.encode, None)
        if self._sound is not None:
            sound = self._sound
            self._mux(lambda _: sound.finish(), None)
        if self._subtitles is not None:
            subtitles = self._subtitles
            self._mux(lambda end: subtitles.packets(end, at_end=True), self._end)


def _fill(plane: Any, given: NDArray[Any], padding: tuple[int, int]) -> None:
    """Copy an array into a plane of a frame; its lines may be longer.

    padding: rows and columns that may be missing; those before are repeated. Raises ValueError.
    """
    height, width = given.shape
    missing = plane.height - height, plane.width - width
    if any(own not in (0, most) for own, most in zip(missing, padding, strict=True)):
        raise ValueError(f"a plane of {width} x {height}, expected {plane.width} x {plane.height}")
    whole = np.pad(given, [(0, own) for own in missing], mode="edge") if any(missing) else given
    room = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)
    lines = np.ascontiguousarray(whole).view(np.uint8).reshape(plane.height, -1)
    room[:, : lines.shape[1]] = lines


class Fragments:
    """An mp4 in pieces, for who watches while it is made: bytes out as the frames come.

    H.264 and AAC as in `write`, encoded without looking ahead. The pieces, one after the other,
    are a fragmented mp4 (ISO 14496-12, 8.8), what a browser's MediaSource plays; the first has the
    index. About a frame is held back, and at first the sound with which an AAC stream begins.
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
            sound=EncodedSound(sound) if sound else None,
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
