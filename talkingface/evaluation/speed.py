"""Speed of each model alone, on one thread of this machine; it holds for this machine only."""

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

from talkingface import media
from talkingface.audio import FPS
from talkingface.data.dataset import ClipInfo
from talkingface.evaluation.evaluator import EvaluatedModel, Evaluator, portrait_of, step_of
from talkingface.evaluation.results import reason
from talkingface.evaluation.tables import table

SPEED, SPEED_TABLE = "speed.json", "speed.md"
AT_ONCE = 25  # frames: the pipeline gives a model one second at a time
TIMES = 5  # the best counts: other programs can only make it slower


@dataclass(frozen=True)
class Speed:
    """Speed of one model.

    frames_per_second: from windows of speech, without encoding the identity. real_time_factor:
    seconds of work per second of video; below 1 is faster than real time. Both are None if the
    model failed; error: the reason.
    """

    model: str
    sha256: str
    frames_per_second: float | None = None
    real_time_factor: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Speeds:
    """Speeds of all models, and the machine. load: over 1, 5 and 15 minutes."""

    machine: str
    cpus: int
    threads: int
    device: str
    load: tuple[float, float, float]
    torch: str
    models: list[Speed]


def evaluate_speed(
    evaluator: Evaluator, models: Sequence[EvaluatedModel], clip: ClipInfo
) -> Speeds:
    """Measure every model that draws, on the first second of a clip, with torch's own threads."""
    drawing = [m for m in models if m.generator is not None and not m.lips]
    speeds = [_speed(evaluator, model, clip) for model in drawing]
    return Speeds(
        machine=platform.machine(),
        cpus=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        device=evaluator.device.type,
        load=os.getloadavg(),
        torch=torch.__version__,
        models=speeds,
    )


def _speed(evaluator: Evaluator, model: EvaluatedModel, clip: ClipInfo) -> Speed:
    try:
        rate = frames_per_second(evaluator, model, clip)
    except Exception as error:  # noqa: BLE001 the other models are measured all the same
        return Speed(model.name, model.sha256, error=reason(error))
    return Speed(model.name, model.sha256, rate, FPS / rate)


def frames_per_second(evaluator: Evaluator, model: EvaluatedModel, clip: ClipInfo) -> float:
    """Return the best speed of a few calls of AT_ONCE frames, after one untimed call.

    On a CPU the time of this process is counted, without that of other programs.
    """
    clock = time.process_time if evaluator.device.type == "cpu" else time.perf_counter
    generator = model.generator
    if generator is None:
        raise ValueError(f"{model.name} draws nothing")
    step = step_of(generator, model.driven)
    sequence = evaluator.sequence(generator, clip, clip, driven=model.driven)
    part = sequence[None, :AT_ONCE].to(evaluator.device)
    picture = portrait_of(evaluator.cache, clip.start)
    best = 0.0
    with torch.inference_mode():
        identity = generator.encode(picture.to(evaluator.device))
        _, state = step(identity, part, None)
        for _ in range(TIMES):
            began = clock()
            generated, state = step(identity, part, state)
            generated.frames.sum().item()  # waits for a GPU
            best = max(best, part.shape[1] / max(clock() - began, 1e-6))
    return best


def write(folder: Path, speeds: Speeds) -> None:
    """Write SPEED and SPEED_TABLE. Raises OutputError."""
    media.write_text(folder / SPEED, json.dumps(asdict(speeds), indent=1) + "\n")
    media.write_text(folder / SPEED_TABLE, markdown(speeds))


def markdown(speeds: Speeds) -> str:
    """Write the speeds as a Markdown table, under a line on the machine."""
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
