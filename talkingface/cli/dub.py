"""Command that dubs a video: its person speaks another recording."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from talkingface.cli.app import app
from talkingface.cli.controls import takes_mouth, takes_report
from talkingface.cli.options import (
    AudioTrack,
    Device,
    FaceChoice,
    Mark,
    Model,
    Overwrite,
    Reporter,
    parse_face,
    start_decoding,
)
from talkingface.controls import Controls

if TYPE_CHECKING:
    from talkingface.dubbing.dubbed_video import DubResult

LENGTH_HELP = (
    "where the result ends: video, with the video (silence follows a shorter sound, a longer one "
    "is cut); sound, with the sound, at the latest with the video; loop, bounce or freeze, with "
    "the sound, while the video begins again, runs back and forth, or stays at its last frame "
    "[video; bounce where the sound is longer]"
)
# Frames that are left as they are, by the reason.
_REASONS = {
    "no_face": "without a face",
    "too_small": "with a face that is too small",
    "turned": "with a face that is turned away",
    "covered": "with a mouth that is covered",
}


@app.command()
@takes_report
@takes_mouth
def dub(
    video: Annotated[Path, typer.Argument(help="a video with a face")],
    speech: Annotated[Path, typer.Argument(help="a recording, or a video with sound")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="the .mp4, .mov or .webm to write")
    ],
    report: Reporter,
    controls: Controls,
    length: Annotated[
        str | None, typer.Option(help=LENGTH_HELP, metavar="video|sound|loop|bounce|freeze")
    ] = None,
    face: FaceChoice = None,
    at: Annotated[
        float, typer.Option(min=0, help="seconds from the beginning where --face is seen")
    ] = 0.0,
    mark: Mark = False,
    audio_track: AudioTrack = None,
    model: Model = "cran",
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Make the person of a video speak another recording.

    The lips follow the recording; all else stays as it is, with size, frame rate, colours and
    subtitles of the video. Frames without a usable face are left as they are, and counted. Without
    --face the person who speaks in the video is dubbed, else the largest.

    A dubbing that was stopped goes on when the same command is given again.

    Example: talkingface dub talking.mp4 speech.wav -o dubbed.mp4
    """
    start_decoding()
    from talkingface import media, pipeline
    from talkingface.dubbing import coding, timeline

    number, box = parse_face(face)
    how_long = timeline.parse(length)
    coding.require_name(output)
    media.check_names([video, speech], [output])
    media.check_output(output, overwrite)
    made = pipeline.load(model, device).dub(
        video,
        speech,
        controls=controls,
        length=how_long,
        face=number,
        box=box,
        time=at,
        mark=mark,
        audio_track=audio_track,
    )
    with report.progress("frames") as progress:
        result = made.save(output, overwrite=overwrite, progress=progress)
    _report(report, output, result)


def _report(report: Reporter, output: Path, result: DubResult) -> None:
    source = result.source
    left = [f"{getattr(source, name)} {why}" for name, why in _REASONS.items()]
    left = [text for text in left if not text.startswith("0 ")]
    notes = list(result.notes)
    if left:
        notes.append(f"frames that are left as they are: {', '.join(left)}")
    if result.resumed:
        notes.append(f"{result.resumed} frames were there already")
    for note in notes:
        report.note(note)
    text = f"{result.seconds:.2f} s, {result.frames} frames"
    facts = {"frames": result.frames, "seconds": result.seconds, "resumed": result.resumed}
    report.result(output, text, **facts, source=asdict(source), notes=notes)
