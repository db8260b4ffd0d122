"""How fast, side by side in one run: python benchmarks/speed.py [--threads 1] [--seconds 3]

Prints, for each generator, frames per second with the identity cached (batch 1, chunks of one
second as the pipeline feeds them), GMAC per frame and the share of the convolution peak measured
just before; then the wall time of the whole command, start to mp4, in a process of its own. Threads
and load are recorded: these numbers are only comparable within one run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from talkingface import audio, models
from talkingface.contract import Portrait
from talkingface.models import PRESETS

EXAMPLES = Path(__file__).parent.parent / "examples"


def convolution_peak() -> float:
    """GFLOP/s of a large 3x3 convolution, the best of five."""
    layer = torch.nn.Conv2d(128, 128, 3, padding=1).eval()
    x = torch.randn(8, 128, 64, 64)
    operations = 2 * 8 * 64 * 64 * 128 * 128 * 9
    best = 0.0
    with torch.inference_mode():
        for _ in range(5):
            began = time.perf_counter()
            layer(x)
            best = max(best, operations / (time.perf_counter() - began) / 1e9)
    return best


def generator_speed(name: str, frames: int = 25) -> tuple[float, float]:
    """(frames per second, GMAC per frame) of a randomly initialised preset."""
    config = PRESETS[name]
    model = models.build(config).eval()
    points = torch.from_numpy(config.crop.template() / config.crop.size).float()[None]
    portrait = Portrait(torch.rand(1, 3, config.crop.size, config.crop.size) * 2 - 1, points)
    speech = torch.randn(1, frames, config.speech.hops, config.speech.coefficients)
    with torch.inference_mode():
        identity = model.encode(portrait)
        with FlopCounterMode(display=False) as counter:
            _, state = model(identity, speech)
        best = 0.0
        for _ in range(5):
            began = time.perf_counter()
            model(identity, speech, state)
            best = max(best, frames / (time.perf_counter() - began))
    return best, counter.get_total_flops() / 2e9 / frames


def command_seconds(seconds: float, model: str) -> float:
    """Wall time of `talkingface generate` on the example portrait and so much speech."""
    speech = audio.load(EXAMPLES / "speech.wav").numpy()
    wanted = np.resize(speech, int(seconds * audio.SAMPLE_RATE))
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "speech.wav"
        with wave.open(str(sound), "wb") as file:
            file.setparams((1, 2, audio.SAMPLE_RATE, 0, "NONE", ""))
            file.writeframes((wanted * 32767).astype("<i2").tobytes())
        command = [sys.executable, "-m", "talkingface", "generate"]
        command += [str(EXAMPLES / "portrait.jpg"), str(sound), "--model", model]
        command += ["-o", f"{folder}/talking.mp4"]
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    peak = convolution_peak()
    print(f"threads {options.threads} of {os.cpu_count()}, load {load}, torch {torch.__version__}")
    print(f"convolution peak {peak:.0f} GFLOP/s")
    for name in ("cran", "atvg", "cran-natural", "cran-paper", "atvg-paper"):
        speed, work = generator_speed(name)
        share = 2 * work * speed / peak
        print(f"{name}: {speed:.0f} frames/s, {work:.3f} GMAC/frame, {share:.0%} of the peak")
    for name in ("cran", "atvg"):
        took = command_seconds(options.seconds, name)
        print(f"talkingface generate --model {name}, {options.seconds:g} s: {took:.1f} s")


if __name__ == "__main__":
    main()
