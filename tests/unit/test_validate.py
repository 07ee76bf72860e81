"""Parts of the validation: the tally, expected levels, blocks, and the stage's behaviour on correct stores."""

import itertools
import json
import math
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial, partialmethod
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import geozarr_reference as ref
import numpy as np
import pytest
import rioxarray  # noqa: F401 - registers the accessor
import xarray as xr
import zarr
from file_server import Part, file_server
from hypothesis import given, settings
from hypothesis import strategies as st
from until import until

from zarrmill.config import Pixels, Recipe, Validation
from zarrmill.core.checks import KINDS, Checks, findings_markdown
from zarrmill.core.checks_tree import chunk_index, parse_tree
from zarrmill.core.checks_values import Job, LevelTarget, reread, run_job, sample, stripes
from zarrmill.core.rules import Rule
from zarrmill.errors import SourceError, StoreError, UnknownStateError
from zarrmill.io.objects import Objects
from zarrmill.io.places import place_of
from zarrmill.io.readers import Apart, Target, ask
from zarrmill.io.record import read_record, write_record
from zarrmill.model import Severity, ValidationReport, Verdict
from zarrmill.stages.validate import exit_code, validate

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "findings.md"
PIXELS = Pixels(chunk_px=15, shard_px=90, overviews=("conditions/mask/*", "quality/*"))


def recipe(**validation: Any) -> Recipe:
    return Recipe(name="t", product_types=("S02MSIL2A",), pixels=PIXELS, validation=Validation(**{"readers": (), **validation}))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ref.write_source(tmp_path_factory.mktemp("source") / "product.zarr")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ref.write_store(tmp_path_factory.mktemp("store") / "product_0.zarr")


def told(report: ValidationReport) -> list[str]:
    return [f"{f.severity} {f.code} {f.path}: {f.message}" for f in report.findings if f.severity is not Severity.INFO]


def test_findings_page_is_generated_from_the_table() -> None:
    assert DOCS.read_text() == findings_markdown(), "write findings_markdown() to docs/reference/findings.md"


def test_every_code_has_a_section_meaning_and_remedy() -> None:
    sections = {"structure", "arrays", "conventions", "layout", "georef", "values", "readers"}
    for kind in KINDS.values():
        assert kind.code.split(".")[0] in sections
        assert kind.meaning.endswith(".")
        assert kind.remedy.endswith(".")


def test_no_checks_cannot_pass() -> None:
    assert Checks().verdict is Verdict.FAIL
    assert Checks().score == 0.0


def test_score_weighs_an_error_three_times_a_warning() -> None:
    checks = Checks(ours=True)
    checks.expect(False, "values.native", "a", "")
    checks.expect(True, "structure.object_budget", "", "")
    assert (checks.score, checks.verdict) == (25.0, Verdict.FAIL)


def test_a_preference_weighs_less_in_a_foreign_store() -> None:
    checks = Checks(ours=False)
    checks.expect(False, "georef.coordinates", "a", "")
    assert checks.verdict is Verdict.PASS
    assert checks.findings[0].severity is Severity.INFO


