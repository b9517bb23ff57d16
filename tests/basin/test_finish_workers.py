"""GeoTIFFs made several at once: the same files, in order, and nothing half after an error."""

import dataclasses
import json
import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deepforest_xr import cli
from deepforest_xr.basin import cogs
from deepforest_xr.basin.finish import finish_basin
from deepforest_xr.basin.store import open_objects
from deepforest_xr.errors import ConfigError, StoreError

from .conftest import IDS, content
from .faults import DeadError, Dying
from .finished import fill, pixels

SECONDS = 60
"""After which a thread that waits for another gives up, and the test fails."""


@pytest.fixture
def basin(plan):
    """A basin whose tiles are done."""
    fill(plan, pixels(plan))
    return plan


@pytest.fixture
def pools(monkeypatch):
    """How many threads each pool for pieces was given."""
    given = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers, **options):
            given.append(workers)
            super().__init__(workers, **options)

    monkeypatch.setattr(cogs, "ThreadPoolExecutor", Pool)
    return given


def files(plan):
    return content(open_objects(plan.url).folder, "finish")


@pytest.mark.parametrize(("kind", "order"), [("tile", [*IDS]), ("degree", ["S09W055", "S09W054"])])
def test_three_workers_make_what_one_makes_though_the_first_piece_is_ready_last(
    basin, monkeypatch, kind, order
):
    finish_basin(basin, cogs=kind, workers=1)
    alone = files(basin)
    real, ended, others = cogs._make, [], threading.Event()

    def make(results, piece, *more):
        if piece.id == order[0]:
            assert others.wait(SECONDS)
        made = real(results, piece, *more)
        ended.append(piece.id)
        if len(ended) == len(order) - 1:
            others.set()
        return made

    monkeypatch.setattr(cogs, "_make", make)
    finish_basin(basin, cogs=kind, workers=3, overwrite=True)
    assert ended[-1] == order[0]
    assert files(basin) == alone
    links = json.loads(alone["stac/collection.json"])["links"]
    assert [Path(link["href"]).stem for link in links if link["rel"] == "item"] == order


def test_as_many_are_made_at_once_as_there_are_workers_and_no_more(basin, monkeypatch):
    real, lock, pair = cogs._make, threading.Lock(), threading.Barrier(2)
    at_once, most = 0, 0

    def make(*arguments):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        pair.wait(SECONDS)  # alone it would never go on
        made = real(*arguments)
        with lock:
            at_once -= 1
        return made

    monkeypatch.setattr(cogs, "_make", make)
    finish_basin(basin, workers=2)
    assert most == 2


def test_progress_counts_every_piece_in_the_thread_that_asked(basin):
    told, threads = [], set()

    def progress(step, done, total):
        threads.add(threading.current_thread())
        if step == "Writing GeoTIFFs":
            told.append((done, total))

    finish_basin(basin, workers=3, progress=progress)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert threads == {threading.current_thread()}


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (StoreError("refused"), "piece"),
        (StoreError("refused"), "progress"),
        (KeyboardInterrupt(), "piece"),
        (KeyboardInterrupt(), "Ctrl-C"),
    ],
)
def test_after_an_error_no_piece_is_begun_and_those_in_hand_are_ended(monkeypatch, error, where):
    begun, ended, cancelled = [], [], threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            cancelled.set()
            super().shutdown(wait=wait)

    def call(number):
        begun.append(number)
        if number == 0 and where == "piece":
            raise error
        if number == 0 and where == "Ctrl-C":
            os.kill(os.getpid(), signal.SIGINT)
        if number > 0 or where == "Ctrl-C":
            assert cancelled.wait(SECONDS)
        ended.append(number)

    def progress(done, total):
        raise error

    monkeypatch.setattr(cogs, "ThreadPoolExecutor", Pool)
    # Processes that pytest spreads its tests to ignore the signal.
    given = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(type(error)):
            cogs._in_threads(call, range(40), 2, progress)
    finally:
        signal.signal(signal.SIGINT, given)
    # The thread that is free again may have taken one more before it was told.
    assert len(begun) <= 3
    assert set(begun) - {0} == set(ended) - {0}


@pytest.mark.parametrize("error", [StoreError("refused"), KeyboardInterrupt()])
def test_a_piece_that_fails_leaves_nothing_half_and_is_made_the_next_time(
    basin, monkeypatch, error, tmp_path
):
    finish_basin(basin, workers=1)
    whole = files(basin)
    finish_basin(basin, cogs=None, overwrite=True)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    real = cogs.write_stac_item

    def fail(dataset, path, **options):
        if path.stem == IDS[1]:
            raise error
        return real(dataset, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(cogs, "write_stac_item", fail)
        with pytest.raises(type(error)):
            finish_basin(basin, workers=3, overwrite=True)
    left = files(basin)
    assert "finished.json" not in left
    assert not [name for name in left if IDS[1] in name]
    for name, found in left.items():
        if name.startswith(("cog/", "stac/items/")):
            assert found == whole[name], name
    assert list(scratch.iterdir()) == []
    finish_basin(basin, workers=3)
    assert files(basin) == whole


class Locked(Dying):
    """Dies at one put, also where threads put at once."""

    def __init__(self, *arguments):
        self.lock = threading.Lock()
        super().__init__(*arguments)

    def put(self, key, content, **options):
        with self.lock:
            return super().put(key, content, **options)


@pytest.mark.parametrize(
    ("last", "moment"), [(5, "over"), (9, "before"), (15, "after"), (18, "over"), (22, "before")]
)
def test_killed_among_pieces_and_finished_again_the_bytes_are_the_same(
    basin, monkeypatch, last, moment
):
    finish_basin(basin, workers=1)
    whole = files(basin)
    objects = open_objects(basin.url)
    shutil.rmtree(objects.folder / "finish")
    store = Locked(objects.folder, last, moment)
    dead = dataclasses.replace(objects, store=store)
    with monkeypatch.context() as patch:
        patch.setattr("deepforest_xr.basin.card.open_objects", lambda url: dead)
        with pytest.raises(DeadError):
            finish_basin(basin, workers=3)
    assert store.puts[-1].startswith(("finish/cog/", "finish/stac/items/"))
    monkeypatch.setattr("deepforest_xr.basin.finish.STAGING_SECONDS", -1.0)
    finish_basin(basin, workers=3)
    assert files(basin) == whole


def test_the_number_of_workers_is_given_or_that_of_cores_but_four_at_most(
    basin, monkeypatch, pools, capsys
):
    for cores in (64, 3, 1):
        monkeypatch.setattr("dask.system.cpu_count", lambda cores=cores: cores)
        finish_basin(basin, overwrite=True)
    with pytest.raises(SystemExit):
        cli.main(["basin", "finish", basin.url, "--overwrite", "--workers", "2"])
    assert pools == [4, 3, 1, 2]
    with pytest.raises(ConfigError, match="workers=0; expected 1 or more"):
        finish_basin(basin, workers=0)
    assert len(pools) == 4


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux ties a process down")
def test_cores_that_the_process_may_not_use_are_not_counted(basin, monkeypatch, pools):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        finish_basin(basin)
    finally:
        os.sched_setaffinity(0, allowed)
    assert pools == [1]
