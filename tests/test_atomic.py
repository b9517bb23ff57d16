import errno
import os
import re

import pytest

from deepforest_xr.atomic import staged
from deepforest_xr.errors import ReadError, WriteError


def write_half(target, error, **kwargs):
    with staged(target, **kwargs) as partial:
        partial.write_text("half")
        raise error


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_finished_file_takes_its_name_and_nothing_else_stays(tmp_path):
    with staged(tmp_path / "new" / "a.txt") as partial:
        partial.write_text("whole")
        assert re.fullmatch(r"\.a\.txt\.partial-.+", names(tmp_path / "new")[0])
    assert names(tmp_path / "new") == ["a.txt"]
    assert (tmp_path / "new" / "a.txt").read_text() == "whole"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("x\ny")]
)
def test_a_failure_is_one_line_and_leaves_the_old_file(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(WriteError) as caught:
        write_half(target, error, overwrite=True)
    assert "\n" not in str(caught.value)
    assert str(target) in str(caught.value)
    assert caught.value.__cause__ is error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_the_advice_for_a_full_disk_is_found_below_other_errors(tmp_path):
    error = RuntimeError("codec failed")
    error.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(WriteError, match="free disk space"):
        write_half(tmp_path / "a", error)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ReadError("scene 7 is gone")])
def test_interrupts_and_our_own_errors_pass_unchanged(tmp_path, error):
    with pytest.raises(type(error)) as caught:
        write_half(tmp_path / "a", error)
    assert caught.value is error
    assert names(tmp_path) == []


def test_what_exists_is_refused_before_any_work(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(WriteError, match="overwrite=True"), staged(tmp_path / "a"):
        pytest.fail("work began")


def test_what_appears_during_the_work_is_not_overwritten(tmp_path):
    target = tmp_path / "a"

    def race():
        with staged(target) as partial:
            partial.write_text("ours")
            target.write_text("theirs")

    with pytest.raises(WriteError, match="exists"):
        race()
    assert (tmp_path / "a").read_text() == "theirs"


def test_overwrite_never_removes_a_folder_that_is_no_store(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years")
    with (
        pytest.raises(WriteError, match="not a Zarr store"),
        staged(tmp_path / "home", overwrite=True),
    ):
        pytest.fail("work began")
    assert names(tmp_path / "home") == ["thesis.txt"]


PARTS = ("weights", "card")


def write_parts(folder, names, **options):
    with staged(folder, parts=PARTS, **options) as partial:
        partial.mkdir()
        for name in names:
            (partial / name).write_text("new")


def test_a_folder_of_known_parts_is_replaced_when_asked_and_only_then(tmp_path):
    target = tmp_path / "model"
    write_parts(target, PARTS)
    with pytest.raises(WriteError, match="overwrite=True"):
        write_parts(target, ["card"])
    assert names(target) == ["card", "weights"]
    write_parts(target, ["card"], overwrite=True)
    assert names(target) == ["card"]
    assert names(tmp_path) == ["model"]


def test_a_folder_with_anything_else_in_it_is_not_replaced(tmp_path):
    target = tmp_path / "model"
    write_parts(target, PARTS)
    (target / "thesis.txt").write_text("years")
    with pytest.raises(WriteError, match=r"holds 'thesis\.txt', which is no part"):
        write_parts(target, PARTS, overwrite=True)
    (target / "thesis.txt").rename(tmp_path / "file")
    with pytest.raises(WriteError, match="is a file and no folder"):
        write_parts(tmp_path / "file", PARTS, overwrite=True)
    assert (tmp_path / "file").read_text() == "years"


def test_an_empty_folder_is_free_for_a_folder_of_parts(tmp_path):
    (tmp_path / "model").mkdir()
    write_parts(tmp_path / "model", PARTS)
    assert names(tmp_path / "model") == ["card", "weights"]
    (tmp_path / "other").mkdir()
    with pytest.raises(WriteError, match="exists"), staged(tmp_path / "other"):
        pytest.fail("work began")


def test_a_store_is_back_if_the_last_rename_fails(tmp_path):
    old = tmp_path / "a.zarr"
    old.mkdir()
    (old / "zarr.json").write_text("old")
    with pytest.raises(WriteError), staged(old, overwrite=True):
        pass  # nothing was written, so there is nothing to rename
    assert (old / "zarr.json").read_text() == "old"
    assert names(tmp_path) == ["a.zarr"]


def test_a_parent_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="was not written"), staged(tmp_path / "file" / "a"):
        pytest.fail("work began")
