"""Targets in a bucket: how Snakemake names them there, and what its S3 storage plugin lacks, put around it.

Version 0.3.6 of the plugin keeps targets as objects; these things it does wrong, each measured against a real server
(``tests/integration/test_targets.py`` shows every one with and without this module, ``docs/upstream`` says what to change):

* It asks three times, one after the other, for every target that is missing, and lists below every one that is there.
* It takes every error for an absent bucket, so an outage reads as "nothing exists" and everything is built again.
* It deletes the bucket when it removes the last object, and makes one when it cannot ask for it.
"""

import math
import posixpath
import sys
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any, ClassVar

from zarrmill.errors import ConfigError, UnknownStateError
from zarrmill.io import bucket
from zarrmill.io.listing import Found, Listing
from zarrmill.io.state import State

PLUGIN = "snakemake-storage-plugin-s3"
KNOWN_VERSION = "0.3.6"
SENTINEL = ".keep"
"""Object that stays below the state's prefix, so that the bucket is never empty."""

FRESH_S = 5.0
"""Time for which the answer that an object is there serves."""


def target_root(state: State, state_root: str, prefix: str | None) -> str:
    """Return the run's folder as rules name it: relative below the storage prefix when the state is in a bucket.

    Args: prefix: ``--default-storage-prefix``, None without a default storage provider.
    Raises: ConfigError: the prefix is not the ``state_root`` of the configuration.
    """
    wanted = state_root.rstrip("/") if state.root.remote else None
    if (prefix.rstrip("/") if prefix else None) == wanted:
        return state.root.name if state.root.remote else str(state.root)
    if wanted is None:
        text = f"state_root is {state_root}, but Snakemake's default storage prefix is {prefix}; give both the same address"
    else:
        text = (
            f"state_root is {state_root}, and Snakemake's default storage prefix is {prefix or 'not set'}; run it with "
            f"--default-storage-provider s3 --default-storage-prefix {wanted}"
        )
    raise ConfigError(text, kind="usage")


def check_provider(provider: Any, state: State) -> None:  # the plugin has no types
    """Check that the plugin reaches the bucket in the way that we do.

    Raises: ConfigError: another endpoint or region; the message says which variables to set.
    """
    name, _ = bucket.split(str(state.root))
    ours = {"ENDPOINT_URL": bucket.endpoint_url(name), "REGION": bucket.region(name)}
    client = provider.s3c.meta.client.meta
    theirs = {"ENDPOINT_URL": client.endpoint_url.rstrip("/"), "REGION": client.region_name}
    for key, value in ours.items():
        if value is not None and theirs[key] != value:
            raise ConfigError(
                f"Snakemake's storage plugin uses {key.lower()} {theirs[key]}, the configuration {value}; "
                f"set SNAKEMAKE_STORAGE_S3_{key}={value} in the environment",
                kind="usage",
            )


def fence_plugin(plugin: ModuleType, state: State, collections: Iterable[str] | None = None) -> None:
    """Mend the storage plugin for the targets of a run.

    Args: plugin: the module ``snakemake_storage_plugin_s3``; collections: those of the manifest, whose targets are listed here
    and now; None in a job, which asks for its few targets by name.
    Raises: ConfigError: the plugin has another version than this was written for; UnknownStateError: the state cannot be listed.
    """
    try:
        found = version(PLUGIN)
    except PackageNotFoundError:
        found = "none"
    if found != KNOWN_VERSION:
        text = f"{PLUGIN}: found {found}, expected {KNOWN_VERSION}, which zarrmill.io.targets mends; install that version"
        raise ConfigError(text, kind="usage")
    mended: Any = type("StorageObject", (_Mended, plugin.StorageObject), {"_listed": _Listed(plugin, state, collections)})
    plugin.StorageObject = mended  # type: ignore[attr-defined]  # providers look it up here for every object


def keep_bucket(state: State) -> None:
    """Leave an object below the state's prefix that no one removes.

    Raises: StoreError: it cannot be written.
    """
    place = state.root.parent / SENTINEL
    if place.remote and not place.exists():
        place.create(b"The state of runs is kept here; this object keeps the bucket from being empty.\n")


