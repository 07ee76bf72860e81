"""Source catalogues of every form, from a real local server that pages by token and misbehaves when told to."""

import json
import shutil
import socket
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stac_server import Fault, Item, StacServer, eopf_item, product_id, stac_server, write_source

from zarrmill.config import Recipe, Settings, Source
from zarrmill.core.planning import PlanClass
from zarrmill.errors import CatalogError, ConfigError, UnknownStateError
from zarrmill.io.catalog import Listed, read_catalogue
from zarrmill.io.manifest import read_manifest
from zarrmill.io.state import State
from zarrmill.stages.plan import plan, write_plan

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data" / "stac-pages"
RECIPES = {"S02MSIL2A": Recipe(name="s2-l2a", product_types=("S02MSIL2A",))}


def items(n: int, collection: str = "sentinel-2-l2a") -> list[Item]:
    return [eopf_item(product_id(i), f"https://data.example.org/{product_id(i)}.zarr", collection=collection) for i in range(n)]


def source(url: str, **options: Any) -> Source:
    options = {"collections": ("sentinel-2-l2a",), "timeout_s": 5.0, "retries": 2, **options}
    return Source(catalogue=url, **options)


def ids(listed: Iterator[Listed]) -> list[str]:
    return [one.item["id"] for one in listed]


