"""A whole archive of samples: products over several days, of any kind, with a static STAC catalogue of them.

::

    <root>/products/<id>.zarr                the products
    <root>/items/<id>.json                   one STAC item each; hrefs relative to this file
    <root>/<collection>/collection.json      sentinel-2-l2a, sentinel-2-l1c, sentinel-1-l1-grd
    <root>/catalog.json                      links to the collections
    <root>/items.json                        all items as one FeatureCollection; hrefs relative to this file
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Literal

from zarrmill.errors import ConfigError
from zarrmill.sample.attrs import Attrs
from zarrmill.sample.build import build_product
from zarrmill.sample.items import item
from zarrmill.sample.s1 import Form, GrdScene, GrdSpec, build_grd, control_points, grd_item, grd_product_id
from zarrmill.sample.spec import MIN_SIZE_PX, Layout, Pixels, SampleSpec, SwathEdge, product_id

Kind = Literal["s2", "grd", "all"]
"""Which products an archive has: Sentinel-2 L2A and L1C in turn, Sentinel-1 GRD, or both."""
Specs = tuple[SampleSpec | GrdSpec, ...]
START = date(2025, 1, 13)
_LOOKS: tuple[tuple[str, int, SwathEdge, float, float], ...] = (
    ("S2B", 97, "west", 0.08, 1.0),
    ("S2A", 140, "none", 0.3, 1.06),
    ("S2C", 54, "east", 0.15, 0.94),
    ("S2B", 11, "northwest", 0.55, 1.03),
    ("S2A", 97, "southeast", 0.0, 0.97),
)
"""By day, repeated: platform, relative orbit, swath edge, cloud fraction, brightness."""
SPACING_S = 25
"""Seconds between the radar products of a day; optical ones are closer."""
_NULL_CLOUD_FROM = 6
"""Archives of at least so many products hold one item whose ``eo:cloud_cover`` is null, the last."""


def archive_specs(
    *,
    size_px: int,
    n_days: int,
    products_per_day: int,
    layout: Layout,
    start: date = START,
    pixels: Pixels = "real",
) -> tuple[SampleSpec, ...]:
    """Specs of an archive: of three products a day two are L2A with different footprints, the third is L1C.

    The L1C product is the same acquisition as the first L2A. Days differ in platform, orbit, swath edge, cloud and
    brightness. Raises: ConfigError: no day, or no product a day.
    """
    if n_days < 1 or products_per_day < 1:
        found = f"n_days {n_days}, products_per_day {products_per_day}"
        raise ConfigError(f"sample archive: {found}, expected at least 1 each; change the arguments")
    days = ((day, k) for day in range(n_days) for k in range(products_per_day))
    return tuple(_spec(day, k, start, size_px=size_px, layout=layout, pixels=pixels) for day, k in days)


def _check_calendar(start: date, n_days: int, products_per_day: int) -> None:
    """Raise ConfigError when an archive does not end before the year 10000."""
    try:
        start + timedelta(days=n_days, seconds=SPACING_S * products_per_day)
    except OverflowError:
        found = f"{n_days} days from {start}"
        raise ConfigError(f"sample archive: {found} go beyond {date.max}; change the arguments", kind="usage") from None


def _spec(day: int, k: int, start: date, *, size_px: int, layout: Layout, pixels: Pixels) -> SampleSpec:
    """Product ``k`` of ``day``."""
    platform, orbit, edge, cloud, brightness = _LOOKS[day % len(_LOOKS)]
    place = (0, 1, 0)[k % 3] + 2 * (k // 3)
    shift = size_px * 6 // 10 // 6 * 6
    sensed = datetime(start.year, start.month, start.day, 15, 43, 9, tzinfo=UTC)
    return SampleSpec(
        product_type="S02MSIL1C" if k % 3 == 2 else "S02MSIL2A",
        acquired=sensed + timedelta(days=day, seconds=13 * place),
        size_px=size_px,
        layout=layout,
        platform=platform,
        relative_orbit=orbit,
        offset_px=((0, 0), (shift, shift), (0, shift), (shift, 0))[place % 4],
        cloud_fraction=cloud,
        swath_edge=edge,
        brightness=brightness,
        pixels=pixels,
    )


def radar_specs(*, size_px: int, n_days: int, products_per_day: int, form: Form, start: date = START) -> tuple[GrdSpec, ...]:
    """Specs of Sentinel-1 GRD products of ``size_px`` lines and samples; those of a day lie one after the other along the orbit.

    Raises: ConfigError: no day, no product a day, or fewer than 60 pixels.
    """
    if n_days < 1 or products_per_day < 1 or size_px < MIN_SIZE_PX:
        found = f"n_days {n_days}, products_per_day {products_per_day}, size_px {size_px}"
        raise ConfigError(f"sample archive: {found}, expected at least 1, 1 and {MIN_SIZE_PX}; change the arguments")
    first = GrdSpec(shape=(size_px, size_px), form=form)
    (longitude, latitude), along = first.centre, size_px * first.spacing_m / 111_000
    return tuple(
        replace(
            first,
            acquired=datetime.combine(start + timedelta(day), first.acquired.timetz()) + timedelta(seconds=SPACING_S * k),
            centre=(longitude, latitude + along * k),
            seed=day * products_per_day + k,
        )
        for day in range(n_days)
        for k in range(products_per_day)
    )


def build_archive(
    root: Path,
    *,
    size_px: int,
    n_days: int = 3,
    products_per_day: int = 3,
    layout: Layout = "5490",
    start: date = START,
    pixels: Pixels = "real",
    kind: Kind = "s2",
    form: Form = "flat",
) -> Path:
    """Build products and catalogue under ``root`` and return the path of ``items.json``.

    ``layout`` and ``pixels`` are for Sentinel-2, ``form`` is for Sentinel-1; ``all`` has ``products_per_day`` of each.
    Raises: ConfigError: the days go beyond the calendar; see ``archive_specs``, ``radar_specs`` and ``build_product``.
    """
    _check_calendar(start, n_days, products_per_day)
    numbers = {"size_px": size_px, "n_days": n_days, "products_per_day": products_per_day}
    specs: Specs = ()
    if kind != "grd":
        specs += archive_specs(**numbers, layout=layout, start=start, pixels=pixels)
    if kind != "s2":
        specs += radar_specs(**numbers, form=form, start=start)
    return build_all(specs, root)


def build_all(specs: Iterable[SampleSpec | GrdSpec], root: Path) -> Path:
    """Build products and their catalogue under ``root`` and return the path of ``items.json``.

    Products that are there are kept, the catalogue is written anew for these specs.
    """
    specs = tuple(specs)
    for spec in specs:
        build_grd(spec, root / "products") if isinstance(spec, GrdSpec) else build_product(spec, root / "products")
    return write_catalogue(specs, root)


def write_catalogue(specs: Iterable[SampleSpec | GrdSpec], root: Path) -> Path:
    """Write items, collections, catalogue and ``items.json`` for products built under ``root/products``."""
    specs = tuple(specs)
    optical = [spec for spec in specs if isinstance(spec, SampleSpec)]
    gaps = {product_id(optical[-1])} if len(optical) >= _NULL_CLOUD_FROM else set()
    by_collection: dict[str, list[Attrs]] = {}
    features = []
    for spec in specs:
        alone = _item(spec, root, "../products", gaps)
        name, collection = alone["id"], alone["collection"]
        alone["links"] = [
            _link("collection", f"../{collection}/collection.json"),
            _link("parent", f"../{collection}/collection.json"),
            _link("root", "../catalog.json"),
        ]
        _write(root / "items" / f"{name}.json", alone)
        by_collection.setdefault(collection, []).append(alone)
        features.append(_item(spec, root, "./products", gaps))
    for collection, found in sorted(by_collection.items()):
        _write(root / collection / "collection.json", _collection(collection, found))
    _write(root / "catalog.json", _catalogue(sorted(by_collection)))
    together = {"type": "FeatureCollection", "features": features, "links": []}
    return _write(root / "items.json", together)


def _item(spec: SampleSpec | GrdSpec, root: Path, folder: str, gaps: set[str]) -> Attrs:
    if isinstance(spec, GrdSpec):
        return grd_item(spec, GrdScene({}, *control_points(spec)), f"{folder}/{grd_product_id(spec)}.zarr")
    store = f"{product_id(spec)}.zarr"
    one = item(spec, root / "products" / store, f"{folder}/{store}")
    if one["id"] in gaps:
        one["properties"]["eo:cloud_cover"] = None
    return one


def _collection(name: str, found: list[Attrs]) -> Attrs:
    wests, souths, easts, norths = zip(*(one["bbox"] for one in found), strict=True)
    times = sorted(one["properties"]["datetime"] for one in found)
    links = [_link("root", "../catalog.json"), _link("parent", "../catalog.json")]
    links += [_link("item", f"../items/{one['id']}.json", "application/geo+json") for one in found]
    return {
        "description": f"Sample products in the form of the EOPF collection {name}; not Copernicus products.",
        "extent": {
            "spatial": {"bbox": [[min(wests), min(souths), max(easts), max(norths)]]},
            "temporal": {"interval": [[times[0], times[-1]]]},
        },
        "id": name,
        "license": "other",
        "links": links,
        "stac_version": "1.1.0",
        "title": name,
        "type": "Collection",
    }


def _catalogue(collections: list[str]) -> Attrs:
    children = [_link("child", f"./{name}/collection.json") for name in collections]
    return {
        "description": "Sample archive made by zarrmill.sample: one real Sentinel-2 patch, synthetic Sentinel-1 speckle.",
        "id": "zarrmill-sample",
        "links": [_link("root", "./catalog.json"), *children],
        "stac_version": "1.1.0",
        "type": "Catalog",
    }


def _link(rel: str, href: str, media_type: str = "application/json") -> Attrs:
    return {"href": href, "rel": rel, "type": media_type}


def _write(path: Path, value: Attrs) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    return path
