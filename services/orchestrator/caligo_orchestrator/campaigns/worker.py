"""The worker of one campaign: takes step after step until nothing of what is wanted is left to do.

It is the only one that writes a campaign's state, and all that takes time happens here: stopping a run, finishing a
file, removing rows. A worker whose change cannot be written says so, and repeats it until it can.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from caligo import logs
from caligo.database import JournalError
from caligo.errors import (
    CaligoError,
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    ResourceExhausted,
    Unreachable,
)
from caligo.layout import CAMPAIGNS_DIRECTORY
from caligo.v1 import campaign_pb2
from caligo_orchestrator.api import messages
from caligo_orchestrator.campaigns import budget, preflight
from caligo_orchestrator.campaigns.ledger import Ledger
from caligo_orchestrator.campaigns.names import resource_name
from caligo_orchestrator.campaigns.runner import CampaignRunner
from caligo_orchestrator.campaigns.states import CANCELLED, FAILED, PAUSED, QUEUED, RUNNING, SUCCEEDED, State, Step
from caligo_orchestrator.farm import Farm
from caligo_orchestrator.model import predictions
from caligo_orchestrator.model.remote import ServiceLostError
from caligo_orchestrator.pipeline import Stopped
from caligo_orchestrator.settings import OrchestratorSettings
from caligo_orchestrator.store.dataset import finish_file
from caligo_orchestrator.store.journal import CampaignRecord

log = logs.get("campaigns")

_WRITE_AGAIN_SECONDS: Final = 1.0
_ATTEMPTS: Final = 5
"""How often at least a campaign begins anew that does not get on because a service is lost again and again."""
_FIRST_WAIT_SECONDS: Final = 0.1
_LONGEST_WAIT_SECONDS: Final = 10.0

_Change = Callable[[], None]
_Outcome = tuple[State, campaign_pb2.Problem | None, campaign_pb2.Findings | None]


class Worker:
    """Brings about what is wanted of one campaign.

    Args:
        may_run: whether the campaign has one of the places for running ones.
        closing: set when the process ends: whatever is unfinished then is taken up by the next one.

    Attributes:
        runner: the run under way, if there is one.
    """

    def __init__(
        self,
        id: str,
        ledger: Ledger,
        farm: Farm,
        settings: OrchestratorSettings,
        *,
        may_run: bool,
        closing: threading.Event,
    ) -> None:
        self.may_run = may_run
        self.runner: CampaignRunner | None = None
        self._id = id
        self._ledger = ledger
        self._journal = ledger.journal
        self._farm = farm
        self._settings = settings
        self._closing = closing
        self._directory = settings.data_directory / CAMPAIGNS_DIRECTORY / id
        self._interrupted = threading.Event()

    def interrupt(self) -> None:
        """Something else may be wanted than what is being done: a run stops, and the worker looks again."""
        self._interrupted.set()
        if (runner := self.runner) is not None:
            runner.stop()

    def work(self) -> None:
        """Take steps until there are none left, or none without a place to run."""
        with structlog.contextvars.bound_contextvars(campaign=resource_name(self._id)):
            while not self._closing.is_set():
                self._interrupted.clear()  # before it looks: what is asked for from here on interrupts what it does
                record = self._journal.campaign(self._id)
                step = Step.NOTHING if record is None else record.step
                if record is None or step is Step.NOTHING or (step is Step.RUN and not self.may_run):
                    return
                log.debug("step", step=step.name, state=record.state, wanted=record.wanted)
                _STEPS[step](self, record)

    # --- steps ----------------------------------------------------------------------------------------------------

    def _note(self, record: CampaignRecord) -> None:
        self._change(lambda: self._take_note(record))

    def _queue(self, record: CampaignRecord) -> None:
        self._enter(record, QUEUED)

    def _pause(self, record: CampaignRecord) -> None:
        self._enter(record, PAUSED)

    def _cancel(self, record: CampaignRecord) -> None:
        self._finish_file(record)
        self._enter(record, CANCELLED)

    def _delete(self, record: CampaignRecord) -> None:
        """The model, the files, the rows, and then the campaign itself."""

        def remove() -> None:
            if self._directory.exists():
                shutil.rmtree(self._directory)
            self._journal.delete_campaign(self._id)

        predictions.forget(record, self._journal, self._settings)
        self._repeat(remove)
        self._ledger.watchers.tell(self._id)

    def _run(self, record: CampaignRecord) -> None:
        """Run the campaign until it ends, cannot go on, or something else is wanted."""
        try:
            preflight.check_rules(messages.spec_of(record))
        except FailedPrecondition as error:
            log.warning("campaign paused", problem=str(error))
            self._enter(record, PAUSED, messages.problem(error))
            return
        self._enter(record, RUNNING)
        record = self._journal.campaign(self._id) or record  # with the budget that was asked for
        self._farm.set_weight(resource_name(self._id), record.priority)
        runner = self.runner = CampaignRunner(
            self._id,
            messages.spec_of(record),
            self._directory,
            self._journal,
            self._farm,
            self._settings,
            lambda text: self._ledger.note(self._id, text),
        )
        self._ledger.boards[self._id] = runner.progress
        try:
            if self._interrupted.is_set() or self._closing.is_set():
                runner.stop()
            outcome = self._attempt(runner)
            progress = runner.progress.snapshot()
            if outcome is None:
                self._repeat(lambda: self._ledger.keep_progress(self._id, progress))
                return
            state, problem, findings = outcome
            if state == FAILED:
                self._finish_file(record)

            def end() -> None:
                self._ledger.keep_progress(self._id, progress)
                self._journal.set_state(
                    self._id,
                    state,
                    problem=problem.SerializeToString() if problem else None,
                    findings=findings.SerializeToString() if findings else None,
                )

            self._change(end)
        finally:
            self.runner = None
            self._ledger.boards.pop(self._id, None)

    def _attempt(self, runner: CampaignRunner) -> _Outcome | None:
        """Run a campaign; what it comes to, or None where it was told to stop.

        Where a service is lost it begins anew from what the journal holds, with longer and longer waits in between,
        until it has not got on for as long as the orchestrator has patience.
        """
        attempts, reached, lost, wait = 0, -1, 0.0, _FIRST_WAIT_SECONDS
        while True:
            try:
                return SUCCEEDED, None, runner.run()
            except Stopped:
                return None
            except ServiceLostError as error:
                now = self._journal.progress(runner.id)
                if now > reached:
                    attempts, reached, lost, wait = 0, now, time.monotonic(), _FIRST_WAIT_SECONDS
                attempts += 1
                log.warning("a service was lost", problem=str(error), attempt=attempts)
                if attempts >= _ATTEMPTS and time.monotonic() - lost > self._settings.patience_seconds:
                    return PAUSED, messages.problem(error), None
                if runner.stopping.wait(wait * random.uniform(0.5, 1.5)):
                    return None
                wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
            except Unreachable as error:
                log.warning("campaign paused", problem=str(error))
                return PAUSED, messages.problem(error), None
            except (InvalidArgument, FailedPrecondition) as error:
                log.error("campaign failed", problem=str(error))
                return FAILED, messages.problem(error), None
            except Exception as error:
                # Not known to be wrong whatever one does: it can be resumed when the reason is out of the way.
                log.exception("campaign paused")
                return PAUSED, messages.problem(_typed(error)), None

    # --- changes --------------------------------------------------------------------------------------------------

    def _enter(self, record: CampaignRecord, state: State, problem: campaign_pb2.Problem | None = None) -> None:
        def enter() -> None:
            self._take_note(record)
            self._journal.set_state(self._id, state, problem=problem.SerializeToString() if problem else None)

        self._change(enter)

    def _take_note(self, record: CampaignRecord) -> None:
        """Of all that had been asked for when the record was read, the budget included."""
        budget.apply(record, self._journal)
        self._journal.note(self._id, record.revision)

    def _change(self, change: _Change) -> None:
        """Make a change durable and tell it to whoever watches."""

        def announced() -> None:
            with self._ledger.changing(self._id):
                change()

        self._repeat(announced)

    def _repeat(self, change: _Change) -> None:
        """Do what changes the disk, again and again until it can be done or the process ends."""
        while True:
            problem = self._ledger.problems.pop(self._id, None)
            try:
                return change()
            except (OSError, JournalError) as error:
                if problem is None:
                    log.exception("campaign stands still")
                self._ledger.problems[self._id] = messages.problem(_typed(error))
            self._ledger.watchers.tell(self._id)
            if self._closing.wait(_WRITE_AGAIN_SECONDS):
                return None

    def _finish_file(self, record: CampaignRecord) -> None:
        """What a campaign that ends early has goes into a file of that size, if that can be."""
        try:
            found = finish_file(resource_name(self._id), messages.spec_of(record), self._directory, self._journal)
            if found is not None:
                self._ledger.note(self._id, found)
        except (OSError, JournalError) as error:
            log.exception("file could not be finished")
            note = f"the file could not be rewritten and is as it was: {error}"
            self._repeat(lambda: self._ledger.note(self._id, note))


_STEPS: Final[dict[Step, Callable[[Worker, CampaignRecord], None]]] = {
    Step.NOTE: Worker._note,
    Step.QUEUE: Worker._queue,
    Step.RUN: Worker._run,
    Step.PAUSE: Worker._pause,
    Step.CANCEL: Worker._cancel,
    Step.DELETE: Worker._delete,
}


def _typed(error: Exception) -> CaligoError:
    """What stands in a campaign's way, as a typed error."""
    if isinstance(error, CaligoError):
        return error
    if isinstance(error, OSError):
        return ResourceExhausted(f"data directory: {error}")
    return InternalError(f"{type(error).__name__}: {error}")
