"""Speed of training alone, on any device: python benchmarks/training.py [--device cuda]

Training frames per second of `cran`'s stage of pictures without its discriminators and with all of
them (D_I, D_V and D_l), batches drawn before: what the device does, not what feeds it (loader.py).
Beside it, operations per frame as torch counts them, forward, backward and discriminators, and
which share that is of the peak: of the best convolution that torch computes in this precision, in
this run.

A GPU wants larger batches than a CPU: `--batch 8,32,128`. The one command for a card:
python benchmarks/training.py --device cuda --batch 8,32,128 --seconds 20 --out speed.jsonl
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from line import EXAMPLES, SENTENCE, append, context, table
from torch.utils.flop_counter import FlopCounterMode

from talkingface import align, audio, pipeline
from talkingface.audio import SAMPLES_PER_FRAME
from talkingface.data.dataset import Cache, RawBatch
from talkingface.landmarks import GAP_BOTTOM, GAP_TOP, IBUG
from talkingface.training import loop, presets
from talkingface.training.cran import CranRecipe, CranTraining

STAGES = {"pixels": 1, "all discriminators": 2}  # of the preset
COLUMNS = ["preset", "stage", "batch", "precision", "compiled", "device", "frames_per_second",
           "ms_per_step", "gflop_per_frame", "peak_tflops", "share", "memory_gb"]  # fmt: skip
CLIPS, CLIP_FRAMES = 24, 75
SIDE, CHANNELS = 64, 128  # of the ideal convolution: 3x3, from and to so many channels
WARM_UP = 3  # steps


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--preset", default="cran", help="of presets.CRAN, with discriminators")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", default="8", help="samples of a step, with commas between")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="[the preset's]")
    parser.add_argument("--compile", action="store_true", help="by torch.compile")
    parser.add_argument("--seconds", type=float, default=8, help="of each row")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="add JSON lines to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loop.configure_malloc()
    device, training = pipeline.find_device(options.device), presets.CRAN[options.preset]
    if options.precision:
        training = replace(training, precision=options.precision)
    precision = loop.chosen(training.precision, device)
    limit = peak(device, precision, min(2.0, options.seconds))
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        cache = made_up(Path(folder))
        for stage in STAGES:
            work = flops(training, cache, stage)
            for batch in map(int, options.batch.split(",")):
                recipe = recipe_of(training, cache, stage, batch, device)
                if options.compile:
                    recipe.compile()
                speed = frames_per_second(recipe, device, options.seconds)
                facts = {"benchmark": "training", "preset": options.preset, "stage": stage}
                facts |= {"compiled": options.compile, "precision": precision}
                frames = batch * recipe.training.stages[0].frames
                line = {"batch": batch, "device": device_name(device), "frames_per_second": speed}
                line |= {"ms_per_step": frames / speed * 1e3, "gflop_per_frame": work / 1e9}
                line |= {"peak_tflops": limit / 1e12, "share": work * speed / limit}
                line["memory_gb"] = memory(device)
                lines.append({**facts, **line, **context(options.threads)})
                print(table(lines[-1:], COLUMNS), flush=True)
    print("\n" + table(lines, COLUMNS))
    if options.out is not None:
        append(options.out, lines)


def recipe_of(
    training: CranTraining, cache: Cache, stage: str, batch: int, device: torch.device
) -> CranRecipe:
    """Return one stage of the preset, long enough that its learning rate has begun to change."""
    row = replace(training.stages[STAGES[stage]], batch=batch, steps=1_000_000, epochs=0)
    chosen = replace(training, stages=(row,))
    return CranRecipe(chosen, cache, device=device, reader="lipreader")


def frames_per_second(recipe: CranRecipe, device: torch.device, seconds: float) -> float:
    """Return the frames per second of steps; on a CPU the fastest step counts."""
    drawn = [recipe.batch(number) for number in range(2)]
    count = len(drawn[0].pictures) * drawn[0].count
    for step in range(WARM_UP):
        recipe.step(drawn[step % 2], step)
    took, step, until = [], WARM_UP, time.perf_counter() + seconds
    while time.perf_counter() < until or not took:
        took.append(timed(device, lambda at=step: recipe.step(drawn[at % 2], at)))  # type: ignore[misc]
        step += 1
    return count / (min(took) if device.type == "cpu" else sum(took) / len(took))


def timed(device: torch.device, work: Callable[[], Any]) -> float:
    """Return the seconds of a call; with one CPU thread, the process's own time."""
    own = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if own else time.perf_counter
    began = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began


def flops(training: CranTraining, cache: Cache, stage: str) -> float:
    """Return the operations per frame of a step, two for each multiply-add, counted on the CPU."""
    recipe = recipe_of(replace(training, precision="float32"), cache, stage, 2, torch.device("cpu"))
    drawn: RawBatch = recipe.batch(0)
    with FlopCounterMode(display=False) as counter:
        recipe.step(drawn, 0)
    return float(counter.get_total_flops()) / (2 * drawn.count)


def peak(device: torch.device, precision: str, seconds: float) -> float:
    """Return the operations per second of an ideal convolution."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    many = 4 if device.type == "cpu" else 256
    layer = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1).to(device, dtype)
    layer = layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(many, CHANNELS, SIDE, SIDE, dtype=dtype, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    best, until = float("inf"), time.perf_counter() + seconds
    with torch.inference_mode():
        while time.perf_counter() < until:
            best = min(best, timed(device, lambda: layer(x)))
    return 2 * many * SIDE * SIDE * CHANNELS * CHANNELS * 9 / best


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def memory(device: torch.device) -> float | None:
    """Return the largest memory of the GPU's tensors in gigabytes; None for a CPU."""
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


def made_up(folder: Path) -> Cache:
    """Write a corpus of the example face with a moving mouth, and the example sentence."""
    aligned = align(EXAMPLES / "portrait.jpg")
    gap = 0.02 + 0.02 * np.sin(np.arange(CLIP_FRAMES))
    mesh = np.repeat(aligned.mesh[None], CLIP_FRAMES, 0)
    mesh[:, GAP_TOP, 1] -= gap / 2
    mesh[:, GAP_BOTTOM, 1] += gap / 2
    sound = audio.load(SENTENCE)[: CLIP_FRAMES * SAMPLES_PER_FRAME]
    heard = np.zeros(CLIP_FRAMES * SAMPLES_PER_FRAME, np.int16)
    heard[: len(sound)] = np.asarray(sound) * 32767
    words = [("bin", 0.5 * n, 0.5 * n + 0.3) for n in range(5)]
    rows = [
        {"key": f"s1_{n}", "speaker": "s1", "split": "train", "words": words}
        | {"start": n * CLIP_FRAMES, "frames": CLIP_FRAMES}
        for n in range(CLIPS)
    ]
    (folder / "clips.json").write_text(json.dumps(rows))
    np.save(folder / "frames.npy", np.repeat(aligned.crop[None], CLIPS * CLIP_FRAMES, 0))
    np.save(folder / "mesh.npy", np.tile(mesh, (CLIPS, 1, 1)))
    np.save(folder / "landmarks.npy", np.tile(mesh[:, IBUG], (CLIPS, 1, 1)))
    np.save(folder / "sound.npy", np.tile(heard, CLIPS))
    return Cache(folder)


if __name__ == "__main__":
    main()
