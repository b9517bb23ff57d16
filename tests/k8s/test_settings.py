"""Settings that cannot be are refused when they are made, in one line that says what to do."""

from dataclasses import fields

import pytest

from deepforest_xr.errors import ConfigError
from deepforest_xr.k8s import Settings, read_settings
from deepforest_xr.k8s.settings import _COUNTS, _QUANTITIES, DEFAULT_PLAN


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "Amazon"}, "lower-case"),
        ({"name": "a" * 41}, "40 characters"),
        ({"namespace": "9lives"}, "a letter first"),
        ({"secret": "my_secret"}, "my_secret"),
        ({"worker_cpu": 4}, "string"),
        ({"worker_memory": "16 GB"}, "16Gi"),
        ({"scratch": "-1Gi"}, "quantity"),
        ({"shards": 0}, "positive"),
        ({"gpus": "1"}, "whole number"),
        ({"retries": True}, "whole number"),
        ({"shards": 4, "parallelism": 5}, "shards=4"),
        ({"model_sha256": "0f" * 31}, "64 hexadecimal"),
        ({"claim": None}, "/data/amazon-2023"),
        ({"claim": None, "out": "s3://a/b"}, "model=./data"),
        ({"plan": DEFAULT_PLAN + "#" * 250_000}, "less than 250,000"),
        ({"plan_files": {"aoi.geojson": "\u00e3" * 125_000}}, 'aoi = "/data/aoi.geojson"'),
        ({"plan_files": {"par\u00e1.geojson": "{}"}}, "'par\u00e1.geojson', .* Rename it"),
        ({"plan_files": {"plan.toml": "{}"}}, "and not plan.toml"),
        ({"plan": "year ="}, "plan is not TOML"),
        ({"out": "/data/other"}, "out=.*amazon-2023.*/data/other"),
        ({"plan": DEFAULT_PLAN.replace("/model/", "/data/")}, "model=.*/model/checkpoint"),
        ({"plan_files": {}}, "aoi='aoi.geojson', which is not beside it"),
    ],
)
def test_what_cannot_be_is_refused(values, words):
    with pytest.raises(ConfigError, match=words) as raised:
        Settings(**values)
    assert "\n" not in str(raised.value)


def test_every_setting_of_text_or_number_is_checked():
    for field in fields(Settings):
        if field.name.endswith(("_s", "_cpu", "_memory")) or field.type == "int":
            assert field.name in (*_COUNTS, *_QUANTITIES), field.name


def test_a_file_names_its_plan_and_area_relative_to_itself(tmp_path):
    (tmp_path / "plans").mkdir()
    plan = DEFAULT_PLAN.replace("aoi.geojson", "acre.geojson")
    (tmp_path / "plans" / "plan.toml").write_text(plan)
    (tmp_path / "acre.geojson").write_text("{}")
    (tmp_path / "k8s.toml").write_text(
        'name = "para-2019"\nplan = "plans/plan.toml"\nplan_files = ["acre.geojson"]\n'
        'shards = 12\nworker_memory = "24Gi"\n[gpu_selector]\npool = "a100"\n'
    )
    made = read_settings(tmp_path / "k8s.toml")
    assert made == Settings(
        name="para-2019",
        plan=plan,
        plan_files={"acre.geojson": "{}"},
        shards=12,
        worker_memory="24Gi",
        gpu_selector={"pool": "a100"},
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("shard = 3", "shard is not a setting; there are name, "),
        ("shards = ", "not TOML"),
        ('plan = "gone.toml"', "gone.toml cannot be read: No such file"),
        ('plan_files = "a"', "list of file names"),
        ('plan_files = ["a/x.json", "b/x.json"]', "files of one name"),
        ("worker_cpu = 4", "string"),
    ],
)
def test_a_file_that_cannot_be_is_refused(tmp_path, text, words):
    (tmp_path / "k8s.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_settings(tmp_path / "k8s.toml")


def test_an_area_that_is_no_text_goes_on_the_claim(tmp_path):
    (tmp_path / "aoi.gpkg").write_bytes(b"SQLite format 3\x00\xff\xfe")
    (tmp_path / "k8s.toml").write_text('plan_files = ["aoi.gpkg"]\n')
    with pytest.raises(ConfigError, match=r"not UTF-8 text; an area .*: /data/aoi.gpkg\."):
        read_settings(tmp_path / "k8s.toml")
    there = DEFAULT_PLAN.replace("aoi.geojson", "/data/aoi.gpkg|layername=legal")
    assert Settings(plan=there, plan_files={}).plan == there


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"k8s\.toml cannot be read"):
        read_settings(tmp_path / "k8s.toml")
