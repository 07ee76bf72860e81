"""Settings of a job's process reach the libraries, whichever was imported first."""

import subprocess
import sys

import pytest

SHOWN = "zarr.config.get('threading.max_workers'), dask.config.get('num_workers'), b.use_threads"
PRINT = f"import zarr, dask, numcodecs.blosc as b; print({SHOWN})"
PIN = "from zarrmill.io.process import pin_threads; pin_threads(3)"


@pytest.mark.parametrize("code", [f"{PIN}; {PRINT}", f"import zarr, dask; {PIN}; {PRINT}"])
def test_pools_of_libraries_are_as_wide_as_the_job(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "3", "False"]
