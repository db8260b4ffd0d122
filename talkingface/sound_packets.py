"""Packets of a sound as its file has them, for a copy without a new encoding.

They are read in the decoding process (`decoding`). PyAV is imported inside the functions (see
`media`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from talkingface import decoding, media
from talkingface.errors import UnreadableMedia

# Codecs that are copied, by FFmpeg's names of their decoders.
_CODECS = {
    **{"aac": "aac", "mp3": "mp3", "mp3float": "mp3", "alac": "alac"},
    **{"opus": "opus", "libopus": "opus"},
}
_HOLE = 0.002  # seconds between two packets: a sound with longer ones is encoded anew
_BATCH = 1 << 18  # bytes that are sent together
_COUNT = 500  # packets that are sent together


@dataclass(frozen=True)
class PacketFacts:
    """Facts of a sound whose packets can be copied.

    codec: "aac", "mp3", "alac" or "opus". rate: Hz. layout: FFmpeg's name of the places of the
    channels. samples: FFmpeg's name of the format of decoded samples. header: hexadecimal, what a
    decoder needs first. unit: (numerator, denominator), seconds, of time stamps.
    """

    codec: str
    rate: int
    layout: str
    samples: str
    header: str
    unit: tuple[int, int]


@dataclass(frozen=True)
class SoundPacket:
    """A packet. start, length: in units; time 0 is that of `media.open_sound`."""

    data: bytes
    start: int
    length: int


def facts(path: Path, track: int | None = None) -> PacketFacts | None:
    """Return the facts of a sound; None where its packets cannot be copied. Never raises."""
    with suppress(UnreadableMedia):  # the file is read again, which tells what is wrong
        if not decoding.is_contained():
            return read_facts(path, track)
        found = decoding.answer("packet_facts", path, track=track).value
        return None if found is None else PacketFacts(**found | {"unit": tuple(found["unit"])})
    return None


def packets(path: Path, track: int | None = None) -> Iterator[SoundPacket]:
    """Yield the packets of a sound, in order, from the one that is heard at time 0. The first is
    the one before, which decoders need. Raises UnreadableMedia."""
    if not decoding.is_contained():
        yield from read_packets(path, track)
        return
    for own in decoding.answers("packets", path, track=track):
        for data, (start, length) in zip(own.arrays, own.value, strict=True):
            yield SoundPacket(data.tobytes(), start, length)


def read_facts(path: Path, track: int | None) -> PacketFacts | None:
    """Read as `facts` does, in this process. Raises UnreadableMedia."""
    with media.opened(path, sound_only=True) as container:
        stream = media.sound_stream(path, container, track)
        context, unit = stream.codec_context, stream.time_base
        codec = _CODECS.get(context.name)
        layout = context.layout.name
        if codec is None or unit is None or "channels" in layout:
            return None
        if codec == "aac" and context.profile not in (None, "LC"):
            return None  # its rate is not what the header says
        found = PacketFacts(
            codec=codec,
            rate=context.sample_rate,
            layout=layout,
            samples=context.format.name,
            header=bytes(context.extradata or b"").hex(),
            unit=(unit.numerator, unit.denominator),
        )
    return found if _follow_each_other(read_packets(path, track), unit) else None


def _follow_each_other(found: Iterator[SoundPacket], unit: Fraction) -> bool:
    end, hole = None, _HOLE / unit
    for packet in found:
        if packet.length <= 0 or (end is not None and abs(packet.start - end) > hole):
            return False
        end = packet.start + packet.length
    return end is not None


def read_packets(path: Path, track: int | None) -> Iterator[SoundPacket]:
    """Read as `packets` does, in this process."""
    zero = _time_zero(path, track)
    before: SoundPacket | None = None
    with media.opened(path, sound_only=True) as container:
        stream = media.sound_stream(path, container, track)
        unit = stream.time_base or Fraction(1, stream.rate)
        shift = round(zero / float(unit))
        for packet in container.demux(stream):
            if packet.pts is None:
                continue
            own = SoundPacket(bytes(packet), packet.pts - shift, packet.duration or 0)
            if own.start + own.length <= 0:
                before = own
                continue
            if before is not None:
                yield before
                before = None
            yield own


def _time_zero(path: Path, track: int | None) -> float:
    """Return the stamp of a video's first frame, or of a recording's first sample, seconds."""
    with media.opened(path, sound_only=True) as container:
        origin = media.origin(container)
        if origin is not None:
            return origin
        stream = media.sound_stream(path, container, track)
        first: Any = next(media.decoded(path, container, stream), None)
        return 0.0 if first is None or first.time is None else float(first.time)


def batches(
    found: Iterator[SoundPacket],
) -> Iterator[tuple[list[tuple[int, int]], list[NDArray[np.uint8]]]]:
    """Yield (times, data) of many packets together, as the decoding process sends them."""
    times: list[tuple[int, int]] = []
    data: list[NDArray[np.uint8]] = []
    for packet in found:
        times.append((packet.start, packet.length))
        data.append(np.frombuffer(packet.data, np.uint8))
        if len(times) == _COUNT or sum(own.nbytes for own in data) >= _BATCH:
            yield times, data
            times, data = [], []
    yield times, data
