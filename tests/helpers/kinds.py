"""Every kind of file that is read: a small one made on the spot, and what reads it."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pillow_heif
import torch
from PIL import Image

import talkingface
from helpers import media as recordings
from helpers import odd_files
from helpers.corpus import landmarks as corpus_landmarks
from helpers.corpus import write_cache
from helpers.mutations import CONTAINERS, mutate, odd_parts
from talkingface import audio, media, models, motion_file, picture, video, video_writing, weights
from talkingface.data import dataset, landmark_space, report, shards
from talkingface.data.clip import Clip
from talkingface.data.sources.grid import label_lombard, read_alignment
from talkingface.data.sources.own import read_textgrid
from talkingface.data.sources.recording import Recording
from talkingface.data.sources.tcdtimit import read_master_labels
from talkingface.evaluation import results
from talkingface.evaluation.files import ResultCache
from talkingface.faces.given import given_landmarks
from talkingface.motion import SIZES, Motion
from talkingface.study import creation
from talkingface.subtitles import read_srt
from talkingface.training import loop
from talkingface.turns import read_turns
from talkingface.web import limits

Read = Callable[[Path], object]
Change = Callable[[random.Random, Path], None]  # writes the changed file


@dataclass(frozen=True)
class Kind:
    """A kind of file. name: of the file; data: of a good one; readers: each gets its path.

    beside: other files of its folder, by name; odd: writes a well-formed odd one.
    """

    name: str
    data: bytes
    readers: tuple[Read, ...]
    odd: Change
    beside: Mapping[str, bytes] = field(default_factory=dict)

    def prepare(self, folder: Path) -> Path:
        """Write the good file, and those beside it; return its path."""
        for name, data in self.beside.items():
            (folder / name).write_bytes(data)
        path = folder / self.name
        path.write_bytes(self.data)
        return path


def change(kind: Kind, rng: random.Random, path: Path, others: list[bytes], odd: bool) -> None:
    """Change the file of a kind: any bytes of it, or (odd) so that it stays well-formed."""
    if odd:
        kind.odd(rng, path)
    else:
        path.write_bytes(mutate(rng, kind.data, others))


def all_kinds() -> list[Kind]:
    """Make one good file of every kind."""
    with TemporaryDirectory() as folder:
        return [*_pictures(), *_media(Path(folder)), *_own(Path(folder)), *_labels(Path(folder))]


def consume(parts: Iterable[object]) -> None:
    for _ in parts:
        pass


# ---- pictures


def _pictures() -> list[Kind]:
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    image = Image.fromarray(noise)
    check = partial(limits.check_picture, limits=limits.Limits())
    kinds = []
    for suffix in ("png", "jpg", "webp", "gif", "avif", "tif", "bmp", "heic"):
        of_web = suffix not in ("tif", "bmp", "heic")
        readers = (picture.read, check if of_web else picture.open_size)
        data = _image(image, suffix)
        kinds.append(Kind(f"a.{suffix}", data, readers, _odd_picture(f".{suffix}", data)))
    return kinds


def _image(image: Image.Image, suffix: str) -> bytes:
    out = io.BytesIO()
    if suffix == "heic":
        pillow_heif.from_pillow(image).save(out)
    else:
        image.save(out, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    return out.getvalue()


def _odd_picture(suffix: str, data: bytes) -> Change:
    def write(rng: random.Random, path: Path) -> None:
        made, container = odd_files.PICTURES.get(suffix), CONTAINERS.get(suffix)
        if made is not None and (container is None or rng.random() < 0.6):
            path.write_bytes(made(rng))
        elif container is not None:
            path.write_bytes(odd_parts(rng, data, container))

    return write


# ---- recordings and films


def _media(folder: Path) -> list[Kind]:
    tone = np.asarray(0.3 * np.sin(np.arange(8000) / 9), np.float32)
    sound = (_check_sound, _read_sound, _open_sound)
    film = (*sound, video.probe, _read_frames, video_writing.is_whole)
    kinds = []
    for suffix, codec in (
        *((".wav", "pcm_s16le"), (".flac", "flac"), (".mp3", "mp3"), (".ogg", "libopus")),
        *((".opus", "libopus"), (".m4a", "aac")),
    ):
        data = recordings.write_sound(folder / f"a{suffix}", tone, 16_000, codec).read_bytes()
        kinds.append(Kind(f"a{suffix}", data, sound, _odd_medium(suffix, data)))
    noise = np.random.default_rng(0).integers(0, 255, (6, 48, 64, 3), np.uint8)
    for suffix in (".mp4", ".mkv", ".mov", ".avi", ".mpg"):
        data = recordings.write_film(folder / f"a{suffix}", list(noise), tone).read_bytes()
        plays = suffix in (".mp4", ".mkv", ".mov")
        readers = (*film, _copy_for_study) if plays else film
        kinds.append(Kind(f"a{suffix}", data, readers, _odd_medium(suffix, data)))
    times = [(k * Fraction(1, 25), own) for k, own in enumerate(noise)]
    data = recordings.write_video(folder / "a.webm", times, "libvpx").read_bytes()
    silent = (video.probe, _read_frames, video_writing.is_whole)
    return [*kinds, Kind("a.webm", data, silent, _odd_medium(".webm", data))]


def _odd_medium(suffix: str, data: bytes) -> Change:
    made: dict[str, Callable[[random.Random], bytes]] = {
        ".wav": odd_files.odd_wav,
        ".mkv": odd_files.odd_matroska,
    }

    def write(rng: random.Random, path: Path) -> None:
        chance = rng.random()
        if suffix in made and chance < 0.35:
            path.write_bytes(made[suffix](rng))
        elif suffix in CONTAINERS and chance < 0.7:
            path.write_bytes(odd_parts(rng, data, CONTAINERS[suffix]))
        elif suffix in odd_files.FILMS and (chance < 0.85 or suffix not in odd_files.ENCODINGS):
            odd_files.odd_film(rng, path)
        elif suffix in odd_files.ENCODINGS:
            odd_files.odd_sound(rng, path)
        else:
            path.write_bytes(mutate(rng, data, [data]))

    return write


def _check_sound(path: Path) -> None:
    limits.check_sound(path, 10)


def _read_sound(path: Path) -> None:
    consume(audio.read(path))


def _open_sound(path: Path) -> None:
    consume(media.open_sound(path).chunks)


def _read_frames(path: Path) -> None:
    consume(video.read_frames(path))


def _copy_for_study(path: Path) -> None:
    creation._inspect(path)
    with TemporaryDirectory() as folder:
        creation.strip(path, Path(folder) / "a.mp4")


# ---- files of our own


def _own(folder: Path) -> list[Kind]:
    model = models.build(models.PRESETS["cran-tiny"])
    weights.save(folder / "w.safetensors", model, training_data="none", licence="MIT")
    speaker = talkingface.load("cran-tiny")
    face = picture.read(Path(__file__).parents[2] / "examples" / "portrait.jpg")
    face = np.ascontiguousarray(face[::3, ::3])
    stream = speaker.open(face, max_size=64)
    stream.push(np.zeros(4_000, np.float32))
    stream.save(folder / "s.safetensors")

    tensors = {"mean": torch.zeros(136), "basis": torch.zeros(6, 136), "scale": torch.ones(6)}
    landmark_space.save(tensors, folder / "b.safetensors", "none")
    kinds = [
        _kind(folder / "w.safetensors", weights.load),
        _kind(folder / "s.safetensors", stream.restore),
        _kind(folder / "b.safetensors", landmark_space.load),
        *_motions(folder),
        *_corpus(folder),
    ]
    (folder / "l.json").write_text(json.dumps(corpus_landmarks(4.0).tolist()))
    kinds.append(_kind(folder / "l.json", partial(given_landmarks, width=128, height=128)))
    turns = [{"start": 0.0, "end": 1.5, "speaker": "anna"}, {"start": 2, "end": 3, "face": 1}]
    (folder / "t.json").write_text(json.dumps(turns))
    kinds.append(_kind(folder / "t.json", read_turns))
    return [*kinds, _checkpoint(folder), *_results(folder)]


def _kind(path: Path, *readers: Read, beside: Mapping[str, bytes] | None = None) -> Kind:
    data, make = path.read_bytes(), odd_files.OWN[path.suffix]

    def write(rng: random.Random, out: Path) -> None:
        out.write_bytes(make(rng, data))

    return Kind(path.name, data, readers, write, beside or {})


def _motions(folder: Path) -> list[Kind]:
    arrays = {name: np.zeros((4, size), np.float32) for name, size in SIZES.items()}
    motion = Motion(expression=np.zeros((4, 16), np.float32), **arrays)
    for name in ("m.json", "m.npz"):
        motion_file.write(folder / name, motion, [(0.0, 0.1, "aa")])
    return [_kind(folder / name, motion_file.read) for name in ("m.json", "m.npz")]


def _corpus(folder: Path) -> list[Kind]:
    """A shard, its report, and the files of a cache."""
    rng, frames = np.random.default_rng(0), 3
    clip = Clip(
        key="s1_a",
        speaker="s1",
        crops=rng.integers(0, 255, (frames, 32, 32, 3), np.uint8),
        landmarks=rng.uniform(size=(frames, 68, 2)).astype(np.float32),
        mesh=rng.uniform(size=(frames, 478, 2)).astype(np.float32),
        sound=rng.integers(-9999, 9999, frames * audio.SAMPLES_PER_FRAME).astype(np.int16),
        words=(("bin", 0.0, 0.1),),
    )
    shards.write(folder / "shard-00000.tar", [clip])
    row = report.Outcome("s1_a", "s1", "train", "kept")
    report.write(folder / "shard-00000.json", [row])
    cache = write_cache(folder / "cache")
    np.save(folder / "cache" / "frames.npy", np.zeros((len(cache.frames), 2, 2, 3), np.uint8))
    files = {own.name: own.read_bytes() for own in (folder / "cache").iterdir()}
    arrays = [folder / "cache" / name for name in ("clips.json", "landmarks.npy", "sound.npy")]
    return [
        _kind(folder / "shard-00000.tar", _build_cache),
        _kind(folder / "shard-00000.json", report.read),
        *(_kind(own, _open_cache, beside=files) for own in arrays),
    ]


def _build_cache(path: Path) -> None:
    with TemporaryDirectory() as folder:
        try:
            dataset.Cache(shards.build_cache(path.parent, Path(folder) / "cache"))
        finally:
            left = {own.name for own in Path(folder).iterdir()} - {"cache", ".cache.lock"}
            assert not left, left


def _open_cache(path: Path) -> None:
    cache = dataset.Cache(path.parent)
    for clip in cache.clips:
        cache.samples(clip, 0, 100)
        cache.aperture(clip)
    _ = cache.vocabulary


def _checkpoint(folder: Path) -> Kind:
    network = torch.nn.Linear(3, 3)
    recipe: Any = SimpleNamespace(
        modules={"a": network}, optimizers={"a": torch.optim.Adam(network.parameters())}
    )
    loop.save_checkpoint(recipe, folder / "checkpoint.pt", 5)
    return _kind(folder / "checkpoint.pt", lambda path: loop.load_checkpoint(recipe, path))


def _results(folder: Path) -> list[Kind]:
    row = results.Result(
        "cran", "0" * 64, "s1_a", "s1", "test", "first frame", "s1_a:0", {"psnr": 1.0}
    )
    results.write_results(folder / "results.jsonl", [row] * 3)
    cache = ResultCache(folder / "cached.jsonl", results.Result)
    for key in "abc":
        cache.add(key, row)
    (folder / "log.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "valid/x": 1}\n')
    data = (folder / "cached.jsonl").read_bytes().lstrip()
    (folder / "cached.jsonl").write_bytes(data)
    return [
        _kind(folder / "results.jsonl", results.read_results),
        _kind(folder / "cached.jsonl", lambda path: ResultCache(path, results.Result)),
        _kind(folder / "log.jsonl", lambda path: loop._Log(path, 9)),
    ]


# ---- labels of corpora

_TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"
0
1
<exists>
1
"IntervalTier"
"words"
0
1
2
0
0.5
"bin"
0.5
1
"blue"
"""
_SRT = "1\n00:00:00,000 --> 00:00:01,500\nbin blue\n\n2\n00:00:02,000 --> 00:00:03,000\nat f two\n"
_MLF = '#!MLF!#\n"*/30M/Clips/straightcam/sa1.rec"\n0 100000 sil\n100000 200000 ah\n.\n'


