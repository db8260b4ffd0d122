"""Models x clips x measures -> results.jsonl -> tables; real video and the still picture beside.

End to end: a model hears a clip's sound, sees one picture, and is compared with the clip. Both
videos are measured alike: landmarks are detected again on the generated and on the real crops.
Pixels are compared where the picture is the clip's own first frame; lips also where it is one of
another recording. `NAME@landmarks` is a row of its own: a model that draws landmarks it is given
gets the clip's real ones in place of what it hears. Every line of results.jsonl has what its row of
a table is computed from.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talkingface import media, video, weights
from talkingface.audio import SAMPLES_PER_FRAME, windows
from talkingface.contract import LANDMARKS, Generated, Generator, LandmarkDriven, Portrait
from talkingface.data.dataset import Cache, ClipInfo, clip_speech
from talkingface.data.shards import open_cache
from talkingface.errors import BadRequest
from talkingface.faces import Tracker
from talkingface.metrics.image import psnr, sharpness, ssim
from talkingface.metrics.lips import (
    Box,
    amplitude_ratio,
    aperture,
    correlation,
    landmark_distance,
    mouth_box,
)
from talkingface.metrics.motion import motion_intensity, warp_error
from talkingface.models.lipreader import GRID_WORDS, LeanLipReader, LipReader, PublishedLipReader
from talkingface.training.reading import word_logits, words_of

Array = NDArray[np.float64]
Floats = NDArray[np.float32]
Frames = NDArray[np.uint8]
Progress = Callable[[int, int], None]  # clips done, clips in all
Identity = Literal["first frame", "another recording"]
IDENTITIES: tuple[Identity, ...] = ("first frame", "another recording")
REAL, STILL = "real", "still"  # rows of every table
FROM_LANDMARKS = "@landmarks"  # ends the name of a row whose model is shown the clip's landmarks
OUTSIDE = 0.5  # of the mask: where less is new colour, the identity's own pixels should stay
CHUNK = 100  # frames per call of a model
SILENCE_EVERY = 5  # one clip in so many is also driven by silence
RESULTS, TABLES = "results.jsonl", "tables.md"


@dataclass(frozen=True)
class Result:
    """One model on one clip: a line of results.jsonl.

    portrait: the identity picture, "clip:frame". metrics: see `_lip_measures`, `_head_measures`,
    `picture_measures`, `_pixel_measures` and `upper_change`; None is undefined (NaN) or infinite.
    aperture, real_aperture: per frame, in interocular distances, None where no face was found.
    words, ranks: the words spoken (their index) and at which place the judge puts each, 1 is best;
    judge: the sha256 of its file.
    """

    model: str
    sha256: str
    clip: str
    speaker: str
    split: str
    identity: Identity
    portrait: str
    metrics: dict[str, float | None]
    aperture: list[float | None]
    real_aperture: list[float | None]
    words: list[int]
    ranks: list[int]
    judge: str


@dataclass(frozen=True)
class Candidate:
    """What is evaluated: a generator, or the real video itself (None).

    driven: the generator is `LandmarkDriven`, sees the clip's own landmarks and hears nothing.
    """

    name: str
    sha256: str
    generator: Generator | None
    driven: bool = False


@dataclass(frozen=True)
class Played:
    """What a model made of a whole clip.

    frames, colour: (T, S, S, 3). mask: (T, S, S) in [0, 1]. landmarks: (T, 68, 2) in pixels, as the
    model predicts them. All but the frames are None where a model has none.
    """

    frames: Frames
    mask: Floats | None
    colour: Frames | None
    landmarks: Array | None


@dataclass(frozen=True)
class Filmed:
    """A clip and its face: frames (T, S, S, 3), landmarks (T, 68, 2) in pixels, NaN if lost."""

    frames: Frames
    landmarks: Array


def detect(frames: Frames) -> Array:
    """The landmarks of a face followed through a clip of crops: (T, 68, 2) pixels, NaN if lost.

    The first frame is looked at twice, so that the tracker's own settling is not taken for motion.
    """
    tracker = Tracker()
    tracker.update(frames[0])
    found = np.full((len(frames), LANDMARKS, 2), np.nan)
    for row, frame in zip(found, frames, strict=True):
        face = tracker.update(frame)
        if face is not None:
            row[:] = face.landmarks
    return found


class Bench:
    """Where candidates are measured: the clips, the judge, and what is known of the real videos."""

    def __init__(
        self,
        cache: Cache,
        judge: LipReader | None = None,
        judge_sha256: str = "",
        detections: Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.cache, self.judge, self.judge_sha256 = cache, judge, judge_sha256
        self.detections, self.device = detections, torch.device(device)
        self.size = int(cache.frames.shape[1])
        self._last: tuple[str, Filmed] | None = None

    def real(self, clip: ClipInfo) -> Filmed:
        """The clip itself; its landmarks are kept in the folder of detections."""
        frames = np.array(self.cache.frames[clip.start : clip.start + clip.frames])
        if self.detections is None:
            return Filmed(frames, detect(frames))
        # the name says which pixels were looked at: another cache's clip is never taken for this
        pixels = hashlib.sha256(frames.tobytes()).hexdigest()[:16]
        path = self.detections / f"{clip.key}-{pixels}.npy"
        if path.exists():
            return Filmed(frames, np.load(path))
        landmarks = detect(frames)
        with media.replacing(path, overwrite=True) as part, media.writing(path, OSError):
            with part.open("wb") as file:
                np.save(file, landmarks)
        return Filmed(frames, landmarks)

    def portrait(self, clip: ClipInfo, identity: Identity) -> ClipInfo | None:
        """The clip whose first frame is the identity picture; None where a speaker has no other.

        "another recording" is the speaker's next clip of the same split, in the order of names.
        """
        if identity == "first frame":
            return clip
        same = [c for c in self.cache.split(clip.split) if c.speaker == clip.speaker]
        order = sorted(same, key=lambda c: c.key)
        following = order[(order.index(clip) + 1) % len(order)]
        return None if following == clip else following

    def generate(
        self,
        generator: Generator,
        picture: ClipInfo,
        clip: ClipInfo,
        silent: bool = False,
        driven: bool = False,
    ) -> Played:
        """The first frame of `picture` speaking the sound of `clip`, or silence.

        driven: drawing the clip's landmarks instead, as they move the face of its first frame: to
        another recording's face (or to the same) their displacements are carried.
        """
        known, spec = self.cache.landmarks, generator.config.speech
        if driven:
            own = known[clip.start : clip.start + clip.frames]
            sequence = torch.from_numpy(known[picture.start] + (own - own[0]))
        elif silent:
            sequence = windows(torch.zeros(clip.frames * SAMPLES_PER_FRAME), spec, clip.frames)
        else:
            sequence = clip_speech(self.cache, clip, spec)
        frame = np.array(self.cache.frames[picture.start])
        return self.play(generator, frame, known[picture.start], sequence, driven)

    def play(
        self,
        generator: Generator,
        picture: Frames,
        landmarks: Floats,
        sequence: Tensor,
        driven: bool = False,
    ) -> Played:
        """One picture (S, S, 3) with its landmarks (68, 2) in [0, 1], through a whole clip.

        sequence: windows of speech (T, hops, coefficients), or with `driven` landmarks (T, 68, 2)
        in [0, 1] to draw. Raises BadRequest when the model makes crops of another size, or cannot.
        """
        side = generator.config.crop.size
        if side != self.size:
            raise BadRequest(
                f"the model makes crops of {side} pixels, the cache has {self.size}: prepare the "
                "corpus for this model"
            )
        if driven and not isinstance(generator, LandmarkDriven):
            raise BadRequest("this model draws no landmarks it is given")
        step = generator.draw if isinstance(generator, LandmarkDriven) and driven else generator
        image, place = video.to_tensor(picture), torch.tensor(landmarks)
        parts, state = [], None
        with torch.inference_mode():
            face = generator.encode(Portrait(image[None], place[None]).to(self.device))
            for part in sequence[None].to(self.device).split(CHUNK, dim=1):
                generated, state = step(face, part, state)
                parts.append(_played(generated, self.size))
        return Played(
            np.concatenate([part.frames for part in parts]),
            _joined([part.mask for part in parts]),
            _joined([part.colour for part in parts]),
            _joined([part.landmarks for part in parts]),
        )

    def measure(
        self, candidate: Candidate, clip: ClipInfo, identity: Identity, silence: bool = False
    ) -> Result | None:
        """One candidate on one clip; None where there is no such identity picture."""
        picture = self.portrait(clip, identity)
        if picture is None:
            return None
        real, generator, driven = self._real(clip), candidate.generator, candidate.driven
        played, made = None, real
        if generator is not None:
            played = self.generate(generator, picture, clip, driven=driven)
            made = Filmed(played.frames, detect(played.frames))
        metrics = _lip_measures(made.landmarks, real.landmarks, self.size)
        if played is not None and played.landmarks is not None and not driven:
            metrics |= _head_measures(played.landmarks, real.landmarks)
        if identity == "first frame":
            metrics |= self._pixels(made.frames, real.frames, clip, played)
        if silence and generator is not None and not driven:
            quiet = detect(self.generate(generator, picture, clip, silent=True).frames)
            metrics["silence"] = amplitude_ratio(aperture(quiet), aperture(made.landmarks))
        words, ranks = self._read(made, clip)
        return Result(
            model=candidate.name,
            sha256=candidate.sha256,
            clip=clip.key,
            speaker=clip.speaker,
            split=clip.split,
            identity=identity,
            portrait=f"{picture.key}:0",
            metrics={name: number(value) for name, value in metrics.items()},
            aperture=[number(value) for value in aperture(made.landmarks)],
            real_aperture=[number(value) for value in aperture(real.landmarks)],
            words=words,
            ranks=ranks,
            judge=self.judge_sha256,
        )

    def _pixels(
        self, made: Frames, real: Frames, clip: ClipInfo, played: Played | None
    ) -> dict[str, float]:
        """What is compared pixel by pixel. Frame 0 is the identity picture and counts nowhere."""
        known = self.cache.landmarks[clip.start : clip.start + clip.frames]
        mouth = mouth_box(known * self.size, self.size)
        mask = None if played is None or played.mask is None else played.mask[1:]
        return {
            **picture_measures(made[1:], real[1:], mouth),
            **_pixel_measures(made[1:], real[1:], mouth),
            "upper_change": upper_change(made[1:], real[0], mask),
        }

    def _real(self, clip: ClipInfo) -> Filmed:
        """Candidates come one after the other on the same clip: it is looked at once."""
        if self._last is None or self._last[0] != clip.key:
            self._last = clip.key, self.real(clip)
        return self._last[1]

    def _read(self, filmed: Filmed, clip: ClipInfo) -> tuple[list[int], list[int]]:
        """The clip's words, and the judge's place for each; a face never found is read last."""
        words = words_of(clip)
        if self.judge is None or not words:
            return [], []
        indices = [word.index for word in words]
        landmarks = _filled(filmed.landmarks)
        if landmarks is None:
            return indices, [len(GRID_WORDS)] * len(indices)
        place = torch.from_numpy(landmarks / self.size).float().to(self.device)
        frames = video.to_tensor(filmed.frames).to(self.device)
        logits = word_logits(self.judge, frames, place, words).cpu().numpy()
        own = logits[np.arange(len(indices)), indices]
        return indices, [int(n) for n in (logits >= own[:, None]).sum(1)]


def _played(generated: Generated, size: int) -> Played:
    """The first sample of a batch, as pictures and pixels."""
    mask, colour, landmarks = generated.mask, generated.colour, generated.landmarks
    return Played(
        video.to_uint8(generated.frames[0]),
        None if mask is None else mask[0, :, 0].float().cpu().numpy(),
        None if colour is None else video.to_uint8(colour[0]),
        None if landmarks is None else landmarks[0].double().cpu().numpy() * size,
    )


def _joined(parts: list[NDArray[Any] | None]) -> NDArray[Any] | None:
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if present else None


def _lip_measures(made: Array, real: Array, size: int) -> dict[str, float]:
    """correlation, amplitude: of the inner lips' aperture; lmd_*: of the mouth's landmarks (pixels
    at 128, interocular distances); missed: frames left out because a face was not found."""
    distance = landmark_distance(made, real, size)
    return {
        "correlation": correlation(aperture(made), aperture(real)),
        "amplitude": amplitude_ratio(aperture(made), aperture(real)),
        "lmd_pixels": distance.pixels,
        "lmd_interocular": distance.interocular,
        "missed": float(distance.missed),
    }


def _head_measures(predicted: Array, real: Array) -> dict[str, float]:
    """The landmarks a model predicts, before it draws anything, against the real video's."""
    return {
        "head_correlation": correlation(aperture(predicted), aperture(real)),
        "head_amplitude": amplitude_ratio(aperture(predicted), aperture(real)),
    }


