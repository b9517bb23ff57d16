"""Sentinel-2 items to one lazy composite: offset, clouds, dates to one image.

Each chunk is one task that takes all its dates: what lies between the files and the composite
is never held for more than the strip of rows being worked on.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr

from deepforest_xr.catalogs import NATIVE_M, asset_for, catalog_of
from deepforest_xr.cube.metadata import period, require_bands, summary
from deepforest_xr.engines import Layer, stack, whole
from deepforest_xr.errors import MissingAssetError
from deepforest_xr.sentinel import composite, s2
from deepforest_xr.sentinel.prepare import ClearMask, CloudDistance

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pystac
    from numpy.typing import NDArray

    from deepforest_xr.engines import Source

log = logging.getLogger(__name__)

COMPOSITES = {
    "median": "median of each band over the clear dates",
    "medoid": "clear date whose spectrum is nearest to all others",
    "geomad": "geometric median over the clear dates",
    "best-pixel": "clear date farthest from clouds",
}
"""Ways from many dates to one image."""

SCATTER = {
    "s2_emad": "median Euclidean distance to the geometric median",
    "s2_smad": "median spectral distance to the geometric median (1 - cosine)",
    "s2_bcmad": "median Bray-Curtis distance to the geometric median",
}
"""Variables that ``geomad`` adds."""

STRIP_BYTES = 2**26
"""Reflectance held at once by a composite that needs whole spectra."""

IMPLAUSIBLE = -0.02
"""Reflectance below which a surface is not dark but an offset was taken off twice ..."""

IMPLAUSIBLE_SHARE = 0.05
"""... where more than this share of a scene's pixels in a chunk is."""


@dataclass(frozen=True, slots=True)
class Optical:
    """How Sentinel-2 is composited."""

    bands: tuple[str, ...]
    masked: tuple[int, ...]
    dilation: int
    composite: str
    resampling: str


def open_s2(source: Source, how: Optical) -> xr.Dataset:
    """Lay out ``s2 (band, y, x)`` and ``s2_count (y, x)``, lazily."""
    require_bands(source.items, how.bands)
    offsets = [[_offset(item, band) for band in how.bands] for item in source.items]
    shift = np.array([[o.value for o in scene] for scene in offsets], dtype="int32")
    dn = stack(
        source,
        Layer(
            bands=how.bands,
            dtype="uint16",
            fill=s2.NODATA,
            nodata=s2.NODATA,
            resampling=how.resampling,
            is_together=how.composite != "median",
        ),
    )
    quality, mask = _quality(source, how)
    scenes = tuple(item.id for item in source.items)
    image = _composite(dn, quality, shift, how, scenes)
    count = _blockwise(_count_block, "yx", dn.data[:, 0], "tyx", quality, dtype="uint16")
    cube = xr.Dataset(
        {
            "s2": (("band", "y", "x"), image[: len(how.bands)]),
            "s2_count": (("y", "x"), count),
        }
        | {
            name: (("y", "x"), image[len(how.bands) + i])
            for i, name in enumerate(SCATTER if how.composite == "geomad" else ())
        },
        coords={"band": list(how.bands)},
        attrs={
            "s2_scenes": len(source.items),
            "s2_period": period(source.items),
            "s2_mask": mask,
            "s2_composite": COMPOSITES[how.composite],
            "s2_resampling": _resampled(how),
            "s2_offset": summary(f"{o.value} ({o.reason})" for o in _told(offsets)),
            "s2_collections": summary(str(i.collection_id) for i in source.items),
            "s2_level": summary(catalog_of(i).level(i) for i in source.items),
        },
    )
    return _described(cube, how)


def _described(cube: xr.Dataset, how: Optical) -> xr.Dataset:
    mapping = {"grid_mapping": "spatial_ref"}
    cube["s2"].attrs = {
        "long_name": f"surface reflectance, {how.composite}",
        "units": "1",
        **mapping,
    }
    cube["s2_count"].attrs = {"long_name": f"clear observations of {how.bands[0]}", **mapping}
    for name in SCATTER.keys() & cube.keys():
        cube[name].attrs = {"long_name": SCATTER[str(name)], "units": "1", **mapping}
    return cube


