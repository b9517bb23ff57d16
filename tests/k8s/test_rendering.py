"""The YAML below k8s/ is what the builders make, and says what the runs rely on."""

from pathlib import Path

import pytest
import yaml

from deepforest_xr.k8s import Settings, render, write_manifests

from .manifests import containers, on_addresses, pods, walk

FOLDER = Path(__file__).parents[2] / "k8s"
OVERLAYS = sorted(path.parent.relative_to(FOLDER) for path in FOLDER.rglob("kustomization.yaml"))
WORKER_OVERLAYS = [path for path in OVERLAYS if path.parts[0] == "overlays"]


def test_what_is_committed_is_what_is_rendered(rendered):
    there = {
        str(path.relative_to(FOLDER)): path.read_text(encoding="utf-8")
        for path in FOLDER.rglob("*.yaml")
    }
    assert there == rendered


def test_rendering_twice_gives_the_same_text_and_rewrites_what_was_changed(tmp_path, rendered):
    write_manifests(Settings(), tmp_path)
    (tmp_path / "base" / "namespace.yaml").write_text("changed by hand")
    (tmp_path / "mine.yaml").write_text("kept")
    written = write_manifests(Settings(), tmp_path)
    assert {str(p.relative_to(tmp_path)): p.read_text() for p in written} == rendered
    assert (tmp_path / "mine.yaml").read_text() == "kept"


def test_every_file_is_in_its_kustomization():
    for folder in ("base", "indexed-job", "dask-job", "dask-cluster"):
        listed = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text())["resources"]
        there = {path.name for path in (FOLDER / folder).glob("*.yaml")}
        assert set(listed) == there - {"kustomization.yaml"}


def test_every_pod_fits_the_restricted_security_standard(documents):
    found = list(pods(documents.values()))
    assert len(found) == 8
    for role, pod in found:
        assert pod["automountServiceAccountToken"] is False
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, role
            # A root that cannot be written needs a place for temporary files.
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


def test_the_user_of_the_image_is_that_of_the_pods(documents):
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    user = next(line.split()[1] for line in lines if line.startswith("USER "))
    for _, pod in pods(documents.values()):
        context = pod["securityContext"]
        assert user == f"{context['runAsUser']}:{context['runAsGroup']}"


