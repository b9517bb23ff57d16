"""Reflectance and decibels as integers of 16 bits, weights of 8, as a store of chips has them.

Arrays in, arrays out: nothing here opens a file. Half the bytes of float32, and less noise
for the compressor: a step is 10^-4 of reflectance, as ESA delivers it, or 0.01 dB.

Reflectance below half a step, dark water and shadow after atmospheric correction, becomes the
lowest step, 0.0001, because 0 means missing; `pack` says where a value moved by more than
its rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How one array stands on disk."""

    dtype: str
    """Integer type."""

    steps: int
    """Integers a unit."""

    missing: int
    """Stands for NaN."""

    lowest: int
    """Smallest integer that is a value; what lies below becomes it."""

    highest: int
    """Largest integer that is a value; what lies above becomes it."""

    units: str
    """Of the values."""

    def pack(self, values: NDArray[np.floating]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Round values to steps.

        Parameters
        ----------
        values : ndarray[float], any dims
            What is not finite is missing.

        Returns
        -------
        (packed, is_clipped) : ndarray[dtype], ndarray[bool], dims of `values`
            `is_clipped` where a finite value lay outside what the integers hold.
        """
        is_value = np.isfinite(values)
        steps = np.rint(np.where(is_value, values, 0) * np.float32(self.steps))
        kept = np.clip(steps, self.lowest, self.highest)
        packed = np.where(is_value, kept, self.missing).astype(self.dtype)
        return packed, is_value & (kept != steps)

    def unpack(self, packed: NDArray[Any]) -> NDArray[np.float32]:
        """Give the values back, NaN where missing; within half a step of what was packed."""
        values = np.empty(packed.shape, dtype="float32")
        values[self.unpack_into(values, packed)] = np.nan
        return values

    def unpack_into(self, values: NDArray[np.float32], packed: NDArray[Any]) -> NDArray[np.bool_]:
        """Write the values into memory that is given.

        Parameters
        ----------
        values : ndarray[float32], any dims
            Taken; some number where a value is missing.
        packed : ndarray, dims of `values`
            Integers as `pack` gives them, or floats that are the values, NaN where missing.

        Returns
        -------
        ndarray[bool], dims of `values`
            True where a value is missing.
        """
        if packed.dtype.kind == "f":
            values[...] = packed
            return np.asarray(~np.isfinite(packed), dtype=bool)
        np.divide(packed, np.float32(self.steps), out=values, dtype="float32")
        return np.asarray(packed == self.missing, dtype=bool)

    def attributes(self) -> dict[str, Any]:
        """CF attributes: xarray decodes the array by them.

        References
        ----------
        CF conventions 1.11, section 8.1, packed data.
        """
        return {"scale_factor": 1 / self.steps, "_FillValue": self.missing, "units": self.units}


PACKINGS = {
    "s2": Packing(dtype="uint16", steps=10_000, missing=0, lowest=1, highest=65_535, units="1"),
    "s1": Packing(
        dtype="int16", steps=100, missing=-32_768, lowest=-32_767, highest=32_767, units="dB"
    ),
}
"""Of the cube's arrays; ``label`` is uint8 as it is."""

WEIGHT = Packing(dtype="uint8", steps=100, missing=255, lowest=0, highest=100, units="1")
"""Of the labels' confidence, in percent."""

STORED = {**PACKINGS, "weight": WEIGHT}
"""Of all arrays that hold values."""
