"""Reprocessed scenes: recorded pairs of versions, pieces that are none, and the rule's laws."""

import logging
from collections import Counter
from datetime import UTC, datetime

import pystac
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepforest_xr.catalogs import deduplicate, read_items, search, write_items
from deepforest_xr.catalogs.unique import scene_key

pytestmark = pytest.mark.filterwarnings("ignore:Could not parse bucket")

PAIRS = "earth-search/v1.sentinel-2-l2a.items.xcube-stac.test-search-data-searchable-catalog.json"
ITEM_FILES = ("*item*.json", "*expected_output.json")


def ids(items):
    return [item.id for item in items]


def box(west, east, south=0.0, north=1.0):
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def scene(name, footprint=None, *, collection="sentinel-2-l2a", **properties):
    when = datetime(2020, 3, 5, 10, 37, tzinfo=UTC)
    named = {k.replace("__", ":"): v for k, v in properties.items()}
    item = pystac.Item(name, footprint, footprint and [0, 0, 1, 1], when, named)
    item.collection_id = collection
    return item


def esa(baseline="0214", made="20200305T132101", tile="32TMT", start="20200305T103021"):
    return f"S2A_MSIL2A_{start}_N{baseline}_R108_T{tile}_{made}"


@pytest.fixture(scope="module")
def recorded(request):
    """Every recorded item, each file once."""
    folder = request.getfixturevalue("shared_data") / "stac"
    files = sorted({f for pattern in ITEM_FILES for f in folder.rglob(pattern)})
    return [item for f in files for item in read_items(f)]


# ---- recorded


def test_of_earth_searchs_pairs_the_reprocessed_one_stays(shared_data):
    items = read_items(shared_data / "stac" / PAIRS)
    assert len(items) == 8
    kept = deduplicate(items)
    assert ids(kept) == [
        "S2A_32TMT_20200305_1_L2A",
        "S2A_32TNT_20200305_1_L2A",
        "S2A_32UMU_20200305_1_L2A",
        "S2A_32UNU_20200305_1_L2A",
    ]
    assert {i.properties["s2:processing_baseline"] for i in kept} == {"05.00"}


def test_all_recorded_items_are_one_scene_each_but_for_known_pairs(recorded):
    assert len(recorded) == 86
    kept = Counter(ids(deduplicate(recorded)))
    gone = Counter(ids(recorded)) - kept
    # Four earlier versions, one item recorded twice, six scenes of two Earth Search collections.
    assert gone["S2B_MSIL2A_20220612T182919_R027_T24XWR_20220613T123251"] == 1
    assert sorted(i for i in gone if i.endswith("_0_L2A") and "20200305" in i) == [
        f"S2A_{tile}_20200305_0_L2A" for tile in ("32TMT", "32TNT", "32UMU", "32UNU")
    ]
    assert sum(gone.values()) == 4 + 1 + 6
    assert all("_20250731_" in i or "_20250731T" in i for i in gone if i.startswith("S2B_2"))


def test_adjacent_granules_of_one_overpass_both_stay(shared_data):
    for name, count in (("worldcereal_series", 776), ("terramesh", 6), ("gfmap_series", 22)):
        items = list(read_items(shared_data / "real" / name / "items.json"))
        assert len(items) == count
        assert deduplicate(items) == items


def test_a_simulated_scene_has_no_versions(request):
    items = list(read_items(request.getfixturevalue("scene").items))
    assert deduplicate(items) == items


# ---- what is one scene


def half(datastrip, footprint, sequence, baseline="05.00"):
    return scene(
        f"S2A_32TMT_20200305_{sequence}_L2A",
        footprint,
        s2__datatake_id=f"GS2A_20200305T103021_024558_N{baseline}",
        s2__datastrip_id=f"S2A_OPER_MSI_L2A_DS_2APS_20200305T132101_S{datastrip}_N{baseline}",
        grid__code="MGRS-32TMT",
        s2__processing_baseline=baseline,
    )


def test_two_halves_of_a_tile_are_no_versions_of_each_other():
    north, south = box(0, 1, 0.5, 1), box(0, 1, 0, 0.55)
    halves = [half("20200305T103210", north, 0), half("20200305T103456", south, 1)]
    assert scene_key(halves[0]) == scene_key(halves[1])
    assert deduplicate(halves) == halves
    # The same two, processed again: one of each half stays.
    again = [
        half("20200305T103210", north, 2, "05.10"),
        half("20200305T103456", south, 3, "05.10"),
    ]
    assert deduplicate([*halves, *again]) == again


def test_without_a_datastrip_nine_tenths_of_the_footprint_decide():
    def version(name, east):
        return scene(name, box(0, east))

    old, new = version(esa("0214"), 1.0), version(esa("0500", "20230630T022413"), 0.95)
    assert deduplicate([old, new]) == [new]
    piece = version(esa("0500", "20230630T022413"), 0.85)
    assert deduplicate([old, piece]) == [old, piece]
    nowhere = scene(esa("0500", "20230630T022413"))
    assert deduplicate([old, nowhere]) == [old, nowhere]


