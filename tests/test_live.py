"""The live socket: sound in, a playable mp4 out in pieces; and clients that are odd."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from helpers import media as recordings
from helpers.served import Flashes, Served, serving, until
from talkingface import video, video_writing
from talkingface.sound_analysis import SILENT
from talkingface.streaming import Stream
from talkingface.web.limits import Limits
from talkingface.web.live import AHEAD, _send
from talkingface.web.microphone import PAUSE, sound_or_silence
from talkingface.web.service import Service

LIMITS = Limits(
    picture_mb=0.3, sound_mb=2, megapixels=1, jobs=1, streams=2, patience=2, live_minutes=0.2
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(LIMITS, tmp_path_factory.mktemp("temp")) as own:
        yield own


@pytest.fixture(autouse=True)
def nothing_stays(served: Served) -> Iterator[None]:
    yield
    served.wait_until_idle()


@contextmanager
def socket_to(served: Served, query: str = "", **options: Any) -> Iterator[ClientConnection]:
    address = f"{served.url.replace('http', 'ws')}/v1/live?{query}"
    with connect(address, max_size=None, close_timeout=1, **options) as own:
        yield own


def say(own: ClientConnection, **what: Any) -> None:
    own.send(json.dumps(what))


def send_files(own: ClientConnection, **files: bytes) -> None:
    for name, content in files.items():
        say(own, **{name: len(content)})
        for start in range(0, len(content), 100_000):
            own.send(content[start : start + 100_000])


def take(own: ClientConnection) -> tuple[list[dict[str, Any]], bytes]:
    """Receive until the server closes. Return (JSON messages, video)."""
    said, pieces = [], []
    try:
        while True:
            message = own.recv(timeout=30)
            if isinstance(message, bytes):
                pieces.append(message)
            else:
                said.append(json.loads(message))
    except ConnectionClosed:
        return said, b"".join(pieces)


def pcm(sound: np.ndarray) -> bytes:
    return bytes((np.clip(sound, -1, 1) * 32767).round().astype("<i2"))


def test_a_silent_recording_is_noted(served: Served, small: bytes, tmp_path: Path) -> None:
    silence = np.zeros(6400, np.float32)
    path = recordings.write_sound(tmp_path / "a.wav", silence, 16_000, "pcm_s16le")
    with socket_to(served, "mark=false") as own:
        send_files(own, image=small, audio=path.read_bytes())
        said, _ = take(own)
    assert said[0]["start"]["note"] == SILENT and said[-1] == {"done": {"frames": 10}}


def test_a_recording_comes_back_as_a_video(
    served: Served, small: bytes, speech: Path, tmp_path: Path
) -> None:
    with socket_to(served, "mark=false") as own:
        send_files(own, image=small, audio=speech.read_bytes())
        said, content = take(own)
    assert own.close_code == 1000
    start = said[0]["start"]
    assert (start["width"], start["height"], start["fps"], start["of"]) == (256, 256, 25, 75)
    assert start["mime"].startswith('video/mp4; codecs="avc1.') and start["note"] is None
    spec = served.service.speakers["cran-tiny"].model.config.speech
    assert start["latency"] == pytest.approx(spec.latency) == pytest.approx(0.1625)
    assert said[-1] == {"done": {"frames": 75}}
    reports = [own for own in said if "frames" in own]
    assert [own["frames"] for own in reports] == list(range(12, 75, 12))
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert video.probe(path).tag == served.service.speakers["cran-tiny"].tag
    frames = list(video.read_frames(path))
    wanted = served.service.speakers["cran-tiny"].generate(_file(tmp_path, small), speech)
    assert len(frames) == 75
    for got, exact in zip(frames, wanted, strict=True):  # coded, but the same pictures
        assert np.abs(got.astype(int) - exact).mean() < 4


def _file(folder: Path, content: bytes) -> Path:
    (folder / "picture.png").write_bytes(content)
    return folder / "picture.png"


FLASHES = [12, 30, 61]  # frames in whose middle there is a click


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000, None])
def test_lips_and_sound_are_together(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int | None
) -> None:
    monkeypatch.setattr(Service, "open", lambda *_: Flashes())
    times = [(k + 0.5) / 25 for k in FLASHES]
    own_rate = rate or 22_050
    sound = recordings.clicks(own_rate, times, 3.0)
    with socket_to(served) as own:
        send_files(own, image=b"unread")
        if rate is None:
            file = recordings.write_sound(tmp_path / "a.flac", sound, own_rate, "flac")
            send_files(own, audio=file.read_bytes())
        else:
            say(own, microphone=rate)
            cuts = np.random.default_rng(rate).integers(1, rate // 5, 60).cumsum()
            for part in np.split(sound, cuts[cuts < len(sound)]):
                own.send(pcm(part))
            say(own, end=True)
        said, content = take(own)
    assert said[-1] == {"done": {"frames": 75}}
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    seen = [time for time, frame in recordings.decode_video(path) if frame.mean() > 128]
    assert seen == pytest.approx([k / 25 for k in FLASHES], abs=1e-6)
    decoded, decoded_rate = recordings.decode_sound(path)
    assert decoded_rate == (rate or 48_000)
    assert recordings.onsets(decoded[0], decoded_rate, times) == pytest.approx(times, abs=0.003)


def test_a_long_message_of_a_microphone_is_answered_piece_by_piece(
    served: Served, small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = []
    push = Stream.push

    def watched(self: Stream, samples: Any) -> list[Any]:
        frames = push(self, samples)
        most.append(len(frames))
        return frames

    monkeypatch.setattr(Stream, "push", watched)
    with socket_to(served, "show=face") as own:
        send_files(own, image=small)
        say(own, microphone=8000)
        own.send(bytes(2 * 8000 * 8))
        say(own, end=True)
        assert take(own)[0][-1] == {"done": {"frames": 200}}
    assert max(most) <= 6  # all its frames at once would fill the memory


def test_a_microphone_is_answered_while_it_speaks(
    served: Served, small: bytes, speech: Path
) -> None:
    sound = np.frombuffer(speech.read_bytes()[44:], "<i2")
    with socket_to(served, "show=face") as own:
        send_files(own, image=small)
        say(own, microphone=16_000)
        for start in range(0, 16_000, 640):
            own.send(sound[start : start + 640].tobytes())
        early: list[Any] = []
        while sum(isinstance(message, bytes) for message in early) < 4:
            early.append(own.recv(timeout=10))  # nothing was ended yet
        assert json.loads(early[0])["start"]["of"] == 0
        say(own, end=True)
        said, _ = take(own)
    assert said[-1] == {"done": {"frames": 25}}


def test_a_socket_that_the_server_has_closed_is_gone() -> None:
    class Closed:
        """A socket as uvicorn has it after a client broke the protocol."""

        async def send_json(self, _: object) -> None:
            raise RuntimeError("Unexpected ASGI message, after sending 'websocket.close'.")

    with pytest.raises(WebSocketDisconnect):
        asyncio.run(_send(cast(Any, Closed()), {"frames": 12}, LIMITS))


class PretendedQueue:
    """A simulated queue and its clock: messages come at their times."""

    def __init__(self, messages: Sequence[tuple[float, bytes]]) -> None:
        self.now, self._messages = 0.0, deque(messages)

    def clock(self) -> float:
        return self.now

    def get_within(self, seconds: float) -> bytes | None:
        end = self.now + max(0.0, seconds)
        if not self._messages or self._messages[0][0] > end:
            self.now = end
            return None
        when, data = self._messages.popleft()
        self.now = max(self.now, when)
        return data

    def get_waiting(self) -> list[bytes]:
        waiting = []
        while self._messages and self._messages[0][0] <= self.now:
            waiting.append(self._messages.popleft()[1])
        return waiting


LATENCY = 5440  # samples at 16 kHz that a frame needs after its end
SOUND = b"\1" * 1280  # of one frame


@dataclass(frozen=True)
class Given:
    """Sound that a stream received at a time, and its number of frames so far."""

    time: float
    data: bytes
    frames: int

    @property
    def silent(self) -> bool:
        return not any(self.data)


def listen(messages: Sequence[tuple[float, bytes]], end: float, work: float = 0.0) -> list[Given]:
    """Return the sound that a stream receives until `end`. work: seconds that each block takes."""
    queue, samples, given = PretendedQueue(messages), 0, []

    def frames() -> int:
        return max(0, samples - LATENCY) // 640

    for data in sound_or_silence(cast(Any, queue), 16_000, frames, queue.clock):
        if queue.now > end:
            break
        samples += len(data) // 2
        given.append(Given(queue.now, data, frames()))
        queue.now += work
    return given


def steady(begin: float, end: float, jitter: float = 0.0) -> list[tuple[float, bytes]]:
    """Return a microphone's messages, each late by up to `jitter`."""
    random = np.random.default_rng(0)
    count = round(25 * (end - begin))
    return [(begin + (k + 1) / 25 + jitter * random.random(), SOUND) for k in range(count)]


