"""Legends and crosswalks against the published tables of MapBiomas."""

import csv
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from deepforest_xr.errors import ConfigError, LabelError
from deepforest_xr.legend import (
    UNLABELLED,
    LandCoverClass,
    Legend,
    amazon13,
    identity,
    mapbiomas,
    mapbiomas_classes,
    mapbiomas_collections,
)

COLLECTIONS = (4, 5, 6, 7, 8, 9, 10)

# Collections whose codes are in a file beside the project.
PUBLISHED = (4, 5, 8, 9, 10)

# The codes that users of the official legends of 6 and 7 list.
LISTED = {
    6: "1 3 4 5 49 10 11 12 32 29 13 14 15 18 19 39 20 40 41 36 46 47 48 9 21 22 23 24 30 25 "
    "26 33 31 27",
    7: "1 3 4 5 49 10 11 12 32 29 50 13 15 14 18 19 39 20 40 62 41 36 46 47 48 21 9 22 23 24 "
    "30 25 26 33 31 27",
}

# Depth in the official numbering of collections that state it.
LEVELS = {1: 1, 3: 2, 14: 1, 15: 2, 18: 2, 19: 3, 39: 4, 20: 4, 36: 3, 24: 2, 26: 1, 33: 2, 27: 1}

# A mosaic is of several classes, "other non forest" is not forest.
OTHER = re.compile("mosaic|non.forest", re.IGNORECASE)

# Codes that mean the same in every collection the crosswalk knows.
STABLE = {
    3: "Forest Formation",
    4: "Savanna Formation",
    9: "Forest Plantation",
    11: "Wetland",
    12: "Grassland",
    15: "Pasture",
    20: "Semi-Perennial Crop",
    24: "Urban Infrastructure",
    25: "Other Non-Vegetated Area",
    30: "Mining",
    33: "Water",
    19: "Annual and Perennial Crop",
}


def published(shared_data):
    with (shared_data / "mapbiomas" / "legends.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_paper_has_thirteen_classes_from_1_to_13():
    legend = amazon13()
    assert legend.codes == list(range(1, 14))
    assert len(set(legend.names)) == len({c.color for c in legend.classes}) == 13


@pytest.mark.parametrize("collection", COLLECTIONS)
@pytest.mark.parametrize("code", STABLE)
def test_a_stable_code_goes_to_its_class(collection, code):
    target = int(mapbiomas(collection).lookup(np.array([code]))[0])
    names = dict(zip(amazon13().codes, amazon13().names, strict=True))
    assert names[target] == STABLE[code]


@pytest.mark.parametrize("collection", PUBLISHED)
def test_every_published_code_is_known(collection, shared_data):
    rows = [r for r in published(shared_data) if int(r["collection"]) == collection]
    codes = np.array([int(r["class_id"]) for r in rows])
    assert len(codes) > 20
    targets = mapbiomas(collection).lookup(codes)
    assert set(targets) <= {*amazon13().codes, UNLABELLED}
    assert set(amazon13().codes) - set(targets) <= {6}  # collection 10 lists no class 13


@pytest.mark.parametrize("collection", PUBLISHED)
def test_a_published_name_means_the_class_it_goes_to(collection, shared_data):
    words = {
        "forest formation": 1,
        "savanna": 2,
        "forest plantation": 3,
        "wetland": 4,
        "grassland": 5,
        "pasture": 7,
        "soy": 8,
        "rice": 8,
        "citrus": 8,
        "temporary crop": 8,
        "sugar": 9,
        "urban": 10,
        "mining": 12,
        "aquaculture": 13,
        "river": 13,
    }
    seen = set()
    for row in published(shared_data):
        if int(row["collection"]) != collection or OTHER.search(row["name_en"]):
            continue
        for word, expected in words.items():
            if word in row["name_en"].lower():
                code = np.array([int(row["class_id"])])
                assert mapbiomas(collection).lookup(code)[0] == expected, row
                seen.add(word)
    assert len(seen) >= 10


@pytest.mark.parametrize("collection", COLLECTIONS)
@pytest.mark.parametrize("code", [0, 1, 14, 18, 21, 22, 27])
def test_aggregates_mosaics_and_unobserved_are_unlabelled(collection, code):
    assert mapbiomas(collection).lookup(np.array([code]))[0] == UNLABELLED


def test_a_number_is_known_in_the_collections_that_have_it():
    # Cotton has a number from collection 8 on; before, 62 is nothing.
    with pytest.raises(LabelError, match=r"\[62\] are not in MapBiomas collection 5"):
        mapbiomas(5).lookup(np.array([3, 62]))
    assert mapbiomas(8).lookup(np.array([62]))[0] == 8


@pytest.mark.parametrize("collection", [0, 3, 11])
def test_a_collection_without_a_source_is_refused(collection):
    with pytest.raises(ConfigError, match=r"known: \[4, 5, 6, 7, 8, 9, 10\]") as caught:
        mapbiomas(collection)
    assert "\n" not in str(caught.value)


# ---- the collections' own names, colours and hierarchy


def plain(name):
    """A name without accents, case and spaces at its ends."""
    decomposed = unicodedata.normalize("NFKD", name)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).strip().lower()