def picture_measures(made: Frames, real: Frames, mouth: Box) -> dict[str, float]:
    """psnr (dB), ssim of two clips (T, S, S, 3), mouth_psnr, mouth_ssim of the mouth's box alone:
    means over frames."""
    pairs = list(zip(made, real, strict=True))
    mouths = list(zip(mouth.cut(made), mouth.cut(real), strict=True))
    return {
        "psnr": _mean_level([psnr(a, b) for a, b in pairs]),
        "ssim": float(np.mean([ssim(a, b) for a, b in pairs])),
        "mouth_psnr": _mean_level([psnr(a, b) for a, b in mouths]),
        "mouth_ssim": float(np.mean([ssim(a, b) for a, b in mouths])),
    }


def _pixel_measures(made: Frames, real: Frames, mouth: Box) -> dict[str, float]:
    """sharpness: of the mouth, relative to the real one; warp_error, motion: of this video."""
    crisp, crisp_real = (np.mean([sharpness(f) for f in mouth.cut(clip)]) for clip in (made, real))
    return {
        "sharpness": float(crisp / crisp_real) if crisp_real > 0 else math.nan,
        "warp_error": warp_error(made),
        "motion": float(motion_intensity(made).mean()),
    }


def upper_change(frames: Frames, picture: Frames, mask: Floats | None = None) -> float:
    """How much of the upper half, where speech moves nothing, is not the identity's own.

    frames: (T, S, S, 3). picture: (S, S, 3), the identity. mask: (T, S, S), how much of each pixel
    is new colour: only where that is below OUTSIDE is compared. Returns the mean absolute
    difference, of 255; NaN where the mask leaves nothing.
    """
    half = len(picture) // 2
    change = np.abs(frames[:, :half].astype(np.int16) - picture[:half]).mean(-1)
    if mask is not None:
        change = change[mask[:, :half] < OUTSIDE]
    return float(change.mean()) if change.size else math.nan


