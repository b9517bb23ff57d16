"""How good a map is: one confusion matrix, and every score from it.

Rows are map classes, columns reference classes, everywhere. A matrix is a sum over pixels,
so matrices of tiles add up to the matrix of the whole, and a dask-backed map is never in
memory at once. A score that is undefined (0 / 0) is NaN and printed as a dash, never 0.

Nothing here draws or writes a file: `deepforest_xr.maps` does.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import xarray as xr

from deepforest_xr.errors import ConfigError, DtypeError, GridError, LabelError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import NODATA, UNLABELLED, Legend

if TYPE_CHECKING:
    from collections.abc import Sequence

# Normal quantile of a two-sided 95 % interval.
Z95 = 1.959963984540054
DASH = "–"  # noqa: RUF001  what stands for "undefined"
# One position for each byte: the class's row, or one of these two.
SKIPPED, UNKNOWN = -1, -2


def confusion(map_codes: Any, reference_codes: Any, codes: Sequence[int]) -> np.ndarray:
    """Count pixels by map class and reference class.

    Parameters
    ----------
    map_codes : ndarray, dask array or DataArray of integers, any shape
        0 (no data) is not counted.
    reference_codes : same kinds, same shape
        255 (unlabelled) is not counted.
    codes : sequence of int
        Classes, in the order of rows and columns.

    Returns
    -------
    ndarray[int64], dims (map, reference)
        Pixels. Computed block by block where an input is dask-backed.

    Raises
    ------
    DtypeError
        If an input does not hold integers.
    GridError
        If the shapes differ.
    LabelError
        If a counted pixel has a code that is not in `codes`.
    """
    mapped, reference = _plain(map_codes, "map"), _plain(reference_codes, "reference")
    if mapped.shape != reference.shape:
        raise GridError(f"the map has shape {mapped.shape}, the reference {reference.shape}.")
    in_memory = isinstance(mapped, np.ndarray) and isinstance(reference, np.ndarray)
    return (_count if in_memory else _count_blocks)(mapped, reference, tuple(map(int, codes)))


def _plain(codes: Any, side: str) -> Any:
    """Array of integers, in memory or dask, without coordinates."""
    array = codes.data if isinstance(codes, xr.DataArray) else codes
    array = array if hasattr(array, "dask") else np.asarray(array)
    if array.dtype.kind not in "ui":
        raise DtypeError(
            f"confusion needs integer class codes, got {array.dtype} for the {side}: "
            "convert it with `.astype('uint8')`, NaN as 0 in a map and as 255 in a reference."
        )
    return array


def _count(mapped: np.ndarray, reference: np.ndarray, codes: tuple[int, ...]) -> np.ndarray:
    rows = _positions(mapped, codes, skipped=NODATA)
    cols = _positions(reference, codes, skipped=UNLABELLED)
    counted = (rows != SKIPPED) & (cols != SKIPPED)
    rows, cols = rows[counted], cols[counted]
    for side, positions, values in (("map", rows, mapped), ("reference", cols, reference)):
        if (positions == UNKNOWN).any():
            unknown = np.unique(values[counted][positions == UNKNOWN]).tolist()
            raise LabelError(
                f"the {side} holds codes {unknown} that are not in the legend {sorted(codes)}: "
                "use one legend for both (0 is no data in a map, 255 unlabelled in a reference)."
            )
    size = len(codes)
    return np.bincount(rows * size + cols, minlength=size * size).reshape(size, size)


def _positions(values: np.ndarray, codes: tuple[int, ...], *, skipped: int) -> np.ndarray:
    table = np.full(256, UNKNOWN, dtype="int64")
    table[list(codes)] = np.arange(len(codes))
    table[skipped] = SKIPPED
    inside = True if values.dtype == np.uint8 else (values >= 0) & (values <= UNLABELLED)
    positions: np.ndarray = table[np.where(inside, values, 0)]
    return np.where(inside, positions, UNKNOWN)


def _count_blocks(mapped: Any, reference: Any, codes: tuple[int, ...]) -> np.ndarray:
    import dask.array

    da: Any = dask.array  # ships incomplete types

    chunks = mapped.chunks if hasattr(mapped, "dask") else reference.chunks
    mapped = da.asarray(mapped).rechunk(chunks)
    reference = da.asarray(reference).rechunk(chunks)
    dims, size = mapped.ndim, len(codes)

    def count(mapped_block: np.ndarray, reference_block: np.ndarray) -> np.ndarray:
        block = _count(mapped_block, reference_block, codes)
        return block.reshape((1,) * dims + block.shape)

    blocks = da.map_blocks(
        count,
        mapped,
        reference,
        chunks=(*((1,) * n for n in mapped.numblocks), (size,), (size,)),
        new_axis=[dims, dims + 1],
        meta=np.empty((0,) * (dims + 2), dtype="int64"),
    )
    total = blocks.sum(axis=tuple(range(dims))).compute()
    return np.asarray(total, dtype="int64")


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Every score of one confusion matrix; shares from 0 to 1, NaN where undefined."""

    codes: tuple[int, ...]
    """Classes, in the order of the arrays below."""

    overall_accuracy: float
    """Share of pixels on the diagonal."""

    users_accuracy: np.ndarray
    """Precision: of the pixels mapped as a class, the share that is it."""

    producers_accuracy: np.ndarray
    """Recall: of the reference pixels of a class, the share mapped as it."""

    f1: np.ndarray
    """Harmonic mean of the two above; 0 if the class is on one side only."""

    iou: np.ndarray
    """Intersection over union."""

    support: np.ndarray
    """Reference pixels of a class."""

    mean_iou: float
    """Mean over classes present in the map or the reference."""

    macro_f1: float
    """Mean over classes present in the map or the reference."""

    majority_class: int
    """The class of `majority_baseline`."""

    majority_baseline: float
    """Overall accuracy of a map that is `majority_class` everywhere."""

    pixels: int
    """Pixels compared."""

    @classmethod
    def from_confusion(
        cls, counts: np.ndarray, codes: Sequence[int], *, baseline_class: int | None = None
    ) -> Self:
        """Work out all scores.

        Parameters
        ----------
        counts : ndarray of integers, dims (map, reference)
            As `confusion` gives it.
        codes : sequence of int
            Class of each row and column.
        baseline_class : int, optional
            Code of the most frequent class of the training part, which is what a map maker
            can know; default: the most frequent class of this reference.

        Raises
        ------
        ConfigError
            If `counts` is not square with one row a code, or `baseline_class` not a code.
        """
        counts = np.asarray(counts)
        codes = tuple(int(code) for code in codes)
        if counts.shape != (len(codes), len(codes)):
            raise ConfigError(f"{len(codes)} codes for a confusion matrix of {counts.shape}.")
        right, pixels = np.diagonal(counts), int(counts.sum())
        mapped, support = counts.sum(axis=1), counts.sum(axis=0)
        majority = _majority(support, codes, baseline_class)
        iou = _ratio(right, mapped + support - right)
        f1 = _ratio(2 * right, mapped + support)
        return cls(
            codes=codes,
            overall_accuracy=float(_ratio(right.sum(), pixels)),
            users_accuracy=_ratio(right, mapped),
            producers_accuracy=_ratio(right, support),
            f1=f1,
            iou=iou,
            support=support,
            mean_iou=_mean(iou),
            macro_f1=_mean(f1),
            majority_class=majority,
            majority_baseline=float(_ratio(support[codes.index(majority)], pixels)),
            pixels=pixels,
        )


