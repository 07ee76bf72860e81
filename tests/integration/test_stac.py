"""Items, catalogue and parquet of real small stores, read by independent readers, without any network."""

import copy
import functools
import http.server
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pystac
import pytest
import structlog
import zarr
from PIL import Image
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from stac_stores import DATA, L1C_ID, SCHEMAS, Case, build_case, consolidate, receipt_of, report_of, write_store

from zarrmill.errors import ConfigError, ConformanceError, StoreError
from zarrmill.io.geoparquet import read_items
from zarrmill.io.objects import Objects
from zarrmill.io.stac_schemas import ENVIRONMENT, load_schemas, schema_folder
from zarrmill.io.thumbnail import render_png
from zarrmill.model import Verdict
from zarrmill.stages.stac import build_catalog, check_item, stac, write_item

needs_schemas = pytest.mark.skipif(not SCHEMAS.exists(), reason="extension schemas not at hand")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that leaves the machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"network was asked: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.delenv(ENVIRONMENT, raising=False)


def run(case: Case) -> dict[str, Any]:
    return stac(case.record, case.receipt, case.report, settings=case.settings, recipe=case.recipe, state=case.state)


def source_item() -> dict[str, Any]:
    path = next(iter(DATA.glob("stac-pages/eopf-catalogue_item_*.json")), None)
    if path is None:
        pytest.skip("real catalogue item not at hand")
    body: dict[str, Any] = json.loads(path.read_bytes())
    return body


# One item


@needs_schemas
@pytest.mark.parametrize("level", ["L2A", "L1C"])
def test_item_passes_core_and_every_declared_extension(tmp_path: Path, level: str) -> None:
    case = build_case(tmp_path, level=level)
    item = run(case)
    check = load_schemas(str(SCHEMAS)).check(item)
    assert check.faults == ()
    assert check.unchecked == ()
    assert len(check.checked) == 1 + len(item["stac_extensions"])
    assert item["collection"] == f"sentinel-2-{level.lower()}-geozarr"


def test_assets_of_l2a_and_l1c_are_those_of_the_stores(tmp_path: Path) -> None:
    l2a, l1c = run(build_case(tmp_path)), run(build_case(tmp_path, level="L1C"))
    files = {"product", "product-metadata", "validation-report", "thumbnail", "reflectance"}
    assert set(l2a["assets"]) == files | {"SCL_20m", "AOT_10m", "WVP_10m", "CLD_20m", "SNW_20m"}
    assert set(l1c["assets"]) == files | {"CLASSI_60m"}
    assert l2a["assets"]["SCL_20m"]["bands"] == [{"name": "scl", "data_type": "uint8", "nodata": 0}]
    assert l2a["assets"]["reflectance"]["title"].startswith("Surface")
    assert l1c["assets"]["reflectance"]["title"].startswith("Top-of-atmosphere")
    assert l1c["properties"]["sat:platform_international_designator"] == "2017-013A"
    assert [band["name"] for band in l1c["assets"]["reflectance"]["bands"]][-3:] == ["b10", "b11", "b12"]


def test_media_types_are_exact(tmp_path: Path) -> None:
    item = run(build_case(tmp_path))
    types = {key: asset["type"] for key, asset in item["assets"].items()}
    assert types["reflectance"] == "application/vnd.zarr; version=3; profile=multiscales"
    assert types["SCL_20m"] == types["product"] == "application/vnd.zarr; version=3"


def test_real_source_item_gives_identity_but_not_links_angles_or_grid(tmp_path: Path) -> None:
    source = source_item()
    item = run(build_case(tmp_path, item=source))
    properties = item["properties"]
    assert item["bbox"] == pytest.approx(source["bbox"], abs=1e-9)
    assert properties["eo:cloud_cover"] == 58.30915
    assert properties["view:sun_elevation"] == pytest.approx(40.695062)
    assert properties["proj:bbox"] == [699960.0, 4698240.0, 701760.0, 4700040.0]
    assert properties["processing:software"]["EOPF-CPM"] == "2.6.2"
    hrefs = {link["rel"]: link["href"] for link in item["links"]}
    assert hrefs["derived_from"].startswith("https://catalogue.example.org/items/")
    assert "eodc" not in json.dumps(item)


