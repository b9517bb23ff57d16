import sys

import matplotlib.image
import numpy as np
import pytest
import xarray as xr

from deepforest_xr.errors import ConfigError, MissingExtraError, WriteError
from deepforest_xr.legend import amazon13
from deepforest_xr.maps import picture, write_picture

from .conftest import visible_texts, words


@pytest.mark.parametrize("shape", [(37, 53), (90, 1900), (1700, 110), (1, 3)])
def test_the_picture_is_small_and_no_text_touches_another(make_map, drawn, tmp_path, shape):
    dataset = make_map(shape, chunks={"y": 500, "x": 500})
    rgb = np.random.default_rng(0).random((3, *shape))
    path = write_picture(
        dataset, tmp_path / "a.png", reference=dataset.lulc, rgb=rgb, title="A long $title_$ " * 9
    )
    pixels = matplotlib.image.imread(path)
    assert max(pixels.shape[:2]) <= 1600
    boxes = visible_texts(drawn[0])
    for i, (text, box) in enumerate(boxes):
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= pixels.shape[1], text
        assert box.y1 <= pixels.shape[0], text
        for other, box_other in boxes[i + 1 :]:
            assert not box.overlaps(box_other), f"{text!r} touches {other!r}"


def test_the_legend_names_what_occurs_with_its_share(make_map, drawn, tmp_path):
    dataset = make_map((4, 10))
    codes = np.full((4, 10), 1, dtype="uint8")
    codes[0], codes[1, :3] = 0, 13
    dataset["lulc"] = dataset.lulc.copy(data=codes)
    reference = dataset.lulc.copy(data=np.where(codes == 0, 255, 7).astype("uint8"))
    write_picture(dataset, tmp_path / "a.png", reference=reference)
    said = words(drawn[0])
    assert [w for w in said if "%" in w or w == "not in map"] == ["90.0 %", "10.0 %", "not in map"]
    assert {"Forest Formation", "Water", "Pasture"} <= set(said)
    assert "Mining" not in said


def test_colours_are_the_legends_and_no_data_is_grey(make_map, drawn, tmp_path):
    dataset = make_map((2, 3))
    dataset["lulc"] = dataset.lulc.copy(data=np.array([[0, 1, 2], [3, 4, 13]], dtype="uint8"))
    write_picture(dataset, tmp_path / "a.png")
    image = drawn[0].axes[0].images[0].get_array()
    assert tuple(image[0, 0]) == picture.BLANK
    assert tuple(image[1, 2]) == amazon13().rgb()[13]


@pytest.mark.parametrize("simulated", [True, False])
def test_simulated_is_stamped_on_every_panel_or_not_at_all(make_map, drawn, tmp_path, simulated):
    dataset = make_map(simulated=simulated)
    write_picture(dataset, tmp_path / "a.png", reference=dataset.lulc)
    assert words(drawn[0]).count("SIMULATED") == (2 if simulated else 0)


@pytest.mark.parametrize(
    ("crs", "shape", "label"),
    [
        ("EPSG:32721", (20, 300), "1 km"),
        ("EPSG:32721", (7, 30), "100 m"),
        ("EPSG:4326", (9, 90), "500 m"),
    ],
)
def test_the_scale_bar_is_as_long_as_it_says(make_map, drawn, tmp_path, crs, shape, label):
    write_picture(make_map(shape, crs=crs), tmp_path / "a.png")
    figure = drawn[0]
    assert label in words(figure)
    bar = next(a for a in figure.artists if hasattr(a, "get_xdata"))
    start, end = bar.get_xdata()
    share = (end - start) / figure.axes[0].get_position().width
    pixel = 10 if crs != "EPSG:4326" else 1e-4 * 111_195 * np.cos(np.radians(3.3))
    metres = {"1 km": 1000, "100 m": 100, "500 m": 500}[label]
    assert share * shape[1] * pixel == pytest.approx(metres, rel=0.005)


def test_only_a_picture_of_the_map_is_held(make_map, drawn, tmp_path):
    write_picture(make_map((1600, 90), chunks={"y": 400}), tmp_path / "a.png")
    assert drawn[0].axes[0].images[0].get_array().shape[:2] == (534, 30)


def test_bands_first_or_last_give_one_picture_and_nan_is_grey(make_map, drawn, tmp_path):
    rgb = np.random.default_rng(0).random((3, 37, 53))
    rgb[:, 5, 7] = np.nan
    write_picture(make_map(), tmp_path / "a.png", rgb=xr.DataArray(rgb, dims=("band", "y", "x")))
    write_picture(make_map(), tmp_path / "b.png", rgb=np.moveaxis(rgb, 0, -1))
    first, second = (figure.axes[0].images[0].get_array() for figure in drawn)
    np.testing.assert_array_equal(first, second)
    assert tuple(first[5, 7]) == picture.BLANK
    for wrong in (rgb[:2], rgb.transpose(0, 2, 1)):
        with pytest.raises(ConfigError, match="rgb has shape"):
            write_picture(make_map(), tmp_path / "c.png", rgb=wrong)


def test_without_matplotlib_the_extra_is_named(make_map, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r'pip install "deepforest-xr\[viz\]"'):
        write_picture(make_map(), tmp_path / "a.png")


def test_an_existing_picture_stays(make_map, tmp_path):
    (tmp_path / "a.png").write_text("old")
    with pytest.raises(WriteError, match="exists"):
        write_picture(make_map(), tmp_path / "a.png")
