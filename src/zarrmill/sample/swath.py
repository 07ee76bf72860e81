"""Where a sample product has data: the slanted end of the swath, the hole, and the footprint polygon."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zarrmill.sample.spec import EPSG, SampleSpec, SwathEdge

EDGE_SHARES: dict[SwathEdge, tuple[float, float]] = {
    "none": (0.0, 0.0),
    "west": (0.04, 0.16),
    "east": (0.16, 0.04),
    "northwest": (0.28, -0.12),
    "southeast": (-0.12, 0.28),
}
"""Share of the width without data at the top and at the bottom; negative: the edge leaves the product before."""
WEST_SIDES = ("west", "northwest")
HOLE_PX = (slice(4, 7), slice(5, 10))
"""The hole of DN 0, 3 rows x 5 columns at 10 m, relative to ``Swath.anchor_px``."""
_HOLE_CELLS = {1: HOLE_PX, 2: (slice(2, 3), slice(3, 5)), 6: (slice(0, 0), slice(0, 0))}
"""By factor: coarse pixels that lie in the hole completely."""


@dataclass(frozen=True, slots=True)
class Swath:
    """Nodata geometry of one product; nested: a coarse pixel is nodata when all its 10 m pixels are."""

    spec: SampleSpec
    """The product."""

    @property
    def anchor_px(self) -> tuple[int, int]:
        """Corner ``(y, x)`` at 10 m of the 36 x 36 pixels, near the centre, that hold hole and special pixels."""
        corner = (self.spec.size_px // 2 - 18) // 6 * 6
        return corner, corner

    def interval(self, factor: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First valid and first invalid column of each row of the ``factor`` (1, 2, 6) coarser grid."""
        n = self.spec.size_px
        top, bottom = EDGE_SHARES[self.spec.swath_edge]
        share = top + (bottom - top) * (np.arange(n) + 0.5) / n
        width = np.clip(np.rint(share * n), 0, n).astype(np.int64)
        west = self.spec.swath_edge in WEST_SIDES
        low, high = (width, np.full(n, n)) if west else (np.zeros(n, np.int64), n - width)
        low = low.reshape(-1, factor).min(axis=1) // factor
        high = -(-high.reshape(-1, factor).max(axis=1) // factor)
        return low, high

    def blank(self, rows: NDArray[Any], start: int, factor: int, value: int = 0) -> None:  # Any: uint8 or uint16
        """Write ``value`` where there is no data into ``rows``, which begin at row ``start`` of the coarser grid."""
        low, high = self.interval(factor)
        width = rows.shape[-1]
        for i in range(rows.shape[0]):
            if low[start + i]:
                rows[i, : low[start + i]] = value
            if high[start + i] < width:
                rows[i, high[start + i] :] = value
        hole_y, hole_x = _HOLE_CELLS[factor]
        top, left = (a // factor for a in self.anchor_px)
        first, last = top + hole_y.start - start, top + hole_y.stop - start
        if last > 0 and first < last:
            rows[max(first, 0) : last, left + hole_x.start : left + hole_x.stop] = value

    def nodata(self, factor: int) -> NDArray[np.bool_]:
        """True where the ``factor`` coarser grid has no data, whole product."""
        n = self.spec.size_px // factor
        mask = np.zeros((n, n), np.bool_)
        self.blank(mask, 0, factor, value=1)
        return mask

    def footprint_lonlat(self) -> list[list[float]]:
        """Closed ring ``[lon, lat]`` in degrees (WGS84) of the area with data, counter-clockwise."""
        from pyproj import Transformer
        from shapely import Polygon, box
        from shapely.geometry.polygon import orient

        west, south, east, north = self.spec.bbox_m()
        edge = east - west
        top, bottom = (s * edge for s in EDGE_SHARES[self.spec.swath_edge])
        if self.spec.swath_edge in WEST_SIDES:
            cut = Polygon([(west + top, north), (east + edge, north), (east + edge, south), (west + bottom, south)])
        else:
            cut = Polygon([(west - edge, north), (east - top, north), (east - bottom, south), (west - edge, south)])
        whole = box(west, south, east, north).intersection(cut)
        assert isinstance(whole, Polygon)  # two convex shapes that overlap
        ring = orient(whole).exterior.coords
        to_degrees = Transformer.from_crs(EPSG, 4326, always_xy=True)
        return [[round(float(v), 7) for v in to_degrees.transform(x, y)] for x, y in ring]


def bbox_of(ring: list[list[float]]) -> list[float]:
    """``[west, south, east, north]`` of a ring."""
    lons, lats = zip(*ring, strict=True)
    return [min(lons), min(lats), max(lons), max(lats)]
