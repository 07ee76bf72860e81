"""A host of sources that misbehaves: what passes is waited for, what does not is named, and no pixel is ever made up.

The table of ``docs/faults.md`` has one line for each test here.
"""

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from fault_proxy import Rule, denied, expired, no_bucket, slow_down, wrong_clock
from file_server import file_server
from products import product_row, recipe_for
from stopped import StoppedError, stop_after

from zarrmill.config import S3
from zarrmill.errors import SourceError, UnknownStateError
from zarrmill.io import bucket as buckets
from zarrmill.io.answers import MissingObjectError
from zarrmill.io.objects import Objects
from zarrmill.io.source import read_tree, read_whole
from zarrmill.io.store import StoreWriter
from zarrmill.io.store_bucket import BucketWriter
from zarrmill.stages.convert import convert

DATA = bytes(range(256)) * 8000
BAND = "measurements/reflectance/r10m/b02"


@contextmanager
def running(timer):
    """Let a timer run until the block ends."""
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@pytest.fixture(params=["http", "http with tags", "s3"])
def place(request, tmp_path, proxied, monkeypatch):
    """An object behind a proxy, on each kind of host: address of its folder, the proxy, and a function that changes it."""
    if request.param == "s3":
        bucket = request.getfixturevalue("s3_bucket")
        bucket.put("d/k", DATA)
        proxy = proxied(bucket.url)
        buckets.use(S3(endpoint_url=proxy.url, timeout_s=2, retries=1))
        yield bucket.href("d"), proxy, lambda data: bucket.put("d/k", data)
        return
    (tmp_path / "d").mkdir()
    (tmp_path / "d/k").write_bytes(DATA)
    with file_server(tmp_path, tags="etag" if "tags" in request.param else "none") as server:
        proxy = proxied(server.url)
        yield f"{proxy.url}/d", proxy, (tmp_path / "d/k").write_bytes


def read_in_every_way(objects):
    assert objects.get("k") == DATA
    assert objects.get_range("k", 5, 1_500_000) == DATA[5:1_500_005]
    assert objects.get_ranges("k", [(0, 10), (1_900_000, 100_000)]) == [DATA[:10], DATA[1_900_000:2_000_000]]
    n_bytes, parts = objects.stream("k")
    assert (n_bytes, b"".join(parts)) == (len(DATA), DATA)
    assert objects.exists("k")


@pytest.mark.parametrize(
    "rule",
    [
        slow_down(n=2),
        Rule("answer", status=429, code="TooManyRequests", n=2),
        Rule("answer", status=500, code="InternalError", n=2),
        Rule("refuse", n=2),
        Rule("lost", n=2),
        Rule("cut", method="GET", n_bytes=300_000, n=2),
        Rule("reset", method="GET", n_bytes=300_000, n=2),
        Rule("hang", seconds=4, n=1),
        Rule("throttle", method="GET", rate=4e6),
    ],
    ids=lambda rule: f"{rule.kind} {rule.status}" if rule.kind == "answer" else rule.kind,
)
def test_what_passes_is_waited_for(place, rule):
    href, proxy, _ = place
    proxy.add(rule)
    read_in_every_way(Objects(href, timeout_s=2, retries=4))
    assert rule.n_met >= (rule.n or 1)


def test_outage_of_seconds_is_survived_with_the_settings_that_are_the_default(place):
    """obstore's own five tries are over after half a second, whatever ``Retry-After`` asks for."""
    href, proxy, _ = place
    if href.startswith("s3:"):
        buckets.use(S3(endpoint_url=proxy.url))
    proxy.add(Rule("answer", status=429, code="TooManyRequests", retry_after="2"))
    with running(threading.Timer(3, proxy.clear)):
        assert Objects(href).get("k") == DATA


def test_without_retries_nothing_is_asked_again(place):
    href, proxy, _ = place
    proxy.add(slow_down())
    for call in (lambda o: o.get("k"), lambda o: o.get_range("k", 0, 10), lambda o: o.stream("k"), lambda o: o.exists("k")):
        proxy.requests = []
        with pytest.raises(SourceError):
            call(Objects(href, retries=0))
        assert len(proxy.requests) == 1


