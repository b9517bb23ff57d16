"""DaskJobs map the same basin through the operator, and a notebook gets a cluster of its own."""

import json

import numpy as np
import pytest
import xarray as xr

import deepforest_xr as dfx

from ..notebooks import code, read_notebook
from .bed import NAMESPACE
from .runs import (
    DASK,
    RECTANGLE,
    TILES,
    attempts,
    begun,
    claims,
    in_hand,
    pixels,
    planned,
    running,
    successful,
)

pytestmark = pytest.mark.k8s


def test_a_dask_job_maps_a_basin_as_one_machine_does(bed, prepare, local):
    folder = planned(bed, prepare, "dask", DASK)
    bed.step(folder, DASK, "run")
    roles = {"worker": "gpu-spot", "scheduler": "cpu", "job-runner": "cpu"}

    def placed():
        """The pods of each role, once all are on nodes."""
        label = "dask.org/cluster-name=dask,dask.org/component="
        found = {role: bed.pods(f"{label}{role}") for role in roles}
        pods = [pod for role in found.values() for pod in role]
        return len(pods) == 4 and all(p["spec"].get("nodeName") for p in pods) and found

    found = bed.until("all pods are on nodes", placed)
    assert [len(found[role]) for role in roles] == [2, 1, 1]
    assert all(bed.are_on(found[role], node) for role, node in roles.items())
    successful(bed, "dask")
    assert pixels(bed.claim / "dask") == local
    assert list(claims(bed.claim / "dask").values()) == [1] * TILES
    bed.until("its cluster is gone", lambda: not bed.pods("dask.org/component=worker"))


@pytest.mark.parametrize("how", ["drained", "killed"])
def test_a_dask_job_that_loses_a_worker_computes_its_tile_again_and_no_other(
    bed, prepare, local, how
):
    folder = planned(bed, prepare, how, DASK)
    out = bed.claim / how
    bed.step(folder, DASK, "run")

    def at_work():
        pods = running(bed, f"dask.org/cluster-name={how},dask.org/component=worker")
        names = [pod["metadata"]["name"] for pod in pods]
        return next((name for name in names if in_hand(out, name)), None)

    victim = bed.until("a worker has a tile", at_work)
    if how == "drained":
        bed.evict(victim)
        bed.kubectl("wait", f"pod/{victim}", "--for=delete", "--timeout=60s")
    else:
        bed.kubectl("delete", "pod", victim, "--force", "--grace-period=0")
    lost = in_hand(out, victim)
    successful(bed, how)
    assert pixels(out) == local
    assert {tile for tile, times in claims(out).items() if times > 1} == lost
    assert sum(claims(out).values()) == TILES + len(lost)
    # A drain gives it time to end what it has in hand; whoever is killed loses it.
    assert how == "drained" or lost


def test_two_dask_jobs_share_one_plan(bed, prepare, local):
    folder = planned(bed, prepare, "pair", DASK, dask_jobs=2, dask_workers=1)
    bed.step(folder, DASK, "run")
    for name in ("pair-0", "pair-1"):
        successful(bed, name)
    out = bed.claim / "pair"
    assert pixels(out) == local
    assert list(claims(out).values()) == [1] * TILES
    # Of the tiles in their order, one has the first, third, ..., the other those between.
    by = {tile: host.partition("-default-")[0] for tile, host in attempts(out)}
    assert [by[tile] for tile in sorted(by)] == ["pair-0", "pair-1"] * (TILES // 2)


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


LAB = """
import json, sys
from deepforest_xr.k8s import Settings, kube_cluster

settings = Settings(**json.loads(sys.argv[1]))
with kube_cluster("lab", workers=1, gpu=len(sys.argv) > 2, settings=settings) as client:
    client.wait_for_workers(1, timeout=120)
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    print(json.dumps({
        "answer": client.submit(lambda x: x + 1, 41, resources={"GPU": 1}).result(),
        "resources": [worker["resources"] for worker in workers],
    }))
    client.cluster.close()
"""


def small(bed):
    """Settings of a cluster for a notebook."""
    return {
        "namespace": NAMESPACE,
        "image": bed.image,
        "worker_cpu": "1",
        "worker_memory": "2Gi",
        "coordinator_memory": "2Gi",
        "model": f"{bed.data}/models/small",
    }


def test_a_notebook_gets_a_client_of_a_cluster_with_gpus(bed, prepare):
    prepare("lab")
    printed = bed.python(LAB, json.dumps(small(bed)), *["gpu"] * bed.has_gpus)
    assert json.loads(printed.splitlines()[-1]) == {"answer": 42, "resources": [{"GPU": 1.0}]}
    bed.until("it is gone", lambda: not bed.pods("dask.org/cluster-name=lab"))


def test_the_notebook_of_the_examples_maps_on_the_cluster(bed, prepare):
    prepare("lab")
    parameters = f"""
plt.switch_backend("agg")
data = Path({bed.data!r})
model = data / "models" / "small"
source, dataset = data / "scenes" / "items.json", "S2"
grid = dfx.Grid.from_bounds({RECTANGLE}, crs="EPSG:32721", resolution=10)
settings = Settings(**{small(bed)})
workers, gpu = 2, {bed.has_gpus}
"""
    with bed.data_here():
        bed.python(code(read_notebook("kubernetes", parameters)))
    bed.until("its cluster is gone", lambda: not bed.pods("dask.org/cluster-name=lab"))
    assert (bed.claim / "lab.png").read_bytes().startswith(b"\x89PNG")
    items = dfx.search(bed.claim / "scenes" / "items.json", year=2018)
    grid = dfx.Grid.from_bounds(RECTANGLE, crs="EPSG:32721", resolution=10)
    cube = dfx.open_cube(items, grid=grid, dataset="S2")
    expected = dfx.classify(cube, bed.claim / "models" / "small").compute(scheduler="synchronous")
    written = xr.open_zarr(bed.claim / "lab.zarr")
    np.testing.assert_array_equal(written.lulc, expected.lulc)
    np.testing.assert_array_equal(written.confidence, expected.confidence)
    assert len(np.unique(written.lulc)) > 1
