"""What `status` says is what the ledger holds."""

import json

import matplotlib.image
import numpy as np
import pytest

from deepforest_xr.basin import basin_status, run_basin
from deepforest_xr.basin import status as status_module
from deepforest_xr.basin.ledger import Ledger, TileState
from deepforest_xr.basin.store import open_objects
from deepforest_xr.errors import ConfigError

from .conftest import IDS
from .memory import EPOCH


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
    assert found.tiles_per_hour is None
    assert json.loads(json.dumps(found.to_dict()))["states"][IDS[1]] == "running"
    assert f"{IDS[2]} (waiting): ValueError: bad pixels" in str(found)
    assert basin_status(mixed, max_attempts=1).counts["set aside"] == 1
    colors = {f["id"]: f["properties"]["status"] for f in found.geojson()["features"]}
    assert colors[IDS[0]] == "done"
    assert open_objects(mixed.url).names("clock/") == []


def test_the_rate_is_that_of_the_tiles_done_last(plan, monkeypatch):
    from datetime import timedelta

    def states(_self, tiles):
        # Three tiles, ninety seconds apart, and one to go.
        for n, tile in enumerate(tiles):
            status = "done" if n < 3 else "waiting"
            yield tile, TileState(tile, status, modified=EPOCH + timedelta(seconds=90 * n))

    monkeypatch.setattr(status_module.Ledger, "states", lambda *a: dict(states(*a)))
    found = basin_status(plan)
    assert found.tiles_per_hour == pytest.approx(40)
    assert found.hours_left == pytest.approx(1 / 40)


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
