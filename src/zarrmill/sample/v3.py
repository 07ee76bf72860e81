"""Write a product like those of CPM 3.x: Zarr v3, sharded reflectance with coarser levels, GeoZarr conventions.

The form follows published descriptions (multiscales v0.1, spatial and proj pinned to commits, one shard a band and level,
``spatial_ref`` a level, consolidated metadata on the root and on ``measurements/reflectance`` only); no metadata file of
such a product was at hand. Levels beyond 60 m cut what does not divide, and the layout's ``scale`` shows it.
"""

import json
import math
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import numpy as np
from numcodecs.checksum32 import CRC32C

from zarrmill.sample.attrs import Attrs, crs_wkt
from zarrmill.sample.pixels import UInt16Array
from zarrmill.sample.scene import mean_of_valid
from zarrmill.sample.spec import EPSG, RESOLUTIONS_M, SampleSpec
from zarrmill.sample.structure import ArrayDef, Structure, fill_of
from zarrmill.sample.writer import BLOSC, Data, Encoders, checked, chunk_at, chunk_keys

REFLECTANCE = "measurements/reflectance"
COARSE_M = (120, 360, 720)
"""Levels beyond those of v2, each made from the one before."""
TILE_PX, INNER_PX = 10980, 1024
"""Inner chunk of a whole tile; smaller products scale it."""
_RAW = "https://raw.githubusercontent.com/zarr-conventions"
CONVENTIONS = (
    {
        "description": "Multiscale layout of zarr datasets",
        "name": "multiscales",
        "schema_url": f"{_RAW}/multiscales/refs/tags/v0.1/schema.json",
        "uuid": "d35379db-88df-4056-af3a-620245f8e347",
    },
    {
        "description": "Spatial coordinate information",
        "name": "spatial:",
        "schema_url": f"{_RAW}/spatial/f5c536b9a3386e4127e3d2426dcefeebe6e5bf1a/schema.json",
        "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
    },
    {
        "description": "Coordinate reference system information for geospatial data",
        "name": "proj:",
        "schema_url": f"{_RAW}/proj/d150edbde61b53e9d17520f6d107c9d3689e5910/schema.json",
        "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
    },
)
_BYTES: Attrs = {"name": "bytes", "configuration": {"endian": "little"}}
_V2_ONLY = ("_ARRAY_DIMENSIONS", "_eopf_attrs", "dtype", "fill_value")


