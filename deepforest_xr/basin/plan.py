"""A basin before it is run: tiles, their scenes, the empty map, and what it will take.

    plan.json             the plan; written last, so that where it is, all below is
    aoi.json              the area, GeoJSON
    items/<tile>.parquet  the scenes of a tile, frozen
    map.zarr/             the map, without pixels

The run id is a checksum of all that decides pixels. Planned again with the same id, nothing
happens; with another one it is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepforest_xr.basin import template
from deepforest_xr.basin.card import (
    AREA,
    MARKER,
    PLAN,
    Estimate,
    Model,
    Plan,
    grid_card,
    read_plan,
    to_card,
)
from deepforest_xr.basin.config import BasinConfig
from deepforest_xr.basin.ledger import LEASE_SECONDS, Ledger
from deepforest_xr.basin.owner import is_gone, this_owner
from deepforest_xr.basin.scenes import Pool, Scenes, Wanted, digest, freeze
from deepforest_xr.basin.store import Objects, open_objects
from deepforest_xr.basin.tiling import Tiling, cut
from deepforest_xr.basin.vector import read_area
from deepforest_xr.catalogs import search
from deepforest_xr.errors import ConfigError, NoItemsError
from deepforest_xr.models import channel_names, entry, load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pystac
    import xarray as xr
    from shapely.geometry.base import BaseGeometry

    from deepforest_xr.models import Checkpoint

log = logging.getLogger(__name__)

COVERED = 0.999
"""Share of a tile below which scenes leave a gap; footprints have straight edges in degrees."""

PACKAGES = ("deepforest-xr", "dask", "numpy", "rasterio", "stackstac", "torch", "xarray", "zarr")


def plan_basin(
    config: BasinConfig | str | Path | None = None,
    *,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Plan:
    """Plan a basin: choose and freeze scenes, lay out the empty map, say what it will take.

    Parameters
    ----------
    config : BasinConfig or path, optional
        What is wanted, or a TOML file of it.
    dry_run : bool
        Write nothing.
    progress : callable (done, total), optional
        Called after each tile.
    **settings
        Fields of `BasinConfig`, instead of `config` or in place of its own: ``aoi``, ``source``,
        ``model``, ``out``, ``year``, ``crs``, ``resolution``, ...

    Returns
    -------
    Plan
        The one that is there already, if it is the same.

    Raises
    ------
    ConfigError
        If a setting cannot be, or another basin was planned there.
    NoItemsError
        If no tile has scenes.
    CatalogError, ModelError, StoreError
        As search, the checkpoint and the store say.
    """
    config = _settled(config, settings)
    area = read_area(config.aoi)
    tiling = cut(area, crs=config.crs, resolution=config.resolution, tile=config.tile)
    checkpoint = load(config.model)
    config = _completed(config, checkpoint)
    wanted = _wanted(config, checkpoint)
    pool = Pool(list(_search(config, tiling, wanted)))
    scenes: dict[str, Scenes] = {}
    for number, tile in enumerate(tiling.tiles, start=1):
        scenes[tile.id] = pool.of(tiling, tile, wanted)
        if progress is not None:
            progress(number, len(tiling.tiles))
    items = _together(scenes)
    if not items:
        raise NoItemsError(
            f"none of {len(tiling.tiles)} tiles has the scenes that {checkpoint.model} needs: "
            f"{_gaps(scenes)[0]}. Search other dates, or take another model."
        )
    plan = _assemble(config, area, tiling, checkpoint, (wanted, scenes, items))
    described = template.describe(items, tiling.grid, checkpoint, halo=wanted.halo, cube=plan.cube)
    if dry_run and "://" not in plan.url and not Path(plan.url).is_dir():
        return plan
    objects = open_objects(config.out, make=not dry_run)
    there = read_plan(objects)
    if there is not None:
        _require_same(there, plan)
        return there
    if not dry_run:
        _write(objects, plan, area, scenes, described)
    return plan


def open_plan(out: str | Path) -> Plan:
    """Open the plan of a basin.

    Parameters
    ----------
    out : path or URL
        Where it was planned.

    Raises
    ------
    ConfigError
        If there is none, or one of another version.
    """
    objects = open_objects(out)
    plan = read_plan(objects)
    if plan is None:
        half = " (planning was not finished)" if objects.get(MARKER) else ""
        raise ConfigError(
            f"{objects.url!r} holds no plan{half}: make it with `deepforest-xr basin plan`."
        )
    return plan


def software() -> dict[str, str]:
    """Give the versions of what makes pixels."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def _settled(config: BasinConfig | str | Path | None, settings: dict[str, Any]) -> BasinConfig:
    """Give one configuration of a file or another one and of keywords, which go first."""
    if config is not None and not isinstance(config, BasinConfig):
        config = BasinConfig.from_toml(config)
    if config is not None and not settings:
        return config
    given = {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}
    before = {} if config is None else config.to_mapping()
    for one, other in (("year", "datetime"), ("dataset", "months")):
        if (one in given) != (other in given):
            before.pop(other if one in given else one, None)
    together = {k: v for k, v in (before | given).items() if v is not None}
    return BasinConfig.from_mapping(together, where="plan_basin")


