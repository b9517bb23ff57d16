"""A basin that is planned, run and finished in an S3 store, looked at from outside."""

import dataclasses
import hashlib
import json
import urllib.request
from urllib.parse import urljoin

import numpy as np
import pyproj
import pytest
import rasterio
import shapely
import torch
import xarray as xr
from obstore.store import S3Store
from shapely.geometry import mapping

from deepforest_xr import models
from deepforest_xr.basin import BasinConfig, open_plan, plan_basin, pyramid, run_basin
from deepforest_xr.basin.finish import finish_basin
from deepforest_xr.basin.store import open_objects

from .conftest import put

pytestmark = pytest.mark.services

# Metres in EPSG:32721; tiles are 640 m wide and begin at multiples of that.
PARTS = ((830_100, 9_109_200, 831_300, 9_109_400), (830_000, 9_108_600, 830_700, 9_109_000))
TELLING = {"finish/verified.json", "finish/finished.json"}
"""Objects with times of the store, or the size of such an object."""

TILES = ["r0000c0001", "r0000c0002", "r0001c0000", "r0001c0001"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A pyramid of a small map has levels too; the U-Net has few filters."""
    monkeypatch.setattr(pyramid, "LONGEST", 40)
    monkeypatch.setattr("deepforest_xr.models.unet.ENCODER_FILTERS", (4,) * 6)
    monkeypatch.setattr("deepforest_xr.models.unet.DECODER_FILTERS", (4,) * 5)


@pytest.fixture
def basin(bucket, scene, tmp_path):
    """Plan of a basin of four tiles in the bucket, all of them run."""
    torch.manual_seed(3)
    network = models.build("u-net", bands=2, classes=13).eval()
    model = models.Checkpoint.from_module(
        network, bands=("B02", "B08"), mean=[0.1] * 2, std=[0.1] * 2
    )
    model.save(tmp_path / "model")
    to = pyproj.Transformer.from_crs("EPSG:32721", "EPSG:4326", always_xy=True)
    area = shapely.union_all([shapely.box(*part) for part in PARTS])
    degrees = shapely.transform(area, to.transform, interleaved=False)
    (tmp_path / "area.json").write_text(json.dumps(mapping(degrees)))
    plan = plan_basin(
        BasinConfig(
            aoi=str(tmp_path / "area.json"),
            source=str(scene.items),
            model=str(tmp_path / "model"),
            out=bucket,
            year=2018,
            crs="EPSG:32721",
            tile=64,
            block=32,
            halo=32,
            device="cpu",
        )
    )
    assert [tile.id for tile in plan.tiles] == TILES
    assert run_basin(plan).is_complete
    return plan


@pytest.fixture
def gdal(s3):
    """GDAL told, as its users tell it, of a store that is not Amazon's."""
    with rasterio.Env(
        AWS_S3_ENDPOINT=s3.endpoint,
        AWS_HTTPS="NO",
        AWS_VIRTUAL_HOSTING="FALSE",
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",
    ):
        yield


def publish(plan, s3):
    """Copy all objects to where everyone may read them; address of the copy for browsers."""
    address = f"http://{s3.endpoint}/{plan.url.removeprefix('s3://')}-public"
    found = plan.open()
    for key in found.names(""):
        put(f"{address}/{key}", found.get(key), access="public-read")
    return address


def copied(plan, target):
    """Plan of a copy of a basin that is not finished."""
    source, there = plan.open(), open_objects(target, make=True)
    for key in source.names(""):
        if not key.startswith(("finish/", "clock/")):
            there.put(key, source.get(key))
    return open_plan(target)


def content(plan):
    """Bytes of all objects by key, but of those that only tell the store's time."""
    found = plan.open()
    return {k: found.get(k) for k in found.names("") if not k.startswith("clock/")}


def without(value, names):
    """A copy of JSON without some keys, however deep."""
    if isinstance(value, dict):
        return {k: without(v, names) for k, v in value.items() if k not in names}
    return [without(v, names) for v in value] if isinstance(value, list) else value


def test_what_is_finished_in_s3_is_what_is_finished_on_disk(basin, tmp_path, s3):
    here = copied(basin, tmp_path / "copy")
    assert finish_basin(here, workers=2).is_new
    assert finish_basin(basin, workers=2).is_new
    ours, theirs = content(here), content(basin)
    assert theirs.keys() == ours.keys()
    assert [k for k in ours if k not in TELLING and theirs[k] != ours[k]] == []
    card, expected = (json.loads(c["finish/finished.json"]) for c in (theirs, ours))
    assert without(card, {"verified.json"}) == without(expected, {"verified.json"})
    assert card["files"] == {n: len(theirs[f"finish/{n}"]) for n in card["files"]}
    assert {f"finish/{n}" for n in card["files"]} | {"finish/finished.json"} == {
        key for key in theirs if key.startswith("finish/")
    }


def test_every_reader_opens_what_was_finished(basin, s3, gdal):
    finish_basin(basin)
    public = publish(basin, s3)
    place = basin.url.removeprefix("s3://")
    config = {"endpoint": f"http://{s3.endpoint}"}
    store = S3Store.from_url(
        f"{basin.url}/map.zarr", config=config, client_options={"allow_http": True}
    )
    from zarr.storage import ObjectStore

    whole = xr.open_zarr(ObjectStore(store, read_only=True)).compute()
    level = xr.open_zarr(ObjectStore(store, read_only=True), group="overviews/1").compute()
    np.testing.assert_array_equal(level.lulc, pyramid.mode_of_four(whole.lulc.values))
    for tile in basin.tiles:
        expected = whole.lulc.values[tile.row * 64 :, tile.col * 64 :][:64, :64]
        assert expected.any()
        for start in (f"/vsis3/{place}", f"/vsicurl/{public}"):
            with rasterio.open(f"{start}/finish/cog/{tile.id}.tif") as file:
                np.testing.assert_array_equal(file.read(1), expected)
                assert file.colormap(1)
    for suffix, name in {"": "lulc", "_confidence": "confidence"}.items():
        for start in (f"/vsis3/{place}", f"/vsicurl/{public}"):
            with rasterio.open(f"{start}/finish/mosaic{suffix}.vrt") as mosaic:
                np.testing.assert_array_equal(mosaic.read(1), whole[name].values)


def fetched(address):
    with urllib.request.urlopen(address, timeout=60) as answer:
        return answer.read()


def test_every_link_of_the_catalog_leads_to_an_object_with_its_checksum(basin, s3):
    finish_basin(basin)
    root = f"{publish(basin, s3)}/finish/stac/collection.json"
    collection = json.loads(fetched(root))
    items = [urljoin(root, link["href"]) for link in collection["links"] if link["rel"] == "item"]
    assert [item.rsplit("/", 1)[1] for item in items] == [f"{tile}.json" for tile in TILES]
    checked = 0
    for address in [root, *items]:
        card = json.loads(fetched(address))
        for link in card["links"]:
            assert json.loads(fetched(urljoin(address, link["href"])))["id"]
        for name, asset in card["assets"].items():
            target = urljoin(address, asset["href"])
            if name == "map":
                assert json.loads(fetched(f"{target}/zarr.json"))["node_type"] == "group"
                continue
            found = fetched(target)
            assert len(found) == asset["file:size"], name
            assert asset["file:checksum"] == "1220" + hashlib.sha256(found).hexdigest(), name
            checked += 1
    # Two GeoTIFFs a tile with two files and one beside them; six other results.
    assert checked == 4 * 5 + 6


class DeadError(BaseException):
    """The process is gone: nothing catches this but the test."""


class Watched:
    """An obstore store that notes what is written; at its `last` put it dies, and is no more."""

    def __init__(self, store, last=None):
        self.store, self.last, self.is_dead = store, last, False
        self.written = []

    def put(self, key, content, **options):
        self.note("put", key)
        self.is_dead = len([k for what, k in self.written if what == "put"]) == self.last
        if self.is_dead:
            raise DeadError
        return self.store.put(key, content, **options)

    def delete(self, key):
        self.note("delete", key)
        return self.store.delete(key)

    def note(self, what, key):
        if self.is_dead:
            raise DeadError
        if not key.startswith("clock/"):
            self.written.append((what, key))

    def __getattr__(self, name):
        if self.is_dead:
            raise DeadError
        return getattr(self.store, name)


@pytest.fixture
def watched(monkeypatch):
    """Call, and give what it has written; at its `last` put it dies."""

    def watch(call, plan, last=None):
        opened = plan.open()
        store = Watched(opened.store, last)
        with monkeypatch.context() as patch:
            patch.setattr(
                "deepforest_xr.basin.card.open_objects",
                lambda url: dataclasses.replace(opened, store=store),
            )
            call()
        return store.written

    return watch


def test_finished_a_second_time_nothing_is_written(basin, watched):
    first = watched(lambda: finish_basin(basin), basin)
    assert ("put", "finish/finished.json") in first
    before = listed(basin)
    again = watched(lambda: finish_basin(basin), basin)
    assert [key for what, key in again if what == "put"] == []
    assert listed(basin) == before


def listed(plan):
    """Key, time, size and checksum of every object, as the store tells them."""
    return [{**one} for chunk in plan.open().store.list() for one in chunk]


def test_killed_at_a_put_and_finished_again_the_objects_are_the_same(basin, watched, bucket):
    whole = copied(basin, f"{bucket}-whole")
    written = watched(lambda: finish_basin(whole, workers=1), whole)
    puts = [key for what, key in written if what == "put"]
    expected = content(whole)
    middle = next(n for n, key in enumerate(puts, start=1) if key.startswith("finish/cog/"))
    for last in (middle // 2, middle + 7, len(puts) - 1):
        dead = copied(basin, f"{bucket}-dead-{last}")

        def finish(dead=dead):
            with pytest.raises(DeadError):
                finish_basin(dead, workers=1)

        watched(finish, dead, last)
        assert dead.open().get("finish/finished.json") is None
        again = [k for what, k in watched(lambda d=dead: finish_basin(d), dead) if what == "put"]
        assert len(again) < len(puts)
        found = content(dead)
        assert found.keys() == expected.keys()
        assert [k for k in found if k not in TELLING and found[k] != expected[k]] == []
