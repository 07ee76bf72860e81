"""STAC items of sample products, shaped like those of the EOPF catalogue, defects included.

Kept as found there: ``proj:bbox`` in degrees for v2, zenith angle in ``view:sun_elevation``, two spellings of the Zarr media
type. Not kept: absolute hrefs. Every href is relative to the file that holds the item, so a moved archive still works.
"""

import json
from pathlib import Path

from zarrmill.sample.attrs import Attrs
from zarrmill.sample.bands import BY_NAME, reflectance_bands
from zarrmill.sample.discovery import VERSION, absolute_orbit, sun_angles
from zarrmill.sample.spec import EPSG, PLATFORM_COSPAR, RESOLUTIONS_M, TILE, SampleSpec, product_id
from zarrmill.sample.swath import Swath, bbox_of

ZARR = "application/vnd.zarr"
ZARR_OTHER = "application/vnd+zarr"
_EXTENSIONS = (
    "timestamps/v1.1.0",
    "eo/v2.0.0",
    "sat/v1.0.0",
    "projection/v2.0.0",
    "mgrs/v1.0.0",
    "grid/v1.1.0",
    "view/v1.0.0",
    "processing/v1.2.0",
    "product/v0.1.0",
    "scientific/v1.0.0",
    "version/v1.2.0",
    "raster/v2.0.0",
)
_RED_EDGES = {"b05": "rededge071", "b06": "rededge075", "b07": "rededge078"}
_EOPF_EXTENSION = "https://cs-si.github.io/eopf-stac-extension/v1.2.0/schema.json"


def collection_id(spec: SampleSpec) -> str:
    """Catalogue collection: ``sentinel-2-l2a``, ``sentinel-2-l1c``, with ``-zarr3`` for v3."""
    return f"sentinel-2-{spec.level.lower()}{'-zarr3' if spec.layout == 'v3' else ''}"


def item(spec: SampleSpec, product: Path, href: str) -> Attrs:
    """STAC item of the built ``product``; ``href`` is the store's root as seen from the item's file."""
    ring = Swath(spec).footprint_lonlat()
    bbox = bbox_of(ring)
    discovered = _root_attrs(product)["stac_discovery"]["properties"]
    cover = {key: discovered[key] for key in ("eo:cloud_cover", "eo:snow_cover", "zarrmill:sample")}
    extensions = [f"https://stac-extensions.github.io/{e}/schema.json" for e in _EXTENSIONS]
    return {
        "assets": _assets(spec, href),
        "bbox": bbox,
        "collection": collection_id(spec),
        "geometry": {"coordinates": [ring], "type": "Polygon"},
        "id": product_id(spec),
        "links": [],
        "properties": _properties(spec) | _grid_properties(spec, bbox) | cover,
        "stac_extensions": [*extensions, _EOPF_EXTENSION],
        "stac_version": "1.1.0",
        "type": "Feature",
    }


def _root_attrs(product: Path) -> Attrs:
    v3 = product / "zarr.json"
    attrs: Attrs = json.loads(v3.read_text())["attributes"] if v3.exists() else json.loads((product / ".zattrs").read_text())
    return attrs


def _grid_properties(spec: SampleSpec, bbox: list[float]) -> Attrs:
    west, south, east, north = bbox
    return {
        "grid:code": f"MGRS-{TILE}",
        "mgrs:grid_square": TILE[3:],
        "mgrs:latitude_band": TILE[2],
        "mgrs:utm_zone": int(TILE[:2]),
        "proj:bbox": list(spec.bbox_m()) if spec.layout == "v3" else bbox,
        "proj:centroid": {"lat": round((south + north) / 2, 4), "lon": round((west + east) / 2, 4)},
        "proj:code": f"EPSG:{EPSG}",
    }


def _properties(spec: SampleSpec) -> Attrs:
    sensed = f"{spec.acquired:%Y-%m-%dT%H:%M:%S}.024000Z"
    made = f"{spec.created:%Y-%m-%dT%H:%M:%S}.000000Z"
    zenith, azimuth = sun_angles(spec)
    orbit = absolute_orbit(spec)
    strip = f"{spec.platform}_OPER_MSI_{spec.level}_DS_2{spec.platform[2]}PS_{spec.created:%Y%m%dT%H%M%S}"
    return {
        "constellation": "sentinel-2",
        "created": made,
        "datetime": sensed,
        "deprecated": False,
        "end_datetime": sensed,
        "eopf:datastrip_id": f"{strip}_S{spec.acquired:%Y%m%dT%H%M%S}_N{VERSION}",
        "eopf:datatake_id": f"G{spec.platform}_{spec.acquired:%Y%m%dT%H%M%S}_{orbit:06d}_N{VERSION}",
        "eopf:instrument_mode": "INS-NOBS",
        "gsd": 10.0,
        "instruments": ["msi"],
        "mission": "Sentinel-2",
        "platform": f"sentinel-{spec.platform[1:].lower()}",
        "processing:facility": "zarrmill",
        "processing:level": spec.level,
        "processing:lineage": "systematic",
        "processing:software": {"zarrmill.sample": "1"},
        "processing:version": VERSION,
        "product:timeliness": "PT3H",
        "product:timeliness_category": "NRT",
        "product:type": spec.product_type,
        "providers": _providers(),
        "published": made,
        "sat:absolute_orbit": orbit,
        "sat:orbit_state": "descending",
        "sat:platform_international_designator": PLATFORM_COSPAR[spec.platform],
        "sat:relative_orbit": spec.relative_orbit,
        "sci:doi": "10.5270/S2_-znk9xsj" if spec.level == "L2A" else "10.5270/S2_-742ikth",
        "start_datetime": sensed,
        "updated": made,
        "view:sun_azimuth": azimuth,
        "view:sun_elevation": zenith,
    }


