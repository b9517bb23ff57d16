"""The notebooks run from top to bottom."""

import textwrap

import nbformat
import numpy as np
import pytest
import torch
import xarray as xr

import deepforest_xr as dfx
from deepforest_xr.models import Checkpoint, build
from deepforest_xr.sentinel.s2 import BANDS

from .notebooks import EXAMPLES, read_notebook

# The kernel's own start-up code, in another process, is not ours to keep free of warnings.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.enable_socket]


def run(notebook, folder):
    """Execute it in a folder; its pictures."""
    from nbclient import NotebookClient

    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    return [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]


def test_every_notebook_has_its_test():
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == {"first_map", "kubernetes"}


def test_the_first_map_runs_and_draws(tmp_path):
    assert len(run(read_notebook("first_map"), tmp_path)) >= 4


# In place of the Dask operator: what it is asked for is built, and workers in the kernel's own
# process answer, which offer what the manifest's workers do.
CLUSTER_HERE = """
import inspect

from distributed import Client, Scheduler, SpecCluster, Worker

import deepforest_xr as dfx
from deepforest_xr.k8s.notebook import kube_cluster, notebook_cluster


def cluster_here(*args, **kwargs):
    given = inspect.signature(kube_cluster).bind(*args, **kwargs)
    given.apply_defaults()
    asked = given.arguments
    names = ("name", "workers", "gpu", "spot")
    manifest = notebook_cluster(asked["settings"], *(asked[n] for n in names[:2]),
                                **{n: asked[n] for n in names[2:]})
    (container,) = manifest["spec"]["worker"]["spec"]["containers"]
    assert "GPU=1" in container["command"]
    here = {"dashboard": False, "host": "127.0.0.1"}
    worker = {"cls": Worker, "options": {"nthreads": 1, "resources": {"GPU": 1}, **here}}
    return Client(SpecCluster(
        scheduler={"cls": Scheduler, "options": {"port": 0, **here}},
        workers={i: worker for i in range(manifest["spec"]["worker"]["replicas"])}))


dfx.kube_cluster = cluster_here
"""


def test_the_kubernetes_notebook_runs_where_workers_are_in_its_own_process(tmp_path):
    scene = dfx.testing.simulate_scene(
        tmp_path / "scenes", shape=(96, 128), months=(6, 7), missing_months=()
    )
    torch.manual_seed(1)
    module = build("u-net", bands=10, classes=13)
    made = Checkpoint.from_module(module, bands=BANDS, mean=[0.2] * 10, std=[0.1] * 10)
    model = made.save(tmp_path / "models" / "small")
    parameters = f"""
        data = Path({str(tmp_path)!r})
        model = data / "models" / "small"
        source, dataset = data / "scenes" / "items.json", "S2"
        grid = dfx.Grid.from_bounds({scene.grid.bounds}, crs="{scene.grid.crs}", resolution=10)
        workers, gpu = 2, False
    """
    notebook = read_notebook("kubernetes", textwrap.dedent(parameters))
    notebook.cells.insert(0, nbformat.v4.new_code_cell(CLUSTER_HERE))
    pictures = run(notebook, tmp_path)
    assert len(pictures) == 1
    cube = dfx.open_cube(dfx.search(scene.items, year=2018), grid=scene.grid, dataset="S2")
    expected = dfx.classify(cube, model).compute(scheduler="synchronous")
    written = xr.open_zarr(tmp_path / "lab.zarr")
    np.testing.assert_array_equal(written.lulc, expected.lulc)
    assert len(np.unique(written.lulc)) > 1
