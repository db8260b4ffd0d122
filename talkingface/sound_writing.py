"""Write the sound of a video: encoded while it is read, or copied packet by packet.

PyAV is imported inside the functions (see `media`).
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talkingface import media, sound_packets
from talkingface.audio import SAMPLE_RATE
from talkingface.media import Sound
from talkingface.sound_packets import PacketFacts, SoundPacket
from talkingface.types import PathLike
from talkingface.video_formats import VideoFormat, has_encoder

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.packet import Packet


class PlayedSound(Protocol):
    """A sound that was given by a caller (`sound_input`, `streaming.Speech`).

    path: its file, or None. track: number of its audio track, see `media.open_sound`.
    """

    @property
    def path(self) -> Path | None:
        """See above."""

    @property
    def track(self) -> int | None:
        """See above."""

    def own(self) -> Sound:
        """Open it for playback, at its own rate, level and layout."""


SoundSource = PathLike | Tensor | NDArray[np.float32] | PlayedSound

_OPUS_RATES = (48_000, 24_000, 16_000, 12_000, 8_000)  # Hz, RFC 6716
# FFmpeg's encoders, of which one describes the copied packets to the muxer.
_ENCODERS = {"aac": "aac", "mp3": "libmp3lame", "alac": "alac", "opus": "libopus"}


class SoundTrack(Protocol):
    """The sound of a file under construction."""

    codec: str

    def add_to(self, container: OutputContainer) -> None:
        """Add the stream to a file, before its first packet."""

    def packets(self, until: Fraction) -> Iterator[Packet[Any]]:
        """Yield the packets of the sound up to a time, seconds, that were not yet given."""

    def finish(self) -> Iterator[Packet[Any]]:
        """Yield what the encoder still holds."""


class EncodedSound:
    """A sound that is encoded."""

    def __init__(self, sound: Sound, encoder: str = "aac", bit_rate: int | None = None) -> None:
        """encoder: FFmpeg's name. bit_rate: bits per second, None for 96000 per channel."""
        self._sound, self.codec, self._bits = sound, encoder, bit_rate
        self._queue = np.zeros((sound.channels, 0), np.float32)
        self._samples = 0
        self._stream: AudioStream | None = None

    def add_to(self, container: OutputContainer) -> None:
        """See `SoundTrack`."""
        sound = self._sound
        fits = self.codec != "libopus" or sound.rate in _OPUS_RATES
        rate = sound.rate if fits else _OPUS_RATES[0]  # the encoder resamples what it is given
        stream: Any = container.add_stream(self.codec, rate=rate, layout=sound.layout)
        usual = min(96_000, 4 * sound.rate) * sound.channels
        stream.bit_rate = usual if self._bits is None else self._bits
        self._stream = stream

    def packets(self, until: Fraction) -> Iterator[Packet[Any]]:
        """See `SoundTrack`."""
        import av

        assert self._stream is not None
        end = int(until * self._sound.rate)
        while self._samples < end:
            if self._queue.shape[1] == 0:
                chunk = next(self._sound.chunks, None)
                if chunk is None:
                    return
                self._queue = chunk
            take = min(end - self._samples, self._queue.shape[1])
            part, self._queue = self._queue[:, :take], self._queue[:, take:]
            samples = np.ascontiguousarray(part)
            frame = av.AudioFrame.from_ndarray(samples, "fltp", self._sound.layout)
            frame.sample_rate = self._sound.rate
            frame.pts, frame.time_base = self._samples, Fraction(1, self._sound.rate)
            self._samples += take
            yield from self._stream.encode(frame)

    def finish(self) -> Iterator[Packet[Any]]:
        """See `SoundTrack`."""
        assert self._stream is not None
        yield from self._stream.encode(None)


class CopiedSound:
    """A sound whose packets are copied; the last one is played up to the end of the frames."""

    def __init__(self, facts: PacketFacts, found: Iterator[SoundPacket]) -> None:
        """found: its packets, in order."""
        self.codec, self._facts, self._found = facts.codec, facts, found
        self._next = next(found, None)
        self._unit = Fraction(*facts.unit)
        self._stream: AudioStream | None = None

    def add_to(self, container: OutputContainer) -> None:
        """See `SoundTrack`.

        An encoder that never runs describes the sound to the muxer; its header is replaced.
        """
        facts = self._facts
        encoder = _ENCODERS[facts.codec]
        stream: Any = container.add_stream(encoder, rate=facts.rate, layout=facts.layout)
        context = stream.codec_context
        if facts.codec == "alac":
            context.format = facts.samples
        context.open()
        if facts.header:
            context.extradata = bytes.fromhex(facts.header)
        self._stream = stream

    def packets(self, until: Fraction) -> Iterator[Packet[Any]]:
        """See `SoundTrack`."""
        import av

        end = until / self._unit
        while self._next is not None and self._next.start < end:
            own, self._next = self._next, next(self._found, None)
            packet = av.Packet(own.data)
            packet.pts = packet.dts = own.start
            packet.duration, packet.time_base = own.length, self._unit
            packet.stream = cast("AudioStream", self._stream)
            yield packet

    def finish(self) -> Iterator[Packet[Any]]:
        """See `SoundTrack`."""
        return iter(())


def sound_track(
    sound: SoundSource | None, kind: VideoFormat, bit_rate: int | None = None
) -> SoundTrack | None:
    """Open the sound of a file; None without sound, or where the format has none.

    sound: a recording or video, (N,) samples at 16 kHz, or a `PlayedSound`. A file is copied if the
    format can hold its codec, unless a bit rate is given. Raises UnreadableMedia.
    """
    if sound is None or kind.sound is None:
        return None
    path, track = _file(sound)
    if path is not None and bit_rate is None:
        copied = _copied(path, track, kind)
        if copied is not None:
            return copied
    return EncodedSound(_opened(sound), kind.sound, bit_rate)


def _copied(path: Path, track: int | None, kind: VideoFormat) -> CopiedSound | None:
    facts = sound_packets.facts(path, track)
    if facts is None or facts.codec not in kind.copied or not has_encoder(_ENCODERS[facts.codec]):
        return None
    return CopiedSound(facts, sound_packets.packets(path, track))


def _file(sound: SoundSource) -> tuple[Path | None, int | None]:
    """Return the file of a sound, or None, and the number of its audio track."""
    if isinstance(sound, (str, Path)):
        return Path(sound), None
    if isinstance(sound, (Tensor, np.ndarray)):
        return None, None
    return sound.path, sound.track


def _opened(sound: SoundSource) -> Sound:
    if isinstance(sound, (str, Path)):
        return media.open_sound(Path(sound))
    if not isinstance(sound, (Tensor, np.ndarray)):
        return sound.own()
    samples = torch.as_tensor(sound).detach().cpu().float().numpy().reshape(1, -1)
    return Sound(SAMPLE_RATE, 1, iter([samples]))
