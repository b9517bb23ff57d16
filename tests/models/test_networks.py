"""One tester that every registered network must pass."""

import pytest
import torch

from deepforest_xr import models
from deepforest_xr.errors import BandMismatchError, ConfigError
from deepforest_xr.models.blocks import ConvLSTM

from .conftest import CASES, MONTHS, built, inputs


def count(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def conv(size, inputs, outputs):
    return size * size * inputs * outputs + outputs


DEEPFOREST_1B = 31_059_922
# The two-branch model adds the Sentinel-1 ConvLSTM (recurrent kernels have no bias), its
# head, and the fusion of 128 + 64 channels; no number was published for it.
S1_LSTM = conv(3, 2, 4 * 64) + 9 * 64 * 4 * 64
DEEPFOREST_2B = DEEPFOREST_1B + S1_LSTM + conv(1, 64, 18) + conv(1, 128 + 64, 18)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("u-net", {}, 3_860_098),
        ("deeplab", {}, 54_467_752),
        ("deepforest-1a", {}, 30_584_146),
        ("deepforest-1b", {}, DEEPFOREST_1B),
        ("deepforest-1c", {}, 31_296_680),
        ("deepforest-2a", {"months": 7}, 4_015_424),
        ("deepforest-2b", {"months": 7}, DEEPFOREST_2B),
        ("deepforest-2b", {"months": 7, "s2_branch": "released"}, 28_215_606),
    ],
)
def test_trainable_parameters_are_those_of_the_published_summary(name, arguments, expected):
    with torch.device("meta"):
        assert count(models.build(name, bands=10, classes=18, **arguments)) == expected


@pytest.mark.parametrize(("bands", "rows", "cols"), [(10, 32, 64), (3, 64, 96)])
def test_logits_have_the_size_of_the_image(case, bands, rows, cols):
    network = built(*case, bands=bands)
    with torch.no_grad():
        logits = network(*inputs(network, rows, cols))
    assert logits.shape == (1, 5, rows, cols)
    assert logits.isfinite().all()
    assert logits.std() > 0


def test_every_parameter_has_a_finite_gradient(case):
    network = built(*case)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    network.train()
    torch.manual_seed(2)
    out = network(*inputs(network, 32, 64))
    logits = torch.cat(tuple(out)) if isinstance(out, tuple) else out
    # A weighted sum: a plain one would vanish where channels are interchangeable.
    (logits * torch.randn_like(logits)).sum().backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None]
    broken = [name for name, p in network.named_parameters() if not p.grad.isfinite().all()]
    network.zero_grad()
    network.eval().load_state_dict(state)
    assert (dead, broken) == ([], [])


def test_eval_is_deterministic_and_sees_each_image_alone(case):
    network = built(*case)
    pair = inputs(network, 32, 64, n=2)
    with torch.no_grad():
        first = network(*pair)
        assert torch.equal(first, network(*pair))
        alone = network(*(x[1:] for x in pair))
    torch.testing.assert_close(first[1:], alone, atol=1e-4, rtol=1e-4)


def still(network):
    """Set to training all but what draws at random or takes statistics: the rest must not care."""
    network.train()
    for part in network.modules():
        if isinstance(part, ConvLSTM | torch.nn.Dropout | torch.nn.BatchNorm2d):
            part.eval()
    return network


def test_training_differs_from_eval_by_dropout_and_batch_norm_alone(case):
    network = built(*case)
    pair = inputs(network, 32, 64)
    with torch.no_grad():
        logits = network(*pair)
        trained = still(network)(*pair)
        torch.manual_seed(1)
        network.train()
        for part in network.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.eval()
        dropped = network(*pair)
        network.eval()
    fused, drawn = (out.fused if isinstance(out, tuple) else out for out in (trained, dropped))
    torch.testing.assert_close(fused, logits)
    has_dropout = any(isinstance(part, torch.nn.Dropout | ConvLSTM) for part in network.modules())
    assert torch.equal(drawn, logits) != has_dropout


@pytest.mark.parametrize("case", [case for case in CASES if models.entry(case[0]).is_two_branch])
def test_two_branch_networks_have_three_heads_in_training(case):
    network = built(*case)
    with torch.no_grad():
        heads = still(network)(*inputs(network, 32, 64))
        network.eval()
    assert heads._fields == ("s1", "s2", "fused")
    assert {tuple(head.shape) for head in heads} == {(1, 5, 32, 64)}
    assert not torch.equal(heads.s1, heads.s2)


def test_state_goes_round(case, tmp_path):
    network = built(*case)
    torch.save(network.state_dict(), tmp_path / "state.pt")
    torch.manual_seed(99)
    other = models.build(case[0], **network.build_arguments).eval()
    pair = inputs(network, 32, 64)
    with torch.no_grad():
        assert not torch.equal(other(*pair), network(*pair))
        other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert torch.equal(other(*pair), network(*pair))


def test_order_of_months_matters():
    network = built("deepforest-2b")
    s2, s1 = inputs(network, 32, 64)
    with torch.no_grad():
        assert not torch.allclose(network(s2, s1), network(s2, s1.flip(1)))


def test_depth_is_seen_backwards_and_months_in_calendar_order():
    # That the pairs are [shallow, deep] is held by the comparison with Keras' graphs.
    deep = [built("deepforest-1a").lstm, built("deepforest-1c").lstm1, built("deepforest-1c").lstm2]
    assert {(lstm.go_backwards, lstm.activation) for lstm in deep} == {(True, "tanh")}
    months = built("deepforest-2a").s1_lstm
    assert (months.go_backwards, months.activation) == (False, "relu")
    assert (months.dropout, months.recurrent_dropout) == (0.2, 0.2)


def test_refused_inputs_name_both_sides(case):
    network = built(*case)
    two = models.entry(case[0]).is_two_branch
    s1 = (torch.zeros(1, MONTHS, 2, 32, 64),) if two else ()
    with pytest.raises(BandMismatchError, match="built for 3 bands, got 4"):
        network(torch.zeros(1, 4, 32, 64), *s1)
    with pytest.raises(ConfigError, match=r"multiples of 32 pixels, got 33 x 64: pad to 64 x 64"):
        network(torch.zeros(1, 3, 33, 64), *s1)
    with pytest.raises(ConfigError, match=r"got 0 x 64: pad to 32 x 64"):
        network(torch.zeros(1, 3, 0, 64), *s1)
    with pytest.raises(ConfigError, match=r"takes images \(n, 3, y, x\), got shape \(3, 32, 64\)"):
        network(torch.zeros(3, 32, 64), *s1)


def test_refused_series_name_both_sides():
    network = built("deepforest-2b")
    s2 = torch.zeros(1, 3, 32, 64)
    with pytest.raises(BandMismatchError, match=r"built for 3 Sentinel-1 months.*got 4 of 2"):
        network(s2, torch.zeros(1, 4, 2, 32, 64))
    with pytest.raises(ConfigError, match=r"\(1, 3, 2, 32, 64\).*got \(1, 3, 2, 64, 32\)"):
        network(s2, torch.zeros(1, 3, 2, 64, 32))
