"""Files are read in another process, whose failures are one line each."""

from __future__ import annotations

import io
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import wave
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image

from conftest import Cli
from helpers import media as recordings
from talkingface import audio, decoding, media, picture, video
from talkingface.data import report
from talkingface.decoding import Limits, worker
from talkingface.errors import UnreadableMedia

Read = TypeVar("Read")
CLIP = Path(__file__).parent / "clips" / "s1_bbaf2n.mp4"
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Begin and end without waiting processes, with the usual limits."""
    decoding.set_limits(Limits())
    yield
    decoding.set_limits(Limits())


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that fail at files whose names say so."""
    monkeypatch.setattr(decoding, "_MODULE", "helpers.faulty_decoder")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def tone() -> np.ndarray:
    return np.asarray(0.5 * np.sin(np.arange(24_000) * 0.05), np.float32)


def process_ids() -> set[int]:
    """Return the decoding processes of this process."""
    return {own.process.pid for own in decoding._workers}


def is_gone(pid: int) -> bool:
    """Return whether a process ends within some seconds."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":  # nobody has asked how it ended
            return True
        time.sleep(0.05)
    return False


def network_can_be_left() -> bool:
    code = "import ctypes, sys; sys.exit(-ctypes.CDLL(None).unshare(0x50000000))"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def long_recording(path: Path, seconds: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.arange(8000 * seconds, dtype=np.int16).tobytes())
    return path


# ---- the same numbers


def both(read: Callable[[], Read], monkeypatch: pytest.MonkeyPatch) -> tuple[Read, Read]:
    """Read in another process, and in this one."""
    contained = read()
    with monkeypatch.context() as patch:
        patch.setenv(decoding.SWITCH, "direct")
        before = process_ids()
        direct = read()
        assert process_ids() == before
    return contained, direct


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif", ".tif", ".bmp"])
def test_pictures_are_the_same(
    tmp_path: Path, portrait: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    Image.open(portrait).reduce(2).save(path)
    found, expected = both(lambda: picture.load(path), monkeypatch)
    assert np.array_equal(found.pixels, expected.pixels) and found.pixels.dtype == np.uint8
    assert found.size == expected.size == picture.open_size(path)
    found.pixels[:] = 0  # it is the caller's


@pytest.mark.parametrize(
    ("name", "codec"), [("a.wav", "pcm_s16le"), ("a.mp3", "mp3"), ("a.m4a", "aac"), ("a.ogg", None)]
)
def test_sounds_are_the_same_chunk_by_chunk(
    tmp_path: Path, tone: np.ndarray, name: str, codec: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recordings.write_sound(tmp_path / name, tone, 48_000, codec or "libopus")
    for rate, channels in ((16_000, 1), (None, None)):
        contained, direct = both(lambda: media.open_sound(path, rate, channels), monkeypatch)  # noqa: B023
        assert (contained.rate, contained.channels) == (direct.rate, direct.channels)
        for got, expected in zip(contained.chunks, direct.chunks, strict=True):
            assert got.dtype == np.float32 and np.array_equal(got, expected)
    assert list(media.sound_lengths(path))[-1] == pytest.approx(0.5, abs=0.1)


def test_videos_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for fps in (25, 40):  # frames are shown twice
        contained, direct = both(lambda: list(video.read_frames(CLIP, fps)), monkeypatch)  # noqa: B023
        again = [[a is b for a, b in pairwise(frames)] for frames in (contained, direct)]
        assert again[0] == again[1] and any(again[0]) == (fps == 40)
        assert np.array_equal(np.stack(contained), np.stack(direct))
    assert len(set(map(repr, both(lambda: video.probe(CLIP), monkeypatch)))) == 1


def test_errors_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.wav").write_bytes(b"")
    Path("text.wav").write_text("no media at all " * 99)
    for name in ("missing.wav", "empty.wav", "text.wav", ".", "missing\udcff.wav"):
        for read in (audio.load, picture.read, picture.open_size, video.probe):

            def error(read: Callable[[str], object] = read, name: str = name) -> str:
                with pytest.raises(UnreadableMedia) as caught:
                    read(name)
                return str(caught.value)

            assert len(set(both(error, monkeypatch))) == 1
            assert error().startswith(name)


@pytest.mark.parametrize("columns", [1, 2, 5])
def test_a_slice_is_sent_as_its_bytes(columns: int) -> None:
    part = np.arange(10, dtype=np.float32).reshape(2, 5)[:, -columns:]
    assert bytes(worker._bytes_of(part)) == part.tobytes()


# ---- failures


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize(
    ("name", "limits", "found"),
    [
        ("crash", Limits(), "its decoder crashed (SIGSEGV)"),
        ("hang", Limits(seconds=1), "its decoding takes longer than 2 s"),
        ("spin", Limits(seconds=1), "its decoding takes longer than"),
        ("eat", Limits(memory=500_000_000), "its decoding needs more than 0.5 GB of memory"),
        ("fail", Limits(), "LookupError: nobody foresaw this"),
        ("write", Limits(), "File too large"),
        ("connect", Limits(), "Network is unreachable"),
    ],
)
def test_a_failure_is_one_line_and_the_next_file_is_read(
    tmp_path: Path, portrait: Path, name: str, limits: Limits, found: str
) -> None:
    if name == "connect" and not network_can_be_left():
        pytest.skip("the kernel keeps processes in the network")
    decoding.set_limits(limits)
    path = Path(shutil.copy(portrait, tmp_path / f"{name}.jpg"))
    with pytest.raises(UnreadableMedia) as caught:
        picture.read(path)
    assert str(caught.value).startswith(f"{path}: ") and found in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    decoding.set_limits(Limits())
    assert picture.read(portrait).shape == (768, 768, 3)
    written = tmp_path / "written"
    assert not written.exists() or written.stat().st_size == 0


@pytest.mark.usefixtures("faulty")
def test_nobody_else_notices_a_crash(tmp_path: Path, portrait: Path, speech: Path) -> None:
    path = Path(shutil.copy(portrait, tmp_path / "crash.jpg"))
    sound = media.open_sound(speech, 16_000, 1)
    with pytest.raises(UnreadableMedia):
        picture.read(path)
    assert sum(chunk.shape[1] for chunk in sound.chunks) == len(audio.load(speech))


def test_a_process_that_was_killed_while_it_waited_is_replaced(portrait: Path) -> None:
    picture.read(portrait)
    (pid,) = process_ids()
    os.kill(pid, signal.SIGKILL)
    assert is_gone(pid)
    assert picture.read(portrait).shape == (768, 768, 3)
    assert pid not in process_ids() and not Path(f"/proc/{pid}").exists()


def test_one_that_is_killed_at_work_is_an_error(tmp_path: Path, speech: Path) -> None:
    chunks = media.open_sound(long_recording(tmp_path / "a.wav", 600)).chunks
    next(chunks)
    (pid,) = process_ids()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(UnreadableMedia, match=r"a\.wav: its decoder crashed \(SIGKILL\)"):
        list(chunks)
    assert len(audio.load(speech)) > 40_000


@pytest.mark.parametrize(
    "reply",
    [
        b"x\n",
        b"[]\n",
        b'{"value": 1}\n',
        b'{"value": 1, "arrays": [["uint8", [-1]]]}\n',
        b'{"value": 1, "arrays": [["object", [1]]]}\n',
        b'{"value": 1, "arrays": [["float32", [1000000000]]]}\n',
        b"x" * (1 << 21),
    ],
)
def test_nonsense_of_a_process_is_an_error(
    reply: bytes, portrait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"import os, sys; os.write(int(sys.argv[2]), {reply!r}); sys.stdin.read()"
    if len(reply) > 100:
        code = "import os, sys\nwhile True: os.write(int(sys.argv[2]), b'x' * 9999)"
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "_command", lambda: [sys.executable, "-c", code, "[]"])
        with pytest.raises(UnreadableMedia, match=r"portrait\.jpg: its decoder"):
            picture.read(portrait)
    assert picture.read(portrait).shape == (768, 768, 3)


def test_a_process_that_cannot_be_started_is_an_error(
    portrait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "_command", lambda: ["/no/such/python"])
        decoding.start()
        with pytest.raises(UnreadableMedia, match=r"portrait\.jpg: no process can be started"):
            picture.read(portrait)
    assert len(os.listdir("/proc/self/fd")) == before
    assert picture.read(portrait).shape == (768, 768, 3)


# ---- processes


def test_one_process_serves_one_caller(portrait: Path, speech: Path) -> None:
    decoding.start()
    before = process_ids()
    picture.read(portrait)
    audio.load(speech)
    video.probe(CLIP)
    assert process_ids() == before and len(before) == 1


@pytest.mark.usefixtures("faulty")
def test_a_process_is_replaced_after_an_unforeseen_failure_and_after_many_files(
    tmp_path: Path, portrait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture.read(portrait)
    first = process_ids()
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(UnreadableMedia, match="not a JPEG"):  # foreseen
        picture.read(tmp_path / "text.jpg")
    assert process_ids() == first
    with pytest.raises(UnreadableMedia, match="LookupError"):
        picture.read(shutil.copy(portrait, tmp_path / "fail.jpg"))
    assert process_ids() == set()
    monkeypatch.setattr(decoding, "_MOST_TASKS", 2)
    seen = []
    for _ in range(3):
        picture.open_size(portrait)
        seen.append(process_ids())
    assert seen[1] == set() and seen[0] != seen[2] and len(seen[2]) == 1


def test_a_picture_that_hides_its_size_gets_no_more_memory(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.new("RGB", (3000, 3000)).save(out, "AVIF", speed=10)
    content = out.getvalue()
    begin = content.index(b"ispe") + 8
    path = tmp_path / "a.avif"
    path.write_bytes(content[:begin] + struct.pack(">II", 64, 64) + content[begin + 8 :])
    assert picture.open_size(path) == (64, 64)
    decoding.set_limits(Limits(memory=30_000_000))
    with pytest.raises(UnreadableMedia, match=r"a\.avif: "):
        picture.read(path)


def test_a_stream_that_is_given_up_keeps_its_process(tmp_path: Path, portrait: Path) -> None:
    path = long_recording(tmp_path / "a.wav", 600)
    for _ in range(3):
        parts = audio.read(path)
        next(parts)
        parts.close()  # type: ignore[attr-defined]
        sound = media.open_sound(path)
        del sound
    picture.read(portrait)
    assert len(process_ids()) == 1


def test_the_collector_may_close_a_stream_where_the_pool_is_locked(tmp_path: Path) -> None:
    parts = audio.read(long_recording(tmp_path / "a.wav", 600))
    next(parts)

    def close() -> None:
        with decoding._pool._lock:
            parts.close()  # type: ignore[attr-defined]

    thread = threading.Thread(target=close, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()


def test_threads_have_processes_of_their_own(portrait: Path, speech: Path) -> None:
    expected, barrier = audio.load(speech), threading.Barrier(4)

    def read(_: int) -> bool:
        barrier.wait()
        same = bool((audio.load(speech) == expected).all())
        return same and picture.read(portrait).shape == (768, 768, 3)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(read, range(8)))
    assert 1 <= len(process_ids()) <= Limits().idle


def test_a_long_recording_needs_no_memory(tmp_path: Path) -> None:
    path = long_recording(tmp_path / "a.wav", 400)
    decoding.start()
    tracemalloc.start()
    found = sum(len(part) for part in audio.read(path))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    (worker,) = decoding._workers
    assert found == 400 * 16_000 and most < 4_000_000  # it has 26 MB
    assert worker._used < 1_000_000  # shared memory


def test_a_forked_process_starts_its_own(portrait: Path) -> None:
    picture.read(portrait)
    before = process_ids()
    if (pid := os.fork()) == 0:
        try:
            fine = not process_ids() and picture.read(portrait).shape == (768, 768, 3)
            fine = fine and not process_ids() & before
            decoding._close()
        finally:
            os._exit(0 if fine else 1)
    assert os.waitpid(pid, 0)[1] == 0
    picture.read(portrait)
    assert process_ids() == before


SCRIPT = """
import os, sys, threading, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from talkingface import decoding, media, picture
if sys.argv[1] == "killed":  # its decoder hangs
    decoding._MODULE = "helpers.faulty_decoder"
    threading.Thread(target=picture.read, args=[Path(sys.argv[2])], daemon=True).start()
