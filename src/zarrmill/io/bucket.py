"""Object storage: the one place where clients for buckets are made, and where their errors become ours.

A process says once how its buckets are reached (``use``); every client follows, whichever library it is of. Credentials come
from the standard chain (environment, shared configuration, web identity, instance) and from nowhere else.
"""

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from zarrmill.config import S3
from zarrmill.errors import ConfigError, StoreError, UnknownStateError
from zarrmill.model import Json

if TYPE_CHECKING:
    from obstore.store import S3Store

Reason = Literal["denied", "clock", "bucket", "region", "absent", "exists", "outage", "refused"]
"""Why a request to a bucket failed.

``denied``: credentials or rights; ``clock``: this machine's clock is too far from the service's; ``bucket``: there is no such
bucket; ``region``: it is in another region; ``absent``: there is certainly no such object (or upload); ``exists``: a condition
of a conditional write does not hold; ``outage``: it may pass; ``refused``: it will not.
"""

CLOCK_WRONG = "RequestTimeTooSkewed"
"""Code of the answer of a service whose clock differs too much from that of this machine."""

_DENIED = {"ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed"}
_ELSEWHERE = re.compile(
    "PermanentRedirect|IllegalLocationConstraintException|redirect without LOCATION|Moved Permanently|maximum recursion depth"
)
"""Codes and words for a bucket that is in another region than it was asked for in; the last are boto3's where none is told."""
_PERHAPS_ELSEWHERE = re.compile(r"AuthorizationHeaderMalformed|400 Bad Request: *(\n|$)|\(400\)")
"""The same, where the answer tells which region, or is to a HEAD and tells nothing."""
_REGION = re.compile(r"<Region>([\w-]+)</Region>|expecting '([\w-]+)'|The (?!unspecified)([\w-]+) location constraint")
"""A region in an answer."""
_ABSENT = {"NoSuchKey", "NoSuchUpload", "404", "NotFound"}
_PASSING = {"SlowDown", "RequestTimeout", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "OperationAborted"}

_KEYS_FOR = timedelta(minutes=5)
"""Time after which obstore asks for keys again. botocore renews keys that end in ten minutes, so none ends meanwhile."""

_settings = S3()


def use(settings: S3) -> None:
    """Reach buckets by ``settings`` from now on, in the whole process."""
    global _settings
    _settings = settings
    _client.cache_clear()
    _shared_store.cache_clear()
    _credentials.cache_clear()
    _check_there.cache_clear()


def settings() -> S3:
    """Return how buckets are reached."""
    return _settings


def split(href: str) -> tuple[str, str]:
    """Return bucket and key (or prefix, without slashes at its ends) of an ``s3://`` address.

    Raises: ValueError: it is none.
    """
    parts = urlsplit(href)
    if parts.scheme != "s3" or not parts.netloc:
        raise ValueError(f"{href}: not s3://bucket/key")
    return parts.netloc, href.split("://", 1)[1].partition("/")[2].strip("/")


def client(bucket: str, *, timeout_s: float | None = None, retries: int | None = None) -> Any:  # made by boto3 at run time
    """Return the boto3 client that reaches ``bucket``; shared by the threads of this process."""
    silent = _settings.timeout_s if timeout_s is None else timeout_s
    return _client(os.getpid(), bucket, silent, _settings.retries if retries is None else retries)


@cache
def _client(pid: int, bucket: str, timeout_s: float, retries: int) -> Any:  # no connection is shared with a fork: hence ``pid``
    import botocore
    from botocore.config import Config

    place = _settings.of(bucket)
    config = Config(
        retries={"mode": "standard", "total_max_attempts": retries + 1},
        s3={"addressing_style": place.addressing},
        connect_timeout=min(_settings.connect_timeout_s, timeout_s),
        read_timeout=timeout_s,
        max_pool_connections=_settings.max_concurrency + 4,
        tcp_keepalive=True,
        request_checksum_calculation=_settings.checksums,
        response_checksum_validation=_settings.checksums,
        **({"signature_version": botocore.UNSIGNED} if place.anonymous else {}),
    )
    return _session(place.profile).client("s3", endpoint_url=endpoint_url(bucket), region_name=region(bucket), config=config)


def _session(profile: str | None) -> Any:  # boto3 has no types
    import boto3

    return boto3.session.Session(profile_name=profile)


def endpoint_url(bucket: str) -> str | None:
    """Return the address of the service that holds ``bucket``; None is Amazon's."""
    chosen = _settings.of(bucket).endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return chosen.rstrip("/") if chosen else None


def region(bucket: str) -> str:
    """Return the region of ``bucket``."""
    found = _settings.of(bucket).region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return found or "us-east-1"


