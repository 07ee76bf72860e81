"""A run whose state is in a bucket: the same targets as objects, found by listings, and nothing decided in an outage."""

import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import closing

import pytest
from fake_run import fake_products
from fault_proxy import FaultProxy, Rule, denied, no_bucket, slow_down
from s3_server import KEYS, Bucket
from workspace import Workspace

from zarrmill.config import S3
from zarrmill.errors import EXIT_CONFIG, EXIT_FAILED, EXIT_UNKNOWN
from zarrmill.io import bucket as buckets
from zarrmill.io.listing import Listing
from zarrmill.io.lock import RunLock
from zarrmill.io.manifest import write_manifest
from zarrmill.io.places import together
from zarrmill.io.record import read_record
from zarrmill.io.state import PRODUCT_STAGES, Failures
from zarrmill.model import FailureRecord

GATE = {"validate": 1, "stac": 1, "stac_catalog": 1, "report": 1}
CHAIN = {"convert": 1, **GATE}


@pytest.fixture
def work(workspace: Callable[..., Workspace], s3_bucket: Bucket) -> Workspace:
    """Two products, nothing planned; the state is in a bucket, stores are on disk."""
    made = workspace(n_days=1, products_per_day=2)
    made.configure(state_root=s3_bucket.href("state"), s3={"lease_s": 2.0})
    return made


def test_a_run_is_kept_in_the_bucket_alone_and_a_fresh_driver_knows_it(work: Workspace, s3_bucket: Bucket) -> None:
    told = [work.snakemake("plan").stdout, work.snakemake().stdout]
    state, products = work.state, work.products
    listing = Listing(state.root)
    for product in products:
        for stage in ("plan", *PRODUCT_STAGES):
            assert listing.get(state.target(stage, product)), stage
        for stage in PRODUCT_STAGES:
            events = [json.loads(line)["event"] for line in state.log(stage, product).read_text().splitlines()]
            assert (events[0], events[-1]) == ("started", "finished")
        assert listing.get(state.thumbnail(product))
        assert json.loads(state.target("convert", product).read_bytes())["product"]["href"] == product.href
    assert json.loads(state.summary.read_bytes())["counts"] == {"ok": 2, "failed": 0, "not done": 0, "skipped": 0}
    assert b"<html" in state.report.read_bytes()
    assert {link["title"] for link in json.loads((state.catalog / "catalog.json").read_bytes())["links"] if "title" in link}
    assert listing.get(state.catalog / "items.parquet")
    assert listing.folders(state.root / "progress") == []
    assert not listing.files(state.root / "progress")
    assert sorted(p.name for p in (work.path / "results").iterdir()) == ["stores", "test"]
    assert [p.name for p in (work.path / "results/test").iterdir()] == ["logs"]
    status = work.zarrmill("status")
    assert (status.returncode, status.stdout[:6]) == (0, "2/2 ok")
    assert where_secrets_are(work, s3_bucket, *told) == []
    shutil.rmtree(work.path / ".snakemake")
    assert work.jobs() == {}
    state.target("validate", products[1]).unlink()
    assert work.jobs() == GATE
    assert {row["class"] for row in work.plan()["products"]} == {"up to date", "missing"}


def where_secrets_are(work: Workspace, made: Bucket, *told: str) -> list[str]:
    """Return where a secret of the tests stands: in objects, in files of the working folder, in what was printed."""
    places = {made.href(key): data for key, data in made.contents().items()}
    places |= {str(path): path.read_bytes() for path in work.path.rglob("*") if path.is_file()}
    places |= {f"output {number}": text.encode() for number, text in enumerate(told)}
    secrets = [value.encode() for pair in KEYS.values() for value in pair]
    return [place for place, data in places.items() if any(secret in data for secret in secrets)]


def test_a_secret_that_is_told_is_found(work: Workspace, s3_bucket: Bucket) -> None:
    key, secret = KEYS["writer"]
    s3_bucket.put("state/test/log", f"sent with {key}".encode())
    (work.path / "log").write_text(f"{secret}\n")
    assert where_secrets_are(work, s3_bucket, secret) == [s3_bucket.href("state/test/log"), str(work.path / "log"), "output 0"]


def test_a_failure_is_told_from_the_bucket_and_its_record_and_log_outlive_the_job(work: Workspace, s3_bucket: Bucket) -> None:
    work.plan()
    broken, good = work.products
    source = work.path / broken.href
    hidden = source.with_name("hidden")
    victim = next(source.glob("measurements/reflectance/r10m/b04/*.*"))
    victim.rename(hidden)
    done = work.snakemake("--retries", "1", check=False)
    assert done.returncode == 1
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    (first, second) = (event for event in told if event["event"] == "failure")
    assert (first["class"], first["attempt"], second["attempt"]) == ("source-missing", 1, 1)  # the retry gave up
    assert first["log"] == str(work.state.log("convert", broken))
    failures = Failures(work.state).of(broken)
    assert [(one.stage, one.failure_class, one.attempt) for one in failures] == [("convert", "source-missing", 1)]
    record = read_record(FailureRecord, failures[-1].place)
    assert record.log == str(work.state.log("convert", broken))
    assert json.loads(work.state.log("convert", broken).read_text().splitlines()[-1])["code"] == "ZM-SRC-MISSING"
    assert work.state.target("stac", good).exists(), "the others went on"
    assert json.loads(work.state.summary.read_bytes())["counts"] == {"ok": 1, "failed": 1, "not done": 0, "skipped": 0}
    assert work.zarrmill("status").returncode == EXIT_FAILED
    assert where_secrets_are(work, s3_bucket, done.stdout) == []
    hidden.rename(victim)
    assert work.jobs() == CHAIN
    work.snakemake()
    assert work.zarrmill("status").stdout.startswith("2/2 ok")


