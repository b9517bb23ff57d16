import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import CRS
from rio_cogeo.cogeo import cog_validate

from deepforest_xr.errors import ConfigError, DtypeError, ReadError, WriteError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import amazon13
from deepforest_xr.maps import write_cog
from deepforest_xr.maps.cog import cog_files


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def beside(stem):
    return [f"{stem}.qml", f"{stem}.tif", f"{stem}.tif.aux.xml"]


@pytest.mark.parametrize("crs", ["EPSG:32721", "ESRI:102033", "EPSG:4326"])
@pytest.mark.parametrize("shape", [(1, 3), (37, 53), (700, 1100)])
def test_the_cog_is_valid_and_holds_the_map(make_map, tmp_path, crs, shape):
    dataset = make_map(shape, crs=crs, chunks={"y": 300, "x": 400})
    path = write_cog(dataset, tmp_path / "map.tif")
    assert names(tmp_path) == beside("map")
    assert cog_validate(path, quiet=True) == (True, [], [])
    grid = Grid.of(dataset)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), dataset.lulc)
        assert file.transform == grid.transform
        assert CRS.from_user_input(file.crs) == grid.crs
        assert (file.dtypes, file.nodata, file.descriptions) == (("uint8",), 0, ("lulc",))
        assert file.block_shapes == [(512, 512)]


def test_colours_and_names_travel_inside_the_file(make_map, tmp_path):
    path = write_cog(make_map(), tmp_path / "map.tif")
    with rasterio.open(path) as file:
        colors, tags = file.colormap(1), file.tags()
    for code, color in amazon13().rgb().items():
        assert colors[code] == (*color, 255)
    assert colors[0][3] == 0
    assert [tags[f"class_{c.code}"] for c in amazon13().classes] == amazon13().names
    assert tags["flag_values"].split() == [str(c) for c in amazon13().codes]
    assert (tags["simulated"], tags["model"]) == ("true", 'a <b> & "c"')


def test_overviews_hold_the_most_frequent_class(make_map, tmp_path):
    dataset = make_map((600, 1100))
    codes = np.tile(np.array([[3, 9], [9, 9]], dtype="uint8"), (300, 550))
    dataset["lulc"] = dataset.lulc.copy(data=codes)
    with rasterio.open(write_cog(dataset, tmp_path / "map.tif"), overview_level=0) as file:
        assert file.shape == (300, 550)
        np.testing.assert_array_equal(file.read(1), 9)


def test_confidence_is_a_second_file_without_colours(make_map, tmp_path):
    dataset = make_map(chunks={"y": 10})
    path = write_cog(dataset, tmp_path / "map.tif", variable="confidence")
    assert path == tmp_path / "map_confidence.tif"
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), dataset.confidence)
        assert file.colorinterp == (rasterio.enums.ColorInterp.gray,)
        assert file.tags()["simulated"] == "true"


def test_one_array_that_does_not_tell_is_not_called_real(make_map, tmp_path):
    with rasterio.open(write_cog(make_map().lulc, tmp_path / "a.tif")) as file:
        assert "simulated" not in file.tags()
    with rasterio.open(write_cog(make_map(simulated=False), tmp_path / "b.tif")) as file:
        assert file.tags()["simulated"] == "false"


