"""A conversion into a bucket is killed at any time: the next one keeps what the lease carried, and ends with the same bytes."""

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from builders import build_test_product
from fault_proxy import FaultProxy, Rule
from products import grd_recipe, recipe_for
from s3_server import Bucket
from test_kill import contents
from test_kill_convert import Ask, ask  # noqa: F401 - a fixture

from zarrmill.sample.s1 import GrdSpec, build_grd

LEASE_S, HAND_ON_S = 20.0, 1 / 3
"""A lease that outlives every stall of this machine; what was finished is carried as often as by the shortest lease."""
N_CONNECTIONS = 4
UPLOAD_S = {"any time": 2.0, "late": 5.0}
"""How long the uploads of a product take; late, a second of a full tile is as much as a third of a second here."""
SHARES = {"any time": (0.05, 0.85), "late": (0.85, 0.95)}


class Sent:
    """What went through the proxy into stores, by key below the store.

    When it is ``limit`` bytes of pixels, a file is touched, upon which the conversion is killed; no later request gets through.
    """

    def __init__(self, proxy: FaultProxy, flag: Path, limit: float) -> None:
        self.n_bytes: Counter[str] = Counter()
        self._proxy, self._flag, self._limit, self._lock = proxy, flag, limit, threading.Lock()

    def __call__(self, path: str, n_bytes: int) -> None:
        _, inside, key = urlsplit(path).path.partition(".zarr/")
        with self._lock:
            self.n_bytes[key] += n_bytes if inside else 0
            if self.of_pixels >= self._limit:
                self._proxy.rules = [Rule("hang", seconds=30)]
                self._flag.touch()

    @property
    def of_pixels(self) -> int:
        """Bytes of chunks and shards: metadata, which a full tile has next to nothing of, is most of a small product."""
        return pixel_bytes(self.n_bytes)


def pixel_bytes(sizes: Mapping[str, int]) -> int:
    """Return the bytes of all that is chunk or shard."""
    return sum(n for key, n in sizes.items() if "/c/" in key)


class Whole:
    """A source, and what converting it into a folder in one go gives."""

    def __init__(self, convert: Ask, root: Path, source: Path, product_type: str, recipe: Any, **more: Any) -> None:
        values = json.loads(recipe.model_dump_json())
        self.order = {"source": str(source), "product_type": product_type, "recipe": values, "threads": 2, **more}
        (attempt,) = convert(**self.order, root=str(root / "whole"), kills=[])
        assert attempt["code"] == 0
        self.files = contents(root / "whole")
        self.n_bytes = pixel_bytes({key: len(data) for key, data in self.files.items()})


@pytest.fixture(scope="module")
def optical(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> Whole:  # noqa: F811
    """A Sentinel-2 product with as many shards an array as a full tile has: four at 10 m, one at 20 and 60 m."""
    root = tmp_path_factory.mktemp("optical")
    source = build_test_product(root / "source", "S02MSIL2A", 480)
    return Whole(ask, root, source, "S02MSIL2A", recipe_for("S02MSIL2A", chunk_px=40, shard_px=240))


@pytest.fixture(scope="module")
def radar(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> Whole:  # noqa: F811
    """A Sentinel-1 product whose map has about as many shards as a full scene, in bands two shards wide."""
    root = tmp_path_factory.mktemp("radar")
    source = build_grd(GrdSpec(shape=(400, 560)), root / "source")
    recipe = grd_recipe(chunk_px=32, shard_px=96)
    return Whole(ask, root, source, "S01SIWGRH", recipe, band_px=192)


class Killed:
    """One conversion into a bucket that was killed when a share of its pixels was sent, and the one after it, undisturbed."""

    def __init__(self, convert: Ask, whole: Whole, share: float, bucket: Bucket, proxy: FaultProxy, root: Path) -> None:
        first = Sent(proxy, root / "kill", share * whole.n_bytes)
        env = bucket.through(proxy.url).env("writer")
        order = {
            **whole.order,
            "root": bucket.href("stores"),
            "env": env,
            "s3": {"lease_s": LEASE_S, "max_concurrency": N_CONNECTIONS},
            "hand_on_s": HAND_ON_S,
        }
        proxy.on_upload = first
        (attempt,) = convert(**order, kills=[["file", str(root / "kill")]], last=False)
        assert attempt["code"] == -9, "it was killed"
        assert not [key for key in bucket.keys("stores/") if key.endswith(".zarr/zarr.json")]
        self.proven = proven(bucket)
        let_go(bucket)
        proxy.clear()
        second = proxy.on_upload = Sent(proxy, root / "never", float("inf"))
        (attempt,) = convert(**order, kills=[])
        assert attempt["code"] == 0
        self.first, self.second = first.n_bytes, second.n_bytes
        self.again = (first.of_pixels + second.of_pixels) / whole.n_bytes - 1


def proven(bucket: Bucket) -> set[str]:
    """Return the keys that the journal names, as the killed writer's lease last carried it."""
    leases = {key: data for key, data in bucket.contents("stores/").items() if ".zarr.journal/" in key}
    entries = json.loads(leases[max(leases)])["entries"].values() if leases else ()
    return {written["key"] for entry in entries for written in entry["entry"]["objects"]}


def let_go(bucket: Bucket) -> None:
    """Release the lease of the killed writer: how long it lasts is tested elsewhere."""
    keys = [key for key in bucket.keys("stores/") if ".zarr.journal/" in key]
    for key in keys[-1:]:
        bucket.put(key, json.dumps({**json.loads(bucket.contents(key)[""]), "released": True}).encode())


def assert_same_bytes(bucket: Bucket, whole: Whole) -> None:
    """The bucket holds what an undisturbed conversion makes on disk, and nothing else."""
    assert bucket.contents("stores/") == whole.files
    assert bucket.uploads() == []


@pytest.mark.parametrize("kind", ["optical", "radar"])
@pytest.mark.parametrize("when", SHARES)
def test_what_the_lease_carried_is_never_sent_again(
    ask: Ask,  # noqa: F811
    request: pytest.FixtureRequest,
    s3_bucket: Bucket,
    proxied: Callable[[str], FaultProxy],
    tmp_path: Path,
    kind: str,
    when: str,
) -> None:
    whole: Whole = request.getfixturevalue(kind)
    share = random.Random(f"{kind} {when}").uniform(*SHARES[when])
    proxy = proxied(s3_bucket.url)
    proxy.add(Rule("throttle", method="PUT", path="/c/", rate=whole.n_bytes / N_CONNECTIONS / UPLOAD_S[when]))
    killed = Killed(ask, whole, share, s3_bucket, proxy, tmp_path)
    assert_same_bytes(s3_bucket, whole)
    keys = {key.partition(".zarr/")[2] for key in whole.files}
    assert killed.second.keys() - {""} == keys - killed.proven, "what was proven is kept, all else is sent"
    assert all(
        killed.second[key] == len(data)
        for path, data in whole.files.items()
        if (key := path.partition(".zarr/")[2]) in killed.second
    )
    assert killed.proven < keys
    if when == "late":
        assert killed.proven
        assert 0 <= killed.again < 0.2, (share, killed.again)
