"""A small EOPF-like product and a correct GeoZarr of it, written with zarr-python alone: the oracle of the validation tests.

Nothing of the converter is used. Levels are computed with loops over cells and fractions. ``foreign_store`` writes what
another, plainer writer might write.
"""

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from zarr.codecs import BloscCodec

SIZE_PX = 180
LEVELS = {"r10m": 1, "r20m": 2, "r60m": 6, "r120m": 12, "r360m": 36}
ORIGIN = (699960.0, 4700040.0)
EPSG = 32632
CHUNK_PX, SHARD_PX = 15, 90
MULTISCALES = "measurements/reflectance"
SCL_WORDS = (
    "no_data saturated_or_defective dark_area_pixels cloud_shadows vegetation not_vegetated water unclassified "
    "cloud_medium_probability cloud_high_probability thin_cirrus snow"
)
SOURCE_BANDS = {"r10m": ("b02", "b08"), "r20m": ("b02", "b05"), "r60m": ("b02", "b05")}
MAPS = {
    "conditions/mask/detector_footprint": "nearest",
    "conditions/mask/l2a_classification": "mode",
    "quality/atmosphere": "average",
    "quality/mask": "or",
    "quality/probability": "average",
}
"""Groups of maps with levels, and how those are made; 0 is no data in the atmosphere, zero percent in the probabilities."""
Pixels = NDArray[Any]


def declaration(name: str, uuid: str, description: str) -> dict[str, str]:
    """The object that declares a convention at v0.1."""
    return {
        "uuid": uuid,
        "schema_url": f"https://raw.githubusercontent.com/zarr-conventions/{name}/refs/tags/v0.1/schema.json",
        "spec_url": f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md",
        "name": name,
        "description": description,
    }


MULTI = declaration("multiscales", "d35379db-88df-4056-af3a-620245f8e347", "Multiscale layout of zarr datasets")
SPATIAL = declaration("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information")
PROJ = declaration("proj", "f17cb550-5864-4468-aeb7-f3180cfb622f", "Coordinate reference system information for geospatial data")


