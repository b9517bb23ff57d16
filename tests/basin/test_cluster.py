"""Tiles on the workers of a Dask cluster: one task each, where the device is."""

import threading

import pytest
import torch
from distributed import Client, Scheduler, SpecCluster, Worker
from distributed.diagnostics import SchedulerPlugin

from deepforest_xr.basin import basin_status, plan_basin, run_basin
from deepforest_xr.basin.store import open_objects
from deepforest_xr.errors import ModelError

from .conftest import content


class Watcher(SchedulerPlugin):
    """Which tasks the scheduler was given, and to which workers they went."""

    def __init__(self, scheduler):
        self.scheduler, self.tasks, self.workers = scheduler, set(), set()

    def transition(self, key, start, finish, *args, **kwargs):
        self.tasks.add(key)
        if finish == "processing":
            self.workers.add(self.scheduler.tasks[key].processing_on.name)


@pytest.fixture
def cluster():
    """Workers in this process: of those named "gpu" it is said that they have one."""

    def make(*names):
        workers = {
            name: {
                "cls": Worker,
                "options": {
                    "nthreads": 1,
                    "dashboard": False,
                    "resources": {"GPU": 1} if name == "gpu" else {},
                },
            }
            for name in names
        }
        options = {"dashboard_address": ":0", "port": 0, "host": "127.0.0.1"}
        spec = {"cls": Scheduler, "options": options}
        return SpecCluster(scheduler=spec, workers=workers, silence_logs=False)

    return make


def test_a_basin_on_a_cluster_is_one_task_a_tile(plan, undisturbed, cluster):
    with cluster("one", "two") as made, Client(made) as client:
        watcher = Watcher(made.scheduler)
        made.scheduler.add_plugin(watcher)
        summary = run_basin(plan, client=client)
    assert (summary.done, summary.made) == (4, 4)
    assert len(watcher.tasks) == 4
    assert content(open_objects(plan.url).folder) == undisturbed
    assert open_objects(plan.url).names("clock/") == []


def test_a_scheduler_that_is_lost_ends_the_run_to_be_tried_again(plan, cluster, undisturbed):
    # Without a worker nothing begins; then the connection goes.
    with cluster() as made, Client(made) as client:
        timer = threading.Timer(0.5, client.close)
        timer.start()
        summary = run_basin(plan, client=client)
        timer.join()
    assert summary.is_interrupted
    states = basin_status(plan).states.values()
    assert {(s.status, s.attempts) for s in states} == {("waiting", 0)}
    with cluster("one") as made, Client(made) as client:
        assert run_basin(plan, client=client).made == 4
    assert content(open_objects(plan.url).folder) == undisturbed


def test_tiles_for_a_gpu_go_only_where_one_is(config, cluster):
    plan = plan_basin(config(device="cuda"))
    with cluster("plain", "gpu", "other") as made, Client(made) as client:
        watcher = Watcher(made.scheduler)
        made.scheduler.add_plugin(watcher)
        # Without CUDA a tile cannot be made there; what counts is where it went.
        try:
            run_basin(plan, client=client, max_attempts=1)
        except ModelError:
            assert not torch.cuda.is_available()
    assert watcher.tasks
    assert watcher.workers == {"gpu"}


def test_a_worker_that_is_lost_with_tiles_on_the_way_takes_none_along(plan, cluster, undisturbed):
    with cluster("one", "two", "three") as made, Client(made) as client:
        watcher = Watcher(made.scheduler)
        made.scheduler.add_plugin(watcher)
        timer = threading.Timer(0.2, lambda: made.scale(1))
        timer.start()
        summary = run_basin(plan, client=client)
        timer.join()
    assert summary.is_complete
    assert content(open_objects(plan.url).folder) == undisturbed
