"""Planning many products with the state in a bucket: what it asks of the bucket does not grow with what is there already."""

import json
from collections.abc import Callable
from pathlib import Path

from fake_run import fake_items, fake_products
from fault_proxy import FaultProxy
from s3_server import Bucket
from workspace import ROOT

from zarrmill.config import S3, Settings, load_recipes, parse_settings
from zarrmill.core.planning import PlanClass
from zarrmill.io import bucket as buckets
from zarrmill.io.state import State
from zarrmill.stages.plan import PlanResult, plan, write_plan

N = 1100
"""Products; more than one page of a listing."""


def settings(made: Bucket, folder: Path) -> Settings:
    """Items whose fingerprint is in the item, so that no source is asked for."""
    features = fake_items(fake_products(N))
    (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    recipes = [str(ROOT / f"config/recipes/s2-{kind}.yaml") for kind in ("l2a", "l1c")]
    source = {"catalogue": str(folder / "items.json"), "fingerprint": "item"}
    values = {"state_root": made.href("runs"), "store_root": str(folder / "stores"), "recipes": recipes, "source": source}
    return parse_settings(values)


def test_records_are_written_once_and_found_by_listings(
    s3_bucket: Bucket, proxied: Callable[[str], FaultProxy], tmp_path: Path
) -> None:
    chosen = settings(s3_bucket, tmp_path)
    state, recipes, proxy = State.of(chosen), load_recipes(chosen), proxied(s3_bucket.url)
    buckets.use(S3(endpoint_url=proxy.url))

    def planned() -> PlanResult:
        result = plan(chosen, recipes)
        write_plan(result, state)
        return result

    assert planned().counts[PlanClass.NEW] == N
    assert proxy.count("PUT") == N + 4, "the records, plan.json, plan.html, the manifest and the sentinel"
    assert proxy.count("GET") + proxy.count("HEAD") <= 15
    proxy.clear()
    assert planned().counts[PlanClass.NEW] == N
    assert proxy.count("PUT") == 0, "a second plan writes nothing"
    assert proxy.count() <= 15
    product = planned().products[5]
    state.target("plan", product).write_text("{}")
    proxy.clear()
    planned()
    assert [request.path.rpartition("/")[2] for request in proxy.requests if request.method == "PUT"] == [f"{product.name}.json"]