def slow_level(pixels: Pixels, factor: int, rule: str, nodata: bool = True) -> Pixels:
    """Compute a level cell by cell: exact fractions, ties of the mean to even, ties of classes to the smallest."""
    shape = tuple(-(-n // factor) for n in pixels.shape)
    out = np.zeros(shape, pixels.dtype)
    for cell in np.ndindex(*shape):
        block = pixels[tuple(slice(i * factor, (i + 1) * factor) for i in cell)].ravel().tolist()
        valid = [int(v) for v in block if v or not nodata]
        if rule == "average":
            out[cell] = round(Fraction(sum(valid), len(valid))) if valid else 0
        elif rule == "or":
            for value in block:
                out[cell] |= value
        elif rule == "mode":
            counts = Counter(int(v) for v in block if v)
            out[cell] = min(counts, key=lambda v: (-counts[v], v)) if counts else 0
        else:
            out[cell] = pixels[tuple(i * factor + factor // 2 for i in cell)]
    return out


def _band(seed: int, size: int) -> Pixels:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(1, 6000, (size, size)).astype(np.uint16)
    pixels[: size // 6, :] = 0
    pixels[:, : size // 10] = 0
    pixels[size // 2, size // 2 : size // 2 + 6] = (1, 17, 999, 1000, 1001, 65535)
    for edge in (2, 3, 6):
        pixels[edge, edge] = 7  # a lone valid pixel in a cell without others
    return pixels


@cache
def source_arrays() -> dict[str, Pixels]:
    """Values of every array of the product by path; shared, not to be changed."""
    arrays: dict[str, Pixels] = {}
    for level, bands in SOURCE_BANDS.items():
        n = SIZE_PX // LEVELS[level]
        for i, band in enumerate(bands):
            arrays[f"{MULTISCALES}/{level}/{band}"] = _band(100 * n + i, n)
    rng = np.random.default_rng(5)
    arrays["conditions/mask/l2a_classification/r20m/scl"] = rng.integers(0, 12, (90, 90)).astype(np.uint8)
    arrays["quality/mask/r10m/b02"] = (1 << rng.integers(0, 8, (180, 180))).astype(np.uint8)
    arrays["quality/mask/r20m/b05"] = (1 << rng.integers(0, 8, (90, 90))).astype(np.uint8)
    arrays["quality/probability/r20m/cld"] = rng.choice(np.array([0, 0, 1, 50, 100], np.uint8), (90, 90))
    arrays["quality/atmosphere/r20m/aot"] = _band(77, 90)
    arrays["quality/atmosphere/r60m/aot"] = _band(78, 30)
    arrays["conditions/mask/detector_footprint/r60m/b09"] = rng.integers(0, 13, (30, 30)).astype(np.uint8)
    arrays["quality/l2a_quicklook/r10m/tci"] = rng.integers(0, 255, (3, 180, 180)).astype(np.uint8)
    arrays["conditions/geometry/band"] = np.array(["b01", "b02", "b8a"])
    arrays["conditions/geometry/mean_sun_angles"] = np.array([30.5, np.nan])
    for group in {path.rpartition("/")[0] for path in arrays if path.rpartition("/")[0].endswith("0m")}:
        size_m = int(group.rpartition("/r")[2][:-1])
        for axis, (origin, step) in {"x": (ORIGIN[0], size_m), "y": (ORIGIN[1], -size_m)}.items():
            centres = origin + step * (np.arange(SIZE_PX * 10 // size_m) + 0.5)
            arrays[f"{group}/{axis}"] = centres.astype(np.int64)
    for pixels in arrays.values():
        pixels.flags.writeable = False
    return arrays


def _dims(path: str, pixels: Pixels) -> list[str]:
    name = path.rpartition("/")[2]
    if pixels.ndim == 1:
        return [{"mean_sun_angles": "angle"}.get(name, name)]
    return ["band", "y", "x"][-pixels.ndim :]


def write_source(path: Path, chunk_px: int = 90) -> Path:
    """Write the product as Zarr v2 with consolidated metadata."""
    root = zarr.create_group(path, zarr_format=2)
    root.attrs.update({"stac_discovery": {"properties": {"proj:epsg": EPSG}}, "other_metadata": {"x": 1}})
    for name, pixels in source_arrays().items():
        attributes: dict[str, Any] = {"_ARRAY_DIMENSIONS": _dims(name, pixels)}
        if pixels.ndim > 1:
            size_m = int(name.split("/")[-2][1:-1])
            transform = [size_m, 0.0, ORIGIN[0], 0.0, -size_m, ORIGIN[1], 0.0, 0.0, 1.0]
            attributes |= {"proj:epsg": EPSG, "proj:transform": transform, "_eopf_attrs": {}}
        if name.startswith(MULTISCALES) and pixels.ndim == 2:
            attributes |= {"scale_factor": 1e-4, "add_offset": -0.1, "units": "digital_counts", "valid_min": 1}
        if name.startswith("quality/atmosphere") and pixels.ndim == 2:
            attributes |= {"long_name": "aerosol optical thickness", "weight": [1.5, float("nan")]}
        if name.endswith("/cld"):
            attributes |= {"coordinates": "x band elsewhere"}
        if name.startswith("quality/mask") and pixels.ndim == 2:
            attributes |= {"flag_masks": [1 << bit for bit in range(8)], "flag_meanings": [f"bit{i}" for i in range(8)]}
        chunks = tuple(min(n, chunk_px) for n in pixels.shape)
        fill: Any = {"fill_value": 0} if name.startswith((MULTISCALES, "quality/atmosphere")) else {"fill_value": None}
        array = root.create_array(name, shape=pixels.shape, dtype=pixels.dtype, chunks=chunks, attributes=attributes, **fill)
        array[...] = pixels
    root["conditions/geometry"].attrs["title"] = "sun angles"
    zarr.consolidate_metadata(path, zarr_format=2)
    return path


def level_attributes(size_m: int) -> dict[str, Any]:
    """Attributes of a group whose arrays have pixels of ``size_m`` metres."""
    n = SIZE_PX * 10 // size_m
    return {
        "zarr_conventions": [SPATIAL, PROJ],
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": [float(size_m), 0.0, ORIGIN[0], 0.0, -float(size_m), ORIGIN[1]],
        "spatial:shape": [n, n],
        "spatial:bbox": bbox(),
        "spatial:registration": "pixel",
        "proj:code": f"EPSG:{EPSG}",
    }


def bbox() -> list[float]:
    """Extent of every level."""
    return [ORIGIN[0], ORIGIN[1] - SIZE_PX * 10, ORIGIN[0] + SIZE_PX * 10, ORIGIN[1]]


def layout(levels: dict[str, int], method: str = "average") -> list[dict[str, Any]]:
    """Layout entries, each derived from the one before."""
    entries: list[dict[str, Any]] = []
    for name, factor in levels.items():
        attributes = level_attributes(10 * factor)
        scale = factor / levels[entries[-1]["asset"]] if entries else 1.0
        entry: dict[str, Any] = {"asset": name, "transform": {"scale": [scale] * 2, "translation": [0.0, 0.0]}}
        if entries:
            entry |= {"derived_from": entries[-1]["asset"], "resampling_method": method}
        entries.append(entry | {key: attributes[key] for key in ("spatial:shape", "spatial:transform")})
    return entries


def map_levels(group: str) -> dict[str, int]:
    """Levels of a group of maps: those from its finest on."""
    finest = min(LEVELS[path.split("/")[-2]] for path, pixels in source_arrays().items() if _in(group, path, pixels))
    return {name: factor for name, factor in LEVELS.items() if factor >= finest}


def _in(group: str, path: str, pixels: Pixels) -> bool:
    return pixels.ndim == 2 and path.rpartition("/")[0].rpartition("/")[0] == group


@cache
def made_of() -> dict[str, tuple[str, str, int]]:
    """Path of each level that is computed to what it is made from, how, and by which factor."""
    given = source_arrays()
    made = {}
    for group, rule in ({MULTISCALES: "average"} | MAPS).items():
        for name in {path.rpartition("/")[2] for path, pixels in given.items() if _in(group, path, pixels)}:
            finest = next(level for level in LEVELS if f"{group}/{level}/{name}" in given)
            for level, factor in LEVELS.items():
                path = f"{group}/{level}/{name}"
                if factor > LEVELS[finest] and path not in given:
                    made[path] = (f"{group}/{finest}/{name}", rule, factor // LEVELS[finest])
    return made


@cache
def target_arrays() -> dict[str, Pixels]:
    """Values that the store must have by path: source arrays without quick-look, and every raster on every coarser level."""
    arrays = {path: v for path, v in source_arrays().items() if "quicklook" not in path and path[-2:] not in ("/x", "/y")}
    for path, (origin, rule, factor) in made_of().items():
        arrays[path] = slow_level(arrays[origin], factor, rule, nodata="probability" not in path)
    return arrays


def _attributes(path: str, pixels: Pixels) -> dict[str, Any]:
    if pixels.ndim < 2:
        return {}
    origin, rule, _ = made_of().get(path, ("", "", 1))
    attributes = {"grid_mapping": "spatial_ref"} | ({"derived_from": origin, "resampling_method": rule} if origin else {})
    if path.startswith(MULTISCALES):
        cf = {"scale_factor": 1e-4, "add_offset": -0.1, "_FillValue": 0, "units": "1"}
        return attributes | cf | {"standard_name": "surface_bidirectional_reflectance"}
    if path.endswith("/scl"):
        return attributes | {"flag_values": list(range(12)), "flag_meanings": SCL_WORDS}
    if path.startswith("quality/mask"):
        words = " ".join(f"bit{i}" for i in range(8))
        return attributes | {"flag_masks": [1 << bit for bit in range(8)], "flag_meanings": words}
    if path.endswith("/cld"):
        attributes["coordinates"] = "x"
    if "atmosphere" in path:
        attributes |= {"_FillValue": 0, "long_name": "aerosol optical thickness", "weight": [1.5, None]}
    return attributes


def write_store(path: Path, *, sharded: bool = True, ours: bool = True) -> Path:
    """Write the correct GeoZarr, sealed; ``ours`` stamps it with the root attribute ``zarrmill``."""
    root = zarr.create_group(path, zarr_format=3)
    arrays = target_arrays()
    for name, pixels in arrays.items():
        _write_array(root, name, pixels, sharded)
    level_groups = {name.rpartition("/")[0] for name, pixels in arrays.items() if pixels.ndim == 2}
    for group in sorted(level_groups):
        _write_georeference(root, group)
    root["conditions/geometry"].attrs["title"] = "sun angles"
    west, south, east, north = Transformer.from_crs(EPSG, 4326, always_xy=True).transform_bounds(*bbox())
    for group, method in ({MULTISCALES: "average"} | MAPS).items():
        root[group].attrs.update(
            {
                "zarr_conventions": [MULTI, SPATIAL, PROJ],
                "multiscales": {"layout": layout(map_levels(group), method), "resampling_method": method},
                "spatial:dimensions": ["y", "x"],
                "spatial:bbox": bbox(),
                "proj:code": f"EPSG:{EPSG}",
            }
        )
    root.attrs.update(
        {
            "zarr_conventions": [SPATIAL, PROJ],
            "spatial:dimensions": ["y", "x"],
            "spatial:bbox": [west, south, east, north],
            "proj:code": "EPSG:4326",
            "stac_discovery": {"properties": {"proj:epsg": EPSG}},
            "other_metadata": {"x": 1},
        }
    )
    if ours:
        edit(path, "", lambda node: node["attributes"].update({"zarrmill": {}}))
    seal(path)
    return path


def _write_array(root: zarr.Group, name: str, pixels: Pixels, sharded: bool) -> None:
    options: dict[str, Any] = {"dimension_names": _dims(name, pixels), "attributes": _attributes(name, pixels)}
    if pixels.dtype.kind == "U":
        with warnings.catch_warnings():
            # zarr-python: the string data type has no final specification yet.
            warnings.simplefilter("ignore")
            array = root.create_array(name, shape=pixels.shape, dtype=str, chunks=pixels.shape, **options)
        array[...] = pixels.astype(object)
        return
    shuffle: Any = "noshuffle" if pixels.dtype.itemsize == 1 else "shuffle"
    codec = BloscCodec(typesize=pixels.dtype.itemsize, cname="zstd", clevel=5, shuffle=shuffle)
    chunks = tuple(min(n, CHUNK_PX) for n in pixels.shape)
    shards = tuple(min(n, SHARD_PX) for n in pixels.shape)
    if pixels.dtype.kind == "f":
        options["fill_value"] = np.nan
    if pixels.ndim == 2 and sharded and chunks != pixels.shape:
        options["shards"] = shards
    array = root.create_array(name, shape=pixels.shape, dtype=pixels.dtype, chunks=chunks, compressors=codec, **options)
    array[...] = pixels


def _write_georeference(root: zarr.Group, group: str) -> None:
    size_m = int(group.rpartition("/r")[2][:-1])
    attributes = level_attributes(size_m)
    root[group].attrs.update(attributes)
    a, b, c, d, e, f = attributes["spatial:transform"]
    for axis, origin, step in (("x", c, a), ("y", f, e)):
        n = SIZE_PX * 10 // size_m
        cf = {"standard_name": f"projection_{axis}_coordinate", "units": "m", "axis": axis.upper()}
        options: dict[str, Any] = {"dimension_names": [axis], "attributes": cf, "fill_value": np.nan}
        codec = BloscCodec(typesize=8, cname="zstd", clevel=5, shuffle="shuffle")
        array = root.create_array(f"{group}/{axis}", shape=(n,), dtype="f8", chunks=(n,), compressors=codec, **options)
        array[...] = origin + step * (np.arange(n) + 0.5)
    cf = CRS.from_epsg(EPSG).to_cf()
    cf |= {"spatial_ref": cf["crs_wkt"], "GeoTransform": f"{c} {a} {b} {f} {d} {e}"}
    array = root.create_array(
        f"{group}/spatial_ref", shape=(), dtype="i4", chunks=(), compressors=None, dimension_names=(), attributes=cf
    )
    array[...] = 0


def edit(store: Path, node: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change one ``zarr.json``; consolidated metadata and digest are left as they are (see ``seal``)."""
    file = store / node / "zarr.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def rewrite(store: Path, array: str, change: Callable[[Pixels], Pixels]) -> None:
    """Change pixels of one array with zarr-python."""
    opened = zarr.open_array(store, path=array, mode="r+")
    opened[...] = change(np.asarray(opened[...]))


def consolidate(store: Path, group: str) -> None:
    """Write the consolidated metadata of one group from its nodes' own documents."""
    folder = store / group
    found = {f.parent.relative_to(folder).as_posix(): json.loads(f.read_text()) for f in sorted(folder.rglob("zarr.json"))}
    entries = {path: {k: v for k, v in d.items() if k != "consolidated_metadata"} for path, d in found.items() if path != "."}
    inline = {"kind": "inline", "must_understand": False, "metadata": entries}
    edit(store, group, lambda node: node.update({"consolidated_metadata": inline}))


def tree_sha256(store: Path) -> str:
    """Digest over every object but the root ``zarr.json``."""
    files = {f.relative_to(store).as_posix(): f.read_bytes() for f in store.rglob("*") if f.is_file()}
    lines = [f"{k} {len(v)} {hashlib.sha256(v).hexdigest()}\n" for k, v in sorted(files.items()) if k != "zarr.json"]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def counts(store: Path) -> dict[str, int]:
    """Number and bytes of every object but the root ``zarr.json``."""
    sizes = [f.stat().st_size for f in store.rglob("*") if f.is_file() and f != store / "zarr.json"]
    return {"n_objects": len(sizes), "n_bytes": sum(sizes)}


def seal(store: Path) -> None:
    """Consolidate multiscales group and root anew, and renew the digest of a stamped store."""
    for group in (MULTISCALES, *MAPS):
        if (store / group / "zarr.json").exists():
            consolidate(store, group)
    consolidate(store, "")
    stamp = {"tree_sha256": tree_sha256(store)}

    def renew(node: dict[str, Any]) -> None:
        if "zarrmill" in node["attributes"]:
            node["attributes"]["zarrmill"] = stamp

    edit(store, "", renew)


def foreign_store(path: Path, *, arrays_as_assets: bool = False) -> Path:
    """Write a valid GeoZarr of another writer: levels ``0``, ``1``, ``2`` under the root, no CF, no x and y, float32."""
    root = zarr.create_group(path, zarr_format=3)
    rng = np.random.default_rng(3)
    entries: list[dict[str, Any]] = []
    for i, factor in enumerate((1, 2, 4)):
        n = 64 // factor
        transform = [0.5 * factor, 0.0, 10.0, 0.0, -0.5 * factor, 50.0]
        name = str(i) if arrays_as_assets else f"{i}/data"
        array = root.create_array(name, shape=(n, n), dtype="f4", chunks=(32, 32), dimension_names=["y", "x"])
        array[...] = rng.random((n, n)) + 1
        scale = 2.0 if i else 1.0
        entry: dict[str, Any] = {"asset": str(i), "transform": {"scale": [scale] * 2, "translation": [0.0, 0.0]}}
        entry |= {"derived_from": str(i - 1)} if i else {}
        entries.append(entry | {"spatial:shape": [n, n], "spatial:transform": transform})
    root.attrs.update(
        {
            "zarr_conventions": [MULTI, SPATIAL, PROJ],
            "multiscales": {"layout": entries},
            "spatial:dimensions": ["y", "x"],
            "spatial:bbox": [10.0, 18.0, 42.0, 50.0],
            "proj:code": "EPSG:4326",
        }
    )
    return path
