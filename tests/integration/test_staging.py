"""Products fetched once into a folder of this machine: the same bytes, one fetch for all who read, never half, never too much."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from builders import drop_chunk
from fault_proxy import Rule, slow_down
from file_server import file_server
from products import product_row, recipe_for

from zarrmill.config import S3, Source
from zarrmill.errors import CapacityError, SourceError
from zarrmill.io import bucket as buckets
from zarrmill.io.staging import DONE, RESERVED, _Cache, opened
from zarrmill.stages.convert import convert
from zarrmill.stages.validate import validate

BAND = "measurements/reflectance/r10m/b02"


def settings(folder, **staging):
    values = {"folder": str(folder), **staging}
    return Source.model_validate({"catalogue": "x", "fetch": "stage", "timeout_s": 5, "retries": 3, "staging": values})


def small(root: Path, name: str, n_bytes: int = 1000, seed: int = 0) -> Path:
    """A little v2 product: metadata and one array of one chunk."""
    node = f'{{"shape": [{n_bytes}], "chunks": [{n_bytes}], "dtype": "|u1", "fill_value": 0, "order": "C", "filters": null'
    zarray = f'{node}, "compressor": null, "zarr_format": 2}}'
    product = root / name
    (product / "a").mkdir(parents=True)
    (product / ".zmetadata").write_text(
        f'{{"zarr_consolidated_format": 1, "metadata": {{".zgroup": {{"zarr_format": 2}}, "a/.zarray": {zarray}}}}}'
    )
    (product / ".zgroup").write_text('{"zarr_format": 2}')
    (product / "a/.zarray").write_text(zarray)
    (product / "a/0").write_bytes(bytes([seed]) * n_bytes)
    return product


@pytest.fixture
def host(tmp_path, proxied):
    """A folder that is served through a proxy: folder, function from product to address, proxy."""
    root = tmp_path / "host"
    root.mkdir()
    with file_server(root) as server:
        proxy = proxied(server.url)
        yield root, lambda product: f"{proxy.url}/{product.name}", proxy


def staged(folder) -> list[str]:
    return sorted(path.parent.name.rpartition("-")[0] for path in Path(folder).glob(f"*/{DONE}"))


@pytest.mark.parametrize("kind", ["l2a", "l2a-v3"])
def test_two_recipes_and_a_validation_read_what_was_fetched_once(shared_sources, tmp_path, proxied, kind):
    source = shared_sources[kind]
    with file_server(source.parent) as server:
        proxy = proxied(server.url)
        for number, pixels in enumerate(({}, {"chunk_px": 90, "shard_px": 180})):
            recipe = recipe_for("S02MSIL2A", **pixels)
            near = product_row(source, recipe)
            far = replace(near, href=f"{proxy.url}/{source.name}")
            disk = convert(near, recipe=recipe, store_root=str(tmp_path / "disk"), threads=2)
            net = convert(far, recipe=recipe, store_root=str(tmp_path / "net"), threads=2, fetch=settings(tmp_path / "staging"))
            assert net.tree_sha256 == disk.tree_sha256
            if number == 0:
                n_first = len(proxy.requests)
                fetched = [r.path for r in proxy.requests if r.method == "GET" and "/r10m/b02/" in r.path]
                assert len(fetched) == len(set(fetched))
        report = validate(net.store, source=far.href, recipe=recipe, product=far, threads=2, fetch=settings(tmp_path / "staging"))
    assert len(proxy.requests) == n_first
    assert report.source == far.href
    assert report.n_pixels_compared > 0
    assert str(report.verdict) != "FAIL"


def test_recipe_says_how_its_sources_come_here(shared_sources, tmp_path):
    source, plain = shared_sources["l2a"], recipe_for("S02MSIL2A")
    folders = {name: tmp_path / name for name in ("stage", "direct")}
    with file_server(source.parent) as server:
        far = replace(product_row(source, plain), href=f"{server.url}/{source.name}")
        run = settings(folders["stage"]).model_copy(update={"fetch": "direct"})
        recipe = plain.model_copy(update={"fetch": "stage"})
        receipt = convert(far, recipe=recipe, store_root=str(tmp_path / "stores"), threads=2, fetch=run)
        assert staged(folders["stage"]) == [source.name]
        assert receipt.product.digest == product_row(source, recipe).digest, "it shapes no bytes"
        direct = plain.model_copy(update={"fetch": "direct"})
        run = settings(folders["direct"])
        validate(receipt.store, source=far.href, recipe=direct, product=far, threads=2, fetch=run)
    assert not folders["direct"].exists()


def test_product_in_a_bucket_is_fetched_by_its_listing(shared_sources, s3_bucket, tmp_path):
    source = shared_sources["l2a"]
    with closing(s3_bucket.client()) as client:
        for path in source.rglob("*"):
            if path.is_file():
                key = f"src/{source.name}/{path.relative_to(source).as_posix()}"
                client.put_object(Bucket=s3_bucket.name, Key=key, Body=path.read_bytes())
    buckets.use(S3(endpoint_url=s3_bucket.url))
    with opened(s3_bucket.href(f"src/{source.name}"), "", settings(tmp_path / "staging")) as objects:
        there = {key: objects.get(key) for key, _ in objects.keys()}  # noqa: SIM118 - not a mapping
    assert there == {p.relative_to(source).as_posix(): p.read_bytes() for p in source.rglob("*") if p.is_file()}


def test_what_the_source_does_not_have_is_missing_after_staging_too(source_copy, tmp_path):
    source = source_copy("l2a")
    drop_chunk(source, "quality/mask/r10m/b02")
    recipe = recipe_for("S02MSIL2A")
    near = product_row(source, recipe)
    with file_server(source.parent) as server:
        far = replace(near, href=f"{server.url}/{source.name}")
        net = convert(far, recipe=recipe, store_root=str(tmp_path / "net"), threads=2, fetch=settings(tmp_path / "staging"))
    disk = convert(near, recipe=recipe, store_root=str(tmp_path / "disk"), threads=2)
    assert [f.code for f in net.findings] == [f.code for f in disk.findings] == ["source.missing-chunk"]
    assert net.tree_sha256 == disk.tree_sha256


def test_local_sources_and_direct_reading_use_no_folder(shared_sources, tmp_path):
    with opened(str(shared_sources["l2a"]), "", settings(tmp_path / "staging")) as objects:
        assert objects.href == str(shared_sources["l2a"])
    direct = Source.model_validate({"catalogue": "x", "timeout_s": 7, "retries": 2})
    with opened("http://127.0.0.1:1/p.zarr", "", direct) as objects:
        assert (objects.href, objects.timeout_s, objects.retries) == ("http://127.0.0.1:1/p.zarr", 7, 2)
    assert not (tmp_path / "staging").exists()


def test_many_at_once_fetch_one_product_once(host, tmp_path):
    root, href, proxy = host
    product = small(root, "p.zarr", 200_000)
    proxy.add(Rule("latency", seconds=0.2))
    seen = []

    def read():
        with opened(href(product), "", settings(tmp_path / "staging")) as objects:
            seen.append(objects.get("a/0"))

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [bytes(200_000)] * 6
    assert proxy.count("GET", "/a/0$") == 1


def test_damaged_and_incomplete_copies_are_fetched_again(host, tmp_path):
    root, href, proxy = host
    product = small(root, "p.zarr", seed=7)
    folder = tmp_path / "staging"
    for damage in (
        lambda data: (data / "a/0").write_bytes(bytes([8]) * 1000),
        lambda data: (data / "a/0").write_bytes(b"short"),
        lambda data: (data / "a/0").unlink(),
        lambda data: (data / "more").write_bytes(b""),
        lambda data: (data.parent / DONE).write_text("{"),
    ):
        with opened(href(product), "", settings(folder)) as objects:
            assert objects.get("a/0") == bytes([7]) * 1000
        proxy.requests = []
        damage(next(folder.glob("*/data")))
        with opened(href(product), "", settings(folder)) as objects:
            assert objects.get("a/0") == bytes([7]) * 1000
        assert proxy.count("GET", "/a/0$") == 1


CHILD = """
import sys
from zarrmill.config import Source
from zarrmill.io.staging import opened
source = Source.model_validate({"catalogue": "x", "fetch": "stage", "staging": {"folder": sys.argv[2]}})
with opened(sys.argv[1], "", source) as objects:
    print("ready", flush=True)
    sys.stdin.read()
