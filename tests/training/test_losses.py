"""Losses against the formulas of their papers in float64, and what all of them share."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepforest_xr.errors import ConfigError
from deepforest_xr.models.network import Heads
from deepforest_xr.training.losses import (
    CLASS_WEIGHTS,
    LOSSES,
    CrossEntropy,
    Focal,
    GeneralisedCrossEntropy,
    HardBootstrapping,
    LabelSmoothing,
    SoftBootstrapping,
    SymmetricCrossEntropy,
    class_weights,
    effective_number_weights,
    inverse_frequency_weights,
    loss_of,
    square_root_weights,
    weights_of,
)


def case(seed=0, classes=4, unlabelled=0.3):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 3, 5, generator=generator)
    target = torch.randint(0, classes, (2, 3, 5), generator=generator)
    target[torch.rand(target.shape, generator=generator) < unlabelled] = 255
    weights = 1 + 98 * torch.rand(classes, generator=generator)
    return logits, target, weights


def torch_cross_entropy(logits, target, weights):
    return F.cross_entropy(logits, target, weight=weights, ignore_index=255)


def slow(logits, target, weights):
    """Weighted mean of -log softmax over the labelled pixels, by hand."""
    total = weight = 0.0
    for image, row, col in np.ndindex(tuple(target.shape)):
        true = int(target[image, row, col])
        if true == 255:
            continue
        scores = [math.exp(v) for v in logits[image, :, row, col].double().tolist()]
        w = float(weights[true])
        total -= w * math.log(scores[true] / sum(scores))
        weight += w
    return total / weight


@given(st.integers(0, 99), st.integers(2, 6))
def test_cross_entropy_is_the_formula(seed, classes):
    logits, target, weights = case(seed, classes)
    target[0, 0, 0] = 1
    got = CrossEntropy()(logits, target, weights).item()
    assert got == pytest.approx(slow(logits, target, weights), rel=1e-5)


def test_weights_are_100_minus_the_share_in_percent():
    weights = class_weights(np.array([164, 312, 524, 0]))
    torch.testing.assert_close(weights, torch.tensor([83.6, 68.8, 47.6, 100.0]))
    assert weights.dtype == torch.float32


def test_a_class_that_is_everything_still_counts():
    assert class_weights(np.array([7, 0])).tolist() == [1, 100]
    assert class_weights(np.array([0, 0])).tolist() == [100, 100]


def test_pixels_without_a_label_have_no_influence():
    logits, target, weights = case()
    loss = CrossEntropy()(logits, target, weights)
    other = logits + 50 * torch.randn(logits.shape) * (target == 255)[:, None]
    torch.testing.assert_close(CrossEntropy()(other, target, weights), loss)
    logits.requires_grad_()
    CrossEntropy()(logits, target, weights).backward()
    assert (logits.grad.movedim(1, -1)[target == 255] == 0).all()
    assert (logits.grad.movedim(1, -1)[target != 255] != 0).all()


def test_three_heads_count_three_seven_and_ten_tenths():
    (s1, target, weights), (s2, *_), (fused, *_) = case(1), case(2), case(3)
    expected = sum(
        share * slow(head, target, weights) for share, head in ((0.3, s1), (0.7, s2), (1.0, fused))
    )
    heads = Heads(s1=s1, s2=s2, fused=fused)
    assert CrossEntropy()(heads, target, weights).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("heads", [False, True])
def test_a_batch_without_a_label_costs_nothing_and_moves_nothing(heads):
    logits, target, weights = case()
    logits.requires_grad_()
    target[:] = 255
    output = Heads(logits, 2 * logits, 3 * logits) if heads else logits
    loss = CrossEntropy()(output, target, weights)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


# ---- class weights


COUNTS = arrays(np.int64, st.integers(2, 6), elements=st.integers(0, 10**9))


@given(COUNTS)
def test_inverse_frequency_lets_all_classes_that_occur_weigh_alike(counts):
    weights = inverse_frequency_weights(counts).double().numpy()
    assert (weights > 0).all()
    if not (counts > 0).any():
        assert (weights == 1).all()
        return
    together = (weights * counts)[counts > 0]
    np.testing.assert_allclose(together, together[0], rtol=1e-5)
    assert weights[counts > 0].mean() == pytest.approx(1, rel=1e-5)
    assert weights[counts == 0] == pytest.approx(weights[counts > 0].max(), rel=1e-5)


@given(
    arrays(np.int64, st.integers(2, 6), elements=st.integers(1, 10**6)),
    st.sampled_from([0.0, 0.9, 0.999, 0.9999, 0.999999]),
)
def test_effective_numbers_are_the_sum_of_a_geometric_series(counts, beta):
    # E_n = 1 + beta + ... + beta^(n - 1), summed here in closed form with Python's own power.
    effective = np.array([(1 - beta ** int(n)) / (1 - beta) for n in counts])
    expected = (1 / effective) / (1 / effective).mean()
    got = effective_number_weights(counts, beta=beta)
    np.testing.assert_allclose(got.double(), expected, rtol=1e-4)


def test_square_roots_are_half_way_between_all_alike_and_inverse_frequency():
    weights = square_root_weights(np.array([100, 0, 400, 10_000]))
    torch.testing.assert_close(weights / weights[3], torch.tensor([10.0, 10.0, 5.0, 1.0]))
    assert weights[[0, 2, 3]].mean().item() == pytest.approx(1)


def test_effective_numbers_lie_between_all_alike_and_inverse_frequency():
    counts = np.array([10, 1000, 0])
    assert effective_number_weights(counts, beta=0).tolist() == [1, 1, 1]
    near = effective_number_weights(counts, beta=1 - 1e-9)
    torch.testing.assert_close(near, inverse_frequency_weights(counts), rtol=1e-4, atol=0)
    with pytest.raises(ConfigError, match="beta=1"):
        effective_number_weights(counts, beta=1)


@pytest.mark.parametrize("name", CLASS_WEIGHTS)
def test_weights_have_a_name_and_are_finite_for_any_counts(name):
    for counts in ([0, 0, 0], [0, 7, 10**12], [1, 1, 1]):
        weights = weights_of(name, np.array(counts))
        assert weights.shape == (3,)
        assert weights.dtype == torch.float32
        assert torch.isfinite(weights).all()
        assert (weights > 0).all()


# ---- the formulas of the papers, a pixel at a time in float64


def own_focal(p, k, gamma):
    return -((1 - p[k]) ** gamma) * math.log(p[k])


def own_generalised(p, k, q):
    return (1 - p[k] ** q) / q


def own_symmetric(p, k, alpha, beta, log_zero):
    truth = np.eye(len(p))[k]
    log_truth = np.where(truth == 1, 0.0, log_zero)
    return -alpha * math.log(p[k]) - beta * float((p * log_truth).sum())


def own_smoothing(p, k, smoothing):
    truth = (1 - smoothing) * np.eye(len(p))[k] + smoothing / len(p)
    return -float((truth * np.log(p)).sum())


def own_soft(p, k, beta):
    truth = beta * np.eye(len(p))[k] + (1 - beta) * p
    return -float((truth * np.log(p)).sum())


def own_hard(p, k, beta):
    truth = beta * np.eye(len(p))[k] + (1 - beta) * np.eye(len(p))[p.argmax()]
    return -float((truth * np.log(p)).sum())


share = st.floats(0.01, 0.99)
CASES = {
    "cross-entropy": st.just((CrossEntropy(), lambda p, k: -math.log(p[k]))),
    "focal": st.floats(0, 5).map(lambda g: (Focal(gamma=g), lambda p, k: own_focal(p, k, g))),
    "generalised-cross-entropy": share.map(
        lambda q: (GeneralisedCrossEntropy(q=q), lambda p, k: own_generalised(p, k, q))
    ),
    "symmetric-cross-entropy": st.tuples(share, share, st.floats(-9, -1)).map(
        lambda s: (
            SymmetricCrossEntropy(alpha=s[0], beta=s[1], log_zero=s[2]),
            lambda p, k: own_symmetric(p, k, *s),
        )
    ),
    "label-smoothing": share.map(
        lambda e: (LabelSmoothing(smoothing=e), lambda p, k: own_smoothing(p, k, e))
    ),
    "bootstrapping-soft": share.map(
        lambda b: (SoftBootstrapping(beta=b), lambda p, k: own_soft(p, k, b))
    ),
    "bootstrapping-hard": share.map(
        lambda b: (HardBootstrapping(beta=b), lambda p, k: own_hard(p, k, b))
    ),
}


def slow_mean(logits, target, weights, confidence, formula):
    """Weighted mean of a formula of softmax and label over the labelled pixels, in float64."""
    total = weight = 0.0
    scores = logits.double().numpy()
    for image, row, col in np.ndindex(tuple(target.shape)):
        label = int(target[image, row, col])
        if label == 255:
            continue
        raised = np.exp(scores[image, :, row, col] - scores[image, :, row, col].max())
        w = float(weights[label]) * float(confidence[image, row, col])
        total += w * formula(raised / raised.sum(), label)
        weight += w
    return total / weight


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=25)
@given(data=st.data(), seed=st.integers(0, 99), classes=st.integers(2, 6))
def test_a_loss_is_the_formula_of_its_paper(name, data, seed, classes):
    loss, formula = data.draw(CASES[name])
    logits, target, weights = case(seed, classes)
    target[0, 0, 0] = 1
    confidence = 0.1 + torch.rand(target.shape, generator=torch.Generator().manual_seed(seed))
    expected = slow_mean(logits, target, weights, confidence, formula)
    got = loss(logits, target, weights, confidence)
    assert got.item() == pytest.approx(expected, rel=2e-4, abs=1e-6)
    double = loss(logits.double(), target, weights, confidence)
    assert double.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_every_loss_has_a_formula_here():
    assert list(CASES) == list(LOSSES)
    for name, loss in LOSSES.items():
        assert loss_of(name) is loss
        assert replace(loss) == loss
        assert hash(loss) == hash(replace(loss))  # frozen


# ---- limits


@pytest.mark.parametrize(
    ("loss", "tolerance"),
    [
        (CrossEntropy(), 1e-6),
        (Focal(gamma=0), 1e-6),
        (GeneralisedCrossEntropy(q=1e-4), 1e-3),
        (SymmetricCrossEntropy(alpha=1, beta=0), 1e-6),
        (LabelSmoothing(smoothing=0), 1e-6),
        (SoftBootstrapping(beta=1), 1e-6),
        (HardBootstrapping(beta=1), 1e-6),
    ],
)
@settings(max_examples=25)
@given(seed=st.integers(0, 99))
def test_the_limit_is_cross_entropy_and_so_is_its_gradient(loss, tolerance, seed):
    logits, target, weights = case(seed)
    target[0, 0, 0] = 0
    gradients = []
    for function in (torch_cross_entropy, loss):
        leaf = logits.clone().requires_grad_()
        value = function(leaf, target, weights)
        value.backward()
        gradients.append((value.detach(), leaf.grad))
    torch.testing.assert_close(gradients[1][0], gradients[0][0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradients[1][1], gradients[0][1], rtol=tolerance, atol=tolerance)


def test_generalised_cross_entropy_with_q_1_is_the_mean_absolute_error_halved():
    logits, target, _ = case(3, unlabelled=0)
    p = torch.softmax(logits, 1)
    error = (p - torch.nn.functional.one_hot(target, 4).movedim(-1, 1)).abs().sum(1) / 2
    torch.testing.assert_close(GeneralisedCrossEntropy(q=1)(logits, target), error.mean())


# ---- what all losses share


@pytest.mark.parametrize("name", LOSSES)
def test_pixels_without_a_label_are_left_out_of_every_loss(name):
    logits, target, weights = case()
    hidden = (target == 255)[:, None]
    other = torch.where(hidden, torch.tensor(float("nan")), logits).requires_grad_()
    loss = LOSSES[name](other, target, weights)
    torch.testing.assert_close(loss, LOSSES[name](logits, target, weights))
    loss.backward()
    gradient = other.grad.movedim(1, -1)
    assert (gradient[target == 255] == 0).all()
    assert (gradient[target != 255] != 0).any(dim=-1).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_pixel_of_no_confidence_is_one_without_a_label(name):
    logits, target, weights = case()
    confidence = torch.ones(target.shape)
    confidence[0] = 0
    hidden = target.clone()
    hidden[0] = 255
    logits.requires_grad_()
    loss = LOSSES[name](logits, target, weights, confidence)
    torch.testing.assert_close(loss, LOSSES[name](logits, hidden, weights))
    loss.backward()
    assert (logits.grad[0] == 0).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("nothing", ["label", "confidence"])
def test_where_nothing_weighs_a_loss_is_0_and_moves_nothing(name, heads, nothing):
    logits, target, weights = case()
    logits = (1e38 * logits).requires_grad_()  # some are infinite
    confidence = torch.ones(target.shape)
    if nothing == "label":
        target[:] = 255
    else:
        confidence[:] = 0
    output = Heads(logits, logits / 2, logits / 3) if heads else logits
    loss = LOSSES[name](output, target, weights, confidence)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_heads_of_every_loss_count_three_seven_and_ten_tenths(name):
    (s1, target, weights), (s2, *_), (fused, *_) = case(1), case(2), case(3)
    loss = LOSSES[name]
    expected = sum(
        part * loss(head, target, weights) for part, head in ((0.3, s1), (0.7, s2), (1.0, fused))
    )
    torch.testing.assert_close(loss(Heads(s1, s2, fused), target, weights), expected)


EXTREME = st.sampled_from([0.0, 1e-30, -1.0, 88.0, -104.0, 1e4, -1e4, 1e30, -1e30])


@pytest.mark.parametrize("loss", [*LOSSES.values(), Focal(gamma=0.5), Focal(gamma=1)])
@given(scores=arrays(np.float32, (2, 3, 1, 2), elements=EXTREME.map(np.float32)))
def test_extreme_logits_give_finite_losses_and_gradients(loss, scores):
    logits = torch.tensor(scores, requires_grad=True)
    target = torch.tensor([[[0, 1]], [[2, 255]]])
    value = loss(logits, target, torch.tensor([1.0, 99.0, 50.0]))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name):
    logits, target, weights = case(5)
    confidence = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)).double()
    leaf = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: LOSSES[name](x, target, weights.double(), confidence), leaf
    )


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_computed_in_single(name):
    logits, target, weights = case()
    loss = LOSSES[name](logits.bfloat16(), target, weights)
    assert loss.dtype == torch.float32
    expected = LOSSES[name](logits.bfloat16().float(), target, weights)
    torch.testing.assert_close(loss, expected)


def test_a_wrong_label_pulls_less_where_the_loss_is_bounded():
    # The network is sure of class 0, the label says 1.
    logits = torch.tensor([12.0, 0.0, 0.0]).view(1, 3, 1, 1)
    target = torch.ones((1, 1, 1), dtype=torch.int64)

    def pull(name):
        leaf = logits.clone().requires_grad_()
        LOSSES[name](leaf, target).backward()
        return float(leaf.grad.abs().max())

    assert pull("generalised-cross-entropy") < 0.01 < 0.9 < pull("cross-entropy")
    assert pull("symmetric-cross-entropy") == pytest.approx(0.1, rel=0.01)
    assert LOSSES["generalised-cross-entropy"](logits, target).item() < 1 / 0.7


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("focal", {"gamma": -1}),
        ("focal", {"gamma": math.nan}),
        ("generalised-cross-entropy", {"q": 0}),
        ("generalised-cross-entropy", {"q": 1.5}),
        ("symmetric-cross-entropy", {"alpha": -0.1}),
        ("symmetric-cross-entropy", {"beta": math.inf}),
        ("symmetric-cross-entropy", {"log_zero": 0}),
        ("label-smoothing", {"smoothing": 1}),
        ("bootstrapping-soft", {"beta": 0}),
        ("bootstrapping-hard", {"beta": 1.01}),
    ],
)
def test_settings_that_cannot_be_are_one_line(name, wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}=.*expected") as caught:
        replace(LOSSES[name], **wrong)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(ConfigError, match="'dice' is unknown; known: cross-entropy, focal"):
        loss_of("dice")
    with pytest.raises(ConfigError, match="'median' are unknown; known: share, inverse"):
        weights_of("median", np.array([1, 2]))
