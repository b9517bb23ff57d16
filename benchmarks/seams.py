"""How far a map in blocks is from one pass over the whole scene: docs/seams.md and its pictures.

`python -m benchmarks.seams --out FOLDER` simulates a scene, trains a U-Net on another one for
minutes, and measures it beside networks with random weights; FOLDER is kept and used again.
`--model FOLDER` adds a U-Net trained longer, `--real` a real tile. It takes 5 GB of memory and, on
two cores, half an hour.
"""

import argparse
import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from unittest.mock import patch

import dask
import numpy as np
import torch
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

import deepforest_xr as dfx
from benchmarks.measure import machine
from benchmarks.postprocess import trained
from deepforest_xr import models
from deepforest_xr.classify import block as blocks_of
from deepforest_xr.classify.plan import make_plan
from deepforest_xr.legend import amazon13
from deepforest_xr.models import field
from deepforest_xr.testing import open_scene, simulate_scene

DOCS = Path(__file__).parents[1] / "docs"
GIVEN, SHORT = "u-net, given", "u-net, short"
PICTURES = {GIVEN: "images/seams.png", SHORT: "images/seams-short.png"}
SHORT_DATASET = "S2"
DATASET = "S1TsS2_7"
# The least that blocks of 1024 with the U-Net's halo of 544 cut in two along both axes, and more.
SHAPE, SEED = (1632, 1728), 7
BLOCKS = (256, 512, 1024)
CURVE = (64, 128, 256, 384)  # halos of the U-Net beside 0 and its own
SHOWN = 512  # side of the blocks in the picture
GOAL = 1e-4  # share of pixels

BLENDED = ((128, 32), (256, 32), (256, 128))  # halo, and pixels of it to blend over

# Networks with random weights and the part of the scene that each is measured on.
RANDOM = {
    "u-net": SHAPE,
    "deepforest-1a": (800, 864),
    "deepforest-1b": (800, 864),
    "deepforest-1c": (800, 864),
    "deepforest-2a": (160, 1728),
    "deepforest-2b": (160, 1728),
    "deeplab": (160, 1728),
}

REAL_BLOCKS, REAL_HALOS = (64, 96, 128), (0, 32, 64, 96)


@dataclass(frozen=True)
class Map:
    """A map with its probabilities before they are rounded."""

    lulc: np.ndarray  # (y, x)
    share: np.ndarray  # (class, y, x), 0 to 1
    rows: tuple  # sizes of the blocks along y
    cols: tuple


@dataclass(frozen=True)
class Seam:
    """One way of cutting against one pass."""

    network: str
    block: int
    halo: int
    blend: int
    sizes: tuple  # sides of the blocks that came of it, none if it is one
    pixels: float  # share whose class differs
    probability: float  # greatest difference
    percent: int  # greatest difference of the layer on disk
    step: float  # greatest step of the difference across a border between blocks


def main():
    given = arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    dask.config.set(scheduler="synchronous")
    kept = given.out / "rows.json"
    rows = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    cube = scene(given.out)
    for name in given.cases:
        found = CASES[name](cube, given)
        rows[name] = [asdict(row) for row in found]
        kept.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    if given.real:
        rows["real"] = [asdict(row) for row in real_tile(given)]
        kept.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    (DOCS / "seams.md").write_text(page(rows), encoding="utf-8")
    print(f"written to {DOCS}")


def trained_unet(name, cube, given):
    """A trained U-Net, with its default halo and less; draws its picture."""
    model = given.model if name == GIVEN else trained(given.out / "short", SHORT_DATASET)
    whole = classified(cube, model, block=8192)
    found, shown = against_whole("u-net", cube, model, whole)
    for halo in CURVE:
        tiled = classified(cube, model, block=512, halo=halo)
        found.append(seam("u-net", whole, tiled, block=512, halo=halo))
    for halo, blend in BLENDED:
        tiled = classified(cube, model, block=512, halo=halo, blend=blend)
        found.append(seam("u-net", whole, tiled, block=512, halo=halo, blend=blend))
    draw(whole, shown[0], shown[models.entry("u-net").halo], DOCS / PICTURES[name])
    return found


def random_network(name, size, cube, _given):
    """Random weights on the scene's first rows and columns."""
    part = cube.isel(y=slice(size[0]), x=slice(size[1]))
    model = untrained(name, part)
    return against_whole(name, part, model, classified(part, model, block=8192))[0]


CASES = {
    **{name: partial(trained_unet, name) for name in PICTURES},
    **{f"{name}, random": partial(random_network, name, size) for name, size in RANDOM.items()},
}


