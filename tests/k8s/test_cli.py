"""``deepforest-xr k8s``: what the command writes, and what it ends with."""

import sys

import pytest

from deepforest_xr import cli


def call(*words):
    """Run the command line in this process; its exit code."""
    try:
        cli.main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code or 0
    return 0


def test_render_writes_what_the_settings_say(tmp_path, rendered, capsys):
    assert call("k8s", "render", "--out", tmp_path / "plain") == 0
    assert {
        str(path.relative_to(tmp_path / "plain")): path.read_text()
        for path in (tmp_path / "plain").rglob("*.yaml")
    } == rendered
    (tmp_path / "k8s.toml").write_text('namespace = "maps"\n')
    assert call("k8s", "render", "--settings", tmp_path / "k8s.toml", "--out", tmp_path / "x") == 0
    assert "namespace: maps" in (tmp_path / "x" / "indexed-job" / "plan.yaml").read_text()
    assert f"{len(rendered)} files written" in capsys.readouterr().out


def test_settings_that_cannot_be_write_nothing(tmp_path, capsys):
    (tmp_path / "k8s.toml").write_text("worker_cpu = 4\n")
    assert call("k8s", "render", "--settings", tmp_path / "k8s.toml", "--out", tmp_path / "x") == 1
    assert "worker_cpu=4 is not a quantity" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("code", [0, 1, 42])
def test_retry_ends_as_the_command_does(code):
    command = (sys.executable, "-c", f"raise SystemExit({code})")
    assert call("k8s", "retry", "--attempts", 2, "--", *command) == code


def test_a_model_that_is_not_there_ends_with_1(tmp_path, capsys):
    assert call("k8s", "fetch-model", tmp_path / "gone", "--to", tmp_path / "model") == 1
    assert "is not a checkpoint" in capsys.readouterr().err
