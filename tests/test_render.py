"""The picture bent along its mesh: against naive loops, closed forms and pictures drawn for it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from talkingface import geometry
from talkingface.data import expression_space as spaces
from talkingface.landmarks import (
    INNER_LIPS,
    INNER_PAIRS,
    LOWER_INNER,
    UPPER_INNER,
    reference_mesh,
)
from talkingface.models.expression import ExpressionSpace
from talkingface.render.blend import Blender
from talkingface.render.crops import CropRenderer
from talkingface.render.face import FaceRenderer
from talkingface.render.mouth import MouthInterior
from talkingface.render.warp import LIPS, REACH, SURFACE, MeshWarp, triangles

SPACE = Path(__file__).parent / "fixtures" / "expression_space.safetensors"
UNIT, MIDDLE = 100.0, np.array([200.0, 140.0])  # pixels between the eyes, and their middle
SHAPE = (400, 420)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
EVERY = np.arange(478)


@pytest.fixture(scope="module")
def space() -> ExpressionSpace:
    return spaces.load(SPACE).eval()


@pytest.fixture(scope="module")
def speaking(space: ExpressionSpace) -> np.ndarray:
    """The points that speech moves."""
    return space.points.numpy()


@pytest.fixture(scope="module")
def shut(space: ExpressionSpace) -> np.ndarray:
    """(478, 2) pixels: a neutral face whose lips touch exactly."""
    mesh = space.reference.double().numpy() * UNIT + MIDDLE
    mesh[INNER_PAIRS] = mesh[INNER_PAIRS].mean(1, keepdims=True)
    return np.asarray(mesh)


@pytest.fixture(scope="module")
def speech(space: ExpressionSpace, shut: np.ndarray) -> list[np.ndarray]:
    """Move the shut face as in speech: moderate, and ever wider open."""
    torch.manual_seed(1)
    expressions = 0.4 * torch.randn(4, space.components)
    expressions[:, 0] = torch.tensor([0.5, 1.0, 2.0, 3.0])
    mesh = torch.from_numpy(shut).float()[None]
    moved = space.move(mesh, torch.zeros(1, space.components), expressions[None])
    return list(moved[0].double().numpy())


class Painted:
    """A mouth of one colour behind the lips."""

    def __init__(self, colour: tuple[int, int, int] = GREEN) -> None:
        self.colour = colour

    def draw(self, mesh: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
        return np.full((box[1] - box[0], box[3] - box[2], 3), self.colour, np.float32)


class Own:
    """A mouth that is what the picture itself shows behind the lips."""

    def __init__(self, picture: np.ndarray) -> None:
        self.picture = picture

    def draw(self, mesh: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
        return self.picture[box[0] : box[1], box[2] : box[3]].astype(np.float32)


def noise(shape: tuple[int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def smooth(shape: tuple[int, int] = SHAPE, x: float = 0, y: float = 0) -> np.ndarray:
    """Waves, slow enough for any interpolation; moved by (x, y), not rounded."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(float)
    rows, columns = rows - y, columns - x
    waves = (columns / 9 + rows / 31, rows / 11 - columns / 40, (rows + columns) / 15)
    return np.asarray(127 + 90 * np.stack([np.sin(w) for w in waves], -1))


def rounded(picture: np.ndarray) -> np.ndarray:
    return np.asarray(np.rint(picture), np.uint8)


def pixels(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """(H, W, 2): (x, y) of each."""
    return np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[0])), -1).astype(float)


