"""The weather groups of a product: 9 x 9 grids of ECMWF and CAMS forecasts, with the attributes cfgrib leaves."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zarrmill.sample.attrs import Attrs
from zarrmill.sample.spec import SampleSpec, product_id
from zarrmill.sample.swath import Swath, bbox_of

N_POINTS = 9


@dataclass(frozen=True, slots=True)
class Variable:
    """One forecast variable."""

    group: str
    """``cams`` or ``ecmwf``."""
    name: str
    """Array name."""
    title: str
    """Long name in GRIB tables."""
    units: str
    """GRIB units; "~" is none."""
    parameter: int
    """ECMWF parameter number."""
    typical: float
    """Mean value written into samples; the field varies by 5 %."""
    standard_name: str = "unknown"
    """CF name, "unknown" where cfgrib knows none."""
    level: str = "surface"
    """GRIB type of level."""
    short_name: str = ""
    """GRIB short name where it differs from the array name."""


def _optical_depth(name: str, title: str, parameter: int, typical: float, level: str = "surface") -> Variable:
    return Variable("cams", name, f"{title} at {name[-4:].lstrip('d')}nm", "~", parameter, typical, level=level)


_AOD = "Aerosol Optical Depth"
VARIABLES = (
    _optical_depth("aod1240", f"Total {_AOD}", 210216, 0.05),
    _optical_depth("aod469", f"Total {_AOD}", 210213, 0.18),
    _optical_depth("aod550", f"Total {_AOD}", 210207, 0.14),
    _optical_depth("aod670", f"Total {_AOD}", 210214, 0.11),
    _optical_depth("aod865", f"Total {_AOD}", 210215, 0.08),
    _optical_depth("bcaod550", f"Black Carbon {_AOD}", 210211, 0.005),
    _optical_depth("duaod550", f"Dust {_AOD}", 210209, 0.01, "isobaricInhPa"),
    _optical_depth("omaod550", f"Organic Matter {_AOD}", 210210, 0.04),
    _optical_depth("ssaod550", f"Sea Salt {_AOD}", 210208, 0.03),
    _optical_depth("suaod550", f"Sulphate {_AOD}", 210212, 0.05),
    Variable("cams", "z", "Geopotential", "m**2 s**-2", 129, 60.0, "geopotential"),
    Variable("ecmwf", "msl", "Mean sea level pressure", "Pa", 151, 101850.0, "air_pressure_at_mean_sea_level"),
    Variable("ecmwf", "r", "Relative humidity", "%", 157, 62.0, "relative_humidity", "isobaricInhPa"),
    Variable("ecmwf", "tco3", "Total column ozone", "kg m**-2", 206, 0.0065, "atmosphere_mass_content_of_ozone"),
    Variable(
        "ecmwf",
        "tcwv",
        "Total column vertically-integrated water vapour",
        "kg m**-2",
        137,
        15.0,
        "lwe_thickness_of_atmosphere_mass_content_of_water_vapor",
    ),
    Variable("ecmwf", "u10", "10 metre U wind component", "m s**-1", 165, 3.1, short_name="10u"),
    Variable("ecmwf", "v10", "10 metre V wind component", "m s**-1", 166, -1.7, short_name="10v"),
)
SCALARS: dict[str, tuple[str, Attrs]] = {
    "isobaricInhPa": (
        "<f8",
        {
            "long_name": "pressure",
            "positive": "down",
            "standard_name": "air_pressure",
            "stored_direction": "decreasing",
            "units": "hPa",
        },
    ),
    "number": (
        "<i8",
        {"long_name": "ensemble member numerical id", "standard_name": "realization", "units": "1"},
    ),
    "step": (
        "<i8",
        {
            "long_name": "time since forecast_reference_time",
            "standard_name": "forecast_period",
        },
    ),
    "surface": ("<f8", {"long_name": "original GRIB coordinate for key: level(surface)", "units": "1"}),
}
"""Scalar coordinates without a date: dtype and the attributes that never vary."""


def group_attrs(spec: SampleSpec, group: str) -> Attrs:
    """Attributes of ``conditions/meteorology/<group>``."""
    centre = "European Centre for Medium-Range Weather Forecasts"
    file = {"cams": "AUX_CAMSFO", "ecmwf": "AUX_ECMWFT"}[group]
    made = spec.created.strftime("%Y-%m-%dT%H:%M")
    return {
        "Conventions": "CF-1.7",
        "GRIB_centre": "ecmf",
        "GRIB_centreDescription": centre,
        "GRIB_edition": 1,
        "GRIB_subCentre": 0,
        "history": f"{made} zarrmill sample in place of {product_id(spec)}.SAFE/AUX_DATA/{file}: invented values",
        "institution": centre,
    }


def latlon(spec: SampleSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nine latitudes, north to south, and nine longitudes over the footprint, degrees to 0.001."""
    west, south, east, north = bbox_of(Swath(spec).footprint_lonlat())
    return np.linspace(north, south, N_POINTS).round(3), np.linspace(west, east, N_POINTS).round(3)


