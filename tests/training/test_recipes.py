"""Recipes are settings by name; the paper's is the paper's, and says where the chips are not."""

import dataclasses
import inspect
import logging
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import deepforest_xr
from deepforest_xr.chips import ChipSpec, open_chips, write_chips
from deepforest_xr.cli import app
from deepforest_xr.cli.training import train as command
from deepforest_xr.errors import ConfigError
from deepforest_xr.training import RECIPES, TrainSettings, recipe_of
from deepforest_xr.training.losses import CrossEntropy, loss_of, weights_of
from deepforest_xr.training.module import TrainingModule
from deepforest_xr.training.recipes import deviations

from .problems import easy_cube, run

pytestmark = pytest.mark.usefixtures("narrow")


def test_the_default_recipe_is_the_default():
    assert RECIPES["default"] == TrainSettings() == recipe_of("default")


def test_the_papers_recipe_to_the_letter():
    paper = recipe_of("paper")
    assert (paper.learning_rate, paper.batch, paper.patience) == (1e-4, 10, 1)
    assert loss_of(paper.loss) == CrossEntropy()
    shares = np.array([16.4, 31.2, 0.07, 52.33])
    weights = weights_of(paper.class_weights, (shares * 1000).astype("int64"))
    np.testing.assert_allclose(weights, 100 - shares, rtol=1e-6)
    assert (paper.augment, paper.precision, paper.schedule) == ("paper", "32", "constant")
    assert (paper.gradient_clip, paper.ema, paper.month_dropout) == (0, 0, 0)
    assert not paper.balanced
    assert not paper.batchnorm_warmup


def test_changes_override_a_recipe_and_nothing_else():
    changed = recipe_of("paper", batch=4, augment="none")
    assert changed == dataclasses.replace(RECIPES["paper"], batch=4, augment="none")
    assert RECIPES["paper"].batch == 10


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": "keras"}, "recipe 'keras' is unknown; known: default, paper"),
        ({"name": "paper", "lerning_rate": 1}, "Did you mean 'learning_rate'"),
        ({"name": "paper", "precision": "64"}, "known: 32, bf16, 16"),
        ({"name": "paper", "schedule": "linear"}, "known: constant, cosine"),
        ({"name": "paper", "augment": "four"}, "known: eight, paper, none"),
        ({"name": "paper", "batch": 9, "devices": 2}, "not a multiple of devices=2.*try batch=10"),
        ({"name": "paper", "gradient_clip": -1}, "gradient_clip=-1"),
        ({"name": "paper", "ema": 1.0}, "ema=1.0"),
        ({"name": "paper", "warmup": 1.0}, "warmup=1.0"),
        ({"name": "paper", "devices": 0}, "devices=0 must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(wrong, says):
    with pytest.raises(ConfigError, match=says) as caught:
        recipe_of(**wrong)
    assert "\n" not in str(caught.value)


def test_flags_of_older_settings_still_say_how_chips_are_turned():
    assert TrainSettings(augment=True).augment == "eight"
    assert TrainSettings(augment=False).augment == "none"


def test_the_papers_run_keeps_the_momenta_and_says_where_the_chips_are_not_the_papers(
    tmp_path, monkeypatch, caplog
):
    spec = ChipSpec(size=32, block=1, buffer=0)
    store = write_chips(*easy_cube((96, 128)), tmp_path / "c", spec=spec)
    momenta = []

    def record(self, outputs, batch, batch_idx):
        momenta.append({m.momentum for m in self.momenta})

    monkeypatch.setattr(TrainingModule, "on_train_batch_end", record)
    paper = recipe_of("paper", epochs=1, patience=3)
    settings = dataclasses.asdict(paper)
    with caplog.at_level(logging.WARNING):
        run(store, tmp_path / "paper", **settings)
    assert momenta == [{0.1}]
    said = [r.getMessage() for r in caplog.records if "recipe" in r.getMessage()]
    assert said == [f"recipe 'paper': {d}" for d in deviations(paper, open_chips(store))]
    assert "patience is 3, the paper's 1" in said[0]
    assert "chips have 32 pixels, the paper's 256" in said[1]
    assert "67% of the labels are for training, the paper's 80%" in said[2]
    assert deviations(TrainSettings(), open_chips(store)) == []
    run(store, tmp_path / "default", epochs=1)
    assert momenta[1] == {1.0}  # BATCHNORM_WARMUP / (0 + BATCHNORM_WARMUP)


def test_chips_like_the_papers_are_passed_over_in_silence():
    count = {"train": 81, "validation": 10, "test": 9}
    chips = SimpleNamespace(
        attrs={"size": 256}, class_counts=lambda split: np.array([count[split], 0])
    )
    assert deviations(recipe_of("paper", epochs=3, seed=7, workers=2), chips) == []
    assert deviations(TrainSettings(recipe="paper"), chips) == [
        "augment is 'eight', the paper's 'paper'",
        "batchnorm_warmup is True, the paper's False",
        "class_weights is 'square-root', the paper's 'share'",
        "ema is 0.98, the paper's 0.0",
        "learning_rate is 0.001, the paper's 0.0001",
        "patience is 30, the paper's 1",
    ]


def test_every_setting_has_an_option():
    fields = {f.name for f in dataclasses.fields(TrainSettings)}
    options = set(inspect.signature(command).parameters)
    assert fields <= options


def test_options_that_are_given_override_the_recipe(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        deepforest_xr, "train", lambda *a, settings, **k: asked.append(settings), raising=False
    )
    runner = CliRunner()
    base = ["train", "chips.zarr", "--model", "u-net", "--out", str(tmp_path)]
    plain = runner.invoke(app, [*base, "--recipe", "paper"])
    assert plain.exit_code == 0, plain.output
    result = runner.invoke(
        app,
        [*base, "--recipe", "paper", "--patience", "3", "--balanced", "--batchnorm-warmup",
         "--precision", "bf16"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert asked[0] == RECIPES["paper"]
    assert asked[1] == recipe_of(
        "paper", patience=3, balanced=True, batchnorm_warmup=True, precision="bf16"
    )