def test_slow_answer_may_take_longer_than_a_silent_one(place):
    href, proxy, _ = place
    proxy.add(Rule("throttle", method="GET", path="k$", rate=4e5))
    started = time.monotonic()
    assert Objects(href, timeout_s=4, retries=0).get("k") == DATA
    assert time.monotonic() - started > 4


@pytest.mark.parametrize(
    ("rule", "words"),
    [(denied(), "access denied"), (expired(), "credentials are too old"), (wrong_clock(), "clock of this machine is wrong")],
    ids=["403", "expired", "clock"],
)
def test_what_does_not_pass_is_named_at_once(place, rule, words):
    href, proxy, _ = place
    proxy.add(rule)
    for call in (lambda o: o.get("k"), lambda o: o.get_range("k", 0, 10)):
        proxy.requests = []
        with pytest.raises(SourceError, match=words) as caught:
            call(Objects(href, timeout_s=30, retries=4))
        assert (caught.value.kind, caught.value.retryable) == ("denied", False)
        assert len(proxy.requests) == 1


@pytest.mark.parametrize("rule", [slow_down(), Rule("refuse"), Rule("cut", n_bytes=10)], ids=["503", "refused", "cut"])
def test_outage_ends_as_retryable_and_is_never_an_absence(place, rule):
    href, proxy, _ = place
    proxy.add(rule)
    objects = Objects(href, timeout_s=2, retries=1)
    with pytest.raises(SourceError) as caught:
        objects.get("k")
    assert (caught.value.kind, caught.value.retryable) == ("timeout", True)
    if rule.kind != "cut":
        with pytest.raises(SourceError):
            objects.exists("k")


@pytest.mark.parametrize(
    "rule",
    [
        Rule("answer", status=status, code=code)
        for status, code in [(400, "InvalidRequest"), (451, "Gone"), (501, "NotImplemented")]
    ],
    ids=lambda rule: rule.status,
)
def test_refusal_is_no_outage_and_is_told_at_once(place, rule):
    href, proxy, _ = place
    proxy.add(rule)
    for call in (lambda o: o.get("k"), lambda o: o.get_range("k", 0, 10), lambda o: o.stream("k")):
        proxy.requests = []
        with pytest.raises(SourceError, match=f"the host refuses the request .*{rule.status}") as caught:
            call(Objects(href))
        assert (caught.value.kind, caught.value.retryable) == ("denied", False)
        assert len(proxy.requests) <= (2 if rule.status == 501 else 1), "obstore asks a bucket once more after any 5xx"


def test_redirects_that_lead_nowhere_are_no_outage(tmp_path):
    with file_server(tmp_path, absent=302) as server, pytest.raises(SourceError, match=r"refuses .*redirect") as caught:
        Objects(server.url).get("k")
    assert caught.value.kind == "denied"


def test_object_that_is_gone_for_good_is_absent(tmp_path):
    with file_server(tmp_path, absent=410) as server:
        objects = Objects(server.url)
        for call in (objects.get, objects.stream, objects.size):
            with pytest.raises(MissingObjectError):
                call("k")
        assert not objects.exists("k")


def test_absent_object_is_absent(place):
    href, _, _ = place
    objects = Objects(href)
    with pytest.raises(MissingObjectError):
        objects.get("nothing")
    assert not objects.exists("nothing")


@pytest.mark.parametrize(("kind", "small"), [("l2a", "conditions/geometry/band"), ("l2a-v3", "conditions/geometry/x")])
def test_host_that_refuses_what_is_not_there_is_read_all_the_same(shared_sources, kind, small):
    source = shared_sources[kind]
    with file_server(source.parent, absent=403) as server:
        objects = Objects(server.href(source))
        tree = read_tree(objects)
        np.testing.assert_array_equal(read_whole(objects, tree.arrays[small]), zarr.open_group(source, mode="r")[small][...])


@pytest.mark.parametrize("odd", [{"head": 405}, {"length": False, "ranges": False}, {"length": False}], ids=str)
@pytest.mark.parametrize("kind", ["l2a", "l2a-v3"])
def test_host_without_head_or_length_is_read_all_the_same(shared_sources, kind, odd):
    source = shared_sources[kind]
    with file_server(source.parent, **odd) as server:
        objects = Objects(server.href(source), timeout_s=5, retries=1)
        tree = read_tree(objects)
        band = read_whole(objects, tree.arrays[BAND])
        assert not objects.exists("measurements/nothing")
    np.testing.assert_array_equal(band, zarr.open_group(source, mode="r", use_consolidated=False)[BAND][...])


