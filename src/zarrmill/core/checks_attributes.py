"""Checks of what a store says of its arrays and groups: every attribute that a source states must still be said, unchanged.

What is left out, added or said otherwise is written down here once more, not taken from the converter. Only stores of ours are
held to it.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from zarrmill.config import Grd, Pixels
from zarrmill.core.checks import Checks
from zarrmill.core.checks_arrays import FLAGS, GENERATED, GivenArray, GivenTree, flags_wanted, is_generated, level_m
from zarrmill.core.checks_tree import Node, StoreTree
from zarrmill.core.conventions import strict
from zarrmill.model import Json

BANDS, IMAGES = "measurements/reflectance", "measurements/grd"
"""Groups of the levels of Sentinel-2 and of radar products."""
STANDARD_NAMES = {"S02MSIL2A": "surface_bidirectional_reflectance", "S02MSIL1C": "toa_bidirectional_reflectance"}
BACKSCATTER = "surface_backwards_scattering_coefficient_of_radar_wave"
LEFT_OUT = frozenset(
    {"_ARRAY_DIMENSIONS", "_eopf_attrs", "_FillValue", "coordinates", "dimensions", "dtype", "eopf_is_masked"}
    | {"eopf_target_dtype", "fill_value", "grid_mapping", "multiscales", "valid_max", "valid_min", "zarr_conventions", "zarrmill"}
)
"""Attributes of a source that say something of its own encoding or grid, or that a store has for itself."""
ELSEWHERE = frozenset({"scale_factor", "add_offset", "derived_from", "resampling_method", *FLAGS})
"""Attributes that other checks look at."""
READ_BY = frozenset({"units", "standard_name", "calendar", "missing_value", "valid_range", *FLAGS})
"""Attributes that change what readers make of an array; none may be added."""
AXIS = frozenset({"standard_name", "units", "long_name", "axis"})
_NOTHING = object()


def check_attributes(
    tree: StoreTree, source: GivenTree | None, checks: Checks, product_types: tuple[str, ...], pixels: Pixels | None
) -> None:
    """Check arrays and groups of a store of ours.

    Args: product_types: what the product may be, empty when nothing is known; pixels: the recipe's, when it is given.
    """
    if not checks.ours:
        return
    radar = sorted(path for path, node in tree.nodes.items() if node.parent == IMAGES and level_m(path) is not None)
    finest = min(radar, key=lambda path: level_m(path) or 0, default="")
    for path, node in tree.nodes.items():
        if node.array is None:
            continue
        if node.parent in radar:
            if node.name not in GENERATED:
                _check_image(node, finest, source, checks, pixels)
        elif source is None:
            _check_band(tree, node, {}, checks, product_types)
        elif not (is_generated(tree, node)) and (origin := source.origin(path)) is not None:
            _check_array(tree, node, source, origin, checks, product_types)
    for path, attributes in source.groups.items() if source else ():
        if not (source and source.images) or not path:  # other groups of a radar product are joined from several
            _check_group(tree.nodes.get(path), attributes, checks)


def carried(attributes: Mapping[str, Json]) -> dict[str, Json]:
    """Return the attributes of a source that a store must have too, as strict JSON."""
    kept = {k: v for k, v in attributes.items() if k not in LEFT_OUT and not k.startswith(("proj:", "spatial:"))}
    if kept.get("units") == "digital_counts":
        del kept["units"]
    found: dict[str, Json] = strict(kept)
    return found


def masked(given: GivenArray) -> int | None:
    """Return the whole number that readers of the source mask; None when they mask nothing, or a value that cannot be there."""
    if not given.dtype.startswith(("int", "uint")):
        return None
    stated = given.attributes.get("_FillValue") if given.is_v3 or given.fill_value is None else given.fill_value
    if not isinstance(stated, int | float) or isinstance(stated, bool) or not math.isfinite(stated) or stated != int(stated):
        return None
    limits = np.iinfo(given.dtype)
    return int(stated) if limits.min <= stated <= limits.max else None


def _on_map(tree: StoreTree, node: Node) -> bool:
    return node.parent in tree.nodes and "spatial:transform" in tree.nodes[node.parent].attributes


def _is_band(tree: StoreTree, node: Node) -> bool:
    """Whether an array is a measurement on one of its levels, of whatever type of product."""
    group = tree.nodes.get(node.parent.rpartition("/")[0])
    is_levels = group is not None and group.path.startswith("measurements/") and "multiscales" in group.attributes
    is_levels = is_levels and group is not None and (group.path == BANDS or BANDS not in tree.nodes)
    return is_levels and _on_map(tree, node) and _is_raster(node)


def _is_raster(node: Node) -> bool:
    return node.array is not None and len(node.array.shape) >= 2 and node.name not in GENERATED


def _check_array(
    tree: StoreTree, node: Node, source: GivenTree, origin: str, checks: Checks, product_types: tuple[str, ...]
) -> None:
    """Compare an array with the one that it was copied from or made of."""
    given, array = source.arrays[origin], node.array
    wanted = {key: value for key, value in carried(given.attributes).items() if key not in ELSEWHERE}
    is_map = _on_map(tree, node) and _is_raster(node)
    flags = flags_wanted(node, source)
    if origin == node.path and array is not None and array.dims is not None:
        text = f"dimension_names {list(array.dims)}, the source has {list(given.dims)}"
        checks.expect(array.dims == given.dims, "arrays.dimension_names", node.path, text)
    if node.name in ("x", "y") and given.dims == (node.name,):
        wanted = {key: value for key, value in wanted.items() if key not in AXIS}
    elif _is_band(tree, node):
        _check_band(tree, node, wanted, checks, product_types)
        return
    else:
        _check_mask(node, given, checks, none=is_map and "flag_values" in flags)
        _check_added(node, wanted, flags, checks)
    if is_map and "flag_values" in flags and "flag_values" not in given.attributes:
        wanted.pop("long_name", None)  # scene classes have a name of their own
    _compare(node, wanted | _coordinates(tree, node, given), checks)


def _coordinates(tree: StoreTree, node: Node, given: GivenArray) -> dict[str, Json]:
    """Return ``coordinates`` as an array must have it: those names of the source's that are arrays of the same group."""
    named = given.attributes.get("coordinates")
    names = named.split() if isinstance(named, str) else []
    known = [name for name in names if f"{node.parent}/{name}".lstrip("/") in tree.arrays]
    return {"coordinates": " ".join(known)} if known else {}


