"""From the metadata of a Sentinel-1 GRD product and a recipe to the plan of its store.

A source has one tree for each polarisation; a store has one map grid with an array for each, and what belongs to the radar
geometry below ``conditions/<polarisation>`` and ``quality/<polarisation>``.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zarrmill.config import Grd, Pixels
from zarrmill.core import conventions as cv
from zarrmill.core.array_plans import check_kind, coordinate_plans, fill_attribute, fill_value, is_mandatory, with_own_coordinates
from zarrmill.core.chunking import chunk_shape, shard_shape
from zarrmill.core.geolocation import COVERED_PX, Geolocation, gcp_grid, map_grid, utm_code
from zarrmill.core.grid import level_grid
from zarrmill.errors import SourceError
from zarrmill.model import ArrayPlan, CalibrationTable, Gcps, Grid, RasterTask, SourceArray, SourceTree, StorePlan, Warp

MULTISCALES = "measurements/grd"
"""Group that holds the levels."""
STANDARD_NAME = "surface_backwards_scattering_coefficient_of_radar_wave"
METRES_PER_DEGREE = math.pi / 180 * 6378137.0
"""On the equator of WGS 84."""

_POLARISATION = re.compile(r"^[^/]+_(HH|HV|VH|VV)$")
_TABLES = {"sigma0": "sigma_nought", "gamma0": "gamma"}
_LONG_NAMES = {"none": "detected amplitude, DN", "sigma0": "sigma nought, linear power", "gamma0": "gamma nought, linear power"}
Values = Mapping[str, NDArray[Any]]  # Any: dtypes as stored


@dataclass(frozen=True, slots=True)
class _Image:
    polarisation: str
    """Lower case, the name of its array in the store."""
    group: str
    """Group of its tree in the source."""
    source: SourceArray
    gcps: Gcps
    table: CalibrationTable | None


def needed_arrays(tree: SourceTree, pixels: Pixels) -> tuple[str, ...]:
    """Return the small source arrays whose values a plan needs: control points, and calibration vectors when asked for.

    Raises: SourceError: the product has no polarisation, or one of these arrays is missing.
    """
    paths = []
    for group in _polarisations(tree).values():
        paths += [f"{group}/conditions/gcp/{name}" for name in ("line", "pixel", "latitude", "longitude")]
        if table := _TABLES.get((pixels.grd or Grd()).calibration):
            paths += [f"{group}/quality/calibration/{name}" for name in ("line", "pixel", table)]
    if missing := [path for path in paths if path not in tree.arrays]:
        raise SourceError(
            f"arrays {missing} are missing, expected in every GRD product; report it to the provider", kind="layout"
        )
    return tuple(paths)


def grd_plan(tree: SourceTree, pixels: Pixels, values: Values) -> StorePlan:
    """Decide grid, groups, arrays, attributes and work of the target store.

    Args: values: of the arrays that ``needed_arrays`` names.
    Raises: SourceError: an image is not what the layout has, or its control points cannot be used.
    """
    if tree.zarr_format == 3 and pixels.zarr3_source != "relayout":
        found = f"the source is Zarr v3 already and the recipe says zarr3_source: {pixels.zarr3_source}"
        raise SourceError(f"{found}; leave the product out or set pixels.zarr3_source: relayout", kind="layout")
    images = [_image(tree, name, group, pixels, values) for name, group in _polarisations(tree).items()]
    utm = utm_code(images[0].gcps)
    grid = _grid(images, utm, pixels)
    levels = {f"r{m}m": m // pixels.levels_m[0] for m in pixels.levels_m}
    tasks = [_task(image, grid, utm, levels, pixels) for image in images]
    grids = {f"{MULTISCALES}/{name}": level_grid(grid, factor) for name, factor in levels.items()}
    plan = StorePlan(
        groups=_groups(tree, images, grids, grid, levels),
        rasters=tuple(sorted(tasks, key=lambda task: (-task.n_bytes, task.source.path))),
        copies=tuple(_copy(array, path) for path, array in sorted(_copied(tree, images).items())),
        coordinates=tuple(plan for path, level in sorted(grids.items()) for plan in coordinate_plans(path, level)),
        consolidated=(MULTISCALES, ""),
        findings=(),
    )
    return with_own_coordinates(plan)


def _polarisations(tree: SourceTree) -> dict[str, str]:
    """Return polarisation (lower case) to group, sorted."""
    found: dict[str, str] = {}
    for group in sorted(tree.groups):
        match = _POLARISATION.match(group)
        if match and f"{group}/measurements/grd" in tree.arrays:
            name = match[1].lower()
            if name in found:
                text = f"groups {found[name]} and {group} both hold {match[1]}, expected one; report it to the provider"
                raise SourceError(text, kind="layout")
            found[name] = group
    if not found:
        text = "no group <name>_<polarisation> with measurements/grd, as every GRD product has"
        raise SourceError(f"{text}; check the product type, report it to the provider", kind="layout")
    return dict(sorted(found.items()))


def _image(tree: SourceTree, name: str, group: str, pixels: Pixels, values: Values) -> _Image:
    source = tree.arrays[f"{group}/measurements/grd"]
    if len(source.shape) != 2 or source.dtype != "<u2" or min(source.shape) < 2:
        found = f"{source.path}: dtype {source.dtype}, shape {source.shape}"
        raise SourceError(f"{found}; expected two-dimensional <u2; report it to the provider", kind="layout")
    _check_plain(source)
    line, pixel, lat, lon = (
        np.asarray(values[f"{group}/conditions/gcp/{part}"], np.float64) for part in ("line", "pixel", "latitude", "longitude")
    )
    gcps = gcp_grid(line, pixel, lat, lon, f"{group}/conditions/gcp")
    _check_covered(source, gcps, f"{group}/conditions/gcp")
    return _Image(name, group, source, gcps, _table(group, pixels, values))


def _check_plain(source: SourceArray) -> None:
    """Raise SourceError when an image masks another DN than 0, or its values are not DN: both would change every mean."""
    said = {"_FillValue": 0, "scale_factor": 1, "add_offset": 0}
    found = {name: source.attributes[name] for name in ("scale_factor", "add_offset") if name in source.attributes}
    if different := {name: value for name, value in (found | fill_attribute(source)).items() if value != said[name]}:
        text = f"{source.path}: {different}, expected DN as they are, of which 0 is no data"
        raise SourceError(f"{text}; report it to the provider", kind="layout")


def _check_covered(source: SourceArray, gcps: Gcps, place: str) -> None:
    """Raise SourceError when control points are not those of the image: far outside of it, or most of it outside of them."""
    for name, points, size in (("lines", gcps.lines, source.shape[0]), ("pixels", gcps.pixels, source.shape[1])):
        if points[-1] >= 2 * size or points[0] > COVERED_PX or points[-1] < size - 1 - COVERED_PX:
            found = f"{place}: {name} {points[0]:.0f} to {points[-1]:.0f} for an image of {source.shape}"
            text = f"{found}; expected control points within {COVERED_PX} of each edge and of no other image"
            raise SourceError(f"{text}; report it to the provider", kind="layout")


def _table(group: str, pixels: Pixels, values: Values) -> CalibrationTable | None:
    name = _TABLES.get((pixels.grd or Grd()).calibration)
    if name is None:
        return None
    place = f"{group}/quality/calibration"
    lines, samples, table = (np.asarray(values[f"{place}/{part}"], np.float64) for part in ("line", "pixel", name))
    rising = all(axis.ndim == 1 and axis.size > 1 and (np.diff(axis) > 0).all() for axis in (lines, samples))
    if not rising or table.shape != (lines.size, samples.size) or not (table > 0).all():
        found = f"{place}/{name}: shape {table.shape}, line {lines.shape}, pixel {samples.shape}, "
        found += f"{np.count_nonzero(~(table > 0))} values are not above 0"
        raise SourceError(
            f"{found}; expected positive values on rising lines and pixels; report it to the provider", kind="layout"
        )
    return CalibrationTable(lines, samples, table)


def _grid(images: list[_Image], utm: str, pixels: Pixels) -> Grid:
    options = pixels.grd or Grd()
    crs = utm if options.crs == "utm" else options.crs
    finest = pixels.levels_m[0]
    size = float(finest) if options.crs == "utm" else finest / METRES_PER_DEGREE
    factors = [m // finest for m in pixels.levels_m]
    places = [(Geolocation(image.gcps, crs, utm), (image.source.shape[0], image.source.shape[1])) for image in images]
    grid = map_grid(places, crs, size, max(factors), math.lcm(*factors, pixels.chunk_px))
    if options.crs != "utm" and grid.bbox[2] - grid.bbox[0] > 180:
        raise SourceError("the scene crosses the antimeridian; in degrees it has no grid; set pixels.grd.crs: utm", kind="crs")
    return grid


def _task(image: _Image, grid: Grid, utm: str, levels: Mapping[str, int], pixels: Pixels) -> RasterTask:
    options = pixels.grd or Grd()
    outputs = []
    for name, factor in levels.items():
        shape = (grid.shape[0] // factor, grid.shape[1] // factor)
        chunks = chunk_shape(shape, pixels.chunk_px)
        dtype, fill = ("<u2", 0) if image.table is None else ("<f4", "NaN")
        path = f"{MULTISCALES}/{name}/{image.polarisation}"
        attributes = _attributes(image, options, factor, next(iter(levels)))
        shards = shard_shape(shape, chunks, pixels.shard_px)
        outputs.append((factor, ArrayPlan(path, shape, dtype, chunks, shards, ("y", "x"), fill, attributes)))
    warp = Warp(grid, image.gcps, utm, options.resampling, image.table)
    return RasterTask(image.source, "average", tuple(outputs), is_mandatory(image.source.path, pixels), 0, warp)


def _attributes(image: _Image, options: Grd, factor: int, finest: str) -> dict[str, Any]:
    polarisation = image.polarisation.upper()
    what = "DN amplitude" if image.table is None else "backscatter of resampled DN amplitude"
    attributes: dict[str, Any] = {
        "units": "1",
        "long_name": f"{_LONG_NAMES[options.calibration]}, {polarisation}",
        "polarization": polarisation,
        "resampling": f"{options.resampling}, {what}, from ground control points, no terrain correction",
        "grid_mapping": "spatial_ref",
        "derived_from": image.source.path,
    }
    if image.table is None:
        attributes["_FillValue"] = 0
    else:
        attributes |= {"standard_name": STANDARD_NAME, "calibration": f"DN**2 / {_TABLES[options.calibration]}**2, with noise"}
    if factor > 1:
        attributes |= {"resampling_method": "average", "derived_from": f"{MULTISCALES}/{finest}/{image.polarisation}"}
    return attributes


def _place(path: str, image: _Image) -> str:
    """Return where a node of an image's tree goes in the store."""
    top, _, rest = path.removeprefix(image.group).strip("/").partition("/")
    if top in ("conditions", "quality"):
        return f"{top}/{image.polarisation}/{rest}".rstrip("/")
    if top == "measurements":
        return f"conditions/{image.polarisation}/sensor_grid/{rest}".rstrip("/")
    return f"conditions/{image.polarisation}/{top}/{rest}".rstrip("/")


