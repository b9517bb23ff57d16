"""The part of docs/scaling.md that is about finishing."""

from benchmarks.basin.finish import PATCH, RAGGED, REST, STEPS, Finish
from benchmarks.basin.words import span

COLUMNS = ("tiles", "workers", "s", "CPU s", "s a tile", "peak, MB", "beyond the start, MB")
COLUMNS = (*COLUMNS, "MB read", "MB written", "of these GeoTIFFs")

FINISH = """`python -m benchmarks.basin --out FOLDER --parts finish --repeats {repeats}`
measures this part alone.

Tiles of {tile:,} pixels, put as a run puts them, without scenes or a network. Their classes are a
landscape of {patch:,} pixels a side (fields, roads, a river), shifted at random from place to
place, with one pixel in {ragged:.0f} taken from beside it; confidence is smooth, with noise of two
percent on top. How well a map compresses decides what is written, and in part how long it takes.

Every run finishes a fresh copy, once in a fresh process without children, to this disk; workers are
the threads that make GeoTIFFs. Peak memory is the process's high-water mark. Before it finishes it
holds {held} MB: Python, torch, GDAL. {times}
GDAL compresses on all cores whatever the number of workers. More workers do the same work: where
CPU seconds of a basin differ much, the machine had something else to do, and seconds tell little.

{table}

Steps of the largest basin:

| step | {columns} |
| --- |{dashes}
{steps}

MB read are the shards of the map, compressed; every step but the picture reads them again. MB
written are results, the map's overviews ({pyramid} MB a tile of the largest basin) included; not
what GDAL needs as scratch meanwhile, {raw:.0f} MB and the new file a worker."""


def finish(part):
    """A row a basin and number of workers, and where the time of the largest goes."""
    runs = [Finish(**run) for run in part["runs"]]
    jobs = sorted({(r.tiles, r.workers) for r in runs})
    groups = {job: [r for r in runs if (r.tiles, r.workers) == job] for job in jobs}
    largest = {job: group for job, group in groups.items() if job[0] == jobs[-1][0]}
    repeats = len(groups[jobs[0]])
    told = [f"{n} worker{'s' * (n != 1)}: {what}" for _, n in largest for what in ("s", "peak, MB")]
    head = [f"| {' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|"]
    one = runs[0]
    return FINISH.format(
        tile=one.tile,
        patch=PATCH,
        ragged=1 / RAGGED,
        held=span([r.held / 1e6 for r in runs], "{:.0f}"),
        times=f"Each was run {repeats} times; least and greatest are given."
        if repeats > 1
        else "Each was run once.",
        table="\n".join([*head, *(_finished(*job, group) for job, group in groups.items())]),
        repeats=repeats,
        columns=" | ".join(told),
        dashes=" --- |" * len(told),
        steps="\n".join(_step(name, largest.values()) for name in (*STEPS, REST)),
        pyramid=f"{max(r.pyramid / r.tiles for g in largest.values() for r in g) / 1e6:.1f}",
        raw=one.tile**2 / 1e6,
    )


def _finished(tiles, workers, group):
    shown = (
        span([r.seconds for r in group], "{:.0f}"),
        span([r.cpu_seconds for r in group], "{:.0f}"),
        span([r.seconds / r.tiles for r in group], "{:.1f}"),
        span([r.peak / 1e6 for r in group], "{:,.0f}"),
        span([(r.peak - r.held) / 1e6 for r in group], "{:,.0f}"),
        span([r.shards / 1e6 for r in group], "{:.0f}"),
        span([(r.pyramid + r.files) / 1e6 for r in group], "{:.0f}"),
        span([r.cogs / 1e6 for r in group], "{:.0f}"),
    )
    return f"| {tiles} | {workers} | {' | '.join(shown)} |"


def _step(name, groups):
    shown = []
    for group in groups:
        shown.append(span([r.steps[name][0] for r in group], "{:.1f}"))
        shown.append(span([r.steps[name][1] / 1e6 for r in group], "{:,.0f}"))
    return f"| {name[0].lower()}{name[1:]} | {' | '.join(shown)} |"