def _quality(source: Source, how: Optical) -> tuple[da.Array | None, str]:
    """Per date and pixel: clear or not, or the distance from clouds; None without SCL."""
    lacking = [item.id for item in source.items if asset_for(item, "SCL") is None]
    best = how.composite == "best-pixel"
    if lacking and (best or len(lacking) < len(source.items)):
        raise MissingAssetError(
            f"{len(lacking)} of {len(source.items)} Sentinel-2 scenes lack SCL, first "
            f"{lacking[0]!r}: "
            + (
                'composite="best-pixel" needs it.'
                if best
                else "masked and unmasked scenes do not mix. Leave those scenes out."
            )
        )
    if lacking:
        log.warning("Sentinel-2: no scene has an SCL asset, clouds are not masked")
        return None, "none: no scene has an SCL asset"
    prepare = (CloudDistance if best else ClearMask)(how.masked, how.dilation)
    dtype = "float32" if best else "uint8"
    layer = Layer(bands=["SCL"], dtype=dtype, fill=0, nodata=0, prepare=prepare)
    grown = f", clouds and shadows grown by {how.dilation} pixels" if how.dilation else ""
    words = f"SCL classes {', '.join(map(str, how.masked))} left out{grown}"
    return stack(source, layer).data, words


def _composite(
    dn: xr.DataArray,
    quality: da.Array | None,
    shift: NDArray[np.int32],
    how: Optical,
    scenes: tuple[str, ...],
) -> da.Array:
    """One task a chunk; ``geomad`` appends its three scatters to the bands."""
    kernel = partial(_median_block, scenes=scenes)
    if how.composite == "median":
        return _blockwise(kernel, "byx", dn.data, "tbyx", quality, shift, dtype="float32")
    kernel = partial(_spectral_block, scenes=scenes, how=how.composite)
    size = len(how.bands) + (len(SCATTER) if how.composite == "geomad" else 0)
    return _blockwise(
        kernel, "cyx", dn.data, "tbyx", quality, shift, dtype="float32", new_axes={"c": size}
    )


def _blockwise(
    kernel: Any,
    out: str,
    dn: da.Array,
    of: str,
    quality: da.Array | None,
    shift: NDArray[np.int32] | None = None,
    *,
    dtype: str,
    new_axes: dict[str, int] | None = None,
) -> da.Array:
    """Run a kernel on whole columns of time; (dn, quality, shift) -> `out`."""
    arrays: list[Any] = [dn, of]
    # The one band of quality is not a band of dn: its axis is "q".
    arrays += [None, None] if quality is None else [quality, "tqyx"]
    if shift is not None:
        arrays += [da.from_array(shift, chunks=(-1, dn.chunks[1])), "tb"]
    return da.blockwise(
        partial(_on_chunks, kernel),
        out,
        *arrays,
        new_axes=new_axes,
        dtype=dtype,
        meta=np.empty((0,) * len(out), dtype=dtype),
    )


def _on_chunks(kernel: Any, *blocks: Any) -> Any:
    return kernel(*[whole(block) for block in blocks])


def _median_block(
    dn: NDArray[np.uint16],
    quality: NDArray[Any] | None,
    shift: NDArray[np.int32],
    *,
    scenes: tuple[str, ...],
) -> NDArray[np.float32]:
    clear = None if quality is None else quality[:, 0].view(bool)
    _report_implausible(dn, clear, shift, scenes)
    bands = [
        composite.median_of_counts(dn[:, band], clear, shift[:, band])[0]
        for band in range(dn.shape[1])
    ]
    return np.stack(bands)


