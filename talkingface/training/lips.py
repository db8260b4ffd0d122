"""Fit `ExpressionNet`: the shape in closed form, the closure by a few hundred steps.

Shape: ridge regression of measured expressions on principal components of tokens. Speakers are
weighted by (clips) ** -0.5. Sound is clean and disturbed; the target of noise is the neutral face.
Closure: a small network that classifies whether the lips meet. It is trained on frames of the
corpus with closed lips, and on p, b and m of synthetic voices with known phone times: a corpus of
51 words by seventeen people has too few of them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface import audio, weights
from talkingface.audio import FPS
from talkingface.data import disturbances, expression_space
from talkingface.data.dataset import Cache, ClipInfo
from talkingface.data.provenance import described, licence
from talkingface.errors import BadRequest
from talkingface.landmarks import aperture, eye_distance
from talkingface.metrics.lips import amplitude_ratio, correlation
from talkingface.models.expression import ExpressionSpace
from talkingface.models.lips import ExpressionNet, LipsConfig

Progress = Callable[[str, int, int], None]

CLOSED = 0.035  # interocular: a corpus frame with a smaller gap has closed lips
LABIODENTAL = frozenset("fv\u0278\u03b2\u028b")  # IPA, nearly closed: neither yes nor no
NO_SPEECH = (
    disturbances.white_noise,
    disturbances.pink_noise,
    disturbances.room_noise,
    disturbances.music,
)


@dataclass(frozen=True)
class LipsTraining:
    """Settings of fitting the read-out; the defaults were chosen on free speech (docs/log.md).

    ridge: penalty per unit of weight, in the variance of a principal component. disturbed: weight
    of disturbed copies of the corpus beside the clean one, copies: how many of each clip.
    no_speech: weight of noise and music, seconds of it. voices: weight of synthetic voices, clean
    and disturbed. steps, noise, bias: of the closure, whose logit `bias` raises. gain: on the gap.
    """

    lips: LipsConfig = field(default_factory=LipsConfig)
    ridge: float = 2.0
    copies: int = 2
    disturbed: float = 0.5
    no_speech: float = 0.05
    no_speech_seconds: float = 200.0
    voices: tuple[float, float] = (0.5, 0.3)
    steps: int = 1200
    batch: int = 512
    noise: float = 0.7
    bias: float = 0.3
    gain: float = 1.3
    seed: int = 0


@dataclass(frozen=True)
class Samples:
    """Training samples of frames. x: (N, hops * rank); y: (N, ...), the target; weight: (N,)."""

    x: Tensor
    y: Tensor
    weight: Tensor

    def scaled(self, total: float) -> Samples:
        """Return the samples with weights that add up to `total`."""
        return Samples(self.x, self.y, self.weight * (total / self.weight.sum().clamp(min=1e-9)))


@dataclass(frozen=True)
class _Clip:
    """One clip of the corpus: windows of its sound, its expressions, its gap and its weight."""

    windows: Tensor
    expression: Tensor
    closed: Tensor
    weight: float


def fit(
    cache: Cache,
    clips: Sequence[ClipInfo],
    space: ExpressionSpace,
    voices: Path,
    training: LipsTraining,
    progress: Progress = lambda stage, done, total: None,
) -> ExpressionNet:
    """Fit the read-out to the speaking clips of a cache and to synthetic voices.

    voices: a folder as tests/fixtures/voices. progress is called with (stage, done, total).
    The same arguments give the same weights. Raises BadRequest, UnreadableMedia.
    """
    if all(clip.silent for clip in clips):
        raise BadRequest("no clip of speech to fit the lips to: prepare a corpus first")
    spoken = _read_voices(voices)
    torch.manual_seed(training.seed)
    rng = np.random.default_rng(training.seed)
    net = _unfitted(training.lips, space)
    corpus = list(_corpus(cache, clips, space, training, progress))
    _set_components(net, corpus)
    clean = _stack(net, [(c.windows, c) for c in corpus])
    disturbed = _stack(net, list(_disturbed(cache, clips, corpus, training, rng, progress)))
    quiet = _no_speech(net, training, rng)
    _fit_shape(net, clean, disturbed, quiet, training)
    voiced = _voices(net, spoken, training, rng, progress)
    parts = [
        _closed(clean).scaled(1.0 - training.disturbed / 2),
        _closed(disturbed).scaled(training.disturbed),
        *(part.scaled(w) for part, w in zip(voiced, training.voices, strict=True)),
        Samples(quiet, torch.ones(len(quiet)), torch.ones(len(quiet))).scaled(0.1),
    ]
    _fit_closure(net, parts, training, progress)
    net.opening.copy_(_opening(space, clean))
    net.gain.fill_(training.gain)
    return net.eval().requires_grad_(False)


def _unfitted(config: LipsConfig, space: ExpressionSpace) -> ExpressionNet:
    """Return a network for expressions of this space."""
    identities = len(space.identity_scale)
    config = replace(config, components=space.components, points=len(space.points))
    net = ExpressionNet(replace(config, identities=identities))
    net.space = space
    return net


def train(
    training: LipsTraining,
    cache: Cache,
    path: Path,
    splits: Sequence[str],
    progress: Progress,
    voices: Path,
    space: Path | None = None,
) -> None:
    """Fit the read-out to these splits and write it, measured on the split `val`.

    space: file of the expressions' space; None computes it. Raises as `fit` and `save`.
    """
    clips = cache.split(*splits)
    if space is None:
        known = ExpressionSpace.from_tensors(expression_space.fit(cache, clips).tensors)
    else:
        known = expression_space.load(space)
    net = fit(cache, clips, known, voices, training, progress)
    save(path, net, clips, training, measure(net, cache, cache.split("val")))


def measure(net: ExpressionNet, cache: Cache, clips: Sequence[ClipInfo]) -> dict[str, float]:
    """Compare the gap of the lips with that of real ones: the mean over speaking clips.

    Of clips that the lips were not fitted to; empty where there are none.
    """
    rows: dict[str, list[float]] = {}
    for clip in (c for c in clips if not c.silent):
        windows = audio.windows(_sound(cache, clip), net.config.speech, clip.frames)
        made = net.space.lip_gap(net(windows[None])[0]).double().numpy()
        mesh = cache.mesh[clip.start : clip.start + clip.frames].astype(np.float64)
        real = aperture(mesh) / eye_distance(mesh)
        rows.setdefault("gap_correlation", []).append(correlation(made, real))
        rows.setdefault("gap_amplitude", []).append(amplitude_ratio(made, real))
    return {name: float(np.mean(values)) for name, values in rows.items()}


def save(
    path: Path,
    net: ExpressionNet,
    clips: Sequence[ClipInfo],
    training: LipsTraining,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Write the fitted lips, described in the header. Raises OutputError.

    clips: the clips of the fit. metrics: the result of `measure`.
    """
    extra = {"gain": training.gain, "bias": training.bias, "seed": training.seed}
    speaking, further = [c for c in clips if not c.silent], "; synthetic voices for the closure"
    save_fit(path, net, speaking, metrics, extra, further)


