"""From a recording to clips: faces tracked and cropped, sound fitted, what is unfit dropped."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from talkingface import audio, faces, picture, video
from talkingface.audio import FPS, SAMPLES_PER_FRAME
from talkingface.data import filters as limits
from talkingface.data.clip import Clip, Word, fit_sound
from talkingface.data.filters import KEPT, Drop, Filters
from talkingface.data.report import Outcome
from talkingface.data.shards import Packed, pack
from talkingface.data.sources import Recording
from talkingface.data.sources.recording import as_it_is
from talkingface.errors import NoFaceFound, TalkingFaceError, UnreadableMedia
from talkingface.geometry import CropSpec, Picture

SEGMENT = 250  # frames: longer recordings are cut, at a pause
FEWEST_FRAMES = 25
_DETAIL = 300  # characters of an error that nobody foresaw
_PAUSE = 5  # frames: over so many the sound is quietest where a recording is cut


@dataclass(frozen=True)
class Making:
    """How clips are made. natural_pose: one crop per clip. label: reads a label file. packed: they
    come as the members of a shard, so that little is sent from process to process and an hour's
    recording is not held in memory as pictures."""

    spec: CropSpec = field(default_factory=CropSpec)
    natural_pose: bool = False
    filters: Filters = field(default_factory=Filters)
    label: Callable[[Recording], Recording] = as_it_is
    packed: bool = False


@dataclass(frozen=True)
class Made:
    """What a part of a recording came to; clip: None where it was dropped."""

    outcome: Outcome
    clip: Clip | Packed | None = None

    def packed(self) -> Made:
        """The same, its clip as the members of a shard."""
        return Made(self.outcome, pack(self.clip)) if isinstance(self.clip, Clip) else self


def clips_of(recording: Recording, making: Making) -> list[Made]:
    """The clips of a recording, or why there is none; recordings of over 250 frames are cut.

    An error that nobody foresaw, lack of memory too, is such a reason: the others go on. Raises
    what is wrong with more than this recording (TalkingFaceError).
    """
    whole = Outcome(recording.key, recording.speaker, recording.split, KEPT)

    def dropped(reason: str, detail: str = "") -> list[Made]:
        made = whole.dropped(Drop(reason), recording.path)
        size = bytes_of(recording) if reason == limits.UNREADABLE else 0
        return [Made(replace(made, detail=detail, size=size))]

    try:
        if recording.still:
            still = _still(recording, making, whole)
            return [still.packed() if making.packed else still]
        recording = making.label(recording)
        sound = audio.load(recording.heard_in).numpy()
        if not sound.any():
            return dropped(limits.NO_SOUND)
        return list(_segments(recording, video.read_frames(recording.path), sound, making))
    except NoFaceFound:
        return dropped(limits.NO_FACE)
    except UnreadableMedia as error:
        mute = _is_mute(recording)
        return dropped(limits.NO_SOUND if mute else limits.UNREADABLE, "" if mute else str(error))
    except TalkingFaceError:
        raise
    except Exception as error:  # noqa: BLE001 one odd file must not stop a corpus
        lines = str(error).splitlines() or [""]
        return dropped(limits.CRASHED, f"{type(error).__name__}: {lines[0]}"[:_DETAIL])


def bytes_of(recording: Recording) -> int:
    """Of the files that a recording is read from, those that are there."""
    paths = {recording.path, recording.heard_in, recording.labels}
    return sum(path.stat().st_size for path in paths if path is not None and path.is_file())


def _is_mute(recording: Recording) -> bool:
    try:
        return not recording.still and not video.probe(recording.heard_in).has_audio
    except UnreadableMedia:
        return False


def _still(recording: Recording, making: Making, whole: Outcome) -> Made:
    """A picture as a silent clip of one frame; dropped when its face is turned away."""
    image = picture.read(recording.path)
    face = faces.choose_face(image, name=recording.path.name)
    angles = dict(zip(("yaw", "pitch", "roll"), faces.pose(face.mesh), strict=True))
    whole = replace(whole, frames=1, measures=_rounded(angles))
    if (drop := limits.check(making.filters, angles)) is not None:
        return Made(whole.dropped(drop, recording.path))
    aligned = faces.align(image, face, making.spec)
    clip = Clip(
        key=recording.key,
        speaker=recording.speaker,
        crops=aligned.crop[None],
        landmarks=aligned.landmarks[None],
        mesh=aligned.mesh[None],
        sound=np.zeros(SAMPLES_PER_FRAME, np.int16),
        split=recording.split,
        silent=True,
        info=_info(recording, angles),
    )
    return Made(whole, clip)


def _segments(
    recording: Recording, frames: Iterator[Picture], sound: NDArray[np.float32], making: Making
) -> Iterator[Made]:
    number, first = 0, 0
    while part := list(itertools.islice(frames, segment_length(sound, first))):
        key = recording.key if number == 0 else f"{recording.key}_{number}"
        made = _segment(recording, key, part, first, sound, making)
        yield made.packed() if making.packed else made
        number, first = number + 1, first + len(part)


def segment_length(sound: NDArray[np.float32], first: int) -> int:
    """Frames of the segment of a recording that begins with frame `first`, SEGMENT at most.

    sound: (N,) at 16 kHz, of the whole recording. A cut is made where it is quietest over 200 ms,
    in the second half of what a segment may be.
    """
    left = -(-len(sound) // SAMPLES_PER_FRAME) - first
    if left <= SEGMENT:
        return SEGMENT
    rest = sound[first * SAMPLES_PER_FRAME :][: (SEGMENT + _PAUSE) * SAMPLES_PER_FRAME]
    whole = len(rest) // SAMPLES_PER_FRAME
    power = np.square(rest[: whole * SAMPLES_PER_FRAME].reshape(whole, -1)).mean(1)
    level = np.convolve(power, np.ones(_PAUSE), "same")
    earliest, latest = SEGMENT // 2, min(SEGMENT, left - FEWEST_FRAMES)
    if latest <= earliest:
        return SEGMENT
    return earliest + int(np.argmin(level[earliest : latest + 1]))


def _segment(
    recording: Recording,
    key: str,
    frames: list[Picture],
    first: int,
    sound: NDArray[np.float32],
    making: Making,
) -> Made:
    """One clip, or the reason why not."""
    filters = making.filters
    outcome = Outcome(key, recording.speaker, recording.split, KEPT, len(frames))
    if len(frames) < FEWEST_FRAMES:
        short = Drop(limits.SHORT, "frames", len(frames), FEWEST_FRAMES)
        return Made(outcome.dropped(short, recording.path, first))
    heard = _part_of(sound, first, len(frames))
    own = sound[first * SAMPLES_PER_FRAME :][: len(frames) * SAMPLES_PER_FRAME]
    spoken = limits.speech_activity(own)
    measures = {"speech": float(spoken.mean()) if len(spoken) else 0.0, "snr": limits.snr(own)}
    drop = limits.check(filters, measures)
    track = None
    if drop is None:
        track, drop = _tracked(frames, making, measures)
    outcome = replace(outcome, measures=_rounded(measures))
    if track is None or drop is not None:
        return Made(outcome.dropped(drop or Drop(limits.NO_FACE), recording.path, first))
    late, drop = _lateness(filters, track, heard, measures)
    outcome = replace(outcome, measures=_rounded(measures), moved=late)
    if drop is not None:
        return Made(outcome.dropped(drop, recording.path, first))
    clip = _clip(recording, key, track, first - late, sound, making)
    return Made(outcome, replace(clip, info=clip.info | _facts(measures, making, late)))


def _tracked(
    frames: list[Picture], making: Making, measures: dict[str, float]
) -> tuple[faces.Track | None, Drop | None]:
    """The face through the frames and, in `measures`, what is said of them; or why not."""
    try:
        track = faces.track(frames, making.spec, making.natural_pose)
    except NoFaceFound:
        return None, Drop(limits.NO_FACE, "found", 0.0, making.filters.found)
    measures |= {"found": float(track.found.mean()), **limits.angles(track)}
    measures |= {"eyes": limits.eye_distance(track), "cut": limits.cut_jump(frames)}
    drop = limits.check(making.filters, measures)
    if drop is None and making.filters.others is not None:
        measures["others"] = limits.other_faces(frames, measures["eyes"])
        drop = limits.check(making.filters, measures)
    return track, drop


def _lateness(
    filters: Filters, track: faces.Track, heard: NDArray[np.float32], measures: dict[str, float]
) -> tuple[int, Drop | None]:
    """Frames that the sound is to be moved later (0: none), or a drop, as the filters say."""
    if filters.offset is None:
        return 0, None
    found = limits.lip_offset(filters, track, heard)
    if np.isnan(found.offset):
        return 0, None
    measures |= {"offset": found.offset, "confidence": found.confidence}
    late = int(found.offset)
    sure = limits.sure_enough(filters, found, len(track.crops))
    if filters.action == "keep" or abs(late) <= filters.offset or not sure:
        return 0, None
    if filters.action == "drop":
        return 0, Drop(limits.ASYNC, "offset", float(late), filters.offset)
    return late, None


def _clip(
    recording: Recording,
    key: str,
    track: faces.Track,
    begin: int,
    sound: NDArray[np.float32],
    making: Making,
) -> Clip:
    """begin: the video frame with whose beginning the clip's sound and words begin."""
    count = len(track.crops)
    phones = words_within(recording.phones, begin / FPS, count / FPS)
    return Clip(
        key=key,
        speaker=recording.speaker,
        crops=track.crops,
        landmarks=track.landmarks,
        mesh=track.mesh,
        sound=fit_sound(_part_of(sound, begin, count), count),
        words=words_within(recording.words, begin / FPS, count / FPS),
        sentence=recording.sentence,
        split=recording.split,
        info=_info(recording, limits.angles(track)) | ({"phones": phones} if phones else {}),
    )


