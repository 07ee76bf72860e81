"""Runs Snakemake command lines in forks of a process that has imported it: importing takes seconds, a fork none.

Reads one JSON object a line (``cwd``, ``argv``, ``output``) and answers each with the exit code.
"""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path


class ForkServer:
    """Client side: one server process for a test session."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, cwd: Path, argv: list[str], output: Path) -> int:
        """Run ``snakemake argv`` in ``cwd``; stdout and stderr go to ``output``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"cwd": str(cwd), "argv": argv, "output": str(output)}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def stop(self) -> None:
        """End the server."""
        self._process.communicate()


def _child(order: dict[str, object]) -> None:
    from snakemake.cli import main

    os.chdir(str(order["cwd"]))
    handle = os.open(str(order["output"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.argv = ["snakemake", *order["argv"]]  # type: ignore[misc]
    main(order["argv"])


def _serve() -> None:
    warnings.simplefilter("ignore")
    import snakemake.cli  # noqa: F401

    import zarrmill.io.manifest  # noqa: F401

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _child(json.loads(line))
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
