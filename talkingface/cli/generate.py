"""Commands that generate videos, motion files and pictures of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from talkingface.cli.app import app
from talkingface.cli.controls import (
    takes_controls,
    takes_display,
    takes_face,
    takes_output,
    takes_report,
    takes_signature,
    takes_workers,
)
from talkingface.cli.options import (
    AsJson,
    AudioTrack,
    Device,
    DubLength,
    FaceChoice,
    Landmarks,
    Model,
    Overwrite,
    Reporter,
    Speakers,
    TurnsFile,
    parse_face,
    parse_speakers,
    print_json,
    start_decoding,
)
from talkingface.controls import Controls
from talkingface.errors import BadRequest
from talkingface.face_options import FaceOptions
from talkingface.output_options import OutputOptions
from talkingface.version import __version__
from talkingface.workers import Workers

if TYPE_CHECKING:
    from talkingface.conversation import Conversation
    from talkingface.generated_video import Video
    from talkingface.jobs import DubJob, Job

VideoFile = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        help="the .mp4, .mov, .webm, .gif or .webp to write; frames/ or frames/%05d.png for PNG "
        "files; - for frames on standard output",
    ),
]
PortraitFile = Annotated[Path, typer.Argument(help="a picture with a face")]
SpeechOrMotion = Annotated[
    Path | None,
    typer.Argument(
        help="a recording, a video with sound, or a motion (.json, .npz)", show_default=False
    ),
]
OtherMotion = Annotated[
    Path | None,
    typer.Option(help="a motion (.json, .npz) to draw to this sound, in place of its own"),
]
SheetFile = Annotated[Path | None, typer.Option(help="also write frames side by side as this .png")]
MapsFile = Annotated[
    Path | None,
    typer.Option(help="also write attention, colour and bare face side by side as this .mp4"),
]
SkipExisting = Annotated[
    bool, typer.Option("--skip-existing", help="go on with a run that was stopped: keep its videos")
]


@app.command()
@takes_report
@takes_controls
@takes_output
@takes_face
def generate(
    portrait: PortraitFile,
    output: VideoFile,
    report: Reporter,
    controls: Controls,
    options: FaceOptions,
    output_options: OutputOptions,
    speech: SpeechOrMotion = None,
    speakers: Speakers = None,
    turns: TurnsFile = None,
    motion: OtherMotion = None,
    audio_track: AudioTrack = None,
    model: Model = "cran",
    sheet: SheetFile = None,
    maps: MapsFile = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Make a talking video of one portrait and one recording.

    Head, brows and eyes move too; --still leaves them as they are. `talkingface motion` writes how
    a face moves as a file, to be edited and given here in place of the recording.

    Where no face is found (drawings, statues), --face or --landmarks say where it is; the command
    `landmarks` writes a file to begin with.

    Of several people in one picture each can speak a recording of its own (--speaker), or one
    recording its turns (--turns). The others listen.

    Example: talkingface generate portrait.jpg speech.wav -o talking.mp4

    Example: talkingface generate two.jpg --speaker 1=anna.wav --speaker 2=ben.wav -o talk.mp4
    """
    start_decoding()
    from talkingface import pipeline, video_writing
    from talkingface.jobs import Job

    sounds, named = parse_speakers(speakers or [], speech, turns)
    if speakers or turns is not None:
        if motion is not None or sheet is not None or maps is not None:
            raise BadRequest("--motion, --sheet and --maps are for one face: leave out --speaker")
        video_writing.check_output(output, overwrite, output_options)
        made = pipeline.load(model, device).converse(
            portrait,
            sounds,
            turns=turns,
            faces=named,
            controls=controls,
            audio_track=audio_track,
            options=options,
        )
        _save(made, portrait, output, overwrite, output_options, report)
        return
    job = Job(
        portrait,
        sounds,
        output,
        options,
        controls,
        motion,
        sheet,
        maps,
        overwrite,
        audio_track,
        output_options,
    )
    run_job(job, model, device, report)
    if sheet is not None:
        report.result(sheet, "contact sheet")
    if maps is not None:
        report.result(maps, "attention, colour and face")


def run_job(job: Job | DubJob, model: str, device: str, report: Reporter) -> None:
    """Check a job, do it and report it."""
    from talkingface import pipeline

    job.check()
    speaker = pipeline.load(model, device)
    with report.progress("frames") as progress:
        result = speaker.run(job, progress)
    report.job(result)