def object_store(bucket: str, prefix: str = "", *, timeout_s: float | None = None, retries: int | None = None) -> "S3Store":
    """Return the obstore store for the keys below ``prefix``.

    It asks again once and soon, so that one page does not cost a whole listing, nor one break a whole body; who uses it is
    patient (``io.patience``).
    """
    from obstore.store import S3Store

    place, url = _settings.of(bucket), endpoint_url(bucket)
    options: dict[str, Any] = {"region": region(bucket), "virtual_hosted_style_request": place.addressing == "virtual"}
    if url:
        scheme, _, host = url.partition("://")
        # obstore takes the address as it is to be called; boto3 puts the bucket in front itself.
        options["endpoint"] = f"{scheme}://{bucket}.{host}" if place.addressing == "virtual" else url
    if place.anonymous:
        options["skip_signature"] = True
    else:
        options["credential_provider"] = _credentials(place.profile)
    tries = _settings.retries if retries is None else retries
    return S3Store(bucket, prefix=prefix or None, **options, **transport(timeout_s, min(tries, 1)))


def shared_store(bucket: str) -> "S3Store":
    """Return the obstore store of a whole bucket; shared by the threads of this process."""
    return _shared_store(os.getpid(), bucket)


@cache
def _shared_store(pid: int, bucket: str) -> "S3Store":  # as for _client
    return object_store(bucket)


def check_there(bucket: str) -> None:
    """Make sure, once a process, that ``bucket`` can be listed: a key that is absent from it is then absent.

    Raises: UnknownStateError: there is no such bucket, or it cannot be asked.
    """
    _check_there(os.getpid(), bucket)


@cache
def _check_there(pid: int, bucket: str) -> None:  # as for _client; an exception is not kept
    with asking(f"s3://{bucket}"):
        client(bucket).list_objects_v2(Bucket=bucket, MaxKeys=1)


def clock(bucket: str) -> float:
    """Return the time of the service that holds ``bucket``, seconds since the epoch; that of this machine when it tells none.

    Raises: UnknownStateError: it cannot be asked.
    """
    with asking(f"s3://{bucket}"):
        answer = client(bucket).list_objects_v2(Bucket=bucket, MaxKeys=1)
    return server_time(answer) or time.time()


