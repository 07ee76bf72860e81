"""Programs that tests start and that no Python package brings: where they are, or why a test is skipped."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent


def program(name: str) -> str:
    """Return the path of a program, installed or in ``.tools``; skip the test without it."""
    found = shutil.which(name) or shutil.which(name, path=str(ROOT / ".tools/kubectl/bin"))
    if found is None:
        pytest.skip(f"{name} is not installed: make servers")
    return found


@cache
def rendered(overlay: str) -> str:
    """Return what ``kubectl apply -k`` of an overlay would send."""
    command = [program("kubectl"), "kustomize", str(ROOT / "deploy/k8s/overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def objects(overlay: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the objects of an overlay by kind and name."""
    return {(body["kind"], body["metadata"]["name"]): body for body in yaml.safe_load_all(rendered(overlay))}
