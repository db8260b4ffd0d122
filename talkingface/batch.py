"""Batches: many jobs, done in this process, in several, or by a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from uuid import uuid4

from talkingface import pipeline, weights
from talkingface.errors import OutputError
from talkingface.jobs import DubJob, Job, JobResult, JobRunner
from talkingface.types import PathLike
from talkingface.workers import ALL_CORES, Workers, single_thread

Progress = Callable[[float, int], None]  # called with (videos done, videos in all)
_Numbered = tuple[int, Job | DubJob]


@dataclass(frozen=True)
class _Model:
    """The model of a batch. batch: a name that no other batch has: files change between them."""

    name: str
    device: str
    batch: str


def run_batch(
    jobs: Sequence[Job | DubJob],
    model: PathLike = "cran",
    device: str = "cpu",
    workers: Workers = ALL_CORES,
    progress: Progress | None = None,
) -> Iterator[JobResult]:
    """Do jobs, and yield the result of each when it is done.

    A job that fails, or at which processes die, does not stop the others. The files are the same
    for any workers; those of a cluster must see all files under the same names.

    jobs: of one model. Jobs of the same face that follow each other share its preparation.
    model, device: see `pipeline.load`.
    workers: without a number of processes each gets two jobs or more.
    progress: function to call after every video, and in a single process after every frame.

    Raises UnknownModel, BadWeights, BadRequest (the device), and the errors of `Workers.run`.
    """
    if workers.engine == "local":  # machines of a cluster have devices of their own
        device = str(pipeline.find_device(device))
    # a process costs as much as two short videos before its first one
    most = len(jobs) if workers.jobs else len(jobs) // 2
    workers = workers.for_device(device).limited(most)
    is_file = isinstance(model, Path) or weights.is_file_name(model)
    name = str(Path(model).absolute() if is_file else model)
    advance = None
    if progress is not None and workers.is_this_process:
        advance = partial(_advance, progress, len(jobs))
    work = partial(_attempt, _Model(name, device, uuid4().hex), advance)
    elsewhere = workers.engine == "dask"
    tasks = list(enumerate(job.absolute() if elsewhere else job for job in jobs))
    with single_thread(), closing(workers.run(work, tasks, _crashed)) as results:
        for done, (number, result) in enumerate(results, start=1):
            if progress is not None:
                progress(done, len(jobs))
            yield replace(result, job=jobs[number])


def _advance(progress: Progress, count: int, number: int, frames: int, in_all: int) -> None:
    """Show so many videos, and a part of the next, as done."""
    progress(number + frames / in_all, count)


def _attempt(
    model: _Model, advance: Callable[[int, int, int], None] | None, task: _Numbered
) -> JobResult:
    """Do a job in a process of the batch."""
    number, job = task
    return _runner(model).attempt(job, advance and partial(advance, number))


@lru_cache(maxsize=1)
def _runner(model: _Model) -> JobRunner:
    """Load the model once in each process."""
    return JobRunner(pipeline.load(model.name, model.device))


def _crashed(task: _Numbered) -> JobResult:
    _, job = task
    error = OutputError(
        f"{job.output}: the process died that made it (out of memory?); try fewer --jobs"
    )
    return JobResult(job, 0, 0.0, error)
