"""Runs of the protocol in which one party is dishonest, and what is left of the secrets after them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
from caligo_simulator.harness import ProtocolHarness, Setup
from caligo_simulator.protocol.messages import Correction, Message, Requests
from caligo_simulator.protocol.outer_code import SYMBOL_BITS
from caligo_simulator.protocol.parties import Agreement, Alice, Bob, Keys, Parties
from caligo_simulator.protocol.reconciliation.plans import CHECK_BITS
from caligo_simulator.protocol.verification import TAG_BITS
from caligo_simulator.simulation import Simulator

from caligo.physics.claims import CLAIMS, Partition
from caligo.physics.detection import click_probability
from caligo.results import ProtocolResult
from caligo.space import ExplorationSample, Strategy
from tests.simulator.conftest import make_setup, namespace, segments_of, simulator

from .bobs import NO_MEMORY, MeasuresAtOnce, Memory

__all__ = ["make_setup", "namespace", "segments_of", "simulator"]

EPS = 1e-10
"""Each error term of a claim, unless a test asks for another."""

MEMORIES = {
    "individual": Memory(0.3, 0.75, is_flagged=True),
    "lupo2023": Memory(0.3, 0.75, is_flagged=True),
    "stw09": Memory(0.3, 0.9, is_flagged=False),
    "erven2014": Memory(0.05, 0.9, is_flagged=False),
}
"""For each claim the memory that it allows Bob in these tests."""


@dataclass(frozen=True)
class Case:
    """What a campaign may claim, and how its strings are reconciled."""

    claim: str
    partition: Partition
    strategy: Strategy

    def __str__(self) -> str:
        return f"{self.claim}-{self.partition}-{self.strategy.name.lower()}"

    @property
    def memory(self) -> Memory:
        return MEMORIES[self.claim]

    @property
    def rounds(self) -> int:
        """Rounds of a run that leaves a key, a few frames long."""
        return 75_000 if self.claim == "erven2014" else 40_000


CASES = [
    Case(name, partition, strategy)
    for (name, claim), partition, strategy in itertools.product(CLAIMS.items(), ("alice", "bob"), Strategy)
    if claim.refusal(partition) is None
]
"""All that the registry allows a campaign to claim."""


@dataclass
class Run:
    """A run and those who took part."""

    parties: list[Any] = field(default_factory=list)
    messages: list[tuple[str, Message]] = field(default_factory=list)
    keys: Keys | None = None
    result: ProtocolResult | None = None

    @property
    def alice(self) -> Alice:
        return self.parties[0]

    @property
    def bob(self) -> Any:
        return self.parties[1]

    def said(self, sender: str, kind: type | None = None) -> list[Any]:
        """The messages of one party."""
        return [m for who, m in self.messages if who == sender and (kind is None or isinstance(m, kind))]

    @property
    def key_length(self) -> int:
        """Bits of each of the two keys that Alice has in the end."""
        return 0 if self.keys is None else self.keys.alice[0].size

    def kept(self) -> list[np.ndarray]:
        """The rounds of both strings that are hashed, [frames, payload] each."""
        (correction,) = self.said("alice", Correction)
        frames, payload = len(correction.strings[0].syndromes), correction.plan.payload
        requests = self.said("bob", Requests)
        of = requests[0].kept if requests else np.ones(frames, np.bool_)
        return [index[: frames * payload].reshape(frames, payload)[of] for index in self.alice.sets]

    def hidden(self) -> list[float]:
        """Bits of each string that Bob does not know before anything is said about it."""
        return [self.bob.known.of(rounds.ravel()).missing(self.alice.bits[rounds.ravel()]) for rounds in self.kept()]

    def leak(self) -> int:
        """Bits said about a string: all tags, checks and parities, and of what is kept the syndromes without what
        private bits cover."""
        (correction,) = self.said("alice", Correction)
        plan, said = correction.plan, correction.strings[0]
        tags = said.tags.size * TAG_BITS + said.checks.size * CHECK_BITS
        tags += sum(parities.size * SYMBOL_BITS for parities in said.parities)
        revealed = np.zeros(self.kept()[0].shape[0], np.int64)
        for requests in self.said("bob", Requests):
            revealed = np.array(plan.revealed)[requests.stage[requests.kept]]
        return tags + int((plan.code.m - plan.punctured + revealed).sum())

    def room(self, eps: float = EPS) -> float:
        """Bits by which the better hidden string could be longer.

        Hashing k unknown bits to a key that is uniform but for eps costs 2 log2(1/eps), whatever the claim charges.
        """
        return max(self.hidden()) - self.leak() - 2.0 * math.log2(1.0 / eps) - self.key_length


@dataclass
class Play:
    """Carries out the protocol with somebody dishonest, on perfect links unless asked for otherwise."""

    simulator: Simulator
    make_setup: Callable[..., Setup]

    def __call__(
        self,
        case: Case,
        *,
        alice: Callable[[Agreement], Alice] = Alice,
        bob: Callable[..., Bob] = Bob,
        choice: int | None = None,
        memory: Memory = NO_MEMORY,
        epsilon: float = EPS,
        **changes: Any,
    ) -> Run:
        """A run. choice: C, if not drawn; memory: what Bob has and the claim allows; changes: values of the sample."""
        values = {"index": 0, "dt_ns": 1e9, "F": 1.0, "eta": 1.0, "e_det": 0.0, "P_dark": 1e-9, "N": case.rounds}
        held = {"r": memory.r, "nu": memory.share, "strategy": case.strategy}
        sample = ExplorationSample(**{**values, **held, **changes})
        if isinstance(bob, type) and issubclass(bob, MeasuresAtOnce):
            detections = round(sample.N * click_probability(sample.eta, sample.P_dark))
            bob = partial(bob, rng=np.random.default_rng(sample.index), detections=detections, memory=memory)
        run = Run()

        def seat(person: Callable[..., Any], *arguments: Any) -> Any:
            run.parties.append(person(*arguments))
            return run.parties[-1]

        parties = Parties(
            alice=partial(seat, alice),
            bob=lambda agreement, drawn: seat(bob, agreement, drawn if choice is None else choice),
        )
        run.result = ProtocolHarness(self.simulator.orchestrator, parties).run(
            sample,
            self.make_setup(physics={"claim": case.claim, "epsilon": epsilon}, protocol={"partition": case.partition}),
            on_keys=lambda keys: setattr(run, "keys", keys),
            on_message=lambda sender, message: run.messages.append((sender, message)),
        )
        return run


@pytest.fixture
def play(simulator: Simulator, make_setup: Callable[..., Setup]) -> Play:
    return Play(simulator, make_setup)
