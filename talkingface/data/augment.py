"""Augmentation of faces and voices, with the same change for identity and target.

Everything draws from the generator it is given, so a batch is a function of (seed, step).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from talkingface.audio import SAMPLE_RATE, SpeechSpec, hop_features
from talkingface.landmarks import MIRROR, MIRROR_MESH
from talkingface.types import Floats, Frames


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths of the changes; 0 switches one off."""

    colour: float = 1.0  # channel gains, gamma, saturation, contrast
    light: float = 1.0  # a ramp of light over the face
    mirror: float = 0.5  # probability
    geometry: float = 1.0  # scale 8 %, stretch 8 %, 3 degrees, shift 4 px at 128
    # vocal-tract length: the spectrum is read at f times a factor from this range; below 1 formants
    # rise, as in women and children, whom a corpus that is nine tenths one man lacks most
    tract: tuple[float, float] = (0.7, 1.15)
    equaliser: float = 6.0  # dB, smooth over frequency
    gain: float = 8.0  # dB
    noise: float = 0.7  # probability of noise at 10-40 dB SNR
    room: float = 0.3  # probability of a small room
    shift: float = 0.015  # seconds the sound may come early or late
    # tape speed (pitch, voice, tempo) 1 +- this, where no picture is drawn: no gain (docs/log.md)
    speed: float = 0.0


_MIRRORS = {len(order): order for order in (MIRROR, MIRROR_MESH)}
NO_AUGMENTATION = AugmentConfig(0, 0, 0, 0, (1.0, 1.0), 0, 0, 0, 0, 0, 0)


def augment_faces(
    frames: Frames, points: Floats, rng: np.random.Generator, config: AugmentConfig
) -> tuple[Frames, Floats]:
    """Change all frames of a sample alike, at random, and move their points accordingly.

    frames: (T, S, S, 3) uint8; points in [0, 1]: meshes (T, 478, 2), or landmarks (T, 68, 2).
    """
    frames, points = _geometry(frames, points, rng, config)
    if rng.random() < config.mirror:
        frames = frames[:, :, ::-1]
        points = (points[:, _MIRRORS[points.shape[1]]] * [-1, 1] + [1, 0]).astype(np.float32)
    if config.colour > 0 or config.light > 0:
        frames = _colour(frames, rng, config)
    return frames, np.asarray(points, dtype=np.float32)


def _geometry(
    frames: Frames, points: Floats, rng: np.random.Generator, config: AugmentConfig
) -> tuple[Frames, Floats]:
    if config.geometry <= 0:
        return frames, points
    size, amount = frames.shape[1], config.geometry
    scale = 1 + amount * rng.uniform(-0.08, 0.08)
    stretch = 1 + amount * rng.uniform(-0.08, 0.08)
    angle = np.deg2rad(amount * rng.uniform(-3, 3))
    shift = amount * rng.uniform(-4, 4, 2) * size / 128
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = rotation @ np.diag([scale * stretch, scale / stretch])
    middle = np.array([size / 2, size / 2])
    offset = middle + shift - linear @ middle
    matrix = np.column_stack([linear, offset])
    warped = [
        cv2.warpAffine(f, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE) for f in frames
    ]
    moved = points @ linear.T + offset / size
    return np.stack(warped).astype(np.uint8), moved.astype(np.float32)


