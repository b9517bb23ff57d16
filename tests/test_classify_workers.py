"""On Dask workers: blocks run where their resources are, with all cores, to the same bytes."""

import dask
import pytest
import torch
import xarray as xr
from distributed import Client, Scheduler, SpecCluster, Worker

import deepforest_xr as dfx
from deepforest_xr.classify.workers import require_resources, share_cores
from deepforest_xr.errors import ModelError

from .test_classify import BANDS, checkpoint_of

pytestmark = pytest.mark.usefixtures("narrow")

LOCAL = {"dashboard": False, "host": "127.0.0.1"}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def folder(narrow, tmp_path_factory):
    return checkpoint_of().save(tmp_path_factory.mktemp("workers") / "model")


@pytest.fixture(scope="module")
def client(narrow):
    """Three workers in this process, one of which has a GPU as far as Dask knows."""
    spec = {
        name: {
            "cls": Worker,
            "options": {"nthreads": 2, "resources": resources, **LOCAL},
        }
        for name, resources in (("has", {"GPU": 1}), ("lacks", {}), ("lacks too", {"GPU": 0.5}))
    }
    scheduler = {"cls": Scheduler, "options": {"port": 0, **LOCAL}}
    with SpecCluster(scheduler=scheduler, workers=spec) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture
def cube(synthetic_cube):
    return synthetic_cube((130, 300), bands=BANDS).chunk({"y": 64, "x": 70})


@pytest.mark.parametrize("options", [{}, {"resume": True}])
@pytest.mark.parametrize("blend", [0, 32])
def test_every_block_is_written_by_a_worker_that_has_the_resource(
    cube, folder, client, tmp_path, options, blend
):
    lazy = dfx.classify(
        cube, folder, block=32, halo=32, blend=blend, uncertainty=True, resources={"GPU": 1}
    )
    path = dfx.write_zarr(lazy, tmp_path / "map.zarr", **options)
    plain = dfx.classify(cube, folder, block=32, halo=32, blend=blend, uncertainty=True)
    here = plain.compute(scheduler="synchronous")
    xr.testing.assert_equal(xr.open_zarr(path).compute(), here)


def test_a_block_on_a_worker_without_the_resource_is_a_clear_error(cube, folder, client):
    lazy = dfx.classify(cube, folder, block=32, halo=32, resources={"GPU": 1})
    with dask.config.set({"optimization.fuse.active": False}):
        lazy.compute()
    # On purpose sent to where the annotation would not have let it go.
    task = client.submit(require_resources, {"GPU": 1}, workers=["lacks too"], pure=False)
    with pytest.raises(ModelError, match="worker 'lacks too', which lacks GPU=1: ") as caught:
        task.result()
    assert "write_zarr" in str(caught.value)
    assert "\n" not in str(caught.value)
    client.submit(require_resources, {"GPU": 1}, workers=["has"], pure=False).result()


def test_without_a_cluster_resources_say_nothing(cube, folder):
    small = cube.isel(x=slice(64))
    options = {"block": 64, "halo": 32}
    wanted = dfx.classify(small, folder, resources={"GPU": 1}, **options)
    expected = dfx.classify(small, folder, **options).compute(scheduler="synchronous")
    xr.testing.assert_identical(wanted.compute(scheduler="synchronous"), expected)


def test_schedulers_write_the_same_bytes(cube, folder, client):
    lazy = dfx.classify(cube, folder, block=64, halo=32, probability=True)
    on_workers = lazy.compute()
    for scheduler in ("synchronous", "threads"):
        xr.testing.assert_identical(lazy.compute(scheduler=scheduler), on_workers)


def test_a_worker_computes_with_all_its_cores(client):
    def threads():
        torch.set_num_threads(1)
        share_cores()
        return torch.get_num_threads()

    assert client.submit(threads, pure=False).result() == 2
    torch.set_num_threads(1)
    share_cores()  # no worker: what the user set stays
    assert torch.get_num_threads() == 1
