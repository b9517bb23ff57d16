"""A fingerprint says what the pixels are: the same for the same, another for any other."""

import numpy as np
import pytest
import xarray as xr
import zarr

from deepforest_xr.chips import ChipSpec, open_chips, write_chips
from deepforest_xr.errors import WriteError
from deepforest_xr.legend import LandCoverClass, Legend

LEGEND = Legend("two", tuple(LandCoverClass(c, f"class {c}", "#00ff00") for c in (4, 9)))
SPEC = ChipSpec(size=32)


def scene(synthetic_cube, shape=(101, 170)):
    cube = synthetic_cube(shape, months=(6, 7), bands=("B02", "B03", "B04"))
    rng = np.random.default_rng(2)
    coords = {name: cube.coords[name] for name in ("y", "x", "spatial_ref")}
    codes = rng.choice(np.array([4, 9, 255], dtype="uint8"), shape)
    labels = xr.DataArray(codes, dims=("y", "x"), coords=coords, attrs=LEGEND.attrs())
    return cube, labels, labels.copy(data=rng.random(shape, dtype="float32"))


def fingerprint(cube, labels, path, *, weights=None, spec=SPEC):
    return open_chips(write_chips(cube, labels, path, weights=weights, spec=spec)).fingerprint


def test_it_follows_from_the_pixels_alone(synthetic_cube, tmp_path, monkeypatch):
    cube, labels, weights = scene(synthetic_cube)
    first = fingerprint(cube, labels, tmp_path / "a", weights=weights)
    assert len(first) == 32
    lazy = cube.chunk({"y": 37}).assign_attrs(s2_period="another time")
    monkeypatch.setattr("deepforest_xr.chips.write.SHARD_BYTES", 3 * 2 * 7 * 32 * 32)
    assert fingerprint(lazy, labels, tmp_path / "b", weights=weights) == first


def test_a_continued_store_has_the_same(synthetic_cube, tmp_path):
    cube, labels, _ = scene(synthetic_cube)
    whole = fingerprint(cube, labels, tmp_path / "a")

    def stop(done, _total):
        if done == 2:
            raise OSError("gone")

    with pytest.raises(WriteError, match="2 strips of chips are kept"):
        write_chips(cube, labels, tmp_path / "b", spec=SPEC, progress=stop)
    assert fingerprint(cube, labels, tmp_path / "b") == whole


def changed(data, name=None, at=(50, 60), by=0.1):
    other = data.copy(deep=True)
    values = (other if name is None else other[name]).to_numpy()
    values[(..., *at)] = by
    return other


CHANGES = {
    "a pixel of s2": lambda c, b, w: (changed(c, "s2"), b, w, SPEC),
    "a pixel of the first strip": lambda c, b, w: (changed(c, "s2", at=(2, 3)), b, w, SPEC),
    "a pixel of the last strip": lambda c, b, w: (changed(c, "s2", at=(95, 159)), b, w, SPEC),
    "a pixel of s1": lambda c, b, w: (changed(c, "s1", by=-7.5), b, w, SPEC),
    "a pixel that is missing": lambda c, b, w: (changed(c, "s2", by=np.nan), b, w, SPEC),
    "a label": lambda c, b, w: (c, changed(b, by=np.where(b[50, 60] == 4, 9, 4)), w, SPEC),
    "a weight": lambda c, b, w: (c, b, changed(w, by=(float(w[50, 60]) + 0.5) % 1), SPEC),
    "no weights": lambda c, b, w: (c, b, None, SPEC),
    "the deal": lambda c, b, w: (c, b, w, ChipSpec(size=32, seed=1)),
    "the buffer": lambda c, b, w: (c, b, w, ChipSpec(size=32, buffer=0)),
    "the names of bands": lambda c, b, w: (
        c.assign_coords(band=["B02", "B03", "B08"]), b, w, SPEC),
    "the months": lambda c, b, w: (c.assign_coords(month=[6, 8]), b, w, SPEC),
    "the place": lambda c, b, w: (*(d.assign_coords(x=d["x"] + 10) for d in (c, b, w)), SPEC),
}  # fmt: skip


def test_anything_else_gives_another(synthetic_cube, tmp_path):
    cube, labels, weights = scene(synthetic_cube)
    prints = {"as it is": fingerprint(cube, labels, tmp_path / "whole", weights=weights)}
    for name, change in CHANGES.items():
        c, b, w, spec = change(cube, labels, weights)
        prints[name] = fingerprint(c, b, tmp_path / name, weights=w, spec=spec)
    assert len(set(prints.values())) == len(CHANGES) + 1, prints


def test_a_store_from_before_has_that_of_its_index(synthetic_cube, tmp_path):
    cube, labels, _ = scene(synthetic_cube)
    path = write_chips(cube, labels, tmp_path / "old", spec=SPEC)
    new = open_chips(path).fingerprint
    root = zarr.open_group(path, mode="a")
    del root.attrs["fingerprint"]
    old = open_chips(path).fingerprint
    assert len(old) == 32
    assert old == open_chips(path).fingerprint != new
    split = root["split"][:]
    split[np.flatnonzero(split == 0)[0]] = 3
    root["split"][:] = split
    assert open_chips(path).fingerprint != old


def test_several_stores_have_that_of_all_in_order(synthetic_cube, tmp_path):
    cube, labels, _ = scene(synthetic_cube)
    paths = [tmp_path / name for name in "abc"]
    for path, there in zip(paths, (cube, 1 - cube, cube.clip(0.2)), strict=True):
        write_chips(there, labels, path, spec=SPEC)
    a, b, c = paths
    sets = ([a], [b], [a, b], [b, a], [a, c], [a, b, c])
    assert len({open_chips(one).fingerprint for one in sets}) == len(sets)
    assert open_chips([a, b]).fingerprint == open_chips([a, b]).fingerprint