@pytest.mark.parametrize(
    "rule",
    [denied(path="list-type"), slow_down(path="list-type"), no_bucket(path="list-type"), Rule(kind="refuse")],
    ids=["denied", "slow down", "no bucket", "refused"],
)
def test_a_state_that_cannot_be_listed_starts_nothing(
    work: Workspace, s3_bucket: Bucket, proxied: Callable[[str], FaultProxy], rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.configure(s3={"retries": 1})
    work.plan()
    before = s3_bucket.contents()
    proxy = proxied(s3_bucket.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    proxy.add(rule)
    for arguments in ((), ("-n",), ("plan",)):
        done = work.snakemake(*arguments, check=False)
        assert (done.returncode, "ZM-UNK-OUTAGE" in done.stdout, "nothing was decided" in done.stdout) == (
            EXIT_UNKNOWN,
            True,
            True,
        )
    assert work.zarrmill("plan").returncode == EXIT_UNKNOWN
    assert work.zarrmill("status").returncode == EXIT_UNKNOWN
    assert s3_bucket.contents() == before


def test_a_plan_that_cannot_be_written_for_now_is_an_outage_and_not_a_failed_product(
    work: Workspace, proxied: Callable[[str], FaultProxy], s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = proxied(s3_bucket.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    work.configure(s3={"lease_s": 10.0, "retries": 0})
    proxy.rules = [Rule(kind="answer", method="PUT", path="/plan/|manifest")]
    done = work.zarrmill("plan")
    assert (done.returncode, "ZM-STO-LOST" in done.stderr) == (EXIT_UNKNOWN, True), done.stdout + done.stderr
    assert not work.state.manifest.exists()


def test_a_killed_driver_is_followed_by_the_same_command(work: Workspace, s3_bucket: Bucket) -> None:
    work.plan()
    first = work.start()
    _wait(lambda: any("/convert/" in key for key in s3_bucket.keys("state/test/sentinel")))
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert s3_bucket.keys("state/test/.lock/"), "the killed driver's lease is there"
    sealed = {root: root.stat().st_mtime_ns for root in (work.path / "results/stores").rglob("*.zarr/zarr.json")}
    assert sealed
    work.snakemake()
    assert work.zarrmill("status").stdout.startswith("2/2 ok")
    assert {root: root.stat().st_mtime_ns for root in sealed} == sealed, "what was converted is not converted again"
    assert not s3_bucket.keys("state/test/.lock/")


def test_a_second_driver_waits_and_is_refused(work: Workspace, s3_bucket: Bucket) -> None:
    work.plan()
    work.configure(s3={"lease_s": 8.0})  # longer than any stall of this process; both wait for it at the same time
    buckets.use(S3(lease_s=8.0))
    lock = RunLock(work.state.root)
    lock.take()
    try:
        second = work.start()
        planned = work.zarrmill("plan", "--limit", "1")
        output, _ = second.communicate(timeout=120)
        assert second.returncode == EXIT_UNKNOWN
        assert "writes this run" in output
        assert (planned.returncode, "writes this run" in planned.stderr) == (EXIT_UNKNOWN, True), planned.stderr
        assert len(work.products) == 2
        assert not [key for key in s3_bucket.keys("state/test/") if "/convert/" in key]
    finally:
        lock.release()
    assert not s3_bucket.keys("state/test/.lock/")


def test_a_manifest_that_changed_before_the_lock_was_taken_starts_nothing(
    work: Workspace, s3_bucket: Bucket, proxied: Callable[[str], FaultProxy]
) -> None:
    work.configure(s3={"lease_s": 20.0})
    buckets.use(S3(lease_s=20.0))
    work.plan()
    products, proxy = work.products, proxied(s3_bucket.url)
    with RunLock(work.state.root).held():
        second = work.start(env={"AWS_ENDPOINT_URL": proxy.url})
        _wait(lambda: bool(proxy.count("GET", r"prefix=state(/|%2F)test(/|%2F)\.lock")))
        write_manifest(products[:1], work.state.manifest)
    output, _ = second.communicate(timeout=120)
    assert (second.returncode, "planned anew while this driver started; run again" in output) == (EXIT_UNKNOWN, True), output
    assert not [key for key in s3_bucket.keys("state/test/") if "/convert/" in key]
    work.snakemake()
    assert work.zarrmill("status").stdout.startswith("1/1 ok")


def test_a_driver_that_was_suspended_gives_way_to_its_successor(work: Workspace, s3_bucket: Bucket) -> None:
    buckets.use(S3(lease_s=2.0))
    work.plan()
    first = work.start()
    _wait(lambda: bool(s3_bucket.keys("state/test/.lock/")))
    os.kill(first.pid, signal.SIGSTOP)
    with RunLock(work.state.root).held():
        os.kill(first.pid, signal.SIGCONT)
        output, _ = first.communicate(timeout=120)
        assert first.returncode == EXIT_UNKNOWN, output
        assert "another process took this run over" in output
        assert not work.state.report.exists(), "the run is its successor's"
        assert s3_bucket.keys("state/test/.lock/"), "so is the lock"
    assert work.zarrmill("status").stdout.startswith("0/2 ok")
    work.snakemake()
    assert work.zarrmill("status").stdout.startswith("2/2 ok")


def test_sigterm_while_a_target_is_uploaded_ends_the_driver(
    work: Workspace, s3_bucket: Bucket, proxied: Callable[[str], FaultProxy]
) -> None:
    work.plan()
    proxy = proxied(s3_bucket.url)
    slow = Rule("latency", method="PUT", path="/benchmarks/convert/", n=1, seconds=5.0)  # which the driver itself writes
    proxy.rules.append(slow)
    driver = work.start(env={"AWS_ENDPOINT_URL": proxy.url})
    try:
        _wait(lambda: slow.n_met == 1)
        driver.terminate()
        output, _ = driver.communicate(timeout=120)
    finally:
        driver.kill()
    assert (driver.returncode, '"event": "end"' in output) == (1, True), output
    assert work.zarrmill("status").stdout.startswith("0/2 ok")
    work.snakemake()
    assert work.zarrmill("status").stdout.startswith("2/2 ok")


def test_a_bucket_that_would_lose_the_state_starts_no_run(
    work: Workspace, s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.plan()
    for name, value in s3_bucket.env("admin").items():
        monkeypatch.setenv(name, value)
    rule = {"ID": "tidy", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 7}}
    with closing(s3_bucket.client()) as client:
        client.put_bucket_lifecycle_configuration(Bucket=s3_bucket.name, LifecycleConfiguration={"Rules": [rule]})
    before = s3_bucket.contents()
    for done in (work.snakemake(check=False), work.zarrmill("plan")):
        told = done.stdout + done.stderr
        assert done.returncode == EXIT_CONFIG, told
        assert "ZM-CFG-BUCKET" in told
        assert "'tidy' deletes objects after 7 days: it reaches state/" in told
    assert s3_bucket.contents() == before


def test_state_and_storage_of_snakemake_must_be_one_place(work: Workspace, s3_bucket: Bucket) -> None:
    done = work.snakemake("-n", "--default-storage-prefix", s3_bucket.href("elsewhere"), check=False)
    assert (done.returncode, "--default-storage-prefix s3://" in done.stdout) == (1, True)
    work.configure(state_root="results")
    done = work.snakemake(
        "-n", "--default-storage-provider", "s3", "--default-storage-prefix", s3_bucket.href("state"), check=False
    )
    assert (done.returncode, "give both the same address" in done.stdout) == (1, True)


def test_a_finished_shard_of_500_is_planned_in_ten_requests(
    work: Workspace, s3_bucket: Bucket, proxied: Callable[[str], FaultProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_finished(work, 500)
    proxy = proxied(s3_bucket.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    assert work.jobs() == {}
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 40, "seconds of CPU; wall time depends on others"
    assert (proxy.count("HEAD"), proxy.count("GET") <= 10, proxy.count("PUT")) == (0, True, 0), proxy.requests
    product = work.products[7]
    work.state.target("validate", product).unlink()
    work.state.target("stac", product).unlink()
    proxy.clear()
    assert work.jobs() == GATE
    assert proxy.count() <= 10, proxy.requests


def put_finished(work: Workspace, n: int) -> None:
    """Put every target of ``n`` products into the bucket, as empty objects."""
    state, products = work.state, fake_products(n)
    write_manifest(products, state.manifest)
    places = [state.target(stage, product) for product in products for stage in ("plan", *PRODUCT_STAGES)]
    places += [
        state.root / "benchmarks" / stage / p.collection / p.day / f"{p.name}.tsv" for p in products for stage in PRODUCT_STAGES
    ]
    order = ["plan", *PRODUCT_STAGES]
    for stage in order:
        for _ in together(lambda place: place.write_text("{}"), [p for p in places if p.parent.name == stage], 32):
            pass
    for _ in together(lambda place: place.write_text("s"), [p for p in places if p.name.endswith(".tsv")], 32):
        pass
    for key in (
        "catalog/catalog.json",
        "benchmarks/stac_catalog.tsv",
        "report/index.html",
        "summary.json",
        "benchmarks/report.tsv",
    ):
        (state.root / key).write_text("{}")


def _wait(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
