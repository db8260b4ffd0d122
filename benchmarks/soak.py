"""Soak test of a server: python benchmarks/soak.py [--minutes 10] [--clients 6] [--slow 0]

Starts `talkingface serve` as a process of its own and lets clients do, at random, everything that
people and programs do: whole videos, jobs that are fetched, deleted or forgotten, live recordings
and microphones, and all the ways to vanish half-way, to send what is no picture, or not to read.
Every ten seconds a line: memory, threads, open files, temporary folders, what was done. At the end
all must be idle and gone; what failed or was lost or stayed is printed, and the exit code is 1.
With --slow N, N further connections send a byte now and then, and the clients are honest ones.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import av
import httpx
import numpy as np
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

ROOT = Path(__file__).parent.parent
PICTURE = (ROOT / "examples" / "man.jpg").read_bytes()
SPEECH = (ROOT / "tests" / "fixtures" / "sentence.wav").read_bytes()
FRAMES = 75
PATIENCE = 3.0
FILES_OF_DECODER = 3  # open files of the server for each decoding process that it keeps
TRY_AGAIN = 1013  # the WebSocket's code of a full server


class LostError(Exception):
    """Error: an expected answer did not come."""


class Client:
    """One client; each method is one visit. Raises LostError."""

    def __init__(self, url: str, seed: int) -> None:
        self.url, self.random = url, random.Random(seed)
        self.http = httpx.Client(base_url=url, timeout=120)
        self.files = {"image": ("x", PICTURE), "audio": ("x", SPEECH)}

    def show(self) -> dict[str, str]:
        return {"show": self.random.choice(["face", "picture", "maps"])}

    def whole(self) -> None:
        """Request a video as the answer."""
        answer = self.http.post("/v1/generate", files=self.files, data=self.show())
        if self._taken(answer, 200):
            check_video(answer.content)

    def job(self) -> None:
        """Start a job, poll it, fetch the video, and perhaps delete it."""
        answer = self.http.post("/v1/jobs", files=self.files, data=self.show())
        if not self._taken(answer, 202):
            return
        where = answer.headers["location"]
        while (state := self.http.get(where, params={"wait": 5}).json())["state"] != "done":
            if state["state"] not in ("waiting", "working"):
                raise LostError(f"a job: {state}")
        check_video(self.http.get(state["video"]).content)
        self.http.delete(where)

    def job_dropped(self) -> None:
        """Start a job and cancel or abandon it."""
        data = {"lease": "1"} | self.show()
        answer = self.http.post("/v1/jobs", files=self.files, data=data)
        if self._taken(answer, 202) and self.random.random() < 0.5:
            time.sleep(self.random.random())
            self.http.delete(answer.headers["location"])

    def faces(self) -> None:
        """Request the faces of a picture."""
        answer = self.http.post("/v1/faces", files={"image": ("x", PICTURE)})
        if self._taken(answer, 200) and len(answer.json()["faces"]) != 1:
            raise LostError(f"faces: {answer.text}")

    def bad(self) -> None:
        """Send a file that is no picture, or no sound."""
        change = self.random.choice([{"image": ("x", b"GIF89a")}, {"audio": ("x", b"no" * 99)}])
        self._taken(self.http.post("/v1/generate", files=self.files | change), 415)

    def vanish(self) -> None:
        """Send half a form, or a whole one, and close before the answer."""
        boundary = b"--b\r\nContent-Disposition: form-data; name="
        body = b"".join(
            boundary + f'"{name}"; filename="x"\r\n\r\n'.encode() + content + b"\r\n"
            for name, (_, content) in self.files.items()
        )
        body += b"--b--\r\n"
        head = f"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        port = int(self.url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as own:
            own.sendall(head.encode() + body[: self.random.choice([1000, len(body)])])
            time.sleep(self.random.random())

    def live(self) -> None:
        """Stream a recording live, to its end."""
        with self._socket() as own:
            send(own, image=PICTURE, audio=SPEECH)
            self._watch(own)

    def speak(self) -> None:
        """Stream a microphone live, for a second or two."""
        samples = np.frombuffer(SPEECH[44:], "<i2")[: 16_000 * self.random.randint(1, 2)]
        with self._socket() as own:
            send(own, image=PICTURE)
            own.send('{"microphone": 16000}')
            for start in range(0, len(samples), 640):
                own.send(samples[start : start + 640].tobytes())
                time.sleep(0.02)
            own.send('{"end": true}')
            self._watch(own, len(samples) // 640)

    def live_vanish(self) -> None:
        """Close a live video before its end."""
        with self._socket() as own:
            send(own, image=PICTURE, audio=SPEECH)
            for _ in range(self.random.randint(0, 9)):
                own.recv(timeout=60)
            own.socket.close()

    def live_stuck(self) -> None:
        """Open a live video and read nothing."""
        with self._socket() as own:
            send(own, image=PICTURE)
            own.send('{"microphone": 16000}')
            own.send(bytes(64_000))
            time.sleep(PATIENCE + 1)

    def _socket(self) -> ClientConnection:
        address = f"{self.url.replace('http', 'ws')}/v1/live?show={self.show()['show']}"
        return connect(address, max_size=None, close_timeout=2, open_timeout=30)

    def _watch(self, own: ClientConnection, frames: int = FRAMES) -> None:
        pieces = []
        while True:
            message = own.recv(timeout=60)
            if isinstance(message, bytes):
                pieces.append(message)
                continue
            said = json.loads(message)
            if said.get("status") == 429:
                raise BusyError
            if "error" in said:
                raise LostError(f"live: {said}")
            if "done" in said:
                check_video(b"".join(pieces), frames)
                return

    def _taken(self, answer: httpx.Response, status: int) -> bool:
        if answer.status_code == 429:
            raise BusyError
        if answer.status_code != status:
            raise LostError(f"{answer.request.url}: {answer.status_code} {answer.text[:200]}")
        return True


class BusyError(Exception):
    """Error: the server answered 429 because it is full."""


def send(own: ClientConnection, **files: bytes) -> None:
    for name, content in files.items():
        own.send(json.dumps({name: len(content)}))
        own.send(content)


def check_video(content: bytes, frames: int = FRAMES) -> None:
    """Decode a video; check that every frame and the sound are there."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(content)
        file.flush()
        with av.open(file.name) as container:
            found = sum(1 for _ in container.decode(video=0))
            has_sound = bool(container.streams.audio)
    if found != frames or not has_sound:
        raise LostError(f"a video of {found} frames, {frames} expected")


