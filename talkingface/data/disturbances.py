"""Disturbances of speech (rooms, telephone, noise, music), and sounds without speech.

Every function uses the random generator of its argument, so the same seed gives the same sound;
evaluation and training use the same kinds with other seeds. Sounds are (N,) float32 at 16 kHz, full
scale is 1, levels are root mean squares. A disturbed sound is as long as the clean one and keeps
its timing and its level.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from talkingface.audio import SAMPLE_RATE
from talkingface.types import Array

Source = Callable[[int, np.random.Generator], Tensor]  # (samples, rng) -> a sound of level 1
Disturbance = Callable[[Tensor, np.random.Generator], Tensor]

LOWEST_PINK = 20.0  # Hz: pink noise is flat below
TELEPHONE_LOW, TELEPHONE_HIGH = 300.0, 3400.0  # Hz
TELEPHONE_RATE = 8_000  # Hz
MU = 255.0  # ITU-T G.711, mu-law of 8 bits
FIRST_REFLECTION = 0.005  # seconds after the direct sound
HUM = 50.0  # Hz


# --- sounds of level 1 that are no speech ---------------------------------------------------------


def white_noise(samples: int, rng: np.random.Generator) -> Tensor:
    """Return (samples,) of noise with the same power in every Hz."""
    return _level_one(rng.standard_normal(samples))


def pink_noise(samples: int, rng: np.random.Generator) -> Tensor:
    """Return (samples,) of noise whose power falls with the frequency, 3 dB per octave."""
    size = _fast_size(samples)
    spectrum = np.fft.rfft(rng.standard_normal(size))
    hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    spectrum /= np.sqrt(np.maximum(hertz, LOWEST_PINK))
    spectrum[0] = 0.0
    return _level_one(np.fft.irfft(spectrum, size)[:samples])


def room_noise(samples: int, rng: np.random.Generator) -> Tensor:
    """Return (samples,) of an empty room: pink noise that reverberates, and the hum of the mains.

    The hum is 50 Hz with its first harmonics, 6 dB below the noise.
    """
    noise = reverberate(pink_noise(samples, rng), room_response(rng, decay=0.6, direct=-6.0))
    seconds = np.arange(samples) / SAMPLE_RATE
    hum = np.zeros(samples)
    for harmonic, strength in ((1, 1.0), (2, 0.5), (3, 0.25)):
        phase = rng.uniform(0, 2 * np.pi)
        hum += strength * np.sin(2 * np.pi * HUM * harmonic * seconds + phase)
    return _level_one(noise.double().numpy() + _gain(-6.0) * _level_one(hum).double().numpy())


def music(samples: int, rng: np.random.Generator) -> Tensor:
    """Return (samples,) of a song without a voice: chords, a bass and drums."""
    beat = 60.0 / rng.uniform(80, 140)  # seconds
    root = 110.0 * 2 ** (rng.integers(0, 12) / 12)  # Hz
    steps = rng.permutation([0, 5, 7, 9])  # tonic, subdominant, dominant, relative minor
    sound = np.zeros(samples)
    beats = math.ceil(samples / SAMPLE_RATE / beat)
    for number in range(beats):
        start = round(number * beat * SAMPLE_RATE)
        step = int(steps[number // 4 % len(steps)])
        if number % 4 == 0:
            third = 3 if step == 9 else 4
            for note in (0, third, 7):
                _add(sound, start, _tone(root * 2 ** ((step + 12 + note) / 12), 4 * beat, 1.5))
        _add(sound, start, 1.5 * _tone(root * 2 ** ((step - 12) / 12), beat, 0.3))
        _add(sound, start, 2.0 * _kick() if number % 2 == 0 else 0.8 * _snare(rng))
        for half in (0.0, 0.5):
            _add(sound, start + round(half * beat * SAMPLE_RATE), 0.3 * _hi_hat(rng))
    return _level_one(sound)


def _tone(hertz: float, seconds: float, decay: float) -> Array:
    """Return a plucked note of six harmonics. decay: seconds to a third of its strength."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    harmonics = [
        np.sin(2 * np.pi * hertz * n * time) * np.exp(-time * n**0.5 / decay) / n
        for n in range(1, 7)
        if hertz * n < SAMPLE_RATE / 2
    ]
    attack = np.minimum(time / 0.01, 1.0)
    return np.asarray(np.sum(harmonics, axis=0) * attack)


def _kick() -> Array:
    time = np.arange(round(0.25 * SAMPLE_RATE)) / SAMPLE_RATE
    phase = 2 * np.pi * (50 * time + 70 * 0.03 * (1 - np.exp(-time / 0.03)))  # 120 Hz down to 50
    return np.asarray(np.sin(phase) * np.exp(-time / 0.08))


def _snare(rng: np.random.Generator) -> Array:
    time = np.arange(round(0.2 * SAMPLE_RATE)) / SAMPLE_RATE
    rattle = rng.standard_normal(len(time)) + np.sin(2 * np.pi * 190 * time)
    return np.asarray(rattle * np.exp(-time / 0.05))


def _hi_hat(rng: np.random.Generator) -> Array:
    noise = np.diff(rng.standard_normal(round(0.08 * SAMPLE_RATE) + 1))  # mostly high frequencies
    return np.asarray(noise * np.exp(-np.arange(len(noise)) / SAMPLE_RATE / 0.02))


