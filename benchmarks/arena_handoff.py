"""Handing a 4 MiB sample from a worker process to the harness: through the arena, and by pickling it.

Every way has one worker process, and a hand-off lasts from asking for a sample until the harness holds it and the
next can be asked for:

* arena: the simulator's own pool; the answer is a slot's reference, read as a view and freed;
* executor: `concurrent.futures.ProcessPoolExecutor` whose task returns the array;
* queue: `multiprocessing.Queue` on which the worker puts the array.

In the first row, the hand-off alone, the sample is there beforehand, in the slot or in the worker's own memory, and
the worker only marks both ends of it, which the harness checks. Each way has a stretch of exchanges to itself, in turn
with the others. In the second row every exchange follows one of each other way, so that caches and cores have
forgotten it. That the receiver of a pickle also gets a fresh copy into its cache is worth something to it, so in the
third row the harness also reads every byte. In the fourth the worker makes the sample (2^20 pairs at efficiency 0.9)
on each request, as in a campaign.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import secrets
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from socket import socket
from typing import Any
from unittest import mock

import numpy as np
from caligo_simulator import workers
from caligo_simulator.arena import Arena, ByteArray, SlotReference
from caligo_simulator.epr.source import BobBases, EPRSource, Link, Segment, segment_bytes
from caligo_simulator.epr.statistical import StatisticalSource
from caligo_simulator.workers import BatchedEPROrchestrator, SegmentTask

PAIRS = 2**20
BYTES = segment_bytes(PAIRS)
STRETCHES = 8
COLD, READ, MADE = "hand-off, cold", "hand-off, every byte read", "made and handed off"
EXCHANGES = {"hand-off": 25, COLD: 1, READ: 25, MADE: 5}
"""Of each way in one of its stretches; the cold ones get as many stretches as the others exchanges."""
AIM_RATIO = 50
LINK = Link(0.97, 0.9, 0.01, 1e-6, "fidelity")
BOB = BobBases(0, BobBases.slots_of(0.1))

Exchange = Callable[[int], ByteArray]
"""From a mark, the key of the sample asked for, to the sample, valid until the next call."""


class PreparedSource:
    """Takes what lies in the segment for the sample, and marks both ends with the key."""

    def fill(self, segment: Segment, link: Link, bob: BobBases, key: int, start: int) -> None:
        segment.alice_bit[0] = segment.bob_click[-1] = key & 63


def source(prepared: bool) -> EPRSource:
    return PreparedSource() if prepared else StatisticalSource()


def prepared_worker(connection: socket, arena_name: str, slots: int, slot_bytes: int, checksums: bool) -> None:
    """A worker of the pool, with samples that are there beforehand."""
    arena = Arena.attach(arena_name, slots, slot_bytes)
    for slot in range(slots):
        arena._bytes[-(slot + 1) * slot_bytes :][:slot_bytes] = 1
    with mock.patch.object(workers, "_source", functools.cache(lambda _: PreparedSource())):
        workers._work(connection, arena_name, slots, slot_bytes, checksums)


_buffer: ByteArray
_source: EPRSource


def prepare(prepared: bool) -> None:
    """Give a peer's process its memory and its source."""
    global _buffer, _source
    _buffer, _source = np.ones(BYTES, np.uint8), source(prepared)
    make(0)


def make(key: int) -> ByteArray:
    _source.fill(Segment.over(_buffer, PAIRS), LINK, BOB, key, 0)
    return _buffer


def serve_queue(prepared: bool, requests: Connection, answers: multiprocessing.Queue[ByteArray]) -> None:
    prepare(prepared)
    while (key := requests.recv()) is not None:
        answers.put(make(key))


