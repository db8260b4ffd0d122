"""Dubbing real faces: several people of one video, the command line, and a hard kill."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

import talkingface
from conftest import Cli
from helpers import media as recordings
from talkingface import audio, picture, stored_video, turns
from talkingface.cast import Cast, Voice
from talkingface.dubbing import coding
from talkingface.dubbing.dubbed_video import DubbedVideo
from talkingface.errors import BadRequest
from talkingface.motion import Motion
from talkingface.pipeline import TalkingFace
from talkingface.streaming import Speech
from talkingface.turns import Turn
from talkingface.video_formats import Coding

FRAMES = 6
LEFT, RIGHT = np.s_[:, :, :256], np.s_[:, :, 256:]


@pytest.fixture(scope="module")
def speaker() -> TalkingFace:
    return talkingface.load("cran")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, portrait: Path) -> Path:
    """256x512, 6 frames: a face that sways, and the smaller mirror image of it at its right."""
    large = np.ascontiguousarray(picture.read(portrait)[::3, ::3])
    small = np.full_like(large, 127)
    small[64:, 32:224] = picture.read(portrait)[::4, ::-4]
    path = tmp_path_factory.mktemp("two") / "two.mp4"
    frames = [np.concatenate([np.roll(large, k % 3, 1), small], 1) for k in range(FRAMES)]
    shown = ((Fraction(k, 25), frame) for k, frame in enumerate(frames))
    return recordings.write_video(path, shown, "libx264")


@pytest.fixture(scope="module")
def sounds(speech: Path) -> list[np.ndarray]:
    """Two parts of a sentence, 0.24 s each."""
    whole, count = audio.load(speech).numpy(), FRAMES * audio.SAMPLES_PER_FRAME
    return [whole[8000 : 8000 + count], whole[20_000 : 20_000 + count]]


@pytest.fixture
def lossless() -> Iterator[None]:
    """Encode without loss, so that frames come back as they were drawn."""
    with pytest.MonkeyPatch.context() as patch:
        exact = Coding("libx264", {"preset": "ultrafast", "qp": "0"})
        patch.setitem(coding._CODINGS, "h264", exact)
        yield


def frames_of(path: Path) -> np.ndarray:
    """(T, H, W, 3) uint8."""
    layout = stored_video.open_stored(path).layout
    found = stored_video.read_stored(path, layout, planes=False)
    return np.stack([frame.picture for frame in found])


@pytest.mark.usefixtures("lossless")
def test_each_of_two_is_dubbed_as_alone(
    speaker: TalkingFace, two: Path, sounds: list[np.ndarray], tmp_path: Path
) -> None:
    """A person who is not given stays as in the video, to the bit."""
    first, second = sounds
    shown, reports = {}, {}
    for name, given, face in (
        ("both", {1: first, 2: second}, None),
        ("one", {1: first}, None),
        ("other", {2: second}, None),
        ("plain", first, 1),
    ):
        path = tmp_path / f"{name}.mp4"
        reports[name] = speaker.dub(two, given, face=face).save(path)  # type: ignore[arg-type]
        shown[name] = frames_of(path)
    before = frames_of(two)
    assert (shown["one"] == shown["plain"]).all()
    assert (shown["one"][RIGHT] == before[RIGHT]).all()
    assert (shown["other"][LEFT] == before[LEFT]).all()
    assert (shown["both"][LEFT] == shown["one"][LEFT]).all()
    assert (shown["both"][RIGHT] == shown["other"][RIGHT]).all()
    for side in (LEFT, RIGHT):
        assert (shown["both"][side] != before[side]).any((1, 2, 3)).all()
    assert [own.dubbed for own in reports["both"].sources] == [FRAMES, FRAMES]
    assert [own.people for own in reports["one"].sources] == [2]


def test_turns_divide_one_recording(
    speaker: TalkingFace, two: Path, sounds: list[np.ndarray], tmp_path: Path
) -> None:
    """Each speaks at its turns as if it spoke a recording of them, and is silent in between."""
    whole, spoken = np.concatenate(sounds), [Turn(0.24, 0.48, "b"), Turn(0, 0.24, "a")]
    made = speaker.dub(two, whole, turns=spoken, faces={"a": 2})
    assert made._options.chosen == (None, 2)
    for name, motion in zip("ba", made._motions, strict=True):
        own = turns.within(torch.from_numpy(whole).split(5000), turns.spans(spoken, name))
        alone = speaker.dub(two, torch.cat(list(own)))
        assert np.array_equal(motion.expression, alone._motions[0].expression)
    with pytest.raises(BadRequest, match="give each one's face with its sound"):
        speaker.dub(two, {1: whole}, face=1)
    with pytest.raises(BadRequest, match="not both"):
        speaker.dub(two, whole, face=1, box=(0.0, 0.0, 90.0, 90.0))
    with pytest.raises(BadRequest, match="needs their turns"):
        speaker.dub(two, whole, faces={"a": 1})


def test_the_command_line_dubs_several_people(
    cli: Cli, two: Path, sounds: list[np.ndarray], tmp_path: Path
) -> None:
    """Their sounds are added; silence is noted."""
    a, b, out = tmp_path / "a.wav", tmp_path / "b.wav", tmp_path / "out.mp4"
    recordings.write_sound(a, sounds[0] / 2, 16_000, "pcm_s16le")
    recordings.write_sound(b, 0 * sounds[1], 16_000, "pcm_s16le")
    common = ("--device", "cpu", "--json", "-o", out)
    ran = cli("dub", two, "--speaker", f"2={a}", "--speaker", f"1={b}", *common)
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert [own["dubbed"] for own in result["sources"]] == [FRAMES, FRAMES]
    assert any("the sound is silent" in note for note in result["notes"])
    heard = audio.load(out).numpy()[: len(sounds[0])]
    assert np.corrcoef(heard, sounds[0])[0, 1] > 0.95
    for wrong, says in (
        ((), "nothing to speak"),
        ((a, "--speaker", "1=a.wav"), "say who speaks when by --turns"),
        (("--speaker", f"1={a}", "--face", "1"), "give each one's face with its sound"),
        (("--speaker", f"1={a}", "--speaker", f"3={b}"), "number 3"),
    ):
        ran = cli("dub", two, *wrong, *common, "--overwrite")
        assert ran.code == 2 and says in ran.err and ran.err.count("\n") == 1, ran.err


PERIOD, FLASH = 10.01, 5.005  # seconds of a loop; its first white frame


def write_loop(folder: Path, portrait: Path, rate: Fraction, minutes: float) -> tuple[Path, Path]:
    """A small video that flashes once, and a sound that clicks at each flash of its loop.

    The face is in a few frames; the others are as they were.
    """
    dark, white = np.full((96, 96, 3), 40, np.uint8), np.full((96, 96, 3), 235, np.uint8)
    first, seconds = round(FLASH * rate), 60 * minutes
    shown = [picture.read(portrait)[::8, ::8]] * 5 + [dark] * (round(PERIOD * rate) - 5)
    shown[first : first + 3] = [white] * 3
    moments = ((k / rate, frame) for k, frame in enumerate(shown))
    path = recordings.write_video(folder / "a.mp4", moments, "libx264", rate)
    sound = recordings.clicks(16_000, np.arange(FLASH, seconds, PERIOD).tolist(), seconds)
    return path, recordings.write_sound(folder / "a.wav", sound, 16_000, "pcm_s16le")


def late_clicks(path: Path, seconds: float = 60) -> np.ndarray:
    """Seconds by which each click of the last part of a file is later than its flash."""
    with av.open(str(path)) as file:
        assert file.duration is not None
        start = max(0, file.duration - round(1e6 * seconds))
        file.seek(start)
        light = [
            (float(f.time or 0), f.to_ndarray(format="gray").mean()) for f in file.decode(video=0)
        ]
        file.seek(start)
        heard = list(file.decode(audio=0))
    flashes = [time for (_, a), (time, b) in itertools.pairwise(light) if b - a > 100]
    begin, rate = float(heard[0].time or 0), heard[0].sample_rate
    sound = np.concatenate([frame.to_ndarray()[0] for frame in heard])
    flashes = [time for time in flashes if 0.2 < time - begin < len(sound) / rate - 0.2]
    assert len(flashes) >= seconds / PERIOD - 2
    expected = [time - begin for time in flashes]
    return recordings.onsets(sound, rate, expected) - expected


@pytest.mark.slow
def test_sound_is_in_step_at_the_end_of_a_long_loop(
    speaker: TalkingFace, portrait: Path, tmp_path: Path
) -> None:
    """Six minutes of a mouth at rest, at 4.995 frames a second; an hour is in docs/log.md."""
    path, speech = write_loop(tmp_path, portrait, Fraction(5000, 1001), 6)
    model: Any = speaker.model
    space = model.readout.space
    cast, motion = Cast([None], [Voice(Speech(speech))]), np.zeros((1, 16), np.float32)
    made = DubbedVideo(path, cast, [Motion.still(motion)], space, 0, "loop", "", lambda: None)
    made.save(tmp_path / "out.mp4")
    assert np.abs(late_clicks(tmp_path / "out.mp4")).max() < 0.02


@pytest.mark.slow
def test_a_dubbing_that_is_killed_while_it_encodes_goes_on(
    cli: Cli, portrait: Path, sounds: list[np.ndarray], tmp_path: Path
) -> None:
    """One frame a second, so that a part of ten seconds has ten frames."""
    shown, frames = picture.read(portrait)[::3, ::3], 24
    path, speech = tmp_path / "a.mp4", tmp_path / "a.wav"
    moved = ((Fraction(k), np.roll(shown, k % 3, 1)) for k in range(frames))
    recordings.write_video(path, moved, "libx264")
    recordings.write_sound(speech, np.tile(sounds[0], 8), 16_000, "pcm_s16le")
    whole, out = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    ran = cli("dub", path, speech, "-o", whole, "--device", "cpu")
    assert ran.code == 0, ran.err
    command = [sys.executable, "-m", "talkingface.cli", "dub", path, speech, "-o", out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*map(str, command), "--device", "cpu"], env=environment) as process:
        while process.poll() is None and not list(tmp_path.glob(".out.mp4.*/00000.mp4")):
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not out.exists()
    ran = cli("dub", path, speech, "-o", out, "--device", "cpu", "--json")
    assert ran.code == 0, ran.err
    result: dict[str, Any] = json.loads(ran.out)
    assert 10 <= result["resumed"] < frames == result["frames"]
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".out.mp4*"))
