"""The learning rate from step to step."""

from __future__ import annotations

import math


def rate_share(step: int, *, total: int, warmup: float) -> float:
    """Share of the highest learning rate at a step: a rise in a line, then half a cosine.

    Parameters
    ----------
    step : int
        From 0.
    total : int
        Steps of the whole run, if nothing stops it early.
    warmup : float
        Share of `total` in which the rate rises.

    Returns
    -------
    float
        Above 0 up to 1 for ``0 <= step < total``; 0 from then on.

    Examples
    --------
    >>> [round(rate_share(s, total=8, warmup=0.5), 3) for s in range(9)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    rising = round(warmup * total)
    if step < rising:
        return (step + 1) / rising
    done = min((step - rising) / max(total - rising, 1), 1.0)
    return (1 + math.cos(math.pi * done)) / 2
