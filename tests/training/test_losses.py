"""The paper's loss, against its formula written as a loop."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepforest_xr.models.network import Heads
from deepforest_xr.training.losses import class_weights, cross_entropy


def case(seed=0, classes=4, unlabelled=0.3):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 3, 5, generator=generator)
    target = torch.randint(0, classes, (2, 3, 5), generator=generator)
    target[torch.rand(target.shape, generator=generator) < unlabelled] = 255
    weights = 1 + 98 * torch.rand(classes, generator=generator)
    return logits, target, weights


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
    got = cross_entropy(logits, target, weights).item()
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
    loss = cross_entropy(logits, target, weights)
    other = logits + 50 * torch.randn(logits.shape) * (target == 255)[:, None]
    torch.testing.assert_close(cross_entropy(other, target, weights), loss)
    logits.requires_grad_()
    cross_entropy(logits, target, weights).backward()
    assert (logits.grad.movedim(1, -1)[target == 255] == 0).all()
    assert (logits.grad.movedim(1, -1)[target != 255] != 0).all()


def test_three_heads_count_three_seven_and_ten_tenths():
    (s1, target, weights), (s2, *_), (fused, *_) = case(1), case(2), case(3)
    expected = sum(
        share * slow(head, target, weights) for share, head in ((0.3, s1), (0.7, s2), (1.0, fused))
    )
    heads = Heads(s1=s1, s2=s2, fused=fused)
    assert cross_entropy(heads, target, weights).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("heads", [False, True])
def test_a_batch_without_a_label_costs_nothing_and_moves_nothing(heads):
    logits, target, weights = case()
    logits.requires_grad_()
    target[:] = 255
    output = Heads(logits, 2 * logits, 3 * logits) if heads else logits
    loss = cross_entropy(output, target, weights)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()
