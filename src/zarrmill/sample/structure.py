"""Every array and group of a product as a value: path, shape, chunks, dtype, fill, dimensions, attributes."""

import math
from dataclasses import dataclass

from zarrmill.sample import attrs as a
from zarrmill.sample import meteorology as weather
from zarrmill.sample.bands import native_bands, reflectance_bands
from zarrmill.sample.scene import DETECTORS
from zarrmill.sample.spec import RESOLUTIONS_M, SampleSpec

ANGLE_STEP_M = 5000
"""Spacing of the angle grids."""
_FOOTPRINTS = "conditions/mask/detector_footprint"
_CLASSES = {"L1C": "conditions/mask/l1c_classification", "L2A": "conditions/mask/l2a_classification"}


@dataclass(frozen=True, slots=True)
class ArrayDef:
    """One array of the product."""

    path: str
    """Path from the root, without slash in front."""
    shape: tuple[int, ...]
    """Length of each dimension."""
    chunks: tuple[int, ...]
    """Chunk shape."""
    dtype: str
    """NumPy type string, ``<u2``; ``|u1`` for bytes."""
    fill: int | str | None
    """``fill_value`` as written to JSON: 0, "NaN" or null."""
    dims: tuple[str, ...]
    """Dimension names."""
    attrs: a.Attrs
    """All attributes, ``_ARRAY_DIMENSIONS`` included."""


@dataclass(frozen=True, slots=True)
class Structure:
    """The whole tree."""

    arrays: dict[str, ArrayDef]
    """By path."""
    groups: dict[str, a.Attrs]
    """Attributes by path; the root (path "") has none here, they need the finished pixels."""


def structure(spec: SampleSpec) -> Structure:
    """The tree of a CPM 2.x product for ``spec``, sizes and chunks scaled to ``spec.size_px``."""
    makers = (_reflectance, _masks, _atmosphere, _quicklook, _geometry, _weather)
    arrays = {d.path: d for maker in makers for d in maker(spec)}
    groups: dict[str, a.Attrs] = {"": {}}
    for path in arrays:
        parts = path.split("/")[:-1]
        groups.update({"/".join(parts[:k]): {} for k in range(1, len(parts) + 1)})
    for name in ("cams", "ecmwf"):
        groups[f"conditions/meteorology/{name}"] = weather.group_attrs(spec, name)
    return Structure(arrays, groups)


def n_angles(spec: SampleSpec) -> int:
    """Nodes of an angle grid along one edge: 23 for a whole tile."""
    return math.ceil(spec.size_px * 10 / ANGLE_STEP_M) + 1


def _reflectance(spec: SampleSpec) -> list[ArrayDef]:
    out = []
    for m in RESOLUTIONS_M:
        group = f"measurements/reflectance/r{m}m"
        for band in reflectance_bands(spec.level, m):
            own = a.reflectance(spec, band) | a.raster(spec, m)
            out.append(_raster(spec, f"{group}/{band}", m, "<u2", own, fill=0, is_measurement=True))
        out += _axes(spec, group, m)
    return out


def _masks(spec: SampleSpec) -> list[ArrayDef]:
    out = []
    for m in RESOLUTIONS_M:
        for band in native_bands(m):
            own = a.footprint(spec) | a.raster(spec, m)
            out.append(_raster(spec, f"{_FOOTPRINTS}/r{m}m/{band.name}", m, "|u1", own))
            own = a.flags(spec, a.QUALITY_FLAGS, "quality") | a.raster(spec, m)
            out.append(_raster(spec, f"quality/mask/r{m}m/{band.name}", m, "|u1", own))
        out += _axes(spec, f"{_FOOTPRINTS}/r{m}m", m) + _axes(spec, f"quality/mask/r{m}m", m)
    own = a.flags(spec, a.CLOUD_FLAGS, "cloud classification") | a.raster(spec, 60)
    out.append(_raster(spec, f"{_CLASSES['L1C']}/r60m/b00", 60, "|u1", own))
    out += _axes(spec, f"{_CLASSES['L1C']}/r60m", 60)
    if spec.level == "L2A":
        for m in (20, 60):
            group = f"{_CLASSES['L2A']}/r{m}m"
            out.append(_raster(spec, f"{group}/scl", m, "|u1", a.plain() | a.raster(spec, m)))
            out += _axes(spec, group, m)
    return out


def _atmosphere(spec: SampleSpec) -> list[ArrayDef]:
    if spec.level == "L1C":
        return []
    out = []
    for m in RESOLUTIONS_M:
        group = f"quality/atmosphere/r{m}m"
        out += [_raster(spec, f"{group}/{n}", m, "<u2", a.plain() | a.raster(spec, m)) for n in ("aot", "wvp")]
        out += _axes(spec, group, m)
    group = "quality/probability/r20m"
    own = a.plain() | a.raster(spec, 20) | {"coordinates": "band"}
    out += [_raster(spec, f"{group}/{n}", 20, "|u1", own, extra=("band",)) for n in ("cld", "snw")]
    return [*out, _small(f"{group}/band", (), "<i8", (), {}), *_axes(spec, group, 20)]


