"""Checks of the Zarr conventions multiscales, spatial and proj v0.1 on every node, own and with the maintained libraries.

The published schemas of spatial and proj cannot enforce their own declaration (``$ref`` beside ``properties``), so what is
declared and what is used is compared here.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache

from zarrmill.core.checks import Checks
from zarrmill.core.checks_tree import Node, StoreTree
from zarrmill.model import Json
from zarrmill.quiet import without_warnings

_RAW = "https://raw.githubusercontent.com/zarr-conventions/{0}/refs/tags/v0.1/schema.json"
_SPEC = "https://github.com/zarr-conventions/{0}/blob/v0.1/README.md"
_KNOWN = (
    ("multiscales", "d35379db-88df-4056-af3a-620245f8e347", "Multiscale layout of zarr datasets"),
    ("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information"),
    ("proj", "f17cb550-5864-4468-aeb7-f3180cfb622f", "Coordinate reference system information for geospatial data"),
)
DECLARATIONS: dict[str, dict[str, str]] = {
    name: {"uuid": uuid, "schema_url": _RAW.format(name), "spec_url": _SPEC.format(name), "name": name, "description": text}
    for name, uuid, text in _KNOWN
}
"""Convention to the object that declares it, as its v0.1 schema has it."""
PROJ_KEYS = ("proj:code", "proj:wkt2", "proj:projjson")
_CODE = re.compile(r"^[A-Z]+:[0-9]+$")


def check_conventions(tree: StoreTree, checks: Checks) -> None:
    """Check every node that declares or uses one of the three conventions."""
    for node in tree.nodes.values():
        attributes = node.attributes
        used = _used(node)
        if "zarr_conventions" in attributes or used:
            _check_node(node, used, checks)


def _used(node: Node) -> set[str]:
    attributes = node.attributes
    used = set()
    if any(key.startswith("spatial:") for key in attributes):
        used.add("spatial")
    if any(key in attributes for key in PROJ_KEYS):
        # EOPF arrays carry proj:wkt2 as a leftover of another vocabulary; that is arrays.stale_attribute.
        leftover = node.array is not None and "zarr_conventions" not in attributes and "proj:code" not in attributes
        used |= set() if leftover else {"proj"}
    if isinstance(attributes.get("multiscales"), dict):
        used.add("multiscales")
    return used


def _check_node(node: Node, used: set[str], checks: Checks) -> None:
    declared = _declared(node, checks)
    for name in sorted(used | declared):
        if name in used:
            text = f"attributes of the convention {name} are used, zarr_conventions does not declare it"
            checks.expect(name in declared, "conventions.undeclared", node.path, text)
        else:
            text = f"the convention {name} is declared, none of its attributes is there"
            checks.expect(False, "conventions.unused", node.path, text)
    if "proj" in used and "proj:code" in node.attributes:
        code = node.attributes["proj:code"]
        ok = isinstance(code, str) and _CODE.match(code) is not None
        checks.expect(ok, "conventions.proj_code", node.path, f"proj:code {code!r}, expected like EPSG:32632")
    _check_with_libraries(node, checks)


def _declared(node: Node, checks: Checks) -> set[str]:
    """Check the form of the declarations and return those that are recognised by their uuid."""
    given = node.attributes.get("zarr_conventions", [])
    if not isinstance(given, list):
        checks.expect(False, "conventions.uuid", node.path, f"zarr_conventions is {type(given).__name__}, expected a list")
        return set()
    declared = set()
    for item in given:
        name = _meant(item)
        uuid = item.get("uuid") if isinstance(item, dict) else None
        wanted = DECLARATIONS[name]["uuid"] if name else "some uuid"
        ok = isinstance(uuid, str) and (name is None or uuid == wanted)
        text = f"declaration {name or item!r} has uuid {uuid!r}, expected {wanted}"
        if not checks.expect(ok, "conventions.uuid", node.path, text) or name is None:
            continue
        declared.add(name)
        wrong = {k: item.get(k) for k in {*item, *DECLARATIONS[name]} if item.get(k) != DECLARATIONS[name].get(k)}
        text = f"declaration of {name}: {dict(sorted(wrong.items()))}, expected exactly {DECLARATIONS[name]}"
        checks.expect(not wrong, "conventions.strings", node.path, text)
    return declared


def _meant(item: Json) -> str | None:
    """Return which of the three conventions a declaration means, also when it is malformed."""
    if not isinstance(item, dict):
        return None
    for name, wanted in DECLARATIONS.items():
        if item.get("uuid") == wanted["uuid"]:
            return name
    for name in DECLARATIONS:
        if item.get("name") in (name, f"{name}:") or f"/zarr-conventions/{name}/" in str(item.get("schema_url")):
            return name
    return None


@cache
def _toolkit() -> Callable[[dict[str, Json]], Mapping[str, list[str]]]:
    with without_warnings():  # geozarr-toolkit 0.1.2 imports a name from where pydantic 2.14 no longer wants it imported
        from geozarr_toolkit import validate_attrs

    known: Callable[[dict[str, Json]], Mapping[str, list[str]]] = validate_attrs
    return known


def _check_with_libraries(node: Node, checks: Checks) -> None:
    import zarr_cm

    problem = ""
    try:
        zarr_cm.validate_all(node.attributes)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        problem = f"zarr-cm: {error}".split("\n")[0][:300]
    checks.expect(not problem, "conventions.schema", node.path, problem)
    if node.array is not None or "zarr_conventions" not in node.attributes:
        return
    problems: Mapping[str, list[str]] = {}
    try:
        problems = _toolkit()(dict(node.attributes))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        problems = {"geozarr-toolkit": [str(error)]}
    told = [f"{name}: {errors[0]}"[:300] for name, errors in sorted(problems.items()) if errors]
    checks.expect(not told, "conventions.toolkit", node.path, "; ".join(told))
