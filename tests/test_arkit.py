"""ARKit's blendshapes and visemes: there and back, conventions, and visemes of voices."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from talkingface import arkit, audio, video, visemes, weights
from talkingface.controls import EXPRESSIONS
from talkingface.data import expression_space as spaces
from talkingface.errors import BadMotion
from talkingface.faces import track
from talkingface.geometry import CropSpec
from talkingface.landmarks import INNER_LIPS, OUTER_LIPS
from talkingface.models.expression import ExpressionSpace
from talkingface.models.lips import ExpressionNet
from talkingface.motion import Motion
from talkingface.types import Floats

ROOT = Path(__file__).parent.parent
VOICES = ROOT / "tests" / "fixtures" / "voices"
LIPS = np.concatenate([OUTER_LIPS, INNER_LIPS])
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def net() -> ExpressionNet:
    net = weights.load("lips")
    assert isinstance(net, ExpressionNet)
    return net


@pytest.fixture(scope="module")
def spoken(net: ExpressionNet) -> dict[str, Floats]:
    """Expressions (75, K) of two clips, seen; the maps were fitted without s34."""
    out = {}
    for path in sorted((ROOT / "tests" / "clips").glob("*.mp4")):
        mesh = track(video.read_frames(path), CropSpec()).mesh
        neutral = spaces.neutral_of(mesh, net.space.reference.double().numpy())
        measured = net.space.measure(torch.from_numpy(mesh), torch.from_numpy(neutral).float())
        out[path.stem] = measured.numpy()
    return out


def frame(scores: dict[str, float]) -> Floats:
    """One frame of scores, the others zero."""
    out = np.zeros((1, len(arkit.NAMES)), np.float32)
    for name, score in scores.items():
        out[0, arkit.NAMES.index(name)] = score
    return out


def score(scores: Floats, name: str) -> Floats:
    return scores[:, arkit.NAMES.index(name)]


def lip_error(space: ExpressionSpace, first: Floats, second: Floats) -> Floats:
    """Mean distance of 40 lip points, interocular: (T,)."""
    moved = space.displacement(torch.from_numpy(first - second))[:, LIPS]
    return np.asarray(moved.norm(dim=-1).mean(-1).numpy())


def still(**parts: list[float]) -> Motion:
    """One frame of a motion, zero but for these parts."""
    motion = Motion.still(np.zeros((1, 16), np.float32))
    values = {name: getattr(motion, name) for name in motion.__dataclass_fields__}
    given = {name: np.array([part], np.float32) for name, part in parts.items()}
    return Motion(**{**values, **given})


# names


def test_names_are_apples() -> None:
    assert len(arkit.NAMES) == len(set(arkit.NAMES)) == 52
    assert arkit.NAMES[0] == "eyeBlinkLeft" and arkit.NAMES[-1] == "tongueOut"
    assert set(arkit.UNKNOWN) | set(arkit.MOUTH) <= set(arkit.NAMES)
    assert not set(arkit.UNKNOWN) & set(arkit.MOUTH)


def test_unknown_scores_are_zero_and_ignored() -> None:
    """Scores that a motion does not tell are zero in an export, and move nothing in an import."""
    parts = [RNG.standard_normal((40, n)).astype(np.float32) for n in (16, 6, 2, 2, 2)]
    scores = arkit.to_arkit(Motion(*parts))
    assert scores.shape == (40, 52) and scores.dtype == np.float32
    assert scores.min() >= 0 and scores.max() <= 1
    for name in arkit.UNKNOWN:
        assert not score(scores, name).any()
    moved = arkit.from_arkit(frame(dict.fromkeys(arkit.UNKNOWN, 1.0)))
    assert not any(getattr(moved, part).any() for part in moved.__dataclass_fields__)


def test_other_spaces_are_refused() -> None:
    with pytest.raises(BadMotion, match="8 coefficients"):
        arkit.to_arkit(Motion.still(np.zeros((3, 8), np.float32)))


# lips


def test_lips_come_back(net: ExpressionNet, spoken: dict[str, Floats]) -> None:
    """Real speech, of a speaker left out of the fit and of one in it, within 0.03 interocular."""
    for name, expression in spoken.items():
        back = arkit.from_arkit(arkit.to_arkit(Motion.still(expression))).expression
        error = lip_error(net.space, expression, back)
        moved = lip_error(net.space, expression, expression.mean(0, keepdims=True))
        assert np.percentile(error, 95) < 0.03, name
        assert error.mean() < 0.6 * moved.mean(), name


def test_closed_lips_stay_closed(net: ExpressionNet, spoken: dict[str, Floats]) -> None:
    """Frames with closed lips come back closed, and open ones come back as open."""
    expression = np.concatenate([*spoken.values(), np.zeros((1, 16), np.float32)])
    back = arkit.from_arkit(arkit.to_arkit(Motion.still(expression))).expression
    before, after = (net.space.lip_gap(torch.from_numpy(e)).numpy() for e in (expression, back))
    shut = before < 0.02
    assert shut.sum() > 20 and after[shut].max() < 0.03
    assert np.abs(after - before).mean() < 0.01
    assert not arkit.to_arkit(still()).any() and not arkit.from_arkit(frame({})).expression.any()


def test_shapes_mean_what_they_say(net: ExpressionNet) -> None:
    """One score at a time: the jaw opens the lips, a smile raises corners, a pucker narrows."""

    def mesh(**scores: float) -> Floats:
        e = torch.from_numpy(arkit.from_arkit(frame(scores)).expression)
        return net.space.mesh(e)[0].numpy()

    rest = mesh()
    opened = mesh(jawOpen=0.5)
    assert opened[14, 1] - opened[13, 1] > 0.1 + rest[14, 1] - rest[13, 1]
    smile = mesh(mouthSmileLeft=0.8, mouthSmileRight=0.8)
    assert (smile[[61, 291], 1] < rest[[61, 291], 1] - 0.05).all()
    half = mesh(mouthSmileLeft=1.0)  # the person's left is the picture's right
    assert rest[291, 1] - half[291, 1] > rest[61, 1] - half[61, 1] + 0.005
    pucker = mesh(mouthPucker=0.8)
    assert pucker[291, 0] - pucker[61, 0] < rest[291, 0] - rest[61, 0] - 0.03


def test_rest_of_a_tracker_is_subtracted() -> None:
    rest = frame({"mouthPucker": 0.4})
    moved = arkit.from_arkit(frame({"mouthPucker": 0.4, "jawOpen": 0.3}), neutral=rest[0])
    expected = arkit.from_arkit(frame({"jawOpen": 0.3}))
    np.testing.assert_allclose(moved.expression, expected.expression, atol=1e-6)


# eyes, brows, head


def test_left_is_the_persons_own() -> None:
    """The picture's right eye is the person's left one; right in the picture is the left's out."""
    scores = arkit.to_arkit(still(lids=[0.2, 0.9], gaze=[0.05, 0.03]))
    assert score(scores, "eyeBlinkLeft") == np.float32(0.9)
    assert score(scores, "eyeBlinkRight") == np.float32(0.2)
    assert score(scores, "eyeLookOutLeft") == score(scores, "eyeLookInRight") > 0.2
    assert not score(scores, "eyeLookInLeft") and not score(scores, "eyeLookOutRight")
    assert score(scores, "eyeLookDownLeft") > 0.1 and not score(scores, "eyeLookUpLeft")


