"""What stands beside a GeoTIFF: class names for GDAL, a style for QGIS.

``map.tif.aux.xml`` holds category names and a raster attribute table: GDAL before 3.12 has
no place for the table inside a TIFF, and every version reads it there. ``map.qml`` is the
style that QGIS applies when it opens the file. A sidecar is never left beside a raster that
it does not describe: old ones go before the new raster takes its name, new ones come after.
"""

from __future__ import annotations

import os
import re
import tempfile
import xml.etree.ElementTree as ET
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deepforest_xr.atomic import staged
from deepforest_xr.errors import WriteError
from deepforest_xr.legend import NODATA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from deepforest_xr.legend import Legend

QGIS_VERSION = "3.30.0"
# Column name, GDALRATFieldType (0 integer, 2 string), GDALRATFieldUsage.
COLUMNS = (
    ("Value", 0, 5),  # GFU_MinMax
    ("Class_Name", 2, 2),  # GFU_Name
    ("Red", 0, 6),
    ("Green", 0, 7),
    ("Blue", 0, 8),
)
# XML 1.0 cannot hold these, escaped or not.
FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def aux_path(path: Path) -> Path:
    """Where GDAL looks for what a raster's own format cannot hold."""
    return path.with_name(f"{path.name}.aux.xml")


def style_path(path: Path) -> Path:
    """Where QGIS looks for the default style of a raster."""
    return path.with_suffix(".qml")


def attribute_table(legend: Legend) -> str:
    """Category names and raster attribute table of a legend, in GDAL's PAM format.

    Parameters
    ----------
    legend : Legend
        One row a class, in its order; the category names are indexed by code.

    Returns
    -------
    str
        The text of ``<name>.tif.aux.xml``.

    References
    ----------
    GDAL, ``gdal_rat.h``: GDALRATFieldType, GDALRATFieldUsage.
    """
    root = ET.Element("PAMDataset")
    band = ET.SubElement(root, "PAMRasterBand", band="1")
    names = {c.code: c.name for c in legend.classes} | {NODATA: "No data"}
    categories = ET.SubElement(band, "CategoryNames")
    for code in range(max(names) + 1):
        ET.SubElement(categories, "Category").text = _clean(names.get(code, ""))
    table = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(COLUMNS):
        column = ET.SubElement(table, "FieldDefn", index=str(index))
        for tag, value in (("Name", name), ("Type", kind), ("Usage", usage)):
            ET.SubElement(column, tag).text = str(value)
    colors = legend.rgb()
    for index, known in enumerate(legend.classes):
        row = ET.SubElement(table, "Row", index=str(index))
        for value in (known.code, _clean(known.name), *colors[known.code]):
            ET.SubElement(row, "F").text = str(value)
    return _text(root)


def class_style(legend: Legend) -> str:
    """QGIS style of a raster of classes: a palette with names, no data transparent.

    Parameters
    ----------
    legend : Legend
        One entry a class, in its order.

    Returns
    -------
    str
        The text of ``<name>.qml``.
    """
    root, renderer = _style("paletted", band="1")
    palette = ET.SubElement(renderer, "colorPalette")
    colors = legend.rgb()
    for known in legend.classes:
        red, green, blue = colors[known.code]
        ET.SubElement(
            palette,
            "paletteEntry",
            value=str(known.code),
            color=f"#{red:02x}{green:02x}{blue:02x}",
            label=_clean(known.name),
            alpha="255",
        )
    return _text(root)


def percent_style() -> str:
    """QGIS style of a raster in percent: grey from 0 to 100, not stretched to what occurs."""
    root, renderer = _style("singlebandgray", grayBand="1", gradient="BlackToWhite")
    stretch = ET.SubElement(renderer, "contrastEnhancement")
    limits = {"minValue": "0", "maxValue": "100", "algorithm": "StretchToMinimumMaximum"}
    for tag, value in limits.items():
        ET.SubElement(stretch, tag).text = value
    return _text(root)


@contextmanager
def staged_beside(
    path: Path, texts: Mapping[Path, str], *, overwrite: bool
) -> Iterator[Callable[[], None]]:
    """Hold the sidecars of a raster ready until it has its name.

    Parameters
    ----------
    path : Path
        The raster; it must take its name inside this context.
    texts : mapping of Path to str
        New sidecars. GDAL's is replaced, or removed where no new one is given, because the
        statistics it may hold are those of the old raster.
    overwrite : bool
        Replace existing files.

    Yields
    ------
    callable
        To be called when the new raster is complete and not yet in place: takes the old
        sidecars away. They return if an error follows.

    Raises
    ------
    WriteError
        If one of the files exists and `overwrite` is false, or one cannot be written.
    """
    old = [aux_path(path), *(file for file in texts if file != aux_path(path))]
    for file in (path, *old):
        if not overwrite and os.path.lexists(file):
            raise WriteError(f"{file} exists: choose another name, or pass overwrite=True.")
    moved: list[tuple[Path, Path]] = []
    with ExitStack() as stack:
        for file, text in texts.items():
            partial = stack.enter_context(staged(file, overwrite=overwrite))
            partial.write_text(text, encoding="utf-8")

        def step_aside() -> None:
            prefix = f".{path.name}.replaced-"
            kept = tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent)
            folder = Path(stack.enter_context(kept))
            for file in old:
                if os.path.lexists(file):
                    file.replace(folder / file.name)
                    moved.append((folder / file.name, file))

        try:
            yield step_aside
        except BaseException:
            for kept, file in moved:
                kept.replace(file)
            raise


def _style(kind: str, **attributes: str) -> tuple[ET.Element, ET.Element]:
    """Root and renderer of a style; pixels without data stay transparent in both kinds."""
    root = ET.Element(
        "qgis",
        version=QGIS_VERSION,
        styleCategories="Symbology",
        hasScaleBasedVisibilityFlag="0",
        maxScale="0",
        minScale="1e+08",
    )
    pipe = ET.SubElement(root, "pipe")
    common = {"type": kind, "opacity": "1", "alphaBand": "-1", "nodataColor": ""}
    renderer = ET.SubElement(pipe, "rasterrenderer", common | attributes)
    ET.SubElement(renderer, "rasterTransparency")
    ET.SubElement(pipe, "rasterresampler", maxOversampling="2")
    ET.SubElement(root, "blendMode").text = "0"
    return root, renderer


def _clean(name: str) -> str:
    return FORBIDDEN.sub(" ", name)


def _text(root: ET.Element) -> str:
    ET.indent(root)
    doctype = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return (doctype if root.tag == "qgis" else "") + ET.tostring(root, encoding="unicode") + "\n"
