"""Motion: under a user's controls, streamed, as a file and back, and played on a face."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import talkingface
from conftest import Cli
from talkingface import arkit, audio, motion_file, picture, weights
from talkingface.animation import Animator, loop
from talkingface.audio import FPS, WindowStream, windows
from talkingface.controls import Controls
from talkingface.errors import BadMotion, BadRequest, NoFaceFound, OutputError, UnreadableMedia
from talkingface.models.head_motion import HeadNet
from talkingface.models.lips import ExpressionNet
from talkingface.motion import Motion
from talkingface.pipeline import TalkingFace

PARTS = [part.name for part in fields(Motion)]


@pytest.fixture(scope="module")
def readout() -> ExpressionNet:
    net = weights.load("lips")
    assert isinstance(net, ExpressionNet)
    return net


@pytest.fixture(scope="module")
def sound(speech: Path) -> torch.Tensor:
    return audio.load(speech)


def head_net() -> HeadNet:
    net = weights.load("head")
    assert isinstance(net, HeadNet)
    return net


def animate(readout: ExpressionNet, sound: torch.Tensor, **controls: Any) -> Motion:
    animator = Animator(readout, head_net(), Controls(**controls))
    return animator(windows(sound, animator.spec))[0]


def gaps(readout: ExpressionNet, motion: Motion) -> np.ndarray:
    return np.asarray(readout.space.lip_gap(torch.from_numpy(motion.expression)))


def same(first: Motion, second: Motion) -> bool:
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in PARTS)


def some_motion(count: int = 40) -> Motion:
    rng = np.random.default_rng(5)
    sizes = {"expression": 16, "head": 6, "brows": 2, "lids": 2, "gaze": 2}
    return Motion(
        **{n: rng.normal(0, 0.1, (count, k)).astype(np.float32) for n, k in sizes.items()}
    )


# --- under control --------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.5, 0.8, 1.5])
def test_mouth_scales_the_gap_and_keeps_closed_lips(
    readout: ExpressionNet, sound: torch.Tensor, strength: float
) -> None:
    plain = gaps(readout, animate(readout, sound))
    scaled = gaps(readout, animate(readout, sound, mouth=strength))
    assert (plain < 1e-4).any() and (plain > 0.05).any()
    assert np.allclose(scaled, strength * plain.clip(min=0), atol=1e-5)


def test_smoothing_is_a_symmetric_mean_of_neighbours_80_ms_later(
    readout: ExpressionNet, sound: torch.Tensor
) -> None:
    plain = animate(readout, sound, still=True).expression
    smooth = animate(readout, sound, still=True, smooth=0.5).expression
    offsets = np.arange(-2, 3)
    kernel = np.exp(-0.5 * (offsets / (1.2 * 0.5)) ** 2)
    kernel /= kernel.sum()
    naive = np.stack([np.convolve(column, kernel, "valid") for column in plain.T], 1)
    assert np.allclose(smooth[2:-2], naive, atol=1e-3)
    head = head_net()
    specs = [Animator(readout, head, Controls(smooth=value)).spec for value in (0.0, 0.5)]
    assert specs[1].latency - specs[0].latency == pytest.approx(2 / FPS)


@pytest.mark.parametrize(
    "controls", [{}, {"smooth": 0.7, "mouth": 1.3}, {"expressions": {"smile": 0.5}}]
)
def test_any_chunking_gives_the_same_bits(
    readout: ExpressionNet, sound: torch.Tensor, controls: dict[str, Any]
) -> None:
    animator = Animator(readout, head_net(), Controls(seed=4, **controls))
    whole, _ = animator(windows(sound, animator.spec))
    stream, state, parts = WindowStream(animator.spec), None, []
    for chunk in (*sound.split(2357), None):
        speech = stream.finish() if chunk is None else stream.push(chunk)
        if len(speech):
            part, state = animator(speech, state)
            parts.append(part)
    assert same(Motion.join(parts), whole)


def test_a_seed_is_a_performance(readout: ExpressionNet, sound: torch.Tensor) -> None:
    first, again, other = (animate(readout, sound, seed=seed) for seed in (1, 1, 2))
    assert same(first, again)
    assert np.array_equal(first.expression, other.expression)
    assert not np.allclose(first.head, other.head, atol=1e-3)


def test_still_moves_the_mouth_alone(readout: ExpressionNet, sound: torch.Tensor) -> None:
    still, alive = animate(readout, sound, still=True), animate(readout, sound)
    assert np.array_equal(still.expression, alive.expression)
    for name in ("head", "brows", "lids", "gaze"):
        assert not getattr(still, name).any()
        assert getattr(alive, name).any() or name == "lids"


def test_head_is_a_factor_and_no_head_leaves_eyes_alive(
    readout: ExpressionNet, sound: torch.Tensor
) -> None:
    full, half, none = (animate(readout, sound, head=value) for value in (1.0, 0.5, 0.0))
    assert np.allclose(half.head, 0.5 * full.head, atol=1e-6)
    assert not none.head.any() and not none.brows.any()
    assert np.array_equal(none.gaze, full.gaze)


def test_a_face_leaves_its_picture_smoothly(readout: ExpressionNet, sound: torch.Tensor) -> None:
    """The first frame shows the picture's head, and no frame jumps."""
    for seed in range(5):
        head = animate(readout, sound, seed=seed).head
        assert np.abs(head[0]).max() < 0.01
        assert np.abs(np.diff(head[:, :3], axis=0)).max() < np.radians(1.5)


