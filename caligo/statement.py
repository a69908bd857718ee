"""The statement on security of a campaign, in words: from its spec and the registry of claims, for all that print a
rate. Nothing of it is typed anywhere else.
"""

from __future__ import annotations

from caligo.physics.claims import CLAIMS, LEGACY, Claim, Status
from caligo.spec import CampaignSpec


def claim_of(spec: CampaignSpec) -> Claim | None:
    """The claim that a campaign's rows were made under; None where it is one of a release that is not known here."""
    return CLAIMS.get(spec.physics.claim) or LEGACY.get(spec.physics.claim)


def sender_error(spec: CampaignSpec, claim: Claim) -> str:
    """The total error of the sender's claim with its terms; `none` where nothing is claimed."""
    if claim.status is Status.NONE:
        return "none: nothing is proved"
    each = f" of {spec.physics.epsilon:g} each" if len(claim.terms) > 1 else ""
    return f"{claim.total_error(spec.physics.epsilon):.1e} = {claim.error}{each}"


def attributes(spec: CampaignSpec) -> dict[str, str]:
    """The statement as texts by name, for whoever finds a file: the claim, and what it needs to be looked up."""
    claim = claim_of(spec)
    found: dict[str, str] = {"claim": spec.physics.claim, "partition": spec.protocol.partition}
    if spec.rules is not None:
        found["rules"] = spec.rules
    if claim is not None:
        found |= {
            "claim_title": claim.title,
            "claim_status": str(claim.status),
            "claim_source": claim.source,
            "attacks_covered": claim.adversary,
            "receiver": claim.receiver,
            "charged": claim.charged,
            "sender_error": sender_error(spec, claim),
        }
    return found


def summary(spec: CampaignSpec) -> list[tuple[str, str]]:
    """The statement in a few lines, as label and text."""
    if spec.rules is not None:
        return [("rules", spec.rules)]
    claim = CLAIMS[spec.physics.claim]
    lost = f"the baseline loses {spec.protocol.reconciliation_failure:g} of its runs to a frame: Bob has random bits"
    return [
        ("claim", f"{claim.name}: {claim.title} ({claim.status}); partition {spec.protocol.partition}"),
        ("attacks covered", claim.adversary),
        ("sender's error", sender_error(spec, claim)),
        ("correctness", lost),
    ]