def _quicklook(spec: SampleSpec) -> list[ArrayDef]:
    out = []
    for m in RESOLUTIONS_M if spec.level == "L2A" else (10,):
        group = f"quality/{spec.level.lower()}_quicklook/r{m}m"
        own = a.plain() | a.raster(spec, m)
        if spec.level == "L1C":
            own["long_name"] = "TCI: True Color Image"
        n = spec.shape_px(m)
        chunk = _chunk_px(spec, n, is_measurement=False)
        chunks = (1, chunk, chunk) if spec.layout == "1830" else (3, chunk, chunk)
        dims = ("band", "y", "x")
        own = a.complete(own, dims, ("band", "x", "y"))
        out.append(ArrayDef(f"{group}/tci", (3, n, n), chunks, "|u1", None, dims, own))
        out.append(_small(f"{group}/band", (3,), "<i8", ("band",), {}))
        out += _axes(spec, group, m)
    return out


def _geometry(spec: SampleSpec) -> list[ArrayDef]:
    group, n, d = "conditions/geometry", n_angles(spec), len(DETECTORS)

    def angle(name: str, shape: tuple[int, ...], dims: tuple[str, ...], *, unit: bool = False) -> ArrayDef:
        coordinates = tuple(sorted(dims))
        return _small(f"{group}/{name}", shape, "<f8", dims, a.angles(spec, unit=unit), "NaN", coordinates)

    viewing = angle("viewing_incidence_angles", (13, d, 2, n, n), ("band", "detector", "angle", "y", "x"))
    chunks = (7, math.ceil(d / 2), 2, n, n)
    return [
        _small(f"{group}/angle", (2,), "<U7", ("angle",), {}),
        _small(f"{group}/band", (13,), "<U3", ("band",), {}),
        _small(f"{group}/detector", (d,), "<i8", ("detector",), {}),
        angle("mean_sun_angles", (2,), ("angle",), unit=True),
        angle("mean_viewing_incidence_angles", (13, 2), ("band", "angle"), unit=True),
        angle("sun_angles", (2, n, n), ("angle", "y", "x")),
        ArrayDef(viewing.path, viewing.shape, chunks, viewing.dtype, viewing.fill, viewing.dims, viewing.attrs),
        _small(f"{group}/x", (n,), "<i8", ("x",), {}),
        _small(f"{group}/y", (n,), "<i8", ("y",), {}),
    ]


def _weather(spec: SampleSpec) -> list[ArrayDef]:
    root, n, grid = "conditions/meteorology", weather.N_POINTS, ("latitude", "longitude")
    out = []
    for v in weather.VARIABLES:
        coordinates = (*grid, "number", "time", "step", v.level, "valid_time")
        own = weather.variable_attrs(spec, v)
        out.append(_small(f"{root}/{v.group}/{v.name}", (n, n), "<f4", grid, own, "NaN", coordinates))
    for group in ("cams", "ecmwf"):
        for name in (*weather.SCALARS, "time", "valid_time"):
            dtype = weather.SCALARS.get(name, ("<i8",))[0]
            fill = "NaN" if dtype == "<f8" else None
            out.append(_small(f"{root}/{group}/{name}", (), dtype, (), weather.scalar_attrs(spec, name), fill))
        for name in grid:
            out.append(_small(f"{root}/{group}/{name}", (n,), "<f8", (name,), weather.axis_attrs(name), "NaN"))
    return out


def _raster(
    spec: SampleSpec,
    path: str,
    resolution_m: int,
    dtype: str,
    own: a.Attrs,
    *,
    fill: int | None = None,
    is_measurement: bool = False,
    extra: tuple[str, ...] = (),
) -> ArrayDef:
    n = spec.shape_px(resolution_m)
    chunk = _chunk_px(spec, n, is_measurement=is_measurement and resolution_m == 10)
    full = a.complete(own, ("y", "x"), ("x", "y", *extra))
    return ArrayDef(path, (n, n), (chunk, chunk), dtype, fill, ("y", "x"), full)


def _small(
    path: str,
    shape: tuple[int, ...],
    dtype: str,
    dims: tuple[str, ...],
    own: a.Attrs,
    fill: str | None = None,
    coordinates: tuple[str, ...] = (),
) -> ArrayDef:
    return ArrayDef(path, shape, shape, dtype, fill, dims, a.complete(own, dims, coordinates))


def _axes(spec: SampleSpec, group: str, resolution_m: int) -> list[ArrayDef]:
    n = spec.shape_px(resolution_m)
    return [_small(f"{group}/{axis}", (n,), "<i8", (axis,), {}) for axis in ("x", "y")]


def _chunk_px(spec: SampleSpec, n: int, *, is_measurement: bool) -> int:
    """Chunk edge: a sixth of the array (older), half of a 10 m measurement or the whole array (current)."""
    if spec.layout == "1830":
        return math.ceil(n / 6)
    return math.ceil(n / 2) if is_measurement else n


def fill_of(definition: ArrayDef) -> int | float:
    """The value a missing chunk stands for; NaN for "NaN", 0 for null."""
    return math.nan if definition.fill == "NaN" else int(definition.fill or 0)