def save_fit(
    path: Path,
    net: nn.Module,
    clips: Sequence[ClipInfo],
    metrics: Mapping[str, float] | None,
    extra: Mapping[str, Any],
    further: str = "",
) -> None:
    """Write a network that was fitted to these clips. further: data beside them, in words."""
    data, terms = f"{described(clips)}{further}", licence(clips)
    weights.save(path, net, training_data=data, licence=terms, metrics=metrics, extra=extra)


# --- training data --------------------------------------------------------------------------------


def _corpus(
    cache: Cache,
    clips: Sequence[ClipInfo],
    space: ExpressionSpace,
    training: LipsTraining,
    progress: Progress,
) -> Iterator[_Clip]:
    """Read the speaking clips with their clean sound."""
    speaking = [c for c in clips if not c.silent]
    counts = Counter(c.speaker for c in speaking)
    scale = _amplitudes(cache, speaking)
    reference = space.reference.numpy().astype(np.float64)
    for done, clip in enumerate(speaking):
        mesh = cache.mesh[clip.start : clip.start + clip.frames]
        neutral = expression_space.neutral_of(mesh, reference)
        measured = space.measure(torch.from_numpy(mesh.copy()), torch.from_numpy(neutral).float())
        gap = torch.from_numpy(aperture(expression_space.aligned(mesh, reference)))
        yield _Clip(
            audio.windows(_sound(cache, clip), training.lips.speech, clip.frames),
            _smooth(measured) * scale[clip.speaker],
            gap < CLOSED,
            counts[clip.speaker] ** -0.5,
        )
        progress("corpus", done + 1, len(speaking))


