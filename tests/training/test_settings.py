"""Each setting of training does what it says, and all of them together survive an interruption."""

import json
import logging
import struct

import numpy as np
import pandas as pd
import pytest
import torch
import zarr

from deepforest_xr import models
from deepforest_xr.chips import ChipSpec, open_chips, write_chips
from deepforest_xr.errors import ChipError, ConfigError, MissingExtraError
from deepforest_xr.legend import LandCoverClass, Legend
from deepforest_xr.training import TrainSettings, train
from deepforest_xr.training.average import Average
from deepforest_xr.training.data import ChipTensors
from deepforest_xr.training.fit import build_network
from deepforest_xr.training.module import TrainingModule
from deepforest_xr.training.schedule import rate_share

from .problems import easy_cube, hits, metrics, run

pytestmark = pytest.mark.usefixtures("narrow")

ALL = {
    "schedule": "cosine",
    "warmup": 0.2,
    "ema": 0.9,
    "gradient_clip": 0.5,
    "balanced": True,
    "month_dropout": 0.3,
    "precision": "bf16",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """12 chips with two months of radar."""
    path = tmp_path_factory.mktemp("chips") / "c"
    spec = ChipSpec(size=32, block=1, buffer=0)
    return write_chips(*easy_cube((96, 128), months=(6, 7)), path, spec=spec)


@pytest.fixture
def after_each_step(monkeypatch):
    """What a function says of the module after each step of training."""

    def record(look):
        seen, original = [], TrainingModule.on_train_batch_end

        def end(self, *arguments):
            seen.append(look(self))
            original(self, *arguments)

        monkeypatch.setattr(TrainingModule, "on_train_batch_end", end)
        return seen

    return record


def states(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


def test_all_of_them_interrupted_and_continued_end_as_if_nothing_had_happened(
    store, tmp_path, interrupt
):
    run(store, tmp_path / "straight", **ALL)
    interrupt(1, batch=0)
    with pytest.raises(KeyboardInterrupt):
        run(store, tmp_path / "r", **ALL)
    torch.manual_seed(99)
    checkpoint = run(store, tmp_path / "r", **ALL)
    pd.testing.assert_frame_equal(
        metrics(tmp_path / "r"), metrics(tmp_path / "straight"), check_like=True
    )
    a, b = (models.load(f).state_dict for f in (checkpoint, tmp_path / "straight" / "checkpoint"))
    assert all(torch.equal(a[key], b[key]) for key in b)
    a, b = states(tmp_path / "r"), states(tmp_path / "straight")
    for part in ("state_dict", "raw_weights"):
        assert all(torch.equal(a[part][key], b[part][key]) for key in b[part])
    moments = [s["optimizer_states"][0]["state"] for s in (a, b)]
    for key, moment in moments[1].items():
        assert all(torch.equal(moments[0][key][name], moment[name]) for name in moment)


def test_the_average_is_what_a_slow_loop_says_and_forgets_the_first_weights_soon():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
    average = Average(network, 0.9)
    expected = {k: v.double().clone() for k, v in network.state_dict().items()}
    for step in range(1, 40):
        network(torch.randn(2, 2, 3, 5))
        with torch.no_grad():
            network[0].weight += 1
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value.double()
            else:
                expected[name] = value.double()
    for name, value in average.values.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-5)
    raw = {k: v.clone() for k, v in network.state_dict().items()}
    average.swap()
    torch.testing.assert_close(network[0].weight.double(), expected["0.weight"])
    average.swap()
    assert all(torch.equal(v, raw[k]) for k, v in network.state_dict().items())


def test_the_average_is_validated_and_saved_and_the_raw_weights_are_trained(
    store, tmp_path, after_each_step
):
    raw = after_each_step(lambda m: {k: v.clone() for k, v in m.network.state_dict().items()})
    checkpoint = models.load(run(store, tmp_path / "r", epochs=2, ema=0.6, batch=2))
    log = metrics(tmp_path / "r")
    best = int(log["val_accuracy"].argmax())
    steps = len(raw) // 2
    first = build_network(open_chips(store), "u-net", TrainSettings(), None)
    mean = Average(first, 0.6)
    for number, state in enumerate(raw[: steps * (best + 1)], start=1):
        first.load_state_dict(state)
        mean.update(number)
    for name, value in checkpoint.state_dict.items():
        torch.testing.assert_close(value, mean.values[name], rtol=1e-5, atol=1e-6)
    name = next(iter(dict(first.named_parameters())))
    assert not torch.equal(checkpoint.state_dict[name], raw[-1][name])
    last = states(tmp_path / "r")["raw_weights"]
    assert all(torch.equal(last[k], v) for k, v in raw[-1].items())
    right, seen = hits(checkpoint, store)
    assert right / seen == pytest.approx(log["val_accuracy"].max(), abs=2e-3)


def test_no_step_follows_a_longer_gradient_than_allowed(store, tmp_path, after_each_step):
    def length(module):
        return float(torch.stack([p.grad.norm() for p in module.network.parameters()]).norm())

    free = after_each_step(length)
    run(store, tmp_path / "free", epochs=1)
    clipped, most = after_each_step(length), max(free) / 2
    run(store, tmp_path / "clipped", epochs=1, gradient_clip=most)
    assert max(free) > most
    assert max(clipped) == pytest.approx(most, rel=1e-4)


def test_each_step_has_the_rate_of_the_schedule_and_the_curve_shows_it(
    store, tmp_path, after_each_step
):
    rates = after_each_step(lambda module: module.rate)
    changes = {"schedule": "cosine", "warmup": 0.4, "batch": 4, "learning_rate": 0.01}
    run(store, tmp_path / "cosine", **changes)
    expected = [0.01 * rate_share(s, total=len(rates), warmup=0.4) for s in range(len(rates))]
    assert rates == pytest.approx(expected)
    assert min(rates) < max(rates) == 0.01
    log = metrics(tmp_path / "cosine")["learning_rate"]
    assert log.tolist() == pytest.approx(rates[len(rates) // 3 - 1 :: len(rates) // 3], rel=1e-6)
    run(store, tmp_path / "constant", epochs=1)
    widths = [
        struct.unpack(">I", (tmp_path / name / "curve.png").read_bytes()[16:20])[0]
        for name in ("constant", "cosine")
    ]
    assert widths[1] > 1.3 * widths[0]


def test_sixteen_bits(store, tmp_path, monkeypatch):
    kinds, original = [], TrainingModule._step

    def step(self, batch, split):
        kinds.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return original(self, batch, split)

    monkeypatch.setattr(TrainingModule, "_step", step)
    run(store, tmp_path / "bf16", epochs=1, precision="bf16")
    assert set(kinds) == {torch.bfloat16}
    state = torch.load(tmp_path / "bf16" / "best.ckpt", weights_only=True)["state_dict"]
    assert {v.dtype for v in state.values()} == {torch.float32, torch.int64}
    with pytest.raises(ConfigError, match=r"precision='16' needs a GPU.*'bf16'"):
        run(store, tmp_path / "16", precision="16")
    assert not (tmp_path / "16").exists()


def test_a_run_lists_what_it_ran_on_for_the_start_and_each_continuation(store, tmp_path, interrupt):
    interrupt(1, batch=0)
    with pytest.raises(KeyboardInterrupt):
        run(store, tmp_path / "r", epochs=2)
    run(store, tmp_path / "r", epochs=2)
    entries = json.loads((tmp_path / "r" / "environment.json").read_text())
    assert len(entries) == 2
    for entry in entries:
        assert entry["packages"]["torch"] == torch.__version__
        assert entry["packages"].keys() == {"deepforest-xr", "torch", "lightning", "numpy", "zarr"}
        assert (entry["device"], entry["threads"]) == ("cpu", 1)
        assert entry.keys() >= {"python", "platform", "device_name", "started"}
    assert entries[0]["started"] <= entries[1]["started"]
    card = json.loads((tmp_path / "r" / "run.json").read_text())
    assert card["chips"]["fingerprint"] == getattr(open_chips(store), "fingerprint", None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_holds_the_numbers_of_the_table(store, tmp_path, interrupt):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    interrupt(1, batch=0)
    with pytest.raises(KeyboardInterrupt):
        run(store, tmp_path / "r", tensorboard=True)
    run(store, tmp_path / "r", tensorboard=True)
    events = EventAccumulator(str(tmp_path / "r" / "tensorboard"))
    events.Reload()
    table = metrics(tmp_path / "r")
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate"):
        found = [(e.step, e.value) for e in events.Scalars(name)]
        assert [step for step, _ in found] == table["step"].tolist()
        np.testing.assert_allclose([value for _, value in found], table[name], rtol=1e-6)


def test_tensorboard_that_is_not_installed_is_said_in_one_line(store, tmp_path, monkeypatch):
    monkeypatch.setitem(train.__globals__, "find_spec", lambda name: name != "tensorboard" or None)
    with pytest.raises(MissingExtraError, match="pip install tensorboard") as caught:
        run(store, tmp_path / "r", tensorboard=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_a_loss_that_is_not_finite_names_the_chip_whose_values_are_not(
    store, tmp_path, monkeypatch
):
    chips, read = open_chips(store), ChipTensors.__getitems__
    wrong = int(chips.indices("train")[2])

    def broken(self, places):
        batch = read(self, places)
        batch.inputs[0][batch.chip == wrong, 0, 3, 5] = torch.inf
        return batch

    monkeypatch.setattr(ChipTensors, "__getitems__", broken)
    with pytest.raises(ChipError, match="the loss became nan in epoch 0") as caught:
        run(store, tmp_path / "r", batch=4)
    message = str(caught.value)
    assert f"with {chips.origin(wrong)}: lower the learning rate" in message
    assert "\n" not in message


def test_of_many_suspects_three_are_named(store, tmp_path):
    with pytest.raises(ChipError, match=r"became (nan|inf) .*; .*; .*; and 1 more: lower"):
        run(store, tmp_path / "r", learning_rate=1e30, batch=4)


def test_a_class_without_a_training_pixel_is_named_and_training_goes_on(tmp_path, caplog):
    legend = Legend(
        "four", tuple(LandCoverClass(c, f"class {c}", "#00ff00") for c in (4, 5, 9, 11))
    )
    cube, labels = easy_cube((96, 128))
    labels.attrs = legend.attrs()
    spec = ChipSpec(size=32, block=1, buffer=0)
    path = write_chips(cube, labels, tmp_path / "c", spec=spec)
    with caplog.at_level(logging.WARNING):
        run(path, tmp_path / "r", epochs=1)
    said = [r.getMessage() for r in caplog.records if "no training pixel" in r.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("no training pixel of class 5, class 11: ")


@pytest.mark.parametrize(("split", "code"), [("train", 0), ("validation", 1)])
def test_a_split_without_a_label_is_refused_before_a_folder_is_made(tmp_path, split, code):
    spec = ChipSpec(size=32, block=1, buffer=0)
    path = write_chips(*easy_cube((96, 128)), tmp_path / "c", spec=spec)
    root = zarr.open_group(path, mode="a")
    is_split = root["split"][:] == code
    for name, nothing in (("histogram", 0), ("label", 255)):
        values = root[name][:]
        values[is_split] = nothing
        root[name][:] = values
    with pytest.raises(ChipError, match=f"no {split} chip of .* has a labelled pixel") as caught:
        run(path, tmp_path / "r")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()
