"""The training loop: dumb, shared, resumable. What is learned is the recipe's business.

Every step's batch and noise come from (seed, step, rank), and a checkpoint is written to a
temporary name and renamed: a run that was killed and resumed gives the same bits. It runs as one
process, or under `torchrun` with as many as there are; recipes call `average_gradients` before
they step.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from talkingface import picture
from talkingface.data.dataset import prefetch
from talkingface.errors import BadShard

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of mallopt(3)
WEIGHTS, CHECKPOINT = "weights.safetensors", "checkpoint.pt"  # of a run's folder


def keep_memory() -> None:
    """Let big buffers stay with the process once they are freed.

    glibc hands each of them back and gets it anew, page by page: a quarter of a CPU training's time
    (docs/log.md). Elsewhere than under glibc nothing happens.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "mallopt"):
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(MMAP_MAX, 0)


class Recipe(Protocol):
    """One paper's algorithm. `modules` and `optimizers` are all that a checkpoint holds."""

    steps: int
    modules: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]

    def batch(self, step: int) -> Any:
        """The batch of this step, on the CPU; called in a thread, ahead of its turn."""

    def step(self, batch: Any, step: int) -> dict[str, float]:
        """Learn from one batch; the named losses, unweighted."""

    def validate(self, step: int) -> dict[str, float]:
        """Measures on held-out data."""

    def sheet(self) -> picture.Picture | None:
        """A contact sheet of held-out samples, real above generated."""

    def export(self, path: Path, step: int, measures: dict[str, float]) -> None:
        """Write the weights that would ship."""


@dataclass(frozen=True)
class LoopOptions:
    """How often what happens; `minutes` ends the call early (a later call goes on)."""

    log_every: int = 20
    save_every: int = 500
    validate_every: int = 500
    minutes: float | None = None
    seed: int = 0
    stop_after: int | None = None  # for tests: leave as if killed after this many steps


class Cycle(Protocol):
    """A training with one cycle of the learning rate; warm_up is a share of the steps."""

    @property
    def steps(self) -> int: ...
    @property
    def rate(self) -> float: ...
    @property
    def warm_up(self) -> float: ...


def one_cycle(training: Cycle, step: int) -> float:
    """The learning rate: half a cosine up from 4 % to the peak, half a cosine down to 0."""
    up = training.warm_up * training.steps
    if step < up:
        return training.rate * (0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * step / up)))
    part = (step - up) / max(1.0, training.steps - up)
    return training.rate * 0.5 * (1 + math.cos(math.pi * part))


def rank() -> int:
    """This process's number under torchrun, 0 otherwise."""
    return int(os.environ.get("RANK", "0"))


def turn(step: int) -> int:
    """Which of all processes' batches this one's is: the same for no two of them."""
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    return step * processes + rank()


def start_processes(device: torch.device) -> torch.device:
    """Join the other processes of a `torchrun` launch; nothing to do for a single one.

    Returns this process's device: of several accelerators, its own.
    """
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """The mean of the gradients over all processes, as one message; alone, nothing to do."""
    if not torch.distributed.is_initialized():
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    begin = 0
    for grad in grads:
        grad.copy_(flat[begin : begin + grad.numel()].view_as(grad))
        begin += grad.numel()


def seed_step(seed: int, step: int) -> None:
    """Noise (dropout) of this step, whatever ran before."""
    torch.manual_seed((seed * 1_000_003 + step) * 64 + rank())


class Average:
    """Exponential moving average of a module's weights; buffers are copied."""

    def __init__(self, source: nn.Module, target: nn.Module, decay: float) -> None:
        self.source, self.target, self.decay = source, target, decay
        target.load_state_dict(source.state_dict())
        target.requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After the optimiser; the first steps average over fewer."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for mine, theirs in zip(self.target.parameters(), self.source.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)
        for own, new in zip(self.target.buffers(), self.source.buffers(), strict=True):
            own.copy_(new)


def run(
    recipe: Recipe,
    folder: Path,
    options: LoopOptions = LoopOptions(),
    progress: Callable[[int, dict[str, float]], None] | None = None,
) -> int:
    """Train to `recipe.steps`, or until `options.minutes` are over; returns the steps done in all.

    folder: gets checkpoint.pt, log.jsonl, sheet-*.png and weights.safetensors; a checkpoint that is
    there already is gone on from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = load_checkpoint(recipe, folder / CHECKPOINT)
    log = _Log(folder / "log.jsonl", first)
    began = time.monotonic()
    for offset, batch in enumerate(prefetch(recipe.batch, first, recipe.steps)):
        step = first + offset
        seed_step(options.seed, step)
        losses = recipe.step(batch, step)
        done = step + 1
        over = options.minutes is not None and time.monotonic() - began > 60 * options.minutes
        last = done == recipe.steps or over
        log.add(done, losses, last or done % options.log_every == 0)
        if progress is not None:
            progress(done, losses)
        if options.stop_after is not None and offset + 1 >= options.stop_after:
            return done
        if rank() == 0 and (last or done % options.save_every == 0):
            save_checkpoint(recipe, folder / CHECKPOINT, done)
        if rank() == 0 and (last or done % options.validate_every == 0):
            _validate(recipe, folder, log, done)
        if last:
            return done
    return first


def _validate(recipe: Recipe, folder: Path, log: _Log, done: int) -> None:
    measures = recipe.validate(done)
    log.write({"step": done, **{f"valid/{name}": value for name, value in measures.items()}})
    sheet = recipe.sheet()
    if sheet is not None:
        picture.write_png(folder / f"sheet-{done:06d}.png", sheet, overwrite=True)
    recipe.export(folder / WEIGHTS, done, measures)


def save_checkpoint(recipe: Recipe, path: Path, step: int) -> None:
    """All modules and optimisers, whole or not at all."""
    state = {
        "step": step,
        "modules": {name: module.state_dict() for name, module in recipe.modules.items()},
        "optimizers": {name: opt.state_dict() for name, opt in recipe.optimizers.items()},
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def load_checkpoint(recipe: Recipe, path: Path) -> int:
    """The step to go on from; 0 where there is no checkpoint. Strict: another run's is refused."""
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, module in recipe.modules.items():
            module.load_state_dict(state["modules"][name])
        for name, optimizer in recipe.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
    except (RuntimeError, KeyError, ValueError, EOFError) as error:
        raise BadShard(
            f"{path} does not fit this recipe ({str(error).splitlines()[0]}); "
            "train into another folder, or remove it to begin again"
        ) from error
    return int(state["step"])


class _Log:
    """JSON lines; means over the steps since the line before. What a killed run wrote past its
    checkpoint is dropped, so that a resumed log reads as one run."""

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        self._seen: dict[str, list[float]] = {}  # a loss that a stage lacks has no value there
        if rank() == 0:
            lines = path.read_text().splitlines() if path.exists() else []
            kept = [line for line in lines if json.loads(line)["step"] <= first]
            path.write_text("".join(f"{line}\n" for line in kept))

    def add(self, step: int, losses: dict[str, float], flush: bool) -> None:
        for name, value in losses.items():
            self._seen.setdefault(name, []).append(value)
        if flush:
            means = {name: sum(values) / len(values) for name, values in self._seen.items()}
            self.write({"step": step, **means})
            self._seen = {}

    def write(self, row: dict[str, Any]) -> None:
        if rank() == 0:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def clip_gradients(parameters: Iterable[nn.Parameter], most: float = 1.0) -> Tensor:
    """Gradient norm, clipped to `most`; a step of NaN is an error, not a habit."""
    return nn.utils.clip_grad_norm_(parameters, most, error_if_nonfinite=True)
