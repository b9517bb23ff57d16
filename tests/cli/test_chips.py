"""The command ``chips``: labels of several years become weights, borders are left out."""

import numpy as np
import pytest
import rasterio

import deepforest_xr as dfx
from deepforest_xr.chips import open_chips
from deepforest_xr.grid import Grid
from deepforest_xr.labels import border_ignore

from .conftest import call

YEARS = (2016, 2017, 2018)


@pytest.fixture
def at(synthetic_cube, tmp_path):
    """A cube, a label raster a year with patches of two classes, and their legend."""
    cube = synthetic_cube((101, 170), bands=("B02", "B03", "B04"))
    dfx.write_zarr(cube, tmp_path / "cube.zarr")
    grid = Grid.of(cube)
    rng = np.random.default_rng(2)
    patches = rng.choice(np.array([4, 9], dtype="uint8"), (11, 17)).repeat(10, 0).repeat(10, 1)
    codes = [np.where(rng.random((101, 170)) < 0.1, 9, patches[:101]).astype("uint8")
             for _ in YEARS]  # fmt: skip
    for year, values in zip(YEARS, codes, strict=True):
        with rasterio.open(
            tmp_path / f"map_{year}.tif", "w", driver="GTiff", dtype="uint8", count=1,
            height=101, width=170, crs="EPSG:32721", transform=grid.transform,
        ) as file:  # fmt: skip
            file.write(values, 1)
    (tmp_path / "legend.csv").write_text("code,name,color\n4,low,#00ff00\n9,high,#ff0000\n")
    return tmp_path, np.stack(codes)


def words(folder, labels, *options):
    return ("chips", folder / "cube.zarr", folder / labels, "--legend", folder / "legend.csv",
            "--size", 32, "--out", folder / "chips.zarr", *options)  # fmt: skip


def on_the_grid(chips, name):
    """An array of all chips side by side, dims (y, x); 255 where there is none."""
    (part,) = chips.parts
    whole = np.full(part.grid.shape, 255, dtype="float32")
    for chip, (row, col) in enumerate(zip(part.row, part.col, strict=True)):
        whole[row : row + 32, col : col + 32] = chips.read(chip)[name]
    return whole[:96, :160]


@pytest.mark.parametrize("years", ["2016-2018", "2016,2017,2018"])
def test_labels_of_years_are_their_most_frequent_class_and_its_share(at, years):
    folder, codes = at
    assert call(*words(folder, "map_{year}.tif", "--years", years)) == 0
    chips = open_chips(folder / "chips.zarr")
    high = (codes == 9).sum(axis=0)[:96, :160]
    np.testing.assert_array_equal(on_the_grid(chips, "label"), np.where(high >= 2, 9, 4))
    share = np.maximum(high, 3 - high) / 3
    np.testing.assert_allclose(on_the_grid(chips, "weight"), share, rtol=0, atol=0.00501)
    assert chips.legend.names == ["low", "high"]


def test_some_years_are_those_and_no_others(at):
    folder, codes = at
    assert call(*words(folder, "map_{year}.tif", "--years", "2016,2018")) == 0
    chips = open_chips(folder / "chips.zarr")
    agree = (codes[0] == codes[2])[:96, :160]
    np.testing.assert_array_equal(on_the_grid(chips, "weight"), np.where(agree, 1, 0.5))


def test_borders_are_left_out_where_that_is_asked_for(at):
    folder, codes = at
    assert call(*words(folder, "map_2016.tif", "--border-ignore", 20)) == 0
    chips = open_chips(folder / "chips.zarr")
    legend = dfx.Legend.from_csv(folder / "legend.csv")
    labels = dfx.align_labels(folder / "map_2016.tif", like=chips.grid, legend=legend)
    expected = border_ignore(labels, 20).to_numpy()[:96, :160]
    found = on_the_grid(chips, "label")
    np.testing.assert_array_equal(found, expected)
    assert 0.1 < (found == 255).mean() < 0.9
    assert (found[found != 255] == codes[0][:96, :160][found != 255]).all()
    assert "weight" not in chips.read(0)


@pytest.mark.parametrize(
    ("labels", "options", "match"),
    [
        ("map_{year}.tif", (), "say which with --years"),
        ("map_2016.tif", ("--years", "2016-2018"), "--years needs {year}"),
        ("map_{year}.tif", ("--years", "2018-2016"), "ends before it begins"),
        ("map_{year}.tif", ("--years", "2016,2016"), "names a year twice"),
        ("map_{year}.tif", ("--years", "16-18"), "is neither 2016-2018 nor 2015,2017"),
        ("map_{year}.tif", ("--years", "2018-2019"), "map_2019.tif"),
        ("map_2016.tif", ("--border-ignore", -1), "metres=-1.0 is no distance"),
    ],
)
def test_what_cannot_be_is_said_and_leaves_nothing(at, lines, capsys, labels, options, match):
    folder, _ = at
    code, out, said = lines(*words(folder, labels, *options))
    assert code != 0
    assert out == []
    # Typer puts what is wrong with an option into a frame of 80 columns.
    said = "".join([*said, capsys.readouterr().err])
    bare = str.maketrans("", "", " │\n")
    assert match.translate(bare) in said.translate(bare)
    assert not [p.name for p in folder.iterdir() if "chips" in p.name]
