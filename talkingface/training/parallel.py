"""Data-parallel training and gradient accumulation.

A step sums the gradients of `accumulate` batches of each process that `torchrun` started. Every
batch has an index among them; its data and noise come from (seed, step, index). So two processes
give the same weights as one process that accumulates two batches, to rounding.
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
from torch.distributed.rendezvous import rendezvous as torch_rendezvous
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from talkingface.errors import BadShard
from talkingface.signals import handled

POLL = 0.1  # seconds between two checks whether all processes have joined


def rank() -> int:
    """Return this process's number under torchrun, 0 otherwise."""
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """Return the number of processes that have joined, 1 without torchrun."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def start_processes(device: torch.device) -> torch.device:
    """Join the other processes of a `torchrun` launch; a single process joins nothing.

    Return this process's device: of several accelerators, its own.
    """
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        store, own, many = next(torch_rendezvous("env://"))
        prefix = rendezvous(store, own, many)
        store = distributed.PrefixStore(prefix, store)  # type: ignore[attr-defined]
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, store=store, rank=own, world_size=many)
    return device


def rendezvous(store: Any, own: int, many: int) -> str:
    """Agree with the other processes on a store prefix that no earlier launch has used.

    store: a `torch.distributed.Store` that all of them see. own: this process's rank. many: the
    number of processes.

    An agent of `torchrun` (2.13) gives its store to the processes that it restarts, with the
    addresses of dead processes still in it. The new processes would wait for the dead ones. Agents
    of several machines each count restarts on their own. So rank 0 publishes a fresh name. A
    process whose rank has already joined under that name waits for the next name.
    """
    if own == 0:
        prefix = uuid.uuid4().hex
        store.set("meeting", prefix)
        while not store.check([f"{prefix}/{other}" for other in range(1, many)]):
            time.sleep(POLL)
        store.set(f"{prefix}/begun", "")
        return prefix
    while True:
        name: str = store.get("meeting").decode()
        if store.add(f"{name}/{own}", 1) == 1:
            while store.get("meeting").decode() == name:  # rank 0 may be one that has died
                if store.check([f"{name}/begun"]):
                    return name
                time.sleep(POLL)
        time.sleep(POLL)


def spare_cores() -> int:
    """Return the cores of this process's share of the machine, less the one that it runs on."""
    share = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, share - 1)


def end_processes() -> None:
    """Leave the process group after all work is done.

    A process that fails just ends, since the others may not answer.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()


# --- the batches of a step ------------------------------------------------------------------------


@dataclass(frozen=True)
class BatchIndex:
    """A batch's number among all batches of a step, over all processes."""

    number: int = 0
    of: int = 1

    def global_number(self, step: int) -> int:
        """Return the batch's number among those of all steps."""
        return step * self.of + self.number


def batch_index(index: int = 0, accumulate: int = 1) -> BatchIndex:
    """Return the index of batch `index` of the `accumulate` that this process has in a step."""
    return BatchIndex(rank() * accumulate + index, processes() * accumulate)


@dataclass(frozen=True)
class MicroBatch:
    """One of this process's batches of a step, beside all of them."""

    index: int = 0
    batches: tuple[Any, ...] = (None,)

    @property
    def first(self) -> bool:
        """True if gradients are set to zero before this batch."""
        return self.index == 0

    @property
    def last(self) -> bool:
        """True if weights are updated after this batch."""
        return self.index == len(self.batches) - 1

    def share(self, batch: Any, count: Callable[[Any], int]) -> float:
        """Return the weight of a mean over `count` samples of this batch within the step.

        It is 1 where all batches have as many samples. With these weights the step's gradient is
        that of the mean over all samples.
        """
        own = self.batches if len(self.batches) > 1 else (batch,)
        mean = mean_over_processes(sum(map(count, own)) / len(own))
        return count(batch) / mean if mean else 1.0


WHOLE_STEP = MicroBatch()


# --- values shared by all processes ---------------------------------------------------------------


def mean_over_processes(value: float) -> float:
    """Return the mean of a number that each process has."""
    if not distributed.is_initialized():
        return value
    shared = torch.tensor(value, dtype=torch.float64)
    distributed.all_reduce(shared)
    return float(shared) / processes()