def test_an_expression_is_added_over_time_and_lips_stay_as_open(
    readout: ExpressionNet, sound: torch.Tensor
) -> None:
    plain = animate(readout, sound)
    keyframes = [(1.0, 0.0), (2.0, 0.8)]
    smiling = animate(readout, sound, expressions={"smile": keyframes, "brows-up": 0.5})
    assert np.allclose(gaps(readout, smiling), gaps(readout, plain), atol=1e-5)
    direction = arkit.named("smile")[0]
    for frame, strength in ((10, 0.0), (37, 0.384), (74, 0.8)):
        added = smiling.expression[frame] - plain.expression[frame]
        off = readout.opening.numpy()  # along which the lips are brought back
        rest = added - strength * direction - 0.5 * arkit.named("brows-up")[0]
        assert np.linalg.norm(rest - off * (rest @ off) / (off @ off)) < 1e-4
    raised = smiling.brows - plain.brows
    assert np.allclose(raised[5], 0.5 * arkit.named("brows-up")[1], atol=1e-5)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"mouth": 2.0}, "mouth is 2: give a number from 0.5 to 1.5"),
        ({"head": float("nan")}, "head is nan: give a number from 0 to 1.5"),
        ({"blinks": 100}, "blinks is 100: give a number from 0 to 40"),
        ({"seed": -1}, "seed is -1: give a whole number"),
        ({"expressions": {"grin": 1}}, "expression 'grin' is not known: give brows-up"),
        ({"expressions": {"smile": 9}}, "strength of smile is 9"),
        ({"expressions": {"smile": [(2, 1), (1, 0)]}}, "in order of time"),
    ],
)
def test_controls_out_of_range_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        Controls(**wrong).check()


def test_a_model_without_a_mesh_takes_no_controls(portrait: Path, speech: Path) -> None:
    model = talkingface.load("cran-tiny")
    with pytest.raises(BadRequest, match="moves no mesh"):
        model.generate(portrait, speech, controls=Controls(head=0.5))
    with pytest.raises(BadRequest, match="moves no mesh"):
        model.motion(speech)