def _sound(cache: Cache, clip: ClipInfo) -> Tensor:
    return cache.samples(clip, 0, clip.frames * audio.SAMPLES_PER_FRAME)


def _amplitudes(cache: Cache, clips: Sequence[ClipInfo]) -> dict[str, float]:
    """Return a gain per speaker, 0.5 to 2, with which all open their mouths alike."""
    gaps: dict[str, list[NDArray[np.float32]]] = {}
    for clip in clips:
        mesh = cache.mesh[clip.start : clip.start + clip.frames]
        gaps.setdefault(clip.speaker, []).append(np.asarray(aperture(mesh)))
    spread = {who: float(np.concatenate(own).std()) for who, own in gaps.items()}
    middle = float(np.median(list(spread.values())))
    return {who: float(np.clip(middle / max(own, 1e-9), 0.5, 2.0)) for who, own in spread.items()}


def _smooth(expression: Tensor) -> Tensor:
    """Smooth (T, K) over three frames, [1 2 1] / 4, against the tracker's noise."""
    padded = torch.cat([expression[:1], expression, expression[-1:]])
    return padded[:-2] / 4 + padded[1:-1] / 2 + padded[2:] / 4


def components(rows: Tensor, weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Compute principal components of tokens, each number scaled to 1, in double precision.

    rows: (N, coefficients); weight: (N,). Returns the mean (coefficients,) and the projection
    (coefficients, rank), largest first.
    """
    rows, weight = rows.double(), weight.double()[:, None]
    weight = weight / weight.sum()
    mean = (weight * rows).sum(0)
    spread = (weight * (rows - mean).square()).sum(0).sqrt() + 1e-3
    rows = (rows - mean) / spread
    _, vectors = torch.linalg.eigh(rows.T @ (weight * rows))
    return mean, vectors.flip(1)[:, :rank] / spread[:, None]


def _set_components(net: ExpressionNet, corpus: Sequence[_Clip]) -> None:
    """Set mean and principal components of the middle tokens."""
    tokens = torch.cat([c.windows[:, c.windows.shape[1] // 2] for c in corpus])
    weight = torch.cat([torch.full((len(c.windows),), c.weight) for c in corpus])
    mean, projection = components(tokens, weight, net.config.rank)
    net.mean.copy_(mean)
    net.projection.copy_(projection)


def _disturbed(
    cache: Cache,
    clips: Sequence[ClipInfo],
    corpus: Sequence[_Clip],
    training: LipsTraining,
    rng: np.random.Generator,
    progress: Progress,
) -> Iterator[tuple[Tensor, _Clip]]:
    """Yield windows of disturbed copies of the corpus's sound, and their clips."""
    speaking = [c for c in clips if not c.silent]
    for done, (clip, known) in enumerate(zip(speaking, corpus, strict=True)):
        for _ in range(training.copies):
            sound = disturb(_sound(cache, clip), rng)
            yield audio.windows(sound, training.lips.speech, clip.frames), known
        progress("disturbed", done + 1, len(speaking))


def disturb(sound: Tensor, rng: np.random.Generator) -> Tensor:
    """Disturb a sound with another microphone, room, noise and level, as of a user's recording."""
    if rng.random() < 0.5:
        response = disturbances.room_response(rng, rng.uniform(0.1, 0.6), rng.uniform(0.0, 12.0))
        sound = disturbances.reverberate(sound, response)
    if rng.random() < 0.15:
        sound = disturbances.telephone(sound)
    if rng.random() < 0.6:
        source = NO_SPEECH[int(rng.choice(len(NO_SPEECH), p=(0.2, 0.5, 0.1, 0.2)))]
        sound = disturbances.add_noise(sound, rng, source, rng.uniform(3.0, 30.0))
    return disturbances.at_level(sound, rng.uniform(-45.0, -15.0))


def _no_speech(net: ExpressionNet, training: LipsTraining, rng: np.random.Generator) -> Tensor:
    """Return features (N, hops * rank) of noise, music and rooms at every level."""
    seconds, found = 5, []
    for number in range(int(training.no_speech_seconds / seconds)):
        source = NO_SPEECH[number % len(NO_SPEECH)]
        sound = source(seconds * audio.SAMPLE_RATE, rng)
        sound = disturbances.at_level(sound, rng.uniform(-60.0, -12.0))
        found.append(net.features(audio.windows(sound, training.lips.speech)))
    return torch.cat(found)


def _stack(net: ExpressionNet, clips: Sequence[tuple[Tensor, _Clip]]) -> Samples:
    """Return features of clips, with targets (N, K + 1): the expression, and closed lips."""
    targets = [torch.cat([c.expression, c.closed[:, None].float()], 1) for _, c in clips]
    weights = [torch.full((len(windows),), c.weight) for windows, c in clips]
    return Samples(
        torch.cat([net.features(windows) for windows, _ in clips]),
        torch.cat(targets),
        torch.cat(weights),
    )


def _closed(samples: Samples) -> Samples:
    return Samples(samples.x, samples.y[:, -1], samples.weight)


# --- shape ----------------------------------------------------------------------------------------


def _fit_shape(
    net: ExpressionNet, clean: Samples, disturbed: Samples, quiet: Tensor, training: LipsTraining
) -> None:
    """Fit the shape by weighted ridge regression; without speech the face is neutral."""
    count = net.config.components
    parts = [
        clean.scaled(1.0),
        disturbed.scaled(training.disturbed),
        Samples(quiet, torch.zeros(len(quiet), count + 1), torch.ones(len(quiet))).scaled(
            training.no_speech
        ),
    ]
    weight = torch.cat([p.weight for p in parts]).double()
    solution = ridge(
        torch.cat([p.x for p in parts]).double(),
        torch.cat([p.y for p in parts])[:, :count].double(),
        weight / weight.sum(),
        training.ridge / float(weight.sum()),
    )
    with torch.no_grad():
        net.shape.weight.copy_(solution[0].T)
        net.shape.bias.copy_(solution[1])


def ridge(x: Tensor, y: Tensor, weight: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Minimise sum w |x A + b - y|^2 + penalty |A|^2: A (P, K) and b (K,).

    x: (N, P); y: (N, K); weight: (N,), adds up to 1.
    """
    x_mean, y_mean = weight @ x, weight @ y
    rows = x - x_mean
    weighted = rows * weight[:, None]
    gram = rows.T @ weighted + penalty * torch.eye(x.shape[1], dtype=x.dtype)
    slope = torch.linalg.solve(gram, weighted.T @ (y - y_mean))
    return slope, y_mean - x_mean @ slope


def _opening(space: ExpressionSpace, clean: Samples) -> Tensor:
    """Return the direction in which expressions vary with the lips' gap, per unit of gap."""
    expression, weight = clean.y[:, :-1], clean.weight / clean.weight.sum()
    gap = space.lip_gap(expression)
    gap = gap - weight @ gap
    along = (weight * gap) @ (expression - weight @ expression)
    rest = space.lip_gap(torch.zeros_like(along))
    return along / (space.lip_gap(along) - rest)


# --- closure --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _VoiceFiles:
    """Recordings with their phones (symbol, start, end), and the phones that close the lips."""

    files: tuple[tuple[Path, Sequence[tuple[str, float, float]]], ...]
    closed: frozenset[str]


def _read_voices(folder: Path) -> _VoiceFiles:
    """Read the phones of a folder of voices; sound is read later. Raises BadRequest."""
    try:
        known = json.loads((folder / "phones.json").read_text(encoding="utf-8"))
        files = tuple((folder / n, facts["phones"]) for n, facts in sorted(known["files"].items()))
        closed = frozenset(known["classes"]["closed"])
        if not files:
            raise ValueError("no file")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRequest(
            f"{folder}: no voices with phone times ({error}); expected phones.json with `files` "
            "and `classes`, as tools/make_voices.py writes it"
        ) from error
    return _VoiceFiles(files, closed)


def _voices(
    net: ExpressionNet,
    spoken: _VoiceFiles,
    training: LipsTraining,
    rng: np.random.Generator,
    progress: Progress,
) -> tuple[Samples, Samples]:
    """Return frames of synthetic voices, clean and disturbed, with closed or open lips."""
    found: tuple[list[Samples], list[Samples]] = ([], [])
    for done, (path, phones) in enumerate(spoken.files):
        sound = audio.load(path)
        for sounded, into in ((sound, found[0]), (disturb(sound, rng), found[1])):
            x = net.features(audio.windows(sounded, training.lips.speech))
            y, weight = closures(phones, len(x), spoken.closed)
            into.append(Samples(x, y, weight))
        progress("voices", done + 1, len(spoken.files))
    clean, disturbed = (
        Samples(*(torch.cat([getattr(s, name) for s in part]) for name in ("x", "y", "weight")))
        for part in found
    )
    return clean, disturbed


def closures(
    phones: Sequence[tuple[str, float, float]], frames: int, closed: frozenset[str]
) -> tuple[Tensor, Tensor]:
    """Return whether the lips meet in each frame, and the frame's weight: (T,) twice.

    phones: (symbol, start, end) in seconds, "" is a pause. A frame counts where it is at least half
    p, b or m, or none of it; not in a pause, in which lips may do anything.
    """
    share = np.zeros((3, frames))  # of p, b, m; of pauses; of f and v
    share[1] = 1.0
    for symbol, start, end in phones:
        first, last = max(0, int(start * FPS)), min(frames, int(np.ceil(end * FPS)))
        for t in range(first, last):
            part = min(end * FPS, t + 1) - max(start * FPS, t)
            share[1, t] -= part if symbol else 0.0
            share[0, t] += part if symbol in closed else 0.0
            share[2, t] += part if symbol in LABIODENTAL else 0.0
    weight = np.ones(frames)
    weight[share[2] > 0.3] = 0.3
    weight[((share[0] > 0.02) & (share[0] < 0.5)) | (share[1] > 0.3)] = 0.0
    return torch.from_numpy(share[0] >= 0.5).float(), torch.from_numpy(weight).float()


def _fit_closure(
    net: ExpressionNet, parts: Sequence[Samples], training: LipsTraining, progress: Progress
) -> None:
    """Fit the closure by binary cross-entropy, with noise, dropout and weighted sampling."""
    x = torch.cat([p.x for p in parts])
    y = torch.cat([p.y for p in parts])
    weight = torch.cat([p.weight for p in parts]).double()
    chances = weight.cumsum(0) / weight.sum()
    spread = x.std(0)
    first, activation, last = net.closure
    generator = torch.Generator().manual_seed(training.seed)
    optimizer = torch.optim.AdamW(net.closure.parameters(), lr=4e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 4e-3, total_steps=max(training.steps, 2)
    )
    for step in range(training.steps):
        drawn = torch.rand(training.batch, dtype=torch.float64, generator=generator)
        index = torch.searchsorted(chances, drawn).clamp(max=len(x) - 1)
        noise = torch.randn(training.batch, x.shape[1], generator=generator)
        hidden = activation(first(x[index] + training.noise * spread * noise))
        kept = torch.rand(hidden.shape, generator=generator) >= 0.3
        logit = last(hidden * kept / 0.7)[:, 0]
        loss = F.binary_cross_entropy_with_logits(logit, y[index] * 0.96 + 0.02)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress("closure", step + 1, training.steps)
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.bias.add_(training.bias)