def recorded(pattern: str) -> list[dict[str, Any]]:
    files = sorted(RECORDED.glob(pattern))
    if not files:
        pytest.skip("the recorded catalogue pages are not on this machine")
    return [json.loads(file.read_text()) for file in files]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Static catalogue: catalog.json -> l2a/collection.json -> two items, one more beside the root."""
    collection = tmp_path / "static" / "l2a"
    collection.mkdir(parents=True)
    names = [product_id(i) for i in range(3)]
    for name in names:
        place = collection if name != names[2] else tmp_path / "static"
        item = eopf_item(name, f"./{name}.zarr")
        if name == names[0]:
            del item["collection"]
        (place / f"{name}.json").write_text(json.dumps(item))
    links = [{"rel": "child", "href": "./l2a/collection.json"}, {"rel": "item", "href": f"{names[2]}.json"}]
    root = {"type": "Catalog", "id": "root", "links": [*links, {"rel": "root", "href": "catalog.json"}]}
    (tmp_path / "static" / "catalog.json").write_text(json.dumps(root))
    links = [{"rel": "item", "href": f"{name}.json"} for name in names[:2]]
    # A child that leads back to the root must not be walked twice.
    links += [{"rel": "child", "href": "../catalog.json"}]
    child = {"type": "Collection", "id": "sentinel-2-l2a", "links": links}
    (collection / "collection.json").write_text(json.dumps(child))
    return tmp_path / "static"


class TestPaging:
    def test_follows_tokens_to_the_end_without_a_total(self) -> None:
        with stac_server(items(25), page_size=10) as server:
            assert ids(read_catalogue(source(server.url))) == [product_id(i) for i in range(25)]
            bodies = server.paths("/search")
        assert [body.get("token", "").split(":")[-1] for body in bodies] == ["", product_id(9), product_id(19)]
        assert all(method == "POST" for method, path, _ in server.requests if path == "/search")

    def test_asks_for_a_total_order_where_the_api_can_sort_and_for_none_where_it_cannot(self) -> None:
        for sorts in (True, False):
            with stac_server(items(3), sorts=sorts) as server:
                assert len(ids(read_catalogue(source(server.url)))) == 3
                order = server.paths("/search")[0].get("sortby")
            expected = [{"field": "properties.datetime", "direction": "asc"}, {"field": "id", "direction": "asc"}]
            assert order == (expected if sorts else None)

    def test_searches_one_collection_after_the_other_with_the_filters_that_an_api_knows(self) -> None:
        with stac_server([*items(4), *items(2, "sentinel-2-l1c")], page_size=3) as server:
            wanted = source(
                server.url,
                collections=("sentinel-2-l2a", "sentinel-2-l1c"),
                datetime="2025-01-13/2025-01-13",
                bbox=(9, 44, 10, 45),
                ids=(product_id(0), product_id(1)),
                page_size=50,
            )
            assert len(ids(read_catalogue(wanted))) == 4
            body = server.paths("/search")[0]
        assert body["datetime"] == "2025-01-13T00:00:00Z/2025-01-13T23:59:59.999999Z"
        assert (body["bbox"], body["limit"], len(body["ids"])) == ([9, 44, 10, 45], 50, 2)
        assert [b["collections"] for b in server.paths("/search")] == [["sentinel-2-l2a"], ["sentinel-2-l1c"]]

    def test_an_empty_page_with_a_next_link_is_not_the_end(self) -> None:
        with stac_server(items(5), page_size=2, faults=[Fault("empty_then_next", after=1)]) as server:
            assert len(ids(read_catalogue(source(server.url)))) == 5

    def test_a_circle_of_next_links_is_an_error_not_a_loop(self) -> None:
        with stac_server(items(5), page_size=2, faults=[Fault("circle", n=99)]) as server:
            with pytest.raises(CatalogError, match="circle") as caught:
                ids(read_catalogue(source(server.url)))
        assert caught.value.code == "ZM-CAT-ANSWER"

    @pytest.mark.parametrize(
        "pattern",
        ["*post-search_token-paging*", "*bbox_token-paging*", "*33-items*", "earth-search*"],
    )
    def test_recorded_pages_give_every_item_once(self, pattern: str) -> None:
        pages = recorded(pattern)
        # The recording ends before the catalogue does: cut the last next link.
        pages[-1]["response"]["links"] = [link for link in pages[-1]["response"]["links"] if link["rel"] != "next"]
        expected = [item["id"] for page in pages for item in page["response"]["features"]]
        with stac_server(recorded=pages) as server:
            assert ids(read_catalogue(source(server.url, collections=("any",)))) == expected
        assert len(server.paths("/search")) == len(pages)

    def test_pages_are_not_kept(self) -> None:
        padded = [{**item, "padding": "x" * 20_000} for item in items(60)]
        with stac_server(padded, page_size=5) as server:
            stream = read_catalogue(source(server.url))
            next(stream)
            tracemalloc.start()
            assert sum(1 for _ in stream) == 59
            # Server and client share this process: 59 items are 1.2 MB, one page is 0.1 MB and exists a few times.
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 1_000_000


class TestFaults:
    @pytest.mark.parametrize("kind", ["status", "reset", "cut"])
    def test_what_passes_is_tried_again(self, kind: Any) -> None:
        with stac_server(items(5), page_size=2, faults=[Fault(kind, after=1, n=1)]) as server:
            assert ids(read_catalogue(source(server.url))) == [product_id(i) for i in range(5)]
        assert len(server.paths("/search")) == 4

    @pytest.mark.parametrize("kind", ["status", "reset", "cut"])
    def test_what_does_not_pass_is_an_outage_after_the_last_try(self, kind: Any) -> None:
        with stac_server(items(5), page_size=2, faults=[Fault(kind, after=1, n=99)]) as server:
            with pytest.raises(UnknownStateError) as caught:
                ids(read_catalogue(source(server.url, retries=1)))
        assert caught.value.exit_code == 6
        assert len(server.paths("/search")) == 3

    def test_a_hanging_server_is_an_outage_in_bounded_time(self) -> None:
        with stac_server(items(5), faults=[Fault("hang", n=99)]) as server:
            start = time.monotonic()
            with pytest.raises(UnknownStateError, match="ZM-UNK-OUTAGE"):
                ids(read_catalogue(source(server.url, timeout_s=0.2, retries=1)))
            assert time.monotonic() - start < 20, "it hangs for 30 s"

    def test_nobody_listening_is_an_outage(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(UnknownStateError, match="no answer"):
            ids(read_catalogue(source(url, retries=0)))

    @pytest.mark.parametrize(("kind", "path"), [("garbage", "/search"), ("garbage", "/"), ("list", "/search")])
    def test_nonsense_is_told_at_once_and_not_tried_again(self, kind: Any, path: str) -> None:
        with stac_server(items(5), faults=[Fault(kind, path=path, n=99)]) as server:
            with pytest.raises(CatalogError) as caught:
                ids(read_catalogue(source(server.url)))
        assert caught.value.kind == "answer"
        assert len(server.paths("/search")) == (1 if path == "/search" else 0)

    def test_a_refusal_is_told_at_once_and_not_tried_again(self) -> None:
        with stac_server(items(5), faults=[Fault("status", status=400, n=99)]) as server:
            with pytest.raises(CatalogError, match="status 400") as caught:
                ids(read_catalogue(source(server.url)))
        assert caught.value.kind == "refused"
        assert len(server.paths("/search")) == 1

    def test_a_page_with_fewer_items_than_it_states_is_an_outage(self) -> None:
        with stac_server(items(5), page_size=2, numbers=True, faults=[Fault("short", after=1)]) as server:
            with pytest.raises(UnknownStateError, match="a page has 1 items and states 2"):
                ids(read_catalogue(source(server.url)))

    def test_fewer_items_than_the_catalogue_matched_is_an_outage(self) -> None:
        with stac_server(items(6), page_size=2, numbers=True) as server:
            pages = [{"request": {"body": None}, "response": server.search({"limit": 2})}]
        pages[0]["response"]["links"] = []
        with stac_server(recorded=pages) as server:
            with pytest.raises(UnknownStateError, match="2 items came, the catalogue said 6"):
                ids(read_catalogue(source(server.url)))


class TestForms:
    def test_a_static_catalogue_is_walked_local_and_over_http(self, folder: Path) -> None:
        expected = sorted(product_id(i) for i in range(3))
        assert sorted(ids(read_catalogue(source(str(folder / "catalog.json"))))) == expected
        assert sorted(ids(read_catalogue(source(str(folder))))) == expected
        with stac_server(folder=folder) as server:
            assert sorted(ids(read_catalogue(source(f"{server.url}/files/catalog.json")))) == expected
            assert len([path for _, path, _ in server.requests if path.endswith("catalog.json")]) == 1

    def test_an_item_in_a_collection_may_leave_its_name_out(self, folder: Path) -> None:
        found = {one.item["id"]: one for one in read_catalogue(source(str(folder)))}
        assert found[product_id(0)].collection == "sentinel-2-l2a"

    def test_a_broken_item_is_passed_on_and_a_broken_child_stops(self, folder: Path) -> None:
        (folder / "l2a" / f"{product_id(0)}.json").write_text('{"type": "Fea')
        (folder / "l2a" / f"{product_id(1)}.json").unlink()
        found = [(Path(one.address).stem, one.error.code if one.error else "") for one in read_catalogue(source(str(folder)))]
        assert sorted(found) == [(product_id(0), "ZM-SRC-METADATA"), (product_id(1), "ZM-SRC-MISSING"), (product_id(2), "")]
        (folder / "l2a" / "collection.json").unlink()
        with pytest.raises(CatalogError, match=r"collection\.json: a child of the catalogue is not there"):
            list(read_catalogue(source(str(folder))))

    def test_an_outage_of_one_item_of_a_static_catalogue_stops(self, folder: Path) -> None:
        with stac_server(folder=folder, faults=[Fault("status", path=product_id(1), n=99)]) as server:
            with pytest.raises(UnknownStateError, match="status 503"):
                list(read_catalogue(source(f"{server.url}/files/catalog.json", retries=0)))

    def test_a_collection_file_an_item_and_a_folder_of_items(self, tmp_path: Path) -> None:
        file = tmp_path / "items.json"
        file.write_text(json.dumps({"type": "FeatureCollection", "features": [*items(2), "x"]}))
        found = list(read_catalogue(source(str(file))))
        assert [one.item.get("id") for one in found] == [product_id(0), product_id(1), None]
        assert found[2].error is not None
        assert found[0].embedded
        with stac_server(folder=tmp_path) as server:
            assert len(list(read_catalogue(source(f"{server.url}/files/items.json", kind="items")))) == 3
        file.unlink()
        for item in items(2):
            (tmp_path / f"{item['id']}.json").write_text(json.dumps(item))
        assert ids(read_catalogue(source(str(tmp_path)))) == [product_id(0), product_id(1)]
        assert ids(read_catalogue(source(str(tmp_path / f"{product_id(1)}.json")))) == [product_id(1)]

    def test_a_list_of_hrefs(self, tmp_path: Path) -> None:
        file = tmp_path / "list.csv"
        file.write_text("\ufeffhref,collection\na.zarr,one\n\n b.zarr ,\n,\nc.zarr,x,too,many\n", encoding="utf-8")
        rows = [one.row for one in read_catalogue(source(str(file)))]
        assert [row["href"] for row in rows] == ["a.zarr", "b.zarr", "c.zarr"]
        assert (rows[0]["collection"], rows[1]["collection"]) == ("one", "")
        with stac_server(folder=tmp_path) as server:
            assert len(list(read_catalogue(source(f"{server.url}/files/list.csv")))) == 3

    @pytest.mark.parametrize("text", ["url\nx.zarr\n", "", 'href\n"' + "x" * 200_000 + '"\n'])
    def test_a_list_that_is_none_is_nonsense(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "list.csv").write_text(text)
        with pytest.raises(CatalogError) as caught:
            list(read_catalogue(source(str(tmp_path / "list.csv"))))
        assert caught.value.kind == "answer"

    @pytest.mark.parametrize("content", [b"{", b"[]", b'{"type": "Feature', b'{"a": 1}', b"\xff\xfe", b"[" * 100_000])
    def test_a_file_that_is_no_catalogue_is_nonsense(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "items.json").write_bytes(content)
        with pytest.raises(CatalogError) as caught:
            list(read_catalogue(source(str(tmp_path / "items.json"))))
        assert caught.value.kind == "answer"

    def test_what_only_the_operator_can_mend_is_a_configuration_error(self, tmp_path: Path, folder: Path) -> None:
        with pytest.raises(ConfigError, match="no such catalogue"):
            list(read_catalogue(source(str(tmp_path / "none.json"))))
        with pytest.raises(ConfigError, match=r"local path or an http\(s\) address"):
            list(read_catalogue(source("s3://bucket/catalog.json")))
        with pytest.raises(ConfigError, match="is of kind catalog, configured is items"):
            list(read_catalogue(source(str(folder / "catalog.json"), kind="items")))
        empty = tmp_path / "empty"
        empty.mkdir()
        with pytest.raises(ConfigError, match="found 0 files"):
            list(read_catalogue(source(str(empty))))
        with stac_server(items(1)) as server:
            with pytest.raises(ConfigError, match="name the collections"):
                list(read_catalogue(source(server.url, collections=())))


class TestPlanOverHttp:
    """The whole stage against the server: catalogue and sources come from it."""

    @staticmethod
    def serve(tmp_path: Path, n: int, **options: Any) -> tuple[list[Item], Path]:
        folder = tmp_path / "host"
        for i in range(n):
            # A colon in the path, as the data host of the EOPF catalogue has.
            write_source(folder / "e05:2025-eu" / f"{product_id(i)}.zarr", note=str(i), **options)
        return [eopf_item(product_id(i), "") for i in range(n)], folder

    @staticmethod
    def settings(tmp_path: Path, server: StacServer, **options: Any) -> Settings:
        for item in server.items:
            for asset in item["assets"].values():
                path = asset["href"].removeprefix("/")
                root = f"{server.url}/files/e05:2025-eu/{item['id']}.zarr"
                asset["href"] = asset["href"] if "://" in asset["href"] else f"{root}/{path}".rstrip("/")
        roots = {"state_root": str(tmp_path / "results"), "store_root": str(tmp_path / "stores")}
        return Settings(run="r", **roots, source=source(server.url, **options))

    def test_sources_over_http_are_told_apart_by_what_the_host_answers(self, tmp_path: Path) -> None:
        found, folder = self.serve(tmp_path, 5)
        shutil.rmtree(folder / "e05:2025-eu" / f"{product_id(1)}.zarr")
        metadata = folder / "e05:2025-eu" / f"{product_id(2)}.zarr" / ".zmetadata"
        metadata.write_bytes(metadata.read_bytes()[:100])
        faults = [
            Fault("status", path=f"{product_id(3)}.zarr", n=99),
            Fault("status", path=f"{product_id(4)}.zarr", n=99, status=403),
        ]
        with stac_server(found, folder=folder, page_size=2, faults=faults) as server:
            result = plan(self.settings(tmp_path, server, retries=0), RECIPES)
        rows = {row.product_id: (row.plan_class, row.code) for row in result.rows}
        assert rows == {
            product_id(0): (PlanClass.NEW, ""),
            product_id(1): (PlanClass.REFUSED, "ZM-SRC-MISSING"),
            product_id(2): (PlanClass.REFUSED, "ZM-SRC-METADATA"),
            product_id(3): (PlanClass.UNKNOWN, "ZM-SRC-TIMEOUT"),
            product_id(4): (PlanClass.UNKNOWN, "ZM-SRC-DENIED"),
        }
        assert [product.product_id for product in result.products] == [product_id(0)]
        assert result.exit_code == 6

    def test_a_hanging_data_host_makes_a_product_unknown(self, tmp_path: Path) -> None:
        found, folder = self.serve(tmp_path, 2)
        faults = [Fault("hang", path=f"{product_id(1)}.zarr", n=99)]
        with stac_server(found, folder=folder, faults=faults) as server:
            result = plan(self.settings(tmp_path, server, retries=0, timeout_s=4.0), RECIPES)
        assert result.counts[PlanClass.UNKNOWN] == 1
        assert result.counts[PlanClass.NEW] == 1

    def test_a_data_host_that_is_down_stops_the_plan(self, tmp_path: Path) -> None:
        with stac_server([eopf_item(product_id(i), "") for i in range(60)], folder=tmp_path) as server:
            server.faults = [Fault("status", path="/files/", n=9999)]
            with pytest.raises(UnknownStateError, match="32 requests in a row"):
                plan(self.settings(tmp_path, server, retries=0), RECIPES)
            assert len(server.paths("/files/")) <= 48

    @pytest.mark.parametrize(("status", "code"), [(403, "ZM-SRC-DENIED"), (503, "ZM-SRC-TIMEOUT")])
    def test_a_store_that_cannot_be_asked_about_is_unknown_and_keeps_its_receipts(
        self, tmp_path: Path, status: int, code: str
    ) -> None:
        found, folder = self.serve(tmp_path, 2)
        with stac_server(found, folder=folder) as server:
            settings = self.settings(tmp_path, server, retries=0)
            settings = settings.model_copy(update={"store_root": f"{server.url}/files/stores"})
            state = State.of(settings)
            write_plan(plan(settings, RECIPES), state)
            product = read_manifest(state.manifest)[0]
            receipt = state.target("convert", product)
            receipt.write_text("{}")
            server.faults = [Fault("status", path="/files/stores", status=status, n=99)]
            result = plan(settings, RECIPES)
            assert [row.code for row in result.rows if row.plan_class is PlanClass.UNKNOWN] == [code]
            write_plan(result, state)
            assert receipt.exists()
            assert len(read_manifest(state.manifest)) == 1
            server.faults = []
            write_plan(plan(settings, RECIPES), state)
        assert not receipt.exists(), "the host is back and the store is certainly not there"
        assert len(read_manifest(state.manifest)) == 2

    def test_the_catalogues_key_is_sent_and_told_nowhere(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        served, folder = self.serve(tmp_path, 1)
        with stac_server(served, folder=folder, faults=[Fault("reset", path="list.json")]) as server:
            catalogue = source(f"{server.url}/files/list.json?subscription-key=SECRET")
            settings = self.settings(tmp_path, server).model_copy(update={"source": catalogue})
            (folder / "list.json").write_text(json.dumps({"type": "FeatureCollection", "features": server.items}))
            write_plan(plan(settings, RECIPES), State.of(settings))
            assert server.queries.count("subscription-key=SECRET") == 2
        (product,) = read_manifest(State.of(settings).manifest)
        assert product.item_href == f"{server.url}/files/list.json"
        with pytest.raises(UnknownStateError, match=r"list.json\?\*\*\*: no answer") as caught:
            plan(settings, RECIPES)
        written = [path.read_text() for path in Path(settings.state_root).rglob("*") if path.is_file()]
        assert "Retrying" in caplog.text
        assert not [text for text in (*written, str(caught.value), caplog.text, *capfd.readouterr()) if "SECRET" in text]

    def test_a_search_and_its_pages_are_asked_with_their_queries(self) -> None:
        class Keyed(StacServer):
            def landing(self) -> dict[str, Any]:
                page = super().landing()
                return {**page, "links": [{**link, "href": f"{link['href']}?key=SECRET"} for link in page["links"]]}

            def page(self, *args: Any) -> dict[str, Any]:
                page = super().page(*args)
                return {**page, "links": [{**link, "href": f"{link['href']}?key=SECRET"} for link in page["links"]]}

        with stac_server(items(5), page_size=2, kind=Keyed) as server:
            assert len(ids(read_catalogue(source(f"{server.url}/?key=SECRET")))) == 5
            assert server.queries == ["key=SECRET"] * 4

    def test_repeated_items_count_once(self, tmp_path: Path) -> None:
        found, folder = self.serve(tmp_path, 4)
        with stac_server(found, folder=folder, page_size=2, faults=[Fault("duplicate", n=2)]) as server:
            result = plan(self.settings(tmp_path, server), RECIPES)
        assert (len(result.products), result.n_repeated, len(result.rows)) == (4, 2, 4)

    def test_an_outage_in_the_middle_leaves_the_old_plan_untouched(self, tmp_path: Path) -> None:
        found, folder = self.serve(tmp_path, 4)
        with stac_server(found, folder=folder, page_size=2) as server:
            settings = self.settings(tmp_path, server, retries=0)
            state = State.of(settings)
            write_plan(plan(settings, RECIPES), state)
            before = {path: path.stat().st_mtime_ns for path in Path(state.root).rglob("*")}
            assert len(before) > 4
            server.faults = [Fault("status", after=1, n=99)]
            with pytest.raises(UnknownStateError):
                write_plan(plan(settings, RECIPES), state)
        assert {path: path.stat().st_mtime_ns for path in Path(state.root).rglob("*")} == before

    def test_a_plan_in_which_nothing_could_be_told_is_not_written(self, tmp_path: Path) -> None:
        found, folder = self.serve(tmp_path, 2)
        with stac_server(found, folder=folder, faults=[Fault("status", path="/files/", n=99)]) as server:
            settings = self.settings(tmp_path, server, retries=0)
            result = plan(settings, RECIPES)
        with pytest.raises(UnknownStateError, match="none of 2 products"):
            write_plan(result, State.of(settings))
        assert not Path(State.of(settings).root).exists()

    def test_recorded_sentinel_2_items_without_a_zarr_store_are_refused_by_name(self, tmp_path: Path) -> None:
        with stac_server(recorded=recorded("*33-items*")) as server:
            result = plan(self.settings(tmp_path, server), RECIPES)
        assert result.counts[PlanClass.REFUSED] == len(result.rows) == 33
        assert all("assets lead to none" in row.reason for row in result.rows)

    def test_the_recorded_eopf_item_is_understood(self, tmp_path: Path) -> None:
        files = sorted(RECORDED.glob("eopf-catalogue_item_*.json"))
        if not files:
            pytest.skip("the recorded catalogue pages are not on this machine")
        file = tmp_path / "items.json"
        file.write_text(json.dumps({"type": "FeatureCollection", "features": [json.loads(files[0].read_text())]}))
        settings = Settings(
            run="r", state_root=str(tmp_path / "results"), source=source(str(file), fingerprint="item", max_cloud_cover=60)
        )
        (product,) = plan(settings, RECIPES).products
        assert product.href.endswith(":202511-s02msil2a-eu/13/products/cpm_v262/" + product.product_id + ".zarr")
        assert (product.product_type, product.day) == ("S02MSIL2A", "20251113")
        assert product.item_href.startswith("https://stac.core.eopf.eodc.eu/collections/sentinel-2-l2a/items/")
