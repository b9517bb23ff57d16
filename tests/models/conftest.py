"""Seeded inputs and networks for the tests of models."""

import functools

import pytest
import torch
from torch.nn import functional as F

from deepforest_xr import models

MONTHS = 3
# Every registered network, and the variants that a build argument makes.
CASES = [(name, None) for name in models.names()] + [
    (name, branch) for name in models.names() for branch in models.entry(name).s2_branches
]


@functools.cache
def built(name, s2_branch=None, *, bands=3, classes=5):
    """A seeded network; tests leave its mode and weights as they found them."""
    torch.manual_seed(20)
    months = MONTHS if models.entry(name).is_two_branch else None
    network = models.build(name, bands=bands, classes=classes, months=months, s2_branch=s2_branch)
    return network.eval()


def smooth(channels, rows, cols, *, n=1, seed=0):
    """Images with texture at every scale, as land has: (n, channels, rows, cols), variance 1."""
    generator = torch.Generator().manual_seed(seed)
    image = 0.3 * torch.randn(n, channels, rows, cols, generator=generator)
    for scale in (4, 16, 64):
        coarse = (n, channels, rows // scale + 2, cols // scale + 2)
        noise = torch.randn(*coarse, generator=generator)
        image += F.interpolate(noise, scale_factor=scale, mode="bilinear")[..., :rows, :cols]
    return image / image.std()


def inputs(network, rows, cols, *, n=1, seed=0):
    """Positional arguments of a network's call."""
    s2 = smooth(network.bands, rows, cols, n=n, seed=seed)
    if not models.entry(network.model_name).is_two_branch:
        return (s2,)
    s1 = smooth(2 * network.months, rows, cols, n=n, seed=seed + 1)
    return s2, s1.reshape(n, network.months, 2, rows, cols)


@pytest.fixture(params=CASES, ids=[f"{name}-{branch or 'default'}" for name, branch in CASES])
def case(request):
    return request.param
