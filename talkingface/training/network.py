"""The shared recipe of one network with one loss: lip readers, and embeddings that measure."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from talkingface import weights
from talkingface.data.dataset import Cache, ClipInfo
from talkingface.data.provenance import licence
from talkingface.training import parallel
from talkingface.training.parallel import WHOLE_STEP, BatchIndex, MicroBatch, OptimizerGroup
from talkingface.types import Picture


class NetworkTraining(Protocol):
    """Settings that all these trainings have."""

    @property
    def steps(self) -> int:
        """The number of steps."""

    @property
    def rate(self) -> float:
        """The learning rate at its peak."""

    @property
    def warm_up(self) -> float:
        """The share of the steps before the peak."""

    @property
    def decay(self) -> float:
        """The decay of weights."""

    @property
    def seed(self) -> int:
        """The seed of weights and batches."""


Settings = TypeVar("Settings", bound=NetworkTraining)
Batch = TypeVar("Batch")


class NetworkRecipe(ABC, Generic[Settings, Batch]):
    """The recipe of one network, see `loop.Recipe`: AdamW, one cycle of the learning rate.

    name: of the network in checkpoints. needed: attributes that `batch` needs beside cache and
    training.
    """

    name: str
    needed: tuple[str, ...]
    network: nn.Module

    def __init__(
        self, training: Settings, cache: Cache, device: torch.device | str = "cpu"
    ) -> None:
        """Choose the data and build the network. Raises BadShard where there is too little."""
        self.training, self.cache, self.device = training, cache, torch.device(device)
        self.steps = training.steps
        self._choose_data()
        torch.manual_seed(training.seed)
        self.network = self._build().to(self.device)
        self.modules: dict[str, nn.Module] = {self.name: self.network}
        optimizer = torch.optim.AdamW(self.network.parameters(), weight_decay=training.decay)
        self.optimizers: dict[str, torch.optim.Optimizer] = {self.name: optimizer}
        self.optimizer_group = OptimizerGroup([self.network], [optimizer], most=5.0)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("cache", "training", *self.needed)}

    @abstractmethod
    def _choose_data(self) -> None:
        """Set the attributes `needed`. Raises BadShard."""

    @abstractmethod
    def _build(self) -> nn.Module:
        """Return the untrained network."""

    @abstractmethod
    def _batch(self, number: int) -> Batch:
        """Return the batch of this number among those of all steps; (seed, number) decide it."""

    @abstractmethod
    def _loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, and further values for the log."""

    @abstractmethod
    def validate(self, step: int) -> dict[str, float]:
        """See `loop.Recipe`."""

    @abstractmethod
    def _description(self) -> tuple[str, Sequence[ClipInfo]]:
        """Describe the training data in words; return the clips too, whose licences count."""

    def _facts(self) -> dict[str, Any]:
        """Return further entries of the weights' header."""
        return {}

    def _rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        return one_cycle(self.training, step)

    def batch(self, step: int, index: BatchIndex | None = None) -> Batch:
        """See `loop.Recipe`."""
        return self._batch((index or parallel.batch_index()).global_number(step))

    def step(
        self, batch: Batch, step: int, micro_batch: MicroBatch = WHOLE_STEP
    ) -> dict[str, float]:
        """See `loop.Recipe`."""
        for group in self.optimizers[self.name].param_groups:
            group["lr"] = self._rate(step)
        self.network.train()
        loss, values = self._loss(batch)
        self.optimizer_group.step(loss, micro_batch)
        return {name: float(value.detach()) for name, value in {"loss": loss, **values}.items()}

    def sheet(self) -> Picture | None:
        """Return None: there is no contact sheet."""
        return None

    def export(self, path: Path, step: int, measures: dict[str, float]) -> None:
        """Write the weights, described in their header."""
        data, clips = self._description()
        extra = {"steps": step, "seed": self.training.seed, **self._facts()}
        terms = licence(clips)
        weights.save(
            path, self.network, training_data=data, licence=terms, metrics=measures, extra=extra
        )


def one_cycle(training: NetworkTraining, step: int) -> float:
    """Return the learning rate: half a cosine up from 4 % to the peak, then half a cosine to 0."""
    up = training.warm_up * training.steps
    if step < up:
        return training.rate * (0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * step / up)))
    part = (step - up) / max(1.0, training.steps - up)
    return training.rate * 0.5 * (1 + math.cos(math.pi * part))


def accuracy_of_nearest(similarity: Tensor) -> Tensor:
    """Return the share of rows of (N, N) whose largest entry is on the diagonal."""
    nearest = similarity.argmax(1)
    return (nearest == torch.arange(len(nearest), device=nearest.device)).float().mean()
