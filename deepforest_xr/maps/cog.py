"""A map as Cloud Optimized GeoTIFF, written block by block.

Blocks go first to a plain file of bytes beside the target: system errors such as a full
disk surface at once there, and blocks need no lock, whatever dask scheduler writes them.
GDAL then makes the COG from it, and the COG is read back and compared, because GDAL may
close a truncated file without a word. The scratch file takes rows x columns bytes.

GDAL's COG driver cannot hold a raster attribute table without a second file, so class
names travel as metadata tags: ``flag_values``, ``flag_meanings``, ``flag_colors`` as in
CF, and one ``class_<code>`` per class.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import xarray as xr

from deepforest_xr.atomic import staged
from deepforest_xr.errors import ConfigError, DtypeError, WriteError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import NODATA, Legend

TILE = 512
BLOCK = 2048
# No .aux.xml beside the file.
GDAL_OPTIONS = {"GDAL_PAM_ENABLED": "NO"}


def write_cog(
    dataset: xr.Dataset | xr.DataArray,
    path: str | Path,
    *,
    variable: str = "lulc",
    overwrite: bool = False,
) -> Path:
    """Write one variable of a map as a Cloud Optimized GeoTIFF, whole or not at all.

    Parameters
    ----------
    dataset : Dataset or DataArray[uint8], dims (y, x), with CF ``spatial_ref``
        The map, or one array of it. 0 means no data.
    path : str or Path
        File to write; for another variable than ``lulc`` its name is added to the stem
        (``map.tif`` becomes ``map_confidence.tif``).
    variable : str
        Which variable of a Dataset: ``lulc`` (classes, with colours and names) or
        ``confidence`` (percent).
    overwrite : bool
        Replace an existing file, after the new one is complete.

    Returns
    -------
    Path
        The file: 512-pixel tiles, ZSTD, overviews by mode for classes, by average else.

    Raises
    ------
    ConfigError
        If `dataset` has no such variable.
    DtypeError
        If it is not uint8 with dims (y, x).
    GridError
        If it has no readable grid.
    WriteError
        If the file exists or could not be written whole. Errors of this library raised by
        dask tasks pass unchanged.

    References
    ----------
    OGC 21-026, Cloud Optimized GeoTIFF Standard 1.0.
    """
    array, provenance = _select(dataset, variable)
    grid = Grid.of(array)
    path = Path(path)
    if array.name not in ("lulc", None):
        path = path.with_name(f"{path.stem}_{array.name}{path.suffix}")
    with staged(path, overwrite=overwrite) as partial:
        raw = partial.with_name("pixels.raw")
        _write_raw(array, raw)
        header = partial.with_name("pixels.vrt")
        header.write_text(_vrt(array, grid, provenance, raw.name), encoding="utf-8")
        _write_from_vrt(header, partial, is_classes="flag_values" in array.attrs)
        _compare(partial, raw, grid.shape)
    return path


@dataclass(frozen=True, slots=True)
class _RawTarget:
    """Where dask stores blocks: rows of one file of bytes, written in any order."""

    path: Path
    """File of `width` bytes a row; it must exist."""

    width: int
    """Columns of the whole raster."""

    def __setitem__(self, region: tuple[slice, slice], block: np.ndarray) -> None:
        rows, cols = region
        if block.shape != (rows.stop - rows.start, cols.stop - cols.start):
            raise WriteError(
                f"a block of {block.shape} pixels came for rows {rows.start}:{rows.stop}, "
                f"columns {cols.start}:{cols.stop}: the map's chunks are not what they declare."
            )
        lines = np.ascontiguousarray(block, dtype="uint8")
        with self.path.open("r+b") as stream:
            for row, line in zip(range(rows.start, rows.stop), lines, strict=True):
                stream.seek(row * self.width + cols.start)
                stream.write(line.data)


def _select(
    dataset: xr.Dataset | xr.DataArray, variable: str
) -> tuple[xr.DataArray, dict[Any, Any]]:
    provenance = dict(dataset.attrs)
    if isinstance(dataset, xr.DataArray):
        # One array does not know whether its scenes were simulated: then no tag, not "false".
        array = dataset
    elif variable in dataset:
        array = dataset[variable]
        provenance.setdefault("simulated", "false")
    else:
        raise ConfigError(
            f"no variable {variable!r} in the dataset; it has {sorted(map(str, dataset))}."
        )
    if array.dtype != np.uint8 or array.dims != ("y", "x"):
        raise DtypeError(
            f"write_cog needs uint8 with dims (y, x), got {array.dtype} with dims {array.dims} for "
            f"{array.name!r}: classes and percent are uint8; convert it first, or use write_zarr."
        )
    return array, provenance


def _write_raw(array: xr.DataArray, raw: Path) -> None:
    import dask.array

    da: Any = dask.array  # ships incomplete types

    with raw.open("wb") as stream:
        stream.truncate(array.size)
    chunked = array if array.chunks else array.chunk({"y": BLOCK, "x": BLOCK})
    da.store([chunked.data], [_RawTarget(raw, array.sizes["x"])], lock=False)


def _vrt(array: xr.DataArray, grid: Grid, provenance: dict[Any, Any], raw: str) -> str:
    """Describe the raw file to GDAL: place, colours, names, tags."""
    rows, cols = grid.shape
    metadata = "".join(
        f'<MDI key="{escape(key, {chr(34): "&quot;"})}">{escape(value)}</MDI>'
        for key, value in _tags(array, provenance).items()
    )
    geotransform = ", ".join(repr(float(v)) for v in grid.transform.to_gdal())
    return (
        f'<VRTDataset rasterXSize="{cols}" rasterYSize="{rows}">'
        f'<SRS dataAxisToSRSAxisMapping="{_axes(grid)}">{escape(grid.crs.to_wkt())}</SRS>'
        f"<GeoTransform>{geotransform}</GeoTransform><Metadata>{metadata}"
        '<MDI key="AREA_OR_POINT">Area</MDI></Metadata>'
        '<VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">'
        f"<Description>{escape(str(array.name or 'map'))}</Description>"
        f"<NoDataValue>{NODATA}</NoDataValue>{_color_table(array)}"
        f'<SourceFilename relativeToVRT="1">{raw}</SourceFilename><ImageOffset>0</ImageOffset>'
        f"<PixelOffset>1</PixelOffset><LineOffset>{cols}</LineOffset>"
        "</VRTRasterBand></VRTDataset>"
    )


def _axes(grid: Grid) -> str:
    """GDAL's axis mapping: coordinates are always east, north, whatever the CRS lists first."""
    first = grid.crs.axis_info[0].direction if grid.crs.axis_info else "east"
    return "2,1" if first == "north" else "1,2"


