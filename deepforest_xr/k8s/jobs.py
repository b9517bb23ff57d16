"""Plain Jobs, for clusters without the Dask operator: plan, then shards, then finish.

What the commands' exit codes mean here:

    0   done
    1   an error that trying again would not mend: the step, or this shard, is given up
    2   wrong usage, so the manifest is at fault: the whole Job fails
    42  tiles of this shard were set aside: the shard is given up, the others go on
    75  interrupted: tried again, a few times
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepforest_xr.k8s.base import plan_config_name
from deepforest_xr.k8s.pods import STAGE, container, coordinator_pod, labels, worker_pod
from deepforest_xr.k8s.settings import PLAN_FILE, PLAN_FOLDER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepforest_xr.k8s.settings import Settings

    Object = dict[str, Any]

ERROR, USAGE, SET_ASIDE, INTERRUPTED = 1, 2, 42, 75
# First of all: a pod that lost its node (or was evicted) has failed at nothing.
IGNORE_DISRUPTION: Object = {
    "action": "Ignore",
    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
}


def plan_job(settings: Settings) -> Object:
    """The Job that searches the catalog, freezes the items and writes the empty store."""
    made = container(
        settings, "plan", ["deepforest-xr", "basin", "plan", f"{PLAN_FOLDER}/{PLAN_FILE}"]
    )
    made["volumeMounts"].append({"name": "plan", "mountPath": PLAN_FOLDER, "readOnly": True})
    pod = coordinator_pod(settings, made, has_model=True)
    pod["volumes"].append({"name": "plan", "configMap": {"name": plan_config_name(settings)}})
    return _step(settings, "plan", pod)


def finish_job(settings: Settings) -> Object:
    """The Job that verifies every tile and builds pictures, mosaic and catalog."""
    made = container(
        settings, "finish", ["deepforest-xr", "basin", "finish", settings.out], has_model=False
    )
    return _step(settings, "finish", coordinator_pod(settings, made, has_model=False))


def shards_job(settings: Settings) -> Object:
    """The Indexed Job: each pod does its share of the tiles and skips those that are done."""
    pod = worker_pod(settings, container(settings, "shard", shard_command(settings)))
    spec = {
        "completionMode": "Indexed",
        "completions": settings.shards,
        "parallelism": settings.parallelism,
        "backoffLimitPerIndex": settings.retries,
        # A model or store that is missing fails every shard: then the Job need not try them all.
        "maxFailedIndexes": max(1, settings.shards // 10),
        # A pod that is still ending may hold the lease of a tile.
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": _policy(
            _on_exit("FailIndex", ERROR, SET_ASIDE),
            _on_exit("FailJob", USAGE),
            _on_exit("Count", INTERRUPTED),
        ),
        "activeDeadlineSeconds": settings.run_deadline_s,
        "ttlSecondsAfterFinished": settings.keep_s,
    }
    return _job(settings, "shards", "run", spec, {**pod, "restartPolicy": "Never"})


def shard_command(settings: Settings, shards: int | None = None) -> list[str]:
    """Command of a shard; Kubernetes fills in the number."""
    share = f"$(JOB_COMPLETION_INDEX)/{shards or settings.shards}"
    at_once = ["--workers", str(settings.worker_threads)] if settings.worker_threads > 1 else []
    return [*run_command(settings), "--shard", share, *at_once]


def run_command(settings: Settings) -> list[str]:
    """Command that maps what is not done, of shards and runners alike."""
    return ["deepforest-xr", "basin", "run", settings.out, "--lease", str(settings.lease_s)]


def _step(settings: Settings, stage: str, pod: Object) -> Object:
    spec = {
        "backoffLimit": settings.retries,
        "podFailurePolicy": _policy(_on_exit("FailJob", ERROR, USAGE)),
        "activeDeadlineSeconds": settings.step_deadline_s,
        "ttlSecondsAfterFinished": settings.keep_s,
    }
    return _job(settings, stage, stage, spec, {**pod, "restartPolicy": "Never"})


def _job(settings: Settings, what: str, stage: str, spec: Object, pod: Object) -> Object:
    found = labels(what)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{settings.name}-{what}",
            "namespace": settings.namespace,
            "labels": {**found, STAGE: stage},
        },
        "spec": {**spec, "template": {"metadata": {"labels": found}, "spec": pod}},
    }


def _policy(*rules: Object) -> Object:
    return {"rules": [IGNORE_DISRUPTION, *rules]}


def _on_exit(action: str, *codes: int) -> Object:
    """Rule for the exit codes of any container, that of the model too."""
    values: Sequence[int] = sorted(codes)
    return {"action": action, "onExitCodes": {"operator": "In", "values": list(values)}}
