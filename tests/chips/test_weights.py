"""Confidence in the labels is cut with them, kept in percent, and refused where it is none."""

import shutil

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

from deepforest_xr.chips import ChipSpec, open_chips, write_chips
from deepforest_xr.errors import GridError, LabelError, ReadError, WriteError
from deepforest_xr.labels import temporal_agreement
from deepforest_xr.legend import LandCoverClass, Legend

LEGEND = Legend("two", tuple(LandCoverClass(c, f"class {c}", "#00ff00") for c in (4, 9)))
SPEC = ChipSpec(size=32)


@pytest.fixture
def scene(synthetic_cube):
    cube = synthetic_cube((101, 170), months=(6, 7), bands=("B02", "B03", "B04"))
    rng = np.random.default_rng(2)
    coords = {name: cube.coords[name] for name in ("y", "x", "spatial_ref")}
    codes = rng.choice(np.array([4, 9, 255], dtype="uint8"), (101, 170))
    labels = xr.DataArray(codes, dims=("y", "x"), coords=coords, attrs=LEGEND.attrs())
    return cube, labels, labels.copy(data=rng.random((101, 170), dtype="float32"))


def places(chips):
    """Where each chip lies on the cube."""
    (part,) = chips.parts
    for chip, (row, col) in enumerate(zip(part.row, part.col, strict=True)):
        yield chip, {"y": slice(row, row + part.size), "x": slice(col, col + part.size)}


@pytest.mark.parametrize("spec", [SPEC, ChipSpec(size=96, cell=24)])
def test_weights_are_those_of_the_pixels_to_half_a_percent(scene, tmp_path, spec):
    cube, labels, weights = scene
    chips = open_chips(write_chips(cube, labels, tmp_path / "c", weights=weights, spec=spec))
    for chip, here in places(chips):
        found = chips.read(chip)["weight"]
        assert found.dtype == "float32"
        np.testing.assert_allclose(found, weights.isel(here), rtol=0, atol=0.00501)


def test_on_disk_they_are_percent_that_xarray_decodes(scene, tmp_path):
    cube, labels, weights = scene
    weights[0, :3] = [0, 1, 0.5]
    # Dims in another order, and lazy.
    path = write_chips(cube, labels, tmp_path / "c", weights=weights.T.chunk({"y": 40}), spec=SPEC)
    array = zarr.open_group(path, mode="r")["weight"]
    assert (array.dtype, array[0, 0, :3].tolist()) == ("uint8", [0, 100, 50])
    with xr.open_zarr(path, consolidated=False) as opened:
        assert opened["weight"].dims == ("chip", "y", "x")
        assert opened["weight"].attrs["units"] == "1"
        here = np.stack([weights.isel(at) for _, at in places(open_chips(path))])
        np.testing.assert_allclose(opened["weight"], here, rtol=0, atol=0.00501)


def test_a_label_of_no_weight_is_none(scene, tmp_path):
    cube, labels, weights = scene
    unsure = weights.where(weights["x"] > float(weights["x"][60]), 0)
    chips = open_chips(write_chips(cube, labels, tmp_path / "c", weights=unsure, spec=SPEC))
    for chip in range(len(chips.split)):
        found = chips.read(chip)
        assert (found["label"][found["weight"] == 0] == 255).all()
    sure = labels.to_numpy()[:96, 61:160]
    assert chips.histogram.sum() <= (sure != 255).sum()


def test_a_store_that_lost_its_weights_is_refused(scene, tmp_path):
    cube, labels, weights = scene
    path = write_chips(cube, labels, tmp_path / "c", weights=weights, spec=SPEC)
    shutil.rmtree(path / "weight")
    with pytest.raises(ReadError, match="lacks its array 'weight'"):
        open_chips(path)


def test_without_weights_there_are_none(scene, tmp_path):
    cube, labels, _ = scene
    chips = open_chips(write_chips(cube, labels, tmp_path / "c", spec=SPEC))
    assert list(chips.read(0)) == ["s2", "s1", "label"]


def test_the_agreement_of_years_fits_as_it_comes(scene, tmp_path):
    cube, labels, _ = scene
    years = [labels, labels.where(labels != 4, 9), labels.where(labels != 9, 4), labels]
    together = xr.concat(years, xr.Variable("year", range(4)), combine_attrs="override")
    label, weight = temporal_agreement(together.chunk({"y": 40, "x": 50}).astype("uint8"))
    chips = open_chips(write_chips(cube, label, tmp_path / "c", weights=weight, spec=SPEC))
    assert chips.legend == LEGEND
    for chip, here in places(chips):
        arrays = chips.read(chip)
        labelled = arrays["label"] != 255
        np.testing.assert_array_equal(arrays["label"], labels.isel(here))
        np.testing.assert_array_equal(arrays["weight"][labelled], np.float32(0.75))
        assert (arrays["weight"][~labelled] == 0).all()


@pytest.mark.parametrize("wrong", [1.01, -0.01, np.nan, np.inf])
def test_what_is_no_share_is_refused_in_one_line_and_leaves_nothing(scene, tmp_path, wrong):
    cube, labels, weights = scene
    weights[70, 33] = wrong
    with pytest.raises(LabelError, match=rf"weights hold {wrong}, expected shares in") as caught:
        write_chips(cube, labels, tmp_path / "c", weights=weights, spec=SPEC)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_weights_on_another_grid_are_refused(scene, tmp_path):
    cube, labels, weights = scene
    with pytest.raises(GridError, match="the weights"):
        write_chips(cube, labels, tmp_path / "c", weights=weights.isel(x=slice(1, None)), spec=SPEC)
    assert list(tmp_path.iterdir()) == []


def test_a_call_with_other_weights_does_not_go_on(scene, tmp_path):
    cube, labels, weights = scene

    def block(values, block_info=None):
        if block_info[0]["chunk-location"][0] == 2:
            raise RuntimeError("scene is gone")
        return values

    def write(name, weights):
        return write_chips(cube, labels, tmp_path / name, weights=weights, spec=SPEC)

    lazy = weights.chunk({"y": 32, "x": -1})
    failing = lazy.copy(data=da.map_blocks(block, lazy.data, dtype="float32"))
    with pytest.raises(WriteError, match="2 strips of chips are kept"):
        write("c", failing)
    for other in (None, weights.where(weights["y"] < weights["y"][0], 0.5)):
        with pytest.raises(WriteError, match="holds unfinished chips of another cube"):
            write("c", other)
    one, two = (open_chips(write(name, weights)) for name in ("c", "straight"))
    assert one.fingerprint == two.fingerprint
    for chip in range(len(one.split)):
        np.testing.assert_array_equal(one.read(chip)["weight"], two.read(chip)["weight"])
