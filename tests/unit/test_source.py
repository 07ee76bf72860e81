"""Reading products: rows equal zarr-python's, and every fault has its own error."""

import contextlib
import json

import numpy as np
import pytest
import zarr
from builders import drop_zmetadata, truncate_chunk, truncate_zmetadata
from numcodecs import Blosc, Delta, Zlib
from products import garble_chunk

from zarrmill.errors import SourceError
from zarrmill.io import source as source_module
from zarrmill.io.objects import Objects
from zarrmill.io.source import open_rows, read_tree, read_whole

BAND = "measurements/reflectance/r10m/b02"


def rows_of(path, array_path, step=37):
    objects = Objects(str(path))
    tree = read_tree(objects)
    missing = []
    reader = open_rows(objects, tree, tree.arrays[array_path], missing.append)
    height = tree.arrays[array_path].shape[-2]
    return np.concatenate([reader.read(0, start, start + step) for start in range(0, height, step)]), missing


@pytest.mark.parametrize("kind", ["l2a", "l2a-1830", "l2a-v3", "l1c"])
def test_rows_are_what_zarr_python_reads(shared_sources, kind):
    path = shared_sources[kind]
    reference = zarr.open_group(path, mode="r")
    for array_path in (BAND, "measurements/reflectance/r60m/b09", "quality/mask/r10m/b02"):
        rows, missing = rows_of(path, array_path)
        np.testing.assert_array_equal(rows, reference[array_path][:])
        assert missing == []


@pytest.mark.parametrize(("kind", "first", "n_parts"), [("l2a-1830", 0, 6), ("l2a-1830", 2, 4), ("l2a-v3", 0, 1)])
def test_rows_side_by_side_are_the_same_rows(shared_sources, kind, first, n_parts):
    objects = Objects(str(shared_sources[kind]))
    tree = read_tree(objects)
    array = tree.arrays[BAND]
    columns = (first * array.chunks[1], array.shape[1])
    one, two = (open_rows(objects, tree, array, lambda key: None, columns) for _ in range(2))
    found = set()
    for start in range(0, array.shape[0], 7):  # now and then across a row of chunks
        parts = two.read_beside(0, start, start + 7)
        found.add(len(parts))
        np.testing.assert_array_equal(np.hstack(parts), one.read(0, start, start + 7))
    assert found == {1, n_parts}


def test_whole_chunks_are_decoded_where_blosc_cannot_decode_a_range(shared_sources, monkeypatch):
    expected, _ = rows_of(shared_sources["l2a"], BAND)
    monkeypatch.setattr(source_module, "can_decode_ranges", lambda: False)
    found, _ = rows_of(shared_sources["l2a"], BAND)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("compressor", "filters", "order"),
    [(None, None, "C"), (Zlib(3), None, "C"), (Blosc("lz4"), [Delta("<u2")], "C"), (Blosc("zstd"), None, "F")],
)
def test_other_codecs_filters_and_orders_are_read(tmp_path, compressor, filters, order):
    values = np.arange(50 * 40, dtype="<u2").reshape(50, 40)
    root = zarr.open_group(tmp_path / "s.zarr", mode="w", zarr_format=2)
    array = root.create_array(
        "g/a", shape=values.shape, chunks=(20, 30), dtype="<u2", compressors=compressor, filters=filters, order=order
    )
    array.attrs["_ARRAY_DIMENSIONS"] = ["y", "x"]
    array[:] = values
    zarr.consolidate_metadata(tmp_path / "s.zarr")
    rows, _ = rows_of(tmp_path / "s.zarr", "g/a", step=13)
    np.testing.assert_array_equal(rows, values)


def test_planes_of_a_quicklook_are_read(shared_sources):
    path = shared_sources["l2a"]
    array_path = "quality/l2a_quicklook/r10m/tci"
    objects = Objects(str(path))
    tree = read_tree(objects)
    reader = open_rows(objects, tree, tree.arrays[array_path], lambda key: None)
    reference = zarr.open_group(path, mode="r")[array_path][:]
    for plane in range(3):
        np.testing.assert_array_equal(reader.read(plane, 11, 60), reference[plane, 11:60])


def test_missing_chunk_reads_as_fill_value_and_is_told(source_copy):
    path = source_copy("l2a")
    (path / BAND / "0.1").unlink()
    rows, missing = rows_of(path, BAND)
    assert missing == [f"{BAND}/0.1"]
    assert (rows[:90, 90:] == 0).all()
    assert rows[:90, :90].any()


