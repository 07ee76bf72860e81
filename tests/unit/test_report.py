"""The report of a run: outcomes, words, page and JSON, also of runs that went wrong."""

import json
import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fake_run import (
    START,
    FakeRun,
    fake_products,
    fake_run,
    footprint,
    measured,
    price_list,
    write_benchmark,
    write_failure,
    write_ok,
)

from zarrmill.core import page, story
from zarrmill.core.failures import group_failures
from zarrmill.core.outcome import Outcome, ProductRecords, product_row
from zarrmill.core.summary import Summary, summarise
from zarrmill.io import charts
from zarrmill.io.benchmarks import read_benchmarks
from zarrmill.io.page import embedded_json, inline_image, ticks
from zarrmill.io.state import State
from zarrmill.model import FailureRecord, Finding, Severity, ValidationReport, Verdict
from zarrmill.stages.report import report, survey

NOW = datetime(2025, 6, 2, 8, 0, tzinfo=UTC)


def made(run: FakeRun, **values: Any) -> Summary:
    """Write the report of a fake run."""
    return report(run.settings, workdir=run.workdir, now=NOW, **values)


def seen(run: FakeRun) -> Summary:
    """Look at a fake run without writing a report."""
    return survey(run.settings, workdir=run.workdir, now=NOW)


def html_of(run: FakeRun) -> str:
    """The page as written."""
    return run.state.report.read_text()


def json_of(run: FakeRun) -> dict[str, Any]:
    """``summary.json`` as written."""
    body: dict[str, Any] = json.loads(run.state.summary.read_text())
    return body


