"""Command that dubs a video: its person speaks another recording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from talkingface.cli.app import app
from talkingface.cli.controls import takes_mouth, takes_report, takes_signature
from talkingface.cli.generate import run_job
from talkingface.cli.options import (
    AudioTrack,
    Device,
    DubLength,
    Mark,
    Model,
    Overwrite,
    PersonChoice,
    Reporter,
    Speakers,
    TurnsFile,
    parse_face,
    parse_speakers,
    start_decoding,
)
from talkingface.controls import Controls
from talkingface.output_options import OutputOptions


@app.command()
@takes_report
@takes_mouth
@takes_signature
def dub(
    video: Annotated[Path, typer.Argument(help="a video with a face")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="the .mp4, .mov or .webm to write")
    ],
    report: Reporter,
    controls: Controls,
    output_options: OutputOptions,
    speech: Annotated[
        Path | None,
        typer.Argument(help="a recording, or a video with sound", show_default=False),
    ] = None,
    speakers: Speakers = None,
    turns: TurnsFile = None,
    length: DubLength = None,
    face: PersonChoice = None,
    at: Annotated[
        float, typer.Option(min=0, help="seconds from the beginning where the face is seen")
    ] = 0.0,
    mark: Mark = False,
    audio_track: AudioTrack = None,
    model: Model = "cran",
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Make people of a video speak other recordings.

    The lips follow the recording; all else stays as it is, with size, frame rate, colours and
    subtitles of the video. Frames without a usable face are left as they are, and counted. Without
    --face the person who speaks in the video is dubbed, else the largest.

    Several people can each speak a recording of their own (--speaker), or one recording their turns
    (--turns). Who does not speak keeps the lips closed; the others stay as they are.

    A dubbing that was stopped goes on when the same command is given again.

    Example: talkingface dub talking.mp4 speech.wav -o dubbed.mp4

    Example: talkingface dub two.mp4 --speaker 1=anna.wav --speaker 2=ben.wav -o dubbed.mp4
    """
    start_decoding()
    from talkingface.dubbing import timeline
    from talkingface.jobs import DubJob

    (number, box), ends = parse_face(face), timeline.parse(length)
    sounds, named = parse_speakers(speakers or [], speech, turns)
    job = DubJob(
        video,
        sounds,
        output,
        turns=turns,
        faces=named,
        controls=controls,
        length=ends,
        face=number,
        box=box,
        time=at,
        mark=mark,
        overwrite=overwrite,
        audio_track=audio_track,
        output_options=output_options,
    )
    run_job(job, model, device, report)
