"""The rights in ``deploy/policies``: each role can do its work, and nothing that would lose what others made."""

import json
import string
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from s3_server import Bucket, S3Server, bucket, s3_server
from workspace import ROOT, Workspace

ROLES = ("planner", "converter", "publisher", "janitor")
NAMES = {"STATE_BUCKET": "roles-state", "STATE_PREFIX": "runs", "STORE_BUCKET": "roles-stores", "STORE_PREFIX": "geozarr"}
TARGET, RECEIPT = "runs/may/s2/20250101/convert/a.json", "runs/may/s2/20250101/register/a.json"
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
        for key in (TARGET, RECEIPT, "other/precious"):
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
    ("state", TARGET): {"planner": "rwd", "converter": "rwd", "publisher": "r", "janitor": "rwd"},
    ("state", RECEIPT): {"planner": "rwd", "converter": "rwd", "publisher": "rwd", "janitor": "rwd"},
    ("stores", STORE): {"planner": "r", "converter": "rw", "publisher": "r", "janitor": "rd"},
    ("stores", JOURNAL): {"planner": "r", "converter": "rwd", "publisher": "r", "janitor": "rd"},
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


def test_a_run_needs_no_more_than_planner_and_converter(
    roles: S3Server, places: dict[str, Bucket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Workspace.create(tmp_path / "work", n_days=1, products_per_day=1)
    work.configure(state_root="s3://roles-state/runs", store_root="s3://roles-stores/geozarr")
    for name, value in roles.env("role-planner").items():
        monkeypatch.setenv(name, value)
    work.plan()
    for name, value in roles.env("role-converter").items():
        monkeypatch.setenv(name, value)
    work.snakemake()
    assert work.zarrmill("status").stdout.startswith("1/1 ok")
    sealed = [key for key in places["stores"].keys("geozarr/") if key.endswith(".zarr/zarr.json") and "a.zarr" not in key]
    assert len(sealed) == 1
    assert places["stores"].keys("other/") == ["other/precious"]
    assert work.jobs() == {}
