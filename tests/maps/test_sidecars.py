import ctypes
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import rasterio

from deepforest_xr.legend import LandCoverClass, Legend, amazon13
from deepforest_xr.maps import write_cog
from deepforest_xr.maps.sidecars import class_style, percent_style

LEGENDS = Path(__file__).parents[3] / "shared/data/mapbiomas/legends"
# Not in the order of their codes, and with what XML escapes or cannot hold.
ODD = Legend(
    "odd",
    (
        LandCoverClass(40, 'Água & "rio" <fundo>', "#0102FF"),
        LandCoverClass(7, "mata\x01ciliar", "00ff80"),
        LandCoverClass(254, "resto", "#ffffff"),
    ),
)


def gdal():
    """The GDAL that rasterio has loaded, past rasterio: it reads no attribute tables."""
    loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    libraries = [path for path in loaded if Path(path).name.startswith("libgdal")]
    if len(libraries) != 1:
        pytest.skip(f"no GDAL library to ask beside rasterio's own: {libraries}")
    library = ctypes.CDLL(libraries[0])
    pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    for name, result, arguments in [
        ("GDALAllRegister", None, []),
        ("GDALOpen", pointer, [text, number]),
        ("GDALClose", None, [pointer]),
        ("GDALGetMetadataDomainList", ctypes.POINTER(text), [pointer]),
        ("GDALGetRasterBand", pointer, [pointer, number]),
        ("GDALGetRasterCategoryNames", ctypes.POINTER(text), [pointer]),
        ("GDALGetDefaultRAT", pointer, [pointer]),
        ("GDALRATGetRowCount", number, [pointer]),
        ("GDALRATGetColumnCount", number, [pointer]),
        ("GDALRATGetNameOfCol", text, [pointer, number]),
        ("GDALRATGetTypeOfCol", number, [pointer, number]),
        ("GDALRATGetTableType", number, [pointer]),
        ("GDALRATGetColOfUsage", number, [pointer, number]),
        ("GDALRATGetValueAsString", text, [pointer, number, number]),
        ("GDALRATGetRowOfValue", number, [pointer, ctypes.c_double]),
    ]:
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.GDALAllRegister()
    return library


@pytest.fixture
def make_odd(make_map):
    def make(legend=ODD):
        dataset = make_map()
        dataset["lulc"] = dataset.lulc.copy(
            data=np.array([0, *legend.codes], dtype="uint8")[dataset.lulc % 3]
        )
        dataset["lulc"].attrs = legend.attrs()
        return dataset

    return make


def read_by_gdal(path):
    """Category names, and the attribute table by the use of its columns."""
    library = gdal()
    dataset = library.GDALOpen(str(path).encode(), 0)
    # GDAL reads the file beside a TIFF with the place or the metadata, as every program asks
    # for first; category names alone do not make it look.
    library.GDALGetMetadataDomainList(dataset)
    band = library.GDALGetRasterBand(dataset, 1)
    pointer = library.GDALGetRasterCategoryNames(band)
    names = []
    while pointer and pointer[len(names)] is not None:
        names.append(pointer[len(names)].decode())
    rat = library.GDALGetDefaultRAT(band)
    if not rat:
        library.GDALClose(dataset)
        return names, None
    usages = {"value": 5, "name": 2, "red": 6, "green": 7, "blue": 8}
    columns = {use: library.GDALRATGetColOfUsage(rat, n) for use, n in usages.items()}
    rows = range(library.GDALRATGetRowCount(rat))
    table = {
        use: [library.GDALRATGetValueAsString(rat, row, column).decode() for row in rows]
        for use, column in columns.items()
    }
    order = range(library.GDALRATGetColumnCount(rat))
    table["columns"] = [library.GDALRATGetNameOfCol(rat, n).decode() for n in order]
    table["types"] = [library.GDALRATGetTypeOfCol(rat, n) for n in order]
    table["rows_of_values"] = [library.GDALRATGetRowOfValue(rat, float(v)) for v in table["value"]]
    table["is_thematic"] = library.GDALRATGetTableType(rat) == 0
    library.GDALClose(dataset)
    return names, table


def cleaned(legend):
    """Names as they come back: a Dataset's attributes are split at blanks."""
    return [name.replace("\x01", " ") for name in Legend.from_attrs(legend.attrs()).names]


