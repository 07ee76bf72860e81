"""The store writer against zarr-python as oracle."""

import json

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zarrmill.config import Codec
from zarrmill.core.chunking import chunk_shape, shard_shape
from zarrmill.errors import StoreError
from zarrmill.io.store import PlaneWriter, StoreWriter, array_document, tree_digest, write_small
from zarrmill.model import ArrayPlan


def write_array(path, values, chunk_px, shard_px, codec=None, rows=7, band=1000, fill=0):
    """Write ``values`` in bands of ``band`` columns, stripes of ``rows``, and return the plan."""
    codec = codec or Codec()
    chunks = chunk_shape(values.shape, chunk_px)
    shards = shard_shape(values.shape, chunks, shard_px)
    plan = ArrayPlan("a", values.shape, values.dtype.str, chunks, shards, ("y", "x"), fill, {})
    writer = StoreWriter(path, codec)
    sink = PlaneWriter(writer, plan)
    for left in range(0, values.shape[1], band):
        for top in range(0, len(values), rows):
            sink.put(values[top : top + rows, left : left + band], top, left)
    writer.write("a/zarr.json", json.dumps(array_document(plan, codec)).encode())
    return plan, sink.written


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    chunk_px=st.integers(1, 17),
    n=st.one_of(st.none(), st.integers(1, 4)),
    rows=st.integers(1, 50),
    band=st.integers(1, 45),
    dtype=st.sampled_from(["u1", "<u2", "<f4"]),
    seed=st.integers(0, 1000),
)
def test_zarr_python_reads_what_was_written(tmp_path_factory, height, width, chunk_px, n, rows, band, dtype, seed):
    values = np.random.default_rng(seed).integers(0, 3, (height, width)).astype(dtype)
    path = tmp_path_factory.mktemp("store")
    write_array(path, values, chunk_px, n and chunk_px * n, rows=rows, band=band)
    array = zarr.open_array(path / "a", mode="r")
    np.testing.assert_array_equal(array[:], values)


def test_chunks_are_the_bytes_that_zarr_python_writes(tmp_path):
    values = np.arange(100 * 80, dtype="<u2").reshape(100, 80)
    plan, written = write_array(tmp_path / "ours", values, 40, None)
    reference = zarr.create_array(
        tmp_path / "theirs" / "a",
        shape=values.shape,
        dtype=values.dtype,
        chunks=plan.chunks,
        fill_value=0,
        compressors=zarr.codecs.BloscCodec(typesize=2, cname="zstd", clevel=2, shuffle="shuffle", blocksize=1 << 20),
    )
    reference[:] = values
    for item in written:
        assert (tmp_path / "ours" / item.key).read_bytes() == (tmp_path / "theirs" / item.key).read_bytes()


def test_empty_chunks_and_empty_shards_are_not_written(tmp_path):
    values = np.zeros((40, 40), "<u2")
    values[25, 25] = 7
    _, written = write_array(tmp_path, values, 10, 20)
    assert [item.key for item in written] == ["a/c/1/1"]
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a", mode="r")[:], values)


def test_value_that_equals_another_fill_value_is_not_lost(tmp_path):
    values = np.zeros((10, 10), "<u2")
    write_array(tmp_path, values, 10, None, fill=9)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a", mode="r")[:], values)


@pytest.mark.parametrize(
    ("values", "dtype", "fill"),
    [
        (np.array(3, np.int64), "<i8", 0),
        (np.array(["b01", "b8a"]), "string", ""),
        (np.array([[1.5, np.nan]]), "<f8", "NaN"),
        (np.array([], np.int32), "<i4", 0),
    ],
)
def test_small_arrays_read_back(tmp_path, values, dtype, fill):
    plan = ArrayPlan("s", values.shape, dtype, tuple(max(1, n) for n in values.shape), None, ("d",) * values.ndim, fill, {})
    writer = StoreWriter(tmp_path, Codec())
    write_small(writer, plan, values)
    writer.write("s/zarr.json", json.dumps(array_document(plan, Codec())).encode())
    np.testing.assert_array_equal(np.asarray(zarr.open_array(tmp_path / "s", mode="r")[...]), values)


def test_journal_proves_only_what_is_whole(tmp_path):
    writer = StoreWriter(tmp_path / "s.zarr", Codec())
    with writer.locked():
        good, bad, gone = (writer.write(f"{name}/c/0", name.encode() * 10) for name in ("good", "bad", "gone"))
        for name, item in (("good", good), ("bad", bad), ("gone", gone)):
            writer.record(name, [item])
        (tmp_path / "s.zarr/bad/c/0").write_bytes(b"x" * bad.n_bytes)
        (tmp_path / "s.zarr/gone/c/0").unlink()
        with writer.journal.open("a") as stream:
            stream.write('{"source": "torn", "obj')
        assert list(writer.finished()) == ["good"]
        writer.clear(["good/c/0"])
    assert [p.relative_to(tmp_path / "s.zarr").as_posix() for p in (tmp_path / "s.zarr").rglob("*") if p.is_file()] == [
        "good/c/0"
    ]


def test_second_writer_waits_and_then_says_who_holds_the_store(tmp_path):
    first, second = StoreWriter(tmp_path / "s.zarr", Codec()), StoreWriter(tmp_path / "s.zarr", Codec())
    with first.locked(), pytest.raises(StoreError, match="another process is writing") as caught, second.locked(wait_s=0):
        pass
    assert caught.value.code == "ZM-STO-DENIED"
    with second.locked(wait_s=0):
        assert second.finished() == {}


def test_tree_digest_ignores_order_and_the_root_but_not_a_byte():
    objects = [("a", 1, "x"), ("b", 2, "y"), ("zarr.json", 3, "z")]
    assert tree_digest(objects) == tree_digest(reversed(objects[:2]))
    assert tree_digest(objects) != tree_digest([("a", 1, "x"), ("b", 2, "Y")])