def _part_of(sound: NDArray[np.float32], begin: int, frames: int) -> NDArray[np.float32]:
    """The samples of so many frames from frame `begin`; silence outside the recording."""
    start, stop = begin * SAMPLES_PER_FRAME, (begin + frames) * SAMPLES_PER_FRAME
    inside = sound[max(0, start) : max(0, stop)]
    before = min(frames * SAMPLES_PER_FRAME, max(0, -start))
    return np.pad(inside, (before, frames * SAMPLES_PER_FRAME - before - len(inside)))


def _facts(measures: dict[str, float], making: Making, late: int) -> dict[str, Any]:
    facts: dict[str, Any] = {"found": round(measures["found"], 3)}
    facts |= {"snr": round(measures["snr"], 1), "natural_pose": making.natural_pose}
    return facts | ({"moved": late} if late else {})


def _info(recording: Recording, angles: dict[str, float]) -> dict[str, Any]:
    rounded = {name: round(angle, 1) for name, angle in angles.items()}
    return {**recording.facts, **rounded, "source": recording.path.name}


def _rounded(measures: dict[str, float]) -> dict[str, float]:
    return {name: round(float(value), 3) for name, value in measures.items()}


def words_within(words: tuple[Word, ...], start: float, seconds: float) -> tuple[Word, ...]:
    """The words that lie wholly in a part, with times from its start."""
    end = start + seconds
    return tuple((w, a - start, b - start) for w, a, b in words if start <= a and b <= end)
