"""A network optimized for inference gives the numbers of the plain one."""

import copy
import functools
from itertools import pairwise

import pytest
import torch
from torch import nn

from deepforest_xr import models
from deepforest_xr.errors import BandMismatchError, ConfigError, ModelError
from deepforest_xr.models import fast, optimize_for_inference
from deepforest_xr.models.blocks import ConvLSTM, SameConv2d, SameConvTranspose2d, up

from .conftest import built, inputs


def worn(network, *, seed=3):
    """A copy whose BatchNorms and biases are as different from their start as training makes."""
    torch.manual_seed(seed)
    network = copy.deepcopy(network)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.2)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            nn.init.uniform_(part.weight, 0.5, 1.5)
        if isinstance(getattr(part, "bias", None), nn.Parameter):
            nn.init.normal_(part.bias, std=0.2)
    return network.eval()


@pytest.mark.parametrize(("rows", "cols", "n"), [(96, 128, 1), (32, 64, 2)])
def test_optimized_network_gives_the_plain_logits(case, rows, cols, n):
    network = worn(built(*case))
    pair = inputs(network, rows, cols, n=n)
    with torch.inference_mode():
        plain = network(*pair)
        quick = optimize_for_inference(network)(*pair)
    assert quick.shape == plain.shape
    assert quick.dtype == torch.float32
    assert (plain - quick).abs().max() <= 1e-4
    assert plain.std() > 0.05  # not a comparison of zeros


def test_optimized_network_differs_from_the_exact_result_by_rounding_alone():
    # With statistics settled on an image, BatchNorm divides by small deviations and brings
    # the rounding of float32 to light; whose is larger depends on the processor.
    network = copy.deepcopy(built("deepforest-1b"))
    pair = inputs(network, 64, 96, n=2, seed=5)
    network.train()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
    with torch.inference_mode():
        network(*pair)
        network.eval()
        exact = copy.deepcopy(network).double()(*(x.double() for x in pair))
        plain_error = (network(*pair) - exact).abs().max()
        assert (optimize_for_inference(network)(*pair) - exact).abs().max() <= 5 * plain_error
    assert plain_error < 0.01 * exact.std()


def test_the_network_itself_is_left_as_it_was():
    network = copy.deepcopy(built("deepforest-1b")).train()
    before = copy.deepcopy(network.state_dict())
    optimize_for_inference(network)
    assert network.training
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_optimizing_takes_out_what_it_promises(case):
    quick = optimize_for_inference(built(*case))
    kinds = {type(part) for part in quick.modules()}
    assert not kinds & {nn.BatchNorm2d, nn.ConvTranspose2d, SameConvTranspose2d, ConvLSTM}
    assert not any(p.requires_grad for p in quick.parameters())


def test_it_refuses_to_be_trained_saved_or_optimized_again():
    quick = optimize_for_inference(built("u-net"))
    with pytest.raises(ModelError, match="optimized already"):
        optimize_for_inference(quick)
    with pytest.raises(ModelError, match=r"not made by models\.build"):
        models.Checkpoint.from_module(quick, bands=["B02"], mean=[0], std=[1])
    quick.train()
    with pytest.raises(ModelError, match="train the one it was made of"):
        quick(torch.zeros(1, 3, 32, 64))


def test_it_refuses_what_is_no_network_of_this_library():
    with pytest.raises(ModelError, match=r"Conv2d was not made by models\.build"):
        optimize_for_inference(nn.Conv2d(3, 5, 1))


def test_refused_inputs_still_name_both_sides():
    quick = optimize_for_inference(built("deepforest-2a"))
    with pytest.raises(BandMismatchError, match="built for 3 bands, got 4"):
        quick(torch.zeros(1, 4, 32, 64), torch.zeros(1, 3, 2, 32, 64))
    with pytest.raises(ConfigError, match="multiples of 32 pixels, got 33 x 64"):
        quick(torch.zeros(1, 3, 33, 64), torch.zeros(1, 3, 2, 33, 64))


def with_bf16(monkeypatch, *, has):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has})


def test_bf16_only_where_the_hardware_has_it(monkeypatch):
    network = built("u-net")
    with_bf16(monkeypatch, has=False)
    with pytest.raises(ConfigError, match="cpu here has no bfloat16 arithmetic: use 'float32'"):
        optimize_for_inference(network, precision="bf16")
    auto = optimize_for_inference(network, precision="auto")
    assert {p.dtype for p in auto.parameters()} == {torch.float32}
    with pytest.raises(ConfigError, match="precision='half'; expected float32, bf16, auto"):
        optimize_for_inference(network, precision="half")


def test_bf16_keeps_two_digits(case, monkeypatch):
    # Any CPU computes bfloat16, if slowly: the numbers can be checked without the hardware.
    with_bf16(monkeypatch, has=True)
    network = worn(built(*case))
    pair = inputs(network, 32, 64)
    named = dict(zip(("s2", "s1") if len(pair) == 2 else ("x",), pair, strict=True))
    with torch.inference_mode():
        plain = network(*pair)
        quick = optimize_for_inference(network, precision="bf16")
        assert {p.dtype for p in quick.parameters()} == {torch.bfloat16}
        logits = quick(**named)
    assert logits.dtype == torch.float32
    assert (logits - plain).abs().mean() <= 0.05 * plain.std()