def _spectral_block(
    dn: NDArray[np.uint16],
    quality: NDArray[Any] | None,
    shift: NDArray[np.int32],
    *,
    scenes: tuple[str, ...],
    how: str,
) -> NDArray[np.float32]:
    _report_implausible(dn, None if quality is None else quality[:, 0] > 0, shift, scenes)
    bands = dn.shape[1] + (len(SCATTER) if how == "geomad" else 0)
    out = np.full((bands, *dn.shape[2:]), np.nan, dtype="float32")
    for rows in _strips(dn):
        part = dn[:, :, rows]
        usable = (part != s2.NODATA).all(axis=1)
        if quality is not None:
            usable &= quality[:, 0, rows] > 0
        seen = np.flatnonzero(usable.any(axis=(1, 2)))
        if not seen.size:
            continue
        counts = part[seen].astype("int32") + shift[seen, :, None, None]
        values: NDArray[np.float32] = counts.astype("float32")
        values /= s2.QUANTIFICATION
        values[np.broadcast_to(~usable[seen, None], values.shape)] = np.nan
        if how == "medoid":
            out[:, rows], _ = composite.medoid_array(values)
        elif how == "best-pixel" and quality is not None:
            out[:, rows], _ = composite.best_pixel_array(values, quality[seen, 0, rows])
        else:
            centre, *scatter = composite.geomad_array(values)
            out[:, rows] = np.concatenate([centre, scatter])
    return out


def _strips(dn: NDArray[np.uint16]) -> Iterator[slice]:
    """Rows whose reflectance fits `STRIP_BYTES`."""
    row = 4 * dn.shape[0] * dn.shape[1] * dn.shape[3]
    size = max(STRIP_BYTES // max(row, 1), 1)
    return (slice(start, start + size) for start in range(0, dn.shape[2], size))


def _count_block(dn: NDArray[np.uint16], quality: NDArray[Any] | None) -> NDArray[np.uint16]:
    count = np.zeros(dn.shape[1:], dtype="uint16")
    for date, image in enumerate(dn):
        seen = image != s2.NODATA
        count += seen if quality is None else seen & (quality[date, 0] > 0)
    return count


def _report_implausible(
    dn: NDArray[np.uint16],
    clear: NDArray[np.bool_] | None,
    shift: NDArray[np.int32],
    scenes: tuple[str, ...],
) -> None:
    """Warn, once a scene, of reflectance far below zero: its offset is taken off twice.

    Earth Search's flag ``earthsearch:boa_offset_applied`` has been wrong at times.
    """
    every = (slice(None), slice(None), slice(None, None, 8), slice(None, None, 8))
    for date in np.flatnonzero((shift < 0).any(axis=1)):
        some = dn[date][every[1:]]
        seen = some != s2.NODATA
        if clear is not None:
            seen &= clear[date][every[2:]]
        limit = IMPLAUSIBLE * s2.QUANTIFICATION - shift[date]
        below = seen & (some < limit[:, None, None])
        if below.sum() > IMPLAUSIBLE_SHARE * max(seen.sum(), 1):
            _warn_implausible(scenes[date], round(100 * below.sum() / seen.sum()))


_WARNED: set[str] = set()


def _warn_implausible(scene: str, percent: int) -> None:
    if scene not in _WARNED:
        _WARNED.add(scene)
        log.warning(
            "Sentinel-2 scene %s: %d %% of a chunk lies below reflectance %g; its offset of -1000 "
            "was probably taken off before: check the item, or leave it out",
            scene,
            percent,
            IMPLAUSIBLE,
        )


def _offset(item: pystac.Item, band: str) -> s2.Offset:
    catalog = catalog_of(item)
    catalog.scale(item, band)
    return catalog.offset(item, band)


def _told(offsets: Sequence[Sequence[s2.Offset]]) -> Iterator[s2.Offset]:
    """Each scene's offsets, as a rule one for all its bands."""
    for scene in offsets:
        yield from dict.fromkeys(scene)


def _resampled(how: Optical) -> str:
    coarse = [band for band in how.bands if NATIVE_M.get(band, 10) > 10]
    return how.resampling + (f"; measured at 20 m or more: {', '.join(coarse)}" if coarse else "")
