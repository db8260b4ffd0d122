"""Training data: a memory-mapped cache of clips, and batches as a function of (seed, step).

A cache folder holds `frames.npy` (N, S, S, 3) uint8, `mesh.npy` (N, 478, 2) float32 in [0, 1] and
`landmarks.npy` (N, 68, 2), the mesh's iBUG points; `sound.npy` (640 N,) int16
at 16 kHz and `clips.json`; N counts the frames of all clips in a row.
"""

from __future__ import annotations

import json
import signal
import tokenize
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talkingface.audio import (
    FPS,
    SAMPLE_RATE,
    SAMPLES_PER_FRAME,
    SpeechSpec,
    frame_windows,
    windows,
)
from talkingface.contract import LANDMARKS, MESH_POINTS, Portrait
from talkingface.data.augment import AugmentConfig, augment_faces, augment_speech
from talkingface.data.clip import TRAIN, stored_split
from talkingface.data.reenactment import animate, can_speak, closed_mouth, move_landmarks, move_mesh
from talkingface.errors import BadShard, OutputError
from talkingface.landmarks import IBUG, LIPS, lip_gap
from talkingface.models.lipreader import GRID_WORDS
from talkingface.workers import process_pool, start_worker

AHEAD = 2  # batches that are prefetched
BATCHES = 16  # the least number of batches in a share of the clips
MOST_WORDS = 500  # the most words of a vocabulary other than GRID's: as many as LRW has


@dataclass(frozen=True)
class ClipInfo:
    """One clip of a cache. words: (word, start, end) in seconds; empty where times are unknown."""

    key: str
    speaker: str
    split: str
    start: int
    frames: int
    words: tuple[tuple[str, float, float], ...] = ()
    silent: bool = False  # a still portrait: no speech, no motion
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> slice:
        """The clip's frames among all frames of the cache."""
        return slice(self.start, self.start + self.frames)


# What damaged files of a cache raise.
_UNREADABLE = (
    *(OSError, ValueError, TypeError, LookupError, RecursionError, EOFError, OverflowError),
    *(SyntaxError, MemoryError, tokenize.TokenError),
)
# Types of the arrays of a cache, and the lengths of their axes after the first; None is any.
_ARRAYS: dict[str, tuple[type[Any], tuple[int | None, ...]]] = {
    "frames": (np.uint8, (None, None, 3)),
    "landmarks": (np.float32, (LANDMARKS, 2)),
    "mesh": (np.float32, (MESH_POINTS, 2)),
    "sound": (np.int16, ()),
}


