"""Open media files of any kind, and write outputs so that no incomplete file is left.

PyAV is imported inside the functions: training needs only torch, numpy and OpenCV, and every model
imports `audio`.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from talkingface import decoding
from talkingface.downmix import Downmix
from talkingface.errors import OutputError, UnreadableMedia

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.layout import AudioLayout
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.stream import VideoStream

FILE_KINDS = "expected a wav, mp3, m4a, flac, ogg, opus, mp4, mkv, webm, mov, avi or mpg file"
# FFmpeg's names of what may be opened. Not among them: playlists (hls, concat, dash ...), by which
# an uploaded file would have other files of this machine read aloud.
_DEMUXERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,mpegvideo,ogg,"
    "rm,tta,w64,wav,wv"
)
# FFmpeg's names of the decoders that may run: of its hundreds, those that recordings and videos
# need. Each one reads whatever is uploaded, in this process.
_SOUND_CODECS = (
    *("aac", "aac_latm", "ac3", "adpcm_ima_wav", "adpcm_ms", "alac", "amrnb", "amrwb", "eac3"),
    *("flac", "libopus", "libvorbis", "mp1", "mp1float", "mp2", "mp2float", "mp3", "mp3float"),
    *("opus", "pcm_alaw", "pcm_bluray", "pcm_dvd", "pcm_f32be", "pcm_f32le", "pcm_f64be"),
    *("pcm_f64le", "pcm_mulaw", "pcm_s16be", "pcm_s16le", "pcm_s16le_planar", "pcm_s24be"),
    *("pcm_s24le", "pcm_s24le_planar", "pcm_s32be", "pcm_s32le", "pcm_s32le_planar", "pcm_s8"),
    *("pcm_u8", "vorbis"),
)
_VIDEO_CODECS = (
    *("av1", "ffv1", "flv", "h263", "h264", "hevc", "libdav1d", "libvpx", "libvpx-vp9", "mjpeg"),
    *("mpeg1video", "mpeg2video", "mpeg4", "prores", "rawvideo", "vp8", "vp9"),
)
# Of these, those that a video's first time needs: they show frames in another order than they send
# them.
_REORDERING = ("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4")
# Containers whose header gives the length, by which a file that is cut short is recognised.
_LENGTH_IN_HEADER = {"mov", "matroska", "wav", "flac", "avi"}
_LENGTH_TOLERANCE = 0.25  # seconds
_GAP = 0.1  # seconds: a longer hole in the time stamps is filled with silence
MAX_HOLES = 600.0  # seconds, all holes of a stream together: longer ones are damage, or an attack
PACKETS = 1_000  # of a sound, after which its length is known
_RATES = range(1_000, 768_001)  # Hz: what sound is recorded at, and more
_OWNER = re.compile(r"[0-9a-f-]+")  # of a temporary file: machine, process, chance
# Layouts that AAC has a number for (ISO 14496-3, table 1.19), by FFmpeg's names of layouts with the
# same order of channels; others are mixed to two channels.
_AAC_LAYOUTS = {
    **{name: name for name in ("mono", "stereo", "3.0", "4.0", "5.0", "5.1")},
    "5.0(side)": "5.0",
    "5.1(side)": "5.1",
}
# What AAC can carry (ISO 14496-3, table 1.18); other rates are resampled to 48 kHz.
AAC_RATES = {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000}


def require_file(path: Path, kind: str) -> None:
    """Raises UnreadableMedia when `path` is missing, no regular file, or empty."""
    if path.is_dir():
        raise UnreadableMedia(f"{path}: is a folder; expected {kind}")
    if not path.exists():
        raise UnreadableMedia(f"{path}: no such file; expected {kind}")
    if not path.is_file():
        raise UnreadableMedia(f"{path}: is no regular file; expected {kind}")
    if path.stat().st_size == 0:
        raise UnreadableMedia(f"{path}: is empty (0 bytes); expected {kind}")


def _require_whole(path: Path) -> None:
    """Raises UnreadableMedia when an mp4 or wav is shorter than its own boxes say.

    Sizes as in ISO 14496-12 (section 4.2) and in RIFF; a recorder that was stopped hard leaves 0 or
    all ones in RIFF, which is no length.
    """
    found, end = path.stat().st_size, 0
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:] == b"WAVE":
            size = int.from_bytes(head[4:8], "little")
            end = size - 64 if 0 < size < 2**32 - 1 else 0  # writers count the header differently
        elif head[4:8] == b"ftyp":
            while end + 8 <= found:
                file.seek(end)
                box = file.read(16)
                size = int.from_bytes(box[:4], "big")
                if size == 1:  # a 64-bit size follows
                    size = int.from_bytes(box[8:16], "big")
                if size < 8 or not box[4:8].isalnum():  # 0: to the end of the file
                    break
                end += size
    if end > found:
        raise UnreadableMedia(
            f"{path}: cut short: {found} bytes, at least {end} expected; copy or download it again"
        )


@contextmanager
def opened(path: Path, sound_only: bool = False) -> Iterator[InputContainer]:
    """A recording or video, open for reading; what fails inside is raised as UnreadableMedia.

    sound_only: its pictures are not wanted; to find out what the file is, no decoder of theirs runs
    but those that their times need.
    """
    import av

    require_file(path, "a sound or video file")
    try:
        _require_whole(path)
        # absolute: FFmpeg reads "a:b.wav" as a protocol; whitelists: no file leads to another
        options = {"protocol_whitelist": "file", "format_whitelist": _DEMUXERS}
        options["codec_whitelist"] = ",".join(
            _SOUND_CODECS + (_REORDERING if sound_only else _VIDEO_CODECS)
        )
        with av.open(str(path.absolute()), options=options, metadata_errors="replace") as container:
            yield container
    except (av.FFmpegError, PermissionError) as error:
        raise UnreadableMedia(
            f"{path}: damaged, cut short or of an unknown kind ({error.strerror}); {FILE_KINDS}"
        ) from error


def video_stream(container: InputContainer) -> VideoStream | None:
    """The first moving picture; None when there is none (a cover or a photograph is no video)."""
    from av.stream import Disposition

    if container.format.name == "image2" or container.format.name.endswith("_pipe"):
        return None
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            return stream
    return None


class Holes:
    """Gaps in a stream, by its time stamps."""

    def __init__(self, path: Path, kind: str) -> None:
        """path, kind: of what, for the error."""
        self._path, self._kind, self._seconds = path, kind, 0.0

    def add(self, seconds: float) -> None:
        """Count one more hole. Raises UnreadableMedia beyond MAX_HOLES in all."""
        self._seconds += max(0.0, seconds)
        if self._seconds > MAX_HOLES:
            raise UnreadableMedia(
                f"{self._path}: its time stamps jump, so that {self._seconds:.0f} s are without "
                f"{self._kind}; expected at most {MAX_HOLES:.0f} s; encode it anew"
            )


class SoundClock:
    """Positions of a sound's frames or packets, by their time stamps.

    lead: seconds of silence before the first one, negative where its beginning is to be cut.
    """

    def __init__(self, path: Path, origin: float | None, start: float | None = None) -> None:
        """origin: the time of a video's first frame. start: the sound's own [its first stamp]."""
        self._holes = Holes(path, "sound")
        self._origin, self._start = origin, start
        self._end, self._begun, self._back = 0.0, False, 0.0
        self.lead = 0.0

    def add(self, time: float | None, seconds: float) -> float:
        """Return how many seconds of silence come between the one before and this one.

        time: its stamp; seconds: its length. Raises UnreadableMedia (`Holes`).
        """
        hole = 0.0
        if not self._begun:
            self._begin(time)
        elif time is not None:
            gap = time - self._end
            hole = gap if gap > _GAP else 0.0
            self._back += -gap if gap < -_GAP else 0.0
            self._holes.add(hole)
        self._end = (self._end if time is None else time) + seconds
        return hole

    def _begin(self, time: float | None) -> None:
        self._begun = True
        start = time if self._start is None else self._start
        if start is not None and self._origin is not None:
            self.lead = start - self._origin
            self._holes.add(self.lead)
        self._start = 0.0 if start is None else start

    @property
    def length(self) -> float:
        """Seconds from time 0 to the end of the last one; what jumps back is counted again."""
        return self._end - (self._start or 0.0) + self.lead + self._back


def require_codec(path: Path, stream: AudioStream | VideoStream) -> None:
    """Raise UnreadableMedia unless the decoder of a stream is one that may run.

    FFmpeg's whitelist holds while a file is opened; the decoder of a stream is PyAV's choice.
    """
    context, known = stream.codec_context, (*_SOUND_CODECS, *_VIDEO_CODECS)
    if context is None or context.name not in known:
        track = "sound" if stream.type == "audio" else "video"
        name = "by an unknown codec" if context is None else f"as {context.name}"
        raise UnreadableMedia(
            f"{path}: its {track} is coded {name}, which is not read; convert it, sound to wav or "
            "flac, video to H.264"
        )


def decoded(
    path: Path, container: InputContainer, stream: AudioStream | VideoStream
) -> Iterator[Any]:
    """The decoded frames of one stream, one by one.

    Raises UnreadableMedia when its codec may not be decoded, and at the end when the file stops
    before the length in its header.
    """
    require_codec(path, stream)
    end = 0.0
    for packet in container.demux():
        if packet.pts is not None and packet.time_base is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream.index == stream.index:
            yield from packet.decode()
    _check_length(path, container, end)


def _check_length(path: Path, container: InputContainer, end: float) -> None:
    if container.format.name.split(",")[0] not in _LENGTH_IN_HEADER or not container.duration:
        return
    declared = container.duration / 1e6
    found = end - (container.start_time or 0) / 1e6
    if found < declared - _LENGTH_TOLERANCE:
        raise UnreadableMedia(
            f"{path}: cut short: its header tells {declared:.2f} s, only {found:.2f} s are there; "
            "copy or download it again"
        )


@dataclass(frozen=True)
class Sound:
    """A sound that is decoded while it is read.

    rate: Hz. chunks: (channels, n) float32. layout: FFmpeg's name of the places of the channels;
    by default mono or stereo.
    """

    rate: int
    channels: int
    chunks: Iterator[NDArray[np.float32]]
    layout: str = ""

    def __post_init__(self) -> None:
        if not self.layout:
            object.__setattr__(self, "layout", "mono" if self.channels == 1 else "stereo")


def open_sound(
    path: Path, rate: int | None = None, channels: int | None = None, track: int | None = None
) -> Sound:
    """The sound of a recording or of a video, resampled to `rate`, of at most `channels` channels.

    rate: None keeps the recording's own (48 kHz if AAC does not know it).
    channels: 1 or 2; more are mixed down (`downmix`). None keeps channels and layout of what AAC
    can carry, up to 5.1; others are mixed to two, or to one where their places are unknown.
    track: number of the audio track, from 1. None is the one that the file marks as its default,
    else the first.

    Time 0 is the first sample, or the first frame of a video: a sound track that starts later or
    earlier is padded or cut; holes are filled with silence. What an encoder has added before and
    after is left out, where the file says so.
    Raises UnreadableMedia, also while the chunks are read.
    """
    if not decoding.is_contained():
        return decode_sound(path, rate, channels, track)
    answers = decoding.answers("sound", path, rate=rate, channels=channels, track=track)
    head = next(answers).value
    chunks = (part for own in answers for part in own.arrays)
    return Sound(head["rate"], head["channels"], chunks, head["layout"])


def sound_stream(path: Path, container: InputContainer, track: int | None = None) -> AudioStream:
    """An audio track by its number from 1; None: the default one. Raises UnreadableMedia."""
    from av.stream import Disposition

    tracks = container.streams.audio
    if not tracks:
        kind = "a video without sound" if video_stream(container) else "no sound file"
        raise UnreadableMedia(f"{path}: is {kind}; expected a recording or a video with sound")
    if track is None:
        marked = (own for own in tracks if own.disposition & Disposition.default)
        return next(marked, tracks[0])
    if not 1 <= track <= len(tracks):
        there = "is 1 audio track" if len(tracks) == 1 else f"are {len(tracks)} audio tracks"
        raise UnreadableMedia(
            f"{path}: no audio track {track}, there {there}: give a number from 1 to {len(tracks)}"
        )
    return tracks[track - 1]


def decode_sound(path: Path, rate: int | None, channels: int | None, track: int | None) -> Sound:
    """Read as `open_sound` does, in this process."""
    import av

    with opened(path, sound_only=True) as container:
        source = sound_stream(path, container, track)
        require_codec(path, source)
        if source.rate not in _RATES:
            raise UnreadableMedia(
                f"{path}: its sound has {source.rate} samples per second; expected {_RATES[0]} to "
                f"{_RATES[-1]}"
            )
        rate = rate or (source.rate if source.rate in AAC_RATES else 48_000)
        layout = _kept_layout(source.layout, channels)
        number = av.AudioLayout(layout).nb_channels
    return Sound(rate, number, _chunks(path, rate, number, track), layout)


def _kept_layout(own: AudioLayout, most: int | None) -> str:
    """Return the layout in which a sound is given: its own one, or what it is mixed to."""
    from talkingface.downmix import places

    count = own.nb_channels
    if most is not None:
        return "mono" if min(count, most) == 1 else "stereo"
    if own.name in _AAC_LAYOUTS:
        return _AAC_LAYOUTS[own.name]
    known = places([channel.name for channel in own.channels])
    if not known:
        return {1: "mono", 2: "stereo"}.get(count, "mono")
    return "5.1" if count == 6 and known == places(["NONE"] * 6) else "stereo"


def sound_lengths(path: Path) -> Generator[float, None, None]:
    """Yield the length of a sound so far, every PACKETS packets, then the whole length, seconds.

    Nothing where there is no sound. It is read off the time stamps, without decoding; silence
    before the sound and in its gaps counts. Raises UnreadableMedia.
    """
    if not decoding.is_contained():
        yield from count_sound(path)
        return
    with closing(decoding.answers("sound_lengths", path)) as answers:
        for own in answers:
            yield float(own.value)


def count_sound(path: Path) -> Iterator[float]:
    """Read as `sound_lengths` does, in this process."""
    with opened(path, sound_only=True) as container:
        if not container.streams.audio:
            return
        stream = sound_stream(path, container)
        if stream.time_base is None:
            return
        unit, end = stream.time_base, 0.0
        start = None if stream.start_time is None else float(stream.start_time * unit)
        clock = SoundClock(path, origin(container), start)
        for number, packet in enumerate(container.demux(stream)):
            if packet.pts is not None:
                clock.add(float(packet.pts * unit), float((packet.duration or 0) * unit))
                end = max(end, clock.length)
            if number % PACKETS == 0:
                yield end
        yield end


def origin(container: InputContainer) -> float | None:
    """The time of a video's first frame, seconds; None where there is no video."""
    video = video_stream(container)
    if video is None or video.start_time is None or video.time_base is None:
        return None
    return float(video.start_time * video.time_base)


