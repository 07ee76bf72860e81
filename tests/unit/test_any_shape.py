"""The whole engine on gridded products of every shape from one pixel up: levels, chunks, shards, values, by slow references."""

import math
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from products import product_row
from test_resample import naive_average

from zarrmill.config import Recipe
from zarrmill.core import layout
from zarrmill.core.layout import SourceLayout
from zarrmill.model import Severity
from zarrmill.stages.convert import convert
from zarrmill.stages.validate import validate

TYPE, GROUP, PIXEL_M = "S03OLCERR", "measurements/radiance", 300
EDGES = st.one_of(st.integers(1, 5), st.integers(1, 50), st.sampled_from([12, 24, 36, 48]))


def build(root: Path, shape: tuple[int, int], chunk_px: int, seed: int) -> tuple[Path, np.ndarray]:
    """Build a product with one band on a grid of 300 m, a third of it no data in blocks, and return it with its pixels."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 65536, shape).astype("<u2")
    holes = np.repeat(np.repeat(rng.random((18, 18)) < 0.3, 4, axis=0), 4, axis=1)[: shape[0], : shape[1]]
    values[holes] = 0
    store = zarr.open_group(root / "S3A_OL_1_ERR_any.zarr", mode="w", zarr_format=2)
    store.attrs.update({"stac_discovery": {"id": "any"}, "other_metadata": {"horizontal_CRS_code": "EPSG:32632"}})
    node = store.require_group(f"{GROUP}/r{PIXEL_M}m")
    chunks = (min(chunk_px, shape[0]), min(chunk_px, shape[1]))
    band = node.create_array("oa01", data=values, chunks=chunks, fill_value=0)
    band.attrs.update({"_ARRAY_DIMENSIONS": ["y", "x"], "scale_factor": 0.01, "long_name": "oa01"})
    for axis, start, step, n in (("x", 500_150.0, 300.0, shape[1]), ("y", 4_999_850.0, -300.0, shape[0])):
        array = node.create_array(axis, data=start + step * np.arange(n), chunks=(n,))
        array.attrs["_ARRAY_DIMENSIONS"] = [axis]
    zarr.consolidate_metadata(store.store)
    return root / "S3A_OL_1_ERR_any.zarr", values


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(EDGES, EDGES),
    source_chunk=st.integers(3, 60),
    n_chunks=st.integers(1, 5),
    per_shard=st.one_of(st.none(), st.integers(1, 4)),
    factors=st.sampled_from([(1, 2, 4), (1, 2, 6, 12), (1, 3), (1, 2, 3)]),
    seed=st.integers(0, 1000),
)
def test_every_shape_is_converted_right(tmp_path_factory, monkeypatch, shape, source_chunk, n_chunks, per_shard, factors, seed):
    monkeypatch.setitem(layout.LAYOUTS, TYPE, SourceLayout(TYPE, GROUP, ("oa01",), "<u2", "radiance"))
    root, chunk_px = tmp_path_factory.mktemp("any"), math.ceil(max(shape) / n_chunks)
    source, values = build(root, shape, source_chunk, seed)
    pixels = {
        "levels_m": [PIXEL_M * factor for factor in factors],
        "chunk_px": chunk_px,
        "shard_px": per_shard and per_shard * chunk_px,
        "mandatory": [],
    }
    validation = {"readers": ["xarray"], "max_objects": 100_000}
    recipe = Recipe.model_validate({"name": "any", "product_types": [TYPE], "pixels": pixels, "validation": validation})
    product = product_row(source, recipe, TYPE)
    receipt = convert(product, recipe=recipe, store_root=str(root / "stores"))
    store = zarr.open_group(receipt.store, mode="r")[GROUP]
    fitting = [factor for factor in factors if not shape[0] % factor and not shape[1] % factor]
    assert sorted(store.group_keys()) == sorted(f"r{PIXEL_M * factor}m" for factor in fitting)
    for entry, factor in zip(store.attrs["multiscales"]["layout"], fitting, strict=True):
        level = store[entry["asset"]]["oa01"]
        np.testing.assert_array_equal(level[:], naive_average(values, factor) if factor > 1 else values)
        assert entry["spatial:shape"] == [shape[0] // factor, shape[1] // factor]
        assert_aligned(level, chunk_px, per_shard)
    report = validate(receipt.store, source=str(source), recipe=recipe, product=product)
    assert [finding for finding in report.findings if finding.severity is Severity.ERROR] == []


def assert_aligned(array: zarr.Array, chunk_px: int, per_shard: int | None) -> None:
    """Chunks are those of the recipe, never larger than the array; a shard holds whole chunks and none too many."""
    assert array.chunks == tuple(min(chunk_px, size) for size in array.shape)
    if array.shards is None:
        assert per_shard is None or array.chunks == array.shape
        return
    for size, chunk, shard in zip(array.shape, array.chunks, array.shards, strict=True):
        assert shard % chunk == 0
        assert shard == min(math.ceil(size / chunk), (per_shard or 0) * chunk_px // chunk) * chunk


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1)])
def test_smallest_products_have_one_level(tmp_path, monkeypatch, shape):
    monkeypatch.setitem(layout.LAYOUTS, TYPE, SourceLayout(TYPE, GROUP, ("oa01",), "<u2", "radiance"))
    source, values = build(tmp_path, shape, 4, 0)
    pixels = {"levels_m": [300, 600], "chunk_px": 2, "shard_px": 4, "mandatory": []}
    recipe = Recipe.model_validate({"name": "any", "product_types": [TYPE], "pixels": pixels})
    store = zarr.open_group(
        convert(product_row(source, recipe, TYPE), recipe=recipe, store_root=str(tmp_path / "stores")).store, mode="r"
    )
    np.testing.assert_array_equal(store[f"{GROUP}/r300m/oa01"][:], values)
    assert list(store[GROUP].group_keys()) == ["r300m"]