def _color_table(array: xr.DataArray) -> str:
    if "flag_values" not in array.attrs:
        return "<ColorInterp>Gray</ColorInterp>"
    colors = Legend.from_attrs(array.attrs).rgb()
    entries = [colors.get(code, (0, 0, 0)) for code in range(256)]
    lines = "".join(
        f'<Entry c1="{r}" c2="{g}" c3="{b}" c4="{255 if code in colors else 0}"/>'
        for code, (r, g, b) in enumerate(entries)
    )
    return f"<ColorInterp>Palette</ColorInterp><ColorTable>{lines}</ColorTable>"


def _tags(array: xr.DataArray, provenance: dict[Any, Any]) -> dict[str, str]:
    """Provenance, then the classes, as GDAL metadata."""
    tags = {str(k): str(v) for k, v in provenance.items() if isinstance(v, str | int | float)}
    if "flag_values" not in array.attrs:
        return tags | {"units": str(array.attrs.get("units", ""))}
    legend = Legend.from_attrs(array.attrs)
    attrs = legend.attrs() | {"flag_values": " ".join(str(code) for code in legend.codes)}
    names = {f"class_{c.code}": c.name for c in legend.classes}
    return tags | {key: str(value) for key, value in attrs.items()} | names


def _write_from_vrt(vrt: Path, cog: Path, *, is_classes: bool) -> None:
    import rasterio
    import rasterio.shutil

    with rasterio.Env(**GDAL_OPTIONS):
        rasterio.shutil.copy(
            str(vrt),
            str(cog),
            driver="COG",
            BLOCKSIZE=TILE,
            COMPRESS="ZSTD",
            RESAMPLING="MODE" if is_classes else "AVERAGE",
            BIGTIFF="IF_SAFER",
            NUM_THREADS="ALL_CPUS",
        )


def _compare(cog: Path, raw: Path, shape: tuple[int, int]) -> None:
    """Read the COG back, tile row by tile row, against the bytes it was made from."""
    import rasterio
    from rasterio.windows import Window

    pixels = np.memmap(raw, dtype="uint8", mode="r", shape=shape)
    with rasterio.Env(**GDAL_OPTIONS), rasterio.open(cog) as written:
        for top in range(0, shape[0], TILE):
            rows = slice(top, min(top + TILE, shape[0]))
            window = Window(0, top, shape[1], rows.stop - rows.start)
            if not np.array_equal(written.read(1, window=window), pixels[rows]):
                raise OSError(f"rows {rows.start}:{rows.stop} read back differ from those written")