def _mean_level(levels: list[float]) -> float:
    """Mean dB over the frames that differ at all; infinite where none does."""
    finite = [level for level in levels if math.isfinite(level)]
    return float(np.mean(finite)) if finite else math.inf


def _filled(landmarks: Array) -> Array | None:
    """Landmarks with lost frames interpolated; None where no frame has any."""
    found = np.flatnonzero(np.isfinite(landmarks).all((1, 2)))
    if len(found) == 0:
        return None
    times = np.arange(len(landmarks))
    columns = landmarks.reshape(len(landmarks), -1).T
    filled = np.stack([np.interp(times, found, column[found]) for column in columns], axis=1)
    return filled.reshape(landmarks.shape)


def number(value: float) -> float | None:
    """What JSON can say: None for NaN and infinity."""
    return round(float(value), 6) if math.isfinite(value) else None


# --- all of them ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """Everything a worker process needs to know."""

    models: tuple[str, ...]
    cache: Path
    detections: Path
    judge: str | None
    device: str


def evaluate(
    models: Sequence[str | Path],
    cache: Path,
    out: Path,
    *,
    judge: str | Path | None = None,
    splits: Sequence[str] = ("test", "stranger"),
    clips: int | None = None,
    jobs: int = 1,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Result]:
    """Measure models on clips and write `out`/results.jsonl and `out`/tables.md.

    models: names or weights files, with FROM_LANDMARKS at the end for a model that is to draw the
    clip's landmarks; real video and the still picture are always measured too.
    cache: a training cache (see `data.dataset`). judge: a lip reader's weights, one that no
    evaluated generator has learned from; None leaves reading out. clips: at most so many of each
    split, spread evenly. jobs: processes. The same arguments give the same numbers.
    Raises BadRequest, BadShard, BadWeights, UnknownModel, OutputError.
    """
    if jobs < 1 or (clips is not None and clips < 1):
        raise BadRequest(f"jobs is {jobs} and clips {clips}: both must be at least 1")
    names = [REAL, STILL, *(str(model) for model in models)]
    chosen = tuple(dict.fromkeys(names))  # in this order, each once
    detections = out / "detections"
    with media.writing(out, OSError):
        detections.mkdir(parents=True, exist_ok=True)
    plan = Plan(chosen, cache, detections, None if judge is None else str(judge), device)
    _open(plan)  # what cannot be opened is said before the work
    tasks = _tasks(_open(plan)[0].cache, splits, clips)
    results = _run(plan, tasks, jobs, progress)
    write_results(out / RESULTS, results)
    write_text(out / TABLES, tables(results))
    return results


