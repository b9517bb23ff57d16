"""Fully connected conditional random field: the last step of the paper, without its seams.

Mean-field inference of Krahenbuehl and Koltun (2011) as in pydensecrf, with the paper's
parameters. It approximates Gaussian filters on a lattice of feature space. The published
deployment ran it per block; blocks then differ for two reasons, and both are met here.

- Pixels beyond the block: every block sees `halo` pixels of its neighbours. One filter ends
  after a few `bilateral_sdims` and ten iterations reach ten times as far, but the influence
  fades: see `HALO`. Blocks are not exact, they agree as far as was measured.
- The lattice began at the block's corner, so that the same pixel fell into another cell.
  Here it is fixed to the map: positions count from a corner of the lattice that is the
  same seen from every block.

Pixels without data, or without reflectance where that is asked for, are no part of the
field: they stay what they are and have no voice.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr

from deepforest_xr.errors import BandMismatchError, ConfigError, GridError, MissingExtraError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import NODATA
from deepforest_xr.postprocess.blocks import (
    FLOOR,
    apply,
    as_planes,
    refilled,
    replaced,
    require_map,
    require_probability,
    stacked,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deepforest_xr.legend import Legend

HALO = 64
"""Pixels around a block.

Measured on a simulated scene of 256 x 256 pixels, blocks of 64 against one pass with the
paper's parameters, ten bands: classes that differ 252 without halo, 17 with 16 pixels, 2 with
32, 0 with 64; probabilities by 1 % at most with 64. Three bands: 982, 85, 9, 0, and 1 %. With
the lattice at each block's corner 343 classes differ even with 64. Other parameters reach
farther: take six times `bilateral_sdims` at least.
"""

UNARY = ("probability", "labels")
IMAGE = ("reflectance", "labels")

FAR = 100.0
"""Standard deviations between the labels of two classes, where labels are the image: that is
the paper's 1 / 0.01, and no kernel reaches over it."""

MOST_CLASSES = 100
"""Of a legend, where labels are the image: their places on the lattice are 16-bit numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrfSettings:
    """What the field is made of; the numbers are the paper's (Cherif et al. 2022)."""

    unary: str = "probability"
    """What a pixel says for itself: ``"probability"``, or ``"labels"``, the map's class alone."""

    image: str = "reflectance"
    """What makes pixels alike: ``"reflectance"``, or ``"labels"``: only the same class is alike."""

    iterations: int = 10
    """Of the mean field."""

    gaussian_sxy: float = 1.0
    """Standard deviation of the smoothness kernel in pixels."""

    gaussian_compat: float = 3.0
    """Weight of the smoothness kernel (Potts)."""

    bilateral_sdims: float = 10.0
    """Standard deviation of the appearance kernel in pixels."""

    bilateral_schan: float = 0.01
    """Standard deviation of the appearance kernel in units of the image: reflectance."""

    bilateral_compat: float = 4.0
    """Weight of the appearance kernel (Potts)."""

    certainty: float = 0.7
    """Probability that a class of the map is right, where labels are the unary term. The paper
    does not say; 0.7 is that of pydensecrf's example."""

    def __post_init__(self) -> None:
        for name, known in (("unary", UNARY), ("image", IMAGE)):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name}={getattr(self, name)!r} is not known; expected {' or '.join(known)}."
                )
        for name in ("gaussian_sxy", "bilateral_sdims", "bilateral_schan"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name}={getattr(self, name)} is not positive.")
        if self.iterations < 1:
            raise ConfigError(f"iterations={self.iterations} is not positive; the paper takes 10.")
        if not 0 < self.certainty < 1:
            raise ConfigError(f"certainty={self.certainty} is not between 0 and 1; try 0.7.")


