"""Worker processes that die, hang, or are given up."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from caligo_simulator.epr.source import TILE, Link, Segment, make_source, segment_bytes
from caligo_simulator.harness import ProtocolHarness, Setup
from caligo_simulator.simulation import Simulator
from caligo_simulator.workers import SegmentTask

from caligo.results import ProtocolOutcome, Reason
from caligo.space import ExplorationSample

LINK = Link(0.99, 0.9, 0.01, 1e-6, "fidelity")
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


def test_a_segment_is_what_its_source_makes(simulator: Simulator) -> None:
    task = SegmentTask("statistical", LINK, 42, TILE, 1000)
    reference = simulator.orchestrator.generate(task, time.monotonic() + 30).result(30)
    assert reference.length == segment_bytes(1000)
    expected = Segment.over(np.zeros(segment_bytes(1000), np.uint8), 1000)
    make_source("statistical").fill(expected, LINK, 42, TILE)
    for ours, theirs in zip(Segment.over(simulator.arena.read(reference), 1000), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    simulator.arena.free(reference)


def test_a_discarded_segment_frees_its_slot(simulator: Simulator) -> None:
    orchestrator = simulator.orchestrator
    tasks = [SegmentTask("statistical", LINK, 42, 0, 4 * TILE)] * 20
    futures = [orchestrator.generate(task, time.monotonic() + 30) for task in tasks]
    for future in futures:
        orchestrator.discard(future)
    wait_until(lambda: all(future.done() for future in futures))
    wait_until(lambda: simulator.arena.free_slots() == simulator.arena.slots)


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
