"""A new gridded product type is a row in ``LAYOUTS`` and a recipe, as ``docs/guides/add-a-product-type.md`` says."""

import numpy as np
import pytest
import zarr
from products import product_row
from test_resample import naive_average

from zarrmill.config import Recipe
from zarrmill.core import layout
from zarrmill.core.layout import SourceLayout
from zarrmill.errors import SourceError
from zarrmill.model import Severity, Verdict
from zarrmill.stages.convert import convert
from zarrmill.stages.validate import validate

TYPE = "S03OLCERR"
BANDS = ("oa01", "oa02", "oa21")
RECIPE = Recipe.model_validate(
    {
        "name": "s3-olci-gridded",
        "product_types": [TYPE],
        "pixels": {"levels_m": [300, 600, 1200], "chunk_px": 16, "shard_px": 32, "mandatory": ["measurements/radiance/*/*"]},
        "validation": {"readers": ["xarray", "rioxarray"]},
    }
)


@pytest.fixture
def source(tmp_path):
    """Build a product on a 300 m grid with radiances and a mask, Zarr v2 as EOPF CPM 2 publishes it."""
    root = zarr.open_group(tmp_path / "S3A_OL_1_ERR_test.zarr", mode="w", zarr_format=2)
    root.attrs.update({"stac_discovery": {"id": "S3A_OL_1_ERR_test"}, "other_metadata": {"horizontal_CRS_code": "EPSG:32632"}})
    rng = np.random.default_rng(3)
    for group, names in (("measurements/radiance/r300m", BANDS), ("quality/mask/r300m", ("flags",))):
        node = root.require_group(group)
        for name in names:
            values = (rng.integers(0, 3, (48, 48)) * 500).astype("<u2" if name in BANDS else "u1")
            array = node.create_array(name, data=values, chunks=(24, 48), fill_value=0)
            array.attrs.update({"_ARRAY_DIMENSIONS": ["y", "x"], "scale_factor": 0.01, "long_name": name})
        for axis, start, step in (("x", 500_150.0, 300.0), ("y", 4_999_850.0, -300.0)):
            array = node.create_array(axis, data=start + step * np.arange(48), chunks=(48,))
            array.attrs["_ARRAY_DIMENSIONS"] = [axis]
    zarr.consolidate_metadata(root.store)
    return tmp_path / "S3A_OL_1_ERR_test.zarr"


def test_a_type_without_a_layout_is_refused_by_name(source, tmp_path):
    with pytest.raises(SourceError, match=r"product type 'S03OLCERR' is not supported; supported: .*S02MSIL2A"):
        convert(product_row(source, RECIPE, TYPE), recipe=RECIPE, store_root=str(tmp_path / "stores"))


def test_one_row_and_a_recipe_convert_and_validate_it(source, tmp_path, monkeypatch):
    row = SourceLayout(TYPE, "measurements/radiance", BANDS, "<u2", "toa_upwelling_spectral_radiance_in_air")
    monkeypatch.setitem(layout.LAYOUTS, TYPE, row)
    product = product_row(source, RECIPE, TYPE)
    receipt = convert(product, recipe=RECIPE, store_root=str(tmp_path / "stores"))
    store = zarr.open_group(receipt.store, mode="r")
    assert sorted(store["measurements/radiance"].group_keys()) == ["r1200m", "r300m", "r600m"]
    native = store["measurements/radiance/r300m/oa21"][:]
    np.testing.assert_array_equal(store["measurements/radiance/r1200m/oa21"][:], naive_average(native, 4))
    assert store["quality/mask/r300m/flags"].dtype == "u1"
    report = validate(receipt.store, source=str(source), recipe=RECIPE, product=product)
    assert [f for f in report.findings if f.severity is Severity.ERROR] == []
    assert report.n_pixels_compared > 0


def test_levels_of_a_kilometre_and_more_are_the_source_s_own(source, tmp_path, monkeypatch):
    monkeypatch.setitem(layout.LAYOUTS, TYPE, SourceLayout(TYPE, "measurements/radiance", BANDS, "<u2", "radiance"))
    root = zarr.open_group(source, mode="r+", use_consolidated=False)
    node = root.require_group("measurements/radiance/r1200m")
    for name in BANDS:
        array = node.create_array(name, data=np.full((12, 12), 7, "<u2"), chunks=(12, 12), fill_value=0)
        array.attrs.update({"_ARRAY_DIMENSIONS": ["y", "x"], "scale_factor": 0.01})
    for axis, start, step in (("x", 500_600.0, 1200.0), ("y", 4_999_400.0, -1200.0)):
        node.create_array(axis, data=start + step * np.arange(12), chunks=(12,)).attrs["_ARRAY_DIMENSIONS"] = [axis]
    zarr.consolidate_metadata(root.store)
    product = product_row(source, RECIPE, TYPE)
    receipt = convert(product, recipe=RECIPE, store_root=str(tmp_path / "stores"))
    store = zarr.open_group(receipt.store, mode="r")
    assert (store["measurements/radiance/r1200m/oa01"][:] == 7).all()
    assert validate(receipt.store, source=str(source), recipe=RECIPE, product=product).verdict is not Verdict.FAIL