def _majority(support: np.ndarray, codes: tuple[int, ...], given: int | None) -> int:
    if given is not None and given not in codes:
        raise ConfigError(f"the majority class {given} is not one of the codes {list(codes)}.")
    return codes[int(np.argmax(support))] if given is None else int(given)


def _ratio(part: Any, whole: Any) -> np.ndarray:
    """Divide, NaN where the divisor is 0."""
    part, whole = np.asarray(part, dtype="float64"), np.asarray(whole, dtype="float64")
    ratio = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _mean(scores: np.ndarray) -> float:
    present = scores[~np.isnan(scores)]
    return float(present.mean()) if present.size else math.nan


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """A map against its reference."""

    confusion: np.ndarray
    """Pixels, int64, dims (map, reference)."""

    legend: Legend
    """Class of each row and column."""

    scores: Scores
    """Scores of `confusion`."""

    simulated: bool = False
    """Whether map or reference come from simulated scenes."""

    def to_markdown(self) -> str:
        """Give tables for people: summary, scores of each class, confusion in pixels."""
        s = self.scores
        names = dict(zip(self.legend.codes, self.legend.names, strict=True))
        lines = ["# Accuracy", ""]
        if self.simulated:
            lines += ["**Simulated data: these scores say nothing about a real landscape.**", ""]
        summary = [
            ["pixels compared", f"{s.pixels:,}"],
            ["overall accuracy", _percent(s.overall_accuracy)],
            ["majority baseline", f"{_percent(s.majority_baseline)} ({names[s.majority_class]})"],
            ["macro F1", _percent(s.macro_f1)],
            ["mean IoU", _percent(s.mean_iou)],
        ]
        lines += [*_table(["score", "value"], summary), "", *self._class_table(), ""]
        lines += ["Pixels; rows: map, columns: reference.", "", *self._confusion_table(), ""]
        return "\n".join(lines)

    def to_json(self) -> str:
        """Give the same for programs; undefined scores are null."""
        s = self.scores
        whole = ("overall_accuracy", "majority_baseline", "macro_f1", "mean_iou")
        shares = ("users_accuracy", "producers_accuracy", "f1", "iou")
        per_class = {
            str(c.code): {name: _number(getattr(s, name)[i]) for name in shares}
            | {"name": c.name, "support": int(s.support[i])}
            for i, c in enumerate(self.legend.classes)
        }
        content = {
            "simulated": self.simulated,
            "legend": self.legend.to_dict(),
            "pixels": s.pixels,
            "majority_class": s.majority_class,
            **{name: _number(getattr(s, name)) for name in whole},
            "classes": per_class,
            "confusion_map_by_reference": self.confusion.tolist(),
        }
        return json.dumps(content, indent=2, allow_nan=False)

    def _class_table(self) -> list[str]:
        s = self.scores
        header = ["code", "class", "user's acc.", "producer's acc.", "F1", "IoU", "ref. pixels"]
        shares = zip(s.users_accuracy, s.producers_accuracy, s.f1, s.iou, strict=True)
        rows = [
            [str(c.code), c.name, *(_percent(v) for v in values), f"{n:,}"]
            for c, values, n in zip(self.legend.classes, shares, s.support, strict=True)
        ]
        return _table(header, rows)

    def _confusion_table(self) -> list[str]:
        """Only classes that occur on either side."""
        seen = np.flatnonzero(self.confusion.sum(axis=0) + self.confusion.sum(axis=1))
        names = self.legend.names
        rows = [[names[i], *(f"{self.confusion[i, j]:,}" for j in seen)] for i in seen]
        return _table(["map \\ reference", *(names[j] for j in seen)], rows)


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in [header, *rows]]
    return [lines[0], "|" + " --- |" * len(header), *lines[1:]]


