"""The measured side: one verb of zarrmill in a process of its own, as a job of the workflow runs it.

python -m benchmarks.ours VERB JSON, where the JSON has the verb's arguments; the answer is one line of JSON.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zarrmill.config import Recipe, load_recipe, product_digest
from zarrmill.io.objects import Objects
from zarrmill.io.process import keep_memory, spare_collector
from zarrmill.io.source import read_tree
from zarrmill.model import Product

ROOT = Path(__file__).parent.parent
OPTICAL, OPTICAL_L1C, RADAR = "S02MSIL2A", "S02MSIL1C", "S01SIWGRH"
RECIPES = {OPTICAL: "s2-l2a", OPTICAL_L1C: "s2-l1c", RADAR: "s1-grd"}
COLLECTIONS = {OPTICAL: "sentinel-2-l2a", OPTICAL_L1C: "sentinel-2-l1c", RADAR: "sentinel-1-l1-grd"}
Answer = dict[str, Any]  # Any: JSON values


def recipe(product_type: str = OPTICAL, depth: str = "full", clevel: int | None = None) -> Recipe:
    """Return the shipped recipe; with another depth of validation, or another level in blosc's own blocks, where asked for."""
    values = load_recipe(ROOT / f"config/recipes/{RECIPES[product_type]}.yaml").model_dump()
    values["validation"]["depth"] = depth
    if clevel is not None:
        values["pixels"]["codec"] |= {"clevel": clevel, "clevels": {}, "blocksize": 0}
    return Recipe.model_validate(values)


def sample(root: str, size_px: int, pixels: str, product_type: str = OPTICAL) -> Answer:
    """Build the source product once and return its path."""
    from zarrmill.sample import SampleSpec, build_product

    spec = SampleSpec(product_type=product_type, size_px=size_px, pixels=pixels)  # type: ignore[arg-type]  # checked by argparse
    return {"product": str(build_product(spec, Path(root)))}


def archive(root: str, size_px: int, pixels: str, n: int) -> Answer:
    """Build ``n`` products of as many days once and return the path of their item collection."""
    from zarrmill.sample import build_archive

    return {"items": str(build_archive(Path(root), size_px=size_px, n_days=n, products_per_day=1, pixels=pixels))}  # type: ignore[arg-type]  # as above


def grd(root: str, lines: int, samples: int) -> Answer:
    """Build a radar product of two polarisations once and return its path; its pixels are synthetic speckle."""
    from zarrmill.sample import GrdSpec, build_grd

    return {"product": str(build_grd(GrdSpec(shape=(lines, samples)), Path(root)))}


def layout(source: str, target: str) -> Answer:
    """Write what the floor has to do: source arrays and all that is made from them, as the engine plans it."""
    from zarrmill.stages.convert import plan_store

    objects, chosen = Objects(source), recipe()
    plan = plan_store(objects, read_tree(objects), OPTICAL, chosen)
    rasters = [
        {
            "source": task.source.path,
            "rule": task.rule,
            "dtype": task.source.dtype,
            "shape": task.source.shape,
            "chunks": task.source.chunks,
            "separator": task.source.encoding.get("dimension_separator", "."),
            "outputs": [
                {"factor": factor, "path": out.path, "shape": out.shape, "chunks": out.chunks, "shards": out.shards}
                | {"codec": chosen.pixels.codec.of(out.path).model_dump()}
                for factor, out in task.outputs
            ],
        }
        for task in plan.rasters
    ]
    Path(target).write_text(json.dumps({"source": source, "rasters": rasters}))
    return {"n_bytes": plan.n_bytes, "n_arrays": len(rasters), "codec": chosen.pixels.codec.model_dump()}


def convert(source: str, root: str, threads: int, product_type: str = OPTICAL, clevel: int | None = None) -> Answer:
    """Convert with everything on and return the receipt's numbers."""
    from zarrmill.stages.convert import convert as stage

    chosen = recipe(product_type, clevel=clevel)
    receipt = stage(_product(source, product_type, chosen), recipe=chosen, store_root=root, threads=threads)
    told = {"store": receipt.store, "tree_sha256": receipt.tree_sha256, "stage_s": receipt.measured.wall_s}
    return told | {"steps_s": dict(receipt.measured.steps_s)}


def validate(source: str, root: str, depth: str, threads: int, product_type: str = OPTICAL) -> Answer:
    """Validate the store that ``convert`` left below ``root``."""
    from zarrmill.stages.validate import validate as stage

    chosen = recipe(product_type, depth)
    product = _product(source, product_type, chosen)
    report = stage(str(Path(root, product.store_path)), source=source, recipe=chosen, product=product, threads=threads)
    told = {"verdict": report.verdict.value, "score": report.score, "sample": report.sample}
    told |= {"n_pixels": report.n_pixels_compared, "stage_s": report.measured.wall_s}
    return told | {"steps_s": dict(report.measured.steps_s)}


def _product(source: str, product_type: str, chosen: Recipe) -> Product:
    fingerprint = read_tree(Objects(source)).fingerprint
    return Product(
        collection=COLLECTIONS[product_type],
        product_id=Path(source).stem,
        datetime="2025-01-13T15:43:09Z",
        product_type=product_type,
        href=source,
        item_href="",
        recipe=chosen.name,
        digest=product_digest(chosen, fingerprint),
        source_fingerprint=fingerprint,
        n_bytes=0,
        n_objects=0,
        mem_mb=chosen.memory_mb,
    )


def main() -> None:
    """Carry out one verb, in a process with the settings of a job."""
    spare_collector()
    keep_memory()
    verbs: tuple[Callable[..., Answer], ...] = (sample, archive, grd, layout, convert, validate)
    verb = next(verb for verb in verbs if verb.__name__ == sys.argv[1])
    sys.stdout.write(json.dumps(verb(**json.loads(sys.argv[2]))) + "\n")


if __name__ == "__main__":
    main()
