"""What is known of objects that were written, whole ones and those that are only begun."""

from dataclasses import dataclass

from zarrmill.model import Finding


@dataclass(frozen=True, slots=True)
class Written:
    """One object of the store."""

    key: str
    """Relative to the store, without a leading slash."""
    n_bytes: int
    sha256: str
    etag: str = ""
    """By which the place finds the object's bytes unchanged: entity tag in a bucket, without quotes; crc32c in hex on disk."""


@dataclass(frozen=True, slots=True)
class Part:
    """A shard that is begun: the start of its ``.part`` file."""

    key: str
    n_bytes: int = 0
    """Bytes that are proven; what follows is cut off."""
    sha256: str = ""
    """Of these bytes."""
    chunks: tuple[tuple[int, int, int], ...] = ()
    """Place in the shard's index, offset and length of every inner chunk."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the journal of an unfinished store says under one name; a later entry of a name replaces the earlier."""

    name: str
    """Key that the chunks of a plane begin with, or a word for what has no rows."""
    rows: tuple[int, ...] = ()
    """For each column of chunks how many chunks are written, from the top."""
    objects: tuple[Written, ...] = ()
    """All that hold them, but for ``parts``."""
    parts: tuple[Part, ...] = ()
    """Shards that are begun."""
    findings: tuple[Finding, ...] = ()
    """What was noticed in the source."""
    source: tuple[tuple[str, int, str], ...] = ()
    """Key, bytes and entity tag of source objects that were read; bytes of -1 where one was not there."""
