"""An HTTP proxy on 127.0.0.1 that stands before any server and misbehaves by rules that change while it runs.

It reads whole request and answer heads, so rules choose by method and path, and every request is counted. Bodies are passed on
as they come. Host and signature stay as the client sent them, so signed S3 requests pass.
"""

import asyncio
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from signing import without

Kind = Literal["answer", "refuse", "latency", "hang", "cut", "reset", "throttle", "lost", "strip", "flip-up", "flip-down"]
"""What happens to a request.

``answer`` gives ``status`` and ``body``, or an S3 error with ``code``, instead of passing the request on; ``refuse`` resets the
connection at once; ``latency`` waits ``seconds`` first; ``hang`` says nothing for ``seconds``, then closes; ``cut`` closes and
``reset`` resets after ``n_bytes`` of the answer's body; ``throttle`` passes ``rate`` bytes a second each way; ``lost`` passes the
request on and resets instead of answering; ``strip`` passes it on without the header ``header``; ``flip-up`` and ``flip-down``
change one byte in the middle of the body sent or received.
"""

_PIECE = 1 << 16


@dataclass
class Rule:
    """One way to misbehave; the first rule that matches a request counts."""

    kind: Kind
    method: str = ""
    """Regular expression on the whole method; empty is any."""
    path: str = ""
    """Regular expression found in path and query; empty is any."""
    p: float = 1.0
    """Probability for each request that matches."""
    seed: int = 0
    after: int = 0
    """Let this many matching requests pass first."""
    n: int | None = None
    """Meet at most this many requests; None is no bound."""
    status: int = 503
    code: str = "SlowDown"
    body: str = ""
    """Body of an answer; empty is an S3 error with ``code``."""
    retry_after: str | None = None
    """``Retry-After`` header of an answer."""
    headers: tuple[str, ...] = ()
    """Further lines of the head of an answer."""
    header: str = ""
    """Name in small letters of the header that is taken away."""
    seconds: float = 30.0
    n_bytes: int = 0
    rate: float = 1e6
    n_met: int = 0
    """Requests that met this rule."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def takes(self, method: str, path: str) -> bool:
        """Return whether this request meets the rule, and count it."""
        if self.method and not re.fullmatch(self.method, method):
            return False
        if self.path and not re.search(self.path, path):
            return False
        if self.after:
            self.after -= 1
            return False
        if (self.n is not None and self.n_met >= self.n) or self._random.random() >= self.p:
            return False
        self.n_met += 1
        return True


def slow_down(**options: object) -> Rule:
    """503 as object stores say it when asked too often."""
    return Rule(kind="answer", status=503, code="SlowDown", retry_after="0", **options)  # type: ignore[arg-type]


def denied(**options: object) -> Rule:
    """403."""
    return Rule(kind="answer", status=403, code="AccessDenied", **options)  # type: ignore[arg-type]


def expired(**options: object) -> Rule:
    """Credentials whose session token is too old."""
    return Rule(kind="answer", status=400, code="ExpiredToken", **options)  # type: ignore[arg-type]


def wrong_clock(**options: object) -> Rule:
    """The client's time is too far from the server's."""
    return Rule(kind="answer", status=403, code="RequestTimeTooSkewed", **options)  # type: ignore[arg-type]


def no_conditions(**options: object) -> Rule:
    """A service that ignores the conditions of conditional writes."""
    return Rule(kind="strip", method="PUT|POST", header="if-none-match", **options)  # type: ignore[arg-type]


def no_bucket(**options: object) -> Rule:
    """404 of the bucket, not of a key."""
    return Rule(kind="answer", status=404, code="NoSuchBucket", **options)  # type: ignore[arg-type]


@dataclass(slots=True)
class Request:
    """One request that came in."""

    method: str
    path: str
    """Path and query."""
    rule: Rule | None
    """The rule that it met."""
    at: float = field(default_factory=time.time)
    """When it came, seconds since the epoch."""
    status: int = 0
    """What the server answered, also where the client never heard of it; 0 when it was not asked."""


@dataclass
class FaultProxy:
    """A running proxy: change ``rules``, read ``requests``."""

    upstream: str
    url: str = ""
    rules: list[Rule] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    on_upload: Any = lambda path, n_bytes: None  # Any: a function
    """Told of each PUT that is passed on: path and query, and the bytes of its body."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, rule: Rule) -> Rule:
        """Put a rule behind the others and return it."""
        self.rules = [*self.rules, rule]
        return rule

    def count(self, method: str = "", path: str = "") -> int:
        """Return how many requests had this method and matched this pattern in path and query."""
        return sum(1 for r in self.requests if (not method or r.method == method) and re.search(path, r.path))

    def clear(self) -> None:
        """Forget rules and requests."""
        self.rules, self.requests = [], []

    def take(self, method: str, path: str) -> Request:
        """Note a request with the rule that it meets."""
        with self._lock:
            request = Request(method, path, next((rule for rule in self.rules if rule.takes(method, path)), None))
            self.requests.append(request)
        return request


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Stand before ``upstream`` (``http://host:port``) until the block ends."""
    proxy = FaultProxy(upstream)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    front = _Front(proxy)
    proxy.url = asyncio.run_coroutine_threadsafe(front.start(), loop).result()
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(front.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Front:
    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy, self._tasks = proxy, set[asyncio.Task[None]]()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1 << 20)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await _Connection(self._proxy, reader, writer).serve()
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # either side went away
        finally:
            self._tasks.discard(task)
            await _close(writer)


class _Connection:
    """One connection of a client and, while it lasts, one to the server."""

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy, self._reader, self._writer = proxy, reader, writer
        self._server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def serve(self) -> None:
        try:
            while True:
                head = await _head(self._reader)
                method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
                if not await self._exchange(head, self._proxy.take(method, path)):
                    return
        finally:
            if self._server:
                await _close(self._server[1])

    async def _exchange(self, head: bytes, request: Request) -> bool:
        """Answer one request; return whether the connection goes on."""
        method, rule = request.method, request.rule
        kind = rule.kind if rule else ""
        if kind == "refuse":
            return _reset(self._writer)
        if rule and kind in ("latency", "hang"):
            await asyncio.sleep(rule.seconds)
            if kind == "hang":
                return False
        if rule and kind == "answer":
            return await self._answer(head, method, rule)
        if method == "PUT":
            self._proxy.on_upload(head.split(b" ", 2)[1].decode("latin-1"), max(_length(head), 0))
        if self._server is None:
            parts = urlsplit(self._proxy.upstream)
            self._server = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
        server_reader, server_writer = self._server
        server_writer.write(without(head, rule.header) if rule and kind == "strip" else head)
        up = asyncio.create_task(_pass_body(self._reader, server_writer, _length(head), rule if kind != "flip-down" else None))
        try:
            answer = await self._answer_head(server_reader)
            request.status = int(answer.split(b" ", 2)[1][:3])
            if rule and kind == "lost":
                await up
                return _reset(self._writer)
            self._writer.write(answer)
            await self._writer.drain()
            length = 0 if method == "HEAD" or answer.split(b" ", 2)[1][:3] in (b"204", b"304") else _length(answer, to_end=True)
            down = rule if kind in ("cut", "reset", "throttle", "flip-down") else None
            whole = await _pass_body(server_reader, self._writer, length, down)
        finally:
            done = up.done()
            if not done:
                up.cancel()
            await asyncio.gather(up, return_exceptions=True)
        if not whole and kind == "reset":
            return _reset(self._writer)
        return whole and done and length != _TO_END and b"connection: close" not in (head + answer).lower()

    async def _answer_head(self, reader: asyncio.StreamReader) -> bytes:
        """Return the head of the final answer; ``100 Continue`` goes to the client at once."""
        while True:
            answer = await _head(reader)
            if answer.split(b" ", 2)[1][:1] != b"1":
                return answer
            self._writer.write(answer)
            await self._writer.drain()

    async def _answer(self, head: bytes, method: str, rule: Rule) -> bool:
        """Give an answer of our own. A body that the client only sends when asked to is not asked for."""
        waits = b"100-continue" in head.lower()
        if not waits:
            await _pass_body(self._reader, None, _length(head), None)
        error = f"<?xml version='1.0'?><Error><Code>{rule.code}</Code><Message>fault</Message></Error>"
        text = (rule.body or error).encode()
        lines = [f"HTTP/1.1 {rule.status} Fault", "Content-Type: application/xml", f"Content-Length: {len(text)}"]
        lines += [f"Retry-After: {rule.retry_after}"] if rule.retry_after is not None else []
        lines += rule.headers
        lines += ["Connection: close"] if waits else []
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else text))
        await self._writer.drain()
        return not waits