def any_rank(*flags: bool) -> tuple[bool, ...]:
    """Return for each flag whether any process sets it.

    All processes must stop together: one that stopped alone would leave the others waiting.
    """
    if not distributed.is_initialized():
        return flags
    shared = torch.tensor(flags, dtype=torch.uint8)
    distributed.all_reduce(shared, distributed.ReduceOp.MAX)
    return tuple(bool(flag) for flag in shared)


def check_same_step(step: int, folder: object) -> None:
    """Raise BadShard where processes would resume from different checkpoints."""
    mean = mean_over_processes(step)
    if any(any_rank(step != mean)):
        raise BadShard(
            f"{folder} has the checkpoint of step {step} here and another in other processes: put "
            "it where every machine sees the same files"
        )


def wait_for_all() -> None:
    """Wait until every process is here; then files that one wrote exist for the others."""
    if distributed.is_initialized():
        any_rank(False)


class StopSignal:
    """A flag: this process was asked to stop. number: by which signal."""

    requested = False
    number: int = signal.SIGTERM


@contextmanager
def stop_on_sigterm() -> Iterator[StopSignal]:
    """Set a flag on SIGTERM (a preempted job, a drained machine, `kill`) instead of ending.

    Also on SIGHUP, the end of a terminal, unless it is ignored (`nohup`).
    """
    stop_signal = StopSignal()

    def request(number: int, frame: FrameType | None) -> None:
        stop_signal.requested, stop_signal.number = True, number

    with handled((signal.SIGTERM, signal.SIGHUP), request):
        yield stop_signal


# --- modules trained by one loss ------------------------------------------------------------------


_OLD_NAME = "broadcast_buffers"  # before torch 2.13


class _DistributedModule(nn.Module):
    """The modules of one loss behind one `forward`, as DistributedDataParallel needs them.

    `forward` returns the loss, which is already computed. DDP follows its graph to the parameters
    that it reaches. So DDP need not know how the modules are called.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, loss: Tensor) -> Tensor:
        return loss


class OptimizerGroup:
    """Modules trained by one loss, each with its optimiser, synchronised over all processes.

    Build it before the first loss and after the processes have joined: all begin with rank 0's
    weights.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        optimizers: Sequence[Optimizer],
        most: float = 1.0,
        partly: bool = False,
    ) -> None:
        """Collect the modules, and wrap them for DDP where there are several processes.

        most: the norm that each module's gradient is clipped to. partly: whether some losses reach
        a part of the parameters only.
        """
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
            # buffers stay as they are: the existing graph of the loss may use them
            known = inspect.signature(DistributedDataParallel.__init__).parameters
            name = "forward_sync_buffers" if "forward_sync_buffers" in known else _OLD_NAME
            still: dict[str, Any] = {name: False}
            self._shared = DistributedDataParallel(
                _DistributedModule(self.modules), find_unused_parameters=partly, **still
            )

    def step(self, loss: Tensor, micro_batch: MicroBatch = WHOLE_STEP) -> None:
        """Add the gradient of a micro-batch; after the last of a step, update the weights.

        The update uses the mean gradient of all batches. Raises RuntimeError where a gradient is
        not finite.
        """
        if micro_batch.first:
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
        loss = loss / len(micro_batch.batches)
        if self._shared is None:
            loss.backward()
        else:
            with nullcontext() if micro_batch.last else self._shared.no_sync():
                self._shared(loss).backward()
        if micro_batch.last:
            self._update()

    def _update(self) -> None:
        for module, optimizer in zip(self.modules, self.optimizers, strict=True):
            nn.utils.clip_grad_norm_(module.parameters(), self.most, error_if_nonfinite=True)
            optimizer.step()
        if self._shared is not None and self._statistics:
            _copy_from_first(self._statistics)


@torch.no_grad()
def _copy_from_first(buffers: list[Tensor]) -> None:
    """Set running statistics to those of rank 0, which a checkpoint keeps.

    DDP would do so only before the next forward. A discriminator that runs before that would differ
    from the one of a resumed run.
    """
    flat = torch.cat([buffer.flatten() for buffer in buffers])
    distributed.broadcast(flat, 0)
    for buffer, new in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(new.view_as(buffer))