class Cache:
    """The decoded clips, opened read-only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if (folder / "clips.json").is_file() and not (folder / "mesh.npy").is_file():
            raise BadShard(
                f"{folder} is a training cache of an older version, without mesh.npy; run "
                "`talkingface prepare` again"
            )
        try:
            rows = json.loads((folder / "clips.json").read_text())
            self.frames: NDArray[np.uint8] = _mapped(folder / "frames.npy")
            self.landmarks: NDArray[np.float32] = _mapped(folder / "landmarks.npy")
            self.mesh: NDArray[np.float32] = _mapped(folder / "mesh.npy")
            self.sound: NDArray[np.int16] = _mapped(folder / "sound.npy")
            self.clips = [
                ClipInfo(**row | {"words": tuple(map(tuple, row["words"]))}) for row in rows
            ]
            self._check()
        except _UNREADABLE as error:
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise BadShard(
                f"{folder}: is not a training cache ({reason}); run `talkingface prepare`"
            ) from error

    def _check(self) -> None:
        """Raise ValueError unless the arrays hold the frames of all clips, and these are clips."""
        for name, (kind, shape) in _ARRAYS.items():
            array = getattr(self, name)
            same = zip(array.shape[1:], shape, strict=True)  # raises ValueError for others
            if array.dtype != kind or not all(side is None or own == side for own, side in same):
                raise ValueError(f"{name} are {array.dtype} {array.shape}")
        for clip in self.clips:
            _check_clip(clip)
        lengths = len(self.frames), len(self.landmarks), len(self.mesh), len(self.sound)
        count = max((clip.rows.stop for clip in self.clips), default=0)
        if min(lengths[:3]) < count or lengths[3] < count * SAMPLES_PER_FRAME:
            raise ValueError(f"{count} frames of clips, arrays of {lengths}")

    def __reduce__(self) -> tuple[type[Cache], tuple[Path]]:
        """Pickle the folder's path only, not the arrays."""
        return Cache, (self.folder,)

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The vocabulary of lip readers on this cache, in the order of the words' numbers.

        GRID's 51 where no clip says another word with its time; otherwise the most frequent ones of
        the split TRAIN, 500 at most, in alphabetical order.
        """
        counts = Counter(w for c in self.clips if c.split == TRAIN for w, _, _ in c.words)
        if not counts or set(counts) <= set(GRID_WORDS):
            return GRID_WORDS
        frequent = sorted(counts, key=lambda word: (-counts[word], word))[:MOST_WORDS]
        return tuple(sorted(frequent))

    @cached_property
    def word_index(self) -> dict[str, int]:
        """Word -> its number in the vocabulary."""
        return {word: index for index, word in enumerate(self.vocabulary)}

    def split(self, *names: str) -> list[ClipInfo]:
        """Return the clips of these splits, by their stored values or as users name them."""
        wanted = {stored_split(name) for name in names}
        return [c for c in self.clips if c.split in wanted]

    def samples(self, clip: ClipInfo, first: int, count: int) -> Tensor:
        """Return (count,) float samples from `first`, relative to the clip; silence outside it."""
        begin, end = clip.start * SAMPLES_PER_FRAME, (clip.start + clip.frames) * SAMPLES_PER_FRAME
        low, high = max(begin, begin + first), max(begin, min(end, begin + first + count))
        out = torch.zeros(count)
        if high > low:
            part = torch.from_numpy(self.sound[low:high].astype(np.float32) / 32768)
            out[low - begin - first : high - begin - first] = part
        return out

    def aperture(self, clip: ClipInfo) -> NDArray[np.float32]:
        """Return the gap of the inner lips (frames,), in crop sides."""
        return lip_gap(self.landmarks[clip.rows])


def _check_clip(clip: ClipInfo) -> None:
    """Raise ValueError where a field is of another type."""
    good = all(type(own) is int and own >= 0 for own in (clip.start, clip.frames))
    good = good and all(isinstance(own, str) for own in (clip.key, clip.speaker, clip.split))
    good = good and isinstance(clip.silent, bool) and isinstance(clip.info, dict)
    for word, *times in clip.words:
        good = good and isinstance(word, str) and len(times) == 2
        good = good and all(isinstance(own, (int, float)) for own in times)
    if not good:
        raise ValueError(f"no clip: {clip!r:.80}")


def clip_speech(cache: Cache, clip: ClipInfo, spec: SpeechSpec) -> Tensor:
    """Return all windows of a clip, not augmented: (frames, hops, coefficients)."""
    sound = cache.samples(clip, 0, clip.frames * SAMPLES_PER_FRAME)
    return windows(sound, spec, clip.frames)


def _mapped(path: Path) -> NDArray[Any]:
    """Map an array on disk; processes share the pages that they have read.

    The result is no np.memmap, of which every slice costs microseconds.
    """
    mapped: NDArray[Any] = np.lib.format.open_memmap(path, mode="r").view(np.ndarray)
    return mapped


@dataclass(frozen=True)
class Batch:
    """B samples of T frames in a row.

    portrait: the identity picture, of the same clip or reenacted portrait. frames: (B, T, 3, S, S)
    in [-1, 1]. mesh: (B, T, 478, 2) in [0, 1] of the crop; landmarks: (B, T, 68, 2), the mesh's.
    speech: (B, T, hops, coefficients). before: (B, 3, S, S), the frame before the first. silent:
    (B,) bool, still portraits. word: (B,) index of a word spoken within the sample, -1 for none;
    span: (B, 2), its first frame and the one after its last.
    speaker: (B,) index into `speakers_of` the clips; -1 for still and reenacted portraits, and for
    unknown speakers.
    others: (B, N, 3, S, S), further pictures of the same face, N as `SampleConfig.others` says.
    """

    portrait: Portrait
    frames: Tensor
    mesh: Tensor
    landmarks: Tensor
    speech: Tensor
    before: Tensor
    silent: Tensor
    word: Tensor
    span: Tensor
    speaker: Tensor
    others: Tensor


@dataclass(frozen=True)
class RawBatch:
    """A batch before conversion to floats, small enough to be sent between processes.

    pictures: (B, P, S, S, 3) uint8 and mesh (B, P, 478, 2) float32: the identity's, the frame
    before, `count` frames in a row, the others. The other fields are as in `Batch`.
    """

    pictures: Tensor
    mesh: Tensor
    count: int
    speech: Tensor
    silent: Tensor
    word: Tensor
    span: Tensor
    speaker: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on this device, with float pictures."""
        frames = self.pictures.to(device, non_blocking=True)
        frames = frames.permute(0, 1, 4, 2, 3).float() / 127.5 - 1
        landmarks = self.mesh[:, :, torch.from_numpy(IBUG)].to(device)
        mesh = self.mesh.to(device)
        row = slice(2, 2 + self.count)
        return Batch(
            Portrait(frames[:, 0], landmarks[:, 0], mesh[:, 0]),
            frames[:, row],
            mesh[:, row],
            landmarks[:, row],
            self.speech.to(device),
            frames[:, 1],
            self.silent.to(device),
            self.word.to(device),
            self.span.to(device),
            self.speaker.to(device),
            frames[:, row.stop :],
        )


