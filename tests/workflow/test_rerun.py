"""What a rerun builds: exactly what is missing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from workspace import ROOT

from zarrmill.errors import EXIT_NOTHING, EXIT_UNKNOWN
from zarrmill.io.progress import ProgressFile
from zarrmill.io.state import PRODUCT_STAGES

CHAIN = {
    "convert": {"convert": 1, "validate": 1, "stac": 1, "stac_catalog": 1, "report": 1},
    "validate": {"validate": 1, "stac": 1, "stac_catalog": 1, "report": 1},
    "stac": {"stac": 1, "stac_catalog": 1, "report": 1},
}


def test_run_makes_every_target_and_then_has_nothing_to_do(finished):
    assert len(finished.products) == 3
    for product in finished.products:
        for stage in ("plan", "convert", "validate", "stac"):
            assert finished.state.target(stage, product).exists()
        assert (finished.store(product) / "zarr.json").exists()
    assert finished.state.report.exists()
    assert finished.jobs() == {}


def test_a_product_that_was_begun_is_finished_before_another_is_begun(workspace):
    work = workspace(n_days=1, products_per_day=3)
    work.plan()
    work.snakemake("--cores", "1")
    targets = {(p.name, stage): work.state.target(stage, p) for p in work.products for stage in PRODUCT_STAGES}
    order = sorted(targets, key=lambda target: Path(str(targets[target])).stat().st_mtime_ns)
    names = [name for name, _ in order]
    assert [stage for _, stage in order] == [*PRODUCT_STAGES] * 3
    assert names == [name for name in names[::3] for _ in PRODUCT_STAGES]


def test_a_driver_asks_for_no_sizes_and_compares_jobs_without_pandas(finished):
    code = "import atexit, sys, snakemake.scheduling.job_scheduler as s; from snakemake.cli import main;"
    code += "atexit.register(lambda: print(s.JobScheduler.update_input_sizes.__module__, sys.modules['pandas'])); main()"
    command = finished.command("-n")
    told = subprocess.run([command[0], "-c", code, *command[3:]], cwd=finished.path, capture_output=True, text=True, check=False)
    assert told.stdout.splitlines()[-1:] == ["zarrmill.io.scheduling None"], told.stdout + told.stderr


def test_second_plan_finds_everything_up_to_date_and_changes_no_byte(finished):
    first = finished.plan()
    before = {path: path.read_bytes() for path in Path(finished.state.root).rglob("*.json") if path.is_file()}
    manifest = finished.state.manifest.read_bytes()
    second = finished.plan()
    assert first == second
    assert {row["class"] for row in second["products"]} == {"up to date"}
    assert finished.state.manifest.read_bytes() == manifest
    assert {path: path.read_bytes() for path in before} == before
    assert finished.jobs() == {}


@pytest.mark.parametrize("stage", ["convert", "validate", "stac"])
def test_deleting_one_target_rebuilds_exactly_its_chain(finished, stage):
    finished.state.target(stage, finished.products[1]).unlink()
    assert finished.jobs() == CHAIN[stage]


def test_deleting_the_summary_rebuilds_the_report_alone(finished):
    finished.state.summary.unlink()
    assert finished.jobs() == {"report": 1}


def test_a_heartbeat_that_was_left_goes_with_the_next_run(finished):
    left = finished.state.progress(finished.products[0])
    ProgressFile(left, "stac", finished.products[0].name).write()
    finished.state.summary.unlink()
    finished.snakemake()
    assert not left.exists()


def test_the_report_links_to_the_catalogue_and_does_not_wait_for_it(finished):
    assert 'href="../catalog/catalog.json"' in finished.state.report.read_text()
    (finished.state.catalog / "catalog.json").unlink()
    assert finished.jobs() == {"stac_catalog": 1}


def test_comments_and_key_order_rebuild_nothing(finished):
    for name in ("config/config.yaml", "config/s2-l2a.yaml"):
        path = finished.path / name
        values = yaml.safe_load(path.read_text())
        path.write_text("# a comment\n" + yaml.safe_dump(dict(reversed(list(values.items()))), sort_keys=False))
    finished.plan()
    assert finished.jobs() == {}


def test_fresh_clone_without_snakemake_metadata_rebuilds_nothing(finished):
    shutil.rmtree(finished.path / ".snakemake")
    assert finished.jobs() == {}


def test_changed_validation_rebuilds_reports_and_items_but_no_pixels(finished):
    finished.edit("config/s2-l2a.yaml", validation={"depth": "sampled"})
    finished.plan()
    assert finished.jobs() == {"validate": 2, "stac": 2, "stac_catalog": 1, "report": 1}


def test_changed_item_template_rebuilds_items_alone(finished):
    finished.edit("config/s2-l1c.yaml", item={"rescale_dn": [1000, 3000]})
    finished.plan()
    assert finished.jobs() == {"stac": 1, "stac_catalog": 1, "report": 1}


def test_changed_recipe_on_a_fresh_clone_builds_new_stores_beside_the_old(finished):
    old = {product.product_id: finished.store(product) for product in finished.products}
    digests = {path: (path / "zarr.json").read_bytes() for path in old.values()}
    shutil.rmtree(finished.path / ".snakemake")
    finished.edit("config/s2-l2a.yaml", pixels={"shard_px": None})
    assert finished.jobs("--quiet", "all") == {}, "the manifest decides, not the recipe file"
    planned = finished.plan()
    assert [row["class"] for row in planned["products"]].count("stale") == 2
    assert finished.jobs()["convert"] == 2
    finished.snakemake()
    assert {path: (path / "zarr.json").read_bytes() for path in digests} == digests
    new = {product.product_id: finished.store(product) for product in finished.products}
    assert sum(old[key] != new[key] for key in new) == 2
    assert all((path / "zarr.json").exists() for path in new.values())


def test_recipe_that_changed_after_the_plan_is_refused_by_the_job(finished):
    product = next(p for p in finished.products if p.product_type == "S02MSIL2A")
    finished.state.target("convert", product).unlink()
    finished.edit("config/s2-l2a.yaml", pixels={"shard_px": None})
    done = finished.snakemake("--retries", "0", check=False)
    assert done.returncode == 1
    assert "ZM-CFG-MANIFEST" in done.stdout
    assert "plan again" in done.stdout


def test_new_manifest_rows_rebuild_nothing_old(workspace):
    work = workspace()
    work.configure(source={"limit": 1})
    work.plan()
    work.snakemake()
    first = work.products
    receipt = Path(work.state.target("convert", first[0]))
    before = receipt.stat().st_mtime_ns
    work.configure(source={"limit": 2})
    work.plan()
    assert set(first) < set(work.products)
    assert work.jobs() == {"convert": 1, "validate": 1, "stac": 1, "stac_catalog": 1, "report": 1}
    work.snakemake()
    assert receipt.stat().st_mtime_ns == before


def test_deleted_store_is_noticed_by_plan_and_rebuilt(finished):
    product = finished.products[2]
    root = (finished.store(product) / "zarr.json").read_bytes()
    shutil.rmtree(finished.store(product))
    assert finished.jobs() == {}
    planned = finished.plan()
    assert [row["class"] for row in planned["products"]].count("missing") == 1
    assert finished.jobs() == CHAIN["convert"]
    finished.snakemake()
    assert (finished.store(product) / "zarr.json").read_bytes() == root


def test_run_without_a_plan_says_so(workspace):
    done = workspace().snakemake(check=False)
    assert done.returncode == 1
    assert "plan` first" in done.stdout


def test_second_driver_on_one_run_is_refused(finished):
    from zarrmill.io.lock import RunLock

    finished.state.summary.unlink()
    lock = RunLock(finished.state.root)
    lock.take()
    done = finished.snakemake(check=False)
    lock.release()
    assert done.returncode == EXIT_UNKNOWN
    assert "works on this run" in done.stdout


def test_a_run_at_work_is_not_planned_again(finished):
    from zarrmill.io.lock import RunLock

    manifest = finished.state.manifest.read_bytes()
    with RunLock(finished.state.root).held():
        planned = finished.zarrmill("plan", "--limit", "1")
        assert planned.returncode == EXIT_UNKNOWN
        assert f"process {os.getpid()} works on this run" in planned.stderr
        assert finished.snakemake("plan", check=False).returncode == EXIT_UNKNOWN
        assert finished.state.manifest.read_bytes() == manifest
    assert finished.zarrmill("plan", "--limit", "1").returncode == EXIT_NOTHING
    assert finished.state.manifest.read_bytes() != manifest


def test_snakemakes_own_report_works(finished):
    done = finished.snakemake("--report", "snakemake.html")
    assert (finished.path / "snakemake.html").stat().st_size > 100_000, done.stdout


def test_workflow_is_lint_clean(finished):
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--lint", "--snakefile", str(ROOT / "workflow/Snakefile")],
        cwd=finished.path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Congratulations" in done.stderr + done.stdout, done.stderr
    assert done.returncode == 0


def test_catalogue_layout_of_the_workflow():
    catalog = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())
    assert catalog["usage"]["mandatory-flags"]["desc"] is not None
    assert json.dumps(catalog)


def test_another_configuration_stands_alone(finished):
    values = yaml.safe_load((finished.path / "config/config.yaml").read_text())
    other = {**values, "run": "other", "source": {"catalogue": "archive/items.json", "limit": 1}}
    (finished.path / "other.yaml").write_text(yaml.safe_dump(other))
    finished.configure(source={"order": "oldest"}, public_root="https://data.example.org")
    assert finished.zarrmill("plan", "--config", "other.yaml").returncode == 0
    assert finished.jobs("--configfile", "other.yaml")["convert"] == 1
