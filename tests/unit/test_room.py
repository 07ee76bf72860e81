"""Disk that jobs ask for, compared with what they write."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from file_server import file_server

from zarrmill.config import load_recipe
from zarrmill.core.estimate import estimate, read_tree
from zarrmill.core.room import UNKNOWN_MB, WORK_MB, disk_mb
from zarrmill.io import pieces
from zarrmill.model import Product
from zarrmill.sample.s1 import GrdSpec, build_grd
from zarrmill.stages.convert import convert

ROOT = Path(__file__).parents[2]
TILE = Product(
    "s2", "a", "2025-01-13T00:00:00Z", "S02MSIL2A", "https://host/a.zarr", "", "r", "0" * 8, "", 3_828_953_652, 0, 2000
)
RADAR = replace(TILE, product_type="S01SIWGRH", n_bytes=1_681_000_001)


@pytest.mark.parametrize(
    ("product", "remote", "stages", "spools", "held_mb"),
    [
        (TILE, True, False, True, 0),
        (TILE, True, True, True, 3829),
        (TILE, True, True, False, 3829),
        (TILE, False, True, True, 0),
        (RADAR, True, False, True, 1682),
        (RADAR, True, False, False, 0),
        (RADAR, True, True, True, 1682),
        (RADAR, False, False, True, 0),
        (replace(RADAR, n_bytes=0), True, False, True, UNKNOWN_MB),
    ],
)
def test_disk_is_what_is_held_of_a_remote_source(product, remote, stages, spools, held_mb):
    assert disk_mb(product, remote=remote, stages=stages, spools=spools, max_gb=50.0) == WORK_MB + held_mb


def test_fetched_products_need_no_more_than_what_the_folder_may_hold():
    assert disk_mb(TILE, remote=True, stages=True, spools=True, max_gb=1.2) == WORK_MB + 1200


def test_temporary_file_of_a_radar_product_is_smaller_than_its_decoded_arrays(tmp_path, monkeypatch):
    source = build_grd(GrdSpec(shape=(200, 300), form="flat"), tmp_path / "source")
    recipe = load_recipe(ROOT / "config/recipes/s1-grd.yaml")
    n_bytes = estimate(read_tree((source / ".zmetadata").read_bytes(), "source"), recipe.pixels).n_bytes
    written, pwrite = [], os.pwrite
    monkeypatch.setattr(pieces.os, "pwrite", lambda *call: written.append(pwrite(*call)) or written[-1])
    with file_server(tmp_path) as web:
        product = replace(RADAR, href=web.href(source), n_bytes=n_bytes)
        convert(product, recipe=recipe, store_root=str(tmp_path / "stores"))
    images = 2 * 200 * 300 * 2
    assert images / 2 < sum(written) <= n_bytes
