"""The life of a campaign: the states that its worker writes, the wishes that calls write, and what follows from both.

    QUEUED -> RUNNING -> SUCCEEDED, FAILED
      ^  \\     |  \\
      |   \\    v   `-> CANCELLED (from any state that has not ended)
      `--- PAUSED

A call changes the wish and counts the campaign's revision up, in one transaction; the worker takes note of the revision
that it has acted on. So whatever was asked for comes about once, after a crash as well, and who asked can wait for it.
"""

from __future__ import annotations

import enum
from typing import Final

from caligo.v1 import campaign_pb2

State = campaign_pb2.CampaignState
QUEUED: Final = campaign_pb2.CAMPAIGN_STATE_QUEUED
RUNNING: Final = campaign_pb2.CAMPAIGN_STATE_RUNNING
PAUSED: Final = campaign_pb2.CAMPAIGN_STATE_PAUSED
SUCCEEDED: Final = campaign_pb2.CAMPAIGN_STATE_SUCCEEDED
FAILED: Final = campaign_pb2.CAMPAIGN_STATE_FAILED
CANCELLED: Final = campaign_pb2.CAMPAIGN_STATE_CANCELLED
ENDED: Final = frozenset({SUCCEEDED, FAILED, CANCELLED})

Wish = campaign_pb2.CampaignWish
RUN: Final = campaign_pb2.CAMPAIGN_WISH_RUN
PAUSE: Final = campaign_pb2.CAMPAIGN_WISH_PAUSE
CANCEL: Final = campaign_pb2.CAMPAIGN_WISH_CANCEL
DELETE: Final = campaign_pb2.CAMPAIGN_WISH_DELETE


class Step(enum.Enum):
    """What a campaign's worker does next."""

    NOTHING = enum.auto()
    NOTE = enum.auto()
    """Take note of a wish that changes no state: it has come about already, or too late."""
    QUEUE = enum.auto()
    RUN = enum.auto()
    """Only where one of the places for running campaigns is free."""
    PAUSE = enum.auto()
    CANCEL = enum.auto()
    DELETE = enum.auto()


def next_step(state: State, wanted: Wish, *, is_new: bool) -> Step:
    """What follows from a campaign's state and from what is wanted of it.

    Args:
        is_new: whether something was asked for that the worker has not taken note of.
    """
    if wanted == DELETE:
        return Step.DELETE
    if wanted == RUN and is_new and state in (PAUSED, *ENDED):
        return Step.QUEUE
    if wanted == RUN and (state == RUNNING or (state == QUEUED and not is_new)):
        return Step.RUN
    if wanted == PAUSE and state in (QUEUED, RUNNING):
        return Step.PAUSE
    if wanted == CANCEL and state not in ENDED:
        return Step.CANCEL
    return Step.NOTE if is_new else Step.NOTHING


def state_name(state: State) -> str:
    """As people write it: QUEUED."""
    return campaign_pb2.CampaignState.Name(state).removeprefix("CAMPAIGN_STATE_")
