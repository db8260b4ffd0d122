"""Reenacted portraits move as their driver, and only where speech moves a face."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from helpers.corpus import draw_batch
from talkingface import video
from talkingface.audio import SpeechSpec
from talkingface.data.augment import NO_AUGMENTATION
from talkingface.data.dataset import Batch, Cache, SampleConfig, clip_speech
from talkingface.data.reenactment import (
    CLOSED_GAP,
    MOVING,
    animate,
    can_speak,
    closed_mouth,
    move_mesh,
)
from talkingface.faces import Track, Tracker, mesh_from_landmarks, track
from talkingface.geometry import CropSpec
from talkingface.landmarks import (
    IBUG,
    INNER_BOTTOM,
    INNER_LIPS,
    INNER_PAIRS,
    INNER_TOP,
    LEFT_EYE,
    OUTER_LIPS,
    RIGHT_EYE,
    aperture,
)
from talkingface.types import Picture

SIZE = 128
FRAMES = 24
SPEC = SpeechSpec()
PLAIN = SampleConfig(batch=6, frames=8, silent=0.0, augment=NO_AUGMENTATION)
Points = NDArray[np.float32]
CLIPS = Path(__file__).with_name("clips")
BELOW = [*range(4, 13), *range(55, 60), 65, 66, 67]  # the jaw and the lower lip


def face(opening: float = 0.0) -> Points:
    """The mean face with closed lips, its jaw and lower lip then `opening` pixels lower."""
    points = CropSpec().template()
    for above, under in ((61, 67), (62, 66), (63, 65)):
        points[[above, under]] = points[[above, under]].mean(0)
    points[BELOW, 1] += opening
    return (points / SIZE).astype(np.float32)


def laid(landmarks: Points) -> Points:
    """Return the smooth mesh through landmarks: (68, 2) -> (478, 2)."""
    return np.asarray(mesh_from_landmarks(torch.from_numpy(landmarks)).numpy())


def own_mesh(landmarks: Points) -> Points:
    """Return a mesh through landmarks with another shape between them: (68, 2) -> (478, 2)."""
    mesh = laid(landmarks) + np.random.default_rng(0).normal(0, 1 / SIZE, (478, 2))
    mesh[IBUG] = landmarks
    return mesh.astype(np.float32)


def rough(seed: int) -> Picture:
    """Return a smooth random picture, in which a colour identifies its position."""
    coarse = np.random.default_rng(seed).uniform(40, 215, (16, 16, 3)).astype(np.float32)
    fine = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.rint(fine), 0, 255).astype(np.uint8)


def clip(openings: list[float], colour: int = 255) -> tuple[NDArray[np.uint8], Points]:
    frames = np.full((len(openings), SIZE, SIZE, 3), colour, np.uint8)
    return frames, np.stack([face(o) for o in openings])


def test_a_driver_at_rest_leaves_the_portrait_as_it_is() -> None:
    frames, points = clip([0.0, 0.0])
    for mesh in (laid(face(1.0)), own_mesh(face(1.0))):  # lips apart, and some of them crossed
        made, meshes = animate(rough(0), mesh, frames, points, face())
        assert np.abs(made.astype(int) - rough(0)).max() <= 1
        np.testing.assert_allclose(meshes, np.stack([mesh] * 2), atol=1e-6)


def test_landmarks_follow_the_driver_by_the_ratio_of_the_mouths() -> None:
    half = ((face() - 0.5) * 0.5 + 0.5).astype(np.float32)  # a mouth half as wide
    frames, points = clip([0.0, 4.0, 9.0])
    _, meshes = animate(rough(0), laid(half), frames, points, face())
    landmarks = meshes[:, IBUG]
    step = landmarks - half
    np.testing.assert_allclose(step, 0.5 * (points - face()), atol=1e-6)
    assert step[2, 66, 1] * SIZE == pytest.approx(4.5, abs=1e-3)
    other = np.setdiff1d(np.arange(68), MOVING)
    assert np.array_equal(landmarks[:, other], np.stack([half[other]] * 3))


def test_lips_that_would_cross_meet() -> None:
    frames, points = clip([0.0])
    mesh = laid(face(1.0))
    above, below = INNER_PAIRS.T
    assert (mesh[below, 1] > mesh[above, 1]).all()
    _, meshes = animate(rough(0), mesh, frames, points, face(5.0))
    gap = meshes[0, below, 1] - meshes[0, above, 1]
    assert gap.min() > -1e-6
    assert gap[[3, 4, 5]] == pytest.approx([0.0] * 3, abs=1e-6)  # the landmarks, in the middle


def test_texture_goes_where_the_mesh_goes_and_eyes_stay() -> None:
    """The colour at a point of the portrait is found at the moved point."""
    picture, mesh = rough(1), laid(face())
    frames, points = clip([7.0])
    made, meshes = animate(picture, mesh, frames, points, face())

    def under(image: Picture, places: Points) -> NDArray[np.float32]:
        x, y = (places * SIZE).T.astype(np.float32)
        return np.asarray(cv2.remap(image.astype(np.float32), x, y, cv2.INTER_LINEAR)[:, 0])

    skin = IBUG[[6, 8, 10, 48, 50, 51, 52, 54, 56, 57, 58]]  # not the inner lips: an edge is there
    before, after = under(picture, mesh[skin]), under(made[0], meshes[0, skin])
    unmoved = under(made[0], mesh[skin])
    assert np.abs(after - before).max() < 6
    assert np.abs(unmoved - before).max() > 20
    eyes = mesh[[*LEFT_EYE, *RIGHT_EYE], 1].max() * SIZE
    assert np.array_equal(made[0, : int(eyes) + 3], picture[: int(eyes) + 3])


def test_an_open_mouth_shows_the_driver_and_a_closed_one_does_not() -> None:
    picture = np.full((SIZE, SIZE, 3), 128, np.uint8)
    frames, points = clip([0.0, 8.0], colour=128)
    x, y = np.rint(face(8.0)[[INNER_TOP, INNER_BOTTOM]].mean(0) * SIZE).astype(int)
    frames[:, y - 2 : y + 3, x - 3 : x + 4] = (250, 10, 10)
    made, meshes = animate(picture, laid(face()), frames, points, face())
    assert np.abs(made[0].astype(int) - 128).max() <= 1
    assert made[1, y, x].tolist() == pytest.approx([250, 10, 10], abs=2)
    outer = (meshes[1, IBUG[[51, 57]]] * SIZE).round().astype(int)  # the lips themselves stay
    assert np.abs(made[1, outer[:, 1], outer[:, 0]].astype(int) - 128).max() <= 1


def test_each_frame_shows_its_own_of_the_driver() -> None:
    frames, points = clip([8.0, 8.0, 8.0], colour=128)
    x, y = np.rint(face(8.0)[[INNER_TOP, INNER_BOTTOM]].mean(0) * SIZE).astype(int)
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
    for frame, colour in zip(frames, colours, strict=True):
        frame[y - 2 : y + 3, x - 3 : x + 4] = colour
    picture = np.full((SIZE, SIZE, 3), 128, np.uint8)
    made, _ = animate(picture, laid(face()), frames, points, face())
    np.testing.assert_allclose(made[:, y, x], colours, atol=2)


def test_the_mouth_is_lit_as_the_portrait_is() -> None:
    frames, points = clip([8.0], colour=200)
    x, y = np.rint(face(8.0)[[INNER_TOP, INNER_BOTTOM]].mean(0) * SIZE).astype(int)
    for skin, expected in ((160, 160), (40, 0.6 * 200), (255, 255)):
        picture = np.full((SIZE, SIZE, 3), skin, np.uint8)
        made, _ = animate(picture, laid(face()), frames, points, face())
        assert made[0, y, x].tolist() == pytest.approx([expected] * 3, abs=2)


def test_the_same_reenactment_twice() -> None:
    frames, points = clip([0.0, 3.0, 8.0])
    frames[:] = rough(2)
    first = animate(rough(1), own_mesh(face()), frames, points, face())
    second = animate(rough(1), own_mesh(face()), frames, points, face())
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    fewer, _ = animate(rough(1), own_mesh(face()), frames[::2], points[::2], face())
    assert np.array_equal(fewer, first[0][::2])  # no frame depends on the one before


@pytest.fixture(scope="module")
def filmed() -> dict[str, Track]:
    """Two people who speak, from video."""
    return {p.stem: track(video.read_frames(p), CropSpec()) for p in sorted(CLIPS.glob("*.mp4"))}


@pytest.mark.parametrize("who", ["s1_bbaf2n", "s34_lbwh5n"])
def test_drawn_lips_move_as_the_drivers(filmed: dict[str, Track], who: str) -> None:
    """The tracker finds the driver's motion in the reenacted pictures."""
    (driver,) = (clip for name, clip in filmed.items() if name != who)
    still = int(aperture(filmed[who].mesh).argmin())
    portrait, mesh = filmed[who].crops[still], filmed[who].mesh[still]
    assert can_speak(mesh[IBUG])
    neutral = closed_mouth(driver.landmarks)
    made, meshes = animate(portrait, mesh, driver.crops, driver.landmarks, neutral)
    tracker, found = Tracker(), []
    for picture in made[::2]:
        seen = tracker.update(picture)
        assert seen is not None
        found.append(seen.mesh[:, :2] / SIZE)
    lips = np.concatenate([INNER_LIPS, OUTER_LIPS])
    apart = np.linalg.norm(np.stack(found) - meshes[::2], axis=-1)[:, lips] * SIZE
    assert apart.mean() < 1.0  # pixels
    shown, spoken = (aperture(m) * SIZE for m in (np.stack(found), driver.mesh[::2]))
    assert np.corrcoef(shown, spoken)[0, 1] > 0.93
    closed = spoken < 0.7
    assert closed.sum() >= 4
    assert np.median(shown[closed]) < 1.5 and shown[spoken > 5].min() > 3


