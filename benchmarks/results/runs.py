"""One training run and its scores as a JSON file; many of them, side by side."""

import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

import deepforest_xr as dfx
from benchmarks.results import scenes
from deepforest_xr.accuracy import Scores
from deepforest_xr.legend import amazon13

# Few steps: the cosine and the average take most of the chance out of where a run ends.
STEADY = {
    "batch": 4,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "ema": 0.98,
    "class_weights": "share",
}


@dataclass(frozen=True)
class Run:
    """What is trained on what."""

    name: str
    model: str = "u-net"
    dataset: str = "S1TsS2_7"
    labels: str = "30 m"
    settings: dict = field(default_factory=dict)
    pixels: int = 4_000_000
    """Shown in training."""
    seed: int = 0

    @property
    def folder(self):
        """Of the run, within the study's."""
        return f"{self.name} {self.model} {self.dataset} {self.seed}".replace(" ", "_")

    def finish(self, out):
        """Train and score, unless that was done; the scores."""
        path = out / "runs" / self.folder / "scores.json"
        if path.exists():
            found = json.loads(path.read_text())
            if found["run"] == asdict(self):
                return found
            raise SystemExit(f"{path} is of another run: choose another --out or delete it.")
        torch.set_num_threads(1)
        begin = time.perf_counter()
        chips = scenes.stores(out, self.dataset, self.labels)
        count = len(dfx.open_chips(chips).indices("train"))
        epochs = max(round(self.pixels / (count * scenes.CHIP**2)), 1)
        settings = STEADY | {"patience": epochs} | self.settings
        checkpoint = path.parent / "training" / "checkpoint"
        if not checkpoint.exists():
            dfx.train(
                chips,
                model=self.model,
                out=path.parent / "training",
                settings=dfx.TrainSettings(**settings, epochs=epochs, seed=self.seed, device="cpu"),
                progress=False,
            )
        truth, labels = scenes.counts(out, self.dataset, checkpoint)
        found = {
            "run": asdict(self),
            "truth": truth.tolist(),
            "labels": labels.tolist(),
            "epochs": epochs,
            "seconds": time.perf_counter() - begin,
        }
        path.write_text(json.dumps(found))
        return found


def finish_all(runs, out, *, processes):
    """Finish runs side by side, each on one thread; their scores in order."""
    for seed in scenes.TRAIN + scenes.TEST:
        area = scenes.Area.made(out, seed)
        for dataset in sorted({run.dataset for run in runs}):
            area.cube(dataset)
    for dataset, labels in sorted({(run.dataset, run.labels) for run in runs}):
        scenes.stores(out, dataset, labels)
    found = []
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for run, scores in zip(runs, pool.map(_finish, runs, [out] * len(runs)), strict=True):
            s = of(scores)
            print(
                f"{run.folder}: {s.overall_accuracy:.1%}, macro F1 {s.macro_f1:.1%}, "
                f"{scores['seconds']:.0f} s",
                flush=True,
            )
            found.append(scores)
    return found


def finished(runs, out):
    """Scores of those that were finished before, in order; nothing is trained."""
    return [run.finish(out) for run in runs if (out / "runs" / run.folder / "scores.json").exists()]


def _finish(run, out):
    return run.finish(Path(out))


def of(found, against="truth"):
    """Scores of a finished run."""
    return Scores.from_confusion(np.array(found[against]), amazon13().codes)