def speakers_of(clips: list[ClipInfo]) -> tuple[str, ...]:
    """Return the speakers of these clips, in alphabetical order: `Batch.speaker` is their index.

    An unknown speaker ("") is not one of them.
    """
    return tuple(sorted({c.speaker for c in clips if not c.silent and c.speaker}))


@dataclass(frozen=True)
class SampleConfig:
    """Settings of sampling. balance: a speaker's weight is (clips) ** balance; 0: all equal.

    reenacted: share of samples with a still portrait that moves as a clip (`data/reenactment.py`).
    """

    batch: int = 8
    frames: int = 15
    balance: float = 0.5
    silent: float = 0.1  # share of still portraits, where the cache has any
    reenacted: float = 0.0
    pictures: bool = True  # False: meshes and speech only
    sound: bool = True  # False: speech is zeros, for training on pictures alone
    others: int = 0  # further pictures of the face, for networks with several inputs
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class ClipPool:
    """The clips that batches are sampled from: all, or a share of them.

    chances: the probability of each speaking clip. reenactable: still portraits whose mouth can be
    moved. speakers: of all clips, `Batch.speaker` is their index.
    """

    speaking: list[ClipInfo]
    chances: NDArray[np.float64]
    still: list[ClipInfo]
    reenactable: list[ClipInfo]
    speakers: tuple[str, ...]


def clip_pool(
    cache: Cache, clips: list[ClipInfo], config: SampleConfig, share: tuple[int, int] = (0, 1)
) -> ClipPool:
    """Return the clips to sample batches from. share: (i, n), the i-th of n equal shares.

    Each speaker's clips are divided evenly. Where a share has too few batches, all clips are used.
    """
    speaking = [c for c in clips if not c.silent and c.frames > config.frames]
    if not speaking:
        raise BadShard(
            f"no clip of more than {config.frames} frames among {len(clips)}; prepare more speech"
        )
    counts = Counter(c.speaker for c in speaking)
    own = _share(speaking, share, BATCHES * config.batch)
    weights = np.array([counts[c.speaker] ** (config.balance - 1.0) for c in own])
    still = _share([c for c in clips if c.silent], share, config.batch)
    reenactable: list[ClipInfo] = []
    if config.reenacted > 0:
        able = can_speak(cache.landmarks[[c.start for c in still]])
        reenactable = [c for c, can in zip(still, able, strict=True) if can]
    return ClipPool(own, weights / weights.sum(), still, reenactable, speakers_of(clips))


def _share(clips: list[ClipInfo], share: tuple[int, int], least: int) -> list[ClipInfo]:
    number, count = share
    if count == 1 or len(clips) // count < least:
        return clips
    return sorted(clips, key=lambda clip: clip.speaker)[number::count]


