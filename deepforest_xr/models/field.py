"""How far a network looks: its exact receptive field and its effective one.

Two numbers of the registry come from here. `reach` is the margin around a tile beyond which
nothing has any influence: it follows from kernels, strides and dilations, whatever the
weights. `outside_share` says how much of the influence on a pixel comes from beyond a
distance: less than 1 % of it from beyond the `halo`.

Memory grows with the area of the image, and a square around one pixel has sides of twice the
field, up to 1600 pixels. Kernels are square, so that a strip may stand for the square: long
in the direction that is measured, narrow in the other. It misses what passes beyond its long
sides; how narrow it may be depends on the network (see `outside_share`).

Nothing here is needed to classify.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepforest_xr.errors import ConfigError
from deepforest_xr.models.network import STRIDE, Network, TwoBranchNetwork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def reach(network: Network, *, longest: int = 1024) -> int:
    """Return the margin beyond which nothing influences a tile: the exact receptive field.

    NaN goes wherever a pixel has an influence, even through a weight of zero. A strip whose
    first pixels are NaN therefore comes out as NaN as far as they are seen; the same from its
    end and in the other direction. Tiles begin and end at multiples of the stride, as
    `classify` cuts them; the pixels inside a cell of 32 see up to 31 pixels farther on one side.

    Parameters
    ----------
    network : Network
        In eval mode; its weights do not matter.
    longest : int
        Pixels beyond the NaN, a multiple of 32: where the search ends.

    Returns
    -------
    int
        Pixels, rounded up to a multiple of 32.

    Raises
    ------
    ConfigError
        If the network is in training mode or looks `longest` pixels far.
    """
    _require_eval(network)
    farthest = max(_spread(network, longest, axis, end) for axis in (-2, -1) for end in (0, 1))
    if farthest == longest:
        raise ConfigError(
            f"{network.model_name} looks {longest} pixels far or farther, which is where the "
            "search ends: raise longest."
        )
    return -(-farthest // STRIDE) * STRIDE


def _spread(network: Network, longest: int, axis: int, end: int) -> int:
    """Pixels that NaN at one end of a strip travels along it."""
    # Two rows at 1/32: a dilated kernel of even side misses its own row.
    size = [2 * STRIDE, 2 * STRIDE]
    size[axis] = STRIDE + longest
    images = textures(network, *size)
    for image in images:
        image.narrow(axis, end * longest, STRIDE).fill_(torch.nan)
    with torch.no_grad():
        touched = network(*images).isnan().any(dim=1)[0].any(dim=-3 - axis)
    if end:
        touched = touched.flip(0)
    return int(touched.nonzero().max()) + 1 - STRIDE


def outside_share(
    network: Network,
    *images: Tensor,
    margins: Sequence[int],
    draws: int = 4,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return the share of the influence on a pixel that comes from beyond each margin.

    Influence is the gradient of a pixel's logits by the inputs: absolute values, summed over
    the channels of all inputs. The logits enter as their sum with random signs, so that every
    class counts. Each draw takes new signs and another pixel of the 32 x 32 in the image's
    middle, which do not all see equally far.

    With strips, take one along y and one along x: ``1 - (1 - along_y) * (1 - along_x)`` is the
    share outside a square. For the ResNets a width of 128 pixels gives what a square image gives
    (DeepForest-1b, beyond 128 pixels: 10.3 %, a square 10.6 %). Most of what the U-Net sees far
    away is scattered to all sides: beyond 512 pixels a square gives 1.1 %, strips of 512 pixels
    0.9 %, strips of 64 pixels 0.02 %.

    Parameters
    ----------
    network : Network
        In eval mode, with BatchNorm statistics that fit the images (`settle`).
    images : Tensor
        Positional arguments of the network's call, n images. Influence from beyond their edge
        is not seen: the sides measured are twice the `reach` and 64 pixels more.
    margins : sequence of int
        Distances in pixels: outside is what is farther from the pixel, in y or in x.
    draws : int
        Pixels per image.
    seed : int
        Of pixels and signs.

    Returns
    -------
    ndarray[float64], one per margin
        Between 0 and 1: the mean over images and draws.

    Raises
    ------
    ConfigError
        If the network is in training mode.
    """
    _require_eval(network)
    generator = torch.Generator().manual_seed(seed)
    shares = []
    for i in range(len(images[0])):
        leaves = tuple(image[i : i + 1].clone().requires_grad_() for image in images)
        logits = network(*leaves)[0]  # (classes, y, x)
        middle = [side // 2 // STRIDE * STRIDE for side in logits.shape[1:]]
        for draw in range(draws):
            y, x = (int(torch.randint(m, m + STRIDE, (), generator=generator)) for m in middle)
            signs = 2.0 * torch.randint(2, logits.shape[:1], generator=generator) - 1.0
            score = (signs.to(logits) * logits[:, y, x]).sum()
            gradients = torch.autograd.grad(score, leaves, retain_graph=draw < draws - 1)
            shares.append(_beyond(gradients, (y, x), margins))
    mean: NDArray[np.float64] = np.mean(shares, axis=0)
    return mean


def _beyond(
    gradients: Sequence[Tensor], pixel: tuple[int, int], margins: Sequence[int]
) -> NDArray[np.float64]:
    """Share of absolute gradients, each (1, ..., y, x), farther from a pixel than each margin."""
    planes = [g.abs().double().flatten(0, -3).sum(dim=0).cpu().numpy() for g in gradients]
    influence = np.sum(planes, axis=0)  # (y, x)
    rows, cols = (abs(np.arange(n) - at) for n, at in zip(influence.shape, pixel, strict=True))
    distance = np.maximum(rows[:, None], cols)
    at_distance = np.bincount(distance.ravel(), influence.ravel())
    # From afar inwards: the small numbers are summed before the large ones.
    beyond = np.append(at_distance[::-1].cumsum()[::-1], 0.0)  # beyond[d]: at d or farther
    nearest = np.minimum(np.asarray(margins) + 1, beyond.size - 1)
    share: NDArray[np.float64] = beyond[nearest] / beyond[0]
    return share


def settle(network: Network, *images: Tensor) -> Network:
    """Fit a random network's BatchNorm statistics to images, as training would.

    Parameters
    ----------
    network : Network
        Changed in place: its running statistics, and to eval mode.
    images : Tensor
        Positional arguments of the network's call.

    Returns
    -------
    Network
        The same one.
    """
    network.eval()  # no dropout, one head
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average, here of one batch
        norm.train()
    with torch.no_grad():
        network(*images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
    return network


def textures(
    network: Network, rows: int, cols: int, *, n: int = 1, seed: int = 0
) -> tuple[Tensor, ...]:
    """Draw images with texture at 1, 4, 16 and 64 pixels, for networks that have no data.

    Parameters
    ----------
    network : Network
        Whose bands and months are drawn.
    rows, cols : int
        Sides in pixels.
    n : int
        Number of images.
    seed : int
        Of the noise.

    Returns
    -------
    tuple of Tensor[float32]
        Positional arguments of the network's call, variance 1.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(channels: int) -> Tensor:
        image = 0.3 * torch.randn(n, channels, rows, cols, generator=generator)
        for scale in (4, 16, 64):
            coarse = (n, channels, rows // scale + 2, cols // scale + 2)
            noise = torch.randn(*coarse, generator=generator)
            image += F.interpolate(noise, scale_factor=scale, mode="bilinear")[..., :rows, :cols]
        return image / image.std()

    s2 = draw(network.bands)
    if not isinstance(network, TwoBranchNetwork):
        return (s2,)
    return s2, draw(2 * network.months).reshape(n, network.months, 2, rows, cols)


def _require_eval(network: Network) -> None:
    if network.training:
        raise ConfigError(
            f"{network.model_name} is in training mode, where BatchNorm lets every pixel see the "
            "whole batch: call its eval() first."
        )
