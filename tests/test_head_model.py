"""Head motion: the measured pose, the mixture, the stream and the fit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import Cli
from helpers.corpus import write_cache
from talkingface import audio, liveliness, models, weights
from talkingface.data.dataset import ClipInfo
from talkingface.faces import head_pose
from talkingface.faces.head_pose import apply_pose, clip_moves, estimate_pose
from talkingface.geometry import rotation
from talkingface.landmarks import EARS, reference_depth, reference_mesh
from talkingface.models.cran import Cran, CranConfig
from talkingface.models.head_motion import (
    POSE_DIM,
    UNIT,
    HeadConfig,
    HeadMotion,
    HeadNet,
    bands,
    head_noise,
    low_passes,
)
from talkingface.models.lips import TOKENS
from talkingface.training import head as training
from talkingface.training.cran import fit_head, hybrid_of

DEPTH = reference_depth() - reference_depth()[list(EARS)].mean()


@pytest.fixture(scope="module")
def net() -> HeadNet:
    loaded = weights.load("head")
    assert isinstance(loaded, HeadNet)
    return loaded


@pytest.fixture(scope="module")
def windows(speech_path: Path) -> Tensor:
    return audio.windows(audio.load(speech_path), TOKENS)[None]


@pytest.fixture(scope="module")
def speech_path() -> Path:
    return Path(__file__).parent / "fixtures" / "sentence.wav"


# --- pose -----------------------------------------------------------------------------------------


def _heads(count: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.uniform(-1, 1, (count, 6)) * [0.1, 0.12, 0.15, 0.1, 0.1, 0.05]


def test_signs_of_a_rotation_are_those_of_motion() -> None:
    """Less depth is nearer: the tip of a nose is a point before the joint."""
    nose = np.array([0.0, 0.0, -1.0])
    zero, some = np.zeros(1), np.full(1, 0.1)
    down = rotation(some, zero, zero)[0] @ nose
    right = rotation(zero, some, zero)[0] @ nose
    np.testing.assert_allclose(down[:2], [0, math.sin(0.1)], atol=1e-12)
    np.testing.assert_allclose(right[:2], [math.sin(0.1), 0], atol=1e-12)
    ear = rotation(zero, zero, some)[0] @ [1.0, 0.0, 0.0]  # clockwise: the right one goes down
    np.testing.assert_allclose(ear[:2], [math.cos(0.1), math.sin(0.1)], atol=1e-12)


def test_known_heads_are_recovered() -> None:
    heads = _heads(20)
    moved = apply_pose(reference_mesh(), DEPTH, heads)
    turn = 80 * np.array([[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]])
    seen, neutral = moved @ turn.T + [300, 200], reference_mesh() @ turn.T + [300, 200]
    found, brows = estimate_pose(seen, neutral)  # whatever the unit, and in the face's own axes
    np.testing.assert_allclose(found, heads, atol=1e-4)
    np.testing.assert_allclose(brows, 0, atol=1e-4)


def test_another_depth_costs_a_little() -> None:
    heads = _heads(20)
    flatter = 0.9 * DEPTH
    found, _ = estimate_pose(apply_pose(reference_mesh(), flatter, heads), reference_mesh())
    np.testing.assert_allclose(found[:, :3], heads[:, :3], atol=0.03)


def test_raised_brows_are_no_motion_of_the_head() -> None:
    heads = np.concatenate([_heads(3), np.zeros((1, 6))])
    face = reference_mesh().copy()
    face[head_pose.INNER_BROWS, 1] -= 0.05
    face[head_pose.OUTER_BROWS, 1] -= 0.02
    found, brows = estimate_pose(apply_pose(face, DEPTH, heads), reference_mesh())
    np.testing.assert_allclose(found, heads, atol=1e-4)
    np.testing.assert_allclose(brows, np.tile([0.05, 0.02], (4, 1)), atol=2e-3)


def test_an_opening_mouth_is_no_motion_of_the_head() -> None:
    rng = np.random.default_rng(0)
    heads = np.cumsum(rng.normal(0, 0.004, (60, 6)), 0)
    meshes = apply_pose(reference_mesh(), DEPTH, heads)
    meshes[:, 14, 1] += 0.1 + 0.1 * np.sin(np.arange(60))  # the lower lip
    tilted = meshes + 0.02 * np.sin(np.arange(60))[:, None, None] * reference_mesh()[None]
    found = clip_moves(tilted, smooth=False)
    scale = found[:, 5] - (heads[:, 5] - np.median(heads[:, 5]))
    assert scale.std() < 0.3 * 0.02 / 2**0.5  # the size that went with the mouth is gone
    smooth = clip_moves(meshes)
    assert smooth.shape == (60, POSE_DIM)
    assert np.abs(np.diff(smooth, 2, axis=0)).mean() < np.abs(np.diff(found, 2, axis=0)).mean()


def test_meshes_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"meshes are \(T, 478, 2\), got \(4, 68, 2\)"):
        estimate_pose(np.zeros((4, 68, 2)))


# --- the mixture ----------------------------------------------------------------------------------


def _motion(hidden: int, mixtures: int) -> HeadMotion:
    torch.manual_seed(7)
    motion = HeadMotion(hidden, mixtures).requires_grad_(False)
    moves = torch.randn(3, 50, POSE_DIM).cumsum(1) @ torch.randn(POSE_DIM, POSE_DIM)
    motion.set_statistics(list(moves), [1.0, 1.0, 1.0])
    return motion


def test_positions_change_without_correlation() -> None:
    motion = _motion(4, 3)
    moves = (torch.randn(1, 4000, POSE_DIM) @ motion.step.T).cumsum(1)[0]
    motion.set_statistics([moves], [1.0])
    positions = motion.position(moves)
    torch.testing.assert_close(
        positions.diff(dim=0).T.cov(), torch.eye(POSE_DIM), atol=0.02, rtol=0
    )
    torch.testing.assert_close(motion.move(positions) + motion.rest, moves, atol=0.01, rtol=1e-4)


def test_loss_is_the_log_likelihood_of_the_mixture() -> None:
    motion = _motion(4, 3)
    hybrid, last, after = (
        torch.randn(2, 5, 4),
        torch.randn(2, 5, 2, POSE_DIM),
        torch.randn(2, 5, POSE_DIM),
    )
    ours = float(motion.loss(hybrid, last, after))
    logits, mean, log_std = (part.double().numpy() for part in motion.mixture(hybrid, last))
    change = (after - last[..., 0, :]).double().numpy()
    total = 0.0
    for b, t in np.ndindex(2, 5):
        shares = np.exp(logits[b, t]) / np.exp(logits[b, t]).sum()
        std = np.exp(log_std[b, t])
        normal = np.exp(-0.5 * ((change[b, t] - mean[b, t]) / std) ** 2)
        total -= math.log(shares @ (normal / (std * math.sqrt(2 * math.pi))).prod(-1))
    assert ours == pytest.approx(total / 10 / POSE_DIM, rel=1e-5)


def test_the_density_integrates_to_one() -> None:
    """Compare with importance sampling over all eight numbers."""
    motion = _motion(4, 2)
    torch.manual_seed(1)
    hybrid, last = torch.randn(4), torch.randn(2, POSE_DIM)
    wide = 2.5
    points = wide * torch.randn(200_000, POSE_DIM)
    flat = -0.5 * (points / wide).square().sum(-1) - POSE_DIM * math.log(
        wide * math.sqrt(2 * math.pi)
    )
    logits, mean, log_std = motion.mixture(hybrid, last)
    each = 0.5 * ((points[:, None] - mean) * torch.exp(-log_std)).square() + log_std
    each = each.sum(-1) + 0.5 * POSE_DIM * math.log(2 * math.pi)
    density = torch.logsumexp(torch.log_softmax(logits, -1) - each, -1)
    assert float((density - flat).exp().mean()) == pytest.approx(1, abs=0.05)
    one = points[:1] + last[0]
    assert float(motion.loss(hybrid, last, one[0])) == pytest.approx(-float(density[0]) / POSE_DIM)


def test_what_is_drawn_stays_within_reach() -> None:
    motion = _motion(4, 5)
    bias = motion.inner[-1].bias
    assert isinstance(bias, Tensor)
    bias[5:] = 2.0  # every Gaussian pushes the same way
    last = torch.zeros(1, 2, POSE_DIM)
    for frame in range(200):
        position = motion.next(torch.zeros(1, 4), last, head_noise(0, frame)[None])
        last = torch.stack([position, last[:, 0]], 1)
    assert (last.abs() <= 3.5 * motion.spread + 1e-5).all()


# --- the stream -----------------------------------------------------------------------------------


def test_a_stream_in_any_chunking_gives_the_same_bits(net: HeadNet, windows: Tensor) -> None:
    whole, _ = net(windows, seed=4)
    for size in (1, 7, 30):
        state, parts = None, []
        for part in windows.split(size, 1):
            moves, state = net(part, state, seed=4)
            parts.append(moves)
        assert torch.equal(torch.cat(parts, 1), whole)
    empty, _ = net(windows[:, :0])
    assert empty.shape == (1, 0, POSE_DIM)


def test_seeds_are_performances(net: HeadNet, windows: Tensor) -> None:
    first, again, other = (net(windows, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert float((first - other).abs().max()) > 0.005
    several, _ = net(windows.expand(2, -1, -1, -1), net.begin([1, 2]))
    torch.testing.assert_close(several, torch.cat([first, other]), atol=1e-5, rtol=1e-4)
    assert torch.equal(head_noise(-3, 700), head_noise(-3, 700))


def test_a_head_comes_to_rest_and_never_leaves(net: HeadNet, windows: Tensor) -> None:
    silence = audio.windows(torch.zeros(16_000 * 4), TOKENS)[:50]
    spoken, _ = net(windows.repeat(1, 8, 1, 1), seed=3)
    quiet = silence.repeat(60, 1, 1)[None]  # 3,000 frames
    resting, _ = net(quiet, seed=3)
    assert torch.isfinite(resting).all()
    limit = net.output.limit * 0.01
    assert (spoken.abs() < limit).all() and (resting.abs() < limit).all()
    loud, still = spoken[0, 100:].std(0), resting[0, 250:].std(0)
    assert float((still / loud)[:3].mean()) < 0.55
    assert (resting[0, 250:].mean(0).abs() < 0.3 * loud).all()


def test_heads_are_those_of_a_quiet_speaker(net: HeadNet, windows: Tensor) -> None:
    moves, _ = net(windows.repeat(8, 8, 1, 1), net.begin(range(8)))
    degrees = np.degrees(moves[:, 100:, :3].flatten(0, 1).std(0).numpy())
    low, high = [0.8, 1.0, 0.5], [2.0, 2.4, 1.4]
    assert (degrees > low).all() and (degrees < high).all(), degrees
    power = np.abs(np.fft.rfft(moves[:, 100:, :3].numpy(), axis=1)) ** 2
    hertz = np.fft.rfftfreq(moves.shape[1] - 100, 0.04)
    share = power[:, hertz > 3].sum((0, 1)) / power[:, hertz > 0].sum((0, 1))
    assert (share < 0.05).all()  # of real heads: 2 to 9 per cent


def test_a_frame_hears_no_sound_after_its_window(net: HeadNet, windows: Tensor) -> None:
    changed = windows.clone()
    changed[:, 40:] += 1
    first, second = net(windows, seed=2)[0], net(changed, seed=2)[0]
    assert torch.equal(first[:, :40], second[:, :40])
    assert not torch.equal(first, second)


def test_prosody_is_read_off_tokens(net: HeadNet, windows: Tensor, speech_path: Path) -> None:
    sound = audio.load(speech_path)
    labels = training.prosody_labels(sound.numpy(), windows.shape[1])
    raw = net.prosody(net.prosody.components(windows[0])).numpy()
    voiced = labels[:, 1] > 0
    assert np.corrcoef(raw[:, 0], labels[:, 0])[0, 1] > 0.85
    assert np.corrcoef(raw[:, 1], labels[:, 1])[0, 1] > 0.6
    assert np.corrcoef(raw[voiced, 2], labels[voiced, 2])[0, 1] > 0.6


def test_stress_nods_and_raises_the_brows(net: HeadNet) -> None:
    """One loud and high syllable: the head goes down and the brows up within 0.4 s, and back."""
    prosody, passes, moves = torch.zeros(1, 4), torch.zeros(1, 2, 5), []
    prosody[:, 0] = 0.5
    for _ in range(200):
        passes = low_passes(prosody, passes)
    for frame in range(100):
        stressed = prosody + torch.tensor([[0.4, 0, 0.3, 0]]) * (frame < 6)
        passes = low_passes(stressed, passes)
        moves.append(bands(passes)[0] @ net.output.kernel)
    nod, brow = torch.stack(moves)[:, 0], torch.stack(moves)[:, POSE_DIM - 2]
    assert float(nod.max()) > 0 and int(nod.argmax()) <= 10
    assert float(brow.max()) > 0 and int(brow.argmax()) <= 12
    assert abs(float(nod[-1])) < 0.2 * float(nod.max())


# --- the fit --------------------------------------------------------------------------------------


@pytest.mark.parametrize("hertz", [90.0, 147.0, 260.0])
def test_labels_of_a_hum(hertz: float) -> None:
    time = np.arange(16_000) / 16_000
    harmonics = np.array([[1], [2], [3]])
    hum = (np.sin(2 * np.pi * hertz * harmonics * time) / harmonics).sum(0) * 0.1
    labels = training.prosody_labels(hum, 25)[2:-2]
    assert labels[:, 1].all()
    np.testing.assert_allclose(100 * 2 ** labels[:, 2], hertz, rtol=0.01)
    level = 20 * math.log10(0.1 * math.sqrt((1 + 1 / 4 + 1 / 9) / 2))
    np.testing.assert_allclose(10 * labels[:, 0], level, atol=0.5)
    noise = np.random.default_rng(0).standard_normal(16_000) * 0.1
    assert training.prosody_labels(noise, 25)[:, 1].mean() < 0.2
    assert not training.prosody_labels(np.zeros(16_000), 25)[:, 1].any()


def _clips(count: int) -> list[training.HeadClip]:
    rng = np.random.default_rng(1)
    found = []
    for number in range(count):
        sound = torch.from_numpy(rng.standard_normal(30 * 640)).float() * 0.1
        moves = torch.from_numpy(rng.standard_normal((30, POSE_DIM)).cumsum(0)).float() * 0.1
        found.append(
            training.HeadClip(
                0, sound, audio.windows(sound, TOKENS).half(), moves, 1.0 + number % 2
            )
        )
    return found


def test_a_fit_gives_the_same_weights_and_comes_back(tmp_path: Path) -> None:
    small = HeadConfig(rank=8, features=4, hidden=8, mixtures=2, width=16)
    options = training.HeadTraining(head=small, copies=2, steps=20, batch=4)
    clips = _clips(5)
    first, second = (training.fit_clips(clips, options) for _ in range(2))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    rows = [ClipInfo(f"c{n}", f"s{n}", "train", 0, 30) for n in range(5)]
    training.save(tmp_path / "head.safetensors", first, rows, options, {"nats": 1.0})
    back, info = weights.load_with_info(tmp_path / "head.safetensors")
    assert isinstance(back, HeadNet) and info.family == "head" and info.metrics["nats"] == 1.0
    torch.testing.assert_close(back.output.kernel, first.output.kernel, atol=1e-2, rtol=1e-2)
    more = training.fit_clips(clips, replace(options, steps=100, dropout=0.0, sizes=0.0))
    before = training.motion_loss(first, *_heard(first, clips))
    after = training.motion_loss(more, *_heard(more, clips))
    assert float(after) < float(before)


def test_the_head_of_cran_is_fitted_to_its_features_and_to_a_quiet_speaker() -> None:
    torch.manual_seed(3)
    config = CranConfig(scheme="natural", hidden=16, image_features=8, identity_dropout=0.0)
    model = models.build(config).eval().requires_grad_(False)
    assert isinstance(model, Cran)
    clips, pictures = _clips(6), torch.rand(6, 3, 128, 128) * 2 - 1
    options = training.HeadTraining(steps=150, batch=6, dropout=0.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit_head(model, clips, pictures, options)
    after = model.state_dict()
    changed = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"head_output"}
    assert not any(p.requires_grad for p in model.parameters())
    spoken, silent = training.spoken_windows(clips, options)
    faces = pictures[:1].expand(len(spoken), -1, -1, -1)
    moves = training.play(model.head_output, hybrid_of(model, faces, spoken), range(len(spoken)))
    deviation = moves[:, 100:].flatten(0, 1).std(0) * UNIT
    np.testing.assert_allclose(deviation, options.quiet, rtol=0.25)
    assert silent.shape[:2] == (1, spoken.shape[1])


def _heard(net: HeadNet, clips: list[training.HeadClip]) -> tuple[Tensor, Tensor]:
    windows = torch.stack([clip.windows for clip in clips])
    moves = torch.stack([clip.moves for clip in clips])
    return training.gru_input(net, windows), net.output.motion.position(moves)


def test_the_command_asks_for_heads_that_move(cli: Cli, tmp_path: Path) -> None:
    write_cache(tmp_path / "cache")
    ran = cli("train", "head", tmp_path / "cache", "-o", tmp_path / "head.safetensors")
    assert ran.code != 0 and "--natural-pose" in ran.err
    assert not (tmp_path / "head.safetensors").exists()


def test_random_numbers_of_parts_differ() -> None:
    draws = [liveliness.block_generator(1, part, 0).random() for part in ("blinks", "gaze", "head")]
    assert len(set(draws)) == 3
