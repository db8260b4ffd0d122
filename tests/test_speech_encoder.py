"""Speech encoder: each part against plain numpy, the reach by gradients, stream equals whole."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor

from helpers.corpus import draw_batch
from talkingface import audio, speech_encoder, weights
from talkingface.audio import SAMPLES_PER_FRAME, SpeechSpec, WindowStream, windows
from talkingface.contract import Generated
from talkingface.data.augment import NO_AUGMENTATION, AugmentConfig, augment_speech
from talkingface.data.dataset import Cache, SampleConfig, clip_speech
from talkingface.frames import OutputFrame
from talkingface.speech_encoder import MELS, POSITIONS, WIDTH, WINDOW, Reach
from talkingface.streaming import Stream

SPEC = SpeechSpec(kind="encoder", coefficients=384, hops=9, reach=(48, 4, 11))
REACH = Reach(48, 4, 11)
Doubles = NDArray[np.float64]


@pytest.fixture(scope="module")
def stored() -> dict[str, Doubles]:
    return {
        name: value.astype(np.float64) for name, value in load_file(speech_encoder.FILE).items()
    }


@pytest.fixture(scope="module")
def sound(speech: Path) -> Tensor:
    return audio.load(speech)


# --- the parts, against plain numpy --------------------------------------------------------------


def hertz(mel: float) -> float:
    """Slaney's scale: 200 / 3 Hz per mel up to 1 kHz, then 27 mels for a factor of 6.4."""
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def naive_filters() -> Doubles:
    """(201, 80): each weight from its definition."""
    top = 15 + 27 * math.log(8) / math.log(6.4)
    edges = [hertz(top * n / (MELS + 1)) for n in range(MELS + 2)]
    filters = np.zeros((WINDOW // 2 + 1, MELS))
    for band, (low, middle, high) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        for k in range(WINDOW // 2 + 1):
            f = 40.0 * k
            if low < f < high:
                height = (f - low) / (middle - low) if f <= middle else (high - f) / (high - middle)
                filters[k, band] = height / ((high - low) / 2)
    return filters


def naive_log_mel(sound: Doubles) -> Doubles:
    """(hops, 80), hop by hop, by a Fourier transform written out."""
    n = np.arange(WINDOW)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / WINDOW)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(WINDOW // 2 + 1), n) / WINDOW)
    filters, rows = naive_filters(), []
    for start in range(0, len(sound) - WINDOW + 1, 160):
        power = np.abs(waves @ (sound[start : start + WINDOW] * hann)) ** 2
        hiss = 6e-5**2 * (hann**2).sum()  # white noise, in every bin
        rows.append(np.log10((power + hiss) @ filters))
    log = np.stack(rows)
    return np.asarray((np.maximum(log, log.max() - 8) + 4) / 4)


def gelu(x: Doubles) -> Doubles:
    """The exact one."""
    return np.asarray(x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))


def norm(x: Doubles, weights: dict[str, Doubles], name: str) -> Doubles:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return np.asarray(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"])


def linear(x: Doubles, weights: dict[str, Doubles], name: str) -> Doubles:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def naive_convolution(x: Doubles, weights: dict[str, Doubles], name: str, stride: int) -> Doubles:
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    rows = range(0, len(x) - 2, stride)
    return np.stack([sum(weight[:, :, k] @ x[row + k] for k in range(3)) + bias for row in rows])


def naive_block(x: Doubles, weights: dict[str, Doubles]) -> Doubles:
    """All tokens of the first block, head by head."""
    query, key, value = np.split(
        linear(norm(x, weights, "blocks.0.attn_norm"), weights, "blocks.0.qkv"), 3, axis=1
    )
    heads = []
    for head in range(6):
        part = slice(64 * head, 64 * head + 64)
        scores = query[:, part] @ key[:, part].T / 8
        shares = np.exp(scores - scores.max(1, keepdims=True))
        heads.append(shares / shares.sum(1, keepdims=True) @ value[:, part])
    x = x + linear(np.concatenate(heads, axis=1), weights, "blocks.0.proj")
    hidden = gelu(linear(norm(x, weights, "blocks.0.mlp_norm"), weights, "blocks.0.up"))
    return x + linear(hidden, weights, "blocks.0.down")


def naive_tokens(sound: Doubles, weights: dict[str, Doubles], reach: Reach) -> Doubles:
    """The new tokens of a block of this sound."""
    hops = np.pad(naive_log_mel(sound), ((1, 1), (0, 0)))
    x = gelu(naive_convolution(hops, weights, "conv1", 1))
    x = gelu(naive_convolution(x, weights, "conv2", 2)) + weights["positions"][: reach.tokens]
    return naive_block(x, weights)[reach.before : reach.before + reach.new]


def test_filters_follow_slaneys_definition() -> None:
    found = speech_encoder.mel_filters().double().numpy()
    np.testing.assert_allclose(found, naive_filters(), atol=1e-8)
    assert found[1, 0] == pytest.approx(0.02486259, abs=1e-8)  # of librosa, Whisper's own
    assert hertz(15) == 1000 and hertz(42) == pytest.approx(6400)


def test_log_mel_follows_its_definition(sound: Tensor) -> None:
    encoder, part = speech_encoder.load(), sound[16_000:24_000]
    found = encoder.log_mel(encoder.power(part)).double().numpy()
    expected = naive_log_mel(part.double().numpy())
    assert found.shape == expected.shape == (48, MELS)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_silence_is_a_quiet_hiss_and_the_clamp_8_decades_below_the_loudest() -> None:
    tone = 100 * torch.sin(2 * torch.pi * 1000 * torch.arange(REACH.samples) / 16_000)
    quiet = torch.cat([tone[:8000], torch.zeros(REACH.samples - 8000)])
    encoder = speech_encoder.load()
    log_mel = encoder.log_mel(encoder.power(quiet))
    assert float(log_mel.max() - log_mel.min()) == pytest.approx(2.0, abs=1e-6)
    silent = encoder.log_mel(encoder.power(quiet[8400:]))
    assert torch.equal(silent, silent[:1].expand_as(silent))
    noise = 6e-5 * torch.randn(160_000, generator=torch.Generator().manual_seed(0))
    power = encoder.power(noise).mean(0, keepdim=True)
    mel = (power @ encoder.filters).log10()
    torch.testing.assert_close(silent[0] * 4 - 4, mel[0], atol=0.05, rtol=0)


def test_a_convolution_is_torchs() -> None:
    x = torch.randn(20, MELS, generator=torch.Generator().manual_seed(0))
    for conv in (speech_encoder.load().conv1, torch.nn.Conv1d(MELS, 7, 3, 2)):
        found = speech_encoder._convolve(x, conv)
        torch.testing.assert_close(found, conv(x.T[None])[0].T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("wanted", [slice(0, 4), slice(30, 31), slice(0, 40)])
def test_the_block_attends_as_written_out(stored: dict[str, Doubles], wanted: slice) -> None:
    x = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(1))
    found = speech_encoder.load().blocks[0]([x, x + 1], wanted)[0].double().numpy()
    np.testing.assert_allclose(found, naive_block(x.double().numpy(), stored)[wanted], atol=2e-4)


def test_tokens_are_those_of_numpy(stored: dict[str, Doubles], sound: Tensor) -> None:
    encoder, part = speech_encoder.load(), sound[12_000 : 12_000 + REACH.samples]
    found = encoder([encoder.power(part)], REACH)[0].double().numpy()
    expected = naive_tokens(part.double().numpy(), stored, REACH)
    assert found.shape == (4, WIDTH) and expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_windows_are_those_of_blocks_counted_from_the_first_sample(
    stored: dict[str, Doubles], sound: Tensor
) -> None:
    """Token j is centred on sample 320 j; blocks begin with token 2 and every fourth."""
    found = windows(sound, SPEC)
    assert found.shape == (75, 9, 384) and found.dtype == torch.float32
    around = np.pad(sound.double().numpy(), 20_000)
    for frame, row in ((0, 0), (0, 8), (31, 3), (40, 4), (74, 8)):
        token = 2 * frame + 1 + row - 4
        first = (token - 2) // 4 * 4 + 2
        begin = 20_000 + 320 * (first - 48) - 360
        made = naive_tokens(around[begin : begin + 320 * 63 + 400], stored, REACH)
        np.testing.assert_allclose(found[frame, row].numpy(), made[token - first], atol=1e-3)


def test_weights_are_float16_and_read_when_needed() -> None:
    assert all(value.dtype == np.float16 for value in load_file(speech_encoder.FILE).values())
    code = (
        "from talkingface import audio, pipeline, speech_encoder as s; import torch; "
        "audio.windows(torch.zeros(640), audio.SpeechSpec()); print(s.load.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


# --- the reach -----------------------------------------------------------------------------------


def dependence(frame: int, spec: SpeechSpec) -> tuple[int, int]:
    """The first and last sample on which a frame's window depends, by gradients."""
    noise = 0.1 * torch.randn(60 * 640, generator=torch.Generator().manual_seed(2))
    noise.requires_grad_()
    (gradient,) = torch.autograd.grad(windows(noise, spec)[frame].square().sum(), noise)
    places = gradient.nonzero()[:, 0]
    return int(places[0]), int(places[-1])


def test_reading_them_takes_no_random_numbers() -> None:
    """They are read in the midst of training, by the thread that makes batches."""
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    encoder = speech_encoder.load.__wrapped__()
    assert torch.equal(torch.rand(4), expected)
    assert not any(tensor.is_meta for tensor in (*encoder.parameters(), *encoder.buffers()))


def test_latency_is_that_of_the_frame_that_waits_longest() -> None:
    assert SPEC.latency == pytest.approx(0.3425) and SPEC.latency <= 0.35
    ends = {}
    for frame in (40, 41):
        first, last = dependence(frame, SPEC)
        assert first >= 640 * frame + SPEC.first_sample + 1  # the window's first weight is zero
        ends[frame] = last - 640 * (frame + 1) + 1
    assert ends == {40: 5480 - 640, 41: 5480}
    assert dependence(40, SPEC)[0] == 640 * 40 + SPEC.first_sample + 1


@pytest.mark.parametrize(("reach", "hops"), [((20, 3, 5), 9), ((30, 1, 2), 8), ((9, 6, 0), 11)])
def test_another_reach_is_as_exact(reach: tuple[int, int, int], hops: int) -> None:
    spec = SpeechSpec(kind="encoder", coefficients=384, hops=hops, reach=reach)
    places = [dependence(frame, spec) for frame in range(30, 30 + reach[1])]
    firsts = [first - 640 * frame for frame, (first, _) in enumerate(places, 30)]
    lasts = [last - 640 * frame for frame, (_, last) in enumerate(places, 30)]
    assert min(firsts) == spec.first_sample + 1
    assert max(lasts) == spec.first_sample + spec.samples - 1


def test_samples_just_outside_the_reach_change_nothing() -> None:
    noise = 0.1 * torch.randn(60 * 640, generator=torch.Generator().manual_seed(3))
    plain, frame = windows(noise, SPEC), 41
    end = 640 * (frame + 1) + round(SPEC.latency * 16_000)
    begin = 640 * (frame - 1) + SPEC.first_sample  # of frame 40, the first that the block serves
    later, last, earlier, first = (noise.clone() for _ in range(4))
    later[end:] = 1.0
    last[end - 1] += 10.0
    earlier[: begin + 1] = 1.0
    first[begin + 1] += 10.0
    assert torch.equal(windows(later, SPEC)[frame], plain[frame])
    assert not torch.equal(windows(last, SPEC)[frame], plain[frame])
    assert torch.equal(windows(earlier, SPEC)[frame - 1], plain[frame - 1])
    assert not torch.equal(windows(first, SPEC)[frame - 1], plain[frame - 1])


def test_a_reach_that_cannot_be_is_refused() -> None:
    assert REACH.tokens == POSITIONS
    with pytest.raises(ValueError, match="a reach of 48, 0, 11 tokens; expected at least 0, 1, 0"):
        SpeechSpec(kind="encoder", coefficients=384, hops=9, reach=(48, 0, 11))
    with pytest.raises(ValueError, match="at most 63 together"):
        Reach(48, 4, 12)
    with pytest.raises(ValueError, match="at most 384 coefficients"):
        SpeechSpec(kind="encoder", coefficients=385, hops=9)
    with pytest.raises(ValueError, match=r"longer than a frame \(2 hops\)"):
        SpeechSpec(kind="encoder", coefficients=384, hops=2)


# --- streams -------------------------------------------------------------------------------------


def chunks(sound: Tensor, largest: int, seed: int = 0) -> Iterator[Tensor]:
    rng, at = np.random.default_rng(seed), 0
    while at < len(sound):
        size = int(rng.integers(0, largest + 1))
        yield sound[at : at + size]
        at += size


@pytest.mark.parametrize("largest", [1_000, 20_000, 100_000])
def test_a_stream_gives_the_same_bits_in_any_chunking(sound: Tensor, largest: int) -> None:
    stream = WindowStream(SPEC)
    parts = [stream.push(part) for part in chunks(sound, largest)]
    assert torch.equal(torch.cat([*parts, stream.finish()]), windows(sound, SPEC))


@pytest.mark.parametrize("samples", [1, 639, 641, 3_000])
def test_a_stream_of_single_samples_gives_the_same_bits(sound: Tensor, samples: int) -> None:
    stream, part = WindowStream(SPEC), sound[20_000 : 20_000 + samples]
    parts = [stream.push(sample) for sample in part.split(1)]
    assert torch.equal(torch.cat([*parts, stream.finish()]), windows(part, SPEC))


def test_a_stream_gives_a_frame_as_soon_as_its_sound_is_there() -> None:
    stream = WindowStream(SPEC)
    assert len(stream.push(torch.zeros(640 + 5480 - 1))) == 0
    assert len(stream.push(torch.zeros(1))) == 1
    assert len(stream.push(torch.zeros(639))) == 0
    assert len(stream.push(torch.zeros(1))) == 1


def test_a_saved_stream_goes_on_with_the_same_bits(sound: Tensor, tmp_path: Path) -> None:
    """Taken up after odd and even numbers of frames: at the ends of blocks, and within them."""
    found: list[Tensor] = []

    class Generator:
        spec, info, device = SPEC, weights.load_with_info("cran-tiny")[1], torch.device("cpu")
        animator = None

        def generate(self, speech: Tensor, *_: Any) -> tuple[Generated, None, None]:
            found.append(speech)
            return Generated(frames=torch.zeros(1, len(speech), 3, 2, 2)), None, None

    class Painter:
        needs_motion_alone = False

        def __call__(self, frame: OutputFrame) -> NDArray[np.uint8]:
            return frame.crop

    def open_stream() -> Stream:
        return Stream(Generator(), Painter())  # type: ignore[arg-type]

    stream, path = open_stream(), tmp_path / "stream.safetensors"
    for part in chunks(sound, 6_000, seed=1):
        stream.push(part.numpy())
        stream.save(path, overwrite=True)
        stream, before = open_stream(), len(found)
        stream.restore(path)
        del found[before:]  # a frame of silence, to compare the states
    stream.finish()
    assert torch.equal(torch.cat(found), windows(sound, SPEC))


class Counting(speech_encoder.SpeechEncoder):
    """Encodes at once, and counts the blocks."""

    blocks_made = 0

    def power(self, sound: Tensor) -> Tensor:
        assert len(sound) == REACH.samples
        return sound

    def forward(self, powers: Sequence[Tensor], reach: Reach) -> list[Tensor]:
        self.blocks_made += len(powers)
        return [power[:4, None].expand(4, WIDTH) for power in powers]


def test_an_hour_takes_flat_memory_and_each_block_is_made_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counting, stream, frames = Counting(), WindowStream(SPEC), 0
    monkeypatch.setattr(speech_encoder, "load", lambda: counting)
    for _ in range(3600):
        frames += len(stream.push(torch.zeros(16_000)))
        assert len(stream.buffer) < SPEC.samples and len(stream._blocks) <= 3
    frames += len(stream.finish())
    assert frames == 90_000
    assert counting.blocks_made == (180_003 + 6) // 4 + 1  # tokens -6 to 2 * 89,999 + 5


# --- samples to train on -------------------------------------------------------------------------


def test_training_samples_are_windows_of_the_clip(cache: Cache) -> None:
    """A sample's blocks begin with it: equal tokens from an even frame, similar from an odd."""
    clip = next(c for c in cache.clips if not c.silent)
    whole = clip_speech(cache, clip, SPEC)
    assert whole.shape == (clip.frames, 9, 384)
    for first, count in ((4, 1), (4, 2), (6, 5), (7, 5)):
        begin = first * SAMPLES_PER_FRAME + SPEC.first_sample
        samples = cache.samples(clip, begin, (count - 1) * SAMPLES_PER_FRAME + SPEC.samples)
        tokens = audio.hop_features(samples, SPEC)
        made = audio.frame_windows(tokens, SPEC)
        assert len(made) == count
        expected = whole[first : first + count]
        if first % 2 == 0:
            assert torch.equal(made, expected)
        else:
            both = torch.stack([made.flatten(), expected.flatten()])
            assert torch.corrcoef(both)[0, 1] > 0.95
        plain = augment_speech(samples, SPEC, np.random.default_rng(0), NO_AUGMENTATION)
        assert torch.equal(plain, tokens)


def test_batches_of_augmented_speech(cache: Cache) -> None:
    augment = AugmentConfig(room=1.0, noise=1.0, speed=0.1)
    config = SampleConfig(batch=3, frames=5, silent=0.3, pictures=False, augment=augment)
    first, again, other = (draw_batch(cache, cache.clips, SPEC, config, (s,)) for s in (1, 1, 2))
    assert first.speech.shape == (3, 5, 9, 384) and bool(torch.isfinite(first.speech).all())
    assert torch.equal(first.speech, again.speech) and not torch.equal(first.speech, other.speech)
