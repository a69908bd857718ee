"""What a campaign's followers are sent: its events and its rows, each follower at its own pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from caligo.errors import ResourceExhausted
from caligo.phases import Phase
from caligo.results import ResultRows
from caligo.v1 import campaign_pb2
from caligo_orchestrator.api.messages import Event, new_event
from caligo_orchestrator.api.watching import Follower, News
from caligo_orchestrator.store.journal import Journal

HEARTBEAT_SECONDS: Final = 10.0
SLOW_SECONDS: Final = 30.0
"""A watcher who takes longer than this over one event holds a thread for nothing."""


def events(follower: Follower, after: int, read: Callable[[int], tuple[list[Event], bool]]) -> Iterator[Event]:
    """Kept events after a number, then live ones; ends when the campaign has ended or nobody wants them.

    Args:
        read: the kept events after a number, and whether the campaign has ended, both of one moment.

    Raises:
        ResourceExhausted: the follower takes too long over an event; the text names the number to go on from.
        Unreachable: the orchestrator shuts down.
    """
    news, has_ended, sent = News.KEPT, False, campaign_pb2.Progress()
    while follower.is_wanted():
        batch: list[Event] = []
        if News.KEPT in news:
            batch, has_ended = read(after)
        if not has_ended and follower.progress != sent:
            sent = follower.progress
            batch.append(new_event(sequence=batch[-1].sequence if batch else after, progress=sent))
        if not news:
            batch.append(new_event(sequence=after, heartbeat=campaign_pb2.Heartbeat()))
        for event in batch:
            begun, after = time.monotonic(), event.sequence
            yield event
            if time.monotonic() - begun > SLOW_SECONDS:
                raise ResourceExhausted(f"this watcher is too slow and was dropped; go on with after_sequence={after}")
        if has_ended:
            return
        news = follower.wait(HEARTBEAT_SECONDS)


def rows(
    follower: Follower, journal: Journal, id: str, phase: Phase, start: int, has_all: Callable[[int], bool]
) -> Iterator[ResultRows]:
    """Durable rows in the order of the file, each next one waited for.

    Args:
        has_all: whether no further row will come where so many are there.

    Raises:
        Unreachable: the orchestrator shuts down.
    """
    while follower.is_wanted():
        is_last = has_all(start)
        for block in journal.row_blocks(id, phase, start=start):
            if not is_last:
                block = block[block["index"] == start + np.arange(len(block))]  # a gap is filled later: wait for it
                if not len(block):
                    break
            yield block
            start = int(block["index"][-1]) + 1
        if is_last:
            return
        follower.wait(HEARTBEAT_SECONDS)
