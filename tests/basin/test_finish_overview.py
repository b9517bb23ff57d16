"""The picture and the page: what they say, and that nothing is loaded or lies upon another."""

import base64
import io
import json
from html.parser import HTMLParser

import matplotlib.image
import matplotlib.text
import numpy as np
import pytest

from deepforest_xr.basin import pyramid
from deepforest_xr.basin.finish import finish_basin
from deepforest_xr.basin.store import open_objects
from deepforest_xr.legend import amazon13
from deepforest_xr.maps import canvas

from .finished import fill, pixels
from .test_finish_areas import layer


@pytest.fixture
def drawn(monkeypatch):
    """Every figure that is drawn, to ask what it says."""
    figures = []
    make = canvas.new_figure
    monkeypatch.setattr(
        canvas, "new_figure", lambda *size: figures.append(make(*size)) or figures[-1]
    )
    return figures


class Page(HTMLParser):
    """Tags that stay open, cells by row, and what is linked to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.links, self.loaded, self.text = [], [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in {"meta", "img", "link"}:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        found = dict(attrs)
        self.links += [found["href"]] if "href" in found else []
        self.loaded += [found["src"]] if "src" in found else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in {"td", "th"}:
            self.rows[-1][-1] += data.strip()


def test_the_picture_shows_the_coarsest_level_and_hectares(plan, drawn, monkeypatch):
    monkeypatch.setattr(pyramid, "LONGEST", 100)
    layers = fill(plan, pixels(plan))
    finish_basin(plan, cogs=None)
    (figure,) = drawn
    image = figure.axes[0].images[0].get_array()
    codes = pyramid.mode_of_four(layers["lulc"])
    colors = amazon13().rgb()
    for code in np.unique(codes):
        expected = colors.get(int(code), (242, 242, 242))
        assert (image[codes == code] == expected).all()
    assert len(figure.axes[0].patches) == len(plan.tiles)
    areas = json.loads(open_objects(plan.url).get("finish/areas.json"))["rows"]
    water = next(row for row in areas if row["class"] == "Water")
    said = [t.get_text() for t in figure.findobj(matplotlib.text.Text)]
    assert f"{water['hectares']:#.3g}" in said
    assert "SIMULATED" in said
    assert any(plan.run_id[:12] in text for text in said)


def test_no_text_of_the_picture_touches_another(plan, drawn):
    fill(plan, pixels(plan))
    finish_basin(plan, cogs=None)
    png = open_objects(plan.url).get("finish/overview.png")
    pixels_of = matplotlib.image.imread(io.BytesIO(png))
    (figure,) = drawn
    renderer = figure.canvas.get_renderer()
    boxes = [
        (t.get_text(), t.get_window_extent(renderer))
        for t in figure.findobj(matplotlib.text.Text)
        if t.get_text() not in {"", "SIMULATED"}
    ]
    assert len(boxes) > 30
    for i, (text, box) in enumerate(boxes):
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= pixels_of.shape[1], text
        assert box.y1 <= pixels_of.shape[0], text
        for other, box_other in boxes[i + 1 :]:
            assert not box.overlaps(box_other), f"{text!r} touches {other!r}"


def test_tiles_that_are_missing_are_hatched(plan, drawn):
    fill(plan, pixels(plan), plan.tiles[:3])
    finish_basin(plan, cogs=None, partial=True)
    patches = drawn[0].axes[0].patches
    assert [p.get_hatch() for p in patches] == [None, None, None, "///"]
    page = Page(open_objects(plan.url).get("finish/overview.html").decode())
    assert ["r0001c0001", "waiting"] in page.rows


def test_the_page_stands_alone_and_names_run_model_areas_and_files(plan, tmp_path):
    fill(plan, pixels(plan))
    odd = '<b>Pará & "Amapá"</b>'
    path = layer(tmp_path, [(odd, (820_000, 9_100_000, 840_000, 9_120_000))])
    finish_basin(plan, polygons=path)
    objects = open_objects(plan.url)
    page = Page(objects.get("finish/overview.html").decode())
    assert page.open == []
    (image,) = page.loaded
    png = objects.get("finish/overview.png")
    assert base64.b64decode(image.removeprefix("data:image/png;base64,")) == png
    facts = {row[0]: row[1] for row in page.rows if len(row) == 2}
    assert facts["run"] == plan.run_id
    assert plan.model.sha256 in facts["model"]
    assert facts["tiles"] == "4 of 4"
    assert facts["time"].startswith("12 s")  # four tiles of 2.5 s to map and 0.5 s to write
    assert facts["scenes of"] == "2018-01-01 to 2018-12-31"
    assert odd in page.text
    rows = json.loads(objects.get("finish/areas.json"))["rows"]
    mining = next(r for r in rows if r["class"] == "Mining" and r["zone"] == odd)
    assert sum(row[:1] == ["Mining"] for row in page.rows) == 2
    assert ["Mining", f"{mining['hectares']:#.3g}"] in [row[:2] for row in page.rows]
    folder = objects.folder / "finish"
    assert all((folder / link).exists() for link in page.links)
    assert {"mosaic.vrt", "areas.csv", "stac/collection.json", "../map.zarr"} <= set(page.links)
