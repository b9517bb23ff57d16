"""Fixtures every room's tests share: the real data beside the project, a small simulated scene."""

import dataclasses
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
import xarray as xr

from deepforest_xr.grid import Grid
from deepforest_xr.models import registry
from deepforest_xr.sentinel.s2 import BANDS
from deepforest_xr.testing import simulate_scene

# A busy machine is no failure: no example has a time limit.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data():
    """Real scenes, labels and recorded answers; they are not part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data is not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session", autouse=True)
def no_model_of_the_user(tmp_path_factory):
    """Tests see neither the model that the user installed nor the one the environment names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPFOREST_XR_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("DEEPFOREST_XR_MODEL", raising=False)
        yield


@pytest.fixture(scope="session")
def scene(tmp_path_factory):
    """Three months of a simulated scene, 96 x 128 pixels, two UTM zones."""
    return simulate_scene(
        tmp_path_factory.mktemp("scene"), shape=(96, 128), months=(6, 7, 8), missing_months=(7,)
    )


@pytest.fixture(scope="module")
def narrow():
    """The U-Net with few filters: the same steps, quicker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepforest_xr.models.unet.ENCODER_FILTERS", (4,) * 6)
        patch.setattr("deepforest_xr.models.unet.DECODER_FILTERS", (4,) * 5)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small_halo():
    """All networks with a halo of 32 pixels: less to compute around small maps."""
    entries = tuple(dataclasses.replace(e, halo=32) for e in registry._ENTRIES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepforest_xr.models.registry._ENTRIES", entries)
        yield


@pytest.fixture
def synthetic_cube():
    """A cube in memory whose values follow a formula; no two axes share a length."""

    def make(shape=(96, 160), *, months=(), bands=BANDS, seed=0):
        grid = Grid.from_bounds(
            (500_000, 9_000_000, 500_000 + 10 * shape[1], 9_000_000 + 10 * shape[0]), crs=32721
        )
        rng = np.random.default_rng(seed)
        smooth = np.cumsum(np.cumsum(rng.standard_normal(grid.shape), axis=0), axis=1)
        smooth = (smooth - smooth.mean()) / smooth.std()
        noise = rng.standard_normal((len(bands), *grid.shape))
        s2 = (0.2 + 0.05 * smooth + 0.02 * noise).astype("float32")
        data = {"s2": (("band", "y", "x"), s2)}
        coords = {"band": list(bands), **grid.coords()}
        if months:
            power = rng.standard_normal((len(months), 2, *grid.shape)) - 10 + 2 * smooth
            data["s1"] = (("month", "polarization", "y", "x"), power.astype("float32"))
            coords |= {"month": list(months), "polarization": ["vv", "vh"]}
        return xr.Dataset(data, coords=coords, attrs={"s2_period": "2018-06-01/2018-08-31"})

    return make
