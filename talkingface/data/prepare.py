"""Preparation of a corpus: extract clips in parallel and write shards, resumably.

A shard holds 64 recordings. Its report lies beside it and is written last. A run that was killed
resumes with the shards that have no report. Several runs on one folder each have their own share
(`part`). The same recordings give the same bytes, on any number of processes.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from talkingface import media
from talkingface.data import filters as limits
from talkingface.data import report, shards, sources
from talkingface.data.clip import Clip
from talkingface.data.extraction import ClipExtraction, ExtractedClip, bytes_of, clips_of
from talkingface.data.filters import Drop, Filters
from talkingface.data.report import Outcome, Summary
from talkingface.data.sources import Corpus, Recording
from talkingface.errors import BadRequest, OutputError
from talkingface.geometry import CropSpec
from talkingface.workers import ALL_CORES, Workers, locked, single_thread

Progress = Callable[[int, int], None]  # recordings done, of how many
Part = tuple[int, int]  # the i-th of n shares, from 1
Extract = Callable[[Recording], list[ExtractedClip]]
Group = tuple[int, list[Recording]]  # a shard's number and its recordings

CLIPS_PER_SHARD = 64  # recordings
WHOLE: Part = (1, 1)


def prepare(
    source: Path,
    out: Path,
    *,
    corpus: str = "grid",
    natural_pose: bool | None = None,
    filters: Filters | None = None,
    workers: Workers = ALL_CORES,
    held_out: Sequence[str] | None = None,
    portraits: Path | None = None,
    part: Part = WHOLE,
    progress: Progress | None = None,
) -> Summary:
    """Turn the corpus in `source` into shards in the folder `out`.

    corpus: a name of `sources.CORPORA`. natural_pose: one crop per clip, the head moves in it [as
    the corpus says]. filters: which clips are kept [`default_filters`]. workers: what extracts; a
    cluster gets a shard at a time. held_out: speakers kept from training [the corpus's]. portraits:
    a folder of still pictures to add. part: the share of a job array's task.
    A second call resumes where the first stopped, or does nothing. It retries only recordings that
    could not be read and have changed since. Raises BadRequest (nothing to prepare, or `out` holds
    something else), UnknownModel, BadWeights, OutputError.
    """
    _check_request(corpus, part)
    entry = sources.CORPORA[corpus]
    source = source.absolute()  # workers may have another current folder
    recordings = _recordings(entry, source, held_out, portraits)
    pose = entry.natural_pose if natural_pose is None else natural_pose
    filters = default_filters(corpus) if filters is None else filters
    limits.require_sync(filters)
    options = ClipExtraction(CropSpec(), pose, filters, entry.label, packed=True)
    name = ".lock" if part == WHOLE else f".lock-{part[0]}-of-{part[1]}"
    workers.check()
    with locked(out, "writing shards", name), single_thread():
        _check_plan(out, source, recordings, corpus, options)
        work = _Work(out, recordings, options, part, progress)
        if workers.engine == "dask" and work.todo:
            work.write_on_cluster(workers.limited(len(work.todo)))
        else:
            work.write(work.todo, workers.limited(work.recordings))
        return _summary(work)


def _check_request(corpus: str, part: Part) -> None:
    if corpus not in sources.CORPORA:
        known = ", ".join(sources.CORPORA)
        raise BadRequest(f"corpus {corpus!r} is unknown; expected one of: {known}")
    if not 1 <= part[0] <= part[1]:
        raise BadRequest(f"--shard {part[0]}/{part[1]}: expected i/N with 1 <= i <= N")


def default_filters(corpus: str) -> Filters:
    """Return the limits for a corpus. GRID's sound is not moved, as for the pretrained weights."""
    return Filters(action="keep") if corpus == sources.GRID.name else Filters()


# --- the work -------------------------------------------------------------------------------------


class _Work:
    """The recordings of each shard, and the shards of this share that are still to be written."""

    def __init__(
        self,
        out: Path,
        recordings: list[Recording],
        options: ClipExtraction,
        part: Part,
        progress: Progress | None,
    ) -> None:
        self.out, self._progress = out, progress
        self.extract = partial(clips_of, options=options)
        starts = range(0, len(recordings), CLIPS_PER_SHARD)
        self.all = [recordings[start : start + CLIPS_PER_SHARD] for start in starts]
        self.share = range(part[0] - 1, len(self.all), part[1])
        missing = [n for n in self.share if not _is_done(out, n, self.all)]
        self.todo: list[Group] = [(number, self.all[number]) for number in missing]
        self.recordings = sum(len(group) for _, group in self.todo)
        self._total = sum(len(self.all[n]) for n in self.share)
        self._done = self._total - self.recordings
        self.advance(0)

    def advance(self, more: int) -> None:
        """Report that so many more recordings are done."""
        self._done += more
        if self._progress is not None:
            self._progress(self._done, self._total)

    def write(self, groups: list[Group], workers: Workers) -> None:
        """Write shards with processes of this machine, recording by recording."""
        recordings = [recording for _, group in groups for recording in group]
        with closing(workers.run(self.extract, recordings, _crashed, in_order=True)) as results:
            for number, group in groups:
                write_shard(self.out, number, self._counted(itertools.islice(results, len(group))))

    def _counted(
        self, results: Iterable[tuple[int, list[ExtractedClip]]]
    ) -> Iterator[list[ExtractedClip]]:
        for _, result in results:
            yield result
            self.advance(1)

    def write_on_cluster(self, workers: Workers) -> None:
        """Write the shards on a cluster; each is written by the worker that extracts it."""
        work = partial(shard_of, self.out.absolute(), self.extract)
        with closing(workers.run(work, self.todo, self._write_here)) as results:
            for _, recordings in results:
                self.advance(recordings)

    def _write_here(self, group: Group) -> int:
        """Write a shard at which workers died, in processes here that find the recording."""
        self.write([group], Workers(jobs=2))
        return 0  # they are counted already


def _is_done(out: Path, number: int, groups: list[list[Recording]]) -> bool:
    """Return whether a shard exists and none of its unreadable recordings has changed since."""
    path = _report(out, number)
    if not path.is_file():
        return False
    sizes = {o.key: o.size for o in report.read(path) if o.result == limits.UNREADABLE}
    return all(bytes_of(r) == sizes[r.key] for r in groups[number] if sizes.get(r.key))


def _report(out: Path, number: int) -> Path:
    return out / f"shard-{number:05d}.json"


def _crashed(recording: Recording) -> list[ExtractedClip]:
    outcome = Outcome(recording.key, recording.speaker, recording.split, limits.KEPT)
    return [ExtractedClip(outcome.dropped(Drop(limits.CRASHED), recording.path))]


def shard_of(out: Path, extract: Extract, group: Group) -> int:
    """Extract and write one shard in this process; return the number of its recordings."""
    number, recordings = group
    if not _report(out, number).is_file():  # an earlier try may have written it
        write_shard(out, number, map(extract, recordings))
    return len(recordings)


def write_shard(out: Path, number: int, results: Iterable[list[ExtractedClip]]) -> None:
    """Write one shard and, when it is complete, its report. Raises OutputError."""
    outcomes: list[Outcome] = []

    def kept() -> Iterator[Clip | shards.Packed]:
        for result in results:
            for made in result:
                outcomes.append(made.outcome)
                if made.clip is not None:
                    yield made.clip

    path = _report(out, number)
    try:
        shards.write(path.with_suffix(".tar"), kept())
    except OutputError:
        if not path.is_file():
            raise
        return  # another process has written it meanwhile
    report.write(path, outcomes)


def _summary(work: _Work) -> Summary:
    """Return the summary of the share; once all reports exist, write the list of dropped clips."""
    out = work.out
    there = [n for n in range(len(work.all)) if _report(out, n).is_file()]
    missing = len(work.all) - len(there)
    if missing == 0:
        with (out / ".dropped.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            every = (outcome for n in there for outcome in report.read(_report(out, n)))
            report.write_dropped(out, every)
    own = [n for n in there if n in work.share]
    outcomes = (replace(o, measures={}) for n in own for o in report.read(_report(out, n)))
    return Summary(out, tuple(outcomes), missing)


# --- the folder -----------------------------------------------------------------------------------


def _recordings(
    corpus: Corpus, source: Path, held_out: Sequence[str] | None, portraits: Path | None
) -> list[Recording]:
    """Return the recordings of a corpus and of a folder of portraits. Raises BadRequest."""
    recordings = corpus.find(source, held_out)
    if portraits is not None:
        recordings += sources.portraits(portraits.absolute())
    seen: dict[str, Path] = {}
    for recording in recordings:
        if recording.key in seen:
            raise BadRequest(
                f"{recording.path}: gives the clip {recording.key}, as {seen[recording.key]} does; "
                "rename or remove one"
            )
        seen[recording.key] = recording.path
    return recordings


def _check_plan(
    out: Path, source: Path, recordings: list[Recording], corpus: str, options: ClipExtraction
) -> None:
    """Write the plan of the shards; refuse to mix two corpora or settings in one folder."""
    digest = hashlib.sha256()
    for r in recordings:
        inside = r.path.relative_to(source) if r.path.is_relative_to(source) else r.path.name
        row = (r.key, str(inside), r.speaker, r.split, r.sentence, r.words, dict(r.facts))
        digest.update(json.dumps(row).encode())
    facts: dict[str, Any] = {
        "version": shards.VERSION,
        "corpus": corpus,
        "natural_pose": options.natural_pose,
        "filters": asdict(options.filters),
        "crop": asdict(options.spec),
        "recordings": len(recordings),
        "per_shard": CLIPS_PER_SHARD,
    }
    plan = json.dumps({**facts, "sha256": digest.hexdigest()}, indent=1)
    path = out / "plan.json"
    if path.is_file() and path.read_text() == plan:
        return
    if path.is_file():
        raise BadRequest(
            f"{out}: holds shards of other recordings, splits or options, or of another version "
            f"(see {path.name}); give an empty folder, or remove it"
        )
    if any(out.glob(shards.PATTERN)):
        raise BadRequest(f"{out}: holds shards, but no {path.name}; give an empty folder")
    media.write_text(path, plan)