def test_a_mesh_goes_through_the_moved_landmarks_and_stays_the_faces_own() -> None:
    mesh, moved = own_mesh(face()), np.stack([face(), face(6.0)])
    made = move_mesh(mesh, moved)
    assert made.shape == (2, 478, 2) and made.dtype == np.float32
    assert np.array_equal(made[:, IBUG], moved)
    np.testing.assert_allclose(made[0], mesh, atol=1e-6)
    step = (made[1] - made[0]) * SIZE
    # points between landmarks that all go 6 pixels down: from the lower lip to the chin
    np.testing.assert_allclose(step[[15, 16, 18, 200, 199]], [[0, 6]] * 5, atol=1.0)
    corner_to_middle = step[[78, 95, 88, 178, 87], 1]
    assert (np.diff(corner_to_middle) > 0).all() and corner_to_middle[0] == 0
    assert not step[[*LEFT_EYE, *RIGHT_EYE, 468, 473, 9, 10]].any()


def test_who_can_speak() -> None:
    turned = face()
    turned[30, 0] = turned[2, 0] + 0.1 * (turned[14, 0] - turned[2, 0])
    open_mouth = face(CLOSED_GAP * SIZE + 0.1)
    assert can_speak(np.stack([face(), open_mouth, turned])).tolist() == [True, False, False]


