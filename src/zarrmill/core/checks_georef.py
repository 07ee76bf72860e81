"""Checks of georeferencing: conventions, CF grid mapping, coordinates and source must all say the same."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zarrmill.core.checks import Checks
from zarrmill.core.checks_arrays import GivenTree, level_m
from zarrmill.core.checks_tree import Node, StoreTree
from zarrmill.model import Json

Transform = tuple[float, float, float, float, float, float]
"""``a, b, c, d, e, f``: x = a*column + b*row + c, y = d*column + e*row + f; origin at the outer corner of pixel (0, 0)."""
BBox = tuple[float, float, float, float]
Vector = NDArray[Any]  # Any: coordinates have the dtype that the store gave them
ReadVector = Callable[[str], "Vector | str"]
"""Reads a whole array by its path; a string says why it cannot be decoded."""
LEVEL_KEYS = ("dimensions", "transform", "shape", "bbox", "registration")
METRES_PER_DEGREE = 111_320.0
_ROUNDING_DEGREES = 1e-6
_AXES: dict[bool, dict[str, dict[str, Json]]] = {
    False: {
        "x": {"standard_name": "projection_x_coordinate", "units": "m", "axis": "X"},
        "y": {"standard_name": "projection_y_coordinate", "units": "m", "axis": "Y"},
    },
    True: {
        "x": {"standard_name": "longitude", "units": "degrees_east", "axis": "X"},
        "y": {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"},
    },
}
"""Whether the grid is in degrees, and axis, to what CF calls it (4.1, 4.2, 5.6)."""


def as_transform(value: Json) -> Transform | None:
    """Return six finite numbers as a transform, or None."""
    return _floats(value[:6]) if isinstance(value, list) and len(value) in (6, 9) else None  # type: ignore[return-value]


def as_shape(value: Json) -> tuple[int, int] | None:
    """Return two whole numbers from 1 as a shape ``(y, x)``, or None."""
    if isinstance(value, list) and len(value) == 2 and all(type(v) is int and v > 0 for v in value):
        return value[0], value[1]
    return None


def _floats(values: list[Json]) -> tuple[float, ...] | None:
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    return tuple(numbers) if len(numbers) == len(values) else None


def span(transform: Transform, shape: tuple[int, int]) -> BBox:
    """Return ``xmin, ymin, xmax, ymax`` of the outer edges of a grid."""
    a, b, c, d, e, f = transform
    rows, columns = shape
    xs = [c, c + a * columns, c + b * rows, c + a * columns + b * rows]
    ys = [f, f + d * columns, f + e * rows, f + d * columns + e * rows]
    return min(xs), min(ys), max(xs), max(ys)


def same_bbox(found: BBox, wanted: BBox, transform: Transform) -> bool:
    """Return whether two boxes agree to a millionth of a pixel and the precision of float64."""
    return all(abs(f - w) <= _tolerance(transform, w) for f, w in zip(found, wanted, strict=True))


def same_transform(found: Transform, wanted: Transform) -> bool:
    """Return whether two transforms agree to a millionth of a pixel and the precision of float64."""
    return all(abs(f - w) <= _tolerance(wanted, w) for f, w in zip(found, wanted, strict=True))


def _tolerance(transform: Transform, value: float) -> float:
    return 1e-6 * max(abs(transform[0]), abs(transform[1])) + 1e-12 * abs(value)


def check_georef(tree: StoreTree, source: GivenTree | None, read: ReadVector, checks: Checks) -> None:
    """Check every group and array that has or needs georeferencing."""
    wanted_epsg = _source_epsg(source) if source else None
    for path, node in tree.nodes.items():
        if node.array is not None:
            _check_own_shape(node, checks)
            continue
        rasters = {name: raster for name, raster in tree.rasters_of(path).items() if _in_plane(raster)}
        if tree.ours and rasters and level_m(path) is not None:
            lacking = [k for k in LEVEL_KEYS if f"spatial:{k}" not in node.attributes]
            lacking = [f"spatial:{k}" for k in lacking] + ([] if "proj:code" in node.attributes else ["proj:code"])
            checks.expect(not lacking, "georef.missing", path, f"group with georeferenced arrays lacks {lacking}")
        _check_bbox(node, checks)
        if "spatial:transform" in node.attributes:
            _check_group(tree, node, rasters, read, checks)
            _check_source_transform(node, source, checks)
            if tree.ours and rasters:
                _check_axes(tree, node, checks)
        _check_epsg(node, tree, wanted_epsg, checks)
    if tree.ours:
        _check_root(tree, checks)


def axes_to_read(tree: StoreTree) -> Iterator[str]:
    """Yield the paths of the vectors of which ``check_georef`` compares the values."""
    for path, group in tree.nodes.items():
        shape = as_shape(group.attributes.get("spatial:shape"))
        if group.array is None and shape and as_transform(group.attributes.get("spatial:transform")):
            for name, size in zip(_axis_names(group), shape, strict=True):
                axis = tree.arrays_of(path).get(name)
                if axis is not None and _is_axis(axis, size):
                    yield axis.path


def _is_axis(node: Node | None, size: int) -> bool:
    return node is not None and node.array is not None and (node.array.shape, node.array.data_type) == ((size,), "float64")


def _axis_names(group: Node) -> list[str]:
    """Names of the arrays that place the pixels of a group, that along the columns last."""
    names = group.attributes.get("spatial:dimensions")
    return [str(name) for name in names] if isinstance(names, list) and len(names) == 2 else ["y", "x"]


def _in_plane(node: Node) -> bool:
    return node.array is not None and node.array.dims is not None and set(node.array.dims[-2:]) == {"y", "x"}


def _check_own_shape(node: Node, checks: Checks) -> None:
    """Check an array that carries the spatial convention itself, as other writers do."""
    shape = as_shape(node.attributes.get("spatial:shape"))
    if shape and node.array:
        found = node.array.shape[-2:]
        checks.expect(found == shape, "georef.shape", node.path, f"shape {found}, its spatial:shape is {shape}")
    _check_bbox(node, checks)


def _check_bbox(node: Node, checks: Checks) -> None:
    transform = as_transform(node.attributes.get("spatial:transform"))
    shape = as_shape(node.attributes.get("spatial:shape"))
    given = node.attributes.get("spatial:bbox")
    if transform and shape and given is not None:
        bbox = _floats(given) if isinstance(given, list) and len(given) == 4 else None
        wanted = span(transform, shape)
        ok = bbox is not None and same_bbox(bbox, wanted, transform)  # type: ignore[arg-type]
        checks.expect(ok, "georef.bbox", node.path, f"spatial:bbox {given}, transform and shape span {list(wanted)}")


def _check_group(tree: StoreTree, node: Node, rasters: Mapping[str, Node], read: ReadVector, checks: Checks) -> None:
    transform = as_transform(node.attributes.get("spatial:transform"))
    shape = as_shape(node.attributes.get("spatial:shape"))
    for raster in rasters.values():
        assert raster.array is not None
        if shape:
            found = raster.array.shape[-2:]
            checks.expect(found == shape, "georef.shape", raster.path, f"shape {found}, spatial:shape of the group is {shape}")
        _check_grid_mapping(tree, raster, transform, checks)
    if transform and shape and rasters:
        _check_coordinates(tree, node, transform, shape, read, checks)


def _check_axes(tree: StoreTree, node: Node, checks: Checks) -> None:
    """Check that x and y say what they are, and the group that its pixels are areas."""
    found = node.attributes.get("spatial:registration", "pixel")
    checks.expect(found == "pixel", "georef.registration", node.path, f"spatial:registration {found!r}, expected 'pixel'")
    for name, wanted in _AXES[node.attributes.get("proj:code") == "EPSG:4326"].items():
        axis = tree.arrays_of(node.path).get(name)
        if axis is not None:
            said = {key: axis.attributes.get(key) for key in wanted}
            checks.expect(said == wanted, "georef.axes", axis.path, f"attributes {said}, expected {wanted}")


def _check_grid_mapping(tree: StoreTree, raster: Node, transform: Transform | None, checks: Checks) -> None:
    name = raster.attributes.get("grid_mapping")
    mapping = tree.arrays_of(raster.parent).get(name) if isinstance(name, str) else None
    ok = mapping is not None and mapping.array is not None and mapping.array.shape == ()
    text = f"grid_mapping {name!r}, expected the name of a scalar array in the same group"
    if not checks.expect(ok, "georef.grid_mapping", raster.path, text):
        return
    assert mapping is not None
    if transform is None:
        return
    given = mapping.attributes.get("GeoTransform")
    wanted = [transform[2], transform[0], transform[1], transform[5], transform[3], transform[4]]
    try:
        numbers = [float(word) for word in given.split()] if isinstance(given, str) else []
    except ValueError:
        numbers = []
    ok = len(numbers) == 6 and all(abs(f - w) <= _tolerance(transform, w) for f, w in zip(numbers, wanted, strict=True))
    text = f"GeoTransform {given!r} of /{mapping.path}, spatial:transform gives {wanted}"
    checks.expect(ok, "georef.geotransform", raster.path, text)


def _check_coordinates(
    tree: StoreTree, node: Node, transform: Transform, shape: tuple[int, int], read: ReadVector, checks: Checks
) -> None:
    """Compare y and x with the pixel centres of an unrotated transform."""
    names = _axis_names(node)
    for name, size, origin, step in zip(names, shape, (transform[5], transform[2]), (transform[4], transform[0]), strict=True):
        vector = tree.arrays_of(node.path).get(name)
        path = f"{node.path}/{name}".lstrip("/")
        array = vector.array if vector else None
        found = f"{array.data_type} {array.shape}" if array else "nothing"
        ok = _is_axis(vector, size)
        text = f"found {found}, expected a float64 vector of {size}"
        if not checks.expect(ok, "georef.coordinates", path, text):
            continue
        values = read(path)
        if isinstance(values, str):
            continue
        wanted = origin + step * (np.arange(size, dtype=np.float64) + 0.5)
        worst = float(np.max(np.abs(values - wanted))) if size else 0.0
        ok = bool(worst <= _tolerance(transform, float(np.max(np.abs(wanted)))))
        text = f"values start {values[0]}, centres of the transform start {wanted[0]}; largest difference {worst}"
        checks.expect(ok, "georef.centres", path, text)


def _source_epsg(source: GivenTree) -> int | None:
    """EPSG code that the source states; None when it states none, or is a radar image, whose grid is made.

    Asked in this order: arrays, the groups of levels, ``horizontal_CRS_code``; and only where these say nothing, the properties
    of ``stac_discovery``: the order in which a conversion asks.
    """
    if source.images:
        return None
    stac, other = (source.attributes.get(name) for name in ("stac_discovery", "other_metadata"))
    properties = stac.get("properties") if isinstance(stac, dict) else None
    stated: list[Mapping[str, Json]] = [array.attributes for array in source.arrays.values()]
    stated += [attributes for path, attributes in source.groups.items() if level_m(path) is not None]
    stated += [{"proj:code": other.get("horizontal_CRS_code")}] if isinstance(other, dict) else []
    stated += [properties] if isinstance(properties, dict) else []
    return next((code for attributes in stated if (code := _epsg_of(attributes)) is not None), None)


def _epsg_of(attributes: Mapping[str, Json]) -> int | None:
    """EPSG code by ``proj:code`` or ``proj:epsg``, a number or text; None when neither says one."""
    for key in ("proj:code", "proj:epsg"):
        value = attributes.get(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        text = str(value).strip().rpartition(":")[2]
        if isinstance(value, int | str) and text.isdecimal():
            return int(text)
    return None


def _check_epsg(node: Node, tree: StoreTree, source_epsg: int | None, checks: Checks) -> None:
    """Compare ``proj:code`` of a group with its grid mapping and with the source; the root's code is that of its own bbox."""
    code = node.attributes.get("proj:code")
    if not isinstance(code, str):
        return
    if source_epsg is not None and node.path:
        text = f"proj:code {code}, the source is in EPSG:{source_epsg}"
        checks.expect(code == f"EPSG:{source_epsg}", "georef.epsg", node.path, text)
    for mapping in tree.arrays_of(node.path).values():
        says = mapping.attributes.keys() & ({"grid_mapping_name", "crs_wkt"} if tree.ours else {"grid_mapping_name"})
        if mapping.array is None or mapping.array.shape or not says:
            continue
        for key in ("crs_wkt", "spatial_ref"):
            if key == "crs_wkt" or key in mapping.attributes:
                found = _wkt_code(mapping.attributes.get(key))
                text = f"{key} cannot be read as WKT"
                if checks.expect(found is not None, "georef.crs_wkt", mapping.path, text):
                    checks.expect(found == code, "georef.epsg", mapping.path, f"{key} is {found}, proj:code is {code}")
        wrong = _contradictions(mapping.attributes, _cf(code))
        checks.expect(not wrong, "georef.grid_mapping_attributes", mapping.path, f"{wrong} as {code} has them")


