"""Worker processes of this machine, or of a Dask cluster, with retries.

The tasks of a killed worker are done again. A task at which a process dies twice, on its own, is
reported as crashed and does not stop the others.
"""

from __future__ import annotations

import fcntl
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import cv2
import torch

from talkingface import media
from talkingface.errors import BadRequest, OutputError

if TYPE_CHECKING:
    from distributed import Client

Task = TypeVar("Task")
Result = TypeVar("Result")
_AHEAD = 3  # tasks per thread of a cluster that its scheduler gets in advance
_TRIES = 2  # of a task that was not done when a process died


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


def process_pool(
    jobs: int, start: Callable[..., None] = start_worker, *arguments: Any
) -> ProcessPoolExecutor:
    """Return a pool of so many processes, of one thread each.

    start(*arguments) runs first in each; one of your own calls `start_worker`. They are spawned,
    because torch's threads do not survive a fork.
    """
    return _Pool(jobs, multiprocessing.get_context("spawn"), start, arguments)


class _Pool(ProcessPoolExecutor):
    """Pool of processes that do not see Ctrl-C or SIGHUP; their parent ends them.

    Both reach all processes of a command, also those that have not begun yet.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit work; processes that start meanwhile inherit that these are blocked."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def in_order(
    work: Callable[[Task], Result],
    tasks: Iterable[Task],
    jobs: int,
    crashed: Callable[[Task], Result],
) -> Generator[Result, None, None]:
    """Yield work(task) of each task, in order; a few are computed in advance, to bound memory.

    jobs: processes; 1 works in this process. A process that dies takes its pool with it: what was
    not done is done again, one task at a time in a process of its own. crashed(task): the result of
    a task at which that process died too, twice.
    """
    if jobs == 1:
        with single_thread():
            yield from map(work, tasks)
        return
    source, waiting = iter(tasks), deque[tuple[Task, Future[Result]]]()
    pool, alone = process_pool(jobs), _Alone(work, crashed)
    try:
        while True:
            for task in itertools.islice(source, 2 * jobs + 2 - len(waiting)):
                try:
                    future = pool.submit(work, task)
                except BrokenProcessPool:
                    pool.shutdown(wait=False)
                    pool = process_pool(jobs)
                    future = pool.submit(work, task)
                waiting.append((task, future))
            if not waiting:
                return
            task, future = waiting.popleft()
            try:
                result = future.result()
            except BrokenProcessPool:
                result = alone.run(task)
            yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        alone.close()


class _Alone(Generic[Task, Result]):
    """A process that does one task at a time, so that it is known at which task it dies."""

    def __init__(self, work: Callable[[Task], Result], crashed: Callable[[Task], Result]) -> None:
        self._work, self._crashed = work, crashed
        self._pool: ProcessPoolExecutor | None = None

    def run(self, task: Task) -> Result:
        """Return work(task), or crashed(task) where a process dies at it each time."""
        for _ in range(_TRIES):
            self._pool = self._pool or process_pool(1)
            with suppress(BrokenProcessPool):
                return self._pool.submit(self._work, task).result()
            self.close()
        return self._crashed(task)

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


@contextmanager
def locked(out: Path, doing: str, name: str = ".lock") -> Iterator[None]:
    """Create the folder `out` and lock it for this process and its workers. Raises OutputError.

    doing: what the holder of the lock does, for whoever finds it locked. name: of the lock's file.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file; give the name of a folder")
    with media.writing(out, OSError):
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / name).open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"{out}: another process is {doing} here; wait") from error
        yield


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
