"""Blocks against direct computations written from Keras' formulas, not from our code."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deepforest_xr.models import blocks
from deepforest_xr.models.resnet import ConvBlock, Encoder


def array(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def conv_same(x, kernel, dilation=1):
    """Keras `same`, stride 1: x (in, rows, cols), kernel (out, in, k, k), tap by tap."""
    k = kernel.shape[-1]
    before = dilation * (k - 1) // 2
    _, rows, cols = x.shape
    out = np.zeros((kernel.shape[0], rows, cols))
    for r in range(rows):
        for c in range(cols):
            for i in range(k):
                for j in range(k):
                    y, z = r - before + i * dilation, c - before + j * dilation
                    if 0 <= y < rows and 0 <= z < cols:
                        out[:, r, c] += kernel[:, :, i, j] @ x[:, y, z]
    return out


def transposed_same(x, kernel, stride):
    """Scatter every pixel's stamp on the full canvas, then crop as Keras' `same` does."""
    k = kernel.shape[-1]
    _, rows, cols = x.shape
    full = np.zeros((kernel.shape[1], (rows - 1) * stride + k, (cols - 1) * stride + k))
    for r in range(rows):
        for c in range(cols):
            stamp = np.tensordot(x[:, r, c], kernel, axes=1)
            full[:, r * stride : r * stride + k, c * stride : c * stride + k] += stamp
    return full[:, 2 : 2 + rows * stride, 2 : 2 + cols * stride]


@pytest.mark.parametrize(("kernel", "dilation"), [(6, 1), (6, 2), (3, 1), (7, 1), (3, 6)])
def test_same_convolution_keeps_the_size_and_pads_the_end_more(kernel, dilation):
    layer = blocks.SameConv2d(2, 3, kernel, dilation=dilation).double()
    x = array(2, 7, 9)
    expected = conv_same(x, layer.weight.detach().numpy(), dilation)
    expected += layer.bias.detach().numpy()[:, None, None]
    with torch.no_grad():
        np.testing.assert_allclose(layer(torch.tensor(x)[None])[0], expected, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_transposed_same_convolution_multiplies_the_size_exactly(stride):
    layer = blocks.SameConvTranspose2d(2, 3, 6, stride=stride).double()
    x = array(2, 4, 5)
    expected = transposed_same(x, layer.weight.detach().numpy(), stride)
    expected += layer.bias.detach().numpy()[:, None, None]
    with torch.no_grad():
        np.testing.assert_allclose(layer(torch.tensor(x)[None])[0], expected, atol=1e-12)


def test_stem_pools_256_to_127_and_stage_2_brings_64():
    encoder = Encoder(2)
    pooled = F.max_pool2d(torch.zeros(1, 1, 256, 256), 3, 2)
    assert pooled.shape[-2:] == (127, 127)
    block = ConvBlock(1, (1, 1, 2), stride=2)
    with torch.no_grad():
        assert block.eval()(pooled).shape == (1, 2, 64, 64)
        sizes = []
        for stage in (encoder.stage2, encoder.stage3):
            stage.register_forward_hook(lambda m, i, o: sizes.append(tuple(o.shape[1:])))
        encoder.stage2.register_forward_pre_hook(lambda m, i: sizes.append(tuple(i[0].shape[1:])))
        encoder.eval()(torch.zeros(1, 2, 32, 64))
    assert sizes == [(64, 15, 31), (256, 8, 16), (512, 4, 8)]


def keras_conv_lstm(steps, layer, act, *, backwards):
    """One gate at a time; steps (t, in, rows, cols), gates stacked i, f, c, o."""
    w = np.split(layer.kernel.detach().numpy(), 4)
    u = np.split(layer.recurrent_kernel.detach().numpy(), 4)
    b = [part[:, None, None] for part in np.split(layer.bias.detach().numpy(), 4)]

    def gate(index, x, h):
        return conv_same(x, w[index]) + b[index] + conv_same(h, u[index])

    def sigma(z):
        return np.clip(0.2 * z + 0.5, 0, 1)

    h = c = np.zeros((w[0].shape[0], *steps.shape[2:]))
    for x in steps[::-1] if backwards else steps:
        new = sigma(gate(1, x, h)) * c + sigma(gate(0, x, h)) * act(gate(2, x, h))
        c, h = new, sigma(gate(3, x, h)) * act(new)
    return h


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", ["tanh", "relu"])
def test_conv_lstm_computes_keras_formula(name, backwards):
    layer = blocks.ConvLSTM(2, 3, activation=name, go_backwards=backwards).double()
    torch.manual_seed(1)
    with torch.no_grad():
        layer.bias.normal_()
    steps = array(4, 2, 5, 6)
    act = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0)}[name]
    with torch.no_grad():
        found = layer([torch.tensor(step)[None] for step in steps])[0]
    expected = keras_conv_lstm(steps, layer, act, backwards=backwards)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.ptp(expected) > 0.1  # the comparison is not of zeros


def test_conv_lstm_masks_are_one_a_gate_and_constant_over_time():
    # One input, kernel 1 x 1, constant in time: were a mask redrawn at each step, or shared
    # by the gates, the set of values that a pixel can take would differ.
    layer = blocks.ConvLSTM(1, 1, kernel=1, dropout=0.5).double()
    weights = np.array([0.3, 0.5, 0.7, 0.9])
    with torch.no_grad():
        layer.kernel.copy_(torch.tensor(weights).reshape(4, 1, 1, 1))
        layer.recurrent_kernel.zero_()
        layer.bias.zero_()
        torch.manual_seed(3)
        found = layer([torch.ones(1, 1, 64, 65).double()] * 3)

    def value(i, f, c, o):
        sigma = [np.clip(0.2 * z + 0.5, 0, 1) for z in (0.6 * i, 1.0 * f, 1.8 * o)]
        cell = 0.0
        for _ in range(3):
            cell = sigma[1] * cell + sigma[0] * np.tanh(1.4 * c)
        return sigma[2] * np.tanh(cell)

    possible = {round(value(*map(int, f"{bits:04b}")), 9) for bits in range(16)}
    assert {round(v, 9) for v in found.unique().tolist()} == possible


def test_conv_lstm_drops_hidden_states_in_training_only():
    layer = blocks.ConvLSTM(2, 3, recurrent_dropout=0.5)
    steps = list(torch.tensor(array(4, 1, 2, 5, 6), dtype=torch.float32))
    with torch.no_grad():
        assert not torch.equal(layer(steps), layer(steps))
        one_step = layer(steps[:1])
        layer.eval()
        assert torch.equal(layer(steps), layer(steps))
        assert torch.equal(layer(steps[:1]), one_step)  # there is no hidden state to drop yet


def test_forget_bias_is_one_and_recurrent_kernel_orthogonal():
    layer = blocks.ConvLSTM(2, 3)
    assert layer.bias.tolist() == [0] * 3 + [1] * 3 + [0] * 6
    flat = layer.recurrent_kernel.detach().reshape(12, -1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(12), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("scheme", "variance"),
    [
        ("glorot_uniform", 2 / (9 * 40 + 9 * 50)),
        ("glorot_normal", 2 / (9 * 40 + 9 * 50)),
        ("he_normal", 2 / (9 * 40)),
        ("lecun_normal", 1 / (9 * 40)),
    ],
)
def test_initialisers_have_keras_variance(scheme, variance):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(40, 50, 3)
    blocks.init_kernels(scheme, conv)
    assert conv.weight.var().item() == pytest.approx(variance, rel=0.03)
    assert not conv.bias.any()


def test_batch_norm_counts_as_keras_does():
    layer = blocks.batch_norm(1)
    layer(torch.full((2, 1, 3, 5), 100.0))
    assert layer.running_mean.item() == pytest.approx(1.0)  # 0.99 * 0 + 0.01 * 100
    assert layer.eps == 1e-3


@pytest.mark.parametrize("factor", [2, 8])
def test_enlarging_reads_where_tensorflow_1_reads(factor):
    # resize_bilinear, align_corners off: output i lies at i / factor, the last pixel repeats.
    x = array(2, 3, 5)
    expected = np.empty((2, 3 * factor, 5 * factor))
    for r in range(3 * factor):
        for c in range(5 * factor):
            (y, dy), (z, dz) = divmod(r / factor, 1), divmod(c / factor, 1)
            top, left = int(y), int(z)
            bottom, right = min(top + 1, 2), min(left + 1, 4)
            above = (1 - dz) * x[:, top, left] + dz * x[:, top, right]
            below = (1 - dz) * x[:, bottom, left] + dz * x[:, bottom, right]
            expected[:, r, c] = (1 - dy) * above + dy * below
    enlarged = blocks.enlarge(torch.tensor(x)[None], factor)[0]
    np.testing.assert_allclose(enlarged, expected, atol=1e-12)
