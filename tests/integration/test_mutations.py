"""Every finding code is told on a store that is broken in exactly that way, and on no correct one (see ``test_validate``)."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geozarr_reference as ref
import numpy as np
import pytest
import zarr

from zarrmill.config import Pixels, Recipe, Validation
from zarrmill.core.checks import KINDS
from zarrmill.core.levels_expected import expected
from zarrmill.model import Severity, ValidationReport, Verdict
from zarrmill.stages.validate import validate

MS = ref.MULTISCALES
FINE, COARSE = f"{MS}/r10m", f"{MS}/r360m"
B02, B08 = f"{FINE}/b02", f"{FINE}/b08"
SCL = "conditions/mask/l2a_classification/r20m/scl"
MASK = "quality/mask/r10m/b02"
SCL_60 = "conditions/mask/l2a_classification/r60m/scl"
CLOUD, ATMOSPHERE = "quality/probability/r20m/cld", "quality/atmosphere"
CLOUD_60 = "quality/probability/r60m/cld"
Change = Callable[[Path], Any]
PIXELS = Pixels(chunk_px=15, shard_px=90, overviews=("conditions/mask/*", "quality/*"))
NO_READERS = Validation(readers=())
METADATA_ONLY = Validation(readers=(), depth="structure")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ref.write_source(tmp_path_factory.mktemp("source") / "product.zarr")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    root = tmp_path_factory.mktemp("stores")
    return {sharded: ref.write_store(root / f"{sharded}.zarr", sharded=sharded) for sharded in (True, False)}


def run(store: Path, source: Path | None, validation: Validation = NO_READERS, threads: int = 1) -> ValidationReport:
    recipe = Recipe(name="t", product_types=("S02MSIL2A",), pixels=PIXELS, validation=validation)
    return validate(str(store), source=str(source) if source else None, recipe=recipe, threads=threads)


def attributes(node: str, **values: Any) -> Change:
    return lambda s: ref.edit(s, node, lambda d: d["attributes"].update({k.replace("__", ":"): v for k, v in values.items()}))


def without(node: str, *keys: str) -> Change:
    return lambda s: ref.edit(s, node, lambda d: [d["attributes"].pop(key) for key in keys])


def document(node: str, change: Callable[[dict[str, Any]], Any]) -> Change:
    return lambda s: ref.edit(s, node, change)


def entry(index: int, **values: Any) -> Change:
    return map_entry(MS, index, **values)


def map_entry(group: str, index: int, **values: Any) -> Change:
    def change(node: dict[str, Any]) -> None:
        node["attributes"]["multiscales"]["layout"][index].update({k.replace("__", ":"): v for k, v in values.items()})

    return document(group, change)


def declared(node: str, index: int, **values: Any) -> Change:
    def change(found: dict[str, Any]) -> None:
        item = {k: v for k, v in (found["attributes"]["zarr_conventions"][index] | values).items() if v is not None}
        found["attributes"]["zarr_conventions"][index] = item

    return document(node, change)


def pixels(array: str, change: Callable[[ref.Pixels], ref.Pixels]) -> Change:
    return lambda s: ref.rewrite(s, array, change)


def put(key: str, data: bytes) -> Change:
    def change(store: Path) -> None:
        (store / key).parent.mkdir(parents=True, exist_ok=True)
        (store / key).write_bytes(data)

    return change


def remove(*keys: str) -> Change:
    def change(store: Path) -> None:
        for key in keys:
            target = store / key
            shutil.rmtree(target) if target.is_dir() else target.unlink()

    return change


def flip(key: str, position: int) -> Change:
    def change(store: Path) -> None:
        data = bytearray((store / key).read_bytes())
        data[position] ^= 0xFF
        (store / key).write_bytes(bytes(data))

    return change


def both(*changes: Change) -> Change:
    return lambda store: [change(store) for change in changes]


def at(place: tuple[int, int], value: int) -> Callable[[ref.Pixels], ref.Pixels]:
    def change(found: ref.Pixels) -> ref.Pixels:
        found[place] = value
        return found

    return change


def codec(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], None]:
    """Change the configuration of one codec, also inside a shard."""

    def walk(found: dict[str, Any]) -> None:
        configuration = found["codecs"][0]["configuration"]
        for item in [*found["codecs"], *configuration.get("codecs", [])]:
            if item["name"] == name:
                change(item["configuration"])

    return walk


def dn_1000_lost(found: ref.Pixels) -> ref.Pixels:
    assert (found == 1000).any()
    return np.where(found == 1000, 0, found).astype(found.dtype)


def truncated_mean(_: ref.Pixels) -> ref.Pixels:
    """Mean of valid DN of b08 at r20m, cut instead of rounded."""
    base = ref.source_arrays()[B08].astype(np.int64).reshape(90, 2, 90, 2)
    count = (base != 0).sum(axis=(1, 3))
    return (base.sum(axis=(1, 3)) // np.maximum(count, 1)).astype(np.uint16)


def mean_of_means(_: ref.Pixels) -> ref.Pixels:
    """b08 at r60m computed from r20m, each step rounded and every r20m pixel given the same weight."""
    return ref.slow_level(ref.slow_level(ref.source_arrays()[B08], 2, "average"), 3, "average")


def by_cell(path: str, value: Callable[[list[int]], int]) -> Change:
    """Replace a computed level by ``value`` of the pixels below each cell."""
    origin, _, factor = ref.made_of()[path]
    base = ref.source_arrays()[origin]
    cells = base.reshape(base.shape[0] // factor, factor, base.shape[1] // factor, factor).swapaxes(1, 2)
    made = np.array([[value(cell.ravel().tolist()) for cell in row] for row in cells])
    assert (made != ref.target_arrays()[path]).any(), "the defect makes no difference here"
    return pixels(path, lambda found: made.astype(found.dtype))


def level_of_a_level(path: str, finer: str) -> Change:
    """Compute a level from ``finer`` instead of the source."""
    _, rule, factor = ref.made_of()[path]
    _, _, step = ref.made_of()[finer]
    return pixels(path, lambda _: ref.slow_level(ref.target_arrays()[finer], factor // step, rule, nodata=False))


def without_levels(group: str) -> Change:
    """Take the layout off a group of maps, and every level that the source does not have."""

    def change(store: Path) -> None:
        node = json.loads((store / group / "zarr.json").read_text())
        ref.edit(store, group, lambda d: (d.update(attributes={}), d.pop("consolidated_metadata")))
        for entry in node["attributes"]["multiscales"]["layout"]:
            if not any(path.startswith(f"{group}/{entry['asset']}/") for path in ref.source_arrays()):
                shutil.rmtree(store / group / entry["asset"])

    return change


def swap_axes(store: Path) -> None:
    array = np.asarray(zarr.open_array(store, path=B02, mode="r")[...])
    ref.rewrite(store, B02, lambda _: array.T)
    ref.edit(store, B02, lambda d: d.update({"dimension_names": ["x", "y"]}))


def shifted(found: dict[str, Any], degrees: float) -> list[float]:
    """Return the box of a group moved to the north-east."""
    return [edge + degrees for edge in found["spatial:bbox"]]


def narrower(found: dict[str, Any], degrees: float) -> list[float]:
    """Return the box of a group without a strip in the west."""
    return [found["spatial:bbox"][0] + degrees, *found["spatial:bbox"][1:]]


def shift_transform(store: Path) -> None:
    def change(node: dict[str, Any]) -> None:
        node["attributes"]["spatial:transform"][2] += 5.0

    ref.edit(store, FINE, change)


def nan_literal(store: Path) -> None:
    file = store / "conditions/zarr.json"
    file.write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"cloud": float("nan")}}))


def big_chunks(d: dict[str, Any]) -> None:
    d["shape"], d["chunk_grid"]["configuration"]["chunk_shape"] = [9000, 9000], [9000, 9000]
    d["codecs"][0]["configuration"]["chunk_shape"] = [4500, 4500]


def add_array(path: str, n: int = 180) -> Change:
    def change(store: Path) -> None:
        made = zarr.create_array(store, name=path, shape=(n, n), dtype="u2", chunks=(n, n), dimension_names=["y", "x"])
        made.attrs.update(json.loads((store / B02 / "zarr.json").read_text())["attributes"])
        made[...] = 5

    return change


def drop_from_layout(store: Path) -> None:
    remove(COARSE)(store)
    document(MS, lambda d: d["attributes"]["multiscales"]["layout"].pop())(store)


HALF = [15.0, 0.0, 699960.0, 0.0, -15.0, 4700040.0]
WIDE = [10980.0, 0.0, 699960.0, 0.0, -10980.0, 4700040.0]
WKT_33 = ref.CRS.from_epsg(32633).to_wkt()
BIT = {"flag_masks": [1, 2], "flag_meanings": "one two"}

RESEALED: list[tuple[str, Change]] = [
    ("structure.stray_object", put(f"{B02}/c/0/0.part", b"x")),
    ("structure.stray_object", put("tmp123", b"x")),
    ("structure.outside_grid", put(f"{B02}/c/2/0", b"x")),
    ("structure.empty_object", put(f"{B02}/c/0/0", b"")),
    ("structure.version", put(f"{FINE}/.zgroup", b"{}")),
    ("structure.version", document(B02, lambda d: d.update({"zarr_format": 2}))),
    ("structure.metadata", put(f"{B02}/zarr.json", b'{"zarr_format": 3')),
    ("structure.metadata", document(B02, lambda d: d.update({"data_type": "uint17"}))),
    ("structure.json", nan_literal),
    ("structure.implicit_group", remove("conditions/mask/zarr.json")),
    ("structure.root_metadata", without("", "stac_discovery")),
    ("structure.missing_chunk", remove(f"{B02}/c/1/1")),
    ("structure.missing_chunk", remove(f"{MS}/r20m/b08/c/0/0")),
    ("arrays.missing", remove(SCL)),
    ("arrays.unsourced", add_array("quality/extra/r10m/q01")),
    ("arrays.shape", document(SCL, lambda d: d.update({"shape": [89, 90]}))),
    ("arrays.dtype", document(SCL, lambda d: d.update({"data_type": "int8"}))),
    ("arrays.dimension_names", document(B02, lambda d: d.pop("dimension_names"))),
    ("arrays.dimension_order", swap_axes),
    ("arrays.codec", document(SCL, lambda d: d["codecs"].append({"name": "numcodecs.zlib", "configuration": {}}))),
    ("arrays.typesize", document(B02, codec("blosc", lambda c: c.update({"typesize": 4})))),
    ("arrays.chunk_size", document(B02, big_chunks)),
    ("arrays.shard_size", document(f"{FINE}/b08", lambda d: (big_chunks(d), d.update({"data_type": "float64"})))),
    ("arrays.shard_divisible", document(B02, codec("sharding_indexed", lambda c: c.update({"chunk_shape": [50, 50]})))),
    ("arrays.fill_value", attributes(B02, _FillValue=65535)),
    ("arrays.fill_value", without(B02, "_FillValue")),
    ("arrays.fill_value", attributes(SCL, _FillValue=0)),
    ("arrays.fill_value", document(B02, lambda d: d.update({"fill_value": 1}))),
    ("arrays.float_fill_value", attributes("conditions/geometry/mean_sun_angles", _FillValue="AAAAAAAA+H8=")),
    ("arrays.stale_attribute", attributes(B02, proj__epsg=32632)),
    ("arrays.stale_attribute", attributes(SCL, _ARRAY_DIMENSIONS=["y", "x"])),
    ("arrays.stale_attribute", attributes(B02, units="digital_counts")),
    ("arrays.scale", attributes(B02, scale_factor=1e-3)),
    ("arrays.scale", without(f"{COARSE}/b08", "add_offset")),
    ("arrays.derived_from", attributes(SCL_60, derived_from="conditions/mask/l2a_classification/r10m/scl")),
    ("arrays.derived_from", attributes(f"{COARSE}/b08", resampling_method="nearest")),
    ("arrays.derived_from", without(CLOUD_60, "derived_from")),
    ("arrays.flags", without(SCL, "flag_values")),
    ("arrays.flags", without(SCL_60, "flag_meanings")),
    ("arrays.flags", attributes(MASK, **BIT)),
    ("arrays.flags", attributes(MASK, flag_meanings=" ".join(f"bit{i}" for i in range(7, -1, -1)))),
    ("arrays.flags", attributes(SCL_60, flag_values=list(range(1, 13)))),
    ("arrays.flags", attributes(SCL, flag_meanings=" ".join(ref.SCL_WORDS.split()[::-1]))),
    ("arrays.attributes", attributes(B02, units="percent")),
    ("arrays.attributes", without(f"{MS}/r20m/b05", "units")),
    ("arrays.attributes", attributes(B02, standard_name="toa_bidirectional_reflectance")),
    ("arrays.attributes", without(f"{COARSE}/b08", "standard_name")),
    ("arrays.attributes", attributes(CLOUD_60, standard_name="cloud_area_fraction")),
    ("arrays.attributes", attributes(CLOUD_60, flag_values=[0], flag_meanings="none")),
    ("arrays.attributes", without(f"{ATMOSPHERE}/r20m/aot", "long_name")),
    ("arrays.attributes", attributes(f"{ATMOSPHERE}/r360m/aot", long_name="water vapour")),
    ("arrays.attributes", attributes("conditions/geometry/mean_sun_angles", units="radian")),
    ("arrays.attributes", without(CLOUD, "coordinates")),
    ("arrays.dimension_names", document("conditions/geometry/mean_sun_angles", lambda d: d.update(dimension_names=["a"]))),
    ("arrays.fill_value", attributes(MASK, _FillValue=0)),
    ("arrays.fill_value", attributes(CLOUD_60, _FillValue=0)),
    ("arrays.fill_value", document(MASK, lambda d: d.update(fill_value=255))),
    ("arrays.fill_value", without(f"{ATMOSPHERE}/r20m/aot", "_FillValue")),
    ("structure.root_metadata", attributes("", other_metadata={"x": 2})),
    ("structure.root_metadata", attributes("", stac_discovery={})),
    ("structure.group_metadata", attributes("conditions/geometry", title="moon angles")),
    ("structure.group_metadata", without("conditions/geometry", "title")),
    ("georef.registration", attributes(COARSE, spatial__registration="node")),
    ("georef.axes", attributes(f"{COARSE}/x", standard_name="projection_y_coordinate")),
    ("georef.axes", attributes(f"{FINE}/x", units="degrees")),
    ("georef.axes", without("quality/mask/r60m/y", "axis")),
    ("georef.grid_mapping_attributes", without(f"{FINE}/spatial_ref", "grid_mapping_name")),
    ("georef.grid_mapping_attributes", attributes(f"{FINE}/spatial_ref", longitude_of_central_meridian=15.0)),
    ("georef.grid_mapping_attributes", attributes(f"{FINE}/spatial_ref", false_easting="500 km")),
    ("georef.grid_mapping_attributes", attributes(f"{FINE}/spatial_ref", grid_mapping_name="latitude_longitude")),
    ("georef.epsg", attributes("quality/mask/r60m/spatial_ref", spatial_ref=WKT_33)),
    ("georef.root", document("", lambda d: d["attributes"].update({"spatial:bbox": shifted(d["attributes"], 1e-3)}))),
    ("georef.root", document("", lambda d: d["attributes"].update({"spatial:bbox": narrower(d["attributes"], 1e-3)}))),
    ("conventions.uuid", declared(FINE, 0, uuid=None)),
    ("conventions.uuid", declared(FINE, 1, uuid="7cbe5d2b-0000-4000-8000-000000000000")),
    ("conventions.strings", declared(FINE, 1, name="proj:")),
    ("conventions.strings", declared("", 0, schema_url="https://example.org/schema.json")),
    ("conventions.undeclared", without(COARSE, "zarr_conventions")),
    ("conventions.undeclared", document(FINE, lambda d: d["attributes"]["zarr_conventions"].pop())),
    ("conventions.unused", attributes("conditions", zarr_conventions=[ref.SPATIAL])),
    ("conventions.proj_code", attributes(FINE, proj__code="epsg:32632")),
    ("conventions.schema", attributes(FINE, spatial__registration="corner")),
    ("conventions.toolkit", without(FINE, "spatial:dimensions")),
    ("layout.missing", both(without(MS, "multiscales"), document(MS, lambda d: d["attributes"]["zarr_conventions"].pop(0)))),
    ("layout.malformed", attributes(MS, multiscales={"layout": "r10m"})),
    ("layout.asset", entry(4, asset="r720m")),
    ("layout.incomplete", document(MS, lambda d: d["attributes"]["multiscales"]["layout"][2].pop("spatial:shape"))),
    ("layout.order", document(MS, lambda d: d["attributes"]["multiscales"]["layout"].reverse())),
    ("layout.derived_from", entry(2, derived_from="r15m")),
    ("layout.scale", entry(2, transform={"scale": [6.0, 6.0], "translation": [0.0, 0.0]})),
    ("layout.translation", entry(1, transform={"scale": [2.0, 2.0], "translation": [0.5, 0.5]})),
    ("layout.shape", entry(1, spatial__shape=[91, 90])),
    ("layout.transform", entry(1, spatial__transform=HALF)),
    ("layout.extent", entry(1, spatial__transform=HALF)),
    ("layout.band_missing", remove(f"{MS}/r120m/b08")),
    ("layout.band_missing", remove("quality/mask/r360m/b05")),
    ("layout.levels", drop_from_layout),
    ("layout.levels", without_levels("quality/probability")),
    ("layout.resampling", map_entry("conditions/mask/l2a_classification", 1, resampling_method="average")),
    ("layout.resampling", attributes("quality/mask", multiscales={"layout": ref.layout(ref.LEVELS), "resampling_method": "or"})),
    ("layout.coarsest", entry(4, spatial__shape=[1025, 5])),
    ("layout.arrays_in_group", add_array(f"{MS}/b99")),
    ("georef.missing", without(FINE, "spatial:registration")),
    ("georef.shape", attributes(FINE, spatial__shape=[180, 181])),
    ("georef.bbox", attributes(FINE, spatial__bbox=[699965.0, 4698245.0, 701755.0, 4700035.0])),
    ("georef.bbox", shift_transform),
    ("georef.centres", shift_transform),
    ("layout.transform", shift_transform),
    ("georef.source", shift_transform),
    ("georef.geotransform", shift_transform),
    ("georef.grid_mapping", without(B02, "grid_mapping")),
    ("georef.grid_mapping", remove(f"{COARSE}/spatial_ref")),
    ("georef.crs_wkt", attributes(f"{FINE}/spatial_ref", crs_wkt="PROJCRS[")),
    ("georef.geotransform", attributes(f"{FINE}/spatial_ref", GeoTransform="699965 10 0 4700035 0 -10")),
    ("georef.epsg", attributes(f"{FINE}/spatial_ref", crs_wkt=WKT_33)),
    ("georef.epsg", attributes(COARSE, proj__code="EPSG:32633")),
    ("georef.coordinates", remove(f"{COARSE}/x")),
    ("georef.centres", pixels(f"{COARSE}/y", lambda y: y + 180)),
    ("georef.root", attributes("", spatial__bbox=ref.bbox())),
    ("georef.root", attributes("", spatial__bbox=[11.4, 41.0, 11.5, 41.1])),
    ("values.native", pixels(B02, at((100, 100), 4321))),
    ("values.native", pixels("conditions/geometry/band", lambda _: np.array(["b01", "b03", "b8a"], object))),
    ("values.native", pixels(MASK, lambda found: found ^ 1)),
    ("values.native", pixels(f"{FINE}/x", lambda x: x + 10)),
    ("values.nodata", pixels(B02, dn_1000_lost)),
    ("values.nodata", pixels(f"{COARSE}/b02", at((4, 4), 0))),
    ("values.level", pixels(f"{MS}/r20m/b08", truncated_mean)),
    ("values.level", pixels(f"{MS}/r60m/b08", mean_of_means)),
    ("values.level", pixels(f"{COARSE}/b05", at((4, 4), 1))),
    ("values.level", by_cell(SCL_60, lambda cell: max(range(1, 12), key=lambda value: (cell.count(value), value)))),
    ("values.level", by_cell(SCL_60, lambda cell: max(range(12), key=lambda value: (cell.count(value), -value)))),
    ("values.level", by_cell(SCL_60, lambda cell: cell[0])),
    ("values.level", level_of_a_level("conditions/mask/l2a_classification/r120m/scl", SCL_60)),
    ("values.level", by_cell("quality/mask/r20m/b02", max)),
    ("values.level", by_cell("quality/mask/r20m/b02", lambda cell: cell[3])),
    ("values.level", by_cell(CLOUD_60, lambda cell: round(sum(cell) / max(1, len([v for v in cell if v]))))),
    ("values.level", by_cell(CLOUD_60, lambda cell: sum(cell) // len(cell))),
    ("values.level", by_cell("quality/atmosphere/r120m/aot", lambda cell: round(sum(cell) / len(cell)))),
    ("values.level", by_cell("conditions/mask/detector_footprint/r120m/b09", lambda cell: cell[0])),
    ("values.undecodable", flip(f"{B02}/c/0/0", -1)),
    ("values.undecodable", put(f"{B02}/c/0/0", b"far too short")),
]
"""Code and change; consolidated metadata and digest are renewed after the change, so nothing but the change is wrong."""

UNSEALED: list[tuple[str, Change]] = [
    ("structure.unsealed", remove("zarr.json")),
    ("structure.consolidated_missing", document("", lambda d: d.pop("consolidated_metadata"))),
    ("structure.consolidated_missing", document(MS, lambda d: d.pop("consolidated_metadata"))),
    ("structure.consolidated_stale", attributes(f"{COARSE}/b02", long_name="another")),
    ("structure.consolidated_stale", remove(f"{COARSE}/b02")),
    ("structure.digest", flip(f"{B02}/c/0/0", 40)),
    ("structure.digest", put(f"{B02}/c/0/1", b"another")),
]
"""Code and change; nothing is renewed after it."""


def ids(cases: list[tuple[str, Change]]) -> list[str]:
    return [f"{code}-{i}" for i, (code, _) in enumerate(cases)]


def check(code: str, report: ValidationReport) -> None:
    found = {f.code: f for f in report.findings}
    assert code in found, sorted(found)
    assert found[code].severity is KINDS[code].ours
    worst = {Severity.ERROR: Verdict.FAIL, Severity.WARNING: Verdict.WARN}[KINDS[code].ours]
    assert report.verdict in (worst, Verdict.FAIL)
    assert report.score < 100


@pytest.mark.parametrize(("code", "change"), RESEALED, ids=ids(RESEALED))
def test_defect_is_told(tmp_path: Path, source: Path, stores: dict[bool, Path], code: str, change: Change) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(stores[True], store)
    change(store)
    try:
        ref.seal(store)
    except json.JSONDecodeError:
        assert code == "structure.metadata"
    needs_pixels = code.startswith("values.") or code == "structure.missing_chunk"
    check(code, run(store, source, NO_READERS if needs_pixels else METADATA_ONLY))


@pytest.mark.parametrize(("code", "change"), UNSEALED, ids=ids(UNSEALED))
def test_defect_after_sealing_is_told(tmp_path: Path, source: Path, stores: dict[bool, Path], code: str, change: Change) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(stores[True], store)
    change(store)
    check(code, run(store, source))


@pytest.mark.parametrize("key", [f"{B02}/c/0/0", f"{SCL}/c/0/0", f"{COARSE}/b08/c/0/0"])
def test_flipped_byte_is_told_without_a_source(tmp_path: Path, stores: dict[bool, Path], key: str) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(stores[True], store)
    flip(key, 21)(store)
    check("structure.digest", run(store, None))


def test_damaged_shard_is_told_without_source_and_without_digest(tmp_path: Path) -> None:
    store = ref.write_store(tmp_path / "s.zarr", ours=False)
    flip(f"{B02}/c/0/0", -1)(store)
    report = run(store, None)
    found = [f for f in report.findings if f.code == "values.undecodable"]
    assert [f.path for f in found] == [f"/{B02}"]
    assert "chunk (0, 0)" in found[0].message
    assert report.verdict is Verdict.FAIL


@pytest.mark.parametrize("sharded", [True, False])
def test_removed_chunk_is_a_warning_without_source(tmp_path: Path, stores: dict[bool, Path], sharded: bool) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(stores[sharded], store)
    without("", "zarrmill")(store)
    remove(f"{B02}/c/1/1" if sharded else f"{B02}/c/11/11")(store)
    found = {f.path: f for f in run(store, None).findings if f.code == "structure.absent_chunk"}
    assert found[f"/{B02}"].severity is Severity.WARNING


def test_removed_chunk_is_found_by_a_sample_too(tmp_path: Path, source: Path, stores: dict[bool, Path]) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(stores[False], store)
    remove(f"{B02}/c/11/11")(store)
    ref.seal(store)
    check("structure.missing_chunk", run(store, source, Validation(readers=(), depth="sampled", sample_share=0.01)))


def test_more_objects_than_the_budget_are_a_warning(source: Path, stores: dict[bool, Path]) -> None:
    check("structure.object_budget", run(stores[False], source, Validation(readers=(), max_objects=50)))


def test_small_chunks_are_told_and_do_not_lower_the_verdict(source: Path, stores: dict[bool, Path]) -> None:
    report = run(stores[True], source)
    assert [f.code for f in report.findings] == ["arrays.small_chunk"]
    assert report.verdict is Verdict.PASS


def test_damaged_source_is_told(tmp_path: Path, source: Path, stores: dict[bool, Path]) -> None:
    product = tmp_path / "p.zarr"
    shutil.copytree(source, product)
    (product / B02 / "1.1").write_bytes(b"short")
    report = run(stores[True], product)
    assert {f.code for f in report.findings if f.severity is Severity.ERROR} == {"values.source"}


READERS: list[tuple[str, bool, Change]] = [
    ("xarray", True, document(f"{COARSE}/b02", lambda d: d.pop("dimension_names"))),
    ("rioxarray", True, both(attributes(FINE, proj__code="EPSG:32633"))),
    ("rio-tiler", True, declared(MS, 2, uuid=None)),
    ("rasterio", False, attributes(f"{FINE}/spatial_ref", crs_wkt=WKT_33, spatial_ref=WKT_33)),
]


@pytest.mark.parametrize(("name", "sharded", "change"), READERS, ids=[case[0] for case in READERS])
def test_reader_that_sees_something_else_is_told(
    tmp_path: Path, stores: dict[bool, Path], name: str, sharded: bool, change: Change
) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(stores[sharded], store)
    change(store)
    ref.seal(store)
    report = run(store, None, Validation.model_validate({"readers": (name,)}))
    assert report.readers[name].startswith("failed: ")
    in_a_process_of_its_own = run(store, None, Validation.model_validate({"readers": (name,)}), threads=2)
    assert in_a_process_of_its_own.readers == report.readers
    check(f"readers.{name}", report)


def test_every_finding_code_has_a_broken_store() -> None:
    broken = {code for code, _ in RESEALED + UNSEALED} | {f"readers.{name}" for name, _, _ in READERS}
    elsewhere = {
        "structure.absent_chunk",
        "structure.object_budget",
        "structure.not_listed",  # test_validate: store over http
        "arrays.small_chunk",
        "structure.stamp",  # test_validate_damage: only a product says what a stamp must be
        "structure.objects",  # test_validate_damage: the reference's stamp says no numbers
        "arrays.source_flags",  # test_validate_odd: flags that are broken in the source
        "values.source",
    }
    assert broken | elsewhere == set(KINDS)


def test_every_kind_of_nonsense_is_told_and_never_raises(tmp_path: Path, source: Path, stores: dict[bool, Path]) -> None:
    """Replace each JSON value of the important documents by nonsense in turn."""
    nonsense: list[Any] = [None, "x", -1, [], {}, [None], {"a": "x"}]
    rng = np.random.default_rng(7)
    store = tmp_path / "s.zarr"
    shutil.copytree(stores[True], store)
    for node in ("", MS, FINE, B02, f"{FINE}/spatial_ref", f"{FINE}/x", SCL):
        good = (store / node / "zarr.json").read_text()
        skipped = {"consolidated_metadata", "stac_discovery", "other_metadata"}
        places = [p for p in paths(json.loads(good)) if not skipped & set(p)]
        for i in rng.choice(len(places), min(6, len(places)), replace=False):
            broken = json.loads(good)
            inner = broken
            for step in places[i][:-1]:
                inner = inner[step]
            inner[places[i][-1]] = nonsense[int(rng.integers(len(nonsense)))]
            (store / node / "zarr.json").write_text(json.dumps(broken))
            report = run(store, source, Validation(readers=(), depth="structure"))
            assert report.verdict is Verdict.FAIL, places[i]
        (store / node / "zarr.json").write_text(good)


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [prefix] if prefix else []
    for key, item in inner:
        found += paths(item, (*prefix, key))
    return found


def test_expected_level_of_floats_is_not_a_number_where_nothing_is_valid() -> None:
    layers = {0: np.array([[3.0, 0.0]]), 1: np.array([[2, 0]])}
    found = expected(layers, "average", np.dtype("float32"), 0)
    assert found[0, 0] == 1.5
    assert np.isnan(found[0, 1])