def _labels(folder: Path) -> list[Kind]:
    """TextGrid, GRID's and TCD-TIMIT's labels, Lombard GRID's phones."""
    phones = [{"phone": "b_B", "offset": 0.1, "duration": 0.2}, {"phone": "n_E", "offset": 0.3}]
    texts = {
        "a.TextGrid": (_TEXTGRID, read_textgrid),
        "a.srt": (_SRT, read_srt),
        "a.rttm": ("SPEAKER a 1 0.5 1.25 <NA> <NA> anna <NA> <NA>\n" * 3, read_turns),
        "a.align": ("0 100 sil\n100 2000 bin\n2000 4000 blue\n", read_alignment),
        "a_labelfiles.mlf": (_MLF, read_master_labels),
    }
    kinds = [Kind(n, text.encode(), (read,), _odd_text(text)) for n, (text, read) in texts.items()]
    (folder / "lombard.json").write_text(json.dumps({"lombard": phones}))
    return [*kinds, _kind(folder / "lombard.json", _read_lombard)]


def _odd_text(text: str) -> Change:
    """Replace words of a text by odd numbers and names."""
    odd = ("nan", "1e999", "-1", "9" * 5000, "inf", '"', "", ".", "0x10", "\udcff", "٣", "\n" * 99)

    def write(rng: random.Random, path: Path) -> None:
        words = text.split(" ") if rng.random() < 0.5 else text.split("\n")
        between = " " if text.count(" ") + 1 == len(words) else "\n"
        for _ in range(rng.choice((1, 2, 5))):
            words[rng.randrange(len(words))] = rng.choice(odd)
        path.write_text(between.join(words), errors="surrogateescape")

    return write


def _read_lombard(path: Path) -> None:
    recording = Recording("k", "s", path.with_suffix(".mov"), "train", sentence="bin", labels=path)
    label_lombard(recording)


def empty(folder: Path) -> None:
    """Remove whatever is in a folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
