"""Runs of a basin of four tiles on a cluster: what they are made from, and what they left."""

import json
from collections import Counter

import pyproj

TILES = 4
# Folders of manifests.
SHARDS, DASK = "indexed-job", "dask-job"
PLAN = """\
aoi = "aoi.geojson"
source = "{data}/scenes/items.json"
model = "{model}"
out = "{out}"
datetime = "2018-06-01/2018-07-31"
dataset = "S2"
crs = "EPSG:32721"
tile = 96
block = 96
halo = 32
device = "cpu"
"""


# Inside two by two tiles of 960 m, counted from the origin of EPSG:32721.
RECTANGLE = (829_800, 9_108_600, 831_300, 9_109_800)


def area():
    """The rectangle as a GeoJSON geometry."""
    to_degrees = pyproj.Transformer.from_crs(32721, 4326, always_xy=True).transform
    left, bottom, right, top = RECTANGLE
    corners = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]
    ring = [to_degrees(*corner) for corner in corners]
    return json.dumps({"type": "Polygon", "coordinates": [ring]})


def pixels(out):
    """Every file of a map and its bytes."""
    return _files(out, "map.zarr")


def results(out):
    """Every file of a finished basin and its bytes, but for when its tiles were looked at."""
    found = _files(out, "finish")
    return {name: content for name, content in found.items() if name != "finish/verified.json"}


def _files(out, folder):
    files = [path for path in sorted((out / folder).rglob("*")) if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def attempts(out):
    """Tile and host of every time that one was begun."""
    paths = [path for path in (out / "attempts").glob("*/*.json") if path.stem.isdecimal()]
    return [(p.parent.name, json.loads(p.read_text())["owner"]["host"]) for p in paths]


def claims(out):
    """How often each tile was begun."""
    return Counter(tile for tile, _ in attempts(out))


def in_hand(out, pod):
    """Tiles that a pod began and has not done."""
    done = {path.stem for path in (out / "done").glob("*.json")}
    return {tile for tile, host in attempts(out) if host == pod} - done


def planned(bed, prepare, name, overlay, **changes):
    folder = prepare(name, **changes)
    bed.step(folder, overlay, "plan")
    assert bed.ends(f"{name}-plan", "Complete") == "CompletionsReached"
    return folder


def begun(bed, name):
    """Wait until a pod has a tile in hand."""
    bed.until("a tile is begun", lambda: claims(bed.claim / name))


def running(bed, selector):
    return [pod for pod in bed.pods(selector) if pod["status"]["phase"] == "Running"]


def successful(bed, name):
    bed.wait(f"daskjob/{name}", "{.status.jobStatus}", "Successful")
