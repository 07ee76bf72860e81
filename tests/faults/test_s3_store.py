"""A bucket that misbehaves while a store is written: what passes is waited for, what does not is named, nothing half is sealed.

The table of ``docs/faults.md`` has one line for each test here.
"""

import time
from contextlib import closing

import numpy as np
import pytest
from fault_proxy import Rule, denied, expired, no_bucket, slow_down, wrong_clock
from products import product_row, recipe_for

from zarrmill.config import S3, Codec
from zarrmill.errors import StoreError
from zarrmill.io import bucket as buckets
from zarrmill.io.store_bucket import BucketWriter
from zarrmill.io.written import Entry
from zarrmill.stages.convert import convert

MIB = 1 << 20
OBJECTS = {f"{array}/c/{n}": f"{array} {n}".encode() * 50 for array in ("a", "b", "c") for n in range(5)}
LARGE = np.random.default_rng(1).bytes(11 * MIB)
GOLDEN = {**OBJECTS, "large/c/0": LARGE, "zarr.json": b"{}"}
DATA = r"/(a|b|c|large)/c/"
"""Requests about the pixels of the store."""


class Site:
    """A bucket behind a proxy, and the same little store written to it again and again."""

    def __init__(self, bucket, proxy):
        self.bucket, self.proxy = bucket, proxy

    def attempt(self):
        """Write the store as ``convert`` does: keep what the journal proves, journal each array, seal."""
        writer = BucketWriter(self.bucket.href("s/x.zarr"), Codec())
        if writer.is_sealed():
            return writer.read_back(2)
        with writer.locked(30):
            finished, written = writer.finished("id"), []
            for array in ("a", "b", "c", "large"):
                written += finished[array].objects if array in finished else self._array(writer, array)
            writer.seal(GOLDEN["zarr.json"], written)
            writer.remove_journal()
        return writer.read_back(2)

    def _array(self, writer, array):
        items = []
        for key, data in GOLDEN.items():
            if key.startswith(f"{array}/"):
                sink = writer.sink(key)
                for start in range(0, len(data), MIB):
                    sink.append(data[start : start + MIB])
                items.append(sink.close())
        writer.record(Entry(array, objects=tuple(items)))
        return items

    def contents(self):
        return self.bucket.contents("s/x.zarr/")

    def is_sealed(self):
        return "s/x.zarr/zarr.json" in set(self.bucket.keys("s/"))

    def heal_and_finish(self):
        """Run again without faults: the store ends whole. Return how many requests wrote pixels."""
        self.proxy.clear()
        self.attempt()
        assert self.contents() == GOLDEN
        assert self.bucket.uploads() == []
        assert self.bucket.keys("s/x.zarr.journal/") == []
        return self.proxy.count("PUT", DATA)


@pytest.fixture
def site(s3_bucket, proxied, monkeypatch):
    proxy = proxied(s3_bucket.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    buckets.use(S3(part_mb=5, timeout_s=3, retries=4, max_concurrency=4))
    return Site(s3_bucket, proxy)


@pytest.mark.parametrize(
    "rule",
    [
        slow_down(p=0.2, seed=3),
        Rule("answer", status=500, code="InternalError", p=0.2, seed=3),
        Rule("refuse", p=0.15, seed=3),
        Rule("lost", method="PUT|POST", p=0.15, seed=3),
        Rule("hang", path=DATA, seconds=6, n=2),
        Rule("latency", seconds=0.2),
        Rule("throttle", rate=4e6),
        Rule("reset", method="GET", n_bytes=10, n=3),
    ],
    ids=["503 SlowDown", "500", "connection reset", "answer lost", "hang", "latency", "slow link", "answer cut"],
)
def test_what_passes_is_waited_for_and_the_store_is_whole(site, rule):
    site.proxy.add(rule)
    written = site.attempt()
    assert rule.n_met > 0
    assert site.contents() == GOLDEN
    assert {item.key: item.n_bytes for item in written} == {key: len(data) for key, data in GOLDEN.items()}


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (denied(method="PUT", path=DATA), "ZM-STO-DENIED"),
        (expired(method="PUT", path=DATA), "ZM-STO-DENIED"),
        (wrong_clock(method="PUT", path=DATA), "ZM-STO-DENIED"),
        (no_bucket(method="PUT", path=DATA), "ZM-STO-BUCKET"),
        (denied(method="POST", path="uploads"), "ZM-STO-DENIED"),
        (Rule("answer", status=400, code="InvalidStorageClass", path=DATA), "ZM-STO-DENIED"),
    ],
    ids=["403", "expired credentials", "wrong clock", "bucket gone", "403 multipart", "400"],
)
def test_what_does_not_pass_is_named_at_once_and_never_tried_again(site, rule, code):
    site.proxy.add(rule)
    with pytest.raises(StoreError) as caught:
        site.attempt()
    assert (caught.value.code, caught.value.retryable) == (code, False)
    assert "x.zarr" in caught.value.message
    assert 1 <= rule.n_met <= 4  # what was under way together
    assert not site.is_sealed()
    site.heal_and_finish()


