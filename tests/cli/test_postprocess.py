"""``deepforest-xr postprocess``: the steps in their order, and what is refused."""

import numpy as np
import pytest
import xarray as xr

import deepforest_xr as dfx
from deepforest_xr.legend import amazon13

from .conftest import call


@pytest.fixture
def stores(synthetic_cube, tmp_path, monkeypatch):
    """A cube and a noisy map of it, as `cube` and `classify --probability` leave them."""
    monkeypatch.chdir(tmp_path)
    cube = synthetic_cube((48, 64))
    legend = amazon13()
    share = np.random.default_rng(0).dirichlet(np.full(13, 0.3), (48, 64)).transpose(2, 0, 1)
    percent = np.rint(100 * share).astype("uint8")
    lulc = np.array(legend.codes, "uint8")[percent.argmax(0)]
    result = xr.Dataset(
        {
            "lulc": (("y", "x"), lulc, legend.attrs()),
            "confidence": (("y", "x"), percent.max(0)),
            "probability": (("class", "y", "x"), percent),
        },
        coords={**cube.drop_vars("s2").drop_vars("band").coords, "class": legend.names},
    )
    dfx.write_zarr(cube.chunk(y=32, x=32), "cube.zarr")
    dfx.write_zarr(result.chunk(y=32, x=32), "map.zarr")
    dfx.write_zarr(result.drop_vars("probability"), "bare.zarr")
    return result


def test_the_steps_are_those_of_the_library(stores):
    words = ("map.zarr", "--smooth", "bayes", "--window", 5, "--smoothness", 7, "--mmu", 0.03,
             "--connectivity", 8, "--out", "out.zarr", "--cog", "out.tif",
             "--picture", "out.png")  # fmt: skip
    assert call("postprocess", *words) == 0
    steps = dfx.postprocess
    expected = steps.bayesian_smoothing(stores, window=5, smoothness=7)
    expected = steps.minimum_mapping_unit(expected, 0.03, connectivity=8)
    written = xr.open_zarr("out.zarr")
    np.testing.assert_array_equal(written.lulc, expected.lulc)
    assert written.attrs["postprocess"] == expected.attrs["postprocess"]
    assert call("postprocess", "bare.zarr", "--smooth", "majority", "--out", "m.zarr") == 0
    np.testing.assert_array_equal(xr.open_zarr("m.zarr").lulc, steps.majority(stores).lulc)


def test_the_crf_comes_first(stores, monkeypatch):
    calls = []

    def stand_in(result, cube, *, paper):
        calls.append(("s2" in cube if cube is not None else None, paper))
        return result.assign_attrs(postprocess="crf")

    monkeypatch.setattr("deepforest_xr.postprocess.dense_crf", stand_in)
    words = ("map.zarr", "--mmu", 0.03, "--smooth", "majority", "--crf", "reflectance")
    assert call("postprocess", *words, "--cube", "cube.zarr", "--out", "out.zarr") == 0
    assert xr.open_zarr("out.zarr").attrs["postprocess"] == (
        "crf; majority(size=3); minimum_mapping_unit(hectares=0.03, connectivity=4, passes=2)"
    )
    assert call("postprocess", "bare.zarr", "--crf", "paper", "--out", "p.zarr") == 0
    assert calls == [(True, False), (None, True)]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--crf", "reflectance"),
        ("--crf", "krf"),
        ("--smooth", "median"),
        ("--crf", "paper", "--cube", "cube.zarr"),
        ("--crf", "paper", "--smooth", "bayes"),
        ("--mmu", 1, "--window", 3),
        ("--smooth", "majority", "--smoothness", 3),
    ],
)
def test_wrong_usage_is_2(stores, words):
    assert call("postprocess", "map.zarr", "--out", "out.zarr", *words) == 2


def test_what_cannot_be_is_one_line(stores, lines, tmp_path):
    for words, says in [
        (("bare.zarr", "--smooth", "bayes"), "probability"),
        (("map.zarr", "--smooth", "majority", "--window", 4), "size=4"),
        (("nothing.zarr", "--mmu", 1), "nothing.zarr"),
        (("cube.zarr", "--mmu", 1), "no variable `lulc`"),
    ]:
        code, out, err = lines("postprocess", *words, "--out", "out.zarr")
        assert (code, out) == (1, [])
        assert says in err[-1]
        assert not (tmp_path / "out.zarr").exists()
    code, _, err = lines("postprocess", "map.zarr", "--mmu", 1, "--out", "bare.zarr")
    assert code == 1
    assert "exists" in err[-1]
