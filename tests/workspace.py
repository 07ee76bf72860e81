"""A user's folder with a small archive, and Snakemake run in it as a user's CI would."""

import atexit
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from fork_server import ForkServer

from zarrmill.config import Settings, load_settings
from zarrmill.errors import ConfigError
from zarrmill.io.manifest import read_manifest
from zarrmill.io.state import State
from zarrmill.model import Product
from zarrmill.sample import build_archive

ROOT = Path(__file__).parent.parent


@cache
def fork_server() -> ForkServer:
    """Return the server that runs dry runs, started on first use."""
    server = ForkServer()
    atexit.register(server.stop)
    return server


@dataclass
class Workspace:
    """One folder with ``config/``, a source archive and everything that runs write."""

    path: Path
    config: str = "config/config.yaml"
    """Configuration of the run, below ``path``."""

    @classmethod
    def create(cls, path: Path, n_days: int = 2, products_per_day: int = 2, size_px: int = 120) -> "Workspace":
        """Build an archive of synthetic products and a configuration for it."""
        build_archive(
            path / "archive",
            size_px=size_px,
            n_days=n_days,
            products_per_day=products_per_day,
            start=date(2025, 1, 13),
            pixels="synthetic",
        )
        (path / "config").mkdir()
        for name in ("s2-l2a", "s2-l1c"):
            recipe = yaml.safe_load((ROOT / f"config/recipes/{name}.yaml").read_text())
            recipe["pixels"] |= {"chunk_px": 60, "shard_px": 120}
            recipe["validation"]["readers"] = ["xarray"]
            (path / f"config/{name}.yaml").write_text(yaml.safe_dump(recipe))
        work = cls(path)
        work.configure(
            run="test",
            source={"catalogue": "archive/items.json"},
            recipes=["config/s2-l2a.yaml", "config/s2-l1c.yaml"],
            threads=1,
        )
        return work

    def copy(self, path: Path) -> "Workspace":
        """Return a copy that may be broken; times are kept, they decide what is rebuilt."""
        shutil.copytree(self.path, path, copy_function=shutil.copy2)
        return Workspace(path)

    def configure(self, **values: Any) -> None:
        """Set keys of the configuration."""
        self.edit(self.config, **values)

    def edit(self, name: str, **values: Any) -> None:
        """Set top-level keys of a YAML file; dicts are merged."""
        path = self.path / name
        content = yaml.safe_load(path.read_text()) if path.exists() else {}
        for key, value in values.items():
            content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
        path.write_text(yaml.safe_dump(content))

    @property
    def settings(self) -> Settings:
        return load_settings(self.path / self.config)

    @property
    def state(self) -> State:
        return State.of(self.settings, self.path)

    @property
    def products(self) -> tuple[Product, ...]:
        return read_manifest(self.state.manifest)

    def store(self, product: Product) -> Path:
        return self.path / self.settings.store_root / product.store_path

    def command(self, *arguments: str, profile: str = "ci") -> list[str]:
        options = ["--snakefile", str(ROOT / "workflow/Snakefile"), "--profile", str(ROOT / "profiles" / profile)]
        return [sys.executable, "-m", "snakemake", *self.storage, *arguments, *options, *self.configfile]

    @property
    def configfile(self) -> list[str]:
        """Options that name the configuration; none when it is the one by default."""
        return ["--configfile", self.config] if self.config != "config/config.yaml" else []

    @property
    def storage(self) -> list[str]:
        """Options with which Snakemake finds its targets in a bucket; none when the state is on disk."""
        with suppress(ConfigError):
            if self.settings.state_root.startswith("s3://"):
                return ["--default-storage-provider", "s3", "--default-storage-prefix", self.settings.state_root]
        return []

    def start(self, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
        """Start Snakemake in a process group of its own."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.path,
            env={**os.environ, "PYTHONWARNINGS": "ignore", **options.pop("env", {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **options,
        )

    def snakemake(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run Snakemake to its end with the profile of CI."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=300)
        assert not check or process.returncode == 0, output
        return subprocess.CompletedProcess(process.args, process.returncode, output, "")

    def zarrmill(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run the command line."""
        code = "from zarrmill.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=self.path,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def plan(self) -> dict[str, Any]:
        """Plan and return ``plan.json``."""
        done = self.zarrmill("plan")
        assert done.returncode in (0, 3), done.stdout + done.stderr
        return dict(json.loads(self.state.plan_json.read_text()))

    def jobs(self, *arguments: str) -> Counter[str]:
        """Return what Snakemake would run: rule to number of jobs."""
        argv = [
            "-n",
            *arguments,
            "--snakefile",
            str(ROOT / "workflow/Snakefile"),
            "--cores",
            "2",
            *self.storage,
            *self.configfile,
        ]
        if self.storage:  # the server's environment does not lead to the bucket of this test
            command = [sys.executable, "-m", "snakemake", *argv]
            done = subprocess.run(command, cwd=self.path, capture_output=True, text=True, timeout=120, check=False)
            code, output = done.returncode, done.stdout + done.stderr
        else:
            log = self.path / "dry-run.log"
            code = fork_server().run(self.path, argv, log)
            output = log.read_text()
        assert code == 0, output
        table = re.findall(r"^(\w+)\s+(\d+)$", output, re.MULTILINE)
        return Counter({rule: int(n) for rule, n in table if rule not in ("total", "all")})
