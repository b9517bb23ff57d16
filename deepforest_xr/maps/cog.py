"""A map as Cloud Optimized GeoTIFF, written block by block.

Blocks go first to a plain file of bytes beside the target: system errors such as a full
disk surface at once there, and blocks need no lock, whatever dask scheduler writes them.
GDAL then makes the COG from it, and the COG is read back and compared, because GDAL may
close a truncated file without a word. The scratch file takes bands x rows x columns bytes.

Class names travel inside as metadata tags: ``flag_values``, ``flag_meanings``,
``flag_colors`` as in CF, and one ``class_<code>`` per class. What GDAL and QGIS read beside
the file is made by `deepforest_xr.maps.sidecars`.
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
from deepforest_xr.maps import sidecars, storing

TILE = 512
BLOCK = 2048
# No .aux.xml of GDAL's own beside the file.
GDAL_OPTIONS = {"GDAL_PAM_ENABLED": "NO"}
# Percent layers, and the value that stands for no data in their files. A confidence of 0 has
# no pixel with data; of the others 0 % is a result like any.
PERCENT = {"confidence": NODATA, "entropy": 255, "margin": 255, "probability": 255}


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
        Which variable of a Dataset: ``lulc`` (classes, with colours and names), or in percent
        ``confidence``, ``entropy``, ``margin`` or ``probability`` (class, y, x), which becomes
        one band a class. No data is 0 in the first two, 255 in the others: there it is where
        ``lulc`` is 0, so they need the Dataset.
    overwrite : bool
        Replace existing files, after the new ones are complete.

    Returns
    -------
    Path
        The file: 512-pixel tiles, ZSTD, overviews by mode for classes, by average else.
        Beside it stand a QGIS style (``map.qml``) and for classes what GDAL reads as category
        names and raster attribute table (``map.tif.aux.xml``).

    Raises
    ------
    ConfigError
        If `dataset` has no such variable, or no ``lulc`` where that is needed.
    DtypeError
        If it is not uint8 with dims (y, x), for ``probability`` (class, y, x).
    GridError
        If it has no readable grid.
    WriteError
        If one of the files exists or could not be written whole. Errors of this library
        raised by dask tasks pass unchanged.

    References
    ----------
    OGC 21-026, Cloud Optimized GeoTIFF Standard 1.0.
    """
    layer = _layer(dataset, variable)
    grid = Grid.of(layer.pixels)
    path = _target(path, layer.name)
    beside = _texts(path, layer)
    with (
        sidecars.staged_beside(path, beside, overwrite=overwrite) as step_aside,
        staged(path, overwrite=overwrite) as partial,
    ):
        raw = partial.with_name("pixels.raw")
        _write_raw(layer.pixels, raw)
        header = partial.with_name("pixels.vrt")
        header.write_text(_vrt(layer, grid, raw.name), encoding="utf-8")
        _write_from_vrt(header, partial, is_classes=layer.legend is not None)
        _compare(partial, raw, layer.pixels.shape)
        step_aside()
    return path


def cog_files(path: str | Path, *, variable: str = "lulc") -> list[Path]:
    """List every file that `write_cog` writes for a variable, the GeoTIFF first."""
    path = _target(path, variable)
    beside = [sidecars.style_path(path)] if variable in (*PERCENT, "lulc") else []
    return [path, *beside, sidecars.aux_path(path)] if variable == "lulc" else [path, *beside]


@dataclass(frozen=True, slots=True)
class _Layer:
    """One variable, ready to be written."""

    name: str | None
    """Of the variable."""

    pixels: xr.DataArray
    """uint8 with dims (band, y, x)."""

    nodata: int
    """The value that stands for no data."""

    bands: tuple[str, ...]
    """What each band is called."""

    legend: Legend | None
    """Of a raster of classes."""

    tags: dict[str, str]
    """GDAL metadata."""


@dataclass(frozen=True, slots=True)
class _RawTarget:
    """Where dask stores blocks: rows of one file of bytes, written in any order."""

    path: Path
    """File of bands x rows x columns bytes; it must exist."""

    shape: tuple[int, ...]
    """Rows and columns of the whole raster."""

    def __setitem__(self, region: tuple[slice, ...], block: np.ndarray) -> None:
        bands, rows, cols = region
        if block.shape != tuple(part.stop - part.start for part in region):
            raise WriteError(
                f"a block of {block.shape[1:]} pixels came for rows {rows.start}:{rows.stop}, "
                f"columns {cols.start}:{cols.stop}: the map's chunks are not what they declare."
            )
        lines = np.ascontiguousarray(block, dtype="uint8")
        height, width = self.shape
        with self.path.open("r+b") as stream:
            for band, plane in zip(range(bands.start, bands.stop), lines, strict=True):
                for row, line in zip(range(rows.start, rows.stop), plane, strict=True):
                    stream.seek((band * height + row) * width + cols.start)
                    stream.write(line.data)


def _target(path: str | Path, variable: str | None) -> Path:
    path = Path(path)
    if variable in ("lulc", None):
        return path
    return path.with_name(f"{path.stem}_{variable}{path.suffix}")


