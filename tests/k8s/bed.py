"""The cluster that the tests run on: the test bed, or the one that KUBECONFIG names."""

import json
import os
import secrets
import shutil
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

# Of its own: on a cluster that is given, what runs in the default one is somebody's work.
NAMESPACE = "deepforest-xr-tests"
CLAIM = "deepforest-xr"
SPOT = "karpenter.sh/capacity-type"
# The first node that fits is taken: without its affinity a coordinator would be on spot.
NODES = [
    {
        "name": "cpu-spot",
        "labels": {SPOT: "spot"},
        "capacity": {"cpu": "16", "memory": "64Gi", "pods": "100"},
    },
    {"name": "cpu", "labels": {}, "capacity": {"cpu": "16", "memory": "64Gi", "pods": "100"}},
    {
        "name": "gpu-spot",
        "labels": {SPOT: "spot", "nvidia.com/gpu.present": "true"},
        "taints": [
            {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
            {"key": SPOT, "value": "spot", "effect": "NoSchedule"},
        ],
        "capacity": {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "2", "pods": "100"},
    },
]


class Cluster:
    """What both have: kubectl, and the folder in which this machine sees the claim.

    `claim` is that folder, `data` its path in pods; `overlay` is where the manifests are from
    that this cluster has nodes for; `image` is what its nodes pull.
    """

    image = "registry.example.org/deepforest-xr:0.1.0"
    overlay = "."
    data = "/data"
    has_gpus = False
    # Times as long as on the test bed, which pulls no images and starts no nodes.
    patience = 1

    def __init__(self, python, folder):
        self._python, self.folder = python, folder

    def command(self, *words):
        """A command as a client of the cluster runs it."""
        raise NotImplementedError

    def kubectl(self, *words, check=True):
        """Call kubectl in the namespace of the run; its output."""
        done = subprocess.run(
            self.command("kubectl", "-n", NAMESPACE, *map(str, words)),
            capture_output=True,
            text=True,
            check=False,
            timeout=600 * self.patience,
        )
        assert not check or done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        return done.stdout

    def python(self, code, *words):
        """Run Python as a notebook does: with what is in the image, where Services have names."""
        done = subprocess.run(
            self.command(str(self._python), "-c", code, *words),
            capture_output=True,
            text=True,
            check=False,
            timeout=600 * self.patience,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def apply(self, document):
        path = self.folder / "document.yaml"
        path.write_text(json.dumps(document))
        self.kubectl("apply", "-f", path)

    def get(self, *words):
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def wait(self, what, path, value, seconds=240):
        """Wait until a field has a value; else say how everything is."""
        words = (f"--for=jsonpath={path}={value}", f"--timeout={self.patience * seconds}s")
        try:
            self.kubectl("wait", what, *words)
        except AssertionError as error:
            state = self.kubectl("get", "pods,jobs,daskjobs", "-o", "wide", check=False)
            raise AssertionError(f"{what}: {path} is not {value}\n{state}\n{error}") from error

    def ends(self, job, kind):
        """Wait for a Job's end; the reason that it gives."""
        self.wait(f"job/{job}", f"{{.status.conditions[?(@.type=='{kind}')].status}}", "True")
        conditions = self.get(f"job/{job}")["status"]["conditions"]
        return next(c["reason"] for c in conditions if c["type"] == kind)

    def apply_base(self, folder):
        self.kubectl("apply", "-k", folder / "base")

    def step(self, folder, path, stage):
        """Apply one step of a run."""
        chosen = Path(folder) / self.overlay / path
        self.kubectl("apply", "-k", chosen, "-l", f"deepforest-xr/stage={stage}")

    def evict(self, pod):
        """Send a pod away as a drain of its node does."""
        meta = {"name": pod, "namespace": NAMESPACE}
        asked = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
        path = self.folder / "eviction.json"
        path.write_text(json.dumps(asked))
        url = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
        self.kubectl("create", "--raw", url, "-f", path)

    def until(self, what, check, seconds=120):
        """Look again until something is true, and give it."""
        pause = threading.Event()
        for _ in range(self.patience * seconds * 10):
            if found := check():
                return found
            pause.wait(0.1)
        raise AssertionError(f"after {seconds} s still not: {what}")

    def are_on(self, pods, *nodes):
        """Whether pods run on these nodes of the test bed."""
        return {pod["spec"].get("nodeName") for pod in pods} == set(nodes)

    def pods(self, selector):
        return self.get("pods", "-l", selector)["items"]

    def delete_runs(self):
        self.kubectl("delete", "job,daskjob,daskcluster", "--all", "--ignore-not-found")


class Bed(Cluster):
    """A test bed, started as its README says."""

    overlay = "overlays/gpu-spot"
    has_gpus = True

    def __init__(self, testbed, python, image, folder):
        super().__init__(image / "bin" / "python", folder)
        self._testbed = [str(python), str(testbed / "testbed.py")]
        self.kubeconfig = folder / "kubeconfig"
        self.claim = folder / "host" / "pvc" / NAMESPACE / CLAIM
        self.claim.mkdir(parents=True)
        nodes = folder / "nodes.json"
        nodes.write_text(json.dumps(NODES))
        self.log = folder / "testbed.log"
        options = {
            "--image-venv": image,
            "--kubeconfig": self.kubeconfig,
            "--nodes": nodes,
            "--host-path-root": folder / "host",
            "--logs": folder / "logs",
        }
        words = [str(word) for pair in options.items() for word in pair]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*self._testbed, "up", *words], stdout=subprocess.PIPE, stderr=log, text=True
            )
        line = self.process.stdout.readline()
        assert line.startswith("READY"), self.log.read_text()

    def command(self, *words):
        return [*self._testbed, "exec-env", "--kubeconfig", str(self.kubeconfig), "--", *words]

    @contextmanager
    def data_here(self):
        """Show the claim at /data to the commands that are started meanwhile."""
        plain, place = self.command, Path("/data")
        script = 'mount --bind "$0" /data && exec "$@"'
        shown = ("unshare", "--mount", "sh", "-c", script, str(self.claim))
        is_new = not place.exists()
        place.mkdir(exist_ok=True)
        self.command = lambda *words: [*shown, *plain(*words)]
        try:
            yield
        finally:
            self.command = plain
            if is_new:
                place.rmdir()

    def preempt(self, pod):
        """Take the pod's node away, as a spot market does."""
        where = ("-n", NAMESPACE, "--kubeconfig", str(self.kubeconfig))
        subprocess.run([*self._testbed, "preempt", pod, *where], check=True, capture_output=True)

    def stop(self):
        self.process.terminate()
        self.process.stdout.close()
        assert self.process.wait(timeout=90) == 0, self.log.read_text()


