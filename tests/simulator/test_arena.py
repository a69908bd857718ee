"""The shared-memory arena: lifecycle, slot borders, stale references, checksums, orphans."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from caligo_simulator.arena import (
    Arena,
    CorruptSegmentError,
    SlotReference,
    StaleReferenceError,
    cleanup_shared_memory_orphans,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

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
from caligo_simulator.arena import Arena, SlotReference, StaleReferenceError
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

WRITE_FOR = """
import time
arena = Arena.attach(name, int(slots), int(slot_bytes))
slot = SlotReference(*map(int, rest[:4]))
view = arena.write(slot)
print("ready", flush=True)
sys.stdin.readline()
pattern = (np.arange(len(view)) % 251).astype(np.uint8)
turn, end = 0, time.monotonic() + float(rest[4])
while time.monotonic() < end:
    turn += 1
    mine = pattern + np.uint8((17 * slot.slot + turn) % 256)
    view[:] = mine
    assert np.array_equal(view, mine), f"slot {slot.slot} was overwritten in turn {turn}"
arena.commit(slot, len(view))
print(turn)
"""

# Writes a slot a line of input and commits it; where it is to be killed at a byte, in a process forked for that.
WRITE_ON_REQUEST = """
import os, signal
arena = None
for line in iter(sys.stdin.readline, ""):
    name, *numbers = line.split()
    *slot, seed, length, killed_at = map(int, numbers)
    if arena is None or arena.name != name:
        arena = Arena.attach(name, int(slots), int(slot_bytes), checksums=True)
    slot = SlotReference(*slot)
    payload = np.random.default_rng(seed).integers(0, 256, length, dtype=np.uint8)
    try:
        view = arena.write(slot)
        if killed_at < 0:
            view[:length] = payload
            arena.commit(slot, length)
            outcome = 0
        elif pid := os.fork():
            outcome = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        else:
            view[:killed_at] = payload[:killed_at]
            os.kill(os.getpid(), signal.SIGKILL)
    except StaleReferenceError:
        outcome = 1
    print(outcome, flush=True)
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


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_concurrent_writers_at_slot_borders(own: str, seconds: float) -> None:
    """Neighbours that write whole slots at full speed, every byte verified, never touch each other's."""
    size, writers = 3 * 4096, 4
    with Arena.create(writers, size, own) as arena:
        slots = [arena.lease(owner=j) for j in range(writers)]
        children = [start_child(WRITE_FOR, arena.name, writers, size, *slot, seconds) for slot in slots]
        for child in children:
            assert child.stdout is not None and child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        for child, slot in zip(children, slots, strict=True):
            answer, _ = child.communicate(timeout=seconds + 60)
            assert child.returncode == 0
            turns = int(answer)
            assert turns > 100
            expected = (np.arange(size) % 251).astype(np.uint8) + np.uint8((17 * slot.slot + turns) % 256)
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
        with pytest.raises(ResourceExhausted, match="1 slots"):
            arena.lease(owner=2)
        waiting = pool.submit(arena.lease, 2, 10.0)
        assert not waiting.done()
        arena.free(held)
        arena.free(waiting.result(timeout=10))
        arena.close()
        with pytest.raises(ResourceExhausted, match="closed"):
            arena.lease(owner=1)


def test_a_slot_is_freed_once_however_many_threads_try(own: str) -> None:
    with Arena.create(2, 4096, own) as arena, ThreadPoolExecutor(8) as pool:
        for _ in range(100):
            slot = arena.lease(owner=1)
            ready = threading.Barrier(8)

            def free(slot: SlotReference = slot, ready: threading.Barrier = ready) -> bool:
                ready.wait()
                try:
                    arena.free(slot)
                except StaleReferenceError:
                    return False
                return True

            assert sum(attempt.result(10) for attempt in [pool.submit(free) for _ in range(8)]) == 1
        assert len({arena.lease(owner=1).slot for _ in range(2)}) == 2
        with pytest.raises(ResourceExhausted):
            arena.lease(owner=1)


def test_checksums_find_what_was_written_after_the_commit(own: str) -> None:
    with Arena.create(2, 4096, own, checksums=True) as arena:
        assert len(arena.read(arena.commit(arena.lease(owner=1), 0))) == 0
        slot = arena.lease(owner=3)
        view = arena.write(slot)
        view[:] = 7
        written = arena.commit(slot, 1000)
        view[1000:] = 8  # not part of what was committed
        assert arena.read(written).sum() == 7000
        # Another process's view of the same block compares the same checksum.
        with Arena.attach(arena.name, 2, 4096, checksums=True) as attached:
            view[999] ^= 1
            for each in (arena, attached):
                with pytest.raises(CorruptSegmentError, match="worker 3"):
                    each.read(written)
        with Arena.attach(arena.name, 2, 4096) as unchecked:
            assert unchecked.read(written)[999] == 6
        view[999] ^= 1
        assert arena.read(written).sum() == 7000


def test_a_full_dev_shm_is_an_error_with_the_number_needed(own: str, segments_of: SegmentsOf) -> None:
    size = 2**42
    with pytest.raises(
        InvalidArgument, match=f"/dev/shm: must have {2**22 + 1} MiB free .* set its shm_size to {2**22 + 1}m"
    ):
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


