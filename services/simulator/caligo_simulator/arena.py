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
import errno
import fcntl
import mmap
import os
import queue
import re
import secrets
import threading
import zlib
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from caligo import logs
from caligo.errors import CaligoError, InternalError, InvalidArgument, ResourceExhausted

log = logs.get("arena")

ByteArray = NDArray[np.uint8]

_SHM: Final = Path("/dev/shm")
_PAGE: Final = 4096
_STATE_WORDS: Final = 16
"""int64 words of a slot's state: 128 bytes, two cache lines, so that neighbours never share one."""
_OWNER, _GENERATION, _STATE, _LENGTH, _CHECKSUM = range(5)
_STATES: Final = ("free", "leased", "written")
_FREE, _LEASED, _WRITTEN = range(3)


class StaleReferenceError(CaligoError):
    """The slot has been freed, or is not in the state that the operation needs."""


class CorruptSegmentError(InternalError):
    """What lies in the slot is not what was committed."""


class SlotReference(NamedTuple):
    """Where a segment lies: what a worker returns in place of the data.

    slot: its number; generation: which lease of the slot; offset: bytes from the start of the block; length: bytes.
    """

    slot: int
    generation: int
    offset: int
    length: int


class Arena:
    """A block of `slots` slots of at least `slot_bytes` bytes each. Made by `create` or `attach`.

    Usable as a context manager that closes it. Leasing and freeing are for the owner and safe between its threads.
    """

    def __init__(
        self, name: str, fd: int, slots: int, slot_bytes: int, checksums: bool, segment: SharedMemory | None
    ) -> None:
        self.name = name
        self.slots = slots
        self.slot_bytes = slot_bytes
        self.checksums = checksums
        self._first_offset = _state_bytes(slots)
        self._fd = fd
        self._segment = segment
        self._block = memoryview(mmap.mmap(fd, _total_bytes(slots, slot_bytes)))
        self._bytes = np.frombuffer(self._block, dtype=np.uint8)
        self._bytes_read_only = self._bytes.view()
        self._bytes_read_only.flags.writeable = False
        # Plain ints in and out, a tenth of what NumPy takes to index an element.
        self._words = self._block[: slots * _STATE_WORDS * 8].cast("q")
        self._lock = threading.Lock()
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        """Numbers of the slots that the owner can lease."""
        if segment is not None:
            for slot in range(slots):
                self._free.put(slot)

    @classmethod
    def create(cls, slots: int, slot_bytes: int, namespace: str, *, checksums: bool = False) -> Self:
        """Reserve a new block, all slots free.

        slot_bytes is rounded up to whole pages of 4 KiB. namespace: letters, digits and hyphens. checksums: `commit`
        notes a CRC-32 of what was written and `read` compares it, for debugging.

        Raises:
            InvalidArgument: /dev/shm has no room for it.
        """
        _check_namespace(namespace)
        slot_bytes = _pages(slot_bytes)
        size = _total_bytes(slots, slot_bytes)
        segment, fd = _new_segment(namespace, size)
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            os.close(fd)
            _unlink(segment)
            if error.errno != errno.ENOSPC:
                raise
            raise InvalidArgument("/dev/shm", _no_room(size, slots, slot_bytes)) from None
        return cls(segment.name, fd, slots, slot_bytes, checksums, segment)

    @classmethod
    def attach(cls, name: str, slots: int, slot_bytes: int, checksums: bool = False) -> Self:
        """Map the block that another process owns, with the values of its arena.

        `SharedMemory(name)` would not do: Python 3.11 registers every attachment with a resource tracker that
        unlinks the segment as soon as the first attached process ends.
        """
        return cls(name, os.open(_SHM / name, os.O_RDWR | os.O_CLOEXEC), slots, slot_bytes, checksums, None)

    def lease(self, owner: int, seconds: float = 0.0) -> SlotReference:
        """A free slot, waiting up to `seconds` for one to be freed; `owner` is noted in its state.

        Raises:
            ResourceExhausted: none was free in time, or the arena is closed.
        """
        try:
            slot = self._free.get(timeout=seconds)
        except queue.Empty:
            raise ResourceExhausted(f"all {self.slots} slots are taken") from None
        if self._segment is None:
            raise ResourceExhausted("the arena is closed")
        words, state = self._words, slot * _STATE_WORDS
        words[state + _OWNER] = owner
        words[state + _LENGTH] = 0
        words[state + _STATE] = _LEASED
        return SlotReference(
            slot, words[state + _GENERATION], self._first_offset + slot * self.slot_bytes, self.slot_bytes
        )

    def write(self, reference: SlotReference) -> ByteArray:
        """The leased slot's bytes, uint8 [length], writable.

        Raises:
            StaleReferenceError: the reference is not to a leased slot.
        """
        self._check(reference, _LEASED)
        return self._bytes[reference.offset : reference.offset + reference.length]

    def commit(self, reference: SlotReference, length: int) -> SlotReference:
        """Declare the first `length` bytes written; returns the reference to read them by.

        Raises:
            StaleReferenceError: the reference is not to a leased slot.
        """
        if not 0 <= length <= reference.length:
            raise ValueError(f"length must be 0 to {reference.length}, not {length}")
        state = self._check(reference, _LEASED)
        written = reference._replace(length=length)
        if self.checksums:
            self._words[state + _CHECKSUM] = self._checksum(written)
        self._words[state + _LENGTH] = length
        self._words[state + _STATE] = _WRITTEN
        return written

    def read(self, reference: SlotReference) -> ByteArray:
        """A read-only view of what was written, uint8 [length]; not to be used after `free`.

        Raises:
            StaleReferenceError: the slot has been freed since, or was never committed with this length.
            CorruptSegmentError: the arena has checksums, and the bytes have changed since they were committed.
        """
        state = self._check(reference, _WRITTEN)
        length = self._words[state + _LENGTH]
        if length != reference.length:
            raise StaleReferenceError(f"slot {reference.slot} holds {length} bytes, not {reference.length}")
        if self.checksums and self._checksum(reference) != self._words[state + _CHECKSUM]:
            raise CorruptSegmentError(
                f"slot {reference.slot} has changed since its {length} bytes were committed by worker "
                f"{self._words[state + _OWNER]}"
            )
        return self._bytes_read_only[reference.offset : reference.offset + length]

    def free(self, reference: SlotReference) -> None:
        """Give the slot to the next one who leases; every reference to this lease is stale from now on.

        Raises:
            StaleReferenceError: it was free already.
        """
        with self._lock:
            state = self._check(reference, _LEASED, _WRITTEN)
            self._words[state + _GENERATION] += 1
            self._words[state + _STATE] = _FREE
        self._free.put(reference.slot)

    def free_slots(self) -> int:
        """Number of slots that nobody holds."""
        return self._words[_STATE::_STATE_WORDS].tolist().count(_FREE)

    def close(self) -> None:
        """Let go of the block; the owner also removes it from /dev/shm. Views stay valid until they are dropped."""
        with self._lock:
            segment, self._segment = self._segment, None
        if segment is not None:
            _unlink(segment)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, reference: SlotReference, *states: int) -> int:
        """Where the slot's state begins among the words, if it is in one of `states` and the reference's lease."""
        if not 0 <= reference.slot < self.slots:
            raise StaleReferenceError(f"there is no slot {reference.slot}")
        state = reference.slot * _STATE_WORDS
        generation, current = self._words[state + _GENERATION], self._words[state + _STATE]
        if generation != reference.generation or current not in states:
            raise StaleReferenceError(
                f"slot {reference.slot} is {_STATES[current]} in generation {generation}; "
                f"the reference is to generation {reference.generation}"
            )
        return state

    def _checksum(self, reference: SlotReference) -> int:
        return zlib.crc32(self._block[reference.offset : reference.offset + reference.length])