def test_relative_hrefs_lead_to_files(tmp_path: Path) -> None:
    case = build_case(tmp_path)
    item = run(case)
    here = Path(case.state.target("stac", case.product))
    for key, asset in item["assets"].items():
        if key != "validation-report":
            assert (here.parent / asset["href"]).exists(), key
    report = here.parent / item["assets"]["validation-report"]["href"]
    assert report.resolve() == Path(case.state.target("validate", case.product))
    assert not [link for link in item["links"] if link["rel"] == "self"]


def test_public_roots_give_absolute_hrefs_and_a_self_link(tmp_path: Path) -> None:
    case = build_case(tmp_path, public_root="https://data.example.org/geozarr/", public_state="https://data.example.org/state")
    item = run(case)
    hrefs = {link["rel"]: link["href"] for link in item["links"]}
    store = f"https://data.example.org/geozarr/{case.product.store_path}"
    assert hrefs["store"] == store
    assert item["assets"]["reflectance"]["href"] == f"{store}/measurements/reflectance"
    assert hrefs["self"] == f"https://data.example.org/state/run/sentinel-2-l2a/20251008/stac/{case.product.name}.json"
    assert "alternate" not in item["assets"]["reflectance"]


def test_checksums_are_those_of_the_files(tmp_path: Path) -> None:
    case = build_case(tmp_path)
    assets = run(case)["assets"]
    assert assets["product-metadata"]["file:checksum"] == f"1220{case.receipt.root_sha256}"
    assert assets["product-metadata"]["file:size"] == (Path(case.receipt.store) / "zarr.json").stat().st_size
    assert assets["thumbnail"]["file:size"] == Path(case.state.thumbnail(case.product)).stat().st_size