def test_with_one_datastrip_footprints_may_differ():
    # Catalogs draw them differently: by the tile, by the pixels, not at all.
    old = half("20200305T103210", box(0, 1, 0, 1), 0, "02.14")
    new = half("20200305T103210", box(0, 1, 0, 0.5), 1, "05.00")
    assert deduplicate([old, new]) == [new]
    new.geometry = None
    assert deduplicate([old, new]) == [new]


@pytest.mark.parametrize(
    "properties",
    [
        {"s2__datatake_id": "GS2A_20200305T103021_024558_N02.14", "s2__mgrs_tile": "32TMT"},
        {"eopf__datatake_id": "GS2A_20200305T103021_024558_N05.00", "grid__code": "MGRS-32TMT"},
        {
            "s2__datatake_id": "GS2A_20200305T103021_024558_N02.14",
            "mgrs__utm_zone": 32,
            "mgrs__latitude_band": "T",
            "mgrs__grid_square": "MT",
        },
        {"s2__product_uri": esa() + ".SAFE"},
    ],
)
def test_a_scene_has_one_key_however_it_is_described(properties):
    key = ("S2 L2A", "S2A", "20200305T103021", "32TMT")
    assert scene_key(scene("a", **properties)) == key
    assert scene_key(scene(esa())) == key
    planetary_computer = "S2A_MSIL2A_20200305T103021_R108_T32TMT_20201012T000000"
    assert scene_key(scene(planetary_computer)) == key


def test_a_zone_below_ten_has_two_digits():
    datatake = "GS2A_20200305T103021_024558_N02.14"
    found = {
        scene_key(scene("a", s2__datatake_id=datatake, **p))
        for p in (
            {"grid__code": "MGRS-06VVN"},
            {"grid__code": "MGRS-6VVN"},
            {"mgrs__utm_zone": 6, "mgrs__latitude_band": "V", "mgrs__grid_square": "VN"},
        )
    }
    assert found == {("S2 L2A", "S2A", "20200305T103021", "06VVN")}
    earth_search = scene("S2A_6VVN_20200305_0_L2A", s2__datatake_id=datatake)
    assert {scene_key(earth_search)} == found


@pytest.mark.parametrize(
    ("name", "properties"),
    [
        ("S2A_32TMT_20200305_0_L2A", {}),  # a day may have two overpasses
        ("S2B_T20EPT_20250731T131905_L2A", {"grid__code": "MGRS-20EPT"}),  # the datastrip's time
        ("patch 7", {"s2__mgrs_tile": "31UES"}),
        (esa() + "_0U_199R", {}),  # a piece cut out of it
        ("a", {"s2__datatake_id": "GS2A_20200305T103021_024558_N02.14"}),
    ],
)
def test_what_says_too_little_stays(name, properties):
    twins = [scene(name, box(0, 1), **properties), scene(name, box(0, 1), **properties)]
    assert scene_key(twins[0]) is None
    assert deduplicate(twins) == twins


S1 = "S1A_IW_GRDH_1SDV_20240419T045904_20240419T045916_053498_067DF2"


def test_radar_versions_differ_in_their_last_digits_only():
    def radar(name, collection="sentinel-1-grd", **properties):
        return scene(name, box(0, 1), collection=collection, **properties)

    old = radar(f"{S1}_DCEC", created="2024-04-19T07:00:00Z")
    new = radar(f"{S1}_F1C5_COG", created="2024-06-01T00:00:00Z")
    assert deduplicate([new, old]) == [new]
    following = radar(S1.replace("045904_20240419T045916", "045916_20240419T045941"))
    other_polarization = radar(S1.replace("1SDV", "1SDH"))
    corrected = radar(f"{S1}_rtc", "sentinel-1-rtc")
    kept = [old, following, other_polarization, corrected]
    assert deduplicate(kept) == kept


# ---- which one stays


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # The baseline first, though the old one was made later ...
        (
            {"s2__processing_baseline": "02.12", "s2__generation_time": "2024-01-01T00:00:00Z"},
            {"s2__processing_baseline": "05.00", "s2__generation_time": "2023-01-01T00:00:00Z"},
        ),
        # ... as numbers, then when it was made, to the fraction of a second, then the id.
        ({"s2__processing_baseline": "9.0"}, {"s2__processing_baseline": "10.0"}),
        (
            {"s2__generation_time": "2020-10-07T21:46:52.713Z"},
            {"s2__generation_time": "2020-10-07T21:46:52.987Z"},
        ),
        ({"created": "2020-10-07T21:46:52Z"}, {"processing__datetime": "2020-10-07T21:46:53Z"}),
        ({}, {"processing__version": "05.00"}),
        ({}, {"created": "2020-10-07T21:46:52Z"}),
    ],
)
def test_the_newest_version_stays(old, new):
    common = {"s2__datatake_id": "GS2A_20200305T103021_024558", "grid__code": "MGRS-32TMT"}
    common["s2__product_uri"] = "S2A_MSIL2A_20200305T103021_R108_T32TMT_20200305T132101"
    # Ids the wrong way round: they decide last.
    a = scene("z", box(0, 1), **common, **old)
    b = scene("b", box(0, 1), **common, **new)
    assert deduplicate([a, b]) == [b]
    assert deduplicate([b, a]) == [b]