def _completed(config: BasinConfig, checkpoint: Checkpoint) -> BasinConfig:
    """Write down the network's block and halo: another version may have others."""
    known = entry(checkpoint.model)
    halo = known.halo if config.halo is None else config.halo
    return replace(config, block=config.block or known.block, halo=halo)


def _wanted(config: BasinConfig, checkpoint: Checkpoint) -> Wanted:
    months = checkpoint.months or ()
    radar = set(channel_names(months, ()))
    bands = tuple(name for name in checkpoint.bands if name not in radar)
    if config.months is not None:
        months = config.months
    elif config.dataset is not None:
        from deepforest_xr.cube.opening import DATASETS

        if config.dataset not in DATASETS:
            raise ConfigError(
                f"dataset={config.dataset!r} is unknown; known: {', '.join(DATASETS)}."
            )
        months = DATASETS[config.dataset]
    return Wanted(bands, tuple(months), config.orbit, config.halo or 0)


def _search(config: BasinConfig, tiling: Tiling, wanted: Wanted) -> list[pystac.Item]:
    """Find the scenes of all tiles and of the halo around them."""
    import shapely
    from shapely.geometry import mapping

    around = shapely.union_all([tiling.outline(tile, wanted.halo) for tile in tiling.tiles])
    found = search(
        config.source,
        geometry=mapping(around),
        year=config.year,
        datetime=config.datetime,
        max_cloud_cover=config.max_cloud_cover,
    )
    return list(found)


def _together(scenes: Mapping[str, Scenes]) -> list[pystac.Item]:
    """All scenes that a tile needs, each once."""
    found = {(i.collection_id, i.id): i for s in scenes.values() for i in s.items}
    return list(found.values())


def _assemble(
    config: BasinConfig,
    area: BaseGeometry,
    tiling: Tiling,
    checkpoint: Checkpoint,
    chosen: tuple[Wanted, dict[str, Scenes], list[pystac.Item]],
) -> Plan:
    wanted, scenes, items = chosen
    parts = {
        "configuration": _checksum(config.deciding()),
        "area": hashlib.sha256(area.normalize().wkb).hexdigest(),
        "model": checkpoint.identity,
        "grid": _checksum(grid_card(tiling.grid) | {"tile": tiling.tile}),
        "items": digest(items),
    }
    empty = {tile: s.why_empty for tile, s in scenes.items() if s.why_empty}
    megapixels = (len(scenes) - len(empty)) * tiling.tile**2 / 1e6
    rate, price = config.seconds_per_megapixel, config.price_per_hour
    hours = None if rate is None else megapixels * rate / 3600
    return Plan(
        url=config.out if "://" in config.out else str(Path(config.out).resolve()),
        run_id=_checksum(parts),
        parts=parts,
        config=config,
        tiling=tiling,
        model=Model(
            checkpoint.model,
            checkpoint.sha256,
            checkpoint.identity,
            str(Path(config.model).resolve()),
        ),
        halo=wanted.halo,
        cube={
            "bands": list(wanted.bands),
            **({"months": list(wanted.months)} if wanted.months else {"dataset": "S2"}),
            **config.cube_options(),
        },
        items={tile: len(s.items) for tile, s in scenes.items()},
        empty=empty,
        estimate=Estimate(
            tiles=len(scenes),
            empty=len(empty),
            gigapixels=megapixels / 1e3,
            bytes_read=sum(s.bytes_read for s in scenes.values()),
            hours=hours,
            cost=None if hours is None or price is None else hours * price,
            currency=config.currency,
        ),
        warnings=tuple(_gaps(scenes)),
        versions=software(),
    )


