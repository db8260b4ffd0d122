"""Kill commands hard at random moments, run them again, and compare with undisturbed runs.

    python tools/kill_test.py --kills 200 --seed 0

Each task is run once undisturbed. Then it is killed (SIGKILL, up to four times at random moments of
its time), run to its end, and its files must be those of the undisturbed run, byte for byte; no
temporary file and no process may be left. Prints a line for each task; exit code 1 on a difference.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
TALKINGFACE = (sys.executable, "-m", "talkingface.cli")
MOST_KILLS = 4  # of one run, at most
TINY = ("--model", "cran-tiny", "--crop")
_CACHE = (
    "import sys; from pathlib import Path; from talkingface.data import shards; "
    "shards.build_cache(Path(sys.argv[1]), Path(sys.argv[2]) / 'cache')"
)
# Files that are not compared: locks, and checkpoints, whose pickles differ for the same numbers.
_NOT_COMPARED = (".lock", ".dropped.lock", ".cache.lock", "checkpoint.pt", "checkpoint.before.pt")


@dataclass(frozen=True)
class Task:
    """A command by the folder that it writes into. again: its options when it is run again."""

    name: str
    command: Callable[[Path], Sequence[object]]
    again: tuple[str, ...] = ()


@dataclass
class Count:
    """Kills, runs that were compared, and what was wrong."""

    kills: int = 0
    runs: int = 0
    wrong: int = 0


def tasks(inputs: Path) -> list[Task]:
    """Return the tasks; their inputs are made in a folder."""
    from talkingface import picture, video_writing

    portrait, speech = ROOT / "examples" / "portrait.jpg", ROOT / "tests/fixtures/sentence.wav"
    videos = inputs / "videos"
    videos.mkdir()
    shown = np.ascontiguousarray(picture.read(portrait)[::2, ::2])
    for number in range(3):
        frames = [np.roll(shown, number + k % 2, 1) for k in range(40)]
        video_writing.write(videos / f"{number}.mp4", frames, speech)
    prepared = inputs / "shards"
    prepare = (*TALKINGFACE, "prepare", "videos", videos)
    _run((*prepare, "-o", prepared))
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers.corpus import write_cache
    from helpers.media import write_video

    write_cache(inputs / "cache")
    talking = inputs / "talking.mp4"  # one frame a second: a part of ten seconds has ten frames
    write_video(talking, ((Fraction(k), np.roll(shown, k % 3, 1)) for k in range(40)), "libx264")
    sync = ("train", "sync", inputs / "cache", "--preset", "sync-tiny", "--set", "steps=60")
    sounds = [inputs / f"{name}.wav" for name in "abc"]
    for sound in sounds:
        sound.write_bytes(speech.read_bytes())
    given = [word for sound in sounds for word in ("--speech", sound)]
    batch = (*TALKINGFACE, "batch", portrait, *given, *TINY)
    dub = (*TALKINGFACE, "dub", talking, speech, "--model", "atvg-tiny")
    generate = (*TALKINGFACE, "generate", portrait, speech, *TINY, "--overwrite")
    return [
        Task("prepare", lambda out: (*prepare, "-o", out, "--jobs", 2)),
        Task("cache", lambda out: (sys.executable, "-c", _CACHE, prepared, out)),
        Task("train", lambda out: (*TALKINGFACE, *sync, "-o", out, "--save-every", 10)),
        Task("generate", lambda out: (*generate, "-o", out / "a.mp4", "--sheet", out / "a.png")),
        Task("batch", lambda out: (*batch, "--out-dir", out), ("--skip-existing",)),
        Task("dub", lambda out: (*dub, "-o", out / "a.mp4", "--overwrite")),
    ]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _start(command: Sequence[object]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=_environment(),
        start_new_session=True,
    )


def _run(command: Sequence[object]) -> None:
    with _start(command) as ran:
        _, said = ran.communicate(timeout=600)
    if ran.returncode:
        raise RuntimeError(f"{command}: {ran.returncode}, {said.decode(errors='replace')[-500:]}")


def contents(folder: Path) -> dict[str, str]:
    """Return file -> sha256 of all files that are compared; temporary ones among them."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in _NOT_COMPARED
    }


def processes_of(session: int) -> list[int]:
    """Return the processes of a session that are alive."""
    return [pid for pid, own, state in _processes() if own == session and state != "Z"]


def _processes() -> Iterator[tuple[int, int, str]]:
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            yield int(entry.name), int(fields[3]), fields[0]


def _killed(command: Sequence[object], after: float) -> bool:
    """Run a command; kill it after so many seconds. Return whether it was still running."""
    with _start(command) as ran:
        try:
            ran.communicate(timeout=after)
        except subprocess.TimeoutExpired:
            os.kill(ran.pid, signal.SIGKILL)
            ran.communicate()
    for _ in range(100):
        left = processes_of(ran.pid)
        if not left:
            return ran.returncode == -signal.SIGKILL
        time.sleep(0.1)
    raise RuntimeError(f"processes are left ten seconds after the kill: {left}")


def disturb(task: Task, folder: Path, seconds: float, rng: random.Random, most: int) -> int:
    """Kill a task some times while it writes into a folder, and let it end; return the kills."""
    kills = 0
    again: tuple[str, ...] = ()
    for _ in range(rng.randint(1, min(most, MOST_KILLS))):
        if not _killed((*task.command(folder), *again), rng.uniform(0.1, 1.05 * seconds)):
            break
        kills += 1
        again = task.again
    _run((*task.command(folder), *task.again))
    return kills


def check(task: Task, folder: Path, kills: int, rng: random.Random, limit: float) -> Count:
    """Disturb a task until it was killed so many times, or the time `limit` has come."""
    count, whole = Count(), folder / "whole"
    whole.mkdir(parents=True)
    start = time.monotonic()
    _run(task.command(whole))
    seconds, expected = time.monotonic() - start, contents(whole)
    while count.kills < kills and time.monotonic() < limit:
        out = folder / str(count.runs)
        out.mkdir()
        count.kills += disturb(task, out, seconds, rng, kills - count.kills)
        count.runs += 1
        found = contents(out)
        if found != expected:
            count.wrong += 1
            differ = sorted(set(found.items()) ^ set(expected.items()))
            print(f"{task.name}: {out}: {sorted({name for name, _ in differ})} differ", flush=True)
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all tasks; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=200, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after so long")
    parser.add_argument("--task", action="append", help="only this one; repeat for more")
    options = parser.parse_args(arguments)
    wrong, end = 0, time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as temporary:
        inputs = Path(temporary) / "inputs"
        inputs.mkdir()
        chosen = [t for t in tasks(inputs) if options.task is None or t.name in options.task]
        for number, task in enumerate(chosen):
            share = -(-options.kills // len(chosen))
            now = time.monotonic()
            limit = now + (end - now) / (len(chosen) - number)
            rng = random.Random(options.seed + number)
            count = check(task, Path(temporary) / task.name, share, rng, limit)
            wrong += count.wrong
            print(
                f"{task.name}: {count.kills} kills in {count.runs} runs, {count.wrong} differ",
                flush=True,
            )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
