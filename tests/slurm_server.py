"""A Slurm cluster of one node on this machine: munge, controller and node daemon, started for a test and ended by process id."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CONFIG = Path("/etc/slurm/slurm.conf")
"""Where every Slurm program looks; ``srun`` inside a job knows no other place."""
MARK = "# made by the tests of zarrmill\n"

SLURM_CONF = """{mark}ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdParameters=config_overrides
MinJobAge=300
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def slurm() -> Iterator[Path]:
    """Run a cluster until the block ends; return the folder with its logs. Skips the test where that cannot be."""
    programs = {
        name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in ("munged", "slurmctld", "slurmd", "sbatch")
    }
    if missing := [name for name, path in programs.items() if path is None]:
        pytest.skip(f"{', '.join(missing)} not installed: make servers")
    if os.geteuid():
        pytest.skip("a Slurm node needs a superuser to start jobs")
    if CONFIG.exists() and not CONFIG.read_text().startswith(MARK):
        pytest.skip(f"{CONFIG} is another cluster's")
    folder = Path(tempfile.mkdtemp(prefix="zm-slurm-", dir="/tmp"))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        _configure(folder)
        munge = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("key-file", "pid-file", "log-file", "seed-file")]
        _start(processes, folder, str(programs["munged"]), "--foreground", "--force", f"--socket={folder}/munge.sock", *munge)
        _wait((folder / "munge.sock").exists, folder)
        _start(processes, folder, str(programs["slurmctld"]), "-D", "-i")
        _start(processes, folder, str(programs["slurmd"]), "-D", "-N", socket.gethostname().split(".")[0])
        _wait(lambda: "idle" in _output("sinfo", "--noheader", "--format=%t"), folder)
        yield folder
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in reversed(processes):
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        CONFIG.unlink(missing_ok=True)
        CONFIG.with_name("cgroup.conf").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path) -> None:
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    controller, node = _free_ports(2)
    host = socket.gethostname().split(".")[0]
    CONFIG.parent.mkdir(exist_ok=True)
    text = SLURM_CONF.format(mark=MARK, host=host, controller=controller, node=node, folder=folder, cpus=os.cpu_count())
    CONFIG.write_text(text)
    CONFIG.with_name("cgroup.conf").write_text(f"{MARK}CgroupAutomount=no\n")


def _start(processes: "list[subprocess.Popen[bytes]]", folder: Path, *command: str) -> None:
    with (folder / f"{Path(command[0]).name}.out").open("wb") as log:
        processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT))


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout


def _wait(ready: Callable[[], bool], folder: Path, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            logs = "\n".join(f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in folder.glob("*.[lo]*"))
            pytest.skip(f"Slurm does not come up here: {logs}")
        time.sleep(0.1)


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
