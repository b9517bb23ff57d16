"""Every command and every example that the documents show is run here."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "k8s").glob("*.md")]
)


def blocks(document, language):
    """Fenced blocks of a language in a document; "" is a fence without one."""
    text = (ROOT / document).read_text(encoding="utf-8")
    fences = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [block for name, block in fences if name == language]


def commands(block):
    joined = block.replace("\\\n", " ")
    return [line.split("  #")[0].split("    #")[0].strip() for line in joined.splitlines() if line]


def run(command, cwd):
    # The commands of this environment come first, also where it is not activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        shlex.split(command),
        cwd=cwd,
        env={**os.environ, "PATH": path, "DEEPFOREST_XR_HOME": str(cwd / "home")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_make_targets_that_documents_name_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {
        words[1]
        for document in DOCUMENTS
        for block in blocks(document, "sh")
        for words in map(str.split, commands(block))
        if words[0] == "make"
    }
    assert {"demo", "test"} <= named <= targets


def test_ci_runs_the_test_command_of_the_readme():
    assert "make test" in commands(blocks("README.md", "sh")[0])
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text()


def test_the_example_of_the_readme_runs_and_prints_an_accuracy(tmp_path):
    (tmp_path / "example.py").write_text(blocks("README.md", "python")[0])
    printed = run("python example.py", tmp_path)
    assert "overall accuracy" in printed
    assert "Simulated" in printed
    assert (tmp_path / "map.tif").exists()


def test_the_commands_of_the_guide_run_in_their_order(tmp_path):
    scenes = tmp_path / "scenes"
    (tmp_path / "area.geojson").write_text(blocks("docs/guide.md", "json")[0])
    (tmp_path / "basin.toml").write_text(blocks("docs/guide.md", "toml")[0])
    for block in blocks("docs/guide.md", "sh"):
        for command in commands(block):
            run(command, tmp_path)
            if (scenes / "mapbiomas.tif").exists():  # the simulation has labels of one year
                for year in (2016, 2017, 2018):
                    shutil.copy(scenes / "mapbiomas.tif", scenes / f"mapbiomas_{year}.tif")
    for name in ("items.parquet", "cube.zarr", "run/curve.png", "map.tif", "map.json", "report.md",
                 "model.onnx", "home/default-model", "tiles.png", "states.png",
                 "basin/finish/overview.html"):  # fmt: skip
        assert (tmp_path / name).exists(), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_options_in_commands_that_cannot_run_here_exist(document):
    from typer.main import get_command

    from deepforest_xr.cli import app

    known = get_command(app).commands
    for block in blocks(document, ""):
        for command in commands(block):
            words = shlex.split(command)
            if words[0] == "deepforest-xr":
                called = known[words[1]]
                if words[1] in {"model", "basin", "k8s"}:
                    called = called.commands[words[2]]
                options = {o for p in called.params for o in p.opts}
                assert {w for w in words if w.startswith("--")} <= options, command


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target