def distance(polygon: np.ndarray, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Return the distance of each pixel to a polygon's edge, negative outside."""
    points = polygon.astype(np.float32)[:, None]
    return np.array([
        [cv2.pointPolygonTest(points, (float(x), float(y)), True) for x in range(shape[1])]
        for y in range(shape[0])
    ])  # fmt: skip


def area(polygon: np.ndarray) -> float:
    """The shoelace formula."""
    x, y = polygon.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


# --- the triangles --------------------------------------------------------------------------------


def test_triangles_cover_the_face_once_and_leave_the_mouth_out() -> None:
    mesh, found = reference_mesh(), triangles()
    assert found.shape[1:] == (3,) and set(found.ravel()) == set(range(SURFACE))
    hull = cv2.convexHull(mesh[:SURFACE].astype(np.float32))[:, 0].astype(float)
    whole = sum(area(mesh[corners]) for corners in found)
    assert whole == pytest.approx(area(hull) - area(mesh[INNER_LIPS]), abs=1e-4)
    assert min(area(mesh[corners]) for corners in found) > 0
    middles = mesh[found].mean(1).astype(np.float32)
    mouth = mesh[INNER_LIPS].astype(np.float32)[:, None]
    inside = [cv2.pointPolygonTest(mouth, tuple(map(float, m)), False) for m in middles]
    assert max(inside) < 0


def test_no_triangle_joins_the_lips() -> None:
    """Between the corners, which both lips share, no edge goes from one inner lip to the other."""
    upper, lower = set(UPPER_INNER[1:-1].tolist()), set(LOWER_INNER[1:-1].tolist())
    assert len(upper) == len(lower) == 9 and not upper & lower
    for corners in triangles().tolist():
        assert not (upper & set(corners) and lower & set(corners))


# --- where pixels come from -----------------------------------------------------------------------


def test_no_motion_is_the_picture_to_the_bit(shut: np.ndarray, speaking: np.ndarray) -> None:
    picture = noise()
    for moving in (EVERY, speaking):
        face = FaceRenderer(picture, MeshWarp(shut, moving), Painted())
        assert all(not flow.any() for flow in face.warp.flows(shut))
        assert np.array_equal(face.draw(shut), picture)
        opened = reference_mesh() * UNIT + MIDDLE
        face = FaceRenderer(picture, MeshWarp(opened, moving), Own(picture))
        assert np.array_equal(face.draw(opened), picture)
    assert np.array_equal(picture, noise())


@pytest.mark.parametrize("step", [(3.0, -2.0), (-5.0, 4.0), (1.5, 2.25)])
def test_a_face_that_is_shifted_is_the_shifted_picture(
    shut: np.ndarray, step: tuple[float, float]
) -> None:
    face = FaceRenderer(rounded(smooth()), MeshWarp(shut, EVERY), Painted())
    out = face.draw(shut + step)
    hull = cv2.convexHull((shut[:SURFACE] + step).astype(np.float32))[:, 0]
    inside = distance(hull) > np.abs(step).max() + 6  # a node and a half from the fading edge
    inside[: face.box[0] + 10] = False  # what is above the nose does not move
    assert inside.sum() > 16_000
    assert np.abs(out[inside] - smooth(x=step[0], y=step[1])[inside]).max() <= 2
    if all(part == int(part) for part in step):
        face = FaceRenderer(noise(), MeshWarp(shut, EVERY), Painted())
        moved = np.roll(noise(), (int(step[1]), int(step[0])), axis=(0, 1))
        assert np.array_equal(face.draw(shut + step)[inside], moved[inside])


def test_where_pixels_come_from_goes_to_where_they_are(
    shut: np.ndarray, speech: list[np.ndarray], speaking: np.ndarray
) -> None:
    """The forward motion of each layer, read where `flows` says, leads back to the node."""
    warp = MeshWarp(shut, speaking)
    rows, columns = warp.region.shape
    nodes = warp.region.nodes()
    for mesh in speech[:3]:
        moved = mesh - shut
        moved[UPPER_INNER[1:-1]] += warp._overlap(mesh)
        moved[LOWER_INNER[1:-1]] -= warp._overlap(mesh)
        step = moved[warp.moving].astype(np.float32)
        for side, layer, flow in zip(LIPS, warp._layers, warp.flows(mesh), strict=True):
            forward = layer(step)
            at = (nodes + flow - [warp.region.box[2], warp.region.box[0]]) / warp.region.step
            x, y = np.moveaxis(at.astype(np.float32), -1, 0)
            there = cv2.remap(forward, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            below = warp.below(mesh, side).astype(np.float32)[:, None]
            places = nodes.reshape(-1, 2).tolist()
            inside = [cv2.pointPolygonTest(below, place, False) > 0 for place in places]
            shown = np.array(inside).reshape(rows, columns) == (side is LOWER_INNER)
            off = np.abs(there + flow).max(-1)[shown]
            assert np.abs(there[shown]).max() > 1  # something moves
            assert np.quantile(off, 0.995) < 0.05 and off.max() < 0.1


def sources(point: np.ndarray, moved: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """Naive: by the affine map of every triangle that `point` lies in, once moved."""
    (a, b, c), (u, v, w) = (points[triangles()].transpose(1, 0, 2) for points in (moved, mesh))
    (x1, y1), (x2, y2), (x, y) = (b - a).T, (c - a).T, (point - a).T
    size = x1 * y2 - x2 * y1
    second, third = (x * y2 - x2 * y) / size, (x1 * y - x * y1) / size
    inside = (second >= 0) & (third >= 0) & (second + third <= 1)
    back = u + second[:, None] * (v - u) + third[:, None] * (w - u)
    return np.asarray(back[inside])


def test_pixels_come_from_where_their_triangles_say(
    shut: np.ndarray, speech: list[np.ndarray], speaking: np.ndarray
) -> None:
    """Against an affine map per triangle, one point after the other, in the lower face."""
    warp = MeshWarp(shut, speaking)
    for mesh in speech[:3]:
        flows = [warp.region.at_pixels(flow, warp.region.box) for flow in warp.flows(mesh)]
        below = warp.below(mesh).astype(np.float32)[:, None]
        rng, off = np.random.default_rng(3), []
        low, high = mesh[speaking].min(0), mesh[speaking].max(0)
        for place in rng.uniform(low, high, (400, 2)):
            point = np.rint(place)
            expected = sources(point, mesh, shut)
            if len(expected) != 1:
                continue
            at = tuple(map(float, point))
            flow = flows[int(cv2.pointPolygonTest(below, at, False) > 0)]
            y, x = int(point[1]) - warp.region.box[0], int(point[0]) - warp.region.box[2]
            off.append(np.linalg.norm(point + flow[y, x] - expected[0]))
        assert len(off) > 200
        assert np.median(off) < 0.5 and np.quantile(off, 0.95) < 2


def test_the_motion_ends_where_the_region_does(
    shut: np.ndarray, speech: list[np.ndarray], speaking: np.ndarray
) -> None:
    """Bit for bit beyond it, and no step at its border."""
    picture = noise()
    face = FaceRenderer(picture, MeshWarp(shut, speaking), Painted())
    y0, y1, x0, x1 = face.box
    assert 0 < y0 < y1 <= SHAPE[0] and 0 < x0 < x1 < SHAPE[1]
    hull = cv2.convexHull(shut[:SURFACE].astype(np.float32))[:, 0]
    far = distance(hull) < -(REACH * UNIT + 2 * face.warp.region.step)
    for mesh in speech:
        out = face.draw(mesh)
        changed = (out != picture).any(-1)
        assert changed.sum() > 5_000
        changed[y0:y1, x0:x1] &= far[y0:y1, x0:x1]
        assert not changed.any()
        for flow in face.warp.flows(mesh):
            edges = (flow[0], flow[-1], flow[:, 0], flow[:, -1])
            assert max(np.abs(edge).max() for edge in edges) < 0.05


# --- lips that part -------------------------------------------------------------------------------


def two_halves(shut: np.ndarray) -> np.ndarray:
    """Red above the mouth line, blue below."""
    line = shut[UPPER_INNER]
    picture = np.full((*SHAPE, 3), RED, np.uint8)
    at = pixels()
    picture[at[..., 1] > np.interp(at[..., 0], line[:, 0], line[:, 1])] = BLUE
    return picture


def covered(polygon: np.ndarray, corner: tuple[int, int], side: int) -> np.ndarray:
    """Return how much of each pixel lies in a polygon: 64 points of each, one after the other."""
    points = polygon.astype(np.float32)[:, None]
    small = (np.arange(8) + 0.5) / 8 - 0.5
    out = np.zeros((side, side))
    for row, column in np.ndindex(side, side):
        x, y = corner[0] + column, corner[1] + row
        places = [(float(x + dx), float(y + dy)) for dx in small for dy in small]
        out[row, column] = np.mean([cv2.pointPolygonTest(points, p, False) > 0 for p in places])
    return out


def test_lips_part_sharply(
    shut: np.ndarray, speech: list[np.ndarray], speaking: np.ndarray
) -> None:
    """Above them only red, below only blue, between them what is behind, and nowhere else."""
    face = FaceRenderer(two_halves(shut), MeshWarp(shut, speaking), Painted())
    for mesh in speech[1:]:
        out, hole = face.draw(mesh), distance(mesh[INNER_LIPS])
        assert np.array_equal(np.unique(out[hole > 1.0], axis=0), [GREEN])
        assert not out[hole < -1.0][:, 1].any()
        at, line = pixels(), (mesh[UPPER_INNER] + mesh[LOWER_INNER]) / 2
        middle = np.interp(at[..., 0], line[:, 0], line[:, 1])
        between = (at[..., 0] > line[0, 0]) & (at[..., 0] < line[-1, 0])
        near = between & (np.abs(at[..., 1] - middle) < 40) & (hole < -3)  # cubic reads 2 beyond
        assert np.array_equal(np.unique(out[near & (at[..., 1] < middle)], axis=0), [RED])
        assert np.array_equal(np.unique(out[near & (at[..., 1] > middle)], axis=0), [BLUE])
        x, y = mesh[81].astype(int) - 6  # an edge that slants
        shown = out[y : y + 12, x : x + 12, 1] / 255
        expected = covered(mesh[INNER_LIPS], (x, y), 12)
        assert 0 < expected.mean() < 1 and ((shown > 0.1) & (shown < 0.9)).sum() > 6
        assert np.abs(shown - expected).max() < 0.3 and np.abs(shown - expected).mean() < 0.03


def test_an_open_mouth_shuts_without_a_trace(space: ExpressionSpace, speaking: np.ndarray) -> None:
    """A picture of an open mouth, its hole drawn: shut, nothing of the hole is left."""
    own = reference_mesh() * UNIT + MIDDLE
    mesh = torch.from_numpy(own).float()[None]
    still = torch.zeros(1, space.components)
    shut = space.move(mesh, still, still[None])[0, 0].double().numpy()
    assert np.abs(shut[INNER_PAIRS[:, 1], 1] - shut[INNER_PAIRS[:, 0], 1]).max() < 0.01
    for margin, left in ((0, 0.04), (2, 0.0)):  # an edge within the lips is shown as far as it goes
        picture = np.full((*SHAPE, 3), RED, np.uint8)
        picture[distance(own[INNER_LIPS]) > margin] = GREEN
        out = FaceRenderer(picture, MeshWarp(own, speaking), Painted(BLUE)).draw(shut)
        assert int(out[..., 1].sum()) <= left * int(picture[..., 1].sum())
        assert not out[..., 2].any()


# --- any place, any motion ------------------------------------------------------------------------


def turned(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return geometry.transform(points, matrix)


def test_a_tilted_face_is_drawn_as_the_upright_one(
    shut: np.ndarray, speech: list[np.ndarray], speaking: np.ndarray
) -> None:
    """Picture and mesh turned by 40 degrees, then drawn; or drawn, then turned."""
    c, s = np.cos(np.radians(40)), np.sin(np.radians(40))
    matrix = np.array([[c, -s, 0], [s, c, 0]])
    matrix[:, 2] = [300, 300] - matrix[:, :2] @ [200, 200]

    def turn(picture: np.ndarray) -> np.ndarray:
        flags = cv2.INTER_CUBIC
        return np.asarray(cv2.warpAffine(picture, matrix, (600, 600), flags=flags))

    picture = rounded(smooth())
    upright = FaceRenderer(picture, MeshWarp(shut, speaking), Painted())
    tilted = FaceRenderer(turn(picture), MeshWarp(turned(shut, matrix), speaking), Painted())
    for mesh in speech[:3]:
        off = np.abs(turn(upright.draw(mesh)).astype(int) - tilted.draw(turned(mesh, matrix)))
        inside = distance(turned(mesh[INNER_LIPS], matrix), (600, 600))
        assert off[inside < -3].mean() < 0.5
        assert np.quantile(off[inside < -3].max(-1), 0.999) < 12
        assert off[inside > 2].max() <= 1


PLACES = [(-190.0, 0.0), (200.0, 0.0), (0.0, -300.0), (0.0, 160.0), (-900.0, 0.0), (0.0, 5000.0)]


@pytest.mark.parametrize("place", PLACES)
def test_a_face_at_the_edge_or_outside_of_the_picture(
    shut: np.ndarray, speech: list[np.ndarray], speaking: np.ndarray, place: tuple[float, float]
) -> None:
    """Its visible part is drawn as in a larger picture."""
    large = np.pad(rounded(smooth()), ((300, 300), (300, 300), (0, 0)), mode="edge")
    cut = large[300:-300, 300:-300]
    for moving in (EVERY, speaking):
        for mesh in speech:
            out = FaceRenderer(cut, MeshWarp(shut + place, moving), Painted()).draw(mesh + place)
            assert out.shape == cut.shape and out.dtype == np.uint8
            whole = FaceRenderer(large, MeshWarp(shut + place + 300, moving), Painted())
            expected = whole.draw(mesh + place + 300)[300:-300, 300:-300]
            off = np.abs(out.astype(int) - expected)
            assert off[2:-2, 2:-2].max() <= 1 and off.mean() < 0.01  # a cut outline is rounded


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (2, 2)])
@pytest.mark.parametrize("unit", [0.3, 4.0, 60.0])
def test_a_picture_or_a_face_of_few_pixels(
    shut: np.ndarray, speech: list[np.ndarray], size: tuple[int, int], unit: float
) -> None:
    picture = noise(size)
    for place in ([0.0, 0.0], [0.0, -unit], [30.0, 1.0]):
        own, mesh = ((m - MIDDLE) / UNIT * unit + place for m in (shut, speech[2]))
        face = FaceRenderer(picture, MeshWarp(own, EVERY), Painted())
        assert face.draw(mesh).shape == picture.shape
        assert np.array_equal(face.draw(own), picture)


def test_a_motion_that_folds_the_picture_is_drawn(shut: np.ndarray, speaking: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    torn = shut.copy()
    torn[LOWER_INNER] += [0, 1.5 * UNIT]
    wild = shut + rng.normal(0, 0.3 * UNIT, shut.shape)
    upside = shut * [1, -1] + [0, 2 * shut[:, 1].mean()]
    for moving in (EVERY, speaking):
        face = FaceRenderer(noise(), MeshWarp(shut, moving), Painted())
        for mesh in (torn, wild, upside, np.broadcast_to(MIDDLE, shut.shape)):
            for flow in face.warp.flows(mesh):
                assert np.isfinite(flow).all() and np.abs(flow).max() < 20 * UNIT
            out = face.draw(mesh)
            assert out.shape == noise().shape and out.dtype == np.uint8
        assert np.array_equal(face.draw(shut), noise())  # nothing is remembered


# --- crops into pictures --------------------------------------------------------------------------


def similarity(scale: float, degrees: float, x: float, y: float) -> np.ndarray:
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[c, -s, x], [s, c, y]])


CROPS = {
    "inside": similarity(0.6, 8, -40, -20),
    "over the edge": similarity(0.5, -15, 30, 40),
    "enlarged": similarity(2.0, 3, -250, -200),
}


@pytest.mark.parametrize("place", CROPS)
def test_no_change_leaves_the_picture_bit_for_bit(place: str) -> None:
    picture = noise((240, 300))
    out = picture.copy()
    crop, blender = noise((128, 128)), Blender(picture.shape, CROPS[place], 128)
    blender.add(out, np.zeros((128, 128, 3), np.float32))
    blender.replace(out, crop, crop)
    assert np.array_equal(out, picture)


@pytest.mark.parametrize("place", CROPS)
def test_a_crop_touches_its_own_square_only(place: str) -> None:
    matrix, picture = CROPS[place], rounded(smooth((240, 300)))
    crop = geometry.warp_crop(picture, matrix, 128)
    blender = Blender(picture.shape, matrix, 128)
    inside = turned(pixels((240, 300)), matrix)
    outside = ((inside < -1.5) | (inside > 128.5)).any(-1)
    heart = ((inside > 20) & (inside < 108)).all(-1)
    assert outside.any() and heart.any()
    replaced, added = picture.copy(), picture.copy()
    blender.replace(replaced, 255 - crop, crop)
    blender.add(added, 255 - 2 * crop.astype(np.float32))
    for out in (replaced, added):
        assert np.array_equal(out[outside], picture[outside])
        off = np.abs(out[heart].astype(int) - (255 - picture[heart].astype(int)))
        assert off.mean() < 2


@pytest.mark.parametrize("rows", [(0, 128), (56, 128), (40, 90)])
def test_the_edge_of_a_crop_is_no_seam(rows: tuple[int, int]) -> None:
    """Nor that of a change that reaches the crop's own border."""
    picture, matrix = np.full((240, 300, 3), 100, np.uint8), CROPS["inside"]
    blender, change = Blender(picture.shape, matrix, 128), np.zeros((128, 128, 3), np.float32)
    ramp = np.clip((np.arange(128) - rows[0]) / 12, 0, 1) if rows[0] else np.ones(128)
    ramp = ramp * np.clip((rows[1] - np.arange(128)) / 12, 0, 1) if rows[1] < 128 else ramp
    change += 60 * ramp[:, None, None].astype(np.float32)
    added, replaced = picture.copy(), picture.copy()
    blender.add(added, change)
    own = np.full((128, 128, 3), 100, np.uint8)
    blender.replace(replaced, np.rint(100 + change).astype(np.uint8), own)
    for out in (added, replaced):
        assert out.max() == 160 and out.min() == 100
        steps = [np.abs(np.diff(out.astype(int), axis=axis)).max() for axis in (0, 1)]
        assert max(steps) <= 60 / 8  # the ramp of 0.08 sides spreads the step over many pixels


def test_a_crop_is_laid_where_it_is_new_alone() -> None:
    """Three crop pixels around what changed, the picture is as it was."""
    picture, matrix = noise((400, 400)), similarity(0.32, 0, 0, 0)
    own = geometry.warp_crop(picture, matrix, 128)
    crop, out = own.copy(), picture.copy()
    crop[40:60, 50:80] = 255 - crop[40:60, 50:80]
    Blender(picture.shape, matrix, 128).replace(out, crop, own)
    at = turned(pixels((400, 400)), matrix)
    away = ((at < [45, 35]) | (at > [84, 64])).any(-1)
    assert np.array_equal(out[away], picture[away])
    large = cv2.warpAffine(crop, matrix, (400, 400), flags=cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR)
    heart = ((at >= [50, 40]) & (at <= [79, 59])).all(-1)
    assert np.abs(out[heart].astype(int) - large[heart]).max() <= 1


def test_fine_detail_of_the_picture_stays_under_a_change() -> None:
    picture, matrix = noise((400, 400)) // 2 + 40, similarity(0.32, 0, 0, 0)
    out = picture.copy()
    Blender(picture.shape, matrix, 128).add(out, np.full((128, 128, 3), 3, np.float32))
    heart = np.s_[100:300, 100:300]
    assert np.array_equal(out[heart], picture[heart] + 3)


# --- crops of a batch -----------------------------------------------------------------------------


def test_crops_are_drawn_as_pictures_are(
    shut: np.ndarray, speech: list[np.ndarray], speaking: np.ndarray
) -> None:
    """Sample by sample, and no sample touches another."""
    size, count = 128, 3
    shown = np.stack([noise((size, size), seed) for seed in range(count)])
    images = torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 127.5 - 1
    scale = size / SHAPE[0]
    crops = np.stack([shut * scale, shut * scale * 0.9, shut * scale + 7.5])
    moved = np.stack([np.stack([mesh * scale, mesh * scale + 2]) for mesh in speech[:count]])
    points, meshes = (torch.from_numpy(m / size).float() for m in (crops, moved))
    moving = torch.from_numpy(speaking)
    made = CropRenderer(images, points, points, moving)(meshes)
    assert made.shape == (count, 2, 3, size, size) and made.abs().max() <= 1
    for sample in range(count):
        one = slice(sample, sample + 1)
        alone = CropRenderer(images[one], points[one], points[one], moving)(meshes[one])
        assert torch.equal(alone, made[one])
        own = points[sample].double().numpy() * size
        inside = MouthInterior(shown[sample], own, own)
        face = FaceRenderer(shown[sample], MeshWarp(own, speaking), inside)
        for t in range(2):
            expected = face.draw(meshes[sample, t].double().numpy() * size)
            levels = ((made[sample, t] + 1) * 127.5).permute(1, 2, 0).numpy()
            assert np.array_equal(np.rint(levels).astype(np.uint8), expected)
            assert np.abs(levels - expected).max() < 1e-3


def test_no_gradient_passes_through_a_drawn_crop(shut: np.ndarray, speaking: np.ndarray) -> None:
    points = torch.from_numpy(shut / SHAPE[0]).float()[None].requires_grad_()
    image = torch.zeros(1, 3, 64, 64, requires_grad=True)
    made = CropRenderer(image, points, points, torch.from_numpy(speaking))(points[:, None])
    assert not made.requires_grad
