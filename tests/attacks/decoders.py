"""Files at which decoders crash, hang or take memory, and files that are odd but consistent."""

from __future__ import annotations

import io
import random
import struct
import time
import wave
import zlib
from collections import Counter

from PIL import Image

from attacks.target import Target
from helpers import matroska
from helpers.honest_clients import PICTURE, SPEECH
from helpers.odd_files import odd_matroska, odd_wav

_LARGE = 7_800  # pixels of a side: 61 megapixels, just within the limit


def _post(target: Target, image: bytes, audio: bytes) -> str:
    files = {"image": ("x", image), "audio": ("x", audio)}
    with target.client() as client:
        answer = client.post("/v1/generate", files=files, data={"show": "face"})
    return str(answer.status_code)


def eight_channels(target: Target, end: float) -> Counter[str]:
    """Send recordings of 8 and more channels, at which PyAV once read out of bounds."""
    return target.repeat(end, lambda n: _post(target, PICTURE, _wav((8, 9, 16, 64)[n % 4])))


def _wav(channels: int) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((channels, 2, 48_000, 0, "NONE", ""))
        file.writeframes(bytes(2 * channels * 9600))
    return out.getvalue()


def _faulty(target: Target, end: float, fault: str) -> Counter[str]:
    """Send pictures and recordings at which the test's decoder fails; see `faulty_decoder`."""
    mark = f"\nfault: {fault}".encode()

    def once(number: int) -> str:
        picture, sound = (PICTURE + mark, SPEECH) if number % 2 else (PICTURE, SPEECH + mark)
        return _post(target, picture, sound)

    return target.repeat(end, once)


def crash(target: Target, end: float) -> Counter[str]:
    """Let decoders crash."""
    return _faulty(target, end, "crash")


def killed(target: Target, end: float) -> Counter[str]:
    """Let decoders be killed, as the system does where memory is short."""
    return _faulty(target, end, "killed")


def eat(target: Target, end: float) -> Counter[str]:
    """Let decoders take all the memory that they get."""
    return _faulty(target, end, "eat")


def hang(target: Target, end: float) -> Counter[str]:
    """Let decoders wait for ever, and work for ever."""
    counts: Counter[str] = Counter()
    while not counts or time.monotonic() < end:
        for fault in ("hang", "spin"):
            counts += _faulty(target, 0.0, fault)
    return counts


def odd_files(target: Target, end: float) -> Counter[str]:
    """Send pictures whose headers lie, and odd containers; the other file is good."""
    rng, pictures = random.Random(0), _odd_pictures()

    def once(number: int) -> str:
        if number % 3 == 0:
            return _post(target, pictures[number // 3 % len(pictures)], SPEECH)
        audio = _late_sound() if number % 3 == 1 else (odd_wav, odd_matroska)[number % 2](rng)
        return _post(target, PICTURE, audio)

    return target.repeat(end, once)


def _odd_pictures() -> list[bytes]:
    return [
        _picture(_LARGE, "PNG"),
        _claims(_picture(_LARGE // 2, "AVIF"), b"ispe", 8, struct.pack(">II", 64, 64)),
        _claims(_picture(64, "AVIF"), b"ispe", 8, struct.pack(">II", 7_900, 7_900)),
        _claims(_picture(64, "PNG"), b"IHDR", 4, struct.pack(">II", 30_000, 30_000)),
        _claims(_picture(64, "PNG"), b"IHDR", 4, struct.pack(">II", 7_900, 7_900)),
        _claims(_picture(64, "GIF"), b"GIF8", 6, struct.pack("<HH", 7_900, 7_900)),
        _picture(64, "TIFF"),
        b"GIF89a",
        b"",
    ]


def _picture(side: int, kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), (90, 90, 90)).save(
        out, kind, **({"speed": 10} if kind == "AVIF" else {})
    )
    return out.getvalue()


def _claims(content: bytes, name: bytes, offset: int, instead: bytes) -> bytes:
    """Overwrite what follows `name` by so many bytes after its begin; a PNG's checksum fits."""
    begin = content.index(name) + offset
    changed = bytearray(content)
    changed[begin : begin + len(instead)] = instead
    if name == b"IHDR":
        chunk = bytes(changed[begin - 4 : begin + 13])
        changed[begin + 13 : begin + 17] = struct.pack(">I", zlib.crc32(chunk))
    return bytes(changed)


def _late_sound() -> bytes:
    """A sound that begins 20,000 s after the first picture."""
    return matroska.file(
        [matroska.video_track(1), matroska.sound_track(2)],
        [matroska.cluster(0, [(1, matroska.jpeg())]), *matroska.second(2, 20_000)],
    )
