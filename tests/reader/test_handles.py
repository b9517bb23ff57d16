"""Open files: leased, bounded, signed anew when their token ends."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from rasterio.enums import Resampling
from rasterio.windows import Window

from deepforest_xr.catalogs import Link
from deepforest_xr.reader import HANDLES, handles
from deepforest_xr.reader.handles import MARGIN, Handles, gdal_path

from .conftest import reader, write


@pytest.fixture
def small(tmp_path):
    return [write(tmp_path / f"{n}.tif", np.full((4, 5), n + 1, dtype="uint16")) for n in range(5)]


def test_links_are_signed_when_read_not_when_made(tmp_path, numbers, monkeypatch):
    url = write(tmp_path / "a.tif", numbers)
    signed = []

    def link(href):
        signed.append(href)
        return Link(url)

    monkeypatch.setattr(handles, "link", link)
    grid = reader("https://a.blob.core.windows.net/b/a.tif", (21, 34))
    assert signed == []
    grid.read(Window(0, 0, 3, 2))
    grid.read(Window(0, 0, 3, 2))
    assert len(signed) == 1


def test_a_token_that_ends_is_replaced_and_the_file_opened_again(tmp_path, numbers, monkeypatch):
    url = write(tmp_path / "a.tif", numbers)
    now = [1_000_000.0]
    tokens = []

    def link(href):
        tokens.append(now[0])
        return Link(url, expires=now[0] + 2700)

    monkeypatch.setattr(handles, "clock", lambda: now[0])
    monkeypatch.setattr(handles, "link", link)
    grid = reader("https://a.blob.core.windows.net/b/a.tif", (21, 34))
    for minute in range(0, 121, 5):
        now[0] = 1_000_000.0 + 60 * minute
        np.testing.assert_array_equal(grid.read(Window(0, 0, 34, 21)), numbers)
        assert now[0] < tokens[-1] + 2700 - MARGIN
    assert [round((t - 1_000_000) / 60) for t in tokens] == [0, 45, 90]


@pytest.mark.filterwarnings("ignore:Support for class-based `config`:DeprecationWarning")
def test_a_token_of_planetary_computer_says_when_it_ends():
    from deepforest_xr.catalogs import link
    from deepforest_xr.catalogs.planetary_computer import PlanetaryComputer

    signed = (
        "https://a.blob.core.windows.net/b/a.tif?st=2024-01-01&se=2024-01-02T03%3A04%3A05Z&sig=x"
    )
    made = link(signed)
    assert made.href == signed
    assert made.expires == datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
    assert PlanetaryComputer().signs(signed)


def test_the_number_of_open_files_is_bounded(small):
    pool = Handles(limit=3)
    for url in small * 2:
        with pool.lease(url, "purpose"):
            assert len(pool) <= 3
    assert len(pool) == 3
    pool.clear()
    gc.collect()
    links = {str(number.resolve()) for number in Path("/proc/self/fd").iterdir()}
    assert not set(small) & links


def test_the_cache_of_decoded_blocks_is_bounded(small, tmp_path, server):
    from rasterio._env import get_gdal_config

    for url in (small[0], f"{server.url}/0.tif"):
        with Handles().lease(url, "purpose") as opened:
            assert get_gdal_config("GDAL_CACHEMAX") == 256 * 2**20
            opened.source.read(1)


def test_the_longest_unused_is_closed_first(small):
    pool = Handles(limit=2)
    kept = {}
    for url in (small[0], small[1], small[0], small[2]):
        with pool.lease(url, "purpose") as opened:
            kept[url] = opened
    assert kept[small[1]].source.closed
    assert not kept[small[0]].source.closed
    pool.clear()
    assert kept[small[0]].source.closed


@pytest.mark.parametrize("purposes", [("one", "one"), ("one", "other")])
def test_two_threads_never_have_the_same_file(small, purposes):
    pool, seen, both = Handles(), [], threading.Barrier(2)
    with pool.lease(small[0], "one"):
        pass  # now one of the two takes what waits

    def use(purpose):
        with pool.lease(small[0], purpose) as opened:
            seen.append(id(opened.source))
            both.wait(timeout=30)

    threads = [threading.Thread(target=use, args=(purpose,)) for purpose in purposes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 2
    assert len(pool) == 2
    pool.clear()


def test_a_file_that_failed_is_closed_and_not_kept(small):
    pool = Handles()
    with pytest.raises(ZeroDivisionError), pool.lease(small[0], "purpose") as opened:
        _ = 1 / 0
    assert opened.source.closed
    assert len(pool) == 0


def test_a_local_file_that_changed_is_opened_again(tmp_path, numbers):
    url = write(tmp_path / "a.tif", numbers)
    grid = reader(url, (21, 34))
    np.testing.assert_array_equal(grid.read(Window(0, 0, 34, 21)), numbers)
    write(tmp_path / "a.tif", numbers + 1)
    np.testing.assert_array_equal(grid.read(Window(0, 0, 34, 21)), numbers + 1)


def test_a_cube_read_twice_opens_its_files_once(tmp_path, numbers, monkeypatch):
    url = write(tmp_path / "a.tif", numbers.astype("float32"), nodata=np.nan)
    opened = []
    monkeypatch.setattr(handles, "link", lambda href: opened.append(href) or Link(href))
    for _ in range(3):  # a missing value that is no number is a key like any other
        reader(url, (21, 34), dtype="float32", fill=np.float32("nan"), nodata=np.nan).read(
            Window(0, 0, 34, 21)
        )
    assert len(opened) == 1
    assert len(HANDLES) == 1


@pytest.fixture
def opened(monkeypatch):
    """Links that were opened."""
    found = []
    monkeypatch.setattr(handles, "link", lambda href: found.append(href) or Link(href))
    return found


def test_a_file_is_opened_once_for_grids_side_by_side(tmp_path, numbers, opened):
    url = write(tmp_path / "a.tif", numbers, nodata=None)
    for _ in range(2):
        for row, col in ((0, 0), (13, 0), (13, 17)):
            # A type and a missing value of their own, too: they are the reading's, not the file's.
            target = reader(
                url,
                (8, 17),
                shift=(10 * col, -10 * row),
                dtype="float32",
                fill=-row,
                nodata=numbers[row, col],
            )
            found = target.read(Window(0, 0, 17, 8))
            expected = numbers[row : row + 8, col : col + 17].astype("float32")
            expected[0, 0] = -row
            np.testing.assert_array_equal(found, expected)
    assert opened == [url]
    assert len(HANDLES) == 1


def test_a_warped_view_stays_with_its_grid(tmp_path, numbers, opened):
    url = write(tmp_path / "a.tif", numbers.astype("float32"), nodata=None)

    def read(shift):
        # Missing values as they come from another process: each its own NaN.
        missing = {"fill": float("nan"), "nodata": float("nan")}
        options = {"dtype": "float32", "resampling": Resampling.bilinear}
        return reader(url, (9, 11), shift=shift, **missing, **options).read(Window(0, 0, 11, 9))

    alone = {}
    for shift in ((0, 0), (54, -37), (83, -61), (40, -30)):
        alone[shift] = read(shift)
        HANDLES.clear()
    opened.clear()
    for _ in range(3):
        for shift, expected in alone.items():
            np.testing.assert_array_equal(read(shift), expected)
    # Two that are warped, and one for the two that share the file's pixels; the first of all was
    # handed on to a grid that is warped.
    assert len(HANDLES) == 3
    assert len(opened) == 3


def test_threads_on_grids_of_their_own_read_their_own_pixels(tmp_path, numbers, opened):
    url = write(tmp_path / "a.tif", numbers)

    def read(number):
        row, col = number % 5, number % 7
        target = reader(url, (8, 17), shift=(10 * col, -10 * row))
        found = target.read(Window(0, 0, 17, 8))
        return (found == numbers[row : row + 8, col : col + 17]).all()

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(210)))
    assert 1 <= len(opened) <= 4


@pytest.mark.parametrize(
    ("href", "path"),
    [
        ("/data/B02.tif", "/data/B02.tif"),
        ("relative/B02.tif", "relative/B02.tif"),
        ("file:///data/B02.tif", "/data/B02.tif"),
        ("https://a.b/c.tif?sig=x", "/vsicurl/https://a.b/c.tif?sig=x"),
        ("s3://bucket/key/B02.tif", "/vsis3/bucket/key/B02.tif"),
        ("gs://bucket/B02.tif", "/vsigs/bucket/B02.tif"),
        ("/vsizip/a.zip/B02.jp2", "/vsizip/a.zip/B02.jp2"),
    ],
)
def test_links_are_spelt_as_gdal_does(href, path):
    assert gdal_path(href) == path


def test_a_child_forked_while_a_file_is_leased_does_not_wait_for_it(small):
    import os
    import signal

    pool = Handles()
    os.register_at_fork(after_in_child=pool.forget)
    with pool._lock:  # as another thread may hold it at that moment
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            with pool.lease(small[0], "purpose"):
                os._exit(len(pool))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