else:
    sound = media.open_sound(Path(sys.argv[2]))
while not decoding._workers:
    time.sleep(0.01)
(worker,) = decoding._workers
print(worker.process.pid, flush=True)
if sys.argv[1] == "killed":
    time.sleep(3600)
"""


@pytest.mark.parametrize("end", ["killed", "normal"])
def test_no_process_outlives_its_parent(
    tmp_path: Path, portrait: Path, speech: Path, end: str
) -> None:
    path = shutil.copy(portrait, tmp_path / "hang.jpg") if end == "killed" else speech
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    parent = subprocess.Popen(
        [sys.executable, "-c", script, end, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    if end == "killed":
        assert b"faulty" in Path(f"/proc/{pid}/cmdline").read_bytes()
        time.sleep(0.5)
        parent.kill()
    _, error = parent.communicate(timeout=60)
    assert is_gone(pid) and error == ""


def test_a_process_imports_little() -> None:
    code = (
        "import sys; from talkingface.decoding import worker; worker._import_readers(); "
        "print(sorted({'torch', 'cv2', 'typer', 'scipy'} & set(sys.modules)), 'av' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert ran.stdout == "[] True\n"


# ---- those who read


@pytest.mark.usefixtures("faulty")
def test_the_command_line_has_one_line_for_a_crash(
    cli: Cli, tmp_path: Path, portrait: Path, speech: Path
) -> None:
    path, out = Path(shutil.copy(portrait, tmp_path / "crash.jpg")), tmp_path / "a.mp4"
    ran = cli("generate", path, speech, "-o", out, "--model", "cran-tiny")
    assert (ran.code, ran.out) == (2, "") and not out.exists()
    assert ran.err == f"error: {path}: its decoder crashed (SIGSEGV); {decoding.ADVICE}\n"
    sound = Path(shutil.copy(speech, tmp_path / "crash.wav"))
    ran = cli("generate", portrait, sound, "-o", out, "--model", "cran-tiny")
    assert ran.code == 2 and ran.err.startswith(f"error: {sound}: its decoder crashed")
    ran = cli("generate", portrait, speech, "-o", out, "--model", "cran-tiny")
    assert ran.code == 0 and out.exists()


@pytest.mark.usefixtures("faulty")
def test_a_crash_drops_one_recording_of_a_corpus(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for name in ("crash.mp4", "fine.mp4"):
        shutil.copy(CLIP, tmp_path / "videos" / name)
    ran = cli("prepare", "videos", tmp_path / "videos", "-o", tmp_path / "out", "--jobs", 1)
    assert ran.code == 0, ran.err
    dropped = (tmp_path / "out" / report.DROPPED).read_text()
    assert "its decoder crashed (SIGSEGV)" in dropped and "fine" not in dropped
