"""A basin in an S3 store: planned, run and read there, and a claim that is made once."""

import json
import time

import pytest
import shapely
import torch
import xarray as xr
from obstore.store import S3Store
from shapely.geometry import mapping

from deepforest_xr import models
from deepforest_xr.basin import BasinConfig, basin_status, open_plan, plan_basin, run_basin
from deepforest_xr.basin.ledger import Ledger
from deepforest_xr.basin.store import open_objects

from . import proxy

pytestmark = pytest.mark.services


@pytest.fixture
def settings(scene, tmp_path, monkeypatch):
    monkeypatch.setattr("deepforest_xr.models.unet.ENCODER_FILTERS", (4,) * 6)
    monkeypatch.setattr("deepforest_xr.models.unet.DECODER_FILTERS", (4,) * 5)
    torch.manual_seed(3)
    network = models.build("u-net", bands=2, classes=13).eval()
    bands = ("B02", "B08")
    model = models.Checkpoint.from_module(network, bands=bands, mean=[0.1] * 2, std=[0.1] * 2)
    area = json.dumps(mapping(shapely.box(*scene.grid.bbox_lonlat)))
    (tmp_path / "area.json").write_text(area)

    def make(out):
        return BasinConfig(
            aoi=str(tmp_path / "area.json"),
            source=str(scene.items),
            model=str(tmp_path / "model"),
            out=str(out),
            year=2018,
            crs="EPSG:32721",
            tile=128,
            block=64,
            halo=32,
            device="cpu",
        )

    model.save(tmp_path / "model")
    return make


def objects(address):
    found = open_objects(address)
    return {key: found.get(key) for key in found.names("") if key.startswith("map.zarr")}


def test_a_basin_in_s3_is_the_basin_on_disk(bucket, settings, tmp_path, s3):
    plan = plan_basin(settings(bucket))
    assert plan_basin(settings(bucket)) == plan
    assert open_plan(bucket) == plan
    assert run_basin(plan, shard=(0, 2)).is_complete
    assert run_basin(plan).is_complete
    assert basin_status(plan).counts["done"] == len(plan.tiles)
    assert open_objects(bucket).names("clock/") == []
    here = plan_basin(settings(tmp_path / "basin"))
    run_basin(here)
    assert objects(bucket) == objects(tmp_path / "basin")
    store = S3Store.from_url(
        f"{bucket}/map.zarr",
        config={"endpoint": f"http://{s3.endpoint}"},
        client_options={"allow_http": True},
    )
    from zarr.storage import ObjectStore

    there = xr.open_zarr(ObjectStore(store, read_only=True)).compute()
    xr.testing.assert_identical(there, xr.open_zarr(tmp_path / "basin/map.zarr").compute())


def test_a_minute_of_503_from_the_first_shard_on_is_sat_out(
    bucket, settings, tmp_path, s3, monkeypatch
):
    with proxy.proxied(int(s3.endpoint.rpartition(":")[2])) as front:
        monkeypatch.setenv("AWS_ENDPOINT_URL", front.url)
        begun, refused = [], []

        def closed(method, path):
            if method == "PUT" and "/map.zarr/lulc/c/" in path and not begun:
                begun.append(time.monotonic())
            if not begun or time.monotonic() > begun[0] + 60:
                return False
            refused.append(path)
            return True

        plan = plan_basin(settings(bucket))
        front.closed = closed
        summary = run_basin(plan)
    assert (summary.made, summary.is_interrupted) == (len(plan.tiles), False)
    assert len(refused) > 3
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3.endpoint}")
    here = plan_basin(settings(tmp_path / "basin"))
    run_basin(here)
    assert objects(bucket) == objects(tmp_path / "basin")
    claims = [n for n in open_objects(bucket).names("") if n.startswith(("attempts/", "clock/"))]
    assert claims == [f"attempts/{tile.id}/1.json" for tile in plan.tiles]


def test_of_two_claims_in_s3_one_is_made(bucket):
    one, other = (Ledger(open_objects(bucket), lease=100) for _ in range(2))
    seen = one.states(["a"])["a"], other.states(["a"])["a"]
    lease = one.claim(seen[0])
    assert lease is not None
    assert other.claim(seen[1]) is None
    assert other.states(["a"])["a"].status == "running"
    assert one.beat(lease)
    assert one.finish(lease, {})
    assert not other.finish(lease, {"second": True})
