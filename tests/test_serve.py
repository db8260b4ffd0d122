"""`talkingface serve`: its HTTP interface, its origin check, and removal of all request data."""

from __future__ import annotations

import errno
import fcntl
import gc
import importlib.util
import io
import itertools
import json
import logging
import math
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.routing import Route

from conftest import Cli
from helpers import matroska
from helpers import media as recordings
from helpers.served import Served, serving, until
from talkingface import audio, decoding, picture, pipeline, video, video_writing, voice
from talkingface.controls import Controls
from talkingface.errors import BadRequest, OutputError
from talkingface.sound_analysis import SILENT
from talkingface.streaming import Stream
from talkingface.web import server, temp_store, uploads, worker_pool
from talkingface.web.generate_options import NAMES, RANGES, parse_options
from talkingface.web.limits import Limits
from talkingface.web.serve import PAGE, app
from talkingface.web.server import HEADERS, STATIC
from talkingface.web.service import _check_names

LIMITS = Limits(
    picture_mb=0.3, sound_mb=1, megapixels=1, jobs=1, queue=2, streams=2, patience=1, kept=2
)


@pytest.fixture(scope="module")
def temp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("temp")


@pytest.fixture(scope="module")
def served(temp: Path) -> Iterator[Served]:
    with serving(LIMITS, temp, models=("cran-tiny", "atvg-tiny")) as own:
        yield own


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=30) as own:
        yield own
        served.wait_until_idle()


@pytest.fixture
def files(small: bytes, speech: Path) -> dict[str, Any]:
    return {"image": ("x.png", small), "audio": ("x.wav", speech.read_bytes())}