def server_time(answer: Mapping[str, Any]) -> float | None:  # an answer of boto3
    """Return when the service says that it gave an answer, seconds since the epoch; None when it does not say."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date).timestamp() if date else None


def transport(timeout_s: float | None, retries: int) -> dict[str, Any]:  # options of obstore's stores
    """Return timeouts and obstore's own retries, which come one soon after the other, for an obstore store.

    A connection may be silent for ``timeout_s``; a request that goes on may take as long as it needs.
    """
    silent = timedelta(seconds=_settings.timeout_s if timeout_s is None else timeout_s)
    connect = timedelta(seconds=_settings.connect_timeout_s)
    return {
        "client_options": {"timeout": "1 day", "read_timeout": silent, "connect_timeout": connect, "allow_http": True},
        "retry_config": {"max_retries": retries, "retry_timeout": timedelta(minutes=4)},
    }


@cache
def _credentials(profile: str | None) -> Any:  # obstore's protocol of a provider
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        return Boto3CredentialProvider(_session(profile), ttl=_KEYS_FOR)
    except ValueError:
        raise StoreError("no credentials for S3; set them by environment, profile or web identity", kind="denied") from None


def gdal_options(bucket: str) -> dict[str, str]:
    """Return the configuration with which GDAL reaches ``bucket`` under ``/vsis3/``."""
    place, url = _settings.of(bucket), endpoint_url(bucket)
    options = {"AWS_REGION": region(bucket), "AWS_VIRTUAL_HOSTING": "TRUE" if place.addressing == "virtual" else "FALSE"}
    if url:
        parts = urlsplit(url)
        options |= {"AWS_S3_ENDPOINT": parts.netloc + parts.path, "AWS_HTTPS": "YES" if parts.scheme == "https" else "NO"}
    if place.profile:
        options["AWS_PROFILE"] = place.profile
    return options | ({"AWS_NO_SIGN_REQUEST": "YES"} if place.anonymous else {})


def storage_scheme(href: str) -> dict[str, Json]:
    """Return the storage scheme (STAC storage extension 2.0) of an ``s3://`` address, empty for any other.

    A region that is not set is left out.
    """
    if urlsplit(href).scheme != "s3":
        return {}
    bucket, _ = split(href)
    url = endpoint_url(bucket)
    scheme: dict[str, Json] = {
        "type": "custom-s3" if url else "aws-s3",
        "platform": url or "https://{bucket}.s3.{region}.amazonaws.com",
        "bucket": bucket,
    }
    known = _settings.of(bucket).region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return {**scheme, "region": known} if known else scheme


def read(client: Any, bucket: str, key: str) -> bytes:  # a boto3 client
    """Return one small object; an answer that breaks off in its body, which boto3 does not ask for again, is asked for again.

    Raises: ClientError, BotoCoreError: as boto3.
    """
    import tenacity
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    for attempt in tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((IncompleteReadError, ReadTimeoutError, ResponseStreamingError)),
        stop=tenacity.stop_after_attempt(_settings.retries + 1),
        wait=tenacity.wait_random_exponential(0.1, 20),
        reraise=True,
    ):
        with attempt:
            return bytes(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    raise AssertionError("tenacity returns or raises")


def reason_of(error: Exception) -> tuple[Reason, str]:
    """Return why a request of boto3 failed, and its words on one line."""
    from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError, ProfileNotFound, TokenRetrievalError

    text = " ".join(str(error).split())[:300]
    if isinstance(error, NoCredentialsError | PartialCredentialsError | ProfileNotFound | TokenRetrievalError):
        return "denied", text
    if isinstance(error, FileNotFoundError | PermissionError):
        return "denied", text  # a file with credentials
    if not isinstance(error, ClientError):
        return "outage", text  # no answer: refused, reset, timed out
    if is_elsewhere(error):
        return "region", text
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "NoSuchBucket":
        return "bucket", text
    if code in _ABSENT:
        return "absent", text
    if code.startswith("BucketAlready"):  # a service that takes what it does not know for the wish to make a bucket
        return "refused", text
    if status in (409, 412):
        return "exists", text
    if code == CLOCK_WRONG:
        return "clock", text
    if status in (401, 403) or code in _DENIED:
        return "denied", text
    passes = (status >= 500 and status != 501) or status == 429 or code in _PASSING
    return ("outage" if passes else "refused"), text


def is_elsewhere(error: Exception) -> bool:
    """Return whether an answer means that its bucket is in another region; one of boto3, or one that obstore tells in words."""
    text = str(error)
    return bool(_ELSEWHERE.search(text) or (_PERHAPS_ELSEWHERE.search(text) and _told_region(error)))


def wrong_region(place: str, error: Exception) -> ConfigError | None:
    """Return our error for a bucket that is in another region than it was asked for in; None where the error means another thing.

    Where obstore does not say which region it is, the service is asked. Args: place: address, for the message.
    """
    found = re.match(r"s3://([^/:]+)", place)
    if not found or not (_ELSEWHERE.search(str(error)) or _PERHAPS_ELSEWHERE.search(str(error))):
        return None
    name = found[1]
    told = _told_region(error) or ("" if hasattr(error, "response") else _asked_region(name))
    if not told and not _ELSEWHERE.search(str(error)):
        return None
    what = f"is in region {told}, and was" if told else "is in another region than it was"
    return ConfigError(f"{place}: the bucket {what} asked for in {region(name)}; set s3.region, or its own below s3.buckets")


def _told_region(error: Exception) -> str:
    headers = (getattr(error, "response", None) or {}).get("ResponseMetadata", {}).get("HTTPHeaders", {})
    found = _REGION.search(str(error))
    return str(headers.get("x-amz-bucket-region", "")) or next(filter(None, found.groups() if found else ()), "")


def _asked_region(name: str) -> str:
    try:
        answer = client(name).list_objects_v2(Bucket=name, MaxKeys=1)  # boto3 goes to the right region by itself where it can
    except failures() as error:
        return _told_region(error)
    return str(answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", ""))


def n_repeated(error: Exception) -> int:
    """Return how often boto3 had sent the request before the try that ended with this error."""
    response = getattr(error, "response", {})
    return int(response.get("ResponseMetadata", {}).get("RetryAttempts", 0))


_ADVICE = {
    "denied": "access denied ({}); check credentials and rights",
    "clock": "the clock of this machine is wrong ({}); set it, then run again",
    "bucket": "there is no such bucket ({}); check the address and s3.endpoint_url, or create it",
    "region": "the bucket is in another region ({}); set s3.region",
    "absent": "not there any more ({}); run again",
    "exists": "written by another process meanwhile ({}); run again",
    "outage": "no answer ({}); run again",
    "refused": "the service refuses the request ({}); check the settings below s3",
}
_KINDS = {"denied": "denied", "clock": "denied", "bucket": "bucket", "region": "denied", "refused": "denied"}


@contextmanager
def writing(place: str) -> Iterator[None]:
    """Translate what boto3 raises while a store is written; ``place`` is for the message.

    Raises: StoreError: ``denied``, ``bucket``, or ``lost`` where the same may succeed later; ConfigError: the region is wrong.
    """
    try:
        yield
    except failures() as error:
        raise write_failure(error, place) from error


def write_failure(error: Exception, place: str) -> StoreError | ConfigError:
    """Return our error for a write to a bucket that failed."""
    reason, text = reason_of(error)
    return wrong_region(place, error) or StoreError(f"{place}: {_ADVICE[reason].format(text)}", kind=_KINDS.get(reason, "lost"))


@contextmanager
def asking(place: str) -> Iterator[None]:
    """Translate what boto3 raises while it is asked what there is: no failure is ever taken for an answer.

    Raises: UnknownStateError: it cannot be told; ConfigError: the region is wrong.
    """
    try:
        yield
    except failures() as error:
        reason, text = reason_of(error)
        unknown = UnknownStateError(f"{place}: {_ADVICE[reason].format(text)}; nothing was decided", kind="outage")
        raise (wrong_region(place, error) or unknown) from error


def failures() -> tuple[type[Exception], ...]:
    """Return the roots of what boto3 raises: its own errors, and ``OSError`` where a file with credentials cannot be read.

    ``RecursionError`` where it follows a redirect to a region that no answer names.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return (BotoCoreError, ClientError, Boto3Error, OSError, RecursionError)