ODD = [{"head": 405}, {"head": 403}, {"head": 400}, {"length": False, "ranges": False}, {"length": False}]
ODD += [{"part": "short"}, {"part": "open"}, {"part": "untold"}]


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_object_of_an_odd_host_is_read_in_every_way(tmp_path, odd):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/k").write_bytes(DATA)
    with file_server(tmp_path, **odd) as server:
        read_in_every_way(Objects(f"{server.url}/d", timeout_s=5, retries=1))
        assert not Objects(f"{server.url}/d").exists("nothing")


@pytest.mark.parametrize("odd", [{"head": 405}, {"length": False}], ids=str)
def test_host_without_head_or_length_is_asked_whether_an_object_changed(tmp_path, odd):
    (tmp_path / "k").write_bytes(DATA)
    with file_server(tmp_path, tags="etag", **odd) as server:
        objects = Objects(server.url, timeout_s=5, retries=1)
        objects.get("k")
        objects.check_unchanged()
        (tmp_path / "k").write_bytes(DATA[::-1])
        with pytest.raises(SourceError) as caught:
            objects.check_unchanged()
    assert caught.value.kind == "changed"


def test_body_of_no_told_length_that_breaks_off_is_asked_for_again(tmp_path, proxied):
    (tmp_path / "k").write_bytes(DATA)
    with file_server(tmp_path, length=False) as server:
        proxy = proxied(server.url)
        cut = proxy.add(Rule("cut", method="GET", n=2, n_bytes=1000))
        assert Objects(proxy.url, timeout_s=5, retries=2).get("k") == DATA
        assert cut.n_met == 2  # the look at its head, and the body


RANGES = [(1_900_000, 100_000), (5, 10), (0, 700_000), (1_900_005, 0), (1_990_000, 99_999_999)]


def test_ranges_of_one_object_are_fetched_together_where_they_are_near(tmp_path, proxied):
    (tmp_path / "k").write_bytes(DATA)
    with file_server(tmp_path, tags="etag") as server:
        proxy = proxied(server.url)
        objects = Objects(proxy.url)
        assert objects.get_ranges("k", RANGES) == [DATA[start : start + length] for start, length in RANGES]
        assert proxy.count() == 2
        (tmp_path / "k").write_bytes(DATA[::-1])
        with pytest.raises(SourceError, match="plan again"):
            objects.get_ranges("k", RANGES)


def test_range_whose_body_is_shorter_than_its_head_says_is_asked_for_again(tmp_path):
    """obstore's own ``get_ranges`` panics at it, which no handler of errors sees."""
    (tmp_path / "k").write_bytes(DATA)
    with file_server(tmp_path, part="cut") as server:
        with pytest.raises(SourceError, match="no answer") as caught:
            Objects(server.url, retries=1).get_ranges("k", RANGES)
        assert caught.value.kind == "timeout"
        with running(threading.Timer(0.5, setattr, (server, "part", "right"))):
            assert Objects(server.url).get_ranges("k", RANGES) == [DATA[start : start + length] for start, length in RANGES]


@pytest.mark.parametrize("ranges", [True, False])
def test_range_behind_the_end_is_empty(tmp_path, ranges):
    (tmp_path / "k").write_bytes(DATA)
    with file_server(tmp_path, ranges=ranges) as server:
        assert Objects(server.url).get_range("k", len(DATA), 10) == b""


def test_object_that_is_sent_encoded_is_refused_by_name(tmp_path):
    (tmp_path / "k").write_bytes(DATA)
    with file_server(tmp_path, gzip=True) as server:
        objects = Objects(server.url)
        for call in (lambda: objects.get("k"), lambda: objects.get_range("k", 0, 10), lambda: objects.stream("k")):
            with pytest.raises(SourceError, match="gzip-encoded") as caught:
                call()
            assert caught.value.code == "ZM-SRC-DENIED"


