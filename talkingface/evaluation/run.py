"""Evaluate models on clips, in several processes and resumably; write results and tables.

Real video and the still picture are evaluated too. Each finished result is cached at once
(`results.ResultCache`): a stopped run resumes, and a run with more models evaluates only the new
ones. A clip that fails is a row with its reason. Errors in the arguments are raised before the
work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from uuid import uuid4

import numpy as np

from talkingface import media, weights
from talkingface.data.clip import TEST, UNSEEN, split_name
from talkingface.data.dataset import Cache, ClipInfo
from talkingface.data.shards import open_cache
from talkingface.errors import BadRequest, OutputError
from talkingface.evaluation import clip_tables, pairs, speed
from talkingface.evaluation.evaluator import (
    FROM_LANDMARKS,
    LIPS_ALONE,
    EvaluatedModel,
    Evaluator,
    open_model,
)
from talkingface.evaluation.files import Progress, ResultCache, key_of
from talkingface.evaluation.jobs import run as run_jobs
from talkingface.evaluation.learned_metrics import load_learned_metrics
from talkingface.evaluation.measures import LearnedMetric
from talkingface.evaluation.pairs import GENERATED, Pair
from talkingface.evaluation.results import (
    IDENTITIES,
    REAL,
    STILL,
    Identity,
    Result,
    check_rows,
    named_row,
    reason,
    write_results,
)
from talkingface.models.lipreader import GRID_WORDS, PublishedLipReader, SmallLipReader
from talkingface.training.reading import vocabulary_of
from talkingface.workers import THIS_PROCESS, Workers, locked, single_thread

EVALUATED_SPLITS = (TEST, UNSEEN)
SILENCE_EVERY = 5  # every so many clips, one is also generated from silence
RESULTS, TABLES, LATEX = "results.jsonl", "tables.md", "tables.tex"
CACHE_FILE = "measured.jsonl"
Task = tuple[str, bool]  # a clip's key, and whether it is also generated from silence


@dataclass(frozen=True)
class Plan:
    """Arguments of a worker process. Its paths are absolute.

    run: a name that no other evaluation has, for what processes keep open. out: folder of the
    evaluation. The last four: of clips.
    """

    run: str
    out: Path
    learned_metrics: tuple[str, ...]
    device: str
    author_compat: bool
    models: tuple[str, ...] = ()
    cache: Path = Path()
    judge: str | None = None
    identities: tuple[Identity, ...] = ()


@dataclass(frozen=True)
class Worker:
    """State of a worker process: the plan's files, opened once."""

    evaluator: Evaluator
    models: tuple[EvaluatedModel, ...]
    results: ResultCache[Result]


def evaluate(
    models: Sequence[str | Path],
    cache: Path,
    out: Path,
    *,
    judge: str | Path | None = None,
    learned_metrics: Sequence[str | Path] = (),
    identities: Sequence[Identity] = IDENTITIES,
    splits: Sequence[str] | None = None,
    clips: int | None = None,
    workers: Workers = THIS_PROCESS,
    device: str = "cpu",
    reference: str | None = None,
    author_compat: bool = False,
    progress: Progress | None = None,
) -> list[Result]:
    """Evaluate models on clips; write results, tables and each model's speed into the folder `out`.

    The same arguments give the same bytes of results and tables, for any workers, and for a resumed
    run. Real video and the still picture are evaluated too, unless every model is one of lips
    alone.

    models: names or weights files, as `open_model` reads them.
    cache: a training cache (see `data.dataset`).
    out: folder of results and tables.
    judge: weights of a lip reader, one with which no evaluated generator was trained. None leaves
    reading out.
    learned_metrics: names or weights files of further networks that measure.
    identities: kinds of identity pictures.
    splits: splits of the cache; by default all those that were held out.
    clips: largest number of clips of each split, spread evenly. None takes all.
    workers: what measures, on one thread each.
    device: "cpu", "cuda" or "cuda:N".
    reference: the row that the others are compared with; by default the first model.
    author_compat: True also measures as ATVGnet's script does.
    progress: function to call with (tasks done, tasks in all).

    Raises BadRequest, BadShard, BadWeights, UnknownModel, OutputError.
    """
    if clips is not None and clips < 1:
        raise BadRequest(f"clips is {clips}: must be at least 1")
    given = [str(model) for model in models]
    beside = [] if all(name.endswith(LIPS_ALONE) for name in given) else [REAL, STILL]
    names = tuple(dict.fromkeys([*beside, *given]))
    plan = replace(
        _plan(out, learned_metrics, device, author_compat),
        models=tuple(map(_absolute, names)),
        cache=cache.absolute(),
        judge=None if judge is None else _absolute(str(judge)),
        identities=tuple(identities),
    )
    with locked(out, "evaluating"), single_thread():
        worker = _open(plan)
        _check(worker, reference)
        splits = held_out_splits(worker.evaluator.cache) if splits is None else splits
        tasks = _tasks(worker.evaluator.cache, splits, clips)
        results = run_jobs(partial(_evaluate_clip, plan), tasks, workers, progress)
        _sort_by_row(results)
        first = _clip(worker.evaluator.cache, tasks[0][0])
        speeds = speed.evaluate_speed(worker.evaluator, worker.models, first)
        _write(out, results, reference)  # all files at the end: a stopped run is resumed
        speed.write(out, speeds)
    return results


