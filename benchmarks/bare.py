"""The engine without a workflow: convert, validate and stac of planned products, called as the scripts of the rules call them.

python -m benchmarks.bare VERB JSON, where the JSON has the verb's arguments; the answer is one line of JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from zarrmill.config import load_recipes, load_settings
from zarrmill.io import bucket
from zarrmill.io.manifest import read_manifest
from zarrmill.io.process import keep_memory
from zarrmill.io.record import read_record, write_record
from zarrmill.io.state import PRODUCT_STAGES, State
from zarrmill.model import ConvertReceipt, PlanRecord, Product, ValidationReport

Answer = dict[str, float | int]


class Clock:
    """Wall and CPU seconds from its creation on."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Return both."""
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


class Engine:
    """The stages of one planned run; records go where the workflow puts them."""

    def __init__(self, folder: str, threads: int) -> None:
        os.chdir(folder)
        keep_memory()
        self.settings, self.threads = load_settings(Path("config/config.yaml")), threads
        bucket.use(self.settings.s3)
        self.recipes, self.state = load_recipes(self.settings), State.of(self.settings)
        self.products = read_manifest(self.state.manifest)

    def seconds(self, stage: str, product: Product) -> tuple[float, float]:
        """Carry out one stage; return wall and CPU seconds of the call alone; reading and writing records is not counted."""
        calls: dict[str, Callable[[Product], tuple[float, float]]] = {
            "convert": self._convert,
            "validate": self._validate,
            "stac": self._stac,
        }
        return calls[stage](product)

    def _convert(self, product: Product) -> tuple[float, float]:
        from zarrmill.stages.convert import convert

        clock = Clock()
        receipt = convert(
            product,
            recipe=self.recipes[product.product_type],
            store_root=self.settings.store_root,
            threads=self.threads,
            fetch=self.settings.source,
        )
        taken = clock.read()
        write_record(receipt, self.state.target("convert", product))
        return taken

    def _validate(self, product: Product) -> tuple[float, float]:
        from zarrmill.stages.validate import validate

        receipt = read_record(ConvertReceipt, self.state.target("convert", product))
        clock = Clock()
        report = validate(
            receipt.store,
            source=product.href,
            recipe=self.recipes[product.product_type],
            product=product,
            threads=self.threads,
            fetch=self.settings.source,
        )
        taken = clock.read()
        write_record(report, self.state.target("validate", product))
        return taken

    def _stac(self, product: Product) -> tuple[float, float]:
        from zarrmill.stages.stac import stac, write_item

        record = read_record(PlanRecord, self.state.target("plan", product))
        receipt = read_record(ConvertReceipt, self.state.target("convert", product))
        report = read_record(ValidationReport, self.state.target("validate", product))
        clock = Clock()
        recipe = self.recipes[product.product_type]
        item = stac(record, receipt, report, settings=self.settings, recipe=recipe, state=self.state)
        taken = clock.read()
        write_item(item, self.state.target("stac", product))
        return taken


def stage(folder: str, name: str, threads: int) -> Answer:
    """Carry out one stage of the first product, in a process of its own as a job of the workflow is one."""
    engine = Engine(folder, threads)
    wall_s, cpu_s = engine.seconds(name, engine.products[0])
    return {"wall_s": round(wall_s, 3), "cpu_s": round(cpu_s, 3)}


def load(folder: str, workers: int, threads: int) -> Answer:
    """Carry out all stages of all products in worker processes that stay, and return the seconds of all calls by stage."""
    n = len(Engine(folder, threads).products)
    told = dict.fromkeys(PRODUCT_STAGES, 0.0)
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (os.getcwd(), threads)) as pool:
        for taken in pool.map(_all_stages, range(n)):
            told = {name: round(told[name] + taken[name], 3) for name in told}
    return {"n_products": n, **told}


_engine: Engine | None = None


def _begin(folder: str, threads: int) -> None:
    global _engine
    _engine = Engine(folder, threads)


def _all_stages(index: int) -> dict[str, float]:
    assert _engine is not None
    return {name: _engine.seconds(name, _engine.products[index])[0] for name in PRODUCT_STAGES}


def main() -> None:
    """Carry out one verb."""
    verbs: dict[str, Callable[..., Answer]] = {"stage": stage, "load": load}
    sys.stdout.write("\n" + json.dumps(verbs[sys.argv[1]](**json.loads(sys.argv[2]))) + "\n")


if __name__ == "__main__":
    main()
