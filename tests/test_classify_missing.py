"""A model that was trained with missing months maps without them, and is less sure."""

import numpy as np
import pytest
import xarray as xr

import deepforest_xr as dfx
from deepforest_xr.grid import Grid

from .test_classify import BANDS, LEGEND

pytestmark = pytest.mark.usefixtures("narrow")

MONTHS = (6, 7, 8)


def radar_scene(seed):
    """Codes 4 and 9 in patches; in each month 9 is brighter by a third more than the noise."""
    shape = (128, 160)
    grid = Grid.from_bounds((0, 0, 10 * shape[1], 10 * shape[0]), crs="EPSG:32721")
    rng = np.random.default_rng(seed)
    is_bright = np.kron(rng.random((shape[0] // 16, shape[1] // 16)) > 0.5, np.ones((16, 16), bool))
    s1 = rng.normal(-10, 3, (len(MONTHS), 2, *shape)) + 4 * is_bright
    s2 = rng.normal(0.2, 0.05, (len(BANDS), *shape))
    cube = xr.Dataset(
        {
            "s2": (("band", "y", "x"), s2.astype("float32")),
            "s1": (("month", "polarization", "y", "x"), s1.astype("float32")),
        },
        coords={
            "band": list(BANDS),
            "month": list(MONTHS),
            "polarization": ["vv", "vh"],
            **grid.coords(),
        },
        attrs={"dataset": "S1"},
    )
    codes = np.where(is_bright, 9, 4).astype("uint8")
    return cube, xr.DataArray(codes, dims=("y", "x"), coords=grid.coords(), attrs=LEGEND.attrs())


@pytest.fixture(scope="module")
def checkpoint(narrow, tmp_path_factory):
    folder = tmp_path_factory.mktemp("missing")
    spec = dfx.ChipSpec(size=32, buffer=0, block=1, fractions=(0.8, 0.2, 0.0))
    dfx.write_chips(*radar_scene(0), folder / "chips.zarr", spec=spec)
    settings = dfx.TrainSettings(
        epochs=30, batch=4, learning_rate=1e-2, month_dropout=0.3, class_weights="uniform",
        schedule="cosine", ema=0.9, patience=30,
        device="cpu",
    )  # fmt: skip
    return dfx.train(
        folder / "chips.zarr", model="u-net", out=folder / "run", settings=settings, progress=False
    )


def test_confidence_falls_with_every_month_that_is_missing(checkpoint):
    cube, labels = radar_scene(1)
    sure, right = [], []
    # Blocks as large as the chips it learnt from: so small a network knows no others.
    for gone in range(len(MONTHS) + 1):
        less = cube.copy(deep=True)
        less["s1"][:gone] = np.nan
        mapped = dfx.classify(less, checkpoint, block=32, halo=0).compute()
        if gone == len(MONTHS):
            assert (mapped["lulc"] == 0).all()
            assert (mapped["confidence"] == 0).all()
            continue
        sure.append(float(mapped["confidence"].mean()))
        right.append(float((mapped["lulc"] == labels).mean()))
    assert right[0] > 0.8
    assert min(right) > 0.6
    assert sure[0] > sure[1] > sure[2] > 50


def test_a_month_that_is_missing_stands_at_the_mean_of_training_as_in_training(checkpoint):
    cube, _ = radar_scene(2)
    absent, at_mean = cube.copy(deep=True), cube.copy(deep=True)
    absent["s1"][1] = np.nan
    mean = dfx.models.load(checkpoint).mean
    at_mean["s1"][1] = np.array(mean[2:4], "float32")[:, None, None]
    maps = [dfx.classify(c, checkpoint, halo=64).compute() for c in (absent, at_mean)]
    assert (maps[0]["lulc"] != maps[1]["lulc"]).mean() < 1e-3


def test_missing_months_and_bands_are_named_together(checkpoint):
    cube, _ = radar_scene(2)
    with pytest.raises(dfx.errors.BandMismatchError, match="missing: vv_07, vh_07, B04;") as caught:
        dfx.classify(cube.sel(month=[8, 6], band=["B08", "B02"]), checkpoint)
    assert "\n" not in str(caught.value)


def test_where_nothing_was_counted_there_is_no_class_whatever_the_value(checkpoint):
    cube, _ = radar_scene(2)
    hole = np.zeros((128, 160), dtype=bool)
    hole[20:41, 50:97] = True
    counted = cube.assign(
        s2_count=(("y", "x"), np.where(hole, 0, 3).astype("uint16")),
        s1_count=(("month", "y", "x"), np.zeros((3, 128, 160), dtype="uint16")),  # all filled
    )
    options = {"block": 64, "halo": 32}
    found = dfx.classify(counted.chunk({"y": 50, "x": 70}), checkpoint, **options).compute()
    as_nan = dfx.classify(cube.assign(s2=cube["s2"].where(~hole)), checkpoint, **options)
    np.testing.assert_array_equal(found["lulc"].to_numpy() == 0, hole)
    np.testing.assert_array_equal(found["confidence"], as_nan["confidence"])
    np.testing.assert_array_equal(found["lulc"], as_nan["lulc"])
    with_counts = dfx.explain(counted.chunk({"y": 50}), checkpoint, probe=False, **options)
    without = dfx.explain(cube.chunk({"y": 50}), checkpoint, probe=False, **options)
    assert with_counts.bytes_read - without.bytes_read == 2 * 128 * 160
