"""Worker processes that die, hang, or are given up; slots that come back whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from caligo_simulator.arena import Arena, ByteArray, SlotReference
from caligo_simulator.epr.registry import make_source
from caligo_simulator.epr.source import NO_CLICK, TILE, BobBases, Link, Segment, segment_bytes
from caligo_simulator.harness import ProtocolHarness, SampleCancelledError, Setup
from caligo_simulator.protocol.sifting import Sifter
from caligo_simulator.simulation import DesignRow, Simulator
from caligo_simulator.workers import SegmentRequest, SegmentTask, SourceError

from caligo.errors import InternalError
from caligo.results import METRIC_NAMES, ProtocolOutcome, Reason, ResultRows
from caligo.space import ExplorationSample

LINK = Link(0.99, 0.9, 0.01, 1e-6, "fidelity")
COINS = BobBases(None, 0)
LARGE = 2**24


@pytest.fixture
def lonely(namespace: str) -> Iterator[Simulator]:
    """One worker, and segments that take it a while."""
    with Simulator(workers=1, segment_pairs=LARGE, namespace=namespace) as simulator:
        yield simulator
        assert simulator.arena.free_slots() == simulator.arena.slots


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def collect(request: SegmentRequest) -> SlotReference:
    deadline = time.monotonic() + 30
    while (reference := request.result()) is None:
        assert time.monotonic() < deadline
    return reference


def all_free(simulator: Simulator) -> bool:
    return simulator.arena.free_slots() == simulator.arena.slots


@pytest.mark.parametrize("key", [42, 2**64 - 1])
@pytest.mark.parametrize("link", [LINK, Link(0.97, 1e-3, 0.02, 1e-5, "weight")])
@pytest.mark.parametrize("bob", [COINS, BobBases(0, 0), BobBases(1, 6554)])
def test_a_segment_is_what_its_source_makes(simulator: Simulator, link: Link, bob: BobBases, key: int) -> None:
    task = SegmentTask("statistical", link, bob, key, TILE, 1000)
    reference = collect(simulator.orchestrator.generate(task))
    assert reference.length == segment_bytes(1000)
    expected = Segment.over(np.zeros(segment_bytes(1000), np.uint8), 1000)
    make_source("statistical").fill(expected, link, bob, key, TILE)
    made = Segment.over(simulator.arena.read(reference), 1000)
    np.testing.assert_array_equal(made.bob_click, expected.bob_click)
    clicked = expected.bob_click != NO_CLICK  # what a round without a click holds elsewhere has no meaning
    for ours, theirs in zip(made, expected, strict=True):
        np.testing.assert_array_equal(ours[clicked], theirs[clicked])
    simulator.arena.free(reference)


def test_more_segments_than_slots_wait_their_turn(simulator: Simulator) -> None:
    tasks = [SegmentTask("statistical", LINK, COINS, 42, j * TILE, 100 + j) for j in range(20)]
    requests = [simulator.orchestrator.generate(task) for task in tasks]
    for task, request in zip(tasks, requests, strict=True):
        reference = collect(request)
        assert request.result() == reference
        assert reference.length == segment_bytes(task.pairs)
        simulator.arena.free(reference)
        request.discard()  # of no effect on what has been freed
    assert all_free(simulator)


def test_a_discarded_segment_frees_its_slot(simulator: Simulator) -> None:
    tasks = [SegmentTask("statistical", LINK, COINS, 42, 0, 4 * TILE)] * 20
    requests = [simulator.orchestrator.generate(task) for task in tasks]
    made = requests[0]
    collect(made)
    for request in requests:
        request.discard()
    wait_until(lambda: all_free(simulator))
    simulator.arena.free(collect(simulator.orchestrator.generate(tasks[0])))


def test_what_a_source_raises_frees_its_slot_and_spares_its_worker(simulator: Simulator) -> None:
    processes = simulator.orchestrator.process_ids()
    request = simulator.orchestrator.generate(SegmentTask("no-such-source", LINK, COINS, 42, 0, 100))
    with pytest.raises(SourceError, match=r"InvalidArgument: protocol\.epr_source"):
        collect(request)
    assert all_free(simulator)
    assert simulator.orchestrator.process_ids() == processes


def test_a_closed_pool_refuses(namespace: str) -> None:
    with Simulator(workers=1, segment_pairs=TILE, namespace=namespace) as simulator:
        task = SegmentTask("statistical", LINK, COINS, 42, 0, 100)
        request, waiting = (simulator.orchestrator.generate(task) for _ in range(2))
        collect(request)
        simulator.orchestrator.close()
        for attempt in (waiting.result, lambda: simulator.orchestrator.generate(task)):
            with pytest.raises(InternalError, match="told to end"):
                attempt()
        request.discard()
        assert all_free(simulator)


@pytest.mark.parametrize("way", ["done", "failed", "out of time", "an exception", "cancelled"])
def test_every_end_of_a_sample_frees_its_slots_at_once(
    way: str,
    simulator: Simulator,
    make_setup: Callable[..., Setup],
    secure: Callable[..., ExplorationSample],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight segments each, so that one is being read and the next one written when something happens."""
    harness = ProtocolHarness(simulator.orchestrator)
    sample, setup, cancelled = secure(N=32 * TILE), make_setup(), threading.Event()
    expected = ProtocolOutcome.SUCCESS
    if way == "failed":
        sample, expected = secure(N=32 * TILE, F=0.6), ProtocolOutcome.FAILURE_QBER
    elif way == "out of time":
        setup, expected = make_setup(protocol={"time_limit_seconds": 1e-6}), ProtocolOutcome.FAILURE_TIMEOUT
    elif way != "done":
        expected = ProtocolOutcome.FAILURE_ERROR
        add = Sifter.add
        segments = 0

        def interrupt(sifter: Sifter, segment: Segment) -> None:
            nonlocal segments
            segments += 1
            if segments == 3:
                assert simulator.arena.free_slots() < simulator.arena.slots
                if way == "an exception":
                    raise RuntimeError("on purpose")
                cancelled.set()
            add(sifter, segment)

        monkeypatch.setattr(Sifter, "add", interrupt)
    if way == "cancelled":
        with pytest.raises(SampleCancelledError):
            harness.run(sample, setup, cancelled=cancelled)
        assert segments == 3
    else:
        assert harness.run(sample, setup, cancelled=cancelled).outcome is expected
    # Only a segment that a worker is in the middle of may take until its end.
    wait_until(lambda: all_free(simulator))


