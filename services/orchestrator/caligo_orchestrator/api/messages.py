"""What the journal holds, as messages of the contract."""

from __future__ import annotations

import functools
import json
from typing import Any

from caligo.errors import CaligoError
from caligo.physics import claims
from caligo.spec import CampaignSpec, read_spec, to_proto
from caligo.v1 import campaign_pb2
from caligo_orchestrator.campaigns.names import resource_name
from caligo_orchestrator.store.journal import CampaignRecord

Event = campaign_pb2.WatchCampaignResponse


def new_event(**content: Any) -> Event:
    """An event of now."""
    event = Event(**content)
    event.time.GetCurrentTime()
    return event


def problem(error: CaligoError) -> campaign_pb2.Problem:
    return campaign_pb2.Problem(code=error.status, message=str(error))


def campaign(record: CampaignRecord, progress: campaign_pb2.Progress | None) -> campaign_pb2.Campaign:
    """A campaign as it stands."""
    message = campaign_pb2.Campaign(
        name=resource_name(record.id),
        spec=_spec_message(record.spec),
        state=record.state,
        progress=progress,
        priority=record.priority,
        owner=record.owner,
        wanted=record.wanted if record.seen < record.revision else None,
    )
    message.create_time.FromMicroseconds(int(record.create_time * 1e6))
    message.update_time.FromMicroseconds(int(record.update_time * 1e6))
    if record.problem is not None:
        message.problem.ParseFromString(record.problem)
    if record.findings is not None:
        message.findings.ParseFromString(record.findings)
    return message


def spec_of(record: CampaignRecord) -> CampaignSpec:
    """A campaign's spec, which may be of another release."""
    return read_spec(json.loads(record.spec))


@functools.lru_cache(maxsize=1024)
def _spec_message(text: str) -> campaign_pb2.CampaignSpec:
    spec = read_spec(json.loads(text))
    message = to_proto(spec, campaign_pb2.CampaignSpec)
    if spec.physics.claim.startswith(claims.RELEASE_0_1):  # for clients of that release
        message.physics.bound = spec.physics.claim.removeprefix(claims.RELEASE_0_1)
    return message
