"""The experiments on real data: sites, splits, the reference scores, the page."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.metrics import accuracy_score, f1_score

from benchmarks.real import methods, page, splits
from benchmarks.real import sites as sites_module
from benchmarks.real.__main__ import arguments, jobs
from benchmarks.real.experiments import Experiment, plan
from benchmarks.real.sites import Site, find, open_sites
from deepforest_xr.chips import open_chips
from deepforest_xr.legend import UNLABELLED, LandCoverClass, Legend

BRAZIL, DENMARK = "282D_485L_3_3", "637U_59R_1_3"
REFERENCE = {BRAZIL: (0.882, 0.656), DENMARK: (0.880, 0.272)}
"""OA and macro F1 of a forest of 200 trees, by the README of the data."""

LEGEND = Legend(
    "three", tuple(LandCoverClass(c, n, "#808080") for c, n in ((1, "a"), (4, "b"), (9, "c")))
)


@pytest.fixture(scope="module")
def tiles(shared_data, tmp_path_factory):
    """Two of the real tiles."""
    work = tmp_path_factory.mktemp("tiles")
    return open_sites(shared_data / "real", work, only=(BRAZIL, DENMARK))


@pytest.fixture
def site(synthetic_cube):
    """A site in memory, labels in stripes of all classes; every 7th column is unlabelled."""

    def make(name, *, is_series=False, codes=(1, 4, 9), seed=0):
        cube = synthetic_cube((64, 96), months=(1, 2), bands=("B03", "B04", "B08"), seed=seed)
        stripes = np.array(codes, dtype="uint8")[np.arange(64) // 4 % len(codes)]
        labels = np.repeat(stripes[:, None], 96, axis=1)
        labels[:, ::7] = UNLABELLED
        array = xr.DataArray(labels, dims=("y", "x"), coords=cube["s2"][0].drop_vars("band").coords)
        array.attrs = LEGEND.attrs()
        return Site("group", name, None, is_series, cube, array, LEGEND)

    return make


def test_every_site_with_scenes_and_labels_is_found(shared_data):
    found = {
        (items.parent.name, name): labels for items, name, labels in find(shared_data / "real")
    }
    assert {group for group, _ in found} == {"terramesh", "worldcereal_series"}
    assert len(found) == 6
    for (_, name), labels in found.items():
        assert labels.exists()
        assert labels.stem == name


def test_a_new_folder_of_the_same_layout_is_found(tmp_path):
    folder = tmp_path / "more"
    (folder / "labels").mkdir(parents=True)
    (folder / "labels" / "here.tif").touch()
    scenes = [("here", "sentinel-2-l2a"), ("unlabelled", "sentinel-2-l2a"), ("radar", "sentinel-1")]
    features = [{"collection": c, "properties": {"site": s}} for s, c in scenes]
    (folder / "items.json").write_text(json.dumps({"features": features}))
    assert [(i.parent.name, name) for i, name, _ in find(tmp_path)] == [("more", "here")]


def test_what_a_site_cannot_test_is_said(site):
    sites = [site("a"), site("b"), site("c", codes=(9,))]
    experiments, notes = plan(sites)
    assert {e.family for e in experiments} == {"A1", "A2", "B"}
    crossed = {(e.train, e.test) for e in experiments if e.family == "B"}
    assert crossed == {(("b",), "a"), (("a",), "b")}
    assert len(notes) == 1
    assert notes[0].startswith("c (group) is left out")


@pytest.mark.parametrize("name", [BRAZIL, DENMARK])
def test_the_forest_gives_the_reference_scores(tiles, name, tmp_path):
    by_name = {s.name: s for s in tiles}
    experiment = next(e for e in plan(tiles)[0] if (e.family, e.test) == ("A2", name))
    dealt = splits.split(experiment, tiles, tmp_path)
    mapped = methods.forest_map(experiment, by_name, dealt, trees=40)
    labels = by_name[name].labels.to_numpy()
    truth, told = labels[:, 134:].ravel(), mapped[:, 134:].ravel()
    assert accuracy_score(truth, told) == pytest.approx(REFERENCE[name][0], abs=0.02)

    result = {
        **methods._facts(methods.Job(experiment, methods.FOREST), by_name, dealt),
        "counts": methods.counts(mapped, by_name[name], dealt.test).tolist(),
        "seconds": 1.0,
    }
    row = page.rows([result])[0]
    assert row.pixels == truth.size
    assert row.overall == pytest.approx(accuracy_score(truth, told))
    present = np.unique(truth)
    f1 = f1_score(truth, told, labels=present, average="macro", zero_division=0)
    assert row.macro_f1 == pytest.approx(f1)
    assert row.macro_f1 == pytest.approx(REFERENCE[name][1], abs=0.03)


@pytest.mark.parametrize("family", ["A1", "A2", "C2"])
def test_no_test_pixel_trains(site, family, tmp_path):
    sites = [site("a", is_series=family == "C2")]
    for experiment in plan(sites)[0]:
        if experiment.family != family:
            continue
        dealt = splits.split(experiment, sites, tmp_path)
        (part,) = dealt.parts
        used = part.train.astype(int) + part.validation + dealt.test
        assert used.max() == 1
        assert part.train.any()
        assert part.validation.any()
        assert dealt.test.any()
        labelled = (sites[0].labels != UNLABELLED).to_numpy()
        if family == "A1":
            assert not used[~labelled].any()
        else:
            assert len(open_chips(part.chips).indices("train")) == 1
            assert (used[:, :57] == labelled[:, :57])[:64].all()
            assert not (part.train | part.validation)[:, 57:].any()
            assert (dealt.test == (labelled & (np.arange(96) >= 57))).all()


@pytest.mark.parametrize("family", ["B", "C1"])
def test_no_pixel_of_the_site_left_out_trains(site, family, tmp_path):
    sites = [site(n, is_series=family == "C1", seed=i) for i, n in enumerate("abc")]
    experiment = next(e for e in plan(sites)[0] if (e.family, e.test) == (family, "b"))
    dealt = splits.split(experiment, sites, tmp_path)
    assert [p.site for p in dealt.parts] == ["a", "c"]
    assert (dealt.test == (sites[1].labels != UNLABELLED)).all()
    for part in dealt.parts:
        source = sites["abc".index(part.site)].cube["s2"].to_numpy()
        chips = open_chips(part.chips)
        held = chips.read(0)["s2"]
        np.testing.assert_allclose(held, source[:, : held.shape[1], : held.shape[2]], atol=1e-4)


def test_seasons_are_bands_of_their_own(site, monkeypatch):
    year = site("a").cube
    cloudy = year.assign(s2=(year["s2"] + 1).where(year["x"] > year["x"][4]))
    monkeypatch.setattr(sites_module, "open_cube", lambda *_, **__: cloudy)
    scenes = [SimpleNamespace(datetime=pd.Timestamp("2020-03-05"))]
    seasons = sites_module._seasons(scenes, None, ["B03", "B04", "B08"], year)["s2"]
    assert seasons.dims == ("band", "y", "x")
    assert seasons["band"].size == 18
    np.testing.assert_array_equal(seasons.sel(band="B04_1"), year["s2"].sel(band="B04"))
    march = seasons.sel(band="B04_3")
    np.testing.assert_array_equal(march[:, 5:], year["s2"].sel(band="B04")[:, 5:] + 1)
    np.testing.assert_array_equal(march[:, :5], year["s2"].sel(band="B04")[:, :5])


def test_chips_of_the_left_part_hold_no_pixel_of_the_right_one(site):
    one = site("a")
    cube, labels = splits.left_part(one.cube, one.labels)
    for name in ("s2", "s1"):
        ours, source = cube[name].to_numpy(), one.cube[name].to_numpy()
        np.testing.assert_array_equal(ours[..., :57], source[..., :57])
        np.testing.assert_array_equal(ours[..., 57:], source[..., 56:17:-1])
    assert (labels[:, 57:] == UNLABELLED).all()
    xr.testing.assert_identical(labels[:, :57], one.labels[:, :57])


def result(method, counts, **changes):
    facts = {
        "family": "B", "group": "g", "test": "t", "train": ["u"], "dataset": "S2", "bands": ["B04"],
        "method": method, "seed": 0, "codes": [1, 4, 9], "names": ["a", "b", "c"],
        "train_counts": [5, 0, 3], "train_pixels": 6, "validation_pixels": 2, "test_pixels": 10,
        "seconds": 1.5, "counts": counts,
    }  # fmt: skip
    return {**facts, **changes}


def test_the_page_says_where_a_network_loses_and_what_no_training_pixel_shows():
    forest = result(methods.FOREST, [[6, 0, 0], [0, 0, 0], [0, 3, 1]])
    network = result("u-net", [[5, 0, 0], [1, 0, 0], [0, 3, 1]])
    text = page.page([forest, network], [], ["x is left out."], missing=["u-net in 2 of 3"])
    assert "**Not run yet**: u-net in 2 of 3." in text
    assert "| u-net | random forest | 1 | 1 | 1 | B t S2 |" in text
    assert "| t | S2 | random forest | **70.0** | 46.7 | 8 | 10 | 2 |" in text
    assert "| t | S2 | u-net | 60.0 |" in text
    assert "t: no training pixel shows b" in text
    assert "- x is left out." in text


def test_seeds_are_averaged():
    first = result("u-net", [[6, 0, 0], [0, 0, 0], [0, 3, 1]])
    second = result("u-net", [[4, 0, 0], [0, 2, 0], [2, 1, 1]], seed=1)
    (row,) = page.rows([first, second])
    assert row.overall == pytest.approx(0.7)
    assert row.seeds == 2
    assert "u-net (2 seeds)" in page.page([first, second], [], [])


def test_a_result_of_other_settings_is_not_done(tmp_path):
    experiment = Experiment("B", ("u",), "t", "S2", ("B04",))
    job = methods.Job(experiment, "u-net")
    assert not methods.is_done(job, tmp_path)
    (tmp_path / "results").mkdir()
    path = tmp_path / "results" / f"{job.name}.json"
    path.write_text(json.dumps({"settings": methods.CHOSEN.to_dict()}))
    assert methods.is_done(job, tmp_path)
    path.write_text(json.dumps({"settings": {"learning_rate": 0.5}}))
    assert not methods.is_done(job, tmp_path)


def test_methods_are_given_what_they_take():
    bands, given = ("B04",), arguments(["--networks", "u-net", "deepforest-2b"])
    experiments = [Experiment("C1", ("u",), "t", d, bands) for d in ("S2", "S1TsS2_12", "S2x6")]
    taken = {(j.method, j.experiment.dataset) for j in jobs(experiments, given)}
    baselines = {(m, e.dataset) for m in (methods.MAJORITY, methods.FOREST) for e in experiments}
    networks = {("u-net", "S2"), ("u-net", "S1TsS2_12"), ("deepforest-2b", "S1TsS2_12")}
    assert taken == baselines | networks


def test_names_of_results_tell_experiments_apart():
    bands = ("B04",)
    jobs = {
        methods.Job(Experiment(f, ("a",), t, d, bands), m, seed).name
        for f in ("A1", "A2")
        for t in ("a", "b")
        for d in ("S2", "S2+S1")
        for m in (methods.FOREST, "u-net")
        for seed in (0, 1)
    }
    assert len(jobs) == 24