def _new_segment(namespace: str, size: int) -> tuple[SharedMemory, int]:
    """A segment of a new name, and a descriptor of it that holds its lock."""
    while True:
        segment = SharedMemory(f"caligo-{namespace}-{secrets.token_hex(8)}", create=True, size=size)
        segment.close()  # mapped by `Arena`, in the way that workers use too
        # Until the lock is ours, another process's cleanup may take the segment for an orphan.
        try:
            fd = os.open(_SHM / segment.name, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            _forget(segment)
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        if _is_linked(segment.name, fd):
            return segment, fd
        os.close(fd)
        _forget(segment)


def _unlink(segment: SharedMemory) -> None:
    try:
        segment.unlink()
    except FileNotFoundError:
        _forget(segment)


def _forget(segment: SharedMemory) -> None:
    """Keep the standard library's resource tracker from unlinking, at the end, what somebody else has removed."""
    resource_tracker.unregister(f"/{segment.name}", "shared_memory")


def cleanup_shared_memory_orphans(namespace: str) -> list[str]:
    """Remove the segments of this namespace that no living process owns; returns their names."""
    _check_namespace(namespace)
    ours = re.compile(rf"caligo-{re.escape(namespace)}-[0-9a-f]{{16}}")
    removed = []
    for name in sorted(entry.name for entry in _SHM.iterdir() if ours.fullmatch(entry.name)):
        # Gone already, owned by a living process, or by another user: none of them is ours to remove.
        with contextlib.suppress(FileNotFoundError, BlockingIOError, PermissionError), _locked(_SHM / name):
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


def _no_room(size: int, slots: int, slot_bytes: int) -> str:
    shm = os.statvfs(_SHM)
    return (
        f"must have {_mib(size)} MiB free for the arena, {slots} slots of {slot_bytes} bytes, and has "
        f"{shm.f_bavail * shm.f_frsize // 2**20} of {shm.f_blocks * shm.f_frsize // 2**20}; take fewer workers or "
        f"smaller segments, or in a container set its shm_size to {_mib(size)}m or more"
    )


def _mib(size: int) -> int:
    return -(-size // 2**20)
