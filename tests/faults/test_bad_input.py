"""Bad input as a user meets it: one line that says what is wrong and what to do, a stable code, and nothing published."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import builders
import pytest
from products import garble_chunk
from workspace import Workspace

from zarrmill.errors import EXIT_CONFIG, EXIT_FAILED, EXIT_NOTHING, EXIT_OK, EXIT_UNKNOWN
from zarrmill.io.record import read_record
from zarrmill.io.state import Failures
from zarrmill.model import FailureRecord

BAND = "measurements/reflectance/r10m/b02"
NOWHERE = "http://127.0.0.1:9/stac"
"""Port 9 (discard): nobody listens."""


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two products, nothing planned."""
    return Workspace.create(tmp_path_factory.mktemp("bad") / "work", n_days=1, products_per_day=2)


@pytest.fixture
def work(untouched: Workspace, tmp_path: Path) -> Workspace:
    return untouched.copy(tmp_path / "work")


def files(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder but locks, which a plan takes and which stay empty."""
    found = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def assert_told(done: "subprocess.CompletedProcess[str]", exit_code: int, code: str, *words: str) -> None:
    output = done.stdout + done.stderr
    assert "Traceback" not in output, output
    assert done.returncode == exit_code, output
    assert code in output, output
    for word in words:
        assert word in output, (word, output)


def set_source(**values: Any) -> Callable[[Workspace], None]:
    return lambda work: work.configure(source=values)


def write_config(text: str) -> Callable[[Workspace], None]:
    return lambda work: void((work.path / "config/config.yaml").write_text(text))


def void(_: object) -> None:
    """Let an expression stand where nothing is returned."""


def folder_instead_of_file(work: Workspace) -> None:
    (work.path / "config/config.yaml").unlink()
    (work.path / "config/config.yaml").mkdir()


CONFIGURATIONS: dict[str, tuple[Callable[[Workspace], None], tuple[str, ...]]] = {
    "unknown key": (set_source(catalouge="x"), ("source.catalouge: unknown key", "known here: bbox, catalogue")),
    "unknown key of a recipe": (
        lambda work: work.edit("config/s2-l2a.yaml", pixels={"chunk": 3}),
        ("config/s2-l2a.yaml", "pixels.chunk: unknown key", "chunk_px"),
    ),
    "month 13": (set_source(datetime="2025-13-01/.."), ("source.datetime", "'2025-13-01' is not a date like 2025-01-31")),
    "dates in the wrong order": (set_source(datetime="2025-02-01/2025-01-01"), ("the end lies before the start",)),
    "no source": (write_config("run: demo"), ("config/config.yaml: source: is missing",)),
    "not YAML": (write_config("source: ["), ("config/config.yaml: not YAML", "line 1")),
    "not text": (
        lambda work: void((work.path / "config/config.yaml").write_bytes(b"\xff\xfe\x00")),
        ("config/config.yaml: not YAML",),
    ),
    "empty": (write_config(""), ("expected keys and values",)),
    "a folder": (folder_instead_of_file, ("config/config.yaml: cannot be read",)),
    "no file": (lambda work: (work.path / "config/config.yaml").unlink(), ("no such file",)),
    "no recipe": (lambda work: work.configure(recipes=["config/none.yaml"]), ("config/none.yaml: no such file",)),
    "not an address": (set_source(catalogue="http://[half/stac"), ("source.catalogue: not a path or an address",)),
    "no catalogue": (set_source(catalogue="archive/none.json"), ("archive/none.json: no such catalogue",)),
    "run outside the state": (lambda work: work.configure(run="../x"), ("run: ", "found '../x'")),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_wrong_configuration_is_one_line_and_exit_2(work, name):
    change, words = CONFIGURATIONS[name]
    change(work)
    before = files(work.path)
    done = work.zarrmill("plan")
    assert_told(done, EXIT_CONFIG, "ZM-CFG-INVALID: ", *words)
    assert len(done.stderr.splitlines()) == 1
    assert files(work.path) == before


def test_date_that_yaml_reads_as_one_is_taken(work):
    config = work.path / "config/config.yaml"
    config.write_text("source: {catalogue: archive/items.json, datetime: 2025-01-14}\nrun: test\nrecipes: [config/s2-l2a.yaml]\n")
    done = work.zarrmill("plan")
    assert done.returncode == EXIT_NOTHING, done.stderr
    assert "skipped: 2 datetime" in done.stdout


@pytest.mark.parametrize(
    ("change", "exit_code", "code", "words"),
    [
        (set_source(catalouge="x"), EXIT_CONFIG, "ZM-CFG-INVALID", ("unknown key",)),
        (
            set_source(catalogue=NOWHERE, collections=["a"], retries=0),
            EXIT_UNKNOWN,
            "ZM-UNK-OUTAGE",
            (NOWHERE, "no answer", "Connection refused", "nothing was decided"),
        ),
        (
            lambda work: void((work.path / "archive/items.json").write_text('{"features": [')),
            EXIT_FAILED,
            "ZM-CAT-ANSWER",
            ("archive/items.json", "not JSON", "check address"),
        ),
    ],
    ids=["configuration", "outage", "catalogue cut short"],
)
def test_plan_that_fails_leaves_the_earlier_one_as_it_is(work, change, exit_code, code, words):
    work.plan()
    before = files(work.path / "results")
    change(work)
    assert_told(work.zarrmill("plan"), exit_code, code, *words)
    assert files(work.path / "results") == before


def test_rule_plan_tells_an_outage_without_a_traceback(work):
    work.plan()
    before = work.state.manifest.read_bytes()
    work.configure(source={"catalogue": NOWHERE, "collections": ["a"], "retries": 0})
    done = work.snakemake("plan", "--retries", "0", check=False)
    assert_told(done, 1, "plan: ZM-UNK-OUTAGE: ", NOWHERE, "Connection refused")
    assert work.state.manifest.read_bytes() == before
    assert "ZM-UNK-OUTAGE" in (work.state.root / "logs/plan.log").read_text()


def test_workflow_tells_a_wrong_configuration_without_a_traceback(work):
    work.plan()
    work.configure(source={"catalouge": "x"})
    assert_told(work.snakemake(check=False), 1, "ZM-CFG-INVALID: ", "source.catalouge: unknown key")


def test_garbled_manifest_stops_the_products_and_a_new_plan_mends_it(work):
    work.plan()
    manifest = work.path / "results/test/manifest.csv"
    good = manifest.read_bytes()
    manifest.write_text("a,b\n1,2\n")
    assert_told(work.snakemake("-n", check=False), 1, "ZM-CFG-MANIFEST: ", "results/test/manifest.csv", "run `plan` again")
    work.snakemake("plan")
    assert manifest.read_bytes() == good


def copy_of(item: dict[str, Any], name: str, **changes: Any) -> dict[str, Any]:
    """Return an item of another id whose assets still lead to the source of ``item``."""
    other: dict[str, Any] = json.loads(json.dumps(item))
    properties = changes.pop("properties", {})
    return {**other, "id": name, **changes, "properties": {**other["properties"], **properties}}


def test_hostile_and_malformed_entries_are_refused_by_name_and_the_others_planned(work):
    catalogue = work.path / "archive/items.json"
    document = json.loads(catalogue.read_text())
    good, other = document["features"]
    elsewhere = json.loads(json.dumps(other).replace(other["id"], good["id"])) | {"id": other["id"]}
    bad = {
        "../x": "ZM-SRC-ID",
        "a b": "ZM-SRC-ID",
        "Ü\u202e\x1b[31m": "ZM-SRC-ID",
        "x" * 201: "ZM-SRC-ID",
        "type": "ZM-SRC-TYPE",
        "date": "ZM-SRC-ITEM",
        "collection": "ZM-SRC-ID",
        "state": "ZM-SRC-ID",
        other["id"]: "ZM-SRC-DUPLICATE",
    }
    document["features"] = [
        good,
        other,
        elsewhere,
        *(copy_of(good, name) for name in list(bad)[:4]),
        copy_of(good, "type", properties={"product:type": "S03OLCEFR"}),
        copy_of(good, "date", properties={"datetime": "yesterday"}),
        copy_of(good, "collection", collection="../../etc"),
        copy_of(good, "state", collection="failed"),
        7,
    ]
    catalogue.write_text(json.dumps(document))
    before = files(work.path)
    done = work.zarrmill("plan")
    assert_told(done, EXIT_OK, "ZM-SRC-DUPLICATE", "listed with 2 sources", "correct the catalogue")
    assert_told(done, EXIT_OK, "refused ../x: ZM-SRC-ID: ", "cannot be a name; expected letters", "rename it")
    assert_told(done, EXIT_OK, "refused type: ZM-SRC-TYPE: ", "'S03OLCEFR'; supported are S02MSIL1C, S02MSIL2A; add a recipe")
    assert_told(done, EXIT_OK, "refused date: ZM-SRC-ITEM: ", "'yesterday' is not an ISO 8601 time; report the item")
    assert "\x1b[31m" not in done.stdout
    assert "\u202e" not in done.stdout
    rows = json.loads(work.state.plan_json.read_text())["products"]
    assert sorted(row["code"] for row in rows if row["class"] == "refused") == sorted([*bad.values(), "ZM-SRC-ITEM"])
    assert [product.product_id for product in work.products] == [good["id"]]
    written = set(files(work.path)) - set(before)
    assert all(path.startswith("results/test/") for path in written)
    assert not [path for path in written if path.startswith("results/test/failed")]


def drop_crs(product: Path) -> None:
    document = json.loads((product / ".zmetadata").read_text())["metadata"]
    for key in [key for key in document if key.endswith(".zattrs")]:
        for name in {"proj:epsg", "proj:code"} & set(document[key]):
            builders.remove_attr(product, key.removesuffix(".zattrs").rstrip("/"), name)
    for name in ("other_metadata/horizontal_CRS_code", "stac_discovery/properties/proj:epsg"):
        builders.remove_attr(product, "", name)


def field(path: str, key: str, value: Any) -> Callable[[Path], None]:
    return lambda product: builders.set_array_field(product, path, key, value)


REFUSED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "source gone": (shutil.rmtree, "ZM-SRC-MISSING", "neither .zmetadata nor zarr.json is there; check the href"),
    "metadata gone": (
        builders.drop_zmetadata,
        "ZM-SRC-METADATA",
        "without .zmetadata, expected consolidated metadata; report it",
    ),
    "metadata cut": (builders.truncate_zmetadata, "ZM-SRC-METADATA", ".zmetadata: not JSON"),
}
"""Known by ``plan`` already, which leaves them out."""

BROKEN: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "garbled chunk": (lambda p: garble_chunk(p, BAND, "0.0"), "ZM-SRC-CORRUPT", f"array {BAND}, chunk {BAND}/0.0: "),
    "chunk cut": (lambda p: builders.truncate_chunk(p, BAND), "ZM-SRC-CORRUPT", "bytes, expected "),
    "empty chunk": (lambda p: builders.truncate_chunk(p, BAND, n_bytes=0), "ZM-SRC-CORRUPT", "0 bytes, expected "),
    "chunk of another size": (field(BAND, "chunks", [7, 7]), "ZM-SRC-CORRUPT", "bytes, expected 98 for (7, 7)"),
    "chunk gone": (lambda p: builders.drop_chunk(p, BAND), "ZM-SRC-MISSING", f"chunk {BAND}/0.0 is not there"),
    "no CRS": (drop_crs, "ZM-SRC-CRS", "the CRS cannot be known; expected EPSG:<code>"),
    "shape": (field(BAND, "shape", [120, 60]), "ZM-SRC-LAYOUT", f"{BAND}: shape (120, 60), expected (120, 120)"),
    "dtype": (field(BAND, "dtype", "<f4"), "ZM-SRC-LAYOUT", f"{BAND}: dtype <f4, expected <u2"),
    "codec": (field(BAND, "compressor", {"id": "nope"}), "ZM-SRC-LAYOUT", f"{BAND}: codec {{'id': 'nope'}} cannot be used"),
    "rank": (field(BAND, "chunks", [60]), "ZM-SRC-METADATA", "shape (120, 120), chunks (60,)"),
    "fill value": (field(BAND, "fill_value", "abc"), "ZM-SRC-METADATA", "fill value 'abc' in <u2"),
    "another type inside": (
        lambda p: builders.remove_node(p, "measurements/reflectance"),
        "ZM-SRC-LAYOUT",
        "no groups measurements/reflectance/r<metres>m",
    ),
}
"""Known when the product is converted."""


def test_every_broken_product_is_named_with_reason_and_the_good_one_is_published(tmp_path):
    faults = {**REFUSED, **BROKEN}
    work = Workspace.create(tmp_path / "work", n_days=1, products_per_day=len(faults) + 1)
    *broken, good = sorted((work.path / "archive/products").glob("*.zarr"))
    name_of = {path.stem: name for path, name in zip(broken, faults, strict=True)}
    for path, name in zip(broken, faults, strict=True):
        faults[name][0](path)
    planned = work.zarrmill("plan")
    refused = {name_of[path.stem]: path.stem for path in broken if name_of[path.stem] in REFUSED}
    for name, (_, code, words) in REFUSED.items():
        assert_told(planned, EXIT_OK, f"refused {refused[name]}: {code}: ", words)
    manifest = work.state.manifest.read_bytes()
    done = work.snakemake("--retries", "0", check=False)
    assert "Traceback" not in done.stdout
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    failed = set()
    for product in work.products:
        if product.product_id == good.stem:
            assert work.state.target("stac", product).exists()
            continue
        name = name_of[product.product_id]
        _, code, words = BROKEN[name]
        told = [line for line in lines if line.startswith(f"convert {product.product_id}: {code}: ")]
        assert len(told) == 1, (name, done.stdout)
        line = told[0]
        assert words in line, name
        assert "report it to the provider" in line, name
        (record,) = [read_record(FailureRecord, failure.place) for failure in Failures(work.state).of(product)]
        assert record.code == code
        assert product.product_id in record.message
        assert not (work.store(product) / "zarr.json").exists()
        assert not work.state.target("convert", product).exists()
        failed.add(name)
    assert failed == set(BROKEN)
    assert work.state.manifest.read_bytes() == manifest
    assert len(list((work.path / "results/stores").rglob("*.zarr/zarr.json"))) == 1
    assert work.zarrmill("status").returncode == EXIT_FAILED


def test_garbled_records_stop_their_product_in_one_line(work):
    work.configure(source={"limit": 2})
    work.plan()
    first, second = work.products
    work.state.target("plan", first).write_text("{")
    receipt = work.state.target("convert", second)
    receipt.write_text('{"schema": "zarrmill/other/1"}')
    done = work.snakemake("--retries", "0", check=False)
    assert_told(done, 1, "convert: ZM-CFG-MANIFEST: ", "not a zarrmill/plan/1 record", "run `plan` again")
    assert_told(done, 1, f"validate {second.product_id}: ZM-CFG-MANIFEST: ", "schema 'zarrmill/other/1', expected")
    assert not list((work.path / "results/stores").rglob("zarr.json"))


def test_stores_below_a_file_are_denied(work):
    (work.path / "file").write_text("precious")
    work.configure(store_root="file/stores", source={"limit": 1})
    work.plan()
    (product,) = work.products
    done = work.snakemake("--retries", "0", check=False)
    told = ("cannot write: Not a directory; check path and rights", "file/stores")
    assert_told(done, 1, f"convert {product.product_id}: ZM-STO-DENIED: ", *told)
    assert not work.state.target("convert", product).exists()
    assert (work.path / "file").read_text() == "precious"


def test_state_that_cannot_be_written_leaves_the_earlier_plan(work):
    work.configure(source={"limit": 1})
    work.plan()
    manifest = work.state.manifest
    before = manifest.read_bytes()
    work.configure(source={"limit": 2})
    with immutable(Path(manifest)):
        assert_told(work.zarrmill("plan"), EXIT_FAILED, "ZM-STO-DENIED: results/test/manifest.csv: cannot write", "check path")
    assert manifest.read_bytes() == before
    assert not list(Path(work.state.root).glob(".*.part"))
    assert work.zarrmill("plan").returncode == EXIT_OK
    assert manifest.read_bytes() != before


@contextmanager
def immutable(path: Path) -> Iterator[None]:
    """Make a file unchangeable, for root too."""
    if shutil.which("chattr") is None or subprocess.run(["chattr", "+i", path], capture_output=True, check=False).returncode:
        pytest.skip("chattr +i does not work here")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", path], check=True)


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """Mount a disk of a given size at ``path``."""
    path.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here (needs root)")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_full_disk_publishes_nothing_and_a_rerun_with_space_goes_on(work):
    stores = work.path / "results/stores"
    work.configure(source={"limit": 1})
    work.plan()
    (product,) = work.products
    with small_disk(stores, "200k"):
        done = work.snakemake("--retries", "0", check=False)
        told = ("No space left on device; free some space, then run again",)
        assert_told(done, 1, f"convert {product.product_id}: ZM-CAP-DISK: ", *told)
        assert not (work.store(product) / "zarr.json").exists()
        assert not work.state.target("convert", product).exists()
        subprocess.run(["mount", "-o", "remount,size=50m", str(stores)], check=True)
        work.snakemake()
        assert (work.store(product) / "zarr.json").exists()
        assert work.state.target("stac", product).exists()
