"""The losses of Song et al. 2019 and of ATVGnet (Chen et al. 2019), each beside its equation, and
those that help on few data.

Every function returns a float32 scalar that is to be minimised, whatever the precision of its
inputs. `valid` is always (B, T) bool, false where a clip was padded; None means all frames count. A
loss over nothing at all is 0, with zero gradient.

Signs. Eqs. 2, 3 and 4 are written alike: log-likelihood of reals plus what falls when fakes
convince. The discriminator goes up on them, the generator, whose total is Eq. 5, goes down.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from talkingface.contract import LANDMARKS
from talkingface.landmarks import LIPS

AdversarialForm = Literal["nonsaturating", "minimax", "hinge"]
LipReadingForm = Literal["printed", "bounded", "frozen"]


def _mean(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """The weighted mean, float32; weight broadcasts to values; 0 where no weight is left."""
    values = values.float()
    if weight is None:
        return values.mean()
    weight = weight.float().expand_as(values)
    total = weight.sum()
    return (values * weight).sum() / torch.where(total > 0, total, torch.ones_like(total))


def _frame_weight(weight: Tensor | None, valid: Tensor | None) -> Tensor | None:
    """Combine a weight map with the frames that count to one (B, T, 1, H or 1, W or 1) weight."""
    if valid is None:
        return weight
    frames = valid[:, :, None, None, None].float()
    return frames if weight is None else frames * weight.float()


def _real_frames(real: Tensor, fake: Tensor, valid: Tensor | None) -> None:
    if real.shape != fake.shape or real.ndim != 5:
        raise ValueError(
            f"expected two clips (B, T, C, H, W), got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    if valid is not None and valid.shape != real.shape[:2]:
        raise ValueError(
            f"valid is {tuple(valid.shape)}, expected (B, T) = {tuple(real.shape[:2])}"
        )


def reconstruction_loss(
    fake: Tensor, real: Tensor, weight: Tensor | None = None, valid: Tensor | None = None
) -> Tensor:
    """Eq. 1, L_rec = |I_t - I~_t|_1, as a mean over pixels.

    fake, real: (B, T, C, H, W). weight: broadcasts to (B, T, 1, H, W), how much each pixel counts
    (the mouth more than the cheeks); the mean is divided by the sum of weights, so that the loss
    stays an error per pixel. Stop the gradient of a weight that the generator makes.
    """
    _real_frames(real, fake, valid)
    return _mean((fake.float() - real.float()).abs(), _frame_weight(weight, valid))


def dynamic_pixel_loss(
    fake: Tensor,
    real: Tensor,
    attention: Tensor,
    beta: float = 0.5,
    weight: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """ATVGnet's L_pix = sum_t |(v_t - v^_t) (.) (alpha-bar_t + beta)|_1, as a mean over pixels.

    fake, real: (B, T, C, H, W). attention: (B, T, 1, H, W) in [0, 1], the generator's own map of
    what moves. The bar over alpha: no gradient flows through this factor, or the cheapest way to a
    lower loss would be attention that shrinks wherever the picture is wrong, where it should grow;
    it still learns through `fake`. beta: what a pixel counts where nothing moves. The mean is over
    all pixels, as printed: attention that covers more makes a larger value. Only `weight`, an extra
    map (the mouth), is divided out, as in `reconstruction_loss`.
    """
    _real_frames(real, fake, valid)
    expected = (*real.shape[:2], 1, *real.shape[3:])
    if attention.shape != expected:
        raise ValueError(
            f"attention is {tuple(attention.shape)}, expected (B, T, 1, H, W) = {expected}"
        )
    error = (fake.float() - real.float()).abs() * (attention.detach().float() + beta)
    return _mean(error, _frame_weight(weight, valid))


def gradient_loss(
    fake: Tensor, real: Tensor, weight: Tensor | None = None, valid: Tensor | None = None
) -> Tensor:
    """L1 between the spatial derivatives of two clips: edges and detail, not levels.

    A derivative is the difference of neighbours, which counts as much as the mean of the two.
    Shapes as `reconstruction_loss`; the mean of the horizontal and the vertical part.
    """
    _real_frames(real, fake, valid)
    error = fake.float() - real.float()  # a difference of derivatives is the derivative of this
    weights = _frame_weight(weight, valid)
    parts = []
    for axis in (-1, -2):
        pairs = weights
        if weights is not None and weights.shape[axis] > 1:
            length = weights.shape[axis] - 1
            pairs = (weights.narrow(axis, 0, length) + weights.narrow(axis, 1, length)) / 2
        parts.append(_mean(error.diff(dim=axis).abs(), pairs))
    return (parts[0] + parts[1]) / 2


def _patch_weight(valid: Tensor | None) -> Tensor | None:
    return None if valid is None else valid[:, :, None, None]


def discriminator_loss(
    real: Tensor,
    fake: Tensor,
    form: AdversarialForm = "nonsaturating",
    real_valid: Tensor | None = None,
    fake_valid: Tensor | None = None,
) -> Tensor:
    """Loss of D_I (Eq. 3) or D_V (Eq. 4): -E[log D(I)] - E[log(1 - D(I~))].

    real, fake: logits (B, T, h, w) of real and of detached generated frames, D = sigmoid(logit), or
    the scores (B,) of `RegressionDiscriminator`, then without *_valid; *_valid: (B, T) bool, which
    logits count (D_V: `VideoDiscriminator.valid`). "nonsaturating" and "minimax" are the same here,
    binary cross-entropy; "hinge" is max(0, 1 - real) + max(0, 1 + fake).
    """
    if form == "hinge":
        up, down = F.relu(1 - real.float()), F.relu(1 + fake.float())
    else:
        up, down = F.softplus(-real.float()), F.softplus(fake.float())
    return _mean(up, _patch_weight(real_valid)) + _mean(down, _patch_weight(fake_valid))


def generator_loss(
    fake: Tensor, form: AdversarialForm = "nonsaturating", valid: Tensor | None = None
) -> Tensor:
    """Loss of G against D_I (Eq. 3) or D_V (Eq. 4).

    fake: logits (B, T, h, w) or scores (B,) of generated frames, the discriminator's own weights
    held still; valid: as `discriminator_loss`. "minimax" is the equation, E[log(1 - D(I~))], whose
    gradient vanishes where the discriminator is sure; "nonsaturating" is -E[log D(I~)], which
    trains (Goodfellow et al. 2014); "hinge" is -E[logit].
    """
    logits = fake.float()
    if form == "hinge":
        values = -logits
    elif form == "minimax":
        values = -F.softplus(logits)
    else:
        values = F.softplus(-logits)
    return _mean(values, _patch_weight(valid))


def _word_likelihood(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """log p of each clip's own word (B,), and which clips have one (B,) bool; -1 is no word."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            "expected logits (B, words) and labels (B,), "
            f"got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    labelled = labels >= 0
    # where() before the softmax too: the gradient of an unlabelled clip is exactly zero
    clean = torch.where(labelled[:, None], logits.float(), 0.0)
    chosen = clean.log_softmax(1).gather(1, labels.clamp_min(0)[:, None])[:, 0]
    return chosen, labelled