def sample_batch(
    cache: Cache, pool: ClipPool, spec: SpeechSpec, config: SampleConfig, seed: tuple[int, ...]
) -> RawBatch:
    """Sample the batch of this seed; the same arguments give the same bits."""
    rng = np.random.default_rng(seed)
    sampler = _Sampler(cache, spec, config, rng)
    samples = []
    for index in rng.choice(len(pool.speaking), config.batch, p=pool.chances):
        clip = pool.speaking[index]
        if pool.reenactable and rng.random() < config.reenacted:
            portrait = pool.reenactable[rng.integers(len(pool.reenactable))]
            samples.append(sampler.speaking(clip, portrait))
        elif pool.still and rng.random() < config.silent:
            samples.append(sampler.still(pool.still[rng.integers(len(pool.still))]))
        else:
            samples.append(sampler.speaking(clip))
    speakers = [pool.speakers.index(s.speaker) if s.speaker else -1 for s in samples]
    return RawBatch(
        torch.from_numpy(np.stack([s.frames for s in samples])),
        torch.from_numpy(np.stack([s.mesh for s in samples])),
        config.frames,
        torch.stack([s.speech for s in samples]),
        torch.tensor([s.silent for s in samples]),
        torch.tensor([s.word for s in samples]),
        torch.tensor([s.span for s in samples]),
        torch.tensor(speakers),
    )


class _Sample(NamedTuple):
    """One row of a `RawBatch`. speaker: "" for a still or reenacted portrait."""

    frames: NDArray[np.uint8]
    mesh: NDArray[np.float32]
    speech: Tensor
    silent: bool
    word: int
    span: tuple[int, int]
    speaker: str


