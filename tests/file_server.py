"""Files of a folder over HTTP on 127.0.0.1, as data hosts serve them: ranges, and entity tags or none."""

import gzip
import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

Part = Literal["right", "cut", "short", "open", "untold"]


@dataclass
class FileServer:
    """What is served and how."""

    folder: Path
    tags: Literal["etag", "none"] = "none"
    """Whether answers carry an entity tag; the host of EOPF products sends none."""
    ranges: bool = True
    absent: int = 404
    """Status of what is not there; buckets that must not be listed say 403. A redirect leads to itself."""
    head: int = 200
    """Status of every HEAD where it is not done at all."""
    length: bool = True
    """Whether answers tell how long they are; without, a body comes in pieces (chunked transfer coding)."""
    part: Part = "right"
    """How a range is answered: ``cut`` sends half of the bytes that the head tells of, ``short`` half of the range, ``open``
    does not tell the size of the object, ``untold`` not even the range."""
    gzip: bool = False
    """Whether every object is sent gzip-encoded, and no range."""
    url: str = ""

    def href(self, path: Path) -> str:
        """Return the address of a file or folder below ``folder``."""
        return f"{self.url}/{path.relative_to(self.folder).as_posix()}"


@contextmanager
def file_server(
    folder: Path,
    *,
    tags: Literal["etag", "none"] = "none",
    ranges: bool = True,
    absent: int = 404,
    head: int = 200,
    length: bool = True,
    part: Part = "right",
    gzip: bool = False,
) -> Iterator[FileServer]:
    """Serve until the block ends."""
    served = FileServer(folder, tags, ranges, absent, head, length, part, gzip)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"served": served}))
    with running(server) as served.url:
        yield served


@contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[str]:
    """Let a server serve until the block ends; its address is yielded."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay quiet when a client goes away."""


_CHUNKED = {"Transfer-Encoding": "chunked"}


class _Handler(BaseHTTPRequestHandler):
    served: FileServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        path = self.served.folder / unquote(urlsplit(self.path).path).lstrip("/")
        if not path.is_file():
            self._send(self.served.absent, b"", {"Location": self.path} if 300 <= self.served.absent < 400 else {})
            return
        data = path.read_bytes()
        headers = {"Accept-Ranges": "bytes"} if self.served.ranges else {}
        if self.served.tags == "etag":
            headers["ETag"] = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
            if self.headers.get("If-Match") not in (None, headers["ETag"]):
                self._send(412, b"", headers)
                return
        if self.served.gzip:
            self._send(200, gzip.compress(data), {**headers, "Content-Encoding": "gzip"})
            return
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not wanted or not self.served.ranges:
            self._send(200, data, headers)
            return
        first, last = wanted.groups()
        start = int(first) if first else len(data) - int(last)
        stop = min(int(last) + 1, len(data)) if first and last else len(data)
        if start >= len(data):
            self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        part, middle = self.served.part, (start + stop) // 2
        told, size = middle if part == "short" else stop, "*" if part == "open" else len(data)
        if part != "untold":
            headers["Content-Range"] = f"bytes {start}-{told - 1}/{size}"
        self._send(206, data[start : middle if part in ("cut", "short") else stop], headers)

    def do_HEAD(self) -> None:
        if self.served.head == 200:
            self.do_GET()
        else:
            self._send(self.served.head, b"", {})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        tells = self.served.length or not data
        for name, value in {**headers, **({"Content-Length": str(len(data))} if tells else _CHUNKED)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data if tells else b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))

    def log_message(self, *_: object) -> None:
        """Stay quiet."""
