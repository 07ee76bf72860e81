"""What the container image brings into a pod of the tests: the same variables as ``deploy/docker/Dockerfile``, other folders."""

import ensurepip
import shutil
import sys
import zipfile
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def make_image(folder: Path) -> Mapping[str, str]:
    """Lay out an image in ``folder`` (programs, wheels of the storage plugins, profiles, workflow); return its environment."""
    (folder / "bin").mkdir(parents=True)
    zarrmill = f'{sys.executable} -c "from zarrmill.cli import main; main()"'
    for name, command in (("pip", _pip()), ("zarrmill", zarrmill), ("snakemake", f"{sys.executable} -m snakemake")):
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        script.chmod(0o755)
    shutil.copy(ROOT / "deploy/docker/driver", folder / "bin")
    wheel_of("snakemake-storage-plugin-s3", folder / "wheels")
    shutil.copytree(ROOT / "profiles", folder / "xdg/snakemake")
    profile = folder / "xdg/snakemake/ovh/config.v9+.yaml"
    # A real run asks for its jobs every 20 seconds.
    profile.write_text(profile.read_text().replace("seconds-between-status-checks: 20", "seconds-between-status-checks: 1"))
    home = folder / "zarrmill"
    for name in ("config", "workflow"):
        shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "environment.yml", home)
    return {
        "PATH": f"{folder}/bin:{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT / "src"),
        "PYTHONWARNINGS": "ignore",
        "HOME": "{workdir}",
        "ZARRMILL_HOME": str(home),
        "XDG_CONFIG_DIRS": f"{folder}/xdg",
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_FIND_LINKS": str(folder / "wheels"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_CONFIG_FILE": "/dev/null",
    }


def wheel_of(name: str, folder: Path) -> Path:
    """Pack an installed pure Python distribution as the wheel that it came from."""
    found = distribution(name)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace('-', '_')}-{found.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file in found.files or ():
            if file.suffix != ".pyc":
                wheel.write(str(file.locate()), str(file))
    return path


def _pip() -> str:
    """Return a pip command that needs none in this environment: the one that Python carries for ``ensurepip``."""
    bundled = sorted((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
    return f"{sys.executable} {bundled[-1]}/pip" if bundled else str(shutil.which("pip"))
