"""Options that several commands share, and the output of commands: bars, notes, results, errors."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from talkingface.errors import BadRequest, TalkingFaceError

if TYPE_CHECKING:
    from talkingface.dubbing.dubbed_video import DubResult
    from talkingface.jobs import JobResult
    from talkingface.types import Box

Update = Callable[[float, float], None]  # of a progress bar: called with (done, in all)

PERSON_HELP = "which face: N, the N-th largest (from 1), or its box x,y,width,height in pixels"
FACE_HELP = (
    f"{PERSON_HELP}; where the finder knows no face in the box (a drawing), the mean face is laid "
    "into it"
)
LANDMARKS_HELP = (
    "where the face is, instead of looking for it: JSON, a list of its 68 iBUG points [x, y], or "
    'an object {"landmarks": that list, ...}, in pixels of the picture as it is seen'
)
LENGTH_HELP = (
    "where the result ends: video, with the video (silence follows a shorter sound, a longer one "
    "is cut); sound, with the sound, at the latest with the video; loop, bounce or freeze, with "
    "the sound, while the video begins again, runs back and forth, or stays at its last frame "
    "[video; bounce where the sound is longer]"
)
Model = Annotated[str, typer.Option(help="a name of `talkingface models`, or a .safetensors file")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")]
Crop = Annotated[bool, typer.Option("--crop", help="only the aligned face, --crop-size a side")]
CropSize = Annotated[int, typer.Option("--crop-size", help="pixels of --crop's side", min=64)]
Mark = Annotated[
    bool, typer.Option("--mark", help="a small label in every frame says that it is synthetic")
]
Background = Annotated[
    str,
    typer.Option(help="colour behind transparent parts of the picture: a name of CSS, or #rrggbb"),
]
MaxSize = Annotated[
    str,
    typer.Option(
        help="pixels of the long side, at most; none: the picture's own", metavar="N|none"
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="no progress bar, notes or results; errors stay")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace an output that exists")]
RunFolder = Annotated[
    Path, typer.Option("--output", "-o", help="folder for checkpoint, log, sheets and weights")
]
Minutes = Annotated[float | None, typer.Option(help="stop early; a later call goes on")]
Accumulate = Annotated[
    int, typer.Option(min=1, help="batches whose gradients are added up to one step, per process")
]
SaveEvery = Annotated[int, typer.Option(min=1, help="steps from one checkpoint to the next")]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="processes that draw batches; 0: a thread [GPU: all cores, CPU: 0]"),
]
Seed = Annotated[int, typer.Option(help="of everything random")]
Shards = Annotated[Path, typer.Argument(help="what `talkingface prepare` wrote")]
CacheFolder = Annotated[
    Path | None,
    typer.Option(
        "--cache", help="folder for the decoded shards, where theirs is read-only [SHARDS/cache]"
    ),
]
Everyone = Annotated[bool, typer.Option("--everyone", help="learn from the held-out speakers too")]
FaceChoice = Annotated[str | None, typer.Option("--face", help=FACE_HELP, metavar="N|X,Y,W,H")]
PersonChoice = Annotated[str | None, typer.Option("--face", help=PERSON_HELP, metavar="N|X,Y,W,H")]
Landmarks = Annotated[
    Path | None, typer.Option("--landmarks", help=LANDMARKS_HELP, metavar="POINTS.JSON")
]
AudioTrack = Annotated[
    int | None,
    typer.Option(
        "--audio-track",
        min=1,
        help="which audio track of the file, from 1 [the one it marks as default, else the first]",
    ),
]
DubLength = Annotated[
    str | None,
    typer.Option("--length", help=LENGTH_HELP, metavar="video|sound|loop|bounce|freeze"),
]
Speakers = Annotated[
    list[str] | None,
    typer.Option(
        "--speaker",
        metavar="FACE=RECORDING",
        help="a face, as in --face, and what it speaks; repeat for each. With --turns: NAME=FACE",
    ),
]
TurnsFile = Annotated[
    Path | None,
    typer.Option(
        help="who speaks when in one recording of all: RTTM, or JSON, a list of {start, end, "
        "speaker}; without --speaker who speaks first is the leftmost",
    ),
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(help="a host name by which it is reached, behind a proxy; repeat for more"),
]
Proxy = Annotated[
    list[str] | None,
    typer.Option(help="address of a proxy whose X-Forwarded-For names the client; repeat for more"),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="print results as JSON, for programs; notes are in it")
]
Results = Annotated[Path, typer.Option("--out", "-o", help="folder for results and tables")]


def parse_size(text: str) -> int:
    """`--max-size`: "none" -> 0, else a whole number. Raises BadRequest."""
    if text.lower() == "none":
        return 0
    if not text.isascii() or not text.isdigit():
        raise BadRequest(f"--max-size {text!r}: give pixels, or none for the picture's own size")
    return int(text)


def parse_face(text: str | None, option: str = "--face") -> tuple[int | None, Box | None]:
    """`--face`: "2" -> (2, None); "10,20,64,64" -> (None, the box). Raises BadRequest.

    option: its name, for errors.
    """
    if text is None:
        return None, None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 4 and all(math.isfinite(number) for number in numbers):
        x, y, width, height = numbers
        return None, (x, y, width, height)
    if len(numbers) == 1 and numbers[0].is_integer():
        return int(numbers[0]), None
    raise BadRequest(f"{option} {text!r}: give a number from 1, or x,y,width,height in pixels")


def parse_speakers(
    given: Sequence[str], speech: Path | None, turns: Path | None
) -> tuple[Any, dict[str, int | Box] | None]:
    """`--speaker` -> recordings by face and None; with turns the one recording, and faces by name.

    Without both it is the one recording and None. Raises BadRequest.
    """
    if turns is not None:
        if speech is None:
            raise BadRequest("--turns divides one recording of all: give that recording, too")
        halves = [text.rpartition("=") for text in given]
        return speech, {name: _speaking_face(face) for name, _, face in halves}
    if not given:
        if speech is None:
            raise BadRequest(
                "nothing to speak: give a recording, or --speaker FACE=RECORDING for each"
            )
        return speech, None
    if speech is not None:
        raise BadRequest(
            f"{speech} is one recording of several people: say who speaks when by --turns, or "
            "leave it out and give --speaker FACE=RECORDING for each"
        )
    parts = [text.partition("=") for text in given]
    sounds = {_speaking_face(face): Path(name) for face, _, name in parts}
    if len(sounds) < len(given) or not all(name for _, _, name in parts):
        raise BadRequest("give --speaker FACE=RECORDING once for each face, as 1=anna.wav")
    return sounds, None


def _speaking_face(text: str) -> int | Box:
    number, box = parse_face(text, "--speaker")
    if number is not None:
        return number
    assert box is not None  # it has one of them
    return box


def require_serve_extra(command: str) -> None:
    """Raise BadRequest when the web server's packages are not installed."""
    wanted = ("fastapi", "prometheus_client", "python_multipart", "uvicorn", "websockets")
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise BadRequest(
            f"`talkingface {command}` needs {' and '.join(missing)}: "
            "pip install 'talkingface[serve]'"
        )