def test_an_orphan_of_another_user_is_left_to_them(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even root's tests must see what others meet: a file that cannot be opened."""
    arena = Arena.create(1, 4096, own)
    opened = os.open

    def refuse(path: os.PathLike[str] | str, *arguments: int) -> int:
        if arena.name in os.fspath(path):
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        assert cleanup_shared_memory_orphans(own) == []
    arena.close()


CREATE_FOREVER = """
for _ in iter(int, 1):
    with Arena.create(int(slots), int(slot_bytes), name) as arena:
        reference = arena.lease(1)
        arena.free(reference)
"""

CREATE_AND_CHECK = """
import os, time
end = time.monotonic() + float(rest[0])
count = 0
while time.monotonic() < end:
    with Arena.create(int(slots), int(slot_bytes), name) as arena:
        count += 1
        for _ in range(3):
            assert os.path.exists(f"/dev/shm/{arena.name}"), "a living segment was removed"
            time.sleep(0.0005)
print(count)
"""


def test_cleanup_and_creation_do_not_disturb_each_other(own: str) -> None:
    """Three processes make and drop segments as fast as they can under a cleanup that never rests."""
    creators = [start_child(CREATE_AND_CHECK, own, 1, 4096, 2, stderr=subprocess.PIPE) for _ in range(3)]
    while any(child.poll() is None for child in creators):
        cleanup_shared_memory_orphans(own)
    for child in creators:
        answer, complaints = child.communicate()
        assert child.returncode == 0, complaints
        assert int(answer) > 50
        assert complaints == ""  # nor from the standard library's resource tracker
    assert cleanup_shared_memory_orphans(own) == []


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_owners_killed_at_any_moment_leave_what_one_cleanup_removes(
    own: str, segments_of: SegmentsOf, kills: int
) -> None:
    """Killed at random points between creating and dropping a segment, while other owners live."""
    living = [Arena.create(1, 4096, own) for _ in range(5)]
    names = sorted(arena.name for arena in living)
    rng = np.random.default_rng(1)
    orphans = 0
    for _ in range(kills):
        child = start_child(CREATE_FOREVER, own, 1, 4096, start_new_session=True)
        before = set(names)
        while set(segments_of(own)) == before:
            time.sleep(0.001)
        time.sleep(float(rng.uniform(0, 0.005)))
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        removed = cleanup_shared_memory_orphans(own)
        orphans += len(removed)
        assert not set(removed) & before
        assert sorted(segments_of(own)) == names
    assert orphans > 0
    for arena in living:
        arena.free(arena.lease(owner=1))
        arena.close()


# --- any sequence of operations -------------------------------------------------------------------------------------


@pytest.fixture
def writer() -> Iterator[None]:
    ArenaMachine.writer = start_child(WRITE_ON_REQUEST, "-", ArenaMachine.SLOTS, ArenaMachine.BYTES)
    yield
    ArenaMachine.writer.communicate("", timeout=10)


class ArenaMachine(RuleBasedStateMachine):
    """Any sequence of lease, write, read, free and kill, with references old and new, against a dictionary.

    Another process writes; now and then one dies by SIGKILL in the middle of its write.
    """

    SLOTS, BYTES = 3, 4096
    writer: subprocess.Popen[str]

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena.create(self.SLOTS, self.BYTES, "machine", checksums=True)
        self.leased: list[SlotReference] = []
        self.written: dict[SlotReference, bytes] = {}
        self.stale: list[SlotReference] = []

    def ask_writer(self, slot: SlotReference, seed: int, length: int, killed_at: int = -1) -> int:
        assert self.writer.stdin is not None and self.writer.stdout is not None
        print(self.arena.name, *slot, seed, length, killed_at, file=self.writer.stdin, flush=True)
        return int(self.writer.stdout.readline())

    @precondition(lambda self: len(self.leased) + len(self.written) < self.SLOTS)
    @rule(owner=st.integers(0, 9))
    def lease(self, owner: int) -> None:
        slot = self.arena.lease(owner)
        assert slot.slot not in [held.slot for held in (*self.leased, *self.written)]
        self.leased.append(slot)

    @precondition(lambda self: len(self.leased) + len(self.written) == self.SLOTS)
    @rule()
    def lease_one_too_many(self) -> None:
        with pytest.raises(ResourceExhausted):
            self.arena.lease(0)

    @precondition(lambda self: self.leased)
    @rule(which=st.integers(0, 2), seed=st.integers(0, 99), length=st.integers(0, BYTES))
    def write(self, which: int, seed: int, length: int) -> None:
        slot = self.leased.pop(which % len(self.leased))
        assert self.ask_writer(slot, seed, length) == 0
        payload = np.random.default_rng(seed).integers(0, 256, length, dtype=np.uint8)
        self.written[slot._replace(length=length)] = payload.tobytes()

    @precondition(lambda self: self.leased)
    @rule(which=st.integers(0, 2), seed=st.integers(0, 99), killed_at=st.integers(0, BYTES))
    def kill_a_writer(self, which: int, seed: int, killed_at: int) -> None:
        """The slot stays leased, to be written again or freed, and nothing can be read from it."""
        slot = self.leased[which % len(self.leased)]
        assert self.ask_writer(slot, seed, self.BYTES, killed_at) == -signal.SIGKILL
        with pytest.raises(StaleReferenceError):
            self.arena.read(slot)

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
        for operation in (self.arena.read, self.arena.write, self.arena.free, lambda r: self.arena.commit(r, 0)):
            with pytest.raises(StaleReferenceError):
                operation(reference)
        assert self.ask_writer(reference, 0, 1) == 1  # nor does another process write there

    @invariant()
    def everything_written_is_there(self) -> None:
        for reference, payload in self.written.items():
            assert self.arena.read(reference).tobytes() == payload
        assert self.arena.free_slots() == self.SLOTS - len(self.leased) - len(self.written)

    def teardown(self) -> None:
        self.arena.close()


@pytest.mark.parametrize("sequences", [100, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
@pytest.mark.usefixtures("writer")
def test_any_sequence_of_operations(sequences: int) -> None:
    run_state_machine_as_test(
        ArenaMachine, settings=settings(max_examples=sequences, stateful_step_count=20, deadline=None)
    )
