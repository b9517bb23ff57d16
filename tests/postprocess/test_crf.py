"""The dense CRF: against exact kernels, against itself in other blocks, and what it refuses.

Where pydensecrf2 is not installed, a stand-in with exact kernels carries all but the tests of
its lattice.
"""

import sys

import numpy as np
import pytest

import deepforest_xr as dfx
from deepforest_xr.errors import (
    BandMismatchError,
    ConfigError,
    GridError,
    MissingExtraError,
)
from deepforest_xr.postprocess import CrfSettings, dense_crf
from deepforest_xr.postprocess.crf import _on_lattice, mean_field
from deepforest_xr.testing import no_compute

from . import exact_field
from .conftest import CODES, LEGEND, cube_of, map_of, percent_of

QUICK = CrfSettings(bilateral_sdims=3)


def field(seed=0, shape=(24, 30), **options):
    percent, truth = percent_of(shape, seed=seed, **options)
    return percent, truth, cube_of(truth)


def test_the_defaults_are_the_papers():
    s = CrfSettings()
    assert (s.iterations, s.gaussian_sxy, s.gaussian_compat) == (10, 1, 3)
    assert (s.bilateral_sdims, s.bilateral_schan, s.bilateral_compat) == (10, 0.01, 4)


def test_noise_goes_where_the_reflectance_says_so(exact_library):
    percent, truth, cube = field()
    result = map_of(percent=percent)
    there = result.lulc.to_numpy() > 0
    found = dense_crf(result, cube, settings=QUICK)
    before, after = ((r.lulc.to_numpy() == truth)[there].mean() for r in (result, found))
    assert before < 0.75
    assert after > before + 0.1
    shown = found.probability.to_numpy().argmax(0)[there]
    np.testing.assert_array_equal(np.array(CODES)[shown], found.lulc.to_numpy()[there])
    np.testing.assert_array_equal(found.confidence, found.probability.max("class"))
    assert (found.lulc.to_numpy()[~there] == 0).all()
    assert found.attrs["postprocess"] == (
        f"dense_crf(unary=probability, image=reflectance, iterations={QUICK.iterations}, "
        "gaussian_sxy=1.0, gaussian_compat=3.0, bilateral_sdims=3, bilateral_schan=0.01, "
        "bilateral_compat=4.0, certainty=0.7, halo=64)"
    )


def test_what_has_no_data_or_no_reflectance_has_no_voice(exact_library):
    percent, _, cube = field()
    cube["s2"][1, 5:9, 10:14] = np.nan
    percent[:, 15:18, 3:8] = 0
    found = dense_crf(map_of(percent=percent), cube, settings=QUICK)
    hidden = np.zeros(percent.shape[1:], bool)
    hidden[5:9, 10:14] = hidden[15:18, 3:8] = True
    before = map_of(percent=percent)
    for name in ("lulc", "confidence"):
        np.testing.assert_array_equal(found[name].values[hidden], before[name].values[hidden])
    other = percent.copy()
    other[:, 5:9, 10:14] = np.array([0, 0, 0, 100], "uint8")[:, None, None]
    again = dense_crf(map_of(percent=other), cube, settings=QUICK)
    np.testing.assert_array_equal(again.lulc.values[~hidden], found.lulc.values[~hidden])


def test_bands_are_taken_by_name(exact_library):
    percent, _, cube = field(shape=(14, 17))
    result = map_of(percent=percent)
    two = dense_crf(result, cube.isel(band=[0, 2]), settings=QUICK)
    named = dense_crf(result, cube, bands=["B02", "B00"], settings=QUICK)
    np.testing.assert_array_equal(named.probability, two.probability)