def _colour(frames: Frames, rng: np.random.Generator, config: AugmentConfig) -> Frames:
    amount = config.colour
    gains = np.exp(amount * (rng.normal(0, 0.12) + rng.normal(0, 0.10, 3)))
    gamma = np.exp(amount * rng.normal(0, 0.2))
    lift = amount * rng.normal(0, 0.03)
    levels = (np.linspace(0, 1, 256)[:, None] ** gamma) * gains + lift
    table = np.clip(np.rint(levels * 255), 0, 255).astype(np.uint8)
    saturation = np.exp(amount * rng.normal(0, 0.25))
    if rng.random() < 0.1 * amount:
        saturation = 0.0
    mix = saturation * np.eye(3) + (1 - saturation) * np.array([0.299, 0.587, 0.114])
    size = frames.shape[1]
    flat = np.ascontiguousarray(frames).reshape(-1, size, 3)
    mixed = cv2.transform(cv2.LUT(flat, table[:, None]), mix).reshape(frames.shape)
    if config.light <= 0 or rng.random() < 0.5:
        return np.asarray(mixed, dtype=np.uint8)
    across, down = config.light * rng.normal(0, 0.35, 2)
    axis = np.linspace(-1, 1, size)
    ramp = np.exp(across * axis[None] + down * axis[:, None])
    ramp = np.dstack([ramp / ramp.mean()] * 3).astype(np.float32)
    lit = [cv2.multiply(f, ramp, dtype=cv2.CV_8U) for f in mixed]
    return np.asarray(np.stack(lit), dtype=np.uint8)


def augment_speech(
    samples: Tensor, spec: SpeechSpec, rng: np.random.Generator, config: AugmentConfig
) -> Tensor:
    """Change the voice of samples (N,), and return the features of their hops (hops, coefficients).

    Vocal-tract length and equaliser act on the power spectrum, gain, noise and room on the samples.
    """
    samples = samples * 10 ** (rng.uniform(-config.gain, config.gain) / 20)
    if rng.random() < config.room:
        samples = _room(samples, rng)
    if rng.random() < config.noise:
        samples = _noise(samples, rng)
    factor = 1.0
    if config.tract != (1.0, 1.0):
        factor = float(np.exp(rng.uniform(*np.log(config.tract))))
    knots = np.zeros(6)
    if config.equaliser > 0:
        knots = rng.normal(0, config.equaliser / 2, 6)

    def change(power: Tensor) -> Tensor:
        bins = power.shape[-1]
        curve = np.interp(np.linspace(0, 5, bins), np.arange(6), knots)
        if factor != 1.0:
            power = _scale_frequency(power, factor)
        return power * (10 ** (torch.from_numpy(curve) / 10)).float()

    return hop_features(samples, spec, change)


def _scale_frequency(power: Tensor, factor: float) -> Tensor:
    """Scale frequency: power'(f) = power(f * factor), linear; above the band its edge repeats."""
    bins = power.shape[-1]
    place = (torch.arange(bins) * factor).clamp(max=bins - 1.001)
    low = place.floor().long()
    part = place - low
    return power[..., low] * (1 - part) + power[..., low + 1] * part


def _noise(samples: Tensor, rng: np.random.Generator) -> Tensor:
    """Add white to brown noise, 10-40 dB below the sound's own level."""
    level = samples.square().mean().sqrt() * 10 ** (-rng.uniform(10, 40) / 20)
    size = 1 << len(samples).bit_length()  # a length that transforms fast
    white = torch.fft.rfft(torch.from_numpy(rng.standard_normal(size)).float())
    tilt = torch.arange(1, len(white) + 1).float() ** -float(rng.uniform(0, 1))
    noise = torch.fft.irfft(white * tilt)[: len(samples)]
    out: Tensor = samples + noise * level / noise.square().mean().sqrt().clamp(min=1e-9)
    return out


def _room(samples: Tensor, rng: np.random.Generator) -> Tensor:
    """Add a small room: a decaying tail of reflections (60 dB in 0.1-0.4 s)."""
    decay = float(rng.uniform(0.1, 0.4))
    length = int(decay * SAMPLE_RATE)
    tail = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    tail *= rng.uniform(0.1, 0.5) / np.sqrt((tail**2).sum())
    tail[0] = 1.0
    size = 1 << (len(samples) + length).bit_length()
    spectrum = torch.fft.rfft(samples, n=size) * torch.fft.rfft(
        torch.from_numpy(tail).float(), n=size
    )
    out: Tensor = torch.fft.irfft(spectrum, n=size)[: len(samples)]
    return out
