"""Read the frames of a source video in the order in which a dubbed video shows them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from talkingface.stored_video import StoredFrame, StoredVideo, read_stored

_WINDOW = 256 << 20  # bytes of frames that are kept to be shown backwards


def read_order(
    path: Path, video: StoredVideo, stamps: Sequence[int | None], order: Sequence[int]
) -> Iterator[StoredFrame]:
    """Yield a frame with its planes for each number in `order`.

    Memory does not depend on the length: forwards frames come one by one, backwards in windows.

    stamps: time stamps of all frames of the file. order: numbers of frames.
    Raises UnreadableMedia.
    """
    layout, shown, number = video.layout, None, -1
    most = max(1, _WINDOW // (6 * layout.height * layout.width))
    for first, last in _runs(order, most):
        if shown is not None and first == last == number:
            yield shown
            continue
        low, high = min(first, last), max(first, last)
        frames = read_stored(path, layout, planes=True, first=low, start=stamps[low])
        with closing(frames):
            part = itertools.islice(frames, high - low + 1)
            for shown in part if first <= last else reversed(list(part)):
                yield shown
        number = last


def _runs(order: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Cut an order into runs upwards of any length, and downwards of `most` frames.

    Each is its first and its last number; a number that is repeated is a run of its own.
    """
    begin = 0
    while begin < len(order):
        end = begin + 1
        step = order[end] - order[begin] if end < len(order) else 1
        if step in (1, -1):
            while end < len(order) and order[end] - order[end - 1] == step:
                if step < 0 and end - begin >= most:
                    break
                end += 1
        yield order[begin], order[end - 1]
        begin = end
