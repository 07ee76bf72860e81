"""The lock of a run, on disk and in a bucket: one driver, refused by name, told when it lost the run, free after its end."""

import json
import time
from pathlib import Path

import pytest
from s3_server import Bucket
from until import until

from zarrmill.config import S3
from zarrmill.errors import StoreError, UnknownStateError
from zarrmill.io import bucket as buckets
from zarrmill.io.lease import Lease
from zarrmill.io.lock import RunLock
from zarrmill.io.places import Place, place_of


@pytest.fixture(params=["disk", "bucket"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "disk":
        return place_of(tmp_path / "run")
    made: Bucket = request.getfixturevalue("s3_bucket")
    buckets.use(S3(lease_s=30.0))  # no stall of this process lets it go stale
    return place_of(made.href("state/run"))


def test_one_holds_a_run_and_others_are_refused_until_it_is_done(run: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    take = Lease.take
    monkeypatch.setattr(Lease, "take", lambda lease, wait_s: take(lease, min(wait_s, 1.0)))
    with RunLock(run).held() as first:
        with pytest.raises(UnknownStateError, match=r"process .*th(is|e) run") as caught:
            RunLock(run).take()
        assert (caught.value.code, caught.value.retryable) == ("ZM-UNK-TAKEN", True)
        first.check()
    with RunLock(run).held():
        pass


def test_a_driver_is_told_once_that_another_one_took_the_run_over(s3_bucket: Bucket) -> None:
    buckets.use(S3(lease_s=2.0))
    told: list[str] = []
    lock = RunLock(place_of(s3_bucket.href("state/run")))
    lock.take(on_lost=told.append)
    s3_bucket.put("state/run/.lock/000002.json", json.dumps({"owner": "another", "entries": {}}).encode())
    until(lambda: told)
    time.sleep(1)
    assert told == [f"{s3_bucket.href('state/run/.lock')}: another process took this run over"]
    with pytest.raises(StoreError, match="took this run over"):
        lock.check()
    lock.release()
    assert s3_bucket.keys("state/run/.lock/") == ["state/run/.lock/000001.json", "state/run/.lock/000002.json"], "it is not ours"


def test_an_outage_is_no_refusal(s3_bucket: Bucket) -> None:
    buckets.use(S3(endpoint_url="http://127.0.0.1:9", retries=0, lease_s=2.0))
    with pytest.raises(UnknownStateError) as caught:
        RunLock(place_of(s3_bucket.href("state/run"))).take()
    assert caught.value.code == "ZM-UNK-OUTAGE"