VISITS = {
    "whole": 3, "job": 3, "job_dropped": 2, "faces": 2, "bad": 2, "vanish": 3, "live": 3,
    "speak": 3, "live_vanish": 3, "live_stuck": 1,
}  # fmt: skip


HONEST = {"whole": 3, "job": 3, "faces": 2, "live": 2, "speak": 2}


class SlowClients:
    """A thread with many connections that send half a head or half a form, byte by byte."""

    def __init__(self, url: str, count: int, end: float) -> None:
        self.closed = 0  # by the server
        self._port, self._count, self._end = int(url.rsplit(":", 1)[1]), count, end
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        own: dict[int, socket.socket] = {}
        while time.monotonic() < self._end:
            for n in range(self._count):
                try:
                    if n not in own:
                        own[n] = socket.create_connection(("127.0.0.1", self._port), timeout=5)
                        own[n].sendall(self._head(n))
                        own[n].setblocking(False)
                    own[n].send(b"x")
                    if own[n].recv(1000) == b"":
                        raise ConnectionResetError
                except BlockingIOError:  # nothing to read: it is still open
                    continue
                except OSError:
                    self.closed += 1
                    if n in own:
                        own.pop(n).close()
            time.sleep(0.5)
        for connection in own.values():
            connection.close()

    def _head(self, n: int) -> bytes:
        if n % 3 == 0:
            return b""
        if n % 3 == 1:
            return b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "
        return (
            b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
            b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        )