# --- as a file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_a_file_gives_back_the_bits(tmp_path: Path, suffix: str) -> None:
    motion, path = some_motion(), tmp_path / f"motion{suffix}"
    motion_file.write(path, motion, [(0.0, 0.2, "PP"), (0.2, 1.6, "aa")])
    assert same(motion_file.read(path), motion)
    with pytest.raises(OutputError, match="exists"):
        motion_file.write(path, motion)


def test_json_says_what_it_holds(tmp_path: Path) -> None:
    motion, path = some_motion(), tmp_path / "motion.json"
    motion_file.write(path, motion, [(0.0, 0.2, "PP")])
    said = json.loads(path.read_text())
    assert said["fps"] == 25 and len(said["times"]) == len(motion)
    assert np.allclose(np.diff(said["times"]), 0.04)
    shapes = dict(zip(said["arkit"]["names"], np.array(said["arkit"]["values"]).T, strict=True))
    assert set(arkit.NAMES) < set(shapes)
    assert np.allclose(shapes["eyeBlinkLeft"], motion.lids[:, 1].clip(0, 1), atol=1e-4)
    assert np.allclose(shapes["headYaw"], motion.head[:, 1], atol=1e-4)
    assert said["visemes"] == [[0.0, 0.2, "PP"]]


def test_arkit_alone_is_a_motion(tmp_path: Path) -> None:
    scores = np.zeros((50, 2), np.float32)
    scores[10:20, 0], scores[:, 1] = 0.9, np.linspace(0, 0.2, 50)
    path = tmp_path / "curves.json"
    curves = {"names": ["eyeBlinkLeft", "headYaw"], "values": scores.tolist()}
    path.write_text(json.dumps({"arkit": curves}))
    motion = motion_file.read(path)
    assert np.allclose(motion.lids[:, 1], scores[:, 0]) and not motion.lids[:, 0].any()
    assert np.allclose(motion.head[:, 1], scores[:, 1])
    assert not motion.gaze.any() and not motion.brows.any()


def test_other_rates_are_interpolated(tmp_path: Path) -> None:
    """60 frames a second become 25: a line stays a line."""
    times = np.arange(121) / 60
    slope = np.linspace(0, 1, 121, dtype=np.float32)[:, None]
    path = tmp_path / "fast.json"
    path.write_text(json.dumps({"times": times.tolist(), "expression": slope.tolist()}))
    motion = motion_file.read(path)
    assert len(motion) == 51
    assert np.allclose(motion.expression[:, 0], np.arange(51) / FPS / 2, atol=1e-6)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "unreadable"),
        ("[1, 2]", "no object"),
        ("{}", "neither `expression` nor `arkit`"),
        ('{"expression": [[1, 2], [3]]}', "no table of numbers"),
        ('{"expression": [["a"]]}', "no table of numbers"),
        ('{"expression": []}', "expression is \\(0,\\)"),
        ('{"expression": [[1e999]]}', "numbers beyond"),
        ('{"expression": [[NaN]]}', "numbers beyond"),
        ('{"expression": [[1]], "head": [[1, 2]]}', "head is \\(1, 2\\)"),
        ('{"expression": [[1]], "lids": [[0, 0], [0, 0]]}', "parts of \\[1, 2\\] frames"),
        ('{"expression": [[1], [2]], "times": [1, 0]}', "growing seconds"),
        ('{"arkit": {"names": ["jawOpen"], "values": [[1, 2]]}}', "as many different names"),
        ('{"arkit": {"names": ["jaw"], "values": [[1]]}}', "none of its names"),
    ],
)
def test_files_that_hold_no_motion_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "motion.json"
    path.write_text(text)
    with pytest.raises(BadMotion, match=words) as error:
        motion_file.read(path)
    assert str(path) in str(error.value)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "motion.npz"
    motion_file.write(path, some_motion())
    data = path.read_bytes()
    middle = len(data) // 2
    for broken in (data[:middle], b"", data[:middle] + bytes(400) + data[middle + 400 :]):
        path.write_bytes(broken)
        with pytest.raises(BadMotion):
            motion_file.read(path)
    np.savez(path, expression=np.array([object()]))
    with pytest.raises(BadMotion):
        motion_file.read(path)
    with pytest.raises(BadMotion):
        motion_file.read(tmp_path / "missing.npz")


