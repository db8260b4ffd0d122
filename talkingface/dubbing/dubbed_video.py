"""A dubbed video. Its source is tracked, drawn and encoded when it is saved, resumably."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from talkingface import media, provenance, sound_writing, stored_tracks, video_writing
from talkingface.cast import Cast
from talkingface.dubbing import coding as codings
from talkingface.dubbing import timeline as timelines
from talkingface.dubbing.coding import DubCoding
from talkingface.dubbing.face import DubbedFace
from talkingface.dubbing.joining import Joined, join
from talkingface.dubbing.passes import Passes
from talkingface.dubbing.timeline import Length
from talkingface.dubbing.track import TrackReport
from talkingface.dubbing.tracking import PredictLips, TrackOptions
from talkingface.dubbing.work_folder import work_folder
from talkingface.errors import BadRequest
from talkingface.generated_video import Progress
from talkingface.models.expression import ExpressionSpace
from talkingface.motion import Motion
from talkingface.output_options import DEFAULT_OUTPUT, OutputKeywords, OutputOptions
from talkingface.stored_tracks import StoredTracks
from talkingface.stored_video import open_stored
from talkingface.types import PathLike
from talkingface.version import __version__

if TYPE_CHECKING:
    from typing_extensions import Unpack

_HEARD = 0.05  # seconds of sound whose loss is worth a note
# Frames that are left as they are, by the reason.
_REASONS = {
    "no_face": "without a face",
    "too_small": "with a face that is too small",
    "turned": "with a face that is turned away",
    "covered": "with a mouth that is covered",
}


def check_output(
    path: PathLike, overwrite: bool = False, options: OutputOptions = DEFAULT_OUTPUT
) -> None:
    """Call before the work starts: raises OutputError, BadRequest when `save` would."""
    if options != options.signature:
        raise BadRequest(
            "a dubbed video is coded as its source: of the options of an output give c2pa, "
            "sign_certificate and sign_key alone"
        )
    codings.require_name(path)
    video_writing.check_output(path, overwrite, options)


@dataclass(frozen=True)
class DubResult:
    """Result of a dubbing.

    frames: number of frames written.
    seconds: length of the output.
    sources: for each person who is dubbed, what became of the source's frames.
    resumed: number of frames that an earlier run had encoded.
    notes: for the user: on the sound, on what is not as in the source, on frames left as they are.
    """

    frames: int
    seconds: float
    sources: list[TrackReport]
    resumed: int
    notes: list[str]


class DubbedVideo:
    """A video whose people speak other recordings. Made by `TalkingFace.dub`."""

    def __init__(
        self,
        source: PathLike,
        cast: Cast,
        motions: Sequence[Motion],
        space: ExpressionSpace,
        time: float,
        length: Length | None,
        tag: str,
        predict_lips: PredictLips,
        mark: bool = False,
    ) -> None:
        """cast: who is dubbed (`TrackOptions`), with sounds. motions: of each, in expressions of
        `space`. time: seconds, where the faces are chosen. tag: comment of the files.
        predict_lips: of the source's own sound, see `FaceTracker.finish`.
        mark: whether a small label in every frame says "synthetic".

        Raises UnreadableMedia, BadRequest.
        """
        self._options = TrackOptions(tuple(cast.chosen), time)
        self._options.check()
        timelines.parse(length)
        self._path, self._cast, self._motions = Path(source), cast, motions
        self._space, self._length, self._tag, self._mark = space, length, tag, mark
        self._video, self._predict_lips = open_stored(self._path), predict_lips

    def save(
        self,
        path: PathLike,
        *,
        overwrite: bool = False,
        progress: Progress | None = None,
        output: OutputOptions = DEFAULT_OUTPUT,
        **keywords: Unpack[OutputKeywords],
    ) -> DubResult:
        """Write the video with the new sound, coded as its source.

        Several recordings are mixed, at equal level and without clipping.

        What is outside the face keeps its pixels, but for the encoding. The file's metadata says
        that it is synthetic. A run that was stopped goes on where it was when it is called again
        with the same files and options; until then a hidden folder is beside the output.

        path: the .mp4, .mov or .webm to write.
        overwrite: True replaces an existing file.
        progress: function to call with (frames done, frames in all), in the two passes together.
        output: signature of the file; its other options have their defaults.
        keywords: changes to them, by field: c2pa=True.

        Raises NoFaceFound (in no frame), OutputError, BadRequest, UnreadableMedia.
        """
        path, output = Path(path), output.updated(**keywords)
        check_output(path, overwrite, output)
        media.check_names([self._path, *(own.path for own in self._cast.speeches)], [path])
        chosen = codings.dub_coding(path, self._video)
        with work_folder(path, self._key(chosen)) as folder:
            passes = Passes(self._path, chosen, folder, progress, self._predict_lips, self._mark)
            with ExitStack() as renaming:
                part = renaming.enter_context(media.replacing(path, overwrite))
                name, signer = chosen.kind.container.format, provenance.signer_of(output)
                signed = provenance.signing(path, part, name, signer, self._tag, edited=True)
                renaming.enter_context(signed)
                return self._write(path, part, chosen, passes)

    def _write(self, path: Path, part: Path, chosen: DubCoding, passes: Passes) -> DubResult:
        faces, stamps, starts, end = passes.track(self._options)
        unit, sound = chosen.video.time_base, self._cast.seconds
        shown = timelines.timeline(starts, end, sound / unit, self._length)
        dubbed = [
            DubbedFace(self._space, face, motion)
            for face, motion in zip(faces, self._motions, strict=True)
        ]
        parts = passes.encode(dubbed, stamps, shown)
        tracks = stored_tracks.read_tracks(self._path)
        whole = Joined(
            parts=parts,
            count=passes.count,
            timeline=shown,
            unit=unit,
            display=chosen.video.display,
            codec_tag=chosen.coding.tag,
            sound=sound_writing.sound_track(self._cast.sound(), chosen.kind),
            tracks=tracks,
            tag=self._tag,
        )
        join(path, part, chosen.kind, whole)
        length, reports = shown.end * unit, [face.report() for face in faces]
        notes = [*self._cast.notes, *chosen.notes, *_notes(tracks, sound - length)]
        notes += _notes_on_frames(reports)
        return DubResult(len(shown), float(length), reports, passes.resumed, notes)

    def _key(self, chosen: DubCoding) -> str:
        """16 hexadecimal digits of everything on which the frames depend."""
        found = self._path.stat()
        motions = [np.ascontiguousarray(own.expression).tobytes() for own in self._motions]
        known = {
            "version": __version__,
            "source": [str(self._path.resolve()), found.st_size, found.st_mtime_ns],
            "sound": str(self._cast.seconds),
            "motions": [hashlib.sha256(own).hexdigest() for own in motions],
            "options": asdict(self._options),
            "length": self._length,
            "mark": self._mark,
            "coding": repr(chosen.coding),
            "layout": asdict(chosen.video.layout),
        }
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def _notes(tracks: StoredTracks, cut: Fraction) -> list[str]:
    """Return what of source and sound is not in the output. cut: seconds of the sound."""
    notes = []
    if cut > _HEARD:
        notes.append(f"the last {float(cut):.2f} s of the sound are cut: see the length")
    if tracks.sounds > 1:
        notes.append(f"the {tracks.sounds} sound tracks of the video are left out")
    if tracks.left:
        notes.append(f"tracks of the video that are left out: {', '.join(tracks.left)}")
    return notes


def _notes_on_frames(reports: Sequence[TrackReport]) -> list[str]:
    """Return how many frames are left as they are, and why, for each speaker."""
    notes = []
    for number, report in enumerate(reports, start=1):
        counts = {why: getattr(report, name) for name, why in _REASONS.items()}
        left = ", ".join(f"{count} {why}" for why, count in counts.items() if count)
        if left:
            who = f"speaker {number}: " if len(reports) > 1 else ""
            notes.append(f"{who}frames that are left as they are: {left}")
    return notes
