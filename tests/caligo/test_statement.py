"""The statement on security comes from the registry, for every campaign that can be."""

from __future__ import annotations

import pytest

from caligo import statement
from caligo.physics.claims import CLAIMS, Status
from caligo.spec import CampaignSpec, read_spec, validate

CAMPAIGNS = {
    (name, partition): validate(CampaignSpec, {"physics": {"claim": name}, "protocol": {"partition": partition}})
    for name, claim in CLAIMS.items()
    if claim.status is not Status.NONE
    for partition in claim.partitions
}


@pytest.mark.parametrize("which", CAMPAIGNS, ids="-".join)
def test_every_claim_is_told_in_its_own_words(which: tuple[str, str]) -> None:
    spec, claim = CAMPAIGNS[which], CLAIMS[which[0]]
    said = statement.attributes(spec)
    assert (said["claim"], said["partition"]) == which
    assert (said["claim_title"], said["claim_status"]) == (claim.title, str(claim.status))
    assert (said["claim_source"], said["charged"]) == (claim.source, claim.charged)
    assert (said["attacks_covered"], said["receiver"]) == (claim.adversary, claim.receiver)
    assert said["sender_error"].startswith(f"{claim.total_error(1e-10):.1e} = ")
    short = dict(statement.summary(spec))
    assert claim.name in short["claim"] and str(claim.status) in short["claim"] and which[1] in short["claim"]
    assert short["attacks covered"] == claim.adversary


def test_the_sender_s_error_is_a_number() -> None:
    assert statement.attributes(CampaignSpec())["sender_error"] == "2.0e-10 = eps_s + eps_h of 1e-10 each"


def test_campaigns_of_other_releases_say_their_rules() -> None:
    old = read_spec({"physics": {"bound": "lupo2023"}})
    said = statement.attributes(old)
    assert said["claim"] == "release-0.1/lupo2023"
    assert said["rules"].startswith("made under the rules of release 0.1")
    assert said["sender_error"] == "none: nothing is proved"
    assert statement.summary(old) == [("rules", said["rules"])]
    later = read_spec({"physics": {"claim": "entangled2031"}})
    assert statement.claim_of(later) is None
    assert set(statement.attributes(later)) == {"claim", "partition", "rules"}
    assert "entangled2031" in dict(statement.summary(later))["rules"]
