"""Batches depend on their seed alone, are aligned in time, and change a sample's frames alike."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import corpus
from helpers.corpus import draw_batch
from talkingface import audio, picture
from talkingface.audio import SpeechSpec, windows
from talkingface.data.augment import (
    NO_AUGMENTATION,
    AugmentConfig,
    _noise,
    _room,
    augment_faces,
    augment_speech,
)
from talkingface.data.clip import UNSEEN
from talkingface.data.dataset import (
    Batch,
    Cache,
    SampleConfig,
    clip_speech,
    prefetch,
)
from talkingface.errors import BadShard
from talkingface.faces import align, find_faces
from talkingface.geometry import CropSpec
from talkingface.landmarks import (
    IBUG,
    INNER_BOTTOM,
    INNER_TOP,
    MIRROR,
    MIRROR_MESH,
    eye_distance,
)

SIDE = 16
FRAMES = 60  # of a speaking clip
SPEC = SpeechSpec()
PLAIN = SampleConfig(batch=8, frames=10, silent=0.0, augment=NO_AUGMENTATION)


def write_cache(folder: Path, rng: np.random.Generator) -> Path:
    """Ten clips of one speaker, two of another, two pictures; a frame's grey is its number.

    x of every point of meshes and landmarks is (frame number) / 100.
    """
    rows, start = [], 0
    speakers = ["s1"] * 10 + ["s2"] * 2 + ["portrait"] * 2
    frames, landmarks, sound = [], [], []
    for number, speaker in enumerate(speakers):
        silent = speaker == "portrait"
        count = 1 if silent else FRAMES
        grey = np.arange(count) + (200 + number if silent else 0)
        frames.append(np.broadcast_to(grey[:, None, None, None], (count, SIDE, SIDE, 3)))
        points = np.zeros((count, 68, 2))
        points[..., 0] = np.arange(count)[:, None] / 100
        points[:, INNER_TOP, 1] = 0.5
        points[:, INNER_BOTTOM, 1] = 0.5 + 0.1 * rng.random(count)
        landmarks.append(points)
        level = 0 if silent else 8000
        sound.append(rng.normal(0, level, count * 640).clip(-32768, 32767))
        words = [] if silent else [("bin", 0.4, 0.6), ("blue", 1.0, 1.4)]
        row = {"key": f"{speaker}_{number}", "speaker": speaker, "split": "train", "start": start}
        rows.append({**row, "frames": count, "words": words, "silent": silent, "info": {}})
        start += count
    np.save(folder / "frames.npy", np.concatenate(frames).astype(np.uint8))
    np.save(folder / "landmarks.npy", np.concatenate(landmarks).astype(np.float32))
    mesh = np.repeat(np.concatenate(landmarks)[:, :1], 478, axis=1)
    mesh[:, IBUG] = np.concatenate(landmarks)
    np.save(folder / "mesh.npy", mesh.astype(np.float32))
    np.save(folder / "sound.npy", np.concatenate(sound).astype(np.int16))
    (folder / "clips.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    folder = tmp_path_factory.mktemp("cache")
    return Cache(write_cache(folder, np.random.default_rng(7)))


def numbers(frames: torch.Tensor) -> torch.Tensor:
    """Return the grey value, which is the frame's number: (..., 3, S, S) in [-1, 1] -> (...)."""
    grey = (frames + 1) * 127.5
    assert (grey.amax((-3, -2, -1)) - grey.amin((-3, -2, -1))).max() < 1e-3
    return grey.mean((-3, -2, -1)).round().long()


def same(a: Batch, b: Batch) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in (
            (a.frames, b.frames),
            (a.mesh, b.mesh),
            (a.landmarks, b.landmarks),
            (a.speech, b.speech),
            (a.portrait.image, b.portrait.image),
            (a.before, b.before),
            (a.word, b.word),
        )
    )


# batches


def test_a_batch_is_a_function_of_its_seed(cache: Cache) -> None:
    config = SampleConfig(batch=6, frames=10, silent=0.3)
    first = draw_batch(cache, cache.clips, SPEC, config, (1, 5))
    assert same(first, draw_batch(cache, cache.clips, SPEC, config, (1, 5)))
    for other in ((1, 6), (2, 5)):
        assert not same(first, draw_batch(cache, cache.clips, SPEC, config, other))


