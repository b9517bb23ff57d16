"""How far each network looks: docs/receptive-fields.md and its picture.

`python -m benchmarks.field` takes about half an hour on two cores, and 6 GB of memory for the
U-Net, which is measured on square images. Most others are measured on two strips, one along y
and one along x; deepforest_xr/models/field.py says when that is enough.
"""

import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from deepforest_xr import models
from deepforest_xr.models import field

DOCS = Path(__file__).parents[1] / "docs"
PICTURE = "images/receptive-fields.png"
CORE = 64  # side of the tile whose classes are compared
STEP = 8  # pixels between two points of a curve


@dataclass(frozen=True)
class Case:
    """A network and the images that it is measured on."""

    name: str
    s2_branch: str | None
    gradient_width: int | None  # of a strip; None is a square
    tile_width: int | None
    networks: tuple = (20, 21)  # seeds of the random weights
    pixels: int = 3  # of each network in each direction

    @property
    def known(self):
        return models.entry(self.name)

    @property
    def label(self):
        return f"{self.name} ({self.s2_branch})" if self.s2_branch else self.name


CASES = (
    Case("u-net", None, None, None),
    Case("deeplab", None, 128, None, (20,), 2),
    Case("deepforest-1a", None, 128, None),
    Case("deepforest-1b", None, 128, None),
    Case("deepforest-1c", None, 128, None),
    Case("deepforest-2a", None, 512, 256),
    Case("deepforest-2b", None, 128, None, (20,), 2),
    Case("deepforest-2b", "released", 128, None, (20,), 2),
)

# Colours of Okabe and Ito, which most eyes tell apart, and dashes where lines run together;
# where the name stands (pixels, percent), the percentage of the curve that it points at, and the
# characters in a line of it.
STYLES = {
    "u-net": ("#0072B2", "-", (620, 0.3), 0.3, 40),
    "deeplab": ("#D55E00", "-", (510, 5.0), 5.0, 40),
    "deepforest-1a": ("#009E73", "-", (310, 0.16), 0.16, 40),
    "deepforest-1b": ("#000000", "-", (310, 0.08), 0.08, 40),
    "deepforest-1c": ("#CC79A7", "-", (310, 0.32), 0.32, 40),
    "deepforest-2a": ("#56B4E9", "--", (285, 2.4), 2.4, 14),
    "deepforest-2b": ("#E69F00", (0, (2, 2)), (310, 0.04), 0.04, 40),
    "deepforest-2b (released)": ("#666666", "-", (8, 0.05), 0.05, 14),
}


@dataclass(frozen=True)
class Measured:
    """What came out for a case."""

    case: Case
    reach: int
    margins: np.ndarray  # pixels
    outside: np.ndarray  # share of the gradient, one per margin
    same: float  # share of same classes with the registered halo, of the worse network

    @property
    def outside_halo(self):
        return self.outside[self.margins == self.case.known.halo][0]


def main():
    rows = []
    for case in CASES:
        rows.append(measure(case))
        print(table_row(rows[-1]), flush=True)
    draw(rows, DOCS / PICTURE)
    (DOCS / "receptive-fields.md").write_text(page(rows), encoding="utf-8")
    print(f"written to {DOCS}")


def measure(case):
    margins = np.arange(0, case.known.reach + 2 * case.known.stride, STEP)
    networks = [_network(case, seed) for seed in case.networks]
    return Measured(
        case,
        field.reach(networks[0]),
        margins,
        np.mean([_outside(case, network, margins) for network in networks], axis=0),
        min(_same_classes(case, network) for network in networks),
    )


def _network(case, seed):
    torch.manual_seed(seed)
    network = models.build(
        case.name,
        bands=3,
        classes=5,
        months=1 if case.known.is_two_branch else None,
        s2_branch=case.s2_branch,
    )
    return field.settle(network, *field.textures(network, 128, 160, n=2, seed=5))


def _outside(case, network, margins):
    length = 2 * (case.known.reach + case.known.stride)
    width = case.gradient_width
    sizes = [(length, width), (width, length)] if width else [(length, length)]
    inside = 1.0
    for size in sizes:
        images = field.textures(network, *size, seed=7)
        inside *= 1 - field.outside_share(network, *images, margins=margins, draws=case.pixels)
    return 1 - inside


def _same_classes(case, network):
    length = CORE + 2 * case.known.reach
    rows = case.tile_width or length
    images = field.textures(network, rows, length, seed=7)
    whole = _classes(network, images, case.known.reach, is_square=not case.tile_width)
    tile = _classes(network, images, case.known.halo, is_square=not case.tile_width)
    return float((whole == tile).double().mean())


