"""Clients for buckets: one configuration reaches every library, and every failure has the right name."""

import os
from contextlib import closing
from datetime import timedelta

import obstore
import pytest
from botocore.exceptions import ClientError
from fault_proxy import Rule, denied, expired, no_bucket, slow_down, wrong_clock

from zarrmill.config import S3
from zarrmill.errors import ConfigError, StoreError, UnknownStateError
from zarrmill.io import bucket as b
from zarrmill.io.bucket_rules import overwrites
from zarrmill.io.listing import Listing
from zarrmill.io.objects import Objects
from zarrmill.io.places import place_of


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    yield
    b.use(S3())


def use(url, **options):
    b.use(S3(endpoint_url=url, timeout_s=2, **options))


@pytest.mark.parametrize("checksums", ["when_required", "when_supported"])
def test_settings_reach_boto3_and_obstore_and_win_over_the_environment(s3_bucket, monkeypatch, checksums):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    use(s3_bucket.url, checksums=checksums)
    with closing(b.client(s3_bucket.name)) as client:
        client.put_object(Bucket=s3_bucket.name, Key="p/k", Body=b"hello")
        assert bytes(obstore.get(b.object_store(s3_bucket.name, "p"), "k").bytes()) == b"hello"
    assert b.gdal_options(s3_bucket.name)["AWS_S3_ENDPOINT"] == s3_bucket.url.removeprefix("http://")


def test_environment_is_taken_where_settings_are_silent(s3_bucket):
    b.use(S3())
    assert b.endpoint_url(s3_bucket.name) == s3_bucket.url == os.environ["AWS_ENDPOINT_URL"]
    with closing(b.client(s3_bucket.name)) as client:
        assert client.list_objects_v2(Bucket=s3_bucket.name)["KeyCount"] == 0


def test_a_bucket_with_an_address_of_its_own_is_reached_there(s3_bucket):
    b.use(S3(endpoint_url="http://127.0.0.1:1", buckets={s3_bucket.name: {"endpoint_url": s3_bucket.url}}))
    with closing(b.client(s3_bucket.name)) as client:
        assert client.list_objects_v2(Bucket=s3_bucket.name)["KeyCount"] == 0
    assert b.endpoint_url("another") == "http://127.0.0.1:1"


def test_virtual_addressing_names_the_bucket_in_the_host(s3_bucket):
    use("http://s3.example.org:81", addressing="virtual")
    signed = b.client("images").generate_presigned_url("get_object", Params={"Bucket": "images", "Key": "a/k"})
    also = obstore.sign(b.object_store("images", "a"), "GET", "k", timedelta(minutes=1))
    assert {url.partition("?")[0] for url in (signed, also)} == {"http://images.s3.example.org:81/a/k"}
    assert b.gdal_options("images")["AWS_VIRTUAL_HOSTING"] == "TRUE"


