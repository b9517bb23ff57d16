"""The command line, called in this process; the U-Net small."""

import pytest
import torch

from deepforest_xr import cli, models
from deepforest_xr.cli import console


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """The U-Net with few filters and a small halo: the same steps, quicker."""
    import dataclasses

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    entries = tuple(dataclasses.replace(e, halo=32) for e in models.registry._ENTRIES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepforest_xr.models.unet.ENCODER_FILTERS", (4,) * 6)
        patch.setattr("deepforest_xr.models.unet.DECODER_FILTERS", (4,) * 5)
        patch.setattr("deepforest_xr.models.registry._ENTRIES", entries)
        yield
    torch.set_num_threads(threads)


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
