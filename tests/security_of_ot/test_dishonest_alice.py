"""What a dishonest Alice can read of Bob's choice C: nothing in the baseline, and nearly everything in blind.

With Alice's partition all that Bob sends are his reports. Where the random numbers of source and parties are the same,
they are the same for both choices; so their distributions are equal, whatever she does.
"""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from caligo_simulator.epr.source import NO_CLICK, BobBases, Segment
from caligo_simulator.protocol.messages import (
    Bases,
    Correction,
    Hashes,
    IndexSets,
    Permutation,
    Report,
    Requests,
    Syndromes,
)
from caligo_simulator.protocol.parties import Agreement, Alice, Bob
from caligo_simulator.protocol.reconciliation import Code, Plan
from caligo_simulator.protocol.verification import tags
from numpy.typing import NDArray
from scipy.stats import chi2_contingency

from caligo.physics.claims import CLAIMS
from caligo.space import Strategy

from .alices import (
    ALICES,
    CorruptsOneBasis,
    FlipsOpenedBits,
    SendsBetween,
    SendsOnlyZ,
    SpoilsString,
    WatchfulAlice,
    one_syndrome,
)
from .conftest import Case, Play, Run

BASELINE = Case("individual", "alice", Strategy.BASELINE)
BOB_NAMES = Case("individual", "bob", Strategy.BASELINE)
BLIND = Case("individual", "alice", Strategy.BLIND)
BOTH_PARTITIONS = pytest.mark.parametrize("case", [BASELINE, BOB_NAMES], ids=str)
EVERY_ALICE = pytest.mark.parametrize("alice", ALICES.values(), ids=ALICES.keys())
NOISE = {"F": 0.99, "e_det": 0.002, "eta": 0.5}

MakeAlice = Callable[[Agreement], Alice]


def flat(message: Any) -> Iterator[bytes]:
    """What a message says, byte for byte."""
    if isinstance(message, tuple):
        for part in message:
            yield from flat(part)
    elif isinstance(message, np.ndarray):
        yield message.tobytes()
    elif isinstance(message, Plan):
        yield repr((message.code.n, message.code.m, message.punctured, message.revealed)).encode()
    else:
        yield repr(message).encode()


def public(run: Run) -> tuple[Any, ...]:
    """What Alice sees beside the messages: counts, error rate, how the run ends for her, and both keys."""
    result = run.result
    keys = None if run.keys is None else [key.tobytes() for key in run.keys.alice]
    return result.detected, result.test_bits, result.qber, result.frames_total, result.leaked, keys


# --- the baseline -----------------------------------------------------------------------------------------------------


@EVERY_ALICE
def test_bob_says_the_same_whatever_he_chose(play: Play, alice: MakeAlice, capsys: pytest.CaptureFixture[str]) -> None:
    """Byte for byte, to the end of the run; nothing is logged either, and he has a key of the right length."""
    zero, one = (play(BASELINE, alice=alice, choice=c, N=40_000, **NOISE) for c in (0, 1))
    assert [type(message) for message in zero.said("bob")] == [Report]
    assert [kind(m) for m in zero.messages] == [kind(m) for m in one.messages]
    assert [list(flat(m)) for m in zero.messages] == [list(flat(m)) for m in one.messages]
    assert public(zero) == public(one)
    for run in (zero, one):
        assert (run.keys is None) == (not run.said("alice", Hashes))
        assert run.keys is None or run.keys.bob.size == run.key_length > 0
    logged = capsys.readouterr()
    assert logged.out + logged.err == ""


def kind(message: tuple[str, Any]) -> tuple[str, type]:
    return message[0], type(message[1])


@pytest.mark.parametrize("name", [name for name in ALICES if name != "announces too many"])  # a run that ends there
def test_bob_names_sets_and_falls_silent(play: Play, name: str) -> None:
    """Where the partition is his, the sets are all that he says more, and public numbers are the same."""
    zero, one = (play(BOB_NAMES, alice=ALICES[name], choice=c, N=40_000, **NOISE) for c in (0, 1))
    for run in (zero, one):
        assert [type(message) for message in run.said("bob")] == [Report, IndexSets]
        assert run.keys is None or run.keys.bob.size == run.key_length > 0
    assert [kind(m) for m in zero.messages] == [kind(m) for m in one.messages]
    assert public(zero)[:5] == public(one)[:5]
    np.testing.assert_array_equal(zero.said("bob", IndexSets)[0], one.said("bob", IndexSets)[0][::-1])


