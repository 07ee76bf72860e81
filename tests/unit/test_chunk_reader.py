"""Reading arrays without zarr-python: zarr-python is the oracle, bytes are counted, broken bytes are told."""

import gc
import hashlib
import json
import tracemalloc
import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from zarrmill.io.chunk_layout import layout_v2, layout_v3
from zarrmill.io.chunk_reader import ChunkError, ChunkReader
from zarrmill.io.frames import parse_frame
from zarrmill.io.hashed import HashedObjects
from zarrmill.io.objects import Objects

V2 = {
    "blosc": numcodecs.Blosc(cname="zstd", clevel=3, shuffle=2, blocksize=64),
    "zstd": numcodecs.Zstd(),
    "gzip": numcodecs.GZip(),
    "none": None,
}
V3 = {"blosc": BloscCodec(typesize=2, cname="zstd", blocksize=64), "zstd": ZstdCodec(), "gzip": GzipCodec(), "none": None}
DTYPES = ["u1", "<u2", ">u2", "<i4", "<f4", "?", "<U3"]


class Counted:
    """Objects that count the bytes that are asked for."""

    def __init__(self, path: Path) -> None:
        self.objects, self.n_bytes = Objects(str(path)), 0

    def get(self, key: str) -> bytes:
        data = self.objects.get(key)
        self.n_bytes += len(data)
        return data

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        parts = self.objects.get_ranges(key, ranges)
        self.n_bytes += sum(map(len, parts))
        return parts

    def size(self, key: str) -> int:
        return self.objects.size(key)


