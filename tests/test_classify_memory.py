"""A window that does not fit into memory is computed in halves, and the map is the same."""

import numpy as np
import pytest
import torch

import deepforest_xr as dfx
from deepforest_xr.classify import predict
from deepforest_xr.classify.predict import Predictor, Tile
from deepforest_xr.errors import ModelError

from .test_classify import BANDS, checkpoint_of, differing

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture
def memory(monkeypatch):
    """Let a forward of more pixels than a limit fail as allocators do; gives what was tried."""

    def limit(pixels, error):
        tried = []
        forward = Predictor._forward

        def guarded(self, arrays, device, **options):
            tried.append(arrays[0].shape[-2:])
            if np.prod(tried[-1]) > pixels:
                raise error
            return forward(self, arrays, device, **options)

        monkeypatch.setattr(Predictor, "_forward", guarded)
        monkeypatch.setattr(predict, "_PREDICTORS", {})  # no test has told its limit
        return tried

    return limit


OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "cpu"])
@pytest.mark.parametrize(
    ("shape", "block", "pixels"),
    [((33, 1700), 1728, 64 * 1640), ((1670, 40), 832, 1590 * 64), ((33, 2500), 2528, 64 * 1700)],
)
def test_what_does_not_fit_into_memory_is_computed_in_halves(
    synthetic_cube, memory, caplog, shape, block, pixels, error
):
    """With the halo as wide as the network sees, the map is the same."""
    model = checkpoint_of()
    cube = synthetic_cube(shape, bands=BANDS)
    options = {"block": block, "halo": 768, "uncertainty": True}
    whole = dfx.classify(cube, model, **options).compute(scheduler="synchronous")
    tried = memory(pixels, error)
    parts = dfx.classify(cube, model, **options).compute(scheduler="synchronous")
    assert max(map(np.prod, tried)) > pixels
    assert sum(np.prod(window) <= pixels for window in tried) > 1
    assert all(rows % 32 == cols % 32 == 0 for rows, cols in tried)
    assert differing(parts, whole) <= 1e-3
    for name in ("confidence", "entropy", "margin"):
        assert abs(parts[name].astype(int) - whole[name]).max() <= 1
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(said) == 1
    assert "computed in halves" in said[0]
    assert "block=" in said[0]
    # What is known not to fit is not tried again.
    again = len(tried)
    dfx.classify(cube, model, **options).compute(scheduler="synchronous")
    assert all(np.prod(window) <= pixels for window in tried[again:])


def test_a_tile_of_the_smallest_size_that_does_not_fit_is_one_line(synthetic_cube, memory):
    cube = synthetic_cube((70, 101), bands=BANDS)
    tried = memory(0, OUT_OF_MEMORY[0])
    with pytest.raises(ModelError, match=r"too little memory.*64 x 64 pixels.*halo=") as caught:
        dfx.classify(cube, checkpoint_of(seed=5), block=96, halo=32).compute()
    assert "\n" not in str(caught.value)
    assert len(tried) < 12


def test_another_error_of_the_network_is_not_a_lack_of_memory(synthetic_cube, memory):
    cube = synthetic_cube((70, 101), bands=BANDS)
    tried = memory(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        dfx.classify(cube, checkpoint_of(seed=6), halo=32).compute()
    assert len(tried) == 1


@pytest.mark.parametrize("shape", [(32, 96), (1, 33), (95, 64), (200, 10)])
def test_halves_cover_a_tile_once_and_begin_on_the_convolution_grid(shape):
    seen = np.zeros(shape, int)
    waiting = [Tile((0, shape[0]), (0, shape[1]))]
    while waiting:
        tile = waiting.pop()
        halves = tile.halves()
        if halves is None:
            assert max(tile.shape) <= 32
            assert tile.rows[0] % 32 == tile.cols[0] % 32 == 0
            tile.of(seen)[:] += 1
        else:
            waiting += halves
    assert (seen == 1).all()
