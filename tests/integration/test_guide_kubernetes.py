"""``docs/guides/run-on-kubernetes.md``, tried as it is written."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import yaml
from file_server import file_server
from k8s_server import KubernetesServer
from k8s_server.objects import JOBS, PODS
from kubernetes_run import buckets_and_keys
from s3_server import KEYS, Bucket
from tools import ROOT, program
from until import PATIENCE, until
from workspace import Workspace

GUIDE = ROOT / "docs/guides/run-on-kubernetes.md"


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


def test_commands_of_the_guide_run_a_run(
    cluster: KubernetesServer, s3_bucket: Bucket, workspace: Callable[..., Workspace], tmp_path: Path
) -> None:
    shell = tmp_path / "shell"
    shutil.copytree(ROOT / "deploy", shell / "deploy")
    environment = {**os.environ, "HOME": str(shell), "KUBECONFIG": str(shell / "kubeconfig")}
    environment["PATH"] = f"{Path(program('kubectl')).parent}:{environment['PATH']}"
    cluster.kubeconfig(shell / "kubeconfig", cluster.admin, "default")
    with file_server(tmp_path) as web:
        files, place = buckets_and_keys(cluster, s3_bucket, workspace(n_days=2, products_per_day=1), web)
        edit_overlay(shell / "deploy/k8s/overlays/staging", files, place)
        drop = ["kubectl", "delete", "-k", "deploy/k8s/cluster"]  # the guide has to bring it
        subprocess.run(drop, cwd=shell, env=environment, capture_output=True, timeout=60, check=True)
        outputs = dict[str, str]()
        for command in commands():
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=shell,
                env=environment,
                capture_output=True,
                text=True,
                timeout=240 * PATIENCE,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            outputs[command] = outputs.get(command, "") + done.stdout
            if command.startswith("kubectl logs"):
                until(lambda: all(job["status"].get("conditions") for job in cluster.store.find(JOBS)), timeout_s=120)
    secrets = [value.encode() for value in KEYS["writer"]]
    told = {**s3_bucket.contents(), **{command: text.encode() for command, text in outputs.items()}}
    assert [place for place, data in told.items() if any(secret in data for secret in secrets)] == []
    assert '"ok": 2, "failed": {}' in outputs["kubectl logs --follow job/may-2025"]
    assert outputs["kubectl logs --follow job/may-2025"].count("to do: 0 products") == 1, "the second time"
    assert outputs["kubectl logs --follow job/look"] == "no product failed\n"
    assert "2 products listed in 2 shards" in outputs["kubectl logs --follow job/months"]
    states = [json.loads(text) for key, text in s3_bucket.contents("state/").items() if key.endswith("/summary.json")]
    assert sorted(one["counts"]["ok"] for one in states) == [1, 1, 2, 2]  # two shards, their backfill, and the run
    assert "may-2025" in next(text for command, text in outputs.items() if command.startswith("kubectl get jobs"))
    assert sum(key.endswith(".zarr/zarr.json") and key.count("/") == 4 for key in s3_bucket.keys("stores/")) == 2
    assert (cluster.store.find(JOBS), cluster.store.find(PODS)) == ([], [])


def edit_overlay(folder: Path, files: dict[str, str], place: dict[str, str]) -> None:
    """Set what step 2 of the guide says."""
    for name, text in files.items():
        (folder / name).write_text(text)
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    for generator in kustomization["configMapGenerator"]:
        if generator["name"] == "zarrmill-config":
            generator["files"] = sorted(files)
        if generator["name"] == "zarrmill-place":
            generator["literals"] = [f"{key}={value}" for key, value in place.items()]
        if generator["name"] == "zarrmill-backfill":
            generator["literals"] = ["FROM=2025-01-13", "TO=2025-01-14", "SHARD_PRODUCTS=1", "COMPLETIONS=2"]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