class Memory:
    """An array in memory that can be read by region."""

    def __init__(self, values: ref.Pixels, chunks: tuple[int, ...], path: str = "a") -> None:
        self.values, self.chunks, self.inner, self.path = values, chunks, chunks, path
        self.shape, self.n_bytes, self.dtype = values.shape, values.nbytes, values.dtype.name
        self.held_bytes, self.again = 0, values

    def read(self, region: tuple[slice, ...]) -> ref.Pixels | str:
        return self.values[region]

    def parts(self, region: tuple[slice, ...]) -> Iterator[tuple[tuple[slice, ...], ref.Pixels | str]]:
        spans = [range(s.start // c, -(-s.stop // c)) for s, c in zip(region, self.chunks, strict=True)]
        for index in itertools.product(*spans):
            edges = list(zip(index, region, self.chunks, strict=True))
            part = tuple(slice(max(s.start, i * c) - s.start, min(s.stop, (i + 1) * c) - s.start) for i, s, c in edges)
            yield part, self.values[region][part]

    def read_again(self, region: tuple[slice, ...]) -> ref.Pixels | str:
        return self.again[region]


RULES: list[Rule] = ["average", "or", "mode", "nearest"]


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_levels_from_stripes_equal_the_slow_reference(rule: Rule, data: st.DataObject) -> None:
    factors = data.draw(st.sampled_from([(2, 6), (2, 6, 12), (3,), (4, 12), (5,), (2, 3), (4, 20)]))
    unit = math.lcm(*factors)
    shape = tuple(unit * data.draw(st.integers(1, 24 // unit)) for _ in range(2))
    chunk = data.draw(st.integers(1, 24))
    nodata = data.draw(st.sampled_from([0, None]))
    special = data.draw(st.sampled_from([[0, 0, 0, 1, 17, 999, 1000, 1001, 65534, 65535], [1, 65535], [0, 0, 1, 3, 254, 255]]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    pixels = rng.choice(np.array(special, np.uint16 if max(special) > 255 else np.uint8), shape)
    targets = [LevelTarget(Memory(ref.slow_level(pixels, f, rule, nodata == 0), (5, 5)), f, rule, nodata) for f in factors]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zarrmill.core.checks_values.STRIPE_BYTES", data.draw(st.integers(1, 2000)))
        patch.setattr("zarrmill.core.checks_values.BAND_PX", data.draw(st.integers(1, 24)))
        patch.setattr("zarrmill.core.levels_expected._BAND_ROWS", data.draw(st.integers(1, 24)))
        result = run_job(Job(Memory(pixels, (chunk, chunk)), None, tuple(targets)), 1.0, "s", lambda *_: None, lambda _: None)
    assert [o for o in result.outcomes if not o.ok] == []
    assert result.n_pixels == sum((shape[0] // f) * (shape[1] // f) for f in factors)


def test_wrong_pixel_is_found_in_low_stripes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zarrmill.core.checks_values.STRIPE_BYTES", 1)
    pixels = np.arange(1, 577, dtype=np.uint16).reshape(24, 24)
    wanted = ref.slow_level(pixels, 6, "average")
    wanted[2, 3] += 1
    job = Job(Memory(pixels, (5, 7)), None, (LevelTarget(Memory(wanted, (4, 4)), 6, "average", nodata=0),))
    result = run_job(job, 1.0, "s", lambda *_: None, lambda _: None)
    bad = [o for o in result.outcomes if not o.ok]
    assert [o.code for o in bad] == ["values.level"]
    assert "1 of 16 pixels differ, first at (2, 3)" in bad[0].message


def test_mean_of_a_half_goes_to_even() -> None:
    pixels = np.array([[1, 2, 3, 4], [1, 2, 3, 4]], np.uint16)  # means 1.5 and 3.5
    target = LevelTarget(Memory(np.array([[2, 4]], np.uint16), (1, 2)), 2, "average", nodata=0)
    result = run_job(Job(Memory(pixels, (2, 4)), None, (target,)), 1.0, "s", lambda *_: None, lambda _: None)
    assert all(o.ok for o in result.outcomes)


def test_only_the_declared_value_is_no_data_in_a_mean() -> None:
    pixels = np.array([[0, 100, 100, 100], [0, 100, 100, 100]], np.uint8)
    for nodata, means in ((0, [100, 100]), (None, [50, 100]), (100, [0, 100]), (7, [50, 100])):
        target = LevelTarget(Memory(np.array([means], np.uint8), (1, 1)), 2, "average", nodata)
        result = run_job(Job(Memory(pixels, (2, 2)), None, (target,)), 1.0, "s", lambda *_: None, lambda _: None)
        assert all(o.ok for o in result.outcomes)


@pytest.mark.parametrize(("off_m", "ok"), [(0.0, True), (0.004, True), (0.02, False), (10.0, False)])
def test_coordinates_may_differ_from_the_source_by_a_thousandth_of_a_pixel(off_m: float, ok: bool) -> None:
    x = 500_005.0 + 10 * np.arange(8)
    job = Job(Memory(x, (8,), "r10m/x"), Memory(x + off_m, (8,), "r10m/x"), ())
    outcomes = run_job(job, 1.0, "s", lambda *_: None, lambda _: None).outcomes
    assert all(one.ok for one in outcomes) is ok
    job = Job(Memory(x, (8,), "r10m/time"), Memory(x + off_m, (8,), "r10m/time"), ())
    outcomes = run_job(job, 1.0, "s", lambda *_: None, lambda _: None).outcomes
    assert all(one.ok for one in outcomes) is (off_m == 0), "of other arrays every bit counts"


@pytest.mark.parametrize("shape", [(), (0,), (7,), (50, 70), (60, 1), (3, 60, 70), (2, 2, 24, 5)])
@pytest.mark.parametrize("n_bytes", [1, 3000, 10_000_000])
@pytest.mark.parametrize("share", [1.0, 0.1])
@pytest.mark.parametrize("band_px", [1, 30, 10_980])
def test_stripes_cover_every_pixel_once_and_cut_no_cell(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], n_bytes: int, share: float, band_px: int
) -> None:
    monkeypatch.setattr("zarrmill.core.checks_values.STRIPE_BYTES", n_bytes)
    monkeypatch.setattr("zarrmill.core.checks_values.BAND_PX", band_px)
    array = Memory(np.zeros(shape, np.uint16), shape)
    seen = np.zeros(shape, int)
    for region in stripes(array, cell=6, heights=(15,), width=10, share=share):
        seen[region] += 1
        assert all(s.start % 6 == 0 for s in region[-2:])
        assert all(s.start % 30 == 0 for s in region[1:][-1:])
        assert seen[region].nbytes // 4 <= max(n_bytes, 6 * 70 * 2)
    assert (seen == 1).all()


def test_stripes_end_with_chunks_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    array = Memory(np.zeros((90, 10), np.uint16), (15, 10))
    for rows, height in ((60, 60), (59, 30), (29, 24), (5, 6)):  # cells of 6, chunks of 15: 30 and 60 suit both
        monkeypatch.setattr("zarrmill.core.checks_values.STRIPE_BYTES", rows * 20)
        assert next(stripes(array, cell=6, heights=(15,), width=10))[0] == slice(0, height)


def test_sample_is_seeded_and_never_empty() -> None:
    regions = [(slice(i, i + 1),) for i in range(40)]
    assert sample(regions, 0.1, "a") == sample(regions, 0.1, "a")
    assert len(sample(regions, 0.1, "a")) == 4
    assert sample(regions, 0.1, "a") != sample(regions, 0.1, "b")
    assert len(sample(regions[:1], 0.001, "a")) == 1


def _meta(encoding: dict[str, Any], shape: tuple[int, ...] = (4, 4)) -> Any:
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2] * len(shape)}},
        "chunk_key_encoding": encoding,
        "codecs": ["bytes"],
    }
    return parse_tree({"a": json.dumps(document).encode()}, {})[0].arrays["a"]


@pytest.mark.parametrize(
    ("encoding", "name", "index"),
    [
        ({"name": "default"}, "c/1/0", (1, 0)),
        ({"name": "default", "configuration": {"separator": "."}}, "c.1.0", (1, 0)),
        ({"name": "v2"}, "1.0", (1, 0)),
        ({"name": "v2", "configuration": {"separator": "/"}}, "1/0", (1, 0)),
        ({"name": "default"}, "c/1", None),
        ({"name": "default"}, "c/01/0", None),
        ({"name": "default"}, "1/0", None),
    ],
)
def test_chunk_keys_of_both_encodings_are_understood(encoding: dict[str, Any], name: str, index: tuple[int, ...] | None) -> None:
    meta = _meta(encoding)
    assert chunk_index(meta, name) == index
    if index:
        assert meta.key("a", index) == f"a/{name}"


def test_scalar_has_one_key_in_both_encodings() -> None:
    assert _meta({"name": "default"}, ()).key("a", ()) == "a/c"
    assert _meta({"name": "v2"}, ()).key("a", ()) == "a/0"


@pytest.mark.parametrize("sharded", [True, False])
def test_correct_store_passes_with_every_pixel_compared(tmp_path: Path, source: Path, sharded: bool) -> None:
    store = ref.write_store(tmp_path / "s.zarr", sharded=sharded)
    readers = ("xarray", "rioxarray", "rio-tiler", "rasterio")
    made = recipe(readers=readers, max_objects=3000)
    report = validate(str(store), source=str(source), recipe=made, threads=2)
    assert told(report) == []
    assert (report.verdict, report.score, exit_code(report, made)) == (Verdict.PASS, 100.0, 0)
    vectors = {p: v.size for p, v in ref.source_arrays().items() if "quicklook" not in p and p[-2:] in ("/x", "/y")}
    assert report.n_pixels_compared == sum(v.size for v in ref.target_arrays().values()) + sum(vectors.values())
    assert {r: report.readers[r] for r in readers[:3]} == dict.fromkeys(readers[:3], "ok")
    assert report.readers["rasterio"].startswith("skipped: GDAL" if sharded else "ok")
    assert report.measured.peak_rss_bytes > 0
    assert set(report.measured.steps_s) == {"metadata", "conventions", "digest", "values", "readers"}


TARGET = Target("", "", "", "b02", (1, 1), (1.0, 0.0, 0.0, 0.0, -1.0, 0.0), None, None, sharded=True, has_cf=True)


def _with_xarray(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Let every process that starts from now on find another module below the name of xarray."""
    (folder / "xarray.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_reader_that_crashes_fails_and_those_behind_it_too(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_xarray(monkeypatch, tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    with Apart(("rasterio", "xarray", "rioxarray"), str(store)) as readers:
        said = readers.ask(TARGET)
    assert said["rasterio"].startswith("skipped: GDAL")
    assert said["xarray"] == said["rioxarray"] == "failed: the process that asks xarray was ended by SIGSEGV"


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_readers_that_are_killed_from_outside_say_nothing_about_the_store(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    _with_xarray(monkeypatch, tmp_path, f"import os, signal\nos.kill(os.getpid(), signal.{name})\n")
    with Apart(("xarray",), str(store)) as readers:
        with pytest.raises(
            UnknownStateError, match=f"asks xarray was ended by {name}, most often for its memory; validate again"
        ):
            readers.ask(TARGET)


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("name", ["xarray", "rioxarray", "rio-tiler", "rasterio"])
def test_store_that_does_not_answer_a_reader_is_an_outage(name: str, apart: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        href = f"http://127.0.0.1:{nobody.getsockname()[1]}/s.zarr"
    target = replace(TARGET, sharded=False)
    if apart:
        with Apart((name,), href) as readers:
            with pytest.raises(UnknownStateError) as caught:
                readers.ask(target)
            assert "validate again" in caught.value.message
    else:
        with pytest.raises(SourceError) as refused:
            ask((name,), Objects(href, timeout_s=1, retries=0), target)
        assert refused.value.retryable


@pytest.mark.parametrize(("pixel", "epsg"), [(10.0, 32632), (9e-5, 4326)], ids=["metres", "degrees"])
def test_reader_that_sees_a_corner_a_hundredth_of_a_pixel_off_fails(tmp_path: Path, pixel: float, epsg: int) -> None:
    centres = (np.arange(1000) + 0.5) * pixel
    raster = xr.Dataset({"b02": (("y", "x"), np.ones((1000, 1000), "u1"))}, {"y": 45 - centres, "x": 12 + centres})
    raster.rio.write_crs(epsg).to_zarr(tmp_path, zarr_format=3, consolidated=False)
    target = replace(TARGET, shape=(1000, 1000), transform=(pixel, 0.0, 12.0, 0.0, -pixel, 45.0), epsg=epsg)
    assert ask(("rioxarray",), Objects(str(tmp_path)), target) == {"rioxarray": "ok"}
    wider = replace(target, transform=(pixel * (1 + 1e-5), *target.transform[1:]))  # type: ignore[index]
    assert ask(("rioxarray",), Objects(str(tmp_path)), wider)["rioxarray"].startswith("failed: ReaderProblem: transform is")


def test_reader_is_asked_again_before_it_fails_a_remote_store(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["failed: OSError: reset", "ok"]
    monkeypatch.setattr("zarrmill.io.readers.run_reader", lambda *_: answers.pop(0))
    monkeypatch.setattr(Objects, "exists", lambda *_: True)
    assert ask(("xarray",), Objects("http://127.0.0.1:1/s.zarr"), TARGET) == {"xarray": "ok"}


def test_reader_that_does_not_answer_says_nothing_about_the_store(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_xarray(monkeypatch, tmp_path, "import time\ntime.sleep(600)\n")
    with Apart(("xarray",), str(store)) as readers:
        with pytest.raises(UnknownStateError, match=r"xarray did not answer in 1 s; validate again"):
            readers.ask(TARGET, within_s=1)


def test_first_reader_is_imported_before_it_is_asked_and_does_not_outlive_its_context(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "pid"
    _with_xarray(monkeypatch, tmp_path, f"import os\nopen({str(marker)!r}, 'x').write(str(os.getpid()))\n")
    with Apart(("xarray",), str(store)):
        until(lambda: marker.exists() and marker.read_text())
        process = Path("/proc", marker.read_text())
        assert process.exists()
    assert not process.exists()


def test_what_the_import_of_a_reader_raises_is_told_of_it(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_xarray(monkeypatch, tmp_path, "raise KeyError('no such thing')\n")
    with Apart(("xarray",), str(store)) as readers:
        assert readers.ask(TARGET) == {"xarray": "failed: KeyError: 'no such thing'"}


def test_report_is_a_record_and_equal_for_equal_runs(tmp_path: Path, store: Path, source: Path) -> None:
    first = validate(str(store), source=str(source), recipe=recipe())
    second = validate(f"{store}/", source=str(source), recipe=recipe(), threads=2)
    assert (first.findings, first.score, first.n_checks) == (second.findings, second.score, second.n_checks)
    write_record(first, place_of(tmp_path / "r.json"))
    assert read_record(ValidationReport, place_of(tmp_path / "r.json")).verdict is Verdict.PASS


def test_stamped_store_passes_without_source_because_its_digest_is_right(store: Path) -> None:
    report = validate(str(store), recipe=recipe())
    assert (report.verdict, told(report)) == (Verdict.PASS, [])
    assert "nothing to compare with" in report.sample


def test_progress_reaches_the_total(store: Path, source: Path) -> None:
    seen: list[tuple[int, int]] = []
    validate(str(store), source=str(source), recipe=recipe(), threads=2, on_progress=lambda a, b: seen.append((a, b)))
    assert [a for a, _ in seen] == sorted(a for a, _ in seen)
    assert seen[-1][0] == seen[-1][1] > 0


def test_sampled_depth_compares_less_and_says_so(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zarrmill.core.checks_values.STRIPE_BYTES", 1)
    product = ref.write_source(tmp_path / "product.zarr", chunk_px=35)
    full = validate(str(store), source=str(product), recipe=recipe())
    some = validate(str(store), source=str(product), recipe=recipe(depth="sampled", sample_share=0.2))
    assert (full.verdict, some.verdict) == (Verdict.PASS, Verdict.PASS)
    assert 0 < some.n_pixels_compared < full.n_pixels_compared / 2
    assert "seeded by 'product_0.zarr'" in some.sample


SAMPLED = """
import json, sys
from zarrmill.config import Recipe
from zarrmill.stages.validate import validate
store, source, recipe = sys.argv[1:]
report = validate(store, source=source, recipe=Recipe.model_validate_json(recipe))
told = {"verdict": report.verdict, "n": report.n_pixels_compared, "readers": report.readers}
print(json.dumps(told | {"modules": list(sys.modules)}))
"""


def test_sampled_depth_needs_neither_zarr_nor_readers(store: Path, source: Path) -> None:
    made = recipe(depth="sampled", readers=("xarray",)).model_dump_json()
    command = [sys.executable, "-c", SAMPLED, str(store), str(source), made]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert (told["verdict"], told["readers"]) == ("PASS", {"xarray": "skipped: asked at full depth only"})
    assert told["n"] > 0
    assert not {"zarr", "xarray", "rasterio", "dask", "pandas", "obstore"} & set(told["modules"])


def test_absent_chunks_are_compared_by_a_sample_too_when_they_do_not_read_as_zero() -> None:
    base, native = np.zeros((100, 10), np.uint16), np.full((100, 10), 9, np.uint16)
    native[:40] = 0
    places = ((slice(40, 100), slice(0, 10)),)
    for fill_is_zero, n in ((True, 0), (False, 1)):
        job = Job(Memory(base, (10, 10)), Memory(native, (20, 10)), suspects=places, fill_is_zero=fill_is_zero)
        bad = [o.code for o in run_job(job, 0.05, "seed", lambda *_: None, lambda _: None).outcomes if not o.ok]
        assert bad.count("values.native") == n


@pytest.mark.parametrize("seed", ["a", "b", "c", "d", "e", "f"])
def test_of_each_kind_zarr_python_reads_an_array_that_lacks_no_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: str
) -> None:
    root = zarr.create_group(tmp_path / f"{seed}.zarr")
    for name, dtype in (("full", "u2"), ("empty", "u2"), ("other", "u1")):
        array = root.create_array(name, shape=(8, 8), chunks=(4, 4), dtype=dtype)
        if name == "full":
            array[:] = np.arange(64, dtype=np.uint16).reshape(8, 8)
    read: list[str] = []
    monkeypatch.setattr("zarrmill.stages.validate.reread", lambda array, seed: read.append(array.path) or reread(array, seed))
    validate(str(tmp_path / f"{seed}.zarr"))
    assert sorted(read) == ["full", "other"]


def test_what_zarr_python_reads_otherwise_is_told() -> None:
    array = Memory(np.arange(100).reshape(10, 10), (4, 5))
    assert reread(array, "s").ok
    array.again = array.values + (np.arange(10) == 7)
    told = [reread(array, str(seed)) for seed in range(20)]
    assert {outcome.ok for outcome in told} == {True, False}
    bad = next(outcome for outcome in told if not outcome.ok)
    assert bad.code == "values.undecodable"
    assert "zarr-python reads other values" in bad.message


def test_structure_depth_reads_no_pixels(store: Path, source: Path) -> None:
    report = validate(str(store), source=str(source), recipe=recipe(depth="structure"))
    assert (report.verdict, report.n_pixels_compared, report.sample) == (Verdict.PASS, 0, "no pixels")


@pytest.mark.parametrize("arrays_as_assets", [False, True])
def test_foreign_geozarr_passes(tmp_path: Path, arrays_as_assets: bool) -> None:
    store = ref.foreign_store(tmp_path / "f.zarr", arrays_as_assets=arrays_as_assets)
    readers = () if arrays_as_assets else ("xarray", "rioxarray", "rio-tiler", "rasterio")
    report = validate(str(store), recipe=recipe(readers=readers))
    assert report.verdict in (Verdict.PASS, Verdict.WARN), told(report)
    assert not [f for f in report.findings if f.severity is Severity.ERROR]
    assert report.n_checks > 20


def test_foreign_geozarr_with_a_wrong_scale_fails(tmp_path: Path) -> None:
    store = ref.foreign_store(tmp_path / "f.zarr")

    def change(node: dict[str, Any]) -> None:
        node["attributes"]["multiscales"]["layout"][1]["transform"]["scale"] = [4.0, 4.0]

    ref.edit(store, "", change)
    assert "layout.scale" in {f.code for f in validate(str(store), recipe=recipe()).findings}


def test_source_with_other_levels_than_the_recipe_may_leave_them_out(tmp_path: Path, source: Path, store: Path) -> None:
    product, made = tmp_path / "p.zarr", tmp_path / "s.zarr"
    shutil.copytree(source, product)
    shutil.copytree(store, made)
    shutil.rmtree(made / ref.MULTISCALES / "r360m")
    entries = ref.layout({name: f for name, f in ref.LEVELS.items() if name != "r360m"})
    ref.edit(made, ref.MULTISCALES, lambda node: node["attributes"]["multiscales"].update({"layout": entries}))
    ref.seal(made)
    fewer = recipe().model_copy(update={"pixels": Pixels(chunk_px=15, shard_px=90, levels_m=(10, 20, 60, 120))})
    assert told(validate(str(made), source=str(product), recipe=fewer)) == []
    codes = {f.code for f in validate(str(made), source=str(product), recipe=recipe()).findings}
    assert "layout.levels" in codes


def test_source_level_that_does_not_divide_the_extent_may_be_left_out(tmp_path: Path, source: Path, store: Path) -> None:
    product = tmp_path / "p.zarr"
    shutil.copytree(source, product)
    for size_m, left_out in ((360, False), (240, True)):  # 1800 m are 5 pixels of 360 m and 7.5 of 240 m
        path = f"{ref.MULTISCALES}/r{size_m}m/b99"
        array = zarr.create_array(product, name=path, shape=(5, 5), dtype="u2", chunks=(5, 5), zarr_format=2)
        array[...] = 7
        zarr.consolidate_metadata(product, zarr_format=2)
        levels = recipe().model_copy(update={"pixels": Pixels(chunk_px=15, shard_px=90, levels_m=(10, 20, 60, 120, 240, 360))})
        report = validate(str(store), source=str(product), recipe=levels)
        missing = [f.path for f in report.findings if f.code == "arrays.missing"]
        assert missing == ([] if left_out else [f"/{path}"])
        shutil.rmtree(product / f"{ref.MULTISCALES}/r{size_m}m")


def test_nothing_there_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="ZM-STO-MISSING"):
        validate(str(tmp_path / "none.zarr"))


def test_missing_source_is_a_source_error(tmp_path: Path, store: Path) -> None:
    with pytest.raises(SourceError, match="ZM-SRC-MISSING"):
        validate(str(store), source=str(tmp_path / "none.zarr"))


def test_accept_pass_refuses_a_warning(store: Path, source: Path) -> None:
    strict = recipe(max_objects=3, accept="PASS")
    report = validate(str(store), source=str(source), recipe=strict)
    assert report.verdict is Verdict.WARN
    assert exit_code(report, strict) == 4
    assert exit_code(report, recipe()) == 0


class Quiet(SimpleHTTPRequestHandler):
    """A file server that cannot list and does not log."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def list_directory(self, path: Any) -> None:  # type: ignore[override]
        """Refuse."""
        self.send_error(404)


@pytest.fixture
def server(store: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(store.parent))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}/{store.name}"
        httpd.shutdown()
        thread.join()


def test_store_over_http_is_checked_without_listing(server: str, source: Path) -> None:
    report = validate(server, source=str(source), recipe=recipe(readers=("xarray",)), threads=2)
    assert report.verdict is Verdict.PASS, told(report)
    assert report.readers == {"listing": "skipped: plain http cannot list objects", "xarray": "ok"}
    assert "structure.not_listed" in {f.code for f in report.findings}


@pytest.mark.parametrize("part", ["short", "open", "untold"])
def test_store_of_a_host_with_odd_ranges_is_checked(store: Path, source: Path, part: Part) -> None:
    with file_server(store.parent, part=part) as odd:
        report = validate(odd.href(store), source=str(source), recipe=recipe(readers=()), threads=2)
    assert report.verdict is Verdict.PASS, told(report)


def test_store_that_is_sent_encoded_gets_no_verdict(store: Path) -> None:
    with file_server(store.parent, gzip=True) as odd, pytest.raises(UnknownStateError, match="gzip-encoded"):
        validate(odd.href(store), recipe=recipe(readers=()), threads=2)


def test_nothing_over_http_is_a_store_error(server: str) -> None:
    with pytest.raises(StoreError, match="ZM-STO-MISSING"):
        validate(f"{server}-not")


def test_server_that_is_gone_is_an_unknown_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Objects, "__init__", partialmethod(Objects.__init__, retries=0))
    with pytest.raises(UnknownStateError, match="ZM-UNK-OUTAGE"):
        validate("http://127.0.0.1:9/store.zarr")
