"""The committed bytes of ``unit/test_golden.py`` in a bucket of a real S3 server, in one go and resumed."""

from pathlib import Path

import pytest
from golden import KINDS, build_source, committed, digest_of, run
from stopped import StoppedError, stop_after

from zarrmill.io.store_bucket import BucketWriter


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("golden")
    return {kind: build_source(kind, root / kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_store_in_a_bucket_has_the_committed_bytes(sources, s3_bucket, kind):
    assert digest_of(run(kind, sources[kind], s3_bucket.href("stores"), 2)) == committed(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_store_that_was_resumed_in_a_bucket_has_the_committed_bytes(sources, s3_bucket, monkeypatch, kind):
    with monkeypatch.context() as patched:
        stop_after(patched, 9, BucketWriter)
        with pytest.raises(StoppedError):
            run(kind, sources[kind], s3_bucket.href("stores"), 1)
    left = s3_bucket.keys("stores/")
    assert [key for key in left if ".zarr/" in key], "something was there to go on from"
    assert not [key for key in left if key.endswith(".zarr/zarr.json")]
    assert digest_of(run(kind, sources[kind], s3_bucket.href("stores"), 2)) == committed(kind)
