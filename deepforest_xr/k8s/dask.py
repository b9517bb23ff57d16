"""DaskJobs and an interactive DaskCluster, for clusters with the Dask operator.

The operator turns scheduler and workers into Deployments, which start again whatever ends. The
runner is a bare pod: it is never restarted by Kubernetes, because then no exit code could end it
(``OnFailure`` knows no limit); `deepforest-xr k8s retry` in it starts the run again where the
scheduler was lost, a limited number of times, and passes every other exit code on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepforest_xr.k8s.jobs import INTERRUPTED, run_command
from deepforest_xr.k8s.pods import TMP, container, coordinator_pod, labels, worker_pod

if TYPE_CHECKING:
    from deepforest_xr.k8s.settings import Settings

    Object = dict[str, Any]

API = "kubernetes.dask.org/v1"
TCP, DASHBOARD = ("tcp-comm", 8786), ("http-dashboard", 8787)
# A region's cluster may lose its scheduler more often than a shard its pod.
ATTEMPTS = 20
# A worker without a scheduler ends, and its Deployment starts it afresh.
DEATH_TIMEOUT_S = 120


def dask_jobs(settings: Settings) -> list[Object]:
    """The DaskJobs of a run: one, or several that share the tiles."""
    return [dask_job(settings, i) for i in range(settings.dask_jobs)]


def dask_job(settings: Settings, index: int = 0) -> Object:
    """One DaskJob: a scheduler, its workers, and the runner that hands out the tiles."""
    name = dask_job_name(settings, index)
    runner = container(settings, "runner", runner_command(settings, index))
    pod = coordinator_pod(settings, runner, has_model=True)
    job = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": settings.run_deadline_s,
        **pod,
    }
    return {
        "apiVersion": API,
        "kind": "DaskJob",
        "metadata": {
            "name": name,
            "namespace": settings.namespace,
            # The operator hands these on to all that it makes.
            "labels": labels("dask", "run"),
        },
        "spec": {
            "job": {"spec": job},
            "cluster": {"spec": _cluster(settings, name, settings.dask_workers)},
        },
    }


def dask_job_name(settings: Settings, index: int) -> str:
    """Name of a DaskJob, also of its cluster."""
    return settings.name if settings.dask_jobs == 1 else f"{settings.name}-{index}"


def dask_cluster(settings: Settings, name: str | None = None, workers: int | None = None) -> Object:
    """An interactive cluster that removes itself when nobody has used it for a while.

    Parameters
    ----------
    settings : Settings
        Image, sizes and places.
    name : str, optional
        Name of the cluster; default ``<run>-notebook``.
    workers : int, optional
        Workers at the start; default that of the settings.

    Returns
    -------
    dict
        A DaskCluster of ``kubernetes.dask.org/v1``.
    """
    name = name or f"{settings.name}-notebook"
    spec = _cluster(settings, name, workers or settings.notebook_workers)
    return {
        "apiVersion": API,
        "kind": "DaskCluster",
        "metadata": {
            "name": name,
            "namespace": settings.namespace,
            "labels": labels("dask", "notebook"),
        },
        # A DaskJob's cluster would drop it; it ends with its runner.
        "spec": {"idleTimeout": settings.idle_timeout_s, **spec},
    }


def runner_command(settings: Settings, index: int = 0) -> list[str]:
    """Command of a DaskJob's runner."""
    scheduler = f"tcp://{dask_job_name(settings, index)}-scheduler:{TCP[1]}"
    run = [*run_command(settings), "--scheduler", scheduler]
    if settings.dask_jobs > 1:
        run += ["--shard", f"{index}/{settings.dask_jobs}"]
    limits = ["--attempts", str(ATTEMPTS), "--on", str(INTERRUPTED)]
    return ["deepforest-xr", "k8s", "retry", *limits, "--", *run]


def worker_command(settings: Settings) -> list[str]:
    """Command of a worker.

    One worker a pod, under the name by which the operator scales it down. No nanny: the kubelet
    starts a worker again, the kernel ends one that takes too much memory, and SIGTERM reaches
    the process that has the tile. ``GPU`` counts tiles at a time; there is one also without GPUs.
    """
    return [
        *("dask", "worker", "--name", "$(DASK_WORKER_NAME)"),
        *("--nthreads", str(settings.worker_threads), "--resources", "GPU=1"),
        *("--no-nanny", "--no-dashboard", "--death-timeout", str(DEATH_TIMEOUT_S)),
        *("--local-directory", TMP),
    ]


def _cluster(settings: Settings, name: str, workers: int) -> Object:
    worker = container(settings, "worker", worker_command(settings))
    return {
        "worker": {"replicas": workers, "spec": worker_pod(settings, worker)},
        "scheduler": {"spec": _scheduler_pod(settings), "service": _service(name)},
    }


def _scheduler_pod(settings: Settings) -> Object:
    # The pod's own address: a network policy says who reaches it.
    command = ["dask", "scheduler", "--host", "0.0.0.0"]  # noqa: S104
    made = container(settings, "scheduler", command, has_model=False)
    made["ports"] = [{"name": name, "containerPort": port} for name, port in (TCP, DASHBOARD)]
    health = {"httpGet": {"port": DASHBOARD[0], "path": "/health"}, "timeoutSeconds": 5}
    # Two minutes to start; a minute without an answer, and it is started again.
    made["startupProbe"] = {**health, "periodSeconds": 2, "failureThreshold": 60}
    made["readinessProbe"] = {**health, "periodSeconds": 5}
    made["livenessProbe"] = {**health, "periodSeconds": 20, "failureThreshold": 3}
    return coordinator_pod(settings, made, has_model=False)


def _service(name: str) -> Object:
    """Service under the port names that the operator looks for."""
    return {
        "type": "ClusterIP",
        "selector": {"dask.org/cluster-name": name, "dask.org/component": "scheduler"},
        "ports": [
            {"name": port_name, "protocol": "TCP", "port": port, "targetPort": port_name}
            for port_name, port in (TCP, DASHBOARD)
        ],
    }
