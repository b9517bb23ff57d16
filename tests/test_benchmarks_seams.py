"""What the page about seams counts as a step, and as a goal that is met."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from benchmarks.seams import Map, Seam, step, verdict

ROWS, COLS = (2, 3), (4, 1, 2)


def tiled():
    return Map(np.zeros((5, 7), dtype="uint8"), np.zeros((2, 5, 7), dtype="float32"), ROWS, COLS)


@pytest.mark.parametrize("place", [(1, slice(2, None), slice(None)), (0, slice(None), slice(5, 7))])
def test_a_jump_at_a_border_is_a_step(place):
    difference = np.zeros((2, 5, 7), dtype="float32")
    difference[place] = 0.25
    assert step(difference, tiled()) == 0.25


def test_a_jump_within_a_block_is_none():
    difference = np.zeros((2, 5, 7), dtype="float32")
    difference[:, 3:, :] = 0.25  # borders are at row 2 and at columns 4 and 5
    difference[:, :, 6:] += 0.5
    assert step(difference, tiled()) == 0


def test_one_block_has_no_border():
    whole = Map(np.zeros((5, 7), dtype="uint8"), np.zeros((2, 5, 7), dtype="float32"), (5,), (7,))
    assert step(np.random.default_rng(0).random((2, 5, 7)), whole) == 0


@pytest.mark.parametrize(
    ("pixels", "probability", "said"), [(1e-4, 0.01, "yes"), (2e-4, 0.0, "no"), (0.0, 0.02, "no")]
)
def test_the_worst_blocks_at_the_default_halo_decide(pixels, probability, said):
    worst = Seam("u-net", 512, 544, 0, (544, 640), pixels, probability, 1, 0.0)
    mild = Seam("u-net", 800, 544, 0, (800, 832), 0.0, 0.0, 0, 0.0)
    whole = Seam("u-net", 1024, 544, 0, (), 0.0, 0.0, 0, 0.0)
    without = Seam("u-net", 512, 0, 0, (512, 96), 0.5, 1.0, 99, 0.9)
    assert verdict("u-net, random", [whole, mild, worst, without]).endswith(f"| {said} |")