def lip_reading_discriminator_loss(
    real: Tensor, fake: Tensor, labels: Tensor, form: LipReadingForm = "bounded"
) -> Tensor:
    """Loss of the lip reader D_l while G trains (Eq. 2), per clip with a label.

    Eq. 2 prints L_l = sum y log D_l(I) - sum y log D_l(I~) and says that minimising it makes D_l
    read reals rightly and fakes wrongly. The sign is a slip: minimising it lowers the true word's
    likelihood on reals and raises it on fakes, the reverse. Meant is what Eqs. 3-4 do, the
    discriminator goes up on L_l: it minimises -L_l = -log p(word | real) + log p(word | fake). (For
    G, which minimises Eq. 5, the printed sign is right: see `lip_reading_generator_loss`.)

    real, fake: logits (B, words) for real and for detached generated clips; labels: (B,) word
    index, -1 for a clip without a word, which does not count. form: "printed" is -L_l, which has no
    lower bound: the reader gains without end by giving the word of one fake a likelihood near 0.
    "bounded" keeps its direction, -log p(word | real) - log(1 - p(word | fake)) >= 0. "frozen": the
    reader, trained on real video before, does not learn here, and the loss is 0.
    """
    if form == "frozen":
        return (real[:, :0].sum() + fake[:, :0].sum()).float()
    read, labelled = _word_likelihood(real, labels)
    misread, _ = _word_likelihood(fake, labels)
    if form == "printed":
        return _mean(misread - read, labelled)
    others = torch.where(labelled[:, None], fake.float(), 0.0)
    hidden = F.one_hot(labels.clamp_min(0), fake.shape[1]).bool()
    wrong = others.masked_fill(hidden, -torch.inf).logsumexp(1) - others.logsumexp(1)
    return _mean(-read - wrong, labelled)


