"""Training presets of the papers, and ours, as rows of tables, one table for each trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from talkingface.audio import SpeechSpec
from talkingface.data.augment import NO_AUGMENTATION, AugmentConfig
from talkingface.errors import BadRequest
from talkingface.models import PRESETS as MODELS
from talkingface.models.discriminators import (
    PUBLISHED_FRAME_DISCRIMINATOR,
    PUBLISHED_REGRESSION_DISCRIMINATOR,
    PUBLISHED_VIDEO_DISCRIMINATOR,
)
from talkingface.models.lipreader import MouthSpec, PublishedReaderConfig, SmallReaderConfig
from talkingface.models.measures.identity import IdentityConfig
from talkingface.models.measures.sync import SyncConfig
from talkingface.training import head, lips, settings
from talkingface.training.atvg import AtvgRecipe, AtvgTraining
from talkingface.training.baselines import ChenRecipe, ChenTraining, ChungRecipe, ChungTraining
from talkingface.training.cran import CranRecipe, CranTraining
from talkingface.training.generator import GeneratorTraining, Stage
from talkingface.training.head import HeadTraining
from talkingface.training.identity import IdentityRecipe, IdentityTraining
from talkingface.training.lips import LipsTraining
from talkingface.training.loop import Recipe
from talkingface.training.reading import ReadingRecipe, ReadingTraining
from talkingface.training.sync import SyncRecipe, SyncTraining
from talkingface.training.zhou import ZhouRecipe, ZhouTraining

# Settings that our trainings of generators share, and those of the papers.
OURS: dict[str, Any] = {"betas": (0.9, 0.98), "decay": 1e-2, "mouth_weight": 6.0, "reenacted": 0.25}
PUBLISHED: dict[str, Any] = {
    "augment": NO_AUGMENTATION,
    "balance": 1.0,
    "silent": 0.0,
    "precision": "float32",
}

# Sec. 4.2: lambda_I 1e-3, lambda_V 1e-2, lambda_l 1e-3 beside L_rec.
PAPER_WEIGHTS = {"pixels": 1.0, "image": 1e-3, "video": 1e-2, "reading": 1e-3}
RECONSTRUCTION = {"pixels": 10.0, "gradient": 10.0}
# With the paper's weights the discriminators had no visible effect in a thousand steps.
ADVERSARIAL = {"image": 0.5, "video": 0.5, "reading": 0.3}

# One person in one studio: the face is not changed, but the sound is.
ONE_PERSON = replace(AugmentConfig(), colour=0.0, light=0.0, mirror=0.0, geometry=0.5)

PIXELS = Stage(2500, RECONSTRUCTION, 8e-4, schedule="cosine")
WITH_DISCRIMINATORS = replace(
    PIXELS, steps=1200, weights={**RECONSTRUCTION, **ADVERSARIAL}, lr=4e-4, discriminator_rate=5.0
)
TINY = Stage(4, {}, 1e-3, batch=2, frames=10)


def _stages(stage: Stage, *weights: dict[str, float]) -> tuple[Stage, ...]:
    """Return the stage once for each dict of weights."""
    return tuple(replace(stage, weights=own) for own in weights)


# The lips are fitted before (`training.lips`); the decoder learns from real meshes.
CRAN = {
    "cran": CranTraining(MODELS["cran"], (PIXELS, WITH_DISCRIMINATORS), **OURS),
    # The paper's output and no lips from geometry, at our size (docs/log.md).
    "cran-direct": CranTraining(MODELS["cran-direct"], (PIXELS, WITH_DISCRIMINATORS), **OURS),
    # Sec. 4.2: Adam 2e-4, beta 0.5; 30 epochs without discriminators, 15 with them.
    "cran-paper": CranTraining(
        MODELS["cran-paper"],
        (
            Stage(0, {"pixels": 1.0}, frames=11, epochs=30),
            Stage(0, PAPER_WEIGHTS, frames=11, epochs=15),
        ),
        image_discriminator=PUBLISHED_FRAME_DISCRIMINATOR,
        video_discriminator=PUBLISHED_VIDEO_DISCRIMINATOR,
        reading="printed",
        **PUBLISHED,
    ),
    # Sec. 5, one person: pictures with the head still; how it moves is fitted at the end.
    "cran-natural": CranTraining(
        MODELS["cran-natural"],
        tuple(replace(stage, batch=4, frames=12) for stage in (PIXELS, WITH_DISCRIMINATORS)),
        silent=0.0,
        augment=ONE_PERSON,
        teacher_forcing=(1.0, 0.25),
        **{**OURS, "reenacted": 0.0},
    ),
    "cran-tiny": CranTraining(
        MODELS["cran-tiny"],
        (
            replace(TINY, weights={"lips": 1.0}, pictures=False),
            *_stages(
                TINY,
                {**RECONSTRUCTION, "lips": 0.2},
                {**RECONSTRUCTION, "lips": 0.2, **PAPER_WEIGHTS},
            ),
        ),
    ),
}


# ATVGnet: AT-net is trained on landmarks, VG-net on real ones; the published one also in a cascade.
# Discriminators join at the end: trained from the start, they gave green teeth.
JUDGED = {**RECONSTRUCTION, "score": 0.05, "regression": 0.3, "image": 1.0, "video": 1.0}
# The released code: 10 L_pix + BCE + landmark MSE, each discriminator term alike.
PAPER_DRAWING = {"pixels": 10.0, "score": 1.0, "regression": 1.0}

ATVG = {
    "atvg": AtvgTraining(
        MODELS["atvg"],
        (replace(PIXELS, steps=2800), replace(WITH_DISCRIMINATORS, steps=950, weights=JUDGED)),
        **OURS,
    ),
    # Released code: Adam 2e-4, beta 0.5; AT-net 10 epochs of 16 clips, VG-net 5 epochs of 10; the
    # paper has no third stage: here one epoch of it.
    "atvg-paper": AtvgTraining(
        MODELS["atvg-paper"],
        (
            Stage(0, {"lips": 1.0}, epochs=10, batch=16, frames=16, pictures=False),
            Stage(0, PAPER_DRAWING, epochs=5, batch=10, frames=16, real_guide=1.0),
            Stage(0, PAPER_DRAWING, epochs=1, batch=10, frames=16, real_guide=0.0),
        ),
        mouth=1e4,
        jitter=0.0,
        regression_discriminator=PUBLISHED_REGRESSION_DISCRIMINATOR,
        **PUBLISHED,
    ),
    "atvg-tiny": AtvgTraining(
        MODELS["atvg-tiny"],
        _stages(TINY, {**RECONSTRUCTION, "score": 0.1, "regression": 0.3}, JUDGED),
    ),
}


# Published baselines, on the data and near the budget of CRAN's rows. Frames are independent
# samples, so a batch holds as many as CRAN's, of more clips.
FRAMEWISE = replace(PIXELS, steps=3200, weights={"pixels": 10.0}, batch=24, frames=5)
# Chen et al. 2018: 16 frames; the adversary joins at the end, as everywhere here.
CORRELATED = {"pixels": 10.0, "correlation": 0.5}
WITH_ADVERSARY = {**CORRELATED, "adversary": 0.5}

# Zhou et al.: generated from sound and from mouths, both in one space. A confusion loss cannot fall
# below the log of its number of classes, so its weight is small.
DISENTANGLED = {
    "pixels": 10.0,
    "pixels_from_video": 10.0,
    "contrastive": 1.0,
    "word": 0.3,
    "confusion": 0.05,
}
JUDGED_DISENTANGLED = {**DISENTANGLED, "image": 0.5, "video": 0.5}
# Losses of equal order, as the released code's factors make them.
PAPER_DISENTANGLED = {**DISENTANGLED, "pixels": 1.0, "pixels_from_video": 1.0}

BASELINES: dict[str, GeneratorTraining] = {
    "chung": ChungTraining(
        MODELS["chung"],
        (FRAMEWISE, replace(FRAMEWISE, steps=700, weights={"deblurring": 10.0})),
        **OURS,
    ),
    # The paper gives no schedule that fits other data: CRAN's table in epochs.
    "chung-paper": ChungTraining(
        MODELS["chung-paper"],
        (
            Stage(0, {"pixels": 1.0}, batch=24, frames=5, epochs=30),
            Stage(0, {"deblurring": 1.0}, batch=24, frames=5, epochs=15),
        ),
        **PUBLISHED,
    ),
    "chung-tiny": ChungTraining(
        MODELS["chung-tiny"],
        _stages(replace(TINY, frames=3), {"pixels": 10.0}, {"deblurring": 10.0}),
    ),
    "chen": ChenTraining(
        MODELS["chen"],
        (
            replace(PIXELS, frames=16, weights=CORRELATED),
            replace(WITH_DISCRIMINATORS, frames=16, weights=WITH_ADVERSARY),
        ),
        **OURS,
    ),
    "chen-tiny": ChenTraining(
        MODELS["chen-tiny"],
        _stages(replace(TINY, frames=4), CORRELATED, WITH_ADVERSARY),
        discriminator_width=4,
    ),
    "zhou": ZhouTraining(
        MODELS["zhou"],
        (
            replace(PIXELS, weights=DISENTANGLED),
            replace(WITH_DISCRIMINATORS, weights=JUDGED_DISENTANGLED),
        ),
        **OURS,
    ),
    # Released code: Adam 2e-4, beta 0.9, batch 16; CRAN's table in epochs, the paper gives none.
    "zhou-paper": ZhouTraining(
        MODELS["zhou-paper"],
        (
            Stage(0, PAPER_DISENTANGLED, batch=16, frames=12, epochs=30),
            Stage(0, {**PAPER_DISENTANGLED, "video": 1e-2}, batch=16, frames=12, epochs=15),
        ),
        betas=(0.9, 0.999),
        mouth_weight=3.0,
        mouth_channels=(64, 128, 256, 512),
        hidden=256,
        video_discriminator=PUBLISHED_VIDEO_DISCRIMINATOR,
        **PUBLISHED,
    ),
    "zhou-tiny": ZhouTraining(
        MODELS["zhou-tiny"],
        _stages(TINY, DISENTANGLED, JUDGED_DISENTANGLED),
        mouth_channels=(4, 4),
        hidden=8,
    ),
}


# Lip readers. "trainer" guides a generator, "judge" (the evaluation lip reader) scores it. They use
# other sentences, another seed and another architecture (the published one at a third of its size).
# The trainer sees colour: a grey one does not improve the inside of a mouth (docs/log.md).
READING = {
    "trainer": ReadingTraining(
        SmallReaderConfig(mouth=MouthSpec(grey=False)), corpus_half="first", steps=1200
    ),
    "judge": ReadingTraining(
        PublishedReaderConfig(feature=256, hidden=256), corpus_half="second", steps=1200, seed=1
    ),
    "published": ReadingTraining(PublishedReaderConfig(), steps=3200),
    "tiny": ReadingTraining(
        PublishedReaderConfig(channels=(4, 4, 4), feature=8, hidden=8), steps=6, batch=4
    ),
}

# The face embedding: measures whether a generated face is still the same person.
IDENTITY = {
    "identity": IdentityTraining(),
    "tiny": IdentityTraining(
        IdentityConfig(side=16, channels=(4, 4), features=8), steps=6, people=4, moved=2
    ),
}


# The embedding that measures synchrony. "sync" shares sentences with the judge, with no generator's
# reader.
SYNC = {
    "sync": SyncTraining(SyncConfig()),
    "sync-tiny": SyncTraining(
        SyncConfig(
            mouth=MouthSpec(height=12, width=16),
            speech=SpeechSpec("log_mel", coefficients=8, hops=21, mels=8),
            widths=(4, 4),
            size=8,
        ),
        steps=6,
        clips=3,
        windows=4,
        precision="float32",
    ),
}


# The closed fits of lips and of heads.
LIPS = {"lips": LipsTraining()}
HEAD = {"head": HeadTraining()}

# By trainer, see `trainers`.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "lipreader": READING,
    "identity": IDENTITY,
    "lips": LIPS,
    "head": HEAD,
    "sync": SYNC,
    "cran": CRAN,
    "atvg": ATVG,
    "baseline": BASELINES,
}
# The algorithm of each kind of row. Called with (training, cache, device=..., own options).
RECIPES: Mapping[type, Callable[..., Recipe]] = {
    ReadingTraining: ReadingRecipe,
    IdentityTraining: IdentityRecipe,
    SyncTraining: SyncRecipe,
    CranTraining: CranRecipe,
    AtvgTraining: AtvgRecipe,
    ChungTraining: ChungRecipe,
    ChenTraining: ChenRecipe,
    ZhouTraining: ZhouRecipe,
}
# What is fitted in minutes. Called with (training, cache, path, splits, progress, own options).
FITS: Mapping[type, Callable[..., None]] = {LipsTraining: lips.train, HeadTraining: head.train}


T = TypeVar("T", bound=GeneratorTraining)


def shortened(training: T, steps: Sequence[int]) -> T:
    """Return the training with other numbers of steps per stage, in order; 0 removes a stage."""
    if len(steps) > len(training.stages):
        raise BadRequest(f"{len(steps)} stages asked for, this preset has {len(training.stages)}")
    pairs = zip(training.stages, steps, strict=False)
    return replace(training, stages=tuple(replace(s, steps=n, epochs=0) for s, n in pairs if n))


Row = TypeVar("Row")


def choose(
    table: Mapping[str, Row],
    preset: str,
    steps: str | None = None,
    without: Sequence[str] = (),
    change: Sequence[str] = (),
) -> Row:
    """Return a row of a table with the changes of the command line.

    change: "NAME=VALUE", see `settings.change`. steps, without: of a generator; its stages' steps,
    as "1200,4000,600", and names of losses to remove from all stages. Raises BadRequest, which
    lists the known names.
    """
    if preset not in table:
        raise BadRequest(f"no preset is called {preset!r}; known: {', '.join(table)}")
    training: Any = table[preset]
    losses = _losses([training])
    if unknown := set(without) - losses:
        raise BadRequest(f"no loss is called {unknown.pop()!r}; known: {', '.join(sorted(losses))}")
    left_out = [f"stages.*.weights.{name}=none" for name in without]
    training = settings.change(training, [*change, *left_out])
    if unknown := _losses([training]) - _losses(table.values()):
        known = ", ".join(sorted(_losses(table.values())))
        raise BadRequest(f"--set: no loss is called {unknown.pop()!r}; known: {known}")
    if steps is None:
        return cast(Row, training)
    try:
        return cast(Row, shortened(training, [int(part) for part in steps.split(",")]))
    except ValueError as error:
        raise BadRequest(f"--steps {steps!r}: give whole numbers, as 1200,4000,600") from error


def _losses(rows: Iterable[Any]) -> set[str]:
    """Return the names of the losses that these rows weigh; none of rows without stages."""
    return {name for row in rows for s in getattr(row, "stages", ()) for name in s.weights}
