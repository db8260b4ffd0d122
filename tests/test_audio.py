from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import media as recordings
from talkingface import audio, media
from talkingface.audio import SpeechSpec, WindowStream
from talkingface.errors import UnreadableMedia

KINDS = [
    ("a.wav", "pcm_s16le", 44_100, 2),
    ("b.wav", "pcm_f32le", 16_000, 1),
    ("c.wav", "pcm_s16le", 8_000, 1),
    ("a.mp3", "libmp3lame", 44_100, 2),
    ("b.mp3", "libmp3lame", 16_000, 1),
    ("a.m4a", "aac", 44_100, 2),
    ("b.m4a", "aac", 16_000, 1),
    ("a.flac", "flac", 48_000, 2),
    ("a.ogg", "libopus", 48_000, 2),
    ("a.opus", "libopus", 48_000, 1),
    ("a.webm", "libopus", 48_000, 2),
    ("a.mka", "aac", 44_100, 2),
]


def speechlike(samples: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / audio.SAMPLE_RATE
    tones = sum(
        np.sin(2 * np.pi * f * t + p) / f for f, p in rng.uniform([90, 0], [3000, 6], (20, 2))
    )
    loud = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * t)
    sound = 20 * loud * tones + 0.01 * rng.normal(size=samples)
    return torch.from_numpy(sound / np.abs(sound).max()).float()


# ---- load


@pytest.mark.parametrize(("name", "codec", "rate", "channels"), KINDS)
def test_any_recording_is_loaded_unshifted_and_whole(
    tmp_path: Path, name: str, codec: str, rate: int, channels: int
) -> None:
    times = [0.0, 1.0, 2.5, 2.98]
    sound = recordings.clicks(rate, times, 3.0)
    path = recordings.write_sound(tmp_path / name, np.tile(sound, (channels, 1)), rate, codec)
    loaded = audio.load(path)
    assert loaded.dtype == torch.float32 and loaded.ndim == 1
    assert 0.6 < loaded.abs().max() <= 1.0
    # nothing lost; AAC may pad its last frame of 1024
    longest = 1024 * audio.SAMPLE_RATE // rate + 1 if codec == "aac" else 1
    assert -1 <= len(loaded) - 48_000 <= longest
    # half a video frame is 20 ms
    found = recordings.onsets(loaded.numpy(), audio.SAMPLE_RATE, times)
    assert found == pytest.approx(times, abs=0.002)


def test_resampling_keeps_speech_and_makes_no_echo_of_what_is_above(tmp_path: Path) -> None:
    at = np.arange(2 * 44_100) / 44_100
    for hertz, kept in [(300.0, True), (3_000.0, True), (6_500.0, True), (10_000.0, False)]:
        tone = 0.5 * np.sin(2 * np.pi * hertz * at)
        path = recordings.write_sound(tmp_path / "a.wav", tone, 44_100, "pcm_f32le")
        decoded = audio.load(path).numpy()[2000:-2000]
        t = (np.arange(len(decoded)) + 2000) / audio.SAMPLE_RATE
        expected = 0.5 * np.sin(2 * np.pi * hertz * t) if kept else np.zeros(len(t))
        assert np.abs(decoded - expected).max() < 0.5e-2, hertz  # -40 dB


def test_resampling_agrees_with_scipy(tmp_path: Path) -> None:
    signal = pytest.importorskip("scipy.signal")
    sound = speechlike(44_100, seed=3).numpy()
    path = recordings.write_sound(tmp_path / "a.wav", sound, 44_100, "pcm_f32le")
    theirs = signal.resample_poly(sound, 160, 441, window=("kaiser", 12.0))
    ours = audio.load(path).numpy()
    assert abs(len(ours) - len(theirs)) <= 1
    inner = slice(500, len(theirs) - 500)
    error = np.sqrt(np.mean((ours[inner] - theirs[inner]) ** 2) / np.mean(theirs[inner] ** 2))
    assert error < 1e-2


