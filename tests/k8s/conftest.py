"""Rendered documents, and a cluster: that of KUBECONFIG, or the test bed beside the project."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deepforest_xr.k8s import Settings, render, write_manifests

from .bed import NAMESPACE, Bed, Given
from .manifests import walk
from .runs import PLAN, area, pixels

ROOT = Path(__file__).parents[2]
TESTBED = ROOT.parent / "shared" / "k8s_testbed"
VENV = Path(os.environ.get("DEEPFOREST_XR_K8S", ROOT / ".venv-k8s"))
# The environment that stands for the image: this one, unless another is named.
IMAGE = Path(os.environ.get("DEEPFOREST_XR_IMAGE", sys.prefix))
PROGRAM = str(IMAGE / "bin" / "deepforest-xr")


@pytest.fixture(scope="session")
def rendered():
    return render(Settings())


@pytest.fixture(scope="session")
def documents(rendered):
    """Every manifest of the default settings by kind and name; overlays are not manifests."""
    found = {}
    for path, text in rendered.items():
        if not path.endswith("kustomization.yaml"):
            for document in walk(text):
                found[document["kind"], document["metadata"]["name"]] = document
    return found


@pytest.fixture(scope="session")
def problems():
    """Validate files or folders strictly; gives the lines about what is wrong."""
    if not TESTBED.is_dir():
        pytest.skip(f"the validator of the Kubernetes test bed is not at {TESTBED}")
    if (VENV / "bin" / "python").exists():
        python = VENV / "bin" / "python"
    elif all(map(importlib.util.find_spec, ("dask_kubernetes", "kubernetes_validate"))):
        python = sys.executable
    else:
        pytest.skip("there are no schemas of Kubernetes here: the extra `dev` installs them")

    def check(*paths):
        done = subprocess.run(
            [python, TESTBED / "validate.py", *paths],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr
        return done.stdout.splitlines()

    return check


@pytest.fixture(scope="session")
def kubectl():
    """The kubectl that the test bed pins, else that of the extra `dev` or of this machine."""
    folders = (VENV / "bin", Path(sys.prefix) / "bin")
    installed = (str(f / "kubectl") for f in folders if (f / "kubectl").exists())
    found = next(installed, shutil.which("kubectl"))
    if found is None:
        pytest.skip("there is no kubectl: the extra `dev` installs one")
    return found


@pytest.fixture(scope="session")
def kustomized(kubectl):
    """What `kubectl kustomize` makes of a folder, as text."""

    def build(folder):
        done = subprocess.run(
            [kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return build


@pytest.fixture(scope="session")
def bed(request, tmp_path_factory):
    """The cluster, for as long as there are tests that use it."""
    folder = tmp_path_factory.mktemp("bed")
    if "KUBECONFIG" in os.environ:
        if missing := [name for name in Given.NEEDS if name not in os.environ]:
            pytest.skip(
                f"KUBECONFIG is set, {' and '.join(missing)} not: set both to run on that "
                "cluster (CONTRIBUTING.md says how), or unset KUBECONFIG"
            )
        made = Given(request.getfixturevalue("kubectl"), IMAGE, folder)
    else:
        made = _start_test_bed(folder)
    yield made
    made.stop()


def _start_test_bed(folder):
    if not TESTBED.is_dir():
        pytest.skip(f"the Kubernetes test bed is not at {TESTBED}")
    if not (VENV / "bin" / "python").exists():
        pytest.skip(f"its requirements are not installed in {VENV}: `make test-k8s` does that")
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
    return Bed(TESTBED, VENV / "bin" / "python", IMAGE, folder)


@pytest.fixture
def preempt(bed):
    """Takes away the node of a pod, as a spot market does."""
    if isinstance(bed, Given):
        pytest.skip("only the test bed can take a node away from a pod")
    return bed.preempt


@pytest.fixture(scope="session")
def sha256(bed):
    """Scenes and a model on the claim."""
    import torch

    from deepforest_xr.models import Checkpoint, build, load
    from deepforest_xr.sentinel.s2 import BANDS
    from deepforest_xr.testing import simulate_scene

    simulate_scene(bed.claim / "scenes", shape=(192, 192), months=(6, 7), missing_months=())
    torch.manual_seed(1)
    module = build("u-net", bands=10, classes=13)
    made = Checkpoint.from_module(module, bands=BANDS, mean=[0.2] * 10, std=[0.1] * 10)
    return load(made.save(bed.claim / "models" / "small")).sha256


@pytest.fixture(scope="session")
def prepare(bed, sha256, tmp_path_factory):
    """Render a run of its own, apply the base; gives the folder of the manifests."""
    secret = {"name": "deepforest-xr", "namespace": NAMESPACE}
    folder = tmp_path_factory.mktemp("manifests")

    def make(name, **changes):
        out = f"{bed.data}/{name}"
        values = {
            "name": name,
            "namespace": NAMESPACE,
            "image": bed.image,
            "out": out,
            "plan": PLAN.format(data=bed.data, model="/model/checkpoint", out=out),
            "plan_files": {"aoi.geojson": area()},
            "model": f"{bed.data}/models/small",
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
        bed.apply_base(folder / name)
        bed.apply({"data": {}, "apiVersion": "v1", "kind": "Secret", "metadata": secret})
        return folder / name

    return make


@pytest.fixture(scope="session")
def here(bed, sha256):
    """The same basin, run on this machine: its folder."""
    folder = bed.folder / "local"
    folder.mkdir()
    model = bed.claim / "models" / "small"
    (folder / "aoi.geojson").write_text(area())
    text = PLAN.format(data=bed.claim, model=model, out=folder / "out")
    (folder / "plan.toml").write_text(text)
    for words in (["plan", folder / "plan.toml"], ["run", folder / "out"]):
        subprocess.run([PROGRAM, "basin", *words], check=True, capture_output=True)
    return folder / "out"


@pytest.fixture(scope="session")
def local(here):
    """Every file of that map and its bytes."""
    return pixels(here)
