"""Whether a map's confidence can be believed: bins that add up, and one temperature.

A calibrated map is right in 80 of 100 pixels that it calls 80 % sure. The sums of a bin
add up over tiles, and every figure is a formula of the sums. Dividing the logits by one
temperature mends most of what is wrong with a network's confidence and changes no class.

References: Guo, Pleiss, Sun and Weinberger 2017, On Calibration of Modern Neural Networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from deepforest_xr.accuracy.scores import ratio
from deepforest_xr.errors import ConfigError, DtypeError, GridError, LabelError
from deepforest_xr.legend import UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Sequence

BINS = 15
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 100.0
PERCENT = 100
# A probability of 0 has no logarithm, and a float32 softmax reaches it.
LEAST_PROBABILITY = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Sums of each bin of confidence; the bins are equal parts of 0 to 1, closed above."""

    count: np.ndarray
    """Pixels, int64, dims (bin,)."""

    confidence: np.ndarray
    """Sum of their confidence, float64, dims (bin,)."""

    hits: np.ndarray
    """How many of them are right, int64, dims (bin,)."""

    def __add__(self, other: Calibration) -> Calibration:
        if self.count.size != other.count.size:
            raise ConfigError(
                f"calibrations of {self.count.size} and {other.count.size} bins do not add up."
            )
        return Calibration(
            self.count + other.count, self.confidence + other.confidence, self.hits + other.hits
        )

    @property
    def pixels(self) -> int:
        """Pixels in all bins."""
        return int(self.count.sum())

    @property
    def edges(self) -> np.ndarray:
        """Bounds of the bins, one more than bins."""
        return np.linspace(0, 1, self.count.size + 1)

    @property
    def accuracy(self) -> np.ndarray:
        """Share of right pixels of each bin, NaN where it is empty."""
        return ratio(self.hits, self.count)

    @property
    def mean_confidence(self) -> np.ndarray:
        """Mean confidence of each bin, NaN where it is empty."""
        return ratio(self.confidence, self.count)

    @property
    def expected_error(self) -> float:
        """Expected calibration error: mean gap of accuracy and confidence, by pixels."""
        return float(ratio(np.abs(self.hits - self.confidence).sum(), self.count.sum()))

    @property
    def largest_error(self) -> float:
        """Maximum calibration error: gap of the worst bin."""
        gaps = np.abs(self.accuracy - self.mean_confidence)
        return float(np.nanmax(gaps)) if self.count.any() else float("nan")


def confidence_calibration(confidence: Any, correct: Any, *, bins: int = BINS) -> Calibration:
    """Sum up, bin by bin, how sure a map is and how often it is right.

    Parameters
    ----------
    confidence : ndarray, dask array or DataArray, any shape
        Shares from 0 to 1, or integers in percent; NaN is not counted.
    correct : same kinds, bool, same shape
        Whether the map is right.
    bins : int
        Equal parts of 0 to 1.

    Returns
    -------
    Calibration
        Computed block by block where an input is dask-backed.

    Raises
    ------
    ConfigError
        If `bins` is not positive, or a confidence is outside 0 to 1.
    DtypeError
        If `correct` is not boolean.
    GridError
        If the shapes differ.
    """
    sure, right = _bare(confidence), _bare(correct)
    if right.dtype != bool:
        raise DtypeError(f"`correct` holds {right.dtype}, expected bool: compare map and labels.")
    if sure.shape != right.shape:
        raise GridError(f"confidence has shape {sure.shape}, `correct` {right.shape}.")
    if bins < 1:
        raise ConfigError(f"bins={bins} is not positive; 15 is usual.")
    if isinstance(sure, np.ndarray) and isinstance(right, np.ndarray):
        return _from_sums(_sums(sure, right, bins))
    return _from_sums(_sums_of_blocks(sure, right, bins))


