"""Attributes of the target profile: Zarr conventions (multiscales, spatial, proj, all v0.1) and CF.

The only module that knows the conventions' strings: they change together when the conventions reach v1.
Sources: zarr-conventions/{multiscales,spatial,proj} at tag v0.1; CF 1.11 chapters 4 and 5.
"""

import math
import re
from collections.abc import Mapping, Set
from typing import Any

from zarrmill.core.grid import level_transform
from zarrmill.model import Grid

_RAW = "https://raw.githubusercontent.com/zarr-conventions/{name}/refs/tags/v0.1/schema.json"
_SPEC = "https://github.com/zarr-conventions/{name}/blob/v0.1/README.md"


def _declaration(name: str, uuid: str, description: str) -> dict[str, str]:
    return {
        "uuid": uuid,
        "schema_url": _RAW.format(name=name),
        "spec_url": _SPEC.format(name=name),
        "name": name,
        "description": description,
    }


MULTISCALES = _declaration("multiscales", "d35379db-88df-4056-af3a-620245f8e347", "Multiscale layout of zarr datasets")
SPATIAL = _declaration("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information")
PROJ = _declaration("proj", "f17cb550-5864-4468-aeb7-f3180cfb622f", "Coordinate reference system information for geospatial data")

SCL_MEANINGS = (
    "no_data saturated_or_defective dark_area_pixels cloud_shadows vegetation not_vegetated water unclassified "
    "cloud_medium_probability cloud_high_probability thin_cirrus snow"
)
"""Names of the Sentinel-2 scene classes 0 to 11 (Sen2Cor)."""

STALE = frozenset(
    {
        "_ARRAY_DIMENSIONS",
        "_eopf_attrs",
        "_FillValue",
        "coordinates",
        "dimensions",
        "dtype",
        "eopf_is_masked",
        "eopf_target_dtype",
        "fill_value",
        "grid_mapping",
        "valid_max",
        "valid_min",
    }
)
"""Attributes of source arrays that describe the source's encoding and would be wrong in the target."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def level_attributes(grid: Grid) -> dict[str, Any]:
    """Return the attributes of a group whose arrays share ``grid``."""
    return {
        "zarr_conventions": [SPATIAL, PROJ],
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": list(grid.transform),
        "spatial:shape": list(grid.shape),
        "spatial:bbox": list(grid.bbox),
        "spatial:registration": "pixel",
        "proj:code": grid.crs,
    }


def multiscales_attributes(native: Grid, levels: Mapping[str, int], method: str, made: Set[str]) -> dict[str, Any]:
    """Return the attributes of the group that holds the levels.

    Args: native: grid of the finest level; levels: group name to factor from the finest, fine to coarse, the first is 1;
    method: how levels are computed; made: levels that hold a computed array, the others are the producer's own.
    Every level names the finest one as its parent, because that is what it is computed from. How the producer made its own
    levels is not known, so nothing is said of it; the group states a method when it holds for every coarser level.
    """
    finest = next(iter(levels))
    layout = []
    for name, factor in levels.items():
        height, width = native.shape
        entry: dict[str, Any] = {
            "asset": name,
            "transform": {"scale": [float(factor)] * 2, "translation": [0.0, 0.0]},
            "spatial:shape": [height // factor, width // factor],
            "spatial:transform": list(level_transform(native.transform, factor)),
        }
        if factor > 1:
            entry |= {"derived_from": finest}
        if name in made:
            entry |= {"resampling_method": method}
        layout.append(entry)
    everywhere = {"resampling_method": method} if made >= levels.keys() - {finest} else {}
    return {
        "zarr_conventions": [MULTISCALES, SPATIAL, PROJ],
        "multiscales": {"layout": layout, **everywhere},
        "spatial:dimensions": ["y", "x"],
        "spatial:bbox": list(native.bbox),
        "proj:code": native.crs,
    }


def root_attributes(native: Grid) -> dict[str, Any]:
    """Return the spatial attributes of the store's root: its extent in degrees."""
    from pyproj import Transformer

    west, south, east, north = Transformer.from_crs(native.crs, "EPSG:4326", always_xy=True).transform_bounds(*native.bbox)
    return {
        "zarr_conventions": [SPATIAL, PROJ],
        "spatial:dimensions": ["y", "x"],
        "spatial:bbox": [round(value, 7) for value in (west, south, east, north)],
        "proj:code": "EPSG:4326",
    }


def coordinate_attributes(axis: str, crs: str = "") -> dict[str, str]:
    """Return the CF attributes of the ``x`` or ``y`` array of a grid in ``crs``; only EPSG:4326 is in degrees."""
    if crs == "EPSG:4326":
        name, units = {"x": ("longitude", "degrees_east"), "y": ("latitude", "degrees_north")}[axis]
        return {"standard_name": name, "units": units, "long_name": name, "axis": axis.upper()}
    return {
        "standard_name": f"projection_{axis}_coordinate",
        "units": "m",
        "long_name": f"{axis} coordinate of projection",
        "axis": axis.upper(),
    }


def grid_mapping_attributes(grid: Grid) -> dict[str, Any]:
    """Return the attributes of the scalar ``spatial_ref`` array: CF grid mapping, and what GDAL and rioxarray look for."""
    from pyproj import CRS

    a, b, c, d, e, f = grid.transform
    attributes = CRS.from_user_input(grid.crs).to_cf()
    return {**attributes, "spatial_ref": attributes["crs_wkt"], "GeoTransform": f"{c} {a} {b} {f} {d} {e}"}


def carried_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a source array's attributes without those that describe the source's own encoding or grid."""
    kept = {
        key: value
        for key, value in attributes.items()
        if key not in STALE and not key.startswith(("proj:", "spatial:")) and key not in ("zarr_conventions", "multiscales")
    }
    if kept.get("units") == "digital_counts":  # no unit that UDUNITS knows, and said of the source's encoding
        del kept["units"]
    carried: dict[str, Any] = strict(kept)
    return carried


def named_coordinates(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Return the CF attribute of an array that names its auxiliary coordinates, e.g. ``band``; empty where there is none."""
    named = attributes.get("coordinates")
    return {"coordinates": named} if isinstance(named, str) else {}


def reflectance_attributes(attributes: Mapping[str, Any], standard_name: str) -> dict[str, Any]:
    """Return the CF attributes of a reflectance array; scale and offset are the source's own."""
    return {**carried_attributes(attributes), "_FillValue": 0, "units": "1", "standard_name": standard_name}


def class_attributes(path: str, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return flags that the source leaves out: the scene classes of ``scl``; nothing when ``stated`` attributes have flags."""
    if {"flag_values", "flag_meanings"} & stated.keys():
        return {}
    if path.startswith("conditions/mask/l2a_classification/") and path.endswith("/scl"):
        return {"flag_values": list(range(12)), "flag_meanings": SCL_MEANINGS, "long_name": "scene classification"}
    return {}


def strict(value: Any) -> Any:
    """Return ``value`` as strict JSON in UTF-8: numbers that are not finite become null, halves of surrogates U+FFFD."""
    if isinstance(value, str):
        return value if value.isascii() else _SURROGATE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {strict(str(key)): strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [strict(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
