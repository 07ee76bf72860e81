"""Assets of an item: groups of the store with their bands, and the files beside it."""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass

from zarrmill.core.bands import S2_BANDS, band_order
from zarrmill.core.store_facts import Array, Grid, Nodes, Pyramid, read_grid
from zarrmill.model import Json

ZARR = "application/vnd.zarr; version=3"
"""Media type of a Zarr v3 node."""
MULTISCALES = f"{ZARR}; profile=multiscales"
"""Media type of a group with levels."""

RGB = ("b04", "b03", "b02")
"""Bands of a true-colour picture."""


def main_asset(pyramid: Pyramid) -> str:
    """Return the key of the asset that is the multiscales group."""
    return "grd" if pyramid.polarisations else "reflectance"


def picture_bands(pyramid: Pyramid) -> tuple[str, str, str]:
    """Return red, green and blue of a picture; a radar image is grey, its first polarisation."""
    return (pyramid.polarisations[0],) * 3 if pyramid.polarisations else RGB


@dataclass(frozen=True, slots=True)
class Layer:
    """A family of groups beside the reflectance that users want to find."""

    key: str
    """Asset key before the pixel size."""
    path: str
    """Group that holds one group a pixel size (``r10m``, ...)."""
    array: str
    title: str


LAYERS = (
    Layer("SCL", "conditions/mask/l2a_classification", "scl", "Scene classification"),
    Layer("CLASSI", "conditions/mask/l1c_classification", "b00", "Opaque cloud, cirrus and snow mask (bit field)"),
    Layer("AOT", "quality/atmosphere", "aot", "Aerosol optical thickness"),
    Layer("WVP", "quality/atmosphere", "wvp", "Water vapour"),
    Layer("CLD", "quality/probability", "cld", "Cloud probability in percent"),
    Layer("SNW", "quality/probability", "snw", "Snow probability in percent"),
)
"""Layers that become assets when the store has them: each at its finest pixel size, and with its levels when it has overviews."""


@dataclass(frozen=True, slots=True)
class StoreHref:
    """Where the store is, as written into the item."""

    href: str
    """Published address of the store, absolute or relative to the item's file."""
    alternate: str = ""
    """``s3://`` address of the store when ``href`` is another one."""
    in_bucket: bool = False
    """Whether ``href`` itself is an ``s3://`` address."""

    def node(self, path: str) -> dict[str, Json]:
        """Return ``href`` of a node with its other addresses and storage."""
        suffix = f"/{path}" if path else ""
        fields: dict[str, Json] = {"href": f"{self.href}{suffix}"}
        if self.in_bucket:
            fields["storage:refs"] = ["store"]
        if self.alternate:
            fields["alternate"] = {"s3": {"href": f"{self.alternate}{suffix}", "storage:refs": ["store"]}}
        return fields


def store_assets(nodes: Nodes, pyramid: Pyramid, place: StoreHref, consolidated: Set[str]) -> dict[str, Json]:
    """Return the assets that are groups of the store; ``consolidated`` names the groups of levels that have its metadata."""
    assets = {
        main_asset(pyramid): {
            **place.node(pyramid.path),
            "type": MULTISCALES,
            "title": _title(pyramid),
            "roles": ["data", "amplitude" if pyramid.polarisations else "reflectance"],
            "gsd": whole(pyramid.levels[0].size_m),
            "zarr:node_type": "group",
            "zarr:zarr_format": 3,
            "zarr:consolidated": pyramid.path in consolidated,
            **projection(pyramid.code, pyramid.levels[0].grid),
            "bands": pyramid_bands(pyramid),
        },
        "product": {
            **place.node(""),
            "type": ZARR,
            "title": "Whole product (store root)",
            "roles": ["data", "metadata"],
            "zarr:node_type": "group",
            "zarr:zarr_format": 3,
            "zarr:consolidated": True,
        },
    }
    for layer in LAYERS:
        assets.update(_layer_asset(nodes, layer, place, consolidated))
    return assets


def projection(code: str | None, grid: Grid) -> dict[str, Json]:
    """Return the projection fields of a grid, recomputed from shape and transform."""
    fields: dict[str, Json] = {
        "proj:bbox": list(grid.bbox),
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.transform),
    }
    return {"proj:code": code, **fields} if code else fields


def pyramid_bands(pyramid: Pyramid) -> list[Json]:
    """Return every band of the levels, in order of wavelength or polarisation, described on the finest level that holds it."""
    names = sorted({name for level in pyramid.levels for name in level.arrays}, key=band_order)
    bands = []
    for name in names:
        level = next(level for level in pyramid.levels if name in level.arrays)
        band: dict[str, Json] = {"name": name}
        known = S2_BANDS.get(name)
        if known:
            band["eo:common_name"] = known.common_name
            band["eo:center_wavelength"] = known.center_wavelength
            band["eo:full_width_half_max"] = known.full_width_half_max
            band["gsd"] = known.gsd_m
        if name in pyramid.polarisations:
            band["sar:polarizations"] = [name.upper()]
        band |= _values(level.arrays[name])
        band["raster:spatial_resolution"] = whole(level.size_m)
        band["proj:shape"], band["proj:transform"] = list(level.grid.shape), list(level.grid.transform)
        bands.append(band)
    return bands


