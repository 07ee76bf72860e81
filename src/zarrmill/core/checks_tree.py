"""A store as its ``zarr.json`` documents tell it, and the checks of its structure.

Everything here works on bytes that were read elsewhere; no document, however broken, raises.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from zarrmill.core.checks import Checks
from zarrmill.model import Json

V2_NAMES = frozenset({".zarray", ".zgroup", ".zattrs", ".zmetadata"})
ITEM_BYTES = {"bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "int32": 4, "uint32": 4, "float32": 4}


COUNTED = 3
"""First format whose stamp says how many objects and bytes a store has."""


@dataclass(frozen=True, slots=True)
class ArrayMeta:
    """What an array's ``zarr.json`` says about its layout."""

    shape: tuple[int, ...]
    data_type: str
    """Name of the data type; for one with a configuration its ``name``."""
    outer: tuple[int, ...]
    """Shape of what one object holds: the shard, or the chunk of an unsharded array."""
    inner: tuple[int, ...]
    """Shape of the smallest piece that can be decoded alone."""
    codecs: tuple[Mapping[str, Json], ...]
    """Every codec, those inside shards and their indexes too."""
    sharded: bool
    dims: tuple[str, ...] | None
    """``dimension_names``, or None when they are absent or malformed."""
    prefix: str
    """Chunk keys start with this: ``c``, or nothing for the v2 key encoding."""
    separator: str

    @property
    def item_bytes(self) -> int:
        """Bytes of one item; 8 for wide types, 0 for those without a fixed width."""
        if self.data_type in ("string", "bytes", "variable_length_bytes"):
            return 0
        return ITEM_BYTES.get(self.data_type, 8)

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of objects along each dimension."""
        return tuple(-(-size // edge) for size, edge in zip(self.shape, self.outer, strict=True))

    def key(self, path: str, index: tuple[int, ...]) -> str:
        """Key of the object that holds chunk or shard ``index`` of the array at ``path``."""
        parts = [self.prefix] if self.prefix else []
        parts += [str(i) for i in index] if index or self.prefix else ["0"]
        name = self.separator.join(parts)
        return f"{path}/{name}" if path else name


@dataclass(frozen=True, slots=True)
class Node:
    """One group or array."""

    path: str
    """Path without leading slash; empty for the root."""
    document: Mapping[str, Json]
    """Its ``zarr.json``; non-finite number literals stand as strings such as ``<NaN>``."""
    attributes: Mapping[str, Json]
    array: ArrayMeta | None
    """Layout of an array, None for a group."""

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def parent(self) -> str:
        """Path of the group that holds it."""
        return self.path.rpartition("/")[0]


@dataclass(frozen=True)
class StoreTree:
    """Every node of a store, and the size of every object when it can be listed."""

    nodes: Mapping[str, Node]
    """Path to node, sorted."""
    sizes: Mapping[str, int] | None
    """Key to bytes of every object; None when the place cannot list."""

    @property
    def ours(self) -> bool:
        """Whether the store says that zarrmill wrote it."""
        return "" in self.nodes and "zarrmill" in self.nodes[""].attributes

    @property
    def stamp(self) -> Json:
        """What zarrmill wrote of the whole store into its root; None in other stores."""
        return self.nodes[""].attributes.get("zarrmill") if "" in self.nodes else None

    @cached_property
    def arrays(self) -> dict[str, ArrayMeta]:
        """Path to layout of every array."""
        return {path: node.array for path, node in self.nodes.items() if node.array is not None}

    @cached_property
    def multiscales(self) -> tuple[Node, ...]:
        """Groups that hold a multiscales layout."""
        return tuple(n for n in self.nodes.values() if n.array is None and isinstance(n.attributes.get("multiscales"), dict))

    def arrays_of(self, group: str) -> dict[str, Node]:
        """Name to node of the arrays directly in ``group``."""
        return self._children.get(group.strip("/"), {})

    @cached_property
    def _children(self) -> dict[str, dict[str, Node]]:
        children: dict[str, dict[str, Node]] = {}
        for path, node in self.nodes.items():
            if node.array is not None and path:
                children.setdefault(node.parent, {})[node.name] = node
        return children

    def rasters_of(self, group: str) -> dict[str, Node]:
        """Name to node of the arrays in ``group`` with two dimensions or more."""
        return {name: node for name, node in self.arrays_of(group).items() if node.array and len(node.array.shape) >= 2}


def parse_tree(documents: Mapping[str, bytes], sizes: Mapping[str, int] | None) -> tuple[StoreTree, list[tuple[str, str, str]]]:
    """Parse the documents of every node, and say what could not be parsed as ``(code, path, message)``."""
    nodes: dict[str, Node] = {}
    problems: list[tuple[str, str, str]] = []
    for path, data in sorted(documents.items()):
        literals: list[str] = []
        try:
            document = json.loads(data, parse_constant=lambda text, seen=literals: _literal(text, seen))  # type: ignore[misc]
            nodes[path] = _node(path, document)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            problems.append(("structure.metadata", path, f"zarr.json is not a Zarr v3 node: {_brief(error)}"))
        if literals:
            text = f"zarr.json holds the literals {sorted(set(literals))}, expected strict JSON"
            problems.append(("structure.json", path, text))
    return StoreTree(nodes, sizes), problems


def _literal(text: str, seen: list[str]) -> str:
    seen.append(text)
    return f"<{text}>"


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]


def _node(path: str, document: Any) -> Node:  # Any: whatever JSON held
    if not isinstance(document, dict) or document.get("node_type") not in ("group", "array"):
        raise ValueError("it has no node_type group or array")
    attributes = document.get("attributes", {})
    if not isinstance(attributes, dict):
        raise ValueError(f"attributes are {type(attributes).__name__}")
    array = _array(document) if document["node_type"] == "array" else None
    return Node(path, document, attributes, array)


def _array(document: Mapping[str, Json]) -> ArrayMeta:
    shape = _sizes(document["shape"], 0)
    outer = _sizes(document["chunk_grid"]["configuration"]["chunk_shape"], 1)
    if len(outer) != len(shape):
        raise ValueError(f"chunk_shape {outer} does not fit shape {shape}")
    codecs = list(_codecs(document["codecs"]))
    shard = next((codec for codec in codecs if codec["name"] == "sharding_indexed"), None)
    inner = _sizes(shard["configuration"]["chunk_shape"], 1) if shard else outer
    if len(inner) != len(shape):
        raise ValueError(f"inner chunk_shape {inner} does not fit shape {shape}")
    data_type = document["data_type"]
    names = document.get("dimension_names")
    good = isinstance(names, list) and len(names) == len(shape) and all(isinstance(name, str) for name in names)
    encoding = document.get("chunk_key_encoding", {"name": "default"})
    is_default = encoding["name"] == "default"
    separator = (encoding.get("configuration") or {}).get("separator", "/" if is_default else ".")
    if encoding["name"] not in ("default", "v2") or separator not in ("/", "."):
        raise ValueError(f"chunk_key_encoding {encoding!r} is none of Zarr v3")
    return ArrayMeta(
        shape=shape,
        data_type=data_type["name"] if isinstance(data_type, dict) else str(data_type),
        outer=outer,
        inner=inner,
        codecs=tuple(codecs),
        sharded=shard is not None,
        dims=tuple(names or ()) if good else None,
        prefix="c" if is_default else "",
        separator=separator,
    )


def _sizes(values: Any, least: int) -> tuple[int, ...]:  # Any: whatever JSON held
    if not isinstance(values, list) or any(type(v) is not int or not least <= v < 2**48 for v in values):
        raise ValueError(f"{values!r} is not a list of whole numbers from {least}")
    return tuple(values)


def _codecs(codecs: Any) -> Iterator[dict[str, Json]]:  # Any: whatever JSON held
    for given in codecs:
        codec: dict[str, Any] = {"name": given} if isinstance(given, str) else given
        configuration = codec.get("configuration") or {}
        if not isinstance(configuration, dict):
            raise ValueError(f"codec {codec['name']!r} has configuration {configuration!r}")
        yield {"name": str(codec["name"]), "configuration": configuration}
        if codec["name"] == "sharding_indexed":
            yield from _codecs(codec["configuration"]["codecs"])
            yield from _codecs(codec["configuration"]["index_codecs"])


def check_structure(tree: StoreTree, checks: Checks, max_objects: int, in_source: frozenset[str]) -> None:
    """Check nodes, objects and consolidated metadata; ``in_source`` names the root attributes that the source has."""
    _check_nodes(tree, checks)
    if tree.sizes is None:
        checks.note("structure.not_listed", "", "plain http cannot list objects; stray and empty ones were not looked for")
    else:
        _check_objects(tree, tree.sizes, checks)
        text = f"{len(tree.sizes)} objects, the recipe allows {max_objects}"
        checks.expect(len(tree.sizes) <= max_objects, "structure.object_budget", "", text)
    for group in {"", *(node.path for node in tree.multiscales)} & set(tree.nodes):
        _check_consolidated(tree, tree.nodes[group], checks)
    for name in sorted(in_source & {"stac_discovery", "other_metadata"}):
        found = "" in tree.nodes and name in tree.nodes[""].attributes
        checks.expect(found, "structure.root_metadata", "", f"attribute {name} of the source is absent")


def check_listing(tree: StoreTree, checks: Checks) -> bool:
    """Compare number and bytes of all objects but the root with its stamp; return whether the store is proven complete.

    It is not where objects cannot be listed, nor in stores of others and of format 2 and before, which say no numbers.
    """
    stamp = tree.stamp if isinstance(tree.stamp, dict) else {}
    wanted = {key: stamp.get(key) for key in ("n_objects", "n_bytes")}
    if tree.sizes is None or (not _is_counted(stamp) and not wanted.keys() & stamp.keys()):
        return False
    sizes = [size for key, size in tree.sizes.items() if key != "zarr.json"]
    found = {"n_objects": len(sizes), "n_bytes": sum(sizes)}
    return checks.expect(wanted == found, "structure.objects", "", f"beside the root {found}, it was sealed with {wanted}")


def _is_counted(stamp: Mapping[str, Json]) -> bool:
    """Whether a stamp is of a format that says numbers."""
    return isinstance(stamp.get("format"), int) and stamp["format"] >= COUNTED


def lacked_chunks(tree: StoreTree) -> bool:
    """Whether the conversion noticed chunks that the source did not have; they may be there by now."""
    noticed = tree.stamp.get("findings") if isinstance(tree.stamp, dict) else None
    found = noticed if isinstance(noticed, list) else []
    return any(isinstance(one, dict) and one.get("code") == "source.missing-chunk" for one in found)


def _check_nodes(tree: StoreTree, checks: Checks) -> None:
    for path, node in tree.nodes.items():
        found = node.document.get("zarr_format")
        checks.expect(found == 3, "structure.version", path, f"zarr_format {found!r}, expected 3")
    parents = {"/".join(path.split("/")[:depth]) for path in tree.nodes if path for depth in range(path.count("/") + 1)}
    groups = {path for path, node in tree.nodes.items() if node.array is None}
    for path in sorted(parents - {""}):
        checks.expect(path in groups, "structure.implicit_group", path, "the group has no zarr.json of its own")


def _check_objects(tree: StoreTree, sizes: Mapping[str, int], checks: Checks) -> None:
    clean = {"structure.stray_object", "structure.outside_grid", "structure.empty_object", "structure.version"}
    for key, size in sizes.items():
        folder, _, name = key.rpartition("/")
        problem = _problem(tree, key, folder, name)
        if size == 0:
            problem = problem or ("structure.empty_object", "the object has no bytes")
        if problem:
            clean.discard(problem[0])
            checks.expect(False, problem[0], key, problem[1])
    for code in sorted(clean):
        checks.expect(True, code, "", "")


def _problem(tree: StoreTree, key: str, folder: str, name: str) -> tuple[str, str] | None:
    if name == "zarr.json":
        return None
    if name in V2_NAMES:
        return "structure.version", f"{name} is a Zarr v2 key, expected v3 only"
    parts = folder.split("/") if folder else []
    owner = next((p for d in range(len(parts), -1, -1) if (p := "/".join(parts[:d])) in tree.arrays), None)
    if owner is None:
        return "structure.stray_object", "the object belongs to no array"
    index = chunk_index(tree.arrays[owner], key[len(owner) + 1 if owner else 0 :])
    if index is None:
        return "structure.stray_object", f"the object is no chunk key of array /{owner}"
    if any(i >= n for i, n in zip(index, tree.arrays[owner].grid, strict=True)):
        return "structure.outside_grid", f"chunk {index}, the grid of the array is {tree.arrays[owner].grid}"
    return None


def chunk_index(array: ArrayMeta, name: str) -> tuple[int, ...] | None:
    """Return the chunk that a key below an array names, or None when it is no chunk key."""
    parts = name.split(array.separator)
    if array.prefix:
        if parts[0] != array.prefix:
            return None
        parts = parts[1:]
    elif not array.shape:
        return () if parts == ["0"] else None
    if len(parts) != len(array.shape) or not all(p.isdecimal() and str(int(p)) == p for p in parts):
        return None
    return tuple(int(p) for p in parts)


def absent_chunks(tree: StoreTree, path: str) -> list[tuple[int, ...]]:
    """Chunk objects of an array that are not there, by index; empty when objects cannot be listed."""
    array = tree.arrays[path]
    if tree.sizes is None or math.prod(array.grid) > 1_000_000:
        return []
    indexes = product(*(range(n) for n in array.grid))
    return [index for index in indexes if array.key(path, index) not in tree.sizes]


def _check_consolidated(tree: StoreTree, node: Node, checks: Checks) -> None:
    consolidated = node.document.get("consolidated_metadata")
    entries = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    if not checks.expect(
        isinstance(entries, dict), "structure.consolidated_missing", node.path, "no consolidated_metadata in zarr.json"
    ):
        return
    assert isinstance(entries, dict)
    start = f"{node.path}/" if node.path else ""
    below = {path[len(start) :] for path in tree.nodes if path.startswith(start) and path != node.path}
    code = "structure.consolidated_stale"
    for path in sorted(below | set(entries)):
        where = start + path
        if path not in below or path not in entries:
            there = "the consolidated metadata" if path in entries else "the store"
            checks.expect(False, code, where, f"node is in {there} of /{node.path} only")
            continue
        same = _comparable(entries[path]) == _comparable(tree.nodes[where].document)
        checks.expect(same, code, where, f"entry in the consolidated metadata of /{node.path} differs from the node's zarr.json")


def _comparable(document: Json) -> Json:
    if not isinstance(document, dict):
        return document
    kept = {key: value for key, value in document.items() if key != "consolidated_metadata"}
    return {key: value for key, value in kept.items() if value or key not in ("storage_transformers", "attributes")}
