"""One HTML page of a finished basin, with nothing to load: picture, facts, areas, links."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING, Any

from deepforest_xr.basin.overview import percent, thousands
from deepforest_xr.basin.polygons import WHOLE
from deepforest_xr.maps.stac import is_simulated

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from deepforest_xr.basin.areas import Areas
    from deepforest_xr.basin.collection import Catalogued
    from deepforest_xr.basin.verify import Verified

MANY = 20
"""Tiles or polygons that are listed one by one."""

STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin-bottom:.2rem} h2{font-size:1.15rem;margin-top:2rem}
img{max-width:100%;height:auto;background:#fff}
table{border-collapse:collapse;margin:.5rem 0} caption{text-align:left;font-weight:600}
th,td{padding:.15rem .9rem .15rem 0;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
tr+tr td{border-top:1px solid #8884} code{overflow-wrap:anywhere}
.c{display:inline-block;width:1em;height:1em;border:1px solid #8888;vertical-align:-.15em}
.w{background:#b00020;color:#fff;padding:.1rem .5rem;font-weight:600}
"""


def page_text(
    picture: bytes,
    catalogued: Catalogued,
    verified: Verified,
    areas: Areas,
    files: Mapping[str, str],
) -> str:
    """Write the page.

    Parameters
    ----------
    picture : bytes
        PNG, put into the page.
    catalogued : Catalogued
        What is said of the map.
    verified : Verified
        Its tiles and their records.
    areas : Areas
        Hectares by zone and class.
    files : mapping of href to title
        Links.

    Returns
    -------
    str
        HTML.
    """
    first, last = (moment[:10] for moment in catalogued.period)
    title = f"Land use and land cover, {first} to {last}"
    image = base64.b64encode(picture).decode()
    simulated = is_simulated(catalogued.described.attrs)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        '<p class="w">Made from simulated scenes</p>' if simulated else "",
        f'<img alt="Overview of the map with its legend" src="data:image/png;base64,{image}">',
        "<h2>Run</h2>",
        _table(_facts(catalogued, verified)),
        *_gaps(verified),
        "<h2>Areas</h2>",
        f"<p>Pixels whose centre lies in the zone; {escape(areas.method)}.</p>",
        *_areas(catalogued, areas),
        "<h2>Files</h2><ul>",
        *(f'<li><a href="{escape(h)}">{escape(h)}</a>: {escape(t)}</li>' for h, t in files.items()),
        "</ul></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _facts(catalogued: Catalogued, verified: Verified) -> Iterator[tuple[str, str]]:
    plan, records = catalogued.plan, verified.records.values()
    seconds = sum(r["seconds"]["map"] + r["seconds"]["write"] for r in records)
    pixels = sum(r["pixels"] for r in records)
    nodata = sum(r["pixels"] * r["nodata"] for r in records) / pixels
    failures = sum(len(r["read_failures"]) for r in records)
    yield "run", plan.run_id
    yield "model", f"{plan.model.name}, weights sha256 {plan.model.sha256}"
    yield "legend", catalogued.described.legend.name
    yield "scenes of", " to ".join(moment[:10] for moment in catalogued.period)
    yield "grid", f"{plan.tiling.grid.describe()}, tiles of {plan.tiling.tile} pixels"
    yield "tiles", f"{len(verified.tiles):,} of {len(plan.tiles):,}"
    yield "pixels", f"{pixels:,}, {nodata:.2%} without data"
    yield "time", f"{seconds:,.0f} s to map all tiles, one after the other"
    yield "could not be read", f"{failures:,} reads" if failures else "nothing"
    yield "software", ", ".join(f"{n} {v}" for n, v in catalogued.software.items())
    yield "license", catalogued.license


def _gaps(verified: Verified) -> Iterator[str]:
    """What is missing, and where there is little data."""
    if verified.missing:
        rows = [(tile, status) for tile, status in verified.missing.items()]
        yield _some("Tiles that are not in the map", rows)
    worst = sorted(verified.nodata.items(), key=lambda pair: (-pair[1], pair[0]))
    rows = [(tile, f"{share:.1%}") for tile, share in worst if share > 0]
    if rows:
        yield _some("Share without data by tile, the largest first", rows)


def _some(caption: str, rows: list[tuple[str, str]]) -> str:
    more = [("", f"and {len(rows) - MANY:,} more")] if len(rows) > MANY else []
    return _table([*rows[:MANY], *more], caption)


def _areas(catalogued: Catalogued, areas: Areas) -> Iterator[str]:
    colors = {c.code: c.color for c in catalogued.described.legend.classes}
    yield _class_table(areas.of(WHOLE), colors)
    others = [zone for zone in areas.zones if zone != WHOLE]
    for number, zone in enumerate(others):
        is_open = " open" if number == 0 else ""
        yield f"<details{is_open}><summary>{escape(zone)}</summary>"
        yield _class_table(areas.of(zone), colors) + "</details>"


def _class_table(rows: list[dict[str, Any]], colors: Mapping[int, str]) -> str:
    heads = "".join(f'<th class="n">{name}</th>' for name in ("hectares", "share", "pixels"))
    lines = [f"<table><tr><th>class</th>{heads}</tr>"]
    for row in sorted(rows, key=lambda r: (r["code"] == 0, -r["hectares"])):
        if row["pixels"] == 0:
            continue
        color = escape(colors.get(row["code"], "#f2f2f2"))
        lines.append(
            f'<tr><td><span class="c" style="background:{color}"></span> {escape(row["class"])}'
            f'</td><td class="n">{thousands(row["hectares"])}</td>'
            f'<td class="n">{escape(percent(row["percent_of_classified"]))}</td>'
            f'<td class="n">{row["pixels"]:,}</td></tr>'
        )
    total = sum(row["hectares"] for row in rows)
    lines.append(f'<tr><td>all</td><td class="n">{thousands(total)}</td><td></td><td></td></tr>')
    return "\n".join([*lines, "</table>"])


def _table(rows: Any, caption: str = "") -> str:
    head = f"<caption>{escape(caption)}</caption>" if caption else ""
    lines = (f"<tr><th>{escape(n)}</th><td>{escape(v)}</td></tr>" for n, v in rows)
    return f"<table>{head}{''.join(lines)}</table>"
