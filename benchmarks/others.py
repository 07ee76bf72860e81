"""The converter that others use, ``eopf-geozarr``, in an environment of its own, and its values beside ours.

python -m benchmarks.others OURS SOURCE INTEGERS FLOAT32 > values.json
"""

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr

PINS = ("eopf-geozarr==0.12.0", "xarray==2026.7.0")
SHOWN = ("eopf-geozarr", "xarray", "zarr", "numcodecs", "dask", "numpy")
CHUNK_PX = 915
"""Chunk edge that they are asked for: ours."""
CLEVEL = 3
"""Compression level that they write; their option for it does not reach the encoder."""
STRIPE_ROWS = 1830
WHY = (
    "Arrays that the source has are copied by both and are equal. Of the levels that are computed: (1) where no pixel is valid "
    "ours says no data (DN 0), theirs DN 1000, reflectance zero: their mean is filled with 0 after decoding. (2) Means that end "
    "in a half are rounded to even by ours, by the noise of decoded floats in theirs: they differ by 1. (3) A valid pixel of DN "
    "1000 counts in ours; theirs takes its reflectance, zero, for no data. (4) At the edge of the data theirs averages each "
    "level from the one before, not weighted by how many pixels were valid there; ours averages the pixels of the finest level."
)


def install(uv: str, venv: Path) -> dict[str, str]:
    """Make the environment when it is not there; return its versions."""
    python = venv / "bin/python"
    if not (venv / "bin/eopf-geozarr").exists():
        subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(venv)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *PINS], check=True)
    code = f"import json; from importlib.metadata import version; print(json.dumps({{n: version(n) for n in {SHOWN}}}))"
    answer = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)
    return dict(json.loads(answer.stdout))


def command(venv: Path, source: str, target: str, *options: str) -> list[str]:
    """Return the command that converts ``source``."""
    fixed = ("--enable-sharding", "--spatial-chunk", str(CHUNK_PX))
    return [str(venv / "bin/eopf-geozarr"), "convert-s2-optimized", source, target, *fixed, *options]


def radar_command(venv: Path, source: str, target: str) -> list[str]:
    """Return the command that converts a radar product: both polarisations, to EPSG:4326, their only target."""
    fixed = ("--groups", "/measurements", "--gcp-group", "/conditions/gcp", "--spatial-chunk", "1024", "--enable-sharding")
    return [str(venv / "bin/eopf-geozarr"), "convert", source, target, *fixed]


def compare(ours: str, source: str, integers: str, float32: str) -> dict[str, Any]:
    """Return where their rasters (integers kept) differ from ours, and which dtypes their float32 mode changes."""
    mine, given, theirs = (dict(_rasters(path)) for path in (ours, source, integers))
    common = sorted(set(mine) & set(theirs))
    rows = [_differences(path, mine[path], theirs[path]) | {"kind": "source" if path in given else "computed"} for path in common]
    floats = dict(_rasters(float32))
    changed = sorted(path for path in set(floats) & set(given) if floats[path].dtype != given[path].dtype)
    return {
        "why": WHY,
        "arrays": rows,
        "only_ours": sorted(set(mine) - set(theirs)),
        "only_theirs": sorted(set(theirs) - set(mine)),
        "float32_dtype_changed": [f"{path}: {given[path].dtype} to {floats[path].dtype}" for path in changed],
    }


def _rasters(path: str) -> Iterator[tuple[str, "zarr.Array[Any]"]]:
    for name, node in zarr.open_group(path, mode="r").members(max_depth=None):
        if isinstance(node, zarr.Array) and node.ndim == 2 and "/r" in name:
            yield name, node


def _differences(path: str, ours: "zarr.Array[Any]", theirs: "zarr.Array[Any]") -> dict[str, Any]:
    row: dict[str, Any] = {"path": path, "ours": f"{ours.dtype} {ours.shape}", "theirs": f"{theirs.dtype} {theirs.shape}"}
    if ours.shape != theirs.shape:
        return row | {"n": None, "n_different": None}
    n_different = n_nodata = n_by_one = lower = higher = 0
    for start in range(0, ours.shape[0], STRIPE_ROWS):
        a, b = (np.asarray(array[start : start + STRIPE_ROWS]).astype(np.int64) for array in (ours, theirs))
        gap = b - a
        n_different += int(np.count_nonzero(gap))
        n_nodata += int(np.count_nonzero((a == 0) & (b == 1000)))
        valid = gap[a != 0]
        n_by_one += int(np.count_nonzero(np.abs(valid) == 1))
        if valid.size:
            lower, higher = min(lower, int(valid.min())), max(higher, int(valid.max()))
    sizes = {"n": int(np.prod(ours.shape)), "n_different": n_different}
    kinds = {"n_filled": n_nodata, "n_by_one": n_by_one, "lowest": lower, "highest": higher}
    return row | sizes | kinds


def main() -> None:
    """Compare and print."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr warns of text dtypes whose final form is open
        sys.stdout.write(json.dumps(compare(*sys.argv[1:5])) + "\n")


if __name__ == "__main__":
    main()
