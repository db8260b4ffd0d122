"""All of it: models x clips x measures -> results.jsonl -> tables, in processes, resumable.

Real video and the still picture are measured beside. What is finished is kept at once (`Measured`),
so that a run that was stopped goes on, and one with more models measures only those. A clip that
fails is a row with its reason; what cannot work at all is said before the work.
"""

from __future__ import annotations

import fcntl
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from talkingface import media, weights
from talkingface.data.dataset import Cache, ClipInfo
from talkingface.data.shards import open_cache
from talkingface.data.workers import single_thread, start_worker
from talkingface.errors import BadRequest, OutputError
from talkingface.evaluation import pairs, speed, tables
from talkingface.evaluation.bench import LIPS_ALONE, Bench, Candidate, open_candidate
from talkingface.evaluation.experts import load_experts
from talkingface.evaluation.measures import Expert
from talkingface.evaluation.pairs import GENERATED, Pair
from talkingface.evaluation.results import (
    IDENTITIES,
    REAL,
    STILL,
    Identity,
    Measured,
    Result,
    check_rows,
    key_of,
    reason,
    write_results,
    write_text,
)
from talkingface.models.lipreader import GRID_WORDS, LeanLipReader, PublishedLipReader
from talkingface.training.loop import keep_memory
from talkingface.training.reading import vocabulary_of

Progress = Callable[[int, int], None]  # clips done, clips in all
HELD_OUT = ("test", "stranger")
SILENCE_EVERY = 5  # one clip in so many is also driven by silence
RESULTS, TABLES, LATEX = "results.jsonl", "tables.md", "tables.tex"
Task = tuple[str, bool]  # a clip's key, and whether it is driven by silence too
Work = TypeVar("Work")


@dataclass(frozen=True)
class Measures:
    """What is measured, and where it is kept. experts: names or weights files."""

    out: Path
    experts: tuple[str, ...]
    device: str
    author_compat: bool


@dataclass(frozen=True)
class Plan:
    """Everything a worker process needs to know."""

    models: tuple[str, ...]
    cache: Path
    judge: str | None
    identities: tuple[Identity, ...]
    measures: Measures


@dataclass(frozen=True)
class Opened:
    """The plan's files, opened once per process."""

    bench: Bench
    candidates: tuple[Candidate, ...]
    measured: Measured


def evaluate(
    models: Sequence[str | Path],
    cache: Path,
    out: Path,
    *,
    judge: str | Path | None = None,
    experts: Sequence[str | Path] = (),
    identities: Sequence[Identity] = IDENTITIES,
    splits: Sequence[str] | None = None,
    clips: int | None = None,
    jobs: int = 1,
    device: str = "cpu",
    reference: str | None = None,
    author_compat: bool = False,
    progress: Progress | None = None,
) -> list[Result]:
    """Measure models on clips; write results, tables and each model's speed into the folder `out`.

    models: names or weights files, as `open_candidate` reads them; real video and the still picture
    are measured too, unless of all models the lips alone are. cache: a training cache (see
    `data.dataset`). judge: a lip reader's weights, one that no evaluated generator has learned
    from; None leaves reading out. experts: weights of further networks that measure (`experts.py`).
    identities: which pictures. splits: of the cache [`held_out_splits`]. clips: at most so many of
    each split, spread evenly. jobs: processes, of one thread each. reference: the row that the
    others are compared with [the first model]. author_compat: also measure as ATVGnet's script
    does. The same arguments give the same bytes of results and tables, whatever the jobs, and
    whether a run was interrupted or not. Raises BadRequest, BadShard, BadWeights, UnknownModel,
    OutputError.
    """
    if clips is not None and clips < 1:
        raise BadRequest(f"clips is {clips}: must be at least 1")
    given = [str(model) for model in models]
    beside = [] if all(name.endswith(LIPS_ALONE) for name in given) else [REAL, STILL]
    names = tuple(dict.fromkeys([*beside, *given]))
    how = Measures(out, tuple(map(str, experts)), device, author_compat)
    plan = Plan(names, cache, None if judge is None else str(judge), tuple(identities), how)
    _forget()
    with _folder(out), single_thread():
        opened = _open(plan)
        _check(opened, reference)
        splits = held_out_splits(opened.bench.cache) if splits is None else splits
        tasks = _tasks(opened.bench.cache, splits, clips)
        results = _run(partial(_measure_clip, plan), tasks, jobs, progress)
        rows = [*dict.fromkeys((r.split, r.identity, r.model) for r in results)]
        results.sort(key=lambda r: rows.index((r.split, r.identity, r.model)))
        first = _clip(opened.bench.cache, tasks[0][0])
        speeds = speed.measure(opened.bench, opened.candidates, first)
        _write(out, results, reference)  # all files at the end: until then a stopped run goes on
        speed.write(out, speeds)
    return results


