"""Cubes of real series, computed a second time from the files."""

import numpy as np
import pytest

from deepforest_xr.catalogs import read_items
from deepforest_xr.cube import open_cube
from deepforest_xr.grid import Grid
from deepforest_xr.sentinel.s2 import BANDS

from .conftest import grid_of, optical, radar, read, repeat

TEN = ("B02", "B03", "B04", "B08")  # Sentinel-2's bands at 10 m
CLEAR = (2, 4, 5, 6, 7, 11)  # dark, vegetation, soil, water, unclassified, snow
FLANDERS = "00002806639B424A"


def site(shared_data, folder, name, start="0", stop="9"):
    return [
        i
        for i in read_items(shared_data / "real" / folder / "items.json")
        if i.properties["site"] == name and start <= i.datetime.isoformat()[:10] <= stop
    ]


@pytest.fixture(scope="module")
def flanders(shared_data):
    found = site(shared_data, "worldcereal_series", FLANDERS, "2017-12-01", "2018-11-30")
    grid = Grid.from_bounds((501360, 5629040, 502000, 5629680), crs=32631)
    cube = open_cube(found, grid=grid, dataset="S1TsS2_12")
    return found, cube.compute(scheduler="threads", num_workers=4)


@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_a_year_of_sentinel_2_is_the_median_of_its_clear_files(flanders):
    found, cube = flanders
    scenes = optical(found)
    assert len(scenes) > 60
    clear = np.stack([np.isin(repeat(read(i, "SCL"), 2), CLEAR) for i in scenes])
    for band in BANDS:
        dn = np.stack([repeat(read(i, band), 1 if band in TEN else 2) for i in scenes])
        reflectance = np.where(clear & (dn > 0), dn / 1e4, np.nan)
        np.testing.assert_allclose(
            cube["s2"].sel(band=band), np.nanmedian(reflectance, axis=0), atol=1e-6
        )
        if band == "B02":
            np.testing.assert_array_equal(cube["s2_count"], np.isfinite(reflectance).sum(0))


def test_a_year_of_sentinel_1_is_the_monthly_mean_of_power(flanders):
    found, cube = flanders
    for position, polarization in enumerate(("vv", "vh")):
        for month in range(1, 13):
            files = [i for i in radar(found) if i.datetime.month == month]
            power = np.stack([repeat(read(i, polarization), 2) for i in files]).astype(float)
            expected = 10 * np.log10(power.mean(0))
            layer = cube["s1"].isel(polarization=position).sel(month=month)
            np.testing.assert_allclose(layer, expected, atol=2e-5)
            assert np.unique(cube["s1_count"].sel(month=month)).tolist() == [len(files)]


def test_a_years_provenance_is_recorded(flanders):
    found, cube = flanders
    assert cube.attrs["dataset"] == "S1TsS2_12"
    assert cube.attrs["s2_scenes"] == len(optical(found))
    assert cube.attrs["s1_scenes"] == len(radar(found))
    assert cube.attrs["s2_offset"] == f"{len(optical(found))} x 0 (raster:bands offset)"
    assert cube.attrs["s1_empty_months"] == "none"
    assert cube.attrs["s2_period"][:7] == "2017-12"
    assert cube.attrs["s1_collections"] == f"{len(radar(found))} x sentinel-1-grd"
    assert "simulated" not in cube.attrs


@pytest.mark.parametrize(
    ("name", "offset"), [("282D_485L_3_3", 0), ("433D_629L_3_1", -1000), ("637U_59R_1_3", 0)]
)
def test_a_tile_on_an_odd_raster_is_its_files_unshifted(name, offset, shared_data):
    found = site(shared_data, "terramesh", name)
    grid = grid_of(optical(found)[0], "B02")
    assert grid.bounds[0] % 10 != 0
    month = radar(found)[0].datetime.month
    cube = open_cube(found, grid=grid, months=[month]).compute()
    for band in ("B02", "B05", "B12"):
        dn = read(optical(found)[0], band).astype(float)
        expected = np.where(dn > 0, (dn + offset) / 1e4, np.nan).astype("float32")
        np.testing.assert_array_equal(cube["s2"].sel(band=band), expected)
    expected = 10 * np.log10(read(radar(found)[0], "vh"))
    np.testing.assert_allclose(cube["s1"][0, 1], expected, atol=2e-5)
    assert f"1 x {offset} " in cube.attrs["s2_offset"]
    assert cube.attrs["s2_mask"].startswith("none")
    assert Grid.of(cube) == grid


def test_a_scene_of_baseline_4_loses_its_thousand_at_every_resolution(shared_data):
    found = site(shared_data, "majortom_congo", "0U_199R")
    left, _, _, top = grid_of(found[0], "B02").bounds
    # Columns 120 to 180, rows 80 to 120 of the 10 m raster, whose origin is 819627.36.
    bounds = (left + 1200, top - 1200, left + 1800, top - 800)
    grid = Grid.from_bounds(bounds, crs=32633)
    cube = open_cube(found, grid=grid, bands=("B02", "B11", "B01")).compute()
    for band, factor in (("B02", 1), ("B11", 2), ("B01", 6)):
        dn = repeat(read(found[0], band), factor)[80:120, 120:180].astype(float)
        np.testing.assert_array_equal(
            cube["s2"].sel(band=band), ((dn - 1000) / 1e4).astype("float32")
        )
    assert cube.attrs["s2_offset"] == "1 x -1000 (baseline 04.00)"
