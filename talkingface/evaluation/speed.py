"""Speed of each model alone, on one thread of this machine; it holds for this machine only."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from talkingface import media
from talkingface.audio import FPS
from talkingface.data.dataset import ClipInfo
from talkingface.evaluation.evaluator import EvaluatedModel, Evaluator, portrait_of, step_of
from talkingface.evaluation.results import reason
from talkingface.evaluation.tables import Row, table

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


def evaluate_speed(
    evaluator: Evaluator, models: Sequence[EvaluatedModel], clip: ClipInfo
) -> dict[str, Any]:
    """Measure every model that draws, on the first second of a clip, with torch's own threads.

    Returns the content of SPEED: the speeds and the machine; load: over 1, 5 and 15 minutes.
    """
    drawing = [m for m in models if m.generator is not None and not m.lips]
    speeds = [asdict(_speed(evaluator, model, clip)) for model in drawing]
    return {
        "machine": platform.machine(),
        "cpus": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "device": evaluator.device.type,
        "load": os.getloadavg(),
        "torch": torch.__version__,
        "models": speeds,
    }


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


def write(folder: Path, speeds: Mapping[str, Any]) -> None:
    """Write SPEED and SPEED_TABLE. Raises OutputError."""
    media.write_text(folder / SPEED, json.dumps(speeds, indent=1) + "\n")
    media.write_text(folder / SPEED_TABLE, markdown(speeds))


def markdown(speeds: Mapping[str, Any]) -> str:
    """Write the speeds as a Markdown table, under a line on the machine."""
    columns = (
        ("frames/s", "frames_per_second", 1),
        ("seconds per second of video", "real_time_factor", 3),
    )
    rows: dict[str, Row] = {speed["model"]: speed for speed in speeds["models"]}
    about = {
        "threads": speeds["threads"],
        "device": speeds["device"],
        "machine": speeds["machine"],
        "CPUs": speeds["cpus"],
        "load": ", ".join(f"{value:.2f}" for value in speeds["load"]),
        "torch": speeds["torch"],
    }
    text = ", ".join(f"{name}: {value}" for name, value in about.items())
    errors = {speed["model"]: speed["error"] for speed in speeds["models"] if speed["error"]}
    failed = "".join(f"\n{model} failed: {error}\n" for model, error in errors.items())
    return f"# Speed of each model alone\n\n{text}\n\n{table('model', rows, columns)}{failed}"
