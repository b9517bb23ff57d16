"""Files like Sentinel-2's on one grid, on disk and over HTTP; written once a run."""

import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pystac
import rasterio
from affine import Affine
from scipy.ndimage import gaussian_filter

from deepforest_xr.grid import Grid
from deepforest_xr.sentinel import s2

FINE = ("B02", "B03", "B04", "B08")
LEFT, TOP, EPSG = 600_000, 9_000_000, 32721


def write(folder, *, dates, size):
    """`dates` scenes of ten bands, `size` pixels of 10 m a side, as COGs of 512-pixel tiles."""
    rng = np.random.default_rng(0)
    for date in range(dates):
        for band in s2.BANDS:
            pixels = size if band in FINE else size // 2
            land = 6000 * gaussian_filter(rng.standard_normal((pixels, pixels)), 3)
            counts = 1500 + land + rng.normal(0, 60, land.shape)
            resolution = 10 * size / pixels
            with rasterio.open(
                Path(folder) / f"{date}_{band}.tif",
                "w",
                driver="COG",
                height=pixels,
                width=pixels,
                count=1,
                dtype="uint16",
                crs=f"EPSG:{EPSG}",
                transform=Affine(resolution, 0, LEFT, 0, -resolution, TOP),
                nodata=0,
                compress="deflate",
                predictor="YES",
                blocksize=512,
            ) as out:
                out.write(counts.clip(1, 10_000).astype("uint16"), 1)


def items(root, *, dates, size):
    """Items whose files lie under `root`, a folder or a URL."""
    found = []
    for date in range(dates):
        item = pystac.Item(
            f"scene-{date}",
            None,
            [-56.2, -9.4, -55.8, -9.0],
            datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=10 * date),
            {"proj:code": f"EPSG:{EPSG}", "s2:processing_baseline": "02.12"},
            stac_extensions=["https://stac-extensions.github.io/projection/v2.0.0/schema.json"],
            collection="sentinel-2-l2a",
        )
        for band in s2.BANDS:
            pixels = size if band in FINE else size // 2
            resolution = 10 * size / pixels
            fields = {
                "proj:transform": [resolution, 0, LEFT, 0, -resolution, TOP],
                "proj:shape": [pixels, pixels],
                "raster:bands": [{"data_type": "uint16", "nodata": 0}],
            }
            item.add_asset(
                band,
                pystac.Asset(
                    f"{root}/{date}_{band}.tif",
                    media_type=pystac.MediaType.COG,
                    roles=["data"],
                    extra_fields=fields,
                ),
            )
        found.append(item)
    return found


def grid(size):
    """The scenes' own grid."""
    return Grid.from_bounds((LEFT, TOP - 10 * size, LEFT + 10 * size, TOP), crs=EPSG)


@contextmanager
def served(folder):
    """URL of a folder; any first part of a path is ignored, so that nothing is cached."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.serve", str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        url = process.stdout.readline().strip()
        urllib.request.urlopen(f"{url}/x/0_B02.tif").close()
        yield url
    finally:
        process.terminate()
        process.wait()
