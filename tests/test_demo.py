"""The whole path in one call, on simulated and on real scenes."""

import dataclasses
import json

import pandas as pd
import pytest
import rasterio
import xarray as xr

from deepforest_xr.chips import open_chips
from deepforest_xr.demo import OUTPUTS, DemoSettings, run_demo
from deepforest_xr.errors import ConfigError, DeepForestError, LabelError, NoItemsError
from deepforest_xr.grid import Grid

TINY = DemoSettings(model="u-net", size=160, chip=32, epochs=1, dataset="S2")
TERRAMESH = {"site": "433D_629L_3_1", "dataset": "S2"}
FLANDERS = {"site": "00002806639B424A", "dataset": "S1TsS2_12"}

pytestmark = pytest.mark.usefixtures("narrow", "small_halo")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished demo on simulated scenes."""
    return run_demo(tmp_path_factory.mktemp("demo") / "d", TINY)


def times(folder):
    """When each file was written last."""
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_every_result_is_there(done):
    assert {p.name for p in done.out.iterdir()} == set(OUTPUTS)
    with xr.open_zarr(done.out / "map.zarr") as lulc, rasterio.open(done.out / "map.tif") as cog:
        assert (lulc["lulc"].to_numpy() == cog.read(1)).all()
        assert lulc.attrs["simulated"] == "true"
        assert cog.crs.to_epsg() == 32721
    item = json.loads((done.out / "map.json").read_text())
    assert item["assets"].keys() >= {"lulc", "confidence", "preview"}


def test_the_report_says_simulated_and_gives_scores_beside_the_majority_class(done):
    text = (done.out / "report.md").read_text()
    assert "**Simulated scenes**" in text
    assert done.report.simulated
    for report in (done.report, done.truth):
        scores = report.scores
        assert 0 <= scores.overall_accuracy <= 1
        assert f"| {scores.overall_accuracy:.1%} | {scores.majority_baseline:.1%} |" in text
    assert json.loads((done.out / "accuracy.json").read_text())


def test_scores_count_held_out_blocks_only(done):
    chips = open_chips(done.out / "chips.zarr")
    held_out = chips.mask("test", (160, 160))
    assert done.truth.scores.pixels == held_out.sum()
    assert done.report.scores.pixels <= held_out.sum()
    truth = rasterio.open(done.out / "scenes" / "truth.tif").read(1)
    with xr.open_zarr(done.out / "map.zarr") as lulc:
        hits = (lulc["lulc"].to_numpy() == truth)[held_out].mean()
    assert done.truth.scores.overall_accuracy == pytest.approx(hits)


def test_called_again_it_continues_and_makes_nothing_twice(done):
    before = times(done.out)
    kept = ("cube.zarr", "chips.zarr", "run", "map.zarr")
    again = run_demo(done.out, TINY)
    after = times(done.out)
    assert before.keys() == after.keys()
    for path, when in before.items():
        if path.relative_to(done.out).parts[0] in kept:
            assert after[path] == when, path
    assert again.report.to_markdown() == done.report.to_markdown()


def test_an_interrupted_demo_goes_on_where_it_was(tmp_path, done, monkeypatch):
    import shutil

    out = tmp_path / "d"
    shutil.copytree(done.out, out)
    for name in ("map.zarr", "report.md"):
        shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()

    def fail(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("deepforest_xr.demo.run.write_zarr", fail)
        with pytest.raises(KeyboardInterrupt):
            run_demo(out, TINY)
    chips = times(out / "chips.zarr")
    result = run_demo(out, TINY)
    assert times(out / "chips.zarr") == chips
    assert result.report.to_markdown() == done.report.to_markdown()


def test_other_settings_and_foreign_files_are_refused(done, tmp_path):
    with pytest.raises(ConfigError, match="a demo of other settings"):
        run_demo(done.out, dataclasses.replace(TINY, seed=1))
    (tmp_path / "report.md").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"'report\.md' that no demo wrote"):
            run_demo(tmp_path, TINY, overwrite=overwrite)
    assert (tmp_path / "report.md").read_text() == "mine"


def test_overwrite_begins_anew_and_leaves_what_is_not_the_demos(done, tmp_path):
    import shutil

    out = tmp_path / "d"
    shutil.copytree(done.out, out)
    (out / "notes.txt").write_text("mine")
    begun = times(out)
    settings = dataclasses.replace(TINY, site=None, size=96)
    result = run_demo(out, settings, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    with xr.open_zarr(out / "map.zarr") as lulc:
        assert Grid.of(lulc).shape == (96, 96)
    assert times(out)[out / "chips.zarr" / "zarr.json"] > begun[out / "chips.zarr" / "zarr.json"]
    assert result.report.scores.pixels > 0


def on_real(shared_data, name, out, site):
    items = shared_data / "real" / name / "items.json"
    if not items.exists():
        pytest.skip(f"{items} is not there")
    settings = DemoSettings(items=str(items), model="u-net", epochs=1, **site)
    result = run_demo(out, settings)
    text = (out / "report.md").read_text()
    assert "Real scenes" in text
    assert "simulated" not in text.lower()
    assert not result.report.simulated
    assert result.truth is None
    chips = open_chips(out / "chips.zarr")
    assert 0 < result.report.scores.pixels <= chips.class_counts("test").sum()
    assert 0 < result.report.scores.overall_accuracy <= 1
    assert (out / "map.png").stat().st_size > 0
    return chips


def test_real_sentinel_2_of_terramesh(shared_data, tmp_path):
    chips = on_real(shared_data, "terramesh", tmp_path / "d", TERRAMESH)
    assert chips.months is None


def test_a_real_year_of_both_sensors_over_flanders(shared_data, tmp_path):
    chips = on_real(shared_data, "worldcereal_series", tmp_path / "d", FLANDERS)
    assert chips.months == tuple(range(1, 13))
    table = pd.read_csv(tmp_path / "d" / "run" / "metrics.csv")
    assert table["train_loss"].notna().any()


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"site": "nowhere"}, ConfigError, "site='nowhere' is not among"),
        ({"datetime": "1999-01"}, NoItemsError, "no scene in 1999-01"),
        ({"dataset": "S3"}, ConfigError, "dataset='S3' is unknown"),
        ({"labels": "LABELS"}, LabelError, "do not overlap"),
        ({"legend": "absent.csv"}, ConfigError, "the codes of"),
        ({"model": "resnet"}, ConfigError, "'resnet' is unknown"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(shared_data, done, tmp_path, changes, error, says):
    changes = {k: str(done.out / "scenes/truth.tif") if v == "LABELS" else v
               for k, v in changes.items()}  # fmt: skip
    if "labels" in changes:
        changes["collection"] = 8
    items = shared_data / "real" / "terramesh" / "items.json"
    asked = {"model": "u-net"} | TERRAMESH | changes
    with pytest.raises(error, match=says) as caught:
        run_demo(tmp_path / "d", DemoSettings(items=str(items), epochs=1, **asked))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "d" / "map.zarr").exists()
    assert isinstance(caught.value, DeepForestError)


def test_half_a_scene_file_is_one_line_and_no_cube(done, tmp_path):
    import shutil

    folder = tmp_path / "scenes"
    shutil.copytree(done.out / "scenes", folder)
    for broken in folder.rglob("*B08*.tif"):
        broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    settings = dataclasses.replace(
        TINY, items=str(folder / "items.json"), labels=str(folder / "mapbiomas.tif"), collection=8
    )
    with pytest.raises(DeepForestError) as caught:
        run_demo(tmp_path / "d", settings)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["demo.json"]