def test_frames_are_in_a_row_and_the_portrait_is_from_elsewhere_in_the_clip(cache: Cache) -> None:
    for step in range(10):
        batch = draw_batch(cache, cache.clips, SPEC, PLAIN, (0, step))
        shown = numbers(batch.frames)
        assert batch.frames.shape == (8, 10, 3, SIDE, SIDE)
        assert torch.equal(shown, shown[:, :1] + torch.arange(10))
        assert torch.equal(numbers(batch.before), (shown[:, 0] - 1).clamp(min=0))
        identity = numbers(batch.portrait.image)
        assert ((identity < shown[:, 0] - 5) | (identity > shown[:, -1] + 5)).all()
        assert torch.allclose(batch.landmarks[..., 0, 0], shown / 100)
        assert torch.allclose(batch.portrait.landmarks[:, 0, 0], identity / 100)
        assert batch.mesh.shape == (8, 10, 478, 2) and batch.mesh.dtype == torch.float32
        assert torch.allclose(batch.mesh[..., 200, 0], shown / 100)


@pytest.mark.parametrize("mirror", [0.0, 1.0])
def test_meshes_are_the_clips_own_moved_as_the_landmarks_are(mirror: float, tmp_path: Path) -> None:
    """An affine map, fitted to some landmarks alone, maps each whole mesh correctly."""
    write_cache(tmp_path, np.random.default_rng(0))
    meshes = np.random.default_rng(1).random((14 * FRAMES, 478, 2), dtype=np.float32)
    np.save(tmp_path / "mesh.npy", meshes)
    np.save(tmp_path / "landmarks.npy", meshes[:, IBUG])
    cache = Cache(tmp_path)
    config = replace(PLAIN, augment=replace(NO_AUGMENTATION, geometry=1.0, mirror=mirror))
    batch = draw_batch(cache, cache.clips[:1], SPEC, config, (8, 0))
    known = torch.from_numpy(IBUG)
    assert batch.portrait.mesh is not None
    assert torch.equal(batch.landmarks, batch.mesh[..., known, :])
    assert torch.equal(batch.portrait.landmarks, batch.portrait.mesh[..., known, :])
    shown = torch.cat([numbers(batch.portrait.image)[:, None], numbers(batch.frames)], 1).numpy()
    drawn = torch.cat([batch.portrait.mesh[:, None], batch.mesh], 1).numpy()
    for rows, found in zip(shown, drawn, strict=True):
        own = np.concatenate([meshes[rows], np.ones((11, 478, 1))], axis=-1)
        order, points = (MIRROR_MESH, IBUG[MIRROR]) if mirror else (np.arange(478), IBUG)
        matrix = np.linalg.lstsq(own[0, points[:20]], found[0, IBUG[:20]], rcond=None)[0]
        assert (np.linalg.det(matrix[:2]) < 0) == bool(mirror)
        assert np.abs(matrix[:2] - np.diag([-1 if mirror else 1, 1])).max() > 1e-3
        np.testing.assert_allclose(own[:, order] @ matrix, found, atol=1e-5)


def test_speech_without_augmentation_is_that_of_the_whole_clip(cache: Cache) -> None:
    clips = [cache.clips[0]]
    whole = clip_speech(cache, clips[0], SPEC)
    sound = torch.from_numpy(cache.sound[: FRAMES * 640] / np.float32(32768))
    assert torch.equal(whole, windows(sound, SPEC, FRAMES))
    starts = set()
    for step in range(6):
        batch = draw_batch(cache, clips, SPEC, PLAIN, (3, step))
        for speech, first in zip(batch.speech, numbers(batch.frames)[:, 0], strict=True):
            assert torch.allclose(speech, whole[first : first + 10], atol=2e-4)
            starts.add(int(first))
    assert min(starts) < 4 and max(starts) > 46  # both ends: padded with silence


def test_outside_a_clip_there_is_silence(cache: Cache) -> None:
    clip = cache.clips[1]
    begin, end = 640 * clip.start, 640 * (clip.start + clip.frames)
    own = torch.from_numpy(cache.sound[begin:end] / np.float32(32768))
    padded = torch.nn.functional.pad(own, (5000, 5000))
    for first, count in ((-700, 2000), (-5000, 800), (-100, 50), (30, 100), (len(own) - 50, 900)):
        expected = padded[5000 + first : 5000 + first + count]
        assert torch.equal(cache.samples(clip, first, count), expected)


