"""What containers run, and what the documents tell to run, are commands that exist."""

import re
import shlex
from pathlib import Path

import pytest
from click import NoSuchOption
from typer.main import get_command

from deepforest_xr.cli import app
from deepforest_xr.k8s import Settings, render

from .manifests import containers, pods, walk

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "docs" / "kubernetes.md", ROOT / "k8s" / "README.md"]
# What Kubernetes and the Dask operator fill in.
VARIABLES = {"$(JOB_COMPLETION_INDEX)": "3", "$(DASK_WORKER_NAME)": "amazon-default-worker-1"}


def dask(name):
    from importlib.metadata import entry_points

    return entry_points(group="dask_cli")[name].load()


def parse(words):
    """Parse a command to its end without running it; an unknown option or argument is an error."""
    program, *rest = words
    command = {"deepforest-xr": get_command(app), "dask": None}[program]
    if command is None:
        command = dask(rest.pop(0))
    while hasattr(command, "commands"):
        # --verbose and its like come before the name of the command.
        while rest[0].startswith("-"):
            rest.pop(0)
        command = command.commands[rest.pop(0)]
    # Dask hands options that it does not know on to modules of the user.
    known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
    if unknown := [w for w in rest if w.startswith("--") and program == "dask" and w not in known]:
        raise NoSuchOption(unknown[0])
    context = command.make_context(program, rest)
    if command.name == "retry":
        parse(context.params["command"])


@pytest.mark.parametrize("settings", [Settings(), Settings(dask_jobs=2, model_sha256="0f" * 32)])
def test_every_container_runs_a_command_that_exists(settings):
    seen = set()
    for path, text in render(settings).items():
        if path.endswith("kustomization.yaml"):
            continue
        for _, pod in pods(walk(text)):
            for container in containers(pod):
                words = container["command"]
                for name, value in VARIABLES.items():
                    words = [word.replace(name, value) for word in words]
                assert not any("$(" in word for word in words)
                parse(words)
                seen.add(" ".join(words[:3] if words[0] != "dask" else words[:2]))
    assert seen == {
        "dask scheduler", "dask worker", "deepforest-xr basin finish", "deepforest-xr basin plan",
        "deepforest-xr basin run", "deepforest-xr k8s fetch-model", "deepforest-xr k8s retry",
    }  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        "deepforest-xr k8s render --utput x",
        "deepforest-xr k8s retry --attempts 3 -- deepforest-xr k8s render --utput x",
        "dask worker --nme x",
    ],
)
def test_the_parser_of_this_test_refuses_what_does_not_exist(words):
    with pytest.raises(Exception, match="No such option"):
        parse(words.split())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_the_documents_exist(document):
    blocks = re.findall(r"^```console\n(.*?)^```", document.read_text(), flags=re.M | re.S)
    commands = [
        line.removeprefix("$ ").split("  #")[0]
        for block in blocks
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("$ ")
    ]
    assert commands
    for command in commands:
        words = shlex.split(command)
        if "--" in words:  # kubectl exec ... -- the command inside a pod
            words = words[words.index("--") + 1 :]
        if words[0] == "deepforest-xr":
            parse(words)
        for word in words:
            if word.startswith("k8s/") and "/" in word:
                assert (ROOT / word).exists(), command
