"""Kubernetes: the manifests of a basin run, rendered from settings, and clusters for notebooks.

    settings      what a run is called, how large it is, where it runs
    pods          what all containers have in common: user, volumes, model, nodes
    base, jobs, dask, overlays
                  plain dictionaries, one function a document
    rendering, text
                  the files below ``k8s/``
    notebook      ``kube_cluster()``
    model, retrying
                  what pods run before and around a command

Building manifests talks to no cluster; only `kube_cluster` does.
"""

from __future__ import annotations

from deepforest_xr.k8s.model import fetch_model
from deepforest_xr.k8s.notebook import kube_cluster
from deepforest_xr.k8s.rendering import render, write_manifests
from deepforest_xr.k8s.retrying import retry
from deepforest_xr.k8s.settings import Settings, read_settings

__all__ = [
    "Settings",
    "fetch_model",
    "kube_cluster",
    "read_settings",
    "render",
    "retry",
    "write_manifests",
]
