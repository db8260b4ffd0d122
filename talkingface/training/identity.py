"""Training of the face embedding: contrastive, with two pictures of each person.

The corpus has few speakers with many frames, and many still portraits. The two pictures of a still
portrait differ by a moved mouth (`data/reenactment.py`) and by augmentation alone. So the embedding
cannot depend on the mouth, on light, sharpness or compression.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch import Tensor

from talkingface import video
from talkingface.data.augment import AugmentConfig, augment_faces
from talkingface.data.clip import HELD_OUT_PORTRAITS, UNSEEN
from talkingface.data.dataset import Cache, ClipInfo
from talkingface.data.provenance import described
from talkingface.data.reenactment import animate, can_speak, closed_mouth
from talkingface.errors import BadShard
from talkingface.landmarks import IBUG
from talkingface.losses import info_nce
from talkingface.metrics.identity import embed, verification
from talkingface.models.measures.identity import FaceEmbedding, IdentityConfig
from talkingface.training.loop import autocast
from talkingface.training.network import NetworkRecipe, accuracy_of_nearest
from talkingface.training.settings import require_positive
from talkingface.types import Frames, Picture

UNSEEN_SPLITS = (UNSEEN, HELD_OUT_PORTRAITS)
APART = 5  # frames, at least, between two pictures from one clip


@dataclass(frozen=True)
class ViewAugment:
    """Strengths of random changes, separate for the pictures of a pair; 0 switches one off."""

    faces: AugmentConfig = field(default_factory=lambda: AugmentConfig(mirror=0.0, geometry=0.6))
    blur: float = 1.6  # pixels at 128, standard deviation at most
    small: float = 0.45  # of the side, at least, that a picture was shrunk to
    noise: float = 8.0  # of 255, standard deviation at most
    quality: int = 25  # JPEG's, at least
    hidden: float = 0.35  # of the side, at most, of a grey box
    often: float = 0.5  # probability of each


@dataclass(frozen=True)
class IdentityTraining:
    """Settings of `talkingface train identity`."""

    model: IdentityConfig = field(default_factory=IdentityConfig)
    steps: int = 2400
    people: int = 48  # different ones in a batch, two pictures of each
    speaking: float = 0.25  # share of speakers among them, where there are enough
    blended: float = 0.25  # share of mixtures of two portraits, as further people
    mirrored: float = 0.5  # probability, of a pair: a mirror image counts as another person
    moved: int = 6  # pictures of a still portrait with another mouth
    rate: float = 2e-3  # at its peak
    warm_up: float = 0.1  # share of the steps
    decay: float = 0.02
    temperature: float = 0.1
    augment: ViewAugment = field(default_factory=ViewAugment)
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(self, "people")


@dataclass(frozen=True)
class Person:
    """A person: the clips of a speaker, or pictures (N, S, S, 3) of a still portrait."""

    name: str
    clips: tuple[ClipInfo, ...] = ()
    pictures: Frames | None = None


@dataclass(frozen=True)
class PairBatch:
    """Two pictures of each person, (B, 3, S, S) in [-1, 1]."""

    first: Tensor
    second: Tensor


def people_of(
    cache: Cache, clips: list[ClipInfo], drivers: list[ClipInfo], moved: int, seed: int
) -> list[Person]:
    """Return the known speakers of these clips, then the still portraits, moved by drivers."""
    speakers: dict[str, list[ClipInfo]] = {}
    for clip in clips:
        if not clip.silent and clip.speaker:
            speakers.setdefault(clip.speaker, []).append(clip)
    rng = np.random.default_rng((seed, 2))
    still = [
        Person(clip.key, pictures=_moved(cache, clip, drivers, moved, rng))
        for clip in clips
        if clip.silent
    ]
    return [Person(name, tuple(own)) for name, own in sorted(speakers.items())] + still


def _moved(
    cache: Cache, portrait: ClipInfo, drivers: list[ClipInfo], count: int, rng: np.random.Generator
) -> Frames:
    """Return a portrait's picture, then `count` with a moved mouth where that is possible."""
    picture, mesh = np.array(cache.frames[portrait.start]), cache.mesh[portrait.start]
    if not drivers or count == 0 or not can_speak(mesh[IBUG]):
        return picture[None]
    driver = drivers[rng.integers(len(drivers))]
    points = cache.landmarks[driver.start : driver.start + driver.frames]
    # the widest and the most closed mouths, and what is between
    rows = np.argsort(cache.aperture(driver))[np.linspace(0, driver.frames - 1, count).astype(int)]
    frames = cache.frames[driver.start + rows]
    made, _ = animate(picture, mesh, frames, points[rows], closed_mouth(points))
    return np.concatenate([picture[None], made])


