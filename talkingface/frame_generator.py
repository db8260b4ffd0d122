"""Generate frames of one face from windows of speech: a model, a face and its motion together."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor

from talkingface.animation import Mover
from talkingface.audio import SpeechSpec
from talkingface.contract import Generated, Generator, State, moves_mesh
from talkingface.face_preparation import device_of
from talkingface.models.cran import Cran
from talkingface.motion import Motion
from talkingface.weights import WeightsInfo


class FrameGenerator:
    """Generates frames of one face. The state is an argument and a result."""

    def __init__(
        self,
        model: Generator,
        info: WeightsInfo,
        identity: Any,
        animator: Mover | None,
    ) -> None:
        """info: of the model. identity: of the face, encoded by it. animator: None for models that
        move no mesh."""
        self.info, self.animator = info, animator
        self.device = device_of(model)
        self._model, self._identity = model, identity

    @property
    def moves_mesh(self) -> bool:
        """Return whether it moves a mesh; else it draws whole crops."""
        return self.animator is not None

    @property
    def spec(self) -> SpeechSpec:
        """Windows of speech that `generate` takes."""
        spec: SpeechSpec = self._model.config.speech
        return spec if self.animator is None else self.animator.spec

    @torch.inference_mode()
    def generate(
        self, speech: Tensor, state: State, motion_alone: bool = False
    ) -> tuple[Generated, Motion | None, State]:
        """(T, hops, coefficients), see `spec`, and the state of the call before (at first None).

        Returns what the model makes of them, how the face moves with it (None for models that move
        no mesh), and the state. motion_alone: without the model's own pictures, where it needs none
        of them for the next frame.
        """
        speech = speech.to(self.device)
        if self.animator is None:
            made, state = self._model(self._identity, speech[None], state)
            return made, None, state
        assert moves_mesh(self._model)
        moved, own = (None, None) if state is None else state
        clock = 0 if moved is None else int(moved[0])
        motion, moved = self.animator(speech, moved)
        if motion_alone and not self._model.is_autoregressive:
            return self.bend(motion), motion, (moved, own)
        if own is None:
            own = self._first_state()
        windows = self.animator.model_windows(speech)[None]
        made, own = self._model(self._identity, windows, own, self._meshes(motion))
        if made.moves is not None:
            motion = self.animator.with_moves(motion, made.moves[0].cpu().numpy(), clock)
        return made, motion, (moved, own)

    @torch.inference_mode()
    def bend(self, motion: Motion) -> Generated:
        """The meshes of a motion, without pictures of the model's own."""
        mesh = self._meshes(motion)
        return Generated(mesh.new_zeros(*mesh.shape[:2], 3, 0, 0), mesh=mesh)

    def _first_state(self) -> State:
        """The state before the first frame, with a seed where the model moves the head."""
        if not samples_head(self._model) or self.animator is None:
            return None
        return self._model.begin(self._identity, self.animator.seed)

    def _meshes(self, motion: Motion) -> Tensor:
        assert moves_mesh(self._model)
        expression = torch.from_numpy(motion.expression)[None].to(self.device)
        return self._model.meshes(self._identity, expression)


def samples_head(model: Generator) -> TypeGuard[Cran]:
    """Return whether a model itself moves the head, from its pictures (cran-natural)."""
    return model.samples_head
