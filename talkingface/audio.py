"""Speech in, one window of features per video frame out.

Front-end numbers are derived here once; one that does not divide fails at import. Features use no
clip-wide statistic, so that what streams equals what is whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from talkingface import phones
from talkingface.errors import UnreadableMedia

SAMPLE_RATE = 16_000  # Hz, mono, float32 in [-1, 1]
FPS = 25  # video frames per second
HOP = 160  # samples: 10 ms
WINDOW = 400  # samples: 25 ms
N_FFT = 512
SAMPLES_PER_FRAME, _rest = divmod(SAMPLE_RATE, FPS)
assert _rest == 0, "a video frame must be a whole number of samples"
HOPS_PER_FRAME, _rest = divmod(SAMPLES_PER_FRAME, HOP)
assert _rest == 0, "a video frame must be a whole number of hops"


@dataclass(frozen=True)
class SpeechSpec:
    """The audio features of one model; lives in its config, so they cannot disagree with weights.

    kind: "mfcc" (orthonormal DCT-II of the log-mel spectrum, coefficient 0 dropped), "log_mel",
    "phones" (see `talkingface.phones`, whose mel spectrum is its own).
    coefficients: how many per hop; hops: how many 10 ms hops per window (35 = the paper's 350 ms),
    centred on the middle of the video frame. Hop k is centred on sample 160 k.
    """

    kind: Literal["mfcc", "log_mel", "phones"] = "mfcc"
    coefficients: int = 12
    hops: int = 35
    mels: int = 26
    low_hz: float = 0.0
    high_hz: float = 8000.0
    preemphasis: float = 0.97
    floor: float = 1e-4  # smallest mel power: what is quieter is silence

    def __post_init__(self) -> None:
        if self.hops <= HOPS_PER_FRAME:
            raise ValueError(f"a window must be longer than a frame ({HOPS_PER_FRAME} hops)")
        known = {"mfcc": self.mels - 1, "log_mel": self.mels, "phones": phones.FEATURES}
        most = known[self.kind]
        if not 0 < self.coefficients <= most:
            raise ValueError(f"{self.kind} of {self.mels} mels has at most {most} coefficients")

    @property
    def before(self) -> int:
        """Hops before a window that its features need."""
        return phones.BEFORE if self.kind == "phones" else 0

    @property
    def after(self) -> int:
        """Hops after a window that its features need."""
        return phones.AFTER if self.kind == "phones" else 0

    @property
    def first_sample(self) -> int:
        """The first sample that video frame 0 hears (negative: before the sound starts)."""
        first_hop = HOPS_PER_FRAME // 2 - self.hops // 2 - self.before
        return first_hop * HOP - WINDOW // 2 - 1  # one more for the pre-emphasis

    @property
    def samples(self) -> int:
        """How many samples one video frame hears."""
        return (self.before + self.hops + self.after - 1) * HOP + WINDOW + 1

    @property
    def latency(self) -> float:
        """Seconds of sound needed after the end of a video frame before it can be drawn."""
        return (self.first_sample + self.samples - SAMPLES_PER_FRAME) / SAMPLE_RATE


def frame_count(samples: int) -> int:
    """Video frames for a sound of so many samples at 16 kHz: the last, partial one counts."""
    return max(1, -(-samples // SAMPLES_PER_FRAME))


def _hz_to_mel(hz: np.ndarray) -> np.ndarray:
    return 2595.0 * np.log10(1.0 + hz / 700.0)


def mel_edges(mels: int, low_hz: float, high_hz: float) -> np.ndarray:
    """(mels + 2,) Hz: where the triangles begin, peak (one further) and end (two further)."""
    low, high = _hz_to_mel(np.array([low_hz, high_hz]))
    edges: np.ndarray = 700.0 * (10.0 ** (np.linspace(low, high, mels + 2) / 2595.0) - 1.0)
    return edges


@lru_cache(maxsize=16)
def mel_filters(mels: int, low_hz: float, high_hz: float) -> Tensor:
    """(N_FFT // 2 + 1, mels) triangles on the HTK mel scale, peak 1 (librosa: htk, norm=None)."""
    edges = mel_edges(mels, low_hz, high_hz)
    bins = np.arange(N_FFT // 2 + 1)[:, None] * SAMPLE_RATE / N_FFT
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.from_numpy(np.maximum(0.0, np.minimum(rising, falling))).float()


@lru_cache(maxsize=16)
def dct_matrix(mels: int, coefficients: int) -> Tensor:
    """(mels, coefficients): orthonormal DCT-II, rows 1 ... coefficients; the level is dropped."""
    n, k = np.arange(mels)[:, None], np.arange(1, coefficients + 1)[None]
    return torch.from_numpy(np.cos(np.pi * k * (n + 0.5) / mels) * np.sqrt(2.0 / mels)).float()


def hop_power(samples: Tensor, spec: SpeechSpec) -> Tensor:
    """Power spectrum of every whole hop in `samples` (..., N): (..., hops, N_FFT // 2 + 1).

    Hop i spans samples 1 + 160 i ... 400 + 160 i; sample 0 only feeds the pre-emphasis.
    """
    sound = samples[..., 1:] - spec.preemphasis * samples[..., :-1]
    frames = sound.unfold(-1, WINDOW, HOP) * torch.hann_window(WINDOW, device=samples.device)
    power: Tensor = torch.fft.rfft(frames, n=N_FFT).abs().square()
    return power


def hop_features(samples: Tensor, spec: SpeechSpec) -> Tensor:
    """Features of every whole hop in `samples` (..., N): (..., hops, coefficients).

    Of fewer hops where features need hops around them (`SpeechSpec.before`, `after`).
    """
    return power_features(hop_power(samples, spec), spec)


def power_features(power: Tensor, spec: SpeechSpec) -> Tensor:
    """Power spectra (..., hops, N_FFT // 2 + 1) to features (..., hops, coefficients), or of fewer
    hops, as `hop_features`."""
    if spec.kind == "phones":
        flat = power.reshape(-1, *power.shape[-2:])
        found = [phones.features(p, SAMPLE_RATE)[:, : spec.coefficients] for p in flat]
        return torch.stack(found).unflatten(0, power.shape[:-2]) if power.ndim > 2 else found[0]
    mel = power @ mel_filters(spec.mels, spec.low_hz, spec.high_hz).to(power.device)
    log_mel = mel.clamp(min=spec.floor).log()
    if spec.kind == "log_mel":
        return log_mel[..., : spec.coefficients]
    return log_mel @ dct_matrix(spec.mels, spec.coefficients).to(power.device)


def windows(sound: Tensor, spec: SpeechSpec, frames: int | None = None) -> Tensor:
    """One window per video frame of a whole sound (N,): (T, hops, coefficients).

    T is `frames`, or `frame_count(N)`. Both ends are padded with silence.
    """
    count = frame_count(sound.shape[-1]) if frames is None else frames
    needed = (count - 1) * SAMPLES_PER_FRAME + spec.samples
    padded = torch.nn.functional.pad(sound, (-spec.first_sample, needed))[..., :needed]
    hops = hop_features(padded, spec)
    return hops.unfold(-2, spec.hops, HOPS_PER_FRAME).transpose(-1, -2)


class WindowStream:
    """The same windows, chunk by chunk: push samples as they come, get the frames now complete."""

    def __init__(self, spec: SpeechSpec) -> None:
        self.spec = spec
        self.restore(torch.zeros(-spec.first_sample), 0, 0)

    def restore(self, buffer: Tensor, pushed: int, given: int) -> None:
        """Go on where another stream of this spec was.

        buffer: (N,), the sound that frames to come still hear; pushed: samples so far; given:
        frames so far.
        """
        self.buffer, self.pushed, self.given = buffer, pushed, given

    def push(self, samples: Tensor) -> Tensor:
        """Append (N,) samples; (T, hops, coefficients) of the T >= 0 frames now complete."""
        self.pushed += samples.shape[-1]
        self.buffer = torch.cat([self.buffer, samples.float()])
        ready = (self.buffer.shape[0] - self.spec.samples) // SAMPLES_PER_FRAME + 1
        return self._take(max(0, ready))

    def finish(self) -> Tensor:
        """The sound is over: the frames still owed, their missing sound taken as silence."""
        owed = frame_count(self.pushed) - self.given if self.pushed else 0
        needed = max(0, owed - 1) * SAMPLES_PER_FRAME + self.spec.samples
        missing = max(0, needed - self.buffer.shape[0])
        self.buffer = torch.nn.functional.pad(self.buffer, (0, missing))
        return self._take(owed)

    def _take(self, count: int) -> Tensor:
        if count <= 0:
            return torch.zeros(0, self.spec.hops, self.spec.coefficients)
        used = (count - 1) * SAMPLES_PER_FRAME + self.spec.samples
        hops = hop_features(self.buffer[:used], self.spec)
        self.buffer = self.buffer[count * SAMPLES_PER_FRAME :]
        self.given += count
        return hops.unfold(-2, self.spec.hops, HOPS_PER_FRAME).transpose(-1, -2)


def load(path: Path | str) -> Tensor:
    """The sound of a recording or video, mono at 16 kHz: (N,) float32 in [-1, 1], N >= 640.

    Any container PyAV reads: wav, mp3, m4a, flac, ogg, opus, the sound track of a video (whose
    first frame is time 0). Encoder delays are taken off. Raises UnreadableMedia: missing, of
    another kind, without sound, damaged, cut short, or shorter than one video frame (40 ms).
    """
    return torch.cat(list(read(path)))


def read(path: Path | str, block: int = SAMPLE_RATE) -> Iterator[Tensor]:
    """`load`, in parts of `block` samples (the last may be shorter): what is long needs no room."""
    from talkingface import media  # PyAV: not needed where a prepared corpus is trained on

    path = Path(path)
    waiting: list[np.ndarray] = []
    found = 0
    for chunk in media.open_sound(path, SAMPLE_RATE, channels=1).chunks:
        if not np.isfinite(chunk).all():
            raise UnreadableMedia(f"{path}: its samples are not all numbers (NaN or infinite)")
        waiting.append(chunk[0])
        found += len(chunk[0])
        if sum(map(len, waiting)) >= block:
            sound = torch.from_numpy(np.concatenate(waiting)).clamp(-1.0, 1.0)
            whole = len(sound) // block * block
            yield from sound[:whole].split(block)
            waiting = [sound[whole:].numpy()]
    if found < SAMPLES_PER_FRAME:
        raise UnreadableMedia(
            f"{path}: {found} samples of sound at 16 kHz; expected at least "
            f"{SAMPLES_PER_FRAME} (one video frame, 40 ms)"
        )
    if rest := sum(map(len, waiting)):
        yield torch.from_numpy(np.concatenate(waiting)[:rest]).clamp(-1.0, 1.0)
