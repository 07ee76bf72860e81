"""Places: on disk and in a bucket of a real server, with one behaviour."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_run import fake_products
from fault_proxy import FaultProxy, Rule, denied, no_bucket, wrong_clock
from s3_server import Bucket

from zarrmill.config import S3
from zarrmill.errors import StoreError, UnknownStateError
from zarrmill.io import bucket as buckets
from zarrmill.io.listing import Listing
from zarrmill.io.manifest import write_manifest
from zarrmill.io.places import Place, place_of, together
from zarrmill.io.progress import ProgressFile, collect_progress, read_heartbeats
from zarrmill.io.state import State
from zarrmill.runs.part import Part

Proxied = Callable[[str], FaultProxy]


@pytest.fixture(params=["disk", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place where nothing is yet."""
    if request.param == "disk":
        return place_of(tmp_path / "state")
    return place_of(request.getfixturevalue("s3_bucket").href("state"))


def test_what_is_written_is_read_and_what_is_not_there_is_missing(root: Place) -> None:
    place = root / "run" / "a.json"
    assert not place.exists()
    with pytest.raises(FileNotFoundError, match=r"a\.json"):
        place.read_bytes()
    place.write_text("grün\n")
    assert place.exists()
    assert place.read_bytes() == b"gr\xc3\xbcn\n"
    assert place.read_text() == "grün\n"
    place.write_bytes(b"")
    assert place.read_bytes() == b""
    place.unlink()
    place.unlink()
    assert not place.exists()


