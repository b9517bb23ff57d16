"""Scenes to memory: `open_cube`'s stack against stackstac, odc-stac and bare decoding."""

import asyncio
import itertools
import os
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from statistics import median

import numpy as np
import odc.stac
import pystac
import rasterio
import stackstac
import xarray as xr
from odc.geo.geobox import GeoBox

from benchmarks import scenes
from benchmarks.measure import Result, in_turns
from deepforest_xr.cube import open_cube
from deepforest_xr.engines import Layer, Source, stack
from deepforest_xr.grid import Grid, transform_bounds
from deepforest_xr.reader import HANDLES
from deepforest_xr.sentinel import s2

DATES, SIZE, CHUNK = 4, 2048, 1024
THREADS = len(os.sched_getaffinity(0))
BANDS = list(s2.BANDS)


def run():
    warnings.filterwarnings("ignore", message="The 'shapely")
    warnings.filterwarnings("ignore", message="Use `@` matmul")
    with tempfile.TemporaryDirectory() as folder:
        scenes.write(folder, dates=DATES, size=SIZE)
        own = scenes.grid(SIZE)
        note = f"{DATES} dates x 10 bands onto {SIZE} x {SIZE} pixels of 10 m, chunks of {CHUNK}"
        yield from compared("scenes to memory, local", own, itertools.repeat(folder), note)
        with scenes.served(folder) as url:
            # Another address each time: GDAL remembers what it has downloaded.
            roots = (f"{url}/{turn}" for turn in itertools.count())
            yield from compared("scenes to memory, HTTP on loopback", own, roots, note)
        yield from compared(
            "scenes to memory, other UTM zone",
            zone_beside(),
            itertools.repeat(folder),
            f"{note.replace(str(SIZE), str(SIZE // 2))}; stackstac and odc-stac place pixels to an "
            "eighth of a pixel, ours to a thousandth",
            raw=False,
        )
        yield composited(folder, own)


def compared(what, grid, roots, note, *, raw=True):
    """Everybody's time on the same files, in turns; the pixels are compared once."""
    calls = {"`engines.stack`": ours, "`stackstac.stack`": plain, "`odc.stac.load`": theirs}
    bare = {"rasterio, whole files": decoded, "async-geotiff, whole files": rust} if raw else {}
    timed = {name: lambda call=call: call(next(roots), grid) for name, call in calls.items()}
    timed |= {name: lambda call=call: call(next(roots)) for name, call in bare.items()}
    values = [call(next(roots), grid) for call in calls.values()]
    apart = [float((values[0] != other).mean()) for other in values[1:]]
    del values
    times = {name: median(seconds) for name, seconds in in_turns(timed, repeats=3).items()}
    name, *peers = times
    for peer in peers:
        known = dict(zip(list(calls)[1:], apart, strict=True))
        end = f"; {known[peer]:.2%} of the values differ" if peer in known else ""
        if peer in bare:
            end = f"; {THREADS} threads, native pixels, no cube"
        yield Result(what, name, peer, times[name], times[peer], note + end)


def ours(root, grid):
    HANDLES.clear()  # opening is part of it
    layer = Layer(bands=BANDS, dtype="uint16", fill=0, nodata=0)
    found = scenes.items(root, dates=DATES, size=SIZE)
    return stack(Source(found, grid, CHUNK), layer).compute().data


def plain(root, grid):
    return by_stackstac(root, grid).compute().data


def by_stackstac(root, grid):
    found = scenes.items(root, dates=DATES, size=SIZE)
    # pystac renames proj:epsg, which stackstac needs.
    documents = [item.to_dict(include_self_link=False, transform_hrefs=False) for item in found]
    for document in documents:
        document["properties"]["proj:epsg"] = scenes.EPSG
    return stackstac.stack(
        documents,
        assets=BANDS,
        epsg=grid.crs.to_epsg(),
        bounds=grid.bounds,
        resolution=10,
        snap_bounds=False,
        rescale=False,
        dtype=np.dtype("uint16"),
        fill_value=np.uint16(0),
        chunksize=(-1, 1, CHUNK, CHUNK),
    )


def theirs(root, grid):
    cube = odc.stac.load(
        scenes.items(root, dates=DATES, size=SIZE),
        bands=BANDS,
        geobox=GeoBox(grid.shape, grid.transform, f"EPSG:{grid.crs.to_epsg()}"),
        chunks={"time": -1, "y": CHUNK, "x": CHUNK},
        groupby="id",
    )
    return cube.to_array("band").transpose("time", "band", "y", "x").compute().data


