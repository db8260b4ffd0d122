"""Several people in one picture: who speaks when, the room of each face, and their sounds mixed."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import talkingface
from conftest import Cli
from helpers.media import write_sound
from talkingface import audio, picture, video
from talkingface.controls import Controls
from talkingface.conversation import Conversation, Member
from talkingface.errors import BadRequest, NoFaceFound, UnreadableMedia
from talkingface.group import separate
from talkingface.landmarks import aperture, eye_distance, reference_depth, reference_mesh
from talkingface.mixed_sound import MixedSound
from talkingface.pipeline import TalkingFace
from talkingface.render.head import HeadRenderer
from talkingface.streaming import Speech
from talkingface.turns import Turn, read_turns, spans, within


@pytest.fixture(scope="module")
def speaker() -> TalkingFace:
    return talkingface.load("cran")


@pytest.fixture(scope="module")
def pair(portrait: Path) -> np.ndarray:
    """256x512: a face, and the smaller mirror image of it at its right."""
    small = np.ascontiguousarray(picture.read(portrait)[::3, ::3])
    other = np.full_like(small, 127)
    part = np.ascontiguousarray(picture.read(portrait)[::4, ::-4])
    other[64:, 32:224] = part
    return np.concatenate([small, other], 1)


@pytest.fixture(scope="module")
def sound(speech: Path) -> np.ndarray:
    """0.8 s of the sentence: 20 frames."""
    return audio.load(speech)[8000 : 8000 + 20 * 640].numpy()


def gaps(made: Conversation, member: Member) -> np.ndarray:
    """Return the gap of a face's lips in each frame, in distances of the eyes: (T,)."""
    painter: Any = SimpleNamespace(needs_motion_alone=True)
    frames = made._frames_of(member, painter, Fraction(25), len(made))
    meshes = np.stack([frame.made.mesh[0, frame.t].numpy() for frame in frames])  # type: ignore[index]
    return np.asarray(aperture(meshes) / eye_distance(meshes))


def test_one_of_two_speaks_as_alone_and_the_other_rests(
    speaker: TalkingFace, pair: np.ndarray, sound: np.ndarray
) -> None:
    still, short = Controls(still=True), sound[-8 * 640 :]
    made = speaker.converse(pair, {2: short}, controls=still)
    talking, listening = (member.face.bounds for member in made._members)
    assert talking is not None and listening is not None and talking[2] > 200 > listening[0]
    own, other = (np.s_[y0:y1, x0:x1] for y0, y1, x0, x1 in (talking, listening))
    alone = speaker.generate(pair, short, face=2, controls=still)
    waiting = speaker.generate(pair, np.zeros_like(short), face=1, controls=still)
    for frame, spoken, silent in zip(made, alone, waiting, strict=True):
        assert np.array_equal(frame[own], spoken[own])
        assert np.array_equal(frame[other], silent[other])
    mouths = [gaps(made, member) for member in made._members]
    assert np.ptp(mouths[0]) > 0.05
    assert np.ptp(mouths[1]) < 0.02 and mouths[1].max() < 0.06


def test_turns_move_the_right_face_at_the_right_time(
    speaker: TalkingFace, pair: np.ndarray, sound: np.ndarray, tmp_path: Path
) -> None:
    """The names are those of the faces from left to right: the larger one is at the left."""
    whole = np.concatenate([sound, sound])
    rows = [
        {"start": 0.8, "end": 1.6, "speaker": "ben"},
        {"start": 0, "end": 0.8, "speaker": "anna"},
    ]
    (tmp_path / "turns.json").write_text(json.dumps(rows))
    made = speaker.converse(pair, whole, turns=tmp_path / "turns.json")
    swapped = speaker.converse(
        pair, whole, turns=[Turn(0, 0.8, "a"), Turn(0.8, 1.6, 1)], faces={"a": 2}
    )
    for group, order in ((made, (0, 1)), (swapped, (1, 0))):
        first, second = (gaps(group, group._members[k]) for k in (0, 1))
        assert [m.face.bounds[2] > 200 for m in group._members] == [k == 1 for k in order]  # type: ignore[index]
        for early, late in ((first, second), (second[::-1], first[::-1])):
            assert np.ptp(early[2:18]) > 0.05 and np.ptp(late[:10]) < 0.02