@contextmanager
def arena(prepared: bool) -> Iterator[Exchange]:
    real = workers._work
    with (
        mock.patch.object(workers, "_work", prepared_worker if prepared else real),
        Arena.create(2, BYTES, f"handoff-{secrets.token_hex(4)}") as block,
        BatchedEPROrchestrator(block, 1) as pool,
    ):
        held: list[SlotReference] = []

        def exchange(key: int) -> ByteArray:
            if held:
                block.free(held.pop())
            request = pool.generate(SegmentTask("statistical", LINK, BOB, key, 0, PAIRS))
            while (reference := request.result()) is None:
                pass
            held.append(reference)
            return block.read(reference)

        yield exchange


@contextmanager
def executor(prepared: bool) -> Iterator[Exchange]:
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(1, mp_context=context, initializer=prepare, initargs=(prepared,)) as pool:
        yield lambda key: pool.submit(make, key).result()


@contextmanager
def queue(prepared: bool) -> Iterator[Exchange]:
    context = multiprocessing.get_context("forkserver")
    requests, theirs = context.Pipe()
    answers = context.Queue()
    process = context.Process(target=serve_queue, args=(prepared, theirs, answers), daemon=True)
    process.start()

    def exchange(key: int) -> ByteArray:
        requests.send(key)
        return answers.get()

    try:
        yield exchange
    finally:
        requests.send(None)
        process.join()


def seconds(exchange: Exchange, key: int, *, read: bool, marked: bool) -> float:
    begin = time.perf_counter()
    sample = exchange(key)
    if read:
        sample.view(np.uint64).sum()
    elapsed = time.perf_counter() - begin
    assert sample.nbytes == BYTES
    if marked:
        assert sample[0] == sample[-1] == key & 63 and sample[1] == 1
    return elapsed


def measure(name: str, count: int) -> dict[str, Any]:
    prepared = name != MADE

    def stretch(exchange: Exchange) -> float:
        return statistics.median(seconds(exchange, key, read=name == READ, marked=prepared) for key in range(count))

    with arena(prepared) as ours, executor(prepared) as pool, queue(prepared) as pickled:
        exchanges = (ours, pool, pickled)
        made = [[exchange(key).copy() for exchange in exchanges] for key in range(3)]  # also faults the pages in
        assert all(np.array_equal(first, other) for first, *others in made for other in others)
        stretches = STRETCHES * (25 if name == COLD else 1)
        times = [[stretch(exchange) for exchange in exchanges] for _ in range(stretches)]
    mine, executors, queues = zip(*times, strict=True)
    return {
        "name": name,
        "seconds": statistics.median(mine),
        "executor_seconds": statistics.median(executors),
        "queue_seconds": statistics.median(queues),
        "ratio_executor": statistics.median(p / m for m, p in zip(mine, executors, strict=True)),
        "ratio_queue": statistics.median(p / m for m, p in zip(mine, queues, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    points = [measure(name, count) for name, count in EXCHANGES.items()]
    print(f"{BYTES / 2**20:g} MiB a sample               arena ms  executor ms   ratio   queue ms   ratio")
    for p in points:
        print(
            f"{p['name']:28s} {1e3 * p['seconds']:10.3f} {1e3 * p['executor_seconds']:12.3f} "
            f"{p['ratio_executor']:7.1f} {1e3 * p['queue_seconds']:10.3f} {p['ratio_queue']:7.1f}"
        )
    print(f"aim: the hand-off {AIM_RATIO} times quicker than both")
    if arguments.json:
        alone = points[0]
        peer = min(("executor", "queue"), key=lambda peer: alone[f"ratio_{peer}"])
        print(
            json.dumps(
                {
                    "name": "arena_handoff",
                    "value": alone["seconds"],
                    "unit": "s per 4 MiB sample",
                    "peer": {"executor": "ProcessPoolExecutor", "queue": "multiprocessing.Queue"}[peer],
                    "peer_value": alone[f"{peer}_seconds"],
                    "ratio": alone[f"ratio_{peer}"],
                    "aim_ratio": AIM_RATIO,
                    "points": points,
                }
            )
        )


if __name__ == "__main__":
    main()