def _copied(tree: SourceTree, images: list[_Image]) -> dict[str, SourceArray]:
    """Return path in the store to source array of all but the images."""
    own = {_place(path, i): a for i in images for path, a in tree.arrays.items() if path.startswith(f"{i.group}/")}
    for image in images:
        del own[_place(image.source.path, image)]
    groups = tuple(f"{image.group}/" for image in images)
    return own | {path: array for path, array in tree.arrays.items() if not path.startswith(groups)}


def _copy(array: SourceArray, path: str) -> tuple[SourceArray, ArrayPlan]:
    check_kind(array)
    attributes = cv.carried_attributes(array.attributes) | cv.named_coordinates(array.attributes) | fill_attribute(array)
    chunks = tuple(max(1, size) for size in array.shape)
    return array, ArrayPlan(path, array.shape, array.dtype, chunks, None, array.dims, fill_value(array), attributes)


def _groups(
    tree: SourceTree, images: list[_Image], grids: Mapping[str, Grid], native: Grid, levels: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {name: {} for name in ("measurements", "conditions", "quality")}
    for path, attributes in tree.groups.items():
        image = next((image for image in images if f"{path}/".startswith(f"{image.group}/")), None)
        place = path if image is None else _place(path, image)
        groups[place] = groups.get(place, {}) | cv.carried_attributes(attributes)
    for path, grid in grids.items():
        groups[path] = cv.level_attributes(grid)
    groups[MULTISCALES] = cv.multiscales_attributes(native, levels, "average", set(levels) - {next(iter(levels))})
    groups[""] = groups.get("", {}) | cv.root_attributes(native)
    return dict(sorted(groups.items()))