def error(answer: httpx.Response, status: int) -> str:
    """Return the text of an error response, which must be one line without internals."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    line: str = answer.json()["error"]
    assert (
        "\n" not in line and "/tmp" not in line and "Traceback" not in line and "--face" not in line
    )
    return line


def png_header(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header claims this size."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IEND\xaeB`\x82"


def test_one_request_one_video(
    client: httpx.Client, files: dict[str, Any], served: Served, tmp_path: Path
) -> None:
    answer = client.post("/v1/generate", files=files)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    path = tmp_path / "a.mp4"
    path.write_bytes(answer.content)
    info = video.probe(path)
    assert (info.width, info.height, info.seconds, info.has_audio) == (256, 256, 3.0, True)
    assert info.tag == served.service.speakers["cran-tiny"].tag and "Synthetic" in info.tag
    assert len(list(video.read_frames(path))) == 75


def test_other_formats_and_rates(
    client: httpx.Client, files: dict[str, Any], tmp_path: Path
) -> None:
    answer = client.post("/v1/generate", files=files, data={"format": "webm", "fps": "50"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/webm")
    path = tmp_path / "a.webm"
    path.write_bytes(answer.content)
    assert video.probe(path).fps == 50
    assert len(list(video.read_frames(path, fps=50))) == 150
    for data, said in (
        ({"format": "avi"}, "format is 'avi': give mp4, mov, webm, gif or webp"),
        ({"fps": "7"}, "fps is '7': give 10 to 60 frames per second"),
        ({"format": "gif", "fps": "60"}, "gif shows at most 50 frames per second"),
    ):
        refused = client.post("/v1/generate", files=files, data=data)
        assert refused.status_code == 400 and said in refused.json()["error"]


def test_transparent_parts_stay_so_where_the_format_can_have_them(
    client: httpx.Client, files: dict[str, Any], small: bytes
) -> None:
    with Image.open(io.BytesIO(small)) as image:
        seen = Image.new("L", image.size, 255)
        seen.paste(0, (0, 0, 40, image.height))
        image.putalpha(seen)
        image.save(made := io.BytesIO(), "PNG")
    given = files | {"image": ("x.png", made.getvalue())}
    answer = client.post("/v1/generate", files=given, data={"format": "gif", "mark": "false"})
    with Image.open(io.BytesIO(answer.content)) as image:
        levels = np.array(image.convert("RGBA"))[..., 3]
    assert not levels[:, :32].any() and (levels[:, 48:] == 255).all()
    answer = client.post("/v1/generate", files=given)  # mp4: filled
    assert answer.headers["content-type"] == "video/mp4"


@pytest.mark.parametrize(("show", "size"), [("face", (256, 256)), ("maps", (768, 256))])
def test_what_is_shown(
    client: httpx.Client, files: dict[str, Any], tmp_path: Path, show: str, size: tuple[int, int]
) -> None:
    answer = client.post("/v1/generate", files=files, data={"show": show})
    (tmp_path / "a.mp4").write_bytes(answer.content)
    info = video.probe(tmp_path / "a.mp4")
    assert (info.width, info.height) == size


def test_the_mark_is_there_unless_it_is_turned_off(
    client: httpx.Client, files: dict[str, Any], tmp_path: Path
) -> None:
    first = []
    for mark in ("", "true", "false"):
        path = tmp_path / f"{mark}.mp4"
        path.write_bytes(client.post("/v1/generate", files=files, data={"mark": mark}).content)
        first.append(next(video.read_frames(path)).astype(int))
    assert np.abs(first[0] - first[1]).max() == 0
    changed = np.abs(first[0] - first[2]).max(2) > 40
    assert changed[230:, :100].mean() > 0.05 and changed[:200].mean() < 0.001


UNKNOWN_SOUND = matroska.file([matroska.sound_track(1, codec=b"A_NOBODYS")], matroska.second(1, 0))
LATE_SOUND = matroska.file(
    [matroska.video_track(1), matroska.sound_track(2)],
    [matroska.cluster(0, [(1, matroska.jpeg())]), *matroska.second(2, 20_000)],
)


def as_bytes(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, kind)
    return out.getvalue()


CASES = [  # what is sent instead, the status, what is said
    ({"image": b"\x89PNG but no more"}, 415, "the picture is not a JPEG"),
    ({"image": b"GIF89a" + bytes(100)}, 415, "convert it"),
    ({"image": as_bytes("TIFF")}, 415, "not a JPEG, PNG, WebP, AVIF or GIF picture: convert it"),
    ({"image": as_bytes("BMP")}, 415, "not a JPEG, PNG, WebP, AVIF or GIF picture: convert it"),
    ({"image": png_header(30_000, 30_000)}, 413, r"30000x30000 pixels, at most 1 megapixels"),
    ({"image": png_header(200, 200)}, 415, "the picture: a damaged picture"),
    ({"image": bytes(400_000)}, 413, r"'image' is too large: at most 0\.3 MB"),
    ({"image": b""}, 415, "the picture is not"),
    ({"audio": b"hello, this is text. " * 20}, 415, "the recording: .*expected a wav"),
    ({"audio": bytes(1_100_000)}, 413, r"'audio' is too large: at most 1 MB"),
    ({"audio": b""}, 415, "the recording: is empty"),
    ({"audio": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"}, 415, "the recording: "),
    ({"audio": UNKNOWN_SOUND}, 415, "the recording: its sound is coded by an unknown codec"),
    ({"audio": LATE_SOUND}, 415, "the recording: its time stamps jump"),
    ({"model": "cram-tiny"}, 400, "model is 'cram-tiny': give cran-tiny"),
    ({"show": "all"}, 400, "show is 'all': give picture or face or maps"),
    ({"mark": "maybe"}, 400, "mark is 'maybe': give true or false"),
    ({"face": "0"}, 400, "face is '0': give a number from 1"),
    ({"face": "7"}, 422, "the picture: .*face"),
    ({"face": "1", "box": "1,1,90,90"}, 400, "not both"),
    ({"box": "1,2,3"}, 400, "box is '1,2,3': give x,y,width,height"),
    ({"box": "nan,2,3,4"}, 400, "give x,y,width,height"),
    ({"box": "900,900,50,50"}, 422, "the picture: the face box .* is outside the picture"),
    ({"colour": "red"}, 400, "'colour' is no option; known: model, show, mark, face, box"),
    ({"model": "x" * 2000}, 413, "'model' is too large"),
    ({"mouth": "3"}, 400, r"mouth is 3: give a number from 0\.5 to 1\.5"),
    ({"head": "wild"}, 400, r"head is 'wild': give a number from 0 to 1\.5"),
    ({"blinks": "nan"}, 400, "blinks is nan: give a number from 0"),
    ({"smooth": "-1"}, 400, "smooth is -1: give a number from 0 to 1"),
    ({"still": "1"}, 400, "still is '1': give true or false"),
    ({"seed": "1.5"}, 400, r"seed is '1\.5': give a whole number from 0 to 4294967295"),
    ({"seed": "4294967296"}, 400, "seed is 4294967296: give a whole number from 0"),
    ({"express": "grin=1"}, 400, "'grin' is not known: give brows-up, .*smile"),
    ({"express": "smile=a lot"}, 400, "express is 'smile=a lot': give NAME=STRENGTH"),
    ({"express": "smile=9"}, 400, r"strength of smile is 9: give a number from -1 to 1\.5"),
    ({"express": "smile,smile"}, 400, "'smile' twice"),
    ({"idle": "true"}, 400, "'idle' is no option"),
    ({"mouth": "1.2"}, 400, "model cran-tiny draws whole crops and moves no mesh"),
]


@pytest.mark.parametrize(("change", "status", "said"), CASES)
def test_what_is_refused(
    client: httpx.Client, files: dict[str, Any], change: dict[str, Any], status: int, said: str
) -> None:
    fields = {name: value for name, value in change.items() if isinstance(value, str)}
    own = files | {name: ("x", value) for name, value in change.items() if name not in fields}
    assert re.search(said, error(client.post("/v1/generate", files=own, data=fields), status))


@pytest.mark.slow
def test_how_the_face_moves(
    client: httpx.Client,
    files: dict[str, Any],
    served: Served,
    small: bytes,
    speech: Path,
    tmp_path: Path,
) -> None:
    fields = {"model": "atvg-tiny", "mark": "false", "still": "true", "mouth": "1.5", "seed": "7"}
    fields |= {"smooth": "0.5", "blinks": "0", "head": "0.5", "express": "smile=1.5,brows-up"}
    wanted = Controls(
        mouth=1.5,
        smooth=0.5,
        head=0.5,
        blinks=0,
        still=True,
        seed=7,
        expressions={"smile": 1.5, "brows-up": 1.0},
    )
    assert parse_options(fields, ["atvg-tiny"]).controls == wanted
    assert parse_options({}, ["atvg-tiny"]).controls == Controls()
    answer = client.post("/v1/generate", files=files, data=fields)
    assert answer.status_code == 200, answer.text
    (tmp_path / "a.mp4").write_bytes(answer.content)
    (tmp_path / "a.png").write_bytes(small)
    speaker = served.service.speakers["atvg-tiny"]
    exact = list(speaker.generate(tmp_path / "a.png", speech, controls=wanted))
    plain = list(speaker.generate(tmp_path / "a.png", speech, controls=Controls(still=True)))
    frames = list(video.read_frames(tmp_path / "a.mp4"))
    assert len(frames) == len(exact) == 75
    assert distance(frames, exact) < 4 and distance(exact, plain) > 0.3


def distance(some: Sequence[Any], others: Sequence[Any]) -> float:
    """Mean difference of frames, of 255."""
    pairs = zip(some, others, strict=True)
    return float(np.mean([np.abs(one.astype(int) - other).mean() for one, other in pairs]))


def test_a_model_that_moves_no_mesh_takes_the_defaults(
    client: httpx.Client, files: dict[str, Any]
) -> None:
    about = client.get("/v1/models").json()
    assert [(model["name"], model["moves"]) for model in about["models"]] == [
        ("cran-tiny", False),
        ("atvg-tiny", True),
    ]
    assert {"smile", "sad", "brows-up"} <= set(about["expressions"])
    defaults = {"mouth": "1", "head": "1.0", "blinks": "15", "still": "false", "express": ""}
    assert client.post("/v1/generate", files=files, data=defaults).status_code == 200


def test_a_picture_without_a_face_and_a_box_instead(
    client: httpx.Client, files: dict[str, Any], tmp_path: Path
) -> None:
    picture.write_png(tmp_path / "grey.png", np.full((200, 200, 3), 127, np.uint8))
    files["image"] = ("x.png", (tmp_path / "grey.png").read_bytes())
    assert re.search(
        "the picture: no face found in 200x200 pixels: .* a box around it: x,y,width,height",
        error(client.post("/v1/generate", files=files), 422),
    )
    answer = client.post("/v1/generate", files=files, data={"box": "50,50,100,100"})
    assert answer.status_code == 200 and "mean face" in answer.headers["talkingface-note"]


def test_a_sound_is_heard_as_by_the_command_line(
    client: httpx.Client, files: dict[str, Any], speech: Path, tmp_path: Path
) -> None:
    """Channels that cancel each other are heard as one; silence is noted."""
    voice = audio.load(speech).numpy()[8000 : 8000 + 12 * 640]
    shown, notes = {}, {}
    for name, sound in (("one", voice), ("two", np.stack([voice, -voice])), ("none", 0 * voice)):
        path = recordings.write_sound(tmp_path / "x.wav", sound, 16_000, "pcm_f32le")
        files["audio"] = ("x.wav", path.read_bytes())
        answer = client.post("/v1/generate", files=files, data={"show": "face"})
        assert answer.status_code == 200
        (tmp_path / "a.mp4").write_bytes(answer.content)
        shown[name] = np.stack(list(video.read_frames(tmp_path / "a.mp4")))
        notes[name] = answer.headers.get("talkingface-note")
    assert np.array_equal(shown["one"], shown["two"])
    assert not np.array_equal(shown["one"], shown["none"])
    assert notes == {"one": None, "two": None, "none": SILENT}


def test_forms_that_are_none(client: httpx.Client, files: dict[str, Any]) -> None:
    post = client.post
    assert "multipart/form-data" in error(post("/v1/generate", data={"model": "x"}), 415)
    assert "lacks audio" in error(post("/v1/generate", files={"image": files["image"]}), 400)
    unknown = files | {"passwords": ("x", b"1")}
    assert "'passwords' is no file" in error(post("/v1/generate", files=unknown), 400)
    kind = {"content-type": "multipart/form-data; boundary=b"}
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    assert "breaks off" in error(post("/v1/generate", content=head + b"12", headers=kind), 400)
    assert "cannot be read" in error(post("/v1/generate", content=b"nonsense", headers=kind), 400)
    long = b"--b\r\nContent-Disposition: " + b"x" * 9000 + b"\r\n\r\n"
    assert "header" in error(post("/v1/generate", content=long, headers=kind), 400)
    twice = [("image", files["image"]), ("image", files["image"])]
    assert "'image' twice" in error(post("/v1/generate", files=twice), 400)
    many = {f"f{k}": "" for k in range(30)}
    assert "more than 20 parts" in error(post("/v1/generate", files=files, data=many), 400)


def test_a_file_name_leads_nowhere(client: httpx.Client, files: dict[str, Any]) -> None:
    files["image"] = ("../../../../tmp/evil", files["image"][1])
    assert client.post("/v1/generate", files=files).status_code == 200
    assert not Path("/tmp/evil").exists()


def test_a_sound_that_is_too_long_is_not_decoded(
    tmp_path: Path, temp: Path, served: Served, client: httpx.Client, files: dict[str, Any]
) -> None:
    short = replace(served.service.limits, file_minutes=0.02)
    files["audio"] = (
        "x.wav",
        recordings.write_sound(
            tmp_path / "a.flac", np.zeros(16_000 * 60), 16_000, "flac"
        ).read_bytes(),
    )
    served.service.limits = short
    try:
        assert "longer than 0.02 minutes" in error(client.post("/v1/generate", files=files), 413)
    finally:
        served.service.limits = LIMITS


def test_only_our_own_name_and_our_own_page(client: httpx.Client, files: dict[str, Any]) -> None:
    host = client.base_url.netloc.decode()
    assert "not known as 'evil.example'" in error(
        client.get("/", headers={"host": "evil.example"}), 421
    )
    for name in (host, "localhost:80", "[::1]:8000", "192.168.7.7"):
        assert client.get("/v1/health", headers={"host": name}).status_code == 200, name
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", f"http://{host}.evil.eu"):
        for path in ("/v1/generate", "/v1/jobs", "/v1/faces"):
            answer = client.post(path, files=files, headers={"origin": origin})
            assert "another site" in error(answer, 403), (origin, path)
    cross = {"sec-fetch-site": "cross-site"}
    assert "another site" in error(client.delete("/v1/jobs/x", headers=cross), 403)
    own = client.delete("/v1/jobs/x", headers={"origin": f"http://{host}"})
    assert "no such job" in error(own, 404)


def test_a_name_that_is_allowed(tmp_path: Path) -> None:
    with serving(LIMITS, tmp_path, ["talk.example"]) as own:
        headers = {"host": "talk.example", "origin": "https://talk.example"}
        assert httpx.delete(f"{own.url}/v1/jobs/x", headers=headers).status_code == 404
        assert httpx.get(own.url, headers={"host": "other.example"}).status_code == 421


def test_the_page_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    for name, value in HEADERS.items():
        assert page.headers[name] == value
    assert "unsafe" not in page.headers["content-security-policy"]
    served = [*STATIC.glob("*.*"), *STATIC.glob("serve/*"), *STATIC.glob("examples/*")]
    texts = [path for path in served if path.suffix in (".html", ".css", ".js", ".svg")]
    assert len(texts) > 8
    for path in texts:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//cdn|@import|import\(|eval\(|innerHTML", text), path
    html = PAGE.read_text(encoding="utf-8")
    assert not re.search(r"<style|\bstyle=|\bon[a-z]+=|<script(?![^>]*\bsrc=)", html)
    for link in re.findall(r'(?:src|href)="(/[^"]*)"', html):
        assert client.get(link).status_code == 200, link
    names = set(re.findall(r'byId\("([a-z-]+)"\)', "".join(t.read_text("utf-8") for t in texts)))
    assert len(names) > 20
    assert {name for name in names if f'id="{name}"' not in html} == set()


def test_the_page_begins_with_the_defaults() -> None:
    html = PAGE.read_text(encoding="utf-8")
    for name, (low, high) in RANGES.items():
        shown = re.search(rf'id="{name}" min="([^"]*)" max="([^"]*)" .*value="([^"]*)"', html)
        assert shown is not None, name
        first, last, value = map(float, shown.groups())
        assert low <= first < last <= high and value == getattr(Controls(), name)


def test_what_is_not_there(client: httpx.Client) -> None:
    assert "Not Found" in error(client.get("/v1/nothing"), 404)
    assert "Method Not Allowed" in error(client.get("/v1/generate"), 405)
    assert client.get("/static/../serve.py").status_code == 404
    assert client.get("/static/%2e%2e/server.py").status_code == 404


def test_head_is_answered_as_get_is(client: httpx.Client) -> None:
    for path in ("/", "/openapi.json", "/v1/models", "/v1/limits", "/v1/health"):
        assert client.head(path).headers == client.get(path).headers, path
    assert client.head("/v1/jobs/x").status_code == 404


def test_jobs_are_asked_for_fetched_and_removed(
    client: httpx.Client, files: dict[str, Any], tmp_path: Path
) -> None:
    begun = client.post("/v1/jobs", files=files, data={"show": "face"})
    assert begun.status_code == 202
    where = begun.headers["location"]
    assert begun.json()["state"] in ("waiting", "working")
    assert "not finished" in error(client.get(f"{where}/video"), 409)
    done = client.get(where, params={"wait": 20}).json()
    assert (done["state"], done["frames"], done["of"]) == ("done", 75, 75)
    for _ in range(2):
        content = client.get(done["video"]).content
    (tmp_path / "a.mp4").write_bytes(content)
    assert video.probe(tmp_path / "a.mp4").seconds == 3.0
    assert client.delete(where).status_code == 204
    assert "no such job" in error(client.get(where), 404)
    assert "give seconds" in error(client.post("/v1/jobs", files=files, data={"lease": "x"}), 400)


def test_a_job_that_fails_says_why(client: httpx.Client, files: dict[str, Any]) -> None:
    files["audio"] = ("x.wav", b"no sound " * 9)
    where = client.post("/v1/jobs", files=files).headers["location"]
    state = client.get(where, params={"wait": 20}).json()
    assert (state["state"], state["status"]) == ("failed", 415) and "recording" in state["error"]
    assert "the recording" in error(client.get(f"{where}/video"), 415)
    client.delete(where)


class Tone:
    """A voice that hums a second of 200 Hz for each word."""

    def stream(self, text: str, seed: int) -> Iterator[np.ndarray]:
        for _ in text.split():
            yield 0.5 * np.sin(2 * np.pi * 200 * np.arange(voice.RATE) / voice.RATE)


@pytest.fixture
def hums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice, "name", lambda: "tone")
    monkeypatch.setattr(voice, "_synthesizer", Tone)


def loudest(path: Path) -> float:
    """Return the frequency in Hz that is strongest in the sound of a video."""
    sound = np.concatenate([part.numpy() for part in audio.read(path, audio.SAMPLE_RATE)])
    spectrum = np.abs(np.fft.rfft(sound))
    return float(spectrum.argmax() / len(sound) * audio.SAMPLE_RATE)


@pytest.mark.usefixtures("hums")
def test_a_text_is_spoken_in_place_of_a_recording(
    client: httpx.Client, files: dict[str, Any], tmp_path: Path
) -> None:
    assert client.get("/v1/models").json()["voice"] == "tone"
    image = {"image": files["image"]}
    begun = client.post("/v1/jobs", files=image, data={"text": "Good morning."})
    assert begun.status_code == 202
    where = begun.headers["location"]
    done = client.get(where, params={"wait": 20}).json()
    assert (done["state"], done["frames"]) == ("done", 50)
    (tmp_path / "a.mp4").write_bytes(client.get(done["video"]).content)
    client.delete(where)
    assert loudest(tmp_path / "a.mp4") == pytest.approx(200, abs=1)
    most = client.post("/v1/generate", files=image, data={"text": "é" * 1000})
    assert most.status_code == 200
    (tmp_path / "b.mp4").write_bytes(most.content)
    assert video.probe(tmp_path / "b.mp4").seconds == pytest.approx(1, abs=0.05)


@pytest.mark.usefixtures("hums")
def test_texts_that_are_refused(client: httpx.Client, files: dict[str, Any]) -> None:
    image = {"image": files["image"]}
    for given, data, said in (
        (files, {"text": "Hello."}, "the form has audio and text: give one of them"),
        (image, {}, "the form lacks audio: send it as a file"),
        (image, {"text": ""}, "the form lacks audio"),
        (image, {"text": " \n"}, "the text is empty"),
        (image, {"text": "é" * 1001}, "text is 'é+': give at most 1000 characters"),
        (image, {"text": "a" * 10_000}, "text is too long: give at most 1000 characters"),
        (image, {"text": "a", "voice_command": "touch x"}, "'voice_command' is no option"),
    ):
        assert re.search(said, error(client.post("/v1/generate", files=given, data=data), 400))
    assert "is no option" in error(client.post("/v1/faces", files=image, data={"text": "a"}), 400)


def test_a_text_without_a_voice(
    client: httpx.Client, files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hibari", None)
    assert client.get("/v1/models").json()["voice"] is None
    answer = client.post("/v1/jobs", files={"image": files["image"]}, data={"text": "Hello."})
    assert "this server has no voice for a text: send audio" in error(answer, 400)


def test_the_voice_of_the_extra_speaks_a_text(
    client: httpx.Client, files: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("hibari", reason="needs talkingface[voice]")
    assert client.get("/v1/models").json()["voice"] == "hibari heart"
    data = {"text": "Good morning. How are you today?"}
    answer = client.post("/v1/generate", files={"image": files["image"]}, data=data)
    assert answer.status_code == 200
    (tmp_path / "a.mp4").write_bytes(answer.content)
    assert 1.5 < video.probe(tmp_path / "a.mp4").seconds < 4
    assert 60 < loudest(tmp_path / "a.mp4") < 1000  # a voice, neither silence nor hum of mains


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow down frames: 75 of them take a quarter of a minute."""
    push = Stream.push

    def slowly(self: Stream, samples: Any) -> Iterator[Any]:
        for frame in push(self, samples):
            time.sleep(0.2)
            yield frame

    monkeypatch.setattr(Stream, "push", slowly)


