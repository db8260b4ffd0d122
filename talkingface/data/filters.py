"""Filters of training clips: Song et al. 2019, Sec. 4.1, drop extreme poses and noise.

Every clip is measured. Every limit has a name and can be changed or switched off. Every drop names
the measure that was beyond its limit. docs/corpora.md says how the limits were found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any, Literal, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from talkingface import weights
from talkingface.audio import HOP, SAMPLE_RATE
from talkingface.errors import BadRequest
from talkingface.faces import Track, find_faces
from talkingface.landmarks import EYES
from talkingface.metrics import sync
from talkingface.models.measures.sync import SyncNet
from talkingface.types import Picture

KEPT = "kept"
UNREADABLE = "unreadable"
CRASHED = "crashed"  # its process died twice, or an unexpected error came
NO_SOUND = "no sound"
NO_FACE = "no face"
TURNED = "turned away"
SMALL = "small face"
CROWD = "several faces"
CUT = "cut shot"
NO_SPEECH = "no speech"
NOISE = "noise"
ASYNC = "out of sync"
SHORT = "too short"
REASONS = (
    *(UNREADABLE, CRASHED, NO_SOUND, NO_FACE, TURNED, SMALL, CROWD),
    *(CUT, NO_SPEECH, NOISE, ASYNC, SHORT),
)

Action = Literal["correct", "drop", "keep"]  # for sound that is early or late
SYNC_FRAMES = 75  # the length of a clip that `Filters.confidence` refers to


@dataclass(frozen=True)
class Filters:
    """The limits of a clip that is kept; None switches one off.

    yaw, pitch, roll: degrees, the median's most. found: least share of frames with a face. eyes:
    least distance of the eye centres in the source, pixels (40 in the crop). others: most that the
    second face may be of the first, by area. cut: most that a picture may differ from the one
    before, in units of what its neighbours do. speech: least share of the time. snr: least dB, see
    `snr`. offset: frames that lips and sound may be apart, where an estimate is as sure as
    `confidence` (see `is_reliable`); beyond, `action`: the sound is moved, or the clip dropped, or
    only measured. sync: the embedding that estimates it, a name or a .safetensors file.
    """

    yaw: float | None = 40.0
    pitch: float | None = 30.0
    roll: float | None = 40.0
    found: float | None = 0.9
    eyes: float | None = 16.0
    others: float | None = 0.3
    cut: float | None = 2.5
    speech: float | None = 0.15
    snr: float | None = 10.0
    offset: float | None = 1.0
    confidence: float = 0.2
    action: Action = "correct"
    sync: str = "sync"


@dataclass(frozen=True)
class Limit:
    """Description of a measure. most: its limit is an upper bound, otherwise a lower one."""

    name: str
    reason: str
    most: bool
    unit: str
    about: str

    def text(self, value: float | None) -> str:
        """Return the limit in words: "at most 40 degrees", or "not asked for"."""
        if value is None:
            return "not asked for"
        return f"at {'most' if self.most else 'least'} {value:g} {self.unit}".rstrip()


LIMITS = (
    Limit("found", NO_FACE, False, "", "share of frames in which a face is found"),
    Limit("yaw", TURNED, True, "degrees", "head turned left or right, median"),
    Limit("pitch", TURNED, True, "degrees", "head turned up or down, median"),
    Limit("roll", TURNED, True, "degrees", "head tilted, median"),
    Limit("eyes", SMALL, False, "pixels", "distance of the eye centres in the source"),
    Limit("others", CROWD, True, "", "area of a second face, of the first one's"),
    Limit("cut", CUT, True, "", "jump of the picture, in what its neighbours change"),
    Limit("speech", NO_SPEECH, False, "", "share of the time in which somebody speaks"),
    Limit("snr", NOISE, False, "dB", "loud tenth of the sound over its quiet tenth"),
    Limit("offset", ASYNC, True, "frames", "picture late (+) or early (-) against its sound"),
)
OTHER_OPTIONS = ("confidence", "action", "sync")


@dataclass(frozen=True)
class Drop:
    """The reason for dropping a clip, and the measure that was beyond its limit."""

    reason: str
    measure: str = ""
    value: float | None = None
    limit: float | None = None


Measures = Mapping[str, float]


def check(filters: Filters, measures: Measures) -> Drop | None:
    """Return the drop of the first measure that is beyond its limit; None without one.

    Missing measures and NaN pass. The offset is not checked here, see `Filters.action`.
    """
    for limit in LIMITS:
        value, bound = measures.get(limit.name), getattr(filters, limit.name)
        if limit.name == "offset" or value is None or bound is None or np.isnan(value):
            continue
        if abs(value) > bound if limit.most else value < bound:
            return Drop(limit.reason, limit.name, value, bound)
    return None


def with_limits(filters: Filters, items: Iterable[str]) -> Filters:
    """Return the filters with other limits: "yaw=25", "snr=off", "action=drop", "sync=FILE".

    Raises BadRequest, which lists the known limits.
    """
    known = [*(limit.name for limit in LIMITS), *OTHER_OPTIONS]
    for item in items:
        name, _, text = item.partition("=")
        if name not in known:
            raise BadRequest(
                f"--filter {item}: no measure is called {name!r}; known: {', '.join(known)}"
            )
        changed: dict[str, Any] = {name: _parsed(item, name, text)}
        filters = replace(filters, **changed)
    return filters


def _parsed(item: str, name: str, text: str) -> str | float | None:
    """Return the value of one option of `with_limits`. Raises BadRequest."""
    if name == "action" and text not in get_args(Action):
        raise BadRequest(f"--filter {item}: action is {', '.join(get_args(Action))}")
    if name in ("action", "sync"):
        return text
    if text == "off" and name != "confidence":
        return None
    try:
        value = float(text)
    except ValueError:
        raise BadRequest(f"--filter {item}: give a number, or off") from None
    if not (np.isfinite(value) and value >= 0):
        raise BadRequest(f"--filter {item}: give a number from 0 up, or off")
    return value


# --- sound ----------------------------------------------------------------------------------------

# Found on 198 recordings of GRID with word times, clean and with noise (docs/corpora.md).
_SPEECH_BAND = (100.0, 4000.0)  # Hz
_SPEECH_SMOOTHING = 9  # hops of 10 ms
_SPEECH_SHARE = 0.2  # of the way from the quiet tenth to the loud twentieth, in dB
_SPECTRUM = 512


def speech_activity(sound: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Detect speech in every whole 10 ms of samples (N,) at 16 kHz: (N // 160,) bool.

    The level between 100 and 4000 Hz, smoothed over 90 ms, must be above a fifth of the way, in dB,
    from the recording's quiet tenth to its loud twentieth. This separates speech from pauses, not
    from other sounds: noise alone gives about as much. The SNR detects noise.
    """
    count = len(sound) // HOP
    if count == 0:
        return np.zeros(0, bool)
    around = _SPECTRUM - HOP
    padded = np.pad(sound[: count * HOP].astype(np.float64), (around // 2, around - around // 2))
    pieces = np.lib.stride_tricks.sliding_window_view(padded, _SPECTRUM)[::HOP]
    power = np.square(np.abs(np.fft.rfft(pieces * np.hanning(_SPECTRUM), axis=1)))
    low, high = (round(hz * _SPECTRUM / SAMPLE_RATE) for hz in _SPEECH_BAND)
    level = 10 * np.log10(power[:, low:high].sum(1) + 1e-9)
    half = _SPEECH_SMOOTHING // 2
    smooth = np.convolve(
        np.pad(level, half, mode="edge"), np.ones(_SPEECH_SMOOTHING) / _SPEECH_SMOOTHING, "valid"
    )
    quiet, loud = np.quantile(smooth, [0.1, 0.95])
    return np.asarray(smooth > quiet + _SPEECH_SHARE * (loud - quiet))


def snr(sound: NDArray[np.float32]) -> float:
    """Estimate the SNR in dB: the loud tenth of 20 ms pieces over the quiet tenth.

    sound: (N,) samples at 16 kHz in [-1, 1]. At most 100; 0 for a sound as loud throughout. Reads
    2 to 4 dB more than the level of speech over that of noise; unlike that, it also works on clips
    of one word without a pause (docs/corpora.md).
    """
    piece = SAMPLE_RATE // 50
    count = len(sound) // piece
    if count == 0:
        return 0.0
    power = np.square(sound[: count * piece].reshape(count, piece)).mean(1)
    quiet, loud = np.quantile(power, [0.1, 0.9])
    return float(np.clip(10 * np.log10((loud + 1e-12) / (quiet + 1e-12)), 0, 100))


# --- pictures -------------------------------------------------------------------------------------

_THUMB = 48  # pixels: side of the pictures for finding cuts
_THUMB_FLOOR = 0.5  # grey levels: a smaller change is none
_FACES_AT_EYES = 20.0  # pixels between the eyes in the picture for finding other faces
_LOOKS = 3  # frames for finding other faces: first, middle, last


def cut_jump(frames: Sequence[Picture]) -> float:
    """Measure the largest jump of the picture: near 1 without a cut, 15 and more at most cuts.

    frames: (H, W, 3) uint8 RGB. The jump is a frame's mean change from the one before, over the
    largest change of its two neighbours on either side: a cut is isolated, a gesture is not.
    """
    if len(frames) < 3:
        return 0.0
    thumbs = [_thumb(frame) for frame in frames]
    change = np.array([np.abs(b - a).mean() for a, b in pairwise(thumbs)])
    padded = np.pad(change, 2, constant_values=0)
    near = np.max([padded[k : k + len(change)] for k in (0, 1, 3, 4)], axis=0)
    return float((change / (near + _THUMB_FLOOR)).max())


def _thumb(frame: Picture) -> NDArray[np.float32]:
    small = cv2.resize(frame, (_THUMB, _THUMB), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), dtype=np.float32)


def eye_distance(track: Track) -> float:
    """Return the pixels between the eye centres in the source, the median over the clip."""
    size = track.crops.shape[1]
    left, right = (track.landmarks[:, e].mean(1) * size for e in EYES)
    scale = np.sqrt(np.abs(np.linalg.det(track.matrices[:, :, :2])))
    return float(np.median(np.linalg.norm(right - left, axis=1) / scale))


def other_faces(frames: Sequence[Picture], eyes: float) -> float:
    """Return the area of the second largest face over the largest one's, median of three frames.

    eyes: pixels between the eyes of the tracked face, which decides the scale of detection. 0 where
    there is no second face.
    """
    looks = np.linspace(0, len(frames) - 1, min(_LOOKS, len(frames))).round().astype(int)
    ratios = []
    for frame in (_shrunk(frames[index], _FACES_AT_EYES / max(eyes, 1.0)) for index in looks):
        areas = [face.box[2] * face.box[3] for face in find_faces(frame)]
        ratios.append(areas[1] / areas[0] if len(areas) > 1 else 0.0)
    return float(np.median(ratios))


def _shrunk(picture: Picture, scale: float) -> Picture:
    if scale >= 1:
        return picture
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def angles(track: Track) -> dict[str, float]:
    """Return the clip's yaw, pitch and roll in degrees, medians (see `faces.pose`)."""
    names = ("yaw", "pitch", "roll")
    return {name: float(np.median(getattr(track, name))) for name in names}


# --- picture against sound ------------------------------------------------------------------------


def lip_offset(filters: Filters, track: Track, sound: NDArray[np.float32]) -> sync.Sync:
    """Estimate the lag of the picture behind its sound, by the filters' embedding (`metrics.sync`).

    sound: (N,) float32 at 16 kHz, sample 0 at the first frame.
    """
    points = track.landmarks * track.crops.shape[1]
    return sync.evaluate_sync(_net(filters.sync), track.crops, points, torch.from_numpy(sound))


def require_sync(filters: Filters) -> None:
    """Load what `lip_offset` needs. Raises BadRequest, UnknownModel, BadWeights."""
    if filters.offset is not None:
        _net(filters.sync)


def is_reliable(filters: Filters, measured: sync.Sync, frames: int) -> bool:
    """Return whether an estimated offset is reliable: `confidence` is the limit for 75 frames.

    The limit is higher for shorter clips, since a mean over fewer windows is less certain (its
    error grows with the square root). An estimate at the end of the search is not reliable.
    """
    least = filters.confidence * max(1.0, (SYNC_FRAMES / frames) ** 0.5)
    inside = abs(measured.offset) < len(measured.curve) // 2
    return bool(inside and measured.confidence >= least)


@cache
def _net(name: str) -> SyncNet:
    net = weights.load(name)
    if not isinstance(net, SyncNet):
        raise BadRequest(
            f"--filter sync={name}: is no embedding of lips and sound; give what `talkingface "
            "train sync` wrote"
        )
    return net.eval()
