"""Features of speech: one window of them per video frame, whole or as a stream.

Front-end numbers are derived here once; one that does not divide fails at import. Features use no
clip-wide statistic, so that what streams equals what is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from talkingface import speech_encoder
from talkingface.errors import UnreadableMedia
from talkingface.speech_encoder import Reach

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
    or "encoder" (tokens of `talkingface.speech_encoder`).
    coefficients: how many per hop; hops: how many hops per window (35 = the paper's 350 ms),
    centred on the middle of the video frame. A hop is 10 ms, a token of "encoder" 20 ms; hop k is
    centred on sample 160 k, token k on 320 k.
    reach: of "encoder", `speech_encoder.Reach`: tokens come in blocks on a fixed grid, whose phase
    is such that the window of video frame 0 ends where a block ends: that costs least latency.
    """

    kind: Literal["mfcc", "log_mel", "encoder"] = "mfcc"
    coefficients: int = 12
    hops: int = 35
    mels: int = 26
    low_hz: float = 0.0
    high_hz: float = 8000.0
    preemphasis: float = 0.97
    floor: float = 1e-4  # smallest mel power: what is quieter is silence
    reach: tuple[int, int, int] = (48, 4, 11)

    def __post_init__(self) -> None:
        if self.hops <= self.hops_per_frame:
            raise ValueError(f"a window must be longer than a frame ({self.hops_per_frame} hops)")
        known = {"mfcc": self.mels - 1, "log_mel": self.mels}
        most = known.get(self.kind, speech_encoder.WIDTH)
        if not 0 < self.coefficients <= most:
            raise ValueError(f"{self.kind} of {self.mels} mels has at most {most} coefficients")
        Reach(*self.reach)  # raises for one that cannot be

    @property
    def hop(self) -> int:
        """Samples from one hop (or token) to the next."""
        return speech_encoder.TOKEN if self.kind == "encoder" else HOP

    @property
    def hops_per_frame(self) -> int:
        """Hops from the window of one video frame to that of the next."""
        return SAMPLES_PER_FRAME // self.hop

    @property
    def first_hop(self) -> int:
        """The first hop of video frame 0's window (negative: before the sound starts)."""
        return self.hops_per_frame // 2 - self.hops // 2

    def lead(self, frame: int) -> int:
        """Tokens before the window of a video frame in the block in which that window begins."""
        return (self.hops_per_frame * frame - self.hops) % self.reach[1]

    @property
    def before(self) -> int:
        """Hops before a window that its features need, whatever the frame."""
        if self.kind == "encoder":
            before, new, _ = self.reach
            return before + max(self.lead(frame) for frame in range(new))
        return 0

    @property
    def after(self) -> int:
        """Hops after a window that its features need, whatever the frame."""
        if self.kind == "encoder":  # the window of frame 0 ends with a block, others may not
            _, new, after = self.reach
            return after + max(-self.hops_per_frame * frame % new for frame in range(new))
        return 0

    @property
    def margin(self) -> int:
        """Samples before the centre of a hop that its features depend on."""
        return speech_encoder.MARGIN if self.kind == "encoder" else WINDOW // 2 + 1  # pre-emphasis

    @property
    def first_sample(self) -> int:
        """First sample that video frame 0 depends on (negative: before the sound starts)."""
        return (self.first_hop - self.before) * self.hop - self.margin

    @property
    def samples(self) -> int:
        """Samples that one video frame depends on."""
        last = speech_encoder.MARGIN if self.kind == "encoder" else WINDOW // 2
        return (self.before + self.hops + self.after - 1) * self.hop + self.margin + last

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


