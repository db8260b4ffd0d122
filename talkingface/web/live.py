"""Live video over one WebSocket: sound goes in, video comes out.

The client sends a picture, then a recording or the sound of a microphone as it is recorded. The
server sends an mp4 in pieces, or frames by WebRTC. All files are removed when the socket closes.
docs/serving.md describes the messages.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocket, WebSocketDisconnect
from torch import Tensor

from talkingface import media, video_writing
from talkingface.audio import FPS
from talkingface.media import Sound
from talkingface.streaming import Speech
from talkingface.types import Picture
from talkingface.web import rtc, uploads
from talkingface.web.bounded_queue import BoundedQueue
from talkingface.web.client_quota import client_key
from talkingface.web.errors import ApiError, storage_error
from talkingface.web.generate_options import LiveOptions, parse_options
from talkingface.web.limits import Limits, check_sound
from talkingface.web.metrics import Metrics, Pace
from talkingface.web.microphone import Microphone, SoundQueue, sound_alone, sound_or_silence
from talkingface.web.service import (
    AUDIO,
    BLOCK,
    IMAGE,
    Service,
    client_errors,
    frames,
    joined_notes,
)
from talkingface.web.worker_pool import Cancelled, Slot, result

SOUND_RATE = 48_000  # Hz of a recording's sound in the video: short AAC frames, small delay
AHEAD = 2.0  # seconds that a recording's video may be ahead of its playback
_RTC_AHEAD = 0.1  # the same by WebRTC: browsers play what comes
QUEUE_SIZE = 32  # messages in a queue; more wait for a slow client or worker
_RTC_QUEUE_SIZE = 8  # the same where messages are frames
_REPORT_EVERY = FPS // 2  # frames between two progress messages
_LAST_PACKETS = 0.5  # seconds for the last frames to be encoded and sent by WebRTC

Piece = bytes | rtc.TimedFrame
OutputQueue = BoundedQueue[Piece | dict[str, Any]]


@dataclass(frozen=True)
class _Session:
    """Request of one socket. rate: of the microphone in Hz, None for a recording."""

    options: LiveOptions
    folder: Path
    rate: int | None


@dataclass(frozen=True)
class _OpenedSound:
    """Sound of one socket. total: its frames, 0 if unknown. heard: for the model, in blocks."""

    total: int
    heard: Iterator[Tensor]
    played: Sound
    note: str | None


class Live:
    """Handler of /v1/live."""

    def __init__(self, service: Service) -> None:
        self._service, self._limits = service, service.limits
        self._models = list(service.speakers)

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one socket until it closes."""
        await websocket.accept()
        status = 499  # the client went before the end
        try:
            options = parse_options(dict(websocket.query_params), self._models, LiveOptions)
            client = client_key(websocket)
            async with self._service.request(self._service.live_pool, client) as (folder, slot):
                peer = await self._connect(websocket, options)
                async with aclosing(peer) if peer else nullcontext():
                    session = await self._receive_files(websocket, options, folder)
                    await self._run(websocket, session, slot, peer)
            status = 200
            await websocket.close()
        except ApiError as error:
            status = error.status
            await self._reject(websocket, error)
        except OSError as error:
            full = storage_error(error)
            status = 500 if full is None else full.status
            if full is None:
                raise
            await self._reject(websocket, full)
        except (WebSocketDisconnect, Cancelled):
            return
        finally:
            self._service.metrics.request("/v1/live", status)

    async def _reject(self, websocket: WebSocket, error: ApiError) -> None:
        try:
            await _send(websocket, {"error": error.text, "status": error.status}, self._limits)
            await websocket.close(1013 if error.status == 429 else 1008)
        except WebSocketDisconnect:
            return

    async def _connect(self, websocket: WebSocket, options: LiveOptions) -> rtc.Peer | None:
        """Answer the client's WebRTC offer, if the video shall go that way. Raises ApiError."""
        if not options.rtc:
            return None
        if not rtc.available():
            raise ApiError(400, "this server sends no WebRTC: leave rtc out, or make a file")
        async with aclosing(uploads.timed(_messages(websocket), self._limits, False)) as messages:
            offer = _parse_json(await anext(messages), "the WebRTC offer").get("offer")
        if not isinstance(offer, str) or len(offer) > rtc.LARGEST_OFFER:
            raise ApiError(400, f'send first {{"offer": SDP}}, at most {rtc.LARGEST_OFFER} letters')
        peer = rtc.Peer()
        answer = await peer.answer(offer, websocket.scope["server"][0])
        await _send(websocket, {"answer": answer}, self._limits)
        return peer

    async def _receive_files(
        self, websocket: WebSocket, options: LiveOptions, folder: Path
    ) -> _Session:
        """Store the picture and, if there is one, the recording. Raises ApiError."""
        most = uploads.sizes(self._limits)
        limits = self._limits
        async with AsyncExitStack() as stack:
            timed = uploads.timed(_messages(websocket), limits, False)
            messages = await stack.enter_async_context(aclosing(timed))
            spend = stack.enter_context(self._service.uploads.upload())
            size = _parse_size(await anext(messages), IMAGE, most)
            async with uploads.time_for(size, limits):
                await _store(messages, folder / IMAGE, size, spend)
            sound = _parse_json(await anext(messages), "the sound")
            if "microphone" not in sound:
                size = _parse_size(sound, AUDIO, most)
                async with uploads.time_for(size, limits):
                    await _store(messages, folder / AUDIO, size, spend)
                return _Session(options, folder, None)
        rate = sound["microphone"]
        if not isinstance(rate, int) or rate not in media.AAC_RATES:
            known = ", ".join(map(str, sorted(media.AAC_RATES)))
            raise ApiError(400, f"a microphone's rate must be one of these, in Hz: {known}")
        return _Session(options, folder, rate)

    async def _run(
        self, websocket: WebSocket, session: _Session, slot: Slot, peer: rtc.Peer | None
    ) -> None:
        """Run worker, reader and writer until one ends. Raises ApiError, WebSocketDisconnect."""
        size = _RTC_QUEUE_SIZE if peer else QUEUE_SIZE
        outgoing: OutputQueue = BoundedQueue(size, self._limits.patience)
        incoming: SoundQueue = BoundedQueue(QUEUE_SIZE, self._limits.patience)
        work = slot.start(
            partial(self._generate, session=session, outgoing=outgoing, incoming=incoming)
        )
        worker: asyncio.Future[Any] = asyncio.wrap_future(work)
        reader = asyncio.create_task(_read(websocket, session, incoming))
        writer = asyncio.create_task(_write(websocket, outgoing, self._limits, peer))
        try:
            await asyncio.wait([worker, reader, writer], return_when=asyncio.FIRST_COMPLETED)
            if worker.done():
                result(work)
                await writer
            else:  # all was sent, or the client left, sent a wrong message, or does not read
                await (writer if writer.done() else reader)
        finally:
            slot.cancel()
            outgoing.close()
            incoming.close()
            reader.cancel()
            writer.cancel()
            await asyncio.wait([worker, reader, writer])
            for task in (reader, writer):
                if not task.cancelled():
                    task.exception()  # mark as retrieved; the first failure was raised above

    def _generate(
        self, slot: Slot, session: _Session, outgoing: OutputQueue, incoming: SoundQueue
    ) -> None:
        """Generate and queue the video, in a worker thread. Raises ApiError, Cancelled."""
        began, metrics = time.monotonic(), self._service.metrics
        with client_errors(session.folder):
            opened = self._open_sound(slot, session, incoming)
            total, sound = opened.total, opened.played
            stream = self._service.open(
                session.folder / IMAGE, session.options, self._limits.live_size
            )
            parts = metrics.sound(opened.heard, "live")
            drawn = frames(stream, parts, slot, total, self._limits.live_minutes)
            spoken = metrics.frames(drawn, "live")
            first = next(spoken, None)
            if first is None:
                raise ApiError(400, "there was no sound: speak, or send a longer recording")
            metrics.first_frame(time.monotonic() - began)
            tag = self._service.speakers[session.options.model].tag
            fragments = partial(video_writing.Fragments, first, sound, tag=tag)
            with closing(rtc.FramePairs(sound) if session.options.rtc else fragments()) as pieces:
                start = {
                    "mime": pieces.mime,
                    "width": first.shape[1],
                    "height": first.shape[0],
                    "fps": FPS,
                    "of": total,
                    "latency": stream.latency,
                    "note": joined_notes(stream.note, opened.note),
                }
                outgoing.put({"start": start})
                arrived = None if session.rate is None else lambda: incoming.arrived
                pictures = _timed(chain([first], spoken), metrics, arrived)
                count = _send_frames(pictures, pieces, outgoing, slot, session)
                if rest := pieces.finish():
                    outgoing.put(rest)
        outgoing.put({"done": {"frames": count}})

    def _open_sound(self, slot: Slot, session: _Session, incoming: SoundQueue) -> _OpenedSound:
        rate = session.rate
        if rate is not None:
            sent = sound_alone(incoming)
            if session.options.idle:
                sent = sound_or_silence(incoming, rate, lambda: slot.done)
            microphone = Microphone(sent, rate)
            return _OpenedSound(0, microphone.parts(), Sound(rate, 1, microphone), None)
        path = session.folder / AUDIO
        total = check_sound(path, self._limits.live_minutes, slot.check)
        speech = Speech(path, check=slot.check)
        played = media.open_sound(path, SOUND_RATE)
        return _OpenedSound(total, speech.parts(BLOCK), played, speech.note)


