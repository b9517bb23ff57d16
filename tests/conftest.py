"""Fixtures every room's tests share: the real data beside the project, a small simulated scene."""

from pathlib import Path

import hypothesis
import numpy as np
import pytest
import xarray as xr

from deepforest_xr.grid import Grid
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