Task = tuple[str, bool]  # a clip's key, and whether it is driven by silence too


def _tasks(cache: Cache, splits: Sequence[str], clips: int | None) -> list[Task]:
    tasks: list[Task] = []
    for split in splits:
        picked = spread(speaking_clips(cache, split), clips)
        tasks += [(clip.key, n % SILENCE_EVERY == 0) for n, clip in enumerate(picked)]
    return tasks


def speaking_clips(cache: Cache, split: str) -> list[ClipInfo]:
    """The clips of a split in which somebody speaks, by name. Raises BadRequest for none."""
    speaking = sorted((c for c in cache.split(split) if not c.silent), key=lambda c: c.key)
    if not speaking:
        known = ", ".join(sorted({c.split for c in cache.clips if not c.silent}))
        raise BadRequest(f"the cache has no clip of split {split!r}; it has {known}")
    return speaking


def spread(clips: Sequence[ClipInfo], most: int | None) -> list[ClipInfo]:
    """At most so many of the clips, evenly from the first to the last."""
    many = len(clips) if most is None else min(most, len(clips))
    return [clips[i] for i in np.linspace(0, len(clips) - 1, many).round().astype(int)]


@lru_cache(maxsize=1)
def _open(plan: Plan) -> tuple[Bench, tuple[Candidate, ...]]:
    """The cache, the judge and the models: opened once per process."""
    judge, sha256 = None, ""
    if plan.judge is not None:
        loaded, info = weights.load_with_info(plan.judge, plan.device)
        if not isinstance(loaded, PublishedLipReader | LeanLipReader):
            raise BadRequest(f"{plan.judge} is a {info.family}, the judge must be a lip reader")
        judge, sha256 = loaded, info.sha256
    bench = Bench(open_cache(plan.cache), judge, sha256, plan.detections, plan.device)
    return bench, tuple(candidate(name, plan.device) for name in plan.models)


