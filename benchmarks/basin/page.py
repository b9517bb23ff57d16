"""docs/scaling.md from what the parts have left, and its picture."""

from io import BytesIO
from statistics import median

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.basin.finish_page import finish
from benchmarks.basin.model import (
    GIGAPIXELS,
    TILE,
    Machine,
    Scenes,
    computed_for_one,
    read_for_one,
    whole_basin,
)
from benchmarks.basin.scaling import Run
from benchmarks.basin.words import span
from deepforest_xr import models

BAND, TASKS, LISTING_SECONDS = 0.1, 10, 2.0
PICTURE = "images/scaling.png"
SCENES = (
    Scenes("12 dates", 12),
    Scenes("36 dates", 36),
    Scenes("73 dates, 24 of Sentinel-1", 73, radar=24),
)
ASSUMED_FLOPS, ASSUMED_CORES, ASSUMED_PRICE = (0.5e12, 2e12, 10e12), (8, 32), 1.0
BLOCK = 2048

HEAD = """# Scaling

`python -m benchmarks.basin --out FOLDER` writes this page and its picture.

What a basin costs as it grows, what it survives, and what the whole Amazon would take. Each part
says where its numbers come from; the last one is a model, and names what it assumes.
"""


def page(found):
    """All parts that were measured; a part that was not says so."""
    parts = {"scaling": scaling, "ledger": ledger, "faults": faults, "finish": finish}
    lines = [HEAD]
    for name, write in parts.items():
        lines += [f"## {TITLES[name]}", ""]
        lines += [_where(found[name]), "", write(found[name])] if name in found else [MISSING]
        lines.append("")
    lines += ["## The whole basin", ""]
    lines.append(whole(found) if "rates" in found else MISSING)
    return "\n".join(lines).rstrip() + "\n"


TITLES = {
    "scaling": "1 to 64 tiles",
    "ledger": "The ledger of 10,000 tiles",
    "faults": "Faults",
    "finish": "Finishing tiles of full size",
}
MISSING = "Not measured."


def _where(part):
    return f"Measured {part['date']} on {part['machine']}."


def spread(values):
    """How far the greatest is above the least, as a share of the least."""
    return max(values) / min(values) - 1


def by_size(runs, workers=1):
    """Runs of so many workers by number of tiles."""
    sizes = sorted({r.tiles for r in runs if r.workers == workers})
    return {n: [r for r in runs if (r.tiles, r.workers) == (n, workers)] for n in sizes}


def _medians(groups, value):
    return {n: median(value(r) for r in group) for n, group in groups.items()}


SCALING = """Tiles of {tile} pixels with a halo of {halo}, three dates of six bands that cover every
tile, a U-Net of four filters: what is measured is the machinery. Every run is on a fresh
LocalCluster whose workers, processes of one thread on one core, have made a tile before. A worker
keeps 32 MiB of decoded blocks and 32 open files, not 256 of each: these tiles would fill them by
and by, which one of 10,240 pixels does at once. One worker does all sizes: of two, a single tile
would leave one idle, and two at a time slow each other down, as the last row shows. Sizes were run
in turns, {repeats} times each; least and greatest are given. Seconds a megapixel (MP) are of the
clock, times busy workers; CPU seconds are of the workers' processes. Peak memory is what the
largest worker's process held at most during the run (its high-water mark, set back before),
Python, torch and GDAL included.

{table}

![Seconds a megapixel and peak memory by tiles]({picture})

*One worker; median, least and greatest. The band is 10 % high, from the least median up.*

{verdicts}

Seconds of a megapixel of the largest run, of threads: {stages}."""


def scaling(part):
    """Table, picture and verdict."""
    runs = [Run(**run) for run in part["runs"]]
    alone, both = by_size(runs), by_size(runs, workers=2)
    columns = ("tiles", "workers", "s", "s/MP", "CPU s/MP", "peak, MB", "at the start, MB")
    table = [
        f"| {' | '.join(columns)} | tasks a tile |",
        "| --- " * (len(columns) + 1) + "|",
        *(_row(n, group) for groups in (alone, both) for n, group in groups.items()),
    ]
    stages = {n: median(r.stages[n] / r.megapixels for r in alone[max(alone)]) for n in STAGES}
    return SCALING.format(
        tile=runs[0].tile,
        halo=part["halo"],
        repeats=len(alone[min(alone)]),
        table="\n".join(table),
        picture=PICTURE,
        verdicts="\n".join(verdicts(alone)),
        stages=", ".join(f"{seconds:.2f} to {name}" for name, seconds in stages.items()),
    )