def calibration(
    probability: Any, reference: Any, *, codes: Sequence[int] | None = None, bins: int = BINS
) -> Calibration:
    """Compare the probability of the most probable class with how often it is right.

    Parameters
    ----------
    probability : ndarray, dask array or DataArray, dims (class, ...)
        Shares from 0 to 1, or integers in percent; NaN, or 0 in all classes, is no data.
    reference : same kinds, integers, dims (...)
        Class codes; 255 is unlabelled.
    codes : sequence of int, optional
        Class of each layer; default: the coordinate ``class`` of `probability`.
    bins : int
        Equal parts of 0 to 1.

    Returns
    -------
    Calibration

    Raises
    ------
    ConfigError
        If the classes are unknown or do not fit the layers.
    GridError
        If the shapes differ.
    """
    layers, labels = _bare(probability), _bare(reference)
    if codes is None and isinstance(probability, xr.DataArray) and "class" in probability.coords:
        codes = [int(code) for code in probability.coords["class"]]
    if codes is None or len(codes) != layers.shape[0]:
        raise ConfigError(
            f"probability has {layers.shape[0]} layers, codes={codes}: give one code a layer."
        )
    if layers.shape[1:] != labels.shape:
        raise GridError(f"probability has shape {layers.shape}, the reference {labels.shape}.")
    highest = layers.max(axis=0)
    top = np.asarray(codes)[layers.argmax(axis=0)] if isinstance(layers, np.ndarray) else None
    if top is None:
        top = layers.argmax(axis=0).map_blocks(lambda block: np.asarray(codes)[block], dtype=int)
    scale = PERCENT if layers.dtype.kind in "ui" else 1
    counted = (labels != UNLABELLED) & (highest > 0)
    return confidence_calibration(_where(counted, highest / scale), top == labels, bins=bins)


def _where(counted: Any, values: Any) -> Any:
    """`values`, NaN where they are not counted."""
    if isinstance(counted, np.ndarray) and isinstance(values, np.ndarray):
        return np.where(counted, values, np.nan)
    import dask.array

    da: Any = dask.array
    return da.where(counted, values, np.nan)


def _bare(data: Any) -> Any:
    """Array in memory or dask, without coordinates."""
    array = data.data if isinstance(data, xr.DataArray) else data
    return array if hasattr(array, "dask") else np.asarray(array)