@pytest.mark.usefixtures("slow")
def test_the_queue_and_its_end(client: httpx.Client, files: dict[str, Any], served: Served) -> None:
    jobs = [client.post("/v1/jobs", files=files).headers["location"] for _ in range(3)]
    until(lambda: client.get(jobs[0]).json()["frames"] > 2, 10)
    states = [client.get(job).json() for job in jobs]
    assert [own["state"] for own in states] == ["working", "waiting", "waiting"]
    assert [own.get("ahead") for own in states] == [None, 0, 1]
    assert 5 < states[0]["seconds_left"] < 20 and states[0]["of"] == 75
    assert client.get("/v1/health").json()["files"] == {"working": 1, "waiting": 2}
    for path in ("/v1/generate", "/v1/jobs"):
        full = client.post(path, files=files)
        assert "busy: all places for making files are taken" in error(full, 429)
        assert int(full.headers["retry-after"]) > 0
    assert client.post("/v1/faces", files={"image": files["image"]}).status_code == 200
    for job in jobs[1:]:
        client.delete(job)
    began = time.monotonic()
    client.delete(jobs[0])  # while it works
    served.wait_until_idle(1)
    assert time.monotonic() - began < 1


@pytest.mark.usefixtures("slow")
def test_a_job_that_nobody_asks_for_is_cancelled(
    client: httpx.Client, files: dict[str, Any], served: Served
) -> None:
    where = client.post("/v1/jobs", files=files, data={"lease": "2"}).headers["location"]
    until(lambda: client.get(where).json()["frames"] > 3, 10)  # who asks keeps it
    served.wait_until_idle(6)
    assert client.get(where).status_code == 404


