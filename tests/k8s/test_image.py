"""The image's recipe, read: no builder is at hand here, so what a build rests on is checked."""

import fnmatch
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from .manifests import containers, pods

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "k8s" / "Dockerfile"
IGNORED = ROOT / "k8s" / "Dockerfile.dockerignore"


@pytest.fixture(scope="module")
def instructions():
    """(word, rest) of every instruction, with the lines that `\\` joins put together."""
    lines = [x for x in RECIPE.read_text().splitlines() if not x.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines) + "\n").splitlines()
    return [tuple(line.split(None, 1)) for line in joined if line.strip()]


def said(instructions, word):
    return [rest for name, rest in instructions if name == word]


def copied(instructions):
    """Sources that come from the project, not from another stage."""
    found = [rest.split() for rest in said(instructions, "COPY") if not rest.startswith("--from")]
    return {source for *sources, _ in found for source in sources}


def goes_to_the_builder(path):
    """Whether the ignore file lets a path through: the last rule that fits decides."""
    is_ignored = False
    for rule in IGNORED.read_text().splitlines():
        pattern = rule.removeprefix("!")
        parents = [path, *(str(p) for p in Path(path).parents if str(p) != ".")]
        if rule.startswith("#") or not any(_fits(pattern, p) for p in parents):
            continue
        is_ignored = not rule.startswith("!")
    return not is_ignored


def _fits(pattern, path):
    if pattern.startswith("**/"):
        return fnmatch.fnmatchcase(Path(path).name, pattern.removeprefix("**/"))
    return path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern)


def test_what_is_copied_is_in_the_project_and_goes_to_the_builder(instructions):
    sources = copied(instructions)
    assert sources == {"LICENSE", "README.md", "deepforest_xr", "k8s/constraints.txt",
                       "pyproject.toml"}  # fmt: skip
    for source in sources:
        assert (ROOT / source).exists(), source
        assert goes_to_the_builder(source), source
    for kept in ("deepforest_xr/k8s/dask.py", "deepforest_xr/legends/mapbiomas.csv"):
        assert (ROOT / kept).exists()
        assert goes_to_the_builder(kept)
    for left in (".git", ".venv", "tests", "k8s/base", "deepforest_xr/__pycache__/grid.pyc"):
        assert not goes_to_the_builder(left), left


def test_what_the_package_is_built_from_is_copied(instructions):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    needed |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert needed <= copied(instructions)


def test_every_stage_starts_from_one_pinned_image(instructions):
    images = {rest.split()[0] for rest in said(instructions, "FROM")}
    (image,) = images  # what one stage builds runs in the other
    version = re.search(r":(\d+\.\d+\.\d+)-", image)
    assert version, f"{image} is another one tomorrow"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    least = tuple(map(int, re.findall(r"\d+", project["requires-python"])))
    assert tuple(map(int, version[1].split("."))) >= least


def test_everything_that_pip_installs_is_constrained(instructions):
    calls = [rest for rest in said(instructions, "RUN") if "pip install" in rest]
    assert len(calls) == 2
    assert all("-c /build/constraints.txt" in call for call in calls)
    (extras,) = re.findall(r"/build\[(.*?)\]", " ".join(calls))
    # What pods do: clusters, and the pictures of `basin finish`.
    assert set(extras.split(",")) == {"k8s", "viz"}
    pinned = [x for x in (ROOT / "k8s" / "constraints.txt").read_text().splitlines() if x[0] != "#"]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", line) for line in pinned)


def test_the_command_of_a_pod_is_process_1(instructions, documents):
    # An entry point of the image would stand before it, and a shell would keep SIGTERM.
    assert said(instructions, "ENTRYPOINT") == ["[]"]
    assert isinstance(json.loads(said(instructions, "CMD")[0]), list)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for role, pod in pods(documents.values()):
        for container in containers(pod):
            assert container["command"][0] in {*scripts, "dask"}, role
            assert "args" not in container


def test_the_last_user_is_a_number_and_nothing_runs_after_it(instructions):
    words = [word for word, _ in instructions]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", said(instructions, "USER")[-1])
    assert words.index("USER") > max(i for i, word in enumerate(words) if word in ("RUN", "COPY"))


def test_manifests_name_a_version_of_the_image(documents):
    for _, pod in pods(documents.values()):
        for container in containers(pod):
            assert re.fullmatch(r"[^:]+:\d+\.\d+\.\d+", container["image"])


@pytest.mark.network
def test_the_pinned_versions_can_be_installed_together(tmp_path):
    report = tmp_path / "report.json"
    pip = (sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet")
    constraints = ("-c", ROOT / "k8s" / "constraints.txt")
    command = [*pip, "--report", report, *constraints, f"{ROOT}[k8s,viz]"]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    chosen = {x["metadata"]["name"].lower() for x in json.loads(report.read_text())["install"]}
    pinned = [x for x in (ROOT / "k8s" / "constraints.txt").read_text().splitlines() if x[0] != "#"]
    assert {line.partition("==")[0] for line in pinned} <= chosen
