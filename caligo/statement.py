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
            **dict(device_terms(spec)),
        }
    return found


def device_terms(spec: CampaignSpec) -> list[tuple[str, str]]:
    """What the device takes from the key or asks of the receiver's claim, as label and text; nothing for the ideal
    one."""
    device = spec.physics.device.in_rounds()
    if device is None:
        return []
    terms = []
    if device.leaking_pairs:
        terms.append(
            "rounds with several pairs count as known: m - m_1 of them, m_1 = (P_click - P(n > 1) - 3 zeta) N, at"
            f" {device.leaking_pairs:g} pairs a gate that leak (Erven et al. 2014, after Eq. 3)"
        )
    if device.dead_rounds:
        terms.append("dead time blocks both of Bob's detectors together; each for itself would tell bits")
    if device.afterpulse:
        terms.append("afterpulses repeat bits of Bob's; his no-click events stay the same in both bases")
    if device.drift != "none":
        terms.append("the alignment drifts; Alice's permutation gives all frames the mean error rate of the run")
    if spec.physics.device.detectors.imbalance:
        terms.append(
            "detectors differ and are swapped by a secret coin; an Alice who sends many photons is not covered"
        )
    return [("device", "; ".join(terms))] if terms else []


def summary(spec: CampaignSpec) -> list[tuple[str, str]]:
    """The statement in a few lines, as label and text."""
    if spec.rules is not None:
        return [("rules", spec.rules)]
    claim = CLAIMS[spec.physics.claim]
    lost = f"the baseline loses {spec.protocol.reconciliation_failure:g} of its runs to a frame: Bob has random bits"
    return [
        ("claim", f"{claim.name}: {claim.title} ({claim.status}); partition {spec.protocol.partition}"),
        ("attacks covered", claim.adversary),
        *device_terms(spec),
        ("sender's error", sender_error(spec, claim)),
        ("correctness", lost),
    ]