STAGES = ("read", "classify", "write")


def _row(tiles, group):
    shown = (
        span([r.seconds for r in group], "{:.1f}"),
        span([r.per_megapixel for r in group], "{:.2f}"),
        span([r.cpu_per_megapixel for r in group], "{:.2f}"),
        span([r.peak / 1e6 for r in group], "{:.0f}"),
        span([r.held / 1e6 for r in group], "{:.0f}"),
        span([r.tasks / r.tiles for r in group], "{:.1f}"),
    )
    return f"| {tiles} | {group[0].workers} | {' | '.join(shown)} |"


def verdicts(alone):
    """Whether the goals are met, in words."""
    goals = {
        "Seconds of the clock a megapixel": lambda r: r.per_megapixel,
        "CPU seconds a megapixel": lambda r: r.cpu_per_megapixel,
        "Peak memory": lambda r: r.peak,
    }
    lines = []
    for name, value in goals.items():
        medians = _medians(alone, value)
        least, most = min(medians, key=medians.get), max(medians, key=medians.get)
        apart = spread(medians.values())
        said = "within the goal of 10 %" if apart <= BAND else "more than the goal of 10 %"
        lines.append(
            f"- {name}: medians differ by {apart:.0%} (least at {_tiles(least)}, most at "
            f"{_tiles(most)}): {said}."
        )
    most = max(r.tasks / r.tiles for group in alone.values() for r in group)
    met = "met" if most <= TASKS else "missed"
    return [*lines, f"- Tasks on the scheduler: {most:.1f} a tile; the goal of {TASKS} is {met}."]


def _tiles(number):
    return f"{number} tile{'s' * (number != 1)}"


LEDGER = """Seconds to learn the states of {tiles:,} finished tiles, each with a claim and a record;
the goal is at most {goal:g} s.

| store | s | goal met |
| --- | --- | --- |
{rows}

{remark}"""

LISTING = """One look takes {requests} requests: ranges of keys are asked for at once, in {pages}
pages of up to 1,000 keys; one claim is read, and two requests ask the store for its time. moto is
slow at pages: a client that only asks for them, one after the other, had them after {server:.1f} s.
Replayed by a server that has them at hand, the look takes {ours:.2f} s: that is ours, with HTTP
and XML. An answer after 100 ms makes it {slope:.2f} s longer, so the goal holds where one takes up
to {allowed:.0f} ms."""


def ledger(part):
    """Where the states are read from, and how long it takes."""
    rows = [_listed("this disk", part["disk"])]
    remark = f"S3 is left out: {part.get('left_out')}."
    if "moto" in part:
        moto, ours = part["moto"], median(part["replayed"]["0.0"])
        rows.append(_listed("moto's S3 server on loopback", moto["seconds"]))
        for wait, seconds in part["replayed"].items():
            after = f", each answer after {1000 * float(wait):.0f} ms" if float(wait) else ""
            rows.append(_listed(f"the same answers, replayed{after}", seconds))
        remark = LISTING.format(
            requests=part["requests"],
            pages=moto["pages"],
            server=moto["server"],
            ours=ours,
            slope=0.1 * _answers(part, ours),
            allowed=1000 * max(LISTING_SECONDS - ours, 0) / _answers(part, ours),
        )
    told = {"tiles": part["tiles"], "goal": LISTING_SECONDS}
    return LEDGER.format(**told, rows="\n".join(rows), remark=remark)


def _answers(part, ours):
    """How many answers are waited for one after the other."""
    wait, seconds = max(part["replayed"].items(), key=lambda item: float(item[0]))
    return (median(seconds) - ours) / float(wait)


def _listed(store, seconds):
    met = "yes" if max(seconds) <= LISTING_SECONDS else "no"
    return f"| {store} | {span(seconds, '{:.2f}')} | {met} |"


