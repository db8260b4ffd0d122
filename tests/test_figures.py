"""Figures: every frame where it belongs, one scale for all rows, words over what is spoken."""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.corpus import FRAMES, WORDS
from talkingface import video
from talkingface.audio import HOPS_PER_FRAME, SAMPLES_PER_FRAME, SpeechSpec
from talkingface.data.dataset import Cache, clip_speech
from talkingface.errors import BadRequest, OutputError
from talkingface.metrics.lips import PixelBox
from talkingface.metrics.motion import motion_intensity
from talkingface.reproduce import figures

Bytes = NDArray[np.uint8]
WHOLE = PixelBox(0, 0, 32, 32)
STEP = 34  # pixels from one column to the next: a side of 32 and a gap


def counting(channel: int, frames: int = 30) -> Bytes:
    """(frames, 32, 32, 3): frame t is 8 t in one channel, and nothing else."""
    video = np.zeros((frames, 32, 32, 3), np.uint8)
    video[..., channel] = 8 * np.arange(frames)[:, None, None]
    return video


def sliding(step: float, frames: int = 6, side: int = 96) -> Bytes:
    """A textured picture that slides to the right by `step` px per frame."""
    rough = np.random.default_rng(0).uniform(0, 255, (24, 48, 3)).astype(np.float32)
    wide = cv2.resize(rough, (2 * side, side), interpolation=cv2.INTER_CUBIC).clip(0, 255)
    shifts = [np.array([[1, 0, t * step - side / 2], [0, 1, 0]], np.float64) for t in range(frames)]
    moved = [cv2.warpAffine(wide, shift, (side, side), flags=cv2.INTER_CUBIC) for shift in shifts]
    return np.stack(moved).clip(0, 255).astype(np.uint8)


def tile(sheet: Bytes, row: int, column: int) -> list[int]:
    """The colour in the middle of a picture of `methods` of pictures of 32 px."""
    y = figures.HEADER + row * (figures.TITLE + STEP) + figures.TITLE + 16
    return [int(level) for level in sheet[y, figures.GAP + column * STEP + 16]]


def test_every_frame_stands_in_its_row_and_column() -> None:
    rows = {"real": counting(0), "made": counting(1), "other": counting(2)}
    sheet = figures.methods(rows, every=4, first=2, last=20, enlarged=1, part=WHOLE)
    assert sheet.shape[1] == figures.GAP + 5 * STEP  # frames 2, 6, 10, 14, 18
    for row in range(3):
        for column in range(5):
            expected = [0, 0, 0]
            expected[row] = 8 * (2 + 4 * column)
            assert tile(sheet, row, column) == expected
    turned = {name: rows[name] for name in ("other", "real", "made")}
    sheet = figures.methods(turned, every=4, first=2, last=20, enlarged=1, part=WHOLE)
    assert [np.flatnonzero(tile(sheet, row, 1)).tolist() for row in range(3)] == [[2], [0], [1]]


def test_a_part_is_cut_out_and_enlarged() -> None:
    video = counting(0)
    video[:, 20:28, 8:16] = (0, 200, 0)
    mouth = PixelBox(8, 20, 16, 28)
    sheet = figures.methods({"a": video}, first=10, last=11, enlarged=4, part=mouth)
    top = figures.HEADER + figures.TITLE
    assert sheet.shape[1] == figures.GAP + 32 + figures.GAP
    assert (sheet[top : top + 32, figures.GAP : figures.GAP + 32] == (0, 200, 0)).all()


def test_frames_run_from_the_first_word_to_the_last_in_few_columns() -> None:
    words = (("bin", 0.2, 0.5), ("blue", 0.5, 1.0))
    sheet = figures.methods({"a": counting(0)}, words, enlarged=1, part=WHOLE)
    shown = range(5, 25, 2)  # 20 frames, more than fit one by one
    assert len(shown) <= figures.COLUMNS
    assert sheet.shape[1] == figures.GAP + len(shown) * STEP
    assert [tile(sheet, 0, c)[0] for c in range(len(shown))] == [8 * t for t in shown]


def inked(line: NDArray[Any]) -> tuple[int, int]:
    """The first and the last column of the header's rows that are not white."""
    dark = np.flatnonzero((line < 200).any((0, 2)))
    return int(dark[0]), int(dark[-1])


