"""Rules of buckets: what is wanted, what is someone else's, and what would lose data."""

from typing import Any

import pytest

from zarrmill.config import BucketRules, Settings
from zarrmill.core.bucket_rules import Kept, Rules, dangers, differs, kept_in, merged, plain, same, wanted_rules
from zarrmill.errors import ConfigError

BOTH = Kept("data", "runs/", "stores/")


def expiry(prefix: str, **changes: Any) -> dict[str, Any]:
    return {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": prefix}, "Expiration": {"Days": 30}, **changes}


def told(*found: dict[str, Any], rules: BucketRules | None = None, kept: Kept = BOTH, versioning: bool = True) -> list[str]:
    rules = rules or BucketRules()
    return dangers(Rules(versioning, tuple(found)), wanted_rules(rules, kept), kept, rules)


def test_roots_are_kept_by_bucket() -> None:
    assert kept_in("results", "results/stores") == ()
    assert kept_in("s3://data/runs/", "s3://data/stores") == (BOTH,)
    assert kept_in("s3://a", "s3://b/x/y") == (Kept("a", "", None), Kept("b", None, "x/y/"))
    assert Kept("a", "", None).prefixes == ("",)


def test_every_prefix_gets_its_rules_and_no_other_prefix() -> None:
    rules = BucketRules(noncurrent_days=7, expire_days={"s3://data/staging": 2, "s3://other/staging": 3})
    wanted = wanted_rules(rules, BOTH)
    assert [rule["ID"] for rule in wanted.lifecycle] == [
        "zarrmill-noncurrent:runs/",
        "zarrmill-uploads:runs/",
        "zarrmill-noncurrent:stores/",
        "zarrmill-uploads:stores/",
        "zarrmill-expire:staging/",
    ]
    assert wanted.lifecycle[0]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 7}
    assert wanted.lifecycle[4]["Expiration"] == {"Days": 2}
    assert (wanted.cors, wanted.policy, wanted.versioning) == ((), (), True)


def test_viewers_and_the_public_get_stores_and_not_the_state() -> None:
    wanted = wanted_rules(BucketRules(viewers=("https://v.example",), public_read=True), BOTH)
    assert wanted.cors[0]["AllowedMethods"] == ["GET", "HEAD"]
    assert wanted.policy[0]["Resource"] == ["arn:aws:s3:::data/stores/*.zarr/*"]
    state = wanted_rules(BucketRules(viewers=("https://v.example",), public_read=True), Kept("data", "runs/", None))
    assert (state.cors, state.policy) == ((), ())


@pytest.mark.parametrize("prefix", ["", "st", "stores/", "stores/sentinel-2-l2a/", "runs/may/"])
def test_an_expiry_that_reaches_ours_is_a_danger(prefix: str) -> None:
    (text,) = told(expiry(prefix))
    assert "'theirs' deletes objects after 30 days" in text


@pytest.mark.parametrize(
    "rule",
    [
        expiry("other/"),
        expiry("stores-of-others/"),
        expiry("", Status="Disabled"),
        expiry("", Filter={"Tag": {"Key": "temporary", "Value": "yes"}}),
        expiry("", Filter={"And": {"Prefix": "", "Tags": [{"Key": "a", "Value": "b"}]}}),
        expiry("", Expiration={"ExpiredObjectDeleteMarker": True}),
        {"ID": "x", "Status": "Enabled", "Filter": {"Prefix": ""}, "NoncurrentVersionExpiration": {"NoncurrentDays": 1}},
        {"ID": "x", "Status": "Enabled", "Filter": {"Prefix": ""}, "Transitions": [{"Days": 1, "StorageClass": "STANDARD_IA"}]},
    ],
)
def test_what_does_not_reach_ours_or_deletes_nothing_is_none(rule: dict[str, Any]) -> None:
    assert told(rule) == []


def test_other_ways_to_lose_are_dangers() -> None:
    cold = {"ID": "cold", "Status": "Enabled", "Prefix": "", "Transitions": [{"Days": 1, "StorageClass": "GLACIER"}]}
    (text,) = told(cold)
    assert "moves objects to GLACIER" in text
    (text,) = told(expiry("stores/", Expiration={"Date": "2027-01-01"}))
    assert "on 2027-01-01" in text
    (text,) = told(rules=BucketRules(versioning="required"), versioning=False)
    assert "versioning is off" in text
    assert told(rules=BucketRules(versioning="wanted"), versioning=False) == []
    for stores in ("runs/may/", "", "runs/"):
        assert "lie in one another" in told(kept=Kept("data", "runs/", stores))[0]


def test_an_expiry_of_ours_is_a_danger_only_when_it_is_not_configured_any_more() -> None:
    rules = BucketRules(expire_days={"s3://data/stores/forward": 183})
    ours = wanted_rules(rules, BOTH).lifecycle[-1]
    assert told(dict(ours), rules=rules) == []
    assert len(told(dict(ours))) == 1
    assert len(told({**ours, "Expiration": {"Days": 3}}, rules=rules)) == 1, "not the days that are configured"


def test_rules_of_others_stay_and_ours_are_replaced() -> None:
    theirs, old = expiry("other/"), {"ID": "zarrmill-expire:stores/forward/", "Status": "Enabled"}
    wanted = wanted_rules(BucketRules(), BOTH).lifecycle
    assert merged([theirs, old], wanted, BOTH) == [theirs, *wanted]
    assert differs([theirs, old], wanted, BOTH) == sorted([*(rule["ID"] for rule in wanted), old["ID"]])
    assert differs([theirs, *wanted], wanted, BOTH) == []
    changed = {**wanted[0], "Status": "Disabled"}
    assert differs([changed, *wanted[1:]], wanted, BOTH) == [wanted[0]["ID"]]


@pytest.mark.parametrize("kind", ["lifecycle", "cors", "policy"])
def test_rules_of_another_project_in_the_same_bucket_stay(kind: str) -> None:
    rules = BucketRules(public_read=True, viewers=("https://v.example",), expire_days={"s3://data/staging": 2})
    other = Kept("data", "radar/runs/", "radar/stores/")
    ours, theirs = (getattr(wanted_rules(rules, kept), kind) for kept in (BOTH, other))
    both = merged(merged((), theirs, other), ours, BOTH)
    assert differs(both, ours, BOTH) == []
    assert differs(both, theirs, other) == []
    assert len({rule.get("ID") or rule.get("Sid") for rule in both}) == len(both), "no name twice"


def test_spelling_does_not_matter() -> None:
    assert plain({"b": ["x"], "a": 0}) == plain({"b": "x"})
    assert same([{"Action": ["s3:GetObject"]}, {"x": 1}], [{"x": 1}, {"Action": "s3:GetObject"}])
    assert not same([{"x": 1}], [{"x": 1}, {"x": 1}])


@pytest.mark.parametrize("address", ["s3://data", "data/x", "s3://data/x|0"])
def test_an_expiry_needs_a_prefix_and_days(address: str) -> None:
    from zarrmill.config import parse_settings

    place, _, days = address.partition("|")
    with pytest.raises(ConfigError, match="at least one day"):
        parse_settings({"source": {"catalogue": "x"}, "bucket_rules": {"expire_days": {place: int(days or 1)}}})
    assert Settings.model_fields["bucket_rules"].default == BucketRules()