def test_refused_method_is_never_an_absence(tmp_path):
    with file_server(tmp_path, head=405, absent=405) as server, pytest.raises(SourceError, match="405") as caught:
        Objects(server.url, timeout_s=5, retries=1).exists("k")
    assert caught.value.code == "ZM-SRC-DENIED"


def test_host_that_refuses_everything_is_denied(tmp_path):
    with file_server(tmp_path, absent=403) as server, pytest.raises(SourceError, match=r"/\.zmetadata: access denied") as caught:
        read_tree(Objects(f"{server.url}/product.zarr"))
    assert caught.value.code == "ZM-SRC-DENIED"


def test_missing_bucket_is_never_an_absent_object(s3_bucket, proxied):
    buckets.use(S3(endpoint_url=s3_bucket.url, timeout_s=5, retries=1))
    objects = Objects("s3://no-such-bucket-here/d")
    with pytest.raises(SourceError, match="no such bucket") as caught:
        objects.get("k")
    assert caught.value.kind == "denied"
    with pytest.raises(UnknownStateError, match="no such bucket"):
        objects.exists("k")


@pytest.mark.parametrize("path", ["^/test", "list-type"])
def test_bucket_that_stops_being_there_is_told_on_the_first_absent_key(s3_bucket, proxied, path):
    proxy = proxied(s3_bucket.url)
    buckets.use(S3(endpoint_url=proxy.url, timeout_s=5, retries=1))
    proxy.add(no_bucket(path=path))
    with pytest.raises(UnknownStateError):
        Objects(s3_bucket.href("d")).exists("k")


def test_object_that_changes_between_two_reads_is_told(place):
    href, _, change = place
    objects = Objects(href)
    objects.get("k")
    objects.check_unchanged()
    change(DATA + b"1")
    with pytest.raises(SourceError, match="plan again") as caught:
        objects.get("k")
    assert caught.value.kind == "changed"


@pytest.mark.parametrize("place", ["http with tags", "s3"], indirect=True)
def test_object_that_changed_after_it_was_read_is_found_before_the_seal(place):
    href, _, change = place
    objects = Objects(href)
    objects.get("k")
    change(DATA[:-1] + b"x")
    with pytest.raises(SourceError) as caught:
        objects.check_unchanged()
    assert caught.value.kind == "changed"


@pytest.fixture(params=["l2a", "l2a-v3"])
def product(request, shared_sources, proxied):
    """A product behind a proxy: its folder, manifest row, recipe, proxy."""
    source = shared_sources[request.param]
    recipe = recipe_for("S02MSIL2A")
    with file_server(source.parent) as server:
        proxy = proxied(server.url)
        row = product_row(source, recipe)
        yield source, replace(row, href=f"{proxy.url}/{source.name}"), recipe, proxy


def test_conversion_from_a_bad_host_has_the_bytes_of_one_from_disk(product, tmp_path):
    source, row, recipe, proxy = product
    disk = convert(product_row(source, recipe), recipe=recipe, store_root=str(tmp_path / "disk"), threads=2)
    faults = [slow_down(p=0.02, seed=1), Rule("refuse", p=0.02, seed=2), Rule("cut", method="GET", p=0.02, seed=3, n_bytes=99)]
    for rule in faults:
        proxy.add(rule)
    net = convert(row, recipe=recipe, store_root=str(tmp_path / "net"), threads=2)
    assert all(rule.n_met for rule in faults)
    assert net.tree_sha256 == disk.tree_sha256


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        (Rule("answer", status=404, code="NoSuchKey", path=f"{BAND}/(0|c/0)"), "missing"),
        (denied(path=f"{BAND}/(0|c/0)"), "denied"),
    ],
    ids=["404", "403"],
)
def test_pixels_that_cannot_be_had_end_the_conversion_and_nothing_is_sealed(product, tmp_path, rule, kind):
    _, row, recipe, proxy = product
    proxy.add(rule)
    with pytest.raises(SourceError) as caught:
        convert(row, recipe=recipe, store_root=str(tmp_path), threads=2)
    assert caught.value.kind == kind
    assert row.product_id in caught.value.message
    assert not list(Path(tmp_path).rglob("*.zarr/zarr.json"))


