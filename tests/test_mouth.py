"""The inside of a mouth: bank of teeth, layers, colours, steadiness."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from talkingface.landmarks import INNER_LIPS, INNER_PAIRS, reference_mesh
from talkingface.render import teeth
from talkingface.render.mouth import MouthInterior

EYE, CENTRE = 100.0, (200.0, 170.0)  # pixels: eye distance, middle of the eyes
SKIN, LIPS = (205, 150, 128), (180, 90, 90)


def _mesh(gap: float = 0.0, angle: float = 0.0) -> np.ndarray:
    """The mean face in picture pixels, lips `gap` eye distances apart, turned by degrees."""
    mesh = reference_mesh().copy()
    for upper, lower in INNER_PAIRS:
        mesh[[upper, lower], 1] = mesh[[upper, lower], 1].mean()
    below = mesh[:, 1] > mesh[14, 1] + 0.02
    below[INNER_PAIRS[:, 1]] = True
    mesh[below, 1] += gap
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return np.asarray(mesh @ np.array([[c, s], [-s, c]]) * EYE + CENTRE)


def _picture(
    skin: tuple[int, ...] = SKIN,
    lips: tuple[int, ...] = LIPS,
    mesh: np.ndarray | None = None,
    noise: int = 6,
) -> np.ndarray:
    """(420, 400, 3): skin with some grain, lips, and eyes' whites."""
    mesh = _mesh() if mesh is None else mesh
    grain = np.random.default_rng(0).integers(-noise, noise + 1, (420, 400, 1))
    picture = np.full((420, 400, 3), skin) + grain
    picture[90:150, 120:280] = np.array(skin)[::-1] * 0.8  # more than one tone
    picture = picture.clip(0, 255).astype(np.uint8)
    outer = mesh[[61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 405, 17, 181, 146]]
    cv2.fillPoly(picture, [np.rint(outer).astype(np.int32)], lips)
    return picture


