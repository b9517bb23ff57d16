"""An installed model is whole, verified, and does not disturb the one before it."""

import dataclasses
import functools
import http.server
import json
import shutil
import threading
from pathlib import Path

import pytest

from deepforest_xr import models
from deepforest_xr.errors import ChecksumError, ConfigError, ModelError, WriteError
from deepforest_xr.legend import LandCoverClass, Legend

from .conftest import built

LEGEND5 = Legend("five", tuple(LandCoverClass(i, f"class {i}", "#00ff00") for i in range(1, 6)))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The user's data folder of a test."""
    monkeypatch.setenv("DEEPFOREST_XR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def unet():
    return models.Checkpoint.from_module(
        built("u-net"),
        bands=("B02", "B03", "B04"),
        mean=[0.1] * 3,
        std=[0.2] * 3,
        legend=LEGEND5,
        provenance={"region": "Acre"},
    )


@pytest.fixture
def saved(unet, tmp_path):
    return unet.save(tmp_path / "site" / "model")


@pytest.fixture
def site(saved):
    """A web server on loopback with the folder that holds the checkpoint; keeps its requests."""

    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        cut = None

        def do_GET(self):
            asked.append(self.path)
            if self.cut and self.path.endswith(".safetensors"):
                content = (saved / "model.safetensors").read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: self.cut])
                return
            super().do_GET()

        def log_message(self, *arguments):
            pass

    handler = functools.partial(Handler, directory=str(saved.parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Handler.url = f"http://127.0.0.1:{server.server_port}/model"
    Handler.asked = asked
    yield Handler
    server.shutdown()
    server.server_close()
    thread.join()


def below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def refused(error, match, source):
    with pytest.raises(error, match=match) as caught:
        models.install(source)
    assert "\n" not in str(caught.value)
    assert ".partial-" not in str(caught.value)
    return str(caught.value)


def test_nothing_is_installed_at_first_and_asking_makes_no_folder(home):
    assert models.installed() is None
    assert not home.exists()


@pytest.mark.parametrize("name", ["", "model.json"])
def test_a_folder_is_copied(unet, saved, home, name):
    folder = models.install(saved / name)
    assert models.installed() == folder
    assert folder.is_relative_to(home)
    shutil.rmtree(saved)
    again = models.load(folder)
    assert (again.identity, again.provenance) == (unet.identity, unet.provenance)
    files = ["item.json", "model.json", "model.safetensors"]
    assert below(home) == sorted(["default-model", *(f"models/{folder.name}/{f}" for f in files)])


@pytest.mark.parametrize("ending", ["", "/", "/model.json", "/model.json?sig=secret#top"])
def test_a_url_is_downloaded(unet, site, saved, ending):
    seen = []
    folder = models.install(site.url + ending, progress=lambda *step: seen.append(step))
    for name in ("model.json", "model.safetensors", "item.json"):
        assert (folder / name).read_bytes() == (saved / name).read_bytes()
    size = (saved / "model.safetensors").stat().st_size
    assert seen[-1] == (size, size)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert all(("sig=secret" in asked) == ("sig" in ending) for asked in site.asked)
    assert models.load(models.installed()).identity == unet.identity


def test_a_checkpoint_without_its_item_gets_one(saved):
    (saved / "item.json").unlink()
    assert json.loads((models.install(saved) / "item.json").read_text())["type"] == "Feature"


def test_another_one_takes_over_and_the_first_stays_for_who_uses_it(unet, saved, tmp_path):
    first = models.install(saved)
    other = dataclasses.replace(unet, mean=(0.5, 0.6, 0.7))
    second = models.install(other.save(tmp_path / "other"))
    assert models.installed() == second
    assert models.load(first).identity == unet.identity
    assert models.load(second).identity == other.identity
    assert models.install(saved) == first == models.installed()


def test_an_installed_copy_that_was_damaged_is_replaced(saved):
    weights = models.install(saved) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    models.install(saved)
    assert weights.read_bytes() == whole


def test_changed_weights_are_refused_and_the_former_default_stays(saved, home, tmp_path):
    former = models.install(saved)
    before = below(home)
    bad = shutil.copytree(saved, tmp_path / "bad")
    card = json.loads((bad / "model.json").read_text())
    (bad / "model.json").write_text(json.dumps(card | {"mean": [0, 0, 0]}))
    (bad / "model.safetensors").write_bytes((bad / "model.safetensors").read_bytes()[:-4] + b"abcd")
    refused(ChecksumError, rf"^{bad}/model\.safetensors: sha256 \w+, expected", bad)
    assert models.installed() == former
    assert below(home) == before


def test_weights_of_another_network_are_refused(saved, home):
    path = saved / "model.json"
    card = json.loads(path.read_text())
    card["build_arguments"]["bands"] = 4
    bands = [*card["bands"], {"name": "B08", "unit": "reflectance"}]
    path.write_text(json.dumps(card | {"bands": bands, "mean": [0] * 4, "std": [1] * 4}))
    refused(ModelError, "are not those of u-net", saved)
    assert below(home) == []


def test_a_download_that_breaks_off_leaves_nothing(site, home):
    site.cut = 1000
    message = refused(
        ModelError, "could not be downloaded: no connection, or it broke off", site.url
    )
    assert f"{site.url}/model.safetensors" in message
    assert models.installed() is None
    assert below(home) == []
    assert list((home / "models").iterdir()) == []


def test_a_download_that_is_interrupted_leaves_the_former_default(unet, site, home, tmp_path):
    former = models.install(dataclasses.replace(unet, mean=(1, 2, 3)).save(tmp_path / "former"))
    before = below(home)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        models.install(site.url, progress=interrupt)
    assert models.installed() == former
    assert below(home) == before


def test_an_address_without_a_checkpoint_is_one_line(site, home):
    absent = f"{site.url}/absent"
    refused(ModelError, rf"^{absent}/model\.json answered 404 File not found: give the", absent)
    message = refused(ModelError, "no connection", "http://me:word@127.0.0.1:1/a?sig=secret")
    assert "http://127.0.0.1:1/a/model.json" in message
    assert "secret" not in message
    assert "word" not in message
    assert not home.exists()


def test_a_page_instead_of_a_card_is_refused_before_the_weights_are_loaded(site, saved):
    (saved / "model.json").write_text("<html>please log in</html>")
    refused(ModelError, rf"^{site.url}/model\.json is not JSON", site.url)
    assert site.asked == ["/model/model.json"]


@pytest.mark.parametrize("source", ["absent"])
def test_a_folder_that_is_no_checkpoint_is_one_line(source, tmp_path, home):
    refused(ModelError, "is not a checkpoint: model.json: No such file.*http", source)
    assert not home.exists()


def test_a_default_that_is_gone_is_said_and_not_replaced_by_another(saved, home):
    folder = models.install(saved)
    shutil.rmtree(folder)
    with pytest.raises(ModelError, match=r"the installed model is gone: .*default-model names"):
        models.installed()
    (home / "default-model").write_text("")
    with pytest.raises(ModelError, match="is gone"):
        models.installed()
    (home / "default-model").unlink()
    assert models.installed() is None


def test_the_data_folder_is_the_users(saved, monkeypatch, tmp_path):
    from deepforest_xr.models.install import home

    monkeypatch.delenv("DEEPFOREST_XR_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert home() == tmp_path / "data" / "deepforest-xr"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert home() == tmp_path / "me" / ".local" / "share" / "deepforest-xr"


def test_without_a_home_nothing_is_installed_into_the_working_folder(saved, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPFOREST_XR_HOME", "~nobody-of-this-name/data")
    assert models.installed() is None
    refused(ConfigError, "set DEEPFOREST_XR_HOME", saved)
    assert not list(Path().glob("~*"))


def test_a_data_folder_that_cannot_be_written_is_one_line(saved, home):
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file")
    refused(WriteError, "was not written", saved)
    assert models.installed() is None
