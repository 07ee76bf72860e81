"""Stage ``stac``: a valid store becomes a STAC item; once per run the items become a static catalogue.

An item is a pure projection of records, store and configuration: the same inputs give the same bytes. Every item is checked
before it is returned, against the STAC core schema, every declared extension that is at hand, and our own rules.
"""

import hashlib
import json
import os
import posixpath
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from zarrmill import __version__
from zarrmill.config import Recipe, Settings
from zarrmill.core.collection import build_catalog as catalog_document
from zarrmill.core.collection import build_collection
from zarrmill.core.item import File, Hrefs, ItemInputs, build_item, collection_id
from zarrmill.core.item_assets import StoreHref, picture_bands
from zarrmill.core.item_check import broken_rules
from zarrmill.core.store_facts import Level, Nodes, Pyramid, read_pyramid
from zarrmill.errors import ConfigError, ConformanceError, StoreError
from zarrmill.io.answers import MissingObjectError
from zarrmill.io.bucket import storage_scheme
from zarrmill.io.geoparquet import write_items
from zarrmill.io.listing import Listing
from zarrmill.io.logs import logger
from zarrmill.io.objects import Objects, local_path
from zarrmill.io.places import Place, together
from zarrmill.io.record import dumps
from zarrmill.io.stac_schemas import SchemaCheck, load_schemas, schema_folder
from zarrmill.io.state import State
from zarrmill.io.thumbnail import render_png
from zarrmill.model import ConvertReceipt, Json, PlanRecord, Product, ValidationReport, Verdict

_PARQUET = "application/vnd.apache.parquet"
log = logger()


def stac(
    record: PlanRecord,
    receipt: ConvertReceipt,
    report: ValidationReport,
    *,
    settings: Settings,
    recipe: Recipe,
    state: State,
) -> dict[str, Json]:
    """Return the item of one validated store; its thumbnail is written to ``state.thumbnail``.

    Raises: ConformanceError: the report does not accept this store, or the item breaks a schema or a rule; StoreError: the
        store is not the one that the receipt is for.
    """
    _gate(record, receipt, report, recipe)
    store = Objects(receipt.store)
    root = _read(store, "zarr.json")
    if hashlib.sha256(root).hexdigest() != receipt.root_sha256:
        raise StoreError(
            f"{receipt.product.product_id}: {receipt.store}/zarr.json: its sha256 is not {receipt.root_sha256} as the receipt "
            "says; convert again",
            kind="damaged",
        )
    nodes = Nodes(_parse(root, receipt.store))
    pyramid = read_pyramid(nodes, receipt.store)
    hrefs = _hrefs(record, receipt, settings, recipe, state)
    item = build_item(
        ItemInputs(
            receipt=receipt,
            source_item=record.item,
            nodes=nodes,
            root_file=File(f"{hrefs.store.href}/zarr.json", len(root), receipt.root_sha256),
            consolidated=_consolidated(store, nodes),
            thumbnail=_thumbnail(store, pyramid, receipt.product, recipe, state),
            recipe_item=recipe.item,
            recipe=recipe.name,
            version=__version__,
            hrefs=hrefs,
        )
    )
    check_item(item, settings)
    return item


def check_item(item: Mapping[str, Json], settings: Settings) -> SchemaCheck:
    """Check an item against core, every declared extension at hand, and our rules; tell which schemas were not at hand.

    Raises: ConformanceError: the item breaks one; the message names fields and schemas.
    """
    check = _check_document(item, settings)
    faults = broken_rules(item)
    if faults:
        raise ConformanceError(f"{item['id']}: " + "; ".join(faults) + "; report this as a defect of zarrmill", kind="item")
    return check


def write_item(item: Mapping[str, Json], place: Place) -> None:
    """Write an item as canonical JSON, whole or not at all. Raises: as ``Place.write_bytes``."""
    place.write_text(dumps(item))


def build_catalog(
    settings: Settings,
    recipes: Mapping[str, Recipe],
    state: State,
    products: Sequence[Product],
    *,
    catalog: Place | None = None,
) -> Place:
    """Write the static catalogue of a run over the items that exist, and return its ``catalog.json``.

    ``recipes`` maps product type to recipe; ``catalog`` is where ``catalog.json`` is written, by default in the run's state.
    Products without an item (not built, failed) are left out. Links are relative, so the state folder can be moved or served
    as it is. Equal items give equal bytes; collections that lost all items are removed.
    Raises: ConformanceError: an item is not JSON, or a document breaks its schema; UnknownStateError: an item cannot be read.
    """
    groups: dict[str, list[tuple[Product, Json]]] = {}
    ordered = sorted(products, key=lambda one: (one.collection, one.datetime, one.name))
    for product, item in zip(ordered, together(partial(_item, state), ordered, state.root.n_reads), strict=True):
        if item is not None:
            groups.setdefault(item["collection"], []).append((product, item))
    for collection, members in sorted(groups.items()):
        _write_collection(collection, members, settings, _recipe_of(members[0][0], recipes), state)
    _remove_stale(state.catalog, set(groups))
    _write_parquet([one for _, members in sorted(groups.items()) for one in members], state, state.catalog / "items.parquet")
    document = catalog_document(settings.run, _catalog_links(settings, state, sorted(groups)))
    _check_document(document, settings)
    target = catalog or state.catalog / "catalog.json"
    target.write_text(dumps(document))
    log.info("catalogue written", path=str(target), n_collections=len(groups), n_items=sum(map(len, groups.values())))
    return target


