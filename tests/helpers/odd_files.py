"""Seeded files that are well-formed and odd: what no encoder writes, and a decoder must survive."""

from __future__ import annotations

import io
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from helpers import matroska
from helpers.mutations import odd_json, odd_npy

CODECS = [b"A_PCM/INT/BIG", b"A_PCM/FLOAT/IEEE", b"A_OPUS", b"A_FLAC", b"A_AAC", b"A_NOBODYS"]
JUMPS = [0, 1, 100, 10**4, 10**6, 10**9, -50, 2**31, 2**40]  # in the file's units of time
SHARES = [None, 0.0, 1e3, 1e300, float("nan"), -1.0]  # what a header may say of its duration
SIDES = (0, 1, 7, 31, 32, 64, 64, 300, 4097, 20_000, 65_535, 2**31 - 1, 2**32 - 1)  # pixels
LAYOUTS = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1", "7.1.4", "hexadecagonal")
RATES = (1, 99, 1000, 8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000, 768000)  # Hz
# Codecs of each container.
ENCODINGS = {
    ".wav": ("pcm_s16le", "pcm_f32le", "pcm_s24le", "adpcm_ms", "mp3", "ac3"),
    ".flac": ("flac",),
    ".mp3": ("mp3",),
    ".ogg": ("libopus", "flac", "vorbis"),
    ".m4a": ("aac", "alac", "ac3", "libopus"),
    ".mkv": ("aac", "alac", "ac3", "eac3", "flac", "libopus", "mp2", "mp3", "pcm_s16le", "wavpack"),
}
FILMS = {
    ".mp4": ("libx264", "mpeg4", "libx265", "libsvtav1", "libvpx-vp9"),
    ".mkv": ("libx264", "mpeg4", "mjpeg", "ffv1", "libvpx", "rawvideo", "prores"),
    ".webm": ("libvpx", "libvpx-vp9"),
    ".avi": ("mpeg4", "mjpeg", "libx264", "rawvideo"),
    ".mov": ("libx264", "prores", "mjpeg"),
}


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


# ---- encoded by FFmpeg, with times that jump

_UNWRITABLE = (av.FFmpegError, ValueError, OverflowError)  # then another one is tried


def odd_sound(rng: random.Random, path: Path) -> None:
    """A recording of any codec, rate and number of channels, whose time stamps may jump."""
    for _ in range(4):
        with suppress(*_UNWRITABLE):
            codec = rng.choice(ENCODINGS[path.suffix])
            _encode(rng, path, codec, rng.choice(LAYOUTS), rng.choice(RATES))
            return


def _encode(rng: random.Random, path: Path, codec: str, layout: str, rate: int) -> None:
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=rate, layout=layout)
        stream.codec_context.open()
        count = stream.codec_context.frame_size or 1024
        times = _Times(rng)
        for k in range(8):
            shape = (len(av.AudioLayout(layout).channels), count)
            noise = np.random.default_rng(k).normal(0, 0.1, shape).astype(np.float32)
            # packed: PyAV writes past the eighth plane of a planar frame
            frame = av.AudioFrame.from_ndarray(noise.T.reshape(1, -1), "flt", layout)
            frame.sample_rate, frame.pts = rate, k * count
            for own in av.AudioResampler(stream.format.name, layout, rate, count).resample(frame):
                times.mux(file, stream.encode(own))
        times.mux(file, stream.encode(None))


def odd_film(rng: random.Random, path: Path) -> None:
    """A film of any codec and size, perhaps turned, whose time stamps may jump."""
    for _ in range(4):
        with suppress(*_UNWRITABLE):
            size = rng.choice(((64, 64), (2, 2), (16, 4000), (66, 34), (640, 360)))
            codec = rng.choice(FILMS[path.suffix])
            if codec == "libsvtav1" and size == (16, 4000):
                continue  # the encoder may wait for ever
            _film(rng, path, codec, size, rng.choice((25, 1, 240, 1000)))
            return