def test_second_run_gives_the_same_bytes(tmp_path: Path) -> None:
    case = build_case(tmp_path)
    write_item(run(case), tmp_path / "one.json")
    thumbnail = case.state.thumbnail(case.product).read_bytes()
    write_item(run(case), tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert case.state.thumbnail(case.product).read_bytes() == thumbnail


@pytest.mark.parametrize(
    ("accept", "verdict", "passes"),
    [("WARN", "PASS", True), ("WARN", "WARN", True), ("WARN", "FAIL", False), ("PASS", "WARN", False), ("PASS", "PASS", True)],
)
def test_gate_lets_accepted_verdicts_pass(tmp_path: Path, accept: str, verdict: str, passes: bool) -> None:
    case = build_case(tmp_path)
    recipe = case.recipe.model_copy(update={"validation": case.recipe.validation.model_copy(update={"accept": accept})})
    case = replace(case, recipe=recipe, report=report_of(case.receipt, Verdict(verdict)))
    if passes:
        assert run(case)["type"] == "Feature"
        return
    with pytest.raises(ConformanceError, match=verdict) as caught:
        run(case)
    assert caught.value.kind == "store"
    assert not case.state.thumbnail(case.product).exists()


def test_gate_refuses_a_report_on_another_store_or_without_checks(tmp_path: Path) -> None:
    case = build_case(tmp_path)
    for report in (replace(case.report, store="elsewhere"), replace(case.report, n_checks=0)):
        with pytest.raises(ConformanceError) as caught:
            run(replace(case, report=report))
        assert caught.value.kind == "store"


def test_store_that_changed_since_the_receipt_is_refused(tmp_path: Path) -> None:
    case = build_case(tmp_path)
    root = Path(case.receipt.store) / "zarr.json"
    root.write_text(root.read_text() + "\n")
    with pytest.raises(StoreError, match="sha256") as caught:
        run(case)
    assert caught.value.kind == "damaged"


def test_store_without_root_is_refused(tmp_path: Path) -> None:
    case = build_case(tmp_path)
    (Path(case.receipt.store) / "zarr.json").unlink()
    with pytest.raises(StoreError, match="not sealed"):
        run(case)


def test_subset_of_levels_and_odd_size(tmp_path: Path) -> None:
    case = build_case(tmp_path)
    store = Path(case.receipt.store)
    write_store(store, levels_m=(20, 60), size_px=126)
    receipt = receipt_of(case.product, store)
    item = run(replace(case, receipt=receipt, report=report_of(receipt)))
    assert item["properties"]["proj:shape"] == [63, 63]
    assert item["properties"]["gsd"] == 20
    with Image.open(Path(case.state.thumbnail(case.product))) as image:
        assert image.size == (60, 60)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder served under the S3 endpoint's path style; reading needs plain GET only."""
    root = tmp_path / "s3"
    (root / "bucket").mkdir(parents=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "fra")
    yield root / "bucket"
    server.shutdown()
    thread.join()
    server.server_close()


@needs_schemas
@pytest.mark.parametrize("public", [None, "https://data.example.org/geozarr"])
def test_store_in_a_bucket_is_described_with_its_storage(tmp_path: Path, bucket: Path, public: str | None) -> None:
    case = build_case(tmp_path, store_root="s3://bucket", public_root=public)
    Path(case.receipt.store).rename(bucket / "a.zarr")
    (bucket / case.product.store_path).parent.mkdir(parents=True)
    (bucket / "a.zarr").rename(bucket / case.product.store_path)
    receipt = replace(case.receipt, store=f"s3://bucket/{case.product.store_path}")
    item = run(replace(case, receipt=receipt, report=report_of(receipt)))
    scheme = item["properties"]["storage:schemes"]["store"]
    assert (scheme["type"], scheme["bucket"], scheme["region"]) == ("custom-s3", "bucket", "fra")
    asset = item["assets"]["reflectance"]
    address = f"{receipt.store}/measurements/reflectance"
    if public is None:
        assert (asset["href"], asset["storage:refs"]) == (address, ["store"])
    else:
        assert asset["alternate"]["s3"]["href"] == address
        assert asset["href"] == f"{public}/{case.product.store_path}/measurements/reflectance"
    assert load_schemas(str(SCHEMAS)).check(item).unchecked == ()


# Schemas

Change = Callable[[dict[str, Any]], object]
P, A = "properties", "assets"
BREAKS: list[tuple[str, str, Change]] = [
    ("id", "item-spec", lambda i: i.update(id="")),
    ("stac_version", "item-spec", lambda i: i.update(stac_version="1.0.0")),
    ("geometry", "item-spec", lambda i: i.update(geometry={"type": "Polygon", "coordinates": [[[0, 0]]]})),
    ("properties.datetime", "item-spec", lambda i: i[P].update(datetime="2025-10-08 10:00:41")),
    ("assets.product", "item-spec", lambda i: i[A]["product"].pop("href")),
    ("properties.eo:cloud_cover", "eo/", lambda i: i[P].update({"eo:cloud_cover": 101})),
    ("eo:common_name", "eo/", lambda i: i[A]["reflectance"]["bands"][0].update({"eo:common_name": "ultraviolet"})),
    ("properties.proj:shape", "projection/", lambda i: i[P].update({"proj:shape": [1.5, 2]})),
    ("raster:scale", "raster/", lambda i: i[A]["reflectance"]["bands"][0].update({"raster:scale": "1e-4"})),
    ("properties.sat:orbit_state", "sat/", lambda i: i[P].update({"sat:orbit_state": "sideways"})),
    ("properties.view:sun_azimuth", "view/", lambda i: i[P].update({"view:sun_azimuth": 400})),
    ("properties.grid:code", "grid/", lambda i: i[P].update({"grid:code": "32TQM"})),
    ("properties", "product/", lambda i: i[P].pop("product:timeliness")),
    ("properties.processing:level", "processing/", lambda i: i[P].update({"processing:level": 2})),
    ("zarr:zarr_format", "zarr/", lambda i: i[A]["product"].update({"zarr:zarr_format": 4})),
    ("file:checksum", "file/", lambda i: i[A]["thumbnail"].update({"file:checksum": "sha256:x"})),
    ("properties.renders.true-colour", "render/", lambda i: i[P]["renders"]["true-colour"].pop("assets")),
]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, dict[str, Any]]:
    case = build_case(tmp_path_factory.mktemp("good"))
    return case, run(case)


