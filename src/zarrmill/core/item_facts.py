"""What is known about a product beside its pixels, and which source is believed for what.

==============================  ==================================================================================
fact                            first source that has it
==============================  ==================================================================================
id, product type                manifest row
datetime                        catalogue item; ``stac_discovery`` (``datetime``, then ``start_datetime``); manifest row
geometry                        catalogue item's geometry; ``stac_discovery``'s geometry; their bounding boxes; all repaired;
                                the extent of the store
platform, orbit, tile, level    catalogue item; ``stac_discovery``; product name
cloud, snow, timeliness         catalogue item; ``stac_discovery``
international designator        the platform (products state that of Sentinel-2A for every spacecraft)
sun angles                      ``other_metadata`` only: the catalogue's ``view:sun_elevation`` is a zenith angle
grid of the pixels              the store only
==============================  ==================================================================================

A value that no source has is left out. Text such as ``"null"``, ``"MISSING"`` or blanks counts as missing.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from zarrmill.core.footprint import box_geometry, repair_bbox, repair_geometry
from zarrmill.errors import ConformanceError
from zarrmill.model import Json, Product

DESIGNATORS: dict[str, str] = {
    "sentinel-1a": "2014-016A",
    "sentinel-1b": "2016-025A",
    "sentinel-2a": "2015-028A",
    "sentinel-2b": "2017-013A",
    "sentinel-2c": "2024-157A",
}
"""COSPAR designator by platform."""

_JUNK = frozenset({"", "null", "none", "missing", "n/a", "todo", "nan"})
_SAFE_NAME = re.compile(
    r"^S2(?P<unit>[A-D])_MSI(?P<level>L1C|L2A)_\d{8}T\d{6}_N(?P<baseline>\d{4})_R(?P<orbit>\d{3})_T(?P<tile>\d{2}[A-Z]{3})"
)
_RADAR_NAME = re.compile(r"^S1(?P<unit>[A-D])_(?P<mode>[A-Z]{2}|S\d)_GRD")
_EOPF_NAME = re.compile(r"^S02MSI(?P<level>L1C|L2A)_\d{8}T\d{6}_\d{4}_(?P<unit>[A-D])(?P<orbit>\d{3})")
_DURATION = re.compile(r"^P(?=.)(\d+Y)?(\d+M)?(\d+W)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?$")


@dataclass(frozen=True, slots=True)
class Facts:
    """The sources of facts about one product."""

    product: Product
    item: Mapping[str, Json]
    """Catalogue item; empty for a plain list of hrefs."""
    discovery: Mapping[str, Json]
    """``stac_discovery`` of the source product."""
    other: Mapping[str, Json]
    """``other_metadata`` of the source product."""
    extent: Json = None
    """``spatial:bbox`` of the store in degrees; None before there is one."""

    def first[T](self, read: Callable[[Json], T | None], *keys: str) -> T | None:
        """Return the first readable property: every key in the catalogue item, then every key in ``stac_discovery``."""
        for source in (self.item, self.discovery):
            properties = source.get("properties")
            known: Mapping[str, Json] = properties if isinstance(properties, Mapping) else {}
            for key in keys:
                value = read(known.get(key))
                if value is not None:
                    return value
        return None

    @property
    def name(self) -> Mapping[str, str]:
        """Parts of the product's name: ``unit``, ``level``, ``orbit``, and with a SAFE name ``tile`` and ``baseline``."""
        for text in (self.product.product_id, str(self.discovery.get("id", ""))):
            match = _SAFE_NAME.match(text)
            if match:
                return match.groupdict()
        match = _EOPF_NAME.match(self.product.product_id)
        return match.groupdict() if match else {}


def text(value: Json) -> str | None:
    """Return text, or None when it is missing or says so."""
    if not isinstance(value, str) or value.strip().lower() in _JUNK:
        return None
    return value.strip()


def instant(value: Json) -> str | None:
    """Return an ISO 8601 time as UTC with microseconds, or None; a time without zone is UTC (as in the product format)."""
    known = text(value)
    if known is None:
        return None
    try:
        moment = datetime.fromisoformat(known)
    except ValueError:
        return None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def number(low: float, high: float) -> Callable[[Json], float | None]:
    """Return a reader of numbers within ``low`` ... ``high``; anything else is missing."""

    def read(value: Json) -> float | None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        return value if low <= value <= high else None

    return read


def geometry(facts: Facts) -> Json:
    """Return the footprint as valid GeoJSON.

    Raises: ConformanceError: neither the catalogue nor the product nor the store has one.
    """
    for source in (facts.item, facts.discovery):
        shape = repair_geometry(source.get("geometry"))
        if shape is not None:
            return shape
    for source in (facts.item, facts.discovery):
        if (shape := _box(source.get("bbox"))) is not None:
            return shape
    if (shape := _box(facts.extent)) is not None:
        return shape
    raise ConformanceError(
        f"{facts.product.product_id}: geometry: found none in the catalogue item, in stac_discovery nor in the store, "
        "STAC requires one; report it to the provider",
        kind="item",
    )


def _box(value: Json) -> Json:
    box = repair_bbox(value)
    return box_geometry(box) if box else None


def times(facts: Facts) -> dict[str, str]:
    """Return ``datetime`` and, when both are known, ``start_datetime`` and ``end_datetime``.

    Raises: ConformanceError: no source has a time.
    """
    at = facts.first(instant, "datetime") or facts.first(instant, "start_datetime") or instant(facts.product.datetime)
    if at is None:
        raise ConformanceError(
            f"{facts.product.product_id}: datetime: found {facts.product.datetime!r}, STAC requires one; plan again", kind="item"
        )
    start, end = facts.first(instant, "start_datetime"), facts.first(instant, "end_datetime")
    span = {"start_datetime": start, "end_datetime": end} if start and end and start <= end else {}
    return {"datetime": at, **span}


