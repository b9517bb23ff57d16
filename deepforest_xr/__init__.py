"""Land use and land cover of the Amazon from Sentinel-1 and Sentinel-2.

    import deepforest_xr as dfx

    items  = dfx.search("planetary-computer", bbox=(-55.2, -8.6, -55.0, -8.4), year=2018)
    cube   = dfx.open_cube(items, grid=grid, dataset="S1TsS2_7")      # lazy
    labels = dfx.align_labels("mapbiomas.tif", like=cube, collection=8)
    chips  = dfx.write_chips(cube, labels, "chips.zarr")
    model  = dfx.train(chips, model="deepforest-1b", out="runs/df1b")
    lulc   = dfx.classify(cube, model)                                # lazy
    dfx.write_zarr(lulc, "map.zarr")

Importing this package loads none of them: each name below is imported when first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepforest_xr import (
        accuracy,
        basin,
        catalogs,
        errors,
        labels,
        maps,
        models,
        postprocess,
        testing,
    )
    from deepforest_xr.accuracy import assess
    from deepforest_xr.basin import plan_basin, run_basin
    from deepforest_xr.catalogs import read_items, search, write_items
    from deepforest_xr.chips import ChipSpec, open_chips, write_chips
    from deepforest_xr.classify import classify, explain
    from deepforest_xr.coverage import coverage
    from deepforest_xr.cube import open_cube
    from deepforest_xr.grid import Grid
    from deepforest_xr.k8s import kube_cluster
    from deepforest_xr.labels import align_labels
    from deepforest_xr.legend import Legend
    from deepforest_xr.maps import (
        write_cog,
        write_zarr,
    )
    from deepforest_xr.training import TrainSettings, train

_MODULE_OF = {
    "ChipSpec": "chips",
    "Grid": "grid",
    "Legend": "legend",
    "TrainSettings": "training",
    "align_labels": "labels",
    "assess": "accuracy",
    "classify": "classify",
    "coverage": "coverage",
    "explain": "classify",
    "kube_cluster": "k8s",
    "open_chips": "chips",
    "open_cube": "cube",
    "plan_basin": "basin",
    "read_items": "catalogs",
    "run_basin": "basin",
    "search": "catalogs",
    "train": "training",
    "write_chips": "chips",
    "write_cog": "maps",
    "write_items": "catalogs",
    "write_zarr": "maps",
}
_MODULES = (
    "accuracy",
    "basin",
    "catalogs",
    "errors",
    "labels",
    "maps",
    "models",
    "postprocess",
    "testing",
)

__all__ = [
    "ChipSpec",
    "Grid",
    "Legend",
    "TrainSettings",
    "accuracy",
    "align_labels",
    "assess",
    "basin",
    "catalogs",
    "classify",
    "coverage",
    "errors",
    "explain",
    "kube_cluster",
    "labels",
    "maps",
    "models",
    "open_chips",
    "open_cube",
    "plan_basin",
    "postprocess",
    "read_items",
    "run_basin",
    "search",
    "testing",
    "train",
    "write_chips",
    "write_cog",
    "write_items",
    "write_zarr",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Where a module and its function share a name, the package's name is the function's.

    Python puts an imported submodule under its name into the package, so that
    `import deepforest_xr.classify` would hide the function for good.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _MODULE_OF.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
