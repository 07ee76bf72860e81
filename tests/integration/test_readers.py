"""Readers that others wrote open our stores and see what the source holds: CRS, transform, nodata, scale, every value."""

import importlib
import json
import shutil
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from products import ROOT, product_row, recipe_for
from workspace import Workspace

from zarrmill.stages.convert import convert

LEVEL = "measurements/reflectance/r10m"
BAND = "b02"
NODE_MODULES = ROOT / ".tools/node/node_modules"

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rioxarray and rio-tiler on affine 3


@dataclass(frozen=True)
class Case:
    """One converted product, and what its source says about one band."""

    store: Path
    sharded: bool
    dn: np.ndarray
    """Band of the source, read by zarr-python."""
    epsg: int
    transform: tuple[float, ...]
    """Of the source's x and y: rasterio order, origin at the pixel's edge."""
    source: Path

    @property
    def reflectance(self) -> np.ndarray:
        return np.where(self.dn == 0, np.nan, self.dn * 1e-4 - 0.1)


@pytest.fixture(
    scope="module",
    params=[("l2a", True), ("l2a", False), ("l1c", True), ("l1c", False)],
    ids=["l2a-sharded", "l2a-unsharded", "l1c-sharded", "l1c-unsharded"],
)
def case(request, shared_sources, tmp_path_factory) -> Case:
    kind, sharded = request.param
    product_type = {"l2a": "S02MSIL2A", "l1c": "S02MSIL1C"}[kind]
    recipe = recipe_for(product_type, shard_px=120 if sharded else None)
    source = shared_sources[kind]
    product = product_row(source, recipe, product_type)
    receipt = convert(product, recipe=recipe, store_root=str(tmp_path_factory.mktemp("stores")), threads=2)
    group = zarr.open_group(source, mode="r")[LEVEL]
    x, y = (np.asarray(group[name][:2], np.float64) for name in "xy")
    transform = (x[1] - x[0], 0.0, x[0] - 5, 0.0, y[1] - y[0], y[0] + 5)
    case = Case(Path(receipt.store), sharded, group[BAND][...], group[BAND].attrs["proj:epsg"], transform, source)
    assert (zarr.open_group(case.store, mode="r")[f"{LEVEL}/{BAND}"].shards is not None) == sharded
    assert (case.dn == 0).any(), "the test needs nodata"
    assert (case.dn > 0).any()
    return case


def assert_reflectance(found: Any, case: Case) -> None:
    """Decoded values are DN x 1e-4 - 0.1, in double or single precision; nodata is NaN and nothing else is."""
    found = np.asarray(found)
    assert found.dtype.kind == "f"
    np.testing.assert_array_equal(np.isnan(found), case.dn == 0)
    np.testing.assert_allclose(found, case.reflectance, rtol=0, atol=1e-6)


