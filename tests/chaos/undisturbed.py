"""What undisturbed conversions of the same products write: ``python -m chaos.undisturbed FOLDER``, run in a user's folder.

For every product of the backfill's manifests, or a seeded share of them, a conversion to disk on this machine; prints JSON:
name of the store to the digest of its root and to size and md5 of each object. With these the stores in the bucket are compared
by a listing.
"""

import hashlib
import json
import random
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

Stores = dict[str, dict[str, Any]]  # Any: JSON values


def main(folder: Path, name: str, n_most: int, seed: int) -> Stores:
    """Convert and digest; ``folder`` is used for one store at a time."""
    from zarrmill.config import load_settings
    from zarrmill.io import bucket
    from zarrmill.io.manifest import read_manifest
    from zarrmill.io.state import State
    from zarrmill.runs.backfill import runs_of

    settings = load_settings(Path("config/config.yaml"))
    bucket.use(settings.s3)
    runs = runs_of(settings.model_copy(update={"run": name}))
    products = [one for run in runs for one in read_manifest(State.of(settings.model_copy(update={"run": run})).manifest)]
    chosen = random.Random(seed).sample(products, min(n_most, len(products)))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        made = pool.map(_converted, chosen, [folder] * len(chosen), chunksize=8)
        return dict(sorted(zip((one.store_path for one in chosen), made, strict=True)))


def _converted(product: Any, folder: Path) -> dict[str, Any]:  # the values that JSON takes
    from zarrmill.config import load_recipes, load_settings
    from zarrmill.stages.convert import convert

    settings = load_settings(Path("config/config.yaml"))
    recipe = load_recipes(settings)[product.product_type]
    receipt = convert(product, recipe=recipe, store_root=str(folder), threads=1, fetch=settings.source)
    store = Path(receipt.store)
    files = sorted(path for path in store.rglob("*") if path.is_file())
    objects = {path.relative_to(store).as_posix(): _facts(path.read_bytes()) for path in files}
    shutil.rmtree(store)
    return {"root_sha256": receipt.root_sha256, "objects": objects}


def _facts(data: bytes) -> list[Any]:
    return [len(data), hashlib.md5(data, usedforsecurity=False).hexdigest()]


if __name__ == "__main__":
    told = main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    sys.stdout.write(json.dumps(told))
