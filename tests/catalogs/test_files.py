"""Items on disk: what is read is what was written, links lead to files."""

import json
from datetime import timedelta
from pathlib import Path

import pystac
import pytest

from deepforest_xr.catalogs import read_items, write_items
from deepforest_xr.errors import CatalogError, WriteError

# What pystac says of Earth Search's collection-1 items; nothing is lost.
pytestmark = pytest.mark.filterwarnings("ignore:Could not parse bucket")


def assets(items):
    return [{key: a.to_dict() for key, a in i.assets.items()} for i in items]


def without_times(item):
    # stac-geoparquet keeps times as instants: their spelling may change, not their value.
    return {k: v for k, v in item.properties.items() if not k.endswith("datetime")}


def test_links_are_resolved_against_the_file_they_stand_in(scene):
    items = read_items(scene.items)
    assert len(items) == 3 * 3 + 2 * 2  # three granules a month; no radar in July
    for item in items:
        for asset in item.assets.values():
            assert Path(asset.href).is_file()
            assert Path(asset.href).is_absolute()


@pytest.mark.parametrize("name", ["items.json", "frozen.parquet"])
def test_a_round_trip_changes_nothing(name, scene, tmp_path):
    items = read_items(scene.items)
    path = write_items(items, tmp_path / "plan" / name)
    assert path == tmp_path / "plan" / name
    back = read_items(path)
    assert [i.id for i in back] == [i.id for i in items]
    assert [without_times(i) for i in back] == [without_times(i) for i in items]
    assert [i.datetime for i in back] == [i.datetime for i in items]
    assert [i.collection_id for i in back] == [i.collection_id for i in items]
    assert [i.geometry for i in back] == [i.geometry for i in items]
    assert assets(back) == assets(items)  # hrefs stay absolute: the folder is another
    assert [p.name for p in path.parent.iterdir()] == [name]


@pytest.mark.parametrize(
    "name",
    [
        "planetary-computer/sentinel-1-rtc.items.2024-04.json",
        "planetary-computer/sentinel-2-l2a.items.2024-04.json",
        "earth-search/v1.sentinel-2-c1-l2a.items.pystac-client.test-filter-inprocess.json",
        "earth-search/v1.sentinel-2-l2a.items.31UDQ.json",
    ],
)
def test_recorded_answers_survive_geoparquet(name, shared_data, tmp_path):
    items = read_items(shared_data / "stac" / name)
    back = read_items(write_items(items, tmp_path / "frozen.parquet"))
    assert [i.id for i in back] == [i.id for i in items]
    for old, new in zip(items, back, strict=True):
        # rustac keeps milliseconds, some providers give microseconds.
        assert abs(old.datetime - new.datetime) < timedelta(milliseconds=1)
    assert assets(back) == assets(items)
    for old, new in zip(items, back, strict=True):
        times = {k for k in old.properties if k.endswith("datetime")} | {"created", "updated"}
        assert {k: v for k, v in new.properties.items() if k not in times} == {
            k: v for k, v in old.properties.items() if k not in times
        }


def test_a_folder_of_single_items_is_read_at_any_depth(scene, tmp_path):
    items = list(read_items(scene.items))
    for number, item in enumerate(items):
        folder = tmp_path / f"{number % 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"{item.id}.json").write_text(json.dumps(item.to_dict()))
    (tmp_path / "collection.json").write_text(json.dumps({"type": "Collection", "id": "x"}))
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "number.json").write_text("5")
    found = read_items(tmp_path)
    assert sorted(i.id for i in found) == sorted(i.id for i in items)


def test_one_item_a_list_and_a_collection_are_all_items(scene, tmp_path):
    item = next(iter(read_items(scene.items))).to_dict()
    for content in (item, [item], {"type": "FeatureCollection", "features": [item]}):
        path = tmp_path / "x.json"
        path.write_text(json.dumps(content))
        assert [i.id for i in read_items(path)] == [item["id"]]


@pytest.mark.parametrize(
    "href",
    [
        "https://example.org/a/B02.tif",
        "s3://bucket/B02.tif",
        "/data/B02.tif",
        "/vsizip/a.zip/B02.tif",
    ],
)
def test_absolute_links_stay(href, scene, tmp_path):
    item = next(iter(read_items(scene.items))).to_dict()
    item["assets"] = {"B02": {"href": href}}
    path = tmp_path / "x.json"
    path.write_text(json.dumps(item))
    assert next(iter(read_items(path))).assets["B02"].href == href


def test_a_missing_path_says_what_is_expected(tmp_path):
    with pytest.raises(CatalogError, match=r"absent\.json.*expected") as caught:
        read_items(tmp_path / "absent.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "",
        "\x00",
        "5",
        "null",
        '"text"',
        "[1]",
        "{}",
        '{"type": "FeatureCollection"}',
        '{"type": "FeatureCollection", "features": [null]}',
        '{"type": "Feature"}',
        '{"type": "Feature", "assets": []}',
        '{"type": "Feature", "assets": {"B02": 5}}',
        '{"type": "Feature", "assets": {}, "id": "a", "properties": {}}',
        (
            '{"type": "Feature", "stac_version": "1.0.0", "assets": {}, "id": "a", '
            '"geometry": null, "properties": {"datetime": "yesterday"}, "links": []}'
        ),
    ],
)
def test_what_is_no_item_is_one_error_naming_the_file(text, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(CatalogError, match=r"broken\.json") as caught:
        read_items(path)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_parquet_are_one_error(tmp_path):
    path = tmp_path / "broken.parquet"
    path.write_bytes(b"PAR1 but not really")
    with pytest.raises(CatalogError, match=r"broken\.parquet"):
        read_items(path)


def test_an_empty_folder_has_no_items(tmp_path):
    with pytest.raises(CatalogError, match="no STAC item"):
        read_items(tmp_path)


def test_an_unknown_ending_is_refused(scene, tmp_path):
    with pytest.raises(CatalogError, match=r"\.json or \.parquet"):
        write_items(read_items(scene.items), tmp_path / "items.csv")


@pytest.mark.parametrize("name", ["items.json", "items.parquet"])
def test_a_place_that_cannot_be_written_is_one_error(name, scene, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="not written"):
        write_items(read_items(scene.items), tmp_path / "file" / name)


def test_a_write_that_fails_leaves_the_old_file(scene, tmp_path):
    items = read_items(scene.items)
    path = write_items(items, tmp_path / "items.json")
    before = path.read_bytes()
    spoilt = next(iter(items)).clone()
    spoilt.properties["bad"] = object()
    with pytest.raises(WriteError, match="TypeError"):
        write_items([spoilt], path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["items.json"]


def test_items_of_a_live_search_can_be_written(shared_data, tmp_path):
    # As pystac_client gives them: with links to their API.
    name = "planetary-computer/sentinel-2-l2a.item.baseline-04.00.json"
    item = pystac.Item.from_dict(json.loads((shared_data / "stac" / name).read_text()))
    assert item.links
    back = next(iter(read_items(write_items([item], tmp_path / "items.parquet"))))
    assert back.id == item.id
    assert back.assets["B02"].href == item.assets["B02"].href