def _layer(dataset: xr.Dataset | xr.DataArray, variable: str) -> _Layer:
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
    dims = ("class", "y", "x") if array.name == "probability" else ("y", "x")
    if array.dtype != np.uint8 or array.dims != dims:
        raise DtypeError(
            f"write_cog needs uint8 with dims ({', '.join(dims)}), got {array.dtype} with dims "
            f"{array.dims} for {array.name!r}: classes and percent are uint8; convert it first, "
            "or use write_zarr."
        )
    name = None if array.name is None else str(array.name)
    nodata = PERCENT.get(name or "", NODATA)
    bands: tuple[str, ...] = (name or "map",)
    if nodata != NODATA:
        array = _masked(array, dataset, nodata)
    if "class" in array.dims:
        bands = tuple(str(name) for name in array["class"].to_numpy())
    pixels = array if "class" in array.dims else array.expand_dims("class")
    legend = Legend.from_attrs(array.attrs) if "flag_values" in array.attrs else None
    return _Layer(name, pixels, nodata, bands, legend, _tags(array, provenance, legend))


def _masked(array: xr.DataArray, dataset: xr.Dataset | xr.DataArray, nodata: int) -> xr.DataArray:
    """Mark the pixels without a class; in the map itself they hold 0, as a result may."""
    if isinstance(dataset, xr.DataArray) or "lulc" not in dataset:
        raise ConfigError(
            f"{array.name!r} alone does not tell 0 % from no data: pass the Dataset that also "
            "has `lulc`."
        )
    return array.where(dataset["lulc"] != NODATA, np.uint8(nodata))


def _texts(path: Path, layer: _Layer) -> dict[Path, str]:
    """What to write beside the file."""
    if layer.legend is not None:
        table = sidecars.attribute_table(layer.legend)
        style = sidecars.class_style(layer.legend)
        return {sidecars.aux_path(path): table, sidecars.style_path(path): style}
    return {sidecars.style_path(path): sidecars.percent_style()} if layer.name in PERCENT else {}


def _write_raw(pixels: xr.DataArray, raw: Path) -> None:
    with raw.open("wb") as stream:
        stream.truncate(pixels.size)
    chunked = pixels if pixels.chunks else pixels.chunk({"y": BLOCK, "x": BLOCK})
    bands = slice(0, pixels.shape[0])
    for rows in storing.strips(chunked.chunksizes["y"]):
        region = (bands, rows, slice(0, pixels.shape[2]))
        target = _RawTarget(raw, pixels.shape[1:])
        storing.store([chunked.data[region]], [target], [region])


def _vrt(layer: _Layer, grid: Grid, raw: str) -> str:
    """Describe the raw file to GDAL: place, colours, names, tags."""
    rows, cols = grid.shape
    metadata = "".join(
        f'<MDI key="{escape(key, {chr(34): "&quot;"})}">{escape(value)}</MDI>'
        for key, value in layer.tags.items()
    )
    geotransform = ", ".join(repr(float(v)) for v in grid.transform.to_gdal())
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{index + 1}" subClass="VRTRawRasterBand">'
        f"<Description>{escape(band)}</Description>"
        f"<NoDataValue>{layer.nodata}</NoDataValue>{_color_table(layer.legend, index)}"
        f'<SourceFilename relativeToVRT="1">{raw}</SourceFilename>'
        f"<ImageOffset>{index * rows * cols}</ImageOffset>"
        f"<PixelOffset>1</PixelOffset><LineOffset>{cols}</LineOffset></VRTRasterBand>"
        for index, band in enumerate(layer.bands)
    )
    return (
        f'<VRTDataset rasterXSize="{cols}" rasterYSize="{rows}">'
        f'<SRS dataAxisToSRSAxisMapping="{_axes(grid)}">{escape(grid.crs.to_wkt())}</SRS>'
        f"<GeoTransform>{geotransform}</GeoTransform><Metadata>{metadata}"
        f'<MDI key="AREA_OR_POINT">Area</MDI></Metadata>{bands}</VRTDataset>'
    )


def _axes(grid: Grid) -> str:
    """GDAL's axis mapping: coordinates are always east, north, whatever the CRS lists first."""
    first = grid.crs.axis_info[0].direction if grid.crs.axis_info else "east"
    return "2,1" if first == "north" else "1,2"


def _color_table(legend: Legend | None, band: int) -> str:
    if legend is None:
        # Further grey bands are plain samples: TIFF knows one.
        return f"<ColorInterp>{'Undefined' if band else 'Gray'}</ColorInterp>"
    colors = legend.rgb()
    entries = [colors.get(code, (0, 0, 0)) for code in range(256)]
    lines = "".join(
        f'<Entry c1="{r}" c2="{g}" c3="{b}" c4="{255 if code in colors else 0}"/>'
        for code, (r, g, b) in enumerate(entries)
    )
    return f"<ColorInterp>Palette</ColorInterp><ColorTable>{lines}</ColorTable>"


def _tags(array: xr.DataArray, provenance: dict[Any, Any], legend: Legend | None) -> dict[str, str]:
    """Provenance, then the classes, as GDAL metadata."""
    tags = {str(k): str(v) for k, v in provenance.items() if isinstance(v, str | int | float)}
    if legend is None:
        return tags | {"units": str(array.attrs.get("units", ""))}
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


def _compare(cog: Path, raw: Path, shape: tuple[int, ...]) -> None:
    """Read the COG back, tile row by tile row, against the bytes it was made from."""
    import rasterio
    from rasterio.windows import Window

    pixels = np.memmap(raw, dtype="uint8", mode="r", shape=shape)
    with rasterio.Env(**GDAL_OPTIONS), rasterio.open(cog) as written:
        for top in range(0, shape[1], TILE):
            rows = slice(top, min(top + TILE, shape[1]))
            window = Window(0, top, shape[2], rows.stop - rows.start)
            if not np.array_equal(written.read(window=window), pixels[:, rows]):
                raise OSError(f"rows {rows.start}:{rows.stop} read back differ from those written")