def test_a_segment_that_has_changed_fails_its_sample(
    simulator: Simulator,
    setup: Setup,
    secure: Callable[..., ExplorationSample],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The simulator of the tests verifies its segments; one bit is enough."""
    read = Arena.read

    def disturb(arena: Arena, reference: SlotReference) -> ByteArray:
        arena._bytes[reference.offset + 17] ^= 1
        return read(arena, reference)

    harness = ProtocolHarness(simulator.orchestrator)
    with monkeypatch.context() as patched:
        patched.setattr(Arena, "read", disturb)
        result = harness.run(secure(), setup)
    assert (result.outcome, result.reason) == (ProtocolOutcome.FAILURE_ERROR, Reason.EXCEPTION)
    assert all_free(simulator)
    assert harness.run(secure(), setup).outcome is ProtocolOutcome.SUCCESS


def test_a_killed_worker_costs_one_retry_and_the_row_is_the_same(
    lonely: Simulator, setup: Setup, secure: Callable[..., ExplorationSample]
) -> None:
    sample = secure(N=2 * LARGE)
    harness = ProtocolHarness(lonely.orchestrator)
    expected = harness.run(sample, setup)
    (victim,) = lonely.orchestrator.process_ids()
    results = []
    thread = threading.Thread(target=lambda: results.append(harness.run(sample, setup)))
    thread.start()
    wait_until(lambda: lonely.arena.free_slots() < lonely.arena.slots)
    os.kill(victim, signal.SIGKILL)
    thread.join()
    (result,) = results
    assert lonely.orchestrator.process_ids() != [victim]
    result.wall_seconds = expected.wall_seconds
    assert result == expected


def test_rows_are_the_same_whoever_is_killed_meanwhile(
    simulator: Simulator, setup: Setup, secure: Callable[..., ExplorationSample], as_row: Callable[..., DesignRow]
) -> None:
    """Workers killed in turn, at such a pace that no row loses its worker three times, however slow the machine."""
    rows = [as_row(secure(index=j, N=400 * TILE)) for j in range(8)]

    def table() -> ResultRows:
        results = np.sort(np.concatenate(list(simulator.simulate(setup, rows))), order="index")
        results["metrics"][:, METRIC_NAMES.index("wall_seconds")] = 0
        return results

    started = time.monotonic()
    expected = table()
    pace = max(0.1, 2 * (time.monotonic() - started) / len(rows))  # a row's time, there being two workers
    stop = threading.Event()
    killed: list[int] = []

    def kill() -> None:
        while not stop.wait(pace):
            killed.append(simulator.orchestrator.process_ids()[len(killed) % 2])
            with contextlib.suppress(ProcessLookupError):  # dead, and nobody has needed it since
                os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    disturbed = table()
    stop.set()
    killer.join()
    assert len(set(killed)) > 1
    assert disturbed.tobytes() == expected.tobytes()
    assert (expected["outcome"] == ProtocolOutcome.SUCCESS).all()


def test_a_segment_that_kills_every_worker_is_given_up(
    lonely: Simulator, setup: Setup, secure: Callable[..., ExplorationSample]
) -> None:
    harness = ProtocolHarness(lonely.orchestrator)
    stop = threading.Event()
    killed: list[int] = []

    def kill_all() -> None:
        while not stop.is_set():
            (process,) = lonely.orchestrator.process_ids()
            if process not in killed and lonely.arena.free_slots() < lonely.arena.slots:
                os.kill(process, signal.SIGKILL)
                killed.append(process)
            time.sleep(0.001)

    killer = threading.Thread(target=kill_all)
    killer.start()
    result = harness.run(secure(N=LARGE), setup)
    stop.set()
    killer.join()
    assert (result.outcome, result.reason) == (ProtocolOutcome.FAILURE_ERROR, Reason.WORKER_LOST)
    assert len(killed) == 3
    assert harness.run(secure(), setup).outcome is ProtocolOutcome.SUCCESS


def test_a_worker_that_hangs_is_replaced(
    lonely: Simulator, make_setup: Callable[..., Setup], secure: Callable[..., ExplorationSample]
) -> None:
    harness = ProtocolHarness(lonely.orchestrator)
    (hanging,) = lonely.orchestrator.process_ids()
    os.kill(hanging, signal.SIGSTOP)
    result = harness.run(secure(), make_setup(protocol={"time_limit_seconds": 0.2}))
    assert (result.outcome, result.reason) == (ProtocolOutcome.FAILURE_TIMEOUT, Reason.TIME_LIMIT)
    # Waits for the new worker.
    assert harness.run(secure(), make_setup()).outcome is ProtocolOutcome.SUCCESS
    assert lonely.orchestrator.process_ids() != [hanging]


def test_cancelling_does_not_wait_for_a_worker_that_hangs(
    lonely: Simulator, setup: Setup, secure: Callable[..., ExplorationSample]
) -> None:
    """The sample may take ten minutes; its slot comes back as soon as a moment of grace is over."""
    (hanging,) = lonely.orchestrator.process_ids()
    os.kill(hanging, signal.SIGSTOP)
    cancelled = threading.Event()
    threading.Timer(0.2, cancelled.set).start()
    with pytest.raises(SampleCancelledError):
        ProtocolHarness(lonely.orchestrator).run(secure(), setup, cancelled=cancelled)
    wait_until(lambda: all_free(lonely))
    wait_until(lambda: not Path(f"/proc/{hanging}").exists())


def test_a_worker_killed_while_idle_costs_nothing(
    lonely: Simulator, setup: Setup, secure: Callable[..., ExplorationSample]
) -> None:
    (victim,) = lonely.orchestrator.process_ids()
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{victim}").exists())
    assert ProtocolHarness(lonely.orchestrator).run(secure(), setup).outcome is ProtocolOutcome.SUCCESS


def test_the_fork_server_may_die_too(lonely: Simulator, setup: Setup, secure: Callable[..., ExplorationSample]) -> None:
    """Its workers go on; one of them that dies then is replaced through a new fork server."""
    harness = ProtocolHarness(lonely.orchestrator)
    (worker,) = lonely.orchestrator.process_ids()
    os.kill(parent_of(worker), signal.SIGKILL)
    assert harness.run(secure(), setup).outcome is ProtocolOutcome.SUCCESS
    assert lonely.orchestrator.process_ids() == [worker]
    os.kill(worker, signal.SIGKILL)
    assert harness.run(secure(), setup).outcome is ProtocolOutcome.SUCCESS
    assert lonely.orchestrator.process_ids() != [worker]


def parent_of(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("PPid:")[1].split()[0])


def test_workers_never_load_grpc() -> None:
    """Its threads do not survive a fork, and a fork that hits one of its locks hangs."""
    imports = "import sys, caligo_simulator.workers, caligo_simulator.epr.statistical"
    subprocess.run([sys.executable, "-c", f"{imports}; assert 'grpc' not in sys.modules"], check=True)
