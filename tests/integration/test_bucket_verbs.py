"""``zarrmill bucket``: rules of a real bucket are shown, brought in order, and looked at before a run."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from fault_proxy import FaultProxy, Rule, no_conditions, slow_down
from s3_server import Bucket
from structlog.testing import capture_logs
from typer.testing import CliRunner

from zarrmill.cli import app
from zarrmill.config import S3, Settings, parse_settings
from zarrmill.errors import ConfigError, StoreError, UnknownStateError
from zarrmill.io import bucket as buckets
from zarrmill.io.bucket_rules import read_list
from zarrmill.runs.bucket import guard, look, setup

THEIRS = {
    "lifecycle": {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "other/"}, "Expiration": {"Days": 3}},
    "cors": {"ID": "theirs", "AllowedMethods": ["PUT"], "AllowedOrigins": ["https://x.example"], "MaxAgeSeconds": 60},
    "policy": {
        "Sid": "theirs",
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": "arn:aws:s3:::BUCKET/other/*",
    },
}
RULES = {
    "versioning": "required",
    "noncurrent_days": 14,
    "viewers": ["https://viewer.example.org"],
    "public_read": True,
}


@pytest.fixture
def admin(s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The environment leads to the bucket with all rights; a client of it."""
    for name, value in s3_bucket.env("admin").items():
        monkeypatch.setenv(name, value)
    with closing(s3_bucket.client()) as client:
        yield client
        client.put_bucket_versioning(Bucket=s3_bucket.name, VersioningConfiguration={"Status": "Suspended"})
        for page in client.get_paginator("list_object_versions").paginate(Bucket=s3_bucket.name):
            for item in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                client.delete_object(Bucket=s3_bucket.name, Key=item["Key"], VersionId=item["VersionId"])


def settings(made: Bucket, **changes: Any) -> Settings:
    roots = {"state_root": made.href("runs"), "store_root": made.href("stores")}
    return parse_settings({"source": {"catalogue": "items.json"}, "bucket_rules": RULES, **roots, **changes})


def put_theirs(client: Any, name: str) -> None:
    client.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": [THEIRS["lifecycle"]]})
    client.put_bucket_cors(Bucket=name, CORSConfiguration={"CORSRules": [THEIRS["cors"]]})
    statement = json.loads(json.dumps(THEIRS["policy"]).replace("BUCKET", name))
    client.put_bucket_policy(Bucket=name, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))


def test_setup_makes_everything_as_wanted_keeps_what_others_made_and_does_nothing_twice(admin: Any, s3_bucket: Bucket) -> None:
    put_theirs(admin, s3_bucket.name)
    (before,) = look(settings(s3_bucket))
    assert before.changes[0] == "switch versioning on"
    assert len(before.changes) == 1 + 4 + 1 + 1
    setup(before)
    (after,) = look(settings(s3_bucket))
    assert (after.changes, after.dangers, after.found.versioning) == ((), (), True)
    assert [rule["ID"] for rule in after.found.lifecycle if not rule["ID"].startswith("zarrmill")] == ["theirs"]
    assert [rule["ID"] for rule in after.found.cors] == ["theirs", "zarrmill-viewers:stores/"]
    assert [statement["Sid"][:12] for statement in after.found.policy] == ["theirs", "zarrmillRead"]
    guard(settings(s3_bucket))
    (less,) = look(settings(s3_bucket, bucket_rules={"versioning": "off"}))
    assert [change[:20] for change in less.changes] == ["cors: zarrmill-viewe", "policy: zarrmillRead"]
    setup(less)
    (last,) = look(settings(s3_bucket, bucket_rules={"versioning": "off"}))
    assert ([rule["ID"] for rule in last.found.cors], last.changes) == (["theirs"], ())


def test_viewers_and_everyone_read_stores_and_nothing_else(admin: Any, s3_bucket: Bucket) -> None:
    import requests

    s3_bucket.put("stores/a.zarr/zarr.json", b"{}")
    s3_bucket.put("stores/a.zarr.journal/000001.json", b"{}")
    s3_bucket.put("runs/demo/manifest.csv", b"secret")
    setup(look(settings(s3_bucket))[0])
    url, origin = f"{s3_bucket.url}/{s3_bucket.name}", {"Origin": "https://viewer.example.org"}
    answer = requests.get(f"{url}/stores/a.zarr/zarr.json", headers=origin, timeout=10)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, "https://viewer.example.org")
    for hidden in ("runs/demo/manifest.csv", "stores/a.zarr.journal/000001.json", "stores/.once"):
        assert requests.get(f"{url}/{hidden}", timeout=10).status_code == 403
    assert requests.put(f"{url}/stores/a.zarr/zarr.json", data=b"x", timeout=10).status_code == 403
    assert requests.get(f"{url}/?list-type=2", timeout=10).status_code == 403


