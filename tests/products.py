"""Recipes, manifest rows and ways to break chunks, for tests of single products."""

from pathlib import Path

from zarrmill.config import Recipe, load_recipe, product_digest
from zarrmill.io.objects import Objects
from zarrmill.io.source import read_tree
from zarrmill.model import Product

ROOT = Path(__file__).parent.parent


def recipe_for(product_type: str, **pixels: object) -> Recipe:
    """Return the shipped recipe of a product type, with small chunks so that small products have many."""
    name = {"S02MSIL2A": "s2-l2a", "S02MSIL1C": "s2-l1c"}[product_type]
    recipe = load_recipe(ROOT / f"config/recipes/{name}.yaml")
    values = {**recipe.pixels.model_dump(), "chunk_px": 60, "shard_px": 120, **pixels}
    return Recipe.model_validate({**recipe.model_dump(), "pixels": values})


def grd_recipe(**changes: object) -> Recipe:
    """Return the shipped recipe of radar images with small chunks; ``changes`` of its pixels."""
    recipe = load_recipe(ROOT / "config/recipes/s1-grd.yaml")
    pixels = {**recipe.pixels.model_dump(), "chunk_px": 64, "shard_px": 128, **changes}
    return Recipe.model_validate({**recipe.model_dump(), "pixels": pixels})


def product_row(source: Path, recipe: Recipe, product_type: str = "S02MSIL2A", fingerprint: str | None = None) -> Product:
    """Return the manifest row of a source product on disk."""
    fingerprint = read_tree(Objects(str(source))).fingerprint if fingerprint is None else fingerprint
    return Product(
        collection="sentinel-2-l2a" if product_type == "S02MSIL2A" else "sentinel-2-l1c",
        product_id=source.stem,
        datetime="2025-01-13T15:43:09Z",
        product_type=product_type,
        href=str(source),
        item_href="",
        recipe=recipe.name,
        digest=product_digest(recipe, fingerprint),
        source_fingerprint=fingerprint,
        n_bytes=0,
        n_objects=0,
        mem_mb=recipe.memory_mb,
    )


def garble_chunk(product: Path, array_path: str, key: str) -> None:
    """Overwrite the start of a chunk's compressed stream, which no decoder can take for data."""
    path = product / array_path / key
    data = path.read_bytes()
    path.write_bytes(data[:16] + b"\xa5" * 48 + data[64:])
