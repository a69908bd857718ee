"""Gives every campaign that has something to do a worker, and those that are to run a place, by priority and age."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from caligo import logs
from caligo.database import JournalError
from caligo_orchestrator.campaigns.ledger import Ledger
from caligo_orchestrator.campaigns.runner import CampaignRunner
from caligo_orchestrator.campaigns.states import Step
from caligo_orchestrator.campaigns.worker import Worker
from caligo_orchestrator.farm import Farm
from caligo_orchestrator.settings import OrchestratorSettings

log = logs.get("campaigns")

LOOK_SECONDS: Final = 5.0
"""How often it looks though nobody has poked it."""
_STOP_SECONDS: Final = 10.0
"""How long workers may take to stop; what they leave undone is taken up by the next process."""


class Scheduler:
    """The workers of a data directory.

    Args:
        on_lost: called once, where another journal is in the place of the open one: its drive was lost and is back, and
            this process, which can do nothing with it, is to end. Until it is back nothing can be written.
    """

    def __init__(self, ledger: Ledger, farm: Farm, settings: OrchestratorSettings, on_lost: Callable[[], None]) -> None:
        self._ledger = ledger
        self._farm = farm
        self._settings = settings
        self._on_lost = on_lost
        self._closing = threading.Event()
        self._poked = threading.Event()
        self._lock = threading.Lock()
        self._workers: dict[str, Worker] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._loop = threading.Thread(target=self._look_after, name="scheduler", daemon=True)

    def start(self) -> None:
        """Take up what an earlier process has left, and begin to work."""
        self._ledger.journal.requeue()
        self._poked.set()
        self._loop.start()

    def poke(self) -> None:
        """Something was asked for, or a place has become free."""
        self._poked.set()

    def running(self) -> list[CampaignRunner]:
        """The runs under way."""
        with self._lock:
            return [worker.runner for worker in self._workers.values() if worker.runner is not None]

    def stop(self) -> None:
        """Stop all work; what is unfinished goes on at the next start."""
        self._closing.set()
        self._poked.set()
        with self._lock:
            workers, threads = list(self._workers.values()), list(self._threads.values())
        for worker in workers:
            worker.interrupt()
        if self._loop.ident is not None:
            threads.insert(0, self._loop)
        ends = time.monotonic() + _STOP_SECONDS
        for thread in threads:
            thread.join(max(0.0, ends - time.monotonic()))
            if thread.is_alive():
                log.warning("a worker did not stop in time", worker=thread.name)

    def _look_after(self) -> None:
        while not self._closing.is_set():
            self._poked.wait(LOOK_SECONDS)
            self._poked.clear()
            try:
                self._assign()
            except JournalError as error:
                log.warning("the journal cannot be read", problem=str(error))
            if not self._closing.is_set() and self._ledger.journal.is_replaced():
                self._on_lost()
                return

    def _assign(self) -> None:
        for record in self._ledger.journal.to_do():
            with self._lock:
                if self._closing.is_set():
                    return
                worker = self._workers.get(record.id)
                if worker is not None:
                    if record.seen < record.revision:
                        worker.interrupt()
                    continue
                places = self._settings.running_campaigns - sum(w.may_run for w in self._workers.values())
                may_run = record.step is Step.RUN
                if record.step is Step.NOTHING or (may_run and places <= 0):
                    continue
                worker = Worker(
                    record.id, self._ledger, self._farm, self._settings, may_run=may_run, closing=self._closing
                )
                self._workers[record.id] = worker
                thread = threading.Thread(
                    target=self._work, args=(record.id, worker), name=f"campaign-{record.id}", daemon=True
                )
                self._threads[record.id] = thread
                thread.start()

    def _work(self, id: str, worker: Worker) -> None:
        try:
            worker.work()
        except Exception:  # it is looked at again; what it was about to do is in the journal
            log.exception("a worker ended", campaign=id)
            self._closing.wait(1.0)
        finally:
            with self._lock:
                del self._workers[id], self._threads[id]
            self.poke()