FAULTS = """A basin of four small tiles; runners are processes, and faults are real where they can
be: SIGKILL, a file system without room; in front of the store answers of 503, in the process a
clock that is wrong. Then a runner that nothing befalls goes on, if anything is left to do. Tiles
are counted by a journal beside the ledger: begun, and needed, which is four a basin and one more
for each that a fault took from a runner before it was done. Strays are objects that are neither
the map's, the plan's nor the ledger's, a minute later. Seconds are medians from the first start to
the end of all runners, beyond the {usual:.1f} s undisturbed; of two runners, the one that finds
nothing left looks again after ten seconds.

| fault | what was done | times | run again | same bytes | begun / needed | strays | s more |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

Every map has the bytes of the undisturbed one: {same}. No tile was begun more often than needed:
{least}. No stray object: {clean}."""


def faults(part):
    """One row a fault."""
    rows = part["rows"]
    usual = rows[0]["seconds"]
    told = [row for row in rows if "left_out" not in row]
    return FAULTS.format(
        usual=usual,
        rows="\n".join(_fault(row, usual) for row in rows),
        same=_yes(all(row["identical"] == row["times"] for row in told)),
        least=_yes(all(row["begun"] <= row["needed"] for row in told)),
        clean=_yes(not any(row["strays"] for row in told)),
    )


def _fault(row, usual):
    if "left_out" in row:
        return f"| {row['name']} | left out: {row['left_out']} | | | | | | |"
    is_usual = row["name"] == "nothing"
    more = "" if is_usual else f"{row['seconds'] - usual:+.1f}"
    return (
        f"| {row['name']} | {row['done']} | {row['times']} | "
        f"{'' if is_usual else row['interrupted']} | {row['identical']} of {row['times']} | "
        f"{row['begun']} / {row['needed']} | {row['strays']} | {more} |"
    )


def _yes(fact):
    return "yes" if fact else "**no**"


WHOLE = """{gigapixels} gigapixels are {tiles:,.0f} tiles of {tile:,} pixels.

Measured {date} on {machine}:

- Reading and compositing {dates} dates of six bands, one core: {native:.0f} MB of uncompressed
  scenes a second on their own grid ({own} pixels a side, no clouds masked), {warped:.0f} MB where
  scenes of two UTM zones with clouds are read onto one grid ({side} pixels). Both again and again
  from a disk whose files are in memory: a store far away is slower, unless more is read at once.
- The full U-Net, one core: {seconds:.0f} s a megapixel computed, {flop:.2f} MFLOP a pixel,
  {rate:.0f} GFLOP a second.
{gpus}
With the halo of the U-Net, {halo} pixels, {read:.2f} pixels are read for each one mapped (tile and
halo), and so many are computed (block and halo; a block is no smaller than the halo):

| block | computed for one mapped |
| --- | --- |
{blocks}

The rest takes blocks of {block:,}; the default is 1,024.

    bytes        = pixels x read for one x (11.5 x dates + 8 x Sentinel-1 scenes)
    reader hours = bytes / bytes a second of a core / 3600
    GPU hours    = pixels x computed for one x FLOP a pixel / FLOP a second / 3600
    hours        = max(GPU hours, reader hours / cores of a machine)
    cost         = hours x price

**Assumed, not measured**: how many dates are read; how many FLOP a second the network gets out of
a GPU{but}; cores beside a GPU, which read at the slower of both rates; and {price:g} USD an
hour for a GPU with its cores, whatever their number: multiply by your price. Writing and starting
machines are left out, and so are failures.

| scenes of a year | TFLOP/s of a GPU | cores | {columns} |
| --- | --- | --- | {dashes} |
{outcomes}

{verdict}

Bytes are uncompressed; what crosses the network is less by the factor of compression. `basin plan`
prints the bytes of a basin and, from `seconds_per_megapixel` and `price_per_hour`, hours and cost:
measure both where it will run."""

COLUMNS = ("TB read", "core h to read", "GPU h", "bound by", "machine h", "machines for a day")
COLUMNS = (*COLUMNS, "GB/s then", "USD")