def _chunks(
    path: Path, rate: int, channels: int, track: int | None
) -> Iterator[NDArray[np.float32]]:
    with opened(path, sound_only=True) as container:
        clock = SoundClock(path, origin(container))
        stream = sound_stream(path, container, track)
        frames, end = decoded(path, container, stream), _declared_end(container, stream)
        cut = None
        for samples in _resampled(frames, clock, rate, channels, end):
            if cut is None:
                lead = round(clock.lead * rate)
                yield from _silence(channels, max(0, lead), rate)
                cut = max(0, -lead)
            if samples.shape[1] > cut:
                yield samples[:, cut:]
            cut -= min(cut, samples.shape[1])


def _declared_end(container: InputContainer, stream: AudioStream) -> float | None:
    """Return the time at which an mp4 says that its sound ends, seconds; None if it does not.

    Its encoder fills the last packet: the edit list leaves that out (ISO 14496-12, 8.6.6).
    """
    if container.format.name.split(",")[0] != "mov" or not stream.duration:
        return None
    return float(((stream.start_time or 0) + stream.duration) * (stream.time_base or 0))


def _padding(frame: AudioFrame, end: float | None) -> float:
    """Return the seconds of a frame that lie behind the end of the sound, at `end`."""
    if end is None or frame.time is None:
        return 0.0
    kept = end - frame.time
    length: float = frame.samples / frame.sample_rate
    return length - kept if 0 < kept < length else 0.0


