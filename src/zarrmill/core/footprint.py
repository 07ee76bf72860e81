"""Footprints in degrees: repair what catalogues and products get wrong, and tell their bounding box.

Defects that are repaired: rings that are not closed, repeated positions, heights, rings wound the wrong way, rings that cross
themselves, bounding boxes with east before west, and rings across the antimeridian. The rules are those of RFC 7946: exterior
rings run counter-clockwise (3.1.6), a geometry across the antimeridian is cut in two there (3.1.9), and its bounding box has a
west edge greater than its east edge (5.2).
"""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from zarrmill.model import Json

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

type Box = tuple[float, float, float, float]
"""West, south, east, north in degrees; west is greater than east across the antimeridian."""


def repair_geometry(geometry: Json) -> Json | None:
    """Return ``geometry`` as a valid GeoJSON Polygon or MultiPolygon, or None when no area can be read from it."""
    from shapely import force_2d, make_valid, unary_union
    from shapely.geometry import MultiPolygon, Polygon, mapping
    from shapely.geometry.polygon import orient

    parts: list[BaseGeometry] = []
    for rings in _polygons(geometry):
        fixed = [_ring(ring) for ring in rings]
        if not fixed or any(ring is None for ring in fixed):
            return None
        shell, *holes = (ring for ring in fixed if ring is not None)
        if max(lon for lon, _ in shell) > 180:
            holes = [[(lon % 360, lat) for lon, lat in hole] for hole in holes]
        parts.extend(_cut(make_valid(force_2d(Polygon(shell, holes)))))
    areas = [area for part in parts for area in _areas(part) if area.area > 0]
    if not areas:
        return None
    merged = areas if MultiPolygon(areas).is_valid else _areas(unary_union(areas))
    polygons = sorted((orient(polygon) for polygon in merged), key=lambda polygon: polygon.bounds)
    shape: Any = polygons[0] if len(polygons) == 1 else MultiPolygon(polygons)
    return _lists(mapping(shape))


def repair_bbox(bbox: Json) -> Box | None:
    """Return west, south, east, north of a bounding box whose edges may be swapped, or None when it is not one.

    Of the two readings of the longitudes the one that spans fewer degrees is taken: products span a few, and EOPF products
    state ``[east, south, west, north]``.
    """
    if not isinstance(bbox, Sequence) or isinstance(bbox, str) or len(bbox) not in (4, 6) or not all(map(_finite, bbox)):
        return None
    half = len(bbox) // 2
    first, second = float(bbox[0]), float(bbox[half])
    south, north = sorted((float(bbox[1]), float(bbox[half + 1])))
    if max(abs(first), abs(second)) > 180 or max(abs(south), abs(north)) > 90 or south == north or first == second:
        return None
    west, east = (first, second) if (second - first) % 360 <= (first - second) % 360 else (second, first)
    return west, south, east, north


def box_geometry(box: Box) -> Json | None:
    """Return the polygon of a bounding box, cut in two when it crosses the antimeridian."""
    west, south, east, north = box
    if west > east:
        east += 360
    return repair_geometry(
        {"type": "Polygon", "coordinates": [[[west, south], [east, south], [east, north], [west, north], [west, south]]]}
    )


def bounds(geometry: Json) -> Box:
    """Return the bounding box of a geometry that ``repair_geometry`` made."""
    boxes = []
    for rings in _polygons(geometry):
        lons, lats = [point[0] for point in rings[0]], [point[1] for point in rings[0]]
        boxes.append((min(lons), min(lats), max(lons), max(lats)))
    crosses = any(box[2] == 180 for box in boxes) and any(box[0] == -180 for box in boxes)
    return join_boxes(boxes) if crosses else _plain_union(boxes)


def join_boxes(boxes: Iterable[Box]) -> Box:
    """Return the smallest bounding box around ``boxes``; it may cross the antimeridian.

    Raises: ValueError: there are no boxes.
    """
    known = sorted(boxes)
    if not known:
        raise ValueError("no bounding boxes to join")
    south, north = min(box[1] for box in known), max(box[3] for box in known)
    spans = sorted((box[0] % 360, (box[2] - box[0]) % 360 or (360.0 if box[2] != box[0] else 0.0)) for box in known)
    best_gap, start, reach = -1.0, spans[0][0], 0.0
    end = max(west + width for west, width in spans) - 360
    for west, width in spans:
        if west - end > best_gap:
            best_gap, start = west - end, west
        end = max(end, west + width)
    if best_gap <= 0:
        return -180.0, south, 180.0, north
    reach = 360 - best_gap
    originals = [(box[0], box[2]) for box in known]
    west = min((lon for lon, _ in originals), key=lambda lon: _circular(lon, start))
    east = min((lon for _, lon in originals), key=lambda lon: _circular(lon, start + reach))
    return west, south, east, north


def _plain_union(boxes: Sequence[Box]) -> Box:
    return min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes)


def _circular(one: float, other: float) -> float:
    return abs((one - other + 180) % 360 - 180)


def _polygons(geometry: Json) -> list[Json]:
    if not isinstance(geometry, dict) or not isinstance(geometry.get("coordinates"), (list, tuple)):
        return []
    coordinates = geometry["coordinates"]
    found = {"Polygon": [coordinates], "MultiPolygon": list(coordinates)}.get(str(geometry.get("type")), [])
    return [rings for rings in found if isinstance(rings, (list, tuple))]


def _ring(ring: Json) -> list[tuple[float, float]] | None:
    if not isinstance(ring, (list, tuple)):
        return None
    points: list[tuple[float, float]] = []
    for position in ring:
        if not isinstance(position, (list, tuple)) or len(position) < 2 or not all(map(_finite, position[:2])):
            return None
        point = (float(position[0]), float(position[1]))
        if abs(point[1]) > 90 or abs(point[0]) > 540:
            return None
        if not points or points[-1] != point:
            points.append(point)
    if len(points) > 1 and points[0] == points[-1]:
        points.pop()
    if len(set(points)) < 3:
        return None
    lons = [lon for lon, _ in points]
    if max(lons) - min(lons) > 180:
        # No product is half a globe wide: such a ring jumps from 180 to -180, so count eastwards from 0.
        points = [(lon % 360, lat) for lon, lat in points]
    return [*points, points[0]]


def _cut(shape: "BaseGeometry") -> list["BaseGeometry"]:
    """Cut at every multiple of the antimeridian and bring the pieces into -180 ... 180."""
    from shapely.affinity import translate
    from shapely.geometry import box

    west, _, east, _ = shape.bounds
    if west >= -180 and east <= 180:
        return [shape]
    pieces = [(shape.intersection(box(-180 + shift, -90, 180 + shift, 90)), shift) for shift in (-360, 0, 360)]
    return [translate(piece, xoff=-shift) for piece, shift in pieces if piece.area > 0]


def _areas(shape: "BaseGeometry") -> list[Any]:
    from shapely.geometry import Polygon

    if isinstance(shape, Polygon):
        return [shape]
    return [polygon for part in getattr(shape, "geoms", ()) for polygon in _areas(part)]


def _lists(geometry: Any) -> Json:
    def convert(value: Any) -> Any:
        return [convert(v) for v in value] if isinstance(value, (list, tuple)) else value

    return {"type": geometry["type"], "coordinates": convert(geometry["coordinates"])}


def _finite(value: Json) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
