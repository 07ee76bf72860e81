"""``zarr3_source: complete``: what the source has stays byte for byte, what it lacks is added."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs.blosc
import numpy as np
import pytest
import zarr
from products import product_row, recipe_for
from test_resample import naive_average

from zarrmill.core.estimate import estimate, read_tree
from zarrmill.errors import SourceError
from zarrmill.io import source as source_io
from zarrmill.io.objects import Objects
from zarrmill.io.store import StoreWriter
from zarrmill.model import ConvertReceipt, Severity, Verdict
from zarrmill.stages.convert import convert, plan_store
from zarrmill.stages.validate import validate

BANDS = "measurements/reflectance"
BAND = f"{BANDS}/r10m/b02"
MASK = "quality/mask/r10m/b02"
NUMBERS = ("uint8", "uint16", "int64", "int32", "uint32", "float32", "float64")


def complete_recipe(**pixels: object):
    chosen = {"zarr3_source": "complete", "overviews": ("conditions/mask/l2a_classification",), **pixels}
    recipe = recipe_for("S02MSIL2A", **chosen)
    return recipe.model_copy(update={"validation": recipe.validation.model_copy(update={"max_objects": 2000})})


def run(source: Path, root: Path, threads: int = 2, **pixels: object) -> ConvertReceipt:
    recipe = complete_recipe(**pixels)
    return convert(product_row(source, recipe), recipe=recipe, store_root=str(root), threads=threads)


@pytest.fixture(scope="module")
def receipt(shared_sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> ConvertReceipt:
    return run(shared_sources["l2a-v3"], tmp_path_factory.mktemp("complete"))


def objects_of(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def edit_node(product: Path, path: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change one node of a v3 source, in the consolidated metadata and in its own document."""
    root = json.loads((product / "zarr.json").read_text())
    node = root["consolidated_metadata"]["metadata"][path]
    change(node)
    (product / "zarr.json").write_text(json.dumps(root))
    own = json.loads((product / path / "zarr.json").read_text())
    (product / path / "zarr.json").write_text(json.dumps(own | node))


def test_every_object_of_the_source_is_there_byte_for_byte(shared_sources: dict[str, Path], receipt: ConvertReceipt) -> None:
    given, found = objects_of(shared_sources["l2a-v3"]), objects_of(Path(receipt.store))
    generated = ("/x/c/", "/y/c/", "/spatial_ref/c")
    kept = {
        key: data
        for key, data in given.items()
        if not key.endswith("zarr.json") and not any(part in key for part in (*generated, "quicklook", "r720m"))
    }
    nodes = {key: json.loads(given[re.sub(r"/c(/\d+)*$", "/zarr.json", key)]) for key in kept}
    text = {key for key, node in nodes.items() if node["data_type"] not in NUMBERS}
    assert {key for key, data in kept.items() if found.get(key) != data} == text
    assert len(kept) - len(text) > 90


def test_arrays_keep_layout_and_get_the_attributes_of_the_profile(
    shared_sources: dict[str, Path], receipt: ConvertReceipt
) -> None:
    given, made = (zarr.open_group(place, mode="r") for place in (shared_sources["l2a-v3"], receipt.store))
    for path in (BAND, f"{BANDS}/r360m/b05", MASK, "quality/atmosphere/r20m/aot", "conditions/geometry/sun_angles"):
        before, after = given[path].metadata.to_dict(), made[path].metadata.to_dict()
        for key in ("codecs", "chunk_grid", "chunk_key_encoding", "data_type", "fill_value", "dimension_names", "shape"):
            np.testing.assert_equal(after[key], before[key], err_msg=f"{path} {key}")
    assert made[BAND].attrs["standard_name"] == "surface_bidirectional_reflectance"
    assert (made[f"{BANDS}/r10m/x"].dtype, given[f"{BANDS}/r10m/x"].dtype) == (np.float64, np.int64)
    assert "spatial_ref" in made["quality/mask/r10m"]
    assert "spatial_ref" not in given["quality/mask/r10m"]


