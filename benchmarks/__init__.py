"""Benchmarks; not part of the package. ``make bench`` runs them."""
