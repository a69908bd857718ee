"""What is known of every campaign: what the journal holds, and what only a running process knows beside it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Final

from caligo import logs
from caligo.v1 import campaign_pb2
from caligo_orchestrator.api import messages
from caligo_orchestrator.api.watching import Watchers
from caligo_orchestrator.campaigns.progress import ProgressBoard
from caligo_orchestrator.campaigns.states import ENDED, PAUSED
from caligo_orchestrator.store.journal import CampaignRecord, Journal

log = logs.get("campaigns")

_PROGRESS: Final = "progress"
"""Checkpoint with the progress of a campaign that is not running."""


class Ledger:
    """The campaigns of a data directory. Every change is told to those who watch, from the same transaction.

    Attributes:
        journal, watchers: of the data directory.
        boards: the progress of the campaigns that run, by id.
        problems: what keeps campaigns from being journaled, by id: a condition of the worker and no state, for it goes
            by itself when the disk can be written again. Such a campaign shows as paused.
    """

    def __init__(self, journal: Journal, watchers: Watchers) -> None:
        self.journal = journal
        self.watchers = watchers
        self.boards: dict[str, ProgressBoard] = {}
        self.problems: dict[str, campaign_pb2.Problem] = {}

    def find(self, id: str) -> CampaignRecord | None:
        """A campaign as it stands."""
        record = self.journal.campaign(id)
        return None if record is None else self.as_it_stands(record)

    def as_it_stands(self, record: CampaignRecord) -> CampaignRecord:
        """A record with what the journal could not be told."""
        problem = self.problems.get(record.id)
        if problem is None or record.state in ENDED:
            return record
        return dataclasses.replace(record, state=PAUSED, problem=problem.SerializeToString())

    def message(self, record: CampaignRecord) -> campaign_pb2.Campaign:
        """The same for clients, with its progress."""
        board = self.boards.get(record.id)
        if board is not None:
            return messages.campaign(record, board.snapshot())
        kept = self.journal.checkpoint(record.id, _PROGRESS)
        return messages.campaign(record, None if kept is None else campaign_pb2.Progress.FromString(kept))

    def keep_progress(self, id: str, progress: campaign_pb2.Progress) -> None:
        """For when the campaign does not run any more."""
        self.journal.put_checkpoint(id, _PROGRESS, progress.SerializeToString())

    @contextlib.contextmanager
    def changing(self, id: str) -> Iterator[Journal]:
        """What is written inside becomes durable together with the event that tells of it."""
        with self.journal.transaction():
            yield self.journal
            record = self.find(id)
            if record is not None:
                self.journal.append_event(id, messages.new_event(changed=self.message(record)))
        self.watchers.tell(id)

    def note(self, id: str, text: str) -> None:
        """Tell whoever watches a line for people."""
        log.info(text)
        self.journal.append_event(id, messages.new_event(note=text))
        self.watchers.tell(id)

    def news(self, id: str, after: int) -> tuple[list[messages.Event], bool]:
        """Kept events after a number, and whether the campaign has ended, so that its last event is among them."""
        has_ended = self.has_ended(id)  # asked first: state and event come in one transaction
        events = self.journal.events(id, after)
        if id in self.problems and (record := self.find(id)) is not None:
            last = events[-1].sequence if events else after
            events.append(messages.new_event(sequence=last, changed=self.message(record)))
        return events, has_ended

    def has_ended(self, id: str) -> bool:
        """Whether nothing more is to come of a campaign."""
        record = self.journal.campaign(id)
        return record is None or record.state in ENDED