def test_what_a_cog_cannot_hold_is_refused(make_map, tmp_path):
    with pytest.raises(DtypeError, match="float32"):
        write_cog(make_map().lulc.astype("float32"), tmp_path / "a.tif")
    with pytest.raises(ConfigError, match="probability"):
        write_cog(make_map(), tmp_path / "a.tif", variable="probability")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), WriteError),
        (ReadError("scene 7 is gone"), ReadError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_task_that_fails_half_way_leaves_the_old_file(
    make_map, failing, tmp_path, error, expected
):
    dataset = make_map(chunks={"y": 16, "x": 20})
    write_cog(dataset, tmp_path / "a.tif")
    (tmp_path / "a.qml").write_text("a style of the user's own")
    old = files(tmp_path)
    with pytest.raises(expected) as caught:
        write_cog(failing(dataset, error), tmp_path / "a.tif", overwrite=True)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == old


def test_all_files_or_none_when_one_cannot_take_its_name(make_map, tmp_path, monkeypatch):
    """The raster is complete and the old sidecars are away when the disk refuses the rename."""
    write_cog(make_map(), tmp_path / "a.tif")
    old = files(tmp_path)
    rename, there = Path.replace, []

    def refuse(self, target):
        if Path(target) == tmp_path / "a.tif":
            there.extend(name for name in names(tmp_path) if not name.startswith("."))
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(WriteError, match="was not written"):
        write_cog(make_map(seed=1), tmp_path / "a.tif", overwrite=True)
    assert there == ["a.tif"]
    assert files(tmp_path) == old


@pytest.mark.parametrize("taken", beside("a"))
def test_no_file_of_the_users_own_is_replaced_unasked(make_map, failing, tmp_path, taken):
    (tmp_path / taken).write_text("mine")
    dataset = failing(make_map(chunks={"y": 16}), AssertionError("computed"))
    with pytest.raises(WriteError, match=f"{taken} exists") as caught:
        write_cog(dataset, tmp_path / "a.tif")
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == {taken: b"mine"}


def test_what_would_describe_a_new_raster_wrongly_is_refused(make_map, tmp_path):
    left = tmp_path / "a_confidence.tif.aux.xml"
    left.write_text("statistics of a raster that was removed")
    with pytest.raises(WriteError, match=f"{left.name} exists"):
        write_cog(make_map(), tmp_path / "a.tif", variable="confidence")
    assert names(tmp_path) == [left.name]


@pytest.mark.parametrize("shape", [(37, 53), (700, 1100)])
@pytest.mark.parametrize("name", ["entropy", "margin", "probability"])
def test_percent_layers_tell_0_from_no_data(make_percent, tmp_path, name, shape):
    dataset = make_percent(shape, chunks={"y": 300, "x": 400})
    path = write_cog(dataset, tmp_path / "map.tif", variable=name)
    assert cog_validate(path, quiet=True) == (True, [], [])
    assert names(tmp_path) == [f"map_{name}.qml", f"map_{name}.tif"]
    is_void = (dataset.lulc == 0).to_numpy()
    expected = np.where(is_void, 255, dataset[name].to_numpy())
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(np.squeeze(file.read()), expected)
        assert set(file.nodatavals) == {255}
        assert (file.read_masks(1) == 0).tolist() == is_void.tolist()
        bands = tuple(amazon13().names) if name == "probability" else (name,)
        assert file.descriptions == bands
        assert file.tags()["units"] == "percent"
        assert file.overviews(1) == ([] if shape == (37, 53) else [2, 4])


@pytest.mark.parametrize(("name", "average"), [("margin", 50), ("confidence", 100)])
def test_overviews_of_percent_are_averages_of_pixels_with_data(
    make_percent, tmp_path, name, average
):
    dataset = make_percent((600, 1100))

    def tile(*cells):
        return np.tile(np.array(cells, dtype="uint8").reshape(2, 2), (300, 550))

    dataset["lulc"] = dataset.lulc.copy(data=tile(3, 3, 0, 0))
    dataset[name] = dataset[name].copy(data=tile(0, 100, 0, 0))
    path = write_cog(dataset, tmp_path / "map.tif", variable=name)
    with rasterio.open(path, overview_level=0) as file:
        np.testing.assert_array_equal(file.read(1), average)


def test_a_layer_without_its_map_does_not_say_where_no_data_is(make_percent, tmp_path):
    dataset = make_percent()
    for source in (dataset.entropy, dataset[["entropy"]]):
        with pytest.raises(ConfigError, match=r"pass the Dataset.*`lulc`"):
            write_cog(source, tmp_path / "a.tif", variable="entropy")
    with pytest.raises(DtypeError, match="class, y, x"):
        write_cog(dataset.transpose("y", "x", "class"), tmp_path / "a.tif", variable="probability")
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["lulc", "confidence", "entropy", "probability"])
def test_the_files_are_known_before_they_are_written(make_percent, tmp_path, name):
    expected = cog_files(tmp_path / "map.tif", variable=name)
    assert write_cog(make_percent(), tmp_path / "map.tif", variable=name) == expected[0]
    assert {p.name for p in expected} == set(names(tmp_path))


def test_a_block_of_another_shape_is_an_error_not_a_shifted_map(make_map, tmp_path):
    dataset = make_map(chunks={"y": 16, "x": 20})
    lying = dataset.lulc.data.map_blocks(
        lambda b: b[:, :-1], dtype="uint8", chunks=((16, 16, 5), (20, 20, 13))
    )
    with pytest.raises(WriteError, match="chunks are not what they declare"):
        write_cog(dataset.lulc.copy(data=lying), tmp_path / "a.tif")


LIMITED = """
import resource, signal, sys
import numpy as np, xarray as xr
from deepforest_xr.errors import WriteError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import Legend, LandCoverClass
from deepforest_xr.maps import write_cog
legend = Legend("many", tuple(LandCoverClass(c, f"class {c}", "#123456") for c in range(1, 255)))
grid = Grid.from_bounds((0, 0, 7000, 6000), crs="EPSG:32721")
noise = np.random.default_rng(0).integers(1, 255, grid.shape).astype("uint8")
data = xr.Dataset({"lulc": (("y", "x"), noise, legend.attrs())}, coords=grid.coords())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write_cog(data.chunk(y=100), sys.argv[1], overwrite=True)
except WriteError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [100_000, 425_000], ids=["scratch file", "COG"])
def test_a_file_that_cannot_grow_is_one_line_and_leaves_nothing(make_map, tmp_path, limit):
    """Noise does not compress: 420,000 pixels fit the scratch file, not the COG with overview."""
    write_cog(make_map(), tmp_path / "a.tif")
    old = files(tmp_path)
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "a.tif"), str(limit)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.count("\n") == 1
    assert "was not written" in run.stdout
    assert files(tmp_path) == old