@pytest.mark.parametrize("part", ["lids", "gaze", "brows"])
def test_upper_face_comes_back(part: str) -> None:
    size = {"lids": 0.5, "gaze": 0.05, "brows": 0.03}[part]
    values = (size * RNG.uniform(-1, 1, (50, 2))).astype(np.float32)
    motion = Motion.still(np.zeros((50, 16), np.float32))
    given = Motion(**{**vars(motion), part: values})
    back = arkit.from_arkit(arkit.to_arkit(given))
    np.testing.assert_allclose(getattr(back, part), values, atol=1e-5)


def test_head_comes_back() -> None:
    head = RNG.uniform(-0.3, 0.3, (5, 6)).astype(np.float32)
    motion = Motion(**{**vars(Motion.still(np.zeros((5, 16), np.float32))), "head": head})
    back = arkit.from_arkit(arkit.to_arkit(motion), head=arkit.to_head(motion))
    np.testing.assert_allclose(back.head[:, :3], head[:, :3])
    assert not back.head[:, 3:].any()


# named expressions


def test_named_expressions(net: ExpressionNet) -> None:
    """A smile raises the corners, sadness lowers them; no expression opens the lips."""
    assert {"smile", "sad", "brows-up"} <= set(EXPRESSIONS)
    rest = net.space.mesh(torch.zeros(16))
    for name in EXPRESSIONS:
        expression, brows, lids = arkit.named(name)
        assert expression.shape == (16,) and brows.shape == lids.shape == (2,)
        moved = net.space.mesh(torch.from_numpy(expression))
        up = (rest - moved)[[61, 291], 1].mean().item() / (1 if name != "sad" else -1)
        assert up > 0.05 or name not in ("smile", "sad")
        assert abs((moved - rest)[14, 1] - (moved - rest)[13, 1]) < 0.01, name
    assert min(arkit.named("brows-up")[1]) > 0.05
    with pytest.raises(KeyError):
        arkit.named("grimace")