def _plan(
    out: Path, learned_metrics: Sequence[str | Path], device: str, author_compat: bool
) -> Plan:
    learned = tuple(_absolute(str(name)) for name in learned_metrics)
    return Plan(uuid4().hex, out.absolute(), learned, device, author_compat)


def _absolute(model: str) -> str:
    """Return a model, as `open_model` reads it, for processes with another current folder."""
    label, source = named_row(model)
    if weights.is_file_name(source.removesuffix(FROM_LANDMARKS).removesuffix(LIPS_ALONE)):
        source = str(Path(source).absolute())
    return f"{label}={source}" if label else source


def _sort_by_row(results: list[Result]) -> None:
    """Bring the results of each row of a table together, rows in the order of their first."""
    rows = [*dict.fromkeys((r.split, r.identity, r.model) for r in results)]
    results.sort(key=lambda r: rows.index((r.split, r.identity, r.model)))


def evaluate_pairs(
    folder: Path,
    out: Path,
    *,
    learned_metrics: Sequence[str | Path] = (),
    workers: Workers = THIS_PROCESS,
    device: str = "cpu",
    author_compat: bool = False,
    progress: Progress | None = None,
) -> list[Result]:
    """Evaluate pairs of videos from a folder. The result has two rows: generated, and real.

    folder: the pairs, NAME/real.mp4 beside NAME/generated.mp4.
    out: folder of results and tables.
    learned_metrics, workers, device, author_compat, progress: see `evaluate`.

    Raises BadRequest (no pairs), BadWeights, UnknownModel, OutputError.
    """
    tasks = pairs.find(folder)
    plan = _plan(out, learned_metrics, device, author_compat)
    with locked(out, "evaluating"), single_thread():
        _learned_metrics(plan)  # an error is raised before the work
        results = run_jobs(partial(_evaluate_pair, plan), tasks, workers, progress)
        results.sort(key=lambda r: r.model != GENERATED)
        _write(out, results, GENERATED)
    return results


def outputs(out: Path, with_speed: bool = True) -> list[Path]:
    """Return the files that are written last, and that an earlier evaluation may have written."""
    more = (speed.SPEED, speed.SPEED_TABLE) if with_speed else ()
    return [out / name for name in (RESULTS, TABLES, LATEX, *more)]


def _write(out: Path, results: Sequence[Result], reference: str | None) -> None:
    write_results(out / RESULTS, results)
    media.write_text(out / TABLES, clip_tables.markdown(results, reference))
    media.write_text(out / LATEX, clip_tables.latex(results, reference))


