"""Fit `HeadNet`: prosody in closed form, the mixture in minutes.

Moves are measured in clips with a fixed crop (`talkingface prepare --natural-pose`), relative to
each clip's median face. They are smoothed against the noise of landmarks. Prosody is predicted from
tokens by ridge regression; its labels are measured in the sound. The mixture is trained with the
real past plus noise (teacher forcing). Then all motion is scaled to that of a quiet speaker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface import audio
from talkingface.audio import SAMPLE_RATE, SAMPLES_PER_FRAME
from talkingface.data.clip import UNSEEN
from talkingface.data.dataset import Cache, ClipInfo, speakers_of
from talkingface.errors import BadRequest
from talkingface.faces.head_pose import clip_moves
from talkingface.models.head_motion import (
    BANDS,
    NOD,
    POSE_DIM,
    RAISE,
    UNIT,
    HeadConfig,
    HeadMotion,
    HeadNet,
    HeadOutput,
    Prosody,
    bands,
    low_passes,
)
from talkingface.training.lips import Progress, components, disturb, ridge, save_fit
from talkingface.types import Array

_MIRROR = torch.tensor([1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0])  # a mirrored head's moves
_SILENT_SHARE = 1 / 3  # of the motion in speech, in silence
_LIMIT = 3.0  # standard deviations of a quiet speaker, softly approached
_FLOOR = -60.0  # dB of full scale: quieter sound is silence
_SILENT, _APERIODIC = 35.0, 0.25  # dB below the loudest; de Cheveigne and Kawahara's threshold
_LOUDNESS_WINDOW, _PITCH_WINDOW = 1024, 512  # samples
_LOWEST, _HIGHEST = 60, 400  # Hz


@dataclass(frozen=True)
class HeadTraining:
    """Settings of fitting a head.

    most: clips of a speaker at most. copies, octaves: of the sound at other speeds, for fitting
    prosody; ridge: its penalty. steps, batch, rate, dropout: of the mixture; noise: on
    the real past, of a usual step; sizes: deviation of the logarithm of a motion's size. quiet:
    standard deviations of HEAD and BROWS of a quiet speaker; stress: of what follows prosody in it.
    """

    head: HeadConfig = field(default_factory=HeadConfig)
    most: int = 160
    copies: int = 200
    octaves: float = 0.4
    ridge: float = 200.0
    steps: int = 800
    batch: int = 48
    rate: float = 3e-3
    dropout: float = 0.5
    noise: float = 0.3
    sizes: float = 0.5
    quiet: tuple[float, ...] = (0.0227, 0.0250, 0.0157, 0.02, 0.015, 0.006, 0.010, 0.008)
    stress: tuple[float, ...] = (0.0087, 0.0, 0.0, 0.0, 0.0, 0.0, 0.008, 0.006)
    seed: int = 0


@dataclass(frozen=True)
class HeadClip:
    """A training clip.

    start: its first row of the cache. sound: (N,); windows: (T, hops, coefficients), half
    precision; moves: (T, POSE_DIM) in units of UNIT; weight: of the clip.
    """

    start: int
    sound: Tensor
    windows: Tensor
    moves: Tensor
    weight: float


def fit(
    cache: Cache,
    clips: Sequence[ClipInfo],
    training: HeadTraining,
    progress: Progress = lambda stage, done, total: None,
) -> HeadNet:
    """Fit a head to the speaking clips of a cache, prepared with a natural pose.

    progress is called with (stage, done, total). The same arguments give the same weights. Raises
    BadRequest: no speech, or heads that do not move.
    """
    return fit_clips(read_clips(cache, clips, training, progress), training, progress)


def train(
    training: HeadTraining, cache: Cache, path: Path, splits: Sequence[str], progress: Progress
) -> None:
    """Fit a head to these splits and write it, measured on unseen speakers where it may be."""
    clips = cache.split(*splits)
    net = fit(cache, clips, training, progress)
    measures = {}
    if UNSEEN not in splits:
        measures = measure(net, read_clips(cache, cache.split("val", UNSEEN), training))
    save(path, net, clips, training, measures)


def fit_clips(
    clips: Sequence[HeadClip],
    training: HeadTraining,
    progress: Progress = lambda stage, done, total: None,
) -> HeadNet:
    """Fit a head to clips that are already read, see `fit`."""
    torch.manual_seed(training.seed)
    rng = np.random.default_rng(training.seed)
    net = HeadNet(training.head)
    fit_prosody(net.prosody, clips, training, rng, progress)
    net.output.motion.set_statistics(
        [clip.moves for clip in clips], [clip.weight for clip in clips]
    )
    fit_motion(net, clips, training, progress)
    spoken, silent = spoken_windows(clips, training)
    set_amplitudes(net.output, hybrid_of(net, spoken), hybrid_of(net, silent), training)
    return net.eval().requires_grad_(False)


def read_clips(
    cache: Cache,
    clips: Sequence[ClipInfo],
    training: HeadTraining,
    progress: Progress = lambda stage, done, total: None,
) -> list[HeadClip]:
    """Read speaking clips, a few of each speaker, whose weight is (clips) ** 0.5. BadRequest."""
    chosen = _few([c for c in clips if not c.silent], training.most)
    if not chosen:
        raise BadRequest("no clip of speech to fit heads to: prepare a corpus first")
    counts = Counter(c.speaker for c in chosen)
    found = []
    for done, clip in enumerate(chosen):
        sound = cache.samples(clip, 0, clip.frames * SAMPLES_PER_FRAME)
        windows = audio.windows(sound, training.head.speech, clip.frames).half()
        moves = clip_moves(cache.mesh[clip.start : clip.start + clip.frames]) / UNIT
        weight = counts[clip.speaker] ** -0.5
        found.append(HeadClip(clip.start, sound, windows, torch.from_numpy(moves).float(), weight))
        progress("corpus", done + 1, len(chosen))
    if max(float(clip.moves[:, 3:5].std(0).max()) for clip in found) < 0.1:
        raise BadRequest(
            "heads do not move in these shards: prepare the corpus with --natural-pose"
        )
    return found


def _few(clips: Sequence[ClipInfo], most: int) -> list[ClipInfo]:
    """Choose at most so many clips of a speaker, evenly spread."""
    chosen: list[ClipInfo] = []
    for speaker in speakers_of(list(clips)):
        own = [c for c in clips if c.speaker == speaker]
        rows = np.linspace(0, len(own) - 1, min(most, len(own))).astype(int)
        chosen.extend(own[row] for row in rows)
    return chosen


# --- prosody --------------------------------------------------------------------------------------


def prosody_labels(sound: Array, frames: int) -> Array:
    """Measure RAW of models.head_motion in a sound (N,): (frames, 3).

    Loudness of 64 ms, 10 dB; voicing, 0 or 1; pitch, octaves above 100 Hz, by YIN (de Cheveigne and
    Kawahara 2002), which is undefined without a voice.
    """
    window = np.hanning(_LOUDNESS_WINDOW + 1)[:-1]
    parts = _stretches(sound, frames, _LOUDNESS_WINDOW)
    power = (parts**2 @ window) / window.sum()
    loudness = np.maximum(10 * np.log10(power + 1e-10), _FLOOR)
    aperiodicity, pitch = _yin(_stretches(sound, frames, _PITCH_WINDOW + SAMPLE_RATE // _LOWEST))
    quiet = loudness < max(loudness.max() - _SILENT, _FLOOR + 1)
    voiced = (aperiodicity < _APERIODIC) & ~quiet
    if voiced.any():  # errors by an octave
        voiced &= np.abs(pitch - np.median(pitch[voiced])) < 0.8
    return np.stack([loudness / 10, voiced, pitch], 1)


def _stretches(sound: Array, frames: int, size: int) -> Array:
    """Cut the sound around the middle of each frame: (frames, size)."""
    padded = np.pad(np.asarray(sound, np.float64), (size, size + frames * SAMPLES_PER_FRAME))
    middles = np.arange(frames) * SAMPLES_PER_FRAME + SAMPLES_PER_FRAME // 2 + size
    out: Array = padded[middles[:, None] + np.arange(size) - size // 2]
    return out


def _yin(parts: Array) -> tuple[Array, Array]:
    """Estimate aperiodicity in [0, 1] and pitch, octaves above 100 Hz, of (T, N): (T,) each."""
    lags = parts.shape[1] - _PITCH_WINDOW
    length = 2 ** int(np.ceil(np.log2(parts.shape[1] + _PITCH_WINDOW)))
    first = np.fft.rfft(parts[:, :_PITCH_WINDOW], length)
    products = np.fft.irfft(first.conj() * np.fft.rfft(parts, length), length)[:, :lags]
    energy = np.cumsum(np.pad(parts**2, ((0, 0), (1, 0))), 1)
    energy = energy[:, _PITCH_WINDOW : _PITCH_WINDOW + lags] - energy[:, :lags]
    difference = np.maximum(energy[:, :1] + energy - 2 * products, 0)
    mean = np.cumsum(difference[:, 1:], 1) / np.arange(1, lags)
    normal = np.concatenate(
        [np.ones((len(parts), 1)), difference[:, 1:] / np.maximum(mean, 1e-12)], 1
    )
    best = np.array([_dip(row) for row in normal])
    rows = np.arange(len(parts))
    low, middle, high = (normal[rows, best + step] for step in (-1, 0, 1))
    curve = low - 2 * middle + high
    shift = np.where(curve > 1e-9, 0.5 * (low - high) / np.maximum(curve, 1e-9), 0).clip(-1, 1)
    return middle, np.log2(SAMPLE_RATE / (best + shift) / 100)


def _dip(row: Array) -> int:
    """Return the lag of the first minimum below the paper's threshold, or of the deepest one."""
    low, high = SAMPLE_RATE // _HIGHEST, len(row) - 2
    below = np.flatnonzero(row[low:high] < 0.15)
    if len(below) == 0:
        return low + int(row[low:high].argmin())
    lag = low + int(below[0])
    while lag < high and row[lag + 1] < row[lag]:
        lag += 1
    return lag


