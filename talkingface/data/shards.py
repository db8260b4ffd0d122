"""Shards: tar files in WebDataset layout, and the memory-mapped cache for training.

A clip is five members of one name: `.jpg` (its crops, one below the other, quality 95, colour not
subsampled), `.landmarks.npy`, `.mesh.npy`, `.wav` (16 kHz, 16 bit) and `.json` (everything else,
and the CRC-32 of the other four). The same clips give the same bytes. Needs torch, numpy and OpenCV
only.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import math
import shutil
import struct
import tarfile
import tokenize
import wave
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.audio import SAMPLE_RATE, SAMPLES_PER_FRAME
from talkingface.contract import LANDMARKS, MESH_POINTS
from talkingface.data.clip import MAX_FRAMES, Clip
from talkingface.data.dataset import Cache, ClipInfo
from talkingface.errors import BadShard, OutputError
from talkingface.media import replacing, reserve, sync, writing

VERSION = 2  # 2: with the mesh
PATTERN = "shard-*.tar"
_FACTS = ("speaker", "split", "sentence", "words", "silent", "info")  # of a clip, in its JSON
_KINDS = ("jpg", "landmarks.npy", "mesh.npy", "wav", "json")
_QUALITY = [
    *(cv2.IMWRITE_JPEG_QUALITY, 95),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
]
_LARGEST_MEMBER = 64_000_000  # bytes
_LARGEST_CROP = 1024  # pixels of the side
_ROWS = 65_500  # of a JPEG, at most
_FRAME = 0xC0  # marker of a JPEG's frame header, baseline
_SEGMENTS = (_FRAME, 0xC4, 0xDB, 0xE0)  # those before its pixels: tables, and JFIF's
_KINDS_OF_FACTS = {"speaker": str, "split": str, "sentence": str, "silent": bool, "info": dict}
# What damaged members raise while they are read.
_DAMAGED = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, EOFError),
    *(OSError, RecursionError, SyntaxError, tokenize.TokenError, wave.Error, cv2.error),
    *(tarfile.TarError, struct.error),
)
_MEND = "prepare the corpus again, or copy the shard again"


@dataclass(frozen=True)
class Packed:
    """A clip as the members of a shard, a fifth of its size. members: (kind, bytes), in order."""

    key: str
    members: tuple[tuple[str, bytes], ...]


def pack(clip: Clip) -> Packed:
    """Encode a clip for writing."""
    return Packed(clip.key, tuple(_members(clip)))


def write(path: Path, clips: Iterable[Clip | Packed]) -> int:
    """Write a shard atomically. Returns its number of clips.

    Parts that a killed process left are removed. Raises OutputError when the disk is full or
    cannot be written.
    """
    count = 0
    with replacing(path, overwrite=True, alone=True) as part, writing(path, OSError):
        with tarfile.open(part, "w") as archive:
            for clip in clips:
                packed = pack(clip) if isinstance(clip, Clip) else clip
                for kind, data in packed.members:
                    member = tarfile.TarInfo(f"{packed.key}.{kind}")  # time 0, no owner
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
                count += 1
    return count


def _members(clip: Clip) -> Iterator[tuple[str, bytes]]:
    strip = clip.crops.reshape(-1, *clip.crops.shape[2:])
    good, jpeg = cv2.imencode(".jpg", cv2.cvtColor(strip, cv2.COLOR_RGB2BGR), _QUALITY)
    if not good:
        raise ValueError(f"clip {clip.key}: its crops {clip.crops.shape} do not fit into a JPEG")
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", "not compressed"))
        file.writeframes(clip.sound.astype("<i2").tobytes())
    data = {
        "jpg": jpeg.tobytes(),
        "landmarks.npy": _saved(clip.landmarks),
        "mesh.npy": _saved(clip.mesh),
        "wav": sound.getvalue(),
    }
    facts = {
        "version": VERSION,
        "frames": len(clip.crops),
        "size": clip.crops.shape[1],
        **{name: getattr(clip, name) for name in _FACTS},
        "crc32": {kind: zlib.crc32(content) for kind, content in data.items()},
    }
    yield from data.items()
    yield "json", json.dumps(facts, sort_keys=True).encode()


def _saved(points: NDArray[np.float32]) -> bytes:
    out = io.BytesIO()
    np.save(out, points, allow_pickle=False)
    return out.getvalue()


def facts(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the key of each clip of a shard and its JSON, without pictures and sound. BadShard."""
    for name, content in _contents(path, ".json"):
        yield name.partition(".")[0], _facts(path, name, content)


