"""A map made of tiles is the map made whole, if each tile carries the network's margin.

Images are strips, long in one direction: only there a tile is cut shorter than the whole,
and the networks stay affordable on a CPU.
"""

import copy
import functools

import pytest
import torch

from deepforest_xr import models
from deepforest_xr.models.field import settle

from .conftest import CASES, built, inputs

CORE = 64  # length of the part compared


@functools.cache
def settled(name, s2_branch):
    """A random network whose BatchNorm statistics fit its inputs, as after training."""
    network = copy.deepcopy(built(name, s2_branch))
    return settle(network, *inputs(network, 128, 160, n=2, seed=5))


def cut(pair, margin, axis):
    """The middle `CORE` pixels of each input with `margin` on both sides."""
    length = pair[0].shape[axis]
    start = (length - CORE) // 2 - margin
    return tuple(x.narrow(axis, start, CORE + 2 * margin) for x in pair)


def core(network, pair, axis):
    """Logits of the middle `CORE` pixels."""
    with torch.no_grad():
        return cut((network(*pair),), 0, axis)[0]


# What the U-Net sees far away is scattered to all sides: in a narrow strip it sees next to
# nothing of it, and any halo would do. Networks that share their layers share the directions.
@pytest.mark.parametrize(
    ("name", "branch", "axis", "width"),
    [
        ("u-net", None, -1, 256),
        ("u-net", None, -2, 256),
        ("deeplab", None, -1, 32),
        ("deeplab", None, -2, 32),
        ("deepforest-1a", None, -1, 32),
        ("deepforest-1b", None, -1, 32),
        ("deepforest-1b", None, -2, 32),
        ("deepforest-1c", None, -2, 64),
        ("deepforest-2a", None, -1, 64),
        ("deepforest-2b", None, -1, 32),
        ("deepforest-2b", "released", -2, 32),
    ],
)
def test_a_tile_agrees_with_the_whole(name, branch, axis, width):
    network, known = settled(name, branch), models.entry(name)
    size = [width, width]
    size[axis] = CORE + 2 * (known.reach + known.stride)  # more than any tile below
    strip = inputs(network, *size, seed=7)
    whole = core(network, strip, axis)
    assert len(whole.argmax(1).unique()) > 1  # a map of one class would agree with anything

    exact = core(network, cut(strip, known.reach, axis), axis)
    # Processors add up in orders of their own: 2e-4 of the deviation was seen.
    torch.testing.assert_close(exact, whole, atol=1e-3 * whole.std().item(), rtol=1e-3)

    tile = core(network, cut(strip, known.halo, axis), axis)
    same = (tile.argmax(1) == whole.argmax(1)).double().mean().item()
    assert same >= 0.999


@pytest.mark.parametrize(
    ("name", "within"), [("deepforest-2a", "u-net"), ("deepforest-2b", "deepforest-1b")]
)
def test_two_branches_need_the_margin_of_the_sentinel_2_branch(name, within):
    # Random weights listen to Sentinel-1 more than trained ones need to, and it looks a few
    # pixels far: what comes out would do with less.
    both, one = models.entry(name), models.entry(within)
    assert (both.halo, both.reach) == (one.halo, one.reach)


def test_every_network_is_held_to_its_margin():
    marks = test_a_tile_agrees_with_the_whole.pytestmark[0].args[1]
    assert {tuple(mark[:2]) for mark in marks} == set(CASES)


def test_without_a_margin_a_tile_does_not_agree():
    # What the margin is for: the test above must be able to fail.
    network = settled("u-net", None)
    strip = inputs(network, 64, CORE + 512, seed=7)
    whole, tile = core(network, strip, -1), core(network, cut(strip, 0, -1), -1)
    assert (tile.argmax(1) == whole.argmax(1)).double().mean() < 0.95
