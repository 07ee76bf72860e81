"""The plan: every listed product in one class, with a reason; nothing written by looking; the same bytes the second time."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fake_run import price_list
from rich.console import Console
from stac_server import Item, eopf_item, product_id, write_source

from zarrmill.config import Pixels, Recipe, Settings, Source, load_recipe
from zarrmill.core.entries import entry_of_item, entry_of_row, type_of_name
from zarrmill.core.estimate import SourceArray, SourceTree, estimate, n_data_objects, read_tree, seconds
from zarrmill.core.planned import PlanResult
from zarrmill.core.planning import Facts, PlanClass, classify, histogram, ordered
from zarrmill.errors import ConfigError, SourceError, UnknownStateError
from zarrmill.io.manifest import read_manifest
from zarrmill.io.objects import Objects
from zarrmill.io.record import read_record, write_record
from zarrmill.io.state import PRODUCT_STAGES, Failures, State
from zarrmill.model import ConvertReceipt, FailureRecord, Measured, PlanRecord, Product
from zarrmill.stages import plan as planning
from zarrmill.stages.plan import plan, print_plan, write_plan

METADATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "eopf-metadata"
NOW = datetime(2025, 1, 14, tzinfo=UTC)
RECIPE = Recipe(name="s2-l2a", product_types=("S02MSIL2A",))
RECIPES = {"S02MSIL2A": RECIPE}

Change = Callable[[Item], object]


class Run:
    """A catalogue file beside its sources, and a run that plans it."""

    def __init__(self, root: Path, n: int = 3, **source: Any) -> None:
        self.root = root
        self.catalogue = root / "items.json"
        self.source: dict[str, Any] = source
        self.recipes = RECIPES
        self.prices: str | None = None
        self.items = [eopf_item(product_id(i), f"./sources/{product_id(i)}.zarr") for i in range(n)]
        if source.get("fingerprint") != "item":
            for i in range(n):
                write_source(root / "sources" / f"{product_id(i)}.zarr", note=str(i))

    @property
    def settings(self) -> Settings:
        roots = {"state_root": str(self.root / "results"), "store_root": str(self.root / "stores")}
        return Settings(run="r", **roots, prices=self.prices, source=Source(catalogue=str(self.catalogue), **self.source))

    @property
    def state(self) -> State:
        return State.of(self.settings)

    def plan(self) -> PlanResult:
        self.catalogue.write_text(json.dumps({"type": "FeatureCollection", "features": self.items}))
        return plan(self.settings, self.recipes, now=NOW)

    def planned(self) -> PlanResult:
        result = self.plan()
        write_plan(result, self.state)
        return result

    def build(self, product: Product, stages: Sequence[str] = PRODUCT_STAGES) -> None:
        """Pretend that stages went well: their targets, and a sealed store."""
        for stage in stages:
            target = self.state.target(stage, product)
            if stage == "convert":
                write_record(ConvertReceipt(product, "store", "", "", "", 1, 1, 1, (), False, Measured()), target)
            else:
                target.write_text("{}")
        self.seal(product).write_text("{}")

    def seal(self, product: Product) -> Path:
        root = self.root / "stores" / product.store_path / "zarr.json"
        root.parent.mkdir(parents=True, exist_ok=True)
        return root

    def fail(self, product: Product, stage: str = "convert", code: str = "ZM-SRC-CORRUPT") -> None:
        kind = "source-corrupt"
        record = FailureRecord("r", stage, product, kind, code, "b02 0.0 cannot be decoded", "", "", (), Measured())
        attempt = Failures(self.state).next_attempt(product)
        write_record(record, self.state.failure(kind, product, stage, attempt))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def classes(result: PlanResult) -> dict[str, str]:
    return {row.product_id: row.plan_class.value for row in result.rows}


def only(result: PlanResult) -> tuple[str, str, str]:
    (row,) = result.rows
    return row.plan_class.value, row.code, row.reason


class TestWhatWasBuilt:
    """Nothing that is published is built again, or taken back, because a disk or a source is away."""

    @pytest.fixture
    def built(self, run: Run) -> Run:
        for product in run.planned().products:
            run.build(product)
        return run

    @pytest.mark.parametrize("leftover", [False, True])
    def test_a_disk_that_is_not_mounted_is_no_reason_to_build_again(self, built: Run, leftover: bool) -> None:
        shutil.rmtree(built.root / "stores")
        if leftover:
            (built.root / "stores").mkdir()  # the mount point
        with pytest.raises(UnknownStateError, match=r"stores: nothing is there, but 3 products .* --stores-gone"):
            built.plan()
        result = plan(built.settings, built.recipes, now=NOW, stores_gone=True)
        assert set(classes(result).values()) == {"missing"}

    def test_a_root_that_cannot_be_listed_is_unknown(self, built: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.rmtree(built.root / "stores")

        def away(objects: Objects) -> bool:
            raise SourceError(f"{objects.href}: no answer", kind="timeout")

        monkeypatch.setattr(Objects, "is_empty", away)
        with pytest.raises(UnknownStateError, match=r"stores: .* no answer; nothing was decided"):
            built.plan()

    def test_a_root_without_any_of_the_stores_but_others_is_no_outage(self, built: Run) -> None:
        shutil.rmtree(built.root / "stores")
        (built.root / "stores/others").mkdir(parents=True)
        assert set(classes(built.plan()).values()) == {"missing"}

    @pytest.mark.parametrize("code", ["ZM-SRC-TIMEOUT", "ZM-SRC-MISSING"])
    def test_a_built_product_whose_source_is_away_stays_in_the_manifest(
        self, built: Run, monkeypatch: pytest.MonkeyPatch, code: str
    ) -> None:
        before, record = built.state.manifest.read_bytes(), built.state.plan_json.read_bytes()
        look = planning.read_metadata
        kind = code.rpartition("-")[2].lower()

        def away(objects: Objects) -> tuple[str, bytes]:
            if product_id(1) in objects.href:
                raise SourceError(f"{objects.href}: no answer", kind=kind)
            return look(objects)

        monkeypatch.setattr(planning, "read_metadata", away)
        result = built.planned()
        assert classes(result)[product_id(1)] == ("unknown" if kind == "timeout" else "refused")
        assert built.state.manifest.read_bytes() == before
        assert built.state.plan_json.read_bytes() != record
        assert any(line.startswith("1 product refused, or not to be looked at") for line in result.lines())
        assert result.exit_code == (6 if kind == "timeout" else 3)

    def test_one_that_is_not_built_leaves_it(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        first, *_ = run.planned().products
        run.build(first, PRODUCT_STAGES[:2])
        shutil.rmtree(run.root / "sources" / f"{first.product_id}.zarr")
        assert first.product_id not in [product.product_id for product in run.planned().manifest]


class TestClasses:
    def test_a_product_never_built_is_new_and_has_its_manifest_row(self, run: Run) -> None:
        result = run.plan()
        assert classes(result) == {product_id(i): "new" for i in range(3)}
        product = result.products[0]
        assert (product.product_id, product.recipe, product.mem_mb) == (product_id(2), "s2-l2a", 2000)
        assert product.href == str(run.root / "sources" / f"{product_id(2)}.zarr")
        # b02 180² uint16, x and y int64; the quick-look is not converted.
        assert product.n_bytes == 180 * 180 * 2 + 2 * 180 * 8
        assert len(product.digest) == 8
        assert len({p.digest for p in result.products}) == 3

    def test_looking_writes_nothing(self, run: Run) -> None:
        run.plan()
        assert not (run.root / "results").exists()
        assert not (run.root / "stores").exists()

    def test_a_complete_product_is_up_to_date(self, run: Run) -> None:
        run.build(run.planned().products[0])
        result = run.plan()
        assert classes(result)[product_id(2)] == "up to date"
        assert (len(result.products), result.n_to_do, result.exit_code) == (3, 2, 0)

    def test_nothing_to_do_has_its_own_exit_code(self, run: Run) -> None:
        for product in run.planned().products:
            run.build(product)
        assert run.plan().exit_code == 3

    def test_a_half_done_chain_is_missing_and_its_conversion_is_not_counted_again(self, tmp_path: Path) -> None:
        run = Run(tmp_path, 1)
        run.build(run.planned().products[0], ("convert",))
        result = run.plan()
        assert only(result) == ("missing", "", "no target of validate, stac")
        work = result.summary()["to_do"]
        assert (work["n_products"], work["n_conversions"], work["n_objects"]) == (1, 0, 0)

    def test_a_lost_receipt_of_a_validated_product_is_missing(self, tmp_path: Path) -> None:
        run = Run(tmp_path, 1)
        run.build(run.planned().products[0], ("validate", "stac"))
        assert only(run.plan()) == ("missing", "", "no target of convert")

    def test_a_deleted_store_is_missing_and_its_receipts_are_dropped(self, tmp_path: Path) -> None:
        run = Run(tmp_path, 1)
        (product,) = run.planned().products
        run.build(product)
        run.seal(product).unlink()
        result = run.plan()
        assert only(result)[0] == "missing"
        assert "store is gone" in only(result)[2]
        assert run.state.target("stac", product).exists(), "looking must not drop anything"
        write_plan(result, run.state)
        assert not any(run.state.target(stage, product).exists() for stage in PRODUCT_STAGES)
        assert run.state.target("plan", product).exists()
        before = snapshot(run.root / "results")
        again = run.planned()
        assert only(again)[0] == "missing", "why it is built stays told until it is built"
        assert again.gone == ()
        assert snapshot(run.root / "results") == before
        run.build(product)
        assert only(run.plan())[0] == "up to date"

    def test_a_failure_is_told_with_its_code_until_the_target_is_there(self, tmp_path: Path) -> None:
        run = Run(tmp_path, 1)
        (product,) = run.planned().products
        run.fail(product, code="ZM-SRC-TIMEOUT")
        run.fail(product)
        assert only(run.plan())[0] == "failed before"
        assert "convert failed (2 times in all), last with ZM-SRC-CORRUPT: b02 0.0" in only(run.plan())[2]
        run.build(product, ("convert",))
        assert only(run.plan())[0] == "missing"
        run.fail(product, "validate", "ZM-CON-STORE")
        assert "validate failed (3 times in all), last with ZM-CON-STORE" in only(run.plan())[2]
        run.build(product)
        assert only(run.plan())[0] == "up to date"

    def test_a_failure_record_that_cannot_be_read_is_still_a_failure(self, tmp_path: Path) -> None:
        run = Run(tmp_path, 1)
        (product,) = run.planned().products
        run.fail(product)
        Failures(run.state).of(product)[0].place.write_text("{")
        assert only(run.plan())[0] == "failed before"

    def test_a_changed_recipe_is_stale_under_a_new_digest(self, tmp_path: Path) -> None:
        run = Run(tmp_path, 1)
        (old,) = run.planned().products
        run.build(old)
        run.recipes = {"S02MSIL2A": RECIPE.model_copy(update={"pixels": Pixels(chunk_px=549)})}
        result = run.plan()
        (new,) = result.products
        assert new.digest != old.digest
        assert only(result) == ("stale", "", f"recipe changed, {old.digest} to {new.digest}")

    def test_a_changed_gate_is_no_new_digest(self, tmp_path: Path) -> None:
        run = Run(tmp_path, 1)
        run.build(run.planned().products[0])
        run.recipes = {"S02MSIL2A": RECIPE.model_copy(update={"memory_mb": 500})}
        assert only(run.plan())[0] == "up to date"

    def test_a_changed_source_is_stale(self, tmp_path: Path) -> None:
        run = Run(tmp_path, 1)
        (old,) = run.planned().products
        run.build(old)
        write_source(tmp_path / "sources" / f"{product_id(0)}.zarr", note="processed again")
        assert only(run.plan())[2].startswith(f"source changed, {old.digest} to ")

    def test_a_corrected_date_is_stale_too_as_it_is_part_of_the_place(self, tmp_path: Path) -> None:
        run = Run(tmp_path, 1)
        run.build(run.planned().products[0])
        run.items[0]["properties"]["datetime"] = "2025-01-12T23:59:59Z"
        assert only(run.plan())[2] == "acquisition day changed, 20250113 to 20250112"

    def test_products_of_one_id_in_two_collections_are_two_products(self, run: Run) -> None:
        twin = {**run.items[0], "collection": "sentinel-2-l2a-zarr3"}
        run.items.append(twin)
        assert len(run.planned().products) == 4

    def test_a_zarr_v3_source_is_said_to_be_one_and_refused_when_the_recipe_says_so(self, tmp_path: Path) -> None:
        run = Run(tmp_path, 1)
        (tmp_path / "sources" / f"{product_id(0)}.zarr" / ".zmetadata").unlink()
        write_source(tmp_path / "sources" / f"{product_id(0)}.zarr", zarr_format=3)
        result = run.plan()
        assert only(result)[0] == "new"
        assert "Zarr v3" in only(result)[2]
        assert result.products[0].n_bytes == 180 * 180 * 2 + 2 * 180 * 8
        assert result.summary()["n_zarr3"] == 1
        run.recipes = {"S02MSIL2A": RECIPE.model_copy(update={"pixels": Pixels(zarr3_source="refuse")})}
        assert only(run.plan())[:2] == ("refused", "ZM-SRC-TYPE")

    def test_classes_are_decided_in_this_order(self) -> None:
        stages = ("convert", "validate", "stac")
        every = frozenset(stages)
        assert classify(Facts(stages))[0] is PlanClass.NEW
        assert classify(Facts(stages, every, sealed=True, failed_stage="convert", older="x"))[0] is PlanClass.CURRENT
        assert classify(Facts(stages, every, failed_stage="convert"))[0] is PlanClass.MISSING
        assert classify(Facts(stages, failed_stage="convert", failure="f", older="x")) == (PlanClass.FAILED, "f")
        assert classify(Facts(stages, frozenset({"convert"}), sealed=True, failed_stage="convert"))[0] is PlanClass.MISSING
        assert classify(Facts(stages, older="x")) == (PlanClass.STALE, "x")


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(root.rglob("*")) if p.is_file()}


class TestFiles:
    def test_planning_again_changes_no_byte_and_no_time_anywhere(self, run: Run) -> None:
        run.items[0]["properties"]["eo:cloud_cover"] = None
        run.items.append(eopf_item(product_id(7), "./sources/none.zarr"))
        run.planned()
        before = snapshot(run.root)
        run.items.reverse()
        run.planned()
        changed = {key for key, value in snapshot(run.root).items() if before.get(key) != value}
        assert changed == {str(run.catalogue)}

    def test_the_manifest_holds_the_products_and_the_records_their_items(self, run: Run) -> None:
        result = run.planned()
        assert read_manifest(run.state.manifest) == result.products
        for product in result.products:
            record = read_record(PlanRecord, run.state.target("plan", product))
            assert record.product == product
            assert record.item == next(item for item in run.items if item["id"] == product.product_id)

    def test_a_changed_item_rewrites_its_record_only(self, run: Run) -> None:
        products = run.planned().products
        before = snapshot(run.root)
        run.items[0]["properties"]["updated"] = "2026-01-01T00:00:00Z"
        run.planned()
        changed = {key for key, value in snapshot(run.root).items() if before.get(key) != value}
        assert changed == {str(run.catalogue), str(run.state.target("plan", products[-1]))}

    def test_plan_json_adds_up_and_has_a_reason_in_every_row(self, run: Run) -> None:
        run.items += [{**run.items[0], "id": "../x"}, eopf_item(product_id(9), "./sources/none.zarr")]
        run.source["ids"] = (*(product_id(i) for i in range(2)), product_id(9), "../x", "absent")
        run.planned()
        body = json.loads(run.state.plan_json.read_text())
        assert body["schema"] == "zarrmill/planned/1"
        assert body["totals"] == {**dict.fromkeys(body["totals"], 0), "new": 2, "skipped": 1, "refused": 2}
        assert sum(body["totals"].values()) == body["n_listed"] == len(body["products"]) == 5
        assert sum(body["skipped"].values()) == body["totals"]["skipped"]
        assert sum(body["refused"].values()) == body["totals"]["refused"]
        assert sum(body["acquired"].values()) == body["n_manifest"] == 2
        assert all(row["reason"] for row in body["products"])
        assert body["ids_not_found"] == ["absent"]
        assert (body["first_acquired"], body["last_acquired"]) == ("2025-01-13T00:00:00.024000Z", "2025-01-13T00:00:01.024000Z")
        n_bytes = 2 * (180 * 180 * 2 + 2 * 180 * 8)
        assert (body["to_do"]["n_bytes"], body["to_do"]["n_conversions"]) == (n_bytes, 2)

    def test_the_table_and_the_page_show_every_class_and_escape_what_is_hostile(self, run: Run) -> None:
        run.items += [{**run.items[0], "id": "<script>[red]\x1b"}]
        result = run.planned()
        console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - closed below
        print_plan(result, console)
        console.file.close()
        text, page = console.export_text(), run.state.plan_html.read_text()
        for plan_class, n in result.counts.items():
            assert (f" {plan_class.value} " in text) == bool(n)
            assert plan_class.value in page
        assert "<script>[red]\\x1b" in text
        assert "to do: 3 products, 3 conversions" in text
        assert "&lt;script&gt;" in page
        assert "<script>" not in page
        assert "http" not in page.split("<body>")[0], "the page fetches nothing"
        assert page.count("<svg") == len(PlanClass) + 1

    def test_an_empty_plan_is_written_too(self, tmp_path: Path) -> None:
        run = Run(tmp_path, 0)
        assert run.planned().exit_code == 3
        assert read_manifest(run.state.manifest) == ()
        assert "Plan of run r" in run.state.plan_html.read_text()

    def test_a_state_that_cannot_be_read_stops(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        run.planned()

        def refuse(path: Path) -> list[str]:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("zarrmill.io.places.os.scandir", refuse)
        with pytest.raises(UnknownStateError, match="cannot read the state"):
            run.plan()

    def test_a_damaged_plan_json_does_not_matter(self, run: Run) -> None:
        run.planned()
        for text in ("{", "[]", '{"products": [{"store_gone": true}]}', '{"products": [1]}'):
            run.state.plan_json.write_text(text)
            assert run.planned().counts[PlanClass.NEW] == 3
            assert json.loads(run.state.plan_json.read_text())["run"] == "r"

    def test_two_thousand_items_are_planned_in_seconds(self, tmp_path: Path) -> None:
        run = Run(tmp_path, 2000, fingerprint="item")
        start = time.process_time()
        result = run.plan()
        assert time.process_time() - start < 15
        assert len(result.products) == 2000
        assert result.summary()["to_do"]["n_without_estimate"] == 2000


class TestCost:
    """A product has 67,680 decoded bytes: by these prices it costs 1 EUR of cores and nothing else."""

    @pytest.fixture
    def paid(self, run: Run) -> Run:
        prices = price_list(core_hour_eur=3600 / (67_680 / 125e6 + 10), gb_month_eur=0, put_1000_eur=0)
        prices["jobs"]["assumed"] = prices["gb_month_eur"]["assumed"] = True
        run.prices = str(run.root / "prices.yaml")
        Path(run.prices).write_text(json.dumps(prices))
        return run

    def test_cost_range_assumed_figures_and_the_binding_limit_are_told(self, paid: Run) -> None:
        lines = list(paid.plan().lines())
        assert "cost: €3.00 (€3.00): compute €3.00, storage €0.00 for 2 months, requests €0.00" in lines
        assert "prices of 2025-06-01; assumed, not looked up: €0 a GB and month, 4 at once" in lines
        bound = next(line for line in lines if line.startswith("pace: "))
        assert bound.startswith("pace: 2,880 products/h, bound by conversion (4 at once, 10 core seconds each on 2 threads)")
        assert any("60 to 170 MB/s a core" in line for line in lines)

    def test_plan_json_and_page_have_them_too_and_do_not_change(self, paid: Run) -> None:
        paid.planned()
        before = snapshot(paid.root / "results")
        body = json.loads(paid.state.plan_json.read_text())
        assert body["cost"]["to_do"] == body["cost"]["manifest"]
        high = 3 * (67_680 / 60e6 + 10) / (67_680 / 125e6 + 10)
        assert (body["cost"]["to_do"]["eur"], body["cost"]["to_do"]["high_eur"]) == (3.0, round(high, 6)), "at 60 MB/s"
        assert body["cost"]["assumed"] == ["€0 a GB and month"]
        assert body["pace"] == [{"limit": "conversion", "products_per_hour": 2879.8}]
        assert body["prices"]["core_hour_eur"]["source"] == "a test"
        assert [row["cost_eur"] for row in body["products"]] == [1.0, 1.0, 1.0]
        assert "cost: €3.00" in paid.state.plan_html.read_text()
        paid.planned()
        assert snapshot(paid.root / "results") == before

    def test_without_prices_no_cost_is_told(self, run: Run) -> None:
        result = run.planned()
        assert not any("€" in line for line in result.lines())
        body = json.loads(run.state.plan_json.read_text())
        assert (body["cost"], body["pace"], body["prices"]) == (None, [], None)
        assert "cost_eur" not in body["products"][0]

    def test_what_is_done_is_not_left_to_spend(self, paid: Run) -> None:
        newest, other, _ = paid.planned().products
        paid.build(newest)
        paid.build(other, ("convert",))
        result = paid.plan()
        assert (result.cost_to_do.eur, result.cost.eur) == pytest.approx((2.0, 3.0)), "the second is still to be validated"
        assert any(line.endswith("; the whole manifest €3.00") for line in result.lines())

    def test_a_bound_takes_the_first_products_that_it_pays_for(self, paid: Run) -> None:
        paid.source["max_cost_eur"] = 2.5
        result = paid.planned()
        assert classes(result) == {product_id(2): "new", product_id(1): "new", product_id(0): "skipped"}
        assert result.summary()["skipped"] == {"max_cost_eur": 1}
        assert result.rows[-1].reason == "beyond the first 2, which have a planned cost within €2.50, newest first"
        paid.source["max_cost_eur"] = 0.5
        assert paid.plan().exit_code == 3

    def test_a_price_list_that_is_not_there_stops_before_anything_is_read(self, run: Run) -> None:
        run.prices = "none.yaml"
        with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
            run.plan()


class TestFilters:
    @pytest.mark.parametrize(
        ("source", "skipped"),
        [
            ({"collections": ("sentinel-2-l1c",)}, {"collections": 3}),
            ({"ids": (product_id(1),)}, {"ids": 2}),
            ({"datetime": "2025-01-13T00:00:01Z/.."}, {"datetime": 1}),
            ({"datetime": "../2025-01-12"}, {"datetime": 3}),
            ({"datetime": "2025-01-13"}, {}),
            ({"bbox": (0, 0, 1, 1)}, {"bbox": 3}),
            ({"bbox": (10, 45, 11, 46)}, {}),
            ({"min_age_hours": 24}, {"min_age_hours": 3}),
            ({"min_age_hours": 23.9}, {}),
            ({"limit": 2}, {"limit": 1}),
            ({"limit": 3}, {}),
        ],
    )
    def test_what_a_filter_leaves_out_is_counted_under_its_name(
        self, tmp_path: Path, source: dict[str, Any], skipped: dict[str, int]
    ) -> None:
        result = Run(tmp_path, 3, fingerprint="item", **source).plan()
        assert result.summary()["skipped"] == skipped
        assert len(result.products) + sum(skipped.values()) == 3

    def test_cloud_cover_leaves_out_what_is_above_and_counts_what_is_not_stated(self, tmp_path: Path) -> None:
        run = Run(tmp_path, 5, fingerprint="item", max_cloud_cover=5.0)
        for item, value in zip(run.items, (5.0, 5.1, None, "null", 0), strict=True):
            item["properties"]["eo:cloud_cover"] = value
        summary = run.plan().summary()
        assert (summary["skipped"], summary["n_missing_cloud_cover"]) == ({"max_cloud_cover": 1}, 2)
        run.source["missing_cloud_cover"] = "skip"
        summary = run.plan().summary()
        assert summary["skipped"] == {"max_cloud_cover": 1, "missing_cloud_cover": 2}
        assert summary["n_missing_cloud_cover"] == 2

    def test_boxes_across_the_antimeridian_and_boxes_written_backwards(self, tmp_path: Path) -> None:
        run = Run(tmp_path, 3, fingerprint="item", bbox=(175, -10, 179, 10))
        boxes = ([170.0, -5.0, -170.0, 5.0], [12.8, 41.4, 11.4, 42.4], [176.0, -1.0, 0.0, 177.0, 1.0, 9.0])
        for item, box in zip(run.items, boxes, strict=True):
            item["bbox"] = box
        assert [p.product_id for p in run.plan().products] == [product_id(2), product_id(0)]
        del run.items[0]["bbox"]
        assert run.plan().summary()["refused"] == {"ZM-SRC-ITEM": 1}

    def test_order_is_by_time_then_collection_and_id_in_both_directions(self) -> None:
        one = entry_of_item(eopf_item(product_id(1), "/a.zarr"), "/items.json", embedded=True)
        same = replace(one, product_id="A"), replace(one, product_id="B"), replace(one, collection="b", product_id="A")
        later = replace(one, acquired="2025-01-14T00:00:00Z")
        assert ordered([*reversed(same), later], "newest") == [later, *sorted(same, key=lambda e: e.key)]
        assert ordered([later, *same], "oldest") == [*sorted(same, key=lambda e: e.key), later]

    def test_the_limit_takes_the_oldest_when_asked(self, tmp_path: Path) -> None:
        result = Run(tmp_path, 3, fingerprint="item", limit=1, order="oldest").plan()
        assert [p.product_id for p in result.products] == [product_id(0)]
        assert [row.product_id for row in result.rows] == [product_id(i) for i in range(3)]

    def test_bins_of_the_histogram_follow_the_calendar(self) -> None:
        days = [f"2025-01-{day:02d}T00:00:00Z" for day in (3, 3, 1)]
        assert histogram(days) == {"2025-01-01": 1, "2025-01-02": 0, "2025-01-03": 2}
        assert histogram(["2024-12-01", "2025-02-28"]) == {"2024-12": 1, "2025-01": 0, "2025-02": 1}
        assert histogram(["2020-01-01", "2023-01-01"]) == {"2020": 1, "2021": 0, "2022": 0, "2023": 1}
        assert histogram([]) == {}


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "code", "words"),
        [
            (lambda i: i.update(id="../x"), "ZM-SRC-ID", "cannot be a name"),
            (lambda i: i.update(id="a b"), "ZM-SRC-ID", "cannot be a name"),
            (lambda i: i.update(id="x\n"), "ZM-SRC-ID", "x\\x0a"),
            (lambda i: i.update(id="Überflug"), "ZM-SRC-ID", "\\xdcberflug"),
            (lambda i: i.update(id="x" * 201), "ZM-SRC-ID", "at most 200"),
            (lambda i: i.update(id=12), "ZM-SRC-ID", "'12'"),
            (lambda i: i.pop("id"), "ZM-SRC-ID", "product id"),
            (lambda i: i.update(collection="a/../b"), "ZM-SRC-ID", "collection"),
            (lambda i: i.update(collection="failed"), "ZM-SRC-ID", "state folder"),
            (lambda i: i.update(collection=None), "ZM-SRC-ID", "collection"),
            (lambda i: i["properties"].update(datetime="2025-13-01"), "ZM-SRC-ITEM", "'2025-13-01' is not an ISO"),
            (lambda i: i["properties"].update(datetime=None), "ZM-SRC-ITEM", "is not an ISO"),
            (lambda i: i["properties"].update(datetime="0001-01-01T00:00:00+23:00"), "ZM-SRC-ITEM", "is not an ISO"),
            (lambda i: i.update(properties=None), "ZM-SRC-ITEM", "properties is NoneType"),
            (lambda i: i.update(assets=[]), "ZM-SRC-ITEM", "assets is list"),
            (lambda i: i["assets"].clear(), "ZM-SRC-ITEM", "lead to none"),
            (lambda i: i["assets"].update(product={"href": "/x.zarr.zip"}, a={"href": "/1.zarr"}), "ZM-SRC-ITEM", "2 stores"),
            (lambda i: i["assets"].update(product={"href": "gs://b/x.zarr"}), "ZM-SRC-MISSING", "'gs://b/x.zarr'"),
            (lambda i: i["assets"].update(product={"href": "http://[::1/x.zarr"}), "ZM-SRC-MISSING", "cannot be read"),
            (lambda i: i["assets"].update(product={"href": "http://h:99999/x.zarr"}), "ZM-SRC-MISSING", "not an address"),
            (lambda i: i["assets"].update(product={"href": "/a\n.zarr"}), "ZM-SRC-MISSING", "control characters"),
            (lambda i: i.update(bbox=[1, 2, 3]), "ZM-SRC-ITEM", "bbox"),
            (lambda i: i.update(bbox=[1, 2, 3, "x"]), "ZM-SRC-ITEM", "bbox"),
            (lambda i: i["properties"].update(gsd=float("nan")), "ZM-SRC-ITEM", "strict JSON"),
            (lambda i: i["properties"].update({"product:type": "S03OLCEFR"}), "ZM-SRC-TYPE", "supported are S02MSIL2A"),
            (lambda i: i["properties"].update({"product:type": None}) or i.update(id="X_1"), "ZM-SRC-TYPE", "'unknown'"),
            (lambda i: i["assets"].update(product={"href": "./sources/none.zarr"}), "ZM-SRC-MISSING", "neither .zmetadata"),
        ],
    )
    def test_a_bad_item_is_refused_with_code_and_words_and_the_others_go_on(
        self, run: Run, change: Change, code: str, words: str
    ) -> None:
        change(run.items[0])
        result = run.planned()
        assert result.summary()["refused"] == {code: 1}
        (row,) = [row for row in result.rows if row.plan_class is PlanClass.REFUSED]
        assert words in row.reason
        assert (result.counts[PlanClass.NEW], result.exit_code) == (2, 0)

    @pytest.mark.parametrize(
        "content",
        [
            "",
            '{"metadata": {"a/.za',
            "[]",
            "{}",
            '{"metadata": 3}',
            '{"metadata": {"a/.zarray": {"shape": [1]}}}',
            '{"metadata": {"a/.zarray": {"shape": "1", "dtype": "<u2"}}}',
            '{"metadata": {"a/.zarray": {"shape": [-1], "dtype": "<u2"}}}',
            '{"metadata": {"a/.zarray": {"shape": [1], "dtype": "nonsense"}}}',
            '{"zarr_format": 3, "node_type": "group"}',
        ],
    )
    def test_metadata_that_is_cut_or_none_is_refused(self, run: Run, content: str) -> None:
        (run.root / "sources" / f"{product_id(0)}.zarr" / ".zmetadata").write_text(content)
        result = run.plan()
        assert result.summary()["refused"] == {"ZM-SRC-METADATA": 1}
        assert len(result.products) == 2

    def test_one_key_with_two_sources_is_refused_and_with_one_source_is_a_repeat(self, run: Run) -> None:
        run.items.append(json.loads(json.dumps(run.items[1])))
        assert (len(run.plan().products), run.plan().n_repeated) == (3, 1)
        run.items[-1]["assets"]["product"]["href"] = "./sources/other.zarr"
        result = run.plan()
        assert result.summary()["refused"] == {"ZM-SRC-DUPLICATE": 1}
        assert classes(result)[product_id(1)] == "refused"
        assert (len(result.rows), len(result.products)) == (3, 2)

    def test_a_filtered_product_is_not_complained_about(self, run: Run) -> None:
        run.source["ids"] = (product_id(1),)
        run.items[0]["properties"]["datetime"] = "bad"
        assert run.plan().summary()["refused"] == {}


class TestEntries:
    @pytest.mark.parametrize(
        ("name", "product_type"),
        [
            ("S2A_MSIL2A_20251008T100041_N0511_R122_T32TQM_20251008T122613", "S02MSIL2A"),
            ("S2B_MSIL1C_20250113T103309_N0511_R108_T32TLQ_20250113T122458", "S02MSIL1C"),
            ("S1A_IW_GRDH_1SDV_20241124T180254_20241124T180319_056700_06F516_BA27", "S01SIWGRD"),
            ("S02MSIL2A_20250109T100401_0000_A122_T461", "S02MSIL2A"),
            ("S03OLCEFR_20250416T063751_0180_B248_T853", "S03OLCEFR"),
            ("S2A_MSIL3A_x", ""),
        ],
    )
    def test_the_type_is_read_from_the_name(self, name: str, product_type: str) -> None:
        assert type_of_name(name) == product_type

    @pytest.mark.parametrize(
        ("name", "collection", "acquired"),
        [
            ("S2A_MSIL2A_20251008T100041_N0511_R122_T32TQM_20251008T122613", "sentinel-2-l2a", "2025-10-08T10:00:41Z"),
            ("S1A_IW_GRDH_1SDV_20241124T180254_20241124T180319_05_0_BA27", "sentinel-1-l1-grd", "2024-11-24T18:02:54Z"),
            ("S02MSIL1C_20240428T102559_0000_B108_T853", "sentinel-2-l1c", "2024-04-28T10:25:59Z"),
        ],
    )
    def test_a_row_is_completed_from_the_products_name(self, name: str, collection: str, acquired: str) -> None:
        entry = entry_of_row({"href": f"../data/{name}.zarr"}, "/lists/a/list.csv")
        assert (entry.collection, entry.product_id, entry.acquired) == (collection, name, acquired)
        assert (entry.href, entry.item_href, entry.packed) == (f"/lists/data/{name}.zarr", "", b"")

    def test_columns_come_before_the_name(self) -> None:
        row = {"href": "s3://b/x.zarr/", "collection": "c", "product_id": "p", "product_type": "T", "cloud_cover": "7"}
        entry = entry_of_row({**row, "datetime": "2025-01-01T01:00:00+01:00"}, "list.csv")
        assert (entry.key, entry.product_type, entry.cloud_cover) == (("c", "p"), "T", 7.0)
        assert (entry.href, entry.acquired) == ("s3://b/x.zarr", "2025-01-01T00:00:00Z")

    @pytest.mark.parametrize("row", [{"href": "x.zip"}, {"href": "x.zarr"}, {"href": "x.zarr", "collection": "c"}, {}])
    def test_a_row_that_does_not_tell_enough_is_refused(self, row: dict[str, str]) -> None:
        with pytest.raises(SourceError):
            entry_of_row(row, "list.csv")

    def test_a_row_without_a_collection_is_told_as_that(self) -> None:
        with pytest.raises(
            SourceError, match="'x': neither a column collection nor the name tells its collection; add the column"
        ):
            entry_of_row({"href": "x.zarr"}, "list.csv")

    def test_a_list_is_planned_without_items(self, run: Run) -> None:
        run.catalogue = run.root / "list.csv"
        run.catalogue.write_text(f"href\nsources/{product_id(0)}.zarr\nhttp://\n")
        result = plan(run.settings, run.recipes)
        write_plan(result, run.state)
        (product,) = result.products
        assert (product.item_href, product.collection) == ("", "sentinel-2-l2a")
        assert read_record(PlanRecord, run.state.target("plan", product)).item == {}
        assert result.counts[PlanClass.REFUSED] == 1

    @pytest.mark.parametrize(
        ("address", "self_href", "embedded", "href", "expected"),
        [
            ("results/items.json", "", True, "./x.zarr", "results/x.zarr"),
            ("/d/items.json", "http://h/c/items/a", True, "../x.zarr/b02", "http://h/c/x.zarr"),
            ("/d/item.json", "http://h/c/items/a", False, "x.zarr", "/d/x.zarr"),
            ("http://h/search", "/items/a", True, "x.zarr#a", "http://h/items/x.zarr"),
            ("http://h/c.json", "", True, "s3://b/k/x.zarr/", "s3://b/k/x.zarr"),
        ],
    )
    def test_hrefs_are_seen_from_where_the_item_is(
        self, address: str, self_href: str, embedded: bool, href: str, expected: str
    ) -> None:
        item = eopf_item(product_id(0), "unused")
        item["assets"] = {"product": {"href": href}}
        item["links"] = [{"rel": "self", "href": self_href}] if self_href else []
        assert entry_of_item(item, address, embedded=embedded).href == expected

    def test_the_items_digest_ignores_stamps_and_follows_the_product(self) -> None:
        def stable(**properties: Any) -> str:
            item = eopf_item(product_id(0), "/x.zarr", **properties)
            return entry_of_item(item, "/items.json", embedded=True).stable

        assert stable() == stable(updated="2026-01-01T00:00:00Z", published="now", gsd=10)
        assert stable() != stable(**{"processing:version": "05.12"})
        assert stable() != stable(**{"processing:datetime": "2026-01-01T00:00:00Z"})
        item = eopf_item(product_id(0), "/x.zarr")
        item["assets"]["product_metadata"] = {"href": "/x.zarr/.zmetadata", "file:checksum": "12"}
        assert stable() != entry_of_item(item, "/items.json", embedded=True).stable

    def test_an_interval_counts_from_its_start(self) -> None:
        item = eopf_item(product_id(0), "/x.zarr", datetime="null", start_datetime="2025-01-01T00:00:00Z")
        assert entry_of_item(item, "/items.json", embedded=True).acquired == "2025-01-01T00:00:00Z"


class TestEstimates:
    def test_objects_are_shards_or_chunks_and_at_least_one(self) -> None:
        sharded, unsharded = Pixels(chunk_px=915, shard_px=5490), Pixels(chunk_px=1830, shard_px=None)
        for shape, expected in (
            ((10980, 10980), (4, 36)),
            ((5491, 5490), (2, 12)),
            ((23, 23), (1, 1)),
            ((3, 10980, 10980), (4, 36)),
            ((10980,), (1, 1)),
            ((), (1, 1)),
        ):
            assert (n_data_objects(shape, sharded), n_data_objects(shape, unsharded)) == expected

    def test_levels_are_added_where_they_divide_and_counted_by_hand(self) -> None:
        group = "measurements/reflectance/r10m"
        arrays = (
            SourceArray(f"{group}/b02", (180, 180), 2),
            SourceArray(f"{group}/x", (180,), 8),
            SourceArray(f"{group}/y", (180,), 8),
        )
        size = estimate(SourceTree(2, frozenset(), arrays), Pixels(levels_m=(10, 20, 70)))
        # r10m and r20m (70 m does not divide 1800 m): b02, x, y with one object each, spatial_ref with none; five groups.
        assert size.n_objects == 2 * (3 * 2 + 1) + 5
        assert size.n_bytes == 180 * 180 * 2 + 2 * 180 * 8

    def test_maps_with_overviews_are_counted_by_hand(self) -> None:
        arrays = tuple(
            SourceArray(f"quality/{group}/{name}", shape, 1)
            for group, size in (("mask/r10m", 180), ("mask/r60m", 30), ("probability/r20m", 90))
            for name, shape in (("a" if size > 30 else "b", (size, size)), ("x", (size,)), ("y", (size,)))
        )
        pixels = Pixels(levels_m=(10, 20), overviews=("quality/mask",))
        size = estimate(SourceTree(2, frozenset(), arrays), pixels)
        # Mask: a on r10m, r20m and on r60m, where the source has b; probability stays as it is. x, y, spatial_ref on each of four
        # levels, eight groups with the root.
        assert size.n_objects == 2 * (3 + 1) + 2 * 1 + 4 * (2 + 2 + 1) + 8

    @pytest.mark.parametrize(
        ("pattern", "recipe", "n_objects", "mega"),
        [
            ("*MSIL2A*", "s2-l2a", 444, 3703),
            ("*MSIL2A*", "s2-l2a-all-overviews", 694, 3703),
            ("*MSIL2A*", "s2-l2a-unsharded", 1116, 3703),
            ("*MSIL1C*", "s2-l1c", 381, 2697),
        ],
    )
    def test_real_products_stay_within_the_budget_of_the_shipped_recipes(
        self, pattern: str, recipe: str, n_objects: int, mega: int
    ) -> None:
        files = sorted(METADATA.glob(f"eopf-stac/{pattern}"))
        if not files:
            pytest.skip("the real metadata is not on this machine")
        shipped = load_recipe(Path(__file__).parents[2] / f"config/recipes/{recipe}.yaml")
        size = estimate(read_tree(files[0].read_bytes(), "x"), shipped.pixels)
        assert (size.n_objects, round(size.n_bytes / 1e6)) == (n_objects, mega)
        assert size.n_objects <= shipped.validation.max_objects

    def test_a_radar_image_that_is_none_does_not_end_the_plan(self) -> None:
        arrays = (SourceArray("S01SIWGRD_X_VV/measurements/grd", (), 2),)
        assert estimate(SourceTree(2, frozenset(), arrays), Pixels()).n_bytes == 2

    def test_a_quicklook_counts_when_the_recipe_converts_it(self) -> None:
        arrays = (SourceArray("quality/l2a_quicklook/r10m/tci", (3, 180, 180), 1),)
        tree = SourceTree(2, frozenset({"quality", "quality/l2a_quicklook"}), arrays)
        assert estimate(tree, Pixels()).n_bytes == 0
        assert estimate(tree, Pixels(quicklook=True)).n_bytes == 3 * 180 * 180

    def test_v3_names_of_types_are_understood(self) -> None:
        types = {"a": "uint16", "b": "string", "c": {"name": "fixed_length_utf32", "configuration": {"length_bytes": 12}}}
        nodes = {name: {"node_type": "array", "shape": [2], "data_type": kind} for name, kind in types.items()}
        tree = read_tree(json.dumps({"consolidated_metadata": {"metadata": nodes}}).encode(), "x")
        assert [(array.path, array.itemsize) for array in tree.arrays] == [("a", 2), ("b", 0), ("c", 12)]

    def test_time_is_bytes_by_rate_and_cores(self) -> None:
        assert seconds(2_500_000_000, 2) == 10
