"""Train everything and write docs/results.md."""

import argparse
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.measure import machine
from benchmarks.results import label_noise, networks, scenes
from benchmarks.results.runs import finish_all, finished
from deepforest_xr.legend import amazon13

PAGE = Path(__file__).parents[2] / "docs" / "results.md"
PARTS = ["noise", "networks"]


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, default=Path("runs/results"))
    options.add_argument("--page", type=Path, default=PAGE)
    options.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--noise-pixels", type=int, default=12_000_000)
    options.add_argument("--noise-seeds", type=int, default=1)
    options.add_argument("--noise-repeats", type=int, default=1, help="of the closest variants")
    options.add_argument("--network-pixels", type=int, default=3_000_000)
    options.add_argument("--as-is", action="store_true", help="train nothing more")
    chosen = options.parse_args()
    more = range(chosen.noise_seeds, chosen.noise_seeds + chosen.noise_repeats)
    noise = label_noise.runs(range(chosen.noise_seeds), chosen.noise_pixels)
    noise += label_noise.repeated(more, chosen.noise_pixels)
    sweep = networks.runs([0], chosen.network_pixels)
    sections = []
    for part, module, runs in zip(PARTS, (label_noise, networks), (noise, sweep), strict=True):
        if part in chosen.parts:
            found = (
                finished(runs, chosen.out)
                if chosen.as_is
                else finish_all(runs, chosen.out, processes=chosen.processes)
            )
            sections += [module.section(found), *_left(runs, found)]
    words = [f"--parts {' '.join(chosen.parts)}"]
    words += [
        f"--{name.replace('_', '-')} {value}"
        for name, value in vars(chosen).items()
        if any(name.startswith(f"{part.removesuffix('s')}_") for part in chosen.parts)
    ]
    text = "\n".join([head(chosen.out, " ".join(words)), *sections])
    chosen.page.write_text(text, encoding="utf-8")
    print(f"written to {chosen.page}")


def _left(runs, found):
    """Say what is not in a table."""
    done = [one["run"] for one in found]
    left = [f"{r.name} {r.model} {r.dataset} {r.seed}" for r in runs if asdict(r) not in done]
    return [f"Not run yet, the command above does it: {', '.join(left)}.\n"] if left else []


def head(out, options):
    """What the tables below are made of."""
    train, test = scenes.shares(out)
    rows = [
        f"| {name} | {100 * a:.2f} | {100 * b:.2f} |"
        for name, a, b in zip(amazon13().names, train, test, strict=True)
    ]
    side, chip = scenes.SIDE, scenes.CHIP
    return "\n".join(
        [
            "# Results on simulated scenes",
            "",
            f"`python -m benchmarks.results {options}` writes this page; interrupted, it goes on.",
            f"Measured {datetime.now(UTC):%Y-%m-%d} on {machine()}, one thread a run.",
            "",
            "**Simulated scenes**: they tell losses, weights and networks apart, they say nothing",
            f"of how well the Amazon is mapped. Trained on {len(scenes.TRAIN)} scenes of {side} x",
            f"{side} pixels in chips of {chip}, tested on {len(scenes.TEST)} others, whole. Share",
            "of the classes in percent:",
            "",
            "| class | training | test |",
            "| --- | --- | --- |",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