def _percent(share: float) -> str:
    return DASH if math.isnan(share) else f"{100 * share:.1f} %"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def assess(
    lulc: xr.DataArray | xr.Dataset,
    reference: xr.DataArray | xr.Dataset,
    *,
    mask: xr.DataArray | None = None,
    majority_class: int | None = None,
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

    Returns
    -------
    Report
        Confusion and scores. Dask-backed inputs are computed block by block.

    Raises
    ------
    GridError
        If the grids differ.
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
    return Report(counts, legend, scores, simulated="true" in stated)


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


@dataclass(frozen=True, slots=True, eq=False)
class AreaAdjusted:
    """Estimates from a stratified sample, and half-widths of their 95 % intervals."""

    overall_accuracy: float
    """Share of the mapped area that is right."""

    overall_accuracy_ci95: float
    """Half-width, a share."""

    users_accuracy: np.ndarray
    """Share of a mapped class that is it."""

    users_accuracy_ci95: np.ndarray
    """Half-widths, shares."""

    producers_accuracy: np.ndarray
    """Share of a class's true area that is mapped as it."""

    producers_accuracy_ci95: np.ndarray
    """Half-widths, shares."""

    area: np.ndarray
    """Estimated true area of each class, in the unit of `mapped_area`."""

    area_ci95: np.ndarray
    """Half-widths, same unit."""


def area_adjusted(counts: np.ndarray, mapped_area: Sequence[float]) -> AreaAdjusted:
    """Estimate accuracy and area from a sample drawn at random within each mapped class.

    Parameters
    ----------
    counts : ndarray, dims (map, reference)
        Sample units; the strata are the map classes.
    mapped_area : sequence of float
        Mapped area of each class, any unit (pixels, hectares).

    Returns
    -------
    AreaAdjusted
        NaN where a class has too few units: two a stratum are needed for an interval.

    Raises
    ------
    ConfigError
        If the shapes do not agree, or a class with mapped area has no sample unit.

    References
    ----------
    Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57, equations 1-11.
    """
    n = np.asarray(counts, dtype="float64")
    mapped = np.asarray(mapped_area, dtype="float64")
    _require_strata(n, mapped)
    weight, units = mapped / mapped.sum(), n.sum(axis=1)
    share = np.nan_to_num(_ratio(n, np.broadcast_to(units[:, None], n.shape)))
    # Variance of each estimated share within its stratum; one unit tells nothing about it.
    variance = _ratio(share * (1 - share), np.broadcast_to((units - 1)[:, None], n.shape))
    variance = np.where(weight[:, None] > 0, variance, 0.0)
    proportion = weight[:, None] * share
    right, column = np.diagonal(proportion), proportion.sum(axis=0)
    users, users_variance = _ratio(np.diagonal(n), units), np.diagonal(variance)
    producers = _ratio(right, column)
    weighted = weight[:, None] ** 2 * variance
    own = np.diagonal(weighted)
    # Equation 7: a class's own stratum weighs (1 - P)², the others P².
    spread = own * (1 - producers) ** 2 + producers**2 * (weighted.sum(axis=0) - own)
    return AreaAdjusted(
        overall_accuracy=float(right.sum()),
        overall_accuracy_ci95=float(Z95 * np.sqrt(own.sum())),
        users_accuracy=users,
        users_accuracy_ci95=Z95 * np.sqrt(users_variance),
        producers_accuracy=producers,
        producers_accuracy_ci95=Z95 * np.sqrt(_ratio(spread, column**2)),
        area=mapped.sum() * column,
        area_ci95=Z95 * mapped.sum() * np.sqrt(weighted.sum(axis=0)),
    )


def _require_strata(counts: np.ndarray, mapped: np.ndarray) -> None:
    if mapped.ndim != 1 or counts.shape != (mapped.size, mapped.size):
        raise ConfigError(
            f"counts have shape {counts.shape}, mapped_area {mapped.shape}: expected one row "
            "(map class) and one column (reference class) an area."
        )
    if not (mapped >= 0).all() or not 0 < mapped.sum() < np.inf:
        raise ConfigError(f"mapped areas {mapped.tolist()} must be 0 or more, and not all 0.")
    if empty := np.flatnonzero((mapped > 0) & (counts.sum(axis=1) == 0)).tolist():
        raise ConfigError(f"map classes at positions {empty} have area but no sample unit.")
