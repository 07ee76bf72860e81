"""Checks of multiscales layouts: assets, order, scales, shapes, transforms, extents, and every band on every coarser level."""

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from zarrmill.config import Pixels
from zarrmill.core.checks import Checks
from zarrmill.core.checks_arrays import GivenTree, level_m
from zarrmill.core.checks_georef import Transform, as_shape, as_transform, same_bbox, same_transform, span
from zarrmill.core.checks_tree import Node, StoreTree
from zarrmill.core.rules import level_rule
from zarrmill.model import Json

COARSEST_PX = 1024


@dataclass(frozen=True, slots=True)
class Level:
    """One entry of a layout, with the node that it names."""

    asset: str
    path: str
    entry: Mapping[str, Json]
    node: Node | None
    shape: tuple[int, int] | None
    """``(y, x)`` of the entry, else of the node, else of its first raster."""
    transform: Transform | None
    """Of the entry, else of the node."""


def check_layouts(tree: StoreTree, checks: Checks, pixels: Pixels | None, source: GivenTree | None = None) -> None:
    """Check every multiscales group; ``pixels`` says which levels a recipe asks for, ``source`` where a band is finest."""
    found = [node for node in tree.multiscales if not tree.ours or node.path.startswith("measurements/")]
    where = "below measurements " if tree.ours else ""
    checks.expect(bool(found), "layout.missing", "", f"no group {where}holds a multiscales layout")
    for node in tree.multiscales:
        levels = levels_of(tree, node)
        if not checks.expect(
            bool(levels), "layout.malformed", node.path, "multiscales.layout is no list of entries that name an asset"
        ):
            continue
        _check_entries(tree, node, levels, checks, source)
        _check_order(node, levels, checks)
        for level in levels:
            _check_parent(level, levels, checks)
            _check_level(tree, level, checks)
        _check_bands(tree, levels, checks, source)
        if tree.ours:
            _check_methods(node, levels, checks)
        if pixels is not None and tree.ours:
            _check_recipe(node, levels, checks, pixels)
    if pixels is not None and tree.ours:
        _check_overviews(tree, checks, pixels)


def levels_of(tree: StoreTree, node: Node) -> list[Level]:
    """Return the entries of a multiscales group in order; empty when the layout is malformed."""
    layout = node.attributes["multiscales"].get("layout")
    if not isinstance(layout, list):
        return []
    levels = []
    for entry in layout:
        asset = entry.get("asset") if isinstance(entry, dict) else None
        if not isinstance(asset, str) or not asset:
            return []
        path = node.path if asset == "." else f"{node.path}/{asset.strip('/')}".lstrip("/")
        found = tree.nodes.get(path)
        levels.append(Level(asset, path, entry, found, _shape(tree, entry, found), _transform(entry, found)))
    return levels


def _shape(tree: StoreTree, entry: Mapping[str, Any], node: Node | None) -> tuple[int, int] | None:
    shape = as_shape(entry.get("spatial:shape")) or (as_shape(node.attributes.get("spatial:shape")) if node else None)
    if shape or node is None:
        return shape
    rasters = [node] if node.array else list(tree.rasters_of(node.path).values())
    shapes = [n.array.shape for n in rasters if n.array and len(n.array.shape) >= 2]
    return (shapes[0][-2], shapes[0][-1]) if shapes else None


def _transform(entry: Mapping[str, Any], node: Node | None) -> Transform | None:
    own = as_transform(node.attributes.get("spatial:transform")) if node else None
    return as_transform(entry.get("spatial:transform")) or own


