"""The shared, resumable training loop. The recipe defines the model, the data and the losses.

Every batch and its noise come from (seed, step, index). A checkpoint is written to a temporary name
and renamed. So a run that was killed and resumed gives the same bits. The loop runs in one process,
or in several under `torchrun`, which train and stop together (`parallel.py`).
"""

from __future__ import annotations

import ctypes
import io
import json
import pickle
import shutil
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from talkingface import media, picture
from talkingface.data.dataset import prefetch
from talkingface.errors import BadShard
from talkingface.older_weights import renamed_tensors
from talkingface.training import parallel
from talkingface.training.parallel import WHOLE_STEP, BatchIndex, MicroBatch, StopSignal, rank
from talkingface.types import Picture

CPU_INFO = Path("/proc/cpuinfo")
TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of mallopt(3)
_VALID = "valid/"  # prefix of measures on held-out data in the log
# Files of a run's folder.
WEIGHTS, CHECKPOINT, PREVIOUS = "weights.safetensors", "checkpoint.pt", "checkpoint.before.pt"
# What reading a damaged checkpoint raises: zipfile's and torch's errors.
_UNREADABLE = (
    *(OSError, EOFError, ValueError, LookupError, RuntimeError, TypeError, AttributeError),
    *(MemoryError, NotImplementedError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error),
)
# What a line of a log that is none raises.
_NO_ROW = (ValueError, TypeError, AttributeError, KeyError, RecursionError, OverflowError)


def configure_malloc() -> None:
    """Make malloc keep large freed buffers in the process.

    By default glibc returns each of them to the system and maps it again, page by page: a quarter
    of a CPU training's time (docs/log.md). Without glibc this does nothing.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "mallopt"):
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(MMAP_MAX, 0)


class Recipe(Protocol):
    """The algorithm of one paper. A checkpoint holds `modules` and `optimizers`, nothing else.

    A pickled recipe keeps only what `batch` needs: it is sent to the processes that load data.
    """

    steps: int
    modules: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]

    def batch(self, step: int, index: BatchIndex | None = None) -> Any:
        """Return a batch of this step, on the CPU; called in advance. index: the first, if None."""

    def step(self, batch: Any, step: int, micro_batch: MicroBatch = WHOLE_STEP) -> dict[str, float]:
        """Train on a batch and return the named losses, unweighted.

        micro_batch: which of the step's batches it is.
        """

    def validate(self, step: int) -> dict[str, float]:
        """Return measures on held-out data."""

    def sheet(self) -> Picture | None:
        """Return a contact sheet of held-out samples, real above generated."""

    def export(self, path: Path, step: int, measures: dict[str, float]) -> None:
        """Write the weights as a release would contain them."""


@dataclass(frozen=True)
class LoopOptions:
    """Intervals of the loop, in steps, and its limits.

    minutes: end the call after so long; a later call goes on. accumulate: batches of each process
    whose gradients are summed to one step. workers: processes that load batches in advance, or 0
    for a thread.
    """

    log_every: int = 20
    save_every: int = 500
    validate_every: int = 500
    minutes: float | None = None
    seed: int = 0
    accumulate: int = 1
    workers: int = 0
    stop_after: int | None = None  # for tests: leave as if killed after this many steps


TrainingPrecision = Literal["auto", "float32", "bfloat16"]


def chosen(precision: TrainingPrecision, device: torch.device) -> Literal["float32", "bfloat16"]:
    """Resolve "auto": bfloat16 on accelerators and on CPUs that compute in it, else float32.

    Other CPUs emulate bfloat16: a step takes 1.6 times as long (docs/training.md).
    """
    if precision != "auto":
        return precision
    return "bfloat16" if device.type != "cpu" or has_bfloat16() else "float32"


def has_bfloat16() -> bool:
    """Return whether the CPU has bfloat16 (AVX-512 BF16 or AMX); False where unknown."""
    if not CPU_INFO.exists():
        return False
    flags = CPU_INFO.read_text(encoding="utf-8", errors="replace").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def autocast(precision: TrainingPrecision, device: torch.device) -> torch.autocast:
    """Return a context of mixed precision."""
    mixed = chosen(precision, device) == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed)


def seed_step(seed: int, step: int, number: int = 0) -> None:
    """Seed torch for the noise (dropout) of one batch of a step, independent of earlier steps."""
    torch.manual_seed(((seed * 1_000_003 + step) << 12) + number)


class EMA:
    """Exponential moving average of a module's weights; buffers are copied."""

    def __init__(self, source: nn.Module, target: nn.Module, decay: float) -> None:
        self.source, self.target, self.decay = source, target, decay
        target.load_state_dict(source.state_dict())
        target.requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after the optimiser; the first steps average over fewer."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for mine, theirs in zip(self.target.parameters(), self.source.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)
        for own, new in zip(self.target.buffers(), self.source.buffers(), strict=True):
            own.copy_(new)


