"""Rules of a real bucket: read whole, written whole, with our errors. What they should be is decided elsewhere."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from zarrmill.errors import StoreError
from zarrmill.io import bucket as buckets
from zarrmill.model import Json

NONE_YET = frozenset({"NoSuchLifecycleConfiguration", "NoSuchCORSConfiguration", "NoSuchBucketPolicy"})
NOT_KNOWN = frozenset({"NotImplemented", "MethodNotAllowed"})
"""What a service answers that has no such rules."""

SENTINEL = ".once"
"""Object below a prefix of ours with which a service is asked whether it honours conditions."""

KINDS = ("lifecycle", "cors", "policy")
"""Lists of rules that a bucket has."""


class NotKnownError(StoreError):
    """The service has no such rules."""


def read_versioning(bucket: str) -> bool:
    """Return whether the bucket keeps what is overwritten and deleted.

    Raises: UnknownStateError: no answer; StoreError: access denied, no such bucket; NotKnownError: a service without versions.
    """
    with _reading(bucket, "versioning"):
        return bool(buckets.client(bucket).get_bucket_versioning(Bucket=bucket).get("Status") == "Enabled")


def read_list(bucket: str, kind: str) -> list[dict[str, Json]]:
    """Return the rules of one of ``KINDS``; none when there are none.

    Some services do not look at what they are asked beside the bucket and answer with a listing of its objects: no rules are in
    that, which is another thing than none.
    Raises: as ``read_versioning``.
    """
    client = buckets.client(bucket)
    asked: dict[str, Callable[[], list[dict[str, Json]]]] = {
        "lifecycle": lambda: list(client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]),
        "cors": lambda: list(client.get_bucket_cors(Bucket=bucket)["CORSRules"]),
        "policy": lambda: _statements(client.get_bucket_policy(Bucket=bucket)["Policy"]),
    }
    with _reading(bucket, kind):
        try:
            return asked[kind]()
        except buckets.failures() as error:
            if _code(error) in NONE_YET:
                return []
            raise
        except (KeyError, ValueError) as error:
            text = f"s3://{bucket}: {kind}: the answer holds no rules, so the service does not know it; set it up in its own way"
            raise NotKnownError(text, kind="denied") from error


def overwrites(bucket: str, prefix: str) -> str:
    """Return how the service fails to honour ``If-None-Match: *``; empty when it refuses to write an object twice.

    An object of ours is written on that condition until the service refuses. It stays, so later questions cost one request.
    Raises: UnknownStateError: no answer; StoreError: access denied, no such bucket.
    """
    key, body = f"{prefix}{SENTINEL}", b"Written once. That it cannot be written again is asked before every run.\n"
    with _reading(bucket, key):
        for _ in range(2):
            try:
                buckets.client(bucket).put_object(Bucket=bucket, Key=key, Body=body, IfNoneMatch="*")
            except buckets.failures() as error:
                reason, text = buckets.reason_of(error)
                if reason == "exists":
                    return ""
                if reason == "refused" or _code(error) in NOT_KNOWN:
                    return f"the service refuses If-None-Match ({text})"
                raise
    return "the service ignores If-None-Match: *"


def enable_versioning(bucket: str) -> None:
    """Let the bucket keep what is overwritten and deleted. Raises: StoreError."""
    with buckets.writing(f"s3://{bucket}"):
        buckets.client(bucket).put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})


def write_list(bucket: str, kind: str, rules: Sequence[Json]) -> None:
    """Replace the rules of one of ``KINDS``; none removes them. Raises: StoreError."""
    client = buckets.client(bucket)
    with buckets.writing(f"s3://{bucket}"):
        if kind == "lifecycle" and rules:
            client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": list(rules)})
        elif kind == "lifecycle":
            client.delete_bucket_lifecycle(Bucket=bucket)
        elif kind == "cors" and rules:
            client.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": list(rules)})
        elif kind == "cors":
            client.delete_bucket_cors(Bucket=bucket)
        elif rules:
            document = {"Version": "2012-10-17", "Statement": list(rules)}
            client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(document))
        else:
            client.delete_bucket_policy(Bucket=bucket)


def _statements(policy: str) -> list[dict[str, Json]]:
    found = json.loads(policy).get("Statement", [])
    return found if isinstance(found, list) else [found]


@contextmanager
def _reading(bucket: str, what: str) -> Iterator[None]:
    """Tell a refusal, about which someone can do something, from an outage."""
    place = f"s3://{bucket}: {what}"
    with buckets.asking(place):
        try:
            yield
        except buckets.failures() as error:
            reason, _ = buckets.reason_of(error)
            if reason in ("denied", "clock", "bucket"):
                raise buckets.write_failure(error, place) from error
            if _code(error) in NOT_KNOWN:
                raise NotKnownError(f"{place}: the service does not know it; set it up in its own way", kind="denied") from error
            raise


def _code(error: Exception) -> str:
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