def _film(rng: random.Random, path: Path, codec: str, size: tuple[int, int], rate: int) -> None:
    with av.open(str(path), "w") as file:
        options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        stream: Any = file.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height = size
        kinds = {"mjpeg": "yuvj420p", "prores": "yuv422p10le"}
        stream.pix_fmt = rng.choice(
            (kinds.get(codec, "yuv420p"),) * 4 + ("gray", "yuv444p", "rgb24")
        )
        file.metadata["comment"] = rng.choice(("", "x" * 100_000, "\x1b[31m\nred"))
        times = _Times(rng)
        for k in range(5):
            noise = np.random.default_rng(k).integers(0, 255, (*size[::-1], 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(noise, "rgb24")
            frame.pts = k
            times.mux(file, stream.encode(frame))
        times.mux(file, stream.encode(None))


class _Times:
    """Write packets whose time stamps jump, repeat, run backwards or are missing."""

    def __init__(self, rng: random.Random) -> None:
        self._rng, self._shift = rng, 0
        self._share = rng.choice((0.0, 0.0, 0.1, 0.5))  # of the packets

    def mux(self, file: Any, packets: Any) -> None:
        for packet in packets:
            if self._rng.random() < self._share and packet.dts is not None:
                self._shift += self._rng.choice((*JUMPS, -100_000))
                if self._rng.random() < 0.2:
                    packet.duration = self._rng.choice((0, 1, 2**31, 2**40))
                packet.pts += self._shift
                packet.dts = packet.dts if self._rng.random() < 0.3 else packet.pts
            file.mux(packet)


# ---- pictures


def _side(rng: random.Random, most: int = 2**32 - 1) -> int:
    return min(most, rng.choice(SIDES))


def odd_png(rng: random.Random) -> bytes:
    """A PNG of any depth, kind and size, with profiles, texts and frames that do not fit."""
    width, height = _side(rng), _side(rng)
    depth, kind = rng.choice((1, 2, 4, 8, 16, 3)), rng.choice((0, 2, 3, 4, 6, 3, 1))
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, rng.choice((0, 0, 1, 2)))
    frame = struct.pack(">IIIIIHHBB", 1, _side(rng), _side(rng), 5, 5, 1, 1, 0, 0)
    extra = (
        (b"PLTE", rng.randbytes(3 * rng.choice((0, 1, 256, 300)))),
        (b"tRNS", rng.randbytes(rng.choice((0, 1, 6, 256)))),
        (b"iCCP", b"p\0\0" + zlib.compress(rng.randbytes(300))),
        (b"iCCP", b"p\0\0" + zlib.compress(bytes(30_000_000), 9)),
        (b"zTXt", b"k\0\0" + zlib.compress(bytes(30_000_000), 9)),
        (b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + rng.randbytes(4)),
        (b"acTL", struct.pack(">II", rng.choice((0, 2, 2**31)), 0)),
        (b"fcTL", b"\0\0\0\0" + frame[4:]),
        (b"gAMA", rng.randbytes(4)),
    )
    chunks = [(b"IHDR", head), *rng.sample(extra, rng.randrange(5))]
    if rng.random() < 0.1:
        chunks += [(b"tEXt", b"k\0v")] * 20_000
    row = 1 + (min(width, 4096) * depth * {2: 3, 4: 2, 6: 4}.get(kind, 1) + 7) // 8
    rows = bytes(min(40_000_000, row * min(height, rng.choice((1, 64, 4096, 20_000)))))
    chunks += [(b"IDAT", zlib.compress(rows)), (b"fdAT", frame[:4] + zlib.compress(rows[:99]))]
    out = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in [*chunks, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + out


def odd_jpeg(rng: random.Random) -> bytes:
    """A JPEG of any colours, whose frame header lies, with odd segments before it."""
    mode = rng.choice(("L", "RGB", "CMYK"))
    data = bytearray(_noise(mode, "JPEG", progressive=rng.random() < 0.5))
    start = min(
        data.find(b"\xff" + bytes([kind])) for kind in (0xC0, 0xC2) if bytes([0xFF, kind]) in data
    )
    if rng.random() < 0.6:
        data[start + 5 : start + 9] = struct.pack(">HH", _side(rng, 65_535), _side(rng, 65_535))
    if rng.random() < 0.2:
        data[start + 4] = rng.choice((1, 12, 16))
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01"
    profile = b"ICC_PROFILE\0" + bytes([rng.randrange(4), rng.randrange(4)])
    parts = [b"\xff\x01", b"\xff\xd0", _segment(0xEE, b"Adobe\0d" + rng.randbytes(5))]
    parts += [_segment(0xE1, exif + rng.randbytes(6)), _segment(0xE1, exif + b"\0\x06\0\0\0\0")]
    parts += [_segment(0xE2, profile + rng.randbytes(500)), _segment(0xFE, b"c" * 60_000) * 50]
    parts += [_segment(0xE2, b"MPF\0MM\0*" + rng.randbytes(60)), b"\xff" * 1_000_000]
    chosen = b"".join(rng.sample(parts, rng.randrange(4)))
    return bytes(data[:2]) + chosen + bytes(data[2:])


def _segment(kind: int, body: bytes) -> bytes:
    return b"\xff" + bytes([kind]) + struct.pack(">H", len(body) + 2) + body


def _noise(mode: str, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").convert(mode).save(out, kind, **options)
    return out.getvalue()


def odd_gif(rng: random.Random) -> bytes:
    """A GIF whose frames lie outside its screen, or that has none, or thousands."""
    sides = [min(_side(rng), 65_535) for _ in range(6)]
    out = b"GIF89a" + struct.pack("<HHBBB", *sides[:2], rng.choice((0, 0x80, 0x87, 0xFF)), 0, 0)
    out += rng.randbytes(rng.choice((0, 6, 768)))
    data = bytes([rng.choice((2, 8, 12, 255))]) + b"\x04" + rng.randbytes(4) + b"\0"
    frame = b"\x21\xf9\x04" + rng.randbytes(4) + b"\0"
    frame += b"," + struct.pack("<HHHHB", *sides[2:], rng.choice((0, 0x40, 0x87))) + data
    return out + frame * rng.choice((0, 1, 2, 20_000)) + b";"


def odd_webp(rng: random.Random) -> bytes:
    """A WebP whose canvas is not as large as its picture, or whose frames do not fit."""
    kind = rng.choice(({"quality": 5}, {"lossless": True}))
    inner = _noise(rng.choice(("RGB", "RGBA")), "WEBP", **kind)[12:]
    canvas = b"".join((min(_side(rng), 2**24) % 2**24).to_bytes(3, "little") for _ in "wh")
    extended = b"VP8X" + struct.pack("<IB3x", 10, rng.randrange(64)) + canvas
    frame = b"".join(rng.choice((0, 63, 2**24 - 1)).to_bytes(3, "little") for _ in range(5))
    frame = b"ANMF" + struct.pack("<I", 16 + len(inner)) + frame + b"\0" + inner
    parts: tuple[bytes, ...] = (
        b"ICCP" + struct.pack("<I", 40) + rng.randbytes(40),
        frame * rng.choice((1, 5000)),
    )
    parts += (b"ANIM" + struct.pack("<I", 6) + bytes(6), b"EXIF" + struct.pack("<I", 2**31))
    body = b"WEBP" + extended + b"".join(rng.sample(parts, rng.randrange(4))) + inner
    return b"RIFF" + struct.pack("<I", rng.choice((len(body), 10, 2**32 - 1))) + body


def odd_tiff(rng: random.Random) -> bytes:
    """A TIFF whose tags come twice, are of odd types, or lead in a circle."""
    width, height = _side(rng), _side(rng)
    tags = {256: width, 257: height, 258: rng.choice((1, 8, 16, 32, 64)), 259: 1, 262: 1}
    tags |= {
        259: rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 32773, 50000)),
        273: 8,
        277: rng.choice((1, 3, 4, 99)),
    }
    tags |= {278: rng.choice((height, 1, 0)), 279: rng.choice((64, 2**31)), 262: rng.randrange(9)}
    if rng.random() < 0.3:
        tags |= {322: 16, 323: 16, 324: 8, 325: 64}  # tiles
    rows = [
        (tag, rng.choice((3, 4, 4, 4, 16, 1, 13)), rng.choice((1, 1, 1, 2, 2**31)), value)
        for tag, value in tags.items()
    ]
    rows += [(tag, 4, 1, _side(rng)) for tag in rng.sample((256, 257, 274, 339, 34675), 2)]
    rows = sorted(rows) if rng.random() < 0.8 else rows
    entries = b"".join(struct.pack("<HHII", *row) for row in rows)
    after = rng.choice((0, 0, 72, 2**31))
    return (
        b"II*\0"
        + struct.pack("<I", 72)
        + rng.randbytes(64)
        + struct.pack("<H", len(rows))
        + entries
        + struct.pack("<I", after)
    )


def odd_bmp(rng: random.Random) -> bytes:
    """A BMP of any depth and compression, upside down or of no size."""
    width, height = _side(rng), rng.choice((_side(rng), 2**32 - 64, 0))
    bits, packing = rng.choice((1, 4, 8, 16, 24, 32, 0, 5)), rng.choice((0, 0, 1, 2, 3, 6, 99))
    size = rng.choice((40, 12, 108, 124, 0))
    info = struct.pack(
        "<IIIHHIIIIII",
        size,
        width,
        height,
        1,
        bits,
        packing,
        0,
        0,
        0,
        rng.choice((0, 256, 2**31)),
        0,
    )
    body = rng.randbytes(rng.choice((0, 1000, 20_000)))
    return (
        b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, rng.choice((54, 0, 2**31))) + info + body
    )


