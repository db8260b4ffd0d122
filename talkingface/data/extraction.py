"""Extraction of clips from recordings: track and crop faces, fit the sound, drop unfit clips."""

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
from talkingface.data.sources.recording import identity
from talkingface.errors import NoFaceFound, TalkingFaceError, UnreadableMedia
from talkingface.geometry import CropSpec
from talkingface.types import Picture

SEGMENT = 250  # frames: longer recordings are cut, at a pause
FEWEST_FRAMES = 25
_DETAIL = 300  # characters of an unexpected error
_PAUSE = 5  # frames: the length over which a cut looks for the quietest sound


@dataclass(frozen=True)
class ClipExtraction:
    """Settings of the extraction.

    natural_pose: one crop per clip. label: reads a label file. packed: clips are returned as the
    members of a shard. So processes exchange little data, and the pictures of an hour's recording
    are not held in memory.
    """

    spec: CropSpec = field(default_factory=CropSpec)
    natural_pose: bool = False
    filters: Filters = field(default_factory=Filters)
    label: Callable[[Recording], Recording] = identity
    packed: bool = False


@dataclass(frozen=True)
class ExtractedClip:
    """The result for a part of a recording. clip: None where it was dropped."""

    outcome: Outcome
    clip: Clip | Packed | None = None

    def packed(self) -> ExtractedClip:
        """Return the result with the clip as the members of a shard."""
        return ExtractedClip(self.outcome, pack(self.clip)) if isinstance(self.clip, Clip) else self


def clips_of(recording: Recording, options: ClipExtraction) -> list[ExtractedClip]:
    """Extract the clips of a recording, with reasons for those that are dropped.

    Recordings of over 250 frames are cut. An unexpected error, lack of memory too, drops the
    recording, so the others go on. Raises TalkingFaceError for errors that concern more than this
    recording.
    """
    whole = Outcome(recording.key, recording.speaker, recording.split, KEPT)

    def dropped(reason: str, detail: str = "") -> list[ExtractedClip]:
        made = whole.dropped(Drop(reason), recording.path)
        size = bytes_of(recording) if reason == limits.UNREADABLE else 0
        return [ExtractedClip(replace(made, detail=detail, size=size))]

    try:
        if recording.still:
            still = _still(recording, options, whole)
            return [still.packed() if options.packed else still]
        recording = options.label(recording)
        sound = audio.load(recording.sound_file).numpy()
        if not sound.any():
            return dropped(limits.NO_SOUND)
        return list(_segments(recording, video.read_frames(recording.path), sound, options))
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
    """Return the size in bytes of the files of a recording that exist."""
    paths = {recording.path, recording.sound_file, recording.labels}
    return sum(path.stat().st_size for path in paths if path is not None and path.is_file())


def _is_mute(recording: Recording) -> bool:
    try:
        return not recording.still and not video.probe(recording.sound_file).has_audio
    except UnreadableMedia:
        return False


def _still(recording: Recording, options: ClipExtraction, whole: Outcome) -> ExtractedClip:
    """Extract a picture as a silent clip of one frame; drop it when its face is turned away."""
    image = picture.read(recording.path)
    face = faces.choose_face(image, name=recording.path.name)
    angles = dict(zip(("yaw", "pitch", "roll"), faces.pose(face.mesh), strict=True))
    whole = replace(whole, frames=1, measures=_rounded(angles))
    if (drop := limits.check(options.filters, angles)) is not None:
        return ExtractedClip(whole.dropped(drop, recording.path))
    aligned = faces.align(image, face, options.spec)
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
    return ExtractedClip(whole, clip)


def _segments(
    recording: Recording,
    frames: Iterator[Picture],
    sound: NDArray[np.float32],
    options: ClipExtraction,
) -> Iterator[ExtractedClip]:
    number, first = 0, 0
    while part := list(itertools.islice(frames, segment_length(sound, first))):
        key = recording.key if number == 0 else f"{recording.key}_{number}"
        made = _segment(recording, key, part, first, sound, options)
        yield made.packed() if options.packed else made
        number, first = number + 1, first + len(part)


