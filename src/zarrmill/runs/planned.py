"""What the plan of a run says beside its manifest: products left out, and what each product costs by the prices of the plan."""

import json
from collections.abc import Sequence

from zarrmill.core.cost import planned_cost
from zarrmill.core.planning import BOUNDS, OF_PRODUCTS
from zarrmill.io.progress import Planned
from zarrmill.io.state import State
from zarrmill.model import Product
from zarrmill.prices import parse_prices


def read_planned(state: State, products: Sequence[Product]) -> Planned:
    """Return what ``plan.json`` says of a run; a plan that is missing or damaged says nothing.

    The prices are those that the plan was made with, so the state alone tells the cost. One read, whatever the products.
    Raises: UnknownStateError: it cannot be read.
    """
    try:
        plan = json.loads(state.plan_json.read_bytes())
        skipped = {str(name): int(n) for name, n in plan["skipped"].items()}
        totals = {name: int(plan["totals"][name]) for name in ("refused", "unknown")}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return Planned()
    prices = parse_prices(plan.get("prices"))
    left_out = {name: n for name, n in skipped.items() if name in OF_PRODUCTS}
    return Planned(
        skipped=left_out | {name: n for name, n in totals.items() if n},
        bounds=BOUNDS & skipped.keys(),
        costs=None if prices is None else {product.name: planned_cost(product, prices) for product in products},
    )