def evaluate_pairs(
    folder: Path,
    out: Path,
    *,
    experts: Sequence[str | Path] = (),
    jobs: int = 1,
    device: str = "cpu",
    author_compat: bool = False,
    progress: Progress | None = None,
) -> list[Result]:
    """Measure somebody's own pairs of videos (see `pairs`), two rows: generated, and real.

    Writes results and tables into the folder `out`. experts, jobs, author_compat: see `evaluate`.
    Raises BadRequest (no pairs), BadWeights, UnknownModel, OutputError.
    """
    tasks = pairs.find(folder)
    how = Measures(out, tuple(map(str, experts)), device, author_compat)
    _forget()
    with _folder(out), single_thread():
        _experts(how)  # what cannot be opened is said before the work
        results = _run(partial(_measure_pair, how), tasks, jobs, progress)
        results.sort(key=lambda r: r.model != GENERATED)
        _write(out, results, GENERATED)
    return results


def outputs(out: Path, with_speed: bool = True) -> list[Path]:
    """The files that are written last, and that an earlier evaluation may have left in a folder."""
    more = (speed.SPEED, speed.SPEED_TABLE) if with_speed else ()
    return [out / name for name in (RESULTS, TABLES, LATEX, *more)]


def _write(out: Path, results: Sequence[Result], reference: str | None) -> None:
    write_results(out / RESULTS, results)
    write_text(out / TABLES, tables.markdown(results, reference))
    write_text(out / LATEX, tables.latex(results, reference))


def _check(opened: Opened, reference: str | None) -> None:
    """What can be wrong with models before any is run. Raises BadRequest."""
    names = [candidate.name for candidate in opened.candidates]
    check_rows(names)
    for candidate in opened.candidates:
        if candidate.generator is not None:
            opened.bench.check(candidate.generator)
        if opened.bench.judge_sha256 in candidate.taught_by:
            raise BadRequest(
                f"{candidate.name} learned from this judge: give another lip reader, one that it "
                "never saw"
            )
    if reference is not None and reference not in names:
        raise BadRequest(f"no row is called {reference!r} to compare with; {', '.join(names)} are")


# --- clips ----------------------------------------------------------------------------------------


def _tasks(cache: Cache, splits: Sequence[str], clips: int | None) -> list[Task]:
    tasks: list[Task] = []
    for split in splits:
        picked = spread(speaking_clips(cache, split), clips)
        tasks += [(clip.key, n % SILENCE_EVERY == 0) for n, clip in enumerate(picked)]
    return tasks


def held_out_splits(cache: Cache) -> list[str]:
    """Of "test" and "stranger" those that the cache has; both where it has neither."""
    there = {c.split for c in cache.clips if not c.silent}
    return [name for name in HELD_OUT if name in there] or list(HELD_OUT)


def speaking_clips(cache: Cache, split: str) -> list[ClipInfo]:
    """The clips of a split in which somebody speaks, by name. Raises BadRequest for none."""
    speaking = sorted((c for c in cache.split(split) if not c.silent), key=lambda c: c.key)
    if not speaking:
        known = ", ".join(sorted({c.split for c in cache.clips if not c.silent}))
        raise BadRequest(f"the cache has no clip of split {split!r}; it has {known}")
    return speaking


def spread(clips: Sequence[ClipInfo], most: int | None) -> list[ClipInfo]:
    """At most so many of the clips, evenly from the first to the last."""
    many = len(clips) if most is None else min(most, len(clips))
    return [clips[i] for i in np.linspace(0, len(clips) - 1, many).round().astype(int)]


@lru_cache(maxsize=1)
def _open(plan: Plan) -> Opened:
    """The cache, the judge, the models and what was measured: opened once per process."""
    how = plan.measures
    judge, sha256, vocabulary = None, "", GRID_WORDS
    if plan.judge is not None:
        loaded, info = weights.load_with_info(plan.judge, how.device)
        if not isinstance(loaded, PublishedLipReader | LeanLipReader):
            raise BadRequest(f"{plan.judge} is a {info.family}, the judge must be a lip reader")
        judge, sha256, vocabulary = loaded, info.sha256, vocabulary_of(info)
    detections = how.out / "detections"
    with media.writing(detections, OSError):
        detections.mkdir(exist_ok=True)
    bench = Bench(
        open_cache(plan.cache),
        judge,
        sha256,
        detections,
        how.device,
        _experts(how),
        how.author_compat,
        vocabulary,
    )
    candidates = tuple(open_candidate(name, how.device) for name in plan.models)
    return Opened(bench, candidates, _measured(how.out))


