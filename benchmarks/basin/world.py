"""Ground, network and settings of the basins that are measured.

Every scene covers every tile, so that all tiles cost the same: what is left to differ is the
machinery. The network is the U-Net with few filters, for the same reason.
"""

import json
import logging
import math
import os
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import dask
import pyproj
import shapely
import torch
from distributed import WorkerPlugin
from shapely.geometry import mapping

from benchmarks import scenes
from deepforest_xr import models
from deepforest_xr.basin import BasinConfig
from deepforest_xr.basin import run as run_module
from deepforest_xr.catalogs import write_items
from deepforest_xr.errors import LostLeaseError
from deepforest_xr.models import unet
from deepforest_xr.reader import handles

CRS, DATES, HALO, FILTERS, STEP = "EPSG:32721", 3, 32, 4, 10
CACHE, FILES = 32 << 20, 32
"""Bytes of decoded blocks and open files that a process keeps; usually 256 MiB and 256. Small tiles
would fill these by and by, which would pass for growth; a tile of 10,240 pixels fills them."""

BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")
MAKE_TILE = run_module.make_tile


def ground(out, side, *, has_pixels=True):
    """Scenes that all cover a square of so many pixels; written once a folder.

    Without pixels a basin can be planned, not run.
    """
    folder = out / f"{'scenes' if has_pixels else 'items'}-{side}"
    file = folder / "items.parquet"
    if file.exists():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    if has_pixels:
        scenes.write(folder, dates=DATES, size=side)
    items = scenes.items(str(folder.resolve()), dates=DATES, size=side)
    left, bottom, right, top = scenes.grid(side).bounds
    to = pyproj.Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    box = to.transform_bounds(left, bottom, right, top)
    for item in items:
        item.bbox, item.geometry = list(box), mapping(shapely.box(*box))
    return write_items(items, file)


def side_for(tiles, tile):
    """Pixels of a square that holds a square of tiles and a row, wherever their lattice begins."""
    return (math.isqrt(tiles) + 2) * tile + 2 * HALO


def config(items, model, folder, *, tiles, tile, below=0, inside=50):
    """Settings of a basin of so many tiles, as square as may be, so many rows from the top.

    Its area lies so many metres inside of them: more where tiles are large, for what is straight
    in degrees is not on the map.
    """
    size = tile * STEP
    west = math.ceil((scenes.LEFT + HALO * STEP) / size) * size
    north = (math.floor((scenes.TOP - HALO * STEP) / size) - below) * size
    cols = math.isqrt(tiles)
    rows = tiles // cols
    # A tile belongs to the area that it meets: not quite to its edges.
    whole = shapely.box(west, north - rows * size, west + cols * size, north)
    inner = whole.buffer(-inside, join_style="mitre")
    to = pyproj.Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    area = shapely.transform(inner, to.transform, interleaved=False)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "area.geojson"
    path.write_text(json.dumps(mapping(area)), encoding="utf-8")
    return BasinConfig(
        aoi=str(path),
        source=str(items),
        model=str(model),
        out=str(folder / "basin"),
        year=2020,
        crs=CRS,
        tile=tile,
        block=tile // 2,
        halo=HALO,
        device="cpu",
    )


def narrow():
    """Give this process a U-Net of few filters, small caches of what it reads, and one core."""
    unet.ENCODER_FILTERS, unet.DECODER_FILTERS = (FILTERS,) * 6, (FILTERS,) * 5
    torch.set_num_threads(1)
    dask.config.set(num_workers=1)
    for options in (handles.GDAL_ENV, handles.LOCAL_ENV):
        options["GDAL_CACHEMAX"] = CACHE
    handles.HANDLES._limit = FILES
    # These scenes have no clouds, and every tile would say so.
    logging.getLogger("deepforest_xr.cube.optical").setLevel(logging.ERROR)


@contextmanager
def narrowed():
    """The same while the block runs."""
    threads = torch.get_num_threads()
    with (
        patch.object(unet, "ENCODER_FILTERS", unet.ENCODER_FILTERS),
        patch.object(unet, "DECODER_FILTERS", unet.DECODER_FILTERS),
        patch.dict(handles.GDAL_ENV),
        patch.dict(handles.LOCAL_ENV),
        patch.object(handles.HANDLES, "_limit", FILES),
        dask.config.set(num_workers=1),
    ):
        narrow()
        yield
    torch.set_num_threads(threads)


def checkpoint(out):
    """A narrow U-Net that was never trained."""
    path = out / "model"
    if not path.exists():
        torch.manual_seed(0)
        network = models.build("u-net", bands=len(BANDS), classes=13).eval()
        mean, std = [0.1] * len(BANDS), [0.1] * len(BANDS)
        models.Checkpoint.from_module(network, bands=BANDS, mean=mean, std=std).save(path)
    return path


class Narrow(WorkerPlugin):
    """What `narrow` does, on every worker of a cluster; with a journal if there is one."""

    def __init__(self, journal=None):
        self.journal = journal

    def setup(self, worker):  # noqa: ARG002  - as distributed calls it
        narrow()
        if self.journal is not None:
            keep_journal(self.journal)


def note(journal, what, tile="", *, pid=None):
    """Add a line; one short write, which no other process can tear."""
    line = f"{what} {pid or os.getpid()} {tile}\n".encode()
    descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def keep_journal(journal):
    """Write down when a tile is begun, and how that ended: the ledger is not asked about itself."""

    def make_tile(plan, tile, *args, **options):
        note(journal, "begun", tile.id)
        try:
            record = MAKE_TILE(plan, tile, *args, **options)
        except LostLeaseError:
            note(journal, "dropped", tile.id)
            raise
        except BaseException:
            note(journal, "broken", tile.id)
            raise
        note(journal, "ended", tile.id)
        return record

    run_module.make_tile = make_tile


def read_journal(journal):
    """Lines as (what, pid, tile)."""
    lines = Path(journal).read_text(encoding="utf-8").splitlines() if journal.exists() else []
    return [(what, int(pid), tile) for what, pid, tile in (x.split(" ") for x in lines)]
