"""Uploading objects that grow: parts leave as soon as they are full, and an object is visible once it is whole.

Bytes are sent by a pool of threads; whoever appends waits only while ``max_concurrency`` requests are under way, so the memory
that is on its way out is bounded. Small objects go in one request, larger ones as multipart uploads with parts of equal size.
Every transfer carries a checksum that the server verifies, and the entity tag of its answer is compared with our own.
"""

import base64
import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from zarrmill.errors import StoreError
from zarrmill.io import bucket as buckets
from zarrmill.io.logs import logger
from zarrmill.io.written import Written


class Uploads:
    """Objects on their way to the keys below one prefix."""

    def __init__(self, bucket: str, prefix: str, check: Callable[[], None], storage_class: str | None = None) -> None:
        """``check`` is called before each request and raises when this process must not write any more.

        ``storage_class`` of the objects; None is that of the settings.
        """
        self.bucket, self.prefix, self._check = bucket, prefix, check
        self.settings = buckets.settings()
        self._class = storage_class or self.settings.storage_class
        self.client = buckets.client(bucket)
        self._pool = ThreadPoolExecutor(self.settings.max_concurrency, thread_name_prefix="upload")
        # As many places as threads: no task ever queues, so one may wait for another that was submitted before it.
        self._places = threading.BoundedSemaphore(self.settings.max_concurrency)
        self._lock = threading.Lock()
        self._under_way: set[Future[Any]] = set()
        self._ends: dict[str, Future[str]] = {}
        self._failure: BaseException | None = None
        self._open: dict[str, str] = {}

    def sink(self, key: str) -> "Upload":
        """Begin an object."""
        return Upload(self, key)

    def tag(self, written: Written) -> str:
        """Wait until an object is whole and visible, and return its entity tag.

        Raises: StoreError: its upload failed.
        """
        end = self._ends.get(written.key)
        return end.result() if end else written.etag

    def wait(self) -> None:
        """Wait until nothing is under way.

        Raises: StoreError: an upload failed.
        """
        while under_way := set(self._under_way):
            wait(under_way)
        self._raise()

    def close(self) -> None:
        """Let what is under way end, abort what is not complete, and stop the threads. Never raises for the service."""
        self._pool.shutdown(wait=True)
        for key, upload_id in list(self._open.items()):
            self.abort(key, upload_id)

    def abort(self, key: str, upload_id: str) -> bool:
        """Throw the parts of an upload away; return whether the service did so."""
        try:
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=f"{self.prefix}/{key}", UploadId=upload_id)
        except buckets.failures() as error:
            return buckets.reason_of(error)[0] == "absent"
        self._open.pop(key, None)
        return True

    def submit[R](self, work: Callable[..., R], *arguments: Any) -> "Future[R]":
        """Run ``work`` beside what else is under way; wait for a free place first.

        Raises: StoreError: an earlier upload failed, or this process must not write any more.
        """
        self._places.acquire()
        try:
            self._raise()
            future = self._pool.submit(self._run, work, arguments)
        except BaseException:
            self._places.release()
            raise
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    def _run(self, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        try:
            return work(*arguments)
        except BaseException as error:
            with self._lock:
                self._failure = self._failure or error
            raise
        finally:
            self._places.release()

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def call(self, operation: str, key: str, **arguments: Any) -> Any:  # boto3's answers are dictionaries
        """Send one request about one object.

        Raises: StoreError: it failed for good, see ``bucket.writing``.
        """
        self._check()
        with buckets.writing(f"s3://{self.bucket}/{self.prefix}/{key}"):
            return getattr(self.client, operation)(Bucket=self.bucket, Key=f"{self.prefix}/{key}", **arguments)

    def send(self, operation: str, key: str, data: bytes, digest: bytes, **arguments: Any) -> str:
        """Send bytes with their checksum; return the entity tag. ``digest`` is their md5.

        Raises: StoreError: as ``call``, or the server holds other bytes.
        """
        answer = self.call(operation, key, Body=data, **self.protection(digest), **arguments)
        return self._same(key, answer, digest.hex())

    def _same(self, key: str, answer: Any, expected: str) -> str:
        etag = str(answer["ETag"]).strip('"')
        # With keys of the service's own the tag is no digest; then the checksum that went with the bytes has to do.
        if etag != expected and not str(answer.get("ServerSideEncryption", "")).startswith("aws:kms"):
            place = f"s3://{self.bucket}/{self.prefix}/{key}"
            if "-" in expected and "-" not in etag:  # not a wrong digest of the parts but none
                raise StoreError(
                    f"{place}: entity tag {etag}, expected {expected}: the service does not tag what came in parts by its parts, "
                    "so it cannot be checked; raise s3.part_mb above the size of shards, or use another service",
                    kind="denied",
                )
            raise StoreError(f"{place}: entity tag {etag}, expected {expected}; run again", kind="lost")
        return etag

    def protection(self, digest: bytes) -> dict[str, str]:
        """Return the arguments that let the server verify bytes with this md5; boto3 adds its own where they are wanted."""
        return {"ContentMD5": base64.b64encode(digest).decode()} if self.settings.checksums == "when_required" else {}

    def storage(self) -> dict[str, str]:
        """Return the arguments that new objects are made with."""
        return {"StorageClass": self._class} if self._class else {}

    def put(self, key: str, data: bytes) -> str:
        """Write one object in one request and return its entity tag."""
        return self.send("put_object", key, data, md5(data), **self.storage())

    def begin(self, key: str) -> str:
        """Begin a multipart upload and return its id."""
        upload_id = str(self.call("create_multipart_upload", key, **self.storage())["UploadId"])
        self._open[key] = upload_id
        return upload_id

    def complete(self, key: str, upload_id: str, parts: "list[Future[str]]", expected: str) -> str:
        """Make an object of its parts once all have arrived, and return its entity tag."""
        tags = [{"PartNumber": number, "ETag": part.result()} for number, part in enumerate(parts, 1)]
        self._check()
        place = f"s3://{self.bucket}/{self.prefix}/{key}"
        with buckets.writing(place):
            try:
                arguments = {"UploadId": upload_id, "MultipartUpload": {"Parts": tags}}
                answer = self.client.complete_multipart_upload(Bucket=self.bucket, Key=f"{self.prefix}/{key}", **arguments)
            except buckets.failures() as error:
                if buckets.reason_of(error)[0] != "absent":
                    raise
                # The answer to an earlier try was lost: the upload is gone because it was completed.
                answer = self.client.head_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}")
        self._open.pop(key, None)
        return self._same(key, answer, expected)

    def end(self, key: str, work: Callable[..., str], *arguments: Any) -> None:
        """Submit what makes an object visible."""
        self._ends[key] = self.submit(work, *arguments)


