"""The STAC item of a store: a pure projection of receipt, store metadata, source item and configuration.

Nothing here asks a clock, a network or the environment: the same inputs give the same item.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from zarrmill.config import Item
from zarrmill.core.footprint import bounds
from zarrmill.core.item_assets import ZARR, StoreHref, grey, main_asset, projection, store_assets, true_colour, whole
from zarrmill.core.item_facts import Facts, acquisition, geometry, instant, processing, radar, source_software, times
from zarrmill.core.store_facts import Nodes, read_pyramid
from zarrmill.model import ConvertReceipt, Json

STAC_VERSION = "1.1.0"

EXTENSIONS: dict[str, str] = {
    "alternate": "https://stac-extensions.github.io/alternate-assets/v1.2.0/schema.json",
    "eo": "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "file": "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "grid": "https://stac-extensions.github.io/grid/v1.1.0/schema.json",
    "processing": "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "product": "https://stac-extensions.github.io/product/v1.0.0/schema.json",
    "proj": "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "raster": "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "renders": "https://stac-extensions.github.io/render/v2.0.0/schema.json",
    "sar": "https://stac-extensions.github.io/sar/v1.3.0/schema.json",
    "sat": "https://stac-extensions.github.io/sat/v1.1.0/schema.json",
    "storage": "https://stac-extensions.github.io/storage/v2.0.0/schema.json",
    "view": "https://stac-extensions.github.io/view/v1.1.0/schema.json",
    "zarr": "https://stac-extensions.github.io/zarr/v1.1.0/schema.json",
}
"""Prefix of a field, or the field itself, to the schema of its extension."""


@dataclass(frozen=True, slots=True)
class File:
    """A file beside the item that it vouches for."""

    href: str
    """Absolute, or relative to the item's file."""
    n_bytes: int
    sha256: str
    """Digest in hexadecimal."""


@dataclass(frozen=True, slots=True)
class Hrefs:
    """Addresses that an item holds, absolute or relative to the item's file; all from configuration and state."""

    store: StoreHref
    storage: Mapping[str, Json]
    """Storage scheme of the bucket; empty when no ``s3://`` address is written."""
    item: str
    """Absolute address of the item, or empty when it has none."""
    root: str
    """Catalogue."""
    collection: str
    """Collection."""
    report: str
    """Validation report."""
    license: str
    """Terms of use."""
    derived_from: str
    """Source item, or empty."""
    via: str
    """Source store."""


@dataclass(frozen=True, slots=True)
class ItemInputs:
    """Everything that an item is made of."""

    receipt: ConvertReceipt
    source_item: Mapping[str, Json]
    """As the catalogue served it, hrefs without queries; empty for a plain list of hrefs."""
    nodes: Nodes
    """Metadata of the store."""
    root_file: File
    """Root ``zarr.json`` of the store."""
    consolidated: frozenset[str]
    """Groups of levels that have consolidated metadata of their own."""
    thumbnail: File | None
    recipe_item: Item
    """What the recipe says about items."""
    recipe: str
    """Name of the recipe."""
    version: str
    """Version of zarrmill."""
    hrefs: Hrefs


def build_item(inputs: ItemInputs) -> dict[str, Json]:
    """Return the item; it is not validated here.

    Raises: ConformanceError: no source knows the time or the store has no extent, or the store lacks its multiscales group.
    """
    product, attributes = inputs.receipt.product, inputs.nodes.attributes
    discovery, other = _mapping(attributes, "stac_discovery"), _mapping(attributes, "other_metadata")
    facts = Facts(product, inputs.source_item, discovery, other, attributes.get("spatial:bbox"))
    footprint = geometry(facts)
    assets = _assets(inputs)
    item = {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "id": product.product_id,
        "collection": collection_id(product.collection, inputs.recipe_item),
        "geometry": footprint,
        "bbox": list(bounds(footprint)),
        "properties": _properties(inputs, facts, assets),
        "assets": assets,
        "links": _links(inputs.hrefs),
    }
    return {**item, "stac_extensions": extensions(item)}


def collection_id(source_collection: str, recipe_item: Item) -> str:
    """Return the id of the collection that items from ``source_collection`` go to."""
    return f"{source_collection}{recipe_item.collection_suffix}"


def extensions(document: Mapping[str, Json]) -> list[str]:
    """Return the schemas of the extensions that a document uses, sorted; unknown prefixes are not its matter."""
    return sorted({EXTENSIONS[prefix] for prefix in set(prefixes(document)) if prefix in EXTENSIONS})


