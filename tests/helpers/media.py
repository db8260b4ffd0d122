"""Recordings and videos for the tests, written and read with PyAV alone: an oracle for our code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np


def clicks(rate: int, times: Sequence[float], seconds: float) -> np.ndarray:
    """(N,) float32: at each time the abrupt start of a 1.5 kHz burst of 4 ms."""
    sound = np.zeros(round(seconds * rate), np.float32)
    burst = 0.9 * np.cos(2 * np.pi * 1500 * np.arange(rate // 250) / rate)
    for time in times:
        start = round(time * rate)
        place = sound[start : start + len(burst)]
        place[:] = burst[: len(place)]
    return sound


def onsets(sound: np.ndarray, rate: int, times: Sequence[float]) -> np.ndarray:
    """Find the start of a burst within 0.1 s of each time, seconds."""
    found = []
    for time in times:
        first = max(0, round((time - 0.1) * rate))
        near = np.abs(sound[first : first + rate // 5])
        found.append((first + int(np.argmax(near > near.max() / 3))) / rate)
    return np.array(found)


def write_sound(path: Path, sound: np.ndarray, rate: int, codec: str) -> Path:
    """Encode (N,) or (channels, N) float32."""
    sound = np.atleast_2d(sound).astype(np.float32)
    layout = {1: "mono", 2: "stereo"}[sound.shape[0]]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), "fltp", layout)
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(stream.format.name, layout, rate)
        pieces = [*resampler.resample(frame), *resampler.resample(None)] if sound.size else []
        container.start_encoding()
        for piece in pieces:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


def write_video(
    path: Path,
    frames: Iterable[tuple[Fraction, np.ndarray]],
    codec: str,
    rate: Fraction = Fraction(25),
) -> Path:
    """Encode (time in seconds, (H, W, 3) uint8) at whatever times they come; no sound.

    rate: frames per second, of the last frame's length.
    """
    with av.open(str(path), "w") as container:
        stream: Any = None
        for time, picture in frames:
            if stream is None:
                options = {"crf": "8"} if codec == "libx264" else {}
                stream = container.add_stream(codec, rate=rate, options=options)
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = Fraction(1, 30000)
                stream.time_base = Fraction(1, 30000)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = round(time * 30000), Fraction(1, 30000)
            container.mux(stream.encode(frame))
        assert stream is not None
        container.mux(stream.encode(None))
    return path


def decode_sound(path: Path) -> tuple[np.ndarray, int]:
    """((channels, N), rate) as an ordinary player plays it: by the frames' own time stamps."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        rate = frames[0].sample_rate
        start = round((frames[0].time or 0.0) * rate)
        sound = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
        return np.pad(sound, ((0, 0), (max(0, start), 0))), rate


def decode_video(path: Path) -> list[tuple[float, np.ndarray]]:
    """(time in seconds, picture) of every frame."""
    with av.open(str(path)) as container:
        return [
            (frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)
        ]


def write_film(path: Path, frames: Sequence[np.ndarray], sound: np.ndarray | None) -> Path:
    """Pictures (H, W, 3) uint8 at 25 per second with (N,) float32 at 16 kHz, in the container that
    the name says: H.264 and AAC, or MPEG-1 and MP2 for .mpg."""
    old = path.suffix == ".mpg"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg1video" if old else "libx264", rate=25)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        if old:
            video.bit_rate = 3_000_000
        streams: list[Any] = [video]
        if sound is not None:
            rate = 44_100 if old else 16_000
            audio = container.add_stream("mp2" if old else "aac", rate=rate, layout="mono")
            streams.append(audio)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
        if sound is not None:
            whole = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), "fltp", "mono")
            whole.sample_rate, whole.pts, whole.time_base = 16_000, 0, Fraction(1, 16_000)
            size = audio.codec_context.frame_size or 1152
            resampler = av.AudioResampler(audio.format.name, "mono", rate, frame_size=size)
            for piece in (*resampler.resample(whole), *resampler.resample(None)):
                container.mux(audio.encode(piece))
        for stream in streams:
            container.mux(stream.encode(None))
    return path
