"""From a corpus to shards: faces tracked and cropped, sound fitted, bad clips dropped by reason.

Recordings are worked on in parallel and written in order, 64 to a shard. A run that was killed goes
on with the first shard that is not there: beside each shard lies its report, written last.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import multiprocessing
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from talkingface import audio, faces, picture, video
from talkingface.audio import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from talkingface.data import shards, sources
from talkingface.data.clip import Clip, Word, fit_sound
from talkingface.data.sources import STRANGERS, Recording
from talkingface.errors import BadRequest, NoFaceFound, OutputError, UnreadableMedia
from talkingface.geometry import CropSpec, Picture
from talkingface.media import writing

Progress = Callable[[int, int], None]  # recordings done, of how many

KEPT = "kept"
UNREADABLE = "unreadable"
NO_SOUND = "no sound"
NO_FACE = "no face"  # or in less than FOUND_SHARE of the frames
TURNED = "turned away"
NOISE = "noise"
SHORT = "too short"
REASONS = (UNREADABLE, NO_SOUND, NO_FACE, TURNED, NOISE, SHORT)

CLIPS_PER_SHARD = 64  # recordings
SEGMENT = 250  # frames: longer recordings are cut
FEWEST_FRAMES = 25
FOUND_SHARE = 0.9
MOST_YAW, MOST_PITCH, MOST_ROLL = 40.0, 30.0, 40.0  # degrees: beyond, half of the mouth is hidden
LEAST_SNR = 10.0  # dB


@dataclass(frozen=True)
class Outcome:
    """What became of a clip. result: KEPT, or why it was dropped."""

    key: str
    speaker: str
    split: str
    result: str
    frames: int = 0


@dataclass(frozen=True)
class Summary:
    """What a corpus came to. outcomes: of all clips, by name."""

    out: Path
    outcomes: tuple[Outcome, ...]

    @property
    def frames(self) -> int:
        """Frames kept."""
        return sum(outcome.frames for outcome in self.outcomes)

    def splits(self) -> dict[str, int]:
        """How many clips were kept, by split."""
        return dict(Counter(o.split for o in self.outcomes if o.result == KEPT))

    def table(self) -> list[list[str]]:
        """A head, a row per speaker, the sum: clips kept, then those dropped by reason."""
        counts = Counter((o.speaker, o.result) for o in self.outcomes)
        columns = [KEPT, *(r for r in REASONS if any(key[1] == r for key in counts))]
        rows = [["speaker", *columns]]
        speakers = list(dict.fromkeys(outcome.speaker for outcome in self.outcomes))
        rows += [[name, *(str(counts[name, column]) for column in columns)] for name in speakers]
        sums = [sum(counts[name, column] for name in speakers) for column in columns]
        return [*rows, ["all", *map(str, sums)]]


def prepare(
    source: Path,
    out: Path,
    *,
    corpus: str = "grid",
    natural_pose: bool = False,
    jobs: int | None = None,
    held_out: Sequence[str] = STRANGERS,
    portraits: Path | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Turn the corpus in `source` into shards in the folder `out`.

    corpus: a name of `sources.CORPORA`. natural_pose: one crop per clip, the head moves in it.
    jobs: processes, as many as cores by default. held_out: speakers kept from training. portraits:
    a folder of still pictures to add. Run again it goes on where it stopped, or does nothing.
    Raises BadRequest (nothing to prepare, or `out` holds something else), OutputError.
    """
    if corpus not in sources.CORPORA:
        known = ", ".join(sources.CORPORA)
        raise BadRequest(f"corpus {corpus!r} is unknown; expected one of: {known}")
    recordings = sources.CORPORA[corpus](source, held_out)
    if portraits is not None:
        recordings += sources.portraits(portraits)
    _check_keys(recordings)
    work = partial(clips_of, spec=CropSpec(), natural_pose=natural_pose)
    with _locked(out):
        _check_plan(out, recordings, {"corpus": corpus, "natural_pose": natural_pose})
        groups = _Groups(out, recordings, progress)
        todo = [recording for group in groups.todo for recording in group]
        with _pool(min(jobs or os.cpu_count() or 1, len(todo))) as pool:
            results = _in_order(pool, work, todo)
            for number, group in zip(groups.numbers, groups.todo, strict=True):
                groups.write(number, itertools.islice(results, len(group)))
        return Summary(out, groups.outcomes())