def arguments(words=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seams", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/seams"))
    parser.add_argument("--model", type=Path, help=f"U-Net trained on {DATASET}")
    parser.add_argument("--real", type=Path, help="folder of folders of items, as benchmarks.real")
    parser.add_argument("--real-site", default="282D_485L_3_3")
    parser.add_argument("--real-model", type=Path, help="checkpoint trained on real tiles")
    parser.add_argument(
        "--cases", nargs="*", default=list(CASES), help="measured now; others as FOLDER has them"
    )
    given = parser.parse_args(words)
    if not given.model:
        given.cases = [name for name in given.cases if name != GIVEN]
    if given.real and not given.real_model:
        parser.error("--real needs --real-model: python -m benchmarks.real trains one.")
    return given


def scene(out):
    """The cube of a simulated scene, in memory."""
    folder = out / f"scene-{SEED}-{SHAPE[0]}x{SHAPE[1]}"
    store = out / f"{folder.name}.zarr"
    if not store.exists():
        if not (folder / "items.json").exists():
            simulate_scene(folder, shape=SHAPE, seed=SEED)
        made = open_scene(folder)
        cube = dfx.open_cube(dfx.read_items(made.items), grid=made.grid, dataset=DATASET)
        with dask.config.set(scheduler="threads"):
            dfx.write_zarr(cube, store)
    return xr.open_zarr(store).load()


def untrained(name, cube):
    """Random weights; input and BatchNorm statistics those of the pixels, as after training."""
    bands = [str(b) for b in cube["band"].to_numpy()]
    months = None
    if models.entry(name).is_two_branch:
        months = [int(m) for m in cube["month"].to_numpy()]
    torch.manual_seed(20)
    network = models.build(
        name, bands=len(bands), classes=13, months=len(months) if months else None
    )
    s2 = cube["s2"].to_numpy()
    mean, std = s2.mean(axis=(1, 2)), s2.std(axis=(1, 2))
    inputs = [(s2 - mean[:, None, None]) / std[:, None, None]]
    if months:
        s1 = cube["s1"].transpose("month", "polarization", "y", "x").to_numpy()
        radar = s1.reshape(-1, *s1.shape[2:])
        low, wide = radar.mean(axis=(1, 2)), radar.std(axis=(1, 2))
        mean, std = np.append(low, mean), np.append(wide, std)
        radar = (radar - low[:, None, None]) / wide[:, None, None]
        inputs.append(radar.reshape(s1.shape))
    crops = [torch.from_numpy(a[None, ..., :160, :192].astype("float32")) for a in inputs]
    field.settle(network, *crops)
    names = (*models.channel_names(months or (), bands),)
    return models.Checkpoint.from_module(
        network, bands=names, months=months, mean=mean.tolist(), std=std.tolist()
    )


@contextmanager
def unrounded():
    """`classify` with its probabilities as the network gives them, in percent and float32."""

    def exact(share, valid):
        return np.where(valid, 100 * share, np.float32(0))

    with patch.object(blocks_of, "_percent", exact):
        yield


def classified(cube, model, *, block, halo=None, blend=0):
    plan = make_plan(cube, model, block=block, halo=halo, device="cpu", blend=blend)
    with unrounded():
        made = dfx.classify(
            cube, model, block=block, halo=halo, blend=blend, device="cpu", probability=True
        )
        share = made[["lulc", "probability"]].compute()
    probability = share["probability"].to_numpy() / 100
    return Map(share["lulc"].to_numpy(), probability, *plan.blocks)


def against_whole(name, cube, model, whole):
    """Seams of all sizes of blocks, and the maps in blocks of `SHOWN` by halo."""
    found, shown, known = [], {}, {}
    for halo in (models.entry(name).halo, 0):
        for block in BLOCKS:
            plan = make_plan(cube, model, block=block, halo=halo, device="cpu")
            key = (plan.blocks, halo)
            if key not in known:
                single = max(map(len, plan.blocks)) == 1
                known[key] = whole if single else classified(cube, model, block=block, halo=halo)
            found.append(seam(name, whole, known[key], block=block, halo=halo))
            if block == SHOWN:
                shown[halo] = known[key]
    return found, shown


def seam(name, whole, tiled, *, block, halo, blend=0):
    """Compare; print the line at once."""
    difference = tiled.share - whole.share
    points = np.abs(np.rint(100 * tiled.share) - np.rint(100 * whole.share))
    sizes = tuple(dict.fromkeys((*tiled.rows, *tiled.cols)))
    row = Seam(
        name,
        block,
        halo,
        blend,
        () if max(len(tiled.rows), len(tiled.cols)) == 1 else sizes,
        float((tiled.lulc != whole.lulc).mean()),
        float(np.abs(difference).max()),
        int(points.max()),
        step(difference, tiled),
    )
    print(line(row), flush=True)
    return row


