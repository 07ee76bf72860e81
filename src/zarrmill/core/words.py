"""Numbers in sentences for people."""


def number(value: float) -> str:
    """Return a count with thousands separated."""
    return f"{value:,.0f}"


def plural(n: int, noun: str) -> str:
    """Return ``1 product``, ``2 products``."""
    return f"{number(n)} {noun}" if n == 1 else f"{number(n)} {noun}s"
