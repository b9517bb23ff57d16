"""How many reference points an accuracy assessment needs, and how many of them each class.

Numbers in, numbers out: `deepforest_xr.accuracy.draw_points` says where they lie.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from deepforest_xr.accuracy.estimate import require_areas
from deepforest_xr.accuracy.scores import ratio
from deepforest_xr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

Allocation = Literal["olofsson", "proportional", "equal", "neyman"]
# An interval needs a variance, and a variance two units.
LEAST_UNITS = 2


@dataclass(frozen=True, slots=True, eq=False)
class SamplePlan:
    """How many points each class gets, and what they can be expected to tell."""

    units: np.ndarray
    """Points of each class, int64; 0 where a class has no mapped area."""

    required: int
    """Points that equation 13 asks for; `units` may sum to more, or to a given total."""

    allocation: Allocation
    """How the points were shared out."""

    standard_error: float
    """Of overall accuracy, if the expected user's accuracies hold; a share."""

    users_standard_error: np.ndarray
    """Of each class's user's accuracy, under the same condition; shares."""

    @property
    def total(self) -> int:
        """Points in all."""
        return int(self.units.sum())


def plan_sample(
    mapped_area: Sequence[float] | np.ndarray,
    users_accuracy: float | Sequence[float] | np.ndarray,
    *,
    standard_error: float = 0.01,
    total: int | None = None,
    allocation: Allocation = "olofsson",
    minimum: int = 50,
) -> SamplePlan:
    """Plan a stratified random sample whose strata are the map classes.

    Parameters
    ----------
    mapped_area : sequence of float
        Mapped area of each class, any unit, or shares.
    users_accuracy : float or sequence of float
        Expected user's accuracy, of all classes or of each, 0 to 1.
    standard_error : float
        Wanted for overall accuracy, a share.
    total : int, optional
        Points that can be labelled; default: what `standard_error` needs.
    allocation : str
        ``"olofsson"`` gives every class `minimum` and shares the rest by area among the
        classes that area alone brings above it; ``"proportional"`` shares by area,
        ``"neyman"`` by area times standard deviation (the best for overall accuracy),
        ``"equal"`` evenly (the best for user's accuracies). None goes below two a class.
    minimum : int
        Points of a rare class with ``"olofsson"``, which advises 50 to 100.

    Returns
    -------
    SamplePlan
        Where `total` is not given and `minimum` in each class is more than needed, the
        sample grows.

    Raises
    ------
    ConfigError
        If a value is out of range, or `total` is too small for the least of each class.

    References
    ----------
    Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57, equation 13 and section
    5.1; Cochran 1977, Sampling Techniques, equation 5.25.
    """
    area = np.asarray(mapped_area, dtype="float64")
    users = _require_plan(area, users_accuracy, standard_error, allocation, minimum)
    weight, deviation = area / area.sum(), np.sqrt(users * (1 - users))
    # Rounded before it is rounded up: 640.0000000000001 points are 640.
    required = math.ceil(round(float((weight @ deviation / standard_error) ** 2), 6))
    strata = area > 0
    least = max(minimum, LEAST_UNITS) if allocation == "olofsson" else LEAST_UNITS
    needed = least * int(strata.sum())
    if total is not None and total < needed:
        raise ConfigError(
            f"total={total} points are too few for {least} in each of {int(strata.sum())} mapped "
            f"classes: label at least {needed}, or lower `minimum`."
        )
    shares = {"equal": strata.astype("float64"), "neyman": weight * deviation}
    units = _share_out(
        max(required, needed) if total is None else int(total),
        _usable(shares.get(allocation, weight), weight),
        np.where(strata, least, 0),
    )
    variance = ratio(deviation**2, units - 1)
    return SamplePlan(
        units=units,
        required=required,
        allocation=allocation,
        standard_error=float(np.sqrt((weight[strata] ** 2 * variance[strata]).sum())),
        users_standard_error=np.sqrt(variance),
    )


def _usable(shares: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Shares, or areas where all shares are 0: accuracies of 1 leave nothing to weigh."""
    return shares if shares.sum() > 0 else weight


def _share_out(total: int, shares: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Whole points by `shares`, none below `least`, the sum exactly `total`."""
    fixed = np.zeros(shares.size, dtype=bool)
    while True:
        free = total - least[fixed].sum()
        open_shares = np.where(fixed, 0.0, shares)
        if open_shares.sum() == 0:
            open_shares = np.where(least > 0, 1.0, 0.0)
        wanted = free * open_shares / open_shares.sum()
        below = ~fixed & (wanted < least)
        if not below.any():
            break
        # What one class is given, the others lose: some of them may fall below in turn.
        fixed |= below
    units = np.floor(wanted + 1e-9).astype("int64")
    # The largest remainders get the points that rounding down left over.
    order = np.argsort(units - wanted, kind="stable")
    units[order[: int(free) - int(units.sum())]] += 1
    points: np.ndarray = np.where(fixed, least + units, units).astype("int64")
    return points


def _require_plan(
    area: np.ndarray,
    users_accuracy: float | Sequence[float] | np.ndarray,
    standard_error: float,
    allocation: str,
    minimum: int,
) -> np.ndarray:
    """Check what a plan is made from; give the user's accuracy of each class."""
    users = np.asarray(users_accuracy, dtype="float64")
    if area.ndim != 1 or users.shape not in ((), area.shape):
        raise ConfigError(
            f"{area.size} mapped areas and {users.size} user's accuracies: give one a class."
        )
    require_areas(area)
    if not ((users >= 0) & (users <= 1)).all():
        raise ConfigError(f"user's accuracies {users.tolist()} are shares, 0 to 1.")
    if not 0 < standard_error < 1:
        raise ConfigError(f"standard_error={standard_error} is not a share above 0; try 0.01.")
    if allocation not in get_args(Allocation):
        known = ", ".join(get_args(Allocation))
        raise ConfigError(f"allocation={allocation!r} is unknown; known: {known}.")
    if minimum < 0:
        raise ConfigError(f"minimum={minimum} points is negative; 50 to 100 are advised.")
    return np.broadcast_to(users, area.shape)
