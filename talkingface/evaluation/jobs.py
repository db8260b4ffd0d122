"""Run the tasks of an evaluation: in this process or in several, with their results in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from talkingface.data.workers import process_pool, start_worker
from talkingface.errors import BadRequest, OutputError
from talkingface.evaluation.files import Progress
from talkingface.training.loop import configure_malloc

Task = TypeVar("Task")
R = TypeVar("R")


def run(
    work: Callable[[Task], Sequence[R]],
    tasks: Sequence[Task],
    jobs: int = 1,
    progress: Progress | None = None,
) -> list[R]:
    """Call work(task) for each task in `jobs` processes; return all results in order of the tasks.

    Raises BadRequest (jobs), OutputError (a process died).
    """
    if jobs < 1:
        raise BadRequest(f"jobs is {jobs}: must be at least 1")
    done: dict[int, Sequence[R]] = {}

    def finished(index: int, results: Sequence[R]) -> None:
        done[index] = results
        if progress is not None:
            progress(len(done), len(tasks))

    jobs = min(jobs, len(tasks))
    if jobs <= 1:
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
    """Open a pool of processes of one thread each. Raises OutputError where one of them dies."""
    with process_pool(jobs, _start_worker) as pool:
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
    configure_malloc()
    start_worker()