def run(
    recipe: Recipe,
    folder: Path,
    options: LoopOptions = LoopOptions(),
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop_signal: StopSignal | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> int:
    """Train to `recipe.steps`, or until `options.minutes` are over; return the steps done in all.

    folder: gets checkpoint.pt, log.jsonl, sheet-*.png and weights.safetensors. Training resumes
    from a checkpoint that exists already. progress: called with the steps done and those in all.
    stop_signal: once that of any process is set, all processes set theirs, write a checkpoint,
    nothing more, and return. note: gets what the user should know. Raises BadShard, OutputError.
    """
    media.make_folder(folder)
    first = load_checkpoint(recipe, folder / CHECKPOINT, note)
    parallel.check_same_step(first, folder)
    stop, log = stop_signal or StopSignal(), _Log(folder / "log.jsonl", first)
    began = time.monotonic()
    many = options.accumulate
    indices = tuple(parallel.batch_index(index, many) for index in range(many))
    ahead = prefetch(_Batches(recipe, indices), first, recipe.steps, options.workers)
    for done, batches in enumerate(ahead, first + 1):
        for own, batch in enumerate(batches):
            seed_step(options.seed, done - 1, indices[own].number)
            log.add(recipe.step(batch, done - 1, MicroBatch(own, batches)))
        progress(done, recipe.steps)
        late = options.minutes is not None and time.monotonic() - began > 60 * options.minutes
        stop.requested, over = parallel.any_rank(stop.requested, late and rank() == 0)
        last = done == recipe.steps or over
        if done - first == options.stop_after:
            log.flush(done)
            return done
        _record(recipe, folder, log, done, options, last, stop.requested)
        if last or stop.requested:
            break
    else:  # all is done, unless a process died between its checkpoint and its weights
        done = first
        if rank() == 0 and not ((folder / WEIGHTS).exists() and log.has_validation(done)):
            _validate(recipe, folder, log, done)
    parallel.wait_for_all()
    return done


@dataclass(frozen=True)
class _Batches:
    """The batches of this process in a step, by the step's number."""

    recipe: Recipe
    indices: tuple[BatchIndex, ...]

    def __call__(self, step: int) -> tuple[Any, ...]:
        return tuple(self.recipe.batch(step, index) for index in self.indices)


def _record(
    recipe: Recipe,
    folder: Path,
    log: _Log,
    done: int,
    options: LoopOptions,
    last: bool,
    stop: bool,
) -> None:
    """Write what is due after so many steps: rank 0's log line, checkpoint and weights."""
    saved = last or stop or done % options.save_every == 0
    if saved or done % options.log_every == 0:  # means never span a checkpoint: it can be resumed
        log.flush(done)
    if rank() != 0:
        return
    if saved:
        log.sync()  # a checkpoint has its lines
        save_checkpoint(recipe, folder / CHECKPOINT, done)
    if last or (done % options.validate_every == 0 and not stop):
        _validate(recipe, folder, log, done)


def _validate(recipe: Recipe, folder: Path, log: _Log, done: int) -> None:
    """Validate, and write sheet, weights and the log's row.

    The row comes last: with it, the files exist.
    """
    measures = recipe.validate(done)
    sheet = recipe.sheet()
    if sheet is not None:
        picture.write_png(folder / f"sheet-{done:06d}.png", sheet, overwrite=True)
    recipe.export(folder / WEIGHTS, done, measures)
    log.write({"step": done, **{f"{_VALID}{name}": value for name, value in measures.items()}})


def save_checkpoint(recipe: Recipe, path: Path, step: int) -> None:
    """Write all modules and optimisers, whole or not at all; the checkpoint before is kept.

    Raises OutputError.
    """
    state = {
        "step": step,
        "modules": {name: module.state_dict() for name, module in recipe.modules.items()},
        "optimizers": {name: opt.state_dict() for name, opt in recipe.optimizers.items()},
    }
    # In memory first: an error or a signal while torch writes to a file ends the process.
    data = io.BytesIO()
    torch.save(state, data)
    with media.replacing(path, overwrite=True, alone=True) as part, media.writing(path, OSError):
        part.write_bytes(data.getbuffer())
        _keep(path)


def _keep(path: Path) -> None:
    """Give the checkpoint that is about to be replaced a second name."""
    kept = path.with_name(PREVIOUS)
    kept.unlink(missing_ok=True)
    if path.exists():
        try:
            kept.hardlink_to(path)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, kept)


