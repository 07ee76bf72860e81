"""Reading source catalogues: every form gives one stream of documents, to its end or with an error.

Nothing is kept: pages and documents go through as dicts. A catalogue that cannot be read to its end raises; a single item
document that is broken is passed on as such.
"""

import csv
import io
import os.path
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import batched
from pathlib import Path
from typing import Literal
from urllib.parse import urljoin, urlsplit

from pystac_client import ConformanceClasses, ItemSearch

from zarrmill.config import Source, parse_range
from zarrmill.errors import CatalogError, ConfigError, SourceError, UnknownStateError
from zarrmill.io.objects import local_path
from zarrmill.io.stac_io import StacHttp, json_object
from zarrmill.model import Json

N_READERS = 8
"""Item documents of a static catalogue that are read at once."""

Form = Literal["api", "catalog", "items", "csv"]


@dataclass(frozen=True, slots=True)
class Listed:
    """One product as its catalogue serves it: an item, a row of a list, or an item that cannot be read."""

    address: str
    """Where the document was read."""
    item: Mapping[str, Json] = field(default_factory=dict)
    """STAC item; empty for a row or an error."""
    row: Mapping[str, str] = field(default_factory=dict)
    """Row of a list of hrefs; empty for an item."""
    embedded: bool = False
    """The item was part of a page or collection at ``address``."""
    collection: str = ""
    """Id of the parent collection, where the form has one."""
    error: SourceError | None = None
    """Why the item cannot be read."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Documents of one catalogue, local or over http."""

    source: Source
    http: StacHttp

    def text(self, address: str) -> str:
        """Return a document.

        Raises: FileNotFoundError: a local file is not there; CatalogError, UnknownStateError: see ``StacHttp.request``.
        """
        path = local_path(address)
        if path is None:
            return self.http.read_text(address)
        try:
            return path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise CatalogError(f"{address}: not UTF-8 text; check address and kind", kind="answer") from None
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UnknownStateError(f"{address}: cannot read ({error}); nothing was decided", kind="outage") from error

    def document(self, address: str) -> dict[str, Json]:
        """Return a JSON document; raises as ``text``, and CatalogError when it is not a JSON object."""
        return json_object(self.text(address), address)


def read_catalogue(source: Source) -> Iterator[Listed]:
    """Yield every product of the catalogue, each document once as it comes.

    An API filters by collection, time, place and ids itself; other forms list all.
    Raises: ConfigError: no such catalogue, or its form is not the configured kind; CatalogError: it refused or is not STAC;
        UnknownStateError: it could not be read to its end.
    """
    with _reader(source) as reader:
        path = local_path(source.catalogue)
        if path is not None and path.is_dir():
            yield from _folder(reader, path)
            return
        if path is not None and not path.exists():
            raise ConfigError(f"{source.catalogue}: no such catalogue; correct source.catalogue")
        if path is None and urlsplit(source.catalogue).scheme not in ("http", "https"):
            raise ConfigError(f"{source.catalogue}: a catalogue is a local path or an http(s) address; correct source.catalogue")
        if source.kind == "csv" or (source.kind == "auto" and urlsplit(source.catalogue).path.endswith(".csv")):
            yield from _rows(reader.text(source.catalogue), source.catalogue)
            return
        document = reader.document(source.catalogue)
        form = _form(document, source)
        read: Mapping[str, Callable[..., Iterator[Listed]]] = {"api": _search, "catalog": _walk, "items": _embedded}
        yield from read[form](reader, document, source.catalogue)


@contextmanager
def _reader(source: Source) -> Iterator[Reader]:
    http = StacHttp(source.timeout_s, source.retries)
    try:
        yield Reader(source, http)
    finally:
        http.close()


def _form(document: Mapping[str, Json], source: Source) -> Form:
    """Return what the document at the catalogue's address is, checked against the configured kind."""
    found: Form
    if document.get("type") in ("FeatureCollection", "Feature"):
        found = "items"
    elif "conformsTo" in document or _search_link(document) is not None:
        # A landing page is a catalogue too and is walked as one when asked to.
        found = "catalog" if source.kind == "catalog" else "api"
    elif document.get("type") in ("Catalog", "Collection"):
        found = "catalog"
    else:
        message = f"{source.catalogue}: type {document.get('type')!r} is no STAC catalogue, API, collection or item"
        raise CatalogError(f"{message}; check source.catalogue", kind="answer")
    if source.kind not in ("auto", found):
        raise ConfigError(f"{source.catalogue}: is of kind {found}, configured is {source.kind}; correct source.kind")
    return found


def _folder(reader: Reader, folder: Path) -> Iterator[Listed]:
    root = folder / "catalog.json"
    if root.is_file() and reader.source.kind in ("auto", "catalog"):
        yield from _walk(reader, reader.document(str(root)), str(root))
        return
    files = sorted(folder.glob("*.json"))
    if reader.source.kind not in ("auto", "items") or not files:
        raise ConfigError(f"{folder}: a folder holds catalog.json or item files (*.json); found {len(files)} files; correct it")
    yield from (_item(reader, str(path), "") for path in files)


def _embedded(reader: Reader, document: Mapping[str, Json], address: str) -> Iterator[Listed]:
    features = [document] if document.get("type") == "Feature" else document.get("features")
    if not isinstance(features, list):
        raise CatalogError(f"{address}: features is {type(features).__name__}, expected a list; check the file", kind="answer")
    yield from _features(features, address)


