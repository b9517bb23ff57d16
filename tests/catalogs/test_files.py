"""Items on disk: what is read is what was written, links lead to files."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pystac
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepforest_xr.catalogs import read_items, search, write_items
from deepforest_xr.errors import CatalogError, WriteError

# What pystac says of Earth Search's collection-1 items; nothing is lost.
pytestmark = pytest.mark.filterwarnings("ignore:Could not parse bucket")


def assets(items):
    return [{key: a.to_dict() for key, a in i.assets.items()} for i in items]


def frozen(items, path):
    """All that an item is, its links apart, before and after it was written and read."""
    back = read_items(write_items(items, path))
    return [
        [(i.properties, {**i.to_dict(transform_hrefs=False), "links": []}) for i in each]
        for each in (items, back)
    ]


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
    assert [i.properties for i in back] == [i.properties for i in items]
    assert [i.datetime for i in back] == [i.datetime for i in items]
    assert [i.bbox for i in back] == [i.bbox for i in items]
    assert [i.collection_id for i in back] == [i.collection_id for i in items]
    assert [i.geometry for i in back] == [i.geometry for i in items]
    assert assets(back) == assets(items)  # hrefs stay absolute: the folder is another
    assert [p.name for p in path.parent.iterdir()] == [name]


def recorded(shared_data):
    """Every recorded item, by file."""
    folder = shared_data / "stac"
    files = {*folder.rglob("*item*.json"), *folder.rglob("*expected_output.json")}
    return {f: list(read_items(f)) for f in sorted(files)}


def test_recorded_answers_survive_geoparquet_file_by_file(shared_data, tmp_path):
    files = recorded(shared_data)
    assert sum(len(items) for items in files.values()) == 86
    for file, items in files.items():
        before, after = frozen(items, tmp_path / "frozen.parquet")
        assert after == before, file


def test_recorded_answers_survive_geoparquet_in_one_table(shared_data, tmp_path):
    # Two catalogs, seven collections: polygons and multipolygons, properties of some only,
    # times to the microsecond and with a blank instead of T, a datetime that is null.
    items = [item for each in recorded(shared_data).values() for item in each]
    before, after = frozen(items, tmp_path / "frozen.parquet")
    assert after == before


def item_at(name, when, **properties):
    triangle = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [0, 1], [0, 0]]]}
    item = pystac.Item(name, triangle, [0, 0, 1, 1], when, properties)
    item.collection_id = "sentinel-1-rtc"
    return item


def test_a_frozen_search_has_the_order_of_the_live_one(tmp_path):
    # A microsecond apart and named the wrong way round: cut to milliseconds they would swap.
    when = datetime(2024, 4, 19, 4, 59, 10, 436706, tzinfo=UTC)
    items = [item_at("z", when), item_at("a", when + timedelta(microseconds=1))]
    live = search(write_items(items, tmp_path / "items.json"))
    once = search(write_items(live, tmp_path / "items.parquet"))
    assert [i.id for i in live] == [i.id for i in once] == ["z", "a"]
    assert [i.datetime for i in once] == [i.datetime for i in live]


@given(
    st.lists(
        st.datetimes(datetime(2015, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=25)
def test_times_are_kept_to_the_microsecond(whens):
    items = [item_at(str(n), when, created=when.isoformat()) for n, when in enumerate(whens)]
    with TemporaryDirectory() as folder:
        before, after = frozen(items, Path(folder) / "items.parquet")
    assert after == before


def test_what_another_tool_changed_in_the_table_stays_changed(tmp_path):
    import rustac

    when = datetime(2024, 4, 19, 4, 59, 10, 436706, tzinfo=UTC)
    path = write_items([item_at("a", when)], tmp_path / "items.parquet")
    table = rustac.read_sync(str(path))
    table["features"][0]["properties"]["datetime"] = "2024-04-20T00:00:00Z"
    rustac.write_sync(str(path), table["features"])
    (back,) = read_items(path)
    assert back.datetime == datetime(2024, 4, 20, tzinfo=UTC)
    assert not any("exact" in name for name in back.properties)


def test_items_with_different_fields_share_a_table(tmp_path):
    when = datetime(2024, 4, 19, tzinfo=UTC)
    items = [
        item_at("a", when, flag=True, notes=["x"], software={"ours": "1"}),
        item_at("b", when, software={"theirs": "2"}, notes=[]),
        item_at("c", when, number=0),
    ]
    items[0].assets = {"vv": pystac.Asset("/a.tif", extra_fields={"raster:bands": [{"nodata": 0}]})}
    items[1].assets = {"vh": pystac.Asset("/b.tif", extra_fields={"nodata": -1})}
    items[0].assets["vv"].extra_fields["alternate"] = {"s3": {"href": "s3://a/a.tif"}}
    items[2].assets = {"vv": pystac.Asset("/c.tif")}
    polygon = items[2].geometry
    items[2].geometry = {"type": "MultiPolygon", "coordinates": [polygon["coordinates"]]}
    before, after = frozen(items, tmp_path / "items.parquet")
    assert after == before


def test_an_item_without_assets_among_others_is_refused_not_written_unreadably(tmp_path):
    when = datetime(2024, 4, 19, tzinfo=UTC)
    items = [item_at("a", when), item_at("b", when)]
    before, after = frozen(items, tmp_path / "items.parquet")
    assert after == before
    items[0].assets = {"vv": pystac.Asset("/a.tif")}
    with pytest.raises(WriteError, match="item 'b' has no assets"):
        write_items(items, tmp_path / "items.parquet")
    before, after = frozen(items, tmp_path / "items.json")
    assert after == before


def test_a_property_of_two_types_is_refused_with_the_way_out(tmp_path):
    when = datetime(2024, 4, 19, tzinfo=UTC)
    items = [item_at("a", when, baseline="04.00"), item_at("b", when, baseline=4.0)]
    with pytest.raises(WriteError, match=r"'baseline'.*\.json file holds any items") as caught:
        write_items(items, tmp_path / "items.parquet")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    before, after = frozen(items, tmp_path / "items.json")
    assert after == before


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
