"""A checkpoint's confidence is fitted to its validation chips."""

import numpy as np
import pytest
import torch

from deepforest_xr import models
from deepforest_xr.chips import ChipSpec, open_chips, write_chips
from deepforest_xr.models.inputs import Standardisation

from .problems import easy_cube, run

pytestmark = pytest.mark.usefixtures("narrow")


def test_where_all_of_validation_is_right_the_confidence_is_left_alone(tmp_path, caplog):
    cube, labels = easy_cube()
    one = labels.copy(data=np.full(labels.shape, 4, "uint8"))
    store = write_chips(cube, one, tmp_path / "c", spec=ChipSpec(size=32))
    assert models.load(run(store, tmp_path / "r", epochs=1)).temperature == 1.0
    assert "the confidence is left as it is: 0 of" in caplog.text


@pytest.mark.parametrize("weighted", [False, True])
def test_the_temperature_is_that_of_the_greatest_likelihood(tmp_path, weighted):
    cube, labels = easy_cube()
    rng = np.random.default_rng(5)
    # A quarter of the labels are wrong: a network that is sure of them is too sure.
    wrong = rng.random(labels.shape) < 0.25
    labels = labels.copy(data=np.where(wrong, 13 - labels.to_numpy(), labels).astype("uint8"))
    sure = labels.copy(data=np.where(wrong & (rng.random(labels.shape) < 0.9), 0.2, 1.0))
    store = write_chips(
        cube, labels, tmp_path / "c", weights=sure if weighted else None, spec=ChipSpec(size=32)
    )
    checkpoint = models.load(run(store, tmp_path / "r", epochs=2))
    chips = open_chips(store)
    mean, std = (np.array(a, "float32") for a in (checkpoint.mean, checkpoint.std))
    scaling = Standardisation(mean, std, 0, is_two_branch=False)
    weights, margins = [], []  # of the margin: logit of the right class minus the other's
    for chip in chips.indices("validation"):
        arrays = chips.read(int(chip))
        (x,) = scaling.apply(arrays["s2"], None)
        with torch.no_grad():
            low, high = checkpoint.build()(torch.from_numpy(x)[None])[0].double().numpy()
        margins.append(np.where(arrays["label"] == 9, high - low, low - high))
        weights.append(arrays.get("weight", np.ones_like(low)))
    margins, weights = (np.concatenate(parts).ravel() for parts in (margins, weights))

    def likelihood(temperature):
        return -np.average(np.log1p(np.exp(-margins / temperature)), weights=weights)

    grid = np.geomspace(0.02, 50, 2000)
    best = grid[np.argmax([likelihood(t) for t in grid])]
    assert checkpoint.temperature == pytest.approx(best, rel=0.01)
    assert checkpoint.temperature != pytest.approx(1, rel=0.02)
    assert likelihood(checkpoint.temperature) > likelihood(1.0)
