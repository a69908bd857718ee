"""The shared-memory arena: lifecycle, slot borders, stale references, orphans."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from caligo_simulator.arena import Arena, SlotReference, StaleReferenceError, cleanup_shared_memory_orphans
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from caligo.errors import InvalidArgument, ResourceExhausted

SegmentsOf = Callable[[str], list[str]]


@pytest.fixture
def own(segments_of: SegmentsOf) -> Iterator[str]:
    """A namespace that must be empty again after the test."""
    name = f"arena-{secrets.token_hex(4)}"
    yield name
    assert segments_of(name) == []


def start_child(body: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    code = f"""
import sys
import numpy as np
from caligo_simulator.arena import Arena, SlotReference
name, slots, slot_bytes, *rest = sys.argv[1:]
{body}
"""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]


WRITE_ONCE = """
arena = Arena.attach(name, int(slots), int(slot_bytes))
slot = SlotReference(*map(int, rest[:4]))
seed, length = int(rest[4]), int(rest[5])
arena.write(slot)[:length] = np.random.default_rng(seed).integers(0, 256, length, dtype=np.uint8)
print(*arena.commit(slot, length))
arena.close()
"""

WRITE_FOREVER = """
arena = Arena.attach(name, int(slots), int(slot_bytes))
slot = SlotReference(*map(int, rest[:4]))
view = arena.write(slot)
print("ready", flush=True)
sys.stdin.readline()
pattern = (np.arange(len(view)) % 251).astype(np.uint8)
for turn in range(200):
    mine = pattern + np.uint8(17 * slot.slot + turn)
    view[:] = mine
    assert np.array_equal(view, mine), f"slot {slot.slot} was overwritten in turn {turn}"
arena.commit(slot, len(view))
"""

OWN_FOREVER = """
arena = Arena.create(int(slots), int(slot_bytes), name)
print(arena.name, flush=True)
sys.stdin.read()
"""


def test_lifecycle_allocation_worker_write_harness_read_deallocation(own: str, segments_of: SegmentsOf) -> None:
    """Bit-exact from a child process, and nothing left in /dev/shm."""
    length = 3 * 4096 + 77
    with Arena.create(2, 4 * 4096, own) as arena:
        assert segments_of(own) == [arena.name]
        slot = arena.lease(owner=1)
        child = start_child(WRITE_ONCE, arena.name, 2, arena.slot_bytes, *slot, 7, length)
        answer, _ = child.communicate(timeout=60)
        reference = SlotReference(*map(int, answer.split()))
        assert child.returncode == 0
        assert reference == slot._replace(length=length)
        # Ending the child, which had attached, must not have removed the block.
        assert segments_of(own) == [arena.name]
        expected = np.random.default_rng(7).integers(0, 256, length, dtype=np.uint8)
        view = arena.read(reference)
        assert view.dtype == np.uint8
        assert not view.flags.writeable and not view.flags.owndata
        np.testing.assert_array_equal(view, expected)
        arena.free(reference)
        assert arena.free_slots() == 2
    assert segments_of(own) == []


def test_payloads_lie_on_pages_and_do_not_overlap(own: str) -> None:
    with Arena.create(5, 5000, own) as arena:
        slots = [arena.lease(owner=j) for j in range(5)]
        assert arena.slot_bytes == 8192
        assert all(slot.offset % 4096 == 0 and slot.length == 8192 for slot in slots)
        # The state words of five slots, 128 bytes each, come first.
        assert sorted(slot.offset for slot in slots) == [4096 + 8192 * j for j in range(5)]
        assert 5 * 128 <= 4096


def test_concurrent_writers_at_slot_borders(own: str) -> None:
    """Neighbours that write whole slots at full speed never touch each other's bytes."""
    size, writers = 3 * 4096, 4
    with Arena.create(writers, size, own) as arena:
        slots = [arena.lease(owner=j) for j in range(writers)]
        children = [start_child(WRITE_FOREVER, arena.name, writers, size, *slot) for slot in slots]
        for child in children:
            assert child.stdout is not None and child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        for child in children:
            child.communicate(timeout=60)
            assert child.returncode == 0
        for slot in slots:
            expected = (np.arange(size) % 251).astype(np.uint8) + np.uint8((17 * slot.slot + 199) % 256)
            np.testing.assert_array_equal(arena.read(slot), expected)
            arena.free(slot)


def test_a_stale_reference_is_refused(own: str) -> None:
    with Arena.create(1, 4096, own) as arena:
        first = arena.lease(owner=1)
        with pytest.raises(StaleReferenceError):
            arena.read(first)  # nothing committed yet
        written = arena.commit(first, 100)
        with pytest.raises(StaleReferenceError):
            arena.write(first)
        with pytest.raises(StaleReferenceError):
            arena.read(written._replace(length=101))
        arena.free(written)
        for operation in (arena.read, arena.write, arena.free, lambda r: arena.commit(r, 1)):
            with pytest.raises(StaleReferenceError):
                operation(written)
        second = arena.lease(owner=2)
        assert second.generation == first.generation + 1
        with pytest.raises(StaleReferenceError):
            arena.write(first)
        arena.free(second)