def test_labels_alone_make_the_papers_field(exact_library):
    percent, _, _ = field(shape=(14, 17))
    result = map_of(percent=percent)
    bare = result.drop_vars("probability")
    weak = CrfSettings(bilateral_compat=0.0, gaussian_compat=6.0, certainty=0.5)
    for settings in (None, weak):
        found = dense_crf(bare, paper=True, settings=settings)
        expected = exact_labels(result.lulc.to_numpy(), settings or CrfSettings())
        np.testing.assert_array_equal(found.lulc, expected)
    assert (expected != result.lulc).any()
    step = found.attrs["postprocess"]
    assert step.startswith("dense_crf(unary=labels, image=labels, iterations=")
    assert step.endswith("bilateral_compat=0.0, certainty=0.5, halo=64)")
    both = dense_crf(result, paper=True)
    np.testing.assert_array_equal(both.probability, percent)
    with pytest.raises(ConfigError, match="would undo dense_crf"):
        dfx.postprocess.bayesian_smoothing(both)


def exact_labels(lulc, settings):
    """The published field written again: classes, their positions, exact kernels."""
    at = np.argwhere(lulc > 0)
    own = np.array([CODES.index(int(c)) for c in lulc[lulc > 0]])
    share = np.full((4, len(own)), (1 - settings.certainty) / 3)
    share[own, np.arange(len(own))] = settings.certainty
    crf = exact_field.DenseCRF(len(own), 4)
    crf.setUnaryEnergy(-np.log(share).astype("float32"))
    crf.addPairwiseEnergy(at.T.astype("float32"), settings.gaussian_compat)
    alike = np.concatenate([at.T / settings.bilateral_sdims, own[None] / 0.01])
    crf.addPairwiseEnergy(alike.astype("float32"), settings.bilateral_compat)
    result = lulc.copy()
    result[lulc > 0] = np.array(CODES)[crf.inference(settings.iterations).argmax(0)]
    return result


def test_blocks_with_a_halo_agree_with_one_pass_of_exact_kernels(exact_library):
    percent, _, cube = field(shape=(20, 40))
    cube = cube_of(np.zeros((20, 40), int))  # one colour: the kernel reaches as far as it can
    result = map_of(percent=percent)
    short = CrfSettings(bilateral_sdims=1.5, iterations=2)
    whole = dense_crf(result, cube, settings=short, block=64)
    parts = dense_crf(result, cube, settings=short, block=13, halo=14)
    np.testing.assert_array_equal(parts.probability, whole.probability)
    cut = dense_crf(result, cube, settings=short, block=13, halo=0)
    assert (cut.probability != whole.probability).any()


def test_the_map_stays_a_lazy_map(exact_library):
    percent, _, cube = field(shape=(21, 33))
    result = map_of(percent=percent, chunks=(8, 10))
    lazy = cube.chunk(y=7, x=20)
    with no_compute():
        found = dense_crf(result, lazy, settings=QUICK, block=16, halo=8)
        paper = dense_crf(result, paper=True)
    for name in ("lulc", "confidence", "probability"):
        assert found[name].chunksizes["y"] == (8, 8, 5)
        assert found[name].chunksizes["x"] == (10, 10, 10, 3)
    assert paper.lulc.chunks == result.lulc.chunks
    eager = dense_crf(map_of(percent=percent), cube, settings=QUICK, block=16, halo=8)
    assert eager.lulc.chunks is None
    np.testing.assert_array_equal(found.lulc, eager.lulc)


@pytest.mark.parametrize("channels", [0, 1, 10])
@pytest.mark.parametrize("sigma", [1.0, 10.0])
def test_a_block_elsewhere_counts_from_a_corner_of_the_same_lattice(channels, sigma):
    # Elevation of Adams et al. (2010), p. 5, in pydensecrf's scale: columns of E.
    d = 2 + channels
    elevate = np.zeros((d + 1, d))
    for j in range(d):
        elevate[: j + 1, j], elevate[j + 1, j] = 1, -(j + 1)
        elevate[:, j] *= np.sqrt(2 / 3) * (d + 1) / np.sqrt((j + 1) * (j + 2))
    rows, cols = np.meshgrid(np.arange(40.0), np.arange(60.0), indexing="ij")
    at = np.stack([rows.ravel(), cols.ravel()])
    for corner in ([0, 0], [5000, 0], [0, 9999], [1234, 777]):
        here = at + np.array(corner)[:, None]
        near = _on_lattice(here, sigma)
        assert near.min() >= 0
        assert (near.min(1) < 3).all()
        moved = elevate[:, :2] @ (here / sigma - near)
        np.testing.assert_allclose(moved / (d + 1), np.rint(moved / (d + 1)), atol=1e-6)


