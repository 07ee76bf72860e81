"""Rules that an item must meet and that no published schema enforces.

Each rule stands for a fault seen in published catalogues. A broken rule is told as ``field: found, expected``.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import pairwise

from zarrmill.core.footprint import bounds
from zarrmill.core.item import EXTENSIONS, extensions, prefixes
from zarrmill.core.item_assets import MULTISCALES, ZARR
from zarrmill.model import Json

_OLD = re.compile(r"/(eo|raster)/v1\.|/xarray-assets/|/projection/v1\.")
_REQUIRED_LINKS = ("root", "parent", "collection", "license", "store")
_TIMES = ("datetime", "start_datetime", "end_datetime", "created", "updated")


def broken_rules(item: Mapping[str, Json]) -> list[str]:
    """Return what is wrong with ``item``, empty when nothing is; ``item`` has passed the core schema."""
    checks = (_geometry, _times, _declared, _projection, _assets, _bands, _links, _storage, _renders)
    return [fault for check in checks for fault in check(item)]


def _geometry(item: Mapping[str, Json]) -> Iterator[str]:
    box, shape = item["bbox"], item["geometry"]
    if box[1] > box[3]:
        yield f"bbox: found south {box[1]} above north {box[3]}, expected west, south, east, north"
    expected = list(bounds(shape))
    if any(abs(found - wanted) > 1e-6 for found, wanted in zip(box, expected, strict=False)):
        yield f"bbox: found {box}, expected {expected} around the geometry"
    rings = shape["coordinates"] if shape["type"] == "Polygon" else [ring for part in shape["coordinates"] for ring in part]
    for ring in rings:
        if ring[0] != ring[-1]:
            yield "geometry.coordinates: found a ring that is not closed"
        if any(abs(one[0] - other[0]) > 180 for one, other in pairwise(ring)):
            yield "geometry.coordinates: found a step over the antimeridian, expected a MultiPolygon cut there"


def _times(item: Mapping[str, Json]) -> Iterator[str]:
    for name in _TIMES:
        value = item["properties"].get(name)
        if value is None and name != "datetime":
            continue
        try:
            aware = datetime.fromisoformat(value).utcoffset() is not None
        except (TypeError, ValueError):
            aware = False
        if not aware:
            yield f"properties.{name}: found {value!r}, expected an RFC 3339 time in UTC"


def _declared(item: Mapping[str, Json]) -> Iterator[str]:
    declared = item.get("stac_extensions", [])
    for prefix in sorted(set(prefixes(item))):
        if prefix not in EXTENSIONS:
            yield f"{prefix}: found fields with this prefix, but it belongs to no extension that items use"
    for url in extensions(item):
        if url not in declared:
            yield f"stac_extensions: fields of {url} are used, but it is not declared"
    for url in declared:
        if _OLD.search(url):
            yield f"stac_extensions: found {url}, which is too old for STAC 1.1"
    for field in ("common_name", "center_wavelength", "full_width_half_max"):
        for where, band in _each_band(item):
            if field in band:
                yield f"{where}.{field}: expected eo:{field}"


def _projection(item: Mapping[str, Json]) -> Iterator[str]:
    properties = item["properties"]
    code = properties.get("proj:code")
    for where, fields in [("properties", properties), *((f"assets.{key}", asset) for key, asset in item["assets"].items())]:
        box, shape, transform = (fields.get(f"proj:{name}") for name in ("bbox", "shape", "transform"))
        projected = fields.get("proj:code", code) not in (None, "EPSG:4326")
        if projected and box and all(abs(edge) <= 360 for edge in box):
            yield f"{where}.proj:bbox: found {box}, which are degrees beside {fields.get('proj:code', code)}"
        if box and shape and transform:
            a, _, c, _, e, f = transform[:6]
            expected = [c, f + e * shape[0], c + a * shape[1], f]
            if any(abs(one - other) > abs(a) * 1e-6 for one, other in zip(box, expected, strict=False)):
                yield f"{where}.proj:bbox: found {box}, shape and transform give {expected}"


def _assets(item: Mapping[str, Json]) -> Iterator[str]:
    for key, asset in item["assets"].items():
        kind = asset.get("type", "")
        if "zarr" in kind and kind not in (ZARR, MULTISCALES):
            yield f"assets.{key}.type: found {kind!r}, expected {ZARR!r} or {MULTISCALES!r}"
        if asset.get("zarr:node_type") and kind not in (ZARR, MULTISCALES):
            yield f"assets.{key}.type: found {kind!r} on a Zarr node, expected {ZARR!r}"
        if str(asset["href"]).endswith("/"):
            yield f"assets.{key}.href: found a trailing slash, which readers of Zarr refuse"
        for name, other in (asset.get("alternate") or {}).items():
            if not isinstance(other, Mapping) or not other.get("href"):
                yield f"assets.{key}.alternate.{name}.href: found none, expected an address"
    if all(item["assets"].get(key, {}).get("type") != MULTISCALES for key in ("reflectance", "grd")):
        yield f"assets.reflectance: expected an asset of type {MULTISCALES!r}, for radar images assets.grd"


def _bands(item: Mapping[str, Json]) -> Iterator[str]:
    for where, band in _each_band(item):
        if not band.get("name") or not band.get("data_type"):
            yield f"{where}: found {dict(band)!r}, expected name and data_type"
        wavelength = band.get("eo:center_wavelength")
        if wavelength is not None and not 0.1 < wavelength < 100:
            yield f"{where}.eo:center_wavelength: found {wavelength}, expected micrometres"


def _links(item: Mapping[str, Json]) -> Iterator[str]:
    kinds = [link["rel"] for link in item["links"]]
    for kind in _REQUIRED_LINKS:
        if kinds.count(kind) != 1:
            yield f"links: found {kinds.count(kind)} with rel {kind!r}, expected one"
    for index, link in enumerate(item["links"]):
        if link["rel"] == "self" and "://" not in link["href"]:
            yield f"links[{index}].href: found {link['href']!r}, a self link is absolute"
        if link["rel"] == "store" and link.get("type") != ZARR:
            yield f"links[{index}].type: found {link.get('type')!r}, expected {ZARR!r}"


def _storage(item: Mapping[str, Json]) -> Iterator[str]:
    schemes = item["properties"].get("storage:schemes", {})
    for key, asset in item["assets"].items():
        alternates = [other for other in (asset.get("alternate") or {}).values() if isinstance(other, Mapping)]
        for ref in [ref for place in (asset, *alternates) for ref in place.get("storage:refs", [])]:
            if ref not in schemes:
                yield f"assets.{key}.storage:refs: found {ref!r}, which is not in storage:schemes {sorted(schemes)}"


def _renders(item: Mapping[str, Json]) -> Iterator[str]:
    for name, render in item["properties"].get("renders", {}).items():
        for key in render.get("assets", []):
            bands = {band.get("name") for band in item["assets"].get(key, {}).get("bands", [])}
            if key not in item["assets"]:
                yield f"properties.renders.{name}.assets: found {key!r}, which is no asset"
            missing = sorted(set(re.findall(r"\bb\w\d\b|\b8a\b", str(render.get("expression", "")))) - bands)
            if missing and key in item["assets"]:
                yield f"properties.renders.{name}.expression: found bands {missing}, which asset {key} does not have"


def _each_band(item: Mapping[str, Json]) -> Iterator[tuple[str, Mapping[str, Json]]]:
    for key, asset in item["assets"].items():
        for index, band in enumerate(asset.get("bands", [])):
            yield f"assets.{key}.bands[{index}]", band