def decoded(root):
    def whole(href):
        with rasterio.open(href) as source:
            return source.read(1)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(whole, hrefs(root)))


def rust(root):
    from async_geotiff import GeoTIFF
    from obstore.store import from_url

    store = from_url(str(root) if "://" in str(root) else f"file://{root}", **plain_http(root))

    async def everything():
        limit = asyncio.Semaphore(2 * THREADS)

        async def one(name):
            async with limit:
                return await (await GeoTIFF.open(name, store=store)).read()

        names = [href.rpartition("/")[2] for href in hrefs(root)]
        return await asyncio.gather(*[one(name) for name in names])

    return asyncio.run(everything())


def plain_http(root):
    return {"client_options": {"allow_http": True}} if "://" in str(root) else {}


def hrefs(root):
    found = scenes.items(root, dates=DATES, size=SIZE)
    return [asset.href for item in found for asset in item.assets.values()]


def zone_beside():
    left, bottom, *_ = transform_bounds(scenes.grid(SIZE).bounds, scenes.EPSG, scenes.EPSG + 1)
    corner = round(left, -1) + 1000, round(bottom, -1) + 1000
    side = 10 * SIZE // 2
    bounds = (*corner, corner[0] + side, corner[1] + side)
    return Grid.from_bounds(bounds, crs=scenes.EPSG + 1)


def composited(folder, grid):
    """From files to the median: a cube against the same steps in stackstac and xarray."""
    found = scenes.items(folder, dates=DATES, size=SIZE)

    def cube():
        HANDLES.clear()
        return open_cube(found, grid=grid, chunk=CHUNK)["s2"].compute()

    def by_hand():
        counts = by_stackstac(folder, grid)
        reflectance = (counts.astype("float32") / 10_000).where(counts != 0)
        return reflectance.median("time").compute()

    np.testing.assert_array_equal(cube(), by_hand())
    times = in_turns({"cube": cube, "by hand": by_hand}, repeats=3)
    return Result(
        "files to median",
        "`open_cube`",
        "`stackstac.stack`, `where`, `median`",
        median(times["cube"]),
        median(times["by hand"]),
        f"{DATES} dates x 10 bands x {SIZE} x {SIZE}, equal values",
    )


def graph():
    """Seconds and tasks of a year's S1TsS2_12 cube over 100 km x 100 km."""
    found = list(a_year())
    grid = Grid.from_bounds((600_000, 9_000_000, 700_000, 9_100_000), crs=scenes.EPSG)
    seconds = []
    for _ in range(4):
        begin = time.perf_counter()
        cube = open_cube(found, grid=grid, dataset="S1TsS2_12")
        tasks = len(cube.__dask_graph__())
        seconds.append(time.perf_counter() - begin)
    assert isinstance(cube, xr.Dataset)
    return (
        f"A cube S1TsS2_12 over 100 km x 100 km and a year ({len(found)} items, chunks of 1024) is "
        f"laid out in {median(seconds[1:]):.2f} s (the first time, with imports, "
        f"{seconds[0]:.2f} s) as a graph of {tasks:,} tasks."
    )


def a_year():
    """Four tiles every five days, two radar slices every six; no files."""
    first = datetime(2020, 1, 1, 13, 58, 41, tzinfo=UTC)
    shared = {"proj:code": f"EPSG:{scenes.EPSG}"}
    corners = [(x, y) for x in (595_000, 694_960) for y in (9_105_000, 9_005_040)]
    for day in range(0, 365, 5):
        for x, y in corners:
            yield empty(
                f"S2_{day}_{x}_{y}",
                "sentinel-2-l2a",
                first + timedelta(days=day),
                (*s2.BANDS, "SCL"),
                [10, 0, x, 0, -10, y],
                shared | {"s2:processing_baseline": "05.00", "eo:cloud_cover": 10},
            )
    for day in range(0, 365, 6):
        for y in (9_200_000, 9_100_000):
            yield empty(
                f"S1_{day}_{y}",
                "sentinel-1-rtc",
                first + timedelta(days=day, hours=-5),
                ("vv", "vh"),
                [10, 0, 550_000, 0, -10, y],
                shared,
            )


def empty(name, collection, when, bands, transform, properties):
    item = pystac.Item(
        name, None, [-60, -20, -40, 10], when, dict(properties), collection=collection
    )
    for band in bands:
        fields = {"proj:transform": transform, "proj:shape": [20_000, 20_000]}
        href = f"https://example.org/{name}/{band}.tif"
        item.add_asset(band, pystac.Asset(href, extra_fields=fields))
    return item
