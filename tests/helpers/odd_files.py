"""Read seeded files that are consistent and odd, in a process that may die: see test_odd_media.

    python odd_files.py FOLDER COUNT

prints the number of each file before it is read, and a line for whatever is no clean error.
"""

from __future__ import annotations

import os
import random
import resource
import struct
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from helpers import matroska
from talkingface import audio, decoding, media, video
from talkingface.errors import UnreadableMedia
from talkingface.web import limits
from talkingface.web.errors import ApiError

MEMORY = 1 << 30  # bytes that reading may take beside what is loaded
SLOW = 5.0  # seconds for one reader
CODECS = [b"A_PCM/INT/BIG", b"A_PCM/FLOAT/IEEE", b"A_OPUS", b"A_FLAC", b"A_AAC", b"A_NOBODYS"]
JUMPS = [0, 1, 100, 10**4, 10**6, 10**9, -50, 2**31, 2**40]  # in the file's units of time
SHARES = [None, 0.0, 1e3, 1e300, float("nan"), -1.0]  # what a header may say of its duration


def odd_wav(rng: random.Random) -> bytes:
    """A WAV of any number of channels, rate, depth and kind of samples, with or without places."""
    channels = rng.choice([1, 2, 3, 5, 6, 7, 8, 9, 16, 24, 64, 255])
    rates = [0, 1, 100, 3999, 8000, 11025, 44100, 48000, 192000, 768000, 2**31 - 1, 2**32 - 1]
    rate = rng.choice([48000, *rates]) if rng.random() < 0.7 else 48000
    bits, kind = rng.choice([8, 16, 24, 32, 64, 4, 12, 1]), rng.choice([1, 1, 3, 6, 7, 2, 17, 85])
    block = max(1, channels * bits // 8)
    count = max(1, min(rate, 48000) * 300 // 1000)
    data = rng.randbytes(min(count * block, 200_000) // block * block)
    extended = rng.random() < 0.3
    head = struct.pack("<HHI", 0xFFFE if extended else kind, channels, rate)
    head += struct.pack("<IHH", rate * block % 2**32, block % 2**16, bits)
    if extended:
        mask = (1 << min(channels, 18)) - 1
        head += struct.pack("<HHIH", 22, bits, mask, kind)
        head += b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head
    body += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def odd_matroska(rng: random.Random) -> bytes:
    """A film or a sound whose time stamps jump, in any unit, of any codec."""
    rate, channels = (
        rng.choice([1, 700, 8000, 16000, 48000, 192000]),
        rng.choice([1, 2, 6, 7, 8, 9]),
    )
    codec = rng.choice(CODECS) if rng.random() < 0.4 else b"A_PCM/INT/LIT"
    tracks = [matroska.sound_track(2, rate, channels, codec)]
    if rng.random() < 0.6:
        tracks.insert(0, matroska.video_track(1))
    times = [0]
    for _ in range(5):
        times.append(max(0, times[-1] + rng.choice(JUMPS)))
    if rng.random() < 0.3:
        rng.shuffle(times)
    sound, clusters = matroska.tone(max(1, min(rate, 48000) // 20), channels), []
    for time_stamp in times:
        blocks = [(2, sound)] * rng.choice([1, 3])
        blocks += [(1, matroska.jpeg())] if rng.random() < 0.5 else []
        clusters.append(matroska.cluster(time_stamp, blocks))
    scale = rng.choice([1, 1000, 1_000_000, 10**9, 10**12])
    return matroska.file(tracks, clusters, scale, rng.choice(SHARES))


READ: dict[str, int] = {}  # files that each reader read to their end


def consume(parts: Iterable[object]) -> None:
    for _ in parts:
        pass


READERS: dict[str, Callable[[Path], object]] = {
    "check_sound": lambda path: limits.check_sound(path, 10),
    "audio.read": lambda path: consume(audio.read(path)),
    "open_sound": lambda path: consume(media.open_sound(path).chunks),
    "probe": video.probe,
    "read_frames": lambda path: consume(video.read_frames(path)),
}


def report(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def read(path: Path, label: str) -> None:
    for name, reader in READERS.items():
        if path.suffix == ".wav" and name in ("probe", "read_frames"):
            continue
        began = time.monotonic()
        try:
            reader(path)
            READ[name] = READ.get(name, 0) + 1
        except (UnreadableMedia, ApiError):
            pass
        except Exception as error:  # noqa: BLE001 this is what is looked for
            report(f"{label}: {name}: {error!r}")
        if time.monotonic() - began > SLOW:
            report(f"{label}: {name}: {time.monotonic() - began:.0f} s")


def main(folder: Path, count: int) -> None:
    os.environ[decoding.SWITCH] = "direct"  # its own limits, and errors as they are
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    for number in range(count):
        rng = random.Random(number)
        suffix, make = ((".wav", odd_wav), (".mkv", odd_matroska))[number % 2]
        path = folder / f"{number}{suffix}"
        path.write_bytes(make(rng))
        report(path.name)
        read(path, path.name)
        path.unlink()
    report(f"read {READ}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
