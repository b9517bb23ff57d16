"""What each loss, weighting and treatment of the labels does, trained on the noisy ones."""

import numpy as np

from benchmarks.results.runs import STEADY, Run, of
from deepforest_xr.training import RECIPES, TrainSettings
from deepforest_xr.training.losses import CLASS_WEIGHTS, LOSSES

SHOWN = {"wetland": 4, "semi-perennial crop": 9, "forest plantation": 3, "water": 13}
"""Classes with a column: three that cover less than 0.2 % each, and one that is thin."""
PAPER = "cross-entropy, share"
DEFAULT = "cross-entropy, square-root"
CLOSE = (PAPER, DEFAULT)
"""Repeated with other seeds, to tell what they do from chance."""


def runs(seeds, pixels):
    """The paper's loss, and everything else one change away from it."""
    variants = {PAPER: {}}
    variants |= {f"{loss}, share": {"loss": loss} for loss in LOSSES if loss != "cross-entropy"}
    variants |= {
        f"cross-entropy, {weights}": {"class_weights": weights}
        for weights in CLASS_WEIGHTS
        if weights != "share"
    }
    variants["balanced drawing"] = {"balanced": True}
    default = {name: getattr(TrainSettings(), name) for name in STEADY}
    variants["default recipe"] = default
    variants["along a cosine"] = default | {"schedule": "cosine"}
    variants["the paper's rate"] = default | {
        name: getattr(RECIPES["paper"], name) for name in ("learning_rate", "schedule", "ema")
    }
    found = [
        Run(name, settings=settings, seed=seed, pixels=pixels)
        for name, settings in variants.items()
        for seed in seeds
    ]
    kinds = ("border 10", "border 30", "years", "years weighted", "truth")
    found += [Run(f"labels {k}", labels=k, seed=s, pixels=pixels) for k in kinds for s in seeds]
    return found


def repeated(seeds, pixels):
    """The paper's and the default, again."""
    return [run for run in runs(seeds, pixels) if run.name in CLOSE]


def section(found):
    """Markdown: one row a variant, means over seeds."""
    names = list(dict.fromkeys(f["run"]["name"] for f in found))
    lines = [
        "## Label noise",
        "",
        f"U-Net on S1TsS2_7, {found[0]['run']['pixels'] / 1e6:.0f} million pixels shown, trained",
        "on the simulated 30 m labels, of which about one in ten is wrong, and scored against the",
        "clean truth of other scenes. F1 of three classes that cover less than 0.2 % each, and of",
        "water. Where there are several runs, their mean and in brackets their range; one change",
        f"at a time from `{PAPER}`, the paper's loss, with a learning rate of 1e-3 along a",
        f"cosine, batches of 4 and averaged weights. `default recipe`: `{DEFAULT}` as the library",
        "trains where nothing is asked for: a constant 1e-3, averaged weights, batches of 10.",
        "`along a cosine`: the same so; `the paper's rate`: at 1e-4 without averaging.",
        "`border n`: labels within n metres of a change of class left out. `years`: the class of",
        "most of three years, whose errors are independent here (the best case for it),",
        "`weighted` by the share of years that agree. `truth`: trained on labels without an",
        "error, what cleaner labels could reach at most.",
        "",
        "| variant | runs | overall accuracy | macro F1 | " + " | ".join(SHOWN) + " |",
        "| --- | --- | --- | --- |" + " --- |" * len(SHOWN),
    ]
    for name in names:
        scores = [of(f) for f in found if f["run"]["name"] == name]
        columns = [[s.overall_accuracy for s in scores], [s.macro_f1 for s in scores]]
        columns += [[_f1(s, code) for s in scores] for code in SHOWN.values()]
        lines.append(f"| {name} | {len(scores)} | " + " | ".join(map(spread, columns)) + " |")
    return "\n".join([*lines, ""])


def _f1(scores, code):
    """0 where a class that occurs is never mapped."""
    return float(np.nan_to_num(scores.f1[scores.codes.index(code)]))


def spread(values):
    """Mean, and range of several, in percent."""
    mean = f"{np.mean(values):.1%}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1%} to {max(values):.1%})"