def print_json(facts: object) -> None:
    """Print facts as JSON on standard output; paths as text, NaN and infinity as null."""
    text = json.dumps(_plain(facts), indent=1, ensure_ascii=False, allow_nan=False)
    # A terminal would obey control characters, as in file names.
    print("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def print_note(text: str) -> None:
    """Print a note for the user on standard error."""
    print(f"note: {printable(text)}", file=sys.stderr)


def start_decoding() -> None:
    """Start the process that reads files: it is ready when torch is imported."""
    from talkingface import decoding

    decoding.start()


def print_error(error: TalkingFaceError) -> None:
    """Print a user's error as one line on standard error."""
    print(f"error: {one_line(error)}", file=sys.stderr)


def one_line(error: TalkingFaceError) -> str:
    """Return the text of an error without line breaks and control characters."""
    return printable(" ".join(str(error).split()))


def printable(text: str) -> str:
    """Escape control characters, as in file names: a terminal would obey them."""
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else repr(c)[1:-1] for c in text
    )


@contextmanager
def progress_bar(what: str, shown: bool = True) -> Iterator[Update]:
    """A progress bar with the time left, on standard error while somebody is looking."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    columns = (
        what,
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TaskProgressColumn(),
        progress.TimeRemainingColumn(),
    )
    drawn = progress.Progress(
        *columns,
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
        redirect_stdout=sys.stdout.isatty(),  # else results in a pipe would go to the terminal
    )
    with drawn:
        task = drawn.add_task(what, total=None)
        yield lambda done, total: drawn.update(task, completed=done, total=total)


@dataclass(frozen=True)
class Reporter:
    """A command's output: results to standard output; notes, errors and bars to standard error."""

    quiet: bool = False
    json: bool = False

    def progress(self, what: str) -> AbstractContextManager[Update]:
        """See `progress_bar`."""
        return progress_bar(what, shown=not self.quiet)

    def note(self, text: str) -> None:
        """Report what the user should know; as JSON it is part of a result."""
        if not (self.quiet or self.json):
            print_note(text)

    def result(self, output: Path | str, text: str, **facts: Any) -> None:
        """Report a file that was written. facts: of its JSON object; those that are None go."""
        known = {name: value for name, value in facts.items() if value is not None}
        file = sys.stderr if str(output) == "-" else sys.stdout  # frames are on standard output
        if self.json:
            print(json.dumps(_plain({"output": output, **known})), file=file)
        elif not self.quiet:
            print(printable(f"{output}: {text}"), file=file)

    def existing(self, output: Path | str) -> None:
        """Report a file of an earlier run that is kept."""
        self.result(output, "was there already", existing=True)

    def summary(self, text: str) -> None:
        """Report what became of all results; as JSON they say it themselves."""
        if not (self.quiet or self.json):
            print("\n".join(map(printable, text.splitlines())))

    def job(self, result: JobResult) -> None:
        """Report a job that is done, or why it failed."""
        from talkingface.jobs import Job

        job, error = result.job, result.error
        if error is not None:
            print_error(error)
            if self.json:
                print(json.dumps(_plain({"output": job.output, "error": one_line(error)})))
        elif result.dubbed is not None:
            self._dubbed(job.output, result.dubbed, result.seconds)
        elif isinstance(job, Job):
            self.video(
                job.image,
                job.output,
                result.frames,
                result.note,
                result.seconds,
                float(job.output_options.rate),
                audio=job.audio,
            )

    def _dubbed(self, output: Path | str, result: DubResult, took: float) -> None:
        """Report a video that was dubbed. took: seconds of work."""
        notes = list(result.notes)
        if result.resumed:
            notes.append(f"{result.resumed} frames were there already")
        for note in notes:
            self.note(note)
        text = f"{result.seconds:.2f} s, {result.frames} frames, in {took:.1f} s"
        facts = {"frames": result.frames, "seconds": result.seconds, "resumed": result.resumed}
        facts |= {"took": round(took, 3)}
        self.result(output, text, **facts, sources=list(map(asdict, result.sources)), notes=notes)

    def video(
        self,
        image: Path | str,
        output: Path | str,
        frames: int,
        note: str | None,
        took: float | None = None,
        fps: float = 25,
        **facts: Any,
    ) -> None:
        """Report a video. note: on it. took: seconds of work. facts: of its JSON object."""
        if note is not None:
            self.note(f"{image}: {note}")
        seconds = round(frames / fps, 6)
        text = f"{seconds:.2f} s, {frames} frames" + (f", in {took:.1f} s" if took else "")
        took = None if took is None else round(took, 3)
        known: dict[str, Any] = {"frames": frames, "seconds": seconds, "took": took, "note": note}
        self.result(output, text, **known, image=image, fps=fps, **facts)
