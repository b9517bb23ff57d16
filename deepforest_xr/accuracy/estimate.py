"""Accuracy and area from a stratified random sample, with 95 % intervals.

A map's own pixel counts are biased areas: what it confuses, it counts wrongly. A sample of
reference labels drawn at random within each mapped class corrects them (Olofsson et al. 2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deepforest_xr.accuracy.scores import ratio
from deepforest_xr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Normal quantile of a two-sided 95 % interval, with the digits the paper's example has.
Z95 = 1.96


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

    mapped_area: np.ndarray
    """Area of each class in the map, same unit."""

    proportion: np.ndarray
    """Estimated shares of the whole area, dims (map, reference); the sum is 1."""


def area_adjusted(counts: np.ndarray, mapped_area: Sequence[float] | np.ndarray) -> AreaAdjusted:
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
    share = np.nan_to_num(ratio(n, np.broadcast_to(units[:, None], n.shape)))
    # Variance of each estimated share within its stratum; one unit tells nothing about it.
    variance = ratio(share * (1 - share), np.broadcast_to((units - 1)[:, None], n.shape))
    variance = np.where(weight[:, None] > 0, variance, 0.0)
    proportion = weight[:, None] * share
    right, column = np.diagonal(proportion), proportion.sum(axis=0)
    users, users_variance = ratio(np.diagonal(n), units), np.diagonal(variance)
    producers = ratio(right, column)
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
        producers_accuracy_ci95=Z95 * np.sqrt(ratio(spread, column**2)),
        area=mapped.sum() * column,
        area_ci95=Z95 * mapped.sum() * np.sqrt(weighted.sum(axis=0)),
        mapped_area=mapped,
        proportion=proportion,
    )


def _require_strata(counts: np.ndarray, mapped: np.ndarray) -> None:
    if mapped.ndim != 1 or counts.shape != (mapped.size, mapped.size):
        raise ConfigError(
            f"counts have shape {counts.shape}, mapped_area {mapped.shape}: expected one row "
            "(map class) and one column (reference class) an area."
        )
    if not (np.isfinite(counts) & (counts >= 0)).all():
        raise ConfigError("sample counts must be 0 or more, and finite.")
    if (counts != np.rint(counts)).any():
        raise ConfigError(
            f"sample counts hold {counts[counts != np.rint(counts)].flat[0]:.6g}, expected whole "
            "numbers: pass the units of each pair of classes, not their shares."
        )
    require_areas(mapped)
    if empty := np.flatnonzero((mapped > 0) & (counts.sum(axis=1) == 0)).tolist():
        raise ConfigError(f"map classes at positions {empty} have area but no sample unit.")


def require_areas(mapped: np.ndarray) -> None:
    """Raise ConfigError unless areas are 0 or more, finite, and not all 0."""
    if not (mapped >= 0).all() or not 0 < mapped.sum() < np.inf:
        raise ConfigError(f"mapped areas {mapped.tolist()} must be 0 or more, and not all 0.")