@app.command()
@takes_report
@takes_controls
@takes_output
@takes_face
def say(
    portrait: PortraitFile,
    text: Annotated[str, typer.Argument(help="what the face says, in English")],
    output: VideoFile,
    report: Reporter,
    controls: Controls,
    options: FaceOptions,
    output_options: OutputOptions,
    voice_command: Annotated[
        str | None,
        typer.Option(
            help="another voice: a program that reads the text on its standard input and writes a "
            "WAV to its standard output, or to the file {output}"
        ),
    ] = None,
    model: Model = "cran",
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Make a face say a text, with a synthetic voice.

    The voice is made on this machine, without a network. It needs the extra `talkingface[voice]`,
    or --voice-command. The lips follow its sound, as they follow any recording.

    Example: talkingface say portrait.jpg "Good morning. How are you?" -o out.mp4
    """
    start_decoding()
    from talkingface import pipeline, video_writing

    video_writing.check_output(output, overwrite, output_options)
    speaker = pipeline.load(model, device)
    made = speaker.say(
        portrait, text, voice_command=voice_command, controls=controls, options=options
    )
    _save(made, portrait, output, overwrite, output_options, report)


def _save(
    made: Video | Conversation,
    portrait: Path,
    output: str,
    overwrite: bool,
    output_options: OutputOptions,
    report: Reporter,
) -> None:
    """Write a video and report it."""
    with report.progress("frames") as progress:
        frames = made.save(output, overwrite=overwrite, progress=progress, output=output_options)
    notes = [made.note, *made.output_notes(output, output_options)]
    note = "; ".join(own for own in notes if own) or None
    report.video(portrait, output, frames, note, fps=float(output_options.rate))


@app.command()
@takes_report
@takes_controls
@takes_output
@takes_face
def idle(
    portrait: PortraitFile,
    output: VideoFile,
    report: Reporter,
    controls: Controls,
    options: FaceOptions,
    output_options: OutputOptions,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="how long")] = 10.0,
    loop: Annotated[
        bool, typer.Option("--loop/--no-loop", help="the end joins the beginning")
    ] = True,
    model: Model = "cran",
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Make a video without sound of a face that waits.

    It breathes, blinks and sways.

    Example: talkingface idle portrait.jpg -o idle.mp4 --seconds 20
    """
    start_decoding()
    from talkingface import pipeline, video_writing

    video_writing.check_output(output, overwrite, output_options)
    speaker = pipeline.load(model, device)
    made = speaker.idle(portrait, seconds, repeats=loop, controls=controls, options=options)
    _save(made, portrait, output, overwrite, output_options, report)


@app.command()
@takes_report
@takes_controls
def motion(
    speech: Annotated[Path, typer.Argument(help="a recording, or a video with sound")],
    output: Annotated[Path, typer.Option("--output", "-o", help="the .json or .npz to write")],
    report: Reporter,
    controls: Controls,
    audio_track: AudioTrack = None,
    model: Model = "cran",
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Write how a face moves that speaks a recording.

    The motion is the same for every face. The file holds times, expressions, head pose, brows, lids
    and gaze, ARKit's 52 blendshapes and visemes. `generate` draws it, edited or not, in place of a
    recording or beside one with --motion.

    Example: talkingface motion speech.wav -o motion.json
    """
    start_decoding()
    from talkingface import media, motion_file, pipeline

    media.check_output(output, overwrite)
    moved, visemes = pipeline.load(model, device).motion_and_visemes(speech, controls, audio_track)
    motion_file.write(output, moved, visemes, overwrite)
    count, seconds = len(moved), len(moved) / 25
    text = f"{seconds:.2f} s, {count} frames, {len(visemes)} visemes"
    report.result(output, text, frames=count, seconds=seconds, visemes=len(visemes))


@app.command("landmarks")
@takes_report
def find_landmarks(
    portrait: PortraitFile,
    report: Reporter,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="the .json to write")
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="the picture with the numbered points, as this .png")
    ] = None,
    face: FaceChoice = None,
    landmarks: Landmarks = None,
    overwrite: Overwrite = False,
) -> None:
    """Write where the 68 points of a face are.

    The file can be corrected by hand for `generate --landmarks`. With --landmarks and --overlay it
    shows a file that was corrected.

    Example: talkingface landmarks portrait.jpg -o points.json --overlay points.png
    """
    number, box = parse_face(face)
    start_decoding()
    from talkingface import pipeline

    notes = pipeline.find_landmarks(
        portrait,
        output,
        overlay=overlay,
        face=number,
        box=box,
        landmarks=landmarks,
        overwrite=overwrite,
    )
    for text in notes:
        report.note(text)
    for path, what in ((output, "68 points"), (overlay, "the picture with its points")):
        if path is not None:
            report.result(path, what, note="; ".join(notes) or None)


@app.command()
@takes_report
@takes_controls
@takes_display
@takes_signature
@takes_workers
def batch(
    portraits: Annotated[list[Path], typer.Argument(help="pictures with a face each")],
    speech: Annotated[list[Path], typer.Option("--speech", help="a recording; repeat for more")],
    out_dir: Annotated[Path, typer.Option(help="folder for <portrait>-<recording>.mp4")],
    report: Reporter,
    controls: Controls,
    options: FaceOptions,
    output_options: OutputOptions,
    workers: Workers,
    dub: Annotated[
        bool, typer.Option("--dub", help="dub videos, as the command `dub`: give them as PORTRAITS")
    ] = False,
    length: DubLength = None,
    audio_track: AudioTrack = None,
    model: Model = "cran",
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    device: Device = "auto",
) -> None:
    """Make a video of every portrait with every recording.

    A video that fails does not stop the others. With --dub the person of every video speaks every
    recording.

    With --skip-existing, videos that are there and whole are done; damaged ones are made again.

    On a cluster: --engine dask --scheduler tcp://host:8786; its workers see the same folders.

    Example: talkingface batch anna.jpg ben.jpg --speech hello.wav --speech bye.wav --out-dir videos

    Example: talkingface batch --dub anna.mp4 ben.mp4 --speech hello.wav --out-dir videos
    """
    start_decoding()
    from talkingface import jobs
    from talkingface.dubbing import timeline

    if skip_existing and overwrite:
        raise BadRequest("--skip-existing and --overwrite contradict each other: give one of them")
    own: dict[str, Any] = {
        "controls": controls,
        "overwrite": overwrite or skip_existing,
        "audio_track": audio_track,
        "output_options": output_options,
    }
    planned: Sequence[Job | DubJob]
    if dub:
        _check_dubbing(controls, options)
        own |= {"length": timeline.parse(length), "mark": options.mark}
        planned = jobs.plan_dubbing(portraits, speech, out_dir, **own)
    elif length is not None:
        raise BadRequest("--length says where a dubbed video ends: give --dub too")
    else:
        planned = jobs.plan(portraits, speech, out_dir, options=options, **own)
    failed = _make(planned, skip_existing, out_dir, report, model, device, workers)
    if failed:
        raise typer.Exit(2)


def _check_dubbing(controls: Controls, options: FaceOptions) -> None:
    """Raise BadRequest for options that a dubbed video does not have."""
    own = Controls(mouth=controls.mouth, smooth=controls.smooth, expressions=controls.expressions)
    if controls != own or options != FaceOptions(mark=options.mark):
        raise BadRequest(
            "a dubbed video keeps its head, eyes and size: of the options of a face give --mouth, "
            "--smooth, --express and --mark alone"
        )


def _make(
    planned: Sequence[Job | DubJob],
    skip_existing: bool,
    out_dir: Path,
    report: Reporter,
    model: str,
    device: str,
    workers: Workers,
) -> int:
    """Make a video for each job, but for those that are there; return how many failed."""
    from talkingface import media, video_writing
    from talkingface.batch import run_batch

    there = [job for job in planned if skip_existing and video_writing.is_whole(job.output)]
    for job in there:
        report.existing(job.output)
    left, failed = [job for job in planned if job not in there], 0
    if left:
        media.make_folder(out_dir)
        with report.progress("videos") as progress:
            for result in run_batch(left, model, device, workers, progress):
                report.job(result)
                failed += result.error is not None
    kept = f", {len(there)} were there" if there else ""
    report.summary(f"{len(left) - failed} of {len(planned)} videos written to {out_dir}{kept}")
    return failed


@app.command("models")
def list_models(
    everything: Annotated[
        bool,
        typer.Option("--all", help="also networks that measure or help to train, and toys"),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the models that speak.

    Each with its size, data, licence and measures.

    Example: talkingface models
    """
    from talkingface import models, weights

    speaking = {name for name, (kind, _) in models.FAMILIES.items() if hasattr(kind, "encode")}
    shown = [
        info
        for info in weights.listing()
        if everything or (info.path is not None and info.family in speaking)
    ]
    if as_json:
        print_json([asdict(info) for info in shown])
        return
    for info in shown:
        size = f"{info.parameters / 1e6:.2f} M parameters"
        print(f"{info.name}: family {info.family}, {size}, licence {info.licence}")
        print(f"    {'data' if info.path else 'what'}: {info.training_data}")
        if info.metrics:
            print("    " + ", ".join(f"{key} {value:g}" for key, value in info.metrics.items()))
        if info.sha256:
            print(f"    sha256: {info.sha256}")


@app.command()
@takes_report
def sheet(
    source: Annotated[Path, typer.Argument(metavar="VIDEO", help="a video file")],
    output: Annotated[Path, typer.Option("--output", "-o", help="the .png to write")],
    report: Reporter,
    every: Annotated[int, typer.Option(help="one frame in so many (at 25 fps)")] = 3,
    seconds: Annotated[float, typer.Option(help="how much of the video's beginning")] = 3.0,
    columns: Annotated[int, typer.Option(help="pictures in a row")] = 13,
    side: Annotated[int, typer.Option(help="pixels of each picture's side")] = 128,
    overwrite: Overwrite = False,
) -> None:
    """Lay frames of a video side by side in one picture.

    Example: talkingface sheet talking.mp4 -o sheet.png --every 2
    """
    start_decoding()
    from talkingface import media, picture, video

    media.check_output(output, overwrite)
    frames = video.read_frames(source)
    shown = video.sheet_of_frames(frames, seconds=seconds, every=every, columns=columns, side=side)
    picture.write_png(output, shown, overwrite)
    height, width = shown.shape[:2]
    report.result(output, f"{width}x{height} pixels", width=width, height=height)


@app.command(hidden=True)
def version() -> None:
    """Print the version."""
    print(f"talkingface {__version__}")