@needs_schemas
@pytest.mark.parametrize(("field", "schema", "change"), BREAKS, ids=[f"{schema}{field}" for field, schema, _ in BREAKS])
def test_broken_item_is_refused_with_field_and_schema(
    good: tuple[Case, dict[str, Any]], field: str, schema: str, change: Change
) -> None:
    case, item = good[0], copy.deepcopy(good[1])
    change(item)
    with pytest.raises(ConformanceError) as caught:
        check_item(item, case.settings)
    assert caught.value.kind == "item"
    assert field in caught.value.message
    faults = load_schemas(str(SCHEMAS)).check(item).faults
    assert [fault for fault in faults if field in fault.field and schema in fault.schema], faults


def test_fault_of_our_own_rules_is_refused(good: tuple[Case, dict[str, Any]]) -> None:
    case, item = good[0], copy.deepcopy(good[1])
    item["assets"]["product"]["type"] = "application/vnd+zarr"
    with pytest.raises(ConformanceError, match=r"assets\.product\.type"):
        check_item(item, case.settings)


def test_schemas_that_are_not_at_hand_are_told(good: tuple[Case, dict[str, Any]]) -> None:
    case, item = good
    with structlog.testing.capture_logs() as logs:
        check = check_item(item, case.settings.model_copy(update={"schema_cache": None}))
    assert check.checked == ("https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json",)
    assert set(check.unchecked) == set(item["stac_extensions"])
    told = {url for entry in logs if entry["event"] == "schemas not available" for url in entry["schemas"]}
    assert told == set(item["stac_extensions"])


def test_core_schema_is_enforced_without_a_folder(good: tuple[Case, dict[str, Any]]) -> None:
    case, item = good[0], copy.deepcopy(good[1])
    item["links"][0]["href"] = ""
    with pytest.raises(ConformanceError, match=r"links\[0\]\.href"):
        check_item(item, case.settings.model_copy(update={"schema_cache": None}))


def test_folder_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "/from/environment")
    assert schema_folder(None) == "/from/environment"
    assert schema_folder("/configured") == "/configured"


def test_broken_schema_folder_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"index\.json"):
        load_schemas(str(tmp_path))
    (tmp_path / "index.json").write_text('{"https://example.org/a.json": "a.json"}')
    with pytest.raises(ConfigError, match=r"a\.json"):
        load_schemas(str(tmp_path))
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        load_schemas(str(tmp_path))


def test_schema_that_refers_to_a_missing_one_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('{"https://example.org/a.json": "a.json"}')
    (tmp_path / "a.json").write_text('{"$ref": "https://example.org/b.json"}')
    with pytest.raises(ConfigError, match=r"b\.json"):
        load_schemas(str(tmp_path)).check({"type": "Catalog", "stac_extensions": ["https://example.org/a.json"]})


@needs_schemas
def test_pystac_agrees_that_items_are_valid(tmp_path: Path) -> None:
    validator = JsonSchemaSTACValidator()
    validator.schema_cache.update(load_schemas(str(SCHEMAS)).documents)
    catalog = pystac.Catalog.from_file(str(catalogue(two_products(tmp_path))))
    item = next(catalog.get_items(recursive=True))
    assert len(item.validate(validator)) == 1 + len(item.stac_extensions)
    item.properties["eo:cloud_cover"] = 101
    with pytest.raises(pystac.STACValidationError):
        item.validate(validator)


# Thumbnails


