"""A face in a conversation: frames and sound in step, pauses, interruptions, waiting, pace."""

from __future__ import annotations

import asyncio
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import talkingface
from talkingface import audio, live_clock, media, picture
from talkingface.animation import JOINED
from talkingface.errors import BadRequest
from talkingface.live_clock import LiveClock
from talkingface.live_face import PAUSE, LiveFace, LiveFrame
from talkingface.live_sound import as_int16
from talkingface.motion import Motion
from talkingface.pipeline import TalkingFace


@pytest.fixture(scope="module")
def sound(speech: Path) -> np.ndarray:
    return audio.load(speech)[4000 : 4000 + 20 * 640 + 100].numpy()


@pytest.fixture(scope="module")
def face(portrait: Path) -> np.ndarray:
    """So sharp that a frame that is not drawn takes no network for pictures."""
    return picture.read(portrait)


@pytest.fixture(scope="module")
def maker() -> TalkingFace:
    return talkingface.load("atvg-tiny")


def as_recorded(sound: np.ndarray, rate: int, channels: int) -> np.ndarray:
    """The sound as a synthetic voice gives it: (N, channels) int16; the second is quieter."""
    resampler = media.Resampler(audio.SAMPLE_RATE, rate, 1, channels)
    samples = np.concatenate([resampler.push(sound[None]), resampler.finish()], axis=1)
    samples[1:] *= 0.3
    return as_int16(samples.T)


def drain(live: LiveFace, draw: bool = False) -> list[LiveFrame]:
    frames = []
    while (frame := live.read(idle=False, draw=draw)) is not None:
        frames.append(frame)
    return frames


def say(live: LiveFace, samples: np.ndarray, rate: int, sizes: list[int]) -> list[LiveFrame]:
    rng, frames, at = np.random.default_rng(1), [], 0
    while at < len(samples):
        size = int(rng.choice(sizes))
        live.push(samples[at : at + size], rate)
        frames += drain(live, draw=True)
        at += size
    live.end_of_utterance()
    return frames + drain(live, draw=True)


