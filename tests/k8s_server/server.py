"""The API server: HTTP on 127.0.0.1, tokens, discovery, create, read, delete, logs, and a log of every request."""

import base64
import copy
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from k8s_server.access import ADMIN, Access
from k8s_server.admission import admit, is_finished
from k8s_server.certificate import make_certificate
from k8s_server.controller import OF_JOB, Controller, start_status
from k8s_server.discovery import discovery
from k8s_server.faults import Fault, Faults
from k8s_server.kubelet import Kubelet
from k8s_server.objects import BY_NAME, BY_RESOURCE, JOBS, PODS, ApiError, Kind, Object, Store, validated

ROUTE = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?"
)
REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}


@dataclass(frozen=True)
class Request:
    """One line of the request log."""

    user: str
    verb: str
    """As roles name it: create, get, list, delete, patch."""
    resource: str
    """With its subresource, e.g. ``pods/log``."""
    name: str
    code: int
    query: str
    group: str = ""


class KubernetesServer:
    """A cluster for one test; use as a context manager."""

    def __init__(
        self, root: Path, image_env: Mapping[str, str], *, max_pods: int = 2, grace_s: float = 2.0, seed: int = 0
    ) -> None:
        self.root = root
        self.store = Store()
        self.access = Access(self.store)
        self.faults = Faults(seed)
        self.kubelet = Kubelet(self.store, root, image_env, max_pods, grace_s)
        self.controller = Controller(self.store, self.kubelet, self.faults)
        self.kubelet.kubeconfig = lambda path, user, namespace: self.kubeconfig(path, self.access.token(user), namespace)
        self.vault: dict[str, dict[str, str]] = {}
        """What ExternalSecrets refer to: key, property, value."""
        self.requests: list[Request] = []
        self.posted: list[Object] = []
        """Every object that a client created, as it was posted."""
        self.admin = self.access.token(ADMIN)
        root.mkdir(parents=True, exist_ok=True)
        self.certificate = make_certificate(root)
        """Certificate of the server, to be trusted by clients."""
        self._port = 0
        self._http: _Http | None = None

    def __enter__(self) -> "KubernetesServer":
        self._listen()
        self.controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.controller.stop()
        self._hang_up()

    @property
    def url(self) -> str:
        """Address of the API."""
        return f"https://127.0.0.1:{self._port}"

    def load(self, text: str) -> None:
        """Create every object of a multi-document YAML text, as its administrator would."""
        for body in yaml.safe_load_all(text):
            if body:
                kind = BY_NAME[body["apiVersion"], body["kind"]]
                self.create(kind, body["metadata"].get("namespace", "default") if kind.namespaced else "", body)

    def kubeconfig(self, path: Path, token: str, namespace: str) -> Path:
        """Write a kubeconfig for one token."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority": str(self.certificate)}}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user", "namespace": namespace}}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def fault(self, *arguments: object, **options: object) -> Fault:
        """Arm a fault; see ``Fault``."""
        return self.faults.add(Fault(*arguments, **options))  # type: ignore[arg-type]  # passed on

    @contextmanager
    def away(self) -> Iterator[None]:
        """Refuse connections for a while, as an API server does that is being replaced; pods run on."""
        self._hang_up()
        try:
            yield
        finally:
            self._listen()

    def count(self, verb: str, resource: str, code: int | None = None) -> int:
        """Number of requests of one verb on one resource."""
        return sum(r.verb == verb and r.resource == resource and code in (None, r.code) for r in self.requests)

    def verbs(self, user: str) -> set[tuple[str, str, str]]:
        """API group, resource and verb of everything that a user asked for."""
        return {(r.group, r.resource, r.verb) for r in self.requests if r.user == user}

    def create(self, kind: Kind, namespace: str, body: Object) -> Object:
        """Validate, admit and keep an object."""
        body = validated(kind, body)
        with self.store.lock:
            if kind == JOBS:
                start_status(body)
            admit(self.store, kind, namespace, body)
            self.store.add(kind, namespace, body)
            if kind == JOBS:  # kubectl finds the pods of a Job by it
                body["spec"]["selector"] = {"matchLabels": {OF_JOB: body["metadata"]["uid"]}}
            if kind == PODS:
                self.kubelet.start(body, None)
            if kind.name == "ExternalSecret":
                self._keep_secret(namespace, body)
        self.controller.wake.set()
        return body

    def _keep_secret(self, namespace: str, body: Object) -> None:
        """Make the Secret of an ExternalSecret, as its operator would."""
        found = {
            item["secretKey"]: self.vault[item["remoteRef"]["key"]][item["remoteRef"]["property"]]
            for item in body["spec"]["data"]
        }
        data = {key: base64.b64encode(value.encode()).decode() for key, value in found.items()}
        name = body["spec"]["target"]["name"]
        self.create(BY_RESOURCE["", "secrets"], namespace, {"metadata": {"name": name}, "data": data})

    def note(self, request: Request) -> None:
        """Log one request."""
        self.requests.append(request)

    def _listen(self) -> None:
        self._http = _Http(("127.0.0.1", self._port), self)
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def _hang_up(self) -> None:
        if self._http:
            self._http.shutdown()
            self._http.server_close()
            self._http.drop_connections()
            self._http = None


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], cluster: KubernetesServer) -> None:
        self.cluster = cluster
        self.connections: set[socket.socket] = set()
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(cluster.certificate)
        super().__init__(address, _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:  # as the base class has them
        with suppress(OSError), self.tls.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)

    def drop_connections(self) -> None:
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def log_message(self, *_: object) -> None:
        pass

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):
            super().handle_one_request()
            return
        self.close_connection = True

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        cluster, parts = self.server.cluster, urlsplit(self.path)
        self._user, self._verb, self._resource, self._name, self._group = "", "", "", "", ""
        self._answer_is_lost = False
        try:
            if self._broken():
                return
            self._user = cluster.access.user(self.headers.get("Authorization"))
            code, answer = self._route(parts.path, parse_qs(parts.query), body)
        except ApiError as error:
            code, answer = error.code, error.status
        if self._answer_is_lost:
            self._cut()
            return
        self._send(code, answer)

    do_GET = do_POST = do_DELETE = do_PATCH = do_PUT = _answer  # noqa: N815 - names that http.server calls

    def _broken(self) -> bool:
        fault = self.server.cluster.faults.of_request(f"{self.command} {self.path}")
        self._answer_is_lost = fault is not None and fault.kind == "lost"
        if fault is None or fault.kind == "lost":
            return False
        if fault.kind == "slow":
            time.sleep(fault.after_s)
            return False
        if fault.kind == "reset":
            self._cut()
            return True
        raise ApiError(fault.code, REASONS[fault.code], "told to fail by the test")

    def _cut(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _route(self, path: str, query: Mapping[str, list[str]], body: bytes) -> tuple[int, Object | str]:
        if (found := discovery(path)) is not None:
            return 200, found
        match = ROUTE.fullmatch(path)
        kind = BY_RESOURCE.get(("" if match["core"] else match["group"], match["resource"])) if match else None
        if match is None or kind is None:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        namespace, name, sub = match["namespace"] or "", match["name"] or "", match["sub"] or ""
        verbs = {"POST": "create", "GET": "get" if name else "list", "DELETE": "delete", "PATCH": "patch", "PUT": "update"}
        self._verb, self._name, self._group = verbs[self.command], name, kind.group
        self._resource = f"{kind.resource}/{sub}" if sub else kind.resource
        self.server.cluster.access.check(self._user, self._verb, kind, sub, namespace, name)
        if self.command == "GET":
            return 200, self._log(namespace, name, query) if sub == "log" else self._read(kind, namespace, name, query)
        if self.command == "DELETE":
            return 200, self._delete(kind, namespace, name, query, body)
        if "protobuf" in self.headers.get("Content-Type", ""):
            raise ApiError(415, "UnsupportedMediaType", "the body of the request was in an unknown format: JSON or YAML is known")
        posted = yaml.safe_load(body)
        if self.command == "POST":
            as_posted = copy.deepcopy(posted)
            created = self.server.cluster.create(kind, namespace, posted)
            self.server.cluster.posted.append(as_posted)  # not a POST that met its own 409
            return 201, self._copy(created)
        return 200, self._copy(self._change(kind, namespace, name, posted))

    def _read(self, kind: Kind, namespace: str, name: str, query: Mapping[str, list[str]]) -> Object:
        store = self.server.cluster.store
        with store.lock:
            if name:
                return self._copy(store.get(kind, namespace, name))
            text = query.get("labelSelector", [""])[0]
            labels = dict(part.split("=", 1) for part in text.replace("==", "=").split(",") if part)
            items = [self._copy(item) for item in store.find(kind, namespace or None, labels)]
        return {"apiVersion": kind.api_version, "kind": f"{kind.name}List", "metadata": {"resourceVersion": "1"}, "items": items}

    def _copy(self, value: Object) -> Object:
        """Return what an object is now: the stored one goes on changing."""
        with self.server.cluster.store.lock:
            return copy.deepcopy(value)

    def _delete(self, kind: Kind, namespace: str, name: str, query: Mapping[str, list[str]], body: bytes) -> Object:
        options = yaml.safe_load(body) or {} if body else {}
        policy = query.get("propagationPolicy", [options.get("propagationPolicy", "Background")])[0]
        value = self.server.cluster.controller.delete(kind, namespace, name, orphan=policy == "Orphan")
        if kind == PODS:
            return self._copy(value)
        details = {"name": name, "kind": kind.resource, "uid": value["metadata"]["uid"]}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _change(self, kind: Kind, namespace: str, name: str, patch: Object) -> Object:
        """Merge a patch; server-side apply creates what is not there."""
        store = self.server.cluster.store
        with store.lock:
            if "apply-patch" in self.headers.get("Content-Type", "") and not any(
                value["metadata"]["name"] == name for value in store.find(kind, namespace)
            ):
                return self.server.cluster.create(kind, namespace, patch)
            value = store.get(kind, namespace, name)
            _merge(value, patch)
            store.touch(value)
            return value

    def _log(self, namespace: str, name: str, query: Mapping[str, list[str]]) -> str:
        cluster = self.server.cluster
        pod = cluster.store.get(PODS, namespace, name)
        containers = [container["name"] for container in pod["spec"]["containers"]]
        container = query.get("container", containers)[0]
        if container not in containers:
            raise ApiError(400, "BadRequest", f"container {container} is not valid for pod {name}")
        if query.get("previous", ["false"])[0].lower() in ("true", "1"):
            text = f'previous terminated container "{container}" in pod "{name}" not found'
            raise ApiError(400, "BadRequest", text)
        deadline = time.monotonic() + 60  # who follows a pod that is just being made does not have to hit the moment
        while query.get("follow") == ["true"] and pod["status"]["phase"] == "Pending" and time.monotonic() < deadline:
            time.sleep(0.05)
        states = [status["state"] for status in pod["status"].get("containerStatuses", ())]
        if not states or "waiting" in states[0]:
            reason = states[0]["waiting"]["reason"] if states else "ContainerCreating"
            raise ApiError(400, "BadRequest", f'container "{container}" in pod "{name}" is waiting to start: {reason}')
        while query.get("follow") == ["true"] and not is_finished(pod) and cluster.kubelet.pods.get(name):
            if cluster.kubelet.pods[name].stopped.wait(0.1):
                break
        return cluster.kubelet.pods[name].log.read_text(errors="replace")

    def _send(self, code: int, answer: Object | str) -> None:
        data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        line = Request(self._user, self._verb, self._resource, self._name, code, urlsplit(self.path).query, self._group)
        self.server.cluster.note(line)  # before the answer: who has it may count at once
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        if code == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(data)


def _merge(value: Object, patch: Object) -> None:
    for key, new in patch.items():
        if isinstance(new, dict) and isinstance(value.get(key), dict):
            _merge(value[key], new)
        elif new is None:
            value.pop(key, None)
        else:
            value[key] = new
