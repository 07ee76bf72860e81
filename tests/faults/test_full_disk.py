"""A disk that is full at any moment of a conversion: told as such, nothing sealed, and with space the next attempt goes on."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from products import product_row, recipe_for
from test_kill import contents

from zarrmill.errors import CapacityError
from zarrmill.io.logs import logger
from zarrmill.io.store import ObjectSink
from zarrmill.job import logging_to
from zarrmill.stages.convert import convert


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, whose size a test sets with ``resize``."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here (needs root)")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def resize(disk: Path, n_kib: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={n_kib}k", str(disk)], check=True)


def test_full_at_any_moment_is_a_capacity_error_and_each_attempt_goes_on(shared_sources, tmp_path, disk, monkeypatch):
    recipe = recipe_for("S02MSIL2A")
    product = product_row(shared_sources["l2a"], recipe)
    convert(product, recipe=recipe, store_root=str(tmp_path / "whole"))
    expected = contents(tmp_path / "whole")
    written, append = [0], ObjectSink.append

    def counted(self: ObjectSink, data: bytes | memoryview) -> None:
        append(self, data)
        written.append(len(data))

    monkeypatch.setattr(ObjectSink, "append", counted)
    for n_kib in (32, 200, 500, 900, 1300):
        resize(disk, n_kib)
        with pytest.raises(CapacityError, match="free some space, then run again") as caught:
            convert(product, recipe=recipe, store_root=str(disk), threads=2)
        assert caught.value.code == "ZM-CAP-DISK"
        assert product.product_id in str(caught.value)
        assert not list(disk.rglob("*.zarr/zarr.json"))
    resize(disk, 50_000)
    convert(product, recipe=recipe, store_root=str(disk), threads=2)
    assert contents(disk) == expected
    n_bytes = sum(map(len, expected.values()))
    assert sum(written) < 1.5 * n_bytes, "six attempts, and most was written once"


@pytest.mark.parametrize("log", ["/dev/full", "file/log"], ids=["full", "cannot be opened"])
def test_a_log_that_cannot_be_written_does_not_hide_how_a_job_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], log: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()

    def job() -> None:
        with logging_to(Path(log)):
            logger().error("failed", code="ZM-CAP-DISK")
            raise CapacityError("disk: no space left", kind="disk")

    with pytest.raises(CapacityError):
        job()
    assert ("file/log: no log is written" in capsys.readouterr().err) == (log == "file/log")
