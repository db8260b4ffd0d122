"""The papers' training tables, and ours, as rows."""

from __future__ import annotations

import typing
from dataclasses import replace
from typing import Any, Literal

from talkingface.data.augment import NO_AUGMENTATION
from talkingface.errors import BadRequest
from talkingface.models.cran import PRESETS as MODELS
from talkingface.models.cran import CranConfig
from talkingface.models.discriminators import PUBLISHED_FRAME_CRITIC, PUBLISHED_VIDEO_CRITIC
from talkingface.models.lipreader import LeanReaderConfig, PublishedReaderConfig
from talkingface.training.reading import ReadingTraining
from talkingface.training.recipes import CranTraining, Stage

# Sec. 4.2: lambda_I 1e-3, lambda_V 1e-2, lambda_l 1e-3 beside L_rec.
PAPER_WEIGHTS = {"pixels": 1.0, "image": 1e-3, "video": 1e-2, "reading": 1e-3}
LEAN_WEIGHTS = {"pixels": 10.0, "gradient": 10.0, "lips": 0.2}
# With the paper's weights the critics changed nothing that could be seen in a thousand steps.
LEAN_CRITICS = {"image": 0.5, "video": 0.5, "reading": 0.03}

LIPS = Stage(1200, {"lips": 1.0}, 2e-3, batch=24, frames=40, pictures=False, schedule="cosine")
PIXELS = Stage(2500, LEAN_WEIGHTS, 8e-4, real_guide=0.75, speech_rate=0.05, schedule="cosine")
CRITICS = replace(
    PIXELS, steps=1200, weights={**LEAN_WEIGHTS, **LEAN_CRITICS}, lr=4e-4, critic_rate=5.0
)

CRAN = {
    "cran": CranTraining(
        model=MODELS["cran"],
        stages=(LIPS, PIXELS, CRITICS),
        betas=(0.9, 0.98),
        decay=1e-2,
        mouth_weight=6.0,
        puppets=0.25,
    ),
    # Sec. 4.2: Adam 2e-4, beta 0.5; 30 epochs without critics, 15 with them.
    "cran-paper": CranTraining(
        model=MODELS["cran-paper"],
        stages=(
            Stage(0, {"pixels": 1.0}, frames=11, epochs=30),
            Stage(0, PAPER_WEIGHTS, frames=11, epochs=15),
        ),
        augment=NO_AUGMENTATION,
        balance=1.0,
        silent=0.0,
        image_critic=PUBLISHED_FRAME_CRITIC,
        video_critic=PUBLISHED_VIDEO_CRITIC,
        reading="printed",
        precision="float32",
    ),
    "cran-natural": CranTraining(
        model=MODELS["cran-natural"],
        stages=(LIPS, replace(PIXELS, real_guide=0.0), replace(CRITICS, real_guide=0.0)),
        betas=(0.9, 0.98),
        decay=1e-2,
        mouth_weight=6.0,
        silent=0.0,
    ),
    "cran-tiny": CranTraining(
        model=MODELS["cran-tiny"],
        stages=(
            Stage(4, {"lips": 1.0}, 1e-3, 2, 10, pictures=False),
            Stage(4, LEAN_WEIGHTS, 1e-3, 2, 10, real_guide=0.5),
            Stage(4, {**LEAN_WEIGHTS, **PAPER_WEIGHTS}, 1e-3, 2, 10, real_guide=0.5),
        ),
    ),
}


# Lip readers. "trainer" guides a generator, "judge" scores it: other sentences, another seed and
# another architecture (the published one at a third of its size).
READING = {
    "trainer": ReadingTraining(LeanReaderConfig(), half="first", steps=1600),
    "judge": ReadingTraining(
        PublishedReaderConfig(feature=256, hidden=256), half="second", steps=1200, seed=1
    ),
    "published": ReadingTraining(PublishedReaderConfig(), steps=3200),
    "tiny": ReadingTraining(
        PublishedReaderConfig(channels=(4, 4, 4), feature=8, hidden=8), steps=6, batch=4
    ),
}


def shortened(training: CranTraining, steps: tuple[int, ...]) -> CranTraining:
    """The same training with other numbers of steps per stage, in order; 0 leaves a stage out."""
    if len(steps) > len(training.stages):
        raise BadRequest(f"{len(steps)} stages asked for, this preset has {len(training.stages)}")
    pairs = zip(training.stages, steps, strict=False)
    return replace(training, stages=tuple(replace(s, steps=n, epochs=0) for s, n in pairs if n))


def choose(preset: str, steps: str | None, without: list[str], change: list[str]) -> CranTraining:
    """A row of the table with the command line's wishes: `steps` as "1200,4000,600", loss names to
    leave out, and "name=value" for a text switch of the model (scheme, output, lips) or training
    (form, reading, precision). Raises BadRequest naming what is known."""
    if preset not in CRAN:
        raise BadRequest(f"no preset is called {preset!r}; known: {', '.join(CRAN)}")
    training = CRAN[preset]
    for item in change:
        training = _changed(training, item)
    known = {name for stage in training.stages for name in stage.weights}
    if unknown := set(without) - known:
        raise BadRequest(f"no loss is called {unknown.pop()!r}; known: {', '.join(sorted(known))}")
    stages = tuple(
        replace(s, weights={n: w for n, w in s.weights.items() if n not in without})
        for s in training.stages
    )
    training = replace(training, stages=stages)
    if steps is None:
        return training
    try:
        return shortened(training, tuple(int(part) for part in steps.split(",")))
    except ValueError as error:
        raise BadRequest(f"--steps {steps!r}: give whole numbers, as 1200,4000,600") from error


def _changed(training: CranTraining, item: str) -> CranTraining:
    """One "name=value" applied to the model's or the training's text switches."""
    name, _, value = item.partition("=")
    for holder in (training.model, training):
        allowed = _choices(type(holder)).get(name)
        if allowed is None:
            continue
        if value not in allowed:
            raise BadRequest(f"--set {item}: {name} is one of {', '.join(allowed)}")
        wish: dict[str, Any] = {name: value}
        if holder is training:
            return replace(training, **wish)
        return replace(training, model=replace(training.model, **wish))
    names = sorted({*_choices(CranConfig), *_choices(CranTraining)})
    raise BadRequest(f"--set {item}: known switches are {', '.join(names)}")


def _choices(kind: type) -> dict[str, tuple[str, ...]]:
    """The fields of a dataclass that take one of a few words."""
    hints = typing.get_type_hints(kind)
    return {n: typing.get_args(h) for n, h in hints.items() if typing.get_origin(h) is Literal}
