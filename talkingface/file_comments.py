"""Comments of finished GIF and animated WebP files, which FFmpeg's writers leave out."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import escape

from talkingface import media

_SYNTHETIC = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{source}"><dc:description><rdf:Alt>
<rdf:li xml:lang="x-default">{text}</rdf:li></rdf:Alt></dc:description></rdf:Description></rdf:RDF>
</x:xmpmeta>"""
_HAS_XMP = 4  # flag in VP8X, the header of extended WebP files


@contextmanager
def adding(
    path: Path, file: Path, container: str, size: Sequence[int], text: str
) -> Iterator[None]:
    """Add a comment to a file that the block writes: a block of GIF, XMP in WebP, else nothing.

    path: what errors name. container: FFmpeg's name of it. size: (height, width) of the picture.
    Raises OutputError.
    """
    yield
    with media.writing(path, OSError):
        if container == "gif":
            _add_to_gif(file, text)
        elif container == "webp":
            xmp = _XMP.format(source=_SYNTHETIC, text=escape(text))
            _add_to_webp(file, size, xmp.encode())


def _add_to_gif(file: Path, text: str) -> None:
    """Insert a comment (GIF89a, 24) before the first frame, where readers look for it."""
    with file.open("rb") as opened:
        flags = opened.read(13)[10]
    table = 3 << ((flags & 7) + 1) if flags & 0x80 else 0  # bytes of the global colours
    data = text.encode()
    parts = [data[start : start + 255] for start in range(0, len(data), 255)]
    blocks = b"".join(bytes([len(part)]) + part for part in parts)
    _insert(file, 13 + table, b"\x21\xfe" + blocks + b"\0")


def _add_to_webp(file: Path, size: Sequence[int], xmp: bytes) -> None:
    """Append XMP, and say so in the header of the file; a file of one frame may have none yet."""
    with file.open("rb") as opened:
        extended = opened.read(16)[12:] == b"VP8X"
    if not extended:
        height, width = ((side - 1).to_bytes(3, "little") for side in size)
        _insert(file, 12, b"VP8X\x0a\0\0\0" + bytes([0x10, 0, 0, 0]) + width + height)
    with file.open("r+b") as opened:
        opened.seek(20)
        flags = opened.read(1)[0] | _HAS_XMP
        opened.seek(20)
        opened.write(bytes([flags]))
        opened.seek(0, 2)
        opened.write(b"XMP " + len(xmp).to_bytes(4, "little") + xmp + b"\0" * (len(xmp) % 2))
        length = opened.tell() - 8
        opened.seek(4)
        opened.write(length.to_bytes(4, "little"))


def _insert(file: Path, place: int, data: bytes) -> None:
    """Insert bytes; memory stays flat."""
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size + len(data))
        with mmap.mmap(opened.fileno(), 0) as content:
            content.move(place + len(data), place, len(content) - len(data) - place)
            content[place : place + len(data)] = data
