"""Ranges of a blosc chunk, decoded in any order, are what decoding it whole gives."""

import numcodecs.blosc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zarrmill.io.blosc import BloscChunk


@given(data=st.data(), n=st.integers(1, 5000), typesize=st.sampled_from([1, 2, 4]), blocksize=st.sampled_from([0, 256, 4096]))
def test_any_sequence_of_ranges_gives_the_items(data, n, typesize, blocksize):
    values = np.random.default_rng(n).integers(0, 9, n).astype("<u2")
    raw = values.tobytes()
    elements = np.frombuffer(raw, f"u{typesize}") if len(raw) % typesize == 0 else np.frombuffer(raw, "u1")
    chunk = BloscChunk(numcodecs.blosc.compress(elements, b"zstd", 1, 1, blocksize), values.dtype)
    for _ in range(4):
        low = data.draw(st.integers(0, n - 1))
        high = data.draw(st.integers(low, n))
        np.testing.assert_array_equal(chunk.items(low, high), values[low:high])


def test_reading_forward_decodes_each_block_once(monkeypatch):
    values = np.arange(100_000, dtype="<u2")
    chunk = BloscChunk(numcodecs.blosc.compress(values, b"zstd", 1, 1, 4096), values.dtype)
    decoded = []
    decode = BloscChunk._decode
    monkeypatch.setattr(BloscChunk, "_decode", lambda self, start, out: (decoded.append(out.size), decode(self, start, out)))
    parts = [chunk.items(low, min(low + 777, 100_000)) for low in range(0, 100_000, 777)]
    np.testing.assert_array_equal(np.concatenate(parts), values)
    assert sum(decoded) == 100_000


def test_a_block_that_cannot_be_decoded_is_an_error():
    data = bytearray(numcodecs.blosc.compress(np.random.default_rng(1).integers(0, 99, 9999).astype("<u2"), b"zstd", 1, 1, 0))
    data[40:400] = bytes(360)
    with pytest.raises(ValueError, match="blosc error"):
        BloscChunk(bytes(data), np.dtype("<u2")).items(0, 9999)