PICTURES: dict[str, Callable[[random.Random], bytes]] = {
    ".png": odd_png,
    ".jpg": odd_jpeg,
    ".gif": odd_gif,
    ".webp": odd_webp,
    ".tif": odd_tiff,
    ".bmp": odd_bmp,
}


# ---- files of our own


def odd_safetensors(rng: random.Random, data: bytes) -> bytes:
    """Change the header of a safetensors file: that of the tensors, or the text inside it."""
    (length,) = struct.unpack("<Q", data[:8])
    head, body = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.7:
        import json

        tree = json.loads(head)
        name, text = min(tree["__metadata__"].items())
        inner = odd_json(rng, text if text.startswith("{") else json.dumps(text))
        tree["__metadata__"][name] = inner.decode("utf-8", "replace")
        head = json.dumps(tree).encode("utf-8", "replace")
    else:
        head = odd_json(rng, head)
    return struct.pack("<Q", len(head)) + head + body


def odd_tar(rng: random.Random, data: bytes) -> bytes:
    """Change members of a shard, with checksums that fit."""
    import json

    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {own.name: archive.extractfile(own).read() for own in archive}  # type: ignore[union-attr]
    name = rng.choice(list(files))
    files[name] = _odd_member(rng, name, files[name])
    facts = next(own for own in files if own.endswith(".json"))
    if not name.endswith(".json"):
        tree = json.loads(files[facts])
        tree["crc32"] = {n.partition(".")[2]: zlib.crc32(d) for n, d in files.items() if n != facts}
        files[facts] = json.dumps(tree).encode()
    rows = list(files.items()) * rng.choice((1, 1, 1, 2))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for own, content in rows:
            entry = tarfile.TarInfo(own)
            entry.size = len(content)
            if rng.random() < 0.05:
                entry.type, entry.linkname = (
                    rng.choice((b"1", b"2", b"5", b"6", b"S")),
                    "/etc/passwd",
                )
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def odd_zip(rng: random.Random, data: bytes) -> bytes:
    """Change members of an archive (of arrays, or of torch), with checksums that fit."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(files))
    files[name] = _odd_member(rng, name, files[name])
    out = io.BytesIO()
    with zipfile.ZipFile(
        out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as archive:
        for own, content in files.items():
            archive.writestr(own, content)
    return out.getvalue()


def _odd_member(rng: random.Random, name: str, data: bytes) -> bytes:
    if name.endswith(".json"):
        return odd_json(rng, data)
    if name.endswith(".npy"):
        return odd_npy(rng, data)
    if name.endswith(".jpg"):
        return odd_jpeg(rng)
    if name.endswith(".wav"):
        return odd_wav(rng)
    changed = bytearray(data)  # a pickle, or numbers
    for _ in range(rng.choice((1, 3, 9))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed) + bytes(rng.choice((0, 0, 5)))


def odd_lines(rng: random.Random, data: bytes) -> bytes:
    """Change lines of JSON."""
    lines = [line for line in data.splitlines() if line]
    place = rng.randrange(len(lines))
    lines[place] = odd_json(rng, lines[place])
    return b"\n".join(lines) + b"\n"


OWN: Mapping[str, Callable[[random.Random, bytes], bytes]] = {
    ".safetensors": odd_safetensors,
    ".tar": odd_tar,
    ".npz": odd_zip,
    ".pt": odd_zip,
    ".json": odd_json,
    ".jsonl": odd_lines,
    ".npy": odd_npy,
}
