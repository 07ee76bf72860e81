"""Where a store says that ground lies: control points of scenes all over the world, through the output geotransform."""

import math
from itertools import product

import numpy as np
import pytest
import zarr
from pyproj import Transformer
from test_convert_s1 import GRD, run

from zarrmill.config import Grd
from zarrmill.core.geolocation import Geolocation, map_grid, utm_code
from zarrmill.core.layout_s1 import METRES_PER_DEGREE
from zarrmill.core.warp import _Map
from zarrmill.errors import SourceError
from zarrmill.model import Gcps, Warp
from zarrmill.sample.s1 import GrdScene, GrdSpec, build_grd, control_points

CENTRES = {
    "mid": (12.0, 45.0),
    "antimeridian": (179.9, 65.0),
    "north": (25.0, 81.0),
    "south": (-62.0, -74.0),
    "equator": (33.1, 0.2),
}
SHAPE = (16677, 26064)


def gcps_of(spec: GrdSpec) -> Gcps:
    lines, pixels, longitude, latitude, _ = control_points(spec)
    longitude = (longitude - longitude[0, 0] + 180) % 360 - 180 + longitude[0, 0]
    return Gcps(lines, pixels, longitude, latitude)


@pytest.mark.parametrize("heading", [-12.0, -168.0])
@pytest.mark.parametrize(
    ("place", "crs"), [p for p in product(CENTRES, ("utm", "EPSG:4326")) if p != ("antimeridian", "EPSG:4326")]
)
def test_control_points_of_a_full_scene_land_within_a_pixel_of_their_line_and_sample(place, heading, crs):
    heading = {"north": heading - 40}.get(place, heading)
    gcps = gcps_of(GrdSpec(shape=SHAPE, centre=CENTRES[place], heading_deg=heading, relief_m=1500.0))
    utm = utm_code(gcps)
    code, size = (utm, 10.0) if crs == "utm" else (crs, 10 / METRES_PER_DEGREE)
    geolocation = Geolocation(gcps, code, utm)
    grid = map_grid([(geolocation, SHAPE)], code, size, 32, 1024)
    image = _Map(Warp(grid, gcps, utm, "bilinear", None), SHAPE)
    x, y = Transformer.from_crs("EPSG:4326", code, always_xy=True).transform(gcps.longitude, gcps.latitude)
    worst = 0.0
    for (i, j), east in np.ndenumerate(x):
        row, column = int((y[i, j] - grid.transform[5]) / grid.transform[4]), int((east - grid.transform[2]) / grid.transform[0])
        assert 0 <= row < grid.shape[0]
        assert 0 <= column < grid.shape[1]
        (tile,) = image.tiles(slice(row, row + 1), slice(column, column + 1))
        line, pixel = (float(part[0, 0]) / 65536 for part in image.positions(tile))
        off = (line + tile.window.top - gcps.lines[i], pixel + tile.window.left - gcps.pixels[j])
        worst = max(worst, *(abs(part) for part in off))
    assert worst < 1
    assert x.size == 210


def ramps(spec: GrdSpec) -> GrdScene:
    """Return a scene whose VV counts lines and whose VH counts samples, from 1000 on."""
    line, sample = np.indices(spec.shape)
    dn = {"VV": (line + 1000).astype(np.uint16), "VH": (sample + 1000).astype(np.uint16)}
    return GrdScene(dn, *control_points(spec))


@pytest.mark.parametrize("crs", ["utm", "EPSG:4326"])
@pytest.mark.parametrize(("centre", "heading"), [((12.0, 45.0), -12.0), ((12.0, 45.0), -168.0), ((25.0, 79.0), -60.0)])
def test_a_store_has_each_control_point_where_its_own_coordinates_say(tmp_path, centre, heading, crs):
    spec = GrdSpec(shape=(230, 340), centre=centre, heading_deg=heading)
    scene = ramps(spec)
    store = zarr.open_group(run(build_grd(spec, tmp_path, scene), tmp_path / "out", grd={"crs": crs}).store, mode="r")[GRD]
    x, y = (store[f"r10m/{axis}"][:] for axis in "xy")
    east, north = Transformer.from_crs("EPSG:4326", store.attrs["proj:code"], always_xy=True).transform(
        scene.longitude, scene.latitude
    )
    for (i, j), at in np.ndenumerate(east):
        if 0 < i < len(scene.lines) - 1 and 0 < j < len(scene.pixels) - 1:
            place = (int(np.abs(y - north[i, j]).argmin()), int(np.abs(x - at).argmin()))
            found = [int(store[f"r10m/{name}"][place]) - 1000 for name in ("vv", "vh")]
            assert math.dist(found, (scene.lines[i], scene.pixels[j])) < 1 + math.sqrt(0.5)  # and rounded to whole DN
            assert max(abs(found[0] - scene.lines[i]), abs(found[1] - scene.pixels[j])) <= 1


def test_a_scene_over_the_antimeridian_has_a_grid_in_its_zone_and_none_in_degrees(tmp_path):
    spec = GrdSpec(shape=(120, 140), centre=(179.9999, 65.0))
    scene = ramps(spec)
    source = build_grd(spec, tmp_path, scene)
    assert scene.longitude.min() < -179 < 179 < scene.longitude.max()
    store = zarr.open_group(run(source, tmp_path / "utm").store, mode="r")[GRD]
    assert store.attrs["proj:code"] == "EPSG:32660"
    assert (store["r10m/vv"][:] > 0).sum() == pytest.approx(120 * 140, rel=0.05)
    with pytest.raises(SourceError, match=r"antimeridian.*set pixels.grd.crs: utm"):
        run(source, tmp_path / "degrees", grd=Grd(crs="EPSG:4326").model_dump())
