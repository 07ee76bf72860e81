"""Settings of the process that a stage runs in."""

import atexit
import ctypes
import gc
import os
import signal
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_PR_SET_PDEATHSIG = 1
_COLLECT_AFTER = 50_000


def keep_memory() -> None:
    """Let the process keep freed memory for the next block instead of giving it back.

    glibc returns every large block to the kernel and asks for it again, page by page: full validation of a tile spent 9 s of
    system time on that and 2 s without (and peaked 30 % lower, with one arena for all threads). Other C libraries have no
    ``mallopt`` and are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, 512 << 20), (_M_ARENA_MAX, 1)):
            mallopt(parameter, value)


def spare_collector() -> None:
    """Let Python look for garbage in cycles seldom, and not at all at the end of the process.

    Almost every object lives as long as a process of ours does. To look among them again and again, and once more when the
    interpreter ends, takes 0.15 s of a job that only imports, 0.5 s where readers are imported too, and a fifteenth of the
    seconds in which Snakemake makes a graph. What is not in a cycle is freed and closed as ever.
    """
    gc.set_threshold(_COLLECT_AFTER, 50, 50)
    atexit.register(gc.freeze)


def spare_imports(*names: str) -> None:
    """Let libraries do without modules that they import where they find them, and that this process never uses.

    rioxarray imports dask (70 ms), rasterio boto3 (50 ms): for writing and for buckets.
    """
    sys.modules.update({name: None for name in names if name not in sys.modules})  # type: ignore[misc]  # "import" fails on None


def tell(line: str) -> None:
    """Write one line to stderr in one piece: ``print`` takes two when streams are unbuffered, and jobs share the terminal."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def die_with_parent() -> None:
    """Let this process get SIGTERM when the thread that started it ends, a kill included (Linux); for ``preexec_fn``."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def pin_threads(n: int) -> None:
    """Let libraries use at most ``n`` threads of their own: the workers of a stage are its threads.

    zarr and dask would take a pool as wide as the machine, blosc a second one below each worker. What is imported already is
    told directly, the rest and child processes by environment. OpenMP is pinned by Snakemake for each job, OpenBLAS to one thread
    by ``zarrmill`` itself, before NumPy is imported.
    """
    import numcodecs.blosc

    numcodecs.blosc.use_threads = False
    os.environ |= {
        "ZARR_THREADING__MAX_WORKERS": str(n),
        "ZARR_ASYNC__CONCURRENCY": str(2 * n),
        "DASK_NUM_WORKERS": str(n),
        "GDAL_NUM_THREADS": str(n),
    }
    if zarr := sys.modules.get("zarr"):
        zarr.config.set({"threading.max_workers": n, "async.concurrency": 2 * n})
    if dask := sys.modules.get("dask"):
        dask.config.set(num_workers=n)
