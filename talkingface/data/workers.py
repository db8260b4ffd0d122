"""Worker processes of this machine, or of a Dask cluster, with retries.

The tasks of a killed worker are done again. A recording at which a process dies twice, on its own,
is reported as crashed and does not stop the others.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import torch

from talkingface.errors import BadRequest, OutputError

if TYPE_CHECKING:
    from distributed import Client

Task = TypeVar("Task")
Result = TypeVar("Result")
_AHEAD = 3  # tasks per thread of a cluster that its scheduler gets in advance
_TRIES = 2  # retries, in a process of its own, of a task at which a process died


def start_worker() -> None:
    """Initialise a worker process: one thread, and exit when the parent is gone."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:  # killed hard, the parent cannot end its workers

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()


@contextmanager
def single_thread() -> Iterator[None]:
    """Run torch and OpenCV on one thread, and restore the setting afterwards.

    Sums in another order would give other numbers for other --jobs.
    """
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def in_order(
    work: Callable[[Task], Result],
    tasks: Sequence[Task],
    jobs: int,
    crashed: Callable[[Task], Result],
) -> Generator[Result, None, None]:
    """Yield work(task) of each task, in order; a few are computed in advance, to bound memory.

    jobs: processes; 1 works in this process. crashed(task): the result of a task at which its
    process died, alone, twice.
    """
    if jobs == 1:
        with single_thread():
            yield from map(work, tasks)
        return
    waiting: deque[tuple[Task, Future[Result]]] = deque()
    source, ahead = iter(tasks), 2 * jobs + 2
    pool = _pool(jobs)
    try:
        while True:
            for task in itertools.islice(source, ahead - len(waiting)):
                waiting.append((task, _submitted(pool, work, task)))
            if not waiting:
                return
            try:
                result = waiting[0][1].result()
            except BrokenProcessPool:
                pool.shutdown(wait=False, cancel_futures=True)
                waiting = _suspected(waiting, work, jobs + 1, crashed)
                pool = _pool(jobs)
                waiting = deque((t, _again(pool, work, t, f)) for t, f in waiting)
                continue
            waiting.popleft()
            yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _pool(jobs: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=start_worker)


def _submitted(
    pool: ProcessPoolExecutor, work: Callable[[Task], Result], task: Task
) -> Future[Result]:
    """Submit a task; return a failed future where the pool is broken already."""
    try:
        return pool.submit(work, task)
    except BrokenProcessPool as error:
        failed: Future[Result] = Future()
        failed.set_exception(error)
        return failed


def _is_finished(future: Future[Result]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _again(
    pool: ProcessPoolExecutor, work: Callable[[Task], Result], task: Task, before: Future[Result]
) -> Future[Result]:
    """Return the future if it was finished before its pool broke, else submit the task again."""
    return before if _is_finished(before) else _submitted(pool, work, task)


def _suspected(
    waiting: deque[tuple[Task, Future[Result]]],
    work: Callable[[Task], Result],
    running: int,
    crashed: Callable[[Task], Result],
) -> deque[tuple[Task, Future[Result]]]:
    """Retry, one by one, the tasks that may have killed a process, up to the one that did.

    running: the number of tasks that were running; they are the first unfinished ones.
    """
    settled: deque[tuple[Task, Future[Result]]] = deque()
    pool: ProcessPoolExecutor | None = None
    for task, future in waiting:
        tries = 0 if _is_finished(future) or running == 0 else _TRIES
        running -= tries > 0
        while tries > 0:
            pool = pool or _pool(1)
            future = _submitted(pool, work, task)
            tries -= 1
            if isinstance(future.exception(), BrokenProcessPool):
                pool.shutdown(wait=False)
                pool = None
                if tries == 0:
                    future, running = Future(), 0
                    future.set_result(crashed(task))
            else:
                tries = 0
        settled.append((task, future))
    if pool is not None:
        pool.shutdown()
    return settled


@contextmanager
def cluster(scheduler: str | None, jobs: int) -> Iterator[Client]:
    """Open a Dask client of the scheduler at this address, or of processes of this machine.

    jobs: processes, where there is no scheduler. Raises BadRequest when Dask is missing,
    OutputError when no scheduler answers at the address.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise BadRequest(
            "--engine dask needs Dask: pip install 'talkingface[cluster]' here and where the "
            "workers run"
        ) from error
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=30)
        except (OSError, ValueError, TimeoutError) as error:
            raise OutputError(
                f"{scheduler}: no Dask scheduler answers ({error}); start one with `dask "
                "scheduler`, and give its address, as tcp://host:8786"
            ) from error
        with client:
            yield client
        return
    with (
        LocalCluster(
            n_workers=jobs, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
        ) as local,
        Client(local) as client,
    ):
        yield client


def on_cluster(
    client: Client, work: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]
) -> Iterator[tuple[int, BaseException | None]]:
    """Run work(*task) of each task on a cluster; yield the number of each task as it finishes.

    The scheduler gets a few tasks for each thread of the cluster at a time. Beside the number comes
    None, or the error of a task at which workers kept dying (Dask gives up after four). Other
    errors are raised.
    """
    from distributed import KilledWorker, as_completed

    source, numbers, running = enumerate(tasks), dict[str, int](), as_completed([])

    def submit() -> None:
        threads = max(1, sum(client.nthreads().values()))  # workers come and go
        for number, task in itertools.islice(source, max(1, _AHEAD * threads - len(numbers))):
            future = client.submit(work, *task, pure=False, retries=0)
            numbers[future.key] = number
            running.add(future)

    submit()
    for future in running:
        error = future.exception()
        if error is not None and not isinstance(error, KilledWorker):
            raise error
        yield numbers.pop(future.key), error
        submit()