def step(difference, tiled):
    """Greatest jump of the difference between the two pixels at a border."""
    found = [0.0]
    for axis, sizes in ((1, tiled.rows), (2, tiled.cols)):
        borders = np.cumsum(sizes)[:-1]
        jump = difference.take(borders, axis=axis) - difference.take(borders - 1, axis=axis)
        found.append(float(np.abs(jump).max(initial=0)))
    return max(found)


def real_tile(given):
    """A real tile, whole and in blocks; its picture goes to the --out folder."""
    from benchmarks.real.sites import open_sites

    (site,) = open_sites(given.real, given.out / "real", only=[given.real_site])
    cube, model = site.cube, given.real_model
    whole = classified(cube, model, block=8192)
    rows, maps = [], {}
    for halo in REAL_HALOS:
        for block in REAL_BLOCKS:
            if block >= halo:
                maps[block, halo] = classified(cube, model, block=block, halo=halo)
                rows.append(seam(site.name, whole, maps[block, halo], block=block, halo=halo))
    picture = given.out / f"real-{site.name}.png"
    draw(whole, maps[64, 0], maps[64, 64], picture, halo=64, zoom=64, colours=site.legend)
    print(f"written to {picture}")
    return rows


def draw(whole, without, ours, path, *, halo=None, zoom=192, colours=None):
    """The map and both differences, and a corner of blocks in all three maps."""
    legend = colours or amazon13()
    figure = Figure(figsize=(11, 7.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    halo = models.entry("u-net").halo if halo is None else halo
    norm = LogNorm(1e-3, 1, clip=False)
    titles = ("no halo", f"halo of {halo}")
    _paint_map(axes[0, 0], whole.lulc, legend)
    axes[0, 0].set_title("one pass over the whole scene")
    corner = _worst_corner(whole, without, zoom)
    for number, (tiled, title) in enumerate(zip((without, ours), titles, strict=True), 1):
        top, bottom = axes[0, number], axes[1, number]
        gap = np.abs(tiled.share - whole.share).max(axis=0)
        shown = top.imshow(np.ma.masked_less(gap, 1e-3), cmap="magma_r", norm=norm)
        changed = (tiled.lulc != whole.lulc).mean()
        top.set_title(f"{title}: {_percent(changed)} of pixels differ", fontsize=11)
        _borders(top, tiled)
        _frame(top, corner, zoom)
        _paint_map(bottom, tiled.lulc, legend)
        _borders(bottom, tiled)
        bottom.set_title(f"{title}, enlarged")
    _frame(axes[0, 0], corner, zoom)
    _paint_map(axes[1, 0], whole.lulc, legend)
    axes[1, 0].set_title("one pass, enlarged")
    for axis in axes[1]:
        axis.set(xlim=(corner[1] - 0.5, corner[1] + zoom - 0.5))
        axis.set(ylim=(corner[0] + zoom - 0.5, corner[0] - 0.5))
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    bar = figure.colorbar(shown, ax=axes[0, 1:], shrink=0.85, extend="min")
    bar.set_label("greatest difference of a class probability")
    bar.set_ticks([0.001, 0.01, 0.1, 1], labels=["0.001", "0.01", "0.1", "1"])
    _legend(figure, whole.lulc, legend)
    held = BytesIO()
    figure.savefig(held, dpi=100, format="png")
    Image.open(held).convert("RGB").quantize(256).save(path, optimize=True)


def _paint_map(axes, lulc, legend):
    colours = ListedColormap([c.color for c in legend.classes])
    codes = np.array(legend.codes)
    norm = BoundaryNorm(np.arange(len(codes) + 1) - 0.5, len(codes))
    index = np.searchsorted(codes, lulc)
    axes.imshow(index, cmap=colours, norm=norm, interpolation="nearest")


def _borders(axes, tiled):
    for border in np.cumsum(tiled.rows)[:-1]:
        axes.axhline(border - 0.5, color="0.35", lw=0.6, ls=(0, (4, 4)), alpha=0.7)
    for border in np.cumsum(tiled.cols)[:-1]:
        axes.axvline(border - 0.5, color="0.35", lw=0.6, ls=(0, (4, 4)), alpha=0.7)


def _frame(axes, corner, zoom):
    axes.add_patch(Rectangle(corner[::-1], zoom, zoom, fill=False, ec="black", lw=1.2))


def _worst_corner(whole, tiled, zoom):
    """First row and column of the window around the corner of blocks that differs most."""
    changed = tiled.lulc != whole.lulc
    best, place = -1, (0, 0)
    for row in np.cumsum(tiled.rows)[:-1]:
        for col in np.cumsum(tiled.cols)[:-1]:
            top = int(np.clip(row - zoom // 2, 0, changed.shape[0] - zoom))
            left = int(np.clip(col - zoom // 2, 0, changed.shape[1] - zoom))
            count = changed[top : top + zoom, left : left + zoom].sum()
            if count > best:
                best, place = count, (top, left)
    return place


def _legend(figure, lulc, legend):
    seen = set(np.unique(lulc).tolist())
    entries = [c for c in legend.classes if c.code in seen]
    figure.legend(
        handles=[Rectangle((0, 0), 1, 1, fc=c.color, ec="0.5", label=c.name) for c in entries],
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize=9,
    )


def _percent(share):
    if share == 0:
        return "0 %"
    return f"{100 * share:.2g} %" if share >= 1e-6 else "< 0.0001 %"


def line(row):
    """One line of a table."""
    sizes = ", ".join(map(str, row.sizes)) or "one block"
    halo = f"{row.halo}, blended {row.blend}" if row.blend else f"{row.halo}"
    return (
        f"| {row.block} | {halo} | {sizes} | {_percent(row.pixels)} "
        f"| {row.probability:.1g} | {row.percent} | {row.step:.1g} |"
    )


HEAD = """| block asked | halo | sides of blocks | pixels that differ | probability | percent \
| step at a border |
| --- | --- | --- | --- | --- | --- | --- |"""

PAGE = """# Seams

`{command}` writes this page and its pictures. Measured on {machine}.

A map in blocks is compared with one pass over the whole scene: the share of pixels whose class
differs; the greatest difference of any class's probability anywhere, before it is rounded, and in
percentage points of the layer on disk; and the greatest step of this difference from one side of a
border between blocks to the other. The goal is at most {goal:g} % of the pixels and 0.01 of
probability with the default halo.

| network | default halo | pixels that differ | probability | goal met |
| --- | --- | --- | --- | --- |
{verdict}

The greater value of all sizes of blocks.

{pictures}

*Each trained U-Net on {rows} x {cols} simulated pixels, in blocks of {shown} without a halo and
with the default one. Above: the map of one pass, and the greatest difference of a class
probability from it, white below 0.001; borders of the blocks are dashed. Below: the framed part.*

## All numbers

`classify` takes blocks no smaller than the halo and leaves no rest shorter than it, so the sides
differ from what was asked. "One block" is the one pass itself.

{tables}

Random weights are of seed 20, with BatchNorm statistics settled on 160 x 192 pixels and inputs
standardised by the scene's own means, on parts of the same scene (pixels): {parts}.
{real}"""

REAL = """
## A real tile

Site `{site}`, and a U-Net trained on other real tiles: `--real DATA --real-site {site} --real-model
FOLDER`, the folder a checkpoint of `python -m benchmarks.real`. The tile is smaller than the
default halo of {halo}, with which it is one block and has no seam; these are blocks with less.

{table}
"""


def page(rows):
    """The page, with the command that gives it."""
    found = {name: [Seam(**row) for row in rows[name]] for name in CASES if name in rows}
    parts = [f"`{n}` on {a} x {b}" for n, (a, b) in RANDOM.items() if f"{n}, random" in rows]
    return PAGE.format(
        command="python -m benchmarks.seams --out FOLDER",
        machine=machine(),
        goal=100 * GOAL,
        shown=SHOWN,
        pictures="\n\n".join(f"![{_title(n)}]({p})" for n, p in PICTURES.items() if n in rows),
        rows=SHAPE[0],
        cols=SHAPE[1],
        tables="\n\n".join(f"{_title(n)}:\n\n{table(r)}" for n, r in found.items()),
        verdict="\n".join(verdict(name, seams) for name, seams in found.items()),
        parts=", ".join(parts),
        real=real_section(rows["real"]) if "real" in rows else "",
    )


def _title(name):
    network, weights = name.split(", ")
    said = {"given": "trained (`--model`)", "short": "trained for minutes", "random": "random"}
    return f"`{network}`, {said[weights]}"


def table(rows):
    return "\n".join([HEAD, *map(line, rows)])


def verdict(name, found):
    """What the default halo gives."""
    network = found[0].network
    default = models.entry(network).halo
    cut = [row for row in found if row.halo == default and row.sizes]
    pixels, gap = max(r.pixels for r in cut), max(r.probability for r in cut)
    is_met = pixels <= GOAL and gap <= 0.01
    return (
        f"| {_title(name)} | {default} | {_percent(pixels)} | {gap:.1g} "
        f"| {'yes' if is_met else 'no'} |"
    )


def real_section(rows):
    found = [Seam(**row) for row in rows]
    return REAL.format(site=found[0].network, halo=models.entry("u-net").halo, table=table(found))


if __name__ == "__main__":
    main()