@BOTH_PARTITIONS
@pytest.mark.parametrize("name", [name for name in ALICES if "string 0" in name and "private" not in name])
def test_what_is_spoilt_shows_in_bobs_key_alone(play: Play, case: Case, name: str) -> None:
    """The lies of `test_bob_says_the_same_whatever_he_chose` do hit: Bob ends with random bits, and only he knows."""
    spoilt, spared = (play(case, alice=ALICES[name], choice=c, N=20_000) for c in (0, 1))
    assert not spoilt.keys.knows and spared.keys.knows
    assert np.array_equal(spared.keys.bob, spared.keys.alice[1])
    assert abs(np.mean(spoilt.keys.bob == spoilt.keys.alice[0]) - 0.5) < 2 / np.sqrt(spoilt.key_length)


def test_flipped_opened_bits_change_what_alice_computes_alike(play: Play) -> None:
    """Her 5 % of the opened Z bits raise the error rate and the leak, by the same amount for both choices."""
    honest = play(BASELINE, choice=0)
    lied = [play(BASELINE, alice=FlipsOpenedBits, choice=c) for c in (0, 1)]
    assert lied[0].result.qber == lied[1].result.qber > honest.result.qber + 0.015
    assert lied[0].result.leaked == lied[1].result.leaked > honest.result.leaked


class UnequalDetectors(Bob):
    """His devices miss one click in twenty-five more in X than in Z: no honest Bob is to have such."""

    def report(self, segment: Segment, start: int) -> Report:
        missed = (segment.bob_basis == 1) & (np.random.default_rng(start).random(segment.bob_basis.size) < 0.04)
        return Report(segment.bob_basis, np.where(missed, np.int8(NO_CLICK), segment.bob_click))


def chi_square(play: Play, case: Case, alice: MakeAlice, bob: Callable[..., Bob] = Bob) -> float:
    """Probability of so different counts for C = 0 and C = 1, of all that Alice sees of a round with what she sent."""
    counts = []
    for choice in (0, 1):
        table = np.zeros(2 * 2 * 2 * 4 * 4 * 4, np.int64)
        for index in range(40):
            run = play(case, alice=alice, bob=bob, choice=choice, index=2 * index + choice, N=5_000, **NOISE)
            basis, bit = run.alice.sent
            is_slot = BobBases(None, run.bob.agreement.slots).is_slot(0, basis.size)
            (report,) = run.said("bob", Report)
            named = np.zeros(basis.size, np.int64)
            for sets in run.said("bob", IndexSets):
                rounds = np.flatnonzero(~is_slot & (report.click != NO_CLICK))
                named[rounds[sets.zero]], named[rounds[sets.one]] = 1, 2
            seen = np.ravel_multi_index(
                (basis, bit, is_slot.astype(int), report.basis + 1, report.click + 1, named), (2, 2, 2, 4, 4, 4)
            )
            table += np.bincount(seen, minlength=table.size)
        counts.append(table)
    both = np.array(counts)
    return float(chi2_contingency(both[:, both.sum(axis=0) > 0]).pvalue)


@BOTH_PARTITIONS
@pytest.mark.parametrize("alice", [WatchfulAlice, SendsBetween, SendsOnlyZ, CorruptsOneBasis])
def test_reports_and_sets_are_distributed_alike(play: Play, case: Case, alice: MakeAlice) -> None:
    assert chi_square(play, case, alice) > 1e-3


def test_unequal_detectors_show_the_choice(play: Play) -> None:
    """Why the statement on the receiver has a condition."""
    assert chi_square(play, BASELINE, WatchfulAlice, UnequalDetectors) < 1e-6
    assert "no-click operator is the same in both bases" in CLAIMS["individual"].receiver


