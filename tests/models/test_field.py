"""The registry's margins are the networks' receptive fields, exact and effective."""

import copy
import functools

import numpy as np
import pytest
import torch

from deepforest_xr import models
from deepforest_xr.errors import ConfigError
from deepforest_xr.models.blocks import SameConv2d
from deepforest_xr.models.field import outside_share, reach, settle, textures
from deepforest_xr.models.network import Network

from .conftest import CASES, built

REACH_OF_A_BRANCH = {"released": 192}  # the entry's is that of the widest
# A narrow strip shows the U-Net next to nothing of what is far away.
WIDTHS = {"u-net": 512}


class OneKernel(Network):
    """A single convolution, whose field is known."""

    def __init__(self, kernel, dilation=1):
        super().__init__(bands=2, classes=3)
        self.conv = SameConv2d(2, 3, kernel, dilation=dilation)

    def forward(self, x):
        return self.conv(x)


@functools.cache
def settled(name, s2_branch):
    network = copy.deepcopy(built(name, s2_branch))
    return settle(network, *textures(network, 128, 160, n=2, seed=5))


@pytest.mark.parametrize(
    ("kernel", "dilation", "pixels"),
    [
        (1, 1, 0),
        (3, 1, 32),  # 1 pixel is a whole stride
        (3, 32, 32),
        (3, 33, 64),
        (6, 13, 64),  # 32 pixels before and 33 after: the longer side counts
    ],
)
def test_reach_of_one_kernel(kernel, dilation, pixels):
    assert reach(OneKernel(kernel, dilation).eval(), longest=128) == pixels


def test_reach_does_not_depend_on_weights():
    network = OneKernel(3, 33).eval()
    torch.nn.init.zeros_(network.conv.weight)
    assert reach(network, longest=128) == 64


@pytest.mark.parametrize(("name", "branch"), CASES)
def test_the_registered_reach_is_the_exact_field(name, branch):
    known = models.entry(name)
    expected = REACH_OF_A_BRANCH.get(branch, known.reach)
    assert reach(built(name, branch), longest=known.reach + known.stride) == expected
    assert expected <= known.reach


@pytest.mark.parametrize(("name", "branch"), CASES)
def test_less_than_a_hundredth_comes_from_beyond_the_halo(name, branch):
    network, known = settled(name, branch), models.entry(name)
    size = (WIDTHS.get(name, 64), 2 * (known.reach + known.stride))
    images = textures(network, *size, seed=7)
    halo, nothing = outside_share(
        network, *images, margins=(known.halo, known.reach + known.stride), draws=2
    )
    # A strip sees two of the four sides; the kernels are square.
    assert 1 - (1 - halo) ** 2 < 0.01
    assert nothing == 0


def test_share_of_a_kernel_whose_weights_are_known():
    network = OneKernel(3, 20).eval()
    with torch.no_grad():
        network.conv.weight.fill_(0.0)
        network.conv.weight[0, :, 1, 1] = 6.0  # only one class: signs cannot cancel
        network.conv.weight[0, 0, 1, 2] = -3.0  # 20 pixels to the right
        network.conv.weight[0, 1, 0, 0] = 1.0  # 20 pixels up and left
    images = textures(network, 96, 160, n=2)
    share = outside_share(network, *images, margins=(0, 19, 20, 1000), draws=3)
    np.testing.assert_allclose(share, [0.25, 0.25, 0, 0], atol=1e-12)


def test_share_falls_with_the_margin():
    network = settled("u-net", None)
    share = outside_share(network, *textures(network, 64, 256), margins=range(0, 128, 8), draws=1)
    assert (np.diff(share) <= 0).all()
    assert 0.5 < share[0] < 1


def test_settled_statistics_are_those_of_the_images():
    network = built("u-net")
    network = settle(copy.deepcopy(network), *textures(network, 64, 96, n=2))
    assert not network.training
    norm = network.encoder[0].bn1
    x = network.encoder[0].conv1(*textures(network, 64, 96, n=2))
    torch.testing.assert_close(norm.running_mean, x.mean(dim=(0, 2, 3)), atol=1e-5, rtol=1e-4)
    assert norm.momentum == 0.1


def test_training_mode_is_refused():
    network = OneKernel(3).train()
    with pytest.raises(ConfigError, match=r"training mode.*eval\(\)"):
        reach(network)
    with pytest.raises(ConfigError, match=r"training mode.*eval\(\)"):
        outside_share(network, *textures(network, 32, 64), margins=(32,))


def test_a_search_that_ends_too_early_says_so():
    with pytest.raises(ConfigError, match=r"looks 64 pixels far or farther.*raise longest"):
        reach(OneKernel(3, 64).eval(), longest=64)
