"""Several server processes behind one port: the real command, with two of them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError

from conftest import Cli
from helpers.live_viewer import SECOND, LiveError, finish, speaking, view
from helpers.served import samples, until
from helpers.server_process import ServerProcess, children, server_process
from talkingface.errors import BadRequest
from talkingface.web import dispatcher
from talkingface.web.limits import Limits

OPTIONS = ("--model", "cran-tiny", "--workers", "2", "--streams", "2", "--jobs", "2")


@pytest.fixture(scope="module")
def temp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("temp")


@pytest.fixture(scope="module")
def server(temp: Path) -> Iterator[ServerProcess]:
    with server_process(temp, *OPTIONS, "--drain-seconds", "20") as own:
        yield own
        print(own.log())  # noqa: T201 shown where a test fails
    assert list(temp.iterdir()) == []


@pytest.fixture
def files(small: bytes, speech: Path) -> dict[str, Any]:
    return {"image": ("x.png", small), "audio": ("x.wav", speech.read_bytes())}


def workers(server: ServerProcess) -> list[int]:
    """Return the process ids of the workers."""
    names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children(server.process.pid)}
    return [pid for pid, name in names.items() if b"spawn_main" in name]


@pytest.mark.slow
def test_a_job_is_found_by_every_connection(server: ServerProcess, files: dict[str, Any]) -> None:
    def post(_: int) -> str:
        answer = httpx.post(f"{server.url}/v1/jobs", files=files, timeout=30)
        assert answer.status_code == 202, answer.text
        return f"{server.url}{answer.headers['location']}"

    before = samples(server.url).get(("frames_total", "file"), 0.0)
    with ThreadPoolExecutor(4) as threads:
        jobs = list(threads.map(post, range(4)))
    assert {job.rsplit("/", 1)[1].partition("-")[0] for job in jobs} == {"0", "1"}
    for _ in range(5):
        assert [httpx.get(job).status_code for job in jobs] == [200] * 4
    with httpx.Client(timeout=30) as client:  # which may keep a connection for several requests
        for job in jobs:
            assert client.get(job, params={"wait": 30}).json()["state"] == "done"
            assert client.get(f"{job}/video").content[4:8] == b"ftyp"
            assert client.delete(job).status_code == 204
            assert client.get(job).status_code == 404
    made = {samples(server.url)["frames_total", "file"] - before for _ in range(4)}
    assert made == {300}  # 4 times 75, whichever process is asked


@pytest.mark.slow
def test_streams_take_the_places_of_both(server: ServerProcess, small: bytes) -> None:
    def ready(place: str) -> int:
        return httpx.get(f"{server.url}/v1/ready", params={"place": place}).status_code

    assert httpx.get(f"{server.url}/v1/limits").json()["streams"] == 2
    for _ in range(2):  # places that were left are found again
        until(lambda: ready("live") == 200, 5)
        with ExitStack() as stack, ThreadPoolExecutor(2) as threads:
            two = (speaking(server.url, small) for _ in range(2))
            streams = list(threads.map(stack.enter_context, two))  # at the same moment
            with pytest.raises((LiveError, ConnectionClosedError), match=r"busy|1013"):
                view(server.url, "show=face", small, SECOND)
            until(lambda: ready("live") == 503, 5)
            assert [ready("file"), ready("any")] == [200, 200]
            until(lambda: samples(server.url)["slots", "live", "working"] == 2, 5)
            assert samples(server.url)["places", "live"] == 2
            assert [finish(own) for own in streams] == [(25, {"done": {"frames": 25}})] * 2


@pytest.mark.slow
def test_a_worker_that_dies_is_started_again(server: ServerProcess, small: bytes) -> None:
    until(lambda: httpx.get(f"{server.url}/v1/ready?place=live").status_code == 200, 5)
    killed, other = workers(server)
    with ExitStack() as stack:
        streams = [stack.enter_context(speaking(server.url, small)) for _ in range(2)]
        os.kill(killed, signal.SIGKILL)
        ends = []
        for own in streams:
            try:
                ends.append(finish(own))
            except (ConnectionClosed, OSError):
                ends.append((0, {}))
        assert sorted(count for count, _ in ends) == [0, 25]  # one was lost, one goes on
    assert httpx.get(f"{server.url}/v1/health").status_code == 200
    until(lambda: len(workers(server)) == 2, 5)
    with ExitStack() as stack:
        until(lambda: samples(server.url)["places", "live"] == 2, 15)
        for _ in range(2):
            stack.enter_context(speaking(server.url, small))
    assert other in workers(server)
    assert "ended (SIGKILL): it is started again" in server.log()
    assert len(server.log().splitlines()) == 1


@pytest.mark.slow
def test_sigterm_lets_the_work_of_both_end(
    server: ServerProcess, small: bytes, files: dict[str, Any]
) -> None:
    """The last test of `server`."""
    job = httpx.post(f"{server.url}/v1/jobs", files=files).headers["location"]
    with ExitStack() as stack:
        streams = [stack.enter_context(speaking(server.url, small)) for _ in range(2)]
        for pid in (server.process.pid, *workers(server)):  # as systemd does
            os.kill(pid, signal.SIGTERM)
        until(lambda: httpx.get(f"{server.url}/v1/ready").status_code == 503, 5)
        assert httpx.post(f"{server.url}/v1/generate", files=files).status_code == 503
        time.sleep(0.5)
        for own in streams:
            own.send(SECOND)
        assert [finish(own) for own in streams] == [(50, {"done": {"frames": 50}})] * 2
    assert httpx.get(f"{server.url}{job}", params={"wait": 20}).json()["state"] == "done"
    assert httpx.get(f"{server.url}{job}/video").status_code == 200
    assert server.process.wait(10) == 143


def test_limits_are_shared_out() -> None:
    whole = Limits(jobs=5, queue=1, streams=2, kept=32, connections=1000, per_client=8)
    shares = [whole.share(number, 2) for number in range(2)]
    for name in ("jobs", "queue", "streams", "kept", "connections", "uploads_mb"):
        assert sum(getattr(own, name) for own in shares) == getattr(whole, name)
    assert [own.jobs for own in shares] == [3, 2]
    assert {own.per_client for own in shares} == {8}
    assert whole.share(0, 1) == whole
    with pytest.raises(BadRequest, match="--streams 2: with --workers 3 give at least 3"):
        whole.share(0, 3)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"GET /v1/jobs/1-x?wait=20 HTTP/1.1", ("other", (), 1)),
        (b"DELETE /v1/jobs/12-x HTTP/1.1", ("other", (), 12)),
        (b"GET /v1/jobs/x-1 HTTP/1.1", ("other", (), None)),
        (b"POST /v1/jobs HTTP/1.1", ("file", ("file",), None)),
        (b"POST /v1/dub/jobs HTTP/1.1", ("file", ("file",), None)),
        (b"GET /v1/live?show=face HTTP/1.1", ("live", ("live",), None)),
        (b"GET /v1/ready?place=live HTTP/1.1", ("other", ("live",), None)),
        (b"GET /v1/ready HTTP/1.1", ("other", ("live", "file"), None)),
        (b"\x16\x03\x01\x02", ("other", (), None)),
    ],
)
def test_requests_are_told_by_their_first_line(line: bytes, expected: object) -> None:
    assert dispatcher.read_request(line) == expected


def test_a_first_line_that_comes_in_parts_is_read_and_left_in_place() -> None:
    async def first_line(parts: list[bytes]) -> tuple[bytes, bytes]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            reading = asyncio.create_task(dispatcher.first_line(ours))
            for part in parts:
                theirs.sendall(part)
                await asyncio.sleep(0.02)
            if not parts:
                theirs.close()
            return await reading, ours.recv(1 << 16)

    parts = [b"GET /v1/li", b"ve HTTP/1.1\r\nHo", b"st: x\r\n\r\n"]
    line, left = asyncio.run(first_line(parts))
    assert line == b"GET /v1/live HTTP/1.1\r" and left.startswith(b"".join(parts[:2]))
    assert asyncio.run(first_line([b"x" * 10_000]))[0] == b"x" * 8192  # it is no request
    with pytest.raises(ConnectionError):
        asyncio.run(first_line([]))


@dataclass
class Busy:
    """A worker with two places for live videos and one for files."""

    number: int
    live: int = 0
    file: int = 0
    ready: bool = True

    def taken(self, kind: str) -> int:
        return int(getattr(self, kind))

    def has_place(self, kind: str) -> bool:
        return self.taken(kind) < {"live": 2, "file": 1}[kind]


@pytest.mark.parametrize(
    ("workers", "wanted", "job", "expected"),
    [
        ([Busy(0), Busy(1)], ("live",), 1, {1}),  # the one that has the job
        ([Busy(0), Busy(1)], ("live",), None, {0, 1}),  # in turns
        ([Busy(0, live=2), Busy(1, live=1, file=9)], ("live",), None, {1}),  # with a place
        ([Busy(0, live=1), Busy(1, file=2)], ("live",), None, {0}),  # with least work
        ([Busy(0, live=2, file=1), Busy(1, live=2)], ("live", "file"), None, {1}),
        ([Busy(0, ready=False), Busy(1, live=2, file=1)], (), 0, {1}),
    ],
)
def test_who_gets_a_connection(
    workers: list[Any], wanted: tuple[str, ...], job: int | None, expected: set[int]
) -> None:
    firsts = [dispatcher.order(workers, wanted, job, turn)[0].number for turn in range(4)]
    assert set(firsts) == expected


@pytest.mark.slow
def test_a_wrong_model_is_one_line(cli: Cli, tmp_path: Path) -> None:
    ran = cli("serve", "--workers", 2, "--port", 0, "--temp", tmp_path, "--model", "nobody")
    assert ran.code == 2 and ran.err.count("\n") == 1 and "nobody" in ran.err