def test_missing_shard_of_a_v3_source_is_told(source_copy):
    path = source_copy("l2a-v3")
    for item in (path / BAND / "c").rglob("*"):
        if item.is_file():
            item.unlink()
    rows, missing = rows_of(path, BAND)
    assert missing == [f"{BAND}/c/0/0"]
    assert not rows.any()


@pytest.mark.parametrize("breaker", [garble_chunk, truncate_chunk])
def test_broken_chunk_is_named(source_copy, breaker):
    path = source_copy("l2a")
    breaker(path, BAND, "1.0")
    with pytest.raises(SourceError, match=rf"{BAND}, chunk {BAND}/1\.0") as caught:
        rows_of(path, BAND)
    assert caught.value.code == "ZM-SRC-CORRUPT"


def test_chunk_of_another_size_is_refused(source_copy):
    path = source_copy("l2a")
    (path / BAND / "0.0").write_bytes(Blosc("zstd").encode(np.zeros((10, 10), "<u2")))
    with pytest.raises(SourceError, match="decodes to 200 bytes"):
        rows_of(path, BAND)


def test_random_damage_never_passes_silently_as_another_size_or_crashes(source_copy):
    path = source_copy("l2a")
    chunk = path / BAND / "0.0"
    data = chunk.read_bytes()
    expected, _ = rows_of(path, BAND)
    rng = np.random.default_rng(7)
    for _ in range(60):
        broken = bytearray(data)
        broken[rng.integers(0, len(data))] ^= 1 << int(rng.integers(0, 8))
        chunk.write_bytes(bytes(broken))
        with contextlib.suppress(SourceError):
            rows, _ = rows_of(path, BAND)
            assert rows.shape == expected.shape


def test_missing_product_is_not_an_outage(tmp_path):
    with pytest.raises(SourceError) as caught:
        read_tree(Objects(str(tmp_path / "nothing.zarr")))
    assert caught.value.code == "ZM-SRC-MISSING"


@pytest.mark.parametrize("breaker", [drop_zmetadata, truncate_zmetadata])
def test_absent_or_truncated_metadata_is_refused(source_copy, breaker):
    path = source_copy("l2a")
    breaker(path)
    with pytest.raises(SourceError) as caught:
        read_tree(Objects(str(path)))
    assert caught.value.code == "ZM-SRC-METADATA"


@pytest.mark.parametrize("text", ["[]", "{}", '{"metadata": {}}', '{"metadata": {".zgroup": {}, "a/.zarray": {}}}', "\x00"])
def test_nonsense_metadata_is_refused(tmp_path, text):
    (tmp_path / ".zmetadata").write_text(text)
    with pytest.raises(SourceError) as caught:
        read_tree(Objects(str(tmp_path)))
    assert caught.value.code == "ZM-SRC-METADATA"


def test_fingerprint_follows_the_metadata(source_copy, shared_sources):
    path = source_copy("l2a")
    before = read_tree(Objects(str(path))).fingerprint
    assert before == read_tree(Objects(str(shared_sources["l2a"]))).fingerprint
    document = json.loads((path / ".zmetadata").read_text())
    document["metadata"][".zattrs"]["changed"] = True
    (path / ".zmetadata").write_text(json.dumps(document))
    assert read_tree(Objects(str(path))).fingerprint != before


@pytest.mark.parametrize("dtype", ["<U7", ">U3"])
@pytest.mark.parametrize("fill", ["", "x"])
@pytest.mark.parametrize("compressor", [None, Blosc("zstd", shuffle=2)])
def test_text_of_one_width_is_what_zarr_python_reads(tmp_path, dtype, fill, compressor):
    path = tmp_path / "s.zarr"
    root = zarr.open_group(path, mode="w", zarr_format=2)
    root.create_array("g/a", shape=(5, 3), chunks=(2, 2), dtype=dtype, compressors=compressor, fill_value=fill)
    root["g/a"][:] = np.array([[f"ä{i}{j}" for j in range(3)] for i in range(5)], dtype)
    (path / "g/a/1.1").unlink()
    zarr.consolidate_metadata(path)
    objects, missing = Objects(str(path)), []
    found = read_whole(objects, read_tree(objects).arrays["g/a"], missing.append)
    np.testing.assert_array_equal(found, zarr.open_group(path, mode="r")["g/a"][...])
    assert missing == ["g/a/1.1"]
    assert found[2, 2] == fill


def test_corrupt_small_array_is_named(source_copy):
    path = source_copy("l2a")
    (path / "conditions/geometry/sun_angles/0.0.0").write_bytes(b"nonsense")
    objects = Objects(str(path))
    with pytest.raises(SourceError, match="conditions/geometry/sun_angles"):
        read_whole(objects, read_tree(objects).arrays["conditions/geometry/sun_angles"])