class _Groups:
    """The recordings of each shard, and which shards are still to be written."""

    def __init__(self, out: Path, recordings: list[Recording], progress: Progress | None) -> None:
        self._out, self._progress = out, progress
        starts = range(0, len(recordings), CLIPS_PER_SHARD)
        groups = [recordings[start : start + CLIPS_PER_SHARD] for start in starts]
        self._count = len(groups)
        self.numbers = [n for n in range(len(groups)) if not self._report(n).is_file()]
        self.todo = [groups[number] for number in self.numbers]
        self._total = len(recordings)
        self._done = self._total - sum(map(len, self.todo))
        self._tell(0)

    def _report(self, number: int) -> Path:
        return self._out / f"shard-{number:05d}.json"

    def _tell(self, more: int) -> None:
        self._done += more
        if self._progress is not None:
            self._progress(self._done, self._total)

    def write(self, number: int, results: Iterator[list[Clip | Outcome]]) -> None:
        """One shard and, when it is whole, its report."""
        outcomes: list[Outcome] = []

        def kept() -> Iterator[Clip]:
            for result in results:
                for made in result:
                    outcomes.append(_outcome(made))
                    if isinstance(made, Clip):
                        yield made
                self._tell(1)

        report = self._report(number)
        shards.write(report.with_suffix(".tar"), kept())
        _replace(report, json.dumps([asdict(outcome) for outcome in outcomes], indent=0))

    def outcomes(self) -> tuple[Outcome, ...]:
        """Of all recordings, from the reports."""
        reports = [json.loads(self._report(n).read_text()) for n in range(self._count)]
        return tuple(Outcome(**row) for report in reports for row in report)


def _outcome(made: Clip | Outcome) -> Outcome:
    if isinstance(made, Outcome):
        return made
    return Outcome(made.key, made.speaker, made.split, KEPT, len(made.crops))


def _check_keys(recordings: list[Recording]) -> None:
    seen: dict[str, Path] = {}
    for recording in recordings:
        if recording.key in seen:
            raise BadRequest(
                f"{recording.path}: gives the clip {recording.key}, as {seen[recording.key]} does; "
                "rename or remove one"
            )
        seen[recording.key] = recording.path


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """The folder `out`, made where it is missing, for this process alone."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file; give the name of a folder")
    with writing(out, OSError):
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"{out}: another process is writing shards here; wait") from error
        yield


def _check_plan(out: Path, recordings: list[Recording], settings: dict[str, Any]) -> None:
    """Remember what the shards are of; refuse to mix two corpora or options in one folder."""
    rows = [
        (r.key, r.path.name, r.path.stat().st_size, r.split, r.sentence, r.words)
        for r in recordings
    ]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    crop = asdict(CropSpec())
    counts = {"recordings": len(rows), "per_shard": CLIPS_PER_SHARD}
    facts = {"version": shards.VERSION, **settings, "crop": crop, **counts}
    plan = json.dumps({**facts, "sha256": digest}, indent=1)
    path = out / "plan.json"
    if path.is_file() and path.read_text() != plan:
        raise BadRequest(
            f"{out}: holds shards of other recordings, splits or options (see {path.name}); give "
            "an empty folder, or remove it"
        )
    if not path.is_file() and any(out.glob(shards.PATTERN)):
        raise BadRequest(f"{out}: holds shards, but no {path.name}; give an empty folder")
    _replace(path, plan)


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    with writing(path, OSError):
        part.write_text(text)
        part.replace(path)


@contextmanager
def _pool(jobs: int) -> Iterator[Executor | None]:
    """Processes of one thread each; None for one job, which runs here, on one thread as well."""
    if jobs > 1:
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        with ProcessPoolExecutor(jobs, mp_context=context, initializer=start_worker) as pool:
            try:
                yield pool
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield None
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def start_worker() -> None:
    """Begin a process of a pool: one thread, and an end when its parent is gone."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:  # killed hard, the parent cannot end its workers

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()


def _in_order(
    pool: Executor | None,
    work: Callable[[Recording], list[Clip | Outcome]],
    recordings: list[Recording],
) -> Iterator[list[Clip | Outcome]]:
    """work(recording) of each, in order; a few are computed ahead, so that memory stays bounded."""
    if pool is None:
        yield from map(work, recordings)
        return
    waiting: deque[tuple[Recording, Future[list[Clip | Outcome]]]] = deque()
    source = iter(recordings)
    ahead = 2 * (os.cpu_count() or 1) + 2
    while True:
        for recording in itertools.islice(source, ahead - len(waiting)):
            waiting.append((recording, pool.submit(work, recording)))
        if not waiting:
            return
        recording, future = waiting.popleft()
        try:
            result = future.result()
        except BrokenProcessPool as error:
            raise OutputError(
                f"{recording.path}: a process died at or near this file (out of memory?); run the "
                "same command again, with fewer --jobs"
            ) from error
        yield result


