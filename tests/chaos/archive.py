"""The source archive of a chaos backfill: Sentinel-1 GRD products of one polarisation, as small as they come, all different."""

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import yaml

from zarrmill.sample.s1 import GrdSpec, build_grd, grd_item, synthetic_scene

FIRST_DAY = date(2025, 3, 1)


@dataclass(frozen=True, slots=True)
class Archive:
    """Products below ``root``, listed in ``items.json``."""

    root: Path
    ids: tuple[str, ...]
    """Newest first."""
    first: date
    last: date

    @property
    def catalogue(self) -> Path:
        """Item collection that lists every product."""
        return self.root / "items.json"


def build(root: Path, n_products: int, n_days: int) -> Archive:
    """Build the products; each has pixels of its own."""
    features, ids = [], []
    for index in range(n_products):
        day, place = index * n_days // n_products, index
        moment = datetime(FIRST_DAY.year, FIRST_DAY.month, FIRST_DAY.day, 4, tzinfo=UTC) + timedelta(days=day, seconds=40 * place)
        spec = GrdSpec(shape=(48, 64), form="flat", acquired=moment, polarisations=("VV",), chunks=(48, 64), seed=index)
        scene = synthetic_scene(spec)
        path = build_grd(spec, root / "products", scene)
        item = grd_item(spec, scene, path)
        item["assets"]["product"]["href"] = f"./products/{path.name}"
        features.append(item)
        ids.append(path.stem)
    collection = {"type": "FeatureCollection", "features": features, "links": []}
    (root / "items.json").write_text(json.dumps(collection))
    return Archive(root, tuple(reversed(ids)), FIRST_DAY, FIRST_DAY + timedelta(days=n_days - 1))


def recipe(text: str) -> str:
    """Return the recipe of the project with chunks for tiny products and two levels."""
    body = yaml.safe_load(text)
    body["pixels"] |= {"levels_m": [10, 20], "chunk_px": 64, "shard_px": 128}
    body["validation"]["readers"] = []
    body["memory_mb"] = 500
    return yaml.safe_dump(body)