@pytest.mark.parametrize("jitter", [0.0, 0.03, PAUSE - 0.05])
def test_steady_sound_is_left_as_it_is(jitter: float) -> None:
    messages = sorted(steady(0, 8, jitter))
    given = listen([*messages, (8.2 + jitter, b"")], 20)
    assert [own.data for own in given] == [data for _, data in messages]
    assert [own.time for own in given] == [time for time, _ in messages]


def test_a_pause_is_filled_at_the_pace_of_the_clock() -> None:
    messages = [*steady(0, 2), *steady(5, 7), (7.1, b"")]
    given = listen(messages, 20)
    assert [own.time for own in given if not own.silent] == [time for time, _ in messages[:-1]]
    silent = [own for own in given if own.silent]
    assert silent[0].time == pytest.approx(2 + PAUSE) and 4.9 < silent[-1].time < 5.04
    first = next(own.time for own in given if own.frames)
    for own in given:  # never ahead of the clock
        assert own.frames == 0 or own.frames <= 25 * (own.time - first) + 1.01
        if 2 + PAUSE + 0.04 < own.time < 5:  # and behind it only until a pause is known
            assert own.frames >= 25 * (own.time - first) - 0.01
    resumed = next(own for own in given if own.time > 5 and not own.silent)
    assert 25 * (resumed.time - first) - 2 < resumed.frames  # as early as ever
    assert given[-1].frames == pytest.approx(25 * (7 - first), abs=2)


