"""Products that are not quite like those that were seen: what is equal in meaning is converted, anything else is named."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
from builders import drop_chunk, remove_attr, set_array_field, set_attr
from file_server import file_server
from products import grd_recipe, product_row, recipe_for
from test_completion import edit_node

from zarrmill.config import Source
from zarrmill.core import estimate
from zarrmill.core.entries import entry_of_item
from zarrmill.core.layout import source_crs
from zarrmill.errors import SourceError
from zarrmill.io.objects import Objects
from zarrmill.io.source import read_tree
from zarrmill.model import ConvertReceipt, Verdict
from zarrmill.sample.s1 import GrdSpec, build_grd
from zarrmill.stages.convert import convert
from zarrmill.stages.validate import validate

BAND = "measurements/reflectance/r10m/b02"
ANGLES = "conditions/geometry/sun_angles"


def run(source: Path, root: Path, product_type: str = "S02MSIL2A", **pixels: object) -> ConvertReceipt:
    recipe = recipe_for(product_type, **pixels)
    return convert(product_row(source, recipe, product_type), recipe=recipe, store_root=str(root), threads=2)


def verdict(receipt: ConvertReceipt, **pixels: object) -> Verdict:
    recipe = recipe_for("S02MSIL2A", **pixels)
    recipe = recipe.model_copy(update={"validation": recipe.validation.model_copy(update={"readers": []})})
    return validate(receipt.store, source=receipt.product.href, recipe=recipe, product=receipt.product, threads=2).verdict


def in_big_endian(product: Path, array: str) -> None:
    """Write the chunks of an array anew, most significant byte first."""
    node = json.loads((product / array / ".zarray").read_text())
    codec = numcodecs.get_codec(node["compressor"]) if node["compressor"] else None
    for chunk in (path for path in (product / array).iterdir() if not path.name.startswith(".")):
        raw = chunk.read_bytes()
        swapped = np.frombuffer(codec.decode(raw) if codec else raw, node["dtype"]).byteswap()
        chunk.write_bytes(codec.encode(swapped) if codec else swapped.tobytes())
    set_array_field(product, array, "dtype", ">" + node["dtype"][1:])


def edit_metadata(product: Path, change) -> None:
    document = json.loads((product / ".zmetadata").read_text())
    change(document["metadata"])
    (product / ".zmetadata").write_text(json.dumps(document))


def test_big_endian_arrays_are_stored_in_little_endian(source_copy, shared_sources, tmp_path):
    source, arrays = source_copy("l2a"), (BAND, "quality/atmosphere/r20m/wvp", ANGLES, "conditions/geometry/x")
    for array in arrays:
        in_big_endian(source, array)
    receipt = run(source, tmp_path / "out")
    store, original = zarr.open_group(receipt.store, mode="r"), zarr.open_group(shared_sources["l2a"], mode="r")
    for array in arrays:
        np.testing.assert_array_equal(store[array][...], original[array][...])
    assert store[ANGLES].dtype == np.dtype("<f8")
    assert verdict(receipt) is Verdict.PASS


def test_big_endian_radar_image_gives_the_same_pixels(tmp_path):
    source = build_grd(GrdSpec(shape=(120, 140), polarisations=("VV",)), tmp_path)
    image, recipe = f"{next(source.glob('*_VV')).name}/measurements/grd", grd_recipe()
    stores = []
    for place in ("little", "big"):
        if place == "big":
            in_big_endian(source, image)
        row = product_row(source, recipe, "S01SIWGRD")
        stores.append(zarr.open_group(convert(row, recipe=recipe, store_root=str(tmp_path / place)).store, mode="r"))
    little, big = (store["measurements/grd/r10m/vv"][...] for store in stores)
    assert little.any()
    np.testing.assert_array_equal(big, little)


def test_fill_values_are_written_as_the_specification_names_them(source_copy, tmp_path):
    source = source_copy("l2a")
    set_array_field(source, ANGLES, "fill_value", float("nan"))
    set_array_field(source, BAND, "fill_value", 0.0)
    store = run(source, tmp_path / "out").store
    assert json.loads(Path(store, ANGLES, "zarr.json").read_text())["fill_value"] == "NaN"
    tree = read_tree(Objects(str(source)))
    assert tree.arrays[BAND].fill_value == 0
    assert isinstance(tree.arrays[BAND].fill_value, int)


def test_groups_that_the_metadata_only_imply_are_in_the_store(source_copy, tmp_path):
    source = source_copy("l2a")
    edit_metadata(source, lambda nodes: [nodes.pop(f"{path}/.zgroup") for path in ("conditions", "quality/mask")])
    receipt = run(source, tmp_path / "out")
    assert Path(receipt.store, "conditions/zarr.json").exists()
    assert "quality/mask" in zarr.open_group(receipt.store, mode="r")
    assert verdict(receipt) is Verdict.PASS


@pytest.mark.parametrize("fill", [-1, 65536, 0.5, "NaN"])
def test_fill_value_that_the_dtype_cannot_hold_is_refused(source_copy, fill):
    source = source_copy("l2a")
    set_array_field(source, BAND, "fill_value", fill)
    with pytest.raises(SourceError, match=rf"r10m/b02: fill value {fill!r} in <u2") as caught:
        read_tree(Objects(str(source)))
    assert caught.value.code == "ZM-SRC-METADATA"


@pytest.mark.parametrize("dtype", ["<M8[ns]", "|S4", "<c16", "<f16"])
def test_dtype_without_a_common_form_is_refused_before_anything_is_written(source_copy, tmp_path, dtype):
    source = source_copy("l2a")
    set_array_field(source, ANGLES, "dtype", dtype)
    set_array_field(source, ANGLES, "fill_value", None)
    with pytest.raises(SourceError, match=r"sun_angles: dtype .*, expected booleans, integers, floats .*, or text") as caught:
        run(source, tmp_path / "out")
    assert caught.value.code == "ZM-SRC-LAYOUT"
    assert not (tmp_path / "out").exists()


def test_half_a_surrogate_is_replaced_in_keys_and_values(source_copy, tmp_path):
    source = source_copy("l2a")
    set_attr(source, BAND, "remark", "a\ud800b")
    set_attr(source, BAND, "\udfff", ["\U0001f6f0"])
    assert estimate.read_tree((source / ".zmetadata").read_bytes(), "here").arrays  # as the stage plan reads it
    receipt = run(source, tmp_path / "out")
    attributes = zarr.open_group(receipt.store, mode="r")[BAND].attrs
    assert (attributes["remark"], attributes["\ufffd"]) == ("a\ufffdb", ["\U0001f6f0"])
    assert verdict(receipt) is Verdict.PASS


def test_classes_that_the_source_names_keep_their_names(source_copy, tmp_path):
    source, path = source_copy("l2a"), "conditions/mask/l2a_classification/r20m/scl"
    meanings = " ".join(f"class_{value}" for value in range(12))
    for level in ("r20m", "r60m"):
        set_attr(source, path.replace("r20m", level), "flag_values", list(range(12)))
        set_attr(source, path.replace("r20m", level), "flag_meanings", meanings)
    receipt = run(source, tmp_path / "out")
    store = zarr.open_group(receipt.store, mode="r")
    assert store[path].attrs["flag_meanings"] == meanings
    assert "_FillValue" not in store[path].attrs
    assert verdict(receipt) is Verdict.PASS


def test_missing_chunk_of_a_small_array_is_told_and_of_coordinates_refused(source_copy, tmp_path):
    source = source_copy("l2a")
    drop_chunk(source, ANGLES, "0.0.0")
    drop_chunk(source, "conditions/geometry/band", "0")
    receipt = run(source, tmp_path / "out")
    found = [("source.missing-chunk", "conditions/geometry/band"), ("source.missing-chunk", ANGLES)]
    assert [(finding.code, finding.path) for finding in receipt.findings] == found
    assert np.isnan(zarr.open_group(receipt.store, mode="r")[ANGLES][...]).all()
    with pytest.raises(SourceError, match="geometry/band/0 is not there, and the recipe calls") as caught:
        run(source, tmp_path / "mandatory", mandatory=("conditions/geometry/*",))
    assert caught.value.code == "ZM-SRC-MISSING"
    drop_chunk(source, "measurements/reflectance/r20m/x", "0")
    with pytest.raises(SourceError, match=r"r20m/x/0 is not there, without it no pixel has a place") as caught:
        run(source, tmp_path / "place")
    assert caught.value.code == "ZM-SRC-MISSING"


@pytest.mark.parametrize("array", [BAND, "quality/atmosphere/r20m/aot", "quality/mask/r60m/b09"])
def test_raster_without_dimensions_is_refused_by_name(source_copy, tmp_path, array):
    source = source_copy("l2a")
    remove_attr(source, array, "_ARRAY_DIMENSIONS")
    with pytest.raises(SourceError, match=rf"{array}: dimensions \('\w+_dim_0', '\w+_dim_1'\), expected") as caught:
        run(source, tmp_path / "out")
    assert caught.value.code == "ZM-SRC-LAYOUT"
    assert not (tmp_path / "out").exists()


def test_small_arrays_without_dimensions_do_not_share_them(source_copy, tmp_path):
    source = source_copy("l2a")
    for name in ("sun_angles", "mean_sun_angles", "detector"):
        remove_attr(source, f"conditions/geometry/{name}", "_ARRAY_DIMENSIONS")
    receipt = run(source, tmp_path / "out")
    with xr.open_datatree(receipt.store, engine="zarr") as tree:
        assert tree["conditions/geometry/mean_sun_angles"].dims == ("mean_sun_angles_dim_0",)
        assert tree[ANGLES].dims == tuple(f"sun_angles_dim_{i}" for i in range(3))
    assert verdict(receipt) is Verdict.PASS


def resize(product: Path, metres: int, size: int) -> None:
    """Let the arrays of one level be smaller; the chunks stay."""

    def change(nodes):
        for key, node in nodes.items():
            if f"/r{metres}m/" in key and key.endswith(".zarray"):
                node["shape"] = [min(size, edge) for edge in node["shape"]]

    edit_metadata(product, change)


def test_level_of_the_source_that_does_not_fit_is_told_and_no_band_is_lost(source_copy, tmp_path):
    source = source_copy("l2a")
    resize(source, 10, 178)  # 1780 m: 89 pixels of 20 m, no whole number of 60 m
    resize(source, 20, 89)
    with pytest.raises(SourceError, match=r"\(178, 178\) pixels, which pixels of \[60\] m .*; band b09 would be lost") as caught:
        run(source, tmp_path / "out")
    assert caught.value.code == "ZM-SRC-LAYOUT"
    receipt = run(source, tmp_path / "fine", levels_m=(10, 20))
    assert [(f.code, f.message[:8]) for f in receipt.findings if f.code == "source.level"] == [("source.level", "band b09")]


@pytest.mark.parametrize(("kind", "planned", "states"), [("l1c", "S02MSIL2A", "S02MSIL1C"), ("l2a", "S02MSIL1C", "S02MSIL2A")])
def test_product_that_is_of_another_type_than_planned_is_refused(shared_sources, tmp_path, kind, planned, states):
    with pytest.raises(SourceError, match=f"planned as '{planned}', but the product states '{states}'; supported: ") as caught:
        run(shared_sources[kind], tmp_path / "out", planned)
    assert caught.value.code == "ZM-SRC-TYPE"
    assert not (tmp_path / "out").exists()


def test_band_that_lacks_its_native_level_is_refused(source_copy, tmp_path):
    source = source_copy("l2a")
    edit_metadata(source, lambda nodes: [nodes.pop(key) for key in list(nodes) if "reflectance/r20m/b05/" in key])
    with pytest.raises(SourceError, match="band b05 begins at 60 m, expected at 20 m") as caught:
        run(source, tmp_path / "out")
    assert caught.value.code == "ZM-SRC-LAYOUT"


DISAGREE = [
    (f"{BAND}/.zarray", lambda node: node.pop("filters"), "KeyError"),
    (f"{BAND}/.zarray", lambda node: node.pop("compressor"), "KeyError"),
    (f"{BAND}/.zarray", lambda node: node.pop("order"), "KeyError"),
    (f"{BAND}/.zarray", lambda node: node.update(compressor="zlib"), "compressor 'zlib'"),
    (f"{BAND}/.zarray", lambda node: node.update(dimension_separator=None), "dimension_separator None"),
    (f"{BAND}/.zarray", lambda node: node.update(shape=[180.0, 180.0]), "whole numbers"),
    (f"{BAND}/.zarray", lambda node: node.pop("zarr_format"), "KeyError"),
    (f"{ANGLES}/.zarray", lambda node: node.update(fill_value=[]), r"fill value \[\] in <f8"),
    (f"{ANGLES}/.zattrs", lambda node: node.update(_ARRAY_DIMENSIONS=[1, 2, 3]), "dimensions"),
]


@pytest.mark.parametrize(("node", "change", "words"), DISAGREE, ids=[str(n) for n in range(len(DISAGREE))])
def test_array_that_does_not_say_how_it_is_stored_is_refused(source_copy, node, change, words):
    source = source_copy("l2a")
    edit_metadata(source, lambda nodes: change(nodes[node]))
    with pytest.raises(SourceError, match=words) as caught:
        read_tree(Objects(str(source)))
    assert caught.value.code == "ZM-SRC-METADATA"


@pytest.mark.parametrize("group", ["", "conditions/"])
def test_group_without_attributes_that_are_any_is_refused(source_copy, group):
    source = source_copy("l2a")
    edit_metadata(source, lambda nodes: nodes.update({f"{group}.zattrs": None}))
    with pytest.raises(SourceError, match="not whole consolidated metadata") as caught:
        read_tree(Objects(str(source)))
    assert caught.value.code == "ZM-SRC-METADATA"


@pytest.mark.parametrize("path", [BAND, ANGLES])
def test_codec_that_is_not_known_is_refused_by_name(source_copy, tmp_path, path):
    source, bytes_ = source_copy("l2a-v3"), {"name": "bytes", "configuration": {"endian": "little"}}
    edit_node(source, path, lambda node: node.update(codecs=[bytes_, {"name": "vnd.none", "configuration": {}}]))
    with pytest.raises(SourceError, match=rf"array {path}: .*vnd\.none.*expected one that zarr-python reads") as caught:
        run(source, tmp_path / "out")
    assert caught.value.code == "ZM-SRC-LAYOUT"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("scale_factor", None, "scale_factor None, add_offset -0.1, expected two numbers"),
        ("scale_factor", "0.0001", "scale_factor '0.0001'"),
        ("add_offset", float("nan"), "scale_factor 0.0001, add_offset nan"),
        ("_FillValue", 65535, "DN 65535 is masked, expected 0 or none"),
    ],
)
def test_band_whose_values_cannot_be_known_is_refused(source_copy, tmp_path, key, value, words):
    source = source_copy("l2a")
    set_array_field(source, BAND, "fill_value", None)
    set_attr(source, BAND, key, value)
    with pytest.raises(SourceError, match=f"{BAND}: {words}") as caught:
        run(source, tmp_path / "out")
    assert caught.value.code == "ZM-SRC-LAYOUT"


def test_band_without_an_offset_has_none_and_its_store_passes(source_copy, tmp_path):
    source = source_copy("l2a")
    for level in ("r10m", "r20m", "r60m"):
        remove_attr(source, f"measurements/reflectance/{level}/b02", "add_offset")
    receipt = run(source, tmp_path / "out")
    assert verdict(receipt) is Verdict.PASS
    assert not [found for found in validate(receipt.store, threads=2).findings if found.code == "arrays.scale"]


def test_band_on_no_level_is_refused_by_name(source_copy, tmp_path):
    def move(nodes):
        for key in [key for key in nodes if key.startswith("measurements/reflectance/") and "/b02/" in key]:
            nodes[re.sub(r"r\d+m/b02", "other/b02", key)] = nodes.pop(key)

    source = source_copy("l2a")
    edit_metadata(source, move)
    with pytest.raises(SourceError, match="other/b02: band b02 lies on no level") as caught:
        run(source, tmp_path / "out")
    assert caught.value.code == "ZM-SRC-LAYOUT"


def state_crs(product: Path, root: dict, **stated: object) -> None:
    """Let a product state its CRS in its root, and on its bands, in this way only."""

    def change(nodes):
        for key, node in nodes.items():
            node.pop("proj:epsg", None)
            node.pop("proj:code", None)
            if key.startswith("measurements/reflectance/r10m/b") and key.endswith(".zattrs"):
                node.update(stated)
        nodes[".zattrs"]["other_metadata"].pop("horizontal_CRS_code", None)
        nodes[".zattrs"].update(root)

    edit_metadata(product, change)


@pytest.mark.parametrize(
    ("root", "stated"),
    [
        ({}, {"proj:epsg": "32618"}),
        ({}, {"proj:epsg": 32618.0}),
        ({}, {"proj:code": "epsg:32618"}),
        ({"other_metadata": {"horizontal_CRS_code": 32618}}, {}),
        ({"stac_discovery": {"properties": {"proj:epsg": 32618}}}, {}),
    ],
)
def test_crs_may_be_stated_as_number_or_text(source_copy, root, stated):
    source = source_copy("l2a")
    state_crs(source, root, **stated)
    assert source_crs(read_tree(Objects(str(source)))) == "EPSG:32618"


@pytest.mark.parametrize("code", ["EPSG:999999", "EPSG:4326"])
def test_crs_that_is_unknown_or_in_degrees_is_refused(source_copy, code):
    source = source_copy("l2a")
    state_crs(source, {"other_metadata": {"horizontal_CRS_code": code}})
    with pytest.raises(SourceError, match=f"CRS '{code}', expected EPSG:<code> of a projected CRS") as caught:
        source_crs(read_tree(Objects(str(source))))
    assert caught.value.code == "ZM-SRC-CRS"


def with_compressor(product: Path, array: str, codec: numcodecs.abc.Codec) -> Path:
    """Write the chunks of an array anew with another compressor; return the file of the first."""
    node = json.loads((product / array / ".zarray").read_text())
    old = numcodecs.get_codec(node["compressor"])
    chunks = sorted(path for path in (product / array).iterdir() if not path.name.startswith("."))
    for chunk in chunks:
        chunk.write_bytes(codec.encode(old.decode(chunk.read_bytes())))
    set_array_field(product, array, "compressor", codec.get_config())
    return chunks[0]


@pytest.mark.parametrize("codec", [numcodecs.Zlib(1), numcodecs.GZip(1), numcodecs.LZMA(preset=1), numcodecs.BZ2(1)], ids=repr)
def test_flipped_byte_is_named_whatever_the_codec(source_copy, tmp_path, codec):
    source = source_copy("l2a")
    chunk = with_compressor(source, BAND, codec)
    whole = chunk.read_bytes()
    assert verdict(run(source, tmp_path / "whole")) is Verdict.PASS
    chunk.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 0xFF]) + whole[len(whole) // 2 + 1 :])
    with pytest.raises(SourceError, match=f"array {BAND}.*{re.escape(chunk.name)}") as caught:
        run(source, tmp_path / "broken")
    assert caught.value.code == "ZM-SRC-CORRUPT"
    recipe = recipe_for("S02MSIL2A")
    recipe = recipe.model_copy(update={"validation": recipe.validation.model_copy(update={"readers": []})})
    (store,) = (tmp_path / "whole").rglob("*.zarr")
    report = validate(str(store), source=str(source), recipe=recipe)
    assert {f.code for f in report.findings if BAND.rpartition("/")[0] in f.path} >= {"values.source"}


def test_product_that_was_planned_by_its_item_alone_is_converted_and_validated(shared_sources, tmp_path):
    item = entry_of_item(
        {
            "id": "p",
            "collection": "sentinel-2-l2a",
            "properties": {"datetime": "2025-01-13T15:43:09Z", "product:type": "S02MSIL2A"},
            "assets": {"product": {"href": str(shared_sources["l2a"]), "roles": ["data", "metadata"]}},
        },
        str(tmp_path / "item.json"),
        embedded=False,
    )
    recipe = recipe_for("S02MSIL2A")
    row = product_row(shared_sources["l2a"], recipe, fingerprint=item.stable)
    staged = Source.model_validate({"catalogue": "x", "fetch": "stage", "staging": {"folder": str(tmp_path / "cache")}})
    with file_server(shared_sources["l2a"].parent) as server:
        for href, source in ((row.href, None), (f"{server.url}/{shared_sources['l2a'].name}", staged)):
            product = replace(row, href=href)
            receipt = convert(product, recipe=recipe, store_root=str(tmp_path / f"{source is None}"), fetch=source)
            assert validate(receipt.store, source=href, recipe=recipe, product=product, fetch=source).verdict is Verdict.PASS
    assert list((tmp_path / "cache").iterdir())


def test_level_that_is_coarser_than_all_of_the_recipe_needs_no_grid(source_copy, tmp_path):
    source = source_copy("l2a")
    values = np.asarray(zarr.open_array(source / "measurements/reflectance/r60m/b01", mode="r")[...])
    group = zarr.open_group(source / "measurements/reflectance", mode="a", zarr_format=2).create_group("r720m")
    for name, array, dims in (
        ("b01", values[:3, :3], ["y", "x"]),
        ("x", np.array([0.0, 722.37, 1444.7]), ["x"]),
        ("y", np.array([0.0, -700.0, -1444.7]), ["y"]),
    ):
        made = group.create_array(name, data=array)
        made.attrs.update({"_ARRAY_DIMENSIONS": dims} | ({"scale_factor": 0.0001, "add_offset": -0.1} if name == "b01" else {}))
    zarr.consolidate_metadata(source, zarr_format=2)
    receipt = run(source, tmp_path / "out")
    assert verdict(receipt) is Verdict.PASS
    assert not list(Path(receipt.store).rglob("r720m"))


def add_node(product: Path, path: str, **changes: object) -> None:
    """Let the metadata speak of an array of two integers that has no chunk."""
    node = {"zarr_format": 2, "shape": [2], "chunks": [2], "dtype": "<i4", "compressor": None, "filters": None, "order": "C"}
    array = node | {"fill_value": 0} | changes

    def add(metadata):
        metadata[f"{path}/.zarray"], metadata[f"{path}/.zattrs"] = array, {"_ARRAY_DIMENSIONS": ["n"]}

    edit_metadata(product, add)


@pytest.mark.parametrize(
    "path",
    [
        *("../../out", "/out", "extra/../../out", "extra//n", "extra/./n", "extra/zarr.json", "extra/n\0", "extra/n\n"),
        f"extra/{'n' * 300}",
        BAND.rpartition("/")[0],
    ],
)
def test_node_whose_place_would_be_outside_or_is_none_is_refused(source_copy, path):
    product = source_copy("l2a")
    add_node(product, path)
    with pytest.raises(SourceError, match=r"(has a part|is an array and a group).*report it to the provider") as caught:
        read_tree(Objects(str(product)))
    assert caught.value.code == "ZM-SRC-METADATA"


def test_node_outside_of_a_v3_product_is_refused(source_copy):
    product = source_copy("l2a-v3")
    document = json.loads((product / "zarr.json").read_text())
    nodes = document["consolidated_metadata"]["metadata"]
    nodes["../out"] = nodes[BAND]
    (product / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(SourceError, match=r"node '\.\./out' has a part '\.\.'"):
        read_tree(Objects(str(product)))


@pytest.mark.parametrize(
    "changes", [{"dtype": "|O", "filters": [{"id": "vlen-bytes"}]}, {"dtype": "|O"}, {"dtype": "<m8[s]"}], ids=str
)
def test_objects_that_are_no_text_and_durations_are_refused(source_copy, tmp_path, changes):
    product = source_copy("l2a")
    add_node(product, "conditions/odd", **changes)
    with pytest.raises(SourceError, match=r"conditions/odd: dtype .*expected booleans, integers, floats"):
        run(product, tmp_path / "stores")
    assert not list(tmp_path.rglob("zarr.json"))


@pytest.mark.parametrize(
    "stated",
    [
        {"name": "structured", "configuration": {"fields": [["a", "int32"]]}},
        {"name": "numpy.timedelta64", "configuration": {"unit": "ns", "scale_factor": 1}},
        {"name": "null_terminated_bytes", "configuration": {"length_bytes": 3}},
    ],
    ids=lambda stated: stated["name"],
)
def test_v3_dtype_that_is_no_text_is_refused(source_copy, tmp_path, stated):
    product = source_copy("l2a-v3")
    edit_node(product, "conditions/geometry/angle", lambda node: node.update(data_type=stated, fill_value=0))
    with pytest.raises(SourceError, match=r"conditions/geometry/angle: dtype .*expected booleans, integers, floats"):
        run(product, tmp_path / "stores")


def test_text_on_a_grid_is_refused_by_name(source_copy, tmp_path):
    product = source_copy("l2a")
    edit_metadata(
        product, lambda metadata: metadata["quality/mask/r10m/b02/.zarray"].update(dtype="<U1", fill_value="", compressor=None)
    )
    with pytest.raises(SourceError, match=r"quality/mask/r10m/b02: text on a grid, expected numbers"):
        run(product, tmp_path / "stores")


@pytest.mark.parametrize(
    ("node", "key", "value"),
    [
        (".zarray", "fill_value", 65535),
        (".zattrs", "_FillValue", 65535),
        (".zattrs", "scale_factor", 0.1),
        (".zattrs", "add_offset", 1),
    ],
)
def test_radar_image_that_masks_or_scales_its_dn_is_refused(tmp_path, node, key, value):
    product = build_grd(GrdSpec(shape=(300, 400), polarisations=("VV",)), tmp_path / "source")
    image = next(path.relative_to(product).as_posix() for path in product.glob("*_VV/measurements/grd"))
    (set_array_field if node == ".zarray" else set_attr)(product, image, key, value)
    recipe = grd_recipe()
    with pytest.raises(SourceError, match=rf"grd: .*{value}.*expected DN as they are, of which 0 is no data"):
        convert(product_row(product, recipe, "S01SIWGRH"), recipe=recipe, store_root=str(tmp_path / "stores"))


def test_coordinates_with_noise_of_floats_are_a_regular_grid(source_copy, tmp_path):
    product = source_copy("l2a")
    for metres, of in (("r10m", 1), ("r20m", 0)):
        for axis in ("x", "y"):
            array = zarr.open_array(product / f"measurements/reflectance/{metres}/{axis}", mode="r+")
            values = array[...].astype("f8")
            values[of:] = np.nextafter(values[of:], 0)
            metadata = json.loads((product / ".zmetadata").read_text())["metadata"]
            node = metadata[f"measurements/reflectance/{metres}/{axis}/.zarray"]
            set_array_field(product, f"measurements/reflectance/{metres}/{axis}", "dtype", "<f8")
            set_array_field(product, f"measurements/reflectance/{metres}/{axis}", "fill_value", None)
            codec = numcodecs.get_codec(node["compressor"]) if node["compressor"] else None
            chunk = next(path for path in (product / f"measurements/reflectance/{metres}/{axis}").iterdir() if path.name == "0")
            chunk.write_bytes(codec.encode(values) if codec else values.tobytes())
    receipt = run(product, tmp_path / "stores")
    assert verdict(receipt) is Verdict.PASS


def test_small_array_in_a_group_named_like_a_level_is_carried(source_copy, tmp_path):
    product = source_copy("l2a")
    add_node(product, "conditions/things/r10m/v")
    receipt = run(product, tmp_path / "stores")
    assert zarr.open_group(receipt.store, mode="r")["conditions/things/r10m/v"][:].tolist() == [0, 0]
    assert verdict(receipt) is Verdict.PASS


def test_level_of_maps_that_covers_another_extent_is_refused_where_it_gets_overviews(source_copy, tmp_path):
    product = source_copy("l2a")
    array = zarr.open_array(product / "quality/atmosphere/r20m/x", mode="r+")
    array[...] = array[...] + 20
    with pytest.raises(SourceError, match=r"quality/atmosphere/r20m: covers .* as r10m covers; leave the group off"):
        run(product, tmp_path / "stores", overviews=["quality/atmosphere"])
    assert verdict(run(product, tmp_path / "stores")) is not Verdict.FAIL


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_overviews_of_float_maps_have_the_precision_of_their_source(source_copy, tmp_path, dtype):
    product, values = source_copy("l2a"), {}
    for metres in (10, 20, 60):
        path = f"quality/atmosphere/r{metres}m/aot"
        array = zarr.open_array(product / path, mode="r")
        values[metres] = (array[...] / 977).astype(dtype)
        values[metres][3, 5] = np.inf
        for key, value in (("dtype", dtype), ("fill_value", "NaN"), ("compressor", None), ("chunks", list(array.shape))):
            set_array_field(product, path, key, value)
        (product / path / "0.0").write_bytes(values[metres].tobytes())
    receipt = run(product, tmp_path / "stores", overviews=["quality/atmosphere"])
    level = zarr.open_group(receipt.store, mode="r")["quality/atmosphere/r120m/aot"][:]
    blocks = values[10].astype("f8").reshape(level.shape[0], 12, level.shape[1], 12)
    wanted = np.nanmean(np.where(np.isfinite(blocks), blocks, np.nan), axis=(1, 3))
    np.testing.assert_allclose(level, wanted, rtol=8 * np.finfo(dtype).eps)
    assert verdict(receipt, overviews=["quality/atmosphere"]) is Verdict.PASS


def test_recipe_finer_than_all_levels_of_the_product_is_told_so(source_copy, tmp_path):
    with pytest.raises(SourceError, match=r"r10m.*are all coarser than 7 m.*pixels.levels_m; add their pixel sizes"):
        run(source_copy("l2a"), tmp_path / "stores", levels_m=[7])


def test_v3_product_without_consolidated_metadata_is_told_so(source_copy):
    product = source_copy("l2a-v3")
    document = json.loads((product / "zarr.json").read_text())
    del document["consolidated_metadata"]
    (product / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(SourceError, match=r"zarr.json: a Zarr v3 group without consolidated_metadata, expected") as caught:
        read_tree(Objects(str(product)))
    assert caught.value.kind == "metadata"
