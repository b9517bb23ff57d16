"""From settings to the files below ``k8s/``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepforest_xr.atomic import staged
from deepforest_xr.k8s.base import base_documents
from deepforest_xr.k8s.dask import dask_cluster, dask_jobs
from deepforest_xr.k8s.jobs import finish_job, plan_job, shards_job
from deepforest_xr.k8s.overlays import DASK_CLUSTER, DASK_JOB, SHARDS, overlay_kustomizations
from deepforest_xr.k8s.text import to_yaml

if TYPE_CHECKING:
    from deepforest_xr.k8s.settings import Settings

    Object = dict[str, Any]

HEADER = "# Rendered by `deepforest-xr k8s render`: change the settings, not this file.\n"


def render(settings: Settings) -> dict[str, str]:
    """Render every manifest of a run.

    Parameters
    ----------
    settings : Settings
        What the run is called, how large it is, and where it runs.

    Returns
    -------
    dict
        Path below ``k8s/`` to the text of a YAML file, kustomizations included. The same
        settings always give the same text.
    """
    steps = {"plan.yaml": [plan_job(settings)], "finish.yaml": [finish_job(settings)]}
    folders = {
        "base": base_documents(settings),
        SHARDS: {**steps, "shards.yaml": [shards_job(settings)]},
        DASK_JOB: {**steps, "dask-job.yaml": dask_jobs(settings)},
        DASK_CLUSTER: {"dask-cluster.yaml": [dask_cluster(settings)]},
    }
    texts = {}
    for folder, files in folders.items():
        for name, documents in files.items():
            texts[f"{folder}/{name}"] = HEADER + to_yaml(*documents)
        texts[f"{folder}/kustomization.yaml"] = HEADER + to_yaml(_kustomization(list(files)))
    for folder, document in overlay_kustomizations(settings).items():
        texts[f"{folder}/kustomization.yaml"] = HEADER + to_yaml(document)
    return texts


def write_manifests(settings: Settings, folder: str | Path) -> list[Path]:
    """Write every manifest below a folder, over those of an earlier rendering.

    Parameters
    ----------
    settings : Settings
        See `render`.
    folder : path
        Made if it is not there. Files of other names stay.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    WriteError
        If one cannot be written.
    """
    written = []
    for name, text in render(settings).items():
        path = Path(folder) / name
        with staged(path, overwrite=True) as partial:
            partial.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _kustomization(files: list[str]) -> Object:
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": files,
    }
