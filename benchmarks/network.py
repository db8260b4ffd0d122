"""Speed of the network alone: python benchmarks/network.py [--threads 1,2]

Frames per second with the identity encoded, fed as a live stream is (one frame a call), as a file
is (some frames a call) and as 16 live streams at once are; operations per frame, and which share of
the peak that makes: of the best convolution that torch computes here, in the same run. All variants
take turns, and the quickest turn of each counts.

With one thread, seconds are this process's own, so that others at work matter less; they are there
all the same (caches, clock rate), so use an idle machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from line import EXAMPLES, SENTENCE, Line, append, context, table
from torch.utils.flop_counter import FlopCounterMode

from talkingface import align, audio, models, video, weights
from talkingface.contract import Portrait
from talkingface.streaming import CHUNK

FEEDS = {"live": (1, 1), "file": (1, CHUNK), "16 live": (16, 1)}  # streams, frames per call
COLUMNS = ["model", "threads", "feed", "frames_per_second", "ms_per_call", "mflop_per_frame",
           "peak_gflops", "share"]  # fmt: skip
ROUNDS, BURST = 8, 0.25  # turns of each variant; seconds of each turn
SIDE, CHANNELS = 64, 128  # of the ideal convolution: 3x3, from and to so many channels


@dataclass(frozen=True)
class Variant:
    """One timed call. frames: per call. facts: of its JSON line."""

    facts: Line
    work: Callable[[], Any]
    frames: int


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", default="cran,atvg", help="names, or presets without weights")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, with commas between")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, help="add JSON lines to this file")
    options = parser.parse_args()
    lines: list[Line] = []
    for threads in map(int, options.threads.split(",")):
        torch.set_num_threads(threads)
        with torch.inference_mode():
            lines += measured(options.models.split(","), threads, options.rounds)
    print(table(lines, COLUMNS))
    if options.out is not None:
        append(options.out, lines)


def measured(names: list[str], threads: int, rounds: int) -> list[Line]:
    """Measure every variant on so many threads, with its share of the peak."""
    ideal = peak()
    variants = [v for name in names for v in model_variants(name, threads)]
    shortest, *seconds = turns([ideal, *variants], threads, rounds)
    limit = 2 * ideal.frames / shortest / 1e9
    lines = []
    for variant, took in zip(variants, seconds, strict=True):
        facts, speed = variant.facts, variant.frames / took
        made = {
            "frames_per_second": speed,
            "ms_per_call": took * 1e3,
            "peak_gflops": limit,
            "share": facts["mflop_per_frame"] * speed / 1e3 / limit,
        }
        lines.append({"benchmark": "network", **facts, **made, **context(threads)})
    return lines


def turns(variants: list[Variant], threads: int, rounds: int) -> list[float]:
    """Return the seconds of the fastest call of each variant; they take turns."""
    clock = time.process_time if threads == 1 else time.perf_counter
    best = [float("inf")] * len(variants)
    for _ in range(rounds):
        for place, variant in enumerate(variants):
            stop = time.perf_counter() + BURST
            while True:
                began = clock()
                variant.work()
                best[place] = min(best[place], clock() - began)
                if time.perf_counter() > stop:
                    break
    return best


# --- generators -----------------------------------------------------------------------------------


def model_variants(name: str, threads: int) -> Iterator[Variant]:
    """Yield a variant of a model for each of FEEDS, on the example face and sentence."""
    model = opened(name)
    aligned = align(EXAMPLES / "portrait.jpg")
    points, mesh = (
        torch.from_numpy(np.asarray(known, dtype=np.float32))[None]
        for known in (aligned.landmarks, aligned.mesh)
    )
    sentence = audio.windows(audio.load(SENTENCE), model.config.speech)[None]
    image = video.to_tensor(aligned.crop)[None]
    work = flops(model, Portrait(image, points, mesh), sentence[:, :1])
    for feed, (streams, frames) in FEEDS.items():
        face = Portrait(
            image.repeat(streams, 1, 1, 1),
            points.repeat(streams, 1, 1),
            mesh.repeat(streams, 1, 1),
        )
        speech = sentence[:, 10 : 10 + frames].repeat(streams, 1, 1, 1)
        facts = {"model": name, "threads": threads, "feed": feed, "mflop_per_frame": work}
        yield Variant(facts, call(model, face, speech), streams * frames)


def opened(name: str) -> Any:
    """Return a model with its weights, or a preset with random ones."""
    if name not in models.PRESETS or name in {info.name for info in weights.listing()}:
        return weights.load(name)
    return models.build(models.PRESETS[name]).eval().requires_grad_(False)


def call(model: Any, face: Portrait, speech: torch.Tensor) -> Callable[[], Any]:
    """Return a function that generates the next frames of a stream that has begun."""
    identity = model.encode(face)
    _, state = model(identity, speech)
    return lambda: model(identity, speech, state)


def flops(model: Any, face: Portrait, speech: torch.Tensor) -> float:
    """Return millions of operations per frame, two for each multiply-add."""
    identity = model.encode(face)
    _, state = model(identity, speech)
    with FlopCounterMode(display=False) as counter:
        model(identity, speech, state)
    return float(counter.get_total_flops()) / 1e6


# --- the peak -------------------------------------------------------------------------------------


def peak() -> Variant:
    """Return an ideal convolution; its "frames" are multiply-adds."""
    products = SIDE * SIDE * CHANNELS * CHANNELS * 9
    layer = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
    x = torch.randn(4, CHANNELS, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    return Variant({}, lambda: layer(x), 4 * products)


if __name__ == "__main__":
    main()
