"""The papers' training tables, and ours, as rows."""

from __future__ import annotations

from dataclasses import replace

from talkingface.data.augment import NO_AUGMENTATION
from talkingface.models.cran import PRESETS as MODELS
from talkingface.models.discriminators import PUBLISHED_FRAME_CRITIC, PUBLISHED_VIDEO_CRITIC
from talkingface.training.recipes import CranTraining, Stage

PAPER_WEIGHTS = {"pixels": 1.0, "image": 1e-3, "video": 1e-2, "reading": 1e-3}  # Sec. 4.2
LEAN_WEIGHTS = {"pixels": 10.0, "gradient": 10.0, "lips": 0.2}

CRAN = {
    "cran": CranTraining(
        model=MODELS["cran"],
        stages=(
            Stage(3000, {"lips": 1.0}, 2e-3, 24, 40, pictures=False, schedule="cosine"),
            Stage(
                9000,
                LEAN_WEIGHTS,
                8e-4,
                8,
                15,
                real_guide=0.75,
                speech_rate=0.05,
                schedule="cosine",
            ),
        ),
        betas=(0.9, 0.98),
        decay=1e-2,
        mouth_weight=6.0,
    ),
    # Sec. 4.2: Adam 2e-4, beta 0.5; 30 epochs without critics, 15 with them. An epoch is counted as
    # 3,300 steps of 8 clips, LRW's scale per the released scripts; the data decides, see docs.
    "cran-paper": CranTraining(
        model=MODELS["cran-paper"],
        stages=(
            Stage(30 * 3300, {"pixels": 1.0}, 2e-4, 8, 11),
            Stage(15 * 3300, PAPER_WEIGHTS, 2e-4, 8, 11),
        ),
        augment=NO_AUGMENTATION,
        balance=1.0,
        silent=0.0,
        image_critic=PUBLISHED_FRAME_CRITIC,
        video_critic=PUBLISHED_VIDEO_CRITIC,
        reading="printed",
        precision="float32",
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


def shortened(training: CranTraining, steps: tuple[int, ...]) -> CranTraining:
    """The same training with other numbers of steps per stage, in order."""
    stages = tuple(replace(s, steps=n) for s, n in zip(training.stages, steps, strict=False))
    return replace(training, stages=stages)
