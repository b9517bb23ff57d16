"""An interrupted call is continued by the same call, and the store is the same to the byte."""

import os
import signal
import subprocess
import sys
import threading

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from deepforest_xr.chips import ChipSpec, open_chips, write_chips
from deepforest_xr.chips.cut import Entry, Scene
from deepforest_xr.chips.resume import Unfinished
from deepforest_xr.errors import ChipError, WriteError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import LandCoverClass, Legend

LEGEND = Legend("two", tuple(LandCoverClass(c, f"class {c}", "#00ff00") for c in (4, 9)))
ROWS = 6
SPEC = ChipSpec(size=32)


def scene(seed=0, months=(6, 7)):
    """A cube of 6 x 4 chips and its labels, some chips without any."""
    grid = Grid.from_bounds((0, 0, 10 * 4 * 32, 10 * ROWS * 32), crs="EPSG:32721")
    rng = np.random.default_rng(seed)
    bands = ["B02", "B03", "B04"]
    data = {"s2": (("band", "y", "x"), rng.uniform(0, 1, (3, *grid.shape)).astype("float32"))}
    s1 = rng.uniform(-20, 0, (len(months), 2, *grid.shape)).astype("float32")
    data["s1"] = (("month", "polarization", "y", "x"), s1)
    coords = {"band": bands, "month": list(months), "polarization": ["vv", "vh"], **grid.coords()}
    codes = rng.choice(np.array([4, 9, 255], dtype="uint8"), grid.shape)
    codes[40:100, 20:70] = 255
    labels = xr.DataArray(codes, dims=("y", "x"), coords=grid.coords(), attrs=LEGEND.attrs())
    return xr.Dataset(data, coords=coords), labels


def files(store):
    """Every file of a store, to the byte."""
    return {p.relative_to(store): p.read_bytes() for p in store.rglob("*") if p.is_file()}


def failing(cube, row, error=RuntimeError):
    """The cube, but for a strip that cannot be read."""

    def block(values, block_info=None):
        if block_info[0]["chunk-location"][1] == row:
            raise error("scene is gone")
        return values

    lazy = cube.chunk({"y": 32})
    return lazy.assign(s2=lazy["s2"].copy(data=da.map_blocks(block, lazy["s2"].data, dtype="f4")))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """What calls that nothing interrupted write, by shard, spec and cells."""
    folder, known = tmp_path_factory.mktemp("straight"), {}

    def write(shard, cell):
        if (shard, cell) not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("deepforest_xr.chips.write.SHARD_BYTES", shard)
                path = folder / f"{shard}-{cell}" / "c"
                known[shard, cell] = files(write_chips(*scene(), path, spec=spec_of(cell)))
        return known[shard, cell]

    return write


def spec_of(cell):
    return ChipSpec(size=32, cell=cell)


CHIP_BYTES = 2 * (3 + 4) * 32 * 32


@settings(max_examples=12)
@given(
    fails=st.lists(st.integers(1, ROWS - 1), min_size=1, max_size=3).map(sorted),
    shard=st.sampled_from([1, 2, 3, 5, 7, 11, 1000]).map(lambda n: n * CHIP_BYTES),
    cell=st.sampled_from([None, None, 8]),
)
def test_a_continued_store_is_the_same_to_the_byte(tmp_path_factory, straight, fails, shard, cell):
    expected = straight(shard, cell)
    path = tmp_path_factory.mktemp("c") / "c"
    cube, labels = scene()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepforest_xr.chips.write.SHARD_BYTES", shard)
        for row in fails:
            with pytest.raises(WriteError, match=f"{row} strips of chips are kept") as caught:
                write_chips(failing(cube, row), labels, path, spec=spec_of(cell))
            assert "\n" not in str(caught.value)
            assert not path.exists()
        write_chips(cube, labels, path, spec=spec_of(cell))
    assert [p.name for p in path.parent.iterdir()] == ["c"]
    assert files(path) == expected


def test_chips_that_reached_their_shard_are_not_written_again(tmp_path):
    """A call may end between recording a strip and removing what earlier strips left."""
    work = Unfinished(tmp_path, tmp_path / "c")
    entry = Entry(0, 0, 0, 0, (1, 2))
    for row in range(3):
        chips = [{"s2": np.full((2, 3), 10 * row + n), "label": np.zeros(3)} for n in range(2)]
        work.commit(row, "", [entry, entry], chips, is_alone=False)
    assert [int(chip["s2"][0, 0]) for chip in work.pending(3)] == [11, 20, 21]
    assert work.pending(0) == []
    assert work.entries() == [entry] * 6


def test_it_goes_on_after_the_last_whole_strip(tmp_path, monkeypatch):
    cube, labels = scene()
    with pytest.raises(WriteError):
        write_chips(failing(cube, 4), labels, tmp_path / "c", spec=SPEC)
    read, seen, original = [], [], Scene.read_strip
    monkeypatch.setattr(Scene, "read_strip", lambda s, row: (read.append(row), original(s, row))[1])
    write_chips(cube, labels, tmp_path / "c", spec=SPEC, progress=lambda *n: seen.append(n))
    assert read == [0, 3, 4, 5]  # the first two only to see that they are what they were
    assert seen == [(5, 6), (6, 6)]


