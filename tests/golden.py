"""Small sources with fixed pixels, recipes spelled out, and the digests of their stores: ``python tests/golden.py`` renews them.

The pixels are a pattern of integers, so that no generator of random numbers has a say.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from builders import build_test_product
from products import product_row

from zarrmill.config import Recipe
from zarrmill.model import ConvertReceipt
from zarrmill.sample.s1 import GrdSpec, build_grd
from zarrmill.stages.convert import convert

DIGESTS = (Path(__file__).parent / "golden.json", Path(__file__).parent / "golden_completed.json")
TYPES = (
    {"l2a": "S02MSIL2A", "l2a-v3": "S02MSIL2A", "l1c": "S02MSIL1C", "grd": "S01SIWGRH"},
    {"l2a-v3-completed": "S02MSIL2A"},
)
"""Kind to product type, by file of digests."""
KINDS = {kind: product_type for types in TYPES for kind, product_type in types.items()}


def recipe_of(kind: str) -> Recipe:
    """Return the recipe of one kind of source."""
    pixels: dict[str, Any] = {
        "levels_m": (10, 20, 60, 120, 360) if kind != "grd" else (10, 20, 40, 80),
        "overviews": ("conditions/mask/l2a_classification", "quality/mask") if kind.startswith("l2a") else (),
        "chunk_px": 40,
        "shard_px": 80,
        "codec": {"cname": "zstd", "clevel": 2, "shuffle": "shuffle", "blocksize": 1 << 20},
        "quicklook": False,
        "zarr3_source": "complete" if kind.endswith("-completed") else "relayout",
        "mandatory": (),
        "grd": {"crs": "utm", "resampling": "bilinear", "calibration": "none"} if kind == "grd" else None,
    }
    return Recipe.model_validate({"name": f"golden-{kind}", "product_types": [KINDS[kind]], "pixels": pixels})


def build_source(kind: str, root: Path) -> Path:
    """Write the source of one kind below ``root`` and return its path."""
    if kind == "grd":
        path = build_grd(GrdSpec(shape=(130, 170)), root)
    else:
        path = build_test_product(root, KINDS[kind], layout="v3" if "-v3" in kind else "5490")  # type: ignore[arg-type]
    _paint(path)
    return path


def _paint(product: Path) -> None:
    """Put the pattern into every array of integers that is a raster; a band of it is no data."""
    import zarr

    for _, array in zarr.open_group(product, mode="r+").members(max_depth=None):
        if isinstance(array, zarr.Array) and array.ndim > 1 and array.dtype.kind == "u" and min(array.shape[-2:]) > 20:
            row, column = np.indices(array.shape[-2:])
            values = (row * 7919 + column * 104_729 + (row // 9) * (column // 7) * 31) % (np.iinfo(array.dtype).max + 1)
            values[row // 5 % 4 == 1] = 0
            array[...] = np.broadcast_to(values.astype(array.dtype), array.shape)


def run(kind: str, source: Path, root: Path | str, threads: int) -> ConvertReceipt:
    """Convert a source into a folder or a bucket."""
    recipe = recipe_of(kind)
    return convert(product_row(source, recipe, KINDS[kind]), recipe=recipe, store_root=str(root), threads=threads)


def digest_of(receipt: ConvertReceipt) -> str:
    """Return one digest over every object of a store."""
    return hashlib.sha256(f"{receipt.tree_sha256} {receipt.root_sha256}".encode()).hexdigest()


def committed(kind: str) -> str:
    """Return the digest that a kind has to have."""
    return str({name: digest for file in DIGESTS for name, digest in json.loads(file.read_text()).items()}[kind])


def main() -> None:
    """Write the digests of today's bytes."""
    for file, types in zip(DIGESTS, TYPES, strict=True):
        digests = {}
        for kind in types:
            with tempfile.TemporaryDirectory() as folder:
                source = build_source(kind, Path(folder, "source"))
                digests[kind] = digest_of(run(kind, source, Path(folder, "stores"), 1))
        file.write_text(json.dumps(digests, indent=2) + "\n")
        sys.stdout.write(file.read_text())


if __name__ == "__main__":
    main()