def _item(state: State, product: Product) -> Json:
    """Return the item of one product; None when it has none. Raises: ConformanceError: it is damaged."""
    place = state.target("stac", product)
    try:
        item = json.loads(place.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        item, found = None, str(error)
    else:
        found = f"a JSON {type(item).__name__} without a collection"
    if not isinstance(item, dict) or not isinstance(item.get("collection"), str):
        raise ConformanceError(f"{place}: not a STAC item ({found}); remove it, run the workflow again", kind="item")
    return item


def _gate(record: PlanRecord, receipt: ConvertReceipt, report: ValidationReport, recipe: Recipe) -> None:
    accepted = {Verdict.PASS} if recipe.validation.accept == "PASS" else {Verdict.PASS, Verdict.WARN}
    name = receipt.product.product_id
    if report.store != receipt.store or record.product.name != receipt.product.name:
        raise ConformanceError(
            f"{name}: the report is on {report.store} and the plan on {record.product.name}, expected {receipt.store}; "
            "validate this store",
            kind="store",
        )
    if report.verdict not in accepted or report.n_checks < 1:
        raise ConformanceError(
            f"{name}: {report.store}: verdict {report.verdict} after {report.n_checks} checks, recipe {recipe.name} accepts "
            f"{', '.join(sorted(accepted))}; read the findings of the report",
            kind="store",
        )


def _read(store: Objects, key: str) -> bytes:
    try:
        return store.get(key)
    except MissingObjectError as error:
        raise StoreError(f"{store.href}/{key}: not there, the store is not sealed; convert again", kind="missing") from error


def _consolidated(store: Objects, nodes: Nodes) -> frozenset[str]:
    """Return the groups of levels that have consolidated metadata of their own; the root's does not tell."""
    documents = {path: _parse(_read(store, f"{path}/zarr.json"), f"{store.href}/{path}") for path in nodes.pyramids}
    return frozenset(path for path, document in documents.items() if "consolidated_metadata" in document)


def _parse(data: bytes, place: str) -> Json:
    try:
        return json.loads(data)
    except ValueError as error:
        raise ConformanceError(f"{place}: not JSON ({error}); build it again", kind="item") from error


def _check_document(document: Mapping[str, Json], settings: Settings) -> SchemaCheck:
    check = load_schemas(schema_folder(settings.schema_cache)).check(document)
    if check.faults:
        raise ConformanceError(f"{document.get('id')}: " + "; ".join(map(str, check.faults)), kind="item")
    if check.unchecked:
        log.warning("schemas not available", schemas=check.unchecked, document=document.get("id"), help="set schema_cache")
    return check


def _thumbnail(store: Objects, pyramid: Pyramid, product: Product, recipe: Recipe, state: State) -> File | None:
    level = _thumbnail_level(pyramid, recipe.item.thumbnail_px)
    if level is None:
        return None
    bands = picture_bands(pyramid)
    data = render_png(store, f"{pyramid.path}/{level.name}", bands, recipe.item.rescale_dn, recipe.item.thumbnail_px)
    place = state.thumbnail(product)
    place.write_bytes(data)
    return File(f"./{place.name}", len(data), hashlib.sha256(data).hexdigest())


def _thumbnail_level(pyramid: Pyramid, edge_px: int) -> Level | None:
    """Return the smallest level with all colours (integers) that is at least ``edge_px`` long, else the finest that has them."""
    colours = set(picture_bands(pyramid))
    integers = [{name for name, array in level.arrays.items() if "float" not in array.data_type} for level in pyramid.levels]
    coloured = [level for level, names in zip(pyramid.levels, integers, strict=True) if colours <= names]
    if not coloured or edge_px == 0:
        return None
    large = [level for level in coloured if max(level.grid.shape) >= edge_px]
    return large[-1] if large else coloured[0]


def _hrefs(record: PlanRecord, receipt: ConvertReceipt, settings: Settings, recipe: Recipe, state: State) -> Hrefs:
    product = receipt.product
    here = state.target("stac", product)
    collection = _collection_place(state, collection_id(product.collection, recipe.item))
    store = _store_href(receipt, settings, here)
    return Hrefs(
        store=store,
        storage=storage_scheme(receipt.store) if store.in_bucket or store.alternate else {},
        item=_self_href(settings, state, here),
        root=_relative(str(state.catalog / "catalog.json"), here),
        collection=_relative(str(collection), here),
        report=_relative(str(state.target("validate", product)), here),
        license=recipe.item.license_href,
        derived_from=_relative(product.item_href, here) if product.item_href else "",
        via=_relative(product.href, here),
    )


def _store_href(receipt: ConvertReceipt, settings: Settings, here: Place) -> StoreHref:
    bucket = receipt.store.startswith("s3://")
    if settings.public_root is None:
        return StoreHref(_relative(receipt.store, here), in_bucket=bucket)
    inside = receipt.product.store_path
    if not receipt.store.rstrip("/").endswith(inside):
        raise ConformanceError(
            f"{receipt.product.product_id}: store {receipt.store} does not end in {inside}, so its place below public_root is "
            "not known; convert again",
            kind="item",
        )
    return StoreHref(f"{settings.public_root.rstrip('/')}/{inside}", alternate=receipt.store if bucket else "")


def _relative(address: str, here: Place) -> str:
    """Return an address relative to the folder of the document ``here`` when both are on disk or in one bucket, else as it is."""
    place, folder = local_path(address), here.parent
    if here.remote:
        bucket = "/".join(here.href.split("/")[:3])
        if not address.startswith(f"{bucket}/"):
            return address
        path = posixpath.relpath(address.removeprefix(bucket), folder.href.removeprefix(bucket) or "/")
    elif place is None:
        return address
    else:
        path = Path(os.path.relpath(place, folder)).as_posix()
    return path if path.startswith("..") else f"./{path}"


def _self_href(settings: Settings, state: State, place: Place) -> str:
    if settings.public_state is None:
        return ""
    return f"{settings.public_state.rstrip('/')}/{settings.run}/{place.key_in(state.root)}"


def _collection_place(state: State, collection: str) -> Place:
    return state.catalog / collection / "collection.json"


def _recipe_of(product: Product, recipes: Mapping[str, Recipe]) -> Recipe:
    recipe = recipes.get(product.product_type)
    if recipe is None:
        raise ConfigError(f"{product.product_id}: no recipe serves {product.product_type}; add one to recipes", kind="recipe")
    return recipe


def _write_collection(
    collection: str, members: Sequence[tuple[Product, Json]], settings: Settings, recipe: Recipe, state: State
) -> None:
    place = _collection_place(state, collection)
    links: list[Json] = [
        {"rel": "root", "href": "../catalog.json", "type": "application/json"},
        {"rel": "parent", "href": "../catalog.json", "type": "application/json"},
        {"rel": "license", "href": recipe.item.license_href, "title": "Terms of use"},
    ]
    links += [
        {
            "rel": "item",
            "href": _relative(str(state.target("stac", product)), place),
            "type": "application/geo+json",
            "title": item["id"],
        }
        for product, item in members
    ]
    items = [item for _, item in members]
    document = build_collection(collection, items, recipe.item.license, [*_self_link(settings, state, place), *links])
    _check_document(document, settings)
    place.write_text(dumps(document))


def _catalog_links(settings: Settings, state: State, collections: Sequence[str]) -> list[Json]:
    links: list[Json] = [
        *_self_link(settings, state, state.catalog / "catalog.json"),
        {"rel": "root", "href": "./catalog.json", "type": "application/json"},
    ]
    links += [
        {"rel": "child", "href": f"./{name}/collection.json", "type": "application/json", "title": name} for name in collections
    ]
    if collections:
        links.append({"rel": "alternate", "href": "./items.parquet", "type": _PARQUET, "title": "All items as stac-geoparquet"})
    return links


def _self_link(settings: Settings, state: State, place: Place) -> list[Json]:
    href = _self_href(settings, state, place)
    return [{"rel": "self", "href": href, "type": "application/json"}] if href else []


def _write_parquet(members: Sequence[tuple[Product, Json]], state: State, place: Place) -> None:
    if members:
        write_items([_seen_from(place, item, state.target("stac", product), state) for product, item in members], place)
    else:
        place.unlink()


def _seen_from(place: Place, item: Json, own: Place, state: State) -> Json:
    """Return the item of the document ``own`` with relative addresses that start from the document ``place`` instead."""
    up = "../" * place.key_in(state.root).count("/")
    folder = posixpath.join(up, posixpath.dirname(own.key_in(state.root)))

    def turned(entry: Json) -> Json:
        absolute = "://" in entry["href"] or entry["href"].startswith("/")
        return entry if absolute else {**entry, "href": posixpath.normpath(posixpath.join(folder, entry["href"]))}

    assets = {key: turned(asset) for key, asset in item["assets"].items()}
    return {**item, "assets": assets, "links": [turned(link) for link in item["links"]]}


def _remove_stale(catalog: Place, wanted: set[str]) -> None:
    listing = Listing(catalog)
    for name in listing.folders(catalog):
        document = catalog / name / "collection.json"
        if name not in wanted and listing.get(document):
            document.unlink()
            if document.local:
                document.local.parent.rmdir()
