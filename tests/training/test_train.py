"""Training learns, logs, continues where it was interrupted, and refuses in one line."""

import importlib.util
import json
import signal
import threading

import numpy as np
import pandas as pd
import pytest
import torch

from deepforest_xr import models
from deepforest_xr.chips import ChipSpec, open_chips, write_chips
from deepforest_xr.errors import ChipError, ConfigError, MissingExtraError, ReadError, WriteError
from deepforest_xr.models.inputs import Standardisation
from deepforest_xr.training import TrainSettings, train
from deepforest_xr.training.data import Batch
from deepforest_xr.training.module import TrainingModule

from .problems import BANDS, LEGEND, easy_cube, hits, metrics, run

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """30 chips of an easy problem."""
    path = tmp_path_factory.mktemp("chips") / "chips.zarr"
    return write_chips(*easy_cube(), path, spec=ChipSpec(size=32))


@pytest.fixture(scope="module")
def finished(store, tmp_path_factory):
    """A run of three epochs that nothing interrupted."""
    out = tmp_path_factory.mktemp("run") / "r"
    handler = signal.getsignal(signal.SIGINT)
    checkpoint = run(store, out)
    assert signal.getsignal(signal.SIGINT) is handler
    assert checkpoint == out / "checkpoint"
    return out


@pytest.mark.parametrize(
    ("loss", "class_weights"),
    [("generalised-cross-entropy", "effective-number"), ("bootstrapping-hard", "uniform")],
)
def test_other_losses_and_class_weights_learn_and_are_recorded(
    store, tmp_path, loss, class_weights
):
    changes = {"loss": loss, "class_weights": class_weights, "epochs": 4, "balanced": True}
    checkpoint = run(store, tmp_path / "r", **changes)
    log = metrics(tmp_path / "r")
    assert log["train_loss"].iloc[-1] < log["train_loss"].iloc[0]
    settings = models.load(checkpoint).provenance["settings"]
    assert settings["loss"] == loss
    assert settings["class_weights"] == class_weights
    assert settings["balanced"]
    assert "workers" not in settings


def test_unknown_losses_and_weights_are_refused_before_a_run_begins(store, tmp_path):
    with pytest.raises(ConfigError, match="focal"):
        run(store, tmp_path / "r", loss="hinge")
    with pytest.raises(ConfigError, match="month_dropout"):
        TrainSettings(month_dropout=1.0)
    with pytest.raises(ConfigError, match="inverse-frequency"):
        run(store, tmp_path / "r", class_weights="equal")
    assert not (tmp_path / "r").exists()


def test_an_easy_problem_is_learned(finished, store):
    table = metrics(finished)
    assert table["train_loss"].iloc[-1] < 0.8 * table["train_loss"].iloc[0]
    counts = open_chips(store).class_counts("validation")
    assert table["val_accuracy"].max() > counts.max() / counts.sum() + 0.1