def clips_of(recording: Recording, spec: CropSpec, natural_pose: bool) -> list[Clip | Outcome]:
    """The clips of a recording, or why there is none; recordings of over 250 frames are cut."""
    dropped = partial(Outcome, recording.key, recording.speaker, recording.split)
    try:
        if recording.still:
            return [_still(recording, spec) or dropped(TURNED)]
        sound = audio.load(recording.path).numpy()
        if not sound.any():
            return [dropped(NO_SOUND)]
        frames = video.read_frames(recording.path)
        return _segments(recording, frames, sound, spec, natural_pose)
    except NoFaceFound:
        return [dropped(NO_FACE)]
    except UnreadableMedia:
        return [dropped(NO_SOUND if _is_mute(recording) else UNREADABLE)]


def _is_mute(recording: Recording) -> bool:
    try:
        return not recording.still and not video.probe(recording.path).has_audio
    except UnreadableMedia:
        return False


def _still(recording: Recording, spec: CropSpec) -> Clip | None:
    """A picture as a silent clip of one frame; None when its face is turned away."""
    image = picture.read(recording.path)
    face = faces.choose_face(image, name=recording.path.name)
    angles = faces.pose(face.mesh)
    if _turned(*angles):
        return None
    aligned = faces.align(image, face, spec)
    return Clip(
        key=recording.key,
        speaker=recording.speaker,
        crops=aligned.crop[None],
        landmarks=aligned.landmarks[None],
        sound=np.zeros(SAMPLES_PER_FRAME, np.int16),
        split=recording.split,
        silent=True,
        info=_info(recording, angles),
    )


def _segments(
    recording: Recording,
    frames: Iterator[Picture],
    sound: NDArray[np.float32],
    spec: CropSpec,
    natural_pose: bool,
) -> list[Clip | Outcome]:
    made: list[Clip | Outcome] = []
    part = list(itertools.islice(frames, SEGMENT))
    while part:
        number = len(made)
        key = recording.key if number == 0 else f"{recording.key}_{number}"
        heard = sound[number * SEGMENT * SAMPLES_PER_FRAME :][: len(part) * SAMPLES_PER_FRAME]
        words = _words_within(recording.words, number * SEGMENT / FPS, len(part) / FPS)
        got = _segment(recording, key, part, heard, words, spec, natural_pose)
        dropped = partial(Outcome, key, recording.speaker, recording.split)
        made.append(dropped(got) if isinstance(got, str) else got)
        part = list(itertools.islice(frames, SEGMENT))
    return made


def _segment(
    recording: Recording,
    key: str,
    frames: list[Picture],
    sound: NDArray[np.float32],
    words: tuple[Word, ...],
    spec: CropSpec,
    natural_pose: bool,
) -> Clip | str:
    """One clip, or the reason why not."""
    if len(frames) < FEWEST_FRAMES:
        return SHORT
    heard = snr(sound)
    if heard < LEAST_SNR:
        return NOISE
    try:
        track = faces.track(frames, spec, natural_pose)
    except NoFaceFound:
        return NO_FACE
    if track.found.mean() < FOUND_SHARE:
        return NO_FACE
    angles = tuple(float(np.median(angle)) for angle in (track.yaw, track.pitch, track.roll))
    if _turned(*angles):
        return TURNED
    info = _info(recording, angles)
    info["found"] = round(float(track.found.mean()), 3)
    info |= {"snr": round(heard, 1), "natural_pose": natural_pose}
    return Clip(
        key=key,
        speaker=recording.speaker,
        crops=track.crops,
        landmarks=track.landmarks,
        sound=fit_sound(sound, len(frames)),
        words=words,
        sentence=recording.sentence,
        split=recording.split,
        info=info,
    )


def _info(recording: Recording, angles: Sequence[float]) -> dict[str, Any]:
    names = ("yaw", "pitch", "roll")
    rounded = {name: round(angle, 1) for name, angle in zip(names, angles, strict=True)}
    return {**rounded, "source": recording.path.name}


def _turned(yaw: float, pitch: float, roll: float) -> bool:
    return abs(yaw) > MOST_YAW or abs(pitch) > MOST_PITCH or abs(roll) > MOST_ROLL


def _words_within(words: tuple[Word, ...], start: float, seconds: float) -> tuple[Word, ...]:
    """The words that lie wholly in a part, with times from its start."""
    end = start + seconds
    return tuple((w, a - start, b - start) for w, a, b in words if start <= a and b <= end)


def snr(sound: NDArray[np.float32]) -> float:
    """Signal to noise in dB, by guess: the loud tenth of 20 ms pieces over the quiet tenth.

    sound: (N,) samples at 16 kHz in [-1, 1]. At most 100; 0 for a sound as loud throughout.
    """
    piece = SAMPLE_RATE // 50
    count = len(sound) // piece
    if count == 0:
        return 0.0
    power = np.square(sound[: count * piece].reshape(count, piece)).mean(1)
    quiet, loud = np.quantile(power, [0.1, 0.9])
    return float(np.clip(10 * np.log10((loud + 1e-12) / (quiet + 1e-12)), 0, 100))
