"""Taking manifests apart."""

import yaml

from deepforest_xr.k8s import Settings
from deepforest_xr.k8s.settings import DEFAULT_PLAN

# Where each kind has pods: name of the pod's role to the path of its spec.
PODS = {
    "Job": {"job": "spec.template.spec"},
    "DaskJob": {
        "runner": "spec.job.spec",
        "worker": "spec.cluster.spec.worker.spec",
        "scheduler": "spec.cluster.spec.scheduler.spec",
    },
    "DaskCluster": {"worker": "spec.worker.spec", "scheduler": "spec.scheduler.spec"},
}


def walk(text):
    """Documents of a YAML text."""
    return [document for document in yaml.safe_load_all(text) if document is not None]


def at(document, path):
    for key in path.split("."):
        document = document[key]
    return document


def pods(documents):
    """(role, pod spec) of every pod in the documents; a Job's role is its name's last word."""
    for document in documents:
        for role, path in PODS.get(document["kind"], {}).items():
            name = document["metadata"]["name"]
            yield name.rpartition("-")[2] if role == "job" else role, at(document, path)


def containers(pod):
    return [*pod.get("initContainers", []), *pod["containers"]]


def on_addresses():
    """Settings of a run that needs neither a volume nor a secret."""
    out = "s3://maps/amazon"
    plan = DEFAULT_PLAN.replace("/data/amazon-2023", out)
    return Settings(
        claim=None, secret=None, out=out, plan=plan, model="https://models.example.org/df1b"
    )
