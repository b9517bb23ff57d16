"""What a basin is to be: area, period, model, grid; read from TOML, checked when made."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepforest_xr.errors import ConfigError
from deepforest_xr.grid import parse_crs
from deepforest_xr.models.network import STRIDE

if TYPE_CHECKING:
    from collections.abc import Mapping

PRICES = ("seconds_per_megapixel", "price_per_hour", "currency")
COARSEST_DEGREES = 0.1
"""A pixel of a geographic grid; above it, metres were meant."""

PLACES = ("aoi", "source", "model", "out")
PATHS = ("aoi", "model")
CUBE_OPTIONS = (
    "scl_masked",
    "scl_dilation",
    "composite",
    "orbit",
    "speckle_filter",
    "looks",
    "mask_border_noise",
    "resampling",
    "engine",
    "on_error",
)
"""What `open_cube` takes as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BasinConfig:
    """A basin: everything that decides its pixels, where they go, and what they may cost."""

    aoi: str
    """GeoJSON or GeoPackage file of the area; of several layers
    ``file.gpkg|layername=amazon``."""

    source: str
    """"planetary-computer", another catalog's name or URL, or items on disk."""

    model: str
    """Folder of the checkpoint."""

    out: str
    """Folder or URL (``s3://bucket/prefix``) of the basin."""

    year: int | None = None
    """A whole year of scenes; or `datetime`."""

    datetime: str | None = None
    """Period of the scenes, as ``"2018-06-01/2018-08-31"``."""

    max_cloud_cover: float | None = None
    """Percent; Sentinel-2 scenes above it are left out."""

    dataset: str | None = None
    """As in `open_cube`; default: the months of the model."""

    months: tuple[int, ...] | None = None
    """Other months of Sentinel-1 instead of a dataset."""

    crs: str = "ESRI:102033"
    """Of the map; the default is South America Albers, equal in area."""

    resolution: float = 10.0
    """Pixel size in units of the CRS."""

    tile: int = 10_240
    """Side of a tile in pixels, a multiple of 32; a tile is a shard is a task."""

    block: int | None = None
    """Side of a block of the classification in pixels, a multiple of 32; default: the
    network's, which the plan writes down."""

    halo: int | None = None
    """Pixels around a block and around a tile, a multiple of 32; default: as for blocks."""

    device: str = "auto"
    """auto, cpu or cuda."""

    mask: bool = False
    """Whether pixels outside of the area are 0; else tiles are classified whole."""

    scl_masked: tuple[int, ...] | None = None
    """As in `open_cube`, as are all up to `on_error`; None is its default."""

    scl_dilation: int | None = None
    composite: str | None = None
    orbit: str | None = None
    speckle_filter: str | None = None
    looks: float | None = None
    mask_border_noise: bool | None = None
    resampling: str | None = None
    engine: str | None = None
    on_error: str | None = None

    seconds_per_megapixel: float | None = field(default=None, compare=False)
    """Measured, of one worker: seconds to read, classify and write 10^6 pixels."""

    price_per_hour: float | None = field(default=None, compare=False)
    """Of one worker, in `currency`."""

    currency: str = field(default="USD", compare=False)
    """Of the price."""

    def __post_init__(self) -> None:
        for name in ("aoi", "source", "model", "out"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty: a basin needs it.")
        if (self.year is None) == (self.datetime is None):
            raise ConfigError("give either year or datetime: the period of the scenes.")
        if self.dataset is not None and self.months is not None:
            raise ConfigError("dataset and months were both given: a dataset fixes its months.")
        for name, value, least in (
            ("tile", self.tile, 1),
            ("block", self.block, 1),
            ("halo", self.halo, 0),
        ):
            if value is not None:
                _require_multiple(name, value, least)
        if self.device not in {"auto", "cpu", "cuda"}:
            raise ConfigError(f"device={self.device!r}; expected 'auto', 'cpu' or 'cuda'.")
        for name in ("resolution", *PRICES[:2]):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name}={value} is not positive.")
        _require_degrees(self.crs, self.resolution)

    @classmethod
    def from_toml(cls, path: str | Path) -> BasinConfig:
        """Read a file of these keys; paths in it count from its folder.

        Raises
        ------
        ConfigError
            If it is not TOML, or a key is unknown, missing or of the wrong type.
        """
        path = Path(path)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{str(path)!r} is not TOML: {error}.") from error
        for name in PATHS:
            if isinstance(values.get(name), str):
                values[name] = str(path.parent / values[name])
        for name in ("source", "out"):
            value = values.get(name)
            if not isinstance(value, str) or "://" in value:
                continue
            # A catalog's name is no path; items on disk are there.
            if name == "out" or (path.parent / value).exists():
                values[name] = str(path.parent / value)
        return cls.from_mapping(values, where=str(path))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, where: str = "basin") -> BasinConfig:
        """Make it from plain values, as JSON and TOML have them.

        Raises
        ------
        ConfigError
            If a key is unknown, missing or of the wrong type.
        """
        known = {f.name: str(f.type) for f in fields(cls)}
        for name, value in values.items():
            if name not in known:
                near = get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigError(f"{where}: unknown key {name!r}{hint} Known: {', '.join(known)}.")
            if not _fits(value, known[name]):
                raise ConfigError(f"{where}: {name}={value!r}; expected {known[name]}.")
        if missing := [n for n in ("aoi", "source", "model", "out") if n not in values]:
            raise ConfigError(f"{where}: {missing[0]!r} is missing: a basin needs it.")
        lists = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
        return cls(**{**values, **lists})

    def to_mapping(self) -> dict[str, Any]:
        """Give plain values, for JSON; what was not given is left out."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None
        }

    def deciding(self) -> dict[str, Any]:
        """Give what decides pixels: neither places nor prices."""
        left_out = {*PRICES, *PLACES}
        return {k: v for k, v in self.to_mapping().items() if k not in left_out}

    def cube_options(self) -> dict[str, Any]:
        """Give what is passed to `open_cube` as it is."""
        return {k: v for k in CUBE_OPTIONS if (v := getattr(self, k)) is not None}


def _require_degrees(crs: str, resolution: float) -> None:
    if parse_crs(crs).is_geographic and resolution > COARSEST_DEGREES:
        raise ConfigError(
            f"resolution={resolution:g} is in degrees with crs={crs!r}: give about 0.00009 for "
            "10 m."
        )


def _require_multiple(name: str, value: int, least: int) -> None:
    if value < least or value % STRIDE:
        raise ConfigError(
            f"{name}={value} is not a multiple of {STRIDE} pixels, the network's stride, of at "
            f"least {least}."
        )


def _fits(value: Any, kind: str) -> bool:
    """Tell whether a TOML value is of the type a field is annotated with."""
    kind = kind.removesuffix(" | None")
    if kind == "tuple[int, ...]":
        items = value if isinstance(value, list | tuple) else [None]
        return all(isinstance(i, int) and not isinstance(i, bool) for i in items)
    if isinstance(value, bool) or kind == "bool":
        return isinstance(value, bool) and kind == "bool"
    expected = {"str": (str,), "int": (int,), "float": (int, float)}[kind]
    return isinstance(value, expected)
