"""The campaigns of a data directory as a resource: what is asked for is written down, and waited for.

No call does a campaign's work, and none waits for another campaign's. A wish is durable before anybody waits for it; it
is brought about by the campaign's worker, after a restart as well.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

from caligo import logs
from caligo.database import JournalError
from caligo.errors import CaligoError, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from caligo.layout import CAMPAIGNS_DIRECTORY, FILE_NAME, JOURNAL_NAME, hold
from caligo.phases import Phase
from caligo.results import ResultRows
from caligo.spec import CampaignSpec, validate
from caligo.v1 import campaign_pb2
from caligo_orchestrator import metrics
from caligo_orchestrator.api import messages, streams
from caligo_orchestrator.api.downloads import Downloads
from caligo_orchestrator.api.listing import page_token
from caligo_orchestrator.api.quotas import Holding
from caligo_orchestrator.api.watching import PATIENT, Caller, Watchers
from caligo_orchestrator.campaigns import budget, preflight
from caligo_orchestrator.campaigns.ledger import Ledger
from caligo_orchestrator.campaigns.names import campaign_id, no_such_campaign, resource_name
from caligo_orchestrator.campaigns.scheduler import Scheduler
from caligo_orchestrator.campaigns.states import (
    CANCEL,
    CANCELLED,
    DELETE,
    ENDED,
    PAUSE,
    PAUSED,
    QUEUED,
    RUN,
    RUNNING,
    State,
    Wish,
    state_name,
)
from caligo_orchestrator.farm import open_farm
from caligo_orchestrator.model import predictions
from caligo_orchestrator.phases import lhs
from caligo_orchestrator.settings import OrchestratorSettings
from caligo_orchestrator.store.journal import CampaignFilter, CampaignRecord, Journal

log = logs.get("campaigns")

LOCK_FILE: Final = "lock"
DEFAULT_PRIORITY: Final = 100
WISH_SECONDS: Final = 20.0
"""How long a call waits for what it asks for; then it answers how things stand."""


class Campaigns:
    """The campaigns of one data directory.

    Args:
        on_lost: called once, from a thread, where the data directory's drive was lost and is back: what is open belongs
            to the one lost, so the process is to end and another one to take its place.

    Raises (from the constructor):
        InvalidArgument: the data directory cannot be written.
        FailedPrecondition: another orchestrator works on it.
    """

    def __init__(self, settings: OrchestratorSettings, on_lost: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._directory = settings.data_directory
        try:
            (self._directory / CAMPAIGNS_DIRECTORY).mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self._directory)
        except OSError as error:
            raise InvalidArgument("data_directory", f"{self._directory}: {error.strerror}") from None
        try:
            self._journal = Journal(self._directory / JOURNAL_NAME)
        except JournalError as error:
            raise InvalidArgument("data_directory", f"{self._directory / JOURNAL_NAME}: {error}") from None
        self._farm = open_farm(settings)
        self._watchers = Watchers()
        self._ledger = Ledger(self._journal, self._watchers)
        self._scheduler = Scheduler(self._ledger, self._farm, settings, on_lost)
        self._standing = metrics.Standing(self._journal, self._farm, self._scheduler.running)
        self._downloads = Downloads()

    def start(self) -> None:
        """Take up what an earlier process has left, and begin to work.

        A campaign of another release that cannot go on under the rules of this one is paused, with the reason.
        """
        self._watchers.start(self._ledger.boards)
        self._scheduler.start()
        self._standing.show()

    def stop(self) -> None:
        """Stop all work; unfinished campaigns stay unfinished and go on at the next start. Reading still works."""
        self._standing.hide()
        self._watchers.close()
        self._scheduler.stop()

    def close(self) -> None:
        """Stop, and let go of the data directory."""
        self.stop()
        self._farm.close()
        self._journal.close()
        self._lock.close()

    # --- the resource ---------------------------------------------------------------------------------------------

    def check(self, spec: CampaignSpec) -> None:
        """Pre-flight; raises what `preflight.check` raises."""
        preflight.check(spec, self._journal, self._farm)

    def create(self, spec: CampaignSpec, request_id: str, priority: int, owner: str = "") -> campaign_pb2.Campaign:
        """Start a campaign; the same request id of the same owner gives the same campaign.

        Raises:
            InvalidArgument: the request id was used for another spec, and all that `check` raises.
            ResourceExhausted: the owner has as much as a client may have.
        """
        if (known := self._known(spec, request_id, owner)) is not None:
            return known
        self.check(spec)
        with self._journal.transaction():
            if (known := self._known(spec, request_id, owner)) is not None:
                return known
            preflight.check_base(spec, self._journal)  # again: it may have been deleted meanwhile
            self._check_quotas(owner, spec)
            id = self._free_id(spec.name)
            with self._ledger.changing(id):
                self._journal.create_campaign(id, request_id or None, spec.model_dump_json(), priority, owner)
            created = self.get(resource_name(id))
        self._scheduler.poke()
        return created

    def _check_quotas(self, owner: str, spec: CampaignSpec, besides: str = "") -> None:
        """Whether an owner may have a campaign of this spec, besides those that are there but one."""
        present = Holding()
        for state, campaigns, rows in self._journal.holdings(owner, besides):
            present += Holding.of(campaigns, rows, is_active=state not in ENDED)
        self._settings.quotas.check(present + Holding.of_spec(spec))

    def _known(self, spec: CampaignSpec, request_id: str, owner: str) -> campaign_pb2.Campaign | None:
        """What an earlier request of this id has made."""
        known = self._journal.campaign_by_request(request_id, owner) if request_id else None
        if known is None:
            return None
        if not _asks_for(spec, budget.first_spec(known, self._journal)):
            raise InvalidArgument("request_id", f"{request_id!r} was used for another spec")
        return self._ledger.message(self._ledger.as_it_stands(known))

    def _free_id(self, name: str) -> str:
        """A name that no campaign has or has had: what is kept of one elsewhere is never taken for another's."""
        id, number = name, 2
        while self._journal.is_taken(id):
            id, number = f"{name}-{number}", number + 1
        return id

    def get(self, name: str) -> campaign_pb2.Campaign:
        return self._ledger.message(self._record(name))

    def owner(self, name: str) -> str:
        """Whose campaign it is.

        Raises:
            NotFound: there is none of that name.
        """
        return self._record(name).owner

    def page(
        self, wanted: CampaignFilter, after: tuple[float, str] | None, size: int
    ) -> tuple[list[campaign_pb2.Campaign], str]:
        """At most `size` campaigns, newest first, those after a place in the list; and the token of the next page."""
        records = self._journal.page(wanted, after, size + 1)
        token = page_token(records[size - 1]) if len(records) > size else ""
        return [self._ledger.message(self._ledger.as_it_stands(record)) for record in records[:size]], token

    def update(
        self, name: str, *, samples: int | None = None, priority: int | None = None, caller: Caller = PATIENT
    ) -> campaign_pb2.Campaign:
        """Change the priority, or the budget of phase 3.

        A campaign that runs is stopped, told, and goes on from its journal to the file of one that was made with that
        budget; so does one that has ended and is given more rows, whether it succeeded or was cancelled.

        Args:
            samples: rows wanted in phase 3; not fewer than have been handed out.

        Raises:
            InvalidArgument: there is no such budget.
            FailedPrecondition: the campaign has failed, or has ended and is to have no more rows than it has; it cannot
                go on under the rules of this release, leaves phase 3 out, or has handed out more rows than that.
            ResourceExhausted: its owner may not have so many rows.
        """
        revision = 0
        with self._journal.transaction():
            record = self._record(name)
            spec = messages.spec_of(record)
            if samples is None or record.state == campaign_pb2.CAMPAIGN_STATE_FAILED:
                self._check_unfinished(record)
            preflight.check_rules(spec)
            if priority is not None:
                with self._ledger.changing(record.id):
                    self._journal.set_priority(record.id, priority)
            if samples is not None and (record.samples or spec.active.samples) != samples:
                changed = budget.changed(record, samples, self._journal)
                if samples > spec.active.samples:
                    self._check_quotas(record.owner, changed, besides=record.id)
                # One that is paused stays so, whatever it was paused by; one that has ended goes on.
                wish = PAUSE if record.state == PAUSED else RUN
                revision = self._journal.want(record.id, wish, samples)
        if priority is not None:
            self._farm.set_weight(name, priority)
        self._scheduler.poke()
        return self._ledger.message(self._come_about(record.id, revision, caller))

    def pause(self, name: str, caller: Caller = PATIENT) -> campaign_pb2.Campaign:
        """Have a campaign stand still.

        Raises:
            FailedPrecondition: it has ended.
        """
        return self._wish(name, PAUSE, PAUSED, caller)

    def cancel(self, name: str, caller: Caller = PATIENT) -> campaign_pb2.Campaign:
        """End a campaign; what it has is kept.

        Raises:
            FailedPrecondition: it has ended otherwise.
        """
        return self._wish(name, CANCEL, CANCELLED, caller)

    def resume(self, name: str, caller: Caller = PATIENT) -> campaign_pb2.Campaign:
        """Let a campaign go on.

        Raises:
            FailedPrecondition: it has ended, or cannot go on under the rules of this release.
        """
        record = self._record(name)
        self._check_unfinished(record)
        preflight.check_rules(messages.spec_of(record))
        if record.wanted == RUN and record.state in (QUEUED, RUNNING):
            return self._ledger.message(record)
        return self._wish(name, RUN, None, caller)

    def _wish(self, name: str, wish: Wish, aim: State | None, caller: Caller) -> campaign_pb2.Campaign:
        """Write down what is wanted of a campaign that has not ended, and wait until it has come about."""
        with self._journal.transaction():
            record = self._record(name)
            if record.state == aim and record.seen == record.revision:
                return self._ledger.message(record)
            self._check_unfinished(record)
            revision = self._journal.want(record.id, wish)
        self._scheduler.poke()
        record = self._come_about(record.id, revision, caller)
        if record.state in ENDED and record.state != aim:  # its own end was quicker
            raise FailedPrecondition(f"{name} has ended: {state_name(record.state)}")
        return self._ledger.message(record)

    def _come_about(self, id: str, revision: int, caller: Caller) -> CampaignRecord:
        """A campaign when its worker has taken note of a revision; as it stands where that takes too long.

        Raises:
            NotFound: it has been deleted.
            Unreachable: the orchestrator shuts down; what was asked for comes about at its next start.
        """
        ends = time.monotonic() + WISH_SECONDS
        with self._watchers.following(id, caller) as follower:
            while True:
                record = self._ledger.find(id)
                if record is None:
                    raise no_such_campaign(resource_name(id))
                left = ends - time.monotonic()
                if record.seen >= revision or id in self._ledger.problems or left <= 0 or not follower.is_wanted():
                    return record
                follower.wait(left)

    def delete(self, name: str, caller: Caller = PATIENT) -> None:
        """Remove a campaign that has ended, everywhere. It is not seen any more from the moment on that it is wanted.

        Raises:
            FailedPrecondition: it has not ended, or another that builds on it has not.
            ResourceExhausted: the disk does not let it go yet.
        """
        with self._journal.transaction():
            record = self._record(name)
            if record.state not in ENDED:
                raise FailedPrecondition(f"{name} has not ended; cancel it first")
            if users := self._journal.builds_on(record.id):
                raise FailedPrecondition(f"{name}: {resource_name(users[0])} builds on it and has not ended")
            revision = self._journal.want(record.id, DELETE)
        self._scheduler.poke()
        with contextlib.suppress(NotFound):
            self._come_about(record.id, revision, caller)
        if (problem := self._ledger.problems.get(record.id)) is not None:
            raise ResourceExhausted(f"{problem.message}; it is tried again until {name} is gone")

    def predict(self, name: str, inputs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Mean, standard deviation and probability of a key at rows [n, 9], float32 [n, 3], and which of the rows lie
        outside the campaign's space, bool [n]."""
        record = self._record(name)
        predicted = predictions.predict(record, self._journal, self._settings, inputs)
        return predicted, np.any(messages.spec_of(record).space.resolve().outside(inputs), axis=1)

    def file(self, name: str, offset: int, length: int) -> Iterator[campaign_pb2.DownloadDatasetResponse]:
        """A range of the HDF5 file of a campaign that is not being written; `length` 0 for all that follows.

        Raises:
            InvalidArgument: the range does not lie in the file.
            FailedPrecondition: the file is being written, or the campaign ended before it had one.
        """
        record = self._record(name)
        path = self._directory_of(record.id) / FILE_NAME
        if record.state not in ENDED and record.state != PAUSED:
            raise FailedPrecondition(f"{name} is not done; its file can be had when it has ended or is paused")
        if not path.exists():
            raise FailedPrecondition(f"{name} ended before it had a file")
        return self._downloads.read(path, offset, length)

    # --- streams --------------------------------------------------------------------------------------------------

    def watch(self, name: str, after: int, caller: Caller) -> Iterator[messages.Event]:
        """Kept events after a number, then live ones; ends when the campaign has ended or the caller has gone.

        Raises:
            ResourceExhausted: the caller takes too long over an event.
            Unreachable: the orchestrator shuts down.
        """
        id = self._record(name).id
        with self._watchers.following(id, caller) as follower:
            yield from streams.events(follower, after, functools.partial(self._ledger.news, id))

    def rows(self, name: str, phase: Phase, start: int, follow: bool, caller: Caller) -> Iterator[ResultRows]:
        """Durable rows in the order of the file; with `follow` waits for each next row until the campaign ends.

        Raises:
            Unreachable: the orchestrator shuts down.
        """
        id = self._record(name).id
        if not follow:
            yield from self._journal.row_blocks(id, phase, start=start)
            return
        with self._watchers.following(id, caller) as follower:
            yield from streams.rows(
                follower, self._journal, id, phase, start, functools.partial(self._has_all, id, phase)
            )

    def _has_all(self, id: str, phase: Phase, rows: int) -> bool:
        """Whether no row of a phase is to come any more where so many are there, without a gap."""
        plan = self._journal.checkpoint(id, "lhs_plan") if phase is Phase.LHS else None
        return (plan is not None and rows >= lhs.Plan.from_json(plan).rows) or self._ledger.has_ended(id)

    # --- records --------------------------------------------------------------------------------------------------

    def _record(self, name: str) -> CampaignRecord:
        """A campaign as it stands.

        Raises:
            NotFound: there is none of that name, or it is to go.
        """
        id = campaign_id(name)
        record = None if id is None else self._ledger.find(id)
        if record is None or record.wanted == DELETE:
            raise no_such_campaign(name)
        return record

    def _check_unfinished(self, record: CampaignRecord) -> None:
        if record.state in ENDED:
            raise FailedPrecondition(f"{resource_name(record.id)} has ended: {state_name(record.state)}")

    def _directory_of(self, id: str) -> Path:
        return self._directory / CAMPAIGNS_DIRECTORY / id


def _locked(directory: Path) -> IO[str]:
    """The open lock file of a data directory, held.

    Raises:
        OSError: it cannot be opened or locked.
        FailedPrecondition: another orchestrator holds it.
    """
    try:
        return hold(directory / LOCK_FILE, "w")
    except BlockingIOError:
        raise FailedPrecondition(f"data_directory: another orchestrator works on {directory}") from None


def _asks_for(spec: CampaignSpec, stored: str) -> bool:
    """Whether a stored request, which may be of an earlier release, asks for this spec today."""
    try:
        return validate(CampaignSpec, json.loads(stored)) == spec
    except CaligoError:
        return False
