"""From shards to results: tiles verified, pyramid, GeoTIFFs, catalog, areas, a page.

    finish/cog/<id>.tif ...        one a tile or a degree, confidence and sidecars beside it
    finish/mosaic*.vrt             all of them as one raster
    finish/stac/collection.json    the catalog, with items/ and the model's
    finish/areas.csv, areas.json   hectares; areas/<tile>.json are the sums they come from
    finish/overview.png, .html     to look at
    finish/finished.json           written last, with the run id

Every file is put whole, and knows what it was made of: done again after anything, only what is
missing is made. A basin that is finished is left as it is. Two at once would do the work twice,
and harm nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deepforest_xr.basin import pyramid, template
from deepforest_xr.basin.areas import sum_areas
from deepforest_xr.basin.cogs import KINDS, write_cogs
from deepforest_xr.basin.collection import COLLECTION, Catalogued, catalogue, write_collection
from deepforest_xr.basin.ledger import STAGING_SECONDS, Ledger
from deepforest_xr.basin.mosaic import mosaic_text
from deepforest_xr.basin.overview import draw_overview
from deepforest_xr.basin.page import page_text
from deepforest_xr.basin.pixels import read_description
from deepforest_xr.basin.polygons import PolygonLayer, Zone, read_zones
from deepforest_xr.basin.results import Results, open_results
from deepforest_xr.basin.verify import Verified, verify
from deepforest_xr.errors import ConfigError
from deepforest_xr.maps.canvas import require_matplotlib

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from deepforest_xr.basin.areas import Areas
    from deepforest_xr.basin.card import Plan
    from deepforest_xr.basin.cogs import Cog
    from deepforest_xr.basin.pyramid import Level
    from deepforest_xr.basin.store import Objects

    Progress = Callable[[str, int, int], None]

log = logging.getLogger(__name__)

FORMAT = 1
WORKERS = 4
"""GeoTIFFs made at once, at most, where nothing is asked for."""

FINISHED, MARKER, SEEN = "finished.json", "finishing.json", "verified.json"
TITLES = {
    "mosaic.vrt": "All GeoTIFFs of classes as one raster, for GDAL and QGIS",
    "mosaic_confidence.vrt": "All GeoTIFFs of confidence as one raster",
    "areas.csv": "Hectares by zone and class",
    "areas.json": "Hectares by zone and class, with how they were found",
    "overview.png": "Picture of the map",
    "overview.html": "Page with picture, facts and areas",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a finished basin has."""

    url: str
    """Address of its results."""

    run_id: str
    """Of the plan."""

    tiles: int
    """In the map."""

    missing: Mapping[str, str] = field(default_factory=dict)
    """Status by tile that is not in it."""

    nodata: Mapping[str, float] = field(default_factory=dict)
    """Share of pixels without a class by tile, 0 to 1."""

    files: Mapping[str, int] = field(default_factory=dict)
    """Bytes by name, below `url`."""

    levels: int = 0
    """Of the pyramid, beside the map itself."""

    is_new: bool = True
    """Whether anything was made; False if all was there."""

    def __str__(self) -> str:
        if not self.is_new:
            return f"run {self.run_id[:12]} was finished before: {self.url}; nothing was done"
        cogs = sum(name.startswith("stac/items/") for name in self.files)
        lines = [
            f"run {self.run_id[:12]} is finished: {self.url}",
            f"tiles     {self.tiles:,}, {len(self.missing):,} missing",
            f"pyramid   {self.levels} levels",
            f"cogs      {cogs:,}",
            f"files     {len(self.files):,}, {sum(self.files.values()) / 1e9:,.3g} GB",
        ]
        worst = sorted(self.nodata.items(), key=lambda pair: (-pair[1], pair[0]))[:5]
        told = [f"{tile} {share:.1%}" for tile, share in worst if share > 0]
        return "\n".join([*lines, f"no data   {', '.join(told) or 'none'}"])