def lip_reading_generator_loss(fake: Tensor, labels: Tensor) -> Tensor:
    """Loss of G against D_l: its part of Eq. 2 as printed, -sum y log D_l(I~), per clip.

    The cross-entropy of the true word, the same under an adversarial and under a frozen reader.
    fake: logits (B, words) for generated clips; labels: (B,), -1 does not count.
    """
    read, labelled = _word_likelihood(fake, labels)
    return _mean(-read, labelled)


def _landmark_tracks(predicted: Tensor, target: Tensor) -> None:
    if predicted.shape != target.shape or predicted.ndim != 4:
        raise ValueError(
            "expected two landmark tracks (B, T, P, 2), "
            f"got {tuple(predicted.shape)} and {tuple(target.shape)}"
        )


def landmark_loss(
    predicted: Tensor, target: Tensor, valid: Tensor | None = None, velocity: float = 1.0
) -> Tensor:
    """Mean squared error of points plus `velocity` times that of their differences over time.

    predicted, target: (B, T, P, 2) displacements of the lip points, in any unit (interocular
    distances make faces alike); valid: (B, T); a difference counts where both its frames do. Of
    one frame there is no difference.
    """
    _landmark_tracks(predicted, target)
    error = predicted.float() - target.float()
    weight = None if valid is None else valid[:, :, None, None]
    loss = _mean(error.square(), weight)
    if predicted.shape[1] < 2:
        return loss
    both = None if weight is None else weight[:, 1:] & weight[:, :-1]
    return loss + velocity * _mean(error.diff(dim=1).square(), both)


def landmark_regression_loss(
    predicted: Tensor, target: Tensor, mouth: float = 10.0, valid: Tensor | None = None
) -> Tensor:
    """ATVGnet: mean squared error of 68 points, that of the lips' height times `mouth`.

    The discriminator minimises it on real frames, and on generated ones too, against the landmarks
    that they were made from; the generator minimises it: on this term they co-operate. predicted,
    target: (B, T, 68, 2) in [0, 1] of the crop. mouth: factor on the squared error of y of points
    48-67. The released code multiplies both values by 100 before squaring, mouth=1e4 here: those 20
    of 136 numbers are then 99.9 % of the loss, and jaw and lip corners are hardly regressed. With
    10 they are 63 %, were all errors alike. The factor is not divided out, as there.
    """
    _landmark_tracks(predicted, target)
    if predicted.shape[2:] != (LANDMARKS, 2):
        raise ValueError(f"expected {LANDMARKS} points, got {tuple(predicted.shape)}")
    factor = torch.ones(LANDMARKS, 2, device=predicted.device)
    factor[LIPS, 1] = mouth
    error = (predicted.float() - target.float()).square() * factor
    return _mean(error, None if valid is None else valid[:, :, None, None])


def info_nce(
    first: Tensor,
    second: Tensor,
    temperature: float | Tensor = 0.07,
    ignored: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE in a batch (van den Oord et al. 2018, Eq. 4; both ways as Radford et al.
    2021, Fig. 3): row i of one side has to find row i of the other among all rows.

    first, second: (N, D) embeddings, L2-normalised here, so that their products are cosines.
    temperature: what the cosines are divided by, a number or a learned positive scalar. ignored:
    (N, N) bool, true where row i of first and row j of second are no negatives (alike by chance, or
    too near in time); the pairs themselves, on the diagonal, always count. Raises ValueError for
    other shapes.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            "expected two sides of embeddings (N, D), "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    rows = len(first)
    if ignored is not None and ignored.shape != (rows, rows):
        raise ValueError(f"ignored is {tuple(ignored.shape)}, expected (N, N) = {(rows, rows)}")
    if rows == 0:
        return (first.sum() + second.sum()).float()
    cosines = F.normalize(first.float(), dim=1) @ F.normalize(second.float(), dim=1).T
    logits = cosines / temperature
    if ignored is not None:
        pairs = torch.eye(rows, dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(ignored & ~pairs, -torch.inf)
    own = torch.arange(rows, device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def total_loss(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Eq. 5, L = L_rec + lambda_I L_I + lambda_V L_V + lambda_l L_l: the two dicts' dot product.

    An ablation is a missing key, in both: terms and weights must name the same losses. The paper's
    weights: 1, 1e-3 (image), 1e-2 (video), 1e-3 (lips).
    """
    if set(terms) != set(weights) or not terms:
        raise ValueError(f"losses {sorted(terms)} and weights {sorted(weights)} do not match")
    return torch.stack([weights[name] * terms[name].float() for name in sorted(terms)]).sum()
