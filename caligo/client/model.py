"""What a client is told of campaigns, as Python sees it."""

from __future__ import annotations

import dataclasses
import datetime
import enum

from google.protobuf.timestamp_pb2 import Timestamp

from caligo.errors import CampaignFailed
from caligo.spec import CampaignSpec, read_message
from caligo.v1 import campaign_pb2


class CampaignState(enum.IntEnum):
    """Where a campaign is in its life; the codes are those of the contract's `CampaignState`.

    A code that is not known here, which a server of a later release may send, is kept and called `CODE_N`.
    """

    UNSPECIFIED = 0
    """Not a campaign: a spec that was only checked."""
    QUEUED = 1
    RUNNING = 2
    PAUSED = 3
    SUCCEEDED = 4
    FAILED = 5
    CANCELLED = 6

    @property
    def is_final(self) -> bool:
        return self in (CampaignState.SUCCEEDED, CampaignState.FAILED, CampaignState.CANCELLED)

    @classmethod
    def _missing_(cls, value: object) -> CampaignState | None:
        if not isinstance(value, int):
            return None
        state = int.__new__(cls, value)
        state._name_, state._value_ = f"CODE_{value}", value
        return state


@dataclasses.dataclass(frozen=True)
class Campaign:
    """A campaign as it was when asked for. The messages are those of the contract, units and all.

    Attributes:
        name: "campaigns/{id}".
        spec: as far as it is known here, where the campaign is of another release: `spec.rules` says so.
        priority: share of the farm relative to other campaigns, 1 to 1,000.
        owner: name of the token that made it; empty where the server asks for none.
        problem: why it failed or paused by itself, if it did.
        findings: what it found, once it has succeeded.
    """

    name: str
    spec: CampaignSpec
    state: CampaignState
    progress: campaign_pb2.Progress
    priority: int
    owner: str
    created: datetime.datetime
    updated: datetime.datetime
    problem: campaign_pb2.Problem | None
    findings: campaign_pb2.Findings | None

    @property
    def id(self) -> str:
        return self.name.removeprefix("campaigns/")

    @classmethod
    def from_message(cls, message: campaign_pb2.Campaign) -> Campaign:
        """A campaign as it came over the wire."""
        return cls(
            name=message.name,
            spec=read_message(message.spec),
            state=CampaignState(message.state),
            progress=message.progress,
            priority=message.priority,
            owner=message.owner,
            created=_to_datetime(message.create_time),
            updated=_to_datetime(message.update_time),
            problem=message.problem if message.HasField("problem") else None,
            findings=message.findings if message.HasField("findings") else None,
        )


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened to a campaign.

    `sequence` numbers what is kept, `Changed` and `Noted`, and grows by one from each to the next; the others are live
    only and repeat the last number.
    """

    sequence: int
    time: datetime.datetime

    @staticmethod
    def from_message(message: campaign_pb2.WatchCampaignResponse) -> Event:
        """An event as it came over the wire."""
        sequence, moment = message.sequence, _to_datetime(message.time)
        match message.WhichOneof("event"):
            case "changed":
                return Changed(sequence, moment, Campaign.from_message(message.changed))
            case "progress":
                return Progressed(sequence, moment, message.progress)
            case "note":
                return Noted(sequence, moment, message.note)
            case _:
                return Heartbeat(sequence, moment)


@dataclasses.dataclass(frozen=True)
class Changed(Event):
    """The campaign changed its state, its budget or its priority and is now as `campaign` says."""

    campaign: Campaign


@dataclasses.dataclass(frozen=True)
class Progressed(Event):
    """Rows were done."""

    progress: campaign_pb2.Progress


@dataclasses.dataclass(frozen=True)
class Noted(Event):
    """A line for people."""

    text: str


@dataclasses.dataclass(frozen=True)
class Heartbeat(Event):
    """Nothing new; the server is there."""


def resource_name(name: str) -> str:
    """`campaigns/{id}` from itself or from the id alone."""
    return name if name.startswith("campaigns/") else f"campaigns/{name}"


def describe_problem(campaign: Campaign) -> str:
    """One line: which campaign, and why it failed or paused."""
    reason = campaign.problem.message if campaign.problem else "no reason given"
    return f"{campaign.name}: {campaign.state.name.lower()}: {reason}"


def check_success(campaign: Campaign) -> Campaign:
    """The campaign itself.

    Raises:
        CampaignFailed: it ended in failure; the text is its problem.
    """
    if campaign.state is CampaignState.FAILED:
        raise CampaignFailed(describe_problem(campaign))
    return campaign


def _to_datetime(timestamp: Timestamp) -> datetime.datetime:
    return timestamp.ToDatetime(tzinfo=datetime.UTC)
