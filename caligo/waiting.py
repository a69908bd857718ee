"""Calls that wait for the other side: for how long, and how many at once.

A thread of gRPC's waits until a message has come in, or gone out, for as long as that takes. So somebody else has to
look, or whoever begins calls and says nothing would hold every thread that there is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Hashable, Iterator
from typing import Self

import grpc

from caligo import logs

log = logs.get("waiting")


@dataclasses.dataclass(frozen=True)
class _Call:
    context: grpc.ServicerContext
    group: Hashable
    since: float


class WaitingRoom:
    """Cancels calls that wait for too long, and where there are too many the one that has waited longest.

    Whoever is honest sends a request at once, and reads what it has asked for: it has left before as many others have
    come. A context manager; leaving it ends the watch.
    """

    def __init__(self, seconds: float, places: int | None = None) -> None:
        """`places`: calls that may wait at once; None for any number."""
        self._seconds = seconds
        self._places = places
        # Without a lock: a stream that nobody wants any more leaves in the middle of a garbage collection.
        self._calls: dict[object, _Call] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="waiting", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @contextlib.contextmanager
    def waiting(self, context: grpc.ServicerContext, group: Hashable = None) -> Iterator[None]:
        """The block waits for the other side of a call."""
        ticket = object()
        self._calls[ticket] = _Call(context, group, time.monotonic())
        if self._places is not None and len(self._calls) > self._places:
            self.make_room(group)
        try:
            yield
        finally:
            self._leave(ticket)

    def make_room(self, group: Hashable) -> bool:
        """Cancel the call of a group that has waited longest; returns whether there was one."""
        for ticket, call in list(self._calls.items()):
            if call.group == group and self._leave(ticket):
                call.context.cancel()
                return True
        return False

    def _leave(self, ticket: object) -> bool:
        """Whether the call was there still."""
        return self._calls.pop(ticket, None) is not None

    def _watch(self) -> None:
        while not self._ended.wait(self._seconds / 4):
            too_long = time.monotonic() - self._seconds
            for ticket, call in list(self._calls.items()):
                if call.since < too_long and self._leave(ticket):
                    log.warning("cut off a client that does not read or send", peer=call.context.peer())
                    call.context.cancel()
