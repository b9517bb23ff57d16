"""What post-processing does to accuracy, measured on the truth of simulated scenes.

`python -m benchmarks.postprocess --out FOLDER` trains a U-Net on one simulated scene, maps
another, and prints a Markdown table; FOLDER is kept and used again. `--checkpoint` takes a
trained network instead. A map of your own: `--map map.zarr --cube cube.zarr --truth truth.tif`
(codes 1 to 13). The rows of the CRF need the extra `crf` and are left out without it.
"""

import argparse
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import deepforest_xr as dfx
from benchmarks.results.scenes import Area
from deepforest_xr.legend import amazon13
from deepforest_xr.postprocess import (
    bayesian_smoothing,
    dense_crf,
    majority,
    minimum_mapping_unit,
)

TRAIN, TEST = 1, 101  # seeds of the scenes
PIXELS = 2_000_000  # shown in training


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("postprocess-runs"))
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--dataset", default="S2")
    parser.add_argument("--map", type=Path)
    parser.add_argument("--cube", type=Path)
    parser.add_argument("--truth", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    given = (chosen.map, chosen.cube, chosen.truth)
    if any(given) and not all(given):
        parser.error("--map, --cube and --truth go together.")
    if all(given):
        cube, result = xr.open_zarr(chosen.cube).load(), xr.open_zarr(chosen.map).load()
        truth = dfx.align_labels(chosen.truth, like=cube, legend=amazon13())
    else:
        checkpoint = chosen.checkpoint or trained(chosen.out, chosen.dataset)
        cube, result, truth = mapped(chosen.out, chosen.dataset, checkpoint)
    print("\n".join(table(cube, result, truth)))


def trained(out, dataset):
    """A U-Net, trained in minutes on the 30 m labels of one scene."""
    checkpoint = out / "run" / "checkpoint"
    if not checkpoint.exists():
        area = Area.made(out, TRAIN)
        cube = area.cube(dataset).load()
        spec = dfx.ChipSpec(size=64, buffer=0, block=1, fractions=(0.8, 0.15, 0.05))
        chips = dfx.write_chips(cube, area.labels(cube).compute(), out / "chips.zarr", spec=spec)
        count = len(dfx.open_chips(chips).indices("train"))
        epochs = max(round(PIXELS / (count * 64**2)), 1)
        settings = dfx.TrainSettings(
            epochs=epochs, batch=4, learning_rate=1e-3, patience=epochs, device="cpu"
        )
        dfx.train(chips, model="u-net", out=out / "run", settings=settings, progress=False)
    return checkpoint


def mapped(out, dataset, checkpoint):
    """Cube, map with probabilities and truth of a scene that the network has not seen."""
    area = Area.made(out, TEST)
    cube = area.cube(dataset).load()
    result = dfx.classify(cube, checkpoint, probability=True).load()
    return cube, result, area.truth(cube)


def table(cube, result, truth):
    """Lines of the table: accuracy before and after each step."""
    yield "| step | overall accuracy | macro F1 | pixels changed | small patches | seconds |"
    yield "| --- | --- | --- | --- | --- | --- |"
    before = result["lulc"].to_numpy()
    for name, step in steps(cube).items():
        begin = time.perf_counter()
        after = step(result)
        seconds = time.perf_counter() - begin
        scores = dfx.assess(after, truth).scores
        changed = (after["lulc"].to_numpy() != before).mean()
        yield (
            f"| {name} | {scores.overall_accuracy:.1%} | {scores.macro_f1:.1%} | {changed:.1%} "
            f"| {small(after['lulc'].to_numpy())} | {seconds:.1f} |"
        )


def steps(cube):
    found = {
        "the network's map": lambda r: r,
        "majority 3": majority,
        "majority 5": lambda r: majority(r, size=5),
        "minimum mapping unit 0.5 ha": lambda r: minimum_mapping_unit(r, 0.5),
        "majority 3, unit 0.5 ha": lambda r: minimum_mapping_unit(majority(r), 0.5),
        "Bayesian (sits: 9, 20, 0.5)": bayesian_smoothing,
        "Bayesian 7, smoothness 5": lambda r: bayesian_smoothing(r, window=7, smoothness=5),
        "Bayesian (sits), unit 0.5 ha": lambda r: minimum_mapping_unit(bayesian_smoothing(r), 0.5),
    }
    if find_spec("pydensecrf"):
        found |= {
            "CRF on reflectance": lambda r: dense_crf(r, cube),
            "CRF on the arg-max (paper)": lambda r: dense_crf(r, paper=True),
            "CRF, Bayesian (sits), unit 0.5 ha": lambda r: minimum_mapping_unit(
                bayesian_smoothing(dense_crf(r, cube)), 0.5
            ),
        }
    return found


def small(lulc, pixels=50):
    """Patches of fewer pixels than 0.5 ha at 10 m."""
    from scipy.ndimage import label

    sizes = [np.bincount(label(lulc == code)[0].ravel())[1:] for code in np.unique(lulc) if code]
    return int(sum((s < pixels).sum() for s in sizes))


if __name__ == "__main__":
    main()