@pytest.mark.parametrize("rate", [8000, 44_100, 48_000])
def test_a_resampler_of_chunks_gives_the_whole_in_any_chunking(rate: int) -> None:
    def tones(at: int) -> np.ndarray:
        t = np.arange(2 * at) / at
        loud = np.minimum(1, np.minimum(t, 2 - t) * 5)
        waves = np.sum([np.sin(2 * np.pi * f * t) for f in (170, 900, 2500)], 0)
        return np.asarray(loud * waves / 4, np.float32)

    own, exact = tones(rate), tones(audio.SAMPLE_RATE)
    for cuts in ([], [1, 2, 500, 501, 9000], range(997, 2 * rate, 997)):
        resampler = media.Resampler(rate, audio.SAMPLE_RATE)
        parts = [resampler.push(part[None])[0] for part in np.split(own, cuts)]
        assert cuts == [] or sum(map(len, parts)) > 1.98 * audio.SAMPLE_RATE  # at once, nearly
        found = np.concatenate([*parts, resampler.finish()[0]])
        assert abs(len(found) - len(exact)) <= 2
        both = min(len(found), len(exact))
        assert np.abs(found[:both] - exact[:both]).max() < 2e-3
    assert media.Resampler(rate, audio.SAMPLE_RATE).finish().size == 0


def test_channels_are_averaged_and_never_clipped(tmp_path: Path) -> None:
    left = 0.8 * np.sin(2 * np.pi * 200 * np.arange(16_000) / 16_000)
    for right, share in [(left, 1.0), (np.zeros(16_000), 0.5)]:
        both = np.stack([left, right])
        path = recordings.write_sound(tmp_path / "a.wav", both, 16_000, "pcm_f32le")
        assert np.abs(audio.load(path).numpy() - share * left).max() < 1e-5


def test_the_sound_track_of_a_video_is_loaded(tmp_path: Path) -> None:
    from talkingface import video_writing

    path = tmp_path / "a.mp4"
    sound = recordings.clicks(16_000, [0.4, 1.2], 2.0)
    video_writing.write(path, [np.zeros((32, 32, 3), np.uint8)] * 50, sound)
    found = recordings.onsets(audio.load(path).numpy(), 16_000, [0.4, 1.2])
    assert found == pytest.approx([0.4, 1.2], abs=0.002)