"""


def child(href, folder):
    command = [sys.executable, "-c", CHILD, href, str(folder)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)


def end(process):
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_fetch_that_is_killed_leaves_nothing_that_counts(host, tmp_path):
    root, href, proxy = host
    product, folder = small(root, "p.zarr", 3_000_000), tmp_path / "staging"
    rule = proxy.add(Rule("throttle", path="/a/0$", rate=3e5))
    process = child(href(product), folder)
    deadline = time.monotonic() + 60
    while not rule.n_met and time.monotonic() < deadline:
        time.sleep(0.05)
    end(process)
    assert rule.n_met == 1
    assert staged(folder) == []
    proxy.clear()
    with opened(href(product), "", settings(folder)) as objects:
        assert objects.get("a/0") == bytes(3_000_000)
    assert not list(folder.glob("*.part"))


def test_what_was_not_used_for_longest_goes_first_and_what_is_in_use_stays(host, tmp_path):
    root, href, _ = host
    folder, products = tmp_path / "staging", [small(root, f"p{n}.zarr", 400_000, n) for n in range(4)]
    room = settings(folder, max_gb=1e-3)

    def use(number):
        with opened(href(products[number]), "", room):
            pass
        time.sleep(0.02)

    use(0)
    use(1)
    use(0)
    use(2)
    assert staged(folder) == ["p0.zarr", "p2.zarr"]
    process = child(href(products[0]), folder)
    assert process.stdout.readline() == b"ready\n"
    use(2)
    use(3)
    use(1)
    assert "p0.zarr" in staged(folder)
    end(process)
    use(3)
    assert "p0.zarr" not in staged(folder)
    assert len(staged(folder)) == 2


def test_what_was_not_used_for_too_long_goes(host, tmp_path):
    root, href, _ = host
    folder, old, new = tmp_path / "staging", small(root, "old.zarr"), small(root, "new.zarr")
    with opened(href(old), "", settings(folder)):
        pass
    done = next(folder.glob(f"*/{DONE}"))
    os.utime(done, (time.time() - 7200, time.time() - 7200))
    with opened(href(new), "", settings(folder, max_age_hours=1)):
        pass
    assert staged(folder) == ["new.zarr"]
    assert [path.name.partition("-")[0] for path in folder.glob("*.lock")] == ["new.zarr"]


def test_product_that_does_not_fit_is_a_capacity_error_and_leaves_nothing(host, tmp_path):
    root, href, _ = host
    product, folder = small(root, "p.zarr", 500_000), tmp_path / "staging"
    with pytest.raises(CapacityError, match="max_gb") as caught, opened(href(product), "", settings(folder, max_gb=1e-4)):
        pass
    assert caught.value.kind == "disk"
    assert [path for path in folder.iterdir() if path.suffix != ".lock"] == []


def test_fetches_at_once_have_no_more_than_one_bound_together(host, tmp_path):
    root, href, proxy = host
    folder, products = tmp_path / "staging", [small(root, f"p{n}.zarr", 400_000, n) for n in range(4)]
    proxy.add(Rule("throttle", path="/a/0$", rate=8e5))
    seen, most, done = [], [], threading.Event()

    def use(number):
        with opened(href(products[number]), "", settings(folder, max_gb=1e-3)) as objects:
            seen.append(objects.get("a/0")[0])

    def size(path):
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0  # renamed or removed since it was listed

    def watch():
        while not done.wait(0.01):
            most.append(sum(map(size, folder.glob("*/data/a/0"))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    users = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    done.set()
    watcher.join()
    assert sorted(seen) == [0, 1, 2, 3]
    assert 400_000 < max(most) <= 1_000_000, "two at once, never three"
    assert not list(folder.glob(f"*/{RESERVED}"))


def test_who_finds_no_room_says_so(host, tmp_path, monkeypatch):
    root, href, _ = host
    folder, products = tmp_path / "staging", [small(root, f"p{n}.zarr", 600_000, n) for n in range(2)]
    room = settings(folder, max_gb=1e-3)
    monkeypatch.setattr("zarrmill.io.staging._WAIT_ROOM_S", 0.5)
    with opened(href(products[0]), "", room):
        with pytest.raises(CapacityError, match="no room for"), opened(href(products[1]), "", room):
            pass
        assert staged(folder) == ["p0.zarr"], "what is in use stays"


def test_product_with_more_than_its_metadata_say_takes_more_room(host, tmp_path):
    root, href, _ = host
    product = small(root, "p.zarr")
    (product / "a/0").write_bytes(bytes(300_000))
    with opened(href(product), "", settings(tmp_path / "staging")) as objects:
        assert len(objects.get("a/0")) == 300_000
    with pytest.raises(CapacityError, match="max_gb"), opened(href(product), "", settings(tmp_path / "other", max_gb=1e-4)):
        pass


def test_no_object_is_lost_to_the_count(tmp_path):
    class Slow(int):
        """A number that takes its time, so that another thread comes between."""

        def __radd__(self, other):
            time.sleep(0.01)
            return other + int(self)

    cache = _Cache(settings(tmp_path / "staging"))
    cache._reserved = 1000
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: cache._count("p", tmp_path / "staging/p.part", Slow(n)), [10] * 16))
    assert cache._n_bytes == 160


def test_full_disk_is_a_capacity_error_and_leaves_nothing(host, tmp_path):
    """A file may not grow beyond a limit of the process: the same error that a full disk gives."""
    root, href, _ = host
    product, folder = small(root, "p.zarr", 3_000_000), tmp_path / "staging"
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "from zarrmill.config import Source\n"
        "from zarrmill.errors import CapacityError\n"
        "from zarrmill.io.staging import opened\n"
        "source = Source.model_validate({'catalogue': 'x', 'fetch': 'stage', 'staging': {'folder': sys.argv[2]}})\n"
        "try:\n"
        "    with opened(sys.argv[1], '', source):\n"
        "        pass\n"
        "except CapacityError as error:\n"
        "    print(error.code)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code, href(product), str(folder)], env=env, capture_output=True, check=True)
    assert done.stdout == b"ZM-CAP-DISK\n"
    assert [path for path in folder.iterdir() if path.suffix != ".lock"] == []


def test_outage_keeps_nothing_and_the_next_use_fetches(host, tmp_path):
    root, href, proxy = host
    product, folder = small(root, "p.zarr"), tmp_path / "staging"
    proxy.add(slow_down(path="/a/0$"))
    with pytest.raises(SourceError) as caught, opened(href(product), "", settings(folder)):
        pass
    assert caught.value.retryable
    assert staged(folder) == []
    proxy.clear()
    with opened(href(product), "", settings(folder)) as objects:
        assert objects.get("a/0") == bytes(1000)


def test_source_that_is_not_the_planned_one_is_not_fetched(host, tmp_path):
    root, href, proxy = host
    product = small(root, "p.zarr")
    with pytest.raises(SourceError) as caught, opened(href(product), "0" * 64, settings(tmp_path / "staging")):
        pass
    assert caught.value.kind == "changed"
    assert proxy.count("GET", "/a/0$") == 0


def test_source_that_changes_while_it_is_fetched_is_not_kept(tmp_path, proxied):
    root = tmp_path / "host"
    product = small(root, "p.zarr")
    with file_server(root, tags="etag") as server:
        proxy = proxied(server.url)

        class Published(Rule):  # after it was fetched, before it is compared
            def takes(self, method, path):
                if met := super().takes(method, path):
                    (product / "a/0").write_bytes(bytes([1]) * 1000)
                return met

        proxy.add(Published("latency", method="HEAD", path="/a/0$", seconds=0))
        with pytest.raises(SourceError) as caught, opened(f"{proxy.url}/p.zarr", "", settings(tmp_path / "staging")):
            pass
    assert caught.value.kind == "changed"
    assert staged(tmp_path / "staging") == []
