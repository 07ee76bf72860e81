"""A real little STAC API on 127.0.0.1: pages by POST token, serves recorded pages and files, and misbehaves when told to."""

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

Item = dict[str, Any]

SEARCH = "https://api.stacspec.org/v1.0.0/item-search"
SORT = "https://api.stacspec.org/v1.0.0/item-search#sort"


@dataclass
class Fault:
    """One way to misbehave, for the first ``n`` requests that ``path`` is part of (after ``after`` good ones)."""

    kind: Literal["status", "hang", "garbage", "reset", "cut", "short", "empty_then_next", "duplicate", "circle", "list"]
    """``cut`` ends the connection inside the body; ``short`` leaves items out of a page that states its number."""
    path: str = "/search"
    n: int = 1
    after: int = 0
    status: int = 503


@dataclass
class StacServer:
    """What is served and what was asked; read ``requests`` after the test."""

    items: list[Item] = field(default_factory=list)
    page_size: int = 100
    sorts: bool = True
    numbers: bool = False
    """State numberMatched and numberReturned."""
    recorded: list[dict[str, Any]] = field(default_factory=list)
    """Recorded ``{"request", "response"}`` pages; replace the search."""
    folder: Path | None = None
    """Served below ``/files``."""
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    """Method, path and parsed body of every request."""
    queries: list[str] = field(default_factory=list)
    """Query of every request."""
    url: str = ""
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def paths(self, part: str) -> list[Any]:
        """Bodies of the requests whose path contains ``part``."""
        return [body for _, path, body in self.requests if part in path]

    def fault(self, path: str) -> Fault | None:
        """Return the fault that this request meets, and use it up."""
        with self.lock:
            for fault in self.faults:
                if fault.path in path:
                    if fault.after:
                        fault.after -= 1
                    elif fault.n:
                        fault.n -= 1
                        return fault
        return None

    def landing(self) -> dict[str, Any]:
        """Landing page."""
        link = {"rel": "search", "type": "application/geo+json", "href": f"{self.url}/search"}
        return {
            "type": "Catalog",
            "stac_version": "1.1.0",
            "id": "local",
            "description": "A local catalogue",
            "conformsTo": [SEARCH, *([SORT] if self.sorts else [])],
            "links": [{**link, "method": "GET"}, {**link, "method": "POST"}],
        }

    def search(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """One page of a search; the token is ``next:<collection>:<id>`` of the last item of the page before."""
        found = [item for item in self.items if item["collection"] in body.get("collections", [item["collection"]])]
        if ids := body.get("ids"):
            found = [item for item in found if item["id"] in ids]
        if interval := body.get("datetime"):
            found = [item for item in found if _within(item["properties"]["datetime"], interval)]
        for key in reversed(body.get("sortby") or []):
            found.sort(key=lambda item, key=key: _value(item, key["field"]), reverse=key["direction"] == "desc")
        start = 0
        if token := body.get("token"):
            _, collection, last = token.split(":")
            start = [(i["collection"], i["id"]) for i in found].index((collection, last)) + 1
        page = found[start : start + min(self.page_size, body.get("limit", 10))]
        more = start + len(page) < len(found)
        return self.page(page, body, f"next:{page[-1]['collection']}:{page[-1]['id']}" if more else "", len(found))

    def page(self, items: Sequence[Item], body: Mapping[str, Any], token: str, matched: int) -> dict[str, Any]:
        """Feature collection with a next link by POST."""
        links = [{"rel": "root", "href": self.url}]
        if token:
            after = {"rel": "next", "method": "POST", "href": f"{self.url}/search", "body": {**body, "token": token}}
            links.append({**after, "merge": False, "type": "application/geo+json"})
        numbers = {"numberMatched": matched, "numberReturned": len(items)} if self.numbers else {}
        return {"type": "FeatureCollection", "features": list(items), "links": links, **numbers}

    def replay(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The recorded page whose request had the same token, its links leading here."""
        wanted = {key: body[key] for key in ("token", "next") if key in body}
        for record in self.recorded:
            asked = _as_json(record["request"]["body"]) or {}
            if {key: asked[key] for key in ("token", "next") if key in asked} == wanted:
                page = json.loads(json.dumps(record["response"]))
                page["links"] = [{**link, "href": f"{self.url}/search"} for link in page["links"] if link["rel"] == "next"]
                return page
        raise KeyError(f"no recorded page for {wanted}")


@contextmanager
def stac_server(items: Sequence[Item] = (), kind: type[StacServer] = StacServer, **options: Any) -> Iterator[StacServer]:
    """Serve until the block ends."""
    served = kind(list(items), **options)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"served": served}))
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: StacServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(None)

    def do_HEAD(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(_as_json(self.rfile.read(int(self.headers.get("Content-Length", 0)))))

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def _answer(self, body: Any) -> None:
        path, query = urlsplit(self.path).path, urlsplit(self.path).query
        with self.served.lock:
            self.served.requests.append((self.command, path, body))
            self.served.queries.append(query)
        fault = self.served.fault(path)
        if fault and fault.kind in ("hang", "reset"):
            self.close_connection = True
            if fault.kind == "hang":
                self.served.stop.wait(30)
            else:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        if fault and fault.kind == "status":
            self._send(fault.status, b'{"code": "fault"}')
            return
        status, data = self._found(path, body, fault)
        if fault and fault.kind == "garbage":
            data = b"<html>Bad gateway</html>"
        self._send(status, data, whole=not (fault and fault.kind == "cut"))

    def _found(self, path: str, body: Any, fault: Fault | None) -> tuple[int, bytes]:
        if path.startswith("/files/") and self.served.folder is not None:
            file = self.served.folder / path.removeprefix("/files/")
            return (200, file.read_bytes()) if file.is_file() else (404, b"")
        if path == "/search":
            page = self.served.replay(body or {}) if self.served.recorded else self.served.search(body or {})
            return 200, json.dumps(_broken(page, fault, body) if fault else page).encode()
        return (200, json.dumps(self.served.landing()).encode()) if path in ("", "/") else (404, b"{}")

    def _send(self, status: int, data: bytes, *, whole: bool = True) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/geo+json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data if whole else data[: len(data) // 2])
        if not whole:
            self.wfile.flush()
            self.close_connection = True
            time.sleep(0.01)


def _broken(page: dict[str, Any], fault: Fault, body: Any) -> Any:
    if fault.kind == "short":
        return {**page, "features": page["features"][:-1]}
    if fault.kind == "list":
        return page["features"]
    if fault.kind == "duplicate":
        return {**page, "features": [*page["features"], page["features"][0]]}
    again = {"rel": "next", "method": "POST", "href": "/search", "body": body}
    if fault.kind == "empty_then_next":
        return {**page, "features": [], "links": [again]}
    if fault.kind == "circle":
        return {**page, "links": [again]}
    return page


def _as_json(data: Any) -> Any:
    return json.loads(data) if isinstance(data, str | bytes) and data else data


def _value(item: Item, path: str) -> Any:
    for key in path.split("."):
        item = item[key]
    return item


def _within(text: str, interval: str) -> bool:
    moment = datetime.fromisoformat(text)
    start, end = interval.split("/")
    return (start == ".." or datetime.fromisoformat(start) <= moment) and (end == ".." or moment <= datetime.fromisoformat(end))


def eopf_item(product_id: str, href: str, *, collection: str = "sentinel-2-l2a", **properties: Any) -> Item:
    """An item as the EOPF catalogue serves it: the product, one band, the zip, and no ``.zarr`` in the zip's address."""
    sensed = datetime.strptime(product_id.split("_")[2], "%Y%m%dT%H%M%S")
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": product_id,
        "collection": collection,
        "bbox": [9.0, 44.1, 10.4, 45.2],
        "geometry": {"type": "Point", "coordinates": [9.5, 44.5]},
        "properties": {
            "datetime": f"{sensed.isoformat()}.024000Z",
            "eo:cloud_cover": 5.0,
            "product:type": "S02MSIL2A" if "MSIL2A" in product_id else "S02MSIL1C",
            "updated": "2025-11-13T19:07:10Z",
            **properties,
        },
        "assets": {
            "SR_10m": {"href": f"{href}/measurements/reflectance/r10m"},
            "product": {"href": href},
            "zipped_product": {"href": f"https://zip.example.org/{product_id}.zarr.zip"},
        },
        "links": [],
    }


def product_id(number: int, day: str = "20250113") -> str:
    """A product name whose sensing time grows with ``number`` (seconds of the day)."""
    clock = f"{number // 3600 % 24:02d}{number // 60 % 60:02d}{number % 60:02d}"
    return f"S2B_MSIL2A_{day}T{clock}_N0511_R108_T32TLQ_{day}T235959"


def write_source(root: Path, *, zarr_format: int = 2, size_px: int = 180, note: str = "") -> Path:
    """Write the consolidated metadata of a little product without pixels, as a plan reads no more."""
    root.mkdir(parents=True, exist_ok=True)
    shapes = {
        "measurements/reflectance/r10m/b02": ([size_px, size_px], "<u2", "uint16"),
        "measurements/reflectance/r10m/x": ([size_px], "<i8", "int64"),
        "measurements/reflectance/r10m/y": ([size_px], "<i8", "int64"),
        "quality/l2a_quicklook/r10m/tci": ([3, size_px, size_px], "|u1", "uint8"),
    }
    groups = sorted({"/".join(path.split("/")[:n]) for path in shapes for n in (1, 2, 3)})
    if zarr_format == 2:
        nodes: dict[str, Any] = {f"{group}/.zgroup": {"zarr_format": 2} for group in groups}
        nodes |= {f"{path}/.zarray": {"shape": shape, "dtype": v2} for path, (shape, v2, _) in shapes.items()}
        nodes |= {".zgroup": {"zarr_format": 2}, ".zattrs": {"note": note}}
        (root / ".zmetadata").write_text(json.dumps({"metadata": nodes, "zarr_consolidated_format": 1}))
        return root
    nodes = {group: {"node_type": "group", "zarr_format": 3} for group in groups}
    nodes |= {path: {"node_type": "array", "shape": shape, "data_type": v3} for path, (shape, _, v3) in shapes.items()}
    inline = {"kind": "inline", "must_understand": False, "metadata": nodes}
    document = {"zarr_format": 3, "node_type": "group", "attributes": {"note": note}, "consolidated_metadata": inline}
    (root / "zarr.json").write_text(json.dumps(document))
    return root
