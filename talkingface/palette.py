"""Colours of a GIF: one palette of 256 for all frames, of the first second.

FFmpeg's filters choose and dither. PyAV is imported inside the functions (see `media`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from av.filter import Graph
    from av.video.frame import VideoFrame

_SEEN = 25  # frames of which the palette is chosen
# An ordered pattern: what stands still keeps its dots, and compresses.
_DITHER = "dither=bayer:bayer_scale=4:diff_mode=rectangle:alpha_threshold=128"


class Palette:
    """Converts RGB or RGBA frames to frames of 256 colours; some are held back."""

    def __init__(self) -> None:
        self._waiting: list[VideoFrame] = []
        self._graph: Graph | None = None
        self._frames: Any = None

    def push(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """Push a frame, "rgb24" or "rgba"; yield those that are complete."""
        if self._graph is None:
            self._waiting.append(frame)
            if len(self._waiting) < _SEEN:
                return
            yield from self._begin()
        else:
            self._frames.push(frame)
        yield from self._ready()

    def finish(self) -> Iterator[VideoFrame]:
        """Yield the frames that were held back."""
        if self._graph is None and self._waiting:
            yield from self._begin()
        if self._graph is not None:
            self._frames.push(None)
            yield from self._ready()

    def _begin(self) -> Iterator[VideoFrame]:
        from av.filter import Graph

        first = self._waiting[0]
        graph = Graph()
        self._frames = _source(graph, first)
        colours = _chosen(self._waiting)
        palette = _source(graph, colours)
        use = graph.add("paletteuse", _DITHER)
        self._frames.link_to(use, 0, 0)
        palette.link_to(use, 0, 1)
        use.link_to(graph.add("buffersink"))
        graph.configure()
        palette.push(colours)
        palette.push(None)
        self._graph = graph
        for frame in self._waiting:
            self._frames.push(frame)
            yield from self._ready()
        self._waiting = []

    def _ready(self) -> Iterator[VideoFrame]:
        return _pulled(self._graph)


def _source(graph: Graph, frame: VideoFrame) -> Any:
    return graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base or Fraction(1, 100),
    )


def _chosen(frames: Sequence[VideoFrame]) -> VideoFrame:
    """Return a palette of frames, 16 x 16."""
    from av import VideoFrame
    from av.filter import Graph

    graph = Graph()
    source = _source(graph, frames[0])
    choose, sink = graph.add("palettegen", "stats_mode=full"), graph.add("buffersink")
    source.link_to(choose)
    choose.link_to(sink)
    graph.configure()
    for frame in frames:
        source.push(frame)
    source.push(None)
    found = next(iter(_pulled(graph)))
    copy = VideoFrame.from_ndarray(np.asarray(found.to_ndarray(format="rgba"), np.uint8), "rgba")
    copy.pts, copy.time_base = 0, frames[0].time_base
    return copy


def _pulled(graph: Any) -> Iterator[VideoFrame]:
    """Yield the frames that a graph has ready."""
    import av

    while True:
        try:
            yield graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