def test_thumbnail_shows_stored_values_rescaled_and_nodata_transparent(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    write_store(store)
    png = render_png(Objects(str(store)), "measurements/reflectance/r20m", ("b04", "b03", "b02"), (1000, 4000), 90)
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (90, 90, 4)
    assert pixels[0, 89].tolist() == [255, 128, 0, 255]
    assert not pixels[:, :30].any()
    assert (pixels[:, 30:, 3] == 255).all()


def test_thumbnail_needs_no_zarr_python(tmp_path: Path) -> None:
    """Its import takes a third of the seconds of a job ``stac``."""
    store = tmp_path / "a.zarr"
    write_store(store)
    code = f"""
import sys
from zarrmill.io.objects import Objects
from zarrmill.io.thumbnail import render_png
bands = ("b04", "b03", "b02")
print(len(render_png(Objects({str(store)!r}), "measurements/reflectance/r20m", bands, (1000, 4000), 90)), "zarr" in sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert int(told[0]) > 100
    assert told[1] == "False"


def test_thumbnail_edge_colours_are_not_darkened_by_nodata(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    write_store(store)
    png = render_png(Objects(str(store)), "measurements/reflectance/r10m", ("b04", "b03", "b02"), (1000, 4000), 50)
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image)
    shown = pixels[..., 3] > 100
    assert set(np.unique(pixels[shown][:, 0])) == {255}


def test_thumbnail_of_a_damaged_band_is_an_error(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    write_store(store)
    with pytest.raises(StoreError, match="b99"):
        render_png(Objects(str(store)), "measurements/reflectance/r20m", ("b04", "b03", "b99"), (1000, 4000), 90)
    (store / "measurements/reflectance/r20m/b04/c/0/0").write_bytes(b"nonsense")
    with pytest.raises(StoreError, match="b04"):
        render_png(Objects(str(store)), "measurements/reflectance/r20m", ("b04", "b03", "b02"), (1000, 4000), 90)


def test_thumbnail_can_be_switched_off(tmp_path: Path) -> None:
    case = build_case(tmp_path)
    recipe = case.recipe.model_copy(update={"item": case.recipe.item.model_copy(update={"thumbnail_px": 0})})
    assert "thumbnail" not in run(replace(case, recipe=recipe))["assets"]


def test_large_level_is_thinned_out_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "a.zarr"
    write_store(store)
    monkeypatch.setattr("zarrmill.io.thumbnail._MAX_READ_PX", 36)
    png = render_png(Objects(str(store)), "measurements/reflectance/r10m", ("b04", "b03", "b02"), (1000, 4000), 300)
    with Image.open(io.BytesIO(png)) as image:
        assert image.size == (36, 36)
        assert image.getpixel((35, 35)) == (255, 128, 0, 255)
        assert image.getpixel((0, 0)) == (0, 0, 0, 0)


# The catalogue


def two_products(tmp_path: Path, **settings: Any) -> tuple[Case, Case]:
    cases = build_case(tmp_path, **settings), build_case(tmp_path, level="L1C", **settings)
    for case in cases:
        write_item(run(case), case.state.target("stac", case.product))
    return cases


def catalogue(cases: tuple[Case, ...]) -> Path:
    recipes = {case.product.product_type: case.recipe for case in cases}
    return Path(build_catalog(cases[0].settings, recipes, cases[0].state, [case.product for case in cases]))


def test_pystac_walks_the_catalogue_from_disk(tmp_path: Path) -> None:
    cases = two_products(tmp_path)
    catalog = pystac.Catalog.from_file(str(catalogue(cases)))
    collections = {collection.id: collection for collection in catalog.get_children()}
    assert sorted(collections) == ["sentinel-2-l1c-geozarr", "sentinel-2-l2a-geozarr"]
    items = {item.id: item for item in catalog.get_items(recursive=True)}
    assert set(items) == {case.product.product_id for case in cases}
    item = items[L1C_ID]
    assert item.get_collection() is collections["sentinel-2-l1c-geozarr"]
    assert Path(item.assets["thumbnail"].get_absolute_href() or "").exists()
    assert Path(item.assets["reflectance"].get_absolute_href() or "", "zarr.json").exists()


def test_moved_catalogue_still_works(tmp_path: Path) -> None:
    cases = two_products(tmp_path)
    place = catalogue(cases)
    moved = tmp_path / "moved"
    (tmp_path / "results").rename(moved)
    catalog = pystac.Catalog.from_file(str(moved / place.relative_to(tmp_path / "results")))
    assert len(list(catalog.get_items(recursive=True))) == 2


def test_catalogue_is_the_same_bytes_again_and_in_any_order(tmp_path: Path) -> None:
    cases = two_products(tmp_path)

    def content() -> dict[str, bytes]:
        folder = Path(cases[0].state.catalog)
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    catalogue(cases)
    first = content()
    catalogue(cases[::-1])
    assert content() == first
    assert set(first) == {
        "catalog.json",
        "items.parquet",
        "sentinel-2-l1c-geozarr/collection.json",
        "sentinel-2-l2a-geozarr/collection.json",
    }


def test_products_without_item_are_left_out_and_stale_collections_removed(tmp_path: Path) -> None:
    cases = two_products(tmp_path)
    catalogue(cases)
    cases[1].state.target("stac", cases[1].product).unlink()
    place = catalogue(cases)
    assert [link["title"] for link in json.loads(place.read_text())["links"] if link["rel"] == "child"] == [
        "sentinel-2-l2a-geozarr"
    ]
    assert not (place.parent / "sentinel-2-l1c-geozarr").exists()
    assert len(read_items(place.parent / "items.parquet")) == 1


def test_catalogue_without_items_has_no_parquet(tmp_path: Path) -> None:
    cases = two_products(tmp_path)
    catalogue(cases)
    for case in cases:
        case.state.target("stac", case.product).unlink()
    place = catalogue(cases)
    assert not (place.parent / "items.parquet").exists()
    assert [link["rel"] for link in json.loads(place.read_text())["links"]] == ["root"]


def resolved(item: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return the item of ``file`` with every address made absolute."""

    def absolute(entry: dict[str, Any]) -> dict[str, Any]:
        return {**entry, "href": entry["href"] if "://" in entry["href"] else os.path.normpath(file.parent / entry["href"])}

    assets = {key: absolute(asset) for key, asset in item["assets"].items()}
    return {**item, "assets": assets, "links": [absolute(link) for link in item["links"]]}


def test_parquet_gives_back_the_same_items(tmp_path: Path) -> None:
    cases = two_products(tmp_path)
    parquet = catalogue(cases).parent / "items.parquet"
    places = [Path(case.state.target("stac", case.product)) for case in cases]
    items = [resolved(json.loads(place.read_text()), place) for place in places]
    found = [resolved(item, parquet) for item in read_items(parquet)]
    assert sorted(found, key=lambda item: item["id"]) == sorted(items, key=lambda item: item["id"])


def test_relative_addresses_in_the_parquet_lead_to_what_they_name(tmp_path: Path) -> None:
    parquet = catalogue(two_products(tmp_path)).parent / "items.parquet"
    for item in read_items(parquet):
        hrefs = {key: asset["href"] for key, asset in item["assets"].items()}
        assert hrefs["product"].startswith("../")
        assert [key for key, href in hrefs.items() if key != "validation-report" and not (parquet.parent / href).exists()] == []


def test_product_over_the_antimeridian_goes_all_the_way(tmp_path: Path) -> None:
    ring = [[179.5, -17.0], [-179.5, -17.0], [-179.5, -16.0], [179.5, -16.0]]
    source = {"geometry": {"type": "Polygon", "coordinates": [ring]}, "bbox": [-179.5, -17.0, 179.5, -16.0]}
    case = build_case(tmp_path, item=source)
    item = run(case)
    write_item(item, case.state.target("stac", case.product))
    place = catalogue((case,))
    assert item["bbox"] == [179.5, -17.0, -179.5, -16.0]
    assert len(item["geometry"]["coordinates"]) == 2
    parquet = place.parent / "items.parquet"
    own = Path(case.state.target("stac", case.product))
    assert [resolved(one, parquet) for one in read_items(parquet)] == [resolved(item, own)]
    collection = json.loads((place.parent / item["collection"] / "collection.json").read_text())
    assert collection["extent"]["spatial"]["bbox"] == [item["bbox"]]


def test_parquet_is_geoparquet(tmp_path: Path) -> None:
    parquet = catalogue(two_products(tmp_path)).parent / "items.parquet"
    table = pq.read_table(parquet)
    assert table.num_rows == 2
    geo = json.loads(table.schema.metadata[b"geo"])
    assert geo["primary_column"] == "geometry"
    assert geo["columns"]["geometry"]["encoding"] == "WKB"
    assert table.column("proj:code").to_pylist() == ["EPSG:32632", "EPSG:32632"]


def test_public_catalogue_has_self_links(tmp_path: Path) -> None:
    place = catalogue(two_products(tmp_path, public_state="https://data.example.org/state"))
    document = json.loads(place.read_text())
    links = {link["rel"]: link["href"] for link in document["links"]}
    assert links["self"] == "https://data.example.org/state/run/catalog/catalog.json"
    assert links["root"] == "./catalog.json"


@needs_schemas
def test_collection_and_catalogue_pass_their_schemas(tmp_path: Path) -> None:
    place = catalogue(two_products(tmp_path))
    schemas = load_schemas(str(SCHEMAS))
    for path in (place, *place.parent.glob("*/collection.json")):
        check = schemas.check(json.loads(path.read_text()))
        assert (check.faults, check.unchecked) == ((), ())


@pytest.mark.parametrize("text", ["", "{", "null", "[1]", "{}", "\x00\udcff"])
def test_item_file_that_is_no_item_is_named_with_the_cure(tmp_path: Path, text: str) -> None:
    cases = two_products(tmp_path)
    path = cases[0].state.target("stac", cases[0].product)
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConformanceError, match=r"not a STAC item .*; remove it, run the workflow again") as caught:
        catalogue(cases)
    assert caught.value.message.startswith(str(path))