def segment_length(sound: NDArray[np.float32], first: int) -> int:
    """Return the length of the segment that begins with frame `first`, SEGMENT frames at most.

    sound: (N,) at 16 kHz, of the whole recording. The cut is where the sound is quietest over
    200 ms, in the second half of the longest possible segment.
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
    options: ClipExtraction,
) -> ExtractedClip:
    """Extract one clip, or give the reason why not."""
    measures: dict[str, float] = {}
    made = _clip(recording, key, frames, first, sound, options, measures)
    outcome = Outcome(key, recording.speaker, recording.split, KEPT, len(frames))
    outcome = replace(outcome, measures=_rounded(measures))
    if isinstance(made, Drop):
        return ExtractedClip(outcome.dropped(made, recording.path, first))
    return ExtractedClip(replace(outcome, moved=made.info.get("moved", 0)), made)


def _clip(
    recording: Recording,
    key: str,
    frames: list[Picture],
    first: int,
    sound: NDArray[np.float32],
    options: ClipExtraction,
    measures: dict[str, float],
) -> Clip | Drop:
    """Build the clip of these frames, and add to `measures` what decides whether it is kept."""
    count, filters = len(frames), options.filters
    if count < FEWEST_FRAMES:
        return Drop(limits.SHORT, "frames", count, FEWEST_FRAMES)
    own = sound[first * SAMPLES_PER_FRAME :][: count * SAMPLES_PER_FRAME]
    spoken = limits.speech_activity(own)
    measures |= {"speech": float(spoken.mean()) if len(spoken) else 0.0, "snr": limits.snr(own)}
    if (drop := limits.check(filters, measures)) is not None:
        return drop
    track = _tracked(frames, options, measures)
    if isinstance(track, Drop):
        return track
    late = _lateness(filters, track, _part_of(sound, first, count), measures)
    if isinstance(late, Drop):
        return late
    begin = first - late  # the video frame at which its sound and words begin
    phones = words_within(recording.phones, begin / FPS, count / FPS)
    facts: dict[str, Any] = {"phones": phones} if phones else {}
    facts |= {"found": round(measures["found"], 3), "snr": round(measures["snr"], 1)}
    facts |= {"natural_pose": options.natural_pose} | ({"moved": late} if late else {})
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
        info=_info(recording, limits.angles(track)) | facts,
    )


def _tracked(
    frames: list[Picture], options: ClipExtraction, measures: dict[str, float]
) -> faces.Track | Drop:
    """Track the face through the frames and add to `measures`, or return why it is dropped."""
    try:
        track = faces.track(frames, options.spec, options.natural_pose)
    except NoFaceFound:
        return Drop(limits.NO_FACE, "found", 0.0, options.filters.found)
    measures |= {"found": float(track.found.mean()), **limits.angles(track)}
    measures |= {"eyes": limits.eye_distance(track), "cut": limits.cut_jump(frames)}
    drop = limits.check(options.filters, measures)
    if drop is None and options.filters.others is not None:
        measures["others"] = limits.other_faces(frames, measures["eyes"])
        drop = limits.check(options.filters, measures)
    return drop or track


def _lateness(
    filters: Filters, track: faces.Track, sound: NDArray[np.float32], measures: dict[str, float]
) -> int | Drop:
    """Return the frames by which to delay the sound (0: none), or a drop, as the filters say."""
    if filters.offset is None:
        return 0
    found = limits.lip_offset(filters, track, sound)
    if np.isnan(found.offset):
        return 0
    measures |= {"offset": found.offset, "confidence": found.confidence}
    late = int(found.offset)
    sure = limits.is_reliable(filters, found, len(track.crops))
    if filters.action == "keep" or abs(late) <= filters.offset or not sure:
        return 0
    if filters.action == "drop":
        return Drop(limits.ASYNC, "offset", float(late), filters.offset)
    return late


def _part_of(sound: NDArray[np.float32], begin: int, frames: int) -> NDArray[np.float32]:
    """Return the samples of so many frames from frame `begin`; silence outside the recording."""
    start, stop = begin * SAMPLES_PER_FRAME, (begin + frames) * SAMPLES_PER_FRAME
    inside = sound[max(0, start) : max(0, stop)]
    before = min(frames * SAMPLES_PER_FRAME, max(0, -start))
    return np.pad(inside, (before, frames * SAMPLES_PER_FRAME - before - len(inside)))


def _info(recording: Recording, angles: dict[str, float]) -> dict[str, Any]:
    rounded = {name: round(angle, 1) for name, angle in angles.items()}
    return {**recording.facts, **rounded, "source": recording.path.name}


def _rounded(measures: dict[str, float]) -> dict[str, float]:
    return {name: round(float(value), 3) for name, value in measures.items()}


def words_within(words: tuple[Word, ...], start: float, seconds: float) -> tuple[Word, ...]:
    """Return the words that lie wholly in a part, with times from its start."""
    end = start + seconds
    return tuple((w, a - start, b - start) for w, a, b in words if start <= a and b <= end)
