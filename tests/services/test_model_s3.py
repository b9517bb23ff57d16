"""A checkpoint in an S3 store is installed as one from disk, or one line says why not."""

import socket
import sys

import pytest
import torch

from deepforest_xr import models
from deepforest_xr.basin.store import open_objects
from deepforest_xr.errors import ChecksumError, ModelError
from deepforest_xr.k8s.model import fetch_model

from . import proxy
from .conftest import put

pytestmark = pytest.mark.services

FILES = ("model.json", "model.safetensors")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPFOREST_XR_HOME", str(tmp_path / "home"))


@pytest.fixture
def saved(narrow, tmp_path):
    torch.manual_seed(3)
    network = models.build("u-net", bands=2, classes=13).eval()
    bands = ("B02", "B08")
    made = models.Checkpoint.from_module(network, bands=bands, mean=[0.1] * 2, std=[0.1] * 2)
    return made.save(tmp_path / "model")


@pytest.fixture
def there(saved, bucket, s3):
    """Address of the checkpoint, which a proxy may read that hands on no signatures."""
    for name in FILES:
        put(at(bucket, s3, name), (saved / name).read_bytes(), access="public-read")
    return bucket


def at(bucket, s3, name):
    return f"http://{s3.endpoint}/{bucket.removeprefix('s3://')}/{name}"


@pytest.fixture
def front(s3, monkeypatch):
    """The store behind a proxy that fails when told to."""
    with proxy.proxied(int(s3.endpoint.rpartition(":")[2])) as front:
        monkeypatch.setenv("AWS_ENDPOINT_URL", front.url)
        yield front


def denied(handler, answer, body):
    told = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    handler.send_response(403)
    handler.send_header("Content-Length", str(len(told)))
    handler.end_headers()
    handler.wfile.write(told)


@pytest.mark.parametrize("ending", ["", "/", "/model.json"])
def test_a_model_in_s3_is_the_model_on_disk(there, saved, ending):
    told = []
    folder = models.install(there + ending, progress=lambda *counts: told.append(counts))
    assert models.installed() == folder
    for name in FILES:
        assert (folder / name).read_bytes() == (saved / name).read_bytes()
    size = (saved / FILES[1]).stat().st_size
    assert told[-1] == (size, size)


def test_a_pod_gets_it_with_its_checksum(there, saved, tmp_path):
    sha256 = models.load(saved).sha256
    assert models.load(fetch_model(there, tmp_path / "link", sha256=sha256)).sha256 == sha256
    with pytest.raises(ChecksumError, match=f"at {there} have SHA-256"):
        fetch_model(there, tmp_path / "link", sha256="0" * 64)


def test_damaged_weights_are_refused_and_nothing_is_installed(there, saved):
    weights = bytearray((saved / FILES[1]).read_bytes())
    weights[-1] ^= 1
    open_objects(there).put(FILES[1], bytes(weights))
    refused(there, there, ChecksumError)


def test_an_address_without_a_model_is_one_line(bucket, s3):
    refused(bucket, rf"^{bucket}/model\.json is not there: give the address of a folder")
    refused("s3://no-such-bucket/model", "^s3://no-such-bucket/model/model.json is not there")


def test_a_store_that_refuses_is_one_line(there, front):
    front.always = denied
    refused(there, "may not be read: set the credentials of the store in the environment")


def test_a_download_that_breaks_off_leaves_nothing(there, front):
    front.faults[:] = [None]
    front.always = proxy.cut
    refused(there, "model.safetensors could not be downloaded")


def test_without_a_network_it_is_said(there, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(sys.modules["deepforest_xr.models.install"], "PATIENCE_SECONDS", 1.0)
    refused(there, "model.json could not be downloaded: .*nothing was changed")


def refused(source, words, error=ModelError):
    with pytest.raises(error, match=words) as caught:
        models.install(source)
    assert "\n" not in str(caught.value)
    assert models.installed() is None
