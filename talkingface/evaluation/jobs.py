"""Run the tasks of an evaluation by workers, with their results in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn, TypeVar

from talkingface.errors import OutputError
from talkingface.evaluation.files import Progress
from talkingface.training.loop import configure_malloc
from talkingface.workers import THIS_PROCESS, Workers

Task = TypeVar("Task")
R = TypeVar("R")


def run(
    work: Callable[[Task], Sequence[R]],
    tasks: Sequence[Task],
    workers: Workers = THIS_PROCESS,
    progress: Progress | None = None,
) -> list[R]:
    """Call work(task) for each task by workers; return all results in order of the tasks.

    Raises OutputError (a process died), and the errors of `Workers.run`.
    """
    done: dict[int, Sequence[R]] = {}
    workers = workers.limited(len(tasks))
    if not workers.is_this_process:
        work = partial(_work_elsewhere, work)
    for number, results in workers.run(work, tasks, _died):
        done[number] = results
        if progress is not None:
            progress(len(done), len(tasks))
    return [result for number in range(len(tasks)) for result in done[number]]


def _work_elsewhere(work: Callable[[Task], Sequence[R]], task: Task) -> Sequence[R]:
    configure_malloc()
    return work(task)


def _died(task: object) -> NoReturn:
    """Raise OutputError for a task at which processes died."""
    raise OutputError(
        "a process died (out of memory?): run the same command again with fewer --jobs; what was "
        "measured is kept"
    )
