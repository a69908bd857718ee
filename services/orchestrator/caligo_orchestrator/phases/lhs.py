"""Phase 1: Latin hypercube rows until the wanted number of feasible ones is there."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from caligo import screening, seeds
from caligo.errors import FailedPrecondition
from caligo.phases import Phase
from caligo.results import ProtocolOutcome
from caligo.screening import Verdict
from caligo.seeds import Purpose
from caligo.spec import CampaignSpec
from caligo_orchestrator.model.remote import DesignRows, Sampler
from caligo_orchestrator.pipeline import AUDIT, SIMULATE, Pipeline

_PROBE_ROWS: Final = 4096
_MAX_ROWS_A_SAMPLE: Final = 1000
"""A space with a smaller feasible share than one in this many is not worth a warm-up."""
MIN_SIMULATED: Final = 16
"""Rows that are simulated in any case: a campaign says nothing that no simulation has borne out."""


@dataclasses.dataclass(frozen=True)
class Design:
    """One Latin hypercube of `size` rows of which the first `used` belong to the campaign."""

    seed: int
    size: int
    used: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """The designs of a warm-up, one after the other; row indices count through all of them.

    Attributes:
        spared: of the rows that the guardrail would skip, so many, the first ones, are simulated all the same.
    """

    designs: tuple[Design, ...]
    spared: int = 0

    @property
    def rows(self) -> int:
        return sum(design.used for design in self.designs)

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Plan:
        content = json.loads(text)
        if isinstance(content, list):  # release 0.1 kept the designs alone
            content = {"designs": content}
        return cls(**{**content, "designs": tuple(Design(**design) for design in content["designs"])})


def plan(spec: CampaignSpec, sampler: Sampler) -> Plan:
    """Size the designs so that together they hold `spec.lhs.samples` feasible rows.

    A probe of the space gives the feasible share and with it the size of the first design, so that a single
    hypercube covers the space in nearly all cases; what is missing then comes from further small ones. Rows that the
    guardrail skips count as well; where it would leave fewer than `MIN_SIMULATED`, some are spared. The plan is a
    function of the spec, and of the table that ships with the guardrail, alone.

    Raises:
        FailedPrecondition: the closed form leaves next to nothing of the space.
    """
    wanted = spec.lhs.samples
    probe = _design_seed(spec, 0)
    feasible = sum(int(chunk.feasible.sum()) for chunk in sampler.design(spec, probe, _PROBE_ROWS, 0, _PROBE_ROWS))
    if feasible * _MAX_ROWS_A_SAMPLE < _PROBE_ROWS:
        raise FailedPrecondition(
            f"space: {feasible} of {_PROBE_ROWS} probed rows are feasible; choose bounds with some hope of a key"
        )
    designs: list[Design] = []
    found = 0
    while found < wanted:
        size = math.ceil((wanted - found) * _PROBE_ROWS / feasible)
        seed = _design_seed(spec, len(designs) + 1)
        used = 0
        for chunk in sampler.design(spec, seed, size, 0, size):
            last = int(np.searchsorted(np.cumsum(chunk.feasible), wanted - found))
            if last < len(chunk.index):
                used += last + 1
                found = wanted
                break
            found += int(chunk.feasible.sum())
            used += len(chunk.index)
        designs.append(Design(seed, size, used))
    return _spare(Plan(tuple(designs)), spec, sampler)


def _spare(planned: Plan, spec: CampaignSpec, sampler: Sampler) -> Plan:
    """The plan, with as many rows spared as `MIN_SIMULATED` takes."""
    simulated = 0
    for _, verdict in _rows(spec, planned, sampler, evaluated=False):
        simulated += int(np.isin(verdict, (SIMULATE, AUDIT)).sum())
        if simulated >= MIN_SIMULATED:
            return planned
    return dataclasses.replace(planned, spared=MIN_SIMULATED - simulated)


def _design_seed(spec: CampaignSpec, number: int) -> int:
    return seeds.key(spec.seed, Phase.LHS, number, Purpose.DESIGN)


def run(spec: CampaignSpec, plan: Plan, done: NDArray[np.int64], sampler: Sampler, pipeline: Pipeline) -> None:
    """Evaluate the rows of the plan that are not among `done`, int64 indices; all are durable when this returns."""
    for chunk, verdict in _rows(spec, plan, sampler):
        missing = ~np.isin(chunk.index, done)
        for _ in pipeline.submit(chunk.index[missing], chunk.inputs[missing], verdict[missing]):
            pass  # durable, and nobody here waits for it
    for _ in pipeline.drain():
        pass


def _rows(
    spec: CampaignSpec, plan: Plan, sampler: Sampler, evaluated: bool = True
) -> Iterator[tuple[DesignRows, NDArray[np.uint8]]]:
    """The rows of a plan with the pipeline's verdict on each, uint8 [n]: a function of the row and of the plan."""
    screen = screening.screen(spec.guardrail, spec.physics, spec.protocol)
    offset = spared = 0
    for design in plan.designs:
        first_row = offset if evaluated else None
        for chunk in sampler.design(spec, design.seed, design.size, 0, design.used, first_row):
            chunk = dataclasses.replace(chunk, index=chunk.index + offset)
            verdict = np.where(chunk.feasible, SIMULATE, ProtocolOutcome.SKIPPED_INFEASIBLE).astype(np.uint8)
            if screen.is_active:
                log_odds = screening.failure_log_odds(chunk.inputs, spec.physics, spec.protocol)
                doomed = chunk.feasible & screen.dooms(log_odds, chunk.inputs)
                screened = screening.verdicts(doomed, spec.guardrail, spec.seed, Phase.LHS, chunk.index)
                would_skip = np.flatnonzero(screened == Verdict.SKIP)
                skip = would_skip[max(0, plan.spared - spared) :]
                spared += len(would_skip) - len(skip)
                verdict[doomed] = AUDIT
                verdict[skip] = ProtocolOutcome.SKIPPED_PREDICTED_FAILURE
            yield chunk, verdict
        offset += design.used
