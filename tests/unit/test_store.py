"""The store writer against zarr-python as oracle."""

import errno
import hashlib
import json
import math
import os

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import Blosc
from until import until

from zarrmill.config import Codec, Pixels
from zarrmill.core.chunking import chunk_shape, shard_shape
from zarrmill.errors import CapacityError, StoreError
from zarrmill.io.arrays import PlaneWriter, SmallObjects, array_document
from zarrmill.io.store import ObjectSink, StoreWriter, tree_digest
from zarrmill.io.written import Entry, Part, Written
from zarrmill.model import ArrayPlan


def plan_of(values, chunk_px, shard_px, fill=0):
    chunks = chunk_shape(values.shape, chunk_px)
    shards = shard_shape(values.shape, chunks, shard_px)
    return ArrayPlan("a", values.shape, values.dtype.str, chunks, shards, ("t", "y", "x")[-values.ndim :], fill, {})


def write_planes(writer, plan, values, rows, band=1000, finished=None, stop=0):
    """Write every plane in bands of ``band`` columns and stripes of ``rows``, but the last ``stop`` stripes; return objects."""
    written = []
    blocks = [(top, left) for left in range(0, values.shape[-1], band) for top in range(0, values.shape[-2], rows)]
    for plane in np.ndindex(values.shape[:-2]):
        sink = PlaneWriter(writer, plan, plane, finished)
        for top, left in blocks[: max(len(blocks) - stop, 0)]:
            if top + rows <= sink.needed(left, min(left + band, values.shape[-1])):
                continue
            block = values[plane][top : top + rows, left : left + band]
            cut = left * 7 + top % 3 and min(block.shape[1], 3)  # some come in parts that lie side by side
            sink.put(np.array_split(block, max(cut, 1), axis=1), top, left)
        sink.release()
        written += sink.written
    return sorted(written, key=lambda item: item.key)


def write_array(path, values, chunk_px, shard_px, codec=None, rows=7, band=1000, fill=0):
    """Write ``values`` and return plan and objects."""
    codec = codec or Codec()
    plan = plan_of(values, chunk_px, shard_px, fill)
    writer = StoreWriter(path, codec)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = write_planes(writer, plan, values, rows, band)
    writer.write("a/zarr.json", json.dumps(array_document(plan, codec)).encode())
    return plan, written


def objects_of(store):
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


