"""The tools of the fault tests: each rule of the proxy is met by a real client before a real S3 server."""

from contextlib import closing

import pytest
from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError, HTTPClientError, ReadTimeoutError
from fault_proxy import Rule, denied, expired, no_bucket, slow_down

KEY, BODY = "a/b", bytes(range(256)) * 4096


@pytest.fixture
def behind(s3_bucket, proxied):
    proxy = proxied(s3_bucket.url)
    return s3_bucket.through(proxy.url), proxy


def test_requests_pass_and_are_counted(behind):
    bucket, proxy = behind
    with closing(bucket.client()) as client:
        client.put_object(Bucket=bucket.name, Key=KEY, Body=BODY)
        assert client.get_object(Bucket=bucket.name, Key=KEY)["Body"].read() == BODY
        assert client.head_object(Bucket=bucket.name, Key=KEY)["ContentLength"] == len(BODY)
    assert [proxy.count(method, KEY) for method in ("PUT", "GET", "HEAD", "DELETE")] == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("rule", "code"),
    [(slow_down(), "SlowDown"), (denied(), "AccessDenied"), (expired(), "ExpiredToken"), (no_bucket(), "NoSuchBucket")],
)
def test_answers_are_those_of_an_object_store(behind, rule, code):
    bucket, proxy = behind
    proxy.add(rule)
    with closing(bucket.client()) as client:
        for call in (
            lambda: client.get_object(Bucket=bucket.name, Key=KEY),
            lambda: client.put_object(Bucket=bucket.name, Key=KEY, Body=BODY),
        ):
            with pytest.raises(ClientError) as caught:
                call()
            assert caught.value.response["Error"]["Code"] == code
    assert rule.n_met == 2
    assert bucket.keys() == []


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        (Rule("refuse"), (ConnectionClosedError, HTTPClientError)),
        (Rule("hang", seconds=3), ReadTimeoutError),
        (Rule("cut", n_bytes=100_000), HTTPClientError),
        (Rule("reset", n_bytes=100_000), HTTPClientError),
        (Rule("lost"), (ConnectionClosedError, HTTPClientError)),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_broken_connections_are_errors_of_the_client(behind, rule, error):
    bucket, proxy = behind
    bucket.put(KEY, BODY)
    proxy.add(rule)
    with closing(bucket.client(read_timeout=1)) as client, pytest.raises(error):
        client.get_object(Bucket=bucket.name, Key=KEY)["Body"].read()
    assert rule.n_met == 1


def test_request_whose_answer_is_lost_was_carried_out(behind):
    bucket, proxy = behind
    proxy.add(Rule("lost", method="PUT"))
    with closing(bucket.client()) as client, pytest.raises(BotoCoreError):
        client.put_object(Bucket=bucket.name, Key=KEY, Body=BODY)
    assert bucket.contents() == {KEY: BODY}
    assert proxy.requests[-1].status == 200, "what the server answered is known"


def test_flipped_bytes_pass_a_proxy_that_is_told_to_and_a_checksum_finds_them(behind):
    bucket, proxy = behind
    bucket.put(KEY, BODY)
    proxy.add(Rule("flip-down", method="GET"))
    proxy.add(Rule("flip-up", method="PUT"))
    options = {"request_checksum_calculation": "when_supported", "response_checksum_validation": "when_required"}
    with closing(bucket.client(**options)) as client:
        received = client.get_object(Bucket=bucket.name, Key=KEY)["Body"].read()
        assert sum(a != b for a, b in zip(received, BODY, strict=True)) == 1
        with pytest.raises(ClientError):
            client.put_object(Bucket=bucket.name, Key="c", Body=BODY)


def test_rules_have_probability_bounds_and_patterns(behind):
    bucket, proxy = behind
    half = proxy.add(slow_down(method="GET", p=0.5, seed=7))
    once = proxy.add(denied(path="list-type", after=1, n=1))
    bucket.put(KEY, b"1")
    outcomes = []
    with closing(bucket.client()) as client:
        for _ in range(40):
            try:
                client.get_object(Bucket=bucket.name, Key=KEY)
                outcomes.append(True)
            except ClientError:
                outcomes.append(False)
    assert half.n_met == outcomes.count(False)
    assert 8 <= outcomes.count(True) <= 32
    proxy.rules = [once]
    listed = []
    with closing(bucket.client()) as client:
        for _ in range(3):
            try:
                client.list_objects_v2(Bucket=bucket.name)
                listed.append(True)
            except ClientError:
                listed.append(False)
    assert listed == [True, False, True]


def test_identities_have_their_rights_and_no_others(s3_bucket):
    def refused(identity, call):
        with closing(s3_bucket.client(identity)) as client:
            try:
                call(client)
            except ClientError as error:
                return error.response["Error"]["Code"]
        return ""

    name = s3_bucket.name
    put, get = (lambda c: c.put_object(Bucket=name, Key="k", Body=b"")), (lambda c: c.get_object(Bucket=name, Key="k"))
    delete, drop = (lambda c: c.delete_object(Bucket=name, Key="k")), (lambda c: c.delete_bucket(Bucket=name))
    assert [refused("converter", call) for call in (put, get, delete, drop)] == ["", "", "AccessDenied", "AccessDenied"]
    assert [refused("reader", call) for call in (put, get, delete)] == ["AccessDenied", "", "AccessDenied"]
    assert [refused("writer", call) for call in (put, delete, drop)] == ["", "", "AccessDenied"]
