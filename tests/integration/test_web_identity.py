"""Credentials by web identity, as pods have them: a token in a file, keys for a while, new ones before they end."""

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from fault_proxy import FaultProxy, Rule
from s3_server import KEYS, Bucket
from sts_server import sts_server

from zarrmill.config import S3
from zarrmill.errors import SourceError, StoreError, UnknownStateError
from zarrmill.io import bucket as buckets
from zarrmill.io.objects import Objects
from zarrmill.io.places import place_of

SOON_S, LATER_S = 60.0, 3600.0
"""A key that ends so soon is replaced before it is used again; the other one is not."""

Identity = Callable[[str, str], Path]


@pytest.fixture
def identity(tmp_path: Path, s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Identity:
    """Return a function that gives this process a web identity and nothing else: address of the service and first token."""

    def become(url: str, token: str) -> Path:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        path = tmp_path / "token"
        path.write_text(token)
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/zarrmill")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(path))
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)  # AWS_ENDPOINT_URL is for every service
        monkeypatch.setenv("HOME", str(tmp_path))
        buckets.use(S3(retries=0))
        return path

    return become


def by_boto3(made: Bucket, key: str) -> None:
    with buckets.writing(key):
        buckets.client(made.name).put_object(Bucket=made.name, Key=key, Body=b"1")


def by_obstore(made: Bucket, key: str) -> None:
    place_of(made.href(key)).write_bytes(b"1")


@pytest.mark.parametrize("write", [by_boto3, by_obstore])
def test_keys_come_for_the_token_and_new_ones_before_they_end(
    s3_bucket: Bucket,
    identity: Identity,
    write: Callable[[Bucket, str], None],
    proxied: Callable[[str], FaultProxy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy = proxied(s3_bucket.url)
    proxy.add(Rule(kind="strip", header="x-amz-security-token"))  # the server knows keys, not sessions
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setattr(buckets, "_KEYS_FOR", timedelta(seconds=1))
    with sts_server((*KEYS["reader"], SOON_S), (*KEYS["writer"], LATER_S)) as sts:
        path = identity(sts.url, "first")
        with pytest.raises(StoreError, match="denied"):
            write(s3_bucket, "a")
        time.sleep(1.1)
        path.write_text("second")  # the cluster writes a new token into the file from time to time
        write(s3_bucket, "b")
        write(s3_bucket, "c")
        assert sts.tokens == ["first", "second"]
    assert s3_bucket.keys() == ["b", "c"]


@pytest.mark.parametrize("write", [by_boto3, by_obstore])
def test_a_token_that_is_not_there_is_an_error_of_ours_and_no_absent_object(
    s3_bucket: Bucket, identity: Identity, write: Callable[[Bucket, str], None]
) -> None:
    with sts_server((*KEYS["writer"], LATER_S)) as sts:
        identity(sts.url, "first").unlink()
        with pytest.raises(StoreError):
            write(s3_bucket, "a")
        with pytest.raises((UnknownStateError, StoreError)):
            place_of(s3_bucket.href("a")).exists()
        with pytest.raises(UnknownStateError):
            place_of(s3_bucket.href("a")).read_bytes()
        with pytest.raises(SourceError) as caught:
            Objects(s3_bucket.href("a"), retries=0).get("chunk")
        assert caught.value.kind in ("denied", "timeout")
    assert s3_bucket.keys() == []
