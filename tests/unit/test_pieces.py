"""Blosc chunks read in part: every range, blocks in any order, what is not compressed, and what is broken."""

import numcodecs.blosc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zarrmill.errors import CapacityError
from zarrmill.io.answers import MissingObjectError
from zarrmill.io.blosc import HEADER_BYTES, header
from zarrmill.io.objects import Objects
from zarrmill.io.pieces import BloscPieces, PiecewiseObjects

VALUES = (np.arange(100_000) // 7 % 60_000).astype("<u2")


def compressed(values=VALUES, shuffle=2, blocksize=0, clevel=3) -> bytes:
    numcodecs.blosc.use_threads = False
    return bytes(numcodecs.blosc.compress(values, b"zstd", clevel, shuffle, blocksize))


def pieces(folder, data: bytes, n_bytes: int = VALUES.nbytes) -> BloscPieces:
    (folder / "chunk").write_bytes(data)
    return BloscPieces(PiecewiseObjects(Objects(str(folder))), "chunk", n_bytes)


@settings(max_examples=50, deadline=None)
@given(
    low=st.integers(0, VALUES.size - 1),
    n=st.integers(1, 50_000),
    shuffle=st.integers(0, 2),
    blocksize=st.sampled_from([0, 4096, 10_000, 2**20]),
    clevel=st.sampled_from([0, 1, 5]),
)
def test_every_range_is_that_of_the_whole_chunk(tmp_path_factory, low, n, shuffle, blocksize, clevel):
    high = min(low + n, VALUES.size)
    chunk = pieces(tmp_path_factory.mktemp("p"), compressed(shuffle=shuffle, blocksize=blocksize, clevel=clevel))
    np.testing.assert_array_equal(chunk.decode(2 * low, 2 * high).view("<u2"), VALUES[low:high])


def shuffled_blocks(data: bytes) -> bytes:
    """Return a chunk with its blocks in another order, as several threads write them."""
    head = header(data)
    n = -(-head.n_bytes // head.blocksize)
    starts = np.frombuffer(data, "<u4", n, HEADER_BYTES).astype(int)
    ends = np.append(starts[1:], len(data))
    order = np.random.default_rng(1).permutation(n)
    blocks, table, at = [], np.zeros(n, "<u4"), HEADER_BYTES + 4 * n
    for i in order:
        table[i] = at
        blocks.append(data[starts[i] : ends[i]])
        at += ends[i] - starts[i]
    return data[:HEADER_BYTES] + table.tobytes() + b"".join(blocks)


def test_blocks_may_lie_in_any_order(tmp_path):
    data = shuffled_blocks(compressed(blocksize=8192))
    np.testing.assert_array_equal(np.frombuffer(numcodecs.blosc.decompress(data), "<u2"), VALUES)
    chunk = pieces(tmp_path, data)
    for low, high in ((0, 100_000), (5_000, 70_001), (99_999, 100_000)):
        np.testing.assert_array_equal(chunk.decode(2 * low, 2 * high).view("<u2"), VALUES[low:high])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:10], "truncated: 10 bytes, expected a header of 16"),
        (lambda data: data[:-1], "truncated"),
        (lambda data: data[:16] + b"\xa5" * 4 + data[20:], "points out of it"),
    ],
)
def test_broken_chunks_are_told(tmp_path, change, said):
    with pytest.raises(ValueError, match=said):
        pieces(tmp_path, change(compressed()))


def test_a_chunk_of_another_size_is_told(tmp_path):
    with pytest.raises(ValueError, match="decodes to 200000 bytes, expected 5"):
        pieces(tmp_path, compressed(), 5)


def test_broken_blocks_are_told_when_they_are_read(tmp_path):
    data = bytearray(compressed(blocksize=8192))
    start = int(np.frombuffer(data, "<u4", 1, HEADER_BYTES + 4 * 3)[0])
    data[start : start + 40] = b"\xff" * 40
    chunk = pieces(tmp_path, bytes(data))
    np.testing.assert_array_equal(chunk.decode(0, 8192).view("<u2"), VALUES[:4096])
    with pytest.raises(ValueError, match="blosc"):
        chunk.decode(3 * 8192, 4 * 8192)


class Remote(Objects):
    """Objects that are as far away as those of a server, though they are here."""

    @property
    def local(self):
        return None

    @property
    def backend(self):
        from obstore.store import LocalStore

        return LocalStore(self.href)


def test_remote_objects_are_fetched_once_and_held_in_a_temporary_file(tmp_path, monkeypatch):
    import obstore

    (tmp_path / "a").write_bytes(bytes(range(100)))
    (tmp_path / "b").write_bytes(bytes(range(100, 200)))
    fetched, get = [], obstore.get
    monkeypatch.setattr(obstore, "get", lambda store, key, **asked: fetched.append(key) or get(store, key, **asked))
    objects = PiecewiseObjects(Remote(str(tmp_path)))
    assert objects.read("a", 10, 5) == bytes(range(10, 15))
    assert objects.read("b", 99, 1) == bytes([199])
    assert objects.read("a", 0, 100) == bytes(range(100))
    assert (objects.size("a"), objects.size("b")) == (100, 100)
    assert fetched == ["a", "b"]
    with pytest.raises(MissingObjectError):
        objects.size("c")


def test_no_room_for_what_is_fetched_is_a_matter_of_capacity(tmp_path, monkeypatch):
    import errno
    import os

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a").write_bytes(bytes(100))
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(CapacityError, match="temporary file"):
        PiecewiseObjects(Remote(str(tmp_path))).read("a", 0, 1)
