"""The lip reader: its words, the mouth it is shown, independence from padding and neighbours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from talkingface.geometry import CropSpec
from talkingface.metrics.lips import mouth_box
from talkingface.models.lipreader import (
    GRID_WORDS,
    READERS,
    LipReader,
    MouthSpec,
    PublishedLipReader,
    PublishedReaderConfig,
    SmallLipReader,
    SmallReaderConfig,
    cut_words,
    mouth_crops,
)

SMALL_MOUTH = MouthSpec(height=16, width=16)
TINY_SMALL = SmallReaderConfig(
    words=5, mouth=SMALL_MOUTH, channels=(4, 8, 8), feature=12, hidden=8, dropout=0.2
)
TINY_PUBLISHED = PublishedReaderConfig(
    words=5, mouth=replace(SMALL_MOUTH, grey=False), channels=(4, 6, 8), feature=12, hidden=8
)
MAKERS = [
    pytest.param(lambda: SmallLipReader(TINY_SMALL), id="small"),
    pytest.param(lambda: PublishedLipReader(TINY_PUBLISHED), id="published"),
]
Make = Callable[[], LipReader]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def mouths(reader: LipReader, batch: int, time: int, seed: int = 0) -> Tensor:
    spec = reader.config.mouth
    return noise(batch, time, spec.channels, spec.height, spec.width, seed=seed)


def landmarks(batch: int, time: int, x: float, y: float) -> Tensor:
    """Faces whose mouth corners' middle is at crop pixel (x, y) of 128."""
    points = torch.full((batch, time, 68, 2), 0.9)
    points[:, :, 48] = torch.tensor([x - 11, y + 3]) / 128
    points[:, :, 54] = torch.tensor([x + 11, y - 3]) / 128
    return points


def test_grid_words() -> None:
    assert len(GRID_WORDS) == len(set(GRID_WORDS)) == 51
    letters = [word for word in GRID_WORDS if len(word) == 1]
    assert letters == sorted(set("abcdefghijklmnopqrstuvxyz"))
    slots = [("bin", "set"), ("blue", "white"), ("at", "with"), ("a", "z"), ("zero", "nine")]
    sizes = [GRID_WORDS.index(last) - GRID_WORDS.index(first) + 1 for first, last in slots]
    assert sizes == [4, 4, 4, 25, 10]


def test_published_size_is_the_released_codes() -> None:
    # 5.304 M with 500 words, counted layer by layer
    layers = [(5, 3, 16), (3, 16, 32), (3, 32, 64)]
    convolutions = sum(kernel**2 * i * o + o + 2 * o for kernel, i, o in layers)
    dense = 1600 * 512 + 512 + 2 * 512
    lstm = 2 * (4 * 512 * (512 + 512) + 2 * 4 * 512)
    expected = convolutions + dense + lstm + 512 * 500 + 500
    reader = PublishedLipReader(PublishedReaderConfig(words=500))
    assert sum(p.numel() for p in reader.parameters()) == expected == 5_304_308


def test_lean_reader_is_lean() -> None:
    reader = SmallLipReader()
    assert sum(p.numel() for p in reader.parameters()) < 1_000_000
    assert reader.eval()(mouths(reader, 2, 7), torch.tensor([7, 3])).shape == (2, 51)


def test_registry_names_pairs_that_fit() -> None:
    for reader, config in READERS.values():
        assert isinstance(reader(config()).config, config)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", MAKERS)
