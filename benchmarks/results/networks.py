"""All networks on all datasets, as the paper's table of results has it."""

import numpy as np

from benchmarks.results.runs import Run, of
from deepforest_xr.cube import DATASETS
from deepforest_xr.legend import amazon13
from deepforest_xr.models import entry, names

BATCH = 2
"""Chips: with so few pixels shown, steps are worth more than steady ones."""


def runs(seeds, pixels):
    """Every network on every dataset it can take."""
    return [
        Run(
            "network",
            model=model,
            dataset=dataset,
            settings={"batch": BATCH},
            seed=seed,
            pixels=pixels,
        )
        for dataset in DATASETS
        for model in names()
        if DATASETS[dataset] or not entry(model).is_two_branch
        for seed in seeds
    ]


def section(found):
    """Markdown: one column a class."""
    legend = amazon13()
    pixels = found[0]["run"]["pixels"] / 1e6
    lines = [
        "## Networks and datasets",
        "",
        f"{pixels:g} million pixels shown to each network in batches of {BATCH} chips, the",
        "paper's loss and weights, learning rate 1e-3 along a cosine, averaged weights. Trained",
        "on the noisy 30 m labels, scored against the clean truth of other scenes. It is the",
        "largest scale that two cores gave: networks that learn slowly, as those on ResNet50 do,",
        "are far from their end: at 29.5 % a row knows the most frequent class and hardly",
        "another. Networks of two branches need Sentinel-1. F1 of each class; a dash where the",
        "class was neither mapped nor there.",
        "",
        "| network | dataset | overall accuracy | macro F1 | "
        + " | ".join(legend.names)
        + " | s |",
        "| --- | --- | --- | --- |" + " --- |" * (len(legend.names) + 1),
    ]
    for one in found:
        scores, run = of(one), one["run"]
        f1 = ["-" if np.isnan(f) else f"{100 * f:.0f}" for f in scores.f1]
        lines.append(
            f"| {run['model']} | {run['dataset']} | {scores.overall_accuracy:.1%} "
            f"| {scores.macro_f1:.1%} | " + " | ".join(f1) + f" | {one['seconds']:.0f} |"
        )
    return "\n".join([*lines, ""])
