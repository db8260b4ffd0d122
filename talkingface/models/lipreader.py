"""D_l: a lip reader that recognises the word of a mouth (Song et al. 2019, Sec. 3.3 and 4.2).

Two architectures, so that the reader that judges is never the one that trained the generator: the
published one (frames one by one, two LSTM layers, last step) and a small one for few data (motion
in its first layer, GRU both ways, mean over time). Both read mouths cut by `mouth_crops`.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface.landmarks import MOUTH_CORNERS

GRID_WORDS: tuple[str, ...] = (
    *("bin", "lay", "place", "set"),
    *("blue", "green", "red", "white"),
    *("at", "by", "in", "with"),
    *(letter for letter in string.ascii_lowercase if letter != "w"),
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("again", "now", "please", "soon"),
)
GREY = (0.299, 0.587, 0.114)  # luma of R, G, B (ITU-R BT.601)


@dataclass(frozen=True)
class MouthSpec:
    """Box around the mouth that a reader sees, and its size.

    half_width, above, below: of the face crop's side, from the middle of the mouth's corners;
    height, width: pixels after resampling; grey: one channel (luma) in place of RGB.
    The default is 48 x 36 px of a 128 px crop, one to one: an open mouth ends 20 px below its
    corners.
    """

    half_width: float = 24 / 128
    above: float = 14 / 128
    below: float = 22 / 128
    height: int = 36
    width: int = 48
    grey: bool = True

    @property
    def channels(self) -> int:
        """Channels of a mouth's crop."""
        return 1 if self.grey else 3


def mouth_centres(landmarks: Tensor) -> Tensor:
    """(..., 68, 2) landmarks -> (..., 2), the middle of the mouth's corners."""
    left, right = MOUTH_CORNERS
    return (landmarks[..., left, :] + landmarks[..., right, :]) / 2


def mouth_crops(frames: Tensor, landmarks: Tensor, spec: MouthSpec) -> Tensor:
    """Cut mouths, bilinearly; gradients reach the frames, never the box.

    frames: (B, T, 3, S, S) in [-1, 1]; landmarks: (B, T, 68, 2) in [0, 1] of the crop, or
    (B, 1, 68, 2) for one box per clip (x = px / S, where px 0 is the centre of the first pixel).
    They should be the identity's or a smoothed track, so that a frame's own lip error does not move
    its box. Returns (B, T, C, height, width) in [-1, 1]; beyond the edge the edge is repeated.
    """
    if frames.ndim != 5 or landmarks.ndim != 4 or landmarks.shape[2:] != (68, 2):
        raise ValueError(
            "mouth_crops takes frames (B, T, 3, S, S) and landmarks (B, T, 68, 2), "
            f"not {tuple(frames.shape)} and {tuple(landmarks.shape)}"
        )
    batch, time, _, _, size = frames.shape
    centres = mouth_centres(landmarks.detach().float()).expand(batch, time, 2).flatten(0, 1)
    across = (torch.arange(spec.width, device=frames.device) + 0.5) / spec.width * 2 - 1
    down = (torch.arange(spec.height, device=frames.device) + 0.5) / spec.height
    x = centres[:, None, :1] + across[None, :, None] * spec.half_width
    y = centres[:, None, 1:] - spec.above + down[None, :, None] * (spec.above + spec.below)
    grid = torch.cat(
        [
            x[:, None].expand(-1, spec.height, -1, -1),
            y[:, :, None].expand(-1, -1, spec.width, -1),
        ],
        -1,
    )
    # grid_sample's [-1, 1] runs between the outer edges of the outer pixels
    grid = 2 * grid + 1 / size - 1
    flat = frames.flatten(0, 1).float()
    if spec.grey:
        flat = (flat * flat.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True)
    cut = F.grid_sample(flat, grid, padding_mode="border", align_corners=False)
    return cut.reshape(batch, time, *cut.shape[1:])


