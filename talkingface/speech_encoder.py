"""Encode speech with the first block of a pretrained encoder (Whisper; Radford et al. 2022).

    sound -> log-mel spectrum -> two convolutions -> positions -> transformer block -> tokens

A token is a vector of WIDTH numbers, one per 20 ms; token j is centred on sample 320 j. Features of
a network trained on 680,000 hours of speech (tiny.en) carry over to voices, microphones and words
that no face corpus has.

Attention in Whisper reaches over 30 s. Here it is bounded: tokens are made in blocks of `new`,
each from a stretch of sound that reaches `before` tokens back and `after` tokens on. Every block is
computed alone, with the same shapes, so that a stream gives the same bits as the whole recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

FILE = Path(__file__).with_name("speech_encoder.safetensors")
SAMPLE_RATE = 16_000  # Hz
HOP, WINDOW, MELS = 160, 400, 80  # samples, samples, bands: Whisper's log-mel spectrum
TOKEN = 2 * HOP  # samples: the second convolution has a stride of two
WIDTH = 384  # numbers in a token
HEADS, HEAD = 6, 64  # attention heads, numbers in one
POSITIONS = 63  # tokens of a block at most: so many positions are stored
MARGIN = HOP + WINDOW // 2  # samples to either side of a token's centre that it depends on
TOGETHER = 16  # blocks per call at most, whose layers take turns
# Power of a quiet hiss, white noise of 6e-5 of full scale, in every bin of a Hann window: added
# everywhere, so that silence is that hiss and not the rounding of a recording.
HISS = 6e-5**2 * 150
RANGE = 8.0  # log10: what is so far below the loudest of a block is cut off


@dataclass(frozen=True)
class Reach:
    """Receptive field of a block of tokens, in tokens of 20 ms: `before` + `new` + `after`."""

    before: int
    new: int
    after: int

    def __post_init__(self) -> None:
        if min(self.before, self.new - 1, self.after) < 0 or self.tokens > POSITIONS:
            raise ValueError(
                f"a reach of {self.before}, {self.new}, {self.after} tokens; expected at least "
                f"0, 1, 0 and at most {POSITIONS} together"
            )

    @property
    def tokens(self) -> int:
        """Tokens that `new` of them are made from."""
        return self.before + self.new + self.after

    @property
    def samples(self) -> int:
        """Samples that a block is made from, from MARGIN before the centre of its first token."""
        return (self.tokens - 1) * TOKEN + 2 * MARGIN


def mel_filters() -> Tensor:
    """(WINDOW // 2 + 1, MELS) triangles of unit area on Slaney's mel scale (librosa's default)."""
    step = np.log(6.4) / 27  # above 1 kHz a mel is a ratio, below it is 200 / 3 Hz
    top = 15 + np.log(SAMPLE_RATE / 2 / 1000) / step
    mel = np.linspace(0, top, MELS + 2)
    edges = np.where(mel >= 15, 1000 * np.exp(step * (mel - 15)), mel * 200 / 3)
    hertz = np.arange(WINDOW // 2 + 1)[:, None] * SAMPLE_RATE / WINDOW
    left, middle, right = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.minimum((hertz - left) / (middle - left), (right - hertz) / (right - middle))
    return torch.from_numpy(np.maximum(0.0, triangles) * 2 / (right - left)).float()


class Block(nn.Module):
    """One pre-norm transformer block of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.attn_norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.mlp_norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, parts: Sequence[Tensor], wanted: slice) -> list[Tensor]:
        """Several (T, WIDTH) -> the same of the tokens `wanted` alone, which attend to all T."""
        attended = [self._attend(self.attn_norm(x), wanted) for x in parts]
        kept = [x[wanted] + self.proj(y) for x, y in zip(parts, attended, strict=True)]
        hidden = [F.gelu(self.up(self.mlp_norm(x))) for x in kept]
        return [x + self.down(y) for x, y in zip(kept, hidden, strict=True)]

    def _attend(self, x: Tensor, wanted: slice) -> Tensor:
        """Attention of few queries, a seventh of the products: (q Wk) x for q (Wk x), and for the
        values alike. The key's bias adds the same to all scores of a query and so changes nothing.
        """
        query, key, value = self.qkv.weight.unflatten(0, (3, HEADS, HEAD))
        query_bias, _, value_bias = self.qkv.bias.split(WIDTH)
        asked = F.linear(x[wanted], query.flatten(0, 1), query_bias).unflatten(1, (HEADS, HEAD))
        scores = torch.bmm(asked.transpose(0, 1), key).flatten(0, 1) @ x.T  # (HEADS * wanted, T)
        mixed = ((scores / HEAD**0.5).softmax(-1) @ x).unflatten(0, (HEADS, -1))
        heads = torch.bmm(mixed, value.transpose(1, 2))  # (HEADS, wanted, HEAD)
        out: Tensor = heads.transpose(0, 1).flatten(1) + value_bias
        return out


def _convolve(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """(T, inputs) -> (T', outputs), as one product of matrices: quicker than `conv` for one row."""
    patches = x.unfold(0, conv.kernel_size[0], conv.stride[0]).flatten(1)
    return F.linear(patches, conv.weight.flatten(1), conv.bias)


class SpeechEncoder(nn.Module):
    """Log-mel spectrum, convolutions and first block of Whisper's encoder, for blocks of tokens."""

    positions: Tensor
    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(MELS, WIDTH, 3)
        self.conv2 = nn.Conv1d(WIDTH, WIDTH, 3, 2)
        self.blocks = nn.ModuleList([Block()])
        self.register_buffer("positions", torch.zeros(POSITIONS, WIDTH))
        self.register_buffer("window", torch.zeros(WINDOW), persistent=False)
        self.register_buffer("filters", mel_filters(), persistent=False)

    def power(self, sound: Tensor) -> Tensor:
        """(N,) samples in [-1, 1] -> power spectra (hops, WINDOW // 2 + 1) of every whole hop.

        Hop k is centred on sample 160 k + 200.
        """
        spectrum = torch.fft.rfft(sound.unfold(-1, WINDOW, HOP) * self.window)
        power: Tensor = spectrum.real.square() + spectrum.imag.square()
        return power

    def log_mel(self, power: Tensor) -> Tensor:
        """Power spectra (hops, WINDOW // 2 + 1) -> log power in mel bands (hops, MELS).

        Scaled as Whisper's; the clamp is RANGE below the loudest of these hops.
        """
        log = ((power + HISS) @ self.filters).log10()
        scaled: Tensor = (torch.maximum(log, log.amax() - RANGE) + 4) / 4
        return scaled

    def forward(self, powers: Sequence[Tensor], reach: Reach) -> list[Tensor]:
        """Return the new tokens of several blocks: (reach.new, WIDTH) each.

        powers: of the reach.samples of each block. Their ends are padded with zeros, as Whisper
        pads a recording's. Blocks do not depend on each other: they take turns in every layer,
        whose weights are so read once.
        """
        hops = [F.pad(self.log_mel(power), (0, 0, 1, 1)) for power in powers]
        hops = [F.gelu(_convolve(x, self.conv1)) for x in hops]
        tokens = [F.gelu(_convolve(x, self.conv2)) + self.positions[: reach.tokens] for x in hops]
        new = slice(reach.before, reach.before + reach.new)
        made: list[Tensor] = self.blocks[0](tokens, new)
        return made


@lru_cache(maxsize=1)
def load() -> SpeechEncoder:
    """Return the shipped encoder, in float32, without gradients of its own."""
    with torch.inference_mode(False):
        with torch.device("meta"):  # draws no random numbers, of which training's are counted
            encoder = SpeechEncoder()
        stored = {name: value.float() for name, value in load_file(FILE).items()}
        encoder.load_state_dict(stored, assign=True)
        encoder.window, encoder.filters = torch.hann_window(WINDOW), mel_filters()
        return encoder.eval().requires_grad_(False)