def _features(features: list[Json], address: str, collection: str = "") -> Iterator[Listed]:
    for number, feature in enumerate(features):
        if isinstance(feature, dict):
            yield Listed(address, item=feature, embedded=True, collection=collection)
        else:
            message = f"{address}: feature {number} is {type(feature).__name__}, expected an item; report it"
            yield Listed(address, embedded=True, error=SourceError(message, kind="item"))


def _rows(text: str, address: str) -> Iterator[Listed]:
    table = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")), restkey="", restval="")
    try:
        if "href" not in (table.fieldnames or ()):
            found = ", ".join(table.fieldnames or ())[:200]
            raise CatalogError(f"{address}: columns are {found!r}, expected one named href; correct the list", kind="answer")
        for row in table:
            values = {key: value.strip() for key, value in row.items() if key and isinstance(value, str)}
            if any(values.values()):
                yield Listed(address, row=values)
    except csv.Error as error:
        raise CatalogError(f"{address}: line {table.line_num}: not CSV ({error}); correct the list", kind="answer") from None


def _walk(reader: Reader, root: Mapping[str, Json], address: str) -> Iterator[Listed]:
    """Walk a static catalogue depth first, each catalogue once."""
    seen: set[str] = {address}
    pending: list[tuple[str, Mapping[str, Json]]] = [(address, root)]
    while pending:
        place, document = pending.pop()
        parent = str(document.get("id", "")) if document.get("type") == "Collection" else ""
        links = _links(document, place)
        with ThreadPoolExecutor(N_READERS) as pool:
            for part in batched([href for rel, href in links if rel == "item"], N_READERS * 8):
                yield from pool.map(lambda href, parent=parent: _item(reader, href, parent), part)
        for href in reversed([href for rel, href in links if rel == "child"]):
            if href not in seen:
                seen.add(href)
                pending.append((href, _child(reader, href)))


def _child(reader: Reader, href: str) -> Mapping[str, Json]:
    try:
        document = reader.document(href)
    except FileNotFoundError:
        raise CatalogError(f"{href}: a child of the catalogue is not there; mend the catalogue", kind="answer") from None
    if document.get("type") not in ("Catalog", "Collection"):
        raise CatalogError(f"{href}: a child of the catalogue is {document.get('type')!r}; mend the catalogue", kind="answer")
    return document


def _item(reader: Reader, href: str, collection: str) -> Listed:
    """Read one item document; a broken or missing one is told, an outage raises."""
    try:
        document = reader.document(href)
    except FileNotFoundError:
        error = SourceError(f"{href}: the item is not there; mend the catalogue", kind="missing")
    except CatalogError as refused:
        error = SourceError(refused.message, kind="missing" if refused.kind == "refused" else "metadata")
    else:
        if document.get("type") == "Feature":
            return Listed(href, item=document, collection=collection)
        error = SourceError(f"{href}: type {document.get('type')!r}, expected an item (Feature)", kind="item")
    return Listed(href, collection=collection, error=error)


def _search(reader: Reader, landing: Mapping[str, Json], address: str) -> Iterator[Listed]:
    """Search an API, one collection after the other, in a total order where it can sort."""
    source, link = reader.source, _search_link(landing)
    if not source.collections:
        raise ConfigError(f"{address}: source.collections is empty; name the collections to take from this API")
    if link is None:
        raise CatalogError(f"{address}: the API offers no search; use kind 'catalog' or another address", kind="answer")
    conforms = landing.get("conformsTo")
    can_sort = (
        any(re.match(ConformanceClasses.SORT.pattern, str(uri)) for uri in conforms) if isinstance(conforms, list) else False
    )
    for collection in source.collections:
        search = ItemSearch(
            urljoin(address, link["href"]),
            method=link.get("method", "GET"),
            stac_io=reader.http,
            limit=source.page_size,
            collections=[collection],
            ids=list(source.ids) or None,
            bbox=source.bbox,
            datetime=_interval(source.datetime),
            # Paging by key needs a total order; within one collection the id makes it one.
            sortby=["+properties.datetime", "+id"] if can_sort else None,
        )
        for page in reader.http.get_pages(search.url, search.method, search.get_parameters()):
            yield from _features(page["features"], search.url)


def _search_link(document: Mapping[str, Json]) -> Mapping[str, Json] | None:
    """Return the link to the search, by POST where offered."""
    links = document.get("links")
    found = [one for one in links if isinstance(one, dict) and one.get("rel") == "search"] if isinstance(links, list) else []
    found = [one for one in found if isinstance(one.get("href"), str)]
    return next((one for one in found if str(one.get("method")).upper() == "POST"), found[0] if found else None)


def _interval(text: str | None) -> tuple[datetime | None, datetime | None] | None:
    ends = parse_range(text) if text else (None, None)
    return ends if any(ends) else None


def _links(document: Mapping[str, Json], base: str) -> list[tuple[str, str]]:
    links = document.get("links")
    if not isinstance(links, list):
        raise CatalogError(f"{base}: links is {type(links).__name__}, expected a list; mend the catalogue", kind="answer")
    found = [one for one in links if isinstance(one, dict) and isinstance(one.get("href"), str)]
    return [(str(one.get("rel")), _joined(base, one["href"])) for one in found]


def _joined(base: str, href: str) -> str:
    if "://" in href or "://" in base:
        return urljoin(base, href)
    return os.path.normpath(os.path.join(os.path.dirname(base), href))