def test_there_is_room_for_so_many_finished_files(tmp_path: Path, files: dict[str, Any]) -> None:
    limits = replace(LIMITS, queue=0, kept=1)
    with serving(limits, tmp_path) as served, httpx.Client(base_url=served.url) as client:
        for _ in range(2):
            job = client.post("/v1/jobs", files=files, data={"show": "face"}).headers["location"]
            assert client.get(job, params={"wait": 20}, timeout=30).json()["state"] == "done"
        assert "keeps as many files as it may" in error(client.post("/v1/jobs", files=files), 429)
        client.delete(job)
        assert client.post("/v1/jobs", files=files).status_code == 202


def test_finished_files_are_kept_for_a_while(tmp_path: Path, files: dict[str, Any]) -> None:
    limits = replace(LIMITS, keep_minutes=0.03)
    with serving(limits, tmp_path) as served, httpx.Client(base_url=served.url) as client:
        files["audio"] = ("x.wav", b"no sound " * 9)  # failed jobs as well
        job = client.post("/v1/jobs", files=files).headers["location"]
        until(lambda: client.get(job).status_code == 404, 20)
        assert served.service.temp_store.folders() == []


def test_what_nobody_foresaw_is_a_plain_line_and_in_the_log(
    client: httpx.Client,
    files: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret of /etc/hosts")

    monkeypatch.setattr(Stream, "push", broken)
    assert error(client.post("/v1/generate", files=files), 500) == (
        "the server failed here; what happened is in its log"
    )
    assert "secret of /etc/hosts" in caplog.text


def form_bytes(files: dict[str, Any], end: bytes = b"--b--\r\n") -> bytes:
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, (_, content) in files.items()
    ]
    return b"".join(parts) + end