def test_padding_changes_nothing(make: Make) -> None:
    reader = make().eval()
    lengths = torch.tensor([6, 3, 1])
    clean = mouths(reader, 3, 6)
    wild = clean.clone()
    for row, length in enumerate(lengths.tolist()):
        wild[row, length:] = 77.0
    out = reader(wild, lengths)
    torch.testing.assert_close(out, reader(clean, lengths))
    for row, length in enumerate(lengths.tolist()):
        alone = reader(clean[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(out[row], alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", MAKERS)
def test_padding_does_not_reach_the_batch_statistics(make: Make) -> None:
    lengths = torch.tensor([5, 2])
    states = []
    for fill in (0.0, 50.0):
        torch.manual_seed(0)
        reader = make().train()
        clip = mouths(reader, 2, 5)
        clip[1, 2:] = fill
        reader(clip, lengths)
        states.append(reader.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], msg=name)


@pytest.mark.parametrize("make", MAKERS)
def test_no_sample_influences_another_in_eval_mode(make: Make) -> None:
    reader = make().eval()
    lengths = torch.tensor([4, 6])
    clip = mouths(reader, 2, 6)
    other = torch.cat([clip[:1], mouths(reader, 1, 6, seed=1)])
    torch.testing.assert_close(reader(clip, lengths)[0], reader(other, lengths)[0])


@pytest.mark.parametrize("make", MAKERS)
def test_every_valid_frame_is_read_and_no_other(make: Make) -> None:
    reader = make().eval()
    clip = mouths(reader, 1, 7).requires_grad_()
    reader(clip, torch.tensor([5])).square().sum().backward()
    assert clip.grad is not None
    seen = clip.grad.abs().sum((0, 2, 3, 4)) > 0
    assert seen.tolist() == [True] * 5 + [False] * 2


@pytest.mark.parametrize("make", MAKERS)
def test_bfloat16_autocast(make: Make) -> None:
    torch.manual_seed(0)
    reader = make().eval()
    clip, lengths = mouths(reader, 2, 5), torch.tensor([5, 2])
    exact = reader(clip, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = reader(clip, lengths)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("make", MAKERS)
def test_learns_which_way_a_bar_moves(make: Make) -> None:
    """Only motion tells the classes apart: any single frame is the same for both."""
    torch.manual_seed(0)
    reader = make()
    spec = reader.config.mouth
    rng = np.random.default_rng(0)

    def batch(count: int) -> tuple[Tensor, Tensor, Tensor]:
        labels = torch.from_numpy(rng.integers(0, 2, count))
        lengths = torch.from_numpy(rng.integers(4, 7, count))
        clip = torch.from_numpy(rng.normal(0, 0.1, (count, 6, spec.channels, 16, 16))).float()
        for row in range(count):
            start = int(rng.integers(0, 16))
            for t in range(6):
                step = 3 * t * (1 if labels[row] else -1)
                clip[row, t, :, (start + step) % 16] += 1.0
        return clip, lengths, labels

    optimizer = torch.optim.Adam(reader.parameters(), 1e-2)
    for _ in range(80):
        clip, lengths, labels = batch(32)
        loss = F.cross_entropy(reader(clip, lengths), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    clip, lengths, labels = batch(100)
    right = (reader.eval()(clip, lengths).argmax(1) == labels).float().mean()
    assert float(right) > 0.9


def test_reader_refuses_other_mouths() -> None:
    with pytest.raises(ValueError, match=r"\(B, T, 1, 36, 48\)"):
        SmallLipReader()(noise(1, 3, 3, 36, 48), torch.tensor([3]))
    with pytest.raises(ValueError, match="lengths"):
        SmallLipReader()(noise(2, 3, 1, 36, 48), torch.tensor([3]))


@pytest.mark.parametrize(("x", "y"), [(64.0, 84.0), (61.3, 86.8), (20.4, 110.0), (64.5, 83.5)])
def test_crops_equal_opencv(x: float, y: float) -> None:
    frames = noise(1, 2, 3, 128, 128)
    spec = MouthSpec(grey=False)
    out = mouth_crops(frames, landmarks(1, 2, x, y), spec)
    assert out.shape == (1, 2, 3, 36, 48)
    middle = y + (spec.below - spec.above) / 2 * 128
    for t in range(2):
        picture = np.ascontiguousarray(frames[0, t].permute(1, 2, 0).numpy())
        expected = cv2.getRectSubPix(picture, (48, 36), (x, middle))
        np.testing.assert_allclose(out[0, t].permute(1, 2, 0).numpy(), expected, atol=2e-3)


def test_crops_scale_with_the_crop_and_the_spec() -> None:
    # on a linear ramp bilinear sampling is exact at any scale: the values are the coordinates
    size = 64
    columns = torch.arange(size).float().expand(size, size)
    frames = torch.stack([columns, columns.T, columns * 0])[None, None] / size
    spec = MouthSpec(height=9, width=8, grey=False)
    out = mouth_crops(frames, landmarks(1, 1, 60, 80), spec)[0, 0] * size
    expected_x = 30 + (np.arange(8) + 0.5 - 4) * (24 / 8)
    expected_y = 40 - 7 + (np.arange(9) + 0.5) * (18 / 9)
    np.testing.assert_allclose(out[0, 0].numpy(), expected_x, atol=1e-3)
    np.testing.assert_allclose(out[1, :, 0].numpy(), expected_y, atol=1e-3)


def test_crops_follow_each_frames_landmarks_or_one_for_all() -> None:
    frames = noise(2, 3, 3, 128, 128)
    points = landmarks(2, 3, 64, 84)
    points[1, 2] = landmarks(1, 1, 50, 90)[0, 0]
    out = mouth_crops(frames, points, MouthSpec())
    assert out.shape == (2, 3, 1, 36, 48)
    one = mouth_crops(frames, points[:, :1], MouthSpec())
    torch.testing.assert_close(out[:, :2], one[:, :2])
    moved = mouth_crops(frames[1:, 2:], landmarks(1, 1, 50, 90), MouthSpec())
    torch.testing.assert_close(out[1:, 2:], moved)
    grey = (frames * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(2, keepdim=True)
    same = mouth_crops(grey.expand(-1, -1, 3, -1, -1), points, MouthSpec(grey=False))
    torch.testing.assert_close(out, same[:, :, :1], atol=1e-5, rtol=1e-5)


def test_gradient_reaches_the_boxs_pixels_and_never_the_box() -> None:
    frames = noise(1, 2, 3, 128, 128).requires_grad_()
    points = landmarks(1, 2, 64, 84).requires_grad_()
    spec = MouthSpec()
    mouth_crops(frames, points, spec).sum().backward()
    assert points.grad is None and frames.grad is not None
    touched = (frames.grad.abs().sum((0, 1, 2)) > 1e-4).nonzero()
    (top, left), (bottom, right) = touched.min(0).values.tolist(), touched.max(0).values.tolist()
    assert (left, right) == (40, 88) and (top, bottom) == (70, 106)
    # every sample of the box spreads a weight of one over the pixels
    assert float(frames.grad.sum()) == pytest.approx(2 * 36 * 48, rel=1e-4)


@pytest.mark.parametrize("make", MAKERS)
def test_a_frozen_reader_guides_the_pixels(make: Make) -> None:
    reader = make().eval().requires_grad_(False)
    frames = noise(2, 4, 3, 64, 64).requires_grad_()
    crops = mouth_crops(frames, landmarks(2, 1, 64, 84), reader.config.mouth)
    F.cross_entropy(reader(crops, torch.tensor([4, 2])), torch.tensor([1, 3])).backward()
    assert frames.grad is not None
    moved = frames.grad.abs().sum((2, 3, 4)) > 0
    assert moved.tolist() == [[True] * 4, [True, True, False, False]]
    assert (frames.grad[..., :20, :] == 0).all()  # nothing above the mouth


def test_the_default_box_holds_an_open_mouth_and_is_the_measures_box() -> None:
    face = CropSpec().template()
    face[55:60, 1] += 10  # the lower lip dropped by a quarter of the eyes' distance
    spec = MouthSpec()
    x, y = (face[48] + face[54]) / 2
    lip = face[48:68]
    assert (lip >= [x - spec.half_width * 128, y - spec.above * 128]).all()
    assert (lip <= [x + spec.half_width * 128, y + spec.below * 128]).all()
    box = mouth_box(face[None], 128)
    assert abs(box.left - (x - 24)) <= 0.5 and abs(box.top - (y - 14)) <= 0.5


def test_crops_refuse_other_landmarks() -> None:
    with pytest.raises(ValueError, match="68"):
        mouth_crops(noise(1, 2, 3, 32, 32), torch.zeros(1, 2, 20, 2), MouthSpec())


def test_cut_words_equals_a_naive_cut() -> None:
    frames = noise(3, 9, 3, 64, 64)
    points = landmarks(3, 9, 64, 84) + 0.02 * noise(3, 9, 68, 2, seed=1)
    spans = torch.tensor([[3, 5], [0, 4], [7, 9]])  # in the middle, at the start, at the end
    spec = MouthSpec()
    mouth, lengths = cut_words(frames, points, spans, spec, margin=2)
    assert lengths.tolist() == [6, 6, 4]
    for row, (begin, end) in enumerate([(1, 7), (0, 6), (5, 9)]):
        box = points[row : row + 1, begin:end].mean(1, keepdim=True)
        expected = mouth_crops(frames[row : row + 1, begin:end], box, spec)[0]
        torch.testing.assert_close(mouth[row, : end - begin], expected)
        assert (mouth[row, end - begin :] == 0).all()
