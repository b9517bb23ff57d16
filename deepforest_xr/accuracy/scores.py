"""Every plain score of one confusion matrix, and where its disagreement comes from.

A score that is undefined (0 / 0) is NaN, never 0. Kappa is no part of `Scores`: it compares
with a chance agreement that no map maker is tempted by, so a high or low kappa says little
that overall accuracy does not; quantity and allocation disagreement say what to mend
(Pontius and Millones 2011). Who must report it calls `kappa`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from deepforest_xr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


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

    disagreement: Disagreement
    """What is not on the diagonal: too much or too little of a class, or at another place."""

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
        counts : ndarray, dims (map, reference)
            As `confusion` gives it, or shares of area (`AreaAdjusted.proportion`).
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
        right, pixels = np.diagonal(counts), counts.sum()
        mapped, support = counts.sum(axis=1), counts.sum(axis=0)
        majority = _majority(support, codes, baseline_class)
        iou = ratio(right, mapped + support - right)
        f1 = ratio(2 * right, mapped + support)
        return cls(
            codes=codes,
            overall_accuracy=float(ratio(right.sum(), pixels)),
            users_accuracy=ratio(right, mapped),
            producers_accuracy=ratio(right, support),
            f1=f1,
            iou=iou,
            support=support,
            mean_iou=_mean(iou),
            macro_f1=_mean(f1),
            disagreement=disagreement(counts),
            majority_class=majority,
            majority_baseline=float(ratio(support[codes.index(majority)], pixels)),
            pixels=int(pixels),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Disagreement:
    """What map and reference disagree on, as shares of everything compared."""

    quantity: float
    """Less than perfect match of the class totals, wherever they lie."""

    allocation: float
    """Pixels that could be swapped to agree; with `quantity` it is 1 - overall accuracy."""

    class_quantity: np.ndarray
    """Difference of mapped and reference share of each class, unsigned."""

    class_allocation: np.ndarray
    """Twice the smaller of a class's omission and commission."""


def disagreement(counts: np.ndarray) -> Disagreement:
    """Split disagreement into quantity and allocation.

    Parameters
    ----------
    counts : ndarray, dims (map, reference)
        Pixels or shares. Of a stratified sample pass `AreaAdjusted.proportion`: its counts
        say how many units were drawn, not how large the classes are.

    Returns
    -------
    Disagreement
        NaN where nothing was compared.

    Raises
    ------
    ConfigError
        If `counts` is not square.

    References
    ----------
    Pontius and Millones 2011, International Journal of Remote Sensing 32, 4407-4429,
    equations 2-5.
    """
    counts = _square(counts)
    right, total = np.diagonal(counts), counts.sum()
    commission, omission = counts.sum(axis=1) - right, counts.sum(axis=0) - right
    whole = np.full(len(counts), total)
    quantity = ratio(np.abs(commission - omission), whole)
    allocation = ratio(2 * np.minimum(commission, omission), whole)
    # Every wrong pixel is an error of two classes, hence the halves.
    return Disagreement(
        quantity=float(quantity.sum() / 2),
        allocation=float(allocation.sum() / 2),
        class_quantity=quantity,
        class_allocation=allocation,
    )


def kappa(counts: np.ndarray) -> float:
    """Cohen's kappa, for those who must report it.

    Parameters
    ----------
    counts : ndarray, dims (map, reference)

    Returns
    -------
    float
        1 at full agreement, 0 at the agreement of independent sides, NaN where undefined.

    Notes
    -----
    It stands in no report unless asked for: Pontius and Millones (2011) and Olofsson et al.
    (2014, section 4.2) advise against it. Its chance agreement is no alternative map, it
    mixes quantity with allocation, and it says nothing overall accuracy does not say.
    """
    counts = _square(counts)
    total = counts.sum()
    agreed = float(ratio(np.trace(counts), total))
    chance = float(ratio(counts.sum(axis=1) @ counts.sum(axis=0), total * total))
    return float(ratio(agreed - chance, 1 - chance)) if chance < 1 else math.nan


def _square(counts: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts, dtype="float64")
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ConfigError(f"a confusion matrix is square, got shape {counts.shape}.")
    return counts


def _majority(support: np.ndarray, codes: tuple[int, ...], given: int | None) -> int:
    if given is not None and given not in codes:
        raise ConfigError(f"the majority class {given} is not one of the codes {list(codes)}.")
    return codes[int(np.argmax(support))] if given is None else int(given)


def ratio(part: Any, whole: Any) -> np.ndarray:
    """Divide, NaN where the divisor is 0."""
    part, whole = np.asarray(part, dtype="float64"), np.asarray(whole, dtype="float64")
    result = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def _mean(scores: np.ndarray) -> float:
    present = scores[~np.isnan(scores)]
    return float(present.mean()) if present.size else math.nan