def half_a_request(served: Served, body: bytes, length: int) -> socket.socket:
    head = (
        f"POST /v1/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    own = socket.create_connection(("127.0.0.1", served.port), timeout=10)
    own.sendall(head.encode() + body)
    return own


def test_a_client_that_vanishes_while_it_sends(served: Served, files: dict[str, Any]) -> None:
    body = form_bytes(files)
    own = half_a_request(served, body[:60_000], len(body))
    until(lambda: bool(served.service.temp_store.folders()), 5)
    assert served.service.file_pool.counts() == (0, 0)  # it takes no place yet
    own.close()
    served.wait_until_idle(1)


@pytest.mark.usefixtures("slow")
def test_a_client_that_vanishes_while_it_waits(served: Served, files: dict[str, Any]) -> None:
    body = form_bytes(files)
    own = half_a_request(served, body, len(body))
    until(lambda: served.service.file_pool.counts() == (1, 0), 5)
    time.sleep(0.5)
    own.close()
    served.wait_until_idle(1)


def test_a_client_that_stops_sending_gets_an_error(served: Served, files: dict[str, Any]) -> None:
    body = form_bytes(files)
    with half_a_request(served, body[:60_000], len(body)) as own:
        answer = b""
        while b"}" not in answer:
            answer += own.recv(4000)
    assert b" 408 " in answer and b"nothing more came within 1 s" in answer
    served.wait_until_idle()


def test_a_client_that_does_not_take_its_video(
    served: Served, files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(path: Path, *_: object, **__: object) -> int:
        return path.write_bytes(bytes(30_000_000))  # no buffer on the way holds it

    monkeypatch.setattr(video_writing, "write", large)
    body = form_bytes(files)
    with half_a_request(served, body, len(body)):
        until(lambda: served.service.file_pool.counts() == (1, 0), 5)
        until(lambda: served.service.file_pool.counts() == (0, 0), 5)  # others may work meanwhile
        assert served.service.temp_store.folders() != []
        served.wait_until_idle(5)  # the timeout is over


def test_faces_are_counted_as_the_option_counts_them(
    client: httpx.Client, small: bytes, portrait: Path, tmp_path: Path
) -> None:
    one = client.post("/v1/faces", files={"image": ("x", small)}).json()
    assert (one["width"], one["height"], len(one["faces"])) == (256, 256, 1)
    x, y, width, height = one["faces"][0]["box"]
    assert 30 < x < 80 and 40 < y < 90 and 120 < width < 190 and 140 < height < 210
    whole = picture.read(portrait)
    two = np.full((256, 400, 3), 127, np.uint8)
    two[:, :256] = whole[::3, ::3]
    two[64:192, 264:392] = whole[::6, ::6]
    picture.write_png(tmp_path / "two.png", two)
    found = client.post("/v1/faces", files={"image": ("x", (tmp_path / "two.png").read_bytes())})
    assert [face["number"] for face in found.json()["faces"]] == [1, 2]
    assert [face["box"][0] > 256 for face in found.json()["faces"]] == [False, True]
    assert "is no option" in error(
        client.post("/v1/faces", files={"image": ("x", small)}, data={"a": "b"}), 400
    )
    assert "not a JPEG" in error(client.post("/v1/faces", files={"image": ("x", b"1234")}), 415)


def check(value: Any, schema: Any, schemas: dict[str, Any]) -> None:
    """Check JSON against its schema, with the parts of JSON Schema that the document uses."""
    if schema is True:  # anything
        return
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rsplit("/", 1)[1]]
    if "anyOf" in schema:  # a kind or null
        (schema,) = (own for own in schema["anyOf"] if (own["type"] == "null") == (value is None))
    kinds: dict[str, Any] = {
        "object": dict, "array": list, "string": str, "integer": int, "null": type(None),
        "number": (int, float), "boolean": bool,
    }  # fmt: skip
    kind = schema["type"]
    assert any(isinstance(value, kinds[own]) for own in ([kind] if isinstance(kind, str) else kind))
    assert value in schema.get("enum", [value])
    if isinstance(value, dict):
        assert set(schema.get("required", [])) <= set(value)
        properties = schema.get("properties", {})
        for name, inner in value.items():
            extra = schema.get("additionalProperties")
            assert name in properties or extra or not properties, name
            if name in properties or extra:
                check(inner, properties.get(name) or extra, schemas)
    for inner in value if isinstance(value, list) else []:
        check(inner, schema["items"], schemas)


DUB = {"model": "atvg-tiny", "length": "video"}


@pytest.fixture(scope="module")
def to_dub(tmp_path_factory: pytest.TempPathFactory, speech: Path) -> dict[str, Any]:
    """A form with eight frames of a talking person, and a recording."""
    path = tmp_path_factory.mktemp("dub") / "a.mp4"
    clip = video.read_frames(Path(__file__).parent / "clips" / "s1_bbaf2n.mp4")
    video_writing.write(path, itertools.islice(clip, 8), None)
    return {"video": ("a.mp4", path.read_bytes()), "audio": ("x.wav", speech.read_bytes())}


@pytest.mark.usefixtures("hums")
def test_a_video_is_dubbed_with_a_text(
    client: httpx.Client, to_dub: dict[str, Any], tmp_path: Path
) -> None:
    data = {**DUB, "text": "Hello."}
    answer = client.post("/v1/dub", files={"video": to_dub["video"]}, data=data, timeout=120)
    assert answer.status_code == 200
    (tmp_path / "a.mp4").write_bytes(answer.content)
    assert loudest(tmp_path / "a.mp4") == pytest.approx(200, abs=3)


def test_a_video_is_dubbed(client: httpx.Client, to_dub: dict[str, Any], tmp_path: Path) -> None:
    """With the video's length, the mark unless it is turned off, and a note on the cut sound."""
    shown = {}
    for mark in ("true", "false"):
        answer = client.post("/v1/dub", files=to_dub, data={**DUB, "mark": mark}, timeout=120)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
        assert "of the sound are cut" in answer.headers["talkingface-note"]
        path = tmp_path / f"{mark}.mp4"
        path.write_bytes(answer.content)
        assert "from a video" in str(video.probe(path).tag)
        shown[mark] = np.stack(list(video.read_frames(path))).astype(int)
    assert shown["true"].shape == shown["false"].shape == (8, 224, 224, 3)
    different = np.abs(shown["true"] - shown["false"]).max((0, 3)) > 40
    assert different[-30:, :100].any() and not different[:-40].any()


def test_videos_that_are_not_dubbed(client: httpx.Client, to_dub: dict[str, Any]) -> None:
    sound = to_dub["audio"]
    said = client.post("/v1/dub", files={"video": sound, "audio": sound}, data=DUB)
    assert "the video" in error(said, 415)
    assert "length" in error(client.post("/v1/dub", files=to_dub, data={"length": "all"}), 400)
    assert "video" in error(client.post("/v1/dub", files={"audio": sound}), 400)
    both = {"face": "1", "box": "1,2,30,40"}
    assert "not both" in error(client.post("/v1/dub", files=to_dub, data=both), 400)


def test_the_document_describes_what_is_there(
    client: httpx.Client, files: dict[str, Any], to_dub: dict[str, Any], served: Served
) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    own = app(served.service)
    routes = {
        (route.path, method.lower())
        for route in own.routes
        if isinstance(route, Route) and route.path != "/"
        for method in (route.methods or set()) - {"HEAD"}
    }
    documented = {(path, method) for path, item in document["paths"].items() for method in item}
    assert documented == routes and len(routes) == 14
    schemas = document["components"]["schemas"]
    assert set(schemas["Video"]["properties"]) == {"image", "audio", *NAMES}
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)):
        assert name in schemas
    operations = [op for item in document["paths"].values() for op in item.values()]
    assert len({op["operationId"] for op in operations}) == len(operations)

    where = client.post("/v1/jobs", files=files, data={"show": "face", "lease": "60"})
    ask = {
        "/v1/generate": client.post("/v1/generate", files=files, data={"show": "face"}),
        "/v1/faces": client.post("/v1/faces", files={"image": files["image"]}),
        "/v1/jobs": where,
        "/v1/dub": client.post("/v1/dub", files=to_dub, data=DUB, timeout=120),
        "/v1/dub/jobs": client.post("/v1/dub/jobs", files=to_dub, data=DUB),
        "/v1/jobs/{id}": client.get(where.headers["location"], params={"wait": 20}),
        "/v1/jobs/{id}/video": client.get(where.headers["location"] + "/video"),
        **{path: client.get(path) for path in ("/v1/models", "/v1/limits")},
        **{path: client.get(path) for path in ("/v1/health", "/v1/ready", "/metrics")},
        "/openapi.json": client.get("/openapi.json"),
    }
    assert set(ask) == {path for path, _ in routes}
    for path, answer in ask.items():
        (method,) = set(document["paths"][path]) - {"delete"}
        said = document["paths"][path][method]["responses"][str(answer.status_code)]
        ((kind, content),) = said["content"].items()
        assert answer.headers["content-type"] == kind, path
        if kind == "application/json":
            check(answer.json(), content["schema"], schemas)
    for begun in (where, ask["/v1/dub/jobs"]):
        while client.get(begun.headers["location"]).json()["state"] in ("waiting", "working"):
            time.sleep(0.1)
        assert client.delete(begun.headers["location"]).status_code == 204