def test_sound_that_comes_all_at_once_is_played_before_it_is_missed() -> None:
    given = listen([(0.0, SOUND * 75)], 5)
    silent = [own for own in given if own.silent]
    assert len(given) == len(silent) + 1
    assert silent[0].time == pytest.approx(given[0].frames / 25)  # when all of it was shown
    assert silent[-1].frames == pytest.approx(25 * 5, abs=2)


def test_a_server_that_is_late_takes_all_that_waits_at_once() -> None:
    numbered = [(time, bytes([k]) * 1280) for k, (time, _) in enumerate(steady(0, 2), start=1)]
    given = listen([*numbered, (2.01, b"")], 20, work=0.2)
    assert b"".join(own.data for own in given) == b"".join(data for _, data in numbered)
    assert len(given) == 11 and given[-1].time < 2.2  # a message, then five every 0.2 s


def test_a_face_is_alive_before_any_sound() -> None:
    given = listen([], 3)
    assert given[0].time == pytest.approx(PAUSE) and all(own.silent for own in given)
    times = [own.time for own in given if own.frames]
    assert times == pytest.approx([PAUSE + k / 25 for k in range(len(times))])
    assert times[-1] > 2.9


def test_a_slow_server_does_not_make_up_for_more_than_a_pause() -> None:
    given = listen([(0.04, SOUND), (4.0, SOUND), (9.0, SOUND)], 12, work=0.1)
    assert len(given) <= 120
    sound = [own.time for own in given if not own.silent]
    assert sound == pytest.approx([0.04, 4.0, 9.0], abs=0.1)  # at most one silence is before it