# --- the baseline, exhaustively on small sizes ------------------------------------------------------------------------


class State(NamedTuple):
    """What Alice sends: probability of a click, and of a one in each basis, given a click."""

    click: Fraction
    one: tuple[Fraction, Fraction]


HALF = Fraction(1, 2)
STATES = (
    State(HALF, (Fraction(0), HALF)),
    State(HALF, (HALF, Fraction(1))),
    State(HALF, (Fraction(1, 10), Fraction(1, 5))),
    State(Fraction(1, 10), (HALF, HALF)),
    State(Fraction(7, 8), (Fraction(1), HALF)),
)
"""|0>, |->, one between Z and X, the vacuum, and many photons at once."""
SLOT_FIRST = Agreement("alice", 1)
"""Of a few rounds the first one is a calibration slot."""


def readings(choice: int, rounds: int) -> dict[tuple[tuple[int, int], ...], bytes]:
    """What Alice reads of Bob's report: by basis and click in every round, over his coins."""
    bob = Bob(SLOT_FIRST, choice)
    rule = bob.measure()
    read = {}
    for coins in itertools.product((0, 1), repeat=rounds):
        basis = rule.choose(0, np.array(coins, np.int8))
        for click in itertools.product((0, 1, NO_CLICK), repeat=rounds):
            segment = Segment(basis, basis, basis, np.array(click, np.int8))
            report = bob.report(segment, 0).read(rule.is_slot(0, rounds))
            read[tuple(zip(basis.tolist(), click, strict=True))] = b"".join(flat(report))
    return read


def distribution(read: dict[tuple[tuple[int, int], ...], bytes], states: tuple[State, ...]) -> dict[bytes, Fraction]:
    """Of what Alice reads, where she sends these states and every basis that Bob may use is as probable."""
    seen: dict[bytes, Fraction] = collections.defaultdict(Fraction)
    bases = len({tuple(basis for basis, _ in rounds) for rounds in read})
    for rounds, reading in read.items():
        seen[reading] += math.prod(map(probability, states, rounds)) / bases
    return {reading: p for reading, p in seen.items() if p}


def probability(state: State, seen: tuple[int, int]) -> Fraction:
    """Of this click, or none, in this basis."""
    basis, click = seen
    if click == NO_CLICK:
        return 1 - state.click
    return state.click * (state.one[basis] if click else 1 - state.one[basis])


def test_reports_of_few_rounds_are_distributed_alike_for_all_states() -> None:
    """Every product of three states that she may send, every coin and every outcome."""
    zero, one = readings(0, 3), readings(1, 3)
    for states in itertools.product(STATES, repeat=3):
        seen = distribution(zero, states)
        assert seen == distribution(one, states) and sum(seen.values()) == 1


def test_dropping_double_clicks_shows_the_basis() -> None:
    """|HH> at an efficiency of one half: reports in three rounds of four, of which Z and X would drop unlike parts."""
    for basis, with_doubles, without in ((0, Fraction(3, 4), Fraction(3, 4)), (1, Fraction(3, 4), Fraction(5, 8))):
        clicks: dict[int, Fraction] = collections.defaultdict(Fraction)
        for arrives in itertools.product((True, False), repeat=2):
            for coins in itertools.product((0, 1), repeat=2):
                detectors = {coin if basis == 1 else 0 for coin, here in zip(coins, arrives, strict=True) if here}
                clicks[len(detectors)] += Fraction(1, 16)
        assert clicks[1] + clicks[2] == with_doubles
        assert clicks[1] == without


TINY = Plan(
    Code(3, np.array([0, 2, 4], np.int32), np.array([0, 1, 1, 2], np.int32), np.array([0], np.int32), 1), 0.1, 1
)
"""Frames of two bits, one private bit of Alice's, two rows."""