def test_faces_have_disjoint_rooms() -> None:
    """A box that touches no other lies in its own."""
    rng, kept = np.random.default_rng(0), 0
    for _ in range(50):
        corners = rng.uniform(0, 400, (4, 2))
        boxes = [np.stack([corner, corner + rng.uniform(20, 120, 2)]) for corner in corners]
        rooms = separate(boxes, (600, 520, 3))
        seen = np.zeros((600, 520), int)
        for y0, y1, x0, x1 in rooms:
            seen[y0:y1, x0:x1] += 1
        assert seen.max() == 1
        for own, (box, room) in enumerate(zip(boxes, rooms, strict=True)):
            others = boxes[:own] + boxes[own + 1 :]
            if all(is_apart(box, other) for other in others):
                y0, y1, x0, x1 = room
                assert (box[0] >= [x0 - 1, y0 - 1]).all() and (box[1] <= [x1 + 1, y1 + 1]).all()
                kept += 1
    assert kept > 20


def is_apart(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((np.maximum(a[0], b[0]) > np.minimum(a[1], b[1])).any())


def test_a_head_moves_nothing_outside_its_room() -> None:
    mesh = 60 * reference_mesh() + np.array([240.0, 220.0])
    noise = np.random.default_rng(0).integers(0, 255, (520, 480, 3), np.uint8)
    head, calm = np.array([0.1, 0.15, 0.1, 0.1, 0.1, 0.0], np.float32), np.zeros(2, np.float32)
    free = HeadRenderer(noise.shape, mesh, 60 * reference_depth()).draw(noise, head, calm)
    edge = int(mesh[:, 0].max()) + 20
    room = (0, 520, 0, edge)
    kept = HeadRenderer(noise.shape, mesh, 60 * reference_depth(), room).draw(noise, head, calm)
    assert (free[:, edge:] != noise[:, edge:]).any()
    assert np.array_equal(kept[:, edge:], noise[:, edge:])
    assert (kept[150:250, 200:280] != noise[150:250, 200:280]).any()


def test_sounds_are_added_and_turned_down_alike_where_they_would_clip() -> None:
    times = np.arange(24_000) / 48_000
    tone = np.asarray(0.4 * np.sin(2 * np.pi * 440 * times), np.float32)
    short = np.asarray(0.4 * np.sin(2 * np.pi * 300 * times[:12_000]), np.float32)
    parts = [Speech((tone, 48_000)), Speech((short, 48_000))]
    mixed = MixedSound(parts).own()
    got = np.concatenate(list(mixed.chunks), 1)
    assert (mixed.rate, mixed.channels, got.shape) == (48_000, 1, (1, 24_000))
    expected = tone + np.pad(short, (0, 12_000))
    assert np.abs(got[0] - expected).max() < 1e-5
    loud = [Speech((2 * tone, 48_000)), Speech((2 * tone, 48_000))]
    clipped = np.concatenate(list(MixedSound(loud).own().chunks), 1)[0]
    assert np.abs(clipped).max() == pytest.approx(0.98, abs=1e-3)
    assert np.corrcoef(clipped, tone)[0, 1] > 0.99999


def test_a_sound_is_silent_outside_its_turns() -> None:
    turned = [Turn(0.5, 1.0, "a"), Turn(0.9, 1.2, "a"), Turn(1.2, 1.5, "b")]
    assert spans(turned, "a") == [(0.5, 1.2)] and spans(turned, "c") == []
    for pieces in ([32_000], [5_000, 20_000, 7_000]):
        heard = torch.cat(list(within(torch.ones(32_000).split(pieces), spans(turned, "a"))))
        assert not heard[:8_000].any() and not heard[19_201:].any()
        assert (heard[8_160:19_040] == 1).all()


def test_rttm_and_json_say_the_same(tmp_path: Path) -> None:
    rttm, other = tmp_path / "a.rttm", tmp_path / "a.json"
    rttm.write_text(
        ";; comment\nSPKR-INFO a 1 <NA> <NA> <NA> unknown anna <NA> <NA>\n"
        "SPEAKER a 1 1.50 0.75 <NA> <NA> ben <NA> <NA>\n"
        "SPEAKER a 1 0.25 1.00 <NA> <NA> anna <NA>\n"
    )
    other.write_text(
        '[{"start": 0.25, "end": 1.25, "speaker": "anna"},'
        ' {"start": 1.5, "end": 2.25, "speaker": "ben"}]'
    )
    expected = [Turn(0.25, 1.25, "anna"), Turn(1.5, 2.25, "ben")]
    assert read_turns(rttm) == read_turns(other) == expected
    other.write_text('[{"start": 0, "end": 1, "face": 2}]')
    assert read_turns(other) == [Turn(0, 1, 2)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it has 0 turns"),
        ("{}", "it is a JSON dict, no list"),
        ("[1]", "turn 1 is no object"),
        ('[{"start": 2, "end": 1, "speaker": "a"}]', "turn 1 goes from 2 to 1 s"),
        ('[{"start": 0, "end": NaN, "speaker": "a"}]', "turn 1 goes from 0 to nan s"),
        ('[{"start": "0", "end": 1, "speaker": "a"}]', "turn 1: start and end are no numbers"),
        ('[{"start": 0, "end": 1}]', "turn 1 names no speaker"),
        ('[{"start": 0, "end": 1, "speaker": ""}]', "turn 1: a name has 1 to 200 characters"),
        ('[{"start": 0, "end": 1, "face": 0}]', "turn 1: a face is a number from 1"),
        ("[" * 100_000, "recursion"),
        ("SPEAKER a 1 0.5", "line 1 has 4 fields, RTTM has 10"),
        ("SPEAKER a 1 x 1 <NA> <NA> a <NA> <NA>", "could not convert"),
        ("hello there", "line 1 is no line of RTTM"),
    ],
)
def test_what_is_no_map_of_turns_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "turns"
    path.write_text(text)
    with pytest.raises(UnreadableMedia, match=says) as caught:
        read_turns(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sounds", "more", "error", "says"),
    [
        ({}, {}, BadRequest, "nobody speaks"),
        ({1: 0, 3: 0}, {}, NoFaceFound, "3"),
        ({1: 0, (20.0, 20.0, 220.0, 220.0): 0}, {}, BadRequest, "two speakers have one face"),
        ({1: 0}, {"face": 1}, BadRequest, "give each one's face with its sound"),
        ({1: 0}, {"show": "face"}, BadRequest, "shown in their whole picture"),
        (0, {}, BadRequest, "needs their turns"),
        (0, {"turns": [Turn(0, 1, k) for k in "abc"]}, NoFaceFound, "2 faces were found, 3 people"),
        (0, {"turns": [Turn(0, 1, "a")], "faces": {"b": 1}}, BadRequest, "'b' has no turn"),
    ],
)
def test_who_speaks_is_checked(
    speaker: TalkingFace,
    pair: np.ndarray,
    sounds: Any,
    more: Any,
    error: type[Exception],
    says: str,
) -> None:
    silence = np.zeros(6400, np.float32)
    given = {k: silence for k in sounds} if isinstance(sounds, dict) else silence
    with pytest.raises(error, match=says):
        speaker.converse(pair, given, **more)


