"""What `status` says is what the ledger holds."""

import dataclasses
import json

import matplotlib.image
import numpy as np
import pytest

from deepforest_xr.basin import Plan, basin_status, run_basin
from deepforest_xr.basin import status as status_module
from deepforest_xr.basin.ledger import Ledger
from deepforest_xr.basin.store import open_objects
from deepforest_xr.errors import ConfigError

from .conftest import IDS
from .memory import Clocked, memory


@pytest.fixture
def mixed(plan):
    """One tile done, one in another's hands, one that failed, one that waits."""
    run_basin(plan, shard=(0, 4))
    ledger = Ledger(open_objects(plan.url))
    states = ledger.states(IDS)
    ledger.claim(states[IDS[1]])
    ledger.fail(ledger.claim(states[IDS[2]]), ValueError("bad pixels"), transient=False)
    ledger.close()
    return plan


def test_counts_states_and_reasons(mixed):
    found = basin_status(mixed)
    assert found.counts == {"done": 1, "running": 1, "waiting": 2, "stale": 0, "set aside": 0}
    assert found.reasons == {IDS[2]: ["ValueError: bad pixels"]}
    assert found.seconds_per_megapixel > 0
    assert found.tiles_per_hour > 0
    assert json.loads(json.dumps(found.to_dict()))["states"][IDS[1]] == "running"
    assert f"{IDS[2]} (waiting): ValueError: bad pixels" in str(found)
    assert basin_status(mixed, max_attempts=1).counts["set aside"] == 1
    colors = {f["id"]: f["properties"]["status"] for f in found.geojson()["features"]}
    assert colors[IDS[0]] == "done"
    assert open_objects(mixed.url).names("clock/") == []


def test_the_rate_is_that_of_those_at_work_whatever_the_pauses(plan, monkeypatch):
    """Tiles of 36 s, an hour of rest before the second: of 64 x 64 pixels each."""
    store = Clocked()
    monkeypatch.setattr(Plan, "open", lambda _plan: memory(store))
    ledger = Ledger(memory(store))
    before = basin_status(plan)
    assert (before.seconds_per_megapixel, before.hours_left, before.tiles_per_hour) == (None,) * 3
    for tile in IDS[:2]:
        store.seconds += 3600
        ledger.finish(ledger.claim(ledger.states(IDS)[tile]), {"seconds": {"tile": 36.0}})
    rests = basin_status(plan)
    assert rests.seconds_per_megapixel == pytest.approx(36 / (64 * 64 / 1e6))
    assert rests.hours_of_one == pytest.approx(2 * 36 / 3600)
    assert (rests.hours_left, rests.tiles_per_hour) == (None, None)
    assert "left      0.02 h of one worker; nobody is at work" in str(rests)
    for tile in IDS[2:]:
        ledger.claim(ledger.states(IDS)[tile])
    works = basin_status(plan)
    assert works.tiles_per_hour == pytest.approx(2 * 3600 / 36)
    assert works.hours_left == pytest.approx(36 / 3600)
    assert "rate      200 tiles an hour, 2 at work" in str(works)


def test_tiles_without_scenes_say_nothing_of_the_speed(plan, monkeypatch):
    store = Clocked()
    monkeypatch.setattr(Plan, "open", lambda _plan: memory(store))
    plan = dataclasses.replace(plan, empty={IDS[0]: "no Sentinel-2 scene", IDS[3]: "none"})
    ledger = Ledger(memory(store))
    # The third is of a version that did not write down the whole.
    for tile, seconds in zip(IDS, ({"tile": 0.1}, {"tile": 36.0}, {"map": 1.0}), strict=False):
        ledger.finish(ledger.claim(ledger.states(IDS)[tile]), {"seconds": seconds})
    found = basin_status(plan)
    assert found.seconds_per_megapixel == pytest.approx(36 / (64 * 64 / 1e6))
    assert found.hours_of_one == 0


def test_tiles_are_drawn_where_they_are(mixed, tmp_path):
    path = basin_status(mixed).write_picture(tmp_path / "states.png")
    image = (matplotlib.image.imread(path)[..., :3] * 255).round()
    centres = {}
    for name, colour in status_module.COLORS.items():
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        hit = np.argwhere((image == rgb).all(axis=-1))
        below_legend = hit[hit[:, 0] > 120]
        if len(below_legend) > 500:
            centres[name] = below_legend.mean(axis=0)
    assert set(centres) == {"done", "running", "waiting"}
    # Done is the upper left of the two in the upper row; what waits is below.
    assert centres["done"][1] < centres["running"][1]
    assert centres["done"][0] < centres["waiting"][0]
    with pytest.raises(ConfigError, match=r"\.png"):
        basin_status(mixed).write_picture(tmp_path / "states.jpg")