@pytest.mark.parametrize("kind", ["refuse", "lost", "answer"])
def test_creating_goes_on_after_a_broken_connection_and_knows_its_own_object(
    s3_bucket: Bucket, proxied: Proxied, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    proxy = proxied(s3_bucket.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    place = place_of(s3_bucket.href("state/a"))
    rule = proxy.add(Rule(kind=kind, method="PUT", n=2))
    assert place.create(b"one")
    assert rule.n_met == 2
    proxy.add(Rule(kind="refuse", method="PUT", n=1))
    assert not place.create(b"two"), "another one's object is not ours, also when it was asked for twice"
    assert not place.create(b"one"), "what was there before is not ours"
    assert place.read_bytes() == b"one"


@pytest.mark.parametrize("kind", ["cut", "reset"])
def test_a_listing_whose_answer_breaks_off_is_asked_for_again(
    s3_bucket: Bucket, proxied: Proxied, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    place = place_of(s3_bucket.href("state/run/a"))
    place.write_bytes(b"one")
    proxy = proxied(s3_bucket.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    buckets.use(S3(retries=2))
    rule = proxy.add(Rule(kind=kind, method="GET", n_bytes=30, n=2))
    assert [found.name for found, _ in Listing(place.parent.parent).below(place.parent.parent)] == ["a"]
    assert rule.n_met == 2
    rule = proxy.add(Rule(kind=kind, method="GET", n_bytes=30, n=1))
    assert not (place.parent / "b").exists()
    assert rule.n_met == 1
    rule = proxy.add(Rule(kind=kind, method="GET", n_bytes=30, n=1))
    with pytest.raises(FileNotFoundError):
        (place.parent / "b").read_bytes()
    assert rule.n_met == 1
    proxy.add(Rule(kind=kind, method="GET", n_bytes=30))
    with pytest.raises(UnknownStateError):
        Listing(place.parent).files(place.parent)


def test_the_same_content_is_not_written_again(root: Place) -> None:
    place = root / "a"
    assert place.write_changed(b"one")
    assert not place.write_changed(b"one")
    assert place.write_changed(b"two")
    assert place.read_bytes() == b"two"


def test_of_many_that_create_one_object_one_wins(root: Place) -> None:
    place, barrier, won = root / "folder" / "a", threading.Barrier(8), []

    def create(number: int) -> None:
        barrier.wait()
        if place.create(b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert place.read_bytes() == b"%d" % won[0]
    assert list(Listing(root).files(root / "folder")) == ["a"], "nothing half-written stays"


def test_listing_knows_files_and_folders_at_every_depth(root: Place) -> None:
    for key in ("top", "one/2/b", "one/2/a", "one/2-3/c", "two/d"):
        (root / key).write_text(key)
    listing = Listing(root)
    assert listing.folders(root) == ["one", "two"]
    assert list(listing.files(root)) == ["top"]
    assert listing.folders(root / "one") == ["2", "2-3"]
    assert list(listing.files(root / "one" / "2")) == ["a", "b"]
    assert list(listing.files(root / "one" / "nothing")) == []
    assert list(listing.files(root / "nothing" / "at" / "all")) == []
    assert [place.key_in(root) for place, _ in listing.below(root)] == ["top", "one/2/a", "one/2/b", "one/2-3/c", "two/d"]
    found = listing.get(root / "one/2/b")
    assert found is not None
    assert (found.size, listing.get(root / "one/2/x"), listing.get(root / "one/2")) == (7, None, None)
    (root / "later").write_text("")
    assert listing.get(root / "later") is None, "a listing says how it was when first asked"


def test_listing_tells_equal_content(root: Place) -> None:
    (root / "a").write_text("content")
    listing = Listing(root)
    assert listing.holds(root / "a", b"content")
    assert not listing.holds(root / "a", b"CONTENT")
    assert not listing.holds(root / "a", b"more content")
    assert not listing.holds(root / "b", b"")


def test_nothing_there_lists_as_empty(root: Place) -> None:
    listing = Listing(root / "never")
    assert (listing.folders(root / "never"), dict(listing.files(root / "never" / "a")), list(listing.below(root / "never"))) == (
        [],
        {},
        [],
    )


def test_listing_in_a_bucket_costs_one_request_a_thousand_objects(s3_bucket: Bucket, proxied: Proxied) -> None:
    root = place_of(s3_bucket.href("state/run"))
    places = [
        root / "collection" / f"{day}" / "convert" / f"{n:03d}.json" for day in range(20250101, 20250111) for n in range(110)
    ]
    for _ in together(lambda place: place.write_text("{}"), places, 32):
        pass
    proxy = proxied(s3_bucket.url)
    buckets.use(S3(endpoint_url=proxy.url))
    listing = Listing(root)
    for place in places:
        assert listing.get(place), place
        assert listing.holds(place, b"{}")
    assert proxy.count() == 2


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (denied(), "access denied"),
        (no_bucket(), "no such bucket"),
        (wrong_clock(), "clock of this machine is wrong|access denied"),  # the answer to HEAD has no words
        (Rule(kind="answer", status=400, code="InvalidRequest"), "the service refuses the request .*400"),
        (Rule(kind="answer", status=400, code="ExpiredToken"), "access denied|refuses"),  # as the clock
        (Rule(kind="refuse"), "no answer"),
        (Rule(kind="answer", status=500, code="InternalError"), "no answer"),
    ],
)
def test_an_outage_is_never_an_absence(s3_bucket: Bucket, proxied: Proxied, rule: Rule, words: str) -> None:
    place = place_of(s3_bucket.href("state/a.json"))
    place.write_text("{}")
    proxy = proxied(s3_bucket.url)
    buckets.use(S3(endpoint_url=proxy.url, retries=0))
    assert place.exists()
    proxy.add(rule)
    for ask in (place.exists, place.read_bytes, lambda: Listing(place.parent).get(place)):
        with pytest.raises(UnknownStateError, match=words):
            ask()
    for write in (lambda: place.write_text("new"), lambda: place.create(b"new"), place.unlink):
        with pytest.raises(StoreError, match=r"s3://.*/a\.json"):
            write()
    proxy.clear()
    assert place.read_text() == "{}"


def test_a_refusal_of_a_write_is_no_outage(s3_bucket: Bucket, proxied: Proxied) -> None:
    proxy = proxied(s3_bucket.url)
    buckets.use(S3(endpoint_url=proxy.url))
    proxy.add(Rule("answer", status=400, code="InvalidRequest"))
    with pytest.raises(StoreError, match="refuses the request") as caught:
        place_of(s3_bucket.href("state/a.json")).write_text("{}")
    assert caught.value.code == "ZM-STO-DENIED"
    assert proxy.count() == 1


def test_an_outage_of_seconds_is_survived_with_the_settings_that_are_the_default(s3_bucket: Bucket, proxied: Proxied) -> None:
    place = place_of(s3_bucket.href("state/run/a.json"))
    place.write_text("{}")
    proxy = proxied(s3_bucket.url)
    buckets.use(S3(endpoint_url=proxy.url))
    asks: list[Callable[[], object]] = [
        place.exists,
        place.read_bytes,
        lambda: Listing(place.parent).get(place),
        lambda: place.write_text("{}"),
    ]
    proxy.add(Rule("answer", status=503, retry_after="2"))
    timer = threading.Timer(3, proxy.clear)
    timer.start()
    try:
        assert all(answer is not False for answer in together(lambda ask: ask(), asks, len(asks)))
    finally:
        timer.cancel()
        timer.join()


def test_a_state_that_cannot_be_asked_for_lack_of_credentials_is_unknown(
    s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    buckets.use(S3(endpoint_url=s3_bucket.url))
    place = place_of(s3_bucket.href("state/a.json"))
    for ask in (place.exists, place.read_bytes, lambda: Listing(place.parent).get(place)):
        with pytest.raises(UnknownStateError, match="no credentials for S3"):
            ask()
    with pytest.raises(StoreError, match="no credentials for S3"):
        place.write_text("{}")


def test_the_age_of_a_heartbeat_in_a_bucket_is_told_by_the_clock_of_the_bucket(
    s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, product = State(place_of(s3_bucket.href("state/run"))), fake_products(1)[0]
    tick = ProgressFile(state.progress(product), "convert", product.name, lambda: time.time() - 7200)
    tick.write()
    tick.flush()
    right = time.time
    with monkeypatch.context() as wrong:
        wrong.setattr(time, "time", lambda: right() + 7200)
        assert abs(state.root.now() - right()) < 60
        (beat,) = read_heartbeats(state)
        assert not beat.dead(state.root.now())
    assert abs(beat.updated - right()) < 60


def test_a_heartbeat_that_cannot_be_read_is_unknown_not_over(s3_bucket: Bucket, proxied: Proxied) -> None:
    state, products = State(place_of(s3_bucket.href("state/run"))), fake_products(40)
    proxy = proxied(s3_bucket.url)
    buckets.use(S3(endpoint_url=proxy.url, retries=1))
    for product in products:
        tick = ProgressFile(state.progress(product), "convert", product.name)
        tick.write()
        tick.flush()
    state.progress(products[0]).write_text("{")
    proxy.clear()
    assert len(collect_progress(state, products).running) == 39, "malformed is not running"
    assert proxy.count("GET", "/progress/.*json") == 40
    proxy.add(Rule("answer", status=500, code="InternalError", method="GET", path=f"{products[7].name}"))
    with pytest.raises(UnknownStateError, match="cannot read the state"):
        collect_progress(state, products)


def test_a_look_at_a_shard_lists_once_and_reads_each_heartbeat_once(s3_bucket: Bucket, proxied: Proxied, tmp_path: Path) -> None:
    state, products = State(place_of(s3_bucket.href("state/run"))), fake_products(3)
    proxy = proxied(s3_bucket.url)
    buckets.use(S3(endpoint_url=proxy.url, retries=1))
    write_manifest(products, state.manifest)
    for product in products:
        tick = ProgressFile(state.progress(product), "convert", product.name)
        tick.write()
        tick.flush()
    proxy.clear()
    part = Part("run", state, deque(), tmp_path / "part.log")
    part.look()
    assert len(part.seen.running) == 3, (tmp_path / "part.log").read_text() if (tmp_path / "part.log").exists() else ""
    assert proxy.count("GET", "/progress/.*json") == 3
    listed = [one.path for one in proxy.requests if "list-type=2" in one.path and "max-keys=1&" not in f"{one.path}&"]
    assert len(listed) == len(set(listed)), listed


def test_disk_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UnknownStateError, match="cannot read the state"):
        place_of(tmp_path / "folder").read_bytes()
    (tmp_path / "file").write_text("")
    assert not (place_of(tmp_path) / "file" / "below").exists()
    with pytest.raises(StoreError, match="cannot write: File exists"):
        (place_of(tmp_path) / "file" / "below").write_text("")


def test_addresses() -> None:
    assert place_of("results/demo/") == place_of(Path("results/demo")) == Place("results/demo")
    assert place_of("file:///tmp/a%20b").href == "/tmp/a b"
    assert place_of("s3://bucket/prefix/").href == "s3://bucket/prefix"
    assert (place_of("s3://bucket/prefix") / "a.json").parent.parent == place_of("s3://bucket")
    assert Place("a").parent == Place(".")
    assert Place("/a").parent == Place("/")
    assert Place("/") / "a" == Place("/a")
    for wrong in ("https://example.org/state", "s3://"):
        with pytest.raises(ValueError, match="neither"):
            place_of(wrong)
    with pytest.raises(ValueError, match="not below"):
        Place("s3://bucket/prefix-2/a").key_in(Place("s3://bucket/prefix"))
    with pytest.raises(TypeError, match="not on this machine"):
        os.fspath(Place("s3://bucket/a"))