def _check(worker: Worker, reference: str | None) -> None:
    """Check the models and the reference before the work. Raises BadRequest."""
    names = [model.name for model in worker.models]
    check_rows(names)
    for model in worker.models:
        if model.generator is not None:
            worker.evaluator.check(model.generator)
        if worker.evaluator.judge_sha256 in model.teachers:
            raise BadRequest(
                f"{model.name} learned from this judge: give another lip reader, one that it "
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
    """Return those of EVALUATED_SPLITS that the cache has; all of them if it has none."""
    there = {c.split for c in cache.clips if not c.silent}
    return [name for name in EVALUATED_SPLITS if name in there] or list(EVALUATED_SPLITS)


def speaking_clips(cache: Cache, split: str) -> list[ClipInfo]:
    """Return the clips of a split with speech, by name. Raises BadRequest if there is none."""
    speaking = sorted((c for c in cache.split(split) if not c.silent), key=lambda c: c.key)
    if not speaking:
        known = ", ".join(sorted({split_name(c.split) for c in cache.clips if not c.silent}))
        raise BadRequest(f"the cache has no clip of split {split!r}; it has {known}")
    return speaking


def spread(clips: Sequence[ClipInfo], most: int | None) -> list[ClipInfo]:
    """Return at most `most` of the clips, evenly spread from the first to the last."""
    many = len(clips) if most is None else min(most, len(clips))
    return [clips[i] for i in np.linspace(0, len(clips) - 1, many).round().astype(int)]


@lru_cache(maxsize=1)
def _open(plan: Plan) -> Worker:
    """Open the cache, the judge, the models and the cached results, once per process."""
    judge, sha256, vocabulary = None, "", GRID_WORDS
    if plan.judge is not None:
        loaded, info = weights.load_with_info(plan.judge, plan.device)
        if not isinstance(loaded, PublishedLipReader | SmallLipReader):
            raise BadRequest(f"{plan.judge} is a {info.family}, the judge must be a lip reader")
        judge, sha256, vocabulary = loaded, info.sha256, vocabulary_of(info)
    detections = plan.out / "detections"
    with media.writing(detections, OSError):
        detections.mkdir(exist_ok=True)
    evaluator = Evaluator(
        open_cache(plan.cache),
        judge,
        sha256,
        detections,
        plan.device,
        _learned_metrics(plan),
        plan.author_compat,
        vocabulary,
    )
    models = tuple(open_model(name, plan.device) for name in plan.models)
    return Worker(evaluator, models, _results(plan))


@lru_cache(maxsize=1)
def _learned_metrics(plan: Plan) -> tuple[LearnedMetric, ...]:
    return load_learned_metrics(plan.learned_metrics, plan.device)


@lru_cache(maxsize=1)
def _results(plan: Plan) -> ResultCache[Result]:
    return ResultCache(plan.out / CACHE_FILE, Result)


def _clip(cache: Cache, key: str) -> ClipInfo:
    return next(c for c in cache.clips if c.key == key)


def _evaluate_clip(plan: Plan, task: Task) -> list[Result]:
    """Evaluate every model on one clip, with each identity picture."""
    worker = _open(plan)
    key, silence = task
    clip = _clip(worker.evaluator.cache, key)
    return [
        _evaluate(worker, model, clip, identity, silence and identity == "first frame")
        for identity in plan.identities
        if worker.evaluator.portrait(clip, identity) is not None
        for model in worker.models
    ]


def _evaluate(
    worker: Worker, model: EvaluatedModel, clip: ClipInfo, identity: Identity, silence: bool
) -> Result:
    """Return the result of one model on one clip, cached or new. Failures are not cached."""
    evaluator = worker.evaluator
    key = key_of(evaluator.facts(model, clip, identity, silence))
    result = worker.results.get(key)
    if result is not None:
        return result
    try:
        result = evaluator.evaluate(model, clip, identity, silence)
    except OutputError:
        raise
    except Exception as error:  # noqa: BLE001 the other clips are evaluated all the same
        return evaluator.failed(model, clip, identity, reason(error))
    if result is None:
        raise ValueError(f"{clip.key} has no identity picture from {identity}")
    worker.results.add(key, result)
    return result


def _evaluate_pair(plan: Plan, pair: Pair) -> list[Result]:
    """Return both rows of a pair, as `_evaluate`."""
    cached, metrics = _results(plan), _learned_metrics(plan)
    try:
        facts = pairs.facts(pair, metrics, plan.author_compat)
        keys = [key_of({**facts, "row": row}) for row in (GENERATED, REAL)]
        known = [result for key in keys if (result := cached.get(key)) is not None]
        if len(known) == len(keys):
            return known
        results = pairs.evaluate_pair(pair, metrics, plan.author_compat)
    except OutputError:
        raise
    except Exception as error:  # noqa: BLE001 the other pairs are evaluated all the same
        return pairs.failed(pair, reason(error))
    for key, result in zip(keys, results, strict=True):
        cached.add(key, result)
    return results
