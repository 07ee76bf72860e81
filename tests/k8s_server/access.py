"""Who may do what: bearer tokens of service accounts, and the roles bound to them."""

import secrets
from dataclasses import dataclass, field

from k8s_server.objects import BY_RESOURCE, ApiError, Kind, Object, Store

ROLES = BY_RESOURCE["rbac.authorization.k8s.io", "roles"]
BINDINGS = BY_RESOURCE["rbac.authorization.k8s.io", "rolebindings"]
ADMIN = "kubernetes-admin"


@dataclass
class Access:
    """Tokens of this server; roles are read from the stored objects at every request."""

    store: Store
    tokens: dict[str, str] = field(default_factory=dict)
    """Token to user name."""

    def token(self, user: str) -> str:
        """Return a new token of ``user``: ``kubernetes-admin``, or a service account as ``namespace:name``."""
        token = secrets.token_urlsafe(24)
        self.tokens[token] = user if user == ADMIN else f"system:serviceaccount:{user}"
        return token

    def user(self, header: str | None) -> str:
        """Return who sends this ``Authorization`` header. Raises: ApiError: 401."""
        try:
            scheme, _, token = (header or "").partition(" ")
            return self.tokens[token if scheme.lower() == "bearer" else ""]
        except KeyError:
            raise ApiError(401, "Unauthorized", "Unauthorized") from None

    def check(self, user: str, verb: str, kind: Kind, subresource: str, namespace: str, name: str) -> None:
        """Let a request pass that a role allows. Raises: ApiError: 403, in the words of an API server."""
        resource = f"{kind.resource}/{subresource}" if subresource else kind.resource
        if user == ADMIN or any(_allows(rule, verb, kind.group, resource, name) for rule in self._rules(user, namespace)):
            return
        what = f'{kind.qualified} "{name}"' if name else kind.qualified
        where = f' in the namespace "{namespace}"' if kind.namespaced else " at the cluster scope"
        text = f'{what} is forbidden: User "{user}" cannot {verb} resource "{resource}" in API group "{kind.group}"{where}'
        raise ApiError(403, "Forbidden", text)

    def _rules(self, user: str, namespace: str) -> list[Object]:
        rules = []
        for binding in self.store.find(BINDINGS, namespace):
            subjects = [
                f"system:serviceaccount:{subject.get('namespace', namespace)}:{subject['name']}"
                for subject in binding.get("subjects", ())
                if subject["kind"] == "ServiceAccount"
            ]
            if user in subjects:
                rules += self.store.get(ROLES, namespace, binding["roleRef"]["name"]).get("rules", [])
        return rules


def _allows(rule: Object, verb: str, group: str, resource: str, name: str) -> bool:
    return (
        _in(group, rule.get("apiGroups", ()))
        and _in(resource, rule.get("resources", ()))
        and _in(verb, rule["verbs"])
        and ("resourceNames" not in rule or name in rule["resourceNames"])
    )


def _in(value: str, allowed: "tuple[str, ...] | list[str]") -> bool:
    return value in allowed or "*" in allowed
