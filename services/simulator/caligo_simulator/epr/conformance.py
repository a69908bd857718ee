"""What every source of rounds must do, as checks that anybody can run on theirs: `caligo check source NAME`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from caligo_simulator.arena import Arena
from caligo_simulator.epr.registry import faults, same_rounds
from caligo_simulator.epr.source import NO_CLICK, TILE, BobBases, EPRSource, Link, Segment, segment_bytes
from caligo_simulator.workers import BatchedEPROrchestrator, SegmentRequest, SegmentTask, SourceError

LINKS: Final = {
    "good": Link(0.99, 0.9, 0.01, 1e-6, "fidelity"),
    "middling": Link(0.95, 0.3, 0.02, 1e-5, "fidelity"),
    "noisy": Link(0.9, 0.5, 0.05, 1e-3, "weight"),
    "dark": Link(0.97, 0.24, 0.01, 1e-2, "fidelity"),
    "faint": Link(0.96, 0.05, 0.01, 1e-4, "fidelity"),
}
"""Links at which the law of the rounds is looked at."""
DEVIATIONS: Final = 5.0
"""Standard deviations by which a frequency may differ from the law's."""
_WORKERS: Final = 2
"""They take turns, so what is made twice is made in two processes."""
_SECONDS: Final = 120.0
"""For a segment."""
_COINS: Final = BobBases(None, 0)
_UNWRITTEN: Final = 99


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was asked, whether it held, and the figures."""

    check: str
    passed: bool
    detail: str


class Workers:
    """A source in the processes that rows run in: what it does to a process, or how long it takes, ends a check only.

    Usable as a context manager that ends them.
    """

    def __init__(self, name: str, rounds: int, seconds: float = _SECONDS) -> None:
        """Start; segments of up to this many rounds, or two tiles, are made, each in so many seconds."""
        self._name = name
        self._seconds = seconds
        self._arena = Arena.create(2 * _WORKERS, segment_bytes(max(rounds, 2 * TILE)), "check")
        try:
            self._pool = BatchedEPROrchestrator(self._arena, _WORKERS)
        except BaseException:
            self._arena.close()
            raise

    def fill(self, segment: Segment, link: Link, bob: BobBases, key: int, start: int) -> None:
        """As `EPRSource.fill`.

        Raises:
            ValueError: the source says so.
            SourceError: it raised something else.
            WorkerLostError: it ends its process.
            TimeoutError: it takes too long.
        """
        task = SegmentTask(self._name, link, bob, key, start, segment.bob_click.size)
        request, deadline = SegmentRequest(self._pool, task), time.monotonic() + self._seconds
        try:
            while (reference := request.result()) is None:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{task.pairs} rounds are not there after {self._seconds:g} s")
            for ours, theirs in zip(segment, Segment.over(self._arena.read(reference), task.pairs), strict=True):
                ours[:] = theirs
        except SourceError as error:
            raised = str(error).strip().rpartition("\n")[2]
            kind, _, text = raised.partition(": ")
            raise ValueError(text) if kind == ValueError.__name__ else SourceError(raised) from None
        finally:
            request.discard()

    def close(self) -> None:
        """End the workers and remove their memory."""
        self._pool.close()
        self._arena.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def check(make: Callable[[], EPRSource], rounds: int = 20_000) -> Iterator[Finding]:
    """Run all checks, each as it is done; what a source raises is a check that failed, and the last.

    Args:
        make: makes a new source, as another process would.
        rounds: of each sample, at least 1,000; frequencies are known to 1/sqrt(rounds).
    """
    try:
        yield from _checks(make, rounds)
    except Exception as error:
        yield Finding("nothing is raised", False, f"{type(error).__name__}: {error}")


def _checks(make: Callable[[], EPRSource], rounds: int) -> Iterator[Finding]:
    source = make()
    whole = _draw(source, LINKS["good"], 1, rounds)
    fault = faults(whole)
    yield Finding("bits and bases are 0 or 1, and every round is written", fault is None, fault or "")
    if fault is not None:
        return
    yield _same("the same rounds again, from a source made anew", whole, _draw(make(), LINKS["good"], 1, rounds))
    cut = rounds // 3
    yield _same(
        "a segment that is cut short begins like a longer one",
        _head(whole, cut),
        _head(_draw(source, LINKS["good"], 1, cut), cut),
    )
    yield from _tiles(source, min(rounds, TILE))
    started = time.perf_counter()
    other = _draw(source, LINKS["good"], 2, rounds)
    seconds = time.perf_counter() - started
    yield Finding("another key gives other rounds", not same_rounds(whole, other), "")
    for name, link in LINKS.items():
        yield from _law(name, link, _draw(source, link, 3, rounds))
    yield _bases(source, rounds)
    yield _refuses(source)
    yield Finding("speed", True, f"{rounds / seconds:.3g} rounds a second on one core at eta 0.9")


def _draw(source: EPRSource, link: Link, key: int, rounds: int, start: int = 0, bob: BobBases = _COINS) -> Segment:
    segment = Segment.over(np.full(segment_bytes(rounds), _UNWRITTEN, np.uint8), rounds)
    source.fill(segment, link, bob, key, start)
    return segment


def _head(segment: Segment, rounds: int) -> Segment:
    return Segment(*(array[:rounds] for array in segment))


def _same(check: str, a: Segment, b: Segment) -> Finding:
    differ = int(np.count_nonzero(a.bob_click != b.bob_click))
    detail = "" if same_rounds(a, b) else f"{differ} of {a.bob_click.size} rounds have another click"
    return Finding(check, same_rounds(a, b), detail)


def _tiles(source: EPRSource, rounds: int) -> Iterator[Finding]:
    """Whether a later tile can be made alone; what lies before it is made once, in full."""
    whole = _draw(source, LINKS["faint"], 4, TILE + rounds)
    alone = _draw(source, LINKS["faint"], 4, rounds, start=TILE)
    yield _same("a later segment can be made alone", Segment(*(array[TILE:] for array in whole)), alone)
    yield Finding("tiles differ from each other", not same_rounds(_head(whole, rounds), alone), "")


def _law(name: str, link: Link, segment: Segment) -> Iterator[Finding]:
    click = segment.bob_click != NO_CLICK
    alice, bob = segment.alice_basis, segment.bob_basis
    wrong = segment.alice_bit != segment.bob_click
    for what, of, among, expected in (
        ("clicks", click, np.ones_like(click), link.click_probability()),
        ("errors in Z", wrong, click & (alice == 0) & (bob == 0), link.qber()),
        ("errors in X", wrong, click & (alice == 1) & (bob == 1), link.qber()),
        # Each for itself: analysers that are turned to one side err as much less in one as more in the other.
        ("errors where Alice has Z and Bob X", wrong, click & (alice == 0) & (bob == 1), 0.5),
        ("errors where Alice has X and Bob Z", wrong, click & (alice == 1) & (bob == 0), 0.5),
        ("Alice's bits", segment.alice_bit == 1, click, 0.5),
        ("Alice's bases", segment.alice_basis == 1, click, 0.5),
        ("Bob's bits", segment.bob_click == 1, click, 0.5),
        ("Bob's bases", segment.bob_basis == 1, click, 0.5),
    ):
        trials, found = int(among.sum()), int((of & among).sum())
        deviation = np.sqrt(max(trials * expected * (1.0 - expected), 1.0))
        yield Finding(
            f"{name} link: {what}",
            bool(abs(found - trials * expected) <= DEVIATIONS * deviation),
            f"{found / max(trials, 1):.5f}, due {expected:.5f} +- {deviation / max(trials, 1):.5f}",
        )


def _bases(source: EPRSource, rounds: int) -> Finding:
    rule = BobBases(1, BobBases.slots_of(0.3))
    segment = _draw(source, LINKS["good"], 5, rounds, bob=rule)
    clicked, slot = segment.bob_click != NO_CLICK, rule.is_slot(0, rounds)
    kept = bool((segment.bob_basis[clicked & ~slot] == 1).all())
    return Finding("Bob measures in his basis outside the calibration slots", kept, "")


def _refuses(source: EPRSource) -> Finding:
    try:
        _draw(source, LINKS["good"], 1, 1_000, start=17)
    except ValueError:
        return Finding("a start inside a tile is refused with ValueError", True, "")
    return Finding("a start inside a tile is refused with ValueError", False, "it was taken")