def _timed(
    frames: Iterator[Picture], metrics: Metrics, arrived: Callable[[], float] | None
) -> Iterator[Picture]:
    """Yield frames and count those that are late.

    arrived: returns when the sound came; None for a recording.
    """
    pace = Pace()
    for count, frame in enumerate(frames, start=1):
        if pace.is_late(count, arrived() if arrived else None):
            metrics.late_frame()
        yield frame


def _send_frames(
    pictures: Iterator[Any],
    pieces: video_writing.Fragments | rtc.FramePairs,
    outgoing: OutputQueue,
    slot: Slot,
    session: _Session,
) -> int:
    """Queue every frame for the client; return their number.

    Frames of a recording are queued at most `AHEAD` seconds before their playback.
    """
    began, count = time.monotonic(), 0
    ahead = _RTC_AHEAD if session.options.rtc else AHEAD
    for picture in pictures:
        piece = pieces.add(picture)
        count += 1
        if piece:
            outgoing.put(piece)
        if count % _REPORT_EVERY == 0:
            outgoing.put({"frames": count, "of": slot.total})
        if session.rate is None:
            slot.pause(count / FPS - ahead - (time.monotonic() - began))
    return count


async def _messages(websocket: WebSocket) -> AsyncIterator[Any]:
    """Yield the client's messages: bytes, or the parsed JSON text. Raises WebSocketDisconnect."""
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1006))
        if message.get("bytes") is not None:
            yield message["bytes"]
            continue
        try:
            yield json.loads(message["text"])
        except (ValueError, RecursionError):
            raise ApiError(400, "a message that is neither sound nor JSON") from None