# --- played ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def face(portrait: Path) -> np.ndarray:
    return picture.read(portrait)


def frames(video: talkingface.Video) -> np.ndarray:
    return np.stack(list(video))


def test_a_motion_read_back_gives_the_same_video_to_the_bit(
    face: np.ndarray, sound: torch.Tensor, tmp_path: Path
) -> None:
    model, path = talkingface.load("cran"), tmp_path / "motion.json"
    short = sound[4000 : 4000 + 20 * 640]
    controls = Controls(seed=3, mouth=1.2)
    motion_file.write(path, model.motion(short, controls))
    spoken = frames(model.generate(face, short, controls=controls))
    assert np.array_equal(spoken, frames(model.generate(face, path)))
    assert np.array_equal(spoken, frames(model.generate(face, short, motion=path)))
    assert not np.array_equal(spoken, frames(model.generate(face, short)))


def test_a_small_face_too_where_its_sound_is_given(
    small: bytes, sound: torch.Tensor, tmp_path: Path
) -> None:
    """There the model's own pictures count, which depend on the sound."""
    (tmp_path / "small.png").write_bytes(small)
    model, short = talkingface.load("cran"), sound[4000 : 4000 + 12 * 640]
    motion = model.motion(short)
    spoken = frames(model.generate(tmp_path / "small.png", short))
    played = frames(model.generate(tmp_path / "small.png", short, motion=motion))
    assert np.array_equal(spoken, played)


def test_a_short_motion_is_held(face: np.ndarray, sound: torch.Tensor) -> None:
    model, motion = talkingface.load("atvg"), some_motion(5)
    motion = replace(motion, expression=0 * motion.expression)
    made = frames(model.generate(face, sound[: 8 * 640], motion=motion))
    assert len(made) == 8 and np.array_equal(made[4], made[7])


def test_a_contact_sheet_shows_the_motion_with_and_without_sound(
    face: np.ndarray, sound: torch.Tensor
) -> None:
    """The head moves in it as in the video, and a motion without sound has one too."""
    model, short = talkingface.load("cran"), sound[: 4 * 640]
    still = Motion.still(np.zeros((4, 16), np.float32))
    turned = replace(still, head=np.full((4, 6), 0.05, np.float32))
    for given in ((short, still), (short, turned)), ((still, None), (turned, None)):
        first, second = (
            model.generate(face, source, motion=motion).contact_sheet(every=1, columns=4)
            for source, motion in given
        )
        assert first.shape == second.shape and (first != second).mean() > 0.2


def test_two_motions_or_one_of_another_space_are_refused(face: np.ndarray) -> None:
    model = talkingface.load("cran")
    with pytest.raises(BadRequest, match="two motions"):
        model.generate(face, some_motion(), motion=some_motion())
    other = Motion.still(np.zeros((3, 4), np.float32))
    with pytest.raises(BadRequest, match="4 coefficients"):
        model.generate(face, other)


