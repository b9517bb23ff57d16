"""A run: the same bytes whoever runs it, in whatever order, and the map that `classify` makes."""

import dataclasses
import hashlib
import threading

import numpy as np
import pytest
import xarray as xr
from affine import Affine

from deepforest_xr import classify, models, open_cube
from deepforest_xr.basin import basin_status, plan_basin, run_basin
from deepforest_xr.basin import run as run_module
from deepforest_xr.basin import tile as tile_module
from deepforest_xr.basin.ledger import Ledger
from deepforest_xr.basin.scenes import freeze, thaw
from deepforest_xr.basin.store import open_objects
from deepforest_xr.catalogs import read_items
from deepforest_xr.errors import ConfigError, ModelError, ReadError, StoreError
from deepforest_xr.grid import Grid

from .conftest import BANDS, IDS, PARTS, area_file, content
from .faults import strays


def names(plan):
    return open_objects(plan.url).names("")


def test_nothing_is_left_but_map_plan_and_ledger(plan, undisturbed):
    told = []
    assert run_basin(plan, progress=lambda *counts: told.append(counts)).is_complete
    assert list(dict.fromkeys(told)) == [(n, 4) for n in range(5)]
    found = names(plan)
    assert strays(found, plan) == []
    assert [n for n in found if n.startswith("attempts/")] == [f"attempts/{i}/1.json" for i in IDS]
    assert content(open_objects(plan.url).folder) == undisturbed


def test_run_again_nothing_is_made(plan, monkeypatch):
    run_basin(plan)
    told = []
    monkeypatch.setattr(run_module, "make_tile", None)
    assert run_basin(plan, progress=lambda *counts: told.append(counts)).made == 0
    assert set(told) == {(4, 4)}


def test_shards_of_processes_that_share_nothing_make_the_same_bytes(plan, undisturbed):
    for number in (2, 0, 1):
        summary = run_basin(plan, shard=(number, 3))
        assert summary.tiles == (2, 1, 1)[number]
        assert summary.is_complete
    assert content(open_objects(plan.url).folder) == undisturbed


