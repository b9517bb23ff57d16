"""Importing the package costs nothing, and gives the names it promises."""

import subprocess
import sys
from importlib import import_module

import pytest

import deepforest_xr as dfx

NAMES = {
    "ChipSpec", "Grid", "Legend", "TrainSettings", "accuracy", "align_labels", "assess", "basin",
    "catalogs", "classify", "coverage", "errors", "explain", "kube_cluster", "labels", "maps",
    "models", "open_chips", "open_cube", "plan_basin", "postprocess", "read_items", "run_basin",
    "search", "testing", "train", "write_chips", "write_cog", "write_items", "write_zarr",
}  # fmt: skip

HEAVY = ("torch", "rasterio", "stackstac", "matplotlib", "lightning", "xarray", "dask")

IMPORT = f"""
import sys, time
start = time.perf_counter()
import deepforest_xr
print(time.perf_counter() - start)
print(*[name for name in {HEAVY!r} if name in sys.modules])
"""


def fresh(code):
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split("\n")


def test_the_import_is_light():
    answers = [fresh(IMPORT) for _ in range(3)]
    assert min(float(answer[0]) for answer in answers) < 0.5
    assert [answer[1] for answer in answers] == ["", "", ""]


def test_public_names_are_these():
    assert set(dfx.__all__) == NAMES
    assert dfx.__all__ == sorted(dfx.__all__)
    assert dir(dfx) == sorted(NAMES)
    assert len(NAMES) <= 30


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_public_name_is_there(name):
    assert getattr(dfx, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'clasify'"):
        _ = dfx.clasify


@pytest.mark.parametrize(
    "code",
    [
        "import deepforest_xr.classify; import deepforest_xr as d",
        "import deepforest_xr as d; d.classify; import deepforest_xr.classify",
        "import deepforest_xr as d; import deepforest_xr.classify; d.classify",
        "from deepforest_xr.classify import STRIDE; import deepforest_xr as d",
        "import deepforest_xr.demo; import deepforest_xr as d",
        "import sys; __import__('deepforest_xr.classify'); d = sys.modules['deepforest_xr']",
    ],
)
def test_classify_is_the_function_in_whatever_order_things_are_imported(code):
    shown = (
        "; from deepforest_xr import classify; from deepforest_xr.classify import classify as c;"
        "print(type(d.classify).__name__, d.classify is classify is c)"
    )
    assert fresh(code + shown)[0] == "function True"


def test_functions_are_the_modules_own():
    for name, module in dfx._MODULE_OF.items():
        own = getattr(import_module(f"deepforest_xr.{module}"), name)
        assert own is getattr(dfx, name)
