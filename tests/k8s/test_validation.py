"""Every manifest passes strict schemas, and each known mistake in one would be refused."""

from pathlib import Path

import pytest

from deepforest_xr.k8s import Settings, render, write_manifests

from .manifests import on_addresses

FOLDER = Path(__file__).parents[2] / "k8s"

SHARDS, JOB, CLUSTER = (
    "indexed-job/shards.yaml",
    "dask-job/dask-job.yaml",
    "dask-cluster/dask-cluster.yaml",
)
# What is wrong: file, text, what stands there instead, a word of the complaint.
MISTAKES = {
    "a GPU as a number": (JOB, "memory: 16Gi", "nvidia.com/gpu: 1", "not of type 'string'"),
    "a core as a number": (JOB, "cpu: '4'", "cpu: 4", "not of type 'string'"),
    "a restart policy that is none": (JOB, "restartPolicy: Never", "restartPolicy: Sometimes",
                                      "Sometimes"),
    "an unknown field of a Dask object": (JOB, "worker:\n", "idleTimeoot: 60\n      worker:\n",
                                          "idleTimeoot"),
    "an unknown field of a pod": (JOB, "affinity:", "afinity:", "afinity"),
    "replicas as text": (JOB, "replicas: 8", "replicas: '8'", "not of type 'integer'"),
    "a kind that is none": (JOB, "kind: DaskJob", "kind: DaskJub", "unknown kind"),
    "a port of another name": (JOB, "name: http-dashboard\n            protocol",
                               "name: http\n            protocol", "http-dashboard"),
    "a worker that is not restarted": (CLUSTER, "replicas: 2\n    spec:\n",
                                       "replicas: 2\n    spec:\n      restartPolicy: Never\n",
                                       "Always or absent"),
    "a volume that is not there": (CLUSTER, "- name: data\n          mountPath",
                                   "- name: dta\n          mountPath", "dta"),
    "FailIndex without a limit per index": (SHARDS, "backoffLimitPerIndex", "backoffLimit",
                                            "requires backoffLimitPerIndex"),
    "an Indexed Job that is not": (SHARDS, "completionMode: Indexed", "completionMode: NonIndexed",
                                   "requires completionMode Indexed"),
    "a failure policy with restarts": (SHARDS, "restartPolicy: Never", "restartPolicy: OnFailure",
                                       "Never"),
    "exit codes in disorder": (SHARDS, "- 1\n        - 42", "- 42\n        - 1", "ordered"),
    "more failures than shards": (SHARDS, "maxFailedIndexes: 6", "maxFailedIndexes: 65",
                                  "at most completions"),
    "a key twice": (SHARDS, "parallelism: 8", "parallelism: 8\n  parallelism: 3", "given twice"),
    "a request above its limit": (SHARDS, "memory: 16Gi\n          limits",
                                  "memory: 17Gi\n          limits", "less than or equal"),
}  # fmt: skip


def test_every_manifest_is_valid(problems):
    assert problems(FOLDER) == []


@pytest.mark.parametrize(
    "settings",
    [
        on_addresses(),
        Settings(dask_jobs=3, gpus=4, shards=1, parallelism=1, name="a" * 40),
        Settings(
            service_account_annotations={"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/maps"},
            storage_class="fast",
            model_sha256="0f" * 32,
        ),
    ],
    ids=["addresses", "several jobs", "identity"],
)
def test_other_settings_are_valid_too(problems, kustomized, settings, tmp_path):
    write_manifests(settings, tmp_path / "k8s")
    for number, path in enumerate((tmp_path / "k8s").rglob("kustomization.yaml")):
        (tmp_path / f"{number}.yaml").write_text(kustomized(path.parent))
    assert problems(tmp_path) == []


def test_every_overlay_is_valid(problems, kustomized, tmp_path):
    folders = [path.parent for path in FOLDER.rglob("kustomization.yaml")]
    assert len(folders) == 15
    for number, folder in enumerate(folders):
        (tmp_path / f"{number}.yaml").write_text(kustomized(folder))
    assert problems(tmp_path) == []


def test_each_mistake_is_refused(problems, tmp_path):
    rendered = render(Settings())
    for number, (path, old, new, _) in enumerate(MISTAKES.values()):
        assert old in rendered[path], old
        (tmp_path / f"mistake-{number}.yaml").write_text(rendered[path].replace(old, new, 1))
    lines = problems(tmp_path)
    for number, (what, mistake) in enumerate(MISTAKES.items()):
        about = [line for line in lines if f"mistake-{number}.yaml" in line]
        assert any(mistake[3] in line for line in about), f"{what}: {about}"
