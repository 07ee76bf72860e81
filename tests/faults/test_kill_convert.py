"""One conversion killed with SIGKILL: what the journal proves is kept, the rest is done again, and the bytes are the same."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import build_test_product
from products import ROOT, grd_recipe, recipe_for
from test_kill import contents

from zarrmill.io.store import sha256_of, tree_digest
from zarrmill.sample.s1 import GrdSpec, build_grd

Ask = Callable[..., list[dict[str, Any]]]  # Any: numbers of one attempt


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Return a function that converts, killed at the given moments."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "tests/killed.py")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None

    def call(**order: Any) -> list[dict[str, Any]]:
        process.stdin.write(json.dumps(order) + "\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        answer: list[dict[str, Any]] = json.loads(process.stdout.readline())  # type: ignore[union-attr]
        return answer

    yield call
    process.communicate()


class Undisturbed:
    """A source, and what converting it in one go gives."""

    def __init__(self, ask: Ask, root: Path, source: Path, product_type: str, recipe: Any) -> None:
        values = json.loads(recipe.model_dump_json())
        self.order = {"source": str(source), "product_type": product_type, "recipe": values, "threads": 2}
        self.root = root
        (self.attempt,) = ask(**self.order, root=str(root / "whole"), kills=[])
        assert self.attempt["code"] == 0
        self.whole = (self.attempt["n_bytes"], self.attempt["n_objects"])
        self.files = contents(root / "whole")


@pytest.fixture(scope="module")
def optical(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """A Sentinel-2 product with several rows of chunks and shards in most arrays."""
    root = tmp_path_factory.mktemp("optical")
    source = build_test_product(root / "source", "S02MSIL2A", 480)
    return Undisturbed(ask, root, source, "S02MSIL2A", recipe_for("S02MSIL2A", chunk_px=30, shard_px=120))


@pytest.fixture(scope="module")
def radar(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """A Sentinel-1 product: two images, both in work at the same time until the end."""
    root = tmp_path_factory.mktemp("radar")
    source = build_grd(GrdSpec(shape=(500, 640)), root / "source")
    return Undisturbed(ask, root, source, "S01SIWGRH", grd_recipe(chunk_px=32, shard_px=256))


def assert_ended_as_undisturbed(root: Path, undisturbed: Undisturbed) -> None:
    """The store is byte for byte the same, and nothing lies beside or in it."""
    assert contents(root) == undisturbed.files
    (sealed,) = root.rglob("*.zarr/zarr.json")
    objects = [(key, len(undisturbed.files[key]), "") for key in undisturbed.files]
    assert not [key for key, _, _ in objects if key.endswith((".part", ".journal"))]
    found = [
        (p.relative_to(sealed.parent).as_posix(), p.stat().st_size, sha256_of(p)) for p in sealed.parent.rglob("*") if p.is_file()
    ]
    assert json.loads(sealed.read_text())["attributes"]["zarrmill"]["tree_sha256"] == tree_digest(found)


def again(attempts: list[dict[str, Any]], undisturbed: Undisturbed) -> tuple[float, float]:
    """Return the shares of bytes and of objects that were written more than once."""
    sums = (sum(attempt[key] for attempt in attempts) for key in ("n_bytes", "n_objects"))
    n_bytes, n_objects = ((n - whole) / whole for n, whole in zip(sums, undisturbed.whole, strict=True))
    return n_bytes, n_objects


@pytest.mark.parametrize("kind", ["optical", "radar"])
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_time_again_and_again_ends_with_the_same_bytes(ask, request, tmp_path, kind, seed):
    undisturbed = request.getfixturevalue(kind)
    rng = random.Random(f"{kind} {seed}")
    wall = undisturbed.attempt["wall_s"]
    kills = [["s", rng.uniform(0.05, 1.0) * wall] for _ in range(rng.randint(1, 3))]
    attempts = ask(**undisturbed.order, root=str(tmp_path), kills=kills)
    assert attempts[-1]["code"] == 0
    assert_ended_as_undisturbed(tmp_path, undisturbed)


@pytest.mark.parametrize("kind", ["optical", "radar"])
@pytest.mark.parametrize("reverse", [False, True], ids=["largest first", "largest last"])
@pytest.mark.parametrize("what", ["bytes", "objects"])
def test_at_nine_tenths_less_than_a_fifth_of_the_writes_happens_again(ask, request, tmp_path, kind, reverse, what):
    undisturbed = request.getfixturevalue(kind)
    rng = random.Random(f"{kind} {what} {reverse}")
    for number in range(2):
        root, moment = tmp_path / str(number), [what, rng.uniform(0.85, 0.95)]
        attempts = ask(**undisturbed.order, root=str(root), whole=undisturbed.whole, reverse=reverse, kills=[moment])
        assert [attempt["code"] for attempt in attempts] == [-9, 0], "killed, then done"
        assert max(again(attempts, undisturbed)) < 0.2, moment
        assert_ended_as_undisturbed(root, undisturbed)


@pytest.mark.parametrize("kind", ["optical", "radar"])
def test_killed_in_the_middle_of_a_write_leaves_nothing_sealed_and_nothing_torn(ask, request, tmp_path, kind):
    undisturbed = request.getfixturevalue(kind)
    rng = random.Random(kind)
    shares = [rng.uniform(0.01, 0.15) for _ in range(6)]  # of what one attempt may write
    order = {**undisturbed.order, "root": str(tmp_path), "whole": undisturbed.whole}
    for share in shares:
        ask(**order, kills=[["bytes", share]], last=False)
        assert not list(tmp_path.rglob("*.zarr/zarr.json"))
        (store,) = [path for path in tmp_path.rglob("*.zarr") if path.is_dir()]
        for path in store.rglob("*"):
            if path.is_file() and path.suffix != ".part":
                assert path.read_bytes() == undisturbed.files[path.relative_to(tmp_path).as_posix()]
    attempts = ask(**order, kills=[])
    assert attempts[0]["n_bytes"] < undisturbed.whole[0]
    assert_ended_as_undisturbed(tmp_path, undisturbed)


@pytest.mark.parametrize("planted", ["another recipe", "another format", "another source"])
def test_journal_of_another_recipe_format_or_source_is_not_believed(ask, optical, tmp_path, planted):
    order = {**optical.order, "root": str(tmp_path), "whole": optical.whole}
    ask(**order, kills=[["bytes", 0.5]], last=False)
    (journal,) = tmp_path.rglob("*.journal")
    store = journal.with_suffix("")
    lines = [json.loads(line) for line in journal.read_bytes().splitlines() if line.startswith(b"{") and line.endswith(b"}")]
    identity = lines[0]["of"]
    assert {line["of"] for line in lines} == {identity}
    journal.write_text("".join(json.dumps({**line, "of": planted}) + "\n" for line in lines))
    wrong = next(path for path in store.rglob("c/*/*") if path.is_file() and path.suffix != ".part")
    (attempt,) = ask(**order, kills=[])
    assert attempt["n_bytes"] == optical.whole[0], f"everything is written again, {wrong} too"
    assert_ended_as_undisturbed(tmp_path, optical)


def test_another_recipe_or_source_goes_beside_an_unfinished_store(ask, optical, tmp_path):
    ask(**optical.order, root=str(tmp_path), whole=optical.whole, kills=[["bytes", 0.5]], last=False)
    before = contents(tmp_path)
    other = json.loads(json.dumps(optical.order))
    other["recipe"]["pixels"]["codec"]["clevel"] = 4
    (attempt,) = ask(**other, root=str(tmp_path), kills=[])
    assert attempt["code"] == 0
    changed = Path(shutil.copytree(optical.order["source"], tmp_path / "changed" / Path(optical.order["source"]).name))
    metadata = json.loads((changed / ".zmetadata").read_text())
    metadata["metadata"][".zattrs"]["changed"] = True
    (changed / ".zmetadata").write_text(json.dumps(metadata))
    (attempt,) = ask(**{**optical.order, "source": str(changed)}, root=str(tmp_path), kills=[])
    shutil.rmtree(tmp_path / "changed")
    assert attempt["code"] == 0
    after = contents(tmp_path)
    assert len(list(tmp_path.rglob("*.zarr/zarr.json"))) == 2
    assert {key: after[key] for key in before} == before, "the unfinished store was left as it was"