class Upload:
    """One object that grows by appending; it is sent in the background."""

    def __init__(self, uploads: Uploads, key: str) -> None:
        self.key, self.n_bytes = key, 0
        self._uploads, self._part_bytes = uploads, uploads.settings.part_mb << 20
        self._buffer = bytearray()
        self._sha = hashlib.sha256()
        self._id: str | None = None
        self._parts: list[Future[str]] = []
        self._digests: list[bytes] = []

    @property
    def sha256(self) -> str:
        """Digest of what was appended so far."""
        return self._sha.hexdigest()

    def append(self, data: bytes) -> None:
        """Add ``data`` at the end.

        Raises: StoreError: this or another upload of the store failed.
        """
        self._buffer += data
        self._sha.update(data)
        self.n_bytes += len(data)
        while len(self._buffer) >= self._part_bytes:
            with memoryview(self._buffer) as view:
                part = bytes(view[: self._part_bytes])
            del self._buffer[: self._part_bytes]
            self._send(part)

    def _send(self, part: bytes) -> None:
        if self._id is None:
            self._id = self._uploads.begin(self.key)
        digest = md5(part)
        self._digests.append(digest)
        arguments = {"UploadId": self._id, "PartNumber": len(self._digests)}
        self._parts.append(self._uploads.submit(lambda: self._uploads.send("upload_part", self.key, part, digest, **arguments)))

    def close(self) -> Written:
        """End the object; it becomes visible when its last part has arrived (``Uploads.wait``, ``Uploads.tag``).

        Raises: as ``append``.
        """
        rest, self._buffer = bytes(self._buffer), bytearray()
        if self._id is None:
            etag = md5(rest).hex()
            self._uploads.end(self.key, self._uploads.put, self.key, rest)
        else:
            if rest:
                self._send(rest)
            etag = f"{md5(b''.join(self._digests)).hex()}-{len(self._digests)}"
            self._uploads.end(self.key, self._uploads.complete, self.key, self._id, self._parts, etag)
        return Written(self.key, self.n_bytes, self.sha256, etag)

    def release(self) -> None:
        """Forget an object that will not be finished; ``Uploads.close`` aborts what was sent of it."""
        self._buffer = bytearray()


def abort_open(bucket: str, prefix: str) -> None:
    """Throw away uploads below ``prefix`` that were never completed; a service that refuses is told of, no more."""
    client, place = buckets.client(bucket), f"s3://{bucket}/{prefix}"
    try:
        pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        left = [(item["Key"], item["UploadId"]) for page in pages for item in page.get("Uploads", ())]
    except buckets.failures() as error:
        logger().warning("open uploads not listed", place=place, reason=str(error)[:300])
        return
    for key, upload_id in left:
        try:
            client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
        except buckets.failures() as error:
            if buckets.reason_of(error)[0] != "absent":
                logger().warning("open uploads not aborted", place=place, n=len(left), first=key)
                return


def md5(data: bytes) -> bytes:
    """Return the digest that entity tags and Content-MD5 are made of."""
    return hashlib.md5(data, usedforsecurity=False).digest()