class Soak:
    """Threads of the clients, and their counts and errors."""

    def __init__(self, url: str, clients: int, end: float, visits: dict[str, int]) -> None:
        self.done: collections.Counter[str] = collections.Counter()
        self.seconds: list[float] = []  # of visits
        self._visits = visits
        self.lost: list[str] = []
        self._url, self._end = url, end
        self._threads = [
            threading.Thread(target=self._client, args=(seed,)) for seed in range(clients)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _client(self, seed: int) -> None:
        client = Client(self._url, seed)
        while time.monotonic() < self._end:
            name = client.random.choices(list(self._visits), list(self._visits.values()))[0]
            visit: Callable[[], None] = getattr(client, name)
            began = time.monotonic()
            try:
                visit()
                self.done[name] += 1
                self.seconds.append(time.monotonic() - began)
            except BusyError:
                self.done["busy"] += 1
                time.sleep(0.5)
            except ConnectionClosed as error:
                if error.rcvd is None or error.rcvd.code != TRY_AGAIN:
                    self.lost.append(f"{name}: {error}")
                self.done["busy"] += 1
                time.sleep(0.5)
            except (LostError, httpx.HTTPError, WebSocketException, TimeoutError, OSError) as error:
                self.lost.append(f"{name}: {type(error).__name__} {error}")


def vitals(pid: int, temp: Path) -> dict[str, int]:
    """Return what a process uses: megabytes of memory, threads, open files, requests' folders."""
    status = Path(f"/proc/{pid}/status").read_text()
    (memory,), (threads,) = (re.findall(rf"{key}:\s+(\d+)", status) for key in ("VmRSS", "Threads"))
    threads_of = Path(f"/proc/{pid}/task").glob("*/children")
    decoders = sum(len(path.read_text().split()) for path in threads_of)
    files = len(list(Path(f"/proc/{pid}/fd").iterdir())) - FILES_OF_DECODER * decoders
    folders = sum(path.is_dir() for path in temp.glob("*/*"))
    return {"MB": int(memory) // 1024, "threads": int(threads), "files": files, "folders": folders}


def main() -> None:
    """Run the soak test; exit with 1 on any error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--slow", type=int, default=0)
    parser.add_argument("--model", default="cran")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        temp = Path(folder)
        command = [sys.executable, "-m", "talkingface", "serve", "--port", "0", "--temp", folder]
        command += ["--model", options.model, "--patience", str(PATIENCE), "--keep-minutes", "0.2"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = server.stdout.readline().split()[2].rstrip("/")
            bad = _soak(server.pid, url, temp, options)
            server.send_signal(signal.SIGINT)
            server.wait(20)
        bad += [f"{path} is still there" for path in temp.iterdir()]
    print("\n".join(bad) if bad else "nothing leaked, nothing was lost")
    sys.exit(bool(bad))


def _soak(pid: int, url: str, temp: Path, options: argparse.Namespace) -> list[str]:
    """Return the errors of the test."""
    minutes = options.minutes
    warm = Client(url, 0)
    warm.whole()
    warm.live()
    first = vitals(pid, temp)
    print(f"  0.0 min {first}", flush=True)
    began = time.monotonic()
    end = began + 60 * minutes
    slow = SlowClients(url, options.slow, end)
    slow.start()
    soak = Soak(url, options.clients, end, HONEST if options.slow else VISITS)
    soak.start()
    memory = []
    while (elapsed := time.monotonic() - began) < 60 * minutes:
        time.sleep(10)
        now = vitals(pid, temp)
        memory.append(now["MB"])
        print(f"{elapsed / 60 + 1 / 6:5.1f} min {now} {dict(soak.done)}", flush=True)
    soak.join()
    slow.join()
    seconds = np.percentile(soak.seconds, (50, 100))
    print(
        f"{len(soak.seconds)} whole visits: median {seconds[0]:.1f} s, at most {seconds[1]:.1f} s"
    )
    print(f"{options.slow} slow connections, closed by the server {slow.closed} times")
    time.sleep(PATIENCE + 15)  # jobs that were left are forgotten, connections are closed
    last = vitals(pid, temp)
    print(f"at the end {last}, {sum(soak.done.values())} visits: {dict(soak.done)}")
    health = warm.http.get("/v1/health").json()
    half = len(memory) // 2
    early, late = np.mean(memory[half // 2 : half]), np.mean(memory[-half // 2 :])
    print(f"memory: {early:.0f} MB in the second quarter, {late:.0f} MB in the last")
    bad = [f"lost: {what}" for what in soak.lost]
    if any(count for lane in ("files", "live") for count in health[lane].values()):
        bad.append(f"not idle: {health}")
    if last["folders"] or last["files"] > first["files"] + 3 or last["threads"] > 40:
        bad.append(f"left open: {last}, at first {first}")
    if late > early + 50:
        bad.append(f"memory grew from {early:.0f} to {late:.0f} MB")
    return bad


if __name__ == "__main__":
    main()
