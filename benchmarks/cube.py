"""Sentinel-2 scenes to memory: our reader in stackstac against stackstac's own."""

import tempfile

import numpy as np
import pystac
import stackstac

import deepforest_xr as dfx
from benchmarks.measure import compare
from deepforest_xr.cube import Source, _stack
from deepforest_xr.sentinel import s2

SHAPE = (768, 768)


def run():
    with tempfile.TemporaryDirectory() as folder:
        scene = dfx.testing.simulate_scene(folder, shape=SHAPE, months=(6, 7, 8))
        items = dfx.search(scene.items, collections=["sentinel-2-l2a"])
        yield from _compare(list(items), scene.grid)


def _compare(items: list[pystac.Item], grid):
    def ours():
        source = Source(items, grid, 512, "nearest")
        return _stack(source, s2.BANDS, dtype="uint16", fill=0, nodata=0).compute()

    def plain():
        # pystac renames proj:epsg, which stackstac needs: give the items as they were.
        documents = [_with_epsg(item) for item in items]
        return stackstac.stack(
            documents,
            assets=list(s2.BANDS),
            epsg=grid.crs.to_epsg(),
            bounds=grid.bounds,
            resolution=10,
            snap_bounds=False,
            rescale=False,
            dtype=np.dtype("uint16"),
            fill_value=np.uint16(0),
            chunksize=(-1, 1, 512, 512),
        ).compute()

    differing = float((ours().data != plain().data).mean())
    yield compare(
        "Sentinel-2 scenes to memory",
        ours,
        plain,
        names=("`open_cube`'s stack", "`stackstac.stack`"),
        note=f"{len(items)} scenes x 10 bands onto {SHAPE[0]} x {SHAPE[1]} pixels, local COGs in "
        f"two UTM zones, nearest; {differing:.2%} of the values differ (ours warps exactly)",
        repeats=3,
    )


def _with_epsg(item):
    document = item.to_dict(include_self_link=False, transform_hrefs=False)
    code = document["properties"].get("proj:code", "")
    document["properties"]["proj:epsg"] = int(code.removeprefix("EPSG:"))
    return document
