"""Seeded changes of files: of any bytes, and of the parts that containers and JSON consist of."""

from __future__ import annotations

import copy
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

# Numbers at which readers go wrong.
WORDS = (
    *(0, 1, 2, 3, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000),
    *(0x3FFFFFFF, 0x40000000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF),
)
MOST = 4_000_000  # bytes of a changed file
_VALUES: tuple[Any, ...] = (
    *(None, True, "", "x" * 5000, "\ud800", "../../etc/passwd", [], {}, [[[]]], [None]),
    *(-1, 0, 1, 2**31, 2**63, 10**30, 10**400, 0.5, -1e308, float("nan"), float("inf")),
)


# ---- bytes


def mutate(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return a file with bits, blocks or numbers changed, cut short, or with another's head."""
    change = rng.choice((_flip, _flip, _cut, _head, _number, _number, _number, _block))
    return change(rng, bytearray(data), others)[:MOST]


def _flip(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> bytes:
    reach = min(len(data), rng.choice((64, 512, 4096, len(data))))
    for _count in range(rng.choice((1, 2, 4, 16, 64))):
        data[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    return bytes(data)


def _cut(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> bytes:
    size = len(data)
    near = rng.choice((size, min(size, 2000), min(size, 60)))
    return bytes(
        data[: rng.randrange(near)] if rng.random() < 0.7 else data[: -rng.randrange(near)]
    )


def _head(rng: random.Random, data: bytearray, others: Sequence[bytes]) -> bytes:
    count = rng.choice((4, 8, 12, 16, 32, 64, 512))
    return rng.choice(others)[:count] + bytes(data[count:])


def _number(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> bytes:
    """Change numbers, most often near the file's beginning, where lengths and sizes are."""
    for _count in range(rng.choice((1, 1, 2, 4))):
        width = rng.choice((1, 2, 4))
        reach = rng.choice((64, 512, 4096, len(data)))
        place = rng.randrange(max(1, min(len(data), reach) - width))
        order: Literal["big", "little"] = rng.choice(("big", "little"))
        own = int.from_bytes(data[place : place + width], order)
        values = (*WORDS, own + 1, own - 1, 2 * own, own // 2, rng.getrandbits(32))
        data[place : place + width] = (rng.choice(values) % 256**width).to_bytes(width, order)
    return bytes(data)


def _block(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> bytes:
    """Clear a block, make it noise, repeat it, or put it elsewhere."""
    first, count = rng.randrange(len(data)), rng.choice((1, 16, 256, 4096))
    block = bytes(data[first : first + count])
    new = rng.choice((bytes(len(block)), rng.randbytes(len(block)), block * rng.choice((0, 2, 50))))
    place = first if rng.random() < 0.7 else rng.randrange(len(data))
    data[place : place + len(block)] = new
    return bytes(data)


# ---- JSON


def odd_json(rng: random.Random, text: bytes | str) -> bytes:
    """Return JSON in which some values are of another type, out of range, missing or very deep."""
    if rng.random() < 0.05:
        return rng.choice(
            (b"[" * 100_000, b'{"a":' * 50_000, b"null", b"[]", b"{}", b"\xff\xfe", b"")
        )
    tree = json.loads(text)
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = _odd_value(rng, tree)
    return json.dumps(tree).encode("utf-8", "replace")


def _odd_value(rng: random.Random, tree: Any, depth: int = 0) -> Any:
    """Return a tree of which one branch is changed."""
    if not isinstance(tree, (dict, list)) or not tree or rng.random() < 0.1 * depth:
        return copy.deepcopy(rng.choice(_VALUES))
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    key, how = rng.choice(keys), rng.random()
    if how < 0.1:
        del tree[key]
    elif how < 0.15 and isinstance(tree, list):
        tree.append(copy.deepcopy(tree[key]))
    else:
        tree[key] = _odd_value(rng, tree[key], depth + 1)
    return tree


# ---- arrays


def odd_npy(rng: random.Random, data: bytes) -> bytes:
    """Return an .npy file with another shape, type or number than its data has."""
    (length,) = struct.unpack("<H", data[8:10])
    kind = rng.choice(
        ("<f4", "<f8", "<i2", "|u1", "|O", "<U100000", "V9", "<c16", "x", ">f4", "<f2")
    )
    shape = rng.choice(
        (
            *("(0,)", "()", "(1,)", "(-1,)", "(10**11, 2)", "(99999999999, 68, 2)", "(3, 68, 2)"),
            *("(1, 2, 3, 4, 5)", "(" * 200 + ")", "(True,)", "('a',)", "None", "(2**64,)"),
        )
    )
    order = rng.choice(("False", "False", "True", "0", "[]"))
    head = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}}}".encode() + b"\n"
    body = bytearray(data[10 + length :])
    if rng.random() < 0.4 and len(body) >= 4:  # the header stays, a number changes
        place = rng.randrange(len(body) // 4) * 4
        odd = rng.choice((float("nan"), float("inf"), -3e38, 1e-40))
        body[place : place + 4] = struct.pack("<f", odd)
        return data[: 10 + length] + bytes(body)
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(body)


# ---- containers


@dataclass(frozen=True)
class Container:
    """A format of files as parts in a row. split: bytes to parts; join: parts to bytes."""

    split: Callable[[bytes], list[Part]]
    join: Callable[[Sequence[Part]], bytes]


@dataclass(frozen=True)
class Part:
    """A part of a container: its head or name, and its bytes or its own parts."""

    name: bytes
    body: bytes | list[Part]


def odd_parts(rng: random.Random, data: bytes, container: Container) -> bytes:
    """Return a well-formed file whose parts are changed, repeated, removed, mixed up or nested."""
    parts = container.split(data)
    count = rng.choice((1, 1, 2, 3, 5))
    for _ in range(count):
        _change_parts(rng, parts, 1000 if count == 1 else 3)
    return container.join(parts)[:MOST]


def _change_parts(rng: random.Random, parts: list[Part], most: int) -> None:
    """Change one part in place, at any depth. most: how often it may be repeated."""
    if not parts:
        return
    place = rng.randrange(len(parts))
    part = parts[place]
    if isinstance(part.body, list) and part.body and rng.random() < 0.85:
        _change_parts(rng, part.body, most)
        return
    how = rng.random()
    if how < 0.65 and isinstance(part.body, bytes):
        parts[place] = Part(part.name, _odd_fields(rng, part.body))
    elif how < 0.75:
        parts[place : place + 1] = [part] * rng.choice((0, 2, most))
    elif how < 0.85:
        rng.shuffle(parts)
    elif how < 0.92:
        parts.insert(rng.randrange(len(parts) + 1), Part(part.name, rng.randbytes(30)))
    else:
        for _ in range(rng.choice((1, 10, 300))):
            part = Part(part.name, [part])
        parts[place] = part


def _odd_fields(rng: random.Random, body: bytes) -> bytes:
    """Change numbers of a part, most often in its first 64 bytes."""
    data = bytearray(body)
    for _ in range(rng.choice((1, 1, 2, 4))):
        width = rng.choice((1, 2, 4, 4, 8))
        reach = len(data) if rng.random() < 0.2 else min(len(data), 64)
        if reach >= width:
            place = rng.randrange(reach - width + 1) // width * width
            order = rng.choice(("big", "little"))
            values = (*WORDS, *(1 << rng.randrange(64) for _ in range(6)))
            data[place : place + width] = (rng.choice(values) % 256**width).to_bytes(width, order)
    return bytes(data)


_BOXES = frozenset(b"moov trak mdia minf stbl edts udta moof traf mvex dinf ilst ipco iprp".split())


def _split_boxes(data: bytes) -> list[Part]:
    parts: list[Part] = []
    at = 0
    while at + 8 <= len(data):
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        size = size if size >= 8 else len(data) - at
        body = data[at + 8 : at + size]
        parts.append(Part(name, _split_boxes(body) if name in _BOXES else body))
        at += size
    return parts


def _join_boxes(parts: Sequence[Part]) -> bytes:
    out = []
    for part in parts:
        body = part.body if isinstance(part.body, bytes) else _join_boxes(part.body)
        out.append(struct.pack(">I", len(body) + 8) + part.name + body)
    return b"".join(out)


def _split_riff(data: bytes) -> list[Part]:
    parts: list[Part] = []
    at = 0
    while at + 8 <= len(data):
        size, name = int.from_bytes(data[at + 4 : at + 8], "little"), data[at : at + 4]
        body = data[at + 8 : at + 8 + size]
        nested = name in (b"RIFF", b"LIST") and len(body) >= 4
        parts.append(Part(name + body[:4], _split_riff(body[4:])) if nested else Part(name, body))
        at += 8 + size + size % 2
    return parts


def _join_riff(parts: Sequence[Part]) -> bytes:
    out = []
    for part in parts:
        body = part.body if isinstance(part.body, bytes) else _join_riff(part.body)
        body = part.name[4:] + body
        out.append(part.name[:4] + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2))
    return b"".join(out)


def _split_png(data: bytes) -> list[Part]:
    parts, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        parts.append(Part(data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return parts


def _join_png(parts: Sequence[Part]) -> bytes:
    out = [b"\x89PNG\r\n\x1a\n"]
    for part in parts:
        body = part.body if isinstance(part.body, bytes) else _join_png(part.body)
        sum_ = struct.pack(">I", zlib.crc32(part.name + body))
        out.append(struct.pack(">I", len(body)) + part.name + body + sum_)
    return b"".join(out)


def _split_jpeg(data: bytes) -> list[Part]:
    """Segments up to the first scan, whose data is part of it."""
    parts: list[Part] = []
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xDA:
            return [*parts, Part(b"\xff\xda", data[at + 4 :])]
        parts.append(Part(data[at : at + 2], data[at + 4 : at + 2 + size]))
        at += 2 + size
    return parts


def _join_jpeg(parts: Sequence[Part]) -> bytes:
    out = [b"\xff\xd8"]
    for part in parts:
        body = part.body if isinstance(part.body, bytes) else _join_jpeg(part.body)
        # a scan's length is that of its header: one byte, two for each component, three
        size = 4 + 2 * body[0] if part.name == b"\xff\xda" and body else len(body)
        out.append(part.name + struct.pack(">H", min(size + 2, 65535)) + body)
    return b"".join(out)


_ELEMENTS = frozenset(  # of Matroska, that hold others
    bytes.fromhex(name)
    for name in ("18538067", "1549a966", "1654ae6b", "ae", "e0", "e1", "1f43b675", "a0", "1c53bb6b")
)


def _split_elements(data: bytes) -> list[Part]:
    parts: list[Part] = []
    at = 0
    while at < len(data) and data[at]:
        width = 9 - data[at].bit_length()
        name, rest = data[at : at + width], data[at + width :]
        if not rest or not rest[0]:
            break
        digits = 9 - rest[0].bit_length()
        size = int.from_bytes(rest[:digits], "big") & ((1 << 7 * digits) - 1)
        size = min(size, len(rest) - digits)
        body = rest[digits : digits + size]
        parts.append(Part(name, _split_elements(body) if name in _ELEMENTS else body))
        at += width + digits + size
    return parts


def _join_elements(parts: Sequence[Part]) -> bytes:
    out = []
    for part in parts:
        body = part.body if isinstance(part.body, bytes) else _join_elements(part.body)
        out.append(part.name + struct.pack(">Q", 1 << 56 | len(body)) + body)
    return b"".join(out)


def _split_flac(data: bytes) -> list[Part]:
    """Blocks of metadata; the frames are part of the last one."""
    parts, at = [], 4
    while at + 4 <= len(data):
        last, size = data[at] >> 7, int.from_bytes(data[at + 1 : at + 4], "big")
        end = len(data) if last else at + 4 + size
        parts.append(Part(data[at : at + 4] if last else data[at : at + 1], data[at + 4 : end]))
        if last:
            break
        at = end
    return parts


def _join_flac(parts: Sequence[Part]) -> bytes:
    out = [b"fLaC"]
    for part in parts:
        body = part.body if isinstance(part.body, bytes) else _join_flac(part.body)
        size = b"" if len(part.name) == 4 else (len(body) % 2**24).to_bytes(3, "big")
        out.append(part.name + size + body)
    return b"".join(out)


def _split_pages(data: bytes) -> list[Part]:
    """Pages of Ogg: the name is the header without its checksum's value."""
    parts: list[Part] = []
    at = 0
    while data[at : at + 4] == b"OggS":
        table = data[at + 27 : at + 27 + data[at + 26]]
        end = at + 27 + len(table) + sum(table)
        parts.append(Part(b"OggS", data[at + 4 : end]))
        at = end
    return parts


def _join_pages(parts: Sequence[Part]) -> bytes:
    out = []
    for part in parts:
        body = part.body if isinstance(part.body, bytes) else _join_pages(part.body)
        page = bytearray(part.name + body)
        if len(page) >= 26:
            page[22:26] = bytes(4)
            page[22:26] = struct.pack("<I", _ogg_sum(page))
        out.append(bytes(page))
    return b"".join(out)


def _table() -> list[int]:
    rows = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
        rows.append(value)
    return rows


_SUMS = _table()


def _ogg_sum(page: bytes | bytearray) -> int:
    """The CRC-32 of Ogg (RFC 3533): neither reflected nor inverted."""
    value = 0
    for byte in page:
        value = (value << 8 & 0xFFFFFFFF) ^ _SUMS[value >> 24 ^ byte]
    return value


CONTAINERS = {
    ".mp4": Container(_split_boxes, _join_boxes),
    ".m4a": Container(_split_boxes, _join_boxes),
    ".mov": Container(_split_boxes, _join_boxes),
    ".avif": Container(_split_boxes, _join_boxes),
    ".heic": Container(_split_boxes, _join_boxes),
    ".wav": Container(_split_riff, _join_riff),
    ".avi": Container(_split_riff, _join_riff),
    ".webp": Container(_split_riff, _join_riff),
    ".png": Container(_split_png, _join_png),
    ".jpg": Container(_split_jpeg, _join_jpeg),
    ".mkv": Container(_split_elements, _join_elements),
    ".webm": Container(_split_elements, _join_elements),
    ".flac": Container(_split_flac, _join_flac),
    ".ogg": Container(_split_pages, _join_pages),
    ".opus": Container(_split_pages, _join_pages),
}
