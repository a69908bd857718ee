"""How much a client may have and do at once. Over a limit an error names it, its value and when to try again."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import grpc

from caligo.errors import ResourceExhausted
from caligo.spec import CampaignSpec
from caligo.waiting import WaitingRoom

Waiting = Callable[[grpc.ServicerContext], contextlib.AbstractContextManager[None]]

_CALL_SECONDS: Final = 1.0
_STREAM_SECONDS: Final = 10.0
_CAMPAIGN_SECONDS: Final = 60.0


@dataclasses.dataclass(frozen=True)
class Holding:
    """A campaign of a client: the rows that it asks for, and whether it has not ended."""

    rows: int
    is_active: bool

    @classmethod
    def of(cls, spec: CampaignSpec, *, is_active: bool) -> Holding:
        phases = [phase.samples for phase in (spec.lhs, spec.active) if not phase.skip]
        return cls(sum(phases), is_active)


@dataclasses.dataclass(frozen=True)
class Quotas:
    """What one client may have; field by field the orchestrator's settings `client_*`."""

    client_active_campaigns: int
    client_campaigns: int
    client_active_rows: int
    client_rows: int

    def check(self, present: Iterable[Holding], wanted: Holding) -> None:
        """Whether a campaign may be added to those that a client has.

        Raises:
            ResourceExhausted: names the limit.
        """
        after = [*present, wanted]
        active = [holding for holding in after if holding.is_active]
        for limit, amount, what in (
            ("client_active_campaigns", len(active), "campaigns that have not ended"),
            ("client_active_rows", sum(holding.rows for holding in active), "rows in campaigns that have not ended"),
        ):
            self._compare(limit, amount, what, "wait until one has ended, or cancel one", _CAMPAIGN_SECONDS)
        for limit, amount, what in (
            ("client_campaigns", len(after), "campaigns"),
            ("client_rows", sum(holding.rows for holding in after), "rows in campaigns"),
        ):
            self._compare(limit, amount, what, "delete one that has ended", None)

    def _compare(self, limit: str, amount: int, what: str, remedy: str, retry: float | None) -> None:
        most = getattr(self, limit)
        if amount > most:
            raise ResourceExhausted(
                f"{limit}: a client may have {most:,} {what}, this would make {amount:,}; {remedy}",
                limit=limit,
                value=most,
                retry_after_seconds=retry,
            )


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
