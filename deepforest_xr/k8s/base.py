"""What a namespace needs before anything runs in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepforest_xr.k8s.pods import (
    COORDINATOR_PRIORITY,
    DASK_CONFIG,
    PART_OF,
    SERVICE_ACCOUNT,
    WORKER_PRIORITY,
    labels,
)
from deepforest_xr.k8s.settings import PLAN_FILE

if TYPE_CHECKING:
    from deepforest_xr.k8s.settings import Settings

    Object = dict[str, Any]

NOTEBOOK_ROLE = "deepforest-xr-notebook"
PLAN_CONFIG = "plan"
# A worker is a pod: what it would spill it would spill into the same memory, and the kernel,
# not a nanny, ends it at its limit.
DASK_YAML = """\
distributed:
  scheduler:
    allowed-failures: 5
    work-stealing: false
    worker-ttl: 5 minutes
  worker:
    memory:
      target: false
      spill: false
      pause: 0.9
      terminate: false
  comm:
    timeouts:
      connect: 120s
      tcp: 120s
    retry:
      count: 3
temporary-directory: /tmp
"""


def base_documents(settings: Settings) -> dict[str, list[Object]]:
    """File name to the documents in it."""
    found = {
        "namespace.yaml": [namespace(settings)],
        "service-account.yaml": [service_account(settings), notebook_role(settings)],
        "priority-classes.yaml": priority_classes(),
        "dask-config.yaml": [dask_config(settings)],
        "plan.yaml": [plan_config(settings)],
        "network-policy.yaml": [network_policy(settings)],
        "disruption-budget.yaml": [disruption_budget(settings)],
    }
    if settings.claim is not None:
        found["claim.yaml"] = [claim(settings)]
    return found


def plan_config_name(settings: Settings) -> str:
    """Name of the ConfigMap with the plan: one a run, so that two runs can share a namespace."""
    return f"{settings.name}-{PLAN_CONFIG}"


def namespace(settings: Settings) -> Object:
    """The namespace; it admits only pods that fit the restricted security standard."""
    enforced = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    meta = {"name": settings.namespace, "labels": {**labels("namespace"), **enforced}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}


def service_account(settings: Settings) -> Object:
    """The identity of all pods: none in the cluster, that of a cloud where annotated."""
    meta = _meta(settings, SERVICE_ACCOUNT, "identity")
    if settings.service_account_annotations:
        meta["annotations"] = dict(settings.service_account_annotations)
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": meta,
        "automountServiceAccountToken": False,
    }


def notebook_role(settings: Settings) -> Object:
    """What a notebook's own account needs to make a cluster; bind it to that account."""
    edit = ["get", "list", "watch", "create", "patch", "update", "delete"]
    kinds = ["daskclusters", "daskworkergroups", "daskautoscalers"]
    dask = [*kinds, *(f"{kind}/{part}" for kind in kinds for part in ("status", "scale"))]
    rules = [
        {"apiGroups": ["kubernetes.dask.org"], "resources": dask, "verbs": edit},
        {
            "apiGroups": [""],
            "resources": ["pods", "pods/log", "services", "events"],
            "verbs": ["get", "list", "watch"],
        },
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "watch"]},
        # The dashboard and the scheduler, for a notebook outside the cluster.
        {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["get", "create"]},
    ]
    meta = _meta(settings, NOTEBOOK_ROLE, "identity")
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": meta,
        "rules": rules,
    }


def priority_classes() -> list[Object]:
    """Schedulers before workers; neither evicts the pods of others."""
    texts = {
        COORDINATOR_PRIORITY: (1000, "Schedulers, runners, plan and finish of deepforest-xr."),
        WORKER_PRIORITY: (-1000, "Workers of deepforest-xr: they resume wherever they stop."),
    }
    return [
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name, "labels": labels("priority")},
            "value": value,
            "preemptionPolicy": "Never",
            "description": text,
        }
        for name, (value, text) in texts.items()
    ]


def dask_config(settings: Settings) -> Object:
    """Dask's own settings, in the folder where it looks for them."""
    return _config_map(settings, DASK_CONFIG, {"dask.yaml": DASK_YAML})


def plan_config(settings: Settings) -> Object:
    """The plan and the files that it names."""
    return _config_map(
        settings, plan_config_name(settings), {PLAN_FILE: settings.plan, **settings.plan_files}
    )


def claim(settings: Settings) -> Object:
    """The claim that all pods write to at once."""
    spec: Object = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": settings.claim_size}},
    }
    if settings.storage_class is not None:
        spec["storageClassName"] = settings.storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _meta(settings, str(settings.claim), "data"),
        "spec": spec,
    }


def network_policy(settings: Settings) -> Object:
    """In: the run itself and the operator. Out: the run itself, names, and the web."""
    ours: Object = {"matchLabels": {"app.kubernetes.io/part-of": PART_OF}}
    operator = {"matchLabels": {"kubernetes.io/metadata.name": settings.operator_namespace}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _meta(settings, "deepforest-xr", "network"),
        "spec": {
            "podSelector": ours,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [{"podSelector": ours}]},
                {
                    "from": [{"namespaceSelector": operator}],
                    "ports": _ports("TCP", 8786, 8787),
                },
            ],
            "egress": [
                {"to": [{"podSelector": ours}]},
                {"ports": [*_ports("UDP", 53), *_ports("TCP", 53)]},
                # Catalogs and stores have no fixed addresses, so only the port can be named.
                {"ports": _ports("TCP", 443)},
            ],
        },
    }


def disruption_budget(settings: Settings) -> Object:
    """A drain waits for schedulers: their loss sends every runner back to its ledger."""
    selector = {"app.kubernetes.io/part-of": PART_OF, "dask.org/component": "scheduler"}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _meta(settings, "deepforest-xr-scheduler", "scheduler"),
        "spec": {
            "maxUnavailable": 0,
            # One that does not work holds up no drain.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector},
        },
    }


def _config_map(settings: Settings, name: str, data: dict[str, str]) -> Object:
    meta = _meta(settings, name, "configuration")
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


def _meta(settings: Settings, name: str, component: str) -> Object:
    return {"name": name, "namespace": settings.namespace, "labels": labels(component)}


def _ports(protocol: str, *numbers: int) -> list[Object]:
    return [{"protocol": protocol, "port": number} for number in numbers]