def _inside(mesh: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    y0, y1, x0, x1 = box
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    cv2.fillPoly(mask, [np.rint(mesh[INNER_LIPS] - [x0, y0]).astype(np.int32)], 1)
    return mask > 0


def _box(mesh: np.ndarray) -> tuple[int, int, int, int]:
    x0, y0 = np.floor(mesh[INNER_LIPS].min(0)).astype(int) - 4
    x1, y1 = np.ceil(mesh[INNER_LIPS].max(0)).astype(int) + 4
    return int(y0), int(y1), int(x0), int(x1)


def test_bank_is_small_and_in_range() -> None:
    bank = teeth.bank()
    assert teeth.FILE.stat().st_size <= 2_000_000
    assert 50 <= len(bank.upper) <= 120 and len(bank.lower) >= 1
    assert bank.upper.shape[1:] == (teeth.UPPER_ROWS, teeth.WIDTH, 4)
    assert bank.lower.shape[1:] == (teeth.LOWER_ROWS, teeth.WIDTH, 4)
    assert bank.numbers.shape == (len(bank.upper), 6) and np.isfinite(bank.numbers).all()
    for one in bank.upper.astype(np.float32):
        shown = one[one[..., 3] > 128][:, :3]
        light = shown @ teeth.LUMA
        assert 170 < np.percentile(light, 75) < 225
        green = (shown[:, 1] - (shown[:, 0] + shown[:, 2]) / 2).mean()
        assert -25 < green < 1  # gums are red


def test_bank_is_written_as_it_is_read(tmp_path: Path) -> None:
    bank = teeth.bank()
    for name in ("a.npz", "b.npz"):
        teeth.write_bank(tmp_path / name, bank)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = teeth.read_bank(tmp_path / "a.npz")
    assert np.array_equal(again.upper[..., 3], bank.upper[..., 3])
    assert np.array_equal(again.numbers, bank.numbers)


def test_a_file_that_is_no_bank_is_refused(tmp_path: Path) -> None:
    broken = {
        f"{n}_{k}": np.zeros(9, np.uint8) for n in ("upper", "lower") for k in ("colour", "alpha")
    }
    numbers = {name: np.zeros(1) for name in ("numbers", "lower_numbers")}
    np.savez(tmp_path / "x.npz", allow_pickle=True, **numbers, **broken)
    with pytest.raises(ValueError, match="not a bank"):
        teeth.read_bank(tmp_path / "x.npz")


@pytest.mark.parametrize("opened", [False, True])
def test_grey_stays_grey(opened: bool) -> None:
    own = _mesh(0.15) if opened else _mesh()
    picture = _picture((150, 150, 150), (90, 90, 90), own)
    if opened:
        cv2.fillPoly(picture, [np.rint(own[INNER_LIPS]).astype(np.int32)], (210, 210, 210))
    mesh = _mesh(0.2)
    out = MouthInterior(picture, own, _mesh()).draw(mesh, _box(mesh))
    assert np.ptp(out, axis=-1).max() == 0


@pytest.mark.parametrize("opened", [False, True])
def test_sepia_stays_sepia(opened: bool) -> None:
    """The tone is that of CSS (Filter Effects, `sepia(1)`), here of a grey picture."""
    tone = np.array([1.351, 1.203, 0.937])
    own = _mesh(0.15) if opened else _mesh()
    grey = _picture((150, 150, 150), (90, 90, 90), own)
    if opened:
        cv2.fillPoly(grey, [np.rint(own[INNER_LIPS]).astype(np.int32)], (150, 150, 150))
    sepia = np.rint(grey * tone).clip(0, 255).astype(np.uint8)
    mesh = _mesh(0.2)
    box = _box(mesh)
    out = MouthInterior(sepia, own, _mesh()).draw(mesh, box)[_inside(mesh, box)]
    expected = (out @ teeth.LUMA)[:, None] * tone / (tone @ teeth.LUMA)
    assert np.ptp(out @ teeth.LUMA) > 20
    assert np.abs(out - expected).max() < 4


@pytest.mark.parametrize("light", [0.3, 0.15, 0.06])
def test_in_very_dim_light_the_mouth_is_as_dim(light: float) -> None:
    """Teeth do not shine, and nothing becomes green."""
    dim = np.rint(_picture() * light).astype(np.uint8)
    mesh = _mesh(0.2)
    box = _box(mesh)
    out = MouthInterior(dim, _mesh(), _mesh()).draw(mesh, box)[_inside(mesh, box)]
    cheeks = np.median(dim[300:, 100:300] @ teeth.LUMA)
    assert np.percentile(out @ teeth.LUMA, 98) < 1.8 * cheeks
    assert (out[:, 1] - (out[:, 0] + out[:, 2]) / 2).mean() <= 1


@pytest.mark.parametrize("skin", [SKIN, (120, 82, 66), (228, 190, 170), (70, 45, 36)])
@pytest.mark.parametrize("gap", [0.05, 0.12, 0.25])
def test_neutral_pictures_get_no_green(skin: tuple[int, int, int], gap: float) -> None:
    mesh = _mesh(gap)
    box = _box(mesh)
    out = MouthInterior(_picture(skin), _mesh(), _mesh()).draw(mesh, box)[_inside(mesh, box)]
    assert (out[:, 1] - (out[:, 0] + out[:, 2]) / 2).mean() <= 1


def test_a_blue_night_stays_blue_and_dark() -> None:
    night = (_picture() * np.array([0.12, 0.2, 0.38])).astype(np.uint8)
    mesh = _mesh(0.15)
    box = _box(mesh)
    out = MouthInterior(night, _mesh(), _mesh()).draw(mesh, box)[_inside(mesh, box)]
    assert out[:, 2].mean() > out[:, 0].mean()
    assert np.percentile(out @ teeth.LUMA, 98) < 1.8 * np.median(night[300:, 100:300] @ teeth.LUMA)


def test_upper_teeth_show_and_stay_when_the_lower_lip_moves() -> None:
    interior = MouthInterior(_picture(), _mesh(), _mesh())
    box = _box(_mesh(0.3))
    line = int(_mesh()[13, 1])
    near, far = (interior.draw(_mesh(gap), box) for gap in (0.18, 0.3))
    rows = slice(line - box[0], line - box[0] + 2)
    columns = slice((box[3] - box[2]) // 2 - 12, (box[3] - box[2]) // 2 + 12)
    first, second = (x[rows, columns] @ teeth.LUMA for x in (near, far))
    assert first.mean() > 60
    ratio = second / first  # the same teeth; no more than the lips' shade differs
    assert ratio.std() < 0.02 and 0.95 < ratio.mean() < 1.3


def test_the_dark_lies_below_the_upper_teeth() -> None:
    mesh = _mesh(0.3)
    box = _box(mesh)
    out = MouthInterior(_picture(), _mesh(), _mesh()).draw(mesh, box) @ teeth.LUMA
    middle = (box[3] - box[2]) // 2
    line = int(_mesh()[13, 1]) - box[0]
    assert out[line + 14, middle] < 0.5 * out[line + 1, middle]


def test_own_mouth_is_drawn_as_the_picture_shows_it() -> None:
    own = _mesh(0.15)
    picture = _picture(mesh=own)
    cv2.fillPoly(picture, [np.rint(own[INNER_LIPS]).astype(np.int32)], (60, 25, 25))
    cv2.rectangle(picture, (172, 250), (228, 262), (225, 215, 200), -1)
    box = _box(own)
    out = MouthInterior(picture, own, _mesh()).draw(own, box)
    inside = cv2.erode(_inside(own, box).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    assert inside.any()
    there = picture[box[0] : box[1], box[2] : box[3]]
    assert np.abs(out - there)[inside].max() < 3


def test_a_tilted_face_gets_the_same_inside() -> None:
    """The picture and its meshes turned by 30 degrees: the inside turned, but for sampling."""
    degrees = 30.0
    turned = _picture(mesh=_mesh(0, degrees), noise=0)
    upright = MouthInterior(_picture(noise=0), _mesh(), _mesh())
    tilted = MouthInterior(turned, _mesh(0, degrees), _mesh(0, degrees))
    mesh, tilted_mesh = _mesh(0.2), _mesh(0.2, degrees)
    size = (0, 420, 0, 400)
    first, second = upright.draw(mesh, size), tilted.draw(tilted_mesh, size)
    matrix = cv2.getRotationMatrix2D(CENTRE, degrees, 1)
    back = cv2.warpAffine(second, matrix, (400, 420), flags=cv2.INTER_LINEAR)
    inside = _inside(mesh, size)
    inside = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert np.abs(back - first)[inside].mean() < 4


def test_the_same_twice_and_part_of_a_box_is_the_same() -> None:
    mesh = _mesh(0.2)
    y0, y1, x0, x1 = _box(mesh)
    first, second = (MouthInterior(_picture(), _mesh(), _mesh()) for _ in range(2))
    whole = first.draw(mesh, (y0, y1, x0, x1))
    assert np.array_equal(whole, second.draw(mesh, (y0, y1, x0, x1)))
    assert np.array_equal(whole, first.draw(mesh, (y0, y1, x0, x1)))
    assert whole.dtype == np.float32 and whole.shape == (y1 - y0, x1 - x0, 3)


def test_boxes_beyond_the_picture_are_drawn() -> None:
    mesh = _mesh(0.2)
    interior = MouthInterior(_picture(), _mesh(), _mesh())
    for box in [(-50, 600, -80, 700), (0, 5, 0, 5), (200, 300, 150, 151)]:
        out = interior.draw(mesh, box)
        assert out.shape == (box[1] - box[0], box[3] - box[2], 3)
        assert np.isfinite(out).all() and out.min() >= 0 and out.max() <= 255


def test_drawings_get_no_teeth() -> None:
    picture = _picture((250, 200, 60), (90, 20, 20), noise=0)
    mesh = _mesh(0.25)
    box = _box(mesh)
    out = MouthInterior(picture, _mesh(), _mesh()).draw(mesh, box)
    assert out[_inside(mesh, box)].max() < 130
