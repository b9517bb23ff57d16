"""Every network takes a step of training; the whole U-Net learns a real chip by heart."""

import lightning.pytorch as lp
import numpy as np
import pytest
import rasterio
import torch
from torch.utils.data import DataLoader, Dataset

from deepforest_xr import align_labels, open_cube, read_items
from deepforest_xr.chips import ChipSpec, open_chips, write_chips
from deepforest_xr.grid import Grid
from deepforest_xr.legend import Legend
from deepforest_xr.models import names
from deepforest_xr.models.inputs import Standardisation
from deepforest_xr.training import TrainSettings
from deepforest_xr.training.data import ChipTensors, loader, statistics
from deepforest_xr.training.fit import _quiet, build_network
from deepforest_xr.training.losses import class_weights
from deepforest_xr.training.module import TrainingModule

from .problems import easy_cube

NETWORKS = ("u-net", "deeplab", "deepforest-1a", "deepforest-1b", "deepforest-1c",
            "deepforest-2a", "deepforest-2b")  # fmt: skip
SITE = "433D_629L_3_1"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def chips(tmp_path_factory):
    """Eight chips with two months of radar, of 32 and of 64 pixels."""
    stores = {}
    for size in (32, 64):
        cube = easy_cube((2 * size, 4 * size), months=(6, 7))
        spec = ChipSpec(size=size, block=1, buffer=0)
        stores[size] = write_chips(*cube, tmp_path_factory.mktemp("chips") / "c", spec=spec)
    return {size: open_chips(store) for size, store in stores.items()}


def fit(module, batches, **arguments):
    with _quiet():
        lp.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            **arguments,
        ).fit(module, batches)


def standardisation(chips, *, is_two_branch=False):
    mean, std = (a.astype("float32") for a in statistics(chips))
    return Standardisation(mean, std, len(chips.months or ()), is_two_branch)


def test_these_are_all_networks():
    assert set(NETWORKS) == set(names())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_of_training_moves_every_parameter(chips, name):
    # Of 32 pixels the U-Net keeps one: of two chips, BatchNorm makes -1 and 1 of whatever it is.
    chips = chips[64 if name in {"u-net", "deepforest-2a"} else 32]
    settings = TrainSettings(batch=2, device="cpu")
    network = build_network(chips, name, settings, None)
    before = {k: v.detach().clone() for k, v in network.named_parameters()}
    scaling = standardisation(chips, is_two_branch="-2" in name)
    module = TrainingModule(network, class_weights(chips.class_counts("train")), settings)
    fit(module, loader(chips, "train", scaling, settings, training=True), max_steps=1)
    assert module.global_step == 1
    still = [k for k, v in network.named_parameters() if torch.equal(v, before[k])]
    assert not still
    assert all(torch.isfinite(v).all() for v in network.parameters())


class Repeated(Dataset):
    """One batch again and again."""

    epoch = 0

    def __init__(self, batch, count):
        self.batch, self.count = batch, count

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        return self.batch


def real_chip(shared_data, folder):
    """Chips of a real scene, and the position of the training chip with the most classes."""
    real = shared_data / "real" / "terramesh"
    if not (real / "items.json").exists():
        pytest.skip(f"{real} is not there")
    items = [i for i in read_items(real / "items.json") if i.properties.get("site") == SITE]
    items = [i for i in items if i.collection_id == "sentinel-2-l2a"]
    labels = real / "labels" / f"{SITE}.tif"
    with rasterio.open(labels) as source:
        grid = Grid.from_bounds(tuple(source.bounds), crs=source.crs.to_wkt())
    cube = open_cube(items, grid=grid, dataset="S2").compute()
    legend = Legend.from_csv(real / "labels" / "legend.csv", raster=labels.name)
    spec = ChipSpec(size=64, block=1, buffer=0)
    store = write_chips(cube, align_labels(labels, like=cube, legend=legend), folder, spec=spec)
    chips = open_chips(store)
    train = chips.indices("train")
    return chips, int(np.argmax((chips.histogram[train] > 100).sum(axis=1)))


def test_the_whole_u_net_learns_a_real_chip_by_heart(shared_data, tmp_path):
    chips, position = real_chip(shared_data, tmp_path / "c")
    assert (chips.histogram[chips.indices("train")[position]] > 100).sum() >= 3
    settings = TrainSettings(
        learning_rate=1e-3, schedule="cosine", epochs=1, class_weights="uniform"
    )
    network = build_network(chips, "u-net", settings, None)
    assert sum(p.numel() for p in network.parameters()) > 3e6
    batch = ChipTensors(chips, "train", standardisation(chips), augment_seed=None).__getitems__(
        [position]
    )
    module = TrainingModule(network, torch.ones(len(chips.legend.classes)), settings)
    fit(module, DataLoader(Repeated(batch, 100), batch_size=None), max_epochs=1)
    network.eval()
    with torch.no_grad():
        found = network(*batch.inputs).argmax(1)
    known = batch.target != 255
    assert (found == batch.target)[known].float().mean() > 0.99
