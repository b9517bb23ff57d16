"""Physics of the simulated signal."""

import numpy as np
import pytest

from deepforest_xr.testing.landscape import CROP, FOREST, PASTURE, WATER, build
from deepforest_xr.testing.noise import smooth, stream
from deepforest_xr.testing.signatures import BANDS, Signal, cloud_field, speckle


@pytest.fixture(scope="module")
def land():
    return build((96, 128), seed=2)


@pytest.fixture(scope="module")
def signal(land):
    return Signal(land, seed=2)


@pytest.mark.parametrize("looks", [1.0, 4.4])
def test_speckle_keeps_the_mean_and_has_the_stated_looks(looks):
    power = speckle(np.full((700, 800), 0.07, "float32"), looks=looks, rng=stream(0, "test"))
    assert power.dtype == np.float32
    assert power.mean(dtype="float64") == pytest.approx(0.07, rel=0.005)
    assert power.var(dtype="float64") == pytest.approx(0.07**2 / looks, rel=0.02)


def test_speckle_of_neighbours_is_independent():
    grain = speckle(np.ones((500, 600), "float32"), looks=4.4, rng=stream(1, "test"))
    assert abs(np.corrcoef(grain[:, 1:].ravel(), grain[:, :-1].ravel())[0, 1]) < 0.01


def ndvi(signal, month):
    dry = signal.dryness(month)
    red, nir = (signal.reflectance(b, dry, day=1) for b in ("B04", "B08"))
    return (nir - red) / (nir + red)


def test_forest_stays_green_and_pasture_dries_from_february_to_august(land, signal):
    loss = ndvi(signal, 2.5) - ndvi(signal, 8.5)
    assert abs(loss[land.codes == FOREST].mean()) < 0.05
    assert loss[land.codes == PASTURE].mean() > 0.2


def test_crops_are_green_twice_a_year(land, signal):
    crops = land.codes == CROP
    january, february, april, august = (ndvi(signal, m)[crops].mean() for m in (1.3, 2.5, 4.5, 8.5))
    assert min(january, april) > february + 0.1 > august + 0.1


def test_backscatter_orders_forest_pasture_water(land, signal):
    gamma0 = signal.gamma0("vh", signal.dryness(8.5))
    mean = [10 * np.log10(gamma0[land.codes == c].mean()) for c in (FOREST, PASTURE, WATER)]
    assert mean[0] > mean[1] + 3 > mean[2] + 6


@pytest.mark.parametrize("band", BANDS)
def test_reflectance_is_physical(signal, band):
    light = signal.reflectance(band, signal.dryness(5.0), day=7)
    assert light.dtype == np.float32
    assert 0 < light.min() < light.max() < 1


@pytest.mark.parametrize("share", [0.1, 0.7])
def test_clouds_cover_the_share_asked_for(share):
    opacity = cloud_field((150, 210), share=share, rng=stream(0, "sky"))
    assert (opacity > 0).mean() == pytest.approx(share, abs=0.01)
    assert 0 <= opacity.min() < opacity.max() <= 1


def test_fields_are_smooth_normal_and_not_periodic():
    field = smooth((200, 310), scale=8, rng=stream(0, "field"))
    assert field.mean() == pytest.approx(0, abs=1e-3)
    assert field.std() == pytest.approx(1, abs=1e-3)
    assert np.abs(np.diff(field, axis=1)).mean() < 0.15
    assert np.abs(field[0] - field[-1]).mean() > 0.5


def test_streams_of_other_purposes_and_days_differ():
    draws = {stream(0, p, d).integers(2**40) for p in ("sky", "land") for d in (1, 2)}
    assert len(draws) == 4
