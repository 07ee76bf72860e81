"""Sentinel-2 MSI bands: common name, wavelengths and native pixel size.

Values are the nominal ones of the mission (not of one spacecraft), as the public Sentinel-2 catalogues state them in items.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Band:
    """One spectral band of the MultiSpectral Instrument."""

    name: str
    """Array name in the product, ``b01`` ... ``b12``, ``b8a``."""
    common_name: str
    """Common name, one of the list in the STAC eo extension 2.0."""
    center_wavelength: float
    """Centre wavelength in micrometres."""
    full_width_half_max: float
    """Full width at half maximum in micrometres."""
    gsd_m: int
    """Native ground sample distance at the sensor in metres; the product may hold the band on another grid."""


S2_BANDS: dict[str, Band] = {
    band.name: band
    for band in (
        Band("b01", "coastal", 0.443, 0.027, 60),
        Band("b02", "blue", 0.490, 0.098, 10),
        Band("b03", "green", 0.560, 0.045, 10),
        Band("b04", "red", 0.665, 0.038, 10),
        Band("b05", "rededge071", 0.704, 0.019, 20),
        Band("b06", "rededge075", 0.740, 0.018, 20),
        Band("b07", "rededge078", 0.783, 0.028, 20),
        Band("b08", "nir", 0.842, 0.145, 10),
        Band("b8a", "nir08", 0.865, 0.033, 20),
        Band("b09", "nir09", 0.945, 0.026, 60),
        Band("b10", "cirrus", 1.3735, 0.075, 60),
        Band("b11", "swir16", 1.610, 0.143, 20),
        Band("b12", "swir22", 2.190, 0.242, 20),
    )
}
"""Array name to band, in order of wavelength."""


def band_order(name: str) -> tuple[int, str]:
    """Return the sort key that puts known bands in order of wavelength and others behind them by name."""
    names = list(S2_BANDS)
    return (names.index(name) if name in S2_BANDS else len(names), name)