def load_checkpoint(
    recipe: Recipe, path: Path, note: Callable[[str], None] = lambda text: None
) -> int:
    """Load a checkpoint and return its step, 0 where there is none.

    Where it is damaged, the one before it is loaded. note: gets a sentence about that. Raises
    BadShard where the checkpoint is of another recipe, or both are damaged.
    """
    if not path.exists():
        return 0
    kept = path.with_name(PREVIOUS)
    try:
        state = _read_checkpoint(path)
    except BadShard as error:
        if not kept.exists():
            raise
        state = _read_checkpoint(kept)
        note(f"{error}; goes on from {kept.name}, step {state['step']}")
    try:
        modules, optimizers = (_renamed(state[part]) for part in ("modules", "optimizers"))
        for name, module in recipe.modules.items():
            family = getattr(getattr(module, "config", None), "family", "")
            module.load_state_dict(renamed_tensors(family, modules[name]))
        for name, optimizer in recipe.optimizers.items():
            optimizer.load_state_dict(optimizers[name])
    except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise BadShard(
            f"{path} does not fit this recipe ({reason}); "
            "train into another folder, or remove it to begin again"
        ) from error
    return int(state["step"])


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, each of its parts checked by the CRC-32 beside it. Raises BadShard."""
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()  # torch reads them without a check
        if wrong is not None:
            raise ValueError(f"the checksum of {wrong} differs")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not (isinstance(state, dict) and isinstance(state.get("step"), int)):
            raise ValueError("it holds no step")
    except _UNREADABLE as error:
        own = isinstance(error, (OSError, ValueError, zipfile.BadZipFile))  # torch's tell of torch
        reason = " ".join(str(error).split()) if own else "no checkpoint of a training"
        raise BadShard(
            f"{path} is damaged ({reason or 'cut short'}): copy it again, or remove it to begin "
            "again"
        ) from error
    return dict(state)


def _renamed(states: dict[str, Any]) -> dict[str, Any]:
    """Return the states of a checkpoint by their present names; discriminators were critics."""
    return {name.replace("_critic", "_discriminator"): state for name, state in states.items()}


class _Log:
    """The log as JSON lines: means over the steps since the line before.

    Lines that a killed run wrote after its checkpoint are dropped, so a resumed log reads as one
    run; and so is what is no line of it, as a power cut leaves.
    """

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        self._values: dict[str, list[float]] = {}  # no values of a loss that a stage lacks
        if rank() == 0:
            kept = [line for line, step, _ in self._rows() if step <= first]
            media.write_text(path, "".join(f"{line}\n" for line in kept))

    def _rows(self) -> Iterator[tuple[str, int, set[str]]]:
        """Yield the lines with their step and the names of their values."""
        text = self.path.read_text(errors="replace") if self.path.exists() else ""
        for line in text.splitlines():
            with suppress(*_NO_ROW):
                row = json.loads(line)
                yield line, int(row.pop("step")), set(row)

    def add(self, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            self._values.setdefault(name, []).append(value)

    def flush(self, step: int) -> None:
        means = {name: sum(values) / len(values) for name, values in self._values.items()}
        self.write({"step": step, **means})
        self._values = {}

    def has_validation(self, step: int) -> bool:
        """Return whether the log has the validation row of this step."""
        return any(
            own == step and all(name.startswith(_VALID) for name in names)
            for _, own, names in self._rows()
        )

    def write(self, row: dict[str, Any]) -> None:
        if rank() == 0:
            with media.writing(self.path, OSError), self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def sync(self) -> None:
        """Have all lines on the disk."""
        with media.writing(self.path, OSError):
            media.sync(self.path)
