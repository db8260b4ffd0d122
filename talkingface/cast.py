"""The people who speak in a video: the face of each, and the sound that it speaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from talkingface import turns
from talkingface.errors import BadRequest
from talkingface.mixed_sound import MixedSound
from talkingface.sound_input import AudioInput
from talkingface.streaming import Speech
from talkingface.turns import Turn
from talkingface.types import FaceChoice, PathLike


@dataclass(frozen=True)
class Voice:
    """The sound that one face speaks. spoken: when, seconds; None for all of it."""

    speech: Speech
    spoken: list[tuple[float, float]] | None = None

    def parts(self) -> Iterator[Tensor]:
        """Yield (n,) samples at 16 kHz, silent where the face listens."""
        if self.spoken is None:
            return self.speech.parts()
        return turns.within(self.speech.parts(), self.spoken)


@dataclass(frozen=True)
class Cast:
    """Speakers of a video: the face and the voice of each.

    chosen: the faces, None for those that are chosen by their places (`prepare_group`, and
    `dubbing.tracking.TrackOptions`).
    """

    chosen: list[FaceChoice | None]
    voices: list[Voice]

    @property
    def speeches(self) -> list[Speech]:
        """The recordings, each once."""
        return list({id(voice.speech): voice.speech for voice in self.voices}.values())

    @property
    def seconds(self) -> Fraction:
        """Length of the longest recording."""
        return max(speech.seconds for speech in self.speeches)

    @property
    def notes(self) -> list[str]:
        """Notes on the recordings."""
        return [speech.note for speech in self.speeches if speech.note]

    def sound(self) -> Speech | MixedSound:
        """Return the sound of the video: the one recording, or a mix of several."""
        speeches = self.speeches
        return speeches[0] if len(speeches) == 1 else MixedSound(speeches)


def cast_of(
    audio: Mapping[FaceChoice, AudioInput] | AudioInput,
    turned: PathLike | Sequence[Turn] | None,
    named: Mapping[str, FaceChoice] | None,
    track: int | None,
) -> Cast:
    """Return the speakers of `TalkingFace.converse` or `dub`.

    Raises UnreadableMedia, BadRequest.
    """
    if isinstance(audio, Mapping):
        if turned is not None or named is not None or track is not None:
            raise BadRequest("turns, names and an audio track belong to one recording of all")
        if not audio:
            raise BadRequest("nobody speaks: give a recording for each face, as {1: 'a.wav'}")
        return Cast(list(audio), [Voice(Speech(sound)) for sound in audio.values()])
    if turned is None:
        raise BadRequest("one recording of several people needs their turns; or give one for each")
    given = turns.read_turns(turned) if isinstance(turned, str | Path) else turned
    return _cast_of_turns(Speech(audio, track), given, named or {})


def _cast_of_turns(speech: Speech, turned: Sequence[Turn], named: Mapping[str, FaceChoice]) -> Cast:
    """Return the speakers of one recording. Raises BadRequest."""
    speakers = turns.names(turned)
    if unknown := [name for name in named if name not in speakers]:
        known = ", ".join(map(str, speakers[:8]))
        raise BadRequest(f"speaker {unknown[0]!r} has no turn; those who have: {known}")
    chosen = [own if isinstance(own, int) else named.get(own) for own in speakers]
    return Cast(chosen, [Voice(speech, turns.spans(turned, own)) for own in speakers])