# --- limits of the server -------------------------------------------------------------------------


def answer_of(own: socket.socket) -> bytes:
    """Return what the server sends until it closes the connection, or an error's whole body."""
    received = b""
    while b"}" not in received and (data := own.recv(4000)):
        received += data
    return received


def test_slow_uploads_take_no_place(tmp_path: Path, files: dict[str, Any]) -> None:
    body = form_bytes(files)
    limits = replace(LIMITS, jobs=1, queue=0, patience=20)
    with serving(limits, tmp_path) as served, ExitStack() as stack:
        for _ in range(9):
            stack.enter_context(half_a_request(served, body[:400], len(body)))
        until(lambda: len(served.service.temp_store.folders()) == 9, 5)
        answer = httpx.post(f"{served.url}/v1/generate", files=files, timeout=30)
        assert answer.status_code == 200
        stack.close()
        served.wait_until_idle()


def test_an_upload_has_a_least_rate(tmp_path: Path, files: dict[str, Any]) -> None:
    body = form_bytes(files)
    limits = replace(LIMITS, upload_grace=0.3, upload_rate=1000)
    with serving(limits, tmp_path) as served, half_a_request(served, body[:400], len(body)) as own:
        began = time.monotonic()
        with suppress(OSError):
            for n in range(400, 500):
                own.sendall(body[n : n + 1])
                time.sleep(0.02)
        answer = answer_of(own)
        assert b" 408 " in answer and b"slower than 1000 kB/s" in answer
        assert time.monotonic() - began < 3
        assert httpx.post(f"{served.url}/v1/generate", files=files, timeout=30).status_code == 200


