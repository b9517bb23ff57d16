"""A basin whose tiles are done without a network: pixels of a formula, recorded as a run would."""

import hashlib

import numpy as np

from deepforest_xr.basin import template
from deepforest_xr.basin.ledger import Ledger
from deepforest_xr.basin.tile import shard_keys


def pixels(plan, seed=0):
    """Codes and confidence of the whole map; classes in blobs, a corner without data."""
    rng = np.random.default_rng(seed)
    rows, cols = plan.tiling.grid.shape
    coarse = rng.integers(1, 14, (-(-rows // 3), -(-cols // 5)))
    codes = np.kron(coarse, np.ones((3, 5)))[:rows, :cols].astype("uint8")
    codes[rng.random(codes.shape) < 0.2] = 7
    codes[rng.random(codes.shape) < 0.1] = 0
    codes[: rows // 9, : cols // 2] = 0
    side, mapped = plan.tiling.tile, np.zeros(codes.shape, dtype=bool)
    for tile in plan.tiles:
        mapped[window(tile, side)] = True
    codes[~mapped] = 0
    confidence = np.where(codes > 0, rng.integers(20, 101, codes.shape), 0).astype("uint8")
    return {"lulc": codes, "confidence": confidence}


def window(tile, side):
    """Rows and columns of a tile in the map."""
    return np.s_[tile.row * side : (tile.row + 1) * side, tile.col * side : (tile.col + 1) * side]


def fill(plan, layers, tiles=None):
    """Store tiles and record them as done."""
    side = plan.tiling.tile
    ledger = Ledger(plan.open())
    for tile in plan.tiles if tiles is None else tiles:
        shards = {}
        for name, key in shard_keys(tile).items():
            content = template.encode(layers[name][window(tile, side)], side)
            ledger.objects.put(key, content)
            digest = hashlib.sha256(content).hexdigest()
            shards[name] = {"key": key, "sha256": digest, "size": len(content)}
        codes = layers["lulc"][window(tile, side)]
        record = {
            "tile": tile.id,
            "run_id": plan.run_id,
            "pixels": codes.size,
            "classes": {},
            "nodata": float((codes == 0).mean()),
            "seconds": {"read": 1.0, "classify": 2.0, "map": 2.5, "write": 0.5},
            "shards": shards,
            "read_failures": [],
            "versions": {"torch": "2.6.0", "zarr": "3.1.0"},
        }
        lease = ledger.claim(ledger.states([tile.id])[tile.id])
        assert ledger.finish(lease, record)
    ledger.close()
    return layers
