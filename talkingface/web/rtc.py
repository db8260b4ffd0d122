"""Video and sound to one browser by WebRTC, where it cannot play an mp4 while it is made.

The client's offer and the answer go over the live socket, so its limits, quotas and checks of Host
and Origin hold here too. Media come from the address at which the client reached the server, and
no address that an offer names is ever contacted. The server receives no media.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib.util import find_spec
from itertools import count
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
from numpy.typing import NDArray

from talkingface import media
from talkingface.audio import FPS
from talkingface.media import Sound
from talkingface.types import Picture
from talkingface.web.errors import ApiError

if TYPE_CHECKING:
    from aiortc import RTCPeerConnection

LARGEST_OFFER = 20_000  # bytes
CONNECTING = 10.0  # seconds that a connection may take
_RATE = 48_000  # Hz of the sound
_UNDER = _RATE // FPS  # samples under a frame
_PACKET = _RATE // 50  # samples of a packet of sound: the encoder takes 20 ms
_WAITING = 3  # frames that wait in a track
_CODECS = ("video/H264", "video/VP8")  # the best first
# What aiortc raises for an offer that it cannot read.
_UNREADABLE = (ValueError, LookupError, AttributeError, TypeError, AssertionError)

_address: ContextVar[str] = ContextVar("address", default="")  # of the server, for one client


def available() -> bool:
    """Return whether the extra `webrtc` is installed."""
    return find_spec("aiortc") is not None


@dataclass(frozen=True)
class TimedFrame:
    """One frame and its sound. picture: (H, W, 3) uint8 RGB. sound: (1920,) int16 at 48 kHz."""

    picture: Picture
    sound: NDArray[np.int16]


class FramePairs:
    """Frames with the sound under each, in place of the pieces of an mp4 (`Fragments`)."""

    mime = "webrtc"

    def __init__(self, sound: Sound) -> None:
        """sound: as much of its chunks is taken as belongs under the frames so far."""
        self._chunks = sound.chunks
        self._resampler = media.Resampler(sound.rate, _RATE, sound.channels)
        self._samples = np.zeros(0, np.float32)

    def add(self, picture: Picture) -> TimedFrame:
        """Return a frame and its 40 ms of sound; silence where the sound has ended."""
        while len(self._samples) < _UNDER and (chunk := next(self._chunks, None)) is not None:
            self._samples = np.concatenate([self._samples, self._resampler.push(chunk)[0]])
        under, self._samples = self._samples[:_UNDER], self._samples[_UNDER:]
        padded = np.pad(under, (0, _UNDER - len(under)))
        height, width = (side // 2 * 2 for side in picture.shape[:2])  # what codecs take
        scaled = (32767 * padded.clip(-1, 1)).round().astype(np.int16)
        return TimedFrame(np.ascontiguousarray(picture[:height, :width]), scaled)

    def finish(self) -> bytes:
        """Return nothing: there is no end to write."""
        return b""

    def close(self) -> None:
        """Do nothing: no encoder is open."""


class Peer:
    """Connection to one browser. Close it at the end."""

    def __init__(self) -> None:
        from aiortc import RTCConfiguration, RTCPeerConnection

        _use_own_addresses()
        self._connection: RTCPeerConnection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._connected, self._failed = asyncio.Event(), asyncio.Event()
        self._connection.on("connectionstatechange", self._changed)
        self._picture, self._sound = _track("video"), _track("audio")

    async def answer(self, offer: str, address: str) -> str:
        """Return the answer (SDP) to an offer. address: of the server, for the client.

        Raises ApiError (400): an offer that cannot be read, or one of other media than one video
        and one sound to be received.
        """
        from aiortc import RTCSessionDescription
        from aiortc.exceptions import InvalidAccessError, InvalidStateError

        _address.set(address)
        try:
            await self._connection.setRemoteDescription(
                RTCSessionDescription(_without_candidates(offer), "offer")
            )
            self._attach(self._connection)
            await self._connection.setLocalDescription(await self._connection.createAnswer())
        except (*_UNREADABLE, InvalidAccessError, InvalidStateError) as error:
            raise ApiError(400, f"the WebRTC offer cannot be used ({error})") from error
        return str(self._connection.localDescription.sdp)

    def _attach(self, connection: RTCPeerConnection) -> None:
        from aiortc import RTCRtpSender

        transceivers = connection.getTransceivers()
        if sorted(own.kind for own in transceivers) != ["audio", "video"] or connection.sctp:
            raise ValueError("it must ask for one video and one sound, and for nothing else")
        for own in transceivers:
            own.direction = "sendonly"
            own.sender.replaceTrack(self._picture if own.kind == "video" else self._sound)
            if own.kind == "video":
                known = RTCRtpSender.getCapabilities("video").codecs
                own.setCodecPreferences(
                    [c for kind in _CODECS for c in known if c.mimeType == kind]
                )

    def _changed(self) -> None:
        state = self._connection.connectionState
        if state == "connected":
            self._connected.set()
        elif state in ("failed", "closed"):
            self._failed.set()

    async def send(self, frame: TimedFrame) -> None:
        """Send a frame and its sound. Raises ApiError (408) when there is no connection."""
        await self._wait_for_connection()
        for track in (self._picture, self._sound):
            await self._queue(track.frames.put(frame))

    async def drain(self) -> None:
        """Wait until all frames were sent. Raises ApiError (408)."""
        for track in (self._picture, self._sound):
            await self._queue(track.frames.join())

    async def _wait_for_connection(self) -> None:
        if not self._connected.is_set():
            with suppress(TimeoutError), anyio.fail_after(CONNECTING):
                await self._connected.wait()
        if not self._connected.is_set() or self._failed.is_set():
            raise _no_connection()

    async def _queue(self, step: Any) -> None:
        """Await a step of a queue, unless the connection fails meanwhile. Raises ApiError."""
        tasks = [asyncio.ensure_future(step), asyncio.ensure_future(self._failed.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        if self._failed.is_set():
            raise _no_connection()

    async def aclose(self) -> None:
        """Close the connection."""
        await self._connection.close()


def _no_connection() -> ApiError:
    return ApiError(
        408, "no WebRTC connection: a network between you and the server lets no UDP pass"
    )


def _without_candidates(offer: str) -> str:
    """Return an offer without addresses. Those of the client show when it calls the server's."""
    named = ("a=candidate:", "a=end-of-candidates")
    return "".join(line for line in offer.splitlines(keepends=True) if not line.startswith(named))


