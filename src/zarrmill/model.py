"""Frozen values that pass between stages, and the records that stages write.

A record is a value here plus its file form in ``zarrmill.io.record``: canonical JSON with a ``schema`` field. What may differ
between two equal runs (times, memory, machine) lives in ``Measured`` and is never compared.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Json = Any
"""A JSON value; only attributes of Zarr nodes and STAC documents are passed like this."""


class Severity(StrEnum):
    """Weight of a finding: an ``error`` fails the store, a ``warning`` lowers its score, an ``info`` is told."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Verdict(StrEnum):
    """Outcome of a validation."""

    PASS = "PASS"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Product:
    """One row of the manifest: a product to build, with everything its name is made of."""

    collection: str
    """Source collection; with ``product_id`` the key of a product."""
    product_id: str
    """Identifier in the source catalogue, safe as a file name."""
    datetime: str
    """Acquisition, ISO 8601 in UTC."""
    product_type: str
    """EOPF product type, e.g. ``S02MSIL2A``."""
    href: str
    """Root of the source Zarr store: local path, ``http(s)://`` or ``s3://``."""
    item_href: str
    """Address of the source STAC item, or empty for a plain list of hrefs."""
    recipe: str
    """Name of the recipe."""
    digest: str
    """Eight hex digits over recipe, format version and source fingerprint."""
    source_fingerprint: str
    """What identifies the source's content, see ``source.fingerprint`` in the configuration."""
    n_bytes: int
    """Decoded bytes of the source arrays that the recipe converts; 0 when not known."""
    n_objects: int
    """Objects that the store will have; 0 when not known."""
    mem_mb: int
    """Memory that the conversion needs at most."""

    @property
    def day(self) -> str:
        """Acquisition day, ``yyyymmdd``."""
        return self.datetime[:10].replace("-", "")

    @property
    def name(self) -> str:
        """Name of every target of this product: ``<product_id>_<digest>``."""
        return f"{self.product_id}_{self.digest}"

    @property
    def store_path(self) -> str:
        """Place of the store below the store root: ``<collection>/<day>/<name>.zarr``."""
        return f"{self.collection}/{self.day}/{self.name}.zarr"


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """What ``plan`` knows of one product: its manifest row and the source item that it came from."""

    product: Product
    item: Mapping[str, Json]
    """Source STAC item as the catalogue served it; empty for a plain list of hrefs."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check has to say about a store."""

    code: str
    """Stable code, e.g. ``values.level``; ``docs/reference/findings.md`` lists all."""
    severity: Severity
    path: str
    """Node or object inside the store, ``/`` for the store itself."""
    message: str
    """What was found and what was expected."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a stage cost, and on what; never compared."""

    started: str = ""
    """ISO 8601 in UTC."""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_rss_bytes: int = 0
    """Peak resident memory of the process."""
    threads: int = 1
    attempt: int = 1
    steps_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds by step of the stage; steps may run side by side."""
    software: Mapping[str, str] = field(default_factory=dict)
    """Versions of the packages that shaped the result."""


@dataclass(frozen=True, slots=True)
class ConvertReceipt:
    """Written last by ``convert``, when the store is sealed and was read back."""

    product: Product
    store: str
    """Address of the sealed store."""
    recipe_digest: str
    """Digest (sha256) of the part of the recipe that shapes bytes."""
    tree_sha256: str
    """Digest over the sorted keys, sizes and sha256 of every object but the root ``zarr.json``."""
    root_sha256: str
    """Digest of the root ``zarr.json``, which itself holds ``tree_sha256``."""
    n_objects: int
    n_bytes: int
    """Bytes of the store on disk."""
    n_bytes_source: int
    """Decoded bytes that were read."""
    findings: tuple[Finding, ...]
    """What the conversion noticed, e.g. chunks that the source does not have."""
    adopted: bool
    """True when a sealed store of the same name was there and was verified, not written."""
    measured: Measured


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """What ``validate`` found in a store."""

    store: str
    source: str
    """Source that values were compared with; empty when the store was looked at alone."""
    verdict: Verdict
    score: float
    """0 to 100: share of checks passed, weighed by severity."""
    n_checks: int
    """Checks that were carried out; a report without checks cannot pass."""
    findings: tuple[Finding, ...]
    depth: str
    """``full``, ``sampled`` or ``structure``."""
    sample: str
    """In words, which pixels were compared."""
    n_pixels_compared: int
    readers: Mapping[str, str]
    """Reader to ``ok``, or why it was skipped."""
    measured: Measured
    product: Product | None = None
    """The manifest row, when validated within a run."""


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """Why a stage failed on a product; outlives the job."""

    run: str
    stage: str
    product: Product
    failure_class: str
    code: str
    message: str
    when: str
    """ISO 8601 in UTC."""
    log: str
    """Path of the job's log; empty when it went with its pod."""
    findings: tuple[Finding, ...]
    measured: Measured
    excerpt: str = ""
    """End of the job's log, bounded and without secrets."""
    session: str = ""
    """Session of the driver whose try this was; empty where jobs do not know it."""


