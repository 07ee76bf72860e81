"""A run's state folder as the stages leave it, without converting anything: for tests of reports and progress."""

import json
import os
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from zarrmill.config import Settings, parse_settings
from zarrmill.io.manifest import write_manifest
from zarrmill.io.places import Place
from zarrmill.io.record import SCHEMAS, dumps
from zarrmill.io.state import Failures, State
from zarrmill.model import (
    ConvertReceipt,
    FailureRecord,
    Finding,
    Measured,
    PlanRecord,
    Product,
    Severity,
    ValidationReport,
    Verdict,
)

START = datetime(2025, 6, 1, 20, 0, tzinfo=UTC)
FAILURES = (
    ("source-missing", "ZM-SRC-MISSING", "convert", "measurements/reflectance/r10m/b02/4.2: object not found"),
    ("source-timeout", "ZM-SRC-TIMEOUT", "convert", "no answer from objects.example.org within 60 s after 4 retries"),
    ("capacity", "ZM-CAP-MEMORY", "convert", "needs 2310 MB, recipe s2-l2a allows 2000 MB; raise memory_mb or lower threads"),
    (
        "conformance",
        "ZM-CON-STORE",
        "validate",
        "verdict FAIL, 2 errors, first values.level at measurements/reflectance/r20m/b05",
    ),
)
TILES = [f"{zone}T{row}{column}" for zone in (31, 32, 33) for row in "NPQRS" for column in "HJKLM"]


@dataclass(frozen=True)
class FakeRun:
    """A run that was written to disk."""

    settings: Settings
    state: State
    workdir: Path
    products: tuple[Product, ...]
    n_failed: int = 0
    n_waiting: int = 0

    def with_outcome(self, outcome: str) -> list[Product]:
        """Products that were given this outcome: ``ok``, ``failed`` or ``waiting``."""
        return [product for index, product in enumerate(self.products) if outcome_of(index, self) == outcome]


def outcome_of(index: int, run: FakeRun) -> str:
    """The last ``n_waiting`` products wait, the ``n_failed`` before them failed."""
    ready = len(run.products) - run.n_waiting
    return "waiting" if index >= ready else "failed" if index >= ready - run.n_failed else "ok"


