"""A stand-in for a security token service: keys for a web identity token, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from file_server import running

ANSWER = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>
<Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{token}</SessionToken>
<Expiration>{until}</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""


@dataclass
class StsServer:
    """A running service: what it gives next, and what it was asked with."""

    url: str
    gives: list[tuple[str, str, float]]
    """Access key, secret and seconds of life of each answer; the last one is given again and again."""
    tokens: list[str] = field(default_factory=list)
    """Web identity tokens that came."""


@contextmanager
def sts_server(*gives: tuple[str, str, float]) -> Iterator[StsServer]:
    """Run a service on a free port until the block ends."""
    served = StsServer("", list(gives))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            assert form["Action"] == ["AssumeRoleWithWebIdentity"]
            served.tokens.append(form["WebIdentityToken"][0])
            key, secret, life_s = served.gives.pop(0) if len(served.gives) > 1 else served.gives[0]
            until = (datetime.now(UTC) + timedelta(seconds=life_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
            body = ANSWER.format(key=key, secret=secret, token="of-a-session", until=until).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with running(server) as served.url:
        yield served