def test_the_image_pins_what_the_library_depends_on():
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    pinned = dict(
        line.split("==")
        for line in (FOLDER / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    for text in requires("deepforest-xr"):
        requirement = Requirement(text)
        extra = str(requirement.marker or "")
        if not extra or 'extra == "k8s"' in extra or 'extra == "viz"' in extra:
            assert requirement.specifier.contains(pinned[requirement.name]), text


def test_every_container_has_memory_of_its_own_and_asks_for_what_it_may_take(documents):
    for _, pod in pods(documents.values()):
        for container in containers(pod):
            resources = container["resources"]
            assert resources["requests"]["memory"] == resources["limits"]["memory"]
            assert all(isinstance(v, str) for part in resources.values() for v in part.values())


def test_shared_memory_is_larger_than_a_runtime_gives(documents):
    for _, pod in pods(documents.values()):
        volume = next(v for v in pod["volumes"] if v["name"] == "shared-memory")
        assert volume["emptyDir"]["medium"] == "Memory"
        for container in pod["containers"]:
            assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container["volumeMounts"]


def test_the_model_is_verified_before_whatever_uses_it(documents):
    has_model = {role: bool(pod.get("initContainers")) for role, pod in pods(documents.values())}
    assert has_model == {
        "plan": True, "shards": True, "finish": False, "runner": True, "worker": True,
        "scheduler": False,
    }  # fmt: skip
    checksum = "0f" * 32
    made = render(Settings(model="https://models.example.org/df1b", model_sha256=checksum))
    (job,) = yaml.safe_load_all(made["indexed-job/shards.yaml"])
    (fetch,) = job["spec"]["template"]["spec"]["initContainers"]
    assert fetch["command"][3:] == [
        "https://models.example.org/df1b", "--to", "/model/checkpoint", "--sha256", checksum,
    ]  # fmt: skip
    writable = [m["mountPath"] for m in fetch["volumeMounts"] if not m.get("readOnly")]
    assert "/model" in writable
    (main,) = job["spec"]["template"]["spec"]["containers"]
    assert {"name": "model", "mountPath": "/model", "readOnly": True} in main["volumeMounts"]


def test_a_shard_makes_as_many_tiles_at_once_as_a_worker_has_threads():
    (usual,) = yaml.safe_load_all(render(Settings())["indexed-job/shards.yaml"])
    (job,) = yaml.safe_load_all(render(Settings(worker_threads=2))["indexed-job/shards.yaml"])
    commands = [one["spec"]["template"]["spec"]["containers"][0]["command"] for one in (usual, job)]
    assert "--workers" not in commands[0]
    assert commands[1] == [*commands[0], "--workers", "2"]


def test_a_secret_that_is_named_must_be_there(documents):
    for _, pod in pods(documents.values()):
        for container in containers(pod):
            # Not optional: a pod without its credentials must not start.
            assert container["envFrom"] == [{"secretRef": {"name": "deepforest-xr"}}]
    open_data = render(Settings(secret=None))
    assert not any("secretRef" in text for text in open_data.values())


def test_data_without_a_claim_mounts_none():
    made = render(on_addresses())
    assert "base/claim.yaml" not in made
    assert "overlays/dev-cpu/base/kustomization.yaml" not in made
    assert not any("persistentVolumeClaim" in text for text in made.values())


def test_a_shard_of_the_indexed_job(documents):
    job = documents["Job", "amazon-shards"]["spec"]
    rules = job["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["Ignore", "FailIndex", "FailJob", "Count"]
    # A pod that lost its node leaves with 75: the first rule that fits decides.
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    codes = {rule["action"]: rule["onExitCodes"]["values"] for rule in rules[1:]}
    assert codes == {"FailIndex": [1, 42], "FailJob": [2], "Count": [75]}
    assert job["completionMode"] == "Indexed"
    assert job["backoffLimitPerIndex"] == 3
    # A model that is missing fails every shard; the Job ends before it has tried them all.
    assert 0 < job["maxFailedIndexes"] < job["completions"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    (shard,) = job["template"]["spec"]["containers"]
    assert shard["command"][-1] == f"$(JOB_COMPLETION_INDEX)/{job['completions']}"


@pytest.mark.parametrize("name", ["amazon-plan", "amazon-shards", "amazon-finish"])
def test_no_job_goes_on_for_ever(documents, name):
    spec = documents["Job", name]["spec"]
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["ttlSecondsAfterFinished"] > 0
    retries = spec.get("backoffLimitPerIndex", spec.get("backoffLimit"))
    assert 0 < retries < 10


@pytest.mark.parametrize("step", ["plan", "finish"])
def test_an_error_of_a_step_ends_it_at_once(documents, step):
    rules = documents["Job", f"amazon-{step}"]["spec"]["podFailurePolicy"]["rules"]
    assert rules[0]["action"] == "Ignore"
    assert rules[1] == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1, 2]}}
    # Of any container: the one that fetches the model, too.
    assert "containerName" not in rules[1]["onExitCodes"]


def test_the_runner_of_a_dask_job_ends_with_its_own_exit_code(documents):
    runner = documents["DaskJob", "amazon"]["spec"]["job"]["spec"]
    assert runner["restartPolicy"] == "Never"
    assert runner["activeDeadlineSeconds"] > 0
    command = runner["containers"][0]["command"]
    assert command[:3] == ["deepforest-xr", "k8s", "retry"]
    assert command[command.index("--on") + 1] == "75"


def test_dask_deployments_restart_whatever_ends(documents):
    for key in (("DaskJob", "amazon"), ("DaskCluster", "amazon-notebook")):
        for role, pod in pods([documents[key]]):
            assert role == "runner" or "restartPolicy" not in pod


def test_a_worker_has_the_name_by_which_the_operator_scales(documents):
    for role, pod in pods([documents["DaskJob", "amazon"], documents["DaskCluster", "amazon-notebook"]]):  # fmt: skip # noqa: E501
        if role == "worker":
            command = pod["containers"][0]["command"]
            assert command[command.index("--name") + 1] == "$(DASK_WORKER_NAME)"
            assert command[command.index("--resources") + 1] == "GPU=1"
            assert "--death-timeout" in command


def test_the_scheduler_has_the_ports_that_the_operator_looks_for(documents):
    for cluster in (
        documents["DaskJob", "amazon"]["spec"]["cluster"]["spec"],
        documents["DaskCluster", "amazon-notebook"]["spec"],
    ):
        named = {"tcp-comm": 8786, "http-dashboard": 8787}
        assert {p["name"]: p["port"] for p in cluster["scheduler"]["service"]["ports"]} == named
        (container,) = cluster["scheduler"]["spec"]["containers"]
        assert {p["name"]: p["containerPort"] for p in container["ports"]} == named
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"] == {"port": "http-dashboard", "path": "/health"}


def test_several_dask_jobs_share_the_tiles():
    made = list(yaml.safe_load_all(render(Settings(dask_jobs=3))["dask-job/dask-job.yaml"]))
    assert [job["metadata"]["name"] for job in made] == ["amazon-0", "amazon-1", "amazon-2"]
    for i, job in enumerate(made):
        command = job["spec"]["job"]["spec"]["containers"][0]["command"]
        # The operator calls a job's cluster, and so its Service, after the job.
        assert command[command.index("--scheduler") + 1] == f"tcp://amazon-{i}-scheduler:8786"
        assert command[command.index("--shard") + 1] == f"{i}/3"
        selector = job["spec"]["cluster"]["spec"]["scheduler"]["service"]["selector"]
        assert selector["dask.org/cluster-name"] == f"amazon-{i}"


def test_the_network_lets_the_run_and_the_operator_in_and_only_named_ports_out(documents):
    spec = documents["NetworkPolicy", "deepforest-xr"]["spec"]
    own = {"matchLabels": {"app.kubernetes.io/part-of": "deepforest-xr"}}
    assert spec["podSelector"] == own
    assert spec["ingress"][0] == {"from": [{"podSelector": own}]}
    (operator,) = spec["ingress"][1]["from"]
    assert operator["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "dask-operator"
    }
    out = {p["port"] for rule in spec["egress"] for p in rule.get("ports", [])}
    assert out == {53, 443}


def test_everything_that_runs_is_covered_by_policy_and_account(documents):
    for document in documents.values():
        meta = document["metadata"]
        assert meta["labels"]["app.kubernetes.io/part-of"] == "deepforest-xr"
        if document["kind"] not in ("Namespace", "PriorityClass"):
            assert meta["namespace"] == "deepforest-xr"
        if document["kind"] == "Job":
            template = document["spec"]["template"]["metadata"]["labels"]
            assert template["app.kubernetes.io/part-of"] == "deepforest-xr"
    names = {name for kind, name in documents if kind == "PriorityClass"}
    for _, pod in pods(documents.values()):
        assert ("ServiceAccount", pod["serviceAccountName"]) in documents
        assert pod["priorityClassName"] in names


def test_what_pods_mount_is_in_the_base(documents):
    for _, pod in pods(documents.values()):
        for volume in pod["volumes"]:
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in documents
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert ("PersistentVolumeClaim", claim) in documents


def test_dask_reads_the_configuration_that_is_mounted(documents, tmp_path):
    import dask.config

    text = documents["ConfigMap", "deepforest-xr-dask"]["data"]["dask.yaml"]
    (tmp_path / "dask.yaml").write_text(text)
    (given,) = dask.config.collect_yaml([str(tmp_path)])
    import distributed  # noqa: F401 - registers its defaults

    def leaves(tree, path=()):
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from leaves(value, (*path, key))
            else:
                yield ".".join((*path, key))

    for key in leaves(given):
        assert dask.config.get(key, default="absent") != "absent", key


@pytest.mark.parametrize("overlay", WORKER_OVERLAYS, ids=str)
def test_an_overlay_places_workers_and_nothing_else(overlay, kustomized):
    documents = walk(kustomized(FOLDER / overlay))
    _, name, path = overlay.parts
    if path == "base":
        return
    plain = dict(pods(walk(kustomized(FOLDER / path))))
    for role, pod in pods(documents):
        is_worker = role in ("worker", "shards")
        tolerated = {t["key"] for t in pod.get("tolerations", [])}
        limits = [c["resources"]["limits"] for c in pod["containers"]]
        requests = [c["resources"]["requests"] for c in pod["containers"]]
        has_gpu = is_worker and name != "dev-cpu"
        gpus = "1" if has_gpu else None
        assert [x.get("nvidia.com/gpu") for x in limits + requests] == [gpus, gpus], role
        is_spot = is_worker and name == "gpu-spot"
        assert ("karpenter.sh/capacity-type" in tolerated) == is_spot, role
        assert ("nvidia.com/gpu" in tolerated) == (has_gpu and name != "kueue"), role
        assert ("affinity" in pod) == (not is_worker or name == "gpu-ondemand"), role
        if not is_worker and name != "dev-cpu":
            assert pod == plain[role]


def test_on_a_laptop_the_command_and_the_completions_agree(kustomized):
    documents = walk(kustomized(FOLDER / "overlays" / "dev-cpu" / "indexed-job"))
    (job,) = (d["spec"] for d in documents if d["metadata"]["name"] == "amazon-shards")
    assert job["completions"] == 2
    (shard,) = job["template"]["spec"]["containers"]
    assert shard["command"][-1] == "$(JOB_COMPLETION_INDEX)/2"


def test_kueue_starts_the_shards_and_nothing_else(kustomized):
    documents = walk(kustomized(FOLDER / "overlays" / "kueue" / "indexed-job"))
    queued = {
        d["metadata"]["name"]: (
            d["metadata"]["labels"].get("kueue.x-k8s.io/queue-name"),
            d["spec"].get("suspend", False),
        )
        for d in documents
    }
    assert queued == {
        "amazon-plan": (None, False),
        "amazon-shards": ("deepforest-xr", True),
        "amazon-finish": (None, False),
    }