def _sums(confidence: np.ndarray, correct: np.ndarray, bins: int) -> np.ndarray:
    """Count, summed confidence and hits of each bin, dims (3, bin)."""
    share = confidence / PERCENT if confidence.dtype.kind in "ui" else confidence
    kept = ~np.isnan(share)
    share, right = share[kept].astype("float64"), correct[kept]
    if share.size and not (share.min() >= 0 and share.max() <= 1 + 1e-6):
        raise ConfigError(
            f"confidence reaches from {share.min():g} to {share.max():g}: expected shares from "
            "0 to 1, or integers in percent; logits go through a softmax first."
        )
    place = np.digitize(share, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    count = np.bincount(place, minlength=bins)
    total = np.bincount(place, weights=share, minlength=bins)
    return np.stack([count, total, np.bincount(place, weights=right, minlength=bins)])


def _from_sums(sums: np.ndarray) -> Calibration:
    return Calibration(sums[0].astype("int64"), sums[1], np.rint(sums[2]).astype("int64"))


def _sums_of_blocks(confidence: Any, correct: Any, bins: int) -> np.ndarray:
    import dask.array

    da: Any = dask.array  # ships incomplete types
    chunks = confidence.chunks if hasattr(confidence, "dask") else correct.chunks
    sure, right = (da.asarray(side).rechunk(chunks) for side in (confidence, correct))
    dims = sure.ndim

    def one(confidence_block: np.ndarray, correct_block: np.ndarray) -> np.ndarray:
        return _sums(confidence_block, correct_block, bins).reshape((1,) * dims + (3, bins))

    blocks = da.map_blocks(
        one,
        sure,
        right,
        chunks=(*((1,) * n for n in sure.numblocks), (3,), (bins,)),
        new_axis=[dims, dims + 1],
        meta=np.empty((0,) * (dims + 2)),
    )
    return np.asarray(blocks.sum(axis=tuple(range(dims))).compute())


def temperature_scale(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """Fit the temperature that logits are divided by, on data not trained on.

    Parameters
    ----------
    logits : ndarray of floats, dims (sample, class)
        Before the softmax, or the logarithm of its result.
    labels : ndarray of integers, dims (sample,)
        Position of the right class.
    weights : ndarray of floats, dims (sample,), optional
        How much each sample counts, not negative; default: all alike.

    Returns
    -------
    float
        The minimum of the negative log-likelihood: 1 where the confidence is calibrated,
        above it where it is too high. Held between 0.01 and 100.

    Raises
    ------
    GridError
        If the shapes do not agree.
    LabelError
        If a label is no class, or there is none of any weight.
    """
    from scipy.optimize import minimize_scalar

    scores, right = _require_logits(logits, labels)
    share = np.ones(right.size) if weights is None else np.asarray(weights, dtype="float64")
    if share.shape != right.shape:
        raise GridError(f"weights have shape {share.shape}, labels {right.shape}: expected alike.")
    if not (np.isfinite(share).all() and share.min() >= 0 and share.any()):
        raise LabelError("weights of labels are finite, not negative and not all 0.")
    # The log-likelihood is concave in 1 / T, so the one minimum is found in log T as well.
    found = minimize_scalar(
        lambda log_t: _likelihood_loss(scores / np.exp(log_t), right, share),
        bounds=(np.log(LOWEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE)),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(np.exp(found.x))


def apply_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities of logits (sample, class) divided by a temperature; no class changes."""
    if not temperature > 0:
        raise ConfigError(f"temperature={temperature} is not positive.")
    scaled = np.asarray(logits, dtype="float64") / temperature
    power = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probability: np.ndarray = power / power.sum(axis=1, keepdims=True)
    return probability


@dataclass(frozen=True, slots=True, eq=False)
class TemperatureScaling:
    """A temperature, and what it does to pixels it was not fitted on."""

    temperature: float
    """What logits are divided by."""

    before: Calibration
    """Held-out pixels as they are."""

    after: Calibration
    """Held-out pixels with the temperature."""


def calibrate(
    logits: np.ndarray, labels: np.ndarray, *, held_out: np.ndarray, bins: int = BINS
) -> TemperatureScaling:
    """Fit a temperature on one part of the pixels and check it on the other.

    Parameters
    ----------
    logits : ndarray of floats, dims (sample, class)
    labels : ndarray of integers, dims (sample,)
        Position of the right class.
    held_out : ndarray[bool], dims (sample,)
        True for the pixels to check on. Neighbouring pixels are alike: hold out whole areas.
    bins : int
        Of both calibrations.

    Raises
    ------
    LabelError
        If one of the parts is empty, or a label is no class.
    """
    scores, right = _require_logits(logits, labels)
    held_out = np.asarray(held_out, dtype=bool)
    temperature = temperature_scale(scores[~held_out], right[~held_out])
    kept, truth = _require_logits(scores[held_out], right[held_out])
    hit = kept.argmax(axis=1) == truth
    before, after = (
        confidence_calibration(apply_temperature(kept, t).max(axis=1), hit, bins=bins)
        for t in (1.0, temperature)
    )
    return TemperatureScaling(temperature, before, after)


def log_probability(probability: np.ndarray) -> np.ndarray:
    """Logits up to a constant: what a map that kept probabilities can be scaled by."""
    logits: np.ndarray = np.log(np.maximum(probability, LEAST_PROBABILITY))
    return logits


def _likelihood_loss(scores: np.ndarray, right: np.ndarray, weights: np.ndarray) -> float:
    """Weighted mean negative log-likelihood of the right classes."""
    top = scores.max(axis=1, keepdims=True)
    normal = np.log(np.exp(scores - top).sum(axis=1)) + top[:, 0]
    return float(np.average(normal - scores[np.arange(right.size), right], weights=weights))


def _require_logits(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, right = np.asarray(logits, dtype="float64"), np.asarray(labels)
    if scores.ndim != 2 or right.shape != scores.shape[:1]:
        raise GridError(
            f"logits have shape {scores.shape}, labels {right.shape}: expected (sample, class) "
            "and (sample,)."
        )
    if not right.size:
        raise LabelError("no labelled sample to fit or check a temperature on.")
    if right.dtype.kind not in "ui" or right.min() < 0 or right.max() >= scores.shape[1]:
        raise LabelError(
            f"labels are positions from 0 to {scores.shape[1] - 1}, got {right.dtype} from "
            f"{right.min()} to {right.max()}."
        )
    if not np.isfinite(scores).all():
        raise ConfigError("logits hold NaN or infinity: leave pixels without data out.")
    return scores, right
