"""Overlays for kustomize: the same Jobs and clusters on other nodes.

Patches are lists of operations (RFC 6902): a strategic merge would replace whole lists of a
Dask object, because kustomize does not know its schema.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepforest_xr.k8s.jobs import shard_command
from deepforest_xr.k8s.pods import gpu_placement, worker_resources
from deepforest_xr.k8s.text import to_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deepforest_xr.k8s.settings import Settings

    Object = dict[str, Any]

SHARDS, DASK_JOB, DASK_CLUSTER = "indexed-job", "dask-job", "dask-cluster"
# Of each path: the kind that holds workers, and where their pod is.
WORKERS = {
    SHARDS: ("Job", "/spec/template/spec"),
    DASK_JOB: ("DaskJob", "/spec/cluster/spec/worker/spec"),
    DASK_CLUSTER: ("DaskCluster", "/spec/worker/spec"),
}
BOTH = ("containers", "initContainers")
STEPS = (
    ("Job", ".*-plan", "/spec/template/spec", BOTH),
    ("Job", ".*-finish", "/spec/template/spec", BOTH[:1]),
)
# Of each path: kind, name, place and containers of the other pods.
COORDINATORS: dict[str, tuple[tuple[str, str | None, str, tuple[str, ...]], ...]] = {
    SHARDS: STEPS,
    DASK_JOB: (
        *STEPS,
        ("DaskJob", None, "/spec/job/spec", BOTH),
        ("DaskJob", None, "/spec/cluster/spec/scheduler/spec", BOTH[:1]),
    ),
    DASK_CLUSTER: (("DaskCluster", None, "/spec/scheduler/spec", BOTH[:1]),),
}
# Small enough for kind or minikube on a laptop.
DEV_SHARDS, DEV_WORKERS = 2, 1
DEV_RESOURCES: Object = {
    "requests": {"cpu": "500m", "memory": "2Gi"},
    "limits": {"memory": "4Gi"},
}
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


def overlay_kustomizations(settings: Settings) -> dict[str, Object]:
    """Folder of an overlay to its kustomization."""
    found = {}
    for path in WORKERS:
        found[f"overlays/gpu-spot/{path}"] = _overlay(
            path, _worker_patch(settings, path, gpu_placement(settings, spot=True))
        )
        found[f"overlays/gpu-ondemand/{path}"] = _overlay(
            path, _worker_patch(settings, path, gpu_placement(settings, spot=False))
        )
        found[f"overlays/dev-cpu/{path}"] = _overlay(path, *_dev_patches(settings, path))
    found[f"overlays/kueue/{SHARDS}"] = _overlay(SHARDS, _queue_patch(settings))
    if settings.claim is not None:
        found["overlays/dev-cpu/base"] = _overlay("base", _small_claim())
    return found


def _overlay(resource: str, *patches: Object) -> Object:
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"../../../{resource}"],
        "patches": list(patches),
    }


def _patch(kind: str, operations: list[Object], name: str | None = None) -> Object:
    target = {"kind": kind} if name is None else {"kind": kind, "name": name}
    return {"target": target, "patch": to_yaml(operations)}


def _set(path: str, value: Any) -> Object:
    """Operation that sets what may be there already: `add` replaces."""
    return {"op": "add", "path": path, "value": value}


def _worker_patch(settings: Settings, path: str, placement: Mapping[str, Any]) -> Object:
    kind, pod = WORKERS[path]
    operations = [_set(f"{pod}/{key}", value) for key, value in placement.items()]
    operations.append(_set(f"{pod}/containers/0/resources", worker_resources(settings, gpu=True)))
    return _patch(kind, operations, _name(settings, path))


def _dev_patches(settings: Settings, path: str) -> list[Object]:
    kind, pod = WORKERS[path]
    operations = [_set(f"{pod}/{part}/0/resources", DEV_RESOURCES) for part in BOTH]
    if path == SHARDS:
        operations += [
            _set("/spec/completions", DEV_SHARDS),
            _set("/spec/parallelism", 1),
            _set("/spec/maxFailedIndexes", 1),
            _set(f"{pod}/containers/0/command", shard_command(settings, DEV_SHARDS)),
        ]
    else:
        operations.append(_set(f"{pod.removesuffix('/spec')}/replicas", DEV_WORKERS))
    return [_patch(kind, operations, _name(settings, path)), *_small_coordinators(path)]


def _small_coordinators(path: str) -> list[Object]:
    """Every pod of a laptop's cluster is small, not the workers alone."""
    return [
        _patch(kind, [_set(f"{pod}/{part}/0/resources", DEV_RESOURCES) for part in parts], name)
        for kind, name, pod, parts in COORDINATORS[path]
    ]


def _queue_patch(settings: Settings) -> Object:
    """Kueue starts the Job when its queue has room, and its flavors say on which nodes."""
    escaped = QUEUE_LABEL.replace("/", "~1")
    _, pod = WORKERS[SHARDS]
    operations = [
        _set(f"/metadata/labels/{escaped}", settings.queue),
        _set("/spec/suspend", True),
        _set(f"{pod}/containers/0/resources", worker_resources(settings, gpu=True)),
    ]
    return _patch("Job", operations, _name(settings, SHARDS))


def _small_claim() -> Object:
    """One node needs no volume that several can write, and a laptop has no 2 TiB."""
    operations = [
        _set("/spec/accessModes", ["ReadWriteOnce"]),
        _set("/spec/resources/requests/storage", "20Gi"),
    ]
    return _patch("PersistentVolumeClaim", operations)


def _name(settings: Settings, path: str) -> str | None:
    return f"{settings.name}-shards" if path == SHARDS else None
