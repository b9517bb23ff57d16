"""The plan as it is kept: what a basin is, what it will take, and ``plan.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from affine import Affine

from deepforest_xr.basin.config import BasinConfig
from deepforest_xr.basin.store import Objects, open_objects
from deepforest_xr.basin.tiling import Tile, Tiling
from deepforest_xr.errors import ConfigError
from deepforest_xr.grid import Grid, parse_crs

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 1
PLAN = "plan.json"
MARKER = "planning.json"
AREA = "aoi.json"


@dataclass(frozen=True, slots=True)
class Model:
    """Which model, and where."""

    name: str
    """Of the network."""

    sha256: str
    """Of its weights."""

    identity: str
    """Of all that decides a map: weights, inputs, normalisation, legend."""

    path: str
    """Folder of the checkpoint when it was planned."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a basin takes. What was not measured is None: it is never guessed."""

    tiles: int
    """That meet the area."""

    empty: int
    """Of them without scenes."""

    gigapixels: float
    """Of tiles that have scenes."""

    bytes_read: int
    """Of scenes, uncompressed; by their boxes, so at most."""

    hours: float | None
    """Of one worker, from ``seconds_per_megapixel``."""

    cost: float | None
    """Of these hours, from ``price_per_hour``."""

    currency: str
    """Of the cost."""

    def __str__(self) -> str:
        hours = "not measured" if self.hours is None else f"{self.hours:,.4g} h of one worker"
        cost = "not known" if self.cost is None else f"{self.cost:,.4g} {self.currency}"
        return "\n".join(
            (
                f"tiles    {self.tiles:,}, {self.empty:,} of them without scenes",
                f"pixels   {self.gigapixels:,.4g} gigapixels",
                f"reads    up to {self.bytes_read / 1e9:,.4g} GB uncompressed",
                f"time     {hours}",
                f"cost     {cost}",
            )
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """A basin that can be run."""

    url: str
    """Folder or address of the basin."""

    run_id: str
    """Checksum of all that decides its pixels."""

    parts: Mapping[str, str]
    """Checksums that make up the run id: configuration, area, model, grid, items."""

    config: BasinConfig
    """What was asked for."""

    tiling: Tiling
    """Grid and tiles."""

    model: Model
    """The model."""

    halo: int
    """Pixels around a block and around a tile."""

    cube: Mapping[str, Any]
    """Arguments of `open_cube` but items and grid."""

    items: Mapping[str, int]
    """Number of scenes by tile."""

    empty: Mapping[str, str]
    """Why nothing can be mapped, by tile."""

    estimate: Estimate
    """What it takes."""

    warnings: tuple[str, ...]
    """Gaps in the scenes, one line each."""

    versions: Mapping[str, str]
    """Of the software that planned it."""

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """All tiles, row by row."""
        return self.tiling.tiles

    def open(self) -> Objects:
        """Open the objects of the basin."""
        return open_objects(self.url)

    def geojson(self, status: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Give the tiles as GeoJSON in degrees, with their scenes and, if given, their status."""
        from shapely.geometry import mapping

        features = [
            {
                "type": "Feature",
                "id": tile.id,
                "properties": {
                    "tile": tile.id,
                    "row": tile.row,
                    "col": tile.col,
                    "items": self.items.get(tile.id, 0),
                    "empty": self.empty.get(tile.id),
                    **({"status": status.get(tile.id)} if status is not None else {}),
                },
                "geometry": mapping(self.tiling.outline(tile)),
            }
            for tile in self.tiles
        ]
        return {"type": "FeatureCollection", "features": features}

    def __str__(self) -> str:
        lines = [
            f"run      {self.run_id[:12]} at {self.url}",
            f"grid     {self.tiling.grid.describe()}, tiles of {self.tiling.tile} pixels",
            f"model    {self.model.name} {self.model.sha256[:12]}, halo {self.halo}",
            str(self.estimate),
            *(f"warning  {line}" for line in self.warnings),
        ]
        return "\n".join(lines)


def read_plan(objects: Objects) -> Plan | None:
    """Read the plan that stands below an address; None if there is none.

    Raises
    ------
    ConfigError
        If it is of another version.
    """
    content = objects.get(PLAN)
    if content is None:
        return None
    try:
        return from_card(json.loads(content), objects.url)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{objects.url}/{PLAN} is not a plan of this version ({type(error).__name__}: {error}):"
            " plan elsewhere with this version, or run it with its own."
        ) from error


def to_card(plan: Plan) -> dict[str, Any]:
    """Give a plan as JSON values."""
    return {
        "format": FORMAT,
        "run_id": plan.run_id,
        "parts": dict(plan.parts),
        "config": plan.config.to_mapping(),
        "grid": grid_card(plan.tiling.grid),
        "tile": plan.tiling.tile,
        "tiles": [
            {
                "id": tile.id,
                "row": tile.row,
                "col": tile.col,
                "items": plan.items[tile.id],
                "empty": plan.empty.get(tile.id),
            }
            for tile in plan.tiles
        ],
        "model": asdict(plan.model),
        "halo": plan.halo,
        "block": plan.config.block,
        "cube": dict(plan.cube),
        "estimate": asdict(plan.estimate),
        "warnings": list(plan.warnings),
        "versions": dict(plan.versions),
    }


def from_card(card: dict[str, Any], url: str) -> Plan:
    """Make a plan of what `to_card` gave, wherever it stands now."""
    if card["format"] != FORMAT:
        raise ValueError(f"format {card['format']}, expected {FORMAT}")
    grid = card["grid"]
    tiles = tuple(Tile(t["row"], t["col"]) for t in card["tiles"])
    return Plan(
        url=url,
        run_id=card["run_id"],
        parts=card["parts"],
        config=BasinConfig.from_mapping(card["config"]),
        tiling=Tiling(
            Grid(parse_crs(grid["crs"]), Affine(*grid["transform"]), tuple(grid["shape"])),
            card["tile"],
            tiles,
        ),
        model=Model(**card["model"]),
        halo=card["halo"],
        cube=card["cube"],
        items={t["id"]: t["items"] for t in card["tiles"]},
        empty={t["id"]: t["empty"] for t in card["tiles"] if t["empty"]},
        estimate=Estimate(**card["estimate"]),
        warnings=tuple(card["warnings"]),
        versions=card["versions"],
    )


def grid_card(grid: Grid) -> dict[str, Any]:
    """Give a grid as JSON values."""
    return {
        "crs": grid.crs.to_wkt(),
        "transform": list(grid.transform)[:6],
        "shape": list(grid.shape),
    }
