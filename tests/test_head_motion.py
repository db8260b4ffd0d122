"""Head-motion statistics against scipy and closed forms; the command; whose face it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli
from corpus import write_cache
from scipy import signal  # type: ignore[import-untyped]

import talkingface
from talkingface import weights
from talkingface.geometry import MEAN_FACE
from talkingface.metrics import head
from talkingface.metrics.head import blinks, head_moves, spectrum, statistics
from talkingface.metrics.identity import Person

SIZE = 128


def swaying(frames: int = 256) -> np.ndarray:
    """Landmarks of a head that sways: 2 px aside at 0.5 Hz, 3 degrees of roll at 2 Hz."""
    t = np.arange(frames) / 25
    aside, roll = 2 * np.sin(2 * np.pi * 0.5 * t), np.radians(3) * np.sin(2 * np.pi * 2 * t)
    face = MEAN_FACE * 40
    rigid = face[[27, 28, 29, 30, 33, 36, 39, 42, 45]].mean(0)  # it turns about these
    turn = np.stack([np.cos(roll), -np.sin(roll), np.sin(roll), np.cos(roll)], -1)
    points = (face - rigid) @ turn.reshape(-1, 2, 2).transpose(0, 2, 1) + rigid
    return np.asarray(points + np.stack([aside, 0 * aside], -1)[:, None] + [64, 40])


def test_moves_are_what_was_done() -> None:
    moves = head_moves(swaying(250), SIZE)
    t = np.arange(250) / 25
    np.testing.assert_allclose(moves[:, 0], 2 * np.sin(np.pi * t), atol=0.02)
    np.testing.assert_allclose(moves[:, 2], 3 * np.sin(4 * np.pi * t), atol=0.02)
    assert np.abs(moves[:, [1, 3]]).max() < 0.1
    double = head_moves(2 * swaying(250), 2 * SIZE)  # the same at twice the resolution
    np.testing.assert_allclose(double, moves, atol=1e-9)


def test_spectrum_is_scipys_welch() -> None:
    clips = [np.random.default_rng(n).standard_normal((170, 3)).cumsum(0) for n in range(2)]
    hertz, power = spectrum(clips)
    theirs = [
        signal.welch(c, 25, "hann", 64, 32, detrend="constant", axis=0)[1]
        for c in (clip[: 64 + 32 * 3] for clip in clips)
    ]
    np.testing.assert_allclose(power, np.mean(theirs, axis=0), rtol=1e-9)
    np.testing.assert_allclose(hertz, np.fft.rfftfreq(64, 0.04))


def test_statistics_of_a_known_sway() -> None:
    found = statistics([head_moves(swaying(), SIZE)])
    assert found.deviation[0] == pytest.approx(2 / np.sqrt(2), rel=0.02)
    assert found.deviation[2] == pytest.approx(3 / np.sqrt(2), rel=0.02)
    assert found.shares[0, 0] > 0.85 and found.shares[1, 2] > 0.95  # 0.5 Hz, and 2 Hz
    assert found.shares.sum(0) == pytest.approx(np.ones(4), abs=1e-6)
    assert found.speed[0] == pytest.approx(2 * 2 / np.pi * 2 * np.pi * 0.5 / 25, rel=0.02)
    assert found.blinks == 0 and np.isnan(found.blink_frames)


def test_blinks_are_counted_and_a_look_down_is_none() -> None:
    eyes = np.full(200, 0.3)
    eyes[20:24], eyes[90:93], eyes[196:] = 0.05, 0.1, 0.08
    eyes[130:160] = 0.15
    eyes += 0.01 * np.sin(np.arange(200))
    assert blinks(eyes) == [(20, 24), (90, 93), (196, 200)]
    moves = np.concatenate([np.random.default_rng(0).standard_normal((200, 4)), eyes[:, None]], 1)
    found = statistics([moves])
    assert found.blinks == pytest.approx(3 / (200 / 25 / 60))
    assert found.blink_frames == pytest.approx(11 / 3)


def test_the_command_measures_beside_real_video(cli: Cli, portrait: Path, tmp_path: Path) -> None:
    write_cache(tmp_path / "cache", talkingface.align(portrait).crop)  # a face is found
    out = tmp_path / "out"
    line = ["head-motion", "--models", "cran-tiny", "--cache", tmp_path / "cache", "-o", out]
    ran = cli(*line, "--clips", "1", "--seconds", "5")
    assert ran.code == 0, ran.err
    numbers = json.loads((out / "heads.json").read_text())
    assert list(numbers) == ["real", "cran-tiny"]
    assert numbers["cran-tiny"]["statistics"]["seconds"] > 0
    assert all(-1 <= value <= 1 for value in numbers["cran-tiny"]["likeness"])
    assert "| cran-tiny |" in ran.out and (out / "heads.md").read_text() in ran.out + "\n"
    assert (out / "heads.png").stat().st_size > 1000
    again = cli(*line)
    assert again.code == 2 and "--overwrite" in again.err


def test_a_model_of_one_person_says_so(portrait: Path, speech: Path) -> None:
    """The one whom it has learned is met without a word, anybody else is told."""
    embedding, known = weights.load_with_info("identity")
    own = talkingface.load("cran-tiny")
    crop = talkingface.align(portrait).crop
    assert callable(embedding)
    person = Person.of("nobody", embedding, crop[None], known.sha256)
    assert Person.read(json.loads(json.dumps(person.facts))) == person
    own.info = replace(own.info, extra={"person": person.facts})
    assert own.generate(portrait, speech).note is None
    man = portrait.with_name("man.jpg")
    note = own.generate(man, speech).note
    assert note is not None and "nobody's" in note and "will move as" in note


def test_shut_is_between_open_and_closed() -> None:
    """What `models.head` draws as half shut is a blink, as three quarters open is none."""
    from talkingface.models.head import openness, place

    face = torch.from_numpy(MEAN_FACE * 0.3 + 0.4).float()[None]
    usual = float(openness(face))
    for part, shut in ((0.5, True), (0.75, False)):
        moves = torch.tensor([[0, 0, 0, 0, usual * part, 0]])
        seen = float(openness(place(face, face, moves)))
        assert (seen < head.SHUT * usual) is shut
