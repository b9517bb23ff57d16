"""The command line, called in this process; the U-Net small."""

import pytest

from deepforest_xr import cli
from deepforest_xr.cli import console


@pytest.fixture(scope="module", autouse=True)
def quick(narrow, small_halo):
    """Every command works with a small network."""


def call(*words):
    """Run the command line in this process; its exit code."""
    try:
        cli.main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture
def lines(monkeypatch):
    """What a call prints: (exit code, lines on stdout, lines on stderr)."""
    from rich.console import Console

    def run(*words):
        out, err = Console(width=200), Console(width=200, stderr=True)
        with out.capture() as shown, err.capture() as said:
            monkeypatch.setattr(console, "out_console", out)
            monkeypatch.setattr(console, "err_console", err)
            code = call(*words)
        return code, shown.get().splitlines(), said.get().splitlines()

    return run
