"""ATVGnet: its landmark space, AT-net and VG-net each under the contract, the published sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import talkingface
from conftest import Cli
from helpers.corpus import write_cache
from talkingface import audio, models
from talkingface.contract import LandmarkDriven, Portrait
from talkingface.data import landmark_space
from talkingface.data.dataset import Cache
from talkingface.errors import BadRequest, BadWeights
from talkingface.faces import mesh_from_landmarks
from talkingface.landmarks import IBUG
from talkingface.models.atvg import Atvg, AtvgConfig
from talkingface.models.atvg_published import LandmarkSpace, PublishedAtvg, PublishedAtvgConfig
from talkingface.models.blocks import ConvGru
from talkingface.models.mouth_region import MOUTH_POINTS

TINY: AtvgConfig = models.PRESETS["atvg-tiny"]
PAPER: PublishedAtvgConfig = models.PRESETS["atvg-paper"]
CONFIGS: dict[str, AtvgConfig | PublishedAtvgConfig] = {
    "mesh": TINY,
    "frame-wise": replace(TINY, vg=replace(TINY.vg, recurrence="frame")),
    "published": replace(
        PAPER,
        at=replace(PAPER.at, audio_features=16, hidden=16),
        vg=replace(PAPER.vg, width=1 / 64),
    ),
}


def build(name: str) -> Any:
    torch.manual_seed(5)
    model = models.build(CONFIGS[name]).eval()
    for module in model.modules():  # corrections and masks that do something
        if isinstance(module, nn.Conv2d) and module.out_channels <= 5:
            nn.init.normal_(module.weight, 0, 0.1)
    return model


def face(batch: int = 1) -> Portrait:
    generator = torch.Generator().manual_seed(1)
    points = torch.from_numpy(TINY.crop.template() / TINY.crop.size).float()
    noise = 0.01 * torch.randn(batch, 68, 2, generator=generator)
    coarse = torch.rand(batch, 3, 16, 16, generator=generator) * 2 - 1
    image = nn.functional.interpolate(coarse, (128, 128), mode="bilinear")
    landmarks = points + noise
    return Portrait(image, landmarks, mesh_from_landmarks(landmarks))


def moving(portrait: Portrait, frames: int) -> Tensor:
    """The portrait's landmarks with lips that wander: (B, T, 68, 2)."""
    generator = torch.Generator().manual_seed(2)
    out = portrait.landmarks[:, None].repeat(1, frames, 1, 1)
    out[:, :, list(MOUTH_POINTS)] += 0.02 * torch.randn(
        len(out), frames, len(MOUTH_POINTS), 2, generator=generator
    )
    return out