@pytest.mark.parametrize(
    ("rate", "channels"), [(24_000, 1), pytest.param(44_100, 2, marks=pytest.mark.slow)]
)
def test_an_utterance_has_the_frames_of_the_file(
    maker: TalkingFace,
    face: np.ndarray,
    sound: np.ndarray,
    tmp_path: Path,
    rate: int,
    channels: int,
) -> None:
    """To the bit, in any chunks, where the picture alone is bent; the sound comes out as it was."""
    samples = as_recorded(sound[: 7 * 640 + 100], rate, channels)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    whole = list(maker.generate(face, tmp_path / "a.wav"))
    live = maker.live(face, rate=rate, channels=channels)
    found = say(live, samples, rate, [1, 500, 2000, 9000])
    assert len(found) == len(whole) == 8
    assert all(np.array_equal(a.picture, b) for a, b in zip(found, whole, strict=True))
    assert [frame.ends for frame in found] == [False] * 7 + [True] and not live.speaking
    assert {frame.sound.shape for frame in found} == {(rate // 25, channels)}
    out = as_int16(np.concatenate([frame.sound for frame in found]))
    assert np.array_equal(out[: len(samples)], samples) and not out[len(samples) :].any()


def motions(live: LiveFace, frames: int) -> Motion:
    shown = []
    for _ in range(frames):
        live.read(draw=False)
        assert live._shown is not None
        shown.append(live._shown)
    return Motion.join(shown)


def test_after_a_rest_lips_are_those_of_one_long_recording(
    maker: TalkingFace, face: np.ndarray, sound: np.ndarray
) -> None:
    """The silence that was assumed after an utterance leaves nothing behind."""
    speech = sound[: 15 * 640]
    pause = np.zeros(40 * 640, np.float32)
    whole = maker.motion(np.concatenate([speech, pause, speech, pause]))
    live = maker.live(face, rate=16_000)
    live.push(speech)
    live.end_of_utterance()
    found = [motions(live, 15), motions(live, 38)]
    live.push(speech)  # the last of these waiting frames could not foresee it
    live.end_of_utterance()
    found.append(motions(live, 15))
    assert np.array_equal(found[0].expression, maker.motion(speech).expression)
    assert np.array_equal(found[1].expression[:30], whole.expression[15:45])
    late = maker.motion(np.concatenate([speech, pause[: 38 * 640], speech])).expression[53:]
    assert np.array_equal(found[2].expression, late)


def test_two_utterances_without_a_rest_follow_each_other(
    maker: TalkingFace, face: np.ndarray, sound: np.ndarray
) -> None:
    live = maker.live(face, rate=24_000)
    for _ in range(2):
        live.push(as_recorded(sound, 24_000, 1), 24_000)
        live.end_of_utterance()
    frames = drain(live)
    assert [frame.number for frame in frames if frame.ends] == [20, 41]
    assert [frame.number for frame in frames] == list(range(42))


def test_an_interruption_drops_the_sound_and_closes_the_lips_softly(
    face: np.ndarray, speech: Path
) -> None:
    maker: Any = talkingface.load("cran")
    live = maker.live(face, rate=16_000)
    live.push(audio.load(speech).numpy())
    gap: Callable[[Any], float] = maker.model.readout.space.lip_gap

    def read() -> float:
        frame = live.read(draw=False)
        heard.append(bool(frame.sound.any()))
        return float(gap(torch.from_numpy(live._shown.expression[0])))

    heard: list[bool] = []
    gaps = [read()]
    while len(gaps) < 40 or gaps[-1] < 0.1:
        gaps.append(read())
    rest = len(gaps)
    live.interrupt()
    assert live.waiting == 0 and not live.speaking
    gaps += [read() for _ in range(10)]
    assert heard == [True] * rest + [False] * 10
    closing = np.array(gaps[rest - 1 : rest + JOINED])
    assert closing[0] > 0.1 and closing[-1] < 0.02 and gaps[-1] < 0.02
    steps = np.diff(closing)
    assert steps.max() < 0.01 and steps.min() > -0.6 * closing[0]  # downward, in no single step
    found = live.statistics()
    assert found.interruptions == 1 and found.dropped == pytest.approx(2.98 - rest / 25, abs=0.06)
    live.push(audio.load(speech).numpy()[:8000])
    live.end_of_utterance()
    assert live.read(draw=False).kind == "speech"  # it goes on at once


def test_a_waiting_face_moves_and_does_not_speak(maker: TalkingFace, face: np.ndarray) -> None:
    live = maker.live(face, rate=48_000, channels=2)
    moved = motions(live, 130)
    assert (moved.lids.max(0) > 0.5).all() and np.abs(moved.head[-1]).max() > 1e-4
    silent = maker.motion(np.zeros(130 * 640, np.float32))
    assert np.array_equal(moved.lids, silent.lids)
    frame = live.read()
    assert frame is not None and frame.kind == "idle" and frame.sound.shape == (1920, 2)
    assert not frame.sound.any() and live.read(idle=False) is None


def test_late_sound_pauses_the_picture_and_no_more_sound_ends_the_utterance(
    maker: TalkingFace, face: np.ndarray, sound: np.ndarray
) -> None:
    live = maker.live(face, rate=16_000)
    live.push(sound[:8000])
    early = len(drain(live))
    assert 0 < early < 12
    kinds = [live.read(draw=False) for _ in range(3)]
    assert {(frame.kind, frame.drawn) for frame in kinds if frame} == {("pause", False)}
    live.push(sound[8000:])
    more = drain(live)
    assert more and live.speaking  # nobody said that it was over
    rest = [live.read(draw=False) for _ in range(PAUSE + 12)]
    assert [frame.kind for frame in rest if frame][:PAUSE] == ["pause"] * PAUSE
    spoken = [frame for frame in rest if frame and frame.kind == "speech"]
    assert early + len(more) + len(spoken) == 21 and spoken[-1].ends
    assert not live.speaking and rest[-1] is not None and rest[-1].kind == "idle"
    assert live.statistics().pauses == 3 + PAUSE


def test_sounds_that_cannot_be_taken(maker: TalkingFace, face: np.ndarray) -> None:
    live = maker.live(face)
    second = np.zeros(24_000, np.float32)
    for bad in (np.zeros((3, 10)).T, np.zeros((2, 2, 2)), np.zeros(9, int), second * np.nan):
        with pytest.raises(BadRequest, match="a sound must be"):
            live.push(bad)
    with pytest.raises(BadRequest, match="22051 samples per second: give a multiple of 25"):
        live.push(second, 22_051)
    with pytest.raises(BadRequest, match="3 channels: give 1 or 2"):
        maker.live(face, channels=3)
    for _ in range(120):
        live.push(second)
    with pytest.raises(BadRequest, match="more than 120 s of sound wait"):
        live.push(second)


class Scripted:
    """A face that takes `work` seconds for a drawn frame, and none for another."""

    def __init__(self, work: float = 0.0) -> None:
        self.work, self.waiting, self.speaking = work, 0.0, True
        self.pushed: list[float] = []

    def read(self, idle: bool = True, draw: bool = True) -> LiveFrame:
        if draw:
            time.sleep(self.work)
        self.waiting = max(0.0, self.waiting - 0.04)
        sound, shown = np.zeros((960, 1), np.float32), np.zeros((2, 2, 3), np.uint8)
        return LiveFrame(shown, sound, 0, "idle", drawn=draw)

    def push(self, samples: Any, rate: int | None) -> None:
        self.waiting += len(samples)
        self.pushed.append(len(samples))

    def interrupt(self) -> None:
        self.waiting = 0.0


async def frames_of(clock: LiveClock, count: int) -> list[tuple[float, LiveFrame]]:
    loop, found = asyncio.get_running_loop(), []
    async for frame in clock:
        found.append((loop.time(), frame))
        if len(found) == count:
            break
    return found


def test_the_clock_keeps_real_time_and_draws_less_when_it_is_late() -> None:
    async def run(work: float) -> list[tuple[float, LiveFrame]]:
        clock: Any = LiveClock(Scripted(work))  # type: ignore[arg-type]
        found = await frames_of(clock, 30)
        await clock.close()
        return found

    for work, drawn in ((0.0, 30), (0.08, None)):
        found = asyncio.run(run(work))
        seconds = found[-1][0] - found[0][0]
        assert seconds == pytest.approx((29 - live_clock.LEAD) / 25, abs=0.15)
        shown = sum(frame.drawn for _, frame in found)
        assert shown == drawn if drawn else 8 < shown < 25


def test_a_push_waits_for_room_and_an_interruption_frees_it() -> None:
    async def run() -> None:
        scripted = Scripted()
        clock: Any = LiveClock(scripted, real_time=False)  # type: ignore[arg-type]
        assert await clock.push([0] * 11)  # the script's sound is in seconds
        push = asyncio.create_task(clock.push([0] * 5))
        await asyncio.sleep(0.02)
        assert not push.done()
        await frames_of(clock, 27)
        assert await push and scripted.pushed == [11, 5]
        push = asyncio.create_task(clock.push([0] * 7))
        await asyncio.sleep(0.02)
        await clock.interrupt()
        assert not await push and scripted.pushed == [11, 5]  # it belonged to what was cut off
        assert await clock.push([0])
        await clock.close()
        assert not await clock.push([0])

    asyncio.run(run())
