"""Learned front ends: from samples, or from a spectrum, to what an audio encoder takes.

    raw      samples of a hop -> filter bank (learned) -> power -> log(power + floor)
    taught   hops -> convolutions over time -> how likely each phone is, and how loud it is

The bank is Zeghidour et al. 2018's (time-domain filter banks): pairs of filters in quadrature that
begin as the mel band-passes, power pooled over the hop under a learned window, a learned floor.
What is taught imitates `talkingface.phones` (Hinton et al. 2015: distillation), which is slow and
needs 2.5 s of sound: from clean sound the teacher, from another voice's the pupil.

Neighbouring windows share most of their hops. Where they do, each hop goes through once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface import phones
from talkingface.audio import HOPS_PER_FRAME, SAMPLE_RATE, WINDOW, SpeechSpec, mel_edges

TAPS, STEP = 240, 20  # samples: of a filter (15 ms), and from one place in a hop to the next
NARROWEST = 32  # samples: no filter is shorter
QUIETEST = 1e-12  # of a band's power, beside a floor that training may lower
SPREAD, MIDDLE = 3.0, -3.0  # about what a log spectrum's numbers are


@dataclass(frozen=True)
class HearingConfig:
    """filters: of the bank that "raw" sound goes through. start: they begin as the "mel"
    band-passes, or "free", as noise.

    taught: whether layers of its own tell phones: "no", "fixed" (once they were taught, what moves
    the lips changes them no more) or "tuned". widths, reach: channels of those layers, and hops
    that each sees to either side.
    """

    filters: int = 40
    start: Literal["mel", "free"] = "mel"
    taught: Literal["no", "fixed", "tuned"] = "no"
    widths: tuple[int, ...] = (128, 128, 128)
    reach: int = 2


def heard(speech: SpeechSpec, config: HearingConfig) -> tuple[int, int]:
    """(hops, features) per window of what the audio encoder takes."""
    known = {"raw": config.filters, "both": speech.mels}
    features = known.get(speech.kind, speech.coefficients)
    if config.taught == "no":
        return speech.hops, features
    return speech.hops - 2 * config.reach * len(config.widths), phones.FEATURES


class Hearing(nn.Module):
    """Windows as `audio.windows` gives them -> features of their hops; see `heard`."""

    def __init__(self, speech: SpeechSpec, config: HearingConfig) -> None:
        super().__init__()
        self.config, self.hops = config, heard(speech, config)[0]
        if speech.kind == "raw":
            self.bank = FilterBank(speech, config)
        if config.taught != "no":
            self.phones = PhoneNet(heard(speech, HearingConfig(config.filters))[1], config)

    def forward(self, speech: Tensor) -> Tensor:
        """(B, T, hops, coefficients) -> (B, T, heard hops, features)."""
        if not any(self.children()):
            return speech
        if torch.compiler.is_compiling() or not overlap(speech):
            each: Tensor = self._hear(speech.flatten(0, 1)).unflatten(0, speech.shape[:2])
            return each
        features = self._hear(recording(speech))
        windows: Tensor = features.unfold(1, self.hops, HOPS_PER_FRAME).transpose(-1, -2)
        return windows

    def tell(self, speech: Tensor) -> Tensor:
        """What is taught, for those who teach: (B, T, hops, coefficients), windows of a recording
        -> (B, H, FEATURES) of the hops that `heard` leaves of it."""
        hops = recording(speech)
        features: Tensor = self.phones(self.bank(hops) if hasattr(self, "bank") else hops)
        return features

    def _hear(self, hops: Tensor) -> Tensor:
        """(N, H, coefficients) -> (N, H', features)."""
        if self.config.taught != "fixed":
            return self._through(hops)
        with torch.no_grad():  # other voices' phones stay what they are
            return self._through(hops)

    def _through(self, hops: Tensor) -> Tensor:
        for part in self.children():
            hops = part(hops)
        return hops


def overlap(windows: Tensor) -> bool:
    """Whether (B, T, hops, coefficients), T > 1, are windows of a recording: each begins with what
    the one before ends with."""
    shared = windows.shape[2] - HOPS_PER_FRAME
    return windows.shape[1] > 1 and torch.equal(
        windows[:, :-1, HOPS_PER_FRAME:], windows[:, 1:, :shared]
    )


def recording(windows: Tensor) -> Tensor:
    """Overlapping (B, T, hops, coefficients) -> (B, hops + 4 (T - 1), coefficients)."""
    new = windows[:, 1:, -HOPS_PER_FRAME:].flatten(1, 2)
    return torch.cat([windows[:, 0], new], dim=1)


class FilterBank(nn.Module):
    """Samples of each hop -> log power of learned bands.

    filters: (2, bands, TAPS), real and imaginary of each band. window: (places, bands), logits of
    how much each place in the hop counts. floor: (bands,), log of the power that is silence.
    """

    def __init__(self, speech: SpeechSpec, config: HearingConfig) -> None:
        super().__init__()
        filters = _mel_filters(config.filters, speech)
        if config.start == "free":
            size = filters.square().sum((0, 2), keepdim=True).sqrt()
            noise = torch.randn_like(filters)
            filters = noise / noise.square().sum((0, 2), keepdim=True).sqrt() * size
        self.filters = nn.Parameter(filters)
        places = (WINDOW - TAPS) // STEP + 1
        hann = torch.hann_window(places + 1)[1:, None].clamp(min=1e-2)
        self.window = nn.Parameter(hann.log().repeat(1, config.filters))
        self.floor = nn.Parameter(torch.full((config.filters,), math.log(speech.floor)))

    def forward(self, hops: Tensor) -> Tensor:
        """(..., WINDOW) samples in [-1, 1] -> (..., bands)."""
        with torch.autocast(hops.device.type, enabled=False):  # quiet bands lie under loud ones
            sound = hops.float().reshape(-1, 1, WINDOW)
            found = F.conv1d(sound, self.filters.flatten(0, 1).unsqueeze(1), stride=STEP)
            power = found.square().unflatten(1, (2, -1)).sum(1)  # (N, bands, places)
            power = power + (self.floor.exp() + QUIETEST)[:, None]
            loud: Tensor = (power * self.window.softmax(0).T).sum(-1).log()
        return loud.reshape(*hops.shape[:-1], -1)


def _mel_filters(bands: int, speech: SpeechSpec) -> Tensor:
    """(2, bands, TAPS): the middle of each mel triangle, as wide as it, as strong in white noise.

    The pre-emphasis is in them.
    """
    edges = mel_edges(bands, speech.low_hz, speech.high_hz)
    place = np.arange(TAPS + 1) - TAPS / 2
    filters = np.zeros((2, bands, TAPS))
    for band, (low, middle, high) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        # a Hann window of n samples has fallen to half its height fs / n from its middle
        length = float(np.clip(4 * SAMPLE_RATE / (high - low), NARROWEST, TAPS))
        inside = np.abs(place) < length / 2
        hann = np.where(inside, 0.5 + 0.5 * np.cos(2 * np.pi * place / length), 0.0)
        wave = hann * np.exp(-2j * np.pi * middle * place / SAMPLE_RATE)
        # white noise has as much power in the triangle over a Hann window of WINDOW samples
        power = 0.375 * WINDOW * (high - low) / 2 / (SAMPLE_RATE / 512)
        wave *= np.sqrt(power / np.square(np.abs(wave)).sum())
        emphasised = wave[:-1] - speech.preemphasis * wave[1:]
        filters[:, band] = emphasised.real, emphasised.imag
    return torch.from_numpy(filters).float()


class PhoneNet(nn.Module):
    """Log spectra of hops -> features as `phones.features` has them, of fewer hops."""

    def __init__(self, inputs: int, config: HearingConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((inputs, *config.widths)):
            layers += [nn.Conv1d(before, after, 2 * config.reach + 1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv1d(config.widths[-1], phones.FEATURES, 1))

    def forward(self, hops: Tensor) -> Tensor:
        """(N, H, inputs) -> (N, H', FEATURES)."""
        told = self.layers(((hops - MIDDLE) / SPREAD).transpose(1, 2)).transpose(1, 2).float()
        likely = phones.scaled(told[..., :-1].log_softmax(-1))
        return torch.cat([likely, told[..., -1:]], dim=-1)