def opened(path: Path, objects: Any = None, *, ahead: bool = True, near: bool = False, listed: bool = True) -> ChunkReader:
    v2 = (path / ".zarray").exists()
    node = json.loads((path / (".zarray" if v2 else "zarr.json")).read_text())
    layout = (layout_v2 if v2 else layout_v3)("", node)
    assert layout is not None, node
    sizes = dict(Objects(str(path)).keys()) if listed else None
    return ChunkReader(objects or Objects(str(path)), layout, sizes, ahead, near)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_region_is_what_zarr_python_reads(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 20), max_size=3), "shape"))
    chunks = tuple(data.draw(st.integers(1, 9), "chunk") for _ in shape)
    dtype = data.draw(st.sampled_from(DTYPES))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = rng.integers(0, 2 if dtype == "?" else 300, shape).astype(dtype)
    values[tuple(slice(0, n // 2) for n in shape)] = np.zeros((), dtype)  # chunks that are not stored
    path, codec = tmp_path_factory.mktemp("a"), data.draw(st.sampled_from(sorted(V2)))
    if data.draw(st.booleans(), "v2") or dtype in (">u2", "<U3"):
        options: dict[str, Any] = {"zarr_format": 2, "compressors": V2[codec] and [V2[codec]], "fill_value": values.dtype.type()}
    else:
        options = {"zarr_format": 3, "compressors": V3[codec] and [V3[codec]]}
        if shape and data.draw(st.booleans(), "sharded"):
            options["shards"] = tuple(c * data.draw(st.integers(1, 3), "shard") for c in chunks)
    array = zarr.create_array(path, shape=shape, chunks=chunks, dtype=dtype, config={"write_empty_chunks": False}, **options)
    array[...] = values
    chosen = {name: data.draw(st.booleans(), name) for name in ("ahead", "near", "listed")}
    reader = opened(path, **chosen)
    for _ in range(3):
        bounds = [sorted((data.draw(st.integers(0, n)), data.draw(st.integers(0, n)))) for n in shape]
        region = tuple(slice(*pair) for pair in bounds)
        np.testing.assert_array_equal(reader.read(region), np.asarray(array[region]))


def test_text_of_any_length_is_read(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr-python: the string data type has no final specification yet
        array = zarr.create_array(tmp_path, shape=(5,), chunks=(2,), dtype=str)
    array[...] = np.array(["b01", "", "b8a", "Ångström", "x"], object)
    assert opened(tmp_path).read((slice(0, 5),)).tolist() == ["b01", "", "b8a", "Ångström", "x"]


@pytest.mark.parametrize(
    "change",
    [
        {"order": "F"},
        {"filters": [{"id": "delta", "dtype": "<u2"}]},
        {"compressor": {"id": "lzma"}},
        {"dtype": "|O"},
        {"fill_value": 70000},
    ],
)
def test_what_zarr_python_has_to_read_has_no_layout(change: dict[str, Any]) -> None:
    node = {"shape": [4], "chunks": [2], "dtype": "<u2", "compressor": None, "order": "C", "filters": None, "fill_value": 0}
    assert layout_v2("a", node) is not None
    assert layout_v2("a", node | change) is None


@pytest.mark.parametrize(
    "change",
    [
        {"data_type": "uint17"},
        {"codecs": [{"name": "bytes", "configuration": {"endian": "big"}}]},
        {"codecs": [{"name": "transpose", "configuration": {"order": [0]}}, {"name": "bytes"}]},
        {"codecs": [{"name": "bytes"}, {"name": "zstd"}, {"name": "crc32c"}]},
        {"fill_value": 1.5},
        {"storage_transformers": [{"name": "x"}]},
        {"chunk_grid": {"name": "rectilinear", "configuration": {"chunk_shape": [2]}}},
        {"zarr_format": 2},
        {"must_understand": 1},
        {"dimension_names": ["y", "x"]},
    ],
)
def test_zarr_3_that_is_not_plain_has_no_layout(change: dict[str, Any]) -> None:
    node = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [4],
        "data_type": "uint16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2]}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "fill_value": 0,
    }
    assert layout_v3("a", node) is not None
    assert layout_v3("a", node | change) is None


def one_chunk(path: Path, values: np.ndarray[Any, Any], **codec: Any) -> Path:
    """Write an array as one blosc chunk of Zarr v2."""
    options = {"cname": "zstd", "clevel": 1, "shuffle": 1, **codec}
    array = zarr.create_array(
        path, shape=values.shape, chunks=values.shape, dtype=values.dtype, zarr_format=2, compressors=[numcodecs.Blosc(**options)]
    )
    array[...] = values
    return path


def noise(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).integers(0, 1000, shape).astype("<u2")


@pytest.mark.parametrize(("ahead", "near"), [(True, False), (True, True), (False, False)])
def test_a_chunk_read_row_by_row_is_fetched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: bool, near: bool
) -> None:
    monkeypatch.setattr("zarrmill.io.chunk_reader.AHEAD_BYTES", 100_000)
    monkeypatch.setattr("zarrmill.io.chunk_reader.SMALL_BYTES", 0)
    values = noise(1000, 600)
    path = one_chunk(tmp_path, values, blocksize=8192)
    counted = Counted(path)
    reader = opened(path, counted, ahead=ahead, near=near)
    for start in range(0, 1000, 70):
        rows = slice(start, min(start + 70, 1000))
        np.testing.assert_array_equal(reader.read((rows, slice(0, 600))), values[rows])
    size = (path / "0.0").stat().st_size
    assert counted.n_bytes <= size * (1.001 if ahead and not near else 1.5)


def test_of_an_object_on_this_machine_nothing_is_fetched_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zarrmill.io.chunk_reader.SMALL_BYTES", 0)
    path = one_chunk(tmp_path, noise(1000, 600), blocksize=8192)
    counted = Counted(path)
    opened(path, counted, near=True).read((slice(0, 70), slice(0, 600)))
    assert counted.n_bytes < (path / "0.0").stat().st_size / 5


def test_a_few_rows_take_few_bytes(tmp_path: Path) -> None:
    values = noise(1000, 1000)
    path = one_chunk(tmp_path, values, blocksize=8192)
    counted = Counted(path)
    np.testing.assert_array_equal(opened(path, counted, ahead=False).read((slice(500, 510), slice(3, 8))), values[500:510, 3:8])
    assert counted.n_bytes < (path / "0.0").stat().st_size / 20


def test_one_chunk_of_a_tile_takes_little_memory(tmp_path: Path) -> None:
    path = one_chunk(tmp_path, np.zeros((6000, 6000), "u1"))
    reader = opened(path)
    tracemalloc.start()
    for start in range(0, 6000, 300):
        assert not reader.read((slice(start, start + 300), slice(0, 6000))).any()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6_000_000  # of 36 MB; a stripe is 1.8 MB, in whole blocks up to 2 x 1 MB more


def test_blocks_in_any_order_and_plain_chunks_are_decoded() -> None:
    values = np.random.default_rng(2).integers(0, 256, 10_000).astype("u1")
    plain = numcodecs.blosc.compress(values, b"zstd", 1, 0, 1024)
    assert parse_frame(plain).is_plain
    smooth = (np.arange(30_000) // 50 % 251).astype("u1")
    whole = numcodecs.blosc.compress(smooth, b"zstd", 1, 0, 1024)
    assert not parse_frame(whole).is_plain
    n_blocks = parse_frame(whole).n_blocks
    starts = np.frombuffer(whole, "<i4", n_blocks, 16)
    by_place = np.argsort(starts)  # blosc with threads of its own does not keep the order
    ends = np.empty(n_blocks, int)
    ends[by_place] = np.append(starts[by_place][1:], len(whole))
    order = np.random.default_rng(3).permutation(n_blocks)
    sizes = (ends - starts)[order]
    moved = np.empty(n_blocks, "<i4")
    moved[order] = 16 + 4 * n_blocks + np.append(0, np.cumsum(sizes)[:-1])
    mixed = whole[:16] + moved.tobytes() + b"".join(whole[starts[i] : ends[i]] for i in order)
    for data, wanted in ((plain, values), (whole, smooth), (mixed, smooth)):
        frame = parse_frame(data)
        for start, stop in ((0, len(wanted)), (1000, 1001), (1023, 5000), (len(wanted) - 1, len(wanted))):
            first, last = frame.span(start, stop)
            np.testing.assert_array_equal(frame.decode(memoryview(data)[first:last], start, stop), wanted[start:stop])


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """An array of one shard with four chunks, each of several blocks that compress well."""
    codec = BloscCodec(typesize=2, cname="zstd", blocksize=512)
    array = zarr.create_array(tmp_path, shape=(60, 60), chunks=(30, 30), shards=(60, 60), dtype="u2", compressors=codec)
    array[...] = np.arange(3600).reshape(60, 60) + 1
    return tmp_path


def edit(path: Path, change: Any) -> None:
    file = path / "c/0/0"
    file.write_bytes(change(file.read_bytes()))


def sealed(body: bytes) -> bytes:
    """Give a shard the right checksum."""
    return body[:-4] + google_crc32c.value(body[-68:-4]).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda b: b[:-1] + bytes([b[-1] ^ 1]), "checksum of its index is wrong"),
        (lambda b: b[-10:], "10 bytes cannot hold an index of 68"),
        (lambda b: sealed(b[:-68] + (10_000).to_bytes(8, "little") + b[-60:]), "points behind its end"),
        (lambda b: b[:19] + bytes([127]) + b[20:], "a block lies outside of the chunk"),
        (lambda b: bytes(16) + b[16:], "no blosc chunk of format 2"),
        (lambda b: b[:4] + (100).to_bytes(4, "little") + b[8:], "inner chunk (0, 0): ValueError"),
        (lambda b: b[:12] + (17).to_bytes(4, "little") + b[16:], "inner chunk (0, 0): ValueError"),
    ],
)
def test_broken_shards_are_told(shard: Path, change: Any, told: str) -> None:
    edit(shard, change)
    with pytest.raises(ChunkError) as error:
        opened(shard).read((slice(0, 60), slice(0, 60)))
    assert told in str(error.value)