def two_pictures(cache: Cache, person: Person, rng: np.random.Generator) -> Frames:
    """Return (2, S, S, 3) of two clips, else of two times of one, else with two mouths."""
    if person.pictures is not None:
        many = len(person.pictures)
        return person.pictures[rng.choice(many, 2, replace=many == 1)]
    clips = [person.clips[i] for i in rng.permutation(len(person.clips))[:2]]
    if len(clips) == 2:
        rows = [clip.start + int(rng.integers(clip.frames)) for clip in clips]
    else:
        clip = clips[0]
        gap = min(APART, clip.frames - 1)
        first = int(rng.integers(clip.frames - gap))
        rows = [clip.start + first, clip.start + int(rng.integers(first + gap, clip.frames))]
    return np.asarray(cache.frames[rows])


def blend(own: Frames, other: Frames, part: float) -> Frames:
    """Blend two aligned faces (..., S, S, 3). part: weight of the other, 0 to 1."""
    mixed = cv2.addWeighted(own, 1 - part, other, part, 0)
    return np.asarray(mixed, dtype=np.uint8)


def changed(picture: Frames, augment: ViewAugment, rng: np.random.Generator) -> Frames:
    """Change light, position, sharpness and compression of a picture (S, S, 3) uint8."""
    faces, _ = augment_faces(picture[None], np.zeros((1, 68, 2), np.float32), rng, augment.faces)
    out, size = np.array(faces[0]), len(picture)  # a copy: boxes are drawn into it
    often = rng.random(5) < augment.often
    if often[0] and augment.hidden > 0:
        low = rng.integers(0, size, 2)
        high = low + (augment.hidden * size * rng.uniform(0.3, 1, 2)).astype(int)
        out[low[0] : high[0], low[1] : high[1]] = rng.integers(0, 256)
    if often[1] and augment.small < 1:
        side = max(2, int(size * rng.uniform(augment.small, 1)))
        little = cv2.resize(out, (side, side), interpolation=cv2.INTER_AREA)
        out = np.asarray(cv2.resize(little, (size, size)), dtype=np.uint8)
    if often[2] and augment.blur > 0:
        sigma = size / 128 * rng.uniform(0.3, 1) * augment.blur
        out = np.asarray(cv2.GaussianBlur(out, (0, 0), sigma), dtype=np.uint8)
    if often[3] and augment.noise > 0:
        grain = rng.standard_normal(out.shape, dtype=np.float32) * augment.noise * rng.random()
        out = np.clip(np.rint(out + grain), 0, 255).astype(np.uint8)
    if often[4] and augment.quality < 100:
        quality = int(rng.integers(augment.quality, 96))
        _, data = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, quality])
        out = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)
    return out


