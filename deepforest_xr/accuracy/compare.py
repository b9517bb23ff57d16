"""A map against its reference: pixel by pixel, or at labelled points of a sample.

Dask-backed inputs are computed block by block and never whole.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from deepforest_xr.accuracy.counts import confusion
from deepforest_xr.accuracy.estimate import area_adjusted
from deepforest_xr.accuracy.points import counts_from_points
from deepforest_xr.accuracy.reliability import (
    Calibration,
    TemperatureScaling,
    calibrate,
    confidence_calibration,
    log_probability,
)
from deepforest_xr.accuracy.report import Report
from deepforest_xr.accuracy.scores import Scores
from deepforest_xr.errors import ConfigError, DtypeError, GridError, LabelError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import NODATA, UNLABELLED, Legend

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

# A temperature is one number: a regular thinning to so many pixels is plenty.
MOST_PIXELS = 1_000_000
# Side of the squares that are fitted on or held out, in pixels, and fewest squares a side.
SQUARE, LEAST_SQUARES = 64, 4
# Of a probability rounded to whole percents, 0 stands for anything below half of one.
HALF_PERCENT = 0.005


def assess(
    lulc: xr.DataArray | xr.Dataset,
    reference: xr.DataArray | xr.Dataset,
    *,
    mask: xr.DataArray | None = None,
    majority_class: int | None = None,
    calibration: bool = False,
) -> Report:
    """Compare a map with reference labels on the same grid.

    Parameters
    ----------
    lulc : DataArray[uint8], dims (y, x), or Dataset with ``lulc``
        Class codes with CF flags; 0 is no data.
    reference : DataArray[uint8], dims (y, x), or Dataset with ``lulc`` or one array
        Class codes with CF flags; 255 is unlabelled.
    mask : DataArray[bool], dims (y, x), optional
        True where a pixel counts, e.g. held out from training.
    majority_class : int, optional
        Code of the most frequent class of the training part, for the baseline.
    calibration : bool
        Also compare the map's ``confidence`` with how often it is right and, where the map
        kept ``probability``, fit a temperature on half the squares of a chessboard and check
        it on the others. Reads the map once more for each.

    Returns
    -------
    Report
        Confusion and scores. Dask-backed inputs are computed block by block.

    Raises
    ------
    GridError
        If the grids differ.
    ConfigError
        If calibration is asked for and the map has no ``confidence``.
    LabelError
        If the legends differ, or no pixel is labelled on both sides.
    DtypeError
        If an array does not hold integers, or the mask no booleans.
    """
    mapped, labels = _one_array(lulc, "map"), _one_array(reference, "reference")
    Grid.of(mapped).require_same(Grid.of(labels), ours="the map", theirs="the reference")
    legend = _common_legend(mapped, labels)
    codes = labels.transpose("y", "x").data
    if mask is not None:
        keep = _mask(mask, mapped)
        codes = xr.DataArray(codes).where(xr.DataArray(keep), codes.dtype.type(UNLABELLED)).data
    counts = confusion(mapped.transpose("y", "x"), codes, legend.codes)
    if not counts.any():
        raise LabelError(
            "nothing to compare: no pixel is both classified (not 0) and labelled (not 255)"
            f"{'' if mask is None else ' inside the mask'}; check that they overlap."
        )
    scores = Scores.from_confusion(counts, legend.codes, baseline_class=majority_class)
    stated = [str(x.attrs.get("simulated")).lower() for x in (lulc, mapped, reference, labels)]
    report = Report(counts, legend, scores, simulated="true" in stated)
    if not calibration:
        return report
    return replace(
        report,
        calibration=_calibration(lulc, mapped, codes),
        temperature=_temperature(lulc, mapped, codes, legend),
    )


def assess_points(
    table: pd.DataFrame,
    mapped_area: Sequence[float] | np.ndarray,
    legend: Legend,
    *,
    majority_class: int | None = None,
    simulated: bool = False,
) -> Report:
    """Assess a map by labelled points that were drawn within its classes.

    Parameters
    ----------
    table : DataFrame
        From `draw_points`, ``reference`` filled in.
    mapped_area : sequence of float
        Hectares of each class in the whole map (`mapped_area`), in the order of the legend.
    legend : Legend
        The map's.
    majority_class : int, optional
        Code of the most frequent class of the training part, for the baseline.
    simulated : bool
        Whether the map comes from simulated scenes.

    Returns
    -------
    Report
        Every score weighted by mapped area, with ``area``: estimates and 95 % intervals.

    Raises
    ------
    ConfigError
        If a mapped class has no labelled point, or a column is missing.
    LabelError
        If a class is unknown, or no point is labelled.
    """
    counts = counts_from_points(table, legend)
    if len(mapped_area) != len(legend.codes):
        raise ConfigError(f"{len(mapped_area)} mapped areas for {len(legend.codes)} classes.")
    empty = (counts.sum(axis=1) == 0) & (np.asarray(mapped_area) > 0)
    if names := [name for name, none in zip(legend.names, empty, strict=True) if none]:
        raise ConfigError(f"no labelled point lies in the mapped classes {names}: draw some there.")
    area = area_adjusted(counts, mapped_area)
    scores = Scores.from_confusion(area.proportion, legend.codes, baseline_class=majority_class)
    scores = replace(scores, pixels=int(counts.sum()), support=counts.sum(axis=0))
    return Report(counts, legend, scores, simulated=simulated, area=area)


def _calibration(
    dataset: xr.DataArray | xr.Dataset, mapped: xr.DataArray, labels: Any
) -> Calibration:
    if not isinstance(dataset, xr.Dataset) or "confidence" not in dataset:
        raise ConfigError("calibration needs a map with `confidence`: pass the whole Dataset.")
    codes = xr.DataArray(mapped.transpose("y", "x").data, dims=("y", "x"))
    truth = xr.DataArray(labels, dims=("y", "x"))
    sure = xr.DataArray(dataset["confidence"].transpose("y", "x").data, dims=("y", "x"))
    share = sure / 100 if sure.dtype.kind in "ui" else sure
    return confidence_calibration(
        share.where((codes != NODATA) & (truth != UNLABELLED)), codes == truth
    )


def _temperature(
    dataset: xr.DataArray | xr.Dataset, mapped: xr.DataArray, labels: Any, legend: Legend
) -> TemperatureScaling | None:
    """Fit and check on the squares of a chessboard; None where that cannot be done."""
    if not isinstance(dataset, xr.Dataset) or "probability" not in dataset:
        return None
    layers = dataset["probability"].transpose("class", "y", "x")
    rows, cols = layers.shape[1:]
    step = max(1, math.ceil(math.sqrt(rows * cols / MOST_PIXELS)))
    thin = slice(None, None, step)
    side = max(1, min(SQUARE, min(rows, cols) // LEAST_SQUARES))
    truth = np.asarray(labels[thin, thin])
    codes = np.asarray(mapped.transpose("y", "x").data[thin, thin])
    y, x = (np.arange(0, length, step) // side for length in (rows, cols))
    dark = (y[:, None] + x) % 2 == 1
    order = _order(layers, legend)
    counted = (codes != NODATA) & np.isin(truth, order)
    if not (counted & dark).any() or not (counted & ~dark).any():
        return None
    values = np.asarray(layers.data[:, thin, thin])[:, counted].T
    share = values / 100 if values.dtype.kind in "ui" else values
    least = HALF_PERCENT if values.dtype.kind in "ui" else 0.0
    positions = np.searchsorted(np.sort(order), truth[counted])
    positions = np.argsort(order)[positions]
    return calibrate(log_probability(np.maximum(share, least)), positions, held_out=dark[counted])


def _order(layers: xr.DataArray, legend: Legend) -> list[int]:
    """Codes of the layers, which are named as `classify` does, by code, or not at all."""
    if "class" not in layers.coords:
        return list(legend.codes)
    named = layers["class"].to_numpy().tolist()
    if all(name in legend.codes for name in named):
        return [int(name) for name in named]
    # Attributes join names by blanks and underscores: the plain name may have had either.
    plain = [str(name).replace("_", " ") for name in named]
    ours = [name.replace("_", " ") for name in legend.names]
    if plain == ours:
        return list(legend.codes)
    if len(set(ours)) == len(ours) and set(plain) <= set(ours):
        return [legend.codes[ours.index(name)] for name in plain]
    raise LabelError(
        f"the layers of probability are {named[:4]}, the map's legend {legend.names[:4]}: name "
        "them by the legend's names or codes."
    )


def _one_array(data: xr.DataArray | xr.Dataset, side: str) -> xr.DataArray:
    if isinstance(data, xr.DataArray):
        return data
    names = list(data.data_vars)
    if "lulc" in names or len(names) == 1:
        return data["lulc" if "lulc" in names else names[0]]
    raise LabelError(f"the {side} has {names} and no `lulc`: pass one array of it.")


def _common_legend(mapped: xr.DataArray, labels: xr.DataArray) -> Legend:
    ours, theirs = Legend.from_attrs(mapped.attrs), Legend.from_attrs(labels.attrs)
    pairs = [dict(zip(x.codes, x.names, strict=True)) for x in (ours, theirs)]
    if pairs[0] != pairs[1]:
        differing = sorted(set(pairs[0].items()) ^ set(pairs[1].items()))
        raise LabelError(
            f"the map's legend {ours.name!r} and the reference's {theirs.name!r} differ in "
            f"{differing[:4]}: translate the reference to the map's legend first."
        )
    return ours


def _mask(mask: xr.DataArray, mapped: xr.DataArray) -> Any:
    """Check that a mask is boolean and lies on the map's pixels."""
    if mask.dtype != bool:
        raise DtypeError(
            f"the mask holds {mask.dtype}, expected bool: compare it, e.g. `mask > 0`."
        )
    same = dict(mask.sizes) == {"y": mapped.sizes["y"], "x": mapped.sizes["x"]}
    named = [d for d in ("y", "x") if d in mask.coords]
    if not same or not all(np.allclose(mask[d], mapped[d], rtol=0, atol=1e-6) for d in named):
        raise GridError(
            f"the mask has {dict(mask.sizes)} pixels, the map {dict(mapped.sizes)}, or their "
            "coordinates differ: bring the mask to the map's grid."
        )
    return mask.transpose("y", "x").data
