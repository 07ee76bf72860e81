"""Same source, same recipe, same bytes: on every machine, at any number of threads, in one go or resumed.

``tests/integration/test_golden_bucket.py`` asks the same of stores in a bucket.
"""

from pathlib import Path

import pytest
from golden import KINDS, build_source, committed, digest_of, run
from stopped import StoppedError, stop_after

MEANING = """other bytes than committed for {kind}: found {found}, expected {expected}.
Did you mean to change what stores hold? Then raise zarrmill.FORMAT_VERSION (a changed store gets another name), tell it in
CHANGELOG.md as breaking, and renew the digests with `python tests/golden.py`. Did only the sample products change? Renew them.
Else something is not deterministic, or a codec library is not the one that requirements.lock names."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("golden")
    return {kind: build_source(kind, root / kind) for kind in KINDS}


def assert_golden(kind: str, found: str) -> None:
    expected = committed(kind)
    assert found == expected, MEANING.format(kind=kind, found=found, expected=expected)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_store_has_the_committed_bytes(sources, tmp_path, kind, threads):
    assert_golden(kind, digest_of(run(kind, sources[kind], tmp_path, threads)))


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_store_has_the_committed_bytes(sources, tmp_path, monkeypatch, kind):
    with monkeypatch.context() as patched:
        stop_after(patched, 9)
        with pytest.raises(StoppedError):
            run(kind, sources[kind], tmp_path, 1)
    assert_golden(kind, digest_of(run(kind, sources[kind], tmp_path, 2)))