@dataclass(frozen=True, slots=True)
class SourceArray:
    """One array of a source product, as its metadata states it."""

    path: str
    """``group/.../name`` without a leading slash."""
    shape: tuple[int, ...]
    dtype: str
    """NumPy dtype string, e.g. ``<u2``; ``string`` for text of any length."""
    chunks: tuple[int, ...]
    """Shape of the smallest piece that can be decoded alone (the inner chunk of a sharded array)."""
    dims: tuple[str, ...]
    """Dimension names; empty for a scalar."""
    fill_value: Json
    """Fill value as in the metadata; None when the source declares none."""
    attributes: Mapping[str, Json]
    encoding: Mapping[str, Json]
    """The array's own metadata document: ``.zarray`` of Zarr v2, ``zarr.json`` of v3."""

    @property
    def group(self) -> str:
        """Path of the group that holds this array."""
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def n_bytes(self) -> int:
        """Decoded size in bytes; text counts as 4 bytes a cell."""
        size = 4 if self.dtype == "string" else np.dtype(self.dtype).itemsize
        return size * math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class SourceTree:
    """Everything that a source product's consolidated metadata says."""

    zarr_format: int
    """2 (EOPF CPM 2.x) or 3 (CPM 3.x)."""
    fingerprint: str
    """sha256 of the consolidated metadata object."""
    groups: Mapping[str, Mapping[str, Json]]
    """Group path to attributes; the root is the empty path."""
    arrays: Mapping[str, SourceArray]
    """Array path to array."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A regular north-up pixel grid."""

    crs: str
    """Authority and code, e.g. ``EPSG:32632``."""
    transform: tuple[float, float, float, float, float, float]
    """Pixel to CRS ``(a, b, c, d, e, f)`` in rasterio order; (c, f) is the outer corner of pixel (0, 0)."""
    shape: tuple[int, int]
    """``(height, width)`` in pixels."""

    @property
    def bbox(self) -> tuple[float, float, float, float]:
        """West, south, east, north of the outer edges in CRS units."""
        a, _, c, _, e, f = self.transform
        height, width = self.shape
        return (c, f + e * height, c + a * width, f)


@dataclass(frozen=True, slots=True, eq=False)
class Gcps:
    """Ground control points of a radar image on a full grid of lines and pixels."""

    lines: NDArray[np.float64]
    """Lines, rising; a whole number is the centre of a line."""
    pixels: NDArray[np.float64]
    """Samples along a line, rising; a whole number is the centre of a sample."""
    longitude: NDArray[np.float64]
    """Degrees, shape ``(lines, pixels)``; in one piece also over the antimeridian."""
    latitude: NDArray[np.float64]
    """Degrees, shape ``(lines, pixels)``."""


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationTable:
    """Calibration vectors of a radar image; between them they are bilinear in line and pixel."""

    lines: NDArray[np.float64]
    pixels: NDArray[np.float64]
    values: NDArray[np.float64]
    """Shape ``(lines, pixels)``; backscatter is DN squared over the value squared."""