def candidate(name: str, device: str = "cpu") -> Candidate:
    """A model by name or weights file, or REAL; with FROM_LANDMARKS at the end, driven by them.

    Raises BadRequest for a model that makes no video, or that draws no landmarks it is given;
    UnknownModel, BadWeights.
    """
    if name == REAL:
        return Candidate(REAL, "", None)
    driven = name.endswith(FROM_LANDMARKS)
    model, info = weights.load_with_info(name.removesuffix(FROM_LANDMARKS), device)
    if not isinstance(model, Generator):
        raise BadRequest(f"{name} is a {info.family}, which makes no video: give a generator")
    if driven and not isinstance(model, LandmarkDriven):
        raise BadRequest(
            f"{name}: a {info.family} draws no landmarks it is given; leave {FROM_LANDMARKS} away, "
            "or give a model that does, as atvg"
        )
    return Candidate(info.name + FROM_LANDMARKS * driven, info.sha256, model, driven)


def _run(plan: Plan, tasks: list[Task], jobs: int, progress: Progress | None) -> list[Result]:
    """Clip by clip, in as many processes as wanted; sorted, so that the file is the same."""
    done: dict[int, list[Result]] = {}

    def finished(index: int, results: list[Result]) -> None:
        done[index] = results
        if progress is not None:
            progress(len(done), len(tasks))

    if jobs == 1:
        for index, task in enumerate(tasks):
            finished(index, _work(plan, task))
    else:
        # one thread each: more only wait for each other. Forked torch can hang, so: spawn
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, spawn, torch.set_num_threads, (1,)) as pool:
            waiting = {pool.submit(_work, plan, task): i for i, task in enumerate(tasks)}
            for future in as_completed(waiting):
                finished(waiting[future], future.result())
    results = [result for index in sorted(done) for result in done[index]]
    rows = [*dict.fromkeys((r.split, r.identity, r.model) for r in results)]
    return sorted(results, key=lambda r: rows.index((r.split, r.identity, r.model)))