def _contradictions(attributes: Mapping[str, Json], wanted: Mapping[str, Json]) -> str:
    """Say which CF attributes are not those of the CRS, of which only the grid mapping's name must be there.

    Names of datums and the like are not compared: they come and go with the data base.
    """
    wrong = []
    for key, number in wanted.items():
        found = attributes.get(key, None if key == "grid_mapping_name" else number)
        same = found == number
        if isinstance(number, float) and isinstance(found, int | float):
            same = abs(found - number) <= 1e-9 * max(1.0, abs(number))
        if not same:
            wrong.append(f"{key} {found!r}, expected {number!r}")
    return "; ".join(wrong)


@cache
def _cf(code: str) -> Mapping[str, Json]:
    """Return the name and the numbers of the CF grid mapping of a CRS; empty when it is not known."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        attributes = CRS.from_user_input(code).to_cf()
    except CRSError:
        return {}
    return {key: value for key, value in attributes.items() if isinstance(value, float) or key == "grid_mapping_name"}


def _wkt_code(wkt: Json) -> str | None:
    return _authority(wkt) if isinstance(wkt, str) else None


@cache
def _authority(wkt: str) -> str | None:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        found = CRS.from_wkt(wkt).to_authority()
    except CRSError:
        return None
    return ":".join(found) if found else None


def _check_source_transform(node: Node, source: GivenTree | None, checks: Checks) -> None:
    if source is None:
        return
    given = [a.attributes.get("proj:transform") for path, a in source.arrays.items() if path.rpartition("/")[0] == node.path]
    wanted = next((t for value in given if (t := as_transform(value)) is not None), None)
    found = as_transform(node.attributes["spatial:transform"])
    if wanted is not None and found is not None:
        text = f"spatial:transform {list(found)}, proj:transform of the source is {list(wanted)}"
        checks.expect(same_transform(found, wanted), "georef.source", node.path, text)


def _check_root(tree: StoreTree, checks: Checks) -> None:
    """Check that the root's bbox is ordered, in degrees, and within the levels' extent.

    West is greater than east where, and only where, the levels lie across the antimeridian (RFC 7946, 5.2).
    """
    if "" not in tree.nodes:
        return
    attributes = tree.nodes[""].attributes
    given = attributes.get("spatial:bbox")
    bbox = _floats(given) if isinstance(given, list) and len(given) == 4 else None
    text = f"spatial:bbox {given} with proj:code {attributes.get('proj:code')!r}, expected degrees in EPSG:4326"
    ok = bbox is not None and attributes.get("proj:code") == "EPSG:4326"
    extents = [
        (node, _degrees(node.attributes.get("spatial:bbox"), node.attributes.get("proj:code"))) for node in tree.multiscales
    ]
    across = any(wanted is not None and wanted[0] > wanted[2] for _, wanted in extents)
    ok = ok and bbox is not None and -180 <= bbox[0] <= 180 and -180 <= bbox[2] <= 180 and -90 <= bbox[1] < bbox[3] <= 90
    ok = ok and bbox is not None and (bbox[0] < bbox[2] or (across and bbox[0] > bbox[2]))
    if not checks.expect(ok, "georef.root", "", text):
        return
    for node, wanted in extents:
        if wanted is not None and bbox is not None and node.path.startswith("measurements/"):
            ok = _is_there(bbox, wanted, _finest_degrees(tree, node, wanted))
            text = f"spatial:bbox {given}, expected {list(wanted)}, the extent of /{node.path}"
            checks.expect(ok, "georef.root", "", text)


def _is_there(found: Sequence[float], wanted: BBox, pixel: float) -> bool:
    """Return whether each edge is where it should be, to a pixel; 180 and -180 degrees are the same meridian."""
    near = pixel + _ROUNDING_DEGREES
    around = near / max(math.cos(math.radians(max(abs(wanted[1]), abs(wanted[3])))), 0.01)
    east_west = all(abs((found[i] - wanted[i] + 180) % 360 - 180) <= around for i in (0, 2))
    return east_west and all(abs(found[i] - wanted[i]) <= near for i in (1, 3))


def _finest_degrees(tree: StoreTree, node: Node, extent: BBox) -> float:
    """Return the height of the smallest pixels below a group in degrees; the height of the extent when none are told."""
    below = [other.attributes.get("spatial:transform") for other in tree.nodes.values() if other.parent == node.path]
    sizes = [abs(transform[4]) for value in below if (transform := as_transform(value)) is not None]
    per_degree = 1.0 if node.attributes.get("proj:code") == "EPSG:4326" else METRES_PER_DEGREE
    return min(sizes) / per_degree if sizes else extent[3] - extent[1]


def _degrees(extent: Json, code: Json) -> BBox | None:
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    bounds = _floats(extent) if isinstance(extent, list) and len(extent) == 4 else None
    if bounds is None or not isinstance(code, str):
        return None
    try:
        west, south, east, north = Transformer.from_crs(code, "EPSG:4326", always_xy=True).transform_bounds(
            bounds[0], bounds[1], bounds[2], bounds[3]
        )
    except ProjError:
        return None
    return west, south, east, north
