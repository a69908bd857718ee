"""Another budget for a campaign that has begun.

The budget decides how many batches phase 3 has and nothing else: every batch is proposed at its full size, and its rows
beyond the budget are left out. So whatever a campaign has done under one budget it has done under every larger one, but
for the fit after the last batch.
"""

from __future__ import annotations

from typing import Final

from caligo.errors import FailedPrecondition
from caligo.spec import CampaignSpec, validate
from caligo_orchestrator.api.messages import spec_of
from caligo_orchestrator.campaigns.states import ENDED, state_name
from caligo_orchestrator.phases import active
from caligo_orchestrator.store.journal import CampaignRecord, Journal

_FIRST_SPEC: Final = "first_spec"
"""Checkpoint with the spec that a campaign was made with, where its budget has been changed since."""


def changed(record: CampaignRecord, samples: int, journal: Journal) -> CampaignSpec:
    """The spec of a campaign with another budget.

    Raises:
        InvalidArgument: there is no such budget.
        FailedPrecondition: the campaign leaves phase 3 out, has handed out more rows than that, or has ended and would
            not grow.
    """
    spec = spec_of(record)
    if spec.active.skip:
        raise FailedPrecondition("spec.active.samples: the campaign leaves phase 3 out")
    if record.state in ENDED and samples <= spec.active.samples:
        raise FailedPrecondition(
            f"spec.active.samples: the campaign has ended: {state_name(record.state)}; it goes on with more than "
            f"{spec.active.samples:,} rows"
        )
    values = spec.model_dump()
    values["active"]["samples"] = samples
    other = validate(CampaignSpec, values)
    handed_out = min(spec.active.samples, journal.proposed_batches(record.id) * spec.active.batch_size)
    if samples < handed_out:
        raise FailedPrecondition(f"spec.active.samples: {handed_out} rows have been handed out already")
    return other


def apply(record: CampaignRecord, journal: Journal) -> None:
    """Give a campaign that stands still the budget that was asked for, if one was."""
    if record.samples is None:
        return
    before = spec_of(record)
    active_with_it = before.active.model_copy(update={"samples": record.samples})
    spec = before.model_copy(update={"active": active_with_it})
    with journal.transaction():
        # The line of the last fit is made again where the new budget has a fit there too.
        journal.drop_checkpoint(record.id, f"fit/{active.batches(before)}")
        if journal.checkpoint(record.id, _FIRST_SPEC) is None:
            journal.put_checkpoint(record.id, _FIRST_SPEC, record.spec.encode())
        journal.set_spec(record.id, spec.model_dump_json())


def first_spec(record: CampaignRecord, journal: Journal) -> str:
    """The spec that a campaign was made with, JSON."""
    kept = journal.checkpoint(record.id, _FIRST_SPEC)
    return record.spec if kept is None else kept.decode()
