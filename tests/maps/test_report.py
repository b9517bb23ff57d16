import json

import pytest

from deepforest_xr.accuracy import assess
from deepforest_xr.errors import WriteError
from deepforest_xr.maps import write_report


def test_a_folder_gets_both_and_a_suffix_one(make_map, tmp_path):
    lulc = make_map().lulc.assign_attrs(simulated="true")
    report = assess(lulc, lulc)
    assert write_report(report, tmp_path / "r") == tmp_path / "r"
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["accuracy.json", "accuracy.md"]
    assert json.loads((tmp_path / "r" / "accuracy.json").read_text())["simulated"] is True
    write_report(report, tmp_path / "one.md")
    assert (tmp_path / "one.md").read_text() == (tmp_path / "r" / "accuracy.md").read_text()
    with pytest.raises(WriteError, match="exists"):
        write_report(report, tmp_path / "r")
    write_report(report, tmp_path / "r", overwrite=True)