def test_two_runners_at_once_share_the_tiles(plan, undisturbed, monkeypatch):
    made, both = [], threading.Barrier(2, timeout=60)
    real = run_module.make_tile

    def counted(plan, tile, *args, **options):
        if len(made) < 2:
            made.append(tile.id)
            both.wait()  # each runner has a tile in hand
        else:
            made.append(tile.id)
        return real(plan, tile, *args, **options)

    monkeypatch.setattr(run_module, "make_tile", counted)
    monkeypatch.setattr(run_module, "IDLE_REST_SECONDS", 0.5)
    summaries = []
    threads = [
        threading.Thread(target=lambda: summaries.append(run_basin(plan, lease=40)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [s.done for s in summaries] == [4, 4]
    assert sum(s.made for s in summaries) == 4
    assert sorted(made) == sorted(IDS)
    assert content(open_objects(plan.url).folder) == undisturbed


@pytest.fixture
def looks(monkeypatch):
    """Every listing of the ledger that was made."""
    found, real = [], Ledger.states
    monkeypatch.setattr(Ledger, "states", lambda *args: found.append(1) or real(*args))
    return found


def test_the_ledger_is_listed_before_the_first_tile_and_after_the_last(plan, looks):
    assert run_basin(plan).made == 4
    assert len(looks) == 2


def test_a_tile_that_another_made_meanwhile_is_passed_by_and_the_ledger_listed_anew(
    plan, looks, monkeypatch
):
    other, made = Ledger(open_objects(plan.url)), []
    real = run_module.make_tile

    def meanwhile(plan, tile, *args, **options):
        made.append(tile.id)
        if len(made) == 1:
            states, at = other.states(IDS), IDS.index(tile.id)
            for following in (IDS[at + 1 :] + IDS[:at])[:2]:
                other.finish(other.claim(states[following]), {})
            looks.clear()
        return real(plan, tile, *args, **options)

    monkeypatch.setattr(run_module, "make_tile", meanwhile)
    summary = run_basin(plan)
    assert len(made) == len(set(made)) == 2
    assert (summary.done, summary.made) == (4, 2)
    assert len(looks) == 2  # at the first of the two, and at the end


class Awake(threading.Event):
    """Must not be waited for."""

    def wait(self, timeout=None):
        raise AssertionError(f"the runner sleeps for {timeout} s")


def test_a_runner_never_sleeps_when_no_tile_is_left_for_anyone(plan, monkeypatch):
    real = run_module.make_tile

    def broken(plan, tile, *args, **options):
        if tile.id == IDS[1]:
            raise ReadError("gone.tif cannot be read")
        return real(plan, tile, *args, **options)

    monkeypatch.setattr(run_module, "make_tile", broken)
    summary = run_basin(plan, max_attempts=2, stop=Awake())
    assert (summary.done, set(summary.set_aside)) == (3, {IDS[1]})
    monkeypatch.setattr(run_module, "make_tile", real)
    assert run_basin(plan, stop=Awake()).made == 1
    assert run_basin(plan, stop=Awake()).made == 0


def test_without_a_worker_for_a_while_the_tiles_wait(plan, monkeypatch):
    widths, real = [0, 0], run_module._Threads.width
    monkeypatch.setattr(run_module, "IDLE_REST_SECONDS", 0.0)
    monkeypatch.setattr(
        run_module._Threads, "width", lambda crew: widths.pop() if widths else real(crew)
    )
    assert run_basin(plan).made == 4


def test_tiles_at_once_in_one_process_make_the_same_bytes(plan, undisturbed):
    assert run_basin(plan, workers=3).made == 4
    assert content(open_objects(plan.url).folder) == undisturbed


def test_the_map_is_that_of_one_cube(plan, scene):
    run_basin(plan)
    whole = plan.tiling.grid
    wide = Grid(
        whole.crs,
        whole.transform @ Affine.translation(-32, -32),
        (whole.shape[0] + 64, whole.shape[1] + 64),
    )
    cube = open_cube(read_items(scene.items), grid=wide, bands=BANDS)
    expected = classify(cube, plan.model.path, block=32, halo=32)
    expected = expected.isel(y=slice(32, -32), x=slice(32, -32)).compute()
    found = xr.open_zarr(f"{plan.url}/map.zarr").compute()
    np.testing.assert_array_equal(found.x, expected.x)
    np.testing.assert_array_equal(found.y, expected.y)
    inside = np.zeros(whole.shape, dtype=bool)
    for tile in plan.tiles:
        inside[tile.row * 64 : (tile.row + 1) * 64, tile.col * 64 : (tile.col + 1) * 64] = True
    assert len(np.unique(found.lulc)) > 5
    assert (found.lulc.values != expected.lulc.values)[inside].mean() <= 1e-3
    assert not found.lulc.values[~inside].any()
    assert ((found.lulc == 0) == (expected.lulc == 0)).values[inside].all()


def test_what_is_done_is_told(plan):
    run_basin(plan, shard=(3, 4))
    record = Ledger(open_objects(plan.url)).record(IDS[3])
    written = content(open_objects(plan.url).folder)
    codes = xr.open_zarr(f"{plan.url}/map.zarr").lulc.values[64:, 64:128]
    counts = {str(c): int((codes == c).sum()) for c in np.unique(codes) if c}
    assert record["classes"] == counts
    assert record["nodata"] == pytest.approx((codes == 0).mean())
    assert record["attempt"] == 1
    assert record["run_id"] == plan.run_id
    assert record["peak_memory"] > 50e6
    for name, shard in record["shards"].items():
        stored = written[f"{name}/c/1/1"]
        assert shard["size"] == len(stored)
        assert shard["sha256"] == hashlib.sha256(stored).hexdigest()
    assert record["seconds"]["read"] > 0
    assert record["seconds"]["classify"] > 0
    assert {"torch", "zarr", "deepforest-xr"} <= record["versions"].keys()


def test_a_tile_without_scenes_is_done_and_empty(config, tmp_path):
    beside = (835_300, 9_108_600, 835_700, 9_109_000)
    plan = plan_basin(config(aoi=str(area_file(tmp_path / "wide", (*PARTS, beside)))))
    assert run_basin(plan, shard=(4, 5)).is_complete
    record = Ledger(open_objects(plan.url)).record("r0001c0009")
    assert (record["classes"], record["nodata"]) == ({}, 1.0)
    assert "lulc/c/1/9" in content(tmp_path / "basin")


def test_beyond_the_area_nothing_is_mapped_if_so_asked(config):
    plan = plan_basin(config(mask=True))
    run_basin(plan, shard=(1, 4))
    lulc = xr.open_zarr(f"{plan.url}/map.zarr").lulc
    left, bottom, right, top = PARTS[0]
    within = (lulc.x > left) & (lulc.x < right) & (lulc.y > bottom) & (lulc.y < top)
    tile = lulc.where(lulc.x > 830_720, 0).compute()
    assert tile.where(within, 0).astype(bool).sum() > 0.5 * (within & (lulc.x > 830_720)).sum()
    # The edges of the area are straight in degrees: a pixel may lie on either side.
    wider = (
        (lulc.x > left - 10) & (lulc.x < right + 10) & (lulc.y > bottom - 10) & (lulc.y < top + 10)
    )
    assert not tile.where(~wider, 0).any()


def test_a_tile_that_cannot_be_made_is_set_aside_with_its_reason(config, tmp_path):
    plan = plan_basin(config())
    objects, key = open_objects(plan.url), "items/r0000c0002.parquet"
    items = thaw(objects.get(key))
    for item in items:
        item.assets["B04"].href = str(tmp_path / "gone.tif")
    objects.put(key, freeze(items))
    summary = run_basin(plan, max_attempts=2)
    assert set(summary.set_aside) == {"r0000c0002"}
    assert summary.done == 3
    assert not summary.is_interrupted
    (reasons,) = summary.set_aside.values()
    assert len(reasons) == 2
    assert "ReadError" in reasons[0]
    assert "gone.tif" in reasons[0]
    status = basin_status(plan)
    assert status.counts["set aside"] == 1
    assert "gone.tif" in str(status)
    assert strays(names(plan), plan) == []
    # More attempts are granted when they are asked for.
    assert basin_status(plan, max_attempts=3).counts["waiting"] == 1


def test_what_may_pass_is_tried_again_within_an_attempt(plan, undisturbed, monkeypatch):
    real, failures = tile_module.open_cube, [503, 429, None]

    def flaky(*args, **options):
        if failures and (code := failures.pop(0)):
            raise ReadError(f"a.tif cannot be read: HTTP response code: {code}.")
        return real(*args, **options)

    monkeypatch.setattr(tile_module, "open_cube", flaky)
    monkeypatch.setattr(run_module, "PAUSES_SECONDS", (0.0, 0.0, 0.0))
    assert run_basin(plan).made == 4
    assert not [n for n in names(plan) if "failed" in n]
    assert content(open_objects(plan.url).folder) == undisturbed


def test_an_error_of_the_store_stops_the_run_and_is_no_attempt(plan, monkeypatch):
    def full(*_args):
        raise StoreError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tile_module, "_store", full)
        with pytest.raises(StoreError, match="No space"):
            run_basin(plan)
    states = basin_status(plan).states.values()
    assert {(s.status, s.attempts) for s in states} == {("waiting", 0)}


def test_asked_to_stop_the_tile_in_hand_is_given_back(plan, monkeypatch):
    stop, reading, released = threading.Event(), threading.Event(), threading.Event()
    real = tile_module.open_cube

    def slow(*args, **options):
        stop.set()
        reading.set()
        assert released.wait(60)
        return real(*args, **options)

    ended = threading.Event()
    make = run_module.make_tile

    def watched(*args, **options):
        try:
            return make(*args, **options)
        finally:
            ended.set()

    with monkeypatch.context() as patch:
        patch.setattr(tile_module, "open_cube", slow)
        patch.setattr(run_module, "make_tile", watched)
        summary = run_basin(plan, stop=stop)
        assert reading.is_set()
        assert summary.is_interrupted
        assert summary.made == 0
        released.set()
        assert ended.wait(60)
    states = basin_status(plan).states.values()
    assert {(s.status, s.attempts) for s in states} == {("waiting", 0)}
    assert not [n for n in names(plan) if n.startswith(("done/", "map.zarr/lulc/c/"))]
    assert run_basin(plan).is_complete


def test_a_model_that_is_not_the_planned_one_is_refused_before_a_claim(plan, model, tmp_path):
    changed = dataclasses.replace(models.load(model), temperature=2.0)
    changed = changed.save(tmp_path / "other")
    with pytest.raises(ModelError, match="was planned with"):
        run_basin(plan, model=str(changed))
    assert not [n for n in names(plan) if n.startswith("attempts/")]


def test_a_model_may_lie_elsewhere(plan, model, tmp_path, undisturbed):
    copy = models.load(model).save(tmp_path / "copy")
    run_basin(plan, model=str(copy), shard=(0, 4))
    assert content(open_objects(plan.url).folder)["lulc/c/0/1"] == undisturbed["lulc/c/0/1"]


@pytest.mark.parametrize("wrong", [{"shard": (2, 2)}, {"shard": (-1, 2)}, {"workers": 0}])
def test_what_cannot_be_is_refused(plan, wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        run_basin(plan, **wrong)