SHAPES = {"height": st.integers(1, 40), "width": st.integers(1, 40), "n_planes": st.one_of(st.none(), st.integers(1, 3))}
CHUNKS = {
    "chunk_px": st.integers(1, 45),
    "n": st.one_of(st.none(), st.integers(1, 4)),
    "rows": st.integers(1, 50),
    "band": st.integers(1, 45),
}
DTYPES = ["u1", "i1", "?", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f4", "<f8"]


def sparse(seed, shape, dtype, fill=0):
    """Return values of which many are the fill value, in blocks, so that chunks and shards are empty here and there."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 100, shape).astype(dtype)
    empty = np.repeat(np.repeat(rng.random((*shape[:-2], 8, 8)) < 0.5, 5, axis=-2), 5, axis=-1)
    values[empty[..., : shape[-2], : shape[-1]]] = np.nan if fill == "NaN" else fill
    return values


@settings(max_examples=100, deadline=None, derandomize=True)
@given(**SHAPES, **CHUNKS, dtype=st.sampled_from(DTYPES), other_fill=st.booleans(), seed=st.integers(0, 1000))
def test_zarr_python_reads_what_was_written(
    tmp_path_factory, height, width, n_planes, chunk_px, n, rows, band, dtype, other_fill, seed
):
    kind = np.dtype(dtype).kind
    fill = {"b": True, "f": "NaN"}.get(kind, 7) if other_fill else {"b": False}.get(kind, 0)
    shape = (height, width) if n_planes is None else (n_planes, height, width)
    values = sparse(seed, shape, dtype, fill)
    path = tmp_path_factory.mktemp("store") / "s.zarr"
    _, written = write_array(path, values, chunk_px, n and chunk_px * n, rows=rows, band=band, fill=fill)
    array = zarr.open_array(path / "a", mode="r")
    assert array.dtype == values.dtype
    np.testing.assert_array_equal(array[...], values)
    assert {item.key for item in written} | {"a/zarr.json"} == set(objects_of(path))


@pytest.mark.parametrize(("dtype", "fill"), [("u1", 0), ("<u2", 7), ("<i2", -3), ("?", True), ("<f4", 1.5), ("<f4", "NaN")])
@pytest.mark.parametrize("place", [None, 0, 5, 11])
@pytest.mark.parametrize("other", [0, 1, 9])
def test_a_chunk_is_left_out_only_where_every_value_is_the_fill_value(tmp_path, dtype, fill, place, other):
    values = np.full((3, 4), np.nan if fill == "NaN" else fill, dtype)
    same = values.copy()
    if place is not None:
        values.flat[place] = other
    written = write_planes(StoreWriter(tmp_path / "s.zarr", Codec()), plan_of(values, 4, None, fill), values, rows=3)
    assert bool(written) != np.array_equal(values, same, equal_nan=same.dtype.kind == "f")


def test_an_array_has_the_level_of_the_first_pattern_that_matches(tmp_path):
    codec = Codec(clevel=3, blocksize=0, clevels={"a/b*": 9, "a/*": 1})
    values = np.random.default_rng(0).integers(0, 50, (64, 64), "<u2")
    for path, level in (("a/b", 9), ("a/c", 1), ("b/a", 3)):
        plan = ArrayPlan(path, values.shape, "<u2", (64, 64), None, ("y", "x"), 0, {})
        write_planes(StoreWriter(tmp_path / "s.zarr", codec), plan, values, rows=64)
        inner = array_document(plan, codec)["codecs"][-1]["configuration"]
        assert inner == {"typesize": 2, "cname": "zstd", "clevel": level, "shuffle": "shuffle", "blocksize": 0}
        assert (tmp_path / "s.zarr" / path / "c/0/0").read_bytes() == Blosc("zstd", level).encode(values)


def test_a_recipe_without_other_levels_has_the_name_that_it_had():
    assert "clevels" not in Pixels().model_dump(mode="json")["codec"]
    assert Pixels(codec=Codec(clevels={"a/*": 1})).digest() != Pixels(codec=Codec(clevel=1)).digest() != Pixels().digest()


def test_what_attempts_left_is_removed_before_the_root_comes(tmp_path):
    writer = StoreWriter(tmp_path / "s.zarr", Codec())
    kept = [writer.write("a/zarr.json", b"{}"), writer.write("a/c/0/0", b"1")]
    for key in ("a/c/0/1", "a/c/0/2.part", "gone/b/zarr.json"):
        writer.write(key, b"left")
    writer.seal(b"{}", kept)
    assert set(objects_of(writer.path)) == {"zarr.json", "a/zarr.json", "a/c/0/0"}
    assert not (writer.path / "gone").exists()


class WholeOnly(StoreWriter):
    """Goes on after whole objects only, as a writer to a bucket does."""

    keeps_parts = False


@settings(max_examples=160, deadline=None, derandomize=True)
@given(
    **SHAPES,
    **CHUNKS,
    stop=st.integers(0, 12),
    extra=st.integers(0, 3),
    seed=st.integers(0, 1000),
    kind=st.sampled_from([StoreWriter, WholeOnly]),
)
def test_writer_goes_on_in_the_middle_with_equal_bytes(
    tmp_path_factory, height, width, n_planes, chunk_px, n, rows, band, stop, extra, seed, kind
):
    values = sparse(seed, (height, width) if n_planes is None else (n_planes, height, width), "<u2")
    plan, root = plan_of(values, chunk_px, n and chunk_px * n), tmp_path_factory.mktemp("store")
    whole = StoreWriter(root / "whole.zarr", Codec())
    expected = write_planes(whole, plan, values, rows, band)
    first = kind(root / "s.zarr", Codec())
    first.finished("id")
    write_planes(first, plan, values, rows, band, stop=stop)
    for part in (root / "s.zarr").rglob("*.part"):
        with part.open("ab") as stream:  # a kill after some bytes of the next chunk
            stream.write(b"x" * extra)
    second = kind(root / "s.zarr", Codec())
    finished = second.finished("id")
    if kind is WholeOnly:
        there = {path.relative_to(root / "s.zarr").as_posix() for path in (root / "s.zarr").rglob("c/**/*") if path.is_file()}
        whole_objects = {key for key in there if not key.endswith(".part")}
        assert {item.key for entry in finished.values() for item in entry.objects} == whole_objects, "each is kept"
    n_blocks = math.ceil(height / rows) * math.ceil(width / band)
    if stop == 0:
        assert all(
            PlaneWriter(second, plan, plane, finished).needed(0, width) == height for plane in np.ndindex(values.shape[:-2])
        )
    if stop >= n_blocks:
        assert finished == {}
    assert write_planes(second, plan, values, rows, band, finished) == expected
    second.clear(item.key for item in expected)
    assert objects_of(root / "s.zarr") == objects_of(root / "whole.zarr")


def test_whole_shard_is_kept_while_the_one_below_it_is_open(tmp_path):
    values = np.ones((40, 40), "<u2")
    plan, writer = plan_of(values, 5, 20), WholeOnly(tmp_path / "s.zarr", Codec())
    writer.finished("id")
    write_planes(writer, plan, values, rows=10, band=10, stop=10)  # the left half of two shards, then the right of the upper one
    (entry,) = WholeOnly(tmp_path / "s.zarr", Codec()).finished("id").values()
    assert [item.key for item in entry.objects] == ["a/c/0/0"]
    assert (entry.rows, entry.parts) == ((4, 4, 4, 4, 0, 0, 0, 0), ())


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
    SmallObjects(writer, {}).write_array(plan, values)
    writer.write("s/zarr.json", json.dumps(array_document(plan, Codec())).encode())
    np.testing.assert_array_equal(np.asarray(zarr.open_array(tmp_path / "s", mode="r")[...]), values)


def entry_of(writer, name):
    """Write an object of 10 bytes and the first 20 of a shard, and note them."""
    item = writer.write(f"{name}/c/0/0", name[:1].encode() * 10)
    sink = ObjectSink(writer.path / f"{name}/c/1/0", f"{name}/c/1/0")
    sink.append(b"0123456789" * 2)
    part = Part(sink.key, 20, sink.sha256, ((0, 0, 20),))
    sink.release()
    writer.record(Entry(f"{name}/c", (3,), (item,), (part,)))


def damage_object(store):
    (store / "bad/c/0/0").write_bytes(b"x" * 10)


def damage_part(store):
    (store / "bad/c/1/0.part").write_bytes(b"0123456789x123456789")


def shorten_part(store):
    (store / "bad/c/1/0.part").write_bytes(b"0123456789012345678")


@pytest.mark.parametrize(
    "damage",
    [
        damage_object,
        damage_part,
        shorten_part,
        lambda store: (store / "bad/c/0/0").unlink(),
        lambda store: (store / "bad/c/1/0.part").unlink(),
        lambda store: (store / "bad/c/0/0").write_bytes(b"b" * 11),
    ],
)
def test_journal_proves_only_what_is_whole(tmp_path, damage):
    store = tmp_path / "s.zarr"
    writer = StoreWriter(store, Codec())
    with writer.locked():
        writer.finished("id")
        entry_of(writer, "good")
        entry_of(writer, "bad")
        damage(store)
        assert list(StoreWriter(store, Codec()).finished("id")) == ["good/c"]


@pytest.mark.parametrize("line", ["{", "[]", "{}", "\x00\xff", '{"of": "id", "entry": {"name": 3}}', '{"of": "id"}'])
def test_torn_and_garbled_lines_of_the_journal_prove_nothing_and_hide_nothing(tmp_path, line):
    writer = StoreWriter(tmp_path / "s.zarr", Codec())
    with writer.locked():
        writer.finished("id")
        entry_of(writer, "one")
        with writer.journal.path.open("ab") as stream:
            stream.write(line.encode("latin-1"))  # no line break: the kill came before it
        entry_of(writer, "two")
        assert list(writer.finished("id")) == ["one/c", "two/c"]


def test_journal_of_another_identity_is_not_believed(tmp_path):
    store = tmp_path / "s.zarr"
    writer = StoreWriter(store, Codec())
    writer.finished("another recipe")
    entry_of(writer, "one")
    assert writer.finished("id") == {}
    assert list(writer.finished("another recipe")) == ["one/c"]


def test_shard_that_was_finished_after_it_was_noted_is_gone_on_with_all_the_same(tmp_path, monkeypatch):
    """A kill between the name of an object and the entry that tells of it."""
    values = np.arange(1, 41 * 40 + 1, dtype="<u2").reshape(41, 40)
    plan = plan_of(values, 10, 20)
    whole = StoreWriter(tmp_path / "whole.zarr", Codec())
    expected = write_planes(whole, plan, values, 10)
    writer = StoreWriter(tmp_path / "s.zarr", Codec())
    writer.finished("id")
    write_planes(writer, plan, values, 10, stop=3)
    record = StoreWriter.record
    with monkeypatch.context() as patched:
        patched.setattr(StoreWriter, "record", lambda self, entry: None if not entry.parts else record(self, entry))
        write_planes(writer, plan, values, 10, finished=writer.finished("id"), stop=1)
    assert (tmp_path / "s.zarr/a/c/0/0").exists()
    finished = writer.finished("id")
    assert finished["a/c"].rows == (3, 3, 3, 3)
    appended, append = [], ObjectSink.append
    monkeypatch.setattr(ObjectSink, "append", lambda sink, data: (appended.append(sink.key), append(sink, data)))
    assert write_planes(writer, plan, values, 10, finished=finished) == expected
    assert (appended.count("a/c/0/0"), appended.count("a/c/1/0")) == (0, 3), "two chunks and the index"
    writer.clear(item.key for item in expected)
    assert objects_of(tmp_path / "s.zarr") == objects_of(tmp_path / "whole.zarr")


def test_later_entry_of_a_name_replaces_the_earlier(tmp_path):
    writer = StoreWriter(tmp_path / "s.zarr", Codec())
    writer.finished("id")
    one, two = writer.write("a/c/0", b"1"), writer.write("a/c/1", b"2")
    writer.record(Entry("a/c", (1,), (one,)))
    writer.record(Entry("a/c", (2,), (one, two)))
    assert writer.finished("id") == {"a/c": Entry("a/c", (2,), (one, two))}


def test_small_objects_are_written_again_only_when_not_noted_or_with_other_bytes(tmp_path, monkeypatch):
    path = tmp_path / "s.zarr"
    writer = StoreWriter(path, Codec())
    with writer.locked():
        small = SmallObjects(writer, writer.finished("id"))
        for number in range(40):
            small.write(f"{number}/zarr.json", b"{}")
    writer = StoreWriter(path, Codec())
    with writer.locked():
        small = SmallObjects(writer, writer.finished("id"))
        begun, append = [], ObjectSink.append
        monkeypatch.setattr(ObjectSink, "append", lambda sink, data: (begun.append(sink.key), append(sink, data)))
        for number in range(40):
            small.write(f"{number}/zarr.json", b"[]" if number == 5 else b"{}")
    assert len(objects_of(path)) == 40
    assert (path / "5/zarr.json").read_bytes() == b"[]"
    assert begun == [f"{number}/zarr.json" for number in (5, *range(32, 40))]


def test_second_writer_waits_and_then_says_who_holds_the_store(tmp_path):
    first, second = (StoreWriter(tmp_path / "s.zarr", Codec()) for _ in range(2))
    with first.locked(), pytest.raises(StoreError, match="another process is writing") as caught, second.locked(wait_s=0):
        pass
    assert caught.value.code == "ZM-STO-DENIED"
    with second.locked(wait_s=0):
        assert second.finished("id") == {}


def test_tree_digest_ignores_order_and_the_root_but_not_a_byte():
    objects = [("a", 1, "x"), ("b", 2, "y"), ("zarr.json", 3, "z")]
    assert tree_digest(objects) == tree_digest(reversed(objects[:2]))
    assert tree_digest(objects) != tree_digest([("a", 1, "x"), ("b", 2, "Y")])


LARGE = b"0123456789abcdef" * (1 << 17)


def sealed(writer):
    with writer.locked():
        written = [writer.write("large", LARGE), writer.write("small", b"1")]
        writer.seal(b"{}", written)
    return [*written, Written("zarr.json", 2, hashlib.sha256(b"{}").hexdigest())]


def told(items):
    return sorted((item.key, item.n_bytes, item.sha256) for item in items)


def test_objects_that_are_found_as_written_are_read_back_without_another_digest(tmp_path, monkeypatch):
    writer = StoreWriter(tmp_path / "s.zarr", Codec())
    written = sealed(writer)
    monkeypatch.setattr("zarrmill.io.store.sha256_of", lambda path: pytest.fail(f"{path} is digested again"))
    assert told(writer.read_back(2)) == told(written)


@pytest.mark.parametrize("new", [LARGE[:-1] + b"x", LARGE[:-1], LARGE + b"x"])
def test_object_that_changed_after_the_seal_has_another_digest(tmp_path, new):
    writer = StoreWriter(tmp_path / "s.zarr", Codec())
    written = sealed(writer)
    (writer.path / "large").write_bytes(new)
    (writer.path / "foreign").write_bytes(b"1")
    found = {item.key: item for item in writer.read_back(2)}
    assert found["large"].sha256 == hashlib.sha256(new).hexdigest() != written[0].sha256
    assert found.keys() == {"foreign", "large", "small", "zarr.json"}


def test_every_object_and_folder_is_flushed_before_the_root_is_written(tmp_path, monkeypatch):
    flushed = []

    def flush(path):
        flushed.append((path, (tmp_path / "s.zarr/zarr.json").exists()))

    monkeypatch.setattr("zarrmill.io.store._flush", flush)
    writer = StoreWriter(tmp_path / "s.zarr", Codec())
    sealed(writer)
    before, after = ([path.name for path, is_sealed in flushed if is_sealed is when] for when in (False, True))
    assert (before[0], sorted(before), after) == ("large", ["large", "s.zarr", "small"], ["zarr.json", "s.zarr"])


@pytest.mark.parametrize("seals", [True, False])
def test_object_that_the_disk_did_not_take_is_not_believed_by_the_next_attempt(tmp_path, monkeypatch, seals):
    """Its bytes may still be read from memory, and the kernel tells of the error once."""
    inode = []

    def fsync(handle):
        if os.fstat(handle).st_size == len(LARGE):
            inode.append(os.fstat(handle).st_ino)
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.fsync", fsync)
    writer = StoreWriter(tmp_path / "s.zarr", Codec())

    def attempt():
        with writer.locked():
            writer.finished("id")
            item = writer.write("large", LARGE)
            writer.record(Entry("large", objects=(item,)))
            if seals:
                writer.seal(b"{}", [item])
            until(lambda: inode)
            raise KeyError("another reason")

    with pytest.raises(StoreError if seals else KeyError, match=r"Input/output error" if seals else "another reason"):
        attempt()
    assert StoreWriter(tmp_path / "s.zarr", Codec()).finished("id") == {}


def test_object_that_cannot_be_read_back_is_told_in_our_words(tmp_path, monkeypatch):
    writer = StoreWriter(tmp_path / "s.zarr", Codec())
    sealed(writer)

    def fails(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("zarrmill.io.store._crc32c_of", fails)
    with pytest.raises(StoreError, match="cannot be read back: Input/output error") as caught:
        writer.read_back(2)
    assert caught.value.code == "ZM-STO-LOST"


def test_store_is_not_sealed_when_an_object_is_gone(tmp_path):
    writer = StoreWriter(tmp_path / "s.zarr", Codec())
    written = [writer.write("a/c/0", b"1"), writer.write("a/c/1", b"2")]
    (writer.path / "a/c/1").unlink()
    with pytest.raises(StoreError, match=r"a/c/1: was written and is gone \(1 objects\)") as caught:
        writer.seal(b"{}", written)
    assert caught.value.code == "ZM-STO-LOST"
    assert not writer.is_sealed()


def test_store_is_not_sealed_when_the_disk_did_not_take_an_object(tmp_path, monkeypatch):
    def flush(path):
        if path.name == "large":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("zarrmill.io.store._flush", flush)
    writer = StoreWriter(tmp_path / "s.zarr", Codec())
    with pytest.raises(CapacityError, match="No space left on device"):
        sealed(writer)
    assert not writer.is_sealed()
