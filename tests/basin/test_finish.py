"""Finishing a basin: verified first, gone on with after anything, done once."""

import dataclasses
import json

import numpy as np
import pytest
import rasterio
import xarray as xr

from deepforest_xr import cli
from deepforest_xr.basin import cogs, open_plan, plan_basin, pyramid, run_basin
from deepforest_xr.basin import finish as finish_module
from deepforest_xr.basin.finish import finish_basin
from deepforest_xr.basin.store import open_objects
from deepforest_xr.basin.verify import UnfinishedError
from deepforest_xr.errors import ConfigError

from .conftest import IDS, content
from .faults import DeadError, Dying
from .finished import fill, pixels, window
from .memory import memory


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A pyramid of a small map has levels too."""
    monkeypatch.setattr(pyramid, "LONGEST", 40)


@pytest.fixture
def basin(plan):
    """A basin whose tiles are done, and its pixels."""
    return plan, fill(plan, pixels(plan))


def results(plan):
    return content(open_objects(plan.url).folder, "finish")


def the_map(plan):
    """Bytes of the map without overviews; its root, which lists them, as JSON without them."""
    found = content(open_objects(plan.url).folder)
    root = json.loads(found.pop("zarr.json"))
    listed = root["consolidated_metadata"]["metadata"]
    for name in [name for name in listed if name.split("/")[0] == "overviews"]:
        del listed[name]
    kept = {k: v for k, v in found.items() if not k.startswith("overviews/")}
    return kept | {"zarr.json": root}


def finish_by_command(plan, *options):
    with pytest.raises(SystemExit) as ended:
        cli.main(["basin", "finish", plan.url, *options])
    assert ended.value.code == 0


def test_a_true_run_is_finished_from_the_command_line(config, tmp_path, capsys):
    plan = plan_basin(config())
    assert run_basin(plan).is_complete
    before = the_map(plan)
    finish_by_command(plan)
    assert "is finished" in capsys.readouterr().out
    assert the_map(plan) == before
    card = json.loads(results(plan)["finished.json"])
    assert (card["run_id"], card["tiles"], card["missing"]) == (plan.run_id, 4, {})
    assert card["nodata"].keys() == set(IDS)
    done = xr.open_zarr(f"{plan.url}/map.zarr").lulc.values[64:, :64]
    assert card["nodata"]["r0001c0000"] == pytest.approx((done == 0).mean())
    finish_by_command(plan)
    assert "nothing was done" in capsys.readouterr().out


def test_a_second_time_nothing_is_done(basin, monkeypatch):
    plan, _ = basin
    first = finish_basin(plan)
    assert first.is_new
    written = content(open_objects(plan.url).folder, "")
    monkeypatch.setattr(finish_module, "_Finisher", None)
    second = finish_basin(plan)
    assert second == dataclasses.replace(first, is_new=False)
    assert content(open_objects(plan.url).folder, "") == written


def test_what_was_lost_is_made_again_the_same(basin):
    plan, _ = basin
    finish_basin(plan)
    whole = results(plan)
    (open_objects(plan.url).folder / "finish" / "cog" / f"{IDS[1]}.tif").unlink()
    overview = open_objects(plan.url).folder / "map.zarr" / "overviews" / "1" / "lulc" / "c/0/1"
    shard = overview.read_bytes()
    overview.unlink()
    assert finish_basin(plan).is_new
    assert results(plan) == whole
    assert overview.read_bytes() == shard


def test_gone_on_with_only_what_is_missing_is_made(basin, monkeypatch):
    plan, _ = basin
    finish_basin(plan)
    whole = results(plan)
    folder = open_objects(plan.url).folder / "finish"
    (folder / "finished.json").rename(folder / "finishing.json")  # as if it had died before its end
    (folder / "overview.png").unlink()
    with monkeypatch.context() as patch:
        for place in ("cogs.write_cog", "areas._sum_tile", "pyramid._shard"):
            patch.setattr(f"deepforest_xr.basin.{place}", None)
        assert finish_basin(plan).is_new
    assert results(plan) == whole


def test_a_basin_that_is_not_run_to_its_end_is_refused_or_finished_in_part(plan):
    layers = pixels(plan)
    fill(plan, layers, plan.tiles[:3])
    with pytest.raises(UnfinishedError, match=r"1 of 4 tiles are not done: r0001c0001 \(waiting\)"):
        finish_basin(plan)
    assert results(plan) == {}
    part = finish_basin(plan, partial=True)
    assert (part.tiles, dict(part.missing)) == (3, {"r0001c0001": "waiting"})
    assert "cog/r0001c0001.tif" not in results(plan)
    fill(plan, layers, plan.tiles[3:])
    whole = finish_basin(plan)
    assert (whole.tiles, whole.is_new) == (4, True)
    assert "cog/r0001c0001.tif" in results(plan)
    level = xr.open_zarr(f"{plan.url}/map.zarr/overviews/1").lulc.values
    assert level[32:, 32:64].any()


def test_a_tile_that_is_made_anew_is_shown_anew_and_no_other_is_made(basin, monkeypatch):
    plan, _ = basin
    finish_basin(plan)
    objects, tile = open_objects(plan.url), plan.tiles[1]
    objects.delete([f"done/{tile.id}.json", *objects.names(f"attempts/{tile.id}/")])
    layers = fill(plan, pixels(plan, seed=1), [tile])
    written = []
    real = cogs.write_cog
    monkeypatch.setattr(
        cogs, "write_cog", lambda d, path, **o: written.append(path.stem) or real(d, path, **o)
    )
    assert finish_basin(plan).is_new
    assert written == [tile.id] * 2
    with rasterio.open(objects.folder / "finish" / "cog" / f"{tile.id}.tif") as file:
        np.testing.assert_array_equal(file.read(1), layers["lulc"][window(tile, 64)])
    level = xr.open_zarr(f"{plan.url}/map.zarr/overviews/1").lulc.values[:32, 64:96]
    np.testing.assert_array_equal(level, pyramid.mode_of_four(layers["lulc"][window(tile, 64)]))


def test_nothing_done_is_nothing_to_finish(plan):
    with pytest.raises(UnfinishedError, match="4 of 4 tiles"):
        finish_basin(plan, partial=True)


def flip(path):
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(bytes(changed))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flip, "lulc has another checksum"),
        (lambda path: path.write_bytes(b"short"), "lulc has 5 bytes, not"),
        (lambda path: path.unlink(), "lulc is gone"),
    ],
)
def test_a_damaged_tile_is_named_with_what_mends_it(basin, damage, told):
    plan, _ = basin
    folder = open_objects(plan.url).folder
    damage(folder / "map.zarr" / "lulc" / "c" / "0" / "2")
    with pytest.raises(UnfinishedError, match=told) as caught:
        finish_basin(plan, partial=True)
    line = str(caught.value)
    assert "1 of 4 tiles differ" in line
    assert "\n" not in line
    for name in ("done/r0000c0002.json", "attempts/r0000c0002/"):
        assert name in line
    assert results(plan) == {}
    objects = open_objects(plan.url)
    objects.delete(["done/r0000c0002.json", *objects.names("attempts/r0000c0002/")])
    assert run_basin(plan).made == 1
    assert finish_basin(plan).is_new


def test_a_shard_that_changes_after_it_was_verified_is_seen(basin):
    plan, _ = basin
    finish_basin(plan)
    flip(open_objects(plan.url).folder / "map.zarr" / "confidence" / "c" / "1" / "0")
    with pytest.raises(UnfinishedError, match=r"r0001c0000 \(confidence has another checksum"):
        finish_basin(plan)


def test_killed_at_any_put_and_finished_again_the_bytes_are_the_same(basin, monkeypatch):
    plan, _ = basin
    folder = open_objects(plan.url).folder
    planned = (folder / "map.zarr" / "zarr.json").read_bytes()
    finish_basin(plan)
    whole = content(folder, "")

    def wipe():
        (folder / "map.zarr" / "zarr.json").write_bytes(planned)
        for path in [*(folder / "finish").rglob("*"), *(folder / "map.zarr/overviews").rglob("*")]:
            if path.is_file():
                path.unlink()

    real = finish_module.STAGING_SECONDS
    puts = 90
    for last, moment in [(1, "over"), (9, "before"), (21, "over"), (34, "after"), (47, "over"),
                         (62, "before"), (75, "over"), (puts, "after")]:  # fmt: skip
        wipe()
        store = Dying(folder, last, moment)
        dead = dataclasses.replace(open_objects(folder), store=store)
        with monkeypatch.context() as patch:
            patch.setattr("deepforest_xr.basin.card.open_objects", lambda url, d=dead: d)
            try:
                finish_basin(plan, workers=1)
            except DeadError:
                assert not (folder / "finish" / "finished.json").exists()
            else:
                assert last == puts
                assert len(store.puts) > 62
        monkeypatch.setattr(finish_module, "STAGING_SECONDS", -1.0)
        finish_basin(plan)
        monkeypatch.setattr(finish_module, "STAGING_SECONDS", real)
        found = content(folder, "")
        clocks = {name for name in found if name.startswith("clock/")}  # of what died
        assert found.keys() - clocks == whole.keys()
        differing = [n for n in whole if found[n] != whole[n] and n != "finish/verified.json"]
        assert differing == []


def test_in_an_object_store_the_results_are_those_of_a_folder(basin, monkeypatch):
    plan, layers = basin
    finish_basin(plan)
    objects = memory()
    folder = open_objects(plan.url)
    for name in ("plan.json", "aoi.json", *folder.names("map.zarr/")):
        if "overviews" not in name:
            objects.put(name, folder.get(name))
    monkeypatch.setattr("deepforest_xr.basin.card.open_objects", lambda url: objects)
    there = dataclasses.replace(plan, url="memory://")
    fill(there, layers)
    assert finish_basin(there).is_new
    assert not finish_basin(there).is_new
    found = {n.removeprefix("finish/"): objects.get(n) for n in objects.names("finish/")}
    del found["verified.json"]
    assert found.keys() == results(plan).keys() - {"verified.json"}
    for name, expected in results(plan).items():
        if name not in {"verified.json", "finished.json"}:
            assert found[name] == expected, name
    for name in folder.names("map.zarr/overviews/"):
        assert objects.get(name) == folder.get(name)


def test_other_settings_are_refused_until_all_may_be_made_anew(basin):
    plan, _ = basin
    finish_basin(plan)
    with pytest.raises(ConfigError, match="other settings of cogs, license"):
        finish_basin(plan, cogs=None, license_name="CC-BY-4.0")
    finish_basin(plan, cogs=None, license_name="CC-BY-4.0", overwrite=True)
    found = results(plan)
    assert not [name for name in found if name.startswith(("cog/", "stac/items", "mosaic"))]
    assert json.loads(found["stac/collection.json"])["license"] == "CC-BY-4.0"
    assert "mosaic.vrt" not in found["overview.html"].decode()


def test_results_may_go_elsewhere_but_not_onto_something_else(basin, tmp_path):
    plan, _ = basin
    finished = finish_basin(plan, out=tmp_path / "there")
    assert finished.url == str(tmp_path / "there")
    assert (tmp_path / "there" / "finished.json").exists()
    assert results(plan) == {}
    assert not finish_basin(plan, out=tmp_path / "there").is_new
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "overview.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="something else"):
        finish_basin(plan, out=tmp_path / "taken")
    assert content(tmp_path, "taken") == {"overview.png": b"mine"}
    other = dataclasses.replace(open_plan(plan.url), run_id="0" * 64)
    with pytest.raises(ConfigError, match="holds results of run"):
        finish_basin(other, out=tmp_path / "there")


def test_what_cannot_be_is_refused(basin, tmp_path):
    plan, _ = basin
    with pytest.raises(ConfigError, match="expected 'tile', 'degree' or None"):
        finish_basin(plan, cogs="country")
    with pytest.raises(ConfigError, match="is no file"):
        finish_basin(plan, polygons=tmp_path / "no.geojson")
    assert results(plan) == {}


def test_half_written_files_of_the_dead_go_those_of_the_living_stay(basin):
    import os

    plan, _ = basin
    folder = open_objects(plan.url).folder
    (folder / "finish" / "cog").mkdir(parents=True)
    old, young = folder / "finish" / "cog" / "a.tif#1", folder / "finish" / "cog" / "b.tif#1"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1e9, 1e9))
    finish_basin(plan)
    assert (old.exists(), young.exists()) == (False, True)


def test_the_whole_map_is_read_back(basin):
    plan, layers = basin
    found = xr.open_zarr(f"{plan.url}/map.zarr").compute()
    np.testing.assert_array_equal(found.lulc, layers["lulc"])