@dataclass(frozen=True, slots=True, eq=False)
class Warp:
    """How a raster in radar geometry comes onto a map grid."""

    grid: Grid
    """Grid of the finest level."""
    gcps: Gcps
    utm: str
    """UTM zone in which positions are interpolated, e.g. ``EPSG:32632``."""
    resampling: str
    """``bilinear`` or ``nearest``."""
    calibration: CalibrationTable | None
    """Makes backscatter (float32, NaN without data) of DN; None keeps DN."""


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    """One array of the target store, decided before a pixel is touched."""

    path: str
    """``group/.../name``; for arrays of the source the same as there."""
    shape: tuple[int, ...]
    dtype: str
    """NumPy dtype string, little endian; ``string`` for text."""
    chunks: tuple[int, ...]
    """Inner chunk shape; divides ``shards`` exactly."""
    shards: tuple[int, ...] | None
    """Shard shape, or None when the array is not sharded."""
    dims: tuple[str, ...]
    fill_value: Json
    """Zarr fill value; ``"NaN"`` for floats."""
    attributes: Mapping[str, Json]
    document: Mapping[str, Json] | None = None
    """Whole ``zarr.json`` of an array that keeps the objects of the source; None where the recipe lays it out."""


@dataclass(frozen=True, slots=True)
class RasterTask:
    """One source raster and every target array that is made from it in a single pass."""

    source: SourceArray
    """Array with dimensions ``(..., y, x)``."""
    rule: str
    """How coarser levels are made, see ``zarrmill.core.rules``."""
    outputs: tuple[tuple[int, ArrayPlan], ...]
    """Factor (1 copies) and target, fine to coarse; factors divide each other and the source's shape."""
    mandatory: bool
    """Whether a missing chunk is an error instead of a finding."""
    nodata: int | None
    """Stored value that counts for nothing in a mean of integers; None when every value counts."""
    warp: Warp | None = None
    """Resamples the source onto a map grid first; factors then count from that grid."""

    @property
    def n_bytes(self) -> int:
        """Decoded bytes that this task reads."""
        return self.source.n_bytes


@dataclass(frozen=True, slots=True)
class Taken:
    """One source array whose objects are copied byte for byte."""

    source: SourceArray
    target: ArrayPlan
    mandatory: bool
    """Whether a missing object is an error instead of a finding."""


@dataclass(frozen=True, slots=True)
class StorePlan:
    """The target store as decided from metadata and recipe alone; the engine obeys it."""

    groups: Mapping[str, Mapping[str, Json]]
    """Group path to attributes; the root is the empty path."""
    rasters: tuple[RasterTask, ...]
    """Work on pixels, largest first."""
    copies: tuple[tuple[SourceArray, ArrayPlan], ...]
    """Small arrays that are read whole and written as one chunk."""
    coordinates: tuple[tuple[ArrayPlan, Grid], ...]
    """``x``, ``y`` and ``spatial_ref`` arrays, computed from their grid."""
    consolidated: tuple[str, ...]
    """Groups that get consolidated metadata, the root last."""
    findings: tuple[Finding, ...]
    """What the source's metadata says against itself."""
    taken: tuple[Taken, ...] = ()
    """Arrays whose objects are copied byte for byte, largest first."""

    @property
    def arrays(self) -> tuple[ArrayPlan, ...]:
        """Every array of the store."""
        made = [plan for task in self.rasters for _, plan in task.outputs]
        given = [*(plan for _, plan in self.copies), *(taken.target for taken in self.taken)]
        return (*made, *given, *(plan for plan, _ in self.coordinates))

    @property
    def n_bytes(self) -> int:
        """Decoded bytes that a conversion reads."""
        sources = [*(source for source, _ in self.copies), *(taken.source for taken in self.taken)]
        return sum(task.n_bytes for task in self.rasters) + sum(source.n_bytes for source in sources)