def test_product_names_decide_where_properties_do_not():
    a, b = scene(esa("0500", "20230630T022413")), scene(esa("0214", "20240101T000000"))
    for item in (a, b):
        item.geometry = box(0, 1)
    assert deduplicate([b, a]) == [a]
    a, b = scene(esa("0500", "20230630T022413")), scene(esa("0500", "20230630T022414"))
    for item in (a, b):
        item.geometry = box(0, 1)
    assert deduplicate([b, a]) == [b]


BASELINES = st.sampled_from(["02.12", "02.14", "05.00", None])
VERSIONS = st.builds(
    lambda n, baseline, strip, tile, west, known: scene(
        f"item {n}",
        box(west / 20, 1 + west / 20),
        **({"s2__datatake_id": "GS2A_20200305T103021_024558_N02.14"} if known else {}),
        **({"s2__processing_baseline": baseline} if baseline else {}),
        **({"s2__datastrip_id": f"DS_S20200305T1032{strip}_N02.14"} if strip else {}),
        s2__mgrs_tile=tile,
    ),
    st.integers(0, 999),
    BASELINES,
    st.sampled_from([None, "10", "40"]),
    st.sampled_from(["32TMT", "32TNT"]),
    st.integers(0, 3),
    st.booleans(),
)
LISTS = st.lists(VERSIONS, max_size=12, unique_by=lambda item: item.id)


@given(LISTS)
def test_doing_it_twice_changes_nothing(items):
    once = deduplicate(items)
    assert deduplicate(once) == once


@given(LISTS)
def test_the_order_stays_and_nothing_is_added(items):
    kept = deduplicate(items)
    places = [items.index(item) for item in kept]
    assert places == sorted(set(places))
    assert {scene_key(i) for i in kept} == {scene_key(i) for i in items}
    assert all(i in kept for i in items if scene_key(i) is None)


@given(LISTS.flatmap(lambda items: st.tuples(st.just(items), st.permutations(items))))
def test_which_stay_does_not_depend_on_the_order(lists):
    items, shuffled = lists
    assert set(ids(deduplicate(items))) == set(ids(deduplicate(shuffled)))


# ---- in a search


def test_a_search_leaves_old_versions_out_and_says_how_many(shared_data, caplog):
    path = shared_data / "stac" / PAIRS
    with caplog.at_level(logging.INFO, "deepforest_xr"):
        found = search(path)
    assert len(found) == 4
    assert (
        "4 of 8 scenes left out, processed again since; first: S2A_32TMT_20200305_0_L2A for "
        "S2A_32TMT_20200305_1_L2A"
    ) in caplog.text
    assert len(search(path, deduplicate=False)) == 8


def test_the_log_names_the_newest_of_three(caplog):
    versions = [half("20200305T103210", box(0, 1), n, b) for n, b in enumerate(("02.14", "05.00"))]
    newest = half("20200305T103210", box(0, 1), 2, "05.10")
    with caplog.at_level(logging.INFO, "deepforest_xr"):
        assert deduplicate([*versions, newest]) == [newest]
    assert "first: S2A_32TMT_20200305_0_L2A for S2A_32TMT_20200305_2_L2A" in caplog.text


def test_an_old_version_does_not_stand_in_for_a_cloudier_new_one(tmp_path):
    common = {"s2__datatake_id": "GS2A_20200305T103021_024558_N02.14", "s2__mgrs_tile": "32TMT"}
    old = scene("old", box(0, 1), **common, s2__processing_baseline="02.14", eo__cloud_cover=19)
    new = scene("new", box(0, 1), **common, s2__processing_baseline="05.00", eo__cloud_cover=21)
    other = scene("other", box(0, 1), eo__cloud_cover=5)
    path = write_items([old, new, other], tmp_path / "items.json")
    assert ids(search(path, max_cloud_cover=20)) == ["other"]
    assert ids(search(path, max_cloud_cover=20, deduplicate=False)) == ["old", "other"]


def test_an_api_is_asked_for_clear_scenes_only_where_versions_are_not_compared(monkeypatch):
    asked = []

    def find(url, **question):
        asked.append(question["max_cloud_cover"])
        return [scene("a", box(0, 1), eo__cloud_cover=5)]

    monkeypatch.setattr("deepforest_xr.catalogs.api.find", find)
    search("earth-search", max_cloud_cover=20)
    search("earth-search", max_cloud_cover=20, deduplicate=False)
    assert asked == [None, 20]
