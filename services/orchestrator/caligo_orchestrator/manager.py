"""All campaigns of a data directory: makes them, runs them in turn, tells watchers, finds the unfinished on start."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from caligo import logs
from caligo.database import JournalError
from caligo.errors import (
    CaligoError,
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unreachable,
)
from caligo.layout import CAMPAIGNS_DIRECTORY, FILE_NAME, JOURNAL_NAME, hold
from caligo.physics import claims
from caligo.results import ResultRows
from caligo.seeds import Phase
from caligo.spec import CampaignSpec, read_spec, to_proto, validate
from caligo.v1 import campaign_pb2
from caligo_orchestrator import budget, metrics, predictions, preflight, streams
from caligo_orchestrator.campaign import (
    CANCELLED,
    ENDED,
    FAILED,
    PAUSED,
    PREFIX,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    CampaignRunner,
    State,
)
from caligo_orchestrator.downloads import Downloads
from caligo_orchestrator.farm import open_farm
from caligo_orchestrator.files import finish_file
from caligo_orchestrator.limits import Holding
from caligo_orchestrator.listing import page_token
from caligo_orchestrator.phases import lhs
from caligo_orchestrator.pipeline import Stopped
from caligo_orchestrator.remote import ServiceLostError
from caligo_orchestrator.settings import OrchestratorSettings
from caligo_orchestrator.store.journal import CampaignFilter, CampaignRecord, Journal
from caligo_orchestrator.streams import Event, new_event
from caligo_orchestrator.turns import Turns
from caligo_orchestrator.watching import Caller, Watchers

log = logs.get("manager")

LOCK_FILE: Final = "lock"
DEFAULT_PRIORITY: Final = 100
PROGRESS_SECONDS: Final = 0.5
_ATTEMPTS: Final = 5
"""How often a campaign begins anew that does not get on because a service is lost again and again."""
GONE: Final = campaign_pb2.CAMPAIGN_STATE_UNSPECIFIED
"""What is wanted of a campaign that is deleted."""
_PROGRESS: Final = "progress"
"""Checkpoint with the progress of a campaign that is not running."""


class Campaigns:
    """The campaigns of one data directory.

    Raises (from the constructor):
        InvalidArgument: the data directory cannot be written.
        FailedPrecondition: another orchestrator works on it.
    """

    def __init__(self, settings: OrchestratorSettings) -> None:
        self._settings = settings
        self._directory = settings.data_directory
        try:
            (self._directory / CAMPAIGNS_DIRECTORY).mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self._directory, "w")
        except OSError as error:
            raise InvalidArgument("data_directory", f"{self._directory}: {error.strerror}") from None
        try:
            self._journal = Journal(self._directory / JOURNAL_NAME)
        except JournalError as error:
            raise InvalidArgument("data_directory", f"{self._directory / JOURNAL_NAME}: {error}") from None
        self._farm = open_farm(settings)
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._runners: dict[str, CampaignRunner] = {}
        self._stranded: dict[str, bytes] = {}
        """Problems of campaigns that stand still and whose journal could not be told so."""
        self._turns = Turns()
        self._standing = metrics.Standing(self._journal, self._farm, self._runners)
        self._watchers = Watchers()
        self._downloads = Downloads()
        self._threads = [
            threading.Thread(target=self._tell_progress, name="progress", daemon=True),
            *(
                threading.Thread(target=self._work, name=f"campaigns-{i}", daemon=True)
                for i in range(settings.running_campaigns)
            ),
        ]

    def start(self) -> None:
        """Bring what was asked for before to its end, queue every unfinished campaign, and begin to work.

        One of another release that cannot go on under the rules of this one is paused, with the reason.
        """
        for record in reversed(self._journal.campaigns()):
            with structlog.contextvars.bound_contextvars(campaign=PREFIX + record.id), self._stranding(record.id):
                if record.wanted is not None:
                    log.info("found an unfinished request", wanted=_state_name(record.wanted))
                    self._bring_about(record, record.wanted)
                elif record.state in (QUEUED, RUNNING):
                    self._take_up(record)
        for thread in self._threads:
            thread.start()
        self._standing.show()

    def _take_up(self, record: CampaignRecord) -> None:
        """Queue a campaign that an earlier process has left."""
        try:
            preflight.check_rules(_spec(record))
        except FailedPrecondition as error:
            log.warning("campaign paused", problem=str(error))
            self._set_state(record.id, PAUSED, _problem(error))
        else:
            log.info("found an unfinished campaign")
            self._turns.put(record.id, record.priority, record.create_time)

    def stop(self) -> None:
        """Stop all work; unfinished campaigns stay unfinished and go on at the next start. Reading still works."""
        with self._changed:
            self._closing.set()
            for runner in self._runners.values():
                runner.stop.set()
        self._standing.hide()
        self._turns.close()
        self._watchers.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

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
        self._follow_drive()
        if (known := self._known(spec, request_id, owner)) is not None:
            return known
        self.check(spec)
        with self._changed:
            if (known := self._known(spec, request_id, owner)) is not None:
                return known
            self._check_quotas(owner, spec)
            id = self._free_id(spec.name)
            with self._journal.transaction():
                self._journal.create_campaign(id, request_id or None, spec.model_dump_json(), priority, owner)
                self._announce(id)
            return self._enqueue(id)

    def _check_quotas(self, owner: str, spec: CampaignSpec, besides: str = "") -> None:
        """Whether an owner may have a campaign of this spec, besides those that are there but one."""
        owned = self._journal.page(CampaignFilter(owner=owner), None, -1)
        present = [Holding.of(_spec(r), is_active=r.state not in ENDED) for r in owned if r.id != besides]
        self._settings.quotas.check(present, Holding.of(spec, is_active=True))

    def _known(self, spec: CampaignSpec, request_id: str, owner: str) -> campaign_pb2.Campaign | None:
        """What an earlier request of this id has made."""
        known = self._journal.campaign_by_request(request_id, owner) if request_id else None
        if known is None:
            return None
        if not _asks_for(spec, budget.first_spec(known, self._journal)):
            raise InvalidArgument("request_id", f"{request_id!r} was used for another spec")
        return self._to_proto(known)

    def _free_id(self, name: str) -> str:
        id, number = name, 2
        while self._journal.campaign(id) is not None:
            id, number = f"{name}-{number}", number + 1
        return id

    def get(self, name: str) -> campaign_pb2.Campaign:
        return self._to_proto(self._record(name))

    def owner(self, name: str) -> str:
        """Whose campaign it is.

        Raises:
            NotFound: there is none of that name.
        """
        with contextlib.suppress(CaligoError):  # it is not back; what is open may still answer
            self._follow_drive()
        return self._record(name).owner

    def page(
        self, wanted: CampaignFilter, after: tuple[float, str] | None, size: int
    ) -> tuple[list[campaign_pb2.Campaign], str]:
        """At most `size` campaigns, newest first, those after a place in the list; and the token of the next page."""
        records = self._journal.page(wanted, after, size + 1)
        token = page_token(records[size - 1]) if len(records) > size else ""
        return [self._to_proto(self._as_it_is(record)) for record in records[:size]], token

    def update(self, name: str, *, samples: int | None = None, priority: int | None = None) -> campaign_pb2.Campaign:
        """Change the priority, or the budget of phase 3, of a campaign that has not ended.

        A running one is stopped, told, and goes on from its journal to the file of one that was made with that budget.

        Args:
            samples: rows wanted in phase 3; not fewer than have been handed out.

        Raises:
            InvalidArgument: there is no such budget.
            FailedPrecondition: the campaign has ended, cannot go on under the rules of this release, leaves phase 3
                out, or has handed out more rows than that.
            ResourceExhausted: its owner may not have so many rows.
        """
        with self._changed:
            record = self._unfinished(name)
            preflight.check_rules(_spec(record))
            priority = priority or record.priority
            if samples is None or samples == _spec(record).active.samples:
                self._journal.update_campaign(record.id, record.spec, priority)
            else:
                self._with_budget(record, samples)  # refused before anything is stopped
                with self._halted(record.id):
                    record = self._unfinished(name)
                    spec = self._with_budget(record, samples)
                    budget.keep(record, spec, priority, self._journal)
            if record.id in self._runners:
                self._farm.set_weight(PREFIX + record.id, priority)
            if record.id in self._turns:
                self._enqueue(record.id)
            self._announce(record.id)
            return self.get(name)

    def _with_budget(self, record: CampaignRecord, samples: int) -> CampaignSpec:
        spec = budget.changed(record, samples, self._journal)
        if samples > _spec(record).active.samples:
            self._check_quotas(record.owner, spec, besides=record.id)
        return spec

    def _halt(self, id: str) -> None:
        """Have a running campaign stop, and wait until it has."""
        while (runner := self._runners.get(id)) is not None:
            runner.stop.set()
            self._changed.wait()

    @contextlib.contextmanager
    def _halted(self, id: str) -> Iterator[None]:
        """A running campaign stands still inside the block and takes its turn again after it."""
        self._halt(id)
        try:
            yield
        finally:
            record = self._find(id)
            if record is not None and record.state in (QUEUED, RUNNING):
                self._enqueue(id)

    def pause(self, name: str) -> campaign_pb2.Campaign:
        return self._interrupt(name, PAUSED)

    def cancel(self, name: str) -> campaign_pb2.Campaign:
        return self._interrupt(name, CANCELLED)

    def _interrupt(self, name: str, wanted: State) -> campaign_pb2.Campaign:
        with self._changed:
            record = self._record(name)
            if record.id in self._runners:
                self._journal.want(record.id, wanted)  # a restart while the runner stops brings it about all the same
                self._halt(record.id)
                record = self._record(name)
            if record.state in ENDED and record.state != wanted:
                raise FailedPrecondition(f"{name} has ended: {_state_name(record.state)}")
            if record.state != wanted or record.id in self._stranded:
                self._bring_about(record, wanted)
            return self.get(name)

    def _bring_about(self, record: CampaignRecord, wanted: State) -> None:
        """Do with a campaign that does not run what was asked for."""
        if wanted == GONE:
            if self._directory_of(record.id).exists():
                shutil.rmtree(self._directory_of(record.id))
            self._journal.delete_campaign(record.id)
            self._stranded.pop(record.id, None)
            self._watchers.tell(record.id)
            return
        if wanted in ENDED and record.state not in ENDED:
            self._finish_file(record)
        self._set_state(record.id, wanted)

    def resume(self, name: str) -> campaign_pb2.Campaign:
        """Let a campaign go on.

        Raises:
            FailedPrecondition: it has ended, or cannot go on under the rules of this release.
        """
        self._follow_drive()
        with self._changed:
            record = self._unfinished(name)
            preflight.check_rules(_spec(record))
            if record.state == QUEUED or record.id in self._runners:
                return self._to_proto(record)
            self._set_state(record.id, QUEUED)
            return self._enqueue(record.id)

    def _follow_drive(self) -> None:
        """Where the data directory's drive was lost and is back, work there: what is open belongs to the one lost.

        Nothing is made, for an empty mount point looks like a new data directory.

        Raises:
            ResourceExhausted: it is not back.
            FailedPrecondition: another orchestrator works there.
        """
        if self._journal.is_in_place():
            return
        with self._changed:
            if self._journal.is_in_place():
                return
            try:
                lock = _locked(self._directory, "r+")
            except OSError as error:
                raise _of_the_disk(error) from None
            try:
                self._journal.reopen()
            except BaseException:
                lock.close()
                raise
            self._lock.close()
            self._lock = lock
        log.warning("data directory found again", directory=str(self._directory))

    def _enqueue(self, id: str) -> campaign_pb2.Campaign:
        record = self._record(PREFIX + id)
        self._turns.put(id, record.priority, record.create_time)
        return self._to_proto(record)

    def delete(self, name: str) -> None:
        with self._changed:
            record = self._record(name)
            if record.state not in ENDED:
                raise FailedPrecondition(f"{name} has not ended; cancel it first")
            self._journal.want(record.id, GONE)  # a restart in the middle of it brings it to its end
            try:
                self._bring_about(record, GONE)
            except OSError as error:
                raise _of_the_disk(error) from error

    def predict(self, name: str, inputs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Mean, standard deviation and probability of a key at rows [n, 9], float32 [n, 3], and which of the rows lie
        outside the campaign's space, bool [n]."""
        record = self._record(name)
        spec = _spec(record)
        predicted = predictions.predict(
            record.id,
            spec,
            self._journal,
            self._settings.surrogate,
            inputs,
            has_ended=record.state == SUCCEEDED,
            tls=self._settings.services_tls(),
        )
        return predicted, np.any(spec.space.resolve().outside(inputs), axis=1)

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

    def watch(self, name: str, after: int, caller: Caller) -> Iterator[Event]:
        """Kept events after a number, then live ones; ends when the campaign has ended or the caller has gone.

        Raises:
            ResourceExhausted: the caller takes too long over an event.
            Unreachable: the orchestrator shuts down.
        """
        id = self._record(name).id
        with self._watchers.following(id, caller) as follower:
            yield from streams.events(follower, after, functools.partial(self._news, id))

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

    def _news(self, id: str, after: int) -> tuple[list[Event], bool]:
        with self._changed:  # a change of state is announced under it: an ended campaign's last event is there
            events = self._journal.events(id, after)
            if id in self._stranded:
                last = events[-1].sequence if events else after
                events.append(new_event(sequence=last, changed=self.get(PREFIX + id)))
            return events, self._has_ended(id)

    def _has_ended(self, id: str) -> bool:
        record = self._journal.campaign(id)
        return record is None or record.state in ENDED

    def _has_all(self, id: str, phase: Phase, rows: int) -> bool:
        """Whether no row of a phase is to come any more where so many are there, without a gap."""
        plan = self._journal.checkpoint(id, "lhs_plan") if phase is Phase.LHS else None
        return (plan is not None and rows >= lhs.Plan.from_json(plan).rows) or self._has_ended(id)

    def _tell_progress(self) -> None:
        while not self._closing.wait(PROGRESS_SECONDS):
            for id in self._watchers.watched():
                if (runner := self._runners.get(id)) is not None:
                    self._watchers.tell_progress(id, runner.progress.snapshot())

    # --- work -----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (id := self._turns.take()) is not None:
            with structlog.contextvars.bound_contextvars(campaign=PREFIX + id), self._stranding(id):
                runner = self._begin(id)
                if runner is not None:
                    self._end(runner, *self._run(runner))

    @contextlib.contextmanager
    def _stranding(self, id: str) -> Iterator[None]:
        """A campaign whose change of state cannot be journaled stands still, and says why, until it is resumed."""
        try:
            yield
        except Exception as error:
            with self._changed:
                self._stranded[id] = _problem(_of_the_disk(error)).SerializeToString()
                self._runners.pop(id, None)
                self._changed.notify_all()
            self._watchers.tell(id)
            log.exception("campaign paused, which could not be journaled")

    def _begin(self, id: str) -> CampaignRunner | None:
        """Take a campaign from the queue; None where it is not to be run after all."""
        with self._changed:
            record = self._find(id)
            if self._closing.is_set() or record is None or record.state not in (QUEUED, RUNNING) or id in self._runners:
                return None
            spec = _spec(record)
            self._set_state(id, RUNNING)
            self._farm.set_weight(PREFIX + id, record.priority)
            runner = self._runners[id] = CampaignRunner(
                id,
                spec,
                self._directory_of(id),
                self._journal,
                self._farm,
                self._settings,
                functools.partial(self._note, id),
            )
            return runner

    def _run(
        self, runner: CampaignRunner
    ) -> tuple[State | None, campaign_pb2.Problem | None, campaign_pb2.Findings | None]:
        """Run a campaign; the state it ends in, or None where it was told to stop."""
        attempts, reached = 0, -1
        while True:
            try:
                return SUCCEEDED, None, runner.run()
            except Stopped:
                return None, None, None
            except ServiceLostError as error:
                # Sampler or surrogate was restarted, or needed the room: begin anew from what the journal holds.
                now = self._journal.progress(runner.id)
                attempts, reached = (1, now) if now > reached else (attempts + 1, reached)
                log.warning("a service was lost", problem=str(error), attempt=attempts)
                if attempts == _ATTEMPTS:
                    return PAUSED, _problem(error), None
            except Unreachable as error:
                log.warning("campaign paused", problem=str(error))
                return PAUSED, _problem(error), None
            except (OSError, JournalError) as error:
                log.exception("campaign paused")
                return PAUSED, _problem(_of_the_disk(error)), None
            except CaligoError as error:
                log.error("campaign failed", problem=str(error))
                return FAILED, _problem(error), None
            except Exception as error:
                log.exception("campaign failed")
                return FAILED, _problem(InternalError(f"{type(error).__name__}: {error}")), None

    def _end(
        self,
        runner: CampaignRunner,
        state: State | None,
        problem: campaign_pb2.Problem | None,
        result: campaign_pb2.Findings | None,
    ) -> None:
        with self._changed:
            try:
                if state == FAILED:
                    self._finish_file(self._record(PREFIX + runner.id))
                with self._journal.transaction():
                    progress = runner.progress.snapshot().SerializeToString()
                    self._journal.put_checkpoint(runner.id, _PROGRESS, progress)
                    if state is not None:
                        self._set_state(runner.id, state, problem, result)
            finally:
                del self._runners[runner.id]
                self._changed.notify_all()

    def _finish_file(self, record: CampaignRecord) -> None:
        """What a campaign that ends early has goes into a file of that size, if that can be."""
        try:
            note = finish_file(PREFIX + record.id, _spec(record), self._directory_of(record.id), self._journal)
        except OSError as error:
            log.exception("file could not be finished")
            note = f"the file could not be rewritten and is as it was: {error}"
        if note is not None:
            self._note(record.id, note)

    def _set_state(
        self,
        id: str,
        state: State,
        problem: campaign_pb2.Problem | None = None,
        result: campaign_pb2.Findings | None = None,
    ) -> None:
        stranded = self._stranded.pop(id, None)
        try:
            with self._journal.transaction():
                self._journal.set_state(
                    id,
                    state,
                    problem=problem.SerializeToString() if problem else None,
                    findings=result.SerializeToString() if result else None,
                )
                self._announce(id)
        except BaseException:
            if stranded is not None:
                self._stranded[id] = stranded
            raise

    def _announce(self, id: str) -> None:
        """Tell watchers what the campaign is now."""
        self._journal.append_event(id, new_event(changed=self._to_proto(self._record(PREFIX + id))))
        self._watchers.tell(id)

    def _note(self, id: str, text: str) -> None:
        log.info(text)
        self._journal.append_event(id, new_event(note=text))
        self._watchers.tell(id)

    def _unfinished(self, name: str) -> CampaignRecord:
        record = self._record(name)
        if record.state in ENDED:
            raise FailedPrecondition(f"{name} has ended: {_state_name(record.state)}")
        return record

    def _find(self, id: str) -> CampaignRecord | None:
        record = self._journal.campaign(id)
        return None if record is None else self._as_it_is(record)

    def _as_it_is(self, record: CampaignRecord) -> CampaignRecord:
        """A record with what the journal could not be told."""
        problem = self._stranded.get(record.id)
        if problem is None or record.state in ENDED:
            return record
        return dataclasses.replace(record, state=PAUSED, problem=problem)

    def _record(self, name: str) -> CampaignRecord:
        record = self._find(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
        if record is None:
            raise no_such_campaign(name)
        return record

    def _directory_of(self, id: str) -> Path:
        return self._directory / CAMPAIGNS_DIRECTORY / id

    def _to_proto(self, record: CampaignRecord) -> campaign_pb2.Campaign:
        campaign = campaign_pb2.Campaign(
            name=PREFIX + record.id,
            spec=_spec_message(record.spec),
            state=record.state,
            priority=record.priority,
            owner=record.owner,
        )
        campaign.create_time.FromMicroseconds(int(record.create_time * 1e6))
        campaign.update_time.FromMicroseconds(int(record.update_time * 1e6))
        runner = self._runners.get(record.id)
        if runner is not None:
            campaign.progress.CopyFrom(runner.progress.snapshot())
        elif (progress := self._journal.checkpoint(record.id, _PROGRESS)) is not None:
            campaign.progress.ParseFromString(progress)
        if record.problem is not None:
            campaign.problem.ParseFromString(record.problem)
        if record.findings is not None:
            campaign.findings.ParseFromString(record.findings)
        return campaign


def _locked(directory: Path, mode: str) -> IO[str]:
    """The open lock file of a data directory, held.

    Raises:
        OSError: it cannot be opened or locked.
        FailedPrecondition: another orchestrator holds it.
    """
    try:
        return hold(directory / LOCK_FILE, mode)
    except BlockingIOError:
        raise FailedPrecondition(f"data_directory: another orchestrator works on {directory}") from None


def _spec(record: CampaignRecord) -> CampaignSpec:
    return read_spec(json.loads(record.spec))


@functools.lru_cache(maxsize=1024)
def _spec_message(text: str) -> campaign_pb2.CampaignSpec:
    spec = read_spec(json.loads(text))
    message = to_proto(spec, campaign_pb2.CampaignSpec)
    if spec.physics.claim.startswith(claims.RELEASE_0_1):  # for clients of that release
        message.physics.bound = spec.physics.claim.removeprefix(claims.RELEASE_0_1)
    return message


def _asks_for(spec: CampaignSpec, stored: str) -> bool:
    """Whether a stored request, which may be of an earlier release, asks for this spec today."""
    try:
        return validate(CampaignSpec, json.loads(stored)) == spec
    except InvalidArgument:
        return False


def no_such_campaign(name: str) -> NotFound:
    """The answer for a campaign that is not there, or not there for whoever asks."""
    return NotFound(f"{name[:100]!r}: no such campaign (names look like {PREFIX}first-cliff)")


def _problem(error: CaligoError) -> campaign_pb2.Problem:
    return campaign_pb2.Problem(code=error.status, message=str(error))


def _of_the_disk(error: Exception) -> CaligoError:
    """What stands in the way of keeping results, as a typed error."""
    if isinstance(error, CaligoError):
        return error
    if isinstance(error, OSError):
        return ResourceExhausted(f"data directory: {error}")
    return InternalError(f"{type(error).__name__}: {error}")


def _state_name(state: State) -> str:
    return campaign_pb2.CampaignState.Name(state).removeprefix("CAMPAIGN_STATE_")