class _Listed:
    """Which targets there are, from listings alone; one that holds nothing is to be made."""

    def __init__(self, plugin: ModuleType, state: State, collections: Iterable[str] | None) -> None:
        self._mtime: Any = plugin.Mtime  # where the plugin itself has it from
        self._bucket, prefix = bucket.split(str(state.root))
        self._prefix = f"{prefix}/"
        self._folders: frozenset[str] | None = None
        self._found: dict[str, Found] = {}
        self._parent: str | None = None
        if collections is not None:
            self._folders = frozenset({"benchmarks", "catalog", "report", *collections})
            listing = Listing(state.root)
            places = [(state.root / name, facts) for name, facts in listing.files(state.root).items()]
            for folder in sorted(self._folders.intersection(listing.folders(state.root))):
                places += listing.below(state.root / folder)
            self._found = {place.key_in(state.root): facts for place, facts in places if facts.size}

    def parent(self, wanted: "_Mended") -> str | None:
        """Return what stands for everything that was listed; None for an object that was not."""
        if self._folders is None or wanted.bucket != self._bucket or not wanted.key.startswith(self._prefix):
            return None
        folder, separator, _ = wanted.key[len(self._prefix) :].partition("/")
        if separator and folder not in self._folders:
            return None
        if self._parent is None:
            self._parent = str(wanted.cache_key(f"{self._bucket}/{self._prefix}"))
        return self._parent

    def fill(self, wanted: "_Mended", cache: Any) -> None:  # Snakemake's cache has no types
        """Put every target into Snakemake's cache."""
        parent = self.parent(wanted)
        if parent is None or parent in cache.exists_in_storage.has_inventory:
            return
        for key, facts in self._found.items():
            name = wanted.cache_key(f"{self._bucket}/{self._prefix}{key}")
            cache.mtime[name] = self._mtime(storage=facts.modified)
            cache.size[name] = facts.size
            cache.exists_in_storage[name] = True
        cache.exists_in_storage.has_inventory.add(parent)


class _Mended:
    """What takes the place of the plugin's own; first among the bases.

    Snakemake makes one for every mention of a target, 170,000 for 10,000 products: none holds what its address says already.
    """

    query: str
    print_query: str
    cache_key: Any  # these three are the plugin's, which has no types
    s3obj: Any
    _listed: _Listed
    _recent: ClassVar[dict[str, tuple[float, Any]]] = {}
    """Address of an object to when it was asked for, and what boto3 made of the answer."""

    def __post_init__(self) -> None:
        self.query = self.print_query = sys.intern(str(self.query))

    @property
    def bucket(self) -> str:
        return self.query.removeprefix("s3://").partition("/")[0]

    @property
    def key(self) -> str:
        return posixpath.normpath(self.query.removeprefix("s3://").partition("/")[2].lstrip("/"))

    def local_suffix(self) -> str:
        return f"{self.bucket}/{self.key}"

    def get_inventory_parent(self) -> str | None:
        return self._listed.parent(self)

    async def inventory(self, cache: Any) -> None:  # as above
        self._listed.fill(self, cache)

    def exists(self) -> bool:
        return self._facts() is not None

    def mtime(self) -> float:
        return float(self._there().last_modified.timestamp())

    def size(self) -> int:
        return int(self._there().content_length)

    def is_dir(self) -> bool:
        """Our targets are files."""
        return False

    def bucket_exists(self) -> bool:
        """Asked before every upload, to make the bucket when there is none: that it is missing is told by the upload."""
        self._forget()
        return True

    def remove(self) -> None:
        self._forget()
        self.s3obj().delete()

    def _facts(self) -> Any:  # boto3 makes its types at run time
        """Return the object with its facts, None when it is certainly not there.

        Snakemake asks for existence, time and size one by one and again and again (27 times for one target of a job); an answer
        serves for some seconds, but not the one that it is not there.
        """
        place, now = f"s3://{self.bucket}/{self.key}", time.monotonic()
        asked, facts = self._recent.get(place, (-math.inf, None))
        if now - asked < FRESH_S:
            return facts
        self._forget()
        facts = self.s3obj()
        try:
            facts.load()
        except bucket.failures() as error:
            reason, words = bucket.reason_of(error)
            if reason == "absent":
                return None
            raise UnknownStateError(f"{place}: cannot be asked for ({words}); nothing was decided", kind="outage") from error
        self._recent[place] = (now, facts)
        return facts

    def _there(self) -> Any:  # as above
        facts = self._facts()
        if facts is None:
            raise FileNotFoundError(f"s3://{self.bucket}/{self.key}")
        return facts

    def _forget(self) -> None:
        self._recent.pop(f"s3://{self.bucket}/{self.key}", None)
