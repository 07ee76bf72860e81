"""Objects of the cluster: what kinds there are, what a valid one is, who owns whom."""

import copy
import re
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import kubernetes_validate

Object = dict[str, Any]

SCHEMA_VERSION = "1.34"


@dataclass(frozen=True)
class Kind:
    """One kind of object."""

    group: str
    version: str
    resource: str
    name: str
    namespaced: bool = True
    subresources: tuple[str, ...] = ()
    custom: bool = False
    """Defined by an operator of the cluster: there is no schema to check it with."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """Resource as messages name it."""
        return f"{self.resource}.{self.group}" if self.group else self.resource


KINDS = (
    Kind("", "v1", "namespaces", "Namespace", namespaced=False),
    Kind("", "v1", "secrets", "Secret"),
    Kind("", "v1", "configmaps", "ConfigMap"),
    Kind("", "v1", "serviceaccounts", "ServiceAccount"),
    Kind("", "v1", "resourcequotas", "ResourceQuota"),
    Kind("", "v1", "limitranges", "LimitRange"),
    Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
    Kind("", "v1", "events", "Event"),
    Kind("", "v1", "pods", "Pod", subresources=("log", "status")),
    Kind("", "v1", "nodes", "Node", namespaced=False),
    Kind("batch", "v1", "jobs", "Job", subresources=("status",)),
    Kind("batch", "v1", "cronjobs", "CronJob"),
    Kind("rbac.authorization.k8s.io", "v1", "roles", "Role"),
    Kind("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
    Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
    Kind("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False),
    Kind("external-secrets.io", "v1", "externalsecrets", "ExternalSecret", custom=True),
)
BY_RESOURCE = {(kind.group, kind.resource): kind for kind in KINDS}
BY_NAME = {(kind.api_version, kind.name): kind for kind in KINDS}
JOBS, PODS, EVENTS = BY_RESOURCE["batch", "jobs"], BY_RESOURCE["", "pods"], BY_RESOURCE["", "events"]


class ApiError(Exception):
    """An answer that is not a success, as a ``Status`` object."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }


def not_found(kind: Kind, name: str) -> ApiError:
    """Return the answer for an object that is not there."""
    return ApiError(404, "NotFound", f'{kind.qualified} "{name}" not found')


def now() -> str:
    """Return the time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Store:
    """Every object of the cluster. All methods may be called from any thread."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    _objects: dict[tuple[Kind, str, str], Object] = field(default_factory=dict)
    _version: int = 0

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """Return one object, the stored one: change it under ``lock`` only."""
        with self.lock:
            try:
                return self._objects[kind, namespace, name]
            except KeyError:
                raise not_found(kind, name) from None

    def find(self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> list[Object]:
        """Return objects of one kind, all namespaces when it is None, in order of creation."""
        with self.lock:
            return [
                value
                for (of, where, _), value in self._objects.items()
                if of == kind
                and namespace in (None, where)
                and all(value["metadata"].get("labels", {}).get(k) == v for k, v in (labels or {}).items())
            ]

    def owned(self, kind: Kind, owner: Object) -> list[Object]:
        """Return objects of one kind that ``owner`` owns."""
        return [value for value in self.find(kind) if is_owned_by(value, owner)]

    def add(self, kind: Kind, namespace: str, body: Object) -> Object:
        """Keep a new object; it must have been validated."""
        with self.lock:
            metadata = body.setdefault("metadata", {})
            if "generateName" in metadata and "name" not in metadata:
                names = (metadata["generateName"] + uuid.uuid4().hex[:5] for _ in range(100))  # a server tries several too
                metadata["name"] = next(name for name in names if (kind, namespace, name) not in self._objects)
            name = str(metadata["name"])
            if (kind, namespace, name) in self._objects:
                raise ApiError(409, "AlreadyExists", f'{kind.qualified} "{name}" already exists')
            if kind.namespaced:
                metadata["namespace"] = namespace
            metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
            self._objects[kind, namespace, name] = body
            self.touch(body)
            return body

    def touch(self, value: Object) -> None:
        """Note that an object changed."""
        with self.lock:
            self._version += 1
            value["metadata"]["resourceVersion"] = str(self._version)

    def remove(self, kind: Kind, namespace: str, name: str) -> Object:
        """Drop an object; what it owns is the caller's to drop."""
        with self.lock:
            value = self.get(kind, namespace, name)
            del self._objects[kind, namespace, name]
            return value

    def dependents(self, owner: Object) -> Iterator[tuple[Kind, Object]]:
        """Yield what an object owns."""
        with self.lock:
            items = list(self._objects.items())
        yield from ((kind, value) for (kind, _, _), value in items if is_owned_by(value, owner))


def is_owned_by(value: Object, owner: Object) -> bool:
    """Tell whether ``owner`` is among the owners of ``value``."""
    owners: Iterable[Object] = value["metadata"].get("ownerReferences", ())
    return any(reference["uid"] == owner["metadata"]["uid"] for reference in owners)


def validated(kind: Kind, body: Object) -> Object:
    """Return what a client sent as the server keeps it: kind filled in, checked against the schema of the API.

    Raises: ApiError: a field is unknown (400) or a value is not allowed (422), in the words of an API server.
    """
    body = {"apiVersion": kind.api_version, "kind": kind.name, **copy.deepcopy(body)}
    name = str(body.get("metadata", {}).get("name", body.get("metadata", {}).get("generateName", "")))
    if (body["apiVersion"], body["kind"]) != (kind.api_version, kind.name):
        found = f"{body['apiVersion']}, Kind={body['kind']}"
        raise ApiError(400, "BadRequest", f"the object provided is {found}, expected {kind.api_version}, Kind={kind.name}")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9-])?", name) or (kind == JOBS and len(name) > 63):
        text = f'{kind.name}.{kind.group} "{name}" is invalid: metadata.name: Invalid value: "{name}": a lowercase RFC 1123 name'
        raise ApiError(422, "Invalid", text)
    if kind.custom:
        return body
    try:
        kubernetes_validate.validate(body, SCHEMA_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        where = ".".join(str(part) for part in error.absolute_path)
        if error.validator == "additionalProperties":
            text = f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}: strict decoding error: {where}: '
            raise ApiError(400, "BadRequest", text + error.message) from None
        text = f'{kind.name}.{kind.group} "{name}" is invalid: {where}: Invalid value: {error.message}'
        raise ApiError(422, "Invalid", text) from None
    return body
