"""The rights in ``deploy/policies``: each role can do its work, and nothing that would lose what others made."""

import json
import string
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from botocore.exceptions import ClientError
from fake_run import fake_products
from fault_proxy import FaultProxy, Request
from s3_server import Bucket, S3Server, bucket, s3_server
from typer.testing import CliRunner
from workspace import ROOT, Workspace

from zarrmill import cli_runs
from zarrmill.cli import app
from zarrmill.config import S3, parse_settings
from zarrmill.io import bucket as buckets
from zarrmill.io.manifest import write_manifest
from zarrmill.io.progress import Heartbeat, ProgressFile
from zarrmill.io.state import State
from zarrmill.runs.failures import find_failures

ROLES = ("planner", "converter", "publisher", "janitor", "reader")
NAMES = {"STATE_BUCKET": "roles-state", "STATE_PREFIX": "runs", "STORE_BUCKET": "roles-stores", "STORE_PREFIX": "geozarr"}
TARGET, RECEIPT = "runs/may/s2/20250101/convert/a.json", "runs/may/s2/20250101/register/a.json"
REMOVED = "runs/_removed/a.jsonl"
STORE, JOURNAL = "geozarr/s2/20250101/a.zarr/zarr.json", "geozarr/s2/20250101/a.zarr.journal/000001.json"


