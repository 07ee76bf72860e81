"""What a catalogue lists, as frozen values: one entry a product, with everything needed to filter, name and find it.

Pure: documents in, values out. A document that cannot be used is a ``SourceError`` with the reason in words.
"""

import hashlib
import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from urllib.parse import urljoin, urlsplit

from pydantic import TypeAdapter, ValidationError

from zarrmill.config import Name
from zarrmill.errors import SourceError, has_user
from zarrmill.model import Json

Bbox = tuple[float, float, float, float]

RESERVED = frozenset({"benchmarks", "failed", "progress", "catalog", "logs", "report"})
"""Folders of a run's state; a collection of that name would write into them."""

SCHEMES = ("", "file", "http", "https", "s3")
"""Where sources may be; the empty scheme is a local path."""

_NAME: TypeAdapter[str] = TypeAdapter(Name)
_ROOT = re.compile(r"^[^?#]*?\.zarr(?=/|\?|#|$)")
_QUERY = re.compile(r"\?[^#]*")
_SENSED = re.compile(r"(?<=_)\d{8}T\d{6}(?=_|$)")
_LEGACY_TYPES = (
    (re.compile(r"^S2[A-Z]_MSIL2A_"), "S02MSIL2A"),
    (re.compile(r"^S2[A-Z]_MSIL1C_"), "S02MSIL1C"),
    (re.compile(r"^S1[A-Z]_IW_GRD[A-Z]?_"), "S01SIWGRD"),
)
_EOPF_TYPE = re.compile(r"^(S0\d[A-Z0-9]{6})_")
_COLLECTION_OF = {
    "S02MSIL2A": "sentinel-2-l2a",
    "S02MSIL1C": "sentinel-2-l1c",
    "S01SIWGRD": "sentinel-1-l1-grd",
    "S01SIWGRH": "sentinel-1-l1-grd",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One product as its catalogue lists it, before any decision."""

    collection: str
    product_id: str
    acquired: str
    """Acquisition (start), ISO 8601 in UTC with ``Z``."""
    product_type: str
    """EOPF product type; empty when neither the item nor the id tells."""
    href: str
    """Root of the source store."""
    item_href: str
    """Address of the source item without its query; empty for a list of hrefs."""
    cloud_cover: float | None
    """Percent; None when not stated."""
    bbox: Bbox | None
    """West, south, east, north in degrees; west > east crosses the antimeridian; None when not stated."""
    stable: str
    """sha256 over the item's stable fields, which do not change when an archive is stamped anew."""
    packed: bytes
    """The item as compressed canonical JSON (a tenth of its size as a dict), hrefs without their queries; empty for a list of
    hrefs."""

    @property
    def key(self) -> tuple[str, str]:
        """Collection and id: the key of a product."""
        return self.collection, self.product_id

    @property
    def moment(self) -> datetime:
        """Acquisition as an aware datetime."""
        return datetime.fromisoformat(self.acquired)

    @property
    def item(self) -> Mapping[str, Json]:
        """The item as the catalogue served it, but for queries of hrefs; empty for a list of hrefs."""
        return unpacked(self.packed)


def unpacked(data: bytes) -> Mapping[str, Json]:
    """Return the item that ``Entry.packed`` holds; empty for no bytes."""
    item: dict[str, Json] = json.loads(zlib.decompress(data)) if data else {}
    return item


def public_address(address: str) -> str:
    """Return an address without user, password, query and fragment; a local path stays as it is."""
    if "://" not in address:
        return address
    scheme, separator, rest = re.split(r"[?#]", address, maxsplit=1)[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def label(value: Json) -> str:
    """Return ``value`` as short printable ASCII, so that a hostile id cannot harm a terminal or a file."""
    text = value if isinstance(value, str) else repr(value)
    return text.encode("ascii", "backslashreplace").decode().translate({c: f"\\x{c:02x}" for c in (*range(32), 127)})[:200]


def entry_of_item(item: Mapping[str, Json], address: str, *, embedded: bool, collection: str = "") -> Entry:
    """Read a STAC item.

    Args: address: where the document was read; embedded: it was part of a page or collection there, so its own ``self``
        link tells its location; collection: the parent's id, for items that do not name one.
    Raises: SourceError: id or collection is no safe name, the date is malformed, or no asset leads to one Zarr store.
    """
    product_id = _name(item.get("id"), "product id")
    group = _name(item.get("collection") or collection, "collection")
    place = f"{group}/{product_id}"
    properties = _mapping(item.get("properties"), place, "properties")
    assets = _mapping(item.get("assets"), place, "assets")
    base = _location(item, address) if embedded else address
    href = _resolved(base, _root_href(assets, place), place)
    try:
        text = json.dumps(
            _without_queries(item), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()
    except ValueError as error:
        raise SourceError(f"{place}: the item is not strict JSON ({error}); report it to the provider", kind="item") from None
    _check_open(f"{base} {href} {text.decode()}", place)
    return Entry(
        collection=group,
        product_id=product_id,
        acquired=_acquired(_stated(properties, "datetime") or _stated(properties, "start_datetime"), place),
        product_type=_stated(properties, "product:type") or type_of_name(product_id),
        href=href,
        item_href=public_address(base),
        cloud_cover=_number(properties.get("eo:cloud_cover")),
        bbox=_bbox(item.get("bbox"), place),
        stable=_stable(group, product_id, href, properties, assets),
        packed=zlib.compress(text, 6),
    )


def key_of_row(row: Mapping[str, str]) -> tuple[str, str]:
    """Return collection and product id of a row of a list of hrefs, from the product's name where a column is missing."""
    root = _ROOT.match(row.get("href") or "")
    product_id = row.get("product_id") or (root.group().rsplit("/", 1)[-1].removesuffix(".zarr") if root else "")
    product_type = row.get("product_type") or type_of_name(product_id)
    return row.get("collection") or _COLLECTION_OF.get(product_type, ""), product_id


def entry_of_row(row: Mapping[str, str], address: str) -> Entry:
    """Read one row of a list of hrefs; what a column does not say is taken from the product's name.

    Raises: SourceError: as ``entry_of_item``, or the name does not tell what is missing.
    """
    collection, name = key_of_row(row)
    root = _ROOT.match(row.get("href") or "")
    if root is None:
        message = f"'{label(row.get('href', ''))}': column href names no Zarr store ('.zarr'); correct the list"
        raise SourceError(message, kind="item")
    product_id = _name(name, "product id")
    if not collection:
        message = (
            f"'{label(product_id)}': neither a column collection nor the name tells its collection; add the column to the list"
        )
        raise SourceError(message, kind="item")
    group = _name(collection, "collection")
    _check_unsigned([row["href"]], product_id)
    href = _resolved(address, root.group(), product_id)
    _check_open(href, product_id)
    sensed = _SENSED.search(product_id)
    return Entry(
        collection=group,
        product_id=product_id,
        acquired=_acquired(row.get("datetime") or (sensed.group() if sensed else ""), f"{group}/{product_id}"),
        product_type=row.get("product_type") or type_of_name(product_id),
        href=href,
        item_href="",
        cloud_cover=_number(row.get("cloud_cover")),
        bbox=None,
        stable=_stable(group, product_id, href, {}, {}),
        packed=b"",
    )


def type_of_name(product_id: str) -> str:
    """Return the EOPF product type that a name states (``S2A_MSIL2A_…``, ``S02MSIL2A_…``), or an empty string."""
    for pattern, product_type in _LEGACY_TYPES:
        if pattern.match(product_id):
            return product_type
    eopf = _EOPF_TYPE.match(product_id)
    return eopf.group(1) if eopf else ""


def _name(value: Json, what: str) -> str:
    try:
        name = _NAME.validate_python(value, strict=True)
    except ValidationError:
        expected = "letters, digits, '.', '_', '-', at most 200, starting with a letter or digit"
        message = f"{what} '{label(value)}' cannot be a name; expected {expected}; rename it in a copy of the item"
        raise SourceError(message, kind="id") from None
    if what == "collection" and name in RESERVED:
        raise SourceError(f"collection {name!r} is the name of a state folder; rename it in a copy of the item", kind="id")
    return name


def _check_open(text: str, place: str) -> None:
    """Raise SourceError when an address in ``text`` holds a user or password: it would be copied into manifest and records."""
    if has_user(text):
        message = (
            f"{place}: an address holds a user or password, which would be copied into records; take it out of the catalogue"
        )
        raise SourceError(message, kind="item")


def _check_unsigned(hrefs: Sequence[str], place: str) -> None:
    """Raise SourceError when every address of a product has a query: it is secret, and without it the host would refuse."""
    if all("?" in href for href in hrefs):
        found = label(hrefs[0].partition("?")[0])
        message = (
            f"{place}: signed addresses are not supported, and {found} has a query; list the product by an address without one: "
            "public, of a bucket (s3://, keys in the environment) or of a local copy"
        )
        raise SourceError(message, kind="item")


def _without_queries(value: Json) -> Json:
    """Return a document whose hrefs have no query, where signatures are; records and published items are made of it."""
    if isinstance(value, list):
        return [_without_queries(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _QUERY.sub("", one) if key == "href" and isinstance(one, str) else _without_queries(one)
        for key, one in value.items()
    }


def _mapping(value: Json, place: str, what: str) -> Mapping[str, Json]:
    if not isinstance(value, dict):
        raise SourceError(f"{place}: {what} is {type(value).__name__}, expected an object; report the item", kind="item")
    return value


def _stated(properties: Mapping[str, Json], key: str) -> str:
    """Return a text property; null and the string ``"null"``, which the archive writes for it, count as absent."""
    value = properties.get(key)
    return "" if value is None or value == "null" else str(value)


def _acquired(text: str, place: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        message = f"{place}: acquisition '{label(text)}' is not an ISO 8601 time; report the item to the provider"
        raise SourceError(message, kind="item") from None
    return moment.isoformat().replace("+00:00", "Z")


def _number(value: Json) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if isfinite(number) else None


def _bbox(value: Json, place: str) -> Bbox | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) not in (4, 6) or None in (numbers := [_number(v) for v in value]):
        raise SourceError(f"{place}: bbox {label(value)} is not four or six numbers; report the item", kind="item")
    west, south, east, north = (float(numbers[i] or 0) for i in ((0, 1, 2, 3) if len(value) == 4 else (0, 1, 3, 4)))
    # The archive writes [east, south, west, north] in places. A box that really crosses the antimeridian is narrow.
    if west > east and west - east < 180:
        west, east = east, west
    return west, south, east, north


def _location(item: Mapping[str, Json], address: str) -> str:
    links = item.get("links")
    for link in links if isinstance(links, list) else []:
        if (
            isinstance(link, dict)
            and link.get("rel") == "self"
            and isinstance(href := link.get("href"), str)
            and href.isprintable()
        ):
            return _joined(address, href)
    return address


def _root_href(assets: Mapping[str, Json], place: str) -> str:
    roots: dict[str, str] = {}
    hrefs: dict[str, str] = {}
    for key, asset in assets.items():
        href = asset.get("href") if isinstance(asset, dict) else None
        if isinstance(href, str) and (match := _ROOT.match(href)):
            roots[key], hrefs[key] = match.group(), href
    if "product" in roots:
        _check_unsigned([hrefs["product"]], place)
        return roots["product"]
    found = sorted(set(roots.values()))
    if len(found) != 1:
        what = f"{len(found)} stores: {', '.join(found)}" if found else "none"
        message = f"{place}: assets lead to {what}; expected one Zarr store ('.zarr' in an href, best under the key 'product')"
        raise SourceError(message, kind="item")
    _check_unsigned(list(hrefs.values()), place)
    return found[0]


def _resolved(base: str, href: str, place: str) -> str:
    full = _joined(base, href)
    try:
        parts = urlsplit(full)
        readable = full.isprintable() and parts.scheme in SCHEMES and (bool(parts.netloc) or parts.scheme in ("", "file"))
    except ValueError:
        readable = False
    if not readable:
        expected = "a local path, file, http, https or s3 address without control characters"
        raise SourceError(f"{place}: href '{label(full)}' cannot be read; expected {expected}", kind="missing")
    return full


def _joined(base: str, href: str) -> str:
    """Return ``href`` as seen from ``base``; both may be addresses or local paths."""
    if "://" in href:
        return href
    if "://" in base:
        return urljoin(base, href)
    return os.path.normpath(os.path.join(os.path.dirname(base), href))


def _stable(group: str, product_id: str, href: str, properties: Mapping[str, Json], assets: Mapping[str, Json]) -> str:
    """Digest of what changes only when the product does; ``updated`` and ``published`` change without.

    Its first letters tell it from the digest of a source's metadata, which is looked up again when the source is read.
    """
    made = {k: v for k, v in properties.items() if re.fullmatch(r"(processing|eopf):(\w*datetime|version)", k)}
    sums = {k: a["file:checksum"] for k, a in assets.items() if isinstance(a, dict) and "file:checksum" in a}
    fields = {"collection": group, "id": product_id, "href": href, "made": made, "checksums": sums}
    return f"item-{hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(',', ':')).encode()).hexdigest()}"
