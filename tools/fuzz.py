"""Feed changed and odd files of every kind to what reads them, and count what becomes of them.

    python tools/fuzz.py --files 10000 --structured 2000 --seed 0

Of each kind (pictures, recordings, films, weights, shards, labels ...) a good file is made.
`--files` of them get bits, blocks, lengths or heads changed; `--structured` of them stay
well-formed, with odd numbers, times, codecs, sizes and numbers of parts. A process reads them one
by one; of each file the worst outcome of its readers counts:

    read       all of it
    refused    by one of our errors: one line that names the file
    contained  the decoding process failed, and we said so
    wrong      another exception, or one that does not name the file
    left       a file was left in the folder for temporary files or beside the file
    hang       reading took longer than --limit seconds
    crash      the process ended

Prints a table, and the growth of the process's memory. Exit code 1 for wrong, left, hang or crash,
and where memory grew by more than MEMORY; --keep FOLDER gets the files.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
os.environ.setdefault("SVT_LOG", "0")  # an encoder that writes to the terminal
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402

from helpers.kinds import Kind, all_kinds, change, empty  # noqa: E402
from talkingface import decoding  # noqa: E402
from talkingface.decoding import Limits  # noqa: E402
from talkingface.errors import DecodingFailed, TalkingFaceError  # noqa: E402
from talkingface.web.errors import ApiError  # noqa: E402

CLASSES = ("read", "refused", "contained", "wrong", "left", "hang", "crash")  # the worst last
BAD = CLASSES[3:]
MEMORY = 300  # MB: a decoded picture of the largest size, twice, and a little
LIMITS = Limits(memory=2 << 30, seconds=10)  # of decoding
_TO_MAKE = 600.0  # seconds for the process to start, and to make a file
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Outcome:
    """Result of reading a file. what: one of CLASSES; text: of the errors; memory: MB, the most."""

    what: str
    text: str = ""
    memory: int = 0


def read(kind: Kind, path: Path, temporary: Path) -> Outcome:
    """Let all readers of a kind read a file; return the worst that happened."""
    worst = Outcome("read")
    beside = set(os.listdir(path.parent))
    for reader in kind.readers:
        found = _read_once(reader, path)
        worst = max(worst, found, key=lambda own: CLASSES.index(own.what))
    left = sorted((set(os.listdir(path.parent)) - beside) | set(os.listdir(temporary)))
    if left:
        empty(temporary)
        worst = Outcome("left", ", ".join(left))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return Outcome(worst.what, worst.text, most)


def _read_once(reader: Any, path: Path) -> Outcome:
    try:
        reader(path)
    except (TalkingFaceError, ApiError) as error:
        text = str(error)
        names = str(path) in text or f"{path.parent}: " in text or isinstance(error, ApiError)
        if "\n" in text or not names:
            return Outcome("wrong", f"{type(error).__name__} of no file or several lines: {text}")
        return Outcome("contained" if isinstance(error, DecodingFailed) else "refused", text)
    except Exception as error:  # noqa: BLE001 this is what is looked for
        tb, places = error.__traceback__, []
        while tb is not None:
            places.append(f"{Path(tb.tb_frame.f_code.co_filename).name}:{tb.tb_lineno}")
            tb = tb.tb_next
        return Outcome("wrong", f"{error!r:.200} at {' '.join(places[-3:])}")
    return Outcome("read")


class Reader:
    """A process that makes and reads the files; a new one takes its place when it ends.

    The files of a seed are the same whatever happened to those before.
    """

    def __init__(self, kinds: Sequence[Kind], seed: int, folder: Path, limit: float) -> None:
        """folder: for the files. limit: seconds for one of them."""
        self._kinds, self._seed, self._limit = kinds, seed, limit
        self.file, self._temporary = folder / "file", folder / "temporary"
        for own in (self.file, self._temporary):
            own.mkdir()
        self._process: Any = None
        self._ours: Connection
        self.first, self.most = 0, 0  # MB

    def check(self, number: int, odd: bool) -> tuple[Kind, Outcome]:
        """Make and read a file by its number; return its kind and what became of it."""
        kind = self._kinds[number % len(self._kinds)]
        if self._process is None:
            self._start()
        self._ours.send((number, odd))
        made = self._outcome(_TO_MAKE)
        return kind, made if made.what != "read" else self._outcome(self._limit)

    def _outcome(self, limit: float) -> Outcome:
        """Wait for the outcome of a file, or for "read" when it is made, or the process is warm."""
        try:
            if self._ours.poll(limit):
                found: Outcome = self._ours.recv()
                self.most = max(self.most, found.memory)
                return found
            self.end()
            return Outcome("hang", f"longer than {limit:g} s")
        except EOFError:
            code = self._process.join() or self._process.exitcode
            self._process = None
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return Outcome("crash", name)

    def _start(self) -> None:
        self._ours, theirs = _FORK.Pipe()
        self._process = _FORK.Process(target=self._serve, args=(theirs,))
        self._process.start()
        theirs.close()
        warm = self._outcome(_TO_MAKE)
        self.first = self.first or warm.memory

    def _serve(self, connection: Connection) -> None:
        """In the process: read a good file of every kind, then those that are asked for."""
        self._ours.close()
        tempfile.tempdir = str(self._temporary)
        decoding.set_limits(LIMITS)
        torch.set_num_threads(1)
        for kind in self._kinds:
            warm = read(kind, self._path(kind), self._temporary)
            if warm.what != "read":
                raise RuntimeError(f"the good {kind.name} is {warm.what}: {warm.text}")
        connection.send(warm)
        datas = [kind.data for kind in self._kinds]
        with suppress(EOFError):
            while True:
                number, odd = connection.recv()
                rng = random.Random(f"{self._seed}/{odd}/{number}")
                kind = self._kinds[number % len(self._kinds)]
                path = self._path(kind)
                change(kind, rng, path, datas, odd)
                connection.send(Outcome("read"))
                connection.send(read(kind, path, self._temporary))
        os._exit(0)

    def _path(self, kind: Kind) -> Path:
        empty(self.file)
        return kind.prepare(self.file)

    def end(self) -> None:
        """End the process; its decoders end with it."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._ours.close()
            self._process = None


