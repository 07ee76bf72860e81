"""``environment.yml`` is the conda face of the lock file, and the lock file names no host."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()


def locked() -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.-]+)==([^ ;\\]+)", LOCK, re.MULTILINE))


def test_conda_environment_has_the_locked_versions_of_every_direct_dependency():
    project = (ROOT / "pyproject.toml").read_text().split("[project.scripts]")[0]
    direct = set(re.findall(r'^  "([A-Za-z0-9-]+)(?:\[[a-z]+\])?[><=]', project, re.MULTILINE))
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in dependencies if isinstance(entry, dict))
    pins = dict(entry.split("=", 1) for entry in dependencies if isinstance(entry, str) and "=" in entry)
    pins |= {name.split("[")[0]: version for name, version in (e.split("==") for e in pip if "==" in e)}
    assert pins.pop("python") == (ROOT / ".python-version").read_text().strip()
    assert pins == {name: locked()[name] for name in direct}


def test_lock_holds_hashes_and_no_host():
    assert "://" not in LOCK
    entries = re.findall(r"^[a-z0-9.-]+==.*(?:\n    --hash=.*)*", LOCK, re.MULTILINE)
    assert all("--hash=sha256:" in entry for entry in entries)
