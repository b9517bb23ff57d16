"""How far a trained network's probabilities can be believed: one temperature for all of them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch

from deepforest_xr.accuracy import temperature_scale
from deepforest_xr.training.data import IGNORED, ChipTensors

if TYPE_CHECKING:
    from deepforest_xr.chips import Chips
    from deepforest_xr.models.network import Network
    from deepforest_xr.training.fit import Fit

log = logging.getLogger(__name__)

CHIPS, PIXELS = 64, 8192
"""Of validation at most, and labelled pixels of each at most; both taken evenly."""

FEWEST = 20
"""Wrong pixels from which a confidence can be learnt."""

SENSIBLE = (0.1, 10.0)
"""A temperature beyond says that validation is too easy or its labels are chance."""


def fit_temperature(network: Network, store: Chips, job: Fit) -> float:
    """Fit the temperature of a network on the validation chips, which it was not trained on.

    Parameters
    ----------
    network : Network
        In eval mode.
    store : Chips
        From `open_chips`.
    job : Fit
        Its mean, std and device.

    Returns
    -------
    float
        For `Checkpoint.temperature`, 1 where validation cannot say. It makes confidence agree
        with the labels of validation: where these are noisy, a map is right more often than it
        says.
    """
    scaling = job.standardisation(network, store)
    data = ChipTensors(store, "validation", scaling, augment_seed=None)
    network.to(job.settings.device)
    found = [_sample(network, data, int(place)) for place in _evenly(len(data), CHIPS)]
    network.cpu()
    logits, labels, weights = (np.concatenate(parts) for parts in zip(*found, strict=True))
    wrong = int((logits.argmax(axis=1) != labels).sum())
    temperature = temperature_scale(logits, labels, weights) if weights.any() else 1.0
    if wrong < FEWEST or not SENSIBLE[0] <= temperature <= SENSIBLE[1]:
        log.warning(
            "the confidence is left as it is: %d of %d validation pixels are wrong, which gives a "
            "temperature of %.3g; take more validation chips",
            wrong,
            len(labels),
            temperature,
        )
        return 1.0
    return temperature


@torch.inference_mode()
def _sample(network: Network, data: ChipTensors, place: int) -> tuple[np.ndarray, ...]:
    """Logits (pixel, class), class indices and weights of some labelled pixels of a chip."""
    batch = data[place]
    device = next(network.parameters()).device
    logits = network(*(x[None].to(device) for x in batch.inputs))[0].flatten(1)
    labels = batch.target.flatten().numpy()
    labelled = np.flatnonzero(labels != IGNORED)
    chosen = labelled[_evenly(len(labelled), PIXELS)]
    weights = np.ones(labels.shape) if batch.weight is None else batch.weight.flatten().numpy()
    return logits.cpu().numpy().T[chosen], labels[chosen], weights[chosen]


def _evenly(count: int, most: int) -> np.ndarray:
    """At most so many of `count` positions, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype("int64"))