def test_cut_chunk_of_a_source_is_told(tmp_path: Path) -> None:
    path = one_chunk(tmp_path, noise(300, 300), blocksize=8192)
    data = (path / "0.0").read_bytes()
    (path / "0.0").write_bytes(data[: len(data) // 2])
    for rows in (slice(0, 300), slice(290, 300)):
        with pytest.raises(ChunkError, match="truncated"):
            opened(path).read((rows, slice(0, 300)))
    (path / "0.0").write_bytes(data[:40])
    with pytest.raises(ChunkError, match="blosc header"):
        opened(path).read((slice(0, 10), slice(0, 300)))


def test_a_missing_object_leaves_nothing_for_the_collector(tmp_path: Path) -> None:
    zarr.create_array(tmp_path, shape=(20, 20), chunks=(10, 10), dtype="u2", fill_value=7)
    reader = opened(tmp_path, listed=False)
    gc.collect()
    gc.disable()
    try:
        values = reader.read((slice(0, 20), slice(0, 20)))
        assert (values == 7).all()
        seen = weakref.ref(values)
        del values
        assert seen() is None
        assert gc.collect() == 0
    finally:
        gc.enable()


def tree(path: Path) -> str:
    """Digest of a folder, taken file by file."""
    files = {f.relative_to(path).as_posix(): f.read_bytes() for f in path.rglob("*") if f.is_file()}
    lines = [f"{k} {len(v)} {hashlib.sha256(v).hexdigest()}\n" for k, v in sorted(files.items()) if k != "zarr.json"]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_digest_is_right_whatever_is_read_in_which_order(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("d")
    for name in ("zarr.json", "a", "b"):
        (path / name).write_bytes(bytes(data.draw(st.lists(st.integers(0, 255), max_size=60))))
    objects = Objects(str(path))
    hashed = HashedObjects(objects, dict(objects.keys()))
    for _ in range(data.draw(st.integers(0, 6))):
        ranges = data.draw(st.lists(st.tuples(st.integers(0, 70), st.integers(1, 30)), min_size=1, max_size=3))
        hashed.get_ranges(data.draw(st.sampled_from(["a", "b"])), ranges)
    assert hashed.tree_sha256(2) == tree(path)


def test_what_was_read_is_not_read_again_for_the_digest(shard: Path) -> None:
    counted = Counted(shard)
    sizes = dict(counted.objects.keys())
    hashed = HashedObjects(counted, sizes)  # type: ignore[arg-type]  # counts what Objects would read
    opened(shard, hashed).read((slice(0, 60), slice(0, 60)))
    assert hashed.tree_sha256(1) == tree(shard)
    assert counted.n_bytes == sizes["c/0/0"]


def test_object_that_vanishes_changes_the_digest(shard: Path) -> None:
    objects = Objects(str(shard))
    hashed = HashedObjects(objects, dict(objects.keys()))
    wanted = tree(shard)
    (shard / "c/0/0").unlink()
    assert hashed.tree_sha256(1) != wanted
