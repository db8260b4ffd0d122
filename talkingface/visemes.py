"""Visemes with times, computed from the windows of speech of the lips.

A softmax read-out of `ExpressionNet.features`, fitted on phones of synthetic voices whose times are
known (`tools/make_blendshapes.py`).
"""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from talkingface.arkit import FILE
from talkingface.audio import FPS
from talkingface.errors import BadRequest
from talkingface.models.lips import ExpressionNet
from talkingface.types import Floats

# Oculus' set: silence, p b m, f v, th, t d, k g, tch dj sh, s z, n l, r, and five vowels.
NAMES = ("sil", "PP", "FF", "TH", "DD", "kk", "CH", "SS", "nn", "RR", "aa", "E", "I", "O", "U")

SHORTEST = 2  # frames of a segment
CHANGE = 1.0  # cost of one viseme after another, in natural logarithms of probability
CLOSED = 1.0  # gain of PP: a missed closure is seen, and the shortest phones are among them

Segment = tuple[float, float, str]  # start and end in seconds, one of NAMES


@cache
def _readout() -> tuple[Tensor, Tensor]:
    tensors = load_file(FILE)
    return tensors["viseme_weight"].float(), tensors["viseme_bias"].float()


def reads(net: ExpressionNet) -> bool:
    """Return whether these lips have as many features as the pretrained ones: visemes need them."""
    return net.config.speech.hops * net.config.rank == len(_readout()[0])


@torch.inference_mode()
def scores(net: ExpressionNet, windows: Tensor) -> Floats:
    """Logarithms of the probabilities of NAMES: windows (T, hops, coefficients) -> (T, 15).

    Frame by frame, so that a stream in any chunking gives the same bits. net: the pretrained lips,
    or others of the same `mean` and `projection`. Raises BadRequest for features of another size.
    """
    weight, bias = _readout()
    if not reads(net):
        raise BadRequest(
            f"visemes are read from {len(weight)} features, these lips have "
            f"{net.config.speech.hops * net.config.rank}: expected the pretrained lips"
        )
    rows = [
        torch.log_softmax(net.features(window).cpu() @ weight + bias, 1)
        for window in windows.split(1)
    ]
    return np.asarray(torch.cat([bias.new_zeros(0, len(NAMES)), *rows]).numpy())


def segments(scores: Floats) -> list[Segment]:
    """The most likely visemes (start, end, name) of scores (T, 15), in seconds, without gaps.

    Each lasts SHORTEST frames or more, unless all of it is shorter; a change costs CHANGE.
    """
    gain = CLOSED * (np.array(NAMES) == "PP")
    path = _best_path(np.asarray(scores, np.float64) + gain)
    edges = [0, *(np.flatnonzero(np.diff(path)) + 1).tolist(), len(path)]
    return [
        (begin / FPS, end / FPS, NAMES[path[begin]])
        for begin, end in itertools.pairwise(edges)
        if end > begin
    ]


def _best_path(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Viterbi over (viseme, age), age 1 to SHORTEST and longer: (T, 15) -> (T,)."""
    count, kinds = scores.shape
    if count < 2 * SHORTEST:
        return np.full(count, scores.sum(0).argmax() if count else 0)
    total = np.full((SHORTEST, kinds), -np.inf)
    total[0] = scores[0]
    came = np.zeros((count, SHORTEST, kinds), np.int64)  # SHORTEST * kinds flattened
    here = np.arange(SHORTEST * kinds).reshape(SHORTEST, kinds)
    for t in range(1, count):
        old = total.copy()
        came[t, 0] = here[-1, old[-1].argmax()]
        total[0] = old[-1].max() - CHANGE
        came[t, 1:], total[1:] = here[:-1], old[:-1]
        stay = old[-1] > total[-1]
        came[t, -1] = np.where(stay, here[-1], came[t, -1])
        total[-1] = np.maximum(total[-1], old[-1])
        total += scores[t]
    state = int(here[-1, total[-1].argmax()])
    path = np.zeros(count, np.int64)
    for t in range(count - 1, -1, -1):
        path[t] = state % kinds
        state = int(came[t].ravel()[state])
    return path