_CHUNKED, _TO_END = -1, -2


def _length(head: bytes, *, to_end: bool = False) -> int:
    """Return the length of the body that follows a head; ``_CHUNKED``, or ``_TO_END`` when the connection's end ends it."""
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    if b"chunked" in fields.get(b"transfer-encoding", b""):
        return _CHUNKED
    if b"content-length" in fields:
        return int(fields[b"content-length"])
    return _TO_END if to_end else 0


async def _head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def _pass_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None, length: int, rule: Rule | None) -> bool:
    """Pass a body on (or throw it away); return whether it went whole."""
    passed = 0
    async for piece, is_data in _pieces(reader, length):
        data = piece
        if rule and is_data:
            if rule.kind in ("cut", "reset") and passed + len(data) > rule.n_bytes:
                if writer:
                    writer.write(data[: rule.n_bytes - passed])
                    await writer.drain()
                return False
            if rule.kind == "throttle":
                await asyncio.sleep(len(data) / rule.rate)
            if rule.kind.startswith("flip") and passed <= max(length // 2, 0) < passed + len(data):
                place = max(length // 2, 0) - passed
                data = data[:place] + bytes([data[place] ^ 0x01]) + data[place + 1 :]
        passed += len(piece) if is_data else 0
        if writer:
            writer.write(data)
            await writer.drain()
    return True


async def _pieces(reader: asyncio.StreamReader, length: int):  # type: ignore[no-untyped-def]
    """Yield a body piece by piece, and whether each is data (or framing of a chunked body)."""
    if length == _CHUNKED:
        while True:
            line = await reader.readuntil(b"\r\n")
            yield line, False
            size = int(line.split(b";")[0], 16)
            async for piece, _ in _pieces(reader, size):
                yield piece, True
            if size == 0:
                while line != b"\r\n":
                    line = await reader.readuntil(b"\r\n")
                    yield line, False
                return
            yield await reader.readexactly(2), False
    remaining = length
    while remaining:
        piece = await reader.read(min(_PIECE, remaining) if remaining > 0 else _PIECE)
        if not piece:
            if length == _TO_END:
                return
            raise EOFError("the other side went away inside a body")
        remaining -= len(piece) if remaining > 0 else 0
        yield piece, True


def _reset(writer: asyncio.StreamWriter) -> bool:
    """Let the connection end with a reset; always False."""
    handle: socket.socket = writer.get_extra_info("socket")
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
