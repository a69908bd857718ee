"""The shared-memory arena: one block of equal slots through which quantum data passes without a copy.

    lease -> write (a worker) -> commit -> read (the harness) -> free

The owner leases and frees; a worker process writes into the slot it was given and answers with a `SlotReference`, a
few bytes. Every slot counts its leases in a generation, and a reference to an earlier one is refused: nobody reads or
overwrites what has become another sample's data.

The block is a POSIX shared-memory segment `caligo-<namespace>-<random>`. Its owner holds a lock on the segment for as
long as it lives, so a segment whose lock can be got has lost its owner and may go; no process ids are involved that
could be used again.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import mmap
import os
import re
import secrets
import threading
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from caligo import logs
from caligo.errors import CaligoError, InvalidArgument, ResourceExhausted

log = logs.get("arena")

ByteArray = NDArray[np.uint8]

_SHM: Final = Path("/dev/shm")
_PAGE: Final = 4096
_STATE_WORDS: Final = 16
"""int64 words of a slot's state: 128 bytes, two cache lines, so that neighbours never share one."""
_OWNER, _GENERATION, _STATE, _LENGTH = range(4)


class StaleReferenceError(CaligoError):
    """The slot has been freed, or is not in the state that the operation needs."""


class SlotReference(NamedTuple):
    """Where a segment lies: what a worker returns in place of the data.

    slot: its number; generation: which lease of the slot; offset: bytes from the start of the block; length: bytes.
    """

    slot: int
    generation: int
    offset: int
    length: int


class _State(enum.IntEnum):
    FREE = 0
    LEASED = 1
    WRITTEN = 2


