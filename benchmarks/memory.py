"""Memory against length: python benchmarks/memory.py [--lengths 10,60,600,3600]

For each length, a process of its own makes a video of the bare face from a recording (decoded,
generated and encoded part by part) and tells its peak above what the import alone needs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from line import EXAMPLES, Line, append, context, table
from stages import recording

COLUMNS = ["model", "show", "seconds_of_sound", "above_import_mib", "peak_mib", "frames_per_second"]
CHILD = """
import resource, sys, time
import talkingface.pipeline
import torch
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
model, show, portrait, sound, out = sys.argv[1:]
torch.set_num_threads(1)
before, began = peak(), time.perf_counter()
frames = talkingface.load(model).generate(portrait, sound, show=show).save(out)
print(before, peak(), frames, time.perf_counter() - began)
"""


def measure(model: str, show: str, lengths: list[float]) -> list[Line]:
    """Measure; return a line for each length."""
    lines = []
    for seconds in lengths:
        with tempfile.TemporaryDirectory() as folder:
            sound = recording(Path(folder) / "speech.wav", seconds)
            words = [model, show, str(EXAMPLES / "portrait.jpg"), str(sound), f"{folder}/out.mp4"]
            call = [sys.executable, "-c", CHILD, *words]
            ran = subprocess.run(call, capture_output=True, text=True, check=True)
        before, peak, frames, took = map(float, ran.stdout.split())
        line = {"benchmark": "memory", "model": model, "show": show, "seconds_of_sound": seconds}
        line |= {"above_import_mib": peak - before, "peak_mib": peak}
        lines.append({**line, "frames_per_second": frames / took, **context(1)})
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="cran")
    parser.add_argument("--show", default="face", choices=["face", "picture"])
    parser.add_argument("--lengths", default="10,60,600,3600", help="seconds, with commas between")
    parser.add_argument("--out", type=Path, help="a .jsonl to append to")
    options = parser.parse_args()
    lengths = [float(part) for part in options.lengths.split(",")]
    lines = measure(options.model, options.show, lengths)
    print(table(lines, COLUMNS))
    if options.out is not None:
        append(options.out, lines)


if __name__ == "__main__":
    main()
