from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from talkingface.errors import OutputError
from talkingface.video_formats import Coding, Colours, Container
from talkingface.video_writing import VideoWriter

LOSSLESS = Coding(options={"qp": "0", "preset": "ultrafast"})


def planes(k: int) -> list[np.ndarray]:
    rng = np.random.default_rng(k)
    return [rng.integers(16, 236, size, dtype=np.uint8) for size in ((34, 50), (17, 25), (17, 25))]


def written_planes(path: Path) -> list[tuple[Fraction, list[np.ndarray]]]:
    with av.open(str(path)) as container:
        found = []
        frames: Iterator[Any] = container.decode(video=0)
        for frame in frames:
            arrays = [
                np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width]
                for plane in frame.planes
            ]
            found.append((frame.pts * frame.time_base, arrays))
        return found


def test_planes_pass_unchanged_at_their_own_times(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    steps = np.random.default_rng(0).choice([1, 2, 3, 7], size=12)
    times = [Fraction(int(step), 60) for step in np.cumsum(steps) - steps[0]]
    with VideoWriter(path, path, (33, 49), coding=LOSSLESS, time_base=Fraction(1, 90_000)) as file:
        for k, time in enumerate(times):
            file.add_planes(planes(k), time)
        file.finish()
    found = written_planes(path)
    assert [time for time, _ in found] == times
    for k, (_, arrays) in enumerate(found):
        assert all(np.array_equal(a, b) for a, b in zip(arrays, planes(k), strict=True))


def test_planes_of_another_size_or_number(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path, path, (34, 50)) as file:
        with pytest.raises(ValueError, match="a plane of 50 x 33, expected 50 x 34"):
            file.add_planes([planes(0)[0][:33], *planes(0)[1:]])
        with pytest.raises(ValueError, match="1 planes for yuv420p"):
            file.add_planes(planes(0)[:1])
        file.add_planes(planes(0))
        file.finish()


@pytest.mark.parametrize(("matrix", "full"), [(1, False), (1, True), (5, False)])
def test_rgb_is_converted_by_the_colours_that_the_file_tells(
    tmp_path: Path, matrix: int, full: bool
) -> None:
    red, green, blue = (200, 90, 40)
    colours = Colours(primaries=1, transfer=1, matrix=matrix, full=full)
    path = tmp_path / "a.mkv"
    coding = Coding(options={"qp": "0"}, pixels="yuv444p", colours=colours)
    with VideoWriter(path, path, (16, 16), container=Container("matroska"), coding=coding) as file:
        file.add(np.full((16, 16, 3), (red, green, blue), np.uint8))
        file.finish()
    # ITU-R BT.709 and BT.601: luma is a weighted sum, chroma a scaled difference from it
    kr, kb = {1: (0.2126, 0.0722), 5: (0.299, 0.114)}[matrix]
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    differences = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    scale, foot, reach = (1, 0, 1) if full else (219 / 255, 16, 224 / 255)
    expected = [foot + scale * luma, *(128 + reach * own for own in differences)]
    ((_, arrays),) = written_planes(path)
    assert [float(own.mean()) for own in arrays] == pytest.approx(expected, abs=1)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range) == (matrix, 2 if full else 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the full device of Linux")
def test_a_full_disk_is_named_and_leaves_no_file_open(tmp_path: Path) -> None:
    def opened() -> set[str]:
        return {os.readlink(own) for own in Path("/proc/self/fd").iterdir() if own.is_symlink()}

    link = tmp_path / "a.mp4"
    link.symlink_to("/dev/full")
    with (
        pytest.raises(OutputError, match="No space left"),
        VideoWriter(link, link, (64, 64)) as own,
    ):
        for _ in range(50):
            own.add(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
        own.finish()
    assert "/dev/full" not in opened()
