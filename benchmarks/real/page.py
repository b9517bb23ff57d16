"""Confusion matrices to docs/real-data.md: tables, and sentences that follow from them."""

import platform
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from benchmarks.measure import machine
from benchmarks.real.experiments import TITLES
from benchmarks.real.methods import CHOSEN, DECIDED, FOREST, MAJORITY
from benchmarks.real.sites import SEASONAL
from deepforest_xr.accuracy import Scores

COMMAND = "python -m benchmarks.real --data ../shared/data/real --out runs/real"

HEAD = f"""# Real data

```
{COMMAND}
```

writes this page (scikit-learn is in the extra `dev`). The data are not part of the project: folders
of `items.json`, `labels/<site>.tif` and `labels/legend.csv`; sites of other folders of this layout
are taken without a change. A second call does what is missing; `--networks`, `--families`,
`--datasets` and `--seeds` choose, `--choose` compares settings on validation pixels.

- Labels are other people's maps or parcels, with errors of their own, and the areas are small:
  what differs by a few percent here may turn round at the next site.
- OA is the share of test pixels that are right, macro F1 the mean over the classes that occur in
  the test pixels, both from `deepforest_xr.accuracy`. Networks trained with several seeds are
  averaged. Majority class is the most frequent one of the labelled pixels outside the test.
- The random forest (200 trees, leaf of 2, seed 0) sees single pixels of the same channels. It
  learns from training and validation pixels; the networks learn from training pixels, and
  validation pixels choose the epoch.
- Seconds hold training and map, on a machine that was shared."""

ABOUT = {
    "A1": (
        "Squares inside the tile are dealt to training, validation and test (`ChipSpec.cell`). "
        "Labels are held out, pixels are not: networks see the test squares' pixels around those "
        "they learn from, and each test pixel has training pixels nearby. The mildest of the tests."
    ),
    "A2": (
        "The split of the reference scores that come with the data. The right part's pixels are "
        "in no chip: the left part, mirrored, stands in their place. Validation squares are "
        "dealt inside the left part. There is no gap between the parts."
    ),
    "B": (
        "Learnt on the other tiles of the folder, tested on every labelled pixel of one. "
        "Radar is one picture a tile, whatever its month."
    ),
    "C1": (
        "Learnt on the other patches that share at least two classes, tested on one whole. "
        "Sentinel-2 is one median of the last twelve months, in the bands that all patches have; "
        "Sentinel-1 twelve monthly means. S2x6 is no dataset of the library: six medians of two "
        "months each, stacked, which networks do not take (a checkpoint knows each band once)."
    ),
    "C2": (
        "As A2, on a patch of a series with all its bands. The reference scores that come with "
        "the data are of medians of two months each, as in S2x6."
    ),
}

DASH = "–"  # noqa: RUF001


@dataclass(frozen=True)
class Row:
    """One method on one experiment, seeds averaged."""

    family: str
    test: str
    dataset: str
    method: str
    overall: float
    macro_f1: float
    f1: dict
    """Of the classes that occur in the test pixels, by name."""

    absent: tuple
    """Names of classes of the test pixels that no training pixel has."""

    train: int
    pixels: int
    seconds: float
    seeds: int
    majority: float


def rows(results):
    """One row a method and experiment; results that differ by seed are averaged."""
    same = defaultdict(list)
    for r in results:
        same[r["family"], r["test"], r["dataset"], r["method"]].append(r)
    return [_row(key, group) for key, group in same.items()]


def _row(key, group):
    first = group[0]
    majority = first["codes"][int(np.argmax(first["train_counts"]))]
    scored = [
        Scores.from_confusion(np.array(r["counts"]), r["codes"], baseline_class=majority)
        for r in group
    ]
    occurs = np.flatnonzero(scored[0].support > 0)
    f1 = np.mean([s.f1[occurs] for s in scored], axis=0)
    taught = np.array(first["train_counts"])
    return Row(
        *key,
        overall=float(np.mean([s.overall_accuracy for s in scored])),
        macro_f1=float(f1.mean()),
        f1={first["names"][i]: float(v) for i, v in zip(occurs, f1, strict=True)},
        absent=tuple(first["names"][i] for i in occurs if taught[i] == 0),
        train=first["train_pixels"] + first["validation_pixels"],
        pixels=scored[0].pixels,
        seconds=float(np.mean([r["seconds"] for r in group])),
        seeds=len(group),
        majority=scored[0].majority_baseline,
    )


