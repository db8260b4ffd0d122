"""Workers: processes of this machine, or of a Dask cluster, with retries.

The tasks of a killed process are done again. A task at which a process dies twice, on its own, is
reported as crashed and does not stop the others. torch, OpenCV and NumPy are imported inside the
functions: the command line has options of workers.
"""

from __future__ import annotations

import fcntl
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args

from talkingface.errors import BadRequest, OutputError
from talkingface.version import __version__

if TYPE_CHECKING:
    from distributed import Client

Engine = Literal["local", "dask"]
Task = TypeVar("Task")
Result = TypeVar("Result")
_AHEAD = 3  # tasks per thread of a cluster that its scheduler gets in advance
_TRIES = 2  # of a task that was not done when a process died


@dataclass(frozen=True)
class Workers:
    """Processes that work on tasks: of this machine, or of a Dask cluster.

    jobs: number of processes of this machine, of one thread each. 1 works in this process, with
    the threads that it has. None is one per core.
    engine: "local", or "dask" for the workers of a Dask cluster.
    scheduler: address of Dask's scheduler, as tcp://host:8786. None starts a cluster of `jobs`
    processes on this machine.
    """

    jobs: int | None = None
    engine: Engine = "local"
    scheduler: str | None = None

    def check(self) -> None:
        """Check the options. Raises BadRequest."""
        if self.jobs is not None and self.jobs < 1:
            raise BadRequest(f"jobs is {self.jobs}: must be at least 1")
        dask = self.engine == "dask"
        if self.engine not in get_args(Engine) or (self.scheduler is not None and not dask):
            raise BadRequest("--engine is local or dask, and --scheduler goes with dask")

    def limited(self, tasks: int) -> Workers:
        """Return workers with no more processes than tasks; a single task needs no other one."""
        return replace(self, jobs=max(1, min(self._count, tasks)))

    def for_device(self, device: str) -> Workers:
        """Return one process here, unless a number was given, where several would share a GPU."""
        shared = self.jobs is None and self.engine == "local" and device != "cpu"
        return replace(self, jobs=1) if shared else self

    @property
    def is_this_process(self) -> bool:
        """Return whether no other process works on the tasks."""
        return self.engine == "local" and self.jobs == 1

    @property
    def _count(self) -> int:
        return self.jobs or os.cpu_count() or 1

    def run(
        self,
        work: Callable[[Task], Result],
        tasks: Iterable[Task],
        crashed: Callable[[Task], Result],
        in_order: bool = False,
    ) -> Generator[tuple[int, Result], None, None]:
        """Yield the number of each task and work(task), as they finish, or in order.

        A few tasks are computed in advance, to bound memory. With another process, work and tasks
        are pickled. crashed(task): the result of a task at which processes die.

        Raises BadRequest (Dask is missing, or of another version), OutputError (no scheduler
        answers), and what work raises.
        """
        self.check()
        if self.is_this_process:
            yield from enumerate(map(work, tasks))
            return
        pool: _Processes[Task, Result] | _Cluster[Task, Result]
        if self.engine == "local":
            pool = _Processes(work, crashed, self._count)
        else:
            pool = _Cluster(work, crashed, self.scheduler, self._count)
        source, running = enumerate(tasks), deque[tuple[int, Task, Future[Result]]]()
        try:
            while True:
                for number, task in itertools.islice(source, max(0, pool.ahead - len(running))):
                    running.append((number, task, pool.submit(task)))
                if not running:
                    return
                if not in_order:
                    _bring_forward(running)
                number, task, future = running.popleft()
                yield number, pool.result(task, future)
        finally:
            pool.close()


ALL_CORES, THIS_PROCESS = Workers(), Workers(jobs=1)


def _bring_forward(running: deque[tuple[int, Task, Future[Result]]]) -> None:
    """Wait for a task to finish, and rotate it to the front."""
    done, _ = wait([future for *_, future in running], return_when=FIRST_COMPLETED)
    while running[0][2] not in done:
        running.rotate(-1)


# --- processes of this machine --------------------------------------------------------------------


def start_worker() -> None:
    """Initialise a worker process: one thread, and exit when the parent is gone."""
    use_one_thread()
    parent = multiprocessing.parent_process()
    if parent is not None:  # killed hard, the parent cannot end its workers

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()


