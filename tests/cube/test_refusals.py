"""What cannot be a cube is one line that says why."""

import shutil
from pathlib import Path

import pytest

from deepforest_xr.catalogs import read_items
from deepforest_xr.cube import open_cube
from deepforest_xr.errors import (
    CatalogError,
    ConfigError,
    MissingAssetError,
    NoItemsError,
    ReadError,
    UnknownOffsetError,
)
from deepforest_xr.grid import Grid

from .conftest import optical, radar


def fails(error, match, items, **options):
    with pytest.raises(error, match=match) as caught:
        open_cube(items, **options)
    assert "\n" not in str(caught.value)


def test_a_missing_band_names_the_scene(items, small):
    poor = [i.clone() for i in items]
    victim = optical(poor)[4]
    del victim.assets["B05"]
    fails(MissingAssetError, f"1 of 9 .*'{victim.id}' lacks B05", poor, grid=small)


def test_a_missing_polarisation_names_the_scene(items, small):
    poor = [i.clone() for i in items]
    victim = radar(poor)[0]
    del victim.assets["vh"]
    fails(MissingAssetError, f"'{victim.id}' lacks vh", poor, grid=small, months=(6, 8))


def test_masked_and_unmasked_scenes_do_not_mix(items, small):
    poor = [i.clone() for i in items]
    del optical(poor)[2].assets["SCL"]
    fails(MissingAssetError, "1 of 9 Sentinel-2 scenes lack SCL", poor, grid=small)


def test_an_unknown_offset_is_refused(items, small):
    poor = [i.clone() for i in items]
    victim = optical(poor)[0]
    del victim.properties["s2:processing_baseline"]
    fails(UnknownOffsetError, f"'{victim.id}'", poor, grid=small)


def test_a_grid_elsewhere_has_no_scene(items):
    grid = Grid.from_bounds((500_000, 9_500_000, 500_900, 9_500_600), crs=32721)
    fails(NoItemsError, "no Sentinel-2 scene over 60 x 90 pixels", items, grid=grid)


def test_no_items_radar_alone_and_months_without_radar_are_refused(items, small):
    fails(NoItemsError, "empty", [], grid=small)
    fails(NoItemsError, "no Sentinel-2 scene", radar(items), grid=small)
    fails(NoItemsError, r"in months \[1, 2\]", items, grid=small, months=(1, 2))
    fails(NoItemsError, "no Sentinel-1 scene", optical(items), grid=small, dataset="S1TsS2_7")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dataset": "S3"}, "known: S2, S1TsS2_12, S1TsS2_7"),
        ({"dataset": "S2", "months": (6,)}, "both given"),
        ({"months": (0, 6)}, "months="),
        ({"months": (6, 13)}, "months="),
        ({"months": (7, 6)}, "ascending"),
        ({"months": (6, 6)}, "ascending"),
        ({"orbit": "polar"}, "orbit="),
        ({"resampling": "lanczos9"}, "resampling="),
        ({"chunk": 0}, "chunk=0"),
        ({"bands": ()}, "each once"),
        ({"bands": ("B02", "B02")}, "each once"),
        ({"bands": "SCL"}, r"bands=\['SCL'\]"),
        ({"months": ["a"]}, r"months=\['a'\]"),
        ({"scl_masked": (3, 99)}, "scene classes are 0 to 11"),
        ({"scl_dilation": 2.5}, "scl_dilation=2.5"),
    ],
)
def test_an_argument_that_cannot_be_is_one_line(items, small, options, match):
    fails(ConfigError, match, items, grid=small, **options)


def test_uncalibrated_radar_is_refused(items, small):
    raw = [i.clone() for i in items]
    for item in radar(raw):
        item.collection_id = "sentinel-1-grd"
        for asset in item.assets.values():
            asset.extra_fields.pop("raster:bands", None)
    fails(CatalogError, "uncalibrated", raw, grid=small, months=(6, 8))


def test_a_file_cut_in_half_is_one_error_when_computed(items, small, tmp_path):
    spoilt = [i.clone() for i in optical(items)]
    victim = spoilt[1].assets["B04"]
    half = tmp_path / "half.tif"
    data = Path(victim.href).read_bytes()
    half.write_bytes(data[: len(data) // 2])
    victim.href = str(half)
    cube = open_cube(spoilt, grid=small, bands=["B04"])
    with pytest.raises(ReadError, match=r"half\.tif cannot be read") as caught:
        cube.compute()
    assert "\n" not in str(caught.value)


def test_a_file_removed_after_opening_is_one_error(items, small, tmp_path):
    moved = [i.clone() for i in optical(items)]
    copy = tmp_path / "gone.tif"
    shutil.copy(moved[0].assets["B04"].href, copy)
    moved[0].assets["B04"].href = str(copy)
    cube = open_cube(moved, grid=small, bands=["B04"])
    copy.unlink()
    with pytest.raises(ReadError, match=r"gone\.tif"):
        cube.compute()


def test_another_product_level_is_refused(scene):
    items = [i.clone() for i in read_items(scene.items) if i.collection_id == "sentinel-2-l2a"]
    items[0].collection_id = "sentinel-2-l1c"
    with pytest.raises(CatalogError, match="collection 'sentinel-2-l1c'; a cube is made of"):
        open_cube(items, grid=scene.grid)


def test_gamma0_and_sigma0_do_not_mix(scene):
    items = [i.clone() for i in read_items(scene.items)]
    cube = open_cube(items, grid=scene.grid, months=[6, 8])
    assert cube.attrs["s1_quantity"] == "gamma0"
    radar = next(i for i in items if i.collection_id == "sentinel-1-rtc" and i.datetime.month == 6)
    radar.collection_id = "sentinel-1-grd"
    with pytest.raises(CatalogError, match="do not mix"):
        open_cube(items, grid=scene.grid, months=[6, 8])