def test_source_that_changes_under_way_is_found_before_the_seal(source_copy, tmp_path):
    source, recipe = source_copy("l2a"), recipe_for("S02MSIL2A")
    row, chunk = product_row(source, recipe), source / BAND / "0.0"

    def change(done, total):
        if done == total:
            chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")

    with file_server(source.parent, tags="etag") as server:
        row = replace(row, href=f"{server.url}/{source.name}")
        with pytest.raises(SourceError, match="plan again") as caught:
            convert(row, recipe=recipe, store_root=str(tmp_path / "out"), threads=2, on_progress=change)
    assert caught.value.kind == "changed"
    assert not list((tmp_path / "out").rglob("*.zarr/zarr.json"))


@pytest.mark.parametrize("writer", [StoreWriter, BucketWriter])
@pytest.mark.parametrize("was", ["other", "missing"])
def test_attempt_after_the_source_was_mended_keeps_nothing_of_the_old_pixels(
    source_copy, s3_bucket, tmp_path, monkeypatch, writer, was
):
    """The objects changed between two attempts; their metadata, and so the name of the store, did not."""
    source, recipe = source_copy("l2a"), recipe_for("S02MSIL2A", mandatory=())
    row, chunk = product_row(source, recipe), source / BAND / "0.0"
    whole = chunk.read_bytes()
    expected = convert(row, recipe=recipe, store_root=str(tmp_path / "expected"), threads=1).tree_sha256
    values = numcodecs.get_codec(json.loads((source / BAND / ".zarray").read_text())["compressor"])
    if was == "missing":
        chunk.unlink()
    else:
        chunk.write_bytes(values.encode(np.frombuffer(values.decode(whole), "<u2") + np.uint16(1)))
    root = str(tmp_path / "out") if writer is StoreWriter else s3_bucket.href("out")
    with file_server(source.parent, tags="etag") as server:
        row = replace(row, href=f"{server.url}/{source.name}")
        with monkeypatch.context() as patch:
            names = stop_after(patch, 100, writer)
            with pytest.raises(StoppedError):
                convert(row, recipe=recipe, store_root=root, threads=1)
        assert f"{BAND}/c" in names, "the band was done"
        unchanged = [name for name in names if name.startswith("source ")]
        assert len(unchanged) > 10
        chunk.write_bytes(whole)
        with monkeypatch.context() as patch:  # once more, so that entries of both lie in the journal
            stop_after(patch, 30, writer)
            with pytest.raises(StoppedError):
                convert(row, recipe=recipe, store_root=root, threads=1)
        receipt = convert(row, recipe=recipe, store_root=root, threads=1)
    assert receipt.tree_sha256 == expected
    assert not [f for f in receipt.findings if f.code == "source.missing-chunk"]


def test_attempt_after_a_break_keeps_what_is_done_of_an_unchanged_remote_source(shared_sources, tmp_path, monkeypatch):
    source, recipe = shared_sources["l2a"], recipe_for("S02MSIL2A")
    with file_server(source.parent, tags="etag") as server:
        row = replace(product_row(source, recipe), href=f"{server.url}/{source.name}")
        with monkeypatch.context() as patch:
            first = stop_after(patch, 100)
            with pytest.raises(StoppedError):
                convert(row, recipe=recipe, store_root=str(tmp_path), threads=1)
        second = stop_after(monkeypatch, 10_000)
        convert(row, recipe=recipe, store_root=str(tmp_path), threads=1)
    done = {name for name in first if name.endswith("/c")} - {[name for name in first if name.endswith("/c")][-1]}
    assert done
    assert not done & set(second), "nothing of them is written again"


def test_outage_in_the_middle_ends_as_retryable_and_nothing_is_sealed(product, tmp_path, monkeypatch):
    _, row, recipe, proxy = product
    monkeypatch.setattr(Objects, "__init__", partialmethod(Objects.__init__, timeout_s=2.0, retries=1))
    proxy.add(slow_down(after=30))
    with pytest.raises(SourceError) as caught:
        convert(row, recipe=recipe, store_root=str(tmp_path), threads=2)
    assert caught.value.retryable
    assert not list(Path(tmp_path).rglob("*.zarr/zarr.json"))
