"""A server that is left running: readiness, metrics, and an end that cuts no video short."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from helpers.live_viewer import SECOND, finish, send_file, speaking, view
from helpers.served import Served, samples, serving, until
from helpers.server_process import ServerProcess, server_process
from talkingface import video_writing
from talkingface.web.limits import Limits
from talkingface.web.live import QUEUE_SIZE
from talkingface.web.metrics import LATE, Pace

LIMITS = Limits(jobs=1, queue=0, streams=1)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(LIMITS, tmp_path_factory.mktemp("temp"), proxies=("127.0.0.1",)) as own:
        yield own


def test_metrics_count_what_was_made_and_name_nobody(
    served: Served, small: bytes, speech: Path
) -> None:
    client = {"x-forwarded-for": "203.0.113.77", "user-agent": "secret"}
    files = {"image": ("anna.png", small), "audio": ("x.wav", speech.read_bytes())}
    with httpx.Client(timeout=60, headers=client) as own:
        assert own.post(f"{served.url}/v1/generate", files=files).status_code == 200
    assert httpx.get(f"{served.url}/v1/jobs/nobody", headers=client).status_code == 404
    assert httpx.get(f"{served.url}/secret", headers=client).status_code == 404
    seen = view(served.url, "show=face", small, SECOND, client)
    found = samples(served.url)
    assert found["frames_total", "file"] == 75 and found["frames_total", "live"] == 25
    assert found["sound_seconds_total", "file"] == pytest.approx(2.978)  # 47,648 samples
    assert found["sound_seconds_total", "live"] == pytest.approx(1.0)
    assert found["requests_total", "/v1/generate", "200"] == 1
    assert found["requests_total", "/v1/jobs/{id}", "404"] == 1
    assert found["requests_total", "other", "404"] == 1
    until(lambda: samples(served.url).get(("requests_total", "/v1/live", "200")) == 1, 3)
    assert found["first_frame_seconds_count",] == 1
    assert found["first_frame_seconds_sum",] <= seen.first + 0.5
    assert found["places", "file"] == found["places", "live"] == 1
    text = httpx.get(f"{served.url}/metrics").text
    assert not any(word in text for word in ("203.0.113", "127.0.0.1", "secret", "anna", "nobody"))


def test_a_server_without_a_place_is_not_ready(served: Served, small: bytes) -> None:
    def status(place: str) -> int:
        return httpx.get(f"{served.url}/v1/ready", params={"place": place}).status_code

    assert [status(place) for place in ("any", "live", "file")] == [200, 200, 200]
    with speaking(served.url, small):
        until(lambda: status("live") == 503, 5)
        assert [status("any"), status("file")] == [200, 200]
        assert samples(served.url)["slots", "live", "working"] == 1
    until(lambda: status("live") == 200, 5)
    assert status("none") == 400


def test_a_frame_is_late_when_the_viewer_waits_for_it_and_its_sound_was_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = Pace()
    now = 101.0 + LATE + 0.01  # a second of 25 frames has passed
    assert pace.is_late(25, None) and not pace.is_late(26, None)
    assert pace.is_late(25, arrived=now - LATE - 0.01)
    assert not pace.is_late(25, arrived=now - 0.05)  # the client was late, not the server
    assert not pace.is_late(50, arrived=now - 1.0)  # sound was sent ahead, the viewer is served


def test_a_client_that_leaves_does_not_disturb_the_end(
    tmp_path: Path, small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its goodbye has come, and what was sent to it waits in buffers that it does not read."""
    errors: list[object] = []
    monkeypatch.setattr(threading, "excepthook", errors.append)
    monkeypatch.setattr(video_writing.Fragments, "add", lambda *_: bytes(2_000_000))
    with ExitStack() as stack, serving(LIMITS, tmp_path) as own:
        address = f"{own.url.replace('http', 'ws')}/v1/live?show=face"
        viewer = stack.enter_context(
            connect(address, max_size=None, max_queue=1, close_timeout=1, ping_interval=None)
        )
        send_file(viewer, "image", small)
        viewer.send(json.dumps({"microphone": 16_000}))
        viewer.send(3 * SECOND)  # more than the queues hold
        viewer.recv(timeout=30)
        until(lambda: max(slot.done for slot in own.service.live_pool.slots) > QUEUE_SIZE, 5)
        viewer.socket.sendall(b"\x88\x82\0\0\0\0\x03\xe8")  # goodbye; no more is read
        until(lambda: own.service.live_pool.counts() == (0, 0), 10)
    assert not errors


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ServerProcess]:
    with server_process(tmp_path, "--model", "cran-tiny", "--drain-seconds", "20") as own:
        yield own
        print(own.log())  # noqa: T201 shown where a test fails
    assert list(tmp_path.iterdir()) == []


def test_sigterm_lets_videos_end_and_takes_no_more(
    process: ServerProcess, small: bytes, speech: Path
) -> None:
    files = {"image": ("x.png", small), "audio": ("x.wav", speech.read_bytes())}
    with httpx.Client(base_url=process.url, timeout=30) as client:
        job = client.post("/v1/jobs", files=files).headers["location"]
        with speaking(process.url, small) as own:
            process.process.send_signal(signal.SIGTERM)
            until(lambda: client.get("/v1/ready").status_code == 503, 5)
            assert client.get("/v1/health").status_code == 200  # it is alive
            refused = client.post("/v1/generate", files=files)
            assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
            for _ in range(2):  # the stream goes on
                time.sleep(0.5)
                own.send(SECOND)
            frames, last = finish(own)
        assert frames == 75 and last == {"done": {"frames": 75}}
        assert client.get(job, params={"wait": 20}).json()["state"] == "done"
        assert client.get(f"{job}/video").status_code == 200
    assert process.process.wait(10) == 143
    assert process.log().startswith("stopping when 2 videos are finished, at the latest in 20 s\n")


def test_a_second_signal_ends_at_once(process: ServerProcess, small: bytes) -> None:
    with speaking(process.url, small):
        process.process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{process.url}/v1/ready").status_code == 503, 5)
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(8) == 143