def test_the_closed_mouth_of_a_clip_is_its_most_closed_tenth() -> None:
    _, points = clip([5.0] * 18 + [1.0, 2.0])
    np.testing.assert_allclose(closed_mouth(points), face(1.5), atol=1e-6)


# in a batch


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Two speakers who open their mouths, a closed portrait and an open one (number 3)."""
    folder: Path = tmp_path_factory.mktemp("reenacted")
    rng = np.random.default_rng(3)
    rows, start = [], 0
    frames, landmarks, sound = [], [], []
    for number, count in enumerate((FRAMES, FRAMES, 1, 1)):
        openings = rng.uniform(0, 8, count) if count > 1 else [0.0 if number == 2 else 6.0]
        silent = count == 1
        row = {"key": str(number), "speaker": "p" if silent else f"s{number}", "split": "train"}
        words = [] if silent else [("bin", 0.1, 0.2), ("blue", 0.3, 0.4), ("at", 0.5, 0.6)]
        rows.append({**row, "start": start, "frames": count, "words": words, "silent": silent})
        frames.append(np.stack([rough(number)] * count))
        landmarks.append(np.stack([face(o) for o in openings]))
        sound.append(rng.normal(0, 0 if silent else 6000, count * 640).astype(np.int16))
        start += count
    np.save(folder / "frames.npy", np.concatenate(frames))
    np.save(folder / "landmarks.npy", np.concatenate(landmarks))
    np.save(folder / "mesh.npy", np.stack([own_mesh(p) for p in np.concatenate(landmarks)]))
    np.save(folder / "sound.npy", np.concatenate(sound))
    (folder / "clips.json").write_text(json.dumps(rows))
    return Cache(folder)


def pixels(image: torch.Tensor) -> NDArray[np.int64]:
    return ((image + 1) * 127.5).round().permute(1, 2, 0).numpy().astype(np.int64)


def fields_equal(a: Batch, b: Batch) -> bool:
    names = ("frames", "mesh", "landmarks", "speech", "before", "silent", "word", "span")
    pairs = [(getattr(a, name), getattr(b, name)) for name in names]
    pairs += [(a.portrait.image, b.portrait.image), (a.portrait.landmarks, b.portrait.landmarks)]
    return all(torch.equal(x, y) for x, y in pairs)


def test_a_reenacted_portrait_has_its_own_face_and_the_drivers_speech(cache: Cache) -> None:
    batch = draw_batch(cache, cache.clips, SPEC, replace(PLAIN, reenacted=1.0), (0, 1))
    spoken = [clip_speech(cache, c, SPEC) for c in cache.clips[:2]]
    drivers = set()
    for i in range(PLAIN.batch):
        assert np.array_equal(pixels(batch.portrait.image[i]), rough(2))
        found = [
            (driver, first)
            for driver in range(2)
            for first in range(FRAMES - PLAIN.frames + 1)
            if torch.allclose(
                spoken[driver][first + 1 : first + 7], batch.speech[i, 1:7], rtol=0, atol=1e-3
            )
        ]
        assert len(found) == 1
        driver, first = found[0]
        drivers.add(driver)
        points = cache.landmarks[cache.clips[driver].start :][:FRAMES]
        expected = face() + points[first : first + PLAIN.frames] - closed_mouth(points)
        middle = batch.landmarks[i, :, [8, 57]].numpy()  # away from lips that would cross
        np.testing.assert_allclose(middle, expected[:, [8, 57]], atol=1e-5)
        assert batch.portrait.mesh is not None
        assert np.array_equal(batch.portrait.mesh[i], own_mesh(face()))
        moved = move_mesh(own_mesh(face()), batch.landmarks[i].numpy())
        assert np.array_equal(batch.mesh[i], moved)
    assert drivers == {0, 1}
    assert not batch.silent.any()
    assert (batch.word == -1).all()


def test_landmarks_alone_are_moved_too(cache: Cache) -> None:
    config = replace(PLAIN, reenacted=1.0, pictures=False)
    batch = draw_batch(cache, cache.clips, SPEC, config, (0, 2))
    assert batch.frames.shape[-1] < SIZE
    np.testing.assert_allclose(batch.portrait.landmarks.numpy(), [face()] * 6, atol=1e-6)
    assert batch.landmarks[:, :, 66, 1].std(1).min() > 1 / SIZE


def test_without_reenactment_no_number_is_drawn_for_it(cache: Cache) -> None:
    """A share of zero changes no batch; nor does a cache without a suitable portrait."""
    config = replace(PLAIN, silent=0.4, batch=8, frames=2)
    nobody = [c for c in cache.clips if c.key != "2"]
    for step in range(2):
        plain = draw_batch(cache, nobody, SPEC, config, (5, step))
        none = draw_batch(cache, nobody, SPEC, replace(config, reenacted=0.7), (5, step))
        assert fields_equal(plain, none)
    for seed in range(12):  # by hand: who speaks, then whether the first sample is a still one
        rng = np.random.default_rng((6, seed))
        rng.choice(2, 8, p=[0.5, 0.5])
        drawn = draw_batch(cache, cache.clips, SPEC, config, (6, seed))
        assert bool(drawn.silent[0]) == (rng.random() < 0.4)


def test_reenacted_portraits_take_their_share_of_the_samples(cache: Cache) -> None:
    config = replace(PLAIN, reenacted=0.5, batch=200, frames=2, pictures=False)
    batch = draw_batch(cache, cache.clips, SPEC, config, (5, 9))
    own = torch.from_numpy(face())
    share = float((batch.portrait.landmarks == own).all(-1).all(-1).float().mean())
    assert 0.4 < share < 0.6  # three standard deviations: 0.106