def _add(sound: Array, start: int, note: Array) -> None:
    """Add a note that begins at sample `start`; cut it at the sound's end."""
    part = sound[start : start + len(note)]
    part += note[: len(part)]


# --- speech that is disturbed ---------------------------------------------------------------------


def mix(sound: Tensor, other: Tensor, decibels: float) -> Tensor:
    """Add `other` so that the sound (both (N,)) is so many decibels louder than it.

    Levels are taken over the whole sounds, pauses included. A sum that leaves [-1, 1] is turned
    down as a whole. Raises ValueError when lengths differ.
    """
    if sound.shape != other.shape or sound.ndim != 1:
        raise ValueError(
            f"expected two sounds (N,), got {tuple(sound.shape)} and {tuple(other.shape)}"
        )
    gain = level(sound) / max(level(other), 1e-12) * _gain(-decibels)
    return _within(sound + other * gain)


def add_noise(sound: Tensor, rng: np.random.Generator, source: Source, decibels: float) -> Tensor:
    """Mix a sound (N,) with noise or music that is so many decibels softer.

    source: `pink_noise`, `white_noise`, `room_noise` or `music`.
    """
    return mix(sound, source(len(sound), rng), decibels)


def telephone(sound: Tensor) -> Tensor:
    """Send a sound (N,) through a telephone: 300 to 3400 Hz, 8,000 samples a second, mu-law.

    The 8 bits are those of ITU-T G.711 in its continuous form: log(1 + 255 |x|) in 256 steps.
    """
    samples = len(sound)
    size = _fast_size(samples)
    spectrum = np.fft.rfft(sound.double().numpy(), size)
    hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    band = (hertz >= TELEPHONE_LOW) & (hertz <= TELEPHONE_HIGH)
    spectrum *= band
    step = SAMPLE_RATE // TELEPHONE_RATE
    narrow = np.fft.irfft(spectrum, size)[::step]
    loudest = max(float(np.abs(narrow).max()), 1.0)
    coded = np.sign(narrow) * np.log1p(MU * np.abs(narrow / loudest)) / np.log1p(MU)
    coded = np.clip(np.floor(coded * 128) + 0.5, -127.5, 127.5) / 128  # 256 steps
    decoded = np.sign(coded) * np.expm1(np.abs(coded) * np.log1p(MU)) / MU * loudest
    wide = np.zeros(size // 2 + 1, dtype=np.complex128)
    low = np.fft.rfft(decoded)
    wide[: len(low)] = low * step
    found = np.fft.irfft(wide * band, size)[:samples]
    return _within(torch.from_numpy(found).float())


def room_response(rng: np.random.Generator, decay: float, direct: float) -> Tensor:
    """Return a room's impulse response: the direct sound at sample 0, then a tail of reflections.

    decay: seconds in which the tail falls by 60 dB. direct: decibels by which the direct sound is
    louder than the whole tail; far from the microphone it is negative.
    """
    length = max(1, round(decay * SAMPLE_RATE))
    first = round(FIRST_REFLECTION * SAMPLE_RATE)
    tail = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    tail *= _gain(-direct) / np.sqrt(np.square(tail).sum())
    response = np.concatenate([[1.0], np.zeros(first - 1), tail])
    return torch.from_numpy(response).float()


def reverberate(sound: Tensor, response: Tensor) -> Tensor:
    """Play a sound (N,) in a room: (N,), as loud as before. response: of `room_response`."""
    size = _fast_size(len(sound) + len(response))
    spectrum = np.fft.rfft(sound.double().numpy(), size)
    spectrum *= np.fft.rfft(response.double().numpy(), size)
    wet = torch.from_numpy(np.fft.irfft(spectrum, size)[: len(sound)]).float()
    return _within(wet * (level(sound) / max(level(wet), 1e-12)))


def far_microphone(sound: Tensor, rng: np.random.Generator) -> Tensor:
    """Record a sound (N,) from across a room that reverberates for 0.4 to 0.7 s."""
    response = room_response(rng, decay=rng.uniform(0.4, 0.7), direct=rng.uniform(-3.0, 3.0))
    return reverberate(sound, response)


# --- levels ---------------------------------------------------------------------------------------


def level(sound: Tensor) -> float:
    """Return the root mean square of a sound (N,)."""
    return float(sound.double().square().mean().sqrt())


def at_level(sound: Tensor, decibels: float) -> Tensor:
    """Return a sound of level 1 (N,) at so many dBFS, or softer where it would clip."""
    return _within(sound * _gain(decibels))


def _gain(decibels: float) -> float:
    return float(10 ** (decibels / 20))


def _within(sound: Tensor) -> Tensor:
    """Turn a sound down as a whole so that it stays in [-1, 1]."""
    loudest = float(sound.abs().max()) if len(sound) else 0.0
    return sound / loudest if loudest > 1 else sound


def _level_one(sound: Array) -> Tensor:
    strength = math.sqrt(float(np.square(sound).mean())) if len(sound) else 0.0
    return torch.from_numpy(sound / max(strength, 1e-12)).float()


def _fast_size(samples: int) -> int:
    """Return a power of two that is at least so large, for a fast transform."""
    return 1 << max(1, samples - 1).bit_length()