def test_words_stand_over_their_frames() -> None:
    def header(*words: tuple[str, float, float]) -> Bytes:
        options: dict[str, Any] = {"every": 5, "first": 0, "last": 30, "enlarged": 1}
        return figures.methods({"a": counting(0)}, words, part=WHOLE, **options)[: figures.HEADER]

    first, last = inked(header(("by", 0.4, 0.8))[18:20])  # frames 10 to 20: columns 2 and 3
    assert abs(first - (2 * STEP + figures.GAP)) <= 3 and abs(last - (4 * STEP)) <= 3
    first, last = inked(header(("by", 0.4, 0.8))[:17])
    assert abs((first + last) / 2 - 3 * STEP) <= 4  # in the middle over them
    both = header(("by", 0.4, 0.8), ("at", 0.8, 1.2))
    first, last = inked(both[:17, 4 * STEP :])
    assert abs((first + last) / 2 - STEP) <= 4  # the second in the middle of columns 4 and 5
    assert (header()[:19] == 255).all()
    # a word that lasts 40 ms beside a long one has no room: nothing is written at a wrong place
    alone, crowded = (
        header(("seven", 0.4, 0.44)),
        header(("seven", 0.4, 0.44), ("soon", 0.44, 0.48)),
    )
    assert np.array_equal(alone[:17], crowded[:17])
    assert (header(("gone", 2.0, 2.4))[:21] == 255).all()  # after the last frame shown


def blocks(sheet: Bytes, many: int) -> list[Bytes]:
    """The blocks of `schemes`, one per row, without the header."""
    return np.split(sheet[figures.HEADER :], many)


def motion_map(block: Bytes) -> Bytes:
    """The middle of the motion-intensity map, at the right of a block of 96 px pictures."""
    tall = 2 * 96 + figures.TITLE + figures.GAP
    big = block[figures.TITLE : figures.TITLE + tall, -(tall + figures.GAP) : -figures.GAP]
    return big[60:-60, 60:-60]


def drawn(**rows: Bytes) -> list[Bytes]:
    return blocks(figures.schemes(rows, every=1, columns=3, part=PixelBox(0, 0, 96, 96)), len(rows))


def test_motion_maps_share_one_brightness() -> None:
    slow, fast, still = sliding(1.0), sliding(2.0), np.repeat(sliding(0.0)[:1], 6, 0)
    levels = [np.median(motion_map(b)) for b in drawn(slow=slow, fast=fast, still=still)]
    # the root of u^2 + v^2: half the speed is half as bright
    assert levels[0] == pytest.approx(levels[1] / 2, rel=0.1)
    assert levels[1] > 200 and levels[2] < 25
    alone = np.median(motion_map(drawn(slow=slow)[0]))
    assert alone > 1.8 * levels[0]  # beside a faster one it is darker
    (white,) = {figures._scale([motion_intensity(f) for f in (slow, fast, still)])}
    assert white == pytest.approx(4, rel=0.15)  # what the header says


def test_a_moved_row_is_drawn_where_it_is_moved_to() -> None:
    slow, fast = sliding(1.0), sliding(2.0)
    first, second = drawn(a=slow, b=fast)
    other, again = drawn(b=fast, a=slow)
    assert np.array_equal(first, again) and np.array_equal(second, other)
    assert not np.array_equal(first, second)


def test_flow_is_coloured_by_direction_and_speed() -> None:
    right, slow = sliding(2.0), sliding(1.0)
    left = right[::-1].copy()
    row = slice(2 * figures.TITLE + 96 + figures.GAP + 30, 2 * figures.TITLE + 96 + 90)
    column = slice(figures.GAP + 30, figures.GAP + 66)
    colours = [
        np.median(block[row, column], axis=(0, 1)) for block in drawn(r=right, l=left, s=slow)
    ]
    assert colours[0][0] > 200 and max(colours[0][1:]) < 60  # red
    assert colours[1][0] < 60 and min(colours[1][1:]) > 200  # the opposite
    assert 90 < min(colours[2][1:]) < 170  # half as fast, half as much colour
    frames = drawn(r=right)[0][figures.TITLE : figures.TITLE + 96]
    for c in range(3):  # above the flow stands the frame it starts from
        at = figures.GAP + c * (96 + figures.GAP)
        assert np.array_equal(frames[:, at : at + 96], right[c])


