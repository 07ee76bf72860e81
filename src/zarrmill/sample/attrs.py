"""Attributes of the arrays and groups of a v2 product, as CPM 2.x writes them."""

from functools import cache
from typing import Any

from zarrmill.sample.bands import BY_NAME
from zarrmill.sample.spec import EPSG, SampleSpec

Attrs = dict[str, Any]  # Any: JSON values
QUALITY_FLAGS = {
    1: "ANC_LOST",
    2: "ANC_DEG",
    4: "MSI_LOST",
    8: "MSI_DEG",
    16: "QT_DEFECTIVE_PIXELS",
    32: "QT_NODATA_PIXELS",
    64: "QT_PARTIALLY_CORRECTED_PIXELS",
    128: "QT_SATURATED_PIXELS_L1A",
}
CLOUD_FLAGS = {1: "OPAQUE", 2: "CIRRUS", 4: "SNOW_ICE"}
_GROUND = "provided in the final reference frame (ground geometry)"


@cache
def crs_wkt() -> str:
    """The product's CRS as WKT 1, the form of ``proj:wkt2`` in real products in spite of its name."""
    from pyproj import CRS

    return str(CRS.from_epsg(EPSG).to_wkt("WKT1_GDAL"))


def raster(spec: SampleSpec, resolution_m: int) -> Attrs:
    """``proj:*`` attributes of a raster; the transform has nine numbers."""
    west, south, east, north = spec.bbox_m()
    n, step = spec.shape_px(resolution_m), float(resolution_m)
    return {
        "proj:bbox": [west, south, east, north],
        "proj:epsg": EPSG,
        "proj:shape": [n, n],
        "proj:transform": [step, 0.0, west, 0.0, -step, north, 0.0, 0.0, 1.0],
        "proj:wkt2": crs_wkt(),
    }


def reflectance(spec: SampleSpec, band: str) -> Attrs:
    """Scale, offset, limits and name of a reflectance array (without ``proj:*``)."""
    reference = "BOA" if spec.level == "L2A" else "TOA"
    wavelength = BY_NAME[band].wavelength_nm
    shared = {
        "add_offset": -0.1,
        "fill_value": 0,
        "long_name": f"{reference} reflectance from MSI acquisition at spectral band {band} {wavelength} nm",
        "scale_factor": 0.0001,
        "units": "digital_counts",
    }
    masked = {"eopf_is_masked": True, "eopf_target_dtype": "<f8"}
    copied = {"dtype": "<u2", **shared, **masked}
    if spec.layout == "1830":
        del copied["long_name"], copied["dtype"], copied["eopf_is_masked"], copied["eopf_target_dtype"]
    return {"_eopf_attrs": copied, "dtype": "<u2", "valid_max": 65535, "valid_min": 1, **shared}


def flags(spec: SampleSpec, names: dict[int, str], what: str) -> Attrs:
    """Attributes of a bit mask; ``what`` is "quality" or "cloud classification"."""
    bits = {"flag_masks": list(names), "flag_meanings": list(names.values())}
    return _with_copy(spec, {"long_name": f"{what} mask {_GROUND}", **bits}, older=bits)


def footprint(spec: SampleSpec) -> Attrs:
    """Attributes of a detector footprint."""
    name = f"detector footprint mask {_GROUND}. 0 = no detector, 1-12 = detector 1-12"
    return _with_copy(spec, {"long_name": name}, older={})


def _with_copy(spec: SampleSpec, own: Attrs, older: Attrs) -> Attrs:
    own = {"dtype": "<u1", **own}
    return {**own, "_eopf_attrs": older if spec.layout == "1830" else dict(own)}


def plain() -> Attrs:
    """Rasters without a description: scl, aot, wvp, quick-look."""
    return {"_eopf_attrs": {}}


def angles(spec: SampleSpec, *, unit: bool) -> Attrs:
    """Sun and viewing angles in degrees."""
    copied: Attrs = {} if spec.layout == "1830" else {"eopf_is_masked": True, "fill_value": "NaN"}
    return {"_eopf_attrs": copied, "unit": "deg"} if unit else {"_eopf_attrs": copied}


def complete(attrs: Attrs, dims: tuple[str, ...], coordinates: tuple[str, ...]) -> Attrs:
    """Add ``_ARRAY_DIMENSIONS``, and dimensions and coordinates to ``_eopf_attrs`` where there is one."""
    out = {**attrs, "_ARRAY_DIMENSIONS": list(dims)}
    if "_eopf_attrs" in attrs:
        listed = {"coordinates": list(coordinates), "dimensions": list(dims)}
        out["_eopf_attrs"] = {**listed, **attrs["_eopf_attrs"]}
    return out
