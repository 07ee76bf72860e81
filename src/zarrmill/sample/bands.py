"""The 13 MSI bands: native grid, wavelength, and how bright cloud and snow are in the samples.

Wavelengths and bandwidths are the public MSI values of Sentinel-2B (Copernicus Sentinel-2 user guide), used for all three
platforms: the pixels are the same too.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Band:
    """One spectral band."""

    name: str
    """Array name, ``b01`` ... ``b12``, ``b8a``."""
    native_m: int
    """Native pixel size in metres: 10, 20 or 60."""
    wavelength_nm: float
    """Centre wavelength."""
    bandwidth_nm: float
    """Full width at half maximum."""
    common_name: str
    """STAC common name."""
    irradiance: float
    """Solar irradiance, W/m2/um."""
    title: str
    """Words for the catalogue."""
    cloud_dn: int
    """Typical DN (offset 1000 included) of an opaque cloud in the samples."""
    snow_dn: int
    """DN of the snow patch."""
    ground_dn: int
    """Mean DN of ground in synthetic pixels."""

    @property
    def factor(self) -> int:
        """Native pixels are ``factor`` times as wide as 10 m ones."""
        return self.native_m // 10


BANDS = (
    Band("b01", 60, 442.3, 20, "coastal", 1874.30, "Coastal aerosol (band 1)", 7200, 8200, 2480),
    Band("b02", 10, 492.3, 65, "blue", 1959.75, "Blue (band 2)", 7400, 8400, 2220),
    Band("b03", 10, 559.0, 35, "green", 1824.93, "Green (band 3)", 7500, 8500, 2010),
    Band("b04", 10, 665.0, 30, "red", 1512.79, "Red (band 4)", 7700, 8500, 1810),
    Band("b05", 20, 703.8, 15, "rededge", 1425.78, "Red edge 1 (band 5)", 7800, 8400, 1960),
    Band("b06", 20, 739.1, 15, "rededge", 1291.13, "Red edge 2 (band 6)", 7900, 8200, 2750),
    Band("b07", 20, 779.7, 20, "rededge", 1175.57, "Red edge 3 (band 7)", 8000, 8000, 3020),
    Band("b08", 10, 833.0, 105, "nir", 1041.28, "NIR 1 (band 8)", 8000, 7900, 3110),
    Band("b8a", 20, 864.0, 20, "nir08", 953.93, "NIR 2 (band 8A)", 8100, 7700, 3240),
    Band("b09", 60, 943.2, 20, "nir09", 817.58, "NIR 3 (band 9)", 4200, 4000, 1650),
    Band("b10", 60, 1376.9, 30, "cirrus", 365.41, "Cirrus (band 10)", 1350, 1030, 1015),
    Band("b11", 20, 1610.4, 90, "swir16", 247.08, "SWIR 1 (band 11)", 5400, 1650, 2530),
    Band("b12", 20, 2185.7, 180, "swir22", 87.75, "SWIR 2 (band 12)", 4600, 1550, 2020),
)
BY_NAME = {band.name: band for band in BANDS}


def native_bands(resolution_m: int) -> tuple[Band, ...]:
    """Bands whose native pixel size is ``resolution_m``."""
    return tuple(b for b in BANDS if b.native_m == resolution_m)


def reflectance_bands(level: str, resolution_m: int) -> tuple[str, ...]:
    """Names of the reflectance arrays of a group, sorted, as CPM 2.x writes them.

    L1C holds native bands only. L2A drops b10, adds b01-b07, b8a, b11, b12 to r20m and r60m (b08 stays at 10 m).
    """
    native = {b.name for b in native_bands(resolution_m)}
    if level == "L1C" or resolution_m == 10:
        return tuple(sorted(native))
    shared = {"b01", "b02", "b03", "b04", "b05", "b06", "b07", "b11", "b12", "b8a"}
    return tuple(sorted((native | shared) - {"b10"}))
