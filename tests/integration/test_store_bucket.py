"""Stores in a bucket: the same bytes as on disk, one writer, nothing half, foreign or overwritten."""

import hashlib
import json
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
from fault_proxy import Rule
from products import product_row, recipe_for
from until import until

from zarrmill.config import S3, Codec
from zarrmill.errors import SourceError, StoreError
from zarrmill.io import bucket as buckets
from zarrmill.io.lease import Lease
from zarrmill.io.objects import Objects
from zarrmill.io.store_bucket import BucketWriter
from zarrmill.io.written import Entry
from zarrmill.stages.convert import convert

MIB = 1 << 20
LEASE_S = 6.0


@pytest.fixture(autouse=True)
def _settings():
    buckets.use(S3(part_mb=5, timeout_s=10, retries=3))


def run(source, root, product_type="S02MSIL2A", threads=2, **pixels):
    recipe = recipe_for(product_type, **pixels)
    product = product_row(source, recipe, product_type)
    return convert(product, recipe=recipe, store_root=str(root), threads=threads)


def folder(store) -> dict[str, bytes]:
    root = Path(store)
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def writer_of(bucket, key="stores/a.zarr"):
    return BucketWriter(bucket.href(key), Codec())


def noise(n_bytes: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(n_bytes)


@pytest.mark.parametrize(
    ("kind", "product_type", "pixels"),
    [("l2a", "S02MSIL2A", {}), ("l1c", "S02MSIL1C", {}), ("l2a", "S02MSIL2A", {"shard_px": None})],
    ids=["sharded", "l1c", "unsharded"],
)
@pytest.mark.parametrize("checksums", ["when_required", "when_supported"])
def test_bucket_and_disk_hold_the_same_bytes(shared_sources, s3_bucket, tmp_path, kind, product_type, pixels, checksums):
    buckets.use(S3(checksums=checksums))
    local = run(shared_sources[kind], tmp_path, product_type, **pixels)
    remote = run(shared_sources[kind], s3_bucket.href("pub/stores"), product_type, threads=3, **pixels)
    place = remote.store.removeprefix(f"s3://{s3_bucket.name}/")
    assert place == f"pub/stores/{Path(local.store).relative_to(tmp_path).as_posix()}"
    assert s3_bucket.contents(f"{place}/") == folder(local.store)
    assert (remote.tree_sha256, remote.root_sha256) == (local.tree_sha256, local.root_sha256)
    assert (remote.n_objects, remote.n_bytes, remote.adopted) == (local.n_objects, local.n_bytes, False)
    everything = s3_bucket.keys()
    assert [key for key in everything if not key.startswith(f"{place}/")] == []
    assert s3_bucket.uploads() == []


def test_sealed_store_is_read_whole_and_adopted_without_a_write(shared_sources, s3_bucket, proxied, monkeypatch):
    first = run(shared_sources["l1c"], s3_bucket.href("stores"), "S02MSIL1C")
    proxy = proxied(s3_bucket.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    buckets.use(S3())
    second = run(shared_sources["l1c"], s3_bucket.href("stores"), "S02MSIL1C")
    assert (second.adopted, second.tree_sha256, second.n_objects) == (True, first.tree_sha256, first.n_objects)
    assert proxy.count("PUT") == proxy.count("POST") == proxy.count("DELETE") == 0


def test_sealed_store_with_a_changed_object_is_damaged(shared_sources, s3_bucket):
    receipt = run(shared_sources["l1c"], s3_bucket.href("stores"), "S02MSIL1C")
    key = next(k for k in s3_bucket.keys(receipt.store.removeprefix(f"s3://{s3_bucket.name}/")) if "/c/" in k)
    s3_bucket.put(key, b"other")
    with pytest.raises(StoreError, match="move this store away") as caught:
        run(shared_sources["l1c"], s3_bucket.href("stores"), "S02MSIL1C")
    assert caught.value.code == "ZM-STO-DAMAGED"


@pytest.mark.parametrize("n_bytes", [0, 1, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 17 * MIB])
def test_objects_of_any_size_arrive_whole_with_their_tag(s3_bucket, n_bytes):
    data, writer = noise(n_bytes), writer_of(s3_bucket)
    with writer.locked():
        sink = writer.sink("x/c/0")
        for start in range(0, n_bytes, 3 * MIB):
            sink.append(data[start : start + 3 * MIB])
        assert s3_bucket.keys("stores/a.zarr/") == []
        item = sink.close()
        writer.seal(b"{}", [item])
    assert s3_bucket.contents("stores/a.zarr/") == {"x/c/0": data, "zarr.json": b"{}"}
    assert (item.n_bytes, item.sha256) == (n_bytes, hashlib.sha256(data).hexdigest())
    with closing(s3_bucket.client()) as client:
        tag = client.head_object(Bucket=s3_bucket.name, Key="stores/a.zarr/x/c/0")["ETag"]
    assert tag == f'"{item.etag}"'
    assert ("-" in item.etag) == (n_bytes >= 5 * MIB)


def test_parts_that_are_tagged_as_one_object_cannot_be_checked_and_larger_parts_help(s3_bucket, proxied):
    proxy, data = proxied(s3_bucket.url), noise(6 * MIB)
    body = f"<CompleteMultipartUploadResult><ETag>{hashlib.md5(data).hexdigest()}</ETag></CompleteMultipartUploadResult>"
    proxy.add(Rule("answer", method="POST", path="uploadId=", status=200, body=body))
    for part_mb in (5, 8):
        buckets.use(S3(endpoint_url=proxy.url, part_mb=part_mb, retries=0))
        writer = writer_of(s3_bucket)
        with ExitStack() as stack:
            if part_mb == 5:
                caught = stack.enter_context(pytest.raises(StoreError, match=r"raise s3\.part_mb above"))
            with writer.locked():
                sink = writer.sink("x")
                sink.append(data)
                writer.seal(b"{}", [sink.close()])
        assert not caught.value.retryable
    assert s3_bucket.contents("stores/a.zarr/") == {"x": data, "zarr.json": b"{}"}


def test_parts_on_their_way_out_are_bounded(s3_bucket, proxied, monkeypatch):
    """The one who appends waits while as many parts are under way as requests are allowed."""
    proxy = proxied(s3_bucket.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    buckets.use(S3(part_mb=5, max_concurrency=2))
    proxy.add(Rule("latency", method="PUT", path="partNumber", seconds=1))
    data, writer = noise(5 * MIB), writer_of(s3_bucket)
    with writer.locked():
        sink = writer.sink("x")
        started = time.monotonic()
        for _ in range(5):
            sink.append(data)
        assert time.monotonic() - started > 1.5
        writer.seal(b"{}", [sink.close()])
    assert s3_bucket.contents("stores/a.zarr/")["x"] == data * 5


def test_failed_attempt_leaves_a_journal_and_no_open_upload(s3_bucket):
    writer, written = writer_of(s3_bucket), []

    def attempt():
        with writer.locked():
            written.append(writer.write("good/c/0", b"good"))
            writer.record(Entry("good", objects=tuple(written)))
            writer.sink("torn/c/0").append(noise(6 * MIB))
            raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        attempt()
    assert s3_bucket.uploads() == []
    assert s3_bucket.keys("stores/a.zarr/") == ["stores/a.zarr/good/c/0"]
    again = writer_of(s3_bucket)
    started = time.monotonic()
    with again.locked():
        assert time.monotonic() - started < buckets.settings().lease_s / 2, "it was released"
        assert again.finished("") == {"good": Entry("good", objects=tuple(written))}


def test_journal_proves_only_what_is_there_unchanged(s3_bucket):
    writer = writer_of(s3_bucket)
    with writer.locked():
        items = {name: writer.write(f"{name}/c/0", name.encode() * 9) for name in ("good", "bad", "gone")}
        for name, item in items.items():
            writer.record(Entry(name, objects=(item,)))
    s3_bucket.put("stores/a.zarr/bad/c/0", b"x" * items["bad"].n_bytes)
    s3_bucket.delete("stores/a.zarr/gone/c/0")
    again = writer_of(s3_bucket)
    with again.locked():
        assert again.finished("another") == {}
        assert again.finished("") == {"good": Entry("good", objects=(items["good"],))}


def test_leftovers_of_earlier_attempts_never_become_part_of_a_store(s3_bucket):
    s3_bucket.put("stores/a.zarr/old/c/0", b"left")
    s3_bucket.put("stores/a.zarr-other/x", b"of another")
    with closing(s3_bucket.client()) as client:
        client.create_multipart_upload(Bucket=s3_bucket.name, Key="stores/a.zarr/torn")
        client.create_multipart_upload(Bucket=s3_bucket.name, Key="stores/b.zarr/torn")
    writer = writer_of(s3_bucket)
    with writer.locked():
        writer.seal(b"{}", [writer.write("x", b"1")])
        writer.remove_journal()
    assert s3_bucket.keys() == ["stores/a.zarr-other/x", "stores/a.zarr/x", "stores/a.zarr/zarr.json"]
    assert s3_bucket.uploads() == ["stores/b.zarr/torn"]


def as_converter(bucket, monkeypatch):
    for name, value in bucket.env("converter").items():
        monkeypatch.setenv(name, value)
    buckets.use(S3())


def test_without_the_right_to_delete_a_store_is_sealed_and_the_journal_stays(s3_bucket, monkeypatch):
    as_converter(s3_bucket, monkeypatch)
    writer = writer_of(s3_bucket)
    with writer.locked():
        item = writer.write("x", b"1")
        writer.seal(b"{}", [item])
        writer.remove_journal()
    assert [w.key for w in writer.read_back(1)] == ["x", "zarr.json"]
    assert s3_bucket.keys("stores/") == ["stores/a.zarr.journal/000001.json", "stores/a.zarr/x", "stores/a.zarr/zarr.json"]


def test_without_the_right_to_delete_leftovers_that_are_written_again_are_no_obstacle_others_are_named(s3_bucket, monkeypatch):
    s3_bucket.put("stores/a.zarr/x", b"torn")
    as_converter(s3_bucket, monkeypatch)
    writer = writer_of(s3_bucket)
    with writer.locked():
        writer.seal(b"{}", [writer.write("x", b"1")])
    s3_bucket.put("stores/b.zarr/foreign", b"left")
    other = writer_of(s3_bucket, "stores/b.zarr")
    with (
        pytest.raises(StoreError, match="1 objects of earlier attempts are not part of the store, such as foreign") as caught,
        other.locked(),
    ):
        other.seal(b"{}", [other.write("x", b"1")])
    assert caught.value.code == "ZM-STO-DENIED"
    assert s3_bucket.keys("stores/b.zarr/zarr.json") == []


def test_lost_object_is_found_before_the_store_is_sealed(s3_bucket):
    writer = writer_of(s3_bucket)
    with writer.locked():
        item = writer.write("x", b"1")
        writer._uploads.wait()
        s3_bucket.delete("stores/a.zarr/x")
        with pytest.raises(StoreError, match="x: found nothing") as caught:
            writer.seal(b"{}", [item])
    assert caught.value.retryable
    assert s3_bucket.keys("stores/a.zarr/") == []


def test_object_that_changes_between_seal_and_receipt_is_found(s3_bucket):
    writer = writer_of(s3_bucket)
    with writer.locked():
        writer.seal(b"{}", [writer.write("x", b"1")])
    s3_bucket.put("stores/a.zarr/x", b"2")
    with pytest.raises(StoreError, match="x: found"):
        writer.read_back(1)
    s3_bucket.put("stores/a.zarr/x", b"1")
    s3_bucket.put("stores/a.zarr/y", b"1")
    with pytest.raises(StoreError, match="foreign"):
        writer.read_back(1)


def test_sealed_store_is_never_overwritten_by_another_root(s3_bucket):
    writer = writer_of(s3_bucket)
    with writer.locked():
        item = writer.write("x", b"1")
        s3_bucket.put("stores/a.zarr/zarr.json", b"another")
        with pytest.raises(StoreError, match="sealed meanwhile with another root"):
            writer.seal(b"{}", [item])
    assert s3_bucket.contents("stores/a.zarr/")["zarr.json"] == b"another"


def test_of_many_writers_at_once_one_writes_and_the_others_find_it_sealed(s3_bucket):
    sealed, found = [], []

    def attempt(number):
        writer = writer_of(s3_bucket)
        with writer.locked(60):
            if writer.is_sealed():
                found.append(number)
                return
            writer.seal(b"{}", [writer.write("x", b"1")])
            sealed.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(sealed), len(found)) == (1, 5)


def test_second_writer_waits_and_then_says_who_holds_the_store(s3_bucket):
    buckets.use(S3(lease_s=LEASE_S))
    first, second = writer_of(s3_bucket), writer_of(s3_bucket)
    with first.locked():
        with (
            pytest.raises(StoreError, match=r"another process \(.*:\d+:.*\) writes this store") as caught,
            second.locked(wait_s=LEASE_S * 1.5),
        ):
            pass  # longer than the lease: it is renewed
        assert caught.value.code == "ZM-STO-DENIED"


def test_lease_of_a_silent_writer_ends_and_its_late_writes_are_refused(s3_bucket, monkeypatch):
    """What a suspended process does when it wakes up: its thread stood still, its time has run."""
    buckets.use(S3(lease_s=LEASE_S))
    silent = writer_of(s3_bucket)
    monkeypatch.setattr(Lease, "_renew_regularly", lambda self: None)
    with silent.locked():
        silent.record(Entry("a", objects=(silent.write("a", b"1"),)))
        silent._uploads.wait()
        silent._lease._put(1)  # the last renewal before it fell silent
        time.sleep(LEASE_S)
        started = time.monotonic()
        with writer_of(s3_bucket).locked(3 * LEASE_S):
            waited = time.monotonic() - started
        silent.write("b", b"1")
        with pytest.raises(StoreError, match="could not be renewed") as caught:
            silent._uploads.wait()
    assert waited < LEASE_S
    assert caught.value.retryable
    assert s3_bucket.keys("stores/a.zarr/") == ["stores/a.zarr/a"]


def test_what_is_finished_is_in_the_bucket_soon_not_only_at_the_next_renewal(s3_bucket):
    buckets.use(S3(lease_s=600))  # renewed every hundred seconds
    writer = writer_of(s3_bucket)
    with writer.locked():
        writer.finished("id")
        writer.record(Entry("first", (1,), (writer.write("a/c/0", b"1"),)))
        deadline = time.monotonic() + 60
        while '"a/c/0"' not in (carried := s3_bucket.contents("stores/a.zarr.journal/")["000001.json"].decode()):
            assert time.monotonic() < deadline, carried
            time.sleep(0.1)


def test_writer_whose_lease_was_taken_over_stops(s3_bucket):
    buckets.use(S3(lease_s=LEASE_S))
    writer = writer_of(s3_bucket)
    with writer.locked():
        s3_bucket.put("stores/a.zarr.journal/000002.json", json.dumps({"owner": "another", "entries": {}}).encode())
        until(lambda: writer._lease._lost)
        writer.write("a", b"1")
        with pytest.raises(StoreError, match="took this store over"):
            writer._uploads.wait()


def test_storage_class_is_that_of_the_settings(s3_bucket):
    buckets.use(S3(storage_class="STANDARD_IA", part_mb=5))
    writer = writer_of(s3_bucket)
    with writer.locked():
        large = writer.sink("large")
        large.append(noise(6 * MIB))
        writer.seal(b"{}", [writer.write("small", b"1"), large.close()])
    with closing(s3_bucket.client()) as client:
        found = client.list_objects_v2(Bucket=s3_bucket.name, Prefix="stores/a.zarr/")["Contents"]
    assert {item["Key"].rpartition("/")[2]: item["StorageClass"] for item in found} == {
        "large": "STANDARD_IA",
        "small": "STANDARD_IA",
        "zarr.json": "STANDARD_IA",
    }


def test_recipe_has_its_storage_class_and_keeps_its_names(shared_sources, s3_bucket):
    buckets.use(S3(storage_class="STANDARD", part_mb=5))
    plain = recipe_for("S02MSIL2A")
    recipe = plain.model_copy(update={"storage_class": "STANDARD_IA"})
    product = product_row(shared_sources["l2a"], recipe)
    assert product.digest == product_row(shared_sources["l2a"], plain).digest
    convert(product, recipe=recipe, store_root=s3_bucket.href("stores"), threads=2)
    with closing(s3_bucket.client()) as client:
        found = client.list_objects_v2(Bucket=s3_bucket.name, Prefix=f"stores/{product.store_path}/")["Contents"]
    assert {item["StorageClass"] for item in found} == {"STANDARD_IA"}


def test_place_without_any_object_is_empty(s3_bucket, tmp_path):
    s3_bucket.put("other/k", b"1")
    assert Objects(s3_bucket.href("d")).is_empty()
    s3_bucket.put("d/deep/k", b"1")
    assert not Objects(s3_bucket.href("d")).is_empty()
    assert Objects(str(tmp_path / "missing")).is_empty()
    with pytest.raises(SourceError):
        Objects("s3://no-such-bucket-anywhere/d").is_empty()
