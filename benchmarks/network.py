"""How fast the networks alone are: python benchmarks/network.py [--models cran,atvg]

Frames per second with the face encoded, for every runtime and precision that this machine has: one
frame per call (a live stream), ten (a file), and sixteen faces at once; by one thread and by two.
GFLOP per frame are those of the multiplications that torch counts; the peak is that of a large
convolution measured just before, by as many threads, in float32: an int8 share of it may exceed 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from line import Line, append, best, context, table
from torch.utils.flop_counter import FlopCounterMode

import talkingface
from talkingface.contract import Portrait
from talkingface.errors import BadRequest
from talkingface.runtimes import has_bfloat16

COLUMNS = ["model", "runtime", "precision", "threads", "faces", "frames", "frames_per_second",
           "gflop", "share_of_peak"]  # fmt: skip
WAYS = [("torch", "float32"), ("openvino", "float32"), ("openvino", "int8")]
SIZES = [(1, 1), (1, 10), (16, 1)]  # faces, frames of a call


def convolution_peak() -> float:
    """GFLOP/s of a large 3x3 convolution in float32, the best of eight."""
    layer = torch.nn.Conv2d(128, 128, 3, padding=1).eval()
    x = torch.randn(8, 128, 64, 64)
    with torch.inference_mode():
        return 2 * 8 * 64 * 64 * 128 * 128 * 9 / best(lambda: layer(x), 8) / 1e9


def call(model: torch.nn.Module, faces: int, frames: int) -> tuple[object, torch.Tensor]:
    """Encoded mean faces, grey, and noise for speech."""
    config = model.config
    points = torch.from_numpy(config.crop.template() / config.crop.size).float()  # type: ignore[operator,union-attr]
    size, spec = config.crop.size, config.speech  # type: ignore[union-attr]
    portrait = Portrait(torch.zeros(faces, 3, size, size), points.repeat(faces, 1, 1))  # type: ignore[arg-type,call-overload]
    speech = torch.randn(faces, frames, spec.hops, spec.coefficients)  # type: ignore[arg-type,union-attr]
    return model.encode(portrait), speech  # type: ignore[operator]


def gflop(name: str) -> float:
    """Of one frame, the face encoded before."""
    model = talkingface.load(name).model
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        identity, speech = call(model, 1, 25)
        before = counter.get_total_flops()
        model(identity, speech)
        return (counter.get_total_flops() - before) / 25 / 1e9


def rows(name: str, threads: int, peak: float) -> Iterator[Line]:
    """A line for each way and size."""
    work = gflop(name)
    ways = [*WAYS, *([("torch", "bfloat16"), ("openvino", "bfloat16")] if has_bfloat16() else [])]
    for runtime, precision in ways:
        try:
            model = talkingface.load(name, runtime=runtime, precision=precision).model
        except BadRequest as error:
            print(f"{name} {runtime} {precision}: {error}")
            continue
        for faces, frames in SIZES:
            with torch.inference_mode():
                identity, speech = call(model, faces, frames)
                _, state = model(identity, speech)
                times = 40 if faces * frames == 1 else 8
                took = best(lambda: model(identity, speech, state), times)  # noqa: B023
            speed = faces * frames / took
            line = {"benchmark": "network", "model": name, "runtime": runtime, "faces": faces}
            line |= {"precision": precision, "frames": frames, "frames_per_second": speed}
            line |= {"gflop": work, "peak_gflops": peak, "share_of_peak": work * speed / peak}
            yield {**line, **context(threads)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", default="cran,atvg")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--out", type=Path, help="a .jsonl to append to")
    options = parser.parse_args()
    lines: list[Line] = []
    for threads in map(int, options.threads.split(",")):
        torch.set_num_threads(threads)
        peak = convolution_peak()
        print(f"{threads} threads: convolution peak {peak:.0f} GFLOP/s")
        for name in options.models.split(","):
            lines += rows(name, threads, peak)
    print(table(lines, COLUMNS))
    if options.out is not None:
        append(options.out, lines)


if __name__ == "__main__":
    main()
