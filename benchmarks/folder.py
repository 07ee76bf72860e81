"""A folder with a configuration, as an operator has one, and the commands that are run in it."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import ROOT
from zarrmill.config import Settings, load_settings
from zarrmill.core.shards import Shard
from zarrmill.io.manifest import read_manifest
from zarrmill.io.state import State
from zarrmill.model import Product

RECIPES = ("s2-l2a", "s2-l1c")
PROFILE = "profiles/local"


@dataclass(frozen=True, slots=True)
class Folder:
    """One run's folder; paths in its configuration are relative, so that commands look the same on every machine."""

    path: Path

    @classmethod
    def make(cls, path: Path, catalogue: Path | str, source: dict[str, Any] | None = None, **values: Any) -> "Folder":
        """Write a configuration into an empty folder. Args: catalogue: file or address; values: keys of the configuration."""
        shutil.rmtree(path, ignore_errors=True)
        (path / "config").mkdir(parents=True)
        where = catalogue if isinstance(catalogue, str) else os.path.relpath(catalogue.resolve(), path.resolve())
        recipes = [os.path.relpath(ROOT / f"config/recipes/{name}.yaml", path.resolve()) for name in RECIPES]
        content = {"run": "bench", "source": {"catalogue": where} | (source or {}), "recipes": recipes} | values
        (path / "config/config.yaml").write_text(yaml.safe_dump(content))
        return cls(path)

    def settings(self, run: str | None = None) -> Settings:
        """Return the configuration."""
        return load_settings(self.path / "config/config.yaml", {"run": run} if run else None)

    def state(self, run: str | None = None) -> State:
        """Return where a run keeps what."""
        return State.of(self.settings(run), self.path)

    def products(self, run: str | None = None) -> tuple[Product, ...]:
        """Return the manifest."""
        return read_manifest(self.state(run).manifest)

    def fresh(self) -> None:
        """Remove everything that a run wrote, all but the configuration."""
        for child in self.path.iterdir():
            if child.name != "config":
                shutil.rmtree(child)

    def zarrmill(self, *words: str) -> tuple[str, ...]:
        """Return a command of zarrmill; it is started in this folder."""
        return (sys.executable, "-m", "zarrmill", *words)

    def plan(self, run: str, shard: Shard) -> tuple[str, ...]:
        """Return the command that plans a shard, as ``zarrmill backfill`` gives it."""
        return self.zarrmill("plan", "--run", run, "--datetime", shard.datetime)

    def snakemake(self, *words: str) -> tuple[str, ...]:
        """Return a command of Snakemake; it is started in the project's folder and works in this one."""
        base = (sys.executable, "-m", "snakemake", "--profile", PROFILE, "--directory", str(self.path))
        return (*base, *words, *self._storage())

    def shard(self, run: str, shard: Shard) -> tuple[str, ...]:
        """Return the command that shows a shard's jobs."""
        return (*self.snakemake("-n"), "--config", f"run={run}", f"source={json.dumps({'datetime': shard.datetime})}")

    def bare(self, verb: str, **values: object) -> tuple[str, ...]:
        """Return a command of ``benchmarks.bare``; it is started in the project's folder."""
        return (sys.executable, "-m", "benchmarks.bare", verb, json.dumps({"folder": str(self.path), **values}))

    def _storage(self) -> Sequence[str]:
        root = self.settings().state_root
        return ("--default-storage-provider", "s3", "--default-storage-prefix", root) if root.startswith("s3://") else ()