def fit_prosody(
    prosody: Prosody,
    clips: Sequence[HeadClip],
    training: HeadTraining,
    rng: np.random.Generator,
    progress: Progress = lambda stage, done, total: None,
) -> None:
    """Fit components, and lines by ridge regression; pitch of voiced frames alone."""
    samples = [
        (c.windows, prosody_labels(c.sound.numpy(), len(c.windows)), c.weight) for c in clips
    ]
    chances = np.array([c.weight for c in clips])
    for done in range(training.copies):
        clip = clips[rng.choice(len(clips), p=chances / chances.sum())]
        samples.append((*_other_voice(clip, training, rng), float(np.mean(chances))))
        progress("voices", done + 1, training.copies)
    weight = torch.cat([torch.full((len(x),), w) for x, _, w in samples]).double()
    weight = weight / weight.sum()
    tokens = torch.cat([x[:, x.shape[1] // 2].float() for x, _, _ in samples])
    mean, projection = components(tokens, weight, prosody.projection.shape[1])
    prosody.mean.copy_(mean)
    prosody.projection.copy_(projection)
    x = torch.cat([prosody.components(w.float()).flatten(1) for w, _, _ in samples]).double()
    y = torch.from_numpy(np.concatenate([labels for _, labels, _ in samples]))
    penalty = training.ridge / len(x)
    level = ridge(x, y[:, :2], weight, penalty)
    voiced = y[:, 1] > 0
    own = weight[voiced] / weight[voiced].sum()
    pitch = ridge(x[voiced], y[voiced, 2:], own, penalty)
    with torch.no_grad():
        prosody.lines.weight.copy_(torch.cat([level[0], pitch[0]], 1).T)
        prosody.lines.bias.copy_(torch.cat([level[1], pitch[1]]))


def _other_voice(
    clip: HeadClip, training: HeadTraining, rng: np.random.Generator
) -> tuple[Tensor, Array]:
    """Return windows of a clip's sound at another speed, disturbed, and labels of the clean one."""
    speed = 2 ** rng.uniform(-training.octaves, training.octaves)
    places = np.arange(int(len(clip.sound) / speed)) * speed
    sound = np.interp(places, np.arange(len(clip.sound)), clip.sound.numpy())
    frames = audio.frame_count(len(sound))
    disturbed = disturb(torch.from_numpy(sound).float(), rng)
    windows = audio.windows(disturbed, training.head.speech, frames)
    return windows.half(), prosody_labels(sound, frames)


# --- motion ---------------------------------------------------------------------------------------


def gru_input(net: HeadNet, windows: Tensor) -> Tensor:
    """Return the GRU's input (B, T, PROSODY and features) of clips (B, T, hops, coefficients)."""
    memory, inputs = Prosody.begin(len(windows)), []
    for frame in windows.unbind(1):
        row, memory = net.encode_speech(frame.float(), memory)
        inputs.append(row)
    return torch.stack(inputs, 1)


def motion_loss(net: HeadNet, inputs: Tensor, positions: Tensor, dropout: float = 0.0) -> Tensor:
    """Return the mean negative log likelihood of positions (B, T, POSE_DIM), nats per number.

    dropout: of the GRU's input and output.
    """
    hybrid, _ = net.gru(F.dropout(inputs, dropout))
    return mixture_loss(net.output.motion, F.dropout(hybrid, dropout), positions)


def mixture_loss(motion: HeadMotion, hybrid: Tensor, positions: Tensor) -> Tensor:
    """Return the mean negative log likelihood of positions (B, T, POSE_DIM), teacher-forced."""
    last = torch.stack([positions[:, 1:-1], positions[:, :-2]], 2)
    return motion.loss(hybrid[:, 2:], last, positions[:, 2:])


def fit_motion(
    net: HeadNet,
    clips: Sequence[HeadClip],
    training: HeadTraining,
    progress: Progress = lambda stage, done, total: None,
) -> None:
    """Train the GRU and the mixture by gradient steps."""
    frames = min(len(clip.moves) for clip in clips)
    windows = torch.stack([clip.windows[:frames] for clip in clips])
    with torch.no_grad():
        prosody, components = prosody_of(net.prosody, windows)

    def hybrid(rows: Tensor) -> Tensor:
        inputs = torch.cat([prosody[rows], net.to_features(components[rows])], -1)
        out: Tensor = net.gru(F.dropout(inputs, training.dropout))[0]
        return out

    own = [*net.to_features.parameters(), *net.gru.parameters()]
    fit_mixture(net.output.motion, own, hybrid, clips, training, progress, mirrored=True)


def fit_mixture(
    motion: HeadMotion,
    others: Sequence[nn.Parameter],
    hybrid: Callable[[Tensor], Tensor],
    clips: Sequence[HeadClip],
    training: HeadTraining,
    progress: Progress = lambda stage, done, total: None,
    mirrored: bool = False,
) -> None:
    """Train the mixture, and `others` that hybrid features depend on, by gradient steps.

    hybrid: numbers of clips (B,) -> features (B, T, hidden), T of the shortest clip. mirrored:
    mirror half of the heads. The size of all motion is varied. Without dropout the model overfits
    to the few clips of most speakers.
    """
    frames = min(len(clip.moves) for clip in clips)
    moves = torch.stack([clip.moves[:frames] for clip in clips])
    chances = torch.tensor([clip.weight for clip in clips])
    generator = torch.Generator().manual_seed(training.seed)
    learned = [*others, *motion.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=training.rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.steps)
    for step in range(training.steps):
        rows = torch.multinomial(chances, training.batch, True, generator=generator)
        size = torch.exp(training.sizes * torch.randn(len(rows), 1, 1, generator=generator))
        if mirrored:
            half = torch.rand(len(rows), 1, 1, generator=generator) < 0.5
            size = torch.where(half, _MIRROR, 1.0) * size
        positions = motion.position(moves[rows] * size)
        noise = torch.randn(positions.shape, generator=generator)
        features = F.dropout(hybrid(rows), training.dropout)
        loss = mixture_loss(motion, features, positions + training.noise * noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
        progress("motion", step + 1, training.steps)


def prosody_of(lines: Prosody, windows: Tensor) -> tuple[Tensor, Tensor]:
    """Return PROSODY and the middle token's components of clips (B, T, hops, coefficients)."""
    components = torch.stack([lines.components(clip.float()) for clip in windows])
    memory, prosody = Prosody.begin(len(windows)), []
    for frame in components.unbind(1):
        row, memory = Prosody.step(lines(frame), memory)
        prosody.append(row)
    return torch.stack(prosody, 1), components[:, :, components.shape[2] // 2]


def prosody_bands(prosody: Tensor) -> Tensor:
    """Return `bands` of PROSODY (B, T, 4): (B, T, 2 * (bands - 1))."""
    passes, out = prosody.new_zeros(len(prosody), 2, len(BANDS)), []
    for frame in prosody.unbind(1):
        passes = low_passes(frame, passes)
        out.append(bands(passes))
    return torch.stack(out, 1)


def detrended(rows: Tensor) -> Tensor:
    """Subtract from rows (T, N) the best parabola of each column: slow sways are not of words."""
    time = torch.linspace(-1, 1, len(rows), dtype=rows.dtype)
    basis = torch.linalg.qr(torch.stack([torch.ones_like(time), time, time**2], 1))[0]
    left: Tensor = rows - basis @ (basis.T @ rows)
    return left


class Hybrid(NamedTuple):
    """Input of `HeadOutput`: hybrid features (B, T, hidden), prosody (B, T, >= 4)."""

    features: Tensor
    prosody: Tensor


def spoken_windows(
    clips: Sequence[HeadClip], training: HeadTraining, count: int = 16
) -> tuple[Tensor, Tensor]:
    """Return windows (B, T, hops, coefficients) of joined clips, and of silence (1, ...)."""
    rng = np.random.default_rng(training.seed)
    chances = np.array([clip.weight for clip in clips])
    rows = rng.choice(len(clips), (count, 12), p=chances / chances.sum())
    windows = torch.stack([torch.cat([clips[i].windows for i in row])[:800] for row in rows])
    sound = torch.zeros(windows.shape[1] * SAMPLES_PER_FRAME)
    return windows, audio.windows(sound, training.head.speech)[None]


@torch.no_grad()
def hybrid_of(net: HeadNet, windows: Tensor) -> Hybrid:
    """Return the features of windows (B, T, hops, coefficients)."""
    inputs = gru_input(net, windows)
    return Hybrid(net.gru(inputs)[0], inputs)


@torch.no_grad()
def play(output: HeadOutput, hybrid: Hybrid, seeds: Sequence[int]) -> Tensor:
    """Sample moves (B, T, POSE_DIM) in units of UNIT, one sequence per seed."""
    state, moves = output.begin(seeds), []
    features, prosody = (part.expand(len(seeds), -1, -1) for part in hybrid)
    for row, inputs in zip(features.unbind(1), prosody.unbind(1), strict=True):
        move, state = output(row, inputs, state)
        moves.append(move)
    return torch.stack(moves, 1) / UNIT


@torch.no_grad()
def set_amplitudes(
    output: HeadOutput, spoken: Hybrid, silent: Hybrid, training: HeadTraining
) -> None:
    """Scale sampled motion and motion by prosody to the deviations of a quiet speaker."""
    quiet, stress = torch.tensor(training.quiet) / UNIT, torch.tensor(training.stress) / UNIT
    followed = prosody_bands(spoken.prosody)
    kernel = torch.zeros_like(output.kernel)
    for axis, shares in ((0, NOD), (POSE_DIM - 2, RAISE), (POSE_DIM - 1, RAISE)):
        kernel[:, axis] = torch.tensor(shares).flatten() / _deviation(followed)
    output.gain.fill_(1.0)
    output.kernel.zero_()
    output.limit.fill_(1e3)
    output.silent_gain.fill_(1.0)
    seeds = list(range(len(spoken.features)))
    drawn, resting = play(output, spoken, seeds), play(output, silent, seeds)
    wanted = (quiet.square() - stress.square()).sqrt()
    at_rest = _SILENT_SHARE * wanted / _deviation(resting)
    output.gain.copy_(wanted / _deviation(drawn))
    output.silent_gain.copy_(torch.minimum(at_rest, output.gain))
    drawn = play(output, spoken, seeds)  # pauses are quieter now
    output.gain.mul_(wanted / _deviation(drawn))
    output.kernel.copy_(kernel * (stress / _deviation(followed @ kernel)))
    output.limit.copy_(_LIMIT * quiet)


def _deviation(moves: Tensor) -> Tensor:
    """Return the deviation of columns (B, T, N) about 0 from second four on, 0.01 at least."""
    late: Tensor = moves[:, 100:].flatten(0, 1).square().mean(0).sqrt()
    return late.clamp(min=1e-2)


# --- validation -----------------------------------------------------------------------------------


def measure(net: HeadNet, clips: Sequence[HeadClip]) -> dict[str, float]:
    """Measure the head on clips outside the fit: medians; empty for no clips.

    Correlations of loudness, voicing and pitch of voices with those measured in the sound, of
    motion by prosody with the real head's pitch and brows, and nats per number of the mixture.
    """
    found: dict[str, list[float]] = {}
    for clip in clips:
        windows = clip.windows.float()
        raw = net.prosody(net.prosody.components(windows)).numpy()
        labels = prosody_labels(clip.sound.numpy(), len(windows))
        voiced = labels[:, 1] > 0
        if voiced.sum() < 8:
            continue
        followed = (
            prosody_bands(prosody_of(net.prosody, clip.windows[None])[0])[0] @ net.output.kernel
        )
        pairs = {
            "loudness": (raw[:, 0], labels[:, 0]),
            "voicing": (raw[:, 1], labels[:, 1]),
            "voice_pitch": (raw[voiced, 2], labels[voiced, 2]),
        }
        moved = detrended(clip.moves).numpy()
        for name, axis in (
            ("head_pitch", 0),
            ("inner_brows", POSE_DIM - 2),
            ("outer_brows", POSE_DIM - 1),
        ):
            pairs[name] = (detrended(followed).numpy()[:, axis], moved[:, axis])
        for name, (made, real) in pairs.items():
            found.setdefault(name, []).append(float(np.corrcoef(made, real)[0, 1]))
        positions = net.output.motion.position(clip.moves)[None]
        nats = motion_loss(net, gru_input(net, clip.windows[None]), positions)
        found.setdefault("nats", []).append(float(nats))
    return {name: float(np.median(values)) for name, values in found.items()}


def save(
    path: Path,
    net: HeadNet,
    clips: Sequence[ClipInfo],
    training: HeadTraining,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Write the fitted head, described in the header. Raises OutputError.

    clips: the clips of the fit. metrics: the result of `measure`.
    """
    chosen = _few([c for c in clips if not c.silent], training.most)
    save_fit(path, net, chosen, metrics, {"seed": training.seed})
