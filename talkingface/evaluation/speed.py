"""How fast each model is by itself, on one thread of this machine; true of this machine only."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from talkingface.audio import FPS
from talkingface.data.dataset import ClipInfo
from talkingface.evaluation.bench import Bench, Candidate, portrait_of, step_of
from talkingface.evaluation.results import reason, write_text
from talkingface.evaluation.tables import table

SPEED, SPEED_TABLE = "speed.json", "speed.md"
AT_ONCE = 25  # frames: the pipeline hands a model one second at a time
TIMES = 5  # of which the best counts: whatever else runs can only make it slower


@dataclass(frozen=True)
class Speed:
    """One model. frames_per_second: drawn once the identity is encoded, from windows of speech.

    real_time_factor: seconds of work per second of video; below 1 it keeps up. Both None where the
    model failed; error: why.
    """

    model: str
    sha256: str
    frames_per_second: float | None = None
    real_time_factor: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Speeds:
    """All models, and what they shared the machine with. load: over 1, 5 and 15 minutes."""

    machine: str
    cpus: int
    threads: int
    device: str
    load: tuple[float, float, float]
    torch: str
    models: list[Speed]


def measure(bench: Bench, candidates: Sequence[Candidate], clip: ClipInfo) -> Speeds:
    """Every model that draws on the first second of a clip, on as many threads as torch has now."""
    drawing = [c for c in candidates if c.generator is not None and not c.lips]
    models = [_speed(bench, model, clip) for model in drawing]
    return Speeds(
        machine=platform.machine(),
        cpus=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        device=bench.device.type,
        load=os.getloadavg(),
        torch=torch.__version__,
        models=models,
    )


def _speed(bench: Bench, candidate: Candidate, clip: ClipInfo) -> Speed:
    try:
        rate = frames_per_second(bench, candidate, clip)
    except Exception as error:  # noqa: BLE001 the results of all the others are there
        return Speed(candidate.name, candidate.sha256, error=reason(error))
    return Speed(candidate.name, candidate.sha256, rate, FPS / rate)


def frames_per_second(bench: Bench, candidate: Candidate, clip: ClipInfo) -> float:
    """The best of a few calls of AT_ONCE frames, after one that nobody times.

    On a CPU the seconds are this process's own: other programs take some, and are not the model's.
    """
    clock = time.process_time if bench.device.type == "cpu" else time.perf_counter
    generator = candidate.generator
    if generator is None:
        raise ValueError(f"{candidate.name} draws nothing")
    step = step_of(generator, candidate.driven)
    sequence = bench.sequence(generator, clip, clip, driven=candidate.driven)
    part = sequence[None, :AT_ONCE].to(bench.device)
    picture = portrait_of(bench.cache, clip.start)
    best = 0.0
    with torch.inference_mode():
        identity = generator.encode(picture.to(bench.device))
        _, state = step(identity, part, None)
        for _ in range(TIMES):
            began = clock()
            generated, state = step(identity, part, state)
            generated.frames.sum().item()  # a GPU answers only now
            best = max(best, part.shape[1] / max(clock() - began, 1e-6))
    return best


def write(folder: Path, speeds: Speeds) -> None:
    """SPEED and SPEED_TABLE. Raises OutputError."""
    write_text(folder / SPEED, json.dumps(asdict(speeds), indent=1) + "\n")
    write_text(folder / SPEED_TABLE, markdown(speeds))


def markdown(speeds: Speeds) -> str:
    """The models as a table, under a line on the machine."""
    columns = (
        ("frames/s", "frames_per_second", 1),
        ("seconds per second of video", "real_time_factor", 3),
    )
    rows = {
        speed.model: {
            name: math.nan if value is None else value
            for name, value in asdict(speed).items()
            if not isinstance(value, str)
        }
        for speed in speeds.models
    }
    load = ", ".join(f"{value:.2f}" for value in speeds.load)
    about = (
        f"threads: {speeds.threads}, device: {speeds.device}, machine: {speeds.machine}, "
        f"CPUs: {speeds.cpus}, load: {load}, torch: {speeds.torch}"
    )
    failed = "".join(f"\n{s.model} failed: {s.error}\n" for s in speeds.models if s.error)
    return f"# Speed of each model alone\n\n{about}\n\n{table('model', rows, columns)}{failed}"
