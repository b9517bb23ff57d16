"""Settings of a basin: a file of known keys, each of its type."""

import pytest

from deepforest_xr.basin import BasinConfig
from deepforest_xr.errors import ConfigError

PLAIN = {"aoi": "a.json", "source": "earth-search", "model": "m", "out": "o", "year": 2018}
TOML = """
aoi = "area.geojson"
source = "planetary-computer"
model = "/models/df1b"
out = "s3://maps/amazon"
year = 2023
months = [6, 7]
tile = 512
seconds_per_megapixel = 2
"""


def test_a_file_is_read_and_paths_count_from_its_folder(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(TOML)
    found = BasinConfig.from_toml(path)
    assert found.aoi == str(tmp_path / "area.geojson")
    assert found.source == "planetary-computer"
    assert found.model == "/models/df1b"
    assert found.out == "s3://maps/amazon"
    assert found.months == (6, 7)
    assert found.crs == "ESRI:102033"
    assert BasinConfig.from_mapping(found.to_mapping()) == found


def test_items_on_disk_count_from_the_folder_too(tmp_path):
    (tmp_path / "items.parquet").touch()
    path = tmp_path / "plan.toml"
    path.write_text(TOML.replace("planetary-computer", "items.parquet"))
    assert BasinConfig.from_toml(path).source == str(tmp_path / "items.parquet")


def test_places_and_prices_decide_no_pixel():
    one = BasinConfig.from_mapping(PLAIN)
    other = BasinConfig.from_mapping(PLAIN | {"out": "p", "model": "n", "price_per_hour": 2.0})
    assert one.deciding() == other.deciding()
    assert BasinConfig.from_mapping(PLAIN | {"mask": True}).deciding() != one.deciding()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"resoluton": 10}, "did you mean 'resolution'"),
        ({"tile": 100}, "multiple of 32"),
        ({"tile": "512"}, "expected int"),
        ({"mask": 1}, "expected bool"),
        ({"year": True}, "expected int"),
        ({"halo": 16}, "multiple of 32"),
        ({"months": [6.5]}, "months"),
        ({"datetime": "2018"}, "either year or datetime"),
        ({"dataset": "S2", "months": [6]}, "fixes its months"),
        ({"device": "tpu"}, "'auto', 'cpu' or 'cuda'"),
        ({"crs": "EPSG:1"}, "unknown"),
        ({"resolution": 0.0}, "not positive"),
        ({"crs": "EPSG:4326"}, "resolution=10 is in degrees with crs='EPSG:4326': give about"),
        ({"out": ""}, "out is empty"),
    ],
)
def test_what_cannot_be_is_refused_by_name(change, said):
    with pytest.raises(ConfigError, match=said) as caught:
        BasinConfig.from_mapping(PLAIN | change)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match="'model' is missing"):
        BasinConfig.from_mapping({k: v for k, v in PLAIN.items() if k != "model"})
    with pytest.raises(ConfigError, match="cannot be read"):
        BasinConfig.from_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("= 3")
    with pytest.raises(ConfigError, match="not TOML"):
        BasinConfig.from_toml(tmp_path / "bad.toml")
