"""Cost of the speech encoder: python benchmarks/encoder.py [--seconds 60] [--threads 1]

Share of real time that `audio.windows` takes for a whole recording, and `audio.WindowStream` for
chunks of 40 ms; the dearest chunk of the live stream, in ms. The quickest of several runs; with one
thread, seconds are this process's own, so that others at work matter less.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from line import SENTENCE, Line, append, context, table

from talkingface import audio, speech_encoder
from talkingface.audio import SAMPLE_RATE, SAMPLES_PER_FRAME, SpeechSpec, WindowStream

SPEC = SpeechSpec(kind="encoder", coefficients=speech_encoder.WIDTH, hops=9)
COLUMNS = ["feed", "share_of_real_time", "dearest_chunk_ms", "threads", "load"]


def whole(sound: torch.Tensor, threads: int) -> list[float]:
    """Return the seconds of one call for a recording."""
    clock = time.process_time if threads == 1 else time.perf_counter
    began = clock()
    audio.windows(sound, SPEC)
    return [clock() - began]


def live(sound: torch.Tensor, threads: int) -> list[float]:
    """Return the seconds of every chunk of 40 ms."""
    clock = time.process_time if threads == 1 else time.perf_counter
    stream, took = WindowStream(SPEC), []
    for chunk in sound.split(SAMPLES_PER_FRAME):
        began = clock()
        stream.push(chunk)
        took.append(clock() - began)
    return took


def measure(seconds: float, threads: int, rounds: int) -> list[Line]:
    """Measure the encoder; return a line for each kind of input."""
    torch.set_num_threads(threads)
    sentence, wanted = audio.load(SENTENCE), round(seconds * SAMPLE_RATE)
    sound = sentence.repeat(-(-wanted // len(sentence)))[:wanted]
    speech_encoder.load()
    lines: list[Line] = []
    for feed, work in (("whole", whole), ("live, 40 ms", live)):
        with torch.inference_mode():
            took = min((work(sound, threads) for _ in range(rounds)), key=sum)
        line: Line = {"benchmark": "encoder", "feed": feed, "seconds": seconds}
        line["share_of_real_time"] = sum(took) / seconds
        line["dearest_chunk_ms"] = 1000 * max(took) if len(took) > 1 else None
        lines.append({**line, **context(threads)})
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a .jsonl to append to")
    options = parser.parse_args()
    lines = measure(options.seconds, options.threads, options.rounds)
    print(table(lines, COLUMNS))
    if options.out is not None:
        append(options.out, lines)


if __name__ == "__main__":
    main()
