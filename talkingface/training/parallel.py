"""Several processes, and several batches of one, that learn as one: what recipes need of either.

A step has the gradients of so many batches: `accumulate` of each process that `torchrun` started.
Every batch has its place among them, and its data and noise come from (seed, step, place): two
processes do what one does that adds up two batches, to rounding.
"""

from __future__ import annotations

import inspect
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from talkingface.errors import BadShard

LOOK = 0.1  # seconds between two looks at whether all have come


def rank() -> int:
    """This process's number under torchrun, 0 otherwise."""
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """How many there are, once they have joined."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def start_processes(device: torch.device) -> torch.device:
    """Join the other processes of a `torchrun` launch; nothing to do for a single one.

    Returns this process's device: of several accelerators, its own.
    """
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        store, own, many = next(rendezvous("env://"))
        store = distributed.PrefixStore(meet(store, own, many), store)  # type: ignore[attr-defined]
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, store=store, rank=own, world_size=many)
    return device


def meet(store: Any, own: int, many: int) -> str:
    """A name on which `many` processes agree, and which none before them had; store: a
    `torch.distributed.Store` that all of them see.

    An agent of `torchrun` (2.13) hands its store to the processes that it starts again, with the
    addresses of those that died still in it: the new would wait for the old. And agents of several
    machines count restarts each on its own. So rank 0 calls a meeting, whose name is its own; who
    finds that his rank has been at a meeting already, waits for the next.
    """
    if own == 0:
        called = uuid.uuid4().hex
        store.set("meeting", called)
        while not store.check([f"{called}/{other}" for other in range(1, many)]):
            time.sleep(LOOK)
        store.set(f"{called}/begun", "")
        return called
    while True:
        name: str = store.get("meeting").decode()
        if store.add(f"{name}/{own}", 1) == 1:
            while store.get("meeting").decode() == name:  # rank 0 may be one that has died
                if store.check([f"{name}/begun"]):
                    return name
                time.sleep(LOOK)
        time.sleep(LOOK)


def spare_cores() -> int:
    """Cores of this process's share of the machine, beside the one that it works on itself."""
    share = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, share - 1)


def end_processes() -> None:
    """Leave them, all work done; a process that fails just ends, since nobody may answer it."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


# --- which of the batches -------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A batch's number among all batches of a step, of all processes."""

    number: int = 0
    of: int = 1

    def turn(self, step: int) -> int:
        """Its number among those of all steps."""
        return step * self.of + self.number


def place(index: int = 0, accumulate: int = 1) -> Place:
    """Of the batch `index` of the `accumulate` that this process has in a step."""
    return Place(rank() * accumulate + index, processes() * accumulate)


@dataclass(frozen=True)
class Part:
    """One of this process's batches of a step, and all of them."""

    index: int = 0
    batches: tuple[Any, ...] = (None,)

    @property
    def first(self) -> bool:
        """Whether gradients begin at zero."""
        return self.index == 0

    @property
    def last(self) -> bool:
        """Whether weights are moved now."""
        return self.index == len(self.batches) - 1

    def share(self, batch: Any, count: Callable[[Any], int]) -> float:
        """What a mean over `count` samples of this batch counts beside those of other batches.

        1 where all have as many; so weighted, the step's gradient is of the mean over all samples.
        """
        own = self.batches if len(self.batches) > 1 else (batch,)
        mean = mean_over_processes(sum(map(count, own)) / len(own))
        return count(batch) / mean if mean else 1.0


WHOLE = Part()


# --- what all agree on ----------------------------------------------------------------------------


def mean_over_processes(value: float) -> float:
    """The mean of a number that each process has."""
    if not distributed.is_initialized():
        return value
    shared = torch.tensor(value, dtype=torch.float64)
    distributed.all_reduce(shared)
    return float(shared) / processes()


def anyone(*asked: bool) -> tuple[bool, ...]:
    """Of each question, whether any process says yes: a process that stopped alone would leave the
    others waiting."""
    if not distributed.is_initialized():
        return asked
    shared = torch.tensor(asked, dtype=torch.uint8)
    distributed.all_reduce(shared, distributed.ReduceOp.MAX)
    return tuple(bool(answer) for answer in shared)