def test_words_lie_within_their_sample(cache: Cache) -> None:
    seen = Counter[int]()
    for step in range(40):
        batch = draw_batch(cache, cache.clips, SPEC, PLAIN, (4, step))
        first = numbers(batch.frames)[:, 0]
        for word, span, start in zip(batch.word, batch.span, first, strict=True):
            place = [(a - start, b - start) for a, b in ((10, 15), (25, 35))]
            inside = [int(a) >= 0 and int(b) <= 10 for a, b in place]
            seen[int(word)] += 1
            if not any(inside):
                assert word == -1
                continue
            number = [cache.word_index["bin"], cache.word_index["blue"]].index(int(word))
            assert inside[number] and tuple(span.tolist()) == place[number]
    assert len(seen) == 3


def test_without_pictures_time_runs_at_another_speed_for_lips_sound_and_words(
    cache: Cache,
) -> None:
    augment = replace(NO_AUGMENTATION, speed=0.4)
    config = replace(PLAIN, batch=64, pictures=False, augment=augment)
    batch = draw_batch(cache, cache.clips, SPEC, config, (5, 0))
    times = batch.landmarks[:, :, 0, 0] * 100
    speed = times.diff(dim=1)
    assert (speed - speed[:, :1]).abs().max() < 1e-3
    assert speed.min() < 0.75 and speed.max() > 1.25 and times.max() <= FRAMES - 1
    assert torch.equal(batch.mesh[:, :, 200, 0], batch.landmarks[:, :, 0, 0])
    for word, span, time, rate in zip(batch.word, batch.span, times, speed[:, 0], strict=True):
        if word == cache.word_index["bin"]:
            expected = (np.array([10, 15]) - float(time[0])) / float(rate)
            assert np.abs(span.numpy() - expected).max() <= 0.51


def test_speakers_are_balanced_and_stills_drawn_as_asked(cache: Cache) -> None:
    def shares(**options: float) -> tuple[float, float]:
        """Return (share of the second speaker's clips, share of stills), from their speech."""
        sampling: dict[str, Any] = {"batch": 400, "frames": 2, **options}
        config = replace(PLAIN, **sampling)
        batch = draw_batch(cache, marked, SPEC, config, (6, 0))
        second = (batch.word[~batch.silent] == cache.word_index["white"]).float().mean()
        return float(second), float(batch.silent.float().mean())

    always = [(word, k / 25, (k + 1) / 25) for k in range(60) for word in ("bin",)]
    marked = [
        replace(c, words=tuple((("white" if c.speaker == "s2" else w), a, b) for w, a, b in always))
        for c in cache.clips
    ]
    assert shares(balance=0.0)[0] == pytest.approx(1 / 2, abs=0.08)
    assert shares(balance=1.0)[0] == pytest.approx(2 / 12, abs=0.06)
    assert shares(silent=0.0)[1] == 0 and shares(silent=0.25)[1] == pytest.approx(0.25, abs=0.07)


def test_a_still_is_the_same_picture_in_silence(cache: Cache) -> None:
    config = SampleConfig(batch=8, frames=5, silent=1.0)
    batch = draw_batch(cache, cache.clips, SPEC, config, (7, 1))
    assert batch.silent.all() and (batch.word == -1).all()
    assert torch.equal(batch.frames, batch.portrait.image[:, None].expand_as(batch.frames))
    loud = draw_batch(cache, cache.clips, SPEC, replace(config, silent=0.0), (7, 1))
    assert batch.speech.abs().mean() < loud.speech.abs().mean() * 2


def test_a_cache_without_long_enough_clips_says_so(cache: Cache) -> None:
    with pytest.raises(BadShard, match="no clip of more than 100 frames among 14"):
        draw_batch(cache, cache.clips, SPEC, replace(PLAIN, frames=100), (0,))


def test_users_call_the_split_of_unseen_speakers_unseen(tmp_path: Path) -> None:
    cache = corpus.write_cache(tmp_path / "cache")
    assert [clip.key for clip in cache.split("unseen")] == ["s4_a", "s4_b", "s26_a"]
    assert cache.split(UNSEEN, "test") == cache.split("unseen", "test")


