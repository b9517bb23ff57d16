"""Composites over time against xarray's own ways, on values in memory."""

import numpy as np
import pandas as pd
import xarray as xr

from benchmarks.measure import compare
from deepforest_xr.sentinel import clouds, composite, s2

SHAPE = (36, 512, 512)
SPECTRA = (24, 10, 128, 128)


def run():
    yield from medians()
    yield counts()
    yield medoids()
    yield geomedians()
    yield dilation()


def medians():
    rng = np.random.default_rng(0)
    values = rng.random(SHAPE, dtype="float32")
    values[rng.random(SHAPE) < 0.4] = np.nan
    times = pd.date_range("2021-01-03", periods=SHAPE[0], freq="10D")
    stack = xr.DataArray(values, dims=("time", "y", "x"), coords={"time": times})
    note = f"{SHAPE[0]} dates x {SHAPE[1]} x {SHAPE[2]} float32, 40 % NaN, equal values"
    np.testing.assert_array_equal(composite.median(stack), stack.median("time"))
    yield compare(
        "median composite",
        lambda: composite.median(stack),
        lambda: stack.median("time"),
        names=("`sentinel.composite.median`", '`DataArray.median("time")`'),
        note=note,
    )
    xr.testing.assert_equal(composite.resampled_median(stack), stack.resample(time="1MS").median())
    yield compare(
        "monthly median composites",
        lambda: composite.resampled_median(stack),
        lambda: stack.resample(time="1MS").median(),
        names=("`sentinel.composite.resampled_median`", '`resample(time="1MS").median()`'),
        note=f"{note}, 12 months",
        repeats=3,
    )


def counts():
    """The step a cube takes in each chunk: digital numbers and a cloud mask to reflectance."""
    rng = np.random.default_rng(0)
    dn = rng.integers(1, 12_000, SHAPE).astype("uint16")
    clear = rng.random(SHAPE) < 0.6
    shift = np.full(SHAPE[0], s2.BOA_ADD_OFFSET, dtype="int32")

    def by_xarray():
        stack = xr.DataArray(dn, dims=("time", "y", "x"))
        offset = xr.DataArray(shift, dims="time")
        reflectance = s2.to_reflectance(stack, offset=offset)
        reflectance = reflectance.where(xr.DataArray(clear, dims=("time", "y", "x")))
        return reflectance.median("time"), reflectance.count("time")

    def ours():
        return composite.median_of_counts(dn, clear, shift)

    for one, other in zip(ours(), by_xarray(), strict=True):
        np.testing.assert_array_equal(one, other)
    return compare(
        "digital numbers to median reflectance and count",
        ours,
        by_xarray,
        names=("`sentinel.composite.median_of_counts`", "scale, `where`, `median`, `count`"),
        note=f"{SHAPE[0]} dates x {SHAPE[1]} x {SHAPE[2]} uint16, 40 % cloud, equal values",
        repeats=3,
    )


def spectra():
    rng = np.random.default_rng(0)
    values = rng.gamma(4, 0.05, SPECTRA).astype("float32")
    values[np.broadcast_to(rng.random((SPECTRA[0], 1, *SPECTRA[2:])) < 0.4, SPECTRA)] = np.nan
    return values


def medoids():
    values = spectra()
    stack = xr.DataArray(values, dims=("time", "band", "y", "x"))

    def by_xarray():
        others = stack.rename(time="other")
        sums = sum(
            np.sqrt(((stack - others.isel(other=i)) ** 2).sum("band", skipna=False)).fillna(0)
            for i in range(SPECTRA[0])
        )
        return sums.where(stack.notnull().all("band"), np.inf).argmin("time")

    index = composite.medoid_array(values)[1]
    assert (index == by_xarray()).where(index >= 0, True).mean() > 0.999  # ties by rounding
    return compare(
        "medoid composite",
        lambda: composite.medoid_array(values),
        by_xarray,
        names=("`sentinel.composite.medoid_array`", "sums of distances in xarray, `argmin`"),
        note=" x ".join(map(str, SPECTRA)) + " (date, band, y, x) float32, 40 % of dates NaN",
        repeats=3,
    )


def geomedians():
    values = spectra()

    def by_numpy(iterations=100, tolerance=1e-5):
        centre = np.nanmean(values, axis=0, dtype="float64")
        for _ in range(iterations):
            away = np.sqrt(((values - centre) ** 2).sum(axis=1, keepdims=True))
            weight = 1 / np.maximum(away, 1e-12)
            moved = np.nansum(values * weight, axis=0) / np.nansum(weight, axis=0)
            step = np.sqrt(((moved - centre) ** 2).sum(axis=0)).max()
            centre = moved
            if step < tolerance:
                break
        return centre

    np.testing.assert_allclose(composite.geomad_array(values)[0], by_numpy(), atol=1e-4)
    return compare(
        "geometric median (ours with the three MADs)",
        lambda: composite.geomad_array(values),
        by_numpy,
        names=("`sentinel.composite.geomad_array`", "Weiszfeld on whole arrays in NumPy"),
        note=" x ".join(map(str, SPECTRA)) + " (date, band, y, x) float32, same tolerance",
        repeats=2,
    )


def dilation():
    from scipy.ndimage import binary_dilation

    rng = np.random.default_rng(0)
    masked = rng.random((4, 512, 512)) < 0.001
    y, x = np.ogrid[-5:6, -5:6]
    disk = (y**2 + x**2 <= 25)[None]
    np.testing.assert_array_equal(
        clouds.dilate_array(masked, 5), binary_dilation(masked, structure=disk)
    )
    return compare(
        "clouds grown by 5 pixels",
        lambda: clouds.dilate_array(masked, 5),
        lambda: binary_dilation(masked, structure=disk),
        names=("`sentinel.clouds.dilate_array`", "`scipy.ndimage.binary_dilation`"),
        note="4 dates x 512 x 512, equal values",
        repeats=3,
    )
