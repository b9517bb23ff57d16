"""A basin of four tiles, two rows and three columns with two holes, over the simulated scene."""

import dataclasses
import json

import pyproj
import pytest
import shapely
import torch
from shapely.geometry import mapping

from deepforest_xr import models
from deepforest_xr.basin import BasinConfig, plan_basin, run_basin

BANDS = ("B02", "B04", "B08")
# Metres in EPSG:32721; tiles are 640 m wide and begin at multiples of that.
PARTS = ((830_100, 9_109_200, 831_300, 9_109_400), (830_000, 9_108_600, 830_700, 9_109_000))
IDS = ("r0000c0001", "r0000c0002", "r0001c0000", "r0001c0001")


@pytest.fixture(scope="module", autouse=True)
def quick(narrow):
    """Every basin is mapped by a narrow network."""


@pytest.fixture(scope="module")
def model(narrow, tmp_path_factory):
    """A checkpoint that was never trained."""
    torch.manual_seed(3)
    network = models.build("u-net", bands=len(BANDS), classes=13).eval()
    made = models.Checkpoint.from_module(
        network, bands=BANDS, mean=[0.06, 0.05, 0.25], std=[0.02, 0.03, 0.08]
    )
    return made.save(tmp_path_factory.mktemp("model") / "u-net")


def area_file(folder, parts=PARTS, crs="EPSG:32721"):
    """Boxes of a CRS as GeoJSON in degrees."""
    to = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    area = shapely.union_all([shapely.box(*part) for part in parts])
    folder.mkdir(exist_ok=True)
    path = folder / "area.geojson"
    degrees = shapely.transform(area, to.transform, interleaved=False)
    path.write_text(json.dumps(mapping(degrees)))
    return path


def basin_of(scene, model, folder):
    """Settings of the basin in a folder."""
    return BasinConfig(
        aoi=str(area_file(folder)),
        source=str(scene.items),
        model=str(model),
        out=str(folder / "basin"),
        year=2018,
        crs="EPSG:32721",
        tile=64,
        block=32,
        halo=32,
        device="cpu",
    )


@pytest.fixture
def config(scene, model, tmp_path):
    """Settings of the basin, some of them changed."""
    settings = basin_of(scene, model, tmp_path)
    return lambda **changes: dataclasses.replace(settings, **changes)


@pytest.fixture(scope="module")
def undisturbed(scene, model, tmp_path_factory):
    """Bytes of the map after one run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    summary = run_basin(plan_basin(basin_of(scene, model, folder)))
    assert (summary.done, summary.made) == (4, 4)
    return content(folder / "basin")


@pytest.fixture
def plan(config):
    return plan_basin(config())


def content(folder, below="map.zarr"):
    """Bytes of all files below a folder, by path."""
    root = folder / below if below else folder
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
