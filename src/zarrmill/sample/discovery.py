"""Root attributes of a product: ``stac_discovery`` and ``other_metadata``, with the defects real products have.

Kept on purpose, as found in products of CPM 2.x: ``bbox`` begins with east, ``id`` ends in ``.SAFE``, ``datetime`` is null
or the string "null", missing values are strings "null", L1C has a stray ``other_metadata4``.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from zarrmill.sample.attrs import Attrs
from zarrmill.sample.bands import BANDS, BY_NAME, Band
from zarrmill.sample.spec import BASELINE, EPSG, ORIGIN_M, PLATFORM_COSPAR, TILE, SampleSpec, product_id
from zarrmill.sample.swath import Swath, bbox_of

VERSION = f"{BASELINE[:2]}.{BASELINE[2:]}"
NULL = "null"
_ORBITS_PER_DAY = 143 / 10
_ORBIT_EPOCH = {
    "S2A": (datetime(2025, 10, 8, tzinfo=UTC), 53773),
    "S2B": (datetime(2025, 1, 13, tzinfo=UTC), 41032),
    "S2C": (datetime(2025, 8, 11, tzinfo=UTC), 4830),
}
_EXTENSIONS = (
    "eopf/v1.0.0",
    "eo/v1.1.0",
    "sat/v1.0.0",
    "view/v1.0.0",
    "scientific/v1.0.0",
    "processing/v1.2.0",
)
_RESOLUTIONS = {
    "bands 01, 09, 10": "60",
    "bands 02, 03, 04, 08": "10",
    "bands 05, 06, 07, 8A, 11, 12": "20",
}


@dataclass(frozen=True, slots=True)
class SceneFacts:
    """What is known only once the pixels are made."""

    cloud_percent: float
    """Share of valid pixels that are cloud (classes 8, 9, 10; bits opaque or cirrus for L1C), percent."""
    snow_percent: float
    """Share of valid pixels that are snow, percent."""
    pixel_origin: str
    """How the pixels came about."""


def root_attrs(spec: SampleSpec, facts: SceneFacts) -> Attrs:
    """All attributes of the root group."""
    other = _other_metadata(spec, facts)
    attrs: Attrs = {"other_metadata": other, "stac_discovery": _stac_discovery(spec, facts)}
    if spec.level == "L1C" and spec.layout != "v3":
        attrs["other_metadata4"] = _stray_metadata(other)
    return attrs


def absolute_orbit(spec: SampleSpec) -> int:
    """Absolute orbit number, counted from a known orbit of the platform."""
    epoch, number = _ORBIT_EPOCH[spec.platform]
    return number + round((spec.acquired - epoch).total_seconds() / 86400 * _ORBITS_PER_DAY)


def sun_angles(spec: SampleSpec) -> tuple[float, float]:
    """Mean sun zenith and azimuth in degrees for the tile at the time of sensing.

    Source: NOAA general solar position calculations (declination and hour angle), accurate to about 1 degree.
    """
    latitude, longitude = math.radians(37.7), -75.7
    day = spec.acquired.timetuple().tm_yday
    hours = spec.acquired.hour + spec.acquired.minute / 60
    declination = math.radians(23.44) * math.sin(math.tau * (284 + day) / 365)
    hour_angle = math.radians(15 * (hours - 12) + longitude)
    up = math.sin(latitude) * math.sin(declination) + math.cos(latitude) * math.cos(declination) * math.cos(hour_angle)
    east = -math.cos(declination) * math.sin(hour_angle)
    north = math.cos(latitude) * math.sin(declination) - math.sin(latitude) * math.cos(declination) * math.cos(hour_angle)
    return round(math.degrees(math.acos(up)), 6), round(math.degrees(math.atan2(east, north)) % 360, 6)


def iso(moment: datetime, *, with_ms: bool = False) -> str:
    """Time as CPM writes it: ``2025-01-13T10:33:09.024000+00:00``."""
    return (moment + timedelta(milliseconds=24 if with_ms else 0)).isoformat()


def sample_note(spec: SampleSpec, facts: SceneFacts) -> Attrs:
    """An honest account of how the product was made."""
    native = f"corner ({ORIGIN_M[0]:.0f}, {ORIGIN_M[1]:.0f}) EPSG:{EPSG}"
    warning = "top-of-atmosphere pixels in the structure of L2A: no atmospheric correction was made"
    return {
        "is_sample": True,
        "made_by": "zarrmill.sample",
        "note": "Sample product, not a Copernicus product; date, orbit and names are chosen, not observed.",
        "pixels": facts.pixel_origin,
        "ground": f"native patch {native}; offset {list(spec.offset_px)} px; brightness {spec.brightness}",
        "level": warning if spec.level == "L2A" else "top-of-atmosphere pixels",
        "invented": "clouds, shadows, snow patch, swath edge, hole, DN 1-999, DN 1000 and DN 65535 pixels, classes, masks, "
        "detector footprints, aot, wvp, angles, weather",
        "seed": spec.seed,
    }


def _stac_discovery(spec: SampleSpec, facts: SceneFacts) -> Attrs:
    ring = Swath(spec).footprint_lonlat()
    west, south, east, north = bbox_of(ring)
    cover = {"eo:cloud_cover": facts.cloud_percent, "eo:snow_cover": facts.snow_percent}
    extensions = [f"https://stac-extensions.github.io/{e}/schema.json" for e in (*_EXTENSIONS, "product/v0.1.0")]
    return {
        "assets": {"analytic": {"eo:bands": [_asset_band(b) for b in BANDS], **cover, "href": NULL}},
        "bbox": [east, south, west, north],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "id": f"{product_id(spec)}.SAFE",
        "links": [{"href": "./.zattrs.json", "rel": "self", "type": "application/json"}],
        "properties": _properties(spec) | cover | {"zarrmill:sample": sample_note(spec, facts)["note"]},
        "stac_extensions": extensions,
        "stac_version": "1.0.0",
        "type": "Feature",
    }


def _asset_band(band: Band) -> Attrs:
    out: Attrs = {
        "center_wavelength": band.wavelength_nm / 1000,
        "full_width_half_max": band.bandwidth_nm / 1000,
        "name": band.name[1:].upper(),
        "solar_illumination": str(band.irradiance),
    }
    named = band.common_name not in ("rededge", "nir08", "nir09")
    return out | {"common_name": band.common_name} if named else out


def _property_band(band: Band) -> Attrs:
    return {
        "center_wavelength": band.wavelength_nm,
        "common_name": band.common_name,
        "full_width_half_max": band.bandwidth_nm / 1000,
        "name": band.name,
        "solar_illumination": band.irradiance,
    }


def _properties(spec: SampleSpec) -> Attrs:
    sensed = iso(spec.acquired, with_ms=True)
    orbit = absolute_orbit(spec)
    out: Attrs = {
        "bands": [_property_band(b) for b in BANDS],
        "constellation": "sentinel-2",
        "created": iso(spec.created),
        "datetime": NULL if spec.layout == "1830" or spec.level == "L1C" else None,
        "end_datetime": sensed,
        "eopf:baseline": VERSION,
        "eopf:data_take_id": f"G{spec.platform}_{spec.acquired:%Y%m%dT%H%M%S}_{orbit:06d}_N{VERSION}",
        "eopf:instrument_mode": "INS-NOBS",
        "eopf:resolutions": _RESOLUTIONS,
        "instrument": "msi",
        "platform": f"sentinel-{spec.platform[1:].lower()}",
        "processing:expression": "systematic",
        "processing:facility": "ESA",
        "processing:level": spec.level,
        "processing:lineage": f"IPF {spec.level} processor",
        "processing:software": {"Sentinel-2 IPF": " "},
        "product:timeline": "NRT",
        "product:timeliness": "PT3H",
        "product:timeliness_category": "NRT",
        "product:type": spec.product_type,
        "proj:bbox": list(spec.bbox_m()),
        "proj:epsg": EPSG,
        "providers": [{"name": f"{spec.level} Processor", "roles": ["processor"]}, {"name": "ESA", "roles": ["producer"]}],
        "sat:absolute_orbit": orbit,
        "sat:orbit_state": "descending",
        "sat:platform_international_designator": PLATFORM_COSPAR[spec.platform],
        "sat:relative_orbit": spec.relative_orbit,
        "sci:doi": "10.5270/S2_-znk9xsj" if spec.level == "L2A" else "10.5270/S2_-742ikth",
        "start_datetime": sensed,
    }
    if spec.level == "L1C":
        out["eopf:image_size"] = _image_sizes(spec)
    elif spec.layout != "1830":
        out |= {"mission": "copernicus", "processing:version": ""}
    return out


def _image_sizes(spec: SampleSpec) -> list[Attrs]:
    x, y = spec.origin_m
    sizes = []
    for name, resolution in sorted(_RESOLUTIONS.items(), key=lambda entry: int(entry[1])):
        n = spec.shape_px(int(resolution))
        sizes.append({"columns": n, "name": name, "rows": n, "start_offset": y, "track_offset": x})
    return sizes


def _other_metadata(spec: SampleSpec, facts: SceneFacts) -> Attrs:
    zenith, azimuth = sun_angles(spec)
    seen = "in_deg_for_all_bands_all_detectors"
    tile = f"{spec.platform}_OPER_MSI_{spec.level}_TL_2{spec.platform[2]}PS_{spec.created:%Y%m%dT%H%M%S}"
    flags = (
        "electronic_crosstalk_correction",
        "onboard_equalization",
        "optical_crosstalk_correction",
        "SWIR_rearrangement",
    )
    out: Attrs = {
        **{f"{name}_flag": NULL for name in flags},
        "L0_ancillary_data_quality": "3" if spec.level == "L2A" else NULL,
        "L0_ephemeris_data_quality": "4" if spec.level == "L2A" else NULL,
        "NUC_table_ID": 3,
        "UTM_zone_identification": f"{tile}_A{absolute_orbit(spec):06d}_T{TILE}_N{VERSION}",
        "absolute_location_assessment_from_AOCS": "\n          " if spec.level == "L2A" else NULL,
        "band_description": _band_description(),
        "eopf_category": "eoproduct",
        "geometric_refinement": _refinement(),
        "history": _history(spec),
        "horizontal_CRS_code": f"EPSG:{EPSG}",
        "horizontal_CRS_name": f"WGS84 / UTM zone {EPSG % 100}N",
        "mean_sensing_time": f"{spec.acquired + timedelta(minutes=8):%Y-%m-%dT%H:%M:%S}.346626Z",
        f"mean_sun_azimuth_angle_{seen}": azimuth,
        f"mean_sun_zenith_angle_{seen}": zenith,
        "meteo": {"source": "ECMWF", "type": "FORECAST"},
        "multispectral_registration_assessment": "N/A" if spec.level == "L2A" else NULL,
        "onboard_compression_flag": "true",
        "percentage_of_degraded_MSI_data": 0.0,
        "planimetric_stability_assessment_from_AOCS": "\n          " if spec.level == "L2A" else NULL,
        "product_quality_status": ",".join(["PASSED"] * (6 if spec.level == "L2A" else 1)),
        _SUN_DISTANCE: _sun_distance_factor(spec),
        "spectral_band_of_reference": NULL,
        "zarrmill_sample": sample_note(spec, facts),
    }
    if spec.level == "L2A":
        out |= _atmosphere_metadata()
    return out


_SUN_DISTANCE = "reflectance_correction_factor_from_the_Sun-Earth_distance_variation_computed_using_the_acquisition_date"


def _sun_distance_factor(spec: SampleSpec) -> float:
    """1 / distance(au)^2 from the day of year, by the usual cosine (Sentinel-2 L1C definition of U)."""
    day = spec.acquired.timetuple().tm_yday
    return round(1 / (1 - 0.01673 * math.cos(0.0172 * (day - 2))) ** 2, 9)


def _atmosphere_metadata() -> Attrs:
    models = ("AOT", "radiative_transfer", "water_vapour")
    return {
        "AOT_retrieval_model": "SEN2COR_DDV",
        **{f"declared_accuracy_of_{m}_model": 0.0 for m in models},
        "mean_value_of_aerosol_optical_thickness": 0.1,
        "mean_value_of_total_water_vapour_content": 1.5,
        "ozone_source": "AUX_ECMWFT",
        "ozone_value": 305.0,
    }


def _band_description() -> Attrs:
    described = {}
    for band in BANDS:
        half = band.bandwidth_nm / 2
        entry = {
            "bandwidth": float(band.bandwidth_nm),
            "central_wavelength": band.wavelength_nm,
            "units": "nm",
            "wavelength_max": band.wavelength_nm + half,
            "wavelength_min": band.wavelength_nm - half,
        }
        described[band.name] = entry
        # Real products list every band twice: "b02" with numbers and "02" with strings.
        described[band.name[1:].upper()] = entry | {"bandwidth": str(float(band.bandwidth_nm))}
    return described


def _refinement() -> Attrs:
    ties = "residual_displacements_at_all_tie_points_after_refinement_m"
    axes = ("X", "Y", "Z")
    return {
        f"mean_value_of_{ties}": {"x_mean": NULL, "y_mean": NULL},
        f"standard_deviation_of_{ties}": {"x_stdv": NULL, "y_stdv": NULL},
        "spacecraft_rotation": {axis: {"coefficients": NULL, "degree": NULL} for axis in axes},
    }


def _history(spec: SampleSpec) -> list[Attrs]:
    last = {
        "inputs": "modified Sentinel-2 L1C pixels",
        "output": product_id(spec),
        "processor": "zarrmill.sample",
    }
    return [{"output": "Downlinked Stream", "type": "Raw Data"}, last]


def _stray_metadata(other: Attrs) -> Attrs:
    """The second, incomplete copy that L1C products carry."""
    gone = ("horizontal", "mean_", "NUC_", "UTM_", "onboard_compression", "zarrmill")
    copy = {key: value for key, value in other.items() if not key.startswith(gone)}
    copy["band_description"] = {b[1:].upper(): v for b, v in other["band_description"].items() if b in BY_NAME}
    return copy
