"""Live streams that one machine serves, and the speed of two versions of the server.

    python benchmarks/server.py [--workers 1,2] [--clients 1,2,4,8]
    python benchmarks/server.py --compare OTHER/CHECKOUT [--times 20]

Starts `talkingface serve` with so many worker processes, on as many cores, and lets so many clients
for each worker speak into it for some seconds, in real time as a microphone does. The clients run
on the cores that are left. A stream is held at 25 frames per second when its last frame comes
within half a second of its last sound. The columns, in seconds:

- first: from the first sound sent to the first piece of video that comes back; the sound that a
  frame needs (0.38 s), the face and the first frames are in it.
- late_p95: from a frame's sound and the latency to the frame. last_max: from the last sound to the
  last frame.
- cpu_ms: milliseconds of processors for a frame, of all processes of the server. A stream has one
  torch thread. busy, others: cores that the server and other programs kept busy.

--compare posts the same request (a file of 7.4 s) in turn to the server of this checkout and to
that of another, and prints the medians of the seconds, by the clock and of processors, and the
quartiles of the ratio of neighbours. On a busy machine those of processors say more.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter, sleep

import httpx
import numpy as np
from line import EXAMPLES, SENTENCE, Line, append, context, table

from talkingface import audio

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from helpers.live_viewer import Viewing, view  # noqa: E402
from helpers.server_process import ServerProcess, server_process  # noqa: E402

COLUMNS = ["workers", "clients", "held", "first_p50", "first_p95", "late_p95", "last_max",
           "cpu_ms", "busy", "others", "load"]  # fmt: skip
COMPARED = ["measure", "this_p50", "other_p50", "ratio_p25", "ratio_p50", "ratio_p75"]
HELD = 0.5  # seconds that the last frame may come after the last sound


def crowd(url: str, query: str, clients: int, rounds: int, seconds: float) -> list[Viewing]:
    """Run several clients at once, with staggered starts, for several rounds."""
    picture = (EXAMPLES / "portrait.jpg").read_bytes()
    spoken = np.resize(audio.load(SENTENCE).numpy(), round(seconds * audio.SAMPLE_RATE))
    sound = (spoken * 32767).astype("<i2").tobytes()

    def late(number: int) -> Viewing:
        sleep(0.13 * number)
        return view(url, query, picture, sound)

    with ThreadPoolExecutor(clients) as threads:
        return [own for _ in range(rounds) for own in threads.map(late, range(clients))]


def measure(
    model: str, query: str, workers: int, counts: list[int], seconds: float, rounds: int = 2
) -> list[Line]:
    """Measure a server of so many workers; return a line for each number of clients of a worker."""
    lines = []
    given = ("--model", model, "--workers", str(workers), "--streams", str(workers * max(counts)))
    with tempfile.TemporaryDirectory() as temp, pinned_server(Path(temp), workers, given) as server:
        crowd(server.url, query, workers, 1, 2.0)  # warm
        for clients in counts:
            began, before = perf_counter(), busy_seconds(server)
            seen = crowd(server.url, query, workers * clients, rounds, seconds)
            wall = perf_counter() - began
            own, others = busy_seconds(server) - before
            first = np.array([one.first for one in seen])
            last = np.array([one.frames[-1] - one.sound for one in seen])
            line: Line = {"benchmark": "server", "model": model, "query": query}
            line |= {"workers": workers, "clients": clients, "held": float((last < HELD).mean())}
            for name, share in (("p50", 50), ("p95", 95), ("p99", 99)):
                line[f"first_{name}"] = float(np.percentile(first, share))
            line["late_p95"] = float(
                np.percentile(np.concatenate([one.late() for one in seen]), 95)
            )
            line |= {"last_p50": float(np.median(last)), "last_max": float(last.max())}
            line["cpu_ms"] = 1000 * own / sum(len(one.frames) for one in seen)
            line |= {"busy": own / wall, "others": others / wall}
            lines.append({**line, "seconds": seconds, "rounds": rounds, **context(1)})
    return lines


@contextmanager
def pinned_server(temp: Path, cores: int, options: Sequence[str]) -> Iterator[ServerProcess]:
    """Run a server on the first cores, and this process on the others if there are any."""
    every = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, every[:cores])  # what is started now inherits it
    try:
        with server_process(temp, *options) as server:
            os.sched_setaffinity(0, every[cores:] or every)
            yield server
    finally:
        os.sched_setaffinity(0, every)


def busy_seconds(server: ServerProcess) -> np.ndarray:
    """Return the time of processors so far, of the server and of other programs than this."""
    user, nice, system, *_ = (
        int(ticks) / os.sysconf("SC_CLK_TCK")
        for ticks in Path("/proc/stat").read_text(encoding="ascii").split("\n")[0].split()[1:]
    )
    own = server.processor_seconds()
    return np.array([own, user + nice + system - own - time.process_time()])


def compare(model: str, other: Path, times: int) -> list[Line]:
    """Post the same request to the servers of two checkouts in turn; return a line per measure.

    ratio: of this checkout's seconds to the other's, of two neighbouring requests.
    """
    taken = np.zeros((2, times + 1, 2))  # of this and the other: by the clock, of processors
    with ExitStack() as stack:
        servers = []
        for source in (ROOT, other.resolve()):
            temp = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            options = ("--model", model)
            servers.append(stack.enter_context(server_process(temp, *options, source=source)))
        for number in range(times + 1):
            for which in ((0, 1), (1, 0))[number % 2]:
                taken[which, number] = _generate(servers[which])
    taken = taken[:, 1:]  # the first is to warm up
    lines = []
    for measure, (this, that) in zip(
        ("clock", "processors"), taken.transpose(2, 0, 1), strict=True
    ):
        line: Line = {"benchmark": "server", "model": model, "measure": measure, "times": times}
        line |= {"this_p50": float(np.median(this)), "other_p50": float(np.median(that))}
        line |= {f"ratio_p{k}": float(np.percentile(this / that, k)) for k in (25, 50, 75)}
        lines.append({**line, **context(1)})
    return lines


def _generate(server: ServerProcess) -> tuple[float, float]:
    """Post a request; return its seconds by the clock and of processors."""
    files = {"image": EXAMPLES / "portrait.jpg", "audio": EXAMPLES / "speech.wav"}
    forms = {name: ("x", path.read_bytes()) for name, path in files.items()}
    began, used = perf_counter(), server.processor_seconds()
    httpx.post(f"{server.url}/v1/generate", files=forms, timeout=600).raise_for_status()
    return perf_counter() - began, server.processor_seconds() - used


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="cran")
    parser.add_argument("--show", default="face", choices=["face", "picture", "maps"])
    parser.add_argument("--workers", default="1,2", help="processes, with commas between")
    parser.add_argument("--clients", default="1,2,3,4", help="of each worker at once")
    parser.add_argument("--seconds", type=float, default=8.0, help="that each client speaks")
    parser.add_argument("--compare", type=Path, help="another checkout, to compare files with")
    parser.add_argument("--times", type=int, default=20, help="requests to each of the two")
    parser.add_argument("--out", type=Path, help="a .jsonl to append to")
    options = parser.parse_args()
    if options.compare is not None:
        lines = compare(options.model, options.compare, options.times)
    else:
        workers, clients = (
            [int(part) for part in text.split(",")] for text in (options.workers, options.clients)
        )
        query = f"model={options.model}&show={options.show}"
        lines = [
            line
            for count in workers
            for line in measure(options.model, query, count, clients, options.seconds)
        ]
    print(table(lines, COLUMNS if options.compare is None else COMPARED))
    if options.out is not None:
        append(options.out, lines)


if __name__ == "__main__":
    main()
