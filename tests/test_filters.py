"""Each measure against something known, and each reason for a drop by its own clip."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import Cli
from helpers import trees
from helpers.media import write_film
from talkingface import faces
from talkingface.data import extraction, filters
from talkingface.data.clip import Clip
from talkingface.data.filters import Filters, check, with_limits
from talkingface.data.sources import Recording
from talkingface.faces import Track
from talkingface.geometry import CropSpec


@pytest.fixture(scope="module")
def tracked() -> Track:
    """The face of s1 through all 75 frames."""
    return faces.track(trees.film(trees.ONE)[0], CropSpec())


# limits


def test_a_measure_beyond_its_limit_is_the_reason() -> None:
    good = {"found": 1.0, "yaw": -10.0, "pitch": 5.0, "roll": 0.0, "eyes": 48.0}
    good |= {"others": 0.0, "cut": 0.8, "speech": 0.5, "snr": 30.0, "offset": 9.0}
    assert check(Filters(), good) is None  # what is done about an offset is another question
    beyond = {"found": 0.5, "yaw": -41.0, "pitch": 31.0, "roll": -60.0, "eyes": 15.0}
    beyond |= {"others": 0.4, "cut": 20.0, "speech": 0.1, "snr": 5.0}
    for limit in filters.LIMITS[:-1]:
        drop = check(Filters(), {**good, limit.name: beyond[limit.name]})
        assert drop is not None and (drop.reason, drop.measure) == (limit.reason, limit.name)
        assert (drop.value, drop.limit) == (beyond[limit.name], getattr(Filters(), limit.name))
        off = with_limits(Filters(), [f"{limit.name}=off"])
        assert check(off, {**good, limit.name: beyond[limit.name]}) is None
    assert check(Filters(), {"snr": float("nan")}) is None and check(Filters(), {}) is None


def test_limits_are_moved_by_name() -> None:
    moved = with_limits(Filters(), ["yaw=25", "snr=off", "action=drop", "confidence=0.3"])
    assert (moved.yaw, moved.snr, moved.action, moved.confidence) == (25.0, None, "drop", 0.3)
    assert with_limits(Filters(), []) == Filters()


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("yam=3", "no measure is called 'yam'; known: found, yaw"),
        ("yaw", "give a number, or off"),
        ("yaw=wide", "give a number, or off"),
        ("yaw=-3", "a number from 0 up"),
        ("snr=nan", "a number from 0 up"),
        ("confidence=off", "give a number, or off"),
        ("action=delete", "action is correct, drop, keep"),
        ("sync=sink", "no model is called 'sink'"),
        ("sync=identity", "is no embedding of lips and sound"),
    ],
)
def test_a_wrong_limit_is_explained(cli: Cli, tmp_path: Path, item: str, message: str) -> None:
    (tmp_path / "a.mp4").touch()
    ran = cli("prepare", "videos", tmp_path, "-o", tmp_path / "out", "--filter", item)
    assert ran.code == 2 and message in ran.err and not (tmp_path / "out").exists()


def test_help_and_page_tell_the_defaults_that_hold(cli: Cli) -> None:
    shown = cli("prepare", "--help").out
    page = (Path(__file__).parents[1] / "docs" / "corpora.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for limit in filters.LIMITS:
        default = f"{getattr(Filters(), limit.name):g}"
        assert f"{limit.name}={default}" in shown, limit.name
        (row,) = [row for row in rows if f"`{limit.name}`" in row.split("|")[1]]
        assert default in row.split("|")[2] and limit.reason in row, limit.name
    assert f"confidence={Filters().confidence:g}" in shown
    assert set(filters.REASONS) - {limit.reason for limit in filters.LIMITS} == {
        *(filters.UNREADABLE, filters.CRASHED, filters.NO_SOUND, filters.SHORT),
    }


# sound


def test_speech_is_found_where_the_words_are() -> None:
    """The recording's own forced alignment is the oracle; the end of a word fades into silence."""
    sound = trees.film(trees.ONE)[1]
    spoken = filters.speech_activity(sound)
    time = (np.arange(len(spoken)) + 0.5) / 100
    truth = np.zeros(len(time), bool)
    for _, start, end in trees.WORDS:
        truth |= (time >= start) & (time < end)
    assert (spoken & ~truth).sum() / (~truth).sum() < 0.1
    assert (~spoken & truth).sum() / truth.sum() < 0.15
    rng = np.random.default_rng(0)
    level = np.sqrt(np.square(sound).mean() / 100)  # 20 dB below
    noisy = filters.speech_activity((sound + level * rng.standard_normal(len(sound))).astype("f4"))
    assert (noisy & ~truth).sum() / (~truth).sum() < 0.1
    assert (~noisy & truth).sum() / truth.sum() < 0.3
    assert filters.speech_activity(np.zeros(100, np.float32)).shape == (0,)