def test_a_run_leaves_what_it_says(finished, store):
    names = {p.name for p in finished.iterdir()}
    assert names >= {"run.json", "metrics.csv", "curve.png", "checkpoint", "best.ckpt", "last.ckpt"}
    card = json.loads((finished / "run.json").read_text())
    assert card["model"] == "u-net"
    assert card["settings"]["epochs"] == 3
    assert card["chips"]["bands"] == list(BANDS)
    assert metrics(finished).index.tolist() == [0, 1, 2]
    assert (finished / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_checkpoint_has_the_statistics_of_the_training_chips(finished, store):
    checkpoint = models.load(finished / "checkpoint")
    chips = open_chips(store)
    values = np.stack([chips.read(int(chip))["s2"] for chip in chips.indices("train")])
    np.testing.assert_allclose(checkpoint.mean, np.nanmean(values, axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(checkpoint.std, np.nanstd(values, axis=(0, 2, 3)), rtol=1e-4)
    assert checkpoint.legend == LEGEND
    assert checkpoint.bands == BANDS
    assert checkpoint.provenance["settings"]["seed"] == 0


def test_the_checkpoint_scores_what_the_log_says_of_its_epoch(finished, store):
    right, seen = hits(models.load(finished / "checkpoint"), store)
    assert right / seen == pytest.approx(metrics(finished)["val_accuracy"].max(), abs=2e-3)


def test_an_interrupted_run_continues_and_ends_as_if_nothing_had_happened(
    finished, store, tmp_path, interrupt
):
    out = tmp_path / "r"
    interrupt(1)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(store, out)
    assert signal.getsignal(signal.SIGINT) is handler
    assert not (out / "checkpoint").exists()
    first = metrics(out)
    torch.manual_seed(99)  # what another process would have drawn
    np.random.seed(99)  # noqa: NPY002
    run(store, out)
    again, straight = metrics(out), metrics(finished)
    assert again.index.tolist() == [0, 1, 2]
    assert again["train_loss"].iloc[0] == first["train_loss"].iloc[0]
    pd.testing.assert_frame_equal(again, straight, check_like=True)
    a, b = (models.load(folder / "checkpoint").state_dict for folder in (out, finished))
    assert all(torch.equal(a[key], b[key]) for key in b)
    last = [
        torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (out, finished)
    ]
    assert all(torch.equal(last[0][key], last[1][key]) for key in last[1])


def test_a_run_interrupted_in_its_first_epoch_begins_anew(store, tmp_path, interrupt, finished):
    interrupt(0)
    with pytest.raises(KeyboardInterrupt):
        run(store, tmp_path / "r")
    run(store, tmp_path / "r")
    pd.testing.assert_frame_equal(metrics(tmp_path / "r"), metrics(finished), check_like=True)


def test_a_finished_run_is_refused(finished, store):
    with pytest.raises(ConfigError, match="this run has ended"):
        run(store, finished)


def test_another_run_in_the_folder_is_refused(store, tmp_path, interrupt):
    interrupt(0)
    with pytest.raises(KeyboardInterrupt):
        run(store, tmp_path / "r")
    with pytest.raises(ConfigError, match="other chips, model or settings"):
        run(store, tmp_path / "r", seed=1)
    other = write_chips(*easy_cube(seed=5), tmp_path / "other", spec=ChipSpec(size=32))
    with pytest.raises(ConfigError, match="other chips, model or settings"):
        run(other, tmp_path / "r")


def test_training_stops_when_validation_gets_no_better(store, tmp_path, monkeypatch):
    def no_better(self):
        for split in self.sums:
            self.log(f"{split}_accuracy", 0.5)
            self.log(f"{split}_loss", 0.5)
        self.log("learning_rate", 0.1)

    monkeypatch.setattr(TrainingModule, "on_validation_epoch_end", no_better)
    run(store, tmp_path / "r", epochs=9, patience=1)
    assert metrics(tmp_path / "r").index.tolist() == [0, 1]


def test_a_loss_that_is_not_finite_stops_in_one_line(store, tmp_path):
    with pytest.raises(ChipError, match="the loss became nan in epoch") as caught:
        run(store, tmp_path / "r", learning_rate=1e30)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r" / "checkpoint").exists()


def test_a_validation_loss_that_is_not_finite_stops_the_run_with_the_chip(store, tmp_path):
    chips = open_chips(store)
    # One step: the loss before it is finite, the weights after it are not.
    steps = len(chips.indices("train"))
    with pytest.raises(ChipError, match="the validation loss became nan in epoch 0") as caught:
        run(store, tmp_path / "r", learning_rate=1e30, batch=steps)
    message = str(caught.value)
    assert chips.origin(int(chips.indices("validation")[0])) in message
    assert "\n" not in message


def test_a_run_whose_first_epoch_failed_leaves_its_folder_free(store, tmp_path):
    with pytest.raises(ChipError, match="lower the learning rate"):
        run(store, tmp_path / "r", learning_rate=1e30)
    run(store, tmp_path / "r", epochs=1)
    run(store, tmp_path / "straight", epochs=1)
    card, metric = "run.json", "metrics.csv"
    for name in (card, metric):
        assert (tmp_path / "r" / name).read_text() == (tmp_path / "straight" / name).read_text()


def test_two_branches_need_radar_chips(store, tmp_path):
    with pytest.raises(ConfigError, match="deepforest-2b needs Sentinel-1") as caught:
        run(store, tmp_path / "r", model="deepforest-2b")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changes", [{"model": "resnet"}, {"s2_branch": "released"}])
def test_a_network_that_does_not_exist_is_refused_before_a_folder_is_made(store, tmp_path, changes):
    with pytest.raises(ConfigError):
        run(store, tmp_path / "r", **changes)
    assert list(tmp_path.iterdir()) == []


def test_no_chips_and_no_lightning_are_said_in_one_line(store, tmp_path, monkeypatch):
    with pytest.raises(ReadError, match="is not a store of chips"):
        run(tmp_path / "absent", tmp_path / "r")
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot be written"):
        run(store, tmp_path / "file")
    monkeypatch.setitem(
        train.__globals__,
        "find_spec",
        lambda name: None if name == "lightning" else importlib.util.find_spec(name),
    )
    with pytest.raises(MissingExtraError, match=r'pip install "deepforest-xr\[train\]"'):
        run(store, tmp_path / "r")


def test_it_trains_beside_the_main_thread(store, tmp_path):
    done = []
    thread = threading.Thread(target=lambda: done.append(run(store, tmp_path / "r", epochs=1)))
    thread.start()
    thread.join()
    assert done == [tmp_path / "r" / "checkpoint"]


def test_one_branch_takes_radar_stacked_before_the_bands(tmp_path):
    cube, labels = easy_cube((96, 128), months=(6, 7))
    chips = write_chips(cube, labels, tmp_path / "c", spec=ChipSpec(size=32))
    checkpoint = models.load(run(chips, tmp_path / "r", epochs=1))
    assert checkpoint.bands == ("vv_06", "vh_06", "vv_07", "vh_07", *BANDS)
    assert checkpoint.build_arguments["bands"] == 7
    np.testing.assert_allclose(checkpoint.mean[:4], -10, atol=0.2)
    np.testing.assert_allclose(checkpoint.mean[4:6], 0.2, atol=0.02)


def test_two_branches_train_and_predict(tmp_path):
    cube, labels = easy_cube((32, 128), months=(6, 7))
    spec = ChipSpec(size=32, block=1)
    chips = write_chips(cube, labels, tmp_path / "c", spec=spec)
    checkpoint = models.load(run(chips, tmp_path / "r", model="deepforest-2b", epochs=1))
    assert checkpoint.months == (6, 7)
    scaling = Standardisation(
        np.array(checkpoint.mean, "float32"), np.array(checkpoint.std, "float32"), 2, True
    )
    first = open_chips(chips).read(0)
    pair = [torch.from_numpy(a)[None] for a in scaling.apply(first["s2"], first["s1"])]
    with torch.no_grad():
        assert checkpoint.build()(*pair).shape == (1, 2, 32, 32)


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch": 0}, {"patience": 0}, {"learning_rate": 0.0}, {"device": "tpu"},
     {"learning_rate": float("nan")}],
)  # fmt: skip
def test_settings_are_checked_when_made(wrong):
    with pytest.raises(ConfigError):
        TrainSettings(**wrong)


def test_a_disk_that_fills_is_one_line_and_the_run_continues(store, tmp_path, monkeypatch):
    import errno

    from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

    saved = TorchCheckpointIO.save_checkpoint

    def full(self, checkpoint, path, *args, **kwargs):
        if checkpoint["epoch"] == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        saved(self, checkpoint, path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(TorchCheckpointIO, "save_checkpoint", full)
        with pytest.raises(WriteError, match=r"No space left on device.*call again") as caught:
            run(store, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "checkpoint").exists()
    assert run(store, tmp_path / "run").is_dir()
    assert pd.read_csv(tmp_path / "run" / "metrics.csv")["epoch"].max() == 2


def test_a_run_that_had_stopped_early_is_not_trained_on(store, tmp_path, monkeypatch):
    reference = run(store, tmp_path / "whole", epochs=40, patience=1)
    stopped = metrics(tmp_path / "whole")
    assert len(stopped) < 40

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("deepforest_xr.training.confidence.fit_temperature", killed)
        with pytest.raises(KeyboardInterrupt):
            run(store, tmp_path / "run", epochs=40, patience=1)
    again = run(store, tmp_path / "run", epochs=40, patience=1)
    assert models.load(again).sha256 == models.load(reference).sha256
    assert len(metrics(tmp_path / "run")) == len(stopped)


def test_a_run_whose_folder_was_moved_knows_its_best_epoch(store, tmp_path, interrupt, monkeypatch):
    falling = iter([0.9, 0.5, 0.4, 0.3])
    logged = TrainingModule.log

    def log(self, name, value, **options):
        logged(self, name, next(falling) if name == "val_accuracy" else value, **options)

    monkeypatch.setattr(TrainingModule, "log", log)
    interrupt(epoch=1)
    with pytest.raises(KeyboardInterrupt):
        run(store, tmp_path / "here")
    first = torch.load(tmp_path / "here" / "best.ckpt", weights_only=True)["state_dict"]
    (tmp_path / "here").rename(tmp_path / "there")
    kept = models.load(run(store, tmp_path / "there")).state_dict
    for name, value in kept.items():
        assert torch.equal(value, first[f"network.{name}"]), name
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("file", ["run.json", "metrics.csv"])
def test_files_of_a_run_that_a_power_cut_left_empty(store, tmp_path, interrupt, file, caplog):
    interrupt(epoch=1)
    with pytest.raises(KeyboardInterrupt):
        run(store, tmp_path / "run")
    (tmp_path / "run" / file).write_text("")
    if file == "run.json":
        with pytest.raises(ReadError, match="was not written whole") as caught:
            run(store, tmp_path / "run")
        assert "\n" not in str(caught.value)
    else:
        assert run(store, tmp_path / "run").is_dir()
        assert "earlier epochs are lost" in caplog.text


def test_a_state_cut_in_half_is_refused_in_one_line(store, tmp_path, interrupt):
    interrupt(epoch=1)
    with pytest.raises(KeyboardInterrupt):
        run(store, tmp_path / "run")
    state = tmp_path / "run" / "last.ckpt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(ReadError, match="was not written whole"):
        run(store, tmp_path / "run")


def test_bands_that_a_checkpoint_cannot_name_are_refused_before_a_folder_is_made(tmp_path):
    cube, labels = easy_cube()
    twice = cube.assign_coords(band=["B02", "B04", "B04"])
    chips = write_chips(twice, labels, tmp_path / "c", spec=ChipSpec(size=32))
    with pytest.raises(ConfigError, match="B04") as caught:
        run(chips, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_label_without_confidence_counts_as_none(narrow):
    torch.manual_seed(0)
    network = models.build("u-net", bands=3, classes=2).eval()
    module = TrainingModule(network, torch.tensor([1.0, 3.0]), TrainSettings())
    images, target = torch.randn(2, 3, 32, 32), torch.randint(0, 2, (2, 32, 32))
    is_sure = torch.rand(2, 32, 32) > 0.5
    where = torch.tensor([0, 1])
    weighed = Batch((images,), target, is_sure.float(), where)
    left_out = Batch((images,), torch.where(is_sure, target, 255), None, where)
    losses = [
        module._step(b, "train")[0] for b in (weighed, left_out, left_out._replace(target=target))
    ]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    assert losses[0].item() != pytest.approx(losses[2].item(), rel=1e-6)


def test_cuda_without_a_gpu_is_refused_before_a_folder_is_made(store, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="shows no GPU: use 'auto' or 'cpu'"):
        run(store, tmp_path / "run", device="cuda")
    assert not (tmp_path / "run").exists()