def fake_products(n: int) -> tuple[Product, ...]:
    """Return ``n`` different products, newest first; every fifth is an L1C."""
    products = []
    for index in range(n):
        tile = TILES[index % len(TILES)]
        when = datetime(2025, 5, 31, 10, 20, 31, tzinfo=UTC) - timedelta(days=index // len(TILES) * 5 + index % 3)
        kind = "L1C" if index % 5 == 4 else "L2A"
        stamp = f"{when:%Y%m%dT%H%M%S}"
        product_id = (
            f"S2{'AB'[index % 2]}_MSI{kind}_{stamp}_N0511_R{index % 143 + 1:03d}_T{tile}_{when:%Y%m%d}T15{index % 6000:04d}"
        )
        products.append(
            Product(
                collection=f"sentinel-2-{kind.lower()}",
                product_id=product_id,
                datetime=f"{when:%Y-%m-%dT%H:%M:%SZ}",
                product_type=f"S02MSI{kind}",
                href=f"https://objects.example.org/eopf/{product_id}.zarr",
                item_href="",
                recipe=f"s2-{kind.lower()}",
                digest=f"{(index * 2654435761) % 2**32:08x}",
                source_fingerprint=f"{index:064x}",
                n_bytes=1_900_000_000,
                n_objects=380,
                mem_mb=2000,
            )
        )
    return tuple(products)


def fake_items(products: Sequence[Product]) -> list[dict[str, Any]]:
    """Return items as a catalogue serves them, without geometry; their stable fields identify the source."""
    return [
        {
            "type": "Feature",
            "stac_version": "1.1.0",
            "id": product.product_id,
            "collection": product.collection,
            "geometry": None,
            "properties": {"datetime": product.datetime, "product:type": product.product_type},
            "links": [],
            "assets": {"product": {"href": product.href, "type": "application/vnd+zarr", "roles": ["data", "metadata"]}},
        }
        for product in products
    ]


def price_list(**values: float) -> dict[str, Any]:
    """Return a price list by which one core second costs 0.001 EUR and a GB kept 2 EUR; everything is looked up."""
    numbers = {
        "core_hour_eur": 3.6,
        "gb_month_eur": 1.0,
        "months_kept": 2.0,
        "put_1000_eur": 10.0,
        "jobs": 4.0,
        "put_limit_per_s": 100.0,
        "source_mb_per_s": 50.0,
    }
    figures = {name: {"value": value, "source": "a test"} for name, value in (numbers | values).items()}
    return {"dated": "2025-06-01", **figures}


def fake_run(
    root: Path,
    n: int = 12,
    *,
    n_failed: int = 0,
    n_waiting: int = 0,
    thumbnails: bool = True,
    prices: dict[str, Any] | None = None,
) -> FakeRun:
    """Write a run of ``n`` products below ``root``: most ok, the last ones waiting, those before them failed."""
    settings = parse_settings(
        {"run": "demo", "source": {"catalogue": "items.json"}, "recipes": [str(path) for path in _recipes(root)]}
    )
    products = fake_products(n)
    run = FakeRun(settings, State.of(settings, root), root, products, n_failed, n_waiting)
    write_manifest(products, run.state.manifest)
    cloudy = [{"product_id": f"CLOUDY_{i}", "class": "skipped", "skipped_by": "max_cloud_cover"} for i in range(n // 4)]
    told = {"skipped": {"datetime": 7, "max_cloud_cover": len(cloudy)}, "totals": {"refused": 0, "unknown": 0}}
    run.state.plan_json.write_text(dumps({"schema": "zarrmill/planned/1", "products": cloudy, "prices": prices, **told}))
    for index, product in enumerate(products):
        write_quick(PlanRecord(product, {"geometry": footprint(index)}), run.state.target("plan", product))
        outcome = outcome_of(index, run)
        if outcome == "ok":
            write_ok(run.state, product, index, thumbnail=thumbnails and index < 80)
        elif outcome == "failed":
            write_failure(run.state, product, index, FAILURES[index % len(FAILURES)])
    return run


def write_quick(record: Any, place: Place) -> None:
    """Write a record as ``write_record`` does, without waiting for the disk."""
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dumps({"schema": SCHEMAS[type(record)], **asdict(record)}))


def write_ok(state: State, product: Product, index: int, *, thumbnail: bool = True) -> None:
    """Write receipt, validation report, item and thumbnail of one product."""
    rng = random.Random(index)
    begin = START + timedelta(seconds=index * 37)
    wall = rng.gauss(104, 18) + (240 if index % 97 == 13 else 0)
    n_objects = 470 if index % 83 == 7 else int(rng.gauss(352, 26))
    write_quick(
        ConvertReceipt(
            product=product,
            store=f"results/stores/{product.store_path}",
            recipe_digest="a" * 64,
            tree_sha256="b" * 64,
            root_sha256="c" * 64,
            n_objects=n_objects,
            n_bytes=int(product.n_bytes / rng.gauss(3.1 if product.recipe == "s2-l2a" else 2.4, 0.25)),
            n_bytes_source=product.n_bytes,
            findings=_noticed(index),
            adopted=False,
            measured=measured(begin, wall, 1.4e9 + rng.gauss(0, 9e7)),
        ),
        state.target("convert", product),
    )
    write_report(state, product, index, n_objects, begin + timedelta(seconds=wall), rng)
    write_item(state, product, index)
    write_benchmark(state, product, "stac", 2.0 + index % 10 / 10)
    if thumbnail:
        write_thumbnail(state, product, index)


def write_report(state: State, product: Product, index: int, n_objects: int, begin: datetime, rng: random.Random) -> None:
    """Write the validation report of one product."""
    warned = index % 17 == 3
    write_quick(
        ValidationReport(
            store=f"results/stores/{product.store_path}",
            source=product.href,
            verdict=Verdict.WARN if warned else Verdict.PASS,
            score=round(rng.uniform(93, 99), 1) if warned else 100.0,
            n_checks=412,
            findings=_warned(warned, n_objects),
            depth="full",
            sample="all pixels",
            n_pixels_compared=120_560_400,
            readers={"xarray": "ok", "rasterio": "ok"},
            measured=measured(begin, rng.gauss(41, 6), 0.9e9 + rng.gauss(0, 5e7)),
            product=product,
        ),
        state.target("validate", product),
    )


def write_failure(state: State, product: Product, index: int, kind: Sequence[str]) -> None:
    """Write the failure record and the log of one product; a product that failed in ``validate`` has its receipt."""
    failure_class, code, stage, message = kind
    log = Path("results") / "demo" / "logs" / stage / product.collection / product.day / f"{product.name}.log"
    place = Path(state.root).parent.parent / log
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(message + "\n")
    finding = Finding("values.level", Severity.ERROR, "measurements/reflectance/r20m/b05", "level 20 m differs by up to 4")
    record = FailureRecord(
        run="demo",
        stage=stage,
        product=product,
        failure_class=failure_class,
        code=code,
        message=f"{product.product_id}: {message}",
        when="2025-06-01T21:00:00Z",
        log=str(log),
        findings=(finding,) if failure_class == "conformance" else (),
        measured=measured(START + timedelta(seconds=index * 37), 12.5, 7e8),
    )
    attempt = Failures(state).next_attempt(product)
    write_quick(record, state.failure(failure_class, product, stage, attempt))


def write_item(state: State, product: Product, index: int) -> None:
    """Write a STAC item that has what a report reads of it."""
    item = {"type": "Feature", "stac_version": "1.1.0", "id": product.product_id, "geometry": footprint(index)}
    path = Path(state.target("stac", product))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(item))
    moment = (START + timedelta(seconds=index * 37 + 150)).timestamp()
    os.utime(path, (moment, moment))


def write_benchmark(state: State, product: Product, stage: str, seconds: float) -> None:
    """Write a benchmark file as Snakemake does."""
    path = Path(state.root) / "benchmarks" / stage / product.collection / product.day / f"{product.name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    header = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time"
    path.write_text(f"{header}\n{seconds:.4f}\t0:00:02\t210.50\t900.00\t190.00\t195.00\t0.00\t0.10\t88.00\t1.90\n")


def write_thumbnail(state: State, product: Product, index: int) -> None:
    """Write a small PNG with a transparent corner."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(index)
    coarse = rng.uniform(0, 1, (9, 9))
    field = np.asarray(Image.fromarray((coarse * 255).astype("u1")).resize((172, 172), Image.Resampling.BICUBIC)) / 255
    land = np.stack([70 + 90 * field, 92 + 60 * field, 58 + 40 * field], axis=-1)
    cloud = np.clip((field[::-1, ::-1] - 0.62) * 6, 0, 1)[..., None]
    rows, columns = np.mgrid[:172, :172]
    alpha = np.where(rows + columns < 40 * (index % 3), 0, 255)[..., None]
    pixels = np.concatenate([land * (1 - cloud) + 245 * cloud, alpha], axis=-1).astype("u1")
    Image.fromarray(pixels).save(state.thumbnail(product))


def footprint(index: int) -> dict[str, object]:
    """Outline of the tile of product ``index``: about one degree, slightly sheared as Sentinel-2 tiles are."""
    tile = index % len(TILES)
    west, south = 2.0 + tile // 5 * 1.32, 42.0 + tile % 5 * 0.92
    ring = [[west, south], [west + 1.36, south + 0.03], [west + 1.39, south + 1.01], [west, south + 0.98], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def measured(start: datetime, wall_s: float, peak: float) -> Measured:
    """What a stage cost."""
    return Measured(
        started=f"{start:%Y-%m-%dT%H:%M:%SZ}",
        wall_s=round(wall_s, 3),
        cpu_s=round(wall_s * 1.6, 3),
        peak_rss_bytes=int(peak),
        threads=2,
        steps_s={"read": round(wall_s * 0.4, 2), "write": round(wall_s * 0.5, 2)},
        software={"zarrmill": "0.1.0", "zarr": "3.4.0", "numpy": "2.5.5"},
    )


def _noticed(index: int) -> tuple[Finding, ...]:
    if index % 6:
        return ()
    return (Finding("source.chunk_missing", Severity.INFO, "quality/mask/r60m/b10", "1 chunk is absent and reads as fill value"),)


def _warned(warned: bool, n_objects: int) -> tuple[Finding, ...]:
    found = []
    if warned:
        found.append(Finding("source.crs_text", Severity.WARNING, "/", "proj:epsg and the grid's CRS are spelled differently"))
    if n_objects > 450:
        found.append(Finding("objects.budget", Severity.WARNING, "/", f"{n_objects} objects, budget 450"))
    return tuple(found)


def _recipes(root: Path) -> list[Path]:
    paths = []
    for kind in ("L2A", "L1C"):
        path = root / "config" / "recipes" / f"s2-{kind.lower()}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"name: s2-{kind.lower()}\nproduct_types: [S02MSI{kind}]\n")
        paths.append(path.relative_to(root))
    return paths
