"""Every type of product goes the whole way of a user: planned, converted, validated, described, reported, by Snakemake."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
import zarr
from stac_stores import SCHEMAS
from workspace import ROOT, Workspace

from zarrmill.model import Product
from zarrmill.sample import GrdSpec, SampleSpec, build_all
from zarrmill.stages.stac import check_item

L2A = SampleSpec(acquired=datetime(2025, 1, 13, 15, 43, 9, tzinfo=UTC), size_px=120, pixels="synthetic")
KINDS = {
    "l2a": L2A,
    "l1c": replace(L2A, product_type="S02MSIL1C"),
    "l2a-v3": replace(L2A, acquired=L2A.acquired + timedelta(days=1), layout="v3"),
    "grd": GrdSpec(shape=(150, 200), form="flat"),
}
PLACE = {"threads": 1, "schema_cache": str(SCHEMAS) if SCHEMAS.exists() else None}
SMALL = {"chunk_px": 60, "shard_px": 120}


def recipe_file(work: Workspace, name: str, **pixels: Any) -> str:
    """Put a shipped recipe with small chunks and one reader into the workspace; return its path there."""
    recipe = yaml.safe_load((ROOT / f"config/recipes/{name}.yaml").read_text())
    recipe["pixels"] |= {**SMALL, **pixels}
    recipe["validation"]["readers"] = ["xarray"]
    (work.path / f"config/{name}.yaml").write_text(yaml.safe_dump(recipe))
    return f"config/{name}.yaml"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One product of each type in one archive; a run with the recipes by default, and one that completes the Zarr v3 product."""
    made = Workspace(tmp_path_factory.mktemp("types"))
    build_all(KINDS.values(), made.path / "archive")
    (made.path / "config").mkdir()
    recipes = [recipe_file(made, name) for name in ("s2-l2a", "s2-l1c")]
    recipes.append(recipe_file(made, "s1-grd", levels_m=[10, 20, 40, 80]))
    made.configure(run="types", source={"catalogue": "archive/items.json"}, recipes=recipes, **PLACE)
    made.snakemake("plan")
    made.snakemake()
    return made


@pytest.fixture(scope="module")
def completed(work: Workspace) -> Workspace:
    """The second run, on the same archive: only the Zarr v3 product, whose chunks are kept."""
    made = Workspace(work.path, "config/complete.yaml")
    recipe = recipe_file(made, "s2-l2a-complete")
    source = {"catalogue": "archive/items.json", "collections": ["sentinel-2-l2a-zarr3"]}
    made.configure(run="complete", source=source, recipes=[recipe], **PLACE)
    assert made.zarrmill("plan", "--config", made.config).returncode == 0
    made.snakemake()
    return made


def read(work: Workspace, stage: str, product: Product) -> dict[str, Any]:
    return dict(json.loads(work.state.target(stage, product).read_text()))


def of(work: Workspace, kind: str) -> Product:
    """Return the product of one kind."""
    (product,) = [p for p in work.products if p.collection == COLLECTIONS[kind]]
    return product


COLLECTIONS = {
    "l2a": "sentinel-2-l2a",
    "l1c": "sentinel-2-l1c",
    "l2a-v3": "sentinel-2-l2a-zarr3",
    "grd": "sentinel-1-l1-grd",
}
GROUPS = {"grd": "measurements/grd", "l1c": "measurements/reflectance"}


def assert_went_the_whole_way(work: Workspace, kind: str) -> None:
    product = of(work, kind)
    report, item = read(work, "validate", product), read(work, "stac", product)
    assert report["verdict"] == "PASS", report["findings"]
    assert report["n_pixels_compared"] > 10_000
    assert report["readers"] == {"xarray": "ok"}
    assert not check_item(item, work.settings).unchecked or not SCHEMAS.exists()
    assert item["collection"] == f"{product.collection}-geozarr"
    assert item["properties"]["product:type"] == product.product_type
    group = GROUPS.get(kind, "measurements/reflectance")
    levels = [entry["asset"] for entry in zarr.open_group(work.store(product), mode="r")[group].attrs["multiscales"]["layout"]]
    assert len(levels) >= 3
    assert any(asset["href"].endswith(group) for asset in item["assets"].values())


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_goes_from_catalogue_to_item(work: Workspace, kind: str) -> None:
    assert_went_the_whole_way(work, kind)


def test_v3_product_is_laid_out_anew_by_default_and_kept_by_recipe(work: Workspace, completed: Workspace) -> None:
    assert_went_the_whole_way(completed, "l2a-v3")
    (source,) = (work.path / "archive/products").glob("*_20250114T*.zarr")
    key = "measurements/reflectance/r10m/b02/c/0/0"
    relaid, kept = work.store(of(work, "l2a-v3")), completed.store(of(completed, "l2a-v3"))
    assert relaid != kept, "one product, two recipes, two stores side by side"
    assert (kept / key).read_bytes() == (source / key).read_bytes()
    chunks = {path: zarr.open_array(path / "measurements/reflectance/r10m/b02", mode="r").chunks for path in (relaid, source)}
    assert chunks[relaid] == (60, 60)
    assert chunks[source] != (60, 60)


def test_report_and_catalogue_have_every_type(work: Workspace, completed: Workspace) -> None:
    for one, kinds in ((work, list(KINDS)), (completed, ["l2a-v3"])):
        page, summary = one.state.report.read_text(), json.loads(one.state.summary.read_text())
        assert summary["exit_code"] == 0
        products = [of(one, kind) for kind in kinds]
        assert sorted(products, key=str) == sorted(one.products, key=str)
        assert all(product.product_id in page for product in products)
        catalogue = json.loads((one.state.catalog / "catalog.json").read_text())
        children = {Path(link["href"]).parent.name for link in catalogue["links"] if link["rel"] == "child"}
        assert children == {f"{product.collection}-geozarr" for product in products}
        assert one.jobs() == {}