def test_the_command_line_takes_speakers_and_turns(
    cli: Cli, pair: np.ndarray, sound: np.ndarray, tmp_path: Path
) -> None:
    group, out, speech = tmp_path / "two.png", tmp_path / "out.mp4", tmp_path / "a.wav"
    picture.write_png(group, pair)
    write_sound(speech, sound[:3200], 16_000, "pcm_s16le")
    common = ("--device", "cpu", "-o", out, "--max-size", "256")
    ran = cli("generate", group, "--speaker", f"1={speech}", "--speaker", f"2={speech}", *common)
    assert ran.code == 0, ran.err
    assert len(list(video.read_frames(out))) == len(Speech(speech))
    turns = tmp_path / "t.rttm"
    turns.write_text("SPEAKER x 1 0 1 <NA> <NA> anna <NA> <NA>\n")
    more = ("--turns", turns, "--speaker", "anna=2", "--overwrite", "--fps", "10")
    ran = cli("generate", group, speech, *more, *common)
    assert ran.code == 0 and "two.png" not in ran.out, ran.err
    for wrong, says in (
        ((group,), "nothing to speak"),
        ((group, speech, "--speaker", "1=a.wav"), "say who speaks when by --turns"),
        ((group, "--turns", turns), "give that recording, too"),
        ((group, "--speaker", "x=a.wav"), "--speaker 'x': give a number from 1"),
        ((group, "--speaker", "1=a.wav", "--speaker", "1=b.wav"), "once for each face"),
    ):
        ran = cli("generate", *wrong, *common)
        assert ran.code == 2 and says in ran.err and ran.err.count("\n") == 1, ran.err