class Page(HTMLParser):
    """Addresses and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href", "srcset", "action")]


# outcomes


def test_every_product_has_one_outcome_and_they_add_up(tmp_path: Path) -> None:
    summary = seen(fake_run(tmp_path, 20, n_failed=5, n_waiting=3, thumbnails=False))
    assert summary.counts == {"ok": 12, "skipped": 5, "failed": 5, "not done": 3}
    assert {group.failure_class: group.n for group in summary.failures} == {
        "source-missing": 2,
        "source-timeout": 1,
        "capacity": 1,
        "conformance": 1,
    }
    assert summary.skipped == {"max_cloud_cover": 5}
    assert summary.exit_code == 4


def test_a_success_outdates_an_earlier_failure(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 2, n_failed=1, thumbnails=False)
    write_ok(run.state, run.products[1], 1, thumbnail=False)
    summary = seen(run)
    assert (summary.counts["ok"], summary.failures, summary.exit_code) == (2, (), 0)
    assert summary.measured.products[run.products[1].name].attempts == 2


def test_a_report_with_verdict_fail_is_a_failure_without_a_failure_record() -> None:
    product = fake_products(1)[0]
    report_ = ValidationReport("s", "", Verdict.FAIL, 10.0, 5, (), "full", "", 0, {}, measured(START, 1, 1))
    records = ProductRecords(product, "t", receipt=None, validation=report_)
    row = product_row(replace(records, receipt=_receipt(product)))
    assert (row.outcome, row.stage, row.reason, row.verdict) == (Outcome.FAILED, "validate", "conformance", "FAIL")


def test_what_comes_next_is_told_for_a_product_that_is_not_done(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 3, thumbnails=False)
    for stage, product in zip(("convert", "validate", "stac"), run.products, strict=True):
        for later in ("convert", "validate", "stac")[("convert", "validate", "stac").index(stage) :]:
            run.state.target(later, product).unlink()
    assert [(row.outcome, row.reason) for row in seen(run).products] == [
        (Outcome.NOT_DONE, "waits for convert"),
        (Outcome.NOT_DONE, "waits for validate"),
        (Outcome.NOT_DONE, "waits for stac"),
    ]


def test_exit_code_tells_nothing_to_do_apart_from_done(tmp_path: Path) -> None:
    assert seen(fake_run(tmp_path / "none", 0)).exit_code == 3
    assert seen(fake_run(tmp_path / "done", 2, thumbnails=False)).exit_code == 0
    assert seen(fake_run(tmp_path / "half", 2, n_waiting=1, thumbnails=False)).exit_code == 4


# always writable


def test_a_truncated_record_is_listed_and_not_fatal(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 5, n_failed=1, thumbnails=False)
    receipt = run.state.target("convert", run.products[0])
    receipt.write_text(receipt.read_text()[:200])
    run.state.target("stac", run.products[1]).write_bytes(b"\xff\xfe{")
    next(Path(run.state.failed).rglob("*.json")).write_text("{}")
    run.state.plan_json.write_text("[1, 2")
    summary = made(run)
    inside = {one.path.partition("/")[0] for one in summary.unreadable}
    assert inside == {"sentinel-2-l2a", "failed", "plan.json"}
    assert len(summary.unreadable) == 4
    assert summary.products[0].reason == "record of convert cannot be read"
    assert summary.products[1].reason == "record of stac cannot be read"
    assert receipt.key_in(run.state.root) in html_of(run)


def test_an_empty_run_has_a_report_that_says_plan(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 0)
    run.state.manifest.unlink()
    run.state.plan_json.unlink()
    summary = made(run)
    assert story.headline(summary) == "Nothing is planned yet"
    assert "snakemake --config run=demo --profile profiles/local plan" in html_of(run)
    assert json_of(run)["counts"] == {"ok": 0, "skipped": 0, "failed": 0, "not done": 0}


def test_a_run_that_was_only_planned_has_a_report_with_a_map(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 6, n_waiting=6)
    summary = made(run)
    assert story.headline(summary) == "Planned: 6 products, nothing built yet"
    assert story.next_steps(summary, "go") == (story.NextStep("Run it.", "go"),)
    assert html_of(run).count("<title>") == 1 + 6, "the page's own and one an outline, from the source's items"


def test_without_a_manifest_products_are_taken_from_their_records(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 8, n_failed=2, n_waiting=1, thumbnails=False)
    run.state.manifest.write_text("product_id\nhalf a man")
    summary = seen(run)
    assert {row.name for row in summary.products} == {product.name for product in run.products[:7]}
    assert [one.path for one in summary.unreadable] == ["manifest.csv"]


def test_a_missing_recipe_costs_the_budget_and_nothing_else(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 9, thumbnails=False)
    assert seen(run).n_over_budget == 1, "product 7 has 470 objects, the budget is 450"
    (tmp_path / "config/recipes/s2-l2a.yaml").unlink()
    summary = seen(run)
    assert (summary.n_over_budget, summary.counts["ok"]) == (0, 9)
    assert [one.path for one in summary.unreadable] == ["recipes"]


# what is told


def test_story_tells_what_ran_what_it_cost_and_the_slowest(tmp_path: Path) -> None:
    summary = seen(fake_run(tmp_path, 20, n_failed=2, n_waiting=1, thumbnails=False))
    slowest = summary.measured.slowest[0]
    text = story.story(summary)
    assert text.startswith("Run demo has 20 products acquired 2025-05-29 to 2025-05-31: ")
    assert "17 ok (1 with warnings), 2 failed (1 capacity, 1 source-timeout), 1 not done." in text
    assert "The plan left out 5 more (5 max_cloud_cover)." in text
    assert f"{story.size(17 * 1_900_000_000)} of decoded pixels became {story.size(summary.n_bytes)}" in text
    assert f"the slowest product was {slowest} with " in text
    assert summary.measured.products[slowest].total_s == max(cost.total_s for cost in summary.measured.products.values())


def test_cost_is_planned_against_measured(tmp_path: Path) -> None:
    prices = price_list(months_kept=2)
    prices["core_hour_eur"]["assumed"] = True
    run = fake_run(tmp_path, 3, n_failed=1, thumbnails=False, prices=prices)
    summary = made(run)
    cost = summary.measured.cost
    assert cost is not None
    first = summary.measured.products[run.products[0].name]
    walls = first.wall_s
    assert first.core_s == pytest.approx(2 * walls["convert"] + 2 * walls["validate"] + walls["stac"])
    assert first.cost is not None
    row = summary.products[0]
    assert first.cost.eur == pytest.approx(first.core_s / 1000 + row.n_bytes / 1e9 * 2 + row.n_objects / 100)
    failed = summary.measured.products[run.products[2].name]
    assert failed.cost is not None
    assert failed.cost.eur == pytest.approx(2 * 12.5 / 1000), "what failed has held its cores too"
    assert cost.actual.eur == pytest.approx(sum(one.cost.eur for one in summary.measured.products.values() if one.cost))
    each = 1.9 / 125 + 0.01 + 1.9 / 3.5 * 2 + 3.8
    assert (cost.planned.eur, cost.planned_done.eur) == pytest.approx((3 * each, 2 * each))
    assert json_of(run)["measured"]["cost"]["assumed"] == ["€3.6 a core hour"]
    assert f"It cost €{cost.actual.eur:.2f}, planned was €{2 * each:.2f} for what is converted" in story.story(summary)
    text = html_of(run)
    assert 'id="cost"' in text
    assert "Assumed, not looked up: €3.6 a core hour." in text


def test_a_run_without_prices_has_no_word_of_cost(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 3, thumbnails=False)
    assert made(run).measured.cost is None
    assert "€" not in html_of(run)
    assert 'id="cost"' not in html_of(run)


def test_headline_says_done_only_when_all_are_done(tmp_path: Path) -> None:
    assert story.headline(seen(fake_run(tmp_path / "a", 3, thumbnails=False))) == "All 3 products are done"
    assert story.headline(seen(fake_run(tmp_path / "b", 4, thumbnails=False))) == "All 4 products are done, 1 with warnings"
    mixed = seen(fake_run(tmp_path / "c", 9, n_failed=2, n_waiting=3, thumbnails=False))
    assert story.headline(mixed) == "4 of 9 products done, 2 failed, 3 still to do"
    assert [story.mood(one) for one in (mixed, seen(fake_run(tmp_path / "d", 2, n_waiting=1)))] == ["bad", "attention"]


def test_replay_names_the_failed_targets_when_they_are_few(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 3, n_failed=1, thumbnails=False)
    (group,) = made(run).failures
    target = State.of(run.settings).target("stac", run.products[2])
    assert story.replay("snakemake --profile x", group.targets) == f"snakemake --profile x {target}"
    assert story.replay("snakemake", tuple("abcdef")) == "snakemake"
    assert f"snakemake --config run=demo --profile profiles/local {target}" in html_of(run)


def test_fifty_failures_of_four_classes_make_four_groups(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 52, n_failed=50, thumbnails=False)
    groups = seen(run).failures
    assert [(group.failure_class, group.n) for group in groups] == [
        ("capacity", 13),
        ("conformance", 13),
        ("source-missing", 12),
        ("source-timeout", 12),
    ]
    assert all(len(group.variants) == 1 for group in groups), "lines that differ in the product's name are one"


def test_messages_that_differ_in_words_are_told_apart_within_a_class() -> None:
    products = fake_products(3)
    messages = ["b02 is 5 px wide, expected 10", "b03 is 7 px wide, expected 10", "no CRS"]
    failures = [_failure(product, message) for product, message in zip(products, messages, strict=True)]
    (group,) = group_failures(failures)
    assert [(variant.line, variant.n) for variant in group.variants] == [("b02 is 5 px wide, expected 10", 2), ("no CRS", 1)]


def test_findings_are_counted_by_code_errors_first(tmp_path: Path) -> None:
    summary = seen(fake_run(tmp_path, 20, n_failed=4, thumbnails=False))
    assert [(count.code, count.severity, count.n_products) for count in summary.findings] == [
        ("values.level", Severity.ERROR, 1),
        ("objects.budget", Severity.WARNING, 1),
        ("source.crs_text", Severity.WARNING, 1),
        ("source.chunk_missing", Severity.INFO, 3),
    ]


def test_benchmarks_fill_what_stages_do_not_measure(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 3, thumbnails=False)
    summary = seen(run)
    assert summary.measured.stages["stac"].n == 3
    assert summary.measured.products[run.products[0].name].wall_s["stac"] == pytest.approx(2.0)
    write_benchmark(run.state, run.products[0], "stac", 1.0)
    path = next((Path(run.state.root) / "benchmarks" / "stac").rglob(f"{run.products[0].name}.tsv"))
    path.write_text("s\th:m:s\tmax_rss\tcpu_time\n3.5\t0:00:03\tNA\t-\n")
    cost = read_benchmarks(run.state)["stac", run.products[0].name]
    assert (cost.wall_s, cost.cpu_s, cost.peak_rss_bytes) == (3.5, 0.0, 0)


def test_equal_runs_have_equal_summaries_but_for_what_was_measured(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 12, n_failed=2, thumbnails=False)
    made(run)
    first = json_of(run)
    made_later = report(run.settings, workdir=run.workdir, now=NOW.replace(hour=20))
    second = json_of(run)
    assert first["measured"].pop("generated") != second["measured"].pop("generated")
    assert first == second
    assert first["schema"] == "zarrmill/summary/1"
    assert first["counts"]["ok"] == made_later.counts["ok"] == 10
    stable = json.dumps({key: value for key, value in first.items() if key != "measured"})
    assert not re.search(r'"(wall_s|cpu_s|peak_rss_bytes|started|finished|attempts)"', stable)


# the page


def test_page_needs_nothing_beside_itself(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 30, n_failed=4, n_waiting=2)
    made(run)
    text = html_of(run)
    addresses = Page(text).addresses
    assert len(addresses) > 30
    outside = [one for one in addresses if not re.match(r"(#|\.\./|data:)", one)]
    assert outside == []
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    for address in addresses:
        if address.startswith("../") and not address.endswith((".zarr/zarr.json", "plan.html")):
            assert (Path(run.state.report).parent / address).exists(), address


def test_page_shows_messages_as_text_never_as_markup(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 2, n_waiting=1, thumbnails=False)
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & `code`"
    write_failure(run.state, run.products[1], 1, ("source-corrupt", "ZM-SRC-CORRUPT", "convert", evil))
    made(run)
    text = html_of(run)
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    rows = json.loads(data[1])["rows"]
    assert rows[1][page.COLUMNS.index("message")] == evil
    assert "docs/reference/errors.md#zm-src-corrupt" in html_of(run)


def test_quicklooks_in_the_page_are_few_and_small(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 75)
    made(run)
    images = re.findall(r'src="(data:image/jpeg;base64,[^"]+)"', html_of(run))
    assert len(images) == 60
    assert max(len(image) for image in images) < 25_000
    assert "60 of 75" in html_of(run)


def test_a_damaged_thumbnail_is_left_out(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 2)
    thumbnail = run.state.thumbnail(run.products[0])
    thumbnail.write_bytes(thumbnail.read_bytes()[:500])
    assert inline_image(thumbnail, 100) is None
    made(run)
    assert html_of(run).count("data:image/jpeg") == 1


def test_thousand_products_are_quick_and_small(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 1000, n_failed=40, n_waiting=10, thumbnails=False)
    before = time.process_time()
    summary = made(run)
    assert time.process_time() - before < 15
    assert summary.counts["ok"] == 950
    assert Path(run.state.report).stat().st_size < 1_500_000
    assert Path(run.state.summary).stat().st_size < 2_500_000


def test_table_and_map_grow_slowly_with_the_run() -> None:
    records = [
        ProductRecords(product, "t", footprint=page.ring_lists(footprint(n))) for n, product in enumerate(fake_products(3000))
    ]
    summary = summarise("demo", records, generated=NOW)
    table = embedded_json(page.table(summary, {}))
    assert len(table) < 3000 * 220
    shapes = page.shapes(records, summary.products)
    assert len(shapes) == 75, "one outline a tile"
    assert shapes[0].title.endswith("40 products\n40 not done")


# charts


def test_charts_are_the_same_bytes_for_the_same_numbers() -> None:
    drawn = [charts.histogram("h", {"a": [1, 2, 2, 3], "b": [2]}, "things", limit=(5, "limit 5")) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith('<svg class="chart" role="img" aria-label="Histogram: things"')
    assert "limit 5" in drawn[0]


def test_charts_take_their_colours_from_the_theme() -> None:
    drawn = charts.histogram("h", {"a": [1.0, 2.0]}, "x") + charts.stage_bars("s", {"convert": [1.0, 3.0]}, story.duration)
    assert "var(--first)" in drawn
    assert not re.search(r"#0102[0-9a-f]{2}\b", drawn)
    assert "DejaVu" not in drawn
    assert "http" not in drawn


def test_charts_on_one_page_have_different_ids() -> None:
    ids = [
        name
        for chart in ("one", "two")
        for name in re.findall(r'\bid="([^"]+)"', charts.histogram(chart, {"a": [1.0, 2.0]}, "x"))
    ]
    assert len(ids) == len(set(ids))


def test_charts_without_values_are_not_drawn() -> None:
    assert charts.histogram("h", {"a": []}, "x") == ""
    assert charts.stage_bars("s", {"convert": []}, story.duration) == ""
    assert charts.finished_over_time("t", [1.0]) == ""
    assert charts.footprint_map("m", []) == ""


def test_one_value_and_equal_values_can_be_drawn() -> None:
    assert "<svg" in charts.histogram("h", {"a": [5.0]}, "x")
    assert "<svg" in charts.histogram("h", {"a": [0.0, 0.0]}, "x", limit=(0, "limit"))
    assert "<svg" in charts.stage_bars("s", {"convert": [2.0]}, story.duration)


def test_map_joins_an_outline_across_the_antimeridian() -> None:
    ring = ((179.5, 10.0), (-179.5, 10.0), (-179.5, 11.0), (179.5, 11.0), (179.5, 10.0))
    drawn = charts.footprint_map("map", [charts.Outline((ring,), "good", "A & B\nok")])
    labels = re.findall(r">([\d.]+°[EW]?)<", drawn)
    assert "180°E" in labels or "180°W" in labels
    assert not any(label in labels for label in ("0°", "90°E", "100°W"))
    assert "<title>A &amp; B\nok</title>" in drawn


@pytest.mark.parametrize(
    "geometry",
    [
        None,
        {},
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "Polygon", "coordinates": [[[1, "x"]]]},
        {"type": "Polygon"},
        "text",
    ],
)
def test_geometries_that_are_not_areas_have_no_outline(geometry: object) -> None:
    assert page.ring_lists(geometry) == ()


# small things


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (12_345_678, "12.3 MB"), (999_999, "1.00 MB"), (4.2e15, "4,200 TB")],
)
def test_sizes_have_three_digits(n_bytes: float, text: str) -> None:
    assert story.size(n_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (3599, "59 min"), (5400, "1 h 30 min"), (180_000, "2 d 2 h")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert story.duration(seconds) == text


def test_ticks_are_code_and_the_rest_is_text() -> None:
    assert str(ticks("raise `memory_mb` <now>")) == "raise <code>memory_mb</code> &lt;now&gt;"


def _failure(product: Any, message: str) -> FailureRecord:
    found: tuple[Finding, ...] = ()
    cost = measured(START, 1, 1)
    return FailureRecord("demo", "convert", product, "source-corrupt", "ZM-SRC-LAYOUT", message, "", "", found, cost)


def _receipt(product: Any) -> Any:
    from zarrmill.model import ConvertReceipt

    return ConvertReceipt(product, "s", "d", "t", "r", 1, 1, 1, (), False, measured(START, 1, 1))