def read(path: Path, wanted: Collection[str] | None = None) -> Iterator[Clip]:
    """Yield the clips of a shard, or those with these keys.

    Raises BadShard, naming the file and its bad member.
    """
    data: dict[str, bytes] = {}
    key = ""
    for name, content in _contents(path):
        stem, _, kind = name.partition(".")
        if data and stem != key:
            raise _incomplete(path, key, data)
        key = stem
        data[kind] = content
        if all(kind in data for kind in _KINDS):
            if wanted is None or key in wanted:
                yield _clip(path, key, data)
            data = {}
    if data:
        raise _incomplete(path, key, data)


def _incomplete(path: Path, key: str, data: dict[str, bytes]) -> BadShard:
    """Return the error of a clip that lacks a member. Raises BadShard where its version differs."""
    if "json" in data:
        _facts(path, f"{key}.json", data["json"])
    lacking = ", ".join(kind for kind in _KINDS if kind not in data)
    return BadShard(f"{path}: clip {key} lacks {lacking}; {_MEND}")


def _contents(path: Path, ending: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of the members with this ending."""
    name = "its first member"
    try:
        _check_end(path)
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = member.name
                if not name.endswith(ending):
                    continue
                yield name, _content(path, archive, member)
    except _DAMAGED as error:
        raise BadShard(f"{path}: damaged after {name} ({_reason(error)}); {_MEND}") from error


def _content(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The bytes of a member: a file of its own, no link, and no longer than the archive is."""
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
    file = archive.extractfile(member) if plain and member.size <= _LARGEST_MEMBER else None
    if file is None:
        raise ValueError(
            f"{member.name!r} of {member.size} bytes is no plain file of at most {_LARGEST_MEMBER}"
        )
    content = file.read()
    if len(content) != member.size:
        raise BadShard(f"{path}: {member.name} is cut short; {_MEND}")
    return content


def _reason(error: Exception) -> str:
    """The text of an error in one line, for another one."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def _check_end(path: Path) -> None:
    """Check the tar's end mark: tarfile accepts a file that stops between two members."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2 * tarfile.BLOCKSIZE))
        mark = file.read()
    if len(mark) != 2 * tarfile.BLOCKSIZE or any(mark):
        raise BadShard(f"{path}: cut short, the end of the archive is missing; {_MEND}")


def _facts(path: Path, name: str, content: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(content)
        version = facts["version"]
        words = tuple((str(w), float(a), float(b)) for w, a, b in facts["words"])
        facts = {**facts, "frames": int(facts["frames"]), "size": int(facts["size"])}
        if version == VERSION:
            _check_facts(facts)
    except _DAMAGED as error:
        raise BadShard(f"{path}: {name} is damaged ({error!r:.120}); {_MEND}") from error
    if version != VERSION:
        raise BadShard(
            f"{path}: {name} has version {version}, this release reads {VERSION}; prepare the "
            "corpus again"
        )
    return {**facts, "words": words}


def _check_facts(facts: Mapping[str, Any]) -> None:
    """Raise ValueError for the facts of no clip."""
    frames, size = facts["frames"], facts["size"]
    if not (0 < frames <= MAX_FRAMES and 0 < size <= _LARGEST_CROP and frames * size <= _ROWS):
        raise ValueError(f"{frames} frames of {size} pixels")
    if not all(math.isfinite(time) for _, *times in facts["words"] for time in times):
        raise ValueError("a word at no time")
    for name, kind in _KINDS_OF_FACTS.items():
        if not isinstance(facts[name], kind):
            raise ValueError(f"{name} is {str(facts[name])[:20]!r}")


def _clip(path: Path, key: str, data: dict[str, bytes]) -> Clip:
    facts = _facts(path, f"{key}.json", data["json"])
    arrays: dict[str, Any] = {}
    for kind, decode in _DECODERS.items():
        try:
            if zlib.crc32(data[kind]) != facts["crc32"][kind]:
                raise ValueError("its checksum differs")
            arrays[kind] = decode(data[kind], facts["frames"], facts["size"])
        except _DAMAGED as error:
            raise BadShard(
                f"{path}: {key}.{kind} is damaged ({_reason(error)}); {_MEND}"
            ) from error
    try:
        return Clip(
            key=key,
            crops=arrays["jpg"],
            landmarks=arrays["landmarks.npy"],
            mesh=arrays["mesh.npy"],
            sound=arrays["wav"],
            **{name: facts[name] for name in _FACTS},
        )
    except (ValueError, KeyError) as error:
        raise BadShard(f"{path}: {key}.json is damaged ({error!r}); {_MEND}") from error


def _crops(data: bytes, frames: int, size: int) -> NDArray[np.uint8]:
    width, height = _jpeg_size(data)  # before that many pixels are decoded
    if (width, height) != (size, frames * size):
        raise ValueError(f"{width}x{height} pixels, expected {size}x{frames * size}")
    strip = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if strip is None or strip.shape != (frames * size, size, 3):
        found = "no picture" if strip is None else f"{strip.shape[1]}x{strip.shape[0]} pixels"
        raise ValueError(f"{found}, expected {size}x{frames * size}")
    rgb = cv2.cvtColor(strip, cv2.COLOR_BGR2RGB)
    return np.asarray(rgb.reshape(frames, size, size, 3), dtype=np.uint8)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """(width, height) of a JPEG. Raises ValueError for segments that OpenCV does not write.

    Among odd ones a decoder could find another frame header, and another size (ITU-T T.81, B.1.1).
    """
    at = 2
    while data[:2] == b"\xff\xd8" and data[at : at + 1] == b"\xff" and data[at + 1] in _SEGMENTS:
        if data[at + 1] == _FRAME:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    raise ValueError("no JPEG as this program writes it")


def _points(data: bytes, frames: int, _: int, count: int) -> NDArray[np.float32]:
    if len(data) > 16 * frames * count + 1024:  # before a header is believed
        raise ValueError(f"{len(data)} bytes for {frames} frames")
    points = np.load(io.BytesIO(data), allow_pickle=False)
    if points.dtype.kind != "f" or not np.isfinite(points).all():
        raise ValueError("not all are finite numbers")
    if points.shape != (frames, count, 2):
        raise ValueError(f"shape {points.shape}, expected {(frames, count, 2)}")
    return np.asarray(points, dtype=np.float32)


def _sound(data: bytes, frames: int, _: int) -> NDArray[np.int16]:
    with wave.open(io.BytesIO(data), "rb") as file:
        kind = (file.getnchannels(), file.getsampwidth(), file.getframerate())
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int16)
    if kind != (1, 2, SAMPLE_RATE) or len(samples) != frames * SAMPLES_PER_FRAME:
        raise ValueError(f"{len(samples)} samples of {kind}")
    return samples


_DECODERS: dict[str, Callable[[bytes, int, int], NDArray[Any]]] = {
    "jpg": _crops,
    "landmarks.npy": partial(_points, count=LANDMARKS),
    "mesh.npy": partial(_points, count=MESH_POINTS),
    "wav": _sound,
}


def find(folder: Path) -> list[Path]:
    """Return the shards of a folder, in order. Raises BadShard when there is none."""
    paths = sorted(folder.glob(PATTERN))
    if not paths:
        raise BadShard(f"{folder}: no shards ({PATTERN}) in it; run `talkingface prepare`")
    return paths


def open_cache(shards: Path, cache: Path | None = None) -> Cache:
    """Open the cache of shards; build it first where it is missing or older.

    cache: its folder, `shards`/cache by default. A folder that is a cache itself is opened
    directly. Raises BadShard, and OutputError when the cache cannot be written.
    """
    if (shards / "clips.json").is_file():
        return Cache(shards)
    return Cache(build_cache(shards, shards / "cache" if cache is None else cache))


def build_cache(shards: Path, cache: Path) -> Path:
    """Decode the shards of a folder into a cache folder, unless it is up to date.

    One clip is in memory at a time. The folder is renamed when it is complete; on any failure
    nothing is left. Of several processes that call this, one builds and the others wait. Nothing
    is written where the cache is up to date. Raises BadShard, OutputError.
    """
    paths = find(shards)
    made_of = _fingerprint(paths)
    if _is_made_of(cache, made_of):
        return cache
    try:
        with writing(cache, OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            lock = cache.with_name(f".{cache.name}.lock").open("w")
    except OutputError as error:
        raise OutputError(f"{error}, by --cache FOLDER") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made_of = _fingerprint(paths)
        if not _is_made_of(cache, made_of):
            _build(cache, paths, made_of)
    return cache


def _is_made_of(cache: Path, made_of: str) -> bool:
    mark = cache / "shards.txt"
    return mark.is_file() and mark.read_text(errors="replace") == made_of


def _build(cache: Path, paths: list[Path], made_of: str) -> None:
    """Build the cache under a temporary name, and replace an older one by it."""
    part = cache.with_name(f".{cache.name}.part")
    try:
        with writing(cache, OSError):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            _fill(part, paths)
            (part / "shards.txt").write_text(made_of)
            for file in part.iterdir():
                sync(file)
            sync(part)
            shutil.rmtree(cache, ignore_errors=True)
            part.rename(cache)
            sync(cache.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fingerprint(paths: list[Path]) -> str:
    """Return a text that changes when a shard is added, removed or written again."""
    lines = [f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in paths]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return f"version {VERSION}, {len(paths)} shards, {digest}\n"


def _fill(folder: Path, paths: list[Path]) -> None:
    """Write the files of `dataset.Cache`; frames are counted first, for the memory maps."""
    known = [own for path in paths for _, own in facts(path)]
    total = sum(own["frames"] for own in known)
    sizes = {own["size"] for own in known}
    if not known:
        raise BadShard(f"{paths[0].parent}: its shards hold no clip; prepare the corpus again")
    if len(sizes) != 1:
        raise BadShard(
            f"{paths[0].parent}: crops of {sorted(sizes)} pixels in one folder, expected one size; "
            "prepare the corpus again into an empty folder"
        )
    (size,) = sizes
    frames = _new_map(folder / "frames.npy", np.uint8, (total, size, size, 3))
    landmarks = _new_map(folder / "landmarks.npy", np.float32, (total, LANDMARKS, 2))
    mesh = _new_map(folder / "mesh.npy", np.float32, (total, MESH_POINTS, 2))
    sound = _new_map(folder / "sound.npy", np.int16, (total * SAMPLES_PER_FRAME,))
    rows, seen, start = [], dict[str, Path](), 0
    for path in paths:
        for clip in read(path):
            if clip.key in seen:
                raise BadShard(f"{path}: clip {clip.key} is in {seen[clip.key].name} too")
            seen[clip.key] = path
            end = start + len(clip.crops)
            frames[start:end], landmarks[start:end] = clip.crops, clip.landmarks
            mesh[start:end] = clip.mesh
            sound[start * SAMPLES_PER_FRAME : end * SAMPLES_PER_FRAME] = clip.sound
            words, info = clip.words, {**clip.info, "sentence": clip.sentence}
            place = (start, end - start)
            row = ClipInfo(clip.key, clip.speaker, clip.split, *place, words, clip.silent, info)
            rows.append(asdict(row))
            start = end
    for array in (frames, landmarks, mesh, sound):
        array.flush()
    (folder / "clips.json").write_text(json.dumps(rows))


def _new_map(path: Path, kind: type[Any], shape: tuple[int, ...]) -> Any:
    """Create an array of zeros on the disk, with all of its room, and map it. Raises OSError."""
    array = np.lib.format.open_memmap(path, "w+", kind, shape)
    reserve(path)
    return array