def _silence(channels: int, samples: int, block: int) -> Iterator[NDArray[np.float32]]:
    """Zeros, in blocks, so that a long silence needs little memory."""
    for start in range(0, samples, block):
        yield np.zeros((channels, min(block, samples - start)), np.float32)


def _resampled(
    frames: Iterator[AudioFrame], clock: SoundClock, rate: int, channels: int, end: float | None
) -> Iterator[NDArray[np.float32]]:
    """Yield (channels, n) samples; holes are filled with silence, what is behind `end` is cut."""
    converter, kind = None, None
    for frame in frames:
        now = (frame.sample_rate, frame.layout.name, frame.format.name)
        hole = clock.add(frame.time, frame.samples / frame.sample_rate)
        if converter is None or now != kind or hole > 0:
            if converter is not None:  # a recording that changes its format, or has a hole
                yield from converter.finish()
                yield from _silence(channels, round(hole * rate), rate)
            converter, kind = _Converter(frame.layout, rate, channels), now
        if padding := round(_padding(frame, end) * rate):
            last = np.concatenate([*converter.push(frame), *converter.finish()], axis=1)
            yield last[:, : last.shape[1] - padding]
            converter = None
        else:
            yield from converter.push(frame)
    if converter is not None:
        yield from converter.finish()


