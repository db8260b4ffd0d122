"""Read videos at 25 frames per second, write them with their sound, draw contact sheets.

Frames outside networks are (H, W, 3) uint8 RGB, inside (..., 3, H, W) float in [-1, 1]; converted
here and nowhere else. PyAV is imported inside the functions (see `media`).
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talkingface import decoding, media, video_reading
from talkingface.audio import FPS, SAMPLE_RATE
from talkingface.errors import BadRequest, OutputError, UnreadableMedia
from talkingface.media import Sound
from talkingface.types import Picture
from talkingface.video_reading import VideoInfo as VideoInfo

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.video.stream import VideoStream

MAX_SHEET_PIXELS = 50_000_000  # of a contact sheet's pictures


_BEHIND = 8  # frames: so many may wait for the encoder
_BT709 = 1  # ITU-T H.273: the code of its primaries, its transfer curve and its matrix alike
_FRAGMENT = 80_000  # microseconds of a live stream that are written together


@dataclass(frozen=True)
class _Style:
    """Style of an mp4. container, encoder: options of FFmpeg's muxer and of x264."""

    container: dict[str, str]
    encoder: dict[str, str]


_FILE = _Style({"movflags": "+faststart"}, {"crf": "18", "preset": "veryfast"})
# delay_moov: the index comes with the first fragment, when AAC's priming is known, and tells
# players to leave it out; so lips and sound stay together without either being moved.
_LIVE = _Style(
    {"movflags": "+delay_moov+default_base_moof", "frag_duration": str(_FRAGMENT)},
    {"crf": "20", "preset": "veryfast", "tune": "zerolatency", "g": "25", "threads": "1"},
)


def to_tensor(pictures: NDArray[np.uint8] | Tensor) -> Tensor:
    """(..., H, W, 3) uint8 -> (..., 3, H, W) float32 in [-1, 1]."""
    given = pictures if isinstance(pictures, Tensor) else np.ascontiguousarray(pictures)
    return torch.as_tensor(given).movedim(-1, -3).float() / 127.5 - 1.0


