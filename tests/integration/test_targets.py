"""What Snakemake's S3 storage plugin does wrong, with and without ``zarrmill.io.targets``, against a real server."""

import asyncio
import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from botocore.exceptions import ClientError
from fault_proxy import FaultProxy, denied, no_bucket, slow_down
from s3_server import KEYS, Bucket, S3Server, bucket
from snakemake.io import IOCache

from zarrmill.config import S3
from zarrmill.errors import ConfigError, UnknownStateError
from zarrmill.io import bucket as buckets
from zarrmill.io import targets
from zarrmill.io.places import Place, place_of
from zarrmill.io.state import State

N = 20
"""Targets that are asked for."""


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A copy of the plugin of this test alone, as it is published."""
    for name in ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"):
        monkeypatch.setenv(name, "when_required")  # the plugin sets them for the process
    found = importlib.util.find_spec("snakemake_storage_plugin_s3")
    assert found is not None
    assert found.origin is not None
    spec = importlib.util.spec_from_file_location("storage_plugin_copy", found.origin)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fenced(plugin: ModuleType) -> Callable[..., ModuleType]:
    """Return a function that mends the copy."""

    def fence(root: str, collections: set[str] | None = None) -> ModuleType:
        targets.fence_plugin(plugin, State(place_of(root)), collections)
        return plugin

    return fence


def provider(plugin: ModuleType, url: str, folder: Path, identity: str = "admin") -> Any:
    key, secret = KEYS[identity]
    settings = plugin.StorageProviderSettings(endpoint_url=url, access_key=key, secret_key=secret, retries=0)
    return plugin.StorageProvider(local_prefix=folder, logger=logging.getLogger(), settings=settings)


def known(storage: Any, hrefs: list[str]) -> list[bool]:
    """Ask for objects as Snakemake's DAG does: inventory first, then what is not in the cache."""
    cache = IOCache(20)
    answers = []

    async def ask() -> None:
        for href in hrefs:
            target = storage.object(href)
            key = target.cache_key()
            covered = target.get_inventory_parent() in cache.exists_in_storage.has_inventory
            if not covered and key not in cache.exists_in_storage:
                await target.inventory(cache)
                covered = target.get_inventory_parent() in cache.exists_in_storage.has_inventory
            if not covered and key not in cache.exists_in_storage:
                cache.exists_in_storage[key] = await target.managed_exists()
            answers.append(bool(cache.exists_in_storage[key]))

    asyncio.run(ask())
    return answers


def hrefs(made: Bucket) -> list[str]:
    return [made.href(f"state/run/s2/2025010{n % 3}/convert/{n}.json") for n in range(N)]


def test_as_published_a_missing_target_costs_three_requests(
    plugin: ModuleType, s3_bucket: Bucket, proxied: Callable[[str], FaultProxy], tmp_path: Path
) -> None:
    proxy = proxied(s3_bucket.url)
    assert known(provider(plugin, proxy.url, tmp_path), hrefs(s3_bucket)) == [False] * N
    assert proxy.count() >= 3 * N


def test_mended_all_targets_of_a_run_cost_a_listing(
    fenced: Callable[..., ModuleType], s3_bucket: Bucket, proxied: Callable[[str], FaultProxy], tmp_path: Path
) -> None:
    there = hrefs(s3_bucket)[:5]
    for href in there:
        place_of(href).write_text("{}")
    proxy = proxied(s3_bucket.url)
    buckets.use(S3(endpoint_url=proxy.url))
    storage = provider(fenced(s3_bucket.href("state/run"), {"s2", "s1"}), proxy.url, tmp_path)
    assert known(storage, hrefs(s3_bucket)) == [True] * 5 + [False] * (N - 5)
    assert proxy.count() == 2, "the run's folders, and what is in the one that is there"
    proxy.clear()
    assert known(storage, [s3_bucket.href("state/run/logs/a"), s3_bucket.href("state/run2/s2/a")]) == [False, False]
    assert proxy.count("HEAD") == 2, "what was not listed is asked for"


@pytest.mark.parametrize("key", ["state/run/s2/20250101/plan/a.json", "/state//run/./s2/a.json", "state/run/s2/a b.json"])
def test_mended_a_target_is_named_as_the_plugin_names_it_and_keeps_its_address_once(
    plugin: ModuleType, fenced: Callable[..., ModuleType], s3_bucket: Bucket, tmp_path: Path, key: str
) -> None:
    def made() -> Any:
        return provider(plugin, s3_bucket.url, tmp_path).object(f"{s3_bucket.href()}/{key}")

    names = ("query", "print_query", "bucket", "key")
    published = made()
    assert type(published) is plugin.StorageObject
    fenced(s3_bucket.href("state/run"))
    one, other = made(), made()
    assert [getattr(one, name) for name in names] == [getattr(published, name) for name in names]
    assert (one.local_suffix(), one.cache_key(), one.local_path()) == (
        published.local_suffix(),
        published.cache_key(),
        published.local_path(),
    )
    assert one is not other
    assert one.query is other.query is one.print_query
    assert not {"bucket", "key", "_local_suffix"} & set(vars(one)), "what the address says already is kept beside it"