def acquisition(facts: Facts) -> dict[str, Json]:
    """Return platform, instrument, orbit, tile, cover and angles as STAC properties; what is not known is left out."""
    name = facts.name
    radar_name = _RADAR_NAME.match(facts.product.product_id)
    named = f"sentinel-2{name['unit'].lower()}" if name else f"sentinel-1{radar_name['unit'].lower()}" if radar_name else None
    platform = facts.first(_lower, "platform") or named
    tile = name.get("tile")
    kind = facts.product.product_type
    mission, instrument = {"S02": ("sentinel-2", ["msi"]), "S01": ("sentinel-1", ["sar"])}.get(kind[:3], (None, None))
    orbit = facts.first(number(1, 1e9), "sat:relative_orbit") or (int(name["orbit"]) if name else None)
    absolute = facts.first(number(1, 1e9), "sat:absolute_orbit")
    return _known(
        {
            "platform": platform,
            "constellation": facts.first(_lower, "constellation") or mission,
            "instruments": facts.first(_texts, "instruments", "instrument") or instrument,
            "eo:cloud_cover": facts.first(number(0, 100), "eo:cloud_cover") if mission != "sentinel-1" else None,
            "eo:snow_cover": facts.first(number(0, 100), "eo:snow_cover") if mission != "sentinel-1" else None,
            "sat:orbit_state": facts.first(_orbit_state, "sat:orbit_state"),
            "sat:relative_orbit": int(orbit) if orbit else None,
            "sat:absolute_orbit": int(absolute) if absolute else None,
            "sat:platform_international_designator": DESIGNATORS.get(platform or ""),
            "grid:code": facts.first(_grid_code, "grid:code") or (f"MGRS-{tile}" if tile else None),
            **_sun(facts.other),
        }
    )


def radar(facts: Facts, polarisations: Sequence[str]) -> dict[str, Json]:
    """Return mode, frequency band, polarisations of the store and kind of a radar product as STAC properties."""
    name = _RADAR_NAME.match(facts.product.product_id)
    band = facts.first(text, "sar:frequency_band") or ("C" if facts.product.product_type.startswith("S01") else None)
    return _known(
        {
            "sar:instrument_mode": facts.first(text, "sar:instrument_mode") or (name["mode"] if name else None),
            "sar:frequency_band": band,
            "sar:polarizations": [polarisation.upper() for polarisation in polarisations],
            "sar:product_type": facts.first(text, "sar:product_type") or "GRD",
        }
    )


def processing(facts: Facts) -> dict[str, Json]:
    """Return product type, timeliness, level, facility and version of the source as STAC properties."""
    name, kind = facts.name, facts.product.product_type
    level = facts.first(text, "processing:level") or name.get("level") or _level(kind)
    baseline = f"{name['baseline'][:2]}.{name['baseline'][2:]}" if "baseline" in name else None
    timeliness = facts.first(_duration, "product:timeliness")
    return _known(
        {
            "product:type": kind,
            "product:timeliness": timeliness,
            "product:timeliness_category": facts.first(text, "product:timeliness_category") if timeliness else None,
            "processing:level": level,
            "processing:facility": facts.first(text, "processing:facility"),
            "processing:version": facts.first(text, "processing:version", "eopf:baseline") or baseline,
        }
    )


def source_software(facts: Facts) -> dict[str, str]:
    """Return name and version of the software that made the source; blank versions are left out."""

    def read(value: Json) -> dict[str, str] | None:
        known = {key: text(version) for key, version in value.items()} if isinstance(value, Mapping) else {}
        return {key: version for key, version in known.items() if version} or None

    return facts.first(read, "processing:software") or {}


def _level(kind: str) -> str | None:
    if kind.startswith("S02MSI"):
        return kind[6:9]
    return "L1" if kind.startswith("S01SIWGR") else None


def _known(values: dict[str, Json]) -> dict[str, Json]:
    return {key: value for key, value in values.items() if value is not None}


def _sun(other: Mapping[str, Json]) -> dict[str, float | None]:
    def angle(prefix: str, high: float) -> float | None:
        keys = sorted(key for key in other if key.startswith(prefix))
        return next((found for found in (number(0, high)(other[key]) for key in keys) if found is not None), None)

    zenith, azimuth = angle("mean_sun_zenith_angle_in_deg", 180), angle("mean_sun_azimuth_angle_in_deg", 360)
    return {
        "view:sun_elevation": None if zenith is None else round(90 - zenith, 6),
        "view:sun_azimuth": None if azimuth is None else round(azimuth, 6),
    }


def _texts(value: Json) -> list[str] | None:
    values = value if isinstance(value, list) else [value]
    return [known.lower() for known in map(text, values) if known] or None


def _lower(value: Json) -> str | None:
    known = text(value)
    return known.lower() if known else None


def _orbit_state(value: Json) -> str | None:
    known = (text(value) or "").lower()
    return known if known in ("ascending", "descending") else None


def _grid_code(value: Json) -> str | None:
    known = text(value)
    return known if known and re.match(r"^[A-Z0-9]+-[-_.A-Za-z0-9]+$", known) else None


def _duration(value: Json) -> str | None:
    known = text(value)
    return known if known and _DURATION.match(known) else None
