"""A Dask cluster from a notebook: ``kube_cluster()`` makes it and gives a client."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deepforest_xr.errors import ConfigError, MissingExtraError
from deepforest_xr.k8s.dask import dask_cluster
from deepforest_xr.k8s.overlays import DASK_CLUSTER, WORKERS
from deepforest_xr.k8s.pods import gpu_placement, worker_resources
from deepforest_xr.k8s.settings import Settings

if TYPE_CHECKING:
    from distributed import Client

    Object = dict[str, Any]


def kube_cluster(
    name: str = "notebook",
    *,
    workers: int = 2,
    namespace: str | None = None,
    image: str | None = None,
    gpu: bool = True,
    spot: bool = True,
    settings: Settings | None = None,
) -> Client:
    """Start a Dask cluster through the Dask operator, and connect to it.

    Parameters
    ----------
    name : str
        Name of the cluster in its namespace.
    workers : int
        Workers at the start; ``client.cluster.scale(8)`` changes their number.
    namespace, image : str, optional
        Instead of those of the settings.
    gpu : bool
        Workers with GPUs, on GPU nodes; otherwise anywhere, without.
    spot : bool
        With `gpu`: workers on spot nodes. The scheduler never is.
    settings : Settings, optional
        As for the batch manifests, so that a notebook's cluster is like theirs.

    Returns
    -------
    distributed.Client
        Connected once the scheduler answers; workers come when nodes have room. Its ``cluster``
        is the ``dask_kubernetes.operator.KubeCluster``. The cluster goes with
        ``client.cluster.close()``, at the end of the Python process, or when it has been idle for
        ``settings.idle_timeout_s``.

    Raises
    ------
    MissingExtraError
        Without dask-kubernetes (``pip install "deepforest-xr[k8s]"``).
    ConfigError
        If a name or number cannot be.
    """
    try:
        from dask_kubernetes.operator import KubeCluster
    except ImportError as error:
        raise MissingExtraError(
            'kube_cluster needs dask-kubernetes: pip install "deepforest-xr[k8s]".'
        ) from error
    from distributed import Client

    chosen = settings or Settings()
    chosen = replace(chosen, namespace=namespace or chosen.namespace, image=image or chosen.image)
    spec = notebook_cluster(chosen, name, workers, gpu=gpu, spot=spot)
    cluster = KubeCluster(custom_cluster_spec=spec, namespace=chosen.namespace, quiet=True)
    try:
        return Client(cluster)
    except BaseException:
        cluster.close()
        raise


def notebook_cluster(
    settings: Settings, name: str, workers: int, *, gpu: bool, spot: bool
) -> Object:
    """Build the DaskCluster that `kube_cluster` asks for.

    Parameters
    ----------
    settings : Settings
        Image, sizes and places.
    name : str
        Name of the cluster.
    workers : int
        Workers at the start, at least 1.
    gpu, spot : bool
        Where the workers run.

    Returns
    -------
    dict
        A DaskCluster: what ``dask-cluster/`` renders, with what the overlays add.
    """
    if workers < 1:
        raise ConfigError(f"workers={workers}: a cluster starts with at least one.")
    made = dask_cluster(replace(settings, name=name), name, workers)
    if not gpu:
        return made
    pod = made
    for key in WORKERS[DASK_CLUSTER][1].strip("/").split("/"):
        pod = pod[key]
    pod.update(gpu_placement(settings, spot=spot))
    pod["containers"][0]["resources"] = worker_resources(settings, gpu=True)
    return made
