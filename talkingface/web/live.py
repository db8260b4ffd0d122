"""A video that is watched while it is made: sound goes in and pictures come out of one WebSocket.

The client sends a picture, then a recording or the sound of a microphone as it comes; the server
sends an mp4 in pieces. Everything that belongs to it lives as long as the socket. docs/serving.md
has the messages.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocket, WebSocketDisconnect
from torch import Tensor

from talkingface import audio, media, video
from talkingface.audio import FPS
from talkingface.media import Sound
from talkingface.web import uploads
from talkingface.web.choices import LIVE_NAMES, Choices, parse
from talkingface.web.lanes import Cancelled, Place
from talkingface.web.limits import Limits, Refused, check_sound
from talkingface.web.mailboxes import Mailbox
from talkingface.web.microphone import Inbox, Microphone, sound_alone, sound_or_silence
from talkingface.web.service import AUDIO, BLOCK, IMAGE, Service, end_of, frames, refusing, result

SOUND_RATE = 48_000  # Hz of a recording's sound as it is sent: short AAC frames, so little delay
AHEAD = 2.0  # seconds that a recording's video may be made before it is watched
_ROOM = 32  # messages that wait for a slow client, or for a slow worker
_REPORT = FPS // 2  # frames between two reports

Outbox = Mailbox[bytes | dict[str, Any] | None]


@dataclass(frozen=True)
class _Session:
    """What one socket asks for. rate: of its microphone, None for a recording."""

    choices: Choices
    folder: Path
    rate: int | None


class Live:
    """The handler of /v1/live."""

    def __init__(self, service: Service) -> None:
        self._service, self._limits = service, service.limits
        self._models = list(service.speakers)

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one socket from beginning to end."""
        await websocket.accept()
        try:
            choices = parse(dict(websocket.query_params), self._models, LIVE_NAMES)
            async with self._service.request(self._service.live) as (folder, place):
                session = await self._received(websocket, choices, folder)
                await self._talk(websocket, session, place)
            await websocket.close()
        except Refused as refused:
            about = {"error": refused.text, "status": refused.status}
            await _send(websocket, about, self._limits)
            await websocket.close(1013 if refused.status == 429 else 1008)
        except (WebSocketDisconnect, Cancelled):
            return

    async def _received(self, websocket: WebSocket, choices: Choices, folder: Path) -> _Session:
        """The picture, and the recording if there is one, on disk; raises Refused."""
        most = uploads.sizes(self._limits)
        async with aclosing(uploads.timed(_messages(websocket), self._limits)) as messages:
            await _store(messages, folder, IMAGE, _size(await anext(messages), IMAGE, most))
            sound = _told(await anext(messages), "the sound")
            if "microphone" not in sound:
                await _store(messages, folder, AUDIO, _size(sound, AUDIO, most))
                return _Session(choices, folder, None)
        rate = sound["microphone"]
        if not isinstance(rate, int) or rate not in media.AAC_RATES:
            known = ", ".join(map(str, sorted(media.AAC_RATES)))
            raise Refused(400, f"a microphone's rate must be one of these, in Hz: {known}")
        return _Session(choices, folder, rate)

    async def _talk(self, websocket: WebSocket, session: _Session, place: Place) -> None:
        """Sound in, video out, until one of them ends. Raises Refused, WebSocketDisconnect."""
        outbox: Outbox = Mailbox(_ROOM, self._limits.patience)
        inbox: Inbox = Mailbox(_ROOM, self._limits.patience)
        work = place.start(partial(self._speak, session=session, outbox=outbox, inbox=inbox))
        worker = end_of(work)
        reader = asyncio.create_task(_read(websocket, session, inbox))
        writer = asyncio.create_task(_write(websocket, outbox, self._limits))
        try:
            await asyncio.wait([worker, reader, writer], return_when=asyncio.FIRST_COMPLETED)
            if worker.done():
                result(work)
                await writer
            else:  # the client went, misspoke, or does not read
                await (reader if reader.done() else writer)
        finally:
            place.leave()
            outbox.close()
            inbox.close()
            reader.cancel()
            writer.cancel()
            await asyncio.wait([worker, reader, writer])
            for task in (reader, writer):
                if not task.cancelled():
                    task.exception()  # seen: the first to fail was raised

    def _speak(self, place: Place, session: _Session, outbox: Outbox, inbox: Inbox) -> None:
        """In a thread: the whole video, piece by piece. Raises Refused, Cancelled."""
        with refusing(session.folder):
            total, parts, sound = self._heard(place, session, inbox)
            stream = self._service.open(
                session.folder / IMAGE, session.choices, self._limits.live_size
            )
            spoken = frames(stream, parts, place, total, self._limits.live_minutes)
            first = next(spoken, None)
            if first is None:
                raise Refused(400, "there was no sound: speak, or send a longer recording")
            tag = self._service.speakers[session.choices.model].tag
            with closing(video.Fragments(first, sound, tag=tag)) as mp4:
                about = {
                    "mime": mp4.mime,
                    "width": first.shape[1],
                    "height": first.shape[0],
                    "fps": FPS,
                    "of": total,
                    "latency": stream.latency,
                    "note": stream.note,
                }
                outbox.put({"start": about})
                count = _send_frames(chain([first], spoken), mp4, outbox, place, session)
                outbox.put(mp4.finish())
        outbox.put({"done": {"frames": count}})
        outbox.put(None)

    def _heard(
        self, place: Place, session: _Session, inbox: Inbox
    ) -> tuple[int, Iterator[Tensor], Sound]:
        """(frames or 0, sound for the model, sound for the ear)."""
        rate = session.rate
        if rate is not None:
            sent = sound_alone(inbox)
            if session.choices.idle:
                sent = sound_or_silence(inbox, rate, lambda: place.done)
            microphone = Microphone(sent, rate)
            return 0, microphone.parts(), Sound(rate, 1, microphone)
        path = session.folder / AUDIO
        total = check_sound(path, self._limits.live_minutes)
        return total, audio.read(path, BLOCK), media.open_sound(path, SOUND_RATE)


