"""Sentinel-1 in a cube: speckle and border noise, one scene at a time or all dates."""

import numpy as np
import pytest
import rasterio

from deepforest_xr.catalogs import read_items
from deepforest_xr.cube import open_cube
from deepforest_xr.errors import ConfigError
from deepforest_xr.sentinel import border, speckle

MONTHS = (6, 8)


@pytest.fixture(scope="module")
def items(scene):
    """Radar on the grid's own raster, and the optical scenes a cube cannot be without."""
    found = read_items(scene.items)
    return [
        i
        for i in found
        if i.collection_id == "sentinel-2-l2a" or i.properties["proj:code"] == "EPSG:32721"
    ]


def power(items, grid, polarization):
    """Whole files (date, y, x), where the grid begins in them, and their months."""
    radar = sorted(
        (i for i in items if i.collection_id == "sentinel-1-rtc"), key=lambda i: i.datetime
    )
    values = []
    for item in radar:
        with rasterio.open(item.assets[polarization].href) as source:
            values.append(source.read(1))
            row = round((source.bounds.top - grid.bounds[3]) / 10)
            col = round((grid.bounds[0] - source.bounds.left) / 10)
    inner = np.s_[..., row : row + grid.shape[0], col : col + grid.shape[1]]
    return np.stack(values), inner, [i.datetime.month for i in radar]


def db(values, months):
    values = np.where(values > 0, values, np.nan).astype(float)
    means = [np.nanmean(values[np.array(months) == m], axis=0) for m in MONTHS]
    return 10 * np.log10(np.stack(means))


@pytest.mark.parametrize("chunk", [512, 31])
@pytest.mark.parametrize("name", ["lee", "refined_lee"])
def test_each_scene_is_filtered_in_power_before_the_mean(items, scene, name, chunk):
    cube = open_cube(
        items, grid=scene.grid, months=MONTHS, speckle_filter=name, looks=4.4, chunk=chunk
    )
    for position, polarization in enumerate(("vv", "vh")):
        values, inner, months = power(items, scene.grid, polarization)
        chosen = speckle.FILTERS[name]
        settings = {k: {"window": 7, "looks": 4.4}[k] for k in chosen.settings}
        expected = db(chosen.kernel(values, **settings)[inner], months)
        np.testing.assert_allclose(cube["s1"][:, position], expected, atol=2e-5)
    assert cube.attrs["s1_speckle"].startswith(name)
    assert "looks 4.4" in cube.attrs["s1_speckle"]
    assert "linear power" in cube.attrs["s1_speckle"]


def test_quegans_filter_uses_all_dates(items, scene):
    cube = open_cube(items, grid=scene.grid, months=MONTHS, speckle_filter="quegan", chunk=31)
    values, inner, months = power(items, scene.grid, "vv")
    assert len(months) >= 2
    expected = db(speckle.quegan_array(values[inner]), months)
    np.testing.assert_allclose(cube["s1"][:, 0], expected, atol=2e-5)
    whole = open_cube(items, grid=scene.grid, months=MONTHS, speckle_filter="quegan")
    np.testing.assert_array_equal(cube["s1"], whole["s1"])


def test_filters_lower_the_scatter_and_keep_the_level(items, scene):
    plain = 10 ** (open_cube(items, grid=scene.grid, months=(6,))["s1"].astype(float) / 10)
    lee = open_cube(items, grid=scene.grid, months=(6,), speckle_filter="lee", looks=2.2)
    lee = 10 ** (lee["s1"].astype(float) / 10)
    assert float(lee.std()) < 0.8 * float(plain.std())
    assert float(lee.mean()) == pytest.approx(float(plain.mean()), rel=0.02)


def test_border_noise_goes_with_what_hangs_on_it(items, scene, tmp_path):
    spoilt = [i.clone() for i in items]
    june = next(i for i in spoilt if i.collection_id == "sentinel-1-rtc" and i.datetime.month == 6)
    for polarization in ("vv", "vh"):
        asset = june.assets[polarization]
        with rasterio.open(asset.href) as source:
            values, profile = source.read(1), source.profile
        middle = values.shape[1] // 2
        values[:, :middle] = 0
        values[:, middle : middle + 9] = 2e-4  # not quite zero
        asset.href = str(tmp_path / f"{polarization}.tif")
        with rasterio.open(asset.href, "w", **profile | {"driver": "GTiff"}) as out:
            out.write(values, 1)
    options = {"grid": scene.grid, "months": (6,), "chunk": 40}
    kept = open_cube(spoilt, **options).compute()
    masked = open_cube(spoilt, mask_border_noise=True, **options).compute()
    values, inner, _ = power([june], scene.grid, "vv")
    expected = border.mask_border_noise_array(values)[inner][0]
    seen = np.isfinite(expected)
    np.testing.assert_array_equal(masked["s1_count"][0] > 0, seen)
    assert float(kept["s1"].min()) < -36.9
    assert float(masked["s1"].min()) > -36
    assert 0 < seen.mean() < 0.8
    assert masked.attrs["s1_border_noise"] == "masked"
    assert kept.attrs["s1_border_noise"] == "zero and negative power only"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"speckle_filter": "boxcar"}, "expected one of 'lee', 'quegan', 'refined_lee' or None"),
        ({"looks": 0}, "looks=0 must be positive"),
        ({"looks": float("nan")}, "looks=nan"),
    ],
)
def test_an_argument_that_cannot_be_is_one_line(items, scene, options, match):
    with pytest.raises(ConfigError, match=match) as caught:
        open_cube(items, grid=scene.grid, months=MONTHS, **options)
    assert "\n" not in str(caught.value)