def quietly(module: str) -> Any:
    """Import a reader that warns on import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


def test_zarr_python_reads_the_sources_numbers(case):
    array = zarr.open_array(case.store, path=f"{LEVEL}/{BAND}", mode="r")
    np.testing.assert_array_equal(array[...], case.dn)
    assert array.dtype == np.uint16
    assert array.fill_value == 0


def test_zarr_python_lists_the_whole_tree_from_the_consolidated_root(case):
    root = zarr.open_consolidated(case.store)
    walked = zarr.open_group(case.store, mode="r", use_consolidated=False)
    assert {path for path, _ in root.members(max_depth=None)} == {path for path, _ in walked.members(max_depth=None)}


def test_dask_reads_it_in_parallel(case):
    import dask.array as da

    array = da.from_zarr(str(case.store), component=f"{LEVEL}/{BAND}")
    assert array.npartitions > 1
    np.testing.assert_array_equal(array.compute(), case.dn)
    assert int((array > 0).sum().compute()) == int((case.dn > 0).sum())


def test_xarray_opens_the_tree_decoded(case):
    import xarray as xr

    with xr.open_datatree(case.store, engine="zarr") as tree:
        assert_reflectance(tree[f"{LEVEL}/{BAND}"].values, case)
        for level in ("r10m", "r20m", "r60m"):
            assert {"b02", "b04"} <= set(tree[f"measurements/reflectance/{level}"].data_vars)
        x = tree[f"{LEVEL}/x"].values
        assert x[0] == case.transform[2] + case.transform[0] / 2


def test_xarray_opens_one_group_lazily(case):
    import xarray as xr

    with xr.open_dataset(case.store, engine="zarr", group=LEVEL, chunks={}) as dataset:
        assert dataset[BAND].chunks is not None
        assert_reflectance(dataset[BAND].values, case)
        assert dataset[BAND].encoding["_FillValue"] == 0
        assert dataset[BAND].encoding["scale_factor"] == 0.0001
        assert dataset[BAND].encoding["add_offset"] == -0.1
    with xr.open_dataset(case.store, engine="zarr", group=LEVEL, mask_and_scale=False) as dataset:
        np.testing.assert_array_equal(dataset[BAND].values, case.dn)


def test_classes_and_masks_stay_integers_in_xarray(case):
    import xarray as xr

    path = "quality/mask/r10m"
    with xr.open_dataset(case.store, engine="zarr", group=path) as dataset:
        assert dataset["b02"].dtype == np.uint8
        np.testing.assert_array_equal(dataset["b02"].values, zarr.open_array(case.source, path=f"{path}/b02", mode="r")[...])


def test_rioxarray_knows_where_it_is(case):
    import rioxarray  # noqa: F401 - registers the accessor
    import xarray as xr

    with xr.open_dataset(case.store, engine="zarr", group=LEVEL, decode_coords="all") as dataset:
        raster = dataset[BAND].rio
        assert raster.crs.to_epsg() == case.epsg
        assert tuple(raster.transform())[:6] == case.transform
        assert raster.encoded_nodata == 0
        height, width = case.dn.shape
        left, top = case.transform[2], case.transform[5]
        assert raster.bounds() == (left, top - 10 * height, left + 10 * width, top)
        warped = dataset[BAND].rio.reproject("EPSG:4326")
        assert np.nanmax(warped.values) <= np.nanmax(case.reflectance) + 1e-6
        assert abs(float(np.nanmean(warped.values)) - float(np.nanmean(case.reflectance))) < 0.05


def test_rio_tiler_reads_native_pixels_and_makes_tiles(case):
    reading = quietly("rio_tiler.experimental.zarr")  # warns that it is experimental

    group = zarr.open_group(case.store, mode="r")["measurements/reflectance"]
    with reading.GroupReader(group) as reader:
        assert reader.crs.to_epsg() == case.epsg
        assert tuple(reader.transform)[:6] == case.transform
        image = reader.preview(variables=[BAND], max_size=None)
        assert image.array.shape == (1, *case.dn.shape)
        np.testing.assert_array_equal(image.array.data[0], case.dn)
        np.testing.assert_array_equal(np.ma.getmaskarray(image.array)[0], case.dn == 0)
        west, south, east, north = reader.get_geographic_bounds(reader.tms.rasterio_geographic_crs)
        for zoom in {reader.minzoom, reader.maxzoom}:
            tile = reader.tms.tile((west + east) / 2, (south + north) / 2, zoom)
            assert reader.tile(tile.x, tile.y, tile.z, variables=[BAND]).array.count() > 0


def test_rasterio_reads_unsharded_stores(case):
    import rasterio

    version = tuple(int(part) for part in rasterio.__gdal_version__.split(".")[:2])
    if version < (3, 12) or (case.sharded and version < (3, 13)):
        pytest.skip(f"GDAL {rasterio.__gdal_version__} cannot read this form of Zarr v3")
    with rasterio.open(f'ZARR:"{case.store}":/{LEVEL}/{BAND}') as dataset:
        assert dataset.crs.to_epsg() == case.epsg
        assert tuple(dataset.transform)[:6] == case.transform
        assert dataset.nodata == 0
        assert dataset.scales == (0.0001,)
        assert dataset.offsets == (-0.1,)
        np.testing.assert_array_equal(dataset.read(1), case.dn)
        assert_reflectance(
            dataset.read(1, masked=True).astype("f8").filled(np.nan) * dataset.scales[0] + dataset.offsets[0], case
        )


def test_geozarr_toolkit_and_zarr_cm_find_no_fault(case):
    import zarr_cm

    validate_group = quietly("geozarr_toolkit").validate_group  # warns of where it imports from pydantic
    root = zarr.open_group(case.store, mode="r")
    declared = {"": root} | {path: node for path, node in root.members(max_depth=None) if isinstance(node, zarr.Group)}
    declared = {path: group for path, group in declared.items() if "zarr_conventions" in group.attrs}
    assert {"", "measurements/reflectance", LEVEL, "quality/mask/r10m"} <= set(declared)
    for path, group in declared.items():
        found = validate_group(group)
        assert "spatial" in found, path
        assert "proj" in found, path
        assert not any(found.values()), (path, found)
        attributes = group.attrs.asdict()
        assert zarr_cm.validate_all(attributes) == attributes
    assert "multiscales" in validate_group(declared["measurements/reflectance"])


ZARRITA = """
import * as zarr from "zarrita";
import { FileSystemStore } from "@zarrita/storage";
const [path, level, band] = process.argv.slice(2);
const store = await zarr.withConsolidatedMetadata(new FileSystemStore(path));
const root = await zarr.open(store, { kind: "group" });
const array = await zarr.open(root.resolve(`${level}/${band}`), { kind: "array" });
const whole = await zarr.get(array);
const x = await zarr.get(await zarr.open(root.resolve(`${level}/x`), { kind: "array" }), [zarr.slice(2)]);
console.log(JSON.stringify({
  shape: whole.shape, data: Array.from(whole.data), type: whole.data.constructor.name,
  attrs: array.attrs, x: Array.from(x.data), nodes: store.contents().length,
}));
"""


def test_zarrita_reads_it_in_javascript(case, tmp_path):
    node = shutil.which("node")
    if node is None or not (NODE_MODULES / "zarrita").is_dir():
        pytest.skip(f"needs node and zarrita in {NODE_MODULES}")
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    (tmp_path / "read.mjs").write_text(ZARRITA)
    done = subprocess.run(
        [node, "read.mjs", str(case.store), LEVEL, BAND], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["type"] == "Uint16Array"
    np.testing.assert_array_equal(np.reshape(told["data"], told["shape"]), case.dn)
    assert told["attrs"]["scale_factor"] == 0.0001
    assert told["x"][0] == case.transform[2] + 5
    assert told["nodes"] == 1 + len(list(zarr.open_group(case.store, mode="r").members(max_depth=None)))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Workspace:
    """A run of one product to its end."""
    work = Workspace.create(tmp_path_factory.mktemp("run") / "work", n_days=1, products_per_day=1)
    work.plan()
    work.snakemake()
    return work


def test_pystac_walks_a_run_from_its_catalogue_to_the_pixels(run):
    import pystac
    import xarray as xr

    (product,) = run.products
    catalog = pystac.Catalog.from_file(str(run.state.catalog / "catalog.json"))
    (item,) = catalog.get_items(recursive=True)
    assert item.id == pystac.Item.from_file(str(run.state.target("stac", product))).id
    asset = item.assets["reflectance"]
    assert asset.media_type == "application/vnd.zarr; version=3; profile=multiscales"
    href = asset.get_absolute_href()
    with xr.open_dataset(href, engine="zarr", group="r10m", mask_and_scale=False) as dataset:
        source = zarr.open_group(run.path / product.href, mode="r")[LEVEL]
        np.testing.assert_array_equal(dataset[BAND].values, source[BAND][...])
        assert item.properties["proj:code"] == f"EPSG:{source[BAND].attrs['proj:epsg']}"
    (band,) = [band for band in asset.extra_fields["bands"] if band["name"].lower() == BAND]
    assert (band["nodata"], band["raster:scale"], band["raster:offset"]) == (0, 0.0001, -0.1)
