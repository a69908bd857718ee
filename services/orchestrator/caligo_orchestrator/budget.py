"""Another budget for a campaign that has begun.

The budget decides how many batches phase 3 has and nothing else: every batch is proposed at its full size, and its rows
beyond the budget are left out. So whatever a campaign has done under one budget it has done under every larger one, but
for the fit after the last batch.
"""

from __future__ import annotations

import json
from typing import Final

from caligo.errors import FailedPrecondition
from caligo.spec import CampaignSpec, read_spec, validate
from caligo_orchestrator.phases import active
from caligo_orchestrator.store.journal import CampaignRecord, Journal

_FIRST_SPEC: Final = "first_spec"
"""Checkpoint with the spec that a campaign was made with, where its budget has been changed since."""


def changed(record: CampaignRecord, samples: int, journal: Journal) -> CampaignSpec:
    """The spec of a campaign with another budget.

    Raises:
        InvalidArgument: there is no such budget.
        FailedPrecondition: the campaign leaves phase 3 out, or has handed out more rows than that.
    """
    spec = read_spec(json.loads(record.spec))
    if spec.active.skip:
        raise FailedPrecondition("spec.active.samples: the campaign leaves phase 3 out")
    values = spec.model_dump()
    values["active"]["samples"] = samples
    other = validate(CampaignSpec, values)
    handed_out = min(spec.active.samples, journal.proposed_batches(record.id) * spec.active.batch_size)
    if samples < handed_out:
        raise FailedPrecondition(f"spec.active.samples: {handed_out} rows have been handed out already")
    return other


def keep(record: CampaignRecord, spec: CampaignSpec, priority: int, journal: Journal) -> None:
    """Give a campaign that stands still its other spec."""
    before = read_spec(json.loads(record.spec))
    with journal.transaction():
        # The line of the last fit is made again where the new budget has a fit there too.
        journal.drop_checkpoint(record.id, f"fit/{active.batches(before)}")
        if journal.checkpoint(record.id, _FIRST_SPEC) is None:
            journal.put_checkpoint(record.id, _FIRST_SPEC, record.spec.encode())
        journal.update_campaign(record.id, spec.model_dump_json(), priority)


def first_spec(record: CampaignRecord, journal: Journal) -> str:
    """The spec that a campaign was made with, JSON."""
    kept = journal.checkpoint(record.id, _FIRST_SPEC)
    return record.spec if kept is None else kept.decode()
