"""Majority class, random forest and networks: one experiment to one confusion matrix."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.real.sites import SEASONAL, select
from deepforest_xr.accuracy import confusion
from deepforest_xr.atomic import staged
from deepforest_xr.chips import open_chips
from deepforest_xr.classify import classify
from deepforest_xr.legend import UNLABELLED
from deepforest_xr.maps import write_picture
from deepforest_xr.models import entry
from deepforest_xr.training import TrainSettings, train

MAJORITY, FOREST = "majority class", "random forest"

PIXELS_SHOWN = 2_000_000
"""To a network in training, within `STEPS`."""

STEPS = (30, 150)

CHOSEN = TrainSettings(
    learning_rate=1e-3,
    schedule="constant",
    ema=0.0,
    class_weights="uniform",
    loss="cross-entropy",
    device="cpu",
)
"""For all experiments; chosen on validation pixels by `benchmarks.real.choice`."""

DECIDED = ("learning_rate", "class_weights", "loss")
"""Settings whose change makes a result out of date."""


@dataclass(frozen=True)
class Job:
    """One method on one experiment."""

    experiment: object
    method: str
    seed: int = 0

    @property
    def name(self):
        network = self.method not in {MAJORITY, FOREST}
        tail = f"-{self.seed}" if network and self.seed else ""
        return f"{self.experiment.name}-{self.method.replace(' ', '-')}{tail}"


def run(job, sites, split, out):
    """Do a job and write its result; returns what the JSON holds."""
    begin = time.perf_counter()
    by_name = {s.name: s for s in sites}
    test = by_name[job.experiment.test]
    if job.method == MAJORITY:
        mapped, more = _majority(job.experiment, by_name, split)
    elif job.method == FOREST:
        mapped, more = _forest(job.experiment, by_name, split)
    else:
        mapped, more = _network(job, test, split, Path(out))
    result = {
        **_facts(job, by_name, split),
        **more,
        "seconds": round(time.perf_counter() - begin, 1),
        "counts": counts(mapped, test, split.test).tolist(),
    }
    path = Path(out) / "results" / f"{job.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with staged(path, overwrite=True) as part:
        part.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def counts(mapped, test, mask):
    """Pixels by map class and reference class where the mask is true."""
    reference = np.where(mask, test.labels.to_numpy(), UNLABELLED).astype("uint8")
    return confusion(mapped, reference, test.legend.codes)


def _facts(job, by_name, split):
    e, test = job.experiment, by_name[job.experiment.test]
    taught = training_counts(by_name, split)
    return {
        "family": e.family,
        "group": test.group,
        "test": e.test,
        "train": list(e.train),
        "dataset": e.dataset,
        "bands": list(e.bands),
        "method": job.method,
        "seed": job.seed,
        "codes": list(test.legend.codes),
        "names": list(test.legend.names),
        "train_counts": taught.tolist(),
        "train_pixels": int(sum(p.train.sum() for p in split.parts)),
        "validation_pixels": int(sum(p.validation.sum() for p in split.parts)),
        "test_pixels": int(split.test.sum()),
    }


def training_counts(by_name, split):
    """Labelled pixels a class in training and validation, in the legend's order."""
    total = 0
    for part in split.parts:
        site = by_name[part.site]
        codes = site.labels.to_numpy()[part.train | part.validation]
        total = total + np.array([(codes == c).sum() for c in site.legend.codes])
    return total


def _majority(experiment, by_name, split):
    test = by_name[experiment.test]
    code = test.legend.codes[int(np.argmax(training_counts(by_name, split)))]
    return np.full(test.labels.shape, code, dtype="uint8"), {}


def features(site, experiment):
    """Pixels as rows: reflectance, then dB of every month and polarization."""
    cube = select(site, experiment)
    layers = [cube["s2"].transpose("band", "y", "x").to_numpy()]
    if "s1" in cube:
        radar = cube["s1"].transpose("month", "polarization", "y", "x").to_numpy()
        layers.append(radar.reshape(-1, *radar.shape[2:]))
    return np.concatenate(layers).reshape(sum(len(a) for a in layers), -1).T


def forest_map(experiment, by_name, split, *, trees=200):
    """Codes of the test site by a forest that learnt from training and validation pixels."""
    from sklearn.ensemble import RandomForestClassifier

    values, codes = [], []
    for part in split.parts:
        site, mask = by_name[part.site], part.train | part.validation
        values.append(features(site, experiment)[mask.ravel()])
        codes.append(site.labels.to_numpy()[mask])
    forest = RandomForestClassifier(trees, min_samples_leaf=2, random_state=0, n_jobs=-1)
    forest.fit(np.nan_to_num(np.concatenate(values)), np.concatenate(codes))
    test = by_name[experiment.test]
    mapped = forest.predict(np.nan_to_num(features(test, experiment)))
    return mapped.reshape(test.labels.shape).astype("uint8")


def _forest(experiment, by_name, split):
    return forest_map(experiment, by_name, split), {"settings": {"trees": 200, "leaf": 2}}


def _network(job, test, split, out):
    begin = time.perf_counter()
    folder = out / "runs" / job.name
    checkpoint = folder / "checkpoint"
    paths = [p.chips for p in split.parts]
    settings = settings_for(paths, CHOSEN, seed=job.seed)
    if not checkpoint.exists():
        source = paths[0] if len(paths) == 1 else paths
        train(source, model=job.method, out=folder, settings=settings, progress=False)
        for state in ("last.ckpt", "best.ckpt"):  # half a gigabyte for the larger networks
            (folder / state).unlink(missing_ok=True)
    cube = select(test, job.experiment)
    lulc = classify(cube, checkpoint, device=settings.device).compute()
    taught = time.perf_counter() - begin
    picture = out / "maps" / f"{job.name}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    bands = [b for b in ("B04", "B03", "B02") if b in job.experiment.bands]
    rgb = cube["s2"].sel(band=bands) if len(bands) == 3 else None
    write_picture(lulc, picture, title=job.name, reference=test.labels, rgb=rgb, overwrite=True)
    more = {"settings": settings.to_dict(), "train_seconds": round(taught, 1)}
    return lulc["lulc"].to_numpy(), more


def settings_for(paths, chosen, *, seed=0):
    """Epochs and batch by the number of chips; a batch holds a chip of every site."""
    stores = [open_chips(p) for p in paths]
    chips = sum(len(s.indices("train")) for s in stores)
    batch = min(chips, max(4, len(paths)))
    per_epoch = -(-chips // batch)
    size = int(stores[0].attrs["size"])
    steps = min(max(PIXELS_SHOWN // (batch * size**2), STEPS[0]), STEPS[1])
    epochs = max(round(steps / per_epoch), 1)
    patience = max(15, epochs // 3)
    return replace(chosen, epochs=epochs, patience=patience, batch=batch, seed=seed)


def is_done(job, out):
    """Whether a result is there that today's settings would give."""
    path = Path(out) / "results" / f"{job.name}.json"
    if not path.exists():
        return False
    used = json.loads(path.read_text(encoding="utf-8")).get("settings", {})
    chosen = CHOSEN.to_dict()
    return all(
        used.get(k, chosen[k]) == chosen[k] for k in ("learning_rate", "class_weights", "loss")
    )


def takes(method, experiment):
    """Whether a method can use a dataset: a checkpoint knows each band only once."""
    if method in {MAJORITY, FOREST}:
        return True
    if experiment.dataset == SEASONAL:
        return False
    return experiment.has_radar or not entry(method).is_two_branch