@dataclass(frozen=True)
class _Sampler:
    """Draws the samples of a batch, one after the other, from the batch's generator."""

    cache: Cache
    spec: SpeechSpec
    config: SampleConfig
    rng: np.random.Generator

    def speaking(self, clip: ClipInfo, portrait: ClipInfo | None = None) -> _Sample:
        """Sample frames in a row of a clip and its speech.

        portrait: a still portrait, reenacted by the clip, whose face replaces the clip's.
        """
        config, count = self.config, self.config.frames
        speed = 1.0  # meshes can be interpolated between frames, pictures cannot
        if not config.pictures:
            speed = 1 + config.augment.speed * self.rng.uniform(-1, 1)
            speed = min(speed, (clip.frames - 1) / count)
        first = int(self.rng.integers(0, clip.frames - int(np.ceil((count - 1) * speed))))
        times = first + np.arange(count) * speed
        outside = _outside(clip, times)
        identity = self._identity_frame(clip, times, outside)
        others = self.rng.choice(outside, config.others)
        rows = np.concatenate([[identity, max(0, first - 1)], times, others])
        frames, mesh = self._faces(clip, rows, portrait)
        speech = self._speech_at(clip, first, speed)
        if portrait is not None:  # reenacted lips may not be readable
            return _Sample(frames, mesh, speech, False, -1, (0, count), "")
        word, span = self._word(clip, first, speed)
        return _Sample(frames, mesh, speech, False, word, span, clip.speaker)

    def still(self, clip: ClipInfo) -> _Sample:
        """Sample a portrait in silence: quiet noise in, the same picture out."""
        count, rng = self.config.frames, self.rng
        frames, mesh = self._faces(clip, np.zeros(2 + count + self.config.others))
        noise = torch.from_numpy(rng.standard_normal(self._samples)).float()
        speech = self._speech(noise * 10 ** rng.uniform(-6, -2.5))
        return _Sample(frames, mesh, speech, True, -1, (0, count), "")

    def _identity_frame(
        self, clip: ClipInfo, times: NDArray[np.floating[Any]], outside: NDArray[np.int64]
    ) -> int:
        """Choose a frame outside the sampled times as the identity picture.

        With probability 0.5 its lips are nearly closed, as in portraits. Otherwise it is, of three
        random frames, the one whose mouth differs most from the sampled ones.
        """
        if self.rng.random() < 0.5:
            order = outside[np.argsort(self.cache.aperture(clip)[outside])]
            return int(order[self.rng.integers(max(1, len(order) // 4))])
        drawn = self.rng.choice(outside, 3)
        lips = self.cache.landmarks[clip.rows, LIPS]
        distance = np.abs(lips[drawn] - lips[times.astype(int)].mean(0)).sum((1, 2))
        return int(drawn[int(distance.argmax())])

    def _faces(
        self, clip: ClipInfo, rows: NDArray[np.floating[Any]], portrait: ClipInfo | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return frames and meshes at these (fractional) times of the clip, augmented alike.

        portrait: with one, its own picture comes first, then it moves as the clip's further rows.
        """
        cache, pictures = self.cache, self.config.pictures
        low = rows.astype(int)
        part = (rows - low)[:, None, None]
        meshes = cache.mesh[clip.rows]
        mesh = meshes[low] * (1 - part) + meshes[np.minimum(low + 1, len(meshes) - 1)] * part
        frames = np.zeros((len(rows), 8, 8, 3), np.uint8)
        if pictures:
            frames = cache.frames[clip.start + low]
        if portrait is not None:
            neutral = closed_mouth(cache.landmarks[clip.rows])
            own, driver = cache.mesh[portrait.start], mesh[1:, IBUG]
            if pictures:
                picture = cache.frames[portrait.start]
                moving, moved = animate(picture, own, frames[1:], driver, neutral)
                frames = np.concatenate([picture[None], moving])
            else:
                moved = move_mesh(own, move_landmarks(own[IBUG], driver, neutral))
            mesh = np.concatenate([own[None], moved])
        return augment_faces(frames, mesh, self.rng, self.config.augment)

    @property
    def _samples(self) -> int:
        """Return the number of samples that the windows of all frames need."""
        return (self.config.frames - 1) * SAMPLES_PER_FRAME + self.spec.samples

    def _speech_at(self, clip: ClipInfo, first: int, speed: float) -> Tensor:
        """Return the windows of the frames from `first`, a little early or late."""
        shift = int(self.rng.uniform(-1, 1) * self.config.augment.shift * SAMPLE_RATE)
        middle = (first + 0.5) * SAMPLES_PER_FRAME
        begin = int(middle + speed * (self.spec.first_sample - SAMPLES_PER_FRAME / 2)) + shift
        samples = self.cache.samples(clip, begin, int(np.ceil(self._samples * speed)) + 1)
        if speed == 1.0:
            return self._speech(samples[: self._samples])
        place = torch.arange(self._samples) * speed
        low = place.floor().long().clamp(max=len(samples) - 2)
        return self._speech(torch.lerp(samples[low], samples[low + 1], (place - low).float()))

    def _speech(self, samples: Tensor) -> Tensor:
        """Return augmented windows (frames, hops, coefficients) of samples (N,)."""
        if not self.config.sound:
            return torch.zeros(self.config.frames, self.spec.hops, self.spec.coefficients)
        hops = augment_speech(samples, self.spec, self.rng, self.config.augment)
        return frame_windows(hops, self.spec)

    def _word(self, clip: ClipInfo, first: int, speed: float) -> tuple[int, tuple[int, int]]:
        """Return the number of one of the clip's words within the sample, and its frames there.

        Only words that readers know count; (-1, (0, frames)) where there is none.
        """
        known, frames = self.cache.word_index, self.config.frames
        found = []
        for word, start, end in clip.words:
            begin, stop = round(start * FPS), max(round(end * FPS), round(start * FPS) + 1)
            span = (round((begin - first) / speed), round((stop - first) / speed))
            if word in known and span[0] >= 0 and span[1] <= frames:
                found.append((known[word], span))
        return found[int(self.rng.integers(len(found)))] if found else (-1, (0, frames))


def _outside(clip: ClipInfo, times: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Return the clip's frames that are not near these times; its ends, if there are none."""
    near = np.arange(int(times[0]) - 6, int(times[-1]) + 7)
    others = np.setdiff1d(np.arange(clip.frames), near)
    return others if len(others) else np.array([0, clip.frames - 1])


def prefetch(make: Callable[[int], Any], first: int, last: int, workers: int = 0) -> Iterator[Any]:
    """Yield make(step) for step in [first, last), in order, computed in advance.

    workers: processes that compute, two steps ahead each, and to which `make` is pickled; 0: a
    thread. Each computes with one thread, so results are the same to the bit for all settings.
    Raises OutputError when a process dies.
    """
    ahead, pool = AHEAD * max(1, workers), _pool(make, workers)
    work = _made if workers else make
    waiting: deque[Future[Any]] = deque()
    try:
        for step in range(first, last):
            for further in range(step + len(waiting), min(step + ahead, last)):
                waiting.append(pool.submit(work, further))
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise OutputError(
            "a process that drew batches died; out of memory? Try fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(make: Callable[[int], Any], workers: int) -> Executor:
    if workers == 0:
        return ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
    return process_pool(workers, _begin, make)


_makes: list[Callable[[int], Any]] = []  # of a worker process: its one function


def _begin(make: Callable[[int], Any]) -> None:
    """Start a worker that ignores SIGTERM: the training process needs batches until it stops."""
    start_worker()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _makes.append(make)


def _made(step: int) -> Any:
    return _makes[0](step)
