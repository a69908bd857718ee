"""All campaigns of a data directory: makes them, runs them in turn, tells watchers, finds the unfinished on start."""

from __future__ import annotations

import fcntl
import functools
import itertools
import json
import queue
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from caligo import logs
from caligo.dataset import CAMPAIGNS_DIRECTORY, FILE_NAME, JOURNAL_NAME
from caligo.errors import (
    CaligoError,
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unreachable,
)
from caligo.results import ResultRows
from caligo.seeds import Phase
from caligo.spec import CampaignSpec, to_proto, validate
from caligo.v1 import campaign_pb2
from caligo_orchestrator import predictions
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
from caligo_orchestrator.dispatch import SimulationFarm
from caligo_orchestrator.phases import lhs, surrogate
from caligo_orchestrator.pipeline import Stopped
from caligo_orchestrator.remote import ModelLostError
from caligo_orchestrator.settings import OrchestratorSettings
from caligo_orchestrator.store.journal import CampaignRecord, Journal

log = logs.get("manager")

LOCK_FILE: Final = "lock"
DEFAULT_PRIORITY: Final = 100
ALWAYS_THERE: Final = "statistical"
"""The EPR source that every simulator has."""
_CAPACITY_SECONDS: Final = 5.0
HEARTBEAT_SECONDS: Final = 10.0
PROGRESS_SECONDS: Final = 0.5
_MODEL_ATTEMPTS: Final = 5
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
            self._lock = (self._directory / LOCK_FILE).open("w")
        except OSError as error:
            raise InvalidArgument("data_directory", f"{self._directory}: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise FailedPrecondition(f"data_directory: another orchestrator works on {self._directory}") from None
        try:
            self._journal = Journal(self._directory / JOURNAL_NAME)
        except sqlite3.Error as error:
            raise InvalidArgument("data_directory", f"{self._directory / JOURNAL_NAME}: {error}") from None
        self._farm = SimulationFarm(settings.simulator, settings.simulator_streams, settings.patience_seconds)
        self._changed = threading.Condition()
        self._closing = False
        self._runners: dict[str, CampaignRunner] = {}
        self._wanted: dict[str, State] = {}
        """States asked for by pause and cancel, until the runner has stopped."""
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"campaigns-{i}", daemon=True)
            for i in range(settings.running_campaigns)
        ]

    def start(self) -> None:
        """Queue every unfinished campaign and begin to work."""
        for record in reversed(self._journal.campaigns()):
            if record.state in (QUEUED, RUNNING):
                log.info("found an unfinished campaign", campaign=PREFIX + record.id)
                self._queue.put(record.id)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop all work; unfinished campaigns stay unfinished and go on at the next start. Reading still works."""
        with self._changed:
            self._closing = True
            for runner in self._runners.values():
                runner.stop.set()
            self._changed.notify_all()
        for _ in self._threads:
            self._queue.put(None)
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
        """Pre-flight: the EPR source is there, and everything that a skipped phase would have made.

        Raises:
            InvalidArgument: `base` does not exist or explores something else, or no simulator has the EPR source.
            FailedPrecondition: what is skipped was never made.
            Unreachable: no simulator answers that could say what EPR sources it has.
        """
        if spec.protocol.epr_source != ALWAYS_THERE:
            sources = self._farm.capacity(_CAPACITY_SECONDS).epr_sources
            if spec.protocol.epr_source not in sources:
                raise InvalidArgument("protocol.epr_source", f"the simulator has {', '.join(sources)}")
        if not spec.base:
            return
        record = self._journal.campaign(spec.base)
        if record is None:
            raise InvalidArgument("base", f"there is no campaign {spec.base!r}")
        base = validate(CampaignSpec, json.loads(record.spec))
        for part in ("space", "physics", "protocol"):
            if getattr(base, part) != getattr(spec, part):
                raise InvalidArgument("base", f"campaign {spec.base!r} has another {part!r} than this spec")
        if spec.lhs.skip:
            plan = self._journal.checkpoint(spec.base, "lhs_plan")
            done = len(self._journal.row_indices(spec.base, Phase.LHS))
            if plan is None or done < lhs.Plan.from_json(plan).rows:
                raise FailedPrecondition(f"lhs.skip: campaign {spec.base!r} has no finished phase 1")
        if spec.training.skip:
            if surrogate.kept(self._journal, spec.base) is None:
                raise FailedPrecondition(f"training.skip: campaign {spec.base!r} has no trained surrogate")
            if base.surrogate.target != spec.surrogate.target:
                raise InvalidArgument("surrogate.target", f"campaign {spec.base!r} has {base.surrogate.target!r}")

    def create(self, spec: CampaignSpec, request_id: str, priority: int) -> campaign_pb2.Campaign:
        """Start a campaign; the same request id gives the same campaign."""
        with self._changed:
            known = self._journal.campaign_by_request(request_id) if request_id else None
            if known is not None:
                if known.spec != spec.model_dump_json():
                    raise InvalidArgument("request_id", f"{request_id!r} was used for another spec")
                return self._to_proto(known)
            self.check(spec)
            id = self._free_id(spec.name)
            self._journal.create_campaign(id, request_id or None, spec.model_dump_json(), priority)
            self._announce(id)
        self._queue.put(id)
        return self.get(PREFIX + id)

    def _free_id(self, name: str) -> str:
        taken = {record.id for record in self._journal.campaigns()}
        id, number = name, 2
        while id in taken:
            id, number = f"{name}-{number}", number + 1
        return id

    def get(self, name: str) -> campaign_pb2.Campaign:
        return self._to_proto(self._record(name))

    def list(self, state: int | None) -> list[campaign_pb2.Campaign]:
        """Newest first."""
        return [self._to_proto(r) for r in self._journal.campaigns() if state is None or r.state == state]

    def pause(self, name: str) -> campaign_pb2.Campaign:
        return self._interrupt(name, PAUSED)

    def cancel(self, name: str) -> campaign_pb2.Campaign:
        return self._interrupt(name, CANCELLED)

    def _interrupt(self, name: str, wanted: State) -> campaign_pb2.Campaign:
        with self._changed:
            record = self._record(name)
            runner = self._runners.get(record.id)
            if runner is None:
                if record.state in ENDED and record.state != wanted:
                    raise FailedPrecondition(f"{name} has ended: {_state_name(record.state)}")
                if record.state != wanted:
                    self._set_state(record.id, wanted)
            else:
                self._wanted[record.id] = wanted
                runner.stop.set()
                while self._runners.get(record.id) is runner:
                    self._changed.wait()
            return self.get(name)

    def resume(self, name: str) -> campaign_pb2.Campaign:
        with self._changed:
            record = self._record(name)
            if record.state == QUEUED or record.id in self._runners:
                return self._to_proto(record)
            if record.state in ENDED:
                raise FailedPrecondition(f"{name} has ended: {_state_name(record.state)}")
            self._set_state(record.id, QUEUED)
            self._queue.put(record.id)
            return self.get(name)

    def delete(self, name: str) -> None:
        with self._changed:
            record = self._record(name)
            if record.state not in ENDED:
                raise FailedPrecondition(f"{name} has not ended; cancel it first")
            self._journal.delete_campaign(record.id)
            if self._directory_of(record.id).exists():
                shutil.rmtree(self._directory_of(record.id))

    def predict(self, name: str, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean, standard deviation and probability of a key at rows [n, 9], float32 [n, 3]."""
        record = self._record(name)
        return predictions.predict(
            record.id,
            validate(CampaignSpec, json.loads(record.spec)),
            self._journal,
            self._settings.surrogate,
            inputs,
            has_ended=record.state == SUCCEEDED,
        )

    def file(self, name: str) -> Path:
        """The HDF5 file of a campaign that is not being written."""
        record = self._record(name)
        path = self._directory_of(record.id) / FILE_NAME
        if record.state not in ENDED and record.state != PAUSED:
            raise FailedPrecondition(f"{name} is not done; its file can be had when it has ended or is paused")
        if not path.exists():
            raise FailedPrecondition(f"{name} ended before it had a file")
        return path

    # --- streams --------------------------------------------------------------------------------------------------

    def watch(
        self, name: str, after: int, is_wanted: Callable[[], bool]
    ) -> Iterator[campaign_pb2.WatchCampaignResponse]:
        """Kept events after a number, then live ones; ends when the campaign has ended or nobody wants them.

        Raises:
            Unreachable: the orchestrator shuts down.
        """
        id = self._record(name).id
        progress = campaign_pb2.Progress()
        silent_since = time.monotonic()
        while is_wanted():
            news = []
            with self._changed:
                news += self._journal.events(id, after)
                record = self._journal.campaign(id)
                runner = self._runners.get(id)
            after = news[-1].sequence if news else after
            if runner is not None and (snapshot := runner.progress.snapshot()) != progress:
                progress = snapshot
                news.append(_event(sequence=after, progress=progress))
            if not news and time.monotonic() - silent_since > HEARTBEAT_SECONDS:
                news.append(_event(sequence=after, heartbeat=campaign_pb2.Heartbeat()))
            yield from news
            if record is None or record.state in ENDED:
                return
            if news:
                silent_since = time.monotonic()
            self._wait_for_news()

    def rows(
        self, name: str, phase: Phase, start: int, follow: bool, is_wanted: Callable[[], bool]
    ) -> Iterator[ResultRows]:
        """Durable rows in the order of the file; with `follow` waits for each next row until the campaign ends.

        Raises:
            Unreachable: the orchestrator shuts down.
        """
        id = self._record(name).id
        while is_wanted():
            record = self._journal.campaign(id)
            for block in self._journal.row_blocks(id, phase, start=start):
                if follow and record is not None and record.state not in ENDED:
                    expected = start + np.arange(len(block))
                    block = block[block["index"] == expected]  # a gap is filled later: wait for it
                    if not len(block):
                        break
                yield block
                start = int(block["index"][-1]) + 1
            if not follow or record is None or record.state in ENDED:
                return
            self._wait_for_news()

    def _wait_for_news(self) -> None:
        with self._changed:
            if not self._closing:
                self._changed.wait(PROGRESS_SECONDS)
            if self._closing:
                raise Unreachable("the orchestrator is shutting down")

    # --- work -----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (id := self._queue.get()) is not None:
            try:
                runner = self._begin(id)
                if runner is not None:
                    with structlog.contextvars.bound_contextvars(campaign=PREFIX + id):
                        self._end(runner, *self._run(runner))
            except Exception:  # the journal cannot be written, say: the campaign goes on at the next start
                log.exception("campaign could not be begun or ended", campaign=PREFIX + id)

    def _begin(self, id: str) -> CampaignRunner | None:
        """Take a campaign from the queue; None where it is not to be run after all."""
        with self._changed:
            record = self._journal.campaign(id)
            if self._closing or record is None or record.state not in (QUEUED, RUNNING) or id in self._runners:
                return None
            spec = validate(CampaignSpec, json.loads(record.spec))
            self._set_state(id, RUNNING)
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
        for attempt in itertools.count(1):
            try:
                return SUCCEEDED, None, runner.run()
            except Stopped:
                return None, None, None
            except ModelLostError as error:
                # The surrogate was restarted or needed the room; all it held can be made again from the journal.
                log.warning("the surrogate has lost the model", attempt=attempt)
                if attempt == _MODEL_ATTEMPTS:
                    return PAUSED, _problem(error), None
            except Unreachable as error:
                log.warning("campaign paused", problem=str(error))
                return PAUSED, _problem(error), None
            except CaligoError as error:
                log.error("campaign failed", problem=str(error))
                return FAILED, _problem(error), None
            except (OSError, sqlite3.OperationalError) as error:
                log.exception("campaign paused")
                return PAUSED, _problem(ResourceExhausted(f"data directory: {error}")), None
            except Exception as error:
                log.exception("campaign failed")
                return FAILED, _problem(InternalError(f"{type(error).__name__}: {error}")), None
        raise AssertionError("unreachable")

    def _end(
        self,
        runner: CampaignRunner,
        state: State | None,
        problem: campaign_pb2.Problem | None,
        result: campaign_pb2.Findings | None,
    ) -> None:
        with self._changed:
            wanted = self._wanted.pop(runner.id, None)
            if state is None or (state == PAUSED and wanted is not None):
                state, problem = wanted, None if wanted is not None else problem
            del self._runners[runner.id]
            self._changed.notify_all()
            self._journal.put_checkpoint(runner.id, _PROGRESS, runner.progress.snapshot().SerializeToString())
            if state is not None:
                self._set_state(runner.id, state, problem, result)

    def _set_state(
        self,
        id: str,
        state: State,
        problem: campaign_pb2.Problem | None = None,
        result: campaign_pb2.Findings | None = None,
    ) -> None:
        self._journal.set_state(
            id,
            state,
            problem=problem.SerializeToString() if problem else None,
            findings=result.SerializeToString() if result else None,
        )
        self._announce(id)

    def _announce(self, id: str) -> None:
        """Tell watchers what the campaign is now."""
        self._journal.append_event(id, _event(changed=self._to_proto(self._record(PREFIX + id))))
        with self._changed:
            self._changed.notify_all()

    def _note(self, id: str, text: str) -> None:
        log.info(text)
        self._journal.append_event(id, _event(note=text))
        with self._changed:
            self._changed.notify_all()

    def _record(self, name: str) -> CampaignRecord:
        id = name.removeprefix(PREFIX)
        record = self._journal.campaign(id) if name.startswith(PREFIX) else None
        if record is None:
            raise NotFound(f"{name!r}: no such campaign (names look like {PREFIX}first-cliff)")
        return record

    def _directory_of(self, id: str) -> Path:
        return self._directory / CAMPAIGNS_DIRECTORY / id

    def _to_proto(self, record: CampaignRecord) -> campaign_pb2.Campaign:
        campaign = campaign_pb2.Campaign(
            name=PREFIX + record.id,
            spec=to_proto(validate(CampaignSpec, json.loads(record.spec)), campaign_pb2.CampaignSpec),
            state=record.state,
            priority=record.priority,
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


def _event(**content: Any) -> campaign_pb2.WatchCampaignResponse:
    event = campaign_pb2.WatchCampaignResponse(**content)
    event.time.GetCurrentTime()
    return event


def _problem(error: CaligoError) -> campaign_pb2.Problem:
    return campaign_pb2.Problem(code=error.status, message=str(error))


def _state_name(state: State) -> str:
    return campaign_pb2.CampaignState.Name(state).removeprefix("CAMPAIGN_STATE_")