class _Converter:
    """Frames of one format to (channels, n) samples at one rate."""

    def __init__(self, layout: AudioLayout, rate: int, channels: int) -> None:
        import av

        # Packed: PyAV reads past the plane pointers of a planar frame of eight or more channels.
        self._resampler = av.AudioResampler("flt", layout, rate)
        self._downmix = Downmix([channel.name for channel in layout.channels], channels, rate)

    def push(self, frame: AudioFrame | None) -> Iterator[NDArray[np.float32]]:
        for own in self._resampler.resample(frame):
            yield self._downmix.push(_samples(own))

    def finish(self) -> Iterator[NDArray[np.float32]]:
        yield from self.push(None)
        yield self._downmix.finish()


class Resampler:
    """Sound of one rate and number of channels to another, chunk by chunk.

    The result is the one that `open_sound` reads from a file of the same samples.
    """

    def __init__(self, rate: int, to: int, channels: int = 1, outputs: int = 1) -> None:
        """rate, to: Hz. channels, outputs: 1 or 2."""
        import av

        self._layout = "mono" if channels == 1 else "stereo"
        self._converter = _Converter(av.AudioLayout(self._layout), to, outputs)
        self._rate, self._pushed = rate, 0
        self._nothing = np.zeros((outputs, 0), np.float32)

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Push (channels, N); return (outputs, n), some milliseconds less than was pushed."""
        import av

        if samples.shape[1] == 0:
            return self._nothing
        packed = np.ascontiguousarray(samples.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, "flt", self._layout)
        frame.sample_rate, frame.pts = self._rate, self._pushed
        self._pushed += samples.shape[1]
        return np.concatenate([self._nothing, *self._converter.push(frame)], axis=1)

    def finish(self) -> NDArray[np.float32]:
        """Return the rest."""
        if self._pushed == 0:
            return self._nothing
        return np.concatenate([self._nothing, *self._converter.finish()], axis=1)


def _samples(frame: AudioFrame) -> NDArray[np.float32]:
    """(channels, n) float32 of a frame of floats, planar or packed."""
    samples = np.asarray(frame.to_ndarray(), dtype=np.float32)
    if frame.format.is_planar:
        return samples
    return np.ascontiguousarray(samples.reshape(-1, frame.layout.nb_channels).T)


def check_output(path: Path | str, overwrite: bool = False) -> None:
    """Call before the work starts: raises OutputError when `path` cannot or must not be written."""
    path = Path(path)
    folder = path.absolute().parent
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; give the name of a file in it")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: is no regular file; give another name")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; give another name or --overwrite")
    if not folder.is_dir():
        raise OutputError(f"{path}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: the folder {folder} cannot be written to; choose another one")


def check_names(inputs: Sequence[Path | str | None], outputs: Sequence[Path | str | None]) -> None:
    """Raise OutputError when an output has the name of an input or of another output."""
    taken = {os.path.realpath(path) for path in inputs if path is not None}
    for path in outputs:
        if path is None:
            continue
        if os.path.realpath(path) in taken:
            raise OutputError(f"{path}: is given twice; an output needs a name of its own")
        taken.add(os.path.realpath(path))


def make_folder(path: Path | str) -> None:
    """Make a folder, and those it is in, unless it is there. Raises OutputError."""
    with writing(Path(path), OSError):
        Path(path).mkdir(parents=True, exist_ok=True)


@contextmanager
def replacing(path: Path, overwrite: bool, alone: bool = False) -> Iterator[Path]:
    """A temporary name beside `path`: renamed to it on success, removed on any failure.

    File and folder are on the disk before this returns: a power cut leaves the old file or the new
    one. The new one has the mode of the old one. Temporary files of dead processes are removed.
    alone: no other process writes `path`; whatever is left of it is removed at the end.
    """
    check_output(path, overwrite)
    part = part_name(path)
    _remove_parts(part, _is_dead)
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    try:
        if mode is not None:
            with writing(path, OSError):
                part.touch(0o600)  # until it has the mode of the old file, nobody else reads it
        yield part
        check_output(path, overwrite)  # another process may have written it meanwhile
        with writing(path, OSError):
            if mode is not None:
                part.chmod(mode)
            sync(part)
            os.replace(part, path)
            sync(part.parent)
        if alone:
            _remove_parts(part, lambda _: True)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def making_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`: renamed to it on success, removed on any failure.

    It is private, and `path` is missing or empty. All of it is on the disk before this returns.
    Temporary folders of dead processes are removed. Raises OutputError.
    """
    with temporary_folder(path) as part:
        yield part
        with writing(path, OSError):
            for own in sorted(part.rglob("*")):
                sync(own)
            sync(part)
            os.replace(part, path)
            sync(part.parent)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A private folder beside `path`, removed at the end with those of dead processes.

    Raises OutputError.
    """
    part = part_name(path)
    make_folder(part.parent)
    _remove_parts(part, _is_dead)
    with writing(path, OSError):
        part.mkdir(mode=0o700)
    try:
        yield part
    finally:
        _remove(part)


def part_name(path: Path) -> Path:
    """A name beside an output: the output's (255 bytes at most), machine, process, chance."""
    owner = f"{_machine()}-{os.getpid()}-{secrets.token_hex(8)}"
    return path.absolute().parent / f".{path.name[:50]}.{owner}.part"