def test_collection_without_recipe_is_a_configuration_error(tmp_path: Path) -> None:
    cases = two_products(tmp_path)
    with pytest.raises(ConfigError, match="S02MSIL1C"):
        build_catalog(cases[0].settings, {}, cases[0].state, [cases[1].product])


@pytest.mark.parametrize("has_own", [True, False])
def test_levels_of_a_map_say_whether_they_have_consolidated_metadata(tmp_path: Path, has_own: bool) -> None:
    case, path = build_case(tmp_path), "conditions/mask/l2a_classification"
    store = Path(case.receipt.store)
    zarr.open_group(store / path, mode="r+").attrs["multiscales"] = {"layout": [{"asset": "r20m"}, {"asset": "r60m"}]}
    if has_own:
        with pytest.warns(UserWarning, match="Consolidated metadata"):
            zarr.consolidate_metadata(store, path=path, zarr_format=3)
    consolidate(store)
    receipt = receipt_of(case.product, store)
    assets = run(replace(case, receipt=receipt, report=report_of(receipt)))["assets"]
    assert (assets["SCL"]["zarr:consolidated"], assets["SCL_20m"]["zarr:consolidated"]) == (has_own, False)


def test_group_without_own_consolidated_metadata_is_said_so(tmp_path: Path) -> None:
    case = build_case(tmp_path)
    assert run(case)["assets"]["reflectance"]["zarr:consolidated"] is True
    group = Path(case.receipt.store) / "measurements/reflectance/zarr.json"
    body = json.loads(group.read_text())
    del body["consolidated_metadata"]
    group.write_text(json.dumps(body))
    assert run(case)["assets"]["reflectance"]["zarr:consolidated"] is False
    consolidate(Path(case.receipt.store))