def _classes(network, images, margin, *, is_square):
    """Classes of the middle, from images cut `margin` pixels around it."""
    axes = (-2, -1) if is_square else (-1,)
    for axis in axes:
        start = images[0].shape[axis] // 2 - CORE // 2 - margin
        images = [image.narrow(axis, start, CORE + 2 * margin) for image in images]
    with torch.no_grad():
        classes = network(*images)[0].argmax(dim=0)
    for axis in axes:
        classes = classes.narrow(axis, margin, CORE)
    return classes


def draw(rows, path):
    """Share of the influence from beyond a distance, one line per network."""
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(yscale="log", xlim=(0, 768), ylim=(0.01, 100))
    axes.set(xlabel="distance from the pixel in y or x (pixels)")
    axes.set(ylabel="share of the influence from farther away (%)")
    axes.xaxis.set_major_locator(MultipleLocator(64))
    axes.set_yticks([100, 10, 1, 0.1, 0.01], ["100", "10", "1", "0.1", "0.01"])
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.axhline(1, color="0.3", lw=1)
    for row in rows:
        _draw_line(axes, row)
    for halo in sorted({row.case.known.halo for row in rows}):
        axes.plot(halo, 1, marker="v", color="0.3", ms=7)
        axes.annotate(f"{halo}", (halo, 1), (0, 7), textcoords="offset points", ha="center")
    figure.savefig(path, dpi=130, format="png")


def _draw_line(axes, row):
    colour, dashes, place, level, line = STYLES[row.case.label]
    percent = 100 * row.outside
    axes.plot(row.margins, percent, color=colour, ls=dashes, lw=2)
    # The curve falls: its point at a level, between two margins.
    shown = percent > 0
    at = np.interp(-np.log(level), -np.log(percent[shown]), row.margins[shown])
    axes.annotate(
        textwrap.fill(f"{row.case.label}, halo {row.case.known.halo}", line),
        (at, level),
        place,
        color=colour,
        va="center",
        fontweight="bold",
        arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.8},
    )


PAGE = """# Receptive fields

`python -m benchmarks.field` writes this page and its picture. Halo and reach are those of
`deepforest_xr.models.entry(name)`; `classify` takes the halo unless told otherwise.

![Share of the influence on a pixel from beyond a distance, by network]({picture})

- **reach**: the margin around a tile beyond which nothing has an influence, in whole strides of 32
  pixels. NaN set beyond it does not arrive in the tile; set 32 pixels nearer, it does.
- **halo**: the effective field, the least multiple of 32 with which at least 99.9 % of a tile's
  classes are those of the whole image and less than 1 % of the influence on a pixel comes from
  beyond. Triangles on the 1 % line mark the halos.

| network | halo | reach | influence from beyond the halo | same classes with the halo |
| --- | --- | --- | --- | --- |
{rows}

Influence is the gradient of a pixel's logits by the inputs, absolute values summed over channels:
the mean of two networks with three pixels each per image, for `deeplab` and `deepforest-2b` of one
network with two pixels. Weights are random and seeded,
BatchNorm statistics settled on the input, images have texture at 1, 4, 16 and 64 pixels. Classes
are compared in a tile of {core} x {core} pixels; the table gives the worse network. Those of random
weights lie close together: trained ones may need less.

Most halos come from the classes, the U-Net's from the influence as well. A two-branch network has
the halo of its Sentinel-2 branch, which it needs when it hardly listens to Sentinel-1; random
weights do listen, and Sentinel-1 acts over a few pixels only. `deepforest-2b` has one entry for
both variants, with the margins of the default.

The U-Net was measured on squares that hold its whole field. The other curves are put together from
one strip along y and one along x, {narrow} pixels wide, {wide} for `deepforest-2a`, of whose far
influence they see about four fifths. Classes were compared on squares, those of `deepforest-2a` in
a strip of {tile} pixels.
"""


def page(rows):
    """The page, with the command that gives it."""
    widths = {case.name: case for case in CASES}
    return PAGE.format(
        picture=PICTURE,
        rows="\n".join(map(table_row, rows)),
        core=CORE,
        narrow=widths["deepforest-1b"].gradient_width,
        wide=widths["deepforest-2a"].gradient_width,
        tile=widths["deepforest-2a"].tile_width,
    )


def table_row(row):
    """One line of the table."""
    share = 100 * row.outside_halo
    outside = f"{share:.2g} %" if share >= 0.001 else "< 0.001 %"
    halo = row.case.known.halo
    return f"| `{row.case.label}` | {halo} | {row.reach} | {outside} | {100 * row.same:.2f} % |"


if __name__ == "__main__":
    main()
