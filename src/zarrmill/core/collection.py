"""Collections and the catalogue of a run, made from the items that they hold."""

from collections.abc import Mapping, Sequence

from zarrmill.core.footprint import join_boxes
from zarrmill.core.item import STAC_VERSION, extensions
from zarrmill.model import Json

_PROVIDERS = (
    {"name": "European Union", "roles": ["licensor"], "url": "https://www.copernicus.eu/"},
    {"name": "European Space Agency", "roles": ["producer", "processor"], "url": "https://sentinels.copernicus.eu/"},
)
_ITEM_ASSET_FIELDS = ("type", "title", "roles", "gsd", "bands")
# No zarr:* fields: the zarr extension 1.1 lets collections have them on assets of their own only, not on item_assets.


def build_collection(collection: str, items: Sequence[Json], license_name: str, links: Sequence[Json]) -> dict[str, Json]:
    """Return the collection of ``items`` (at least one) with extent, summaries and the assets that items have."""
    document = {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "id": collection,
        "title": collection,
        "description": f"{_kinds(items)} products as cloud-optimised GeoZarr (Zarr v3 with multiscales).",
        "keywords": sorted({"geozarr", "zarr", *(item["properties"].get("constellation", "sentinel-2") for item in items)}),
        "license": license_name,
        "providers": [dict(provider) for provider in _PROVIDERS],
        "extent": _extent(items),
        "summaries": _summaries(items),
        "item_assets": _item_assets(items),
        "links": list(links),
    }
    return {**document, "stac_extensions": extensions(document)}


def build_catalog(name: str, links: Sequence[Json]) -> dict[str, Json]:
    """Return the catalogue of one run."""
    return {
        "type": "Catalog",
        "stac_version": STAC_VERSION,
        "id": name,
        "title": name,
        "description": f"GeoZarr products of run {name}.",
        "links": list(links),
    }


def _kinds(items: Sequence[Json]) -> str:
    return ", ".join(sorted({item["properties"]["product:type"] for item in items}))


def _extent(items: Sequence[Json]) -> dict[str, Json]:
    starts = [item["properties"].get("start_datetime", item["properties"]["datetime"]) for item in items]
    ends = [item["properties"].get("end_datetime", item["properties"]["datetime"]) for item in items]
    west, south, east, north = join_boxes((box[0], box[1], box[2], box[3]) for box in (item["bbox"] for item in items))
    return {
        "spatial": {"bbox": [[west, south, east, north]]},
        "temporal": {"interval": [[min(starts), max(ends)]]},
    }


def _summaries(items: Sequence[Json]) -> dict[str, Json]:
    summaries: dict[str, Json] = {}
    for key in ("constellation", "platform", "product:type", "processing:level", "proj:code", "sat:orbit_state"):
        values = sorted({item["properties"][key] for item in items if key in item["properties"]})
        if values:
            summaries[key] = values
    polarisations = sorted({name for item in items for name in item["properties"].get("sar:polarizations", [])})
    if polarisations:
        summaries["sar:polarizations"] = polarisations
    for key in ("gsd", "eo:cloud_cover", "view:sun_elevation"):
        numbers = [item["properties"][key] for item in items if key in item["properties"]]
        if numbers:
            summaries[key] = {"minimum": min(numbers), "maximum": max(numbers)}
    return summaries


def _item_assets(items: Sequence[Json]) -> dict[str, Json]:
    assets: dict[str, Json] = {}
    for item in items:
        for key, asset in item["assets"].items():
            assets.setdefault(key, {field: _without_grid(asset[field]) for field in _ITEM_ASSET_FIELDS if field in asset})
    return {key: assets[key] for key in sorted(assets)}


def _without_grid(value: Json) -> Json:
    """Grids of bands differ from product to product."""
    if not isinstance(value, list):
        return value
    return [
        {key: inner for key, inner in entry.items() if not key.startswith("proj:")} if isinstance(entry, Mapping) else entry
        for entry in value
    ]