@pytest.mark.parametrize("collection", PUBLISHED)
def test_codes_names_and_colours_are_the_published_ones(collection, shared_data):
    rows = {
        int(r["class_id"]): r for r in published(shared_data) if r["collection"] == str(collection)
    }
    ours = {known.code: known for known in mapbiomas_classes(collection)}
    assert ours.keys() == rows.keys()
    style = official_style(shared_data) if collection == 9 else {}
    for code, row in rows.items():
        assert plain(ours[code].english) == plain(row["name_en"])
        if row["name_pt"]:
            assert plain(ours[code].portuguese) == plain(row["name_pt"])
        assert ours[code].color == style.get(code, row["hex_color"]).lower()
        if row["level"]:
            assert ours[code].level == int(row["level"])


def official_style(shared_data):
    """Colours of MapBiomas' own style file of collection 9, which the table is not."""
    (path,) = (shared_data / "mapbiomas" / "legends").glob("collection9*.qml")
    text = path.read_text(encoding="utf-8")
    return {int(v): c for v, c in re.findall(r'value="(\d+)" alpha="255" color="(#\w+)"', text)}


@pytest.mark.parametrize("collection", LISTED)
def test_collections_six_and_seven_have_the_codes_that_their_users_list(collection):
    expected = {int(code) for code in LISTED[collection].split()}
    assert {known.code for known in mapbiomas_classes(collection)} == expected


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_a_collection_reads_from_a_class_to_its_parts(collection):
    seen = {}
    for known in mapbiomas_classes(collection):
        assert known.code not in seen
        assert known.level == (1 if known.parent is None else seen[known.parent].level + 1)
        seen[known.code] = known
        assert re.fullmatch("#[0-9a-f]{6}", known.color)
        assert known.english == known.english.strip() != ""
        assert known.portuguese == known.portuguese.strip()
    if collection > 5:
        for code, level in LEVELS.items():
            assert seen[code].level == level
    named = sum(bool(known.portuguese) for known in seen.values())
    assert named >= len(seen) - 7


def test_a_code_goes_where_the_finest_decided_class_above_it_goes():
    # Soybean has no class of its own and is temporary crop; sugar cane, beside it, has one.
    classes = {known.code: known for known in mapbiomas_classes(8)}
    assert classes[39].parent == classes[20].parent == 19
    assert (classes[19].target, classes[39].target, classes[20].target) == (8, 8, 9)
    # Water's parts are water; of agriculture, pasture and forest nothing is decided at the top.
    assert classes[31].target == classes[26].target == 13
    assert {classes[code].target for code in (1, 14, 18)} == {UNLABELLED}


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_the_crosswalk_is_the_legends_last_column(collection):
    mapping = mapbiomas(collection).mapping
    assert mapping == {0: UNLABELLED, 27: UNLABELLED} | {
        known.code: known.target for known in mapbiomas_classes(collection)
    }
    assert collection in mapbiomas_collections()


def test_one_number_means_different_things_in_different_collections():
    def name(collection, code):
        return {k.code: k.english for k in mapbiomas_classes(collection)}.get(code)

    assert name(5, 45) == "Other"
    assert name(6, 45) is name(10, 45) is None
    assert name(4, 19) == "Annual and Perennial Crop"
    assert name(7, 19) == "Temporary Crop"


@given(
    arrays(
        st.sampled_from([np.uint8, np.int16, np.int64]),
        array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
        elements=st.sampled_from(sorted(mapbiomas(8).mapping)),
    )
)
def test_lookup_is_the_table_pixel_by_pixel(codes):
    found = mapbiomas(8).lookup(codes)
    assert found.dtype == np.uint8
    assert found.shape == codes.shape
    expected = [mapbiomas(8).mapping[int(c)] for c in codes.ravel()]
    np.testing.assert_array_equal(found.ravel(), expected)


@given(st.integers(-(2**40), 2**40).filter(lambda c: c not in mapbiomas(8).mapping))
def test_an_unknown_code_is_named(code):
    with pytest.raises(LabelError, match=rf"\[{code}\] are not in MapBiomas collection 8"):
        mapbiomas(8).lookup(np.array([[3, code]]))


