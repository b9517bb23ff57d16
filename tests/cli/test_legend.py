"""``deepforest-xr legend``: what it prints is what the legends hold."""

import json
import os
import re
import subprocess
import sys

import pytest
from rich.color import Color
from rich.console import Console
from typer.testing import CliRunner

from deepforest_xr.cli import console
from deepforest_xr.cli.legend import app
from deepforest_xr.errors import ConfigError
from deepforest_xr.legend import amazon13, mapbiomas_classes, mapbiomas_collections


@pytest.fixture
def shown(monkeypatch):
    """What a call prints on standard output."""

    def run(*words, **options):
        out = Console(width=200, **options)
        with out.capture() as printed:
            monkeypatch.setattr(console, "out_console", out)
            result = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert result.exit_code == 0
        return printed.get()

    return run


def cells(text):
    """Rows of a table: what two or more blanks separate."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


@pytest.mark.parametrize("collection", mapbiomas_collections())
def test_every_code_has_a_row_with_both_names_its_colour_and_its_class(shown, collection):
    rows = cells(shown("show", "--collection", str(collection)))
    names = dict(zip(amazon13().codes, amazon13().names, strict=True))
    for known in mapbiomas_classes(collection):
        target = names.get(known.target)
        row = [str(known.code), known.english, known.portuguese, known.color]
        row.append("-" if target is None else f"{known.target} {target}")
        assert [cell for cell in row if cell] in rows


def test_a_class_is_one_line_in_a_pipe():
    words = [sys.executable, "-m", "deepforest_xr.cli", "legend", "show", "--collection", "8"]
    environment = os.environ | {"COLUMNS": "40"}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    _, head, *rows, last = done.stdout.splitlines()
    assert head.split()[:1] == ["code"]
    assert len(rows) == len(mapbiomas_classes(8))
    assert last.startswith("class: of legend")


def test_parts_of_a_class_are_indented_by_their_level(shown):
    lines = shown("show", "--collection", "8").splitlines()
    starts = {
        name: next(line.index(name) for line in lines if name in line)
        for name in ("Farming", "Agriculture", "Temporary Crop", "Soybean")
    }
    first = starts["Farming"]
    assert list(starts.values()) == [first, first + 2, first + 4, first + 6]


def test_colours_are_shown_as_swatches(shown):
    text = shown("show", "--collection", "8", force_terminal=True, color_system="truecolor")
    for known in mapbiomas_classes(8):
        red, green, blue = Color.parse(known.color).triplet
        assert f"\x1b[48;2;{red};{green};{blue}m" in text


def test_json_is_the_whole_legend(shown):
    content = json.loads(shown("show", "--collection", "8", "--json"))
    assert content["collection"] == 8
    assert content["target_legend"] == "amazon13"
    assert [row["code"] for row in content["classes"]] == [k.code for k in mapbiomas_classes(8)]
    rows = {row["code"]: row for row in content["classes"]}
    assert rows[39] == {
        "code": 39,
        "parent": 19,
        "level": 4,
        "english": "Soybean",
        "portuguese": "Soja",
        "color": "#f5b3c8",
        "target": 8,
        "target_name": "Annual and Perennial Crop",
    }
    assert rows[1]["target"] is rows[1]["target_name"] is rows[1]["parent"] is None


def test_without_a_collection_it_is_the_papers_legend(shown):
    rows = cells(shown("show"))
    for known in amazon13().classes:
        assert [str(known.code), known.name, known.color] in rows
    assert json.loads(shown("show", "--json")) == amazon13().to_dict()


def test_an_unknown_collection_is_one_line_that_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"collection 3 .* known: \[4, 5, 6, 7, 8, 9, 10\]"):
        CliRunner().invoke(app, ["show", "--collection", "3"], catch_exceptions=False)
    assert CliRunner().invoke(app, ["show", "--collection", "eight"]).exit_code == 2
