"""What a validation can say: every finding code with its weight, and the tally of checks that were carried out.

A store that carries the root attribute ``zarrmill`` is ours and is held to the whole profile. On any other GeoZarr what is
only our preference weighs less (column ``foreign``). ``docs/reference/findings.md`` is generated from ``KINDS``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from zarrmill.model import Finding, Severity, Verdict

E, W, I = Severity.ERROR, Severity.WARNING, Severity.INFO  # noqa: E741 - one letter keeps the table readable
WEIGHTS = {E: 3, W: 1, I: 0}
"""Weight of one check in the score, by severity."""


@dataclass(frozen=True, slots=True)
class FindingKind:
    """One code that a finding can have."""

    code: str
    """Stable dotted code: section and name."""
    ours: Severity
    """Severity in a store that zarrmill wrote."""
    foreign: Severity
    """Severity in any other store."""
    meaning: str
    """What is wrong."""
    remedy: str
    """What to do about it."""


_AGAIN = "Convert again; if it comes back, it is a defect of the converter."
_DAMAGED = "The store was damaged after it was sealed. Move it away and convert again."
_WRITER = "Correct the writer's metadata."

_TABLE: tuple[tuple[str, Severity, Severity, str, str], ...] = (
    ("structure.unsealed", E, E, "There is no root `zarr.json`: the store was never finished.", "Run the conversion again."),
    ("structure.metadata", E, E, "A `zarr.json` is not JSON or does not describe a Zarr v3 node.", _DAMAGED),
    ("structure.json", E, E, "A `zarr.json` has NaN or Infinity literals, which strict JSON parsers refuse.", _WRITER),
    ("structure.version", E, E, "A node or a key belongs to Zarr v2.", "Write Zarr v3 only."),
    ("structure.stray_object", E, W, "An object is neither a node nor a chunk of an array.", "Remove it, or convert again."),
    ("structure.outside_grid", E, W, "A chunk object lies outside the grid of its array.", _AGAIN),
    ("structure.empty_object", E, E, "An object has no bytes.", _DAMAGED),
    ("structure.implicit_group", E, W, "A group has no `zarr.json` of its own.", _WRITER),
    ("structure.object_budget", W, I, "The store has more objects than the recipe allows.", "Use larger chunks or shards."),
    ("structure.consolidated_missing", E, I, "Root or multiscales group has no consolidated metadata.", _WRITER),
    ("structure.consolidated_stale", E, E, "Consolidated metadata differ from a node's own `zarr.json`.", _AGAIN),
    ("structure.root_metadata", E, I, "The root lacks a part of the source's product metadata, or says it otherwise.", _AGAIN),
    ("structure.group_metadata", E, I, "A group lacks an attribute of the source, or says it otherwise.", _AGAIN),
    ("structure.digest", E, E, "The objects are not those over which `tree_sha256` was taken.", _DAMAGED),
    ("structure.objects", E, E, "The store has more or fewer objects or bytes than when it was sealed.", _DAMAGED),
    ("structure.stamp", E, E, "The store was made of another source or by another recipe than it is validated with.", _DAMAGED),
    ("structure.missing_chunk", E, E, "A chunk object is absent although the source has data there.", _DAMAGED),
    (
        "structure.absent_chunk",
        W,
        W,
        "Chunk objects are absent: loss or nodata; an info where the stamp proves the store complete.",
        "Give a source.",
    ),
    (
        "structure.not_listed",
        I,
        I,
        "Objects could not be listed: nothing is said on stray ones.",
        "Validate on the storage.",
    ),
    ("arrays.missing", E, E, "An array of the source is not in the store.", _AGAIN),
    ("arrays.unsourced", W, I, "An array is neither in the source nor computed from it.", "Check where it comes from."),
    ("arrays.shape", E, E, "The shape differs from the source's, or is no whole fraction of it.", _AGAIN),
    ("arrays.dtype", E, E, "The dtype differs from the source's.", "Keep integers as they are."),
    ("arrays.dimension_names", E, W, "`dimension_names` are absent, do not fit the shape, or are not the source's.", _WRITER),
    ("arrays.dimension_order", E, W, "The last two dimensions are not (y, x).", _WRITER),
    ("arrays.codec", E, W, "A codec is used that readers in other languages lack.", "Use blosc, zstd or gzip."),
    ("arrays.typesize", E, W, "blosc's `typesize` is not the item size, so it shuffles the wrong width.", _WRITER),
    ("arrays.chunk_size", W, I, "An inner chunk is larger than the recipe allows.", "Lower `chunk_px`."),
    ("arrays.small_chunk", I, I, "An inner chunk is under 0.5 MB: many requests for little.", "Raise `chunk_px`."),
    ("arrays.shard_size", W, I, "A shard is larger than the recipe allows.", "Lower `shard_px`."),
    ("arrays.shard_divisible", E, E, "The inner chunk does not divide the shard.", _WRITER),
    (
        "arrays.fill_value",
        E,
        W,
        "`_FillValue` is absent, no number, not the `fill_value`, or not what the source masks.",
        _WRITER,
    ),
    ("arrays.float_fill_value", E, W, "A float array has `_FillValue`, which most readers cannot decode.", "Leave it out."),
    ("arrays.stale_attribute", E, I, "An attribute of the source's encoding was left on the array.", _WRITER),
    ("arrays.scale", E, E, "`scale_factor` or `add_offset` differ from the source's.", _WRITER),
    ("arrays.derived_from", E, I, "A computed level does not say what it is made from and how, or says it wrongly.", _WRITER),
    ("arrays.flags", E, W, "Flag attributes of a class or mask array are absent or wrong.", _WRITER),
    ("arrays.source_flags", W, W, "Flags are the source's, and have no meaning each.", "Report it to the provider."),
    ("arrays.attributes", E, I, "An attribute says something else than the source, or than what the array is.", _WRITER),
    ("conventions.uuid", E, E, "A convention is declared without its uuid, by which readers find it.", _WRITER),
    ("conventions.strings", E, I, "A declaration differs from the five strings of the convention v0.1.", _WRITER),
    ("conventions.undeclared", E, E, "A convention's attributes are used but it is not declared.", _WRITER),
    ("conventions.unused", E, W, "A convention is declared but none of its attributes is used.", _WRITER),
    ("conventions.proj_code", E, W, "`proj:code` is not an upper-case authority and digits.", _WRITER),
    ("conventions.schema", E, W, "zarr-cm refuses the attributes.", _WRITER),
    ("conventions.toolkit", E, W, "geozarr-toolkit refuses the attributes.", _WRITER),
    ("layout.malformed", E, E, "The multiscales layout is not a list of entries with assets.", _WRITER),
    ("layout.missing", E, I, "The store has no multiscales group, or none below `measurements`.", _WRITER),
    ("layout.asset", E, E, "A layout entry names an asset that is not there.", _WRITER),
    ("layout.incomplete", E, I, "A layout entry lacks shape, transform or scale.", _WRITER),
    ("layout.order", E, E, "The layout does not go from fine to coarse.", _WRITER),
    ("layout.derived_from", E, E, "A layout entry derives from something that is no earlier entry.", _WRITER),
    ("layout.scale", E, E, "`scale` is not the ratio of the transforms of a level and its parent.", _WRITER),
    ("layout.translation", E, W, "`translation` is not zero although pixels are registered by area.", _WRITER),
    ("layout.shape", E, E, "The entry's `spatial:shape` is not that of the level and its arrays.", _WRITER),
    ("layout.transform", E, E, "The entry's `spatial:transform` is not that of the level.", _WRITER),
    ("layout.extent", E, W, "A level does not cover exactly what the finest covers.", _WRITER),
    ("layout.band_missing", E, W, "A band is absent on a level coarser than one that has it.", _AGAIN),
    ("layout.levels", E, I, "A level that the recipe asks for, or all levels of a group of maps, are absent.", _AGAIN),
    ("layout.resampling", E, I, "`resampling_method` of an entry is not the rule of the group's arrays.", _WRITER),
    ("layout.coarsest", W, I, "The coarsest level is wider than 1024 px.", "Add coarser levels to the recipe."),
    ("layout.arrays_in_group", E, I, "The multiscales group itself holds rasters beside its levels.", _WRITER),
    ("georef.missing", E, I, "A georeferenced group lacks convention attributes.", _WRITER),
    ("georef.shape", E, E, "An array's shape is not the `spatial:shape` of its group.", _WRITER),
    ("georef.bbox", E, E, "`spatial:bbox` is not what transform and shape span.", _WRITER),
    ("georef.grid_mapping", E, I, "A variable has no `grid_mapping` that leads to a scalar in its group.", _WRITER),
    ("georef.crs_wkt", E, W, "The grid mapping has no `crs_wkt` that can be read.", _WRITER),
    ("georef.geotransform", E, W, "`GeoTransform` is absent or differs from `spatial:transform`.", _WRITER),
    ("georef.epsg", E, E, "The coordinate reference systems of store and source do not agree.", _WRITER),
    ("georef.coordinates", E, I, "x or y is absent, or is not a float64 vector as long as its dimension.", _WRITER),
    ("georef.centres", E, E, "x or y are not the pixel centres of the transform.", _WRITER),
    ("georef.source", W, W, "The transform is not the `proj:transform` that the source states.", "Compare the source's x and y."),
    ("georef.root", E, I, "The root's bbox is not in degrees, or not where the levels are.", _WRITER),
    ("georef.registration", E, I, "`spatial:registration` is not `pixel`, as the arrays are.", _WRITER),
    ("georef.axes", E, I, "x or y do not say in CF's words what they are.", _WRITER),
    ("georef.grid_mapping_attributes", E, W, "CF attributes of the grid mapping are not those of its CRS.", _WRITER),
    ("values.native", E, E, "Pixels differ from the source.", _AGAIN),
    ("values.level", E, E, "Pixels of a computed level differ from the rule applied to the finest level.", _AGAIN),
    ("values.nodata", E, E, "The count of nodata pixels differs from the expected one.", _AGAIN),
    ("values.undecodable", E, E, "A chunk of the store cannot be decoded.", _DAMAGED),
    ("values.source", E, E, "A chunk of the source cannot be decoded, so nothing can be compared.", "Report it to the provider."),
    ("readers.xarray", E, W, "xarray cannot open the store, or reads something else.", _WRITER),
    ("readers.rioxarray", E, W, "rioxarray sees another CRS, transform or nodata.", _WRITER),
    ("readers.rio-tiler", E, W, "rio-tiler cannot render the store.", _WRITER),
    ("readers.rasterio", E, W, "GDAL sees another CRS, transform, shape or nodata.", _WRITER),
)

KINDS: dict[str, FindingKind] = {row[0]: FindingKind(*row) for row in _TABLE}
"""Every code; a finding with another code cannot be made."""


@dataclass(slots=True)
class Checks:
    """Tally of the checks of one validation."""

    ours: bool = False
    """Whether the store is held to our whole profile."""
    n_checks: int = 0
    """Checks that were carried out."""
    findings: list[Finding] = field(default_factory=list)
    weight: int = 0
    weight_passed: int = 0

    def severity(self, code: str) -> Severity:
        """Severity of ``code`` in this store."""
        return KINDS[code].ours if self.ours else KINDS[code].foreign

    def expect(self, ok: bool, code: str, path: str, message: str | Callable[[], str]) -> bool:
        """Count one check and return ``ok``; when it is False the message (found against expected) becomes a finding."""
        severity = self.severity(code)
        self.n_checks += 1
        self.weight += WEIGHTS[severity]
        if ok:
            self.weight_passed += WEIGHTS[severity]
        else:
            self.note(code, path, message if isinstance(message, str) else message(), severity)
        return ok

    def note(self, code: str, path: str, message: str, severity: Severity | None = None) -> None:
        """Tell something without counting a check."""
        self.findings.append(Finding(code, severity or self.severity(code), "/" + path.strip("/"), message))

    @property
    def score(self) -> float:
        """Share of checks passed, weighed by severity, 0 to 100 with two decimals; 0 when nothing was checked."""
        return round(100.0 * self.weight_passed / self.weight, 2) if self.weight else 0.0

    @property
    def verdict(self) -> Verdict:
        """FAIL on any error or when nothing was checked, WARN on any warning, else PASS."""
        severities = {finding.severity for finding in self.findings}
        if E in severities or self.n_checks == 0:
            return Verdict.FAIL
        return Verdict.WARN if W in severities else Verdict.PASS


def findings_markdown() -> str:
    """Return ``docs/reference/findings.md``."""
    lines = [
        "# Findings",
        "",
        "Generated from `src/zarrmill/core/checks.py`; do not edit. An `error` fails a store, a `warning` lowers its verdict to",
        "WARN, an `info` is told only. A store that zarrmill wrote is held to the column *ours*, any other GeoZarr to *foreign*.",
    ]
    section = ""
    for kind in KINDS.values():
        if kind.code.split(".")[0] != section:
            section = kind.code.split(".")[0]
            lines += ["", f"## {section}", "", "| code | ours | foreign | what it means | what to do |", "|---|---|---|---|---|"]
        lines.append(f"| `{kind.code}` | {kind.ours} | {kind.foreign} | {kind.meaning} | {kind.remedy} |")
    return "\n".join(lines) + "\n"
