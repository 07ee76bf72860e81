"""What a namespace allows: quotas, default and largest resources of containers, pod security."""

from collections import Counter
from collections.abc import Iterator

from k8s_server.objects import BY_RESOURCE, JOBS, PODS, ApiError, Kind, Object, Store

QUOTAS, LIMITS = BY_RESOURCE["", "resourcequotas"], BY_RESOURCE["", "limitranges"]
ACCOUNTS, PRIORITIES = BY_RESOURCE["", "serviceaccounts"], BY_RESOURCE["scheduling.k8s.io", "priorityclasses"]
NAMESPACES = BY_RESOURCE["", "namespaces"]
SUFFIXES = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
ENFORCE = "pod-security.kubernetes.io/enforce"


def quantity(text: str | int) -> float:
    """Return a quantity such as ``500M``, ``2Gi`` or ``950m`` as a number."""
    for suffix, factor in sorted(SUFFIXES.items(), key=lambda pair: -len(pair[0])):
        if str(text).endswith(suffix):
            return float(str(text).removesuffix(suffix)) * factor
    return float(text)


def admit(store: Store, kind: Kind, namespace: str, body: Object) -> None:
    """Let a new object in, with the namespace's defaults filled in.

    Raises: ApiError: 403, a quota would be exceeded or a limit or the pod security is not kept.
    """
    if kind == PODS:
        _accept(store, namespace, body)
        _limit(store, namespace, body)
        _secure(store, namespace, body)
    _quota(store, kind, namespace, body)


def is_finished(pod: Object) -> bool:
    """Tell whether a pod has ended; such pods count in no quota."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _accept(store: Store, namespace: str, pod: Object) -> None:
    """Look up what a pod names: its service account, its priority."""
    spec = pod["spec"]
    account = spec.get("serviceAccountName", "default")
    if account != "default" and account not in [found["metadata"]["name"] for found in store.find(ACCOUNTS, namespace)]:
        _forbid(pod, f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found')
    if name := spec.get("priorityClassName"):
        classes = {found["metadata"]["name"]: found["value"] for found in store.find(PRIORITIES)}
        if name not in classes:
            _forbid(pod, f"no PriorityClass with name {name} was found")
        spec["priority"] = classes[name]


def _limit(store: Store, namespace: str, pod: Object) -> None:
    for container in pod["spec"]["containers"]:
        resources = container.setdefault("resources", {})
        for item in _container_limits(store, namespace):
            limits, requests = resources.setdefault("limits", {}), resources.setdefault("requests", {})
            requests |= {key: value for key, value in limits.items() if key not in requests}
            for key, value in item.get("default", {}).items():
                limits.setdefault(key, value)
            for key, value in item.get("defaultRequest", {}).items():
                requests.setdefault(key, value)
            for key, value in item.get("max", {}).items():
                if key in limits and quantity(limits[key]) > quantity(value):
                    _forbid(pod, f"maximum {key} usage per Container is {value}, but limit is {limits[key]}")
        for key, value in resources.get("requests", {}).items():
            limit = resources.get("limits", {}).get(key)
            if limit is not None and quantity(value) > quantity(limit):
                _forbid(pod, f"requests.{key} {value} must be less than or equal to {key} limit of {limit}")


def _container_limits(store: Store, namespace: str) -> Iterator[Object]:
    for limit in store.find(LIMITS, namespace):
        yield from (item for item in limit["spec"]["limits"] if item["type"] == "Container")


def _secure(store: Store, namespace: str, pod: Object) -> None:
    labels = [n["metadata"].get("labels", {}) for n in store.find(NAMESPACES) if n["metadata"]["name"] == namespace]
    if not labels or labels[0].get(ENFORCE) != "restricted":
        return
    wrong = []
    of_pod = pod["spec"].get("securityContext", {})
    for container in pod["spec"]["containers"]:
        context = {**of_pod, **container.get("securityContext", {})}
        if context.get("allowPrivilegeEscalation") is not False:
            wrong.append("allowPrivilegeEscalation != false")
        if "ALL" not in context.get("capabilities", {}).get("drop", ()):
            wrong.append("unrestricted capabilities")
        if context.get("runAsNonRoot") is not True:
            wrong.append("runAsNonRoot != true")
        if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            wrong.append("seccompProfile")
    if wrong:
        _forbid(pod, f'violates PodSecurity "restricted:latest": {", ".join(wrong)}')


def _quota(store: Store, kind: Kind, namespace: str, body: Object) -> None:
    asked = _usage(kind, body)
    for quota in store.find(QUOTAS, namespace):
        if not _in_scope(quota, kind, body):
            continue
        hard = quota["spec"]["hard"]
        used: Counter[str] = Counter()
        for value in store.find(kind, namespace):
            if _in_scope(quota, kind, value) and (kind != PODS or not is_finished(value)):
                used.update(_usage(kind, value))
        over = [key for key, value in hard.items() if asked[key] and used[key] + asked[key] > quantity(value)]
        if over:
            parts = [
                ",".join(f"{key}={numbers[key]:g}" for key in over)
                for numbers in (asked, used, {key: quantity(hard[key]) for key in over})
            ]
            text = f"exceeded quota: {quota['metadata']['name']}, requested: {parts[0]}, used: {parts[1]}, limited: {parts[2]}"
            _forbid(body, text, kind)


def _in_scope(quota: Object, kind: Kind, body: Object) -> bool:
    """Return whether a quota counts an object: one with a scope counts pods alone, here those of some priorities."""
    selected = quota["spec"].get("scopeSelector", {}).get("matchExpressions", ())
    return not selected or (kind == PODS and all(body["spec"].get("priorityClassName") in one["values"] for one in selected))


def _usage(kind: Kind, body: Object) -> Counter[str]:
    """Return what one object takes of a quota."""
    usage: Counter[str] = Counter({f"count/{kind.qualified}": 1, kind.resource: 1})
    if kind == PODS:
        for container in body["spec"]["containers"]:
            for part in ("requests", "limits"):
                for key, value in container.get("resources", {}).get(part, {}).items():
                    usage[f"{part}.{key}"] += quantity(value)  # type: ignore[assignment]  # a Counter of numbers
                    if part == "requests":
                        usage[key] += quantity(value)  # type: ignore[assignment]
    if kind == JOBS:
        usage["jobs.batch"] = 1
    return usage


def _forbid(body: Object, why: str, kind: Kind = PODS) -> None:
    raise ApiError(403, "Forbidden", f'{kind.qualified} "{body["metadata"].get("name", "")}" is forbidden: {why}')
