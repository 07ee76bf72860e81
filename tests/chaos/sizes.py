"""How large a chaos backfill is, and how much goes wrong in it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Size:
    """Everything that differs between the small one and the big one."""

    n_products: int
    n_days: int
    shard_products: int
    """Products of a shard, about; days are not divided."""
    n_drivers: int
    """Drivers that work at once, each on a shard."""
    per_pod: int
    """Products that share a pod."""
    max_pods: int
    """Pods that run at once, drivers among them."""
    jobs: int
    """Jobs that a driver has posted at once."""
    n_pod_faults: int
    """Pods that meet each kind of fault."""
    n_broken: int
    """Products whose source is broken during the first round, and as many whose store is."""
    p_request: float
    """Share of requests to the bucket and to the source that meet a fault."""
    p_api: float
    """The same for the Kubernetes API."""
    away_s: float
    """How long the Kubernetes API is away, each time."""
    n_away: int
    """How often."""
    canary: int = 3
    """Products that the backfill begins with; they are not broken, for when the canary fails, nothing else is begun."""
    n_kills: int = 2
    """Drivers that are killed."""
    pod_s: float = 4.0
    """Pods that are killed while they work are so at the latest after this time."""
    n_rounds: int = 5
    """Most times that the command is run."""
    poll_s: int = 1
    """Seconds between two looks of a driver at its Jobs."""
    watch_s: float = 0.5
    """Seconds between two looks at the memory of a pod."""
    lease_s: float = 8.0
    n_compared: int = 1_000_000
    """Stores that are compared with an undisturbed conversion."""
    round_timeout_s: float = 900.0


SMALL = Size(
    n_products=12,
    n_days=4,
    shard_products=6,
    n_drivers=2,
    per_pod=2,
    max_pods=5,
    jobs=3,
    n_pod_faults=1,
    n_broken=1,
    p_request=0.02,
    p_api=0.02,
    away_s=3.0,
    n_away=1,
    canary=0,
)


def big(n_products: int) -> Size:
    """Return the size of the soak: days of 25 products, four shards."""
    n_days = max(1, -(-n_products // 25))
    return Size(
        n_products=n_products,
        n_days=n_days,
        shard_products=25 * max(1, -(-n_days // 4)),
        n_drivers=2,
        per_pod=5,
        max_pods=5,
        jobs=6,
        n_pod_faults=max(1, n_products // 150),
        n_broken=max(1, n_products // 150),
        p_request=0.02,
        p_api=0.02,
        away_s=8.0,
        n_away=3,
        pod_s=20.0,
        poll_s=3,
        watch_s=1.0,
        lease_s=20.0,
        n_compared=max(20, n_products // 5),
        round_timeout_s=7200.0,
    )
