"""Which phones are heard, whoever speaks: features of a voice-independent acoustic model.

A corpus in which nearly all speech is one man's teaches a network his voice. The acoustic model of
CMU Sphinx (US English, 42 phones and noises; NOTICE) was trained on very many voices: per phone,
three streams (cepstra, their slopes, their curvatures) of 128 Gaussians and three states that
weigh them. How likely each phone is in every 10 ms, and how loud it is, stands for the sound.

The channel and the loudness are taken off by the mean cepstrum of the speech of the last 2.5 s, so
that what streams equals what is whole.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

FILE = Path(__file__).with_name("phones.safetensors")
PHONES = tuple(
    "+NSN+ +SPN+ AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH "
    "SIL T TH UH UW V W Y Z ZH".split()
)
FEATURES = len(PHONES) + 1  # and the level
MEMORY = 250  # hops whose mean is taken off
REACH = 3  # hops that slopes and curvatures look to either side
BEFORE, AFTER = MEMORY - 1 + REACH, REACH  # hops needed around those that are wanted

MELS, LOW_HZ, HIGH_HZ, FLOOR = 25, 130.0, 6800.0, 1.0
CEPSTRA, LIFTER = 13, 22
FULL_SCALE = 32768.0  # the model was trained on 16-bit integers
QUANTUM = 1024 * float(np.log(1.0001))  # one step of the stored log weights
TEMPER = 0.2  # streams are not as independent as the model takes them: it is too sure of itself
LOWEST = -8.0  # of the tempered log posteriors
# The mean speech of the training speakers counts as so many hops: what is taken off before
# anything was heard, and mostly in the first half second.
PRIOR = (73.1, 10.6, -5.8, 20.6, -6.7, -2.5, -7.9, -8.2, -4.4, -2.6, -0.6, 0.5, 2.5)
PRIOR_HOPS = 30.0
# From that mean to the zero of the model's cepstra, whose makers took off the mean of whole
# utterances, pauses and all.
OFFSET = (13.39, 4.83, -3.89, 5.48, -5.01, -2.27, -4.10, -3.75, -0.38, 0.03, -0.45, -0.36, 1.15)
QUIET, SOFT = 30.0, 15.0  # below the loudest: what is no speech; how gradually (of cepstrum 0)
LOUDEST = 40.0  # at least: digital silence is never speech


@lru_cache(maxsize=1)
def _mel(bins: int, sample_rate: int) -> Tensor:
    """(bins, MELS): triangles of unit area whose corners are whole bins."""
    low, high = (2595.0 * np.log10(1.0 + hz / 700.0) for hz in (LOW_HZ, HIGH_HZ))
    corners = 700.0 * (10.0 ** (np.linspace(low, high, MELS + 2) / 2595.0) - 1.0)
    step = sample_rate / 2 / (bins - 1)
    corners = np.floor(corners / step + 0.5) * step
    hertz = np.arange(bins)[:, None] * step
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]
    shape = np.minimum((hertz - left) / (middle - left), (right - hertz) / (right - middle))
    return torch.from_numpy(np.maximum(0.0, shape) * 2.0 / (right - left)).float()


@lru_cache(maxsize=1)
def _cosines() -> Tensor:
    """(MELS, CEPSTRA): orthonormal DCT-II, liftered."""
    n, k = np.arange(MELS)[:, None], np.arange(CEPSTRA)[None]
    matrix = np.cos(np.pi * k * (n + 0.5) / MELS) * np.sqrt(2.0 / MELS)
    matrix[:, 0] /= np.sqrt(2.0)
    lifter = 1 + LIFTER / 2 * np.sin(np.pi * np.arange(CEPSTRA) / LIFTER)
    return torch.from_numpy(matrix * lifter).float()


@lru_cache(maxsize=1)
def _gaussians() -> tuple[Tensor, Tensor, Tensor]:
    """Per stream: (26, phones * 128) factors of [x^2, x], (phones * 128,) constants, and
    (phones, 128, 3) weights of the states."""
    stored = load_file(FILE)
    mean = stored["means"].float()
    variance = stored["deviations"].float().clamp(min=0.01).square()
    constant = -0.5 * (2 * np.pi * variance).log().sum(-1) - (mean**2 / variance).sum(-1) / 2
    factors = torch.cat([-0.5 / variance, mean / variance], dim=-1)
    weights = (-QUANTUM * stored["weights"].float()).exp()
    return (
        factors.permute(1, 3, 0, 2).flatten(2).contiguous(),
        constant.permute(1, 0, 2).flatten(1).contiguous(),
        weights.permute(1, 0, 2, 3).contiguous(),
    )


def features(power: Tensor, sample_rate: int) -> Tensor:
    """Power spectra of hops (N, bins), samples in [-1, 1] -> (N - BEFORE - AFTER, FEATURES).

    Each hop's tempered log posteriors of PHONES, about [-1.7, 1], and its level against the speech
    of the last 2.5 s, in [-3, 2].
    """
    mel = (power * FULL_SCALE**2) @ _mel(power.shape[-1], sample_rate)
    cepstra = mel.clamp(min=FLOOR).log() @ _cosines()
    mean = running_mean(cepstra)
    # a slope sees REACH hops to either side, all with their own mean taken off
    clean = cepstra[MEMORY - 1 :] - mean
    count = clean.shape[0] - 2 * REACH

    def at(shift: int) -> Tensor:
        return clean[REACH + shift : REACH + shift + count]

    streams = (at(0) + torch.tensor(OFFSET), at(2) - at(-2), at(3) - at(-1) - at(1) + at(-3))
    likely = scaled((TEMPER * log_likelihood(streams)).log_softmax(-1))
    level = (at(0)[:, :1] / SOFT).clamp(-3, 2)
    return torch.cat([likely, level], dim=-1)


def scaled(log_posteriors: Tensor) -> Tensor:
    """What a network takes instead of log posteriors: about [-1.7, 1]."""
    return log_posteriors.clamp(min=LOWEST) / 3 + 1


def running_mean(cepstra: Tensor) -> Tensor:
    """(N, CEPSTRA) -> (N - MEMORY + 1, CEPSTRA): of the speech among the last MEMORY hops.

    What counts as speech is judged by level, below the loudest of those hops.
    """
    prior = PRIOR_HOPS * torch.tensor(PRIOR)
    means = []
    for block in cepstra.unfold(0, MEMORY, 1).split(500):  # (n, CEPSTRA, MEMORY)
        level = block[:, 0]
        loudest = level.amax(1, keepdim=True).clamp(min=LOUDEST)
        weight = ((level - loudest + QUIET) / SOFT).clamp(0, 1)
        total = torch.einsum("nm,ncm->nc", weight, block) + prior
        means.append(total / (weight.sum(1, keepdim=True) + PRIOR_HOPS))
    return torch.cat(means)


def log_likelihood(streams: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Three (N, CEPSTRA), value, slope and curvature -> (N, phones): of each phone's best state."""
    total: Tensor | None = None
    for x, factors, constant, weights in zip(streams, *_gaussians(), strict=True):
        log = torch.addmm(constant, torch.cat([x.square(), x], dim=-1), factors)
        log = log.unflatten(1, (len(PHONES), -1))  # (N, phones, 128)
        top = log.amax(-1, keepdim=True)
        part = torch.bmm((log - top).exp_().transpose(0, 1), weights)  # (phones, N, states)
        part = part.clamp(min=1e-30).log() + top.transpose(0, 1)
        total = part if total is None else total + part
    assert total is not None
    return total.amax(-1).T
