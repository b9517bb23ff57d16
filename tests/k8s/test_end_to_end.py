"""The project's own manifests map a basin of four tiles, and what happens to them on the way.

The test bed runs the Dask operator as it is released, and pods as processes; its README says what
that proves.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyproj
import pytest

from deepforest_xr.k8s import Settings, write_manifests
from deepforest_xr.models import Checkpoint, build, load
from deepforest_xr.sentinel.s2 import BANDS
from deepforest_xr.testing import simulate_scene

from .bed import Bed
from .conftest import VENV

pytestmark = pytest.mark.k8s

# The environment that stands for the image: this one, unless another is named.
IMAGE = Path(os.environ.get("DEEPFOREST_XR_IMAGE", sys.prefix))
TILES = 4
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


def area():
    """A rectangle inside two by two tiles of 960 m, counted from the origin of the CRS."""
    to_degrees = pyproj.Transformer.from_crs(32721, 4326, always_xy=True).transform
    left, bottom, right, top = 829_800, 9_108_600, 831_300, 9_109_800
    corners = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]
    ring = [to_degrees(*corner) for corner in corners]
    return json.dumps({"type": "Polygon", "coordinates": [ring]})


@pytest.fixture(scope="module")
def bed(testbed, tmp_path_factory):
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("the test bed needs root, and `ip` (apt-get install iproute2)")
    if IMAGE.resolve().is_relative_to("/tmp"):
        pytest.skip(f"{IMAGE} is below /tmp, which pods have for themselves: name another place")
    versions = {
        subprocess.run(
            [python, "-c", "import dask, distributed; print(dask.__version__)"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for python in (IMAGE / "bin" / "python", VENV / "bin" / "python")
    }
    assert len(versions) == 1, f"operator and image have different versions of dask: {versions}"
    made = Bed(testbed, VENV / "bin" / "python", IMAGE, tmp_path_factory.mktemp("bed"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def sha256(bed):
    """Scenes and a model on the claim."""
    import torch

    simulate_scene(bed.claim / "scenes", shape=(192, 192), months=(6, 7), missing_months=())
    torch.manual_seed(1)
    module = build("u-net", bands=10, classes=13)
    made = Checkpoint.from_module(module, bands=BANDS, mean=[0.2] * 10, std=[0.1] * 10)
    return load(made.save(bed.claim / "models" / "small")).sha256


@pytest.fixture(scope="module")
def prepare(bed, sha256, tmp_path_factory):
    """Render a run of its own, apply the base; gives the folder of the manifests."""
    secret = {"name": "deepforest-xr", "namespace": "deepforest-xr"}
    folder = tmp_path_factory.mktemp("manifests")

    def make(name, **changes):
        out = f"/data/{name}"
        values = {
            "name": name,
            "out": out,
            "plan": PLAN.format(data="/data", model="/model/checkpoint", out=out),
            "plan_files": {"aoi.geojson": area()},
            "model": "/data/models/small",
            "model_sha256": sha256,
            "shards": 2,
            "parallelism": 2,
            "dask_workers": 2,
            "worker_cpu": "1",
            "worker_memory": "2Gi",
            "coordinator_memory": "2Gi",
            "lease_s": 20,
        }
        write_manifests(Settings(**{**values, **changes}), folder / name)
        bed.kubectl("apply", "-k", folder / name / "base")
        content = {"data": {}, "apiVersion": "v1", "kind": "Secret", "metadata": secret}
        bed.apply(content)
        return folder / name

    return make


@pytest.fixture(scope="module")
def local(bed, sha256):
    """The same basin on this machine: every file of the map and its bytes."""
    folder = bed.folder / "local"
    folder.mkdir()
    model = bed.claim / "models" / "small"
    (folder / "aoi.geojson").write_text(area())
    text = PLAN.format(data=bed.claim, model=model, out=folder / "out")
    (folder / "plan.toml").write_text(text)
    program = str(IMAGE / "bin" / "deepforest-xr")
    for words in (["plan", folder / "plan.toml"], ["run", folder / "out"]):
        subprocess.run([program, "basin", *words], check=True, capture_output=True)
    return pixels(folder / "out")


def pixels(out):
    """Every file of a map and its bytes."""
    files = [path for path in sorted((out / "map.zarr").rglob("*")) if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def claims(out):
    """How often each tile was begun."""
    names = [path for path in (out / "attempts").glob("*/*.json") if path.stem.isdecimal()]
    found = {}
    for path in names:
        found[path.parent.name] = found.get(path.parent.name, 0) + 1
    return found


def nodes(pods):
    return {pod["spec"]["nodeName"] for pod in pods}


SHARDS, DASK = "gpu-spot/indexed-job", "gpu-spot/dask-job"


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


def test_jobs_map_a_basin_as_one_machine_does_and_once(bed, prepare, local):
    folder = planned(bed, prepare, "plain", SHARDS)
    bed.step(folder, SHARDS, "run")
    assert bed.ends("plain-shards", "Complete") == "CompletionsReached"
    assert pixels(bed.claim / "plain") == local
    assert list(claims(bed.claim / "plain").values()) == [1] * TILES
    assert nodes(bed.pods("app.kubernetes.io/component=shards")) == {"gpu-spot"}
    assert nodes(bed.pods("app.kubernetes.io/component=plan")) == {"cpu"}

    # Once more: nothing is left to do.
    bed.kubectl("delete", "job", "plain-shards")
    bed.step(folder, SHARDS, "run")
    assert bed.ends("plain-shards", "Complete") == "CompletionsReached"
    assert list(claims(bed.claim / "plain").values()) == [1] * TILES
    assert pixels(bed.claim / "plain") == local


def test_a_shard_that_loses_its_node_leaves_and_is_done_elsewhere(bed, prepare, local):
    folder = planned(bed, prepare, "spot", SHARDS, shards=1, parallelism=1, retries=1)
    bed.step(folder, SHARDS, "run")
    lost = []

    def at_work():
        """The pod that has its own claim of a tile."""
        names = {p["metadata"]["name"] for p in running(bed, "job-name=spot-shards")}
        has_claim = sum(claims(bed.claim / "spot").values()) > len(lost)
        return has_claim and sorted(names - set(lost))

    # More often than a shard may fail: none of it counts.
    for _ in range(2):
        (name,) = bed.until("a new shard is at work", at_work)
        bed.preempt(name)
        lost.append(name)
    assert bed.ends("spot-shards", "Complete") == "CompletionsReached"
    assert pixels(bed.claim / "spot") == local
    status = bed.get("job/spot-shards")["status"]
    assert (status["succeeded"], status.get("failed", 0)) == (1, 0)
    codes = [
        p["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
        for p in bed.pods("job-name=spot-shards")
        if p["metadata"]["name"] in lost
    ]
    assert codes == [75, 75]


def test_a_job_that_is_suspended_goes_on_where_it_stopped(bed, prepare, local):
    folder = planned(bed, prepare, "pause", SHARDS)
    bed.step(folder, SHARDS, "run")
    begun(bed, "pause")
    patch = ("patch", "job", "pause-shards", "--type=merge", "-p")
    bed.kubectl(*patch, '{"spec": {"suspend": true}}')
    bed.until("its pods are gone", lambda: not running(bed, "job-name=pause-shards"))
    bed.kubectl(*patch, '{"spec": {"suspend": false}}')
    assert bed.ends("pause-shards", "Complete") == "CompletionsReached"
    assert pixels(bed.claim / "pause") == local


def test_a_poisoned_tile_costs_its_own_shard_alone(bed, prepare, local):
    folder = planned(bed, prepare, "poison", SHARDS, shards=4)
    victim, *_ = sorted((bed.claim / "poison" / "items").iterdir())
    victim.unlink()
    bed.step(folder, SHARDS, "run")
    assert bed.ends("poison-shards", "Failed") == "FailedIndexes"
    status = bed.get("job/poison-shards")["status"]
    assert len(status["failedIndexes"].split(",")) == 1
    assert status["succeeded"] == TILES - 1
    # FailIndex: not one of the retries was used.
    assert status["failed"] == 1
    done = {path.stem for path in (bed.claim / "poison" / "done").iterdir()}
    assert len(done) == TILES - 1
    assert victim.stem not in done


def successful(bed, name):
    bed.wait(f"daskjob/{name}", "{.status.jobStatus}", "Successful")


def test_a_dask_job_maps_a_basin_as_one_machine_does(bed, prepare, local):
    folder = planned(bed, prepare, "dask", DASK)
    bed.step(folder, DASK, "run")
    seen = {}

    def all_are_placed():
        for role in ("worker", "scheduler", "job-runner"):
            found = bed.pods(f"dask.org/cluster-name=dask,dask.org/component={role}")
            seen[role] = [pod["spec"].get("nodeName") for pod in found]
        return [len(seen[r]) for r in seen] == [2, 1, 1] and all(
            node for nodes in seen.values() for node in nodes
        )

    bed.until("all pods are on nodes", all_are_placed)
    assert seen == {"worker": ["gpu-spot"] * 2, "scheduler": ["cpu"], "job-runner": ["cpu"]}
    successful(bed, "dask")
    assert pixels(bed.claim / "dask") == local
    assert list(claims(bed.claim / "dask").values()) == [1] * TILES
    bed.until("its cluster is gone", lambda: not bed.pods("dask.org/component=worker"))


def test_a_dask_job_outlives_its_scheduler(bed, prepare, local):
    folder = planned(bed, prepare, "heal", DASK)
    bed.step(folder, DASK, "run")
    begun(bed, "heal")
    (scheduler,) = running(bed, "dask.org/cluster-name=heal,dask.org/component=scheduler")
    name = scheduler["metadata"]["name"]
    bed.kubectl("delete", "pod", name, "--force", "--grace-period=0")
    successful(bed, "heal")
    assert pixels(bed.claim / "heal") == local
    assert "exit code 75" in bed.kubectl("logs", "heal-runner", "-c", "runner")


def test_a_dask_job_with_a_poisoned_tile_ends_as_failed(bed, prepare):
    folder = planned(bed, prepare, "bad", DASK)
    victim, *_ = sorted((bed.claim / "bad" / "items").iterdir())
    victim.unlink()
    bed.step(folder, DASK, "run")
    bed.wait("daskjob/bad", "{.status.jobStatus}", "Failed")
    runner = bed.get("pod/bad-runner")["status"]
    assert runner["phase"] == "Failed"
    (state,) = runner["containerStatuses"]
    assert (state["state"]["terminated"]["exitCode"], state["restartCount"]) == (42, 0)
    assert len(list((bed.claim / "bad" / "done").iterdir())) == TILES - 1


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("nomodel", {"model": "/data/models/gone"}, "/data/models/gone is not a checkpoint"),
        ("other", {"model_sha256": "0f" * 32}, "expected 0f0f"),
    ],
)
def test_a_model_that_is_missing_or_another_ends_the_plan_at_once(
    bed, prepare, name, changes, words
):
    folder = prepare(name, **changes)
    bed.step(folder, SHARDS, "plan")
    assert bed.ends(f"{name}-plan", "Failed") == "PodFailurePolicy"
    (pod,) = bed.pods(f"job-name={name}-plan")
    assert words in bed.kubectl("logs", pod["metadata"]["name"], "-c", "model")


def test_a_secret_that_is_missing_is_named_and_not_waited_for_for_ever(bed, prepare):
    folder = prepare("nosecret", secret="gone", step_deadline_s=5)
    bed.step(folder, SHARDS, "plan")
    waiting = []

    def refused():
        for pod in bed.pods("job-name=nosecret-plan"):
            for status in pod["status"].get("initContainerStatuses", []):
                waiting.append(status["state"].get("waiting", {}))
        return [w for w in waiting if w.get("reason") == "CreateContainerConfigError"]

    assert 'secret "gone" not found' in bed.until("it is refused", refused)[0]["message"]
    assert bed.ends("nosecret-plan", "Failed") == "DeadlineExceeded"


NOTEBOOK = """
import json, sys
from deepforest_xr.k8s import Settings, kube_cluster

settings = Settings(worker_cpu="1", worker_memory="2Gi", coordinator_memory="2Gi",
                    model="/data/models/small")
with kube_cluster("lab", workers=1, spot=True, settings=settings) as client:
    client.wait_for_workers(1, timeout=120)
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    print(json.dumps({
        "answer": client.submit(lambda x: x + 1, 41, resources={"GPU": 1}).result(),
        "resources": [worker["resources"] for worker in workers],
    }))
    client.cluster.close()
"""


def test_a_notebook_gets_a_client_of_a_cluster_with_gpus(bed, prepare):
    prepare("lab")
    answer = json.loads(bed.python(NOTEBOOK).splitlines()[-1])
    assert answer == {"answer": 42, "resources": [{"GPU": 1.0}]}
    bed.until("it is gone", lambda: not bed.pods("dask.org/cluster-name=lab"))
