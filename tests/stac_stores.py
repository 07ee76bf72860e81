"""Small GeoZarr stores with their records, for tests of the ``stac`` stage; written with zarr-python alone."""

import atexit
import functools
import hashlib
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from zarrmill.config import Recipe, Settings
from zarrmill.io.state import State
from zarrmill.model import ConvertReceipt, Measured, PlanRecord, Product, ValidationReport, Verdict

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Real metadata and schemas; tests that need them skip when they are not there."""
SCHEMAS = DATA / "stac-schemas"

ORIGIN = (699960.0, 4700040.0)
"""Left and top of the test grids in metres, EPSG:32632."""
L2A_ID = "S2A_MSIL2A_20251008T100041_N0511_R122_T32TQM_20251008T122613"
L1C_ID = "S2B_MSIL1C_20250113T103309_N0511_R108_T32TLQ_20250113T122458"

DISCOVERY: dict[str, Any] = {
    "type": "Feature",
    "id": f"{L2A_ID}.SAFE",
    "bbox": [12.763136, 41.404035, 11.393461, 42.426912],
    "geometry": {
        "type": "Polygon",
        "coordinates": [[[11.43, 42.426912], [12.763136, 42.39], [12.7, 41.404035], [11.393461, 41.43], [11.43, 42.426912]]],
    },
    "properties": {
        "datetime": "null",
        "start_datetime": "2025-10-08T10:00:41.024000+00:00",
        "end_datetime": "2025-10-08T10:00:41.024000+00:00",
        "platform": "sentinel-2a",
        "constellation": "sentinel-2",
        "instrument": "msi",
        "eo:cloud_cover": 0.003839,
        "eo:snow_cover": 0.000305,
        "processing:software": {"Sentinel-2 IPF": " "},
        "processing:version": "",
        "eopf:baseline": "05.11",
        "product:timeliness": "PT3H",
        "product:timeliness_category": "NRT",
        "sat:absolute_orbit": 53773,
        "sat:orbit_state": "descending",
        "sat:platform_international_designator": "2015-028A",
        "sat:relative_orbit": 122,
    },
}
OTHER: dict[str, Any] = {
    "horizontal_CRS_code": "EPSG:32632",
    "mean_sun_azimuth_angle_in_deg_for_all_bands_all_detectors": 163.595949089503,
    "mean_sun_zenith_angle_in_deg_for_all_bands_all_detectors": 49.3049375691464,
}

L2A_NATIVE = {10: "b02 b03 b04 b08", 20: "b01 b05 b06 b07 b8a b11 b12", 60: "b09"}
L1C_NATIVE = {10: "b02 b03 b04 b08", 20: "b05 b06 b07 b8a b11 b12", 60: "b01 b09 b10"}


@dataclass(frozen=True)
class Case:
    """One converted and validated product."""

    settings: Settings
    recipe: Recipe
    state: State
    record: PlanRecord
    receipt: ConvertReceipt
    report: ValidationReport

    @property
    def product(self) -> Product:
        return self.receipt.product


def write_store(
    path: Path,
    *,
    level: str = "L2A",
    levels_m: Sequence[int] = (10, 20, 60, 120),
    size_px: int = 180,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write a GeoZarr store of ``size_px`` 10 m pixels: every band on its native and every coarser level.

    Red, green and blue hold DN 4000, 2500 and 1000; the left third of every band is nodata (DN 0).
    """
    attributes = {"stac_discovery": DISCOVERY, "other_metadata": OTHER} if attributes is None else attributes
    root = zarr.open_group(path, mode="w", zarr_format=3, attributes=dict(attributes))
    extent_m = size_px * 10
    native = L2A_NATIVE if level == "L2A" else L1C_NATIVE
    for group in ("measurements", "conditions", "conditions/mask", "quality"):
        root.create_group(group)
    layout = [
        {
            "asset": f"r{m}m",
            "spatial:shape": [extent_m // m] * 2,
            "spatial:transform": transform(m),
            "transform": {"scale": [1, 1]},
        }
        for m in levels_m
    ]
    root.create_group("measurements/reflectance", attributes={"multiscales": {"layout": layout}, "proj:code": "EPSG:32632"})
    standard = f"{'surface' if level == 'L2A' else 'toa'}_bidirectional_reflectance"
    for m in levels_m:
        group = _level(root, "measurements/reflectance", m, extent_m)
        for band in sorted(name for size, names in native.items() if size <= m for name in names.split()):
            values = np.full((extent_m // m,) * 2, {"b04": 4000, "b03": 2500, "b02": 1000}.get(band, 1500), dtype="uint16")
            values[:, : extent_m // m // 3] = 0
            marks = {"scale_factor": 0.0001, "add_offset": -0.1, "_FillValue": 0, "units": "1", "standard_name": standard}
            group.create_array(band, data=values, fill_value=0, dimension_names=("y", "x"), attributes=marks)
    layers = L2A_LAYERS if level == "L2A" else L1C_LAYERS
    for parent, sizes, names in layers:
        root.create_group(parent)
        for m in sizes:
            group = _level(root, parent, m, extent_m)
            for name in names:
                marks = {"flag_values": [0, 1], "flag_meanings": "no_data saturated"} if name == "scl" else {}
                data = np.ones((extent_m // m,) * 2, dtype="uint16" if name in ("aot", "wvp") else "uint8")
                group.create_array(name, data=data, fill_value=0, dimension_names=("y", "x"), attributes=marks)
    consolidate(path)


L2A_LAYERS = (
    ("conditions/mask/l2a_classification", (20, 60), ("scl",)),
    ("quality/atmosphere", (10, 20, 60), ("aot", "wvp")),
    ("quality/probability", (20,), ("cld", "snw")),
)
L1C_LAYERS = (("conditions/mask/l1c_classification", (60,), ("b00",)),)


def transform(pixel_m: int) -> list[float]:
    """Transform of a level on the test grid."""
    return [float(pixel_m), 0.0, ORIGIN[0], 0.0, -float(pixel_m), ORIGIN[1]]


def consolidate(path: Path) -> None:
    """Consolidate the multiscales group and the root."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr warns that consolidated metadata is no part of the v3 core
        zarr.consolidate_metadata(path, path="measurements/reflectance", zarr_format=3)
        zarr.consolidate_metadata(path, zarr_format=3)


def build_case(tmp_path: Path, *, level: str = "L2A", item: Mapping[str, Any] | None = None, **settings: Any) -> Case:
    """Write a store and its records; ``settings`` replace keys of the configuration."""
    product_id = L2A_ID if level == "L2A" else L1C_ID
    product = Product(
        collection=f"sentinel-2-{level.lower()}",
        product_id=product_id,
        datetime="2025-10-08T10:00:41.024000Z" if level == "L2A" else "2025-01-13T10:33:09.024000Z",
        product_type=f"S02MSI{level}",
        href=f"https://data.example.org/{product_id}.zarr",
        item_href=f"https://catalogue.example.org/items/{product_id}" if item else "",
        recipe="test",
        digest="0a1b2c3d",
        source_fingerprint="f" * 64,
        n_bytes=1,
        n_objects=1,
        mem_mb=100,
    )
    values = {
        "run": "run",
        "state_root": str(tmp_path / "results"),
        "store_root": str(tmp_path / "stores"),
        "source": {"catalogue": "unused"},
        "schema_cache": str(SCHEMAS) if SCHEMAS.exists() else None,
    }
    full = Settings.model_validate({**values, **settings})
    store = tmp_path / "stores" / product.store_path
    shutil.copytree(_template(level), store)
    recipe = Recipe.model_validate({"name": "test", "product_types": [product.product_type], "item": {"thumbnail_px": 60}})
    receipt = receipt_of(product, store)
    return Case(full, recipe, State.of(full), PlanRecord(product, dict(item or {})), receipt, report_of(receipt))


@functools.cache
def _template(level: str) -> Path:
    """Write the store of ``level`` once; tests get copies."""
    folder = tempfile.mkdtemp(prefix="zarrmill-test-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    discovery = DISCOVERY if level == "L2A" else {**DISCOVERY, "id": f"{L1C_ID}.SAFE", "properties": L1C_PROPERTIES}
    write_store(Path(folder) / "store", level=level, attributes={"stac_discovery": discovery, "other_metadata": OTHER})
    return Path(folder) / "store"


L1C_PROPERTIES: dict[str, Any] = {
    **DISCOVERY["properties"],
    "platform": "sentinel-2b",
    "sat:relative_orbit": 108,
    "start_datetime": "2025-01-13T10:33:09.024000+00:00",
    "end_datetime": "2025-01-13T10:33:09.024000+00:00",
}


def receipt_of(product: Product, store: Path) -> ConvertReceipt:
    """Receipt of a store on disk."""
    return ConvertReceipt(
        product=product,
        store=str(store),
        recipe_digest="0" * 64,
        tree_sha256="0" * 64,
        root_sha256=hashlib.sha256((store / "zarr.json").read_bytes()).hexdigest(),
        n_objects=1,
        n_bytes=1,
        n_bytes_source=1,
        findings=(),
        adopted=False,
        measured=Measured(started="2026-11-23T15:00:00+00:00", software={"zarr": "3.4.0", "zarrmill": "0.1.0"}),
    )


def report_of(receipt: ConvertReceipt, verdict: Verdict = Verdict.PASS) -> ValidationReport:
    """Report on the store of a receipt."""
    return ValidationReport(
        store=receipt.store,
        source="",
        verdict=verdict,
        score=100.0,
        n_checks=10,
        findings=(),
        depth="full",
        sample="",
        n_pixels_compared=0,
        readers={},
        measured=Measured(),
        product=receipt.product,
    )


def _level(root: zarr.Group, parent: str, pixel_m: int, extent_m: int) -> zarr.Group:
    shape = [extent_m // pixel_m] * 2
    marks = {"spatial:shape": shape, "spatial:transform": transform(pixel_m), "proj:code": "EPSG:32632"}
    group = root.create_group(f"{parent}/r{pixel_m}m", attributes=marks)
    for axis in ("y", "x"):
        group.create_array(axis, data=np.arange(shape[0], dtype="float64"), dimension_names=(axis,))
    group.create_array("spatial_ref", data=np.array(0, dtype="int32"))
    return group
