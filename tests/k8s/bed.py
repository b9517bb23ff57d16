"""A running test bed: kubectl against it, and the folder that stands for the claim."""

import json
import subprocess
import threading
from pathlib import Path

NAMESPACE = "deepforest-xr"
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


class Bed:
    """A test bed, started as its README says."""

    def __init__(self, testbed, python, image, folder):
        self._image, self.folder = image, folder
        self._command = [str(python), str(testbed / "testbed.py")]
        self.kubeconfig = folder / "kubeconfig"
        self.claim = folder / "host" / "pvc" / NAMESPACE / "deepforest-xr"
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
                [*self._command, "up", *words], stdout=subprocess.PIPE, stderr=log, text=True
            )
        line = self.process.stdout.readline()
        assert line.startswith("READY"), self.log.read_text()

    def kubectl(self, *words, check=True):
        """Call kubectl in the namespace of the run; its output."""
        command = [*self._command, "exec-env", "--kubeconfig", str(self.kubeconfig), "--"]
        done = subprocess.run(
            [*command, "kubectl", "-n", NAMESPACE, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert not check or done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        return done.stdout

    def python(self, code, *words):
        """Run Python with what is in the image, where Services have names."""
        command = [*self._command, "exec-env", "--kubeconfig", str(self.kubeconfig), "--"]
        done = subprocess.run(
            [*command, str(self._image / "bin" / "python"), "-c", code, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
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
        words = (f"--for=jsonpath={path}={value}", f"--timeout={seconds}s")
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

    def step(self, folder, overlay, stage):
        """Apply one step of a run."""
        path = Path(folder) / "overlays" / overlay
        self.kubectl("apply", "-k", path, "-l", f"deepforest-xr/stage={stage}")

    def until(self, what, check, seconds=120):
        """Look again until something is true, and give it."""
        pause = threading.Event()
        for _ in range(seconds * 10):
            if found := check():
                return found
            pause.wait(0.1)
        raise AssertionError(f"after {seconds} s still not: {what}")

    def pods(self, selector):
        return self.get("pods", "-l", selector)["items"]

    def preempt(self, pod):
        """Take the pod's node away, as a spot market does."""
        where = ("-n", NAMESPACE, "--kubeconfig", str(self.kubeconfig))
        subprocess.run([*self._command, "preempt", pod, *where], check=True, capture_output=True)

    def stop(self):
        self.process.terminate()
        self.process.stdout.close()
        assert self.process.wait(timeout=90) == 0, self.log.read_text()
