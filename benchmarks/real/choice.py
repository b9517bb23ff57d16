"""Settings of the networks, compared on validation pixels: no test pixel is counted."""

import json
import logging
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd

from benchmarks.real.methods import CHOSEN, settings_for
from benchmarks.real.splits import split
from deepforest_xr.training import train

log = logging.getLogger("benchmarks.real")

BASE = CHOSEN

CANDIDATES = {
    "rate 1e-3, weights uniform": BASE,
    "rate 1e-3, weights share": replace(BASE, class_weights="share"),
    "rate 1e-3, weights share, label smoothing": replace(
        BASE, class_weights="share", loss="label-smoothing"
    ),
}

FAMILY, DATASET, NETWORK = "C2", "S2", "u-net"


def choose(experiments, sites, out):
    """Train every candidate on the left part of one patch; keep its validation accuracy."""
    experiment = _richest(experiments, sites)
    paths = [p.chips for p in split(experiment, sites, out).parts]
    for number, (label, settings) in enumerate(CANDIDATES.items()):
        folder = Path(out) / "choice" / f"{experiment.name}-{number}"
        done = folder.with_suffix(".json")
        if done.exists():
            continue
        begin = time.perf_counter()
        if not (folder / "checkpoint").exists():
            wanted = settings_for(paths, settings)
            train(paths[0], model=NETWORK, out=folder, settings=wanted, progress=False)
        for state in ("last.ckpt", "best.ckpt"):
            (folder / state).unlink(missing_ok=True)
        rows = pd.read_csv(folder / "metrics.csv").dropna(subset=["val_accuracy"])
        best = float(rows["val_accuracy"].max())
        seconds = round(time.perf_counter() - begin, 1)
        content = {"site": experiment.test, "settings": label, "validation_accuracy": best}
        done.write_text(json.dumps({**content, "seconds": seconds}), encoding="utf-8")
        log.info("%s %s: %.3f in %.0f s", experiment.test, label, best, seconds)


def _richest(experiments, sites):
    """The patch with the most classes, of the cheapest family."""
    classes = {s.name: len(s.classes) for s in sites}
    fitting = [e for e in experiments if (e.family, e.dataset) == (FAMILY, DATASET)]
    return max(fitting, key=lambda e: classes[e.test])