@dataclass(frozen=True)
class PublishedReaderConfig:
    """The released code's D_lip: 5.304 M weights with its 500 words."""

    family: str = "lipreader-published"
    words: int = len(GRID_WORDS)
    mouth: MouthSpec = MouthSpec(
        half_width=20 / 128, above=24 / 128, below=16 / 128, height=40, width=40, grey=False
    )
    channels: tuple[int, int, int] = (16, 32, 64)
    feature: int = 512
    hidden: int = 512
    layers: int = 2


@dataclass(frozen=True)
class SmallReaderConfig:
    """0.8 M weights and 4 MMAC per frame: an epoch of 5,600 words takes a core under a minute.

    span: frames (odd) that the first layer sees at once; channels: of the first, 3-D layer and of
    the 2-D layers behind it, each of stride 2.
    """

    family: str = "lipreader-small"
    words: int = len(GRID_WORDS)
    mouth: MouthSpec = MouthSpec()
    span: int = 5
    channels: tuple[int, ...] = (24, 48, 96, 128)
    feature: int = 192
    hidden: int = 160
    dropout: float = 0.4


def valid_frames(lengths: Tensor, time: int) -> Tensor:
    """lengths: (B,) -> (B, time) bool, which frames are no padding."""
    return torch.arange(time, device=lengths.device)[None] < lengths[:, None]