def _check_entries(tree: StoreTree, node: Node, levels: list[Level], checks: Checks, source: GivenTree | None) -> None:
    for level in levels:
        checks.expect(level.node is not None, "layout.asset", level.path, f"asset {level.asset!r} of /{node.path} is not there")
        wanted = ["spatial:shape", "spatial:transform", "transform"] + (["derived_from"] if level is not levels[0] else [])
        lacking = [key for key in wanted if key not in level.entry]
        checks.expect(not lacking, "layout.incomplete", level.path, f"layout entry lacks {lacking}")
    assets = {level.asset for level in levels}
    rasters = {name: raster for name, raster in tree.rasters_of(node.path).items() if name not in assets and "." not in assets}
    given = source.arrays if source else {}
    sizes = {level.shape for level in levels}  # an array of another size is a table
    extra = sorted(
        n for n, raster in rasters.items() if raster.path not in given and raster.array and raster.array.shape[-2:] in sizes
    )
    checks.expect(not extra, "layout.arrays_in_group", node.path, f"arrays {extra} lie beside the levels")
    coarsest = levels[-1].shape
    if coarsest:
        text = f"the coarsest level {levels[-1].asset} has {coarsest} px, expected at most {COARSEST_PX}"
        checks.expect(max(coarsest) <= COARSEST_PX, "layout.coarsest", node.path, text)


def _check_order(node: Node, levels: list[Level], checks: Checks) -> None:
    for finer, coarser in pairwise(levels):
        if finer.transform and coarser.transform:
            a, b = abs(finer.transform[0]), abs(coarser.transform[0])
        elif finer.shape and coarser.shape:
            a, b = -float(finer.shape[1]), -float(coarser.shape[1])
        else:
            continue
        text = f"{coarser.asset} follows {finer.asset} but is not coarser"
        checks.expect(a < b, "layout.order", node.path, text)


def _check_parent(level: Level, levels: list[Level], checks: Checks) -> None:
    """Check ``derived_from``, ``scale`` and ``translation`` of one entry."""
    change = level.entry.get("transform")
    change = change if isinstance(change, dict) else {}
    parent = None
    if "derived_from" in level.entry:
        name = level.entry["derived_from"]
        earlier = {other.asset: other for other in levels[: levels.index(level)]}
        parent = earlier.get(name) if isinstance(name, str) else None
        text = f"{level.asset} derives from {name!r}, expected one of {sorted(earlier)}"
        checks.expect(parent is not None, "layout.derived_from", level.path, text)
    if "scale" in change:
        wanted = None
        if parent and parent.transform and level.transform:
            wanted = [level.transform[4] / parent.transform[4], level.transform[0] / parent.transform[0]]
        elif level is levels[0] and parent is None:
            wanted = [1.0, 1.0]
        if wanted:
            text = f"scale {change['scale']}, the transforms give {wanted}"
            checks.expect(_near(change["scale"], wanted), "layout.scale", level.path, text)
    registration = level.node.attributes.get("spatial:registration", "pixel") if level.node else "pixel"
    if "translation" in change and registration == "pixel":
        text = f"translation {change['translation']}, expected [0.0, 0.0]"
        checks.expect(_near(change["translation"], [0.0, 0.0]), "layout.translation", level.path, text)
    _check_extent(level, levels[0], checks)


def _near(found: Json, wanted: list[float]) -> bool:
    if not isinstance(found, list) or len(found) != len(wanted) or any(not isinstance(v, int | float) for v in found):
        return False
    return all(abs(f - w) <= 1e-9 * max(1.0, abs(w)) for f, w in zip(found, wanted, strict=True))


def _check_extent(level: Level, finest: Level, checks: Checks) -> None:
    if level.transform and level.shape and finest.transform and finest.shape:
        found, wanted = span(level.transform, level.shape), span(finest.transform, finest.shape)
        text = f"{level.asset} covers {found}, {finest.asset} covers {wanted}"
        checks.expect(same_bbox(found, wanted, finest.transform), "layout.extent", level.path, text)


