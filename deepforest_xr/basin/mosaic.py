"""All GeoTIFFs of a map as one raster: a GDAL VRT, which holds no pixels."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from deepforest_xr.legend import NODATA
from deepforest_xr.maps.cog import TILE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepforest_xr.basin.cogs import Cog
    from deepforest_xr.grid import Grid
    from deepforest_xr.legend import Legend


def mosaic_text(
    cogs: Sequence[Cog], grid: Grid, *, suffix: str = "", legend: Legend | None = None
) -> str:
    """Write the VRT of one variable.

    Sources are named relative to it: GDAL finds them so below /vsis3/ and /vsicurl/ too, and the
    folder of results can be moved as one.

    Parameters
    ----------
    cogs : sequence of Cog
        They may overlap where they have no data.
    grid : Grid
        Of the map.
    suffix : str
        Of the files' stems: nothing for classes, ``_confidence`` for confidence.
    legend : Legend, optional
        Of classes.

    Returns
    -------
    str
        XML.

    References
    ----------
    GDAL, "VRT -- GDAL Virtual Format".
    """
    rows, cols = grid.shape
    root = ET.Element("VRTDataset", rasterXSize=str(cols), rasterYSize=str(rows))
    first = grid.crs.axis_info[0].direction if grid.crs.axis_info else "east"
    axes = "2,1" if first == "north" else "1,2"
    ET.SubElement(root, "SRS", dataAxisToSRSAxisMapping=axes).text = grid.crs.to_wkt()
    transform = ", ".join(repr(float(v)) for v in grid.transform.to_gdal())
    ET.SubElement(root, "GeoTransform").text = transform
    band = ET.SubElement(root, "VRTRasterBand", dataType="Byte", band="1", blockXSize=str(TILE))
    band.set("blockYSize", str(TILE))
    ET.SubElement(band, "NoDataValue").text = str(NODATA)
    _colors(band, legend)
    for cog in cogs:
        _source(band, cog, grid, f"cog/{cog.id}{suffix}.tif")
    if factors := _factors(grid):
        resampling = "mode" if legend is not None else "average"
        overviews = ET.SubElement(root, "OverviewList", resampling=resampling)
        overviews.text = " ".join(map(str, factors))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _colors(band: ET.Element, legend: Legend | None) -> None:
    ET.SubElement(band, "ColorInterp").text = "Gray" if legend is None else "Palette"
    if legend is None:
        return
    names = {c.code: c.name for c in legend.classes} | {NODATA: "No data"}
    categories = ET.SubElement(band, "CategoryNames")
    table, colors = ET.SubElement(band, "ColorTable"), legend.rgb()
    for code in range(max(names) + 1):
        ET.SubElement(categories, "Category").text = names.get(code, "")
    for code in range(256):
        red, green, blue = colors.get(code, (0, 0, 0))
        entry = {"c1": red, "c2": green, "c3": blue, "c4": 255 if code in colors else 0}
        ET.SubElement(table, "Entry", {k: str(v) for k, v in entry.items()})


def _source(band: ET.Element, cog: Cog, grid: Grid, name: str) -> None:
    rows, cols = cog.shape
    x, y = ~grid.transform @ (cog.transform.c, cog.transform.f)
    source = ET.SubElement(band, "ComplexSource")
    ET.SubElement(source, "SourceFilename", relativeToVRT="1").text = name
    ET.SubElement(source, "SourceBand").text = "1"
    # Known sizes: GDAL opens no source before it is looked at.
    properties = {"RasterXSize": cols, "RasterYSize": rows, "BlockXSize": TILE, "BlockYSize": TILE}
    described = {k: str(v) for k, v in properties.items()} | {"DataType": "Byte"}
    ET.SubElement(source, "SourceProperties", described)
    size = {"xSize": str(cols), "ySize": str(rows)}
    ET.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0", **size})
    ET.SubElement(source, "DstRect", {"xOff": str(round(x)), "yOff": str(round(y)), **size})
    ET.SubElement(source, "NODATA").text = str(NODATA)


def _factors(grid: Grid) -> list[int]:
    factors, factor = [], 2
    while max(grid.shape) / factor >= TILE / 2:
        factors.append(factor)
        factor *= 2
    return factors