def test_what_was_deleted_can_be_had_back(admin: Any, s3_bucket: Bucket) -> None:
    setup(look(settings(s3_bucket))[0])
    s3_bucket.put("stores/a", b"one")
    s3_bucket.delete("stores/a")
    versions = admin.list_object_versions(Bucket=s3_bucket.name, Prefix="stores/a")
    (kept,) = versions["Versions"]
    assert admin.get_object(Bucket=s3_bucket.name, Key="stores/a", VersionId=kept["VersionId"])["Body"].read() == b"one"


def test_the_command_shows_first_and_changes_only_when_told_to(admin: Any, s3_bucket: Bucket, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings(s3_bucket).model_dump(mode="json", exclude_none=True)))

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["bucket", *arguments, "--config", str(config)])
        return done.exit_code, done.output

    code, told = run("check")
    assert code == 4
    assert "DATA WOULD BE LOST: versioning is off" in told
    code, told = run("setup")
    assert "to change: switch versioning on" in told
    assert "nothing was changed" in told
    assert "Status" not in admin.get_bucket_versioning(Bucket=s3_bucket.name)
    code, told = run("setup", "--execute")
    assert "changed: lifecycle: zarrmill-noncurrent:stores/" in told
    assert (code, "WOULD BE LOST" in told) == (0, False), "what was mended is no danger any more"
    assert run("check") == (0, f"s3://{s3_bucket.name}\n  as it should be\n")
    assert run("setup", "--execute") == (0, f"s3://{s3_bucket.name}\n  as it should be\n")


def test_the_command_tells_what_a_service_does_not_know(
    admin: Any, s3_bucket: Bucket, proxied: Callable[[str], FaultProxy], tmp_path: Path
) -> None:
    proxy = proxied(s3_bucket.url)
    proxy.add(Rule(kind="answer", status=501, code="NotImplemented", path=r"\?lifecycle"))
    config = tmp_path / "config.yaml"
    chosen = settings(s3_bucket, s3={"endpoint_url": proxy.url, "retries": 0}, bucket_rules={"versioning": "off"})
    config.write_text(yaml.safe_dump(chosen.model_dump(mode="json", exclude_none=True)))
    for verb in (("check",), ("setup", "--execute")):
        done = CliRunner().invoke(app, ["bucket", *verb, "--config", str(config)])
        assert done.exit_code == 4
        assert "not known: s3://" in done.output
        assert "as it should be" not in done.output


def test_a_change_that_is_refused_is_not_told_as_made(
    admin: Any, s3_bucket: Bucket, proxied: Callable[[str], FaultProxy], tmp_path: Path
) -> None:
    proxy = proxied(s3_bucket.url)
    proxy.add(Rule(kind="answer", method="PUT", status=501, code="NotImplemented", path=r"\?versioning"))
    config = tmp_path / "config.yaml"
    chosen = settings(s3_bucket, s3={"endpoint_url": proxy.url, "retries": 0})
    config.write_text(yaml.safe_dump(chosen.model_dump(mode="json", exclude_none=True)))
    done = CliRunner().invoke(app, ["bucket", "setup", "--execute", "--config", str(config)])
    assert isinstance(done.exception, StoreError) or done.exit_code == 4
    assert "changed:" not in done.output


def test_a_bucket_that_would_lose_data_starts_no_run(admin: Any, s3_bucket: Bucket) -> None:
    with pytest.raises(ConfigError, match="versioning is off"):
        guard(settings(s3_bucket))
    guard(settings(s3_bucket, bucket_rules={}))
    rule = {**THEIRS["lifecycle"], "Filter": {"Prefix": "stores/"}}
    admin.put_bucket_lifecycle_configuration(Bucket=s3_bucket.name, LifecycleConfiguration={"Rules": [rule]})
    with pytest.raises(ConfigError, match="'theirs' deletes objects after 3 days: it reaches stores/"):
        guard(settings(s3_bucket, bucket_rules={}))
    with pytest.raises(UnknownStateError, match="no such bucket"):
        guard(settings(s3_bucket, state_root="s3://nowhere-at-all/runs", bucket_rules={}))
    with pytest.raises(ConfigError, match="lie in one another"):
        guard(settings(s3_bucket, bucket_rules={}, store_root=s3_bucket.href("runs/demo/stores")))


def test_rules_that_may_not_be_read_stop_only_who_requires_them(s3_bucket: Bucket) -> None:
    guard(settings(s3_bucket, bucket_rules={}))  # ``writer`` may not read them
    with pytest.raises(UnknownStateError, match="access denied"):
        guard(settings(s3_bucket))


def test_an_outage_is_no_answer(s3_bucket: Bucket, proxied: Callable[[str], FaultProxy]) -> None:
    proxy = proxied(s3_bucket.url)
    buckets.use(S3(endpoint_url=proxy.url, retries=0))
    for rule in (slow_down(), Rule(kind="refuse")):
        proxy.rules = [rule]
        with pytest.raises(UnknownStateError, match="nothing was decided"):
            guard(settings(s3_bucket))