def test_nothing_new_is_made_elsewhere_or_drawn_at_random(case):
    # On the "meta" device in place of CUDA: what lands on another one would fail there.
    with torch.device("meta"):
        network = models.build(case[0], **built(*case).build_arguments)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    quick = optimize_for_inference(network)
    assert {tensor.device.type for tensor in quick.state_dict().values()} == {"meta"}
    assert torch.equal(torch.get_rng_state(), state)


def layers(*parts):
    torch.manual_seed(1)
    for part in parts:
        for name in ("weight", "bias"):
            nn.init.normal_(getattr(part, name), std=0.3)
        part.double()
    return parts


@pytest.mark.parametrize(
    "make",
    [
        lambda: up(3, 4),
        lambda: SameConvTranspose2d(3, 4, 6, stride=2),
        lambda: SameConvTranspose2d(3, 4, 6, stride=1),
    ],
)
def test_phases_and_a_shuffle_are_a_transposed_convolution(make):
    (layer,) = layers(make())
    x = torch.randn(2, 3, 5, 7, dtype=torch.double)
    quick = fast.PhaseUp(fast.Enlargement.of(layer))
    torch.testing.assert_close(quick(x), layer(x))


def test_a_composed_chain_is_the_chain_in_fewer_multiplications():
    chain = layers(up(3, 4), up(4, 4), nn.Conv2d(4, 2, 1))
    x = torch.randn(2, 3, 5, 7, dtype=torch.double)
    quick = fast.compose([fast.Enlargement.of(layer) for layer in chain])
    assert len(quick) == 1  # 3 x 2 x 16 multiplications a pixel, not 3 x 4 x 4 + ...
    torch.testing.assert_close(quick(x), nn.Sequential(*chain)(x))
    wide = layers(up(64, 4), up(4, 32))
    assert len(fast.compose([fast.Enlargement.of(layer) for layer in wide])) == 2


def test_two_overlapping_enlargements_agree_up_to_the_border():
    first, second = layers(
        SameConvTranspose2d(3, 4, 6, stride=2), SameConvTranspose2d(4, 2, 6, stride=1)
    )
    x = torch.randn(1, 3, 16, 20, dtype=torch.double)
    expected = second(first(x))
    with torch.no_grad():
        torch.testing.assert_close(fast.BorderedUp(first, second)(x), expected)
    # The border is what the class is for: without it the composition alone is wrong there.
    alone = fast.BorderedUp(first, second).joined(x)
    assert not torch.allclose(alone[..., 0, :], expected[..., 0, :])
    torch.testing.assert_close(alone[..., 6:-6, 6:-6], expected[..., 6:-6, 6:-6])


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_fast_conv_lstm_is_the_plain_one(steps, activation, go_backwards):
    torch.manual_seed(2)
    lstm = ConvLSTM(3, 4, activation=activation, go_backwards=go_backwards).double().eval()
    nn.init.normal_(lstm.bias)
    series = list(torch.randn(steps, 2, 3, 6, 10, dtype=torch.double))
    with torch.no_grad():
        torch.testing.assert_close(fast.FastConvLSTM(lstm)(series), lstm(series))


def test_the_first_step_takes_over_the_enlargement_before_it():
    torch.manual_seed(2)
    lstm = ConvLSTM(3, 4, go_backwards=True).double().eval()
    (enlarge,) = layers(up(5, 3))
    coarse = torch.randn(2, 5, 4, 6, dtype=torch.double)
    fine = torch.randn(2, 3, 8, 12, dtype=torch.double)
    quick = fast.FastConvLSTM(lstm, enlarge)
    # Up to the border: outside the image there are zeros, not the enlargement's bias.
    with torch.no_grad():
        torch.testing.assert_close(quick([fine, coarse]), lstm([fine, enlarge(coarse)]))


@pytest.mark.parametrize(("rows", "cols"), [(26, 26), (27, 53), (5, 100)])
@pytest.mark.parametrize("at_once", [1, 160])
def test_a_convolution_by_frequencies_is_the_convolution(rows, cols, at_once, monkeypatch):
    monkeypatch.setattr(fast, "TILES_AT_ONCE", at_once)
    (conv,) = layers(SameConv2d(3, 4, 7))
    x = torch.randn(2, 3, rows, cols, dtype=torch.double)
    torch.testing.assert_close(fast.FourierConv2d(conv)(x), conv(x))


def test_compiled_network_gives_the_plain_logits(monkeypatch):
    # What is compiled and called is checked; "eager" spares the minute of code generation.
    network = built("u-net")
    monkeypatch.setattr(
        nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="eager")
    )
    quick = optimize_for_inference(network, compile=True)
    assert quick._compiled_call_impl is not None
    pair = inputs(network, 32, 64)
    with torch.inference_mode():
        torch.testing.assert_close(quick(*pair), network(*pair), atol=1e-4, rtol=0)


def test_flops_fall():
    # The count of torch itself, which sees what is called and not what we believe.
    from torch.utils.flop_counter import FlopCounterMode

    network = built("deepforest-1b")
    counts = []
    for candidate in (network, optimize_for_inference(network)):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            candidate(*inputs(network, 64, 64))
        counts.append(counter.get_total_flops())
    assert all(after < 0.6 * before for before, after in pairwise(counts))