def test_a_tone_is_active_while_it_sounds() -> None:
    time = np.arange(32_000) / 16_000
    tone = np.sin(2 * np.pi * 300 * time) * ((time > 0.5) & (time < 0.9))
    hiss = 1e-3 * np.random.default_rng(0).standard_normal(len(time))
    found = np.flatnonzero(filters.speech_activity((tone + hiss).astype(np.float32))) / 100
    assert found.min() == pytest.approx(0.5, abs=0.06) and found.max() == pytest.approx(
        0.9, abs=0.06
    )


# pictures


def test_a_cut_is_a_picture_unlike_the_one_before() -> None:
    one, two = trees.part(trees.ONE)[0], trees.part(trees.TWO)[0]
    assert filters.cut_jump(one) < 1.25 and filters.cut_jump(two) < 1.25
    assert filters.cut_jump([*one[:15], *two[15:]]) > 10
    assert filters.cut_jump(one[:2]) == 0


def test_a_moving_camera_a_gesture_and_a_flash_are_no_cut() -> None:
    frames = trees.part(trees.ONE)[0]
    shaken = [
        np.roll(f, (round(6 * np.sin(k)), round(9 * np.cos(1.7 * k))), (0, 1))
        for k, f in enumerate(frames)
    ]
    limit = Filters().cut
    assert limit is not None and filters.cut_jump(shaken) < limit
    waved = [f.copy() for f in frames]
    for k in range(10, 14):  # a hand through the lower third, four frames long
        waved[k][150:, 50 * (k - 10) : 50 * (k - 9) + 40] = 200
    assert filters.cut_jump(waved) < limit
    flashed = [
        np.clip(f * 1.6, 0, 255).astype(np.uint8) if k == 12 else f for k, f in enumerate(frames)
    ]
    assert filters.cut_jump(flashed) < limit