@pytest.mark.parametrize("at", ["_write_index", "_flush", "rename"])
def test_a_failure_at_the_end_costs_no_strip(tmp_path, monkeypatch, at):
    cube, labels = scene()
    write_chips(cube, labels, tmp_path / "straight" / "c", spec=SPEC)

    def fail(*_, **__):
        raise OSError("gone")

    target = {
        "_write_index": "deepforest_xr.chips.write._write_index",
        "_flush": "deepforest_xr.chips.write._Growing._flush",
        "rename": "deepforest_xr.chips.resume.staged",
    }[at]
    with monkeypatch.context() as patch:
        patch.setattr(target, fail)
        with pytest.raises(WriteError, match="6 strips of chips are kept"):
            write_chips(cube, labels, tmp_path / "c", spec=SPEC)
    write_chips(cube, labels, tmp_path / "c", spec=SPEC)
    assert files(tmp_path / "c") == files(tmp_path / "straight" / "c")


def other_pixel(cube, labels):
    turned = cube.copy(deep=True)
    turned["s2"][1, 70, 50] += 0.1
    return turned, labels, SPEC


def other_label(cube, labels):
    turned = labels.copy(deep=True)
    turned[2, 3] = 9 if int(turned[2, 3]) != 9 else 4
    return cube, turned, SPEC


@pytest.mark.parametrize(
    "change",
    [
        other_pixel,
        other_label,
        lambda cube, labels: (cube.assign_attrs(s2_period="2020"), labels, SPEC),
        lambda cube, labels: (cube.assign_coords(month=[1, 2]), labels, SPEC),
        lambda cube, labels: (cube, labels, ChipSpec(size=32, seed=1)),
        lambda cube, labels: (cube, labels, ChipSpec(size=32, buffer=0)),
        lambda cube, labels: (cube, labels, ChipSpec(size=64)),
    ],
)
def test_another_cube_is_refused_in_one_line_unless_it_may_overwrite(tmp_path, change):
    cube, labels = scene()
    with pytest.raises(WriteError):
        write_chips(failing(cube, 3), labels, tmp_path / "c", spec=SPEC)
    other, codes, spec = change(cube, labels)
    with pytest.raises(WriteError, match="holds unfinished chips of another cube") as caught:
        write_chips(other, codes, tmp_path / "c", spec=spec)
    assert "\n" not in str(caught.value)
    write_chips(other, codes, tmp_path / "new", spec=spec)
    write_chips(other, codes, tmp_path / "c", spec=spec, overwrite=True)
    assert files(tmp_path / "c") == files(tmp_path / "new")
    assert {p.name for p in tmp_path.iterdir()} == {"c", "new"}


def test_an_existing_store_stands_until_the_new_one_is_whole(tmp_path):
    cube, labels = scene()
    path = write_chips(cube, labels, tmp_path / "c", spec=SPEC)
    before = files(path)
    other = scene(seed=1)
    with pytest.raises(WriteError, match="2 strips of chips are kept"):
        write_chips(failing(other[0], 2), other[1], path, spec=SPEC, overwrite=True)
    assert files(path) == before
    with pytest.raises(WriteError, match="c exists"):
        write_chips(*other, path, spec=SPEC)
    write_chips(*other, path, spec=SPEC, overwrite=True)
    assert files(path) == files(write_chips(*other, tmp_path / "d", spec=SPEC))


def test_ctrl_c_is_no_write_error_and_keeps_what_is_whole(tmp_path):
    cube, labels = scene()

    def stop(done, _total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_chips(cube, labels, tmp_path / "c", spec=SPEC, progress=stop)
    seen = []
    write_chips(cube, labels, tmp_path / "c", spec=SPEC, progress=lambda *n: seen.append(n))
    assert seen[0] == (4, 6)


def test_nothing_is_kept_of_an_area_that_cannot_be_cut(tmp_path):
    cube, labels = scene()
    empty = labels.copy(data=np.full(labels.shape, 255, dtype="uint8"))
    with pytest.raises(ChipError):
        write_chips(cube, empty, tmp_path / "c", spec=SPEC)
    assert list(tmp_path.iterdir()) == []


def test_two_calls_at_once_are_refused(tmp_path):
    cube, labels = scene()
    refused = []

    def again(done, _total):
        if done == 2:
            with pytest.raises(WriteError, match="by another process: wait") as caught:
                write_chips(cube, labels, tmp_path / "c", spec=SPEC)
            refused.append(str(caught.value))

    write_chips(cube, labels, tmp_path / "c", spec=SPEC, progress=again)
    assert len(refused) == 1
    assert "\n" not in refused[0]
    assert len(open_chips(tmp_path / "c").split) > 10


KILLED = """
import os, sys, time
sys.path.insert(0, sys.argv[2])
from test_resume import SPEC, scene
from deepforest_xr.chips import write_chips

def stop(done, total):
    if done == 3:
        print("three", flush=True)
        time.sleep(60)

write_chips(*scene(), sys.argv[1], spec=SPEC, progress=stop)
"""


def test_a_killed_call_is_continued(tmp_path):
    here = os.path.dirname(__file__)  # noqa: PTH120
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "c"), here], stdout=subprocess.PIPE, text=True
    )
    guard = threading.Timer(50, process.kill)
    guard.start()
    assert process.stdout.readline() == "three\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    guard.cancel()
    assert not (tmp_path / "c").exists()
    seen = []
    write_chips(*scene(), tmp_path / "c", spec=SPEC, progress=lambda *n: seen.append(n))
    assert seen[0] == (4, 6)
    assert files(tmp_path / "c") == files(write_chips(*scene(), tmp_path / "d", spec=SPEC))
    assert {p.name for p in tmp_path.iterdir()} == {"c", "d"}
