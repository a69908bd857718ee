"""What can be known of a campaign before it begins: its rules, its EPR source, and what a skipped phase made."""

from __future__ import annotations

from typing import Final

from caligo.errors import FailedPrecondition, InvalidArgument
from caligo.phases import Phase
from caligo.spec import CampaignSpec, validate
from caligo_orchestrator.api.messages import spec_of
from caligo_orchestrator.campaigns.states import DELETE
from caligo_orchestrator.farm import Farm
from caligo_orchestrator.farm.base import ALWAYS_THERE
from caligo_orchestrator.phases import lhs
from caligo_orchestrator.store import models
from caligo_orchestrator.store.journal import Journal

_CAPACITY_SECONDS: Final = 5.0


def check(spec: CampaignSpec, journal: Journal, farm: Farm) -> None:
    """Refuse a campaign that could not be carried out.

    Raises:
        InvalidArgument: `base` does not exist or explores something else, or no simulator has the EPR source.
        FailedPrecondition: what is skipped was never made.
        Unreachable: no simulator answers that could say what EPR sources it has.
    """
    if spec.protocol.epr_source != ALWAYS_THERE:
        sources = farm.epr_sources(_CAPACITY_SECONDS, spec.protocol.epr_source)
        if spec.protocol.epr_source not in sources:
            there = f"no simulator has {spec.protocol.epr_source}; they have {', '.join(sources)}"
            raise InvalidArgument("protocol.epr_source", there)
    check_base(spec, journal)


def check_rules(spec: CampaignSpec) -> None:
    """Refuse to go on with a campaign of another release whose rules this one does not carry out.

    Raises:
        FailedPrecondition: says under which rules it was made, or what of its spec is not known here.
    """
    if spec.rules is not None:
        raise FailedPrecondition(
            f"the campaign was {spec.rules}. These rules are no longer carried out, so it cannot go on; its rows can "
            "be read and exported. Make a new campaign for a cliff under a claim of today"
        )
    try:
        validate(CampaignSpec, spec.model_dump(mode="json"))
    except InvalidArgument as error:
        raise FailedPrecondition(f"the campaign is of another release and cannot go on: {error}") from None


def check_base(spec: CampaignSpec, journal: Journal) -> None:
    """Refuse a campaign whose base is not there or has not what it takes from it.

    Raises:
        InvalidArgument: `base` does not exist or explores something else.
        FailedPrecondition: what is skipped was never made.
    """
    if not spec.base:
        return
    record = journal.campaign(spec.base)
    if record is None or record.wanted == DELETE:
        raise InvalidArgument("base", f"there is no campaign {spec.base!r}")
    base = spec_of(record)
    if base.rules is not None:
        raise InvalidArgument("base", f"campaign {spec.base!r} was {base.rules}. Its rows mean something else")
    for part in ("space", "physics", "protocol"):
        if getattr(base, part) != getattr(spec, part):
            raise InvalidArgument("base", f"campaign {spec.base!r} has another {part!r} than this spec")
    if spec.lhs.skip:
        plan = journal.checkpoint(spec.base, "lhs_plan")
        done = len(journal.row_indices(spec.base, Phase.LHS))
        if plan is None or done < lhs.Plan.from_json(plan).rows:
            raise FailedPrecondition(f"lhs.skip: campaign {spec.base!r} has no finished phase 1")
    if spec.training.skip:
        if models.kept(journal, spec.base) is None:
            raise FailedPrecondition(f"training.skip: campaign {spec.base!r} has no trained surrogate")
        if base.surrogate.target != spec.surrogate.target:
            raise InvalidArgument("surrogate.target", f"campaign {spec.base!r} has {base.surrogate.target!r}")
