"""Settings of a job's process reach the libraries, whichever was imported first; and what it imports."""

import os
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


HEAVY = {"rich", "pandas", "matplotlib", "boto3", "xarray", "zarr", "dask", "pystac", "rasterio", "pyproj", "shapely"}
HEAVY |= {"jsonschema", "pyarrow", "requests", "typer"}


def test_no_thread_of_blas_spins_whatever_snakemake_asks_for():
    code = "import zarrmill.job, numpy; from pathlib import Path; print(len(list(Path('/proc/self/task').iterdir())))"
    env = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert found.stdout == "1\n"


@pytest.mark.parametrize("stage", ["convert", "validate", "stac"])
def test_a_job_imports_no_large_library_before_it_needs_it(stage):
    code = f"import sys, zarrmill.job, zarrmill.stages.{stage}; print(*{HEAVY!r} & {{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_what_the_log_library_does_without_is_there_for_others():
    code = "from zarrmill.io.logs import logger; logger(); import rich.console; print(rich.console.Console.__name__)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "Console\n"


def test_what_this_process_never_uses_is_not_imported_unless_it_is_already():
    code = """
import sys
from zarrmill.io.process import pin_threads, spare_imports
import boto3
spare_imports("dask", "boto3")
pin_threads(2)
import rioxarray, rasterio.session, xarray
print(rasterio.session.boto3 is boto3, "dask.array" in sys.modules, xarray.DataArray([1, 2]).sum().item())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "3"]


def test_a_driver_records_and_passes_on_parameters_without_pandas():
    code = """
import sys
from zarrmill.io.process import spare_imports
spare_imports("pandas", "polars")
from snakemake.iocontainers import Params, Snakemake
from snakemake.persistence import PersistenceBase
kind = type("Persistence", (PersistenceBase,), dict.fromkeys(PersistenceBase.__abstractmethods__))
recorded, passed = object.__new__(kind), object.__new__(Snakemake)
passed._safely_store_params(Params(toclone=["text", 1]))
print(recorded._serialize_param("text"), *passed.params, sys.modules["pandas"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["'text'", "text", "1", "None"]