def _machine() -> str:
    """8 hexadecimal digits: numbers of processes mean nothing on another machine."""
    return f"{zlib.crc32(os.uname().nodename.encode()):08x}"


def _remove_parts(part: Path, unwanted: Callable[[str], bool]) -> None:
    """Remove the temporary files, or folders, of the same output whose owner is `unwanted`."""
    name = part.name.rsplit(".", 2)[0] + "."
    with suppress(OSError):  # a folder may be written to but not listed; then they stay
        for left in os.listdir(part.parent):
            owner = left[len(name) : -len(".part")]
            mine = left.startswith(name) and left.endswith(".part") and _OWNER.fullmatch(owner)
            if mine and unwanted(owner):
                _remove(part.parent / left)


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        part.unlink(missing_ok=True)


def _is_dead(owner: str) -> bool:
    """Return whether the process that owned a temporary file has ended on this machine."""
    machine, *rest = owner.split("-")
    if machine != _machine() or len(rest) != 2:
        return False
    try:
        os.kill(int(rest[0]), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # it runs, and belongs to another user
        return False
    return False


def reserve(path: Path) -> None:
    """Have the disk's blocks for all of a sparse file, before it is written through a memory map.

    Without them a full disk ends the process with SIGBUS. Raises OSError.
    """
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def sync(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk. Raises OSError: it was not written.

    File systems that cannot do this for a folder are taken as they are.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str, overwrite: bool = True) -> None:
    """A text file, whole or not at all. Raises OutputError."""
    with replacing(path, overwrite) as part, writing(path, OSError):
        part.write_text(text, encoding="utf-8")


@contextmanager
def writing(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Errors of these kinds (the disk's or FFmpeg's) are raised as an OutputError naming `path`."""
    try:
        yield
    except kinds as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "the disk is full: free some room" if full else "choose another place"
        said = getattr(error, "strerror", None) or error
        raise OutputError(f"{path}: cannot be written ({said}); {reason}") from error
