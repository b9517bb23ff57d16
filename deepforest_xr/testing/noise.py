"""Random fields for the simulation: every stream by name, every field smooth by FFT.

A stream is keyed by what it is for and, for a scene, by its day. So June is the same
June whether one month or twelve are simulated, and no purpose shifts another's numbers.
"""

from __future__ import annotations

import math
import zlib

import numpy as np

Shape = tuple[int, int]


def stream(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """Random numbers for one purpose, independent of every other purpose and key."""
    spawn_key = (zlib.crc32(purpose.encode()), *key)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=spawn_key))


def smooth(shape: Shape, *, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian field of zero mean and unit deviation, correlated over `scale` pixels.

    Parameters
    ----------
    shape : (rows, columns)
    scale : float
        Standard deviation of the smoothing kernel, pixels.
    rng : Generator

    Returns
    -------
    ndarray[float32], dims (y, x)
    """
    # An FFT wraps around: the field is made larger by the kernel's reach and cut.
    rows, cols = (32 * math.ceil((n + 3 * scale) / 32) for n in shape)
    white = rng.standard_normal((rows, cols), dtype=np.float32)
    wave2 = np.fft.fftfreq(rows)[:, None] ** 2 + np.fft.rfftfreq(cols)[None, :] ** 2
    kernel = np.exp(-2 * (math.pi * scale) ** 2 * wave2).astype("float32")
    field = np.fft.irfft2(np.fft.rfft2(white) * kernel, s=(rows, cols))[: shape[0], : shape[1]]
    return np.asarray((field - field.mean()) / field.std(), dtype="float32")


def rough(shape: Shape, *, scale: float, rng: np.random.Generator, octaves: int = 4) -> np.ndarray:
    """Sum of `smooth` fields, each half as wide and 0.6 as strong as the one before.

    Returns
    -------
    ndarray[float32], dims (y, x), zero mean, unit deviation
    """
    total = np.zeros(shape, dtype="float32")
    for octave in range(octaves):
        total += 0.6**octave * smooth(shape, scale=max(scale / 2**octave, 0.7), rng=rng)
    return np.asarray(total / total.std(), dtype="float32")


def blur(image: np.ndarray) -> np.ndarray:
    """Weights 1-6-1 along both axes: the neighbour's light in a Sentinel-2 pixel."""
    padded = np.pad(image, 1, mode="edge")
    across = 0.75 * padded[:, 1:-1] + 0.125 * (padded[:, :-2] + padded[:, 2:])
    mixed: np.ndarray = 0.75 * across[1:-1] + 0.125 * (across[:-2] + across[2:])
    return mixed