def test_a_damaged_cache_is_refused(tmp_path: Path) -> None:
    write_cache(tmp_path, np.random.default_rng(0))
    data = (tmp_path / "frames.npy").read_bytes()
    (tmp_path / "frames.npy").write_bytes(data[: len(data) // 2])
    with pytest.raises(BadShard, match="not a training cache"):
        Cache(tmp_path)


def test_prefetched_is_what_is_made_in_order() -> None:
    assert list(prefetch(lambda step: step * step, 3, 9)) == [9, 16, 25, 36, 49, 64]
    assert list(prefetch(lambda step: step, 4, 4)) == []


# faces


def blob(points: np.ndarray, side: int = 128) -> np.ndarray:
    """Draw (side, side, 3) uint8: a soft white dot at each point of (N, 2) in [0, 1]."""
    y, x = np.mgrid[:side, :side] + 0.5
    picture = np.zeros((side, side))
    for px, py in points * side:
        picture += np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 2.0**2))
    return np.repeat((picture.clip(0, 1) * 255)[..., None], 3, axis=2).astype(np.uint8)


def centre(picture: np.ndarray) -> np.ndarray:
    """Return the middle of the white pixels: (2,) x, y in [0, 1]."""
    weight = picture[..., 0].astype(float)
    y, x = np.mgrid[: len(picture), : len(picture)] + 0.5
    middle = np.array([(weight * x).sum(), (weight * y).sum()])
    return np.asarray(middle / weight.sum() / len(picture))


