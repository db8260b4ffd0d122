"""The examples of agents: text in, a video out whose sound and pictures are in step."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

import talkingface
from conftest import EXAMPLES, SENTENCE
from talkingface import audio, media, voice
from talkingface.live_face import LiveFace

BURST, GAP = 0.24, 0.36  # seconds of a tone of the synthetic voice, and of silence after it
OFFSET = 0.02  # seconds that sound and pictures may be apart
LOUD = 0.3


class Bursts:
    """A voice whose every word is a loud tone and a silence."""

    def stream(self, text: str, seed: int) -> Iterator[np.ndarray]:
        times = np.arange(round((BURST + GAP) * voice.RATE)) / voice.RATE
        for _ in text.split():
            yield np.sin(2 * np.pi * 300 * times) * (times < BURST)


def example(name: str) -> ModuleType:
    """Import an example."""
    path = EXAMPLES / "agents" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read a video with PyAV alone: frames (T, H, W), their times, and the sound at 16 kHz."""
    with av.open(str(path)) as file:
        shown: list[Any] = [(f.to_ndarray(format="gray"), f.time) for f in file.decode(video=0)]
    with av.open(str(path)) as file:
        resampler = av.AudioResampler("flt", "mono", audio.SAMPLE_RATE)
        coded = [*file.decode(audio=0), None]
        parts = [part.to_ndarray()[0] for one in coded for part in resampler.resample(one)]
        stream: Any = file.streams.audio[0]
        assert not stream.start_time
        seconds = float(stream.duration * stream.time_base)  # what follows fills the last packet
    pictures, times = zip(*shown, strict=True)
    sound = np.concatenate(parts)[: round(seconds * audio.SAMPLE_RATE)]
    return np.stack(pictures), np.array(times, float), sound


class Flashes:
    """A stream in place of a model: white frames where the sound that it gets is loud."""

    latency, note = 0.1, None

    def __init__(self) -> None:
        self._sound = np.zeros(0, np.float32)

    def output(self, samples: Any) -> list[Any]:
        self._sound = np.concatenate([self._sound, np.asarray(samples)])
        return self._frames((len(self._sound) - 1600) // 640)

    def settle(self) -> list[Any]:
        return self._frames(-(-len(self._sound) // 640))

    def forget(self) -> None:
        self._sound = self._sound[:0]

    def _frames(self, count: int) -> list[Any]:
        made = []
        for _ in range(count):
            now, self._sound = self._sound[:640], self._sound[640:]
            white = np.full((48, 64, 3), 255 * (np.abs(now).max() > LOUD), np.uint8)
            made.append(SimpleNamespace(motion=None, t=0, picture=white))
        return made


def rises(loud: np.ndarray) -> np.ndarray:
    """Return the indices at which something begins."""
    return np.flatnonzero(np.diff(loud.astype(int), prepend=0) == 1)


def onsets(sound: np.ndarray) -> np.ndarray:
    """Return the seconds at which a tone begins after at least 0.1 s of silence."""
    loud = np.flatnonzero(np.abs(sound) > LOUD)
    first = np.diff(loud, prepend=-audio.SAMPLE_RATE) > audio.SAMPLE_RATE // 10
    return loud[first] / audio.SAMPLE_RATE


def flashing(monkeypatch: pytest.MonkeyPatch) -> list[LiveFace]:
    """Replace the model by `Flashes`, the voice by `Bursts`; return the faces that are opened."""
    opened: list[LiveFace] = []

    def live(portrait: Path, *, rate: int, max_size: int) -> LiveFace:
        stream: Any = Flashes()
        draw: Any = attrgetter("picture")
        opened.append(LiveFace(stream, draw, None, rate, 1))
        return opened[-1]

    monkeypatch.setattr(voice, "_synthesizer", Bursts)
    monkeypatch.setattr(talkingface, "load", lambda name: SimpleNamespace(live=live, tag="none"))
    return opened


def check_in_step(path: Path, words: int) -> None:
    """Check that each tone and its flash begin within 20 ms, and that the file ends together."""
    pictures, times, sound = read(path)
    shown = times[rises(pictures.mean((1, 2)) > 127)]
    heard = onsets(sound)
    assert len(shown) == len(heard) == words
    assert np.abs(shown - heard).max() <= OFFSET
    assert len(sound) / audio.SAMPLE_RATE == pytest.approx(times[-1] + 0.04, abs=OFFSET)


def test_a_conversation_is_in_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice interrupted, with rests between: 7 + 3 + 4 + 7 words are heard and seen."""
    opened = flashing(monkeypatch)
    example("conversation").main(str(tmp_path / "a.mp4"))
    found = opened[0].statistics()
    assert (found.interruptions, found.idle, found.pauses) == (2, 4 * 25, 0)
    assert found.speech == 7 * 15 + 40 + 50 + 7 * 15
    check_in_step(tmp_path / "a.mp4", 7 + 3 + 4 + 7)


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["pipecat", "livekit"])
def test_an_example_of_a_framework_is_in_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, framework: str
) -> None:
    package = {"pipecat": "pipecat", "livekit": "livekit.agents"}[framework]
    pytest.importorskip(package, reason=f"needs talkingface[{framework}]")
    flashing(monkeypatch)
    asyncio.run(example(f"{framework}_face").main(str(tmp_path / "a.mp4")))
    check_in_step(tmp_path / "a.mp4", 10)


class Recorded:
    """A voice that says the same recorded sentence for every text."""

    def stream(self, text: str, seed: int) -> Iterator[np.ndarray]:
        resampler = media.Resampler(audio.SAMPLE_RATE, voice.RATE)
        sound = audio.load(SENTENCE).numpy()[None]
        yield np.concatenate([resampler.push(sound), resampler.finish()], 1)[0]


@pytest.mark.slow
def test_a_conversation_with_a_real_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every turn has the frames of its sound or of its cut, and sound and pictures end together."""
    monkeypatch.setattr(voice, "_synthesizer", Recorded)
    path = tmp_path / "a.mp4"
    example("conversation").main(str(path))
    pictures, times, sound = read(path)
    assert len(pictures) == 75 + 40 + 50 + 75 + 4 * 25
    assert len(sound) / audio.SAMPLE_RATE == pytest.approx(times[-1] + 0.04, abs=OFFSET)


@pytest.mark.slow
def test_a_conversation_with_the_offline_voice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example as it is: text in, a voice that needs no network, and a face that speaks."""
    pytest.importorskip("hibari", reason="needs talkingface[voice]")
    path = tmp_path / "a.mp4"
    example("conversation").main(str(path))
    said = capsys.readouterr().out
    counts = dict(re.findall(r"(\w+)=(\d+)", said))
    speech, idle = int(counts["speech"]), int(counts["idle"])
    assert counts["interruptions"] == "2" and idle == 4 * 25 and speech > 40 + 50 + 2 * 25
    pictures, times, sound = read(path)
    assert len(pictures) == speech + idle
    assert len(sound) / audio.SAMPLE_RATE == pytest.approx(times[-1] + 0.04, abs=OFFSET)
    loud = np.abs(sound[: len(pictures) * 640].reshape(-1, 640)).max(1) > 0.05
    assert loud.mean() > 0.25
    mouth = pictures[:, 200:320, 120:260].astype(float)  # of 384 pixels
    moves = np.abs(np.diff(mouth, axis=0)).mean((1, 2))
    assert moves[loud[1:]].mean() > 1.4 * moves[~loud[1:]].mean()
