"""Encode speech with the first blocks of a pretrained encoder (Whisper; Radford et al. 2022).

    sound -> log-mel spectrum -> two convolutions -> positions -> transformer blocks -> tokens

A token is a vector of WIDTH numbers, one per 20 ms. Features of a network trained on 680,000 hours
of speech carry over to voices, microphones and words that no face corpus has.

Attention in Whisper reaches over 30 s. Here it is bounded: tokens are made in blocks of `new`,
each from a stretch of sound that reaches `before` tokens back and `after` tokens on. Every block is
computed alone, with the same shapes, so that a stream gives the same bits as the whole recording.
"""

from __future__ import annotations

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
HEAD = 64  # numbers in an attention head
LEAD = HOP + WINDOW // 2  # samples before a block's first token that its spectrum sees
LOUDEST_LESS = 8.0  # log10: what is so far below the loudest of the window is cut off


@dataclass(frozen=True)
class Reach:
    """How far a block of tokens hears, in tokens of 20 ms: `before` + `new` + `after`."""

    before: int
    new: int
    after: int

    @property
    def tokens(self) -> int:
        """Tokens that are computed to give `new` of them."""
        return self.before + self.new + self.after

    @property
    def samples(self) -> int:
        """Samples that a block hears."""
        return self.tokens * TOKEN + LEAD + WINDOW // 2

    def first_sample(self, block: int) -> int:
        """Sample with which the sound of a block begins; negative before the recording."""
        return (block * self.new - self.before) * TOKEN - LEAD


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


def log_mel(sound: Tensor) -> Tensor:
    """Log power in mel bands, as Whisper's front end scales it.

    sound: (B, N) in [-1, 1]. Returns (B, (N - WINDOW) // HOP + 1, MELS); hop k is centred on sample
    160 k + 200. The clamp is 8 decades below the loudest band of each row, as Whisper's.
    """
    frames = sound.unfold(-1, WINDOW, HOP) * torch.hann_window(WINDOW, device=sound.device)
    power = torch.fft.rfft(frames).abs().square() @ _filters().to(sound.device)
    log = power.clamp(min=1e-10).log10()
    loudest = log.amax((1, 2), keepdim=True)
    scaled: Tensor = (torch.maximum(log, loudest - LOUDEST_LESS) + 4) / 4
    return scaled


@lru_cache(maxsize=1)
def _filters() -> Tensor:
    return mel_filters()


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

    def forward(self, x: Tensor, wanted: slice) -> Tensor:
        """(B, T, WIDTH) -> the same of the tokens `wanted`; they attend to all T."""
        normed, kept = self.attn_norm(x), x[:, wanted]
        weight, bias = (
            self.qkv.weight.split([WIDTH, 2 * WIDTH]),
            self.qkv.bias.split([WIDTH, 2 * WIDTH]),
        )
        query = F.linear(normed[:, wanted], weight[0], bias[0])
        key, value = F.linear(normed, weight[1], bias[1]).chunk(2, dim=-1)
        heads = [part.unflatten(-1, (-1, HEAD)).transpose(1, 2) for part in (query, key, value)]
        attended = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        kept = kept + self.proj(attended)
        out: Tensor = kept + self.down(F.gelu(self.up(self.mlp_norm(kept))))
        return out


class SpeechEncoder(nn.Module):
    """Convolutions and the first blocks of Whisper's encoder, for blocks of tokens."""

    positions: Tensor

    def __init__(self, blocks: int, positions: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(MELS, WIDTH, 3, 1, 1)
        self.conv2 = nn.Conv1d(WIDTH, WIDTH, 3, 2)
        self.register_buffer("positions", torch.zeros(positions, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))

    def forward(self, sound: Tensor, reach: Reach) -> Tensor:
        """Return the new tokens of blocks of sound.

        sound: (B, reach.samples) in [-1, 1], from `Reach.first_sample` on.
        Returns (B, reach.new, WIDTH).
        """
        hops = log_mel(sound)[:, : 2 * reach.tokens + 1].transpose(1, 2)
        x = F.gelu(self.conv2(F.gelu(self.conv1(hops)))).transpose(1, 2)
        x = x + self.positions[: reach.tokens]
        new = slice(reach.before, reach.before + reach.new)
        for block in self.blocks[:-1]:
            x = block(x, slice(None))
        tokens: Tensor = self.blocks[-1](x, new)
        return tokens


@lru_cache(maxsize=1)
def load() -> SpeechEncoder:
    """The shipped encoder, in float32, without gradients."""
    stored = {name: value.float() for name, value in load_file(FILE).items()}
    blocks = 1 + max(int(name.split(".")[1]) for name in stored if name.startswith("blocks."))
    encoder = SpeechEncoder(blocks, len(stored["positions"]))
    encoder.load_state_dict(stored)
    return encoder.eval().requires_grad_(False)
