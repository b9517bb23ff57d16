"""A small map to write: no two axes share a length, the origin is on no round number."""

import matplotlib.text
import numpy as np
import pytest
import xarray as xr

from deepforest_xr.grid import Grid
from deepforest_xr.legend import amazon13
from deepforest_xr.maps import canvas


@pytest.fixture
def make_map():
    def make(shape=(37, 53), *, crs="EPSG:32721", chunks=None, simulated=True, seed=0):
        resolution = 1e-4 if crs == "EPSG:4326" else 10
        left, top = (-54.12345, -3.3) if crs == "EPSG:4326" else (717729.8352, 9_000_003.3)
        rows, cols = shape
        bounds = (left, top - resolution * rows, left + resolution * cols, top)
        grid = Grid.from_bounds(bounds, crs=crs, resolution=resolution)
        codes = np.random.default_rng(seed).integers(0, 14, grid.shape).astype("uint8")
        dataset = xr.Dataset(
            {
                "lulc": (("y", "x"), codes, amazon13().attrs()),
                "confidence": (("y", "x"), codes * np.uint8(7), {"units": "%"}),
            },
            coords=grid.coords(),
            attrs={"simulated": str(simulated).lower(), "model": 'a <b> & "c"'},
        )
        return dataset.chunk(chunks) if chunks else dataset

    return make


@pytest.fixture
def make_percent(make_map):
    """The map with all layers in percent, 0 where there is no class, as `classify` gives them."""

    def make(shape=(37, 53), **options):
        dataset = make_map(shape, **options)
        rng = np.random.default_rng(3)
        names = [c.name for c in amazon13().classes]
        chunks = {k: v for k, v in (options.get("chunks") or {}).items() if k in ("y", "x")}
        for name in ("entropy", "margin", "probability"):
            dims = ("class", "y", "x") if name == "probability" else ("y", "x")
            size = (len(names), *shape) if name == "probability" else shape
            values = rng.integers(0, 101, size).astype("uint8")
            layer = xr.DataArray(values, dims=dims, attrs={"units": "percent"})
            dataset[name] = layer.where(dataset.lulc.compute() != 0, np.uint8(0)).chunk(chunks)
            dataset[name].attrs = {"units": "percent", "long_name": f"{name} of the map"}
        return dataset.assign_coords({"class": names})

    return make


@pytest.fixture
def failing():
    """A map whose last block raises when it is computed; the others are written before."""

    def make(dataset, error):
        last = dataset.lulc.data.numblocks

        def block(values, block_info=None):
            if block_info[0]["chunk-location"] == (last[0] - 1, last[1] - 1):
                raise error
            return values

        broken = dataset.copy()
        broken["lulc"] = dataset.lulc.copy(data=dataset.lulc.data.map_blocks(block, dtype="uint8"))
        return broken

    return make


@pytest.fixture
def drawn(monkeypatch):
    """Every figure that is drawn, to ask what it says."""
    figures = []
    make = canvas.new_figure
    monkeypatch.setattr(
        canvas, "new_figure", lambda *size: figures.append(make(*size)) or figures[-1]
    )
    return figures


def words(figure):
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


def visible_texts(figure):
    renderer = figure.canvas.get_renderer()
    texts = [t for t in figure.findobj(matplotlib.text.Text) if t.get_text() != "SIMULATED"]
    return [(t.get_text(), t.get_window_extent(renderer)) for t in texts if t.get_text()]