def test_leasing_waits_for_a_slot(own: str) -> None:
    with Arena.create(1, 4096, own) as arena, ThreadPoolExecutor(1) as pool:
        held = arena.lease(owner=1)
        waiting = pool.submit(arena.lease, 2)
        assert not waiting.done()
        arena.free(held)
        arena.free(waiting.result(timeout=10))
        held = arena.lease(owner=1)
        cancelled = threading.Event()
        waiting = pool.submit(arena.lease, 2, cancelled)
        cancelled.set()
        arena.wake()
        with pytest.raises(ResourceExhausted):
            waiting.result(timeout=10)


def test_a_full_dev_shm_is_an_error_with_the_number_needed(own: str, segments_of: SegmentsOf) -> None:
    size = 2**42
    with pytest.raises(ResourceExhausted, match=str(size + 4096)):
        Arena.create(1, size, own)
    assert segments_of(own) == []


def test_a_bad_namespace_is_refused() -> None:
    for name in ("", "a/b", "-a", "a--b", "x" * 65):
        with pytest.raises(InvalidArgument, match="namespace"):
            Arena.create(1, 4096, name)


def test_orphans_of_killed_owners_go_and_living_ones_stay(own: str, segments_of: SegmentsOf) -> None:
    owners = [start_child(OWN_FOREVER, own, 2, 4096, start_new_session=True) for _ in range(3)]
    names = []
    for child in owners:
        assert child.stdout is not None
        names.append(child.stdout.readline().strip())
    other = Arena.create(1, 4096, f"{own}-2")  # a namespace that begins with the same letters
    assert sorted(segments_of(own)) == sorted([*names, other.name])
    assert cleanup_shared_memory_orphans(own) == []
    # The whole session: the standard library's resource tracker would clean up after the process alone.
    for child in owners[:2]:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert cleanup_shared_memory_orphans(own) == sorted(names[:2])
    assert sorted(segments_of(own)) == sorted([names[2], other.name])
    attached = Arena.attach(names[2], 2, 4096)
    assert attached.free_slots() == 2
    attached.close()
    os.killpg(owners[2].pid, signal.SIGKILL)
    owners[2].wait()
    assert cleanup_shared_memory_orphans(own) == [names[2]]
    other.close()


class ArenaMachine(RuleBasedStateMachine):
    """Any sequence of lease, write, read, free, with references old and new, against a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena.create(3, 4096, "machine")
        self.leased: list[SlotReference] = []
        self.written: dict[SlotReference, bytes] = {}
        self.stale: list[SlotReference] = []

    @precondition(lambda self: len(self.leased) + len(self.written) < 3)
    @rule(owner=st.integers(0, 9))
    def lease(self, owner: int) -> None:
        slot = self.arena.lease(owner)
        assert slot.slot not in [held.slot for held in (*self.leased, *self.written)]
        self.leased.append(slot)

    @precondition(lambda self: self.leased)
    @rule(which=st.integers(0, 2), data=st.binary(max_size=64), length=st.integers(0, 4096))
    def write(self, which: int, data: bytes, length: int) -> None:
        slot = self.leased.pop(which % len(self.leased))
        payload = (data * 4096)[:length] if data else b""
        self.arena.write(slot)[: len(payload)] = np.frombuffer(payload, np.uint8)
        self.written[self.arena.commit(slot, len(payload))] = payload

    @precondition(lambda self: self.leased or self.written)
    @rule(which=st.integers(0, 5))
    def free(self, which: int) -> None:
        held = [*self.leased, *self.written]
        reference = held[which % len(held)]
        self.arena.free(reference)
        self.leased = [slot for slot in self.leased if slot != reference]
        self.written.pop(reference, None)
        self.stale.append(reference)

    @precondition(lambda self: self.stale)
    @rule(which=st.integers(0, 50))
    def use_a_stale_reference(self, which: int) -> None:
        reference = self.stale[which % len(self.stale)]
        for operation in (self.arena.read, self.arena.write, self.arena.free):
            with pytest.raises(StaleReferenceError):
                operation(reference)

    @invariant()
    def everything_written_is_there(self) -> None:
        for reference, payload in self.written.items():
            assert self.arena.read(reference).tobytes() == payload
        assert self.arena.free_slots() == 3 - len(self.leased) - len(self.written)

    def teardown(self) -> None:
        self.arena.close()


ArenaMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_any_sequence_of_operations = ArenaMachine.TestCase
