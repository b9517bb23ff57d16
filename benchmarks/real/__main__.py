"""Run the experiments on real data that are not done yet, and write docs/real-data.md."""

import argparse
import json
import logging
from collections import Counter
from pathlib import Path

from benchmarks.real.choice import choose
from benchmarks.real.experiments import plan
from benchmarks.real.methods import FOREST, MAJORITY, Job, is_done, run, takes
from benchmarks.real.page import page
from benchmarks.real.sites import open_sites
from benchmarks.real.splits import split

PAGE = Path(__file__).parents[2] / "docs" / "real-data.md"
NETWORKS = ("u-net", "deepforest-2a", "deepforest-1b", "deepforest-2b")

log = logging.getLogger("benchmarks.real")


def arguments(words=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real", description=__doc__)
    parser.add_argument("--data", default="../shared/data/real", help="folder of folders of items")
    parser.add_argument("--out", default="runs/real", help="results, chips, checkpoints")
    parser.add_argument("--page", default=str(PAGE), help="Markdown file to write")
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--families", nargs="*", help="A1 A2 B C1 C2; default all")
    parser.add_argument("--datasets", nargs="*", help="S2 S2+S1 S1TsS2_12 S2x6; default all")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--choose", action="store_true", help="compare settings on validation")
    return parser.parse_args(words)


def jobs(experiments, given):
    """In order of cost: baselines first, then one network after the other."""
    for method in (MAJORITY, FOREST, *given.networks):
        for experiment in experiments:
            if given.families and experiment.family not in given.families:
                continue
            if given.datasets and experiment.dataset not in given.datasets:
                continue
            if not takes(method, experiment):
                continue
            for seed in given.seeds if method in given.networks else [0]:
                yield Job(experiment, method, seed)


def main(words=None):
    given = arguments(words)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    out = Path(given.out)
    sites = open_sites(given.data, out)
    experiments, notes = plan(sites)
    if given.choose:
        choose(experiments, sites, out)
    for job in jobs(experiments, given):
        if is_done(job, out):
            continue
        result = run(job, sites, split(job.experiment, sites, out), out)
        log.info("%s: %.1f s", job.name, result["seconds"])
        write_page(out, given.page, experiments, notes)
    write_page(out, given.page, experiments, notes)


def write_page(out, path, experiments, notes):
    """Write what is done, and how much is not."""
    results = [json.loads(p.read_text()) for p in sorted((out / "results").glob("*.json"))]
    choices = [json.loads(p.read_text()) for p in sorted((out / "choice").glob("*.json"))]
    all_of_it = list(jobs(experiments, arguments([])))
    missing = Counter(j.method for j in all_of_it if not is_done(j, out))
    wanted = Counter(j.method for j in all_of_it)
    left = [f"{m} in {n} of {wanted[m]} experiments" for m, n in missing.items()]
    text = page(results, choices, notes, missing=left)
    Path(path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
