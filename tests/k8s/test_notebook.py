"""A notebook's cluster is that of the manifests."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from deepforest_xr.errors import ConfigError, MissingExtraError
from deepforest_xr.k8s import Settings, kube_cluster
from deepforest_xr.k8s.notebook import notebook_cluster

from .manifests import walk


def test_it_is_what_the_overlay_renders(kustomized):
    from .test_rendering import FOLDER

    for spot, name in ((True, "gpu-spot"), (False, "gpu-ondemand")):
        (overlay,) = walk(kustomized(FOLDER / "overlays" / name / "dask-cluster"))
        assert notebook_cluster(Settings(), "amazon-notebook", 2, gpu=True, spot=spot) == overlay


def test_without_gpus_it_is_the_plain_one(documents):
    made = notebook_cluster(Settings(), "amazon-notebook", 2, gpu=False, spot=True)
    assert made == documents["DaskCluster", "amazon-notebook"]


@pytest.fixture
def operator(monkeypatch):
    """What is asked of the operator's client; a scheduler in this process answers."""
    asked = []

    class KubeCluster:
        def __init__(self, **arguments):
            asked.append(arguments)

        def close(self):
            asked.append("closed")

    package, module = ModuleType("dask_kubernetes"), ModuleType("dask_kubernetes.operator")
    module.KubeCluster = KubeCluster
    monkeypatch.setitem(sys.modules, "dask_kubernetes", package)
    monkeypatch.setitem(sys.modules, "dask_kubernetes.operator", module)
    return asked


def test_names_given_go_before_the_settings(operator, monkeypatch):
    monkeypatch.setattr("distributed.Client", lambda cluster: SimpleNamespace(cluster=cluster))
    settings = Settings(worker_memory="8Gi")
    kube_cluster("lab", workers=5, namespace="maps", image="x/y:2", gpu=False, settings=settings)
    (asked,) = operator
    spec = asked["custom_cluster_spec"]
    assert (asked["namespace"], spec["metadata"]["namespace"]) == ("maps", "maps")
    assert spec["metadata"]["name"] == "lab"
    assert spec["spec"]["idleTimeout"] == 3600
    worker = spec["spec"]["worker"]
    assert worker["replicas"] == 5
    (container,) = worker["spec"]["containers"]
    assert container["image"] == "x/y:2"
    assert container["resources"]["limits"] == {"memory": "8Gi"}
    assert spec["spec"]["scheduler"]["service"]["selector"]["dask.org/cluster-name"] == "lab"


def test_a_cluster_that_cannot_be_reached_is_removed(operator, monkeypatch):
    def refuse(cluster):
        raise OSError("no route")

    monkeypatch.setattr("distributed.Client", refuse)
    with pytest.raises(OSError, match="no route"):
        kube_cluster("lab")
    assert operator[-1] == "closed"


def test_what_cannot_be_is_refused_before_anything_is_asked(operator):
    with pytest.raises(ConfigError, match="at least one"):
        kube_cluster("lab", workers=0)
    with pytest.raises(ConfigError, match="lower-case"):
        kube_cluster("My lab")
    assert operator == []


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_kubernetes.operator", None)
    with pytest.raises(MissingExtraError, match=r"deepforest-xr\[k8s\]"):
        kube_cluster("lab")