def hop_features(
    samples: Tensor, spec: SpeechSpec, change: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Features of every whole hop in `samples` (..., N): (..., hops, coefficients).

    Of fewer hops where features need hops around them (`SpeechSpec.before`, `after`). Of the kind
    "encoder", samples are (N,) from video frame 0's first on, and tokens are those of the windows
    of whole frames. change: replaces power spectra (..., hops, bins) by others.
    """
    if spec.kind == "encoder":
        return _tokens(samples, spec, 0, {}, change)
    power = hop_power(samples, spec)
    return power_features(power if change is None else change(power), spec)


def _tokens(
    samples: Tensor,
    spec: SpeechSpec,
    frame: int,
    known: dict[int, Tensor],
    change: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Tokens (n, coefficients) of the windows of the whole frames in `samples` (N,).

    frame: number of the first of them. known: tokens of blocks, by the number of each block's first
    token; blocks that are not there are computed, each alone, and added.
    """
    encoder, reach = speech_encoder.load(), Reach(*spec.reach)
    frames = (len(samples) - spec.samples) // SAMPLES_PER_FRAME + 1
    count, lead = (frames - 1) * spec.hops_per_frame + spec.hops, spec.lead(frame)
    first = spec.first_hop + frame * spec.hops_per_frame - lead
    starts = range(0, lead + count, reach.new)
    missing = [start for start in starts if first + start not in known]
    for at in range(0, len(missing), speech_encoder.TOGETHER):
        some = missing[at : at + speech_encoder.TOGETHER]
        begins = [(start - lead - reach.before + spec.before) * spec.hop for start in some]
        powers = [encoder.power(samples[begin : begin + reach.samples]) for begin in begins]
        made = encoder(powers if change is None else [change(power) for power in powers], reach)
        for start, tokens in zip(some, made, strict=True):
            known[first + start] = tokens[:, : spec.coefficients]
    return torch.cat([known[first + start] for start in starts])[lead : lead + count]


def frame_windows(hops: Tensor, spec: SpeechSpec) -> Tensor:
    """Features of hops (..., n, coefficients) -> (..., T, hops, coefficients), one per frame."""
    return hops.unfold(-2, spec.hops, spec.hops_per_frame).transpose(-1, -2)


def power_features(power: Tensor, spec: SpeechSpec) -> Tensor:
    """Power spectra (..., hops, N_FFT // 2 + 1) to features (..., hops, coefficients)."""
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
    return frame_windows(hop_features(padded, spec), spec)


class WindowStream:
    """Windows of speech, chunk by chunk: push samples as they come, get the frames now complete."""

    def __init__(self, spec: SpeechSpec) -> None:
        self.spec = spec
        self.restore(torch.zeros(-spec.first_sample), 0, 0)

    def restore(self, buffer: Tensor, pushed: int, given: int) -> None:
        """Go on where another stream of this spec was.

        buffer: (N,), the sound that frames to come depend on; pushed: samples so far; given:
        frames so far.
        """
        self.buffer, self.pushed, self.given = buffer, pushed, given
        self._blocks: dict[int, Tensor] = {}  # of "encoder": made again where they are not here
        self._assumed = False  # True while some of them are of silence that has not come

    def push(self, samples: Tensor) -> Tensor:
        """Append (N,) samples; (T, hops, coefficients) of the T >= 0 frames now complete."""
        if self._assumed and samples.any():
            self._drop_assumed()
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

    def settle(self) -> Tensor:
        """The sound pauses: the frames still owed, with silence in place of the sound after them.

        Sound that comes later takes the place of that silence. A partial frame is filled up.
        """
        missing = -self.pushed % SAMPLES_PER_FRAME
        self.pushed += missing
        heard, given = torch.nn.functional.pad(self.buffer, (0, missing)), self.given
        self.buffer = heard
        speech = self.finish()
        self.buffer = heard[(self.given - given) * SAMPLES_PER_FRAME :]
        self._assumed = True
        return speech

    def _drop_assumed(self) -> None:
        """Drop the tokens that depend on samples which have not come."""
        reach, self._assumed = Reach(*self.spec.reach), False
        last = (self.pushed - reach.samples + speech_encoder.MARGIN) / self.spec.hop + reach.before
        self._blocks = {first: made for first, made in self._blocks.items() if first <= last}

    def _take(self, count: int) -> Tensor:
        if count <= 0:
            return torch.zeros(0, self.spec.hops, self.spec.coefficients)
        used = (count - 1) * SAMPLES_PER_FRAME + self.spec.samples
        if self.spec.kind == "encoder":
            hops = _tokens(self.buffer[:used], self.spec, self.given, self._blocks)
        else:
            hops = hop_features(self.buffer[:used], self.spec)
        self.buffer = self.buffer[count * SAMPLES_PER_FRAME :]
        self.given += count
        needed = self.spec.first_hop + self.given * self.spec.hops_per_frame - self.spec.reach[1]
        self._blocks = {first: made for first, made in self._blocks.items() if first > needed}
        return frame_windows(hops, self.spec)


def load(path: Path | str) -> Tensor:
    """The sound of a recording or video, mono at 16 kHz: (N,) float32 in [-1, 1], N >= 640.

    Any container PyAV reads: wav, mp3, m4a, flac, ogg, opus, the sound track of a video (whose
    first frame is time 0). Encoder delays are taken off. Raises UnreadableMedia: missing, of
    another kind, without sound, damaged, cut short, or shorter than one video frame (40 ms).
    """
    return torch.cat(list(read(path)))


def read(
    path: Path | str,
    block: int = SAMPLE_RATE,
    track: int | None = None,
    mix: tuple[float, float] | None = None,
) -> Iterator[Tensor]:
    """Read as `load` does, in parts of `block` samples; the last may be shorter.

    track: see `media.open_sound`. mix: weights of the left and the right channel; None mixes all.
    """
    from talkingface import media  # PyAV: not needed where a prepared corpus is trained on

    path = Path(path)
    waiting: list[np.ndarray] = []
    found = 0
    channels = 1 if mix is None else 2
    for chunk in media.open_sound(path, SAMPLE_RATE, channels, track).chunks:
        if not np.isfinite(chunk).all():
            raise UnreadableMedia(f"{path}: its samples are not all numbers (NaN or infinite)")
        waiting.append(chunk[0] if len(chunk) == 1 else np.asarray(mix, np.float32) @ chunk)
        found += chunk.shape[1]
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