async def _store(
    messages: AsyncIterator[Any], path: Path, size: int, spend: Callable[[int], None]
) -> None:
    """Write binary messages with `size` bytes in total to a file. Raises ApiError."""
    with path.open("wb") as file:
        while size > 0:
            data = await anext(messages)
            if not isinstance(data, bytes) or len(data) > size:
                raise ApiError(
                    400, f"{path.name}: {size} bytes were still to come, as binary messages"
                )
            spend(len(data))
            await run_in_threadpool(file.write, data)
            size -= len(data)


def _parse_json(message: Any, what: str) -> dict[str, Any]:
    """Return a message as a JSON object. Raises ApiError."""
    if not isinstance(message, dict):
        raise ApiError(400, f"say first, as JSON, how many bytes {what} has; see docs/serving.md")
    return message


def _parse_size(message: Any, name: str, most: dict[str, int]) -> int:
    """Return the announced number of bytes of a file. Raises ApiError."""
    size = _parse_json(message, name).get(name)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ApiError(400, f'say how many bytes come: {{"{name}": 12345}}')
    if size > most[name]:
        raise uploads.upload_too_large(name, most[name])
    return size


async def _read(websocket: WebSocket, session: _Session, incoming: SoundQueue) -> None:
    """Queue the sound that the client sends. Raises WebSocketDisconnect, ApiError."""
    over = session.rate is None
    async for message in _messages(websocket):
        if isinstance(message, bytes) and not over and message and len(message) % 2 == 0:
            await incoming.send(message)
        elif message == {"end": True} and not over:
            over = True
            await incoming.send(b"")
        else:
            raise ApiError(400, "what comes now must be 16-bit sound of the microphone, or its end")


async def _write(
    websocket: WebSocket, outgoing: OutputQueue, limits: Limits, peer: rtc.Peer | None
) -> None:
    """Send the queued items to the client, until all is done.

    Raises WebSocketDisconnect, ApiError.
    """
    done = False
    while not done:
        item = await outgoing.receive()
        if isinstance(item, rtc.TimedFrame):
            assert peer is not None
            await peer.send(item)
            continue
        done = isinstance(item, dict) and "done" in item
        if peer is not None and done:
            await peer.drain()
            await asyncio.sleep(_LAST_PACKETS)
        await _send(websocket, item, limits)


async def _send(websocket: WebSocket, item: bytes | dict[str, Any], limits: Limits) -> None:
    try:
        with anyio.fail_after(limits.patience):
            if isinstance(item, bytes):
                await websocket.send_bytes(item)
            else:
                await websocket.send_json(item)
    except (TimeoutError, RuntimeError):  # uvicorn has closed it: the client broke the protocol
        raise WebSocketDisconnect(1006) from None