class V3Writer:
    """Writes arrays in any order; ``close`` adds the coarser levels and the metadata.

    By hand, like ``V2Writer``: one Blosc thread a chunk and sorted JSON, so two builds are the same bytes.
    """

    def __init__(self, root: Path, spec: SampleSpec, tree: Structure, pool: Executor) -> None:
        """Begin an empty store at ``root``."""
        self._root = root
        self._spec = spec
        self._tree = tree
        self._encoders = Encoders(pool)
        self._inner = max(16, round(INNER_PX * spec.size_px / TILE_PX))
        self._at_60: dict[str, UInt16Array] = {}
        self._nodes: dict[str, Attrs] = {}

    def put(self, path: str, data: Data) -> None:
        """Write one array of the structure; ``data`` must not change afterwards. Raises: ValueError: wrong shape."""
        definition = self._tree.arrays[path]
        data = checked(definition, data)
        if path.startswith(f"{REFLECTANCE}/r") and definition.dims == ("y", "x"):
            self._put_band(path, data)
            if path.startswith(f"{REFLECTANCE}/r60m"):
                self._at_60[path.rsplit("/", 1)[1]] = data
        else:
            self._put_plain(definition, data)

    def close(self, root_attrs: Attrs) -> None:
        """Write coarser levels, groups and consolidated metadata. Raises: ValueError: an array was not written."""
        sizes = {m: self._spec.shape_px(m) for m in RESOLUTIONS_M}
        sizes |= self._put_coarse()
        groups = dict(self._tree.groups)
        for resolution, n in sizes.items():
            groups[f"{REFLECTANCE}/r{resolution}m"] = self._level_attrs(resolution, n)
            self._put_crs(resolution)
        groups[REFLECTANCE] = self._multiscales(sizes)
        groups[""] = root_attrs
        self._encoders.wait()
        missing = [path for path in self._tree.arrays if path not in self._nodes]
        if missing:
            raise ValueError(f"sample product: arrays not written: {missing}")
        for path, attrs in groups.items():
            self._nodes[path] = {"attributes": attrs, "node_type": "group", "zarr_format": 3}
        self._put_metadata()

    def _put_coarse(self) -> dict[int, int]:
        sizes = {}
        before = 60
        bands: dict[str, UInt16Array] = self._at_60
        for resolution in COARSE_M:
            factor = resolution // before
            n = next(iter(bands.values())).shape[0] // factor
            if n == 0:
                break
            bands = {b: mean_of_valid(dn[: n * factor, : n * factor], factor) for b, dn in bands.items()}
            for band, dn in bands.items():
                self._put_band(f"{REFLECTANCE}/r{resolution}m/{band}", dn)
            self._put_coarse_axes(resolution, n)
            sizes[resolution] = n
            before = resolution
        return sizes

    def _put_coarse_axes(self, resolution: int, n: int) -> None:
        x, y = (int(v) for v in self._spec.origin_m)
        offsets = np.arange(n, dtype=np.int64) * resolution + resolution // 2
        for name, values in (("x", x + offsets), ("y", y - offsets)):
            path = f"{REFLECTANCE}/r{resolution}m/{name}"
            self._put_plain(ArrayDef(path, (n,), (n,), "<i8", None, (name,), {}), values)

    def _put_crs(self, resolution: int) -> None:
        x, y = self._spec.origin_m
        geo = f"{x} {float(resolution)} 0.0 {y} 0.0 {-float(resolution)}"
        attrs = {"crs_wkt": crs_wkt(), "spatial_ref": crs_wkt(), "GeoTransform": geo}
        path = f"{REFLECTANCE}/r{resolution}m/spatial_ref"
        self._put_plain(ArrayDef(path, (), (), "<i8", None, (), attrs), np.array(0, np.int64))

    def _put_band(self, path: str, dn: UInt16Array) -> None:
        """One shard an array, inner chunks of ``self._inner``."""
        own = self._tree.arrays[_nearest_definition(path)].attrs
        attrs = {k: v for k, v in own.items() if k not in _V2_ONLY and not k.startswith("proj:")}
        attrs |= {"_FillValue": 0, "grid_mapping": "spatial_ref"}
        shard = math.ceil(dn.shape[0] / self._inner) * self._inner
        codec = {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": [self._inner, self._inner],
                "codecs": _codecs(2),
                "index_codecs": [_BYTES, {"name": "crc32c"}],
                "index_location": "end",
            },
        }
        self._nodes[path] = _array_node(dn, (shard, shard), [codec], 0, ("y", "x"), attrs)
        work = partial(_write_shard, self._file(path, "c/0/0"), dn, self._inner, shard // self._inner)
        self._encoders.submit(work, dn.nbytes)

    def _put_plain(self, definition: ArrayDef, data: Data) -> None:
        codecs = _codecs(data.dtype.itemsize) if definition.shape else [_BYTES]
        fill: object = "NaN" if definition.fill == "NaN" else "" if data.dtype.kind == "U" else 0
        attrs = {k: v for k, v in definition.attrs.items() if k not in _V2_ONLY}
        node = _array_node(data, definition.chunks, codecs, fill, definition.dims, attrs)
        self._nodes[definition.path] = node
        for key in chunk_keys(definition):
            file = self._file(definition.path, "/".join(("c", *map(str, key))))
            work = partial(_write_chunk, file, data, key, definition.chunks, fill_of(definition))
            self._encoders.submit(work, data.nbytes)

    def _file(self, path: str, key: str) -> Path:
        file = self._root / path / key
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def _level_attrs(self, resolution: int, n: int) -> Attrs:
        return {"zarr_conventions": list(CONVENTIONS[1:]), **self._spatial(resolution, n)}

    def _spatial(self, resolution: int, n: int) -> Attrs:
        x, y = self._spec.origin_m
        edge = float(n * resolution)
        return {
            "proj:code": f"EPSG:{EPSG}",
            "spatial:bbox": [x, y - edge, x + edge, y],
            "spatial:dimensions": ["y", "x"],
            "spatial:shape": [n, n],
            "spatial:transform": [float(resolution), 0.0, x, 0.0, -float(resolution), y],
        }

    def _multiscales(self, sizes: dict[int, int]) -> Attrs:
        layout: list[Attrs] = []
        before = 0
        for resolution, n in sizes.items():
            scale = sizes[before] / n if before else 1.0
            spatial = self._spatial(resolution, n)
            entry: Attrs = {
                "asset": f"r{resolution}m",
                "spatial:shape": spatial["spatial:shape"],
                "spatial:transform": spatial["spatial:transform"],
                "transform": {"scale": [scale, scale], "translation": [0.0, 0.0]},
            }
            layout.append(entry | {"derived_from": f"r{before}m"} if before else entry)
            before = resolution
        whole = self._spatial(10, self._spec.size_px)
        return {
            "multiscales": {"layout": layout, "resampling_method": "average"},
            "proj:code": whole["proj:code"],
            "spatial:bbox": whole["spatial:bbox"],
            "spatial:dimensions": whole["spatial:dimensions"],
            "zarr_conventions": list(CONVENTIONS),
        }

    def _put_metadata(self) -> None:
        for path, node in self._nodes.items():
            full = node
            if path in ("", REFLECTANCE):
                prefix = f"{path}/" if path else ""
                below = {p[len(prefix) :]: n for p, n in self._nodes.items() if p and p.startswith(prefix)}
                inline = {"kind": "inline", "must_understand": False, "metadata": below}
                full = node | {"consolidated_metadata": inline}
            file = self._file(path, "zarr.json")
            file.write_text(json.dumps(full, indent=2, sort_keys=True))


def _nearest_definition(path: str) -> str:
    """The structure knows levels up to 60 m; coarser ones share their attributes."""
    level, band = path.rsplit("/", 2)[1:]
    known = level if int(level[1:-1]) <= RESOLUTIONS_M[-1] else "r60m"
    return f"{REFLECTANCE}/{known}/{band}"


def _codecs(typesize: int) -> list[Attrs]:
    blosc = {"typesize": typesize, "cname": "zstd", "clevel": 3, "shuffle": "bitshuffle", "blocksize": 0}
    return [_BYTES, {"name": "blosc", "configuration": blosc}]


def _array_node(
    data: Data,
    chunks: tuple[int, ...],
    codecs: list[Attrs],
    fill: object,
    dims: tuple[str, ...],
    attrs: Attrs,
) -> Attrs:
    name: object = data.dtype.name
    if data.dtype.kind == "U":
        name = {"name": "fixed_length_utf32", "configuration": {"length_bytes": data.dtype.itemsize}}
    return {
        "attributes": attrs,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": codecs,
        "data_type": name,
        "dimension_names": list(dims),
        "fill_value": fill,
        "node_type": "array",
        "shape": list(data.shape),
        "storage_transformers": [],
        "zarr_format": 3,
    }


def _write_chunk(file: Path, data: Data, key: tuple[int, ...], chunks: tuple[int, ...], fill: float) -> None:
    chunk = chunk_at(data, key, chunks, fill)
    file.write_bytes(BLOSC.encode(chunk) if chunks else chunk.tobytes())


def _write_shard(file: Path, dn: UInt16Array, inner_px: int, n_inner: int) -> None:
    """Write the one shard of ``dn``: inner chunks in C order, index with crc32c at the end.

    An inner chunk of only 0 (the fill value) is left out, its index entry is 2**64 - 1 twice.
    Source: Zarr v3 sharding codec 1.0, "Binary shard format".
    """
    index = np.full((n_inner, n_inner, 2), 2**64 - 1, "<u8")
    offset = 0
    with file.open("wb") as out:
        for i, j in np.ndindex(n_inner, n_inner):
            chunk = chunk_at(dn, (i, j), (inner_px, inner_px), 0)
            if chunk.any():
                encoded = BLOSC.encode(chunk)
                out.write(encoded)
                index[i, j] = offset, len(encoded)
                offset += len(encoded)
        out.write(CRC32C().encode(index.tobytes()))
