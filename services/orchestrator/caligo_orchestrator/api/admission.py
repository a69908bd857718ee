"""How much a client may do at once. Over a limit an error names it, its value and when to try again."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import grpc

from caligo.errors import ResourceExhausted
from caligo.waiting import WaitingRoom

Waiting = Callable[[grpc.ServicerContext], contextlib.AbstractContextManager[None]]

_CALL_SECONDS: Final = 1.0
_STREAM_SECONDS: Final = 10.0


class Admission:
    """Calls and streams under way, of each client and of all.

    A client who has as many as may be loses those first that wait for their request.
    """

    def __init__(
        self, room: WaitingRoom, *, max_calls: int, client_calls: int, max_streams: int, client_streams: int
    ) -> None:
        """`room`: where calls wait."""
        self._calls = _Gate("calls under way", _CALL_SECONDS, room, max_calls=max_calls, client_calls=client_calls)
        self._streams = _Gate(
            "open streams", _STREAM_SECONDS, room, max_streams=max_streams, client_streams=client_streams
        )

    def call(self, client: str) -> contextlib.AbstractContextManager[Waiting]:
        """One more call, for as long as the block lasts; what it is given is entered where the request is awaited.

        Raises:
            ResourceExhausted: names the limit.
        """
        return self._calls.entering(client)

    def stream(self, client: str) -> contextlib.AbstractContextManager[Waiting]:
        """The same for a stream."""
        return self._streams.entering(client)


class _Gate:
    def __init__(self, what: str, retry_seconds: float, room: WaitingRoom, **limits: int) -> None:
        """`limits`: of all clients together, then of one."""
        self._what = what
        self._retry_seconds = retry_seconds
        self._room = room
        self._total, self._client = limits.items()
        self._lock = threading.Lock()
        self._inside: Counter[str] = Counter()

    @contextlib.contextmanager
    def entering(self, client: str) -> Iterator[Waiting]:
        own = (self._what, client)
        with self._lock:
            for (limit, most), now, whose in (
                (self._client, self._inside[client], "of yours"),
                (self._total, self._inside.total(), "of all clients"),
            ):
                if now >= most and not self._room.make_room(own):
                    raise ResourceExhausted(
                        f"{limit}: {most:,} {self._what} {whose} at most; try again in {self._retry_seconds:g} s",
                        limit=limit,
                        value=most,
                        retry_after_seconds=self._retry_seconds,
                    )
            self._inside[client] += 1
        try:
            yield lambda context: self._room.waiting(context, own)
        finally:
            with self._lock:
                self._inside[client] -= 1
                if not self._inside[client]:
                    del self._inside[client]