def to_uint8(frames: Tensor) -> NDArray[np.uint8]:
    """(..., 3, H, W) float in [-1, 1] -> (..., H, W, 3) uint8; what lies outside is clipped."""
    levels = ((frames.detach().float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(levels.movedim(-3, -1).cpu().numpy())


def probe(path: Path | str) -> VideoInfo:
    """Size, rate and length of a video. Raises UnreadableMedia."""
    if not decoding.is_contained():
        return video_reading.probe(Path(path))
    return VideoInfo(**decoding.answer("video_info", Path(path)).value)


def read_frames(path: Path | str, fps: int = FPS) -> Iterator[Picture]:
    """The frames of a video, (H, W, 3) uint8 RGB, at `fps` whatever its own rate is.

    Output frame k shows the source frame whose time stamp lies nearest to k / fps; a source frame
    that is shown twice is the same array twice. Raises UnreadableMedia, also half-way when the rest
    is damaged or missing, or its time stamps jump (`media.Holes`).
    """
    if not decoding.is_contained():
        yield from video_reading.read_frames(Path(path), fps)
        return
    shown: list[Picture] = []
    with closing(decoding.answers("frames", Path(path), fps=fps)) as found:
        for own in found:
            shown = own.arrays or shown
            yield shown[0]


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
    sound: Path | str | Tensor | NDArray[np.float32] | None,
    *,
    fps: int = FPS,
    tag: str | None = None,
    overwrite: bool = False,
) -> int:
    """Write an mp4 (H.264 yuv420p, AAC, faststart) while the frames come; returns how many came.

    frames: (H, W, 3) uint8 RGB of one size; an odd size is padded by one row or column.
    sound: a recording or video, muxed at its own rate and channels, or (N,) samples at 16 kHz; it
    is cut where the frames end. tag: the file's comment, to say that the video is synthetic.
    The file appears under its name when it is complete; on any failure nothing is left and an
    earlier file stays. Raises OutputError, UnreadableMedia (the sound) and what `frames` raises.
    """
    together = ([frame] for frame in frames)
    return write_together([path], together, sound, fps=fps, tag=tag, overwrite=overwrite)


def write_together(
    paths: Sequence[Path | str],
    frames: Iterable[Sequence[Picture]],
    sound: Path | str | Tensor | NDArray[np.float32] | None,
    *,
    fps: int = FPS,
    tag: str | None = None,
    overwrite: bool = False,
) -> int:
    """Several mp4s in one pass: the k-th picture of every item is a frame of the k-th file.

    All else as in `write`; the files appear when all of them are complete.
    """
    files = [Path(path) for path in paths]
    for path in files:
        check_output(path, overwrite)
    tracks = [_sound_track(sound) for _ in files]
    source = iter(frames)
    first = next(source, None)
    if first is None:
        raise OutputError(f"{files[0]}: nothing to write, there are no frames")
    with ExitStack() as renaming, ExitStack() as closing:
        parts = [renaming.enter_context(media.replacing(path, overwrite)) for path in files]
        mp4s = [
            closing.enter_context(_Mp4(path, str(part), picture, track, fps, tag, _FILE))
            for path, part, picture, track in zip(files, parts, first, tracks, strict=True)
        ]
        _encode(mp4s, itertools.chain([first], source))
        for mp4 in mp4s:
            mp4.finish()
    return mp4s[0].frames


def _encode(mp4s: Sequence[_Mp4], frames: Iterable[Sequence[Picture]]) -> None:
    """Encode in a thread of its own, few frames behind the caller."""

    def add(pictures: Sequence[Picture], before: Future[None] | None) -> None:
        if before is not None:
            before.result()  # raises where that failed: nothing may follow in a broken file
        for mp4, picture in zip(mp4s, pictures, strict=True):
            mp4.add(picture)

    with ThreadPoolExecutor(1, "encoder") as encoder:
        waiting: deque[Future[None]] = deque()
        for pictures in frames:
            before = waiting[-1] if waiting else None
            waiting.append(encoder.submit(add, pictures, before))
            if len(waiting) > _BEHIND:
                waiting.popleft().result()
        for left in waiting:
            left.result()


def _sound_track(sound: Path | str | Tensor | NDArray[np.float32] | None) -> Sound | None:
    if sound is None:
        return None
    if isinstance(sound, (str, Path)):
        return media.open_sound(Path(sound))
    samples = torch.as_tensor(sound).detach().cpu().float().numpy().reshape(1, -1)
    return Sound(SAMPLE_RATE, 1, iter([samples]))


class _Mp4:
    """An mp4 under construction. Sound is fed frame by frame, so the muxer holds almost nothing."""

    def __init__(
        self,
        path: Path,
        target: Any,
        first: Picture,
        sound: Sound | None,
        fps: int,
        tag: str | None,
        style: _Style,
    ) -> None:
        """path: what errors name; target: the name, or the file-like object, that is written."""
        import av
        from av.video.reformatter import VideoReformatter

        self._path, self._sound, self._fps = path, sound, fps
        self._size = first.shape
        self._errors = (av.FFmpegError, OSError)
        self._queue = np.zeros((sound.channels if sound else 1, 0), np.float32)
        self._converter = VideoReformatter()  # one for all frames: it is slow to set up
        self._samples = 0
        self.frames = 0
        with media.writing(path, *self._errors):
            options = dict(style.container)
            self._container = av.open(target, "w", format="mp4", container_options=options)
            if tag is not None:
                self._container.metadata["comment"] = tag
            self._video = self._add_video(first, style)
            self._audio = self._add_audio(sound) if sound else None
            self._container.start_encoding()

    def _add_video(self, first: Picture, style: _Style) -> VideoStream:
        options = dict(style.encoder)
        stream = self._container.add_stream("libx264", rate=self._fps, options=options)
        stream.height, stream.width = (side + side % 2 for side in first.shape[:2])
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = 1  # "limited": luma 16-235
        return stream

    def _add_audio(self, sound: Sound) -> AudioStream:
        layout = "mono" if sound.channels == 1 else "stereo"
        stream = self._container.add_stream("aac", rate=sound.rate, layout=layout)
        stream.bit_rate = min(96_000, 4 * sound.rate) * sound.channels
        return stream

    def __enter__(self) -> _Mp4:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with media.writing(self._path, *self._errors):
            self._container.close()

    def add(self, picture: Picture) -> None:
        """One more frame, and the sound that belongs under it."""
        import av

        if picture.shape != self._size:
            raise ValueError(f"frame {self.frames} is {picture.shape}, the first was {self._size}")
        height, width = self._size[:2]
        padding = ((0, height % 2), (0, width % 2), (0, 0))
        even = np.pad(picture, padding, mode="edge") if height % 2 or width % 2 else picture
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        frame = self._converter.reformat(frame, format="yuv420p", dst_colorspace=_BT709)
        frame.pts, frame.time_base = self.frames, Fraction(1, self._fps)
        self.frames += 1
        self._mux(self._video, frame)
        if self._audio is not None and self._sound is not None:
            self._feed(self._audio, self._sound, self.frames * self._sound.rate // self._fps)

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
        self._mp4 = _Mp4(Path("stream"), self._bytes, first, sound, fps, tag, _LIVE)
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


def contact_sheet(
    rows: Sequence[Sequence[Picture]], labels: Sequence[str], *, side: int = 128, gap: int = 2
) -> Picture:
    """Rows of pictures ((H, W, 3) uint8), each row under its label, as one picture to look at.

    Every picture is fitted into a square of `side` pixels; rows may differ in length.
    """
    if len(rows) != len(labels):
        raise ValueError(f"{len(rows)} rows, but {len(labels)} labels")
    columns = max(len(row) for row in rows)
    title = 18
    width = gap + columns * (side + gap)
    sheet = np.full((len(rows) * (title + side + gap), width, 3), 255, np.uint8)
    for r, (row, label) in enumerate(zip(rows, labels, strict=True)):
        y = r * (title + side + gap)
        place = (gap + 2, y + title - 5)
        cv2.putText(sheet, label, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
        for c, picture in enumerate(row):
            x = gap + c * (side + gap)
            small = _fitted(picture, side)
            sheet[y + title : y + title + small.shape[0], x : x + small.shape[1]] = small
    return sheet


def sheet_of_frames(
    frames: Iterable[Picture],
    *,
    seconds: float = 3.0,
    every: int = 3,
    columns: int = 13,
    side: int = 128,
) -> Picture:
    """Every `every`-th frame ((H, W, 3) uint8, 25 fps) of the first seconds, side by side in rows.

    side: pixels of each picture. Raises BadRequest when there is nothing to show.
    """
    if min(every, columns, side) < 1 or not 0 < seconds < math.inf:
        raise BadRequest("a contact sheet needs seconds, every, columns and side above 0")
    most = MAX_SHEET_PIXELS // side**2
    wanted = islice(frames, 0, max(1, round(seconds * FPS)), every)
    shown = [_fitted(frame, side) for frame in islice(wanted, most + 1)] if most else []
    if not 0 < most >= len(shown):
        raise BadRequest(
            f"a contact sheet has at most {MAX_SHEET_PIXELS / 1e6:.0f} megapixels, {most} pictures "
            f"of side {side}: give a smaller side or fewer seconds"
        )
    starts = range(0, len(shown), columns)
    labels = [f"{start * every / FPS:.2f} s, one frame in {every}" for start in starts]
    return contact_sheet([shown[at : at + columns] for at in starts], labels, side=side)


def _fitted(picture: Picture, side: int) -> Picture:
    scale = side / max(picture.shape[:2])
    height, width = (max(1, round(n * scale)) for n in picture.shape[:2])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (width, height), interpolation=how), dtype=np.uint8)