def test_uploads_have_a_budget(tmp_path: Path, files: dict[str, Any]) -> None:
    body = form_bytes(files)
    limits = replace(LIMITS, uploads_mb=(len(body) + 5000) / 1e6, patience=20)
    with serving(limits, tmp_path) as served:
        with half_a_request(served, body[:70_000], len(body)):
            until(lambda: served.service.uploads.spent > 60_000, 5)
            full = httpx.post(f"{served.url}/v1/generate", files=files)
            assert "receives too many files" in error(full, 429) and "retry-after" in full.headers
        served.wait_until_idle()
        assert httpx.post(f"{served.url}/v1/generate", files=files, timeout=30).status_code == 200


def test_bytes_after_the_form_count(client: httpx.Client, files: dict[str, Any]) -> None:
    def body() -> Iterator[bytes]:
        yield form_bytes(files)
        for _ in range(40):
            yield bytes(50_000)

    kind = {"content-type": "multipart/form-data; boundary=b"}
    answer = client.post("/v1/generate", content=body(), headers=kind)
    assert "the request is too large" in error(answer, 413)


def test_connections_without_a_request_are_closed(tmp_path: Path, files: dict[str, Any]) -> None:
    limits = replace(LIMITS, idle_seconds=0.5, patience=20)
    with serving(limits, tmp_path) as served, ExitStack() as stack:
        address = ("127.0.0.1", served.port)
        owns = [stack.enter_context(socket.create_connection(address, 10)) for _ in range(3)]
        owns[1].sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        owns[2].sendall(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while b"}}" not in owns[2].recv(4000):
            pass
        owns[2].sendall(b"GET ")
        body = form_bytes(files)
        sending = stack.enter_context(half_a_request(served, body[:400], len(body)))
        began = time.monotonic()
        assert [own.recv(10) for own in owns] == [b"", b"", b""]
        assert time.monotonic() - began < 5
        sending.sendall(body[400:])  # a request is not idle
        assert b" 200 " in sending.recv(4000)
        sending.close()
        served.wait_until_idle()


def test_there_are_so_many_connections_at_most(tmp_path: Path) -> None:
    with serving(replace(LIMITS, connections=3), tmp_path) as served, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", served.port), 10))
        until(lambda: httpx.get(f"{served.url}/v1/health").status_code == 503, 5)
        until(lambda: httpx.get(f"{served.url}/v1/health").status_code == 200, 5)


@pytest.mark.parametrize("proxies", [("127.0.0.1",), ()])
def test_one_address_takes_only_so_much(
    tmp_path: Path, files: dict[str, Any], proxies: tuple[str, ...]
) -> None:
    limits = replace(LIMITS, per_client=1)
    with serving(limits, tmp_path, proxies=proxies) as served:

        def post(address: str) -> httpx.Response:
            headers = {"x-forwarded-for": address}
            data = {"show": "face"}
            return httpx.post(f"{served.url}/v1/jobs", files=files, data=data, headers=headers)

        first = post("192.0.2.1")
        again, other = post("192.0.2.1"), post("2001:db8::1")
        assert (first.status_code, other.status_code) == (202, 202)
        if not proxies:  # nobody said that the header is true
            assert again.status_code == 202
            return
        assert "your address has 1 requests or files here" in error(again, 429)
        assert post("2001:db8::2").status_code == 429  # of the same network
        httpx.delete(served.url + first.headers["location"])
        assert post("192.0.2.1").status_code == 202


@pytest.mark.usefixtures("slow")
def test_work_has_an_end(tmp_path: Path, files: dict[str, Any]) -> None:
    with serving(replace(LIMITS, work_minutes=0.01), tmp_path) as served:
        answer = httpx.post(f"{served.url}/v1/generate", files=files, timeout=30)
        assert "the work took more than 0.01 minutes" in error(answer, 503)


def test_uploads_are_removed_when_the_work_ends(
    client: httpx.Client, files: dict[str, Any], served: Served
) -> None:
    def left() -> list[str]:
        (folder,) = served.service.temp_store.folders()
        return [path.name for path in folder.iterdir()]

    for sound, names in ((files["audio"], ["video.mp4"]), (("x", b"no sound " * 9), [])):
        job = client.post("/v1/jobs", files=files | {"audio": sound}).headers["location"]
        assert client.get(job, params={"wait": 20}).json()["state"] in ("done", "failed")
        assert left() == names
        client.delete(job)


def test_a_folder_that_a_cleaner_took_is_made_again(
    tmp_path: Path, files: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with serving(LIMITS, tmp_path) as served:
        first = served.service.temp_store.root
        shutil.rmtree(first)
        answer = httpx.post(f"{served.url}/v1/generate", files=files, timeout=30)
        assert answer.status_code == 200 and "was removed by somebody" in caplog.text
        second = served.service.temp_store.root
        assert second != first and second.stat().st_mode & 0o777 == 0o700
        temp_store.TempStore(tmp_path).close()  # leaves a locked folder alone
        assert second.exists()
        assert httpx.get(f"{served.url}/v1/health").status_code == 200


@pytest.mark.usefixtures("slow")
def test_work_whose_files_a_cleaner_took_is_to_be_sent_again(
    tmp_path: Path, files: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with serving(LIMITS, tmp_path) as served, httpx.Client(base_url=served.url) as client:
        waiting = [client.post("/v1/jobs", files=files).headers["location"] for _ in range(2)]
        until(lambda: client.get(waiting[0]).json()["frames"] > 2, 30)
        shutil.rmtree(served.service.temp_store.root)
        client.delete(waiting[0])  # its video would go on into a file without a name
        state = client.get(waiting[1], params={"wait": 20}, timeout=30).json()
        assert (state["state"], state["status"]) == ("failed", 503)
        assert "temporary files were removed" in state["error"]
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_video_that_a_cleaner_took_is_not_there(
    client: httpx.Client, files: dict[str, Any], served: Served
) -> None:
    job = client.post("/v1/jobs", files=files, data={"show": "face"}).headers["location"]
    assert client.get(job, params={"wait": 20}).json()["state"] == "done"
    (folder,) = served.service.temp_store.folders()
    shutil.rmtree(folder)
    assert "temporary files were removed" in error(client.get(f"{job}/video"), 503)
    client.delete(job)


def test_a_full_disk_is_said(
    client: httpx.Client,
    files: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object, **__: object) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise OutputError("cannot be written") from error

    def full_at_once(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(video_writing, "write", full)
    assert "disk is full" in error(client.post("/v1/generate", files=files), 507)
    monkeypatch.setattr(uploads, "_feed", full_at_once)
    assert "disk is full" in error(client.post("/v1/generate", files=files), 507)
    monkeypatch.setattr(Path, "write_bytes", full_at_once)
    assert "disk is full" in error(client.get("/v1/health"), 507)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "the disk for temporary files is full"
    ] * 3
    assert "Traceback" not in caplog.text


def test_what_nobody_foresaw_leaves_nothing(
    client: httpx.Client, files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Any]] = []

    class Large:
        """An object of the work, as frames and encoders are."""

    push = Stream.push

    def broken(self: Stream, samples: Any) -> Iterator[Any]:
        large = Large()
        alive.append(weakref.ref(large))
        yield from itertools.islice(push(self, samples), 1)
        if len(alive) % 9 == 0:
            raise RuntimeError("unforeseen")

    monkeypatch.setattr(Stream, "push", broken)
    monkeypatch.setattr(worker_pool._log, "disabled", True)  # pytest keeps what is logged
    error(client.post("/v1/generate", files=files), 500)
    threads = threading.active_count()
    gc.collect()
    gc.disable()
    try:
        for _ in range(4):
            error(client.post("/v1/generate", files=files), 500)
        until(lambda: not any(own() for own in alive), 2)
    finally:
        gc.enable()
    assert threading.active_count() <= threads


def test_odd_requests_are_errors_of_the_client(
    client: httpx.Client, files: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    for origin in ("http://[", "http://[::1"):
        answer = client.post("/v1/faces", files=files, headers={"origin": origin})
        assert "another site" in error(answer, 403)
    kind = {"content-type": f"multipart/form-data; boundary={'b' * 300}"}
    assert "cannot be read" in error(client.post("/v1/faces", content=b"x", headers=kind), 400)
    kind = {"content-type": "multipart/form-data; boundary=b"}
    for body in (b"nonsense", b"--b\r\n\r\n\r\n--b--", form_bytes(files) + b"more"):
        client.post("/v1/faces", content=body, headers=kind)
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


def test_a_request_that_breaks_the_rules_in_its_body_is_not_logged(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    for path in ("/v1/jobs", "/v1/health"):
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as own:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked"
            own.sendall(f"{head}\r\n\r\nnot a number\r\n".encode())
            received = b""
            while data := own.recv(4000):
                received += data
        assert received.startswith(b"HTTP/1.1 400 ")
    served.wait_until_idle()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_failed_accepts_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("asyncio")
    with own_filter(log, server._AcceptErrors()):
        for _ in range(3):
            try:
                raise OSError(errno.EMFILE, "Too many open files")
            except OSError:
                log.error("socket.accept() out of system resource\nsocket: 3", exc_info=True)
        log.error("something else")
    assert [record.getMessage() for record in caplog.records] == [
        "no more connections can be accepted: too many files are open",
        "something else",
    ]
    assert "Traceback" not in caplog.text


@contextmanager
def own_filter(log: logging.Logger, own: logging.Filter) -> Iterator[None]:
    """Use this filter alone during the block."""
    before, log.filters = log.filters, [own]
    try:
        yield
    finally:
        log.filters = before


def test_limits_are_finite() -> None:
    for wrong in (math.inf, math.nan, -1.0):
        with pytest.raises(BadRequest, match=r"--picture-mb .*: give a finite number from 0"):
            Limits(picture_mb=wrong)


def test_models_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="are both called 'cran-tiny': rename"):
        _check_names(["a/cran-tiny", "b/cran-tiny"], [pipeline.load("cran-tiny")] * 2)


def test_a_temp_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"none: cannot be written to .*give another --temp"):
        temp_store.TempStore(tmp_path / "none")


def test_what_a_killed_server_left_is_removed_by_the_next(tmp_path: Path) -> None:
    dead, alive = temp_store.TempStore(tmp_path), temp_store.TempStore(tmp_path)
    fcntl.flock(dead._lock, fcntl.LOCK_UN)  # as the end of a process does
    with alive.folder() as kept:
        (dead.root / "picture").write_bytes(b"somebody")
        third = temp_store.TempStore(tmp_path)
        assert not dead.root.exists() and kept.exists()
    third.close()
    alive.close()
    assert list(tmp_path.iterdir()) == []
    assert temp_store.TempStore(tmp_path).root.stat().st_mode & 0o777 == 0o700


def test_the_command_line(cli: Cli, tmp_path: Path) -> None:
    assert "--temp" in cli("serve", "--temp", tmp_path / "none").err
    assert cli("serve", "--model", "nonsense", "--port", "0").err.count("\n") == 1
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = cli("serve", "--port", port)
        assert ran.code == 2 and f"127.0.0.1:{port} cannot be listened on" in ran.err


@pytest.mark.parametrize("command", [("serve",), ("study", "serve", "anywhere")])
def test_without_the_extra_it_is_named(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "fastapi" else find(name)
    )
    ran = cli(*command)
    assert ran.code == 2 and ran.err.count("\n") == 1
    assert "needs fastapi: pip install 'talkingface[serve]'" in ran.err


@pytest.mark.slow
def test_the_real_command_starts_answers_and_stops(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "talkingface", "serve", "--port", "0", "--temp", str(tmp_path)]
    command += ["--model", "cran-tiny", "--host", "0.0.0.0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as ran:
        assert ran.stdout is not None and ran.stderr is not None
        address = re.search(r"http://\S+", ran.stdout.readline())
        assert address is not None
        assert httpx.get(address.group(0) + "v1/health").json()["status"] == "ok"
        assert len(list(tmp_path.iterdir())) == 1
        ran.send_signal(signal.SIGINT)
        assert ran.wait(15) in (0, 130, -signal.SIGINT)
        assert "whoever reaches this machine can use it" in ran.stderr.read()
    assert list(tmp_path.iterdir()) == []


def test_a_decoder_that_crashes_is_an_error_of_one_request(
    client: httpx.Client,
    files: dict[str, Any],
    served: Served,
    portrait: Path,
    speech: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "_MODULE", "helpers.faulty_decoder")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    decoding.set_limits(decoding.Limits())
    for field, path, name in (("image", portrait, "picture"), ("audio", speech, "recording")):
        content = path.read_bytes() + b"\nfault: crash"
        answer = client.post("/v1/generate", files={**files, field: content})
        expected = f"the {name}: its decoder crashed (SIGSEGV); {decoding.ADVICE}"
        assert (answer.status_code, answer.json()["error"]) == (415, expected)
    assert client.post("/v1/generate", files=files).status_code == 200
    served.wait_until_idle()
