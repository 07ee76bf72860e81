"""What ``kubectl`` asks before its first request: versions, groups, resources, and whether fields are validated by the server."""

from k8s_server.objects import KINDS, Kind, Object

VERBS = ["create", "delete", "get", "list", "patch"]


def discovery(path: str) -> Object | None:
    """Return the answer to a discovery request; None when ``path`` is none."""
    groups = {kind.group: kind.version for kind in KINDS if kind.group}
    versions = sorted({kind.api_version for kind in KINDS})
    if path == "/version":
        return {"major": "1", "minor": "34", "gitVersion": "v1.34.0", "platform": "linux/amd64"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(*item) for item in groups.items()]}
    if path == "/openapi/v3":
        return {"paths": {_root(version): {"serverRelativeURL": f"/openapi/v3/{_root(version)}"} for version in versions}}
    if path.startswith("/openapi/v3/"):
        return _openapi([kind for kind in KINDS if path == f"/openapi/v3/{_root(kind.api_version)}"])
    kinds = [kind for kind in KINDS if path == f"/{_root(kind.api_version)}"]
    if not kinds:
        return None
    resources = [
        {"name": k.resource, "singularName": k.name.lower(), "namespaced": k.namespaced, "kind": k.name, "verbs": VERBS}
        for k in kinds
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": kinds[0].api_version, "resources": resources}


def _root(api_version: str) -> str:
    return f"apis/{api_version}" if "/" in api_version else f"api/{api_version}"


def _group(group: str, version: str) -> Object:
    entry = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [entry], "preferredVersion": entry}


def _openapi(kinds: list[Kind]) -> Object:
    """Say of every kind that a patch may ask for validation of its fields."""
    paths = {}
    for kind in kinds:
        namespace = "namespaces/{namespace}/" if kind.namespaced else ""
        patch = {
            "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.name},
        }
        paths[f"/{_root(kind.api_version)}/{namespace}{kind.resource}/{{name}}"] = {"patch": patch}
    return {"openapi": "3.0.0", "info": {"title": "stand-in", "version": "v1"}, "paths": paths}
