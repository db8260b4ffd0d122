"""Live video by WebRTC, with aiortc on both ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect

from helpers import media as recordings
from helpers.served import Flashes, Served, serving
from talkingface.media import Sound
from talkingface.web import rtc
from talkingface.web.limits import Limits
from talkingface.web.service import Service

RATE = 16_000
CLICKS = (0.5, 1.1, 2.0)  # seconds
LIMITS = Limits(jobs=1, streams=1, patience=3)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(LIMITS, tmp_path_factory.mktemp("temp")) as own:
        yield own


@pytest.fixture(autouse=True)
def nothing_stays(served: Served) -> Iterator[None]:
    yield
    served.wait_until_idle()


def clicks(seconds: float = 2.5) -> np.ndarray:
    """Return (n,) float32 at 16 kHz: 20 ms of a loud tone at each of CLICKS."""
    sound = np.zeros(round(seconds * RATE), np.float32)
    tone = 0.9 * np.sin(2 * np.pi * 1000 * np.arange(RATE // 50) / RATE)
    for time in CLICKS:
        sound[round(time * RATE) :][: len(tone)] = tone
    return sound


@asynccontextmanager
async def socket_to(served: Served, query: str = "rtc=true") -> AsyncIterator[ClientConnection]:
    address = f"{served.url.replace('http', 'ws')}/v1/live?{query}"
    async with connect(address, max_size=None, close_timeout=1) as own:
        yield own


async def say(own: ClientConnection, **what: Any) -> None:
    await own.send(json.dumps(what))


async def receive(own: ClientConnection) -> dict[str, Any]:
    return dict(json.loads(await asyncio.wait_for(own.recv(), 10)))


def onsets(times: list[float]) -> list[float]:
    """Return the first of all times that are close together."""
    return [t for k, t in enumerate(times) if k == 0 or t - times[k - 1] > 0.2]


async def watch(track: Any, loud: Callable[[Any], list[float]], found: list[float]) -> None:
    """Append the times, from the track's first frame on, at which something is seen or heard."""
    from aiortc.mediastreams import MediaStreamError

    first = None
    try:
        while True:
            frame = await track.recv()
            first = frame.time if first is None else first
            found += [frame.time - first + time for time in loud(frame)]
    except MediaStreamError:
        return


def bright(frame: Any) -> list[float]:
    return [0.0] if frame.to_ndarray(format="gray").mean() > 128 else []


def loud(frame: Any) -> list[float]:
    samples = frame.to_ndarray().reshape(-1, 2)[:, 0] / 32768
    return [float(k / frame.sample_rate) for k in np.flatnonzero(np.abs(samples) > 0.3)[:1]]


async def watch_clicks(served: Served, image: bytes, sound: bytes) -> tuple[list[float], ...]:
    """Return the times of white frames and of clicks, as they are received."""
    from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

    rtc._use_own_addresses()
    rtc._address.set("127.0.0.1")
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    seen: list[float] = []
    heard: list[float] = []
    tasks = []

    def take(track: Any) -> None:
        own = (bright, seen) if track.kind == "video" else (loud, heard)
        tasks.append(asyncio.ensure_future(watch(track, *own)))

    peer.on("track", take)
    for kind in ("video", "audio"):
        peer.addTransceiver(kind, direction="recvonly")
    await peer.setLocalDescription(await peer.createOffer())
    async with socket_to(served) as own:
        await say(own, offer=peer.localDescription.sdp)
        answer = (await receive(own))["answer"]
        hosts = {line.split()[4] for line in answer.splitlines() if "a=candidate" in line}
        assert hosts == {"127.0.0.1"} and "a=sendonly" in answer
        await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        for name, content in (("image", image), ("audio", sound)):
            await say(own, **{name: len(content)})
            await own.send(content)
        while "done" not in (news := await receive(own)):
            assert "error" not in news, news
    await peer.close()
    await asyncio.wait(tasks)
    return onsets(seen), onsets(heard)


def test_pictures_and_sound_arrive_together(
    served: Served, small: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiortc")
    monkeypatch.setattr(Service, "open", lambda *_: Flashes())
    path = recordings.write_sound(tmp_path / "clicks.flac", clicks(), RATE, "flac")
    seen, heard = asyncio.run(watch_clicks(served, small, path.read_bytes()))
    assert seen == pytest.approx(CLICKS, abs=0.05)
    assert heard == pytest.approx(CLICKS, abs=0.05)


async def refused(served: Served, *messages: dict[str, Any]) -> dict[str, Any]:
    async with socket_to(served) as own:
        for message in messages:
            await own.send(json.dumps(message))
        return await receive(own)


async def offer_of(*kinds: str, data: bool = False) -> str:
    from aiortc import RTCConfiguration, RTCPeerConnection

    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    for kind in kinds:
        peer.addTransceiver(kind, direction="recvonly")
    if data:
        peer.createDataChannel("more")
    await peer.setLocalDescription(await peer.createOffer())
    sdp = str(peer.localDescription.sdp)
    await peer.close()
    return sdp


@pytest.mark.parametrize(
    "message",
    [
        {"image": 100},
        {"offer": 1},
        {"offer": "x" * (rtc.LARGEST_OFFER + 1)},
        {"offer": "nonsense"},
        {"offer": "v=0\r\nm=video\r\n"},
    ],
)
def test_what_is_no_offer_is_refused(served: Served, message: dict[str, Any]) -> None:
    pytest.importorskip("aiortc")
    answer = asyncio.run(refused(served, message))
    assert answer["status"] == 400 and "offer" in answer["error"]


@pytest.mark.parametrize(
    ("kinds", "data"), [(["video"], False), (["video", "audio", "audio"], False), ([], True)]
)
def test_an_offer_of_other_media_is_refused(served: Served, kinds: list[str], data: bool) -> None:
    pytest.importorskip("aiortc")
    offer = asyncio.run(offer_of(*kinds, data=data))
    answer = asyncio.run(refused(served, {"offer": offer}))
    assert answer["status"] == 400 and "one video and one sound" in answer["error"]


def test_a_server_without_webrtc_says_so(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtc, "available", lambda: False)
    answer = asyncio.run(refused(served))  # before any offer
    assert answer["status"] == 400 and "no WebRTC" in answer["error"]


def test_addresses_of_an_offer_are_left_out() -> None:
    offer = (
        "v=0\r\na=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\na=end-of-candidates\r\na=mid:0\r\n"
    )
    assert rtc._without_candidates(offer) == "v=0\r\na=mid:0\r\n"


def test_each_frame_has_the_sound_under_it() -> None:
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(4800) / 16_000)).astype(np.float32)
    chunks = np.split(np.stack([tone, tone]), [700, 1111], axis=1)
    pairs = rtc.FramePairs(Sound(16_000, 2, iter(chunks)))
    frames = [pairs.add(np.zeros((5, 7, 3), np.uint8)) for _ in range(9)]
    assert frames[0].picture.shape == (4, 6, 3)
    assert [len(frame.sound) for frame in frames] == [1920] * 9
    sound = np.concatenate([frame.sound for frame in frames]) / 32767
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(14_400) / 48_000)
    assert np.abs(sound[500:13_500] - expected[500:13_500]).max() < 0.02
    assert np.abs(sound[14_500:]).max() < 1e-3