def _send_frames(
    pictures: Iterator[Any], mp4: video.Fragments, outbox: Outbox, place: Place, session: _Session
) -> int:
    """Every frame to the client; how many there were. A recording's are not made too early."""
    began, count = time.monotonic(), 0
    for picture in pictures:
        piece = mp4.add(picture)
        count += 1
        if piece:
            outbox.put(piece)
        if count % _REPORT == 0:
            outbox.put({"frames": count, "of": place.total})
        if session.rate is None:
            place.pause(count / FPS - AHEAD - (time.monotonic() - began))
    return count


async def _messages(websocket: WebSocket) -> AsyncIterator[Any]:
    """What the client sends: bytes, or what a text says as JSON. Raises WebSocketDisconnect."""
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
            raise Refused(400, "a message that is neither sound nor JSON") from None


async def _store(messages: AsyncIterator[Any], folder: Path, name: str, size: int) -> None:
    """Binary messages of `size` bytes together, as a file."""
    with (folder / name).open("wb") as file:
        while size > 0:
            data = await anext(messages)
            if not isinstance(data, bytes) or len(data) > size:
                raise Refused(400, f"{name}: {size} bytes were still to come, as binary messages")
            await run_in_threadpool(file.write, data)
            size -= len(data)


def _told(message: Any, what: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise Refused(400, f"say first, as JSON, how many bytes {what} has; see docs/serving.md")
    return message


def _size(message: Any, name: str, most: dict[str, int]) -> int:
    """How many bytes of a file will come. Raises Refused."""
    size = _told(message, name).get(name)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise Refused(400, f'say how many bytes come: {{"{name}": 12345}}')
    if size > most[name]:
        raise uploads.too_large(name, most[name])
    return size


async def _read(websocket: WebSocket, session: _Session, inbox: Inbox) -> None:
    """Take what the client says while it watches. Raises WebSocketDisconnect, Refused."""
    over = session.rate is None
    async for message in _messages(websocket):
        if isinstance(message, bytes) and not over and message and len(message) % 2 == 0:
            await inbox.send(message)
        elif message == {"end": True} and not over:
            over = True
            await inbox.send(b"")
        else:
            raise Refused(400, "what comes now must be 16-bit sound of the microphone, or its end")


async def _write(websocket: WebSocket, outbox: Outbox, limits: Limits) -> None:
    """Give the client what was made, until None. Raises WebSocketDisconnect, Refused."""
    while (item := await outbox.receive()) is not None:
        await _send(websocket, item, limits)


async def _send(websocket: WebSocket, item: bytes | dict[str, Any], limits: Limits) -> None:
    try:
        with anyio.fail_after(limits.patience):
            if isinstance(item, bytes):
                await websocket.send_bytes(item)
            else:
                await websocket.send_json(item)
    except TimeoutError:
        raise WebSocketDisconnect(1006) from None
