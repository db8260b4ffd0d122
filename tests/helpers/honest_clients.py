"""Clients that do what people and programs do with a server, and try again when they are told to.

They go through threads until a time. What they were promised and did not get is noted as lost.
"""

from __future__ import annotations

import collections
import json
import random
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import av
import httpx
import numpy as np
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

from helpers.live_viewer import LiveError, Viewing, send_file, view

ROOT = Path(__file__).parents[2]
PICTURE = (ROOT / "examples" / "man.jpg").read_bytes()
SPEECH = (ROOT / "tests" / "fixtures" / "sentence.wav").read_bytes()
FRAMES = 75  # of the speech
SOUND = SPEECH[44:]  # 16-bit samples of 16 kHz
FILES = {"image": ("x", PICTURE), "audio": ("x", SPEECH)}
TRY_AGAIN = (408, 429, 503, 507)  # 408: on a busy machine everybody is slow
_CLOSED_TRY_AGAIN = 1013  # the WebSocket's code of a full server
_PAUSE = 0.5  # seconds before a client tries again
_VISITS = {"whole": 3, "job": 3, "faces": 2, "recording": 2}


class LostError(Exception):
    """Error: an expected answer did not come."""


class BusyError(Exception):
    """Error: the server asked to try again."""


def from_address(address: str) -> dict[str, str]:
    """Return the headers of a client of this address, for a server with --proxy 127.0.0.1."""
    return {"X-Forwarded-For": address}


def check_video(content: bytes, frames: int = FRAMES) -> None:
    """Decode a video; check that every frame and the sound are there. Raises LostError."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(content)
        file.flush()
        with av.open(file.name) as container:
            found = sum(1 for _ in container.decode(video=0))
            has_sound = bool(container.streams.audio)
    if found != frames or not has_sound:
        raise LostError(f"a video of {found} frames, {frames} expected")


class Client:
    """One client; each method is one visit. Raises LostError, BusyError."""

    def __init__(self, url: str, address: str, seed: int = 0) -> None:
        self._url, self._headers = url, from_address(address)
        self.random = random.Random(seed)
        self.http = httpx.Client(base_url=url, timeout=300, headers=self._headers)

    def _options(self) -> dict[str, str]:
        return {"show": self.random.choice(["face", "picture", "maps"])}

    def whole(self) -> None:
        """Request a video as the answer."""
        answer = self.http.post("/v1/generate", files=FILES, data=self._options())
        check_video(_expect(answer, 200).content)

    def job(self) -> None:
        """Start a job, ask for its state, fetch the video, and perhaps delete it."""
        answer = self.http.post("/v1/jobs", files=FILES, data=self._options())
        where = _expect(answer, 202).headers["location"]
        while (state := _expect(self.http.get(where, params={"wait": 5}), 200).json())[
            "state"
        ] != "done":
            if state["state"] not in ("waiting", "working"):
                raise BusyError if state.get("status") in TRY_AGAIN else LostError(f"{state}")
        check_video(_expect(self.http.get(state["video"]), 200).content)
        if self.random.random() < 0.5:
            _expect(self.http.delete(where), 204)

    def faces(self) -> None:
        """Request the faces of a picture."""
        answer = _expect(self.http.post("/v1/faces", files={"image": ("x", PICTURE)}), 200)
        if len(answer.json()["faces"]) != 1:
            raise LostError(f"faces: {answer.text}")

    def recording(self) -> None:
        """Stream a recording live, to its end."""
        address = f"{self._url.replace('http', 'ws', 1)}/v1/live?show=face"
        pieces = []
        with connect(
            address,
            max_size=None,
            open_timeout=60,
            ping_interval=None,
            additional_headers=self._headers,
        ) as own:
            send_file(own, "image", PICTURE)
            send_file(own, "audio", SPEECH)
            while True:
                message = own.recv(timeout=120)
                if isinstance(message, bytes):
                    pieces.append(message)
                    continue
                said = json.loads(message)
                if "error" in said:
                    raise LiveError(said["error"], said["status"])
                if "done" in said:
                    break
        check_video(b"".join(pieces))


def _expect(answer: httpx.Response, status: int) -> httpx.Response:
    if answer.status_code in TRY_AGAIN:
        raise BusyError
    if answer.status_code != status:
        raise LostError(f"{answer.request.url}: {answer.status_code} {answer.text[:200]}")
    return answer


@dataclass
class Crowd:
    """Threads of honest clients. seconds: of each visit, from its first try to its answer."""

    url: str
    end: float
    served: collections.Counter[str] = field(default_factory=collections.Counter)
    again: int = 0
    lost: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    viewings: list[Viewing] = field(default_factory=list)

    def start(self, clients: int, viewers: int, viewed: float = 20.0) -> None:
        """Start so many clients, and viewers who each speak for `viewed` seconds at a time."""
        self._threads = [threading.Thread(target=self._visit, args=(k,)) for k in range(clients)]
        self._threads += [
            threading.Thread(target=self._view, args=(k, viewed)) for k in range(viewers)
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all have left."""
        for thread in self._threads:
            thread.join()

    def _visit(self, number: int) -> None:
        client = Client(self.url, f"198.51.100.{number}", number)
        while time.monotonic() < self.end:
            name = client.random.choices(list(_VISITS), list(_VISITS.values()))[0]
            began = time.monotonic()
            if self._until_served(name, getattr(client, name)):
                self.served[name] += 1
                self.seconds.append(time.monotonic() - began)

    def _view(self, number: int, seconds: float) -> None:
        sound = np.resize(np.frombuffer(SOUND, "<i2"), round(seconds * 25) * 640).tobytes()
        headers = from_address(f"203.0.113.{number}")

        def one() -> None:
            self.viewings.append(view(self.url, "show=face", PICTURE, sound, headers))

        while time.monotonic() < self.end:
            if self._until_served("viewer", one):
                self.served["viewer"] += 1

    def _until_served(self, name: str, visit: Callable[[], None]) -> bool:
        """Visit until the server takes it. Return False when it was lost."""
        while True:
            try:
                visit()
                return True
            except (BusyError, LiveError, ConnectionClosed) as error:
                if not _asks_to_try_again(error):
                    self.lost.append(f"{name}: {error}")
                    return False
            except (LostError, httpx.HTTPError, WebSocketException, TimeoutError, OSError) as error:
                self.lost.append(f"{name}: {type(error).__name__} {error}")
                return False
            self.again += 1
            time.sleep(_PAUSE)


def _asks_to_try_again(error: BusyError | LiveError | ConnectionClosed) -> bool:
    if isinstance(error, LiveError):
        return error.status in TRY_AGAIN
    if isinstance(error, ConnectionClosed):
        return error.rcvd is not None and error.rcvd.code == _CLOSED_TRY_AGAIN
    return True
