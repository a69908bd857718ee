"""The farm over gRPC: any number of simulators behind one name, found, balanced and health-checked by gRPC itself.

The channel spreads streams in turn over the simulators that are there and healthy (`round_robin`, health checks by
service config), and resolves the name again whenever a simulator ends a connection, which simulators do every few
seconds. A simulator takes one stream at a time and refuses others, so the farm opens streams until all have been
refused, tries again now and then, and so finds every simulator that comes. Over its stream a simulator is given rows as
it finishes others: work is split by speed, nobody is flooded, and nothing but a row a worker waits anywhere but here.

When nothing waits and a worker is idle, rows that have been elsewhere for long are copied to it. The first answer
counts, both being equal, and the loser is withdrawn; copies give way to rows that wait.

The rows of a simulator that went away are sent again. Those that have been lost twice are sent alone, for one of them
may be what simulators die of: see `suspects`. Where they die of every row, it is not the rows: the jobs end.

Simulators say which EPR sources they have, and are given no rows of others; rows whose source none has had for long end
their jobs.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import grpc
import numpy as np
from grpc_status import rpc_status
from numpy.typing import NDArray

from caligo import logs, rpc, wire
from caligo.errors import CaligoError, InternalError, Unreachable
from caligo.tls import Renewals, Tls
from caligo.v1 import simulator_pb2, simulator_pb2_grpc
from caligo_orchestrator.farm.base import ALWAYS_THERE, FarmStats, Job, lost_row
from caligo_orchestrator.farm.fair import FairQueue
from caligo_orchestrator.farm.lane import Lane, Row
from caligo_orchestrator.farm.suspects import QUIET_SECONDS, Suspects

log = logs.get("farm")

_SERVICE: Final = simulator_pb2.DESCRIPTOR.services_by_name["SimulatorService"].full_name
_SERVICE_CONFIG: Final = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": _SERVICE},
    "methodConfig": [
        {
            "name": [{"service": _SERVICE, "method": "GetCapacity"}],
            "waitForReady": True,
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ],
}
_OPTIONS: Final = (
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)

_OPEN_SECONDS: Final = 5.0
"""For a simulator to take a stream or refuse it."""
_LOOK_AROUND_SECONDS: Final = 2.0
"""For asking one simulator after the other for an EPR source."""
_ASK_SECONDS: Final = 0.01
"""From one to the next."""
_SEEK_SECONDS: Final = (0.1, 2.0)
"""From one look for further simulators to the next: at first, and at most."""
_MOST: Final = 1024
"""Simulators."""
_CLOSE_SECONDS: Final = 10.0
"""For everything to end when the farm is closed; what has not ends with the process."""
_IDLE_SECONDS: Final = 5.0
"""Streams without rows are closed after so long: others may use the simulators."""
_PATIENT_ABOUT: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})
_LOST: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
)
"""Statuses that gRPC itself gives to a stream whose connection is gone."""
_SUSPECT_AFTER: Final = 2
"""Simulators lost with a row in company, before it is sent alone."""
_HOPELESS: Final = 3
"""Rows or streams given up, with no result in between, after which the simulators are to blame."""
_SUSPECTS_SHARE: Final = 4
"""One in so many simulators, and one at least, may be kept for single suspects."""
_STRAGGLER: Final = 2.0
"""A row is copied that has been away for so many times what the idle simulator takes for one."""


class ReplicaFarm:
    """All simulators behind `address`: `host:port`, `dns:///name:port`, `ipv4:A:P,B:P`, `unix:PATH`.

    A thread of its own holds all state, in one event loop.

    Args:
        patience_seconds: how long there may be no simulator before the jobs end with Unreachable.
        quiet_seconds: shortest quiet between two tries of a row that simulators may die of.
    """

    def __init__(
        self,
        address: str,
        patience_seconds: float,
        tls: Tls | None = None,
        *,
        quiet_seconds: float = QUIET_SECONDS,
    ) -> None:
        self._address = address
        self._patience_seconds = patience_seconds
        self._tls = tls
        self._renewals = Renewals(tls) if tls is not None else None
        self._outdated: dict[grpc.aio.Channel, set[Lane]] = {}
        """Channels with certificates that have been renewed, and their lanes."""
        self._waiting: FairQueue[Row] = FairQueue()
        self._suspects: Suspects[Row] = Suspects(quiet_seconds)
        self._lanes: dict[Lane, asyncio.Task[None]] = {}
        self._copies: list[tuple[Row, Lane]] = []
        """Rows copied and the lanes of the copies, some of them over already."""
        self._condemned_running = 0
        """Rows given up since the last result."""
        self._unreadable_running = 0
        """Streams given up since the last result, as what came over them could not be read."""
        self._missing_since: dict[str, float] = {}
        """EPR sources that rows wait for and no simulator has."""
        self._counts = collections.Counter[str]()
        self._dispatching: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.new_event_loop()
        self._seek_now = asyncio.Event()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._live, name="farm", daemon=True)
        self._thread.start()

    # --- from any thread --------------------------------------------------------------------------------------------

    def submit(self, job: Job, index: NDArray[np.int64], inputs: NDArray[np.float32]) -> None:
        rows = [Row(job, i, row) for i, row in zip(index.tolist(), inputs, strict=True)]
        self._call(self._submit, job, rows)

    def cancel(self, job: Job) -> None:
        self._call(self._drop, job)

    def set_weight(self, campaign: str, weight: int) -> None:
        self._call(self._waiting.set_weight, campaign, weight)

    def room(self) -> int:
        return sum(lane.room for lane in list(self._lanes))

    def epr_sources(self, seconds: float, wanted: str = ALWAYS_THERE) -> Mapping[str, str]:
        return asyncio.run_coroutine_threadsafe(self._epr_sources(seconds, wanted), self._loop).result()

    def stats(self) -> FarmStats:
        lanes = list(self._lanes)
        in_flight = sum(len(lane.rows) for lane in lanes)
        copies = sum(_is_copy(row, lane) for row, lane in list(self._copies))
        return FarmStats(
            simulators=len(lanes),
            room=sum(lane.room for lane in lanes),
            waiting=len(self._waiting) + len(self._suspects),
            in_flight=in_flight - copies,
            copies=copies,
            lost=self._counts["lost"],
            refused=self._counts["refused"],
            poison=self._counts["poison"],
        )

    def close(self) -> None:
        self._call(self._closing.set)
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            log.warning("the farm did not close in time", address=self._address)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # closed
            self._loop.call_soon_threadsafe(function, *arguments)

    # --- the thread -------------------------------------------------------------------------------------------------

    def _live(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._work())

    async def _work(self) -> None:
        self._connect()
        seeking = asyncio.create_task(self._seek())
        await self._closing.wait()
        seeking.cancel()
        self._seek_now.set()  # gRPC can swallow a cancellation where a call ends at the same moment
        for lane in self._lanes:
            lane.close()
        await asyncio.gather(seeking, *self._lanes.values(), return_exceptions=True)
        for channel in (self._channel, *self._outdated):
            await channel.close(None)

    def _connect(self) -> None:
        self._channel = rpc.aio_channel(self._address, self._tls, options=_OPTIONS, service_config=_SERVICE_CONFIG)
        self._stub = simulator_pb2_grpc.SimulatorServiceStub(self._channel)

    async def _renew(self) -> None:
        """Where our certificate was renewed, go over to a channel that shows it; streams end when their rows have."""
        if self._renewals is not None and self._renewals.take():
            self._outdated[self._channel] = set(self._lanes).difference(*self._outdated.values())
            self._connect()
            for lane in self._lanes:
                lane.end()
        for channel, lanes in list(self._outdated.items()):
            if lanes.isdisjoint(self._lanes):
                del self._outdated[channel]
                await channel.close(None)

    def _fault(self, error: Exception, what: str) -> None:
        """Something in here is broken: nobody shall wait for it."""
        log.error("internal fault", address=self._address, what=what, exc_info=error)
        everything = [*self._waiting, *self._suspects, *(row for lane in self._lanes for row in lane.rows.values())]
        for job in {row.job for row in everything}:
            self._fail(job, InternalError(f"the farm has a fault ({what}); the log says more"))

    def _submit(self, job: Job, rows: list[Row]) -> None:
        self._waiting.push(job.setup.campaign, rows)
        if all(lane.ending for lane in self._lanes):
            self._seek_now.set()
        self._wake()

    def _drop(self, job: Job) -> None:
        self._waiting.remove(job.setup.campaign, lambda row: row.job is job)
        self._suspects.remove(lambda row: row.job is job)
        for lane in self._lanes:
            for row in [row for row in lane.rows.values() if row.job is job]:
                lane.withdraw(row)
        self._wake()

    async def _epr_sources(self, seconds: float, wanted: str) -> Mapping[str, str]:
        deadline = time.monotonic() + seconds
        until = min(deadline, time.monotonic() + _LOOK_AROUND_SECONDS)
        found: dict[str, str] = {}
        while wanted not in found:  # gRPC asks the next simulator each time
            try:
                left = deadline - time.monotonic()
                capacity = await self._stub.GetCapacity(simulator_pb2.GetCapacityRequest(), timeout=left)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise Unreachable(f"{self._address}: no simulator answers") from None
                raise rpc.from_rpc_error(error, self._address) from None
            for source, version in itertools.zip_longest(
                capacity.epr_sources, capacity.epr_source_versions, fillvalue=""
            ):
                found.setdefault(source, version)
            if time.monotonic() > until:
                break
            await asyncio.sleep(_ASK_SECONDS)
        return found

    # --- simulators come and go -------------------------------------------------------------------------------------

    async def _seek(self) -> None:
        """Keep a stream open to every simulator as long as there is work."""
        none_since, pause = time.monotonic(), _SEEK_SECONDS[0]
        while not self._closing.is_set():
            self._seek_now.clear()
            worked, opened = self._has_work(), self._counts["opened"]
            try:
                await self._renew()
                reason = await self._open_lanes()
            except Exception as error:
                self._fault(error, "looking for simulators")
                continue
            if self._lanes or not worked:
                none_since = time.monotonic()
            elif not isinstance(reason, Unreachable) or time.monotonic() - none_since > self._patience_seconds:
                self._fail_all(reason)
                none_since = time.monotonic()
                continue
            self._give_up_missing()
            if worked:  # where one has come, others may be about to
                pause = _SEEK_SECONDS[0] if self._counts["opened"] > opened else min(2 * pause, _SEEK_SECONDS[1])
                await self._pause(pause)
            elif self._lanes:
                await self._pause(_IDLE_SECONDS)
                self._end_idle_lanes()
            else:
                await self._pause(None)
                pause = _SEEK_SECONDS[0]

    def _give_up_missing(self) -> None:
        """End the jobs whose EPR source no simulator has had for as long as there may be none."""
        now, there = time.monotonic(), {source for lane in self._lanes for source in lane.sources}
        wanted = self._sources_wanted().union(row.job.source for row in self._suspects)
        missing = wanted - there if there else set()
        self._missing_since = {source: self._missing_since.get(source, now) for source in missing}
        late = {source for source, since in self._missing_since.items() if now - since > self._patience_seconds}
        for job in {row.job for row in (*self._waiting, *self._suspects) if row.job.source in late}:
            what = f"no simulator has the EPR source {job.source}; they have {', '.join(_shortest(there))}"
            self._fail(job, Unreachable(f"{self._address}: {what}"))

    async def _pause(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._seek_now.wait()

    def _end_idle_lanes(self) -> None:
        if not self._has_work():
            for lane in self._lanes:
                lane.end()

    async def _open_lanes(self) -> CaligoError:
        """Open streams until every simulator has refused one; returns why the last was not taken."""
        refused = 0
        reason: CaligoError = Unreachable(f"{self._address}: no simulator answers")
        while refused <= len(self._lanes) < _MOST and self._has_work():
            lane = Lane(self._stub)
            try:
                async with asyncio.timeout(_OPEN_SECONDS):
                    await lane.open()
            except TimeoutError:
                lane.close()
                return reason
            except CaligoError as error:
                lane.close()
                return error
            except grpc.aio.AioRpcError as error:
                lane.close()
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    return reason if error.code() in _PATIENT_ABOUT else rpc.from_rpc_error(error, self._address)
                reason = Unreachable(f"{self._address}: no simulator has room")
                self._counts["refused"] += 1
                refused += 1
            else:
                refused = 0
                self._counts["opened"] += 1
                self._suspects.disturbed(time.monotonic())
                self._lanes[lane] = asyncio.create_task(self._follow(lane))
                self._wake()
        return reason

    async def _follow(self, lane: Lane) -> None:
        """Take results from a lane to its end."""
        error: grpc.aio.AioRpcError | None = None
        unreadable: Exception | None = None
        try:
            async for response in lane.results():
                self._receive(lane, response)
        except grpc.aio.AioRpcError as raised:
            error = raised
        except Exception as raised:  # a simulator of another release, say: its fault, and nobody else's
            log.error("a simulator's answer cannot be read", address=self._address, exc_info=raised)
            unreadable = raised
        try:
            self._end(lane, error)
            if unreadable is not None:
                self._give_up_on(unreadable)
        except Exception as raised:
            self._fault(raised, "the end of a stream")

    def _receive(self, lane: Lane, response: simulator_pb2.SimulateResponse) -> None:
        rows = wire.decode_rows(response.results)
        finished = [lane.finish(response.job, index) for index in rows["index"].tolist()]
        for row in finished:
            if row is not None:
                self._condemned_running = self._unreadable_running = 0
                for other in list(row.lanes):
                    other.withdraw(row)
                self._suspects.acquit(row)
        wanted = [row is not None for row in finished]
        if job := next((row.job for row in finished if row is not None), None):
            job.on_rows(rows[wanted])
        self._wake()

    def _end(self, lane: Lane, error: grpc.aio.AioRpcError | None) -> None:
        """A stream is over: send the rows that it still had elsewhere."""
        del self._lanes[lane]
        lane.close()
        now = time.monotonic()
        seconds = now - max((row.lanes[lane] for row in lane.rows.values()), default=now)
        rows = list(lane.rows.values())
        for row in rows:
            del row.lanes[lane]
        rows = [row for row in rows if not row.lanes]
        if error is None or _gave_back(error):
            self._again(rows, suspect=lambda row: row is lane.alone)
        elif error.code() in _LOST and not _is_spoken(error):
            self._lost(lane, rows, now, seconds)
        elif len({row.job for row in rows}) == 1:
            self._fail(rows[0].job, rpc.from_rpc_error(error, self._address))
        else:  # whose fault it is will be seen when each row goes alone
            self._again(rows, suspect=lambda row: True)
        self._loop.call_later(_SEEK_SECONDS[0], self._seek_now.set)
        self._wake()

    def _lost(self, lane: Lane, rows: list[Row], now: float, seconds: float) -> None:
        self._counts["lost"] += 1
        log.warning(
            "a simulator was lost; its rows are sent again",
            address=self._address,
            rows=[f"{row.job.setup.campaign}/{row.index}" for row in rows],
        )
        for row in rows:
            row.losses += 1
        accused = lane.alone if lane.alone in rows else None
        if self._suspects.simulator_lost(now, accused, seconds) and accused is not None:
            self._condemn(accused)
        self._again([row for row in rows if row is not accused], suspect=lambda row: row.losses >= _SUSPECT_AFTER)

    def _condemn(self, row: Row) -> None:
        self._counts["poison"] += 1
        self._condemned_running += 1
        log.error("row given up: simulators die of it", row=row.index, **row.job.context)
        row.job.on_rows(lost_row(row.index, row.inputs))
        if self._condemned_running == _HOPELESS:
            self._condemned_running = 0
            self._fail_all(Unreachable(f"{self._address}: simulators die of whatever row they are given"))

    def _give_up_on(self, unreadable: Exception) -> None:
        """A simulator answers what cannot be read; where none answers anything else, nobody shall wait."""
        self._unreadable_running += 1
        if self._unreadable_running == _HOPELESS:
            self._unreadable_running = 0
            what = f"what the simulators answer cannot be read ({unreadable}); are they of this release?"
            self._fail_all(Unreachable(f"{self._address}: {what}"))

    def _again(self, rows: list[Row], suspect: Callable[[Row], bool]) -> None:
        for row in rows:
            if suspect(row):
                self._suspects.add(row)
            else:
                self._waiting.push_back(row.job.setup.campaign, [row])

    def _fail(self, job: Job, error: CaligoError) -> None:
        self._drop(job)
        job.on_error(error)

    def _fail_all(self, error: CaligoError) -> None:
        for job in {row.job for row in (*self._waiting, *self._suspects)}:
            self._fail(job, error)

    # --- rows go out ------------------------------------------------------------------------------------------------

    def _has_work(self) -> bool:
        return bool(self._waiting or self._suspects or any(lane.rows for lane in self._lanes))

    def _wake(self) -> None:
        """Dispatch once whatever happens at the same time has happened."""
        if self._dispatching is None:
            self._dispatching = self._loop.call_soon(self._dispatch_all)

    def _dispatch_all(self) -> None:
        self._dispatching = None
        try:
            self._dispatch()
        except Exception as raised:
            self._fault(raised, "sending rows")

    def _dispatch(self) -> None:
        now = time.monotonic()
        kept_free = self._send_suspects(now)
        common = [lane for lane in self._lanes if lane.wants_rows() and lane not in kept_free]
        while able := [lane for lane in common if not self._sources_wanted().isdisjoint(lane.sources)]:
            lane = self._send_next(able)
            if not lane.has_room():
                common.remove(lane)
        while recalled := self._recall_copy():
            self._send_next([recalled])
        self._copy_stragglers(now, [lane for lane in common if lane.idle_workers() > 0])
        for lane in self._lanes:
            lane.flush()

    def _sources_wanted(self) -> set[str]:
        """EPR sources that rows wait for."""
        return {row.job.source for row in self._waiting.heads()}

    def _send_next(self, lanes: list[Lane]) -> Lane:
        """Give the next row that one of these can simulate to the one that would be done with it first."""
        row = self._waiting.pop(lambda row: any(lane.can_simulate(row) for lane in lanes))
        lane = min((lane for lane in lanes if lane.can_simulate(row)), key=Lane.expected_seconds)
        lane.add(row)
        return lane

    def _send_suspects(self, now: float) -> set[Lane]:
        """Give suspects a simulator each; returns those that are to become free for the next."""
        due = self._suspects.due(now)
        if not due:
            if self._suspects:
                self._wake_at(self._suspects.due_at())
            return set()
        common = sorted((lane for lane in self._lanes if lane.is_common()), key=lambda lane: len(lane.rows))
        share = max(1, len(self._lanes) // _SUSPECTS_SHARE) - (len(self._lanes) - len(common))
        able = [lane for lane in common if any(map(lane.can_simulate, due))]
        chosen = able[: max(0, min(share, len(due)))]
        for row in due:
            lane = next((lane for lane in chosen if not lane.rows and lane.can_simulate(row)), None)
            if lane is not None:
                self._suspects.sent(row)
                lane.alone = row
                lane.add(row)
        return set(chosen)

    def _copy_stragglers(self, now: float, idle: list[Lane]) -> None:
        """Have idle workers try rows that have been away for long, first the last sent: it has most to wait for."""
        known = [lane.row_seconds for lane in self._lanes if lane.row_seconds is not None]
        if not idle or not known:
            return
        self._copies = [(row, lane) for row, lane in self._copies if _is_copy(row, lane)]
        away = [row for lane in self._lanes if lane.alone is None for row in lane.rows.values() if len(row.lanes) == 1]
        away.sort(key=_sent_at, reverse=True)
        for lane in sorted(idle, key=lambda lane: lane.row_seconds or max(known)):
            late = now - _STRAGGLER * (lane.row_seconds or max(known))
            for row in away:
                if lane.idle_workers() <= 0:
                    break
                if len(row.lanes) == 1 and lane not in row.lanes and lane.can_simulate(row):
                    if _sent_at(row) <= late:
                        lane.add(row)
                        self._copies.append((row, lane))
                    else:
                        self._wake_at(now + _sent_at(row) - late)

    def _recall_copy(self) -> Lane | None:
        """A lane for rows that wait, which has room again because a copy gives way."""
        wanted = self._sources_wanted()
        self._copies = [(row, lane) for row, lane in self._copies if _is_copy(row, lane)]
        for row, lane in reversed(self._copies):
            if not lane.sources.isdisjoint(wanted):
                lane.withdraw(row)
                return lane
        return None

    def _wake_at(self, when: float) -> None:
        """Dispatch again at a time of `time.monotonic`, or before."""
        if self._timer is None or self._timer.cancelled() or when < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._wake()


def _shortest(sources: set[str]) -> list[str]:
    """Without the names that stand there with their versions too."""
    with_version = {source.partition("==")[0] for source in sources if "==" in source}
    return sorted(sources - with_version)


def _sent_at(row: Row) -> float:
    return min(row.lanes.values())


def _is_copy(row: Row, lane: Lane) -> bool:
    return len(row.lanes) == 2 and lane in row.lanes


def _gave_back(error: grpc.aio.AioRpcError) -> bool:
    """Whether a simulator ended a stream in order, its rows to be sent elsewhere."""
    return error.code() in _PATIENT_ABOUT and _is_spoken(error)


def _is_spoken(error: grpc.aio.AioRpcError) -> bool:
    """Whether a simulator said this itself; gRPC, which speaks for those that are gone, gives no details."""
    return rpc_status.from_call(cast(grpc.Call, error)) is not None
