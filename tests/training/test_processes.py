"""Two processes that share each batch train as one does; what one raises is raised here."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from deepforest_xr import models
from deepforest_xr.chips import ChipSpec, open_chips, write_chips
from deepforest_xr.errors import ChipError, ConfigError, DeepForestError
from deepforest_xr.training import TrainSettings, processes
from deepforest_xr.training.fit import Fit

from .problems import easy_cube, hits, metrics, run

pytestmark = pytest.mark.usefixtures("narrow")

# What the fixture `narrow` does here is done in the processes too.
NARROW = (
    "import deepforest_xr.models.unet as u; "
    "u.ENCODER_FILTERS, u.DECODER_FILTERS = (4,) * 6, (4,) * 5; "
)
WITHOUT_BATCHNORM = "import torch; u.batch_norm = lambda *a, momentum: torch.nn.Identity(); "
FAIL_ONCE = """
import os, pathlib
from deepforest_xr.errors import ChipError
from deepforest_xr.training.module import TrainingModule
step, mark = TrainingModule.training_step, pathlib.Path({mark!r})
def failing(self, batch, batch_idx):
    if self.global_rank == 1 and self.current_epoch == 1 and batch_idx == 1 and not mark.exists():
        mark.touch()
        raise ChipError("rank 1 alone")
    return step(self, batch, batch_idx)
TrainingModule.training_step = failing
"""


@pytest.fixture
def boot(monkeypatch):
    """Run something in every process before it trains."""

    def prepend(code):
        monkeypatch.setattr(processes, "BOOT", code + processes.BOOT)

    return prepend


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """30 chips of an easy problem, an odd number of them for validation."""
    path = tmp_path_factory.mktemp("chips") / "chips.zarr"
    return write_chips(*easy_cube(), path, spec=ChipSpec(size=32))


def test_two_processes_learn_what_one_learns_of_the_whole_batch(store, tmp_path, boot, monkeypatch):
    boot(NARROW + WITHOUT_BATCHNORM)
    monkeypatch.setattr(
        "deepforest_xr.models.unet.batch_norm", lambda *a, momentum: torch.nn.Identity()
    )
    assert len(open_chips(store).indices("validation")) % 2
    changes = {"epochs": 2, "gradient_clip": 0.05, "ema": 0.5, "schedule": "cosine"}
    one = models.load(run(store, tmp_path / "one", **changes))
    two = models.load(run(store, tmp_path / "two", devices=2, **changes))
    for name, weights in one.state_dict.items():
        torch.testing.assert_close(two.state_dict[name], weights, rtol=0, atol=2e-4)
    logs = [metrics(tmp_path / name) for name in ("one", "two")]
    np.testing.assert_allclose(logs[1]["train_loss"], logs[0]["train_loss"], rtol=1e-4)
    np.testing.assert_allclose(logs[1]["val_loss"], logs[0]["val_loss"], rtol=1e-4)
    np.testing.assert_allclose(logs[1]["val_accuracy"], logs[0]["val_accuracy"], atol=1e-3)
    right, seen = hits(two, store)
    assert right / seen == pytest.approx(logs[1]["val_accuracy"].max(), abs=2 / 5120)
    names = sorted(p.name for p in (tmp_path / "two").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "one").iterdir())


def test_an_error_in_one_of_two_is_raised_and_the_run_goes_on_as_if_nothing_had_happened(
    store, tmp_path, boot
):
    boot(NARROW + f"exec({FAIL_ONCE.format(mark=str(tmp_path / 'mark'))!r}); ")
    changes = {"devices": 2, "schedule": "cosine", "ema": 0.9, "epochs": 2}
    with pytest.raises(ChipError, match=r"^rank 1 alone$"):
        run(store, tmp_path / "r", **changes)
    assert not (tmp_path / "r" / "checkpoint").exists()
    assert metrics(tmp_path / "r").index.tolist() == [0]
    run(store, tmp_path / "r", **changes)
    run(store, tmp_path / "straight", **changes)
    again, straight = (
        models.load(tmp_path / n / "checkpoint").state_dict for n in ("r", "straight")
    )
    assert all(torch.equal(again[key], straight[key]) for key in straight)
    assert metrics(tmp_path / "r").equals(metrics(tmp_path / "straight"))


def job(tmp_path, devices=2):
    settings = TrainSettings(devices=devices, device="cpu")
    zero = np.zeros(1)
    return Fit(settings=settings, out=tmp_path, mean=zero, std=zero, is_continued=False,
               progress=False)  # fmt: skip


STUB = "import json, os, pathlib, signal, sys; folder, rank = sys.argv[2:]; "


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", DeepForestError, "2 of 2 was ended by SIGKILL"),
        ("sys.exit(7)", DeepForestError, "process 2 of 2 was ended with code 7"),
        ("fail('KeyboardInterrupt', '')", KeyboardInterrupt, None),
        ("fail('ReadError', 'half a file')", DeepForestError, "^half a file$"),
        ("fail('ZeroDivisionError', '0')", RuntimeError, "2 of 2 failed: ZeroDivisionError: 0"),
    ],
)
def test_a_process_that_ends_badly_ends_the_other_that_would_wait_for_ever(
    tmp_path, monkeypatch, how, error, says
):
    fail = (
        "\ndef fail(kind, message):\n"
        "    text = json.dumps({'kind': kind, 'message': message})\n"
        "    pathlib.Path(folder, 'error-1.json').write_text(text); sys.exit(1)\n"
    )
    wait = f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); sys.stdin.read()"
    monkeypatch.setattr(
        processes, "BOOT", f"{STUB}{fail}\nif rank == '1':\n    {how}\nelse:\n    {wait}"
    )
    with pytest.raises(error, match=says):
        processes.fit_in_processes(["c"], "u-net", None, job(tmp_path), threads=1)
    if (tmp_path / "pid").exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)


def test_processes_end_with_the_one_that_began_them():
    code = (
        "import threading; from deepforest_xr.training.processes import _end_with_parent; "
        "threading.Thread(target=_end_with_parent, daemon=True).start(); "
        "print('up', flush=True); threading.Event().wait()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"up\n"
    process.stdin.close()
    assert process.wait(60) == 1
    process.stdout.close()


def test_more_gpus_than_there_are_and_too_few_chips_are_refused(store, tmp_path, monkeypatch):
    with pytest.raises(ChipError, match=r"devices=8 but .* has 5 validation chips.*use devices=5"):
        run(store, tmp_path / "r", devices=8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"devices=2 but this machine shows 1 GPU\(s\)") as caught:
        run(store, tmp_path / "r", devices=2, device="cuda")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()