def true_colour(bands: list[Json], rescale_dn: tuple[int, int]) -> dict[str, Json]:
    """Return the ``renders`` of a product, empty unless it has red, green and blue; ranges are stored values (DN)."""
    by_name = {band["name"]: band for band in bands}
    if not all(name in by_name for name in RGB):
        return {}
    red = by_name[RGB[0]]
    scale, offset = red.get("raster:scale"), red.get("raster:offset")
    shift = f" {'-' if offset < 0 else '+'} {abs(offset)}" if offset else ""
    how = "" if scale is None else f"; reflectance = DN * {scale}{shift}"
    render: dict[str, Json] = {
        "title": f"True colour (stored DN{how})",
        "assets": ["reflectance"],
        "rescale": [list(rescale_dn)] * 3,
        "expression": ";".join(RGB),
    }
    return {"true-colour": render if "nodata" not in red else {**render, "nodata": red["nodata"]}}


def grey(pyramid: Pyramid, bands: list[Json], rescale_dn: tuple[int, int]) -> dict[str, Json]:
    """Return the ``renders`` of a radar product: each polarisation in grey; empty for other products and for backscatter."""
    renders: dict[str, Json] = {}
    for band in bands:
        if band["name"] in pyramid.polarisations and band["data_type"] == "uint16":
            name = band["name"]
            render = {
                "title": f"{name.upper()} (stored DN)",
                "assets": ["grd"],
                "rescale": [list(rescale_dn)],
                "expression": name,
            }
            renders[name] = render if "nodata" not in band else {**render, "nodata": band["nodata"]}
    return renders


def whole(value: float) -> float | int:
    """Return an int when ``value`` is whole."""
    return int(value) if value == int(value) else value


def _values(array: Array) -> dict[str, Json]:
    """Return data type, nodata, unit, scale and offset; only what the array states."""
    attributes = array.attributes
    fields = {
        "data_type": array.data_type,
        "nodata": attributes.get("_FillValue", _class_nodata(attributes)),
        "unit": _unit(attributes.get("units")),
        "raster:scale": attributes.get("scale_factor"),
        "raster:offset": attributes.get("add_offset"),
    }
    return {key: value for key, value in fields.items() if value is not None}


def _unit(value: Json) -> str | None:
    """Return a unit as text, a number of units too (CF writes 1 of what has none); anything else is missing."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def _class_nodata(attributes: Mapping[str, Json]) -> Json:
    """Return the class that means no data, if the flags name one."""
    values, meanings = attributes.get("flag_values"), attributes.get("flag_meanings")
    if not isinstance(values, list) or not isinstance(meanings, str):
        return None
    return next((value for value, meaning in zip(values, meanings.split(), strict=False) if meaning.lower() == "no_data"), None)


def _title(pyramid: Pyramid) -> str:
    if pyramid.polarisations:
        name = str(pyramid.levels[0].arrays[pyramid.polarisations[0]].attributes.get("long_name", "amplitude")).rpartition(",")[0]
        return f"Radar image: {name or 'amplitude'} (multiscales group)"
    names = {str(array.attributes.get("standard_name", "")) for level in pyramid.levels for array in level.arrays.values()}
    kinds = {"surface_bidirectional_reflectance": "Surface", "toa_bidirectional_reflectance": "Top-of-atmosphere"}
    known = sorted(kinds[name] for name in names if name in kinds)
    return f"{known[0]} reflectance (multiscales group)" if len(known) == 1 else "Reflectance (multiscales group)"


def _layer_asset(nodes: Nodes, layer: Layer, place: StoreHref, consolidated: Set[str]) -> dict[str, Json]:
    sizes = {int(m[1]): m[0] for m in (re.fullmatch(r"r(\d+)m", name) for name in nodes.groups_under(layer.path)) if m}
    for size_m in sorted(sizes):
        path = f"{layer.path}/{sizes[size_m]}"
        array = nodes.arrays_of(path).get(layer.array)
        if array is None:
            continue
        attributes = nodes.attributes_of(path)
        code, grid = attributes.get("proj:code"), read_grid(attributes)
        fields = {
            **place.node(path),
            "type": ZARR,
            "title": f"{layer.title} (group, array {layer.array})",
            "roles": ["data"],
            "gsd": size_m,
            "zarr:node_type": "group",
            "zarr:zarr_format": 3,
            "zarr:consolidated": False,
            **(projection(code if isinstance(code, str) else None, grid) if grid else {}),
            "bands": [{"name": layer.array, **_values(array)}],
        }
        own = {f"{layer.key}_{size_m}m": fields}
        return own | (_pyramid_asset(layer, place, fields, consolidated) if layer.path in nodes.pyramids else {})
    return {}


def _pyramid_asset(layer: Layer, place: StoreHref, finest: Mapping[str, Json], consolidated: Set[str]) -> dict[str, Json]:
    """Return the asset of a layer that has overviews: the group that holds its levels."""
    named = {"type": MULTISCALES, "title": f"{layer.title} (multiscales group, array {layer.array})"}
    return {layer.key: {**finest, **place.node(layer.path), **named, "zarr:consolidated": layer.path in consolidated}}