@pytest.mark.parametrize("seed", range(4))
def test_identity_and_target_get_the_same_change(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    points = rng.random((68, 2)).astype(np.float32)
    frames, landmarks = augment_faces(
        np.stack([frame] * 4), np.stack([points] * 4), rng, AugmentConfig()
    )
    assert (frames == frames[0]).all() and (landmarks == landmarks[0]).all()
    assert frames.dtype == np.uint8 and landmarks.dtype == np.float32
    assert np.abs(frames[0].astype(int) - frame).mean() > 1 and (landmarks[0] != points).any()


def test_no_augmentation_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    points = rng.random((3, 68, 2)).astype(np.float32)
    same_frames, same_points = augment_faces(frames, points, rng, NO_AUGMENTATION)
    assert np.array_equal(same_frames, frames) and np.array_equal(same_points, points)


def test_light_alone_leaves_the_colours() -> None:
    """Each pixel of a grey picture stays grey, brighter on one side than on the other."""
    grey = np.full((1, 64, 64, 3), 100, np.uint8)
    points = np.zeros((1, 68, 2), np.float32)
    light = replace(NO_AUGMENTATION, light=1.0)
    slopes = []
    for seed in range(12):
        ((lit,), _) = augment_faces(grey, points, np.random.default_rng(seed), light)
        assert (lit == lit[..., :1]).all() and abs(float(lit.mean()) - 100) < 2
        slopes.append(np.ptp(lit.astype(int)))
    assert min(slopes) == 0 and max(slopes) > 20


def test_an_augmented_mesh_is_where_the_augmented_face_is(portrait: Path) -> None:
    """Points are found again in the mirrored, warped and coloured picture."""
    image = picture.read(portrait)
    aligned = align(image, find_faces(image)[0], CropSpec(size=256))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        config = replace(AugmentConfig(), mirror=1.0)
        frames, meshes = augment_faces(aligned.crop[None], aligned.mesh[None], rng, config)
        face = find_faces(np.ascontiguousarray(frames[0]))[0].mesh[:, :2] / 256
        off = np.linalg.norm(meshes[0] - face, axis=1) / eye_distance(face)
        assert off.mean() < 0.04
        unmirrored = np.linalg.norm(meshes[0, MIRROR_MESH] - face, axis=1) / eye_distance(face)
        assert unmirrored.mean() > 0.5


@pytest.mark.parametrize(("point", "partner"), [(33, 263), (61, 291), (13, 13), (78, 308)])
def test_a_mirrored_point_of_a_mesh_is_still_on_its_spot(point: int, partner: int) -> None:
    rng = np.random.default_rng(point)
    mesh = rng.uniform(0.2, 0.8, (1, 478, 2)).astype(np.float32)
    config = replace(NO_AUGMENTATION, mirror=1.0)
    mirrored, moved = augment_faces(blob(mesh[0, point : point + 1])[None], mesh, rng, config)
    assert np.abs(centre(mirrored[0]) - moved[0, partner]).max() * 128 < 0.2


@pytest.mark.parametrize("point", [0, 17, 36, 48, 60, 67, 31, 8])
def test_a_mirrored_landmark_is_still_on_its_spot(point: int) -> None:
    rng = np.random.default_rng(point)
    points = rng.uniform(0.2, 0.8, (1, 68, 2)).astype(np.float32)
    frames = blob(points[0, point : point + 1])[None]
    config = replace(NO_AUGMENTATION, mirror=1.0)
    mirrored, moved = augment_faces(frames, points, rng, config)
    partner = {0: 16, 17: 26, 36: 45, 48: 54, 60: 64, 67: 65, 31: 35, 8: 8}[point]  # iBUG
    assert np.abs(centre(mirrored[0]) - moved[0, partner]).max() * 128 < 0.2
    twice, back = augment_faces(mirrored, moved, rng, config)
    assert np.array_equal(twice, frames) and np.allclose(back, points, atol=1e-6)


def test_landmarks_follow_the_geometry() -> None:
    config = replace(NO_AUGMENTATION, geometry=1.0)
    largest = 0.0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        points = rng.uniform(0.25, 0.75, (1, 68, 2)).astype(np.float32)
        frames, moved = augment_faces(blob(points[0, :1])[None], points, rng, config)
        assert np.abs(centre(frames[0]) - moved[0, 0]).max() * 128 < 0.25
        largest = max(largest, float(np.abs(moved - points).max()) * 128)
    assert 4 < largest < 16


# speech


@pytest.fixture(scope="module")
def sound(speech: Path) -> torch.Tensor:
    return audio.load(speech)


def test_speech_without_augmentation_is_the_plain_features(sound: torch.Tensor) -> None:
    for spec in (SPEC, SpeechSpec(kind="log_mel", coefficients=26)):
        made = augment_speech(sound, spec, np.random.default_rng(0), NO_AUGMENTATION)
        assert torch.equal(made, audio.hop_features(sound, spec))


@pytest.mark.parametrize("part", ["tract", "equaliser", "gain", "noise", "room"])
def test_each_part_changes_the_voice_and_not_the_timing(part: str, sound: torch.Tensor) -> None:
    spec = SpeechSpec(kind="log_mel", coefficients=26)
    plain = audio.hop_features(sound, spec)
    amount = 1.0 if part in ("noise", "room") else getattr(AugmentConfig(), part)
    changed: dict[str, Any] = {part: amount}
    config = replace(NO_AUGMENTATION, **changed)
    made = [augment_speech(sound, spec, np.random.default_rng(s), config) for s in (0, 0, 1)]
    assert made[0].shape == plain.shape and torch.isfinite(made[0]).all()
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert (made[0] - plain).abs().mean() > 0.01
    loudness = torch.stack([made[0].mean(1), plain.mean(1)])
    assert torch.corrcoef(loudness)[0, 1] > 0.8


def test_a_shorter_tract_moves_a_tone_by_its_factor() -> None:
    spec = SpeechSpec(kind="log_mel", coefficients=40, mels=40)
    tone = torch.sin(2 * torch.pi * 1500 * torch.arange(16_000) / 16_000)
    config = replace(NO_AUGMENTATION, tract=(np.exp(-0.3), np.exp(0.3)))
    hertz = 700 * (10 ** (np.linspace(0, 2840.02, 42)[1:-1] / 2595) - 1)  # centres of the mels
    factors = []
    for seed in range(8):
        made = augment_speech(tone, spec, np.random.default_rng(seed), config)
        factors.append(hertz[int(made.mean(0).argmax())] / 1500)
    allowed = [np.exp(-0.3) * 0.93, np.exp(0.3) * 1.07]  # a mel is about 7 % wide there
    assert allowed[0] <= min(factors) < 0.93 and 1.07 < max(factors) <= allowed[1]


def test_noise_is_10_to_40_db_below_the_sound(sound: torch.Tensor) -> None:
    ratios = []
    for seed in range(20):
        added = _noise(sound, np.random.default_rng(seed)) - sound
        ratios.append(float(10 * torch.log10(sound.square().mean() / added.square().mean())))
    assert 9.9 < min(ratios) < 20 and 30 < max(ratios) < 40.1


def test_a_room_keeps_the_direct_sound_and_decays() -> None:
    click = torch.zeros(16_000)
    click[100] = 1.0
    for seed in range(5):
        echo = _room(click, np.random.default_rng(seed))
        assert echo.shape == click.shape and float(echo[100]) == pytest.approx(1.0, abs=1e-4)
        assert echo[:100].abs().max() < 1e-5
        energy = [float(part.square().sum()) for part in echo[101:6500].split(800)]
        assert (
            all(a >= b - 1e-7 for a, b in itertools.pairwise(energy)) and 0.005 < sum(energy) < 0.3
        )