def check_same_step(step: int, folder: object) -> None:
    """Raises BadShard where processes would go on from different checkpoints."""
    mean = mean_over_processes(step)
    if any(anyone(step != mean)):
        raise BadShard(
            f"{folder} has the checkpoint of step {step} here and another in other processes: put "
            "it where every machine sees the same files"
        )


def wait_for_all() -> None:
    """Until every process is here: what one of them wrote is there for the others."""
    if distributed.is_initialized():
        anyone(False)


class Asked:
    """Whether somebody has asked this process to stop."""

    stop = False


@contextmanager
def asked_to_stop() -> Iterator[Asked]:
    """SIGTERM (a preempted job, a drained machine, `kill`) asks to stop, and does not end."""
    asked = Asked()

    def note(number: int, frame: FrameType | None) -> None:
        asked.stop = True

    try:
        before = signal.signal(signal.SIGTERM, note)
    except ValueError:  # not the main thread, which alone hears of signals
        yield asked
        return
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


# --- who learns together --------------------------------------------------------------------------


_OLD_NAME = "broadcast_buffers"  # before torch 2.13


class _Together(nn.Module):
    """Modules that one loss teaches, as DistributedDataParallel wants them: behind one forward.

    The loss is computed by then: it goes in and comes out, and DDP follows its graph to the
    parameters that it reaches. What a module is called for is so no business of DDP's.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, loss: Tensor) -> Tensor:
        return loss


class Learner:
    """Modules that learn from one loss, each by its optimiser; in step over all processes.

    Build it before the first loss, once the processes have joined: all begin with rank 0's weights.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        optimizers: Sequence[Optimizer],
        most: float = 1.0,
        partly: bool = False,
    ) -> None:
        """most: what the norm of each module's gradient is clipped to. partly: whether some losses
        reach a part of the parameters only."""
        self.modules, self.optimizers, self.most = list(modules), list(optimizers), most
        self._shared: DistributedDataParallel | None = None
        self._statistics = [
            buffer
            for module in self.modules
            for norm in module.modules()
            if isinstance(norm, _BatchNorm)
            for buffer in norm.buffers()
            if buffer.is_floating_point()
        ]
        if distributed.is_initialized():
            # buffers stay as they are: the graph of the loss, which is there already, may use them
            known = inspect.signature(DistributedDataParallel.__init__).parameters
            name = "forward_sync_buffers" if "forward_sync_buffers" in known else _OLD_NAME
            still: dict[str, Any] = {name: False}
            self._shared = DistributedDataParallel(
                _Together(self.modules), find_unused_parameters=partly, **still
            )

    def learn(self, loss: Tensor, part: Part = WHOLE) -> None:
        """Add up a part's gradient; with a step's last part, move the weights by the mean of all.

        Raises RuntimeError where a gradient is not finite: a step of NaN is an error, not a habit.
        """
        if part.first:
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
        loss = loss / len(part.batches)
        if self._shared is None:
            loss.backward()
        else:
            with nullcontext() if part.last else self._shared.no_sync():
                self._shared(loss).backward()
        if part.last:
            self._update()

    def _update(self) -> None:
        for module, optimizer in zip(self.modules, self.optimizers, strict=True):
            nn.utils.clip_grad_norm_(module.parameters(), self.most, error_if_nonfinite=True)
            optimizer.step()
        if self._shared is not None and self._statistics:
            _take_from_first(self._statistics)


@torch.no_grad()
def _take_from_first(buffers: list[Tensor]) -> None:
    """Running statistics as rank 0 has them, which a checkpoint keeps. DDP would do so before the
    next forward only: a critic that judges before that would differ from a resumed run's."""
    flat = torch.cat([buffer.flatten() for buffer in buffers])
    distributed.broadcast(flat, 0)
    for buffer, new in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(new.view_as(buffer))