def finish_basin(
    plan: Plan,
    *,
    polygons: PolygonLayer | str | Path | None = None,
    cogs: str | None = "tile",
    out: str | Path | None = None,
    license_name: str = "other",
    partial: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Finished:
    """Verify a basin that was run, and make of it what is handed on.

    Parameters
    ----------
    plan : Plan
        From `open_plan`.
    polygons : PolygonLayer or path, optional
        States or the like, to sum up areas in, as GeoJSON or GeoPackage of any CRS
        (``states.gpkg|layername=uf`` of several layers); a path takes the property ``name``.
    cogs : str or None
        GeoTIFFs one a ``tile``, one a ``degree`` (S03W060.tif), or none.
    out : path or URL, optional
        Where to; default: ``finish/`` below the basin. The pyramid is always in the map's store.
    license_name : str
        Of the map: an SPDX expression, or ``other``.
    partial : bool
        Go on without tiles that are not done. Finished again later, the rest is added.
    overwrite : bool
        Make everything anew, also where results of other settings are.
    workers : int, optional
        GeoTIFFs made at once, in threads; default: one a core that this process may use, 4 at
        most. One of 10,240 by 10,240 pixels takes about 700 MB of memory: classes and confidence
        at 105 MB each, a shard that is decoded, GDAL's blocks; and as scratch a raster of 105 MB
        beside its files.
    progress : callable (step, done, total), optional
        Called as steps go on.

    Returns
    -------
    Finished
        What there is.

    Raises
    ------
    UnfinishedError
        If tiles are not done, or not as they were recorded.
    ConfigError
        If a setting cannot be, or results of other settings are there.
    GridError
        If the CRS does not tell areas.
    MissingExtraError
        If matplotlib is not installed.
    StoreError, WriteError
        If the store or the disk fails; called again, it goes on.
    """
    if cogs is not None and cogs not in KINDS:
        raise ConfigError(f"cogs={cogs!r}; expected {', '.join(map(repr, KINDS))} or None.")
    workers = _require_workers(workers)
    require_matplotlib()
    layer = PolygonLayer(polygons) if polygons and not isinstance(polygons, PolygonLayer) else None
    layer = polygons if isinstance(polygons, PolygonLayer) else layer
    zones = () if layer is None else read_zones(layer)
    objects = plan.open()
    results = open_results(objects, out)
    settings = {
        "cogs": cogs,
        "license": license_name,
        "polygons": [[zone.name, zone.checksum] for zone in zones],
    }
    _require_place(results, plan, settings, overwrite=overwrite)
    if overwrite:
        results.put_json(MARKER, {"run_id": plan.run_id, "settings": settings})
        results.delete([FINISHED, SEEN, *results.sizes("stac/"), *results.sizes("areas/")])
        objects.delete([f"{pyramid.GROUP}/zarr.json"])
    verified = verify(
        plan,
        objects,
        partial=partial,
        seen=results.get_json(SEEN),
        progress=_step(progress, "Verifying tiles"),
    )
    card = {
        "format": FORMAT,
        "run_id": plan.run_id,
        "settings": settings,
        "inputs": verified.checksum(verified.tiles),
    }
    _tidy(objects, results)
    before = _earlier(objects, results, card, plan, verified)
    if before is not None:
        return before
    results.put_json(MARKER, card)
    results.delete([FINISHED])
    results.put_json(SEEN, verified.seen)
    return _Finisher(plan, objects, results, verified, workers, progress).run(card, cogs, zones)


@dataclass(frozen=True, slots=True)
class _Finisher:
    """The steps."""

    plan: Plan
    objects: Objects
    results: Results
    verified: Verified
    workers: int
    progress: Progress | None

    def run(self, card: dict[str, Any], kind: str | None, zones: tuple[Zone, ...]) -> Finished:
        """Make what is missing."""
        described = read_description(self.objects)
        said = catalogue(self.plan, described, self.verified, card["settings"]["license"])
        levels = pyramid.levels(self.plan.tiling, self.verified.tiles)
        overviews = self._pyramid(said, levels)
        made = [] if kind is None else self._cogs(said, kind)
        names = {name for cog in made for name in cog.files} | self._mosaics(said, made)
        areas, summed = sum_areas(
            self.plan,
            self.objects,
            self.results,
            self.verified,
            zones,
            legend=described.legend,
            progress=_step(self.progress, "Summing areas"),
        )
        names |= {*summed, *self._overview(said, levels[-1], areas, has_cogs=bool(made))}
        linked = {name: title for name, title in TITLES.items() if name in names}
        items = [cog.item for cog in made]
        names |= {SEEN, *write_collection(self.results, said, items, linked)}
        self._remove_others(names)
        sizes = self.results.sizes()
        card |= {
            "tiles": len(self.verified.tiles),
            "missing": dict(self.verified.missing),
            "nodata": self.verified.nodata,
            "files": {name: sizes[name] for name in sorted(names)},
            "pyramid": {"levels": len(levels) - 1, "objects": overviews},
        }
        self.results.put_json(FINISHED, card)
        self.results.delete([MARKER])
        return _told(self.results, card, is_new=True)

    def _pyramid(self, said: Catalogued, levels: tuple[Level, ...]) -> dict[str, int]:
        """Write the pyramid."""
        inputs = self.verified.checksum(self.verified.tiles, pyramid.LONGEST)
        return pyramid.write_pyramid(
            self.objects,
            said.described,
            levels,
            self.plan.tiling.tile,
            inputs=inputs,
            progress=_step(self.progress, "Building the pyramid"),
        )

    def _cogs(self, said: Catalogued, kind: str) -> list[Cog]:
        return write_cogs(
            self.objects,
            self.results,
            self.verified,
            said,
            kind,
            workers=self.workers,
            progress=_step(self.progress, "Writing GeoTIFFs"),
        )

    def _mosaics(self, said: Catalogued, made: list[Cog]) -> set[str]:
        if not made:
            return set()
        legends = {"": said.described.legend, "_confidence": None}
        for suffix, legend in legends.items():
            text = mosaic_text(
                made,
                self.plan.tiling.grid,
                suffix=suffix,
                legend=legend,
            )
            self.results.put(f"mosaic{suffix}.vrt", text.encode())
        return {f"mosaic{suffix}.vrt" for suffix in legends}

    def _overview(
        self, said: Catalogued, level: Level, areas: Areas, *, has_cogs: bool
    ) -> tuple[str, str]:
        picture = draw_overview(self.objects, level, said, self.verified, areas)
        self.results.put("overview.png", picture)
        links = {n: t for n, t in TITLES.items() if has_cogs or not n.endswith(".vrt")}
        del links["overview.html"]
        links[COLLECTION] = "STAC collection"
        if self.results.objects is self.objects:
            links[f"../{template.STORE}"] = "The map as Zarr, with overviews"
        text = page_text(picture, said, self.verified, areas, links)
        self.results.put("overview.html", text.encode())
        return "overview.png", "overview.html"

    def _remove_others(self, names: set[str]) -> None:
        """Remove what earlier goes with other tiles or settings have left."""
        there = self.results.sizes()
        ours = ("cog/", "stac/", "areas/", *TITLES)
        self.results.delete(n for n in there if n not in names and n.startswith(ours))


def _require_workers(workers: int | None) -> int:
    if workers is None:
        from dask.system import cpu_count

        return min(int(cpu_count()), WORKERS)  # those of this process, not of its machine
    if workers < 1:
        raise ConfigError(f"workers={workers}; expected 1 or more.")
    return workers


def _require_place(
    results: Results, plan: Plan, settings: Mapping[str, Any], *, overwrite: bool
) -> None:
    """Refuse a place with something else in it, or with results of other settings."""
    before = results.get_json(FINISHED) or results.get_json(MARKER)
    if before is None:
        if found := sorted(results.sizes()):
            raise ConfigError(
                f"{results.url!r} holds {found[0]!r} of something else: finish elsewhere."
            )
        return
    if before["run_id"] != plan.run_id:
        raise ConfigError(
            f"{results.url!r} holds results of run {before['run_id'][:12]}, this is "
            f"{plan.run_id[:12]}: finish elsewhere."
        )
    differing = [name for name in settings if before["settings"].get(name) != settings[name]]
    if differing and not overwrite:
        raise ConfigError(
            f"{results.url!r} was made with other settings of {', '.join(differing)}: pass "
            "overwrite=True (--overwrite) to make it anew, or finish elsewhere."
        )


def _earlier(
    objects: Objects,
    results: Results,
    card: Mapping[str, Any],
    plan: Plan,
    verified: Verified,
) -> Finished | None:
    """Give what was finished before, if it was made of the same and all of it is there."""
    before = results.get_json(FINISHED)
    if before is None or any(before.get(name) != value for name, value in card.items()):
        return None
    if before["missing"].keys() != verified.missing.keys():
        return None
    there = results.sizes()
    overviews = pyramid.sizes(objects)
    is_whole = all(there.get(name) == size for name, size in before["files"].items())
    if not is_whole or overviews != before["pyramid"]["objects"]:
        log.info("%s: results are missing; they are made again", plan.url)
        return None
    if MARKER in there:
        results.delete([MARKER])
    return _told(results, before, is_new=False)


def _told(results: Results, card: Mapping[str, Any], *, is_new: bool) -> Finished:
    return Finished(
        url=results.url,
        run_id=card["run_id"],
        tiles=card["tiles"],
        missing=card["missing"],
        nodata=card["nodata"],
        files=card["files"],
        levels=card["pyramid"]["levels"],
        is_new=is_new,
    )


def _tidy(objects: Objects, results: Results) -> None:
    """Remove half-written files of a process that died; those of a live one are younger."""
    ledger = Ledger(objects)
    now = ledger.now().timestamp()
    ledger.close()
    places = (objects, f"{pyramid.GROUP}/"), (results.objects, results.prefix or "./")
    for place, prefix in places:
        for path in place.staging([prefix]):
            if path.exists() and now - path.stat().st_mtime > STAGING_SECONDS:
                path.unlink(missing_ok=True)


def _step(progress: Progress | None, step: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(step, done, total)