def test_still_changes_nothing_above_the_mouth(face: np.ndarray, sound: torch.Tensor) -> None:
    model, short = talkingface.load("cran"), sound[4000 : 4000 + 10 * 640]
    still = frames(model.generate(face, short, controls=Controls(still=True)))
    eyes = model.generate(face, short)._face.mouth
    assert eyes is not None and not (still[:, : face.shape[0] // 2] != face[: len(face) // 2]).any()


def test_a_loop_joins_its_ends() -> None:
    rng = np.random.default_rng(0)
    walk = rng.normal(0, 0.01, (400, 30)).cumsum(0).astype(np.float32)
    motion = Motion(
        walk[:, :16], walk[:, :6], walk[:, :2], np.zeros((400, 2), np.float32), walk[:, :2]
    )
    motion.lids[[60, 61, 240]] = 1
    made = loop(motion, 200)
    assert len(made) == 200
    step = np.abs(np.diff(np.concatenate([made.expression, made.expression[:1]]), axis=0))
    usual = np.abs(np.diff(motion.expression, axis=0)).max()
    assert step[-1].max() < 2 * usual  # from the last frame to the first
    assert step.max() < 2.5 * usual
    assert np.array_equal(made.expression[60:], motion.expression[60:200])
    with pytest.raises(ValueError, match="needs 250"):
        loop(motion[:210], 200)


def test_idle_is_alive_and_its_lips_are_shut(face: np.ndarray) -> None:
    model = talkingface.load("cran")
    video = model.idle(face, 2.0, controls=Controls(seed=2, blinks=40))
    made = frames(video)
    assert len(made) == 50
    motion = video._source
    assert isinstance(motion, Motion)
    assert gaps(weights.load("lips"), motion).max() < 0.02  # type: ignore[arg-type]
    assert np.ptp(motion.head, axis=0).max() > 0.002
    with pytest.raises(BadRequest, match=r"idle for 0\.5 s"):
        model.idle(face, 0.5)


def test_idle_looks_at_the_picture_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, motion = talkingface.load("atvg-tiny"), Mock()
    monkeypatch.setattr(TalkingFace, "motion", motion)
    with pytest.raises(UnreadableMedia, match="no such file"):
        model.idle(tmp_path / "missing.jpg", 3600)
    with pytest.raises(NoFaceFound):
        model.idle(np.full((200, 200, 3), 128, np.uint8), 3600)
    with pytest.raises(BadRequest, match="crop_size"):
        model.idle(tmp_path / "missing.jpg", 3600, crop_size=3)
    motion.assert_not_called()


def test_a_stream_idles_as_if_silence_came(face: np.ndarray, sound: torch.Tensor) -> None:
    model, short = talkingface.load("cran"), sound[4000 : 4000 + 10 * 640]
    waiting, pushed = model.open(face), model.open(face)
    first = waiting.push(short) + waiting.idle(0.4) + waiting.push(short) + waiting.finish()
    silence = torch.cat([short, torch.zeros(10 * 640), short])
    assert np.array_equal(np.stack(first), np.stack(pushed.push(silence) + pushed.finish()))


# --- the command line -----------------------------------------------------------------------------


def test_commands_write_motion_and_idle(
    cli: Cli, speech: Path, portrait: Path, tmp_path: Path
) -> None:
    out = tmp_path / "motion.json"
    ran = cli("motion", speech, "-o", out, "--seed", 7, "--express", "smile=0.4")
    assert ran.code == 0 and "75 frames" in ran.out, ran.err
    assert len(motion_file.read(out)) == 75
    assert cli("motion", speech, "-o", out).code == 2  # it exists
    ran = cli("idle", portrait, "-o", tmp_path / "idle.mp4", "--seconds", 1, "--max-size", 256)
    assert ran.code == 0 and "25 frames" in ran.out, ran.err
    ran = cli("generate", portrait, out, "-o", tmp_path / "made.mp4", "--max-size", 256)
    assert ran.code == 0 and "75 frames" in ran.out, ran.err


def test_commands_say_what_is_wrong(cli: Cli, speech: Path, portrait: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.mp4"
    ran = cli("generate", portrait, speech, "-o", out, "--express", "smile=much")
    assert ran.code == 2 and "give NAME=STRENGTH" in ran.err
    ran = cli("generate", portrait, speech, "-o", out, "--express", "grin")
    assert ran.code == 2 and "'grin' is not known" in ran.err
    ran = cli("generate", portrait, speech, "-o", out, "--mouth", "3")
    assert ran.code == 2 and not out.exists()