def policy(role: str) -> str:
    return string.Template((ROOT / f"deploy/policies/{role}.json").read_text()).substitute(NAMES)


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that knows the four roles."""
    named = {f"role-{role}": policy(role) for role in ROLES}
    with s3_server(tmp_path_factory.mktemp("roles"), named) as server:
        yield server


@pytest.fixture
def places(roles: S3Server) -> Iterator[dict[str, Bucket]]:
    """Bucket of the state and bucket of stores, with an object of each kind."""
    with ExitStack() as stack:
        made = {name: stack.enter_context(bucket(roles, f"roles-{name}")) for name in ("state", "stores")}
        for key in (TARGET, RECEIPT, REMOVED, "other/precious"):
            made["state"].put(key, b"{}")
        for key in (STORE, JOURNAL, "other/precious"):
            made["stores"].put(key, b"{}")
        yield made


def may(client: Any, made: Bucket, verb: str, key: str = "") -> bool:
    """Try, and return whether it was allowed."""
    where = {"Bucket": made.name}
    tries: dict[str, Callable[[], Any]] = {
        "read": lambda: client.get_object(**where, Key=key),
        "write": lambda: client.put_object(**where, Key=key, Body=b"{}"),
        "delete": lambda: client.delete_object(**where, Key=key),
        "list": lambda: client.list_objects_v2(**where),
        "remove bucket": lambda: client.delete_bucket(**where),
        "make bucket": lambda: client.create_bucket(Bucket=f"{made.name}-2"),
        "set rules": lambda: client.put_bucket_versioning(**where, VersioningConfiguration={"Status": "Suspended"}),
    }
    try:
        tries[verb]()
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 403:
            raise
        return False
    return True


RIGHTS = {
    # (bucket, key): what each role may do there, r, w and d
    ("state", TARGET): {"planner": "rwd", "converter": "rwd", "publisher": "r", "janitor": "r", "reader": "r"},
    ("state", RECEIPT): {"planner": "rwd", "converter": "rwd", "publisher": "rwd", "janitor": "r", "reader": "r"},
    ("state", REMOVED): {"planner": "rwd", "converter": "rwd", "publisher": "r", "janitor": "rw", "reader": "r"},
    ("stores", STORE): {"planner": "r", "converter": "rw", "publisher": "r", "janitor": "rd", "reader": "r"},
    ("stores", JOURNAL): {"planner": "r", "converter": "rwd", "publisher": "r", "janitor": "rwd", "reader": "r"},
    ("state", "other/precious"): dict.fromkeys(ROLES, ""),
    ("stores", "other/precious"): dict.fromkeys(ROLES, ""),
}


@pytest.mark.parametrize("role", ROLES)
def test_each_role_has_its_rights_and_no_others(roles: S3Server, places: dict[str, Bucket], role: str) -> None:
    with closing(roles.client(f"role-{role}")) as client:
        for (place, key), rights in RIGHTS.items():
            allowed = "".join(verb[0] for verb in ("read", "write", "delete") if may(client, places[place], verb, key))
            assert allowed == rights[role], (place, key)
            places[place].put(key, b"{}")
        for made in places.values():
            assert may(client, made, "list")
            assert not may(client, made, "make bucket")
            assert not may(client, made, "set rules")
        for made in places.values():
            made.delete(*made.keys())
            assert not may(client, made, "remove bucket"), "not even an empty one"


def test_no_role_is_without_its_denial() -> None:
    assert {path.stem for path in (ROOT / "deploy/policies").glob("*.json")} == set(ROLES)
    for role in ROLES:
        document = json.loads(policy(role))
        denied = [s for s in document["Statement"] if s["Effect"] == "Deny"]
        assert [(s["Action"], s["Resource"]) for s in denied] == [(["s3:CreateBucket", "s3:DeleteBucket"], "*")]
        allowed = [action for s in document["Statement"] if s["Effect"] == "Allow" for action in s["Action"]]
        assert all(action.startswith("s3:") and "*" not in action for action in allowed)


def test_each_right_is_used_and_no_other_is_needed(
    roles: S3Server,
    places: dict[str, Bucket],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    proxied: Callable[[str], FaultProxy],
) -> None:
    """The work of each role, with its rights alone; then every right of it must have been asked for."""
    proxy, state = proxied(roles.url), places["state"]
    work = Workspace.create(tmp_path / "work", n_days=1, products_per_day=1)
    work.configure(state_root="s3://roles-state/runs", store_root="s3://roles-stores/geozarr")

    def become(role: str) -> None:
        for name, value in roles.env(f"role-{role}", proxy.url).items():
            monkeypatch.setenv(name, value)
        buckets.use(S3())
        proxy.requests = []

    become("planner")
    work.plan()
    (product,) = work.products
    planned = list(proxy.requests)
    begin_upload(places["stores"], f"geozarr/{product.store_path}/left")
    become("converter")
    work.snakemake()
    assert work.zarrmill("status").stdout.startswith("1/1 ok")
    assert unused("converter", proxy.requests) == []
    sealed = [key for key in places["stores"].keys("geozarr/") if key.endswith(".zarr/zarr.json") and key != STORE]
    assert len(sealed) == 1
    state.delete(*state.keys("runs/test/report/"))
    become("planner")  # as the driver of a cluster, where jobs are others
    work.snakemake()
    assert work.jobs() == {}
    planned += proxy.requests
    become("reader")
    for verb in ("status", "audit"):
        assert (told := work.zarrmill(verb)).returncode == 0, told.stdout + told.stderr
    assert unused("reader", proxy.requests) == []
    orphan = f"{product.store_path.rpartition('/')[0]}/ORPHAN_00000000.zarr"
    for key in ("zarr.json", "a/zarr.json"):
        places["stores"].put(f"geozarr/{orphan}/{key}", b"{}")
    begin_upload(places["stores"], f"geozarr/{orphan}/left")
    become("janitor")
    monkeypatch.setattr(cli_runs, "parse_duration", lambda text, option: -3600.0)
    arguments = ["clean", "--execute", "1", "--max-share", "1", "--config", str(work.path / "config/config.yaml")]
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, "removed: orphan" in done.output) == (0, True), done.output
    assert unused("janitor", proxy.requests) == []
    assert not [key for key in places["stores"].keys("geozarr/") if "ORPHAN" in key]
    assert places["stores"].uploads() == []
    assert set(sealed) < set(places["stores"].keys("geozarr/"))
    assert [json.loads(state.contents(key)[""])["outcome"] for key in state.keys("runs/_removed/2")] == ["removed"]
    assert places["stores"].keys("other/") == ["other/precious"]
    places["stores"].delete(*sealed)
    become("planner")
    assert {row["class"] for row in work.plan()["products"]} == {"missing"}
    assert unused("planner", [*planned, *proxy.requests]) == []


def test_a_reader_is_told_failures_where_a_killed_job_left_none(
    roles: S3Server, places: dict[str, Bucket], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = parse_settings({"run": "may", "state_root": places["state"].href("runs"), "source": {"catalogue": "none"}})
    state, (product,) = State.of(settings), fake_products(1)

    def become(role: str) -> None:
        for name, value in roles.env(f"role-{role}").items():
            monkeypatch.setenv(name, value)
        buckets.use(S3())

    become("converter")
    write_manifest([product], state.manifest)
    beat = ProgressFile(state.progress(product), "convert", product.name)
    beat.write()
    beat.flush()
    monkeypatch.setattr(Heartbeat, "dead", lambda self, now: True)
    become("reader")
    assert find_failures(settings) == ()
    assert "a job was killed, and its failure is not among these: ZM-STO-DENIED" in capsys.readouterr().err
    become("planner")
    assert [one.code for one in find_failures(settings)] == ["ZM-CAP-KILLED"]
    become("reader")
    assert len(find_failures(settings)) == 1


def begin_upload(made: Bucket, key: str) -> None:
    with closing(made.client()) as client:
        client.create_multipart_upload(Bucket=made.name, Key=key)


def unused(role: str, requests: Sequence[Request]) -> list[tuple[str, str]]:
    """Return right and resource of what a policy allows and no request asked for."""
    asked = {asked_for(request) for request in requests}
    allowed = [s for s in json.loads(policy(role))["Statement"] if s["Effect"] == "Allow"]
    rights = [(action, resource) for s in allowed for action in s["Action"] for resource in s["Resource"]]
    return [(a, r) for a, r in rights if not any(a == action and fnmatchcase(place, r) for action, place in asked)]


def asked_for(request: Request) -> tuple[str, str]:
    """Return the right that a request needs, and the resource."""
    url = urlsplit(request.path)
    names = {name for name, _ in parse_qsl(url.query, keep_blank_values=True)}
    place = unquote(url.path).strip("/")
    of_bucket = {"versioning": "GetBucketVersioning", "lifecycle": "GetLifecycleConfiguration", "location": "GetBucketLocation"}
    if "/" not in place:
        action = next((of_bucket[name] for name in names & of_bucket.keys()), "ListBucket")
        action = "ListBucketMultipartUploads" if "uploads" in names else action
    elif "uploadId" in names and request.method in ("GET", "DELETE"):
        action = {"GET": "ListMultipartUploadParts", "DELETE": "AbortMultipartUpload"}[request.method]
    else:
        verbs = {"GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject", "POST": "PutObject", "DELETE": "DeleteObject"}
        action = verbs[request.method]
    return f"s3:{action}", f"arn:aws:s3:::{place}"


def test_a_right_that_nobody_uses_is_seen() -> None:
    assert unused(
        "reader", [Request("GET", "/roles-state?list-type=2", None), Request("GET", "/roles-stores/geozarr/a", None)]
    ) == [
        ("s3:ListBucket", "arn:aws:s3:::roles-stores"),
        ("s3:GetObject", "arn:aws:s3:::roles-state/runs/*"),
    ]
