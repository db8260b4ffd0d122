"""Twice the detail: the network, its training, and where it acts in the finished picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import Cli
from torch.nn import functional as F

from talkingface import picture, weights
from talkingface.geometry import Paster, Picture, warp_crop
from talkingface.metrics.image import psnr
from talkingface.models.detail import Detail, DetailConfig, blurred, enlarged, finer_of
from talkingface.training import detail, presets
from talkingface.training.detail import DetailRecipe

TINY = presets.DETAIL["detail-tiny"]
MATRIX = np.array([[0.25, 0.0, 0.0], [0.0, 0.25, 0.0]])  # a picture of 512 in a crop of 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, portrait: Path) -> Path:
    """One face three times: the first one, by name, is held out."""
    path = tmp_path_factory.mktemp("portraits")
    for name in "abc":
        (path / f"{name}.jpg").write_bytes(portrait.read_bytes())
    return path


# --- the network ----------------------------------------------------------------------------------


def test_it_begins_as_the_enlarged_picture() -> None:
    small = torch.rand(2, 3, 8, 10) * 2 - 1
    assert torch.equal(Detail().finer(small), enlarged(small))
    assert not finer_of(Detail())(np.zeros((8, 10, 3), np.uint8)).any()
    assert sum(p.numel() for p in Detail().parameters()) < 30_000


def test_the_blur_is_opencvs() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.uniform(-1, 1, (2, 20, 24, 3)).astype(np.float32)
    soft = blurred(torch.from_numpy(pictures).permute(0, 3, 1, 2), torch.tensor([0.8, 0.0]))
    expected = cv2.GaussianBlur(pictures[0], (9, 9), 0.8, borderType=cv2.BORDER_REPLICATE)
    assert np.allclose(soft[0].permute(1, 2, 0).numpy(), expected, atol=1e-5)
    assert np.allclose(soft[1].permute(1, 2, 0).numpy(), pictures[1], atol=1e-6)


# --- in the finished picture ----------------------------------------------------------------------


def stripes() -> Picture:
    """(512, 512, 3): stripes of 2 pixels, which a crop of a quarter the size cannot hold."""
    picture = np.full((512, 512, 3), 128, np.uint8)
    picture[:, ::4], picture[:, 1::4] = 88, 88
    return picture


def changed(crop: Picture, by: int) -> Picture:
    """The crop with a brighter square in it."""
    out = crop.copy()
    out[50:80, 40:90] = np.clip(out[50:80, 40:90].astype(int) + by, 0, 255)
    return out


def test_detail_is_added_where_the_pictures_own_gave_way_and_nowhere_else() -> None:
    whole = stripes()
    crop = warp_crop(whole, MATRIX, 128)
    plain = Paster(whole, MATRIX, crop)
    asked: list[tuple[int, ...]] = []

    def finer(part: Picture) -> np.ndarray:
        asked.append(part.shape)
        return np.full((2 * len(part), 2 * part.shape[1], 3), 10, np.float32)

    detailed = Paster(whole, MATRIX, crop, finer=finer)
    assert np.array_equal(detailed(crop), plain(crop)) and not asked  # nothing to draw
    faint = changed(crop, 3)
    assert np.array_equal(detailed(faint), plain(faint)) and not asked  # its own detail stays
    much = changed(crop, 60)
    added = detailed(much).astype(int) - plain(much)
    assert asked and asked[0][0] < 60  # of the crop only what is needed
    assert (added[220:300, 180:340] == 10).all()
    assert not added[:160].any() and not added[360:].any() and not added[:, :120].any()


def test_nothing_is_asked_where_the_picture_is_as_coarse_as_the_crop() -> None:
    whole = stripes()[:128, :128]
    crop = warp_crop(whole, np.eye(2, 3), 128)

    def never(part: Picture) -> np.ndarray:
        raise AssertionError("there are no pixels for detail")

    Paster(whole, np.eye(2, 3), crop, finer=never)(changed(crop, 60))


@pytest.mark.parametrize("scale", [0.5, 0.35, 0.2])
def test_who_knows_the_detail_brings_it_back(scale: float) -> None:
    """What is drawn at 128 and lacks detail, and a network that knows what it lacks."""
    side = round(128 / scale)
    matrix = np.array([[scale, 0.0, 0.0], [0.0, scale, 0.0]])
    rng = np.random.default_rng(0)
    rough = rng.uniform(60, 200, (110, 110, 3)).astype(np.float32)
    large = cv2.resize(rough, (256, 256), interpolation=cv2.INTER_CUBIC).clip(0, 255)
    small = cv2.resize(large, (128, 128), interpolation=cv2.INTER_AREA)
    drawn = np.rint(small).astype(np.uint8)
    lacks = large - cv2.resize(drawn.astype(np.float32), (256, 256), interpolation=cv2.INTER_CUBIC)
    whole = np.full((side, side, 3), 20, np.uint8)
    crop = warp_crop(whole, matrix, 128)

    def knows(part: Picture) -> np.ndarray:
        places = cv2.matchTemplate(drawn, part, cv2.TM_SQDIFF)
        _, _, (x, y), _ = cv2.minMaxLoc(places)
        return lacks[2 * y : 2 * (y + len(part)), 2 * x : 2 * (x + part.shape[1])]

    # of the picture's pixel x the large crop's is 2 (scale x) + 0.5
    to_large = np.array([[2 * scale, 0, 0.5], [0, 2 * scale, 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    truth = np.asarray(cv2.warpAffine(large, to_large, (side, side), flags=flags))
    heart = np.s_[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4]
    without = psnr(Paster(whole, matrix, crop)(drawn)[heart], truth[heart])
    with_detail = psnr(Paster(whole, matrix, crop, finer=knows)(drawn)[heart], truth[heart])
    assert with_detail > without + 3


# --- training -------------------------------------------------------------------------------------


def test_patches_are_the_pictures_made_small(folder: Path) -> None:
    training = replace(TINY, softest=0.0, noise=0.0)
    recipe = DetailRecipe(training, folder)
    assert (len(recipe.crops), len(recipe.held_out)) == (2, 1)
    batch = recipe.batch(3)
    assert torch.allclose(batch.small, F.avg_pool2d(batch.real, 2), atol=1e-6)
    assert torch.equal(batch.real, DetailRecipe(training, folder).batch(3).real)
    rough = DetailRecipe(TINY, folder).batch(3)
    assert not torch.allclose(rough.small, F.avg_pool2d(rough.real, 2), atol=1e-3)


def test_it_learns_what_enlarging_leaves_out(folder: Path) -> None:
    training = replace(TINY, model=DetailConfig(8, 1), steps=150, batch=4, rate=1e-2)
    recipe = DetailRecipe(training, folder)
    for step in range(150):
        recipe.step(recipe.batch(step), step)
    measures = recipe.validate(150)
    assert measures["soft/detail/psnr"] > measures["soft/bicubic/psnr"] + 0.3
    assert measures["soft/detail/sharpness"] > measures["soft/bicubic/sharpness"]


def test_the_command_trains_it(cli: Cli, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ran = cli("train", "detail", folder, "-o", run, "--preset", "detail-tiny")
    assert ran.code == 0 and "4 of 4 steps" in ran.out, ran
    network, info = weights.load_with_info(run / "weights.safetensors")
    assert isinstance(network, Detail) and "soft/detail/psnr" in info.metrics
    assert picture.read(run / "sheet-000004.png").shape[0] > 3 * 100
    assert detail.WINDOW == presets.CRAN["cran"].model.window