# visemes


@pytest.fixture(scope="module")
def read(net: ExpressionNet) -> list[tuple[Floats, list[visemes.Segment], list[visemes.Segment]]]:
    """Scores and visemes of four voices that nothing was trained on, and their phones."""
    files = json.loads((VOICES / "phones.json").read_text(encoding="utf-8"))["files"]
    names = ("en-us-bella-1", "en-gb-george-2", "it-nicola-1", "en-us-slt-1")
    out = []
    for name in (f"{name}.opus" for name in names):
        windows = audio.windows(audio.load(VOICES / name), net.config.speech)
        scores = visemes.scores(net, windows)
        phones = [(start, end, symbol) for symbol, start, end in files[name]["phones"]]
        out.append((scores, visemes.segments(scores), phones))
    return out


def test_closures_are_recognised(
    read: list[tuple[Floats, list[visemes.Segment], list[visemes.Segment]]],
) -> None:
    """In the middle of p, b and m the viseme is PP; elsewhere it is rare."""
    hits: list[bool] = []
    others: list[bool] = []
    for _, found, phones in read:
        for start, end, symbol in phones:
            if symbol and end - start >= 0.04:
                middle = (start + end) / 2
                name = next(n for a, b, n in found if a <= middle < b)
                (hits if symbol in "pbm" else others).append(name == "PP")
    assert len(hits) > 25 and np.mean(hits) > 0.7 and np.mean(others) < 0.1


def test_segments_tile_the_sound(
    read: list[tuple[Floats, list[visemes.Segment], list[visemes.Segment]]],
) -> None:
    for scores, found, _ in read:
        starts, ends, names = zip(*found, strict=True)
        assert starts[0] == 0 and ends[-1] == len(scores) / audio.FPS
        assert starts[1:] == ends[:-1] and set(names) <= set(visemes.NAMES)
        assert all(a != b for a, b in zip(names[1:], names[:-1], strict=True))
        lengths = np.subtract(ends, starts) * audio.FPS
        assert lengths.min() > visemes.SHORTEST - 1e-6


def test_short_sounds_have_one_viseme() -> None:
    assert visemes.segments(np.zeros((0, 15), np.float32)) == []
    one = np.zeros((3, 15), np.float32)
    one[:, 10] = 3
    assert visemes.segments(one) == [(0.0, 0.12, "aa")]


def test_best_path_is_the_best(net: ExpressionNet) -> None:
    """Against all paths of six frames and three visemes whose segments last two frames or more."""
    scores = np.full((6, 15), -1e3)
    scores[:, :3] = RNG.standard_normal((6, 3))

    def runs(path: tuple[int, ...]) -> list[int]:
        edges = [0, *(np.flatnonzero(np.diff(path)) + 1), len(path)]
        return [b - a for a, b in pairwise(edges)]

    paths = [p for p in np.ndindex(*(3,) * 6) if min(runs(p)) >= visemes.SHORTEST]

    def value(path: tuple[int, ...]) -> float:
        return float(scores[np.arange(6), list(path)].sum()) - visemes.CHANGE * (
            len(runs(path)) - 1
        )

    assert tuple(visemes._best_path(scores)) == max(paths, key=value)
