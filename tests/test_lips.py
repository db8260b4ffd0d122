"""Fitted lips: the read-out, its fit, and the models that contain it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import Cli
from helpers.corpus import write_cache
from helpers.media import write_sound
from talkingface import audio, models, weights
from talkingface.contract import Portrait, predicts_expressions
from talkingface.data import expression_space
from talkingface.data.dataset import Cache
from talkingface.errors import BadRequest
from talkingface.landmarks import IBUG, INNER_PAIRS, aperture, eye_distance, reference_mesh
from talkingface.models.atvg import Atvg
from talkingface.models.atvg_published import PublishedAtvg
from talkingface.models.cran import Cran, CranConfig
from talkingface.models.cran_published import PublishedCran
from talkingface.models.expression import ExpressionSpace, transform
from talkingface.models.lips import OPEN, SHUT, ExpressionNet, LipsConfig
from talkingface.training import lips
from talkingface.training.atvg import AtvgRecipe
from talkingface.training.lips import LipsTraining, closures, ridge
from talkingface.training.presets import ATVG, shortened

FIXTURES = Path(__file__).parent / "fixtures"
SMALL = LipsTraining(
    lips=LipsConfig(rank=8, hidden=4), copies=1, no_speech_seconds=5.0, steps=40, batch=64
)


@pytest.fixture(scope="module")
def space() -> ExpressionSpace:
    return expression_space.load(FIXTURES / "expression_space.safetensors").eval()


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first second of two voices, of different languages."""
    folder = tmp_path_factory.mktemp("voices")
    known = json.loads((FIXTURES / "voices" / "phones.json").read_text(encoding="utf-8"))
    files = {}
    for name in ("en-us-slt-1", "it-nicola-2"):
        sound = audio.load(FIXTURES / "voices" / f"{name}.opus")[:16_000]
        write_sound(folder / f"{name}.flac", sound[None].numpy(), 16_000, "flac")
        files[f"{name}.flac"] = known["files"][f"{name}.opus"]
    known["files"] = files
    (folder / "phones.json").write_text(json.dumps(known), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Two clips, one to validate and a portrait: the louder the noise, the wider the mouth."""
    folder = tmp_path_factory.mktemp("cache")
    write_cache(folder)
    rows = json.loads((folder / "clips.json").read_text())
    rows = [row for row in rows if row["key"] in ("s1_train0", "s1_train1", "s1_val0", "portrait")]
    (folder / "clips.json").write_text(json.dumps(rows))
    return Cache(folder)


@pytest.fixture(scope="module")
def fitted(cache: Cache, space: ExpressionSpace, voices: Path) -> ExpressionNet:
    return lips.fit(cache, cache.split("train"), space, voices, SMALL)


def untrained(space: ExpressionSpace, seed: int = 0) -> ExpressionNet:
    """A random read-out of the fitted space, whose gap a real direction opens."""
    torch.manual_seed(seed)
    config = LipsConfig(
        components=space.components,
        rank=8,
        hidden=4,
        points=len(space.points),
        identities=len(space.identity_scale),
    )
    net = ExpressionNet(config)
    net.space = space
    net.opening.copy_(opening_of(space))
    return net.eval().requires_grad_(False)


def opening_of(space: ExpressionSpace) -> Tensor:
    """The direction along the gap's own gradient that opens the lips by 1."""
    zero = torch.zeros(space.components, requires_grad=True)
    (slope,) = torch.autograd.grad(space.lip_gap(zero), zero)
    return slope / slope.square().sum()


def tokens(batch: int, frames: int, seed: int = 1) -> Tensor:
    return torch.randn(batch, frames, 9, 384, generator=torch.Generator().manual_seed(seed))


def set_closure(net: ExpressionNet, probability: float) -> None:
    """Make the closure predict this probability for every frame."""
    last = net.closure[-1]
    assert isinstance(last, torch.nn.Linear)
    last.weight.zero_()
    last.bias.fill_(float(np.log(probability / (1 - probability))))


# --- the closed form ------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [0.0, 0.3, 20.0])
def test_ridge_is_least_squares_with_rows_for_the_penalty(penalty: float) -> None:
    """Compare with numpy's least squares: rows times root weights, no penalty on the intercept."""
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((60, 5)) + 2, rng.standard_normal((60, 3)) - 1
    weight = rng.uniform(0.01, 1, 60)
    weight /= weight.sum()
    found = ridge(torch.tensor(x), torch.tensor(y), torch.tensor(weight), penalty)
    rows = np.sqrt(weight)[:, None] * np.c_[x, np.ones(60)]
    rows = np.r_[rows, np.sqrt(penalty) * np.eye(5, 6)]
    wanted = np.r_[np.sqrt(weight)[:, None] * y, np.zeros((5, 3))]
    expected = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    np.testing.assert_allclose(found[0].numpy(), expected[:5], atol=1e-9)
    np.testing.assert_allclose(found[1].numpy(), expected[5], atol=1e-9)


def test_a_weight_of_two_is_a_sample_twice() -> None:
    rng = np.random.default_rng(5)
    x, y = torch.from_numpy(rng.standard_normal((9, 2))), torch.from_numpy(rng.random((9, 1)))
    weight = torch.tensor([2.0] * 3 + [1.0] * 6).double() / 12
    twice = torch.cat([x[:3], x]), torch.cat([y[:3], y]), torch.full((12,), 1 / 12).double()
    for one, other in zip(ridge(x, y, weight, 0.1), ridge(*twice, 0.1), strict=True):
        torch.testing.assert_close(one, other)


def test_closures_against_a_table_made_by_hand() -> None:
    """Frames of 40 ms: p fills frame 1 and half of 2; f fills 4; 6 is a pause; 7 has little b."""
    phones = [
        ("a", 0.0, 0.04),
        ("p", 0.04, 0.1),
        ("a", 0.1, 0.16),
        ("f", 0.16, 0.2),
        ("a", 0.2, 0.24),
        ("", 0.24, 0.28),
        ("a", 0.28, 0.316),
        ("b", 0.316, 0.32),
        ("m", 0.32, 0.352),  # 80 % of frame 8, whose rest is a pause
    ]
    closed, weight = closures(phones, 10, frozenset("pbm"))
    assert closed.tolist() == [0, 1, 1, 0, 0, 0, 0, 0, 1, 0]
    # a nearly closed f counts less; pauses, what is neither and what no phone covers do not count
    torch.testing.assert_close(weight, torch.tensor([1, 1, 1, 1, 0.3, 1, 0, 0, 1, 0]))


# --- the read-out ---------------------------------------------------------------------------------


def test_the_gate_shuts_and_opens_the_gap_and_touches_nothing_else(
    space: ExpressionSpace,
) -> None:
    net, windows = untrained(space), tokens(2, 20)
    net.gain.fill_(1.7)
    shape = net.shape(net.features(windows.flatten(0, 1))).unflatten(0, (2, 20))
    gap = space.lip_gap(shape)
    assert gap.min() < -0.01 and gap.max() > 0.01
    open_ = net.gain * gap.clamp(min=0)
    found = {}
    for apart in (SHUT / 2, 0.3, OPEN + 0.1):
        set_closure(net, 1 - apart)
        made = net(windows)
        found[apart] = space.lip_gap(made)
        moved, along = made - shape, net.opening / net.opening.norm()
        across = moved - (moved @ along)[..., None] * along
        assert across.abs().max() < 1e-5
        # a whole direction of the expression is opening's; any other keeps its coefficient
        other = torch.linalg.qr(torch.stack([along, torch.ones_like(along)], 1))[0][:, 1]
        torch.testing.assert_close(made @ other, shape @ other, atol=1e-5, rtol=0)
    assert found[SHUT / 2].abs().max() < 1e-5
    torch.testing.assert_close(found[OPEN + 0.1], open_, atol=1e-5, rtol=0)
    part = (0.3 - SHUT) / (OPEN - SHUT)
    torch.testing.assert_close(found[0.3], part**2 * (3 - 2 * part) * open_, atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunks", [(1,) * 7, (3, 4), (6, 1)])
def test_any_chunking_gives_the_same_bits(space: ExpressionSpace, chunks: tuple[int, ...]) -> None:
    net, windows = untrained(space), tokens(2, 7)
    whole = net(windows)
    parts, state = [], None
    for part in windows.split(chunks, 1):
        made, state = net.predict_expression(part, state)
        parts.append(made)
    assert torch.equal(torch.cat(parts, 1), whole) and state is None


def test_no_sample_influences_another(space: ExpressionSpace) -> None:
    net, windows = untrained(space), tokens(3, 4)
    together = net(windows)
    changed = torch.cat([windows[:1] + 5, windows[1:2], windows[2:] * -3])
    assert torch.equal(net(changed)[1], together[1])
    assert not torch.equal(net(changed)[0], together[0])
    torch.testing.assert_close(net(windows[1:2])[0], together[1], atol=1e-5, rtol=1e-5)


def test_a_frame_depends_on_its_own_window_alone(space: ExpressionSpace) -> None:
    """Check by gradients, with the gate half open, so that the closure contributes too."""
    net, windows = untrained(space), tokens(1, 6).requires_grad_()
    made = net(windows)
    direction = torch.randn(space.components, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(made[0, 3] @ direction, windows)
    reach = gradient[0].abs().amax(-1)
    assert reach[3].min() > 0  # every token of the window
    assert reach[[0, 1, 2, 4, 5]].max() == 0


def test_a_face_that_already_shows_what_is_predicted_stays_where_it_is(
    space: ExpressionSpace,
) -> None:
    net = untrained(space)
    mesh = portrait_mesh(space, gap=0.15)
    portrait = Portrait(torch.zeros(1, 3, 128, 128), mesh[:, IBUG], mesh)
    mouth = net.prepare(portrait)
    net.shape.weight.zero_()
    net.shape.bias.copy_(mouth.own[0])
    set_closure(net, 0.01)
    net.gain.fill_(1.0)
    assert space.lip_gap(mouth.own) > 0.1  # the gate leaves it as it is
    meshes = net.meshes(mouth, net(tokens(1, 3)))
    assert meshes.shape == (1, 3, 478, 2)
    # the gap that was fitted is not quite the one that it was fitted to: 0.01 px of the crop
    assert (meshes - mesh[:, None]).abs().max() < 1e-4


def test_closed_lips_close_a_mouth_that_stands_open(space: ExpressionSpace) -> None:
    net = untrained(space)
    mesh = portrait_mesh(space, gap=0.25)

    def gaps(points: Tensor) -> Tensor:
        """Return the gaps of the nine pairs of inner lips, in the face's own axes, interocular."""
        aligned = transform(points, space.align(points))
        return aligned[..., INNER_PAIRS[:, 1], 1] - aligned[..., INNER_PAIRS[:, 0], 1]

    net.shape.weight.zero_()
    net.shape.bias.zero_()
    set_closure(net, 0.99)
    mouth = net.prepare(Portrait(torch.zeros(1, 3, 128, 128), mesh[:, IBUG], mesh))
    assert gaps(mesh).max() > 0.15
    assert gaps(net.meshes(mouth, net(tokens(1, 2)))[0]).abs().max() < 1e-3


def test_what_is_prepared_of_a_face(space: ExpressionSpace) -> None:
    """Return the mesh, the fitted expression, and the mesh without that expression."""
    net, mesh = untrained(space), portrait_mesh(space, gap=0.25)
    mouth = net.prepare(Portrait(torch.zeros(1, 3, 128, 128), mesh[:, IBUG], mesh))
    assert torch.equal(mouth.mesh, mesh)
    rest, own = space.fit(mesh)
    torch.testing.assert_close(mouth.own, own)
    torch.testing.assert_close(transform(mouth.neutral, space.align(mesh)), rest, atol=1e-5, rtol=0)
    unit = eye_distance(mesh)
    assert float(aperture(mouth.neutral) / unit) < 0.03 < float(aperture(mesh) / unit)


def portrait_mesh(space: ExpressionSpace, gap: float) -> Tensor:
    """Return the mean face in a crop (1, 478, 2), with an open mouth, turned and small."""
    wanted = gap - space.lip_gap(torch.zeros(space.components))
    mesh = space.mesh(opening_of(space) * wanted)[None]
    turn = torch.tensor([[0.97, -0.2], [0.2, 0.97]])
    return (mesh @ turn.T) * 0.4 + 0.5


def test_a_portrait_without_a_mesh_is_refused(space: ExpressionSpace) -> None:
    portrait = Portrait(torch.zeros(1, 3, 128, 128), torch.from_numpy(reference_mesh()[None, IBUG]))
    with pytest.raises(ValueError, match="needs its mesh"):
        untrained(space).prepare(portrait)


# --- fitting --------------------------------------------------------------------------------------


def gap_correlation(net: ExpressionNet, cache: Cache, space: ExpressionSpace) -> float:
    """Return the correlation of the shape's gap with the mouth's, over all training clips."""
    own, true = [], []
    for clip in cache.split("train"):
        if not clip.silent:
            sound = cache.samples(clip, 0, clip.frames * audio.SAMPLES_PER_FRAME)
            windows = audio.windows(sound, net.config.speech, clip.frames)
            own.append(space.lip_gap(net.shape(net.features(windows))).numpy())
            true.append(cache.aperture(clip))
    return float(np.corrcoef(np.concatenate(own), np.concatenate(true))[0, 1])


def test_it_learns_that_loud_noise_opens_the_mouth(
    cache: Cache, space: ExpressionSpace, fitted: ExpressionNet
) -> None:
    assert gap_correlation(fitted, cache, space) > 0.5
    assert space.lip_gap(fitted.opening) - space.lip_gap(
        torch.zeros(space.components)
    ) == pytest.approx(1, abs=1e-4)


def test_what_cannot_be_fitted_is_refused(
    cache: Cache, space: ExpressionSpace, voices: Path, tmp_path: Path
) -> None:
    portraits = [c for c in cache.clips if c.silent]
    with pytest.raises(BadRequest, match="no clip of speech"):
        lips.fit(cache, portraits, space, voices, SMALL)
    classes = {"closed": ["p"]}
    wrong: tuple[object, ...] = (
        *({"files": {}, "classes": classes}, {"files": {"a.wav": {}}, "classes": classes}),
        *({"files": {"a.wav": {"phones": []}}}, [], "no"),
    )
    for damaged in wrong:
        (tmp_path / "phones.json").write_text(json.dumps(damaged))
        with pytest.raises(BadRequest, match=r"expected phones\.json"):
            lips.fit(cache, cache.split("train"), space, tmp_path, SMALL)


# --- files, commands, and the models that contain it ----------------------------------------------


def test_weights_come_back(fitted: ExpressionNet, cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "lips.safetensors"
    lips.save(path, fitted, cache.split("train"), SMALL)
    loaded, info = weights.load_with_info(path)
    assert isinstance(loaded, ExpressionNet) and loaded.config == fitted.config
    for name, value in fitted.state_dict().items():
        stored = value.half().float() if value.is_floating_point() else value
        assert torch.equal(loaded.state_dict()[name], stored), name
    assert info.extra["seed"] == 0 and "synthetic voices" in info.training_data


def test_a_generator_is_trained_on_fitted_lips_and_keeps_them(
    fitted: ExpressionNet, cache: Cache, tmp_path: Path
) -> None:
    path = tmp_path / "mine.safetensors"
    lips.save(path, fitted, cache.split("train"), SMALL)
    stored = weights.load(path).state_dict()
    recipe = AtvgRecipe(shortened(ATVG["atvg-tiny"], (0, 1)), cache, lips=path)
    recipe.step(recipe.batch(0), 0)
    for model in (recipe.model, recipe.ema):
        assert model.config.lips == fitted.config
        for name, value in model.at.state_dict().items():
            assert torch.equal(value, stored[name]), name
    with pytest.raises(BadRequest, match="talkingface train lips"):
        AtvgRecipe(shortened(ATVG["atvg-tiny"], (0, 1)), cache, lips="still")


def test_models_predict_expressions_when_and_only_when_they_say_so() -> None:
    tiny = models.PRESETS["cran-tiny"]
    speaking = Cran(CranConfig(readout=LipsConfig(rank=8, hidden=4)))
    atvg = models.PRESETS["atvg-tiny"]
    windows = tokens(1, 3)
    cascade = Atvg(atvg)
    for model, net in ((speaking, speaking.readout), (cascade, cascade.at)):
        assert isinstance(model, Cran | Atvg) and isinstance(net, ExpressionNet)
        assert predicts_expressions(model) and model.space is net.space
        assert torch.equal(model.predict_expression(windows)[0], net(windows))
    with torch.device("meta"):
        others = [PublishedCran(tiny), PublishedAtvg(models.PRESETS["atvg-paper"])]
    assert not any(predicts_expressions(model) for model in others)
    with pytest.raises(ValueError, match="hear the same features"):
        CranConfig(speech=tiny.speech)


def test_the_command_fits_the_same_bytes_and_refuses_by_name(
    cli: Cli,
    cache: Cache,
    voices: Path,
    fitted: ExpressionNet,
    tmp_path: Path,
) -> None:
    shards, out = cache.folder, tmp_path / "lips.safetensors"
    space = FIXTURES / "expression_space.safetensors"
    command = ("train", "lips", shards, "--space", space, "-o", out)
    missing = cli(*command, "--voices", tmp_path)
    assert missing.code == 2 and f"{tmp_path}: no voices" in missing.err, missing.err
    assert "phones.json" in missing.err and not out.exists()
    silent = tmp_path / "silent"
    shutil.copytree(shards, silent)
    rows = [{**row, "silent": True} for row in json.loads((silent / "clips.json").read_text())]
    (silent / "clips.json").write_text(json.dumps(rows))
    mute = cli("train", "lips", silent, "--space", space, "-o", out, "--voices", voices)
    assert mute.code == 2 and "no clip of speech" in mute.err, mute.err
    changes = ("lips.rank=8", "lips.hidden=4", "copies=1", "no_speech_seconds=5", "steps=40")
    small = [word for item in (*changes, "batch=64") for word in ("--set", item)]
    done = cli(*command, "--voices", voices, *small)
    assert done.code == 0 and isinstance(weights.load(out), ExpressionNet), done.err
    before = out.read_bytes()
    again = cli(*command, "--voices", voices)
    assert again.code == 2 and "exists already" in again.err and out.read_bytes() == before
    metrics = lips.measure(fitted, cache, cache.split("val"))
    assert weights.load_with_info(out)[1].metrics == metrics
    assert set(metrics) == {"gap_correlation", "gap_amplitude"}
    assert lips.measure(fitted, cache, [c for c in cache.clips if c.silent]) == {}
    lips.save(tmp_path / "same.safetensors", fitted, cache.split("train"), SMALL, metrics)
    assert (tmp_path / "same.safetensors").read_bytes() == before
