"""Checks of single arrays: dimensions, chunks, codecs, fill values and attributes, alone and against the source."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from zarrmill.config import Pixels, Validation
from zarrmill.core.checks import Checks
from zarrmill.core.checks_tree import ArrayMeta, Node, StoreTree
from zarrmill.core.conventions import strict
from zarrmill.core.rules import level_rule
from zarrmill.model import Json

CODECS = frozenset({"bytes", "blosc", "zstd", "gzip", "crc32c", "sharding_indexed", "transpose", "vlen-utf8"})
"""Codecs that zarr-python, GDAL, zarrita and OpenLayers all have."""
STALE = frozenset({"_ARRAY_DIMENSIONS", "_eopf_attrs", "dtype", "fill_value", "valid_min", "valid_max"})
PROJ_KEYS = frozenset({"proj:code", "proj:wkt2", "proj:projjson"})
GENERATED = frozenset({"x", "y", "spatial_ref"})
"""Arrays that every group with a place on the map has."""
FLAGS = ("flag_values", "flag_masks", "flag_meanings")
SCL_CLASSES: dict[str, Json] = {
    "flag_values": list(range(12)),
    "flag_meanings": "no_data saturated_or_defective dark_area_pixels cloud_shadows vegetation not_vegetated water unclassified "
    "cloud_medium_probability cloud_high_probability thin_cirrus snow",
}
"""Scene classes of Sentinel-2 (Sen2Cor), which sources leave out."""
SMALL_CHUNK_BYTES = 500_000
SCL = "conditions/mask/l2a_classification/"
_LEVEL = re.compile(r"r(\d+)m$")


@dataclass(frozen=True, slots=True)
class GivenArray:
    """What the source says about one of its arrays."""

    shape: tuple[int, ...]
    dtype: str
    """Name of the dtype in native byte order; ``string`` for text of any width."""
    attributes: Mapping[str, Json]
    chunks: tuple[int, ...]
    dims: tuple[str, ...]
    fill_value: Json = None
    """Zarr fill value, None when there is none."""
    is_v3: bool = False
    """Whether the source is Zarr v3, where a fill value alone masks nothing."""


@dataclass(frozen=True)
class GivenTree:
    """Every array of a source product."""

    arrays: Mapping[str, GivenArray]
    """Path to array."""
    attributes: Mapping[str, Json]
    """Attributes of the root group."""
    groups: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    """Path to attributes of every group."""
    images: Mapping[str, str] = field(default_factory=dict)
    """Polarisation to path of the images of a radar product, which are not among ``arrays``; empty for other products."""

    def finest(self, group: str, band: str) -> str | None:
        """Path of the array ``band`` in the subgroup of ``group`` where it has most pixels; None when no subgroup has it."""
        return self._finest.get((group, band))

    @cached_property
    def _finest(self) -> dict[tuple[str, str], str]:
        finest: dict[tuple[str, str], str] = {}
        for path, array in sorted(self.arrays.items()):
            level, _, band = path.rpartition("/")
            place = (level.rpartition("/")[0], band)
            if len(array.shape) < 2:
                continue
            if place not in finest or array.shape[-1] > self.arrays[finest[place]].shape[-1]:
                finest[place] = path
        return finest

    def origin(self, path: str) -> str | None:
        """Path of the source array whose values and attributes the store array at ``path`` takes; None when there is none."""
        if path in self.arrays:
            return path
        level, _, band = path.rpartition("/")
        return self.finest(level.rpartition("/")[0], band)


def level_m(path: str) -> int | None:
    """Pixel size in a group name such as ``r10m``, or None."""
    found = _LEVEL.search(path)
    return int(found.group(1)) if found else None


def is_grid_mapping(node: Node) -> bool:
    """Whether an array is a CF grid mapping: a scalar whose attributes are all that it says."""
    return node.array is not None and not node.array.shape and "grid_mapping_name" in node.attributes


def is_generated(tree: StoreTree, node: Node) -> bool:
    """Whether an array of ours is made from the grid of its group: its coordinates and grid mapping, whatever the source says."""
    parent = tree.nodes.get(node.parent)
    return tree.ours and node.name in GENERATED and parent is not None and "spatial:transform" in parent.attributes


def check_arrays(tree: StoreTree, source: GivenTree | None, checks: Checks, limits: Validation) -> None:
    """Check every array of the store, and against the source what does not need pixels."""
    levels = _level_groups(tree)
    small = [path for path, array in tree.arrays.items() if _has_small_chunks(array)]
    text = f"{len(small)} arrays have chunks under {SMALL_CHUNK_BYTES} bytes decoded"
    checks.expect(not small, "arrays.small_chunk", small[0] if small else "", text)
    for path, array in tree.arrays.items():
        node = tree.nodes[path]
        _check_dimensions(tree, node, array, checks, path in levels or node.parent in levels)
        _check_codecs(node, array, checks)
        _check_chunks(node, array, checks, limits)
        reflectance = path.startswith("measurements/") and node.parent in levels and len(array.shape) >= 2
        _check_fill(node, array, checks, reflectance, path in levels or node.parent in levels or _is_scl(node))
        _check_stale(node, checks)
        _check_flags(node, checks, None if is_generated(tree, node) else source)
        if source is not None:
            _check_against_source(tree, node, array, source, checks)
        elif reflectance and tree.ours and "polarization" not in node.attributes:
            found = [node.attributes.get("scale_factor"), node.attributes.get("add_offset", 0)]  # CF 1.11, 8.1
            ok = all(isinstance(value, int | float) for value in found)
            checks.expect(ok, "arrays.scale", path, f"scale_factor and add_offset are {found}, expected two numbers")


def check_complete(tree: StoreTree, source: GivenTree, checks: Checks, pixels: Pixels) -> None:
    """Check that every array of the source is in the store, but for what the recipe leaves out."""
    groups = {node.path for node in tree.multiscales}
    for path in source.arrays:
        parts = path.split("/")
        if path not in tree.arrays and _left_out(source, parts, groups, pixels):
            continue
        checks.expect(path in tree.arrays, "arrays.missing", path, "array of the source is not in the store")


def _left_out(source: GivenTree, parts: list[str], groups: set[str], pixels: Pixels) -> bool:
    """Whether the recipe leaves an array out: quick-looks, and levels that it does not list or that do not fit exactly."""
    if not pixels.quicklook and any(part.endswith("_quicklook") for part in parts[:-1]):
        return True
    parent = "/".join(parts[:-1])
    size_m = level_m(parent)
    bands = {group for group in groups if group.startswith("measurements/")} | {"measurements/reflectance"}
    in_multiscales = parent.rpartition("/")[0] in bands
    if not in_multiscales or size_m is None:
        return False
    return size_m not in pixels.levels_m or not _fits(source, parent.rpartition("/")[0], size_m)


def _fits(source: GivenTree, group: str, size_m: int) -> bool:
    """Whether pixels of ``size_m`` divide the extent of the finest level of ``group`` exactly."""
    rasters = {p: a.shape for p, a in source.arrays.items() if p.startswith(f"{group}/") and len(a.shape) == 2}
    extents = {level: shape for p, shape in rasters.items() if (level := level_m(p.rpartition("/")[0])) is not None}
    if not extents:
        return True
    finest = min(extents)
    return all(edge * finest % size_m == 0 for edge in extents[finest])


def _level_groups(tree: StoreTree) -> set[str]:
    groups: set[str] = set()
    for node in tree.multiscales:
        layout = node.attributes["multiscales"].get("layout")
        for entry in layout if isinstance(layout, list) else []:
            if isinstance(entry, dict):
                groups.add(f"{node.path}/{entry.get('asset')}".lstrip("/"))
    return groups


def _check_dimensions(tree: StoreTree, node: Node, array: ArrayMeta, checks: Checks, on_level: bool) -> None:
    """Check that dimensions have names, and where pixels have a place on a map, that these are the last two."""
    found = node.document.get("dimension_names")
    text = f"dimension_names {found!r} for shape {array.shape}"
    if not array.shape and found is None:
        return
    if not checks.expect(array.dims is not None, "arrays.dimension_names", node.path, text) or len(array.shape) < 2:
        return
    assert array.dims is not None
    wanted = ("y", "x")
    parent = tree.nodes.get(node.parent)
    around = parent.attributes if parent else {}
    named = around.get("spatial:dimensions")
    if isinstance(named, list) and len(named) == 2:
        wanted = (str(named[0]), str(named[1]))
    placed = on_level or "spatial:transform" in around or "spatial:transform" in node.attributes
    if placed and set(wanted) & set(array.dims):
        text = f"dimensions {array.dims}, expected the last two to be {wanted}"
        checks.expect(array.dims[-2:] == wanted, "arrays.dimension_order", node.path, text)


def _check_codecs(node: Node, array: ArrayMeta, checks: Checks) -> None:
    names = [codec["name"] for codec in array.codecs]
    bad = sorted(set(names) - CODECS)
    checks.expect(not bad, "arrays.codec", node.path, f"codecs {bad}, expected only {sorted(CODECS)}")
    for codec in array.codecs:
        if codec["name"] == "blosc" and array.item_bytes:
            found = codec["configuration"].get("typesize")
            text = f"blosc typesize {found}, items of {array.data_type} have {array.item_bytes} bytes"
            checks.expect(found == array.item_bytes, "arrays.typesize", node.path, text)


def _check_chunks(node: Node, array: ArrayMeta, checks: Checks, limits: Validation) -> None:
    if array.sharded:
        ok = all(o % i == 0 for o, i in zip(array.outer, array.inner, strict=True))
        text = f"shard {array.outer} is no multiple of chunk {array.inner}"
        checks.expect(ok, "arrays.shard_divisible", node.path, text)
        shard_mb = math.prod(array.outer) * array.item_bytes / 1e6
        text = f"a shard has {shard_mb:.1f} MB decoded, the recipe allows {limits.max_shard_mb}"
        checks.expect(shard_mb <= limits.max_shard_mb, "arrays.shard_size", node.path, text)
    n_bytes = math.prod(array.inner) * array.item_bytes
    text = f"a chunk has {n_bytes / 1e6:.1f} MB decoded, the recipe allows {limits.max_chunk_mb}"
    checks.expect(n_bytes <= limits.max_chunk_mb * 1e6, "arrays.chunk_size", node.path, text)


def _has_small_chunks(array: ArrayMeta) -> bool:
    is_cut = any(c < s for c, s in zip(array.inner, array.shape, strict=True))
    return is_cut and 0 < math.prod(array.inner) * array.item_bytes < SMALL_CHUNK_BYTES


def _check_fill(node: Node, array: ArrayMeta, checks: Checks, reflectance: bool, on_level: bool) -> None:
    given = node.attributes.get("_FillValue")
    fill = node.document.get("fill_value")
    if array.data_type.startswith("float"):
        text = f"_FillValue {given!r} on a {array.data_type} array, expected none"
        checks.expect("_FillValue" not in node.attributes, "arrays.float_fill_value", node.path, text)
        return
    is_class = "flag_values" in node.attributes and on_level
    if reflectance and checks.ours:
        text = f"_FillValue {given!r} and fill_value {fill!r}, expected 0 for both"
        checks.expect(_number(given) and given == fill == 0, "arrays.fill_value", node.path, text)
    elif "_FillValue" in node.attributes:
        text = f"_FillValue {given!r}, expected the number {fill!r}" + (" or none on class values" if is_class else "")
        ok = _number(given) and given == fill and not (is_class and checks.ours)
        checks.expect(ok, "arrays.fill_value", node.path, text)


def _number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_stale(node: Node, checks: Checks) -> None:
    keys = set(node.attributes)
    stale = {key for key in keys & STALE if key not in ("valid_min", "valid_max") or checks.ours}
    declared = "zarr_conventions" in keys
    stale |= {key for key in keys if key.startswith("proj:") and not (declared and key in PROJ_KEYS)}
    if node.attributes.get("units") == "digital_counts":
        stale.add("units")
    text = f"attributes {sorted(stale)} describe the source's encoding, expected none of them"
    checks.expect(not stale, "arrays.stale_attribute", node.path, text)


def _check_flags(node: Node, checks: Checks, source: GivenTree | None) -> None:
    """Check that flags are the source's, and whole; where the source's own are not, that is told of the source."""
    own, is_scl = node.attributes, checks.ours and _is_scl(node)
    wanted = flags_wanted(node, source) if source else {}
    keys = [key for key in ("flag_values", "flag_masks") if key in own or key in wanted or (is_scl and key == "flag_values")]
    same = bool(wanted) and _flags(own) == _flags(wanted)
    for key in keys:
        values, words = own.get(key), _words(own.get("flag_meanings"))
        text = f"{key} {values!r} with {len(words)} flag_meanings"
        if wanted:
            text += f", expected {wanted.get(key)!r} with {wanted.get('flag_meanings')!r}"
        whole = isinstance(values, list) and all(_number(v) for v in values) and len(values) == len(words)
        if not whole and same:
            checks.expect(False, "arrays.source_flags", node.path, f"{text}, as the source has them")
        else:
            checks.expect(whole and (same or not wanted), "arrays.flags", node.path, text)


def _is_scl(node: Node) -> bool:
    """Whether an array is the scene classification on one of its levels."""
    raster = node.array is not None and len(node.array.shape) >= 2
    return raster and node.name == "scl" and node.path.startswith(SCL) and level_m(node.parent) is not None


def flags_wanted(node: Node, source: GivenTree) -> dict[str, Json]:
    """Return the flags of the source, those of the scene classes where it states none; empty when it has no such array."""
    origin = source.arrays.get(source.origin(node.path) or "")
    if origin is None:
        return {}
    stated = {key: strict(value) for key, value in origin.attributes.items() if key in FLAGS}
    return stated | (SCL_CLASSES if _is_scl(node) and not {"flag_values", "flag_meanings"} & stated.keys() else {})


def _flags(attributes: Mapping[str, Json]) -> dict[str, Json]:
    """Return the flags of an array; meanings as a list of words, whichever way they are written."""
    found = {key: attributes[key] for key in FLAGS if key in attributes}
    return found | ({"flag_meanings": _words(found["flag_meanings"])} if "flag_meanings" in found else {})


def _words(meanings: Json) -> list[str]:
    if isinstance(meanings, list):
        return [str(word) for word in meanings]
    return meanings.split() if isinstance(meanings, str) else []


def _check_against_source(tree: StoreTree, node: Node, array: ArrayMeta, source: GivenTree, checks: Checks) -> None:
    origin = source.origin(node.path)
    if origin is None or is_grid_mapping(node):
        return
    given = source.arrays[origin]
    if origin == node.path:
        text = f"shape {array.shape}, the source has {given.shape}"
        checks.expect(array.shape == given.shape, "arrays.shape", node.path, text)
    allowed = {given.dtype} | ({"float64"} if node.name in ("x", "y") else set())
    text = f"dtype {array.data_type}, the source has {given.dtype}"
    checks.expect(array.data_type in allowed, "arrays.dtype", node.path, text)
    for key in ("scale_factor", "add_offset") if not is_generated(tree, node) else ():
        if key in given.attributes or key in node.attributes:
            found, wanted = node.attributes.get(key), strict(given.attributes.get(key))
            text = f"{key} {found!r}, the source has {wanted!r}"
            checks.expect(found == wanted, "arrays.scale", node.path, text)
    if origin != node.path and checks.ours and len(array.shape) == 2:
        found = (node.attributes.get("derived_from"), node.attributes.get("resampling_method"))
        text = f"derived_from and resampling_method are {found}, expected {(origin, level_rule(node.path))}"
        checks.expect(found == (origin, level_rule(node.path)), "arrays.derived_from", node.path, text)
