"""Live sockets that vanish, do not read, or say what is no sound."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from attacks.target import ATTACKER, TIMEOUT, Target
from helpers.honest_clients import PICTURE, SPEECH, from_address
from helpers.live_viewer import send_file

_MICROPHONE = '{"microphone": 16000}'
_SENT_AT_ONCE = bytes(64_000)  # two seconds of sound


@contextmanager
def _socket(target: Target, query: str = "show=face") -> Iterator[ClientConnection]:
    with connect(
        f"{target.url.replace('http', 'ws', 1)}/v1/live?{query}",
        max_size=None,
        close_timeout=1,
        open_timeout=TIMEOUT,
        additional_headers=from_address(ATTACKER),
    ) as own:
        yield own


def vanish(target: Target, end: float) -> Counter[str]:
    """Open a live video and cut the connection before its end."""
    rng = random.Random(0)

    def once(_: int) -> str:
        with _socket(target) as own:
            try:
                send_file(own, "image", PICTURE)
                send_file(own, "audio", SPEECH)
                for _ in range(rng.randint(0, 9)):
                    if "429" in str(own.recv(timeout=TIMEOUT))[:200]:
                        return "429"
            except ConnectionClosed:
                return "429"
            own.socket.close()
        return "left"

    return target.repeat(end, once)


def not_reading(target: Target, end: float) -> Counter[str]:
    """Open a live video, send sound and read nothing."""

    def once(_: int) -> str:
        with _socket(target) as own:
            try:
                send_file(own, "image", PICTURE)
                own.send(_MICROPHONE)
                own.send(_SENT_AT_ONCE)
            except ConnectionClosed:
                return "429"
            time.sleep(4)
            own.socket.close()
        return "left"

    return target.repeat(end, once)


_NONSENSE: list[Sequence[str | bytes]] = [
    ["null"],
    ["{"],
    ["[" * 10_000],
    [json.dumps({"image": -1})],
    [json.dumps({"image": 10**30})],
    ['{"image": 1e400}'],
    [b"no size was said"],
    ['{"image": 10}', b"more than ten bytes"],
    ['{"image": 4}', b"1234", '{"microphone": 7}'],
    ['{"image": 4}', b"1234", '{"microphone": null}'],
    ['{"image": 4}', b"1234", _MICROPHONE, b"odd"],
    ['{"image": 4}', b"1234", _MICROPHONE, '{"end": 1}'],
    ['{"image": 4}', b"1234", '{"audio": 4}', b"1234"],
]


def nonsense(target: Target, end: float) -> Counter[str]:
    """Send what is no picture, no sound and no JSON."""
    queries = ("show=face", "show=all", "face=0", "model=" + "x" * 3000)

    def once(number: int) -> str:
        said = _NONSENSE[number % len(_NONSENSE)]
        try:
            with _socket(target, queries[number % len(queries)]) as own:
                for message in said:
                    own.send(message)
                return str(json.loads(own.recv(timeout=TIMEOUT))["status"])
        except (ConnectionClosed, WebSocketException):
            return "closed"

    return target.repeat(end, once)
