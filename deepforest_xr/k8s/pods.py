"""Pods: what every container of a run has in common, and where it may run.

No pod gets a token of the API server, runs as root, or writes anywhere but to its volumes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepforest_xr.k8s.settings import DATA_FOLDER, MODEL_FOLDER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepforest_xr.k8s.settings import Settings

    Object = dict[str, Any]

PART_OF = "deepforest-xr"
SERVICE_ACCOUNT = "deepforest-xr"
DASK_CONFIG = "deepforest-xr-dask"
COORDINATOR_PRIORITY = "deepforest-xr-coordinator"
WORKER_PRIORITY = "deepforest-xr-worker"
STAGE = "deepforest-xr/stage"
# The user of k8s/Dockerfile. A number, because runAsNonRoot cannot check a name.
USER = 10001
# Volumes of the pod itself, so nobody else can have put anything there.
TMP, SHARED_MEMORY = "/tmp", "/dev/shm"  # noqa: S108


def labels(component: str, stage: str | None = None) -> Object:
    """Labels by which kubectl and the network policy find what belongs to a run."""
    found = {"app.kubernetes.io/part-of": PART_OF, "app.kubernetes.io/component": component}
    return found if stage is None else {**found, STAGE: stage}


def worker_resources(settings: Settings, *, gpu: bool) -> Object:
    """Cores, memory and GPUs of a worker; memory is never overcommitted, cores may be."""
    requests = {"cpu": settings.worker_cpu, "memory": settings.worker_memory}
    limits = {"memory": settings.worker_memory}
    if gpu:
        # Limit and request must be equal, and the Dask operator wants strings.
        requests[settings.gpu_resource] = limits[settings.gpu_resource] = str(settings.gpus)
    return {"requests": requests, "limits": limits}


def gpu_placement(settings: Settings, *, spot: bool) -> Object:
    """Where workers with a GPU run: nodeSelector, tolerations and affinity of their pods."""
    tolerations = [{"key": settings.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}]
    selector = dict(settings.gpu_selector)
    if not spot:
        return {
            "nodeSelector": selector,
            "tolerations": tolerations,
            "affinity": not_on_spot(settings),
        }
    tolerations.append(
        {
            "key": settings.spot_key,
            "operator": "Equal",
            "value": settings.spot_value,
            "effect": "NoSchedule",
        }
    )
    selector[settings.spot_key] = settings.spot_value
    return {"nodeSelector": selector, "tolerations": tolerations}


def not_on_spot(settings: Settings) -> Object:
    """Affinity that keeps away from spot nodes; NotIn also fits nodes without the label."""
    rule = {"key": settings.spot_key, "operator": "NotIn", "values": [settings.spot_value]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def worker_pod(settings: Settings, container: Object) -> Object:
    """Pod of a worker or shard; overlays say on which nodes, with which GPUs."""
    return _pod(
        settings,
        {**container, "resources": worker_resources(settings, gpu=False)},
        priority=WORKER_PRIORITY,
        has_model=True,
    )


def coordinator_pod(settings: Settings, container: Object, *, has_model: bool) -> Object:
    """Pod of scheduler, runner, plan or finish: small, and never on a spot node."""
    resources = {
        "requests": {"cpu": settings.coordinator_cpu, "memory": settings.coordinator_memory},
        "limits": {"memory": settings.coordinator_memory},
    }
    pod = _pod(
        settings,
        {**container, "resources": resources},
        priority=COORDINATOR_PRIORITY,
        has_model=has_model,
    )
    return {**pod, "affinity": not_on_spot(settings)}


def container(
    settings: Settings, name: str, command: Sequence[str], *, has_model: bool = True
) -> Object:
    """Container with the environment and mounts that all have.

    The command is given in full, so that it is process 1 and gets SIGTERM itself.
    """
    made: Object = {
        "name": name,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command),
        "workingDir": TMP,
        "env": [{"name": variable, "value": TMP} for variable in ("HOME", "TMPDIR")],
    }
    if settings.secret is not None:
        made["envFrom"] = [{"secretRef": {"name": settings.secret}}]
    mounts = [
        {"name": "tmp", "mountPath": TMP},
        {"name": "shared-memory", "mountPath": SHARED_MEMORY},
        {"name": "dask-config", "mountPath": "/etc/dask", "readOnly": True},
    ]
    if settings.claim is not None:
        mounts.append({"name": "data", "mountPath": DATA_FOLDER})
    if has_model:
        mounts.append({"name": "model", "mountPath": _parent(MODEL_FOLDER), "readOnly": True})
    made["volumeMounts"] = mounts
    made["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    return made


def _pod(settings: Settings, main: Object, *, priority: str, has_model: bool) -> Object:
    pod: Object = {
        "serviceAccountName": SERVICE_ACCOUNT,
        "automountServiceAccountToken": False,
        # Service links would add a variable for each Service of the namespace.
        "enableServiceLinks": False,
        "priorityClassName": priority,
        "terminationGracePeriodSeconds": settings.grace_s,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [main],
        "volumes": _volumes(settings, has_model=has_model),
    }
    if has_model:
        pod["initContainers"] = [_model_container(settings, main["resources"])]
    return pod


def _volumes(settings: Settings, *, has_model: bool) -> list[Object]:
    volumes: list[Object] = [
        {"name": "tmp", "emptyDir": {"sizeLimit": settings.scratch}},
        {
            "name": "shared-memory",
            "emptyDir": {"medium": "Memory", "sizeLimit": settings.shared_memory},
        },
        {"name": "dask-config", "configMap": {"name": DASK_CONFIG}},
    ]
    if settings.claim is not None:
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": settings.claim}})
    if has_model:
        volumes.append({"name": "model", "emptyDir": {}})
    return volumes


def _model_container(settings: Settings, resources: Object) -> Object:
    """Verify the checkpoint, and put it where the plan names it, before anything starts."""
    command = ["deepforest-xr", "k8s", "fetch-model", settings.model, "--to", MODEL_FOLDER]
    if settings.model_sha256 is not None:
        command += ["--sha256", settings.model_sha256]
    made = container(settings, "model", command)
    for mount in made["volumeMounts"]:
        if mount["name"] == "model":
            del mount["readOnly"]
    made["env"].append({"name": "DEEPFOREST_XR_HOME", "value": _parent(MODEL_FOLDER)})
    # Without GPUs: an overlay adds them to the main container alone, and a pod counts the larger.
    return {**made, "resources": resources}


def _parent(folder: str) -> str:
    return folder.rpartition("/")[0]
