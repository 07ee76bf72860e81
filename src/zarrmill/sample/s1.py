"""Sentinel-1 GRD sample products with the structure of CPM products: two trees, one a polarisation, in radar geometry.

The tables below give groups, arrays, dimensions and dtypes of real IW GRDH products; values beside pixels, ground control points
and calibration are plausible, not physical. Both generations are made: ``grid`` as of 2024, ``flat`` as of 2025.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zarrmill.sample.attrs import Attrs
from zarrmill.sample.structure import ArrayDef, Structure
from zarrmill.sample.writer import V2Writer, finished_folder

Form = Literal["grid", "flat"]
Data = NDArray[Any]  # Any: every dtype of a product

GCP_SHAPE = (10, 21)
"""Ground control points along lines and along samples."""
N_VECTORS = (27, 41)
"""Calibration vectors, and values of each; real products have 27 and about 650."""
INCIDENCE_DEG = (30.0, 46.0)
"""Incidence angle at the first and the last sample."""
LINE_S = 0.0015
"""Seconds from line to line."""


@dataclass(frozen=True, slots=True)
class GrdSpec:
    """What to build."""

    shape: tuple[int, int] = (400, 600)
    """Lines and samples."""
    form: Form = "grid"
    """How control points and coordinates are laid out."""
    acquired: datetime = datetime(2025, 3, 19, 0, 25, 19, 166197, tzinfo=UTC)
    polarisations: tuple[str, ...] = ("VV", "VH")
    centre: tuple[float, float] = (12.0, 45.0)
    """Longitude and latitude in degrees."""
    heading_deg: float = -12.0
    """Direction of flight from north; about -12 ascending, -168 descending."""
    spacing_m: float = 10.0
    """From line to line and from sample to sample."""
    relief_m: float = 400.0
    """Height of the terrain at control points, at most."""
    chunks: tuple[int, int] | None = None
    """Chunk of ``grd``; None is a quarter of each side for ``grid``, a third of the lines at full width for ``flat``."""
    seed: int = 0

    @property
    def grd_chunks(self) -> tuple[int, int]:
        """Chunk shape of ``grd``."""
        lines, samples = self.shape
        given = (math.ceil(lines / 4), math.ceil(samples / 4)) if self.form == "grid" else (math.ceil(lines / 3), samples)
        return self.chunks or given


@dataclass(frozen=True, slots=True, eq=False)
class GrdScene:
    """Pixels and ground control points of a product."""

    dn: dict[str, NDArray[np.uint16]]
    """Polarisation to amplitude, shape ``(lines, samples)``."""
    lines: NDArray[np.float64]
    pixels: NDArray[np.float64]
    longitude: NDArray[np.float64]
    """Degrees, shape ``(lines, pixels)``, as the next two."""
    latitude: NDArray[np.float64]
    height: NDArray[np.float64]
    """Metres above the ellipsoid."""


def synthetic_scene(spec: GrdSpec) -> GrdScene:
    """Speckled amplitude over smooth fields, with a border of DN 0 at the first samples and lines, and some DN 65535."""
    rng = np.random.default_rng(spec.seed)
    lines, samples = spec.shape
    line, sample = np.arange(lines)[:, None] / lines, np.arange(samples)[None, :] / samples
    field = 1 + 0.5 * np.sin(7 * line + 3 * sample) * np.cos(5 * sample - 2 * line)
    edge = (samples // 40 + (4 * np.arange(lines)) // lines)[:, None]
    border = (np.arange(samples)[None, :] < edge) | (np.arange(lines)[:, None] < lines // 50 + 1)
    targets = rng.random(spec.shape) < 2e-4
    dn = {}
    for name, mean in zip(spec.polarisations, (180.0, 70.0), strict=False):
        amplitude = mean * np.sqrt(field * rng.gamma(4.4, 1 / 4.4, spec.shape))
        values = np.where(targets, 65535, np.clip(np.rint(amplitude), 1, 65535))
        dn[name] = np.where(border, 0, values).astype(np.uint16)
    return GrdScene(dn, *control_points(spec))


def control_points(spec: GrdSpec) -> tuple[NDArray[np.float64], ...]:
    """Lines, pixels, longitude, latitude and height of the control points of a straight, turned flight over rough terrain."""
    from pyproj import Transformer

    rng = np.random.default_rng([spec.seed, 1])
    lines = np.unique(np.rint(np.linspace(0, spec.shape[0] - 1, GCP_SHAPE[0])))
    pixels = np.unique(np.rint(np.linspace(0, spec.shape[1] - 1, GCP_SHAPE[1])))
    height = rng.uniform(0, spec.relief_m, (lines.size, pixels.size)) * min(1.0, spec.shape[1] * spec.spacing_m / 250_000)
    incidence = np.radians(np.interp(pixels, (0, spec.shape[1] - 1), INCIDENCE_DEG))
    along = (lines[:, None] - spec.shape[0] / 2) * spec.spacing_m + 0 * pixels
    across = (pixels - spec.shape[1] / 2) * spec.spacing_m + height / np.tan(incidence)
    turn = math.radians(spec.heading_deg)
    zone = int((spec.centre[0] + 180) // 6) + 1
    utm = f"EPSG:{(32600 if spec.centre[1] >= 0 else 32700) + zone}"
    to_degrees = Transformer.from_crs(utm, "EPSG:4326", always_xy=True)
    x0, y0 = to_degrees.transform(*spec.centre, direction="INVERSE")
    x = x0 + along * math.sin(turn) + across * math.cos(turn)
    y = y0 + along * math.cos(turn) - across * math.sin(turn)
    longitude, latitude = to_degrees.transform(x, y)
    return lines, pixels, longitude, latitude, height


def grd_product_id(spec: GrdSpec) -> str:
    """Identifier in the naming of SAFE products."""
    kind = {1: "S", 2: "D"}[len(spec.polarisations)] + spec.polarisations[0][0]
    stop = spec.acquired + timedelta(seconds=25)
    return f"S1A_IW_GRDH_1S{kind}_{spec.acquired:%Y%m%dT%H%M%S}_{stop:%Y%m%dT%H%M%S}_058366_07377B_{spec.seed:04X}"


def build_grd(spec: GrdSpec, root: Path, scene: GrdScene | None = None) -> Path:
    """Write a product to ``<root>/<product id>.zarr`` and return its path; without ``scene`` its pixels are synthetic.

    A product that is there already is left as it is; the store is built in a hidden folder and renamed when complete.
    Raises: ValueError: a scene's polarisations or shape are not those of ``spec``.
    """
    scene = scene or synthetic_scene(spec)
    if tuple(scene.dn) != spec.polarisations or any(dn.shape != spec.shape for dn in scene.dn.values()):
        raise ValueError(f"scene has {list(scene.dn)} of {[dn.shape for dn in scene.dn.values()]}, the spec {spec}")
    path = root / f"{grd_product_id(spec)}.zarr"
    if path.exists():
        return path
    values: dict[str, tuple[ArrayDef, Data]] = {}
    for name in spec.polarisations:
        for definition, data in _tree(spec, scene, name):
            values[definition.path] = (definition, data)
    groups: dict[str, Attrs] = {"": {}}
    for key in values:
        parts = key.split("/")[:-1]
        groups.update({"/".join(parts[:k]): {} for k in range(1, len(parts) + 1)})
    groups |= {_group(spec, name): {"other_metadata": {"title": f"sample {name}"}} for name in spec.polarisations}
    with finished_folder(path) as work, ThreadPoolExecutor(1) as pool:
        writer = V2Writer(work, Structure({k: d for k, (d, _) in values.items()}, groups), pool, separator_is_explicit=False)
        for key, (_, data) in values.items():
            writer.put(key, data)
        writer.close(_root(spec, scene))
    return path


def _group(spec: GrdSpec, polarisation: str) -> str:
    return f"S01SIWGRD_{spec.acquired:%Y%m%dT%H%M%S}_0025_A334_{spec.seed:04X}_07377B_{polarisation}"


def _tree(spec: GrdSpec, scene: GrdScene, polarisation: str) -> list[tuple[ArrayDef, Data]]:
    group = _group(spec, polarisation)
    made = [*_measurement(spec, scene.dn[polarisation]), *_gcp(spec, scene), *_calibration(spec), *_others(spec)]
    out = []
    for path, dims, data, own in made:
        fill = "NaN" if data.dtype.kind == "f" else None
        chunks = spec.grd_chunks if path == "measurements/grd" else data.shape
        attributes = {**own, "_ARRAY_DIMENSIONS": list(dims)}
        out.append((ArrayDef(f"{group}/{path}", data.shape, chunks, data.dtype.str, fill, dims, attributes), data))
    return out


_Made = list[tuple[str, tuple[str, ...], Data, Attrs]]
_SENSOR = ("azimuth_time", "ground_range")


def _times(spec: GrdSpec, lines: Data) -> tuple[Data, Attrs]:
    units = f"microseconds since {spec.acquired:%Y-%m-%d %H:%M:%S.%f}"
    return np.rint(lines * LINE_S * 1e6).astype("<i8"), {"calendar": "proleptic_gregorian", "units": units}


def _measurement(spec: GrdSpec, dn: Data) -> _Made:
    lines, samples = spec.shape
    own: Attrs = {"dtype": "<u2", "long_name": "measurement data set for GRD IW"}
    own["_eopf_attrs"] = dict(own)
    time, time_attrs = _times(spec, np.arange(lines))
    made: _Made = [("measurements/azimuth_time", ("azimuth_time",), time, time_attrs)]
    if spec.form == "grid":
        own["coordinates"] = "line pixel"
        made += [
            ("measurements/ground_range", ("ground_range",), np.arange(samples) * spec.spacing_m, {}),
            ("measurements/line", ("azimuth_time",), np.arange(lines), {}),
            ("measurements/pixel", ("ground_range",), np.arange(samples), {}),
        ]
    return [*made, ("measurements/grd", _SENSOR, dn, own)]


def _gcp(spec: GrdSpec, scene: GrdScene) -> _Made:
    incidence = np.interp(scene.pixels, (0, spec.shape[1] - 1), INCIDENCE_DEG) + 0 * scene.height
    degrees = {"units": "degrees"}
    planes = {
        "latitude": (scene.latitude, degrees),
        "longitude": (scene.longitude, degrees),
        "height": (scene.height, {"units": "m"}),
        "incidence_angle": (incidence, degrees),
        "elevation_angle": (incidence - 4, degrees),
    }
    if spec.form == "grid":
        time, time_attrs = _times(spec, scene.lines)
        line, pixel = scene.lines.astype("<u4"), scene.pixels.astype("<u4")
        dims: tuple[str, ...] = _SENSOR
        axes: _Made = [
            ("conditions/gcp/line", ("azimuth_time",), line, {}),
            ("conditions/gcp/pixel", ("ground_range",), pixel, {}),
        ]
    else:
        # Newer products list the points one by one; the oldest of them as float32 and int32.
        planes = {name: (plane.ravel(), own) for name, (plane, own) in planes.items()}
        rows, columns = (part.ravel() for part in np.meshgrid(scene.lines, scene.pixels, indexing="ij"))
        time, time_attrs = _times(spec, rows)
        dims = ("azimuth_time",)
        axes = [
            ("conditions/gcp/line", dims, rows.astype("<i4"), {}),
            ("conditions/gcp/pixel", dims, columns.astype("<i4"), {"coordinates": "line"}),
        ]
    made = [(f"conditions/gcp/{name}", dims, plane, own) for name, (plane, own) in planes.items()]
    return [*axes, ("conditions/gcp/azimuth_time", ("azimuth_time",), time, time_attrs), *made]


def _calibration(spec: GrdSpec) -> _Made:
    lines = np.rint(np.linspace(0, spec.shape[0] - 1, min(N_VECTORS[0], spec.shape[0]))).astype("<u4")
    pixels = np.rint(np.linspace(0, spec.shape[1] - 1, min(N_VECTORS[1], spec.shape[1]))).astype("<u4")
    time, time_attrs = _times(spec, lines)
    root, own = "quality/calibration", {"coordinates": "line pixel", "dtype": "<f4"}
    across, along = pixels / spec.shape[1], lines[:, None] / spec.shape[0]
    made: _Made = [
        (f"{root}/azimuth_time", ("azimuth_time",), time, time_attrs),
        (f"{root}/line", ("azimuth_time",), lines, {}),
        (f"{root}/pixel", ("ground_range",), pixels, {}),
        (f"{root}/ground_range", ("ground_range",), pixels * spec.spacing_m, {}),
    ]
    for name, first in (("sigma_nought", 330.0), ("beta_nought", 237.0), ("gamma", 310.0), ("dn", 237.0)):
        slope = 0.0 if name in ("beta_nought", "dn") else 60.0
        table = (first + slope * across + 2 * along).astype("<f4")
        made.append((f"{root}/{name}", _SENSOR, table, own | {"long_name": f"{name} calibration vector"}))
    return made


_OTHERS: tuple[tuple[str, tuple[tuple[str, int], ...], str], ...] = (
    ("conditions/antenna_pattern/elevation_angle", (("azimuth_time", 27), ("count", 30)), "<f4"),
    ("conditions/antenna_pattern/slant_range_time_ap", (("azimuth_time", 27), ("count", 30)), "<f8"),
    ("conditions/antenna_pattern/swath", (("azimuth_time", 27),), "<U3"),
    ("conditions/attitude/roll", (("azimuth_time", 25),), "<f8"),
    ("conditions/azimuth_fm_rate/azimuth_fm_rate_polynomial", (("azimuth_time", 11), ("degree", 3)), "<f8"),
    ("conditions/coordinate_conversion/srgr_coefficients", (("azimuth_time", 28), ("degree", 9)), "<f8"),
    ("conditions/doppler_centroid/data_dc_rms_error_above_threshold", (("azimuth_time", 27),), "|b1"),
    ("conditions/orbit/axis", (("axis", 3),), "<U1"),
    ("conditions/orbit/position", (("azimuth_time", 17), ("axis", 3)), "<f8"),
    ("conditions/orbit/velocity", (("azimuth_time", 17), ("axis", 3)), "<f8"),
    ("conditions/replica/pg_product_amplitude", (("azimuth_time", 15),), "<f8"),
    ("conditions/terrain_height/terrain_height", (("azimuth_time", 5),), "<f8"),
    ("quality/noise/noise_power_correction_factor", (("azimuth_time", 53),), "<f4"),
    ("quality/noise/number_of_noise_lines", (("azimuth_time", 53),), "<u4"),
    ("quality/noise_azimuth/noise_azimuth_lut", (("swath", 3), ("azimuth_time", 40)), "<f4"),
    ("quality/noise_azimuth/line", (("swath", 3), ("azimuth_time", 40)), "<i4"),
    ("quality/noise_range/noise_range_lut", (("azimuth_time", 27), ("ground_range", 41)), "<f4"),
    ("quality/noise_range/pixel", (("azimuth_time", 27), ("ground_range", 41)), "<i4"),
)


def _others(spec: GrdSpec) -> _Made:
    rng = np.random.default_rng(spec.seed + 1)
    made: _Made = []
    for path, sizes, dtype in _OTHERS:
        if spec.form == "flat" and path.startswith(
            ("quality/noise_", "conditions/orbit/axis", "conditions/antenna_pattern/swath")
        ):
            continue
        shape = tuple(size for _, size in sizes)
        data = rng.integers(0, 100, shape) if np.dtype(dtype).kind in "iub" else rng.normal(size=shape)
        made.append((path, tuple(name for name, _ in sizes), _typed(data, dtype), {}))
    return made


def _typed(data: Data, dtype: str) -> Data:
    if np.dtype(dtype).kind == "U":
        return np.resize(np.array(["x", "y", "z"] if dtype == "<U1" else ["IW1", "IW2", "IW3"]), data.shape).astype(dtype)
    return data.astype(dtype)


def _footprint(scene: GrdScene) -> list[list[float]]:
    corners = [(0, 0), (0, -1), (-1, -1), (-1, 0)]
    return [[round(float(scene.longitude[c]), 6), round(float(scene.latitude[c]), 6)] for c in corners]


def _root(spec: GrdSpec, scene: GrdScene) -> Attrs:
    """Root attributes with the defects of real ones: bbox from east to west, an open polygon, a title for an id."""
    ring = _footprint(scene)
    xs, ys = [p[0] for p in ring], [p[1] for p in ring]
    discovery = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "SAR Standard L1 Product",
        "bbox": [max(xs), min(ys), min(xs), max(ys)],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {**_properties(spec), "datetime": "null"},
        "assets": {},
        "links": [],
        "stac_extensions": [],
    }
    return {"stac_discovery": discovery, "other_metadata": {"eopf_category": "eocontainer", "title": "S01SIWGRH"}}


def _properties(spec: GrdSpec) -> Attrs:
    stamp = "%Y-%m-%dT%H:%M:%S.%fZ"
    return {
        "start_datetime": f"{spec.acquired:{stamp}}",
        "end_datetime": f"{spec.acquired + timedelta(seconds=25):{stamp}}",
        "constellation": "sentinel-1",
        "platform": "sentinel-1a",
        "product:type": "S01SIWGRH",
        "sar:frequency_band": "C",
        "sar:instrument_mode": "IW",
        "sar:polarizations": list(spec.polarisations),
        "sar:product_type": "GRD",
        "sat:absolute_orbit": 58366,
        "sat:relative_orbit": 19,
        "sat:orbit_state": "ascending" if math.cos(math.radians(spec.heading_deg)) > 0 else "descending",
    }


def grd_item(spec: GrdSpec, scene: GrdScene, href: str) -> Attrs:
    """STAC item of a product, as the catalogue serves it; ``href`` is the store's root as seen from the item's file."""
    ring = _footprint(scene)
    xs, ys = [p[0] for p in ring], [p[1] for p in ring]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [],
        "id": grd_product_id(spec),
        "collection": "sentinel-1-l1-grd",
        "bbox": [min(xs), min(ys), max(xs), max(ys)],
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        "properties": {**_properties(spec), "datetime": _properties(spec)["start_datetime"]},
        "assets": {"product": {"href": href, "type": "application/vnd+zarr", "roles": ["data", "metadata"]}},
        "links": [],
    }
