"""Finished stores in a bucket: validated and read by independent readers as on disk; unknown is not absent."""

import json

import pytest
from fault_proxy import Rule, denied, no_bucket, slow_down
from products import product_row, recipe_for

from zarrmill.config import S3
from zarrmill.errors import SourceError, UnknownStateError, ZarrmillError
from zarrmill.io import bucket as buckets
from zarrmill.io.objects import Objects
from zarrmill.io.store_reader import ArrayReader
from zarrmill.model import Verdict
from zarrmill.stages.convert import convert
from zarrmill.stages.validate import validate


def converted(source, root, **pixels):
    recipe = recipe_for("S02MSIL2A", **pixels)
    product = product_row(source, recipe)
    return convert(product, recipe=recipe, store_root=str(root), threads=2), recipe


def facts(report):
    return [(f.code, f.path, f.severity) for f in report.findings], report.verdict, report.n_checks, report.n_pixels_compared


@pytest.mark.parametrize("pixels", [{}, {"shard_px": None}], ids=["sharded", "unsharded"])
def test_validation_of_a_store_in_a_bucket_is_that_of_the_same_store_on_disk(shared_sources, s3_bucket, tmp_path, pixels):
    source = shared_sources["l2a"]
    near, recipe = converted(source, tmp_path, **pixels)
    far, _ = converted(source, s3_bucket.href("stores"), **pixels)
    on_disk = validate(near.store, source=str(source), recipe=recipe, threads=2)
    in_bucket = validate(far.store, source=str(source), recipe=recipe, threads=2)
    assert facts(in_bucket) == facts(on_disk)
    assert in_bucket.verdict in (Verdict.PASS, Verdict.WARN)
    assert in_bucket.readers == on_disk.readers
    assert {name for name, said in in_bucket.readers.items() if said == "ok"} >= {"xarray", "rioxarray", "rio-tiler"}
    if pixels:
        assert in_bucket.readers["rasterio"] == "ok"


def test_reader_without_a_right_to_write_validates(shared_sources, s3_bucket, monkeypatch):
    far, recipe = converted(shared_sources["l2a"], s3_bucket.href("stores"))
    for name, value in s3_bucket.env("reader").items():
        monkeypatch.setenv(name, value)
    buckets.use(S3())
    assert validate(far.store, source=None, recipe=recipe, threads=2).verdict is not Verdict.FAIL


@pytest.mark.parametrize("rule", [slow_down(), denied(), no_bucket()], ids=["503", "403", "404"])
def test_store_that_cannot_be_asked_gets_no_verdict(shared_sources, s3_bucket, proxied, rule):
    far, recipe = converted(shared_sources["l2a"], s3_bucket.href("stores"))
    proxy = proxied(s3_bucket.url)
    buckets.use(S3(endpoint_url=proxy.url, retries=0, timeout_s=2))
    proxy.add(rule)
    with pytest.raises((UnknownStateError, SourceError)) as caught:
        validate(far.store, source=None, recipe=recipe, threads=2)
    assert isinstance(caught.value, ZarrmillError)


@pytest.mark.parametrize(
    ("status", "code", "told"), [(404, "NoSuchBucket", "there is no such bucket"), (403, "AccessDenied", "access denied")]
)
def test_a_listing_that_is_refused_says_why(s3_bucket, proxied, status, code, told):
    proxy = proxied(s3_bucket.url)
    buckets.use(S3(endpoint_url=proxy.url, retries=0))
    body = f"<?xml version='1.0'?>\n<Error><Code>{code}</Code></Error>"
    proxy.add(Rule(kind="answer", status=status, body=body))
    store = s3_bucket.href("stores/x.zarr")
    for ask in (lambda: Objects(store).is_empty(), lambda: list(Objects(store).keys())):
        with pytest.raises(SourceError, match=told) as caught:
            ask()
        assert caught.value.kind == "denied"
    with pytest.raises(UnknownStateError, match=told) as untold:
        validate(store, source=None, recipe=recipe_for("S02MSIL2A"), threads=1)
    assert untold.value.message.count("s3://") == 1


def test_a_service_that_knows_no_ranges_is_asked_for_whole_objects(s3_bucket, proxied):
    s3_bucket.put("a", bytes(range(200)))
    proxy = proxied(s3_bucket.url)
    buckets.use(S3(endpoint_url=proxy.url, retries=0))
    proxy.add(Rule(kind="strip", method="GET", header="range"))
    objects = Objects(s3_bucket.href())
    assert objects.get_range("a", 5, 3) == bytes([5, 6, 7])
    assert objects.get_ranges("a", [(0, 2), (198, 9)]) == [bytes([0, 1]), bytes([198, 199])]


def test_outage_while_zarr_python_reads_is_no_fault_of_the_source(shared_sources, tmp_path):
    near, _ = converted(shared_sources["l2a"], tmp_path)
    store = Objects(near.store)
    reader = ArrayReader("x", (4,), "uint8", (4,), (4,), {}, ("x",), store, direct=None)

    class Away:
        def __getitem__(self, region):
            raise SourceError(f"{store.href}/x/c/0: no answer; try again later", kind="timeout")

    reader.__dict__["array"] = Away()
    with pytest.raises(UnknownStateError, match="validate again"):
        reader.read((slice(0, 4),))


def test_changed_object_in_a_bucket_fails_validation(shared_sources, s3_bucket):
    source = shared_sources["l2a"]
    far, recipe = converted(source, s3_bucket.href("stores"))
    prefix = far.store.removeprefix(f"s3://{s3_bucket.name}/")
    key = next(key for key in s3_bucket.keys(prefix) if "reflectance/r10m/b02/c/" in key)
    data = bytearray(s3_bucket.contents(key)[""])
    data[len(data) // 3] ^= 0xFF
    s3_bucket.put(key, bytes(data))
    assert validate(far.store, source=str(source), recipe=recipe, threads=2).verdict is Verdict.FAIL


def test_receipt_names_the_store_by_its_address(shared_sources, s3_bucket):
    far, _ = converted(shared_sources["l2a"], s3_bucket.href("stores"))
    assert far.store.startswith(f"s3://{s3_bucket.name}/stores/sentinel-2-l2a/20250113/")
    root = s3_bucket.contents(f"{far.store.removeprefix(f's3://{s3_bucket.name}/')}/zarr.json")[""]
    assert json.loads(root)["attributes"]["zarrmill"]["tree_sha256"] == far.tree_sha256