class Given(Cluster):
    """The cluster of KUBECONFIG; docs/kubernetes.md says what must be on it."""

    patience = 5
    NEEDS = ("DEEPFOREST_XR_K8S_CLAIM", "DEEPFOREST_XR_K8S_IMAGE")

    def __init__(self, kubectl, image, folder):
        super().__init__(image / "bin" / "python", folder)
        self._kubectl = kubectl
        self.image = os.environ["DEEPFOREST_XR_K8S_IMAGE"]
        # What an earlier run left there is not touched.
        name = f"tests-{secrets.token_hex(4)}"
        self.claim = Path(os.environ["DEEPFOREST_XR_K8S_CLAIM"]) / name
        self.data = f"/data/{name}"
        if not self.kubectl("get", "pvc", CLAIM, "-o", "name", check=False):
            pytest.skip(f"there is no claim {CLAIM} in namespace {NAMESPACE}")
        self.claim.mkdir()
        # Pods write there as another user than this one.
        self.claim.chmod(0o777)
        self.delete_runs()

    def command(self, *words):
        return [self._kubectl if words[0] == "kubectl" else words[0], *words[1:]]

    def apply_base(self, folder):
        # The claim is there, bound to what this machine sees.
        without = "app.kubernetes.io/component!=data"
        self.kubectl("apply", "-k", folder / "base", "-l", without)

    def are_on(self, pods, *nodes):
        """Its nodes have other names: whether the pods are on any."""
        return all(pod["spec"].get("nodeName") for pod in pods)

    @contextmanager
    def data_here(self):
        if not (Path("/data") / self.claim.name).is_dir():
            pytest.skip("a notebook mounts the claim at /data, and this machine does not")
        yield

    def stop(self):
        self.delete_runs()
        shutil.rmtree(self.claim)