def _gaps(scenes: Mapping[str, Scenes]) -> list[str]:
    """Say which tiles cannot be mapped whole, and which months of Sentinel-1 are filled."""
    lines = []
    for why in sorted({s.why_empty for s in scenes.values()} - {""}):
        tiles = [tile for tile, s in scenes.items() if s.why_empty == why]
        lines.append(f"{len(tiles)} of {len(scenes)} tiles have {why}: {_some(tiles)}")
    for number in sorted({m for s in scenes.values() for m in s.empty_months}):
        tiles = [tile for tile, s in scenes.items() if number in s.empty_months]
        lines.append(
            f"{len(tiles)} of {len(scenes)} tiles have no Sentinel-1 scene in month {number}, "
            f"which is filled from its neighbours: {_some(tiles)}"
        )
    for mission in sorted({name for s in scenes.values() for name, _ in s.covered}):
        shares = {tile: dict(s.covered).get(mission, 1.0) for tile, s in scenes.items()}
        tiles = sorted((t for t in shares if shares[t] < COVERED), key=lambda t: shares[t])
        if tiles:
            told = [f"{t} to {_percent(shares[t])}" for t in tiles]
            lines.append(
                f"{len(tiles)} of {len(scenes)} tiles are covered by {mission} scenes in part: "
                f"{_some(told)}"
            )
    return lines


def _percent(share: float) -> str:
    """Of what is not whole: never 100 %."""
    return f"{math.floor(1000 * share) / 10:.1f} %"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _write(
    objects: Objects,
    plan: Plan,
    area: BaseGeometry,
    scenes: Mapping[str, Scenes],
    described: xr.Dataset,
) -> None:
    """Write all objects of a plan, the plan itself last."""
    _begin(objects, plan)
    kept = {AREA: json.dumps(_area_card(area)).encode()}
    for key, content in template.empty_store(described, plan.tiling.tile).items():
        kept[f"{template.STORE}/{key}"] = content
    for tile, found in scenes.items():
        if found.items:
            kept[f"items/{tile}.parquet"] = freeze(found.items)
    for key, content in kept.items():
        objects.put(key, content)
    below = [*objects.names("items/"), *objects.names(f"{template.STORE}/")]
    objects.delete(key for key in below if key not in kept)
    for path in objects.staging(("items/", f"{template.STORE}/", PLAN, MARKER, AREA)):
        path.unlink(missing_ok=True)
    if not objects.create(PLAN, json.dumps(to_card(plan), indent=1).encode()):
        there = read_plan(objects)
        assert there is not None  # noqa: S101  - a plan is never removed
        _require_same(there, plan)
    objects.delete([MARKER])


def _begin(objects: Objects, plan: Plan) -> None:
    """Mark that a plan is being written; refuse where something else is, or another's plan."""
    owner = this_owner()
    content = json.dumps({"run_id": plan.run_id, "owner": owner.card()}).encode()
    if objects.modified(MARKER) is None and (
        objects.listing("items/") or objects.listing(f"{template.STORE}/")
    ):
        raise ConfigError(
            f"{objects.url!r} holds items/ or {template.STORE}/ of something else: plan the basin "
            "elsewhere."
        )
    if objects.create(MARKER, content):
        return
    there = json.loads(objects.get(MARKER) or b"{}")
    if there.get("run_id", plan.run_id) != plan.run_id and not is_gone(there.get("owner", {})):
        ledger = Ledger(objects, owner=owner)
        begun, now = objects.modified(MARKER), ledger.now()
        ledger.close()
        if begun is not None and (now - begun).total_seconds() < LEASE_SECONDS:
            raise ConfigError(
                f"another basin is being planned at {objects.url!r} by process "
                f"{there['owner'].get('pid')} on {there['owner'].get('host')}: plan elsewhere."
            )
    objects.put(MARKER, content)


def _require_same(there: Plan, plan: Plan) -> None:
    """Refuse a plan that is not the one that is there, naming what differs."""
    if there.run_id == plan.run_id:
        return
    differing = [name for name in plan.parts if there.parts.get(name) != plan.parts[name]]
    old, new = there.config.deciding(), plan.config.deciding()
    keys = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    told = [f"{k} was {old.get(k)!r}, is now {new.get(k)!r}" for k in keys]
    if "items" in differing:
        count = len(there.items), sum(there.items.values()), sum(plan.items.values())
        told.append(f"{count[1]} scenes of tiles were frozen, {count[2]} are found now")
    raise ConfigError(
        f"{there.url!r} holds another plan ({there.run_id[:12]}): {', '.join(differing)} differ"
        f"{': ' if told else ''}{'; '.join(told)}. Plan elsewhere, or go on with "
        f"`deepforest-xr basin run {there.url}`."
    )


def _area_card(area: BaseGeometry) -> dict[str, Any]:
    from shapely.geometry import mapping

    return {"type": "Feature", "properties": {}, "geometry": mapping(area)}


def _checksum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