@lru_cache(maxsize=1)
def _experts(how: Measures) -> tuple[Expert, ...]:
    return load_experts(how.experts, how.device)


@lru_cache(maxsize=1)
def _measured(out: Path) -> Measured:
    return Measured(out)


def _forget() -> None:
    """What an earlier call opened: a weights file may have changed since."""
    _open.cache_clear()
    _experts.cache_clear()
    _measured.cache_clear()


def _clip(cache: Cache, key: str) -> ClipInfo:
    return next(c for c in cache.clips if c.key == key)


def _measure_clip(plan: Plan, task: Task) -> list[Result]:
    """Every model on one clip, with either identity picture."""
    opened = _open(plan)
    key, silence = task
    clip = _clip(opened.bench.cache, key)
    return [
        _measure(opened, candidate, clip, identity, silence and identity == "first frame")
        for identity in plan.identities
        if opened.bench.portrait(clip, identity) is not None
        for candidate in opened.candidates
    ]


def _measure(
    opened: Opened, candidate: Candidate, clip: ClipInfo, identity: Identity, silence: bool
) -> Result:
    """One model on one clip: as it was measured before, or now; a failure is tried again."""
    bench = opened.bench
    key = key_of(bench.facts(candidate, clip, identity, silence))
    result = opened.measured.get(key)
    if result is not None:
        return result
    try:
        result = bench.measure(candidate, clip, identity, silence)
    except OutputError:
        raise
    except Exception as error:  # noqa: BLE001 whatever a model does to a clip, the others go on
        return bench.failed(candidate, clip, identity, reason(error))
    if result is None:
        raise ValueError(f"{clip.key} has no identity picture from {identity}")
    opened.measured.add(key, result)
    return result


def _measure_pair(how: Measures, pair: Pair) -> list[Result]:
    """Both rows of a pair, as `_measure`."""
    measured, experts = _measured(how.out), _experts(how)
    try:
        facts = pairs.facts(pair, experts, how.author_compat)
        keys = [key_of({**facts, "row": row}) for row in (GENERATED, REAL)]
        known = [result for key in keys if (result := measured.get(key)) is not None]
        if len(known) == len(keys):
            return known
        results = pairs.measure(pair, experts, how.author_compat)
    except OutputError:
        raise
    except Exception as error:  # noqa: BLE001 whatever is wrong with a pair, the others go on
        return pairs.failed(pair, reason(error))
    for key, result in zip(keys, results, strict=True):
        measured.add(key, result)
    return results


# --- processes ------------------------------------------------------------------------------------


def _run(
    work: Callable[[Work], list[Result]],
    tasks: Sequence[Work],
    jobs: int,
    progress: Progress | None,
) -> list[Result]:
    """work(task) of each, in as many processes as wanted; the results in the order of the tasks."""
    if jobs < 1:
        raise BadRequest(f"jobs is {jobs}: must be at least 1")
    done: dict[int, list[Result]] = {}

    def finished(index: int, results: list[Result]) -> None:
        done[index] = results
        if progress is not None:
            progress(len(done), len(tasks))

    jobs = min(jobs, len(tasks))
    if jobs == 1:
        for index, task in enumerate(tasks):
            finished(index, work(task))
    else:
        with _pool(jobs) as pool:
            waiting = {pool.submit(work, task): index for index, task in enumerate(tasks)}
            for future in as_completed(waiting):
                finished(waiting[future], future.result())
    return [result for index in range(len(tasks)) for result in done[index]]


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes of one thread each: more only wait for each other. Forked torch hangs, so: spawn"""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, _start_worker) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise OutputError(
                "a process died (out of memory?): run the same command again with fewer --jobs; "
                "what was measured is kept"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker() -> None:
    keep_memory()
    start_worker()


@contextmanager
def _folder(out: Path) -> Iterator[None]:
    """The folder `out`, made where it is missing, for this process and its workers alone."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file; give the name of a folder")
    with media.writing(out, OSError):
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"{out}: another process is evaluating here; wait") from error
        yield
