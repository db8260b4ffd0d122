"""A viewer of a live video who speaks in real time and notes when each frame comes."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from websockets.sync.client import ClientConnection, connect

FPS, RATE = 25, 16_000
STEP = RATE // FPS  # samples per message
SECOND = bytes(2 * RATE)  # of silence
_SETTLED = 3.0  # seconds after which a stream has caught up with the sound of its preparation


class LiveError(Exception):
    """Error: the server sent an error, or not every frame. status: of the error, or 0."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class Viewing:
    """Times in seconds after the first sound was sent. sound: when the last of it was sent.

    first: of the first bytes of video. frames: of each frame. latency: sound that a frame needs.
    """

    sound: float = 0.0
    first: float = 0.0
    latency: float = 0.0
    frames: list[float] = field(default_factory=list)

    def late(self) -> np.ndarray:
        """(n,) seconds that each settled frame came after its sound and the latency."""
        due = np.arange(1, len(self.frames) + 1) / FPS + self.latency
        return (np.array(self.frames) - due)[due > _SETTLED]

    def rates(self) -> np.ndarray:
        """(n,) frames that came in each whole second after it had settled."""
        seconds = np.arange(_SETTLED, np.floor(self.sound) + 0.5)
        return np.histogram(self.frames, seconds)[0]


def view(
    url: str, query: str, picture: bytes, sound: bytes, headers: dict[str, str] | None = None
) -> Viewing:
    """Send a picture, then 16-bit sound of 16 kHz in real time, until the video is complete.

    url: http://host:port. Raises LiveError, and errors of websockets.
    """
    seen, counter = Viewing(), FrameCounter()
    address = f"{url.replace('http', 'ws', 1)}/v1/live?{query}"
    with connect(
        address,
        max_size=None,
        open_timeout=60,
        close_timeout=2,
        ping_interval=None,  # as browsers
        additional_headers=headers,
    ) as own:
        send_file(own, "image", picture)
        own.send(json.dumps({"microphone": RATE}))
        began = time.monotonic()
        talking = threading.Thread(target=_talk, args=(own, sound, began, seen))
        talking.start()
        try:
            while "done" not in (message := _receive(own)):
                seen.latency = message.get("start", {}).get("latency", seen.latency)
                now = time.monotonic() - began
                if piece := message.get("piece"):
                    seen.first = seen.first or now
                    seen.frames += [now] * counter.add(piece)
        finally:
            own.close()  # then the talker ends, too
            talking.join()
    if not message["done"]["frames"] == len(seen.frames) == len(sound) // (2 * STEP):
        raise LiveError(f"{len(seen.frames)} frames came, of {message['done']['frames']}")
    return seen


def send_file(own: ClientConnection, name: str, content: bytes) -> None:
    """Send the size of a file, then its bytes."""
    own.send(json.dumps({name: len(content)}))
    for start in range(0, len(content), 1 << 19):
        own.send(content[start : start + (1 << 19)])


def _talk(own: ClientConnection, sound: bytes, began: float, seen: Viewing) -> None:
    try:
        for number, start in enumerate(range(0, len(sound), 2 * STEP), start=1):
            time.sleep(max(0.0, began + number / FPS - time.monotonic()))
            own.send(sound[start : start + 2 * STEP])
        own.send('{"end": true}')
        seen.sound = time.monotonic() - began
    except Exception:  # noqa: BLE001 the connection is closed; the receiver says why
        return


def _receive(own: ClientConnection) -> dict[str, Any]:
    """Return the next message: JSON, or {"piece": bytes of the video}."""
    message = own.recv(timeout=60)
    if isinstance(message, bytes):
        return {"piece": message}
    said: dict[str, Any] = json.loads(message)
    if "error" in said:
        raise LiveError(str(said["error"]), int(said.get("status", 0)))
    return said


@contextmanager
def speaking(url: str, picture: bytes) -> Iterator[ClientConnection]:
    """A live stream during the block, which has begun to send video."""
    address = f"{url.replace('http', 'ws', 1)}/v1/live?show=face"
    with connect(address, max_size=None, close_timeout=1, ping_interval=None) as own:
        send_file(own, "image", picture)
        own.send(json.dumps({"microphone": RATE}))
        own.send(SECOND)
        assert "start" in json.loads(own.recv(timeout=30))
        yield own


def finish(own: ClientConnection) -> tuple[int, dict[str, Any]]:
    """End the sound; return (frames that came, last message)."""
    own.send('{"end": true}')
    counter, frames = FrameCounter(), 0
    while True:
        message = own.recv(timeout=30)
        if isinstance(message, bytes):
            frames += counter.add(message)
        elif not {"done", "error"}.isdisjoint(said := json.loads(message)):
            return frames, said


class FrameCounter:
    """Counter of the video frames in pieces of a fragmented mp4 (ISO 14496-12, 8.8)."""

    def __init__(self) -> None:
        self._rest, self._announced = b"", 0

    def add(self, piece: bytes) -> int:
        """Return the number of frames that are complete with this piece."""
        self._rest += piece
        complete = 0
        while len(self._rest) >= 8:
            size, name = struct.unpack(">I4s", self._rest[:8])
            if len(self._rest) < size:
                break
            if name == b"moof":
                self._announced = _frames_of(self._rest[8:size])
            elif name == b"mdat":
                complete += self._announced
            self._rest = self._rest[size:]
        return complete


def _frames_of(moof: bytes) -> int:
    """Return the samples of track 1, the video, in a fragment."""
    count = 0
    for traf in _boxes(moof, b"traf"):
        (header,) = _boxes(traf, b"tfhd")
        if struct.unpack(">I", header[4:8])[0] == 1:
            count += sum(struct.unpack(">I", run[4:8])[0] for run in _boxes(traf, b"trun"))
    return count


def _boxes(data: bytes, name: bytes) -> list[bytes]:
    """Return the contents of the boxes of this name."""
    found, begin = [], 0
    while begin < len(data):
        size, own = struct.unpack(">I4s", data[begin : begin + 8])
        if own == name:
            found.append(data[begin + 8 : begin + size])
        begin += size
    return found
