"""Items as pure projections: footprints, facts and their precedence, bands, assets, and our own rules."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stac_stores import DATA, DISCOVERY, L1C_ID, L2A_ID, OTHER, receipt_of, transform

from zarrmill.config import Item
from zarrmill.core.bands import S2_BANDS, band_order
from zarrmill.core.collection import build_collection
from zarrmill.core.footprint import bounds, box_geometry, join_boxes, repair_bbox, repair_geometry
from zarrmill.core.item import File, Hrefs, ItemInputs, build_item
from zarrmill.core.item_assets import StoreHref
from zarrmill.core.item_check import broken_rules
from zarrmill.core.item_facts import Facts, acquisition, geometry, processing, source_software, times
from zarrmill.core.store_facts import Grid, Nodes, read_pyramid
from zarrmill.errors import ConformanceError
from zarrmill.model import Product

SQUARE = [[10.0, 40.0], [11.0, 40.0], [11.0, 41.0], [10.0, 41.0], [10.0, 40.0]]


def product(**changes: Any) -> Product:
    values = {
        "collection": "sentinel-2-l2a",
        "product_id": L2A_ID,
        "datetime": "2025-10-08T10:00:41Z",
        "product_type": "S02MSIL2A",
        "href": "https://data.example.org/a.zarr",
        "item_href": "https://catalogue.example.org/items/a",
        "recipe": "s2-l2a",
        "digest": "0a1b2c3d",
        "source_fingerprint": "f",
        "n_bytes": 1,
        "n_objects": 1,
        "mem_mb": 1,
    }
    return Product(**{**values, **changes})


def polygon(*rings: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


# Footprints


def test_open_ring_is_closed() -> None:
    assert repair_geometry(polygon(SQUARE[:-1])) == polygon(SQUARE)


def test_clockwise_ring_is_turned_and_heights_are_dropped() -> None:
    clockwise = [[*point, 7.0] for point in reversed(SQUARE)]
    assert repair_geometry(polygon(clockwise)) == polygon(SQUARE)


def test_ring_that_crosses_itself_keeps_its_area() -> None:
    bow_tie = [[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    fixed = repair_geometry(polygon(bow_tie))
    assert fixed is not None
    assert fixed["type"] == "MultiPolygon"
    assert bounds(fixed) == (0, 0, 1, 1)


def test_ring_over_the_antimeridian_is_cut_and_its_box_has_west_above_east() -> None:
    ring = [[179.5, -17.0], [-179.5, -17.0], [-179.5, -16.0], [179.5, -16.0], [179.5, -17.0]]
    fixed = repair_geometry(polygon(ring))
    assert fixed is not None
    assert fixed["type"] == "MultiPolygon"
    assert sorted(bounds(polygon(*part)) for part in fixed["coordinates"]) == [
        (-180, -17, -179.5, -16),
        (179.5, -17, 180, -16),
    ]
    assert bounds(fixed) == (179.5, -17, -179.5, -16)
    assert repair_geometry(fixed) == fixed


def test_hole_in_a_ring_over_the_antimeridian_stays_a_hole() -> None:
    ring = [[179.0, 0.0], [-179.0, 0.0], [-179.0, 2.0], [179.0, 2.0], [179.0, 0.0]]
    hole = [[-179.8, 0.5], [-179.2, 0.5], [-179.2, 1.5], [-179.8, 1.5], [-179.8, 0.5]]
    fixed = repair_geometry(polygon(ring, hole))
    assert fixed is not None
    assert sorted(len(part) for part in fixed["coordinates"]) == [1, 2]


def test_longitudes_above_180_are_brought_back() -> None:
    ring = [[181.0, 0.0], [182.0, 0.0], [182.0, 1.0], [181.0, 1.0]]
    fixed = repair_geometry(polygon(ring))
    assert fixed is not None
    assert bounds(fixed) == (-179, 0, -178, 1)


@pytest.mark.parametrize(
    "broken",
    [
        None,
        {},
        {"type": "Point", "coordinates": [1, 2]},
        polygon(),
        polygon([[0, 0], [1, 1]]),
        polygon([[0, 0], [1, 1], [2, 2], [0, 0]]),
        polygon([[0, 0], [1, float("nan")], [2, 0]]),
        polygon([[0, 0], [1, 91], [2, 0]]),
        polygon("null"),
        polygon([["a", 0], [1, 1], [2, 0]]),
    ],
)
def test_geometry_without_area_is_none(broken: Any) -> None:
    assert repair_geometry(broken) is None


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([12.76, 41.4, 11.39, 42.43], (11.39, 41.4, 12.76, 42.43)),
        ([11.39, 41.4, 12.76, 42.43], (11.39, 41.4, 12.76, 42.43)),
        ([12.76, 42.43, 11.39, 41.4], (11.39, 41.4, 12.76, 42.43)),
        ([-179.5, -17, 179.5, -16], (179.5, -17, -179.5, -16)),
        ([179.5, -17, -179.5, -16], (179.5, -17, -179.5, -16)),
        ([12.76, 41.4, 0, 11.39, 42.43, 9], (11.39, 41.4, 12.76, 42.43)),
        ([699960, 4590240, 809760, 4700040], None),
        ([1, 2, 1, 3], None),
        ([1, 2, 3], None),
        ("null", None),
        (None, None),
    ],
)
def test_bbox_edges_are_put_in_order(found: Any, expected: Any) -> None:
    assert repair_bbox(found) == expected


def test_box_over_the_antimeridian_makes_two_polygons() -> None:
    shape = box_geometry((179.0, 0.0, -178.0, 1.0))
    assert shape is not None
    assert len(shape["coordinates"]) == 2
    assert bounds(shape) == (179, 0, -178, 1)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([(10, 0, 11, 1), (12, 2, 13, 3)], (10, 0, 13, 3)),
        ([(179, 0, -179, 1), (170, 0, 171, 1)], (170, 0, -179, 1)),
        ([(-10, 0, 10, 1), (175, 0, 179, 1)], (-10, 0, 179, 1)),
        ([(-179, 0, -178, 1), (178, 0, 179, 1)], (178, 0, -178, 1)),
        ([(-180, -90, 180, 90)], (-180, -90, 180, 90)),
        ([(-180, 0, 0, 1), (0, 0, 180, 1)], (-180, 0, 180, 1)),
    ],
)
def test_joined_box_takes_the_short_way_round(boxes: Any, expected: Any) -> None:
    assert join_boxes(boxes) == expected


def test_joining_no_boxes_is_refused() -> None:
    with pytest.raises(ValueError, match="no bounding boxes"):
        join_boxes([])


@settings(max_examples=60, deadline=None)
@given(
    west=st.floats(-400, 400).map(lambda value: round(value, 3)),
    width=st.floats(0.01, 20).map(lambda value: round(value, 3)),
    start=st.integers(0, 3),
    clockwise=st.booleans(),
    closed=st.booleans(),
)
def test_repaired_footprint_does_not_depend_on_how_the_ring_was_written(
    west: float, width: float, start: int, clockwise: bool, closed: bool
) -> None:
    corners = [(west, 1.0), (west + width, 1.0), (west + width, 2.0), (west, 2.0)]
    ring = [list(corners[(start + step) % 4]) for step in range(4)]
    ring = ring[::-1] if clockwise else ring
    fixed = repair_geometry(polygon([*ring, ring[0]] if closed else ring))
    assert fixed is not None
    box = bounds(fixed)
    assert -180 <= box[0] <= 180
    assert -180 <= box[2] <= 180
    assert (box[2] - box[0]) % 360 == pytest.approx(width, abs=1e-6)
    assert (box[0] - west) % 360 == pytest.approx(0, abs=1e-6) or (box[0] - west) % 360 == pytest.approx(360, abs=1e-6)


# Facts


def facts(item: Mapping[str, Any] | None = None, discovery: Mapping[str, Any] | None = None, **changes: Any) -> Facts:
    return Facts(product(**changes), item or {}, DISCOVERY if discovery is None else discovery, OTHER)


def test_catalogue_is_believed_before_the_product() -> None:
    found = acquisition(facts({"properties": {"eo:cloud_cover": 58.3, "platform": "Sentinel-2A"}}))
    assert found["eo:cloud_cover"] == 58.3
    assert found["eo:snow_cover"] == 0.000305
    assert found["platform"] == "sentinel-2a"


def test_sun_elevation_is_taken_from_the_product_and_not_from_the_catalogue() -> None:
    item = {"properties": {"view:sun_elevation": 63.3034799138856, "view:sun_azimuth": 1.0}}
    found = acquisition(facts(item))
    assert found["view:sun_elevation"] == pytest.approx(90 - 49.3049375691464, abs=1e-6)
    assert found["view:sun_azimuth"] == pytest.approx(163.595949089503, abs=1e-6)
    without = acquisition(Facts(product(), item, DISCOVERY, {}))
    assert not [key for key in without if key.startswith("view:")]


@pytest.mark.parametrize("junk", ["null", " ", "MISSING", "", None, "N/A", float("nan"), True])
def test_junk_values_are_left_out(junk: Any) -> None:
    properties = dict.fromkeys(["eo:cloud_cover", "sat:absolute_orbit", "product:timeliness", "processing:facility"], junk)
    known = facts(discovery={"properties": properties})
    assert not {"eo:cloud_cover", "sat:absolute_orbit"} & set(acquisition(known))
    assert not {"product:timeliness", "processing:facility"} & set(processing(known))


def test_blank_software_version_is_left_out() -> None:
    assert source_software(facts()) == {}
    assert source_software(facts({"properties": {"processing:software": {"EOPF-CPM": "2.6.2"}}})) == {"EOPF-CPM": "2.6.2"}


@pytest.mark.parametrize(
    ("unit", "platform", "designator"),
    [("A", "sentinel-2a", "2015-028A"), ("B", "sentinel-2b", "2017-013A"), ("C", "sentinel-2c", "2024-157A")],
)
def test_designator_follows_the_platform(unit: str, platform: str, designator: str) -> None:
    discovery = {"properties": {"sat:platform_international_designator": "2015-028A"}}
    found = acquisition(facts(discovery=discovery, product_id=f"S2{unit}{L2A_ID[3:]}"))
    assert (found["platform"], found["sat:platform_international_designator"]) == (platform, designator)


def test_designator_of_an_unknown_platform_is_left_out() -> None:
    found = acquisition(facts({"properties": {"platform": "sentinel-2x"}}))
    assert "sat:platform_international_designator" not in found


def test_name_gives_what_metadata_do_not() -> None:
    known = facts(discovery={}, product_id=L1C_ID, product_type="S02MSIL1C")
    found = {**acquisition(known), **processing(known)}
    assert found["grid:code"] == "MGRS-32TLQ"
    assert found["sat:relative_orbit"] == 108
    assert found["platform"] == "sentinel-2b"
    assert found["processing:version"] == "05.11"
    assert found["processing:level"] == "L1C"
    assert found["instruments"] == ["msi"]


def test_eopf_name_gives_platform_and_orbit_and_stac_discovery_the_tile() -> None:
    known = facts(discovery={"id": f"{L2A_ID}.SAFE"}, product_id="S02MSIL2A_20251008T100041_0000_A122_T461")
    assert acquisition(known)["grid:code"] == "MGRS-32TQM"
    bare = acquisition(facts(discovery={}, product_id="S02MSIL2A_20251008T100041_0000_A122_T461"))
    assert (bare["platform"], bare["sat:relative_orbit"]) == ("sentinel-2a", 122)
    assert "grid:code" not in bare


def test_timeliness_category_needs_a_timeliness() -> None:
    assert "product:timeliness_category" not in processing(
        facts(discovery={"properties": {"product:timeliness": "soon", "product:timeliness_category": "NRT"}})
    )


def test_null_datetime_of_the_product_gives_way_to_its_start() -> None:
    assert times(facts()) == dict.fromkeys(["datetime", "start_datetime", "end_datetime"], "2025-10-08T10:00:41.024000Z")


def test_datetime_falls_back_to_the_manifest_and_zones_become_utc() -> None:
    assert times(facts(discovery={})) == {"datetime": "2025-10-08T10:00:41.000000Z"}
    item = {"properties": {"datetime": "2025-10-08T12:00:41.5+02:00"}}
    assert times(facts(item, discovery={}))["datetime"] == "2025-10-08T10:00:41.500000Z"


def test_item_without_any_datetime_is_refused() -> None:
    with pytest.raises(ConformanceError, match="datetime"):
        times(facts(discovery={}, datetime="null"))


def test_geometry_comes_from_catalogue_then_product_then_boxes() -> None:
    assert geometry(facts({"geometry": polygon(SQUARE[:-1])})) == polygon(SQUARE)
    assert bounds(geometry(facts({"geometry": None}))) == (11.393461, 41.404035, 12.763136, 42.426912)
    assert bounds(geometry(facts(discovery={"bbox": [12.0, 41.0, 11.0, 42.0]}))) == (11, 41, 12, 42)


def test_geometry_that_nobody_states_is_the_extent_of_the_store() -> None:
    known = replace(facts(discovery={"bbox": "null"}), extent=[179.5, -17.0, -179.5, -16.0])
    assert bounds(geometry(known)) == (179.5, -17, -179.5, -16)


def test_item_without_any_geometry_is_refused() -> None:
    with pytest.raises(ConformanceError, match="geometry"):
        geometry(facts(discovery={"bbox": "null"}))


def _real_discoveries() -> list[Path]:
    return sorted(DATA.glob("eopf-metadata/*/S*2*MSIL*.json"))


@pytest.mark.skipif(not DATA.exists(), reason="real metadata not at hand")
def test_real_products_have_reversed_boxes_and_get_right_ones() -> None:
    seen = 0
    for path in _real_discoveries():
        body = json.loads(path.read_bytes())
        root = body.get("attributes") or body.get("metadata", {}).get(".zattrs")
        if not root:
            continue
        discovery = root["stac_discovery"]
        east, south, west, north = discovery["bbox"]
        assert east > west
        box = bounds(geometry(Facts(product(), {}, discovery, {})))
        assert box == pytest.approx((west, south, east, north), abs=1e-6)
        sun = acquisition(Facts(product(), {}, discovery, root["other_metadata"]))["view:sun_elevation"]
        assert 5 < sun < 70
        seen += 1
    assert seen >= 6


# Bands


def test_bands_are_in_order_of_wavelength() -> None:
    waves = [band.center_wavelength for band in S2_BANDS.values()]
    assert waves == sorted(waves)
    assert len(waves) == 13
    assert sorted(["zz", "b09", "b8a", "b08"], key=band_order) == ["b08", "b8a", "b09", "zz"]


def test_native_pixel_sizes_are_those_of_the_instrument() -> None:
    sizes = {size: [band.name for band in S2_BANDS.values() if band.gsd_m == size] for size in (10, 20, 60)}
    assert sizes[10] == ["b02", "b03", "b04", "b08"]
    assert sizes[60] == ["b01", "b09", "b10"]
    assert len(sizes[20]) == 6


# Items


def node(shape: list[int] | None = None, **attributes: Any) -> dict[str, Any]:
    if shape is None:
        return {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "uint16",
        "fill_value": 0,
        "attributes": attributes,
    }


def store_root(levels: Mapping[int, str], size_m: int = 3600, **attributes: Any) -> dict[str, Any]:
    """Root ``zarr.json`` of a store with ``levels``: pixel size to band names."""
    base = "measurements/reflectance"
    layout = [{"asset": f"r{m}m", "spatial:shape": [size_m // m] * 2, "spatial:transform": transform(m)} for m in sorted(levels)]
    nodes = {base: node(multiscales={"layout": layout}, **{"proj:code": "EPSG:32632"})}
    for m, names in levels.items():
        nodes[f"{base}/r{m}m"] = node()
        nodes[f"{base}/r{m}m/x"] = node([size_m // m])
        nodes[f"{base}/r{m}m/spatial_ref"] = node([])
        for name in names.split():
            nodes[f"{base}/r{m}m/{name}"] = node([size_m // m] * 2, scale_factor=0.0001, add_offset=-0.1, _FillValue=0, units="1")
    marks = {"stac_discovery": DISCOVERY, "other_metadata": OTHER, **attributes}
    return {**node(**marks), "consolidated_metadata": {"metadata": nodes}}


def inputs(tmp_path: Path, root: Mapping[str, Any], **changes: Any) -> ItemInputs:
    store = tmp_path / "store.zarr"
    store.mkdir(exist_ok=True)
    (store / "zarr.json").write_text(json.dumps(root))
    hrefs = Hrefs(
        store=changes.pop("place", StoreHref("../store.zarr")),
        storage=changes.pop("storage", {}),
        item="",
        root="../catalog.json",
        collection="../c/collection.json",
        report="../report.json",
        license="https://example.org/terms",
        derived_from="https://catalogue.example.org/items/a",
        via="https://data.example.org/a.zarr",
    )
    values = {
        "receipt": receipt_of(product(), store),
        "source_item": {},
        "nodes": Nodes(root),
        "root_file": File("../store.zarr/zarr.json", 10, "ab" * 32),
        "consolidated": frozenset({"measurements/reflectance"}),
        "thumbnail": None,
        "recipe_item": Item(),
        "recipe": "s2-l2a",
        "version": "9.9.9",
        "hrefs": hrefs,
    }
    return ItemInputs(**{**values, **changes})


RGB_LEVELS = {10: "b02 b03 b04", 20: "b02 b03 b04 b05", 60: "b02 b03 b04 b05 b09"}


def test_same_inputs_give_the_same_item(tmp_path: Path) -> None:
    given_ = inputs(tmp_path, store_root(RGB_LEVELS))
    assert build_item(given_) == build_item(copy.deepcopy(given_))
    assert build_item(given_)["properties"]["created"] == "2026-11-23T15:00:00.000000Z"


def test_band_is_described_on_the_finest_level_that_holds_it(tmp_path: Path) -> None:
    item = build_item(inputs(tmp_path, store_root(RGB_LEVELS)))
    bands = {band["name"]: band for band in item["assets"]["reflectance"]["bands"]}
    assert list(bands) == ["b02", "b03", "b04", "b05", "b09"]
    assert bands["b05"]["proj:shape"] == [180, 180]
    assert bands["b05"]["proj:transform"] == transform(20)
    assert bands["b09"]["raster:spatial_resolution"] == 60
    assert bands["b09"]["raster:scale"] == 0.0001


def test_store_without_the_finest_level_is_described_as_it_is(tmp_path: Path) -> None:
    item = build_item(inputs(tmp_path, store_root({20: "b02 b03 b04 b05", 60: "b02"})))
    assert item["properties"]["gsd"] == 20
    assert item["properties"]["proj:shape"] == [180, 180]
    assert item["assets"]["reflectance"]["bands"][0]["gsd"] == 10


def test_store_without_red_has_no_renders(tmp_path: Path) -> None:
    item = build_item(inputs(tmp_path, store_root({60: "b09"})))
    assert "renders" not in item["properties"]
    assert not [url for url in item["stac_extensions"] if "render" in url]


def test_scale_is_not_invented(tmp_path: Path) -> None:
    root = store_root({10: "b02"})
    root["consolidated_metadata"]["metadata"]["measurements/reflectance/r10m/b02"]["attributes"] = {}
    band = build_item(inputs(tmp_path, root))["assets"]["reflectance"]["bands"][0]
    assert not {"raster:scale", "raster:offset", "nodata", "unit"} & set(band)


@pytest.mark.parametrize(("stated", "told"), [(1, "1"), ("m", "m"), (["1"], None), (None, None)])
def test_unit_of_an_item_is_text(tmp_path: Path, stated: Any, told: str | None) -> None:
    root = store_root({10: "b02"})
    root["consolidated_metadata"]["metadata"]["measurements/reflectance/r10m/b02"]["attributes"] = {"units": stated}
    assert build_item(inputs(tmp_path, root))["assets"]["reflectance"]["bands"][0].get("unit") == told


def test_map_with_overviews_has_an_asset_for_its_levels_beside_the_finest(tmp_path: Path) -> None:
    root, path = store_root(RGB_LEVELS), "conditions/mask/l2a_classification"
    nodes = root["consolidated_metadata"]["metadata"]
    nodes |= {path: node(), f"{path}/r20m": node(), f"{path}/r20m/scl": node([180, 180])}
    assert "SCL" not in build_item(inputs(tmp_path, root))["assets"]
    nodes[path]["attributes"]["multiscales"] = {"layout": [{"asset": "r20m"}]}
    item = build_item(inputs(tmp_path, root, consolidated=frozenset({path})))
    levels, finest = item["assets"]["SCL"], item["assets"]["SCL_20m"]
    assert (levels["zarr:consolidated"], finest["zarr:consolidated"]) == (True, False)
    assert (levels["href"], finest["href"]) == (f"../store.zarr/{path}", f"../store.zarr/{path}/r20m")
    assert levels["type"] == "application/vnd.zarr; version=3; profile=multiscales"
    assert levels["bands"] == finest["bands"]
    assert broken_rules(item) == []


def test_bucket_behind_a_public_address_becomes_an_alternate(tmp_path: Path) -> None:
    place = StoreHref("https://data.example.org/a.zarr", alternate="s3://bucket/a.zarr")
    scheme = {"type": "custom-s3", "platform": "https://s3.example.org", "bucket": "bucket"}
    item = build_item(inputs(tmp_path, store_root(RGB_LEVELS), place=place, storage=scheme))
    asset = item["assets"]["reflectance"]
    assert asset["href"] == "https://data.example.org/a.zarr/measurements/reflectance"
    assert asset["alternate"]["s3"] == {"href": "s3://bucket/a.zarr/measurements/reflectance", "storage:refs": ["store"]}
    assert {"alternate-assets", "storage"} <= {url.split("/")[3] for url in item["stac_extensions"]}
    assert broken_rules(item) == []


def test_nothing_is_said_of_storage_when_the_store_is_local(tmp_path: Path) -> None:
    item = build_item(inputs(tmp_path, store_root(RGB_LEVELS)))
    assert not {"alternate-assets", "storage"} & {url.split("/")[3] for url in item["stac_extensions"]}
    assert "storage:schemes" not in item["properties"]


def test_store_without_levels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConformanceError, match="no multiscales group"):
        build_item(inputs(tmp_path, {**node(stac_discovery=DISCOVERY), "consolidated_metadata": {"metadata": {}}}))


def test_layout_that_names_a_missing_level_is_refused() -> None:
    root = store_root({10: "b02"})
    del root["consolidated_metadata"]["metadata"]["measurements/reflectance/r10m"]
    with pytest.raises(ConformanceError, match="r10m"):
        read_pyramid(Nodes(root), "store")


def test_box_of_a_grid_follows_its_transform() -> None:
    grid = Grid((3, 2), (10.0, 0.0, 100.0, 0.0, -10.0, 50.0))
    assert grid.bbox == (100, 20, 120, 50)


# Our own rules

Change = Callable[[dict[str, Any]], object]


def _band(item: dict[str, Any]) -> dict[str, Any]:
    return item["assets"]["reflectance"]["bands"][0]


MUTATIONS: list[tuple[str, Change]] = [
    ("bbox", lambda i: i.update(bbox=[12.763136, 41.404035, 11.393461, 42.426912])),
    ("above north", lambda i: i.update(bbox=[11.393461, 42.426912, 12.763136, 41.404035])),
    ("not closed", lambda i: i["geometry"]["coordinates"][0].pop()),
    ("antimeridian", lambda i: i.update(geometry=polygon([[179, 0], [-179, 0], [-179, 1], [179, 0]]))),
    ("properties.datetime", lambda i: i["properties"].update(datetime="2025-10-08T10:00:41")),
    ("properties.created", lambda i: i["properties"].update(created="yesterday")),
    ("cube", lambda i: i["properties"].update({"cube:dimensions": {}})),
    ("eo/v2.0.0", lambda i: i["stac_extensions"].remove("https://stac-extensions.github.io/eo/v2.0.0/schema.json")),
    ("too old", lambda i: i["stac_extensions"].append("https://stac-extensions.github.io/raster/v1.1.0/schema.json")),
    ("common_name", lambda i: _band(i).update(common_name="blue")),
    ("degrees", lambda i: i["properties"].update({"proj:bbox": [11.3, 41.4, 12.7, 42.4]})),
    ("proj:bbox", lambda i: i["assets"]["reflectance"].update({"proj:shape": [1, 1]})),
    ("assets.product.type", lambda i: i["assets"]["product"].update(type="application/vnd+zarr")),
    ("assets.product.type", lambda i: i["assets"]["product"].update(type="application/json")),
    ("trailing slash", lambda i: i["assets"]["product"].update(href="https://example.org/a.zarr/")),
    ("assets.reflectance", lambda i: i["assets"]["reflectance"].update(type="application/vnd.zarr; version=3")),
    ("alternate.s3.href", lambda i: i["assets"]["product"].update(alternate={"s3": {}})),
    ("data_type", lambda i: _band(i).pop("data_type")),
    ("micrometres", lambda i: _band(i).update({"eo:center_wavelength": 490.0})),
    ("'store'", lambda i: i.update(links=[link for link in i["links"] if link["rel"] != "store"])),
    ("self link", lambda i: i["links"].append({"rel": "self", "href": "./item.json"})),
    ("links[4].type", lambda i: i["links"][4].update(type="application/vnd+zarr")),
    ("storage:refs", lambda i: i["assets"]["product"].update({"storage:refs": ["nowhere"]})),
    ("which is no asset", lambda i: i["properties"]["renders"]["true-colour"].update(assets=["x"])),
    ("b08", lambda i: i["properties"]["renders"]["true-colour"].update(expression="b08")),
]


def test_built_item_breaks_no_rule(tmp_path: Path) -> None:
    assert broken_rules(build_item(inputs(tmp_path, store_root(RGB_LEVELS)))) == []


@pytest.mark.parametrize(("named", "change"), MUTATIONS, ids=[f"{n}-{name}" for n, (name, _) in enumerate(MUTATIONS)])
def test_each_broken_rule_is_named(tmp_path: Path, named: str, change: Change) -> None:
    item = build_item(inputs(tmp_path, store_root(RGB_LEVELS)))
    change(item)
    assert [fault for fault in broken_rules(item) if named in fault]


def test_item_over_the_antimeridian_breaks_no_rule(tmp_path: Path) -> None:
    ring = [[179.5, -17.0], [-179.5, -17.0], [-179.5, -16.0], [179.5, -16.0], [179.5, -17.0]]
    item = build_item(inputs(tmp_path, store_root(RGB_LEVELS), source_item={"geometry": polygon(ring)}))
    assert item["bbox"] == [179.5, -17.0, -179.5, -16.0]
    assert item["geometry"]["type"] == "MultiPolygon"
    assert broken_rules(item) == []


# Collections


def test_collection_spans_its_items(tmp_path: Path) -> None:
    one = build_item(inputs(tmp_path, store_root(RGB_LEVELS)))
    other = build_item(inputs(tmp_path, store_root(RGB_LEVELS), source_item={"geometry": polygon(SQUARE)}))
    other["properties"]["datetime"] = other["properties"]["end_datetime"] = "2025-10-09T00:00:00.000000Z"
    other["properties"]["eo:cloud_cover"] = 50.0
    document = build_collection("c", [one, other], "other", [])
    assert document["extent"]["spatial"]["bbox"] == [[10.0, 40.0, 12.763136, 42.426912]]
    assert document["extent"]["temporal"]["interval"] == [["2025-10-08T10:00:41.024000Z", "2025-10-09T00:00:00.000000Z"]]
    assert document["summaries"]["eo:cloud_cover"] == {"minimum": 0.003839, "maximum": 50.0}
    assert "proj:shape" not in document["item_assets"]["reflectance"]["bands"][0]
