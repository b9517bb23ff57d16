"""Sentinel-2: offsets by baseline and as measured, reflectance against plain arithmetic."""

import dask.array as da
import numpy as np
import pystac
import pytest
import rasterio
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepforest_xr.catalogs import catalog_of, read_items
from deepforest_xr.errors import DtypeError, UnknownOffsetError
from deepforest_xr.sentinel.s2 import (
    SCL_MASKED,
    baseline_offset,
    is_clear,
    to_reflectance,
)
from deepforest_xr.testing import no_compute


def scene(dn, **coords):
    return xr.DataArray(dn, dims=("time", "y", "x"), coords=coords, name="B04")


@pytest.mark.parametrize(
    ("baseline", "value"),
    [("02.12", 0), ("03.01", 0), ("04.00", -1000), ("05.10", -1000), ("05.00", -1000), (4, -1000)],
)
def test_the_baseline_decides(baseline, value):
    found = baseline_offset(baseline, scene="a")
    assert (found.value, found.reason) == (value, f"baseline {baseline}")


@pytest.mark.parametrize("baseline", [None, "", "unknown", float("nan"), "nan"])
def test_an_unknown_offset_is_refused_by_name(baseline):
    with pytest.raises(UnknownOffsetError, match="'scene-7'") as caught:
        baseline_offset(baseline, scene="scene-7")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("site", "value"), [("282D_485L_3_3", 0), ("433D_629L_3_1", -1000), ("637U_59R_1_3", 0)]
)
def test_measured_offsets_of_terramesh_hold(site, value, shared_data):
    path = shared_data / "real" / "terramesh" / "items.json"
    item = next(
        i
        for i in read_items(path)
        if i.properties["site"] == site and i.collection_id == "sentinel-2-l2a"
    )
    assert catalog_of(item).offset(item, "B04").value == value
    with rasterio.open(item.assets["B04"].href) as source:
        dn = xr.DataArray(source.read()[:, :50, :70], dims=("time", "y", "x"))
    share = float((to_reflectance(dn, offset=value) < 0).mean())
    assert share < 1e-3  # ground does not reflect less than nothing


def test_reflectance_of_a_real_scene_of_baseline_4(shared_data):
    item = next(iter(read_items(shared_data / "real" / "majortom_congo" / "items.json")))
    with rasterio.open(item.assets["B11"].href) as source:
        dn = source.read()[:, :90, :110]
    found = to_reflectance(scene(dn), offset=catalog_of(item).offset(item, "B11").value)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, ((dn.astype(float) - 1000) / 1e4).astype("float32"))


def test_no_step_across_the_baseline_change():
    dn = scene(np.stack([np.full((2, 3), 500), np.full((2, 3), 1500)]).astype("uint16"))
    offset = xr.DataArray([0, -1000], dims="time")
    np.testing.assert_allclose(to_reflectance(dn, offset=offset), 0.05)


@given(arrays(np.uint16, (2, 3, 5), elements=st.integers(0, 65_535)), st.sampled_from([0, -1000]))
def test_nan_exactly_where_there_is_no_data(dn, offset):
    found = to_reflectance(scene(dn), offset=offset)
    np.testing.assert_array_equal(np.isnan(found), dn == 0)
    np.testing.assert_array_equal(
        found.to_numpy()[dn > 0], ((dn[dn > 0].astype(int) + offset) / 1e4).astype("float32")
    )


@pytest.mark.parametrize("kind", ["int64", "int32", "int16"])
def test_memory_is_32_bit_whatever_the_offsets_type(kind):
    offset = xr.DataArray(np.array([0, -1000], dtype=kind), dims="time")
    assert to_reflectance(scene(np.ones((2, 3, 5), "uint16")), offset=offset).dtype == np.float32


def test_dark_water_may_be_slightly_negative():
    assert to_reflectance(scene(np.array([[[990]]], "uint16")), offset=-1000) == np.float32(-0.001)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scaled_numbers_are_not_scaled_again(dtype):
    with pytest.raises(DtypeError, match="'B04'"):
        to_reflectance(scene(np.full((2, 3, 5), 0.1, dtype)), offset=0)


def test_lazy_in_lazy_out_with_the_same_chunks():
    dn = scene(da.ones((2, 30, 50), dtype="uint16", chunks=(2, 10, 20)))
    with no_compute():
        found = to_reflectance(dn, offset=xr.DataArray([0, -1000], dims="time"))
        clear = is_clear(dn.astype("uint8"))
    assert found.chunks == clear.chunks == dn.chunks


@given(arrays(np.uint8, (2, 3, 5), elements=st.integers(0, 11)), st.sets(st.integers(0, 11)))
def test_clear_is_what_is_not_masked(scl, masked):
    expected = np.array([v not in masked for v in scl.ravel()]).reshape(scl.shape)
    np.testing.assert_array_equal(is_clear(scene(scl), masked=sorted(masked)), expected)


def test_vegetation_soil_water_and_dark_pixels_are_kept_clouds_and_shadows_not():
    kept = [v for v in range(12) if v not in SCL_MASKED]
    assert kept == [2, 4, 5, 6, 7, 11]


def test_pystac_does_not_move_the_offset_away(tmp_path, shared_data):
    # pystac migrates extensions on reading; a declared offset must survive it.
    path = shared_data / "real" / "terramesh" / "items.json"
    items = pystac.ItemCollection.from_file(str(path))
    chile = next(i for i in items if i.id.startswith("terramesh_433D_629L_3_1_S2"))
    assert catalog_of(chile).offset(chile, "B04").reason == "raster:bands offset"