@pytest.mark.parametrize("kind", ["lifecycle", "versioning", "cors", "policy"])
def test_a_service_without_such_rules_is_told_and_the_rest_is_looked_at(
    admin: Any, s3_bucket: Bucket, proxied: Callable[[str], FaultProxy], kind: str
) -> None:
    proxy = proxied(s3_bucket.url)
    buckets.use(S3(endpoint_url=proxy.url, retries=0))
    proxy.rules = [Rule(kind="answer", status=501, code="NotImplemented", path=rf"\?{kind}"), no_conditions()]
    with pytest.raises(ConfigError, match="ignores If-None-Match"):
        guard(settings(s3_bucket, bucket_rules={}))
    (state,) = look(settings(s3_bucket))
    assert ["does not know it" in reason for reason in state.unknown] == [True]
    assert ["ignores If-None-Match" in danger for danger in state.dangers][-1]
    assert not [change for change in state.changes if kind in change]
    setup(state)
    (after,) = look(settings(s3_bucket))
    assert (after.changes, after.unknown) == ((), state.unknown)
    if kind in ("cors", "policy"):
        (plain,) = look(settings(s3_bucket, bucket_rules={}))
        assert plain.unknown == (), "what is not wanted is not missed"


@pytest.mark.parametrize("kind", ["lifecycle", "cors", "policy"])
def test_a_listing_in_place_of_rules_is_taken_for_neither_rules_nor_none(
    admin: Any, s3_bucket: Bucket, proxied: Callable[[str], FaultProxy], kind: str
) -> None:
    proxy = proxied(s3_bucket.url)
    buckets.use(S3(endpoint_url=proxy.url, retries=0))
    listing = "<?xml version='1.0'?><ListBucketResult><Name>any</Name><IsTruncated>false</IsTruncated></ListBucketResult>"
    proxy.add(Rule(kind="answer", method="GET", status=200, path=rf"\?{kind}", body=listing))
    with pytest.raises(StoreError, match=f"{kind}: the answer holds no rules, so the service does not know it"):
        read_list(s3_bucket.name, kind)
    guard(settings(s3_bucket, bucket_rules={}))


def test_a_service_that_lets_an_object_be_written_twice_starts_no_run(
    admin: Any, s3_bucket: Bucket, proxied: Callable[[str], FaultProxy]
) -> None:
    proxy = proxied(s3_bucket.url)
    buckets.use(S3(endpoint_url=proxy.url, retries=0))
    chosen = settings(s3_bucket, bucket_rules={})
    proxy.rules = [no_conditions()]
    with pytest.raises(ConfigError, match="ignores If-None-Match") as caught:
        guard(chosen)
    assert caught.value.code == "ZM-CFG-BUCKET"
    (state,) = look(chosen)
    assert ["two processes could write" in danger for danger in state.dangers] == [True]
    proxy.rules = [Rule(kind="answer", status=501, code="NotImplemented", method="PUT")]
    with pytest.raises(ConfigError, match="refuses If-None-Match"):
        guard(chosen)
    proxy.clear()
    guard(chosen)
    assert look(chosen)[0].dangers == ()
    assert s3_bucket.keys() == ["runs/.once", "stores/.once"]


def test_a_plan_asks_whether_a_service_keeps_one_writer_before_it_takes_the_run(
    s3_bucket: Bucket, proxied: Callable[[str], FaultProxy], tmp_path: Path
) -> None:
    """The lock rests on what the service refuses: it would end as a right that is missing."""
    proxy = proxied(s3_bucket.url)
    proxy.rules = [Rule(kind="answer", status=501, code="NotImplemented", method="PUT")]
    config = tmp_path / "config.yaml"
    (tmp_path / "r.yaml").write_text("name: r\nproduct_types: [S02MSIL2A]\n")
    more = {"s3": {"endpoint_url": proxy.url, "retries": 0}, "recipes": [str(tmp_path / "r.yaml")], "bucket_rules": {}}
    config.write_text(yaml.safe_dump(settings(s3_bucket, **more).model_dump(mode="json", exclude_none=True)))
    done = CliRunner().invoke(app, ["plan", "--config", str(config)])
    assert isinstance(done.exception, ConfigError), done.output
    assert (done.exception.code, done.exception.exit_code) == ("ZM-CFG-BUCKET", 2)


def test_a_service_is_asked_once_a_run_and_by_one_request(s3_bucket: Bucket, proxied: Callable[[str], FaultProxy]) -> None:
    proxy = proxied(s3_bucket.url)
    buckets.use(S3(endpoint_url=proxy.url, retries=0))
    chosen = settings(s3_bucket, bucket_rules={})
    for n_puts in (2, 1):
        proxy.requests = []
        guard(chosen)
        assert proxy.count("PUT") == n_puts
    assert s3_bucket.keys() == ["runs/.once"]


def test_who_may_not_write_is_told_that_it_is_not_known(s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_bucket.env("reader").items():
        monkeypatch.setenv(name, value)
    with capture_logs() as told:
        guard(settings(s3_bucket, bucket_rules={"versioning": "off"}))
    assert "not known whether a bucket keeps one writer" in [event["event"] for event in told]
