"""Training of what doubles a face's detail: crops of still portraits, made small and soft again.

A generator's colours are softer than a picture made small (docs/log.md: sharpness 0.6 of the real
one), so the small picture is blurred by a random amount before it is enlarged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface import faces, picture, video, weights
from talkingface.data.sources import portraits
from talkingface.errors import NoFaceFound
from talkingface.geometry import CropSpec
from talkingface.losses import gradient_loss, reconstruction_loss
from talkingface.metrics.image import psnr, sharpness, ssim
from talkingface.models.detail import Detail, DetailConfig, blurred, enlarged
from talkingface.training import parallel
from talkingface.training.loop import one_cycle
from talkingface.training.parallel import WHOLE, Learner, Part, Place

WINDOW = (56, 128, 24, 104)  # of the crop, what generators draw
LARGEST = 1.2  # how much a face may be enlarged to be a sharp one still
SOFTNESS = 0.55  # pixels of a crop of 128: sharpness 0.6


@dataclass(frozen=True)
class DetailTraining:
    """Everything that `talkingface train detail` needs beside the pictures."""

    model: DetailConfig = field(default_factory=DetailConfig)
    crop: CropSpec = field(default_factory=CropSpec)  # of the small picture
    steps: int = 1000
    batch: int = 16
    side: int = 40  # pixels of a small patch
    rate: float = 2e-3
    warm_up: float = 0.1
    gradient: float = 1.0  # weight beside L1
    softest: float = 0.9  # pixels: sigma of the blur, at most
    noise: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class PatchBatch:
    """small (B, 3, side, side), soft; real (B, 3, 2 side, 2 side)."""

    small: Tensor
    real: Tensor


class DetailRecipe:
    """See `loop.Recipe`: AdamW, one cycle of the learning rate."""

    def __init__(
        self, training: DetailTraining, folder: Path, device: torch.device | str = "cpu"
    ) -> None:
        """folder: portraits, of which each third is held out (`data.sources.portraits`)."""
        self.training, self.device, self.steps = training, torch.device(device), training.steps
        found = portraits(folder)
        self.crops = _crops([r.path for r in found if r.split == "train"], training.crop)
        self.held_out = _crops([r.path for r in found if r.split != "train"], training.crop)
        torch.manual_seed(training.seed)
        self.model = Detail(training.model).to(self.device)
        self.modules: dict[str, nn.Module] = {"model": self.model}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "model": torch.optim.AdamW(self.model.parameters(), weight_decay=1e-4)
        }
        self.learner = Learner([self.model], [self.optimizers["model"]])

    def __getstate__(self) -> dict[str, Any]:
        return {"crops": self.crops, "training": self.training}

    def batch(self, step: int, place: Place | None = None) -> PatchBatch:
        """Patches, mirrored or not, softness and grain: all by (seed, step)."""
        t = self.training
        rng = np.random.default_rng((t.seed, (place or parallel.place()).turn(step)))
        top, bottom, left, right = WINDOW
        real = []
        for index in rng.integers(0, len(self.crops), t.batch):
            y, x = rng.integers(top, bottom - t.side + 1), rng.integers(left, right - t.side + 1)
            patch = self.crops[index][2 * y : 2 * (y + t.side), 2 * x : 2 * (x + t.side)]
            real.append(patch[:, ::-1] if rng.random() < 0.5 else patch)
        large = video.to_tensor(np.stack(real))
        sigma = torch.from_numpy(rng.uniform(0, t.softest, t.batch)).float()
        grain = torch.from_numpy(rng.standard_normal(size=(t.batch, 3, t.side, t.side))).float()
        return PatchBatch(blurred(F.avg_pool2d(large, 2), sigma) + t.noise * grain, large)

    def step(self, batch: PatchBatch, step: int, part: Part = WHOLE) -> dict[str, float]:
        """L1 and L1 of the gradients."""
        for group in self.optimizers["model"].param_groups:
            group["lr"] = one_cycle(self.training, step)
        made, real = self.model.finer(batch.small.to(self.device)), batch.real.to(self.device)
        pixels = reconstruction_loss(made[None], real[None])
        edges = gradient_loss(made[None], real[None])
        loss = pixels + self.training.gradient * edges
        self.learner.learn(loss, part)
        return {"pixels": float(pixels.detach()), "gradient": float(edges.detach())}

    def validate(self, step: int) -> dict[str, float]:
        """PSNR, SSIM and sharpness (of the real one) on held-out portraits' windows, by softness:
        as made small (sharp) and as soft as generators draw (soft); "bicubic/" for comparison."""
        rows: dict[str, list[float]] = {}
        for made in self._held_out():
            for name, value in made.items():
                for measure, number in _measures(value, made["real"]).items():
                    rows.setdefault(f"{name}/{measure}", []).append(number)
        return {n: float(np.mean(v)) for n, v in rows.items() if not n.startswith("real/")}

    @torch.inference_mode()
    def _held_out(self) -> list[dict[str, picture.Picture]]:
        top, bottom, left, right = WINDOW
        rows = []
        for crop in self.held_out:
            real = video.to_tensor(crop[2 * top : 2 * bottom, 2 * left : 2 * right].copy())[None]
            made = {"real": real}
            for name, sigma in (("sharp", 0.0), ("soft", SOFTNESS)):
                small = blurred(F.avg_pool2d(real, 2), torch.tensor([sigma])).to(self.device)
                made[f"{name}/bicubic"] = enlarged(small).cpu()
                made[f"{name}/detail"] = self.model.finer(small).cpu()
            rows.append({n: video.to_uint8(v)[0] for n, v in made.items()})
        return rows

    def sheet(self) -> picture.Picture | None:
        """Held-out windows: real, enlarged, with detail."""
        shown = self._held_out()[:8]
        names = ("real", "soft/bicubic", "soft/detail")
        rows = [[made[name] for made in shown] for name in names]
        return video.contact_sheet(rows, list(names), side=160)

    def export(self, path: Path, step: int, measures: dict[str, float]) -> None:
        """The weights, with what they are in the header."""
        weights.save(
            path,
            self.model,
            training_data=f"{len(self.crops)} portraits (synthetic: SFHQ, MIT)",
            licence="MIT",
            metrics=measures,
            extra={"steps": step},
        )


def _measures(made: picture.Picture, real: picture.Picture) -> dict[str, float]:
    return {
        "psnr": psnr(made, real),
        "ssim": ssim(made, real),
        "sharpness": sharpness(made) / sharpness(real),
    }


def _crops(paths: list[Path], small: CropSpec) -> list[picture.Picture]:
    """(2 S, 2 S, 3) of each picture with a face that is as large itself."""
    spec = CropSpec(2 * small.size, small.eye_distance, small.eye_y)
    found = []
    for path in paths:
        pixels = picture.read(path)
        try:
            face = faces.locate(pixels, name=path.name)
        except NoFaceFound:
            continue
        aligned = faces.align(pixels, face, spec)
        if float(np.hypot(*aligned.matrix[:, 0])) < LARGEST:
            found.append(aligned.crop)
    return found