def _providers() -> list[Attrs]:
    esa = "https://sentinel.esa.int/web/sentinel/missions/sentinel-2"
    return [
        {"name": "European Commission", "roles": ["licensor"], "url": "https://commission.europa.eu/"},
        {"name": "ESA", "roles": ["producer"], "url": esa},
        {"name": "zarrmill sample archive", "roles": ["host", "processor"]},
    ]


def _assets(spec: SampleSpec, href: str) -> Attrs:
    metadata = "zarr.json" if spec.layout == "v3" else ".zmetadata"
    assets: Attrs = {
        "product": {
            "description": "The full Zarr store of the EOPF product",
            "href": href,
            "roles": ["data", "metadata"],
            "title": "EOPF Product",
            "type": ZARR,
            "xarray:open_datatree_kwargs": {"chunks": {}, "engine": "eopf-zarr", "op_mode": "native"},
        },
        "product_metadata": {
            "description": "Consolidated metadata of the EOPF product",
            "href": f"{href}/{metadata}",
            "roles": ["metadata"],
            "title": "Consolidated Metadata",
            "type": "application/json",
        },
    }
    for m in RESOLUTIONS_M:
        assets[f"{'SR' if spec.level == 'L2A' else 'TOA'}_{m}m"] = _level_asset(spec, href, m)
    assets |= _band_assets(spec, href)
    group = f"{href}/quality/{spec.level.lower()}_quicklook/r10m/tci"
    assets["TCI_10m"] = {"href": group, "roles": ["data"], "title": "True color image", "type": ZARR}
    return assets | (_extra_assets(href) if spec.level == "L2A" else {})


def _level_asset(spec: SampleSpec, href: str, resolution_m: int) -> Attrs:
    kind = "Surface" if spec.level == "L2A" else "Top of Atmosphere"
    return {
        "bands": [_band(name) for name in reflectance_bands(spec.level, resolution_m)],
        "gsd": resolution_m,
        "href": f"{href}/measurements/reflectance/r{resolution_m}m",
        "roles": ["data", "reflectance", "dataset"],
        "title": f"{kind} Reflectance - {resolution_m}m",
        "type": ZARR,
        "xarray:open_dataset_kwargs": {"chunks": {}, "engine": "eopf-zarr", "op_mode": "native"},
    }


def _band_assets(spec: SampleSpec, href: str) -> Attrs:
    """One asset a band, at its finest resolution."""
    finest: dict[str, int] = {}
    for m in RESOLUTIONS_M:
        for name in reflectance_bands(spec.level, m):
            finest.setdefault(name, m)
    reference = "BOA" if spec.level == "L2A" else "TOA"
    return {
        f"{name.upper()}_{m}m": {
            "bands": [_band(name)],
            "data_type": "uint16",
            "description": f"{reference} reflectance from MSI acquisition at spectral band {name[1:].upper()}",
            "href": f"{href}/measurements/reflectance/r{m}m/{name}",
            "nodata": 0,
            "raster:offset": -0.1,
            "raster:scale": 0.0001,
            "roles": ["data", "reflectance"],
            "title": f"{BY_NAME[name].title} - {m}m",
            "type": ZARR,
        }
        for name, m in sorted(finest.items())
    }


def _band(name: str) -> Attrs:
    band = BY_NAME[name]
    return {
        "description": band.title,
        "eo:center_wavelength": band.wavelength_nm / 1000,
        "eo:common_name": _RED_EDGES.get(name, band.common_name),
        "eo:full_width_half_max": band.bandwidth_nm / 1000,
        "name": name.upper(),
    }


def _extra_assets(href: str) -> Attrs:
    rows = (
        ("AOT_10m", "quality/atmosphere/r10m/aot", "Aerosol optical thickness (AOT)", "uint16", 0.001),
        ("WVP_10m", "quality/atmosphere/r10m/wvp", "Water vapour (WVP)", "uint16", 0.001),
        (
            "SCL_20m",
            "conditions/mask/l2a_classification/r20m/scl",
            "Scene classification map (SCL)",
            "uint8",
            1,
        ),
    )
    return {
        key: {
            "data_type": dtype,
            "href": f"{href}/{path}",
            "nodata": 0,
            "raster:offset": 0,
            "raster:scale": scale,
            "roles": ["data"],
            "title": title,
            "type": ZARR_OTHER,
        }
        for key, path, title, dtype, scale in rows
    }