def test_mended_a_job_asks_once_for_what_it_needs(
    fenced: Callable[..., ModuleType], s3_bucket: Bucket, proxied: Callable[[str], FaultProxy], tmp_path: Path
) -> None:
    href = s3_bucket.href("state/run/s2/20250101/plan/a.json")
    place_of(href).write_text("{}")
    proxy = proxied(s3_bucket.url)
    storage = provider(fenced(s3_bucket.href("state/run")), proxy.url, tmp_path)
    assert known(storage, [href]) == [True]
    target = storage.object(href)
    assert (target.exists(), target.size(), target.mtime() > 0) == (True, 2, True)
    assert proxy.count() == 1
    asyncio.run(target.managed_retrieve())
    assert target.local_path().read_text() == "{}"
    target.remove()
    assert not target.exists(), "an answer of before does not outlive what was done since"
    target.store_object()
    assert (target.exists(), place_of(href).read_text()) == (True, "{}")
    assert proxy.count("PUT", r"/test-[0-9a-f]+/?$") == 0, "no bucket is made"


def test_as_published_an_outage_of_the_bucket_reads_as_nothing_there(
    plugin: ModuleType, s3_bucket: Bucket, proxied: Callable[[str], FaultProxy], tmp_path: Path
) -> None:
    for href in hrefs(s3_bucket):
        place_of(href).write_text("{}")
    proxy = proxied(s3_bucket.url)
    proxy.add(slow_down(method="HEAD", path=r"/test-[0-9a-f]+/?$"))
    target = provider(plugin, proxy.url, tmp_path).object(hrefs(s3_bucket)[0])
    cache = IOCache(20)
    asyncio.run(target.inventory(cache))
    assert cache.exists_in_storage[target.cache_key()] is False, "it is there"


@pytest.mark.parametrize("rule", [slow_down, denied, no_bucket], ids=lambda rule: rule.__name__)
def test_mended_an_outage_is_not_an_absence(
    fenced: Callable[..., ModuleType],
    s3_bucket: Bucket,
    proxied: Callable[[str], FaultProxy],
    tmp_path: Path,
    rule: Callable[..., Any],
) -> None:
    proxy = proxied(s3_bucket.url)
    buckets.use(S3(endpoint_url=proxy.url, retries=0))
    proxy.add(rule())
    with pytest.raises(UnknownStateError, match="nothing was decided"):
        fenced(s3_bucket.href("state/run"), {"s2"})
    if rule is not no_bucket:
        storage = provider(fenced(s3_bucket.href("state/run")), proxy.url, tmp_path)
        with pytest.raises(UnknownStateError, match="nothing was decided"):
            storage.object(hrefs(s3_bucket)[0]).exists()


def exists(server: S3Server, name: str) -> bool:
    try:
        server.client().head_bucket(Bucket=name)
    except ClientError:
        return False
    return True


def test_as_published_the_last_removal_deletes_the_bucket(plugin: ModuleType, s3: S3Server, tmp_path: Path) -> None:
    s3.client().create_bucket(Bucket="as-published")
    s3.client().put_object(Bucket="as-published", Key="state/run/a.json", Body=b"{}")
    provider(plugin, s3.url, tmp_path).object("s3://as-published/state/run/a.json").remove()
    assert not exists(s3, "as-published")


def test_mended_the_bucket_stays(fenced: Callable[..., ModuleType], s3: S3Server, tmp_path: Path) -> None:
    with bucket(s3, "mended") as made:
        made.put("state/run/a.json", b"{}")
        provider(fenced("s3://mended/state/run"), s3.url, tmp_path).object("s3://mended/state/run/a.json").remove()
        assert (exists(s3, "mended"), made.keys()) == (True, [])


def test_a_sentinel_keeps_the_bucket_even_as_published(plugin: ModuleType, s3_bucket: Bucket, tmp_path: Path) -> None:
    state = State(place_of(s3_bucket.href("state/run")))
    targets.keep_bucket(state)
    targets.keep_bucket(state)
    (state.root / "a.json").write_text("{}")
    provider(plugin, s3_bucket.url, tmp_path).object(f"{state.root}/a.json").remove()
    assert s3_bucket.keys() == ["state/.keep"]


def test_another_version_of_the_plugin_is_refused(fenced: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "version", lambda name: "0.4.0")
    with pytest.raises(ConfigError, match=r"found 0\.4\.0, expected 0\.3\.6"):
        fenced("s3://bucket/state/run")


def test_names_of_targets() -> None:
    local, remote = State(Place("results/demo")), State(Place("s3://bucket/state/demo"))
    assert targets.target_root(local, "results", None) == "results/demo"
    assert targets.target_root(remote, "s3://bucket/state/", "s3://bucket/state") == "demo"
    for wrong in (None, "s3://bucket/other"):
        with pytest.raises(ConfigError, match="--default-storage-prefix s3://bucket/state"):
            targets.target_root(remote, "s3://bucket/state", wrong)
    with pytest.raises(ConfigError, match="give both the same address"):
        targets.target_root(local, "results", "s3://bucket/state")


def test_a_plugin_that_reaches_another_service_is_told(plugin: ModuleType, s3_bucket: Bucket, tmp_path: Path) -> None:
    state = State(place_of(s3_bucket.href("state/run")))
    targets.check_provider(provider(plugin, s3_bucket.url, tmp_path), state)
    with pytest.raises(ConfigError, match="SNAKEMAKE_STORAGE_S3_ENDPOINT_URL=http://127"):
        targets.check_provider(provider(plugin, "http://127.0.0.1:1", tmp_path), state)
    buckets.use(S3(endpoint_url=s3_bucket.url, region="gra"))
    with pytest.raises(ConfigError, match="SNAKEMAKE_STORAGE_S3_REGION=gra"):
        targets.check_provider(provider(plugin, s3_bucket.url, tmp_path), state)
