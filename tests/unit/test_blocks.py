"""Bands and stripes cover a raster once and cut nothing in two; memory is known before the work."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from products import product_row, recipe_for

from zarrmill.core import blocks
from zarrmill.core.blocks import BASE_BYTES, column_bands, n_workers, stripe_rows, task_bytes
from zarrmill.core.chunking import chunk_shape, shard_shape
from zarrmill.core.geolocation import Geolocation, map_grid
from zarrmill.errors import CapacityError
from zarrmill.io.objects import Objects
from zarrmill.io.source import read_tree
from zarrmill.model import ArrayPlan, Gcps, RasterTask, SourceArray, StorePlan, Warp
from zarrmill.sample.s1 import GrdSpec, control_points
from zarrmill.stages.convert import convert, plan_store


def task(size: int, source_chunk: int, factors=(1, 2, 6, 12, 36), chunk_px: int = 915, dtype: str = "<u2") -> RasterTask:
    source = SourceArray("r10m/b02", (size, size), dtype, (source_chunk, source_chunk), ("y", "x"), 0, {}, {})
    outputs = []
    for factor in factors:
        shape = (size // factor, size // factor)
        chunks = chunk_shape(shape, chunk_px)
        outputs.append(
            (factor, ArrayPlan(f"a{factor}", shape, dtype, chunks, shard_shape(shape, chunks, 5490), ("y", "x"), 0, {}))
        )
    return RasterTask(source, "average", tuple(outputs), True, 0)


def plan(*tasks: RasterTask) -> StorePlan:
    return StorePlan({}, tasks, (), (), (), ())


@given(
    source_chunk=st.integers(1, 400),
    n=st.integers(1, 90),
    factors=st.sampled_from([(1,), (1, 2), (1, 2, 6), (1, 2, 6, 12, 36), (2,)]),
    chunk_px=st.integers(1, 300),
)
def test_bands_cover_every_column_once_and_cut_nothing_in_two(source_chunk, n, factors, chunk_px):
    given_task = task(36 * n, source_chunk, factors, chunk_px)
    bands = column_bands(given_task)
    assert [left for left, _ in bands[1:]] == [right for _, right in bands[:-1]]
    assert (bands[0][0], bands[-1][1]) == (0, 36 * n)
    for left, _ in bands[1:]:
        assert left % source_chunk == 0
        assert not any(left % (f * p.chunks[-1]) for f, p in given_task.outputs if p.shape[-1] > p.chunks[-1])
    assert not any(stripe_rows(given_task) % factor for factor in factors)


def test_a_tile_is_one_band_and_memory_does_not_grow_beyond_it():
    assert column_bands(task(10980, 5490)) == [(0, 10980)]
    assert column_bands(task(21960, 5490)) == [(0, 10980), (10980, 21960)]
    assert task_bytes(task(21960, 5490)) < 1.02 * task_bytes(task(10980, 5490))
    assert task_bytes(task(5490, 5490)) < task_bytes(task(10980, 5490))


def test_a_band_that_has_to_be_wider_is_read_in_lower_stripes():
    wide, tile = task(21960, 21960), task(10980, 10980)
    assert column_bands(wide) == [(0, 21960)]
    assert stripe_rows(wide) * 21960 < 1.15 * stripe_rows(tile) * 10980


def test_workers_are_as_many_as_fit():
    one = task_bytes(task(10980, 5490))
    mb = [int((BASE_BYTES + n * one) / 1e6) + 1 for n in range(4)]
    four = plan(*[task(10980, 5490)] * 4)
    assert [n_workers(four, 2, memory) for memory in (mb[1], mb[2] - 2, mb[2], mb[3])] == [1, 1, 2, 2]
    assert n_workers(four, 8, mb[3]) == 3
    with pytest.raises(CapacityError, match=rf"one worker needs {mb[1]} MB, the recipe allows memory_mb {mb[1] - 2}"):
        n_workers(four, 2, mb[1] - 2)


def test_a_conversion_that_cannot_fit_writes_nothing(shared_sources, tmp_path):
    recipe = recipe_for("S02MSIL2A").model_copy(update={"memory_mb": 100})
    with pytest.raises(CapacityError, match=r"ZM-CAP-MEMORY.*one worker needs"):
        convert(product_row(shared_sources["l2a"], recipe), recipe=recipe, store_root=str(tmp_path / "stores"))
    assert not (tmp_path / "stores").exists()


def test_a_product_in_bands_has_the_same_values(shared_sources, tmp_path, monkeypatch):
    recipe = recipe_for("S02MSIL2A")
    product = product_row(shared_sources["l2a-1830"], recipe)
    whole = zarr.open_group(convert(product, recipe=recipe, store_root=str(tmp_path / "whole")).store, mode="r")
    monkeypatch.setattr(blocks, "BAND_PX", 1)
    objects = Objects(product.href)
    tasks = plan_store(objects, read_tree(objects), product.product_type, recipe).rasters
    assert max(len(column_bands(given_task)) for given_task in tasks) > 1
    banded = zarr.open_group(convert(product, recipe=recipe, store_root=str(tmp_path / "banded")).store, mode="r")
    for path, array in whole.members(max_depth=None):
        if isinstance(array, zarr.Array):
            np.testing.assert_array_equal(np.asarray(banded[path][...]), np.asarray(array[...]), err_msg=path)


def test_a_worker_stays_within_what_was_reckoned(tmp_path):
    from zarrmill.config import Codec
    from zarrmill.io.arrays import PlaneWriter
    from zarrmill.io.store import StoreWriter
    from zarrmill.stages.convert import _outputs

    given_task = replace(task(3672, 3672), mandatory=False)
    writer = StoreWriter(tmp_path, Codec())
    sinks = [PlaneWriter(writer, array) for _, array in given_task.outputs]
    rng, step = np.random.default_rng(1), stripe_rows(given_task)
    tracemalloc.start()
    for start in range(0, 3672, step):
        stripe = rng.integers(1, 9999, (min(step, 3672 - start), 3672), dtype="<u2")
        for (factor, _), sink, part in zip(given_task.outputs, sinks, _outputs(stripe, given_task), strict=True):
            sink.put([part], start // factor)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < task_bytes(given_task) - 3672 * 3672 * 2  # the source's chunk was not held here


def radar_tasks(shape: tuple[int, int], chunks: tuple[int, int], heading_deg: float = -12.0) -> list[RasterTask]:
    """Return the tasks of a product with two polarisations, without its pixels."""
    spec = GrdSpec(shape=shape, heading_deg=heading_deg)
    lines, pixels, longitude, latitude, _ = control_points(spec)
    gcps = Gcps(lines, pixels, longitude, latitude)
    geolocation = Geolocation(gcps, "EPSG:32632", "EPSG:32632")
    grid = map_grid([(geolocation, shape)], "EPSG:32632", 10.0, 32, 1024)
    outputs = []
    for factor in (1, 2, 4, 8, 16, 32):
        size = (grid.shape[0] // factor, grid.shape[1] // factor)
        outputs.append((factor, ArrayPlan(f"a{factor}", size, "<u2", chunk_shape(size, 1024), None, ("y", "x"), 0, {})))
    warp = Warp(grid, gcps, "EPSG:32632", "bilinear", None)
    source = SourceArray("grd", shape, "<u2", chunks, ("azimuth_time", "ground_range"), None, {}, {})
    return [RasterTask(source, "average", tuple(outputs), True, 0, warp)] * 2


def test_a_radar_scene_is_made_in_bands_and_needs_the_same_memory_whatever_its_size_and_chunks():
    scene = radar_tasks((16677, 26064), (2048, 4096))
    bands = column_bands(scene[0])
    assert [left for left, _ in bands] == [0, 8192, 16384, 24576]
    assert task_bytes(scene[0]) < 150e6
    assert task_bytes(radar_tasks((16677, 26064), (5048, 26064))[0]) == task_bytes(scene[0])
    assert task_bytes(radar_tasks((33354, 52128), (2048, 4096))[0]) < 1.1 * task_bytes(scene[0])
    steep = task_bytes(radar_tasks((16677, 26064), (2048, 4096), heading_deg=-50.0)[0])
    assert task_bytes(scene[0]) < steep < 400e6


def test_images_that_are_warped_together_need_their_memory_at_once():
    scene = radar_tasks((16677, 26064), (2048, 4096))
    enough = int((BASE_BYTES + 2 * task_bytes(scene[0])) / 1e6) + 1
    assert n_workers(plan(*scene), 8, enough) == 8
    with pytest.raises(CapacityError, match=f"needs {enough} MB"):
        n_workers(plan(*scene), 8, enough - 2)