def test_the_lattice_is_close_to_exact_kernels():
    pytest.importorskip("pydensecrf.densecrf", reason="needs the extra crf")
    percent, truth, cube = field(shape=(30, 34))
    there = percent.any(0)
    at = np.argwhere(there).T.astype("float64")
    shares, channels = percent[:, there] / 100, cube["s2"].to_numpy()[:, there].astype("float64")
    ours = mean_field(shares, at, channels, CrfSettings())
    exact = exact_field.DenseCRF(shares.shape[1], 4)
    exact.setUnaryEnergy(-np.log(np.maximum(shares, 0.0025)).astype("float32"))
    exact.addPairwiseEnergy(at.astype("float32"), 3)
    exact.addPairwiseEnergy(np.concatenate([at / 10, channels / 0.01]).astype("float32"), 4)
    expected = exact.inference(10)
    np.testing.assert_allclose(ours.sum(0), 1, atol=1e-5)
    assert (ours.argmax(0) == expected.argmax(0)).mean() > 0.9
    right = (np.array(CODES)[ours.argmax(0)] == truth[there]).mean()
    assert right > (np.array(CODES)[shares.argmax(0)] == truth[there]).mean() + 0.1


@pytest.mark.parametrize("settings", [CrfSettings(), CrfSettings(unary="labels")])
def test_blocks_agree_with_one_pass(settings):
    pytest.importorskip("pydensecrf.densecrf", reason="needs the extra crf")
    percent, _, cube = field(shape=(90, 110), patches=8.0)
    result = map_of(percent=percent)
    whole = dense_crf(result, cube, settings=settings, block=200)
    parts = dense_crf(result, cube, settings=settings, block=40, halo=32)
    cut = dense_crf(result, cube, settings=settings, block=40, halo=0)
    there = whole.lulc > 0
    assert ((parts.lulc == whole.lulc) | ~there).mean() > 0.9999
    assert (cut.lulc != whole.lulc).sum() > (parts.lulc != whole.lulc).sum()


def test_what_it_cannot_do_is_one_line(exact_library, monkeypatch):
    percent, _, cube = field(shape=(5, 7))
    result = map_of(percent=percent)
    with pytest.raises(ConfigError, match="probability=True"):
        dense_crf(result.drop_vars("probability"), cube)
    with pytest.raises(ConfigError, match="needs the cube"):
        dense_crf(result)
    with pytest.raises(GridError, match="another grid"):
        dense_crf(result, cube.isel(x=slice(1, None)))
    with pytest.raises(BandMismatchError, match="lacks B09; it has B00, B01, B02"):
        dense_crf(result, cube, bands=["B01", "B09"])
    with pytest.raises(BandMismatchError, match="no `s2`"):
        dense_crf(result, cube.drop_vars("s2"))
    with pytest.raises(ConfigError, match="halo=-1"):
        dense_crf(result, cube, halo=-1)
    with pytest.raises(ConfigError, match="would undo majority"):
        dense_crf(dfx.postprocess.majority(result), cube)
    for wrong in (
        {"iterations": 0}, {"certainty": 1}, {"bilateral_schan": 0}, {"gaussian_sxy": np.nan},
        {"unary": "softmax"}, {"image": "argmax"},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))}="):
            CrfSettings(**wrong)
    many = [c.__class__(i + 1, f"c{i}", c.color) for i, c in enumerate(LEGEND.classes * 26)]
    attrs = dfx.Legend("many", tuple(many)).attrs()
    with pytest.raises(ConfigError, match="104 classes"):
        dense_crf(result.assign(lulc=result.lulc.assign_attrs(attrs)), paper=True)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(MissingExtraError, match=r"deepforest-xr\[crf\]"):
        dense_crf(result, cube)