def test_a_face_that_waits_goes_on_moving(
    served: Served, small: bytes, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = np.frombuffer(speech.read_bytes()[44:], "<i2")[:32_000]
    pushed = []
    push = Stream.push

    def watched(self: Stream, samples: Any) -> list[Any]:
        pushed.append(np.asarray(samples))
        return push(self, samples)

    monkeypatch.setattr(Stream, "push", watched)
    with socket_to(served, "show=face&mark=false&idle=true") as own:
        send_files(own, image=small)
        say(own, microphone=16_000)
        own.send(sound[:16_000].tobytes())
        seen = [own.recv(timeout=10)]
        began = time.monotonic()
        while time.monotonic() - began < 3:
            seen.append(own.recv(timeout=2))
        own.send(sound[16_000:].tobytes())
        say(own, end=True)
        said, content = take(own)
    messages = [json.loads(one) for one in seen if isinstance(one, str)]
    reported = [one["frames"] for one in messages if "frames" in one]
    assert 40 <= reported[-1] <= 25 * 3 + 25
    monkeypatch.undo()
    silent = said[-1]["done"]["frames"] - 50
    decoded = np.concatenate(pushed)
    exact = np.insert(sound / np.float32(32768), 16_000, np.zeros(640 * silent, np.float32))
    assert silent >= 20 and np.array_equal(decoded, exact)
    stream = served.service.speakers["cran-tiny"].open(_file(tmp_path, small), show="face")
    wanted = [*stream.push(exact), *stream.finish()]
    whole = b"".join(one for one in seen if isinstance(one, bytes)) + content
    (tmp_path / "a.mp4").write_bytes(whole)
    for got, frame in zip(video.read_frames(tmp_path / "a.mp4"), wanted, strict=True):
        assert np.abs(got.astype(int) - frame).mean() < 4


def test_a_face_that_waits_for_too_long_is_stopped(tmp_path: Path, small: bytes) -> None:
    limits = replace(LIMITS, live_minutes=0.02)
    with serving(limits, tmp_path) as short, socket_to(short, "show=face&idle=true") as own:
        send_files(own, image=small)
        say(own, microphone=16_000)
        began = time.monotonic()
        said, _ = take(own)
        took = time.monotonic() - began
    assert said[0]["start"]["of"] == 0 and took > 2
    assert said[-1]["status"] == 413 and "longer than 0.02 minutes" in said[-1]["error"]


def test_two_at_once_and_a_third_has_to_wait(served: Served, small: bytes, speech: Path) -> None:
    answers: list[list[dict[str, Any]]] = []

    def watch() -> None:
        with socket_to(served) as own:
            send_files(own, image=small, audio=speech.read_bytes())
            answers.append(take(own)[0])

    with socket_to(served) as first, socket_to(served) as second:
        for own in (first, second):
            send_files(own, image=small)
            say(own, microphone=16_000)
            own.send(bytes(32_000))
        for own in (first, second):
            assert "start" in json.loads(own.recv(timeout=10))
        with socket_to(served) as third:
            said, _ = take(third)
        assert said[0]["status"] == 429 and "places for live videos" in said[0]["error"]
        assert third.close_code == 1013
        say(first, end=True)
        say(second, end=True)
        assert [take(own)[0][-1] for own in (first, second)] == [{"done": {"frames": 25}}] * 2
    until(lambda: sum(served.service.live_pool.counts()) == 0, 3)
    threads = [threading.Thread(target=watch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [said[-1] for said in answers] == [{"done": {"frames": 75}}] * 2


def test_one_who_does_not_read_stalls_nobody(
    tmp_path: Path, small: bytes, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(replace(LIMITS, patience=60), tmp_path) as served:
        with stuck(served, small, speech, monkeypatch):
            with socket_to(served) as other:
                send_files(other, image=small, audio=speech.read_bytes())
                assert take(other)[0][-1] == {"done": {"frames": 75}}
            until(lambda: served.service.live_pool.counts() == (1, 0), 3)  # it still waits
        served.wait_until_idle()


def test_one_who_does_not_read_is_dropped(
    served: Served, small: bytes, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stuck(served, small, speech, monkeypatch):
        served.wait_until_idle(LIMITS.patience + 5)


@contextmanager
def stuck(
    served: Served, small: bytes, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A client that reads nothing of pieces so large that no buffer on the way holds them."""
    monkeypatch.setattr(video_writing.Fragments, "add", lambda *_: bytes(2_000_000))
    with socket_to(served, max_queue=1) as own:
        send_files(own, image=small, audio=speech.read_bytes())
        own.recv(timeout=10)
        time.sleep(1)
        monkeypatch.undo()
        yield


@pytest.mark.parametrize("when", ["image", "audio", "watching", "speaking", "waiting"])
def test_a_client_that_vanishes(served: Served, small: bytes, speech: Path, when: str) -> None:
    with socket_to(served, "idle=true" if when == "waiting" else "") as own:
        if when == "image":
            say(own, image=len(small))
            own.send(small[:1000])
        else:
            send_files(own, image=small)
        if when == "audio":
            say(own, audio=1000)
            own.send(bytes(100))
        elif when == "watching":
            send_files(own, audio=speech.read_bytes())
            while not isinstance(own.recv(timeout=10), bytes):
                pass
        elif when in ("speaking", "waiting"):
            say(own, microphone=16_000)
            if when == "speaking":
                own.send(bytes(32_000))
            while not isinstance(own.recv(timeout=10), bytes):
                pass
        until(lambda: bool(served.service.temp_store.folders()), 3)
        own.socket.close()  # no closing handshake
    served.wait_until_idle(1)


def test_nothing_stays_open_after_one_who_vanished(
    served: Served, small: bytes, speech: Path
) -> None:
    folder = str(served.service.temp_store.root)

    def held() -> list[str]:
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return [str(link.readlink()) for link in links if str(link.readlink()).startswith(folder)]

    def vanish() -> None:
        with socket_to(served) as own:
            send_files(own, image=small, audio=speech.read_bytes())
            while not isinstance(own.recv(timeout=10), bytes):
                pass
            own.socket.close()
        served.wait_until_idle(1)

    gc.collect()
    gc.disable()  # nothing may wait for it
    try:
        vanish()
        before, files = threading.active_count(), len(held())
        tasks = len(list(Path("/proc/self/task").iterdir()))
        for _ in range(5):
            vanish()
        assert len(held()) == files == 1  # the lock
        assert threading.active_count() <= before + 2
        assert len(list(Path("/proc/self/task").iterdir())) <= tasks + 2  # those of encoders
    finally:
        gc.enable()


def test_a_recording_is_not_made_long_before_it_is_watched(
    served: Served, small: bytes, tmp_path: Path
) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 16_000 * 6)
    file = recordings.write_sound(tmp_path / "a.flac", sound, 16_000, "flac").read_bytes()
    with socket_to(served, "show=face") as own:
        send_files(own, image=small, audio=file)
        own.recv(timeout=10)
        began = time.monotonic()
        said, _ = take(own)
        took = time.monotonic() - began
    assert said[-1] == {"done": {"frames": 150}}
    assert 6 - AHEAD - 0.5 < took < 6


def parts(**files: bytes) -> list[Any]:
    messages: list[Any] = []
    for name, content in files.items():
        messages += [{name: len(content)}, content]
    return messages


TEXT = b"hello, this is text. " * 20
CASES: list[tuple[str, Sequence[Any], int, str]] = [
    ("model=cram", [], 400, "model is 'cram': give cran-tiny"),
    ("colour=red", [], 400, "'colour' is no option"),
    ("idle=maybe", [], 400, "idle is 'maybe': give true or false"),
    ("mouth=9", [], 400, "mouth is 9: give a number from 0.5 to 1.5"),
    ("head=0", ["SMALL", {"microphone": 16_000}], 400, "moves no mesh"),
    ("", [b"1234"], 400, "say first, as JSON"),
    ("", ["no json"], 400, "neither sound nor JSON"),
    ("", [{"audio": 10}], 400, 'say how many bytes come: {"image": 12345}'),
    ("", [{"image": True}], 400, "say how many bytes come"),
    ("", [{"image": 400_000}], 413, "image is too large: at most 0.3 MB"),
    ("", [{"image": 3}, b"1234"], 400, "image: 3 bytes were still to come"),
    ("", [*parts(image=b"1"), {"audio": 3_000_000}], 413, "audio is too large: at most 2 MB"),
    ("", [*parts(image=b"1"), {"microphone": 12_345}], 400, "rate must be one of these"),
    ("", parts(image=b"nothing", audio=TEXT), 415, "the recording: "),
    ("", [*parts(image=TEXT), {"microphone": 16_000}], 415, "the picture is not a JPEG"),
    ("", ["SMALL", {"microphone": 16_000}, b"123"], 400, "16-bit sound of the microphone"),
    ("", ["SMALL", {"microphone": 16_000}, {"end": True}], 400, "there was no sound"),
    ("", ["SMALL", {"microphone": 16_000}], 408, "no more data came from your side, for 2 s"),
    ("", ["SMALL"], 408, "nothing more came within 2 s"),
    ("", ["SMALL", "LONG"], 413, "longer than 0.2 minutes"),
    ("face=5", ["SMALL", {"microphone": 16_000}], 422, "the picture: "),
    ("", ["null"], 400, "say first, as JSON"),
]


@pytest.mark.parametrize(("query", "messages", "status", "error"), CASES)
def test_what_is_refused(
    served: Served,
    small: bytes,
    tmp_path: Path,
    query: str,
    messages: Sequence[Any],
    status: int,
    error: str,
) -> None:
    named = {"SMALL": parts(image=small)}
    if "LONG" in messages:
        long = recordings.write_sound(tmp_path / "a.flac", np.zeros(16_000 * 20), 16_000, "flac")
        named["LONG"] = parts(audio=long.read_bytes())
    with socket_to(served, query) as own:
        for message in messages:
            for part in named.get(message, [message]) if isinstance(message, str) else [message]:
                own.send(json.dumps(part) if isinstance(part, dict) else part)
        said, _ = take(own)
    assert said[-1]["status"] == status and error in said[-1]["error"], said
    assert "/tmp" not in said[-1]["error"] and own.close_code == 1008


def test_who_speaks_for_too_long_is_stopped(served: Served, small: bytes) -> None:
    with socket_to(served, "show=face") as own:
        send_files(own, image=small)
        say(own, microphone=8000)

        def speak() -> None:
            try:
                for _ in range(60):
                    own.send(bytes(8000))  # half a second, as fast as it is taken
            except ConnectionClosed:
                pass

        thread = threading.Thread(target=speak)
        thread.start()
        said, _ = take(own)
        thread.join()
    assert said[-1]["status"] == 413 and "longer than 0.2 minutes" in said[-1]["error"]


def test_what_nobody_foresaw(
    served: Served, small: bytes, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(Stream, "push", broken)
    with socket_to(served) as own:
        send_files(own, image=small, audio=speech.read_bytes())
        said, _ = take(own)
    assert said == [{"error": "the server failed here; what happened is in its log", "status": 500}]


def test_pages_of_other_sites_are_turned_away(served: Served) -> None:
    for origin in ("http://evil.example", "http://localhost:1"):
        with pytest.raises(InvalidStatus, match="403"), socket_to(served, origin=origin):
            pass
    with socket_to(served, origin=served.url) as own:
        own.close()


def test_the_server_answers_while_a_face_speaks(served: Served, small: bytes, speech: Path) -> None:
    with socket_to(served) as own:
        send_files(own, image=small, audio=speech.read_bytes())
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            assert httpx.get(f"{served.url}/v1/health").status_code == 200
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.05)
        take(own)
    assert slowest < 0.5


def test_a_service_with_other_limits(tmp_path: Path, small: bytes) -> None:
    with serving(replace(LIMITS, live_size=100), tmp_path) as other, socket_to(other) as own:
        send_files(own, image=small)
        say(own, microphone=16_000)
        own.send(bytes(32_000))
        say(own, end=True)
        said, _ = take(own)
    assert (said[0]["start"]["width"], said[0]["start"]["height"]) == (100, 100)