@pytest.mark.parametrize(
    "rule",
    [
        slow_down(method="PUT", path=DATA),
        Rule("refuse", method="PUT", path=DATA),
        Rule("flip-up", method="PUT", path=DATA, n=1),
        slow_down(method="POST", path="uploadId"),
    ],
    ids=["503 for good", "no connection", "byte changed on the way", "503 at completion"],
)
def test_outage_ends_the_attempt_as_retryable_and_the_next_one_finishes(site, rule):
    buckets.use(S3(part_mb=5, timeout_s=3, retries=1, max_concurrency=4))
    site.proxy.add(rule)
    with pytest.raises(StoreError) as caught:
        site.attempt()
    assert (caught.value.code, caught.value.retryable) == ("ZM-STO-LOST", True)
    assert not site.is_sealed()
    site.heal_and_finish()


@pytest.mark.parametrize("rule", [slow_down(), denied(), no_bucket(), Rule("hang", seconds=5)], ids=["503", "403", "404", "hang"])
def test_bucket_that_cannot_be_listed_is_never_taken_for_an_empty_one(site, rule):
    buckets.use(S3(timeout_s=1, retries=0))
    rule.path = "list-type"
    site.proxy.add(rule)
    with pytest.raises(StoreError):
        site.attempt()
    assert site.proxy.count("PUT") == site.proxy.count("POST") == site.proxy.count("DELETE") == 0


def test_outage_at_the_seal_leaves_no_product_and_nothing_is_written_twice(site):
    buckets.use(S3(part_mb=5, retries=0))
    rule = site.proxy.add(slow_down(method="PUT", path="x.zarr/zarr.json"))
    with pytest.raises(StoreError):
        site.attempt()
    assert rule.n_met == 1
    assert not site.is_sealed()
    assert site.heal_and_finish() == 0


def test_seal_whose_answer_is_lost_is_a_seal(site):
    rule = site.proxy.add(Rule("lost", method="PUT", path="x.zarr/zarr.json", n=1))
    site.attempt()
    assert rule.n_met == 1
    assert site.contents() == GOLDEN


def test_completion_whose_answer_is_lost_is_found_complete(site):
    """The server forgets the upload when it completes it; the second try is told that there is none."""
    site.proxy.add(Rule("lost", method="POST", path="uploadId", n=1))
    site.proxy.add(Rule("answer", method="POST", path="uploadId", status=404, code="NoSuchUpload"))
    site.attempt()
    assert site.contents() == GOLDEN


def test_journal_that_cannot_be_kept_up_costs_work_and_nothing_else(site):
    site.proxy.add(denied(method="PUT", path=r"x.zarr.journal/.*json", after=1))
    site.attempt()
    assert site.contents() == GOLDEN


def test_answer_that_breaks_off_is_asked_for_again(site):
    """Heads and lists are asked for again by boto3, bodies by us."""
    site.attempt()
    site.proxy.add(Rule("cut", path="x.zarr/zarr.json", method="GET", n_bytes=1, n=2))
    assert BucketWriter(site.bucket.href("s/x.zarr"), Codec()).root() == GOLDEN["zarr.json"]
    assert site.proxy.count("GET", "x.zarr/zarr.json") == 3


def test_service_that_sends_no_answer_at_all_ends_in_time(site):
    buckets.use(S3(timeout_s=1, connect_timeout_s=1, retries=1))
    site.proxy.add(Rule("hang", seconds=20))
    started = time.monotonic()
    with pytest.raises(StoreError) as caught:
        site.attempt()
    assert caught.value.retryable
    assert time.monotonic() - started < 18, "the proxy is silent for 20 s"


def test_whole_conversion_through_a_bad_bucket_has_the_bytes_of_a_good_one(shared_sources, site, tmp_path):
    recipe = recipe_for("S02MSIL1C")
    product = product_row(shared_sources["l1c"], recipe, "S02MSIL1C")
    good = convert(product, recipe=recipe, store_root=str(tmp_path), threads=2)
    buckets.use(S3(part_mb=5, timeout_s=5, retries=8))
    faults = [slow_down(p=0.05, seed=1), Rule("refuse", p=0.05, seed=2), Rule("lost", method="PUT", p=0.05, seed=3)]
    for rule in faults:
        site.proxy.add(rule)
    bad = convert(product, recipe=recipe, store_root=site.bucket.href("stores"), threads=2)
    assert all(rule.n_met for rule in faults)
    assert bad.tree_sha256 == good.tree_sha256
    with closing(site.bucket.server.client()) as client:
        listed = client.list_objects_v2(Bucket=site.bucket.name, Prefix="stores/")["KeyCount"]
    assert listed == good.n_objects