def axis_attrs(name: str) -> Attrs:
    """Attributes of ``latitude`` or ``longitude``."""
    attrs = {
        "long_name": name,
        "standard_name": name,
        "units": f"degrees_{'north' if name == 'latitude' else 'east'}",
    }
    return attrs | {"stored_direction": "decreasing"} if name == "latitude" else attrs


def scalar_attrs(spec: SampleSpec, name: str) -> Attrs:
    """Attributes of a scalar coordinate.

    ``time`` (forecast start) and ``valid_time`` hold 0 and carry the date in their units. ``step`` counts minutes in
    newer and nanoseconds in older products.
    """
    words: Attrs
    if name == "step":
        return {**SCALARS[name][1], "units": "nanoseconds" if spec.layout == "1830" else "minutes"}
    if name in SCALARS:
        return SCALARS[name][1]
    if name == "time":
        words = {"long_name": "initial time of forecast", "standard_name": "forecast_reference_time"}
        start = f"{spec.acquired:%Y-%m-%d} 00:00:00"
    else:
        words = {"long_name": "time", "standard_name": "time"}
        start = f"{spec.acquired:%Y-%m-%d %H:%M}:00"
    return {**words, "calendar": "proleptic_gregorian", "units": f"days since {start}"}


def variable_attrs(spec: SampleSpec, variable: Variable) -> Attrs:
    """GRIB and CF attributes of one variable."""
    words = {"long_name": variable.title, "standard_name": variable.standard_name, "units": variable.units}
    copied = words if spec.layout == "1830" else {"eopf_is_masked": True, "fill_value": "NaN", **words}
    about = {
        "cfName": variable.standard_name,
        "cfVarName": variable.name,
        "name": variable.title,
        "paramId": variable.parameter,
        "shortName": variable.short_name or variable.name,
        "typeOfLevel": variable.level,
        "units": variable.units,
    }
    grib = {f"GRIB_{key}": value for key, value in (_grid_attrs(spec) | about).items()}
    scalars = "isobaricInhPa number step surface time valid_time"
    return {**grib, **words, "coordinates": scalars, "_eopf_attrs": copied}


def _grid_attrs(spec: SampleSpec) -> Attrs:
    """GRIB keys of the 9 x 9 grid, the same for all variables."""
    latitude, longitude = (v.tolist() for v in latlon(spec))
    return {
        "NV": 0,
        "Nx": N_POINTS,
        "Ny": N_POINTS,
        "dataType": "fc",
        "gridDefinitionDescription": "Latitude/Longitude Grid",
        "gridType": "regular_ll",
        "iDirectionIncrementInDegrees": round((longitude[-1] - longitude[0]) / (N_POINTS - 1), 3),
        "iScansNegatively": 0,
        "jDirectionIncrementInDegrees": round((latitude[0] - latitude[-1]) / (N_POINTS - 1), 3),
        "jPointsAreConsecutive": 0,
        "jScansPositively": 0,
        "latitudeOfFirstGridPointInDegrees": latitude[0],
        "latitudeOfLastGridPointInDegrees": latitude[-1],
        "longitudeOfFirstGridPointInDegrees": longitude[0],
        "longitudeOfLastGridPointInDegrees": longitude[-1],
        "missingValue": 3.4028234663852886e38,
        "numberOfPoints": N_POINTS**2,
        "stepType": "instant",
        "stepUnits": 0,
        "totalNumber": 0,
    }


def values(spec: SampleSpec, variable: Variable) -> NDArray[np.float32]:
    """Invented 9 x 9 field around the variable's typical value."""
    noise = spec.rng("weather", variable.group, variable.name).uniform(-0.05, 0.05, (N_POINTS, N_POINTS))
    field: NDArray[np.float32] = (variable.typical * (1 + noise)).astype(np.float32)
    return field


def scalar(spec: SampleSpec, name: str) -> int | float:
    """Value of a scalar coordinate."""
    minutes = spec.acquired.hour * 60 + spec.acquired.minute
    per_minute = 60 * 10**9 if spec.layout == "1830" else 1
    known: dict[str, int | float] = {"isobaricInhPa": 500.0, "step": minutes * per_minute}
    return known.get(name, 0)