def page(results, choices, notes, *, missing=()):
    """The whole page; `missing` are lines on what has not been run."""
    done = rows(results)
    parts = [HEAD, f"Measured on {machine()}, {platform.system()}."]
    if missing:
        parts.append(f"**Not run yet**: {'; '.join(missing)}.")
    parts += [_settings(choices), "## Where networks lose", _summary(done)]
    for family, title in TITLES.items():
        mine = [r for r in done if r.family == family]
        if mine:
            parts += [f"## {title}", ABOUT[family], _table(mine), _classes(mine), _absent(mine)]
            parts.append(f"Given by `{COMMAND} --families {family}`.")
    if notes:
        parts += ["## Left out", "\n".join(f"- {n}" for n in notes)]
    return "\n\n".join(p for p in parts if p) + "\n"


def _settings(choices):
    used = CHOSEN.to_dict()
    kept = ", ".join(f"{k} {used[k]}" for k in DECIDED)
    text = f"All networks were trained alike: {kept}, turned and mirrored chips."
    if not choices:
        return text
    text += " Settings were compared for the U-Net on validation pixels; no test pixel was counted."
    lines = [[c["site"], c["settings"], _percent(c["validation_accuracy"])] for c in choices]
    return text + "\n\n" + table(["site", "settings", "best validation accuracy"], lines)


def _summary(done):
    """How each network does beside the two baselines on the same experiment."""
    of = {(r.family, r.test, r.dataset, r.method): r for r in done}
    lines = []
    for method in _networks(done):
        for baseline in (MAJORITY, FOREST):
            pairs = [
                (r, of[r.family, r.test, r.dataset, baseline])
                for r in done
                if r.method == method and (r.family, r.test, r.dataset, baseline) in of
            ]
            if not pairs:
                continue
            lost = [_experiment(a) for a, b in pairs if a.overall < b.overall]
            f1 = [_experiment(a) for a, b in pairs if a.macro_f1 < b.macro_f1]
            named = ("; ".join(where) or DASH for where in (lost, f1))
            lines.append([method, baseline, len(pairs), len(lost), len(f1), *named])
    if not lines:
        return "No network has been trained yet."
    head = ["network", "beside", "experiments", "lower OA", "lower macro F1"]
    head += ["lower OA in", "lower macro F1 in"]
    return table(head, lines) + _radar(done)


def _radar(done):
    """Whether Sentinel-1 or seasons help, method by method."""
    of = {(r.family, r.test, r.method): r for r in done if r.dataset == "S2"}
    lines = []
    for method in (FOREST, *_networks(done)):
        for dataset in ("S2+S1", "S1TsS2_12", SEASONAL):
            pairs = [
                (r, of[r.family, r.test, method])
                for r in done
                if r.method == method and r.dataset == dataset and (r.family, r.test, method) in of
            ]
            if pairs:
                gain = [100 * (a.overall - b.overall) for a, b in pairs]
                better = sum(g > 0 for g in gain)
                lines.append([method, dataset, len(pairs), better, f"{np.mean(gain):+.1f}"])
    if not lines:
        return ""
    head = [
        "method",
        "dataset",
        "experiments",
        "higher OA than S2 alone",
        "mean difference, points",
    ]
    return "\n\n" + table(head, lines)


def _table(mine):
    lines = []
    best = defaultdict(float)
    for r in mine:
        best[r.test, r.dataset] = max(best[r.test, r.dataset], r.overall)
    for r in sorted(mine, key=_order):
        overall = _percent(r.overall)
        lines.append([
            r.test, r.dataset, r.method + (f" ({r.seeds} seeds)" if r.seeds > 1 else ""),
            f"**{overall}**" if r.overall == best[r.test, r.dataset] else overall,
            _percent(r.macro_f1), f"{r.train:,}", f"{r.pixels:,}", f"{r.seconds:.0f}",
        ])  # fmt: skip
    head = ["test", "dataset", "method", "OA", "macro F1", "labelled", "test pixels", "seconds"]
    return table(head, lines)


def _classes(mine):
    names = list(dict.fromkeys(n for r in mine for n in r.f1))
    lines = [
        [r.test, r.dataset, r.method, *(_percent(r.f1[n]) if n in r.f1 else "" for n in names)]
        for r in sorted(mine, key=_order)
    ]
    text = "F1 of each class that occurs in the test pixels:\n\n"
    return text + table(["test", "dataset", "method", *names], lines)


def _absent(mine):
    lines = sorted({(r.test, r.absent) for r in mine if r.absent})
    return "\n".join(
        f"- {test}: no training pixel shows {', '.join(absent)}, so no method can find it."
        for test, absent in lines
    )


def _networks(done):
    return sorted({r.method for r in done} - {MAJORITY, FOREST})


def _order(row):
    rank = {MAJORITY: 0, FOREST: 1}
    return row.test, row.dataset != "S2", row.dataset, rank.get(row.method, 2), row.method


def _experiment(row):
    return f"{row.family} {row.test} {row.dataset}"


def _percent(share):
    return DASH if np.isnan(share) else f"{100 * share:.1f}"


def table(head, lines):
    """A Markdown table."""
    body = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in body)