def speech(config: AtvgConfig | PublishedAtvgConfig, batch: int, frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(
        batch, frames, config.speech.hops, config.speech.coefficients, generator=generator
    )


# --- AT-net and VG-net, each under the contract (the whole: tests/test_models.py) ----------------


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_and_ranges(name: str) -> None:
    model, portrait = build(name), face(2)
    assert isinstance(build(name), LandmarkDriven)
    with torch.inference_mode():
        identity = model.encode(portrait)
        landmarks, _ = model.predict_landmarks(identity, speech(model.config, 2, 4))
        made, _ = model.draw(identity, moving(portrait, 4))
    assert landmarks.shape == (2, 4, 68, 2) and landmarks.isfinite().all()
    assert made.frames.shape == (2, 4, 3, 128, 128) and made.frames.abs().max() <= 1 + 1e-6
    assert made.mask is not None and made.mask.shape == (2, 4, 1, 128, 128)
    assert 0 <= made.mask.min() and made.mask.max() <= 1
    assert made.colour is not None and made.colour.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("chunks", [(1,) * 6, (2, 4), (5, 1)])
def test_each_half_streamed_equals_whole(name: str, chunks: tuple[int, ...]) -> None:
    model, portrait = build(name), face(2)
    windows, points = speech(model.config, 2, 6), moving(portrait, 6)
    with torch.inference_mode():
        identity = model.encode(portrait)
        spoken, _ = model.predict_landmarks(identity, windows)
        drawn, _ = model.draw(identity, points)
        states, parts = (None, None), []
        for sound, place in zip(windows.split(chunks, 1), points.split(chunks, 1), strict=True):
            landmarks, at = model.predict_landmarks(identity, sound, states[0])
            made, vg = model.draw(identity, place, states[1])
            states = (at, vg)
            parts.append((landmarks, made.frames))
    torch.testing.assert_close(torch.cat([p[0] for p in parts], 1), spoken, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.cat([p[1] for p in parts], 1), drawn.frames, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_sample_of_either_half_influences_another(name: str) -> None:
    model, portrait = build(name), face(3)
    windows, points = speech(model.config, 3, 3), moving(portrait, 3)
    assert portrait.mesh is not None
    middle = Portrait(portrait.image[1:2], portrait.landmarks[1:2], portrait.mesh[1:2])
    with torch.inference_mode():
        together, alone = model.encode(portrait), model.encode(middle)
        spoken, _ = model.predict_landmarks(together, windows)
        own, _ = model.predict_landmarks(alone, windows[1:2])
        drawn, _ = model.draw(together, points)
        mine, _ = model.draw(alone, points[1:2])
    torch.testing.assert_close(spoken[1:2], own, atol=1e-6, rtol=0)
    torch.testing.assert_close(drawn.frames[1:2], mine.frames, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_half_is_causal_and_forgets_where_it_says_so(name: str) -> None:
    """By gradient: frame 3 depends on itself and, where the network recurs, on those before."""
    model, portrait = build(name), face()
    windows = speech(model.config, 1, 5).requires_grad_()
    identity = model.encode(portrait)
    spoken, _ = model.predict_landmarks(identity, windows)
    (grad,) = torch.autograd.grad((spoken[0, 3] * torch.randn(68, 2)).sum(), windows)
    reach = grad[0].abs().amax((1, 2))
    assert reach[3] > 0 and reach[4] == 0
    if isinstance(model, PublishedAtvg):
        assert reach[:3].min() > 0
    else:  # a straight line of a frame's own window remembers nothing
        assert reach[:3].max() == 0
    points = moving(portrait, 5).requires_grad_()
    made, _ = model.draw(identity, points)
    lower = made.frames[0, 3, :, 64:]
    (grad,) = torch.autograd.grad((lower * torch.randn_like(lower)).sum(), points)
    reach = grad[0].abs().amax((1, 2))
    assert reach[3] > 0 and reach[4] == 0
    if model.config.vg.recurrence == "frame":
        assert reach[:3].max() == 0
    else:
        assert reach[:3].min() > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_frames_are_attention_times_colour_plus_the_rest_of_what_is_below(name: str) -> None:
    """Below is the identity; of a small VG-net, in its window, the identity as it was bent."""
    model, portrait = build(name), face()
    with torch.inference_mode():
        identity = model.encode(portrait)
        made, _ = model.draw(identity, moving(portrait, 3))
    below = portrait.image[:, None].repeat(1, 3, 1, 1, 1)
    if made.mesh is not None:
        assert identity.canvas is not None
        top, bottom, left, right = model.config.vg.mouth_region
        bent = identity.canvas(made.mesh)
        below[..., top:bottom, left:right] = bent[..., top:bottom, left:right]
        assert (below - portrait.image[:, None]).abs().max() > 0.1
    assert made.mask is not None and made.colour is not None
    expected = made.mask * made.colour + (1 - made.mask) * below
    free = made.colour.abs() < 1  # elsewhere the colour was clipped after it was blended
    assert free.float().mean() > 0.7
    torch.testing.assert_close(made.frames[free], expected[free], atol=1e-6, rtol=0)
    assert made.mask.std() > 1e-3


def test_what_the_window_does_not_hold_is_the_identity_itself() -> None:
    model, portrait = build("mesh"), face()
    with torch.inference_mode():
        made, _ = model.draw(model.encode(portrait), moving(portrait, 2))
    top, _, left, right = TINY.vg.mouth_region
    for part in (np.s_[..., :top, :], np.s_[..., :left], np.s_[..., right:]):
        assert torch.equal(made.frames[0, 1][part], portrait.image[0][part])


def test_given_landmarks_carry_the_mesh() -> None:
    """Those that are the identity's leave it as it is; others are where the mesh is drawn."""
    model, portrait = build("mesh"), face(2)
    still = portrait.landmarks[:, None].repeat(1, 3, 1, 1)
    points = moving(portrait, 3)
    with torch.inference_mode():
        identity = model.encode(portrait)
        same, _ = model.draw(identity, still)
        other, _ = model.draw(identity, points)
    assert portrait.mesh is not None and same.mesh is not None and other.mesh is not None
    torch.testing.assert_close(same.mesh, portrait.mesh[:, None].repeat(1, 3, 1, 1))
    torch.testing.assert_close(other.mesh[:, :, torch.from_numpy(IBUG)], points)
    assert other.landmarks is not None
    torch.testing.assert_close(other.landmarks, points)
    away = (portrait.landmarks[:, :, 1] < 0.5) & (portrait.landmarks[:, :, 1] > 0)  # brows, eyes
    torch.testing.assert_close(
        other.landmarks.transpose(1, 2)[away], still.transpose(1, 2)[away], atol=1e-6, rtol=0
    )


def test_a_vg_net_that_says_nothing_draws_the_bent_picture() -> None:
    """And one that says all it may changes no colour by more than its bound."""
    torch.manual_seed(5)
    model, portrait = Atvg(TINY).eval(), face()
    assert isinstance(model, Atvg)
    with torch.no_grad():
        identity = model.encode(portrait)
        made, _ = model.draw_region(identity, moved_mesh := mesh_of(portrait, 2))
        assert identity.canvas is not None
        bent = model.mouth_region.crop(identity.canvas(moved_mesh))
        assert torch.equal(made.frames, bent) and made.change is not None
        assert not made.change.any()
        assert model.vg.to_rgb.bias is not None
        model.vg.to_rgb.bias.copy_(torch.tensor([50.0, -50.0, 0.0, 50.0]))
        made, _ = model.draw_region(identity, moved_mesh)
    bound = TINY.vg.bound * model.mouth_region.ramp
    for channel, sign in enumerate((1, -1, 0)):
        expected = (bent[:, :, channel] + sign * bound).clamp(-1, 1)
        torch.testing.assert_close(made.frames[:, :, channel], expected, atol=1e-6, rtol=0)


def mesh_of(portrait: Portrait, frames: int) -> Tensor:
    """The meshes (B, T, 478, 2) of landmarks that wander."""
    return mesh_from_landmarks(moving(portrait, frames))


def test_networks_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="hear the same"):
        replace(TINY, speech=PAPER.speech)


def test_gain_scales_what_the_published_at_net_says() -> None:
    model, portrait = build("published"), face()
    assert isinstance(model, PublishedAtvg)
    windows = speech(model.config, 1, 3)
    with torch.inference_mode():
        before, _ = model.at(portrait.landmarks, windows)
        model.at.gain.fill_(1.5)
        after, _ = model.at(portrait.landmarks, windows)
        model.at.gain.fill_(0.0)
        still, _ = model.predict_landmarks(model.encode(portrait), windows)
    assert before.abs().max() > 0
    torch.testing.assert_close(after, 1.5 * before, atol=1e-5, rtol=0)
    assert torch.equal(still, portrait.landmarks[:, None].expand_as(still))


@pytest.mark.slow
def test_published_sizes() -> None:
    """Counts of the released code: AT-net 30.07 M (its full layers 25.69), VG-net 58.36 M (ConvGRU
    8.85, nine residual blocks and two transposed convolutions 43.96)."""
    with torch.device("meta"):
        model = PublishedAtvg(PAPER)

    def millions(module: nn.Module) -> float:
        return sum(p.numel() for p in module.parameters()) / 1e6

    full = [m for m in model.at.audio_encoder.modules() if isinstance(m, nn.Linear)]
    assert millions(model.at) == pytest.approx(30.07, abs=0.005)
    assert sum(map(millions, full)) == pytest.approx(25.69, abs=0.005)
    assert millions(model.vg) == pytest.approx(58.36, abs=0.01)
    assert millions(model.vg.mmrnn) == pytest.approx(8.85, abs=0.005)
    assert millions(model.vg.residual) == pytest.approx(43.96, abs=0.015)


def test_lean_preset_is_lean() -> None:
    """At most 3 M weights and 0.2 GMAC per frame with the identity cached."""
    from torch.utils.flop_counter import FlopCounterMode

    model = Atvg(models.PRESETS["atvg"]).eval()
    assert sum(p.numel() for p in model.parameters()) <= 3e6
    with torch.no_grad():
        identity = model.encode(face())
        with FlopCounterMode(display=False) as counter:
            model(identity, speech(model.config, 1, 4))
    assert counter.get_total_flops() / 2 / 4 <= 0.2e9


def test_a_convolutional_gru_is_a_gru_at_every_pixel() -> None:
    """Kernels that are zero but for their middle: torch's own GRU cell, pixel by pixel."""
    torch.manual_seed(7)
    layer, cell = ConvGru(3, 4, dilation=2), nn.GRUCell(3, 4)
    with torch.no_grad():
        for convolution, weight, bias in (
            (layer.from_input, cell.weight_ih, cell.bias_ih),
            (layer.from_state, cell.weight_hh, cell.bias_hh),
        ):
            convolution.weight.zero_()
            convolution.weight[:, :, 1, 1] = weight
            assert convolution.bias is not None
            convolution.bias.copy_(bias)
        x = torch.randn(2, 5, 3, 3, 2)
        out, last = layer(x)
        state = torch.zeros(2 * 3 * 2, 4)
        for t in range(5):
            state = cell(x[:, t].permute(0, 2, 3, 1).reshape(-1, 3), state)
            expected = state.reshape(2, 3, 2, 4).permute(0, 3, 1, 2)
            torch.testing.assert_close(out[:, t], expected)
    assert last is not None and torch.equal(last, out[:, -1])


# --- the landmark space --------------------------------------------------------------------------


def test_displacing_changes_the_coefficients_by_just_that() -> None:
    space = LandmarkSpace(5)
    torch.manual_seed(0)
    rows, _ = torch.linalg.qr(torch.randn(136, 5))
    space.load_state_dict(
        {"mean": torch.rand(136), "basis": rows.T.contiguous(), "scale": torch.rand(5) * 0.1 + 0.01}
    )
    points, change = torch.rand(2, 68, 2), torch.randn(2, 3, 5)
    moved = space.displace(points, change)
    difference = space.coefficients(moved) - space.coefficients(points)[:, None]
    torch.testing.assert_close(difference, change, atol=1e-4, rtol=0)
    expected = points.flatten(1)[:, None] + (change * space.scale) @ space.basis
    torch.testing.assert_close(moved.flatten(2), expected)


def test_the_space_is_the_pca_of_motion_within_clips(cache: Cache) -> None:
    """Against numpy's SVD of the same deviations."""
    clips = cache.split("train")
    basis, share = landmark_space.fit(cache, clips, 3, balance=1.0)
    tracks = [
        cache.landmarks[c.start : c.start + c.frames].reshape(c.frames, -1).astype(np.float64)
        for c in clips
        if not c.silent
    ]
    deviations = np.concatenate([t - t.mean(0) for t in tracks])
    _, values, rows = np.linalg.svd(deviations, full_matrices=False)
    assert np.allclose(basis["mean"], np.concatenate(tracks).mean(0), atol=1e-6)
    assert np.allclose(basis["scale"], values[:3] / np.sqrt(len(deviations)), atol=1e-6)
    assert share == pytest.approx((values[:3] ** 2).sum() / (values**2).sum(), abs=1e-6)
    strong = values[:3] > 1e-4 * values[0]  # directions without motion are anybody's
    overlap = np.abs((basis["basis"].double().numpy() * rows[:3]).sum(1))
    assert np.allclose(overlap[strong], 1, atol=1e-4) and strong[0]


def test_a_basis_survives_its_file_and_another_size_is_refused(
    cache: Cache, tmp_path: Path
) -> None:
    basis, _ = landmark_space.fit(cache, cache.split("train"), 4)
    path = tmp_path / "basis.safetensors"
    landmark_space.save(basis, path, "six clips")
    space = LandmarkSpace(4)
    landmark_space.install(landmark_space.load(path), space, str(path))
    assert all(torch.equal(space.get_buffer(name), value) for name, value in basis.items())
    with pytest.raises(BadWeights, match=r"basis\.safetensors: 4 components of 68 points, .* 6 of"):
        landmark_space.install(basis, LandmarkSpace(6), str(path))
    fewer = {**basis, "mean": basis["mean"][:58], "basis": basis["basis"][:, :58]}
    with pytest.raises(BadWeights, match="4 components of 29 points, the model has 4 of 68"):
        landmark_space.install(fewer, LandmarkSpace(4), str(path))
    with pytest.raises(BadRequest, match="29 components need more than the 0 frames"):
        landmark_space.fit(cache, [], 29)


@pytest.mark.slow
def test_the_command_computes_it_and_training_refuses_another_size(
    cli: Cli, tmp_path: Path
) -> None:
    folder = tmp_path / "shards"
    write_cache(folder)
    path = tmp_path / "basis.safetensors"
    made = cli("landmark-space", folder, "-o", path, "--components", 3)
    assert made.code == 0 and "3 components of 68 points" in made.out
    again = cli("landmark-space", folder, "-o", path)
    assert again.code == 2 and "basis.safetensors" in again.err
    paper = ("train", "atvg", folder, "--preset", "atvg-paper", "-o", tmp_path / "run", "--basis")
    refused = cli(*paper, path)
    assert refused.code == 2
    assert "basis.safetensors: 3 components of 68 points, the model has 6" in refused.err
    (tmp_path / "text.safetensors").write_text("no tensors")
    damaged = cli(*paper, tmp_path / "text.safetensors")
    assert damaged.code == 2 and "text.safetensors: is no landmark space" in damaged.err
    tiny = ("train", "atvg", folder, "--preset", "atvg-tiny", "--steps", "1,1")
    unused = cli(*tiny, "-o", tmp_path / "run", "--basis", path)
    assert unused.code == 2 and "atvg-paper" in unused.err and "--lips" in unused.err
    assert not (tmp_path / "run").exists()
    assert cli("landmark-space", folder, "-o", path, "--overwrite").code == 0
    trained = cli(*tiny, "-o", tmp_path / "run")
    assert trained.code == 0 and (tmp_path / "run" / "weights.safetensors").exists()


# --- the shipped weights -------------------------------------------------------------------------


@pytest.mark.slow
def test_shipped_lips_move_with_speech_and_rest_in_silence(portrait: Path, speech: Path) -> None:
    speaker = talkingface.load("atvg")
    assert isinstance(speaker.model, Atvg)
    aligned = talkingface.align(portrait)
    points, mesh = (
        torch.from_numpy(np.asarray(known, dtype=np.float32))[None]
        for known in (aligned.landmarks, aligned.mesh)
    )
    gaps = []
    for sound in (audio.load(speech), torch.zeros(48_000)):
        with torch.inference_mode():
            identity = speaker.model.encode(Portrait(torch.zeros(1, 3, 128, 128), points, mesh))
            windows = audio.windows(sound, speaker.model.config.speech)[None]
            moved, _ = speaker.model.predict_landmarks(identity, windows)
        gaps.append((moved[0, :, 66, 1] - moved[0, :, 62, 1]).std())
    assert gaps[0] * 128 > 1.0  # pixels
    assert gaps[1] < 0.15 * gaps[0]