class _Reader(nn.Module):
    """Base of both readers: valid frames only are encoded, so padding changes nothing."""

    def _check(self, mouths: Tensor, lengths: Tensor, spec: MouthSpec) -> None:
        expected = (spec.channels, spec.height, spec.width)
        if mouths.ndim != 5 or mouths.shape[2:] != expected or lengths.shape != mouths.shape[:1]:
            raise ValueError(
                f"this reader takes mouths (B, T, {', '.join(map(str, expected))}) and lengths "
                f"(B,), not {tuple(mouths.shape)} and {tuple(lengths.shape)}"
            )

    def _recur(self, rnn: nn.RNNBase, steps: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, features) -> (B, T, hidden); the backward direction starts at each clip's end.

        cuDNN cannot differentiate a recurrent layer in eval mode, which is just what a frozen
        reader that guides a generator needs: then PyTorch's own kernels run.
        """
        packed = nn.utils.rnn.pack_padded_sequence(
            steps, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        with torch.backends.cudnn.flags(enabled=self.training or not torch.is_grad_enabled()):
            out, _ = rnn(packed)
        return nn.utils.rnn.pad_packed_sequence(out, True, total_length=steps.shape[1])[0]


def _spread(features: Tensor, valid: Tensor) -> Tensor:
    """(N, F) features of the N valid frames -> (B, T, F), zero elsewhere."""
    out = features.new_zeros(*valid.shape, features.shape[-1])
    out[valid] = features
    return out


class PublishedLipReader(_Reader):
    """Per frame three pooled convolutions -> 512 -> two LSTM layers -> last valid step."""

    def __init__(self, config: PublishedReaderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PublishedReaderConfig()
        layers: list[nn.Module] = []
        widths = (config.mouth.channels, *config.channels)
        for (inside, outside), kernel in zip(pairwise(widths), (5, 3, 3), strict=True):
            layers += [
                nn.Conv2d(inside, outside, kernel, padding=kernel // 2),
                nn.BatchNorm2d(outside),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        patches = (config.mouth.height // 8) * (config.mouth.width // 8)
        self.encoder = nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Linear(patches * config.channels[-1], config.feature),
            nn.BatchNorm1d(config.feature),
        )
        self.rnn = nn.LSTM(config.feature, config.hidden, config.layers, batch_first=True)
        self.classifier = nn.Linear(config.hidden, config.words)

    def forward(self, mouths: Tensor, lengths: Tensor) -> Tensor:
        """mouths: (B, T, C, h, w) in [-1, 1]; lengths: (B,), 1 to T; logits (B, words) float32."""
        self._check(mouths, lengths, self.config.mouth)
        valid = valid_frames(lengths, mouths.shape[1])
        steps = self._recur(self.rnn, _spread(self.encoder(mouths[valid]), valid), lengths)
        last = steps[torch.arange(len(steps), device=steps.device), lengths - 1]
        logits: Tensor = self.classifier(last)
        return logits.float()


class SmallLipReader(_Reader):
    """One 3-D layer, a small 2-D trunk, a GRU in both directions, mean over the valid frames."""

    def __init__(self, config: SmallReaderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SmallReaderConfig()
        first, *others = config.channels
        self.motion = nn.Conv3d(
            config.mouth.channels,
            first,
            (config.span, 5, 5),
            stride=(1, 2, 2),
            padding=(config.span // 2, 2, 2),
            bias=False,
        )
        layers: list[nn.Module] = [nn.BatchNorm2d(first), nn.ReLU()]
        height, width = -(-config.mouth.height // 2), -(-config.mouth.width // 2)
        for inside, outside in pairwise((first, *others)):
            layers += [
                nn.Conv2d(inside, outside, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outside),
                nn.ReLU(),
            ]
            height, width = -(-height // 2), -(-width // 2)
        self.trunk = nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Dropout(config.dropout),
            nn.Linear(height * width * config.channels[-1], config.feature, bias=False),
            nn.BatchNorm1d(config.feature),
            nn.ReLU(),
            nn.Dropout(config.dropout),
        )
        self.rnn = nn.GRU(config.feature, config.hidden, batch_first=True, bidirectional=True)
        self.classifier = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(2 * config.hidden, config.words)
        )

    def forward(self, mouths: Tensor, lengths: Tensor) -> Tensor:
        """mouths: (B, T, C, h, w) in [-1, 1]; lengths: (B,), 1 to T; logits (B, words) float32."""
        self._check(mouths, lengths, self.config.mouth)
        valid = valid_frames(lengths, mouths.shape[1])
        # padding becomes zero, which is what the convolution sees beyond a clip's end anyway
        seen = torch.where(valid[..., None, None, None], mouths, mouths.new_zeros(()))
        moving = self.motion(seen.transpose(1, 2)).transpose(1, 2)[valid]
        steps = self._recur(self.rnn, _spread(self.trunk(moving), valid), lengths)
        mean = steps.sum(1) / lengths[:, None].to(steps.dtype)  # padded steps are zero
        logits: Tensor = self.classifier(mean)
        return logits.float()


ReaderConfig = PublishedReaderConfig | SmallReaderConfig
LipReader = PublishedLipReader | SmallLipReader
READERS: dict[Literal["published", "small"], tuple[type[LipReader], type[ReaderConfig]]] = {
    "published": (PublishedLipReader, PublishedReaderConfig),
    "small": (SmallLipReader, SmallReaderConfig),
}


def cut_words(
    frames: Tensor, landmarks: Tensor, spans: Tensor, mouth: MouthSpec, margin: int = 2
) -> tuple[Tensor, Tensor]:
    """The mouth while a word is spoken, and `margin` frames around it (words run into each other).

    frames: (B, T, 3, S, S); landmarks: (B, T, 68, 2); spans: (B, 2), first frame and one after the
    last. The box stands still at the word's mean mouth, so that a wrong lip cannot move it. Returns
    what readers take: (B, W, C, h, w), zero beyond each word's end, and lengths (B,).
    """
    time = frames.shape[1]
    begin = (spans[:, 0] - margin).clamp(min=0)
    end = (spans[:, 1] + margin).clamp(max=time)
    lengths = (end - begin).clamp(min=1)
    steps = torch.arange(int(lengths.max()), device=frames.device)
    rows = (begin[:, None] + steps).clamp(max=time - 1)
    valid = valid_frames(lengths, len(steps))
    batch = torch.arange(len(frames), device=frames.device)[:, None]
    picked = landmarks[batch, rows]
    share = valid[..., None, None].to(picked.dtype)
    mean = (picked * share).sum(1, keepdim=True) / share.sum(1, keepdim=True)
    mouths = mouth_crops(frames[batch, rows], mean.expand_as(picked), mouth)
    return mouths * valid[..., None, None, None].to(mouths.dtype), lengths