def prefixes(value: Json) -> Iterator[str]:
    """Yield the prefix of every field with a colon, and the names of fields that an extension adds without one."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in ("alternate", "renders") or (":" in key and "/" not in key and key != "storage:refs"):
                yield key.split(":", 1)[0]
            # Names of software are free text, not fields.
            if key != "processing:software":
                yield from prefixes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from prefixes(inner)


def _mapping(attributes: Mapping[str, Json], key: str) -> Mapping[str, Json]:
    value = attributes.get(key)
    return value if isinstance(value, Mapping) else {}


def _assets(inputs: ItemInputs) -> dict[str, Json]:
    pyramid = read_pyramid(inputs.nodes, inputs.receipt.store)
    assets = store_assets(inputs.nodes, pyramid, inputs.hrefs.store, inputs.consolidated)
    assets["product-metadata"] = {
        **inputs.hrefs.store.node("zarr.json"),
        "type": "application/json",
        "title": "Consolidated metadata of the store",
        "roles": ["metadata"],
        **_file_fields(inputs.root_file),
    }
    assets["validation-report"] = {
        "href": inputs.hrefs.report,
        "type": "application/json",
        "title": "Validation report",
        "roles": ["metadata"],
    }
    if inputs.thumbnail:
        assets["thumbnail"] = {
            "href": inputs.thumbnail.href,
            "type": "image/png",
            "title": f"Preview of {pyramid.polarisations[0].upper()}" if pyramid.polarisations else "Preview in true colour",
            "roles": ["thumbnail"],
            **_file_fields(inputs.thumbnail),
        }
    return assets


def _file_fields(file: File) -> dict[str, Json]:
    # Multihash: function 0x12 (sha2-256), length 0x20, digest (https://github.com/multiformats/multihash).
    return {"file:size": file.n_bytes, "file:checksum": f"1220{file.sha256}"}


def _properties(inputs: ItemInputs, facts: Facts, assets: Mapping[str, Json]) -> dict[str, Json]:
    receipt = inputs.receipt
    pyramid = read_pyramid(inputs.nodes, receipt.store)
    grid = pyramid.levels[0].grid
    written = instant(receipt.measured.started)
    bands, rescale_dn = assets[main_asset(pyramid)]["bands"], inputs.recipe_item.rescale_dn
    renders = true_colour(bands, rescale_dn) | grey(pyramid, bands, rescale_dn)
    return {
        "title": receipt.product.product_id,
        **times(facts),
        **({"created": written, "updated": written} if written else {}),
        "license": inputs.recipe_item.license,
        "gsd": whole(pyramid.levels[0].size_m),
        **acquisition(facts),
        **(radar(facts, pyramid.polarisations) if pyramid.polarisations else {}),
        **processing(facts),
        "processing:lineage": f"EOPF Zarr laid out as GeoZarr; recipe {inputs.recipe}, digest {receipt.product.digest}",
        "processing:software": {**source_software(facts), **receipt.measured.software, "zarrmill": _version(inputs)},
        **projection(pyramid.code, grid),
        **({"renders": renders} if renders else {}),
        **({"storage:schemes": {"store": dict(inputs.hrefs.storage)}} if inputs.hrefs.storage else {}),
    }


def _version(inputs: ItemInputs) -> str:
    """The version that wrote the pixels, else the one that writes the item."""
    return inputs.receipt.measured.software.get("zarrmill", inputs.version)


def _links(hrefs: Hrefs) -> list[Json]:
    geojson, plain = "application/geo+json", "application/json"
    links: list[Json] = [
        {"rel": "root", "href": hrefs.root, "type": plain},
        {"rel": "parent", "href": hrefs.collection, "type": plain},
        {"rel": "collection", "href": hrefs.collection, "type": plain},
        {"rel": "license", "href": hrefs.license, "title": "Terms of use"},
        {"rel": "store", "href": hrefs.store.href, "type": ZARR, "title": "Zarr store"},
    ]
    if hrefs.item:
        links.insert(0, {"rel": "self", "href": hrefs.item, "type": geojson})
    if hrefs.derived_from:
        links.append({"rel": "derived_from", "href": hrefs.derived_from, "type": geojson, "title": "Source item"})
    links.append({"rel": "via", "href": hrefs.via, "title": "Source EOPF Zarr product"})
    return links