class Arena:
    """A block of `slots` slots of at least `slot_bytes` bytes each. Made by `create` or `attach`.

    Usable as a context manager that closes it. Leasing and freeing are for the owner and safe between its threads.
    """

    def __init__(self, name: str, fd: int, slots: int, slot_bytes: int, segment: SharedMemory | None) -> None:
        self.name = name
        self.slots = slots
        self.slot_bytes = slot_bytes
        self._fd = fd
        self._segment = segment
        self._bytes = np.frombuffer(mmap.mmap(fd, _total_bytes(slots, slot_bytes)), dtype=np.uint8)
        words = self._bytes[: slots * _STATE_WORDS * 8].view(np.int64)
        self._states = words.reshape(slots, _STATE_WORDS)
        self._changed = threading.Condition()

    @classmethod
    def create(cls, slots: int, slot_bytes: int, namespace: str) -> Self:
        """Reserve a new block, all slots free.

        slot_bytes is rounded up to whole pages of 4 KiB. namespace: letters, digits and hyphens.

        Raises:
            ResourceExhausted: /dev/shm has no room for it.
        """
        _check_namespace(namespace)
        slot_bytes = _pages(slot_bytes)
        size = _total_bytes(slots, slot_bytes)
        while True:
            name = f"caligo-{namespace}-{secrets.token_hex(8)}"
            segment = SharedMemory(name, create=True, size=size)
            segment.close()  # mapped below, by the code that workers use too
            try:
                fd = os.open(_SHM / name, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:  # another process's cleanup was quicker
                continue
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _is_linked(name, fd):
                break
            # Another process's cleanup came between creation and lock.
            os.close(fd)
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            os.close(fd)
            segment.unlink()
            if error.errno != errno.ENOSPC:
                raise
            raise ResourceExhausted(
                f"{_SHM} has no room for the arena: {size} bytes are needed ({slots} slots of {slot_bytes})"
            ) from None
        return cls(name, fd, slots, slot_bytes, segment)

    @classmethod
    def attach(cls, name: str, slots: int, slot_bytes: int) -> Self:
        """Map the block that another process owns, with the `name`, `slots` and `slot_bytes` of its arena.

        `SharedMemory(name)` would not do: Python 3.11 registers every attachment with a resource tracker that
        unlinks the segment as soon as the first attached process ends.
        """
        return cls(name, os.open(_SHM / name, os.O_RDWR | os.O_CLOEXEC), slots, slot_bytes, None)

    def lease(self, owner: int, cancelled: threading.Event | None = None) -> SlotReference:
        """A free slot, waiting for one to be freed; `owner` is noted in its state.

        Raises:
            ResourceExhausted: the arena is closed, or `cancelled` was set, which `wake` makes the waiting see.
        """
        with self._changed:
            while True:
                if self._segment is None or (cancelled is not None and cancelled.is_set()):
                    raise ResourceExhausted("no slot can be leased any more")
                free = np.flatnonzero(self._states[:, _STATE] == _State.FREE)
                if free.size:
                    break
                self._changed.wait()
            slot = int(free[0])
            state = self._states[slot]
            state[_OWNER] = owner
            state[_LENGTH] = 0
            state[_STATE] = _State.LEASED
            offset = _state_bytes(self.slots) + slot * self.slot_bytes
            return SlotReference(slot, int(state[_GENERATION]), offset, self.slot_bytes)

    def write(self, reference: SlotReference) -> ByteArray:
        """The leased slot's bytes, uint8 [length], writable.

        Raises:
            StaleReferenceError: the reference is not to a leased slot.
        """
        self._check(reference, _State.LEASED)
        return self._bytes[reference.offset : reference.offset + reference.length]

    def commit(self, reference: SlotReference, length: int) -> SlotReference:
        """Declare the first `length` bytes written; returns the reference to read them by.

        Raises:
            StaleReferenceError: the reference is not to a leased slot.
        """
        if not 0 <= length <= reference.length:
            raise ValueError(f"length must be 0 to {reference.length}, not {length}")
        state = self._check(reference, _State.LEASED)
        state[_LENGTH] = length
        state[_STATE] = _State.WRITTEN
        return reference._replace(length=length)

    def read(self, reference: SlotReference) -> ByteArray:
        """A read-only view of what was written, uint8 [length]; not to be used after `free`.

        Raises:
            StaleReferenceError: the slot has been freed since, or was never committed with this length.
        """
        state = self._check(reference, _State.WRITTEN)
        if state[_LENGTH] != reference.length:
            raise StaleReferenceError(f"slot {reference.slot} holds {state[_LENGTH]} bytes, not {reference.length}")
        view = self._bytes[reference.offset : reference.offset + reference.length]
        view.flags.writeable = False
        return view

    def free(self, reference: SlotReference) -> None:
        """Give the slot to the next one who leases; every reference to this lease is stale from now on.

        Raises:
            StaleReferenceError: it was free already.
        """
        with self._changed:
            state = self._check(reference, _State.LEASED, _State.WRITTEN)
            state[_GENERATION] += 1
            state[_STATE] = _State.FREE
            self._changed.notify()

    def free_slots(self) -> int:
        """Number of slots that nobody holds."""
        return int(np.count_nonzero(self._states[:, _STATE] == _State.FREE))

    def wake(self) -> None:
        """Make everybody who waits in `lease` look at their `cancelled` again."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Let go of the block; the owner also removes it from /dev/shm. Views stay valid until they are dropped."""
        with self._changed:
            segment, self._segment = self._segment, None
            self._changed.notify_all()
        if segment is not None:
            with contextlib.suppress(FileNotFoundError):
                segment.unlink()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, reference: SlotReference, *states: _State) -> NDArray[np.int64]:
        if not 0 <= reference.slot < self.slots:
            raise StaleReferenceError(f"there is no slot {reference.slot}")
        state: NDArray[np.int64] = self._states[reference.slot]
        if state[_GENERATION] != reference.generation or state[_STATE] not in states:
            raise StaleReferenceError(
                f"slot {reference.slot} is {_State(int(state[_STATE])).name} in generation {state[_GENERATION]}; "
                f"the reference is to generation {reference.generation}"
            )
        return state


def cleanup_shared_memory_orphans(namespace: str) -> list[str]:
    """Remove the segments of this namespace that no living process owns; returns their names."""
    _check_namespace(namespace)
    ours = re.compile(rf"caligo-{re.escape(namespace)}-[0-9a-f]{{16}}")
    removed = []
    for name in sorted(entry.name for entry in _SHM.iterdir() if ours.fullmatch(entry.name)):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), _locked(_SHM / name):
            (_SHM / name).unlink()
            removed.append(name)
    if removed:
        log.info("orphaned shared memory removed", segments=removed)
    return removed


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def _check_namespace(namespace: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9](-?[A-Za-z0-9])*", namespace) or len(namespace) > 64:
        raise InvalidArgument("namespace", "at most 64 letters, digits and single hyphens")


def _is_linked(name: str, fd: int) -> bool:
    try:
        return (_SHM / name).stat().st_ino == os.fstat(fd).st_ino
    except FileNotFoundError:
        return False


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _state_bytes(slots: int) -> int:
    return _pages(slots * _STATE_WORDS * 8)


def _total_bytes(slots: int, slot_bytes: int) -> int:
    return _state_bytes(slots) + slots * slot_bytes