def test_drift_rises_where_a_face_walks_away_and_the_plot_is_always_the_same() -> None:
    pytest.importorskip("matplotlib")
    own = np.full((32, 32, 3), 90, np.uint8)
    calm = np.repeat(own[None], 100, 0)
    walking = np.stack([own + np.uint8(t // 2) for t in range(100)])
    plot = figures.drift_plot({"calm": calm, "walking": walking}, own)
    assert plot.ndim == 3 and plot.dtype == np.uint8
    heights = []
    for colour in figures.COLOURS[:2]:
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        place = np.argwhere((np.abs(plot.astype(int) - rgb) < 12).all(-1))
        curve = place[place[:, 1] < 0.7 * plot.shape[1]]  # left of the legend
        thirds = np.array_split(curve[np.argsort(curve[:, 1], kind="stable"), 0], 3)
        heights.append([float(np.median(part)) for part in thirds])
    flat, rising = heights
    assert max(flat) - min(flat) < 5
    assert rising[0] > rising[1] + 20 > rising[2] + 40  # rows count downwards
    again = figures.drift_plot({"calm": calm, "walking": walking}, own)
    assert np.array_equal(plot, again)


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OutputError, match=r"pip install 'talkingface\[figures\]'"):
        figures.drift_plot({"a": counting(0)}, counting(0)[0])


def test_figures_refuse_videos_that_do_not_fit_together() -> None:
    rows = {"a": counting(0, 30), "b": counting(0, 29)}
    with pytest.raises(ValueError, match="of one shape"):
        figures.methods(rows)
    with pytest.raises(ValueError, match="of one shape"):
        figures.schemes({})
    with pytest.raises(ValueError, match="no frame from 40"):
        figures.methods({"a": counting(0)}, first=40)
    with pytest.raises(ValueError, match="with a successor"):
        figures.schemes({"a": counting(0)}, first=29)


def test_a_long_clip_is_one_speaker_without_a_break(cache: Cache) -> None:
    long = figures.long_clip(cache, "test", seconds=3.0)
    clips = [c for c in cache.clips if c.split == "test"]
    assert long.keys == ("s1_test0", "s1_test1", "s1_test2")
    sound = [cache.samples(c, 0, FRAMES * SAMPLES_PER_FRAME).numpy() for c in clips]
    assert np.array_equal(long.sound.numpy(), np.concatenate(sound)[: 75 * SAMPLES_PER_FRAME])
    assert np.array_equal(long.picture, cache.frames[clips[0].start])
    for tensor, known in (
        (long.portrait.landmarks, cache.landmarks),
        (long.portrait.mesh, cache.mesh),
        (video.to_uint8(long.portrait.image), cache.frames),
    ):
        assert tensor is not None and np.array_equal(tensor[0], known[clips[0].start])
    shifted = [(w, a + 1.2 * n, b + 1.2 * n) for n in range(3) for w, a, b in WORDS]
    kept = [word for word in shifted if word[2] <= 3.0 + 1e-9]
    assert [w for w, _, _ in long.words] == [w for w, _, _ in kept]
    np.testing.assert_allclose([w[1:] for w in long.words], [w[1:] for w in kept])


def test_the_windows_of_a_long_clip_cross_its_joints(cache: Cache) -> None:
    spec = SpeechSpec()
    long = figures.long_clip(cache, "test", seconds=3.0)
    speech = long.speech(spec)
    assert speech.shape == (75, spec.hops, spec.coefficients)
    second = clip_speech(cache, next(c for c in cache.clips if c.key == "s1_test1"), spec)
    reach = -(-spec.hops // 2 // HOPS_PER_FRAME) + 1  # frames to where a joint has no effect
    far = slice(reach, FRAMES - reach)
    assert np.allclose(speech[FRAMES : 2 * FRAMES][far], second[far], atol=1e-4)
    assert not np.allclose(speech[FRAMES], second[0], atol=1e-1)  # alone it begins in silence
    # the window of a frame is the one before, four hops on: also over the joint
    np.testing.assert_allclose(
        speech[FRAMES, :-HOPS_PER_FRAME], speech[FRAMES - 1, HOPS_PER_FRAME:], atol=1e-4
    )


def test_a_long_clip_takes_who_speaks_most_and_refuses_what_is_not_there(cache: Cache) -> None:
    assert figures.long_clip(cache, "unseen", seconds=2.0).keys == ("s4_a", "s4_b")
    assert figures.long_clip(cache, "unseen", "s26", seconds=1.0).keys == ("s26_a",)
    with pytest.raises(BadRequest, match=r"has 1\.2 s of s26"):
        figures.long_clip(cache, "unseen", "s26", seconds=2.0)
    with pytest.raises(BadRequest, match=r"has 0 s of anybody"):
        figures.long_clip(cache, "nowhere")
