"""Who waits for news of a campaign, and how they hear of it: woken by what changes, never asking in vain.

What is kept, events above all, is in the journal and read from there by each watcher at its own pace; here are only
numbers that say that there is something to read, and the latest progress. So a watcher costs a thread that sleeps, a
slow one is never waited for, and nothing is queued for anyone.
"""

from __future__ import annotations

import contextlib
import enum
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from caligo.errors import Unreachable
from caligo.v1 import campaign_pb2
from caligo_orchestrator.campaigns.progress import ProgressBoard

PROGRESS_SECONDS: Final = 0.5


class Caller(Protocol):
    """Whoever asked for a stream; a `grpc.ServicerContext` is one."""

    def is_active(self) -> bool: ...

    def add_callback(self, callback: Callable[[], None]) -> bool: ...


class _Patient:
    """A caller within the process, who never leaves."""

    def is_active(self) -> bool:
        return True

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return True


PATIENT: Final = _Patient()


class News(enum.Flag):
    """What there is to look at."""

    NONE = 0
    LIVE = enum.auto()
    """Progress."""
    KEPT = enum.auto()
    """The journal: an event, or the campaign has ended or is gone."""


class _Topic:
    """News of one campaign."""

    def __init__(self, lock: threading.Lock) -> None:
        self.changed = threading.Condition(lock)
        self.followers = 0
        self.kept = self.live = 0
        self.progress = campaign_pb2.Progress()


class Watchers:
    """The watchers of all campaigns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._topics: dict[str, _Topic] = {}
        self._closed = threading.Event()

    def start(self, boards: Mapping[str, ProgressBoard]) -> None:
        """From now on tell of the progress of the campaigns that run, by id."""
        threading.Thread(target=self._tell_progress, args=(boards,), name="progress", daemon=True).start()

    def _tell_progress(self, boards: Mapping[str, ProgressBoard]) -> None:
        while not self._closed.wait(PROGRESS_SECONDS):
            for id in self.watched():
                if (board := boards.get(id)) is not None:
                    self._tell(id, board.snapshot())

    def tell(self, id: str) -> None:
        """The journal has something new about a campaign."""
        with self._lock:
            if topic := self._topics.get(id):
                topic.kept += 1
                topic.changed.notify_all()

    def _tell(self, id: str, progress: campaign_pb2.Progress) -> None:
        with self._lock:
            topic = self._topics.get(id)
            if topic and topic.progress != progress:
                topic.progress = progress
                topic.live += 1
                topic.changed.notify_all()

    def watched(self) -> list[str]:
        """The campaigns that somebody watches."""
        with self._lock:
            return list(self._topics)

    def close(self) -> None:
        """Every wait, present and to come, raises `Unreachable`."""
        with self._lock:
            self._closed.set()
            for topic in self._topics.values():
                topic.changed.notify_all()

    @contextlib.contextmanager
    def following(self, id: str, caller: Caller) -> Iterator[Follower]:
        """What happens from now on is not missed by the follower, until the block ends or the caller has gone."""
        with self._lock:
            topic = self._topics.setdefault(id, _Topic(self._lock))
            topic.followers += 1
        follower = Follower(self, topic, caller)
        try:
            yield follower
        finally:
            with self._lock:
                topic.followers -= 1
                if not topic.followers:
                    del self._topics[id]

    def check(self) -> None:
        if self._closed.is_set():
            raise Unreachable("the orchestrator is shutting down")


class Follower:
    """One watcher's place in the news of a campaign."""

    def __init__(self, watchers: Watchers, topic: _Topic, caller: Caller) -> None:
        self._watchers = watchers
        self._topic = topic
        self._caller = caller
        self._kept, self._live = topic.kept, topic.live
        caller.add_callback(self._wake)

    @property
    def progress(self) -> campaign_pb2.Progress:
        """The latest; empty before anything is known."""
        return self._topic.progress

    def is_wanted(self) -> bool:
        return self._caller.is_active()

    def wait(self, seconds: float) -> News:
        """What is new since the last wait, or since the beginning; waits for it, and no longer than the caller does.

        Raises:
            Unreachable: the orchestrator shuts down.
        """
        ends = time.monotonic() + seconds
        with self._topic.changed:
            while True:
                self._watchers.check()
                kept, live = self._topic.kept, self._topic.live
                news = (News.KEPT if kept != self._kept else News.NONE) | (
                    News.LIVE if live != self._live else News.NONE
                )
                left = ends - time.monotonic()
                if news or left <= 0 or not self._caller.is_active():
                    self._kept, self._live = kept, live
                    return news
                self._topic.changed.wait(left)

    def _wake(self) -> None:
        with self._topic.changed:
            self._topic.changed.notify_all()