def test_the_eye_distance_is_the_source_s(tracked: Track) -> None:
    frames = trees.film(trees.ONE)[0][20:30]
    whole = filters.eye_distance(tracked)
    assert whole == pytest.approx(47.3, abs=1)  # as measured in the corpus's own picture
    half = [
        np.asarray(cv2.resize(f, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)
        for f in frames
    ]
    assert filters.eye_distance(faces.track(half, CropSpec())) == pytest.approx(whole / 2, rel=0.03)


def test_a_second_face_counts_by_its_area() -> None:
    frames, others = trees.part(trees.ONE)[0][:3], trees.part(trees.TWO)[0][:3]
    assert filters.other_faces(frames, 47.0) == 0
    pair = [np.concatenate(sides, axis=1) for sides in zip(frames, others, strict=True)]
    assert filters.other_faces(pair, 47.0) > 0.5
    small = [cv2.resize(f, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA) for f in others]
    behind = []
    for frame, face in zip(frames, small, strict=True):
        wide = np.pad(frame, ((0, 0), (0, 100), (0, 0)))
        wide[10 : 10 + len(face), 229 : 229 + face.shape[1]] = face
        behind.append(wide)
    limit = Filters().others
    assert limit is not None and 0.05 < filters.other_faces(behind, 47.0) < limit


# picture against sound


@pytest.mark.parametrize("late", [-7, -3, 0, 4, 8])
def test_a_known_offset_is_found_again(tracked: Track, late: int) -> None:
    """Moved so, the picture is late by `late` frames: its sound comes that much earlier."""
    sound = np.roll(trees.film(trees.ONE)[1][: 75 * 640], -640 * late)
    found = filters.lip_offset(Filters(), tracked, sound)
    assert found.offset == pytest.approx(late, abs=1)
    assert filters.is_reliable(Filters(), found, 75)
    assert not filters.is_reliable(Filters(confidence=0.9), found, 75)


def test_shorter_clips_must_be_surer(tracked: Track) -> None:
    found = filters.lip_offset(Filters(), tracked, trees.film(trees.ONE)[1])
    limit = found.confidence  # of 75 frames this much is asked exactly
    assert filters.is_reliable(Filters(confidence=limit), found, 75)
    assert filters.is_reliable(Filters(confidence=limit), found, 250)
    assert not filters.is_reliable(Filters(confidence=limit), found, 40)


def test_late_sound_is_moved_back_with_its_words(
    tracked: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faces, "track", lambda *_: tracked)
    frames, sound = trees.film(trees.ONE)
    early = np.roll(sound, -640 * 6)  # the sound 240 ms early: the picture is late
    words = tuple((w, a - 0.24, b - 0.24) for w, a, b in trees.WORDS)
    recording = Recording("k", "s1", Path("k.mp4"), "train", words=words)
    limits = Filters(others=None)
    (made,) = extraction._segments(
        recording, iter(frames), early, extraction.ClipExtraction(filters=limits)
    )
    assert isinstance(made.clip, Clip) and made.outcome.moved == made.clip.info["moved"]
    assert made.outcome.moved == pytest.approx(6, abs=1)
    back = np.round(sound[: 75 * 640] * 32768).astype(int)
    shift = 640 * (made.outcome.moved - 6)
    inside = slice(640 * 8, 640 * 65)
    moved = np.roll(made.clip.sound, -shift)
    assert np.array_equal(moved[inside], back[inside])
    for (_, a, _), (_, b, _) in zip(made.clip.words, trees.WORDS, strict=True):
        assert a == pytest.approx(b + shift / 16_000)
    gone = extraction.ClipExtraction(filters=with_limits(limits, ["action=drop"]))
    (dropped,) = extraction._segments(recording, iter(frames), early, gone)
    assert dropped.clip is None and dropped.outcome.result == "out of sync"
    assert (dropped.outcome.measure, dropped.outcome.limit) == ("offset", 1.0)
    kept = extraction.ClipExtraction(filters=with_limits(limits, ["action=keep"]))
    (measured,) = extraction._segments(recording, iter(frames), early, kept)
    assert isinstance(measured.clip, Clip) and "moved" not in measured.clip.info
    assert measured.outcome.measures["offset"] == pytest.approx(6, abs=1)


# all the way


@pytest.mark.slow
def test_each_drop_is_listed_with_what_decided_it(cli: Cli, tmp_path: Path) -> None:
    one, sound = trees.part(trees.ONE)
    two, _ = trees.part(trees.TWO)
    tree = tmp_path / "tree"
    tree.mkdir()
    small = [cv2.resize(f, None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA) for f in one]
    small = [np.ascontiguousarray(f[:66, :66]) for f in small]
    quiet = 1e-3 * np.random.default_rng(0).standard_normal(len(sound)).astype(np.float32)
    quiet[8000:9000] += sound[8000:9000]
    write_film(tree / "cut.mp4", [*one[:14], *two[14:]], sound)
    write_film(tree / "pair.mp4", [np.concatenate(p, 1) for p in zip(one, two, strict=True)], sound)
    write_film(tree / "small.mp4", small, sound)
    write_film(tree / "quiet.mp4", one, quiet)
    write_film(tree / "good.mp4", one, sound)
    ran = cli("prepare", "videos", tree, "-o", tmp_path / "out", "--jobs", 1)
    assert ran.code == 0, ran.err
    lines = (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()
    rows = {row["key"]: row for row in map(json.loads, lines)}
    assert {key: (row["reason"], row["measure"]) for key, row in rows.items()} == {
        "cut": ("cut shot", "cut"),
        "pair": ("several faces", "others"),
        "quiet": ("no speech", "speech"),
        "small": ("small face", "eyes"),
    }
    for row in rows.values():
        bound = getattr(Filters(), row["measure"])
        assert row["limit"] == bound and row["value"] != bound
        assert row["source"] == str(tree / f"{row['key']}.mp4")
    again = cli("prepare", "videos", tree, "-o", tmp_path / "out", "--jobs", 1, "--filter", "yaw=1")
    assert again.code == 2 and "other recordings, splits or options" in again.err
