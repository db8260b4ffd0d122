"""Head-motion statistics against scipy and closed forms; the command; whose face it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import signal

import talkingface
from conftest import Cli
from helpers.corpus import write_cache
from talkingface import weights
from talkingface.faces.head_pose import apply_pose
from talkingface.landmarks import EARS, EYE_LIDS, eye_openness, reference_depth, reference_mesh
from talkingface.metrics.head import HeadVideo, blink_phases, blinks, spectrum, statistics
from talkingface.metrics.identity import Person

Array = np.ndarray[Any, np.dtype[np.float64]]
DEPTH = reference_depth() - reference_depth()[list(EARS)].mean()


def swaying(frames: int = 256) -> Array:
    """Meshes of a head that sways: 0.03 aside at 0.5 Hz, 3 degrees of roll at 2 Hz."""
    time, heads = np.arange(frames) / 25, np.zeros((frames, 6))
    heads[:, 3] = 0.03 * np.sin(2 * np.pi * 0.5 * time)
    heads[:, 2] = np.radians(3) * np.sin(2 * np.pi * 2 * time)
    return 40 * apply_pose(reference_mesh(), DEPTH, heads) + 64


def blinking(frames: int = 300) -> Array:
    """Meshes whose eyes close every two seconds: in 3 frames, and open in 6."""
    shut = np.interp(np.arange(frames) % 50, [10, 13, 14, 20], [0, 1, 1, 0])
    meshes = np.repeat(reference_mesh()[None], frames, 0)
    for upper, lower in EYE_LIDS:
        down = meshes[:, lower[1:-1]] - meshes[:, upper[1:-1]]
        meshes[:, upper[1:-1]] += 0.9 * shut[:, None, None] * down
    return meshes


def test_moves_are_what_was_done() -> None:
    video = HeadVideo.of(swaying(250))
    time = np.arange(250) / 25
    np.testing.assert_allclose(video.moves[:, 3], 3 * np.sin(np.pi * time), atol=0.02)
    np.testing.assert_allclose(video.moves[:, 2], 3 * np.sin(4 * np.pi * time), atol=0.02)
    assert np.abs(np.delete(video.moves, [2, 3], 1)).max() < 0.1
    double = HeadVideo.of(2 * swaying(250))  # the same at twice the resolution
    np.testing.assert_allclose(double.moves, video.moves, atol=1e-9)


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
    found = statistics([HeadVideo.of(swaying())])
    assert found.deviation[3] == pytest.approx(3 / np.sqrt(2), rel=0.02)
    assert found.deviation[2] == pytest.approx(3 / np.sqrt(2), rel=0.02)
    assert found.reach[[2, 3]] == pytest.approx([6, 6], rel=0.02)
    assert found.shares[0, 3] > 0.85 and found.shares[1, 2] > 0.95  # 0.5 Hz, and 2 Hz
    assert found.shares.sum(0) == pytest.approx(np.ones(8), abs=1e-6)
    assert found.speed[3] == pytest.approx(3 * 2 / np.pi * 2 * np.pi * 0.5, rel=0.02)
    assert found.blinks == 0 and np.isnan(found.duration) and np.isnan(found.intervals).all()
    assert np.isnan(found.correlations).all()  # nothing is known of a voice


def test_blinks_have_the_times_that_they_were_given() -> None:
    found = statistics([HeadVideo.of(blinking())])
    assert found.blinks == pytest.approx(6 / (300 / 25 / 60))
    assert found.closing == pytest.approx(0.6 * 3 / 25, abs=0.01)
    assert found.opening == pytest.approx(0.6 * 6 / 25, abs=0.01)
    assert found.duration == pytest.approx((1.5 + 1 + 3) / 25, abs=0.01)
    np.testing.assert_allclose(found.intervals, 2.0)


def test_blinks_are_counted_and_a_look_down_is_none() -> None:
    eyes = np.full(200, 0.3)
    eyes[20:24], eyes[90:93], eyes[196:] = 0.05, 0.1, 0.08
    eyes[130:160] = 0.15
    eyes += 0.01 * np.sin(np.arange(200))
    assert blinks(eyes) == [(20, 24), (90, 93), (196, 200)]
    closing, opening, duration = blink_phases(eyes, (196, 200))
    assert np.isfinite(closing) and np.isnan(opening) and np.isnan(duration)  # cut by the end


def test_openness_is_height_by_width() -> None:
    mesh = reference_mesh()
    usual = float(eye_openness(mesh))
    assert 0.2 < usual < 0.4
    assert float(eye_openness(blinking()).min()) < 0.15 * usual
    assert float(eye_openness(3 * mesh + 5)) == pytest.approx(usual)


def test_a_head_that_follows_the_voice_is_found() -> None:
    rng = np.random.default_rng(2)
    loud, high = (np.convolve(rng.standard_normal(310), np.ones(6) / 6, "valid") for _ in range(2))
    loud, high = loud[:300], high[:300]
    voice = np.stack([loud, np.ones(300), high], 1)
    moves = 0.1 * rng.standard_normal((300, 8))
    moves[:, 0] += loud
    moves[:, 7] += high
    found = statistics([HeadVideo(moves, np.ones(300), voice)]).correlations
    assert found[0, 0] > 0.85 and found[1, 2] > 0.85
    assert np.abs(found[[0, 0, 1, 1], [1, 2, 0, 1]]).max() < 0.4


@pytest.mark.slow
def test_the_command_measures_beside_real_video(cli: Cli, portrait: Path, tmp_path: Path) -> None:
    write_cache(tmp_path / "cache", talkingface.align(portrait).crop)  # a face is found
    out, faces = tmp_path / "out", tmp_path / "faces"
    faces.mkdir()
    (faces / "woman.jpg").symlink_to(portrait)
    line = ["head-motion", "--models", "cran-tiny", "--cache", tmp_path / "cache", "-o", out]
    spoken = ["--portraits", faces, "--sound", Path(__file__).parent / "fixtures" / "sentence.wav"]
    spoken += ["--seconds", "5"]
    ran = cli(*line, "--clips", "1", *spoken)
    assert ran.code == 0, ran.err
    numbers = json.loads((out / "heads.json").read_text())
    assert {name: list(rows) for name, rows in numbers.items()} == {
        "clips": ["real", "cran-tiny"],
        "portraits": ["cran-tiny"],
    }
    assert len(numbers["clips"]["cran-tiny"]["deviation"]) == 8
    assert "| cran-tiny |" in ran.out and (out / "heads.md").read_text() in ran.out + "\n"
    again = cli(*line)
    assert again.code == 2 and "--overwrite" in again.err
    alone = cli(*line, "--overwrite", "--portraits", faces)
    assert alone.code == 2 and "give both" in alone.err


def test_a_model_of_one_person_says_so(portrait: Path, speech: Path) -> None:
    """Nothing is noted for the person it has learned; for anybody else there is a note."""
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
