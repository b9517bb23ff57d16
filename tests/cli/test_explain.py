"""The command ``explain``, and the uncertainty of ``classify``."""

import torch
import xarray as xr

from deepforest_xr import models
from deepforest_xr.maps import write_zarr

from .conftest import call

BANDS = ("B02", "B04", "B08")


def make(synthetic_cube, tmp_path):
    torch.manual_seed(0)
    network = models.build("u-net", bands=3, classes=13).eval()
    model = models.Checkpoint.from_module(network, bands=BANDS, mean=[0.2] * 3, std=[0.05] * 3)
    write_zarr(synthetic_cube((70, 101), bands=BANDS), tmp_path / "cube.zarr")
    return tmp_path / "cube.zarr", model.save(tmp_path / "model")


def test_a_map_is_priced(synthetic_cube, tmp_path, capsys):
    cube, model = make(synthetic_cube, tmp_path)
    assert call("explain", cube, "--model", model, "--block", 32) == 0
    said = capsys.readouterr().out
    assert "2 x 3 = 6 of up to 38 x 37 pixels" in said
    assert "in one process" in said
    assert call("explain", cube, "--model", model, "--halo", 64, "--no-probe") == 0
    assert "not probed" in capsys.readouterr().out
    assert call("explain", cube, "--model", model, "--block", 33) == 1
    assert "block=33" in capsys.readouterr().err


def test_a_map_has_its_uncertainty_where_it_is_asked_for(synthetic_cube, tmp_path):
    cube, model = make(synthetic_cube, tmp_path)
    for words, names in ((), set()), (("--uncertainty",), {"entropy", "margin"}):
        out = tmp_path / f"map{len(words)}.zarr"
        assert call("classify", cube, "--model", model, "--out", out, *words) == 0
        assert set(xr.open_zarr(out).data_vars) - {"lulc", "confidence"} == names