@cache
def _use_own_addresses() -> None:
    """Let aioice offer the address in `_address` alone; of itself it never offers loopback."""
    from aioice import ice

    all_of_them = ice.get_host_addresses

    def addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
        own = _address.get()
        return [own] if own else list(all_of_them(use_ipv4, use_ipv6))

    ice.get_host_addresses = addresses


def _pictures(frame: TimedFrame) -> list[Any]:
    from av import VideoFrame

    return [VideoFrame.from_ndarray(frame.picture, "rgb24")]


def _sounds(frame: TimedFrame) -> list[Any]:
    from av import AudioFrame

    parts = frame.sound.reshape(-1, 1, _PACKET)
    return [AudioFrame.from_ndarray(part, "s16", "mono") for part in parts]


def _track(kind: str) -> Any:
    """Return a track of aiortc with a queue `frames` that `Peer.send` fills."""
    from aiortc import MediaStreamTrack

    convert = _pictures if kind == "video" else _sounds
    step = Fraction(1, FPS) if kind == "video" else Fraction(_PACKET, _RATE)

    class Track(MediaStreamTrack):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.kind = kind
            self.frames: asyncio.Queue[TimedFrame] = asyncio.Queue(_WAITING)
            self._parts: deque[Any] = deque()
            self._numbers = count()

        async def recv(self) -> Any:
            if not self._parts:
                self._parts.extend(convert(await self.frames.get()))
                self.frames.task_done()
            part = self._parts.popleft()
            if kind == "audio":
                part.sample_rate = _RATE
            part.pts, part.time_base = next(self._numbers), step
            return part

    return Track()
