"""The losses against closed forms, naive loops and numerical gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from talkingface import losses

B, T, H, W = 3, 4, 5, 6
LENGTHS = (4, 2, 1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def valid() -> Tensor:
    return torch.arange(T)[None] < torch.tensor(LENGTHS)[:, None]


def test_reconstruction_is_the_mean_absolute_error() -> None:
    fake, real = noise(B, T, 3, H, W), noise(B, T, 3, H, W, seed=1)
    assert float(losses.reconstruction_loss(fake, real)) == pytest.approx(
        float((fake - real).abs().mean())
    )
    half = torch.full_like(real, 0.5)
    assert float(losses.reconstruction_loss(real + half, real)) == pytest.approx(0.5)


def test_reconstruction_weighs_and_masks_as_a_naive_loop(valid: Tensor) -> None:
    fake, real = noise(B, T, 3, H, W), noise(B, T, 3, H, W, seed=1)
    weight = noise(1, 1, 1, H, W, seed=2).abs()
    above = below = 0.0
    for b in range(B):
        for t in range(LENGTHS[b]):
            for y in range(H):
                for x in range(W):
                    w = float(weight[0, 0, 0, y, x])
                    above += w * float((fake - real)[b, t, :, y, x].abs().sum())
                    below += 3 * w
    out = losses.reconstruction_loss(fake, real, weight, valid)
    assert float(out) == pytest.approx(above / below, rel=1e-5)


def test_dynamic_pixels_weigh_and_mask_as_a_naive_loop(valid: Tensor) -> None:
    fake, real = noise(B, T, 3, H, W), noise(B, T, 3, H, W, seed=1)
    attention = noise(B, T, 1, H, W, seed=3).sigmoid()
    weight = noise(1, 1, 1, H, W, seed=2).abs()
    above = below = 0.0
    for b in range(B):
        for t in range(LENGTHS[b]):
            for y in range(H):
                for x in range(W):
                    w, alpha = float(weight[0, 0, 0, y, x]), float(attention[b, t, 0, y, x])
                    error = float((fake - real)[b, t, :, y, x].abs().sum())
                    above += w * (alpha + 0.3) * error
                    below += 3 * w
    out = losses.dynamic_pixel_loss(fake, real, attention, 0.3, weight, valid)
    assert float(out) == pytest.approx(above / below, rel=1e-5)


def test_dynamic_pixels_between_all_and_nothing() -> None:
    fake, real = noise(B, T, 3, H, W), noise(B, T, 3, H, W, seed=1)
    plain = float((fake - real).abs().mean())
    for alpha, factor in ((0.0, 0.5), (0.5, 1.0), (1.0, 1.5)):  # of beta = 0.5
        attention = torch.full((B, T, 1, H, W), alpha)
        out = losses.dynamic_pixel_loss(fake, real, attention)
        assert float(out) == pytest.approx(factor * plain, rel=1e-5)


def test_no_gradient_crosses_the_bar() -> None:
    real, colour, identity = (noise(B, T, 3, H, W, seed=s) for s in range(3))
    attention = noise(B, T, 1, H, W, seed=3).sigmoid().requires_grad_()
    fake = noise(B, T, 3, H, W, seed=4).requires_grad_()
    losses.dynamic_pixel_loss(fake, real, attention).backward()
    assert attention.grad is None
    # the printed formula without its bar would shrink attention everywhere
    ((fake - real) * (attention + 0.5)).abs().mean().backward()
    assert attention.grad is not None and (attention.grad > 0).all()
    # through the picture that it composes, attention still learns: as if the bar were a constant
    attention.grad = None
    made = attention * colour + (1 - attention) * identity
    losses.dynamic_pixel_loss(made, real, attention).backward()
    slope = (made - real).detach().sign() * (colour - identity) * (attention.detach() + 0.5)
    expected = slope.sum(2, keepdim=True) / real.numel()
    assert attention.grad is not None
    torch.testing.assert_close(attention.grad, expected)


def test_gradient_weighs_and_masks_as_a_naive_loop(valid: Tensor) -> None:
    fake, real = noise(B, T, 1, H, W), noise(B, T, 1, H, W, seed=1)
    weight = noise(B, T, 1, H, W, seed=2).abs()
    sums = {"x": [0.0, 0.0], "y": [0.0, 0.0]}
    for b in range(B):
        for t in range(LENGTHS[b]):
            f, r, w = (clip[b, t, 0] for clip in (fake, real, weight))
            for y in range(H):
                for x in range(W):
                    for name, (v, u) in {"x": (y, x + 1), "y": (y + 1, x)}.items():
                        if v < H and u < W:
                            share = float(w[y, x] + w[v, u]) / 2
                            change = (f[v, u] - f[y, x]) - (r[v, u] - r[y, x])
                            sums[name][0] += share * abs(float(change))
                            sums[name][1] += share
    expected = sum(above / below for above, below in sums.values()) / 2
    out = losses.gradient_loss(fake, real, weight, valid)
    assert float(out) == pytest.approx(expected, rel=1e-5)


def test_gradient_ignores_levels_and_sees_slopes() -> None:
    real = noise(1, 2, 3, H, W)
    assert float(losses.gradient_loss(real + 0.7, real)) == pytest.approx(0, abs=1e-6)
    ramp = torch.arange(W) * 0.25
    assert float(losses.gradient_loss(real + ramp, real)) == pytest.approx(0.125, rel=1e-5)
    # a weight of one row and many columns, and one frame, still broadcast
    wide = torch.ones(1, 1, 1, 1, W)
    assert float(losses.gradient_loss(real + ramp, real, wide)) == pytest.approx(0.125, rel=1e-5)


@pytest.mark.parametrize("name", ["reconstruction_loss", "gradient_loss"])
def test_padding_has_no_gradient(name: str, valid: Tensor) -> None:
    fake = noise(B, T, 3, H, W).requires_grad_()
    getattr(losses, name)(fake, noise(B, T, 3, H, W, seed=1), None, valid).backward()
    assert fake.grad is not None
    assert (fake.grad[~valid] == 0).all()
    assert (fake.grad[valid].abs().sum((1, 2, 3)) > 0).all()


def test_nothing_valid_is_zero_with_zero_gradient() -> None:
    fake = noise(B, T, 3, H, W).requires_grad_()
    none = torch.zeros(B, T, dtype=torch.bool)
    logits = noise(B, T, 2, 2).requires_grad_()
    total = (
        losses.reconstruction_loss(fake, fake.detach() + 1, None, none)
        + losses.gradient_loss(fake, fake.detach() * 2, None, none)
        + losses.dynamic_pixel_loss(fake, fake.detach() + 1, fake[:, :, :1] * 0, valid=none)
        + losses.generator_loss(logits, valid=none)
    )
    total.backward()
    assert float(total.detach()) == 0
    for values in (fake, logits):
        assert values.grad is not None and (values.grad == 0).all()


def test_discriminator_is_equation_3_negated(valid: Tensor) -> None:
    real, fake = noise(B, T, 2, 2), noise(B, T, 2, 2, seed=1)
    printed = real.sigmoid().log().mean() + (1 - fake.sigmoid()).log().mean()
    assert float(losses.discriminator_loss(real, fake)) == pytest.approx(-float(printed), rel=1e-5)
    assert float(losses.discriminator_loss(real * 0, fake * 0)) == pytest.approx(2 * math.log(2))
    hinge = (1 - real).clamp_min(0).mean() + (1 + fake).clamp_min(0).mean()
    assert float(losses.discriminator_loss(real, fake, "hinge")) == pytest.approx(
        float(hinge), rel=1e-5
    )
    naive = torch.stack([-(1 - fake[b, t].sigmoid()).log().mean() for b in range(B)
                         for t in range(LENGTHS[b])]).mean()  # fmt: skip
    masked = losses.discriminator_loss(real + 99, fake, fake_valid=valid)
    assert float(masked) == pytest.approx(float(naive), rel=1e-5)


def test_generator_forms() -> None:
    fake = noise(B, T, 2, 2)
    minimax = (1 - fake.sigmoid()).log().mean()  # its part of Eq. 3, as printed
    assert float(losses.generator_loss(fake, "minimax")) == pytest.approx(float(minimax), rel=1e-5)
    trains = -fake.sigmoid().log().mean()
    assert float(losses.generator_loss(fake)) == pytest.approx(float(trains), rel=1e-5)
    assert float(losses.generator_loss(fake, "hinge")) == pytest.approx(-float(fake.mean()))


@pytest.mark.parametrize("form", ["nonsaturating", "minimax", "hinge"])
def test_adversaries_pull_apart(form: losses.AdversarialForm) -> None:
    real, fake = (noise(B, T, 2, 2, seed=s).mul(0.1).requires_grad_() for s in (0, 1))
    losses.discriminator_loss(real, fake, form).backward()
    assert real.grad is not None and (real.grad < 0).all()  # a step raises logits of reals
    assert fake.grad is not None and (fake.grad > 0).all()
    again = fake.detach().requires_grad_()
    losses.generator_loss(again, form).backward()
    assert again.grad is not None and (again.grad < 0).all()


def test_only_the_equations_form_saturates() -> None:
    sure = torch.full((1, 1, 1, 1), -12.0)  # the discriminator is certain that this is a fake
    gradients = {}
    for form in ("nonsaturating", "minimax"):
        logit = sure.clone().requires_grad_()
        losses.generator_loss(logit, form).backward()
        assert logit.grad is not None
        gradients[form] = abs(float(logit.grad))
    assert gradients["nonsaturating"] > 0.99 and gradients["minimax"] < 1e-4


LABELS = torch.tensor([2, -1, 0, 4])


def words(seed: int) -> Tensor:
    return noise(4, 5, seed=seed).mul(2).requires_grad_()


def test_lip_reading_against_naive_likelihoods() -> None:
    real, fake = words(0), words(1)
    printed, bounded, generator = [], [], []
    for row, label in enumerate(LABELS.tolist()):
        if label >= 0:
            p = float(real.detach()[row].softmax(0)[label])
            q = float(fake.detach()[row].softmax(0)[label])
            printed.append(-(math.log(p) - math.log(q)))  # -L_l of Eq. 2
            bounded.append(-math.log(p) - math.log(1 - q))
            generator.append(-math.log(q))
    for form, values in {"printed": printed, "bounded": bounded}.items():
        out = losses.lip_reading_discriminator_loss(real, fake, LABELS, form)  # type: ignore[arg-type]
        assert float(out.detach()) == pytest.approx(sum(values) / 3, rel=1e-5)
    out = losses.lip_reading_generator_loss(fake, LABELS)
    assert float(out.detach()) == pytest.approx(sum(generator) / 3, rel=1e-5)


@pytest.mark.parametrize("form", ["printed", "bounded"])
def test_reader_learns_reals_and_unlearns_fakes(form: losses.LipReadingForm) -> None:
    real, fake = words(0), words(1)
    losses.lip_reading_discriminator_loss(real, fake, LABELS, form).backward()
    assert real.grad is not None and fake.grad is not None
    for row, label in enumerate(LABELS.tolist()):
        if label < 0:  # a clip without a word does not count at all
            assert (real.grad[row] == 0).all() and (fake.grad[row] == 0).all()
        else:  # a descent step raises the true word of the real and lowers that of the fake
            assert real.grad[row, label] < 0 < fake.grad[row, label]


def test_generator_wants_to_be_read_and_unlabelled_clips_are_silent() -> None:
    fake = words(1)
    losses.lip_reading_generator_loss(fake, LABELS).backward()
    assert fake.grad is not None and (fake.grad[1] == 0).all()
    assert all(fake.grad[row, label] < 0 for row, label in [(0, 2), (2, 0), (3, 4)])
    odd = torch.full((1, 5), float("inf"), requires_grad=True)  # even a wild logit stays out
    losses.lip_reading_generator_loss(odd, torch.tensor([-1])).backward()
    assert odd.grad is not None and (odd.grad == 0).all()


def test_bounded_form_stays_finite_where_the_fake_is_surely_read() -> None:
    fake = torch.tensor([[60.0, 0.0, 0.0]], requires_grad=True)
    loss = losses.lip_reading_discriminator_loss(fake.detach(), fake, torch.tensor([0]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(60 - math.log(2), rel=1e-5)
    assert fake.grad is not None and torch.isfinite(fake.grad).all()


def test_frozen_reader_does_not_learn() -> None:
    real, fake = words(0), words(1)
    loss = losses.lip_reading_discriminator_loss(real, fake, LABELS, "frozen")
    loss.backward()
    assert float(loss.detach()) == 0
    assert real.grad is not None and (real.grad == 0).all()


def test_landmarks_against_a_naive_loop(valid: Tensor) -> None:
    first, second = noise(B, T, 20, 2), noise(B, T, 20, 2, seed=1)
    error = first - second
    points = [float(error[b, t].square().mean()) for b in range(B) for t in range(LENGTHS[b])]
    steps = [
        float((error[b, t] - error[b, t - 1]).square().mean())
        for b in range(B)
        for t in range(1, LENGTHS[b])
    ]
    expected = sum(points) / len(points) + 0.5 * sum(steps) / len(steps)
    out = losses.landmark_loss(first, second, valid, velocity=0.5)
    assert float(out) == pytest.approx(expected, rel=1e-5)
    assert float(losses.landmark_loss(first + 0.3, first)) == pytest.approx(0.09, rel=1e-4)
    one = losses.landmark_loss(first[:, :1], second[:, :1])
    assert float(one) == pytest.approx(float(error[:, :1].square().mean()), rel=1e-5)


def test_landmark_regression_against_a_naive_loop(valid: Tensor) -> None:
    first, second = noise(B, T, 68, 2), noise(B, T, 68, 2, seed=1)
    for mouth in (1.0, 10.0, 1e4):
        frames = []
        for b in range(B):
            for t in range(LENGTHS[b]):
                total = 0.0
                for point in range(68):
                    x, y = ((first - second)[b, t, point] ** 2).tolist()
                    total += x + (mouth * y if point >= 48 else y)
                frames.append(total / 136)
        out = losses.landmark_regression_loss(first, second, mouth, valid)
        assert float(out) == pytest.approx(sum(frames) / len(frames), rel=1e-5)


def test_the_released_codes_mouth_is_ten_thousand() -> None:
    first, second = noise(B, T, 68, 2), noise(B, T, 68, 2, seed=1)
    before_squaring = torch.ones(68, 2)
    before_squaring[48:, 1] = 100
    released = torch.nn.functional.mse_loss(first * before_squaring, second * before_squaring)
    out = losses.landmark_regression_loss(first, second, mouth=1e4)
    assert float(out) == pytest.approx(float(released), rel=1e-5)
    for mouth, share in ((1e4, 0.999), (10.0, 0.63)):  # of the loss, as its docstring says
        even = losses.landmark_regression_loss(first, first + 1, mouth) * 136
        assert 20 * mouth / float(even) == pytest.approx(share, abs=5e-3)


def test_scores_of_whole_sequences_go_into_the_adversarial_pair() -> None:
    real, fake = noise(B), noise(B, seed=1)
    naive = [
        -math.log(torch.sigmoid(r)) - math.log(1 - torch.sigmoid(f))
        for r, f in zip(real, fake, strict=True)
    ]
    assert float(losses.discriminator_loss(real, fake)) == pytest.approx(sum(naive) / B, rel=1e-5)
    naive = [-math.log(torch.sigmoid(f)) for f in fake]
    assert float(losses.generator_loss(fake)) == pytest.approx(sum(naive) / B, rel=1e-5)


def test_total_is_equation_5() -> None:
    terms = {"reconstruction": torch.tensor(0.2), "image": torch.tensor(0.7)}
    total = losses.total_loss(terms, {"reconstruction": 1.0, "image": 1e-3})
    assert float(total) == pytest.approx(0.2007)
    with pytest.raises(ValueError, match="do not match"):
        losses.total_loss(terms, {"reconstruction": 1.0, "imgae": 1e-3})


def test_half_precision_is_summed_in_float32() -> None:
    fake, real = noise(2, 2, 3, 64, 64).bfloat16(), noise(2, 2, 3, 64, 64, seed=1).bfloat16()
    out = losses.reconstruction_loss(fake, real)
    assert out.dtype == torch.float32
    exact = (fake.double() - real.double()).abs().mean()
    assert float(out) == pytest.approx(float(exact), rel=1e-5)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="two clips"):
        losses.reconstruction_loss(noise(1, 2, 3, 4, 4), noise(1, 2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"expected \(B, T\)"):
        losses.gradient_loss(noise(1, 2, 3, 4, 4), noise(1, 2, 3, 4, 4), None, torch.ones(2, 1))
    with pytest.raises(ValueError, match="labels"):
        losses.lip_reading_generator_loss(noise(2, 5), torch.tensor([1]))
    with pytest.raises(ValueError, match="landmark tracks"):
        losses.landmark_loss(noise(1, 2, 40), noise(1, 2, 40))
    with pytest.raises(ValueError, match=r"attention is \(1, 2, 3, 4, 4\), expected"):
        three = noise(1, 2, 3, 4, 4)  # channels where one is expected
        losses.dynamic_pixel_loss(three, three, three)
    with pytest.raises(ValueError, match="expected 68 points"):
        losses.landmark_regression_loss(noise(1, 2, 20, 2), noise(1, 2, 20, 2))
