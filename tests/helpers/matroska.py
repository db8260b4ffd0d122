"""Matroska files written element by element, so that they can say what no muxer would write."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

RATE = 16_000


def element(name: bytes, data: bytes) -> bytes:
    """One EBML element: its id, its size in eight bytes, its data."""
    return name + (1 << 56 | len(data)).to_bytes(8, "big") + data


def number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def sound_track(
    track: int, rate: float = RATE, channels: int = 1, codec: bytes = b"A_PCM/INT/LIT"
) -> bytes:
    """16-bit samples, if the codec is the default one."""
    shape = element(b"\xb5", struct.pack(">d", rate)) + element(b"\x9f", number(channels))
    shape += element(b"\x62\x64", number(16))
    return _track(track, 2, codec, element(b"\xe1", shape))


def video_track(track: int, codec: bytes = b"V_MJPEG", fourcc: bytes | None = None) -> bytes:
    """Pictures of 64x64. fourcc: of a codec that only Video for Windows names."""
    shape = element(b"\xb0", number(64)) + element(b"\xba", number(64))
    private = b""
    if fourcc is not None:
        codec = b"V_MS/VFW/FOURCC"
        head = struct.pack("<IiiHH4sIiiII", 40, 64, 64, 1, 24, fourcc, 0, 0, 0, 0, 0)
        private = element(b"\x63\xa2", head)
    return _track(track, 1, codec, private + element(b"\xe0", shape))


def _track(track: int, kind: int, codec: bytes, rest: bytes) -> bytes:
    head = element(b"\xd7", number(track)) + element(b"\x73\xc5", number(track))
    head += element(b"\x83", number(kind)) + element(b"\x86", codec)
    return element(b"\xae", head + rest)


def cluster(milliseconds: int, blocks: Iterable[tuple[int, bytes]]) -> bytes:
    """(track, data) of blocks that all lie at this time."""
    parts = [element(b"\xa3", bytes([0x80 | track]) + b"\0\0\x80" + data) for track, data in blocks]
    return element(b"\x1f\x43\xb6\x75", element(b"\xe7", number(milliseconds)) + b"".join(parts))


def file(
    tracks: Sequence[bytes],
    clusters: Sequence[bytes],
    scale: int = 1_000_000,
    duration: float | None = None,
) -> bytes:
    """A whole file. scale: nanoseconds of a unit of time; duration: in such units."""
    head = element(b"\x42\x82", b"matroska") + element(b"\x42\x87", number(4))
    info = element(b"\x2a\xd7\xb1", number(scale)) + element(b"\x4d\x80", b"test")
    info += element(b"\x57\x41", b"test")
    if duration is not None:
        info += element(b"\x44\x89", struct.pack(">d", duration))
    body = element(b"\x15\x49\xa9\x66", info) + element(b"\x16\x54\xae\x6b", b"".join(tracks))
    return element(b"\x1a\x45\xdf\xa3", head) + element(
        b"\x18\x53\x80\x67", body + b"".join(clusters)
    )


def tone(samples: int, channels: int = 1) -> bytes:
    wave = np.rint(8000 * np.sin(np.arange(samples) / 5)).astype("<i2")
    return np.repeat(wave[:, None], channels, axis=1).tobytes()


def second(track: int, start: float, channels: int = 1, rate: int = RATE) -> list[bytes]:
    """A second of a tone from `start` seconds on, in ten clusters."""
    return [
        cluster(round(1000 * start) + 100 * part, [(track, tone(rate // 10, channels))])
        for part in range(10)
    ]


def jpeg() -> bytes:
    """A grey picture of 64x64."""
    done, data = cv2.imencode(".jpg", np.full((64, 64, 3), 90, np.uint8))
    assert done
    return data.tobytes()