def dense_crf(
    result: xr.Dataset,
    cube: xr.Dataset | None = None,
    *,
    paper: bool = False,
    bands: Sequence[str] | None = None,
    settings: CrfSettings | None = None,
    halo: int = HALO,
    block: int = 256,
) -> xr.Dataset:
    """Refine a map with a dense CRF on its probabilities and the reflectance.

    Needs the extra ``crf``. Not exact over block borders: see the top of this file.

    Parameters
    ----------
    result : Dataset
        From ``classify(..., probability=True)``; with `paper` ``lulc`` is enough.
    cube : Dataset, optional
        What was classified, on the grid of `result`: ``s2 (band, y, x)`` reflectance, NaN
        where missing. Only for the image term ``"reflectance"``.
    paper : bool
        As published, on the arg-max: whatever `settings` says, unary term and image are both
        the labels. It changes next to nothing: a pixel's own class outweighs its neighbours.
    bands : sequence of str, optional
        Bands of the image; default: all of the cube's ``s2``.
    settings : CrfSettings, optional
        Default: the paper's parameters.
    halo : int
        Pixels around a block.
    block : int
        Side of a block in pixels. With ten bands a pixel of block and halo takes up to 3 KB.

    Returns
    -------
    Dataset
        As `result`, lazy where it is, 0 where it was: ``lulc``, ``confidence`` and
        ``probability`` of the mean field, which is surer than it should be. With the unary
        term ``"labels"`` the probabilities stay the network's, and ``confidence`` is as in
        `majority`.
        ``attrs["postprocess"]`` says what was done.

    Raises
    ------
    ConfigError
        If probabilities or the cube are missing, or `halo` or `block` cannot be.
    GridError
        If the cube is on another grid.
    BandMismatchError
        If the cube lacks ``s2`` or a band.
    MissingExtraError
        If pydensecrf2 is not installed.
    LabelError, DtypeError
        If `result` is no map.

    References
    ----------
    Krahenbuehl and Koltun (2011), Efficient inference in fully connected CRFs with Gaussian
    edge potentials. NIPS 24. Adams et al. (2010), Fast high-dimensional filtering using the
    permutohedral lattice. Computer Graphics Forum 29(2).
    """
    settings = settings or CrfSettings()
    if paper:
        settings = replace(settings, unary="labels", image="labels")
    legend = require_map(result)
    if halo < 0 or block < 1:
        raise ConfigError(f"halo={halo}, block={block}: expected 0 or more and a positive number.")
    has_shares = settings.unary == "probability"
    inputs = [_state(result, has_shares=has_shares), _positions(result)]
    if settings.image == "reflectance":
        inputs.append(_image(result, cube, bands))
    else:
        _require_few(legend)
    _library()  # missing, it is said here and not by a worker
    planes = apply(
        partial(_field, codes=np.array(legend.codes, dtype="uint8"), settings=settings),
        *(a.chunk({"plane": -1, "y": block, "x": block}) for a in inputs),
        depth=halo,
        planes=2 + len(legend.classes) if has_shares else 1,
    )
    if result["lulc"].chunks is None:
        planes = planes.compute()
    else:
        planes = planes.rechunk({1: _kept(result, "y"), 2: _kept(result, "x")})
    how = ", ".join(f"{name}={value}" for name, value in asdict(settings).items())
    step = f"dense_crf({how}, halo={halo})"
    return refilled(result, planes, step) if has_shares else replaced(result, planes[0], step)


def _state(result: xr.Dataset, *, has_shares: bool) -> xr.DataArray:
    if not has_shares:
        return stacked(result["lulc"])
    return stacked(result["lulc"], require_probability(result, "dense_crf"))


def _require_few(legend: Legend) -> None:
    if len(legend.classes) > MOST_CLASSES:
        raise ConfigError(
            f"the legend has {len(legend.classes)} classes; labels as the image take up to "
            f"{MOST_CLASSES}: take the reflectance."
        )


def _image(
    result: xr.Dataset, cube: xr.Dataset | None, bands: Sequence[str] | None
) -> xr.DataArray:
    if cube is None:
        raise ConfigError(
            "dense_crf needs the cube that was classified, for its reflectance: pass it, or "
            "paper=True, which works on the labels alone."
        )
    if "s2" not in cube:
        raise BandMismatchError("the cube has no `s2` (band, y, x): pass the one of open_cube.")
    mine, theirs = Grid.of(result), Grid.of(cube)
    if mine != theirs:
        raise GridError(
            f"the cube is on another grid: {theirs.describe()}; the map: {mine.describe()}. Pass "
            "the cube that was classified."
        )
    there = [str(b) for b in cube["band"].to_numpy()]
    wanted = there if bands is None else list(bands)
    if missing := [b for b in wanted if b not in there]:
        raise BandMismatchError(f"the cube lacks {missing[0]}; it has {', '.join(there)}.")
    return stacked(cube["s2"].sel(band=wanted).transpose("band", "y", "x").astype("float32"))


def _positions(result: xr.Dataset) -> xr.DataArray:
    """Row and column of every pixel in the map: they travel with the blocks."""
    rows, cols = result["lulc"].shape
    planes = da.stack(
        [
            da.broadcast_to(da.arange(rows, dtype="float32")[:, None], (rows, cols)),
            da.broadcast_to(da.arange(cols, dtype="float32")[None], (rows, cols)),
        ]
    )
    return xr.DataArray(planes, dims=("plane", "y", "x"))