def bad_files(folder: Path) -> dict[str, str]:
    """Name of each bad input -> what its error must say."""
    from talkingface import video_writing

    (folder / "text.wav").write_text("hello, world\n" * 30)
    (folder / "empty.wav").touch()
    for count in (0, 5, 639):
        silence = np.zeros(count)
        recordings.write_sound(folder / f"{count}.wav", silence, 16_000, "pcm_s16le")
    not_numbers = np.full(16_000, np.nan)
    recordings.write_sound(folder / "nan.wav", not_numbers, 16_000, "pcm_f32le")
    video_writing.write(folder / "mute.mp4", [np.zeros((32, 32, 3), np.uint8)] * 5, None)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 48_000)
    for name, codec in [("cut.wav", "pcm_s16le"), ("cut.m4a", "aac"), ("cut.flac", "flac")]:
        path = recordings.write_sound(folder / name, noise, 16_000, codec)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    recordings.write_sound(folder / "cut.mka", noise, 16_000, "aac")
    data = (folder / "cut.mka").read_bytes()
    (folder / "cut.mka").write_bytes(data[: len(data) * 3 // 5])
    return {
        "none.wav": "no such file",
        "text.wav": "of an unknown kind",
        "empty.wav": "is empty",
        "0.wav": ": 0 samples of sound at 16 kHz; expected at least 640",
        "5.wav": ": 5 samples of sound at 16 kHz; expected at least 640",
        "639.wav": ": 639 samples of sound",
        "nan.wav": "NaN",
        "mute.mp4": "is a video without sound",
        "cut.wav": "cut short",
        "cut.m4a": "cut short",
        "cut.flac": "damaged, cut short",
        "cut.mka": "cut short: its header tells 3",
        ".": "is a folder",
    }


def test_bad_input_is_one_clear_line(tmp_path: Path) -> None:
    for name, said in bad_files(tmp_path).items():
        with pytest.raises(UnreadableMedia) as caught:
            audio.load(tmp_path / name)
        text = str(caught.value)
        assert text.startswith(str(tmp_path)) and said in text and "\n" not in text, (name, text)


def test_a_playlist_has_no_other_file_read_aloud(tmp_path: Path) -> None:
    private = recordings.write_sound(tmp_path / "own.ts", np.zeros(48_000), 48_000, "aac")
    assert len(audio.load(private)) > 15_000
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1.0,\nfile://{private}\n#EXT-X-ENDLIST\n"
    texts = {"a.m3u8": playlist, "a.ffconcat": "ffconcat version 1.0\nfile own.ts\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UnreadableMedia, match=f"{name}: damaged, .* or of an unknown kind"):
            audio.load(tmp_path / name)


def test_a_damaged_recording_is_an_error(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 48_000)
    path = recordings.write_sound(tmp_path / "a.m4a", noise, 16_000, "aac")
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 2000] = b"\x5a" * 2000
    path.write_bytes(bytes(data))
    with pytest.raises(UnreadableMedia, match=r"a\.m4a: damaged"):
        audio.load(path)


def test_one_video_frame_is_enough_and_names_may_be_odd(tmp_path: Path) -> None:
    path = tmp_path / "take 1: é 声.wav"
    plain = recordings.write_sound(tmp_path / "a.wav", np.zeros(640), 16_000, "pcm_s16le")
    plain.rename(path)
    assert audio.load(str(path)).shape == (640,)


# ---- features


def naive_mfcc(sound: np.ndarray, centre: int, spec: SpeechSpec) -> np.ndarray:
    """One hop straight from the definitions, in float64: (coefficients,)."""
    padded = np.pad(sound.astype(np.float64), (1000, 1000))
    first = centre - audio.WINDOW // 2 + 1000
    piece = padded[first : first + 400] - spec.preemphasis * padded[first - 1 : first + 399]
    n = np.arange(400)
    piece = piece * 0.5 * (1 - np.cos(2 * np.pi * n / 400))
    spectrum = np.exp(-2j * np.pi * np.outer(np.arange(257), n) / 512) @ piece
    power = np.abs(spectrum) ** 2
    top = 2595 * np.log10(1 + 8000 / 700)
    edges = [700 * (10 ** (m * top / (spec.mels + 1) / 2595) - 1) for m in range(spec.mels + 2)]
    logs = []
    for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
        total = 0.0
        for k in range(257):
            hertz = k * 16_000 / 512
            if low < hertz < high:
                rising = hertz <= middle
                total += power[k] * (
                    (hertz - low) / (middle - low) if rising else (high - hertz) / (high - middle)
                )
        logs.append(np.log(max(total, spec.floor)))
    return np.array([
        sum(v * np.cos(np.pi * c * (m + 0.5) / spec.mels) for m, v in enumerate(logs))
        * np.sqrt(2 / spec.mels)
        for c in range(1, spec.coefficients + 1)
    ])  # fmt: skip


def test_mfcc_follows_its_definition_with_hop_k_at_sample_160_k() -> None:
    spec = SpeechSpec()
    sound = speechlike(8_000)
    windows = audio.windows(sound, spec)
    assert windows.shape == (13, 35, 12)
    for frame, hop in [(0, 17), (3, 0), (3, 20), (6, 34), (9, 5), (12, 0)]:
        centre = 640 * frame + 320 + 160 * (hop - 17)
        expected = naive_mfcc(sound.numpy(), centre, spec)
        np.testing.assert_allclose(windows[frame, hop].numpy(), expected, atol=2e-4)


@pytest.mark.slow
def test_mfcc_equals_librosa() -> None:
    librosa = pytest.importorskip("librosa")
    spec = SpeechSpec()
    sound = speechlike(16_000, seed=1)
    emphasised = sound.numpy().copy()
    emphasised[1:] -= np.float32(spec.preemphasis) * sound.numpy()[:-1]
    mel = librosa.feature.melspectrogram(
        y=emphasised[1:], sr=16_000, n_fft=512, hop_length=160, win_length=400, n_mels=26,
        htk=True, norm=None, center=False, fmin=0.0, fmax=8000.0,
    )  # fmt: skip
    theirs = librosa.feature.mfcc(S=np.log(np.maximum(mel, spec.floor)), n_mfcc=13, norm="ortho")[
        1:
    ].T
    # librosa puts the window of 400 into the middle of the 512: 56 samples later
    ours = audio.hop_features(sound[56:], spec).numpy()[: len(theirs)]
    np.testing.assert_allclose(ours, theirs[: len(ours)], atol=2e-3)


def test_silence_is_the_floor() -> None:
    spec = SpeechSpec(kind="log_mel", coefficients=26)
    windows = audio.windows(torch.zeros(6_400), spec)
    assert torch.allclose(windows, torch.tensor(spec.floor).log())
    assert audio.windows(torch.zeros(6_400), SpeechSpec()).abs().max() < 1e-4


def test_windows_are_centred_on_the_middle_of_their_frame() -> None:
    spec = SpeechSpec(kind="log_mel", coefficients=26, preemphasis=0.0)
    sound = torch.zeros(16_000)
    sound[640 * 7 + 320] = 1.0
    window = audio.windows(sound, spec)[7]
    assert window.max() > torch.tensor(spec.floor).log() + 1
    assert torch.allclose(window, window.flip(0), atol=1e-4)


def test_latency_is_what_a_frame_hears_after_its_end() -> None:
    spec = SpeechSpec()
    assert spec.latency == pytest.approx(0.1625)
    sound = speechlike(16_000)
    frame = 8
    last = 640 * (frame + 1) + round(spec.latency * 16_000)
    changed = sound.clone()
    changed[last:] = 0.0
    assert torch.equal(audio.windows(sound, spec)[frame], audio.windows(changed, spec)[frame])
    changed[last - 100 :] = 0.0
    assert not torch.equal(audio.windows(sound, spec)[frame], audio.windows(changed, spec)[frame])


@pytest.mark.parametrize("samples", [1, 5, 639, 640, 641, 3_000, 16_001])
def test_a_stream_gives_the_same_windows_in_any_chunking(samples: int) -> None:
    spec = SpeechSpec()
    sound = speechlike(max(samples, 100))[:samples]
    whole = audio.windows(sound, spec)
    assert len(whole) == audio.frame_count(samples)
    rng = np.random.default_rng(samples)
    for largest in (50, 700, 5_000, samples):
        stream, parts, at = WindowStream(spec), [], 0
        while at < samples:
            size = int(rng.integers(0, largest + 1))
            parts.append(stream.push(sound[at : at + size]))
            at += size
        parts.append(stream.finish())
        assert torch.allclose(torch.cat(parts), whole, atol=1e-4)


def test_a_stream_gives_a_frame_as_soon_as_its_sound_is_there() -> None:
    spec = SpeechSpec()
    stream = WindowStream(spec)
    needed = 640 + round(spec.latency * 16_000)
    assert len(stream.push(torch.zeros(needed - 1))) == 0
    assert len(stream.push(torch.zeros(1))) == 1
    assert len(stream.push(torch.zeros(639))) == 0
    assert len(stream.push(torch.zeros(1))) == 1
    assert len(WindowStream(spec).finish()) == 0


def test_frame_count_rounds_up() -> None:
    counts = {0: 1, 1: 1, 640: 1, 641: 2, 16_000: 25, 16_001: 26}
    assert {n: audio.frame_count(n) for n in counts} == counts


def test_a_spec_refuses_more_coefficients_than_it_has() -> None:
    with pytest.raises(ValueError, match="mfcc of 26 mels has at most 25"):
        SpeechSpec(coefficients=26)
    assert SpeechSpec(kind="log_mel", coefficients=26).coefficients == 26
