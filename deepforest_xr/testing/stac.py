"""STAC items of simulated scenes, field by field as Planetary Computer publishes them.

Sentinel-2 items carry `proj:epsg` in the properties and box, shape and transform with
each asset, no `raster:bands` and so no declared offset; Sentinel-1 items carry all of
`proj` in the properties and `raster:bands` with each asset. Nothing points to the real
catalogue: an item says in its id, its properties and its collection that it is simulated.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.testing import weather

if TYPE_CHECKING:
    from deepforest_xr.testing.tiles import Tile

Json = dict[str, Any]

COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_EXTENSIONS = "https://stac-extensions.github.io/{}/schema.json"

# Resolution (m), common name, title, centre wavelength and width (um).
S2_ASSETS: dict[str, tuple[int, str | None, str, float, float]] = {
    "B01": (60, "coastal", "Band 1 - Coastal aerosol", 0.443, 0.027),
    "B02": (10, "blue", "Band 2 - Blue", 0.49, 0.098),
    "B03": (10, "green", "Band 3 - Green", 0.56, 0.045),
    "B04": (10, "red", "Band 4 - Red", 0.665, 0.038),
    "B05": (20, "rededge", "Band 5 - Vegetation red edge 1", 0.704, 0.019),
    "B06": (20, "rededge", "Band 6 - Vegetation red edge 2", 0.74, 0.018),
    "B07": (20, "rededge", "Band 7 - Vegetation red edge 3", 0.783, 0.028),
    "B08": (10, "nir", "Band 8 - NIR", 0.842, 0.145),
    "B09": (60, None, "Band 9 - Water vapor", 0.945, 0.026),
    "B11": (20, "swir16", "Band 11 - SWIR (1.6)", 1.61, 0.143),
    "B12": (20, "swir22", "Band 12 - SWIR (2.2)", 2.19, 0.242),
    "B8A": (20, "rededge", "Band 8A - Vegetation red edge 4", 0.865, 0.033),
}
S1_TITLES = {
    "vh": ("VH: vertical transmit, horizontal receive", "horizontal"),
    "vv": ("VV: vertical transmit, vertical receive", "vertical"),
}
_SCL_SHARES = {
    "s2:water_percentage": weather.WATER,
    "s2:vegetation_percentage": weather.VEGETATION,
    "s2:thin_cirrus_percentage": weather.CIRRUS,
    "s2:cloud_shadow_percentage": weather.SHADOW,
    "s2:unclassified_percentage": weather.UNCLASSIFIED,
    "s2:dark_features_percentage": weather.DARK,
    "s2:not_vegetated_percentage": weather.NOT_VEGETATED,
    "s2:high_proba_clouds_percentage": weather.HIGH,
    "s2:medium_proba_clouds_percentage": weather.MEDIUM,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class S2Pass:
    """One granule of one Sentinel-2 date."""

    when: datetime
    """Start of the datatake, UTC."""

    satellite: str
    """``S2A`` or ``S2B``."""

    tile: str
    """MGRS-like square, without the leading T."""

    baseline: str
    """Processing baseline, such as ``02.12``: from 04.00 on numbers carry + 1000."""

    @property
    def made(self) -> datetime:
        """When the product was made: the older baseline two years later, the newer five."""
        return self.when + timedelta(days=700 if self.baseline < "04.00" else 1800, hours=5)

    @property
    def offset(self) -> int:
        """What the baseline adds to every digital number."""
        return 0 if self.baseline < "04.00" else 1000

    def name(self, *, baseline: bool = False) -> str:
        """Product name; the item id of Planetary Computer leaves the baseline out."""
        parts = [self.satellite, "MSIL2A", f"{self.when:%Y%m%dT%H%M%S}"]
        parts += [f"N{self.baseline.replace('.', '')}"] if baseline else []
        parts += ["R067", f"T{self.tile}", f"{self.made:%Y%m%dT%H%M%S}"]
        return "SIM_" + "_".join(parts)


def s2_item(granule: S2Pass, tile: Tile, scl: np.ndarray) -> Json:
    """Build the item of a granule whose files lie in a folder of its name.

    Parameters
    ----------
    granule : S2Pass
    tile : Tile
    scl : ndarray[uint8], dims (y, x)
        Scene classification at 20 m, the source of `eo:cloud_cover`.
    """
    assets = {key: _s2_asset(granule, key, tile) for key in (*S2_ASSETS, "SCL")}
    extensions = ("eo/v1.0.0", "sat/v1.0.0", "projection/v1.1.0")
    return _item(
        granule.name(),
        "sentinel-2-l2a",
        tile,
        _s2_properties(granule, tile, scl),
        assets,
        extensions,
    )


def _s2_properties(granule: S2Pass, tile: Tile, scl: np.ndarray) -> Json:
    day = granule.when.timetuple().tm_yday
    orbit = 10_000 + (granule.when - datetime(2017, 1, 1, tzinfo=granule.when.tzinfo)).days * 14
    made, start = f"{granule.made:%Y%m%dT%H%M%S}", f"{granule.when:%Y%m%dT%H%M%S}"
    level = f"N{granule.baseline}"
    zenith, azimuth = weather.sun(day)
    return {
        "datetime": _iso(granule.when),
        "platform": f"Sentinel-{granule.satellite[1:]}",
        "proj:epsg": tile.epsg,
        "instruments": ["msi"],
        "s2:mgrs_tile": tile.name,
        "constellation": "Sentinel 2",
        "s2:granule_id": f"SIM_{granule.satellite}_OPER_MSI_L2A_TL_SIMU_{made}_A{orbit:06d}"
        f"_T{tile.name}_{level}",
        **_scl_percentages(scl),
        "s2:datatake_id": f"G{granule.satellite}_{start}_{orbit:06d}_{level}",
        "s2:product_uri": f"{granule.name(baseline=True)}.SAFE",
        "s2:datastrip_id": f"SIM_{granule.satellite}_OPER_MSI_L2A_DS_SIMU_{made}_S{start}_{level}",
        "s2:product_type": "S2MSI2A",
        "sat:orbit_state": "descending",
        "s2:datatake_type": "INS-NOBS",
        "s2:generation_time": _iso(granule.made),
        "sat:relative_orbit": 67,
        "s2:mean_solar_zenith": zenith,
        "s2:mean_solar_azimuth": azimuth,
        "s2:processing_baseline": granule.baseline,
        "s2:snow_ice_percentage": 0.0,
        "s2:degraded_msi_data_percentage": 0.0,
        "s2:reflectance_conversion_factor": 1 + 0.0334 * float(np.cos(0.0172 * (day - 3))),
        "s2:saturated_defective_pixel_percentage": 0.0,
    }


def _scl_percentages(scl: np.ndarray) -> Json:
    """Shares of the classes among valid pixels, percent, and of no data among all."""
    counts = np.bincount(scl.ravel(), minlength=12)
    valid = max(int(counts[1:].sum()), 1)
    cloudy = counts[[weather.MEDIUM, weather.HIGH, weather.CIRRUS]].sum()
    shares = {key: round(100 * int(counts[code]) / valid, 6) for key, code in _SCL_SHARES.items()}
    return {
        "eo:cloud_cover": round(100 * int(cloudy) / valid, 6),
        "s2:nodata_pixel_percentage": round(100 * int(counts[0]) / scl.size, 6),
        **shares,
    }


def _s2_asset(granule: S2Pass, key: str, tile: Tile) -> Json:
    meters = S2_ASSETS[key][0] if key in S2_ASSETS else 20
    left, bottom, right, top = tile.grid.bounds
    rows, cols = tile.grid.shape
    asset = {
        "href": f"./{granule.name()}/{key}.tif",
        "proj:bbox": [left, bottom, right, top],
        "proj:shape": [rows * 10 // meters, cols * 10 // meters],
        "proj:transform": [float(meters), 0.0, left, 0.0, -float(meters), top],
        "gsd": float(meters),
        "type": COG,
        "roles": ["data"],
    }
    if key == "SCL":
        # Spelt as Planetary Computer spells it.
        return asset | {"title": "Scene classfication map (SCL)"}
    _, common, title, wavelength, width = S2_ASSETS[key]
    band = {"name": key} | ({"common_name": common} if common else {}) | {"description": title}
    spectrum = {"center_wavelength": wavelength, "full_width_half_max": width}
    return asset | {"title": f"{title} - {meters}m", "eo:bands": [band | spectrum]}


@dataclass(frozen=True, slots=True, kw_only=True)
class S1Pass:
    """One Sentinel-1 acquisition."""

    when: datetime
    """Start of sensing, UTC."""

    satellite: str
    """``S1A`` or ``S1B``."""

    orbit: str
    """``ascending`` or ``descending``."""

    looks: float
    """Equivalent number of looks."""

    @property
    def absolute_orbit(self) -> int:
        """Number of the revolution: one every 98.7 minutes, counted as if from 2014."""
        flown = self.when - datetime(2014, 4, 3, tzinfo=self.when.tzinfo)
        return int(flown.total_seconds() / 60 / 98.74)

    @property
    def name(self) -> str:
        """Item id, as Planetary Computer derives it from the product."""
        stop = self.when + timedelta(seconds=25)
        return (
            f"SIM_{self.satellite}_IW_GRDH_1SDV_{self.when:%Y%m%dT%H%M%S}_{stop:%Y%m%dT%H%M%S}"
            f"_{self.absolute_orbit:06d}_{self.absolute_orbit * 7 % 0xFFFFFF:06X}_rtc"
        )


def s1_item(scene: S1Pass, tile: Tile, files: dict[str, tuple[int, str]]) -> Json:
    """Build the item of an acquisition whose files lie in a folder of its name.

    Parameters
    ----------
    scene : S1Pass
    tile : Tile
    files : dict
        Asset key to size in bytes and MD5 of its file.
    """
    assets = {}
    for key, (size, md5) in files.items():
        title, received = S1_TITLES[key]
        assets[key] = {
            "href": f"./{scene.name}/{key}.tif",
            "file:size": size,
            "file:checksum": md5,
            "type": COG,
            "roles": ["data"],
            "title": title,
            "description": "Simulated terrain-corrected gamma naught values of signal transmitted "
            f"with vertical polarization and received with {received} polarization.",
            "raster:bands": [
                {"nodata": -32768, "data_type": "float32", "spatial_resolution": 10.0}
            ],
        }
    extensions = ("sar/v1.0.0", "sat/v1.0.0", "projection/v1.1.0", "file/v2.0.0", "raster/v1.1.0")
    return _item(
        scene.name, "sentinel-1-rtc", tile, _s1_properties(scene, tile), assets, extensions
    )


def _s1_properties(scene: S1Pass, tile: Tile) -> Json:
    middle, stop = (scene.when + timedelta(seconds=s) for s in (12.5, 25))
    left, bottom, right, top = tile.grid.bounds
    rows, cols = tile.grid.shape
    first = scene.satellite == "S1A"
    return {
        "datetime": _iso(middle),
        "platform": f"SENTINEL-{scene.satellite[1:]}",
        "s1:shape": [cols, rows],
        "proj:bbox": [left, bottom, right, top],
        "proj:epsg": tile.epsg,
        "proj:shape": [rows, cols],
        "end_datetime": f"{stop:%Y-%m-%d %H:%M:%S.%f}+00:00",
        "constellation": "Sentinel-1",
        "s1:resolution": "high",
        "proj:transform": [10.0, 0.0, left, 0.0, -10.0, top, 0.0, 0.0, 1.0],
        "s1:datatake_id": str(scene.absolute_orbit * 7),
        "start_datetime": f"{scene.when:%Y-%m-%d %H:%M:%S.%f}+00:00",
        "s1:orbit_source": "RESORB",
        "s1:slice_number": "1",
        "s1:total_slices": "1",
        "sar:looks_range": 5,
        "sat:orbit_state": scene.orbit,
        "sar:product_type": "GRD",
        "sar:looks_azimuth": 1,
        "sar:polarizations": ["VV", "VH"],
        "sar:frequency_band": "C",
        "sat:absolute_orbit": scene.absolute_orbit,
        "sat:relative_orbit": 105 if scene.orbit == "ascending" else 39,
        "s1:processing_level": "1",
        "sar:instrument_mode": "IW",
        "sar:center_frequency": 5.405,
        "sar:resolution_range": 20,
        "s1:product_timeliness": "Fast-24h",
        "sar:resolution_azimuth": 22,
        "sar:pixel_spacing_range": 10,
        "sar:observation_direction": "right",
        "sar:pixel_spacing_azimuth": 10,
        "sar:looks_equivalent_number": scene.looks,
        "s1:instrument_configuration_ID": "6",
        "sat:platform_international_designator": "2014-016A" if first else "2016-025A",
    }


def _item(
    name: str,
    collection: str,
    tile: Tile,
    properties: Json,
    assets: Json,
    extensions: tuple[str, ...],
) -> Json:
    ring = tile.footprint()
    lon, lat = zip(*ring, strict=True)
    link = {"rel": "collection", "type": "application/json", "href": f"./{collection}.json"}
    return {
        "id": name,
        "bbox": [min(lon), min(lat), max(lon), max(lat)],
        "type": "Feature",
        "links": [link],
        "assets": assets,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "collection": collection,
        "properties": properties | {"deepforest:simulated": True},
        "stac_extensions": [_EXTENSIONS.format(part) for part in extensions],
        "stac_version": "1.0.0",
    }


def collection(name: str, items: list[Json], *, seed: int) -> Json:
    """Build the collection that the items of `name` belong to."""
    boxes = np.array([i["bbox"] for i in items])
    times = sorted(i["properties"]["datetime"] for i in items)
    bbox = [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]
    return {
        "type": "Collection",
        "id": name,
        "title": f"Simulated {name}",
        "description": description(seed) + " Fields and files follow the collection of this "
        "name on Planetary Computer.",
        "license": "CC0-1.0",
        "links": [],
        "extent": {
            "spatial": {"bbox": [bbox]},
            "temporal": {"interval": [[times[0], times[-1]]]},
        },
        "stac_version": "1.0.0",
        "stac_extensions": [],
    }


def description(seed: int) -> str:
    """Say what these data are; stands in every file and collection."""
    return f"simulated by deepforest_xr, seed {seed}: no satellite has measured any of it."


def _iso(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%S.%f}Z"
