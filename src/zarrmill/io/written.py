"""What is known of an object that was written."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Written:
    """One object of the store."""

    key: str
    """Relative to the store, without a leading slash."""
    n_bytes: int
    sha256: str
    etag: str = ""
    """Entity tag in a bucket, without quotes; empty on disk."""
