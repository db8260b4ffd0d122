"""Zhou et al. 2019's training step: one space for sound and mouths, without the identity."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface.contract import Generated
from talkingface.data.dataset import Batch, speakers_of
from talkingface.losses import lip_reading_generator_loss, reconstruction_loss
from talkingface.models.baselines.zhou import (
    FeatureClassifier,
    MouthEncoder,
    WordClassifier,
    ZhouConfig,
)
from talkingface.models.lipreader import MouthSpec, mouth_crops
from talkingface.training.generator import GeneratorRecipe, GeneratorTraining, Stage

word_loss = speaker_loss = lip_reading_generator_loss  # cross-entropy; -1 is no word, no speaker


def contrastive_loss(
    audio: Tensor, mouth: Tensor, counted: Tensor | None = None, margin: float = 1.0, apart: int = 3
) -> Tensor:
    """Return the contrastive loss of sound and mouth features (Hadsell et al. 2006).

    Features of one frame are drawn together, those of others `margin` apart.

    audio, mouth: (B, T, features) of E_a and E_v; counted: (B,) bool, samples that count. The mean
    of d^2 over pairs of one frame plus the mean of max(0, margin - d)^2 over all others; frames
    of one sample less than `apart` frames from each other look alike and are no pair.
    """
    batch, time = audio.shape[:2]
    clip = torch.arange(batch, device=audio.device).repeat_interleave(time)
    frame = torch.arange(time, device=audio.device).repeat(batch)
    same = clip[:, None] == clip[None]
    away = (frame[:, None] - frame[None]).abs()
    known = torch.ones_like(clip, dtype=torch.bool) if counted is None else counted[clip]
    both = known[:, None] & known[None]
    one, two = audio.flatten(0, 1).float(), mouth.flatten(0, 1).float()
    with torch.autocast(one.device.type, enabled=False):  # it would round the products
        products = one @ two.T
    squared = one.square().sum(-1)[:, None] + two.square().sum(-1)[None] - 2 * products
    squared = squared.clamp(min=0)
    near = F.relu(margin - (squared + 1e-12).sqrt()).square()
    terms = []
    for values, pairs in ((squared, same & (away == 0)), (near, ~same | (away >= apart))):
        weight = (pairs & both).float()
        terms.append((values * weight).sum() / weight.sum().clamp(min=1))
    return terms[0] + terms[1]


def confusion_loss(logits: Tensor, counted: Tensor) -> Tensor:
    """Return the cross-entropy to the uniform distribution; log n is its minimum.

    logits: (N, n); counted: (N,) bool. An encoder minimises it while the classifier is frozen.
    """
    values = -logits.float().log_softmax(-1).mean(-1)
    return (values * counted).sum() / counted.sum().clamp(min=1)


@dataclass(frozen=True)
class ZhouTraining(GeneratorTraining):
    """Settings of training Zhou et al. 2019.

    mouth, mouth_channels: what E_v sees, and its layers; hidden: of the three classifiers; margin:
    of the contrastive loss, of features of length 1.
    """

    model: ZhouConfig
    mouth: MouthSpec = field(default_factory=MouthSpec)
    mouth_channels: tuple[int, ...] = (24, 48, 96, 128)
    hidden: int = 128
    margin: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Disentangled(Generated):
    """Generated frames, and the features that the adversaries classify.

    audio, mouth: (B, T, features) of E_a and E_v; face: (B, features) of E_p on a frame in the
    middle of each sample's word.
    """

    audio: Tensor
    mouth: Tensor
    face: Tensor


class ZhouRecipe(GeneratorRecipe[ZhouTraining]):
    """The recipe of Zhou et al. 2019.

    Losses: pixels (generated from sound) and pixels_from_video, contrastive, word (on both), image,
    video, and confusion (of the speaker in speech features, and of the word in face features).

    The two classifiers behind the confusion are trained on detached features, as discriminators.
    """

    partners = ("mouth_encoder", "word_classifier")

    def _own_discriminators(self) -> dict[str, nn.Module]:
        t, model, words = self.training, self.training.model, len(self.cache.vocabulary)
        speech, speakers = model.speech_features, len(speakers_of(self.clips))
        return {
            "mouth_encoder": MouthEncoder(t.mouth, t.mouth_channels, speech),
            "word_classifier": WordClassifier(speech, t.hidden, words),
            "speaker_classifier": FeatureClassifier(speech, t.hidden, speakers),
            "face_word_classifier": FeatureClassifier(model.image_features, t.hidden, words),
        }

    # --- one step -------------------------------------------------------------------------------

    def _generate(
        self, batch: Batch, stage: Stage
    ) -> tuple[Generated | None, Tensor, dict[str, Tensor]]:
        for partner in self.partners:  # discriminators are in eval mode
            self.discriminators[partner].train()
        audio, mouth = self.model.encode_speech(batch.speech), self._mouth_features(batch)
        real, weight = self.model.mouth_region.crop(batch.frames), self._mouth(batch.landmarks)
        terms = {}
        if "contrastive" in stage.weights:  # a still portrait looks the same in all frames
            moving = ~batch.silent
            terms["contrastive"] = contrastive_loss(audio, mouth, moving, self.training.margin)
        if "word" in stage.weights:
            both = [self._word(content, batch) for content in (audio, mouth)]
            terms["word"] = torch.stack(both).mean()
        if "pixels" not in stage.weights:  # the shared space alone
            return None, real, terms
        identity = self.model.encode(batch.portrait)
        made = self.model.draw_region(identity, audio)
        terms["pixels"] = reconstruction_loss(made.frames, real, weight)
        if "pixels_from_video" in stage.weights:  # neighbours are alike: every second is enough
            drawn, heavy = self.model.draw_region(identity, mouth[:, ::2]), weight
            if heavy is not None:
                heavy = heavy[:, ::2]
            terms["pixels_from_video"] = reconstruction_loss(drawn.frames, real[:, ::2], heavy)
        face = self._face(batch)
        features = Disentangled(
            made.frames, colour=made.colour, audio=audio, mouth=mouth, face=face
        )
        return features, real, terms

    def _mouth_features(self, batch: Batch) -> Tensor:
        """Encode the real mouths (E_v), in a fixed box that a wrong lip cannot move."""
        mean = batch.landmarks.mean(1, keepdim=True)
        mouths = mouth_crops(batch.frames, mean, self.training.mouth)
        out: Tensor = self.discriminators["mouth_encoder"](mouths)
        return out

    def _face(self, batch: Batch) -> Tensor:
        """Encode a frame in the middle of the word (E_p).

        A clip of GRID has six words, so the identity picture may show another one.
        """
        middle = batch.span.sum(1) // 2
        frames = batch.frames[torch.arange(len(middle), device=self.device), middle]
        face: Tensor = self.model.encode_face(self.model.mouth_region.crop(frames))[0]
        return face

    def _word(self, content: Tensor, batch: Batch) -> Tensor:
        return word_loss(self.discriminators["word_classifier"](content, batch.span), batch.word)

    def _adversarial_terms(self, batch: Batch, made: Generated, stage: Stage) -> dict[str, Tensor]:
        terms = super()._adversarial_terms(batch, made, stage)
        if "confusion" in stage.weights:
            speakers, words = self._classified(made, batch)
            who, what = speakers[1] >= 0, words[1] >= 0
            confused = [confusion_loss(speakers[0], who), confusion_loss(words[0], what)]
            terms["confusion"] = torch.stack(confused).sum()
        return terms

    def _discriminators(
        self, batch: Batch, made: Generated, real: Tensor, stage: Stage
    ) -> dict[str, Tensor]:
        terms = super()._discriminators(batch, made, real, stage)
        if "confusion" in stage.weights:
            with self._precision():
                speakers, words = self._classified(made, batch, detached=True)
            own = {"speaker": speaker_loss(*speakers), "face_word": word_loss(*words)}
            for name, loss in own.items():
                self._update(f"{name}_classifier", loss)
                terms[f"discriminator/{name}"] = loss
        return terms

    def _classified(
        self, made: Generated, batch: Batch, detached: bool = False
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return logits and labels: the speaker of sounds and mouths, and the word of faces."""
        assert isinstance(made, Disentangled)
        content, face = torch.stack([made.audio, made.mouth]), made.face
        if detached:
            content, face = content.detach(), face.detach()
        speakers = batch.speaker[None, :, None].expand(content.shape[:3]).flatten()
        said = self.discriminators["speaker_classifier"](content.flatten(0, 2)), speakers
        return said, (self.discriminators["face_word_classifier"](face), batch.word)

    def _update(self, name: str, loss: Tensor) -> None:
        """Update a module; E_v and the word classifier get the generator's learning rate."""
        for partner in self.partners:
            for group in self.optimizers[partner].param_groups:
                group["lr"] = self.optimizers["model"].param_groups[0]["lr"]
        super()._update(name, loss)
