"""Rendered documents, and the test bed: a small Kubernetes that lies beside the project."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from deepforest_xr.k8s import Settings, render

from .manifests import walk

ROOT = Path(__file__).parents[2]
TESTBED = ROOT.parent / "shared" / "k8s_testbed"
VENV = Path(os.environ.get("DEEPFOREST_XR_K8S", ROOT / ".venv-k8s"))


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
def testbed():
    if not TESTBED.is_dir():
        pytest.skip(f"the Kubernetes test bed is not at {TESTBED}")
    if not (VENV / "bin" / "python").exists():
        pytest.skip(f"its requirements are not installed in {VENV}: `make test-k8s` does that")
    return TESTBED


@pytest.fixture(scope="session")
def problems(testbed):
    """Validate files or folders strictly; gives the lines about what is wrong."""

    def check(*paths):
        done = subprocess.run(
            [VENV / "bin" / "python", testbed / "validate.py", *paths],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr
        return done.stdout.splitlines()

    return check


@pytest.fixture(scope="session")
def kubectl():
    """The kubectl that the test bed pins, else that of this machine."""
    pinned = VENV / "bin" / "kubectl"
    found = str(pinned) if pinned.exists() else shutil.which("kubectl")
    if found is None:
        pytest.skip("there is no kubectl: `make test-k8s` installs one")
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