def use_one_thread() -> None:
    """Run torch and OpenCV on one thread: sums in another order would give other numbers."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@contextmanager
def single_thread() -> Iterator[None]:
    """`use_one_thread`, and restore the setting afterwards."""
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    use_one_thread()
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


class _Processes(Generic[Task, Result]):
    """Processes of this machine. One that dies takes its pool with it.

    What was not done is done again, one task at a time in a process of its own, so that it is known
    at which task a process dies.
    """

    def __init__(
        self, work: Callable[[Task], Result], crashed: Callable[[Task], Result], jobs: int
    ) -> None:
        self._work, self._crashed, self._jobs = work, crashed, jobs
        self._pool = process_pool(jobs, _start_task_worker)
        self._alone: ProcessPoolExecutor | None = None

    @property
    def ahead(self) -> int:
        """Number of tasks that are submitted at a time."""
        return 2 * self._jobs + 2

    def submit(self, task: Task) -> Future[Result]:
        """Return the coming result of a task."""
        try:
            return self._pool.submit(_do, self._work, task)
        except BrokenProcessPool:
            self._pool.shutdown(wait=False)
            self._pool = process_pool(self._jobs, _start_task_worker)
            return self._pool.submit(_do, self._work, task)

    def result(self, task: Task, future: Future[Result]) -> Result:
        """Wait for the result of a task."""
        with suppress(BrokenProcessPool):
            return future.result()
        for _ in range(_TRIES):
            self._alone = self._alone or process_pool(1, _start_task_worker)
            with suppress(BrokenProcessPool):
                return self._alone.submit(_do, self._work, task).result()
            self._alone.shutdown(wait=False)
            self._alone = None
        return self._crashed(task)

    def close(self) -> None:
        """End the processes; a task that is being done is finished.

        At its exit, Python 3.11 would do so too, and may fail at a pool that ends at that moment.
        """
        for pool in (self._pool, self._alone):
            if pool is not None:
                pool.shutdown(cancel_futures=True)


def _start_task_worker() -> None:
    start_worker()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _do(work: Callable[[Task], Result], task: Task) -> Result:
    """Do a task. SIGTERM unwinds it, so that it leaves no temporary file, and ends the process."""
    try:
        return work(task)
    except SystemExit as stopped:  # a pool would take the next task
        os._exit(stopped.code if isinstance(stopped.code, int) else 1)


# --- a Dask cluster -------------------------------------------------------------------------------


class _Cluster(Generic[Task, Result]):
    """Workers of a Dask cluster. Dask gives a task up at which four of them died."""

    def __init__(
        self,
        work: Callable[[Task], Result],
        crashed: Callable[[Task], Result],
        scheduler: str | None,
        jobs: int,
    ) -> None:
        self._work, self._crashed = work, crashed
        self._name = scheduler or "the Dask cluster of this machine"
        self._open = ExitStack()
        self._client = self._open.enter_context(_client(scheduler, jobs))
        self._pool = self._client.get_executor(pure=False, retries=0)

    @property
    def ahead(self) -> int:
        """Number of tasks that are submitted at a time; workers come and go."""
        threads: dict[str, int] = self._client.nthreads()
        return _AHEAD * max(1, sum(threads.values()))

    def submit(self, task: Task) -> Future[Result]:
        """Return the coming result of a task."""
        coming: Future[Result] = self._pool.submit(_do_elsewhere, __version__, self._work, task)
        return coming

    def result(self, task: Task, future: Future[Result]) -> Result:
        """Wait for the result of a task."""
        from distributed import KilledWorker

        try:
            return future.result()
        except KilledWorker:
            return self._crashed(task)
        except CancelledError as error:
            raise OutputError(
                f"{self._name}: the scheduler is gone; start it, and run the same command again"
            ) from error

    def close(self) -> None:
        """Leave the cluster; tasks that have not begun are cancelled."""
        self._open.close()


@contextmanager
def _client(scheduler: str | None, jobs: int) -> Iterator[Client]:
    """Open a client of the scheduler at this address, or of so many processes of this machine.

    Raises BadRequest when Dask is missing, OutputError when no scheduler answers at the address.
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
    options = {"threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=jobs, **options) as local, Client(local) as client:
        yield client


def _do_elsewhere(version: str, work: Callable[[Task], Result], task: Task) -> Result:
    """Do a task in a thread of a Dask worker. Raises BadRequest for another version."""
    if version != __version__:
        raise BadRequest(
            f"the Dask worker on {os.uname().nodename} has talkingface {__version__}, this command "
            f"{version}: install the same version on all machines"
        )
    use_one_thread()
    return work(task)


# --- locks ----------------------------------------------------------------------------------------


@contextmanager
def locked(out: Path, doing: str, name: str = ".lock") -> Iterator[None]:
    """Create the folder `out` and lock it for this process and its workers. Raises OutputError.

    doing: what the holder of the lock does, for whoever finds it locked. name: of the lock's file.
    """
    from talkingface import media

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