def _check_level(tree: StoreTree, level: Level, checks: Checks) -> None:
    """Compare an entry's shape and transform with the level's node and arrays."""
    if level.node is None:
        return
    shape, transform = as_shape(level.entry.get("spatial:shape")), as_transform(level.entry.get("spatial:transform"))
    own_shape = as_shape(level.node.attributes.get("spatial:shape"))
    own_transform = as_transform(level.node.attributes.get("spatial:transform"))
    if transform and own_transform:
        text = f"layout says {transform}, the level {own_transform}"
        checks.expect(same_transform(transform, own_transform), "layout.transform", level.path, text)
    if not shape:
        return
    if own_shape:
        checks.expect(shape == own_shape, "layout.shape", level.path, f"layout says {shape}, the level {own_shape}")
    rasters = {level.node.name: level.node} if level.node.array else tree.rasters_of(level.path)
    for node in rasters.values():
        found = node.array.shape[-2:] if node.array else ()
        checks.expect(found == shape, "layout.shape", node.path, f"layout says {shape}, the array has {found}")


def _check_bands(tree: StoreTree, levels: list[Level], checks: Checks, source: GivenTree | None) -> None:
    """Check that a band is on every level that can be made of its finest one. Ours are planes: a cube stays as it is."""
    seen: dict[str, Level] = {}
    for level in levels:
        if level.node is None or level.node.array is not None:
            continue
        rasters = tree.rasters_of(level.path).items()
        here = {name for name, node in rasters if not tree.ours or (node.array and len(node.array.shape) == 2)}
        for band, finer in sorted(seen.items()):
            if band in here or _is_made(level, finer, band, source):
                text = f"band {band} is on {finer.asset} but not on the coarser {level.asset}"
                checks.expect(band in here, "layout.band_missing", f"{level.path}/{band}", text)
        seen |= {band: level for band in here if band not in seen}


def _is_made(level: Level, finer: Level, band: str, source: GivenTree | None) -> bool:
    """Whether pixels of a level are whole numbers of those of a band's finest one, in the source where it has the band."""
    origin = source.finest(finer.path.rpartition("/")[0], band) if source else None
    size_m, finest_m = level_m(level.asset), level_m(origin.rpartition("/")[0]) if origin else level_m(finer.asset)
    if size_m is None or finest_m is None:
        return True
    shape = source.arrays[origin].shape if source and origin else finer.shape or ()
    return size_m % finest_m == 0 and not any(edge % (size_m // finest_m) for edge in shape)


def _check_methods(node: Node, levels: list[Level], checks: Checks) -> None:
    """Check that a stated method is the one by which the levels of this group are made."""
    wanted = level_rule(f"{node.path}/")
    stated = {node.path: node.attributes["multiscales"]} | {level.path: level.entry for level in levels}
    for path, where in stated.items():
        if "resampling_method" in where:
            text = f"resampling_method {where['resampling_method']!r}, levels of /{node.path} are made by {wanted!r}"
            checks.expect(where["resampling_method"] == wanted, "layout.resampling", path, text)


def _check_overviews(tree: StoreTree, checks: Checks, pixels: Pixels) -> None:
    """Check that the groups of maps that the recipe gives overviews have a layout."""
    levels = [path for path in tree.nodes if level_m(path) is not None and any(len(s) == 2 for s in _shapes(tree, path))]
    groups = {path.rpartition("/")[0] for path in levels if not re.search(r"_quicklook(/|$)", path)}
    have = {node.path for node in tree.multiscales}
    for group in sorted(groups):
        if any(fnmatch.fnmatchcase(group, pattern) for pattern in pixels.overviews):
            text = f"the recipe gives /{group} overviews, it has no layout"
            checks.expect(group in have, "layout.levels", group, text)


def _shapes(tree: StoreTree, group: str) -> list[tuple[int, ...]]:
    return [node.array.shape for node in tree.rasters_of(group).values() if node.array]


def _check_recipe(node: Node, levels: list[Level], checks: Checks, pixels: Pixels) -> None:
    finest, size_m = levels[0].shape, level_m(levels[0].asset)
    if finest is None or size_m is None:
        return
    names = {level.asset for level in levels}
    for wanted in pixels.levels_m:
        exact = wanted >= size_m and wanted % size_m == 0 and not any(edge % (wanted // size_m) for edge in finest)
        if exact:
            checks.expect(f"r{wanted}m" in names, "layout.levels", node.path, f"level r{wanted}m of the recipe is absent")
