"""A pod's model is the one that is meant, at the place that the plan names."""

import pytest

from deepforest_xr.errors import ChecksumError, ModelError, WriteError
from deepforest_xr.k8s import fetch_model
from deepforest_xr.models import Checkpoint, build, load
from deepforest_xr.sentinel.s2 import BANDS


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPFOREST_XR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr("deepforest_xr.models.unet.ENCODER_FILTERS", (4,) * 6)
    monkeypatch.setattr("deepforest_xr.models.unet.DECODER_FILTERS", (4,) * 5)

    def make(name, seed):
        torch.manual_seed(seed)
        module = build("u-net", bands=10, classes=13)
        made = Checkpoint.from_module(module, bands=BANDS, mean=[0.2] * 10, std=[0.1] * 10)
        return made.save(tmp_path / name)

    return make


def test_the_link_leads_to_a_whole_copy(checkpoint, home, tmp_path):
    source = checkpoint("first", 1)
    link = tmp_path / "model" / "checkpoint"
    folder = fetch_model(str(source), link, sha256=load(source).sha256)
    assert link.resolve() == folder.resolve()
    assert folder.is_relative_to(home)
    assert load(link).sha256 == load(source).sha256
    # A container that starts again finds its own link.
    assert fetch_model(str(source), link) == folder


def test_another_model_takes_its_place_whole(checkpoint, home, tmp_path):
    link = tmp_path / "checkpoint"
    fetch_model(str(checkpoint("first", 1)), link)
    second = checkpoint("second", 2)
    fetch_model(str(second), link)
    assert load(link).sha256 == load(second).sha256
    assert sorted(p.name for p in tmp_path.glob(".*")) == []


def test_a_model_of_another_checksum_is_refused_and_not_linked(checkpoint, home, tmp_path):
    source, other = checkpoint("first", 1), checkpoint("second", 2)
    link = tmp_path / "checkpoint"
    with pytest.raises(ChecksumError, match=load(source).sha256):
        fetch_model(str(source), link, sha256=load(other).sha256)
    assert not link.is_symlink()


def test_a_model_that_is_not_there_is_named(home, tmp_path):
    with pytest.raises(ModelError, match="nowhere"):
        fetch_model(str(tmp_path / "nowhere"), tmp_path / "checkpoint")


def test_a_place_that_is_taken_is_an_error(checkpoint, home, tmp_path):
    taken = tmp_path / "checkpoint"
    (taken / "mine").mkdir(parents=True)
    with pytest.raises(WriteError, match="cannot be made"):
        fetch_model(str(checkpoint("first", 1)), taken)
    assert (taken / "mine").is_dir()
