"""What a sealed store says about itself in its consolidated metadata: levels, grids, arrays and their attributes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from zarrmill.errors import ConformanceError
from zarrmill.model import Json

type Transform = tuple[float, float, float, float, float, float]
"""``[a, b, c, d, e, f]`` in rasterio order: pixel edge to CRS."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Place of the pixels of one level."""

    shape: tuple[int, int]
    """Pixels ``(y, x)``."""
    transform: Transform
    """Pixel (edge) to CRS units."""

    @property
    def pixel_m(self) -> float:
        """Pixel width in CRS units."""
        return abs(self.transform[0])

    @property
    def bbox(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top in CRS units; pixels are neither rotated nor sheared."""
        a, _, left, _, e, top = self.transform
        right, bottom = left + a * self.shape[1], top + e * self.shape[0]
        return min(left, right), min(top, bottom), max(left, right), max(top, bottom)


@dataclass(frozen=True, slots=True)
class Array:
    """One array of a group."""

    name: str
    data_type: str
    """Zarr data type, e.g. ``uint16``."""
    fill_value: Json
    attributes: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the multiscales group."""

    name: str
    """Group name, e.g. ``r10m``."""
    grid: Grid
    arrays: Mapping[str, Array]
    """Spatial arrays by name, without coordinates and grid mapping."""

    @property
    def size_m(self) -> float:
        """Pixel size in metres: the one in the group's name, which grids in degrees have too, else the grid's."""
        match = re.fullmatch(r"r(\d+)m", self.name)
        return float(match[1]) if match else self.grid.pixel_m


@dataclass(frozen=True, slots=True)
class Pyramid:
    """The multiscales group."""

    path: str
    """Path in the store, no leading slash."""
    code: str
    """Coordinate reference system, e.g. ``EPSG:32632``."""
    levels: tuple[Level, ...]
    """Fine to coarse."""

    @property
    def polarisations(self) -> tuple[str, ...]:
        """Bands that are polarisations of a radar image, co-polarised first; empty for other products."""
        return tuple(name for name in ("vv", "hh", "vh", "hv") if name in self.levels[0].arrays)


@dataclass(frozen=True, slots=True)
class Nodes:
    """The root ``zarr.json`` of a store with its consolidated metadata."""

    root: Json

    @property
    def attributes(self) -> Mapping[str, Json]:
        """Attributes of the root group."""
        return _mapping(self.root.get("attributes"))

    @property
    def nodes(self) -> Mapping[str, Json]:
        """Every node below the root: path without leading slash to its ``zarr.json``."""
        return _mapping(_mapping(self.root.get("consolidated_metadata")).get("metadata"))

    def attributes_of(self, path: str) -> Mapping[str, Json]:
        """Attributes of one node; empty when there is no such node."""
        return _mapping(_mapping(self.nodes.get(path)).get("attributes"))

    @property
    def pyramids(self) -> tuple[str, ...]:
        """Paths of the groups that hold levels, sorted."""
        return tuple(sorted(path for path in self.nodes if "multiscales" in self.attributes_of(path)))

    def groups_under(self, path: str) -> tuple[str, ...]:
        """Names of the groups directly below ``path``, sorted."""
        return tuple(name for name, node in self._children(path) if _mapping(node).get("node_type") == "group")

    def arrays_of(self, path: str) -> dict[str, Array]:
        """Two-dimensional arrays directly below ``path`` by name."""
        found = {}
        for name, child in self._children(path):
            node = _mapping(child)
            if node.get("node_type") == "array" and len(node.get("shape", ())) == 2:
                attributes = _mapping(node.get("attributes"))
                found[name] = Array(name, str(node["data_type"]), node.get("fill_value"), attributes)
        return found

    def _children(self, path: str) -> list[tuple[str, Json]]:
        prefix = f"{path}/"
        return sorted(
            (key.removeprefix(prefix), node)
            for key, node in self.nodes.items()
            if key.startswith(prefix) and "/" not in key.removeprefix(prefix)
        )


def read_pyramid(nodes: Nodes, store: str) -> Pyramid:
    """Return the multiscales group under ``measurements``.

    Raises: ConformanceError: there is none, or it lacks its layout or coordinate reference system.
    """
    path = next((path for path in nodes.pyramids if path.startswith("measurements/")), None)
    if path is None:
        raise ConformanceError(f"{store}: no multiscales group under measurements; validate the store", kind="item")
    attributes = nodes.attributes_of(path)
    code = attributes.get("proj:code")
    layout = _mapping(attributes["multiscales"]).get("layout")
    if not isinstance(code, str) or not isinstance(layout, list) or not layout:
        raise ConformanceError(f"{store}/{path}: expected proj:code and a layout, found {code!r}, {layout!r}", kind="item")
    levels = tuple(_level(nodes, f"{path}/{_mapping(entry).get('asset')}", _mapping(entry), store) for entry in layout)
    return Pyramid(path, code, tuple(sorted(levels, key=lambda level: level.grid.pixel_m)))


def read_grid(attributes: Mapping[str, Json]) -> Grid | None:
    """Return the grid that ``spatial:shape`` and ``spatial:transform`` tell, or None when either is missing."""
    shape, transform = attributes.get("spatial:shape"), attributes.get("spatial:transform")
    if not isinstance(shape, list) or not isinstance(transform, list) or len(shape) != 2 or len(transform) != 6:
        return None
    a, b, c, d, e, f = (float(number) for number in transform)
    return Grid((int(shape[0]), int(shape[1])), (a, b, c, d, e, f))


def _level(nodes: Nodes, path: str, entry: Mapping[str, Json], store: str) -> Level:
    grid = read_grid(entry) or read_grid(nodes.attributes_of(path))
    if grid is None or path not in nodes.nodes:
        raise ConformanceError(f"{store}/{path}: the layout names a level without group or grid; validate the store", kind="item")
    return Level(path.rsplit("/", 1)[1], grid, nodes.arrays_of(path))


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, Mapping) else {}