def _check_band(tree: StoreTree, node: Node, wanted: Mapping[str, Json], checks: Checks, product_types: tuple[str, ...]) -> None:
    """Check a band, which is a number without unit under a name of CF: that of its product type, where this is one of ours."""
    if not _is_band(tree, node):
        return
    _compare(node, {**{key: value for key, value in wanted.items() if key != "standard_name"}, "units": "1"}, checks)
    known = [STANDARD_NAMES.get(kind) for kind in product_types] or list(STANDARD_NAMES.values())
    found = node.attributes.get("standard_name")
    text = f"standard_name {found!r}, expected {' or '.join(sorted(name or 'any' for name in known))}"
    ok = isinstance(found, str) and bool(found) and (found in known or None in known)
    checks.expect(ok, "arrays.attributes", node.path, text)


def _check_mask(node: Node, given: GivenArray, checks: Checks, *, none: bool) -> None:
    """Check that what readers mask is what those of the source mask; nothing where there are classes, and never a float."""
    if node.array is None or node.array.data_type.startswith("float"):
        return  # arrays.float_fill_value
    value = masked(given)
    wanted, found = None if none else value, node.attributes.get("_FillValue")
    text = f"_FillValue {found!r}, expected {wanted!r} as readers of the source mask it"
    checks.expect(found == wanted and not isinstance(found, bool), "arrays.fill_value", node.path, text)
    if given.dtype.startswith(("int", "uint")):
        fill, allowed = node.document.get("fill_value"), [given.fill_value or 0, *([] if value is None else [value])]
        text = f"fill_value {fill!r}, expected {' or '.join(map(repr, allowed))} as in the source"
        checks.expect(fill in allowed, "arrays.fill_value", node.path, text)


