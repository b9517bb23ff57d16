"""Whether every tile is there, with the bytes that were recorded.

The ledger says which tiles are done and what their shards hash to; every shard is read once
and hashed. What was found good is remembered with its size and time of the store, so that only
objects that changed since are read again.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepforest_xr.basin import template
from deepforest_xr.basin.ledger import Ledger
from deepforest_xr.errors import DeepForestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from deepforest_xr.basin.card import Plan
    from deepforest_xr.basin.store import Objects
    from deepforest_xr.basin.tiling import Tile

    Seen = Mapping[str, list[Any]]

THREADS = 4
"""Shards in memory at once while they are hashed."""

NAMED = 5
"""Tiles that an error names."""


class UnfinishedError(DeepForestError):
    """Tiles that are not done, or not as they were recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The tiles that a basin can be finished with."""

    tiles: tuple[Tile, ...]
    """Done, each shard as it was recorded."""

    records: Mapping[str, dict[str, Any]]
    """What the ledger knows of them, by tile."""

    missing: Mapping[str, str]
    """Status by tile that is not done."""

    seen: Seen
    """Size, time and checksum by key of every shard that was found good."""

    @property
    def nodata(self) -> dict[str, float]:
        """Share of pixels without a class by tile, 0 to 1."""
        return {tile.id: float(self.records[tile.id]["nodata"]) for tile in self.tiles}

    def checksum(self, tiles: Iterable[Tile], *more: Any) -> str:
        """Checksum of all that a result made of these tiles depends on.

        Parameters
        ----------
        tiles : iterable of Tile
            Whose shards were read.
        more : JSON values
            What else decided the result.
        """
        shards = {
            tile.id: {n: s["sha256"] for n, s in self.records[tile.id]["shards"].items()}
            for tile in tiles
        }
        text = json.dumps([shards, *more], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def verify(
    plan: Plan,
    objects: Objects,
    *,
    partial: bool = False,
    seen: Seen | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Verified:
    """Compare every tile of a basin with what was recorded of it.

    Parameters
    ----------
    plan : Plan
        The basin.
    objects : Objects
        Of the basin.
    partial : bool
        Pass over tiles that are not done; those that are must be whole all the same.
    seen : mapping, optional
        `Verified.seen` of an earlier time.
    progress : callable (done, total), optional
        Called after each tile.

    Raises
    ------
    UnfinishedError
        If tiles are not done, or an object differs from its record.
    StoreError
        If the store does not answer.
    """
    ledger = Ledger(objects)
    try:
        states = ledger.states(tile.id for tile in plan.tiles)
    finally:
        ledger.close()
    done = tuple(tile for tile in plan.tiles if states[tile.id].status == "done")
    missing = {t: s.status for t, s in states.items() if s.status != "done"}
    if missing and not (partial and done):
        raise UnfinishedError(_not_done(plan, missing))
    with ThreadPoolExecutor(THREADS) as pool:
        records = dict(zip((t.id for t in done), pool.map(ledger.record, _ids(done)), strict=True))
        found = {one.key: one for one in objects.listing(f"{template.STORE}/")}
        there = {k: [one.size, one.modified.isoformat()] for k, one in found.items()}

        def check(tile: Tile) -> tuple[dict[str, list[Any]], str]:
            return _check(objects, plan, records[tile.id], there, seen or {})

        good: dict[str, list[Any]] = {}
        wrong: dict[str, str] = {}
        for number, (tile, (kept, why)) in enumerate(
            zip(done, pool.map(check, done), strict=True), start=1
        ):
            good |= kept
            wrong |= {tile.id: why} if why else {}
            if progress is not None:
                progress(number, len(done))
    if wrong:
        raise UnfinishedError(_damaged(plan, wrong))
    known = {tile: record for tile, record in records.items() if record is not None}
    return Verified(tiles=done, records=known, missing=missing, seen=good)


def _ids(tiles: Iterable[Tile]) -> list[str]:
    return [tile.id for tile in tiles]


def _check(
    objects: Objects,
    plan: Plan,
    record: dict[str, Any] | None,
    there: Mapping[str, list[Any]],
    seen: Seen,
) -> tuple[dict[str, list[Any]], str]:
    """Shards of a tile that are as recorded, and what is wrong, "" if nothing is."""
    good: dict[str, list[Any]] = {}
    if record is None or record.get("run_id") != plan.run_id:
        return good, "its record is of another run"
    for name in template.VARIABLES:
        shard = record["shards"][name]
        key, now = shard["key"], there.get(shard["key"])
        if now is None:
            return good, f"{name} is gone"
        if now[0] != shard["size"]:
            return good, f"{name} has {now[0]} bytes, not {shard['size']}"
        proof = [*now, shard["sha256"]]
        if seen.get(key) != proof:
            content = objects.get(key) or b""
            if hashlib.sha256(content).hexdigest() != shard["sha256"]:
                return good, f"{name} has another checksum"
        good[key] = proof
    return good, ""


def _not_done(plan: Plan, missing: Mapping[str, str]) -> str:
    count = f"{len(missing)} of {len(plan.tiles)} tiles"
    named = [f"{tile} ({status})" for tile, status in missing.items()]
    return (
        f"{count} are not done: {_some(named)}. Run `deepforest-xr basin run {plan.url}` again, "
        "or finish the rest with --partial."
    )


def _damaged(plan: Plan, wrong: Mapping[str, str]) -> str:
    first = next(iter(wrong))
    named = [f"{tile} ({why})" for tile, why in wrong.items()]
    return (
        f"{len(wrong)} of {len(plan.tiles)} tiles differ from their records: {_some(named)}. To "
        f"have them made again remove done/{first}.json and attempts/{first}/ below {plan.url}, "
        f"likewise of the others, and run `deepforest-xr basin run {plan.url}`."
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