def _kept(result: xr.Dataset, dim: str) -> tuple[int, ...]:
    kept: tuple[int, ...] = result["lulc"].chunksizes[dim]
    return kept


def _field(
    planes: NDArray[np.uint8],
    position: NDArray[np.float32],
    image: NDArray[np.float32] | None = None,
    *,
    codes: NDArray[np.uint8],
    settings: CrfSettings,
) -> NDArray[np.uint8]:
    """Classes, confidence and probabilities of a window; of labels, only classes."""
    lulc = planes[0]
    taking_part = lulc != NODATA
    if image is not None:
        taking_part &= np.isfinite(image).all(axis=0)
    has_shares = len(planes) > 1
    out = planes.copy()
    if has_shares:
        out = np.concatenate([planes[:1], planes[1:].max(axis=0)[None], planes[1:]])
    if not taking_part.any():
        return out
    number = _channel_of(codes)[lulc[taking_part]]
    channels = (number + 1.0)[None] * settings.bilateral_schan * FAR
    if image is not None:
        channels = image[:, taking_part].astype("float64")
    shares = _labelled(number, len(codes), settings.certainty)
    if has_shares:
        shares = planes[1:, taking_part] / 100
    found = mean_field(shares, position[:, taking_part].astype("float64"), channels, settings)
    if has_shares:
        # Planes of pixels side by side: one row of a map.
        out[:, taking_part] = as_planes(found, np.ones(found.shape[1:], dtype=bool), codes)
    else:
        out[0, taking_part] = codes[found.argmax(axis=0)]
    return out


def _channel_of(codes: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Position in the legend, by code."""
    table = np.zeros(256, dtype=np.intp)
    table[codes] = np.arange(len(codes))
    return table


def _labelled(index: NDArray[np.intp], classes: int, certainty: float) -> NDArray[np.float64]:
    """Shares (class, pixel) of labels that are right with a certainty."""
    shares = np.full((classes, index.size), (1 - certainty) / max(classes - 1, 1))
    shares[index, np.arange(index.size)] = certainty
    return shares


def mean_field(
    shares: NDArray[np.float64],
    at: NDArray[np.float64],
    channels: NDArray[np.float64],
    settings: CrfSettings,
) -> NDArray[np.float32]:
    """Run the inference on the pixels that take part.

    Parameters
    ----------
    shares : ndarray[float64], (class, pixel)
        Probabilities; below 0.25 % they count as that.
    at : ndarray[float64], (2, pixel)
        Row and column in the map.
    channels : ndarray[float64], (channel, pixel)
        The image.
    settings : CrfSettings

    Returns
    -------
    ndarray[float32], (class, pixel)
        They add up to 1.
    """
    field = _library().DenseCRF(shares.shape[1], shares.shape[0])
    field.setUnaryEnergy(np.ascontiguousarray(-np.log(np.maximum(shares, FLOOR / 100)), "float32"))
    near = np.ascontiguousarray(_on_lattice(at, settings.gaussian_sxy), "float32")
    field.addPairwiseEnergy(near, float(settings.gaussian_compat))
    alike = np.concatenate(
        [_on_lattice(at, settings.bilateral_sdims), channels / settings.bilateral_schan]
    )
    field.addPairwiseEnergy(
        np.ascontiguousarray(alike, "float32"), float(settings.bilateral_compat)
    )
    return np.asarray(field.inference(settings.iterations), "float32").reshape(shares.shape)


def _on_lattice(at: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Positions in standard deviations, from a near corner of the lattice.

    Moved by sqrt(3) along the first feature, or by 3 along the second, the permutohedral
    lattice lies on itself, whatever the number of features. Small numbers keep float32 exact
    enough and the lattice's 16-bit keys from running over on wide maps.
    """
    period = np.array([[math.sqrt(3)], [3.0]])
    scaled = at / sigma
    near: NDArray[np.float64] = scaled - period * np.floor(
        scaled.min(axis=1, keepdims=True) / period
    )
    return near


def _library() -> Any:
    try:
        return import_module("pydensecrf.densecrf")
    except ImportError as error:
        raise MissingExtraError(
            'dense_crf needs pydensecrf2: pip install "deepforest-xr[crf]" (it is compiled on '
            "the way, which takes a C++ compiler)."
        ) from error