def _check_added(node: Node, wanted: Mapping[str, Json], flags: Mapping[str, Json], checks: Checks) -> None:
    """Check that nothing is said that readers act on and the source does not say."""
    added = sorted(READ_BY & node.attributes.keys() - wanted.keys() - flags.keys())
    text = f"attributes {added} are not the source's, expected none of them"
    checks.expect(not added, "arrays.attributes", node.path, text)


def _check_image(node: Node, finest: str, source: GivenTree | None, checks: Checks, pixels: Pixels | None) -> None:
    """Check one level of a radar image: what it is, of which polarisation, and how it was made."""
    if not _is_raster(node) or node.array is None:
        return
    name, grd = node.name.upper(), (pixels.grd or Grd()) if pixels else None
    calibrated = node.array.data_type.startswith("float")
    wanted: dict[str, Json] = {"polarization": name, "units": "1"}
    if node.parent != finest:
        wanted |= {"resampling_method": "average", "derived_from": f"{finest}/{node.name}"}
    elif source and node.name in source.images:
        wanted["derived_from"] = source.images[node.name]
    if calibrated:
        wanted["standard_name"] = BACKSCATTER
    _compare(node, wanted, checks)
    added = sorted(
        {"scale_factor", "add_offset", "calibration"} & node.attributes.keys() - ({"calibration"} if calibrated else set())
    )
    added += sorted(READ_BY & node.attributes.keys() - wanted.keys())
    text = f"attributes {added}, expected none of them on {'backscatter' if calibrated else 'an amplitude'}"
    checks.expect(not added, "arrays.attributes", node.path, text)
    how, long_name = str(node.attributes.get("resampling")), str(node.attributes.get("long_name"))
    methods = (grd.resampling,) if grd else ("bilinear", "nearest")
    ok = how.startswith(tuple(f"{method}, " for method in methods)) and "no terrain correction" in how
    text = f"resampling {how!r}, expected {' or '.join(methods)} and no terrain correction"
    checks.expect(ok, "arrays.attributes", node.path, text)
    text = f"long_name {long_name!r}, expected one that ends with the polarisation {name}"
    checks.expect(long_name.endswith(f", {name}"), "arrays.attributes", node.path, text)


def _check_group(node: Node | None, attributes: Mapping[str, Json], checks: Checks) -> None:
    """Compare a group that store and source have; what the root lacks altogether is told already."""
    if node is None or node.array is not None:
        return
    wanted = carried(attributes)
    if node.path:
        _compare(node, wanted, checks, "structure.group_metadata")
    else:
        lacking = {"stac_discovery", "other_metadata"} - node.attributes.keys()
        _compare(node, {key: value for key, value in wanted.items() if key not in lacking}, checks, "structure.root_metadata")


def _compare(node: Node, wanted: Mapping[str, Json], checks: Checks, code: str = "arrays.attributes") -> None:
    """Count one check of a node's attributes; those that nothing is wanted of may be there."""
    differing = [text for key in wanted for text in _differences(node.attributes.get(key, _NOTHING), wanted[key], key)]
    more = f", and {len(differing) - 3} more" if len(differing) > 3 else ""
    checks.expect(not differing, code, node.path, lambda: "; ".join(differing[:3]) + more)


def _differences(found: Json, wanted: Json, where: str) -> Iterator[str]:
    """Say where two attributes differ, and how."""
    if found == wanted:
        return
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            yield from _differences(found.get(key, _NOTHING), wanted.get(key, _NOTHING), f"{where}.{key}")
    else:
        yield f"{where} is {_brief(found)}, expected {_brief(wanted)}"


def _brief(value: Json) -> str:
    text = "absent" if value is _NOTHING else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