def whole(found):
    """The model: what was measured, what is assumed, what comes of it."""
    rates = found["rates"]
    native, warped = (
        rates[way]["bytes"] / median(rates[way]["seconds"]) for way in ("native", "warped")
    )
    forward, *gpus = rates["forward"]
    pixels, seconds = forward["side"] ** 2, median(forward["seconds"])
    halo, flop = models.entry("u-net").halo, forward["flop"] / pixels
    blocks = (512, 1024, 2048, 4096, TILE)
    rows = outcomes(halo, flop, min(native, warped))
    return WHOLE.format(
        gigapixels=GIGAPIXELS,
        tiles=GIGAPIXELS * 1e9 / TILE**2,
        tile=TILE,
        date=rates["date"],
        machine=rates["machine"],
        native=native / 1e6,
        warped=warped / 1e6,
        dates=rates["warped"]["dates"],
        own=rates["native"]["side"],
        side=rates["warped"]["side"],
        seconds=seconds / pixels * 1e6,
        flop=flop / 1e6,
        rate=forward["flop"] / seconds / 1e9,
        gpus="".join(map(_gpu, gpus)),
        halo=halo,
        read=read_for_one(halo),
        blocks="\n".join(f"| {b:,} | {computed_for_one(b, halo):.2f} |" for b in blocks),
        block=BLOCK,
        but=" (one is measured above; these are others)" if gpus else "",
        price=ASSUMED_PRICE,
        columns=" | ".join(COLUMNS),
        dashes=" | ".join("---" for _ in COLUMNS),
        outcomes="\n".join(_outcome(*row) for row in rows),
        verdict=_bound([outcome for *_, outcome in rows]),
    )


def _gpu(one):
    rate = one["flop"] / median(one["seconds"])
    return f"- The same on {one['device']}, float32: {rate / 1e12:.1f} TFLOP a second.\n"


def outcomes(halo, flop, rate):
    """Every assumption with every other."""
    machines = [Machine(f, c, ASSUMED_PRICE) for c in ASSUMED_CORES for f in ASSUMED_FLOPS]
    return [
        (scenes, machine, whole_basin(scenes, machine, **_inputs(halo, flop, rate)))
        for scenes in SCENES
        for machine in machines
    ]


def _outcome(scenes, machine, made):
    bound = "reading" if made.is_bound_by_reading else "GPU"
    return (
        f"| {scenes.name} | {machine.flops / 1e12:g} | {machine.cores} | "
        f"{made.bytes_read / 1e12:,.0f} | {made.reader_hours:,.0f} | {made.gpu_hours:,.1f} | "
        f"{bound} | {made.machine_hours:,.0f} | {made.machines_for_a_day} | "
        f"{made.bytes_a_second / 1e9:.1f} | {made.cost:,.0f} |"
    )


def _bound(made):
    """What bounds the basin, in words."""
    bound = sum(one.is_bound_by_reading for one in made)
    cores = sorted(one.cores_a_gpu for one in made)
    return (
        f"Reading bounds {bound} of these {len(made)} cases, the GPU the others. One GPU keeps up "
        f"with {cores[0]:,.1f} to\n{cores[-1]:,.0f} cores that read: the faster the GPU and the "
        "more dates, the more cores it needs."
    )


def _inputs(halo, flop, rate):
    return {"halo": halo, "block": BLOCK, "flop_a_pixel": flop, "bytes_a_core_second": rate}


def draw(part, path):
    """Seconds and memory by tiles, one worker."""
    runs = [Run(**run) for run in part["runs"]]
    groups = by_size(runs)
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _panel(
        left,
        groups,
        {"wall clock": lambda r: r.per_megapixel, "CPU": lambda r: r.cpu_per_megapixel},
    )
    _panel(right, groups, {"peak": lambda r: r.peak / 1e6, "at the start": lambda r: r.held / 1e6})
    left.set(title="seconds a megapixel, one worker", ylabel="s/MP")
    right.set(title="memory of the worker's process", ylabel="MB")
    held = BytesIO()
    figure.savefig(held, dpi=100, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(held).convert("RGB").quantize(64).save(path, optimize=True)


def _panel(axes, groups, series):
    for number, (name, value) in enumerate(series.items()):
        medians = _medians(groups, value)
        least = [min(map(value, group)) for group in groups.values()]
        most = [max(map(value, group)) for group in groups.values()]
        middle = list(medians.values())
        low = [m - v for m, v in zip(middle, least, strict=True)]
        high = [v - m for m, v in zip(middle, most, strict=True)]
        colour = ("#1f5f8b", "#b5651d")[number]
        axes.errorbar(
            list(medians), middle, [low, high], marker="o", capsize=3, color=colour, label=name
        )
        if not number:
            axes.axhspan(min(middle), min(middle) * (1 + BAND), color=colour, alpha=0.15, lw=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(groups), labels=[str(n) for n in groups])
    axes.set_xlabel("tiles")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
