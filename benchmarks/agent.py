"""Latency and memory of live faces: python benchmarks/agent.py [--streams 1 4] [--seconds 30]

Each stream is a process with a `LiveClock`. It gets speech in chunks of 20 ms in real time, every
second utterance is interrupted, and it rests in between. Times are in ms, until the clock gives a
frame: from the last sound that it needs ("frame"), from the first of an utterance, and from an
interruption to the frame of closed lips. --minutes 30 runs one stream as fast as it goes instead,
for so many minutes of video, and prints the memory of its process.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from line import EXAMPLES, SENTENCE, Line, context, table

RATE = 16_000
CHUNK = RATE // 50  # samples
REST = 1.0  # seconds between utterances
SPOKEN = 1.5  # seconds of every second utterance before it is interrupted
DRAWN = 25  # in the run for memory, one of so many frames is drawn


class Listener:
    """Reads the frames of a clock. It keeps when each came."""

    def __init__(self, clock: Any) -> None:
        self._clock, self.came = clock, list[float]()

    async def listen(self) -> None:
        async for _ in self._clock:
            self.came.append(time.monotonic())


async def converse(face: Any, sound: np.ndarray, seconds: float) -> list[float]:
    """Speak, interrupt and rest; return the seconds from each interruption to closed lips."""
    from talkingface import LiveClock
    from talkingface.animation import JOINED

    clock = LiveClock(face)
    listener = Listener(clock)
    listening = asyncio.create_task(listener.listen())
    cut: list[tuple[float, int]] = []  # when it was interrupted, and the frames made by then
    end, turn = time.monotonic() + seconds, 0
    while time.monotonic() < end or not cut:
        turn += 1
        await speak(clock, sound if turn % 2 else sound[: round(SPOKEN * RATE)])
        if turn % 2 == 0:
            began = time.monotonic()
            await clock.interrupt()
            cut.append((began, face.statistics().frames))
        await clock.end_of_utterance()
        while face.speaking:
            await asyncio.sleep(0.02)
        await asyncio.sleep(REST)
    await clock.close()
    listening.cancel()
    return [listener.came[count + JOINED - 1] - at for at, count in cut]


async def speak(clock: Any, sound: np.ndarray) -> None:
    """Push a sound in real time."""
    began = time.monotonic()
    for at in range(0, len(sound), CHUNK):
        await asyncio.sleep(began + (at + CHUNK) / RATE - time.monotonic())
        await clock.push(sound[at : at + CHUNK], RATE)


def faces(size: int) -> tuple[Any, np.ndarray]:
    """Return a live face in a warm process, and the sentence."""
    import torch

    import talkingface
    from talkingface import audio

    torch.set_num_threads(1)
    sound = audio.load(SENTENCE).numpy()
    speaker = talkingface.load("cran")
    for _ in range(2):  # the first one warms up
        face = speaker.live(EXAMPLES / "portrait.jpg", rate=RATE, max_size=size)
        face.push(sound[:RATE])
        face.end_of_utterance()
        while face.read(idle=False):
            pass
    return speaker.live(EXAMPLES / "portrait.jpg", rate=RATE, max_size=size), sound


def stream(size: int, seconds: float, barrier: Any, results: Any) -> None:
    """Run one stream; put its statistics and its interruptions into the queue."""
    face, sound = faces(size)
    barrier.wait()
    closed = asyncio.run(converse(face, sound, seconds))
    results.put((face.statistics(), closed))


def latency(count: int, size: int, seconds: float) -> Line:
    """Run some streams at once; return a row with the slowest stream's percentiles, in ms."""
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(count), spawn.Queue()
    given = (size, seconds, barrier, results)
    processes = [spawn.Process(target=stream, args=given, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    found = [results.get(timeout=seconds + 300) for _ in processes]
    for process in processes:
        process.join()
    slowest, _ = max(found, key=lambda pair: pair[0].latency.p95)
    closed = [value for _, values in found for value in values]
    row = {f"frame {name}": 1000 * getattr(slowest.latency, name) for name in ("p50", "p95", "p99")}
    row |= {"first frame p95": 1000 * slowest.first_frame.p95}
    row |= {"closed p50": 1000 * float(np.median(closed)), "closed max": 1000 * max(closed)}
    undrawn = sum(own.undrawn for own, _ in found) / sum(own.frames for own, _ in found)
    factors = sum(own.real_time_factor for own, _ in found)
    return {"streams": count, **row, "undrawn": undrawn, "real-time factors": factors, **context(1)}


def memory(size: int, minutes: float) -> Line:
    """Run one stream as fast as it goes; return the resident memory at its parts, in MB."""
    face, sound = faces(size)
    frames = round(minutes * 60 * 25)
    resident: list[int] = []
    began = time.monotonic()
    for number in range(frames):
        if number % 150 == 0:
            face.push(sound)
            face.end_of_utterance()
        if number % 300 == 40:
            face.interrupt()
        face.read(draw=number % DRAWN == 0)
        if number in (frames // 10, frames // 2, frames - 1):
            resident.append(resident_mb())
    row = dict(zip(("MB at 10 %", "at half", "at the end"), resident, strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    row |= {"peak": peak, "took s": round(time.monotonic() - began)}
    return {"minutes": minutes, **row, **context(1)}


def resident_mb() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--max-size", type=int, default=512)
    parser.add_argument("--minutes", type=float, help="measure memory for so long a video")
    options = parser.parse_args()
    if options.minutes:
        show(memory(options.max_size, options.minutes))
        return
    for count in options.streams:
        show(latency(count, options.max_size, options.seconds))


def show(row: Line) -> None:
    print(table([row], list(row)), flush=True)


if __name__ == "__main__":
    main()