@pytest.mark.parametrize("legend", [amazon13(), ODD], ids=["amazon13", "odd"])
def test_gdal_itself_reads_names_and_table(make_odd, tmp_path, legend):
    names, table = read_by_gdal(write_cog(make_odd(legend), tmp_path / "map.tif"))
    assert len(names) == max(legend.codes) + 1
    assert [names[code] for code in legend.codes] == cleaned(legend)
    assert names[0] == "No data"
    assert {n for i, n in enumerate(names) if i not in (0, *legend.codes)} <= {""}
    assert table["columns"] == ["Value", "Class_Name", "Red", "Green", "Blue"]
    assert table["types"] == [0, 2, 0, 0, 0]
    assert table["is_thematic"]
    assert table["value"] == [str(code) for code in legend.codes]
    assert table["name"] == cleaned(legend)
    assert table["rows_of_values"] == list(range(len(legend.codes)))
    colors = [
        tuple(map(int, rgb))
        for rgb in zip(table["red"], table["green"], table["blue"], strict=True)
    ]
    assert colors == [legend.rgb()[code] for code in legend.codes]


def test_gdal_counts_the_table_among_the_files_of_the_map(make_map, tmp_path):
    path = write_cog(make_map(), tmp_path / "map.tif")
    with rasterio.open(path) as file:
        assert sorted(map(str, file.files)) == [str(path), f"{path}.aux.xml"]


def test_a_map_with_another_legend_leaves_no_name_of_the_old_one(make_odd, tmp_path):
    write_cog(make_odd(amazon13()), tmp_path / "map.tif")
    write_cog(make_odd(), tmp_path / "map.tif", overwrite=True)
    names, table = read_by_gdal(tmp_path / "map.tif")
    assert set(names) == {"", "No data", *cleaned(ODD)}
    assert table["value"] == ["40", "7", "254"]
    assert amazon13().names[0] not in (tmp_path / "map.qml").read_text()


def test_statistics_of_the_old_raster_do_not_stay_beside_the_new_one(make_map, tmp_path):
    path = write_cog(make_map(), tmp_path / "map.tif", variable="confidence")
    statistics = path.with_name("map_confidence.tif.aux.xml")
    statistics.write_text("<PAMDataset><!-- QGIS keeps statistics here --></PAMDataset>")
    write_cog(make_map(seed=1), tmp_path / "map.tif", variable="confidence", overwrite=True)
    assert not statistics.exists()


@pytest.mark.parametrize("legend", [amazon13(), ODD], ids=["amazon13", "odd"])
def test_the_style_shows_each_class_in_the_legends_order(make_odd, tmp_path, legend):
    write_cog(make_odd(legend), tmp_path / "map.tif")
    renderer = ET.parse(tmp_path / "map.qml").find("pipe/rasterrenderer")
    assert (renderer.get("type"), renderer.get("band")) == ("paletted", "1")
    assert renderer.get("nodataColor") == ""
    entries = renderer.findall("colorPalette/paletteEntry")
    assert [int(e.get("value")) for e in entries] == legend.codes
    assert [e.get("label") for e in entries] == cleaned(legend)
    assert {e.get("alpha") for e in entries} == {"255"}
    colors = ["#{:02x}{:02x}{:02x}".format(*legend.rgb()[code]) for code in legend.codes]
    assert [e.get("color") for e in entries] == colors


@pytest.mark.parametrize("source", ["brazil_col8", "mapbiomas-legend-qgis_2024-09-13"])
def test_the_style_is_built_as_those_that_qgis_saved(source):
    """Every element and attribute of ours stands at the same place in QGIS' own."""
    found = list(LEGENDS.glob(f"*{source}.qml")) if LEGENDS.is_dir() else []
    if not found:
        pytest.skip("the MapBiomas styles are not beside the project")
    theirs, ours = ET.parse(found[0]).getroot(), ET.fromstring(class_style(amazon13()))

    def places(root):
        above = [(root.tag, root)]
        for path, element in above:
            above += [(f"{path}/{child.tag}", child) for child in element]
        return {(path, key) for path, element in above for key in (None, *element.attrib)}

    assert places(ours) <= places(theirs)
    assert len(places(ours)) > 20


def test_percent_is_drawn_from_0_to_100_and_not_as_three_colours():
    root = ET.fromstring(percent_style())
    renderer = root.find("pipe/rasterrenderer")
    assert (renderer.get("type"), renderer.get("grayBand")) == ("singlebandgray", "1")
    stretch = renderer.find("contrastEnhancement")
    assert (stretch.findtext("minValue"), stretch.findtext("maxValue")) == ("0", "100")
