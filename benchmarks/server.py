"""Number of live streams that one machine serves: python benchmarks/server.py [--clients 1,2,4,8]

Starts `talkingface serve` and lets so many clients at once speak into it for some seconds, in real
time as a microphone does. A stream is held at 25 frames per second when its last frame comes
within half a second of its last sound. Latency: from the first sound sent to the first piece of
video that comes back, so half a window of sound, the first frames, and the network are in it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from line import EXAMPLES, SENTENCE, Line, append, context, table
from websockets.asyncio.client import ClientConnection, connect

from talkingface import audio

COLUMNS = ["model", "show", "clients", "held", "frames_per_second", "first_p50", "first_p95",
           "first_p99", "last_p50", "last_max"]  # fmt: skip
HELD = 0.5  # seconds that the last frame may come after the last sound
STEP = 1600  # samples per message: 100 ms


@dataclass
class Watched:
    """Delays of one client in seconds. first: after its first sound; last: after its last."""

    first: float = float("nan")
    last: float = float("nan")
    frames: int = 0


@contextlib.contextmanager
def serving(model: str, streams: int) -> Iterator[str]:
    """Start a server; yield its address."""
    command = [sys.executable, "-m", "talkingface", "serve", "--port", "0", "--model", model]
    with subprocess.Popen(
        [*command, "--streams", str(streams)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://(\S+?)/", process.stdout.readline())
            assert found is not None, "the server did not start"
            yield found[1]
        finally:
            process.terminate()


async def speak(address: str, query: str, picture: bytes, sound: bytes) -> Watched:
    """Run one client: a picture, then sound in real time, until the video is complete."""
    watched = Watched()
    async with connect(f"ws://{address}/v1/live?{query}", max_size=None) as socket:
        await socket.send(json.dumps({"image": len(picture)}))
        for start in range(0, len(picture), 1 << 19):
            await socket.send(picture[start : start + (1 << 19)])
        await socket.send(json.dumps({"microphone": audio.SAMPLE_RATE}))
        began = perf_counter()
        ended = asyncio.create_task(_talk(socket, sound, began))
        async for message in socket:
            now = perf_counter()
            if isinstance(message, bytes):
                watched.first = now - began if np.isnan(watched.first) else watched.first
                continue
            told = json.loads(message)
            if "error" in told:
                raise RuntimeError(told["error"])
            if "done" in told:
                watched.frames = told["done"]["frames"]
                watched.last = now - await ended
    return watched


async def _talk(socket: ClientConnection, sound: bytes, began: float) -> float:
    """Send the sound in real time; return the time at which the last of it was sent."""
    for number, start in enumerate(range(0, len(sound), 2 * STEP), start=1):
        await asyncio.sleep(began + number * STEP / audio.SAMPLE_RATE - perf_counter())
        await socket.send(sound[start : start + 2 * STEP])
    await socket.send(json.dumps({"end": True}))
    return perf_counter()


async def crowd(
    address: str, query: str, clients: int, rounds: int, seconds: float
) -> list[Watched]:
    """Run several clients at once, with staggered starts, for several rounds."""
    picture = (EXAMPLES / "portrait.jpg").read_bytes()
    spoken = np.resize(audio.load(SENTENCE).numpy(), round(seconds * 16_000))
    sound = (spoken * 32767).astype("<i2").tobytes()

    async def late(delay: float) -> Watched:
        await asyncio.sleep(delay)
        return await speak(address, query, picture, sound)

    seen: list[Watched] = []
    for _ in range(rounds):
        seen += await asyncio.gather(*(late(0.13 * number) for number in range(clients)))
    return seen


def measure(
    model: str, show: str, counts: list[int], seconds: float, rounds: int = 3
) -> list[Line]:
    """Measure; return a line for each number of clients."""
    lines = []
    with serving(model, max(counts)) as address:
        query = f"model={model}&show={show}"
        asyncio.run(crowd(address, query, 1, 1, 2.0))  # warm
        for clients in counts:
            seen = asyncio.run(crowd(address, query, clients, rounds, seconds))
            first, last = (
                np.array([getattr(one, key) for one in seen]) for key in ("first", "last")
            )
            line: Line = {"benchmark": "server", "model": model, "show": show, "clients": clients}
            line["held"] = float((last < HELD).mean())
            rates = [one.frames / (seconds + one.last) for one in seen]
            line["frames_per_second"] = float(np.median(rates))
            for name, share in (("p50", 50), ("p95", 95), ("p99", 99)):
                line[f"first_{name}"] = float(np.percentile(first, share))
            line |= {"last_p50": float(np.median(last)), "last_max": float(last.max())}
            lines.append({**line, "seconds": seconds, "rounds": rounds, **context(1)})
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="cran")
    parser.add_argument("--show", default="face", choices=["face", "picture", "maps"])
    parser.add_argument("--clients", default="1,2,4,8", help="at once, with commas between")
    parser.add_argument("--seconds", type=float, default=10.0, help="that each client speaks")
    parser.add_argument("--out", type=Path, help="a .jsonl to append to")
    options = parser.parse_args()
    counts = [int(part) for part in options.clients.split(",")]
    lines = measure(options.model, options.show, counts, options.seconds)
    print(table(lines, COLUMNS))
    if options.out is not None:
        append(options.out, lines)


if __name__ == "__main__":
    main()