def test_of_many_unknown_codes_ten_are_named():
    with pytest.raises(LabelError, match=r"\[100, .*, 109\] and 890 more are not in") as caught:
        mapbiomas(8).lookup(np.arange(100, 1000))
    assert len(str(caught.value)) < 500


def test_a_raster_in_the_legends_own_codes_stays_and_0_is_unlabelled():
    codes = np.array([[0, 1, 13], [255, 7, 2]], dtype="uint8")
    np.testing.assert_array_equal(identity(amazon13()).lookup(codes), [[255, 1, 13], [255, 7, 2]])
    with pytest.raises(LabelError, match=r"\[14\]"):
        identity(amazon13()).lookup(np.array([14]))


@given(
    st.lists(st.integers(1, 254), min_size=1, max_size=6, unique=True),
    st.text("abcdefghij ", min_size=1).map(str.strip).filter(bool),
)
def test_a_legend_survives_json_and_cf_attributes(codes, word):
    classes = tuple(
        LandCoverClass(c, " ".join(f"{word} {i}".split()), f"#{c:06x}") for i, c in enumerate(codes)
    )
    legend = Legend("mine", classes)
    assert Legend.from_dict(legend.to_dict()) == legend
    assert Legend.from_attrs(legend.attrs()) == legend


def test_rgb_is_the_colour_a_browser_shows():
    assert amazon13().rgb()[13] == (0x25, 0x32, 0xE4)


def test_attributes_without_flags_say_what_lacks():
    with pytest.raises(LabelError, match="flag_values"):
        Legend.from_attrs({})
    with pytest.raises(LabelError, match="flag_meanings"):
        Legend.from_attrs({"flag_values": [1, 2]})


@pytest.mark.parametrize("codes", [(), (1, 1), (0, 1), (1, 255), (-3,)])
def test_codes_are_unique_and_neither_nodata_nor_unlabelled(codes):
    with pytest.raises(ConfigError, match="legend 'mine'"):
        Legend("mine", tuple(LandCoverClass(c, "x", "#000000") for c in codes))


@pytest.mark.parametrize(
    ("raster", "codes"),
    [("00002806639B424A.tif", [11, 13, 60, 99]), ("000028085BF08E7E.tif", [11, 13, 60, 99])],
)
def test_one_rasters_rows_are_read_of_a_table_of_many(raster, codes, shared_data):
    path = shared_data / "real" / "worldcereal_series" / "labels" / "legend.csv"
    legend = Legend.from_csv(path, raster=raster, name="flanders")
    assert legend.codes == codes
    assert legend.names[0] == "annual cropland"
    assert legend.name == "flanders"
    assert Legend.from_attrs(legend.attrs()) == legend


def test_a_table_with_colours_keeps_them(shared_data):
    path = shared_data / "real" / "terramesh" / "labels" / "legend.csv"
    legend = Legend.from_csv(path, raster="282D_485L_3_3.tif")
    assert legend.codes == list(range(1, 10))  # 0 is no data
    assert legend.rgb()[1] == (0x31, 0x71, 0xAD)


def test_codes_beyond_a_byte_are_refused(shared_data):
    path = shared_data / "real" / "worldcereal_series" / "labels" / "legend.csv"
    with pytest.raises(ConfigError, match="1 to 254"):
        Legend.from_csv(path, raster="00002806639B424A_CT.tif")


def test_a_raster_not_in_the_table_has_no_class(shared_data):
    path = shared_data / "real" / "worldcereal_series" / "labels" / "legend.csv"
    with pytest.raises(ConfigError, match="no class"):
        Legend.from_csv(path, raster="elsewhere.tif")


@pytest.mark.parametrize(
    "text", ["", "id,label\n1,forest\n", "code,name\nforest,1\n", "code,name\n,x\n"]
)
def test_a_file_that_is_no_legend_is_one_error(tmp_path, text):
    path = tmp_path / "legend.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match="legend"):
        Legend.from_csv(path)


def test_a_missing_file_is_one_error(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        Legend.from_csv(tmp_path / "absent.csv")


def test_a_table_saved_by_a_spreadsheet_begins_with_a_mark_and_is_read(tmp_path):
    path = tmp_path / "legend.csv"
    path.write_text("code,name\n1,floresta de várzea\n2,água\n", encoding="utf-8-sig")
    assert Legend.from_csv(path).names == ["floresta de várzea", "água"]


def test_a_table_in_another_encoding_is_one_error(tmp_path):
    path = tmp_path / "legend.csv"
    path.write_bytes("code,name\n1,água\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"legend\.csv"):
        Legend.from_csv(path)
