"""A map of a whole basin, tile by tile: planned once, run anywhere, gone on with after anything.

A tile is a shard of the map's Zarr store and one task that may be done twice without harm. What
is done stands in a ledger of small objects beside the map, and nowhere else: a run that was
killed is run again. No graph is ever larger than a tile.
"""

from deepforest_xr.basin.card import Estimate, Plan
from deepforest_xr.basin.config import BasinConfig
from deepforest_xr.basin.finish import Finished, finish_basin
from deepforest_xr.basin.plan import open_plan, plan_basin
from deepforest_xr.basin.run import run_basin
from deepforest_xr.basin.status import Status, basin_status
from deepforest_xr.basin.summary import Summary

__all__ = [
    "BasinConfig",
    "Estimate",
    "Finished",
    "Plan",
    "Status",
    "Summary",
    "basin_status",
    "finish_basin",
    "open_plan",
    "plan_basin",
    "run_basin",
]
