"""Objects: whole or not there, created once, asked again while a store is out of order."""

import errno
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.exceptions import GenericError

from deepforest_xr.basin.store import may_pass, open_objects
from deepforest_xr.errors import ConfigError, StoreError

from .memory import Clocked, memory, unavailable


@pytest.fixture
def folder(tmp_path):
    return open_objects(tmp_path / "made" / "basin", make=True)


def test_an_object_is_created_once(folder):
    assert folder.create("done/a.json", b"first")
    assert not folder.create("done/a.json", b"second")
    assert folder.get("done/a.json") == b"first"
    folder.put("done/a.json", b"third")
    assert folder.get("done/a.json") == b"third"


def test_what_is_not_there_is_none(folder):
    assert folder.get("no.json") is None
    assert folder.modified("no.json") is None
    assert folder.names("no/") == []
    folder.delete(["no.json"])


def test_a_listing_tells_keys_times_and_sizes(folder):
    for key in ("done/b.json", "done/a.json", "done2/c.json"):
        folder.put(key, key.encode())
    assert folder.names("done/") == ["done/a.json", "done/b.json"]
    listed = {one.key: one for one in folder.listing("done/")}
    assert listed["done/a.json"].size == len("done/a.json")
    assert listed["done/a.json"].modified == folder.modified("done/a.json")


# Signs before and after the slash and the point, and one of two bytes.
NAMES = st.text("-.09az\N{LATIN SMALL LETTER E WITH ACUTE}", min_size=1, max_size=4).filter(
    lambda name: set(name) != {"."}
)
KEYS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@given(st.sets(KEYS, max_size=30), st.sets(KEYS, max_size=8))
def test_what_lies_between_cuts_is_together_the_whole_and_nothing_is_told_twice(keys, cuts):
    store = Clocked()
    for key in keys:
        store.put(f"done/{key}", key.encode())
        store.put(f"other/{key}", b"")
    found = memory(store, is_ordered=True).listing("done/", sorted(f"done/{c}" for c in cuts))
    assert [one.key for one in found] == sorted(f"done/{key}" for key in keys)
    assert all(one.size == len(one.key.removeprefix("done/").encode()) for one in found)


class Together(Clocked):
    """Answers listings when several are asked for at once, and never before."""

    def __init__(self, listings):
        super().__init__()
        self.meeting = threading.Barrier(listings, timeout=60)
        self.told = []

    def list(self, prefix, offset=None):
        self.meeting.wait()
        for chunk in super().list(prefix, offset):
            self.told += chunk
            yield chunk


def test_parts_of_a_listing_are_asked_for_at_once_and_none_is_read_to_the_end():
    store = Together(5)
    objects = memory(store, is_ordered=True)
    keys = [f"done/{n:03d}.json" for n in range(200)]
    for key in keys:
        objects.put(key, b"{}")
    cuts = [f"done/{n:03d}" for n in (40, 80, 120, 160)]
    assert [one.key for one in objects.listing("done/", cuts)] == keys
    assert len(store.told) < len(keys) + 5 * 4  # chunks of three


def test_a_store_that_is_not_known_to_list_in_order_is_asked_once():
    store = Clocked()
    for name in ("b", "a"):
        memory(store).put(name, b"1")
    assert len(memory(store).listing("", ["aa"])) == 2
    assert store.calls.count(("list", None)) == 1


@pytest.mark.parametrize(
    ("address", "ordered"),
    [
        ("s3://maps/amazon", True),
        ("gs://maps/amazon", True),
        ("s3://maps--use1-az4--x-s3/amazon", False),
        ("az://maps/amazon", False),
        ("folder", False),
    ],
)
def test_stores_that_list_in_order_are_known(address, ordered, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    assert open_objects(address, make=True).is_ordered == ordered


def test_half_written_files_are_no_objects_and_are_found(folder):
    folder.put("map/c/0/1", b"whole")
    for name in ("1#1", "1#27", "11#2"):
        (folder.folder / "map/c/0" / name).write_bytes(b"half")
    (folder.folder / "map/c/0/a#b").write_bytes(b"a name like another")
    assert folder.names("map/") == ["map/c/0/1", "map/c/0/a#b"]
    assert sorted(p.name for p in folder.staging(["map/"])) == ["1#1", "1#27", "11#2"]
    assert sorted(p.name for p in folder.staging(["map/c/0/1#"])) == ["1#1", "1#27"]


def test_a_store_that_is_out_of_order_for_a_minute_is_survived():
    store = Clocked()
    objects = memory(store)
    store.faults = [unavailable() for _ in range(12)]
    objects.put("a", b"1")
    assert 30 < store.seconds < 120
    assert objects.get("a") == b"1"


def test_a_store_that_stays_out_of_order_is_an_error_of_one_line():
    store = Clocked()
    store.faults = [unavailable() for _ in range(1000)]
    with pytest.raises(StoreError, match="503") as caught:
        memory(store).get("a")
    assert "\n" not in str(caught.value)
    assert 100 < store.seconds <= 120


def test_a_full_disk_is_told_at_once():
    store = Clocked()
    store.faults = [GenericError("Generic LocalFileSystem error: No space left on device")]
    with pytest.raises(StoreError, match="No space left"):
        memory(store).put("a", b"1")
    assert store.seconds == 0


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (TimeoutError(), True),
        (ConnectionResetError(errno.ECONNRESET, "reset"), True),
        (OSError("HTTP response code: 429"), True),
        (OSError("HTTP error code : 500"), True),
        (OSError("the request timed out"), True),
        (OSError("HTTP response code: 404"), False),
        (FileNotFoundError(errno.ENOENT, "connection.tif"), False),
        (ValueError("5000 pixels"), False),
    ],
)
def test_some_errors_may_pass(error, passes):
    assert may_pass(error) == passes


def test_an_address_that_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no folder"):
        open_objects(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(ConfigError, match="s3://bucket/prefix"):
        open_objects("ftp://somewhere/else")


def test_a_folder_may_be_given_as_url(tmp_path):
    objects = open_objects(f"file://{tmp_path}/basin", make=True)
    objects.put("a", b"1")
    assert (tmp_path / "basin" / "a").read_bytes() == b"1"


def test_a_folder_goes_with_its_last_object_and_comes_back(folder):
    folder.put("a", b"0")
    for key in ("clock/one.json", "clock/other.json"):
        folder.put(key, b"1")
    folder.delete(["clock/one.json"])
    assert (folder.folder / "clock").is_dir()
    folder.delete(["clock/other.json"])
    assert [path.name for path in folder.folder.iterdir()] == ["a"]
    folder.put("clock/one.json", b"2")
    assert folder.get("clock/one.json") == b"2"
    folder.delete(["a", "clock/one.json"])
    assert folder.folder.is_dir()