def numbers(files: int, structured: int) -> Iterator[tuple[int, bool]]:
    """Yield numbers of files, and whether they are odd rather than changed, in turns."""
    for number in range(max(files, structured)):
        if number < files:
            yield number, False
        if number < structured:
            yield number, True


def run(
    kinds: Sequence[Kind],
    options: argparse.Namespace,
    folder: Path,
) -> bool:
    """Check all files in a folder, print what was found, and return whether all is well."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    reader = Reader(kinds, options.seed, folder, options.limit)
    end = time.monotonic() + options.seconds
    try:
        for number, odd in numbers(options.files, options.structured):
            if time.monotonic() > end:
                break
            kind, found = reader.check(number, odd)
            counts[kind.name][found.what] += 1
            counts[kind.name]["odd"] += odd
            if found.what in (*BAD, "contained"):
                _report(kind, number, odd, found, reader.file, options.keep)
    finally:
        reader.end()
    return _summarise(counts, reader.most - reader.first)


def _report(
    kind: Kind, number: int, odd: bool, found: Outcome, file: Path, keep: Path | None
) -> None:
    label = f"{'structured' if odd else 'mutated'}-{number}"
    print(f"{found.what}: {kind.name}, {label}: {found.text}", flush=True)
    if keep is not None:
        shutil.copytree(file, keep / found.what / label, dirs_exist_ok=True)


def _summarise(counts: dict[str, Counter[str]], grown: int) -> bool:
    total: Counter[str] = sum(counts.values(), Counter())
    columns = ("odd", *CLASSES)
    print("| kind | files | " + " | ".join(columns) + " |\n" + "|---" * (2 + len(columns)) + "|")
    for name, own in [*sorted(counts.items()), ("all", total)]:
        cells = (sum(own[what] for what in CLASSES), *(own[what] for what in columns))
        print(f"| {name} | " + " | ".join(map(str, cells)) + " |")
    print(f"memory of the process that reads: {grown} MB more at most than after the good files")
    return grown <= MEMORY and not any(total[what] for what in BAD)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=1000, help="changed files")
    parser.add_argument("--structured", type=int, default=200, help="odd, well-formed files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for one file")
    parser.add_argument("--kind", action="append", help="only this file name; repeat for more")
    parser.add_argument("--keep", type=Path, help="folder for files that something is wrong with")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit code."""
    options = parse(arguments)
    kinds = [k for k in all_kinds() if options.kind is None or k.name in options.kind]
    with tempfile.TemporaryDirectory() as folder:
        return int(not run(kinds, options, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