def test_missing_bands_and_levels_are_computed(receipt: ConvertReceipt) -> None:
    made = zarr.open_group(receipt.store, mode="r")
    native = made[f"{BANDS}/r10m/b08"][:]
    for metres in (20, 60, 120, 360):
        np.testing.assert_array_equal(made[f"{BANDS}/r{metres}m/b08"][:], naive_average(native, metres // 10))
    assert sorted(made["conditions/mask/l2a_classification"].group_keys()) == ["r120m", "r20m", "r360m", "r60m"]
    assert sorted(made[BANDS].group_keys()) == ["r10m", "r120m", "r20m", "r360m", "r60m"]


def test_completed_store_passes(shared_sources: dict[str, Path], receipt: ConvertReceipt) -> None:
    report = validate(receipt.store, source=str(shared_sources["l2a-v3"]), recipe=complete_recipe(), threads=2)
    told = [finding for finding in report.findings if finding.severity is not Severity.INFO]
    assert (report.verdict, told) == (Verdict.PASS, [])
    assert {report.readers[name] for name in ("xarray", "rioxarray", "rio-tiler")} == {"ok"}


def test_same_bytes_on_every_run_and_any_thread_count(
    shared_sources: dict[str, Path], receipt: ConvertReceipt, tmp_path: Path
) -> None:
    again = run(shared_sources["l2a-v3"], tmp_path, threads=1)
    assert objects_of(Path(again.store)) == objects_of(Path(receipt.store))


def test_resume_takes_no_object_twice(
    shared_sources: dict[str, Path], receipt: ConvertReceipt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, read, attempts = StoreWriter.write, Objects.get, ([], [])

    def killed(self, key, data):
        if len(attempts[0]) == 70:
            raise KeyError("killed here")
        attempts[0].append(key)
        return write(self, key, data)

    def count(self, key):
        attempts[1].append(key)
        return read(self, key)

    monkeypatch.setattr(StoreWriter, "write", killed)
    with pytest.raises(KeyError):
        run(shared_sources["l2a-v3"], tmp_path, threads=1)
    assert not list(tmp_path.rglob("*.zarr/zarr.json"))
    monkeypatch.setattr(StoreWriter, "write", write)
    monkeypatch.setattr(Objects, "get", count)
    store = run(shared_sources["l2a-v3"], tmp_path, threads=1).store
    given = objects_of(shared_sources["l2a-v3"])
    assert sum(key in given for key in attempts[0]) > 60
    assert any(key in given and "/c/" in key for key in attempts[1])
    assert not set(attempts[0]) & set(attempts[1])
    assert objects_of(Path(store)) == objects_of(Path(receipt.store))


def test_zarr_v2_source_is_laid_out_by_the_recipe(shared_sources: dict[str, Path], tmp_path: Path) -> None:
    assert zarr.open_group(run(shared_sources["l2a"], tmp_path).store, mode="r")[BAND].chunks == (60, 60)


def test_estimate_counts_the_objects_that_are_kept(shared_sources: dict[str, Path]) -> None:
    objects, recipe = Objects(str(shared_sources["l2a-v3"])), complete_recipe(shard_px=60)
    plan = plan_store(objects, source_io.read_tree(objects), "S02MSIL2A", recipe)
    n_data = sum(
        int(np.prod([-(-n // c) for n, c in zip(plan.shape, plan.shards or plan.chunks, strict=True)]))
        for plan in plan.arrays
        if not plan.path.endswith("/spatial_ref")
    )
    size = estimate(read_tree(objects.get("zarr.json"), "v3"), recipe.pixels)
    assert size.n_objects == n_data + len(plan.arrays) + len(plan.groups)


def codecs(node: dict[str, Any]) -> list[dict[str, Any]]:
    return node["codecs"][0]["configuration"]["codecs"]


REFUSED: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    (BAND, lambda n: codecs(n)[1].update(name="numcodecs.lzma"), r"codecs \['bytes', 'numcodecs.lzma'\]"),
    (BAND, lambda n: codecs(n)[1]["configuration"].update(typesize=4), "blosc typesize 4, expected 2"),
    (BAND, lambda n: codecs(n)[0]["configuration"].update(endian="big"), "big-endian"),
    (BAND, lambda n: n["codecs"][0]["configuration"].update(index_location="start"), "at the start"),
    (BAND, lambda n: n["codecs"][0]["configuration"].update(index_codecs=[{"name": "bytes"}]), r"index of \['bytes'\]"),
    (BAND, lambda n: n["chunk_grid"]["configuration"].update(chunk_shape=[181, 181]), "do not divide"),
    (BAND, lambda n: n["chunk_grid"].update(name="rectilinear"), "irregular chunk grid"),
    (BAND, lambda n: n.update(fill_value=1), "fill_value 1, expected 0"),
    (BAND, lambda n: n.update(codecs=codecs(n), chunk_grid=GRID), "without shards, expected sharding_indexed"),
    (MASK, lambda n: n["codecs"].insert(1, {"name": "transpose"}), r"'transpose', 'blosc'\]"),
    (MASK, lambda n: n["attributes"].update({"_FillValue": 255}), "fill_value 0, expected 255 as _FillValue"),
    (f"{BANDS}/r20m", lambda n: n["attributes"]["spatial:transform"].__setitem__(2, 435790.0), "spatial:transform .* disagrees"),
]
GRID = {"name": "regular", "configuration": {"chunk_shape": [90, 90]}}


@pytest.mark.parametrize(("node", "change", "words"), REFUSED, ids=[words for _, _, words in REFUSED])
def test_what_cannot_be_completed_is_refused_and_names_relayout(source_copy, tmp_path: Path, node, change, words) -> None:
    source = source_copy("l2a-v3")
    edit_node(source, node, change)
    with pytest.raises(SourceError, match=f"{node}: .*{words}.*; set pixels.zarr3_source: relayout") as caught:
        run(source, tmp_path / "out")
    assert caught.value.code == "ZM-SRC-LAYOUT"
    assert not (tmp_path / "out").exists()


def test_masked_value_becomes_the_fill_value_when_the_store_is_laid_out_anew(source_copy, tmp_path: Path) -> None:
    source = source_copy("l2a-v3")
    edit_node(source, MASK, lambda node: node["attributes"].update({"_FillValue": 255}))  # as xarray writes it
    receipt = run(source, tmp_path / "out", zarr3_source="relayout")
    array = zarr.open_group(receipt.store, mode="r")[MASK]
    assert (array.fill_value, array.attrs["_FillValue"]) == (255, 255)
    report = validate(receipt.store, source=str(source), recipe=complete_recipe(zarr3_source="relayout"))
    assert report.verdict is Verdict.PASS


def test_wrong_transform_is_only_told_when_the_store_is_laid_out_anew(source_copy, tmp_path: Path) -> None:
    source = source_copy("l2a-v3")
    edit_node(source, f"{BANDS}/r20m", lambda node: node["attributes"]["spatial:transform"].__setitem__(2, 435790.0))
    receipt = run(source, tmp_path / "out", zarr3_source="relayout")
    assert [(finding.code, finding.path) for finding in receipt.findings] == [("source.transform", f"{BANDS}/r20m")]


Damage = Callable[[bytes], bytes]


def wrong_place(data: bytes) -> bytes:
    """Let the first inner chunk begin where the shard ends, and renew the checksum of the index."""
    index = np.frombuffer(data[-INDEX_BYTES:-4], "<u8").copy()
    index[np.flatnonzero(index[1::2] < 2**63)[0] * 2] = len(data)
    checksum = google_crc32c.value(index.tobytes()).to_bytes(4, "little")
    return data[:-INDEX_BYTES] + index.tobytes() + checksum


INDEX_BYTES = 16 * 11 * 11 + 4
"""180 px are eleven inner chunks of 17 px."""


@pytest.mark.parametrize(
    ("path", "change", "words"),
    [
        (BAND, lambda data: data[:40], "truncated: 40 bytes, its index alone has 1940"),
        (BAND, lambda data: data[:-1] + bytes([data[-1] ^ 255]), "checksum of the shard index"),
        (BAND, wrong_place, "inner chunk .* ends at"),
        (BAND, lambda data: data[:16] + b"\xa5" * 48 + data[64:], "decompression"),
        (BAND, lambda data: b"", "truncated"),
        (MASK, lambda data: data[:-1], "truncated chunk"),
        (MASK, lambda data: data[:12], "truncated chunk: 12 bytes, expected a header of 16"),
        (MASK, lambda data: numcodecs.blosc.compress(bytes(7), b"zstd", 1), "decodes to 7 bytes, expected 32400"),
    ],
)
def test_damaged_object_stops_the_product_and_seals_nothing(
    source_copy, tmp_path: Path, path: str, change: Damage, words: str
) -> None:
    source = source_copy("l2a-v3")
    file = source / path / "c/0/0"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(SourceError, match=f"array {path}: object {path}/c/0/0: .*{words}") as caught:
        run(source, tmp_path / "out")
    assert caught.value.code == "ZM-SRC-CORRUPT"
    assert not list((tmp_path / "out").rglob("*.zarr/zarr.json"))


def test_missing_object_of_a_band_is_an_error_of_a_mask_a_finding(source_copy, tmp_path: Path) -> None:
    source = source_copy("l2a-v3")
    (source / MASK / "c/0/0").unlink()
    receipt = run(source, tmp_path / "out")
    assert [(finding.code, finding.path) for finding in receipt.findings] == [("source.missing-chunk", MASK)]
    (source / BAND / "c/0/0").unlink()
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(SourceError, match=f"array {BAND}: chunk {BAND}/c/0/0 is not there") as caught:
        run(source, tmp_path / "out")
    assert caught.value.code == "ZM-SRC-MISSING"
