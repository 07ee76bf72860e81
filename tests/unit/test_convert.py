"""The whole conversion of small products: values, attributes, faults, resume."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr
from builders import drop_chunk, remove_attr, set_attr
from products import garble_chunk, product_row, recipe_for
from pydantic import TypeAdapter
from stopped import StoppedError, stop_after
from test_resample import naive_average

from zarrmill.core.layout import source_layout
from zarrmill.errors import ConfigError, SourceError, StoreError, ZarrmillError
from zarrmill.io.store import ObjectSink, StoreWriter
from zarrmill.model import Product
from zarrmill.stages import convert as stage
from zarrmill.stages.convert import convert

BAND = "measurements/reflectance/r10m/b02"


def run(source: Path, root: Path, product_type: str = "S02MSIL2A", threads: int = 2, **pixels: object):
    recipe = recipe_for(product_type, **pixels)
    product = product_row(source, recipe, product_type)
    return convert(product, recipe=recipe, store_root=str(root), threads=threads)


def files(store: str) -> dict[str, bytes]:
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(Path(store).rglob("*")) if p.is_file()}


@pytest.mark.parametrize("kind", ["l2a", "l2a-1830", "l2a-v3", "l1c"])
def test_every_source_array_is_there_with_equal_values(shared_sources, tmp_path, kind):
    receipt = run(shared_sources[kind], tmp_path, "S02MSIL1C" if kind == "l1c" else "S02MSIL2A")
    source, store = zarr.open_group(shared_sources[kind], mode="r"), zarr.open_group(receipt.store, mode="r")
    compared = 0
    for path, array in source.members(max_depth=None):
        if not isinstance(array, zarr.Array) or "quicklook" in path or path.endswith("spatial_ref") or "r720m" in path:
            continue
        if kind == "l2a-v3" and any(level in path for level in ("r120m", "r360m")) and path not in store:
            continue
        np.testing.assert_array_equal(np.asarray(store[path][...]), np.asarray(array[...]), err_msg=path)
        if path.rpartition("/")[2] not in ("x", "y") and array.dtype.kind in "iuf":
            assert store[path].dtype == array.dtype, path
        compared += 1
    assert compared > 90


def test_every_band_is_on_every_level_coarser_than_its_native_one(shared_sources, tmp_path):
    receipt = run(shared_sources["l1c"], tmp_path, "S02MSIL1C")
    store = zarr.open_group(receipt.store, mode="r")["measurements/reflectance"]
    bands = {level: set(group.array_keys()) - {"x", "y", "spatial_ref"} for level, group in store.groups()}
    assert {level: len(names) for level, names in bands.items()} == {
        "r10m": 4,
        "r20m": 10,
        "r60m": 13,
        "r120m": 13,
        "r360m": 13,
    }


def test_levels_are_exact_means_of_the_native_pixels(shared_sources, tmp_path):
    receipt = run(shared_sources["l1c"], tmp_path, "S02MSIL1C", levels_m=(10, 20, 60, 180, 360))
    group = zarr.open_group(receipt.store, mode="r")["measurements/reflectance"]
    assert sorted(group.group_keys()) == ["r10m", "r180m", "r20m", "r360m", "r60m"]
    native = group["r10m/b08"][:]
    assert (native == 0).any()
    for metres in (20, 60, 180, 360):
        np.testing.assert_array_equal(group[f"r{metres}m/b08"][:], naive_average(native, metres // 10))
    b11 = group["r20m/b11"][:]
    np.testing.assert_array_equal(group["r360m/b11"][:], naive_average(b11, 18))
    assert group["r360m/b11"].attrs["derived_from"] == "measurements/reflectance/r20m/b11"


def test_levels_that_do_not_divide_are_left_out(shared_sources, tmp_path):
    receipt = run(shared_sources["l2a"], tmp_path)  # 180 px: r120m would be 15, r360m 5
    group = zarr.open_group(receipt.store, mode="r")["measurements/reflectance"]
    assert [entry["asset"] for entry in group.attrs["multiscales"]["layout"]] == ["r10m", "r20m", "r60m", "r120m", "r360m"]
    receipt = run(shared_sources["l2a"], tmp_path, levels_m=(10, 20, 60, 120, 720))
    group = zarr.open_group(receipt.store, mode="r")["measurements/reflectance"]
    assert sorted(group.group_keys()) == ["r10m", "r120m", "r20m", "r60m"]


def test_attributes_of_a_band_follow_the_profile(shared_sources, tmp_path):
    store = zarr.open_group(run(shared_sources["l2a"], tmp_path).store, mode="r")
    attributes = dict(store[BAND].attrs)
    assert attributes.pop("long_name").startswith("BOA reflectance")
    assert attributes == {
        "scale_factor": 0.0001,
        "add_offset": -0.1,
        "_FillValue": 0,
        "units": "1",
        "standard_name": "surface_bidirectional_reflectance",
        "grid_mapping": "spatial_ref",
    }
    scl = store["conditions/mask/l2a_classification/r20m/scl"]
    assert scl.attrs["flag_values"] == list(range(12))
    assert "_FillValue" not in scl.attrs
    assert store["quality/mask/r10m/b02"].attrs["flag_masks"][-1] == 128
    assert "_FillValue" not in store["conditions/geometry/sun_angles"].attrs


def test_same_bytes_on_every_run_and_any_thread_count(shared_sources, tmp_path):
    stores = [run(shared_sources["l2a"], tmp_path / str(n), threads=n) for n in (1, 2, 3)]
    assert files(stores[0].store) == files(stores[1].store) == files(stores[2].store)
    assert len({receipt.tree_sha256 for receipt in stores}) == 1


CONVERT = """
import sys
import threading
from zarrmill.config import Recipe
from zarrmill.model import Product
from zarrmill.stages.convert import convert
recipe, product = Recipe.model_validate_json(sys.argv[1]), TypeAdapter(Product).validate_json(sys.argv[2])
print(convert(product, recipe=recipe, store_root=sys.argv[3]).n_objects, "zarr" in sys.modules)
"""


@pytest.mark.parametrize("kind", ["l2a", "l1c"])
def test_product_of_zarr_2_needs_no_zarr_python(shared_sources, tmp_path, kind):
    """Its import takes 0.2 s, a tenth of what a small product takes."""
    product_type = {"l2a": "S02MSIL2A", "l1c": "S02MSIL1C"}[kind]
    recipe = recipe_for(product_type)
    product = TypeAdapter(Product).dump_json(product_row(shared_sources[kind], recipe, product_type))
    words = [sys.executable, "-c", f"from pydantic import TypeAdapter{CONVERT}", recipe.model_dump_json(), product, str(tmp_path)]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    assert int(told[0]) > 100
    assert told[1] == "False"


def test_receipt_counts_what_is_on_disk(shared_sources, tmp_path):
    receipt = run(shared_sources["l2a"], tmp_path)
    found = files(receipt.store)
    assert receipt.n_objects == len(found)
    assert receipt.n_bytes == sum(map(len, found.values()))
    assert receipt.measured.peak_rss_bytes > 0
    assert not receipt.adopted
    assert not list(tmp_path.rglob("*.journal"))
    assert not list(tmp_path.rglob("*.part"))


def test_sealed_store_is_verified_and_adopted(shared_sources, tmp_path):
    first = run(shared_sources["l2a"], tmp_path)
    second = run(shared_sources["l2a"], tmp_path)
    assert second.adopted
    assert second.tree_sha256 == first.tree_sha256


def test_damaged_sealed_store_is_neither_adopted_nor_overwritten(shared_sources, tmp_path):
    first = run(shared_sources["l2a"], tmp_path)
    victim = next(Path(first.store).glob(f"{BAND}/c/*/*"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"\x00")
    before = files(first.store)
    with pytest.raises(StoreError) as caught:
        run(shared_sources["l2a"], tmp_path)
    assert caught.value.code == "ZM-STO-DAMAGED"
    assert files(first.store) == before


def test_another_recipe_writes_beside_the_old_store(shared_sources, tmp_path):
    first = run(shared_sources["l2a"], tmp_path)
    before = files(first.store)
    second = run(shared_sources["l2a"], tmp_path, shard_px=None)
    assert first.store != second.store
    assert files(first.store) == before
    assert zarr.open_group(second.store, mode="r")[BAND].shards is None


def test_quicklook_is_converted_when_the_recipe_says_so(shared_sources, tmp_path):
    assert "quality/l2a_quicklook" not in zarr.open_group(run(shared_sources["l2a"], tmp_path).store, mode="r")
    store = zarr.open_group(run(shared_sources["l2a"], tmp_path, quicklook=True).store, mode="r")
    path = "quality/l2a_quicklook/r10m/tci"
    np.testing.assert_array_equal(store[path][:], zarr.open_group(shared_sources["l2a"], mode="r")[path][:])


def test_zarr3_source_is_refused_when_the_recipe_says_so(shared_sources, tmp_path):
    with pytest.raises(SourceError, match="Zarr v3 already"):
        run(shared_sources["l2a-v3"], tmp_path, zarr3_source="refuse")


def test_missing_chunk_of_a_mandatory_array_is_an_error_elsewhere_a_finding(source_copy, tmp_path):
    path = source_copy("l2a")
    drop_chunk(path, "quality/mask/r10m/b02", "0.0")
    receipt = run(path, tmp_path / "out")
    assert [(f.code, f.path) for f in receipt.findings] == [("source.missing-chunk", "quality/mask/r10m/b02")]
    drop_chunk(path, BAND, "0.0")
    with pytest.raises(SourceError, match=f"array {BAND}: chunk {BAND}/0.0 is not there") as caught:
        run(path, tmp_path / "out2")
    assert caught.value.code == "ZM-SRC-MISSING"
    assert run(path, tmp_path / "out3", mandatory=()).findings


def assert_nothing_published(root: Path) -> None:
    assert not list(root.rglob("*.zarr/zarr.json"))


def test_corrupt_chunk_stops_the_product_and_seals_nothing(source_copy, tmp_path):
    path = source_copy("l2a")
    garble_chunk(path, BAND, "0.0")
    with pytest.raises(SourceError, match=path.stem) as caught:
        run(path, tmp_path / "out")
    assert caught.value.code == "ZM-SRC-CORRUPT"
    assert_nothing_published(tmp_path / "out")


def drop_crs(path):
    document = json.loads((path / ".zmetadata").read_text())
    for key in [key for key in document["metadata"] if key.endswith(".zattrs")]:
        node = key[: -len("/.zattrs")] if "/" in key else ""
        for name in [name for name in document["metadata"][key] if name in ("proj:epsg", "proj:code")]:
            remove_attr(path, node, name)
    remove_attr(path, "", "stac_discovery")
    other = document["metadata"][".zattrs"]["other_metadata"]
    set_attr(path, "", "other_metadata", {k: v for k, v in other.items() if "CRS" not in k})


def edit_array(path, array, **changes):
    document = json.loads((path / ".zmetadata").read_text())
    document["metadata"][f"{array}/.zarray"].update(changes)
    (path / ".zmetadata").write_text(json.dumps(document))
    (path / array / ".zarray").write_text(json.dumps(document["metadata"][f"{array}/.zarray"]))


def drop_array(path, array):
    document = json.loads((path / ".zmetadata").read_text())
    document["metadata"] = {k: v for k, v in document["metadata"].items() if not k.startswith(f"{array}/")}
    (path / ".zmetadata").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("breaker", "code", "words"),
    [
        (drop_crs, "ZM-SRC-CRS", "the CRS cannot be known"),
        (lambda p: set_attr(p, BAND, "proj:epsg", 32633), "ZM-SRC-CRS", "more than one CRS"),
        (lambda p: edit_array(p, BAND, shape=[180, 174]), "ZM-SRC-LAYOUT", r"shape \(180, 174\)"),
        (lambda p: edit_array(p, BAND, dtype="<f4"), "ZM-SRC-LAYOUT", "dtype <f4, expected <u2"),
        (lambda p: drop_array(p, "measurements/reflectance/r60m/b09"), "ZM-SRC-LAYOUT", r"bands \['b09'\]"),
        (lambda p: drop_array(p, "measurements/reflectance/r10m/x"), "ZM-SRC-LAYOUT", "no one-dimensional x"),
        (lambda p: set_attr(p, BAND, "_ARRAY_DIMENSIONS", ["x", "y"]), "ZM-SRC-LAYOUT", "dimensions"),
    ],
)
def test_malformed_source_is_refused_before_anything_is_written(source_copy, tmp_path, breaker, code, words):
    path = source_copy("l2a")
    breaker(path)
    with pytest.raises(ZarrmillError, match=words) as caught:
        run(path, tmp_path / "out")
    assert caught.value.code == code
    assert path.stem in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_transform_that_disagrees_with_the_coordinates_is_told(source_copy, tmp_path):
    path = source_copy("l2a")
    set_attr(path, BAND, "proj:transform", [10.0, 0.0, 435790.0, 0.0, -10.0, 4179420.0, 0.0, 0.0, 1.0])
    receipt = run(path, tmp_path / "out")
    assert [(f.code, f.path) for f in receipt.findings] == [("source.transform", BAND)]


def test_nan_in_attributes_becomes_strict_json(source_copy, tmp_path):
    path = source_copy("l2a")
    set_attr(path, BAND, "odd", [float("nan"), float("inf"), 1.0])
    receipt = run(path, tmp_path / "out")

    def refuse(name):
        raise AssertionError(name)

    for key, data in files(receipt.store).items():
        if key.endswith("zarr.json"):
            json.loads(data, parse_constant=refuse)
    assert zarr.open_group(receipt.store, mode="r")[BAND].attrs["odd"] == [None, None, 1.0]


def test_source_that_changed_since_the_plan_is_refused(shared_sources, tmp_path):
    recipe = recipe_for("S02MSIL2A")
    product = product_row(shared_sources["l2a"], recipe, fingerprint="0" * 64)
    with pytest.raises(SourceError, match="plan again") as caught:
        convert(product, recipe=recipe, store_root=str(tmp_path))
    assert caught.value.code == "ZM-SRC-CHANGED"


def test_source_published_anew_while_it_is_converted_is_refused_and_nothing_sealed(source_copy, tmp_path):
    path, recipe = source_copy("l2a"), recipe_for("S02MSIL2A")
    product = product_row(path, recipe)

    def publish(done, total):
        if done > total / 2:
            (path / ".zmetadata").write_text((path / ".zmetadata").read_text() + " ")

    with pytest.raises(SourceError, match="plan again") as caught:
        convert(product, recipe=recipe, store_root=str(tmp_path / "out"), on_progress=publish)
    assert caught.value.code == "ZM-SRC-CHANGED"
    assert_nothing_published(tmp_path / "out")


def test_unknown_product_type_names_the_supported_ones():
    with pytest.raises(SourceError, match="S02MSIL1C, S02MSIL2A") as caught:
        source_layout("S03OLCEFR")
    assert caught.value.code == "ZM-SRC-TYPE"


def test_store_root_that_cannot_be_written_to_is_refused(shared_sources):
    with pytest.raises(StoreError, match="local folders and to s3://; change store_root"):
        run(shared_sources["l2a"], "https://data.example.org/stores")


def test_full_disk_is_a_capacity_error_and_seals_nothing(shared_sources, tmp_path, monkeypatch):
    import errno

    original, budget = StoreWriter.write, [20]

    def write(self, key, data):
        budget[0] -= 1
        if budget[0] < 0:
            from zarrmill.io.places import write_error

            raise write_error(OSError(errno.ENOSPC, "No space left on device"), key)
        return original(self, key, data)

    monkeypatch.setattr(StoreWriter, "write", write)
    with pytest.raises(ZarrmillError) as caught:
        run(shared_sources["l2a"], tmp_path)
    assert caught.value.code == "ZM-CAP-DISK"
    assert_nothing_published(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.4, 0.7, 0.95, 1.0])
def test_continues_what_the_journal_proves(shared_sources, tmp_path, monkeypatch, share):
    with monkeypatch.context() as patched:
        names = stop_after(patched, 10_000)
        reference = run(shared_sources["l2a"], tmp_path / "whole", threads=1)
    with monkeypatch.context() as patched:
        noted = stop_after(patched, round(share * (len(names) - 1)))
        with pytest.raises(StoppedError):
            run(shared_sources["l2a"], tmp_path / "out", threads=1)
    assert_nothing_published(tmp_path / "out")
    read, written, open_rows, append = [], [0], stage.open_rows, ObjectSink.append

    def spied_rows(objects, tree, array, *others):
        read.append(array.path)
        return open_rows(objects, tree, array, *others)

    def spied_append(self, data):
        written.append(len(data))
        append(self, data)

    monkeypatch.setattr(stage, "open_rows", spied_rows)
    monkeypatch.setattr(ObjectSink, "append", spied_append)
    receipt = run(shared_sources["l2a"], tmp_path / "out", threads=1)
    assert files(receipt.store) == files(reference.store)
    rasters = [name.removesuffix("/c") for name in dict.fromkeys(noted) if name.endswith("/c")]
    assert not set(rasters[:-5]) & set(read), "the last five are a band and its levels"
    assert (sum(written) == receipt.n_bytes) == (share == 0)
    if share == 1:
        assert read == []
        assert sum(written) < receipt.n_bytes / 2, "documents are most of a small store"


def test_what_was_noticed_survives_a_kill_before_and_after_the_seal(source_copy, tmp_path, monkeypatch):
    path = source_copy("l2a")
    drop_chunk(path, "quality/mask/r10m/b02", "0.0")
    drop_chunk(path, "quality/mask/r10m/b03", "0.0")
    reference = run(path, tmp_path / "whole")
    assert [f.path for f in reference.findings] == ["quality/mask/r10m/b02", "quality/mask/r10m/b03"]
    with monkeypatch.context() as patched:
        stop_after(patched, 80)
        with pytest.raises(StoppedError):
            run(path, tmp_path / "out")
    receipt = run(path, tmp_path / "out")
    assert receipt.findings == reference.findings
    assert files(receipt.store) == files(reference.store)
    adopted = run(path, tmp_path / "out")
    assert adopted.adopted
    assert adopted.findings == reference.findings


def test_journal_left_by_a_kill_after_the_seal_is_removed(shared_sources, tmp_path):
    receipt = run(shared_sources["l2a"], tmp_path)
    journal = Path(f"{receipt.store}.journal")
    journal.write_text("left\n")
    assert run(shared_sources["l2a"], tmp_path).adopted
    assert not journal.exists()


def test_config_error_has_exit_code_2():
    assert ConfigError("x").exit_code == 2


def test_interrupt_ends_a_conversion_at_the_next_stripe(shared_sources, tmp_path, monkeypatch):
    begun, taken = threading.Event(), []
    take = stage._Conversion._go_on

    def go_on(self):
        taken.append(self._stop.is_set())
        begun.set()
        self._stop.wait(30)
        take(self)

    def interrupted(futures, return_when):
        assert begun.wait(30)
        raise KeyboardInterrupt

    monkeypatch.setattr(stage._Conversion, "_go_on", go_on)
    monkeypatch.setattr(stage, "wait", interrupted)
    recipe = recipe_for("S02MSIL2A")
    with pytest.raises(KeyboardInterrupt):
        convert(product_row(shared_sources["l2a"], recipe), recipe=recipe, store_root=str(tmp_path), threads=2)
    assert 1 <= len(taken) <= 2, "one stripe of each worker, no other raster"
    assert not list(tmp_path.rglob("*.zarr/zarr.json"))