def corrections() -> Iterator[Correction]:
    """All syndromes of a frame, with tags that fit and tags that do not, and messages of the wrong form."""
    frames = [np.array([bits], np.uint8) for bits in itertools.product((0, 1), repeat=2)]
    none = np.zeros(0, np.int64), (np.zeros((0, 1), np.uint16),), np.zeros((1, 0), np.uint8)
    said = [Syndromes(syndrome, tags(frame, 5), *none) for syndrome in frames for frame in frames]
    wrong = [said[0]._replace(syndromes=np.zeros((1, 3), np.uint8)), said[0]._replace(tags=np.zeros(0, np.int64))]
    for strings in itertools.product([*said, *wrong], repeat=2):
        yield Correction(TINY, 5, strings)


def test_bob_never_answers_a_correction() -> None:
    """All bits of his, all bases of hers, all corrections of a tiny code: silence, and a key of the length she says."""
    hashes = Hashes(1, (np.array([1, 0], np.uint8), np.array([1, 1, 1], np.uint8)))
    rng = np.random.default_rng(0)
    outcomes = collections.Counter()
    for correction in corrections():
        for choice, bits in itertools.product((0, 1), itertools.product((0, 1), repeat=2)):
            bob = Bob(SLOT_FIRST, choice)
            bob.hold(np.array(bits * 2, np.uint8), np.full(4, choice, np.uint8))
            bob.follow(Bases(np.array([0, 1, 0, 1], np.uint8)), Permutation(3))
            assert bob.correct(correction) is None
            bob.hash(hashes, rng)
            assert bob.key.shape == (1,)
            outcomes[choice, bob.knows] += 1
    assert len(outcomes) == 3, "the seed of string 0 does not fit, so there he never knows"


@pytest.mark.parametrize("rounds", range(1, 7))
def test_sets_of_few_rounds_are_distributed_alike(rounds: int) -> None:
    """Whatever bases Alice announces, over all bases of Bob's."""
    for announced in itertools.product((0, 1), repeat=rounds):
        seen = []
        for choice in (0, 1):
            named = collections.Counter()
            for bases in itertools.product((0, 1), repeat=rounds):
                bob = Bob(Agreement("bob", 0), choice)
                bob.hold(np.zeros(rounds, np.uint8), np.array(bases, np.uint8))
                sets = bob.name_sets(Bases(np.array(announced, np.uint8)))
                named[tuple(sets.zero), tuple(sets.one)] += 1
            seen.append(named)
        assert seen[0] == seen[1]


# --- blind ------------------------------------------------------------------------------------------------------------


def test_blind_shows_the_choice_by_a_frame_that_fails(play: Play) -> None:
    """One syndrome of string 0 is wrong: the frame that Bob drops, or does not, is C. The statement says so."""
    alice = partial(SpoilsString, string=0, spoil=one_syndrome)
    for index in range(10):
        run = play(BLIND, alice=alice, index=index, N=9_000)
        (requests,) = run.said("bob", Requests)
        assert (0 if not requests.kept[0] else 1) == run.bob.choice


def asked(play: Play, alice: MakeAlice, choice: int) -> NDArray[np.uint8]:
    """How often Bob asks for more, frame by frame over some runs."""
    runs = [play(BLIND, alice=alice, choice=choice, index=2 * j + choice, F=0.98) for j in range(4)]
    return np.concatenate([run.said("bob", Requests)[0].stage for run in runs])


def test_blind_shows_the_choice_by_what_bob_asks_for(play: Play) -> None:
    """Her X states are noisier than her Z states: Bob asks for more where he decodes string 1."""
    zero, one = (asked(play, CorruptsOneBasis, choice) for choice in (0, 1))
    assert one.mean() > zero.mean() + 0.5


def test_blind_hides_the_choice_from_a_curious_alice_at_equal_error_rates(play: Play) -> None:
    zero, one = (np.bincount(asked(play, WatchfulAlice, choice), minlength=4) for choice in (0, 1))
    both = np.array([zero, one])
    assert chi2_contingency(both[:, both.sum(axis=0) > 0]).pvalue > 1e-3


def test_the_registry_says_what_blind_shows() -> None:
    for claim in CLAIMS.values():
        if any(claim.refusal(partition) is None for partition in ("alice", "bob")):
            assert "blind" in claim.receiver and "honest-but-curious Alice" in claim.receiver