def _work(plan: Plan, task: Task) -> list[Result]:
    bench, candidates = _open(plan)
    key, silence = task
    clip = next(c for c in bench.cache.clips if c.key == key)
    results = [
        bench.measure(candidate, clip, identity, silence and identity == "first frame")
        for identity in IDENTITIES
        for candidate in candidates
    ]
    return [result for result in results if result is not None]


def write_results(path: Path, results: Iterable[Result]) -> None:
    """One JSON line per result, whole or not at all."""
    write_lines(path, results)


def write_lines(path: Path, rows: Iterable[Any], overwrite: bool = True) -> None:
    """One JSON line per dataclass, whole or not at all. Raises OutputError."""
    lines = [json.dumps(asdict(row), sort_keys=True, allow_nan=False) for row in rows]
    write_text(path, "".join(f"{line}\n" for line in lines), overwrite)


def read_results(path: Path) -> list[Result]:
    """What `write_results` wrote."""
    return [Result(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def write_text(path: Path, text: str, overwrite: bool = True) -> None:
    """A text file, whole or not at all. Raises OutputError."""
    with media.replacing(path, overwrite) as part, media.writing(path, OSError):
        part.write_text(text, encoding="utf-8")


# --- from results to tables -----------------------------------------------------------------------


def summary(results: Sequence[Result]) -> dict[str, float]:
    """One row of a table from the results of one model.

    Every metric as its mean over the clips where it is defined; `missed` as a sum; correlation and
    amplitude also pooled, over all frames of all clips in one curve; top1, top5 of the judge.
    """
    names = sorted({name for result in results for name in result.metrics})
    row = {name: mean([r.metrics.get(name) for r in results]) for name in names}
    row["missed"] = float(sum(r.metrics.get("missed") or 0 for r in results))
    made = _curve(value for r in results for value in r.aperture)
    real = _curve(value for r in results for value in r.real_aperture)
    row["pooled_correlation"] = correlation(made, real)
    row["pooled_amplitude"] = amplitude_ratio(made, real)
    ranks = [rank for r in results for rank in r.ranks]
    row["words"] = float(len(ranks))
    for n in (1, 5):
        row[f"top{n}"] = mean([float(rank <= n) for rank in ranks])
    row["clips"] = float(len(results))
    return row


def mean(values: Iterable[float | None]) -> float:
    """Of the values that are known; NaN where none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan


def _curve(values: Iterable[float | None]) -> Array:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


Column = tuple[str, str, int]  # heading, key of `summary`, decimals
LIP_COLUMNS: tuple[Column, ...] = (
    ("clips", "clips", 0),
    ("corr.", "correlation", 3),
    ("corr. pooled", "pooled_correlation", 3),
    ("amplitude", "amplitude", 2),
    ("ampl. pooled", "pooled_amplitude", 2),
    ("LMD px", "lmd_pixels", 2),
    ("LMD / eyes", "lmd_interocular", 4),
    ("frames without face", "missed", 0),
    ("silence / speech", "silence", 2),
    ("corr. of its landmarks", "head_correlation", 3),
    ("amplitude of its landmarks", "head_amplitude", 2),
)
PIXEL_COLUMNS: tuple[Column, ...] = (
    ("PSNR dB", "psnr", 2),
    ("SSIM", "ssim", 4),
    ("mouth PSNR dB", "mouth_psnr", 2),
    ("mouth SSIM", "mouth_ssim", 4),
    ("sharpness / real", "sharpness", 2),
    ("warp error", "warp_error", 3),
    ("motion px²", "motion", 4),
    ("upper diff of 255", "upper_change", 2),
)
READING_COLUMNS: tuple[Column, ...] = (
    ("words", "words", 0),
    ("top-1 %", "top1", 1),
    ("top-5 %", "top5", 1),
)


def tables(results: Sequence[Result]) -> str:
    """Markdown: per split lips, pixels and reading; real video, still picture, chance beside."""
    parts = ["# Results\n"]
    for split in dict.fromkeys(r.split for r in results):
        for identity in IDENTITIES:
            own = [r for r in results if (r.split, r.identity) == (split, identity)]
            if own:
                parts += _split_tables(own, f"{split}, identity: {identity}")
    return "\n".join(parts)


def _split_tables(results: list[Result], title: str) -> list[str]:
    rows = _rows(results)
    parts = [f"## {title}\n", table("model", rows, LIP_COLUMNS)]
    speakers = sorted({r.speaker for r in results})
    if len(speakers) > 1:
        each = {
            f"{r.model}, {r.speaker}": summary([o for o in results if (o.model, o.speaker) == key])
            for r in results
            for key in [(r.model, r.speaker)]
        }
        parts.append(table("model, speaker", dict(sorted(each.items())), LIP_COLUMNS))
    if results[0].identity == "first frame":
        parts.append(table("model", rows, PIXEL_COLUMNS))
    if any(r.ranks for r in results):
        chance = {f"top{n}": n / len(GRID_WORDS) for n in (1, 5)}
        percent = {
            name: {**row, "top1": 100 * row["top1"], "top5": 100 * row["top5"]}
            for name, row in {**rows, "chance": {"words": math.nan, **chance}}.items()
        }
        parts.append(table("read by the judge", percent, READING_COLUMNS))
    return parts


def _rows(results: list[Result]) -> dict[str, dict[str, float]]:
    names = dict.fromkeys(r.model for r in results)
    return {name: summary([r for r in results if r.model == name]) for name in names}


def table(first: str, rows: dict[str, dict[str, float]], columns: Sequence[Column]) -> str:
    """Markdown: rows by name, "-" for what is undefined. first: the heading above the names."""
    head = [first, *(heading for heading, _, _ in columns)]
    lines = [head, ["---", *("---:" for _ in columns)]]
    for name, row in rows.items():
        cells = [_cell(row.get(key, math.nan), decimals) for _, key, decimals in columns]
        lines.append([name, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else "-"
