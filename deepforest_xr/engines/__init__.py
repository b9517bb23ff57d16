"""Items to a lazy (time, band, y, x) array: stackstac or odc-stac lays out, our reader reads.

Every item is reduced to what an engine needs, on the target grid's own CRS, so that it never
interprets metadata that catalogs disagree about (``proj:epsg`` that pystac renames, offsets it
would apply, item boxes it would take for asset boxes).
"""

from deepforest_xr.engines.layout import ENGINES, Layer, Source, stack, whole

__all__ = ["ENGINES", "Layer", "Source", "stack", "whole"]