class IdentityRecipe(NetworkRecipe[IdentityTraining, PairBatch]):
    """The recipe of the face embedding: InfoNCE."""

    name, needed = "identity", ("people",)
    network: FaceEmbedding

    def _choose_data(self) -> None:
        cache, many, seed = self.cache, self.training.moved, self.training.seed
        learned = cache.split("train")
        drivers = [c for c in learned if not c.silent]
        self.people = people_of(cache, learned, drivers, many, seed)
        self.held_out = people_of(
            cache, cache.split(*UNSEEN_SPLITS), cache.split("val"), many, seed
        )
        if len(self.people) < 2:
            raise BadShard(
                f"{len(self.people)} people to learn from, two are needed at least: prepare more "
                "speakers, or --portraits too"
            )

    def _build(self) -> FaceEmbedding:
        return FaceEmbedding(self.training.model)

    def _batch(self, number: int) -> PairBatch:
        """Return two changed pictures of each of different people."""
        rng = np.random.default_rng((self.training.seed, number))
        pairs = [self._pair(self.people[i], rng) for i in self._chosen(rng)]
        first, second = (np.stack(side) for side in zip(*pairs, strict=True))
        return PairBatch(video.to_tensor(first), video.to_tensor(second))

    def _chosen(self, rng: np.random.Generator) -> list[int]:
        """Choose different people, evenly among speakers and evenly among portraits."""
        speakers = sum(person.pictures is None for person in self.people)
        count = min(self.training.people, len(self.people))
        wanted = min(speakers, round(count * self.training.speaking))
        wanted = max(wanted, count - (len(self.people) - speakers))
        portraits = speakers + rng.permutation(len(self.people) - speakers)[: count - wanted]
        return [*rng.permutation(speakers)[:wanted].tolist(), *portraits.tolist()]

    def _pair(self, person: Person, rng: np.random.Generator) -> tuple[Frames, Frames]:
        t = self.training
        pair = two_pictures(self.cache, person, rng)
        if person.pictures is not None and rng.random() < t.blended:
            other = self.people[rng.integers(len(self.people))]
            part = rng.uniform(0.3, 0.7)
            pair = blend(pair, two_pictures(self.cache, other, rng), part)
        if rng.random() < t.mirrored:
            pair = pair[:, :, ::-1]
        return changed(pair[0], t.augment, rng), changed(pair[1], t.augment, rng)

    def _loss(self, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return InfoNCE; found: share of pictures whose nearest one is of the same person."""
        both = torch.cat([batch.first, batch.second]).to(self.device)
        with autocast("auto", self.device):
            first, second = self.network(both).chunk(2)
        loss = info_nce(first, second, self.training.temperature)
        return loss, {"found": accuracy_of_nearest(first @ second.T)}

    def validate(self, step: int) -> dict[str, float]:
        """Return AUC and EER of pairs of people who are not in the training."""
        return verified(self.network, self.cache, self.held_out, self.training.augment)

    def sheet(self) -> Picture | None:
        """Return the pairs of the first batch above each other, augmented."""
        batch = self.batch(0)
        rows = [video.to_uint8(side[::4]) for side in (batch.first, batch.second)]
        return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])

    def _description(self) -> tuple[str, list[ClipInfo]]:
        clips = [clip for person in self.people for clip in person.clips]
        pictures = [p.pictures for p in self.people if p.pictures is not None]
        moved = sum(len(own) > 1 for own in pictures)
        return (
            f"{described(clips)}; "
            f"{len(pictures)} synthetic portraits (SFHQ, MIT), {moved} of them with moved mouths"
        ), clips


def verified(
    network: FaceEmbedding,
    cache: Cache,
    people: list[Person],
    augment: ViewAugment,
    pairs: int = 3,
    seed: int = 0,
) -> dict[str, float]:
    """Measure verification by the cosine of changed pictures: {"auc", "eer"}; {} for no people.

    Of each person, `pairs` pairs are sampled and changed as in training. Every two pictures of one
    person are a positive pair, every two pictures of two people a negative one.
    """
    if len(people) < 2:
        return {}
    rng = np.random.default_rng((seed, 3))
    drawn = [
        changed(picture, augment, rng)
        for person in people
        for _ in range(pairs)
        for picture in two_pictures(cache, person, rng)
    ]
    training = network.training
    network.eval()
    device = next(network.parameters()).device
    vectors = embed(lambda pictures: network(pictures.to(device)), np.stack(drawn))
    network.train(training)
    who = np.repeat(np.arange(len(people)), 2 * pairs)
    above = np.triu(np.ones((len(who), len(who)), bool), 1)
    alike = who[:, None] == who
    cosines = vectors @ vectors.T
    auc, eer = verification(cosines[above & alike], cosines[above & ~alike])
    return {"auc": auc, "eer": eer}
