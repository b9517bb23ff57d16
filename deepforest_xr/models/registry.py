"""The networks by name, and how to build one.

Listing costs nothing: torch is imported when a network is built. A new network is a file
in this folder and an entry in the table below.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from deepforest_xr.errors import ConfigError

if TYPE_CHECKING:
    from deepforest_xr.models.network import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """What is known of a network without building it."""

    name: str
    """Name for `build`."""

    family: str
    """File of this folder that defines it."""

    class_name: str
    """Its class in that file."""

    is_two_branch: bool = False
    """Called as ``model(s2, s1)`` instead of ``model(x)``."""

    s2_branches: tuple[str, ...] = ()
    """Values of ``s2_branch`` besides None."""

    stride: int = 32
    """Sides of an input, and shifts that leave the result alone, are multiples of it (pixels)."""

    halo: int
    """Margin in pixels with which the classes inside a tile are those of the whole image."""

    reach: int
    """Margin in pixels beyond which nothing has an influence at all: the receptive field."""

    block: int
    """Side in pixels of the blocks of a map, unless another one is asked for."""

    summary: str
    """One line for listings."""


# Halos: the least multiple of 32 with which >= 99.9 % of a tile's classes are the whole image's
# and < 1 % of the gradient of a pixel's logits (absolute values, summed) comes from outside.
# Measured with seeded random weights, BatchNorm statistics settled on the input, and random
# images with texture at 1, 4, 16 and 64 pixels; docs/receptive-fields.md has the numbers. Trained
# weights may need less: classes of random weights lie close together. A two-branch network has
# the halo of its Sentinel-2 branch; "released" reaches 192 pixels only.
# Blocks: 1024 where a forward of block and halo takes at most 7 GB by the count of `explain`, for
# any dataset; else the halo, the smallest block there is. Larger blocks repeat fewer pixels.
# Reaches follow from kernels and strides. tests/models/test_field.py and test_tiling.py hold both.
_ENTRIES = (
    ModelEntry(
        name="u-net",
        family="unet",
        class_name="UNet",
        halo=544,
        reach=768,
        block=1024,
        summary="U-Net with 6 x 6 kernels: small and fast",
    ),
    ModelEntry(
        name="deeplab",
        family="deeplab",
        class_name="DeepLab",
        halo=576,
        reach=608,
        block=576,
        summary="ResNet50 with three dilated branches at 1/8 of the size",
    ),
    ModelEntry(
        name="deepforest-1a",
        family="deepforest1",
        class_name="DeepForest1a",
        halo=256,
        reach=288,
        block=1024,
        summary="ResNet50 with one ConvLSTM over two scales",
    ),
    ModelEntry(
        name="deepforest-1b",
        family="deepforest1",
        class_name="DeepForest1b",
        halo=256,
        reach=288,
        block=1024,
        summary="ResNet50 with two ConvLSTMs over three scales",
    ),
    ModelEntry(
        name="deepforest-1c",
        family="deepforest1",
        class_name="DeepForest1c",
        halo=288,
        reach=320,
        block=1024,
        summary="DeepForest-1b with an atrous pyramid as its head",
    ),
    ModelEntry(
        name="deepforest-2a",
        family="deepforest2",
        class_name="DeepForest2a",
        is_two_branch=True,
        halo=544,
        reach=768,
        block=544,
        summary="ConvLSTM over Sentinel-1 months beside the U-Net, three heads in training",
    ),
    ModelEntry(
        name="deepforest-2b",
        family="deepforest2",
        class_name="DeepForest2b",
        is_two_branch=True,
        s2_branches=("released",),
        halo=256,
        reach=288,
        block=1024,
        summary="ConvLSTM over Sentinel-1 months beside DeepForest-1b, three heads in training",
    ),
)


def names() -> list[str]:
    """Names that `build` takes."""
    return [known.name for known in _ENTRIES]


def entry(name: str) -> ModelEntry:
    """Look a network up.

    Raises
    ------
    ConfigError
        If no network has this name.
    """
    for known in _ENTRIES:
        if known.name == name:
            return known
    close = get_close_matches(str(name).lower(), names(), n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"model {name!r} is unknown; there are {', '.join(names())}.{hint}")


def build(
    name: str,
    *,
    bands: int = 10,
    classes: int = 13,
    months: int | None = None,
    s2_branch: str | None = None,
) -> Network:
    """Build a network with random weights.

    Parameters
    ----------
    name : str
        One of `names`.
    bands : int
        Input channels: all of them for a one-branch network, Sentinel-2's for a two-branch one.
    classes : int
        Output channels.
    months : int, optional
        Length of the Sentinel-1 series; two-branch networks need it, the others refuse it.
    s2_branch : str, optional
        Variant of the Sentinel-2 branch ("released" in "deepforest-2b").

    Returns
    -------
    nn.Module, in training mode
        ``model(x)`` with x (n, bands, y, x) returns logits (n, classes, y, x). A two-branch
        network is called ``model(s2, s1)`` with s1 (n, months, 2, y, x) and returns three
        logits (s1, s2, fused) while it trains. Tensors are float32.

    Raises
    ------
    ConfigError
        If the name is unknown or an argument does not belong to the network.
    """
    known = entry(name)
    arguments = {"bands": bands, "classes": classes, "months": months, "s2_branch": s2_branch}
    _check_counts(arguments)
    _check_branches(known, arguments)
    used: dict[str, Any] = {"bands": bands, "classes": classes}
    if known.is_two_branch:
        used["months"] = months
    if known.s2_branches:
        used["s2_branch"] = s2_branch
    module = import_module(f"deepforest_xr.models.{known.family}")
    network: Network = getattr(module, known.class_name)(**used)
    network.model_name = name
    network.build_arguments = arguments
    return network


def _check_counts(arguments: dict[str, Any]) -> None:
    for key in ("bands", "classes", "months"):
        value = arguments[key]
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ConfigError(f"{key}={value!r} is not a positive whole number.")


def _check_branches(known: ModelEntry, arguments: dict[str, Any]) -> None:
    months, s2_branch = arguments["months"], arguments["s2_branch"]
    if known.is_two_branch and months is None:
        raise ConfigError(f"{known.name} needs months=, the length of its Sentinel-1 series.")
    if not known.is_two_branch and months is not None:
        raise ConfigError(
            f"{known.name} has one branch and takes no months={months}: count the Sentinel-1 "
            "channels in bands (2 a month)."
        )
    if s2_branch is not None and s2_branch not in known.s2_branches:
        raise ConfigError(
            f"{known.name} has no s2_branch={s2_branch!r}; there are {(None, *known.s2_branches)}."
        )