def test_no_credentials_is_an_error_of_rights(s3_bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    use(s3_bucket.url)
    with closing(b.client(s3_bucket.name)) as client:
        with pytest.raises(StoreError) as caught, b.writing("s3://x"):
            client.put_object(Bucket=s3_bucket.name, Key="k", Body=b"")
    assert caught.value.code == "ZM-STO-DENIED"
    with pytest.raises(StoreError) as caught:
        b.object_store(s3_bucket.name)
    assert caught.value.code == "ZM-STO-DENIED"


def test_a_profile_of_the_shared_configuration_holds_the_credentials(s3_bucket, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
    file = tmp_path / "credentials"
    key, secret = s3_bucket.env("reader")["AWS_ACCESS_KEY_ID"], s3_bucket.env("reader")["AWS_SECRET_ACCESS_KEY"]
    file.write_text(f"[archive]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    use(s3_bucket.url, profile="archive")
    with closing(b.client(s3_bucket.name)) as client:
        assert client.list_objects_v2(Bucket=s3_bucket.name)["KeyCount"] == 0
    assert list(obstore.list(b.object_store(s3_bucket.name))) == []


@pytest.mark.parametrize(
    ("rule", "code", "retryable"),
    [
        (denied(), "ZM-STO-DENIED", False),
        (expired(), "ZM-STO-DENIED", False),
        (wrong_clock(), "ZM-STO-DENIED", False),
        (no_bucket(), "ZM-STO-BUCKET", False),
        (Rule(kind="answer", status=501, code="NotImplemented"), "ZM-STO-DENIED", False),
        (Rule(kind="answer", status=409, code="BucketAlreadyOwnedByYou"), "ZM-STO-DENIED", False),
        (slow_down(), "ZM-STO-LOST", True),
        (Rule("refuse"), "ZM-STO-LOST", True),
        (Rule("hang", seconds=4), "ZM-STO-LOST", True),
        (Rule("answer", status=400, code="InvalidStorageClass"), "ZM-STO-DENIED", False),
    ],
    ids=lambda value: getattr(value, "code", ""),
)
def test_each_failure_of_a_write_has_its_name_and_only_passing_ones_are_retried(s3_bucket, proxied, rule, code, retryable):
    proxy = proxied(s3_bucket.url)
    proxy.add(rule)
    use(proxy.url, retries=1)
    with closing(b.client(s3_bucket.name)) as client:
        with pytest.raises(StoreError) as caught, b.writing("s3://x/y"):
            client.put_object(Bucket=s3_bucket.name, Key="k", Body=b"1")
        assert (caught.value.code, caught.value.retryable) == (code, retryable)
        assert "s3://x/y" in caught.value.message
        assert proxy.count("PUT") == (2 if retryable else 1)
        with pytest.raises(UnknownStateError), b.asking("s3://x/y"):
            client.list_objects_v2(Bucket=s3_bucket.name)
    assert ("the clock of this machine is wrong" in caught.value.message) == (rule.code == b.CLOCK_WRONG)


TOLD = "<Message>The region 'us-east-1' is wrong; expecting 'eu-west-3'</Message><Region>eu-west-3</Region>"
UNTOLD = Rule("answer", status=301, code="PermanentRedirect")
REDIRECT = Rule("answer", status=301, code="PermanentRedirect", headers=("x-amz-bucket-region: eu-west-3",))
MALFORMED = Rule("answer", status=400, body=f"<Error><Code>AuthorizationHeaderMalformed</Code>{TOLD}</Error>")
CONSTRAINT = Rule(
    "answer",
    status=400,
    body="<Error><Code>IllegalLocationConstraintException</Code>"
    "<Message>The eu-west-3 location constraint is incompatible for the region specific endpoint.</Message></Error>",
)


@pytest.mark.parametrize("rule", [UNTOLD, REDIRECT, MALFORMED, CONSTRAINT], ids=["untold", "redirect", "malformed", "constraint"])
def test_a_wrong_region_is_told_as_what_it_is_whoever_asks(s3_bucket, proxied, rule):
    proxy = proxied(s3_bucket.url)
    proxy.add(rule)
    use(proxy.url, retries=0)
    where = "another region" if rule is UNTOLD else "region eu-west-3"
    objects, place = Objects(s3_bucket.href("d")), place_of(s3_bucket.href("state/a"))
    asks = [lambda: objects.get("k"), lambda: objects.exists("k"), lambda: list(objects.keys())]
    asks += [place.exists, place.read_bytes, place.now, place.unlink, lambda: place.write_text(""), lambda: place.create(b"")]
    asks += [lambda: Listing(place.parent).files(place.parent), lambda: overwrites(s3_bucket.name, "d/")]
    for ask in asks:
        with pytest.raises(ConfigError, match=rf"is in {where}.* us-east-1; set s3\.region"):
            ask()


def test_a_region_is_told_by_the_header_of_an_answer_too():
    answer = {"Error": {"Code": "301"}, "ResponseMetadata": {"HTTPHeaders": {"x-amz-bucket-region": "eu-west-3"}}}
    error = b.wrong_region("s3://x/y", ClientError(answer | {"Error": {"Message": "Moved Permanently"}}, "HeadObject"))
    assert error is not None
    assert "the bucket is in region eu-west-3" in error.message
    bad_key = {"Error": {"Code": "AuthorizationHeaderMalformed", "Message": "a non-empty Access Key must be provided"}}
    assert b.wrong_region("s3://x/y", ClientError(bad_key, "GetObject")) is None
    assert b.reason_of(ClientError(bad_key, "GetObject"))[0] == "denied"


def test_a_slow_answer_that_goes_on_is_not_a_timeout(s3_bucket, proxied):
    s3_bucket.put("k", bytes(3_000_000))
    proxy = proxied(s3_bucket.url)
    proxy.add(Rule("throttle", rate=6e5))
    b.use(S3(endpoint_url=proxy.url, timeout_s=4, retries=0))
    assert len(bytes(obstore.get(b.object_store(s3_bucket.name), "k").bytes())) == 3_000_000


def test_silence_is_a_timeout_that_is_retried(s3_bucket, proxied):
    s3_bucket.put("k", b"hello")
    proxy = proxied(s3_bucket.url)
    proxy.add(Rule("hang", seconds=10, n=1))
    use(proxy.url, retries=2)
    assert bytes(obstore.get(b.object_store(s3_bucket.name), "k").bytes()) == b"hello"
    assert proxy.count("GET") == 2
